"""Forty short uses of a store by people who know xarray, pandas, torch and geopandas, but not our documentation.

Each test is written as such a user would write it, and asserts the answer that they would expect. The expected values are
read by plain zarr-python and pyarrow, without this package.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import torch
import xarray as xr
import zarr
from matplotlib.figure import Figure
from pyproj import CRS
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler, random_split

from mmearth_data import InputError, Store, build, make_recipe, open_store
from mmearth_model import ConvNeXtV2, EncoderConfig, Normaliser, TileDataset

TILES, SIDE = 48, 32


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store of the synthetic planet."""
    path = tmp_path_factory.mktemp("home") / "planet.zarr"
    build(make_recipe("demo", {"tiles": TILES, "tile_size": SIDE}), path)
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return open_store(path)


@pytest.fixture(scope="module")
def stored(path: Path) -> Any:
    """The arrays as zarr-python reads them."""
    return zarr.open_group(path, mode="r")


@pytest.fixture(scope="module")
def ids(stored: Any) -> list[str]:
    """Ids as 16 hex digits."""
    return [f"{number:016x}" for number in stored["tile_id"][:].tolist()]


@pytest.fixture(scope="module")
def encoder(store: Store) -> ConvNeXtV2:
    """An encoder with statistics and random weights."""
    torch.manual_seed(0)
    config = EncoderConfig(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32), image_size=SIDE)
    network = ConvNeXtV2(config).eval()
    network.normaliser = Normaliser(list(store.modalities.values()), store.statistics, inputs=["sentinel2"])
    return network


# A store as a sequence and a mapping


def test_printing_a_store_shows_its_content(store: Store) -> None:
    """1."""
    text = repr(store)
    assert len(text.splitlines()) > 3
    assert f"{TILES}" in text
    assert all(name in text for name in store.modalities)
    assert "SYNTHETIC" in text


def test_a_notebook_shows_it_with_a_map_and_pictures(store: Store) -> None:
    """2."""
    page = store._repr_html_()
    assert "<table" in page
    assert page.count("<img") + page.count("<svg") >= 2
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_one_tile_by_its_position(store: Store, stored: Any, ids: list[str]) -> None:
    """3."""
    tile = store[3]
    np.testing.assert_array_equal(tile["sentinel2"], stored["sentinel2"][3])
    assert tile["tile"]["id"] == ids[3]


def test_the_last_tile(store: Store, ids: list[str]) -> None:
    """4."""
    assert store[-1]["tile"]["id"] == ids[-1]


def test_a_slice_is_a_smaller_store(store: Store, ids: list[str]) -> None:
    """5."""
    few = store[4:12]
    assert isinstance(few, Store)
    assert len(few) == 8
    assert few.tiles["id"].tolist() == ids[4:12]


def test_a_list_of_positions_and_a_boolean_mask(store: Store, ids: list[str]) -> None:
    """6."""
    assert store[[2, 5, 7]].tiles["id"].tolist() == [ids[2], ids[5], ids[7]]
    north = (store.tiles["lat"] > 0).to_numpy()
    assert len(store[north]) == north.sum()


def test_an_array_by_the_name_of_its_modality(store: Store, stored: Any) -> None:
    """7."""
    red = store["sentinel2"].sel(sentinel2_band="B4")
    assert isinstance(red, xr.DataArray)
    raw = stored["sentinel2"][:, 3].astype(np.float32)
    np.testing.assert_array_equal(red.fillna(0).to_numpy(), raw)


def test_a_loop_sees_every_tile_once(store: Store, ids: list[str]) -> None:
    """8."""
    assert [tile["tile"]["id"] for tile in store] == ids


def test_a_position_beyond_the_end_is_an_index_error(store: Store) -> None:
    """9."""
    with pytest.raises(IndexError):
        store[TILES]


def test_a_misspelt_modality_is_named(store: Store) -> None:
    """10."""
    with pytest.raises(InputError, match="sentinel2"):
        store["sentinel_2"]


def test_a_tile_by_its_id_or_position(store: Store, ids: list[str]) -> None:
    """11."""
    assert store.tile(ids[5]).id == store.tile(5).id == store.tile(int(ids[5], 16)).id == ids[5]


def test_a_store_survives_pickle(store: Store) -> None:
    """12."""
    assert len(pickle.loads(pickle.dumps(store[:5]))) == 5


# pandas and geopandas


def test_splits_are_counted_by_name(store: Store, stored: Any) -> None:
    """13."""
    assert (store.tiles.split == "train").sum() == (stored["split"][:] == 0).sum() > 0


