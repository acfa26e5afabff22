"""Checkpoints of small encoders with random weights, written without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmearth_data import staged_folder
from mmearth_model import Checkpoint, EncoderConfig, Normaliser, load_checkpoint
from mmearth_model.network.losses import MultiTaskLoss
from mmearth_model.network.mpmae import MPMAE, MPMAEConfig, tasks_of
from mmearth_model.weights.checkpoints import write_checkpoint
from mmearth_model.weights.store_record import describe_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmearth_data import Store


def write_encoder(
    folder: Path,
    store: Store,
    *,
    inputs: Sequence[str] = ("sentinel2",),
    targets: Sequence[str] = ("sentinel2", "era5"),
    patch_size: int = 8,
    widths: tuple[int, int, int, int] = (8, 12, 16, 24),
    depths: tuple[int, int, int, int] = (1, 1, 1, 1),
) -> Checkpoint:
    """Write a checkpoint that takes ``inputs`` and seems to have learned ``targets`` on a store."""
    learned = [store.modalities[name] for name in targets]
    taken = [store.modalities[name] for name in inputs]
    encoder = EncoderConfig(
        depths=depths,
        widths=widths,
        patch_size=patch_size,
        image_size=2 * patch_size,
        in_channels=sum(len(m.model_bands) for m in taken),
    )
    config = MPMAEConfig.of_preset("default", encoder, tasks_of(learned), decoder_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, losses = MPMAE(config), MultiTaskLoss(config.tasks)
    known = {m.name: m for m in (*taken, *learned)}
    normaliser = Normaliser(list(known.values()), store.statistics, inputs=inputs, targets=targets)
    content = {
        "model": config.to_dict(),
        "loss": {"preset": "default", "weighting": "uncertainty"},
        "normaliser": normaliser.to_config(),
        "recipe": {"seed": 0},
        "store": describe_store(store, folder.absolute().parent),
        "progress": {"step": 0},
    }
    with staged_folder(folder) as beside:
        write_checkpoint(beside, {"model": model, "losses": losses}, content)
    return load_checkpoint(folder)
