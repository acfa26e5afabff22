"""Predictions of a checkpoint for a few tiles that it was not trained on: pictures and values for a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmearth_data import InputError, Kind, format_tile_id
from mmearth_model.data.targets import Window
from mmearth_model.network.masking import random_mask, upsample_mask
from mmearth_model.report.images import draw, draw_classes, encode, limits_of, shown_bands
from mmearth_model.training.figures import present_names, restored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from mmearth_data import Batch, Modality, Store
    from mmearth_model.data.targets import Normalised
    from mmearth_model.network.losses import Target
    from mmearth_model.network.mpmae import TaskSpec
    from mmearth_model.weights.checkpoints import Checkpoint

SPLITS = ("test", "val", "train")
"""Splits in order of preference for tiles: those that are not used for training come first."""
MASK_SEED = 0
SHOWN_VALUES = 4
HIDDEN = (0x60, 0x60, 0x66, 0xFF)
"""Colour of hidden patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterPictures:
    """One raster modality of a tile.

    Attributes
    ----------
    name, title, shows
        Modality, its long name, and what its pictures show.
    fed
        Whether it is an input of the encoder.
    prediction, truth
        WebP files of equal size, on the same scale; visible patches of the prediction are transparent, because the loss
        excludes them.
    """

    name: str
    title: str
    shows: str
    fed: bool
    prediction: bytes
    truth: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """One tile.

    Attributes
    ----------
    tile, lon, lat, split
        Tile id, degrees, and name of its split.
    mask
        WebP file, opaque where patches are hidden.
    rasters
        Modalities with a value per pixel.
    values
        (Modality, prediction, truth) of those with values per tile, as text.
    """

    tile: str
    lon: float
    lat: float
    split: str
    mask: bytes
    rasters: tuple[RasterPictures, ...]
    values: tuple[tuple[str, str, str], ...]


def choose_tiles(store: Store, count: int) -> tuple[Store, str]:
    """Select tiles spread over a split that is not used for training, if there is one, and name the split.

    Raises `InputError` when the store has no tile.
    """
    split = next((name for name in SPLITS if len(store.select(split=name))), None)
    if split is None:
        raise InputError(f"{store.path}: expected tiles to draw, got none; give --store STORE.")
    tiles = store.select(split=split)
    chosen = np.zeros(len(tiles), dtype=bool)
    chosen[np.linspace(0, len(tiles) - 1, min(count, len(tiles))).round().astype(int)] = True
    return tiles.select(where=chosen), split


@torch.inference_mode()
def reconstruct(checkpoint: Checkpoint, store: Store, count: int, device: torch.device) -> list[Reconstruction]:
    """Predict all modalities of a few tiles from their visible patches, in the middle of each tile.

    Parameters
    ----------
    checkpoint
        A checkpoint of the whole network.
    store
        The store that it was trained on, or another store with the same modalities.
    count
        Number of tiles.
    device
        Device.

    Raises
    ------
    InputError
        When the store lacks a modality, or the checkpoint is an encoder alone.
    """
    config, normaliser = checkpoint.model_config, checkpoint.normaliser
    tiles, split = choose_tiles(store, count)
    raw: Batch = next(iter(tiles.loader(batch_size=len(tiles), shuffle=False, modalities=normaliser.stored)))
    encoder, size_px = config.encoder, store.layout.size_px
    window = Window.centre(len(tiles), size_px, encoder.image_size)
    grid = encoder.image_size // encoder.patch_size
    ratio = float(checkpoint.config["recipe"].get("mask_ratio", 0.6))
    mask = random_mask(len(tiles), grid**2, ratio, torch.Generator().manual_seed(MASK_SEED), device)
    normalised = normaliser(raw, device, window)
    model = checkpoint.model().to(device)
    predictions = model(normalised.images, mask)
    modalities = {task.name: normaliser.modalities[task.name] for task in config.tasks}
    coords = raw["tile"]
    found = []
    for row in range(len(tiles)):
        hidden = upsample_mask(mask[row : row + 1], (grid, grid), encoder.patch_size)[0].cpu().numpy()
        one = _Tile(row, normalised, predictions, encoder.patch_size, normaliser.inputs, hidden)
        found.append(
            Reconstruction(
                tile=format_tile_id(int(coords["tile_id"][row])),
                lon=float(coords["lon"][row]),
                lat=float(coords["lat"][row]),
                split=split,
                mask=encode(_veil(hidden)),
                rasters=tuple(one.rasters(config.tasks, modalities)),
                values=tuple(one.values(config.tasks, modalities)),
            )
        )
    return found


