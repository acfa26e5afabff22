"""Tiles over polygons: all pixels are covered, few tiles, none overlap, and no polygon is in two splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from mmearth_data.catalog.tile import TileGrid
from mmearth_data.errors import InputError
from mmearth_data.sampling import PlaceColumns, SamplingOptions
from mmearth_data.sampling.grouping import footprints
from mmearth_data.sampling.lattices import cells_of_each, squares_over
from mmearth_data.sampling.polygon_tiles import PolygonTiles, sample_of_polygons, tiles_over
from mmearth_data.sampling.polygons import read_labelled_polygons

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 1280


def scattered(seed: int, count: int, extent_m: float, radius_m: float) -> NDArray[np.object_]:
    rng = np.random.default_rng(seed)
    centres = np.add(rng.uniform(0, extent_m, (count, 2)), [300_000, 5_000_000])
    return np.asarray(shapely.buffer(shapely.points(centres), rng.uniform(1, radius_m, count), quad_segs=2))


def outlines(geometry: NDArray[np.object_]) -> NDArray[np.object_]:
    """Distinct squares over polygons of one zone."""
    found = squares_over(geometry, np.full(len(geometry), 32632), SIDE)
    west, north = np.unique(np.stack([found.west, found.north], axis=1), axis=0).T
    assert not (west % 10).any()
    assert not (north % 10).any()
    return np.asarray(shapely.box(west, north - SIDE, west + SIDE, north))


@pytest.mark.parametrize(
    ("count", "extent_m", "radius_m"),
    [(1, 10, 5), (300, 100_000, 50), (500, 60_000, 300), (300, 60_000, 2500), (12, 100_000, 20_000)],
)
@pytest.mark.parametrize("seed", range(3))
def test_squares_cover_polygons_without_overlaps(seed: int, count: int, extent_m: float, radius_m: float) -> None:
    geometry = scattered(seed, count, extent_m, radius_m)
    squares = outlines(geometry)
    assert shapely.area(shapely.difference(shapely.union_all(geometry), shapely.union_all(squares))) < 1
    one, other = shapely.STRtree(squares).query(squares, predicate="intersects")
    apart = one < other
    assert shapely.area(shapely.intersection(squares[one[apart]], squares[other[apart]])).max(initial=0) == 0
    _, row, column = cells_of_each(geometry, np.zeros((count, 2)), SIDE)
    assert len(squares) <= len(set(zip(row.tolist(), column.tolist(), strict=True)))


def test_cells_are_those_that_polygons_touch() -> None:
    geometry = scattered(5, 40, 30_000, 6000)
    polygon, row, column = cells_of_each(geometry, np.zeros((40, 2)), SIDE)
    found = set(zip(polygon.tolist(), row.tolist(), column.tolist(), strict=True))
    for k, shape in enumerate(geometry):
        west, south, east, north = (int(edge // SIDE) for edge in shape.bounds)
        for i in range(south, north + 1):
            for j in range(west, east + 1):
                cell = shapely.box(j * SIDE, i * SIDE, (j + 1) * SIDE, (i + 1) * SIDE).buffer(-0.01)
                assert ((k, i, j) in found) == shape.intersects(cell)


def test_a_far_small_polygon_has_one_tile_around_it() -> None:
    corner = shapely.box(SIDE * 300 - 50, SIDE * 4000 - 40, SIDE * 300 + 50, SIDE * 4000 + 40)
    (square,) = outlines(np.array([corner], dtype=object))
    assert square.centroid.distance(corner.centroid) < 10


# ---------------------------------------------------------------- files


def tiles(path: Path, shapes: list[Any], names: PlaceColumns | None = None, **options: Any) -> PolygonTiles:
    """Tiles over polygons of zone 32, whose columns are among the options."""
    columns = {name: options.pop(name) for name in ("split", "day", "fold") if name in options}
    frame = gpd.GeoDataFrame({"crop": ["a"] * len(shapes), **columns}, geometry=shapes, crs=32632)
    frame.to_file(path / "f.gpkg")
    method = {"split": options.pop("method", "block")}
    touched = options.pop("touched", False)
    chosen = SamplingOptions(tiles=1, size_px=64, **method, **options)
    return tiles_over(
        read_labelled_polygons(path / "f.gpkg", ["crop"]), chosen, names or PlaceColumns(), touched=touched
    )


def fields(count: int, size_m: float = 200.0) -> list[Any]:
    """Adjacent squares that fill an area, in rows of 40, so that many of them are in several tiles."""
    return [
        shapely.box(500_000 + size_m * (k % 40), 5_200_000 + size_m * (k // 40), 500_000 + size_m * (k % 40 + 1), 5_200_000 + size_m * (k // 40 + 1))
        for k in range(count)
    ]  # fmt: skip


def test_a_second_split_of_polygons_is_refused(tmp_path: Path) -> None:
    names = PlaceColumns(second_split=("split (--split)",))
    with pytest.raises(InputError, match=r"^split \(--split\): expected none with .*whose column split is kept"):
        tiles(tmp_path, fields(2), names, split=["train", "test"])
    assert len(tiles(tmp_path, fields(2), names))


def splits_of_polygons(found: PolygonTiles) -> list[set[int]]:
    """Splits of the tiles that each polygon is burnt in."""
    splits: list[set[int]] = [set() for _ in range(len(found.polygons))]
    for tile_id, split in zip(found.tile_id.tolist(), found.split.tolist(), strict=True):
        for polygon in found.of_tile(tile_id).tolist():
            splits[polygon].add(split)
    return splits


def grids(found: PolygonTiles) -> list[TileGrid]:
    columns = zip(found.epsg.tolist(), found.ulx.tolist(), found.uly.tolist(), strict=True)
    return [TileGrid(epsg=epsg, ulx=ulx, uly=uly, size_px=64) for epsg, ulx, uly in columns]


def test_blocks_split_a_dense_area_and_no_small_polygon_is_in_two_splits(tmp_path: Path) -> None:
    found = tiles(tmp_path, fields(1600), split_shares=(60, 20, 20))
    assert set(found.split.tolist()) == {0, 1, 2}
    splits = splits_of_polygons(found)
    assert max(map(len, splits)) == 1
    assert min(map(len, splits)) == 1
    assert any("extend into tiles of several splits" in note for note in found.notes)


def test_random_splits_keep_the_tiles_of_a_polygon_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shapes = [
        shapely.box(x, y, x + 900, y + 300) for x, y in np.add(rng.uniform(0, 60_000, (60, 2)), [500_000, 5_200_000])
    ]
    found = tiles(tmp_path, shapes, method="random", split_shares=(60, 20, 20))
    assert set(found.split.tolist()) == {0, 1, 2}
    assert {len(splits) for splits in splits_of_polygons(found)} == {1}
    assert sum(len(found.of_tile(tile)) for tile in found.tile_id.tolist()) > len(shapes)


@pytest.mark.parametrize("name", ["split", "fold"])
def test_a_column_of_splits_is_kept_and_a_mixed_tile_has_the_last_of_them(tmp_path: Path, name: str) -> None:
    near = [shapely.box(500_000 + 150 * k, 5_200_000, 500_100 + 150 * k, 5_200_100) for k in range(3)]
    far = [shapely.box(600_000, 5_200_000, 600_100, 5_200_100)]
    names = PlaceColumns(split=None if name == "split" else name)
    found = tiles(tmp_path, [*near, *far], names, **{name: ["train", "test", "train", "val"]})
    assert sorted(found.split.tolist()) == [1, 2]
    assert splits_of_polygons(found) == [set(), {2}, set(), {1}]
    assert any("2 of 4 polygons are in tiles with polygons of a later split" in note for note in found.notes)


def test_each_date_has_its_own_tiles_of_the_same_areas(tmp_path: Path) -> None:
    shapes = fields(80)
    days = ["2019-06-01" if k % 2 else "2020-07-01" for k in range(80)]
    found = tiles(tmp_path, shapes, PlaceColumns(date="day"), day=days, split_shares=(100, 0, 0))
    assert found.date_ms is not None
    assert len(np.unique(found.tile_id)) == len(found)
    same = {(grid.ulx, grid.uly) for grid in grids(found)}
    assert len(same) * 2 == len(found)
    for tile_id, day in zip(found.tile_id.tolist(), found.date_ms.tolist(), strict=True):
        expected = {days[row] for row in found.polygons.row[found.of_tile(tile_id)]}
        assert expected == {str(np.datetime64(day, "ms").astype("datetime64[D]"))}


def test_tiles_that_overlap_across_zones_are_in_one_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    shapes = [shapely.Point(12 + x, 50 + y).buffer(0.002) for x, y in rng.uniform(-0.03, 0.03, (60, 2))]
    gpd.GeoDataFrame({"crop": ["a"] * 60}, geometry=shapes, crs=4326).to_file(tmp_path / "f.gpkg")
    options = SamplingOptions(tiles=1, size_px=64, split="random", split_shares=(40, 30, 30))
    found = tiles_over(read_labelled_polygons(tmp_path / "f.gpkg", ["crop"]), options, PlaceColumns(), touched=False)
    assert set(found.epsg.tolist()) == {32632, 32633}
    squares = footprints(grids(found), 1.0)
    one, other = shapely.STRtree(squares).query(squares, predicate="intersects")
    assert (one != other).any()
    assert (found.split[one] == found.split[other]).all()


def test_polygons_without_a_pixel_are_left_out_unless_touched(tmp_path: Path) -> None:
    shapes = [shapely.box(500_001, 5_200_001, 500_004, 5_200_004), shapely.box(600_000, 5_200_000, 600_050, 5_200_050)]
    found = tiles(tmp_path, shapes)
    assert len(found) == 1
    assert any("1 of 2 polygons contain no pixel centre" in note for note in found.notes)
    assert len(tiles(tmp_path, shapes, touched=True)) == 2


def test_the_sample_has_grids_and_dates_in_the_order_of_splits(tmp_path: Path) -> None:
    found = tiles(tmp_path, fields(400), PlaceColumns(date="day"), day=["2020-01-31"] * 400, split_shares=(60, 20, 20))
    frame = sample_of_polygons(found, SamplingOptions(tiles=1, size_px=64), None).frame
    assert (np.diff(frame["split"].astype(int)) >= 0).all()
    assert set(frame["date_ms"]) == {int(np.datetime64("2020-01-31", "ms").astype(np.int64))}
    by_id = {tile: (grid.ulx, grid.uly) for tile, grid in zip(found.tile_id.tolist(), grids(found), strict=True)}
    assert {row.tile_id: (row.ulx, row.uly) for row in frame.itertuples()} == by_id
