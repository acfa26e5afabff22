"""Metadata of derived images: properties, id, footprint, dimensions, origin and transform.

Expected values come from Earth Engine's reference, from public printouts of the service's answers, and from what geedim
reads from images that it has prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ee
import pytest
from ee_world import SEED

from mmearth_data.emulator.graph import library
from mmearth_data.emulator.graph.kept import KEPT
from mmearth_data.emulator.graph.registry import FUNCTIONS
from mmearth_data.emulator.graph.signatures import signatures

assert library.implementation("Image.load")
assert SEED == 7

Change = Callable[[Any], Any]

L2A, WORLD_COVER = "COPERNICUS/S2_SR_HARMONIZED", "ESA/WorldCover/v100"
TIME = "system:time_start"


@pytest.fixture(scope="module")
def scene(earth_module: str) -> Any:
    """A scene over Zurich, named by its id."""
    found = ee.ImageCollection(L2A).filterBounds(ee.Geometry.Point([8.5, 47.3])).filterDate("2019-07", "2019-08")
    return ee.Image(found.first().getInfo()["id"])


@pytest.fixture(scope="module")
def earth_module(emulator_url: str) -> str:
    from ee_world import sign_in

    sign_in(emulator_url)
    return emulator_url


KEEPING: dict[str, Change] = {
    "select": lambda i: i.select(["B4"]),
    "rename": lambda i: i.select(["B4"]).rename(["red"]),
    "addBands": lambda i: i.addBands(ee.Image(1)),
    "cat": lambda i: ee.Image.cat([i, ee.Image(1)]),
    "updateMask": lambda i: i.updateMask(ee.Image(1)),
    "mask": lambda i: i.mask(),
    "selfMask": lambda i: i.selfMask(),
    "unmask": lambda i: i.unmask(0),
    "where": lambda i: i.where(ee.Image(1), 5),
    "clip": lambda i: i.clip(ee.Geometry.Point([8.5, 47.3]).buffer(500)),
    "cast": lambda i: i.toFloat(),
    "resample": lambda i: i.resample("bilinear"),
    "reproject": lambda i: i.select(["B4"]).reproject("EPSG:3857", None, 30),
    "set": lambda i: i.set("mine", 1),
}
LOSING: dict[str, Change] = {
    "normalizedDifference": lambda i: i.normalizedDifference(["B8", "B4"]),
    "add": lambda i: i.add(1),
    "divide": lambda i: i.divide(10_000),
    "lte": lambda i: i.select(["B4"]).lte(40),
    "log": lambda i: i.log10(),
    "clamp": lambda i: i.clamp(0, 1000),
    "expression": lambda i: i.expression("b('B8') - b('B4')"),
    "expression of a band": lambda i: i.expression("b('B8')"),
    "reduce": lambda i: i.select(["B4", "B8"]).reduce(ee.Reducer.mean()),
}


def test_properties_and_id_stay_where_bands_are_picked_masked_cut_and_cast(scene: Any) -> None:
    own = scene.getInfo()
    changed = dict(zip(KEEPING, ee.List([change(scene) for change in KEEPING.values()]).getInfo(), strict=True))
    for name, found in changed.items():
        assert found["properties"][TIME] == own["properties"][TIME], name
        assert found["properties"]["MGRS_TILE"] == own["properties"]["MGRS_TILE"], name
        assert (found["id"], found["version"]) == (own["id"], own["version"]), name
    assert changed["set"]["properties"]["mine"] == 1


def test_properties_and_id_are_lost_where_values_are_new(scene: Any) -> None:
    for name, found in zip(LOSING, ee.List([change(scene) for change in LOSING.values()]).getInfo(), strict=True):
        assert set(found) == {"type", "bands"}, name
        assert found["bands"][0]["crs"].startswith("EPSG:32"), name


def test_copied_properties_come_back(scene: Any) -> None:
    scaled = scene.select(["B4"]).divide(10_000)
    timed = scaled.copyProperties(scene, [TIME]).getInfo()
    assert set(timed["properties"]) == {TIME}
    whole = scaled.copyProperties(scene, scene.propertyNames()).getInfo()
    own = scene.getInfo()
    assert whole["properties"] == own["properties"]
    assert "id" not in whole
    mapped = ee.ImageCollection([scene]).map(lambda i: i.select(["B4"]).divide(10_000)).first().getInfo()
    assert set(mapped["properties"]) == {"system:index"}  # a collection gives every element an index


def test_a_clipped_map_is_described_as_the_service_described_one() -> None:
    """Printed by the service: dimensions 10483 x 10747 from (2609020, 1002834), id, version, the clip's footprint.

    The service's map starts at 84 degrees north, the planet's at 90.
    """
    corners = [37.418438390871614, -0.46499883273351506, 38.291851476809114, 0.4303777575597561]
    first = ee.ImageCollection(WORLD_COVER).first()
    clipped = first.clip(ee.Geometry.Rectangle(corners))
    whole, found, compared = ee.List([first, clipped, clipped.lte(40)]).getInfo()
    (band,) = found["bands"]
    north = round(band["crs_transform"][5])
    assert (band["dimensions"], band["origin"]) == ([10_483, 10_747], [2_609_020, 1_002_834 + (north - 84) * 12_000])
    assert band["crs"] == "EPSG:4326"
    assert band["crs_transform"] == pytest.approx([1 / 12_000, 0, -180, 0, -1 / 12_000, north])
    assert (found["id"], found["version"]) == (whole["id"], whole["version"])
    outline = found["properties"]["system:footprint"]
    assert outline["type"] == "Polygon"
    (ring,) = outline["coordinates"]
    assert {round(x, 9) for x, _ in ring} == {round(corners[0], 9), round(corners[2], 9)}
    assert {round(y, 9) for _, y in ring} == {round(corners[1], 9), round(corners[3], 9)}
    (test,) = compared["bands"]
    assert set(compared) == {"type", "bands"}
    assert test == {**band, "data_type": {"type": "PixelType", "precision": "int", "min": 0, "max": 1}}


def test_constants_have_no_dimensions_and_one_degree_pixels() -> None:
    (band,) = ee.Image(1).getInfo()["bands"]
    assert "dimensions" not in band
    assert (band["crs"], band["crs_transform"]) == ("EPSG:4326", [1, 0, 0, 0, 1, 0])


def test_a_lattice_outlives_arithmetic_and_casts(scene: Any) -> None:
    red = scene.select("B4")
    changes = [red.toFloat(), red.add(1), ee.Image(1).add(red), red.add(scene.select("B8")), red.resample("bicubic")]
    (own,), *found = ([band["dimensions"] for band in i["bands"]] for i in ee.List([red, *changes]).getInfo())
    assert own == [10_980, 10_980]
    assert found == [[own]] * len(changes)
    one, other = (red.clip(ee.Geometry.Point([8.5, 47.3]).buffer(r)) for r in (300, 3000))
    small, both = (i["bands"][0] for i in ee.List([one, one.add(other)]).getInfo())
    assert (both["dimensions"], both["origin"]) == (small["dimensions"], small["origin"])


def test_a_mask_that_may_leave_the_footprint_has_no_edge(scene: Any) -> None:
    bands = ee.List([scene.unmask(0), scene.unmask(0, False)]).getInfo()
    assert bands[0]["bands"][1]["dimensions"] == [10_980, 10_980]
    assert "dimensions" not in bands[1]["bands"][1]


def test_an_image_prepared_on_a_grid_has_that_grid(scene: Any) -> None:
    """Geedim reads shape, transform and bounds from the result of the client's prepare_for_export."""
    transform = [60.0, 0, 460_020, 0, -60.0, 5_250_000]
    request = {"crs": "EPSG:32632", "crs_transform": transform, "dimensions": [40, 30]}
    prepared, rest = scene.select(["B4", "B8"]).prepare_for_export(request)
    assert rest == {}
    found = prepared.getInfo()
    for band in found["bands"]:
        column, row = band.get("origin", [0, 0])
        a, _, c, _, e, f = band["crs_transform"]
        assert [a, 0, c + a * column, 0, e, f + e * row] == transform
        assert band["dimensions"] == [40, 30]
        assert band["crs"] == "EPSG:32632"
    bounds = ee.Geometry(found["properties"]["system:footprint"]).bounds(1, "EPSG:32632").coordinates().getInfo()
    assert [round(v) for v in bounds[0][0]] == pytest.approx([460_020, 5_248_200], abs=2)


