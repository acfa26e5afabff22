"""cubexpress: patches around a point, one per scene in a period."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from clients import MARKS, PLACE, client
from planet_reading import centres, pixels_at

pytestmark = MARKS
L1C = "COPERNICUS/S2_HARMONIZED"


@pytest.fixture(scope="module")
def cubexpress() -> Any:
    return client("cubexpress")


def test_patches_of_all_scenes_are_downloaded(cubexpress: Any, tmp_path: Path) -> None:
    patch = cubexpress.point_to_rt(lon=PLACE[0], lat=PLACE[1], width=96, height=64, scale=10)
    table = cubexpress.discover_images(L1C, patch, "2019-06-01", "2019-06-15")
    assert len(table) > 0
    chosen = table.select_bands("B4", "B3", "B2")
    cubexpress.express(chosen, str(tmp_path / "out"))
    files = sorted((tmp_path / "out").rglob("*.tif"))
    assert len(files) == len(table)
    images = {row.id: row.image.rpartition("/")[2] for row in chosen}
    for file in files:
        index = images[file.stem]
        with rasterio.open(file) as opened:
            assert (opened.width, opened.height, opened.count) == (96, 64, 3)
            x, y = centres(opened.transform, opened.width, opened.height)
            epsg = opened.crs.to_epsg()
            for k, band in enumerate(("B4", "B3", "B2"), start=1):
                expected = pixels_at(L1C, index, band, x, y, epsg)
                np.testing.assert_array_equal(opened.read(k), np.nan_to_num(expected))


def test_many_patches_are_discovered_together(cubexpress: Any) -> None:
    places = [(8.5, 47.3), (9.7, 47.9), (2.3, 48.8)]
    patches = [cubexpress.point_to_rt(lon=lon, lat=lat, width=64, height=64, scale=10) for lon, lat in places]
    together = cubexpress.discover_images(L1C, patches, "2019-06-01", "2019-06-10", nworkers=2)
    alone = [cubexpress.discover_images(L1C, patch, "2019-06-01", "2019-06-10") for patch in patches]
    assert sorted(row.image for row in together) == sorted(row.image for table in alone for row in table)
