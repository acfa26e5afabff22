"""Convert stored arrays to normalised tensors on the device, with masks of observed values.

A batch has the values of the store (uint16 reflectances, class codes, degrees). It is copied to the device unchanged,
and everything else is computed there. Axes: B batch, C bands, H W pixels, S crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from mmearth_data import (
    NO_LEVEL,
    InputError,
    Kind,
    Modality,
    derived,
    published_missing_values,
    resolve_statistics,
    scale_of,
)
from mmearth_model.data.tiles import stored_batches
from mmearth_model.network.losses import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from mmearth_model.data.tiles import Tiles
    from mmearth_model.network.mpmae import Preset

    Array = np.ndarray[Any, Any]
    Batch = Mapping[str, Any]

LEVELS = ("L1C", "L2A")
"""Sentinel-2 level by its code in ``tile["s2_level"]``; any other code has none."""
UNKNOWN = -1
"""Class index of a code without a class, as in `Modality.class_code_index`."""
NATIVE_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Integer types with which torch computes on every device."""
SLICE_TILES = 4
"""Tiles normalised together on a CPU: few enough to stay in the cache over several passes."""

REFERENCE_MISSING_CODES: Mapping[str, tuple[int, ...]] = {"esa_worldcover": (10,)}
"""The released code maps WorldCover's codes to indices first and then drops index 0, its no-data: tree cover."""


@dataclass(frozen=True, slots=True)
class Normalised:
    """Inputs and targets of a batch."""

    images: Tensor  # (B, C, H, W) float32, z-scored, 0 where missing
    targets: dict[str, Target]


