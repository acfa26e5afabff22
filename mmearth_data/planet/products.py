"""The assets of the planet: which images each has, and their pixels on their native grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mmearth_data.catalog.tile import WGS84
from mmearth_data.planet import era5
from mmearth_data.planet.climate import month_index
from mmearth_data.planet.grids import Grid, Patch, Window
from mmearth_data.planet.ground import Ground, Lattice
from mmearth_data.planet.noise import hash_cells, salt_of, unit_float
from mmearth_data.planet.optics import OpticalView, opaque_clouds, resolution_px
from mmearth_data.planet.orbits import SENTINEL1
from mmearth_data.planet.scenes import (
    LAND_COVER_CLOUDS,
    SWATH_EDGE_KM,
    Box,
    OpticalScene,
    RadarScene,
    optical_scenes,
    radar_scenes,
)
from mmearth_data.planet.tables import covers
from mmearth_data.planet.views import Views, utm_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_data.planet.noise import Float32

    Bool = NDArray[np.bool_]

LAND_COVER_GRID = Grid(WGS84, (1, 12_000), (-180, 90), stride=20, substride=5)
DEM_GRID = Grid(WGS84, (1, 3_600), (-180, 90), stride=6, substride=2)
ERA5_GRID = Grid(WGS84, (1, 10), (-180.05, 90.05))
"""Pixels are centred on whole tenths of a degree, like the nodes of the weather model."""
NO_CANOPY = 255
DOUBT_M = (74.0, 23.0)
LABEL_BLOCK_PX = 3
LABEL_FLIPS = 0.05
"""Share of blocks that the land-cover map of one day labels as the most similar class."""


class Layer(NamedTuple):
    """Pixels of one band on its native grid."""

    values: NDArray[Any]
    """(row, column) numbers as the asset stores them."""
    valid: Bool | None = None
    """(row, column) False where masked; None where nothing is."""


@dataclass(frozen=True)
class Image:
    """One image of a collection, or an asset that is a single image."""

    asset: str
    index: str
    start_ms: int
    end_ms: int
    """Time covered, UTC milliseconds, end exclusive."""
    bands: tuple[str, ...]
    scene: OpticalScene | RadarScene | None = None


class Product(Protocol):
    """One asset of the planet."""

    @property
    def asset(self) -> str:
        """Id."""
        ...

    def images(self, box: Box, start_ms: int, end_ms: int) -> list[Image]:
        """Images that touch a box and start within [start, end), by index."""
        ...

    def grid(self, image: Image, band: str) -> Grid:
        """Native grid of a band."""
        ...

    def read(self, image: Image, band: str, window: Window) -> Layer:
        """Pixels of a band."""
        ...


@dataclass(frozen=True)
class Sentinel2:
    """Optical scenes of one level, ``L1C`` or ``L2A``."""

    asset: str
    bands: tuple[str, ...]
    level: str
    views: Views

    def scenes(self, box: Box, start_ms: int, end_ms: int, *, cloud_limit: float, whole: bool) -> list[OpticalScene]:
        """Scenes of this level (see `optical_scenes`)."""
        found = optical_scenes(self.views.world, box, start_ms, end_ms, cloud_limit=cloud_limit, whole=whole)
        return [scene for scene in found if self.level == "L1C" or scene.has_level_2a]

    def images(self, box: Box, start_ms: int, end_ms: int) -> list[Image]:
        """Images that touch a box."""
        scenes = self.scenes(box, start_ms, end_ms, cloud_limit=101, whole=False)
        return [self.image(scene) for scene in scenes]

    def image(self, scene: OpticalScene) -> Image:
        """Image of a scene."""
        bands = tuple(band for band in self.bands if band != "MSK_CLDPRB" or scene.has_cloud_probability)
        return Image(self.asset, scene.index, scene.time_ms, scene.time_ms + 1, bands, scene)

    def grid(self, image: Image, band: str) -> Grid:
        """UTM grid of the scene, at the band's resolution."""
        return _scene_grid(image, _pixels_of(band))

    def read(self, image: Image, band: str, window: Window) -> Layer:
        """Pixels of a band; masked beyond the swath."""
        scene = image.scene
        assert isinstance(scene, OpticalScene)
        pixels = _pixels_of(band)
        view = self.views.overpass(scene, window.finer(pixels), toa=self.level == "L1C")
        if band == "QA60" and not scene.has_cloud_mask:
            return Layer(np.zeros(window.shape, np.uint16), np.zeros(window.shape, bool))
        values = SPECIAL_BANDS[band][1](view) if band in SPECIAL_BANDS else view.digital_numbers(band)
        part = view.window.coarser(pixels).slices_of(window)
        if view.whole:
            return Layer(values[part])
        valid = _seen(scene, view.ground, self.grid(image, band), window)
        view.whole = valid is None and _seen(scene, view.ground, utm_grid(scene.epsg), view.window) is None
        return Layer(values[part], valid)


