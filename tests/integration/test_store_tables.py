"""The tables of a store, as pandas, geopandas and pyarrow have them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from store_making import begin_store, digests, make_columns, make_rasters, make_rejected, modality, small_layout
from test_store_damage import reseal
from test_store_growth import grow
from test_store_versions import as_version_1

from mmearth_data import subset
from mmearth_data.catalog.modality import ClassLabel, Kind
from mmearth_data.catalog.tile import TileGrid, tile_ids, utm_epsg
from mmearth_data.store import StoreWriter, open_store, verify
from mmearth_data.store.root import collection_id, read_root
from mmearth_data.store.schema import StoreLayout
from mmearth_data.store.storage import storage_at
from mmearth_data.store.tiles_frame import Outlines

CROSSING, CORNERLESS = 5, 6
"""Rows of a tile across 180 degrees, and of one whose corner is unknown."""
ITEM_COLUMNS = ["type", "stac_version", "stac_extensions", "collection", "links", "assets"]
PROJECTION_COLUMNS = ["proj:code", "proj:transform", "proj:shape"]


def put(columns: dict[str, Any], position: int, lon: float, lat: float, size_px: int) -> None:
    """Move a tile."""
    grid = TileGrid.around(lon, lat, utm_epsg(lon, lat), size_px)
    values = {"lon": lon, "lat": lat, "epsg": grid.epsg, "ulx": grid.ulx, "uly": grid.uly}
    for name, value in {**values, "tile_id": tile_ids(lon, lat, size_px)}.items():
        columns[name][position] = value


def begun(path: Path, layout: StoreLayout, shards: int, *, corners: bool = False) -> StoreWriter:
    """A store with some of its shards; the first has a tile across 180 degrees, and one may have no corner."""
    writer = begin_store(path, layout)
    for shard in range(shards):
        columns = make_columns(layout, shard)
        if shard == 0:
            put(columns, CROSSING, 179.9999, -17.0, layout.size_px)
        if shard == 0 and not corners:
            columns["ulx"][CORNERLESS] = columns["uly"][CORNERLESS] = np.nan
            columns["epsg"][CORNERLESS] = 0
        writer.write_shard(shard, columns, make_rasters(layout, shard), make_rejected(shard))
    return writer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of 21 tiles."""
    path = tmp_path_factory.mktemp("tables") / "s.zarr"
    begun(path, small_layout(), 3).finish()
    return path


@pytest.fixture(scope="module")
def frame(store: Path) -> gpd.GeoDataFrame:
    """Its tiles."""
    return open_store(store).tiles


@pytest.fixture(scope="module")
def table(store: Path) -> pa.Table:
    """Its ``tiles.parquet``."""
    return pq.read_table(store / "tiles.parquet")


def geo_of(path: Path) -> dict[str, Any]:
    """GeoParquet metadata of the column ``geometry``."""
    column: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]
    return column


# ------------------------------------------------------------------------------------------------------- .tiles


def test_split_level_and_classes_are_categories_with_names(store: Path, frame: gpd.GeoDataFrame) -> None:
    coords = open_store(store).coords
    assert (frame.split == "train").sum() == (coords["split"] == 0).sum() > 0
    assert frame.split.cat.categories.tolist() == ["train", "val", "test"]
    assert (frame.s2_level == "L2A").sum() == (coords["s2_level"] == 1).sum() > 0
    zones = next(m for m in read_root(storage_at(store)).layout.tabular if m.classes)
    assert frame.zone.cat.categories.tolist() == [label.name for label in zones.classes]
    stored = open_store(store).content.column("zone")
    assert frame.zone.isna().tolist() == (stored == zones.nodata).tolist()
    named = {label.code: label.name for label in zones.classes}
    assert frame.zone.dropna().tolist() == [named[code] for code in stored.tolist() if code in named]
    counts = frame.zone.value_counts()
    assert (len(counts), counts.sum()) == (len(zones.classes), (stored != zones.nodata).sum())
    assert set(frame.groupby("split", observed=True).size().index) == {"train", "val", "test"}


def test_ids_are_text_beside_their_numbers(frame: gpd.GeoDataFrame) -> None:
    assert frame.tile_id.dtype == np.uint64
    assert frame.id.tolist() == [f"{number:016x}" for number in frame.tile_id.tolist()]
    assert frame.id.str.fullmatch("[0-9a-f]{16}").all()
    assert isinstance(frame.time.dtype, pd.DatetimeTZDtype)
    assert str(frame.time.dt.tz) == "UTC"


