"""Layout, names and attributes of a store's arrays."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_making import modality, small_catalog, small_layout

from mmearth_data.catalog.modality import ClassLabel, Kind
from mmearth_data.errors import InputError
from mmearth_data.store.schema import (
    COORDINATES,
    StoreLayout,
    default_tiles_per_shard,
    flag_words,
    stored_units,
    tabular_columns,
)


@given(tiles=st.integers(1, 3_000_000))
def test_default_shards_are_an_eighth_of_the_store_in_steps_of_16(tiles: int) -> None:
    rows = default_tiles_per_shard(tiles)
    assert rows % 16 == 0
    assert 16 <= rows <= 256
    assert rows == 256 or rows * 8 >= tiles, "no more than eight shards while they are small"
    assert rows == 16 or (rows - 16) * 8 < tiles, "not one step larger than needed"


@given(tiles=st.integers(1, 5000), tiles_per_shard=st.integers(1, 300))
def test_shards_cover_every_row_once(tiles: int, tiles_per_shard: int) -> None:
    layout = small_layout(tiles, tiles_per_shard=tiles_per_shard)
    rows = [row for shard in range(layout.shards) for row in layout.rows(shard)]
    assert rows == list(range(tiles))
    assert {len(layout.rows(shard)) for shard in range(layout.shards - 1)} <= {tiles_per_shard}


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_outside_of_the_store_has_no_rows(shard: int) -> None:
    with pytest.raises(IndexError, match="from 0 to 2"):
        small_layout().rows(shard)


@given(tiles_per_shard=st.integers(1, 65_536))
def test_chunks_of_columns_hold_whole_shards(tiles_per_shard: int) -> None:
    rows = small_layout(tiles_per_shard=tiles_per_shard).column_chunk_rows
    assert rows % tiles_per_shard == 0
    assert 65_536 - tiles_per_shard < rows <= 65_536


@pytest.mark.parametrize(("change", "words"), [({"tiles": 0}, "--tiles"), ({"tiles_per_shard": 0}, "per shard")])
def test_a_layout_without_rows_is_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=rf"at least one tile.*{words}"):
        dataclasses.replace(small_layout(), **change)


@pytest.mark.parametrize("size_px", [0, 100, 4096])
def test_a_tile_size_that_ids_cannot_hold_is_refused(size_px: int) -> None:
    with pytest.raises(InputError, match=f"multiple of 16.*got {size_px}"):
        small_layout(size_px=size_px)


@pytest.mark.parametrize("name", ["tile_id", "valid", "y", "facts", "weather_rain", "optical_band"])
def test_a_modality_may_not_take_the_name_of_another_array_or_column(name: str) -> None:
    taker = modality(name, Kind.RASTER_CONTINUOUS, ("a",), "uint8", 0)
    with pytest.raises(InputError, match=rf"{name} twice"):
        StoreLayout(modalities=(*small_catalog(), taker), tiles=1, size_px=16, tiles_per_shard=16)


def test_valid_has_room_for_32_modalities() -> None:
    many = tuple(modality(f"m{k}", Kind.RASTER_MASK, ("a",), "uint8", 0) for k in range(33))
    assert len(StoreLayout(modalities=many[:32], tiles=1, size_px=16, tiles_per_shard=1).stored) == 32
    with pytest.raises(InputError, match=r"at most 32 stored modalities.*got 33"):
        StoreLayout(modalities=many, tiles=1, size_px=16, tiles_per_shard=1)


def test_a_store_of_derived_modalities_only_is_refused() -> None:
    derived = tuple(m for m in small_catalog() if not m.stored)
    with pytest.raises(InputError, match="at least one modality with values to store"):
        StoreLayout(modalities=derived, tiles=1, size_px=16, tiles_per_shard=1)


def test_columns_of_tile_modalities_are_one_a_band() -> None:
    by_name = {m.name: m for m in small_catalog()}
    assert tabular_columns(by_name["weather"]) == ("weather_t", "weather_rain")
    assert tabular_columns(by_name["zone"]) == ("zone",)
    assert tabular_columns(by_name["optical"]) == ()
    assert tabular_columns(by_name["lat"]) == ()


@given(st.lists(st.text(max_size=30), max_size=40))
def test_flag_words_are_different_and_of_the_characters_cf_allows(names: list[str]) -> None:
    words = flag_words(names)
    assert len(words) == len(names)
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"[A-Za-z0-9_\-.+@]+", word) for word in words), "CF 3.5, flag_meanings"


@pytest.mark.parametrize(
    ("scale", "offset", "units", "stored"),
    [
        (1.0, 0.0, "K", "K"),
        (0.0001, 0.0, "1", "0.0001"),
        (0.01, 0.0, "m", "0.01 m"),
        (0.5, -20.0, "degC", "0.5 degC @ -40"),
    ],
)
def test_units_are_those_of_stored_numbers(scale: float, offset: float, units: str, stored: str) -> None:
    m = modality("x", Kind.RASTER_CONTINUOUS, ("a",), "uint16", 0, scale=scale, offset=offset, units=units)
    assert stored_units(m) == stored


def test_fill_values_of_attributes_are_spelled_as_xarray_does() -> None:
    specs = {spec.name: spec for spec in small_layout().arrays}
    text = specs["radar"].attributes["_FillValue"]
    assert math.isnan(struct.unpack("<d", base64.b64decode(text))[0])
    assert specs["radar"].fill == "NaN"
    assert specs["height"].attributes["_FillValue"] == specs["height"].fill == -32768


def test_only_modalities_and_time_carry_a_fill_value() -> None:
    carriers = {spec.name for spec in small_layout().arrays if "_FillValue" in spec.attributes}
    assert carriers == {m.name for m in small_catalog() if m.stored} | {"time"}


def test_flags_name_every_value_they_can_take() -> None:
    for spec in small_layout().arrays:
        meanings = spec.attributes.get("flag_meanings", "").split()
        values = spec.attributes.get("flag_values", spec.attributes.get("flag_masks", []))
        assert len(meanings) == len(values), spec.name
        assert all(np.array(values).astype(spec.dtype) == values), spec.name


def test_classes_that_share_a_name_keep_apart() -> None:
    classes = (ClassLabel(1, "Dry forest"), ClassLabel(2, "dry  forest"))
    m = modality("woods", Kind.TILE_CATEGORICAL, (), "uint8", 0, classes=classes)
    layout = StoreLayout(modalities=(m,), tiles=1, size_px=16, tiles_per_shard=1)
    attributes = next(spec for spec in layout.arrays if spec.name == "woods").attributes
    assert attributes["flag_meanings"] == "dry_forest dry_forest_2"


def test_empty_rows_are_what_the_contract_says() -> None:
    empty = {c.name: c.empty for c in COORDINATES}
    assert empty["tile_id"] == empty["valid"] == 0
    assert empty["split"] == empty["s2_level"] == 255
    assert empty["time"] == np.iinfo(np.int64).min
    assert math.isnan(empty["lon"])
    assert math.isnan(empty["s1_asc_days"])
