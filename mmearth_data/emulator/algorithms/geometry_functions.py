"""``GeometryConstructors.*``, and one table of operations for ``Geometry.*`` and ``Feature.*``."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import shapely
import shapely.geometry as shapes
from shapely.affinity import affine_transform

from mmearth_data.emulator.algorithms.features import geometry_of, with_geometry
from mmearth_data.emulator.algorithms.geometry import (
    EVERYWHERE,
    WORLD,
    Geometry,
    around,
    either_lonlat,
    in_metres,
    lists,
    rectangle,
    relate,
    reprojected,
    shared_lonlat,
    united_lonlat,
)
from mmearth_data.emulator.algorithms.image import WGS84, Projection, parsed_crs
from mmearth_data.emulator.algorithms.measures import area_m2, distance_m, length_m, lines_of, perimeter_m, rings_of
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import Implementation, enter, function, functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.emulator.graph.values import ErrorMargin

    Coordinates = list[Any]

METRES_PER_DEGREE = 111_320

# ---------------------------------------------------------------- constructors


def _make(kind: str, build: Callable[[], BaseGeometry], crs: Projection | None, geodesic: bool | None) -> Geometry:
    code = WGS84 if crs is None else crs.crs
    try:
        built = build()
    except (ValueError, TypeError, IndexError, shapely.errors.ShapelyError):
        raise EmulatorError(f"GeometryConstructors.{kind}: Invalid coordinates.") from None
    if crs is not None and crs.transform != Projection(code).transform:  # coordinates are pixels of that projection
        a, b, c, d, e, f = crs.transform
        built = affine_transform(built, (a, b, d, e, c, f))
    return Geometry(built, code, parsed_crs(code).is_geographic if geodesic is None else geodesic)


def _point(coordinates: Coordinates) -> shapes.Point:
    if len(coordinates) != 2:
        raise EmulatorError("GeometryConstructors.Point: Point coordinates must have two elements.")
    return shapes.Point(coordinates)


def _pairs(coordinates: Coordinates) -> Coordinates:
    if coordinates and not isinstance(coordinates[0], (list, tuple)):
        return list(zip(coordinates[::2], coordinates[1::2], strict=True))
    return [point.shape.coords[0] if isinstance(point, Geometry) else point for point in coordinates]


def _rings(coordinates: Coordinates) -> list[Coordinates]:
    """Rings of a polygon, given as rings, as one ring, or as alternating numbers."""
    nested = bool(coordinates) and isinstance(coordinates[0], (list, tuple))
    if nested and coordinates[0] and isinstance(coordinates[0][0], (list, tuple, Geometry)):
        return [_pairs(ring) for ring in coordinates]
    return [_pairs(coordinates)]


def _polygon(coordinates: Coordinates) -> shapes.Polygon:
    shell, *holes = _rings(coordinates)
    return shapes.Polygon(shell, holes)


SHAPES: dict[str, Callable[[Coordinates], BaseGeometry]] = {
    "LineString": lambda coordinates: shapes.LineString(_pairs(coordinates)),
    "LinearRing": lambda coordinates: shapes.LinearRing(_pairs(coordinates)),
    "MultiLineString": lambda coordinates: shapes.MultiLineString(_rings(coordinates)),
    "Polygon": _polygon,
    "MultiPolygon": lambda coordinates: shapes.MultiPolygon([_polygon(part) for part in coordinates]),
}
"""Shapes with edges, from their coordinates; the ring of a polygon need not be closed."""


def _maker(kind: str, build: Callable[[Coordinates], BaseGeometry]) -> Callable[..., Geometry]:
    return lambda coordinates, crs, geodesic: _make(kind, lambda: build(coordinates), crs, geodesic)


functions("GeometryConstructors", {kind: _maker(kind, build) for kind, build in SHAPES.items()})
functions(
    "GeometryConstructors",
    {
        "Point": lambda coordinates, crs: _make("Point", lambda: _point(coordinates), crs, None),
        "MultiPoint": lambda coordinates, crs: _make(
            "MultiPoint", lambda: shapes.MultiPoint(_pairs(coordinates)), crs, None
        ),
    },
)


@function("GeometryConstructors.Rectangle")
def _rectangle(coordinates: Coordinates, crs: Projection | None, geodesic: bool | None) -> Geometry:
    def build() -> BaseGeometry:
        (west, south), (east, north) = _pairs(coordinates)
        across = (crs is None or parsed_crs(crs.crs).is_geographic) and east < west
        return rectangle(west, south, east + 360 if across else east, north)

    return _make("Rectangle", build, crs, geodesic)


@function("GeometryConstructors.BBox")
def _bbox(west: float, south: float, east: float, north: float) -> Geometry:
    """Box of longitudes and latitudes; a full turn or more is all longitudes."""
    if math.isinf(west) or math.isinf(east) or east - west >= 360:
        west, east = -180.0, 180.0
    east = east + 360 if east < west else east
    return Geometry(rectangle(west, max(south, -90.0), east, min(north, 90.0)), geodesic=False)


@function("GeometryConstructors.MultiGeometry")
def _multi_geometry(geometries: list[Geometry], crs: Projection | None, geodesic: bool | None) -> Geometry:
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
    are approximated there. Points are always exact. The message is the service's, as quoted in public change logs; that
    straight edges in longitude and latitude are accepted, although they differ on the sphere, is from memory.

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

    def of(geometry: Geometry, proj: Projection | None) -> float:
        return measure(geometry) if proj is None else float(planar(reprojected(geometry.shape, geometry.crs, proj.crs)))

    return of


def _summed(lines: Callable[[BaseGeometry], list[BaseGeometry]]) -> Callable[[BaseGeometry], float]:
    return lambda shape: sum(line.length for line in lines(shape))


def bounds_of(geometry: Geometry, proj: Projection | None = None) -> Geometry:
    """Smallest rectangle of the projection (of longitudes and latitudes by default) that contains a geometry."""
    if geometry.unbounded:
        return EVERYWHERE
    code = WGS84 if proj is None else proj.crs
    return Geometry(rectangle(*reprojected(geometry.shape, geometry.crs, code).bounds), code, geodesic=False)


def _buffered(geometry: Geometry, distance: float, maxError: ErrorMargin | None, proj: Projection | None) -> Geometry:
    # The middle of a chord of a quarter circle cut into n is r (1 - cos(pi / 4n)) inside the circle.
    bounded = maxError is not None and maxError.value > 0 and distance != 0
    allowed = min(maxError.value / abs(distance), 0.05) if maxError is not None and bounded else 0.001
    segments = max(math.ceil(math.pi / 4 / math.acos(1 - allowed)), 4)
    if proj is not None:
        moved = reprojected(geometry.shape, geometry.crs, proj.crs)
        return Geometry(moved.buffer(distance, quad_segs=segments), proj.crs, geodesic=False)
    return in_metres(geometry, lambda s: s.buffer(distance, quad_segs=segments))


def _simplified(geometry: Geometry, maxError: ErrorMargin) -> Geometry:
    if maxError.unit != "meters" or maxError.value <= 0 or "Point" in geometry.kind:
        return geometry
    unit = METRES_PER_DEGREE if geometry.crs == WGS84 else 1
    return replace(geometry, shape=geometry.shape.simplify(maxError.value / unit))


def _transformed(geometry: Geometry, proj: Projection) -> Geometry:
    moved = reprojected(geometry.shape, geometry.crs, proj.crs)
    return Geometry(moved, proj.crs, geometry.geodesic and parsed_crs(proj.crs).is_geographic)


Overlay: TypeAlias = "Callable[[BaseGeometry, BaseGeometry], BaseGeometry]"


def _combined(plane: Overlay, globe: Overlay) -> Callable[..., Geometry]:
    """Combine shapes in the projected plane of both, or otherwise in longitude and latitude, where 180 equals -180."""

    def of(left: Geometry, right: Geometry) -> Geometry:
        if left.crs != right.crs:
            return Geometry(globe(left.lonlat, right.lonlat), WGS84, left.geodesic)
        operation = globe if parsed_crs(left.crs).is_geographic else plane
        return Geometry(operation(left.shape, right.shape), left.crs, left.geodesic)

    return of


OPERATIONS: dict[tuple[str, ...], dict[str, Callable[..., Value]]] = {
    (): {"buffer": _buffered, "simplify": _simplified},  # they approximate by themselves
    ("maxError", "proj"): {
        "area": _measured(area_m2, shapely.area),
        "perimeter": _measured(perimeter_m, _summed(rings_of)),
        "length": _measured(length_m, _summed(lines_of)),
        "bounds": bounds_of,
        "centroid": lambda geometry: Geometry(in_metres(geometry, lambda s: s.centroid).lonlat),
        "convexHull": lambda geometry: in_metres(geometry, lambda s: s.convex_hull),
        "dissolve": lambda geometry: replace(geometry, shape=shapely.union_all(geometry.shape)),
        "transform": _transformed,
    },
    ("maxError",): {  # their only projection is the default
        **{name: partial(relate, name) for name in ("contains", "containedIn", "intersects", "disjoint")},
        "intersection": _combined(shapely.intersection, shared_lonlat),
        "difference": _combined(shapely.difference, lambda a, b: shapely.difference(a, around(b, a))),
        "symmetricDifference": _combined(shapely.symmetric_difference, either_lonlat),
        "union": _combined(shapely.union, united_lonlat),
        "distance": distance_m,
        "withinDistance": lambda left, right, distance: distance_m(left, right) <= distance,
    },
}
"""Arguments that decide whether geometries may be approximated (see `need_margin`) -> name -> operation.

