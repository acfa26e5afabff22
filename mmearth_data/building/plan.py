"""The plan of a build, as plain values: slots, reserves and shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import NO_TIME, Place, TileGrid
from mmearth_data.errors import InputError
from mmearth_data.sampling import deal_reserves, largest_remainder
from mmearth_data.sampling.blocks import NO_SPLIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.sampling.covering import Cover, Labels
    from mmearth_data.store.schema import StoreLayout

NO_BIOME, NO_ECO_REGION = 255, 65535
"""Class ids that mean "not known", as in the catalog."""
PLACE_COLUMNS = ("tile_id", "lon", "lat", "biome", "eco_region")
DATE = "date_ms"
OPTIONAL_COLUMNS = (DATE,)
"""Optional columns of samples: the dates of labelled locations."""
OTHER_DATES = ("date_before_ms", "date_after_ms")
"""Nearest dates of other rows with the same location, `NO_TIME` if there is none."""
GRID_COLUMNS = ("epsg", "ulx", "uly")
"""Columns of locations with given pixel grids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One row of the store, and the location of its tile."""

    row: int
    split: int
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Reserve:
    """A location that replaces a rejected one."""

    split: int
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The unit of work: consecutive slots, and the reserves for their locations."""

    shard: int
    slots: tuple[Slot, ...]
    reserves: tuple[Reserve, ...]


