"""The synthetic source: tiles of the planet's collections, chosen by the same rules as for Earth Engine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from mmearth_data.catalog.tile import LEVEL_L1C, LEVEL_L2A
from mmearth_data.errors import TileUnavailable
from mmearth_data.geography.equal_area import metres_per_degree
from mmearth_data.planet.climate import month_index
from mmearth_data.planet.grids import Window
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.orbits import DAY_MS, SENTINEL1
from mmearth_data.planet.planet import L1C, L2A, Planet
from mmearth_data.planet.products import Era5, Image, Layer, Sentinel1, Sentinel2, year_start_ms
from mmearth_data.planet.resample import Sampled, TilePixels
from mmearth_data.planet.scenes import Box, OpticalScene, RadarScene, closest_radar_scene
from mmearth_data.planet.world import PLANET_VERSION
from mmearth_data.recipes import PLACING, SCENES
from mmearth_data.sources.base import FIELDS_OF_ALL, OfCatalog, Rejection, Survey, refuse_gaps, to_stored
from mmearth_data.sources.dated import date_of, days_from
from mmearth_data.sources.draws import draw, year_window_ms
from mmearth_data.sources.rasters.terrain import slope_degrees

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import geopandas as gpd
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import Place, TileGrid
    from mmearth_data.geography.zones import ZonePart
    from mmearth_data.planet.grids import Grid
    from mmearth_data.planet.products import Product
    from mmearth_data.planet.resample import Reader
    from mmearth_data.sources.dated import NearDates
    from mmearth_data.sources.period import Period

CLEARANCE_M = 200.0
"""Margin in metres around a tile that a footprint must also contain."""
LEVEL_CODES = {"L1C": LEVEL_L1C, "L2A": LEVEL_L2A}
ASSETS = {"L1C": L1C, "L2A": L2A}


class Request(NamedTuple):
    """What the survey found for a tile."""

    scene: OpticalScene
    level: str
    radar: dict[str, RadarScene | None]


class SyntheticSource(OfCatalog):
    """Tiles of a synthetic Earth, marked as synthetic.

    ``seed`` determines the planet and every random choice; ``years`` and ``levels`` are those of the Sentinel-2 scenes,
    which have a lower percentage of cloudy pixels than ``cloud_percent``. With a ``period``, for covers, a tile has the
    least cloudy scene of the period instead of a random one, at the first of the levels. With ``near``, a tile has the
    scene nearest to the date of its location (`mmearth_data.sources.dated`).

    Examples
    --------
    >>> source = SyntheticSource(seed=1, levels=("L1C",))
    >>> source.identity()["levels"]
    ['L1C']
    """

    name = "synthetic"
    synthetic = True
    recipe_fields: ClassVar[frozenset[str]] = FIELDS_OF_ALL | PLACING | SCENES | {"era5_window"}

    def __init__(
        self,
        seed: int = 0,
        *,
        years: Sequence[int] = (2017, 2018, 2019, 2020),
        levels: Sequence[str] = ("L2A", "L1C"),
        cloud_percent: float = 10.0,
        period: Period | None = None,
        near: NearDates | None = None,
    ) -> None:
        self.seed = seed
        self.years = tuple(years)
        self.levels = tuple(levels)
        self.cloud_percent = float(cloud_percent)
        self.period = period
        self.near = near
        self.planet = Planet(seed)

    def identity(self) -> dict[str, Any]:
        """Everything that determines the pixels."""
        return {
            "name": self.name,
            "planet": PLANET_VERSION,
            "seed": self.seed,
            **self._choice,
            "levels": list(self.levels),
            "cloud_percent": self.cloud_percent,
        }

    @property
    def _choice(self) -> dict[str, Any]:
        """Choice of scenes: random ones of some years, the least cloudy ones of a period, or those nearest to dates."""
        if self.near is not None:
            return {"days": self.near.days}
        return {"years": list(self.years)} if self.period is None else {"date_range": self.period.identity()}

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        """Return those of the requested modalities whose assets the planet has."""
        assets = set(self.planet.products)
        known = [m for m in wanted if m.stored and (m.recipe.get("name") in RECIPES or m.kind.is_categorical)]
        return tuple(m for m in known if not m.kind.is_raster or set(m.asset.values()) <= assets)

    def places(self, size_px: int) -> list[Place]:
        """Return no locations: they are sampled."""
        return []

    def area(self) -> tuple[ZonePart, ...]:
        """Return no area: the recipe gives the region."""
        return ()

    def ecoregions(self) -> gpd.GeoDataFrame:
        """Ecoregion polygons of the planet (see `Source`)."""
        return self.planet.ecoregions()

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        """One result per location, in order."""
        return self._surveys(places) if self.near is None else self.near.survey(places, self._surveys)

    def _surveys(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        return [self._survey(place) for place in places]

    def _survey(self, place: Place) -> Survey | Rejection:
        try:
            level, scene = self._chosen(place)
        except TileUnavailable as refusal:
            return Rejection(place=place, reason=refusal.reason, detail=refusal.detail)
        grid = place.grid_in(scene.epsg)
        radar = self._radar(grid, scene.time_ms, self._years_ms(place))
        return Survey(
            place=place,
            grid=grid,
            time_ms=scene.time_ms,
            s2_level=LEVEL_CODES[level],
            s1_asc_days=_days(radar["ASCENDING"], scene),
            s1_desc_days=_days(radar["DESCENDING"], scene),
            facts=_facts(scene, level, radar),
            request=Request(scene, level, radar),
        )

    def _chosen(self, place: Place) -> tuple[str, OpticalScene]:
        """Level and scene of a tile; TileUnavailable if there is none."""
        if self.near is not None:
            return self._nearest(place, self.near)
        return self._drawn(place) if self.period is None else self._least_cloudy(place, self.period)

    def _nearest(self, place: Place, near: NearDates) -> tuple[str, OpticalScene]:
        """Level and scene nearest to the date of a location, by the rule in `mmearth_data.sources.dated`."""
        near.require_archive(place, self.levels)
        box = _box(place.own_grid, CLEARANCE_M)
        found = [
            (abs(days_from(scene.time_ms, date_of(place))), position, scene)
            for position, level in enumerate(self.levels)
            for scene in self._scenes_of(level, box, near.window_ms(place))
        ]
        if not found:
            raise near.no_scene(place, self.levels, self.cloud_percent)
        _, position, scene = min(found, key=lambda f: (*f[:2], f[2].cloud_percent, f[2].time_ms, f[2].index))
        return self.levels[position], scene

    def _scenes_of(self, level: str, box: Box, window_ms: tuple[int, int]) -> list[OpticalScene]:
        """Scenes of a level below the cloud limit whose footprint contains a box."""
        product = self.planet.products[ASSETS[level]]
        assert isinstance(product, Sentinel2)
        return product.scenes(box, *window_ms, cloud_limit=self.cloud_percent, whole=True)

    def _drawn(self, place: Place) -> tuple[str, OpticalScene]:
        """Level and scene of a tile, at random; TileUnavailable if there is none."""
        box = _box(place.own_grid, CLEARANCE_M)
        year = self.years[draw(self.seed, place.tile_id, "year", len(self.years))]
        level, scenes = self._scenes(box, year, self.levels[draw(self.seed, place.tile_id, "level", len(self.levels))])
        if not scenes:
            raise _without_scene(level, f"of {year}", self.cloud_percent)
        return level, scenes[draw(self.seed, place.tile_id, "scene", len(scenes))]

    def _least_cloudy(self, place: Place, period: Period) -> tuple[str, OpticalScene]:
        """Level and least cloudy scene of a tile, among equals the nearest to the middle of the period; TileUnavailable if none."""
        level = self.levels[0]
        scenes = self._scenes_of(level, _box(place.own_grid, CLEARANCE_M), period.window_ms)
        if not scenes:
            raise _without_scene(level, period.words(), self.cloud_percent)
        return level, min(scenes, key=lambda s: (s.cloud_percent, abs(s.time_ms - period.middle_ms), s.index))

    def _scenes(self, box: Box, year: int, level: str) -> tuple[str, list[OpticalScene]]:
        """Scenes of the chosen level; of Level 1C if there are none of Level 2A."""
        scenes: list[OpticalScene] = []
        for name in dict.fromkeys((level, "L1C")):
            level = name
            scenes = self._scenes_of(level, box, year_window_ms(year))
            if scenes:
                break
        return level, scenes

    def _years_ms(self, place: Place) -> tuple[int, int]:
        """[start, end) of the radar scenes of a location."""
        if self.near is not None:
            return self.near.years_ms(place)
        if self.period is not None:
            return self.period.years_ms
        return year_window_ms(min(self.years))[0], year_window_ms(max(self.years))[1]

    def _radar(self, grid: TileGrid, time_ms: int, years_ms: tuple[int, int]) -> dict[str, RadarScene | None]:
        box, world = _box(grid, CLEARANCE_M), self.planet.views.world
        return {way: closest_radar_scene(world, way, box, time_ms, *years_ms) for way in SENTINEL1}

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, NDArray[Any]]:
        """Arrays of one tile, as stored; TileUnavailable if too many of its 10 m pixels are masked (`refuse_gaps`)."""
        tile = _Tile(self.planet, survey)
        return {m.name: RECIPES[m.recipe["name"]](tile, m) for m in modalities}


class _Tile:
    """Reader of one tile, with one method per recipe."""

    def __init__(self, planet: Planet, survey: Survey) -> None:
        assert isinstance(survey.request, Request)
        self.products = planet.products
        self.request = survey.request
        self.place, self.grid = survey.place, survey.grid
        self.time_ms = survey.time_ms
        self.pixels = TilePixels(survey.grid)

    @lazy
    def box(self) -> Box:
        """Square of the tile."""
        return _box(self.grid, 0.0)

    def sample(self, read: Reader, grid: Grid, m: Modality) -> Sampled:
        """Resample pixels of a native grid to the tile's grid."""
        return self.pixels.sampler(grid, m.resampling)(read)

    def sample_band(self, product: Product, image: Image, band: str, m: Modality) -> Sampled:
        """Resample a band of an image to the tile's grid."""
        return self.sample(partial(product.read, image, band), product.grid(image, band), m)

    def stored(self, m: Modality, bands: dict[str, Sampled | None]) -> NDArray[Any]:
        """Convert bands to stored form; missing ones become no-data."""
        shape = m.array_shape(self.grid.size_px)
        values, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for k, band in enumerate(m.bands):
            sampled = bands.get(band)
            if sampled is not None:
                values[k] = sampled.values
                valid[k] = True if sampled.valid is None else sampled.valid
        return to_stored(values, valid, m)

    def base_scene(self, m: Modality) -> NDArray[Any]:
        """Bands of the tile's own Sentinel-2 scene."""
        level = self.request.level
        product = self.products.get(m.asset.get(level, ""))
        if product is None:
            return m.empty(m.array_shape(self.grid.size_px))
        assert isinstance(product, Sentinel2)
        image = product.image(self.request.scene)
        names = {band: m.asset_bands.get(band, band) for band in m.bands_by_level.get(level, m.bands)}
        finest_first = sorted(names, key=lambda band: product.grid(image, names[band]).step)
        bands = {b: self.sample_band(product, image, names[b], m) for b in finest_first if names[b] in image.bands}
        for band in (m.recipe.get("parameters") or {}).get("native", ()):
            valid = bands[band].valid
            refuse_gaps(0.0 if valid is None else 1 - float(valid.mean()), self.place)
        return self.stored(m, dict(bands))

    def nearest_in_time(self, m: Modality) -> NDArray[Any]:
        """Bands of the Sentinel-1 scenes that the survey found."""
        product = self.products[m.asset["collection"]]
        assert isinstance(product, Sentinel1)
        bands: dict[str, Sampled | None] = {}
        for way, names in m.recipe["parameters"]["passes"].items():
            scene = self.request.radar[way]
            if scene is not None:
                image = product.image(scene)
                own = {band: m.asset_bands.get(band, band) for band in names}
                bands |= {
                    b: self.sample_band(product, image, name, m) for b, name in own.items() if name in image.bands
                }
        return self.stored(m, bands)

    def static_image(self, m: Modality) -> NDArray[Any]:
        """Bands of static assets, one asset per band or one for all; slopes are computed from elevation."""
        parameters = m.recipe.get("parameters") or {}
        slope = parameters.get("slope")
        bands: dict[str, Sampled | None] = {}
        for band in sorted(m.bands, key=lambda band: band != slope):  # slopes need a margin: the larger window first
            of = parameters["elevation"] if band == slope else band
            product = self.products[m.asset.get(of) or next(iter(m.asset.values()))]
            image = product.images(self.box, 0, year_start_ms(2100))[0]
            name = m.asset_bands.get(of, of)
            read = partial(_read_masked, product, image, name, parameters)
            if band == slope:
                read = partial(_slopes, read, product.grid(image, name))
            bands[band] = self.sample(read, product.grid(image, name), m)
        return self.stored(m, bands)

    def mode_of_year(self, m: Modality) -> NDArray[Any]:
        """Most frequent label of the scene's UTC year; the lowest one of a tie."""
        product = self.products[m.asset["collection"]]
        year = int(np.datetime64(self.time_ms, "ms").astype("datetime64[Y]").astype(np.int64)) + 1970
        images = product.images(self.box, year_start_ms(year), year_start_ms(year + 1))
        parameters = m.recipe["parameters"]
        lookup = np.zeros(256, np.uint8)
        lookup[parameters["remap_from"]] = parameters["remap_to"]
        (band,) = m.bands
        stack = [self.sample_band(product, image, m.asset_bands.get(band, band), m) for image in images]
        return self.stored(m, {band: _mode(stack, lookup) if stack else None})

    def monthly_statistics(self, m: Modality) -> NDArray[Any]:
        """Reduce the months before the scene, and average over the tile's unmasked pixels."""
        product = self.products[m.asset["collection"]]
        assert isinstance(product, Era5)
        parameters = m.recipe["parameters"]
        windows, reducers = parameters["windows"], parameters["reducers"]
        first, last = (extreme(w[k] for w in windows.values()) for k, extreme in ((0, min), (1, max)))
        month = month_index(self.time_ms)
        grid = product.grid(product.image(month), "")
        months = range(month + first, month + last + 1)
        cube, weights = _over_tile(product, months, self.pixels.positions(grid))
        names = product.image(month).bands
        out = np.full(len(m.bands), np.nan, np.float64)
        for k, band in enumerate(m.bands):
            window = next(name for name in windows if band.startswith(f"{name}_"))
            variable = band.removeprefix(f"{window}_")
            low, high = (edge - first for edge in windows[window])
            values = cube[names.index(m.asset_bands[band]), low : high + 1].astype(np.float64)
            cells = REDUCERS[reducers[variable]](values, axis=0)
            if weights.any():
                out[k] = float((cells[weights > 0] * weights[weights > 0]).sum() / weights.sum())
        return to_stored(out, np.isfinite(out), m)


