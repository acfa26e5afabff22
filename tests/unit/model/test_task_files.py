"""Labelled data sets on disk, against rasterio and h5py alone, and against hostile ones."""

from __future__ import annotations

import ast
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio

from mmearth_data import FileInputError, InputError, load_catalog
from mmearth_model import Normaliser
from mmearth_model.data.targets import LEVELS
from mmearth_model.evaluation.features import input_normaliser, missing_bands
from mmearth_model.tasks import LabelShare, open_files, open_task, read_spec, task_names
from mmearth_model.tasks.labelled import stratified_parts
from mmearth_model.tasks.pickles import Bag, loads
from mmearth_model.tasks.spec import TaskSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SENTINEL2 = load_catalog().find("sentinel2")
CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip


def plane(batch: Any, row: int, band: str) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = batch["sentinel2"][row, SENTINEL2.bands.index(band)]
    return found


def write_raster(path: Path, values: np.ndarray[Any, Any], **profile: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = "JPEG" if path.suffix == ".jpg" else "GTiff"
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=values.dtype, **profile
    ) as file:
        file.write(values)


# ---------------------------------------------------------------- task files


def test_every_shipped_task_is_read_and_says_where_it_comes_from() -> None:
    assert {"m-eurosat", "m-bigearthnet", "m-so2sat", "m-brick-kiln", "m-cashew-plantation", "m-SA-crop-type", "eurosat-ms", "eurosat-rgb"} <= set(task_names())  # fmt: skip
    for name in task_names():
        spec = read_spec(name)
        assert spec.name == name
        assert spec.doi


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("layout: zarr", "layout"),
        ("bands: [B1, B99]", "expected bands of sentinel2"),
        ("modality: sentinel9", "modality: expected one of the catalog"),
        ("colour: red", "colour"),
        ("fill: {B10: B99}", "expected bands of sentinel2"),
        ("band_order: paper", "exchanges B8 and B8A; expected both"),
        ("band_order: released", "band_order"),
        ("kind: segmentation", "expected table or geobench for masks"),
        ("- a", "not|mapping"),
    ],
)
def test_a_task_file_that_says_what_it_may_not_is_refused_with_its_name(
    tmp_path: Path, change: str, expected: str
) -> None:
    lines = {"name": "name: mine", "layout": "layout: folder", "kind": "kind: single-label", "bands": "bands: [B4, B3, B2]"}  # fmt: skip
    lines[change.partition(":")[0]] = change
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines.values()))
    with pytest.raises(FileInputError, match=expected) as error:
        read_spec(str(path))
    assert "mine.yaml" in str(error.value)


def test_a_slip_of_the_pen_gets_the_right_task() -> None:
    with pytest.raises(InputError, match="Did you mean 'm-eurosat'"):
        open_task("m-eurosatt=nowhere")
    with pytest.raises(InputError, match="write m-eurosat=PATH"):
        open_task("m-eurosat")


# ---------------------------------------------------------------- real samples


def test_the_real_m_eurosat_sample_is_what_h5py_reads(test_data: Path) -> None:
    root = test_data / "geobench" / "classification_v1.0" / "m-eurosat"
    spec = read_spec("m-eurosat")
    assert isinstance(spec.bands, dict)
    task = open_task(f"m-eurosat={root}")
    assert task.classes[1] == "Residential Buildings"
    assert (len(task), task.ids, task.labels.tolist()) == (1, ("id_1905",), [1])
    (batch,) = task.images.batches(np.array([0]), 4, ("sentinel2",))
    with h5py.File(root / "id_1905.hdf5") as file:
        for name, band in spec.bands.items():
            assert np.array_equal(plane(batch, 0, band), np.asarray(file[name])), band
    with h5py.File(root / "id_1905.hdf5") as file:  # what the planes hold, ServiceNow/geo-bench, issue 28
        order = {"08A": "B9", "09": "B10", "10": "B11", "11": "B12", "12": "B8A"}
        for start, band in order.items():
            (name,) = (key for key in file if key.startswith(f"{start} - "))
            assert np.array_equal(plane(batch, 0, band), np.asarray(file[name])), band
    assert plane(batch, 0, "B10").max() < 20  # cirrus is dark in a clear scene
    assert np.corrcoef(plane(batch, 0, "B8A").ravel(), plane(batch, 0, "B7").ravel())[0, 1] > 0.995
    assert batch["tile"]["s2_level"].tolist() == [0]
    statistics = json.loads((root / "band_stats.json").read_text())
    reds = plane(batch, 0, "B4")
    assert statistics["04 - Red"]["min"] <= reds.min() <= reds.max() <= statistics["04 - Red"]["max"]


