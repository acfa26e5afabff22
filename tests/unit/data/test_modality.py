"""A modality checks itself, and travels through JSON unchanged."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import (
    MULTI_LABEL_NODATA,
    ClassLabel,
    Display,
    Kind,
    Licence,
    Modality,
    Wavelength,
    fits,
)
from mmearth_data.errors import CatalogError

LICENCE = Licence("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/", "somebody")
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")


def make(**changes: Any) -> Modality:
    """Return a valid raster/continuous modality, with changes."""
    fields: dict[str, Any] = {
        "name": "height",
        "kind": Kind.RASTER_CONTINUOUS,
        "long_name": "Height",
        "bands": ("top", "std"),
        "dtype": np.dtype("uint8"),
        "nodata": 255,
        "resampling": "bilinear",
        "histogram_range": (0.0, 256.0),
        "licence": LICENCE,
    }
    return Modality(**(fields | changes))


def make_classes(**changes: Any) -> Modality:
    """Return a valid raster/categorical modality, with changes."""
    fields: dict[str, Any] = {
        "kind": Kind.RASTER_CATEGORICAL,
        "bands": ("map",),
        "nodata": 0,
        "resampling": "nearest",
        "histogram_range": None,
        "classes": (ClassLabel(10, "Tree cover", "#006400"), ClassLabel(20, "Shrubland")),
    }
    return make(**(fields | changes))


identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,12}", fullmatch=True)
texts = st.text(max_size=20)
numbers = st.floats(-1e9, 1e9, allow_nan=False).map(float)
ranges = st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1])
colours = st.none() | st.from_regex(r"#[0-9a-f]{6}", fullmatch=True)
wavelengths = st.builds(Wavelength, st.floats(0.3, 50), st.floats(0.001, 0.5))
parameters = st.dictionaries(texts, st.integers() | numbers | texts | st.lists(st.integers()), max_size=3)


@st.composite
def modalities(draw: st.DrawFn) -> Modality:
    """Any modality that the rules allow."""
    kind = draw(st.sampled_from(Kind))
    counts = {Kind.TILE_CATEGORICAL: (0, 0), Kind.RASTER_CATEGORICAL: (1, 1)}.get(kind, (1, 5))
    bands = tuple(draw(st.lists(identifiers, min_size=counts[0], max_size=counts[1], unique=True)))
    names = ("uint8", "uint16") if kind.is_categorical else INTEGERS
    if kind.is_continuous:
        names = (*names, "float32", "float64")
    dtype: np.dtype[Any] = np.dtype("uint8" if kind.is_multi_label else draw(st.sampled_from(names)))
    nodata: float = float("nan")
    codes: list[int] = []
    if dtype.kind != "f":
        inside = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        nodata = MULTI_LABEL_NODATA if kind.is_multi_label else draw(inside)
        codes = draw(st.lists(inside.filter(lambda code: code != nodata), min_size=1, max_size=5, unique=True))
    some_bands = st.lists(st.sampled_from(bands), unique=True).map(tuple) if bands else st.just(())
    patch = kind is Kind.RASTER_CONTINUOUS
    optical = draw(st.booleans())
    return Modality(
        name=draw(identifiers),
        kind=kind,
        long_name=draw(texts),
        bands=bands,
        dtype=dtype,
        nodata=nodata,
        order=draw(st.integers(0, 5000)),
        enabled=draw(st.booleans()),
        units=draw(texts),
        band_units={band: draw(texts) for band in draw(some_bands)},
        wavelengths={band: draw(wavelengths) for band in draw(some_bands)} if optical else {},
        frequency_ghz=None if optical else draw(st.none() | st.floats(0.1, 100)),
        native_m={band: draw(st.floats(0.1, 1e5)) for band in draw(some_bands)},
        scale=draw(numbers),
        offset=draw(numbers),
        resampling=draw(st.sampled_from(["bilinear", "nearest"])) if patch else "nearest",
        asset=draw(st.dictionaries(texts, texts, max_size=2)),
        asset_bands={band: draw(texts) for band in draw(some_bands)},
        bands_by_level={level: draw(some_bands) for level in draw(st.sets(st.sampled_from(["L1C", "L2A"])))},
        recipe=draw(
            st.just({}) | st.builds(lambda name, given: {"name": name, "parameters": given}, texts, parameters)
        ),
        derived_from=draw(st.sampled_from([(), ("lat",), ("lon",), ("time",)])) if kind is Kind.TILE_CONTINUOUS else (),
        statistics_by=draw(st.sampled_from(["s2_level", "none"])),
        histogram_range=draw(ranges) if kind.is_continuous else None,
        histogram_ranges={band: draw(ranges) for band in draw(some_bands)},
        histogram_bins=draw(st.integers(1, 2048)),
        input=draw(st.booleans()),
        model_bands=draw(some_bands),
        pretext=draw(st.booleans()) and kind is not Kind.RASTER_MASK,
        pretext_norm=draw(st.sampled_from(["patch", "none"])) if patch else "none",
        classes=tuple(ClassLabel(code, draw(texts), draw(colours)) for code in codes) if kind.is_categorical else (),
        display=Display(bands=draw(some_bands), range=draw(st.none() | ranges), colormap=draw(texts)),
        doi=draw(texts),
        source=draw(texts),
        licence=Licence(draw(texts), draw(texts), draw(texts)),
    )


@settings(max_examples=30)
@given(modalities())
def test_json_round_trip(modality: Modality) -> None:
    # allow_nan=False is what a strict reader of JSON demands: NaN is not JSON.
    text = json.dumps(modality.to_dict(), allow_nan=False)
    copy = Modality.from_dict(json.loads(text))
    assert copy == modality
    assert json.dumps(copy.to_dict(), allow_nan=False) == text
    assert hash(copy) == hash(modality)


@settings(max_examples=30)
@given(modalities())
def test_pickle_round_trip(modality: Modality) -> None:
    assert pickle.loads(pickle.dumps(modality)) == modality


def test_equality_sees_every_field_of_the_definition_and_takes_nan_for_nan() -> None:
    floats = {"dtype": np.dtype("float32"), "nodata": float("nan")}
    assert make(**floats) == make(**floats)
    assert make() != make(nodata=254)
    assert make() != make(doi="10.1/1")
    assert make() != "height"


def test_an_entry_of_an_older_store_is_the_same_modality_without_its_spectrum() -> None:
    seen = make(wavelengths={"top": Wavelength(0.665, 0.031)}, native_m={"top": 10.0})
    radar = make(frequency_ghz=5.405)
    for modality in (seen, radar):
        older = {k: v for k, v in modality.to_dict().items() if k not in ("wavelengths", "frequency_ghz", "native_m")}
        read = Modality.from_dict(older)
        assert (read.wavelengths, read.frequency_ghz, read.native_m) == ({}, None, {})
        assert read == modality == make()
        assert hash(read) == hash(modality)


@pytest.mark.parametrize(
    ("modality", "shape"),
    [
        (make(), (2, 64, 64)),
        (make_classes(), (1, 64, 64)),
        (make(kind=Kind.RASTER_MASK, resampling="nearest", bands=("m",)), (1, 64, 64)),
        (make(kind=Kind.TILE_CONTINUOUS), (2,)),
        (make_classes(kind=Kind.TILE_CATEGORICAL, bands=()), ()),
    ],
    ids=lambda value: str(getattr(value, "kind", "")),
)
def test_array_shape_follows_the_kind(modality: Modality, shape: tuple[int, ...]) -> None:
    assert modality.array_shape(64) == shape
    array = modality.empty(modality.array_shape(64))
    assert array.shape == shape
    assert array.dtype == modality.dtype
    assert not modality.observed(array).any()


@settings(max_examples=30)
@given(modalities())
def test_observed_is_everything_but_nodata(modality: Modality) -> None:
    if modality.dtype.kind == "f":
        values = np.array([0.0, np.nan, -np.inf, 1e30], dtype=modality.dtype)
        np.testing.assert_array_equal(modality.observed(values), [True, False, True, True])
    else:
        limits = np.iinfo(modality.dtype)
        values = np.array([limits.min, limits.max, modality.nodata], dtype=modality.dtype)
        expected = [limits.min != modality.nodata, limits.max != modality.nodata, False]
        np.testing.assert_array_equal(modality.observed(values), expected)


@settings(max_examples=30)
@given(modalities().filter(lambda modality: modality.kind.is_categorical))
def test_class_lookup_inverts_the_class_table(modality: Modality) -> None:
    lookup = modality.class_code_index()
    assert len(lookup) == 2 ** (8 * modality.dtype.itemsize)
    assert [lookup[label.code] for label in modality.classes] == list(range(len(modality.classes)))
    assert lookup[int(modality.nodata)] == -1
    assert np.count_nonzero(lookup >= 0) == len(modality.classes)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"nodata": 256}, "nodata", "nodata 256 does not fit uint8"),
        ({"nodata": -1}, "nodata", "does not fit uint8"),
        ({"nodata": 0.5}, "nodata", "does not fit uint8"),
        ({"nodata": float("nan")}, "nodata", "does not fit uint8"),
        ({"dtype": np.dtype("float32"), "nodata": 0}, "nodata", "write NaN"),
        ({"name": "two words"}, "name", "plain identifier"),
        ({"name": ""}, "name", "plain identifier"),
        ({"bands": ()}, "bands", "at least one band"),
        ({"bands": ("a", "a")}, "bands", "must differ"),
        ({"histogram_range": None}, "histogram_range", "needs histogram_range"),
        ({"histogram_range": (5.0, 5.0)}, "histogram_range", "must be increasing"),
        ({"histogram_range": (float("nan"), 5.0)}, "histogram_range", "must be increasing"),
        ({"histogram_ranges": {"std": (2.0, 1.0)}}, "histogram_ranges.std", "must be increasing"),
        ({"histogram_ranges": {"x": (1.0, 2.0)}}, "histogram_ranges", "names x"),
        ({"histogram_bins": 4096}, "histogram_bins", "1..2048"),
        ({"histogram_bins": 0}, "histogram_bins", "1..2048"),
        ({"model_bands": ("top", "x")}, "model_bands", "names x, but the bands are top, std"),
        ({"model_bands": ("top", "top")}, "model_bands", "must differ"),
        ({"asset_bands": {"x": "b1"}}, "asset_bands", "names x"),
        ({"band_units": {"x": "m"}}, "band_units", "names x"),
        ({"wavelengths": {"x": Wavelength(0.6, 0.1)}}, "wavelengths", "names x"),
        ({"wavelengths": {"top": Wavelength(665, 31)}}, "wavelengths.top", "divide nanometres by 1,000"),
        ({"wavelengths": {"top": Wavelength(0.665, 0)}}, "wavelengths.top", "got 0.665 and 0"),
        ({"wavelengths": {"top": Wavelength(0.6, 0.1)}, "frequency_ghz": 5.4}, "frequency_ghz", "keep one of them"),
        ({"native_m": {"x": 10.0}}, "native_m", "names x"),
        ({"bands_by_level": {"L1C": ("x",)}}, "bands_by_level.L1C", "names x"),
        ({"display": Display(bands=("x",))}, "display.bands", "names x"),
        ({"derived_from": ("lat",)}, "derived_from", "only tile/continuous"),
        ({"kind": Kind.TILE_CONTINUOUS, "derived_from": ("altitude",)}, "derived_from", "names altitude"),
        ({"kind": Kind.TILE_CONTINUOUS, "pretext_norm": "patch"}, "pretext_norm", "only raster/continuous"),
        ({"kind": Kind.RASTER_MASK, "pretext": True, "resampling": "nearest"}, "pretext", "cannot be a pretext"),
        ({"kind": Kind.RASTER_MASK}, "resampling", "cannot be interpolated"),
    ],
)
def test_a_contradiction_is_refused_and_the_field_named(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        make(**changes)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"nodata": 10}, "classes", "class code 10 is also the nodata value"),
        ({"classes": ()}, "classes", "needs its classes"),
        ({"classes": (ClassLabel(1, "a"), ClassLabel(1, "b"))}, "classes", "got 1 more than once"),
        ({"classes": (ClassLabel(256, "a"),)}, "classes", "class codes 256 do not fit uint8"),
        ({"classes": (ClassLabel(-1, "a"),)}, "classes", "do not fit uint8"),
        ({"bands": ("a", "b")}, "bands", "exactly one band"),
        ({"resampling": "bilinear"}, "resampling", "cannot be interpolated"),
        ({"dtype": np.dtype("uint32")}, "dtype", "uint8 or uint16"),
        ({"dtype": np.dtype("float32"), "nodata": float("nan")}, "dtype", "uint8 or uint16"),
        ({"kind": Kind.TILE_CATEGORICAL}, "bands", "no band axis"),
    ],
)
def test_class_tables_must_be_usable(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        make_classes(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "entry", [{}, {"name": "x"}, make().to_dict() | {"kind": "raster"}, make().to_dict() | {"colour": "red"}]
)
def test_an_incomplete_dictionary_is_a_catalog_error(entry: dict[str, Any]) -> None:
    with pytest.raises(CatalogError):
        Modality.from_dict(entry)


def test_model_bands_default_to_all_bands() -> None:
    assert make().model_bands == ("top", "std")
    assert make(model_bands=("std",)).model_bands == ("std",)


def test_band_indices_are_positions_in_stored_order() -> None:
    assert make().band_indices(("std", "top")) == [1, 0]
    with pytest.raises(CatalogError, match="no band x; its bands are top, std"):
        make().band_indices(("x",))


def test_a_band_may_have_a_unit_and_a_range_of_its_own() -> None:
    terrain = make(units="m, degree", band_units={"top": "m", "std": "degree"}, histogram_ranges={"std": (0.0, 90.0)})
    assert (terrain.units_of("top"), terrain.units_of("std")) == ("m", "degree")
    assert terrain.histogram_range_of("top") == (0.0, 256.0)
    assert terrain.histogram_range_of("std") == (0.0, 90.0)


@given(st.sampled_from(INTEGERS), st.integers(-(2**33), 2**33))
def test_a_number_fits_when_numpy_stores_it_unchanged(name: str, value: int) -> None:
    dtype = np.dtype(name)
    with np.errstate(over="ignore"):
        stored = int(np.array([value], dtype=np.int64).astype(dtype)[0])
    assert fits(value, dtype) == (stored == value)


def test_no_data_is_one_and_the_same_nan_from_yaml_and_from_json() -> None:
    stored = load_catalog().select(["sentinel1"])[0]
    again = Modality.from_dict(json.loads(json.dumps(stored.to_dict())))
    assert stored.empty((1,)).tobytes() == again.empty((1,)).tobytes() == np.float32("nan").tobytes()


def make_labels(**changes: Any) -> Modality:
    """Return a valid tile/multi-label modality, with changes."""
    return make(**({"kind": Kind.TILE_MULTI_LABEL, "histogram_range": None, "resampling": "nearest"} | changes))


def test_the_classes_of_a_multi_label_modality_are_its_bands() -> None:
    plain = make_labels()
    assert [(label.code, label.name) for label in plain.classes] == [(0, "top"), (1, "std")]
    assert plain.array_shape(64) == (2,)
    assert (plain.kind.is_raster, plain.kind.is_categorical, plain.kind.is_continuous) == (False, False, False)
    coloured = make_labels(classes=(ClassLabel(0, "top", "#006400"), ClassLabel(1, "std")))
    assert Modality.from_dict(json.loads(json.dumps(coloured.to_dict()))) == coloured != plain
    many = tuple(f"species {k}" for k in range(300))
    assert len(make_labels(bands=many).classes) == 300, "codes are positions, which need not fit the type"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dtype": np.dtype("uint16")}, "dtype"),
        ({"nodata": 0}, "dtype"),
        ({"bands": ()}, "bands"),
        ({"bands": ("oak", "oak")}, "bands"),
        ({"classes": (ClassLabel(0, "oak"), ClassLabel(1, "std"))}, "classes"),
        ({"classes": (ClassLabel(1, "top"), ClassLabel(0, "std"))}, "classes"),
        ({"classes": (ClassLabel(0, "top"),)}, "classes"),
        ({"pretext_norm": "patch"}, "pretext_norm"),
    ],
)
def test_a_contradictory_multi_label_modality_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CatalogError) as refusal:
        make_labels(**changes)
    assert refusal.value.field == field
