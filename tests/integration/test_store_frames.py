"""A store in xarray: columns in memory, codes as integers, tiles by id, physical units, and one tile on its grid."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import xarray as xr
import zarr
from store_making import begin_store, make_columns, make_rasters, make_store, small_layout, write_shard
from test_store_damage import flip

from mmearth_data import InputError, StoreDamaged, TileGrid
from mmearth_data.store import Store, StoreLayout, StoreWriter, open_store

LAYOUT = small_layout()
RASTERS = ("optical", "radar", "height", "cover", "flags")
CODES = {"cover": ("uint8", 0), "flags": ("uint16", 65535), "zone": ("uint16", 65535)}
"""Modality -> type and no-data code of its stored values."""
SCALE = 0.0001
"""Of the modality ``optical``."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of three shards."""
    path = tmp_path_factory.mktemp("frames") / "s.zarr"
    make_store(path)
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return open_store(path)


@pytest.fixture(scope="module")
def ds(store: Store) -> xr.Dataset:
    return store.dataset


def stored(path: Path, name: str) -> np.ndarray[Any, Any]:
    """Raw values of the rows with a tile, by plain xarray."""
    plain = xr.open_zarr(path, mask_and_scale=False, decode_times=False)
    values: np.ndarray[Any, Any] = plain[name].to_numpy()[plain["tile_id"].to_numpy() != 0]
    return values


def unread(dataset: xr.Dataset) -> list[str]:
    """Variables of which xarray would have to read the values to show them; Dask arrays are shown as such."""
    return re.findall(r"^[* ]+(\w+) .* \d+[kMG]?B \.\.\.$", repr(dataset), flags=re.MULTILINE)


# ------------------------------------------------------------------------------------------------- all tiles


def test_rasters_are_lazy_by_shards_and_everything_else_is_in_memory(ds: xr.Dataset, store: Store) -> None:
    assert unread(store.dataset) == []
    for name, array in ds.variables.items():
        assert (array.chunks is not None) == (name in RASTERS), name
        if name not in RASTERS:
            assert isinstance(ds[name].data, np.ndarray), name
    per_shard = [int(np.isin(LAYOUT.rows(shard), store.rows).sum()) for shard in range(LAYOUT.shards)]
    assert per_shard == [7, 8, 3]
    assert all(ds[name].chunksizes["tile"] == (8, 8, 2) for name in RASTERS)


@pytest.mark.parametrize("rows", [range(18), [0, 6, 7, 8, 9, 17], [17], []], ids=["gaps", "some", "one", "none"])
def test_a_selection_is_written_as_zarr_whatever_its_shards_lack(
    store: Store, ds: xr.Dataset, tmp_path: Path, rows: list[int]
) -> None:
    """Zarr takes Dask chunks of one length only."""
    store[list(rows)].dataset.to_zarr(tmp_path / "copy.zarr", consolidated=False)
    copy = zarr.open_group(tmp_path / "copy.zarr", mode="r")
    for name in ("cover", "flags"):
        np.testing.assert_array_equal(copy[name][:], ds[name].values[list(rows)])


@pytest.mark.parametrize("name", CODES)
def test_codes_stay_integers_with_their_flags(path: Path, ds: xr.Dataset, name: str) -> None:
    dtype, nodata = CODES[name]
    assert ds[name].dtype == dtype
    np.testing.assert_array_equal(ds[name], stored(path, name))
    assert (ds[name].attrs["nodata"], ds[name].attrs["nodata"].dtype) == (nodata, dtype)
    classes = store_classes(name)
    assert np.size(ds[name].attrs.get("flag_values", [])) == len(classes)
    if classes:
        flags = ds[name].attrs["flag_values"]
        assert flags.dtype == dtype, "CF: flags have the type of the variable"
        assert flags.tolist() == list(classes)
        assert len(ds[name].attrs["flag_meanings"].split()) == len(classes)


