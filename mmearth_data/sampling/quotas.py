"""Number of tiles of each stratum and split: whole numbers that add up exactly.

This module only computes with small tables; `placement` chooses the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mmearth_data.geography.equal_area import sums

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from mmearth_data.geography.equal_area import Floats, Ints

Balance = Literal["biome", "biome-ecoregion", "ecoregion", "area"]
BALANCES: tuple[str, ...] = get_args(Balance)
NO_LIMIT = 2**40


@dataclass(frozen=True)
class Strata:
    """Strata between which tiles are balanced, in one or more groups."""

    group: Ints
    """Group of each stratum, 0, 1, ..."""
    weight: Floats
    """Share of each stratum within its group, in any unit."""
    group_weight: Floats

    def __len__(self) -> int:
        return len(self.group)

    def shares(self) -> Floats:
        """Target fraction of all tiles per stratum."""
        within = self.weight / np.maximum(sums(self.group, self.weight, len(self.group_weight))[self.group], 1e-300)
        found: Floats = within * (self.group_weight / self.group_weight.sum())[self.group]
        return found

    def allot(self, total: int, limit: Ints, tie_break: Ints) -> Ints:
        """Distribute tiles, first among the groups, then within each.

        ``limit`` is the maximum per stratum; ranks ``tie_break`` decide between equal remainders. Returns int64 tiles
        per stratum, which add up to ``total``, or to the sum of the limits if that is less.
        """
        group_limit = np.minimum(np.bincount(self.group, limit, minlength=len(self.group_weight)), NO_LIMIT)
        ranks = np.full(len(self.group_weight), NO_LIMIT)
        np.minimum.at(ranks, self.group, tie_break)
        totals = largest_remainder(self.group_weight, total, group_limit.astype(np.int64), ranks)
        allotted = np.zeros(len(self), dtype=np.int64)
        for group, amount in enumerate(totals):
            members = np.flatnonzero(self.group == group)
            allotted[members] = largest_remainder(self.weight[members], amount, limit[members], tie_break[members])
        return allotted


def make_strata(balance: str, biome: Ints, area_m2: Floats) -> Strata:
    """Strata for a kind of balance, from the biome and area of each ecoregion in the region.

    For ``area``, all land is one stratum: with rounding per ecoregion, small ones would never be sampled.
    """
    biomes, index = np.unique(biome, return_inverse=True)
    if balance == "area":
        return Strata(np.zeros(1, np.int64), np.ones(1), np.ones(1))
    if balance == "ecoregion":
        return Strata(np.zeros(len(biome), np.int64), np.ones(len(biome)), np.ones(1))
    weight = area_m2 if balance == "biome" else np.ones(len(biome))
    return Strata(index.astype(np.int64), weight, np.ones(len(biomes)))


def largest_remainder(
    weights: ArrayLike, total: int, limit: ArrayLike | None = None, tie_break: ArrayLike | None = None
) -> Ints:
    """Distribute a whole number in proportion to weights, by the largest-remainder method.

    Entries with weight 0 get nothing. Amounts above an entry's ``limit`` go to the others, again in proportion. Ranks
    ``tie_break`` (by default positions) decide between equal remainders, smallest first. Returns int64 that add up to
    ``total``, or to the sum of the limits if that is less.

    Examples
    --------
    >>> largest_remainder([1, 1, 1], 10).tolist()
    [4, 3, 3]
    >>> largest_remainder([90, 5, 5], 10).tolist()
    [9, 1, 0]
    >>> largest_remainder([1, 1, 1], 10, limit=[1, 9, 9]).tolist()
    [1, 5, 4]
    """
    weights = np.asarray(weights, dtype=np.float64)
    size = len(weights)
    limit = np.full(size, NO_LIMIT) if limit is None else np.asarray(limit, dtype=np.int64)
    limit = np.where(weights > 0, limit, 0)
    ranks = np.arange(size) if tie_break is None else np.asarray(tie_break)
    total = int(min(total, limit.sum(dtype=np.float64)))
    exact = _filled(total, weights, limit)
    whole = np.minimum(np.floor(exact + 1e-9).astype(np.int64), limit)
    while (missing := total - int(whole.sum())) > 0:
        open_ = np.flatnonzero(whole < limit)
        remainder = np.round(exact[open_] - whole[open_], 9)
        best = open_[np.lexsort((ranks[open_], -remainder))[:missing]]
        whole[best] += 1
    return whole


def _filled(total: int, weights: Floats, limit: Ints) -> Floats:
    """Real-valued shares in proportion to weights under limits."""
    exact = np.zeros(len(weights))
    free = limit > 0
    while free.any():
        left = total - exact[~free].sum()
        trial = left * weights / weights[free].sum()
        over = free & (trial > limit)
        exact[free] = np.minimum(trial, limit)[free]
        if not over.any():
            break
        free &= ~over
    return exact


def fit_table(rows: Ints, columns: Ints, weight: Floats, limit: Ints) -> Floats:
    """Table proportional to the eligible areas whose rows and columns have given sums (iterative proportional fitting).

    ``rows`` (stratum,) and ``columns`` (split,) are the target sums, int64; ``weight`` (stratum, split) the areas,
    float64, where an entry without area stays 0; ``limit`` (stratum, split) the maximum per entry, int64.
    """
    table: Floats = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300) * rows[:, None]
    table = np.minimum(table, limit)
    for _ in range(500):
        before = table.copy()
        table = _scaled(table, rows, limit, axis=1)
        table = _scaled(table, columns, limit, axis=0)
        if np.abs(table - before).max(initial=0) < 1e-7:
            break
    return table


def _scaled(table: Floats, wanted: Ints, limit: Ints, axis: int) -> Floats:
    """Scale rows (axis 1) or columns (axis 0) to their sums; entries at their limit stay there."""
    table = table.copy()
    scaled: Floats
    for _ in range(8):
        full = table >= limit
        fixed = np.where(full, limit, 0).sum(axis=axis)
        free = np.where(full, 0, table).sum(axis=axis)
        factor: Floats = np.where(free > 0, np.maximum(wanted - fixed, 0) / np.maximum(free, 1e-300), 1.0)
        scaled = np.where(full, table, table * np.expand_dims(factor, axis))
        # If the full entries alone exceed the sum, they are reduced as well.
        excess = np.where(fixed > wanted, wanted / np.maximum(fixed, 1), 1.0)
        table = np.minimum(np.where(full, table * np.expand_dims(excess, axis), scaled), limit)
        if np.abs(table.sum(axis=axis) - wanted).max(initial=0) < 1e-9:
            break
    return table


def round_table(table: Floats, rows: Ints, columns: Ints, limit: Ints) -> Ints:
    """Round a table to whole numbers with exact column sums and, where possible, exact row sums.

    Entries are rounded down, then ones are added: first by the largest remainders of each row, then by moving ones
    within a row (or between rows) from columns with too many to columns with too few.
    """
    whole = np.minimum(np.floor(table + 1e-6).astype(np.int64), limit)
    remainder = np.where(whole < limit, table - whole, -np.inf)
    for _ in range(table.shape[1]):
        missing = rows - whole.sum(axis=1)
        best = remainder.argmax(axis=1)
        give = np.flatnonzero((missing > 0) & np.isfinite(remainder.max(axis=1)))
        whole[give, best[give]] += 1
        remainder[give, best[give]] = -np.inf
    _settle(whole, table, columns, limit)
    return whole


def _settle(whole: Ints, table: Floats, columns: Ints, limit: Ints) -> None:
    """Move ones between columns, at minimum cost and in place, until the columns add up."""
    for _ in range(4 * int(np.abs(columns - whole.sum(axis=0)).sum()) + 8):
        surplus = whole.sum(axis=0) - columns
        if not surplus.any():
            return
        many, few = int(surplus.argmax()), int(surplus.argmin())
        room = whole < limit
        take: int | None = many
        give: int | None = few
        if surplus[many] <= 0:  # too few overall: row sums increase
            take, cost = None, np.where(room[:, few], whole[:, few] - table[:, few], np.inf)
        elif surplus[few] >= 0:  # too many overall
            give, cost = None, np.where(whole[:, many] > 0, table[:, many] - whole[:, many], np.inf)
        else:
            along = (whole[:, many] > 0) & room[:, few] & (table[:, few] > 0)
            cost = np.where(along, table[:, many] - whole[:, many] + whole[:, few] - table[:, few], np.inf)
            if not np.isfinite(cost.min(initial=np.inf)):
                give, cost = None, np.where(whole[:, many] > 0, table[:, many] - whole[:, many], np.inf)
        row = int(cost.argmin())
        if not np.isfinite(cost[row]):
            return
        if take is not None:
            whole[row, take] -= 1
        if give is not None:
            whole[row, give] += 1


def split_totals(tiles: int, shares: tuple[float, float, float]) -> Ints:
    """Tiles per split (train, val, test) by largest remainder; a split with a share gets at least one."""
    totals = largest_remainder(shares, tiles)
    asked = np.asarray(shares) > 0
    if tiles >= asked.sum():
        for empty in np.flatnonzero(asked & (totals == 0)):
            totals[totals.argmax()] -= 1
            totals[empty] = 1
    return totals


def as_ranks(values: NDArray[Any]) -> Ints:
    """Position of each value in sorted order."""
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