def test_in_the_papers_band_order_b8_and_b8a_change_places_and_nothing_else(tmp_path: Path, test_data: Path) -> None:
    root = test_data / "geobench" / "classification_v1.0" / "m-eurosat"
    shipped = read_spec("m-eurosat")
    spec = tmp_path / "paper.yaml"
    spec.write_text(json.dumps(shipped.model_dump(mode="json", exclude_defaults=True) | {"band_order": "paper"}))
    usual, paper = open_task(f"m-eurosat={root}"), open_task(f"{spec}={root}")
    assert usual.images.digest != paper.images.digest  # features of one are never taken for those of the other
    ((one,), (other,)) = (task.images.batches(np.array([0]), 4, ("sentinel2",)) for task in (usual, paper))
    with h5py.File(root / "id_1905.hdf5") as file:
        assert np.array_equal(plane(other, 0, "B8A"), np.asarray(file["08 - NIR"]))
        assert np.array_equal(plane(other, 0, "B8"), np.asarray(file["12 - SWIR"]))
    for band in SENTINEL2.bands:
        if band not in ("B8", "B8A"):
            assert np.array_equal(plane(one, 0, band), plane(other, 0, band)), band


def test_the_real_brick_kilns_of_the_older_layout_are_what_h5py_reads(test_data: Path) -> None:
    root = test_data / "geobench" / "ccb-test-classification" / "brick_kiln_v1.0"
    task = open_task(f"m-brick-kiln={root}")
    assert len(task) == len(task.parts.train) == len(task.parts.test) == 5
    assert task.classes == ("not brick kiln", "brick kiln")
    for row, item in enumerate(task.ids):
        (batch,) = task.images.batches(np.array([row]), 1, ("sentinel2",))
        with h5py.File(root / f"{item}.hdf5") as file:
            held = {"06": "B7", "07": "B8A", "08": "B8", "08A": "B11", "09": "B12"}  # ServiceNow/geo-bench, issue 29
            for start, band in held.items():
                (name,) = (key for key in file if key.startswith(f"{start} - "))
                assert np.array_equal(plane(batch, 0, band), np.asarray(file[name], np.float32)), band
            assert all((plane(batch, 0, band) == SENTINEL2.nodata).all() for band in ("B6", "B9", "B10"))
            text = file.attrs["pickle"]
        pickled = ast.literal_eval(text)  # label is the first entry: its opcode is BININT1, K, and one byte
        at = pickled.index(b"label\x94K") + len(b"label\x94K")
        assert task.labels[row] == pickled[at]


def test_real_multispectral_eurosat_is_what_rasterio_reads(test_data: Path) -> None:
    root = test_data / "eurosat_ms"
    task = open_task(f"eurosat-ms={root}")
    assert task.classes == CLASSES
    assert np.bincount(task.labels).tolist() == [7] * 10
    assert sorted([*task.parts.train, *task.parts.validation, *task.parts.test]) == list(range(70))
    order = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A")
    for row in (0, 30, 69):
        (batch,) = task.images.batches(np.array([row]), 1, ("sentinel2",))
        with rasterio.open(root / task.ids[row]) as file:
            values = file.read()
        for index, band in enumerate(order):
            assert np.array_equal(plane(batch, 0, band), values[index]), band
        assert CLASSES[task.labels[row]] == Path(task.ids[row]).parent.name


def test_real_rgb_eurosat_is_read_out_of_its_zip_in_reflectances(test_data: Path) -> None:
    task = open_task(f"eurosat-rgb={test_data / 'eurosat_rgb_half.zip'}")
    assert len(task) == 13_500
    assert task.classes == CLASSES
    counts = [np.bincount(task.labels[part], minlength=10) for part in (task.parts.train, task.parts.test)]
    assert counts[0].sum() == pytest.approx(0.7 * 13_500, abs=10)
    assert (np.abs(counts[1] / (counts[0] + counts[1]) - 15 / 85) < 0.01).all()  # every class is cut alike
    (batch,) = task.images.batches(np.array([4321]), 1, ("sentinel2",))
    with rasterio.open(f"zip://{test_data / 'eurosat_rgb_half.zip'}!{task.ids[4321]}") as file:
        values = file.read()
    for index, band in enumerate(("B4", "B3", "B2")):
        assert plane(batch, 0, band) == pytest.approx(values[index].astype(float) * 2750 / 255, abs=2e-3)
    assert (plane(batch, 0, "B8") == SENTINEL2.nodata).all()


