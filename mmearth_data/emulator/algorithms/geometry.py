"""Geometries: shapes on the globe, and how they relate.

A geometry has a CRS, and edges that are either shortest paths on the sphere or straight lines of the CRS. Two
geometries are compared in the gnomonic projection around the smaller one, in which shortest paths are straight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import shapely.affinity
from pyproj import Proj
from shapely.geometry import mapping, shape

from mmearth_data.emulator.algorithms.image import WGS84, Image, parsed_crs, transformed, transformer
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, encode, named, promotion

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Value

    Float = NDArray[np.float64]
    Positions = Callable[[Float, Float], tuple[Float, Float]]

WIDEST_DEG = 60.0
"""Larger shapes are compared in plain longitude and latitude: the gnomonic plane ends at a quarter of the globe."""
BEND_DEG = 5.0
"""Upper bound on the deviation of a shortest path of 60 degrees of longitude: atan(tan 43 / cos 30) - 43 = 4.1."""
LONG_DEG, POLAR_DEG = 10.0, 80.0
"""Limits within which the deviation of an edge is known to second order."""
TURN_DEG = 360.0
PIECES = 16
"""Number of pieces of an edge that is curved in another projection."""
STRAIGHT_DEG = 1.0
"""Longest piece of an edge that is straight in degrees: along 60 N, it deviates 0.1 km from the shortest path."""
WORLD = shapely.box(-180, -90, 180, 90)


@named("Geometry")
@dataclass(frozen=True)
class Geometry:
    """A shape on the globe."""

    shape: BaseGeometry  # In units of the CRS. Longitudes beyond 180 degrees are fine.
    crs: str = WGS84
    geodesic: bool = True  # True if edges are shortest paths, false if they are straight in the CRS
    unbounded: bool = False  # True for the whole globe

    @property
    def kind(self) -> str:
        """Type, as GeoJSON names it."""
        return str(self.shape.geom_type)

    @cached_property
    def lonlat(self) -> BaseGeometry:
        """Shape in EPSG:4326; edges that are curved there are cut first."""
        if self.crs == WGS84:
            return self.shape
        return reprojected(self.shape, self.crs, WGS84)

    @property
    def straight(self) -> bool:
        """Whether its edges, if it has any, are straight in longitude and latitude."""
        return self.kind in {"Point", "MultiPoint"} or (self.crs == WGS84 and not self.geodesic)

    @cached_property
    def key(self) -> tuple[bytes, str, bool]:
        """Equal for equal geometries."""
        return self.shape.wkb, self.crs, self.geodesic


def rectangle(west: float, south: float, east: float, north: float) -> BaseGeometry:
    """Rectangle whose ring is counter-clockwise from the lower left, as Earth Engine's are."""
    return shapely.Polygon([(west, south), (east, south), (east, north), (west, north)])


EVERYWHERE = Geometry(WORLD, geodesic=False, unbounded=True)
NOWHERE = Geometry(shapely.GeometryCollection(), geodesic=False)


def reprojected(geometry: BaseGeometry, source: str, target: str) -> BaseGeometry:
    """Shape in another CRS; long edges are cut, since they are curved there."""
    if source == target:
        return geometry
    west, south, east, north = geometry.bounds if not geometry.is_empty else (0, 0, 0, 0)
    step = max(east - west, north - south) / PIECES
    cut = shapely.segmentize(geometry, step) if step > 0 else geometry
    return transformed(cut, transformer(source, target).transform)


def middle_of(geometry: BaseGeometry) -> tuple[float, float]:
    """(lon, lat) in the middle of a shape's bounds."""
    west, south, east, north = geometry.bounds
    return (west + east) / 2, (south + north) / 2


