"""Equal-area map projections, of the whole world or of the region that is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import shapely
from pyproj import CRS, Transformer

from mmearth_data.catalog.tile import WGS84

if TYPE_CHECKING:
    from numpy.typing import NDArray

EQUAL_EARTH = 8857
"""EPSG code of the Equal Earth projection; Savric, Patterson and Jenny (2018), doi:10.1080/13658816.2018.1504949."""
WORLD_FROM_DEG = 50.0
"""Distance of points from their centre beyond which the map shows the whole world."""
LEAST_SPAN_M = 20_000.0
MARGIN_SHARE = 0.08
ASPECTS = (0.55, 1.6)
"""Minimum and maximum height / width of a regional map."""
STEP_DEG = 1.0
"""Edges are divided into steps of this length before projection, so that they follow its curves."""
SEAM_DEG = 0.001
WITHOUT_SEAM = (-180.0 + SEAM_DEG, -90.0 + SEAM_DEG, 180.0 - SEAM_DEG, 90.0 - SEAM_DEG)
"""Borders end here: data are cut along 180 degrees and at the poles, where there is no border."""
GRID_STEPS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A map projection and the window that is shown."""

    name: str
    crs: str
    lon_0: float
    """Central meridian; longitudes range from 180 degrees west to 180 degrees east of it."""
    window: tuple[float, float, float, float]
    """West, south, east, north in metres on the map."""
    world: bool
    """True for the whole Earth, whose frame is the projection's own outline."""

    def forward(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) metres on the map."""
        return np.column_stack(_transformer(self.crs).transform(lon, lat))

    def inverse(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude of (n, 2) metres on the map; infinite outside the map."""
        lon, lat = _transformer(self.crs).transform(points[:, 0], points[:, 1], direction="INVERSE")
        return lon, lat

    def lonlat_bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees of the area of the window, with a margin."""
        if self.world:
            return -180.0, -90.0, 180.0, 90.0
        lon, lat = self.inverse(ring_of(self.window, 200))
        south, north = float(lat.min()), float(lat.max())
        for pole in (-90.0, 90.0):
            x, y = self.forward(np.array([self.lon_0]), np.array([pole]))[0]
            if self.window[0] <= x <= self.window[2] and self.window[1] <= y <= self.window[3]:
                return self.lon_0 - 180, min(south, pole), self.lon_0 + 180, max(north, pole)
        lon = self.lon_0 + (lon - self.lon_0 + 180) % 360 - 180
        spare_lon, spare_lat = 0.02 * np.ptp(lon), 0.02 * (north - south)
        return (
            float(lon.min() - spare_lon),
            max(-90.0, south - spare_lat),
            float(lon.max() + spare_lon),
            min(90.0, north + spare_lat),
        )


@lru_cache(maxsize=8)
def _transformer(crs: str) -> Transformer:
    return Transformer.from_crs(CRS.from_epsg(WGS84), CRS(crs), always_xy=True)


def middle_of(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[float, float, float]:
    """Longitude and latitude of the mean location of points on the sphere, and their maximum distance from it; degrees.

    Examples
    --------
    >>> middle_of(np.array([179.0, -179.0]), np.array([0.0, 0.0]))
    (180.0, 0.0, 1.0)
    """
    lam, phi = np.radians(lon), np.radians(lat)
    places = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
    mean = places.mean(axis=1)
    length = float(np.linalg.norm(mean))
    if length < 1e-9:
        return 0.0, 0.0, 180.0
    x, y, z = mean / length
    reach = np.degrees(np.arccos(np.clip(places.T @ (mean / length), -1, 1).min()))
    return (
        round(float(np.degrees(np.arctan2(y, x))), 6),
        round(float(np.degrees(np.arcsin(np.clip(z, -1, 1)))), 6),
        round(float(reach), 6),
    )


def choose_projection(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Projection:
    """Equal-area map for points: Equal Earth for the world, Lambert azimuthal around their centre for a region."""
    if len(lon):
        lon_0, lat_0, reach = middle_of(lon, lat)
        if reach < WORLD_FROM_DEG:
            return _regional(lon, lat, lon_0, lat_0)
    world = Projection(name="Equal Earth", crs=f"EPSG:{EQUAL_EARTH}", lon_0=0.0, window=(0, 0, 0, 0), world=True)
    right, _ = world.forward(np.array([180.0]), np.array([0.0]))[0]
    _, top = world.forward(np.array([0.0]), np.array([90.0]))[0]
    return replace(world, window=(-float(right), -float(top), float(right), float(top)))


def _regional(lon: NDArray[np.float64], lat: NDArray[np.float64], lon_0: float, lat_0: float) -> Projection:
    crs = f"+proj=laea +lat_0={lat_0:.6f} +lon_0={lon_0:.6f} +datum=WGS84 +units=m"
    free = Projection(name="Lambert azimuthal equal-area", crs=crs, lon_0=lon_0, window=(0, 0, 0, 0), world=False)
    points = free.forward(lon, lat)
    low, high = points.min(axis=0), points.max(axis=0)
    middle = (low + high) / 2
    half_x, half_y = np.maximum((high - low) / 2 * (1 + 2 * MARGIN_SHARE), LEAST_SPAN_M / 2)
    half_y = max(half_y, ASPECTS[0] * half_x)
    half_x = max(half_x, half_y / ASPECTS[1])
    window = (middle[0] - half_x, middle[1] - half_y, middle[0] + half_x, middle[1] + half_y)
    west, south, east, north = (float(edge) for edge in window)
    return replace(free, window=(west, south, east, north))


def ring_of(window: tuple[float, float, float, float], steps: int) -> NDArray[np.float64]:
    """(n, 2) points along the edges of a window, closed."""
    west, south, east, north = window
    along = np.linspace(0, 1, steps)
    edges = [
        np.column_stack([west + (east - west) * along, np.full(steps, south)]),
        np.column_stack([np.full(steps, east), south + (north - south) * along]),
        np.column_stack([east + (west - east) * along, np.full(steps, north)]),
        np.column_stack([np.full(steps, west), north + (south - north) * along]),
    ]
    return np.concatenate(edges)


def outline(projection: Projection) -> NDArray[np.float64]:
    """Frame of a map, (n, 2) metres: the Earth's edge, or the window."""
    if not projection.world:
        return ring_of(projection.window, 2)
    lat = np.linspace(-90, 90, 181)
    lon = np.concatenate([np.full(181, -180.0), np.full(181, 180.0)])
    return projection.forward(lon, np.concatenate([lat, lat[::-1]]))


