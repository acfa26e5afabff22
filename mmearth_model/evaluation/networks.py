"""Networks on top of an encoder: a classifier, and a UNet decoder for predictions per pixel.

The decoder is that of Ronneberger et al., *U-Net*, MICCAI 2015: from the coarsest map up, each step doubles the side,
concatenates the encoder's map of that size and convolves; a last step does so at the resolution of the image.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from mmearth_model.network.encoder import Classifier, initialise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mmearth_model.evaluation.paper import PaperUNet
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


def layer_of(name: str, encoder: ConvNeXtV2) -> int:
    """Depth of a network's parameter: 0 for the stem, one more for every block, the largest for the head."""
    last = sum(encoder.depths) + 1
    parts = name.split(".")
    if parts[0] != "encoder":
        return last
    if parts[1] == "stem":
        return 0
    stage = int(parts[2]) + (1 if parts[1] == "downsample" else 0)
    before = sum(encoder.depths[:stage])
    return before + 1 + (int(parts[3]) if parts[1] == "stages" else 0)


def released_layer_of(name: str, encoder: ConvNeXtV2) -> int:
    """Depth of a network's parameter as the released code counts it; see `mmearth_model.evaluation.paper`."""
    parts = name.split(".")
    if parts[0] != "encoder" or parts[1] == "stem":
        return sum(encoder.depths) + 1
    block = int(parts[3]) if parts[1] == "stages" else 0
    return sum(encoder.depths[: int(parts[2])]) + block + 1


def parameter_groups(
    model: Classifier | UNet | PaperUNet,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float,
    frozen: bool,
    released: bool = False,
) -> list[dict[str, object]]:
    """Optimiser groups, one per parameter: lower rates for layers further below the head, no decay of vectors.

    ``lr`` is the rate of the head, ``layer_decay`` the ratio of the rate of a layer to that of the next one. A ``frozen``
    encoder is not trained. ``released`` counts layers as the released code does, which does not train the LayerNorm of a
    frozen encoder's classifier either.
    """
    last = sum(model.encoder.depths) + 1
    head_only = released and isinstance(model, Classifier)
    groups: list[dict[str, object]] = []
    for name, parameter in model.named_parameters():
        still = frozen and not name.startswith("head.") and (head_only or name.startswith("encoder."))
        parameter.requires_grad_(not still)
        if not still:
            layer = (released_layer_of if released else layer_of)(name, model.encoder)
            scale = layer_decay ** (last - layer)
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": lr * scale, "scale": scale, "weight_decay": decay})
    return groups
