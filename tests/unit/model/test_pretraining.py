"""Pretraining on a toy store: what it computes, what it repeats, how it continues and what it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from closeness import assert_near
from toy_store import MODALITIES, TINY, write_store

from mmearth_data import InputError, Kind, RetryLater, Store, format_tile_id, open_store
from mmearth_model import (
    TrainingDiverged,
    TrainingInterrupted,
    load_checkpoint,
    make_recipe,
    plan_line,
    plan_training,
    pretrain,
    training_account,
)
from mmearth_model.network.losses import normalise_patches
from mmearth_model.network.masking import patchify
from mmearth_model.network.positions import ENGINES
from mmearth_model.training.figures import restored
from mmearth_model.training.layout import CARD_FILE
from mmearth_model.training.log import read_log
from mmearth_model.training.pretraining import Stream, prepare
from mmearth_model.training.random_numbers import Position, generator
from mmearth_model.training.ranks import Ranks
from mmearth_model.training.recording import FIGURE_DPI, Means, refuse_nan
from mmearth_model.weights.checkpoints import MODEL_FILE, OPTIMIZER_FILE, checkpoints_of, read_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_model import TrainProgress, TrainRecipe

BATCH = 12
"""The toy store has 36 training tiles: three steps an epoch."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr")


def recipe(**changes: Any) -> TrainRecipe:
    fields = {"epochs": 2, "batch_size": BATCH, "device_batch": 6, "base_lr": 2e-2, "checkpoint_epochs": 1}
    return make_recipe("demo", {**TINY, **fields, **changes})


@pytest.fixture(scope="module")
def straight(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a run that nothing interrupted."""
    return pretrain(store, recipe(), tmp_path_factory.mktemp("straight") / "run", device="cpu")


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (read_tensors(folder / MODEL_FILE) for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def losses(checkpoint: Path) -> list[dict[str, str]]:
    """Rows of the log but for what the clock says."""
    rows = read_log(checkpoint.parent / "log.csv")
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "waiting")} for row in rows]


# ---------------------------------------------------------------- what it computes


def test_one_seed_gives_the_same_weights_to_the_last_bit_and_another_does_not(
    store: Store, straight: Path, tmp_path: Path
) -> None:
    again = pretrain(store, recipe(), tmp_path / "again", device="cpu")
    assert same_weights(straight, again)
    assert losses(straight) == losses(again)
    assert not same_weights(straight, pretrain(store, recipe(seed=1), tmp_path / "other", device="cpu"))


def test_every_loss_is_logged_and_falls(store: Store, tmp_path: Path) -> None:
    checkpoint = pretrain(store, recipe(epochs=6, base_lr=0.2, weighting="unweighted"), tmp_path / "run", device="cpu")
    rows = losses(checkpoint)
    assert [int(row["step"]) for row in rows] == list(range(3, 19, 3))
    for name in MODALITIES:
        first, last = float(rows[0][name]), float(rows[-1][name])
        assert math.isfinite(first)
        assert last < first, name
    assert float(rows[-1]["loss"]) == pytest.approx(sum(float(rows[-1][name]) for name in MODALITIES), rel=1e-5)


def test_the_gradient_of_a_step_is_the_mean_over_its_micro_batches(store: Store, tmp_path: Path) -> None:
    """AdamW's first moment after one step is (1 - beta1) times the gradient."""
    one_step = recipe(epochs=1, batch_size=36, device_batch=12)
    checkpoint = pretrain(store, one_step, tmp_path / "run", device="cpu")
    plan = plan_training(store, one_step)
    module = prepare(plan, store, None, 0)
    for position, raw in Stream(store, plan, Position()):
        total, _ = module.learn(raw, *module.crop_and_mask(position, 12))
        (total / 3).backward()
    moments = read_tensors(checkpoint / OPTIMIZER_FILE)
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert_near(moments[f"exp_avg/{name}"], 0.1 * parameter.grad, name, gradient=True)


def test_slices_of_a_batch_predict_what_the_batch_does(store: Store) -> None:
    plan = plan_training(store, recipe(slice_images=5))
    module = prepare(plan, store, None, 0)
    _, raw = next(iter(Stream(store, plan, Position())))
    window, mask = module.crop_and_mask(Position(), 6)
    images = module.normaliser(raw, "cpu", window).images
    whole = module.model(images, mask)
    for name, prediction in module.predict(images, mask).items():
        assert_near(prediction, whole[name], name)


@pytest.mark.parametrize("engine", ["masked", "gathered"])
def test_every_engine_learns_the_same(store: Store, straight: Path, tmp_path: Path, engine: str) -> None:
    """To what rounding grows to in six steps."""
    module = prepare(plan_training(store, recipe(engine=engine)), store, None, 0)
    assert module.model.encoder.engine is ENGINES[engine]
    ours = read_tensors(pretrain(store, recipe(engine=engine), tmp_path / "run", device="cpu") / MODEL_FILE)
    for name, theirs in read_tensors(straight / MODEL_FILE).items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-3, atol=1e-4)


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine(store: Store, straight: Path) -> None:
    plan = plan_training(store, recipe(epochs=100, warmup=0.2, min_lr=1e-5, base_lr=1e-2))
    assert plan.steps == 300
    peak = 1e-2 * BATCH / 256
    rates = [plan.learning_rate(step) for step in range(plan.steps)]
    assert rates[:60] == pytest.approx([peak * (step + 1) / 60 for step in range(60)])
    assert rates[60] == pytest.approx(peak)
    assert rates[60 + 120] == pytest.approx((peak + 1e-5) / 2)  # half way down
    assert rates[-1] == pytest.approx(1e-5, abs=1e-7)
    logged = [float(row["lr"]) for row in losses(straight)]
    assert logged == pytest.approx([plan_training(store, recipe()).learning_rate(step) for step in (2, 5)])


