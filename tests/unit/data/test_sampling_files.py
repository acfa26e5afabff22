"""Sample files: what is written is read by others, and what others wrote is read and checked."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from click.testing import CliRunner
from geopandas.testing import assert_geodataframe_equal
from sampling_world import draw, world

from mmearth_data.catalog.tile import tile_ids
from mmearth_data.cli import cli
from mmearth_data.errors import FileInputError
from mmearth_data.sampling import Sample, SamplingOptions, read_sample, write_sample

OPTIONS = SamplingOptions(tiles=1, size_px=64)
LAND = shapely.box(5, 44, 9, 47)


@pytest.fixture(scope="module")
def ecoregions() -> gpd.GeoDataFrame:
    return world(LAND, shapely.box(9, 44, 12, 47))


@pytest.fixture(scope="module")
def drawn(ecoregions: gpd.GeoDataFrame) -> Sample:
    return draw(ecoregions, 400, oversample=1.3, size_px=64)


def places(count: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"lon": rng.uniform(5.1, 11.9, count).round(6), "lat": rng.uniform(44.1, 46.9, count).round(6)})


# ---------------------------------------------------------------------------------------------------- round trip


def test_what_is_written_is_read_back(tmp_path: Path, drawn: Sample) -> None:
    path = tmp_path / "deep" / "tiles.parquet"
    write_sample(drawn, path)
    back = read_sample(path)
    assert_geodataframe_equal(back.frame, drawn.frame)
    assert back.report == drawn.report
    assert [entry.name for entry in path.parent.iterdir()] == ["tiles.parquet"]


def test_others_read_it_as_geoparquet(tmp_path: Path, drawn: Sample) -> None:
    path = tmp_path / "tiles.parquet"
    write_sample(drawn, path)
    frame = gpd.read_parquet(path)
    assert frame.crs.to_epsg() == 4326
    assert (frame.geometry.geom_type == "Point").all()
    assert np.array_equal(frame.geometry.x, drawn.frame["lon"])
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx(frame.total_bounds)
    assert pq.read_table(path)["slot"].null_count == 120


@pytest.mark.parametrize("spelling", ["number", "hex"])
def test_a_sample_saved_as_text_is_understood(tmp_path: Path, drawn: Sample, spelling: str) -> None:
    table = pd.DataFrame(drawn.frame.drop(columns="geometry"))
    if spelling == "hex":
        table["tile_id"] = [f"{i:016x}" for i in table["tile_id"]]
    table.to_csv(tmp_path / "tiles.csv", index=False)
    assert_geodataframe_equal(read_sample(tmp_path / "tiles.csv").frame, drawn.frame)


def test_the_report_tells_how_the_sample_came_about(tmp_path: Path, drawn: Sample) -> None:
    entry = json.loads(json.dumps(drawn.report.to_dict()))
    assert entry["tiles"] == 400
    assert entry["reserves"] == 120
    assert entry["splits"] == {"train": 360, "val": 20, "test": 20}
    assert [counts["placed"] for counts in entry["biomes"].values()] == [200, 200]
    assert entry["options"]["seed"] == 0
    assert "threads" not in entry["options"]
    assert type(drawn.report).from_dict(entry) == drawn.report


def test_a_sample_for_another_tile_size_is_refused(tmp_path: Path, drawn: Sample) -> None:
    path = tmp_path / "tiles.parquet"
    write_sample(drawn, path)
    assert len(read_sample(path, options=OPTIONS).frame) == 520
    with pytest.raises(FileInputError, match=r"tiles of 128 px, got 64 px; give --tile-size 64"):
        read_sample(path, options=SamplingOptions(tiles=1, size_px=128))


# -------------------------------------------------------------------------------------------------- other tables


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.geojson", "p.gpkg", "plain.parquet", "semicolon.csv"])
def test_any_table_with_coordinates(tmp_path: Path, ecoregions: gpd.GeoDataFrame, name: str) -> None:
    table, path = places(), tmp_path / name
    points = gpd.GeoDataFrame({"site": range(len(table))}, geometry=gpd.points_from_xy(table.lon, table.lat), crs=4326)
    if name == "p.csv":
        table.rename(columns={"lon": "Longitude", "lat": "LATITUDE"}).to_csv(path, index=False)
    elif name == "semicolon.csv":
        table.to_csv(path, index=False, sep=";")
    elif name == "plain.parquet":
        table.to_parquet(path)
    elif name == "p.parquet":
        points.to_parquet(path)
    else:
        (points.to_crs(3035) if name == "p.gpkg" else points).to_file(path)
    frame = read_sample(path, ecoregions=ecoregions, options=OPTIONS).frame
    assert sorted(frame["tile_id"]) == sorted(tile_ids(table["lon"], table["lat"], 64))
    assert frame["slot"].tolist() == list(range(200))
    assert (frame["rank"] == 0).all()
    assert (frame["biome"] == (frame["lon"] > 9).astype(np.uint8)).all()
    assert (frame["split"].diff().dropna() >= 0).all()
    assert set(frame["split"]) == {0, 1, 2}


def test_given_splits_and_labels_are_kept(tmp_path: Path) -> None:
    table = places(30).assign(split=["train"] * 20 + ["VAL"] * 4 + ["2"] * 6, biome=7, eco_region=300)
    table.to_csv(tmp_path / "p.csv", index=False)
    frame = read_sample(tmp_path / "p.csv", options=OPTIONS).frame
    assert frame["split"].value_counts().to_dict() == {0: 20, 1: 4, 2: 6}
    assert (frame["eco_region"] == 300).all()
    merged = frame.merge(table, on=["lon", "lat"])
    assert ((merged["split_x"] == 1) == (merged["split_y"] == "VAL")).all()


def test_random_split_of_given_places_is_exact(tmp_path: Path, ecoregions: gpd.GeoDataFrame) -> None:
    places(100).to_csv(tmp_path / "p.csv", index=False)
    options = SamplingOptions(tiles=1, size_px=64, split="random", split_shares=(80, 10, 10))
    frame = read_sample(tmp_path / "p.csv", ecoregions=ecoregions, options=options).frame
    assert frame["split"].value_counts().to_dict() == {0: 80, 1: 10, 2: 10}


def test_reading_is_deterministic_and_tells_of_overlap(tmp_path: Path, ecoregions: gpd.GeoDataFrame) -> None:
    table = pd.concat([places(50), places(50).assign(lon=lambda table: table["lon"] + 0.003)])
    table.to_csv(tmp_path / "p.csv", index=False)
    first, again = (read_sample(tmp_path / "p.csv", ecoregions=ecoregions, options=OPTIONS) for _ in range(2))
    assert_geodataframe_equal(first.frame, again.frame)
    assert any("50 of 100 tiles overlap" in note for note in first.report.notes)


# ----------------------------------------------------------------------------------------------------- bad input


def bad_tables() -> dict[str, tuple[pd.DataFrame, str]]:
    good = places(20)
    twice = pd.concat([good, good.iloc[[3, 5]] + 1e-9])
    sea = pd.concat([good, pd.DataFrame({"lon": [-40.0], "lat": [30.0]})])
    north = pd.concat([good, pd.DataFrame({"lon": [10.0], "lat": [84.5]})])
    return {
        "duplicate locations": (twice, r"got 2 of 20 ids more than once, first [0-9a-f]{16} in rows"),
        "points at sea": (sea, r"1 of 21 locations are in no ecoregion .*row 22: -40, 30"),
        "beyond UTM": (north, r"1 of 21 locations are beyond 84 N"),
        "missing columns": (good.rename(columns={"lon": "east", "lat": "north"}), "got the columns east, north"),
        "one missing column": (good.drop(columns="lat"), "expected columns lon and lat"),
        "holes": (good.drop(index=2).reindex(range(20)), "have no longitude and latitude"),
        "metres": (good * 1e5, "have no longitude and latitude in range"),
        "words": (good.astype(str).replace(good["lon"].iloc[0].astype(str), "east"), "have no longitude"),
        "no rows": (good.iloc[:0], "without rows"),
        "a label that wraps": (good.assign(biome=256 + 7, eco_region=300), "biome above 255"),
        "unknown splits": (good.assign(split="dev"), "got 'dev' in row 2, and 20 such rows"),
    }


@pytest.mark.parametrize("case", bad_tables())
def test_places_that_cannot_be_used_are_refused(tmp_path: Path, ecoregions: gpd.GeoDataFrame, case: str) -> None:
    table, words = bad_tables()[case]
    table.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(FileInputError, match=words) as refusal:
        read_sample(tmp_path / "p.csv", ecoregions=ecoregions, options=OPTIONS)
    assert "\n" not in str(refusal.value)
    assert "p.csv" in str(refusal.value)


def test_sample_files_that_were_changed_are_refused(tmp_path: Path, drawn: Sample) -> None:
    path = tmp_path / "tiles.parquet"
    pd.concat([drawn.frame, drawn.frame.iloc[:1]]).to_parquet(path)
    with pytest.raises(FileInputError, match="more than once"):
        read_sample(path)
    drawn.frame.iloc[5:].to_parquet(path)
    with pytest.raises(FileInputError, match=r"expected slots 0 to 394, each once"):
        read_sample(path)
    drawn.frame.assign(lon=drawn.frame["lon"] + 1).to_parquet(path)
    with pytest.raises(FileInputError, match="tile_id to follow from lon"):
        read_sample(path)
    drawn.frame.drop(columns="slot").to_parquet(path)
    with pytest.raises(FileInputError, match="lacks slot"):
        read_sample(path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.parquet", b"PAR1"), ("a.csv", b"\xff\xfe\x00\x01"), ("a.geojson", b"{")]
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileInputError, match=r"could not read it|UTF-16"):
        read_sample(tmp_path / name, options=OPTIONS)
    with pytest.raises(FileInputError, match="no such file"):
        read_sample(tmp_path / "absent.csv", options=OPTIONS)


@pytest.mark.parametrize(("column", "value"), [("biome", 300), ("eco_region", -1), ("split", 0.5), ("rank", 256)])
def test_a_sample_s_values_are_never_wrapped(tmp_path: Path, drawn: Sample, column: str, value: float) -> None:
    frame = drawn.frame.drop(columns="geometry")
    frame[column] = frame[column].astype("float64")
    frame.loc[0, column] = value
    frame.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(FileInputError, match=rf"{column} {value}, expected a whole number"):
        read_sample(tmp_path / "p.parquet", options=OPTIONS)


def test_a_spreadsheet_with_decimal_commas(tmp_path: Path) -> None:
    table = places(30).assign(biome=7, eco_region=300)
    path = tmp_path / "p.csv"
    table.to_csv(path, index=False, sep=";", decimal=",", encoding="utf-8-sig", lineterminator="\r\n")
    frame = read_sample(path, options=OPTIONS).frame
    assert sorted(frame["tile_id"]) == sorted(tile_ids(table["lon"], table["lat"], 64))


def test_places_without_labels_need_ecoregions(tmp_path: Path) -> None:
    places(5).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(FileInputError, match="--ecoregions"):
        read_sample(tmp_path / "p.csv", options=OPTIONS)


@pytest.mark.parametrize("name", ["s.csv", "s.geojson", "s"])
def test_a_sample_is_written_under_the_name_of_a_parquet_file_only(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(cli, ["sample", "--source", "synthetic", "--tiles", "2", "--out", str(tmp_path / name)])
    assert done.exit_code == 2
    assert "--out: expected the name of a .parquet or .geoparquet file" in done.stderr
    assert not list(tmp_path.iterdir())
