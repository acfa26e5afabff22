"""eemont: scaling, cloud masks, indices and time series as methods of images and collections.

The quickstart's search for a location by name asks a geocoder on the internet; a point replaces it. The scaling
constants are stored in a file of eemont's own; its default cloud mask needs COPERNICUS/S2_CLOUD_PROBABILITY, which the
planet lacks.
"""

from __future__ import annotations

from typing import Any

import ee
import numpy as np
import pytest
from clients import L2A, MARKS, PLACE, client
from planet_reading import pixels_at

pytestmark = MARKS


@pytest.fixture(scope="module")
def eemont() -> Any:
    return client("eemont")


def point() -> Any:
    return ee.Geometry.Point(PLACE)


def test_the_closest_scene_is_scaled_and_has_indices(eemont: Any) -> None:
    found = (
        ee.ImageCollection(L2A)
        .filterBounds(point())
        .closest("2019-06-15", tolerance=1, unit="month")
        .maskClouds(method="qa", maskShadows=False)
        .scaleAndOffset()
        .spectralIndices(["NDVI", "NDWI"])
    )
    dates = found.aggregate_array("system:time_start").getInfo()
    assert len(dates) >= 1
    scene = ee.Image(found.first())
    index = scene.get("system:index").getInfo()
    crs = scene.select("B4").projection().getInfo()["crs"]
    values = (
        scene.unmask(-1).select(["B4", "B8", "B3", "NDVI", "NDWI"]).reduceRegion(ee.Reducer.first(), point(), 10, crs)
    ).getInfo()
    bands = {b: float(pixels_at(L2A, index, b, *(np.array(c) for c in PLACE))) for b in ("B3", "B4", "B8")}
    expected = {
        "NDVI": (bands["B8"] - bands["B4"]) / (bands["B8"] + bands["B4"]),
        "NDWI": (bands["B3"] - bands["B8"]) / (bands["B3"] + bands["B8"]),
        **{name: value / 10_000 for name, value in bands.items()},
    }
    if values["B4"] == -1:  # cloudy there: masked in all bands
        assert set(values.values()) == {-1}
        return
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-7), name


def test_a_time_series_is_that_of_the_scenes(eemont: Any) -> None:
    scenes = ee.ImageCollection(L2A).filterBounds(point()).filterDate("2019-06-01", "2019-07-01")
    series = scenes.scaleAndOffset().getTimeSeriesByRegion(
        reducer=[ee.Reducer.mean()], geometry=point(), bands=["B4"], scale=10
    )
    rows = [feature["properties"] for feature in series.getInfo()["features"]]
    indices = scenes.aggregate_array("system:index").getInfo()
    assert len(rows) == len(indices)
    expected = [float(pixels_at(L2A, index, "B4", *(np.array(c) for c in PLACE))) / 10_000 for index in indices]
    assert [row["B4"] for row in rows] == pytest.approx(expected, rel=1e-5)
    days = ee.List(scenes.aggregate_array("system:time_start").map(lambda t: ee.Date(t).format("YYYY-MM-dd"))).getInfo()
    assert [row["date"][:10] for row in rows] == days


def test_operators_are_those_of_numbers(eemont: Any) -> None:
    image = ee.Image(scene_index())
    formula = 2.5 * (image.select("B8") - image.select("B4"))
    crs = image.select("B4").projection()
    found = formula.reduceRegion(ee.Reducer.first(), point(), 10, crs).getInfo()
    index = image.get("system:index").getInfo()
    b8, b4 = (float(pixels_at(L2A, index, b, *(np.array(c) for c in PLACE))) for b in ("B8", "B4"))
    assert next(iter(found.values())) == pytest.approx(2.5 * (b8 - b4))


def scene_index() -> str:
    found = ee.ImageCollection(L2A).filterBounds(point()).filterDate("2019-06-01", "2019-07-01").first()
    return str(ee.Image(found).get("system:id").getInfo())
