"""The functions of `mmearth_data.store.counting` in NumPy, for machines without numba: same results, to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LANES = 128
"""Sums that `mmearth_data.store.counting` keeps side by side; they decide the order in which numbers are added."""


def tally(values: np.ndarray[Any, Any], rows: NDArray[np.intp], band: int, counts: NDArray[np.int64]) -> None:
    """See `mmearth_data.store.counting.tally`."""
    for row in rows:
        counts += np.bincount(values[row, band], minlength=len(counts))


def tally_tiles(
    values: np.ndarray[Any, Any], rows: NDArray[np.intp], pixels: NDArray[np.int64], tiles: NDArray[np.int64]
) -> None:
    """See `mmearth_data.store.counting.tally_tiles`."""
    for row in rows:
        found = np.bincount(values[row], minlength=len(pixels))
        pixels += found
        tiles += found > 0


def measure(
    values: NDArray[np.float32],
    rows: NDArray[np.intp],
    band: int,
    low: float,
    high: float,
    histogram: NDArray[np.int64],
    found: NDArray[np.float64],
) -> None:
    """See `mmearth_data.store.counting.measure`."""
    count, mean, m2, least, most = 0, 0.0, 0.0, np.inf, -np.inf
    for row in rows:
        pixels = values[row, band].astype(np.float64)
        known = ~np.isnan(pixels)
        seen = int(known.sum())
        if seen == 0:
            continue
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are numbers too
            own = _total(np.where(known, pixels, 0.0)) / seen
            deviations = pixels - own
            squares = _total(np.where(np.isnan(deviations), 0.0, deviations * deviations))
            offset = own - mean
            m2 += squares + offset * offset * (count * (seen / (count + seen)))
            mean += offset * (seen / (count + seen))
            histogram += _binned(pixels, low, high, len(histogram))
        count += seen
        least, most = min(least, np.fmin.reduce(pixels)), max(most, np.fmax.reduce(pixels))
    found[:] = count, mean, m2, least, most


def _total(numbers: NDArray[np.float64]) -> float:
    """Sum, lane by lane and then over the lanes."""
    padded = np.zeros(-(-len(numbers) // LANES) * LANES)
    padded[: len(numbers)] = numbers
    lanes = np.add.reduce(padded.reshape(-1, LANES), axis=0, initial=0.0)
    return float(np.add.accumulate(lanes)[-1])


def _binned(values: NDArray[np.float64], low: float, high: float, counters: int) -> NDArray[np.intp]:
    bins = counters - 3
    places = np.floor((values - low) * (bins / (high - low)))
    places[values == high] = bins - 1
    places = np.where(np.isnan(values), bins + 1, np.clip(places, -1, bins))
    return np.bincount(places.astype(np.intp) + 1, minlength=counters)
