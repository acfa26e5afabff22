"""Pooled features of an encoder: the global average of its last map, computed in slices that fit the cache."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mmearth_data import InputError
from mmearth_model.devices import slice_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    patch, height, width = encoder.strides[-1], *images.shape[-2:]
    if min(height, width) < patch:
        raise InputError(
            f"expected tiles of at least one {patch} px patch, got {min(height, width)} px; build larger tiles."
        )
    kept = (height - height % patch, width - width % patch)
    if kept == (height, width):
        return images
    rows, columns = centre(images.shape[-2:], kept)
    return images.permute(0, 2, 3, 1)[:, rows, columns].contiguous().permute(0, 3, 1, 2)


def centre(sides: Sequence[int], kept: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of the centre of an image, given the (height, width) of the image and of the centre."""
    top, left = ((side - part) // 2 for side, part in zip(sides, kept, strict=True))
    return slice(top, top + kept[0]), slice(left, left + kept[1])
