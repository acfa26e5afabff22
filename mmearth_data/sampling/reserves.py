"""Dealing the reserves of a sample to the shards of a store."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.sampling.quotas import largest_remainder

if TYPE_CHECKING:
    import geopandas as gpd

    from mmearth_data.geography.equal_area import Ints


def deal_reserves(frame: gpd.GeoDataFrame, tiles_per_shard: int, first_row: int = 0) -> list[Ints]:
    """Deal reserves to shards, within a split and in proportion to what each shard holds of every ecoregion.

    Lists per slot would leave many rows empty, one pool for all would tie shards to each other; a pool per shard does
    neither. The result is a function of the arguments alone, so that any number of shards in flight ends in the same
    store.

    Parameters
    ----------
    frame
        A sample's table.
    tiles_per_shard
        Slots of a shard.
    first_row
        Row of the first slot, which need not begin a shard.

    Returns
    -------
    list of ndarray of int64
        For every shard, from that of the first row on, the positions of its reserves among the reserve rows (``slot`` null) of the table, in the
        order in which they are to be used.
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

    What a shard is due of one stratum and does not get, being a fraction, it carries over to the next: so every pool
    comes out at its share of the whole, give or take one.
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
