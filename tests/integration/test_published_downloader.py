"""The requests of the downloader published with MMEarth, in sequence and unchanged.

Reimplemented from its requests: fourteen or more questions about one location, each in a separate request, then one
file of all bands. Only its random numbers are given: a level, a year and a position in the list of scenes. The result
is compared with what our source reads of the same scene from the planet, 8 pixels inside the tile, because the
downloader's bilinear bands are masked at the edge of its clipped polygon.
"""

from __future__ import annotations

import calendar
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ee
import numpy as np
import pytest
import rasterio
import requests
from ee_world import sign_in

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import LEVEL_L2A, Place, tile_ids
from mmearth_data.emulator.server.server import Emulator, EmulatorOptions
from mmearth_data.sources.base import Survey
from mmearth_data.sources.synthetic import SyntheticSource

SEED, SIZE_PX, MARGIN_PX, HALF_M = 3, 128, 8, 650
L2A, L1C = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"
SPECTRAL = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B11", "B12"]
BANDS = {L2A: [*SPECTRAL, "SCL", "MSK_CLDPRB", "QA60"], L1C: [*SPECTRAL[:10], "B10", *SPECTRAL[10:], "QA60"]}
NATIVE = ("B2", "B3", "B4", "B8")
ERA5_BANDS = ["temperature_2m", "temperature_2m_min", "temperature_2m_max", "total_precipitation_sum"]
REDUCERS = {"min": "min", "max": "max", "sum": "sum", "2m": "mean"}
CANOPY = ("users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1", "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1")
PERIODS = {
    2017: ("2017-01-01", "2017-12-31"),
    2018: ("2018-01-01", "2018-11-30"),
    2019: ("2018-12-01", "2019-12-31"),
    2020: ("2020-01-01", "2020-12-31"),
}


@dataclass
class Download:
    """Result of the published downloader for a tile.

    Attributes
    ----------
    bands
        Name in the file -> (row, column) pixels.
    transform
        Transform of the file.
    date
        Date of its Sentinel-2 scene, ``YYYY-MM-DD``.
    era5
        Twelve numbers for each of previous month, month, and year.
    """

    bands: dict[str, np.ndarray[Any, Any]]
    transform: Any
    date: str
    era5: dict[str, list[float | None]]