SPECIAL_BANDS: dict[str, tuple[int, Callable[[OpticalView], NDArray[Any]]]] = {
    "QA60": (6, OpticalView.cloud_mask),
    "MSK_CLDPRB": (2, OpticalView.cloud_probability),
    "SCL": (2, OpticalView.scene_classes),
}
"""Bands that are not spectral: their resolution in pixels of 10 m, and how to compute them."""


def _pixels_of(band: str) -> int:
    return SPECIAL_BANDS[band][0] if band in SPECIAL_BANDS else resolution_px(band)


def _scene_grid(image: Image, pixels: int) -> Grid:
    assert image.scene is not None
    return Grid(image.scene.epsg, (10 * pixels, 1))


def _seen(scene: OpticalScene, ground: Ground, grid: Grid, window: Window) -> Bool | None:
    """Pixels of a window (inside that of the surface) that the granule and the swath cover; None if all do."""
    west, south, east, north = scene.granule.bounds
    x = grid.x(window.column + np.arange(window.width) + 0.5)
    y = grid.y(window.row + np.arange(window.height) + 0.5)
    inside = west < x[0] and x[-1] < east and south < y[-1] and y[0] < north
    if inside and bool(np.abs(ground.lattice.across_km(scene.track)).max() < SWATH_EDGE_KM):
        return None
    patch = Patch(grid, window)
    away = patch.linear(Lattice(ground.world, patch.nodes).across_km(scene.track).astype(np.float32))
    result: Bool = ((x > west) & (x < east))[None, :] & ((y > south) & (y < north))[:, None]
    result &= np.abs(away) < np.float32(SWATH_EDGE_KM)
    return result


@dataclass(frozen=True)
class Sentinel1:
    """Radar scenes."""

    asset: str
    views: Views

    def images(self, box: Box, start_ms: int, end_ms: int) -> list[Image]:
        """Images that touch a box."""
        world = self.views.world
        scenes = [s for way in SENTINEL1 for s in radar_scenes(world, way, box, start_ms, end_ms, whole=False)]
        return sorted((self.image(scene) for scene in scenes), key=lambda image: image.index)

    def image(self, scene: RadarScene) -> Image:
        """Image of a scene."""
        bands = (*scene.polarisations, "angle")
        return Image(self.asset, scene.index, scene.time_ms, scene.time_ms + 1, bands, scene)

    def grid(self, image: Image, band: str) -> Grid:
        """10 m grid of the scene's zone."""
        return _scene_grid(image, 1)

    def read(self, image: Image, band: str, window: Window) -> Layer:
        """Backscatter in dB, or the incidence angle."""
        scene = image.scene
        assert isinstance(scene, RadarScene)
        view = self.views.radar(scene, window)
        if band == "angle":
            return Layer(view.incidence_deg[view.ground.window.slices_of(window)])
        return Layer(view.backscatter_db(band, window))


@dataclass(frozen=True)
class Static:
    """An asset that does not change with time: one image, or one per year."""

    asset: str
    band: str
    pixels: Callable[[Ground], Layer]
    """Values of that band, from a surface."""
    native: Grid
    views: Views
    years: tuple[int, int] = (2020, 2020)
    """[first, last] calendar years that it covers; with more than one, an image each."""

    def images(self, box: Box, start_ms: int, end_ms: int) -> list[Image]:
        """Images of the years that start within [start, end)."""
        found = [self.image(year) for year in range(self.years[0], self.years[1] + 1)]
        return [image for image in found if start_ms <= image.start_ms < end_ms]

    def image(self, year: int) -> Image:
        """Image of a year."""
        return Image(self.asset, str(year), year_start_ms(year), year_start_ms(year + 1), (self.band,))

    def grid(self, image: Image, band: str) -> Grid:
        """Grid of the asset."""
        return self.native

    def read(self, image: Image, band: str, window: Window) -> Layer:
        """Pixels of the band."""
        ground = self.views.ground(self.native, window)
        part = ground.window.slices_of(window)
        values, valid = self.pixels(ground)
        return Layer(values[part], None if valid is None else valid[part])


def dem(ground: Ground) -> Layer:
    """Elevation in whole metres, with the roughness of a stereo model."""
    return Layer(np.floor(ground.height_m + np.float32(0.5)).astype(np.int16))


def canopy_height(ground: Ground) -> Layer:
    """Height of the canopy in whole metres; masked on water, ice and built-up land."""
    blank = no_canopy(ground)
    metres = np.floor(ground.canopy_m + np.float32(0.5)).astype(np.uint8)
    return Layer(np.where(blank, np.uint8(NO_CANOPY), metres))


def canopy_spread(ground: Ground) -> Layer:
    """Uncertainty of the height in whole metres: larger for tall and broken canopies."""
    blank = no_canopy(ground)
    spread = np.float32(1.2) + np.float32(0.2) * ground.canopy_m + np.float32(0.8) * np.abs(ground.woods[2])
    spread += np.float32(1.5) * (np.abs(ground.growth) < 0.15)
    return Layer(np.where(blank, np.uint8(NO_CANOPY), np.floor(spread + np.float32(0.5)).astype(np.uint8)))


