"""The tables of a store in third-party readers: stac-geoparquet, rustac, pystac and DuckDB."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from store_making import small_layout
from test_store_tables import CORNERLESS, CROSSING, begun

from mmearth_data.store import open_store
from mmearth_data.store.commits import empty_columns
from mmearth_data.store.root import collection_id, read_root
from mmearth_data.store.storage import storage_at

LIBRARIES = {"duckdb": "duckdb", "pystac": "pystac", "rustac": "rustac", "stac_arrow": "stac_geoparquet.arrow"}
"""Name in this module -> library that only the environment of ``make prove-ecosystem`` has."""
duckdb: Any = None
pystac: Any = None
rustac: Any = None
stac_arrow: Any = None

pytestmark = pytest.mark.ecosystem


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    globals().update({name: importlib.import_module(library) for name, library in LIBRARIES.items()})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles with outlines, one of them across 180 degrees, and some without a time."""
    path = tmp_path_factory.mktemp("tables") / "s.zarr"
    begun(path, small_layout(), 3, corners=True).finish()
    return path


@pytest.fixture(scope="module")
def items(store: Path) -> list[dict[str, Any]]:
    """Its tiles as items, read by stac-geoparquet."""
    return list(stac_arrow.stac_table_to_items(pq.read_table(store / "tiles.parquet")))


@pytest.fixture(scope="module")
def sql() -> Iterator[Any]:
    """DuckDB with its spatial extension, from the package of the same version."""
    (extension,) = files("duckdb_extension_spatial").joinpath(f"extensions/v{duckdb.__version__}").iterdir()
    with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as connection:
        connection.execute(f"LOAD '{extension}'")
        yield connection


def test_stac_geoparquet_reads_every_tile_as_an_item(store: Path, items: list[dict[str, Any]]) -> None:
    tiles = open_store(store).tiles
    assert [item["id"] for item in items] == tiles.id.tolist()
    assert [item["properties"]["row"] for item in items] == tiles.row.tolist()
    assert [item["properties"]["datetime"] for item in items] == [
        None if missing else f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"
        for time, missing in zip(tiles.time, tiles.time.isna(), strict=True)
    ]
    west, south, east, north = items[CROSSING]["bbox"]
    assert items[CROSSING]["geometry"]["type"] == "MultiPolygon"
    assert west > 179 > -179 > east
    assert south < tiles.lat[CROSSING] < north


def test_pystac_finds_valid_items(store: Path, items: list[dict[str, Any]]) -> None:
    """Its own copies of the schemas know no extensions; fields of the extension are read by its class for it.

    STAC has no word for an unknown time: it refuses the items of tiles without one.
    """
    dated = [item for item in items if item["properties"]["datetime"] is not None]
    assert len(dated) == 18
    for item in dated:
        found = pystac.Item.from_dict(item)
        grid = found.ext.proj
        tile = open_store(store)[item["properties"]["row"]]["tile"]
        assert grid.code == f"EPSG:{tile['epsg']}"
        assert grid.transform == [10, 0, tile["ulx"], 0, -10, tile["uly"]]
        assert grid.shape == [16, 16]
        found.stac_extensions = []
        assert len(found.validate()) == 1


def test_links_and_assets_lead_to_the_collection_and_the_store(store: Path, items: list[dict[str, Any]]) -> None:
    item = pystac.Item.from_dict(items[0])
    item.set_self_href(str(store / "tiles.parquet"))
    assert item.collection_id == collection_id(read_root(storage_at(store)).attributes)
    assert Path(item.get_single_link("collection").get_absolute_href()) == store / "collection.json"
    assert Path(item.assets["zarr"].get_absolute_href()).resolve() == store.resolve()
    assert item.assets["zarr"].media_type.startswith(pystac.MediaType.VND_ZARR)


def test_the_collection_in_the_file_is_valid(store: Path) -> None:
    content = json.loads(pq.read_metadata(store / "tiles.parquet").metadata[b"stac-geoparquet"])
    (collection,) = content["collections"].values()
    assert len(pystac.Collection.from_dict(collection).validate()) == 1


