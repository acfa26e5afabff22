"""Properties of every raster reader: GDAL files in folders and zips, HDF5 samples, and windows of files."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from mmearth_data import FileInputError
from mmearth_data.rasterfile import open_raster, read_raster_window
from mmearth_model.tasks.files import Reader
from mmearth_model.tasks.geobench import Samples
from mmearth_model.tasks.rasters import DiskRasters, ZippedRasters

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

VALUES = np.arange(3 * 40 * 40, dtype=np.int16).reshape(3, 40, 40)
LIKE = {"count": 3, "height": 40, "width": 40, "dtype": "int16"}


class Case(NamedTuple):
    """A reader of one sample, ``VALUES``, and the file that holds it."""

    reader: Reader
    item: str
    file: Path


def write_tif(path: Path, values: np.ndarray[Any, Any] = VALUES, **profile: Any) -> Path:
    with rasterio.open(path, "w", driver="GTiff", **LIKE, **profile) as file:
        file.write(values)
    return path


@pytest.fixture(params=("folder", "zip", "hdf5"))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "hdf5":
        with h5py.File(tmp_path / "x.hdf5", "w") as file:
            for name, plane in zip(("01", "02", "03"), VALUES, strict=True):
                file[name] = plane
        return Case(Samples(tmp_path), "x", tmp_path / "x.hdf5")
    path = write_tif(tmp_path / "x.tif")
    if request.param == "folder":
        return Case(DiskRasters(tmp_path), "x.tif", path)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(path, "x.tif")
    return Case(ZippedRasters(tmp_path / "set.zip"), "x.tif", tmp_path / "set.zip")


def test_values_are_unchanged_and_none_is_missing(case: Case) -> None:
    raster = case.reader.read(case.item)
    np.testing.assert_array_equal(raster.values, VALUES)
    assert raster.values.dtype == VALUES.dtype
    assert raster.missing.shape == VALUES.shape
    assert not raster.missing.any()


@pytest.mark.parametrize("marks", [(7.0,), (7.0, 1600.0)])
def test_marks_mean_missing(case: Case, marks: tuple[float, ...]) -> None:
    raster = case.reader.read(case.item, marks)
    np.testing.assert_array_equal(raster.values, VALUES)
    np.testing.assert_array_equal(raster.missing, np.isin(VALUES, marks))


def test_bands_are_selected_with_all_that_belongs_to_them(case: Case) -> None:
    whole = case.reader.read(case.item, (1600.0,))
    part = whole.select([2, 1])
    np.testing.assert_array_equal(part.values, VALUES[[2, 1]])
    np.testing.assert_array_equal(part.missing, whole.missing[[2, 1]])


def test_a_stamp_changes_with_the_file_only(case: Case) -> None:
    before = case.reader.stamp(case.item)
    case.reader.read(case.item)
    assert case.reader.stamp(case.item) == before
    if not isinstance(case.reader, ZippedRasters):  # an open zip keeps the content that it had when it was opened
        os.utime(case.file, ns=(1, 1))
        assert case.reader.stamp(case.item) != before


def test_a_file_that_is_absent_or_broken_is_named(case: Case) -> None:
    with pytest.raises(FileInputError, match="nowhere"):
        case.reader.read("nowhere.tif")
    if not isinstance(case.reader, ZippedRasters):
        case.file.write_bytes(case.file.read_bytes()[:100])
        with pytest.raises(FileInputError, match=case.file.name):
            case.reader.read(case.item)


@pytest.mark.parametrize(
    "profile",
    [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"compress": "deflate", "interleave": "band"}],
    ids=("strips", "tiles", "compressed"),
)
@pytest.mark.parametrize("tagged", [False, True])
def test_a_window_is_a_slice_of_the_whole(profile: dict[str, Any], tagged: bool, tmp_path: Path) -> None:
    path = write_tif(tmp_path / "x.tif", **profile, **({"nodata": 1600} if tagged else {}))
    with open_raster(path, path) as dataset:
        whole = read_raster_window(dataset)
        np.testing.assert_array_equal(whole.values, VALUES)
        np.testing.assert_array_equal(whole.missing, (VALUES == 1600) & tagged)
        for column, row, width, height in ((0, 0, 40, 40), (3, 5, 20, 17), (39, 39, 1, 1)):
            part = read_raster_window(dataset, bands=(3, 1), window=Window(column, row, width, height))
            here = np.s_[[2, 0], row : row + height, column : column + width]
            np.testing.assert_array_equal(part.values, whole.values[here])
            np.testing.assert_array_equal(part.missing, whole.missing[here])
