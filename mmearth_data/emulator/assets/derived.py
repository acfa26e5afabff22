"""Assets computed from the planet that are no products of its own: Copernicus elevation, surface water, Landsat 8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import WGS84, transformer, utm_epsg
from mmearth_data.emulator.algorithms.image import (
    FLOAT,
    Band,
    Grid,
    Image,
    LazyBands,
    Makers,
    Pixels,
    PixelType,
    Projection,
    inside,
    nearest,
)
from mmearth_data.emulator.algorithms.pyramids import pyramid_band
from mmearth_data.emulator.assets.archive import (
    BYTE,
    SHORT,
    STATIC_VERSION,
    TIMED,
    LazyProperties,
    Read,
    global_band,
    native_band,
    raster_of,
    ring,
)
from mmearth_data.emulator.assets.scene_search import touches
from mmearth_data.planet.grids import Grid as NativeGrid
from mmearth_data.planet.grids import Window
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.noise import salt_of, unit_vectors
from mmearth_data.planet.optics import Light, resolution_px
from mmearth_data.planet.orbits import DAY_MS, FOREVER, Orbit, days_since_1970
from mmearth_data.planet.products import DEM_GRID
from mmearth_data.planet.scenes import sun_position
from mmearth_data.planet.tables import covers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.planet.views import Views

# ---------------------------------------------------------------- COPERNICUS/DEM/GLO30

GLO30 = "COPERNICUS/DEM/GLO30"
LAND_SAMPLES = 25


def elevation_tile(views: Views, lon: int, lat: int) -> Image:
    """Elevation of one degree square, named by its lower-left corner."""

    def read(window: Window) -> tuple[NDArray[Any], None]:
        ground = views.ground(DEM_GRID, window)
        return ground.height_m[ground.window.slices_of(window)], None

    index = f"Copernicus_DSM_COG_10_{_degrees(lat, 'NS', 2)}_00_{_degrees(lon, 'EW', 3)}_00_DEM"
    footprint = shapely.box(lon, lat, lon + 1, lat + 1)
    side = DEM_GRID.step[1]
    band = native_band("DEM", FLOAT, raster_of(DEM_GRID, lon, lat + 1, (side, side)), read)
    properties = {"system:index": index, "system:footprint": ring(footprint)}
    return Image((band,), properties, footprint, f"{GLO30}/{index}", STATIC_VERSION)


def _degrees(value: int, letters: str, digits: int) -> str:
    return f"{letters[value < 0]}{abs(value):0{digits}d}"


@lru_cache(maxsize=4096)
def _has_land(views: Views, lon: int, lat: int) -> bool:
    steps = (np.arange(LAND_SAMPLES) + 0.5) / LAND_SAMPLES
    x, y = np.meshgrid(lon + steps, lat + steps)
    return bool((views.world.land.distance(x, y, unit_vectors(x, y)) > 0).any())


def elevation_tiles(views: Views, shape: BaseGeometry | None) -> Iterator[Image]:
    """Squares that contain land and touch a shape."""
    west, south, east, north = (-180.0, -85.0, 180.0, 84.0) if shape is None else shape.bounds
    for lat in range(max(math.floor(south), -90), min(math.floor(north), 89) + 1):
        for degree in range(math.floor(west), math.floor(east) + 1):
            lon = (degree + 180) % 360 - 180
            near = shape is None or touches(shapely.box(lon, lat, lon + 1, lat + 1), shape)
            if near and _has_land(views, lon, lat):
                yield elevation_tile(views, lon, lat)


def elevation_named(views: Views, index: str) -> Image | None:
    """Square of an index."""
    parts = index.split("_")
    try:
        lat, lon = (int(text[1:]) * (-1 if text[0] in "SW" else 1) for text in (parts[4], parts[6]))
    except (IndexError, ValueError):
        return None
    if not (-90 <= lat < 90 and -180 <= lon < 180) or not _has_land(views, lon, lat):
        return None
    image = elevation_tile(views, lon, lat)
    return image if image.properties["system:index"] == index else None


# ---------------------------------------------------------------- JRC/GSW1_4/GlobalSurfaceWater

SURFACE_WATER = "JRC/GSW1_4/GlobalSurfaceWater"
WATER_GRID = NativeGrid(WGS84, (1, 4_000), (-180, 90), stride=5, substride=1)
WATER_LATITUDES = (-60, 80)
ALWAYS, MOSTLY = 100, 92
"""Percent of the time under water: of the sea, and of lakes and rivers."""


def surface_water(views: Views) -> Image:
    """Frequency and seasonality of water; masked where there never is any."""
    names = covers().names
    share = np.array([{"sea": ALWAYS, "water": MOSTLY}.get(name, 0) for name in names], np.uint8)

    def occurrence(window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        ground = views.ground(WATER_GRID, window)
        percent = share.take(ground.cover[ground.window.slices_of(window)])
        return percent, percent > 0

    def where_water(compute: Callable[[NDArray[Any]], NDArray[Any]]) -> Read:
        def read(window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            percent, valid = occurrence(window)
            return compute(percent), valid

        return read

    def extent(window: Window) -> tuple[NDArray[Any], None]:
        return occurrence(window)[1].astype(np.uint8), None

    change = PixelType("int", -128, 127)
    bands: dict[str, tuple[PixelType, Read]] = {
        "occurrence": (BYTE, occurrence),
        "change_abs": (change, where_water(np.zeros_like)),
        "change_norm": (change, where_water(np.zeros_like)),
        "seasonality": (BYTE, where_water(lambda p: np.where(p == ALWAYS, 12, 11))),
        "recurrence": (BYTE, where_water(lambda p: np.full_like(p, ALWAYS))),
        "transition": (BYTE, where_water(np.ones_like)),
        "max_extent": (BYTE, extent),
    }
    return Image(
        tuple(global_band(name, kind, WATER_GRID, read, WATER_LATITUDES) for name, (kind, read) in bands.items()),
        {"system:index": "GlobalSurfaceWater"},
        shapely.box(-180, WATER_LATITUDES[0], 180, WATER_LATITUDES[1]),
        SURFACE_WATER,
        STATIC_VERSION,
    )


# ---------------------------------------------------------------- LANDSAT/LC08/C02/T1_L2

LANDSAT8 = "LANDSAT/LC08/C02/T1_L2"
LANDSAT_ORBIT = Orbit(
    days=16,
    orbits=233,
    inclination_deg=98.2,
    node_hour=10.2,
    northward=False,
    half_swath_km=92.5,
    platforms={"LC08": (days_since_1970("2013-03-18"), FOREVER, 0.0)},
)
"""USGS, Landsat 8 data users' handbook: 233 orbits in 16 days, 185 km, descending at about 10:12."""
ROW_DEG, ROW_OVERLAP_DEG, EQUATOR_ROW = 1.44, 0.1, 60
SCALE, OFFSET = 2.75e-5, -0.2
LIKE_BANDS = {f"SR_B{k}": band for k, band in enumerate(("B1", "B2", "B3", "B4", "B8A", "B11", "B12"), 1)}
"""Bands of Landsat 8, and those of Sentinel-2 at the same wavelengths."""
CLEAR, CLOUDY = 21_824, 22_280
"""QA_PIXEL of clear land and of clouds."""


