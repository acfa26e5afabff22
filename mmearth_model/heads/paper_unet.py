"""The decoder of the paper's released code, for predictions per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from mmearth_model.network.encoder import INIT_STD, NORM_EPS, ModifiedStem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mmearth_model.network.encoder import ConvNeXtV2

TRUNCATED_AT = 2.0
"""Weights are truncated at this absolute value by the released code's helper, not at a number of deviations."""


class Growth(nn.Module):
    """Nearest-neighbour upsampling, 3 x 3 convolution, LayerNorm over channels, GELU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm = nn.LayerNorm(out_channels, eps=NORM_EPS)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, h, w) to (B, out, *size)."""
        y = self.conv(functional.interpolate(x, size=tuple(size), mode="nearest"))
        return functional.gelu(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class PaperUNet(nn.Module):
    """Encoder, with padding ``same``, and the released code's decoder, for predictions per pixel.

    The decoder starts from the map of the last stage. It joins the maps of the third and second stage, of the stem, and
    of the stem's first convolution at full resolution (with the original stem, only the stem's). The first stage's map
    is not used.
    """

    def __init__(self, encoder: ConvNeXtV2, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        first, second, third, last = encoder.widths
        pairs = ((last, third), (2 * third, second), (2 * second, first))
        self.steps = nn.ModuleList(Growth(*pair) for pair in pairs)
        self.grow = Growth(2 * first, first)
        whole = encoder.config.stem == "modified"
        self.pixels = Growth(2 * first if whole else first, max(1, first // 2))
        self.head = nn.Conv2d(max(1, first // 2), outputs, 1)
        for layer in (self.steps, self.grow, self.pixels):
            for module in layer.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-TRUNCATED_AT, b=TRUNCATED_AT)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, outputs, H, W)."""
        stem, pixels = self._stem(images)
        maps = self._stages(stem)
        x = maps[-1]
        for step, skip in zip(self.steps, (maps[2], maps[1], stem), strict=True):
            x = torch.cat([step(x, skip.shape[-2:]), skip], dim=1)
        size = images.shape[-2:]
        x = self.grow(x, size)
        answer: Tensor = self.head(self.pixels(x if pixels is None else torch.cat([x, pixels], dim=1), size))
        return answer

    def _stem(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return maps (B, C, h, w) of the stem and, for the modified one, of its full-resolution first convolution."""
        x, stem = images.permute(0, 2, 3, 1), self.encoder.stem
        if not isinstance(stem, ModifiedStem):
            return stem(x).permute(0, 3, 1, 2), None
        pixels = functional.gelu(stem.norm(stem.conv(x)))
        return stem.dwnorm(stem.dwconv(pixels)).permute(0, 3, 1, 2), pixels.permute(0, 3, 1, 2)

    def _stages(self, stem: Tensor) -> list[Tensor]:
        """Return maps (B, C, h, w) of the four stages, from fine to coarse."""
        y, maps = stem.permute(0, 2, 3, 1), []
        for before, blocks in zip((None, *self.encoder.downsample), self.encoder.stages, strict=True):
            y = y if before is None else before(y)
            for block in blocks:  # type: ignore[attr-defined]
                y = block(y)
            maps.append(y.permute(0, 3, 1, 2))
        return maps
