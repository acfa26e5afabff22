"""Pixels depend only on their position on their native grid; tiles sample those grids by the rules."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from planet_world import CATALOG, RASTERS, READABLE, modality, source, surveyed
from pyproj import Geod

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import TileGrid, transformer
from mmearth_data.planet.grids import Window
from mmearth_data.planet.planet import CANOPY, DEM, DYNAMIC_WORLD, ERA5, L1C, L2A, S1, WORLD_COVER
from mmearth_data.planet.products import year_start_ms
from mmearth_data.planet.scenes import Box
from mmearth_data.sources.base import Survey
from mmearth_data.sources.synthetic import SyntheticSource

PLACES = {
    "farmland": (9.5, 48.2),
    "between two faces of the cube, equator": (45.0, 10.0),
    "between two faces of the cube, mid latitude": (10.0, 45.001),
    "a corner of the cube": (45.0, 35.2644),
    "zone border": (12.002, 50.1),
    "neighbouring zone's scene": (11.995, 60.1),
    "coast": (8.14, 56.0),
    "antimeridian": (179.995, 66.5),
    "Arctic": (100.3, 71.2),
    "ice": (-42.0, 72.0),
    "rain forest": (-60.2, -3.1),
    "equator": (36.0, 0.001),
    "town": (2.35, 48.85),
}


def whole_box(survey: Survey) -> Box:
    return Box(survey.grid.epsg, *survey.grid.bounds)


@pytest.mark.parametrize("place", PLACES)
def test_overlapping_tiles_of_any_size_share_their_pixels(place: str) -> None:
    survey = surveyed(*PLACES[place], of=source(0, cloud_percent=60))
    tile = source(0, cloud_percent=60).read(survey, RASTERS)
    for size, dx, dy in ((64, 31, -17), (128, -40, -33), (32, 9, 50)):
        grid = TileGrid(
            epsg=survey.grid.epsg, ulx=survey.grid.ulx + 10 * dx, uly=survey.grid.uly - 10 * dy, size_px=size
        )
        other = SyntheticSource(0, cloud_percent=60).read(replace(survey, grid=grid), RASTERS)
        left, right, top, bottom = max(0, dx), min(64, dx + size), max(0, dy), min(64, dy + size)
        for m in RASTERS:
            mine = tile[m.name][:, top:bottom, left:right]
            theirs = other[m.name][:, top - dy : bottom - dy, left - dx : right - dx]
            np.testing.assert_array_equal(mine, theirs, err_msg=f"{m.name} at {place}, {size} px")


def test_threads_and_order_make_no_difference() -> None:
    surveys = [surveyed(*PLACES[name]) for name in ("farmland", "zone border", "Arctic", "rain forest", "town")]
    alone = [SyntheticSource(0).read(survey, READABLE) for survey in surveys]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda survey: source().read(survey, READABLE), surveys[::-1] * 2))
    for expected, *found in zip(alone, together[4::-1], together[:4:-1], strict=True):
        for arrays in found:
            for name, array in expected.items():
                np.testing.assert_array_equal(arrays[name], array)


def test_modalities_read_alone_and_in_any_order_are_the_same() -> None:
    survey = surveyed(9.5, 48.2)
    together = source().read(survey, READABLE)
    for m in READABLE[::-1]:
        np.testing.assert_array_equal(SyntheticSource(0).read(survey, [m])[m.name], together[m.name])


def test_ten_metre_bands_are_copied_and_others_interpolated() -> None:
    survey = surveyed(9.5, 48.2)
    tile = source().read(survey, [modality("sentinel2")])["sentinel2"]
    planet, request, grid = source().planet, survey.request, survey.grid
    product = planet.products[{"L1C": L1C, "L2A": L2A}[request.level]]
    image = product.image(request.scene)
    column, row = int(grid.ulx) // 10, -int(grid.uly) // 10
    bands = CATALOG.modalities["sentinel2"].bands
    for band in ("B2", "B3", "B4", "B8"):
        native = product.read(image, band, Window(column, row, 64, 64)).values
        np.testing.assert_array_equal(tile[bands.index(band)], native)
    for band, pixels in (("B5", 2), ("B11", 2), ("B1", 6), ("B9", 6)):
        window = Window(column // pixels - 1, row // pixels - 1, 64 // pixels + 4, 64 // pixels + 4)
        native = product.read(image, band, window).values.astype(np.float64)
        x = (column + np.arange(64) + 0.5) / pixels - window.column - 0.5
        y = (row + np.arange(64) + 0.5) / pixels - window.row - 0.5
        rows = np.stack([np.interp(x, np.arange(window.width), line) for line in native])
        expected = np.stack([np.interp(y, np.arange(window.height), line) for line in rows.T], axis=1)
        assert np.abs(tile[bands.index(band)] - expected).max() <= 0.5 + 1e-2  # rounded to the nearest integer


def test_assets_have_the_bands_and_grids_of_the_archive() -> None:
    survey = surveyed(9.5, 48.2)
    l1c, l2a = (source().planet.products[asset] for asset in (L1C, L2A))
    steps = {"B2": 10, "B3": 10, "B4": 10, "B8": 10, "B1": 60, "B9": 60, "B10": 60}
    for product, lacking in ((l1c, {"SCL", "MSK_CLDPRB"}), (l2a, {"B10"})):
        image = product.image(replace(survey.request.scene, lot=7))
        bands = {f"B{k}" for k in range(1, 13)} | {"B8A", "QA60", "SCL", "MSK_CLDPRB"}
        assert set(image.bands) == bands - lacking
        for band in image.bands:
            step = steps.get(band, 60 if band == "QA60" else 20)
            assert product.grid(image, band).step == (step, 1)
            window = Window(int(survey.grid.ulx) // step, -int(survey.grid.uly) // step, 5, 3)
            assert product.read(image, band, window).values.shape == (3, 5)


def test_twenty_and_sixty_metre_bands_see_the_mean_of_what_ten_metres_see() -> None:
    """Narrow near infrared (B8A, 20 m) against near infrared (B8, 10 m): nearly the same spectrum everywhere."""
    survey = surveyed(9.5, 48.2)
    product = source().planet.products[L1C]
    image = product.image(survey.request.scene)
    column, row = int(survey.grid.ulx) // 20, -int(survey.grid.uly) // 20
    fine = product.read(image, "B8", Window(column * 2, row * 2, 64, 64)).values.astype(float)
    coarse = product.read(image, "B8A", Window(column, row, 32, 32)).values.astype(float)
    mean = fine.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.corrcoef(mean.ravel(), coarse.ravel())[0, 1] > 0.995


def test_slope_is_the_four_neighbour_gradient_on_the_grid_of_one_arc_second() -> None:
    survey = surveyed(*PLACES["Arctic"])
    product = source().planet.products[DEM]
    image = product.images(whole_box(survey), 0, year_start_ms(2100))[0]
    grid = product.grid(image, "b1")
    assert grid.step == (1, 3600)
    lon, lat = survey.grid.centre_lonlat
    window = Window(int(grid.column(np.array(lon))) - 20, int(grid.row(np.array(lat))) - 20, 41, 41)
    heights = product.read(image, "b1", window).values.astype(float)
    ellipsoid = Geod(ellps="WGS84")
    step = 1 / 3600
    east = ellipsoid.inv(lon, lat, lon + step, lat)[2]
    north = ellipsoid.inv(lon, lat - step / 2, lon, lat + step / 2)[2]
    rise_east = (heights[20, 21] - heights[20, 19]) / (2 * east)
    rise_north = (heights[19, 20] - heights[21, 20]) / (2 * north)
    expected = np.degrees(np.arctan(np.hypot(rise_east, rise_north)))
    x, y = transformer(4326, survey.grid.epsg).transform(
        grid.x(np.array(window.column + 20.5)), grid.y(np.array(window.row + 20.5))
    )
    # A tile of one native pixel's centre: the bilinear value there is the native one.
    centred = TileGrid(epsg=survey.grid.epsg, ulx=float(x) - 5, uly=float(y) + 5, size_px=1)
    tile = source().read(replace(survey, grid=centred), [modality("aster")])["aster"]
    assert tile[1, 0, 0] == pytest.approx(expected, abs=0.51)
    assert tile[0, 0, 0] == pytest.approx(heights[20, 20], abs=0.51)


def test_slope_is_taken_before_resampling_all_over_a_mountain_tile() -> None:
    """Against numpy's gradient of the native heights, nearest pixel; steep terrain, so that a mistake shows."""
    survey = surveyed(36.0, -3.0, 128)
    tile = source().read(survey, [modality("aster")])["aster"].astype(float)
    product = source().planet.products[DEM]
    image = product.images(whole_box(survey), 0, year_start_ms(2100))[0]
    grid = product.grid(image, "b1")
    x, y = np.meshgrid(*survey.grid.pixel_centres())
    lon, lat = transformer(survey.grid.epsg, 4326).transform(x, y)
    column, row = grid.column(lon), grid.row(lat)
    window = Window(int(column.min()) - 3, int(row.min()) - 3, int(np.ptp(column)) + 8, int(np.ptp(row)) + 8)
    heights = product.read(image, "b1", window).values.astype(float)
    metres = 111_195 / 3600
    down, right = np.gradient(heights, metres * 0.9945, metres * 1.0011 * np.cos(np.radians(3.0)))
    slope = np.degrees(np.arctan(np.hypot(down, right)))
    nearest = slope[(np.floor(row) - window.row).astype(int), (np.floor(column) - window.column).astype(int)]
    assert slope.mean() > 8
    assert np.corrcoef(nearest.ravel(), tile[1].ravel())[0, 1] > 0.96
    assert abs(nearest.mean() - tile[1].mean()) < 0.3


