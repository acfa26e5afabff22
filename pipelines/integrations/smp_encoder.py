"""MMEarth as an encoder of segmentation_models_pytorch.

Example, after ``register("mmearth-atto", "runs/planet")``::

    smp.Unet("mmearth-atto", encoder_weights=None, encoder_depth=4, decoder_channels=(256, 128, 64, 32), in_channels=12)

Images must be normalised, with bands in the order of the encoder (`ConvNeXtV2.preprocess`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import segmentation_models_pytorch as smp

from mmearth_model import FeatureMaps, load_encoder

if TYPE_CHECKING:
    from torch import Tensor


class MMEarthEncoder(FeatureMaps):
    """The image and the maps of the first ``depth`` stages."""

    def __init__(self, checkpoint: str, depth: int = 4, output_stride: int = 32) -> None:
        super().__init__(load_encoder(checkpoint, padding="same"), image=True)
        if not 1 <= depth <= 4 or output_stride != 32:  # 32: the library's value for an unchanged stride
            raise ValueError(f"expected encoder_depth 1 to 4 and no output stride, got {depth} and {output_stride}.")
        self.depth = depth

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the image and of each map."""
        return super().out_channels[: self.depth + 1]

    @property
    def output_stride(self) -> int:
        """Pixels along a side of one position of the last map."""
        return self.encoder.strides[self.depth - 1]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Refuse a number of bands other than the encoder's."""
        if in_channels != self.out_channels[0]:
            raise ValueError(f"expected in_channels={self.out_channels[0]}, as the encoder takes, got {in_channels}.")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, bands, H, W) to the image and (B, C, h, w) of each stage."""
        return super().forward(x)[: self.depth + 1]


def register(name: str, checkpoint: str) -> None:
    """Register a checkpoint, run or weight file in the library under a name."""
    made_of = {"encoder": MMEarthEncoder, "pretrained_settings": {}, "params": {"checkpoint": checkpoint}}
    smp.encoders.encoders[name] = made_of
