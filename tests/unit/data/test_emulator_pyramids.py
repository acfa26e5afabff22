"""Pyramids: the levels read by requests coarser than an asset (Earth Engine guides, "scale"; PyramidingPolicy).

Expected pixels are computed from the asset's own native pixels in the simplest way.
"""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import ee
import numpy as np
import pytest
import shapely
from emulator_pixels import UTM, call, request_context

from mmearth_data.emulator.algorithms.image import (
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    Projection,
    coarsened,
    level_for,
)
from mmearth_data.emulator.assets.archive import pyramid_band
from mmearth_data.emulator.assets.directory import find
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.planet.planet import DEM, ERA5, L2A, WORLD_COVER

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_MS = 86_400_000
SUMMER = 1_591_000_000_000


def ramp_band(policy: Any, kind: PixelType | None = None, size: tuple[int, int] = (4096, 4096)) -> Band:
    """Band of column + 10 * row, masked where the column is a multiple of 4."""

    def native(window: Grid) -> Pixels:
        columns, rows = np.meshgrid(window.column + np.arange(window.width), window.row + np.arange(window.height))
        return Pixels((columns + 10 * rows).astype(float), columns % 4 != 0)

    return pyramid_band("b", kind or PixelType("float"), UTM, size, native, policy)


def at_level(level: int, width: int = 3, height: int = 2, column: int = 0, row: int = 0) -> Grid:
    return Grid(coarsened(UTM, level), column, row, width, height)


# ---------------------------------------------------------------- which level


@pytest.mark.parametrize(
    ("metres", "level"), [(5, 0), (10, 0), (19.99, 0), (20, 1), (30, 1), (39.9, 1), (40, 2), (1000, 6)]
)
def test_the_coarsest_level_that_is_not_coarser_than_the_request_is_read(metres: float, level: int) -> None:
    asked = Projection("EPSG:32633", (metres, 0.0, 3.0, 0.0, -metres, 7.0))
    assert level_for(asked, UTM) == level


def test_a_pyramid_ends_where_it_fits_into_256_pixels() -> None:
    coarse = Projection("EPSG:32632", (1e6, 0.0, 0.0, 0.0, -1e6, 0.0))
    assert level_for(coarse, UTM, (10_980, 10_980)) == 6  # 10980 / 64 = 171.6
    assert level_for(coarse, UTM, (256, 100)) == 0


# ---------------------------------------------------------------- how pixels are computed


def test_means_weigh_by_masks_and_masks_are_means() -> None:
    found = ramp_band("mean").evaluate(at_level(1))
    # Columns 0 and 1: only 1 is valid; 2 and 3: both; 4 and 5: only 5. Rows 0 and 1: 10 * 0.5 on average.
    np.testing.assert_allclose(found.values, [[6, 7.5, 10], [26, 27.5, 30]])
    np.testing.assert_allclose(found.valid, [[0.5, 1, 0.5]] * 2)
    two = ramp_band("mean").evaluate(at_level(2))
    np.testing.assert_allclose(two.values[0], [2 + 15, 6 + 15, 10 + 15])
    np.testing.assert_allclose(two.valid, 0.75)


def test_samples_are_upper_left_pixels_with_their_masks() -> None:
    found = ramp_band("sample").evaluate(at_level(2, column=1))
    assert not found.valid.any(), "columns 4, 8, 12 are masked"
    shifted = pyramid_band(
        "QA60", PixelType("int", 0, 65535), UTM, (4096, 4096), lambda w: ramp_band("mean").evaluate(Grid(UTM, w.column + 1, w.row, w.width, w.height))
    )  # fmt: skip
    assert shifted.evaluate(at_level(2)).values.tolist() == [[1, 5, 9], [41, 45, 49]]


def test_modes_are_the_most_frequent_of_four_and_of_equal_ones_the_smallest() -> None:
    table = np.array([[3, 3, 7, 2, 9, 9, 1, 2], [5, 3, 2, 7, 9, 9, 3, 4]], float)
    valid = np.array([[1, 1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0, 1, 1]], bool)

    def native(window: Grid) -> Pixels:
        part = slice(window.row, window.row + window.height), slice(window.column, window.column + window.width)
        return Pixels(table[part], valid[part])

    band = pyramid_band("Map", PixelType("int", 0, 255), UTM, (512, 512), native)
    found = band.evaluate(at_level(1, 4, 1))
    assert found.values.tolist() == [[3, 2, 0, 2]]
    assert found.valid.tolist() == [[1, 1, 0, 0.75]]


def test_whole_numbers_stay_whole() -> None:
    found = ramp_band("mean", PixelType("int", 0, 65_535)).evaluate(at_level(1))
    assert found.values.tolist() == [[6, 8, 10], [26, 28, 30]]