def test_a_tasks_own_statistics_are_those_of_its_training_pixels(test_data: Path) -> None:
    root = test_data / "eurosat_ms"
    task = open_task(f"eurosat-ms={root}")
    normaliser = task.images.own_normaliser(task.parts.train)
    assert normaliser is not None
    pixels = []
    for row in task.parts.train:
        with rasterio.open(root / task.ids[row]) as file:
            pixels.append(file.read(4).astype(float))
    entry = normaliser.statistics["sentinel2"]["L1C"]["B4"]
    assert (entry["mean"], entry["std"]) == pytest.approx((np.mean(pixels), np.std(pixels)), rel=1e-6)
    (batch,) = task.images.batches(task.parts.train, 64, ("sentinel2",))
    red = normaliser.images(batch)[:, SENTINEL2.model_bands.index("B4")].numpy()
    assert (red.mean(), red.std()) == pytest.approx((0, 1), abs=1e-4)


# ---------------------------------------------------------------- malicious pickles


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = (call, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_something_is_refused_and_nothing_of_it_runs(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "ran"
    attacks = [
        Evil(exec, f"open({str(trace)!r}, 'w')"),
        Evil(Path.touch, trace),
        Evil(np.save, str(trace), np.zeros(1)),
        Evil(getattr, {}, "keys"),
        {"label": 1, "other": [Evil(exec, f"open({str(trace)!r}, 'w')")]},
    ]
    for attack in attacks:
        with pytest.raises(InputError, match="refused, nothing in it was executed"):
            loads(pickle.dumps(attack, protocol))
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"cgeobench.dataset\nSentinel2.__init__.__globals__\n.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n.",
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x01OtR]tR.",
        pickle.dumps(np.array([object()], dtype=object).tolist() and np.array([None], dtype=object)),
        pickle.dumps(list(range(100)))[:-5],
    ],
)
def test_damaged_and_crafted_pickles_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(InputError) as error:
        loads(data)
    assert "\n" not in str(error.value)


def test_plain_values_and_arrays_come_through(tmp_path: Path) -> None:
    value = {"label": np.array([[0, 1], [2, 3]]), "n": np.int64(7), "f": np.float32(0.5), "text": ["a", (1, None)]}
    found = loads(pickle.dumps(value))
    assert found["label"].tolist() == [[0, 1], [2, 3]]
    assert (found["n"], found["f"], found["text"]) == (7, 0.5, ["a", [1, None]])
    assert loads(pickle.dumps(np.asfortranarray(np.arange(6).reshape(2, 3)))).tolist() == [[0, 1, 2], [3, 4, 5]]
    bag = loads(b"cgeobench.label\nClassification\n)\x81}U\tn_classesK\x0asb.")
    assert isinstance(bag, Bag)
    assert bag.get("n_classes") == 10