def test_rustac_reads_the_same_items(store: Path, items: list[dict[str, Any]]) -> None:
    async def read() -> Any:
        return await rustac.read(str(store / "tiles.parquet"))

    found = asyncio.run(read())["features"]
    assert [item["id"] for item in found] == [item["id"] for item in items]
    assert [item["collection"] for item in found] == [item["collection"] for item in items]
    assert [list(item["bbox"]) for item in found] == [list(item["bbox"]) for item in items]
    for name in ("row", "proj:code", "proj:transform", "proj:shape", "split"):
        assert [item["properties"][name] for item in found] == [item["properties"][name] for item in items]
    assert found[0]["assets"] == items[0]["assets"]
    assert found[0]["links"] == items[0]["links"]


def test_items_without_an_outline_can_be_filtered_out(tmp_path: Path) -> None:
    """stac-geoparquet 0.8 and rustac 0.9 cannot read items without a geometry; the documented filter works."""
    begun(tmp_path / "s.zarr", small_layout(), 3).finish()
    table = pq.read_table(tmp_path / "s.zarr" / "tiles.parquet")
    placed = table.filter(pc.is_valid(table["geometry"]))
    rows = [item["properties"]["row"] for item in stac_arrow.stac_table_to_items(placed)]
    assert rows == [row for row in range(21) if row != CORNERLESS]


@pytest.mark.parametrize("name", ["tiles.parquet", "tiles_spatial.parquet"])
def test_duckdb_reads_features_and_selects_them_by_place(store: Path, sql: Any, name: str) -> None:
    tiles = open_store(store).tiles
    path = store / name
    assert sql.execute(f"SELECT count(*) FROM '{path}'").fetchone() == (len(tiles),)
    assert sql.execute(f"SELECT DISTINCT typeof(geometry)[:8] FROM '{path}'").fetchall() == [("GEOMETRY",)]
    lon, lat = tiles.lon[3], tiles.lat[3]
    within = f"ST_Intersects(geometry, ST_Buffer(ST_Point({lon}, {lat}), 0.0001))"
    assert sql.execute(f"SELECT id FROM '{path}' WHERE {within}").fetchall() == [(tiles.id[3],)]
    by_box = f"bbox.xmin <= {lon} AND bbox.xmax >= {lon} AND bbox.ymin <= {lat} AND bbox.ymax >= {lat}"
    assert sql.execute(f"SELECT id FROM '{path}' WHERE {by_box}").fetchall() == [(tiles.id[3],)]
    first = f"SELECT row FROM '{path}' WHERE datetime < TIMESTAMPTZ '2018-01-01 00:00:00+00' ORDER BY row"
    assert [row for (row,) in sql.execute(first).fetchall()] == tiles.row[tiles.time < "2018-01-01"].tolist()


def test_duckdb_joins_the_spatial_table_with_the_other(store: Path, sql: Any) -> None:
    tiles = open_store(store).tiles
    query = f"""
        SELECT tiles.id, tiles.zone, tiles."proj:code" FROM '{store}/tiles_spatial.parquet' AS index
        JOIN '{store}/tiles.parquet' AS tiles USING (row)
        WHERE ST_Within(index.geometry, ST_MakeEnvelope(-180, 0, 0, 90)) ORDER BY row
    """
    here = tiles[(tiles.lon < 0) & (tiles.lat > 0)]
    found = sql.execute(query).fetchall()
    assert [row[0] for row in found] == here.id.tolist()
    assert [row[2] for row in found] == [f"EPSG:{code}" for code in here.epsg]


def test_an_empty_store_is_a_valid_empty_table(tmp_path: Path, sql: Any) -> None:
    layout = small_layout(tiles=8)
    writer = begun(tmp_path / "s.zarr", layout, 0)
    writer.write_shard(0, empty_columns(layout, 8), {m.name: None for m in layout.rasters})
    writer.finish()
    for name in ("tiles.parquet", "tiles_spatial.parquet"):
        assert sql.execute(f"SELECT count(*) FROM '{tmp_path}/s.zarr/{name}'").fetchone() == (0,)
    assert list(stac_arrow.stac_table_to_items(pq.read_table(tmp_path / "s.zarr" / "tiles.parquet"))) == []
