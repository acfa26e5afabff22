"""Features of the samples of a task by a frozen encoder, cached on disk by a digest of all that determines them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from mmearth_data import InputError, staged_array
from mmearth_model.data.targets import LEVELS, Normaliser
from mmearth_model.network.pooling import pooled_features, whole_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.network.backbone import Backbone
    from mmearth_model.tasks import LabelledSet
    from mmearth_model.tasks.labelled import Batch

READ_TILES = 64
"""Tiles that are read together."""


class ImageInput(Protocol):
    """Makes the input of an encoder of raw batches; a `Normaliser` is one."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the channels."""
        ...

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """The modalities, whose ``model_bands`` are the bands that are used."""
        ...

    @property
    def stored(self) -> tuple[str, ...]:
        """Modalities that a batch must contain."""
        ...

    def images(self, batch: Batch, device: torch.device | str = "cpu") -> torch.Tensor:
        """(B, channels, H, W) float32 on a device, of a batch with values as stored."""
        ...

    def to_config(self) -> dict[str, Any]:
        """All that determines the images, JSON-ready."""
        ...


class Images(Protocol):
    """Images that can be read; an `ImageSource` is one."""

    @property
    def digest(self) -> str:
        """Digest of the images."""
        ...

    def __len__(self) -> int: ...

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches of the given images, in their order; see `ImageSource`."""
        ...


class Extractor(Protocol):
    """Computes features of images."""

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        ...

    @property
    def digest(self) -> str:
        """Digest of all that determines the features of an image."""
        ...

    def __call__(self, images: torch.Tensor) -> NDArray[np.float32]:
        """(B, channels, H, W) images of an `ImageInput` to (B, width)."""
        ...


@dataclass(frozen=True, slots=True)
class Pooled:
    """Global average of an encoder's last map; the encoder is in evaluation mode, on its device."""

    encoder: Backbone

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.encoder.out_channels

    @property
    def digest(self) -> str:
        """Digest of the encoder."""
        return self.encoder.digest

    def __call__(self, images: torch.Tensor) -> NDArray[np.float32]:
        """(B, bands, H, W) to (B, width); images are cropped to whole patches."""
        return pooled(self.encoder, whole_patches(self.encoder, images))


