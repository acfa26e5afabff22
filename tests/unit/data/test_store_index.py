"""Outlines of tiles, and the tables that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from store_making import make_columns, make_rejected, small_layout

from mmearth_data.catalog.tile import TileGrid, transformer, utm_epsg
from mmearth_data.errors import InputError
from mmearth_data.store.commits import Commit
from mmearth_data.store.index import check_crs, outlines_from_wkb, rejected_table, tile_outlines, tiles_writer
from mmearth_data.store.root import Root, new_root
from mmearth_data.store.shards import check_columns, check_rejected


def outlines_at(places: list[tuple[float, float]], size_px: int = 128) -> np.ndarray[Any, Any]:
    """Outlines of tiles around given locations."""
    grids = [TileGrid.around(lon, lat, utm_epsg(lon, lat), size_px) for lon, lat in places]
    columns = {name: np.array([getattr(grid, name) for grid in grids]) for name in ("epsg", "ulx", "uly")}
    return tile_outlines(columns, size_px)


@pytest.mark.parametrize("place", [(12.5, 55.7), (-70.0, -54.0), (3.1, 61.0), (30.0, 83.5), (-120.3, -79.5)])
def test_an_outline_is_the_square_in_its_own_grid(place: tuple[float, float]) -> None:
    (outline,) = outlines_at([place])
    assert outline.is_valid
    assert outline.exterior.is_ccw
    epsg = utm_epsg(*place)
    square = shapely.transform(outline, lambda xy: np.stack(transformer(4326, epsg).transform(*xy.T), axis=-1))
    grid = TileGrid.around(*place, epsg, 128)
    assert square.area == pytest.approx(1280**2, rel=1e-6)
    np.testing.assert_allclose(square.bounds, grid.bounds, atol=1e-3)
    assert outline.contains(shapely.Point(place))


def test_a_tile_across_180_degrees_is_two_polygons_on_either_side() -> None:
    west, east, elsewhere = outlines_at([(179.9999, 52.0), (-179.999, -17.0), (10.0, 50.0)])
    for outline in (west, east):
        assert outline.geom_type == "MultiPolygon"
        assert outline.is_valid
        assert len(outline.geoms) == 2
        assert outline.bounds[0] == -180
        assert outline.bounds[2] == 180
        assert max(part.bounds[2] - part.bounds[0] for part in outline.geoms) < 1
        assert all(part.exterior.is_ccw for part in outline.geoms)
    assert elsewhere.geom_type == "Polygon"
    width = west.area / (west.bounds[3] - west.bounds[1])
    assert width == pytest.approx(1280 / (111_320 * np.cos(np.radians(52))), rel=0.1)


@pytest.mark.parametrize(
    ("ulx", "uly", "kind"),
    [
        (-200_000, 200_000, "MultiPolygon"),
        (-200_000, 200_640, "Polygon"),
        (-200_640, 200_000, "Polygon"),
    ],
)
def test_a_tile_that_only_touches_180_degrees_is_one_polygon(ulx: float, uly: float, kind: str) -> None:
    """In these polar coordinates, 180 degrees is the diagonal x = -y: it halves the first square, and meets a corner of others."""
    columns = {"epsg": np.array([3413]), "ulx": np.array([float(ulx)]), "uly": np.array([float(uly)])}
    (outline,) = tile_outlines(columns, 64)
    assert (outline.geom_type, outline.is_valid) == (kind, True)
    parts = shapely.bounds(shapely.get_parts(outline))
    assert (parts[:, 2] - parts[:, 0]).max() < 1


def test_a_tile_whose_corner_is_not_known_has_no_outline() -> None:
    grid = TileGrid.around(10.0, 50.0, 32632, 64)
    columns = {"epsg": np.array([32632, 0]), "ulx": np.array([grid.ulx, np.nan]), "uly": np.array([grid.uly, np.nan])}
    outline, none = tile_outlines(columns, 64)
    assert outline.contains(shapely.Point(10.0, 50.0))
    assert none is None


def test_a_crs_that_nobody_knows_is_refused() -> None:
    check_crs(3035)
    with pytest.raises(InputError, match="got 123456"):
        check_crs(123456)


def commit_of(shard: int, keep: int) -> Commit:
    """Record of the first few rows of a shard."""
    layout = small_layout()
    rows = np.array(layout.rows(shard))
    columns, facts = check_columns(layout, len(rows), make_columns(layout, shard))
    columns["valid"] = np.ones(len(rows), dtype=np.uint32)
    kept = {name: column[:keep] for name, column in columns.items()}
    return Commit(shard=shard, rows=rows[:keep], columns=kept, facts=facts[:keep])


def small_root() -> Root:
    """Root of a store of small tiles."""
    return new_root(small_layout(), recipe={}, source={"name": "made up"}, synthetic=True)


def test_tiles_are_read_by_geopandas(tmp_path: Path) -> None:
    path = tmp_path / "tiles.parquet"
    commits = [commit_of(0, 8), commit_of(1, 0), commit_of(2, 3)]
    with tiles_writer(path, small_root()) as tables:
        tables.add(commits[:2])
        tables.add(commits[2:])
    frame = gpd.read_parquet(path)
    assert frame.crs.to_epsg() == 4326
    assert frame["row"].tolist() == [*range(8), 16, 17, 18]
    assert frame.geometry.is_valid.all()
    assert shapely.contains(frame.geometry.to_numpy(), shapely.points(frame.lon, frame.lat)).all()
    np.testing.assert_array_equal(frame["weather_t"][:8], commits[0].columns["weather"][:, 0])
    assert str(frame["datetime"].dtype).startswith("datetime64[ms, UTC")
    assert frame["datetime"].isna().tolist() == [row % 7 == 3 for row in frame["row"]]
    np.testing.assert_allclose(frame.total_bounds, _geo(path)["bbox"])


def _geo(path: Path) -> dict[str, Any]:
    metadata = pq.read_metadata(path).metadata
    column: dict[str, Any] = json.loads(metadata[b"geo"])["columns"]["geometry"]
    return column


def test_geoparquet_metadata_say_what_the_column_holds(tmp_path: Path) -> None:
    path = tmp_path / "tiles.parquet"
    with tiles_writer(path, small_root()) as tables:
        tables.add([commit_of(0, 8)])
    column = _geo(path)
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 4326}


def test_a_store_in_which_every_row_is_empty_has_an_index_too(tmp_path: Path) -> None:
    path = tmp_path / "tiles.parquet"
    with tiles_writer(path, small_root()) as tables:
        tables.add([commit_of(0, 0)])
    frame = gpd.read_parquet(path)
    assert len(frame) == 0
    assert frame.crs.to_epsg() == 4326


def test_rejected_candidates_keep_their_ids_and_missing_slots() -> None:
    rows = check_rejected([*make_rejected(0), *make_rejected(1)])
    table = rejected_table(rows)
    assert table["tile_id"].to_pylist() == [entry["tile_id"] for shard in (0, 1) for entry in make_rejected(shard)]
    assert table["slot"].to_pylist() == [2, None]
    assert table["reason"].to_pylist() == ["sentinel2_nodata"] * 2
    assert rejected_table([]).num_rows == 0


@pytest.mark.parametrize("lon", [[8.5, 8.6, 8.7], [8.5, 179.9999, 8.7]])
def test_outlines_are_read_as_shapely_reads_them(lon: list[float]) -> None:
    """Also where one of them is two polygons, and from the middle of a column."""
    drawn = outlines_at(list(zip(lon, [47.0, 60.0, -20.0], strict=True)))
    column = pa.array(shapely.to_wkb(drawn), type=pa.binary())
    assert shapely.equals_exact(outlines_from_wkb(column), drawn).all()
    assert shapely.equals_exact(outlines_from_wkb(column[1:]), drawn[1:]).all()
    assert len(outlines_from_wkb(column[:0])) == 0
    other = pa.array(shapely.to_wkb(drawn, byte_order=0), type=pa.binary())
    assert shapely.equals_exact(outlines_from_wkb(other), drawn).all()
