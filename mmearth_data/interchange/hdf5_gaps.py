"""Missing values in an export: how the released code treats them, and how means replace them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.interchange.form import PublishedArray
    from mmearth_data.store.reader import Store

MEAN = "mean"


def summary_of(store: Store, modality: str, level: str, band: str) -> Mapping[str, Any] | None:
    """Statistics of a band over the train split; over all tiles if the train split has none; else None."""
    for split in ("train", "all"):
        entry: Mapping[str, Any] | None = store.statistics[split].get(modality, {}).get(level, {}).get(band)
        if entry and entry["count"]:
            return entry
    return None


def check_fill(
    fill: Mapping[str, str], arrays: Mapping[str, PublishedArray], modalities: Mapping[str, Modality]
) -> None:
    """Refuse, in ``fill`` (modality -> ``mean``), modalities that cannot be filled, and other words.

    Raises
    ------
    InputError
        With the modality or the word.
    """
    can = [name for name in arrays if modalities[name].kind.is_continuous and modalities[name].stored]
    for name, word in fill.items():
        if name not in can:
            raise InputError(
                f"--fill: expected a continuous modality of the export ({', '.join(can) or 'it holds none'}), got "
                f"{name!r}."
            )
        if word != MEAN:
            raise InputError(f"--fill: expected {name}=mean, got {name}={word}.")


class Means:
    """Means of the bands of one continuous modality over the train split, or over all tiles if that has none.

    Attributes
    ----------
    values
        (levels + 1, bands) float64, indexed by the code of the Sentinel-2 level; the last row is for tiles without a
        level. Rounded half away from zero if the store holds integers; NaN where nothing was observed.
    """

    def __init__(self, store: Store, modality: Modality) -> None:
        self.modality = modality
        by_level = modality.statistics_by == "s2_level"
        levels = [LEVEL_NAMES[code] if by_level else "-" for code in sorted(LEVEL_NAMES)]
        self.levels = (*levels, "-")
        self.values = np.array([[self._mean(store, level, band) for band in modality.bands] for level in self.levels])

    def _mean(self, store: Store, level: str, band: str) -> float:
        entry = summary_of(store, self.modality.name, level, band)
        if entry is None:
            return math.nan
        mean = float(entry["mean"])
        return mean if self.modality.dtype.kind == "f" else math.copysign(math.floor(abs(mean) + 0.5), mean)

    def fill(self, values: np.ndarray[Any, Any], level: NDArray[np.uint8]) -> np.ndarray[Any, Any]:
        """Replace missing values in (n, band, ...) stored values of tiles with (n,) level codes."""
        means = self.values[np.minimum(level, len(self.levels) - 1)].reshape(
            *values.shape[:2], *(1,) * (values.ndim - 2)
        )
        gone = ~self.modality.observed(values) & np.isfinite(means)
        return np.where(gone, np.nan_to_num(means).astype(values.dtype), values)

    def describe(self, count: int) -> str:
        """Describe in one sentence what is written for missing values."""
        rows = {
            level: row for level, row in zip(self.levels, self.values.tolist(), strict=True) if np.isfinite(row).any()
        }
        parts = [
            (f"{level}: " if level != "-" else "")
            + ", ".join(f"{b} {x:.6g}" for b, x in zip(self.modality.bands, row, strict=True) if math.isfinite(x))
            for level, row in rows.items()
        ]
        means = "; ".join(parts) or "nothing was observed, so they stay missing"
        rounded = "" if self.modality.dtype.kind == "f" else ", rounded"
        return f"{self.modality.name}: {count:,} missing values are written as the mean of the train split{rounded} ({means})."


def taken_for_values(
    store: Store, arrays: Mapping[str, PublishedArray], filled: Sequence[str]
) -> dict[str, tuple[int, float]]:
    """Count the missing values that the released training code treats as data.

    It normalises before it looks for missing values, and then recognises only those that are not finite.

    Returns
    -------
    dict
        Modality -> (missing values in the bands that models see, the number written for them), without counts
        of 0.
    """
    found = {}
    for name, array in arrays.items():
        m = store.modalities[name]
        if m.kind.is_continuous and m.stored and math.isfinite(array.fill) and name not in filled:
            count = missing_values(store, m)
            if count:
                found[name] = (count, array.fill)
    return found


def missing_values(store: Store, m: Modality) -> int:
    """Count missing values of a continuous modality, in the bands that models see."""
    levels = store.statistics["all"].get(m.name, {}).values()
    seen = sum(entries[band]["count"] for entries in levels for band in m.model_bands if band in entries)
    pixels = store.layout.size_px**2 if m.kind.is_raster else 1
    tiles = int(np.count_nonzero(store.content.column("tile_id")))
    return int(tiles * pixels * len(m.model_bands) - seen)


def warning_of(found: Mapping[str, tuple[int, float]]) -> str:
    """Format the counts of `taken_for_values` in one line."""
    counts = ", ".join(f"{count:,} of {name} ({number:g})" for name, (count, number) in found.items())
    options = " ".join(f"--fill {name}=mean" for name in found)
    return f"Missing values that the released training code treats as data: {counts}; {options} replaces them."
