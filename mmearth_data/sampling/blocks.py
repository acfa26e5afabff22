"""Spatial blocks: assign equal-area cells to train, val and test, with a guard between splits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.geography.equal_area import CellGrid, Floats, Ints, metres_per_degree

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN, VAL, TEST, NO_SPLIT = 0, 1, 2, 255
SPLIT_NAMES = {TRAIN: "train", VAL: "val", TEST: "test"}
MAX_CELL_M = 100_000.0
CELLS_PER_REGION = 200
"""Approximate number of cells of a small region, enough for shares of five per cent."""
GUARD_FRACTION = 8
"""A guard is at most a cell's width divided by this; a wider one would leave little of the cell."""


def cell_width_m(area_m2: float) -> float:
    """Width of the blocks of a region, metres: min(100 km, sqrt(area / 200))."""
    return min(MAX_CELL_M, math.sqrt(area_m2 / CELLS_PER_REGION))


def guard_in_force(asked_m: float, width_m: float) -> float:
    """Distance kept between splits, metres: as requested, but at most an eighth of a cell."""
    return min(asked_m, width_m / GUARD_FRACTION)


@dataclass(frozen=True)
class Blocks:
    """Split of each cell with eligible land."""

    grid: CellGrid
    cell: Ints
    """Sorted cell numbers."""
    split: NDArray[np.uint8]
    """`TRAIN`, `VAL` or `TEST` of each."""

    def split_of(self, cell: Ints) -> NDArray[np.uint8]:
        """Split of cells; `NO_SPLIT` for those without eligible land."""
        if not len(self.cell):
            return np.full(np.shape(cell), NO_SPLIT, np.uint8)
        at = np.minimum(np.searchsorted(self.cell, cell), len(self.cell) - 1)
        return np.where(self.cell[at] == cell, self.split[at], np.uint8(NO_SPLIT))

    def too_close(self, lon: Floats, lat: Floats, split: Ints, guard_m: float) -> NDArray[np.bool_]:
        """Whether points are within the guard of a cell of another, later split.

        Only the earlier split in the order train, val, test keeps the distance: train from val and test, val from test.
        """
        close = np.zeros(len(lon), dtype=bool)
        if guard_m <= 0:
            return close
        cell = self.grid.cell_of(lon, lat)
        edge = np.flatnonzero(_gap_m(self.grid, cell, lon, lat, inside=True) < guard_m)
        row, column = np.divmod(cell[edge], self.grid.columns)
        # Two columns on either side: near the poles, and in the last column, cells are narrower than a guard.
        for rows, columns in ((i, j) for i in (-1, 0, 1) for j in (-2, -1, 0, 1, 2) if (i, j) != (0, 0)):
            other = np.clip(row + rows, 0, self.grid.rows - 1) * self.grid.columns
            other += (column + columns) % self.grid.columns
            theirs = self.split_of(other)
            later = (theirs != NO_SPLIT) & (theirs > split[edge])
            near = np.flatnonzero(later & ~close[edge])
            points = edge[near]
            gap = _gap_m(self.grid, other[near], lon[points], lat[points])
            close[points[gap < guard_m]] = True
        return close


def _gap_m(grid: CellGrid, cell: Ints, lon: Floats, lat: Floats, *, inside: bool = False) -> Floats:
    """Distance in metres from points to cells or, for points inside, to the cell's nearest edge."""
    west, south, east, north = grid.bounds_of(cell)
    east_m, north_m = metres_per_degree(lat)
    to_west = (west - lon + 180) % 360 - 180  # the short way around
    to_east = (lon - east + 180) % 360 - 180
    if inside:
        return np.minimum(np.minimum(-to_west, -to_east) * east_m, np.minimum(lat - south, north - lat) * north_m)
    dx = np.maximum(np.maximum(to_west, to_east), 0) * east_m
    dy = np.maximum(np.maximum(south - lat, lat - north), 0) * north_m
    return np.hypot(dx, dy)


def assign_blocks(
    grid: CellGrid,
    cell: Ints,
    expected: Floats,
    shares: tuple[float, float, float],
    seed: int,
    fixed: Blocks | None = None,
) -> Blocks:
    """Assign every cell to a split.

    In the order of a seeded hash, cells go to val, then to test, until the tiles expected in them (per cell, in any
    unit) meet the share; the rest go to train. With at least three cells, every split with a share gets a cell. Cells
    of ``fixed`` keep their split (when tiles are added to a store).
    """
    order = np.argsort(hashed(cell, seed), kind="stable")
    split = np.full(len(cell), TRAIN, dtype=np.uint8)
    settled = fixed.split_of(cell) if fixed is not None else np.full(len(cell), NO_SPLIT, np.uint8)
    split[settled != NO_SPLIT] = settled[settled != NO_SPLIT]
    free = [int(i) for i in order if settled[i] == NO_SPLIT]
    wanted = np.asarray(shares, dtype=np.float64) / sum(shares) * expected.sum()
    asked = [s for s in (VAL, TEST, TRAIN) if shares[s] > 0]
    for place, kind in enumerate(asked[:-1]):
        held = float(expected[settled == kind].sum())
        left_for = [s for s in asked[place + 1 :] if not (settled == s).any()]
        while free and len(free) > len(left_for) and held < wanted[kind] * (1 - 1e-12):
            index = free.pop(0)
            split[index] = kind
            held += float(expected[index])
    by_cell = np.argsort(cell)
    rest = asked[-1] if asked else TRAIN
    split[free] = rest
    return Blocks(grid, cell[by_cell], split[by_cell])


def hashed(numbers: Ints, seed: int) -> NDArray[np.uint64]:
    """64 pseudorandom bits of each number: SplitMix64 (Steele, Lea & Flood 2014), keyed by the seed."""
    step = np.uint64(0x9E3779B97F4A7C15)
    key = _mix(np.asarray([seed & (2**64 - 1)], dtype=np.uint64) + step)
    return _mix(_mix(numbers.astype(np.uint64) + step) ^ key)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
