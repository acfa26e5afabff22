"""Scenes as on Earth: Sentinel-2 granules and Sentinel-1 frames, with dates, clouds and gaps.

Sentinel-2 comes in granules of 109.8 km on the military grid; neighbours overlap, and near a zone border a point is in
granules of both zones. Sentinel-1 comes in frames cut from its tracks, each in the zone of its centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.catalog.tile import MAX_LAT, MIN_LAT, WGS84, transformer, utm_epsg
from mmearth_data.planet.ecology import Ecology, cell_of
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.noise import hash_cells, mix, salt_of, unit_float
from mmearth_data.planet.optics import Light
from mmearth_data.planet.orbits import DAY_MS, LAST_LAT, SENTINEL1, SENTINEL2, days_since_1970
from mmearth_data.planet.radar import Look

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.planet.world import World

    Float64 = NDArray[np.float64]

SQUARE_M, GRANULE_M = 100_000, 109_800
STRIP_DEG = 20.0
"""Length of a datatake in degrees of latitude."""
LOWEST_SUN_ZENITH_DEG = 78.0
SWATH_EDGE_KM = 144.6
"""Data end slightly inside the footprint, which is simplified as in the real product."""
LAND_COVER_CLOUDS, LAND_COVER_SHARE = 35.0, 0.1
LAND_COVER_ZENITH_DEG = 70.0
"""Only some of the scenes with few clouds have a Dynamic World map: computing a whole year of them takes time."""
L2A_EUROPE = days_since_1970("2017-03-28")
L2A_GLOBAL = days_since_1970("2018-12-13")
NO_CLOUD_BAND = days_since_1970("2022-01-25"), days_since_1970("2024-02-28")
"""QA60 is fully masked between these days; the MSK_CLASSI_* bands start on the second (Earth Engine data catalog)."""
EUROPE = (-12.0, 34.0, 45.0, 72.0)
FRAME_DEG, FRAME_OVERLAP_DEG, FOOTPRINT_STEP_DEG = 1.6, 0.06, 0.25
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
BANDS_OF_LATITUDE = "CDEFGHJKLMNPQRSTUVWX"


@dataclass(frozen=True)
class Box:
    """A square in a CRS. Arrays of corners have shape (4,), counter-clockwise from the lower left."""

    epsg: int
    west: float
    south: float
    east: float
    north: float

    @property
    def x(self) -> Float64:
        """Eastings of the corners, metres."""
        return np.array([self.west, self.east, self.east, self.west])

    @property
    def y(self) -> Float64:
        """Northings of the corners, metres."""
        return np.array([self.south, self.south, self.north, self.north])

    @lazy
    def lonlat(self) -> tuple[Float64, Float64]:
        """Degrees of the corners."""
        lon, lat = transformer(self.epsg, WGS84).transform(self.x, self.y)
        return lon, lat

    @lazy
    def middle(self) -> tuple[float, float]:
        """Degrees of the centre."""
        lon, lat = self.lonlat
        away = (lon - lon[0] + 180) % 360 - 180
        return float(lon[0] + away.mean()), float(lat.mean())


@dataclass(frozen=True)
class Granule:
    """A square of the Sentinel-2 tiling."""

    epsg: int
    column: int
    row: int
    """Easting and northing of its square's lower-left corner, in units of 100 km."""

    @property
    def corner(self) -> tuple[int, int]:
        """Upper-left corner, metres: that of the 100 km square, moved outwards to a multiple of 60 m."""
        return self.column * SQUARE_M // 60 * 60, -(-(self.row + 1) * SQUARE_M // 60) * 60

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(west, south, east, north), metres."""
        west, north = self.corner
        return west, north - GRANULE_M, west + GRANULE_M, north

    @lazy
    def outline(self) -> tuple[Float64, Float64]:
        """Degrees of the corners, the midpoints of the edges, and the centre (last)."""
        west, south, east, north = self.bounds
        x, y = np.meshgrid([west, (west + east) / 2, east], [south, (south + north) / 2, north])
        order = [0, 1, 2, 5, 8, 7, 6, 3, 4]
        lon, lat = transformer(self.epsg, WGS84).transform(x.ravel()[order], y.ravel()[order])
        return lon, lat

    @property
    def centre(self) -> tuple[float, float]:
        """Degrees of the centre."""
        lon, lat = self.outline
        return float(lon[-1]), float(lat[-1])

    @lazy
    def exists(self) -> bool:
        """Whether it reaches into its own zone; each hemisphere has zones of its own."""
        return 0 <= self.row < 100 and any(
            _zone(lo, la) == self.epsg for lo, la in zip(*(c.tolist() for c in self.outline), strict=True)
        )

    @lazy
    def name(self) -> str:
        """Name in the military grid, such as ``T32UMV``."""
        zone = self.epsg % 100
        lat = self.centre[1]
        band = BANDS_OF_LATITUDE[min(max(int((lat + 80) // 8), 0), 19)]
        column = LETTERS[((zone - 1) % 3) * 8 + (self.column - 1) % 8]
        row = LETTERS[(self.row + (5 if zone % 2 == 0 else 0)) % 20]
        return f"T{zone:02d}{band}{column}{row}"

    @property
    def number(self) -> int:
        """Unique integer."""
        return (self.epsg * 16 + self.column) * 256 + self.row + 8


@lru_cache(maxsize=8192)
def granule_footprint(granule: Granule, track: int) -> BaseGeometry:
    """Outline of the part of a granule that is seen from a track, degrees; the same for all its scenes."""
    lon, lat = granule.outline
    lon = lon[-1] + (lon - lon[-1] + 180) % 360 - 180
    outline = shapely.Polygon(np.stack([lon, lat], axis=1)[:-1])
    swath = SENTINEL2.outline(track, float(lat.min()) - 0.5, float(lat.max()) + 0.5)
    swath[:, 0] += 360 * np.round((lon[-1] - swath[:, 0].mean()) / 360)
    return outline.intersection(shapely.Polygon(swath))


def _in_europe(lon: float, lat: float) -> bool:
    west, south, east, north = EUROPE
    return west <= lon <= east and south <= lat <= north


def _zone(lon: float, lat: float) -> int:
    lon = (lon + 180) % 360 - 180
    return utm_epsg(lon, lat) if MIN_LAT <= lat <= MAX_LAT else 0


_granule = lru_cache(maxsize=8192)(Granule)


def granules_at(box: Box) -> list[tuple[Granule, bool]]:
    """Granules that a box touches, including those of neighbouring zones, and whether each contains it."""
    lon, lat = box.lonlat
    reach = 1.15 / math.cos(math.radians(float(lat[0])))
    zones = {_zone(float(lon[0]) + dx, float(lat[0]) + dy) for dx in (-reach, 0, reach) for dy in (-1.0, 0, 1.0)} - {0}
    found = []
    for epsg in sorted(zones):
        x, y = (box.x, box.y) if epsg == box.epsg else transformer(WGS84, epsg).transform(lon, lat)
        (left, right), (bottom, top) = ((float(axis.min()), float(axis.max())) for axis in (x, y))
        for column in range(max(int(left // SQUARE_M) - 1, 1), min(int(right // SQUARE_M), 8) + 1):
            for row in range(int(bottom // SQUARE_M), int(top // SQUARE_M) + 2):
                granule = _granule(epsg, column, row)
                west, south, east, north = granule.bounds
                if west < right and left < east and south < top and bottom < north and granule.exists:
                    found.append((granule, west <= left and right <= east and south <= bottom and top <= north))
    return found


@dataclass(frozen=True)
class OpticalScene:
    """One overpass of Sentinel-2 over one granule."""

    world: World
    granule: Granule
    platform: str
    track: int
    """See `orbits.Orbit`."""
    time_ms: int
    """Passage of the centre of the granule, UTC milliseconds."""
    start_ms: int
    """Start of the datatake."""
    cloud_percent: float
    sun: tuple[float, float]
    """(zenith, azimuth) at the centre of the granule, degrees."""
    lot: int
    """32 random bits of its own."""

    @property
    def epsg(self) -> int:
        """CRS of its pixels."""
        return self.granule.epsg

    @lazy
    def overpass(self) -> str:
        """Name of the datatake, which all granules seen in it share."""
        return _stamp(self.start_ms)

    @lazy
    def index(self) -> str:
        """``system:index``: datatake, granule time, tile."""
        return f"{self.overpass}_{_stamp(self.time_ms)}_{self.granule.name}"

    @lazy
    def footprint(self) -> BaseGeometry:
        """Outline of what was seen, degrees: the granule within the swath. Longitudes may exceed 180."""
        return granule_footprint(self.granule, self.track)

    def chance(self, label: str) -> float:
        """Random number of this scene for a label, 0-1."""
        return salt_of(self.lot, label) / 2**32

    @lazy
    def light(self) -> Light:
        """Sun and atmosphere."""
        zenith, azimuth = self.sun
        return Light(
            zenith_deg=zenith,
            azimuth_deg=azimuth,
            haze=0.85 + 0.4 * salt_of(self.world.seed, "haze", self.overpass) / 2**32,
            cloud_percent=self.cloud_percent,
            cirrus=salt_of(self.world.seed, "cirrus", self.overpass) / 2**32 < 0.1,
            key=f"{self.platform}/{self.overpass}",
        )

    @property
    def has_cloud_probability(self) -> bool:
        """Whether it has the band MSK_CLDPRB, which some scenes lack."""
        return self.chance("cloud probability") > 0.05

    @property
    def has_cloud_mask(self) -> bool:
        """Whether QA60 has data; otherwise all its pixels are masked."""
        first, last = NO_CLOUD_BAND
        return not first * DAY_MS <= self.time_ms < last * DAY_MS

    @property
    def has_cloud_classes(self) -> bool:
        """Whether the MSK_CLASSI_* bands have data."""
        return self.time_ms >= NO_CLOUD_BAND[1] * DAY_MS

    @property
    def has_level_2a(self) -> bool:
        """Whether it was processed to Level 2A: in Europe first, everywhere since December 2018."""
        since = L2A_EUROPE if _in_europe(*self.granule.centre) else L2A_GLOBAL
        return self.time_ms >= since * DAY_MS


def optical_scenes(
    world: World,
    box: Box,
    start_ms: int,
    end_ms: int,
    *,
    cloud_limit: float = 101.0,
    whole: bool = True,
    mapped: bool = False,
) -> list[OpticalScene]:
    """Sentinel-2 scenes over a box within [start, end) in UTC milliseconds, in order of time.

    Only scenes with a lower percentage of clouds than ``cloud_limit``, and with ``mapped`` only those with a land-cover
    map (Dynamic World). Footprints contain the box if ``whole``, otherwise they touch it.
    """
    lat = np.abs(box.lonlat[1])
    if (lat.max() if whole else lat.min()) > LAST_LAT:
        return []
    tracks = SENTINEL2.tracks(*box.middle)
    across = np.abs(SENTINEL2.across_km(tracks[:, None], *box.lonlat))
    seen = (across.max(axis=1) if whole else across.min(axis=1)) <= SENTINEL2.half_swath_km
    scenes = [
        scene
        for granule, contains in granules_at(box)
        if contains or not whole
        for track in tracks[seen].tolist()
        for scene in _dates(world, granule, track, (start_ms, end_ms), cloud_limit, mapped=mapped)
    ]
    return sorted(scenes, key=lambda scene: (scene.start_ms // 1000, scene.time_ms // 1000, scene.granule.name))


def scenes_of_granule(
    world: World,
    granule: Granule,
    tracks: Iterable[int],
    period: tuple[int, int],
    *,
    cloud_limit: float = 101.0,
    mapped: bool = False,
) -> list[OpticalScene]:
    """Sentinel-2 scenes of a granule from some tracks within [start, end), unsorted (see `optical_scenes`)."""
    return [s for track in tracks for s in _dates(world, granule, track, period, cloud_limit, mapped=mapped)]


@lru_cache(maxsize=8192)
def granule_named(name: str) -> Granule | None:
    """Granule with a name such as ``T32UMV``."""
    if len(name) != 6 or not name[1:3].isdigit() or set(name[3:]) - set(LETTERS):
        return None
    zone, band = int(name[1:3]), name[3]
    if not 1 <= zone <= 60:
        return None
    column = LETTERS.index(name[4]) - ((zone - 1) % 3) * 8 + 1
    if not 1 <= column <= 8:
        return None
    rows = range((LETTERS.index(name[5]) - (5 if zone % 2 == 0 else 0)) % 20, 100, 20)
    found = (_granule((32600 if band >= "N" else 32700) + zone, column, row) for row in rows)
    return next((granule for granule in found if granule.name == name and granule.exists), None)


@lru_cache(maxsize=8192)
def tracks_over(granule: Granule) -> tuple[int, ...]:
    """Tracks of Sentinel-2 that see part of a granule."""
    places = zip(*(degrees.tolist() for degrees in granule.outline), strict=True)
    return tuple(sorted({int(track) for place in places for track in SENTINEL2.tracks(*place)}))


def optical_scene_named(world: World, index: str, *, mapped: bool = False) -> OpticalScene | None:
    """Sentinel-2 scene with a ``system:index``; with ``mapped``, only if it has a land-cover map."""
    parts = index.split("_")
    granule = granule_named(parts[-1])
    start = _second(parts[1]) if len(parts) == 3 else None
    if granule is None or start is None:
        return None
    limit = LAND_COVER_CLOUDS if mapped else 101.0
    tracks = tracks_over(granule)
    scenes = scenes_of_granule(world, granule, tracks, (start, start + 1000), cloud_limit=limit, mapped=mapped)
    return next((scene for scene in scenes if scene.index == index), None)


def _second(stamp: str) -> int | None:
    """UTC milliseconds of a stamp such as ``20170127T140051``."""
    try:
        moment = datetime.strptime(stamp, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return round(moment.timestamp()) * 1000


def _dates(
    world: World, granule: Granule, track: int, period: tuple[int, int], cloud_limit: float, *, mapped: bool
) -> Iterator[OpticalScene]:
    """Scenes of a granule from one track, with fewer clouds than the limit and the sun high enough."""
    lon, lat = granule.centre
    strip = min(math.ceil(lat / STRIP_DEG) * STRIP_DEG, LAST_LAT)
    flights = {p: SENTINEL2.cycles(track, lat, *period, p) for p in SENTINEL2.platforms}
    times = np.concatenate([SENTINEL2.times_ms(track, lat, p, cycles) for p, cycles in flights.items()])
    starts = np.concatenate([SENTINEL2.times_ms(track, strip, p, cycles) for p, cycles in flights.items()])
    place = np.array([granule.number], np.int32)
    bits = hash_cells((times // DAY_MS).astype(np.int32), place, salt_of(world.seed, "s2"))
    clouds = _cloud_percent(world, granule, times, bits)
    lots = mix(bits ^ np.uint32(0x51ED270B))
    kept = (unit_float(mix(bits + np.uint32(0x9E3779B9))) > 0.05) & (clouds < cloud_limit)
    if mapped:
        kept &= unit_float(lots) < _mapped_share(world, granule)
    chosen = np.flatnonzero(kept)
    zenith, azimuth = sun_position(lon, lat, times[chosen])
    platforms = tuple(flights)
    of_first = len(flights[platforms[0]])
    for k, z, a in zip(chosen.tolist(), zenith.tolist(), azimuth.tolist(), strict=True):
        if z < (LAND_COVER_ZENITH_DEG if mapped else LOWEST_SUN_ZENITH_DEG):
            when = (int(times[k]), int(starts[k]))
            yield OpticalScene(
                world, granule, platforms[int(k >= of_first)], track, *when, float(clouds[k]), (z, a), int(lots[k])
            )


def _mapped_share(world: World, granule: Granule) -> float:
    """Share of a granule's scenes that have a land-cover map; a few granules have none."""
    gone = salt_of(world.seed, "unmapped", granule.number) / 2**32 < 0.03
    return 0.0 if gone else LAND_COVER_SHARE * math.cos(math.radians(granule.centre[1]))


