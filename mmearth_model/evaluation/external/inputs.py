"""Inputs of external encoders: normalised and clipped, or as stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mmearth_data import Modality
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.tasks.labelled import Batch


@dataclass(frozen=True, slots=True)
class Clipped:
    """Normalised images, clipped to a range in each band."""

    normaliser: Normaliser
    # low, high: (bands,) least and greatest value
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of the normaliser."""
        return self.normaliser.inputs

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """Those of the normaliser."""
        return self.normaliser.modalities

    @property
    def stored(self) -> tuple[str, ...]:
        """Those of the normaliser."""
        return self.normaliser.stored

    def images(self, batch: Batch, device: torch.device | str = "cpu") -> Tensor:
        """(B, bands, H, W) float32."""
        images = self.normaliser.images(batch, device)
        low, high = (images.new_tensor(part)[:, None, None] for part in (self.low, self.high))
        return images.clamp(low, high)

    def to_config(self) -> dict[str, Any]:
        """Normalisation and limits, JSON-ready."""
        return {**self.normaliser.to_config(), "low": list(self.low), "high": list(self.high)}


@dataclass(frozen=True, slots=True)
class Stored:
    """All bands of some modalities as stored, and a last channel with the product level if ``levelled``."""

    modalities: Mapping[str, Modality]
    levelled: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self.modalities)

    @property
    def stored(self) -> tuple[str, ...]:
        """All modalities."""
        return self.inputs

    def images(self, batch: Batch, device: torch.device | str = "cpu") -> Tensor:
        """(B, channels, H, W) float32: exact for the stored types of 16 bits and less, and for floats of 32 bits."""
        parts = [_stored(modality, batch[name]) for name, modality in self.modalities.items()]
        if self.levelled:
            level = torch.as_tensor(batch["tile"]["s2_level"]).float()[:, None, None, None]
            parts.append(level.expand(-1, 1, *parts[0].shape[2:]))
        return torch.cat(parts, dim=1).to(device)

    def to_config(self) -> dict[str, Any]:
        """Modalities, JSON-ready."""
        return {"stored": [modality.to_dict() for modality in self.modalities.values()], "levelled": self.levelled}


def _stored(modality: Modality, raw: Any) -> Tensor:  # noqa: ANN401 - an array or a tensor
    """Float values of a batch. Values of files are rounded to numbers that the type can store, other than no-data."""
    values = torch.as_tensor(np.asarray(raw, dtype=np.float32))
    if modality.dtype.kind not in "ui":
        return values
    missing = values == modality.nodata
    least, most = np.iinfo(modality.dtype).min, np.iinfo(modality.dtype).max
    whole = values.round().clamp(least, most)
    beside = modality.nodata + 1 if modality.nodata < most else modality.nodata - 1
    return torch.where((whole == modality.nodata) & ~missing, beside, whole)