def test_chance_depends_on_seed_position_and_purpose_and_on_nothing_else() -> None:
    def draw(seed: int, epoch: int, batch: int, purpose: str) -> list[int]:
        return torch.randint(1 << 40, (4,), generator=generator(seed, Position(epoch, batch), purpose)).tolist()

    places = [(s, e, b, p) for s in (0, 1) for e in (0, 1) for b in (0, 1) for p in ("crop", "mask")]
    assert len({tuple(draw(*place)) for place in places}) == len(places)
    torch.rand(7)  # what happened before does not matter
    assert draw(1, 1, 0, "mask") == draw(1, 1, 0, "mask")


def test_training_leaves_the_callers_generator_alone(store: Store, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(store, recipe(epochs=1, drop_path=0.2), tmp_path / "run", device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_what_is_excluded_is_not_learned(store: Store, tmp_path: Path) -> None:
    chosen = recipe(epochs=1, exclude=("biome", "eco_region"), modalities=("sentinel2", "biome", "era5", "eco_region"))
    checkpoint = load_checkpoint(pretrain(store, chosen, tmp_path / "run", device="cpu"))
    assert [m.name for m in checkpoint.learned] == ["sentinel2", "era5"]
    assert not [name for name in checkpoint.tensors() if "biome" in name or "eco_region" in name]
    assert checkpoint.config["store"]["synthetic"] is True


def test_an_encoder_sees_the_bands_it_was_given_in_their_order(store: Store, tmp_path: Path) -> None:
    seen = ["B4", "B3", "B2"]
    chosen = recipe(epochs=1, bands={"sentinel2": seen})
    checkpoint = load_checkpoint(pretrain(store, chosen, tmp_path / "run", device="cpu"))
    assert checkpoint.encoder().stem.conv.weight.shape[1] == 3
    (raw,) = store.loader(batch_size=len(store), shuffle=False)
    whole = prepare(plan_training(store, recipe()), store, None, 0).normaliser
    places = [whole.modalities["sentinel2"].model_bands.index(band) for band in seen]
    expected = whole.images(raw)[:, places]
    assert torch.equal(checkpoint.normaliser.images(raw), expected)
    assert not torch.equal(expected[:, 0], expected[:, 2])


def test_another_sensor_feeds_the_encoder_where_the_recipe_says_so(store: Store, tmp_path: Path) -> None:
    """Radar in, Sentinel-2 predicted; the encoder needs nothing but radar afterwards."""
    checkpoint = load_checkpoint(
        pretrain(store, recipe(epochs=1, inputs=["sentinel1"]), tmp_path / "run", device="cpu")
    )
    radar = store.modalities["sentinel1"].model_bands
    assert (
        checkpoint.encoder().stem.conv.weight.shape[1] == len(radar) != len(store.modalities["sentinel2"].model_bands)
    )
    assert {"sentinel1", "sentinel2"} <= {m.name for m in checkpoint.learned}
    (raw,) = store.loader(modalities=["sentinel1"], batch_size=len(store), shuffle=False)
    (values,) = store.loader(modalities=["sentinel1"], batch_size=len(store), shuffle=False, normalise=True)
    expected = values["sentinel1"][:, [store.modalities["sentinel1"].bands.index(band) for band in radar]]
    assert torch.allclose(checkpoint.normaliser.images(raw), torch.from_numpy(np.nan_to_num(expected)), atol=1e-5)


def test_flips_mirror_all_modalities_alike(store: Store) -> None:
    """Where a coordinate is painted into two modalities, they still agree after crop and flip."""
    plan = plan_training(store, recipe(flips=True))
    module = prepare(plan, store, None, 0)
    _, raw = next(iter(Stream(store, plan, Position())))
    ramp = np.arange(1, 33 * 32 + 1)[: 32 * 32].reshape(32, 32)
    raw["sentinel2"] = np.broadcast_to(ramp, raw["sentinel2"].shape).astype(np.uint16)
    raw["sentinel1"] = np.broadcast_to(ramp, raw["sentinel1"].shape).astype(np.float32)
    directions = set()
    for batch in range(8):
        window, _ = module.crop_and_mask(Position(0, batch), 6)
        optical, radar = (window.take(torch.from_numpy(raw[name].astype(np.int64)))[:, 0] for name in ("sentinel2", "sentinel1"))  # fmt: skip
        assert torch.equal(optical, radar)
        across, down = optical[:, 0, 1] - optical[:, 0, 0], optical[:, 1, 0] - optical[:, 0, 0]
        directions |= set(zip(across.tolist(), down.tolist(), strict=True))
    assert directions == {(1, 32), (-1, 32), (1, -32), (-1, -32)}


def test_a_figure_shows_every_modality_and_says_what_is_synthetic(store: Store, tmp_path: Path) -> None:
    plan = plan_training(store, recipe())
    module = prepare(plan, store, None, 0)
    position, raw = next(iter(Stream(store, plan, Position())))
    figure = module.reconstruction(raw, position, synthetic=True)
    words = [text.get_text() for text in figure.texts]
    assert words[0] == "Reconstruction of 3 synthetic tiles"
    for number in raw["tile"]["tile_id"][:3]:
        assert any(format_tile_id(int(number)) in text for text in words), "every tile is named"
    rasters = ["sentinel2", "sentinel1", "dynamic_world", "esa_worldcover"]
    shown = {axis.get_label(): axis.images[0].get_array() for axis in figure.axes}
    assert list(shown) == [
        label
        for tile in range(3)
        for label in (
            f"input {tile}",
            *(f"{name} {what} {tile}" for name in rasters for what in ("truth", "prediction")),
        )
    ]
    assert {text.replace(" ", "_") for text in words} >= {*MODALITIES}, "other tasks are in the table"
    assert words.count("hidden from the encoder") == 1, "one legend"
    height, width = (round(side * FIGURE_DPI) for side in reversed(figure.get_size_inches()))
    assert max(height, width) < 1500
    pretrain(store, recipe(figure_epochs=2), tmp_path / "run", device="cpu")
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "run" / "figures").iterdir()}
    begins = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert pictures.keys() == {f"step-00000006.{form}" for form in begins}
    assert all(pictures[f"step-00000006.{form}"].startswith(begin) for form, begin in begins.items())