def test_flags_of_coordinates_have_their_type_too(ds: xr.Dataset) -> None:
    for name, flags in (("split", "flag_values"), ("s2_level", "flag_values"), ("valid", "flag_masks")):
        assert ds[name].attrs[flags].dtype == ds[name].dtype
    assert ds.split.attrs["flag_values"].tolist() == [0, 1, 2, 255]
    bit = ds.valid.attrs["flag_masks"][ds.valid.attrs["flag_meanings"].split().index("radar")]
    np.testing.assert_array_equal((ds.valid & bit) != 0, ds.radar.notnull().any(["radar_band", "y", "x"]))


def store_classes(name: str) -> dict[int, str]:
    """Class codes and names of the catalog."""
    m = next(m for m in LAYOUT.stored if m.name == name)
    return {label.code: label.name for label in m.classes}


def test_a_comparison_with_a_class_code(path: Path, ds: xr.Dataset) -> None:
    flags = dict(zip(ds.cover.attrs["flag_meanings"].split(), ds.cover.attrs["flag_values"], strict=True))
    assert int((ds.cover == flags["ice"]).sum()) == (stored(path, "cover") == 7).sum() > 0


@pytest.mark.parametrize(
    ("name", "nodata"), [("optical", 0), ("radar", np.nan), ("height", -32768), ("weather", np.nan)]
)
def test_quantities_are_floats_with_nan(path: Path, ds: xr.Dataset, name: str, nodata: float) -> None:
    raw = stored(path, name)
    missing = np.isnan(raw) if np.isnan(nodata) else raw == nodata
    assert ds[name].dtype == np.float32
    np.testing.assert_array_equal(ds[name], np.where(missing, np.nan, raw.astype(np.float64)))
    assert missing.any()


def test_where_drops_tiles(path: Path, ds: xr.Dataset) -> None:
    val = stored(path, "split") == 1
    kept = ds.where(ds.split == 1, drop=True)
    assert kept.sizes["tile"] == val.sum() > 1
    np.testing.assert_array_equal(kept.radar, stored(path, "radar")[val])
    assert kept.zone.dtype == np.uint16, "a coordinate"
    chosen = ds.sel(tile=ds.split == 1)
    assert chosen.cover.dtype == np.uint8
    np.testing.assert_array_equal(chosen.cover, stored(path, "cover")[val])


def test_groups_of_a_class(path: Path, ds: xr.Dataset) -> None:
    """By a coordinate, of the data set and of one of its arrays; the no-data code is a group too."""
    splits, height = stored(path, "split"), stored(path, "height").astype(float)
    height[height == -32768] = np.nan
    for sums in (ds.groupby("split").sum("tile").height, ds.height.groupby("split").sum("tile")):
        assert sums.split.values.tolist() == [0, 1, 2]
        for code in (0, 1, 2):
            np.testing.assert_allclose(sums.sel(split=code), np.nansum(height[splits == code], axis=0), rtol=1e-5)
    zones, counts = np.unique(stored(path, "zone"), return_counts=True)
    found = ds.weather.notnull().any("weather_band").groupby("zone").count()
    assert dict(zip(found.zone.values.tolist(), found.values.tolist(), strict=True)) == dict(
        zip(zones, counts, strict=True)
    )
    assert 65535 in zones


def test_tiles_by_id(path: Path, ds: xr.Dataset) -> None:
    ids = [f"{number:016x}" for number in stored(path, "tile_id").tolist()]
    assert ds.tile.values.tolist() == ids
    one = ds.sel(tile=ids[9])
    assert one.tile.item() == ids[9]
    np.testing.assert_array_equal(one.radar, stored(path, "radar")[9])
    np.testing.assert_array_equal(
        ds.sel(tile=[ids[17], ids[2]]).height.isnull(), stored(path, "height")[[17, 2]] == -32768
    )
    with pytest.raises(KeyError):
        ds.sel(tile="0" * 16)


