"""Search for the scenes of the planet that touch a shape of any size."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import shapely
import shapely.affinity

from mmearth_data.catalog.tile import MAX_LAT, MIN_LAT, WGS84, transformer, utm_epsg
from mmearth_data.emulator.errors import timed_out
from mmearth_data.planet.orbits import DAY_MS, SENTINEL1, SENTINEL2
from mmearth_data.planet.scenes import (
    FRAME_DEG,
    FRAME_OVERLAP_DEG,
    Box,
    Granule,
    OpticalScene,
    RadarScene,
    frame_footprint,
    granule_footprint,
    granules_at,
    scenes_of_frame,
    scenes_of_granule,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shapely.geometry.base import BaseGeometry

    from mmearth_data.planet.world import World

CELL_DEG = 0.5
MOST_CELLS = 40_000
"""A shape larger than a continent is refused, as the service runs out of time."""
TURNS = (0, -360, 360)
BLOCK_MS = 64 * DAY_MS
"""Length of the period whose radar scenes are found at once."""


def touches(footprint: BaseGeometry, shape: BaseGeometry) -> bool:
    """Whether two shapes in degrees intersect, also if their longitudes differ by a whole turn."""
    west, south, east, north = footprint.bounds
    left, bottom, right, top = shape.bounds
    if bottom > north or top < south:
        return False
    for turn in TURNS:
        if left + turn <= east and right + turn >= west:
            moved = shape if turn == 0 else shapely.affinity.translate(shape, turn)
            if footprint.intersects(moved):
                return True
    return False


def _cells(shape: BaseGeometry) -> Iterator[tuple[float, float, float, float]]:
    """Cover a shape with (west, south, east, north) of at most half a degree."""
    west, south, east, north = shape.bounds
    columns, rows = (max(math.ceil(size / CELL_DEG), 1) for size in (east - west, north - south))
    if columns * rows > MOST_CELLS:
        raise timed_out()
    width, height = (east - west) / columns, (north - south) / rows
    for row, column in product(range(rows), range(columns)):
        left, bottom = west + column * width, south + row * height
        cell = left, bottom, left + width, bottom + height
        if columns * rows == 1 or shape.intersects(shapely.box(*cell)):
            yield cell


def _box(cell: tuple[float, float, float, float]) -> Box | None:
    """Square around a cell in its UTM zone; None beyond the zones."""
    west, south, east, north = cell
    south, north = max(south, MIN_LAT), min(north, MAX_LAT)
    if south > north:
        return None
    middle = ((west + east) / 2 + 180) % 360 - 180
    epsg = utm_epsg(middle, (south + north) / 2)
    x, y = transformer(WGS84, epsg).transform(
        np.array([west, east, east, west]), np.array([south, south, north, north])
    )
    return Box(epsg, float(x.min()), float(y.min()), float(x.max()), float(y.max()))


def _granules(shape: BaseGeometry) -> set[Granule]:
    boxes = (_box(cell) for cell in _cells(shape))
    return {granule for box in boxes if box is not None for granule, _ in granules_at(box)}


@lru_cache(maxsize=1024)
def _seen(shape: BaseGeometry) -> tuple[tuple[Granule, tuple[int, ...]], ...]:
    """Granules that a shape touches, each with the tracks that cover a part of it there; shapes are searched repeatedly."""
    return tuple((granule, _tracks(granule, shape)) for granule in _granules(shape))


def _corners(bounds: tuple[float, float, float, float]) -> Iterator[tuple[int, int]]:
    """Corners of the whole degrees around some bounds: few, so that the results of orbits are reused."""
    west, south, east, north = bounds
    return product({math.floor(west), math.ceil(east)}, {math.floor(south), math.ceil(north)})


def _tracks(granule: Granule, shape: BaseGeometry) -> tuple[int, ...]:
    """Tracks that cover a part of a granule in a shape.

    A swath is wider than a granule and almost straight: it contains a corner of any rectangle that it touches.
    """
    lon, lat = granule.outline
    lon = lon[-1] + (lon - lon[-1] + 180) % 360 - 180
    west, south, east, north = float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())
    left, bottom, right, top = shape.bounds
    tracks: set[int] = set()
    for turn in TURNS:
        if left + turn <= east and right + turn >= west:
            part = max(west, left + turn), max(south, bottom), min(east, right + turn), min(north, top)
            tracks.update(track for corner in _corners(part) for track in SENTINEL2.tracks(*corner).tolist())
    return tuple(track for track in sorted(tracks) if touches(granule_footprint(granule, track), shape))


@lru_cache(maxsize=2048)
def _scenes(
    world: World, granule: Granule, track: int, period: tuple[int, int], cloud_limit: float, mapped: bool
) -> list[OpticalScene]:
    """Scenes of a granule from a track; many locations share a granule, and most are searched for a whole year."""
    return scenes_of_granule(world, granule, (track,), period, cloud_limit=cloud_limit, mapped=mapped)


def optical(
    world: World,
    shape: BaseGeometry,
    period: tuple[int, int],
    *,
    cloud_limit: float = 101.0,
    mapped: bool = False,
) -> list[OpticalScene]:
    """Sentinel-2 scenes whose footprints touch a shape, in the order of their index."""
    scenes = []
    for granule, tracks in _seen(shape):
        for track in tracks:
            scenes += _scenes(world, granule, track, period, cloud_limit, mapped)
    return sorted(scenes, key=lambda scene: (scene.start_ms // 1000, scene.time_ms // 1000, scene.granule.name))


def _frame_scenes(
    world: World, direction: str, track: int, frame: int, period: tuple[int, int]
) -> Iterator[RadarScene]:
    start, end = period
    if end - start > BLOCK_MS:
        yield from scenes_of_frame(world, direction, track, frame, period)
        return
    for block in range(start // BLOCK_MS, -(-end // BLOCK_MS)):
        for scene in _block(world, direction, track, frame, block):
            if start <= scene.time_ms < end:
                yield scene


@lru_cache(maxsize=4096)
def _block(world: World, direction: str, track: int, frame: int, block: int) -> list[RadarScene]:
    """Scenes of a frame within some weeks: neighbours share nearly all of them."""
    return scenes_of_frame(world, direction, track, frame, (block * BLOCK_MS, (block + 1) * BLOCK_MS))


def radar(world: World, shape: BaseGeometry, period: tuple[int, int], *, way: str | None = None) -> list[RadarScene]:
    """Sentinel-1 scenes whose footprints touch a shape, in the order of time; of both ways, or of one."""
    _, south, _, north = shape.bounds
    corners = {corner for cell in _cells(shape) for corner in _corners(cell)}
    frames = range(
        math.floor((south - FRAME_OVERLAP_DEG) / FRAME_DEG), math.floor((north + FRAME_OVERLAP_DEG) / FRAME_DEG) + 1
    )
    scenes: list[RadarScene] = []
    for direction in SENTINEL1 if way is None else {way} & {*SENTINEL1}:
        orbit = SENTINEL1[direction]
        tracks = {int(track) for corner in corners for track in orbit.tracks(*corner)}
        for track, frame in product(tracks, frames):
            if touches(frame_footprint(direction, track, frame), shape):
                scenes += _frame_scenes(world, direction, track, frame, period)
    return sorted(scenes, key=lambda scene: (scene.time_ms, scene.direction, scene.frame))
