"""The released pretraining run on an imported data set: recipes, statistics, learning rates."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from published_world import band_stats, make_published
from toy_store import write_store

from mmearth_data import import_hdf5, open_store
from mmearth_model import make_recipe, plan_training, pretrain
from mmearth_model.cli import cli
from mmearth_model.training.plan import TrainPlan
from mmearth_model.training.pretraining import prepare
from mmearth_model.training.recipe import TRAIN_RECIPES
from mmearth_model.weights.checkpoints import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 24
SMALL = {"image_size": 16, "patch_size": 8, "batch_size": 8, "device_batch": 4}
TINY = {"depths": (1, 1, 1, 1), "widths": (8, 12, 16, 24), "decoder_dim": 16, "epochs": 1, "warmup": 0.0}
IN_FILE = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B10", "B11", "B12")
RELEASED = ("released-atto-128", "released-atto-64", "released-tiny-64")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    import_hdf5(make_published(folder / "in", ROWS), folder / "s.zarr")
    return folder / "s.zarr"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def command(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", RELEASED)
def test_the_recipes_are_the_released_runs(name: str) -> None:
    """Options of its training script: 8 processes of 256 tiles, accumulated twice, 200 epochs with 40 of warm-up."""
    recipe = make_recipe(name)
    assert name in TRAIN_RECIPES.names()
    assert (recipe.preset, recipe.precision, recipe.flips, recipe.seed) == ("reference", "float32", False, 0)
    assert (recipe.batch_size, recipe.micro_batch, recipe.accumulate) == (4096, 256, 16)
    assert (recipe.epochs, recipe.warmup * recipe.epochs, recipe.schedule) == (200, 40, "released")
    assert recipe.peak_lr == pytest.approx(1.5e-4 * 16)
    assert (recipe.betas, recipe.weight_decay, recipe.clip_norm, recipe.mask_ratio) == ((0.9, 0.95), 0.05, None, 0.6)
    assert recipe.size == name.split("-")[1]
    assert (recipe.image_size, recipe.patch_size) == ((56, 8) if name.endswith("-64") else (112, 16))
    assert recipe.among(8).micro_batch == 256


def test_a_dry_run_shows_the_plan(imported: Path) -> None:
    small = ("--image-size", 16, "--patch-size", 8, "--batch-size", 8, "--statistics", "published")
    code, out, _ = command("pretrain", imported, "--recipe", "released-atto-64", *small, "--dry-run")
    assert code == 0
    plan = json.loads(out)
    assert plan["preset"] == "reference"
    assert plan["statistics"] == "published"
    assert (plan["schedule"], plan["precision"], plan["flips"], plan["seed"]) == ("released", "float32", False, 0)
    assert plan["epochs"] == 200


def plan(tiles: int) -> TrainPlan:
    """11 tiles in micro-batches of 2, two per step: two steps per epoch, and one micro-batch left over."""
    recipe = make_recipe(
        "released-atto-64", {"epochs": 10, "warmup": 0.2, "batch_size": 4, "device_batch": 2, "base_lr": 0.64}
    )
    return TrainPlan(
        recipe=recipe, inputs=(), pretext=(), image_size=56, patch_size=8, tile_size=64, tiles=tiles,
        steps_per_epoch=tiles // 4,
    )  # fmt: skip


def test_the_rate_of_a_step_is_that_of_the_share_of_the_run_before_it() -> None:
    """The released loop sets the rate before each step's first micro-batch: epoch + micro-batch / micro-batches."""
    rates = [plan(11).learning_rate(step) for step in range(20)]
    peak, expected = 0.64 * 4 / 256, []
    for epoch in range(10):
        for micro_batch in range(5):
            if micro_batch % 2 == 0 and micro_batch + 2 <= 5:
                at = epoch + micro_batch / 5
                rising = peak * at / 2
                falling = peak * 0.5 * (1 + math.cos(math.pi * (at - 2) / 8))
                expected.append(rising if at < 2 else falling)
    assert rates == pytest.approx(expected)
    assert rates[0] == 0
    assert max(rates) == rates[4] == peak


def test_published_statistics_normalise_inputs_and_targets(imported: Path) -> None:
    store = open_store(imported)
    recipe = make_recipe("released-atto-64", {**SMALL, **TINY, "statistics": "published"})
    normaliser = prepare(plan_training(store, recipe), store, None, 0).normaliser
    batch = next(iter(store.loader(batch_size=4, shuffle=False, modalities=normaliser.stored)))
    out = normaliser(batch)
    for b, band in np.ndindex(4, 12):
        level = ("sentinel2_l1c", "sentinel2_l2a")[int(batch["tile"]["s2_level"][b])]
        statistics = band_stats()[level]
        name = normaliser.modalities["sentinel2"].model_bands[band]
        in_file = IN_FILE.index(name)
        stored = batch["sentinel2"][b, normaliser.modalities["sentinel2"].bands.index(name)].astype(np.float64)
        expected = np.where(stored, (stored - statistics["mean"][in_file]) / statistics["std"][in_file], 0)
        np.testing.assert_allclose(out.images[b, band].numpy(), expected, rtol=1e-5, err_msg=name)
    other = prepare(plan_training(store, make_recipe("released-atto-64", {**SMALL, **TINY})), store, None, 0).normaliser
    assert not torch.allclose(other(batch).images, out.images)


def test_a_released_run_trains_and_its_checkpoint_normalises_alike(imported: Path, tmp_path: Path) -> None:
    store = open_store(imported)
    recipe = make_recipe("released-atto-64", {**SMALL, **TINY, "statistics": "published"})
    checkpoint = Checkpoint.read(pretrain(store, recipe, tmp_path / "run", device="cpu"))
    assert checkpoint.config["recipe"]["statistics"] == "published"
    trained = prepare(plan_training(store, recipe), store, None, 0).normaliser
    again = checkpoint.normaliser
    assert again.stand_ins == trained.stand_ins == {
        "sentinel2": 0, "aster": -32768, "canopy_height_eth": 127, "biome": 0, "eco_region": 0
    }  # fmt: skip
    batch = next(iter(store.loader(batch_size=4, shuffle=False, modalities=trained.stored)))
    assert torch.equal(again(batch).images, trained(batch).images)


def test_statistics_that_are_not_there_are_refused(imported: Path, tmp_path: Path) -> None:
    code, out, err = command("pretrain", imported, "--statistics", "mine")
    assert (code, out) == (2, "")
    assert "'mine' is not one of 'store', 'published'" in err
    native = write_store(tmp_path / "toy.zarr").path
    small = ("--image-size", 24, "--patch-size", 8, "--batch-size", 8)
    code, out, err = command("pretrain", native, *small, "--statistics", "published", "--dry-run")
    assert (code, out) == (2, "")
    (line,) = (line for line in err.splitlines() if line.startswith("Error: "))
    assert "expected a store with the band_stats.json" in line
    assert "use --statistics store" in line
