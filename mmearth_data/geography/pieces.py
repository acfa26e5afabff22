"""Polygons cut along the cells of a grid, for fast sampling and lookup of millions of points.

A piece either fills its cell, so that no point in it needs a test, or is a small polygon that is cheap to test.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import MAX_LAT, MIN_LAT
from mmearth_data.geography.equal_area import (
    X_PER_DEGREE,
    CellGrid,
    Floats,
    Ints,
    areas_m2,
    matches,
    runs,
    y_of_latitude,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Geometries = np.ndarray[Any, np.dtype[np.object_]]
Ranges = tuple[Ints, ...]
"""First column, first row, last column, last row."""
POLYGON = int(shapely.GeometryType.POLYGON)
_CHUNK = 20_000
"""Geometries per task of a thread; results do not depend on it."""


@dataclass(frozen=True)
class Pieces:
    """Disjoint polygons, each within one cell of a grid; all arrays have one entry per piece."""

    grid: CellGrid
    owner: Ints
    """Number of the polygon that the piece was cut from."""
    cell: Ints
    area_m2: Floats
    """Area on the ellipsoid."""
    geometry: Geometries
    """Polygon in EPSG:4326, None if the piece fills its cell."""

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: NDArray[Any]) -> Pieces:
        """Select pieces by positions or by a mask."""
        return Pieces(self.grid, self.owner[index], self.cell[index], self.area_m2[index], self.geometry[index])

    def polygons(self) -> Geometries:
        """All pieces as polygons, whole cells included."""
        full = shapely.is_missing(self.geometry)
        polygons = self.geometry.copy()
        polygons[full] = shapely.box(*self.grid.bounds_of(self.cell[full]))
        return polygons


def cut(geometries: Geometries, owner: Ints, grid: CellGrid, threads: int = 1) -> Pieces:
    """Cut polygons along the cells of a grid.

    Every polygon is halved repeatedly until each part is within one cell, so that the work grows with the logarithm of
    the number of cells. Areas beyond 84 N or 80 S, where there are no tiles, are left out. ``geometries`` are valid
    polygons, multipolygons or collections in EPSG:4326, longitudes in -180..180; the number in ``owner`` is repeated on
    their pieces. The pieces and their order do not depend on ``threads``.
    """
    parts, index = polygons_of(geometries)
    parts, owner = _clip(parts, owner[index], (-180.0, MIN_LAT, 180.0, MAX_LAT), threads)
    done = [(np.zeros(0, dtype=object), np.zeros(0, np.int64), np.zeros(0, np.int64))]
    while len(parts):
        bounds = shapely.bounds(parts)
        west, south, east, north = ranges = _cell_range(bounds, grid)
        one = (west == east) & (south == north)
        done.append((parts[one], owner[one], south[one] * grid.columns + west[one]))
        boxes = ~one & _is_box(parts, bounds)
        done.append(_cut_boxes(bounds[boxes], owner[boxes], tuple(side[boxes] for side in ranges), grid))
        rest = ~one & ~boxes
        parts, owner = _halve(parts[rest], owner[rest], tuple(side[rest] for side in ranges), grid, threads)
    geometry, owners, cells = (np.concatenate(column) for column in zip(*done, strict=True))
    order = np.lexsort((cells, owners))
    return _measured(grid, owners[order], cells[order], geometry[order])


def intersect(pieces: Pieces, mask: Pieces, threads: int = 1) -> Pieces:
    """Intersect pieces with a mask cut along the same grid; owners are those of the pieces."""
    order = np.argsort(mask.cell, kind="stable")
    right, left = matches(mask.cell[order], pieces.cell, pieces.cell)
    base, cover = pieces.take(left), mask.take(order[right])
    geometry, area = base.geometry.copy(), base.area_m2.copy()
    whole = shapely.is_missing(base.geometry)
    geometry[whole], area[whole] = cover.geometry[whole], cover.area_m2[whole]
    both = np.flatnonzero(~whole & ~shapely.is_missing(cover.geometry))
    shared = _in_chunks(shapely.intersection, threads, geometry[both], cover.geometry[both])
    parts, index = polygons_of(shared)
    rest = np.setdiff1d(np.arange(len(base)), both)
    source = np.concatenate([rest, both[index]])
    joined = Pieces(
        pieces.grid,
        base.owner[source],
        base.cell[source],
        np.concatenate([area[rest], areas_m2(parts)]),
        np.concatenate([geometry[rest], parts]),
    )
    return joined.take(np.argsort(source, kind="stable"))


def polygons_of(geometries: Geometries) -> tuple[Geometries, Ints]:
    """(polygons, position of the geometry that each belongs to); lines and points are dropped."""
    parts, first = shapely.get_parts(geometries, return_index=True)
    parts, second = shapely.get_parts(parts, return_index=True)  # collections contain multipolygons
    keep = (shapely.get_type_id(parts) == POLYGON) & ~shapely.is_empty(parts)
    return parts[keep], first[second[keep]]


def contains(geometry: Geometries, of: Ints, lon: Floats, lat: Floats, threads: int = 1) -> NDArray[np.bool_]:
    """Whether each point is inside its geometry.

    ``geometry`` are (m,) prepared polygons, of which None contains everything; ``of`` is the (n,) position of each
    point's geometry, ``lon`` and ``lat`` are (n,) degrees.
    """
    inside = np.asarray(shapely.is_missing(geometry), dtype=bool)[of]
    test = np.flatnonzero(~inside)
    test = test[np.argsort(of[test], kind="stable")]
    if len(test):
        points = geometry[of[test]], lon[test], lat[test]
        inside[test] = _in_chunks(shapely.contains_xy, threads, *points, group=of[test])
    return inside


def _cell_range(bounds: Floats, grid: CellGrid) -> Ranges:
    """First and last column and row that each box overlaps; touching an edge does not count."""
    west, south = grid.column_of(bounds[:, 0]), grid.row_of(bounds[:, 1])
    east, north = grid.column_of(bounds[:, 2]), grid.row_of(bounds[:, 3])
    east = np.maximum(west, east - (grid.west_of(east) >= bounds[:, 2]))
    north = np.maximum(south, north - (grid.south_of(north) >= bounds[:, 3]))
    # Rounding may put a corner on an edge one cell too low; the box is then in the next cell.
    west = np.minimum(east, west + (grid.west_of(west + 1) <= bounds[:, 0]))
    south = np.minimum(north, south + (grid.south_of(south + 1) <= bounds[:, 1]))
    return west, south, east, north


def _halve(parts: Geometries, owner: Ints, ranges: Ranges, grid: CellGrid, threads: int) -> tuple[Geometries, Ints]:
    """Cut each polygon at the cell edge nearest to its middle, across its longer side."""
    west, south, east, north = ranges
    upright = (east - west) >= (north - south)
    lon = np.where(upright, grid.west_of((west + east + 1) // 2), 180.0)
    lat = np.where(upright, 90.0, grid.south_of((south + north + 1) // 2))
    world = np.full(len(parts), -180.0), np.full(len(parts), -90.0), np.full(len(parts), 180.0)
    low = (world[0], world[1], lon, lat)
    high = (np.where(upright, lon, -180.0), np.where(upright, -90.0, lat), world[2], np.full(len(parts), 90.0))
    halves = [_clip(parts, owner, box, threads) for box in (low, high)]
    return np.concatenate([half[0] for half in halves]), np.concatenate([half[1] for half in halves])


def _clip(parts: Geometries, owner: Ints, box: tuple[Any, Any, Any, Any], threads: int) -> tuple[Geometries, Ints]:
    clipped = _in_chunks(shapely.intersection, threads, parts, np.broadcast_to(shapely.box(*box), parts.shape))
    polygons, index = polygons_of(clipped)
    return polygons, owner[index]


def _is_box(parts: Geometries, bounds: Floats) -> NDArray[np.bool_]:
    """Whether polygons are axis-aligned rectangles, as most parts of a large polygon become."""
    box = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
    fills: NDArray[np.bool_] = shapely.area(parts) >= box * (1 - 1e-12)
    return np.asarray(fills & (shapely.get_num_coordinates(parts) == 5), dtype=bool)


def _cut_boxes(bounds: Floats, owner: Ints, ranges: Ranges, grid: CellGrid) -> tuple[Geometries, Ints, Ints]:
    """Cut rectangles into all their cells at once: (polygon, or None if it fills its cell; owner; cell)."""
    west, south, east, north = ranges
    columns, rows = east - west + 1, north - south + 1
    source, nth = runs(columns * rows)
    cell = (south[source] + nth // columns[source]) * grid.columns + west[source] + nth % columns[source]
    inside = np.column_stack(grid.bounds_of(cell))
    limits = bounds[source]
    sides = np.column_stack([np.maximum(inside[:, :2], limits[:, :2]), np.minimum(inside[:, 2:], limits[:, 2:])])
    part = (sides != inside).any(axis=1)
    geometry = np.full(len(cell), None, dtype=object)
    geometry[part] = shapely.box(*sides[part].T)
    return geometry, owner[source], cell


def _measured(grid: CellGrid, owner: Ints, cell: Ints, geometry: Geometries) -> Pieces:
    """Compute areas; drop pieces without area, and the geometry of those that fill their cell."""
    west, south, east, north = grid.bounds_of(cell)
    known = ~shapely.is_missing(geometry)
    box = (east - west) * (north - south)
    full = (shapely.get_num_coordinates(geometry) <= 5) & (shapely.area(geometry) > box * (1 - 1e-9))
    area = (east - west) * X_PER_DEGREE * (y_of_latitude(north) - y_of_latitude(south))
    area[known & ~full] = areas_m2(geometry[known & ~full])
    geometry = geometry.copy()
    geometry[full] = None
    return Pieces(grid, owner, cell, area, geometry).take(area > 0)


def _in_chunks(
    function: Callable[..., Any], threads: int, *arrays: NDArray[Any], group: Ints | None = None
) -> NDArray[Any]:
    """Apply an elementwise function to arrays in several threads (shapely releases the interpreter lock).

    Entries of one ``group`` (sorted) go to one thread: GEOS builds the index of a prepared polygon on first use,
    without a lock, so two threads with the same polygon would corrupt the heap.
    """
    if threads <= 1 or len(arrays[0]) <= _CHUNK:
        return np.asarray(function(*arrays))
    starts = np.arange(0, len(arrays[0]), _CHUNK)
    if group is not None:
        starts = np.unique(np.searchsorted(group, group[starts]))
    ends = [*starts[1:].tolist(), len(arrays[0])]
    chunks = [[array[start:end] for array in arrays] for start, end in zip(starts.tolist(), ends, strict=True)]
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(partial(_call, function), chunks)))


def _call(function: Callable[..., Any], arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return np.asarray(function(*arrays))
