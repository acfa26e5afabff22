"""Properties of every labelled data set that evaluation relies on: folders, zips, tables, GEO-Bench samples, stores."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
from geobench2_world import geotiff, tortilla
from mmearth_bench_files import write_task
from toy_store import write_store

from mmearth_data import load_catalog
from mmearth_model.evaluation.torchgeo_inputs import as_benched
from mmearth_model.tasks import LabelledSet, open_files, open_task
from mmearth_model.tasks.files import FileImages
from mmearth_model.tasks.labelled import IGNORED, TaskKind
from mmearth_model.tasks.spec import TaskSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SAMPLES, SIZE_PX = 12, 8
MODALITY = "sentinel2"


def spec(**changes: Any) -> TaskSpec:
    fields = {"name": "mine", "layout": "table", "kind": "single-label", "bands": ["B4", "B3", "B2"]}
    return TaskSpec(**{**fields, **changes})


def write_tif(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(values), "height": SIZE_PX, "width": SIZE_PX, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape) as file:
        file.write(values)


def pixels(number: int) -> np.ndarray[Any, Any]:
    return np.full((3, SIZE_PX, SIZE_PX), 100 + number, np.uint16)


def folder(root: Path) -> LabelledSet:
    for number in range(SAMPLES):
        write_tif(root / "ab"[number % 2] / f"{number}.tif", pixels(number))
    return open_files(spec(layout="folder"), root)


def packed(root: Path) -> LabelledSet:
    folder(root / "set")
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for path in sorted((root / "set").rglob("*.tif")):
            archive.write(path, path.relative_to(root / "set"))
    return open_files(spec(layout="folder"), root / "set.zip")


def table(root: Path, **changes: Any) -> LabelledSet:
    lines = ["path,label,tags,height,mask"]
    for number in range(SAMPLES):
        write_tif(root / f"{number}.tif", pixels(number))
        write_tif(root / f"mask{number}.tif", np.full((1, SIZE_PX, SIZE_PX), number % 3, np.uint8))
        lines.append(f"{number}.tif,{'ab'[number % 2]},{('x;y', 'y')[number % 2]},{number}.5,mask{number}.tif")
    (root / "samples.csv").write_text("\n".join(lines))
    return open_files(spec(**changes), root / "samples.csv")


def geobench(root: Path) -> LabelledSet:
    root.mkdir(exist_ok=True)
    names = [f"id_{number}" for number in range(SAMPLES)]
    for number, name in enumerate(names):
        with h5py.File(root / f"{name}.hdf5", "w") as file:
            for band, plane in zip(("02 - Blue", "03 - Green", "04 - Red"), pixels(number), strict=True):
                file[band] = plane
            file.attrs["pickle"] = str(pickle.dumps({"label": number % 2}))
    parts = {"train": names[:6], "valid": names[6:9], "test": names[9:]}
    (root / "1.00x_train_partition.json").write_text(json.dumps(parts))
    bands = {"02 - Blue": "B2", "03 - Green": "B3", "04 - Red": "B4"}
    return open_files(spec(layout="geobench", classes=("a", "b"), bands=bands), root)


def geobench2(root: Path) -> LabelledSet:
    samples, splits = [], ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    for number, split in enumerate(splits):
        whole = tortilla([("s2", "GTiff", geotiff(pixels(number)), {})], [split])
        samples.append((f"id_{number:02}", "TORTILLA", whole, {"labels": "ab"[number % 2]}))
    root.mkdir(exist_ok=True)
    (root / "set.tortilla").write_bytes(tortilla(samples, splits))
    return open_files(spec(layout="geobench2", classes=("a", "b"), path="s2", label="labels"), root)


def listed(root: Path) -> LabelledSet:
    """As torchgeo-bench takes the files of a data set that it lists."""
    task = geobench(root)
    assert isinstance(task.images, FileImages)
    images = replace(task.images, spec=task.images.spec.model_copy(update={"name": "m-eurosat"}))
    return as_benched(replace(task, name="m-eurosat", images=images), "all", 12)


def cut_from_a_store(task: str) -> Callable[[Path], LabelledSet]:
    return lambda root: open_task(task, write_store(root / "s.zarr", SAMPLES, shares=(0.5, 0.25)))


def mmearth_bench(task: str) -> Callable[[Path], LabelledSet]:
    return lambda root: open_task(f"mmearth-bench-{task}={write_task(root, task, rows=SAMPLES, size_px=SIZE_PX)}")


SETS: dict[str, Callable[[Path], LabelledSet]] = {
    "folder": folder,
    "zip": packed,
    "table": table,
    "table-multi-label": lambda root: table(root, kind="multi-label", label="tags", separator=";"),
    "table-regression": lambda root: table(root, kind="regression", label="height"),
    "table-masks": lambda root: table(root, kind="segmentation", mask="mask", classes=("no", "yes"), ignore=2),
    "geobench": geobench,
    "geobench2": geobench2,
    "torchgeo-bench": listed,
    "torchgeo-bench-others": lambda root: as_benched(table(root), "rgb", 12),
    "mmearth-bench": mmearth_bench("soil_pH"),
    "mmearth-bench-labels": mmearth_bench("species"),
    "mmearth-bench-pixels": mmearth_bench("biomass"),
    "store": cut_from_a_store("store:biome"),
    "store-shares": cut_from_a_store("store:esa_worldcover/shares"),
    "store-pixels": cut_from_a_store("store:esa_worldcover/pixels"),
}


@pytest.fixture(scope="module", params=SETS)
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LabelledSet:
    return SETS[request.param](tmp_path_factory.mktemp("set"))


def test_there_is_a_label_for_every_sample(task: LabelledSet) -> None:
    assert len(task) == len(task.images) == len(task.labels) == SAMPLES
    assert len(set(task.ids)) in (0, SAMPLES)
    if task.kind.per_pixel:
        assert task.labels.shape == (SAMPLES, 0)
    elif task.kind is TaskKind.SINGLE_LABEL:
        assert (task.labels.shape, task.labels.dtype) == ((SAMPLES,), np.int64)
        assert IGNORED <= task.labels.min() <= task.labels.max() < len(task.classes)
    else:
        assert task.labels.shape == (SAMPLES, len(task.classes))
        assert task.labels.dtype == (np.float64 if task.kind.continuous else np.int64)
        assert task.kind.continuous or set(np.unique(task.labels).tolist()) <= {0, 1}


def test_masks_have_a_class_or_none_for_every_pixel(task: LabelledSet) -> None:
    assert (task.masks is not None) == task.kind.per_pixel
    if task.masks is None:
        return
    rows = np.array([3, 2, 5])
    masks = task.masks(rows)
    (batch,) = task.images.batches(rows, 3, (MODALITY,))
    dtype = np.float64 if task.kind.continuous else np.int64
    assert (masks.shape, masks.dtype) == ((3, *batch[MODALITY].shape[2:]), dtype)
    assert task.kind.continuous or IGNORED <= masks.min() <= masks.max() < len(task.classes)
    np.testing.assert_array_equal(task.masks(rows[::-1]), masks[::-1])


def test_parts_share_no_sample(task: LabelledSet) -> None:
    parts = (task.parts.train, task.parts.validation, task.parts.test)
    for one, other in combinations(parts, 2):
        assert not set(one.tolist()) & set(other.tolist())
    assert set(task.parts.used.tolist()) <= set(range(SAMPLES))
    assert len(task.parts.train)
    assert len(task.parts.test)
    task.check()


def test_batches_hold_the_samples_that_were_asked_for_in_their_order(task: LabelledSet) -> None:
    m = load_catalog().find(MODALITY)
    rows = np.array([5, 0, 3, 3, 1])
    batches = list(task.images.batches(rows, 2, (MODALITY,)))
    assert [len(batch[MODALITY]) for batch in batches] == [2, 2, 1]
    assert [len(batch["tile"]["tile_id"]) for batch in batches] == [2, 2, 1]
    together = np.concatenate([batch[MODALITY] for batch in batches])
    assert together.shape[1] == len(m.bands)
    alone = [next(iter(task.images.batches(np.array([row]), 1, (MODALITY,))))[MODALITY][0] for row in rows]
    np.testing.assert_array_equal(together, np.stack(alone))
    assert not np.array_equal(together[0], together[1])
    assert list(task.images.batches(rows[:0], 2, (MODALITY,))) == []


def test_images_say_what_they_are(task: LabelledSet) -> None:
    assert MODALITY in task.images.modalities
    found = task.images.found_bands(task.images.modalities[MODALITY])
    assert {"B2", "B3", "B4"} <= set(found) <= set(task.images.modalities[MODALITY].bands)
    assert task.images.digest
    assert all(len(values) == SAMPLES for values in task.images.coords.values())
