"""xee: collections as lazy xarray datasets with the scenes as time axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
import xarray as xr
from clients import ERA5, L2A, MARKS, PLACE, client, scenes
from planet_reading import centres, pixels_at, weather

pytestmark = MARKS


@pytest.fixture(scope="module")
def xee() -> Any:
    return client("xee")


def test_a_collection_opens_on_its_own_grid(xee: Any) -> None:
    """The quickstart: the first band's grid, and the months of a year as the time axis."""
    import ee

    months = ee.ImageCollection(ERA5).filterDate("2019-01-01", "2020-01-01").select(["temperature_2m"])
    grid = client("xee.helpers").extract_grid_params(months)
    opened = xr.open_dataset(months, engine="ee", **grid)
    assert opened.sizes["time"] == 12
    assert opened.time.dt.strftime("%Y-%m-%d").values.tolist() == [f"2019-{m:02d}-01" for m in range(1, 13)]
    here = opened.temperature_2m.sel(x=[8.5, 9.0], y=[47.3, 46.9], method="nearest")
    lon, lat = np.meshgrid(here.x, here.y)
    expected = weather("temperature_2m", [f"2019{m:02d}" for m in range(1, 13)], lon, lat)
    np.testing.assert_allclose(here.transpose("time", "y", "x").values, expected, rtol=1e-6)


def test_the_time_axis_of_scenes_is_that_of_the_scenes(xee: Any) -> None:
    """A small area on a 10 m grid, as in its documentation."""
    found = scenes("2019-06-01", "2019-07-15").select(["B4", "B8"])
    infos = [f["properties"] for f in found.getInfo()["features"]]
    crs = found.first().projection().crs().getInfo()
    same = [i["system:index"] for i in infos if i["MGRS_TILE"] == infos[0]["MGRS_TILE"]]
    grid = client("xee.helpers").fit_geometry(
        shapely.Point(*PLACE).buffer(0.002), grid_crs=crs, grid_scale=(10.0, -10.0)
    )
    import ee

    one_granule = found.filter(ee.Filter.eq("MGRS_TILE", infos[0]["MGRS_TILE"]))
    opened = xr.open_dataset(one_granule, engine="ee", **grid)
    starts = [i["system:time_start"] for i in infos if i["system:index"] in same]
    assert opened.time.values.astype("datetime64[ms]").astype(int).tolist() == starts
    width, height = grid["shape_2d"]
    x, y = centres(grid["crs_transform"], width, height)
    for k, index in enumerate(same[:3]):
        for band in ("B4", "B8"):
            expected = pixels_at(L2A, index, band, x, y, int(crs.removeprefix("EPSG:")))
            np.testing.assert_array_equal(opened[band].isel(time=k).transpose("y", "x").values, expected)