def test_the_table_in_python_has_no_columns_of_stac(frame: gpd.GeoDataFrame) -> None:
    assert not {"bbox", "datetime", *ITEM_COLUMNS, *PROJECTION_COLUMNS} & set(frame.columns)


def test_outlines_are_decoded_on_first_access(store: Path) -> None:
    tiles = open_store(store).tiles
    train = tiles[tiles.split == "train"].head(7)
    tiles.drop(columns="geometry").describe()
    assert tiles.geometry.isna().sum() == 1
    undrawn = [part.geometry.array for part in (tiles, train, tiles.iloc[3:9], tiles.copy())]
    assert {type(array) for array in undrawn} == {Outlines}
    expected = gpd.read_parquet(store / "tiles.parquet").geometry
    pd.testing.assert_series_equal(tiles.geometry, expected)
    assert tiles.geometry.iloc[0] is tiles.geometry.iloc[0]
    assert train.geometry.equals(expected[:7])
    assert tiles.iloc[9].geometry.equals(expected[9])
    assert pickle.loads(pickle.dumps(open_store(store).tiles)).geometry.equals(expected)


def test_changing_an_outline_changes_one_table_only(store: Path) -> None:
    tiles = open_store(store).tiles
    copied, part = tiles.copy(), tiles.iloc[:3]
    assert tiles.geometry.is_valid.any()
    tiles.loc[0, "geometry"] = shapely.Point(1, 2)
    assert tiles.geometry[0] == shapely.Point(1, 2)
    assert copied.geometry[0] == part.geometry[0] == open_store(store).tiles.geometry[0] != shapely.Point(1, 2)
    first, second = copied.geometry.array.copy(), open_store(store).tiles.geometry.array
    third = second.copy()
    third[0] = first[0] = shapely.Point(1, 2)
    assert second[0] == copied.geometry[0] != first[0] == third[0]


@pytest.mark.parametrize("shards", [0, 2])
def test_an_unfinished_store_has_the_same_table(tmp_path: Path, frame: gpd.GeoDataFrame, shards: int) -> None:
    begun(tmp_path / "s.zarr", small_layout(), shards)
    pd.testing.assert_frame_equal(open_store(tmp_path / "s.zarr").tiles, frame[: 8 * shards])


def test_a_selection_has_its_rows_of_the_same_table(store: Path, frame: gpd.GeoDataFrame) -> None:
    chosen = open_store(store).select(split=["val", "test"]).tiles
    pd.testing.assert_frame_equal(chosen, frame[frame.split.isin(["val", "test"])].reset_index(drop=True))
    assert chosen.split.cat.categories.tolist() == ["train", "val", "test"]


def test_classes_of_the_same_name_stay_apart_and_a_label_may_be_called_id(tmp_path: Path) -> None:
    labels = tuple(ClassLabel(code, name) for code, name in ((3, "wood"), (9, "wood"), (4, "lake")))
    crop = modality("id", Kind.TILE_CATEGORICAL, (), "uint8", 255, classes=labels)
    layout = StoreLayout(modalities=(crop,), tiles=4, size_px=16, tiles_per_shard=4)
    writer = begin_store(tmp_path / "s.zarr", layout)
    writer.write_shard(0, {**make_columns(layout, 0), "id": np.array([9, 255, 4, 3], dtype=np.uint8)}, {})
    writer.finish()
    tiles = open_store(tmp_path / "s.zarr").tiles
    assert tiles.id.cat.categories.tolist() == ["wood [3]", "wood [9]", "lake"]
    assert tiles.id.astype(object).where(tiles.id.notna(), None).tolist() == ["wood [9]", None, "lake", "wood [3]"]
    assert not {"bbox", *ITEM_COLUMNS} & set(pq.read_schema(tmp_path / "s.zarr" / "tiles.parquet").names)
    assert verify(tmp_path / "s.zarr").problems == ()


# ----------------------------------------------------------------------------------------- files of .tiles


