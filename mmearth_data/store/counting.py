"""Compiled loops over all pixels of a shard: counts of values, and moments of real numbers.

The order of summation is fixed here, not by the compiler, so that sums are the same on every processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from mmearth_data.store.compiling import compiled, inner

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LANES = 128
"""Number of parallel sums: the processor works on several at a time, and all stay in its cache."""

_ROWS, _COUNTS = types.Array(types.intp, 1, "C"), types.Array(types.int64, 1, "C")
_FLOATS, _NUMBERS = types.Array(types.float32, 1, "C", readonly=True), types.Array(types.float64, 1, "C")


def _values(name: str, dimensions: int) -> Any:  # noqa: ANN401 - numba has no types
    return types.Array(getattr(types, name), dimensions, "C", readonly=True)


@compiled(*(types.void(_values(name, 3), _ROWS, types.intp, _COUNTS) for name in ("uint8", "uint16")))
def tally(values: np.ndarray[Any, Any], rows: NDArray[np.intp], band: int, counts: NDArray[np.int64]) -> None:
    """Count how often each value occurs in one band of some tiles.

    Parameters
    ----------
    values
        (n, band, pixel) uint8 or uint16.
    rows
        Positions of the tiles.
    band
        Position of the band.
    counts
        (256,) or (65536,), one for each number of the type; added to.
    """
    for row in rows:
        for value in values[row, band]:
            counts[value] += 1


@compiled(*(types.void(_values(name, 2), _ROWS, _COUNTS, _COUNTS) for name in ("uint8", "uint16")))
def tally_tiles(
    values: np.ndarray[Any, Any], rows: NDArray[np.intp], pixels: NDArray[np.int64], tiles: NDArray[np.int64]
) -> None:
    """Count how often each value occurs, and in how many tiles.

    Parameters
    ----------
    values
        (n, pixel) uint8 or uint16.
    rows
        Positions of the tiles.
    pixels, tiles
        (256,) or (65536,), one for each number of the type; added to.
    """
    last = np.full(len(pixels), -1, np.intp)
    for k in range(len(rows)):
        for value in values[rows[k]]:
            pixels[value] += 1
            if last[value] != k:
                last[value] = k
                tiles[value] += 1


@inner
def _total(sums: NDArray[np.float64]) -> float:
    """Sum of all lanes; numba takes longer to compile its own."""
    total = 0.0
    for j in range(_LANES):
        total += sums[j]
    return total


@compiled(types.intp(_FLOATS, _NUMBERS))
def _summarise(values: NDArray[np.float32], found: NDArray[np.float64]) -> int:
    """Write sum, minimum and maximum of the values that are not NaN to ``found``; returns their number."""
    sums, seen = np.zeros(_LANES, np.float64), np.zeros(_LANES, np.int32)
    lows, highs = np.full(_LANES, np.inf, np.float32), np.full(_LANES, -np.inf, np.float32)
    for start in range(0, len(values), _LANES):
        part = values[start : start + _LANES]
        for j in range(len(part)):
            value = part[j]
            known = value == value  # NaN is not
            sums[j] += np.float64(value) if known else 0.0
            seen[j] += known
            lows[j] = value if value < lows[j] else lows[j]  # NaN is never less
            highs[j] = value if value > highs[j] else highs[j]
    number, found[1], found[2] = 0, lows[0], highs[0]
    for j in range(_LANES):
        number += seen[j]
        found[1], found[2] = min(found[1], lows[j]), max(found[2], highs[j])
    found[0] = _total(sums)
    return number


@compiled(types.float64(_FLOATS, types.float64))
def _deviations(values: NDArray[np.float32], mean: float) -> float:
    """Sum of squared deviations of the values that are not NaN."""
    sums = np.zeros(_LANES, np.float64)
    for start in range(0, len(values), _LANES):
        part = values[start : start + _LANES]
        for j in range(len(part)):
            deviation = np.float64(part[j]) - mean
            sums[j] += deviation * deviation if deviation == deviation else 0.0
    return _total(sums)


@compiled(types.void(_FLOATS, types.float64, types.float64, _COUNTS))
def _bin(values: NDArray[np.float32], low: float, high: float, histogram: NDArray[np.int64]) -> None:
    """Count by the bins of `mmearth_data.store.moments.Bins`; the last counter is for NaN."""
    bins = len(histogram) - 3
    scale = bins / (high - low)
    places = np.empty(_LANES, np.int32)
    for start in range(0, len(values), _LANES):
        part = values[start : start + _LANES]
        for j in range(len(part)):
            value = np.float64(part[j])
            place = np.floor((value - low) * scale)
            place = bins - 1.0 if value == high else place
            place = min(max(place, -1.0), float(bins)) if value == value else bins + 1.0
            places[j] = np.int32(place) + 1
        for place in places[: len(part)]:
            histogram[place] += 1


@compiled(types.void(_values("float32", 3), _ROWS, types.intp, types.float64, types.float64, _COUNTS, _NUMBERS))
def measure(
    values: NDArray[np.float32],
    rows: NDArray[np.intp],
    band: int,
    low: float,
    high: float,
    histogram: NDArray[np.int64],
    found: NDArray[np.float64],
) -> None:
    """Moments and histogram of the values of one band of some tiles, without NaN.

    Each tile is summed separately, about its own mean, and merged with the previous ones; see
    `mmearth_data.store.moments`.

    Parameters
    ----------
    values
        (n, band, pixel) float32.
    rows
        Positions of the tiles.
    band
        Position of the band.
    low, high
        Ends of the histogram's range.
    histogram
        (bins + 3,): below, within and above the range, NaN; added to.
    found
        (5,) count, mean, sum of squared deviations, minimum and maximum; written.
    """
    tile = np.empty(3, np.float64)
    count, mean, m2, least, most = 0, 0.0, 0.0, np.inf, -np.inf
    for row in rows:
        pixels = values[row, band]
        seen = _summarise(pixels, tile)
        if seen == 0:
            continue
        offset = tile[0] / seen - mean
        m2 += _deviations(pixels, tile[0] / seen) + offset * offset * (count * (seen / (count + seen)))
        mean += offset * (seen / (count + seen))
        count += seen
        least, most = min(least, tile[1]), max(most, tile[2])
        _bin(pixels, low, high, histogram)
    found[0], found[1], found[2], found[3], found[4] = count, mean, m2, least, most
