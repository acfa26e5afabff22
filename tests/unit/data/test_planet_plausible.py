"""The planet looks like the Earth in numbers, and teaches: neither trivial nor noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planet_world import CATALOG, Tile, modality, sample, source, surveyed

from mmearth_data.catalog.entries import biomes
from mmearth_data.catalog.tile import transformer, utm_epsg
from mmearth_data.planet.climate import climate_at
from mmearth_data.planet.grids import Window
from mmearth_data.planet.ground import Ground
from mmearth_data.planet.planet import DEM, ERA5
from mmearth_data.planet.products import year_start_ms
from mmearth_data.planet.scenes import Box
from mmearth_data.planet.season import Season
from mmearth_data.planet.tables import covers
from mmearth_data.planet.views import utm_grid
from mmearth_data.sources.base import Survey

BIOME = {label.name: label.code for label in biomes()}
DW = {label.name: label.code for label in CATALOG.modalities["dynamic_world"].classes}
WC = {label.name: label.code for label in CATALOG.modalities["esa_worldcover"].classes}


def tiles_of(biome: str, *, warm: bool | None = None) -> list[Tile]:
    return [t for t in sample() if t.biome == BIOME[biome] and (warm is None or t.warm_season == warm)]


def greenness(tiles: list[Tile]) -> float:
    """Median NDVI over the clear pixels of tiles."""
    return float(np.median(np.concatenate([t.ndvi[t.clear] for t in tiles])))


def pixels(name: str, mask: dict[str, set[str]] | None = None) -> np.ndarray[Any, Any]:
    """Clear pixels of a Sentinel-2 band where the land cover is one of some classes, all tiles together."""
    chosen = {"dynamic_world": DW, "esa_worldcover": WC}
    found = []
    for t in sample():
        where = t.clear
        for key, classes in (mask or {}).items():
            where = where & np.isin(t.arrays[key][0], [chosen[key][c] for c in classes])
        found.append(t.band(name)[where])
    return np.concatenate(found)


def test_greenness_by_biome_and_season() -> None:
    forest, desert = "Tropical & Subtropical Moist Broadleaf Forests", "Deserts & Xeric Shrublands"
    assert greenness(tiles_of(forest)) > 0.55
    assert greenness(tiles_of(desert)) < 0.25
    for biome in (
        "Temperate Broadleaf & Mixed Forests",
        "Boreal Forests/Taiga",
        "Temperate Grasslands, Savannas & Shrublands",
    ):
        assert greenness(tiles_of(biome, warm=True)) > greenness(tiles_of(biome, warm=False)) + 0.1, biome
    assert greenness(tiles_of("Tundra", warm=True)) < greenness(tiles_of("Boreal Forests/Taiga", warm=True))


def test_fields_are_green_at_their_own_times() -> None:
    """In temperate Europe winter crops peak in May and are harvested by August, when summer crops are tall."""
    green: dict[str, dict[str, list[float]]] = {"winter_crop": {}, "summer_crop": {}}
    for lon, lat in ((2.04, 47.28), (24.0, 50.0), (21.0, 47.0)):
        epsg = utm_epsg(lon, lat)
        x, y = transformer(4326, epsg).transform(lon, lat)
        ground = Ground(source().planet.views.world, utm_grid(epsg), Window(int(x) // 10, -int(y) // 10, 200, 200))
        for day in ("2019-01-15", "2019-05-20", "2019-06-15", "2019-08-15"):
            season = Season(ground, int(np.datetime64(day, "ms").astype(np.int64)))
            for crop, days in green.items():
                days.setdefault(day[5:7], []).extend(season.green[ground.cover == covers().code(crop)].tolist())
    mean = {crop: {month: float(np.mean(values)) for month, values in days.items()} for crop, days in green.items()}
    assert mean["winter_crop"]["05"] > mean["winter_crop"]["08"] + 0.25
    assert mean["summer_crop"]["08"] > mean["summer_crop"]["05"] + 0.25
    assert max(mean[crop]["01"] for crop in mean) < 0.3
    assert np.std(green["summer_crop"]["06"]) > 0.1  # sown early and late


def test_water_is_dark_in_the_infrared() -> None:
    for band, limit in (("B8", 1000), ("B11", 500), ("B12", 400)):
        water = pixels(band, {"dynamic_world": {"Water"}, "esa_worldcover": {"Permanent water bodies"}})
        assert water.size > 500
        assert np.median(water) < limit, band
        assert np.median(water) < 0.3 * np.median(pixels(band))


def test_cross_polarised_backscatter_lies_below() -> None:
    m = modality("sentinel1")
    co, cross = [], []
    for t in sample():
        for way in ("asc", "desc"):
            for a, b in (("VV", "VH"), ("HH", "HV")):
                both = [t.arrays["sentinel1"][m.bands.index(f"{way}_{p}")] for p in (a, b)]
                if not np.isnan(both).any():
                    co.append(float(np.mean(both[0])))
                    cross.append(float(np.mean(both[1])))
    difference = np.array(co) - np.array(cross)
    assert len(difference) > 200
    assert difference.min() > 2
    assert 5 < difference.mean() < 10


def test_speckle_has_the_statistics_of_four_looks() -> None:
    """Power over a calm lake is gamma distributed: the variance of its mean-normalised values is 1 / looks."""
    lakes = [t for t in sample() if (t.arrays["esa_worldcover"][0] == WC["Permanent water bodies"]).mean() > 0.9]
    assert lakes
    ratios = []
    for t in lakes:
        for band in t.arrays["sentinel1"][[0, 4]]:
            power = 10 ** (band[16:48, 16:48] / 10)
            if not np.isnan(power).any():
                ratios.append(power.var() / power.mean() ** 2)
    assert 0.12 < np.median(ratios) < 0.35


def test_snow_by_latitude_and_month() -> None:
    """Bright in the visible and dark at 1.6 um: more of it poleward and in winter, none in the lowland tropics."""

    def snowy(tiles: list[Tile]) -> float:
        index = [(t.band("B3") - t.band("B11")) / (t.band("B3") + t.band("B11")) for t in tiles]
        return float(
            np.mean([np.mean((i > 0.4) & (t.band("B3") > 2500) & t.clear) for i, t in zip(index, tiles, strict=True)])
        )

    def belt(south: float, north: float, *, warm: bool) -> list[Tile]:
        tiles = [t for t in sample() if south <= abs(t.survey.place.lat) < north and t.warm_season == warm]
        return [t for t in tiles if t.arrays["aster"][0].max() < 2500]

    assert snowy(belt(50, 84, warm=False)) > 0.2
    assert snowy(belt(50, 84, warm=True)) < 0.5 * snowy(belt(50, 84, warm=False))
    assert snowy(belt(0, 25, warm=True)) + snowy(belt(0, 25, warm=False)) < 0.01
    assert snowy(belt(30, 50, warm=False)) < snowy(belt(50, 84, warm=False))


def monthly_means(lon: float, lat: float) -> np.ndarray[Any, Any]:
    """Mean temperature of the months of 2019, degree Celsius."""
    product = source().planet.products[ERA5]
    images = product.images(Box(4326, lon, lat, lon, lat), year_start_ms(2019), year_start_ms(2020))
    grid = product.grid(images[0], "")
    window = Window(int(grid.column(np.array(lon))), int(grid.row(np.array(lat))), 1, 1)
    return np.array([product.read(image, "temperature_2m", window).values[0, 0] for image in images]) - 273.15


def test_seasons_are_opposite_in_the_two_hemispheres() -> None:
    for lon, lat in ((20.0, 50.0), (-100.0, 45.0), (100.0, 55.0)):
        assert int(np.argmax(monthly_means(lon, lat))) in {5, 6, 7}
    for lon, lat in ((-70.0, -42.0), (145.0, -35.0), (23.0, -30.0)):
        assert int(np.argmax(monthly_means(lon, lat))) in {11, 0, 1}
    north, south = monthly_means(20.0, 50.0), monthly_means(145.0, -35.0)
    assert np.corrcoef(north, south)[0, 1] < -0.8


def test_temperature_falls_with_latitude_and_height() -> None:
    lats = np.arange(0, 80, 10.0)
    zero = np.zeros(len(lats), np.float32)
    climate = climate_at(lats, zero, zero, zero, zero)
    assert np.all(np.diff(climate.mean_c[1:]) < 0)
    assert np.all(np.diff(climate.swing_k) >= 0)
    product = source().planet.products
    values = [
        (
            t.arrays["era5"][modality("era5").bands.index("year_avg_temp")],
            abs(t.survey.place.lat),
            t.arrays["aster"][0].mean(),
        )
        for t in sample()
    ]
    temperature, lat, height = np.array([v for v in values if np.isfinite(v[0])]).T
    design = np.stack([np.ones_like(lat), lat, lat**2, height / 1000], axis=1)
    effect = np.linalg.lstsq(design, temperature, rcond=None)[0]
    assert -8 < effect[3] < -3.5  # kelvin per kilometre
    assert product[DEM].asset == DEM


def test_deserts_are_dry() -> None:
    rain = modality("era5").bands.index("year_total_precip")
    metres = {
        name: float(np.nanmedian([t.arrays["era5"][rain] for t in tiles_of(name)]))
        for name in ("Deserts & Xeric Shrublands", "Tropical & Subtropical Moist Broadleaf Forests")
    }
    assert metres["Deserts & Xeric Shrublands"] < 0.35
    assert metres["Tropical & Subtropical Moist Broadleaf Forests"] > 1.2


def test_a_canopy_stands_only_where_there_are_trees() -> None:
    """Trees of either map within the reach of one interpolated pixel; orchards count as crops."""
    trees = np.array([WC["Tree cover"], WC["Mangroves"], WC["Cropland"]])
    wrong = tall = 0
    for t in sample():
        height = t.arrays["canopy_height_eth"][0]
        near = np.isin(t.arrays["esa_worldcover"][0], trees)
        near |= np.isin(t.arrays["dynamic_world"][0], [DW["Trees"], DW["Crops"]])
        grown = near.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                grown |= np.roll(near, step, axis)
        high = (height >= 3) & (height != 255)
        tall += int(high.sum())
        wrong += int((high & ~grown)[1:-1, 1:-1].sum())
    assert tall > 30_000
    assert wrong < 0.01 * tall


def test_forests_are_as_tall_as_forests() -> None:
    def height(biome: str) -> float:
        all_of = np.concatenate([t.arrays["canopy_height_eth"][0].ravel() for t in tiles_of(biome)])
        return float(np.percentile(all_of[(all_of >= 3) & (all_of != 255)], 90))

    assert 25 < height("Tropical & Subtropical Moist Broadleaf Forests") < 55
    assert 10 < height("Boreal Forests/Taiga") < 24
    assert height("Tropical & Subtropical Grasslands, Savannas & Shrublands") < 20


def test_masks_agree_with_the_clouds_that_are_seen() -> None:
    under, clear = [], []
    for t in sample():
        opaque = t.arrays["sentinel2_cloudmask"][0] == 1024
        under.append(t.band("B2")[opaque])
        clear.append(t.band("B2")[~opaque])
    assert np.median(np.concatenate(under)) > 3000
    assert np.median(np.concatenate(clear)) < 1500
    cloudy = [t for t in sample() if (t.arrays["sentinel2_cloudmask"][0] > 0).mean() > 0.05]
    assert 0 < len(cloudy) < 0.12 * len(sample())
    for t in sample():
        classes, percent = t.arrays["sentinel2_scl"][0], t.arrays["sentinel2_cloudprod"][0]
        if t.survey.s2_level == 1 and (percent != 65535).all():
            assert (percent[np.isin(classes, (8, 9))] > 30).all()
            assert (percent[np.isin(classes, (4, 5, 6))] < 40).all()


def test_things_are_missing_here_and_there() -> None:
    empty = {
        name: float(np.mean([not modality(name).observed(t.arrays[name]).any() for t in sample()]))
        for name in ("dynamic_world", "sentinel1", "era5", "esa_worldcover", "aster")
    }
    assert 0.005 < empty["dynamic_world"] < 0.15
    assert empty["sentinel1"] < 0.1
    assert empty["era5"] < 0.05
    assert empty["esa_worldcover"] == empty["aster"] == 0
    one_pass = [np.isnan(t.arrays["sentinel1"][0:4]).all() for t in sample()]
    assert 0.03 < np.mean(one_pass) < 0.4


def test_the_two_land_cover_maps_mostly_agree() -> None:
    same = {"Water": "Permanent water bodies", "Trees": "Tree cover", "Crops": "Cropland", "Built": "Built-up"}
    for ours, theirs in same.items():
        agree = [
            t.arrays["esa_worldcover"][0][t.arrays["dynamic_world"][0] == DW[ours]] == WC[theirs] for t in sample()
        ]
        share = float(np.concatenate(agree).mean())
        assert 0.8 < share < 0.995, ours


def test_coasts_are_those_of_the_real_earth() -> None:
    """In the Bay of Biscay there is water, in the Massif Central there is none to speak of; land rises from the sea."""
    sea = surveyed(-4.5, 45.5)
    land = surveyed(3.0, 45.5, 128)
    assert isinstance(sea, Survey)
    maps = [modality("esa_worldcover"), modality("aster"), modality("era5")]
    at_sea, on_land = (source().read(s, maps) for s in (sea, land))
    assert (at_sea["esa_worldcover"] == WC["Permanent water bodies"]).all()
    assert (at_sea["aster"] == 0).all()
    assert np.isnan(at_sea["era5"]).all()
    assert (on_land["esa_worldcover"] == WC["Permanent water bodies"]).mean() < 0.5
    assert (on_land["aster"][0] >= 1).all()


class TestLearnable:
    """A per-pixel random forest on Sentinel-2, tiles held out."""

    @staticmethod
    def split() -> tuple[list[Tile], list[Tile]]:
        """Three quarters of the tiles to learn from, one to be tested with."""
        order = np.random.default_rng(0).permutation(len(sample()))
        tiles = [sample()[k] for k in order]
        return tiles[: int(0.75 * len(tiles))], tiles[int(0.75 * len(tiles)) :]

    @staticmethod
    def draw(tiles: list[Tile], key: str, per_tile: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Clear pixels: reflectance and, as the thirteenth feature, the level."""
        rng, m = np.random.default_rng(1), modality(key)
        features, labels = [], []
        for t in tiles:
            known = np.flatnonzero((m.observed(t.arrays[key][0]) & t.clear).ravel())
            if known.size:
                at = rng.choice(known, min(per_tile, known.size), replace=False)
                bands = t.arrays["sentinel2"].reshape(13, -1)[:, at].astype(np.float32).T
                bands[:, 10] = t.survey.s2_level
                features.append(bands)
                labels.append(t.arrays[key][0].ravel()[at])
        return np.concatenate(features), np.concatenate(labels)

    @pytest.mark.parametrize("key", ["esa_worldcover", "dynamic_world"])
    def test_land_cover_is_mostly_seen_in_a_pixel(self, key: str) -> None:
        forest = pytest.importorskip("sklearn.ensemble").RandomForestClassifier(
            30, min_samples_leaf=2, max_samples=0.7, random_state=0, n_jobs=1
        )
        train, test = (self.draw(tiles, key, 60) for tiles in self.split())
        forest.fit(*train)
        assert 0.80 <= forest.score(*test) <= 0.98

    @pytest.mark.parametrize(("key", "low", "high"), [("canopy_height_eth", 0.4, 0.9), ("aster", -1.0, 0.35)])
    def test_canopy_is_partly_seen_and_elevation_hardly(self, key: str, low: float, high: float) -> None:
        forest = pytest.importorskip("sklearn.ensemble").RandomForestRegressor(
            20, min_samples_leaf=4, max_samples=0.6, random_state=0, n_jobs=1
        )
        train, test = (self.draw(tiles, key, 40) for tiles in self.split())
        forest.fit(*train)
        assert low <= forest.score(*test) <= high

    def test_the_biome_is_hinted_at_by_all_modalities_but_not_by_the_mean_colour(self) -> None:
        ensemble = pytest.importorskip("sklearn.ensemble")

        def colour(t: Tile) -> np.ndarray[Any, Any]:
            return np.append(t.arrays["sentinel2"].reshape(13, -1).mean(axis=1), t.survey.s2_level)

        def everything(t: Tile) -> np.ndarray[Any, Any]:
            rasters = [
                np.nan_to_num(t.arrays[k].astype(np.float32)) for k in ("sentinel1", "aster", "canopy_height_eth")
            ]
            texture = t.arrays["sentinel2"].reshape(13, -1).std(axis=1)
            means = [r.reshape(len(r), -1).mean(axis=1) for r in rasters]
            return np.concatenate([colour(t), texture, *means, np.nan_to_num(t.arrays["era5"])])

        scores = []
        for features in (colour, everything):
            forest = ensemble.RandomForestClassifier(100, random_state=0)
            (x, y), (a, b) = (
                (np.stack([features(t) for t in tiles]), np.array([t.biome for t in tiles])) for tiles in self.split()
            )
            scores.append(forest.fit(x, y).score(a, b))
        assert scores[0] < 0.5
        assert scores[1] > max(0.55, scores[0] + 0.15)
