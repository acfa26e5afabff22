"""MMEarth-Bench: what is read equals what an independent reader of its files finds, and its metrics those of torchmetrics."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from mmearth_bench_files import MISSING, NUMBERS, ROWS, SPECIES, contents, write_h5, write_task
from numpy.typing import NDArray
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelRecall
from torchmetrics.regression import MeanSquaredError, R2Score

from mmearth_data import InputError, derived, load_catalog
from mmearth_model import evaluate
from mmearth_model.evaluation.metrics import interval, pixel_score, sample_sums, score, weighted_precision
from mmearth_model.tasks import LabelledSet, LabelShare, TaskKind, TaskSpec, hdf5_rows, open_files, open_task
from mmearth_model.tasks.hdf5_rows import RowFile

TASKS = ("biomass", "soil_nitrogen", "soil_organic_carbon", "soil_pH", "species")
SMALL = {"rows": 24, "size_px": 8}
EVERY = np.arange(24)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    for task in ("biomass", "soil_pH", "species"):
        write_task(folder, task, size_px=16)
    return folder


def opened(folder: Path, task: str, test: str = "") -> LabelledSet:
    return open_task(f"mmearth-bench-{task}{test}={folder}")


def batch_of(task: LabelledSet, *modalities: str) -> dict[str, Any]:
    (batch,) = task.images.batches(np.arange(len(task)), len(task), modalities)
    return dict(batch)


# ---------------------------------------------------------------- arrays in the catalog's form

BANDS = {
    "sentinel2": ("Sentinel2", ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]),
    "sentinel1": ("Sentinel1", [f"{way}_{band}" for way in ("asc", "desc") for band in ("VV", "VH", "HH", "HV")]),
    "aster": ("ASTER_GDEM", ["elevation", "slope"]),
    "canopy_height_eth": ("ETH_GCH", ["height", "std"]),
}
TYPES = {
    "Sentinel2": ["uint16", "int16", "int32", "float32", "float64"],
    "Sentinel1": ["float32", "float64", "int16", "float16"],
    "ASTER_GDEM": ["int16", "float32", "int64", "float16"],
    "ETH_GCH": ["uint8", "int8", "float32"],
    "DynamicWorld": ["uint8", "int8", "float32", "int64"],
    "ESA_WorldCover": ["uint8", "float32", "uint16"],
    "biome": ["uint8", "int64", "float32"],
    "ecoregion": ["uint16", "int64", "float64"],
    "precipitation": ["float64", "float32"],
    "temperature": ["float64", "float16"],
}


@pytest.mark.parametrize("number", range(5))
def test_every_array_is_read_in_the_units_and_codes_of_the_catalog_from_any_type(number: int, tmp_path: Path) -> None:
    types = {name: known[number % len(known)] for name, known in TYPES.items()}
    task = opened(write_task(tmp_path, "soil_pH", **SMALL, **types), "soil_pH")
    data, found, known = contents("soil_pH", **SMALL), batch_of(task, *task.images.modalities), load_catalog()
    for modality, (name, bands) in BANDS.items():
        m = known.find(modality)
        wrong = _numbers(m.bands, m.nodata, bands, data[name], MISSING[name], types[name])
        np.testing.assert_allclose(found[modality], wrong, rtol=2e-3 if types[name] == "float16" else 1e-6, atol=2e-3)
    for modality, name, codes in (
        ("dynamic_world", "DynamicWorld", range(1, 10)),
        ("esa_worldcover", "ESA_WorldCover", (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)),
    ):
        expected = np.array([*codes, 0])[data[name].astype(int)]  # 9 and 11 are missing: 0 in the catalog
        np.testing.assert_array_equal(found[modality], expected)
        assert found[modality].dtype == known.find(modality).dtype
    for modality, name in (("biome", "biome"), ("eco_region", "ecoregion")):
        names = sorted(label.name for label in known.find(modality).classes)
        assert len(names) == MISSING_CLASS[name]
        by_code = {label.code: label.name for label in known.find(modality).classes}
        shown = [by_code.get(int(code), "missing") for code in found[modality]]
        assert shown == [[*names, "missing"][int(code)] for code in data[name]]


MISSING_CLASS = {"biome": 14, "ecoregion": 846}


def _numbers(
    wanted: tuple[str, ...], nodata: float, bands: list[str], values: NDArray[Any], mark: float, dtype: str
) -> NDArray[Any]:
    """Band by band: no-data where the file has its mark or lacks the band."""
    planes = []
    for band in wanted:
        if band not in bands:
            planes.append(np.full(values[:, 0].shape, nodata))
            continue
        plane = values[:, bands.index(band)]
        whole = np.trunc(plane) if np.dtype(dtype).kind in "iu" else plane
        planes.append(np.where(plane == mark, nodata, whole))
    return np.stack(planes, axis=1)


def test_the_climate_of_two_arrays_fills_the_bands_of_one_modality(here: Path) -> None:
    data, m = contents("soil_pH", size_px=16), load_catalog().find("era5")
    found = batch_of(opened(here, "soil_pH"), "era5")["era5"]
    assert found.shape == (ROWS, 12)
    for month, window in enumerate(("prev_month", "curr_month", "year")):
        rain = found[:, m.bands.index(f"{window}_total_precip")]
        np.testing.assert_allclose(rain, np.where(data["precipitation"] == -9999, np.nan, data["precipitation"])[:, month], rtol=1e-6)  # fmt: skip
        for place, statistic in enumerate(("max", "avg", "min")):
            heat = found[:, m.bands.index(f"{window}_{statistic}_temp")]
            kelvin = np.where(data["temperature"] == -9999, np.nan, data["temperature"])[:, 3 * month + place]
            np.testing.assert_allclose(heat, kelvin, rtol=1e-6)


def test_place_and_month_are_encoded_as_the_file_encodes_them(here: Path) -> None:
    task, known = opened(here, "soil_pH"), load_catalog()
    with h5py.File(here / "soil_pH" / "soil_pH.h5") as file:
        place, month = file["geolocation_encoding"][:], file["month_encoding"][:]
    tile = batch_of(task)["tile"]
    for name, expected in (("lon", place[:, :2]), ("lat", place[:, 2:]), ("month", month)):
        assert name in task.images.modalities
        np.testing.assert_allclose(derived(known.find(name), tile), expected[:, ::-1], atol=1e-6)  # cos before sin
    assert task.ids[:2] == ("5", "8")


def test_an_observed_value_that_is_the_catalogs_no_data_value_stays_observed(tmp_path: Path) -> None:
    """A black pixel is 0 in the file, where 65535 means missing, and 0 means missing in the catalog."""
    data = contents("soil_pH", **SMALL)
    data["Sentinel2"][:, 3, 4:, 4:] = 0
    folder = write_task(tmp_path, "soil_pH", **SMALL)
    write_h5(folder / "soil_pH.h5", data)
    found = batch_of(opened(folder, "soil_pH"), "sentinel2")["sentinel2"][:, 3]
    assert ((found[:, 4:, 4:] > 0) & (found[:, 4:, 4:] < 0.01)).all()
    assert (found[0, :3, :3] == 0).all()


def test_modalities_that_the_file_lacks_are_no_data(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "soil_pH", **SMALL)
    with h5py.File(folder / "soil_pH.h5", "a") as file:
        for name in ("Sentinel1", "DynamicWorld", "biome", "temperature"):
            del file[name]
    task, known = opened(folder, "soil_pH"), load_catalog()
    assert not {"sentinel1", "dynamic_world", "biome"} & set(task.images.modalities)
    found = batch_of(task, "sentinel1", "dynamic_world", "biome", "era5", "landsat8")
    assert np.isnan(found["sentinel1"]).all()
    assert found["sentinel1"].shape == (24, 8, 8, 8)
    assert (found["dynamic_world"] == 0).all()
    assert (found["biome"] == 255).all()
    assert found["landsat8"].shape[1] == len(known.find("landsat8").bands)
    heat = [band.endswith("_temp") for band in known.find("era5").bands]
    assert np.isnan(found["era5"][:, heat]).all()
    assert np.isfinite(found["era5"][:, ~np.array(heat)]).any()


def test_outlines_are_the_tiles_on_the_ground(here: Path) -> None:
    """16 px of 10 m: 160 m; a degree of latitude is 111 km."""
    outlines = opened(here, "soil_pH").images.outlines()
    south = [outline.bounds[3] - outline.bounds[1] for outline in outlines]
    np.testing.assert_allclose(np.array(south) * 111_132, 160, rtol=0.03)


# ---------------------------------------------------------------- parts, partitions, statistics


@pytest.mark.parametrize("task", TASKS)
def test_both_tests_have_the_parts_of_the_split_file(task: str, tmp_path: Path) -> None:
    folder = write_task(tmp_path, task, **SMALL)
    content = json.loads((folder / f"{task}_split_data.json").read_text())
    plain, random, geographic = (opened(tmp_path, task, test) for test in ("", "@random", "@geographic"))
    assert (plain.name, random.name) == (f"mmearth-bench-{task}@random",) * 2
    assert geographic.name == f"mmearth-bench-{task}@geographic"
    assert random.images.digest == geographic.images.digest  # features are computed once
    for found, test in ((random, "random_test"), (plain, "random_test"), (geographic, "geographic_test")):
        assert found.parts.train.tolist() == content["train_100%_indices"]
        assert found.parts.validation.tolist() == content["val_indices"]
        assert found.parts.test.tolist() == sorted(content[f"{test}_indices"])
        for text in ("5%", "50%", "100%"):
            chosen = LabelShare.parse(text).choose(found, seed=3)
            assert sorted(chosen.tolist()) == sorted(content[f"train_{text}_indices"])


@pytest.mark.parametrize("older", [False, True])
def test_statistics_are_the_published_ones_with_null_as_0_and_1(older: bool, tmp_path: Path) -> None:
    folder = write_task(tmp_path, "soil_pH", **SMALL, older=older)
    text = (folder / "soil_pH_split_data.json").read_text()
    assert ("AsterDEM_train_5%_means" in text, "null" in text) == (older, True)
    task, data = opened(folder, "soil_pH"), contents("soil_pH", **SMALL)
    assert task.images.own_normaliser is not None
    for share, part in task.partitions.items():
        found = task.images.own_normaliser(part).statistics
        for modality, (name, bands) in BANDS.items():
            (entries,) = found[modality].values()
            for place, band in enumerate(bands):
                seen = data[name][part][:, place]
                seen = seen[seen != MISSING[name]]
                expected = (seen.mean(), seen.std()) if seen.size else (0, 1)
                np.testing.assert_allclose([entries[band]["mean"], entries[band]["std"]], expected, rtol=1e-9, err_msg=f"{share} {band}")  # fmt: skip


def test_with_the_statistics_of_the_checkpoint_the_published_ones_are_for_baselines_only(here: Path) -> None:
    spec = {"name": "mine", "layout": "mmearth-bench", "kind": "regression", "label": "soil_pH", "level": "L2A"}
    bands = BANDS["sentinel2"][1]
    task = open_files(TaskSpec(**spec, bands=bands, normalise="checkpoint"), here)
    assert task.images.own_normaliser is None
    assert task.images.recorded_statistics is not None
    assert set(task.images.recorded_statistics["train"]["sentinel2"]["L2A"]) == set(bands)
    rows = evaluate([], None, [task], protocols=("linear",), baselines=("statistics",), seeds=1, device="cpu").rows
    assert [row.task for row in rows] == ["mine@random"]


# ---------------------------------------------------------------- labels and metrics


def test_biomass_and_its_metrics_pool_the_valid_pixels_of_all_tiles(here: Path) -> None:
    task = opened(here, "biomass", "@geographic")
    rows = task.parts.test
    with h5py.File(here / "biomass" / "biomass.h5") as file:
        raw = file["biomass"][:][rows]
    assert task.masks is not None
    masks = task.masks(rows)
    assert np.array_equal(np.isnan(masks), raw == -9999)
    predicted = np.random.default_rng(0).normal(150, 60, raw.shape)
    found = pixel_score(TaskKind.PIXEL_REGRESSION, sample_sums(TaskKind.PIXEL_REGRESSION, predicted, masks, 1))
    pair = (torch.from_numpy(predicted[raw != -9999]), torch.from_numpy(raw[raw != -9999]))
    assert found.metrics["rmse"] == pytest.approx(float(MeanSquaredError(squared=False)(*pair)), rel=1e-6)
    assert found.metrics["r2"] == pytest.approx(float(R2Score()(*pair)), rel=1e-5)
    assert found.counts["r2"].pixels == int((raw != -9999).sum())


def test_species_are_names_in_the_files_own_order_and_the_metrics_are_macro(here: Path) -> None:
    task = opened(here, "species")
    assert task.classes == tuple(SPECIES)
    with h5py.File(here / "species" / "species.h5") as file:
        listed = [json.loads(text) for text in file["species"].asstr()[:]]
    assert [{task.classes[k] for k in np.flatnonzero(row)} for row in task.labels] == [set(names) for names in listed]
    truth = task.labels[task.parts.test]
    scores = np.clip(0.3 * truth + np.random.default_rng(0).random(truth.shape) * 0.7, 0, 1).round(2)
    found = score(task.kind, (scores > 0.5).astype(np.int64), truth, 100, scores, task.metric)
    pair = (torch.from_numpy(scores), torch.from_numpy(truth))
    with pytest.warns(UserWarning, match="No positive samples"):
        assert found.metrics["map_macro"] == pytest.approx(float(MultilabelAveragePrecision(100)(*pair)), abs=1e-6)
    assert found.metrics["recall_macro"] == pytest.approx(float(MultilabelRecall(100)(*pair)), abs=1e-6)
    assert not truth[:, 7].any()  # counts as 0, so that fewer labels do not make the figure better
    assert weighted_precision(np.ones((1, len(truth)), int), scores, truth) == pytest.approx(found.metrics["map_macro"], abs=1e-6)  # fmt: skip


def test_the_interval_of_average_precision_is_that_of_resampled_samples() -> None:
    """Against repeating the samples, with ties and a label that some resamples lack."""
    rng = np.random.default_rng(0)
    truth, scores = (rng.random((30, 4)) < [0.5, 0.3, 0.05, 0]).astype(np.int64), rng.random((30, 4)).round(1)
    counts = rng.multinomial(30, np.full(30, 1 / 30), size=8)
    found = weighted_precision(counts, scores, truth.astype(float))
    for row, value in zip(counts, found, strict=True):
        repeated = np.repeat(np.arange(30), row)
        again = score(TaskKind.MULTI_LABEL, truth[repeated], truth[repeated], 4, scores[repeated])
        assert value == pytest.approx(again.metrics["map_macro"], abs=1e-6)


def test_species_are_compared_by_mean_average_precision(here: Path) -> None:
    task = opened(here, "species")
    result = evaluate([], None, [task], protocols=("knn",), baselines=("statistics",), seeds=2, device="cpu")
    for row in result.rows:
        assert (row.metric, row.value) == ("map_macro", row.metrics["map_macro"])
        assert row.low <= row.value <= row.high
        assert row.guess == pytest.approx(task.labels[task.parts.test].mean())
    (five, _) = result.summaries()
    low, high = interval(result.draws(("mmearth-bench-species@random", "knn-5", "100%", "image statistics")))
    assert (five.low, five.high) == (low, high)


@pytest.mark.parametrize("test", ["random", "geographic"])
@pytest.mark.parametrize("task", ["biomass", "soil_pH"])
def test_the_train_mean_has_the_error_of_a_direct_computation(task: str, test: str, here: Path) -> None:
    with h5py.File(here / task / f"{task}.h5") as file:
        values = file[task][:]
    content = json.loads((here / task / f"{task}_split_data.json").read_text())
    train, tested = (values[content[key]].ravel() for key in ("train_100%_indices", f"{test}_test_indices"))
    train, tested = train[train != -9999], tested[tested != -9999]
    rmse = np.sqrt(np.mean((tested - train.mean()) ** 2))
    r2 = 1 - np.sum((tested - train.mean()) ** 2) / np.sum((tested - tested.mean()) ** 2)
    rows = evaluate([], None, [opened(here, task, f"@{test}")], protocols=("linear",), baselines=("train-mean",), seeds=1, device="cpu").rows  # fmt: skip
    (row,) = rows
    assert (row.encoder, row.protocol, row.labels) == ("train-mean", "constant", "100%")
    assert row.metrics == {"rmse": pytest.approx(rmse, rel=1e-6), "r2": pytest.approx(r2, abs=1e-6)}
    assert f"rmse {rmse:.5g}" in row.chosen


def test_results_of_the_two_tests_are_never_mixed(here: Path) -> None:
    both = [opened(here, "soil_pH", test) for test in ("@random", "@geographic")]
    rows = evaluate([], None, both, protocols=("linear",), baselines=("statistics",), seeds=1, device="cpu").rows
    assert [row.task for row in rows] == [task.name for task in both]
    assert rows[0].metrics != rows[1].metrics
    with pytest.raises(InputError, match="expected each task once, got mmearth-bench-soil_pH@random twice"):
        evaluate([], None, [opened(here, "soil_pH"), both[0]], baselines=("statistics",), device="cpu")


# ---------------------------------------------------------------- larger than memory, in many threads and processes


def test_rows_are_the_same_whatever_the_chunks_and_however_few_blocks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.random.default_rng(0).integers(0, 9, (50, 3, 4, 4))
    rows = np.array([49, 0, 7, 7, 31, 6])
    monkeypatch.setattr(hdf5_rows, "KEPT_BYTES", 1)
    for number, chunks in enumerate([(7, 1, 2, 4), (1, 3, 4, 4), (50, 3, 2, 2), None]):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.create_dataset("a", data=values, chunks=chunks, compression="gzip" if chunks else None)
        found = RowFile(tmp_path / f"{number}.h5")
        np.testing.assert_array_equal(found.read("a", rows), values[rows])
        with caplog.at_level(logging.WARNING):
            for _ in range(20):
                found.read("a", rows)
    assert [record.getMessage().count("h5repack -l a:CHUNK=1x3x4x4") for record in caplog.records] == [1]
    assert "holds 7 samples" in caplog.text


def test_threads_read_the_same_rows_from_one_handle(here: Path) -> None:
    task = opened(here, "soil_pH")
    expected = batch_of(task, "sentinel2", "sentinel1")
    images = pickle.loads(pickle.dumps(task.images))
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(_read, images, np.array([row, (7 * row) % ROWS])) for row in range(ROWS)]
        for row, job in enumerate(jobs):
            for name, values in job.result().items():
                np.testing.assert_array_equal(values, expected[name][[row, (7 * row) % ROWS]])


def _read(images: Any, rows: NDArray[np.intp]) -> dict[str, Any]:
    (batch,) = images.batches(rows, len(rows), ("sentinel2", "sentinel1"))
    return {name: batch[name] for name in ("sentinel2", "sentinel1")}


def _read_apart(images: Any, rows: NDArray[np.intp]) -> tuple[bool, dict[str, Any]]:
    """Whether the file was opened by this process, and its rows."""
    found = _read(images, rows)
    return images.file._mine.process == os.getpid(), found


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_open_the_file_for_themselves(method: str, here: Path) -> None:
    task = opened(here, "soil_pH")
    expected = _read(task.images, np.array([3, 1]))  # opened here before the process begins
    with multiprocessing.get_context(method).Pool(1) as pool:
        for own, found in pool.starmap(_read_apart, [(task.images, np.array([3, 1]))] * 2):
            assert own
            for name, values in found.items():
                np.testing.assert_array_equal(values, expected[name])


# ---------------------------------------------------------------- damaged and contradictory files


def changed(**keys: Any) -> Callable[[Path], None]:
    """Change the split file; ``None`` removes a key."""

    def change(folder: Path) -> None:
        (path,) = folder.glob("*_split_data.json")
        content = json.loads(path.read_text()) | keys
        path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))

    return change


def replaced(name: str, values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (path,) = folder.glob("*.h5")
        with h5py.File(path, "a") as file:
            if name in file:
                del file[name]
            if values is not None:
                file[name] = values

    return change


def cut(share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (path,) = folder.glob("*.h5")
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return change


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no file": ("soil_pH", lambda folder: (folder / "soil_pH.h5").unlink(), "expected a folder with soil_pH.h5"),
    "no splits": ("soil_pH", lambda folder: (folder / "soil_pH_split_data.json").unlink(), "soil_pH_split_data.json"),
    "empty": ("soil_pH", written("soil_pH.h5", ""), "expected a complete HDF5 file"),
    "not HDF5": ("soil_pH", written("soil_pH.h5", "lon,lat,pH\n" * 500), "expected a complete HDF5 file"),
    "cut": ("soil_pH", cut(0.6), "expected a complete HDF5 file, got: .*truncated"),
    "no images": ("soil_pH", replaced("Sentinel2", None), "expected an array Sentinel2, got ASTER_GDEM, "),
    "no labels": ("soil_pH", replaced("soil_pH", None), "expected an array soil_pH"),
    "no locations": ("soil_pH", replaced("geolocation", None), "expected an array geolocation"),
    "locations swapped": ("soil_pH", replaced("geolocation", np.tile([10.0, 120.0], (24, 1))), "geolocation: expected longitude and latitude"),
    "dates": ("soil_pH", replaced("sentinel2_date", ["soon"] * 24), "sentinel2_date: expected dates such as"),
    "ids": ("soil_pH", replaced("id", np.zeros(24, int)), "expected 24 different ids"),
    "bands": ("soil_pH", replaced("Sentinel1", np.zeros((24, 2, 8, 8))), r"Sentinel1: expected numbers of the shape \(24, 8, 8, 8\), got float64 of \(24, 2, 8, 8\)"),
    "texts": ("soil_pH", replaced("biome", ["Tundra"] * 24), r"biome: expected numbers of the shape \(24,\), got object"),
    "not square": ("soil_pH", replaced("Sentinel2", np.zeros((24, 12, 8, 7))), "Sentinel2: expected tiles"),
    "labels of pixels": ("soil_pH", replaced("soil_pH", np.zeros((24, 8, 8))), r"soil_pH: expected \(24, 1\) numbers"),
    "labels of tiles": ("biomass", replaced("biomass", np.zeros((24, 1))), r"biomass: expected numbers of the shape \(24, 8, 8\)"),
    "JSON": ("soil_pH", written("soil_pH_split_data.json", "{"), "soil_pH_split_data.json: expected a JSON file"),
    "a list": ("soil_pH", written("soil_pH_split_data.json", "[]"), "expected an object, got list"),
    "no key": ("soil_pH", changed(geographic_test_indices="absent"), "expected geographic_test_indices"),
    "outside": ("soil_pH", changed(val_indices=[24]), "val_indices: expected rows 0 to 23 of the HDF5 file, got 24"),
    "negative": ("soil_pH", changed(val_indices=[-1]), "val_indices: expected rows 0 to 23 of the HDF5 file, got -1"),
    "floats": ("soil_pH", changed(val_indices=[0.5]), "val_indices: expected a list of row numbers"),
    "words": ("soil_pH", changed(val_indices="all"), "val_indices: expected a list of row numbers"),
    "ragged": ("soil_pH", changed(val_indices=[1, [2]]), "val_indices: expected a list of row numbers"),
    "twice": ("soil_pH", changed(val_indices=[1, 1]), "val_indices: expected every row once"),
    "overlap": ("soil_pH", changed(random_test_indices=list(range(24))), "expected every row in one part, got row"),
    "foreign": ("soil_pH", changed(**{"train_5%_indices": list(range(24))}), "train_5%_indices: expected rows of train_100%_indices"),
    "no statistics": ("soil_pH", changed(**{"Sentinel1_train_100%_means": "absent"}), "expected Sentinel1_train_100%_means"),
    "few statistics": ("soil_pH", changed(**{"ETH_GCH_train_100%_stds": [1.0]}), "ETH_GCH_train_100%_stds: expected a number or null for each of 2 bands"),
    "names": ("species", lambda folder: (folder / "species_labels.json").unlink(), "species_labels.json"),
    "numbers of names": ("species", written("species_labels.json", '{"Mus musculus": 1}'), "expected names with the numbers 0, 1, 2"),
    "unknown species": ("species", replaced("species", ['["Genus species00"]'] * 23 + ['["Genus specie01"]']), "got 'Genus specie01' in row 23; .*Did you mean 'Genus species01'"),
    "no JSON lists": ("species", replaced("species", ["Mus musculus"] * 24), "species: expected a JSON list of names in each row, got 'Mus musculus' in row 0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for task in ("biomass", "soil_pH", "species"):
        write_task(folder, task, **SMALL)
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_or_contradictory_files_are_refused_in_one_line(damage: str, whole: Path, tmp_path: Path) -> None:
    task, change, expected = DAMAGE[damage]
    folder = shutil.copytree(whole / task, tmp_path / task)
    change(folder)
    with pytest.raises(InputError, match=expected) as error:
        opened(folder, task)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DynamicWorld", 12, "DynamicWorld: expected codes 0 to 8, or 9 for missing, got 12"),
        ("biome", 200, "biome: expected codes 0 to 13, or 14 for missing, got 200"),
        ("ecoregion", 2.5, "ecoregion: expected codes 0 to 845, or 846 for missing, got 2.5"),
    ],
)
def test_a_code_without_a_class_is_refused_when_it_is_read(
    name: str, value: float, expected: str, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole / "soil_pH", tmp_path / "soil_pH")
    shape = (24, 1, 8, 8) if name == "DynamicWorld" else (24,)
    replaced(name, np.full(shape, value))(folder)
    task = opened(folder, "soil_pH")
    modality = {"DynamicWorld": "dynamic_world", "biome": "biome", "ecoregion": "eco_region"}[name]
    with pytest.raises(InputError, match=expected):
        batch_of(task, modality)


def test_a_chunk_that_was_damaged_is_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "soil_pH", **SMALL)
    path = folder / "soil_pH.h5"
    with h5py.File(path) as file:
        where = file["Sentinel2"].id.get_chunk_info(file["Sentinel2"].id.get_num_chunks() - 1)
    content = bytearray(path.read_bytes())
    content[where.byte_offset : where.byte_offset + where.size] = bytes(where.size)
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"soil_pH.h5: expected a complete HDF5 file, got: .*\(Sentinel2, rows \d+ to \d+\)"
    ):
        batch_of(opened(folder, "soil_pH"), "sentinel2")


def test_samples_without_a_label_are_left_out_and_counted(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole / "soil_pH", tmp_path / "soil_pH")
    content = json.loads((folder / "soil_pH_split_data.json").read_text())
    lost = [content["train_5%_indices"][0], content["random_test_indices"][0]]
    values = contents("soil_pH", **SMALL)["soil_pH"]
    values[lost] = np.nan
    replaced("soil_pH", values)(folder)
    task = opened(folder, "soil_pH")
    assert not set(lost) & set(task.parts.used.tolist())
    assert lost[0] not in task.partitions[0.05]
    assert task.notes == ("2 samples without a label were left out.",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mmearth-bench-soil_pH@europe=x", "expected mmearth-bench-soil_pH@random or mmearth-bench-soil_pH@geographic"),
        ("m-eurosat@random=x", "expected m-eurosat, which has a single test split, got 'm-eurosat@random'"),
        ("mmearth-bench-soil_ph@random=x", "Did you mean 'mmearth-bench-soil_pH'"),
        ("mmearth-bench-soil_pH=nowhere", "expected a folder with soil_pH.h5"),
        ("mmearth-bench-soil_pH@geographic", "write mmearth-bench-soil_pH@geographic=PATH"),
    ],
)
def test_a_slip_of_the_pen_is_refused_with_what_there_is(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        open_task(text)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"scale": 2}, "scale: expected none with layout mmearth-bench"),
        ({"kind": "single-label"}, "kind: expected regression, pixel-regression, multi-label and one label"),
        ({"layout": "table", "test": "geographic"}, "test: expected none with layout table"),
        ({"bands": ["B4", "B3", "B2"]}, "bands: expected B1, B2, B3, B4"),
    ],
)
def test_a_task_file_may_not_say_what_has_no_effect(fields: dict[str, Any], expected: str, here: Path) -> None:
    usual = {"name": "mine", "layout": "mmearth-bench", "kind": "regression", "label": "soil_pH", "bands": BANDS["sentinel2"][1]}  # fmt: skip
    with pytest.raises(InputError, match=expected):
        open_files(TaskSpec(**{**usual, **fields}), here)


def test_all_statistics_of_the_made_files_are_those_that_the_published_code_writes(here: Path) -> None:
    """The writer of these tests itself: every key of the published split file, and no other."""
    content = json.loads((here / "soil_pH" / "soil_pH_split_data.json").read_text())
    parts = ["train_100%", "train_50%", "train_5%"]
    keys = {f"{part}_indices" for part in (*parts, "val", "random_test", "geographic_test")}
    keys |= {f"{name}_{part}_{what}" for name in NUMBERS for part in parts for what in ("means", "stds")}
    assert set(content) == keys
    assert np.shape(content["Sentinel2_train_5%_means"]) == (12, 1, 1)
    assert np.shape(content["temperature_train_5%_means"]) == (9,)
