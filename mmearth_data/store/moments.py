"""Moments and histograms of numbers, computed in parts and merged.

Means and variances merge by Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmearth_data.store import plain_counting
from mmearth_data.store.loops import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

PERCENTILES = {f"p{q}": q for q in (1, 2, 25, 50, 75, 98, 99)}
"""Name -> percentile. A percentile may be added: `verify` accepts finished stores that lack it."""
NARROW_BYTES = 2
"""Maximum bytes of integers that are counted value by value: exact, and in one pass."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of equal width between two numbers, and one on either side for values outside.

    Attributes
    ----------
    low, high
        Ends of the range.
    count
        Bins within it.
    """

    low: float
    high: float
    count: int

    @classmethod
    def of(cls, modality: Modality, band: str) -> Self:
        """Bins of a band according to the catalog."""
        low, high = modality.histogram_range_of(band) or (0.0, 1.0)
        return cls(float(low), float(high), modality.histogram_bins)

    @property
    def width(self) -> float:
        """Width of one bin."""
        return (self.high - self.low) / self.count

    def place(self, numbers: NDArray[np.float64]) -> NDArray[np.intp]:
        """Bin of each number: 0 below the range, 1 to ``count``, ``count + 1`` above it; ``high`` is within."""
        position = np.floor((numbers - self.low) * (self.count / (self.high - self.low)))
        position[numbers == self.high] = self.count - 1
        clipped: NDArray[np.intp] = np.clip(position, -1, self.count).astype(np.intp)
        return clipped + 1

    def edges(self, least: float, most: float) -> NDArray[np.float64]:
        """(count + 3,) edges of all bins, limited to the minimum and maximum."""
        inner = np.linspace(self.low, self.high, self.count + 1)
        edges: NDArray[np.float64] = np.clip(np.concatenate([[least], inner, [most]]), least, most)
        return edges


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments and histogram of the values of one band.

    Attributes
    ----------
    count, mean, m2, low, high
        Number of values, their mean, sum of squared deviations, minimum and maximum.
    histogram
        (bins + 2,) counts, see `Bins.place`.
    """

    count: int
    mean: float
    m2: float
    low: float
    high: float
    histogram: NDArray[np.int64]

    @classmethod
    def none(cls, bins: Bins) -> Self:
        """Moments of no values."""
        return cls(0, 0.0, 0.0, math.inf, -math.inf, np.zeros(bins.count + 2, dtype=np.int64))

    @classmethod
    def of_band(
        cls, values: np.ndarray[Any, Any], rows: NDArray[np.intp], band: int, modality: Modality, bins: Bins
    ) -> Self:
        """Moments of the observed values of one band of some tiles, given the values of all, (n, band, ...)."""
        if _is_narrow(modality.dtype):
            codes, counts = _count(values, rows, band)
            kept = modality.observed(codes)
            return cls._weighted(codes[kept].astype(np.float64), counts[kept], bins)
        if modality.dtype == np.float32:
            return cls._measured(values, rows, band, bins)
        numbers = values[rows, band]
        return cls._plain(numbers[modality.observed(numbers)].astype(np.float64), bins)

    @classmethod
    def _measured(cls, values: np.ndarray[Any, Any], rows: NDArray[np.intp], band: int, bins: Bins) -> Self:
        """Moments of float32 values, by a compiled loop without copies."""
        histogram, found = np.zeros(bins.count + 3, np.int64), np.empty(5, np.float64)
        _loops().measure(_pixels(values), rows, band, bins.low, bins.high, histogram, found)
        count, mean, m2, low, high = found.tolist()
        return cls(int(count), mean, m2, low, high, histogram[:-1])

    @classmethod
    def _plain(cls, numbers: NDArray[np.float64], bins: Bins) -> Self:
        if not numbers.size:
            return cls.none(bins)
        # Deviations, not squares of the numbers themselves, which would cancel if the mean is large.
        shift = float(numbers[0])
        offset = float(np.mean(numbers - shift))
        m2 = float(np.square(numbers - shift - offset).sum())
        histogram = np.bincount(bins.place(numbers), minlength=bins.count + 2)
        return cls(numbers.size, shift + offset, m2, float(numbers.min()), float(numbers.max()), histogram)

    @classmethod
    def _weighted(cls, numbers: NDArray[np.float64], weights: NDArray[np.int64], bins: Bins) -> Self:
        """Moments of distinct ascending numbers, each of which occurs ``weights`` times."""
        if not numbers.size:
            return cls.none(bins)
        count = int(weights.sum())
        mean = float((numbers * weights).sum() / count)
        m2 = float((np.square(numbers - mean) * weights).sum())
        histogram = np.bincount(bins.place(numbers), weights, minlength=bins.count + 2).astype(np.int64)
        return cls(count, mean, m2, float(numbers[0]), float(numbers[-1]), histogram)

    def merge(self, other: Self) -> Self:
        """Moments of both sets of values together."""
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        delta = other.mean - self.mean
        return type(self)(
            count=count,
            mean=self.mean + delta * (other.count / count),
            m2=self.m2 + other.m2 + delta * delta * (self.count * (other.count / count)),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            histogram=self.histogram + other.histogram,
        )

    def to_json(self) -> list[Any]:
        """``[count, mean, m2, low, high, bins, counts]`` with only the occupied bins; ``[0]`` for no values."""
        if not self.count:
            return [0]
        occupied = np.flatnonzero(self.histogram)
        counts = self.histogram[occupied].tolist()
        return [self.count, self.mean, self.m2, self.low, self.high, occupied.tolist(), counts]

    @classmethod
    def from_json(cls, entry: Sequence[Any], bins: Bins) -> Self:
        """Inverse of `to_json`."""
        if not entry[0]:
            return cls.none(bins)
        histogram = np.zeros(bins.count + 2, dtype=np.int64)
        histogram[entry[5]] = entry[6]
        count, mean, m2, low, high = entry[:5]
        return cls(count, mean, m2, low, high, histogram)

    def summary(self, bins: Bins) -> dict[str, float | int | None]:
        """Count, mean, std, min, max and percentiles; all but the count are null if there is no value."""
        names = ("mean", "std", "min", "max", *PERCENTILES)
        if not self.count:
            return {"count": 0, **dict.fromkeys(names)}
        numbers = (self.mean, math.sqrt(self.m2 / self.count), self.low, self.high, *self.percentiles(bins))
        return {"count": self.count, **dict(zip(names, numbers, strict=True))}

    def percentiles(self, bins: Bins) -> list[float]:
        """Percentiles as defined by `numpy.percentile`, accurate to one bin within the range of the bins.

        A percentile is between two order statistics. The bin of each of them is known; the position in the bin is
        interpolated. The outer bins extend to the minimum and the maximum.
        """
        ranks = np.array([(self.count - 1) * q / 100 for q in PERCENTILES.values()])
        edges = bins.edges(self.low, self.high)
        below, above = (self._order_statistic(rounded, edges) for rounded in (np.floor(ranks), np.ceil(ranks)))
        return [float(v) for v in below + (ranks - np.floor(ranks)) * (above - below)]

    def _order_statistic(self, ranks: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
        ends = np.cumsum(self.histogram)
        at = np.searchsorted(ends, ranks, side="right")
        within = (ranks - (ends[at] - self.histogram[at]) + 0.5) / self.histogram[at]
        estimate: NDArray[np.float64] = edges[at] + within * (edges[at + 1] - edges[at])
        return estimate


def count_codes(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], NDArray[np.int64]]:
    """Distinct integers and their counts."""
    if _is_narrow(values.dtype):
        return _count(values.reshape(1, 1, -1), np.zeros(1, np.intp), 0)
    codes, counts = np.unique(values, return_counts=True)
    return codes, counts


