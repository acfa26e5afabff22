"""MMEarth as a backbone of terratorch.

Copy this file to a folder ``custom_modules`` in the directory where terratorch is started, and import it in the folder's
``__init__.py``; or import it before a model is built. In a configuration of terratorch::

    model_args:
      backbone: mmearth
      backbone_checkpoint: runs/planet
      backbone_out_indices: [0, 1, 2, 3]
      decoder: UperNetDecoder

Images must be normalised, with bands in the order of the encoder; the data module normalises them with its means and
standard deviations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import nn

from mmearth_model import ConvNeXtV2, FeatureMaps, load_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class MMEarthBackbone(nn.Module):
    """Feature maps of an encoder, from fine to coarse; terratorch pads images to multiples of twice ``patch_size``."""

    def __init__(self, encoder: ConvNeXtV2, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.maps = FeatureMaps(encoder)
        self.out_indices = tuple(out_indices)
        self.out_channels = [encoder.channels[index] for index in self.out_indices]
        self.patch_size = encoder.strides[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, bands, H, W) to (B, C, h, w) of each stage asked for."""
        maps = self.maps(images)
        return [maps[index] for index in self.out_indices]


@TERRATORCH_BACKBONE_REGISTRY.register
def mmearth(checkpoint: str, out_indices: Sequence[int] = (0, 1, 2, 3), *, pretrained: bool = True) -> MMEarthBackbone:
    """Build the backbone of a checkpoint, run or weight file; ``pretrained=False`` starts from random weights."""
    encoder = load_encoder(checkpoint, padding="same")
    return MMEarthBackbone(encoder if pretrained else ConvNeXtV2(encoder.config), out_indices)
