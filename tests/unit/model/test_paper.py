"""The paper's downstream settings: rates, groups, losses and steps compared with explicit formulas."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from toy_store import TINY, write_store

from mmearth_data import InputError, Store
from mmearth_model import Checkpoint, ConvNeXtV2, EncoderConfig, evaluate, load_checkpoint, make_recipe, pretrain
from mmearth_model.cli import cli
from mmearth_model.devices import one_thread
from mmearth_model.evaluation.features import input_normaliser
from mmearth_model.evaluation.finetune import (
    PAPER,
    PAPER_FEW,
    PAPER_PROBE,
    PAPER_PROBE_FEW,
    PAPER_UNET,
    FineTuner,
    FineTuneRecipe,
    choose_recipe,
    paper_recipe,
)
from mmearth_model.evaluation.paper import start_head, thawed_group
from mmearth_model.evaluation.parameter_groups import parameter_groups
from mmearth_model.heads.paper_unet import PaperUNet
from mmearth_model.network.encoder import Classifier
from mmearth_model.tasks import WHOLE, LabelledSet, LabelShare, TaskKind, open_task
from mmearth_model.training.random_numbers import seeded

SMALL = EncoderConfig(widths=(8, 16, 32, 64), depths=(1, 2, 1, 1), in_channels=3, drop_path=0.1)
BIOME = "store:biome"
PIXELS = "store:esa_worldcover/pixels"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 128, shares=(0.75, 0.125))


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    recipe = make_recipe("demo", {**TINY, "epochs": 1, "batch_size": 12, "exclude": ("biome", "eco_region")})
    return load_checkpoint(pretrain(store, recipe, tmp_path_factory.mktemp("run") / "run", device="cpu"))


def tuner(
    checkpoint: Checkpoint, store: Store, recipe: FineTuneRecipe, task: str = BIOME, train: int = 32
) -> FineTuner:
    opened = open_task(task, store)
    normaliser = input_normaliser(checkpoint.normaliser, opened)
    return FineTuner(checkpoint.encoder(), normaliser, opened, opened.parts.train[:train], recipe, torch.device("cpu"))


# ---------------------------------------------------------------- rates and steps


@pytest.mark.parametrize("recipe", [PAPER, PAPER_FEW, PAPER_UNET, PAPER_PROBE, PAPER_PROBE_FEW])
def test_the_settings_are_the_released_ones(recipe: FineTuneRecipe) -> None:
    samples = recipe.batch_size * recipe.accumulate
    base = 1e-2 if recipe is PAPER_UNET else 2e-4
    assert recipe.lr == pytest.approx(base * samples / 256)
    few, pixels = recipe in (PAPER_FEW, PAPER_PROBE_FEW), recipe is PAPER_UNET
    assert recipe.lr == pytest.approx(1.25e-3 if pixels else 2.5e-5 if few else 8e-4)
    assert samples == (32 if few or pixels else 1024)
    assert recipe.epochs == (200 if pixels else 100)
    assert recipe.label_smoothing == (0.0 if pixels else 0.2)
    assert (recipe.weight_decay, recipe.drop_path, recipe.head_std, recipe.min_lr) == (0.3, 0.1, 2e-5, 1e-6)
    assert (recipe.warmup, recipe.clip, recipe.keep, recipe.augment) == (0, None, "last", False)


def test_the_rate_of_every_step_is_the_formulas(
    store: Store, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 samples in batches of 4 x 3: eight batches, two steps per epoch, the last two batches left out."""
    recipe = replace(PAPER, batch_size=4, accumulate=3, epochs=3)
    fine = tuner(checkpoint, store, recipe)
    seen: list[dict[str, float]] = []
    names = {id(parameter): name for name, parameter in fine.model.named_parameters()}
    step = torch.optim.AdamW.step

    def spy(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        seen.append({names[id(group["params"][0])]: group["lr"] for group in optimizer.param_groups})
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    with one_thread():
        fine.fit()
    assert len(seen) == 3 * ((32 // 4) // 3)
    for number, rates in enumerate(seen):
        epoch, inside = divmod(number, 2)
        t = epoch + 3 * inside / 8
        rate = 1e-6 + (8e-4 - 1e-6) * (1 + math.cos(math.pi * t / 3)) / 2
        assert rates["head.weight"] == rates["encoder.stem.conv.weight"] == pytest.approx(rate, rel=1e-12)
        assert rates["encoder.stages.0.0.dwconv.weight"] == pytest.approx(rate * 0.9**4, rel=1e-12)


@pytest.mark.parametrize(
    ("samples", "batches", "steps"), [(1023, 15, 0), (1024, 16, 1), (2000, 31, 1), (19_992, 312, 19)]
)
def test_incomplete_batches_and_accumulations_are_dropped(samples: int, batches: int, steps: int) -> None:
    assert (PAPER_PROBE.batches(samples), PAPER_PROBE.steps(samples)) == (batches, steps)
    assert PAPER_PROBE_FEW.steps(samples) == samples // 32
    ours = FineTuneRecipe(batch_size=64)
    assert ours.steps(samples) == math.ceil(samples / 64)


def test_an_accumulated_step_is_that_of_one_large_batch(store: Store, checkpoint: Checkpoint) -> None:
    heads = []
    for batch, accumulate in ((10, 3), (30, 1)):
        # AdamW's first step has the size of the rate whatever the gradient: only a large epsilon shows a wrong scale
        recipe = replace(PAPER_PROBE, batch_size=batch, accumulate=accumulate, drop_path=0.0)
        fine = tuner(checkpoint, store, recipe, train=32)  # two samples do not fill a batch
        optimizer = fine.optimizer()
        for group in optimizer.param_groups:
            group["eps"] = 1.0
        fine._epoch(0, optimizer)
        heads.append(fine.model.head.weight.detach().clone())
    assert torch.allclose(heads[0], heads[1], atol=1e-9)
    assert not torch.equal(heads[0], tuner(checkpoint, store, PAPER_PROBE).model.head.weight)


# ---------------------------------------------------------------- parameter groups


def groups_of(model: Any, **changes: Any) -> dict[str, tuple[float, float]]:
    """Name of each parameter -> factor of its rate and its decay."""
    settings = {"lr": 1.0, "weight_decay": 0.3, "layer_decay": 0.9, "frozen": False, **changes}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[Any] = parameter_groups(model, **settings, released=True)
    return {names[id(p)]: (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_layers_decay_as_the_released_code_counts_them() -> None:
    """Blocks (1, 2, 1, 1): five layers below the head; the convolutions between stages count one stage too early."""
    found = groups_of(Classifier(ConvNeXtV2(SMALL), 4))
    power = {
        "encoder.stem.conv.weight": 0,
        "encoder.stem.dwconv.weight": 0,
        "encoder.stages.0.0.pwconv1.weight": 5,
        "encoder.downsample.0.conv.weight": 5,
        "encoder.stages.1.0.pwconv1.weight": 4,
        "encoder.stages.1.1.pwconv1.weight": 3,
        "encoder.downsample.1.conv.weight": 4,
        "encoder.stages.2.0.pwconv1.weight": 2,
        "encoder.downsample.2.conv.weight": 2,
        "encoder.stages.3.0.pwconv1.weight": 1,
        "head.weight": 0,
    }
    assert {name: found[name] for name in power} == {n: (pytest.approx(0.9**p), 0.3) for n, p in power.items()}
    assert found["norm.weight"] == found["head.bias"] == (1.0, 0.0)
    assert len(found) == len(list(Classifier(ConvNeXtV2(SMALL), 4).parameters()))


def test_vectors_biases_and_grn_are_not_decayed_and_all_matrices_are() -> None:
    model = Classifier(ConvNeXtV2(SMALL), 4)
    found = groups_of(model)
    for name, parameter in model.named_parameters():
        vector = name.endswith((".bias", ".gamma", ".beta")) or "norm" in name
        assert found[name][1] == (0.0 if vector else 0.3), name
        assert vector == (parameter.ndim == 1), name


def test_the_probe_learns_its_head_and_nothing_else(store: Store, checkpoint: Checkpoint) -> None:
    """The encoder and a LayerNorm of factor 1 and offset 0 are unchanged; only the head's matrix is decayed."""
    assert groups_of(Classifier(ConvNeXtV2(SMALL), 4), frozen=True) == {
        "head.weight": (1.0, 0.3),
        "head.bias": (1.0, 0.0),
    }
    fine = tuner(checkpoint, store, replace(PAPER_PROBE_FEW, epochs=2, lr=1e-2))
    before = {name: value.clone() for name, value in fine.model.state_dict().items()}
    with one_thread():
        fine.fit()
    changed = {name for name, value in fine.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert (fine.model.norm.weight == 1).all()  # type: ignore[union-attr]
    assert (fine.model.norm.bias == 0).all()  # type: ignore[union-attr]


def test_the_unets_encoder_joins_later_as_one_group_without_decay(store: Store, checkpoint: Checkpoint) -> None:
    fine = tuner(checkpoint, store, replace(PAPER_UNET, epochs=3, thaw=2), PIXELS)
    optimizer = fine.optimizer()
    decoder = {name for name, _ in fine.model.named_parameters() if not name.startswith("encoder.")}
    assert set(groups_of(fine.model, frozen=True)) == decoder
    assert {scale for scale, _ in groups_of(fine.model, frozen=True).values()} == {1.0}
    optimizer.add_param_group(thawed_group(fine.model.encoder, 1.25e-3))
    joined = optimizer.param_groups[-1]
    assert (joined["weight_decay"], joined["scale"], joined["lr"]) == (0.0, 1.0, 1.25e-3)
    assert len(joined["params"]) == len(list(fine.model.encoder.parameters()))
    states = []
    for epochs in (2, 3):
        part = tuner(checkpoint, store, replace(PAPER_UNET, epochs=epochs, thaw=2, batch_size=8), PIXELS, train=8)
        with one_thread():
            part.fit()
        states.append(part.model.encoder.state_dict())
    begin = checkpoint.encoder().state_dict()
    assert all(torch.equal(states[0][name], value) for name, value in begin.items())
    assert not any(torch.equal(states[1][name], value) for name, value in begin.items() if "weight" in name)


# ---------------------------------------------------------------- heads, losses, stochastic depth


def test_heads_start_at_two_hundred_thousandths() -> None:
    with seeded(0):
        for head in (torch.nn.Linear(320, 500), torch.nn.Conv2d(320, 500, 1)):
            start_head(head, 2e-5)
            assert float(head.weight.detach().std()) == pytest.approx(2e-5, rel=0.02)
            assert head.weight.abs().max() > 3 * 2e-5  # not truncated at two deviations
            assert (head.bias == 0).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(("task", "recipe"), [(BIOME, PAPER), (BIOME, PAPER_PROBE), (PIXELS, PAPER_UNET)])
def test_every_recipe_starts_its_head_so(
    store: Store, checkpoint: Checkpoint, task: str, recipe: FineTuneRecipe
) -> None:
    head = tuner(checkpoint, store, recipe, task).model.head
    assert 1e-5 < head.weight.std() < 4e-5
    assert (head.bias == 0).all()  # type: ignore[union-attr]


def test_the_smoothed_loss_of_classes_is_the_hand_computed_one(store: Store, checkpoint: Checkpoint) -> None:
    fine = tuner(checkpoint, store, PAPER)
    outputs = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 1.0]], dtype=torch.float64)
    logs = outputs - outputs.exp().sum(dim=1, keepdim=True).log()
    each = [-(0.8 * logs[0, 0] + 0.2 * logs[0].mean()), -(0.8 * logs[1, 2] + 0.2 * logs[1].mean())]
    assert float(fine._loss(outputs, torch.tensor([0, 2]))) == pytest.approx(float(sum(each)) / 2, rel=1e-12)


def test_the_smoothed_loss_of_labels_is_the_hand_computed_one(store: Store, checkpoint: Checkpoint) -> None:
    fine = tuner(checkpoint, store, PAPER)
    fine.kind = TaskKind.MULTI_LABEL
    outputs, labels = np.array([[1.5, -0.5], [0.0, 3.0]]), np.array([[1, 0], [0, 1]])
    targets = np.where(labels == 1, 0.8, 0.2)
    p = 1 / (1 + np.exp(-outputs))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    assert float(fine._loss(torch.from_numpy(outputs), torch.from_numpy(labels))) == pytest.approx(expected, rel=1e-12)


def test_stochastic_depth_acts_in_the_frozen_encoder_and_is_seeded(store: Store, checkpoint: Checkpoint) -> None:
    fine = tuner(checkpoint, store, replace(PAPER_PROBE_FEW, drop_path=0.5))
    (batch,) = fine.task.images.batches(fine.train[:16], 16, fine.reading.stored)
    images = fine.reading.images(batch)[:, :, :24, :24]
    fine.optimizer()
    fine._epoch(0, fine.optimizer())
    assert fine.model.encoder.training
    passes = []
    for seed in (0, 0, 1):
        with seeded(seed), torch.no_grad():
            passes.append(fine.model.encoder(images))
    assert torch.equal(passes[0], passes[1])
    assert not torch.allclose(passes[0], passes[2])
    ours = tuner(checkpoint, store, FineTuneRecipe(frozen=True, epochs=1))
    ours._epoch(0, ours.optimizer())
    assert not ours.model.encoder.training


def test_images_are_handed_over_as_they_are(store: Store, checkpoint: Checkpoint) -> None:
    fine = tuner(checkpoint, store, PAPER)
    images, answers = fine._batch(fine.train[:8])
    from mmearth_model.training.random_numbers import Position

    assert fine._augmented(images, answers, Position())[0] is images


# ---------------------------------------------------------------- which epoch is kept, and validation


def test_the_last_epoch_is_kept_even_where_an_earlier_one_was_better(store: Store, checkpoint: Checkpoint) -> None:
    recipe = replace(PAPER_FEW, epochs=3, lr=0.3)  # far too high: values jump
    values: list[float] = []
    fine = tuner(checkpoint, store, recipe)
    with one_thread():
        value, epoch = fine.fit(lambda epoch, loss, value: values.append(value))
        silent = tuner(checkpoint, store, recipe)
        assert silent.fit() == (value, epoch) == (values[-1], 3)
    for name, tensor in fine.model.state_dict().items():  # seeded, and validation changes nothing
        assert torch.equal(tensor, silent.model.state_dict()[name]), name


def test_a_seed_decides_the_probe_and_another_differs(store: Store, checkpoint: Checkpoint) -> None:
    heads = []
    for seed in (0, 0, 1):
        fine = tuner(checkpoint, store, replace(PAPER_PROBE_FEW, epochs=2, seed=seed))
        with one_thread():
            fine.fit()
        heads.append(fine.model.head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


class Counting:
    """Images that count how often each of them is read."""

    def __init__(self, images: Any) -> None:
        self.images, self.reads = images, np.zeros(len(images), int)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.images, name)

    def batches(self, rows: Any, *args: Any) -> Any:
        self.reads[rows] += 1
        return self.images.batches(rows, *args)


@pytest.mark.parametrize(("most", "reads"), [(2**30, 1), (0, 3)])
def test_images_that_fit_the_memory_are_read_once(
    store: Store, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, most: int, reads: int
) -> None:
    monkeypatch.setattr("mmearth_model.evaluation.finetune.KEPT_BYTES", most)
    recipe = replace(PAPER_PROBE_FEW, epochs=3)
    fine, plain = (tuner(checkpoint, store, recipe) for _ in range(2))
    counting = Counting(fine.task.images)
    fine.task = replace(fine.task, images=counting)  # type: ignore[arg-type]
    with one_thread():
        fine.fit()
        plain.fit()
    assert set(counting.reads[fine.train]) == {reads}
    assert torch.equal(fine.model.head.weight, plain.model.head.weight)


# ---------------------------------------------------------------- which settings apply


def sized(store: Store, samples: int, task: str = BIOME) -> LabelledSet:
    """A task that claims this many training samples; none is read."""
    opened = open_task(task, store)
    return replace(opened, parts=replace(opened.parts, train=np.zeros(samples, np.intp)))


def test_few_samples_have_settings_of_their_own(store: Store) -> None:
    whole = sized(store, 20_000)
    assert paper_recipe(whole, 20_000) == PAPER
    assert paper_recipe(whole, 20_000, probe=True, seed=3) == replace(PAPER_PROBE, seed=3)
    assert paper_recipe(whole, 1_000, probe=True) == PAPER_PROBE_FEW
    assert paper_recipe(whole, 10_000) == PAPER_FEW  # 50 % of the labels
    assert paper_recipe(sized(store, 1_023), 1_023) == PAPER_FEW  # not a single step of 64 x 16
    assert paper_recipe(sized(store, 500, PIXELS), 500) == PAPER_UNET
    with pytest.raises(InputError, match="at least 32 training samples"):
        paper_recipe(whole, 31, probe=True)
    with pytest.raises(InputError, match="a task per pixel; use mmearth-train finetune --recipe paper"):
        paper_recipe(sized(store, 500, PIXELS), 500, probe=True)


def test_a_recipe_calls_itself_the_papers_only_where_nothing_differs() -> None:
    assert PAPER.protocol(per_pixel=False) == PAPER_UNET.protocol(per_pixel=True) == "finetune-paper"
    assert replace(PAPER_PROBE, seed=5).protocol(per_pixel=False) == "paper"
    assert replace(PAPER, epochs=2).protocol(per_pixel=False) == "finetune"
    assert replace(PAPER_PROBE, lr=1e-2).protocol(per_pixel=False) == "head"
    names = [FineTuneRecipe(frozen=frozen).protocol(per_pixel=p) for frozen in (False, True) for p in (False, True)]
    assert names == ["finetune", "finetune", "head", "unet"]


def test_the_papers_recipe_leaves_only_the_seed(store: Store) -> None:
    task = open_task(BIOME, store)
    assert choose_recipe("paper", task, WHOLE, {"seed": 2}) == replace(PAPER_FEW, seed=2)
    assert choose_recipe("default", task, WHOLE, {"epochs": 3}) == FineTuneRecipe(epochs=3)
    with pytest.raises(InputError, match=r"--layer-decay: expected no value .* got 0\.8; leave out --layer-decay"):
        choose_recipe("paper", task, WHOLE, {"layer_decay": 0.8})


# ---------------------------------------------------------------- the released UNet


@pytest.mark.parametrize(("stem", "patch"), [("modified", 16), ("modified", 8), ("original", 16)])
def test_the_released_unet_joins_the_maps_that_it_names(stem: Any, patch: int) -> None:
    config = EncoderConfig(
        widths=(8, 16, 32, 64), depths=(1, 1, 1, 1), in_channels=3, stem=stem, patch_size=patch, image_size=3 * patch
    )
    model = PaperUNet(ConvNeXtV2(config), 5)
    images = torch.randn(2, 3, 3 * patch, 3 * patch)
    assert model(images).shape == (2, 5, 3 * patch, 3 * patch)
    widths = [(step.conv.in_channels, step.conv.out_channels) for step in (*model.steps, model.grow, model.pixels)]
    last = 16 if stem == "modified" else 8
    assert widths == [(64, 32), (64, 16), (32, 8), (16, 8), (last, 4)]
    encoder = model.encoder
    maps = model._stages(model._stem(images)[0])
    for ours, theirs in zip(maps, encoder.forward_features(images), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    kept = {name: value.clone() for name, value in encoder.stages[0].state_dict().items()}
    plain = model(images)
    with torch.no_grad():  # the first stage's output is used only by the later stages
        for parameter in encoder.downsample.parameters():
            parameter.zero_()
        silent = model(images)
        for parameter in encoder.stages[0].parameters():
            parameter.add_(1.0)
        assert torch.equal(model(images), silent)
    encoder.stages[0].load_state_dict(kept)
    assert not torch.equal(plain, silent)


# ---------------------------------------------------------------- commands and tables


def test_evaluate_names_the_papers_probe_its_settings_and_what_it_leaves_out(
    store: Store, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hundred epochs are left out: other tests train."""
    monkeypatch.setattr(FineTuner, "_epoch", lambda self, epoch, optimizer: 0.0)
    name, shares = str(checkpoint.folder), [LabelShare.parse("34%")]
    with one_thread():
        result = evaluate(
            [checkpoint], store, [BIOME], protocols=["paper", "knn"], seeds=1, labels=shares, baselines=["statistics"], device="cpu"
        )  # fmt: skip
    found = {(row.encoder, row.protocol): row for row in result.rows}
    assert found.keys() == {
        (name, "paper"), (name, "knn-5"), (name, "knn-20"), ("image statistics", "knn-5"), ("image statistics", "knn-20"),
    }  # fmt: skip
    assert result.notes == ("image statistics: not probed with protocol paper, because it has no trainable network.",)
    row = found[name, "paper"]
    assert (row.train_tiles, row.test_tiles) == (32, 16)
    assert row.chosen == "last of 100 epochs, 1 steps of 32 per epoch, lr 2.5e-05"
    assert row.chosen in result.summaries()[0].remarks


def test_the_settings_in_force_are_in_words(store: Store, checkpoint: Checkpoint) -> None:
    whole = tuner(checkpoint, store, replace(PAPER, seed=1), train=96)
    assert whole.settings == "last of 100 epochs, 0 steps of 64 x 16 per epoch, lr 0.0008"
    thawed = tuner(checkpoint, store, PAPER_UNET, PIXELS, train=96)
    assert thawed.settings == "last of 200 epochs, encoder from epoch 51, 3 steps of 32 per epoch, lr 0.00125"


def test_the_papers_probe_alone_needs_an_encoder(store: Store) -> None:
    with pytest.raises(InputError, match="--protocol paper: expected a trainable encoder"):
        evaluate([], store, [BIOME], protocols=["paper"], seeds=1, baselines=["statistics"], device="cpu")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "--task", PIXELS, "--protocol", "paper"], "use mmearth-train finetune --recipe paper"),
        (["evaluate", "--task", BIOME, "--protocol", "papers"], "'papers' is not one of"),
        (["evaluate", "--task", BIOME, "--protocol", "paper", "--labels", "10%"], "at least 32 training samples"),
        (["finetune", "--task", BIOME, "--recipe", "paper", "--epochs", "3"], "--epochs: expected no value"),
        (["finetune", "--task", BIOME, "--recipe", "paper", "--frozen"], "--frozen: expected no value"),
        (["finetune", "--task", BIOME, "--recipe", "paper", "--labels", "10%"], "at least 32 training samples"),
        (["finetune", "--task", BIOME, "--recipe", "released"], "'released' is not one of"),
    ],
)
def test_options_that_contradict_are_refused_in_one_line(
    store: Store, checkpoint: Checkpoint, arguments: list[str], expected: str
) -> None:
    command, *rest = arguments
    result = CliRunner().invoke(cli, [command, str(checkpoint.folder), "--store", str(store.path), *rest])
    assert result.exit_code == 2
    assert expected in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
def test_help_says_whose_settings_they_are(command: str) -> None:
    assert "paper's released code" in " ".join(CliRunner().invoke(cli, [command, "--help"]).output.split())


@pytest.mark.slow
def test_finetune_with_the_papers_recipe(store: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """All hundred epochs from the command line."""
    arguments = [str(checkpoint.folder), "--store", str(store.path), "--task", BIOME, "--recipe", "paper"]
    with one_thread():
        result = CliRunner().invoke(
            cli, ["finetune", *arguments, "--labels", "50%", "--out", str(tmp_path / "out"), "--json"]
        )
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert row["protocol"] == "finetune-paper"
    assert row["chosen"] == "last of 100 epochs, 1 steps of 32 per epoch, lr 2.5e-05"
    assert "100/100 epochs" in result.stderr
    written = json.loads((tmp_path / "out" / "config.json").read_text())["record"]["recipe"]
    assert (written["rules"], written["accumulate"], written["clip"], written["keep"]) == ("released", 1, None, "last")
