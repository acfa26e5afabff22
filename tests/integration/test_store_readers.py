"""One store, many readers: xarray, zarr-python, tensorstore, geopandas and our own, while built and finished."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
import xarray as xr
import zarr
from geopandas.testing import assert_geodataframe_equal
from store_making import (
    begin_store,
    empty_positions,
    make_columns,
    make_rasters,
    make_store,
    small_layout,
    write_shard,
)

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import Modality
from mmearth_data.catalog.tile import NO_TIME
from mmearth_data.errors import InputError
from mmearth_data.store import Store, StoreLayout, StoreWriter, open_store

LAYOUT = small_layout()
SHIPPED = StoreLayout(modalities=load_catalog().select(), tiles=23, size_px=32, tiles_per_shard=16)


def truth(layout: StoreLayout, name: str) -> np.ndarray[Any, Any]:
    """Values of all rows as they were handed over; rows without a tile are empty."""
    m = next((m for m in layout.stored if m.name == name), None)
    parts = []
    for shard in range(layout.shards):
        empty = empty_positions(layout, shard)
        if m is not None and m.kind.is_raster:
            values = make_rasters(layout, shard, empty)[name]
        else:
            values = np.array(make_columns(layout, shard, empty)[name])
            spec = next(spec for spec in layout.arrays if spec.name == name)
            values = values.astype(spec.dtype)
            values[list(empty)] = spec.empty
        parts.append(values)
    return np.concatenate(parts)


def tiles_of(layout: StoreLayout) -> np.ndarray[Any, Any]:
    """Rows that hold a tile."""
    return np.flatnonzero(truth(layout, "tile_id"))


def as_float(values: np.ndarray[Any, Any], m: Modality) -> np.ndarray[Any, Any]:
    """Stored values with NaN where nothing was observed."""
    return np.where(m.observed(values), values.astype(np.float64), np.nan)


@pytest.fixture(scope="module", params=["made up", "shipped"])
def layout(request: pytest.FixtureRequest) -> StoreLayout:
    """The small catalog, and the one that ships."""
    return LAYOUT if request.param == "made up" else SHIPPED


@pytest.fixture(scope="module")
def path(layout: StoreLayout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store."""
    path = tmp_path_factory.mktemp("finished") / "s.zarr"
    make_store(path, layout)
    return path