class Downloader:
    """The requests for one tile, in order."""

    def __init__(self, corners: Sequence[tuple[float, float]], level: str, year: int) -> None:
        self.polygon = ee.Geometry.Polygon([list(map(list, corners))])
        self.level, self.year = level, year
        self.names: list[str] = []

    def tile(self, choose: Callable[[Any], int]) -> Download:
        """Download a tile, given a function that chooses one of the matching scenes."""
        for k in (0, 1):
            assert self.polygon.centroid().coordinates().get(k).getInfo() is not None
        images = [self.sentinel2(choose), *self.sentinel1(), self.aster()]
        era5 = self.era5()
        images += [self.dynamic_world(), self.canopy(), self.worldcover()]
        merged = images[0]
        for image in images[1:]:
            merged = ee.Image.cat([merged, image])
        bands, transform = self.pixels(merged)
        return Download(bands, transform, self.date, era5)

    def sentinel2(self, choose: Callable[[Any], int]) -> Any:
        start, end = PERIODS[self.year]
        scenes = (
            ee.ImageCollection(self.level)
            .filterBounds(self.polygon)
            .filterDate(start, end)
            .filterMetadata("CLOUDY_PIXEL_PERCENTAGE", "less_than", 10)
        )
        assert self.level == L1C or scenes.size().getInfo() > 0
        fit = scenes.filter(ee.Filter.contains(".geo", self.polygon.buffer(200)))
        assert fit.size().getInfo() > 0
        whole = ee.Image(fit.toList(fit.size()).get(choose(fit)))
        bands = list(BANDS[self.level])
        if self.level == L2A and "MSK_CLDPRB" not in whole.bandNames().getInfo():
            bands.remove("MSK_CLDPRB")
        scene = whole.select(bands).clip(self.polygon).float()
        self.date = scene.date().format("YYYY-MM-dd").getInfo()
        self.projection = scene.select("B4").projection()
        self.crs = self.projection.getInfo()["crs"]
        assert len(self.polygon.getInfo()["coordinates"][0]) >= 4
        classes = ["SCL", "QA60"] if self.level == L2A else ["QA60"]
        smooth = scene.select([b for b in bands if b not in classes]).resample("bilinear").reproject(self.projection)
        made = smooth.addBands(scene.select(classes).reproject(self.projection))
        self.names += made.bandNames().getInfo()
        return made

    def sentinel1(self) -> list[Any]:
        def apart(image: Any) -> Any:
            days = ee.Date(image.get("system:time_start")).difference(self.date, "day").abs()
            return image.set("date_difference", days)

        scenes = (
            ee.ImageCollection("COPERNICUS/S1_GRD")
            .filterBounds(self.polygon)
            .filterDate("2017-01-01", "2020-12-31")
            .filterMetadata("instrumentMode", "equals", "IW")
            .map(lambda image: image.clip(self.polygon))
        )
        ring = ee.List(self.polygon.buffer(-200, ee.ErrorMargin(1)).bounds().coordinates().get(0))
        corners = (ee.Filter.geometry(ee.Geometry.Point(ring.get(k))) for k in (1, 3))
        nearest = scenes.filter(ee.Filter.And(*corners)).map(apart).sort("date_difference")
        made = []
        for way in ("ASCENDING", "DESCENDING"):
            image = nearest.filterMetadata("orbitProperties_pass", "equals", way).first()
            try:
                bands = [band for band in image.bandNames().getInfo() if band != "angle"]
            except ee.EEException:
                continue
            made.append(image.select(bands).float().resample("bilinear").reproject(self.projection))
            self.names += [f"{way[:3].lower() if way[0] == 'A' else 'desc'}_{band}" for band in bands]
        return made

    def aster(self) -> Any:
        height = ee.Image("projects/sat-io/open-datasets/ASTER/GDEM").clip(self.polygon).select(["b1"]).float()
        made = ee.Image.cat([height, ee.Terrain.slope(height)]).resample("bilinear").reproject(self.projection)
        self.names += [f"aster_{name}" for name in made.bandNames().getInfo()]
        return made

    def era5(self) -> dict[str, list[float | None]]:
        year, month, _ = map(int, self.date.split("-"))
        last = f"{year}-{month:02d}-{calendar.monthrange(year, month)[1]}"
        # Months are not padded: 2019-5-01.
        before = f"{year}-{month - 1}-01" if month > 1 else f"{year - 1}-12-01"

        def months(start: str) -> Any:
            clipped = ee.ImageCollection("ECMWF/ERA5_LAND/MONTHLY_AGGR").filterDate(start, last)
            return clipped.map(lambda image: image.clip(self.polygon))

        def of_year(band: str) -> Any:
            name = next(reducer for key, reducer in REDUCERS.items() if band.endswith(key))
            return months(f"{year - 1}-{month}-01").select(band).reduce(getattr(ee.Reducer, name)())

        yearly = ee.ImageCollection([of_year(band) for band in ERA5_BANDS]).toBands().float()
        together = ee.Image.cat([months(before).select(ERA5_BANDS).toBands(), yearly])
        means = together.reduceRegion(reducer=ee.Reducer.mean(), geometry=self.polygon, scale=10).getInfo()
        names = together.bandNames().getInfo()
        assert len(names) == 12
        return {
            part: [means[n] for n in names[4 * k : 4 * k + 4]] for k, part in enumerate(("before", "month", "year"))
        }

    def dynamic_world(self) -> Any:
        year = self.date.split("-")[0]

        def counted_from_one(image: Any) -> Any:
            label = image.select("label")
            for value in range(10):
                label = label.where(image.eq(value), value + 1)
            return image.addBands(label.rename("label2")).select("label2").rename("label")

        labels = (
            ee.ImageCollection("GOOGLE/DYNAMICWORLD/V1")
            .filterBounds(self.polygon)
            .filterDate(f"{year}-01-01", f"{year}-12-31")
            .select(["label"])
        )
        most = labels.map(counted_from_one).mode().clip(self.polygon)
        assert most.bandNames().getInfo() == ["label"]
        made = most.reproject(self.projection)
        self.names += [f"dynamic_world_{name}" for name in made.bandNames().getInfo()]
        return made

    def canopy(self) -> Any:
        layers = ee.Image.cat([ee.Image(asset).clip(self.polygon).float() for asset in CANOPY])
        made = layers.resample("bilinear").reproject(self.projection).rename(["height", "std"])
        self.names += [f"canopy_{name}" for name in made.bandNames().getInfo()]
        return made

    def worldcover(self) -> Any:
        cover = ee.ImageCollection("ESA/WorldCover/v100").first().clip(self.polygon).select(["Map"])
        made = cover.reproject(self.projection)
        self.names += [f"worldcover_{name}" for name in made.bandNames().getInfo()]
        return made

    def pixels(self, merged: Any) -> tuple[dict[str, np.ndarray[Any, Any]], Any]:
        url = merged.getDownloadUrl(
            {
                "name": "merged_tile",
                "scale": 10,
                "crs": self.crs,
                "region": self.polygon.getInfo()["coordinates"],
                "format": "GeoTIFF",
                "bands": merged.bandNames().getInfo(),
            }
        )
        answer = requests.get(url, stream=True, timeout=600)
        assert answer.status_code == 200, answer.text
        with rasterio.open(io.BytesIO(answer.content)) as opened:
            assert str(opened.crs) == self.crs
            assert opened.count == len(self.names)
            return dict(zip(self.names, opened.read(), strict=True)), opened.transform


