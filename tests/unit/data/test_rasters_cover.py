"""Covers of raster files: the tiles of a grid per UTM zone, with the pixels of all files below them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import yaml
from rasterio.warp import Resampling, reproject
from rasters_world import EPSG, World, write_tif

from mmearth_data import Store, build, make_recipe, open_store, preview, verify

LEFT, TOP, SIDE = 600_000, 5_300_160, 80
"""On multiples of 160 m: the cells of tiles of 16 px are 5 x 5 in each file."""


def world(root: Path, files: dict[str, tuple[int, int, int]]) -> World:
    """Sentinel-2 of one band per site: name -> (EPSG code, easting, northing) of its upper-left corner."""
    rng = np.random.default_rng(5)
    for name, (epsg, left, top) in files.items():
        grid = {"crs": f"EPSG:{epsg}", "transform": rasterio.Affine(10, 0, left, 0, -10, top)}
        write_tif(root / "s2" / f"{name}.tif", rng.integers(1, 9000, (1, SIDE, SIDE)).astype("int16"), **grid)
    layers = [{"modality": "sentinel2", "path": "s2/{site}.tif", "bands": ["B2"], "level": "L2A", "nodata": 0}]
    found = World(root, {"root": ".", "base": "sentinel2", "layers": layers})
    found.file.write_text(yaml.safe_dump(found.mapping))
    return found


def cover(found: World, **more: Any) -> Store:
    recipe = {"source": f"rasters:{found.file}", "cover": True, "tile_size": 16, **more}
    return build(make_recipe(None, recipe), found.root / "c.zarr")


def pixels_of(store: Store) -> np.ndarray[Any, Any]:
    """Band B2 of the tiles, (tile, y, x)."""
    band = store.modalities["sentinel2"].bands.index("B2")
    return store.read("sentinel2", slice(0, store.layout.tiles))[store.rows][:, band]


def pasted(store: Store, left: int, top: int, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Tiles side by side on one canvas; where they overlap they must agree."""
    size = store.layout.size_px
    canvas = np.zeros((shape[0] + 2 * size, shape[1] + 2 * size), np.uint16)
    seen = np.zeros(canvas.shape, bool)
    for tile, x, y in zip(pixels_of(store), store.coords["ulx"], store.coords["uly"], strict=True):
        row, col = size + int(top - y) // 10, size + int(x - left) // 10
        window = np.s_[row : row + size, col : col + size]
        assert (canvas[window] == tile)[seen[window]].all()
        canvas[window], seen[window] = tile, True
    inner = np.s_[size:-size, size:-size]
    assert seen[inner].all()
    return canvas[inner]


def values(found: World, name: str) -> np.ndarray[Any, Any]:
    with rasterio.open(found.root / "s2" / f"{name}.tif") as dataset:
        read: np.ndarray[Any, Any] = dataset.read(1)
        return read


@pytest.mark.parametrize("overlap_px", [0, 6])
def test_files_on_the_lattice_are_copied_without_a_gap(tmp_path: Path, overlap_px: int) -> None:
    found = world(tmp_path, {"a": (EPSG, LEFT, TOP)})
    store = cover(found, overlap_px=overlap_px)
    assert (len(store) == 25) == (overlap_px == 0)
    assert store.overlap_px == overlap_px
    np.testing.assert_array_equal(pasted(store, LEFT, TOP, (SIDE, SIDE)), values(found, "a"))
    assert (store.coords["split"] == 255).all()
    assert (store.coords["s2_level"] == 1).all()
    assert verify(store.path).problems == ()


def test_a_tile_takes_pixels_from_all_files_below_it(tmp_path: Path) -> None:
    found = world(tmp_path, {"a": (EPSG, LEFT, TOP), "b": (EPSG, LEFT + 10 * SIDE, TOP)})
    store = cover(found, tile_size=48)
    both = np.hstack([values(found, "a"), values(found, "b")])
    np.testing.assert_array_equal(pasted(store, LEFT, TOP, (SIDE, 2 * SIDE)), both)
    assert any(json.loads(facts).get("sites") == ["a", "b"] for facts in store.tiles["facts"])