def count_tiles(
    values: np.ndarray[Any, Any], rows: NDArray[np.intp]
) -> tuple[np.ndarray[Any, Any], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct 8- or 16-bit integers in some tiles (n, ...), their counts, and the number of tiles with each."""
    pixels, tiles = np.zeros((2, _numbers_of(values.dtype)), np.int64)
    _loops().tally_tiles(_pixels(values.reshape(len(values), 1, -1))[:, 0], rows, pixels, tiles)
    codes, counts = _occurring(pixels, values.dtype)
    return codes, counts, _occurring(tiles, values.dtype)[1]


def _loops() -> Any:  # noqa: ANN401 - a module
    """Return the compiled loops, or their NumPy equivalent if numba is not installed."""
    return load(lambda: import_module("mmearth_data.store.counting")) or plain_counting


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and dtype.itemsize <= NARROW_BYTES


def _numbers_of(dtype: np.dtype[Any]) -> int:
    return int(2 ** (8 * dtype.itemsize))


def _pixels(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n, band, pixel) for compiled loops: contiguous, with unsigned integers."""
    flat = np.ascontiguousarray(values).reshape(*values.shape[:2], math.prod(values.shape[2:]))
    return flat.view(f"u{flat.itemsize}") if flat.dtype.kind == "i" else flat


def _count(
    values: np.ndarray[Any, Any], rows: NDArray[np.intp], band: int
) -> tuple[np.ndarray[Any, Any], NDArray[np.int64]]:
    """Distinct narrow integers in one band of some tiles, and their counts."""
    counts = np.zeros(_numbers_of(values.dtype), np.int64)
    _loops().tally(_pixels(values), rows, band, counts)
    return _occurring(counts, values.dtype)


def _occurring(counts: NDArray[np.int64], dtype: np.dtype[Any]) -> tuple[np.ndarray[Any, Any], NDArray[np.int64]]:
    """Numbers that occur, ascending, given the count of each as an unsigned integer."""
    lowest = int(np.iinfo(dtype).min)
    ascending = np.roll(counts, -lowest) if lowest else counts
    present = np.flatnonzero(ascending != 0)  # four times as fast on booleans
    return (present + lowest).astype(dtype), ascending[present]
