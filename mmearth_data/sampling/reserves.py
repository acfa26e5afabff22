"""Distribute the reserves of a sample over the shards of a store."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.sampling.quotas import largest_remainder

if TYPE_CHECKING:
    import geopandas as gpd

    from mmearth_data.geography.equal_area import Ints


def deal_reserves(frame: gpd.GeoDataFrame, tiles_per_shard: int, first_row: int = 0) -> list[Ints]:
    """Assign reserves to shards, within a split and in proportion to each shard's tiles per ecoregion.

    Reserves per slot would leave many rows empty, and one common pool would make shards depend on each other; a pool
    per shard avoids both. The result depends only on the arguments, so the store does not depend on the number of
    shards in flight.

    ``frame`` is a sample's table; ``first_row`` the row of its first slot, which need not be the first of a shard.
    Returns for every shard, beginning with that of the first row, positions of its reserves among the reserve rows
    (``slot`` null) of the table, in order of use.
    """
    reserve = frame["slot"].isna().to_numpy()
    shard = (frame["slot"][~reserve].to_numpy(dtype=np.int64) + first_row % tiles_per_shard) // tiles_per_shard
    shards = int(shard.max(initial=-1)) + 1
    split, eco_region = frame["split"].to_numpy(), frame["eco_region"].to_numpy(np.int64)
    dealt = np.full(int(reserve.sum()), -1, dtype=np.int64)
    for code in np.unique(split[reserve]):
        ours = np.flatnonzero(split[reserve] == code)
        slots = split[~reserve] == code
        if not slots.any():
            continue
        dealt[ours] = _deal(eco_region[reserve][ours], eco_region[~reserve][slots], shard[slots], shards)
    order = np.argsort(dealt, kind="stable")
    starts = np.searchsorted(dealt[order], np.arange(shards + 1))
    return [order[start:stop] for start, stop in pairwise(starts)]


def _deal(strata: Ints, slot_strata: Ints, slot_shard: Ints, shards: int) -> Ints:
    """Shard of each reserve of one split.

    A fraction that a shard does not get of one stratum is carried over to the next one, so that every pool has its
    share of the total to within one.
    """
    dealt = np.empty(len(strata), dtype=np.int64)
    everywhere = np.bincount(slot_shard, minlength=shards)
    due = np.zeros(shards)
    for stratum in np.unique(strata):
        mine = np.flatnonzero(strata == stratum)
        held = np.bincount(slot_shard[slot_strata == stratum], minlength=shards)
        held = held if held.any() else everywhere
        due += len(mine) * held / held.sum()
        weight = np.where(held > 0, np.maximum(due, 0), 0)
        given = largest_remainder(weight if weight.any() else held, len(mine))
        due -= given
        dealt[mine] = np.repeat(np.arange(shards), given)
    return dealt
