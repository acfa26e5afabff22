"""Planes with the wrong name, scale or nothing in them are reported; right bands of real images are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import rasterio

from mmearth_model.evaluation import evaluate
from mmearth_model.evaluation.oddity import odd_bands
from mmearth_model.tasks import LabelledSet, open_files, open_task, read_spec
from mmearth_model.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

ORDER = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A")
"""Planes of EuroSAT's files, as its authors give them."""
AS_NAMED = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
"""What GEO-Bench called them."""


@pytest.fixture(scope="module")
def eurosat(test_data: Path) -> LabelledSet:
    return open_task(f"eurosat-ms={test_data / 'eurosat_ms'}")


def named(root: Path, bands: Iterable[str], **changes: Any) -> LabelledSet:
    spec = read_spec("eurosat-ms").model_copy(update={"bands": list(bands), **changes})
    return open_files(spec, root)


def reflectances(task: LabelledSet) -> dict[str, Any]:
    """Statistics of right bands, as a checkpoint has them."""
    assert isinstance(task.parts.train, np.ndarray)
    return {"sentinel2": {"L1C": task.images.statistics(task.parts.train)}}  # type: ignore[attr-defined]


def spoken_of(lines: tuple[str, ...]) -> set[str]:
    return {line.removeprefix("sentinel2.").partition(" ")[0] for line in lines}


def test_right_bands_of_real_images_are_not_reported(eurosat: LabelledSet) -> None:
    known = reflectances(eurosat)
    assert odd_bands(eurosat, []) == odd_bands(eurosat, [known]) == ()
    for index, name in enumerate(eurosat.classes):  # forest alone, water alone, ... against statistics of all
        (rows,) = np.nonzero(eurosat.labels == index)
        alone = replace(eurosat, parts=type(eurosat.parts)(rows, rows[:0], rows[:0]))
        assert odd_bands(alone, [known]) == (), name


def test_planes_that_geobench_named_wrongly_are_reported_by_name(test_data: Path, eurosat: LabelledSet) -> None:
    wrong = named(test_data / "eurosat_ms", AS_NAMED)
    assert {"B8A", "B12"} <= spoken_of(odd_bands(wrong, []))
    lines = odd_bands(wrong, [reflectances(eurosat)])
    assert {"B8A", "B9", "B12"} <= spoken_of(lines) <= {"B8A", "B9", "B10", "B11", "B12"}
    (swir,) = (line for line in lines if line.startswith("sentinel2.B12"))
    assert "it follows B" in swir
    assert "in the pretraining mean" in swir
    assert "correlation of all means with the pretraining's" in swir
    (vapour,) = (line for line in lines if line.startswith("sentinel2.B9"))
    assert "darker by a factor of" in vapour


@pytest.mark.parametrize(("one", "other"), [("B4", "B8"), ("B9", "B8A"), ("B12", "B7"), ("B3", "B11")])
def test_two_bands_that_changed_places_are_reported(test_data: Path, one: str, other: str) -> None:
    swapped = [{one: other, other: one}.get(band, band) for band in ORDER]
    assert {one, other} & spoken_of(odd_bands(named(test_data / "eurosat_ms", swapped), []))


def test_the_real_samples_of_geobench_are_right_as_shipped_and_wrong_as_named(test_data: Path, tmp_path: Path) -> None:
    folders = {"m-eurosat": "classification_v1.0/m-eurosat", "m-brick-kiln": "ccb-test-classification/brick_kiln_v1.0"}
    expected = {"m-eurosat": {"B12"}, "m-brick-kiln": {"B11", "B12"}}
    for name, folder in folders.items():
        root = test_data / "geobench" / folder
        assert odd_bands(open_task(f"{name}={root}"), []) == ()
        with h5py.File(next(root.glob("*.hdf5"))) as file:
            by_name = {key: "B" + key.split(" - ")[0].lstrip("0") for key in file if " - " in key}
        spec = tmp_path / f"{name}.yaml"
        shipped = read_spec(name).model_dump(mode="json", exclude_defaults=True)
        spec.write_text(json.dumps(shipped | {"bands": by_name}))
        assert expected[name] <= spoken_of(odd_bands(open_task(f"{spec}={root}"), [])), name


def test_the_exchange_that_paper_order_asks_for_is_not_reported(test_data: Path) -> None:
    assert odd_bands(named(test_data / "eurosat_ms", ORDER, band_order="paper"), []) == ()


def test_other_units_are_one_line(test_data: Path, eurosat: LabelledSet) -> None:
    known = reflectances(eurosat)
    (line,) = odd_bands(named(test_data / "eurosat_ms", ORDER, scale=1e-4), [known])
    assert line.startswith("sentinel2: all bands are darker than in the pretraining by a factor of 10,")
    assert "Check scale" in line
    assert odd_bands(named(test_data / "eurosat_ms", ORDER, scale=0.5), [known]) == ()


def three_bands(root: Path, empty: float) -> LabelledSet:
    rng = np.random.default_rng(0)
    for number in range(8):
        image = rng.integers(200, 2000, (3, 16, 16)).astype(np.float32)
        image[1] = empty
        path = root / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", driver="GTiff", count=3, height=16, width=16, dtype="float32") as file:
            file.write(image)
    fields: dict[str, Any] = {"name": "mine", "layout": "folder", "kind": "single-label", "bands": ["B4", "B3", "B2"]}
    return open_files(TaskSpec(**fields, splits={"shares": [50, 25, 25]}), root)


@pytest.mark.parametrize("empty", [0.0, np.nan, 255.0])
def test_a_plane_without_content_is_reported_with_the_results(tmp_path: Path, empty: float) -> None:
    task = three_bands(tmp_path, empty)
    result = evaluate([], None, [task], protocols=("knn",), seeds=1, baselines=("statistics",), device="cpu")
    (note,) = result.notes
    assert note.startswith("mine: sentinel2.B3 is far from what its name promises: all of its pixels are ")
    assert "Check bands, scale and nodata in the task file." in note


def test_notes_of_a_task_file_come_with_the_results(test_data: Path) -> None:
    root = test_data / "geobench" / "ccb-test-classification" / "brick_kiln_v1.0"
    task = replace(open_task(f"m-brick-kiln={root}"), labels=np.array([0, 1, 0, 1, 0]))  # the sample is of one class
    result = evaluate([], None, [task], protocols=("knn",), seeds=1, baselines=("statistics",), device="cpu")
    assert any(
        "were exported as B1, B2, B3, B4, B5, B7, B8A, B8, B11, B12" in note for note in result.to_dict()["notes"]
    )
    assert any("overlap" in note for note in read_spec("m-cashew-plantation").notes)
