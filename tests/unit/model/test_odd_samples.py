"""Unusual samples: rectangular images, labels for which the metric is undefined, dates of one location."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import torch
from encoders import write_encoder
from toy_store import write_store

from mmearth_data import InputError
from mmearth_model import WindowOptions, evaluate, robustness
from mmearth_model.evaluation.finetune import FineTuneRecipe, finetune
from mmearth_model.evaluation.pixels import cut_masks
from mmearth_model.evaluation.probes import LabelledFeatures, Question, adamw, knn, linear
from mmearth_model.network.pooling import whole_patches
from mmearth_model.tasks import TaskKind, open_files, open_task
from mmearth_model.tasks.spec import TaskSpec
from mmearth_model.tasks.store import redraw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmearth_model import Checkpoint
    from mmearth_model.tasks import LabelledSet

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

IMAGES = {"train": 8, "val": 4, "test": 4}
QUICK = FineTuneRecipe(epochs=8, lr=1e-2, batch_size=4, drop_path=0.0, patience=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("encoder")
    return write_encoder(folder / "run", write_store(folder / "toy.zarr", 16))


def write_raster(path: Path, values: np.ndarray[Any, Any]) -> None:
    count, height, width = values.shape
    with rasterio.open(path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype) as file:
        file.write(values)


def task_of(folder: Path, rows: Sequence[dict[str, Any]], **fields: Any) -> LabelledSet:
    """A task of three bands with a table of these rows."""
    with (folder / "samples.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    spec = {"name": "mine", "layout": "table", "bands": ["B4", "B3", "B2"], "scale": 1, "splits": {"column": "split"}}
    return open_files(TaskSpec(**{**spec, **fields}), folder / "samples.csv")


def halves(folder: Path, height: int, width: int, **fields: Any) -> LabelledSet:
    """Images of two classes that differ only in their lower half, which the masks show."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number, split in enumerate(split for split, count in IMAGES.items() for _ in range(count)):
        bright = number % 2
        image, mask = rng.normal(1200, 50, (3, height, width)), np.zeros((1, height, width), np.uint8)
        image[:, height // 2 :] += 2000 * bright
        mask[:, height // 2 :] = bright
        write_raster(folder / f"{number}.tif", image.astype(np.uint16))
        write_raster(folder / f"{number}-mask.tif", mask)
        rows.append({"path": f"{number}.tif", "mask": f"{number}-mask.tif", "label": "ab"[bright], "split": split})
    return task_of(folder, rows, **fields)


# ---------------------------------------------------------------- rectangles


@pytest.mark.parametrize(("height", "width"), [(24, 24), (29, 21), (16, 39), (8, 15)])
def test_the_centre_of_an_image_is_cropped_on_each_axis(checkpoint: Checkpoint, height: int, width: int) -> None:
    images = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    found = whole_patches(checkpoint.encoder(), images)
    assert found.shape == (1, 1, height // 8 * 8, width // 8 * 8)
    before, after = divmod(int(found[0, 0, 0, 0]), width), divmod(int(found[0, 0, -1, -1]), width)
    for first, last, side in zip(before, after, (height, width), strict=True):
        assert 0 <= side - 1 - last - first <= 1  # as many are cut at both ends, or one more at the end
    assert np.array_equal(cut_masks(images[0].numpy(), found.shape[-2:]), found[0].numpy())


@pytest.mark.parametrize(("height", "width"), [(32, 16), (16, 32), (29, 21)])
@pytest.mark.parametrize("kind", [TaskKind.SINGLE_LABEL, TaskKind.SEGMENTATION])
def test_rectangular_images_are_learned_as_squares_are(
    checkpoint: Checkpoint, tmp_path: Path, height: int, width: int, kind: TaskKind
) -> None:
    """The whole images are used: the classes differ in the lower half only."""
    mask = {"mask": "mask", "classes": ["dark", "bright"]} if kind is TaskKind.SEGMENTATION else {}
    task = halves(tmp_path, height, width, kind=kind, **mask)
    probed = evaluate([checkpoint], None, [task], protocols=["linear"], baselines=[], seeds=1, device="cpu")
    tuned = finetune(checkpoint, task, QUICK, device="cpu")
    assert [row.value > 0.9 for row in (*probed.rows, *tuned.rows)] == [True, True], (probed.rows, tuned.rows)


# ---------------------------------------------------------------- undefined metrics


def test_an_epoch_is_chosen_where_the_metric_is_undefined(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """No validation mask has a labelled pixel: the trained network is kept, not the initial one."""
    task = halves(tmp_path, 16, 16, kind="segmentation", mask="mask", classes=["dark", "bright"], ignore=255)
    for row in task.parts.validation:
        write_raster(tmp_path / f"{row}-mask.tif", np.full((1, 16, 16), 255, np.uint8))
    result = finetune(checkpoint, task, QUICK, device="cpu")
    (row,) = result.rows
    assert row.chosen != "epoch 0"
    assert row.value > 0.9
    assert row.validation is not None
    assert np.isnan(row.validation)
    assert (
        "mine: jaccard is undefined on the validation samples (4); the epoch was chosen by the training loss"
        in result.notes
    )


@pytest.mark.parametrize("validation", [1, 0])
def test_a_fit_is_chosen_by_its_error_where_r2_is_undefined(validation: int) -> None:
    """R2 is undefined for a single validation sample, whose value cannot vary."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(9, 3))
    labels = values @ rng.normal(size=(3, 1))
    whole = LabelledFeatures(values, labels)
    train, held_out = whole.take(np.arange(9 - validation)), whole.take(np.arange(9 - validation, 9))
    found = linear(Question(TaskKind.REGRESSION, 1, train, held_out, whole))
    assert found.chosen == "C=100"  # without noise, the weakest regularisation has the smallest error
    assert adamw(Question(TaskKind.REGRESSION, 1, train, held_out, whole)).chosen == "lr=0.03"


def test_neighbours_of_one_label_have_its_axis() -> None:
    rng = np.random.default_rng(3)
    values, labels = rng.normal(size=(30, 2)), rng.integers(2, size=(30, 1))
    whole = LabelledFeatures(values, labels)
    found = knn(Question(TaskKind.MULTI_LABEL, 1, whole, whole.take(np.arange(0)), whole))
    for prediction in found:
        assert prediction.predicted.shape == prediction.scores.shape == (30, 1)  # type: ignore[union-attr]
    assert (found[0].predicted == (found[0].scores > 0.5)).all()  # type: ignore[operator]


def test_a_list_of_one_column_is_a_column_of_flags(tmp_path: Path) -> None:
    rows = []
    for number, split in enumerate(("train", "train", "val", "test")):
        write_raster(tmp_path / f"{number}.tif", np.full((3, 16, 16), 100 + number, np.uint16))
        rows.append({"path": f"{number}.tif", "flood": number % 2, "split": split})
    found = task_of(tmp_path, rows, kind="multi-label", label=["flood"])
    assert found.classes == ("flood",)
    assert found.labels.tolist() == [[0], [1], [0], [1]]


# ---------------------------------------------------------------- dates


def test_dates_of_one_location_are_tested_or_learned_but_not_both(tmp_path: Path) -> None:
    def three_dates(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        arrays["tile_id"][:] = np.repeat(arrays["tile_id"][::3], 3)
        arrays["time"] = arrays["time"] + 86_400_000 * np.arange(48)

    task = open_task("store:biome", write_store(tmp_path / "toy.zarr", 48, change=three_dates))
    ids = task.images.coords["tile_id"]
    for seed in range(3):
        parts = redraw(task, 0.3, seed).parts
        assert sorted([*parts.train, *parts.test]) == list(range(48))
        assert not {*ids[parts.train]} & {*ids[parts.test]}
        assert abs(len(parts.test) - 0.3 * 48) < 3


def test_a_share_of_one_location_is_refused(tmp_path: Path) -> None:
    def one_location(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        arrays["tile_id"][:] = arrays["tile_id"][0]
        arrays["time"] = arrays["time"] + 86_400_000 * np.arange(12)

    task = open_task("store:biome", write_store(tmp_path / "toy.zarr", 12, change=one_location))
    with pytest.raises(InputError, match="--test-share: expected at least two locations with labels of store:biome"):
        redraw(task, 0.3, 0)


# ---------------------------------------------------------------- names in Python, which click does not check


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocols": ["knn", "lin"]}, "--protocol: expected knn, linear, .* got 'lin'"),
        ({"baselines": ["rfc"]}, "--baseline: expected random, .* got 'rfc'"),
    ],
)
def test_an_unknown_name_is_refused(checkpoint: Checkpoint, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate([checkpoint], None, [], seeds=1, **options)
    with pytest.raises(InputError, match=r"--baseline: expected random, .* got 'rfc'"):
        robustness([checkpoint], [], "out", baselines=["rfc"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="--blend: expected smooth or centre, got 'center'"):
        WindowOptions(blend="center")  # type: ignore[arg-type]
