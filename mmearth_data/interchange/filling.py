"""Fill a store shard by shard in an import, a subset or a merge: start or resume it, under its lock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.recipe import differences
from mmearth_data.store.encoding import to_json
from mmearth_data.store.lock import StoreTaken
from mmearth_data.store.manifest import read_manifest
from mmearth_data.store.objects import objects_at
from mmearth_data.store.root import read_root
from mmearth_data.store.schema import ROOT_KEY
from mmearth_data.store.writer import begin_held, resume_held, tell_resumed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmearth_data.store.objects import StoreUrl
    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.writer import StoreWriter


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStore:
    """Description of a new store, before any of it is written.

    Attributes
    ----------
    layout
        Rows, shards and arrays.
    recipe, source
        Options and identity of its inputs; a store with others is not resumed.
    synthetic
        Whether the pixels are synthetic.
    """

    layout: StoreLayout
    recipe: Mapping[str, Any]
    source: Mapping[str, Any]
    synthetic: bool


def fill_store(
    out: str | Path | StoreUrl,
    new: NewStore,
    fill: Callable[[StoreWriter, int], None],
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Fill every pending shard and seal the store; a finished one of the same recipe is left alone.

    Parameters
    ----------
    out
        Folder or URL; new, or an unfinished store of the same recipe and source.
    new
        Description of the store.
    fill
        Writes one shard.
    report
        Called with the number of finished rows and of all rows.
    note
        Called with remarks for the user.

    Raises
    ------
    InputError
        If the folder has something else, another process fills it, or an input cannot be used; a store without a
        committed shard is removed.
    """
    objects = objects_at(out)
    begun = objects.size(ROOT_KEY) is None
    if begun:
        facts: dict[str, Any] = {"recipe": new.recipe, "source": new.source, "synthetic": new.synthetic}
        holding = begin_held(out, new.layout, **facts)
    else:
        _check_same(out, new)
        if read_manifest(objects) is not None:
            return
        holding = resume_held(out)
    with holding as (writer, held):
        if held.left is not None:
            note(held.left)
        if not begun:
            tell_resumed(writer, note)

        def reported(done: int, total: int) -> None:
            held.confirm()
            report(done, total)

        try:
            _fill_pending(writer, fill, reported)
        except StoreTaken:
            raise
        except InputError:
            if begun and not writer.committed():
                objects.remove()
            raise
        writer.finish()


def _fill_pending(
    writer: StoreWriter, fill: Callable[[StoreWriter, int], None], report: Callable[[int, int], None]
) -> None:
    layout = writer.layout
    committed = writer.committed()
    done = sum(len(layout.rows(shard)) for shard in committed)
    report(done, layout.tiles)
    for shard in range(layout.shards):
        if shard not in committed:
            fill(writer, shard)
            done += len(layout.rows(shard))
            report(done, layout.tiles)


def _check_same(out: str | Path | StoreUrl, new: NewStore) -> None:
    """Refuse a store that was started from other inputs."""
    stored = read_root(objects_at(out)).attributes
    wanted = {"recipe": new.recipe, "source": {**new.source, "synthetic": new.synthetic}}
    wanted["layout"] = new.layout.to_dict()
    wanted = json.loads(to_json(wanted))
    lines = differences({name: stored[name] for name in wanted}, wanted)
    if lines:
        raise InputError(
            f"{out}: expected a new folder, or a store started by the same command, got one made otherwise "
            f"(stored -> given): {'; '.join(lines)[:1000]}. Choose another --out."
        )
