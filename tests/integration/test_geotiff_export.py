"""Exported GeoTIFFs as GDAL reads them: pixels, grid, names and layout."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from store_making import make_columns, make_rasters
from toy_store import write_store

from mmearth_data import Progress, export, load_catalog, open_store
from mmearth_data.cli import cli
from mmearth_data.store import StoreLayout, StoreWriter

TILES = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("geotiff") / "s.zarr"
    modalities = load_catalog().select(["sentinel2", "sentinel1", "aster", "esa_worldcover", "era5"])
    layout = StoreLayout(modalities=modalities, tiles=TILES, size_px=144, tiles_per_shard=16)
    writer = StoreWriter.create(path, layout, recipe={}, source={"name": "made up"}, synthetic=True)
    writer.write_shard(0, make_columns(layout, 0, (1,)), make_rasters(layout, 0, (1,)))
    writer.finish()
    return path


@pytest.fixture(scope="module")
def exported(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(store, tmp_path_factory.mktemp("out") / "tif", form="geotiff")


def is_cloud_optimised(path: Path) -> bool:
    """By the layout that GDAL announces in the file, and by the order of its parts: directories before pixels."""
    data = path.read_bytes()
    announced = b"LAYOUT=IFDS_BEFORE_DATA" in data[:300]
    (first,) = struct.unpack("<I", data[4:8])
    offsets = []
    while first:
        (count,) = struct.unpack("<H", data[first : first + 2])
        entries = {}
        for k in range(count):
            tag, kind, number, value = struct.unpack("<HHII", data[first + 2 + 12 * k : first + 14 + 12 * k])
            entries[tag] = (kind, number, value)
        _, number, value = entries[324]  # TileOffsets
        pixels = [value] if number == 1 else list(struct.unpack(f"<{number}I", data[value : value + 4 * number]))
        offsets.append((first, min(pixels)))
        (first,) = struct.unpack("<I", data[first + 2 + 12 * count : first + 6 + 12 * count])
    return announced and max(start for start, _ in offsets) < min(pixel for _, pixel in offsets)


def test_every_tile_and_modality_is_one_cloud_optimised_file(store: Path, exported: Path) -> None:
    opened = open_store(store)
    names = {f"{int(tile_id):016x}.tif" for tile_id in opened.coords["tile_id"]}
    for name in ("sentinel2", "sentinel1", "aster", "esa_worldcover"):
        assert {path.name for path in (exported / name).iterdir()} == names
        assert all(is_cloud_optimised(path) for path in (exported / name).iterdir())
    assert {path.name for path in exported.iterdir() if path.is_file()} == {"tiles.parquet", "export.json"}
    frame = gpd.read_parquet(exported / "tiles.parquet")
    assert len(frame) == TILES - 1
    assert "era5_year_avg_temp" in frame, "values of the whole tile are columns of the table"


def test_the_items_of_the_table_are_the_files(exported: Path) -> None:
    """STAC items: each asset is a file of the export with the tile's pixels, and no link leads to a file that is not there."""
    frame = gpd.read_parquet(exported / "tiles.parquet")
    for tile, assets, links in zip(frame["id"], frame["assets"], frame["links"], strict=True):
        assert set(assets) == {"sentinel2", "sentinel1", "aster", "esa_worldcover"}
        for name, asset in assets.items():
            assert asset["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
            with rasterio.open(exported / asset["href"]) as dataset:
                assert (dataset.tags()["tile_id"], dataset.tags()["modality"]) == (tile, name)
        assert not len(links)
    assert "collection" not in frame, "which an item without a link to its collection does not have"


def test_two_dates_of_a_location_are_two_files_that_name_the_time(tmp_path: Path) -> None:
    def twice(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        arrays["tile_id"][1] = arrays["tile_id"][0]
        arrays["lon"][1], arrays["lat"][1] = arrays["lon"][0], arrays["lat"][0]

    store = write_store(tmp_path / "s.zarr", 16, names=["esa_worldcover"], change=twice)
    out = export(store.path, tmp_path / "tif", form="geotiff")
    first, second = (f"{np.datetime64(t, 'ms')}".replace(":", "") for t in store.coords["time"][:2])
    name = f"{int(store.coords['tile_id'][0]):016x}"
    found = {path.stem for path in (out / "esa_worldcover").iterdir()}
    assert {f"{name}_{first}", f"{name}_{second}"} <= found
    hrefs = [assets["esa_worldcover"]["href"] for assets in gpd.read_parquet(out / "tiles.parquet")["assets"][:2]]
    assert hrefs == [f"./esa_worldcover/{name}_{stamp}.tif" for stamp in (first, second)]


def test_gdal_reads_what_the_store_holds(store: Path, exported: Path) -> None:
    opened = open_store(store)
    for position in range(len(opened)):
        tile = opened[position]
        for name in ("sentinel2", "sentinel1", "aster", "esa_worldcover"):
            m = opened.modalities[name]
            with rasterio.open(exported / name / f"{int(tile['tile']['tile_id']):016x}.tif") as file:
                np.testing.assert_array_equal(file.read(), tile[name])
                np.testing.assert_array_equal(file.read_masks() > 0, m.observed(tile[name]))
                assert file.descriptions == m.bands
                assert file.nodata == m.nodata or (np.isnan(file.nodata) and np.isnan(m.nodata))
                assert file.crs.to_epsg() == tile["tile"]["epsg"]
                assert file.res == (10, 10)
                assert (file.bounds.left, file.bounds.top) == (tile["tile"]["ulx"], tile["tile"]["uly"])
                assert set(file.scales) == {m.scale}
                assert file.dtypes[0] == m.dtype.name
                assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert file.tags()["synthetic"] == "yes"
                assert file.tags()["attribution"] == m.licence.attribution
                if name == "aster":
                    assert file.units == ("m", "degree")
                if m.classes:
                    assert file.colormap(1)[10] == (0, 100, 0, 255)
                    assert json.loads(file.tags()["classes"])["10"] == "Tree cover"


def test_an_interrupted_export_goes_on(store: Path, exported: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.rows_done == 1:
            raise KeyboardInterrupt

    out = tmp_path / "tif"
    with pytest.raises(KeyboardInterrupt):
        export(store, out, form="geotiff", report=stop)
    assert not (out / "tiles.parquet").exists()
    (first,) = (out / "aster").iterdir()
    stamp = first.stat().st_mtime_ns
    export(store, out, form="geotiff")
    assert first.stat().st_mtime_ns == stamp
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files == {str(p.relative_to(exported)): p.read_bytes() for p in exported.rglob("*") if p.is_file()}
    assert export(store, out, form="geotiff") == out


def test_tiles_without_a_corner_have_no_grid(tmp_path: Path) -> None:
    layout = StoreLayout(modalities=load_catalog().select(["sentinel2"]), tiles=1, size_px=16, tiles_per_shard=16)
    writer = StoreWriter.create(tmp_path / "s.zarr", layout, recipe={}, source={"name": "x"}, synthetic=False)
    columns = make_columns(layout, 0) | {name: np.array([np.nan]) for name in ("ulx", "uly")}
    writer.write_shard(0, columns, make_rasters(layout, 0))
    writer.finish()
    said: list[str] = []
    export(tmp_path / "s.zarr", tmp_path / "tif", form="geotiff", note=said.append)
    assert "1 tiles have no corner" in said[0]
    (path,) = (tmp_path / "tif" / "sentinel2").iterdir()
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        file = rasterio.open(path)
    assert (file.crs, file.count) == (None, 13)
    file.close()


def test_a_folder_with_other_files_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for arguments, word in (([], "other files"), (["--name", "x"], "--name")):
        result = CliRunner().invoke(
            cli, ["export", str(store), "--format", "geotiff", "--out", str(tmp_path), *arguments]
        )
        assert result.exit_code == 2
        assert word in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("form", ["rasters", "chips"])
def test_a_store_that_is_built_from_the_files_of_a_synthetic_one_is_synthetic(
    form: str, exported: Path, tmp_path: Path
) -> None:
    layer = {"modality": "esa_worldcover", "bands": ["map"]}
    described: dict[str, object] = {
        "rasters": {
            "root": str(exported),
            "base": "esa_worldcover",
            "layers": [{**layer, "path": "esa_worldcover/{site}.tif"}],
        },
        "chips": {"images": str(exported / "esa_worldcover"), "modalities": [{**layer, "path": "**"}]},
    }[form]
    (tmp_path / "files.yaml").write_text(json.dumps(described), encoding="utf-8")
    words = ["build", "--source", f"{form}:{tmp_path / 'files.yaml'}", "--out", str(tmp_path / "s.zarr"), "--json"]
    result = CliRunner().invoke(cli, [*words, *(["--tile-size", "144"] if form == "rasters" else [])])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["synthetic"] is True