RECIPES: dict[str, Callable[[_Tile, Modality], NDArray[Any]]] = {
    "base-scene": _Tile.base_scene,
    "nearest-in-time": _Tile.nearest_in_time,
    "static-image": _Tile.static_image,
    "mosaic": _Tile.static_image,
    "mode-of-year": _Tile.mode_of_year,
    "monthly-statistics": _Tile.monthly_statistics,
}
REDUCERS: dict[str, Callable[..., NDArray[np.float64]]] = {"mean": np.mean, "min": np.min, "max": np.max, "sum": np.sum}


def _box(grid: TileGrid, clearance_m: float) -> Box:
    west, south, east, north = grid.bounds
    return Box(grid.epsg, west - clearance_m, south - clearance_m, east + clearance_m, north + clearance_m)


def _without_scene(level: str, when: str, cloud_percent: float) -> TileUnavailable:
    return TileUnavailable("sentinel2_missing", f"no {level} scene {when} with less than {cloud_percent:g} % clouds")


def _days(radar: RadarScene | None, scene: OpticalScene) -> float:
    return float("nan") if radar is None else (radar.time_ms - scene.time_ms) / DAY_MS


def _facts(scene: OpticalScene, level: str, radar: dict[str, RadarScene | None]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sentinel2": f"{ASSETS[level]}/{scene.index}",
        "cloud_percent": scene.cloud_percent,
        "sun_zenith_deg": round(scene.sun[0], 3),
        "sun_azimuth_deg": round(scene.sun[1], 3),
    }
    found = {way.lower(): s.index for way, s in radar.items() if s is not None}
    return facts | {f"sentinel1_{way}": index for way, index in found.items()}