def test_biomes_have_names(store: Store, stored: Any) -> None:
    """14."""
    counts = store.tiles["biome"].value_counts()
    codes = pd.Series(stored["biome"][:]).value_counts()
    assert isinstance(counts.index, pd.CategoricalIndex)
    assert counts.iloc[0] == codes.iloc[0]
    assert all(isinstance(name, str) for name in counts.index)


def test_a_crosstab_of_split_and_level(store: Store, stored: Any) -> None:
    """15."""
    table = pd.crosstab(store.tiles["split"], store.tiles["s2_level"])
    assert table.loc["train", "L2A"] == ((stored["split"][:] == 0) & (stored["s2_level"][:] == 1)).sum()


def test_groupby_has_no_warnings_and_no_bare_numbers(store: Store) -> None:
    """16."""
    means = store.tiles.groupby("biome", observed=True)["lat"].mean()
    assert means.index.dtype == "category" or means.index.dtype == object
    assert means.notna().all()


def test_ids_are_text_and_unique(store: Store, ids: list[str]) -> None:
    """17."""
    assert store.tiles["id"].tolist() == ids
    assert store.tiles.set_index("id").loc[ids[7], "lat"] == store.tiles["lat"].iloc[7]


def test_months_come_from_the_date(store: Store, stored: Any) -> None:
    """18."""
    months = store.tiles["time"].dt.month
    raw = stored["time"][:].view("datetime64[ms]").astype("datetime64[M]").astype(int) % 12 + 1
    assert months.tolist() == raw.tolist()


def test_outlines_have_the_right_area(store: Store) -> None:
    """19."""
    areas = store.tiles.to_crs("EPSG:6933").area
    np.testing.assert_allclose(areas, (SIDE * 10) ** 2, rtol=0.03)


def test_a_spatial_join_with_polygons_of_another_source(store: Store) -> None:
    """20."""
    halves = gpd.GeoDataFrame({"half": ["west", "east"]}, geometry=[shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90)], crs=4326)  # fmt: skip
    joined = store.tiles.sjoin(halves, predicate="within")
    assert (joined["half"] == "east").sum() == (store.tiles["lon"] > 0).sum()


def test_a_geopackage_for_qgis(store: Store, tmp_path: Path, ids: list[str]) -> None:
    """21."""
    store.tiles.to_file(tmp_path / "tiles.gpkg")
    back = gpd.read_file(tmp_path / "tiles.gpkg")
    assert back["id"].tolist() == ids
    assert set(back["split"]) <= {"train", "val", "test"}


def test_geopandas_reads_the_table_by_itself(path: Path, store: Store) -> None:
    """22."""
    frame = gpd.read_parquet(path / "tiles.parquet")
    assert frame.crs.equals(store.tiles.crs)
    assert len(frame) == TILES
    west, south, east, _ = frame.total_bounds
    assert len(gpd.read_parquet(path / "tiles.parquet", bbox=(west, south, east, 0))) == (frame.bounds.miny <= 0).sum()


# Selections


def test_a_box_in_degrees(store: Store) -> None:
    """23."""
    lon, lat = store.coords["lon"], store.coords["lat"]
    assert len(store.select(region=(0, 0, 90, 60))) == ((lon >= 0) & (lon <= 90) & (lat >= 0) & (lat <= 60)).sum()


def test_a_polygon_and_a_geoseries_in_another_crs(store: Store) -> None:
    """24."""
    polygon = shapely.box(-120, -40, 60, 60)
    series = gpd.GeoSeries([polygon], crs=4326)
    assert len(store.select(region=polygon)) == len(store.select(region=series)) > 0
    there = store.select(region=series.to_crs("EPSG:6933"))
    assert len(there) == len(store.select(region=polygon))


def test_a_mask_of_the_table(store: Store) -> None:
    """25."""
    tiles = store.tiles
    assert len(store.select(where=tiles["lat"] > 0)) == (tiles["lat"] > 0).sum()
    assert len(store.select(where=tiles["split"] == "val")) == len(store.select(split="val"))


def test_names_of_classes(store: Store) -> None:
    """26."""
    name = store.tiles["biome"].mode()[0]
    assert len(store.select(biome=name)) == (store.tiles["biome"] == name).sum()


def test_ids_out_of_a_table(store: Store, ids: list[str]) -> None:
    """27."""
    assert len(store.select(ids=store.tiles["id"].iloc[3:9])) == 6
    assert len(store.select(ids=[ids[0], int(ids[1], 16)])) == 2


# xarray


def test_a_mean_over_tiles_ignores_what_is_missing(store: Store, stored: Any) -> None:
    """28."""
    mean = float(store.dataset["sentinel2"].sel(sentinel2_band="B8").mean().compute())
    raw = stored["sentinel2"][:, 8].astype(np.float64)
    assert mean == pytest.approx(raw[raw > 0].mean(), rel=1e-5)


