"""``GeometryConstructors.*``, and one table of operations for ``Geometry.*`` and ``Feature.*``."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
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
from mmearth_data.emulator.graph.registry import Implementation, enter, function, functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.emulator.graph.values import ErrorMargin

    Coordinates = list[Any]

LONLAT = Projection(WGS84)

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


SHAPES: dict[str, Callable[[Coordinates], BaseGeometry]] = {
    "LineString": lambda coordinates: shapes.LineString(_pairs(coordinates)),
    "LinearRing": lambda coordinates: shapes.LinearRing(_pairs(coordinates)),
    "MultiLineString": lambda coordinates: shapes.MultiLineString(_rings(coordinates)),
    "Polygon": _polygon,
    "MultiPolygon": lambda coordinates: shapes.MultiPolygon([_polygon(part) for part in coordinates]),
}
"""Shapes with edges; the ring of a polygon need not be closed."""


def _enter_shape(kind: str, build: Callable[[Coordinates], BaseGeometry]) -> None:
    @function(f"GeometryConstructors.{kind}")
    def make(coordinates: Coordinates, crs: Projection | None = None, geodesic: bool | None = None) -> Geometry:
        return _make(kind, lambda: build(coordinates), crs, geodesic)


for _kind, _build in SHAPES.items():
    _enter_shape(_kind, _build)


@function("GeometryConstructors.Rectangle")
def rectangle(coordinates: Coordinates, crs: Projection | None = None, geodesic: bool | None = None) -> Geometry:
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
def multi_geometry(geometries: list[Geometry], crs: Projection | None = None, geodesic: bool | None = None) -> Geometry:
    """Make a collection."""
    parts = [geometry.lonlat for geometry in geometries]
    return _make("MultiGeometry", lambda: shapes.GeometryCollection(parts), crs and Projection(crs.crs), geodesic)


functions(
    "Geometry",
    {
        "coordinates": lambda geometry: lists(shapes.mapping(geometry.shape).get("coordinates", [])),
        "type": lambda geometry: geometry.kind,
        "geodesic edgesAreGeodesics": lambda geometry: geometry.geodesic,
        "geometries": lambda geometry: [
            replace(geometry, shape=part) for part in getattr(geometry.shape, "geoms", [geometry.shape])
        ],
        "isUnbounded": lambda geometry: geometry.unbounded or geometry.shape.equals(WORLD),
        "projection": lambda geometry: Projection(geometry.crs),
    },
)

# ---------------------------------------------------------------- operations on one or two geometries


def need_margin(name: str, margin: ErrorMargin | None, proj: Projection | None, *geometries: Geometry) -> None:
    """Refuse to transform geometries from one CRS to another without an error margin.

    Operations run on the sphere, in longitude and latitude, or in the requested projection; geometries in another CRS
    are approximated there. Points are always exact.

    Raises `EmulatorError` with the service's message, as quoted in public change logs. That straight edges in longitude
    and latitude are accepted, although they differ on the sphere, is from memory.

    Parameters
    ----------
    name
        The operation, whose margin has no default in the list of signatures, or a default of zero.
    margin, proj
        Arguments of the operation.
    geometries
        Geometries that it works on.
    """
    home = WGS84 if proj is None else proj.crs
    if margin is not None and margin.value > 0:
        return
    if any(g.crs != home and "Point" not in g.kind and not (g.unbounded or g.shape.is_empty) for g in geometries):
        raise EmulatorError(
            f"{name}: Unable to perform this geometry operation. Please specify a non-zero error margin."
        )


def _measured(measure: Callable[[Geometry], float], planar: Callable[[BaseGeometry], float]) -> Callable[..., float]:
    """Measure in metres, or in the units of a projection if one is given."""

    def of(geometry: Geometry, proj: Projection | None = None) -> float:
        return measure(geometry) if proj is None else float(planar(reprojected(geometry.shape, geometry.crs, proj.crs)))

    return of


def _length_of(*kinds: str) -> Callable[[Geometry], float]:
    return lambda geometry: length_m(geometry) if geometry.kind in kinds else 0.0


def bounds_of(geometry: Geometry, proj: Projection | None = None) -> Geometry:
    """Least rectangle of the projection (of longitudes and latitudes by default) that holds a geometry."""
    if geometry.unbounded:
        return EVERYWHERE
    code = WGS84 if proj is None else proj.crs
    return Geometry(rectangle_shape(*reprojected(geometry.shape, geometry.crs, code).bounds), code, geodesic=False)


def _buffered(
    geometry: Geometry, distance: float, maxError: ErrorMargin | None = None, proj: Projection | None = None
) -> Geometry:
    """Geometry widened by metres, or by units of a projection."""
    # A chord of a quarter cut into n lies r (1 - cos(pi / 4n)) within the circle.
    allowed = (
        0.001 if maxError is None or maxError.value <= 0 or distance == 0 else min(maxError.value / abs(distance), 0.05)
    )
    segments = max(math.ceil(math.pi / 4 / math.acos(1 - allowed)), 4)
    if proj is not None:
        moved = reprojected(geometry.shape, geometry.crs, proj.crs)
        return Geometry(moved.buffer(distance, quad_segs=segments), proj.crs, geodesic=False)
    return in_metres(geometry, lambda s: s.buffer(distance, quad_segs=segments))


def _simplified(geometry: Geometry, maxError: ErrorMargin) -> Geometry:
    if maxError.unit != "meters" or maxError.value <= 0 or "Point" in geometry.kind:
        return geometry
    if geometry.crs != WGS84:
        return replace(geometry, shape=geometry.shape.simplify(maxError.value))
    return replace(geometry, shape=geometry.shape.simplify(maxError.value / 111_320))  # metres of a degree


def _transformed(geometry: Geometry, proj: Projection = LONLAT) -> Geometry:
    moved = reprojected(geometry.shape, geometry.crs, proj.crs)
    return Geometry(moved, proj.crs, geometry.geodesic and parsed_crs(proj.crs).is_geographic)


def _combined(operation: Callable[..., BaseGeometry]) -> Callable[..., Geometry]:
    def of(left: Geometry, right: Geometry) -> Geometry:
        if left.crs == right.crs:
            return replace(left, shape=operation(left.shape, right.shape))
        return Geometry(operation(left.lonlat, right.lonlat), WGS84, left.geodesic)

    return of


WITHOUT_MARGIN: dict[str, Callable[..., Value]] = {"buffer": _buffered, "simplify": _simplified}
"""Operations that approximate by themselves."""
OF_ONE: dict[str, Callable[..., Value]] = {
    "area": _measured(area_m2, shapely.area),
    "perimeter": _measured(_length_of("Polygon", "MultiPolygon"), shapely.length),
    "length": _measured(_length_of("LineString", "LinearRing", "MultiLineString"), shapely.length),
    "bounds": bounds_of,
    "centroid": lambda geometry: Geometry(in_metres(geometry, lambda s: s.centroid).lonlat),
    "convexHull": lambda geometry: in_metres(geometry, lambda s: s.convex_hull),
    "dissolve": lambda geometry: replace(geometry, shape=shapely.union_all(geometry.shape)),
    "transform": _transformed,
}
OF_TWO: dict[str, Callable[..., Value]] = {
    **{name: partial(relate, name) for name in ("contains", "containedIn", "intersects", "disjoint")},
    "intersection": _combined(shapely.intersection),
    "difference": _combined(shapely.difference),
    "symmetricDifference": _combined(shapely.symmetric_difference),
    "union": _combined(shapely.union),
    "distance": distance_m,
    "withinDistance": lambda left, right, distance: distance_m(left, right) <= distance,
}
"""Operations whose only projection is the default."""


def _enter(name: str, compute: Callable[..., Value], *margin: str) -> None:
    """Enter an operation for geometries, and for features, whose geometries it works on.

    Parameters
    ----------
    name
        Name within ``Geometry`` and ``Feature``.
    compute
        The operation; a geometry that it makes of a feature becomes a feature with the same properties.
    margin
        Arguments that decide whether geometries may be approximated: ``maxError``, ``proj`` (see `need_margin`).
    """
    own = tuple(inspect.signature(compute).parameters)
    takes = {argument: argument for argument in (*own, *margin)}

    def apply(called: str, **given: Value) -> Value:
        elements = {key: given[key] for key in ("geometry", "left", "right") if key in given}
        geometries: dict[str, Value] = {key: geometry_of(element) for key, element in elements.items()}
        if margin:
            need_margin(called, given.get("maxError"), given.get("proj"), *geometries.values())
        made = compute(**{key: value for key, value in {**given, **geometries}.items() if key in own})
        first = next(iter(elements.values()))
        return with_geometry(first, made) if isinstance(made, Geometry) and not isinstance(first, Geometry) else made

    enter(Implementation(f"Geometry.{name}", partial(apply, f"Geometry.{name}"), takes))
    of_features = {"feature" if key == "geometry" else key: value for key, value in takes.items()}
    aliases = ("ProjectionTransform",) if name == "transform" else ()
    for feature_name in (f"Feature.{name}", *aliases):
        enter(Implementation(feature_name, partial(apply, f"Feature.{name}"), of_features))


for _name, _compute in WITHOUT_MARGIN.items():
    _enter(_name, _compute)
for _name, _compute in OF_ONE.items():
    _enter(_name, _compute, "maxError", "proj")
for _name, _compute in OF_TWO.items():
    _enter(_name, _compute, "maxError")


@function("Collection.union")
def union_collection(collection: Value, maxError: ErrorMargin | None = None) -> Value:
    """Make a collection of one feature: all geometries together."""
    from mmearth_data.emulator.algorithms.collections import of_elements

    parts = [geometry_of(element) for element in collection.elements()]
    need_margin("Collection.union", maxError, None, *parts)
    return of_elements([Feature(union_of(parts), {})])
