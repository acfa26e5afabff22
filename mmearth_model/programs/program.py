"""The computation of an exported program, from stored values to features or predictions.

All steps are tensor operations whose shapes follow from those of the input, so that a tracer can record them for any batch
size and image size. Axes: B batch, C bands, H W pixels, K outputs, D features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from mmearth_model.data.targets import LEVELS, NATIVE_TYPES
from mmearth_model.tasks import TaskKind
from mmearth_model.training.layout import LEVEL

if TYPE_CHECKING:
    from torch import Tensor

    from mmearth_data import Modality
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.heads.network import Network
    from mmearth_model.network.encoder import ConvNeXtV2


class Pooled(nn.Module):
    """Features of whole images."""

    def __init__(self, encoder: ConvNeXtV2) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) to ``features`` (B, D)."""
        return {"features": self.encoder(images).mean(dim=(-2, -1))}


class LastMap(nn.Module):
    """The last feature map."""

    def __init__(self, encoder: ConvNeXtV2) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) to ``features`` (B, D, H / patch, W / patch)."""
        return {"features": self.encoder(images)}


class Answers(nn.Module):
    """Answers of a network: what `Network.probabilities` and `Network.answers` compute, as tensors."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.module
        self.kind = network.kind
        mean, deviation = (torch.from_numpy(part) for part in network.scale)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.register_buffer("codes", torch.from_numpy(network.codes))

    mean: Tensor
    deviation: Tensor
    codes: Tensor

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) to answers by name, float32 or int64; see `mmearth_model.programs.describing`."""
        raw = self.network(images)
        if self.kind.continuous:
            quantities = (raw[:, 0] if self.kind.per_pixel else raw).double() * self.deviation + self.mean
            return {"quantities": quantities.float()}
        if self.kind is TaskKind.MULTI_LABEL:
            return {"probabilities": raw.sigmoid().float(), "labels": (raw > 0).long()}
        return {"probabilities": raw.softmax(dim=1).float(), "classes": self.codes[raw.argmax(dim=1)]}


class Program(nn.Module):
    """Normalisation and a network.

    Parameters
    ----------
    head
        Normalised images (B, in_channels, H, W), whose sides are multiples of ``patch_px``, to outputs by name.
    normaliser
        Its inputs and their statistics.
    patch_px
        See ``head``.
    level
        Product level of all images; None makes it an input, if the statistics depend on it.
    """

    def __init__(self, head: nn.Module, normaliser: Normaliser, *, patch_px: int, level: str | None = None) -> None:
        super().__init__()
        self.head = head
        self.modalities = tuple(normaliser.modalities[name] for name in normaliser.inputs)
        self.patch_px = patch_px
        self.fixed = None if level is None else LEVELS.index(level)
        for modality in self.modalities:
            self.register_buffer(f"scales_{modality.name}", normaliser.scales(modality.name))

    @property
    def takes_level(self) -> bool:
        """Whether the product level is an input."""
        return self.fixed is None and any(m.statistics_by == "s2_level" for m in self.modalities)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs.

        Parameters
        ----------
        inputs
            Modality -> (B, C, H, W), all stored bands in the type of the store; ``level`` -> (B,) int64, position in
            `LEVELS`, where `takes_level`.

        Returns
        -------
        dict
            Output -> its values.
        """
        images = torch.cat([self._normalised(m, inputs) for m in self.modalities], dim=1)
        outputs: dict[str, Tensor] = self.head(images)
        return outputs

    def _normalised(self, modality: Modality, inputs: dict[str, Tensor]) -> Tensor:
        """(B, model bands, H, W) z-scores, 0 where missing; equal to `Normaliser.images`.

        They are computed patch by patch, so that every runtime refuses sides that are not multiples of a patch: an ONNX
        file cannot state this rule otherwise, and most of its operations would silently drop the last pixels.
        """
        raw = inputs[modality.name]
        if modality.model_bands != modality.bands:
            raw = raw[:, modality.band_indices(modality.model_bands)]
        if not raw.is_floating_point() and raw.dtype not in NATIVE_TYPES:  # torch compares few unsigned types
            raw = raw.to(torch.int32 if raw.itemsize <= 2 else torch.int64)
        for axis in (3, 2):
            raw = raw.unflatten(axis, (-1, self.patch_px))  # type: ignore[no-untyped-call]
        observed = ~torch.isnan(raw) if math.isnan(modality.nodata) else raw != int(modality.nodata)
        mean, inverse_std, usable = self._scales(modality, inputs)[:, :, None, None, None, None].unbind(-1)
        images = torch.where(observed & (usable > 0), (raw.float() - mean) * inverse_std, 0.0)
        return images.flatten(4, 5).flatten(2, 3)

    def _scales(self, modality: Modality, inputs: dict[str, Tensor]) -> Tensor:
        """(B or 1, model bands, [mean, 1 / std, usable]) of the images' levels."""
        scales = self.get_buffer(f"scales_{modality.name}")
        none = len(LEVELS)
        if modality.statistics_by != "s2_level":
            return scales[none:]
        if self.fixed is not None:
            return scales[self.fixed : self.fixed + 1]
        level = inputs[LEVEL]
        return scales[torch.where((level >= 0) & (level < none), level, none)]
