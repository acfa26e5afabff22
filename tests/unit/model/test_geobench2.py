"""GEO-Bench 2: samples in tortilla files. ``make prove-ecosystem`` compares them with the published data sets' own classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geobench2_world import SETS, SIDE_PX, SPLITS, benv2, geotiff, open_inside, tortilla, write_named, write_set

from mmearth_data import FileInputError, InputError
from mmearth_model.tasks import IGNORED, LabelledSet, TaskKind, open_task

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LabelledSet]:
    root = tmp_path_factory.mktemp("geobench2")
    return {name: open_task(f"{name}={write_named(root, name)}") for name in SETS}


def member(name: str, number: int, position: int) -> np.ndarray[Any, Any]:
    return open_inside(SETS[name][0](number)[position][2])


def plane(task: LabelledSet, number: int, band: str) -> np.ndarray[Any, Any]:
    (batch,) = task.images.batches(np.array([number]), 1, ("sentinel2",))
    found: np.ndarray[Any, Any] = batch["sentinel2"][0, task.images.modalities["sentinel2"].bands.index(band)]
    return found


@pytest.mark.parametrize("name", SETS)
def test_samples_are_in_order_of_their_names_and_in_their_parts(sets: dict[str, LabelledSet], name: str) -> None:
    task = sets[name]
    assert task.ids == tuple(f"sample_{number}" for number in range(len(SPLITS)))
    found = {part: [SPLITS[i] for i in getattr(task.parts, part)] for part in ("train", "validation", "test")}
    assert found == {part: [split for split in SPLITS if split == part] for part in found}
    task.check()


def test_labels_are_the_flags_of_their_names(sets: dict[str, LabelledSet]) -> None:
    for name, column in (("benv2", "labels"), ("treesatai", "species_labels")):
        task = sets[name]
        assert task.kind is TaskKind.MULTI_LABEL
        for number in range(len(SPLITS)):
            wanted = SETS[name][0](number)[0][3][column]
            assert [task.classes[k] for k in np.flatnonzero(task.labels[number])] == sorted(
                wanted, key=task.classes.index
            )
    assert sets["so2sat"].labels.tolist() == [number % 5 for number in range(len(SPLITS))]


def test_bands_are_found_by_their_order_and_scaled(sets: dict[str, LabelledSet]) -> None:
    image = member("benv2", 2, 1)
    for position, band in enumerate(BANDS):
        np.testing.assert_array_equal(plane(sets["benv2"], 2, band), image[position])
    image = member("so2sat", 1, 1)
    np.testing.assert_allclose(plane(sets["so2sat"], 1, "B8A"), 10000 * image[7], rtol=1e-6)
    np.testing.assert_array_equal(plane(sets["so2sat"], 1, "B9"), plane(sets["so2sat"], 1, "B8A"))
    np.testing.assert_array_equal(plane(sets["fotw"], 3, "B8"), member("fotw", 3, 1)[3])
    assert plane(sets["treesatai"], 0, "B1").shape == (32, 32)
    planes = member("biomassters", 4, 3)  # after three months of radar
    np.testing.assert_array_equal(plane(sets["biomassters"], 4, "B12"), planes[9])


def test_masks_keep_unlabelled_pixels_apart(sets: dict[str, LabelledSet]) -> None:
    rows = np.array([0, 5])
    for name, position, unlabelled in (("cloudsen12", 1, None), ("burn_scars", 1, -1), ("fotw", 3, 3)):
        masks = sets[name].masks
        assert masks is not None
        for row, found in zip(rows, masks(rows), strict=True):
            written = member(name, int(row), position)[0].astype(np.int64)
            np.testing.assert_array_equal(found, np.where(written == unlabelled, IGNORED, written))
    masks = sets["biomassters"].masks
    assert masks is not None
    np.testing.assert_array_equal(masks(rows)[1], member("biomassters", 5, -1)[0])


def test_the_first_date_of_a_series_and_the_first_plane_of_a_mask_are_read(sets: dict[str, LabelledSet]) -> None:
    import io

    import h5py

    members = SETS["pastis"][0](3)
    with h5py.File(io.BytesIO(members[0][2])) as series, h5py.File(io.BytesIO(members[3][2])) as mask:
        np.testing.assert_array_equal(plane(sets["pastis"], 3, "B2"), series["data"][0, 0])
        assert sets["pastis"].masks is not None
        np.testing.assert_array_equal(sets["pastis"].masks(np.array([3]))[0], mask["data"][0])


def test_samples_are_georeferenced(sets: dict[str, LabelledSet]) -> None:
    outlines = sets["benv2"].images.outlines()
    assert outlines[0].centroid.x == pytest.approx(9, abs=0.01)
    assert sets["pastis"].images.outlines()[0] is None


def labelled_as(labels: object) -> Callable[[int], Any]:
    return lambda number: [(name, kind, content, {"labels": labels}) for name, kind, content, _ in benv2(number)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["Pasture"], "expected one of the 19 classes .* got 'Pasture'. Did you mean 'Pastures'?"),
        ([19], "expected one of the 19 classes .* got 19"),
        ("Pastures", "expected a list of classes in labels of sample_0"),
        (None, "expected a list of classes"),
    ],
)
def test_labels_that_no_class_has_are_refused_with_the_sample(tmp_path: Path, labels: object, expected: str) -> None:
    folder = write_set(tmp_path / "x" / "x.tortilla", labelled_as(labels))
    with pytest.raises(FileInputError, match=expected):
        open_task(f"benv2={folder}")


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK" + data[2:], lambda data: data[:2] + b"\xff" * 16 + data[18:], lambda data: data[:-40] + bytes(40)], ids=["half", "empty", "zip", "far", "table"])  # fmt: skip
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    folder = write_named(tmp_path, "benv2")
    file = folder / "geobench_benv2.tortilla"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(FileInputError, match=r"geobench_benv2\.tortilla.*expected"):
        open_task(f"benv2={folder}")


def test_members_outside_of_the_file_and_of_other_kinds_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.tortilla"
    file.write_bytes(tortilla([("a", "GTiff", geotiff(np.zeros((1, 4, 4), np.uint8)), {})], ["train"]))
    with pytest.raises(FileInputError, match="expected samples that are tortilla containers, got a"):
        open_task(f"cloudsen12={file}")
    far = {"tortilla:offset": 10**9}
    file.write_bytes(tortilla([("a", "TORTILLA", b"1234", far)], ["train"]))
    with pytest.raises(FileInputError, match="expected 'a' within the file, got position 1000000000"):
        open_task(f"cloudsen12={file}")


def test_missing_members_files_and_repeated_samples_are_refused(tmp_path: Path) -> None:
    folder = write_named(tmp_path, "cloudsen12")
    task = open_task(f"fotw={folder}")
    with pytest.raises(FileInputError, match="expected the member win_b in the sample, got s2l2a, target"):
        plane(task, 0, "B4")
    (tmp_path / "empty").mkdir()
    for path, got in ((tmp_path / "empty", "nothing"), (tmp_path / "absent", "nothing there")):
        with pytest.raises(
            InputError, match=f"expected a .tortilla file of GEO-Bench 2 or a folder of them, got {got}"
        ):
            open_task(f"fotw={path}")
    file = folder / "geobench_cloudsen12.tortilla"
    (folder / "copy.tortilla").write_bytes(file.read_bytes())
    with pytest.raises(FileInputError, match="expected each sample once, got sample_5 twice"):
        open_task(f"cloudsen12={folder}")
    assert len(open_task(f"cloudsen12={file}")) == len(SPLITS)
    assert plane(open_task(f"cloudsen12={file}"), 0, "B4").shape == (SIDE_PX, SIDE_PX)
