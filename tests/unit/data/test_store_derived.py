"""Encodings of place and month against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_making import modality, small_catalog

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import Kind
from mmearth_data.catalog.tile import NO_TIME
from mmearth_data.errors import CatalogError
from mmearth_data.store.derived import derived

MADE_UP = {m.name: m for m in small_catalog()}


@pytest.mark.parametrize("catalog", ["made up", "shipped"])
def test_angles_are_taken_in_radians(catalog: str) -> None:
    entries = MADE_UP if catalog == "made up" else load_catalog().modalities
    coords = {"lat": np.array([0.0, 90.0, -30.0, np.nan]), "lon": np.array([180.0, -90.0, 60.0, np.nan])}
    half = np.sqrt(3) / 2
    np.testing.assert_allclose(derived(entries["lat"], coords)[:3], [[0, 1], [1, 0], [-0.5, half]], atol=1e-7)
    np.testing.assert_allclose(derived(entries["lon"], coords)[:3], [[0, -1], [-1, 0], [half, 0.5]], atol=1e-7)
    assert np.isnan(derived(entries["lat"], coords)[3]).all()


@pytest.mark.parametrize("catalog", ["made up", "shipped"])
def test_months_are_twelfths_of_a_circle(catalog: str) -> None:
    m = (MADE_UP if catalog == "made up" else load_catalog().modalities)["month"]
    times = np.array(
        ["2018-12-31T23:59:59.999", "2019-03-01", "1969-06-30T12:00", "2020-09-15", "NaT"], dtype="datetime64[ms]"
    )
    expected = [[0, 1], [1, 0], [0, -1], [-1, 0]]
    for stamps in (times, times.astype(np.int64), times.astype("datetime64[ns]")):
        encoded = derived(m, {"time": stamps})
        np.testing.assert_allclose(encoded[:4], expected, atol=1e-6)
        assert np.isnan(encoded[4]).all()
        assert encoded.dtype == np.float32
    assert times.astype(np.int64)[4] == NO_TIME


@given(st.lists(st.floats(-180, 180), max_size=20))
def test_encodings_lie_on_the_unit_circle(degrees: list[float]) -> None:
    encoded = derived(MADE_UP["lon"], {"lon": np.array(degrees)})
    assert encoded.shape == (len(degrees), 2)
    np.testing.assert_allclose(np.hypot(encoded[:, 0], encoded[:, 1]), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "derived_from", "recipe"), [("a", (), "angle"), ("b", ("lat", "lon"), "angle"), ("c", ("lat",), "other")]
)
def test_a_recipe_that_is_not_known_is_refused(name: str, derived_from: tuple[str, ...], recipe: str) -> None:
    m = modality(
        name,
        Kind.TILE_CONTINUOUS,
        ("sin", "cos"),
        "float32",
        np.nan,
        derived_from=derived_from,
        recipe={"name": recipe},
    )
    with pytest.raises(CatalogError, match=rf"{name}: expected one coordinate under derived_from"):
        derived(m, {"lat": np.zeros(1), "lon": np.zeros(1)})
