"""Make a store or continue one, whatever its rows come from: the one algorithm of build, append, import, subset and merge.

Its steps: find what is at the path, refuse it where it was begun from something else, create or resume it under its
lock, fill the shards that are missing, seal it. `fill_store` takes all of them; a build, which plans between them, takes
them one by one.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from mmearth_data.errors import InputError
from mmearth_data.files.writing import check_output, write_errors
from mmearth_data.recipes import differences
from mmearth_data.store.encoding import to_json
from mmearth_data.store.lock import StoreTaken, hold
from mmearth_data.store.objects import objects_at
from mmearth_data.store.reader import Store, open_store
from mmearth_data.store.root import new_root
from mmearth_data.store.schema import ROOT_KEY
from mmearth_data.store.writer import StoreWriter, refuse_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmearth_data.store.lock import Held
    from mmearth_data.store.objects import StoreUrl
    from mmearth_data.store.schema import StoreLayout

P = ParamSpec("P")
SHOWN_DIFFERENCES = 1000
"""Characters of a message that lists differences."""


def ignore(*args: object) -> None:
    """Ignore a message, or progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStore:
    """What a store will be, before any of it is written.

    Attributes
    ----------
    layout
        Rows, shards and arrays.
    recipe, source
        What it is made from; a store that was begun from something else is not resumed.
    synthetic
        Whether the pixels were never measured.
    """

    layout: StoreLayout
    recipe: Mapping[str, Any]
    source: Mapping[str, Any]
    synthetic: bool

    @property
    def facts(self) -> dict[str, Any]:
        """Keywords of `StoreWriter.create`."""
        return {"recipe": self.recipe, "source": self.source, "synthetic": self.synthetic}

    @property
    def identity(self) -> dict[str, Any]:
        """Root attributes that an interrupted store of the same kind has."""
        return {
            "recipe": self.recipe,
            "source": {**self.source, "synthetic": self.synthetic},
            "layout": self.layout.to_dict(),
        }


def find_store(out: str | Path | StoreUrl) -> Store | None:
    """Open the store at a path, None where there is nothing yet and a store can be written.

    Raises
    ------
    InputError
        When there is something else.
    WriteFailed
        When nothing can be written there.
    """
    objects = objects_at(out)
    if not isinstance(objects.root, Path):
        return None if objects.size(ROOT_KEY) is None else open_store(out)
    folder = objects.root
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the store, got a file; choose another --out.")
    if not folder.exists() or not any(folder.iterdir()):
        check_output(out, folder=True)
        return None
    if not (folder / ROOT_KEY).is_file():
        raise InputError(f"{folder}: expected a new or empty folder, or an MMEarth store, got a folder of other files.")
    return open_store(folder)


def refuse_other(store: Store, **wanted: Mapping[str, Any]) -> None:
    """Refuse to continue a store that was begun from something else.

    Parameters
    ----------
    store
        The store.
    **wanted
        Root attributes that it must have: ``recipe``, ``source``, ``layout``.

    Raises
    ------
    InputError
        With the differences.
    """
    stored = {name: store.attributes[name] for name in wanted}
    lines = differences(stored, json.loads(to_json(wanted)))
    if lines:
        raise InputError(
            f"{store.path}: expected the {' and '.join(wanted)} that this store was begun with, got something else "
            f"(stored -> given): {'; '.join(lines)[:SHOWN_DIFFERENCES]}. Use the stored values, or another --out."
        )


class Session:
    """One command at work on one store; use `session`.

    Parameters
    ----------
    out
        Folder or URL of the store.
    note
        Called with messages for the user.
    locks
        Releases what the session holds.
    """

    def __init__(self, out: str | Path | StoreUrl, note: Callable[[str], None], locks: ExitStack) -> None:
        self._out = out
        self._note = note
        self._locks = locks
        self._held: Held | None = None
        self._begun: StoreWriter | None = None

    def hold(self) -> Store:
        """Hold the store that is there, and read it again: another command may have changed it until now.

        Raises
        ------
        StoreTaken
            When another command holds it.
        """
        self._hold()
        return open_store(self._out)

    def begin(self, new: NewStore) -> StoreWriter:
        """Lay out a new store and hold it; raises like `StoreWriter.create` and `hold`.

        A folder is moved into place as a whole and can be held only then. Below a URL the lock comes first, so that of
        two builds only one writes; what is there already is refused before the lock is written beside it.
        """
        objects = objects_at(self._out)
        if not objects.far:
            writer = StoreWriter.create(self._out, new.layout, **new.facts)
            self._hold()
        else:
            if objects.size(ROOT_KEY) is None:
                refuse_others(objects, new_root(new.layout, **new.facts))
            self._hold()
            writer = StoreWriter.create(self._out, new.layout, **new.facts)
        self._begun = writer
        return writer

    def resume(self) -> StoreWriter:
        """Continue the store that this session holds, and say from where."""
        writer = StoreWriter.resume(self._out)
        self._note(f"Continuing {writer.path}: {len(writer.committed())} of {writer.layout.shards} shards are done.")
        return writer

    def confirmed(self, report: Callable[P, None]) -> Callable[P, None]:
        """Report progress only while the store is held: a command whose store was taken over stops."""

        def reported(*args: P.args, **kwargs: P.kwargs) -> None:
            if self._held is not None:
                self._held.confirm()
            report(*args, **kwargs)

        return reported

    def take_back(self) -> None:
        """Remove a store that this session has begun and in which nothing was committed."""
        if self._begun is not None and not self._begun.committed():
            objects_at(self._out).remove()

    def _hold(self) -> None:
        self._held = self._locks.enter_context(hold(self._out))
        if self._held.left is not None:
            self._note(self._held.left)


@contextmanager
def session(out: str | Path | StoreUrl, note: Callable[[str], None] = ignore) -> Iterator[Session]:
    """Work on one store: what is held is released at the end, and a failure to write gets its one line.

    Where an input cannot be used, a store that was begun here and holds nothing yet is removed.
    """
    with write_errors(out), ExitStack() as locks:
        work = Session(out, note, locks)
        try:
            yield work
        except StoreTaken:
            raise
        except InputError:
            work.take_back()
            raise


def fill_store(
    out: str | Path | StoreUrl,
    new: NewStore,
    fill: Callable[[StoreWriter, int], None],
    *,
    report: Callable[[int, int], None] = ignore,
    note: Callable[[str], None] = ignore,
) -> None:
    """Fill every pending shard and seal the store; a finished one of the same recipe is left alone.

    Parameters
    ----------
    out
        Folder or URL; new, or an unfinished store of the same recipe and source.
    new
        What it will be.
    fill
        Writes one shard.
    report
        Called with rows that are done and all of them.
    note
        Called with what is worth knowing.

    Raises
    ------
    InputError
        When there is something else at ``out``, another command is at work on it, or an input cannot be used; a store in
        which nothing was committed by then is removed.
    """
    with session(out, note) as work:
        existing = find_store(out)
        if existing is None:
            writer = work.begin(new)
        else:
            refuse_other(existing, **new.identity)
            if existing.finished:
                return
            work.hold()
            writer = work.resume()
        _fill_pending(writer, fill, work.confirmed(report))
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
