"""Fine-tuning: what is learned, at which rate, and what stays."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_store import TINY, write_store

from mmearth_data import InputError, Store
from mmearth_model import Checkpoint, ConvNeXtV2, EncoderConfig, load_checkpoint, make_recipe, pretrain
from mmearth_model.devices import one_thread
from mmearth_model.evaluation.features import input_normaliser
from mmearth_model.evaluation.finetune import FineTuner, FineTuneRecipe, finetune
from mmearth_model.evaluation.parameter_groups import parameter_groups
from mmearth_model.evaluation.trained import outputs_of
from mmearth_model.heads.network import load_network
from mmearth_model.heads.unet import UNet
from mmearth_model.network.encoder import Classifier
from mmearth_model.tasks import open_task

QUICK = FineTuneRecipe(epochs=6, warmup=1, lr=1e-2, batch_size=16, drop_path=0.0, weight_decay=0.01)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 96, shares=(0.5, 0.25))


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    recipe = make_recipe("demo", {**TINY, "epochs": 1, "batch_size": 12, "exclude": ("biome", "eco_region")})
    return load_checkpoint(pretrain(store, recipe, tmp_path_factory.mktemp("run") / "run", device="cpu"))


def test_layers_are_counted_from_the_stem_to_the_head() -> None:
    encoder = ConvNeXtV2(EncoderConfig())
    layers = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    assert layers["stem.conv.weight"] == 0
    assert layers["stages.0.0.norm.weight"] == 1
    assert layers["downsample.0.conv.weight"] == layers["stages.1.0.norm.weight"] == 3
    assert layers["stages.3.1.norm.weight"] == encoder.layers == 12
    model = Classifier(encoder, 3)
    groups = parameter_groups(model, lr=1.0, weight_decay=0.3, layer_decay=0.9, frozen=False)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    assert rates[id(model.head.weight)] == rates[id(model.norm.weight)] == 1
    assert rates[id(encoder.stem.conv.weight)] == pytest.approx(0.9**13)


def test_rates_decay_by_layer_and_vectors_do_not() -> None:
    model = Classifier(ConvNeXtV2(EncoderConfig()), 3)
    groups = parameter_groups(model, lr=1.0, weight_decay=0.3, layer_decay=0.9, frozen=False)
    by_parameter = {id(group["params"][0]): group for group in groups}  # type: ignore[index]
    stem = by_parameter[id(model.encoder.stem.conv.weight)]
    assert (stem["lr"], stem["weight_decay"]) == (pytest.approx(0.9**13), 0.3)
    assert by_parameter[id(model.head.bias)]["weight_decay"] == 0
    assert len(groups) == len(list(model.parameters()))
    frozen = parameter_groups(model, lr=1.0, weight_decay=0.3, layer_decay=0.9, frozen=True)
    assert len(frozen) == 4  # norm and head


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    recipe = FineTuneRecipe(epochs=10, warmup=2, lr=2.0)
    rates = [recipe.rate(step, 5) for step in range(51)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[30] == pytest.approx(1.0)
    assert rates[50] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


@pytest.mark.parametrize(("epochs", "peak"), [(1, 0), (3, 0), (4, 4), (12, 14), (40, 24)])
def test_the_rate_rises_for_at_most_a_quarter_of_the_epochs(epochs: int, peak: int) -> None:
    rates = [FineTuneRecipe(epochs=epochs, lr=2.0).rate(step, 5) for step in range(5 * epochs)]
    assert (rates.index(max(rates)), max(rates)) == (peak, 2.0)


@pytest.mark.parametrize("side", [32, 48])
def test_a_unet_answers_every_pixel_and_sees_every_map(side: int) -> None:
    model = UNet(ConvNeXtV2(EncoderConfig(widths=(8, 12, 16, 24), depths=(1, 1, 1, 1), in_channels=3)), 5)
    images = torch.randn(2, 3, side, side, requires_grad=True)
    answer = model(images)
    assert answer.shape == (2, 5, side, side)
    maps = model.encoder.forward_features(images)
    for index, part in enumerate(maps):
        changed = [m + (n == index) for n, m in enumerate(maps)]
        assert not torch.allclose(model.decode(changed, images), answer), part.shape


@pytest.mark.parametrize(
    ("task", "frozen", "metric", "least"),
    [
        ("store:biome", False, "accuracy", 0.9),
        ("store:esa_worldcover/pixels", False, "jaccard", 0.5),
        ("store:esa_worldcover/pixels", True, "jaccard", 0.3),
    ],
)
def test_what_the_toy_shows_is_learned(
    store: Store, checkpoint: Checkpoint, tmp_path: Path, task: str, frozen: bool, metric: str, least: float
) -> None:
    from dataclasses import replace

    with one_thread():
        result = finetune(
            checkpoint, open_task(task, store), replace(QUICK, frozen=frozen), device="cpu", out=tmp_path / "out"
        )
    (row,) = result.rows
    assert (row.metric, row.test_tiles) == (metric, 24)
    assert row.value > least
    network = load_network(tmp_path / "out")
    assert network.record["result"]["value"] == row.value
    assert network.outputs == outputs_of(open_task(task, store))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    before = checkpoint.encoder().state_dict()
    same = all(torch.equal(tensors[f"encoder.{name}"], value) for name, value in before.items())
    assert same is frozen


def test_it_stops_early_and_keeps_the_best_epoch(store: Store, checkpoint: Checkpoint) -> None:
    from dataclasses import replace

    task = open_task("store:biome", store)
    recipe = replace(QUICK, epochs=30, patience=2, lr=3e-2)
    values: list[float] = []
    normaliser = input_normaliser(checkpoint.normaliser, task)
    with one_thread():
        tuner = FineTuner(checkpoint.encoder(), normaliser, task, task.parts.train, recipe, torch.device("cpu"))
        best, epoch = tuner.fit(lambda epoch, loss, value: values.append(value))
        found = tuner.score(task.parts.validation)[1]["accuracy"]
    assert best == max(values) == values[epoch - 1]
    assert len(values) == min(30, epoch + 2)
    assert found == pytest.approx(best)


def test_pixels_nobody_labelled_teach_nothing(store: Store, checkpoint: Checkpoint) -> None:
    task = open_task("store:esa_worldcover/pixels", store)
    normaliser = input_normaliser(checkpoint.normaliser, task)
    tuner = FineTuner(checkpoint.encoder(), normaliser, task, task.parts.train, QUICK, torch.device("cpu"))
    outputs = torch.randn(1, tuner.outputs, 4, 4)
    answers = torch.randint(3, (1, 4, 4))
    answers[0, :2] = -1
    changed = outputs.clone()
    changed[:, :, :2] += torch.randn(1, tuner.outputs, 2, 4)
    assert torch.allclose(tuner._loss(outputs, answers), tuner._loss(changed, answers))
    assert tuner._loss(outputs, torch.full_like(answers, -1)) == 0


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", 0, "at least 1"),
        ("warmup", -1, "at least 0"),
        ("patience", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("accumulate", 0, "at least 1"),
        ("lr", 0.0, "above 0"),
        ("lr", math.inf, "a finite number, above 0"),
        ("min_lr", -1e-9, "at least 0"),
        ("min_lr", 2e-3, "at most the peak rate 0.001, got 0.002"),
        ("min_lr", math.nan, "a finite number, at least 0, got nan"),
        ("layer_decay", 1.5, "above 0, at most 1"),
        ("drop_path", 1.0, "at least 0, below 1"),
        ("drop_path", -0.1, "at least 0, below 1"),
        *(("weight_decay", decay, "a finite number, at least 0") for decay in (-1.0, math.nan, math.inf)),
        ("label_smoothing", 1.0, "at least 0, below 1"),
        ("clip", 0.0, "above 0"),
        ("head_std", -0.1, "at least 0"),
        ("thaw", -1, "at least 0"),
        ("seed", -1, "at least 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(field: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"^{field}: expected .*{expected}") as error:
        FineTuneRecipe(**{field: value})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_the_default_recipe_has_the_papers_rates() -> None:
    assert math.isclose(FineTuneRecipe().layer_decay, 0.9)
    assert np.isclose(FineTuneRecipe().drop_path, 0.1)
