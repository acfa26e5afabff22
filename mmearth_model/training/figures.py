"""Figures of reconstructions: input, mask, prediction and truth of every modality of a tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmearth_data import Kind, format_tile_id
from mmearth_model.network.losses import patch_statistics
from mmearth_model.network.masking import patchify, unpatchify, upsample_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mmearth_data import Batch, Modality
    from mmearth_model.data.targets import Normalised
    from mmearth_model.network.losses import Target
    from mmearth_model.network.mpmae import TaskSpec

    Picture = np.ndarray[Any, np.dtype[Any]]

COLUMNS = ("input", "mask", "prediction", "truth")
CELL_INCHES = 1.7
GREY = 0.5
SPREAD = (2, 98)
"""Percentiles of the truth that become black and white."""
SHOWN_VALUES = 4
"""Values of a tile that are spelled out."""


def reconstruction(
    tasks: Mapping[str, tuple[TaskSpec, Modality]],
    raw: Batch,
    normalised: Normalised,
    predictions: Mapping[str, Tensor],
    mask: Tensor,
    *,
    patch_size: int,
    inputs: tuple[Modality, ...],
    synthetic: bool,
) -> Figure:
    """Draw the first tile of a batch: a row per modality, with pictures of a raster, or the values of a tile as text.

    ``tasks`` is modality -> its task and catalog entry; ``raw`` provides the tile's id; ``predictions`` are those of `MPMAE`
    under ``mask`` (B, L) bool, True where hidden; ``inputs`` are the modalities of the images, in the order of their
    channels. The title says whether the tiles are synthetic.
    """
    grid = normalised.images.shape[-1] // patch_size
    hidden = upsample_mask(mask[:1], (grid, grid), patch_size)[0].cpu().numpy()
    figure = Figure(figsize=(CELL_INCHES * len(COLUMNS), CELL_INCHES * len(tasks) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tasks), len(COLUMNS), squeeze=False)
    fed = _inputs(normalised.images[0].float().cpu(), inputs)
    for row, (name, (task, modality)) in zip(axes, tasks.items(), strict=True):
        target, prediction = normalised.targets[name], predictions[name][:1].float().cpu()
        if task.kind.is_raster:
            pictures = _pictures(task, modality, target, prediction, patch_size)
            _draw(row, pictures, hidden, fed.get(name))
        else:
            _write(row, task, modality, target, prediction[0])
        row[0].set_ylabel(name, fontsize=6)
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=7)
    tile = format_tile_id(int(raw["tile"]["tile_id"][0]))
    figure.suptitle(f"tile {tile}{' (synthetic)' if synthetic else ''}", fontsize=8)
    return figure


def restored(task: TaskSpec, prediction: Tensor, target: Target, patch_size: int) -> Tensor:
    """Prediction (1, L, P) as an image (C, H, W) in the units of the target, with the truth's mean and deviation per patch."""
    if task.patch_norm:
        values, valid = (patchify(t[:1].cpu(), patch_size) for t in (target.values, target.valid))
        mean, deviation = patch_statistics(values, valid)
        prediction = prediction * deviation + mean
    return unpatchify(prediction, patch_size)[0]


def _pictures(
    task: TaskSpec, modality: Modality, target: Target, prediction: Tensor, patch_size: int
) -> tuple[Picture, Picture]:
    """Prediction and truth, (H, W, 3) each in 0 to 1."""
    image = restored(task, prediction, target, patch_size)
    truth, valid = target.values[0].cpu(), target.valid[0].cpu().numpy()
    if task.kind is Kind.RASTER_CATEGORICAL:
        colours = _colours(modality)
        drawn = colours[truth[0].numpy()]
        drawn[~valid[0]] = 1.0
        return colours[image.argmax(dim=0).numpy()], drawn
    bands = _shown_bands(modality)
    seen = truth[bands].numpy()
    limits = np.percentile(seen[valid[bands]], SPREAD) if valid[bands].any() else np.array((0.0, 1.0))
    return _stretched(image[bands].numpy(), limits), _stretched(seen, limits)


def _inputs(images: Tensor, inputs: tuple[Modality, ...]) -> dict[str, Picture]:
    """Modality -> picture of the encoder's input, (H, W, 3) in 0 to 1."""
    parts = torch.split(images, [len(m.model_bands) for m in inputs])
    bands = {m.name: part[_shown_bands(m)].numpy() for m, part in zip(inputs, parts, strict=True)}
    return {name: _stretched(part, np.percentile(part, SPREAD)) for name, part in bands.items()}


def _stretched(bands: Picture, limits: Picture) -> Picture:
    """(1 or 3, H, W) to (H, W, 3), with the limits at 0 and 1."""
    low, high = limits
    scaled = np.clip((bands - low) / max(float(high - low), 1e-6), 0, 1)
    return np.repeat(scaled, 3 // len(scaled), axis=0).transpose(1, 2, 0).astype(np.float32)


def _shown_bands(modality: Modality) -> list[int]:
    wanted = [band for band in modality.display.bands if band in modality.model_bands]
    bands = wanted if len(wanted) == 3 else list(modality.model_bands[:1])
    return [modality.model_bands.index(band) for band in bands]


def _colours(modality: Modality) -> Picture:
    values = [[int((label.colour or "#888888")[i : i + 2], 16) for i in (1, 3, 5)] for label in modality.classes]
    return np.array(values, dtype=np.float32) / 255


def _draw(row: Any, pictures: tuple[Picture, Picture], hidden: Any, fed: Picture | None) -> None:  # noqa: ANN401 - matplotlib's axes
    prediction, truth = pictures
    seen = None if fed is None else np.where(hidden[..., None], GREY, fed)
    for axis, picture in zip(row, (seen, 1.0 - 0.6 * hidden, prediction, truth), strict=True):
        axis.set_xticks([])
        axis.set_yticks([])
        if picture is None:
            axis.spines[:].set_visible(False)
        else:
            axis.imshow(picture, vmin=0, vmax=1, cmap="gray", interpolation="nearest")


def _write(row: Any, task: TaskSpec, modality: Modality, target: Target, prediction: Tensor) -> None:  # noqa: ANN401
    if task.kind is Kind.TILE_CATEGORICAL:
        names = [label.name for label in modality.classes]
        truth = names[int(target.values[0])] if bool(target.valid[0]) else "missing"
        texts = [names[int(prediction.argmax())], truth]
    else:
        shown = [float(v) for v in prediction[:SHOWN_VALUES]], [float(v) for v in target.values[0][:SHOWN_VALUES]]
        texts = ["\n".join(f"{v:+.2f}" for v in values) for values in shown]
    for axis, text in zip(row, ("", "", *texts), strict=True):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(bool(text))
        axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=5, wrap=True)
