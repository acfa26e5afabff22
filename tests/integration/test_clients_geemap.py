"""geemap: arrays, tables and statistics of images and collections.

Its maps need a browser and a server of background maps; only their requests to Earth Engine (a map id, tiles) are
tested.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import ee
import numpy as np
import pytest
import rasterio
import requests
from clients import ERA5, MARKS, PLACE, WORLD_COVER, client, scenes
from planet_reading import centres, pixels_at, weather

pytestmark = MARKS
LON, LAT = PLACE
DEM = "projects/sat-io/open-datasets/ASTER/GDEM"


@pytest.fixture(scope="module")
def geemap() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USE_MKDOCS", "1")  # no notebook widgets
        return client("geemap.common")


def square(half_m: float = 300.0) -> Any:
    return ee.Geometry.Point(PLACE).buffer(half_m).bounds()


def test_an_image_becomes_an_array(geemap: Any) -> None:
    region = ee.Geometry.Rectangle([LON, LAT, LON + 0.01, LAT + 0.01], None, False)
    image = ee.ImageCollection(WORLD_COVER).first()
    found = geemap.ee_to_numpy(image, region=region, scale=10)
    band = image.clipToBoundsAndScale(geometry=region, scale=10).getInfo()["bands"][0]
    height, width, bands = found.shape
    assert (bands, [width, height]) == (1, band["dimensions"])
    column, row = band.get("origin", (0, 0))
    x, y = centres(band["crs_transform"], width, height, column, row)
    assert np.abs([x - (LON + 0.005), y - (LAT + 0.005)]).max() < 0.006
    inside = (x > LON) & (x < LON + 0.01) & (y > LAT) & (y < LAT + 0.01)
    expected = pixels_at(WORLD_COVER, None, "Map", x, y)
    np.testing.assert_array_equal(found[..., 0][inside], expected[inside])
    assert inside.mean() > 0.95


def test_an_image_is_downloaded(geemap: Any, tmp_path: Path) -> None:
    scene = ee.Image(scenes("2019-06-01", "2019-07-15").first()).select(["B4", "B3", "B2"])
    info = scene.getInfo()
    crs = info["bands"][0]["crs"]
    out = tmp_path / "scene.tif"
    geemap.ee_export_image(scene, filename=str(out), scale=10, region=square(), crs=crs, file_per_band=False)
    with rasterio.open(out) as opened:
        x, y = centres(opened.transform, opened.width, opened.height)
        assert str(opened.crs) == crs
        for k, band in enumerate(("B4", "B3", "B2"), start=1):
            expected = pixels_at(
                "COPERNICUS/S2_SR_HARMONIZED", info["properties"]["system:index"], band, x, y, int(crs[5:])
            )
            # On a grid that is not the scene's own, each pixel has the value of the pixel that contains its centre.
            np.testing.assert_array_equal(opened.read(k), np.nan_to_num(expected))


def test_values_at_points_become_a_table(geemap: Any) -> None:
    points = [(LON + 0.0501 * k + 1e-4, LAT - 0.0301 * k - 1e-4) for k in range(6)]
    table = ee.FeatureCollection([ee.Feature(ee.Geometry.Point(p), {"name": f"p{k}"}) for k, p in enumerate(points)])
    sampled = ee.Image(DEM).sampleRegions(collection=table)
    frame = geemap.ee_to_df(sampled, remove_geom=False).sort_values("name")
    expected = pixels_at(DEM, None, "b1", *np.array(points).T)
    assert frame["name"].tolist() == [f"p{k}" for k in range(6)]
    np.testing.assert_array_equal(frame["b1"].to_numpy(), expected)


def test_zonal_statistics_are_those_of_the_pixels(geemap: Any, tmp_path: Path) -> None:
    month = ee.ImageCollection(ERA5).filterDate("2019-06-01", "2019-07-01").first().select("temperature_2m")
    cells = [ee.Geometry.Rectangle([8.95 + k, 46.95, 9.35 + k, 47.15], None, False) for k in range(2)]
    zones = ee.FeatureCollection([ee.Feature(cell, {"zone": k}) for k, cell in enumerate(cells)])
    out = tmp_path / "zones.csv"
    geemap.zonal_stats(month, zones, str(out), stat_type="MEAN", scale=1000)
    rows = [line.split(",") for line in out.read_text().splitlines()]
    means = {int(float(row[rows[0].index("zone")])): float(row[rows[0].index("mean")]) for row in rows[1:]}
    for k in range(2):
        lon, lat = np.meshgrid(9.0 + k + 0.1 * np.arange(4), [47.1, 47.0])
        expected = weather("temperature_2m", ["201906"], lon, lat).mean()
        assert means[k] == pytest.approx(expected, abs=0.05)


def test_a_layer_of_a_map_has_tiles(geemap: Any) -> None:
    layer = client("geemap.ee_tile_layers")
    url = layer._get_tile_url_format(ee.Image(DEM), {"min": 0, "max": 3000, "palette": ["black", "white"]})
    zoom, column, row = 13, 4289, 2873
    tile = requests.get(url.format(z=zoom, x=column, y=row), timeout=120)
    with rasterio.open(io.BytesIO(tile.content)) as opened:
        shown = opened.read(1)
    half, side = math.pi * 6_378_137, 2 * math.pi * 6_378_137 / 2**zoom
    x, y = centres((side / 256, 0, column * side - half, 0, -side / 256, half - row * side), 256, 256)
    height = pixels_at(DEM, None, "b1", x, y, 3857)
    np.testing.assert_allclose(shown, np.clip(height / 3000, 0, 1) * 255, atol=0.51)