@dataclass(frozen=True)
class LandsatScene:
    """One Landsat 8 scene; the row counts from north to south, 60 at the equator."""

    views: Views
    track: int
    row: int
    time_ms: int

    @lazy
    def centre(self) -> tuple[float, float]:
        """Degrees of its middle."""
        return _row_centre(self.track, self.row)

    @property
    def epsg(self) -> int:
        """Zone of its middle, counted north of the equator everywhere, as Landsat does."""
        lon, lat = self.centre
        return utm_epsg(lon, abs(lat))

    @property
    def footprint(self) -> BaseGeometry:
        """Outline, degrees."""
        return landsat_footprint(self.track, self.row)

    @lazy
    def index(self) -> str:
        """``system:index``."""
        day = str(np.datetime64(self.time_ms, "ms").astype("datetime64[D]")).replace("-", "")
        return f"LC08_{self.track + 1:03d}{self.row:03d}_{day}"

    @lazy
    def lot(self) -> float:
        """Random number of this scene, 0-1."""
        return salt_of(self.views.world.seed, "landsat", self.index) / 2**32

    @property
    def cloud_percent(self) -> float:
        """Share of cloudy pixels."""
        return round(100 * self.lot**2, 2)

    @lazy
    def sun(self) -> tuple[float, float]:
        """(zenith, azimuth), degrees."""
        zenith, azimuth = sun_position(*self.centre, np.array([self.time_ms]))
        return float(zenith[0]), float(azimuth[0])

    @lazy
    def light(self) -> Light:
        """Sun and air."""
        zenith, azimuth = self.sun
        return Light(
            zenith_deg=zenith,
            azimuth_deg=azimuth,
            haze=1.0,
            cloud_percent=self.cloud_percent,
            cirrus=False,
            key=f"LC08/{self.track}/{self.time_ms // DAY_MS}",
        )


