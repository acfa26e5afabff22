"""geedim: search, composites and GeoTIFFs.

Its default cloud mask needs GOOGLE/CLOUD_SCORE_PLUS, which the planet lacks (it says so); its own mask of QA60 serves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ee
import numpy as np
import pytest
import rasterio
from clients import L2A, MARKS, PLACE, client
from planet_reading import centres, pixels_at

pytestmark = MARKS
LON, LAT = PLACE


@pytest.fixture(scope="module")
def geedim() -> Any:
    return client("geedim")


def region(size: float = 0.01) -> Any:
    return ee.Geometry.Rectangle([LON, LAT, LON + size, LAT + size])


def test_scenes_are_found_and_exported(geedim: Any, tmp_path: Path) -> None:
    found = ee.ImageCollection(L2A).gd.filter(
        "2019-06-01", "2019-07-15", region=region(), cloudless_portion=60, mask_method="qa"
    )
    listed = found.gd.properties
    assert listed
    assert all(entry["CLOUDLESS_PORTION"] >= 60 for entry in listed.values())
    assert set(found.gd.schemaTable.split()) & {"CLOUDLESS", "FILL"}
    index = next(iter(listed)).rpartition("/")[2]
    scene = ee.Image(f"{L2A}/{index}").select(["B4", "B8"])
    crs = scene.projection().crs().getInfo()
    out = tmp_path / "scene.tif"
    scene.gd.prepareForExport(crs=crs, region=region(), scale=10, dtype="uint16").gd.toGeoTIFF(str(out))
    with rasterio.open(out) as opened:
        x, y = centres(opened.transform, opened.width, opened.height)
        # Masked pixels are 0, as they are on the planet where there is no scene.
        for k, band in enumerate(("B4", "B8"), start=1):
            expected = np.nan_to_num(pixels_at(L2A, index, band, x, y, int(crs[5:])))
            values = opened.read(k)
            kept = values != 0
            assert kept.mean() > 0.5
            np.testing.assert_array_equal(values[kept], expected[kept])


def test_a_composite_is_exported(geedim: Any, tmp_path: Path) -> None:
    """The quickstart: a median without clouds, on a grid of its own."""
    small = region(0.003)
    found = ee.ImageCollection(L2A).gd.filter(
        "2019-06-01", "2019-07-15", region=small, cloudless_portion=60, mask_method="qa"
    )
    composite = found.gd.composite("median", mask=False)
    out = tmp_path / "composite.tif"
    prepared = composite.select(["B4"]).gd.prepareForExport(crs="EPSG:3857", region=small, scale=10, dtype="uint16")
    prepared.gd.toGeoTIFF(str(out))
    with rasterio.open(out) as opened:
        x, y = centres(opened.transform, opened.width, opened.height)
        values = opened.read(1)
    stack = np.stack([pixels_at(L2A, name.rpartition("/")[2], "B4", x, y, 3857) for name in found.gd.properties])
    expected = np.floor(np.nanmedian(stack, axis=0))
    inside = values != 0
    assert inside.any()
    assert (np.abs(values[inside] - expected[inside]) <= 1).mean() > 0.99