def _read_masked(product: Product, image: Image, band: str, parameters: Mapping[str, Any], window: Window) -> Layer:
    """Pixels of a band; those equal to the asset's no-data value are masked."""
    values, valid = product.read(image, band, window)
    seen = np.ones(values.shape, bool) if valid is None else valid
    if "mask_equal" in parameters:
        seen = seen & (values != parameters["mask_equal"])
    if "mask_at_or_below" in parameters:
        seen = seen & (values > parameters["mask_at_or_below"])
    return Layer(values, None if seen.all() else seen)


def _slopes(read: Reader, grid: Grid, window: Window) -> Layer:
    """Slope of an elevation on its native grid; masked where a neighbour is."""
    values, valid = read(window.padded(1))
    lat = grid.y(window.row + np.arange(-1, window.height + 1) + 0.5)
    step = grid.step[0] / grid.step[1]
    east_m, north_m = (metres * step for metres in metres_per_degree(lat))
    heights = values.astype(np.float64)
    if valid is not None:
        heights[~valid] = np.nan
    slope = slope_degrees(heights, east_m[:, None], north_m[:, None])[1:-1, 1:-1]
    return Layer(slope, None if valid is None else np.isfinite(slope))


def _mode(stack: Sequence[Sampled], lookup: NDArray[np.uint8]) -> Sampled:
    """Most frequent label of each pixel, renumbered."""
    labels = np.stack([sampled.values.astype(np.uint8) for sampled in stack])
    seen = np.stack([np.ones(s.values.shape, bool) if s.valid is None else s.valid for s in stack])
    labels[~seen] = 255
    best = np.zeros(labels.shape[1:], np.uint8)
    count = np.zeros(labels.shape[1:], np.uint16)
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:255]).tolist():
        votes = (labels == label).sum(axis=0, dtype=np.uint16)
        more = votes > count
        best[more], count[more] = label, votes[more]
    return Sampled(lookup[best].astype(np.float32), count > 0)


def _over_tile(
    product: Era5, months: Sequence[int], positions: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(band, month, row, column) of the cells that the tile touches, and the number of its pixels in each."""
    column, row = (np.floor(axis).astype(np.int64) for axis in positions)
    window = Window(int(column.min()), int(row.min()), int(np.ptp(column)) + 1, int(np.ptp(row)) + 1)
    cells = (row - window.row) * window.width + (column - window.column)
    weights = np.bincount(cells.ravel(), minlength=window.width * window.height).reshape(window.shape).astype(float)
    cube = product.cube(list(months), window)
    weights[np.isnan(cube[0, 0])] = 0
    return cube, weights


if TYPE_CHECKING:
    from mmearth_data.sources.base import Source

    _: type[Source] = SyntheticSource