def _veil(hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    veil = np.zeros((*hidden.shape, 4), dtype=np.uint8)
    veil[hidden] = HIDDEN
    return veil


@dataclass(frozen=True, slots=True)
class _Tile:
    """One row of a batch with its predictions."""

    row: int
    normalised: Normalised
    predictions: dict[str, Tensor]
    patch_size: int
    inputs: tuple[str, ...]
    hidden: NDArray[np.bool_]

    def target(self, name: str) -> Target:
        whole = self.normalised.targets[name]
        some = slice(self.row, self.row + 1)
        return type(whole)(whole.values[some].float().cpu(), whole.valid[some].cpu())

    def prediction(self, name: str) -> Tensor:
        return self.predictions[name][self.row : self.row + 1].float().cpu()

    def rasters(self, tasks: tuple[TaskSpec, ...], modalities: dict[str, Modality]) -> Iterator[RasterPictures]:
        for task in tasks:
            if task.kind.is_raster:
                modality, target = modalities[task.name], self.target(task.name)
                image = restored(task, self.prediction(task.name), target, self.patch_size).numpy()
                shows, prediction, truth = _raster(task, modality, target, image)
                yield RasterPictures(
                    name=task.name,
                    title=modality.long_name,
                    shows=shows,
                    fed=task.name in self.inputs,
                    prediction=encode(np.dstack([prediction, 255 * self.hidden.astype(np.uint8)])),
                    truth=encode(truth),
                )

    def values(self, tasks: tuple[TaskSpec, ...], modalities: dict[str, Modality]) -> Iterator[tuple[str, str, str]]:
        for task in tasks:
            if not task.kind.is_raster:
                target, prediction = self.target(task.name), self.prediction(task.name)[0]
                yield (task.name, *_value_texts(task, modalities[task.name], target, prediction))


def _raster(
    task: TaskSpec, modality: Modality, target: Target, image: NDArray[Any]
) -> tuple[str, NDArray[np.uint8], NDArray[np.uint8]]:
    """Describe what is drawn of a raster, and draw its prediction and truth."""
    truth, valid = target.values[0].numpy(), target.valid[0].numpy()
    if task.kind is Kind.RASTER_CATEGORICAL:
        drawn = draw_classes(
            truth.reshape(truth.shape[-2:]).astype(np.int64), modality, valid.reshape(valid.shape[-2:])
        )
        return "classes", draw_classes(image.argmax(axis=0), modality), drawn
    bands = shown_bands(modality)
    places = [modality.model_bands.index(band) for band in bands]
    limits = limits_of(truth[places], valid[places])
    pictures = (draw(image[places], limits, modality.display.colormap), draw(truth[places], limits, modality.display.colormap, valid[places]))  # fmt: skip
    return ", ".join(bands), *pictures


def _value_texts(task: TaskSpec, modality: Modality, target: Target, prediction: Tensor) -> tuple[str, str]:
    valid = target.valid.reshape(-1)
    if task.kind is Kind.TILE_CATEGORICAL:
        names = [label.name for label in modality.classes]
        truth = names[int(target.values.reshape(-1)[0])] if bool(valid[0]) else "missing"
        return names[int(prediction.argmax())], truth
    if task.kind is Kind.TILE_MULTI_LABEL:
        truth = present_names(modality, target.values.reshape(-1) > 0) if bool(valid.any()) else "missing"
        return present_names(modality, prediction.reshape(-1) > 0), truth
    truths = target.values.reshape(-1)[:SHOWN_VALUES].tolist()
    known = valid[:SHOWN_VALUES].tolist()
    more = " ..." if len(valid) > SHOWN_VALUES else ""
    predicted = "  ".join(f"{value:+.2f}" for value in prediction[:SHOWN_VALUES].tolist())
    true = "  ".join(f"{value:+.2f}" if seen else "missing" for value, seen in zip(truths, known, strict=True))
    return predicted + more, true + more
