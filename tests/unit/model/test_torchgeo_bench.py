"""The protocol of torchgeo-bench. ``make prove-ecosystem`` compares it with torchgeo-bench itself; here, with figures of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import write_encoder
from geobench2_world import write_named
from torchgeo_bench_world import PARTS, labelled_features, write_geobench
from toy_store import write_store

from mmearth_data import InputError
from mmearth_model import Checkpoint, evaluate
from mmearth_model.cli import cli
from mmearth_model.evaluation import TorchgeoInput, bench_table, torchgeo_probes
from mmearth_model.evaluation.probes import LabelledFeatures
from mmearth_model.evaluation.torchgeo_bench import COLUMNS, bench_details, prepared
from mmearth_model.evaluation.torchgeo_inputs import listings, resize
from mmearth_model.evaluation.torchgeo_probes import (  # fmt: skip
    STRENGTHS,
    average_precision,
    fit,
    linear,
    nearest,
    resampled,
)
from mmearth_model.tasks import LabelShare, open_task

# Of `evaluate_logistic`, `evaluate_knn` and `LogisticRegression` of torchgeo-bench 0.4.0 on `labelled_features`, with seed 0,
# 200 resamples, one thread, PyTorch 2.13 for the CPU: metric, interval, C; metric and interval of the neighbours; the
# first weights and the offsets of the seventeenth C. They change by less than 1e-3 if the features do by 1e-6.
FIGURES: dict[bool, dict[str, Any]] = {
    False: {
        "linear": (0.6833333, 0.5833333, 0.8000000),
        "C": 0.13433993325988988,
        "neighbours": (0.6000000, 0.4666667, 0.7170833),
        "weights": [0.0081651, -0.0416566, 0.0124390, 0.1843198, -0.1783675],
        "offsets": [-0.0992118, -0.0393884, 0.1386003],
    },
    True: {
        "linear": (0.8307677, 0.7395695, 0.9023111),
        "C": 27.28333376486764,
        "neighbours": (0.5278628, 0.4078222, 0.6132956),
        "weights": [0.0626664, -0.0935483, 0.1216941, 0.2548748, -0.0784947],
        "offsets": [-1.0742661, -1.0165725, -1.5495712],
    },
}


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_geobench(tmp_path_factory.mktemp("v1"), "m-eurosat")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("encoder")
    return write_encoder(folder / "run", write_store(folder / "toy.zarr", 16))


def metric(test: LabelledFeatures, answer: Any) -> tuple[float, float, float]:
    several = test.labels.ndim == 2
    value = (
        average_precision(test.labels, answer.scores) if several else float((answer.predicted == test.labels).mean())
    )
    found = resampled(test.labels, answer, 0)
    return value, float(np.percentile(found, 2.5)), float(np.percentile(found, 97.5))


@pytest.mark.parametrize("several", [False, True], ids=["classes", "labels"])
def test_figures_are_those_of_its_own_code(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several C are almost equally good here: which of them is the best depends on how a processor rounds."""
    train, validation, test = labelled_features(several)
    wanted = FIGURES[several]
    best = linear(train, validation, test)
    monkeypatch.setattr(torchgeo_probes, "STRENGTHS", (wanted["C"],))
    answer = linear(train, validation, test)
    assert answer.strength == wanted["C"]
    assert best.validation is not None
    assert best.validation == pytest.approx(answer.validation, abs=1e-3)
    assert metric(test, answer) == pytest.approx(wanted["linear"], abs=2e-3)
    assert metric(test, nearest(train, test)) == pytest.approx(wanted["neighbours"], abs=1e-6)
    model = fit(train, STRENGTHS[16], 2000)
    np.testing.assert_allclose(model.weight[0], wanted["weights"], atol=1e-4)
    np.testing.assert_allclose(model.offset, wanted["offsets"], atol=1e-4)


@pytest.mark.parametrize("several", [False, True], ids=["classes", "labels"])
def test_a_fit_is_the_minimum_of_the_loss(several: bool) -> None:
    """The gradient of the loss as published, in double precision, is almost 0."""
    train, _, _ = labelled_features(several)
    strength = 0.05
    model = fit(train, strength, 2000)
    weight, offset = (part.double().requires_grad_() for part in (model.weight, model.offset))
    logits = torch.from_numpy(train.values).double() @ weight.T + offset
    labels = torch.from_numpy(train.labels)
    if several:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double())
    else:
        loss = torch.nn.functional.cross_entropy(logits, labels)
    count = labels.numel()  # of samples, or of the labels of all samples
    (loss + (weight**2).sum() / (2 * strength * count)).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert offset.grad is not None
    assert float(weight.grad.abs().max()) < 1e-3
    assert float(offset.grad.abs().max()) < 1e-3