def test_a_perfect_prediction_is_restored_to_the_truth(store: Store) -> None:
    """Undoing the normalisation of patches gives back what was observed."""
    plan = plan_training(store, recipe())
    module = prepare(plan, store, None, 0)
    _, raw = next(iter(Stream(store, plan, Position())))
    targets = module.normaliser(raw, "cpu", module.crop_and_mask(Position(), 6)[0]).targets
    for task in module.model.config.tasks:
        if task.kind is Kind.RASTER_CONTINUOUS:
            target = targets[task.name]
            values, valid = patchify(target.values[:1], 8), patchify(target.valid[:1], 8)
            perfect = normalise_patches(values, valid) if task.patch_norm else values
            image = restored(task, perfect, target, 8)
            assert_near(image * target.valid[0], target.values[0], task.name)


def test_losses_are_told_to_tensorboard_too(store: Store, tmp_path: Path) -> None:
    """Read by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    checkpoint = pretrain(store, recipe(loggers=("tensorboard",)), tmp_path / "run", device="cpu")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = losses(checkpoint)
    for name in ("loss", "sentinel2", "weight:biome"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in told] == [3, 6]
        assert [value for _, value in told] == pytest.approx([float(row[name]) for row in rows])


def test_tensorboard_forgets_steps_that_are_done_again(store: Store, tmp_path: Path) -> None:
    """Step 3 is logged twice, since the first checkpoint is that of step 6."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    three = recipe(loggers=("tensorboard",), epochs=3, checkpoint_epochs=2)
    for last in (5, 8, 9):  # before the first checkpoint, after it, and to the end
        report = stop_at(last, crash) if last < 9 else None
        with pytest.raises(MemoryError) if report else nullcontext():
            pretrain(store, three, tmp_path / "run", device="cpu", report=report)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [3, 6, 9]


