"""Requirements of a run: parameters, memory of a step, and the speed and remaining time once they are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmearth_model.devices import resolve_device
from mmearth_model.network.losses import LossConfig, MultiTaskLoss
from mmearth_model.network.mpmae import MPMAE
from mmearth_model.network.positions import ENGINES
from mmearth_model.training.layout import LOG_FILE
from mmearth_model.training.log import read_log

if TYPE_CHECKING:
    from torch import Tensor

    from mmearth_model.training.plan import TrainPlan

BYTES_PER_PARAMETER = 16
"""Weight, gradient and the two moments of AdamW, in float32."""


def training_account(plan: TrainPlan, device: str, run: str | Path) -> dict[str, Any]:
    """Plan, parameters, memory and speed of a run, JSON-ready.

    Parameters
    ----------
    plan
        From `mmearth_model.plan_training`.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    run
        Folder of the run, whose log has the speed if it was started before.

    Raises
    ------
    InputError
        If the device is not available, or the log is damaged.
    """
    where, run = resolve_device(device), Path(run)
    logged = read_log(run / LOG_FILE) if (run / LOG_FILE).is_file() else []
    speed = float(logged[-1].get("images_per_s") or 0) or None if logged else None
    step = int(logged[-1]["step"]) if logged else 0
    parameters, kept = parameters_and_activations(plan)
    state = parameters * BYTES_PER_PARAMETER
    return plan.describe() | {
        "device": str(where),
        "engine": plan.recipe.engine,
        "run": str(run),
        "parameters": parameters,
        "memory_mib": round((state + kept) / 2**20),
        "memory_is": f"computed from the shapes of a step of {plan.recipe.micro_batch} tiles in float32, not measured",
        "images_per_s": speed,
        "hours_left": None if not speed else round((plan.steps - step) * plan.recipe.batch_size / speed / 3600, 3),
    }


def plan_line(account: dict[str, Any]) -> str:
    """Summary of a plan in one line."""
    speed = account["images_per_s"]
    known = "" if speed is None else f", {speed:g} images/s so far, {account['hours_left']:g} hours left"
    return (
        f"encoder {account['encoder']}, {account['parameters'] / 1e6:.2f} million parameters, about "
        f"{account['memory_mib']:,} MiB for a step ({account['memory_is']}), {account['steps']} steps{known}"
    )


def parameters_and_activations(plan: TrainPlan) -> tuple[int, int]:
    """Count parameters, and bytes that the forward pass of a micro-batch keeps for the backward pass.

    Computed from shapes alone (PyTorch's meta device), for tiles without empty pixels.
    """
    config, recipe = plan.model_config(), plan.recipe
    tiles = min(2, recipe.micro_batch)
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.device("meta"):
        model = MPMAE(replace(config, drop_empty_pixels=False))
        losses = MultiTaskLoss(config.tasks, LossConfig(preset=recipe.preset, weighting=recipe.weighting))
        model.encoder.engine = ENGINES[recipe.engine]
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        images = torch.empty(tiles, config.encoder.in_channels, plan.image_size, plan.image_size)
        mask = torch.zeros(tiles, plan.patches, dtype=torch.bool)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            predictions = model(images, mask, plan.visible)
    del predictions
    parameters = sum(p.numel() for part in (model, losses) for p in part.parameters())
    one = sum(storage.nbytes() for key, storage in kept.items() if key not in own) / tiles
    return parameters, round(one * recipe.micro_batch)
