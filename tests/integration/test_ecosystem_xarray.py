"""Tiles in third-party libraries: rioxarray, odc-geo, and GDAL as it is in the wheels of rasterio and pyogrio.

They need libraries that nothing else needs, so ``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from store_making import make_columns, make_rasters

from mmearth_data import export, load_catalog, open_store
from mmearth_data.catalog.tile import tile_ids, transformer
from mmearth_data.store import Store, StoreLayout, StoreWriter

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*shapely.ops.transform:DeprecationWarning"),
]

SIZE_PX, TILES, EPSG = 32, 3, 32733
WEST, NORTH = 600_000.0, 7_000_000.0
CONTINUOUS, FLOAT, CLASSES = "sentinel2", "sentinel1", "esa_worldcover"


@pytest.fixture(scope="module", autouse=True)
def _accessors() -> None:
    """Register ``.rio`` and ``.odc``."""
    importlib.import_module("rioxarray")
    importlib.import_module("odc.geo.xr")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Tiles side by side in one zone."""
    path = tmp_path_factory.mktemp("side") / "s.zarr"
    modalities = load_catalog().select()
    layout = StoreLayout(modalities=modalities, tiles=TILES, size_px=SIZE_PX, tiles_per_shard=TILES)
    ulx = WEST + 10.0 * SIZE_PX * np.arange(TILES)
    lon, lat = np.round(transformer(EPSG, 4326).transform(ulx + 5 * SIZE_PX, np.full(TILES, NORTH - 5 * SIZE_PX)), 6)
    place = {"ulx": ulx, "uly": np.full(TILES, NORTH), "epsg": np.full(TILES, EPSG, np.int32), "lon": lon, "lat": lat}
    columns = make_columns(layout, 0) | place | {"tile_id": tile_ids(lon, lat, SIZE_PX)}
    writer = StoreWriter.create(path, layout, recipe={}, source={"name": "made up"}, synthetic=True)
    writer.write_shard(0, columns, make_rasters(layout, 0))
    writer.finish()
    return open_store(path)


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(store.path, tmp_path_factory.mktemp("out") / "tif", form="geotiff")


# ------------------------------------------------------------------------------------------------- rioxarray


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("position", range(TILES))
def test_a_geotiff_of_rioxarray_equals_the_exported_one(
    store: Store, exported: Path, tmp_path: Path, position: int, scale: bool
) -> None:
    tile = store.tile(position)
    dataset = tile.to_xarray(scale=scale)
    for m in (m for m in store.modalities.values() if m.stored and m.kind.is_raster):
        dataset[m.name].rio.to_raster(tmp_path / "one.tif")
        with rasterio.open(tmp_path / "one.tif") as ours, rasterio.open(exported / m.name / f"{tile.id}.tif") as theirs:
            np.testing.assert_array_equal(ours.read(), theirs.read())
            np.testing.assert_array_equal(ours.read(), tile[m.name])
            assert ours.dtypes == theirs.dtypes
            assert ours.nodata == theirs.nodata or np.isnan([ours.nodata, theirs.nodata]).all()
            assert ours.transform == theirs.transform
            assert ours.crs == theirs.crs == rasterio.CRS.from_epsg(EPSG)
            assert ours.bounds == theirs.bounds
            if scale:
                assert ours.scales == theirs.scales
                assert ours.offsets == theirs.offsets


def test_rioxarray_knows_where_a_tile_is(store: Store) -> None:
    tile = store.tile(1)
    dataset = tile.to_xarray()
    for one in (dataset, dataset[CONTINUOUS], dataset[CLASSES], dataset[FLOAT], dataset[CONTINUOUS] * 2):
        assert one.rio.crs.to_epsg() == EPSG
        assert tuple(one.rio.transform())[:6] == tile.transform
        assert tuple(one.rio.transform(recalc=True))[:6] == tile.transform
        assert one.rio.bounds() == tile.bounds
        assert one.rio.grid_mapping == "spatial_ref"
        assert (one.rio.width, one.rio.height) == (SIZE_PX, SIZE_PX)
    assert np.isnan(dataset[CONTINUOUS].rio.nodata)
    assert dataset[CONTINUOUS].rio.encoded_nodata == 0
    assert dataset[CLASSES].rio.nodata == 0
    west, south, east, north = tile.bounds or (0, 0, 0, 0)
    assert dataset.rio.clip_box(west + 20, south, east, north - 50).sizes["x"] == SIZE_PX - 2
    warped = dataset[CLASSES].rio.reproject("EPSG:4326")
    assert set(np.unique(warped)) <= {0, *dataset[CLASSES].attrs["flag_values"]}


# ------------------------------------------------------------------------------------------------- odc-geo


def test_the_geobox_of_odc_is_the_grid_of_the_tile(store: Store) -> None:
    geobox = importlib.import_module("odc.geo.geobox").GeoBox
    tile = store.tile(2)
    dataset = tile.to_xarray()
    expected = geobox((SIZE_PX, SIZE_PX), rasterio.Affine(*tile.transform), f"EPSG:{EPSG}")
    for one in (dataset, dataset[CONTINUOUS], dataset[CLASSES], dataset[FLOAT] + 1):
        assert one.odc.geobox == expected
        assert one.odc.crs.epsg == EPSG
        assert one.odc.spatial_dims == ("y", "x")
        assert one.odc.geobox.extent.boundingbox.bbox == tile.bounds


