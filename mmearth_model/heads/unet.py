"""A UNet decoder on top of an encoder, for predictions per pixel.

The decoder is that of Ronneberger et al., *U-Net*, MICCAI 2015: from the coarsest map up, each step doubles the side,
concatenates the encoder's map of that size and convolves; a last step does so at the resolution of the image.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from mmearth_model.network.encoder import initialise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mmearth_model.network.encoder import ConvNeXtV2

GROUPS = 8
MIN_WIDTH = 32
"""Minimum of the channels of a step of the decoder."""


class Step(nn.Module):
    """Two 3 x 3 convolutions, each followed by GroupNorm and GELU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        widths = (channels, out_channels, out_channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, out_channels) for _ in self.convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, out, h, w)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.gelu(norm(convolution(x)))
        return x


class UNet(nn.Module):
    """Encoder and decoder with ``outputs`` classes or quantities per pixel."""

    def __init__(self, encoder: ConvNeXtV2, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        widths = [_rounded(width) for width in encoder.widths]
        self.bottom = nn.Conv2d(encoder.widths[-1], widths[-1], 1)
        pairs = list(zip(encoder.widths[-2::-1], widths[:0:-1], widths[-2::-1], strict=True))
        self.steps = nn.ModuleList(Step(below + skip, out) for skip, below, out in pairs)
        self.pixels = Step(widths[0] + encoder.config.in_channels, MIN_WIDTH)
        self.head = nn.Conv2d(MIN_WIDTH, outputs, 1)
        initialise(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, outputs, H, W)."""
        return self.decode(self.encoder.forward_features(images), images)

    def decode(self, maps: Sequence[Tensor], images: Tensor) -> Tensor:
        """Turn maps of all stages and the images into (B, outputs, H, W)."""
        *finer, coarsest = maps
        x = self.bottom(coarsest)
        for step, skip in zip(self.steps, reversed(finer), strict=True):
            x = step(torch.cat([_grown(x, skip.shape[-2:]), skip], dim=1))
        answer: Tensor = self.head(self.pixels(torch.cat([_grown(x, images.shape[-2:]), images], dim=1)))
        return answer


def _grown(x: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _rounded(width: int) -> int:
    """Channels of a decoder's step: at most 256, and a multiple of the groups."""
    return max(MIN_WIDTH, min(256, -(-width // GROUPS) * GROUPS))
