"""Cover many polygons with few squares that do not overlap.

The squares are cells of a lattice whose corners are multiples of their side, as in a cover. Polygons in adjacent cells
form a cluster. A cluster gets a block of squares centred on it instead of lattice cells, if the block needs no more
squares and does not overlap the squares of other clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.errors import InputError
from mmearth_data.geography.equal_area import runs
from mmearth_data.sampling.covering import MOST_CELLS, TOUCH_M
from mmearth_data.sampling.grouping import components

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.geography.equal_area import Floats, Ints
    from mmearth_data.geography.pieces import Geometries

ROW, ZONE = 1 << 20, 1 << 42
"""Units of rows and zones in the number of a cell, whose smallest unit are columns."""
APART_M = 1e8
"""Distance in metres between the zones in a common plane."""
INSET_M = 0.01


@dataclass(frozen=True, eq=False)
class Squares:
    """Squares that each of some polygons touches; all arrays have one entry per pair of a polygon and a square.

    Attributes
    ----------
    polygon
        Position of the polygon, increasing.
    west, north
        Upper-left corner of the square, in metres.
    """

    polygon: Ints
    west: Ints
    north: Ints


def squares_over(geometry: Geometries, zone: Ints, side_m: int) -> Squares:
    """Cover polygons (n,), each in the coordinates of its zone (n,), with squares.

    Raises
    ------
    InputError
        If they need more than `MOST_CELLS` squares.
    """
    area = float(shapely.area(geometry).sum())
    if area / side_m**2 > MOST_CELLS:
        raise InputError(
            f"Expected polygons of at most {MOST_CELLS:,} tiles, got {area / 1e6:,.0f} km2, which need more; choose a "
            "larger --tile-size, or a part of the polygons."
        )
    origin = np.zeros((len(geometry), 2))
    polygon, row, column = cells_of_each(geometry, origin, side_m)
    clusters = _Clusters.of(geometry, zone, (polygon, row, column), side_m)
    centred = clusters.centred()[clusters.of_polygon]
    kept = ~centred[polygon]
    polygon, west, north = polygon[kept], column[kept] * side_m, (row[kept] + 1) * side_m
    moved = np.flatnonzero(centred)
    corner = clusters.corner[clusters.of_polygon[moved]]
    own, row, column = cells_of_each(geometry[moved], corner.astype(np.float64), side_m)
    polygon = np.concatenate([polygon, moved[own]])
    west = np.concatenate([west, corner[own, 0] + column * side_m])
    north = np.concatenate([north, corner[own, 1] + (row + 1) * side_m])
    order = np.argsort(polygon, kind="stable")
    return Squares(polygon[order], west[order], north[order])


def cells_of_each(geometry: Geometries, origin: Floats, side_m: int) -> tuple[Ints, Ints, Ints]:
    """(polygon, row, column) of the cells that each polygon touches by more than `TOUCH_M`, by polygon.

    Parameters
    ----------
    geometry
        (n,) polygons in metres.
    origin
        (n, 2) corner of the lower-left cell of each polygon's lattice, row 0 and column 0.
    side_m
        Side of the cells.
    """
    bounds = (shapely.bounds(geometry).reshape(-1, 4) - np.tile(origin, 2)) / side_m
    touch = TOUCH_M / side_m
    column, row = np.floor(bounds[:, :2] + touch).astype(np.int64).T
    last_column, last_row = np.floor(bounds[:, 2:] - touch).astype(np.int64).T
    span = np.maximum(np.maximum(last_column - column, last_row - row), 0)
    found = [tuple(part[span == 0] for part in (np.arange(len(geometry)), row, column))]
    of = np.flatnonzero(span > 0)
    shapely.prepare(geometry[of])
    side = 2 ** np.ceil(np.log2(span[of] + 1)).astype(np.int64)
    level = int(side.max(initial=0))
    pending = np.empty((0, 3), np.int64)
    while level:
        new = of[side == level]
        pending = np.concatenate([pending, np.stack([new, row[new], column[new]], axis=1)])
        done, pending = _divided(geometry, origin, side_m, pending, level)
        found.append(done)
        level //= 2
    polygon, row, column = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((column, row, polygon))
    return polygon[order], row[order], column[order]


def _divided(
    geometry: Geometries, origin: Floats, side_m: int, blocks: Ints, level: int
) -> tuple[tuple[Ints, Ints, Ints], Ints]:
    """Cells of the blocks (n, 3: polygon, row, column) inside their polygons, and the quarters of the others that touch theirs."""
    of, row, column = blocks.T
    x, y = origin[of, 0] + column * side_m, origin[of, 1] + row * side_m
    edge = level * side_m
    boxes = shapely.box(x + TOUCH_M, y + TOUCH_M, x + edge - TOUCH_M, y + edge - TOUCH_M)
    touched = shapely.intersects(geometry[of], boxes)
    inside = touched & (shapely.contains_properly(geometry[of], boxes) if level > 1 else True)
    owner, nth = runs(np.full(int(inside.sum()), level**2))
    cells = (of[inside][owner], row[inside][owner] + nth // level, column[inside][owner] + nth % level)
    rest = blocks[touched & ~inside]
    quarters = rest[:, None] + level // 2 * np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]])
    return cells, quarters.reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class _Clusters:
    """Clusters of polygons in adjacent cells.

    Attributes
    ----------
    of_polygon
        (n,) cluster of each polygon.
    block
        (m, 4) west, south, east, north of the block that is centred on each cluster, its zones apart.
    corner
        (m, 2) its lower-left corner in the coordinates of the zone.
    few
        (m,) whether the block has no more squares than the lattice.
    cell, of_cell
        (k, 4) edges of the cells of the lattice, likewise, and the cluster of each.
    """

    of_polygon: Ints
    block: Floats
    corner: Ints
    few: NDArray[np.bool_]
    cell: Floats
    of_cell: Ints

    @classmethod
    def of(cls, geometry: Geometries, zone: Ints, cells: tuple[Ints, Ints, Ints], side_m: int) -> _Clusters:
        polygon, row, column = cells
        shift = np.unique(zone, return_inverse=True)[1]
        key = shift[polygon] * ZONE + (row + ROW // 2) * ROW + column + ROW // 2
        keys, first, at = np.unique(key, return_index=True, return_inverse=True)
        of_cell = _adjacent(keys, polygon, at)
        starts = np.searchsorted(polygon, np.arange(len(geometry)))
        of_polygon = of_cell[at[starts]]
        bounds = _extents(shapely.bounds(geometry), of_polygon)
        count = np.ceil((bounds[:, 2:] - bounds[:, :2] + PIXEL_M) / side_m).astype(np.int64)
        middle = bounds.reshape(-1, 2, 2).mean(axis=1)
        corner = PIXEL_M * np.floor((middle - count * side_m / 2) / PIXEL_M + 0.5).astype(np.int64)
        beside = np.zeros((len(corner), 2))
        beside[of_polygon, 0] = shift * APART_M
        low = np.stack([column[first], row[first]], axis=1) * side_m + beside[of_cell]
        return cls(
            of_polygon=of_polygon,
            block=np.hstack([corner + beside, corner + beside + count * side_m]),
            corner=corner,
            few=count.prod(axis=1) <= np.bincount(of_cell),
            cell=np.hstack([low, low + side_m]),
            of_cell=of_cell,
        )

    def centred(self) -> NDArray[np.bool_]:
        """(m,) whether a cluster has its block rather than cells of the lattice; no square overlaps another one."""
        chosen = self.few.copy()
        inset = INSET_M * np.array([1, 1, -1, -1])
        blocks, cells = (np.asarray(shapely.box(*(edges + inset).T)) for edges in (self.block, self.cell))
        tree = shapely.STRtree(blocks)
        one, other = tree.query(blocks, predicate="intersects")
        chosen[one[(one != other) & chosen[one] & chosen[other]]] = False
        cell, block = tree.query(cells, predicate="intersects")
        foreign = self.of_cell[cell] != block
        cell, block = cell[foreign], block[foreign]
        while (hit := chosen[block] & ~chosen[self.of_cell[cell]]).any():
            chosen[block[hit]] = False
        return chosen


def _adjacent(keys: Ints, polygon: Ints, at: Ints) -> Ints:
    """Cluster of each cell: cells that touch, or belong to one polygon, are in one cluster.

    ``keys`` are the sorted numbers of the cells; ``polygon`` and ``at`` are pairs of a polygon, increasing, and the
    position of a cell.
    """
    left, right = [at[:-1][polygon[:-1] == polygon[1:]]], [at[1:][polygon[:-1] == polygon[1:]]]
    for step in (1, ROW - 1, ROW, ROW + 1):
        place = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
        there = np.flatnonzero(keys[place] == keys + step)
        left.append(there)
        right.append(place[there])
    one, other = np.concatenate(left), np.concatenate(right)
    return components(len(keys), np.concatenate([one, other]), np.concatenate([other, one]))


def _extents(bounds: Floats, cluster: Ints) -> Floats:
    """Bounds (m, 4) of the clusters of polygons with these bounds."""
    found = np.tile([np.inf, np.inf, -np.inf, -np.inf], (int(cluster.max(initial=-1)) + 1, 1))
    for edge, reduce in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        reduce.at(found[:, edge], cluster, bounds[:, edge])
    return found
