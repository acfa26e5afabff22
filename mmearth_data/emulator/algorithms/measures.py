"""Areas, lengths and distances of geometries on the ellipsoid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.geometry import Geometry, cut_straight, local_plane, relate
from mmearth_data.emulator.algorithms.image import EARTH, parts_of
from mmearth_data.emulator.server.work import check

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    Float = NDArray[np.float64]

_ECCENTRICITY = math.sqrt(EARTH.es)
GLOBE_M2 = 2 * math.pi * EARTH.a**2 * (1 + (1 - EARTH.es) / _ECCENTRICITY * math.atanh(_ECCENTRICITY))
"""Surface of the ellipsoid."""
PIECE_DEG = 0.25
"""Maximum length of the pieces in which edges are measured: in planes around distant positions, longer ones curve."""
PIECE_M = 2 * math.radians(PIECE_DEG) * EARTH.a
"""Upper bound on the length of a piece in a plane, except near the far end of the plane, where pieces are stretched."""
NEAREST = 4
"""Number of vertices whose distances are measured exactly: those with the shortest straight lines through the Earth."""
MOST_PAIRS = 1_000_000
"""Number of pairs of vertices and edges held at a time."""


def area_m2(geometry: Geometry) -> float:
    """Area on the ellipsoid in square metres, summed over the parts."""
    polygons = _polygons_of(cut_straight(geometry.lonlat, geometry))
    return sum(_ring_m2(part.exterior) - sum(map(_ring_m2, part.interiors)) for part in polygons)


def _polygons_of(shape: BaseGeometry) -> list[shapely.Polygon]:
    return [part for part in parts_of(shape) if isinstance(part, shapely.Polygon)]


def _ring_m2(ring: BaseGeometry) -> float:
    """Area inside a ring in square metres.

    The formula for the ellipsoid is exact up to multiples of the globe; the sum of sin(lat) dlon gives the multiple.
    """
    lon, lat = shapely.get_coordinates(ring).T
    exact = EARTH.polygon_area_perimeter(lon, lat)[0]
    turn, sine = (np.diff(lon) + 180) % 360 - 180, np.sin(np.radians(lat))
    share = -float((np.radians(turn) * (sine[1:] + sine[:-1])).sum()) / (8 * math.pi)
    return abs(exact + GLOBE_M2 * round(share - exact / GLOBE_M2))


def lines_of(shape: BaseGeometry) -> list[BaseGeometry]:
    """Linear parts of a shape."""
    return [part for part in parts_of(shape) if part.geom_type.startswith("Line")]


def rings_of(shape: BaseGeometry) -> list[BaseGeometry]:
    """Rings of the polygonal parts of a shape, including those of holes."""
    return [ring for part in _polygons_of(shape) for ring in (part.exterior, *part.interiors)]


def length_m(geometry: Geometry) -> float:
    """Total length of the linear parts in metres."""
    return _summed_m(lines_of(cut_straight(geometry.lonlat, geometry)))


def perimeter_m(geometry: Geometry) -> float:
    """Total length of the rings of the polygonal parts in metres."""
    return _summed_m(rings_of(cut_straight(geometry.lonlat, geometry)))


def _summed_m(lines: list[BaseGeometry]) -> float:
    return sum(float(EARTH.geometry_length(line)) for line in lines)


# ---------------------------------------------------------------- distances


def distance_m(left: Geometry, right: Geometry) -> float:
    """Smallest distance in metres; two edges that do not cross are closest at an end of one of them."""
    if relate("intersects", left, right):
        return 0.0
    a, b = _pieces(left), _pieces(right)
    return min(_least_m(a, b), _least_m(b, a))


def _pieces(geometry: Geometry) -> Float:
    """Edges (edge, end, lon and lat) in short pieces; a point is an edge without length."""
    parts = parts_of(geometry.lonlat)
    points = shapely.get_coordinates([part for part in parts if part.geom_type == "Point"])
    lines = [*lines_of(geometry.lonlat), *rings_of(geometry.lonlat)]
    at, line = shapely.get_coordinates(lines, return_index=True)
    within = line[1:] == line[:-1]
    cut = _straight_pieces if geometry.straight else _geodesic_pieces
    return np.concatenate([np.stack([points, points], axis=1), cut(at[:-1][within], at[1:][within])])


def _shares(length_deg: Float) -> tuple[NDArray[np.int64], Float]:
    """Edge of each piece, and the fractions of the edge at which the piece begins and ends, (piece, 2)."""
    counts = np.maximum(np.ceil(length_deg / PIECE_DEG), 1).astype(np.int64)
    edge = np.repeat(np.arange(len(counts)), counts)
    k = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    return edge, np.stack([k, k + 1], axis=1) / counts[edge][:, None]


def _straight_pieces(start: Float, end: Float) -> Float:
    edge, share = _shares(np.abs(end - start).max(axis=1, initial=0))
    return np.asarray(start[edge][:, None] + share[..., None] * (end - start)[edge][:, None])


def _geodesic_pieces(start: Float, end: Float) -> Float:
    ahead, _, metres = EARTH.inv(*start.T, *end.T)
    edge, share = _shares(np.degrees(metres / EARTH.a))
    begin, towards, along = (np.repeat(part[edge], 2, axis=0) for part in (start, ahead, metres))
    lon, lat, _ = EARTH.fwd(begin[:, 0], begin[:, 1], towards, along * share.ravel())
    return np.asarray(np.stack([lon, lat], axis=1).reshape(-1, 2, 2))


def _solid(lonlat: Float) -> Float:
    """Convert positions (..., lon and lat) to (x, y, z) in metres from the centre of the ellipsoid."""
    lon, lat = np.radians(np.moveaxis(lonlat, -1, 0))
    radius = EARTH.a / np.sqrt(1 - EARTH.es * np.sin(lat) ** 2)
    flat = radius * np.cos(lat)
    return np.stack([flat * np.cos(lon), flat * np.sin(lon), (1 - EARTH.es) * radius * np.sin(lat)], axis=-1)


def _least_m(a: Float, b: Float) -> float:
    """Smallest distance in metres from the ends of some edges to other edges."""
    ends = np.unique(a.reshape(-1, 2), axis=0)
    nearest = ends[np.argsort(_chords(ends, b))[:NEAREST]]
    return min(float(EARTH.inv(lon, lat, *_closest(b, lon, lat))[2]) for lon, lat in nearest.tolist())


def _chords(at: Float, edges: Float) -> Float:
    """Squared length of the shortest straight line through the ellipsoid from each position to the edges."""
    start, along = _solid(edges[:, 0]), _solid(edges[:, 1]) - _solid(edges[:, 0])
    square, found = (along**2).sum(axis=1), []
    for some in np.array_split(_solid(at), -(-len(at) * len(edges) // MOST_PAIRS)):
        check()
        gap = (some**2).sum(axis=1)[:, None] + (start**2).sum(axis=1) - 2 * some @ start.T
        ahead = some @ along.T - (start * along).sum(axis=1)
        share = np.clip(ahead / np.where(square > 0, square, 1), 0, 1)
        found.append((gap - share * (2 * ahead - share * square)).min(axis=1))
    return np.concatenate(found)


def _closest(edges: Float, lon: float, lat: float) -> tuple[float, float]:
    """(lon, lat) of the position on edges that is nearest to another one, in a plane around that one."""
    forth, back = local_plane(lon, lat)
    start, end = (np.stack(forth(edges[:, k, 0], edges[:, k, 1]), axis=1) for k in (0, 1))
    square = ((end - start) ** 2).sum(axis=1)
    share = np.clip(-(start * (end - start)).sum(axis=1) / np.where(square > 0, square, 1), 0, 1)
    torn = square > PIECE_M**2  # the piece spans the antipode of the position: only its ends count
    share = np.where(torn, np.hypot(*end.T) < np.hypot(*start.T), share)
    positions = start + share[:, None] * (end - start)
    x, y = positions[np.argmin(np.hypot(*positions.T))]
    found = back(x, y)
    return float(found[0]), float(found[1])