def _row_centre(track: int, row: int) -> tuple[float, float]:
    lat = (EQUATOR_ROW - row) * ROW_DEG
    lon = float(LANDSAT_ORBIT.node_deg(track) + LANDSAT_ORBIT.drift_deg(np.array([lat]))[0])
    return (lon + 180) % 360 - 180, lat


@lru_cache(maxsize=4096)
def landsat_footprint(track: int, row: int) -> BaseGeometry:
    """Outline of a path and row, degrees; longitude continues beyond 180."""
    lon, lat = _row_centre(track, row)
    reach = ROW_DEG / 2 + ROW_OVERLAP_DEG
    outline = LANDSAT_ORBIT.outline(track, lat - reach, lat + reach)
    outline[:, 0] += 360 * np.round((lon - outline[:, 0].mean()) / 360)
    return shapely.Polygon(outline)


def _landsat_dates(views: Views, track: int, row: int, period: tuple[int, int]) -> Iterator[LandsatScene]:
    lat = _row_centre(track, row)[1]
    cycles = LANDSAT_ORBIT.cycles(track, lat, *period, "LC08")
    for time in LANDSAT_ORBIT.times_ms(track, lat, "LC08", cycles).tolist():
        scene = LandsatScene(views, track, row, time)
        if scene.sun[0] < 76:
            yield scene


def landsat_scenes(views: Views, shape: BaseGeometry, period: tuple[int, int]) -> list[LandsatScene]:
    """Scenes whose footprints touch a shape, in the order of time."""
    west, south, east, north = shape.bounds
    steps = [np.linspace(*axis, max(math.ceil(axis[1] - axis[0]), 1) + 1) for axis in ((west, east), (south, north))]
    tracks = {int(t) for lon in steps[0].tolist() for lat in steps[1].tolist() for t in LANDSAT_ORBIT.tracks(lon, lat)}
    reach = ROW_DEG / 2 + ROW_OVERLAP_DEG
    first = math.ceil(EQUATOR_ROW - (north + reach) / ROW_DEG)
    last = math.floor(EQUATOR_ROW - (south - reach) / ROW_DEG)
    rows = range(max(first, 6), min(last, 114) + 1)
    scenes = [
        scene
        for track in tracks
        for row in rows
        if touches(landsat_footprint(track, row), shape)
        for scene in _landsat_dates(views, track, row, period)
    ]
    return sorted(scenes, key=lambda scene: (scene.time_ms, scene.index))


def landsat_named(views: Views, index: str) -> LandsatScene | None:
    """Scene of an index."""
    parts = index.split("_")
    if len(parts) != 3 or len(parts[1]) != 6 or not (parts[1] + parts[2]).isdigit() or len(parts[2]) != 8:
        return None
    track, row = int(parts[1][:3]) - 1, int(parts[1][3:])
    day = days_since_1970(f"{parts[2][:4]}-{parts[2][4:6]}-{parts[2][6:]}") * DAY_MS
    if not (0 <= track < LANDSAT_ORBIT.orbits and 6 <= row <= 114):
        return None
    found = _landsat_dates(views, track, row, (day, day + DAY_MS))
    return next((scene for scene in found if scene.index == index), None)


