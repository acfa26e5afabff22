"""The emulator's assets against the planet that they show, and against a recorded description of a real image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from emulator_pixels import call, request_context

from mmearth_data.catalog.tile import TileGrid, utm_epsg
from mmearth_data.emulator.algorithms.image import Grid, Image, Pixels, PixelType, Projection
from mmearth_data.emulator.assets import scene_search
from mmearth_data.emulator.assets.archive import CLOUD_CLASSES
from mmearth_data.emulator.assets.directory import MAKERS, Source, describe_asset, find, list_assets
from mmearth_data.emulator.graph.registry import encode
from mmearth_data.planet.grids import Window
from mmearth_data.planet.orbits import SENTINEL1
from mmearth_data.planet.planet import DEM, DYNAMIC_WORLD, ERA5, L1C, L2A, S1, WORLD_COVER
from mmearth_data.planet.scenes import Box, optical_scenes, radar_scenes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PLACES = [(10.2, 47.3), (-61.0, -33.4), (25.0, 64.9), (12.0, 45.9), (179.9995, -17.0)]
"""Alps, pampas, the north, a zone's edge, the date line."""
YEAR = "2019-01-01", "2020-01-01"


def ms(day: str) -> int:
    """UTC milliseconds of a day."""
    return int(np.datetime64(day, "ms").astype(np.int64))


PERIOD = ms(YEAR[0]), ms(YEAR[1])


def tile_at(lon: float, lat: float) -> tuple[TileGrid, Box, shapely.Polygon]:
    """Tile of 64 pixels, its box, and its outline in degrees."""
    tile = TileGrid.around(lon, lat, utm_epsg(lon, lat), 64)
    box = Box(tile.epsg, *tile.bounds)
    x, y = box.lonlat
    return tile, box, shapely.Polygon(list(zip(x[0] + (x - x[0] + 180) % 360 - 180, y, strict=True)))


def source(asset: str) -> Source:
    """Collection of the emulator."""
    found = find(asset, request_context())
    assert isinstance(found, Source)
    return found


def first_over(asset: str, lon: float, lat: float) -> Image:
    """First image of the year at a location."""
    return next(iter(source(asset).query(shapely.Point(lon, lat), *PERIOD)))


def indices(images: Sequence[Image]) -> list[str]:
    """``system:index`` of images."""
    return [image.properties["system:index"] for image in images]


# ---------------------------------------------------------------- the recorded description


def skeleton(value: Any) -> Any:
    """Structure of a JSON value: keys, and the types of what they hold."""
    if isinstance(value, dict):
        return {key: skeleton(item) for key, item in value.items()}
    if isinstance(value, list):
        return [skeleton(item) for item in value[:1]]
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def test_an_image_is_described_as_the_real_one_was(test_data: Path) -> None:
    recorded = json.loads((test_data / "ee_exports" / "S2_L1C_image_getInfo_2017.json").read_text(encoding="utf-8"))
    own = json.loads(json.dumps(encode(first_over(L1C, 10.2, 47.3))))
    for band in recorded["bands"]:
        band.pop("properties", None)  # system:nodata_value: of the collection as it was before harmonisation
    assert skeleton(own) == skeleton(recorded) | {"properties": skeleton(own["properties"])}
    own["bands"] = [band for band in own["bands"] if band["id"] not in CLOUD_CLASSES]  # recorded before these existed
    assert [band["id"] for band in own["bands"]] == [band["id"] for band in recorded["bands"]]
    for ours, theirs in zip(own["bands"], recorded["bands"], strict=True):
        assert ours["data_type"] == theirs["data_type"]
        assert ours["dimensions"] == theirs["dimensions"]
        assert [ours["crs_transform"][k] for k in (0, 1, 3, 4)] == [theirs["crs_transform"][k] for k in (0, 1, 3, 4)]
    assert skeleton(own["properties"]) == skeleton(recorded["properties"])
    assert len(own["properties"]["system:index"]) == len(recorded["properties"]["system:index"])
    assert own["id"] == f"{L1C}/{own['properties']['system:index']}"


# ---------------------------------------------------------------- bands, types, scales