@pytest.mark.parametrize(
    ("processes", "device_batch", "micro"), [(1, 6, 6), (2, 6, 6), (2, 12, 6), (3, 12, 4), (4, 6, 3)]
)
def test_processes_share_a_batch_in_equal_parts(processes: int, device_batch: int, micro: int) -> None:
    shared = recipe(device_batch=device_batch).among(processes)
    assert (shared.micro_batch, shared.accumulate % processes, shared.batch_size) == (micro, 0, BATCH)
    with pytest.raises(InputError, match="a number that 5 processes divide, got 12"):
        recipe().among(5)


def test_every_micro_batch_goes_to_one_process(store: Store) -> None:
    plan = plan_training(store, recipe(device_batch=3))
    alone = [position for position, _ in Stream(store, plan, Position(0, 4))]
    shared = [[p for p, _ in Stream(store, plan, Position(0, 4), Ranks(rank, 2, 2))] for rank in range(2)]
    assert sorted((*shared[0], *shared[1]), key=lambda p: p.batch) == alone
    assert len(shared[0]) == len(shared[1])


def test_means_are_those_of_the_micro_batches_of_all_processes() -> None:
    """0 is the loss of a task without targets: here, only the second process sees biomes."""
    one, two = Means(), Means()
    for loss, biome in ((1.0, 0.0), (2.0, 0.0)):
        one.add({"loss": torch.tensor(loss), "biome": torch.tensor(biome)})
    for loss, biome in ((3.0, 8.0), (6.0, 0.0)):
        two.add({"loss": torch.tensor(loss), "biome": torch.tensor(biome)})
    sent: list[torch.Tensor] = []
    two.gather(lambda tensor: sent.append(tensor) or tensor, first=False)  # type: ignore[func-returns-value]
    one.gather(lambda tensor: tensor + sent[0], first=True)
    assert (two.state["sums"], two.state["counts"]) == ({}, {}), "what was gathered is not counted again"
    assert one.state["counts"] == {"biome": 1, "loss": 4}
    assert one.take() == {"loss": 3.0, "biome": 8.0}


# ---------------------------------------------------------------- how it continues


def stop_at(step: int, act: Callable[[], None]) -> Callable[[TrainProgress], None]:
    def report(progress: TrainProgress) -> None:
        if progress.step == step:
            act()

    return report


def crash() -> None:
    raise MemoryError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_the_same_call_ends_in_the_same_weights(
    store: Store, straight: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """In the middle of an epoch: the signal comes in step 4 of 6, which is saved."""
    out = tmp_path / "run"
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match="the same command continues") as error:
        pretrain(store, recipe(), out, device="cpu", report=stop_at(4, lambda: os.kill(os.getpid(), number)))
    assert error.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert [p.name for p in checkpoints_of(out)] == ["step-00000004"]
    finished = pretrain(store, recipe(), out, device="cpu")
    assert same_weights(straight, finished)
    assert losses(straight) == losses(finished), "means continue within an epoch, too"
    assert (finished / CARD_FILE).read_bytes() == (straight / CARD_FILE).read_bytes()
    shown = f"| Loss | {float(losses(finished)[-1]['loss']):.4g}, mean over the last steps |"
    assert shown in (finished / CARD_FILE).read_text(encoding="utf-8")


