"""Append rows to the last shard of a store if it is not full.

Every object has one key in Zarr, so the longer object replaces the shorter one before the new commit record can replace
the old one. This is safe: the longer object begins with the inner chunks of the shorter one, so the older rows are read
correctly with either index, and cutting it to these rows restores the shorter object, whose digest is in the old
record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.errors import StoreDamaged
from mmearth_data.store.commits import Commit, commit_key, place_rows, read_commit
from mmearth_data.store.encoding import cut_shard, decode_rows, object_key
from mmearth_data.store.manifest import entry_of
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.store.root import Root
    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.storage.protocol import Storage

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldRows:
    """The first rows of a shard, as they were committed.

    Attributes
    ----------
    commit, rows
        Their commit record, and their number, including rows without a tile.
    objects
        Raster modality -> object that begins with them.
    arrays
        Every 1-D array and raster modality -> their values.
    """

    commit: Commit
    rows: int
    objects: Mapping[str, bytes]
    arrays: Arrays

    def joined(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Append the values of more rows."""
        return {name: np.concatenate([self.arrays[name], values]) for name, values in arrays.items()}

    def followed_by(self, commit: Commit) -> Commit:
        """Combine the record of these rows with another record of the same shard."""
        mine = self.commit
        return replace(
            commit,
            rows=np.concatenate([mine.rows, commit.rows]),
            columns={name: np.concatenate([mine.columns[name], part]) for name, part in commit.columns.items()},
            facts=[*mine.facts, *commit.facts],
            rejected=[*mine.rejected, *commit.rejected],
            encoders=tuple(dict.fromkeys([*mine.encoders, *commit.encoders])),
        )


def held_rows(objects: Storage, root: Root, shard: int, count: int) -> HeldRows:
    """Read the first ``count`` rows of a shard; its record must have exactly these.

    Raises
    ------
    StoreDamaged
        If its record or an object is missing or corrupt.
    """
    layout = root.layout
    commit = read_commit(objects, layout, shard)
    if root.held(shard, commit.arrays) != count:
        raise StoreDamaged(objects.root, commit_key(shard), "it was written for other arrays than the store has")
    rows = range(layout.rows(shard).start, layout.rows(shard).start + count)
    specs = {spec.name: spec for spec in layout.arrays}
    arrays = {spec.name: place_rows(spec, [commit], rows) for spec in layout.columns}
    found = {}
    for m in layout.rasters:
        key = object_key(specs[m.name], shard)
        try:
            found[m.name] = objects.get(key)
            problem = held_problem(found[m.name], layout, count, commit.objects[key])
            if problem is None:
                like = np.empty(specs[m.name].shape[1:], dtype=m.dtype)
                arrays[m.name] = decode_rows(found[m.name], layout.tiles_per_shard, count, like)
        except (FileNotFoundError, ValueError, RuntimeError) as error:
            raise StoreDamaged(
                objects.root, key, f"its first {count} rows cannot be read ({reason_of(error)})"
            ) from error
        if problem is not None:
            raise StoreDamaged(objects.root, key, problem)
    return HeldRows(commit=commit, rows=count, objects=found, arrays=arrays)


def held_problem(data: bytes, layout: StoreLayout, held: int, entry: Mapping[str, Any]) -> str | None:
    """Describe why an object does not begin with the ``held`` committed rows of an ``entry``; None if it does."""
    try:
        then = entry_of(cut_shard(data, layout.tiles_per_shard, held))
    except ValueError as error:
        return str(error)
    return None if then == dict(entry) else f"its first {held} rows are not those that were recorded"
