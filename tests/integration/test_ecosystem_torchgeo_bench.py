"""The protocol of torchgeo-bench and the tasks of GEO-Bench 2, beside torchgeo-bench 0.4.0 and geobenchv2 0.9 themselves.

``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import csv
import importlib
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import write_encoder
from geobench2_world import SETS, SPLITS, write_named
from torchgeo_bench_world import PARTS, labelled_features, write_geobench
from toy_store import write_store

from mmearth_data import load_catalog, resource_path
from mmearth_model.evaluation import TorchgeoInput, bench_table, evaluate, torchgeo_probes
from mmearth_model.evaluation.metrics import average_precision
from mmearth_model.evaluation.torchgeo_bench import COLUMNS
from mmearth_model.evaluation.torchgeo_inputs import listings
from mmearth_model.tasks import IGNORED, open_task

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore"),  # each of the other sides has its own
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("torchgeo_bench.main")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("encoder")
    return write_encoder(folder / "run", write_store(folder / "toy.zarr", 16))


# ---------------------------------------------------------------- probes on the same features


@pytest.mark.parametrize("several", [False, True], ids=["classes", "labels"])
def test_the_linear_probe_is_its_own(bench: Any, several: bool) -> None:
    train, validation, test = labelled_features(several)
    parts = [part for each in (train, validation, test) for part in (each.values, each.labels)]
    strengths = (10 ** np.linspace(-6.0, 4.0, 40)).tolist()
    value, low, high, strength, errors, cooled = bench.evaluate_logistic(*parts, strengths, 0, 200, True, "cpu")
    own = torchgeo_probes.linear(train, validation, test)
    assert own.strength == strength
    assert own.errors == pytest.approx({**errors, **cooled}, rel=1e-6)
    found = torchgeo_probes.resampled(test.labels, own, 0)
    assert (np.percentile(found, 2.5), np.percentile(found, 97.5)) == (low, high)
    right = average_precision(test.labels, own.scores) if several else (own.predicted == test.labels).mean()
    assert right == value
    for tried in strengths[::6]:
        model = bench.LogisticRegression(
            C=tried, max_iter=2000, tol=1e-6, random_state=0, device="cpu", multi_label=several
        )
        labels = torch.from_numpy(train.labels)
        model.fit(torch.from_numpy(train.values), labels.float() if several else labels)
        fitted = torchgeo_probes.fit(train, tried, 2000)
        np.testing.assert_array_equal(fitted.weight.numpy(), model.coef_)
        np.testing.assert_array_equal(fitted.offset.numpy(), model.intercept_)


@pytest.mark.parametrize("several", [False, True], ids=["classes", "labels"])
def test_the_neighbours_are_its_own(bench: Any, several: bool) -> None:
    train, _, test = labelled_features(several)
    twice = type(train)(
        np.concatenate([train.values, train.values]), np.concatenate([train.labels, train.labels[::-1]])
    )
    for known in (train, twice, train.take(np.arange(3))):
        theirs = bench.KNNClassifier(n_neighbors=5).fit(known.values, known.labels)
        own = torchgeo_probes.nearest(known, test)
        np.testing.assert_array_equal(own.predicted, theirs.predict(test.values))
        np.testing.assert_array_equal(own.scores, theirs.predict_proba(test.values))
    value, low, high, errors, _ = bench.evaluate_knn(train.values, train.labels, test.values, test.labels, 0, 200)
    own = torchgeo_probes.nearest(train, test)
    found = torchgeo_probes.resampled(test.labels, own, 0)
    assert (np.percentile(found, 2.5), np.percentile(found, 97.5)) == (low, high)
    assert own.errors == pytest.approx(errors, rel=1e-6)
    right = average_precision(test.labels, own.scores) if several else (own.predicted == test.labels).mean()
    assert right == value


# ---------------------------------------------------------------- the whole protocol


def test_listed_bands_are_its_own(bench: Any) -> None:
    """Statistics, and the channels of an encoder that its names mean."""
    canonical = importlib.import_module("torchgeo_bench.models._band_mapping").canonical_band_name
    known = load_catalog().modalities
    channels: dict[str, list[str]] = {}
    for name in ("sentinel2", "sentinel1"):
        for band in known[name].bands:
            short = canonical(re.sub(r"^B(\d)$", r"B0\1", band.rpartition("_")[2]))
            channels.setdefault(short, []).append(f"{name}.{band}")
    for name, listing in listings().items():
        theirs = bench.get_bench_dataset_class(name)
        optical = name == "treesatai"  # its red, green and blue are those of photographs, which are not listed
        wanted = [band for band in theirs.bands if not optical or band.sensor == "s2"]
        assert [(b.name, b.plane, b.mean, b.std) for b in listing.bands] == [(b.name, b.source_name, b.mean, b.std) for b in wanted]  # fmt: skip
        assert listing.rgb == (() if optical else tuple(theirs.rgb_bands))
        assert [list(b.feeds) for b in listing.bands] == [channels.get(canonical(b.name), []) for b in listing.bands]


def table_of_theirs(bench: Any, folder: Path, name: str, bands: str, checkpoint: Path, monkeypatch: Any) -> str:
    """The table that torchgeo-bench writes for our model; its training samples in order, not shuffled."""
    hydra, loading = importlib.import_module("hydra"), importlib.import_module("torchgeo_bench.datasets.loading")
    configurations = importlib.import_module("omegaconf").OmegaConf
    loader = torch.utils.data.DataLoader
    monkeypatch.setattr(loading, "_make_loader", lambda data, *, batch_size, **_: loader(data, batch_size=batch_size))
    monkeypatch.setattr(sys, "path", [*sys.path, str(resource_path("pipelines") / "integrations")])
    monkeypatch.chdir(folder)
    with hydra.initialize_config_module("torchgeo_bench.conf", version_base=None):
        changes = [f"dataset.names=[{name}]", f"dataset.bands={bands}", "dataset.num_workers=0", "device=cpu", "output=theirs.csv"]  # fmt: skip
        settings = hydra.compose("config", overrides=[*changes, "model=imagestats", "resume=true"])
    settings.model = configurations.create(
        {"_target_": "torchgeo_bench_model.MMEarth", "name": str(checkpoint), "checkpoint": str(checkpoint)}
    )
    bench.main.__wrapped__(settings)
    return (folder / "theirs.csv").read_text()


@pytest.mark.parametrize(("name", "bands", "classes"), [("m-eurosat", "rgb", 10), ("m-eurosat", "all", 10), ("m-brick-kiln", "all", 2), ("m-so2sat", "all", 4), ("m-bigearthnet", "all", 43)])  # fmt: skip
def test_a_row_of_ours_is_a_row_of_its_own(
    bench: Any,
    checkpoint: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    bands: Any,
    classes: int,
) -> None:
    """From the same files and weights: every column of the table; and it skips what is in a table of ours."""
    root = tmp_path / "data" / "classification_v1.0"
    several = name == "m-bigearthnet"
    folder = write_geobench(root, name, classes=classes, several=several)
    result = evaluate([checkpoint], None, [f"{name}={folder}"], protocols=["torchgeo-bench"], baselines=[], seeds=1, device="cpu", torchgeo=TorchgeoInput(bands))  # fmt: skip
    table = bench_table(result)
    theirs = table_of_theirs(bench, tmp_path, name, bands, Path(checkpoint.name), monkeypatch)
    found, wanted = (list(csv.DictReader(StringIO(text))) for text in (table, theirs))
    assert tuple(wanted[0]) == COLUMNS
    assert len(found) == len(wanted) == 2
    for own, other in zip(found, wanted, strict=True):
        for column in COLUMNS:
            if re.fullmatch(r"-?[\d.]+(e-?\d+)?", other[column]):
                # features differ by 1e-7 (a product with 1 / std, not a quotient): enough to move one of the test samples to
                # another bin of the calibration errors, or to swap the ranks of two; the tests above compare the same features
                binned = column.endswith(("ece", "ce", "ts", "temperature"))
                ranked = several and column in ("metric_value", "ci_lower", "ci_upper")
                near = 1 / PARTS["test"] if binned else 2e-2 if ranked else 1e-7
                assert float(own[column]) == pytest.approx(float(other[column]), abs=near), column
            else:
                assert own[column] == other[column], column
    (tmp_path / "theirs.csv").write_text(table)
    assert table_of_theirs(bench, tmp_path, name, bands, Path(checkpoint.name), monkeypatch) == table


# ---------------------------------------------------------------- GEO-Bench 2

CLASSES = {"benv2": "GeoBenchBENV2", "so2sat": "GeoBenchSo2Sat", "treesatai": "GeoBenchTreeSatAI", "cloudsen12": "GeoBenchCloudSen12", "burn_scars": "GeoBenchBurnScars", "fotw": "GeoBenchFieldsOfTheWorld", "pastis": "GeoBenchPASTIS", "biomassters": "GeoBenchBioMassters"}  # fmt: skip
MODALITY = {"benv2": "s2", "so2sat": "s2", "treesatai": "s2", "pastis": "s2", "biomassters": "s2"}
IMAGE = {"fotw": "image_b", **{name: f"image_{key}" for name, key in MODALITY.items()}}
UNLABELLED = {"burn_scars": 2, "fotw": 3}
SPLIT_NAMES = {"train": "train", "validation": "validation", "test": "test"}


@pytest.mark.parametrize("name", SETS)
def test_samples_are_those_of_the_published_data_set(name: str, tmp_path: Path) -> None:
    """Splits, order, planes, labels, masks and class names, from the same files."""
    kind = getattr(importlib.import_module("geobench_v2.datasets"), CLASSES[name])
    folder = write_named(tmp_path, name)
    task = open_task(f"{name}={folder}")
    spec = task.images.spec  # type: ignore[attr-defined]
    names = [str(band) for band in spec.bands]
    order: Any = {MODALITY[name]: names} if name in MODALITY else names
    names_of_classes = getattr(kind, "classes", None)
    if names_of_classes is not None:
        assert [c.lower().replace("-", " ") for c in task.classes] == [
            c.lower().replace("-", " ") for c in names_of_classes
        ]
    for part, split in SPLIT_NAMES.items():
        theirs = kind(root=folder, split=split, band_order=order, data_normalizer=torch.nn.Identity)
        rows = getattr(task.parts, part)
        assert len(theirs) == len(rows) == SPLITS.count(split)
        for sample, row in zip(theirs, rows, strict=True):
            image = sample[IMAGE.get(name, "image")].numpy()
            raster = task.images.read(int(row))  # type: ignore[attr-defined]
            np.testing.assert_array_equal(raster.values.astype(np.float32), image.squeeze())
            if task.masks is None:
                label = sample["label"]
                found = label.numpy() if isinstance(label, torch.Tensor) else label
                np.testing.assert_array_equal(task.labels[row], found)
                continue
            (found,) = task.masks(np.array([row]))
            mask = sample["mask"].numpy()
            if name == "biomassters":
                np.testing.assert_allclose(found / 289.89, mask, rtol=1e-6)
            else:
                np.testing.assert_array_equal(np.where(found == IGNORED, UNLABELLED.get(name, -9), found), mask)


def test_a_file_of_its_own_writer_is_read(tmp_path: Path) -> None:
    """A subset that tacoreader writes itself."""
    taco = importlib.import_module("tacoreader")
    folder = write_named(tmp_path, "benv2")
    whole = open_task(f"benv2={folder}")
    table = taco.load(str(folder / "geobench_benv2.tortilla"))
    some = taco.compile(
        table[table["tortilla:id"].isin(["sample_1", "sample_4"])], tmp_path / "some.tortilla", quiet=True
    )
    task = open_task(f"benv2={some}")
    assert task.ids == ("sample_1", "sample_4")
    np.testing.assert_array_equal(task.labels, whole.labels[[1, 4]])
    for own, row in enumerate((1, 4)):
        np.testing.assert_array_equal(task.images.read(own).values, whole.images.read(row).values)  # type: ignore[attr-defined]
