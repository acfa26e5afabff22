"""The raster source on made worlds: warping, no-data, codes, dates, sites."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasters_world import (
    CATALOG,
    EPSG,
    SIZE,
    ULX,
    ULY,
    World,
    pixel_lonlat,
    small_world,
    some_place,
    tile_mesh,
    write_tif,
)

from mmearth_data import make_recipe
from mmearth_data.building.covering import cells_of
from mmearth_data.catalog.tile import NO_TIME, Place, round_lonlat, tile_ids
from mmearth_data.errors import InputError
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.rasters.pixels import read_bands

MODALITIES = tuple(CATALOG.modalities.values())
CENTRE = (ULX + 320, ULY - 320)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)


def bands_of(world: World, modality: str) -> tuple[Survey, dict[str, np.ndarray]]:
    """Site a's first tile and the numbers of one modality before rounding."""
    source, surveys = world.surveys()
    (file,) = [file for file in source.sites[0].files if file.modality.name == modality]
    return surveys[0], read_bands(file, surveys[0].grid)


def raw(world: World, path: str) -> np.ndarray:
    with rasterio.open(world.root / path) as dataset:
        values: np.ndarray = dataset.read()
        return values


# Grids


def around(epsg: int, pixel: float, count: int) -> tuple[rasterio.Affine, np.ndarray, np.ndarray]:
    """Transform and pixel centres (x, y) of a grid in another CRS around site a's tile."""
    x, y = pixel_lonlat(EPSG, np.array(CENTRE[0]), np.array(CENTRE[1]), epsg)
    transform = rasterio.Affine(pixel, 0, float(x) - pixel * count / 2, 0, -pixel, float(y) + pixel * count / 2)
    steps = np.arange(count) + 0.5
    return transform, *np.meshgrid(transform.c + pixel * steps, transform.f - pixel * steps)