def no_canopy(ground: Ground) -> Bool:
    """Whether the canopy map is masked."""
    table = covers()
    blank = np.array([name in {"sea", "water", "built", "ice"} for name in table.names])
    return ground.per_cover(blank)


@dataclass(frozen=True)
class LandCover:
    """Class codes of a static land-cover map."""

    codes: NDArray[np.uint8]
    name: str
    """Name of the map, which has errors of its own."""
    errors: float
    """Share of locations that have the most similar class instead."""

    def __call__(self, ground: Ground) -> Layer:
        """Codes at pixels."""
        broad, small = ground.octaves(f"doubt/{self.name}", DOUBT_M)
        wrong = broad + np.float32(0.6) * small > np.float32(np.hypot(1, 0.6) * _normal_quantile(1 - self.errors))
        cover = np.where(wrong, ground.confused_with, ground.cover)
        return Layer(self.codes.take(cover))


def _normal_quantile(p: float) -> float:
    """Quantile of the normal distribution, to 2 % (logistic approximation)."""
    return float(np.log(p / (1 - p)) / 1.702)


@dataclass(frozen=True)
class DynamicWorld:
    """A map of labels for each Sentinel-2 scene with few clouds."""

    asset: str
    band: str
    labels: NDArray[np.uint8]
    snow: int
    views: Views

    def images(self, box: Box, start_ms: int, end_ms: int) -> list[Image]:
        """Images that touch a box."""
        limit = LAND_COVER_CLOUDS
        scenes = optical_scenes(self.views.world, box, start_ms, end_ms, cloud_limit=limit, whole=False, mapped=True)
        return [
            Image(self.asset, scene.index, scene.time_ms, scene.time_ms + 1, (self.band,), scene) for scene in scenes
        ]

    def grid(self, image: Image, band: str) -> Grid:
        """10 m grid of the scene's zone."""
        return _scene_grid(image, 1)

    def read(self, image: Image, band: str, window: Window) -> Layer:
        """Labels of the day, masked under clouds."""
        scene = image.scene
        assert isinstance(scene, OpticalScene)
        ground = self.views.ground(utm_grid(scene.epsg), window)
        part = ground.window.slices_of(window)
        flips = self._flips(window, scene)
        labels = self.labels.take(np.where(flips, ground.confused_with[part], ground.cover[part]))
        snow = self.views.season(ground, scene.time_ms).covered_by_snow()
        if snow is not None:
            labels[snow[part]] = self.snow
        valid = _seen(scene, ground, self.grid(image, band), window)
        opaque = opaque_clouds(self.views.world.seed, ground.patch, scene.light)
        if opaque is not None:
            clear = opaque[part] < np.float32(0.4)
            valid = clear if valid is None else valid & clear
        return Layer(labels, valid)

    def _flips(self, w: Window, scene: OpticalScene) -> Bool:
        """Blocks of pixels that are misclassified on this day."""
        row = np.arange(w.row, w.row + w.height) // LABEL_BLOCK_PX
        column = np.arange(w.column, w.column + w.width) // LABEL_BLOCK_PX
        rows, columns = (np.arange(axis[0], axis[-1] + 1, dtype=np.int32) for axis in (row, column))
        bits = hash_cells(columns[None, :], rows[:, None], salt_of(self.views.world.seed, "flip", scene.light.key))
        flips = unit_float(bits) < np.float32(LABEL_FLIPS)
        found: Bool = flips[(row - row[0])[:, None], (column - column[0])[None, :]]
        return found


@dataclass(frozen=True)
class Era5:
    """Monthly weather."""

    asset: str
    views: Views
    first: int = (1950 - 1970) * 12

    def images(self, box: Box, start_ms: int, end_ms: int) -> list[Image]:
        """Images of the months that start within [start, end)."""
        first = max(self.first, month_index(start_ms))
        months = range(first, month_index(max(end_ms - 1, start_ms)) + 1)
        return [image for image in map(self.image, months) if start_ms <= image.start_ms < end_ms]

    def image(self, month: int) -> Image:
        """Image of a month (months since January 1970)."""
        start, end = (int(np.datetime64(m, "M").astype("datetime64[ms]").astype(np.int64)) for m in (month, month + 1))
        return Image(self.asset, str(np.datetime64(month, "M")).replace("-", ""), start, end, era5.BANDS)

    def grid(self, image: Image, band: str) -> Grid:
        """0.1-degree grid."""
        return ERA5_GRID

    def read(self, image: Image, band: str, window: Window) -> Layer:
        """Pixels of a band; masked over sea."""
        values = self.cube([month_index(image.start_ms)], window)[era5.BANDS.index(band), 0]
        return Layer(values, ~np.isnan(values))

    def cube(self, months: Sequence[int], window: Window) -> Float32:
        """(band, month, row, column) of several months; NaN where masked."""
        return era5.monthly_weather(self.views.world, ERA5_GRID, window, months)


def year_start_ms(year: int) -> int:
    """1 January of a year, UTC milliseconds since 1970."""
    return int(np.datetime64(f"{year:04d}-01-01", "ms").astype(np.int64))