def extract(
    extractor: Extractor,
    reading: ImageInput,
    images: Images,
    device: torch.device,
    *,
    cache: Path | None = None,
    report: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Features of every sample, (N, D) float32, in one array: filled in place, or mapped from the folder ``cache``.

    Inputs are computed on ``device``; ``report`` is called with the number of samples of every batch.
    """
    file = None if cache is None else cache / f"{features_key(extractor, reading, images)}.npy"
    if file is not None and file.is_file():
        if report is not None:
            report(len(images))
        found: NDArray[np.float32] = np.load(file, mmap_mode="r")
        return found
    shape = (len(images), extractor.width)
    if file is None:
        values = np.empty(shape, dtype=np.float32)
        _fill(values, extractor, reading, images, device, report)
        return values
    with staged_array(file, np.float32, shape) as mapped:
        _fill(mapped, extractor, reading, images, device, report)
    return mapped


def features_key(extractor: Extractor, reading: ImageInput, images: Images) -> str:
    """Digest of all that decides the features."""
    parts = [extractor.digest, json.dumps(reading.to_config(), sort_keys=True), images.digest]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _fill(
    values: NDArray[np.float32],
    extractor: Extractor,
    reading: ImageInput,
    images: Images,
    device: torch.device,
    report: Callable[[int], None] | None,
) -> None:
    filled = 0
    for batch in images.batches(np.arange(len(images), dtype=np.intp), READ_TILES, reading.stored):
        tiles = len(batch["tile"]["tile_id"])
        values[filled : filled + tiles] = extractor(reading.images(batch, device))
        filled += tiles
        if report is not None:
            report(tiles)


def input_normaliser(of_encoder: Normaliser, task: LabelledSet) -> Normaliser:
    """Normaliser of an encoder's input: with the task's own statistics if it has any, else with the checkpoint's.

    Raises `InputError` if the images lack what the encoder takes (see `check_bands`), or if the checkpoint's statistics
    are used and lack a product level of the images.
    """
    check_bands(of_encoder, task)
    fit = task.images.own_normaliser
    if fit is None:
        codes = levels_of(task, np.arange(len(task.images), dtype=np.intp))
        with_level = codes[codes < len(LEVELS)]  # among samples with a level, one without it lacks these images
        codes = with_level if len(with_level) else codes
        remedy = "samples; choose other images or another checkpoint"
        check_levels(of_encoder, "the checkpoint", codes, task.name, remedy)
    modalities = [of_encoder.modalities[name] for name in of_encoder.inputs]
    statistics = of_encoder.statistics if fit is None else _with_stand_ins(fit(task.parts.train).statistics, task)
    return Normaliser(modalities, {"train": statistics}, inputs=of_encoder.inputs)


def _with_stand_ins(statistics: Mapping[str, Any], task: LabelledSet) -> dict[str, Any]:
    """Use the statistics of the replacement for a replaced band, because the values are the replacement's."""
    found: dict[str, Any] = {}
    for name, levels in statistics.items():
        pairs = task.images.stand_ins.get(name, {}).items()
        found[name] = {
            level: bands | {band: bands[source] for band, source in pairs if source in bands}
            for level, bands in levels.items()
        }
    return found


def missing_bands(reading: ImageInput, task: LabelledSet) -> tuple[str, ...]:
    """Bands that the encoder takes and the task lacks: ``sentinel2.B10``, or ``sentinel2.B1 from B2`` if replaced."""
    return tuple(
        f"{name}.{band} from {stand_ins[band]}" if band in stand_ins else f"{name}.{band}"
        for name in reading.inputs
        for stand_ins in (task.images.stand_ins.get(name, {}),)
        for band in reading.modalities[name].model_bands
        if band not in task.images.found_bands(reading.modalities[name])
    )


def check_bands(reading: ImageInput, task: LabelledSet) -> None:
    """Refuse images that lack what an encoder takes."""
    images, wanted = task.images, [reading.modalities[name] for name in reading.inputs]
    for m in wanted:
        found = images.modalities.get(m.name)
        if found is None and not images.fills_missing:
            raise InputError(
                f"{images.origin}: expected {m.name}, which the encoder takes, got {', '.join(images.modalities)}; choose "
                "another store or checkpoint."
            )
        if found is not None and (found.bands != m.bands or (found.dtype != m.dtype and not images.fills_missing)):
            raise InputError(
                f"{images.origin}: expected {m.name} as in the checkpoint ({', '.join(m.bands)}; {m.dtype}), got "
                f"{', '.join(found.bands)}; {found.dtype}; use the same catalog entry."
            )
    if not any(images.found_bands(m) for m in wanted):
        have, takes = (
            "; ".join(f"{name} ({', '.join(bands)})" for name, bands in pairs)
            for pairs in (
                [(m.name, images.found_bands(m)) for m in images.modalities.values()],
                [(m.name, m.model_bands) for m in wanted],
            )
        )
        raise InputError(
            f"{task.name}: expected a checkpoint that takes {have}, got one that takes {takes}; choose another checkpoint."
        )


@torch.inference_mode()
def pooled(encoder: Backbone, images: torch.Tensor) -> NDArray[np.float32]:
    """(B, bands, H, W) to (B, D): global average of the last map."""
    features: NDArray[np.float32] = pooled_features(encoder, images).cpu().numpy()
    return features


def check_levels(normaliser: Normaliser, owner: str, codes: NDArray[Any], name: object, remedy: str) -> None:
    """Refuse images of a product level that has no statistics, because all their values would count as missing.

    ``owner`` names the checkpoint or network that the statistics belong to. ``codes`` (N,) are the level codes of the
    images of ``name``, a task or a store. ``remedy`` ends the message: what the images are, and what to do.
    """
    by_level = [m for m in map(normaliser.modalities.get, normaliser.inputs) if m and m.statistics_by]
    if not by_level:
        return
    known = {LEVELS.index(level) for level in normaliser.levels} if normaliser.levels else {len(LEVELS)}
    codes = np.minimum(codes, len(LEVELS))
    names = (*LEVELS, "no level")
    wrong = sorted({int(code) for code in codes} - known)
    if wrong:
        raise InputError(
            f"{name}: expected images of {' or '.join(names[code] for code in sorted(known))}, for which {owner} "
            f"has {by_level[0].name} statistics, got {' and '.join(names[code] for code in wrong)} in "
            f"{int(np.isin(codes, wrong).sum())} of {len(codes)} {remedy}."
        )


def levels_of(task: LabelledSet, rows: NDArray[np.intp]) -> NDArray[Any]:
    """(N,) product-level codes of the samples ``rows``."""
    levels = task.images.coords.get("s2_level")
    if levels is not None:
        return np.asarray(levels[rows])
    (batch,) = task.images.batches(rows[:1], 1, tuple(task.images.modalities))  # all have the same level
    return np.repeat(np.asarray(batch["tile"]["s2_level"]), len(rows))
