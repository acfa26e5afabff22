"""wxee: time series of weather as xarray datasets, and their aggregates."""

from __future__ import annotations

from typing import Any

import ee
import numpy as np
import pytest
from clients import ERA5, MARKS, client
from planet_reading import weather

pytestmark = MARKS
CELLS = (9.0, 46.9, 9.4, 47.2)


@pytest.fixture(scope="module")
def wxee() -> Any:
    return client("wxee")


def region() -> Any:
    return ee.Geometry.Rectangle(CELLS, None, False)


def months(start: str, end: str) -> Any:
    return ee.ImageCollection(ERA5).filterDate(start, end).select(["temperature_2m"])


def test_a_collection_becomes_a_dataset(wxee: Any) -> None:
    found = months("2019-05-01", "2019-08-01").wx.to_xarray(
        region=region(), scale=11132, crs="EPSG:4326", progress=False, num_cores=1
    )
    assert found.time.dt.strftime("%Y-%m").values.tolist() == ["2019-05", "2019-06", "2019-07"]
    lon, lat = np.meshgrid(found.x, found.y)
    expected = weather("temperature_2m", ["201905", "201906", "201907"], lon, lat)
    inside = (lon > CELLS[0]) & (lon < CELLS[2]) & (lat > CELLS[1]) & (lat < CELLS[3])
    values = found.temperature_2m.transpose("time", "y", "x").values
    assert inside.sum() >= 6
    np.testing.assert_allclose(values[:, inside], expected[:, inside], rtol=1e-6)


def test_months_are_aggregated_to_years(wxee: Any) -> None:
    series = wxee.TimeSeries(months("2018-01-01", "2020-01-01"))
    yearly = series.aggregate_time(frequency="year", reducer=ee.Reducer.max())
    assert yearly.size().getInfo() == 2
    found = ee.Image(yearly.first()).reduceRegion(ee.Reducer.first(), ee.Geometry.Point([9.05, 47.05]), 100).getInfo()
    expected = weather("temperature_2m", [f"2018{m:02d}" for m in range(1, 13)], np.array(9.05), np.array(47.05))
    assert next(iter(found.values())) == pytest.approx(expected.max(), rel=1e-6)
