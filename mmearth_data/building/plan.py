"""What a build will do, as plain values: slots, reserves and shards. Nothing here has an effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.errors import InputError
from mmearth_data.sampling import deal_reserves, largest_remainder
from mmearth_data.tile import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.store.schema import StoreLayout

NO_BIOME, NO_ECO_REGION = 255, 65535
"""Class ids that mean "not known", as in the catalog."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One row of the store and the place that is to fill it."""

    row: int
    split: int
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Reserve:
    """A place that no slot owns yet."""

    split: int
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The unit of work: consecutive slots, and the reserves that may replace their places."""

    shard: int
    slots: tuple[Slot, ...]
    reserves: tuple[Reserve, ...]


@dataclass(frozen=True)
class BuildPlan:
    """Every shard of a store, made on demand from columns so that a million tiles stay small.

    Attributes
    ----------
    layout
        Shape of the store.
    places
        Columns tile_id, lon, lat, biome, eco_region, split; the first ``layout.tiles`` rows are the
        primaries in slot order, the others are the reserves.
    pools
        For every shard the rows of its reserves in ``places``, in the order in which they are used.
    """

    layout: StoreLayout
    places: dict[str, NDArray[Any]]
    pools: Sequence[NDArray[np.intp]]

    def shard(self, shard: int) -> ShardPlan:
        """Plan of one shard."""
        rows = self.layout.rows(shard)
        slots = tuple(Slot(row=row, split=int(self.places["split"][row]), place=self._place(row)) for row in rows)
        pool = self.pools[shard] if self.pools else ()
        reserves = tuple(Reserve(split=int(self.places["split"][i]), place=self._place(int(i))) for i in pool)
        return ShardPlan(shard=shard, slots=slots, reserves=reserves)

    def pending(self, done: frozenset[int]) -> Iterator[ShardPlan]:
        """Shards that are not committed yet, in order: resuming is the plan minus what is done."""
        return (self.shard(shard) for shard in range(self.layout.shards) if shard not in done)

    def _place(self, row: int) -> Place:
        biome, eco_region = int(self.places["biome"][row]), int(self.places["eco_region"][row])
        return Place(
            tile_id=int(self.places["tile_id"][row]),
            lon=float(self.places["lon"][row]),
            lat=float(self.places["lat"][row]),
            size_px=self.layout.size_px,
            biome=None if biome == NO_BIOME else biome,
            eco_region=None if eco_region == NO_ECO_REGION else eco_region,
        )


def plan_sampled(frame: GeoDataFrame, layout: StoreLayout) -> BuildPlan:
    """Plan from a sample file's table: its slots in order, its reserves dealt to the shards."""
    primaries = frame[frame["slot"].notna()].sort_values("slot", kind="stable")
    reserves = frame[frame["slot"].isna()]
    places = {
        name: np.concatenate([primaries[name].to_numpy(), reserves[name].to_numpy()])
        for name in ("tile_id", "lon", "lat", "biome", "eco_region", "split")
    }
    pools = deal_reserves(frame, layout.tiles_per_shard)
    offset = layout.tiles
    return BuildPlan(layout=layout, places=places, pools=[offset + np.asarray(pool, dtype=np.intp) for pool in pools])


def plan_given(places: Sequence[Place], shares: Sequence[float], seed: int, layout: StoreLayout) -> BuildPlan:
    """Plan for places that came with the source: a seeded random split, and no reserves."""
    order, split = random_slots(len(places), shares, seed)
    ordered = [places[i] for i in order]
    columns = {
        "tile_id": np.array([p.tile_id for p in ordered], dtype=np.uint64),
        "lon": np.array([p.lon for p in ordered]),
        "lat": np.array([p.lat for p in ordered]),
        "biome": np.array([NO_BIOME if p.biome is None else p.biome for p in ordered], dtype=np.uint8),
        "eco_region": np.array([NO_ECO_REGION if p.eco_region is None else p.eco_region for p in ordered], np.uint16),
        "split": split,
    }
    if len(np.unique(columns["tile_id"])) < len(ordered):
        raise InputError("Expected places that differ, got the same tile twice; two sites cover the same ground.")
    return BuildPlan(layout=layout, places=columns, pools=())


def random_slots(count: int, shares: Sequence[float], seed: int) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Order and split of ``count`` places: train, val, test, each a random permutation.

    Returns
    -------
    order
        (count,) index of the place that each slot takes.
    split
        (count,) 0 train, 1 val, 2 test; exactly the largest-remainder shares.
    """
    order = np.random.default_rng(seed).permutation(count)
    split = np.repeat(np.arange(3, dtype=np.uint8), largest_remainder(np.asarray(shares, dtype=np.float64), count))
    return order, split
