"""Merged statistics against numpy over everything at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_making import modality

from mmearth_data.catalog.modality import Kind, Modality
from mmearth_data.store.moments import PERCENTILES, Bins, Moments, count_codes, count_tiles

DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"]


def band_of(dtype: str, low: float, high: float, bins: int = 256) -> tuple[Modality, Bins]:
    """A modality of one band and its bins."""
    nodata = np.nan if np.dtype(dtype).kind == "f" else int(np.iinfo(dtype).max)
    m = modality("x", Kind.RASTER_CONTINUOUS, ("a",), dtype, nodata, histogram_range=(low, high), histogram_bins=bins)
    return m, Bins.of(m, "a")


def moments_of(values: np.ndarray[Any, Any], m: Modality, bins: Bins) -> Moments:
    """Moments of the observed values in an array."""
    return Moments.of_band(values.reshape(1, 1, -1), np.zeros(1, np.intp), 0, m, bins)


def merged(values: np.ndarray[Any, Any], cuts: list[int], m: Modality, bins: Bins) -> Moments:
    """Moments of the parts of an array, merged in order, through JSON each time."""
    total = Moments.none(bins)
    for part in np.split(values, sorted(cuts)):
        text = json.dumps(moments_of(part, m, bins).to_json(), allow_nan=False)
        total = total.merge(Moments.from_json(json.loads(text), bins))
    return total


@st.composite
def parts(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any], list[int]]:
    """Numbers within 0..120 of some type, missing ones among them, and where to cut them."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    elements: Any = st.integers(0, 120) if dtype.kind in "iu" else st.floats(0, 120, width=32)
    values = draw(hnp.arrays(dtype, st.integers(0, 200), elements=elements))
    missing = draw(hnp.arrays(bool, len(values)))
    values[missing & draw(st.booleans())] = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
    return dtype.name, values, draw(st.lists(st.integers(0, len(values)), max_size=5))


@given(parts())
@settings(deadline=None)
def test_merged_parts_equal_numpy(given_parts: tuple[str, np.ndarray[Any, Any], list[int]]) -> None:
    dtype, values, cuts = given_parts
    m, bins = band_of(dtype, 0, 120)
    found = merged(values, cuts, m, bins).summary(bins)
    seen = values[m.observed(values)].astype(np.float64)
    assert found["count"] == len(seen)
    if not len(seen):
        assert set(found.values()) == {0, None}
        return
    assert found["min"] == seen.min()
    assert found["max"] == seen.max()
    assert found["mean"] == pytest.approx(seen.mean(), rel=1e-9, abs=1e-12)
    assert found["std"] == pytest.approx(seen.std(), rel=1e-6, abs=1e-9)
    for q in PERCENTILES.values():
        assert abs(found[f"p{q}"] - np.percentile(seen, q)) <= bins.width * (1 + 1e-9)
        assert seen.min() <= found[f"p{q}"] <= seen.max()


@pytest.mark.parametrize("offset", [1e4, 1e7, 1e9])
def test_small_spread_around_a_large_mean_survives(offset: float) -> None:
    values = offset + np.random.default_rng(0).normal(0, 1e-3, 100_000)
    m, bins = band_of("float64", offset - 1, offset + 1)
    found = merged(values, [10, 50_000, 99_999], m, bins)
    summary = found.summary(bins)
    assert summary["std"] == pytest.approx(values.std(), rel=1e-6)
    assert summary["mean"] == pytest.approx(values.mean(), rel=1e-12)


def test_merging_in_order_is_exactly_reproducible() -> None:
    values = np.random.default_rng(1).normal(0, 5, 5000).astype(np.float32)
    m, bins = band_of("float32", -20, 20)
    assert merged(values, [7, 900], m, bins).to_json() == merged(values, [900, 7], m, bins).to_json()


def test_values_outside_of_the_range_are_counted_and_bound_the_percentiles() -> None:
    m, bins = band_of("float32", 0, 1, bins=4)
    found = moments_of(np.array([-5.0, 0.1, 1.0, 30.0], dtype=np.float32), m, bins)
    assert found.histogram.tolist() == [1, 1, 0, 0, 1, 1]
    summary = found.summary(bins)
    assert summary["p1"] >= -5
    assert summary["p99"] <= 30
    assert summary["min"] == -5
    assert summary["max"] == 30


def test_a_distribution_wholly_outside_of_the_range_stays_within_its_own() -> None:
    m, bins = band_of("float32", 180, 340)
    values = np.array([0.01, 0.02, 0.05], dtype=np.float32)
    summary = moments_of(values, m, bins).summary(bins)
    assert all(0.0099 <= summary[f"p{q}"] <= 0.0501 for q in PERCENTILES.values())


def test_constant_values_have_no_spread() -> None:
    m, bins = band_of("uint8", 0, 60)
    summary = merged(np.full(1000, 17, dtype=np.uint8), [300], m, bins).summary(bins)
    assert summary == {"count": 1000, "mean": 17, "std": 0, "min": 17, "max": 17} | {
        f"p{q}": 17 for q in PERCENTILES.values()
    }


def test_no_more_bins_than_the_contract_allows_are_stored() -> None:
    m, bins = band_of("uint16", 0, 65_535, bins=2048)
    values = np.arange(65_535, dtype=np.uint16)
    entry = moments_of(values, m, bins).to_json()
    assert len(entry[5]) <= 2048
    assert moments_of(values[:3], m, bins).to_json()[5:] == [[1], [3]], "stored sparsely"