def land_rings(land: NDArray[np.object_], projection: Projection) -> list[NDArray[np.float64]]:
    """Rings (n, 2) in metres of the land within a map, holes included; ``land`` is an array of shapely geometries."""
    west, south, east, north = projection.lonlat_bounds()
    polygons = shapely.get_parts(land)
    bent: list[shapely.Geometry] = []
    for turn in (-360.0, 0.0, 360.0):  # a window around 180 degrees shows both ends of the map
        window = shapely.box(west - turn, south, east - turn, north)
        near = polygons[shapely.intersects(polygons, window)]
        cut = shapely.segmentize(shapely.intersection(near, window), STEP_DEG)
        bent += [shapely.transform(part, lambda lonlat: projection.forward(*lonlat.T)) for part in cut]
    if not projection.world:  # close the seam along which the data are cut at 180 degrees, and at a pole
        bent = [shapely.union_all(shapely.make_valid(np.asarray(bent, dtype=object)), grid_size=1.0)]
    parts = shapely.get_parts(shapely.get_parts(np.asarray(bent, dtype=object)))
    shapes = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapes)]


def border_lines(countries: NDArray[np.object_], projection: Projection) -> list[NDArray[np.float64]]:
    """Lines (n, 2) in metres along the edges of countries within a map; ``countries`` are shapely geometries."""
    west, south, east, north = projection.lonlat_bounds()
    inside = shapely.box(*WITHOUT_SEAM)
    seam = inside.boundary.buffer(SEAM_DEG)
    edges = shapely.boundary(shapely.intersection(countries, inside))
    found: list[shapely.Geometry] = []
    for turn in (-360.0, 0.0, 360.0):
        window = shapely.box(west - turn, south, east - turn, north)
        near = edges[shapely.intersects(edges, window)]
        cut = shapely.segmentize(shapely.difference(shapely.intersection(near, window), seam), STEP_DEG)
        found += shapely.get_parts(shapely.get_parts(cut)).tolist()
    lines = [line for line in found if shapely.get_type_id(line) == shapely.GeometryType.LINESTRING]
    return [projection.forward(*shapely.get_coordinates(line).T) for line in lines]


def grid_steps(projection: Projection) -> tuple[float, float]:
    """Degrees between meridians and between parallels: four to six of each across a map."""
    west, south, east, north = projection.lonlat_bounds()
    lon = next((step for step in GRID_STEPS if (east - west) / step <= 6), GRID_STEPS[-1])
    lat = next((step for step in GRID_STEPS if (north - south) / step <= 6), GRID_STEPS[-1])
    return lon, lat


def grid_lines(projection: Projection) -> list[tuple[str, float, NDArray[np.float64]]]:
    """(``lon`` or ``lat``, degrees, (n, 2) metres) of every line of a map's grid."""
    west, south, east, north = projection.lonlat_bounds()
    lon_step, lat_step = grid_steps(projection)
    along_lat, along_lon = np.linspace(south, north, 181), np.linspace(west, east, 361)
    meridians = np.arange(np.ceil(west / lon_step), np.floor(east / lon_step) + 1) * lon_step
    parallels = np.arange(np.ceil(south / lat_step), np.floor(north / lat_step) + 1) * lat_step
    return [
        *(("lon", float(lon), projection.forward(np.full(181, lon), along_lat)) for lon in meridians),
        *(("lat", float(lat), projection.forward(along_lon, np.full(361, lat))) for lat in parallels if abs(lat) < 90),
    ]
