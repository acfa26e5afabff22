"""A script as people wrote them years ago against the same collections, run unchanged but for its sign-in."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import ee
import numpy as np
import pytest
import rasterio
import requests

pytestmark = pytest.mark.usefixtures("earth")


def tile_of(lon: float, lat: float) -> Any:
    return ee.Geometry.Point([lon, lat]).buffer(320).bounds()


def test_a_scene_is_chosen_described_and_downloaded() -> None:
    region = tile_of(8.5, 47.3)
    collection = (
        ee.ImageCollection("COPERNICUS/S2_SR_HARMONIZED")
        .filterDate("2019-06-01", "2019-10-01")
        .filterBounds(region)
        .filterMetadata("CLOUDY_PIXEL_PERCENTAGE", "less_than", 20)
        .filter(ee.Filter.contains(".geo", region))
        .sort("CLOUDY_PIXEL_PERCENTAGE")
    )
    count = collection.size().getInfo()
    assert count > 0
    scenes = collection.toList(count)
    image = ee.Image(scenes.get(0))
    info = image.getInfo()
    clouds = [ee.Image(scenes.get(k)).get("CLOUDY_PIXEL_PERCENTAGE").getInfo() for k in range(min(count, 3))]
    assert clouds == sorted(clouds)
    assert info["properties"]["CLOUDY_PIXEL_PERCENTAGE"] == clouds[0]
    assert collection.getInfo()["features"][0]["id"] == info["id"]

    crs = image.select("B2").projection().getInfo()["crs"]
    options = {"region": region, "scale": 10, "crs": crs, "bands": ["B4", "B8"]}
    one = requests.get(image.getDownloadURL({**options, "format": "GEO_TIFF"}), timeout=120)
    with rasterio.open(io.BytesIO(one.content)) as opened:
        values = opened.read()
        assert (opened.count, str(opened.crs), opened.res) == (2, crs, (10, 10))
    parts = requests.get(image.getDownloadURL({**options, "name": "scene"}), timeout=120)
    with zipfile.ZipFile(io.BytesIO(parts.content)) as archive:
        names = sorted(archive.namelist())
        assert names == ["scene.B4.tif", "scene.B8.tif"]
        for k, name in enumerate(names):
            with rasterio.open(io.BytesIO(archive.read(name))) as opened:
                np.testing.assert_array_equal(opened.read(1), values[k])


def test_climate_points_and_regions_are_read_by_hand() -> None:
    points = ee.FeatureCollection.randomPoints(ee.Geometry.Rectangle([6, 45, 10, 48]), 5, 42)
    climate = ee.ImageCollection("ECMWF/ERA5_LAND/MONTHLY_AGGR").filterDate("2019-01-01", "2020-01-01")
    year = climate.select("temperature_2m").mean().addBands(climate.select("total_precipitation_sum").sum())
    read = points.map(lambda f: f.set(year.reduceRegion(ee.Reducer.mean(), ee.Feature(f).geometry(), 1000)))
    for feature in read.getInfo()["features"]:
        lon, lat = feature["geometry"]["coordinates"]
        assert 6 <= lon <= 10
        assert 45 <= lat <= 48
        assert 230 < feature["properties"]["temperature_2m"] < 320
        assert 0 <= feature["properties"]["total_precipitation_sum"] < 10
    text = json.loads(json.dumps(read.aggregate_array("temperature_2m").getInfo()))
    assert len(text) == 5


def test_pixels_come_without_a_file_in_between() -> None:
    cover = ee.ImageCollection("ESA/WorldCover/v100").first()
    step = 1 / 12_000
    grid = {
        "dimensions": {"width": 8, "height": 4},
        "affineTransform": {
            "scaleX": step,
            "shearX": 0,
            "translateX": 8.5,
            "shearY": 0,
            "scaleY": -step,
            "translateY": 47.3,
        },
        "crsCode": "EPSG:4326",
    }
    pixels = ee.data.computePixels({"expression": ee.Image(cover), "fileFormat": "NUMPY_NDARRAY", "grid": grid})
    assert pixels.shape == (4, 8)
    assert set(np.unique(pixels["Map"])) <= {0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100}
    asset = ee.data.getPixels({"assetId": "ESA/WorldCover/v100/2020", "fileFormat": "NUMPY_NDARRAY", "grid": grid})
    np.testing.assert_array_equal(asset["Map"], pixels["Map"])
