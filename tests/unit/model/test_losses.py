"""Each rule against loops written from its definition."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mmearth_data import InputError, Kind
from mmearth_model.network.losses import LossConfig, MultiTaskLoss, Target, normalise_patches, task_loss
from mmearth_model.network.masking import patchify, random_mask
from mmearth_model.network.mpmae import TaskSpec

B, ROWS, COLUMNS, PATCH = 3, 2, 2, 4
L = ROWS * COLUMNS
SIZE = (ROWS * PATCH, COLUMNS * PATCH)
REFERENCE = LossConfig(preset="reference")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def mask() -> Tensor:
    return torch.tensor([[True, False, True, True], [False, True, True, False], [True, True, False, True]])


def continuous(channels: int, patch_norm: bool = False) -> TaskSpec:
    return TaskSpec(name="task", kind=Kind.RASTER_CONTINUOUS, channels=channels, patch_norm=patch_norm)


def raster(channels: int) -> tuple[Target, Tensor]:
    """A target with holes (a hidden patch with none, one and two valid values among them), and a prediction."""
    valid = torch.rand(B, channels, *SIZE) < 0.7
    valid[0, :, :PATCH, :PATCH] = False
    valid[0, :, PATCH:, :PATCH] = False
    valid[0, 0, PATCH, 0] = True
    valid[1, :, :PATCH, PATCH:] = False
    valid[1, :2, 1, PATCH + 1] = True
    values = torch.where(valid, torch.randn(B, channels, *SIZE) * 3 + 1, 0.0)
    return Target(values, valid), torch.randn(B, L, PATCH**2 * channels)


def slow_raster_continuous(target: Target, prediction: Tensor, hidden: Tensor, *, norm: bool, reference: bool) -> float:
    channels = target.values.shape[1]
    per_patch = []
    for b in range(B):
        for patch in range(L):
            if not hidden[b, patch]:
                continue
            top, left = patch // COLUMNS * PATCH, patch % COLUMNS * PATCH
            pairs = []  # (observed, predicted) of the values that count
            for row in range(PATCH):
                for column in range(PATCH):
                    for channel in range(channels):
                        place = (b, channel, top + row, left + column)
                        if reference or target.valid[place]:
                            index = (row * PATCH + column) * channels + channel
                            pairs.append((float(target.values[place]), float(prediction[b, patch, index])))
            if not pairs:
                continue
            if norm:
                observed = [t for t, _ in pairs]
                mean = sum(observed) / len(observed)
                variance = sum((t - mean) ** 2 for t in observed) / max(1, len(observed) - 1)
                pairs = [((t - mean) / math.sqrt(variance + 1e-6), p) for t, p in pairs]
            per_patch.append(sum((p - t) ** 2 for t, p in pairs) / len(pairs))
    if reference:
        per_patch = [loss for loss in per_patch if loss != 0]
    return sum(per_patch) / len(per_patch)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_rasters_are_squared_errors_per_hidden_patch(norm: bool, reference: bool) -> None:
    target, prediction = raster(3)
    expected = slow_raster_continuous(target, prediction, mask(), norm=norm, reference=reference)
    config = REFERENCE if reference else LossConfig()
    loss = task_loss(continuous(3, norm), prediction, target, mask(), config)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_paper_and_default_have_the_same_losses() -> None:
    target, prediction = raster(2)
    losses = [task_loss(continuous(2), prediction, target, mask(), LossConfig(preset=p)) for p in ("default", "paper")]
    assert torch.equal(losses[0], losses[1])


def test_what_is_missing_or_visible_moves_no_bit_of_the_default_loss() -> None:
    target, prediction = raster(3)
    hidden = mask()
    counted = patchify(target.valid, PATCH) & hidden[..., None]
    expected = task_loss(continuous(3), prediction, target, hidden)
    elsewhere = torch.where(counted, prediction, torch.randn_like(prediction))
    assert torch.equal(task_loss(continuous(3), elsewhere, target, hidden), expected)


def test_the_reference_skips_patches_that_are_predicted_exactly() -> None:
    target, prediction = raster(1)
    exact = patchify(target.values, PATCH)
    prediction[0, 0] = exact[0, 0]
    prediction[2, 1] = exact[2, 1]
    per_patch = ((prediction - exact) ** 2).mean(dim=-1)[mask()]
    loss = task_loss(continuous(1), prediction, target, mask(), REFERENCE)
    assert float(loss) == pytest.approx(float(per_patch.sum()) / (len(per_patch) - 2), rel=1e-5)


def test_a_normalised_patch_has_mean_0_and_variance_1() -> None:
    values = torch.randn(2, 3, 50, dtype=torch.float64) * 5 + 7
    valid = torch.rand(2, 3, 50) < 0.6
    out = normalise_patches(values, valid)
    assert not out[~valid].any()
    for b, patch in np.ndindex(2, 3):
        kept = out[b, patch][valid[b, patch]]
        assert float(kept.mean()) == pytest.approx(0, abs=1e-12)
        assert float(kept.var(unbiased=True)) == pytest.approx(1, abs=1e-6)


def test_a_patch_of_one_value_or_of_equal_values_is_normalised_to_0() -> None:
    values = torch.full((1, 2, 6), 3.0)
    valid = torch.ones(1, 2, 6, dtype=torch.bool)
    valid[0, 0, 1:] = False
    assert not normalise_patches(values, valid).any()


def test_land_cover_is_cross_entropy_over_valid_hidden_pixels() -> None:
    classes = 5
    task = TaskSpec(name="task", kind=Kind.RASTER_CATEGORICAL, channels=classes)
    values = torch.randint(classes, (B, 1, *SIZE))
    valid = torch.rand(B, 1, *SIZE) < 0.7
    prediction = torch.randn(B, L, PATCH**2 * classes)
    total, count = 0.0, 0
    for b, y, x in np.ndindex(B, *SIZE):
        patch = y // PATCH * COLUMNS + x // PATCH
        if mask()[b, patch] and valid[b, 0, y, x]:
            start = ((y % PATCH) * PATCH + x % PATCH) * classes
            logits = prediction[b, patch, start : start + classes].double()
            total -= float(logits[values[b, 0, y, x]] - torch.log(torch.exp(logits).sum()))
            count += 1
    loss = task_loss(task, prediction, Target(values, valid), mask())
    assert float(loss) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_tile_values_are_squared_errors_over_valid_entries(preset: Any) -> None:
    task = TaskSpec(name="task", kind=Kind.TILE_CONTINUOUS, channels=4)
    valid = torch.rand(B, 4) < 0.6
    values = torch.where(valid, torch.randn(B, 4), 0.0)
    prediction = torch.randn(B, 4)
    squares = [float(prediction[i] - values[i]) ** 2 for i in np.ndindex(B, 4) if valid[i]]
    loss = task_loss(task, prediction, Target(values, valid), mask(), LossConfig(preset=preset))
    assert float(loss) == pytest.approx(sum(squares) / len(squares), rel=1e-5)


def test_tile_classes_are_cross_entropy_over_labelled_tiles() -> None:
    task = TaskSpec(name="task", kind=Kind.TILE_CATEGORICAL, channels=6)
    values, valid = torch.tensor([4, 0, 2]), torch.tensor([True, False, True])
    prediction = torch.randn(B, 6)
    logs = torch.log_softmax(prediction.double(), dim=1)
    loss = task_loss(task, prediction, Target(values, valid), mask())
    assert float(loss) == pytest.approx(-float(logs[0, 4] + logs[2, 2]) / 2, rel=1e-5)


ALL_KINDS = (
    continuous(2, patch_norm=True),
    TaskSpec(name="cover", kind=Kind.RASTER_CATEGORICAL, channels=3),
    TaskSpec(name="climate", kind=Kind.TILE_CONTINUOUS, channels=4),
    TaskSpec(name="region", kind=Kind.TILE_CATEGORICAL, channels=6),
)


def all_kinds(share_valid: float = 0.7) -> tuple[dict[str, Tensor], dict[str, Target]]:
    shapes = {"task": (B, 2, *SIZE), "cover": (B, 1, *SIZE), "climate": (B, 4), "region": (B,)}
    targets = {}
    for task in ALL_KINDS:
        shape = shapes[task.name]
        valid = torch.rand(shape) < share_valid
        values = torch.randint(task.channels, shape) if task.kind.is_categorical else torch.randn(shape)
        targets[task.name] = Target(torch.where(valid, values, 0), valid)
    predictions = {
        task.name: torch.randn(B, L, PATCH**2 * task.channels) if task.kind.is_raster else torch.randn(B, task.channels)
        for task in ALL_KINDS
    }
    return {name: p.requires_grad_() for name, p in predictions.items()}, targets


def test_the_unweighted_total_is_the_sum() -> None:
    predictions, targets = all_kinds()
    criterion = MultiTaskLoss(ALL_KINDS, LossConfig(weighting="unweighted"))
    total, losses = criterion(predictions, targets, mask())
    assert list(losses) == [task.name for task in ALL_KINDS]
    assert float(total.detach()) == pytest.approx(sum(float(loss.detach()) for loss in losses.values()), rel=1e-5)
    assert not list(criterion.parameters())


def test_uncertainty_weights_as_kendall_gal_and_cipolla() -> None:
    predictions, targets = all_kinds()
    criterion = MultiTaskLoss(ALL_KINDS)
    s = [0.3, -1.2, 0.0, 2.0]
    with torch.no_grad():
        criterion.log_vars.copy_(torch.tensor(s))
    total, losses = criterion(predictions, targets, mask())
    values = [float(loss.detach()) for loss in losses.values()]
    assert float(total.detach()) == pytest.approx(
        sum(math.exp(-a) * v + a for a, v in zip(s, values, strict=True)), rel=1e-5
    )
    total.backward()
    assert criterion.log_vars.grad is not None
    expected = [1 - math.exp(-a) * v for a, v in zip(s, values, strict=True)]
    assert criterion.log_vars.grad.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_task_without_targets_contributes_nothing() -> None:
    predictions, targets = all_kinds()
    for absent in ALL_KINDS:
        criterion = MultiTaskLoss(ALL_KINDS)
        with torch.no_grad():
            criterion.log_vars.fill_(0.7)
        complete = targets[absent.name]
        nothing = Target(torch.zeros_like(complete.values), torch.zeros_like(complete.valid))
        total, losses = criterion(predictions, {**targets, absent.name: nothing}, mask())
        others = [float(loss.detach()) for name, loss in losses.items() if name != absent.name]
        assert float(losses[absent.name].detach()) == 0
        assert float(total.detach()) == pytest.approx(sum(math.exp(-0.7) * v + 0.7 for v in others), rel=1e-5)
        (gradient, uncertainty) = torch.autograd.grad(
            total, (predictions[absent.name], criterion.log_vars), materialize_grads=True
        )
        assert not gradient.any()
        assert (uncertainty == 0).tolist() == [task is absent for task in ALL_KINDS]


@pytest.mark.parametrize("config", [LossConfig(), REFERENCE, LossConfig(weighting="unweighted")])
@pytest.mark.parametrize("share_valid", [0.0, 0.01, 1.0])
def test_gradients_are_finite_whatever_is_missing(config: LossConfig, share_valid: float) -> None:
    predictions, targets = all_kinds(share_valid)
    total, losses = MultiTaskLoss(ALL_KINDS, config)(predictions, targets, mask())
    assert total.isfinite()
    assert all(loss.isfinite() for loss in losses.values())
    total.backward()
    for prediction in predictions.values():
        assert prediction.grad is None or prediction.grad.isfinite().all()


def test_with_nothing_hidden_only_tile_tasks_are_learned() -> None:
    predictions, targets = all_kinds()
    _, losses = MultiTaskLoss(ALL_KINDS)(predictions, targets, torch.zeros(B, L, dtype=torch.bool))
    assert [float(losses[task.name].detach()) == 0 for task in ALL_KINDS] == [True, True, False, False]


def test_losses_are_taken_in_float32() -> None:
    predictions, targets = all_kinds()
    half = {name: p.detach().to(torch.bfloat16) for name, p in predictions.items()}
    total, losses = MultiTaskLoss(ALL_KINDS)(half, targets, mask())
    again, _ = MultiTaskLoss(ALL_KINDS)({name: p.float() for name, p in half.items()}, targets, mask())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert torch.equal(total, again)


def test_the_average_is_over_the_batch_not_over_samples() -> None:
    """Two batches of unequal holes do not average to the whole: patches count, not samples."""
    target, prediction = raster(1)
    hidden = random_mask(B, L, 0.25, torch.Generator().manual_seed(3))
    whole = float(task_loss(continuous(1), prediction, target, hidden))
    weights, parts = [], []
    for b in range(B):
        part = Target(target.values[b : b + 1], target.valid[b : b + 1])
        parts.append(float(task_loss(continuous(1), prediction[b : b + 1], part, hidden[b : b + 1])))
        weights.append(int((patchify(part.valid, PATCH).any(dim=-1) & hidden[b : b + 1]).sum()))
    assert whole == pytest.approx(float(np.average(parts, weights=weights)), rel=1e-5)


def test_unknown_rules_are_refused() -> None:
    for change in ({"preset": "best"}, {"weighting": "equal"}):
        with pytest.raises(InputError, match="preset of default, paper, reference and a weighting of uncertainty"):
            LossConfig(**cast("Any", change))
