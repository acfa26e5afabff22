"""Create or resume a store under its lock: what build, append, import, subset, merge and repair share.

The steps are: find what is at the path; refuse a store that was started from different inputs; create or resume the
store under its lock; fill the missing shards; seal it. `fill_store` does all of them; a build plans in between.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

from mmearth_data.errors import InputError
from mmearth_data.files.writing import check_output, write_errors
from mmearth_data.recipes import differences
from mmearth_data.store.encoding import to_json
from mmearth_data.store.reader import Store, open_store
from mmearth_data.store.schema import ROOT_KEY
from mmearth_data.store.storage import storage_at
from mmearth_data.store.storage.lock import StoreTaken
from mmearth_data.store.writer import StoreWriter, refuse_others, remove_quietly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.storage.lock import Held
    from mmearth_data.store.storage.protocol import StoreUrl

P = ParamSpec("P")
SHOWN_DIFFERENCES = 1000
"""Maximum length of a message that lists differences."""


def ignore(*args: object) -> None:
    """Ignore a message, or progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStore:
    """Description of a store to be created.

    Attributes
    ----------
    layout
        Rows, shards and arrays.
    recipe, source
        What the store is made from; a store that was started from something else is not resumed.
    synthetic
        True if the pixels are not measurements.
    """

    layout: StoreLayout
    recipe: Mapping[str, Any]
    source: Mapping[str, Any]
    synthetic: bool

    @property
    def identity(self) -> dict[str, Any]:
        """Root attributes that an interrupted store of the same kind has."""
        return {
            "recipe": self.recipe,
            "source": {**self.source, "synthetic": self.synthetic},
            "layout": self.layout.to_dict(),
        }


def find_store(out: str | Path | StoreUrl) -> Store | None:
    """Open the store at a path; None if the path is free and a store can be written there.

    Raises
    ------
    InputError
        When there is something other than a store.
    WriteFailed
        When nothing can be written there.
    """
    storage = storage_at(out)
    if storage.size(ROOT_KEY) is not None:
        return open_store(out)
    check_output(out, folder=True)
    refuse_others(storage)
    return None


def refuse_other(path: str | Path | StoreUrl, attributes: Mapping[str, Any], **wanted: Mapping[str, Any]) -> None:
    """Refuse to resume a store whose root attributes ``recipe``, ``source``, ``layout`` are not the wanted ones.

    Raises
    ------
    InputError
        With the differences.
    """
    stored = {name: attributes[name] for name in wanted}
    lines = differences(stored, json.loads(to_json(wanted)))
    if lines:
        raise InputError(
            f"{path}: expected the {' and '.join(wanted)} that this store was begun with, got something else "
            f"(stored -> given): {'; '.join(lines)[:SHOWN_DIFFERENCES]}. Use the stored values, or another --out."
        )


class Session:
    """One command's work on one store; use `session` to open it."""

    def __init__(self, out: str | Path | StoreUrl, note: Callable[[str], None], locks: ExitStack) -> None:
        self._out = out
        self._note = note
        self._locks = locks
        self._held: Held | None = None
        self._begun: StoreWriter | None = None
        self._made = False
        """Whether this command made the folder of the store."""

    def hold(self) -> None:
        """Lock the store for this command, and reopen it, because another command may have changed it.

        Raises
        ------
        StoreTaken
            When another command holds it.
        """
        self._held = self._locks.enter_context(storage_at(self._out).hold())
        if self._held.left is not None:
            self._note(self._held.left)

    @property
    def held(self) -> bool:
        """Whether the store is locked for this command."""
        return self._held is not None

    def begin(self, new: NewStore) -> StoreWriter:
        """Lock and create a new store; raises like `hold` and `StoreWriter.create`."""
        objects = storage_at(self._out)
        self._made = not objects.is_there()
        self.hold()
        try:
            self._begun = StoreWriter.create(
                self._out, new.layout, recipe=new.recipe, source=new.source, synthetic=new.synthetic
            )
        except OSError:
            if self._made:
                objects.unmake()
            raise
        return self._begun

    def resume(self) -> StoreWriter:
        """Return a writer that resumes the locked store, and note how much is done."""
        writer = StoreWriter.resume(self._out)
        self._note(f"Resuming {writer.path}: {len(writer.committed())} of {writer.layout.shards} shards are done.")
        return writer

    def confirmed(self, report: Callable[P, None]) -> Callable[P, None]:
        """Wrap a progress report: it raises `StoreTaken` if another command has taken the store over."""

        def reported(*args: P.args, **kwargs: P.kwargs) -> None:
            if self._held is not None:
                self._held.confirm()
            report(*args, **kwargs)

        return reported

    def take_back(self) -> None:
        """Remove the store that this session created, unless a shard was committed; its folder only if made here."""
        if self._begun is not None and not self._begun.committed():
            remove_quietly(storage_at(self._out), folder=self._made)


@contextmanager
def session(out: str | Path | StoreUrl, note: Callable[[str], None] = ignore) -> Iterator[Session]:
    """Work on one store, which is released at the end; failures to write become one-line errors.

    If an input cannot be used, a store that was created here is removed, unless something was committed.
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
        Its description.
    fill
        Writes one shard.
    report
        Called with the number of rows done and the total number of rows.
    note
        Called with messages for the user.

    Raises
    ------
    InputError
        When there is something else at ``out``, another command holds it, or an input cannot be used; see `session`.
    """
    with session(out, note) as work:
        existing = find_store(out)
        if existing is None:
            writer = work.begin(new)
        else:
            refuse_other(existing.path, existing.attributes, **new.identity)
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
