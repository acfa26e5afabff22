"""cubexpress: patches around a point, one per image in a period.

It asks for the first image of a collection before any filter. Of scene collections the emulator refuses that, because it
computes scenes location by location; so the patches are of ERA5-Land.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ee
import numpy as np
import pytest
import rasterio
from clients import MARKS, PLACE, client
from planet_reading import centres, pixels_at

from mmearth_data.planet.planet import ERA5

pytestmark = MARKS


@pytest.fixture(scope="module")
def cubexpress() -> Any:
    return client("cubexpress")


def test_patches_of_all_months_are_downloaded(cubexpress: Any, tmp_path: Path) -> None:
    patch = cubexpress.point_to_rt(lon=PLACE[0], lat=PLACE[1], width=24, height=16, scale=5000)
    table = cubexpress.discover_images(ERA5, patch, "2019-05-01", "2019-08-01")
    assert len(table) == 3
    chosen = table.select_bands("temperature_2m", "total_precipitation_sum")
    cubexpress.express(chosen, str(tmp_path / "out"))
    files = sorted((tmp_path / "out").rglob("*.tif"))
    assert len(files) == 3
    images = {row.id: row.image.rpartition("/")[2] for row in chosen}
    for file in files:
        with rasterio.open(file) as opened:
            assert (opened.width, opened.height, opened.count) == (24, 16, 2)
            x, y = centres(opened.transform, opened.width, opened.height)
            for k, band in enumerate(("temperature_2m", "total_precipitation_sum"), start=1):
                expected = pixels_at(ERA5, images[file.stem], band, x, y, opened.crs.to_epsg())
                np.testing.assert_allclose(opened.read(k), np.nan_to_num(expected), rtol=1e-6)


def test_many_patches_are_discovered_together(cubexpress: Any) -> None:
    places = [(8.5, 47.3), (9.7, 47.9), (2.3, 48.8)]
    patches = [cubexpress.point_to_rt(lon=lon, lat=lat, width=64, height=64, scale=5000) for lon, lat in places]
    together = cubexpress.discover_images(ERA5, patches, "2019-06-01", "2019-09-01", nworkers=2)
    assert sorted(row.image[-6:] for row in together) == sorted(3 * ["201906", "201907", "201908"])


def test_the_first_scene_of_the_whole_earth_is_refused_plainly(cubexpress: Any) -> None:
    """It takes the names of bands from the first image of a collection, which no filter bounds."""
    patch = cubexpress.point_to_rt(lon=PLACE[0], lat=PLACE[1], width=64, height=64, scale=10)
    with pytest.raises(ee.EEException, match="add filterBounds"):
        cubexpress.discover_images("COPERNICUS/S2_HARMONIZED", patch, "2019-06-01", "2019-06-15")