def plane(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A plane in the tile's CRS that rises 0.3 m/m to the east and 0.2 m/m to the south."""
    return 400 + 0.3 * (x - CENTRE[0]) - 0.2 * (y - CENTRE[1])


TILT_DEG = float(np.degrees(np.arctan(np.hypot(0.3, 0.2))))


@pytest.mark.parametrize(
    ("epsg", "pixel", "count"),
    [
        (4326, 1 / 3600, 60),
        (32633, 10.0, 110),
        (EPSG, 20.0, 60),
        (EPSG, 2.5, 400),
        (3035, 25.0, 60),
        (2154, 17.3, 90),
        (3035, 4.0, 250),
        (3857, 30.0, 90),
    ],
    ids=["arc second", "next UTM zone", "20 m", "2.5 m", "LAEA 25 m", "Lambert 17 m", "LAEA 4 m", "Web Mercator 30 m"],
)
def test_elevation_on_any_grid_comes_back_as_the_surface_that_it_is(
    world: World, epsg: int, pixel: float, count: int
) -> None:
    transform, x, y = around(epsg, pixel, count)
    heights = plane(*pixel_lonlat(epsg, x, y, EPSG))[None]
    write_tif(world.root / "dem" / "a.tif", heights, crs=f"EPSG:{epsg}", transform=transform)
    survey, bands = bands_of(world, "aster")
    np.testing.assert_allclose(bands["elevation"], plane(*tile_mesh(survey)), atol=2e-3)
    # The plane is one of UTM, whose metres are true to 0.1 %.
    np.testing.assert_allclose(bands["slope"], TILT_DEG, atol=0.01 if epsg == EPSG else 0.05)


def test_a_turned_grid_is_no_obstacle_but_for_the_base(world: World) -> None:
    turned = (
        rasterio.Affine.translation(*CENTRE) @ rasterio.Affine.rotation(25) @ rasterio.Affine(20, 0, -900, 0, -20, 900)
    )
    cols, rows = np.meshgrid(np.arange(90) + 0.5, np.arange(90) + 0.5)
    heights = plane(turned.a * cols + turned.b * rows + turned.c, turned.d * cols + turned.e * rows + turned.f)
    write_tif(world.root / "dem" / "a.tif", heights[None], transform=turned)
    survey, bands = bands_of(world, "aster")
    np.testing.assert_allclose(bands["elevation"], plane(*tile_mesh(survey)), atol=2e-3)
    np.testing.assert_allclose(bands["slope"], TILT_DEG, atol=0.01)


def base_in(world: World, epsg: int, west: float, north: float) -> Path:
    """Write the base of site a in another CRS, and map no other file."""
    values = np.ones((3, SIZE, SIZE), "int16")
    transform = rasterio.Affine(10, 0, west, 0, -10, north)
    path = write_tif(world.root / "s2" / "a.tif", values, crs=f"EPSG:{epsg}", transform=transform)
    layer = {**world.layer("sentinel2"), "date": {"constant": "2021-07-20"}}
    world.mapping = {"root": ".", "base": "sentinel2", "layers": [layer], "sites": ["a"]}
    return path


@pytest.mark.parametrize(("north", "side"), [(8_399_740, "5.01 x 5"), (5_000_000, "7.57 x 7.54")])
def test_a_base_whose_metres_are_not_those_of_the_ground_is_refused(world: World, north: float, side: str) -> None:
    """Web Mercator: 10 m pixels are 5 m wide at 60 degrees; at the equator they are 10 m."""
    path = base_in(world, 3857, 2_782_990, north)
    with pytest.raises(
        InputError, match=f"{path.name}: expected a base grid whose pixels are 10 m on the Earth's surface, got {side}"
    ):
        world.source().places(64)
    base_in(world, 3857, 2_782_990, 320)
    assert len(world.source().places(64)) == (SIZE // 64) ** 2


@pytest.mark.parametrize(("epsg", "west", "north"), [(3413, -200, 200), (3031, -320, 320)])
def test_a_tile_that_contains_a_pole_is_refused(world: World, epsg: int, west: float, north: float) -> None:
    path = base_in(world, epsg, west, north)
    with pytest.raises(InputError, match=f"{path.name}: expected tiles without a pole"):
        world.source().places(64)


def test_large_tiles_follow_the_curves_of_another_projection(world: World) -> None:
    """Over 10 km a parallel leaves its chord by 2 m: coordinates interpolated along a line would show."""
    write_tif(world.root / "s2" / "a.tif", np.ones((3, 1024, 1024), "int16"))
    transform, x, y = around(4326, 1 / 3600, 760)
    write_tif(world.root / "dem" / "a.tif", plane(*pixel_lonlat(4326, x, y, EPSG))[None], crs=4326, transform=transform)
    world.mapping["sites"] = ["a"]
    source, surveys = world.surveys(1024)
    file = next(file for file in source.sites[0].files if file.modality.name == "aster")
    elevation = read_bands(file, surveys[0].grid)["elevation"]
    inner = slice(0, 600)  # the DEM is centred on the upper left 64 px
    np.testing.assert_allclose(elevation[inner, inner], plane(*tile_mesh(surveys[0]))[inner, inner], atol=6e-3)


def test_slope_knows_feet(world: World) -> None:
    """A DEM on a grid in US survey feet, under a tile in metres."""
    centre = (600_000.0, 4_100_000.0)
    for kind, values in (("s2", np.ones((3, 64, 64), "int16")), ("lulc", np.ones((1, 64, 64), "uint8"))):
        transform = rasterio.Affine(10, 0, centre[0] - 320, 0, -10, centre[1] + 320)
        write_tif(world.root / kind / "a.tif", values, crs="EPSG:32610", transform=transform, tags={"datetime": "2021"})
    world.layer("io_lulc")["date"] = {"constant": "2021-01-01"}
    x, y = pixel_lonlat(32610, np.array(centre[0]), np.array(centre[1]), 2227)
    transform = rasterio.Affine(30, 0, float(x) - 1800, 0, -30, float(y) + 1800)
    heights = np.arange(120.0)[None, None].repeat(120, axis=1) * 30 * 0.3048006 * np.tan(np.radians(12.0))
    write_tif(world.root / "dem" / "a.tif", heights, crs="EPSG:2227", transform=transform)
    _, bands = bands_of(world, "aster")
    np.testing.assert_allclose(bands["slope"], 12.0, atol=0.01)


def test_classes_are_taken_from_the_nearest_pixel_never_mixed(world: World) -> None:
    transform, _, _ = around(32633, 10.0, 110)
    codes = np.random.default_rng(5).integers(1, 10, (1, 110, 110)).astype("uint8")
    tags = {"datetime": "2021-07-20"}
    write_tif(world.root / "lulc" / "a.tif", codes, crs="EPSG:32633", transform=transform, tags=tags)
    source, surveys = world.surveys()
    found = source.read(surveys[0], [CATALOG.modalities["io_lulc"]])["io_lulc"][0]
    x, y = pixel_lonlat(EPSG, *tile_mesh(surveys[0]), 32633)
    cols, rows = (x - transform.c) / 10, (transform.f - y) / 10
    expected = codes[0, np.floor(rows).astype(int), np.floor(cols).astype(int)]
    # Within the warper's tolerance of a pixel's edge either neighbour is right.
    sure = np.minimum(abs(cols - np.rint(cols)), abs(rows - np.rint(rows))) > 2e-3
    assert sure.mean() > 0.98
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_a_grid_off_by_less_than_a_thousandth_of_a_pixel_is_the_same_grid(world: World) -> None:
    values = raw(world, "dem/a.tif")
    for off, same in ((0.009, True), (0.011, False)):
        shifted = rasterio.Affine(10, 0, ULX + off, 0, -10, ULY - off)
        write_tif(world.root / "dem" / "a.tif", values.astype("float64"), transform=shifted)
        _, bands = bands_of(world, "aster")
        assert np.array_equal(bands["elevation"], values[0, :64, :64]) == same


def test_a_larger_aligned_file_is_cut_and_a_smaller_one_leaves_no_data(world: World) -> None:
    values = raw(world, "dem/a.tif")
    larger = np.zeros((1, SIZE + 30, SIZE + 30), "int16")
    larger[:, 20 : 20 + SIZE, 10 : 10 + SIZE] = values
    grid = rasterio.Affine(10, 0, ULX - 100, 0, -10, ULY + 200)
    write_tif(world.root / "dem" / "a.tif", larger, transform=grid)
    np.testing.assert_array_equal(world.read()["aster"][0], values[0, :64, :64])

    grid = rasterio.Affine(10, 0, ULX + 300, 0, -10, ULY - 200)
    write_tif(world.root / "dem" / "a.tif", values[:, 20:40, 30:50], transform=grid)
    found = world.read()["aster"]
    np.testing.assert_array_equal(found[0, 20:40, 30:50], values[0, 20:40, 30:50])
    outside = np.ones((64, 64), bool)
    outside[20:40, 30:50] = False
    assert (found[:, outside] == -32768).all()
    assert (found[:, ~outside] != -32768).all()


# No-data


@pytest.mark.parametrize("epsg", [EPSG, 4326])
@pytest.mark.parametrize("mark", ["tag", "mapping", "nan", "mask"])
def test_no_data_never_leaks_into_its_neighbours(world: World, epsg: int, mark: str) -> None:
    transform, x, y = around(epsg, 20.0 if epsg == EPSG else 1 / 3600, 60)
    heights = plane(*pixel_lonlat(epsg, x, y, EPSG))[None]
    hole = np.zeros((60, 60), bool)
    hole[20:35, 25:33] = True
    heights[0, hole] = np.nan if mark == "nan" else -9999
    profile: dict[str, Any] = {"crs": f"EPSG:{epsg}", "transform": transform}
    profile |= {"nodata": -9999} if mark == "tag" else {}
    world.layer("aster").update({"nodata": -9999} if mark == "mapping" else {})
    path = write_tif(world.root / "dem" / "a.tif", heights, **profile)
    if mark == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(~hole)
    survey, bands = bands_of(world, "aster")
    expected = plane(*tile_mesh(survey))
    seen = np.isfinite(bands["elevation"])
    assert 0 < (~seen).sum() < seen.size / 2
    # At the rim GDAL weighs what is left of a pixel's four neighbours: at most half a pixel of the plane off.
    assert abs(bands["elevation"] - expected)[seen].max() < 20 * (0.3 + 0.2) + 0.1
    u, v = pixel_lonlat(EPSG, *tile_mesh(survey), epsg)
    rows, cols = (transform.f - v) / -transform.e, (u - transform.c) / transform.a
    deep = (rows > 21) & (rows < 34) & (cols > 26) & (cols < 32)
    far = (rows < 18) | (rows > 37) | (cols < 23) | (cols > 35)
    assert not seen[deep].any()
    assert seen[far].all()
    np.testing.assert_allclose(bands["elevation"][far], expected[far], atol=0.02)
    np.testing.assert_allclose(bands["slope"][far], TILT_DEG, atol=0.05)


def test_each_band_has_its_own_holes(world: World) -> None:
    transform, _, _ = around(EPSG, 20.0, 60)
    values = np.full((3, 60, 60), 500, "int16")
    values[0, 20:30, 20:30] = values[1, 40:45, 40:45] = 0
    write_tif(world.root / "s2" / "a.tif", raw(world, "s2/a.tif"))
    write_tif(world.root / "s1" / "a.tif", values, transform=transform, nodata=0)
    world.mapping["layers"].append(
        {"modality": "sentinel1", "path": "s1/{site}.tif", "bands": ["asc_VV", "asc_VH", "desc_VV"]}
    )
    found = world.read()["sentinel1"]
    missing = np.isnan(found).reshape(8, -1).sum(axis=1)
    assert missing[[0, 1, 4]].tolist() == sorted(missing[[0, 1, 4]], reverse=True)
    assert missing[0] > missing[1] > missing[4] == 0
    assert missing[0] <= 20 * 20  # 10 x 10 px of 20 m: a hole may lose its rim to its neighbours, never grow
    assert missing[1] <= 10 * 10
    assert set(found[np.isfinite(found)].tolist()) == {500}


def test_numbers_equal_to_the_files_no_data_become_the_catalogs(world: World) -> None:
    values = raw(world, "s2/a.tif")
    values[1, 5, 6] = -1
    write_tif(world.root / "s2" / "a.tif", values, nodata=-1)
    found = world.read()["sentinel2"]
    assert found[2, 5, 6] == 0
    assert (found[[1, 2, 8]] == 0).sum() == 1


def test_the_mappings_no_data_replaces_the_files(world: World) -> None:
    values = raw(world, "s2/a.tif")
    values[0, 0, 0], values[0, 0, 1] = 7, 8
    values[0][(values[0] == 7) | (values[0] == 8)] = 9
    values[0, 0, 0], values[0, 0, 1] = 7, 8
    write_tif(world.root / "s2" / "a.tif", values, nodata=7)
    world.layer("sentinel2")["nodata"] = 8
    assert world.read()["sentinel2"][1, 0, :2].tolist() == [7, 0]


# Numbers


def test_scale_offset_clip_and_rounding(world: World) -> None:
    numbers = np.linspace(-0.02, 0.8, 64 * 64).reshape(1, 64, 64).repeat(3, axis=0)
    numbers[0, 0, :4] = [0.00014, 0.00016, 0.00026, 0.12345]
    write_tif(world.root / "s2" / "a.tif", numbers)
    world.layer("sentinel2").update(scale=10000, clip=[1, 65535])
    found = world.read()["sentinel2"]
    assert found[1, 0, :3].tolist() == [1, 2, 3]
    assert found[1, 0, 3] in {1234, 1235}  # a tie in decimals, not in binary
    np.testing.assert_array_equal(found[2], np.clip(np.floor(numbers[1] * 10000 + 0.5), 1, 65535))


def test_halves_go_away_from_zero(world: World) -> None:
    heights = np.full((1, SIZE, SIZE), 0.5)
    heights[0, 1, :4] = [1.5, 2.5, -0.5, -2.5]
    write_tif(world.root / "dem" / "a.tif", heights)
    assert world.read()["aster"][0, :2, :4].tolist() == [[1, 1, 1, 1], [2, 3, -1, -3]]


def test_class_codes_are_translated(world: World) -> None:
    values = raw(world, "lulc/a.tif") * 10
    write_tif(world.root / "lulc" / "a.tif", values, tags={"datetime": "2021-07-20"})
    world.mapping["sites"] = ["a"]
    world.layer("io_lulc")["codes"] = {code * 10: code % 9 + 1 for code in range(1, 9)} | {90: 0}
    expected = np.where(values == 90, 0, values // 10 % 9 + 1)
    np.testing.assert_array_equal(world.read()["io_lulc"], expected[:, :64, :64])


def test_bands_are_placed_by_name_and_skipped_by_null(world: World) -> None:
    world.layer("sentinel2")["bands"] = ["B8", None, "B1"]
    values, found = raw(world, "s2/a.tif"), world.read()["sentinel2"]
    np.testing.assert_array_equal(found[[8, 0]], values[[0, 2], :64, :64])
    assert not np.delete(found, [8, 0], axis=0).any()


def test_two_layers_fill_one_modality(world: World) -> None:
    write_tif(world.root / "more" / "a.tif", np.full((1, SIZE, SIZE), 77, "uint8"))
    world.mapping["layers"].append(
        {"modality": "sentinel2", "path": "more/{site}.tif", "bands": ["B12"], "level": "L2A"}
    )
    found = world.read()["sentinel2"]
    assert (found[12] == 77).all()
    np.testing.assert_array_equal(found[1], raw(world, "s2/a.tif")[0, :64, :64])


# Sites, dates, locations


def test_a_site_that_lacks_a_layer_lacks_the_modality(world: World) -> None:
    (world.root / "dem" / "b.tif").unlink()
    source, surveys = world.surveys()
    wanted = source.modalities(MODALITIES)
    assert [modality.name for modality in wanted] == ["sentinel2", "aster", "io_lulc"]
    assert [("aster" in source.read(survey, wanted)) for survey in surveys] == [True, False]


def test_a_site_without_the_file_that_dates_it_has_no_time(world: World) -> None:
    (world.root / "lulc" / "b.tif").unlink()
    assert [survey.time_ms == NO_TIME for survey in world.surveys()[1]] == [False, True]


def test_listed_sites_and_files_that_serve_all_sites(world: World) -> None:
    world.mapping["sites"] = ["b"]
    world.layer("aster").update(path="dem/*.tif")
    (world.root / "dem" / "a.tif").unlink()
    source, surveys = world.surveys()
    assert [survey.facts["site"] for survey in surveys] == ["b"]
    found = source.read(surveys[0], [CATALOG.modalities["aster"]])["aster"][0]
    np.testing.assert_array_equal(found, raw(world, "dem/b.tif")[0, :64, :64])
    assert source.identity()["files"]["aster"]["files"] == 1


def test_site_names_may_stand_twice_and_beside_wildcards(world: World) -> None:
    for site in "ab":
        values = raw(world, f"dem/{site}.tif")
        with rasterio.open(world.root / "s2" / f"{site}.tif") as dataset:
            transform = dataset.transform
        write_tif(world.root / "tree" / site / f"{site}_20210720.tif", values, transform=transform)
    write_tif(world.root / "tree" / "a" / "b_1.tif", values)
    world.layer("aster").update(path="tree/{site}/{site}_*.tif", date={"filename": "_([0-9]{8})", "format": "%Y%m%d"})
    _, surveys = world.surveys()
    assert [survey.facts["dates"]["aster"] for survey in surveys] == ["2021-07-20T00:00:00.000"] * 2


def test_the_longest_site_name_that_fits_is_meant(world: World) -> None:
    for site, elevation in (("a", 1), ("a_b", 2)):
        number = 0 if site == "a" else 300
        grid = {"transform": rasterio.Affine(10, 0, ULX + 100 * number, 0, -10, ULY)}
        write_tif(world.root / "s2" / f"{site}.tif", np.ones((3, SIZE, SIZE), "int16"), **grid)
        write_tif(world.root / "dem" / f"{site}_v1.tif", np.full((1, SIZE, SIZE), elevation, "int16"), **grid)
    world.mapping["sites"] = ["a", "a_b"]
    world.layer("aster")["path"] = "dem/{site}_*.tif"
    source, surveys = world.surveys()
    found = [source.read(survey, [CATALOG.modalities["aster"]])["aster"][0, 0, 0] for survey in surveys]
    assert found == [1, 2]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"tag": "datetime"}, "2021-07-20T13:22:41.000"),
        ({"tag": "day", "format": "%d/%m/%Y"}, "2020-02-29T00:00:00.000"),
        ({"filename": "^(?P<x>.)(?P<date>.*)[.]tif", "format": "%Y_%j"}, "2020-12-31T00:00:00.000"),
        ({"constant": "2021-05-01T12:00:00+02:00"}, "2021-05-01T10:00:00.000"),
        ({"constant": "2021-05-01T12:00:00.25Z"}, "2021-05-01T12:00:00.250"),
        ({"constant": "1969-12-31T23:59:59.999"}, "1969-12-31T23:59:59.999"),
    ],
)
def test_dates_come_from_where_the_mapping_says(world: World, rule: dict[str, str], expected: str) -> None:
    (world.root / "lulc" / "b.tif").unlink()
    tags = {"datetime": "2021-07-20T13:22:41.000000000", "day": "29/02/2020"}
    write_tif(world.root / "lulc" / "a2020_366.tif", raw(world, "lulc/a.tif"), tags=tags)
    (world.root / "lulc" / "a.tif").unlink()
    world.layer("io_lulc").update(date=rule, path="lulc/{site}2020_366.tif")
    time = world.surveys()[1][0].time_ms
    assert str(np.datetime64(time, "ms")) == expected