@dataclass(frozen=True, slots=True)
class Window:
    """Pixels of each tile that are used, and their order; the same for all modalities."""

    # rows, columns: (B, S) int64 pixel indices
    rows: Tensor
    columns: Tensor

    @classmethod
    def at(
        cls,
        top: Tensor,
        left: Tensor,
        size_px: int,
        *,
        flip_rows: Tensor | None = None,
        flip_columns: Tensor | None = None,
    ) -> Self:
        """Crop of ``size_px`` at (top, left), (B,) int64 each, mirrored where (B,) bool says so."""
        return cls(_span(top, size_px, flip_rows), _span(left, size_px, flip_columns))

    @classmethod
    def random(
        cls, batch: int, tile_px: int, size_px: int, generator: torch.Generator | None = None, *, flips: bool = False
    ) -> Self:
        """Crop every tile at a random position; with ``flips``, mirror each axis with probability 1/2."""
        _check_crop(tile_px, size_px)
        device = generator.device if generator is not None else "cpu"
        top, left = torch.randint(tile_px - size_px + 1, (2, batch), generator=generator, device=device)
        down, across = torch.randint(2, (2, batch), generator=generator, device=device).bool()
        return cls.at(top, left, size_px, flip_rows=down if flips else None, flip_columns=across if flips else None)

    @classmethod
    def centre(cls, batch: int, tile_px: int, size_px: int) -> Self:
        """Crop the middle of every tile."""
        _check_crop(tile_px, size_px)
        offset = torch.full((batch,), (tile_px - size_px) // 2)
        return cls.at(offset, offset, size_px)

    def to(self, device: torch.device | str) -> Self:
        """Move it to a device."""
        return type(self)(self.rows.to(device, non_blocking=True), self.columns.to(device, non_blocking=True))

    def take(self, values: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, S, S)."""
        samples = torch.arange(len(values), device=values.device)[:, None, None]
        return values.permute(0, 2, 3, 1)[samples, self.rows[:, :, None], self.columns[:, None, :]].permute(0, 3, 1, 2)


class Normaliser:
    """Converts raw batches into the model's inputs and targets.

    Parameters
    ----------
    modalities
        All modalities in use, as in the catalog (``model_bands`` determine what the model sees).
    statistics
        ``[split][modality][level or "-"][band]`` -> ``{count, mean, std, ...}``. ``train`` is used, or ``all`` if train
        has no values of a modality and level. A band that was never observed has no loss and is 0 as input.
    inputs
        Names of the modalities that feed the encoder, in the order of its channels.
    targets
        Names of the predicted modalities; by default none.
    missing_codes
        Modality -> class codes that count as missing (`REFERENCE_MISSING_CODES`).
    stand_ins
        Modality -> stored value, or class code, used as the target where nothing was observed (`reference_stand_ins`).
        A quantity stays marked as missing, whatever its value; a class counts as observed.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        statistics: Mapping[str, Any],
        *,
        inputs: Sequence[str],
        targets: Sequence[str] = (),
        missing_codes: Mapping[str, Sequence[int]] | None = None,
        stand_ins: Mapping[str, float] | None = None,
    ) -> None:
        known = {modality.name: modality for modality in modalities}
        _check_roles(known, inputs, targets)
        self.inputs, self.targets = tuple(inputs), tuple(targets)
        self.modalities = {name: known[name] for name in known if name in {*inputs, *targets}}
        self.missing_codes = {name: tuple(codes) for name, codes in (missing_codes or {}).items()}
        self.stand_ins = dict(stand_ins or {})
        self.statistics = {
            name: resolve_statistics(modality, statistics)
            for name, modality in self.modalities.items()
            if modality.kind.is_continuous
        }
        self._tables = {torch.device("cpu"): {name: self._table(m) for name, m in self.modalities.items()}}

    @classmethod
    def of_preset(
        cls,
        preset: Preset,
        modalities: Sequence[Modality],
        statistics: Mapping[str, Any],
        *,
        inputs: Sequence[str],
        targets: Sequence[str] = (),
    ) -> Self:
        """Normalise as a preset does; see the class for the rest."""
        if preset != "reference":
            return cls(modalities, statistics, inputs=inputs, targets=targets)
        codes = {name: codes for name, codes in REFERENCE_MISSING_CODES.items() if name in targets}
        stand_ins = reference_stand_ins(m for m in modalities if m.name in {*inputs, *targets})
        return cls(modalities, statistics, inputs=inputs, targets=targets, missing_codes=codes, stand_ins=stand_ins)

    @property
    def in_channels(self) -> int:
        """Bands of `Normalised.images`."""
        return sum(len(self.modalities[name].model_bands) for name in self.inputs)

    @property
    def levels(self) -> tuple[str, ...]:
        """Product levels for which the inputs have statistics; empty if these do not depend on the level."""
        inputs = [self.modalities[name] for name in self.inputs]
        known = [self.statistics[m.name] for m in inputs if m.statistics_by == "s2_level"]
        return tuple(
            level for level in LEVELS if any(e["count"] for found in known for e in found.get(level, {}).values())
        )

    @property
    def stored(self) -> tuple[str, ...]:
        """Modalities that a batch must contain."""
        return tuple(name for name, modality in self.modalities.items() if modality.stored)

    def __call__(self, batch: Batch, device: torch.device | str = "cpu", window: Window | None = None) -> Normalised:
        """Normalise a batch.

        Parameters
        ----------
        batch
            Stored modality -> array as stored, or tensor, (B, C, H, W), (B, C) or (B,); ``tile`` -> coordinates.
        device
            Device of the result.
        window
            Crop and flips.

        Raises
        ------
        InputError
            When the batch lacks a modality.
        """
        window = window.to(device) if window is not None else None
        both = {name: self._target(modality, batch, device, window) for name, modality in self.modalities.items()}
        images = torch.cat([self._shown(name, both[name]) for name in self.inputs], dim=1)
        return Normalised(images, {name: both[name] for name in self.targets})

    def images(self, batch: Batch, device: torch.device | str = "cpu", window: Window | None = None) -> Tensor:
        """Only the input, (B, in_channels, H, W) float32; see `__call__`."""
        window = window.to(device) if window is not None else None
        parts = ((name, self._target(self.modalities[name], batch, device, window)) for name in self.inputs)
        return torch.cat([self._shown(name, target) for name, target in parts], dim=1)

    def scales(self, name: str) -> Tensor:
        """(level, model band, [mean, 1 / std, usable]) float32 of a continuous modality; `LEVELS`, then one without a level."""
        return self._tables[torch.device("cpu")][name].clone()

    def prepare(self, tiles: Tiles, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """Check a batch, a tile or a store, and yield the input for it; see `images` and `ConvNeXtV2.preprocess`.

        Raises `InputError` if a modality or band is missing, or the values are already normalised.
        """
        inputs = [self.modalities[name] for name in self.inputs]
        for batch in stored_batches(tiles, inputs, self.modalities.values()):
            yield self.images(batch, device)

    def _shown(self, name: str, target: Target) -> Tensor:
        """Values for the encoder: 0 where missing, regardless of the target's stand-in."""
        return torch.where(target.valid, target.values, 0.0) if name in self.stand_ins else target.values

    def to_config(self) -> dict[str, Any]:
        """JSON-ready form with all that is needed without the store."""
        return {
            "modalities": [modality.to_dict() for modality in self.modalities.values()],
            "inputs": list(self.inputs),
            "targets": list(self.targets),
            "missing_codes": {name: list(codes) for name, codes in self.missing_codes.items()},
            "stand_ins": self.stand_ins,
            "statistics": {"train": self.statistics},
        }

    @classmethod
    def from_config(cls, entry: Mapping[str, Any]) -> Self:
        """Inverse of `to_config`. Raises `InputError` if something is missing."""
        try:
            return cls(
                [Modality.from_dict(modality) for modality in entry["modalities"]],
                entry["statistics"],
                inputs=entry["inputs"],
                targets=entry["targets"],
                missing_codes=entry["missing_codes"],
                stand_ins=entry.get("stand_ins"),  # checkpoints of earlier versions have none
            )
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise InputError(
                f"expected the normalisation of a checkpoint, got one that does not fit: {error}."
            ) from error

    def _table(self, modality: Modality) -> Tensor:
        """Class indices by stored code; or (level, band, [mean, 1 / std, usable]) float32."""
        if modality.kind.is_multi_label:
            return torch.empty(0)  # the stored 0 and 1 are the target
        if modality.kind.is_categorical:
            lookup = modality.class_code_index()
            lookup[list(self.missing_codes.get(modality.name, ()))] = UNKNOWN
            if modality.name in self.stand_ins:
                lookup[lookup == UNKNOWN] = lookup[int(self.stand_ins[modality.name])]
            return torch.from_numpy(lookup)
        levels = self.statistics[modality.name]
        keys = (*LEVELS, NO_LEVEL)
        rows = [[scale_of(levels.get(key, {}).get(band)) for band in modality.model_bands] for key in keys]
        return torch.tensor(rows, dtype=torch.float32)

    def _tables_on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._tables:
            host = self._tables[torch.device("cpu")]
            self._tables[device] = {name: table.to(device) for name, table in host.items()}
        return self._tables[device]

    def _target(self, modality: Modality, batch: Batch, device: torch.device | str, window: Window | None) -> Target:
        raw = _raw(modality, batch, device)
        if modality.kind.is_raster and window is not None:
            raw = window.take(raw)
        table = self._tables_on(raw.device)[modality.name]
        if modality.kind.is_categorical:
            classes = table[raw.long()]
            return Target(classes.clamp(min=0), classes != UNKNOWN)
        if modality.kind.is_multi_label:
            seen = raw[:, modality.band_indices(modality.model_bands)]
            observed = seen != modality.nodata
            return Target(torch.where(observed, seen, 0).float(), observed)
        scale = table[_levels(modality, batch, len(raw)).to(raw.device)]
        return _z_score(modality, raw, scale, self.stand_ins.get(modality.name))


def reference_stand_ins(modalities: Iterable[Modality]) -> dict[str, float]:
    """Find the stored values that the released code uses as targets where nothing was observed.

    The released code normalises first and looks for missing values afterwards, in units that no longer match. The fill
    values of the published files (ASTER -32768, canopy height 127, Sentinel-2 0) are therefore treated as ordinary
    quantities. Only values that are not finite (Sentinel-1) become the mean. A tile without a biome or ecoregion is a
    row of zeros, whose largest entry is the first: class 0.

    This applies to targets only. A missing input is 0 after normalising, as in the other presets, and a pixel without
    any band is treated as hidden. The released code intends the same, but uses the z-scored number of the file, and NaN
    where a value exactly equals the mean of its band. Its loss would then be NaN, so this is not reproduced.
    """
    published = published_missing_values()
    found: dict[str, float] = {}
    for m in modalities:
        if m.kind is Kind.TILE_CATEGORICAL:
            found[m.name] = m.classes[0].code
        elif m.kind is Kind.RASTER_CONTINUOUS and math.isfinite(published.get(m.name, math.nan)):
            found[m.name] = published[m.name]
    return found


def cut_bands(modality: Modality, bands: Sequence[str]) -> Modality:
    """Let the model see some bands only, in the given order.

    Raises `InputError` when they are not different bands of a continuous modality.
    """
    unknown = [band for band in bands if band not in modality.bands]
    if unknown or len(set(bands)) < len(bands) or not modality.kind.is_continuous:
        raise InputError(
            f"--bands: expected different bands of a continuous modality, got {', '.join(bands)} of {modality.name} "
            f"({modality.kind}), which has {', '.join(modality.bands)}."
        )
    return replace(modality, model_bands=tuple(bands))


def _check_roles(known: Mapping[str, Modality], inputs: Sequence[str], targets: Sequence[str]) -> None:
    missing = [name for name in (*inputs, *targets) if name not in known]
    if missing or not inputs:
        raise InputError(
            f"expected an input and targets among {', '.join(known)}, got {list(inputs)} and {list(targets)}; "
            "build a store that has them, or leave them out."
        )
    for name in inputs:
        if known[name].kind is not Kind.RASTER_CONTINUOUS:
            raise InputError(f"expected inputs of kind raster/continuous, got {name} ({known[name].kind}).")
    for name in targets:
        if known[name].kind is Kind.RASTER_MASK:
            raise InputError(f"expected targets that can be learned, got {name} ({known[name].kind}); leave it out.")


def _span(start: Tensor, size_px: int, flip: Tensor | None) -> Tensor:
    steps = torch.arange(size_px, device=start.device)
    if flip is None:
        return start[:, None] + steps
    return start[:, None] + torch.where(flip[:, None], size_px - 1 - steps, steps)


def _check_crop(tile_px: int, size_px: int) -> None:
    if not 0 < size_px <= tile_px:
        raise InputError(
            f"expected a crop of at most the tiles' {tile_px} px, got {size_px}; choose a smaller image size."
        )


def _raw(modality: Modality, batch: Batch, device: torch.device | str) -> Tensor:
    """Copy the stored array to the device, in a type with which torch computes (its support of uint16 is limited)."""
    if not modality.stored:
        return torch.from_numpy(derived(modality, batch["tile"])).to(device)
    if modality.name not in batch:
        raise InputError(f"expected {modality.name} in the batch, got {', '.join(batch)}; load that modality too.")
    values = batch[modality.name]
    if not isinstance(values, torch.Tensor):
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    tensor = values.to(device, non_blocking=True)
    if tensor.is_floating_point():
        return tensor.float()
    # Torch lacks arithmetic with unsigned types; on a CPU, they are only copied and compared.
    if tensor.device.type == "cpu" or tensor.dtype in NATIVE_TYPES:
        return tensor
    return tensor.to(torch.int32 if tensor.itemsize <= 2 else torch.int64)


def _levels(modality: Modality, batch: Batch, tiles: int) -> Tensor:
    """Row of the scale table for each tile; the last one if there is no level in the statistics or the tile."""
    if modality.statistics_by != "s2_level":
        return torch.full((tiles,), len(LEVELS))
    return torch.as_tensor(batch["tile"]["s2_level"]).long().clamp(max=len(LEVELS))


def _z_score(modality: Modality, raw: Tensor, scale: Tensor, stand_in: float | None = None) -> Target:
    """Normalise (B, C, ...) stored values with (B, model bands, 3) scales, for the model bands."""
    if modality.model_bands != modality.bands:
        raw = raw[:, modality.band_indices(modality.model_bands)]
    mean, inverse_std, usable = scale.reshape(*scale.shape[:2], *(1,) * (raw.ndim - 2), 3).unbind(-1)
    values = torch.empty(raw.shape, dtype=torch.float32, device=raw.device)
    valid = torch.empty(raw.shape, dtype=torch.bool, device=raw.device)
    step = SLICE_TILES if raw.device.type == "cpu" else max(1, len(raw))
    for first in range(0, len(raw), step):
        some = slice(first, first + step)
        part, observed = values[some].copy_(raw[some]), valid[some]
        if math.isnan(modality.nodata):
            torch.logical_not(torch.isnan(part), out=observed)
        else:
            torch.ne(raw[some], modality.nodata, out=observed)
        if stand_in is not None:
            part.masked_fill_(~observed, stand_in)
        known = usable[some] > 0
        observed &= known
        kept = observed if stand_in is None else known
        part.sub_(mean[some]).mul_(inverse_std[some]).masked_fill_(~kept, 0.0)
    return Target(values, valid)
