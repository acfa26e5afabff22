"""Pooled features of an encoder: the global average of its last map, computed in slices that fit the cache."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mmearth_data import InputError
from mmearth_model.devices import slice_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from mmearth_model.network.backbone import Backbone


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation mode within the block; afterwards, restore the mode of every submodule."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def pooled_features(encoder: Backbone, images: Tensor) -> Tensor:
    """(B, bands, H, W) to (B, D) float32, on the images' device."""
    length = slice_length(images.device, len(images))
    return torch.cat([encoder(part).mean(dim=(-2, -1)).float() for part in torch.split(images, length)])


def whole_patches(encoder: Backbone, images: Tensor) -> Tensor:
    """Crop the centre of the images, so that their sides are multiples of a patch."""
    patch, side = encoder.strides[-1], images.shape[-1]
    if side < patch:
        raise InputError(f"expected tiles of at least one {patch} px patch, got {side} px; build larger tiles.")
    kept = side - side % patch
    if kept == side:
        return images
    middle = slice((side - kept) // 2, (side - kept) // 2 + kept)
    return images.permute(0, 2, 3, 1)[:, middle, middle].contiguous().permute(0, 3, 1, 2)
