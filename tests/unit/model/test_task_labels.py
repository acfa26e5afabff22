"""Labels as people write them: cleaned of what carries no meaning, refused with their rows where they are no answer."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio

from mmearth_data import FileInputError, InputError
from mmearth_model.evaluation import evaluate
from mmearth_model.tasks import LabelledSet, open_files
from mmearth_model.tasks.spec import TaskSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_raster(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype) as file:
        file.write(values)


def rasters(root: Path, *names: str) -> None:
    """Small rasters, no two alike."""
    for number, name in enumerate(names):
        write_raster(root / name, np.full((3, 8, 8), 100 + number, np.uint16))


def task(path: Path, **changes: Any) -> LabelledSet:
    fields: dict[str, Any] = {"name": "mine", "layout": "table", "kind": "single-label", "bands": ["B4", "B3", "B2"]}
    return open_files(TaskSpec(**{**fields, **changes}), path)


def csv(root: Path, *lines: str, header: str = "path,label") -> Path:
    path = root / "samples.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


# ---------------------------------------------------------------- one label a row


def test_space_around_a_label_a_path_or_a_part_means_nothing(tmp_path: Path) -> None:
    path = csv(
        tmp_path, "a.tif,forest,train", " b.tif ,forest ,Train", "c.tif,\twater, test ", header="path,label,part"
    )
    found = task(path, splits={"column": "part"})
    assert (found.classes, found.labels.tolist()) == (("forest", "water"), [0, 0, 1])
    assert found.ids == ("a.tif", "b.tif", "c.tif")
    assert (found.parts.train.tolist(), found.parts.test.tolist()) == ([0, 1], [2])


@pytest.mark.parametrize("blank", ["", "  ", "NaN", "nan"])
def test_rows_without_a_label_are_refused_with_their_numbers(tmp_path: Path, blank: str) -> None:
    rows = [f"{n}.tif,{blank if n in (3, 8) else 'ab'[n % 2]}" for n in range(12)]
    with pytest.raises(FileInputError, match=r"expected a value of label in every row, got none in data rows 4, 9; "):
        task(csv(tmp_path, *rows))


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_null_and_nan_of_geoparquet_are_no_class(tmp_path: Path, missing: Any) -> None:
    labels = [1.0, 2.0, missing, 2.0]
    pd.DataFrame({"path": list("wxyz"), "label": labels}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(FileInputError, match="got none in data row 3"):
        task(tmp_path / "t.parquet")
    pd.DataFrame({"path": list("wxyz"), "label": [1.0, 2.0, 1.0, 2.0]}).to_parquet(tmp_path / "t.parquet")
    assert task(tmp_path / "t.parquet").classes == ("1", "2")  # whole numbers beside a null have become floats


def test_labels_outside_the_classes_are_refused_with_rows_and_what_was_meant(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,forest", "b,forrest", "c,water", "d,forrest")
    with pytest.raises(FileInputError, match=r"got 'forrest' in data rows 2, 4; .*Did you mean 'forest'\?"):
        task(path, classes=("forest", "water"))


def test_labels_that_differ_in_case_only_are_not_two_classes(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,forest", "b,Forest", "c,water")
    with pytest.raises(FileInputError, match="got Forest and forest; write them alike"):
        task(path)
    assert task(path, classes=("forest", "Forest", "water")).labels.tolist() == [0, 1, 2]


def test_rows_without_a_path_mask_or_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match="expected a value of path in every row, got none in data row 2"):
        task(csv(tmp_path, "a.tif,x", ",y"))
    with pytest.raises(FileInputError, match="expected a value of mask in every row, got none in data row 1"):
        task(csv(tmp_path, "a.tif,", header="path,mask"), kind="segmentation", mask="mask", classes=("x",))
    with pytest.raises(FileInputError, match="expected train, val or test in part, got nothing in data rows 1, 3"):
        task(csv(tmp_path, "a,x,", "b,y,test", "c,y,", header="path,label,part"), splits={"column": "part"})


def test_a_class_that_occurs_once_is_reported_with_its_row(tmp_path: Path) -> None:
    rows = [f"{n}.tif,{'ab'[n % 2]}" for n in range(20)]
    found = task(csv(tmp_path, *rows, "20.tif,rare"))
    assert "classes that occur once and can be learned or tested, not both: rare (data row 21)." in found.notes
    assert task(csv(tmp_path, *rows)).notes == ()


def test_a_class_that_is_only_tested_is_reported(tmp_path: Path) -> None:
    rows = ["a,x,train", "b,y,train", "c,x,test", "d,z,test", "e,z,test"]
    found = task(csv(tmp_path, *rows, header="path,label,part"), splits={"column": "part"})
    assert any(note == "classes that are tested and have no training sample: z." for note in found.notes)


# ---------------------------------------------------------------- several labels a row, and numbers


def test_columns_of_several_labels_hold_0_or_1(tmp_path: Path) -> None:
    header, columns = "path,tree,lake", ("tree", "lake")
    assert task(csv(tmp_path, "a,1,0", "b,0,1.0", header=header), kind="multi-label", label=columns).labels.tolist() == [[1, 0], [0, 1]]  # fmt: skip
    for cell, got in (("2", "got 2 in data row 2"), ("0.5", "got 0.5 in data row 2"), ("-1", "got -1"), ("", "got nothing in data row 2"), ("yes", "got yes")):  # fmt: skip
        with pytest.raises(FileInputError, match=got):
            task(csv(tmp_path, "a,1,0", f"b,0,{cell}", header=header), kind="multi-label", label=columns)


def test_lists_of_labels_are_read_from_text_and_from_lists(tmp_path: Path) -> None:
    found = task(csv(tmp_path, 'a,"lake , tree"', "b,tree", "c,"), kind="multi-label")
    assert (found.classes, found.labels.tolist()) == (("lake", "tree"), [[1, 1], [0, 1], [0, 0]])
    assert found.notes == ("no label in label of data row 3, taken as none of the classes.",)
    pd.DataFrame({"path": ["a", "b"], "label": [["lake", "tree"], ["tree "]]}).to_parquet(tmp_path / "t.parquet")
    assert task(tmp_path / "t.parquet", kind="multi-label").labels.tolist() == [[1, 1], [0, 1]]
    pd.DataFrame({"path": ["a", "b"], "label": [["lake"], None]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(FileInputError, match="got null in data row 2"):
        task(tmp_path / "t.parquet", kind="multi-label")
    with pytest.raises(FileInputError, match="got 'sea' in data row 2"):
        task(csv(tmp_path, "a,tree", 'b,"tree,sea"'), kind="multi-label", classes=("lake", "tree"))


def test_quantities_are_finite_numbers(tmp_path: Path) -> None:
    for cell, got in (("inf", "got inf in data rows 2, 3"), ("", "got nothing in data rows 2, 3"), ("1,2", "got")):
        with pytest.raises(FileInputError, match=f"expected finite numbers as labels in label, {got}"):
            task(csv(tmp_path, "a,1", f'b,"{cell}"', f'c,"{cell}"'), kind="regression")


# ---------------------------------------------------------------- repeated files


def test_a_file_in_two_parts_or_with_two_labels_is_refused(tmp_path: Path) -> None:
    header, splits = "path,label,part", {"column": "part"}
    with pytest.raises(FileInputError, match=r"got a\.tif in several by data rows 1, 3"):
        task(csv(tmp_path, "a.tif,x,train", "b.tif,y,train", "./a.tif,x,test", header=header), splits=splits)
    with pytest.raises(FileInputError, match=r"got different ones for a\.tif in data rows 1, 3"):
        task(csv(tmp_path, "a.tif,x,train", "b.tif,y,train", "a.tif,y,train", header=header), splits=splits)
    rows = ["a.tif,x,train", "b.tif,y,train", "a.tif,x,train", "c.tif,x,test", "d.tif,y,test"]
    found = task(csv(tmp_path, *rows, header=header), splits=splits)
    assert "1 files are listed more than once and count as often (a.tif in data rows 1, 3)." in found.notes


# ---------------------------------------------------------------- parts


def test_shares_that_leave_a_part_empty_are_refused_with_shares_that_work(tmp_path: Path) -> None:
    path = csv(tmp_path, *(f"{n}.tif,{'ab'[n % 2]}" for n in range(6)))
    with pytest.raises(
        InputError, match=r"got 4 to train, 2 to validate and 0 to test on; set splits: \{shares: \["
    ) as error:
        task(path).check()
    shares = json.loads(str(error.value).partition("shares: ")[2].partition("}")[0])
    found = task(path, splits={"shares": shares})
    found.check()
    assert all(len(part) for part in (found.parts.train, found.parts.validation, found.parts.test))
    with pytest.raises(InputError, match="add samples: with these shares, at least one class needs 5"):
        task(csv(tmp_path, "a.tif,a", "b.tif,b")).check()
    task(csv(tmp_path, *(f"{n}.tif,{'ab'[n % 2]}" for n in range(10)))).check()
    without = {"shares": [50, 0, 50]}  # asks for none to validate
    task(csv(tmp_path, "a,a", "b,b", "c,a", "d,b"), splits=without).check()


@pytest.mark.parametrize("shares", [[70, 15, 0], [0, 50, 50], [70, -15, 45]])
def test_shares_that_cannot_be_are_refused(shares: list[float]) -> None:
    with pytest.raises(InputError, match=r"splits\.shares: expected shares of train, validation and test"):
        TaskSpec(name="a", layout="table", kind="single-label", bands=["B2"], splits={"shares": shares})


PUBLISHED = ("train/a/1.tif", "train/a/2.tif", "train/b/1.tif", "Val/b/3.tif", "test/a/4.tif", "test/b/5.tif")


@pytest.mark.parametrize("top", ["", "EuroSAT/", "data/EuroSAT/"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_split_that_exists_as_folders_is_used(tmp_path: Path, top: str, zipped: bool) -> None:
    root = tmp_path / "set"
    rasters(root, *(top + name for name in PUBLISHED))
    if zipped:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.mkdir("__MACOSX")
            archive.writestr("__MACOSX/train/a/._1.tif", b"\0\5\x16\7")
            for path in sorted(root.rglob("*.tif")):
                archive.write(path, path.relative_to(root))
        root = tmp_path / "set.zip"
    found = task(root, layout="folder")
    found.check()
    parts = {Path(found.ids[row]).relative_to(top).parts[0] for row in found.parts.train}
    assert parts == {"train"}
    named = [{Path(found.ids[row]).name for row in part} for part in (found.parts.validation, found.parts.test)]
    assert named == [{"3.tif"}, {"4.tif", "5.tif"}]
    assert (found.classes, len(found)) == (("a", "b"), 6)


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    rasters(tmp_path, "test/1.tif", "test/2.tif", "other/3.tif", "other/4.tif")
    assert task(tmp_path, layout="folder").classes == ("other", "test")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train/1.tif", "test/2.tif"), "got rasters directly in them"),
        (("train/a/1.tif", "b/2.tif"), r"train, val or test, class, raster, one folder in the other, got b/2\.tif"),
        (("a/1.tif", "b/more/2.tif"), r"expected every raster as class, raster.*got b/more/2\.tif"),
        (("train/a/x/1.tif", "test/a/2.tif"), r"got train/a/x/1\.tif"),
    ],
)
def test_layouts_that_mix_are_refused(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    rasters(tmp_path, *names)
    with pytest.raises(InputError, match=expected):
        task(tmp_path, layout="folder")


def test_the_same_file_in_two_parts_is_refused(tmp_path: Path) -> None:
    rasters(tmp_path / "set", "train/a/1.tif", "train/b/2.tif", "test/a/1.tif")
    task(tmp_path / "set", layout="folder")  # the same name, another picture
    (tmp_path / "set/test/a/1.tif").write_bytes((tmp_path / "set/train/a/1.tif").read_bytes())
    with pytest.raises(InputError, match=r"the same file as test/a/1\.tif and train/a/1\.tif"):
        task(tmp_path / "set", layout="folder")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for item, name in (("train/a/1.tif", "train/a/1.tif"), ("train/b/2.tif", "train/b/2.tif"), ("test/a/1.tif", "test/a/other.tif")):  # fmt: skip
            archive.write(tmp_path / "set" / item, name)
    with pytest.raises(InputError, match=r"the same file as test/a/other\.tif and train/a/1\.tif"):
        task(tmp_path / "set.zip", layout="folder")


def test_empty_parts_of_folders_say_what_to_do(tmp_path: Path) -> None:
    rasters(tmp_path, "train/a/1.tif", "train/b/2.tif")
    with pytest.raises(InputError, match="got 2 to train, 0 to validate and 0 to test on; put samples of each part into the folders"):  # fmt: skip
        task(tmp_path, layout="folder").check()


# ---------------------------------------------------------------- files that were not meant


def test_what_systems_and_editors_leave_in_a_folder_or_a_zip_is_no_data(tmp_path: Path) -> None:
    rasters(tmp_path / "set", *(f"{name}/{n}.tif" for name in "ab" for n in range(4)))
    left = ["a/._0.tif", ".ipynb_checkpoints/0-checkpoint.tif", "a/.ipynb_checkpoints/0.tif", "b/Thumbs.db", "__MACOSX/a/0.tif", ".hidden/1.tif"]  # fmt: skip
    for name in left:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"\0\5\x16\7" * 20)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(path for path in (tmp_path / "set").rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(tmp_path / "set"))
    for name in ("set", "set.zip"):
        found = task(tmp_path / name, layout="folder")
        assert (found.classes, len(found), found.notes) == (("a", "b"), 8, ())


def test_rasters_beside_the_folders_of_classes_are_left_out_and_reported(tmp_path: Path) -> None:
    rasters(tmp_path, "a/1.tif", "a/2.tif", "b/3.tif", "b/4.tif", "overview.tif")
    found = task(tmp_path, layout="folder")
    assert (len(found), found.notes) == (
        4,
        ("ignored 1 rasters next to the class folders, such as overview.tif.",),
    )


# ---------------------------------------------------------------- masks without classes


def masks(root: Path, values: np.ndarray[Any, Any], count: int = 12) -> Path:
    for number in range(count):
        write_raster(root / f"{number}.tif", np.full((3, 8, 8), 100 + number, np.uint16))
        write_raster(root / f"m{number}.tif", np.roll(values, number)[None])
    return csv(root, *(f"{n}.tif,m{n}.tif" for n in range(count)), header="path,mask")


def test_classes_of_a_segmentation_are_counted_in_its_masks(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"kind": "segmentation", "mask": "mask", "splits": {"shares": [50, 20, 30]}}
    values = (np.arange(64).reshape(8, 8) % 3).astype(np.uint8)
    found = task(masks(tmp_path / "whole", values), **spec)
    assert found.classes == ("0", "1", "2")
    result = evaluate([], None, [found], protocols=("linear",), seeds=1, baselines=("random",), device="cpu")
    assert np.isfinite(result.rows[0].value)
    unlabelled = np.where(values == 2, 255, values).astype(np.uint8)
    assert task(masks(tmp_path / "ignore", unlabelled), **spec, ignore=255).classes == ("0", "1")
    with pytest.raises(
        InputError, match=r"got 0, 1, 255; list classes in order of their ids, or give ignore \(such as 255\)"
    ):
        task(masks(tmp_path / "gap", unlabelled), **spec)
    with pytest.raises(InputError, match="expected labelled pixels, got masks without any"):
        task(masks(tmp_path / "none", np.full((8, 8), 255, np.uint8)), **spec, ignore=255)


# ---------------------------------------------------------------- task files


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": ["a", "a"]}, "classes: expected different names, got 'a' twice"),
        ({"classes": ["a", " b"]}, "got ' b', which is blank or padded"),
        ({"label": ["a", "b"]}, "label: expected one column for single-label, got 2"),
        ({"kind": "multi-label", "label": ["a", "b", "a"]}, "label: expected different columns"),
        ({"kind": "multi-label", "label": ["a", "b"], "classes": ["x"]}, "expected 2 classes, one per column of label"),
    ],
)
def test_classes_and_columns_that_contradict_are_refused(changes: Any, expected: str) -> None:
    fields: dict[str, Any] = {"name": "a", "layout": "table", "kind": "single-label", "bands": ["B2"]}
    with pytest.raises(InputError, match=expected):
        TaskSpec(**{**fields, **changes})
