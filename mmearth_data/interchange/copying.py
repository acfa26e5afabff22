"""Make a store from rows of other stores: whole shards are copied byte for byte, the rest tile by tile."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M, format_tile_id, resized_tile_ids
from mmearth_data.store.commits import empty_columns, read_commit
from mmearth_data.store.schema import StoreLayout, default_tiles_per_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.commits import Commit
    from mmearth_data.store.reader import Store
    from mmearth_data.store.writer import StoreWriter

READERS = 4
"""Modalities that are decoded at the same time."""
CACHED_COMMITS = 64
"""Commit records kept in memory: the rows of one shard may come from many."""
CROP_OF, CROP_OFFSET = "crop_of", "crop_offset_px"


@dataclass(frozen=True)
class CopyPlan:
    """Which row of which store becomes which row of the new one.

    Attributes
    ----------
    stores
        Where the rows come from.
    layout
        Of the new store.
    store, row
        (tiles,) index of the store and row in it, for every row of the new store.
    """

    stores: tuple[Store, ...]
    layout: StoreLayout
    store: NDArray[np.intp]
    row: NDArray[np.intp]

    @cached_property
    def offset_px(self) -> int:
        """Pixels that a crop leaves out on each side."""
        return (self.stores[0].layout.size_px - self.layout.size_px) // 2

    def whole_shard(self, shard: int) -> tuple[int, int] | None:
        """Find the store, and the shard there, with exactly the rows of a new shard, in order; None if there is none."""
        rows = self.layout.rows(shard)
        store, first = int(self.store[rows.start]), int(self.row[rows.start])
        theirs = self.stores[store].layout
        if self.offset_px or theirs.tiles_per_shard != self.layout.tiles_per_shard or first % theirs.tiles_per_shard:
            return None
        there = theirs.rows(first // theirs.tiles_per_shard)
        part = slice(rows.start, rows.stop)
        same = (self.store[part] == store).all() and np.array_equal(self.row[part], there)
        return (store, first // theirs.tiles_per_shard) if same else None


def cover_recipe(stores: Sequence[Store], size_px: int) -> dict[str, Any]:
    """Fields that the recipe of a copy has if all stores are covers of one grid, with tiles cropped to ``size_px``."""
    (overlap, side), *others = {(store.overlap_px, store.layout.size_px) for store in stores}
    if others or overlap is None or side - size_px > overlap:
        return {}
    return {"cover": True, "overlap_px": overlap - (side - size_px)}


def plan_copy(
    stores: Sequence[Store],
    rows: Sequence[NDArray[np.intp]],
    modalities: Sequence[Modality],
    size_px: int,
) -> CopyPlan:
    """Order rows so that as many shards as possible can be copied whole; those come first.

    Parameters
    ----------
    stores
        Where the rows come from.
    rows
        For each store the rows to take, ascending; rows with tiles only.
    modalities
        Of the new store.
    size_px
        Pixels per side; fewer than in the stores takes the centre of each tile.
    """
    whole: list[tuple[int, NDArray[np.intp]]] = []
    rest: list[tuple[int, NDArray[np.intp]]] = []
    per_shard = 0
    for k, (store, wanted) in enumerate(zip(stores, rows, strict=True)):
        layout = store.layout
        usable = layout.size_px == size_px and per_shard in (0, layout.tiles_per_shard)
        shards = _whole_shards(store, wanted) if usable else []
        if shards:
            per_shard = layout.tiles_per_shard
        whole += [(k, np.array(layout.rows(shard), dtype=np.intp)) for shard in shards]
        rest.append((k, wanted[~np.isin(wanted // layout.tiles_per_shard, shards)]))
    parts = [*whole, *rest]
    row = np.concatenate([part for _, part in parts])
    return CopyPlan(
        stores=tuple(stores),
        layout=StoreLayout(
            modalities=tuple(modalities),
            tiles=max(1, len(row)),
            size_px=size_px,
            tiles_per_shard=per_shard or default_tiles_per_shard(max(1, len(row))),
        ),
        store=np.repeat([k for k, _ in parts], [len(part) for _, part in parts]).astype(np.intp),
        row=row,
    )


def _whole_shards(store: Store, wanted: NDArray[np.intp]) -> list[int]:
    """Full shards all of whose tiles are wanted."""
    size = store.layout.tiles_per_shard
    held = np.bincount(store.rows // size, minlength=store.layout.shards)
    taken = np.bincount(wanted // size, minlength=store.layout.shards)
    full = np.array([len(store.layout.rows(shard)) == size for shard in range(store.layout.shards)])
    return np.flatnonzero(full & (taken > 0) & (taken == held)).tolist()


class Copier:
    """Fills the shards of a plan."""

    def __init__(self, plan: CopyPlan) -> None:
        self._plan = plan
        self._commit = lru_cache(CACHED_COMMITS)(self._read_commit)

    def _read_commit(self, store: int, shard: int) -> Commit:
        content = self._plan.stores[store].content
        return read_commit(content.objects, content.layout, shard)

    def fill(self, writer: StoreWriter, shard: int) -> None:
        """Write one shard."""
        source = self._plan.whole_shard(shard)
        if source is not None:
            content = self._plan.stores[source[0]].content
            if writer.adoptable(content.root):
                writer.adopt_shard(shard, content.objects, self._commit(*source), content.layout)
                return
        rows = self._plan.layout.rows(shard)
        part = slice(rows.start, rows.stop)
        groups = self._groups(self._plan.store[part], self._plan.row[part])
        with ThreadPoolExecutor(READERS) as pool:
            rasters = dict(pool.map(lambda m: (m.name, self._raster(m, groups, len(rows))), self._plan.layout.rasters))
        writer.write_shard(shard, self._columns(groups, len(rows)), rasters)

    def _groups(
        self, stores: NDArray[np.intp], rows: NDArray[np.intp]
    ) -> list[tuple[int, int, NDArray[np.intp], NDArray[np.intp]]]:
        """Store, shard there, rows of it, and their positions in the new shard; rows without a tile left out."""
        groups = []
        for store in np.unique(stores).tolist():
            layout = self._plan.stores[store].layout
            positions = np.flatnonzero(stores == store)
            shards = rows[positions] // layout.tiles_per_shard
            for shard in np.unique(shards).tolist():
                here = positions[shards == shard]
                here = here[np.isin(rows[here], self._commit(store, shard).rows)]
                if len(here):
                    groups.append((store, shard, rows[here], here))
        return groups

    def _raster(self, m: Modality, groups: Sequence[Any], count: int) -> np.ndarray[Any, Any]:
        """(count, band, y, x) pixels of the new rows, cropped where the plan says so."""
        plan, offset = self._plan, self._plan.offset_px
        values = m.empty((count, *m.array_shape(plan.layout.size_px)))
        for store, _, rows, positions in groups:
            content = plan.stores[store].content
            reader = content.reader(m.name)
            tile = np.empty(m.array_shape(content.layout.size_px), dtype=m.dtype)
            for k, (position, data) in enumerate(zip(positions.tolist(), reader.encoded(rows), strict=True)):
                reader.decode(rows[k : k + 1], [data], tile[None])
                values[position] = tile[:, offset : offset + values.shape[2], offset : offset + values.shape[3]]
        return values

    def _columns(self, groups: Sequence[Any], count: int) -> dict[str, Any]:
        """Coordinates, tile modalities and facts of the new rows."""
        layout = self._plan.layout
        columns = empty_columns(layout, count)
        facts = columns.pop("facts")
        for store, shard, rows, positions in groups:
            commit = self._commit(store, shard)
            there = np.searchsorted(commit.rows, rows)
            for name, column in columns.items():
                column[positions] = commit.columns[name][there]
            for position, k in zip(positions.tolist(), there.tolist(), strict=True):
                facts[position] = commit.facts[k]
        columns["facts"] = facts
        if self._plan.offset_px:
            crop_columns(columns, layout.size_px, self._plan.offset_px)
        return columns


def crop_columns(columns: dict[str, Any], size_px: int, offset_px: int) -> None:
    """Move corners and change ids: the centre of a crop has the same location, so only its size differs."""
    tiles = np.flatnonzero(columns["tile_id"])
    before = columns["tile_id"][tiles].tolist()
    columns["tile_id"][tiles] = resized_tile_ids(columns["tile_id"][tiles], size_px)
    columns["ulx"] = columns["ulx"] + PIXEL_M * offset_px
    columns["uly"] = columns["uly"] - PIXEL_M * offset_px
    for k, tile_id in zip(tiles.tolist(), before, strict=True):
        facts = json.loads(columns["facts"][k])
        # A crop of a crop is a crop of the first tile.
        offset = facts.get(CROP_OFFSET, 0) + offset_px
        facts |= {CROP_OF: facts.get(CROP_OF, format_tile_id(tile_id)), CROP_OFFSET: offset}
        columns["facts"][k] = json.dumps(facts, sort_keys=True)