def test_strips_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    window = at_level(3, 5, 9, 2, 1)
    whole = ramp_band("mean").evaluate(window)
    monkeypatch.setattr("mmearth_data.emulator.algorithms.pyramids.STRIP_PIXELS", 64 * 5)
    strips = ramp_band("mean").evaluate(window)
    np.testing.assert_array_equal(whole.values, strips.values)
    np.testing.assert_array_equal(whole.valid, strips.valid)


def test_more_native_pixels_than_an_answer_may_read_are_refused() -> None:
    with pytest.raises(EmulatorError, match="memory limit"):
        ramp_band("mean", size=(2**20, 2**20)).evaluate(at_level(9, 64, 64))


def test_resampling_interpolates_between_pixels_of_the_level() -> None:
    """Halfway between pixels of level 1, whatever the native pixels are."""
    image = call("Image.resample", image=Image((ramp_band("mean"),)))
    shifted = Projection("EPSG:32632", (20.0, 0.0, 500_010.0, 0.0, -20.0, 5_000_000.0))
    found = image.bands[0].evaluate(Grid(shifted, 0, 0, 1, 2)).values
    level = ramp_band("mean").evaluate(at_level(1)).values
    np.testing.assert_allclose(found[:, 0], level[:, :2].mean(axis=1))


# ---------------------------------------------------------------- assets


def blocks(band: Band, level: int, window: tuple[int, int, int, int]) -> list[list[np.ndarray[Any, Any]]]:
    """Valid native pixels under each pixel of a window of a level."""
    column, row, width, height = window
    wide = 2**level
    native = band.evaluate(Grid(band.projection, column * wide, row * wide, width * wide, height * wide))
    return [
        [
            native.values[part][native.valid[part]]
            for c in range(width)
            for part in [(slice(r * wide, (r + 1) * wide), slice(c * wide, (c + 1) * wide))]
        ]
        for r in range(height)
    ]


def compare(band: Band, level: int, window: tuple[int, int, int, int], of: Callable[[Any], float]) -> None:
    found = band.evaluate(Grid(coarsened(band.projection, level), *window))
    expected = [[of(block) if len(block) else 0.0 for block in line] for line in blocks(band, level, window)]
    np.testing.assert_allclose(found.values, expected, atol=0.5 if band.type.precision == "int" else 1e-9)
    np.testing.assert_allclose(found.valid, [[len(b) / 4**level for b in line] for line in blocks(band, level, window)])


def test_continuous_assets_are_means() -> None:
    dem = find(DEM, request_context())
    assert isinstance(dem, Image)
    compare(dem.bands[0], 3, (85_000, 19_200, 6, 4), np.mean)
    weather = find(ERA5, request_context())
    assert weather is not None
    month = weather.load("201907")
    assert month is not None
    compare(month.bands[0], 2, (440, 100, 40, 30), np.mean)
    scene = next(iter(find(L2A, request_context()).query(shapely.Point(10.2, 47.3), SUMMER, SUMMER + 30 * DAY_MS)))  # type: ignore[union-attr]
    compare(scene.find("B4", "test"), 2, (1300, 1300, 5, 5), np.mean)


def test_classes_are_modes() -> None:
    covers = find(WORLD_COVER, request_context())
    assert covers is not None
    cover = covers.load("2020")
    assert cover is not None

    def most(block: np.ndarray[Any, Any]) -> float:
        counted = Counter(block.tolist())
        return min(value for value, count in counted.items() if count == max(counted.values()))

    compare(cover.bands[0], 1, (1_142_000, 256_000, 12, 8), most)


def test_over_the_wire_a_coarse_request_reads_means(earth: str) -> None:
    """At 0.4 degree, a pixel is the mean of 4 x 4 weather pixels, not one of them."""
    fine = {"a": 0.1, "c": 7.95, "f": 48.05}
    image = ee.Image("ECMWF/ERA5_LAND/MONTHLY_AGGR/201907").select("temperature_2m")

    def read(step: float, size: int) -> Any:
        transform = {
            "scaleX": step,
            "shearX": 0,
            "translateX": fine["c"],
            "shearY": 0,
            "scaleY": -step,
            "translateY": fine["f"],
        }
        grid = {"dimensions": {"width": size, "height": size}, "affineTransform": transform, "crsCode": "EPSG:4326"}
        answer = ee.data.computePixels({"expression": image, "fileFormat": "NPY", "grid": grid})
        return np.load(io.BytesIO(answer))["temperature_2m"]

    native, coarse = read(0.1, 8), read(0.4, 2)
    # The grid of level 2 starts where the asset does, at (-180.05, 90.05): 1880 columns and 420 rows from here.
    np.testing.assert_allclose(coarse, native.reshape(2, 4, 2, 4).mean(axis=(1, 3)))
    assert not np.isin(coarse, native).any()
