"""Collections of scenes without `filterBounds`: pixels are computed for the requested grid (Earth Engine guides,
"projections": inputs are pulled for the output), and requests that need a list of all scenes on Earth are refused.
"""

from __future__ import annotations

import io
from typing import Any

import ee
import numpy as np
import pytest
from ee_world import refusal

pytestmark = pytest.mark.usefixtures("earth")

L2A, L1C, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S1_GRD"
DYNAMIC_WORLD = "GOOGLE/DYNAMICWORLD/V1"
LON, LAT = 8.5, 47.3
GRID = {
    "dimensions": {"width": 24, "height": 16},
    "affineTransform": {
        "scaleX": 10,
        "shearX": 0,
        "translateX": 460_000,
        "shearY": 0,
        "scaleY": -10,
        "translateY": 5_240_000,
    },
    "crsCode": "EPSG:32632",
}


def around() -> Any:
    return ee.Geometry.Rectangle([460_000, 5_239_840, 460_240, 5_240_000], "EPSG:32632", False)


def june(asset: str) -> Any:
    return ee.ImageCollection(asset).filterDate("2020-06-01", "2020-07-01")


def pixels(image: Any) -> np.ndarray[Any, Any]:
    request = {"expression": image, "fileFormat": "NPY", "grid": GRID}
    return np.load(io.BytesIO(ee.data.computePixels(request)), allow_pickle=False)


def ndvi(image: Any) -> Any:
    return image.normalizedDifference(["B8", "B4"])


def scaled(image: Any) -> Any:
    return image.select(["B4", "B8"]).multiply(0.0001).copyProperties(image, ["system:time_start"])