@pytest.fixture(scope="module")
def unfinished(layout: StoreLayout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose last shard only is committed."""
    path = tmp_path_factory.mktemp("unfinished") / "s.zarr"
    write_shard(begin_store(path, layout), layout.shards - 1)
    return path


def test_every_value_comes_back_through_the_front_door(path: Path, layout: StoreLayout) -> None:
    store = open_store(path)
    assert store.finished
    assert list(store.modalities) == [m.name for m in layout.modalities]
    assert list(store.modalities.values()) == list(layout.modalities)
    for m in layout.stored:
        read = store.read(m.name, slice(0, layout.tiles))
        assert read.dtype == m.dtype
        np.testing.assert_array_equal(read, truth(layout, m.name))
    np.testing.assert_array_equal(store.rows, tiles_of(layout))
    for name in ("tile_id", "lon", "epsg", "s2_level", "split", "s1_asc_days"):
        np.testing.assert_array_equal(store.tile_columns[name], truth(layout, name))
        np.testing.assert_array_equal(store.coords[name], truth(layout, name)[store.rows])
    np.testing.assert_array_equal(store.coords["time"].astype(np.int64), truth(layout, "time")[store.rows])


@pytest.mark.parametrize("mask_and_scale", [True, False])
def test_every_value_comes_back_through_xarray(path: Path, layout: StoreLayout, mask_and_scale: bool) -> None:
    dataset = xr.open_zarr(path, mask_and_scale=mask_and_scale)
    for m in layout.stored:
        expected = as_float(truth(layout, m.name), m) if mask_and_scale else truth(layout, m.name)
        np.testing.assert_array_equal(dataset[m.name].to_numpy(), expected)
        assert mask_and_scale or dataset[m.name].dtype == m.dtype
        assert dataset[m.name].dims[0] == "tile"
        if m.bands:
            assert dataset[m.name].dims[1] == f"{m.name}_band"
            assert dataset[f"{m.name}_band"].to_numpy().tolist() == list(m.bands)
    for name, dtype in {
        "tile_id": "uint64",
        "epsg": "int32",
        "s2_level": "uint8",
        "split": "uint8",
        "valid": "uint32",
        "lon": "float64",
        "s1_desc_days": "float32",
    }.items():
        assert dataset.coords[name].dtype == dtype, "coordinates are never masked"
    np.testing.assert_array_equal(dataset["tile_id"].to_numpy(), truth(layout, "tile_id"))
    time = dataset["time"].to_numpy().astype("datetime64[ms]")
    np.testing.assert_array_equal(time.astype(np.int64), truth(layout, "time"))


def test_bands_and_values_can_be_selected_by_name(path: Path, layout: StoreLayout) -> None:
    dataset = xr.open_zarr(path, mask_and_scale=False)
    m = layout.rasters[0]
    picked = dataset[m.name].sel({f"{m.name}_band": m.bands[1]})
    np.testing.assert_array_equal(picked, truth(layout, m.name)[:, 1])


def test_zarr_python_and_tensorstore_read_the_same(path: Path, layout: StoreLayout) -> None:
    group = zarr.open_group(path, mode="r")
    assert group.metadata.consolidated_metadata is not None
    assert sorted(name for name, _ in group.members()) == sorted(spec.name for spec in layout.arrays)
    for m in layout.stored:
        np.testing.assert_array_equal(group[m.name][:], truth(layout, m.name))
        source = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / m.name)}}
        np.testing.assert_array_equal(ts.open(source, read=True).result().read().result(), truth(layout, m.name))


def test_our_reader_reads_the_same(path: Path, layout: StoreLayout) -> None:
    store = Store.open(path)
    for m in layout.rasters:
        np.testing.assert_array_equal(store.read(m.name, slice(0, layout.tiles)), truth(layout, m.name))


def test_metadata_of_each_array_are_those_of_the_root_and_what_netcdf_cannot_hold(path: Path) -> None:
    """The declarations of Zarr conventions, and the values that are objects, are in the array's own metadata only."""
    group = zarr.open_group(path, mode="r")
    declared = set()
    for name, array in group.members():
        alone = zarr.open_array(path / name, mode="r").metadata.to_dict()
        attributes = dict(alone["attributes"])
        for entry in attributes.pop("zarr_conventions", []):
            declared.add(entry["name"])
            for key in [key for key in attributes if key.partition(":")[0] == entry["name"]]:
                del attributes[key]
        alone["attributes"] = attributes
        assert repr(alone) == repr(array.metadata.to_dict()), "compared as text, since NaN is not NaN"
    assert {"spatial", "uom"} <= declared
    whole = zarr.open_group(path, mode="r", use_consolidated=False)
    assert whole["lon"].attrs["uom"] == {"ucum": {"unit": "deg"}}, "which readers of the arrays see"


def test_plain_xarray_is_silent(path: Path, unfinished: Path) -> None:
    code = """
import sys, xarray
for path in sys.argv[1:]:
    for mask_and_scale in (True, False):
        dataset = xarray.open_zarr(path, mask_and_scale=mask_and_scale)
        dataset.isel(tile=slice(0, 3)).load()
"""
    command = [sys.executable, "-W", "error", "-c", code, str(path), str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_the_dataset_of_the_front_door_is_that_of_xarray(path: Path, layout: StoreLayout) -> None:
    """But for codes, which stay integers, and can be written as such; labels, which are coordinates; and an index."""
    store = open_store(path)
    codes = {m.name: False for m in layout.stored if not m.kind.is_continuous}
    plain = xr.open_zarr(path, mask_and_scale={spec.name: spec.name not in codes for spec in layout.arrays})
    labels = [m.name for m in layout.tabular if m.kind.is_categorical]
    plain = plain.load().isel(tile=store.rows).set_coords(labels)
    for name in codes:
        plain[name].attrs["nodata"] = plain[name].attrs.pop("_FillValue")
    ours = store.dataset.load()
    assert ours.indexes["tile"].tolist() == [f"{number:016x}" for number in store.coords["tile_id"].tolist()]
    xr.testing.assert_identical(ours.drop_vars("tile"), plain)


def test_dask_chunks_are_as_long_as_the_fullest_shard(path: Path, layout: StoreLayout) -> None:
    """Zarr takes chunks of one length only, and shards have rows without a tile."""
    store = open_store(path).select(where=lambda c: c["lat"] > -1000)
    longest = max(np.isin(np.array(layout.rows(shard)), store.rows).sum() for shard in range(layout.shards))
    *full, last = store.dataset.chunks["tile"]
    assert set(full) == {longest}
    assert 0 < last <= longest
    assert sum(full) + last == len(store)


def test_xarray_shows_what_the_attributes_say(path: Path, layout: StoreLayout) -> None:
    dataset = xr.open_zarr(path)
    for m in layout.stored:
        attributes = dataset[m.name].attrs
        assert attributes["long_name"] == m.long_name
        assert attributes["licence"] == m.licence.name
        assert attributes["attribution"] == m.licence.attribution
        assert "scale_factor" not in dataset[m.name].encoding
        if m.classes:
            assert attributes["flag_values"] == [label.code for label in m.classes]
    assert dataset["split"].attrs["flag_meanings"].split() == ["train", "val", "test", "none"]
    assert dataset["s2_level"].attrs["flag_values"] == [0, 1, 255]
    assert dataset["s2_level"].attrs["flag_meanings"].split() == ["L1C", "L2A", "none"]
    assert dataset["time"].encoding["units"] == "milliseconds since 1970-01-01"
    assert dataset["time"].encoding["calendar"] == "proleptic_gregorian"
    assert dataset["lon"].attrs["units"] == "degrees_east"
    assert dataset.attrs["synthetic"] == 1
    assert json.loads(dataset.attrs["source"])["synthetic"] is True
    assert dataset.attrs["tiles_per_shard"] == layout.tiles_per_shard
    assert dataset.attrs == open_store(path).dataset.attrs


def test_valid_bits_follow_their_own_names(path: Path, layout: StoreLayout) -> None:
    valid = xr.open_zarr(path)["valid"]
    names = valid.attrs["flag_meanings"].split()
    assert names == [m.name for m in layout.stored]
    for name, mask in zip(names, valid.attrs["flag_masks"], strict=True):
        m = next(m for m in layout.stored if m.name == name)
        seen = m.observed(truth(layout, name)).reshape(layout.tiles, -1).any(axis=1)
        np.testing.assert_array_equal((valid.to_numpy() & mask) != 0, seen)


def test_the_index_is_that_of_the_arrays(path: Path, layout: StoreLayout) -> None:
    frame = gpd.read_parquet(path / "tiles.parquet")
    rows = frame["row"].to_numpy()
    np.testing.assert_array_equal(rows, tiles_of(layout))
    for name in ("tile_id", "lon", "lat", "epsg", "split", "s2_level"):
        np.testing.assert_array_equal(frame[name], truth(layout, name)[rows])
    facts = [fact for shard in range(layout.shards) for fact in make_columns(layout, shard)["facts"]]
    assert frame["facts"].tolist() == [facts[row] for row in rows]
    rejected = pd.read_parquet(path / "rejected.parquet")
    assert rejected["reason"].tolist() == ["sentinel2_nodata"] * layout.shards
    assert rejected["slot"].isna().tolist() == [shard > 0 for shard in range(layout.shards)]


def test_the_table_is_what_geopandas_reads(path: Path) -> None:
    """Column by column, in the same types but for names of classes; a selection is those rows of it."""
    store = open_store(path)
    expected = gpd.read_parquet(path / "tiles.parquet").rename(columns={"datetime": "time"})[store.tiles.columns]
    names = {"split": {0: "train", 1: "val", 2: "test"}, "s2_level": {0: "L1C", 1: "L2A"}}
    names |= {m.name: {c.code: c.name for c in m.classes} for m in store.layout.tabular if m.kind.is_categorical}
    for name, labels in names.items():
        expected[name] = pd.Categorical(expected[name].map(labels), categories=list(labels.values()))
    assert_geodataframe_equal(store.tiles, expected)
    chosen = store.select(where=lambda c: c["lat"] > 0)
    assert 0 < len(chosen) < len(store)
    assert_geodataframe_equal(chosen.tiles, expected[expected["lat"] > 0].reset_index(drop=True))
    assert gc.isenabled()


@pytest.mark.parametrize("finished", [True, False])
def test_the_table_of_a_selection(path: Path, unfinished: Path, finished: bool) -> None:
    store = open_store(path if finished else unfinished).select(where=lambda c: c["lat"] > 0)
    frame = store.tiles
    np.testing.assert_array_equal(frame["row"], store.rows)
    np.testing.assert_array_equal(frame["tile_id"], store.coords["tile_id"])
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.is_valid.all()


def test_one_tile(path: Path, layout: StoreLayout) -> None:
    store = open_store(path)
    for position in (0, 3, -1):
        row = store.rows[position]
        tile = store[position]
        assert list(tile) == [*(m.name for m in layout.stored), "tile"]
        for m in layout.stored:
            assert np.shape(tile[m.name]) == m.array_shape(layout.size_px)
            np.testing.assert_array_equal(tile[m.name], truth(layout, m.name)[row])
        assert tile["tile"]["tile_id"] == truth(layout, "tile_id")[row]
    for position in (len(store), -len(store) - 1):
        with pytest.raises(IndexError, match=f"positions are 0 to {len(store) - 1}"):
            store[position]
    assert sum(1 for _ in store) == len(store)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished store of the small catalog."""
    path = tmp_path_factory.mktemp("select") / "s.zarr"
    make_store(path)
    return open_store(path)


def test_a_dataset_can_be_computed_in_other_processes(store: Store) -> None:
    dataset = pickle.loads(pickle.dumps(store.dataset))
    m = LAYOUT.rasters[0]
    expected = np.nansum(as_float(truth(LAYOUT, m.name), m))
    assert float(dataset[m.name].sum(dtype=np.float64).compute(scheduler="processes", num_workers=2)) == expected


class TestSelect:
    """Selections of the small store."""

    def test_by_split(self, store: Store) -> None:
        for code, name in enumerate(("train", "val", "test")):
            chosen = store.select(split=name)
            assert set(chosen.coords["split"]) == {code}
        assert len(store.select(split=["train", "val", "test"])) == len(store)
        assert len(store.select(split="train").select(split="val")) == 0

    def test_by_class_name_or_code(self, store: Store) -> None:
        code = int(store.read("zone", slice(0, 1))[0])
        by_code, by_name = store.select(zone=code), store.select(zone=[f"zone {code}"])
        np.testing.assert_array_equal(by_code.rows, by_name.rows)
        assert 0 in by_code.rows

    def test_by_modality(self, store: Store) -> None:
        chosen = store.select(modalities=["lat", "cover", "optical"])
        assert list(chosen.modalities) == ["optical", "cover", "lat"], "in catalog order"
        assert set(chosen[0]) == {"optical", "cover", "tile"}
        assert set(chosen.dataset.data_vars) == {"optical", "cover"}
        with pytest.raises(InputError, match="optical, cover, got 'radar'"):
            chosen.read("radar", slice(0, 1))

    def test_by_condition(self, store: Store) -> None:
        north = store.select(where=lambda coords: coords["lat"] > 0)
        assert (north.coords["lat"] > 0).all()
        mask = store.coords["lat"] > 0
        np.testing.assert_array_equal(store.select(where=mask).rows, north.rows)
        np.testing.assert_array_equal(store.rows[mask], north.rows)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"split": "training"}, "split: expected train, val, test, got training"),
            ({"split": 3}, "got 3"),
            ({"zone": "zone 301"}, r"zone: expected zone 0, .*\.\.\., got zone 301"),
            ({"cover": 1}, r"modality with classes per tile \(zone\), got 'cover'"),
            ({"modalities": ["snow"]}, "got snow"),
            ({"where": np.ones(3, dtype=bool)}, r"boolean array of 18 tiles, got \(3,\)"),
            ({"where": lambda coords: coords["lat"]}, "boolean array"),
        ],
    )
    def test_what_is_not_known_is_refused(self, store: Store, arguments: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError, match=words):
            store.select(**arguments)

    @pytest.mark.parametrize("name", ["snow", "lat"])
    def test_what_is_not_stored_cannot_be_read(self, store: Store, name: str) -> None:
        with pytest.raises(InputError, match=f"stored modalities optical, .*got '{name}'"):
            store.read(name, slice(0, 2))

    def test_rows_with_a_step_are_refused(self, store: Store) -> None:
        with pytest.raises(InputError, match="step of 2"):
            store.read("optical", slice(0, 4, 2))

    def test_what_is_read_may_be_written_to_and_leaves_the_store_alone(self, store: Store) -> None:
        for name in ("optical", "zone", "weather"):
            values = store.read(name, slice(0, 4))
            before = values.copy()
            values[:] = 0
            np.testing.assert_array_equal(store.read(name, slice(0, 4)), before)

    def test_a_selection_can_be_pickled(self, store: Store) -> None:
        chosen = pickle.loads(pickle.dumps(store.select(split="train", modalities=["cover"])))
        np.testing.assert_array_equal(chosen.rows, store.select(split="train").rows)
        np.testing.assert_array_equal(chosen[0]["cover"], store[0]["cover"])

    def test_rows_before_the_first_and_after_the_last(self, store: Store) -> None:
        assert store.read("optical", slice(5, 5)).shape == (0, 3, 16, 16)
        assert store.read("optical", slice(20, 99)).shape == (1, 3, 16, 16)


class TestUnfinished:
    """A store of which only the last shard is committed."""

    def test_what_is_committed_can_be_read(self, unfinished: Path, layout: StoreLayout) -> None:
        store = open_store(unfinished)
        assert not store.finished
        assert store.digest is None
        last = np.array(layout.rows(layout.shards - 1))
        rows = np.intersect1d(last, tiles_of(layout))
        np.testing.assert_array_equal(store.rows, rows)
        for m in layout.stored:
            read = store.read(m.name, slice(0, layout.tiles))
            np.testing.assert_array_equal(read[last], truth(layout, m.name)[last])
            assert not m.observed(read[: last[0]]).any()
        np.testing.assert_array_equal(store.coords["lon"], truth(layout, "lon")[rows])
        np.testing.assert_array_equal(store[0][layout.rasters[0].name], truth(layout, layout.rasters[0].name)[rows[0]])
        assert "NOT FINISHED" in repr(store)

    def test_its_dataset_has_the_coordinates_that_plain_xarray_lacks(
        self, unfinished: Path, layout: StoreLayout
    ) -> None:
        store = open_store(unfinished)
        dataset = store.dataset.load()
        np.testing.assert_array_equal(dataset["lon"], store.coords["lon"])
        plain = xr.open_zarr(unfinished)
        assert not plain["valid"].to_numpy().any(), "a plain reader keeps to rows with valid > 0"
        assert not plain["tile_id"].to_numpy().any()
        assert (plain["split"] == 255).all()
        assert np.isnat(plain["time"].to_numpy()).all()
        raw = xr.open_zarr(unfinished, mask_and_scale=False, decode_times=False)
        assert (raw["time"] == NO_TIME).all()
        assert raw["time"].attrs["_FillValue"] == NO_TIME

    def test_statistics_are_those_of_the_committed_tiles(self, unfinished: Path, layout: StoreLayout) -> None:
        store = open_store(unfinished)
        m = next(m for m in layout.rasters if m.kind.is_continuous and m.statistics_by == "none")
        values = truth(layout, m.name)[store.rows, 0]
        found = store.statistics["all"][m.name]["-"][m.bands[0]]
        assert found["count"] == m.observed(values).sum()
        assert store.statistics["train"][m.name]["-"][m.bands[0]]["count"] == 0

    def test_values_of_a_shard_that_was_cut_off_are_not_shown(self, layout: StoreLayout, tmp_path: Path) -> None:
        writer = begin_store(tmp_path / "s.zarr", layout)
        write_shard(writer, 0)
        (tmp_path / "s.zarr" / "_commits" / "0.parquet").unlink()
        store = open_store(tmp_path / "s.zarr")
        assert len(store) == 0
        assert not layout.rasters[0].observed(store.read(layout.rasters[0].name, slice(0, 4))).any()

    def test_nothing_committed(self, tmp_path: Path) -> None:
        begin_store(tmp_path / "s.zarr")
        store = open_store(tmp_path / "s.zarr")
        assert len(store) == len(store.tiles) == 0
        assert store.dataset.sizes["tile"] == 0
        assert store.statistics["all"]["optical"]["L2A"]["red"]["count"] == 0


@pytest.mark.parametrize("make", ["nothing", "empty", "file", "other files", "other zarr", "broken json"])
def test_what_is_not_a_store_is_an_input_error(make: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    if make == "file":
        path.write_bytes(b"x")
    elif make != "nothing":
        path.mkdir()
    if make == "other files":
        (path / "notes.txt").write_text("x")
    elif make == "other zarr":
        zarr.open_group(path, mode="w")
    elif make == "broken json":
        (path / "zarr.json").write_text('{"zarr_format": 3, ')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"x\.zarr: expected .*, (got|found) ") as caught:
        open_store(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError):
        StoreWriter.resume(path)


def test_a_store_of_a_later_format_says_so(tmp_path: Path) -> None:
    begin_store(tmp_path / "s.zarr")
    root = tmp_path / "s.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"format_version":2', '"format_version":3'))
    with pytest.raises(InputError, match="expected store format 1 or 2, got 3"):
        open_store(tmp_path / "s.zarr")


def test_opening_is_silent_here_too(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_store(path).dataset.load()