def test_bins_of_a_band_are_its_own() -> None:
    m = modality(
        "x",
        Kind.TILE_CONTINUOUS,
        ("t", "rain"),
        "float32",
        np.nan,
        histogram_range=(180.0, 340.0),
        histogram_ranges={"rain": (0.0, 2.0)},
    )
    assert Bins.of(m, "t") == Bins(180.0, 340.0, 2048)
    assert Bins.of(m, "rain") == Bins(0.0, 2.0, 2048)


@given(hnp.arrays(st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "uint32"]), st.integers(0, 300)))
def test_codes_are_counted_as_numpy_does(values: np.ndarray[Any, Any]) -> None:
    codes, counts = count_codes(values)
    expected, occurrences = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(counts, occurrences)
    assert codes.dtype == values.dtype


@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-50, 50)),
    st.floats(-40, 0),
    st.floats(1, 40),
    st.integers(1, 64),
)
@settings(deadline=None)
def test_histograms_agree_with_numpy(values: np.ndarray[Any, Any], low: float, high: float, count: int) -> None:
    bins = Bins(low, high, count)
    edges = np.linspace(low, high, count + 1)
    # Where a number is within a rounding error of an edge, either side is right.
    assume(np.abs(values[:, None] - edges).min(initial=1.0) > 1e-9)
    inside = np.bincount(bins.place(values), minlength=count + 2)
    np.testing.assert_array_equal(inside[1:-1], np.histogram(values, edges)[0])
    assert inside[0] == (values < low).sum()
    assert inside[-1] == (values > high).sum()


def compare_with_numpy(found: Moments, numbers: np.ndarray[Any, Any], bins: Bins) -> None:
    """Counts, ends and histogram to the digit, sums to rounding."""
    numbers = numbers.astype(np.float64).ravel()
    assert (found.count, found.low, found.high) == (len(numbers), numbers.min(), numbers.max())
    assert found.mean == pytest.approx(numbers.mean(), rel=1e-12)
    assert found.m2 == pytest.approx(np.square(numbers - numbers.mean()).sum(), rel=1e-9)
    np.testing.assert_array_equal(found.histogram, np.bincount(bins.place(numbers), minlength=bins.count + 2))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("side", [16, 45], ids=["even", "odd"])
def test_a_band_of_chosen_tiles_equals_numpy(dtype: str, side: int) -> None:
    rng = np.random.default_rng(side)
    m, bins = band_of(dtype, -20, 90)
    values = np.clip(rng.normal(15, 30, (12, 3, side, side)), -100, 100).clip(*limits(dtype)).astype(dtype)
    values[rng.random(values.shape) < 0.2] = m.nodata
    values[4] = m.nodata  # a whole tile without any
    values[:, 1, 0, 0] = 90  # the upper end belongs to the last bin
    rows = np.array([0, 3, 4, 5, 11])
    before = values.copy()
    values.flags.writeable = False
    for band in range(3):
        numbers = values[rows, band]
        found = Moments.of_band(values, rows, band, m, bins)
        compare_with_numpy(found, numbers[m.observed(numbers)], bins)
    np.testing.assert_array_equal(values, before)


def limits(dtype: str) -> tuple[float, float]:
    """Numbers that a type holds, its largest left for no data."""
    kind = np.dtype(dtype)
    return (-100, 100) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max - 1)


def test_tiles_without_a_value_count_nowhere() -> None:
    m, bins = band_of("float32", 0, 1)
    values = np.full((3, 1, 8, 8), np.nan, np.float32)
    assert Moments.of_band(values, np.arange(3), 0, m, bins).to_json() == [0]
    values[1, 0, 3, 4] = 0.25
    assert Moments.of_band(values, np.arange(3), 0, m, bins).to_json()[:5] == [1, 0.25, 0.0, 0.25, 0.25]
    assert Moments.of_band(values, np.array([0, 2]), 0, m, bins).to_json() == [0]


def test_single_precision_far_from_zero_keeps_its_spread() -> None:
    rng = np.random.default_rng(2)
    values = (rng.integers(0, 2, (40, 1, 32, 32)) * 2.0**-9 + 8192).astype(np.float32)
    values[0] = -400  # the first tile is nothing like the others
    m, bins = band_of("float32", -1024, 9216)
    numbers = values[1:].astype(np.float64)
    found = Moments.of_band(values, np.arange(1, 40), 0, m, bins)
    assert found.m2 == pytest.approx(np.square(numbers - numbers.mean()).sum(), rel=1e-6)
    compare_with_numpy(Moments.of_band(values, np.arange(40), 0, m, bins), values, bins)


@given(hnp.arrays(st.sampled_from(["uint8", "uint16"]), st.tuples(st.integers(1, 6), st.just(1), st.just(5))))
@settings(deadline=None)
def test_tiles_of_each_code_are_counted_as_numpy_does(values: np.ndarray[Any, Any]) -> None:
    rows = np.arange(0, len(values), 2)
    codes, pixels, tiles = count_tiles(values, rows)
    chosen = values[rows]
    np.testing.assert_array_equal(codes, np.unique(chosen))
    assert pixels.tolist() == [int((chosen == code).sum()) for code in codes]
    assert tiles.tolist() == [int((chosen == code).any(axis=(1, 2)).sum()) for code in codes]