def test_sorted_by_time(path: Path, ds: xr.Dataset) -> None:
    known = ds.isel(tile=ds.time.notnull().values).sortby("time")
    assert (np.diff(known.time.values) >= np.timedelta64(0, "ns")).all()
    order = np.argsort(stored(path, "time")[ds.time.notnull().values], kind="stable")
    raw = stored(path, "radar")[ds.time.notnull().values][order]
    np.testing.assert_array_equal(known.radar, raw)
    assert int(ds.time.isnull().sum()) == (stored(path, "time") == np.iinfo(np.int64).min).sum() > 0


def test_results_of_two_selections_are_aligned_by_tile(store: Store) -> None:
    first, second = store.select(split="train").dataset, store.select(where=lambda c: c["lat"] > 0).dataset
    both = (first.weather - second.weather).dropna("tile", how="all")
    assert 0 < both.sizes["tile"] < min(first.sizes["tile"], second.sizes["tile"])
    assert float(abs(both).max()) == 0


def test_values_may_be_written_to(store: Store) -> None:
    changed = store.dataset
    changed["lat"].values[:] = 0
    changed["zone"].values[:] = 0
    assert (store.dataset.lat.values != 0).all()
    assert (store.dataset.zone.values != 0).any()


def test_selected_modalities_only(store: Store) -> None:
    some = store.to_xarray(["cover", "zone", "lat"])
    assert set(some.data_vars) == {"cover"}
    assert {"zone", "tile", "lat", "cover_band"} <= set(some.coords)
    assert "optical_band" not in some.coords
    assert set(store.to_xarray("radar").data_vars) == {"radar"}
    with pytest.raises(InputError, match=r"expected modalities among optical, .*, got snow"):
        store.to_xarray(["cover", "snow"])
    with pytest.raises(InputError, match=r"among cover, got radar"):
        store.select(modalities=["cover"]).to_xarray("radar")


def test_scattered_tiles_are_read_without_those_between(store: Store, path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "s.zarr")
    damaged = open_store(tmp_path / "s.zarr")
    flip(tmp_path / "s.zarr" / "radar" / "c" / "1" / "0" / "0" / "0", 3000)
    some = []
    for row in range(8, 16):
        try:
            damaged.read("radar", slice(row, row + 1))
            some.append(row)
        except StoreDamaged:
            continue
    assert len(some) == 7, "one tile is damaged"
    sound = damaged.select(where=np.isin(damaged.rows, [3, *some, 20]))
    np.testing.assert_array_equal(
        sound.dataset.radar, store.select(where=np.isin(store.rows, sound.rows)).dataset.radar
    )


def test_rows_in_any_order(store: Store, path: Path) -> None:
    order = np.array([17, 0, 5, 5, 9, 2])
    shuffled = Store(store.content, store.rows[order]).dataset
    np.testing.assert_array_equal(shuffled.radar, stored(path, "radar")[order])
    np.testing.assert_array_equal(shuffled.isel(tile=[4, 1]).radar, stored(path, "radar")[order[[4, 1]]])
    np.testing.assert_array_equal(shuffled.radar[::-1], stored(path, "radar")[order[::-1]])
    np.testing.assert_array_equal(shuffled.lat, stored(path, "lat")[order])


def test_opening_reads_no_columns_but_the_ids(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / "zone" / "c" / "0").unlink()
    opened = open_store(tmp_path / "s.zarr")
    assert len(opened) == 18
    with pytest.raises(StoreDamaged, match="zone/c/0"):
        _ = opened.dataset
    assert opened.to_xarray("weather").sizes["tile"] == 18


# ------------------------------------------------------------------------------------------------- physical units


def test_physical_units(path: Path, store: Store, ds: xr.Dataset) -> None:
    scaled = store.to_xarray(scale=True)
    raw = stored(path, "optical")
    assert scaled.optical.dtype == np.float32
    np.testing.assert_allclose(scaled.optical, np.where(raw == 0, np.nan, raw * SCALE), rtol=1e-6)
    assert (scaled.optical.attrs["units"], ds.optical.attrs["units"]) == ("1", "0.0001")
    for name in ("radar", "height", "cover", "flags", "weather", "zone"):
        xr.testing.assert_identical(scaled[name].variable, ds[name].variable)
    assert scaled.optical.chunks == ds.optical.chunks


