"""Linear probes saved as networks (`mmearth_model.heads.probes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmearth_data import InputError
from mmearth_model.evaluation.features import input_normaliser
from mmearth_model.evaluation.trained import outputs_of, training_record
from mmearth_model.heads.network import Network, check_network_output
from mmearth_model.heads.probes import PixelProbe, TileProbe
from mmearth_model.network.pooling import whole_patches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from mmearth_model.data.targets import Normaliser
    from mmearth_model.evaluation.probes import Linear
    from mmearth_model.evaluation.results import Row
    from mmearth_model.network.encoder import ConvNeXtV2
    from mmearth_model.tasks import LabelledSet, LabelShare
    from mmearth_model.weights.checkpoints import Checkpoint

LINEAR = ("linear", "probe")
"""Protocols for whole images that fit one linear function."""
OPTION = "--keep-probe"


def check_keep(
    folder: Path,
    checkpoints: Sequence[Checkpoint],
    tasks: Sequence[LabelledSet],
    protocols: Sequence[str],
    labels: Sequence[LabelShare],
    test_share: float | None,
) -> None:
    """Refuse to save a probe if there is none, or more than one, or its folder contains something else.

    Raises
    ------
    InputError
        With the first problem found.
    """
    for what, count in (("checkpoint", len(checkpoints)), ("task", len(tasks)), ("share of labels", len(labels))):
        if count != 1:
            raise InputError(f"{OPTION}: expected one {what}, whose probe is saved, got {count}; leave the others out.")
    fitted = [name for name in protocols if name in LINEAR]
    if not tasks[0].kind.per_pixel and len(fitted) != 1:
        raise InputError(
            f"{OPTION}: expected a single linear protocol, {' or '.join(LINEAR)}, got {', '.join(protocols)}; choose "
            "one with "
            "--protocol."
        )
    if test_share is not None:
        raise InputError(
            "--test-share: expected none with --keep-probe, since the network is later evaluated on the test split of "
            "the store; "
            "leave it out."
        )
    check_network_output(folder, OPTION)


def probe_network(checkpoint: Checkpoint, task: LabelledSet, model: Linear, row: Row, folder: Path) -> Network:
    """Make a network from a fitted probe.

    Parameters
    ----------
    checkpoint
        Encoder.
    task
        Task that it was fitted to.
    model
        Linear function of the features: pooled, or of each pixel (`mmearth_model.heads.probes.hypercolumns`).
    row
        Its result.
    folder
        Folder that it will be written to.
    """
    outputs, reading = outputs_of(task), input_normaliser(checkpoint.normaliser, task)
    encoder = checkpoint.encoder()
    module = (PixelProbe if task.kind.per_pixel else TileProbe)(encoder, len(outputs))
    module.head.load_state_dict(_head(model, len(outputs)))
    return Network(
        module=module.eval(),
        normaliser=reading,
        kind=task.kind,
        outputs=outputs,
        window_px=_image_px(encoder, reading, task),
        task=task.name,
        scale=(np.atleast_1d(model.labels[0]), np.atleast_1d(model.labels[1])),
        record=training_record(task, checkpoint, row, folder),
    )


def _head(model: Linear, outputs: int) -> dict[str, Tensor]:
    """State of a `Standardised` layer; a class without training samples has the offset -inf."""
    rows = np.arange(outputs) if model.classes is None else model.classes
    weight = np.zeros((outputs, model.weight.shape[1]))
    offset = np.full(outputs, -np.inf)
    weight[rows], offset[rows] = model.weight, model.offset
    mean, deviation = model.features
    parts = {"mean": mean, "deviation": deviation, "weight": weight, "offset": offset}
    return {name: torch.from_numpy(np.asarray(part, dtype=np.float64)) for name, part in parts.items()}


def _image_px(encoder: ConvNeXtV2, reading: Normaliser, task: LabelledSet) -> int:
    """Pixels along the shorter side of the training images, cropped to whole patches."""
    (batch,) = task.images.batches(task.parts.train[:1], 1, reading.stored)
    return min(whole_patches(encoder, reading.images(batch)).shape[-2:])
