"""What a frozen encoder makes of every tile of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmearth_data import InputError
from mmearth_model.devices import slice_length
from mmearth_model.targets import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model.encoder import ConvNeXtV2
    from mmearth_model.targets import Normaliser
    from mmearth_model.tasks.store import StoreTask

READ_TILES = 64
"""Tiles of one batch of the loader."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features and labels of the tiles of a store, in its order.

    Attributes
    ----------
    values
        (N, D) float32: global average pool of the encoder's last map.
    labels
        Task -> (N,) int64 class index, -1 where there is none.
    """

    values: NDArray[np.float32]
    labels: dict[str, NDArray[np.int64]]


def extract(
    encoder: ConvNeXtV2,
    normaliser: Normaliser,
    store: Store,
    tasks: Sequence[StoreTask],
    device: torch.device,
    report: Callable[[int], None] = lambda tiles: None,
) -> Features:
    """Run a frozen encoder over the whole of each tile.

    Parameters
    ----------
    encoder, normaliser
        The network and its input, as of one checkpoint.
    store
        The tiles; a selection of a store is a store.
    tasks
        Labels to read in passing.
    device
        Where to run; on a CPU in slices that fit its cache.
    report
        Told of every batch's tiles.

    Raises
    ------
    InputError
        When the store lacks what the encoder takes.
    """
    check_inputs(normaliser, store)
    encoder = encoder.to(device).eval()
    reads = dict.fromkeys([*_stored_inputs(normaliser), *(name for task in tasks for name in task.reads)])
    loader = store.loader(batch_size=READ_TILES, shuffle=False, modalities=tuple(reads))
    values = np.empty((len(store), encoder.out_channels), dtype=np.float32)
    labels = {task.name: np.empty(len(store), dtype=np.int64) for task in tasks}
    filled = 0
    for batch in loader:
        tiles = len(batch["tile"]["tile_id"])
        rows = slice(filled, filled + tiles)
        values[rows] = pooled(encoder, whole_patches(encoder, normaliser.images(batch, device)))
        for task in tasks:
            labels[task.name][rows] = task.labels(batch)
        filled += tiles
        report(tiles)
    return Features(values, labels)


@torch.inference_mode()
def pooled(encoder: ConvNeXtV2, images: torch.Tensor) -> NDArray[np.float32]:
    """(B, bands, H, W) to (B, D): global average of the last map."""
    length = slice_length(images.device, len(images))
    parts = [encoder(part).mean(dim=(-2, -1)).float().cpu() for part in torch.split(images, length)]
    features: NDArray[np.float32] = torch.cat(parts).numpy()
    return features


def whole_patches(encoder: ConvNeXtV2, images: torch.Tensor) -> torch.Tensor:
    """Cut the middle out of the images, so that patches divide them."""
    patch, side = encoder.config.patch_size, images.shape[-1]
    if side < patch:
        raise InputError(f"expected tiles of at least one {patch} px patch, got {side} px; build larger tiles.")
    if side % patch == 0:
        return images
    return Window.centre(len(images), side, side - side % patch).to(images.device).take(images)


def check_inputs(normaliser: Normaliser, store: Store) -> None:
    """Refuse a store that lacks what an encoder takes.

    Raises
    ------
    InputError
        Names the modalities or bands.
    """
    for name in normaliser.inputs:
        wanted, found = normaliser.modalities[name], store.modalities.get(name)
        if found is None:
            raise InputError(
                f"{store.path}: expected {name}, which the encoder takes, got a store with {', '.join(store.modalities)}."
            )
        if found.bands != wanted.bands or found.dtype != wanted.dtype:
            raise InputError(
                f"{store.path}: expected {name} as in the checkpoint ({', '.join(wanted.bands)}; {wanted.dtype}), "
                f"got {', '.join(found.bands)}; {found.dtype}; build the store with the same catalog entry."
            )


def _stored_inputs(normaliser: Normaliser) -> list[str]:
    return [name for name in normaliser.inputs if normaliser.modalities[name].stored]
