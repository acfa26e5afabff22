"""Baselines for a pretrained encoder: features without training, and weights trained on other images.

Random convolutional features are those of Rolf et al., *A generalizable and accessible approach to machine learning
with global satellite imagery*, Nature Communications 2021 (MOSAIKS), after Coates and Ng: random patches of the
training images, whitened, are the filters of one convolution.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from mmearth_data import FileInputError, InputError
from mmearth_model.data.targets import Normaliser
from mmearth_model.devices import slice_length
from mmearth_model.weights.checkpoints import encoder_of_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from mmearth_data import Modality
    from mmearth_model.network.encoder import ConvNeXtV2
    from mmearth_model.tasks import LabelledSet

STATISTICS = "image statistics"
RCF = "random convolutional features"
CONVNEXT = "ConvNeXt V2"

PERCENTILES = (5, 25, 50, 75, 95)
FILTERS = 512
FILTER_PX = (3, 5, 7)
"""Sides of the filters, a third of them each."""
PATCHES = 20_000
"""Random patches whose covariance defines the whitening."""
PATCH_IMAGES = 500
WHITENING = 1e-3
"""Added to the variance of each principal direction, relative to the patches' variance; weaker directions are noise."""
BIAS = 0.5
"""Threshold of the responses, whose filters have unit length after whitening: the best of 0.2, 0.5 and 1 on the
validation images of EuroSAT.
"""
IMAGES_TOGETHER = 1
"""Images per convolution on a CPU: the responses of one fit into the cache, three times as fast as four (measured)."""


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Mean, deviation, minimum, maximum and `PERCENTILES` of every band."""

    bands: int

    @property
    def width(self) -> int:
        """Nine statistics per band."""
        return (4 + len(PERCENTILES)) * self.bands

    @property
    def digest(self) -> str:
        """Number of bands, and the statistics, which determine the features."""
        return f"{STATISTICS} {self.bands}: mean, deviation, minimum, maximum, percentiles {PERCENTILES}"

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """(B, bands, H, W) to (B, width)."""
        parts = torch.split(images.flatten(2), slice_length(images.device, len(images)))
        found = torch.cat([self._some(part) for part in parts])
        values: NDArray[np.float32] = found.float().cpu().numpy()
        return values

    def _some(self, flat: Tensor) -> Tensor:
        """(B, bands, pixels) to (B, width); percentiles are interpolated as by numpy."""
        ranked = flat.sort(dim=-1).values
        found = [flat.mean(-1), flat.std(-1), ranked[..., 0], ranked[..., -1]]
        for percentile in PERCENTILES:
            below, share = divmod(percentile * (flat.shape[-1] - 1), 100)
            above = min(below + 1, flat.shape[-1] - 1)
            found.append(torch.lerp(ranked[..., below], ranked[..., above], share / 100))
        return torch.cat(found, dim=1)


@dataclass(frozen=True, slots=True)
class RandomFilters:
    """One convolution with whitened patches as filters; mean excess of the response over a threshold, in both directions."""

    filters: tuple[Tensor, ...]  # (F, bands, k, k) each
    offsets: tuple[Tensor, ...]  # (F,) each: bias that subtracts the mean patch

    @property
    def width(self) -> int:
        """Two features per filter."""
        return 2 * sum(len(part) for part in self.filters)

    @property
    def digest(self) -> str:
        """Digest of the filters and of the threshold."""
        content = hashlib.blake2b(f"mean excess over {BIAS} in both directions".encode(), digest_size=16)
        for part in (*self.filters, *self.offsets):
            content.update(part.numpy().tobytes())
        return content.hexdigest()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """(B, bands, H, W) to (B, width)."""
        each = IMAGES_TOGETHER if images.device.type == "cpu" else len(images)
        parts = [self._some(part) for part in torch.split(images, each)]
        values: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
        return values

    def _some(self, images: Tensor) -> Tensor:
        found = []
        for filters, offsets in zip(self.filters, self.offsets, strict=True):
            over = functional.conv2d(images, filters.to(images.device), offsets.to(images.device) - BIAS).flatten(2)
            found.append(over.clamp_min(0).mean(-1))
            found.append(-over.add_(2 * BIAS).clamp_(max=0).mean(-1))  # in place: the response plus the threshold
        return torch.cat(found, dim=1)

    @classmethod
    def draw(cls, task: LabelledSet, normaliser: Normaliser, seed: int) -> RandomFilters:
        """Choose random filters from the training images of a task; deterministic in the seed."""
        rng = np.random.default_rng([seed, 11])
        chosen = rng.permutation(task.parts.train)[:PATCH_IMAGES]
        batches = task.images.batches(np.sort(chosen), 64, normaliser.stored)
        images = torch.cat([normaliser.images(batch) for batch in batches])
        counts = [len(part) for part in np.array_split(np.arange(FILTERS), len(FILTER_PX))]
        sides = [min(side, *images.shape[-2:]) for side in FILTER_PX]
        pairs = [_whitened_filters(images, side, count, rng) for side, count in zip(sides, counts, strict=True)]
        return cls(tuple(f for f, _ in pairs), tuple(o for _, o in pairs))


def _whitened_filters(images: Tensor, side: int, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return filters and offsets with which a convolution is the product of a whitened patch with a whitened unit patch."""
    which = rng.integers(len(images), size=PATCHES)
    tops, lefts = (rng.integers(images.shape[axis] - side + 1, size=PATCHES) for axis in (2, 3))
    patches = torch.stack(
        [images[i, :, t : t + side, left : left + side] for i, t, left in zip(which, tops, lefts, strict=True)]
    )
    x = patches.flatten(1).double()
    mean = x.mean(0)
    scale = (x - mean).std().clamp(min=1e-9)
    values, vectors = torch.linalg.eigh(torch.cov(((x - mean) / scale).T))
    whiten = (vectors * (values.clamp(min=0) + WHITENING).rsqrt()) @ vectors.T / scale
    units = functional.normalize((x[:count] - mean) @ whiten, dim=1)
    filters = units @ whiten
    return filters.reshape(count, images.shape[1], side, side).float(), -(filters @ mean).float()


def own_input(task: LabelledSet) -> Normaliser:
    """Normalise a task's images without a checkpoint: by its training samples, or by the statistics of its store.

    Raises `InputError` when a store has no modality that can be an input.
    """
    images = task.images
    if images.own_normaliser is not None:
        return images.own_normaliser(task.parts.train)
    if images.recorded_statistics is None:
        raise InputError(f"{task.name}: expected a checkpoint to normalise by, got none; set normalise: task.")
    inputs = [m for m in images.modalities.values() if m.input]
    if not inputs:
        raise InputError(
            f"{images.origin}: expected a modality that can be an input, got {', '.join(images.modalities)}."
        )
    return Normaliser(inputs, images.recorded_statistics, inputs=[m.name for m in inputs])


def load_convnext(path: Path, modality: Modality) -> tuple[ConvNeXtV2, Modality]:
    """Load plain ConvNeXt V2 weights, as published by its authors or timm, and the modality reduced to its RGB bands.

    Raises `FileInputError` when the file has another architecture or number of bands.
    """
    encoder = encoder_of_file(path)
    bands, stem = encoder.config.in_channels, encoder.config.stem
    if bands != len(modality.display.bands) or stem == "modified":
        raise FileInputError(
            path,
            f"expected weights of a plain ConvNeXt V2 for red, green and blue, got an encoder with {bands} bands and "
            f"the {stem} stem; convert it and evaluate the checkpoint.",
        )
    return encoder, replace(modality, model_bands=modality.display.bands)
