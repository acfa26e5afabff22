"""A checkpoint and a network small enough to be written in no time, with all that real ones record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy_store import TINY

from mmearth_data import Store, __version__
from mmearth_model import load_checkpoint, make_recipe, plan_training
from mmearth_model.heads.network import Network, Output, save_network
from mmearth_model.heads.unet import UNet
from mmearth_model.tasks import TaskKind
from mmearth_model.training.pretraining import configuration, describe_store, prepare
from mmearth_model.weights.checkpoints import write_checkpoint


def make_checkpoint(store: Store, folder: Path, *, seed: int = 0, **fields: Any) -> Path:
    """Write a checkpoint as after 4 of 4 steps, with random weights; ``fields`` are added to its configuration."""
    recipe = make_recipe(
        "demo", {**TINY, "epochs": 1, "batch_size": 12, "exclude": ("biome", "eco_region"), "seed": seed}
    )
    module = prepare(plan_training(store, recipe), store, None, 0)
    identity = {"store": describe_store(store, folder), "version": __version__}
    progress = {"step": 4, "steps": 4, "loss": 1.25}
    folder.mkdir(parents=True)
    config = {**configuration(module, identity), "progress": progress, **fields}
    write_checkpoint(folder, {"model": module.model, "losses": module.losses}, config)
    return folder


def make_network(checkpoint: Path, folder: Path, **record: Any) -> Path:
    """Write a network for a task per pixel with three classes, with random weights; ``record`` is added to its record."""
    loaded = load_checkpoint(checkpoint)
    torch.manual_seed(1)
    names = (("Trees", 10, "#006400"), ("Water | ice", 80, "#0064c8"), ("Rest", 255, None))
    network = Network(
        module=UNet(loaded.encoder(), len(names)).eval(),
        normaliser=loaded.normaliser,
        kind=TaskKind.SEGMENTATION,
        outputs=tuple(Output(name=name, code=code, colour=colour) for name, code, colour in names),
        window_px=24,
        task="store:land_cover/pixels",
        scale=(np.zeros(1), np.ones(1)),
        record={
            "data": "/home/me/toy.zarr",
            "data_digest": "ab" * 16,
            "synthetic": True,
            "version": __version__,
            **record,
        },
    )
    save_network(folder, network)
    return folder