def gnomonic(lon0: float, lat0: float) -> Positions:
    """Projection in which shortest paths on the sphere are straight; NaN a quarter of the globe away or more."""
    sin0, cos0 = math.sin(math.radians(lat0)), math.cos(math.radians(lat0))

    def positions(lon: Float, lat: Float) -> tuple[Float, Float]:
        turn, phi = np.radians(lon - lon0), np.radians(lat)
        along = np.cos(phi) * np.cos(turn)
        ahead = sin0 * np.sin(phi) + cos0 * along
        ahead = np.where(ahead > 0.05, ahead, np.nan)
        return np.cos(phi) * np.sin(turn) / ahead, (cos0 * np.sin(phi) - sin0 * along) / ahead

    return positions


def _extent(geometry: BaseGeometry) -> float:
    west, south, east, north = geometry.bounds
    return max(east - west, north - south)


def _beside(geometry: BaseGeometry, lon: float) -> BaseGeometry:
    """Shape moved by whole turns of the globe to be near a longitude."""
    turns = TURN_DEG * round((lon - middle_of(geometry)[0]) / TURN_DEG)
    return shapely.affinity.translate(geometry, turns) if turns else geometry


def _valid(geometry: BaseGeometry) -> BaseGeometry:
    return geometry if geometry.is_valid else shapely.make_valid(geometry)


def around(geometry: BaseGeometry, other: BaseGeometry) -> BaseGeometry:
    """All copies of a shape in degrees, whole turns of the globe apart, that are within another shape's longitudes."""
    if geometry.is_empty or other.is_empty:
        return geometry
    west, _, east, _ = geometry.bounds
    left, _, right, _ = other.bounds
    turns = range(math.ceil((left - east) / TURN_DEG), math.floor((right - west) / TURN_DEG) + 1)
    if turns == range(1):
        return geometry
    return shapely.union_all([shapely.affinity.translate(_valid(geometry), TURN_DEG * k) for k in turns])


def _span(a: BaseGeometry, b: BaseGeometry) -> float:
    """Degrees of longitude that two shapes span together; NaN if one is empty."""
    return float(np.maximum(a.bounds[2], b.bounds[2]) - np.minimum(a.bounds[0], b.bounds[0]))


def _aligned(a: BaseGeometry, b: BaseGeometry) -> BaseGeometry | None:
    """Second shape, moved so that both together span at most one turn of the globe; None if that is impossible."""
    if a.is_empty or b.is_empty:
        return b
    return next((near for near in (b, _beside(b, middle_of(a)[0])) if _span(a, near) <= TURN_DEG), None)


def united_lonlat(a: BaseGeometry, b: BaseGeometry) -> BaseGeometry:
    """Union of two shapes in degrees."""
    near = _aligned(a, b)
    return shapely.union(a, shapely.difference(b, around(a, b)) if near is None else near)


def either_lonlat(a: BaseGeometry, b: BaseGeometry) -> BaseGeometry:
    """Symmetric difference of two shapes in degrees."""
    near = _aligned(a, b)
    if near is not None:
        return shapely.symmetric_difference(a, near)
    return shapely.union(shapely.difference(a, around(b, a)), shapely.difference(b, around(a, b)))


def shared_lonlat(a: BaseGeometry, b: BaseGeometry) -> BaseGeometry:
    """Intersection of two shapes in degrees."""
    return shapely.intersection(a, around(b, a))


def together(left: Geometry, right: Geometry) -> tuple[BaseGeometry, BaseGeometry]:
    """Two valid shapes in one plane."""
    a, b = left.lonlat, right.lonlat
    centre = middle_of(a if _extent(a) < _extent(b) else b)
    a, b = _beside(a, centre[0]), _beside(b, centre[0])
    if max(_extent(a), _extent(b)) <= WIDEST_DEG and not (left.straight and right.straight):
        plane = gnomonic(*centre)
        cut = [cut_straight(s, g) for s, g in ((a, left), (b, right))]
        # Shapes so far apart that one leaves the plane do not meet in longitude and latitude either.
        if all(np.isfinite(plane(*shapely.get_coordinates(s).T)).all() for s in cut):
            a, b = (transformed(s, plane) for s in cut)
            return _valid(a), _valid(b)
    a, b = (around(a, b), b) if _extent(a) >= _extent(b) else (a, around(b, a))
    return _valid(a), _valid(b)