def square(lon: float, lat: float) -> list[tuple[float, float]]:
    """Corners of a tile as in the published list of tiles: 1,300 m in longitude and latitude."""
    up = HALF_M / 111_195
    across = up / math.cos(math.radians(lat))
    return [(lon + a * across, lat + b * up) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]


def ours(place: Place, year: int, level: str) -> tuple[Survey, dict[str, Any]]:
    """Tile of our source at a location, read directly from the planet."""
    source = SyntheticSource(SEED, years=(year,), levels=(level,))
    (survey,) = source.survey([place])
    assert isinstance(survey, Survey), survey
    wanted = [
        m
        for m in load_catalog().select()
        if m.name not in survey.values and m.stored and (m.kind.is_raster or m.kind.is_continuous)
    ]
    return survey, source.read(survey, wanted) | dict(survey.values)


@pytest.mark.filterwarnings("ignore:getDownloadURL:DeprecationWarning")  # as called by the script
@pytest.mark.parametrize(
    ("lon", "lat", "year", "level", "passes"),
    [
        (8.5, 47.3, 2019, "L2A", ("asc", "desc")),
        pytest.param(-61.2, -33.6, 2018, "L1C", ("asc", "desc"), marks=pytest.mark.slow),
        # The descending pass that is closest to the scene is not the one closest to the midnight before it.
        pytest.param(25.4, 60.9, 2020, "L2A", ("asc",), marks=pytest.mark.slow),
    ],
)
def test_its_requests_succeed_and_its_pixels_are_ours(
    lon: float, lat: float, year: int, level: str, passes: tuple[str, ...]
) -> None:
    place = Place(tile_id=int(tile_ids([lon], [lat], SIZE_PX)[0]), lon=lon, lat=lat, size_px=SIZE_PX)
    survey, arrays = ours(place, year, level)
    asset = L2A if survey.s2_level == LEVEL_L2A else L1C
    index = survey.facts["sentinel2"].rpartition("/")[2]
    with Emulator(EmulatorOptions(seed=SEED)) as emulator:
        sign_in(emulator.url)
        asked = emulator.ledger.report()["requests"]

        def choose(scenes: Any) -> int:
            found: list[str] = scenes.aggregate_array("system:index").getInfo()
            return found.index(index)

        tile = Downloader(square(lon, lat), asset, year).tile(choose)
        report = emulator.ledger.report()
        requests_sent = sum(report["requests"].values()) - sum(asked.values()) - 1  # `choose` is the test's own
    assert report["status"] == {"200": sum(report["requests"].values())}
    assert requests_sent == (22 if asset == L2A else 20)
    compare(tile, survey, arrays, passes)


def compare(tile: Download, survey: Survey, arrays: dict[str, Any], passes: tuple[str, ...]) -> None:
    """Assert that both agree within the tolerance of each band."""
    column = round((survey.grid.ulx - tile.transform.c) / 10) + MARGIN_PX
    row = round((tile.transform.f - survey.grid.uly) / 10) + MARGIN_PX
    side = SIZE_PX - 2 * MARGIN_PX
    theirs = {name: band[row : row + side, column : column + side] for name, band in tile.bands.items()}
    modalities = {m.name: m for m in load_catalog().select()}

    def same(modality: str, band: str, name: str, tolerance: float) -> None:
        m = modalities[modality]
        mine = arrays[modality][m.bands.index(band)][MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        seen = m.observed(mine)
        difference = np.abs(mine.astype(np.float64) - theirs[name])[seen]
        assert not difference.size or difference.max() <= tolerance, (name, difference.max())

    for band in modalities["sentinel2"].bands:
        if band in theirs:  # 10 m bands are the scene's own pixels; the others are interpolated, ours are rounded
            same("sentinel2", band, band, 0 if band in NATIVE else 0.51)
    for modality, band, name in (("sentinel2_cloudmask", "QA60", "QA60"), ("sentinel2_scl", "SCL", "SCL")):
        if name in theirs:
            same(modality, band, name, 0)
    same("dynamic_world", "landcover", "dynamic_world_label", 0)
    same("esa_worldcover", "map", "worldcover_Map", 0)
    same("aster", "elevation", "aster_b1", 0.51)
    same("aster", "slope", "aster_slope", 0.51)
    same("canopy_height_eth", "height", "canopy_height", 0.51)
    same("canopy_height_eth", "std", "canopy_std", 0.51)
    for band in modalities["sentinel1"].bands:
        if band in theirs and band.startswith(passes):
            same("sentinel1", band, band, 1e-3)
    months = {"before": "prev_month", "month": "curr_month"}
    for part, ours_name in months.items():
        names = [f"{ours_name}_{k}" for k in ("avg_temp", "min_temp", "max_temp", "total_precip")]
        mine = [float(arrays["era5"][modalities["era5"].bands.index(name)]) for name in names]
        # Their polygon is a little larger than our tile: where cells meet, their shares differ a little.
        assert tile.era5[part] == pytest.approx(mine, rel=1e-3), part