def test_bands_of_sentinel2_levels() -> None:
    l2a = list(source(L2A).query(shapely.Point(10.2, 47.3), *PERIOD))
    names = {tuple(image.names) for image in l2a}
    assert all("B10" not in bands and "SCL" in bands for bands in names)
    assert {"MSK_CLDPRB" in bands for bands in names} == {True, False}
    l1c = first_over(L1C, 10.2, 47.3)
    assert "B10" in l1c.names
    assert not {"SCL", "MSK_CLDPRB"} & set(l1c.names)
    scl = l2a[0].find("SCL", "test")
    assert scl.type == PixelType("int", 0, 255)
    assert {name: l1c.find(name, "test").projection.transform[0] for name in ("B2", "B5", "B9")} == {
        "B2": 10,
        "B5": 20,
        "B9": 60,
    }


def middle_of(image: Image, band: str) -> Pixels:
    """Some pixels from the middle of a granule's band."""
    found = image.find(band, "test")
    assert found.size is not None
    return found.evaluate(Grid(found.projection, found.size[0] // 2, found.size[1] // 2, 4, 4))


def l2a_of(start: str, end: str) -> list[Image]:
    return list(source(L2A).query(shapely.Point(10.2, 47.3), ms(start), ms(end)))


def test_the_cloud_band_is_masked_from_2022_to_2024() -> None:
    for start, end, filled in (
        ("2022-01-05", "2022-01-25", True),
        ("2022-02-01", "2022-03-01", False),
        ("2024-02-01", "2024-02-28", False),
        ("2024-03-01", "2024-04-01", True),
    ):
        images = l2a_of(start, end)
        assert all("QA60" in image.names for image in images)
        seen = [image for image in images if middle_of(image, "B2").valid.all()]
        assert seen, "some passes see the middle of the granule"
        assert {bool(middle_of(image, "QA60").valid.all()) for image in seen} == {filled}, start
        assert filled or not any(middle_of(image, "QA60").valid.any() for image in images)


def test_cloud_classes_are_masked_out_before_march_2024_or_missing() -> None:
    old, new = l2a_of("2021-01-01", "2022-01-01"), l2a_of("2024-03-01", "2024-06-01")
    lacking = [image for image in old if not set(CLOUD_CLASSES) & set(image.names)]
    having = [image for image in old if set(CLOUD_CLASSES) <= set(image.names)]
    assert lacking
    assert len(lacking) + len(having) == len(old)
    assert not any(middle_of(image, band).valid.any() for image in having[:5] for band in CLOUD_CLASSES)
    assert all(set(CLOUD_CLASSES) <= set(image.names) for image in new)
    seen = set()
    for image in new:
        flags, valid = middle_of(image, "QA60")
        for band, bit in (("MSK_CLASSI_OPAQUE", 1 << 10), ("MSK_CLASSI_CIRRUS", 1 << 11)):
            np.testing.assert_array_equal(middle_of(image, band).values, (flags == bit) & valid)
        seen |= set(np.unique(flags).tolist())
    assert {0, 1 << 10} <= seen


def test_images_have_23_bands_or_21_beside_the_cloud_classes() -> None:
    """Like reported collections of 2020 whose images could not be reduced together (geedim, issue 16)."""
    counts = {len(set(image.names) - set(CLOUD_CLASSES)) for image in l2a_of("2020-01-01", "2021-01-01")}
    assert counts == {23, 21}


def test_bands_of_sentinel1_follow_the_polarisation() -> None:
    images = list(source(S1).query(shapely.box(8, 45, 12, 49), ms("2019-01-01"), ms("2019-02-01")))
    assert all(image.names == [*image.properties["transmitterReceiverPolarisation"], "angle"] for image in images)
    assert {image.properties["orbitProperties_pass"] for image in images} == {"ASCENDING", "DESCENDING"}
    assert {image.properties["instrumentMode"] for image in images} == {"IW"}
    polar = list(source(S1).query(shapely.Point(-40, 72), *PERIOD))
    assert {tuple(image.names) for image in polar} <= {("HH", "HV", "angle"), ("HH", "angle")}


def test_weather_is_one_image_a_month_masked_over_sea() -> None:
    months = list(source(ERA5).query(shapely.Point(0, 0), *PERIOD))
    assert indices(months) == [f"2019{month:02d}" for month in range(1, 13)]
    band = months[0].bands[0]
    assert band.projection == Projection("EPSG:4326", (0.1, 0.0, -180.05, 0.0, -0.1, 90.05))
    atlantic, alps = (Grid(band.projection, *at, 1, 1) for at in ((1500, 450), (1902, 427)))
    assert not band.evaluate(atlantic).valid.any()
    assert 240 < band.evaluate(alps).values[0, 0] < 300


def test_static_assets_cover_the_globe() -> None:
    (land_cover,) = source(WORLD_COVER).query(None, None, None)
    assert (land_cover.names, land_cover.properties["system:index"]) == (["Map"], "2020")
    dem = find(DEM, request_context())
    assert isinstance(dem, Image)
    assert dem.names == ["b1"]
    assert dem.bands[0].type == PixelType("int", -32768, 32767)
    assert dem.bands[0].projection.nominal_scale == pytest.approx(30.92, abs=0.01)


# ---------------------------------------------------------------- the same scenes and pixels as the planet's own


@pytest.mark.parametrize(("lon", "lat"), PLACES)
def test_the_scenes_of_a_place_are_the_planets(lon: float, lat: float) -> None:
    world = request_context().planet.views.world
    _, box, outline = tile_at(lon, lat)
    found = scene_search.optical(world, outline, PERIOD)
    expected = optical_scenes(world, box, *PERIOD, whole=False)
    assert [scene.index for scene in found] == [scene.index for scene in expected]
    radar = {scene.index for scene in scene_search.radar(world, outline, PERIOD)}
    assert radar == {s.index for way in SENTINEL1 for s in radar_scenes(world, way, box, *PERIOD, whole=False)}


def test_scenes_of_a_large_shape_are_those_of_its_parts() -> None:
    world = request_context().planet.views.world
    large, period = shapely.box(9.0, 46.0, 12.0, 48.0), (ms("2019-05-01"), ms("2019-05-11"))
    found = {scene.index for scene in scene_search.optical(world, large, period)}
    parts = [shapely.box(x, y, x + 0.25, y + 0.25) for x in np.arange(9, 12, 0.25) for y in np.arange(46, 48, 0.25)]
    assert found == {scene.index for part in parts for scene in scene_search.optical(world, part, period)}


@pytest.mark.parametrize("asset", [L2A, L1C, S1, DYNAMIC_WORLD, ERA5, "LANDSAT/LC08/C02/T1_L2", "COPERNICUS/DEM/GLO30"])
def test_an_image_is_found_by_its_index(asset: str) -> None:
    images = list(source(asset).query(shapely.Point(10.2, 47.3), *PERIOD))
    assert images
    for image in images[:: max(1, len(images) // 8)]:
        again = find(str(image.id), request_context())
        assert isinstance(again, Image)
        assert dict(again.properties) == dict(image.properties)
        assert again.names == image.names
        (searched,) = source(asset).query(None, None, None, {"system:index": image.properties["system:index"]})
        assert searched.id == image.id


@pytest.mark.parametrize(
    "index",
    [
        "nothing",
        "20190101T000001_20190101T000002_T32TNT",
        "20190101T102722_x_T32TNT",
        "20190101T102722_20190101T103101_T99ZZZ",
    ],
)
def test_an_index_that_is_not_there(index: str) -> None:
    for asset in (L2A, S1, DYNAMIC_WORLD, ERA5, WORLD_COVER, "LANDSAT/LC08/C02/T1_L2", "COPERNICUS/DEM/GLO30"):
        assert find(f"{asset}/{index}", request_context()) is None
    assert find("NO/SUCH/ASSET", request_context()) is None


@pytest.mark.parametrize("asset", [L2A, L1C, S1, DYNAMIC_WORLD, ERA5, DEM, WORLD_COVER])
def test_native_pixels_are_the_planets(asset: str) -> None:
    """On its own lattice every band of an asset is the planet's, bit for bit."""
    planet = request_context().planet
    product = planet.products[asset]
    lon, lat = 10.23173, 47.34137  # on no edge between pixels
    found = find(asset, request_context())
    image = found if isinstance(found, Image) else first_over_any(asset, lon, lat)
    _, box, _ = tile_at(lon, lat)
    index = image.properties["system:index"]
    own = next(i for i in product.images(box, ms("1950-01-01"), ms("2026-01-01")) if asset == DEM or i.index == index)
    for name in own.bands:
        band = image.find(name, "test")
        native = product.grid(own, name)
        x, y = _place(band.projection, lon, lat)
        column, row = (int(np.floor(v)) for v in band.projection.to_pixels(np.array(x), np.array(y)))
        window = Window(int(np.floor(native.column(x))), int(np.floor(native.row(y))), 5, 7)
        layer = product.read(own, name, window)
        pixels = band.evaluate(Grid(band.projection, column, row, 5, 7))
        valid = np.ones(window.shape, bool) if layer.valid is None else layer.valid
        np.testing.assert_array_equal(pixels.valid, valid)
        np.testing.assert_array_equal(pixels.values[valid], layer.values[valid].astype(np.float64))


def first_over_any(asset: str, lon: float, lat: float) -> Image:
    """First image at a location, at any time."""
    return next(iter(source(asset).query(shapely.Point(lon, lat), None, None)))


def _place(projection: Projection, lon: float, lat: float) -> tuple[float, float]:
    from mmearth_data.catalog.tile import WGS84, transformer

    if projection.crs == "EPSG:4326":
        return lon, lat
    x, y = transformer(WGS84, int(projection.crs[5:])).transform(lon, lat)
    return float(x), float(y)


def test_nothing_lies_beyond_the_edge_of_a_granule() -> None:
    image = first_over(L1C, 10.2, 47.3)
    band = image.find("B2", "test")
    corner = band.evaluate(Grid(band.projection, -2, -2, 4, 4))
    assert not corner.valid[:2].any()
    assert not corner.valid[:, :2].any()
    beyond = call("Image.unmask", input=image, value=7)
    assert not beyond.find("B2", "test").evaluate(Grid(band.projection, -40_000, 0, 2, 2)).valid.any()
    filled = call("Image.unmask", input=image, value=7, sameFootprint=False)
    assert filled.find("B2", "test").evaluate(Grid(band.projection, -40_000, 0, 2, 2)).values.tolist() == [[7, 7]] * 2


def test_derived_bands_follow_from_the_others() -> None:
    image = first_over(L2A, 10.2, 47.3)
    window = Grid(image.find("B4", "test").projection, 5000, 5000, 8, 8)
    red, colour = (image.find(name, "test").evaluate(window).values for name in ("B4", "TCI_R"))
    assert ((red >= 3558) == (colour == 255)).all()  # reflectance 0.3558 is white, as in the product's true colours
    darker = red < 3558
    assert (np.abs(colour[darker] - red[darker] * 255 / 3558) <= 1).all()
    labels = first_over(DYNAMIC_WORLD, 10.2, 47.3)
    window = Grid(labels.bands[0].projection, 5000, 5000, 8, 8)
    chances = np.stack([band.evaluate(window).values for band in labels.bands[:9]])
    label = labels.find("label", "test").evaluate(window)
    assert (chances.argmax(axis=0)[label.valid] == label.values[label.valid]).all()
    assert chances.sum(axis=0)[label.valid] == pytest.approx(1)


def test_elevation_tiles_meet_and_agree_with_the_dem() -> None:
    tiles = list(source("COPERNICUS/DEM/GLO30").query(shapely.box(9.9, 46.9, 10.1, 47.1), None, None))
    assert indices(tiles) == [
        f"Copernicus_DSM_COG_10_N{lat}_00_E{lon}_00_DEM" for lat in (46, 47) for lon in ("009", "010")
    ]
    mosaic = call("ImageCollection.mosaic", collection=tiles)
    dem = find(DEM, request_context())
    assert isinstance(dem, Image)
    window = Grid(dem.bands[0].projection, 190 * 3600 - 4, 43 * 3600 - 4, 8, 8)
    ours = mosaic.bands[0].evaluate(window)
    assert ours.valid.all()
    assert np.abs(ours.values - dem.bands[0].evaluate(window).values).max() <= 0.5
    assert not list(source("COPERNICUS/DEM/GLO30").query(shapely.Point(-30.5, 40.5), None, None))


def test_landsat_is_scaled_reflectance() -> None:
    image = first_over("LANDSAT/LC08/C02/T1_L2", 10.2, 47.3)
    assert image.names[:7] == [f"SR_B{k}" for k in range(1, 8)]
    x, y = _place(image.bands[3].projection, 10.2, 47.3)
    column, row = (int(v) for v in image.bands[3].projection.to_pixels(np.array(x), np.array(y)))
    found = image.bands[3].evaluate(Grid(image.bands[3].projection, column, row, 8, 8))
    assert found.valid.all()
    reflectance = found.values * 2.75e-5 - 0.2
    assert ((reflectance > 0) & (reflectance < 2.1)).all()
    assert image.properties["WRS_ROW"] in range(20, 35)
    south = first_over("LANDSAT/LC08/C02/T1_L2", -61.0, -33.4)
    assert south.bands[0].projection.crs.startswith("EPSG:326")  # Landsat counts from the equator everywhere


def test_surface_water_is_masked_where_there_never_was_any() -> None:
    water = find("JRC/GSW1_4/GlobalSurfaceWater", request_context())
    assert isinstance(water, Image)
    band = water.find("occurrence", "test")
    sea = band.evaluate(Grid(band.projection, 150 * 4000, 40 * 4000, 3, 3))  # 30 W 40 N: the map begins at 80 N
    assert (sea.values == 100).all()
    alps = band.evaluate(Grid(band.projection, int(190.2 * 4000), int(32.7 * 4000), 40, 40))
    assert not alps.valid.all()


# ---------------------------------------------------------------- the directory


def test_every_asset_is_listed_and_described() -> None:
    listed = {entry["id"]: entry for entry in list_assets()}
    assert set(listed) == {*MAKERS, "RESOLVE/ECOREGIONS/2017"}
    for asset, entry in listed.items():
        described = describe_asset(asset, request_context())
        assert described is not None
        assert described["type"] == entry["type"]
        assert described["name"].startswith(("projects/", "users/"))
    assert describe_asset("NO/SUCH", request_context()) is None
    dem = describe_asset(f"projects/earthengine-public/assets/{L1C}", request_context())
    assert dem is not None
    assert dem["type"] == "IMAGE_COLLECTION"


def test_a_search_without_a_place_is_refused_and_one_of_all_continents_runs_out_of_time() -> None:
    from mmearth_data.emulator.errors import EmulatorError

    for asset in (S1, L1C):
        with pytest.raises(EmulatorError, match="add filterBounds"):
            next(iter(source(asset).query(None, *PERIOD)))
        assert list(source(asset).query(None, ms("1990-01-01"), ms("2014-01-01"))) == []
    with pytest.raises(EmulatorError, match="timed out"):
        list(source(L1C).query(shapely.box(-170, -80, 170, 80), *PERIOD))


# ---------------------------------------------------------------- what holds on Earth


def test_a_place_near_the_border_of_a_zone_is_in_scenes_of_both() -> None:
    images = list(source(L1C).query(shapely.Point(12.0, 45.9), ms("2019-05-01"), ms("2019-06-01")))
    assert {image.projection.crs for image in images} == {"EPSG:32632", "EPSG:32633"}


def test_land_cover_follows_scenes_with_few_clouds_since_2015() -> None:
    place = shapely.Point(10.2, 47.3)
    labels = list(source(DYNAMIC_WORLD).query(place, *PERIOD))
    scenes = {i.properties["system:index"]: i for i in source(L1C).query(place, *PERIOD)}
    assert set(indices(labels)) < set(scenes)
    assert all(scenes[index].properties["CLOUDY_PIXEL_PERCENTAGE"] < 35 for index in indices(labels))
    assert not list(source(DYNAMIC_WORLD).query(place, None, ms("2015-06-27")))
    label = labels[0].find("label", "test")
    found = label.evaluate(Grid(label.projection, 4000, 4000, 64, 64))
    assert set(np.unique(found.values[found.valid])) <= set(range(9))


def test_level_2a_begins_later_than_level_1c() -> None:
    for lon, lat in ((10.2, 47.3), (-61.0, -33.4)):
        place = shapely.Point(lon, lat)
        first = {asset: next(iter(source(asset).query(place, None, None))).properties for asset in (L1C, L2A)}
        assert first[L1C]["system:time_start"] < ms("2016-01-01") < first[L2A]["system:time_start"]
        assert first[L1C]["PRODUCT_ID"].startswith("S2A_MSIL1C_")
        assert first[L2A]["PRODUCT_ID"].startswith(("S2A_MSIL2A_", "S2B_MSIL2A_"))