def cut_straight(geometry: BaseGeometry, of: Geometry) -> BaseGeometry:
    """Shape whose edges, straight in longitude and latitude, are cut so that other projections keep their course."""
    step = min(_extent(geometry) / PIECES, STRAIGHT_DEG)
    return geometry if of.geodesic or of.crs != WGS84 or not step > 0 else shapely.segmentize(geometry, step)


_PREDICATES: dict[str, Callable[[BaseGeometry, BaseGeometry], Any]] = {
    "contains": shapely.covers,
    "containedIn": shapely.covered_by,
    "intersects": shapely.intersects,
    "disjoint": shapely.disjoint,
}


@lru_cache(maxsize=16384)
def _related(predicate: str, left: bytes, lcrs: str, lgeo: bool, right: bytes, rcrs: str, rgeo: bool) -> bool:
    a, b = Geometry(shapely.from_wkb(left), lcrs, lgeo), Geometry(shapely.from_wkb(right), rcrs, rgeo)
    return bool(_PREDICATES[predicate](*together(a, b)))


def relate(predicate: str, left: Geometry, right: Geometry) -> bool:
    """Whether two geometries ``contains``, ``containedIn``, ``intersects`` or are ``disjoint``."""
    if left.shape.is_empty or right.shape.is_empty:
        return predicate == "disjoint"
    if left.unbounded or right.unbounded:
        return {"contains": left.unbounded, "containedIn": right.unbounded}.get(predicate, predicate != "disjoint")
    if _far_apart(left.lonlat, right.lonlat):
        return predicate == "disjoint"
    plainly = _plainly_related(predicate, left.lonlat, right.lonlat)
    return _related(predicate, *left.key, *right.key) if plainly is None else plainly


def _plainly_related(predicate: str, a: BaseGeometry, b: BaseGeometry) -> bool | None:
    """Relation of a polygon to a smaller shape, degrees, that is so far from its edges that their curvature is irrelevant.

    None if only the projection can decide; most scenes contain a tile, or miss it, by kilometres.
    """
    bend = _bend_deg(a)
    if bend is None or _extent(b) >= _extent(a):
        return None
    west, south, east, north = _beside(b, middle_of(a)[0]).bounds
    bend += math.degrees(_bend(math.radians(east - west), math.radians(north - south), math.radians(POLAR_DEG)))
    around = shapely.box(west - bend, south - bend, east + bend, north + bend)
    if shapely.contains(a, around):
        return predicate in {"contains", "intersects"}
    return None if shapely.intersects(a, around) else predicate == "disjoint"


@lru_cache(maxsize=4096)
def _bend_deg(polygon: BaseGeometry) -> float | None:
    """Degrees by which a polygon's edges, as shortest paths, may deviate from straight lines in longitude and latitude.

    None for long edges and near a pole, where `_bend` is not valid; and for anything but valid polygons.
    """
    if polygon.geom_type != "Polygon" or not polygon.is_valid:
        return None
    lon, lat = np.radians(shapely.get_coordinates(polygon)).T
    across, up, steepest = float(np.abs(np.diff(lon)).max()), float(np.abs(np.diff(lat)).max()), np.abs(lat).max()
    if max(across, up) > math.radians(LONG_DEG) or steepest > math.radians(POLAR_DEG):
        return None
    return math.degrees(_bend(across, up, float(steepest)))


def _bend(across: float, up: float, lat: float) -> float:
    """Upper bound on the deviation of a shortest path from a straight line in longitude and latitude; all in radians.

    Twice the terms of second order: dlon^2 / 16 of latitude and dlon dlat tan(lat) / 4 of longitude.
    """
    return max(across**2 / 8, across * up * math.tan(lat) / 2)