def test_physical_values_are_written_as_stored(path: Path, store: Store, tmp_path: Path) -> None:
    store.to_xarray(scale=True).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf", mask_and_scale=False) as raw:
        assert raw.optical.dtype == np.uint16
        np.testing.assert_array_equal(raw.optical, stored(path, "optical"))
        assert (float(raw.optical.attrs["scale_factor"]), raw.optical.attrs["_FillValue"]) == (SCALE, 0)


def test_a_scale_with_an_offset(tmp_path: Path) -> None:
    how = {"scale": 0.01, "offset": 273.15, "units": "K", "dtype": np.dtype("int16"), "nodata": -32768}
    kelvin = tuple(dataclasses.replace(m, **how) for m in LAYOUT.stored if m.name in ("height", "weather"))
    make_store(tmp_path / "s.zarr", StoreLayout(modalities=kelvin, tiles=5, size_px=16, tiles_per_shard=5))
    opened = open_store(tmp_path / "s.zarr")
    found = opened.to_xarray(scale=True)
    for m in kelvin:
        raw = opened.read(m.name, slice(0, 5))[opened.rows]
        np.testing.assert_allclose(found[m.name], np.where(raw == -32768, np.nan, raw * 0.01 + 273.15), rtol=1e-6)
        assert found[m.name].attrs["units"] == "K"
        assert found[m.name].dtype == np.float32
        assert opened.dataset[m.name].attrs["units"] == "0.01 K @ 27315"
    assert unread(opened.to_xarray(scale=True)) == unread(opened.dataset) == []


# ------------------------------------------------------------------------------------------------- files


def test_a_netcdf_file_has_the_same_values_and_types(ds: xr.Dataset, tmp_path: Path) -> None:
    part = ds.isel(tile=[1, 4, 16])
    part.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as back:
        xr.testing.assert_equal(back, part)
        assert set(back.coords) == set(part.coords)
        assert {name: back.attrs[name] for name in part.attrs} == part.attrs
        for name in ("cover", "zone"):
            assert back[name].dtype == part[name].dtype
            assert back[name].attrs["flag_values"].dtype == part[name].dtype
            np.testing.assert_array_equal(back[name].attrs["flag_values"], part[name].attrs["flag_values"])
            assert back[name].attrs["flag_meanings"] == part[name].attrs["flag_meanings"]
        assert back.sel(tile=part.tile.values[2]).tile_id == part.tile_id[2]


def test_zeros_computed_from_codes_survive_netcdf(path: Path, ds: xr.Dataset, tmp_path: Path) -> None:
    share = (ds.cover == 99).mean(["cover_band", "y", "x"])
    xr.Dataset({"share": share, "most": ds.cover.max(["cover_band", "y", "x"]) * 0}).to_netcdf(
        tmp_path / "x.nc", engine="h5netcdf"
    )
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as back:
        assert (back.share == 0).all()
        assert (back.most == 0).all()
        assert back.most.dtype == np.uint8


def test_an_unfinished_store(tmp_path: Path) -> None:
    writer = begin_store(tmp_path / "s.zarr")
    nothing = open_store(tmp_path / "s.zarr").dataset
    assert nothing.sizes["tile"] == 0
    assert nothing.load().cover.dtype == np.uint8
    write_shard(writer, 1)
    half = open_store(tmp_path / "s.zarr")
    found = half.dataset
    assert found.sizes["tile"] == 8
    np.testing.assert_array_equal(found.cover, make_rasters(LAYOUT, 1)["cover"])
    np.testing.assert_array_equal(found.lat, make_columns(LAYOUT, 1)["lat"])
    np.testing.assert_array_equal(
        half.content.read("radar", np.array([9, 2, 20, 8]))[[0, 3]], make_rasters(LAYOUT, 1)["radar"][[1, 0]]
    )
    assert np.isnan(half.content.read("radar", np.array([9, 2, 20, 8]))[[1, 2]]).all()
    tile = half.tile(0)
    assert tile.facts == {"scene": "S2-8"}
    assert tile.to_xarray("cover").sizes == {"cover_band": 1, "y": 16, "x": 16}