def test_a_plain_date_in_the_yaml_is_midnight_utc(world: World) -> None:
    import datetime

    world.layer("io_lulc")["date"] = {"constant": datetime.date(2020, 5, 1)}
    assert np.datetime64(world.surveys()[1][0].time_ms, "ms") == np.datetime64("2020-05-01")


def test_day_differences_follow_the_pass(world: World) -> None:
    write_tif(world.root / "s1" / "a.tif", np.zeros((1, SIZE, SIZE), "float32"))
    layer = {
        "modality": "sentinel1",
        "path": "s1/{site}.tif",
        "bands": ["desc_VV"],
        "date": {"constant": "2021-07-18T13:22:41"},
    }
    world.mapping["layers"].append(layer)
    days = [(survey.s1_asc_days, survey.s1_desc_days) for survey in world.surveys()[1]]
    np.testing.assert_array_equal(days, [(np.nan, -2.0), (np.nan, np.nan)])
    layer.update(
        {
            "bands": ["{pass}_HH"],
            "pass": "desc",
            "sites": {"a": {"pass": "asc", "date": {"constant": "2021-07-23T01:22:41"}}},
        }
    )
    source, surveys = world.surveys()
    assert (surveys[0].s1_asc_days, np.isnan(surveys[0].s1_desc_days)) == (2.5, True)
    found = source.read(surveys[0], [CATALOG.modalities["sentinel1"]])["sentinel1"]
    assert [bool(np.isfinite(band).all()) for band in found] == [False, False, True] + [False] * 5


