"""UTM zones: their areas, and geometries divided among them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.catalog.tile import MAX_LAT, MIN_LAT, WGS84, transformer
from mmearth_data.errors import InputError
from mmearth_data.geography.pieces import polygons_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shapely.geometry.base import BaseGeometry

    from mmearth_data.geography.equal_area import Floats

SEGMENT_DEG = 0.005
"""Maximum length of an edge before projection, so that parallels differ from chords by less than 4 mm."""
BANDS = ((MIN_LAT, 0.0), (0.0, 56.0), (56.0, 64.0), (64.0, 72.0), (72.0, MAX_LAT))
"""Ranges of latitude within which the zones have the same limits."""
NORWAY = {31: (0.0, 3.0), 32: (3.0, 12.0)}
"""Limits of zones from 56 N to 64 N that differ (see `mmearth_data.catalog.tile.utm_epsg`)."""
SVALBARD = {31: (0.0, 9.0), 32: None, 33: (9.0, 21.0), 34: None, 35: (21.0, 33.0), 36: None, 37: (33.0, 42.0)}
"""Those from 72 N to 84 N; zones 32, 34 and 36 end at 72 N."""


@dataclass(frozen=True, slots=True)
class ZonePart:
    """An area in the coordinates of a UTM zone."""

    epsg: int
    """EPSG code of the zone, or of another projected CRS in metres."""
    geometry: BaseGeometry
    """Polygon or multipolygon in metres, x before y."""


@lru_cache(maxsize=1)
def zone_bands() -> dict[int, tuple[tuple[float, float, float, float], ...]]:
    """Return the area of each zone by EPSG code: boxes (west, south, east, north) in degrees.

    The zones are those of `mmearth_data.catalog.tile.utm_epsg`. Together they cover all longitudes from 80 S to 84 N.
    """
    found = defaultdict(list)
    for south, north in BANDS:
        special = NORWAY if south == 56 else SVALBARD if south == 72 else {}
        for zone in range(1, 61):
            limits = special.get(zone, (6.0 * zone - 186, 6.0 * zone - 180))
            if limits is not None:
                found[(32600 if north > 0 else 32700) + zone].append((limits[0], south, limits[1], north))
    return {epsg: tuple(boxes) for epsg, boxes in found.items()}


def zone_parts(geometry: BaseGeometry) -> tuple[ZonePart, ...]:
    """Divide an area among the UTM zones, by EPSG code.

    Parameters
    ----------
    geometry
        Valid polygon or multipolygon in EPSG:4326, longitudes in -180..180.

    Raises
    ------
    InputError
        If it extends beyond 84 N or 80 S, where UTM ends.
    """
    _, south, _, north = geometry.bounds
    if south < MIN_LAT or north > MAX_LAT:
        raise InputError(
            f"Expected a region between 80 S and 84 N, the limits of UTM, got one from {south:g} to {north:g} degrees; "
            "clip it to these latitudes."
        )
    return tuple(_parts(geometry))


def _parts(geometry: BaseGeometry) -> Iterator[ZonePart]:
    west, south, east, north = geometry.bounds
    for epsg, boxes in sorted(zone_bands().items()):
        near = [box for box in boxes if box[0] < east and west < box[2] and box[1] < north and south < box[3]]
        if near:
            inside = shapely.intersection(geometry, shapely.union_all(shapely.box(*np.transpose(near))))
            polygons, _ = polygons_of(np.array([inside]))
            if len(polygons):
                fine = shapely.segmentize(shapely.MultiPolygon(list(polygons)), SEGMENT_DEG)
                yield ZonePart(epsg, shapely.transform(fine, partial(_projected, epsg)))


def _projected(epsg: int, lonlat: Floats) -> Floats:
    return np.column_stack(transformer(WGS84, epsg).transform(lonlat[:, 0], lonlat[:, 1]))