def test_files_of_two_zones_are_covered_by_cells_of_both(tmp_path: Path) -> None:
    found = world(tmp_path, {"a": (32632, LEFT, TOP), "b": (32633, 400_000, TOP)})
    store = cover(found)
    assert set(store.coords["epsg"].tolist()) == {32632, 32633}
    assert verify(store.path).problems == ()


def test_files_of_one_zone_stay_in_it_beyond_its_border(tmp_path: Path) -> None:
    """Granules reach into the neighbouring zone; their pixels are copied there too."""
    found = world(tmp_path, {"a": (32632, 740_000, TOP)})
    store = cover(found)
    assert (store.coords["lon"] > 12).all()
    assert set(store.coords["epsg"].tolist()) == {32632}
    np.testing.assert_array_equal(pasted(store, 740_000, TOP, (SIDE, SIDE))[:, 16:64], values(found, "a")[:, 16:64])


def test_files_off_the_lattice_are_resampled_as_by_gdal(tmp_path: Path) -> None:
    found = world(tmp_path, {"a": (EPSG, LEFT + 3, TOP - 4)})
    store = cover(found)
    expected = np.zeros((SIDE, SIDE))
    reproject(
        values(found, "a").astype(float),
        expected,
        src_transform=rasterio.Affine(10, 0, LEFT + 3, 0, -10, TOP - 4),
        dst_transform=rasterio.Affine(10, 0, LEFT, 0, -10, TOP),
        src_crs=f"EPSG:{EPSG}",
        dst_crs=f"EPSG:{EPSG}",
        resampling=Resampling.bilinear,
    )
    inner = np.s_[2:-2, 2:-2]
    got = pasted(store, LEFT, TOP, (SIDE, SIDE))[inner]
    np.testing.assert_allclose(got, expected[inner], atol=0.51)


def test_cells_of_a_region_without_files_are_empty_and_listed(tmp_path: Path) -> None:
    found = world(tmp_path, {"a": (EPSG, LEFT, TOP)})
    lon, lat = 10.3442, 47.8436
    recipe = {"region": f"bbox:{lon},{lat},{lon + 0.01},{lat + 0.01}"}
    store = cover(found, **recipe)
    assert 0 < len(store) < store.layout.tiles
    rejected = pq.read_table(found.root / "c.zarr" / "rejected.parquet").to_pylist()
    assert len(rejected) == store.layout.tiles - len(store)
    assert {(row["reason"], row["detail"]) for row in rejected} == {
        ("not_in_source", "no site of the mapping covers this tile")
    }
    assert store.recipe["region"] == recipe["region"]
    assert verify(store.path).problems == ()
    assert cover(found, **recipe).digest == store.digest, "the same command leaves it as it is"


def test_a_border_without_data_gives_no_tile(tmp_path: Path) -> None:
    found = world(tmp_path, {"a": (EPSG, LEFT, TOP)})
    with rasterio.open(found.root / "s2" / "a.tif", "r+") as dataset:
        band = dataset.read(1)
        band[:, :32] = 0
        dataset.write(band, 1)
    store = cover(found)
    assert len(store) == 15
    details = pq.read_table(found.root / "c.zarr" / "rejected.parquet")["detail"].unique().to_pylist()
    assert details == ["the files have no values for this tile"]


def test_the_plan_counts_the_cells_of_the_files(tmp_path: Path) -> None:
    found = world(tmp_path, {"a": (EPSG, LEFT, TOP)})
    plan = preview(make_recipe(None, {"source": f"rasters:{found.file}", "cover": True, "tile_size": 16}))
    assert (plan["tiles"], plan["cover"]) == (25, {"overlap_px": 0, "cells": {"EPSG:32632": 25}})
    assert not list(found.root.glob("*.zarr"))
    store = cover(found)
    assert "region" not in store.recipe
    assert open_store(store.path).layout.tiles == 25