def test_odc_keeps_missing_values_missing(store: Store) -> None:
    """On a grid shifted by one pixel, where the nearest pixel is that pixel."""
    tile = store.tile(0)
    dataset = tile.to_xarray()
    shifted = dataset.odc.geobox.translate_pix(1, 0)
    for name in (CONTINUOUS, FLOAT):
        moved = dataset[name].odc.reproject(shifted).to_numpy()
        np.testing.assert_array_equal(moved[..., :-1], dataset[name].to_numpy()[..., 1:])
        assert np.isnan(moved[..., -1]).all(), "outside of the tile"
    classes = dataset[CLASSES].odc.reproject(shifted).to_numpy()
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes[..., :-1], tile[CLASSES][..., 1:])
    assert (classes[..., -1] == 0).all()


# ------------------------------------------------------------------------------------------------- GDAL

SOURCE = """<ComplexSource>
<SourceFilename relativeToVRT="1">{file}</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="{size}" ySize="{size}"/><DstRect xOff="{at}" yOff="0" xSize="{size}" ySize="{size}"/>
<NODATA>0</NODATA></ComplexSource>"""
MOSAIC = """<VRTDataset rasterXSize="{width}" rasterYSize="{size}"><SRS>EPSG:{epsg}</SRS>
<GeoTransform>{west}, 10, 0, {north}, 0, -10</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><NoDataValue>0</NoDataValue>{sources}</VRTRasterBand></VRTDataset>"""


def test_gdal_opens_cloud_optimised_files_and_a_mosaic_over_them(store: Store, exported: Path) -> None:
    ids = [tile.id for tile in map(store.tile, range(TILES))]
    for tile_id in ids:
        with rasterio.open(exported / CLASSES / f"{tile_id}.tif") as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert (file.driver, file.count) == ("GTiff", 1)
    sources = "".join(
        SOURCE.format(file=f"{tile_id}.tif", size=SIZE_PX, at=SIZE_PX * place) for place, tile_id in enumerate(ids)
    )
    mosaic = exported / CLASSES / "mosaic.vrt"
    mosaic.write_text(
        MOSAIC.format(width=TILES * SIZE_PX, size=SIZE_PX, epsg=EPSG, west=WEST, north=NORTH, sources=sources)
    )
    with rasterio.open(mosaic) as file:
        side_by_side = np.concatenate([store.tile(place)[CLASSES][0] for place in range(TILES)], axis=1)
        np.testing.assert_array_equal(file.read(1), side_by_side)
        assert (file.driver, file.crs.to_epsg()) == ("VRT", EPSG)
        assert file.bounds == (WEST, NORTH - 10 * SIZE_PX, WEST + 10 * SIZE_PX * TILES, NORTH)


def test_gdal_opens_a_geopackage_of_the_table(store: Store, tmp_path: Path) -> None:
    pyogrio = importlib.import_module("pyogrio")
    tiles = store.tiles
    tiles.to_file(tmp_path / "tiles.gpkg")
    info = pyogrio.read_info(tmp_path / "tiles.gpkg")
    assert (info["driver"], info["features"], info["geometry_type"], info["crs"]) == ("GPKG", 3, "Polygon", "EPSG:4326")
    back = pyogrio.read_dataframe(tmp_path / "tiles.gpkg")
    assert [int(number) for number in back.tile_id] == store.coords["tile_id"].tolist()
    assert back.time.tolist() == tiles.time.tolist()
    assert back.split.tolist() == tiles.split.tolist()
    assert back.geometry.geom_equals(tiles.geometry).all()


def test_what_the_documentation_says_of_gdal_in_wheels(store: Store) -> None:
    """No Parquet driver in either wheel, and a Zarr driver without the sharding codec in rasterio's."""
    pyogrio = importlib.import_module("pyogrio")
    with rasterio.Env() as env:
        drivers = env.drivers()
    assert "Parquet" not in drivers
    assert "Parquet" not in pyogrio.list_drivers()
    assert "Zarr" in drivers
    with pytest.raises(rasterio.errors.RasterioIOError, match="sharding_indexed"):
        rasterio.open(f'ZARR:"{store.path}":/{CLASSES}')


# ------------------------------------------------------------------------------------------------- xarray itself


def test_a_tile_survives_xarray_s_own_formats(store: Store, tmp_path: Path) -> None:
    tile = store.tile(0)
    dataset: Any = tile.to_xarray(scale=True)
    dataset.to_netcdf(tmp_path / "tile.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "tile.nc", engine="h5netcdf", decode_coords="all") as back:
        assert back.rio.crs.to_epsg() == EPSG
        assert tuple(back.rio.transform())[:6] == tile.transform
        assert back.odc.geobox == dataset.odc.geobox
        xr.testing.assert_allclose(back[CONTINUOUS], dataset[CONTINUOUS])
    with rasterio.open(f"netcdf:{tmp_path / 'tile.nc'}:{CLASSES}") as file:
        np.testing.assert_array_equal(file.read(), tile[CLASSES])
        assert file.crs.to_epsg() == EPSG
        assert tuple(file.transform)[:6] == tile.transform