def landsat_image(scene: LandsatScene) -> Image:
    """Image of a scene."""
    return Image(
        LazyBands(lambda: _landsat_bands(scene)),
        LazyProperties(scene, LANDSAT_PROPERTIES),
        scene.footprint,
        f"{LANDSAT8}/{scene.index}",
        (scene.time_ms + DAY_MS) * 1000,
    )


def _landsat_bands(scene: LandsatScene) -> Makers:
    lon, lat = shapely.get_coordinates(scene.footprint.segmentize(0.1)).T
    x, y = transformer(WGS84, scene.epsg).transform(lon, lat)
    west, north = 30 * math.floor(x.min() / 30) - 15, 30 * math.ceil(y.max() / 30) + 15
    size = math.ceil((x.max() - west) / 30), math.ceil((north - y.min()) / 30)
    home = Projection(f"EPSG:{scene.epsg}", (30.0, 0.0, float(west), 0.0, -30.0, float(north)))

    def band(name: str, kind: PixelType, pixels: int, read: Callable[[Window], NDArray[Any]]) -> Band:
        step = 10.0 * pixels
        fine = Projection(home.crs, (step, 0.0, 0.0, 0.0, -step, 0.0))

        def native(grid: Grid) -> Pixels:
            values = read(Window(grid.column, grid.row, grid.width, grid.height)).astype(np.float64)
            return Pixels(values, np.ones(grid.shape, bool))

        def own(grid: Grid) -> Pixels:
            values = nearest(grid, fine, native).values
            valid = inside(scene.footprint, grid)
            return Pixels(np.where(valid, values, 0.0), valid)

        return pyramid_band(name, kind, home, size, own)

    rows: dict[str, tuple[PixelType, int, Callable[[Window], NDArray[Any]]]] = {
        **{name: (SHORT, resolution_px(of), partial(_surface, scene, of)) for name, of in LIKE_BANDS.items()},
        "SR_QA_AEROSOL": (BYTE, 6, lambda window: np.full(window.shape, 96)),
        "QA_RADSAT": (SHORT, 6, lambda window: np.zeros(window.shape)),
        "QA_PIXEL": (SHORT, 6, partial(_quality, scene)),
    }
    return {name: partial(band, name, *row) for name, row in rows.items()}


def _surface(scene: LandsatScene, band: str, window: Window) -> NDArray[Any]:
    """Surface reflectance as Landsat stores it, on the pixels of a band of Sentinel-2."""
    pixels = resolution_px(band)
    view = scene.views.overpass(scene, window.finer(pixels), toa=False)  # type: ignore[arg-type]  # a scene for its purposes
    reflectance = view.reflectance(band)[view.window.coarser(pixels).slices_of(window)]
    return np.clip(np.round((reflectance.astype(np.float64) - OFFSET) / SCALE), 1, 65_535)


def _quality(scene: LandsatScene, window: Window) -> NDArray[Any]:
    view = scene.views.overpass(scene, window.finer(6), toa=False)  # type: ignore[arg-type]
    clouds = view.cloud_mask()[view.window.coarser(6).slices_of(window)]
    return np.where(clouds > 0, CLOUDY, CLEAR)


LANDSAT_PROPERTIES: dict[str, Callable[[LandsatScene], Value]] = {
    **TIMED,
    "system:time_end": lambda s: s.time_ms,
    "CLOUD_COVER": lambda s: s.cloud_percent,
    "CLOUD_COVER_LAND": lambda s: s.cloud_percent,
    "LANDSAT_PRODUCT_ID": lambda s: s.index.replace("LC08_", "LC08_L2SP_") + "_02_T1",
    "COLLECTION_CATEGORY": lambda s: "T1",
    "PROCESSING_LEVEL": lambda s: "L2SP",
    "SPACECRAFT_ID": lambda s: "LANDSAT_8",
    "SENSOR_ID": lambda s: "OLI_TIRS",
    "SUN_AZIMUTH": lambda s: s.sun[1],
    "SUN_ELEVATION": lambda s: 90 - s.sun[0],
    "UTM_ZONE": lambda s: s.epsg % 100,
    "WRS_PATH": lambda s: s.track + 1,
    "WRS_ROW": lambda s: s.row,
    "DATE_ACQUIRED": lambda s: str(np.datetime64(s.time_ms, "ms").astype("datetime64[D]")),
}