# ------------------------------------------------------------------------------------------------- one tile


@pytest.mark.parametrize("position", [0, 4, -1])
def test_properties_of_a_tile(store: Store, position: int) -> None:
    tile, coordinates = store.tile(position), store[position]["tile"]
    assert tile.tile_id == coordinates["tile_id"]
    assert tile.id == f"{tile.tile_id:016x}"
    assert (tile.lon, tile.lat, tile.epsg) == (coordinates["lon"], coordinates["lat"], coordinates["epsg"])
    assert tile.time == coordinates["time"] or (np.isnat(tile.time) and np.isnat(coordinates["time"]))
    assert tile.split == ("train", "val", "test")[coordinates["split"]]
    assert tile.s2_level == ("L1C", "L2A")[coordinates["s2_level"]]
    assert tile.crs == f"EPSG:{coordinates['epsg']}"
    west, north = coordinates["ulx"], coordinates["uly"]
    assert tile.bounds == (west, north - 160, west + 160, north)
    assert tile.transform == (10, 0, west, 0, -10, north)
    assert tile.grid == TileGrid(epsg=tile.epsg or 0, ulx=west, uly=north, size_px=16)
    assert tile.facts == json.loads(store.tiles["facts"].iloc[position])
    assert shapely.equals_exact(tile.outline, store.tiles.geometry.iloc[position], tolerance=1e-9)
    for name in (*RASTERS, "weather", "zone"):
        np.testing.assert_array_equal(tile[name], store[position][name])
    assert repr(tile).startswith(f"<Tile {tile.id}: {abs(tile.lat):.4f} {'NS'[tile.lat < 0]} ")
    assert repr(tile).endswith(f"{tile.s2_level}, {tile.split}, {tile.crs}>")


def test_a_tile_is_found_by_id_and_can_be_compared(store: Store) -> None:
    tile = store.tile(7)
    assert store.tile(tile.id) == store.tile(tile.tile_id) == store.tile(-11) == tile
    assert store.tile(6) != tile
    assert len({tile, store.tile(7), store.tile(6)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        tile.row = 3
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tile))["radar"], tile["radar"])
    part = store.select(split="val", modalities=["cover", "zone"])
    assert part.tile(0).id == store.tile(int(np.flatnonzero(store.coords["split"] == 1)[0])).id
    assert set(part.tile(0).to_xarray().data_vars) == {"cover"}


def test_unknown_modalities_of_a_tile_are_refused(store: Store) -> None:
    with pytest.raises(InputError, match=r"stored modalities optical, .*got 'snow'"):
        store.tile(0)["snow"]
    with pytest.raises(InputError, match="no tile has the id 0000000000000001"):
        store.tile("0000000000000001")
    with pytest.raises(InputError, match="no tile is at position 18"):
        store.tile(18)
    with pytest.raises(InputError, match="got snow"):
        store.tile(0).to_xarray("snow")


def test_a_tile_on_its_grid(store: Store, ds: xr.Dataset) -> None:
    tile = store.tile(3)
    found = tile.to_xarray()
    affine = rasterio.Affine(*tile.transform)
    for axis, values, centres in (
        ("x", found.x.values, [(affine @ (col + 0.5, 0))[0] for col in range(16)]),
        ("y", found.y.values, [(affine @ (0, row + 0.5))[1] for row in range(16)]),
    ):
        assert values.tolist() == centres
        assert found[axis].attrs["axis"] == axis.upper()
        assert found[axis].attrs["standard_name"] == f"projection_{axis}_coordinate"
    for name in RASTERS:
        assert found[name].dims == (f"{name}_band", "y", "x")
        assert found[name].chunks is None
        xr.testing.assert_equal(found[name].variable, ds[name].isel(tile=3).variable)
    assert found.tile.item() == tile.id
    assert found.optical.sel(optical_band=["nir", "red"]).sel(
        x=found.x[2], y=tile.bounds[3] - 1, method="nearest"
    ).shape == (2,)


