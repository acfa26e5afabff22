"""Counting in NumPy against the compiled loops: the same numbers, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmearth_data.store import counting, plain_counting

LOW, HIGH, BINS = -2.0, 3.0, 40


def measured(how: Any, values: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> tuple[bytes, list[int]]:
    """Moments as bytes, so that NaN and the sign of zero count too, and histogram."""
    found, histogram = np.empty(5), np.zeros(BINS + 3, np.int64)
    how.measure(values, rows, 1, LOW, HIGH, histogram, found)
    return found.tobytes(), histogram[:-1].tolist()


def real_numbers(pixels: int) -> np.ndarray[Any, Any]:
    """Six tiles of two bands: wide and narrow, with gaps, empty, with the ends of the range and both zeros."""
    rng = np.random.default_rng(pixels)
    values = rng.normal(0.3, 1.7, (6, 2, pixels)).astype(np.float32)
    values[1] = 1e4 + values[1] * 1e-3
    values[2][rng.random((2, pixels)) < 0.4] = np.nan
    values[3] = np.nan
    values[4] = rng.choice(np.float32([LOW, HIGH, -0.0, 0.0, np.nan, 1.0]), (2, pixels))
    return values


@pytest.mark.parametrize("pixels", [1, 127, 128, 1000, 4096])
def test_moments_and_histograms_are_equal(pixels: int) -> None:
    values = real_numbers(pixels)
    for rows in ([0], [3], [4], [3, 2, 3], [0, 1, 2, 3, 4, 5], []):
        chosen = np.array(rows, np.intp)
        assert measured(plain_counting, values, chosen) == measured(counting, values, chosen)


def test_infinities_are_numbers() -> None:
    values = real_numbers(300)
    values[0, 1, [7, 9]] = np.inf, -np.inf
    values[1, 1, 7] = np.inf
    plain, compiled = (measured(how, values, np.arange(2)) for how in (plain_counting, counting))
    np.testing.assert_array_equal(np.frombuffer(plain[0]), np.frombuffer(compiled[0]))  # NaN has many bit patterns
    assert plain[1] == compiled[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counts_are_equal(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 200, (5, 2, 333)).astype(dtype)
    rows, counters = np.array([4, 0, 2], np.intp), 256 ** np.dtype(dtype).itemsize
    found = {}
    for how in (plain_counting, counting):
        counts, pixels, tiles = np.zeros((3, counters), np.int64)
        how.tally(values, rows, 1, counts)
        how.tally_tiles(np.ascontiguousarray(values[:, 0]), rows, pixels, tiles)
        found[how] = [counts.tolist(), pixels.tolist(), tiles.tolist()]
    assert found[plain_counting] == found[counting]
    assert np.array(found[counting][2]).max() == len(rows)