def test_places_are_full_tiles_in_order_on_the_sites_own_grid(world: World) -> None:
    source, surveys = world.surveys(16)
    assert len(surveys) == 2 * 25
    corners = [(survey.facts["site"], survey.facts["row"], survey.facts["col"]) for survey in surveys]
    assert all(one < two for one, two in pairwise(corners))
    assert (surveys[0].grid.ulx, surveys[0].grid.uly) == (ULX, ULY)
    lon, lat = pixel_lonlat(EPSG, np.array([ULX + 80]), np.array([ULY - 80]))
    expected = tile_ids(round_lonlat(lon), round_lonlat(lat), 16)
    assert source.places(16)[0].tile_id == expected[0]


def test_a_place_of_another_origin_is_rejected(world: World) -> None:
    source = world.source()
    (answer,) = source.survey([some_place()])
    assert isinstance(answer, Rejection)
    assert isinstance(answer.place, Place)


def test_nothing_happens_before_the_first_question(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    source = world.source()
    world.file.unlink()
    with pytest.raises(InputError, match="mapping file"):
        source.identity()


def test_a_region_without_files_is_refused_before_its_cells_are_read(world: World) -> None:
    source = world.source()
    fields = {"source": f"rasters:{world.file}", "cover": True, "tile_size": 64}
    with pytest.raises(
        InputError, match=r"expected a region that overlaps the files \(W .*\), got Luxembourg \(W 5\.7"
    ):
        cells_of(make_recipe(None, {**fields, "region": "Luxembourg"}), source)
    lon, lat = (float(part) for part in pixel_lonlat(EPSG, np.array(CENTRE[0]), np.array(CENTRE[1])))
    around_it = f"bbox:{lon - 0.02},{lat - 0.02},{lon + 0.001},{lat + 0.001}"
    assert len(cells_of(make_recipe(None, {**fields, "region": around_it}), source)) > 4  # most of them without a file


@pytest.mark.parametrize(("tag", "synthetic"), [("yes", True), ("no", False), (None, False)])
def test_a_file_that_is_tagged_as_synthetic_makes_the_store_synthetic(
    world: World, tag: str | None, synthetic: bool
) -> None:
    tags = {} if tag is None else {"synthetic": tag}
    grid = {"transform": rasterio.Affine(10, 0, ULX + 5000, 0, -10, ULY)}
    write_tif(world.root / "dem" / "b.tif", np.ones((1, SIZE, SIZE), "int16"), tags=tags, **grid)
    assert world.source().synthetic is synthetic
