"""geedim: search, composites and arrays.

Two parts of its quickstart are left out. `toGeoTIFF`, and a search by cloud cover, request band names from
earthengine-stac.storage.googleapis.com, a host on the internet; arrays use the same code except for that. Its cloud
masks need GOOGLE/CLOUD_SCORE_PLUS or `directionalDistanceTransform`, which the emulator refuses as not supported;
composites therefore use a collection that needs no such mask.
"""

from __future__ import annotations

from typing import Any

import ee
import numpy as np
import pytest
from clients import ERA5, L2A, MARKS, PLACE, client, scenes
from planet_reading import centres, pixels_at, weather

pytestmark = MARKS
LON, LAT = PLACE


@pytest.fixture(scope="module")
def geedim() -> Any:
    return client("geedim")


def region(size: float = 0.01) -> Any:
    return ee.Geometry.Rectangle([LON, LAT, LON + size, LAT + size])


def test_scenes_are_found(geedim: Any) -> None:
    found = ee.ImageCollection(L2A).gd.filter("2019-06-01", "2019-07-15", region=region())
    expected = scenes("2019-06-01", "2019-07-15")
    assert sorted(found.gd.properties) == sorted(expected.aggregate_array("system:index").getInfo())


def test_a_scene_is_exported_on_a_grid_of_its_own(geedim: Any) -> None:
    scene = ee.Image(scenes("2019-06-01", "2019-07-15").first()).select(["B4", "B8"])
    index, crs = scene.get("system:index").getInfo(), scene.select("B4").projection().crs().getInfo()
    prepared = scene.gd.prepareForExport(crs=crs, region=region(), scale=10, dtype="uint16")
    values = prepared.gd.toNumPy(masked=True)
    assert (prepared.gd.crs, prepared.gd.scale, prepared.gd.dtype) == (crs, 10, "uint16")
    height, width = prepared.gd.shape
    assert values.shape == (height, width, 2)
    x, y = centres(prepared.gd.transform, width, height)
    for k, band in enumerate(("B4", "B8")):
        expected = pixels_at(L2A, index, band, x, y, int(crs.removeprefix("EPSG:")))
        seen = ~np.ma.getmaskarray(values)[..., k]
        assert seen.mean() > 0.9
        np.testing.assert_array_equal(values.data[..., k][seen], expected[seen])


def test_a_composite_is_exported(geedim: Any) -> None:
    """A temporal mean, with a type and window that differ from the collection's own."""
    months = ee.ImageCollection(ERA5).filterDate("2019-05-01", "2019-08-01").select(["temperature_2m"])
    composite = months.gd.composite("mean")
    transform = [0.1, 0, 8.95, 0, -0.1, 47.25]  # of whole pixels of ERA5-Land
    prepared = composite.gd.prepareForExport(crs="EPSG:4326", crs_transform=transform, shape=(4, 8), dtype="float32")
    values = prepared.gd.toNumPy()
    lon, lat = centres(transform, 8, 4)
    expected = weather("temperature_2m", ["201905", "201906", "201907"], lon, lat).mean(axis=0)
    np.testing.assert_allclose(values[..., 0], expected, rtol=1e-6)


def test_what_its_cloud_mask_needs_is_said_to_be_lacking(geedim: Any) -> None:
    with pytest.raises(ee.EEException, match=r"(?s)CLOUD_SCORE_PLUS.*not found.*The emulator has no such asset"):
        scenes("2019-06-01", "2019-07-15").gd.composite("median").getInfo()