def geobench(root: Path, labels: dict[str, Any], size: int = 16, **partition: list[str]) -> None:
    """A folder of two bands in the published layout, specifications left out."""
    root.mkdir(parents=True)
    for item, label in labels.items():
        with h5py.File(root / f"{item}.hdf5", "w") as file:
            file["02 - Blue"] = np.full((size, size), 500, np.int16)
            file["03 - Green_2020-01-05"] = np.full((size // 2, size // 2), 700, np.int16)
            file["03 - Green_2020-06-05"] = np.full((size // 2, size // 2), 900, np.int16)
            if isinstance(label, np.ndarray) and label.ndim == 2:
                file["label"] = label
            file.attrs["pickle"] = str(label if isinstance(label, bytes) else pickle.dumps({"label": label}))
    (root / "1.00x_train_partition.json").write_text(json.dumps(partition or {p: list(labels) for p in ("train", "valid", "test")}))  # fmt: skip


def two_bands(**changes: Any) -> TaskSpec:
    fields = {"name": "two", "layout": "geobench", "kind": "single-label", "classes": ("a", "b"), "bands": {"02 - Blue": "B2", "03 - Green": "B3"}}  # fmt: skip
    return TaskSpec(**{**fields, **changes})


def test_a_sample_with_an_evil_label_is_named_and_refused(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    geobench(tmp_path / "set", {"id_1": pickle.dumps(Evil(exec, f"open({str(trace)!r}, 'w')"))})
    with pytest.raises(FileInputError, match=r"id_1\.hdf5.*refused, nothing in it was executed"):
        open_files(two_bands(), tmp_path / "set")
    assert not trace.exists()


def test_specifications_that_lie_are_refused_before_any_sample_is_read(tmp_path: Path) -> None:
    geobench(tmp_path / "set", {"id_1": 0})
    (tmp_path / "set" / "task_specs.pkl").write_bytes(pickle.dumps(Evil(exec, "1")))
    with pytest.raises(FileInputError, match=r"task_specs\.pkl"):
        open_files(two_bands(), tmp_path / "set")


def test_dates_and_coarser_bands_of_geobench(tmp_path: Path) -> None:
    geobench(tmp_path / "set", {"id_1": 0, "id_2": 1})
    for date, green in (("first", 700), ("last", 900)):
        task = open_files(two_bands(date=date), tmp_path / "set")
        (batch,) = task.images.batches(np.array([1, 0]), 2, ("sentinel2",))
        assert batch["sentinel2"].shape == (2, 13, 16, 16)
        assert (plane(batch, 0, "B3") == green).all()


def so2sat(root: Path) -> dict[str, str]:
    """Write three samples of m-so2sat, with reflectances from 0 to 1 that differ between bands; return their names."""
    names = dict(read_spec("m-so2sat").bands)  # type: ignore[arg-type]
    root.mkdir()
    for item in range(3):
        with h5py.File(root / f"id_{item}.hdf5", "w") as file:
            for place, name in enumerate(names):
                rng = np.random.default_rng([item, place])
                file[name] = rng.uniform(0.01 * (place + 1), 0.02 * (place + 1), (32, 32)).astype(np.float32)
            file.attrs["pickle"] = str(pickle.dumps({"label": item}))
    parts = {part: ["id_0", "id_1", "id_2"] for part in ("train", "valid", "test")}
    (root / "default_partition.json").write_text(json.dumps(parts))
    return names


def test_so2sat_feeds_b2_as_b1_and_b8a_as_b9_as_the_released_code_does(tmp_path: Path) -> None:
    """The released band list: 02, 02, 03, 04, 05, 06, 07, 08, 08A, 08A, 11, 12, each with its own statistics."""
    names = so2sat(tmp_path / "set")
    assert "B1" not in names.values()
    assert "B9" not in names.values()
    task = open_task(f"m-so2sat={tmp_path / 'set'}")
    order = {"B1": "02", "B2": "02", "B3": "03", "B4": "04", "B5": "05", "B6": "06", "B7": "07", "B8": "08 -", "B8A": "08A", "B9": "08A", "B11": "11", "B12": "12"}  # fmt: skip
    statistics = {"train": {"sentinel2": {"L2A": {b: {"count": 1, "mean": 0.0, "std": 1.0} for b in order}}}}
    normaliser = input_normaliser(Normaliser([SENTINEL2], statistics, inputs=["sentinel2"]), task)
    (batch,) = task.images.batches(np.arange(3), 3, ("sentinel2",))
    images = normaliser.images(batch).numpy()
    for band, start in order.items():
        pixels = []
        for item in range(3):
            with h5py.File(tmp_path / "set" / f"id_{item}.hdf5") as file:
                (name,) = (key for key in file if key.startswith(start))
                pixels.append(np.asarray(file[name], dtype=np.float64))
        expected = (np.stack(pixels) - np.mean(pixels)) / np.std(pixels)
        assert images[:, SENTINEL2.model_bands.index(band)] == pytest.approx(expected, abs=1e-3), band
    assert missing_bands(normaliser, task) == ("sentinel2.B1 from B2", "sentinel2.B9 from B8A")


def test_a_level_without_statistics_in_the_checkpoint_is_refused(tmp_path: Path) -> None:
    """All of its pixels would count as missing, and every image would give the same features."""
    so2sat(tmp_path / "set")
    spec = tmp_path / "raw.yaml"
    shipped = read_spec("m-so2sat").model_dump(mode="json", exclude_defaults=True)
    spec.write_text(json.dumps(shipped | {"normalise": "checkpoint"}))
    task = open_task(f"{spec}={tmp_path / 'set'}")
    ones = {band: {"count": 1, "mean": 0.0, "std": 1.0} for band in SENTINEL2.model_bands}
    given = {
        level: Normaliser([SENTINEL2], {"train": {"sentinel2": {level: ones}}}, inputs=["sentinel2"])
        for level in LEVELS
    }
    (batch,) = task.images.batches(np.arange(3), 3, ("sentinel2",))
    assert input_normaliser(given["L2A"], task).images(batch).std() > 0
    with pytest.raises(InputError, match=r"expected images of L1C, for which the checkpoint has .* got L2A in 3 of 3"):
        input_normaliser(given["L1C"], task)


def test_in_the_papers_band_order_a_stand_in_is_still_the_files_own_band(tmp_path: Path) -> None:
    so2sat(tmp_path / "set")
    spec = tmp_path / "paper.yaml"
    shipped = read_spec("m-so2sat").model_dump(mode="json", exclude_defaults=True)
    spec.write_text(json.dumps(shipped | {"band_order": "paper"}))
    (batch,) = open_task(f"{spec}={tmp_path / 'set'}").images.batches(np.array([1]), 1, ("sentinel2",))
    with h5py.File(tmp_path / "set" / "id_1.hdf5") as file:
        near, narrow = (np.asarray(file[name]) * 10_000 for name in ("08 - NIR", "08A - Vegetation Red Edge"))
    assert plane(batch, 0, "B8A") == pytest.approx(near)
    assert plane(batch, 0, "B8") == pytest.approx(narrow)
    assert plane(batch, 0, "B9") == pytest.approx(narrow)


def test_multi_label_and_masks_of_geobench(tmp_path: Path) -> None:
    geobench(tmp_path / "multi", {"id_1": np.array([0, 1, 1]), "id_2": np.array([1, 0, 0])})
    task = open_files(two_bands(kind="multi-label", classes=("a", "b", "c")), tmp_path / "multi")
    assert task.labels.tolist() == [[0, 1, 1], [1, 0, 0]]
    mask = np.arange(256).reshape(16, 16) % 3
    geobench(tmp_path / "masks", {"id_1": mask})
    task = open_files(two_bands(kind="segmentation", classes=("a", "b"), ignore=2), tmp_path / "masks")
    assert task.masks is not None
    assert np.array_equal(task.masks(np.array([0]))[0], np.where(mask == 2, -1, mask))
    geobench(tmp_path / "bytes", {"id_1": mask.astype(np.uint8)})  # a type that has no negative numbers
    task = open_files(two_bands(kind="segmentation", classes=("a", "b"), ignore=2), tmp_path / "bytes")
    assert task.masks is not None
    assert np.array_equal(task.masks(np.array([0]))[0], np.where(mask == 2, -1, mask))
    geobench(tmp_path / "small", {"id_1": mask[:8]})
    task = open_files(two_bands(kind="segmentation", classes=("a", "b", "c")), tmp_path / "small")
    assert task.masks is not None
    with pytest.raises(FileInputError, match="expected a mask of"):
        task.masks(np.array([0]))


@pytest.mark.parametrize(
    ("labels", "changes", "expected"),
    [
        ({"id_1": 0, "id_2": 2}, {}, "expected classes 0 to 1, got 2 in id_2"),
        ({"id_1": 0, "id_2": -1}, {"classes": ()}, "expected classes from 0, got -1 in id_2"),
        ({"id_1": 0, "id_2": 0.5}, {}, "got 0.5 in id_2"),
        ({"id_1": 0, "id_2": float("nan")}, {}, "got nan in id_2"),
        ({"id_1": np.array([0, 1]), "id_2": np.array([0, 2])}, {"kind": "multi-label"}, "expected 0 or 1 for each class, got 0, 2 in id_2"),
        ({"id_1": np.array([0, 1, 1])}, {"kind": "multi-label"}, "expected 0 or 1 for each of 2 classes"),
        ({"id_1": float("inf")}, {"kind": "regression"}, "expected finite numbers as labels, got inf in id_1"),
    ],
)  # fmt: skip
def test_labels_of_geobench_outside_the_classes_are_refused_with_the_sample(
    tmp_path: Path, labels: Any, changes: Any, expected: str
) -> None:
    geobench(tmp_path / "set", labels)
    with pytest.raises(InputError, match=expected):
        open_files(two_bands(**changes), tmp_path / "set")


def test_what_a_partition_names_and_a_folder_lacks_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "set"
    parts = {"train": ["id_0", "id_1", "id_2"], "valid": ["id_2"], "test": ["id_3", "id_9"]}
    geobench(root, {f"id_{n}": n % 2 for n in range(4)}, **parts)
    (root / "._id_0.hdf5").write_bytes(b"\0\5\x16\7")  # macOS leaves these beside files
    (root / "._1.00x_train_partition.json").write_bytes(b"\0\5\x16\7")
    task = open_files(two_bands(), root)
    assert task.ids == ("id_0", "id_1", "id_2", "id_3")
    assert "left out 1 of 5 samples of the partition, which the folder lacks (id_9)." in task.notes
    assert "1 samples are in several parts of the partition (id_2), so test samples were trained on." in task.notes


def test_classes_of_geobench_masks_are_counted_where_nothing_names_them(tmp_path: Path) -> None:
    geobench(tmp_path / "set", {"id_1": np.arange(256).reshape(16, 16) % 4})
    assert open_files(two_bands(kind="segmentation", classes=()), tmp_path / "set").classes == ("0", "1", "2", "3")


def test_published_partitions_decide_label_shares(tmp_path: Path) -> None:
    labels = {f"id_{i}": i % 2 for i in range(20)}
    geobench(tmp_path / "set", labels)
    few = {"train": ["id_3", "id_4"], "valid": [], "test": []}
    (tmp_path / "set" / "0.10x_train_partition.json").write_text(json.dumps(few))
    task = open_files(two_bands(), tmp_path / "set")
    assert {task.ids[row] for row in LabelShare.parse("10%").choose(task, 0)} == {"id_3", "id_4"}
    assert len(LabelShare.parse("50%").choose(task, 0)) == 10  # no partition of it: drawn


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: (root / "1.00x_train_partition.json").unlink(), "expected \\*_partition.json"),
        (lambda root: (root / "1.00x_train_partition.json").write_text("{"), "expected a partition"),
        (lambda root: (root / "id_1.hdf5").write_bytes(b"no hdf5"), "expected an HDF5 sample"),
        (lambda root: [p.unlink() for p in root.glob("*.hdf5")], "expected the samples of its partition"),
    ],
)
def test_a_broken_geobench_folder_is_refused(tmp_path: Path, spoil: Any, expected: str) -> None:
    geobench(tmp_path / "set", {"id_1": 0, "id_2": 1})
    spoil(tmp_path / "set")
    with pytest.raises(InputError, match=expected):
        open_files(two_bands(), tmp_path / "set")


# ---------------------------------------------------------------- folders and tables


def rgb(**changes: Any) -> TaskSpec:
    fields = {"name": "mine", "layout": "folder", "kind": "single-label", "bands": ("B4", "B3", "B2")}
    return TaskSpec(**{**fields, "bands": list(fields["bands"]), **changes})


def test_units_offsets_and_fills_are_the_task_files(tmp_path: Path) -> None:
    values = np.arange(3 * 64, dtype=np.uint16).reshape(3, 8, 8) + 1100
    for name in ("a/1.tif", "b/2.tif"):
        write_raster(tmp_path / name, values)
    task = open_files(rgb(offset=-1000, scale=1, fill={"B8": "B4"}), tmp_path)
    (batch,) = task.images.batches(np.array([0]), 1, ("sentinel2",))
    assert np.array_equal(plane(batch, 0, "B3"), values[1] - 1000.0)
    assert np.array_equal(plane(batch, 0, "B8"), values[0] - 1000.0)
    assert task.images.found_bands(SENTINEL2) == ("B2", "B3", "B4")


def test_bands_that_files_name_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    values = np.stack([np.full((8, 8), v, np.float32) for v in (300, 400, 200)])
    for name in ("a/1.tif", "b/2.tif"):
        write_raster(tmp_path / name, values)
        with rasterio.open(tmp_path / name, "r+") as file:
            file.descriptions = ("green", "red", "blue")
    spec = rgb(bands={"blue": "B2", "red": "B4"})
    (batch,) = open_files(spec, tmp_path).images.batches(np.array([0, 1]), 2, ("sentinel2",))
    assert (plane(batch, 1, "B2") == 200).all()
    assert (plane(batch, 1, "B4") == 400).all()
    with pytest.raises(FileInputError, match="expected the band 'nir'"):
        next(iter(open_files(rgb(bands={"nir": "B8"}), tmp_path).images.batches(np.array([0]), 1, ())))


def test_a_black_pixel_is_dark_and_a_nan_pixel_missing(tmp_path: Path) -> None:
    values = np.full((3, 8, 8), 100, np.float32)
    values[0, 0, 0], values[1, 1, 1] = 0, np.nan
    for name in ("a/1.tif", "b/2.tif"):
        write_raster(tmp_path / name, values)
    task = open_files(rgb(), tmp_path)
    normaliser = task.images.own_normaliser(np.array([0, 1]))
    assert normaliser is not None
    (batch,) = task.images.batches(np.array([0]), 1, ("sentinel2",))
    images, seen = normaliser.images(batch)[0], task.images.found_bands(SENTINEL2)
    assert images[seen.index("B4"), 0, 0] < -3
    assert images[seen.index("B3"), 1, 1] == 0
    write_raster(tmp_path / "a" / "1.tif", np.full((3, 8, 8), np.nan, np.float32))
    with pytest.raises(FileInputError, match="expected pixels, got none"):
        next(iter(task.images.batches(np.array([0]), 1, ("sentinel2",))))


def test_resampling_keeps_a_constant_and_its_holes(tmp_path: Path) -> None:
    values = np.full((3, 32, 32), 77, np.float32)
    values[:, :4] = np.nan
    for name in ("a/1.tif", "b/2.tif"):
        write_raster(tmp_path / name, values)
    (batch,) = open_files(rgb(size_px=16), tmp_path).images.batches(np.array([0]), 1, ("sentinel2",))
    assert batch["sentinel2"].shape[2:] == (16, 16)
    assert (plane(batch, 0, "B4")[4:] == 77).all()
    assert (plane(batch, 0, "B4")[0] == SENTINEL2.nodata).all()


@pytest.mark.parametrize(
    ("files", "changes", "expected"),
    [
        ([], {}, "got no raster in any"),
        (["a/1.tif", "c/2.tif"], {"classes": ("a", "b")}, "expected the classes a, b, got 'c'"),
        (["a/1.tif"], {"bands": ["B2"]}, "expected 1 bands"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path: Path, files: list[str], changes: Any, expected: str) -> None:
    for name in files:
        write_raster(tmp_path / name, np.ones((3, 8, 8), np.uint8))
    with pytest.raises(InputError, match=expected):
        next(iter(open_files(rgb(**changes), tmp_path).images.batches(np.array([0]), 1, ())))


def test_a_zip_and_its_folder_are_the_same_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/1.tif", "a/2.tif", "b/3.tif", "b/4.tif"):
        write_raster(tmp_path / "set" / name, rng.integers(1, 255, (3, 8, 8)).astype(np.uint8))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").rglob("*.tif"):
            archive.write(path, path.relative_to(tmp_path / "set"))
    both = [open_files(rgb(), tmp_path / name) for name in ("set", "set.zip")]
    images = [next(iter(task.images.batches(np.arange(4), 4, ("sentinel2",))))["sentinel2"] for task in both]
    assert np.array_equal(*images)
    assert both[0].labels.tolist() == both[1].labels.tolist()
    assert both[0].images.digest != both[1].images.digest


def table(root: Path, text: str, rasters: int = 4, **shapes: tuple[int, ...]) -> Path:
    for number in range(rasters):
        write_raster(root / f"{number}.tif", np.full((3, 8, 8), 100 + number, np.uint16))
        write_raster(root / f"mask{number}.tif", np.full(shapes.get("mask", (1, 8, 8)), number % 2, np.uint8))
    path = root / "samples.csv"
    path.write_text(text)
    return path


def test_tables_hold_labels_of_every_kind(tmp_path: Path) -> None:
    rows = ["path,label,tags,height,mask,part"] + [
        f"{n}.tif,{'ab'[n % 2]},{'x;y' if n % 2 else 'y'},{n}.5,mask{n}.tif,{'train' if n < 2 else 'test'}"
        for n in range(4)
    ]
    path = table(tmp_path, "\n".join(rows))
    spec: dict[str, Any] = {"layout": "table", "splits": {"column": "part"}}
    single = open_files(rgb(**spec), path)
    assert (single.labels.tolist(), single.parts.train.tolist(), single.parts.test.tolist()) == ([0, 1, 0, 1], [0, 1], [2, 3])  # fmt: skip
    multi = open_files(rgb(**spec, kind="multi-label", label="tags", separator=";"), path)
    assert (multi.classes, multi.labels.tolist()) == (("x", "y"), [[0, 1], [1, 1], [0, 1], [1, 1]])
    height = open_files(rgb(**spec, kind="regression", label="height"), path)
    assert height.labels.tolist() == [[0.5], [1.5], [2.5], [3.5]]
    masks = open_files(rgb(**spec, kind="segmentation", mask="mask", classes=("no", "yes")), path)
    assert masks.masks is not None
    assert masks.masks(np.array([3, 2]))[:, 0, 0].tolist() == [1, 0]
    import geopandas

    frame = geopandas.GeoDataFrame(
        {"path": [f"{n}.tif" for n in range(4)], "label": list("abab")},
        geometry=geopandas.points_from_xy(range(4), range(4)),
        crs=4326,
    )
    frame.to_parquet(tmp_path / "samples.parquet")
    assert open_files(rgb(layout="table"), tmp_path / "samples.parquet").labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("path,class\n0.tif,a\n", {}, "expected the column 'label'"),
        ("file,label\n0.tif,a\n", {}, "expected the column 'path'"),
        ("path,label\n", {}, "expected samples, got a table without rows"),
        ("path,label\n0.tif,a\n1.tif,c\n", {"classes": ("a", "b")}, "got 'c'"),
        (
            "path,label\n0.tif,high\n",
            {"kind": "regression"},
            "expected finite numbers as labels in label, got high in data row 1",
        ),
        ("path,label\n0.tif,nan\n", {"kind": "regression"}, "got nothing in data row 1"),
        ("path,label,part\n0.tif,a,dev\n", {"splits": {"column": "part"}}, "expected train, val or test"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, text: str, changes: Any, expected: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError, match=expected):
        open_files(rgb(layout="table", **changes), path)


def test_masks_of_another_size_or_class_are_refused(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"layout": "table", "kind": "segmentation", "mask": "mask"}
    two = ("no", "yes")
    text = "path,mask\n0.tif,mask0.tif\n1.tif,mask1.tif\n"
    task = open_files(rgb(**spec, classes=two), table(tmp_path / "a", text, mask=(1, 8, 4)))
    assert task.masks is not None
    with pytest.raises(FileInputError, match="expected a mask of one band and"):
        task.masks(np.array([0]))
    task = open_files(rgb(**spec, classes=("one",)), table(tmp_path / "b", text))
    assert task.masks is not None
    with pytest.raises(FileInputError, match="expected classes 0 to 0"):
        task.masks(np.array([1]))


def test_rasters_that_are_absent_or_broken_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\nnone.tif,a\nbroken.tif,b\n")
    (tmp_path / "broken.tif").write_text("no raster")
    task = open_files(rgb(layout="table"), path)
    for row, name in enumerate(("none.tif", "broken.tif")):
        with pytest.raises(FileInputError, match=name):
            next(iter(task.images.batches(np.array([row]), 1, ())))


# ---------------------------------------------------------------- shares of labels and splits


def test_splits_are_disjoint_seeded_and_balanced() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    parts = [stratified_parts(labels, (70, 15, 15), seed) for seed in (0, 0, 1)]
    assert sorted(np.concatenate([parts[0].train, parts[0].validation, parts[0].test])) == list(range(1000))
    assert [np.bincount(labels[p]).tolist() for p in (parts[0].train, parts[0].test)] == [[490, 140, 70], [105, 30, 15]]
    assert parts[0].train.tolist() == parts[1].train.tolist() != parts[2].train.tolist()


def test_label_shares_and_shots(test_data: Path) -> None:
    task = open_task(f"eurosat-rgb={test_data / 'eurosat_rgb_half.zip'}")
    train = set(task.parts.train.tolist())
    for text, expected in (("1%", 0.01), ("50%", 0.5), ("0.05x", 0.05)):
        chosen = LabelShare.parse(text).choose(task, 0)
        assert len(chosen) == pytest.approx(expected * len(train), abs=6)
        assert set(chosen.tolist()) <= train
    shots = LabelShare.parse("5-shot").choose(task, 3)
    assert np.bincount(task.labels[shots]).tolist() == [5] * 10
    assert set(shots) != set(LabelShare.parse("5-shot").choose(task, 4))
    for wrong in ("0%", "200%", "five", "0-shot", "-1%"):
        with pytest.raises(InputError, match="--labels"):
            LabelShare.parse(wrong)


def test_one_class_only_and_empty_parts_are_refused(tmp_path: Path) -> None:
    rows = "path,label,part\n0.tif,a,train\n1.tif,a,train\n2.tif,b,test\n"
    task = open_files(rgb(layout="table", splits={"column": "part"}), table(tmp_path / "a", rows))
    with pytest.raises(
        InputError, match="mine: expected at least two classes among the 2 training samples, got one only"
    ):
        task.check()
    rows = "path,label,part\n0.tif,a,train\n1.tif,b,train\n"
    task = open_files(rgb(layout="table", splits={"column": "part"}), table(tmp_path / "b", rows))
    with pytest.raises(
        InputError, match="got 2 to train, 0 to validate and 0 to test on; put samples of each part into column part"
    ):
        task.check()


def test_files_that_systems_and_editors_leave_are_no_samples(tmp_path: Path) -> None:
    root = tmp_path / "set"
    meant, left = ("a/1.tif", "b/2.tif"), (".ipynb_checkpoints/1.tif", "a/._1.tif", "__MACOSX/2.tif")
    for name in meant + left:
        write_raster(root / name, np.full((3, 8, 8), 9, np.uint8))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in meant + left:
            archive.write(root / name, name)
    for source in (root, tmp_path / "set.zip"):
        task = open_files(rgb(), source)
        assert (task.classes, task.ids) == (("a", "b"), meant)
