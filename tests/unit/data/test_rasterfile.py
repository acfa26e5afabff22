"""The one reader of raster files, against numpy's types and GDAL's own masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasters_world import CATALOG, write_tif

from mmearth_data import FileInputError, Siblings, read_raster
from mmearth_data.rasterfile import as_marks, calibrate, in_type

ASTER, SENTINEL2, LANDSAT = (CATALOG.modalities[name] for name in ("aster", "sentinel2", "landsat8"))


@pytest.mark.parametrize(
    ("dtype", "mark", "marked"),
    [
        ("float32", -9999.9, np.float32(-9999.9)),
        ("float32", 1e20, np.float32(1e20)),
        ("float32", -3.4e38, np.float32(-3.4e38)),
        ("float32", -3.40282e38, np.finfo("float32").min),  # as gdalinfo of old printed it
        ("float32", 3.4028236e38, np.finfo("float32").max),
        ("float64", -9999.9, -9999.9),
        ("int64", 2**53 + 1, 2**53 + 1),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("uint8", 255, 255),
    ],
)
def test_no_data_is_compared_in_the_files_own_type(tmp_path: Path, dtype: str, mark: float, marked: Any) -> None:
    values = np.zeros((1, 4, 4), dtype)
    values[0, 1, 2] = marked
    values[0, 3, 3] = np.nextafter(np.array(marked, dtype), np.array(0, dtype)) if dtype[0] == "f" else marked - 1
    path = write_tif(tmp_path / "a.tif", values)
    raster = read_raster(path, path, (mark,))
    assert raster.values.dtype == dtype
    assert np.argwhere(raster.missing).tolist() == [[0, 1, 2]]


def test_lists_of_marks_and_none_at_all_replace_the_files_tag(tmp_path: Path) -> None:
    values = np.arange(16, dtype="int16").reshape(1, 4, 4)
    path = write_tif(tmp_path / "a.tif", values, nodata=7)
    for marks, missing in ((None, [7]), ((), []), ((3, -9999, 5), [3, 5])):
        raster = read_raster(path, path, marks)
        assert raster.values[raster.missing].tolist() == missing


def test_a_mark_that_no_value_can_equal_is_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.ones((1, 4, 4), "uint8"))
    with pytest.raises(
        FileInputError, match=r"a\.tif: nodata: expected a number that uint8 can hold, got -9999, which"
    ):
        read_raster(path, path, (-9999,))
    assert not read_raster(path, path, (-9999, 255)).missing.any()  # of a list, one is enough
    assert not read_raster(path, path, (math.nan,)).missing.any()  # NaN is missing wherever there can be one
    assert in_type(0.5, np.dtype("int16")) == in_type(1e39, np.dtype("float32")) == ()


@pytest.mark.parametrize(
    ("given", "marks"), [(None, ()), (5, (5,)), ([1, 2.5], (1, 2.5)), ([], ()), (2**60 + 1, (2**60 + 1,))]
)
def test_a_field_nodata_is_a_number_a_list_or_null(given: object, marks: tuple[float, ...]) -> None:
    assert as_marks(given) == marks


@pytest.mark.parametrize("given", ["1e20", True, [1, "a"], {"a": 1}])
def test_other_fields_nodata_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"a number, a list of numbers or null, got .*1\.0e\+20"):
        as_marks(given)


@pytest.mark.parametrize("kind", ["internal", "msk", "alpha", "png"])
def test_what_a_file_hides_is_missing(tmp_path: Path, kind: str) -> None:
    bands = 4 if kind in ("alpha", "png") else 3
    values = np.full((bands, 8, 8), 100, "uint8")
    hidden = np.zeros((8, 8), bool)
    hidden[:3, :5] = True
    if bands == 4:
        values[3] = np.where(hidden, 0, 255)
    path = write_tif(tmp_path / ("a.png" if kind == "png" else "a.tif"), values, driver="PNG" if kind == "png" else "GTiff")  # fmt: skip
    if bands == 3:
        internal = "YES" if kind == "internal" else "NO"
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(~hidden)
        assert (tmp_path / "a.tif.msk").exists() == (kind == "msk")
    raster = read_raster(path, path).select([2, 0])
    assert (raster.missing == hidden).all()
    assert raster.values.shape == (2, 8, 8)


def test_an_alpha_band_that_is_wanted_holds_data(tmp_path: Path) -> None:
    """GDAL calls the fourth band of any four of bytes alpha: near infrared, more often than not."""
    values = np.full((4, 4, 4), 9, "uint8")
    values[3, 0] = 0
    path = write_tif(tmp_path / "a.tif", values)
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3].name == "alpha"
    assert not read_raster(path, path).select([0, 1, 2, 3]).missing.any()
    assert read_raster(path, path).select([0, 1, 2]).missing[:, 0].all()


def test_tags_lead_to_stored_units_where_nothing_else_is_given(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.ones((2, 4, 4), "int16"))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.0001, 0.0002), (-0.1, 0.0)
    tags = read_raster(path, path).tags
    assert tags == ((0.0001, -0.1), (0.0002, 0.0))
    # Sentinel-2 is stored as reflectance x 10,000: baseline 04.00 in files with tags is numbers - 1,000.
    factors = calibrate(tags, SENTINEL2, None, None, path).factors
    assert factors == (pytest.approx((1, -1000)), pytest.approx((2, 0)))
    # Landsat 8 is stored as its own Collection 2 numbers: reflectance = number * 0.0000275 - 0.2.
    assert calibrate(((0.0000275, -0.2),), LANDSAT, None, None, path).factors == (pytest.approx((1, 0)),)


def test_given_numbers_replace_tags_and_half_a_pair_is_refused() -> None:
    tags = ((0.1, 0.0), (0.5, 0.0))
    both = calibrate(tags, ASTER, 2.0, 3.0, "a.tif")
    assert both.factors == ((2.0, 3.0),) * 2
    assert both.ignored == "the tags scale 0.1, 0.5 and offset 0"
    assert not calibrate(((0.1, 0.0),), ASTER, 0.1, 0.0, "a.tif").ignored  # the same numbers: nothing is lost
    assert calibrate(((1.0, 0.0),), ASTER, None, -5.0, "a.tif").factors == ((1.0, -5.0),)
    with pytest.raises(
        FileInputError, match=r"both or neither, since the file has the tags scale 0\.1, 0\.5.*add scale"
    ):
        calibrate(tags, ASTER, None, 3.0, "a.tif")
    with pytest.raises(FileInputError, match="add offset"):
        calibrate(((1.0, 5.0),), ASTER, 2.0, None, "a.tif")
    codes = calibrate(tags, CATALOG.modalities["esa_worldcover"], None, None, "a.tif")
    assert codes.factors == ((1.0, 0.0),) * 2
    assert codes.ignored


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_sidecars_are_what_gdal_lists(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.ones((1, 64, 64), "uint16"), transform=None, crs=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.eye(64, dtype=bool))
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><Metadata><MDI key='a'>b</MDI></Metadata></PAMDataset>")
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n600000\n5300000\n")
    with rasterio.Env(TIFF_USE_OVR="YES"), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2])
    for other in ("b.tif", "a.csv", "b.tif.msk", "a.tif.txt"):
        (tmp_path / other).touch()
    with rasterio.open(path) as dataset:
        listed = {Path(name).name for name in dataset.files} | {"a.tif.msk"}  # rasterio leaves masks out of the list
    assert {"a.tif.ovr", "a.tfw", "a.tif.aux.xml"} < listed
    assert set(Siblings.of(tmp_path).sidecars("a.tif")) == listed - {"a.tif"}
