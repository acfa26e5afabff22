"""Group overlapping tiles, so that they are in one split and no test tile overlaps a training tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.catalog.tile import PIXEL_M, WGS84, transformer
from mmearth_data.geography.equal_area import (
    MAX_X,
    MAX_Y,
    X_PER_DEGREE,
    CellGrid,
    Floats,
    Ints,
    metres_per_degree,
    y_of_latitude,
)
from mmearth_data.sampling.blocks import SPLIT_NAMES, assign_blocks, cell_width_m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.tile import TileGrid

TOUCH_M = 1.0
"""Half the width of a strip that two tiles may share and still count as touching: grids may be off by that much."""
TURN_DEGREES = 3.5
"""Largest angle between UTM north and true north, including the neighbouring zone; the square around a point is
uncertain by it.
"""
SNAP_M = 20.0
"""Allowance in metres for tiles, which are snapped to the grid of their scene."""
LEAST_EXTENT_M2 = 200 * 2_000.0**2
"""Minimum area of given locations, which makes their blocks at least 2 km wide."""


def groups_of_tiles(grids: Sequence[TileGrid]) -> Ints:
    """Group of each tile, the same for tiles that overlap, also across UTM zones and 180 degrees.

    Tiles that only touch, such as neighbouring tiles of one site, are in different groups. Returns (n,) int64, numbered
    from 0 by the first tile of each group.
    """
    return _groups(footprints(grids, TOUCH_M))


def groups_of_points(lon: Floats, lat: Floats, size_px: int) -> Ints:
    """Group of the tile around each point, the same for tiles that may overlap in any UTM zone.

    ``lon`` and ``lat`` are (n,) degrees. Returns (n,) int64, numbered from 0 by the first point of each group.
    """
    turn = np.radians(TURN_DEGREES) * np.abs(np.sin(np.radians(lat)))
    half = (PIXEL_M * size_px * (np.cos(turn) + np.sin(turn)) + SNAP_M) / 2
    east_m, north_m = metres_per_degree(lat)
    x, y = half / east_m, half / north_m
    return _groups(np.asarray(shapely.box(lon - x, lat - y, lon + x, lat + y)))


def footprints(grids: Sequence[TileGrid], inset_m: float = 0.0) -> NDArray[np.object_]:
    """Squares of tiles as polygons in degrees; tiles that cross 180 degrees have longitudes beyond 180.

    It is None for tiles with unknown corners.
    """
    known = np.isfinite([grid.ulx for grid in grids])
    squares = np.full(len(grids), None, dtype=object)
    squares[known] = _squares([grid for grid, placed in zip(grids, known, strict=True) if placed], inset_m)
    return squares


def _squares(grids: Sequence[TileGrid], inset_m: float) -> NDArray[np.object_]:
    epsg = np.array([grid.epsg for grid in grids])
    bounds = np.array([grid.bounds for grid in grids]).reshape(-1, 4) + inset_m * np.array([1, 1, -1, -1])
    corners = np.stack([bounds[:, [0, 2, 2, 0]], bounds[:, [1, 1, 3, 3]]], axis=-1)
    degrees = np.empty_like(corners)
    for code in np.unique(epsg):
        mine = epsg == code
        lon, lat = transformer(int(code), WGS84).transform(corners[mine, :, 0], corners[mine, :, 1])
        first = lon[:, :1]
        degrees[mine] = np.stack([first + (lon - first + 180) % 360 - 180, lat], axis=-1)
    return np.asarray(shapely.polygons(degrees))


def _groups(shapes: NDArray[np.object_]) -> Ints:
    """Group of each shape: the connected components of intersecting shapes, numbered by their first members."""
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    owner = np.arange(len(shapes))
    east, west = bounds[:, 2] > 180, bounds[:, 0] < -180
    everywhere = np.concatenate([shapes, _moved(shapes[east], -360.0), _moved(shapes[west], 360.0)])
    owners = np.concatenate([owner, owner[east], owner[west]])
    left, right = shapely.STRtree(everywhere).query(everywhere, predicate="intersects")
    return components(len(shapes), owners[left], owners[right])


def _moved(shapes: NDArray[np.object_], lon: float) -> NDArray[np.object_]:
    return np.asarray(shapely.transform(shapes, lambda xy: xy + np.array([lon, 0.0])), dtype=object)


def components(count: int, left: Ints, right: Ints) -> Ints:
    """Component of each member of a graph, numbered from 0 by their first members; edges are in both directions."""
    roots, before = np.arange(count), np.full(count, -1)
    while not np.array_equal(roots, before):
        before = roots.copy()
        np.minimum.at(roots, left, roots[right])
        np.minimum.at(roots, roots[left], roots[right])
        roots = roots[roots]
    return np.unique(roots, return_inverse=True)[1]


def split_at_random(order: Ints, groups: Ints, totals: Ints) -> NDArray[np.uint8]:
    """Split locations at random, each group as a whole; (n,) split of each location.

    Groups of several locations come first, the largest first, each to the split that lacks most; then single locations
    fill train, val and test in the given (random) order. ``totals`` are the numbers for train, val and test, n in all;
    if no locations overlap, every split gets exactly its total.
    """
    sizes = np.bincount(groups)
    left = np.asarray(totals, dtype=np.int64).copy()
    of_group = np.zeros(len(sizes), dtype=np.uint8)
    dealt = np.unique(groups[order], return_index=True)[1]  # position of each group's first location in the order
    for group in np.lexsort((dealt, -sizes)):
        if sizes[group] == 1:
            break
        of_group[group] = int(np.argmax(left))
        left[of_group[group]] -= sizes[group]
    single = order[sizes[groups[order]] == 1]
    of_group[groups[single]] = np.repeat(np.arange(3, dtype=np.uint8), _shrunk(left, len(single)))
    return of_group[groups]


def _shrunk(left: Ints, count: int) -> Ints:
    """Reduce the remaining totals by what groups have overfilled elsewhere, the largest first."""
    counts = np.maximum(left, 0)
    for kind in np.argsort(-counts, kind="stable"):
        counts[kind] -= min(int(counts[kind]), int(counts.sum()) - count)
    return counts


def split_by_blocks(
    lon: Floats, lat: Floats, groups: Ints, shares: tuple[float, float, float], seed: int
) -> tuple[NDArray[np.uint8], float]:
    """Split locations by spatial blocks; a group belongs to the block of its first location.

    ``groups`` is from `groups_of_points`; shares and seed are as in `assign_blocks`. Returns the (n,) split of each
    location and the width of the blocks in metres.
    """
    width = cell_width_m(_extent_m2(lon, lat))
    grid = CellGrid(width)
    first = np.unique(groups, return_index=True)[1]
    cell = grid.cell_of(lon[first], lat[first])[groups]
    cells, index, counts = np.unique(cell, return_inverse=True, return_counts=True)
    blocks = assign_blocks(grid, cells, counts.astype(np.float64), shares, seed)
    return blocks.split[index], width


def _extent_m2(lon: Floats, lat: Floats) -> float:
    """Area of the box around the points, at most the Earth's, and large enough that a block is wider than a tile."""
    ordered = np.sort(lon)
    gap = max(float(np.diff(ordered).max(initial=0)), float(ordered[0] + 360 - ordered[-1]))
    east_m = min(
        (360 - gap) * X_PER_DEGREE, 2 * MAX_X
    )  # without the widest gap, so that it is correct across 180 degrees
    north_m = min(float(np.ptp(y_of_latitude(lat))), 2 * MAX_Y)
    return max(east_m * north_m, LEAST_EXTENT_M2)


def empty_splits(split: NDArray[np.uint8], shares: Sequence[float], groups: Ints) -> list[str]:
    """Sentences for the user if a split with a share has no tile."""
    counts = np.bincount(split, minlength=len(SPLIT_NAMES))
    empty = [name for code, name in SPLIT_NAMES.items() if shares[code] > 0 and not counts[code]]
    if not empty:
        return []
    apart = f"{len(split)} tiles in {int(groups.max(initial=-1)) + 1} groups that do not overlap"
    return [
        f"split {' and '.join(empty)}: no tile ({apart}); change --split-shares or --seed, or add tiles elsewhere, "
        "if it is needed."
    ]
