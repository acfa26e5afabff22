"""``GeometryConstructors.*``, ``Geometry.*`` and their twins ``Feature.*``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import shapely
import shapely.geometry as shapes
from shapely.affinity import affine_transform

from mmearth_data.emulator.algorithms.features import Feature, geometry_of, with_geometry
from mmearth_data.emulator.algorithms.geometry import (
    EVERYWHERE,
    WORLD,
    Geometry,
    area_m2,
    distance_m,
    in_metres,
    length_m,
    lists,
    relate,
    reprojected,
    union_of,
)
from mmearth_data.emulator.algorithms.geometry import rectangle as rectangle_shape
from mmearth_data.emulator.algorithms.image import WGS84, Projection, parsed_crs
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function

if TYPE_CHECKING:
    from collections.abc import Callable

    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.emulator.graph.values import ErrorMargin

    Coordinates = list[Any]

# ---------------------------------------------------------------- constructors


def _make(
    kind: str, build: Callable[[], BaseGeometry], crs: Projection | None, geodesic: bool | None = None
) -> Geometry:
    code = WGS84 if crs is None else crs.crs
    try:
        built = build()
    except (ValueError, TypeError, IndexError, shapely.errors.ShapelyError):
        raise EmulatorError(f"GeometryConstructors.{kind}: Invalid coordinates.") from None
    if crs is not None and crs.transform != LONLAT.transform:  # coordinates are pixels of that projection
        a, b, c, d, e, f = crs.transform
        built = affine_transform(built, (a, b, d, e, c, f))
    return Geometry(built, code, parsed_crs(code).is_geographic if geodesic is None else geodesic)


def _pairs(coordinates: Coordinates) -> Coordinates:
    """Points of points, or of numbers in turn."""
    if coordinates and not isinstance(coordinates[0], (list, tuple)):
        return list(zip(coordinates[::2], coordinates[1::2], strict=True))
    return [point.shape.coords[0] if isinstance(point, Geometry) else point for point in coordinates]


def _rings(coordinates: Coordinates) -> list[Coordinates]:
    """Rings of a polygon, given as rings, as one ring, or as numbers in turn."""
    nested = bool(coordinates) and isinstance(coordinates[0], (list, tuple))
    if nested and coordinates[0] and isinstance(coordinates[0][0], (list, tuple, Geometry)):
        return [_pairs(ring) for ring in coordinates]
    return [_pairs(coordinates)]


def _polygon(coordinates: Coordinates) -> shapes.Polygon:
    shell, *holes = _rings(coordinates)
    return shapes.Polygon(shell, holes)


@function("GeometryConstructors.Point")
def point(coordinates: Coordinates, crs: Projection | None = None) -> Geometry:
    """Make a point."""
    if len(coordinates) != 2:
        raise EmulatorError("GeometryConstructors.Point: Point coordinates must have two elements.")
    return _make("Point", lambda: shapes.Point(coordinates), crs)


@function("GeometryConstructors.MultiPoint")
def multi_point(coordinates: Coordinates, crs: Projection | None = None) -> Geometry:
    """Make points."""
    return _make("MultiPoint", lambda: shapes.MultiPoint(_pairs(coordinates)), crs)


@function("GeometryConstructors.LineString")
def line_string(
    coordinates: Coordinates,
    crs: Projection | None = None,
    geodesic: bool | None = None,
    maxError: ErrorMargin | None = None,
) -> Geometry:
    """Make a line."""
    return _make("LineString", lambda: shapes.LineString(_pairs(coordinates)), crs, geodesic)


@function("GeometryConstructors.LinearRing")
def linear_ring(
    coordinates: Coordinates,
    crs: Projection | None = None,
    geodesic: bool | None = None,
    maxError: ErrorMargin | None = None,
) -> Geometry:
    """Make a closed line."""
    return _make("LinearRing", lambda: shapes.LinearRing(_pairs(coordinates)), crs, geodesic)


@function("GeometryConstructors.MultiLineString")
def multi_line_string(
    coordinates: Coordinates,
    crs: Projection | None = None,
    geodesic: bool | None = None,
    maxError: ErrorMargin | None = None,
) -> Geometry:
    """Make lines."""
    return _make("MultiLineString", lambda: shapes.MultiLineString(_rings(coordinates)), crs, geodesic)


@function("GeometryConstructors.Polygon")
def polygon(
    coordinates: Coordinates,
    crs: Projection | None = None,
    geodesic: bool | None = None,
    maxError: ErrorMargin | None = None,
    evenOdd: bool = True,
) -> Geometry:
    """Make a polygon; a ring need not be closed."""
    return _make("Polygon", lambda: _polygon(coordinates), crs, geodesic)


@function("GeometryConstructors.MultiPolygon")
def multi_polygon(
    coordinates: Coordinates,
    crs: Projection | None = None,
    geodesic: bool | None = None,
    maxError: ErrorMargin | None = None,
    evenOdd: bool = True,
) -> Geometry:
    """Make polygons."""
    return _make("MultiPolygon", lambda: shapes.MultiPolygon([_polygon(part) for part in coordinates]), crs, geodesic)


@function("GeometryConstructors.Rectangle")
def rectangle(
    coordinates: Coordinates, crs: Projection | None = None, geodesic: bool | None = None, evenOdd: bool = True
) -> Geometry:
    """Make a rectangle of two corners; its edges are straight in the CRS."""

    def build() -> BaseGeometry:
        (west, south), (east, north) = _pairs(coordinates)
        if (crs is None or parsed_crs(crs.crs).is_geographic) and east < west:
            east += 360
        return rectangle_shape(west, south, east, north)

    return _make("Rectangle", build, crs, bool(geodesic))


@function("GeometryConstructors.BBox")
def bbox(west: float, south: float, east: float, north: float) -> Geometry:
    """Make a box of longitudes and latitudes; a full turn or more is all longitudes."""
    south, north = max(south, -90.0), min(north, 90.0)
    if math.isinf(west) or math.isinf(east) or east - west >= 360:
        west, east = -180.0, 180.0
    return Geometry(rectangle_shape(west, south, east + 360 if east < west else east, north), geodesic=False)


@function("GeometryConstructors.MultiGeometry")
def multi_geometry(
    geometries: list[Geometry],
    crs: Projection | None = None,
    geodesic: bool | None = None,
    maxError: ErrorMargin | None = None,
) -> Geometry:
    """Make a collection."""
    parts = [geometry.lonlat for geometry in geometries]
    return _make("MultiGeometry", lambda: shapes.GeometryCollection(parts), crs and Projection(crs.crs), geodesic)


# ---------------------------------------------------------------- one geometry


def need_margin(name: str, margin: ErrorMargin | None, proj: Projection | None, *geometries: Geometry) -> None:
    """Refuse to transform geometries from one CRS to another without an error margin.

    Operations run on the sphere, in longitude and latitude, or in the requested projection; geometries in another CRS
    are approximated there. Points are always exact.

    Parameters
    ----------
    name
        The operation, whose margin has no default in the list of signatures, or a default of zero.
    margin, proj
        Arguments of the operation.
    geometries
        Geometries that it works on.

    Raises
    ------
    EmulatorError
        With the service's message, as quoted in public change logs. That straight edges in longitude and latitude are
        accepted, although they differ on the sphere, is from memory.
    """
    home = WGS84 if proj is None else proj.crs
    if margin is not None and margin.value > 0:
        return
    if any(g.crs != home and "Point" not in g.kind and not (g.unbounded or g.shape.is_empty) for g in geometries):
        raise EmulatorError(
            f"{name}: Unable to perform this geometry operation. Please specify a non-zero error margin."
        )


def _enter_measure(name: str, measure: Callable[[Geometry], float], planar: Callable[[BaseGeometry], float]) -> None:
    def apply(called: str, geometry: Geometry, margin: ErrorMargin | None, proj: Projection | None) -> float:
        need_margin(called, margin, proj, geometry)
        if proj is not None:  # "if specified, the result will be in the units of this projection"
            return float(planar(reprojected(geometry.shape, geometry.crs, proj.crs)))
        return measure(geometry)

    @function(f"Geometry.{name}")
    def of_geometry(geometry: Geometry, maxError: ErrorMargin | None = None, proj: Projection | None = None) -> float:
        return apply(f"Geometry.{name}", geometry, maxError, proj)

    @function(f"Feature.{name}")
    def of_feature(feature: Value, maxError: ErrorMargin | None = None, proj: Projection | None = None) -> float:
        return apply(f"Feature.{name}", geometry_of(feature), maxError, proj)


def _of_polygons(geometry: Geometry) -> float:
    return length_m(geometry) if "Polygon" in geometry.kind else 0.0


def _of_lines(geometry: Geometry) -> float:
    return length_m(geometry) if geometry.kind in {"LineString", "LinearRing", "MultiLineString"} else 0.0


_enter_measure("area", area_m2, shapely.area)
_enter_measure("perimeter", _of_polygons, shapely.length)
_enter_measure("length", _of_lines, shapely.length)


def _enter_change(name: str, change: Callable[..., Geometry]) -> None:
    """Enter a function of one geometry under both of its names."""

    @function(f"Geometry.{name}")
    def of_geometry(
        geometry: Geometry, maxError: ErrorMargin | None = None, proj: Projection | None = None
    ) -> Geometry:
        need_margin(f"Geometry.{name}", maxError, proj, geometry)
        return change(geometry, proj)

    @function(f"Feature.{name}")
    def of_feature(feature: Value, maxError: ErrorMargin | None = None, proj: Projection | None = None) -> Value:
        need_margin(f"Feature.{name}", maxError, proj, geometry_of(feature))
        return with_geometry(feature, change(geometry_of(feature), proj))


def bounds_of(geometry: Geometry, proj: Projection | None = None) -> Geometry:
    """Least rectangle of the projection (of longitudes and latitudes by default) that holds a geometry."""
    if geometry.unbounded:
        return EVERYWHERE
    code = WGS84 if proj is None else proj.crs
    return Geometry(rectangle_shape(*reprojected(geometry.shape, geometry.crs, code).bounds), code, geodesic=False)


def _centroid(geometry: Geometry, proj: Projection | None) -> Geometry:
    found = in_metres(geometry, lambda s: s.centroid)
    return Geometry(found.lonlat)


def _hull(geometry: Geometry, proj: Projection | None) -> Geometry:
    return in_metres(geometry, lambda s: s.convex_hull)


def _dissolve(geometry: Geometry, proj: Projection | None) -> Geometry:
    return replace(geometry, shape=shapely.union_all(geometry.shape))


_enter_change("bounds", bounds_of)
_enter_change("centroid", _centroid)
_enter_change("convexHull", _hull)
_enter_change("dissolve", _dissolve)


def _buffered(geometry: Geometry, distance: float, error: ErrorMargin | None, proj: Projection | None) -> Geometry:
    """Geometry widened by metres, or by units of a projection."""
    # A chord of a quarter cut into n lies r (1 - cos(pi / 4n)) within the circle.
    allowed = 0.001 if error is None or error.value <= 0 or distance == 0 else min(error.value / abs(distance), 0.05)
    segments = max(math.ceil(math.pi / 4 / math.acos(1 - allowed)), 4)
    if proj is not None:
        moved = reprojected(geometry.shape, geometry.crs, proj.crs)
        return Geometry(moved.buffer(distance, quad_segs=segments), proj.crs, geodesic=False)
    return in_metres(geometry, lambda s: s.buffer(distance, quad_segs=segments))


@function("Geometry.buffer")
def buffer(
    geometry: Geometry, distance: float, maxError: ErrorMargin | None = None, proj: Projection | None = None
) -> Geometry:
    """Widen, or narrow by a negative distance."""
    return _buffered(geometry, distance, maxError, proj)


@function("Feature.buffer")
def buffer_feature(
    feature: Value, distance: float, maxError: ErrorMargin | None = None, proj: Projection | None = None
) -> Value:
    """Widen the geometry."""
    return with_geometry(feature, _buffered(geometry_of(feature), distance, maxError, proj))


def _simplified(geometry: Geometry, error: ErrorMargin) -> Geometry:
    if error.unit != "meters" or error.value <= 0 or "Point" in geometry.kind:
        return geometry
    if geometry.crs != WGS84:
        return replace(geometry, shape=geometry.shape.simplify(error.value))
    return replace(geometry, shape=geometry.shape.simplify(error.value / 111_320))  # metres of a degree


@function("Geometry.simplify")
def simplify(geometry: Geometry, maxError: ErrorMargin, proj: Projection | None = None) -> Geometry:
    """Leave vertices out."""
    return _simplified(geometry, maxError)


@function("Feature.simplify")
def simplify_feature(feature: Value, maxError: ErrorMargin, proj: Projection | None = None) -> Value:
    """Leave vertices of the geometry out."""
    return with_geometry(feature, _simplified(geometry_of(feature), maxError))


def _transformed(geometry: Geometry, proj: Projection) -> Geometry:
    moved = reprojected(geometry.shape, geometry.crs, proj.crs)
    return Geometry(moved, proj.crs, geometry.geodesic and parsed_crs(proj.crs).is_geographic)


LONLAT = Projection(WGS84)


@function("Geometry.transform")
def transform(
    geometry: Geometry, proj: Projection = LONLAT, maxError: ErrorMargin | None = None, geodesic: bool | None = None
) -> Geometry:
    """Geometry in another CRS."""
    need_margin("Geometry.transform", maxError, proj, geometry)
    return _transformed(geometry, proj)


@function("Feature.transform", "ProjectionTransform")
def transform_feature(
    feature: Value, proj: Projection = LONLAT, maxError: ErrorMargin | None = None, geodesic: bool | None = None
) -> Value:
    """Feature whose geometry is in another CRS."""
    need_margin("Feature.transform", maxError, proj, geometry_of(feature))
    return with_geometry(feature, _transformed(geometry_of(feature), proj))


@function("Geometry.coordinates")
def coordinates(geometry: Geometry) -> Coordinates:
    """Coordinates, nested as in GeoJSON."""
    found: Coordinates = lists(shapes.mapping(geometry.shape).get("coordinates", []))
    return found


@function("Geometry.type")
def type_of(geometry: Geometry) -> str:
    """Name the type, as GeoJSON does."""
    return geometry.kind


@function("Geometry.geodesic", "Geometry.edgesAreGeodesics")
def geodesic(geometry: Geometry) -> bool:
    """Whether edges are shortest paths."""
    return geometry.geodesic


@function("Geometry.geometries")
def geometries(geometry: Geometry) -> list[Geometry]:
    """Parts."""
    return [replace(geometry, shape=part) for part in getattr(geometry.shape, "geoms", [geometry.shape])]


@function("Geometry.isUnbounded")
def is_unbounded(geometry: Geometry) -> bool:
    """Whether it is the whole globe."""
    return geometry.unbounded or geometry.shape.equals(WORLD)


@function("Geometry.projection")
def projection(geometry: Geometry) -> Projection:
    """CRS of the coordinates."""
    return Projection(geometry.crs)


# ---------------------------------------------------------------- two geometries


def _enter_predicate(name: str) -> None:
    @function(f"Geometry.{name}")
    def of_geometries(
        left: Geometry, right: Geometry, maxError: ErrorMargin | None = None, proj: Projection | None = None
    ) -> bool:
        need_margin(f"Geometry.{name}", maxError, proj, left, right)
        return relate(name, left, right)

    @function(f"Feature.{name}")
    def of_features(
        left: Value, right: Value, maxError: ErrorMargin | None = None, proj: Projection | None = None
    ) -> bool:
        need_margin(f"Feature.{name}", maxError, proj, geometry_of(left), geometry_of(right))
        return relate(name, geometry_of(left), geometry_of(right))


for _name in ("contains", "containedIn", "intersects", "disjoint"):
    _enter_predicate(_name)


def _combined(operation: Callable[..., BaseGeometry], left: Geometry, right: Geometry) -> Geometry:
    if left.crs == right.crs:
        return replace(left, shape=operation(left.shape, right.shape))
    return Geometry(operation(left.lonlat, right.lonlat), WGS84, left.geodesic)


def _enter_combination(name: str, operation: Callable[..., BaseGeometry]) -> None:
    @function(f"Geometry.{name}")
    def of_geometries(
        left: Geometry, right: Geometry, maxError: ErrorMargin | None = None, proj: Projection | None = None
    ) -> Geometry:
        need_margin(f"Geometry.{name}", maxError, proj, left, right)
        return _combined(operation, left, right)

    @function(f"Feature.{name}")
    def of_features(
        left: Value, right: Value, maxError: ErrorMargin | None = None, proj: Projection | None = None
    ) -> Value:
        need_margin(f"Feature.{name}", maxError, proj, geometry_of(left), geometry_of(right))
        return with_geometry(left, _combined(operation, geometry_of(left), geometry_of(right)))


_enter_combination("intersection", shapely.intersection)
_enter_combination("difference", shapely.difference)
_enter_combination("symmetricDifference", shapely.symmetric_difference)
_enter_combination("union", shapely.union)


@function("Geometry.distance")
def distance(
    left: Geometry,
    right: Geometry,
    maxError: ErrorMargin | None = None,
    proj: Projection | None = None,
    spherical: bool = False,
) -> float:
    """Least distance, metres."""
    need_margin("Geometry.distance", maxError, proj, left, right)
    return distance_m(left, right)


@function("Feature.distance")
def distance_of_features(
    left: Value,
    right: Value,
    maxError: ErrorMargin | None = None,
    proj: Projection | None = None,
    spherical: bool = False,
) -> float:
    """Least distance of the geometries, metres."""
    need_margin("Feature.distance", maxError, proj, geometry_of(left), geometry_of(right))
    return distance_m(geometry_of(left), geometry_of(right))


@function("Geometry.withinDistance")
def within_distance(
    left: Geometry,
    right: Geometry,
    distance: float,
    maxError: ErrorMargin | None = None,
    proj: Projection | None = None,
) -> bool:
    """Whether they are no farther apart."""
    need_margin("Geometry.withinDistance", maxError, proj, left, right)
    return distance_m(left, right) <= distance


@function("Feature.withinDistance")
def features_within_distance(
    left: Value, right: Value, distance: float, maxError: ErrorMargin | None = None, proj: Projection | None = None
) -> bool:
    """Whether their geometries are no farther apart."""
    need_margin("Feature.withinDistance", maxError, proj, geometry_of(left), geometry_of(right))
    return distance_m(geometry_of(left), geometry_of(right)) <= distance


@function("Collection.union")
def union_collection(collection: Value, maxError: ErrorMargin | None = None) -> Value:
    """Make a collection of one feature: all geometries together."""
    from mmearth_data.emulator.algorithms.collections import of_elements

    parts = [geometry_of(element) for element in collection.elements()]
    need_margin("Collection.union", maxError, None, *parts)
    return of_elements([Feature(union_of(parts), {})])