def _far_apart(a: BaseGeometry, b: BaseGeometry) -> bool:
    """Whether the gap between the bounds of shapes in degrees is wider than curved edges can close."""
    west, south, east, north = a.bounds
    left, bottom, right, top = b.bounds
    if max(east - west, right - left) > WIDEST_DEG:  # their edges may pass the pole
        return False
    apart = abs((left + right - west - east) / 2 + 180) % 360 - 180
    gap = max(abs(apart) - (right - left + east - west) / 2, bottom - north, south - top)
    return gap > BEND_DEG


# ---------------------------------------------------------------- metres


def local_plane(lon: float, lat: float) -> tuple[Positions, Positions]:
    """Projection to metres around a location and its inverse; distances from the location are true."""
    plane = Proj(f"+proj=aeqd +lon_0={lon} +lat_0={lat} +datum=WGS84")  # creating a Transformer takes 20 ms
    return plane, lambda x, y: plane(x, y, inverse=True)


def in_metres(geometry: Geometry, change: Callable[[BaseGeometry], BaseGeometry]) -> Geometry:
    """Change a shape in metres: those of its CRS, or of a plane around it."""
    if not parsed_crs(geometry.crs).is_geographic:
        return Geometry(change(geometry.shape), geometry.crs, geodesic=False)
    lon, lat = middle_of(geometry.lonlat)
    forth, back = local_plane(lon, lat)
    changed = transformed(change(transformed(cut_straight(geometry.lonlat, geometry), forth)), back)
    return Geometry(changed if changed.is_empty else _beside(changed, lon), WGS84, geometry.geodesic)


def union_of(geometries: list[Geometry]) -> Geometry:
    """Union of geometries."""
    if any(geometry.unbounded for geometry in geometries):
        return EVERYWHERE
    if len(geometries) == 1:
        return geometries[0]
    if not geometries:
        return NOWHERE
    shapes = [geometry.lonlat for geometry in geometries]
    valid = [_valid(shape) for shape in shapes]
    whole = shapely.union_all(valid)
    united = whole if _span(whole, whole) <= TURN_DEG else reduce(united_lonlat, valid)
    return Geometry(united, WGS84, geometries[0].geodesic)


# ---------------------------------------------------------------- GeoJSON


def from_geojson(value: dict[str, Any]) -> Geometry:
    """Geometry of GeoJSON, with Earth Engine's additions (crs, geodesic)."""
    try:
        crs = value.get("crs", {}).get("properties", {}).get("name", WGS84)
        geographic = parsed_crs(crs).is_geographic
        return Geometry(shape(value), crs, bool(value.get("geodesic", geographic)))
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, shapely.errors.ShapelyError):
        raise EmulatorError("Geometry: Invalid GeoJSON geometry.") from None


def lists(value: Value) -> Value:
    """Coordinates as nested lists."""
    return [lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def to_geojson(geometry: Geometry) -> dict[str, Value]:
    """GeoJSON of a geometry, with Earth Engine's additions."""
    described = mapping(geometry.shape)
    out: dict[str, Value] = {"type": described["type"]}
    if geometry.crs != WGS84:
        out["crs"] = {"type": "name", "properties": {"name": geometry.crs}}
    if geometry.kind not in {"Point", "MultiPoint"}:
        out["geodesic"] = geometry.geodesic
    if described["type"] == "GeometryCollection":
        out["geometries"] = [
            to_geojson(Geometry(part, geometry.crs, geometry.geodesic)) for part in shapely.get_parts(geometry.shape)
        ]
    else:
        out["coordinates"] = lists(described["coordinates"])
    return out


def geometry_of_image(image: Image) -> Geometry:
    """Footprint of an image."""
    return EVERYWHERE if image.footprint is None else Geometry(image.footprint)


@promotion("Geometry")
def _to_geometry(value: Value) -> Value:
    if isinstance(value, Geometry):
        return value
    if isinstance(value, dict) and value.get("type") not in {None, "Feature"}:
        return from_geojson(value)
    if isinstance(value, Image):
        return geometry_of_image(value)
    of = getattr(value, "union_geometry", None)
    return NOT_PROMOTED if of is None else of()


encode.register(Geometry)(lambda value: encode(to_geojson(value)))
