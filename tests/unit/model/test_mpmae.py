from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmearth_data import InputError, Kind, Modality, load_catalog
from mmearth_model.network.encoder import EncoderConfig
from mmearth_model.network.masking import random_mask, upsample_mask
from mmearth_model.network.mpmae import MPMAE, REFERENCE_TASK_ORDER, MPMAEConfig, TaskSpec, parameter_groups, tasks_of

TASKS = (
    TaskSpec(name="picture", kind=Kind.RASTER_CONTINUOUS, channels=3, patch_norm=True),
    TaskSpec(name="cover", kind=Kind.RASTER_CATEGORICAL, channels=5),
    TaskSpec(name="climate", kind=Kind.TILE_CONTINUOUS, channels=4),
    TaskSpec(name="region", kind=Kind.TILE_CATEGORICAL, channels=7),
)
ENCODER = EncoderConfig(image_size=24, in_channels=3, depths=(1, 1, 1, 1), widths=(4, 6, 6, 8))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(preset: Any = "default", **changes: Any) -> MPMAE:
    model = MPMAE(MPMAEConfig.of_preset(preset, ENCODER, TASKS, decoder_dim=16, **changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def batch(size: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 24, 24, dtype=torch.float64), random_mask(size, 9, 0.6)


def paper_tasks() -> tuple[TaskSpec, ...]:
    modalities = load_catalog().modalities
    return tasks_of([modalities[name] for name in REFERENCE_TASK_ORDER], "reference")


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
def test_each_kind_has_its_prediction(preset: Any) -> None:
    shapes = {name: tuple(p.shape) for name, p in small(preset)(*batch()).items()}
    assert shapes == {"picture": (2, 9, 64 * 3), "cover": (2, 9, 64 * 5), "climate": (2, 4), "region": (2, 7)}


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
def test_hidden_pixels_change_no_bit_of_a_prediction(preset: Any) -> None:
    model = small(preset).float()
    images, mask = batch()
    images = images.float()
    hidden = upsample_mask(mask, (3, 3), 8)[:, None].expand_as(images)
    expected = model(images, mask)
    for other in (torch.randn_like(images), torch.zeros_like(images)):
        changed = model(torch.where(hidden, other, images), mask)
        assert all(torch.equal(changed[name], expected[name]) for name in expected)


def test_the_forward_pass_is_the_one_of_the_paper() -> None:
    """Projection, mask token, one dense block; 1 x 1 convolutions, or LayerNorm, average pool and linear layer."""
    model = small()
    images, mask = batch()
    p = model.state_dict()
    hidden = mask.reshape(2, 1, 3, 3)
    x = functional.conv2d(model.encoder(images, mask), p["project.weight"][:, :, None, None], p["project.bias"])
    x = torch.where(hidden, p["mask_token"].permute(0, 3, 1, 2), x)
    y = functional.conv2d(
        x, p["decoders.shared.0.dwconv.weight"], p["decoders.shared.0.dwconv.bias"], padding=3, groups=16
    )
    y = functional.layer_norm(
        y.permute(0, 2, 3, 1), (16,), p["decoders.shared.0.norm.weight"], p["decoders.shared.0.norm.bias"], 1e-6
    )
    y = functional.gelu(y @ p["decoders.shared.0.pwconv1.weight"].T + p["decoders.shared.0.pwconv1.bias"])
    norm = y.square().sum(dim=(1, 2), keepdim=True).sqrt()
    y = (
        p["decoders.shared.0.grn.gamma"] * y * norm / (norm.mean(-1, keepdim=True) + 1e-6)
        + p["decoders.shared.0.grn.beta"]
        + y
    )
    y = x.permute(0, 2, 3, 1) + y @ p["decoders.shared.0.pwconv2.weight"].T + p["decoders.shared.0.pwconv2.bias"]
    out = model(images, mask)
    for task in ("picture", "cover"):
        kernel = p[f"heads.{task}.weight"][:, :, None, None]
        expected = functional.conv2d(y.permute(0, 3, 1, 2), kernel, p[f"heads.{task}.bias"])
        torch.testing.assert_close(out[task], expected.flatten(2).transpose(1, 2))
    for task in ("climate", "region"):
        z = functional.layer_norm(y, (16,), p[f"tile_norms.{task}.weight"], p[f"tile_norms.{task}.bias"], 1e-6)
        expected = z.mean(dim=(1, 2)) @ p[f"heads.{task}.weight"].T + p[f"heads.{task}.bias"]
        torch.testing.assert_close(out[task], expected)


def test_presets_share_what_they_say() -> None:
    default, paper, reference = (small(preset) for preset in ("default", "paper", "reference"))
    assert list(default.decoders) == list(reference.decoders) == ["shared"]
    assert list(paper.decoders) == ["picture", "cover", "climate", "region"]
    assert list(default.tile_norms) == list(paper.tile_norms) == ["climate", "region"]
    assert list(reference.tile_norms) == ["shared"]
    assert [model.encoder.config.grn for model in (default, paper, reference)] == ["sample", "sample", "batch"]
    decoder_eps = [model.config.decoder_grn_eps for model in (default, paper, reference)]
    assert decoder_eps == [1e-6, 1e-6, 1e-4]  # the released dense block has another epsilon than its sparse one


@pytest.mark.parametrize(("task", "others_move"), [("cover", {"default": True, "paper": False})])
def test_a_task_moves_others_only_through_a_shared_decoder(task: str, others_move: dict[str, bool]) -> None:
    for preset, moves in others_move.items():
        model = small(preset)
        images, mask = batch()
        before = model(images, mask)
        for name, parameter in model.decoders.named_parameters():
            if name.startswith((task, "shared")):
                parameter.data.add_(0.1)
        after = model(images, mask)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == (set(before) if moves else {task})


def test_the_reference_has_as_many_weights_as_the_released_checkpoint(test_data: Path) -> None:
    released = json.loads((test_data / "checkpoints" / "released_keys_atto_56-8.json").read_text())["sparse"]
    # Its decoders are one object under twelve names; the log_vars belong to the loss.
    once = {
        name: math.prod(shape)
        for name, shape in released.items()
        if (not name.startswith("decoder_dict.") or name.startswith("decoder_dict.sentinel2."))
        and "log_vars" not in name
    }
    tasks = paper_tasks()
    assert [task.name for task in tasks] == list(REFERENCE_TASK_ORDER)
    model = MPMAE(MPMAEConfig.of_preset("reference", EncoderConfig(), tasks))
    assert sum(p.numel() for p in model.parameters()) == sum(once.values())
    heads = {name: tuple(head.weight.shape) for name, head in model.heads.items()}  # type: ignore[arg-type]
    assert heads == {task: tuple(released[f"pred_dict.{task}.weight"][:2]) for task in REFERENCE_TASK_ORDER}


def test_tasks_follow_the_modality() -> None:
    modalities = load_catalog().modalities
    s2, biome = (TaskSpec.from_modality(modalities[name]) for name in ("sentinel2", "biome"))
    assert (s2.channels, s2.patch_norm, biome.channels) == (12, True, 14)
    assert not [task.name for task in tasks_of(modalities.values()) if task.kind is Kind.RASTER_MASK]
    assert [task.name for task in tasks_of([modalities["biome"], modalities["aster"]], "reference")] == [
        "aster",
        "biome",
    ]
    assert [task.name for task in tasks_of([modalities["biome"], modalities["aster"]])] == ["biome", "aster"]


def test_empty_pixels_leave_the_reference_encoder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    images, mask = batch()
    images[:, :, 2:9, 3:20] = 0
    images[:, :1] = 0  # one band alone does not make a pixel empty
    pixels = (images != 0).any(dim=1)
    for preset, drops in (("reference", True), ("default", False)):
        model = small(preset)
        features = model.encoder(images, mask, pixels if drops else None)
        other = model.encoder(images, mask, None if drops else pixels)
        assert not torch.allclose(features, other)
        # A linear head after the average pool shows which of the two the model saw.
        monkeypatch.setattr(model, "decoders", nn.ModuleDict({"shared": nn.Identity()}))
        monkeypatch.setattr(model, "tile_norms", nn.ModuleDict(dict.fromkeys(model.tile_norms, nn.Identity())))
        token = torch.where(mask.reshape(2, 3, 3, 1), model.mask_token, model.project(features.permute(0, 2, 3, 1)))
        torch.testing.assert_close(model(images, mask)["climate"], model.heads["climate"](token.mean(dim=(1, 2))))


def test_configurations_survive_json() -> None:
    for preset in ("default", "paper", "reference"):
        config = MPMAEConfig.of_preset(preset, ENCODER, paper_tasks(), decoder_depth=2)
        assert MPMAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_default_weights_start_small() -> None:
    for name, parameter in MPMAE(MPMAEConfig.of_preset("default", EncoderConfig(), paper_tasks())).state_dict().items():
        if name == "mask_token":
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.15)
        elif name.endswith("bias") or "grn" in name:
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert float(parameter.abs().max()) <= 0.04, name


def has_a_deviation_of_1(name: str) -> bool:
    """Layers for which the released code sets no deviation, so that its helper's default of 1 applies.

    They are the sparse encoder's depthwise convolutions (stem and blocks) and linear layers, and every dense
    convolution: projection, depthwise convolution of the decoder, heads of pixels.
    """
    pixel_heads = tuple(f"heads.{task.name}." for task in paper_tasks() if task.kind.is_raster)
    sparse = name.startswith("encoder.") and ("dwconv" in name or "pwconv" in name)
    return sparse or name.startswith(("project.", "decoders.shared.0.dwconv.", *pixel_heads))


def test_reference_weights_start_as_the_released_code_has_them() -> None:
    """A normal distribution truncated at an absolute 2: a deviation of 1 becomes 0.8796, 0.02 hardly changes."""
    model = MPMAE(MPMAEConfig.of_preset("reference", EncoderConfig(), paper_tasks()))
    weights = {n: p for n, p in model.state_dict().items() if p.ndim > 1 and n != "mask_token"}
    for name, parameter in weights.items():
        expected = 0.8796 if has_a_deviation_of_1(name) else 0.02
        # Five standard errors of a normal sample's deviation.
        assert float(parameter.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * parameter.numel())), name
        assert float(parameter.abs().max()) <= 2, name
    narrow = torch.cat([p.flatten() for n, p in weights.items() if not has_a_deviation_of_1(n)])
    assert float(narrow.std()) == pytest.approx(0.02, rel=0.005)
    assert float(narrow.abs().max()) > 0.06, "not cut at two deviations"
    assert float(model.mask_token.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert all(not p.any() for n, p in model.state_dict().items() if n.endswith("bias") or ".grn." in n)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_other_presets_start_with_the_same_bits_as_ever(preset: Any) -> None:
    """Layer by layer, 0.02 truncated at two deviations; the mask token last."""
    model = MPMAE(MPMAEConfig.of_preset(preset, ENCODER, TASKS, decoder_dim=16))
    torch.manual_seed(7)
    model.initialise()
    drawn = {n: p.detach().clone() for n, p in model.named_parameters()}
    torch.manual_seed(7)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
    nn.init.normal_(model.mask_token, std=0.02)
    assert all(torch.equal(parameter, drawn[name]) for name, parameter in model.named_parameters())


def test_weight_decay_spares_vectors_but_not_the_mask_token() -> None:
    model, losses = small("reference"), nn.Linear(3, 3)
    names = {id(p): n for n, p in [*model.named_parameters(), *losses.named_parameters()]}
    decayed, spared = parameter_groups(model, losses, weight_decay=0.05)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == {
        n for n in names.values() if n.endswith("weight") and "norm" not in n
    } | {"mask_token"}
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    also, _ = parameter_groups(model, losses, weight_decay=0.05, decay_grn=True)
    more = {names[id(p)] for p in also["params"]} - {names[id(p)] for p in decayed["params"]}
    assert more == {n for n in names.values() if ".grn." in n}
    assert more


def test_every_parameter_learns() -> None:
    for preset in ("default", "paper", "reference"):
        model = small(preset)
        torch.autograd.backward(sum(p.square().mean() for p in model(*batch()).values()))
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("size", [1, 3])
def test_samples_do_not_see_each_other(size: int) -> None:
    model = small()
    images, mask = batch(size)
    together = model(images, mask)
    for sample in range(size):
        alone = model(images[sample : sample + 1], mask[sample : sample + 1])
        for name in together:
            torch.testing.assert_close(alone[name], together[name][sample : sample + 1])


def test_configurations_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="at least one task"):
        MPMAEConfig(encoder=ENCODER, tasks=())
    with pytest.raises(InputError, match="each once"):
        MPMAEConfig(encoder=ENCODER, tasks=TASKS[:1] * 2)
    with pytest.raises(InputError, match="decoder shared or per-task, got 'own'"):
        MPMAEConfig(encoder=ENCODER, tasks=TASKS, decoder="own")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tile_norm shared or per-task, got 'x'"):
        MPMAEConfig(encoder=ENCODER, tasks=TASKS, tile_norm="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="preset of default, paper, reference"):
        MPMAEConfig.of_preset("best", ENCODER, TASKS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not fit"):
        MPMAEConfig.from_dict({"encoder": {"size": "atto"}})
    with pytest.raises(InputError, match="raster/mask"):
        TaskSpec.from_modality(_mask_modality())


def _mask_modality() -> Modality:
    return load_catalog().modalities["sentinel2_scl"]


def test_fan_in_keeps_the_scale_of_what_passes_through_a_layer() -> None:
    """Unit inputs give outputs of 0.88, the standard deviation of a normal cut at 2, whatever the width."""
    encoder = EncoderConfig(depths=(1, 1, 1, 1), widths=(16, 32, 64, 128))
    tasks = (TaskSpec(name="x", kind=Kind.TILE_CONTINUOUS, channels=256),)
    torch.manual_seed(0)
    model = MPMAE(MPMAEConfig(encoder=encoder, tasks=tasks, decoder_dim=64, init="fan-in"))
    layers = [layer for layer in model.modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    for layer in [layer for layer in layers if layer.weight.numel() > 2000]:
        scale = layer.weight.std().item() * layer.weight[0].numel() ** 0.5
        assert abs(scale - 0.88) < 0.05, layer
