"""Distance to the real coastline (Natural Earth).

Near the coast the distance to the nearest stretch of coastline is exact; beyond `REACH_M` only land and sea are
distinguished. A lattice of states marks where the exact distance is needed; a coarse lattice has the distance inland.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely

from mmearth_data.geography.equal_area import runs
from mmearth_data.planet.noise import EARTH_RADIUS_M, unit_vectors
from mmearth_data.resources import resource_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.planet.noise import Float32, Float64

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]

REACH_M = 8_000.0
"""Limit of distances; the detail that the planet adds to the coast is much smaller."""
STRETCH_M = 10_000.0
"""Maximum length of a stretch of coastline, so that it is straight on the sphere as well."""
STATES_PER_DEG = 10
BUCKETS_PER_DEG = 2
BUCKET_COLUMNS = 360 * BUCKETS_PER_DEG
INLAND_DEG = 2.0
FARTHEST_M = 26_000.0
"""Maximum distance of points in a `COAST` cell to the coast: reach, half a stretch, the diagonal of the cell."""
SEA, LAND, COAST = 0, 1, 2
METRES_PER_DEG = EARTH_RADIUS_M * np.pi / 180


class Coastline(NamedTuple):
    """Stretches of coastline, with land to their left, sorted by bucket."""

    start: Float64
    """(n, 3) unit vectors."""
    step: Float64
    """(n, 3) from start to end."""
    left: Float64
    """(n, 3) unit normals that point to the land, tangential to the sphere."""
    left_start: Float64
    """(n, 3) sum of the normals that meet at the start: the side of points to which the start is nearest."""
    left_end: Float64
    first: Int64
    """(buckets + 1,) index of the first stretch of each bucket."""


class Land:
    """Land and sea, from land polygons in degrees."""

    def __init__(self, polygons: NDArray[np.object_]) -> None:
        lonlat, after = _stretches(polygons)
        inside = _inside(lonlat)
        self._states = _states(lonlat, inside)
        self._coast = _coastline(lonlat, after)
        self._inland = _inland(lonlat, inside)

    def distance(self, lon: Float64, lat: Float64, xyz: Float64) -> Float32:
        """Metres to the coast, positive on land, limited to +-`REACH_M`.

        ``lon`` and ``lat`` are degrees of any shape, ``xyz`` the same points on the unit sphere, (3, ...).
        """
        rows, columns = self._states.shape
        row = np.clip(((lat + 90) * STATES_PER_DEG).astype(np.int64), 0, rows - 1)
        state = self._states[row, np.floor((lon + 180) * STATES_PER_DEG).astype(np.int64) % columns]
        out = np.where(state == LAND, np.float32(REACH_M), np.float32(-REACH_M))
        near = state == COAST
        if near.any():
            metres = self._exact(lon[near], lat[near], np.moveaxis(xyz, 0, -1)[near])
            out[near] = np.clip(metres, -REACH_M, REACH_M)
        return out.astype(np.float32)

    def _exact(self, lon: Float64, lat: Float64, points: Float64) -> Float64:
        ids = self._stretches_around(lon, lat)
        start, step = self._coast.start[ids], self._coast.step[ids]
        offset = points[:, None] - start
        t = np.clip(_dot(offset, step) / _dot(step, step), 0, 1)
        offset -= t[..., None] * step
        square = _dot(offset, offset)
        best = np.argmin(square, axis=1)
        line = np.arange(len(points))
        t_best, nearest = t[line, best], ids[best]
        side = np.where((t_best > 0)[:, None], self._coast.left[nearest], self._coast.left_start[nearest])
        side = np.where((t_best < 1)[:, None], side, self._coast.left_end[nearest])
        metres = np.sqrt(square[line, best]) * EARTH_RADIUS_M
        found: Float64 = np.where(_dot(offset[line, best], side) >= 0, metres, -metres)
        return found

    def _stretches_around(self, lon: Float64, lat: Float64) -> Int64:
        """Find at least all stretches within `FARTHEST_M` of any of the points."""
        margin = FARTHEST_M / METRES_PER_DEG
        south, north = float(lat.min()) - margin, float(lat.max()) + margin
        widen = margin / max(np.cos(np.radians(min(max(abs(south), abs(north)), 89.0))), 0.02)
        first_row, last_row = (int(np.floor((edge + 90) * BUCKETS_PER_DEG)) for edge in (south, north))
        west, east = float(lon.min()) - widen, float(lon.max()) + widen
        first, last = (int(np.floor((edge + 180) * BUCKETS_PER_DEG)) for edge in (west, east))
        columns = np.unique(np.arange(first, min(last, first + BUCKET_COLUMNS - 1) + 1) % BUCKET_COLUMNS)
        rows = np.arange(max(first_row, 0), min(last_row, 180 * BUCKETS_PER_DEG - 1) + 1)
        buckets = (rows[:, None] * BUCKET_COLUMNS + columns).ravel().tolist()
        limits = self._coast.first
        return np.concatenate([np.arange(limits[b], limits[b + 1]) for b in buckets])

    def coastal_cells(self, per_deg: int) -> NDArray[np.bool_]:
        """Cells of a lattice, (row from the south, column from the west), with coast within reach."""
        found: NDArray[np.bool_] = np.any(_blocks(self._states == COAST, per_deg), axis=(1, 3))
        return found

    def land_cells(self, per_deg: int) -> NDArray[np.bool_]:
        """Cells of a lattice that may contain land."""
        found: NDArray[np.bool_] = np.any(_blocks(self._states != SEA, per_deg), axis=(1, 3))
        return found

    def full_cells(self, per_deg: int) -> NDArray[np.bool_]:
        """Cells of a lattice that are entirely land."""
        found: NDArray[np.bool_] = np.all(_blocks(self._states == LAND, per_deg), axis=(1, 3))
        return found

    def inland(self, lon: Float64, lat: Float64) -> Float32:
        """Metres to the coast at the scale of continents, smooth, positive on land."""
        i, west, east, s, t = between_cells(lon, lat, 1 / INLAND_DEG, self._inland.shape)
        one = np.float32(1)
        south = self._inland[i, west] * (one - t) + self._inland[i, east] * t
        north = self._inland[i + 1, west] * (one - t) + self._inland[i + 1, east] * t
        found: Float32 = south * (one - s) + north * s
        return found


def between_cells(
    lon: Float64, lat: Float64, per_deg: float, shape: tuple[int, ...]
) -> tuple[Int64, Int64, Int64, Float32, Float32]:
    """Cells around points: row to the south, columns to the west and east; distance north and east of their centres."""
    rows, columns = shape
    y = np.clip((lat + 90) * per_deg - 0.5, 0, rows - 1.000001)
    x = (lon + 180) * per_deg - 0.5
    i, j = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    return i, j % columns, (j + 1) % columns, (y - i).astype(np.float32), (x - j).astype(np.float32)


@lru_cache(maxsize=1)
def natural_earth() -> Land:
    """Land of the real Earth."""
    return Land(land_polygons())


@lru_cache(maxsize=1)
def land_polygons() -> NDArray[np.object_]:
    """Land polygons that ship with the catalog, in degrees."""
    import geopandas as gpd

    frame = gpd.read_parquet(resource_path("catalog") / "regions" / "land.parquet")
    return shapely.get_parts(np.asarray(frame.geometry.array, dtype=object))


def _blocks(states: NDArray[np.bool_], per_deg: int) -> NDArray[np.bool_]:
    side = STATES_PER_DEG // per_deg
    return states.reshape(180 * per_deg, side, 360 * per_deg, side)


def _dot(a: Float64, b: Float64) -> Float64:
    """Dot product over the last axis; written out, since the rounding of a library's product may depend on its size."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _stretches(polygons: NDArray[np.object_]) -> tuple[Float64, Int64]:
    """Divide all rings into short stretches: (n, 2, 2) start and end in degrees, (n,) index of the following one."""
    rings = shapely.get_rings(shapely.orient_polygons(polygons))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    a, b = points[:-1][same], points[1:][same]
    length = np.linalg.norm(unit_vectors(*a.T) - unit_vectors(*b.T), axis=0) * EARTH_RADIUS_M
    real = length > 0
    a, b, length, ring = a[real], b[real], length[real], ring[:-1][same][real]
    pieces = np.ceil(length / STRETCH_M).astype(np.int64)
    owner, k = runs(pieces)
    low, high = ((k + end) / pieces[owner] for end in (0, 1))
    start = a[owner] + (b - a)[owner] * low[:, None]
    end = a[owner] + (b - a)[owner] * high[:, None]
    rings_of = ring[owner]
    opens = np.r_[True, rings_of[1:] != rings_of[:-1]]
    first = np.flatnonzero(opens)
    after = np.arange(1, len(owner) + 1)
    after[np.r_[first[1:], len(owner)] - 1] = first
    return np.stack([start, end], axis=1), after