def test_an_image_prepared_at_its_own_scale_keeps_its_pixels(scene: Any) -> None:
    region = ee.Geometry.Point([8.5, 47.3]).buffer(500)
    own, cut, coarse = ee.List(
        [
            scene.select("B4"),
            scene.select("B4").prepare_for_export({"region": region, "scale": 10})[0],
            scene.select("B4").prepare_for_export({"region": region, "crs": "EPSG:3857", "scale": 60})[0],
        ]
    ).getInfo()
    (band,) = cut["bands"]
    assert band["crs_transform"] == own["bands"][0]["crs_transform"]
    assert all(isinstance(pixel, int) for pixel in band["origin"])
    assert 100 <= band["dimensions"][0] <= 102
    (band,) = coarse["bands"]
    assert band["crs"] == "EPSG:3857"
    assert band["crs_transform"][0] == pytest.approx(60)
    assert cut["properties"]["system:footprint"] != own["properties"]["system:footprint"]


def test_a_scaled_projection_keeps_the_direction_of_its_rows() -> None:
    """The reference's examples of getPixels and computePixels negate the scale themselves."""
    x, _, _, _, y, _ = ee.Projection("EPSG:4326").atScale(10).getInfo()["transform"]
    assert x == y == pytest.approx(10 / 111_319.49079327358)


def test_a_download_has_the_northern_row_first_whatever_the_lattice() -> None:
    degree = ee.Projection("EPSG:4326")
    rows = ee.Image.pixelLonLat().select("latitude").reproject(degree.atScale(10_000))
    cut = rows.clipToBoundsAndScale(ee.Geometry.Rectangle([8, 47, 8.5, 47.5], None, False))
    found = ee.data.computePixels({"expression": cut, "fileFormat": "NUMPY_NDARRAY"})["latitude"]
    assert found[0, 0] > found[-1, 0] + 0.3


def test_the_table_of_what_is_kept_is_complete_and_names_its_sources() -> None:
    made = {
        name
        for name in FUNCTIONS
        if signatures()[name].returns.startswith("Image<")
        and any(argument.kind.startswith("Image<") for argument in signatures()[name].arguments)
    }
    assert made <= set(KEPT)
    for name, kept in KEPT.items():
        assert kept.of in {argument.name for argument in signatures()[name].arguments}, name
        assert any(word in kept.source for word in ("reference", "seen", "(memory)")), name