A geometry that an operation makes of a feature becomes a feature with the same properties.
"""


def _enter(name: str, compute: Callable[..., Value], margin: tuple[str, ...]) -> None:
    """Enter an operation for geometries, and for features, whose geometries it works on."""
    own = tuple(inspect.signature(compute).parameters)
    takes = {argument: argument for argument in (*own, *margin)}

    def apply(called: str, **given: Value) -> Value:
        elements = {key: given[key] for key in ("geometry", "left", "right") if key in given}
        geometries: dict[str, Value] = {key: geometry_of(element) for key, element in elements.items()}
        if margin:
            need_margin(called, given["maxError"], given.get("proj"), *geometries.values())
        made = compute(**{key: value for key, value in {**given, **geometries}.items() if key in own})
        first = next(iter(elements.values()))
        return with_geometry(first, made) if isinstance(made, Geometry) and not isinstance(first, Geometry) else made

    enter(Implementation(f"Geometry.{name}", partial(apply, f"Geometry.{name}"), takes))
    of_features = {"feature" if key == "geometry" else key: value for key, value in takes.items()}
    for alias in (f"Feature.{name}", *(("ProjectionTransform",) if name == "transform" else ())):
        enter(Implementation(alias, partial(apply, f"Feature.{name}"), of_features))


for _margin, _operations in OPERATIONS.items():
    for _name, _compute in _operations.items():
        _enter(_name, _compute, _margin)