@dataclass(frozen=True)
class BuildPlan:
    """All shards of a store, made on demand from columns, to save memory.

    Attributes
    ----------
    layout
        Shape of the store.
    places
        Columns tile_id, lon, lat, biome, eco_region, split; date_ms, date_before_ms and date_after_ms if locations have
        dates: one entry per slot, in order, then the reserves.
    pools
        For every planned shard the positions of its reserves in ``places``, in order of use.
    first_row
        Row of the first slot; the rows before it exist already.
    """

    layout: StoreLayout
    places: dict[str, NDArray[Any]]
    pools: Sequence[NDArray[np.intp]]
    first_row: int = 0

    @property
    def shards(self) -> range:
        """Shards that have rows to fill."""
        return range(self.first_row // self.layout.tiles_per_shard, self.layout.shards)

    def rows(self, shard: int) -> range:
        """Rows of a shard that are to be filled."""
        rows = self.layout.rows(shard)
        return range(max(rows.start, self.first_row), rows.stop)

    def shard(self, shard: int) -> ShardPlan:
        """Plan of one shard."""
        rows = self.rows(shard)
        split, places = self._places(slice(rows.start - self.first_row, rows.stop - self.first_row))
        slots = [Slot(row=row, split=s, place=place) for row, s, place in zip(rows, split, places, strict=True)]
        reserves = []
        if self.pools:
            pool = self._places(self.pools[shard - self.shards.start])
            reserves = [Reserve(split=s, place=place) for s, place in zip(*pool, strict=True)]
        return ShardPlan(shard=shard, slots=tuple(slots), reserves=tuple(reserves))

    def pending(self, done: frozenset[int]) -> Iterator[ShardPlan]:
        """Shards that are not committed yet, in order."""
        return (self.shard(shard) for shard in self.shards if shard not in done)

    def rows_left(self, done: frozenset[int]) -> int:
        """Rows of those shards."""
        return sum(len(self.rows(shard)) for shard in self.shards if shard not in done)

    def spread(self, count: int) -> list[Place]:
        """Locations of some slots, evenly distributed over all of them."""
        rows = self.layout.tiles - self.first_row
        return self._places(np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(np.intp)))[1]

    def columns(self, positions: slice | NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """Columns of ``places`` at some positions, with ``epsg``, ``ulx`` and ``uly`` of their pixel grids if given."""
        return {name: column[positions] for name, column in self.places.items()}

    def _places(self, positions: slice | NDArray[np.intp]) -> tuple[list[int], list[Place]]:
        """Return the splits and locations at some positions of ``places``."""
        found = {name: column.tolist() for name, column in self.columns(positions).items()}
        size_px = self.layout.size_px
        grids: list[TileGrid | None] = [None] * len(found["split"])
        if GRID_COLUMNS[0] in found:
            corners = zip(*(found[name] for name in GRID_COLUMNS), strict=True)
            grids = [TileGrid(epsg=epsg, ulx=ulx, uly=uly, size_px=size_px) for epsg, ulx, uly in corners]
        dated = _dates_of(found, len(grids))
        places = [
            Place(
                tile_id=tile_id,
                lon=lon,
                lat=lat,
                size_px=size_px,
                biome=None if biome == NO_BIOME else biome,
                eco_region=None if eco_region == NO_ECO_REGION else eco_region,
                grid=grid,
                **known,
            )
            for tile_id, lon, lat, biome, eco_region, grid, known in zip(
                *(found[name] for name in PLACE_COLUMNS), grids, dated, strict=True
            )
        ]
        return found["split"], places


def _dates_of(found: Mapping[str, list[Any]], count: int) -> list[dict[str, Any]]:
    """Dates of some locations: fields of `Place`."""
    dates, before, after = (found.get(name, [NO_TIME] * count) for name in (DATE, *OTHER_DATES))
    return [
        {
            "date_ms": None if date == NO_TIME else date,
            "other_dates_ms": tuple(other for other in others if other != NO_TIME),
        }
        for date, *others in zip(dates, before, after, strict=True)
    ]


def other_dates(tile_id: NDArray[np.uint64], date_ms: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Columns of `OTHER_DATES` of some rows (n,)."""
    order = np.lexsort((date_ms, tile_id))
    ids, dates = tile_id[order], date_ms[order]
    same = ids[1:] == ids[:-1]
    before, after = np.full(len(order), NO_TIME), np.full(len(order), NO_TIME)
    before[order[1:][same]], after[order[:-1][same]] = dates[:-1][same], dates[1:][same]
    return dict(zip(OTHER_DATES, (before, after), strict=True))


@dataclass(frozen=True)
class CoverPlan(BuildPlan):
    """Plan of a cover. Its locations are computed shard by shard, since there may be many millions of them.

    Attributes
    ----------
    cover
        Cells, one per row of the store.
    labels
        Biomes and ecoregions of points; None if the store has neither.
    """

    cover: Cover | None = None
    labels: Labels | None = None

    def columns(self, positions: slice | NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """Columns of some cells; see `BuildPlan.columns`."""
        assert self.cover is not None
        cells = np.arange(*positions.indices(len(self.cover))) if isinstance(positions, slice) else positions
        found = self.cover.columns(cells)
        known = None if self.labels is None else self.labels(found["lon"], found["lat"])
        biome, eco_region = known or (np.full(len(cells), NO_BIOME), np.full(len(cells), NO_ECO_REGION))
        return {**found, "biome": biome, "eco_region": eco_region, "split": np.full(len(cells), NO_SPLIT)}


def plan_sampled(frame: GeoDataFrame, layout: StoreLayout, first_row: int = 0) -> BuildPlan:
    """Plan from the table of a sample: its slots, in order from ``first_row``, and its reserves by shard."""
    primaries = frame[frame["slot"].notna()].sort_values("slot", kind="stable")
    reserves = frame[frame["slot"].isna()]
    places = {
        name: np.concatenate([primaries[name].to_numpy(), reserves[name].to_numpy()])
        for name in (*PLACE_COLUMNS, "split", *OPTIONAL_COLUMNS, *GRID_COLUMNS)
        if name in frame.columns
    }
    if DATE in places:
        places |= other_dates(places["tile_id"], places[DATE])
    pools = [
        len(primaries) + np.asarray(pool, dtype=np.intp)
        for pool in deal_reserves(frame, layout.tiles_per_shard, first_row)
    ]
    return BuildPlan(layout=layout, places=places, pools=pools, first_row=first_row)


def plan_given(
    places: Sequence[Place],
    shares: Sequence[float],
    seed: int,
    layout: StoreLayout,
    given: NDArray[np.uint8] | None = None,
) -> BuildPlan:
    """Plan for the locations of a source, in the given splits or at random; without reserves."""
    order, split = random_slots(len(places), shares, seed)
    if given is not None:
        order = order[np.argsort(given[order], kind="stable")]
        split = given[order]
    ordered = [places[i] for i in order]
    columns = {
        "tile_id": np.array([p.tile_id for p in ordered], dtype=np.uint64),
        "lon": np.array([p.lon for p in ordered]),
        "lat": np.array([p.lat for p in ordered]),
        "biome": np.array([NO_BIOME if p.biome is None else p.biome for p in ordered], dtype=np.uint8),
        "eco_region": np.array([NO_ECO_REGION if p.eco_region is None else p.eco_region for p in ordered], np.uint16),
        "split": split,
    }
    if any(place.date_ms is not None for place in ordered):
        columns[DATE] = np.array([NO_TIME if p.date_ms is None else p.date_ms for p in ordered], dtype=np.int64)
        columns |= other_dates(columns["tile_id"], columns[DATE])
    if len(np.unique(columns["tile_id"])) < len(ordered):
        raise InputError("Expected tiles at different locations, got one twice; two sites cover the same area.")
    return BuildPlan(layout=layout, places=columns, pools=())


def plan_cover(cover: Cover, layout: StoreLayout, labels: Labels | None) -> CoverPlan:
    """Plan a cover: one row per cell, in the order of cells, without splits and reserves."""
    return CoverPlan(layout=layout, places={}, pools=(), cover=cover, labels=labels)


def random_slots(count: int, shares: Sequence[float], seed: int) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Index of the location (count,) and split (count,) of each slot: train, val, test, each a random permutation.

    Splits are 0, 1, 2, exactly with the largest-remainder shares.
    """
    order = np.random.default_rng(seed).permutation(count)
    split = np.repeat(np.arange(3, dtype=np.uint8), largest_remainder(np.asarray(shares, dtype=np.float64), count))
    return order, split