def test_a_second_signal_ends_at_once(store: Store, straight: Path, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match="step-00000003 is saved"):
        pretrain(store, recipe(), tmp_path / "run", device="cpu", report=stop_at(4, twice))
    assert [p.name for p in checkpoints_of(tmp_path / "run")] == ["step-00000003"]
    assert same_weights(straight, pretrain(store, recipe(), tmp_path / "run", device="cpu"))


def test_after_a_crash_the_same_call_ends_in_the_same_weights(store: Store, straight: Path, tmp_path: Path) -> None:
    """Nothing of steps 4 and 5 was saved: they are done again from the checkpoint of step 3."""
    out = tmp_path / "run"
    with pytest.raises(MemoryError):
        pretrain(store, recipe(), out, device="cpu", report=stop_at(5, crash))
    assert [p.name for p in checkpoints_of(out)] == ["step-00000003"]
    (out / ".partial-step-00000005").mkdir()
    finished = pretrain(store, recipe(), out, device="cpu")
    assert same_weights(straight, finished)
    assert losses(straight) == losses(finished)
    assert not list(out.glob(".partial*"))


def test_a_second_call_leaves_a_run_in_progress_alone(store: Store, straight: Path, tmp_path: Path) -> None:
    """Also while the first one writes a checkpoint."""
    out = tmp_path / "run"

    def again() -> None:
        (out / ".partial-step-00000004").mkdir()
        with pytest.raises(RetryLater, match="another process is training this run"):
            pretrain(store, recipe(), out, device="cpu")
        assert (out / ".partial-step-00000004").is_dir()

    assert same_weights(straight, pretrain(store, recipe(), out, device="cpu", report=stop_at(4, again)))


def test_a_run_whose_log_was_torn_continues(store: Store, straight: Path, tmp_path: Path) -> None:
    """The machine crashed while a row was written: the plan reads the log, too."""
    out = tmp_path / "run"
    with pytest.raises(MemoryError):
        pretrain(store, recipe(), out, device="cpu", report=stop_at(5, crash))
    plan, log = plan_training(store, recipe()), out / "log.csv"
    whole = log.read_bytes()
    log.write_bytes(whole + b"2,5,0.001,3.7,")
    assert training_account(plan, "cpu", out)["images_per_s"] == float(read_log(log)[-1]["images_per_s"])
    assert losses(straight) == losses(pretrain(store, recipe(), out, device="cpu"))
    log.write_bytes(whole.replace(b"epoch,", b"epoch,,"))
    with pytest.raises(InputError, match=r"log\.csv"):
        training_account(plan, "cpu", out)


def test_a_speed_of_zero_is_no_speed(store: Store, tmp_path: Path) -> None:
    """Speeds are rounded to 0.1 images/s."""
    (tmp_path / "log.csv").write_text("epoch,step,loss,images_per_s\n1,3,0.5,0.0\n")
    assert "images/s" not in plan_line(training_account(plan_training(store, recipe()), "cpu", tmp_path))


def test_a_finished_run_is_left_as_it_is(store: Store, straight: Path) -> None:
    stamp = (straight / MODEL_FILE).stat().st_mtime_ns
    assert pretrain(store, recipe(), straight.parent, device="cpu") == straight
    assert (straight / MODEL_FILE).stat().st_mtime_ns == stamp


