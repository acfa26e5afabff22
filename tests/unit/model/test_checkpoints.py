"""Checkpoints: what comes back, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from raw_batches import PRETEXT, raw_batch, statistics
from safetensors import safe_open

from mmearth_data import FileInputError, InputError
from mmearth_model import load_checkpoint, load_encoder
from mmearth_model.data.targets import Normaliser
from mmearth_model.network.encoder import EncoderConfig
from mmearth_model.network.losses import MultiTaskLoss
from mmearth_model.network.mpmae import MPMAE, MPMAEConfig, parameter_groups, tasks_of
from mmearth_model.weights.checkpoints import (
    CONFIG_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    loss_of,
    optimizer_tensors,
    read_tensors,
    restore_optimizer,
    write_checkpoint,
)

TINY = EncoderConfig(depths=(1, 1, 1, 1), widths=(4, 8, 12, 16), image_size=16)


def network(**changes: Any) -> tuple[MPMAE, MultiTaskLoss]:
    config = MPMAEConfig.of_preset("default", TINY, tasks_of(PRETEXT), decoder_dim=8, **changes)
    torch.manual_seed(1)
    model, losses = MPMAE(config), MultiTaskLoss(config.tasks)
    for parameter in (*model.parameters(), *losses.parameters()):
        torch.nn.init.normal_(parameter)  # nothing is at its initial value
    return model, losses


def normaliser() -> Normaliser:
    names = [m.name for m in PRETEXT]
    return Normaliser(PRETEXT, statistics(PRETEXT), inputs=[m.name for m in PRETEXT if m.input], targets=names)


def written(folder: Path, model: MPMAE, losses: MultiTaskLoss, **state: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": model.config.to_dict(),
        "loss": {"preset": "default", "weighting": "uncertainty"},
        "normaliser": normaliser().to_config(),
        "recipe": {"seed": 3},
        "store": {"path": "planet.zarr"},
        "progress": {"step": 1},
    }
    write_checkpoint(folder, {"model": model, "losses": losses}, config, **state)
    return folder


def test_everything_that_is_needed_comes_back(tmp_path: Path) -> None:
    model, losses = network()
    checkpoint = load_checkpoint(written(tmp_path / "c", model, losses))
    raw = raw_batch(PRETEXT, 3, 16)
    images = checkpoint.normaliser.images(raw)
    assert torch.equal(images, normaliser().images(raw))
    mask = torch.tensor([[True, False, False, True]] * 3)
    for name, prediction in checkpoint.model()(images, mask).items():
        assert torch.equal(prediction, model.eval()(images, mask)[name]), name
    assert torch.equal(load_encoder(checkpoint.folder)(images), model.encoder(images))
    assert torch.equal(loss_of(checkpoint).log_vars, losses.log_vars)
    assert [m.name for m in checkpoint.learned] == [m.name for m in PRETEXT]
    assert checkpoint.seed == 3


def test_loading_uses_no_random_numbers_and_each_network_has_its_own_weights(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(written(tmp_path / "c", *network()))
    state = torch.get_rng_state()
    for load in (checkpoint.model, checkpoint.encoder):
        first, second = load(), load()
        before = [parameter.clone() for parameter in second.parameters()]
        for parameter in first.parameters():
            torch.nn.init.zeros_(parameter)
        assert all(map(torch.equal, second.parameters(), before))
        assert all(map(torch.equal, load().parameters(), before))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_files_are_what_they_are_called(tmp_path: Path) -> None:
    folder = written(tmp_path / "c", *network())
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", CONFIG_FILE, "item.json", MODEL_FILE]
    with safe_open(folder / MODEL_FILE, framework="numpy") as file:
        assert "model.encoder.stem.conv.weight" in file.keys()  # noqa: SIM118 - a file, not a mapping
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert [m["name"] for m in config["normaliser"]["modalities"]] == [m.name for m in PRETEXT]


def test_a_run_stands_for_its_last_checkpoint(tmp_path: Path) -> None:
    model, losses = network()
    for step in (7, 30, 100):
        written(tmp_path / f"step-{step:08d}", model, losses)
    assert load_checkpoint(tmp_path).folder.name == "step-00000100"
    assert load_checkpoint(tmp_path / "step-00000007").folder.name == "step-00000007"


def trained(model: MPMAE, losses: MultiTaskLoss, steps: int, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([p.square().sum() for p in (*model.parameters(), *losses.parameters())]).sum().backward()
        optimizer.step()


def adamw(model: MPMAE, losses: MultiTaskLoss) -> tuple[torch.optim.Optimizer, dict[int, str]]:
    names = {id(p): n for n, p in (*model.named_parameters("model"), *losses.named_parameters("losses"))}
    return torch.optim.AdamW(parameter_groups(model, losses, weight_decay=0.1), lr=1e-2), names


def test_an_optimiser_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    straight, straight_losses = network()
    trained(straight, straight_losses, 5, adamw(straight, straight_losses)[0])

    model, losses = network()
    optimizer, names = adamw(model, losses)
    trained(model, losses, 2, optimizer)
    folder = written(tmp_path / "c", model, losses, optimizer=optimizer_tensors(optimizer, names), progress={"step": 2})
    model, losses = network()
    load_checkpoint(folder).load_into({"model": model, "losses": losses})
    optimizer, names = adamw(model, losses)
    restore_optimizer(optimizer, names, read_tensors(folder / OPTIMIZER_FILE))
    trained(model, losses, 3, optimizer)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert torch.equal(losses.log_vars, straight_losses.log_vars)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def truncate(folder: Path) -> None:
    content = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).write_bytes(content[: len(content) // 2])


def swap_for_pickle(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(pickle.dumps(Bomb(folder / "exploded")))


def swap_for_torch(folder: Path) -> None:
    torch.save({"model": Bomb(folder / "exploded")}, folder / MODEL_FILE)


def drop_weights(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()


def widen(folder: Path) -> None:
    file = folder / CONFIG_FILE
    config = json.loads(file.read_text())
    config["model"]["encoder"]["widths"] = [4, 8, 12, 32]
    file.write_text(json.dumps(config))


def deepen(folder: Path) -> None:
    file = folder / CONFIG_FILE
    config = json.loads(file.read_text())
    config["model"]["decoder_depth"] = 2
    file.write_text(json.dumps(config))


def forget_a_field(folder: Path) -> None:
    file = folder / CONFIG_FILE
    config = json.loads(file.read_text())
    del config["model"]["encoder"]
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage", [truncate, swap_for_pickle, swap_for_torch, drop_weights, widen, deepen, forget_a_field]
)
def test_a_checkpoint_that_is_not_whole_is_refused_in_one_line(tmp_path: Path, damage: Any) -> None:
    folder = written(tmp_path / "c", *network())
    damage(folder)
    with pytest.raises(FileInputError, match="expected") as error:
        load_checkpoint(folder).model()
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{", "expected the configuration"), ('{"format": 1}', "architecture"), ("[]", "architecture")],
)
def test_words_that_are_not_a_configuration_are_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(FileInputError, match=expected):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "file", "empty"])
def test_where_there_is_no_checkpoint_it_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a checkpoint"):
        load_checkpoint(tmp_path / name)