def test_a_geopackage_keeps_names_times_and_ids(frame: gpd.GeoDataFrame, tmp_path: Path) -> None:
    frame.to_file(tmp_path / "x.gpkg")
    back = gpd.read_file(tmp_path / "x.gpkg")
    assert back.split.tolist() == frame.split.tolist()
    assert back.zone.isna().tolist() == frame.zone.isna().tolist()
    assert back.zone.dropna().tolist() == frame.zone.dropna().tolist()
    pd.testing.assert_series_equal(back.time, frame.time)
    assert back.id.tolist() == frame.id.tolist()
    assert [int(text) for text in back.tile_id] == frame.tile_id.tolist()
    assert max(frame.tile_id) > np.iinfo(np.int64).max
    assert back.geometry.isna().tolist() == frame.geometry.isna().tolist()
    assert back.geometry.dropna().geom_equals(frame.geometry.dropna()).all()
    assert back.crs.to_epsg() == 4326
    frame[frame.split == "val"].to_crs(3857).to_file(tmp_path / "val.gpkg")
    assert len(gpd.read_file(tmp_path / "val.gpkg")) == (frame.split == "val").sum()


def test_geoparquet_keeps_names_times_and_ids(frame: gpd.GeoDataFrame, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "x.parquet")
    back = gpd.read_parquet(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(pd.DataFrame(back), pd.DataFrame(frame))


def test_joins_and_reprojection_work(frame: gpd.GeoDataFrame) -> None:
    where = gpd.GeoDataFrame({"name": ["here"]}, geometry=[frame.geometry[0].buffer(0.01)], crs=4326)
    joined = frame.sjoin(where)
    assert (joined.index.tolist(), joined.name.tolist()) == ([0], ["here"])
    utm = frame[frame.epsg == frame.epsg[0]].to_crs(frame.epsg[0])
    assert utm.area.iloc[0] == pytest.approx(160**2, rel=1e-6)
    assert len(json.loads(frame.dropna(subset="geometry").drop(columns="time").to_json())["features"]) == 20
    assert len(pd.concat([frame, frame])) == 42


# ------------------------------------------------------------------------------------------- tiles.parquet


def test_the_covering_column_is_the_bounding_box_of_each_outline(store: Path, table: pa.Table) -> None:
    """GeoParquet 1.1, "Bounding Box Columns": null where the geometry is, west greater than east across 180 degrees."""
    for name in ("tiles.parquet", "tiles_spatial.parquet"):
        assert geo_of(store / name)["covering"] == {
            "bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
        }
        part = pq.read_table(store / name)
        assert [field.name for field in part.schema.field("bbox").type] == ["xmin", "ymin", "xmax", "ymax"]
        assert part["bbox"].is_null().equals(part["geometry"].is_null())
        assert part["bbox"].null_count == 1
    outlines = shapely.from_wkb(table["geometry"].to_numpy())
    for box, outline, row in zip(table["bbox"].to_pylist(), outlines, table["row"].to_pylist(), strict=True):
        if row == CROSSING:
            east, west = sorted(outline.geoms, key=lambda part: part.bounds[0])
            assert 179.9 < west.bounds[0] == box["xmin"]
            assert -179.9 > east.bounds[2] == box["xmax"]
        elif outline is not None:
            assert tuple(box.values()) == outline.bounds


def test_statistics_let_readers_skip_row_groups(store: Path) -> None:
    for name in ("tiles.parquet", "tiles_spatial.parquet"):
        metadata = pq.read_metadata(store / name)
        columns = [metadata.row_group(0).column(k) for k in range(metadata.num_columns)]
        boxes = {c.path_in_schema: c.statistics for c in columns if c.path_in_schema.startswith("bbox.")}
        assert len(boxes) == 4
        assert all(statistics.has_min_max for statistics in boxes.values())


def test_geopandas_reads_the_tiles_of_a_box(store: Path) -> None:
    outlines = gpd.read_parquet(store / "tiles.parquet").set_index("row").geometry
    for row in (0, 9):
        west, south, east, north = outlines[row].bounds
        for name in ("tiles.parquet", "tiles_spatial.parquet"):
            assert gpd.read_parquet(store / name, bbox=(west, south, east, north)).row.tolist() == [row]


def test_tiles_are_items_of_stac(store: Path, table: pa.Table) -> None:
    """The columns that stac-geoparquet 1.1 requires, and those of the extension for projections (2.0)."""
    root = read_root(storage_at(store))
    assert set(ITEM_COLUMNS + PROJECTION_COLUMNS) < set(table.column_names)
    assert table["id"].to_pylist() == [f"{number:016x}" for number in table["tile_id"].to_pylist()]
    assert table.schema.field("datetime").type == pa.timestamp("ms", tz="UTC")
    assert set(table["collection"].to_pylist()) == {collection_id(root.attributes)}
    for row in table.select(["epsg", "ulx", "uly", *PROJECTION_COLUMNS]).to_pylist():
        assert row["proj:shape"] == [16, 16]
        if np.isnan(row["ulx"]):
            assert row["proj:code"] is row["proj:transform"] is None
        else:
            assert row["proj:code"] == f"EPSG:{row['epsg']}"
            assert row["proj:transform"] == [10, 0, row["ulx"], 0, -10, row["uly"]]
    items = json.loads(pq.read_metadata(store / "tiles.parquet").metadata[b"stac-geoparquet"])
    assert items["version"] == "1.1.0"
    ((key, collection),) = items["collections"].items()
    assert key == collection["id"] == collection_id(root.attributes)
    assert collection["extent"]["spatial"]["bbox"] == [geo_of(store / "tiles.parquet")["bbox"]]
    times = table["datetime"].to_pandas()
    assert [pd.Timestamp(text) for text in collection["extent"]["temporal"]["interval"][0]] == [
        times.min(),
        times.max(),
    ]


def test_columns_that_all_items_share_take_little_space(store: Path, tmp_path: Path) -> None:
    table = pq.read_table(store / "tiles.parquet", columns=["row", *ITEM_COLUMNS])
    many = pa.concat_tables([table] * 1000)
    pq.write_table(many, tmp_path / "x.parquet", compression="zstd", use_dictionary=True)
    group = pq.read_metadata(store / "tiles.parquet").row_group(0)
    chunks = {group.column(k).path_in_schema: group.column(k) for k in range(group.num_columns)}
    shared = [chunks[path] for path in chunks if path.split(".")[0] in ITEM_COLUMNS]
    assert len(shared) == 10
    assert all("RLE_DICTIONARY" in chunk.encodings for chunk in shared)


def test_neighbouring_rows_of_the_spatial_table_are_near_each_other(store: Path) -> None:
    """Along a Hilbert curve over the world, neighbouring rows are near each other; in the store, they are not."""
    rng = np.random.default_rng(0)
    spatial = gpd.read_parquet(store / "tiles_spatial.parquet")
    tiles = gpd.read_parquet(store / "tiles.parquet").set_index("row")
    assert sorted(spatial.row) == tiles.index.tolist()
    assert (spatial.id.to_numpy() == tiles.id[spatial.row].to_numpy()).all()
    there = tiles.geometry[spatial.row].reset_index(drop=True)
    assert spatial.geometry.dropna().geom_equals_exact(there.dropna(), 0).all()
    assert (spatial.datetime.to_numpy() == tiles.datetime[spatial.row].to_numpy())[spatial.datetime.notna()].all()

    def length(rows: Any) -> float:
        places = tiles.loc[rows, ["lon", "lat"]].to_numpy()
        return float(np.abs(np.diff(places, axis=0)).sum())

    assert length(spatial.row) < 0.7 * np.mean([length(rng.permutation(tiles.index)) for _ in range(20)])


def test_rejected_candidates_have_ids_as_text(store: Path) -> None:
    table = pq.read_table(store / "rejected.parquet")
    assert table["id"].to_pylist() == [f"{number:016x}" for number in table["tile_id"].to_pylist()]
    assert table.schema.field("tile_id").type == pa.uint64()


# ------------------------------------------------------------------------------------- bytes, damage and versions


def test_a_store_finished_again_elsewhere_has_the_same_bytes(store: Path, tmp_path: Path) -> None:
    whole = digests(store)
    assert "tiles_spatial.parquet" in whole
    again = tmp_path / "elsewhere" / "s.zarr"
    writer = begun(again, small_layout(), 3)
    (again / "tiles_spatial.parquet").write_bytes(b"left by a killed process")
    writer.finish()
    assert digests(again) == whole


@pytest.mark.parametrize("name", ["tiles.parquet", "tiles_spatial.parquet"])
def test_verify_reports_a_table_of_another_store(store: Path, tmp_path: Path, name: str) -> None:
    other = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    table = pq.read_table(other / name)
    changed = {
        "another id": table.set_column(2 if name == "tiles.parquet" else 1, "id", pa.array(["0" * 16] * len(table))),
        "a row less": table.slice(1),
        **({"a column less": table.drop_columns(["split"])} if name == "tiles.parquet" else {}),
    }
    for what, wrong in changed.items():
        pq.write_table(wrong.replace_schema_metadata(table.schema.metadata), other / name)
        reseal(other, name)
        assert [problem.part for problem in verify(other).problems] == [name], what
    (other / name).unlink()
    assert [problem.part for problem in verify(other).problems] == [name]


def test_a_store_of_version_1_keeps_its_tables(store: Path, tmp_path: Path) -> None:
    """Older releases read them: they know nothing of items."""
    old = tmp_path / "v1.zarr"
    writer = begun(old, small_layout(), 3)
    as_version_1(old)
    StoreWriter.resume(writer.path).finish()
    names = pq.read_schema(old / "tiles.parquet").names
    assert names == [*pq.read_schema(old / "_commits" / "0.parquet").names, "geometry"]
    assert "id" not in pq.read_schema(old / "rejected.parquet").names
    assert not (old / "tiles_spatial.parquet").exists()
    assert verify(old).problems == ()
    pd.testing.assert_frame_equal(open_store(old).tiles, open_store(store).tiles)
    before = names
    grow(old)
    assert pq.read_schema(old / "tiles.parquet").names == before
    assert not (old / "tiles_spatial.parquet").exists()
    assert verify(old).problems == ()
    subset(old, tmp_path / "v2.zarr", split="train")
    assert {"bbox", *ITEM_COLUMNS} < set(pq.read_schema(tmp_path / "v2.zarr" / "tiles.parquet").names)
    assert (tmp_path / "v2.zarr" / "tiles_spatial.parquet").exists()
    assert verify(tmp_path / "v2.zarr").problems == ()


def test_a_store_of_version_2_without_items_opens_verifies_and_gets_them_when_it_grows(
    store: Path, tmp_path: Path
) -> None:
    early = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    (early / "tiles_spatial.parquet").unlink()
    table = pq.read_table(early / "tiles.parquet").rename_columns(
        ["time" if name == "datetime" else name for name in pq.read_schema(early / "tiles.parquet").names]
    )
    dropped = ["id", "bbox", *ITEM_COLUMNS, *PROJECTION_COLUMNS]
    geo = {b"geo": pq.read_metadata(early / "tiles.parquet").metadata[b"geo"]}
    pq.write_table(table.drop_columns(dropped).replace_schema_metadata(geo), early / "tiles.parquet")
    manifest = json.loads((early / "_manifest.json").read_text())
    del manifest["files"]["tiles_spatial.parquet"]
    (early / "_manifest.json").write_text(json.dumps(manifest))
    reseal(early, "tiles.parquet")
    assert verify(early).problems == ()
    pd.testing.assert_frame_equal(open_store(early).tiles, open_store(store).tiles)
    grow(early)
    assert (early / "tiles_spatial.parquet").exists()
    assert set(ITEM_COLUMNS) < set(pq.read_schema(early / "tiles.parquet").names)
    assert verify(early).problems == ()


# --------------------------------------------------------------------------------------------- any place


@settings(max_examples=60, deadline=None)
@given(
    lon=st.floats(-180, 180).map(lambda x: round(x, 6)),
    lat=st.floats(-79, 83).map(lambda y: round(y, 6)),
    size_px=st.sampled_from([16, 128, 2032]),
)
def test_the_box_of_any_tile_contains_it_and_nothing_else(lon: float, lat: float, size_px: int) -> None:
    from mmearth_data.store.index import tile_outlines
    from mmearth_data.store.items import outline_boxes

    grid = TileGrid.around(lon, lat, utm_epsg(lon, lat), size_px)
    outlines = tile_outlines({k: np.array([getattr(grid, k)]) for k in ("epsg", "ulx", "uly")}, size_px)
    ((west, south, east, north),) = outline_boxes(outlines)
    parts = (
        [shapely.box(west, south, east, north)]
        if west <= east
        else [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    )
    assert shapely.union_all(parts).buffer(1e-9).covers(outlines[0])
    assert sum(part.area for part in parts) == pytest.approx(
        sum(part.envelope.area for part in shapely.get_parts(outlines[0])), rel=0.05
    )
    assert west <= east or outlines[0].geom_type == "MultiPolygon"