def test_copies_of_checkpoints_are_neither_used_nor_removed(store: Store, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    copies = ["step-00000003.bak", "step-best", "step-00000006 copy", "step-", "step-0x9", "step--1"]
    with pytest.raises(MemoryError):
        pretrain(store, recipe(), out, device="cpu", report=stop_at(5, crash))
    for name in copies:
        shutil.copytree(out / "step-00000003", out / name)
    (out / "step-00000009").touch()  # no folder
    assert load_checkpoint(out).folder.name == "step-00000003"
    finished = pretrain(store, recipe(), out, device="cpu")
    assert same_weights(straight, finished)
    assert load_checkpoint(out).folder == finished
    assert all((out / name).is_dir() for name in copies)


def test_another_recipe_does_not_continue_a_run(store: Store, straight: Path) -> None:
    with pytest.raises(InputError, match=r"mask_ratio: 0\.6 -> 0\.5"):
        pretrain(store, recipe(mask_ratio=0.5), straight.parent, device="cpu")


def test_a_run_continues_on_a_store_that_was_moved(store: Store, straight: Path, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "moved.zarr")
    assert pretrain(open_store(tmp_path / "moved.zarr"), recipe(), straight.parent, device="cpu") == straight


def test_a_run_of_before_a_field_was_added_continues(store: Store, straight: Path, tmp_path: Path) -> None:
    """It ran with what is the field's default now, not with anything else."""
    shutil.copytree(straight.parent, tmp_path / "run")
    record = tmp_path / "run" / "run.json"
    content = json.loads(record.read_text())
    del content["recipe"]["engine"]
    record.write_text(json.dumps(content))
    assert pretrain(store, recipe(), tmp_path / "run", device="cpu").name == straight.name
    with pytest.raises(InputError, match="engine: 'auto' -> 'masked'"):
        pretrain(store, recipe(engine="masked"), tmp_path / "run", device="cpu")


def test_a_run_with_a_removed_engine_loads_and_says_how_to_continue(
    store: Store, straight: Path, tmp_path: Path
) -> None:
    """Earlier versions had ``engine: fused``."""
    shutil.copytree(straight.parent, tmp_path / "run")
    for record in (tmp_path / "run" / "run.json", tmp_path / "run" / straight.name / "config.json"):
        content = json.loads(record.read_text())
        content["recipe"]["engine"] = "fused"
        record.write_text(json.dumps(content))
    wanted = load_checkpoint(straight).model().state_dict()
    for name, weights in load_checkpoint(tmp_path / "run").model().state_dict().items():
        assert torch.equal(weights, wanted[name]), name
    with pytest.raises(
        InputError, match=r"run\.json: expected engine auto, masked, gathered, got 'fused'.*gathered"
    ) as e:
        pretrain(store, recipe(), tmp_path / "run", device="cpu")
    assert "\n" not in str(e.value)
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    content["recipe"]["engine"] = "gathered"
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    assert pretrain(store, recipe(engine="gathered"), tmp_path / "run", device="cpu").name == straight.name


def test_a_truncated_checkpoint_does_not_continue(store: Store, straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight.parent, tmp_path / "run")
    checkpoint = tmp_path / "run" / straight.name
    checkpoint.rename(checkpoint.with_name("step-00000003"))
    progress = checkpoint.with_name("step-00000003") / "state" / "progress.json"
    progress.write_text('{"step": 3}')
    weights = checkpoint.with_name("step-00000003") / MODEL_FILE
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="expected a complete safetensors file"):
        pretrain(store, recipe(), tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", "expected the training state of step 3 of 6, got something else"),
        ("{}", "got step None"),
        ('{"step": "x"}', "got step 'x'"),
        ('{"step": true}', "got step True"),
        ('{"step": -3}', "expected the training state of step 3 of 6, got step -3"),
        ('{"step": 2}', "got step 2"),
        ('{"step": 3.0}', r"got step 3\.0"),
        ('{"step": 3, "means": [1]}', r"expected means of loss, sentinel2, .*got \[1\]"),
        ('{"step": 3, "means": {"sums": 1}}', "expected means"),
        ('{"step": 3, "means": {"sums": {"loss": 1}}}', "expected means"),
        ('{"step": 3, "means": {"last": {"loss": null}}}', "expected means"),
        ('{"step": 3, "means": {"sums": {"x": 1}, "counts": {"x": 1}}}', "expected means"),
        ("{", "expected the training state of a run, got: "),
    ],
)
def test_a_training_state_that_is_none_is_named(
    store: Store, straight: Path, tmp_path: Path, content: str, expected: str
) -> None:
    shutil.copytree(straight.parent, tmp_path / "run")
    checkpoint = (tmp_path / "run" / straight.name).rename(tmp_path / "run" / "step-00000003")
    (checkpoint / "state" / "progress.json").write_text(content)
    words = rf"progress\.json: .*{expected}.*remove step-00000003 to continue from an earlier checkpoint"
    with pytest.raises(InputError, match=words) as error:
        pretrain(store, recipe(), tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)