def test_categories_are_taken_from_the_nearest_native_pixel() -> None:
    survey = surveyed(9.5, 48.2)
    tile = source().read(survey, [modality("esa_worldcover")])["esa_worldcover"][0]
    product = source().planet.products[WORLD_COVER]
    image = product.images(whole_box(survey), 0, year_start_ms(2100))[0]
    grid = product.grid(image, "Map")
    assert grid.step == (1, 12_000)
    x, y = np.meshgrid(*survey.grid.pixel_centres())
    lon, lat = transformer(survey.grid.epsg, 4326).transform(x, y)
    column, row = np.floor(grid.column(lon)).astype(int), np.floor(grid.row(lat)).astype(int)
    window = Window(column.min(), row.min(), int(np.ptp(column)) + 1, int(np.ptp(row)) + 1)
    native = product.read(image, "Map", window).values
    np.testing.assert_array_equal(tile, native[row - window.row, column - window.column])


def test_canopy_is_masked_before_it_is_interpolated() -> None:
    """A pixel is missing where one of its four neighbours is 255 in the asset; the others mix heights only."""
    survey = surveyed(100.3, 66.2, 256)
    height = source().read(survey, [modality("canopy_height_eth")])["canopy_height_eth"][0]
    product = source().planet.products[CANOPY]
    image = product.images(whole_box(survey), 0, year_start_ms(2100))[0]
    grid = product.grid(image, "b1")
    x, y = np.meshgrid(*survey.grid.pixel_centres())
    lon, lat = transformer(survey.grid.epsg, 4326).transform(x, y)
    column, row = grid.column(lon) - 0.5, grid.row(lat) - 0.5
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    window = Window(left.min(), top.min(), int(np.ptp(left)) + 2, int(np.ptp(top)) + 2)
    native = product.read(image, "b1", window).values.astype(float)
    corners = np.stack([native[top - window.row + i, left - window.column + j] for i in (0, 1) for j in (0, 1)])
    np.testing.assert_array_equal(height == 255, (corners == 255).any(axis=0))
    seen = height != 255
    assert 0.02 < seen.mean() < 0.999
    s, t = column - left, row - top
    mixed = (corners[0] * (1 - s) + corners[1] * s) * (1 - t) + (corners[2] * (1 - s) + corners[3] * s) * t
    assert np.abs(height - mixed)[seen].max() <= 0.51


