"""The equal-area plane (EPSG:6933) in closed form, and a grid of square cells on it.

EPSG:6933 is the cylindrical equal-area projection of the WGS 84 ellipsoid, true at 30 degrees. Its x depends only on
longitude and its y only on latitude, so a cell of the plane is also a rectangle in degrees, and points that are uniform
in (longitude, y) are uniform on the Earth. Formulas: Snyder, "Map projections - a working manual" (1987), equations
3-12, 10-13 to 10-18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

SEMI_MAJOR_M = 6378137.0
_FLATTENING = 1 / 298.257223563
_E2 = _FLATTENING * (2 - _FLATTENING)
_E = math.sqrt(_E2)
_K0 = math.cos(math.radians(30)) / math.sqrt(1 - _E2 * math.sin(math.radians(30)) ** 2)
X_PER_DEGREE = SEMI_MAJOR_M * _K0 * math.pi / 180
MAX_X = 180 * X_PER_DEGREE


def _q(sin_lat: Floats) -> Floats:
    """Snyder 3-12: twice the area per radian of longitude between the equator and a latitude, over the axis squared."""
    return (1 - _E2) * (sin_lat / (1 - _E2 * sin_lat**2) + np.arctanh(_E * sin_lat) / _E)


_Q_POLE = float(_q(np.array(1.0)))
_Y_SCALE = SEMI_MAJOR_M / (2 * _K0)
MAX_Y = _Y_SCALE * _Q_POLE


def y_of_latitude(lat: Floats) -> Floats:
    """Northing of EPSG:6933, metres, of latitudes in degrees."""
    return _Y_SCALE * _q(np.sin(np.deg2rad(lat)))


def latitude_of_y(y: Floats) -> Floats:
    """Latitude in degrees of northings of EPSG:6933, to about 1e-10 degree."""
    beta = np.arcsin(np.clip(np.asarray(y, dtype=np.float64) / MAX_Y, -1.0, 1.0))
    e4, e6 = _E2**2, _E2**3
    # Snyder 3-18 stops at e^6, an error of 1e-7 degree; one step of Newton's method removes it.
    lat = (
        beta
        + (_E2 / 3 + 31 * e4 / 180 + 517 * e6 / 5040) * np.sin(2 * beta)
        + (23 * e4 / 360 + 251 * e6 / 3780) * np.sin(4 * beta)
        + (761 * e6 / 45360) * np.sin(6 * beta)
    )
    sin_lat = np.sin(lat)
    slope = np.cos(lat) * 2 * (1 - _E2) / (1 - _E2 * sin_lat**2) ** 2
    step = (np.asarray(y) / _Y_SCALE - _q(sin_lat)) / np.maximum(slope, 1e-9)
    found: Floats = np.rad2deg(np.where(np.abs(beta) < 1.57, lat + step, lat))
    return found


def metres_per_degree(lat: Floats) -> tuple[Floats, Floats]:
    """(east, north) metres on the ellipsoid per degree of longitude and of latitude."""
    w2 = 1 - _E2 * np.sin(np.deg2rad(lat)) ** 2
    east = SEMI_MAJOR_M * np.cos(np.deg2rad(lat)) / np.sqrt(w2)
    north = SEMI_MAJOR_M * (1 - _E2) / w2**1.5
    return np.deg2rad(east), np.deg2rad(north)


def sums(index: Ints, values: Floats, count: int) -> Floats:
    """Sum the values of each index 0 .. count - 1."""
    return np.asarray(np.bincount(index, values, minlength=count), dtype=np.float64)


def runs(count: Ints) -> tuple[Ints, Ints]:
    """(owner, position within it) of every item, if each owner has a number of items."""
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)


def matches(keys: Ints, first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """(position in the sorted keys, number of the range) of every key in each of the ranges first .. last."""
    start = np.searchsorted(keys, first, side="left")
    owner, nth = runs(np.searchsorted(keys, last, side="right") - start)
    return start[owner] + nth, owner


def areas_m2(geometries: NDArray[np.object_]) -> Floats:
    """Areas on the ellipsoid of polygons in degrees whose edges are straight in longitude and latitude.

    The area under an edge is the integral of y over x, computed with three Gauss points: exact to 1e-9 for the short
    edges of real polygons. Transforming only the corners would bend every edge.
    """
    polygons, owner = shapely.get_parts(geometries, return_index=True)
    nested, index = shapely.get_parts(polygons, return_index=True)  # a collection may contain multipolygons
    keep = shapely.get_type_id(nested) == shapely.GeometryType.POLYGON
    polygons, owner = nested[keep], owner[index[keep]]
    rings, polygon = shapely.get_rings(polygons, return_index=True)
    if not len(rings):
        return np.zeros(len(geometries))
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    inner = ring[1:] == ring[:-1]
    start, step = xy[:-1][inner], np.diff(xy, axis=0)[inner]
    middle = sum(
        weight * y_of_latitude(start[:, 1] + at * step[:, 1])
        for at, weight in ((0.5 - math.sqrt(0.15), 5 / 18), (0.5, 8 / 18), (0.5 + math.sqrt(0.15), 5 / 18))
    )
    ring_area = np.abs(sums(ring[1:][inner], step[:, 0] * middle, len(rings))) * X_PER_DEGREE
    exterior = np.append(True, polygon[1:] != polygon[:-1])
    return sums(owner[polygon], np.where(exterior, ring_area, -ring_area), len(geometries))


@dataclass(frozen=True, slots=True)
class CellGrid:
    """Square cells of the equal-area plane, numbered from its lower-left corner; the last column may be narrower."""

    width_m: float
    """Side of a cell in the plane."""

    @property
    def columns(self) -> int:
        """Cells from 180 W to 180 E."""
        return math.ceil(2 * MAX_X / self.width_m - 1e-9)

    @property
    def rows(self) -> int:
        """Cells from pole to pole."""
        return math.ceil(2 * MAX_Y / self.width_m - 1e-9)

    def west_of(self, column: Ints) -> Floats:
        """Longitude of a column's western edge, degrees."""
        found: Floats = np.minimum(np.asarray(column) * (self.width_m / X_PER_DEGREE) - 180.0, 180.0)
        return found

    def south_of(self, row: Ints) -> Floats:
        """Latitude of a row's southern edge, degrees."""
        y = np.asarray(row) * self.width_m - MAX_Y
        return np.where(y >= MAX_Y, 90.0, np.where(y <= -MAX_Y, -90.0, latitude_of_y(np.minimum(y, MAX_Y))))

    def column_of(self, lon: Floats) -> Ints:
        """Column of longitudes in -180..180 degrees."""
        column = np.floor((np.asarray(lon) + 180.0) * (X_PER_DEGREE / self.width_m)).astype(np.int64)
        return np.clip(column, 0, self.columns - 1)

    def row_of(self, lat: Floats) -> Ints:
        """Row of latitudes in degrees."""
        row = np.floor((y_of_latitude(np.asarray(lat, dtype=np.float64)) + MAX_Y) / self.width_m).astype(np.int64)
        return np.clip(row, 0, self.rows - 1)

    def cell_of(self, lon: Floats, lat: Floats) -> Ints:
        """Find the cell of each point: its number is row * columns + column."""
        return self.row_of(lat) * self.columns + self.column_of(lon)

    def bounds_of(self, cell: Ints) -> tuple[Floats, Floats, Floats, Floats]:
        """(west, south, east, north) of cells, degrees."""
        row, column = np.divmod(cell, self.columns)
        return self.west_of(column), self.south_of(row), self.west_of(column + 1), self.south_of(row + 1)
