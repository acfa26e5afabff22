"""How Earth Engine behaves where it matters: each fact that is no matter of pixels, as an expression.

The facts are those of the Earth Engine guides and its reference; the real client asks.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ee
import pytest
import requests
from ee_world import SEED, refusal, status_of

from mmearth_data.emulator.server.server import Emulator

pytestmark = pytest.mark.usefixtures("earth")

L2A, L1C, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S1_GRD"
ERA5, DYNAMIC_WORLD, WORLD_COVER = "ECMWF/ERA5_LAND/MONTHLY_AGGR", "GOOGLE/DYNAMICWORLD/V1", "ESA/WorldCover/v100"


def millis(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000


def place() -> Any:
    return ee.Geometry.Point([8.5, 47.3])


def scenes(asset: str, start: str = "2019-06-01", end: str = "2019-09-01") -> Any:
    return ee.ImageCollection(asset).filterBounds(place()).filterDate(start, end)


# ---------------------------------------------------------------- collections and values


def test_dates_are_utc_milliseconds_start_inclusive_end_exclusive() -> None:
    month = ee.ImageCollection(ERA5).filterDate("2019-06-01", "2019-07-01")
    assert month.aggregate_array("system:time_start").getInfo() == [millis("2019-06-01")]
    assert ee.ImageCollection(ERA5).filterDate("2019-06-02", "2019-07-01").size().getInfo() == 0
    assert ee.ImageCollection(ERA5).filterDate("2019-06-01", "2019-07-01T00:00:00.001").size().getInfo() == 2
    times = scenes(L2A).aggregate_array("system:time_start").getInfo()
    assert times
    assert all(millis("2019-06-01") <= ms < millis("2019-09-01") for ms in times)
    exact = ee.ImageCollection(L2A).filterBounds(place())
    assert exact.filterDate(times[0], times[0] + 1).size().getInfo() == 1
    assert exact.filterDate(times[0] - 1, times[0]).size().getInfo() == 0


def test_first_of_nothing_is_null_and_fails_the_whole_request_where_it_is_required(earth: str) -> None:
    nothing = scenes(L2A, "2013-01-01", "2014-01-01")
    assert nothing.size().getInfo() == 0
    assert nothing.first().getInfo() is None
    many = ee.List([0, 1]).map(lambda k: ee.Image(ee.Algorithms.If(k, scenes(L2A).first(), nothing.first())).date())
    assert status_of(earth, many) == 400
    assert "is required and may not be null" in refusal(many)


def test_a_reducer_over_nothing_gives_an_image_without_bands(earth: str) -> None:
    nothing = scenes(DYNAMIC_WORLD, "2013-01-01", "2014-01-01").select("label")
    for image in (nothing.mode(), nothing.median()):
        assert image.bandNames().getInfo() == []
        assert status_of(earth, image.select("label")) == 400
        assert "was applied to an Image with no bands" in refusal(image.select("label"))


def test_a_band_that_is_not_there_is_refused_with_those_that_are(earth: str) -> None:
    image = ee.Image(scenes(L1C).first())
    assert status_of(earth, image.select("B99")) == 400
    words = refusal(image.select("B99"))
    assert "'B99'" in words
    assert all(band in words for band in image.bandNames().getInfo())


def test_an_unknown_asset_is_refused_by_name(earth: str) -> None:
    for made in (ee.Image("no/such"), ee.ImageCollection("no/such"), ee.FeatureCollection("no/such")):
        assert status_of(earth, made) in {400, 404}
        assert "'no/such' not found" in refusal(made)


def test_bands_are_named_by_their_images() -> None:
    months = ee.ImageCollection(ERA5).filterDate("2019-06-01", "2019-08-01").select("temperature_2m")
    assert months.toBands().bandNames().getInfo() == ["201906_temperature_2m", "201907_temperature_2m"]
    one = ee.Image.constant(1).rename("a")
    assert ee.Image.cat([one, one]).bandNames().getInfo() == ["a", "a_1"]


def test_the_date_of_an_image_is_its_start() -> None:
    image = ee.Image(scenes(L2A).first())
    found = ee.List([image.date().millis(), image.get("system:time_start")]).getInfo()
    assert found[0] == found[1]


# ---------------------------------------------------------------- assets


def test_level_2a_has_no_b10_and_level_1c_has_no_classes() -> None:
    l2a, l1c = (ee.Image(scenes(asset).first()).bandNames().getInfo() for asset in (L2A, L1C))
    assert "B10" not in l2a
    assert {"SCL", "B8A", "QA60"} <= set(l2a)
    assert "B10" in l1c
    assert not {"SCL", "MSK_CLDPRB"} & set(l1c)
    kinds = ee.Image(scenes(L2A).first()).select(["SCL", "B2"]).bandTypes().getInfo()
    assert (kinds["SCL"]["max"], kinds["B2"]["max"]) == (255, 65535)


def test_some_scenes_lack_their_cloud_probability() -> None:
    bands = scenes(L2A, "2019-01-01", "2021-01-01").map(lambda i: i.set("n", i.bandNames())).aggregate_array("n")
    having = ["MSK_CLDPRB" in names for names in bands.getInfo()]
    assert any(having)
    assert not all(having)


def test_scenes_are_named_after_datatake_time_and_tile() -> None:
    image = ee.Image(scenes(L2A).first())
    index, tile, start = ee.List(
        [image.get("system:index"), image.get("MGRS_TILE"), image.date().format("YYYYMMdd")]
    ).getInfo()
    datatake, _, name = index.split("_")
    assert name == f"T{tile}"
    assert datatake.startswith(start)
    assert ee.Image(f"{L2A}/{index}").get("MGRS_TILE").getInfo() == tile


def test_near_a_zone_border_a_place_lies_in_scenes_of_both_zones() -> None:
    border = ee.Geometry.Point([12.0, 47.3]).buffer(500)
    found = ee.ImageCollection(L2A).filterBounds(border).filterDate("2019-06-01", "2019-09-01")
    zones = found.aggregate_array("MGRS_TILE").map(lambda tile: ee.String(tile).slice(0, 2)).distinct().sort()
    assert zones.getInfo() == ["32", "33"]
    codes = found.map(lambda i: i.set("crs", i.select("B2").projection().crs())).aggregate_array("crs").distinct()
    assert sorted(codes.getInfo()) == ["EPSG:32632", "EPSG:32633"]


def test_radar_bands_follow_the_polarisations() -> None:
    polar = ee.ImageCollection(S1).filterBounds(ee.Geometry.Point([-40, 72])).filterDate("2019-01-01", "2019-03-01")
    for collection, both in ((scenes(S1), ["VV", "VH"]), (polar, ["HH", "HV"])):
        described = collection.getInfo()["features"]
        assert described
        for image in described:
            names = [band["id"] for band in image["bands"]]
            assert names == [*image["properties"]["transmitterReceiverPolarisation"], "angle"]
            assert names[:-1] in (both, both[:1])
            assert image["properties"]["instrumentMode"] == "IW"
            assert image["properties"]["orbitProperties_pass"] in {"ASCENDING", "DESCENDING"}
    crossed = scenes(S1).filter(ee.Filter.listContains("transmitterReceiverPolarisation", "VH"))
    assert crossed.size().getInfo() <= scenes(S1).size().getInfo()


def test_the_other_assets_are_as_documented() -> None:
    months = ee.ImageCollection(ERA5).filterDate("2019-01-01", "2020-01-01")
    assert months.aggregate_array("system:index").getInfo() == [f"2019{m:02d}" for m in range(1, 13)]
    assert ee.Image(months.first()).select("temperature_2m").projection().getInfo()["transform"][0] == 0.1
    cover = ee.ImageCollection(WORLD_COVER)
    assert cover.size().getInfo() == 1
    assert ee.Image(cover.first()).bandNames().getInfo() == ["Map"]
    labels = scenes(DYNAMIC_WORLD, "2018-01-01", "2020-01-01")
    assert "label" in ee.Image(labels.first()).bandNames().getInfo()
    years = ee.ImageCollection(DYNAMIC_WORLD).filterBounds(place())
    assert years.filterDate("2013-01-01", "2015-06-01").size().getInfo() == 0


def test_ecoregions_are_a_table(earth: str) -> None:
    table = ee.FeatureCollection("RESOLVE/ECOREGIONS/2017")
    first = table.first().toDictionary().getInfo()
    assert set(first) >= {"ECO_NAME", "ECO_ID", "BIOME_NAME", "BIOME_NUM", "REALM"}
    here = table.filterBounds(place()).first().toDictionary().getInfo()
    assert 1 <= here["BIOME_NUM"] <= 14
    assert "Rock and Ice" in table.aggregate_array("ECO_NAME").getInfo()
    page = ee.data.computeFeatures({"expression": table.select(["ECO_NAME"], None, False), "pageSize": 10})
    assert len(page["features"]) == 10
    rest = ee.data.computeFeatures(
        {"expression": table.select(["ECO_NAME"], None, False), "pageSize": 10, "pageToken": page["nextPageToken"]}
    )
    assert rest["features"][0]["properties"] != page["features"][0]["properties"]
    listed = requests.get(
        f"{earth}/v1/projects/earthengine-public/assets/RESOLVE/ECOREGIONS/2017:listFeatures?pageSize=3", timeout=60
    ).json()
    assert [f["properties"]["ECO_NAME"] for f in listed["features"]] == [
        f["properties"]["ECO_NAME"] for f in page["features"][:3]
    ]


def test_an_image_is_described_as_the_service_described_one(test_data: Path) -> None:
    recorded = json.loads((test_data / "ee_exports" / "S2_L1C_image_getInfo_2017.json").read_text())
    found = ee.Image(scenes(L1C).first()).getInfo()
    assert set(found) >= set(recorded) - {"version"}
    bands = {band["id"]: band for band in found["bands"]}
    for band in recorded["bands"]:
        ours = bands[band["id"]]
        assert ours["data_type"] == band["data_type"]
        assert ours["dimensions"] == band["dimensions"]
        assert ours["crs_transform"][0] == band["crs_transform"][0]
        assert ours["crs_transform"][4] == band["crs_transform"][4]
        assert ours["crs"].startswith("EPSG:32")
    kinds = {name: type(value) for name, value in found["properties"].items()}
    for name, value in recorded["properties"].items():
        if name in kinds and not isinstance(value, (int, float)):
            assert kinds[name] is type(value), name
    shared = set(recorded["properties"]) & set(kinds)
    assert shared >= {"system:time_start", "system:index", "system:footprint", "CLOUDY_PIXEL_PERCENTAGE", "MGRS_TILE"}


# ---------------------------------------------------------------- the client


def test_signing_in_takes_discovery_and_signatures_and_a_deadline_takes_discovery_anew() -> None:
    from ee_world import sign_in

    with Emulator() as emulator:
        sign_in(emulator.url)
        first = emulator.ledger.report()["requests"]
        assert first["algorithms"] == 1
        assert 1 <= first["discovery"] <= 4
        ee.data.setDeadline(60_000)
        assert emulator.ledger.report()["requests"]["discovery"] > first["discovery"]
        ee.data.setDeadline(0)
    assert SEED == 7


def test_assets_are_listed_and_described(earth: str) -> None:
    names = [a["id"] for a in ee.data.listAssets("projects/earthengine-public/assets/")["assets"]]
    assert {L2A, S1, ERA5, "RESOLVE/ECOREGIONS/2017"} <= set(names)
    assert ee.data.getAsset(L2A)["type"] == "IMAGE_COLLECTION"
    unknown = requests.get(f"{earth}/v1/projects/earthengine-public/assets/NO/SUCH", timeout=60)
    assert unknown.status_code == 404


def test_an_image_takes_properties_of_another() -> None:
    source = ee.Image(scenes(L2A).first())
    plain = ee.Image(ee.Image.constant(1).copyProperties(source))
    assert plain.get("MGRS_TILE").getInfo() == source.get("MGRS_TILE").getInfo()
    assert plain.get("system:time_start").getInfo() is None  # those of the system come only when named
    timed = ee.Image(ee.Image.constant(1).copyProperties(source, ["system:time_start"]))
    assert timed.date().millis().getInfo() == source.date().millis().getInfo()