def _cloud_percent(world: World, granule: Granule, times: NDArray[np.int64], bits: NDArray[np.uint32]) -> Float64:
    """Cloudiness of a granule: the rainier the month, the fewer clear days."""
    swing, warmest, annual = _rain(world.ecology, granule)
    phase = (times / DAY_MS % 365.2425 - warmest) * (2 * np.pi / 365.2425)
    rain = annual / 12 * (1 + swing * np.cos(phase))
    clear = 3.0 - 2.6 * rain / (rain + 60.0)
    uniform = (bits.astype(np.float64) + 0.5) / 2**32
    return np.round(100 * uniform**clear, 4)


@lru_cache(maxsize=8192)
def _rain(ecology: Ecology, granule: Granule) -> tuple[float, float, float]:
    cell = cell_of(*(np.array([degree]) for degree in granule.centre))
    c = ecology.climate
    return float(c.rain_swing[cell][0]), float(c.warmest_day[cell][0]), float(c.rain_mm[cell][0])


def sun_position(lon: float, lat: float, times_ms: NDArray[np.int64]) -> tuple[Float64, Float64]:
    """Zenith and azimuth of the sun, degrees, to about half a degree (declination and equation of time as series)."""
    day = times_ms / DAY_MS % 365.2425
    angle = 2 * np.pi * (day - 81) / 364
    minutes = 9.87 * np.sin(2 * angle) - 7.53 * np.cos(angle) - 1.5 * np.sin(angle)
    hours = times_ms / 3_600_000 % 24 + lon / 15 + minutes / 60
    turn = np.radians(15 * (hours - 12))
    tilt = np.radians(23.45 * np.sin(2 * np.pi * (day - 80) / 365.2425))
    phi = math.radians(lat)
    up = np.sin(phi) * np.sin(tilt) + np.cos(phi) * np.cos(tilt) * np.cos(turn)
    east = -np.cos(tilt) * np.sin(turn)
    north = np.cos(phi) * np.sin(tilt) - np.sin(phi) * np.cos(tilt) * np.cos(turn)
    return np.degrees(np.arccos(np.clip(up, -1, 1))), np.degrees(np.arctan2(east, north)) % 360


