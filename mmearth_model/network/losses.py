"""Losses of the pretext tasks by kind of modality, and their weighted sum.

The loss of a raster is computed over hidden patches only, and every loss over observed values only. Nedungadi et al.,
*MMEarth*, ECCV 2024, arXiv 2405.02771, section 3.3; weighting by uncertainty after Kendall, Gal and Cipolla, CVPR 2018,
arXiv 1705.07115.

Axes: B batch, L patches, P values of a patch, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from mmearth_data import InputError, Kind
from mmearth_model.network.masking import patchify
from mmearth_model.network.mpmae import Preset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mmearth_model.network.mpmae import TaskSpec

Weighting = Literal["uncertainty", "unweighted"]

VARIANCE_EPS = 1e-6
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Target:
    """Target of a task."""

    # continuous: float32, z-scored; categorical: int64 class index; multi-label: float32, 0 or 1. 0 where not valid, except for modalities with a
    # stand-in (`mmearth_model.Normaliser`). Shapes as stored: (B, C, H, W), (B, C) or (B,).
    values: Tensor
    valid: Tensor  # bool, same shape: True where observed and learnable


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Options of the losses and their sum.

    Attributes
    ----------
    preset
        ``default`` and ``paper`` leave out what is missing. ``reference`` computes what the released code computes:

        - raster/continuous: every value of a hidden patch counts; missing ones count as the number that the published
          files hold there (canopy height 127, ASTER -32768, Sentinel-2 0), or as the mean if that is not finite
          (Sentinel-1); the mean runs over patches whose loss is not 0;
        - raster/categorical: missing pixels are left out, and so is WorldCover's class 10, tree cover;
        - tile/continuous: missing entries are left out;
        - tile/categorical: a tile without a label belongs to class 0;
        - tile/multi-label: missing entries are left out.

        The values come from `mmearth_model.data.targets.reference_stand_ins`. It differs from the released code where that
        stops or computes with NaN: a task without targets in a batch is NaN there and contributes nothing here; a
        missing Sentinel-2 input is a number or NaN there (see `reference_stand_ins`) and 0 here, which keeps every loss
        finite; a band never observed in the store counts as the mean here. The published files also use negative
        numbers for missing canopy heights (255 as int8 is -1); a store does not distinguish them, and uses 127.
    weighting
        ``uncertainty``: sum of exp(-s) L + s with a learned s per task; ``unweighted``: sum of L.
    """

    preset: Preset = "default"
    weighting: Weighting = "uncertainty"

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset) or self.weighting not in get_args(Weighting):
            raise InputError(
                f"expected a preset of {', '.join(get_args(Preset))} and a weighting of "
                f"{', '.join(get_args(Weighting))}, got {self.preset!r}, {self.weighting!r}."
            )

    @property
    def missing_is_mean(self) -> bool:
        """Whether a missing value of raster/continuous is learned as the mean."""
        return self.preset == "reference"


class MultiTaskLoss(nn.Module):
    """Weighted sum of the losses of all tasks, which are in the order of ``log_vars``."""

    def __init__(self, tasks: Sequence[TaskSpec], config: LossConfig | None = None) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.config = config or LossConfig()
        if self.config.weighting == "uncertainty":
            self.log_vars = nn.Parameter(torch.zeros(len(self.tasks)))

    def forward(
        self, predictions: Mapping[str, Tensor], targets: Mapping[str, Target], mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss, and task -> loss before weighting, 0 where the batch has no target.

        ``predictions`` are those of `MPMAE`, ``targets`` those of `Normaliser`; ``mask`` (B, L) bool, True where hidden.
        """
        losses = {
            task.name: task_loss(task, predictions[task.name], targets[task.name], mask, self.config)
            for task in self.tasks
        }
        stacked = torch.stack(list(losses.values()))
        if self.config.weighting == "unweighted":
            return stacked.sum(), losses
        weighted = torch.exp(-self.log_vars) * stacked + self.log_vars
        return torch.where(stacked == 0, 0.0, weighted).sum(), losses


def task_loss(
    task: TaskSpec, prediction: Tensor, target: Target, mask: Tensor, config: LossConfig | None = None
) -> Tensor:
    """Loss of one task by its kind: a scalar, float32 (float64 if the prediction is); 0 if there is no target.

    ``prediction`` is (B, L, P) for rasters and (B, channels) for tiles; ``mask`` (B, L) bool, True where hidden.
    """
    config = config or LossConfig()
    if prediction.dtype != torch.float64:
        prediction = prediction.float()
    if task.kind is Kind.RASTER_CONTINUOUS:
        return _raster_continuous(task, prediction, target, mask, config)
    if task.kind is Kind.RASTER_CATEGORICAL:
        return _raster_categorical(task, prediction, target, mask)
    if task.kind is Kind.TILE_CONTINUOUS:
        return _mean((prediction - target.values) ** 2, target.valid)
    if task.kind is Kind.TILE_MULTI_LABEL:
        errors = functional.binary_cross_entropy_with_logits(prediction, target.values, reduction="none")
        return _mean(errors, target.valid)
    return _cross_entropy(prediction, target.values, target.valid)


def normalise_patches(values: Tensor, valid: Tensor) -> Tensor:
    """Give the valid values of each patch mean 0 and unbiased variance 1; (B, L, P) each; 0 where not valid."""
    mean, deviation = patch_statistics(values, valid)
    return (values - mean) * valid / deviation


def patch_statistics(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (unbiased variance + 1e-6) of the valid values of each patch; (B, L, P) to (B, L, 1) each."""
    count = valid.sum(dim=-1, keepdim=True)
    mean = (values * valid).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    variance = ((values - mean) * valid).square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
    return mean, (variance + VARIANCE_EPS).sqrt()


def _raster_continuous(task: TaskSpec, prediction: Tensor, target: Target, mask: Tensor, config: LossConfig) -> Tensor:
    patch_size = math.isqrt(prediction.shape[-1] // task.channels)
    values = patchify(target.values, patch_size)
    valid = patchify(target.valid, patch_size)
    if config.missing_is_mean:
        valid = torch.ones_like(valid)
    if task.patch_norm:
        values = normalise_patches(values, valid)
    count_BL = valid.sum(dim=-1)
    loss_BL = ((prediction - values) ** 2 * valid).sum(dim=-1) / count_BL.clamp(min=1)
    return _mean(loss_BL, mask & (loss_BL != 0 if config.missing_is_mean else count_BL > 0))


def _raster_categorical(task: TaskSpec, prediction: Tensor, target: Target, mask: Tensor) -> Tensor:
    patch_size = math.isqrt(prediction.shape[-1] // task.channels)
    logits = prediction.reshape(*mask.shape, patch_size**2, task.channels)
    valid = patchify(target.valid, patch_size) & mask[..., None]
    return _cross_entropy(logits, patchify(target.values, patch_size), valid)


def _cross_entropy(logits: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid entries; (..., K) logits, (...) class indices."""
    labels = torch.where(valid, classes, IGNORED).flatten()
    total = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels, ignore_index=IGNORED, reduction="sum"
    )
    return total / valid.sum().clamp(min=1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the counted values, 0 where there are none."""
    return (values * counted).sum() / counted.sum().clamp(min=1)