def test_pyproj_and_gdal_read_the_crs_of_a_tile(store: Store) -> None:
    tile = store.tile(3)
    mapping = tile.to_xarray().spatial_ref
    expected = pyproj.CRS.from_epsg(tile.epsg)
    assert mapping.item() == tile.epsg
    assert pyproj.CRS.from_wkt(mapping.attrs["crs_wkt"]) == expected
    assert pyproj.CRS.from_wkt(mapping.attrs["spatial_ref"]) == expected
    by_parameters = {name: value for name, value in mapping.attrs.items() if name not in ("crs_wkt", "spatial_ref")}
    assert by_parameters["grid_mapping_name"] == "transverse_mercator"
    projected = pyproj.Proj(pyproj.CRS.from_cf(by_parameters))
    assert projected(tile.lon, tile.lat) == pytest.approx(pyproj.Proj(expected)(tile.lon, tile.lat), abs=0.01)
    assert rasterio.CRS.from_wkt(mapping.attrs["spatial_ref"]).to_epsg() == tile.epsg
    gdal = [float(number) for number in mapping.attrs["GeoTransform"].split()]
    assert tuple(rasterio.Affine.from_gdal(*gdal))[:6] == tile.transform


def test_the_netcdf_file_of_a_tile_follows_cf(store: Store, tmp_path: Path) -> None:
    tile = store.tile(3)
    tile.to_xarray(scale=True).to_netcdf(tmp_path / "tile.nc", engine="h5netcdf")
    with h5py.File(tmp_path / "tile.nc") as file:
        for name in RASTERS:
            assert file[name].attrs["grid_mapping"] == "spatial_ref"
            np.testing.assert_array_equal(file[name], tile[name])
        assert "grid_mapping" not in file["weather"].attrs
        assert file["spatial_ref"].attrs["grid_mapping_name"] == "transverse_mercator"
    with xr.open_dataset(tmp_path / "tile.nc", engine="h5netcdf", decode_coords="all") as back:
        assert back.optical.encoding["grid_mapping"] == "spatial_ref"
        xr.testing.assert_allclose(back.optical, tile.to_xarray(scale=True).optical)


def test_a_tile_in_physical_units(store: Store) -> None:
    raw = store.tile(0)["optical"]
    scaled = store.tile(0).to_xarray("optical", scale=True).optical
    np.testing.assert_allclose(scaled, np.where(raw == 0, np.nan, raw * SCALE), rtol=1e-6)
    assert scaled.attrs["units"] == "1"


def test_a_tile_without_a_corner_has_no_grid(tmp_path: Path) -> None:
    layout = small_layout(tiles=3)
    writer = StoreWriter.create(tmp_path / "s.zarr", layout, recipe={}, source={"name": "x"}, synthetic=False)
    missing = {name: np.full(3, np.nan) for name in ("ulx", "uly")}
    columns = make_columns(layout, 0) | missing | {"split": np.array([255, 0, 0], np.uint8)}
    columns |= {"epsg": np.array([0, 32633, 32633], np.int32), "s2_level": np.array([255, 0, 1], np.uint8)}
    writer.write_shard(0, columns, make_rasters(layout, 0))
    writer.finish()
    opened = open_store(tmp_path / "s.zarr")
    tile = opened.tile(0)
    assert (tile.epsg, tile.crs, tile.transform, tile.bounds, tile.outline, tile.grid) == (None,) * 6
    assert (tile.split, tile.s2_level) == (None, None)
    assert opened.tile(1).crs == "EPSG:32633"
    assert opened.tile(1).transform is None
    for one in (tile, opened.tile(1)):
        found = one.to_xarray()
        assert not {"x", "y", "spatial_ref"} & set(found.coords)
        assert "grid_mapping" not in found.optical.encoding
        assert found.sizes["x"] == 16