def test_neighbours_vote_without_weights_and_the_first_class_wins() -> None:
    values = np.array([[0.0], [1], [2], [3], [4], [100]], np.float32)
    test = LabelledFeatures(np.array([[0.4], [99.0]], np.float32), np.array([0, 1]))
    train = LabelledFeatures(values, np.array([2, 1, 1, 2, 0, 0]))
    assert nearest(train, test).predicted.tolist() == [1, 0]  # two votes of 1 and 2; of 0 and 1
    np.testing.assert_allclose(nearest(train, test).scores[0], [0.2, 0.4, 0.4])
    flags = LabelledFeatures(values, np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 0]]))
    asked = LabelledFeatures(test.values[:1], np.array([[1, 0]]))
    np.testing.assert_allclose(nearest(flags, asked).scores, [[0.6, 0.6]])
    same = LabelledFeatures(np.zeros((9, 1), np.float32), np.array([1, 1, 1, 0, 0, 0, 0, 0, 0]))
    assert nearest(same, test).predicted.tolist() == [1, 1]  # the first five of equally distant ones


def test_average_precision_is_that_of_all_labels_together() -> None:
    truth, scores = np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.8], [0.1, 0.2]])
    assert average_precision(truth, scores) == pytest.approx((1 + 2 / 3) / 2)  # positives at ranks 1 and 3


def test_resizing_is_bilinear_between_pixel_centres() -> None:
    image = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    assert resize(image, 4)[0, 1].tolist() == [0, 0.25, 0.75, 1]
    assert resize(image, None) is image


def test_planes_feed_what_their_names_say_normalised_as_listed(eurosat: Path, checkpoint: Checkpoint) -> None:
    (task,) = prepared([open_task(f"m-eurosat={eurosat}")], TorchgeoInput("all", None))
    reading = task.images.own_normaliser
    assert reading is not None
    own = reading(task.parts.train)
    (batch,) = task.images.batches(np.array([3]), 1, own.stored)
    images = own.images(batch)[0].numpy()
    source = open_task(f"m-eurosat={eurosat}").images.read(3)  # type: ignore[attr-defined]
    for number, band in enumerate(listings()["m-eurosat"].bands):
        plane = source.values[source.names.index(band.plane)].astype(np.float64)
        np.testing.assert_allclose(images[number], (plane - band.mean) / band.std, atol=1e-4)
    order = own.modalities["sentinel2"].model_bands
    assert order[8:11] == ("B8A", "B9", "B10")  # "08A", which holds B9, and the following
    assert "08A - Vegetation Red Edge holds B9 and is used as B8A" in task.notes[0]
    (usual,) = prepared([open_task(f"m-eurosat={eurosat}")], TorchgeoInput())
    assert usual.images.found_bands(own.modalities["sentinel2"]) == ("B4", "B3", "B2")
    assert "read as what they hold" in usual.notes[0]