def _inside(lonlat: Float64) -> NDArray[np.bool_]:
    """Whether the centre of each state cell (row from the south, column from the west) is in a ring: even-odd rule."""
    rows, columns = 180 * STATES_PER_DEG, 360 * STATES_PER_DEG
    y = (lonlat[..., 1] + 90) * STATES_PER_DEG - 0.5
    x = (lonlat[..., 0] + 180) * STATES_PER_DEG - 0.5
    low, high = np.floor(y[:, 0]).astype(np.int64), np.floor(y[:, 1]).astype(np.int64)
    toggles = np.zeros((rows, columns + 1), np.uint8)
    for step in range(int(np.abs(high - low).max())):
        row = np.minimum(low, high) + 1 + step
        crosses = (row <= np.maximum(low, high)) & (row >= 0) & (row < rows)
        t = (row[crosses] - y[crosses, 0]) / (y[crosses, 1] - y[crosses, 0])
        column = np.ceil(x[crosses, 0] + t * (x[crosses, 1] - x[crosses, 0])).astype(np.int64)
        np.add.at(toggles, (row[crosses], np.clip(column, 0, columns)), 1)
    return (np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint16) & 1).astype(bool)


def _states(lonlat: Float64, inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """State of each cell; `COAST` if coast is within reach of any of its points."""
    states = np.where(inside, LAND, SEA).astype(np.uint8)
    rows, columns = states.shape
    lon, lat = lonlat[~_artificial(lonlat), 0].T
    margin = (REACH_M + STRETCH_M) / METRES_PER_DEG
    widen = margin / np.maximum(np.cos(np.radians(np.minimum(np.abs(lat) + margin, 89.0))), 0.02)
    for up in np.linspace(-1, 1, 5):
        row = np.clip(((lat + up * margin + 90) * STATES_PER_DEG).astype(np.int64), 0, rows - 1)
        for right in np.linspace(-1, 1, 41):
            states[row, np.floor((lon + right * widen + 180) * STATES_PER_DEG).astype(np.int64) % columns] = COAST
    return states


def _artificial(lonlat: Float64) -> NDArray[np.bool_]:
    """Whether stretches result from the map projection: along the antimeridian, and around the pole."""
    found: NDArray[np.bool_] = np.all(np.abs(lonlat[..., 0]) > 179.9999, axis=1) | np.any(
        lonlat[..., 1] < -89.99, axis=1
    )
    return found


def _coastline(lonlat: Float64, after: Int64) -> Coastline:
    real = ~_artificial(lonlat)
    start = unit_vectors(lonlat[:, 0, 0], lonlat[:, 0, 1]).T
    end = unit_vectors(lonlat[:, 1, 0], lonlat[:, 1, 1]).T
    left = np.cross(start, end)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    solid = left * real[:, None]
    left_end = solid + solid[after]
    left_start = np.empty_like(left_end)
    left_start[after] = left_end
    middle = lonlat.mean(axis=1)
    row = np.clip((middle[:, 1] + 90) * BUCKETS_PER_DEG, 0, 180 * BUCKETS_PER_DEG - 1).astype(np.int64)
    column = np.clip((middle[:, 0] + 180) * BUCKETS_PER_DEG, 0, BUCKET_COLUMNS - 1).astype(np.int64)
    bucket = np.where(real, row * BUCKET_COLUMNS + column, 180 * BUCKETS_PER_DEG * BUCKET_COLUMNS)
    order = np.argsort(bucket, kind="stable")[: int(real.sum())]
    first = np.searchsorted(bucket[order], np.arange(180 * BUCKETS_PER_DEG * BUCKET_COLUMNS + 1))
    return Coastline(start[order], (end - start)[order], left[order], left_start[order], left_end[order], first)


def _inland(lonlat: Float64, inside: NDArray[np.bool_]) -> Float32:
    """Distance to the coast on a coarse lattice, (row from the south, column from the west)."""
    middle = lonlat[~_artificial(lonlat)].mean(axis=1)
    _, kept = np.unique(np.floor(middle) @ np.array([1, 1000]), return_index=True)
    coast = unit_vectors(*middle[kept].T).astype(np.float32)
    lat = np.arange(-90 + INLAND_DEG / 2, 90, INLAND_DEG)
    lon = np.arange(-180 + INLAND_DEG / 2, 180, INLAND_DEG)
    every = int(INLAND_DEG * STATES_PER_DEG)
    on_land = inside[every // 2 :: every, every // 2 :: every]
    out = np.empty(on_land.shape, np.float32)
    for i, parallel in enumerate(lat):
        x, y, z = unit_vectors(lon, np.full_like(lon, parallel)).astype(np.float32)
        cosine = (x[:, None] * coast[0] + y[:, None] * coast[1] + z[:, None] * coast[2]).max(axis=1)
        out[i] = np.arccos(np.clip(cosine.astype(np.float64), -1, 1)) * EARTH_RADIUS_M
    return np.where(on_land, out, -out)