def test_a_step_beyond_the_end_is_not_the_end(store: Store, straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight.parent, tmp_path / "run")
    checkpoint = (tmp_path / "run" / straight.name).rename(tmp_path / "run" / "step-00000007")
    (checkpoint / "state" / "progress.json").write_text('{"step": 7}')
    with pytest.raises(InputError, match="expected the training state of step 7 of 6, got step 7"):
        pretrain(store, recipe(), tmp_path / "run", device="cpu")


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("guilty", [[4], [0, 1, 2, 3, 4, 5]])
def test_a_loss_that_is_no_number_names_tasks_and_tiles(store: Store, guilty: list[int]) -> None:
    plan = plan_training(store, recipe())
    module = prepare(plan, store, None, 0)
    position, raw = next(iter(Stream(store, plan, Position())))
    for name in ("sentinel1", "era5"):
        raw[name] = raw[name].copy()
        raw[name][guilty] = np.inf
    with pytest.raises(
        TrainingDiverged, match="The loss of sentinel1, era5 is not a finite number in epoch 1"
    ) as error:
        module.training_step((position, raw), 0)
    ids = [format_tile_id(int(tile)) for tile in raw["tile"]["tile_id"]]
    assert [tile for tile in ids if tile in str(error.value)] == [ids[i] for i in guilty]
    assert "\n" not in str(error.value)


def test_a_rate_at_which_the_weights_of_the_losses_overflow_is_named(store: Store, tmp_path: Path) -> None:
    """Their weights grow where a loss is below 1: after one step, those of the location are infinite."""
    wild = recipe(base_lr=1e12, warmup=0, batch_size=36, modalities=("sentinel2", "lat", "lon", "month", "era5"))
    with pytest.raises(TrainingDiverged, match="lower --lr"):
        pretrain(store, wild, tmp_path / "run", device="cpu")
    (row,) = read_log(tmp_path / "run" / "log.csv")
    assert math.inf in [float(value) for name, value in row.items() if name.startswith("weight:")]


def test_weights_that_are_no_numbers_are_never_saved() -> None:
    broken = torch.nn.Linear(2, 2)
    with torch.no_grad():
        broken.bias[1] = torch.nan
    with pytest.raises(TrainingDiverged, match=r"model\.bias"):
        refuse_nan({"model": broken}, 7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_size": 48}, "expected at least one batch of 48 tiles in the split train, got 36"),
        ({"image_size": 64, "patch_size": 8}, "expected tiles of at least the 64 px crop, got 32 px"),
        ({"image_size": 24, "patch_size": 16}, "expected an image size that a patch size divides"),
        ({"exclude": ("biom",)}, r"--exclude: .* has no biom \(did you mean biome\?\)"),
        ({"modalities": ("sentinel2", "aster")}, "--modalities: .* has no aster"),
        ({"modalities": ("biome",)}, "expected a modality that can feed the encoder"),
        ({"inputs": ("sentinel3",)}, "--inputs: expected modalities that take part, got sentinel3"),
        ({"inputs": ("biome",)}, "expected inputs of kind raster/continuous, got biome; name others with --inputs"),
        ({"bands": {"aster": ("dem",)}}, "--bands: expected a modality that takes part, got aster"),
        ({"bands": {"sentinel2": ("B4", "B77")}}, "--bands: .* got B4, B77 of sentinel2"),
        ({"bands": {"sentinel2": ("B4", "B4")}}, "--bands: expected different bands"),
        ({"bands": {"biome": ("biome",)}}, "--bands: .* of a continuous modality, got biome of biome"),
        ({"mask_ratio": 0.95}, "expected a mask ratio"),
        (
            {"mask_ratio": 0.0, "modalities": ("sentinel2",)},
            "--mask-ratio: expected a ratio that hides at least one of 9 patches",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_the_store_leaves_nothing_behind(
    store: Store, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as error:
        pretrain(store, recipe(**{"device_batch": 64, **changes}), tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"names": ("sentinel1", "biome")}, "expected a modality that can feed the encoder"),
        ({"shares": (0.0, 0.5)}, "expected at least one batch of 12 tiles in the split train, got 0"),
        ({"finish": False}, "expected a finished store"),
    ],
)
def test_a_store_that_cannot_be_learned_from_is_refused(tmp_path: Path, options: Any, expected: str) -> None:
    store = write_store(tmp_path / "toy.zarr", **options)
    with pytest.raises(InputError, match=expected):
        pretrain(store, recipe(), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "tpu", "meta"])
def test_a_device_that_is_not_there_is_refused(store: Store, tmp_path: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="--device"):
        pretrain(store, recipe(), tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()