def test_a_table_has_a_row_for_each_probe(eurosat: Path, checkpoint: Checkpoint) -> None:
    """With a published share of the labels; the second seed has the same features, and other resamples."""
    result = evaluate([checkpoint], None, [f"m-eurosat={eurosat}"], protocols=["torchgeo-bench"], baselines=[], seeds=2, labels=[LabelShare.parse("20%")], device="cpu", torchgeo=TorchgeoInput("rgb", None))  # fmt: skip
    rows = list(csv.DictReader(bench_table(result).splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert {row["name"] for row in rows} == {checkpoint.name}
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("knn5", "0"),
        ("linear", "0"),
        ("knn5", "1"),
        ("linear", "1"),
    ]
    assert [row["best_c"] == "" for row in rows] == [True, False, True, False]
    first, second = rows[1], rows[3]
    counts = [str(PARTS["train"] // 3), str(PARTS["valid"]), str(PARTS["test"])]
    assert [first[key] for key in ("n_train", "n_val", "n_test")] == counts
    assert [first[key] for key in ("metric_value", "best_c")] == [second[key] for key in ("metric_value", "best_c")]
    settings = {"bands": "rgb", "image_size": "", "partition": "0.20x_train", "bootstrap": "200", "merge_val": "True"}
    assert {key: first[key] for key in settings} == settings
    found = result.rows[1]
    assert (found.metric, found.drawn) == ("accuracy", 200)
    assert first["metric_value"] == str(found.value)
    assert [float(first[key]) for key in ("ci_lower", "ci_upper")] == [found.low, found.high]
    assert not found.remarks()


@pytest.mark.parametrize(("bands", "planes"), [("rgb", 3), ("all", 12)])
def test_tasks_that_it_does_not_list_are_normalised_as_usual(tmp_path: Path, run: Any, bands: str, planes: int) -> None:
    write_store(tmp_path / "toy.zarr", 64, shares=(0.5, 0.25))
    found = run("evaluate", "--task", "store:biome", "--store", str(tmp_path / "toy.zarr"), "--protocol", "torchgeo-bench", "--torchgeo-size", "0", "--torchgeo-bands", bands, "--baseline", "statistics", "--seeds", "1", "--out", str(tmp_path / "out"))  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "torchgeo-bench does not list store:biome" in " ".join(found.output.split())
    rows = list(csv.DictReader((tmp_path / "out" / "torchgeo-bench.csv").read_text().splitlines()))
    assert [row["feature_dim"] for row in rows] == [str(9 * planes)] * 2  # nine statistics of each band
    assert [row["metric_value"] for row in rows] == ["1.0", "1.0"]  # its tiles are of four kinds


@pytest.fixture
def run() -> Any:
    from click.testing import CliRunner

    return lambda *arguments: CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--protocol", "torchgeo-bench", "--protocol", "knn"), "got --protocol knn, whose images and metrics differ"),
        (("--protocol", "linear", "--torchgeo-bands", "all"), "without --protocol torchgeo-bench"),
        (("--torchgeo-size", "64"), "without --protocol torchgeo-bench"),
        (("--protocol", "torchgeo-bench", "--torchgeo-size", "-1"), "--torchgeo-size"),
        (("--protocol", "torchgeo-bench", "--torchgeo-bands", "red"), "--torchgeo-bands"),
    ],
)
def test_options_that_do_not_fit_are_refused(run: Any, eurosat: Path, options: tuple[str, ...], expected: str) -> None:
    found = run("evaluate", "--task", f"m-eurosat={eurosat}", "--baseline", "statistics", *options)
    assert found.exit_code == 2
    assert expected in " ".join(found.output.split())


def test_tasks_without_labels_of_whole_images_or_validation_samples_are_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "toy.zarr", 32)
    arguments: dict[str, Any] = {"protocols": ["torchgeo-bench"], "baselines": ["statistics"]}
    for task, expected in (
        ("store:esa_worldcover/pixels", "expected linear for store:esa_worldcover/pixels"),
        (
            "store:sentinel1.asc_VV",
            "expected single-label or multi-label tasks of whole images, got store:sentinel1.asc_VV",
        ),
        ("store:biome", "expected validation samples to choose C, got none in store:biome"),
    ):
        with pytest.raises(InputError, match=expected):
            evaluate([], store, [task], **arguments)
    with pytest.raises(InputError, match="got --test-share; it uses the splits of the data"):
        evaluate([], store, ["store:biome"], test_share=0.3, **arguments)
    folder = write_named(tmp_path, "treesatai")
    with pytest.raises(InputError, match="expected all for treesatai, whose red, green and blue bands"):
        evaluate([], None, [f"treesatai={folder}"], **arguments)


def test_bands_that_were_not_read_are_not_claimed(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Radar of BigEarthNet is not read: what takes optical bands only does not need it."""
    opened = open_task(f"benv2={write_named(tmp_path, 'benv2')}")
    given = TorchgeoInput("all", 16)
    (task,) = prepared([opened], given)
    reading = task.images.own_normaliser
    assert reading is not None
    own = reading(task.parts.train)
    details = [bench_details(task, given, task.parts.train, own, pretrained) for pretrained in (True, False)]
    assert details[0]["bands"] == "all"
    assert details[1]["bands"] == "b01,b02,b03,b04,b05,b06,b07,b08,b8a,b09,b11,b12"
    (batch,) = task.images.batches(np.array([0]), 1, own.stored)
    assert own.images(batch).shape == (1, 12, 16, 16)
