"""Linear probes as networks: a fitted linear model on the features of a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from mmearth_model.network.backbone import Backbone
    from mmearth_model.network.encoder import ConvNeXtV2


class Standardised(nn.Module):
    """Linear function of standardised features, in double precision.

    Buffers: ``mean`` and ``deviation`` (D,) of the features, ``weight`` (K, D) and ``offset`` (K,), float64. The offset of
    a class that is absent from the training samples is -inf.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(features, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros(outputs, features, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(outputs, dtype=torch.float64))

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    offset: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to (B, K) float64."""
        answer: Tensor = ((features.double() - self.mean) / self.deviation) @ self.weight.T + self.offset
        return answer


class TileProbe(nn.Module):
    """Encoder, global average pooling, and a linear probe."""

    def __init__(self, encoder: ConvNeXtV2, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = Standardised(encoder.out_channels, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, outputs) float64."""
        answer: Tensor = self.head(self.encoder(images).mean(dim=(-2, -1)).float())
        return answer


class PixelProbe(nn.Module):
    """Encoder, and a linear probe on the maps of all stages, resized to the image.

    The linear function of each stage's features is computed at the resolution of the stage, then resized: resizing is
    linear, so the result equals that of the probe on `hypercolumns`, at a fraction of the memory.
    """

    def __init__(self, encoder: ConvNeXtV2, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = Standardised(sum(encoder.widths), outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, outputs, H, W) float32."""
        maps = self.encoder.forward_features(images)
        head, widths = self.head, [m.shape[1] for m in maps]
        means, deviations = (torch.split(part.float(), widths) for part in (head.mean, head.deviation))
        total = head.offset.float()[:, None, None]
        for m, mean, deviation, weight in zip(
            maps, means, deviations, torch.split(head.weight.float(), widths, 1), strict=True
        ):
            centred = (m.float() - mean[:, None, None]) / deviation[:, None, None]
            total = total + resized(functional.conv2d(centred, weight[:, :, None, None]), images)
        return total


def hypercolumns(encoder: Backbone, images: Tensor) -> Tensor:
    """(B, bands, H, W) to (B, all channels, H, W): maps of all stages, resized to the image (bilinear)."""
    return torch.cat([resized(m.float(), images) for m in encoder.forward_features(images)], dim=1)


def resized(maps: Tensor, images: Tensor) -> Tensor:
    """Resize (B, C, h, w) maps to the images (bilinear)."""
    return functional.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