def test_where_drops_the_other_tiles(store: Store) -> None:
    """29."""
    train = store.dataset.where(store.dataset.split == 0, drop=True)
    assert train.sizes["tile"] == (store.tiles.split == "train").sum()


def test_groupby_a_class(store: Store, stored: Any) -> None:
    """30."""
    means = store.dataset["aster"].sel(aster_band="elevation").groupby("biome").mean(...).compute()
    code = int(means["biome"][0])
    mine = stored["aster"][:][stored["biome"][:] == code, 0].astype(np.float64)
    assert float(means[0]) == pytest.approx(mine[mine != -32768].mean(), rel=1e-4)


def test_land_cover_is_integers_with_flags(store: Store, stored: Any) -> None:
    """31."""
    cover = store.dataset["esa_worldcover"]
    assert cover.dtype == np.uint8
    assert len(cover.attrs["flag_meanings"].split()) == len(np.atleast_1d(cover.attrs["flag_values"]))
    assert int((cover == 10).sum()) == (stored["esa_worldcover"][:] == 10).sum()


def test_coordinates_are_in_memory(store: Store) -> None:
    """32."""
    assert all(isinstance(store.dataset[name].data, np.ndarray) for name in ("lon", "lat", "split", "time"))
    assert store.dataset.sortby("lat").lat.diff("tile").min() >= 0


def test_reflectance_is_between_0_and_1(store: Store, stored: Any) -> None:
    """33."""
    image = store.tile(0).to_xarray(scale=True)["sentinel2"]
    raw = stored["sentinel2"][0].astype(np.float64)
    np.testing.assert_allclose(image.fillna(0).to_numpy(), raw / 10_000, rtol=1e-6)


def test_a_tile_knows_where_it_is(store: Store, stored: Any) -> None:
    """34."""
    tile = store.tile(2).to_xarray()
    assert CRS.from_wkt(tile["spatial_ref"].attrs["crs_wkt"]).to_epsg() == stored["epsg"][2]
    assert tile["sentinel2"].encoding.get("grid_mapping", tile["sentinel2"].attrs.get("grid_mapping")) == "spatial_ref"
    assert float(tile.x[0]) == stored["ulx"][2] + 5
    assert float(tile.y[0]) == stored["uly"][2] - 5


def test_a_netcdf_file_for_a_colleague(store: Store, tmp_path: Path) -> None:
    """35."""
    store.dataset.isel(tile=slice(3)).to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "part.nc", engine="h5netcdf") as back:
        assert back.sizes["tile"] == 3
        np.testing.assert_array_equal(back["lat"], store.dataset["lat"][:3])


# torch


def test_a_data_set_for_any_sampler(store: Store) -> None:
    """36."""
    data: Dataset[Any] = store.torch()
    loader = DataLoader(data, batch_size=4, sampler=WeightedRandomSampler(torch.ones(len(store)), 12))
    assert [len(batch["sentinel2"]) for batch in loader] == [4, 4, 4]
    train, _ = random_split(data, [40, 8])
    assert len(train) == 40


def test_tensors_support_arithmetic(store: Store, stored: Any, ids: list[str]) -> None:
    """37."""
    batch = next(iter(DataLoader(store.torch(), batch_size=4)))
    bright = batch["sentinel2"] * 2 > 100
    assert batch["sentinel2"].dtype == torch.int32
    assert bright.sum() == (stored["sentinel2"][:4].astype(int) * 2 > 100).sum()
    assert list(batch["tile"]["tile_id"]) == ids[:4]


def test_a_forgotten_batch_size_is_explained(store: Store) -> None:
    """38."""
    with pytest.raises(InputError, match="batch_size=None"):
        next(iter(DataLoader(TileDataset(store, batch_size=4), batch_size=4)))


def test_from_a_batch_to_features_in_one_line(store: Store, encoder: ConvNeXtV2) -> None:
    """39."""
    batch = next(iter(store.loader(batch_size=16, shuffle=False)))
    images = encoder.preprocess(batch)
    assert images.shape == (16, 12, SIDE, SIDE)
    assert images.dtype == torch.float32
    torch.testing.assert_close(encoder.embed(store[:16]), encoder.embed(batch))
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(batch), encoder(images).mean(dim=(2, 3)))


def test_a_figure_that_can_be_edited(store: Store, tmp_path: Path) -> None:
    """40."""
    figure = store.plot(0, tmp_path / "tile.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "tile.png").stat().st_size > 10_000


def test_the_table_is_plain_parquet_as_well(path: Path, ids: list[str]) -> None:
    """In addition to the forty: other programs see the values that these tests compare with."""
    assert pq.read_table(path / "tiles.parquet")["id"].to_pylist() == ids