def _stamp(time_ms: int) -> str:
    """``20170127T140051`` of UTC milliseconds."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y%m%dT%H%M%S")


@dataclass(frozen=True)
class RadarScene:
    """One frame of Sentinel-1, cut from a track between two latitudes."""

    world: World
    direction: str
    """``ASCENDING`` or ``DESCENDING``."""
    platform: str
    track: int
    frame: int
    """Number of the slice, by latitude."""
    time_ms: int
    """Passage of its centre, UTC milliseconds."""

    @lazy
    def centre(self) -> tuple[float, float]:
        """Degrees of the centre."""
        return _frame_centre(self.direction, self.track, self.frame)

    @property
    def epsg(self) -> int:
        """CRS of its pixels: the zone of its centre."""
        return _zone(*self.centre)

    @property
    def polarisations(self) -> tuple[str, ...]:
        """VV and VH; HH and HV over ice and polar seas; occasionally only the first."""
        lon, lat = self.centre
        polar = lat > 75 or lat < -60 or (lat > 60 and -75 < lon < -12)
        single = salt_of(self.world.seed, "single", self.direction, self.track, self.frame) / 2**32 < 0.05
        both = ("HH", "HV") if polar else ("VV", "VH")
        return both[:1] if single else both

    @lazy
    def footprint(self) -> BaseGeometry:
        """Outline of what was seen, degrees. Longitudes may exceed 180."""
        return frame_footprint(self.direction, self.track, self.frame)

    @lazy
    def index(self) -> str:
        """``system:index``, in the form of product names."""
        second = {"VV": "SSV", "VH": "SDV", "HH": "SSH", "HV": "SDH"}[self.polarisations[-1]]
        start, end = _stamp(self.time_ms - 12_500), _stamp(self.time_ms + 12_500)
        orbit = (self.time_ms // 5_924_571) % 100_000
        unique = salt_of(self.world.seed, self.platform, self.track, self.frame, self.time_ms) & 0xFFFF
        take = (self.time_ms // 1_000_000) % 0xFFFFFF
        return f"{self.platform}_IW_GRDH_1{second}_{start}_{end}_{orbit:06d}_{take:06X}_{unique:04X}"

    @lazy
    def look(self) -> Look:
        """Look direction, and wind over water."""
        wind = salt_of(self.world.seed, "wind", self.platform, self.time_ms // DAY_MS, self.frame) / 2**32
        azimuth = 79.0 if self.direction == "ASCENDING" else 281.0
        return Look(azimuth, wind, f"{self.platform}/{self.direction}/{self.track}/{self.time_ms // DAY_MS}")

    def incidence_deg(self, lon: Float64, lat: Float64) -> Float64:
        """Incidence angles at points: 30 degrees at the near edge of the swath, 46 at the far one."""
        orbit = SENTINEL1[self.direction]
        across = orbit.across_km(np.full(lon.shape, self.track), lon, lat) / orbit.half_swath_km
        return 38.0 + 8.0 * (across if orbit.northward else -across)


@lru_cache(maxsize=8192)
def _frame_centre(direction: str, track: int, frame: int) -> tuple[float, float]:
    orbit = SENTINEL1[direction]
    lat = (frame + 0.5) * FRAME_DEG
    lon = float(orbit.node_deg(track) + orbit.drift_deg(np.array([lat]))[0])
    return (lon + 180) % 360 - 180, lat


@lru_cache(maxsize=8192)
def frame_footprint(direction: str, track: int, frame: int) -> BaseGeometry:
    """Outline of a frame, degrees; the same for all its scenes."""
    south, north = frame * FRAME_DEG - FRAME_OVERLAP_DEG, (frame + 1) * FRAME_DEG + FRAME_OVERLAP_DEG
    outline = SENTINEL1[direction].outline(track, south, north)
    outline[:, 0] += 360 * np.round((_frame_centre(direction, track, frame)[0] - outline[:, 0].mean()) / 360)
    # Frames end at parallels; with short segments, geodesic edges (Earth Engine's) are within 10 m of them.
    return shapely.segmentize(shapely.Polygon(outline), FOOTPRINT_STEP_DEG)


def radar_scenes(
    world: World, direction: str, box: Box, start_ms: int, end_ms: int, *, whole: bool = True
) -> list[RadarScene]:
    """Sentinel-1 scenes (IW) of one direction over a box, unsorted; period and ``whole`` as in `optical_scenes`."""
    frames = _frames(world, direction, box, whole=whole)
    return [s for track, frame in frames for s in scenes_of_frame(world, direction, track, frame, (start_ms, end_ms))]


def closest_radar_scene(
    world: World, direction: str, box: Box, time_ms: int, start_ms: int, end_ms: int
) -> RadarScene | None:
    """Scene of a direction that contains the box and is closest in time; of two, the earlier one."""
    scenes = radar_scenes(world, direction, box, start_ms, end_ms)
    rank = attrgetter("time_ms", "platform", "track", "frame")
    return min(scenes, key=lambda scene: (abs(scene.time_ms - time_ms), *rank(scene)), default=None)


def _frames(world: World, direction: str, box: Box, *, whole: bool) -> Iterator[tuple[int, int]]:
    """Tracks and frames that contain (or touch) a box and are acquired at all."""
    lon, lat = box.lonlat
    orbit = SENTINEL1[direction]
    tracks = orbit.tracks(*box.middle)
    across = np.abs(orbit.across_km(tracks[:, None], lon, lat))
    worst = across.max(axis=1) if whole else across.min(axis=1)
    low, high = (lat.min(), lat.max()) if whole else (lat.max(), lat.min())
    first = math.ceil((high - FRAME_OVERLAP_DEG) / FRAME_DEG) - 1
    last = math.floor((low + FRAME_OVERLAP_DEG) / FRAME_DEG)
    for track in tracks[worst <= orbit.half_swath_km].tolist():
        for frame in range(first, last + 1):
            if _ever_taken(world, direction, track, frame):
                yield track, frame


@lru_cache(maxsize=65536)
def _ever_taken(world: World, direction: str, track: int, frame: int) -> bool:
    return salt_of(world.seed, "frame", direction, track, frame) / 2**32 < 0.8


def scenes_of_frame(world: World, direction: str, track: int, frame: int, period: tuple[int, int]) -> list[RadarScene]:
    """Sentinel-1 scenes of a frame within [start, end), unsorted."""
    if not _ever_taken(world, direction, track, frame):
        return []
    found = _radar_times(world, direction, track, frame, *period)
    return [RadarScene(world, direction, platform, track, frame, t) for platform, ts in found for t in ts.tolist()]


def radar_scene_named(world: World, index: str) -> RadarScene | None:
    """Sentinel-1 scene with a ``system:index``; the platform's position follows from the time."""
    parts = index.split("_")
    start = _second(parts[4]) if len(parts) == 9 else None
    if start is None:
        return None
    period = (start + 12_500, start + 13_500)
    for direction, orbit in SENTINEL1.items():
        if parts[0] in orbit.platforms:
            track, lat = orbit.below(parts[0], start + 13_000)
            nearby = math.floor(lat / FRAME_DEG)
            for frame in (nearby, nearby - 1, nearby + 1):
                for scene in scenes_of_frame(world, direction, track, frame, period):
                    if scene.index == index:
                        return scene
    return None


def _radar_times(
    world: World, direction: str, track: int, frame: int, start_ms: int, end_ms: int
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Platforms and times of a frame; some acquisitions are missing, and half of the frames have one platform."""
    orbit = SENTINEL1[direction]
    lon, lat = _frame_centre(direction, track, frame)
    twice = _in_europe(lon, lat)
    twice = twice or salt_of(world.seed, "second", direction, track, frame) / 2**32 < 0.4
    for platform in list(orbit.platforms)[: 2 if twice else 1]:
        times = orbit.times_ms(track, lat, platform, orbit.cycles(track, lat, start_ms, end_ms, platform))
        days = (times // DAY_MS).astype(np.int32)
        place = np.full(len(days), track * 256 + frame, np.int32)
        kept = times[unit_float(hash_cells(days, place, salt_of(world.seed, "taken", direction, platform))) > 0.12]
        if len(kept):
            yield platform, kept
