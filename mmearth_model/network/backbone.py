"""What heads and probes need from an encoder of any architecture."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Backbone(nn.Module, ABC):
    """An encoder: images to one map of features, or to several from fine to coarse.

    Calling it computes the last map: (B, bands, H, W) to (B, out_channels, h, w). Sides of the images are multiples of
    ``strides[-1]``.
    """

    @property
    @abstractmethod
    def channels(self) -> Sequence[int]:
        """Channels of each map, from fine to coarse."""

    @property
    @abstractmethod
    def strides(self) -> Sequence[int]:
        """Pixels along a side of one position, for each map from fine to coarse."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """Number of layers above the stem, for learning rates that decrease from layer to layer."""

    @abstractmethod
    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Features of all maps, (B, C, h, w) each, from fine to coarse."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Layer of a parameter, from 0 (the stem) to `layers`."""

    @abstractmethod
    def released_layer_of(self, name: str) -> int:
        """Layer of a parameter as `mmearth_model.evaluation.paper` counts it, from 0 to `layers` + 1."""

    @abstractmethod
    def with_drop_path(self, rate: float) -> Self:
        """Copy the encoder, with stochastic depth if its architecture has it."""

    @property
    def whole_batches(self) -> bool:
        """Whether the images of a batch influence each other in training, so that it must not be split into slices."""
        return False

    @property
    def out_channels(self) -> int:
        """Channels of the last map."""
        return self.channels[-1]

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU if there are none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def digest(self) -> str:
        """Digest of the weights and of `identity`."""
        content = hashlib.blake2b(self.identity.encode(), digest_size=16)
        for name, tensor in sorted(self.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return content.hexdigest()

    @property
    @abstractmethod
    def identity(self) -> str:
        """Text that determines, with the weights, what the encoder computes."""
