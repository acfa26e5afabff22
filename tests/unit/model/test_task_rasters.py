"""Rasters of labelled tasks: what is missing in them, their units, their bands and their masks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from click.testing import CliRunner

from mmearth_data import FileInputError, InputError, load_catalog
from mmearth_model.cli import cli
from mmearth_model.tasks import LabelledSet, open_files, open_task
from mmearth_model.tasks.spec import TaskSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SENTINEL2 = load_catalog().find("sentinel2")
RED, GREEN, BLUE = (SENTINEL2.bands.index(band) for band in ("B4", "B3", "B2"))
TEN, TWENTY, SIXTY = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12"), ("B01", "B09")


def write(path: Path, values: np.ndarray[Any, Any], driver: str = "GTiff", **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver=driver, **shape, **profile) as file:
        file.write(values)
    return path


def rgb(**changes: Any) -> TaskSpec:
    fields = {"name": "mine", "layout": "folder", "kind": "single-label", "bands": ["B4", "B3", "B2"]}
    return TaskSpec(**fields | changes)


def image(task: LabelledSet, row: int = 0) -> np.ndarray[Any, Any]:
    (batch,) = task.images.batches(np.array([row]), 1, ("sentinel2",))
    found: np.ndarray[Any, Any] = batch["sentinel2"][0]
    return found


def pair(root: Path, values: np.ndarray[Any, Any], suffix: str = "tif", **profile: Any) -> list[Path]:
    """Two samples of two classes."""
    return [write(root / f"{name}/{name}.{suffix}", values, **profile) for name in "ab"]


# Missing


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["internal", "msk", "alpha"])
def test_what_a_file_hides_is_missing_in_a_task_too(tmp_path: Path, kind: str, packed: bool) -> None:
    hidden = np.zeros((16, 16), bool)
    hidden[:8] = True
    values = np.full((3, 16, 16), 100, "uint8")
    values[:, hidden] = 250
    if kind == "alpha":
        values = np.concatenate([values, np.where(hidden, 0, 255).astype("uint8")[None]])
    for path in pair(tmp_path / "set", values):
        if kind != "alpha":
            internal = "YES" if kind == "internal" else "NO"
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
                file.write_mask(~hidden)
    root = tmp_path / "set"
    if packed:
        root = tmp_path / "set.zip"
        with zipfile.ZipFile(root, "w") as archive:
            for path in (tmp_path / "set").rglob("*.*"):
                archive.write(path, path.relative_to(tmp_path / "set"))
    bands = ["B4", "B3", "B2", *([None] if kind == "alpha" else [])]
    found = image(open_files(rgb(bands=bands), root))
    assert (found[RED][hidden] == SENTINEL2.nodata).all()
    assert (found[RED][~hidden] == 100).all()


def test_no_data_of_tasks_is_a_number_a_list_or_null_in_the_files_type(tmp_path: Path) -> None:
    values = np.full((3, 8, 8), 50, "float32")
    values[:, 0], values[:, 1] = -9999.9, 7.0
    pair(tmp_path, values, nodata=7)
    for nodata, missing in ((-9999.9, [0]), ([-9999.9, 7], [0, 1]), (None, []), ("absent", [1])):
        given = {} if nodata == "absent" else {"nodata": nodata}
        found = image(open_files(rgb(**given), tmp_path))[RED]
        assert np.flatnonzero((found == SENTINEL2.nodata).all(axis=1)).tolist() == missing
    digests = [open_files(rgb(**given), tmp_path).images.digest for given in ({}, {"nodata": None}, {"nodata": 7})]
    assert len(set(digests)) == 3


def test_a_number_that_the_files_cannot_hold_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, np.ones((3, 8, 8), "uint8"))
    with pytest.raises(FileInputError, match=r"a\.tif: nodata: expected a number that uint8 can hold, got -9999"):
        image(open_files(rgb(nodata=-9999), tmp_path))


# Units


def test_tags_of_the_files_lead_to_the_catalogs_units(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in pair(tmp_path, np.full((3, 8, 8), 3000, "uint16")):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (0.0001,) * 3, (-0.1,) * 3
    assert image(open_files(rgb(), tmp_path))[RED] == pytest.approx(2000)
    task = open_files(rgb(scale=1, offset=0), tmp_path)
    assert (image(task)[RED] == 3000).all()
    image(task, 1)
    (record,) = caplog.records
    assert record.getMessage() == (
        "a/a.tif: the tags scale 0.0001 and offset -0.1 are ignored for scale and offset of the task file."
    )
    with pytest.raises(FileInputError, match="both or neither"):
        image(open_files(rgb(offset=-1000), tmp_path))


# Bands


def test_null_skips_a_band_by_place_and_by_name(tmp_path: Path) -> None:
    values = np.stack([np.full((8, 8), number, "uint16") for number in (1, 2, 3, 4)])
    paths = pair(tmp_path, values)
    found = image(open_files(rgb(bands=["B4", None, "B3", "B2"]), tmp_path))
    assert [found[band, 0, 0] for band in (RED, GREEN, BLUE)] == [1, 3, 4]
    spec = rgb(bands={"red": "B4", "other": None, "green": "B3", "blue": "B2"})
    assert [image(open_files(spec, tmp_path))[band, 0, 0] for band in (RED, GREEN, BLUE)] == [1, 3, 4]
    for path in paths:
        with rasterio.open(path, "r+") as file:
            file.descriptions = ("blue", "red", "other", "green")
    assert [image(open_files(spec, tmp_path))[band, 0, 0] for band in (RED, GREEN, BLUE)] == [2, 4, 1]
    with pytest.raises(FileInputError, match=r"expected 3 bands \(B4, B3, B2\), got 4; list one name.*null for those"):
        image(open_files(rgb(), tmp_path))


@pytest.mark.parametrize(
    ("bands", "expected"), [([None, None], "got none"), (["B4", "B4"], "got B4 twice"), ({"a": None}, "got none")]
)
def test_no_band_and_a_band_twice_are_refused(bands: Any, expected: str) -> None:
    with pytest.raises(InputError, match=f"bands: expected every band once, {expected}"):
        rgb(bands=bands)


# A file for each band


def patch(root: Path, name: str, seed: int, **holes: tuple[int, int]) -> dict[str, np.ndarray[Any, Any]]:
    """Write a patch of 1,200 m as BigEarthNet has it: 120, 60 or 20 px; values are planes that rise to the right."""
    found = {}
    for bands, side in ((TEN, 120), (TWENTY, 60), (SIXTY, 20)):
        for number, band in enumerate(bands):
            x = (np.arange(side) + 0.5) * 1200 / side
            values = np.tile(1000 * seed + 100 * number + x, (1, side, 1)).round().astype("uint16")
            if band in holes:
                values[0][holes[band]] = 0
            grid = {
                "crs": "EPSG:32633",
                "transform": rasterio.Affine(1200 / side, 0, 500_000, 0, -1200 / side, 5_000_000),
            }
            write(root / name / f"{name}_{band}.tif", values, nodata=0, **grid)
            found[band] = values[0]
    return found


def names(*bands: str) -> dict[str, str]:
    return {band: band.replace("B0", "B") for band in bands}


def bigearthnet(root: Path, patches: int) -> tuple[Path, Path]:
    """Return a task file of six lines and a table beside the patches."""
    for number in range(patches):
        patch(root, f"S2A_{number}", 1 + number % 2)
    rows = [f"S2A_{n},{'Pastures;Sea' if n % 2 else 'Sea'},{'train' if n < patches - 4 else 'test'}" for n in range(patches)]  # fmt: skip
    (root / "table.csv").write_text("\n".join(["patch_id,label,split", *rows]))
    bands = json.dumps(names(*TEN, *TWENTY, *SIXTY)).replace('"', "")
    (root / "ben.yaml").write_text(
        f"name: ben\nlayout: table\nkind: multi-label\nbands: {bands}\n"
        "path: \"{patch_id}/{patch_id}_{band}.tif\"\nseparator: ;\n"
    )  # fmt: skip
    return root / "ben.yaml", root / "table.csv"


def test_a_folder_of_one_file_per_band_is_evaluated_from_six_lines(tmp_path: Path) -> None:
    task, table = bigearthnet(tmp_path, 12)
    spec = yaml.safe_load(task.read_text())
    assert len(task.read_text().splitlines()) == 6
    assert len(spec["bands"]) == 12
    options = ["--baseline", "statistics", "--protocol", "knn", "--seeds", "1", "--json", "--cache", str(tmp_path / "cache")]  # fmt: skip
    result = CliRunner().invoke(cli, ["evaluate", "--task", f"{task}={table}", *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"][0]["value"] == pytest.approx(1)  # the classes differ by 1,000 everywhere


def test_bands_are_brought_to_the_finest_grid_and_holes_stay(tmp_path: Path) -> None:
    values = patch(tmp_path, "p", 1, B02=(50, 60), B05=(30, 30), B01=(10, 10))
    (tmp_path / "t.csv").write_text("path,label\np/p_{band}.tif,a\n")
    task = open_files(rgb(layout="table", bands=names(*TEN, *TWENTY, *SIXTY)), tmp_path / "t.csv")
    found = dict(zip(SENTINEL2.bands, image(task), strict=True))
    assert found["B2"].shape == (120, 120)
    for band in TEN:
        assert np.array_equal(found[names(band)[band]], values[band])
    x = (np.arange(120) + 0.5) * 10
    for band, side in [(b, 60) for b in TWENTY] + [(b, 20) for b in SIXTY]:
        plane, pixel = found[names(band)[band]], 1200 // side
        seen = plane != 0
        inner = (x >= pixel) & (x <= 1200 - pixel) & seen.all(axis=0)
        base = float(values[band][0, 0]) - pixel / 2
        assert abs(plane[:, inner] - base - x[inner]).max() <= 1, band  # a plane in metres, rounded when written
        step = 120 // side
        row, col = ((30, 30) if band == "B05" else (10, 10)) if band in ("B05", "B01") else (None, None)
        if row is None:
            assert seen.all()
        else:
            hole = np.zeros((120, 120), bool)
            hole[row * step : (row + 1) * step, col * step : (col + 1) * step] = True
            near = np.zeros((120, 120), bool)
            near[(row - 1) * step : (row + 2) * step, (col - 1) * step : (col + 2) * step] = True
            assert not seen[hole].any()
            assert seen[~near].all()
    assert image(task)[SENTINEL2.bands.index("B10")].max() == 0


def test_lists_name_files_by_the_catalogs_bands(tmp_path: Path) -> None:
    for band, number in (("B4", 4), ("B2", 2)):
        write(tmp_path / f"x.{band}.tif", np.full((1, 8, 8), number, "uint8"))
    (tmp_path / "t.csv").write_text("id,label\nx,a\n")
    task = open_files(rgb(layout="table", path="{id}.{band}.tif", bands=["B4", None, "B2"]), tmp_path / "t.csv")
    assert [image(task)[band, 0, 0] for band in (RED, BLUE)] == [4, 2]


def spoil_absent(root: Path) -> None:
    (root / "p" / "p_B05.tif").unlink()


def spoil_shape(root: Path) -> None:
    write(root / "p" / "p_B05.tif", np.ones((1, 60, 30), "uint16"))


def spoil_bands(root: Path) -> None:
    write(root / "p" / "p_B05.tif", np.ones((2, 60, 60), "uint16"))


def spoil_area(root: Path) -> None:
    write(
        root / "p" / "p_B05.tif",
        np.ones((1, 60, 60), "uint16"),
        transform=rasterio.Affine(20, 0, 500_020, 0, -20, 5_000_000),
    )


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_absent, "p_B05.tif: expected a raster file, got nothing there"),
        (spoil_shape, "p_B05.tif: expected the shape of the other bands, 120 x 120 px or coarser, got 60 x 30"),
        (spoil_bands, r"p_B05.tif: expected one band in each file of a path with \{band\}, got 2"),
        (spoil_area, "p_B05.tif: expected the corners of the other bands"),
    ],
)
def test_files_of_bands_that_do_not_fit_together_are_named(tmp_path: Path, spoil: Any, expected: str) -> None:
    patch(tmp_path, "p", 1)
    spoil(tmp_path)
    (tmp_path / "t.csv").write_text("path,label\np/p_{band}.tif,a\n")
    task = open_files(rgb(layout="table", bands=names("B02", "B05")), tmp_path / "t.csv")
    with pytest.raises(FileInputError, match=expected):
        image(task)


@pytest.mark.parametrize(
    ("path", "rows", "expected"),
    [
        ("{patch}/{band}.tif", "x,a", r"a column for each name in braces of .*got no 'patch'; did you mean 'patch_id'"),
        ("{patch_id}/{band}.tif", "x,a\n ,b", r"expected patch_id in every row, for .*, got none in row 2"),
    ],
)
def test_patterns_that_the_table_does_not_fill_are_refused(tmp_path: Path, path: str, rows: str, expected: str) -> None:
    (tmp_path / "t.csv").write_text(f"patch_id,label\n{rows}\n")
    with pytest.raises(FileInputError, match=expected):
        open_files(rgb(layout="table", path=path), tmp_path / "t.csv")


# Sidecars


@pytest.mark.parametrize("name", ["a.tif.msk", "a.tif.aux.xml", "a.tif.ovr", "a.tfw"])
@pytest.mark.parametrize("packed", [False, True])
def test_sidecars_are_part_of_what_images_are(tmp_path: Path, name: str, packed: bool) -> None:
    pair(tmp_path / "set", np.ones((3, 8, 8), "uint8"))

    def digest(zip_name: str) -> str:
        if not packed:
            return open_files(rgb(), tmp_path / "set").images.digest
        with zipfile.ZipFile(tmp_path / zip_name, "w") as archive:
            for path in sorted((tmp_path / "set").rglob("*.*")):
                archive.write(path, path.relative_to(tmp_path / "set"))
        return open_files(rgb(), tmp_path / zip_name).images.digest

    before = digest("one.zip")
    (tmp_path / "set" / "a" / "notes.txt").write_text("no sidecar")
    assert digest("two.zip") == before
    (tmp_path / "set" / "a" / name).write_text("a sidecar")
    assert digest("three.zip") != before


# Masks


def masks(root: Path, mask: np.ndarray[Any, Any], **changes: Any) -> np.ndarray[Any, Any]:
    write(root / "i.tif", np.full((3, *mask.shape), 100, "uint16"))
    write(root / "m.tif", mask[None], **changes.pop("profile", {}))
    (root / "t.csv").write_text("path,mask\ni.tif,m.tif\n")
    fields = {"layout": "table", "kind": "segmentation", "mask": "mask", "classes": ("a", "b")}
    task = open_files(rgb(**fields | changes), root / "t.csv")
    assert task.masks is not None
    found: np.ndarray[Any, Any] = task.masks(np.array([0]))[0]
    return found


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32"])
def test_ignored_ids_of_any_type_are_unlabelled(tmp_path: Path, dtype: str) -> None:
    ignore = 127 if dtype == "int8" else 255
    mask = np.tile(np.array([0, 1, 1, ignore], dtype), (4, 1))
    assert masks(tmp_path, mask, ignore=ignore).tolist() == [[0, 1, 1, -1]] * 4
    assert masks(tmp_path, mask, profile={"nodata": ignore}).tolist() == [[0, 1, 1, -1]] * 4


@pytest.mark.parametrize(
    ("dtype", "wrong", "got"),
    [
        ("float32", 0.5, "0.5"),
        ("float64", 1.25, "1.25"),
        ("uint64", 2**64 - 1, "1.84467440737e\\+19"),  # -1, were it wrapped: unlabelled
        ("int64", 2**32 + 1, "4294967297"),  # 1, were it wrapped
        ("int16", -1, "-1"),
        ("uint8", 2, "2"),
        ("float64", 1e300, "1e\\+300"),
    ],
)
def test_ids_that_are_no_class_are_refused_with_file_and_value(
    tmp_path: Path, dtype: str, wrong: Any, got: str
) -> None:
    mask = np.zeros((4, 4), dtype)
    mask[2, 2] = wrong
    with pytest.raises(FileInputError, match=rf"m\.tif: expected classes 0 to 1 in the mask, got {got}; give ignore"):
        masks(tmp_path, mask)


def test_quantities_of_masks_take_the_files_tags(tmp_path: Path) -> None:
    write(tmp_path / "i.tif", np.full((3, 4, 4), 100, "uint16"))
    path = write(tmp_path / "m.tif", np.full((1, 4, 4), 123, "int16"), nodata=-1)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.1,)
        file.write(np.full((1, 1, 4), -1, "int16"), window=rasterio.windows.Window(0, 0, 4, 1))
    (tmp_path / "t.csv").write_text("path,mask\ni.tif,m.tif\n")
    task = open_files(rgb(layout="table", kind="pixel-regression", mask="mask"), tmp_path / "t.csv")
    assert task.masks is not None
    found = task.masks(np.array([0]))[0]
    assert np.isnan(found[0]).all()
    assert found[1:] == pytest.approx(12.3)


def test_patterns_name_masks_too(tmp_path: Path) -> None:
    write(tmp_path / "x" / "B4.tif", np.full((1, 8, 8), 9, "uint8"))
    write(tmp_path / "x" / "map.tif", np.eye(8, dtype="uint8")[None])
    (tmp_path / "t.csv").write_text("id\nx\n")
    (tmp_path / "t.yaml").write_text(
        'name: t\nlayout: table\nkind: segmentation\nclasses: [a, b]\nbands: [B4]\npath: "{id}/{band}.tif"\nmask: "{id}/map.tif"\n'
    )
    task = open_task(f"{tmp_path / 't.yaml'}={tmp_path / 't.csv'}")
    assert task.masks is not None
    assert np.array_equal(task.masks(np.array([0]))[0], np.eye(8))