def test_dynamic_world_is_the_most_frequent_label_of_the_scenes_year() -> None:
    survey = surveyed(9.5, 48.2)
    tile = source().read(survey, [modality("dynamic_world")])["dynamic_world"][0]
    year = int(str(np.datetime64(survey.time_ms, "ms"))[:4])
    product = source().planet.products[DYNAMIC_WORLD]
    images = product.images(whole_box(survey), year_start_ms(year), year_start_ms(year + 1))
    assert images
    assert all(image.scene.epsg == survey.grid.epsg for image in images)
    window = Window(int(survey.grid.ulx) // 10, -int(survey.grid.uly) // 10, 64, 64)
    votes = np.zeros((9, 64, 64), int)
    for image in images:
        values, valid = product.read(image, "label", window)
        for label in range(9):
            votes[label] += (values == label) & (True if valid is None else valid)
    expected = np.where(votes.sum(axis=0) > 0, votes.argmax(axis=0) + 1, 0)  # the asset's labels begin at 0
    np.testing.assert_array_equal(tile, expected)


def test_radar_pixels_are_those_of_the_scene_in_its_own_zone() -> None:
    survey = surveyed(9.0, 50.0)
    tile = source().read(survey, [modality("sentinel1")])["sentinel1"]
    m = CATALOG.modalities["sentinel1"]
    product = source().planet.products[S1]
    window = Window(int(survey.grid.ulx) // 10, -int(survey.grid.uly) // 10, 64, 64)
    seen = 0
    for way, prefix in (("ASCENDING", "asc"), ("DESCENDING", "desc")):
        scene = survey.request.radar[way]
        for polarisation in ("VV", "VH", "HH", "HV"):
            band = tile[m.bands.index(f"{prefix}_{polarisation}")]
            if scene is None or polarisation not in scene.polarisations:
                assert np.isnan(band).all()
            elif scene.epsg == survey.grid.epsg:
                native = product.read(product.image(scene), polarisation, window).values
                np.testing.assert_array_equal(band, native)
                seen += 1
    assert seen


def test_weather_is_reduced_over_months_and_pixels() -> None:
    survey = surveyed(9.5, 48.2)
    m = modality("era5")
    values = dict(zip(m.bands, source().read(survey, [m])["era5"], strict=True))
    product = source().planet.products[ERA5]
    month = int(np.datetime64(survey.time_ms, "ms").astype("datetime64[M]").astype(int))
    grid = product.grid(product.image(month), "")
    x, y = np.meshgrid(*survey.grid.pixel_centres())
    lon, lat = transformer(survey.grid.epsg, 4326).transform(x, y)
    column, row = np.floor(grid.column(lon)).astype(int), np.floor(grid.row(lat)).astype(int)
    window = Window(column.min(), row.min(), int(np.ptp(column)) + 1, int(np.ptp(row)) + 1)

    def over_tile(band: str, months: range, reduce: str) -> float:
        images = [product.image(number) for number in months]
        cells = getattr(np, reduce)([product.read(image, band, window).values for image in images], axis=0)
        return float(cells[row - window.row, column - window.column].mean())

    year = range(month - 11, month + 1)
    assert values["curr_month_avg_temp"] == pytest.approx(over_tile("temperature_2m", year[-1:], "mean"), abs=1e-3)
    previous = range(month - 1, month)
    assert values["prev_month_total_precip"] == pytest.approx(
        over_tile("total_precipitation_sum", previous, "sum"), rel=1e-5
    )
    assert values["year_avg_temp"] == pytest.approx(over_tile("temperature_2m", year, "mean"), abs=1e-3)
    assert values["year_min_temp"] == pytest.approx(over_tile("temperature_2m_min", year, "min"), abs=1e-3)
    assert values["year_max_temp"] == pytest.approx(over_tile("temperature_2m_max", year, "max"), abs=1e-3)
    assert values["year_total_precip"] == pytest.approx(over_tile("total_precipitation_sum", year, "sum"), rel=1e-5)


def test_canopy_and_its_uncertainty_come_from_two_assets() -> None:
    product = source().planet.products
    assert set(load_catalog().modalities["canopy_height_eth"].asset.values()) <= set(product)
    assert product[CANOPY].asset == CANOPY


def test_another_seed_is_another_planet() -> None:
    survey = surveyed(9.5, 48.2)
    other = SyntheticSource(1)
    mine = source().read(survey, [modality("aster"), modality("esa_worldcover")])
    theirs = other.read(surveyed(9.5, 48.2, of=other), [modality("aster"), modality("esa_worldcover")])
    assert all(not np.array_equal(mine[name], theirs[name]) for name in mine)