CHAINS: dict[str, Any] = {
    "selected": lambda c: c.select(["B4", "B8"]),
    "filtered": lambda c: c.filter(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", 60)).select("B4"),
    "mapped": lambda c: c.map(ndvi),
    "filtered after map": lambda c: c.map(scaled).filterDate("2020-06-10", "2020-06-25"),
    "sorted": lambda c: c.sort("CLOUDY_PIXEL_PERCENTAGE", False).select("B4"),
    "merged": lambda c: c.select("B4").merge(
        ee.ImageCollection(L1C).filterDate("2020-07-01", "2020-07-08").select("B4")
    ),
    "cast": lambda c: c.select("B4").cast({"B4": "float"}, ["B4"]),
}
REDUCTIONS: dict[str, Any] = {
    "median": lambda c: c.median(),
    "mosaic": lambda c: c.mosaic(),
    "count": lambda c: c.count(),
    "mode": lambda c: c.mode(),
    "percentile": lambda c: c.reduce(ee.Reducer.percentile([20])),
}


@pytest.mark.parametrize(
    ("chain", "reduction"), [*((c, "median") for c in CHAINS), *(("selected", r) for r in REDUCTIONS)]
)
def test_a_composite_equals_the_bounded_one_on_the_grid(chain: str, reduction: str) -> None:
    free, bounded = (CHAINS[chain](c) for c in (june(L2A), june(L2A).filterBounds(around())))
    if chain == "merged":
        bounded = bounded.filterBounds(around())
    found, expected = (pixels(REDUCTIONS[reduction](c)) for c in (free, bounded))
    assert found.dtype == expected.dtype
    assert len(np.unique(expected)) > (0 if reduction == "count" else 10)
    np.testing.assert_array_equal(found, expected)


def test_a_quality_mosaic_and_a_line_through_a_collection_equal_the_bounded_ones() -> None:
    def best(c: Any) -> Any:
        return c.map(lambda i: i.select(["B4"]).addBands(ndvi(i))).qualityMosaic("nd").select("B4")

    def line(c: Any) -> Any:
        return c.select(["B8", "B4"]).reduce(ee.Reducer.linearFit())

    for made in (best, line):
        np.testing.assert_array_equal(pixels(made(june(L2A))), pixels(made(june(L2A).filterBounds(around()))))


def test_regions_and_rows_of_pixels_are_pulled_for_their_geometry() -> None:
    labels = ee.ImageCollection(DYNAMIC_WORLD).filterDate("2020-05-01", "2020-09-01").select("label")
    free, bounded = (
        c.mode().reduceRegion(ee.Reducer.frequencyHistogram(), around(), 10, "EPSG:32632").getInfo()
        for c in (labels, labels.filterBounds(around()))
    )
    assert free == bounded
    assert sum(free["label"].values()) == 24 * 16
    point = ee.Geometry.Point([LON, LAT])
    rows = june(L2A).select("B4").getRegion(point, 10).getInfo()
    assert rows == june(L2A).select("B4").filterBounds(point).getRegion(point, 10).getInfo()
    assert len(rows) > 5


def test_another_grid_pulls_other_scenes() -> None:
    """Results for one grid are not reused for another, including the southern hemisphere."""
    image = june(L2A).select("B4").median()
    for lon, lat in ((LON, LAT), (-61.0, -33.4), (146.0, -33.0)):
        region = ee.Geometry.Point([lon, lat]).buffer(200)
        expected = june(L2A).filterBounds(region).select("B4").median()
        found = [i.reduceRegion(ee.Reducer.mean(), region, 10).getInfo()["B4"] for i in (image, expected)]
        assert found[0] is not None
        assert found[0] == found[1]


def test_names_and_types_of_bands_are_known_without_a_place() -> None:
    assert june(L2A).select(["B4", "SCL"]).median().bandNames().getInfo() == ["B4", "SCL"]
    assert june(L2A).map(ndvi).mean().bandNames().getInfo() == ["nd"]
    polar = ee.ImageCollection(S1).filter(ee.Filter.listContains("transmitterReceiverPolarisation", "HV"))
    assert polar.mosaic().bandTypes().getInfo()["HV"]["precision"] == "double"
    assert june(L2A).select("SCL").mosaic().getInfo()["bands"][0]["data_type"] == {
        "type": "PixelType",
        "precision": "int",
        "min": 0,
        "max": 255,
    }


@pytest.mark.parametrize(
    "question",
    [
        lambda c: c.size(),
        lambda c: c.first(),
        lambda c: c.aggregate_array("MGRS_TILE"),
        lambda c: c.aggregate_max("CLOUDY_PIXEL_PERCENTAGE"),
        lambda c: c.toList(3),
        lambda c: c.limit(3).median(),
        lambda c: c.toBands(),
        lambda c: c.map(ndvi).size(),
        lambda c: c.filter(ee.Filter.eq("MGRS_TILE", "32TMT")).size(),
        lambda c: c,
    ],
)
def test_what_needs_a_list_of_all_scenes_is_refused(question: Any) -> None:
    words = refusal(question(june(L2A)))
    assert L2A in words
    assert "add filterBounds" in words


def test_what_is_known_without_a_place_is_answered() -> None:
    index = june(L2A).filterBounds(ee.Geometry.Point([LON, LAT])).first().get("system:index").getInfo()
    named = ee.ImageCollection(L2A).filter(ee.Filter.eq("system:index", index))
    assert named.size().getInfo() == 1
    assert named.first().get("MGRS_TILE").getInfo() == index[-5:]
    assert ee.ImageCollection(L2A).filterDate("1999-01-01", "2001-01-01").size().getInfo() == 0
    assert (
        ee.ImageCollection("ECMWF/ERA5_LAND/MONTHLY_AGGR").filterDate("2019-01-01", "2020-01-01").size().getInfo() == 12
    )


def test_images_that_count_all_over_the_globe_are_refused() -> None:
    everywhere = june(L2A).select("B4").map(lambda i: i.unmask(0, False)).mean()
    assert "add filterBounds" in refusal(everywhere.reduceRegion(ee.Reducer.mean(), around(), 10))


# ---------------------------------------------------------------- linkCollection


def scene() -> Any:
    point = ee.Geometry.Point([LON, LAT])
    found = ee.ImageCollection(L2A).filterDate("2020-01-01", "2021-01-01").filterBounds(point)
    return ee.Image(found.filter(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", 10)).first())


def means(image: Any) -> dict[str, float | None]:
    found: dict[str, float | None] = image.reduceRegion(ee.Reducer.mean(), around(), 20).getInfo()
    return found


def test_bands_that_depend_on_which_scene_is_first_are_refused() -> None:
    """Sentinel-1 scenes have VV and VH or HH and HV: the names of a composite are those of the first scene on Earth."""
    radar = june(S1)
    words = refusal(radar.mosaic().bandNames())
    assert "differ in their bands (" in words
    assert "select bands, filter by a property, or add filterBounds(geometry)" in words
    polarised = radar.filter(ee.Filter.listContains("transmitterReceiverPolarisation", "VH"))
    assert polarised.mosaic().bandNames().getInfo() == ["VV", "VH", "angle"]
    assert radar.select("angle").mosaic().bandNames().getInfo() == ["angle"]


def test_a_link_finds_the_image_of_the_same_index() -> None:
    image, other = scene(), ee.ImageCollection(L1C)
    linked = image.select("B4").linkCollection(other, ["B10", "B4"], ["PRODUCT_ID"])
    assert linked.bandNames().getInfo() == ["B4", "B10"], "bands of the same name are overwritten"
    index = image.get("system:index").getInfo()
    assert means(linked) == means(ee.Image(f"{L1C}/{index}").select(["B4", "B10"]))
    assert "MSIL1C" in linked.get("PRODUCT_ID").getInfo()
    mapped = other.map(lambda i: i.select("B10").add(1).copyProperties(i, ["system:index"]))
    assert means(image.linkCollection(mapped, "B10").select("B10"))["B10"] == pytest.approx(means(linked)["B10"] + 1)


def test_a_link_by_another_property() -> None:
    image = scene()
    linked = image.select("B4").linkCollection(ee.ImageCollection(L2A), ["SCL"], None, "PRODUCT_ID")
    assert means(linked)["SCL"] == means(image)["SCL"] is not None


def test_without_a_match_bands_are_masked_and_properties_null() -> None:
    radar = ee.ImageCollection(S1)
    for image in (scene(), scene().set("system:index", "nothing")):
        linked = image.select("B4").linkCollection(radar, ["VV", "angle"], ["instrumentMode", "MGRS_TILE"])
        assert linked.bandNames().getInfo() == ["B4", "VV", "angle"]
        assert linked.bandTypes().getInfo()["VV"]["precision"] == "double"
        found = means(linked)
        assert found["B4"] is not None
        assert (found["VV"], found["angle"]) == (None, None)
        assert linked.get("instrumentMode").getInfo() is None
        assert linked.get("MGRS_TILE").getInfo() is None, "what is there already is overwritten, too"
