"""Choose the statistics that normalise a modality, and compute z-scores of stored arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

NO_LEVEL = "-"
"""Key of statistics that do not depend on the level of the scene."""
MIN_STD = 1e-6
"""A band with a smaller standard deviation is only centred."""


def resolve_statistics(
    modality: Modality, statistics: Mapping[str, Any], bands: Sequence[str] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Level -> band -> {count, mean, std}: of the train split, or of all rows if it has none of a level.

    Parameters
    ----------
    modality
        Modality to normalise.
    statistics
        ``[split][modality][level or "-"][band]`` -> ``{count, mean, std, ...}``, as `Store.statistics`.
    bands
        Requested bands; by default, those that the model sees.
    """
    resolved: dict[str, dict[str, dict[str, Any]]] = {}
    for split in ("all", "train"):
        for level, entries in statistics.get(split, {}).get(modality.name, {}).items():
            if level not in resolved or any(entry["count"] for entry in entries.values()):
                resolved[level] = {
                    band: {key: entries[band][key] for key in ("count", "mean", "std")}
                    for band in (modality.model_bands if bands is None else bands)
                    if band in entries
                }
    return resolved


def scale_of(entry: Mapping[str, Any] | None) -> tuple[float, float, float]:
    """Mean, 1 / std, and whether the band was ever observed (1 or 0)."""
    if entry is None or not entry["count"]:
        return (0.0, 1.0, 0.0)
    return (entry["mean"], 1 / entry["std"] if entry["std"] >= MIN_STD else 1.0, 1.0)


def z_score(values: Any, mean: Any, inverse_std: Any) -> Any:  # noqa: ANN401 - numbers or arrays
    """(value - mean) * (1 / std) in float32, for numbers and for arrays."""
    return (np.float32(values) - mean) * inverse_std


@dataclass(frozen=True, slots=True)
class Scaling:
    """Z-score of one modality's stored values, on the CPU.

    Attributes
    ----------
    nodata
        Stored value that means "never observed".
    by_level
        Whether the table depends on the level of the scene.
    table
        (levels, bands, 2) float32: mean and 1 / std, NaN for a band that was never observed; the last level means "none".
    """

    nodata: float
    by_level: bool
    table: NDArray[np.float32]

    @classmethod
    def of(cls, modality: Modality, statistics: Mapping[str, Any], bands: Sequence[str]) -> Self:
        """Scaling of some bands by the statistics of `resolve_statistics`."""
        levels = resolve_statistics(modality, statistics, bands)
        keys = (*(LEVEL_NAMES[code] for code in sorted(LEVEL_NAMES)), NO_LEVEL)
        scales = np.array([[scale_of(levels.get(key, {}).get(band)) for band in bands] for key in keys], np.float32)
        table = np.where(scales[..., 2:] == 0, np.float32(np.nan), scales[..., :2])
        return cls(modality.nodata, modality.statistics_by == "s2_level", table)

    def scales(self, levels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """(n, bands, 2) rows of the table for the levels of (n,) tiles."""
        last = len(self.table) - 1
        chosen = np.minimum(levels, last) if self.by_level else np.full(len(levels), last)
        return np.asarray(self.table[chosen], dtype=np.float32)

    def apply(self, raw: np.ndarray[Any, Any], levels: NDArray[np.integer[Any]], out: NDArray[np.float32]) -> None:
        """Normalise (n, bands, ...) stored values of tiles to float32, NaN where nothing was observed."""
        mean, inverse_std = np.moveaxis(self.scales(levels), 2, 0).reshape(2, *raw.shape[:2], *(1,) * (raw.ndim - 2))
        missing = raw == raw.dtype.type(self.nodata)
        np.copyto(out, np.where(missing, np.float32(np.nan), z_score(raw, mean, inverse_std)))
