"""What the page of a store counts and selects: every number a second time, by pandas from the store's own table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import store_making
import toy_store
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from mmearth_data import InputError, Store, StoreDamaged, format_tile_id, open_store
from mmearth_data.browse.commands import ids_text, subset_command
from mmearth_data.browse.embeddings import beside, read_neighbours
from mmearth_data.browse.facets import facets_of, modality_counts
from mmearth_data.browse.filters import EVERY_SHARE, Filter, Selection, from_query
from mmearth_data.browse.index import NO_LABEL, TileIndex, mercator_x, mercator_y
from mmearth_data.browse.land import land_in
from mmearth_data.browse.views import View, class_image, count_image, in_view, nearest, step_in
from mmearth_data.browse.world import World
from mmearth_data.catalog.tile import NO_TIME
from mmearth_data.errors import FileInputError
from mmearth_data.interchange.subset import Part, make_subset, read_ids

TILES = 96
SPLITS = {"train": 0, "val": 1, "test": 2}
LEVELS = {"L1C": 0, "L2A": 1}


def scatter(arrays: dict[str, Any]) -> None:
    """Spread everything that a filter can name at random, with gaps."""
    rng = np.random.default_rng(5)
    count = len(arrays["tile_id"])
    arrays["split"] = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), count)
    arrays["s2_level"] = rng.choice(np.array([0, 1], dtype=np.uint8), count)
    arrays["time"] = rng.integers(1_483_228_800_000, 1_609_459_200_000, count)
    arrays["time"][::9] = NO_TIME
    for row, moment in ((1, "2018-02-28T23:59"), (2, "2018-03-01T00:00"), (3, "2018-03-01T23:59"), (4, "2018-03-02")):
        arrays["time"][row] = np.datetime64(moment, "ms").astype(np.int64)
    arrays["biome"] = rng.choice(np.array([0, 3, 13, 255], dtype=np.uint8), count)
    for name, missing in (("sentinel1", np.nan), ("dynamic_world", 0), ("era5", np.nan)):
        arrays[name][rng.random(count) < 0.4] = missing


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("browse") / "toy.zarr"
    return toy_store.write_store(path, TILES, shares=(0.5, 0.25), change=scatter)


@pytest.fixture(scope="module")
def index(store: Store) -> TileIndex:
    return TileIndex.of(store)


@pytest.fixture(scope="module")
def frame(store: Store) -> pd.DataFrame:
    """The store's own table, with names instead of bits."""
    table = pd.DataFrame(store.tiles.drop(columns="geometry"))
    found = pd.DataFrame(
        {
            "id": table["id"],
            "lon": table["lon"],
            "lat": table["lat"],
            "day": table["time"].dt.tz_localize(None).dt.floor("D"),
            "split": table["split"].astype(object).fillna("none"),
            "level": table["s2_level"].astype(object),
            "class": table["biome"].astype(object).fillna("not labelled"),
        }
    )
    for bit, m in enumerate(store.layout.stored):
        found[f"has {m.name}"] = table["valid"] // 2**bit % 2 == 1
    return found


def by_pandas(frame: pd.DataFrame, query: str) -> pd.DataFrame:
    """Rows that a query selects."""
    from urllib.parse import parse_qs

    given = parse_qs(query, keep_blank_values=True)
    keep = pd.Series(data=True, index=frame.index)
    for key in ("split", "level", "class"):
        if key in given:
            keep &= frame[key].isin(given[key])
    if "from" in given:
        keep &= frame["day"] >= pd.Timestamp(given["from"][0])
    if "to" in given:
        keep &= frame["day"] <= pd.Timestamp(given["to"][0])
    for name in given.get("has", ()):
        keep &= frame[f"has {name}"]
    if "observed" in given:
        low, high = map(float, given["observed"][0].split(":"))
        share = frame.filter(like="has ").mean(axis=1)
        keep &= (share >= low - 1e-9) & (share <= high + 1e-9)
    return frame[keep]


QUERIES = (
    "",
    "split=train",
    "split=val&split=none",
    "level=L2A",
    "class=Tundra",
    "class=not+labelled&split=test",
    "from=2018-03-01",
    "to=2018-03-01",
    "from=2018-03-01&to=2019-11-30&split=train&level=L1C",
    "has=sentinel1",
    "has=sentinel1&has=era5&has=dynamic_world",
    "observed=0.9:1",
    "observed=0:0.8",
    "split=",
)


@pytest.mark.parametrize("query", QUERIES)
def test_a_filter_selects_what_pandas_selects(index: TileIndex, frame: pd.DataFrame, query: str) -> None:
    selection = Selection(index)
    selection.apply(from_query(query, index))
    expected = by_pandas(frame, query)
    assert [format_tile_id(number) for number in index.tile_id[selection.mask].tolist()] == expected["id"].tolist()
    assert selection.count == len(expected)
    assert 0 < len(expected) < TILES or query in {"", "split="}


@given(st.lists(st.sampled_from(QUERIES), min_size=1, max_size=6))
def test_the_order_of_filters_does_not_matter(index: TileIndex, queries: list[str]) -> None:
    walked, direct = Selection(index), Selection(index)
    for query in queries:
        walked.apply(from_query(query, index))
    direct.apply(from_query(queries[-1], index))
    assert (walked.mask == direct.mask).all()
    assert walked.filter == direct.filter


@given(
    st.builds(
        Filter,
        splits=st.none() | st.lists(st.sampled_from([0, 1, 2, 255]), unique=True).map(tuple),
        labels=st.none() | st.lists(st.sampled_from([0, 3, 13, NO_LABEL]), unique=True).map(tuple),
        levels=st.none() | st.lists(st.sampled_from([0, 1]), unique=True).map(tuple),
        first_day=st.none() | st.integers(0, 40_000),
        last_day=st.none() | st.integers(0, 40_000),
        modalities=st.lists(st.sampled_from(["sentinel1", "era5"]), unique=True).map(tuple),
        share=st.sampled_from([EVERY_SHARE, (0.25, 1.0), (0.5, 0.75)]),
    )
)
def test_a_query_says_all_of_a_filter(index: TileIndex, chosen: Filter) -> None:
    assert from_query(chosen.query(index), index) == chosen


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("slit=train", "did you mean 'split'"),
        ("split=trian", "split: expected one of train, val, test, none, got 'trian'"),
        ("has=sentinel3", "has: expected a stored modality, got 'sentinel3'"),
        ("from=yesterday", "from: expected a date such as 2019-06-01, got 'yesterday'"),
        ("to=2019-13-01", "to: expected a date"),
        ("from=NaT", "from: expected a date such as 2019-06-01, got 'NaT'"),
        ("observed=1", "observed: expected two shares"),
        ("observed=0.5:0.2", "observed: expected two ascending shares"),
        ("observed=nan:1", "observed: expected two ascending shares"),
    ],
)
def test_a_wrong_query_is_refused(index: TileIndex, query: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_query(query, index)


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("query", ["", "split=train", "from=2018-03-01&level=L1C"])
def test_histograms_count_the_selection(index: TileIndex, frame: pd.DataFrame, query: str) -> None:
    selection = Selection(index)
    selection.apply(from_query(query, index))
    rows = by_pandas(frame, query)
    months = dict(zip(index.date_bars.names, index.date_bars.counts(selection.mask).tolist(), strict=True))
    assert {name: count for name, count in months.items() if count} == rows["day"].dropna().dt.strftime(
        "%Y-%m"
    ).value_counts().to_dict()
    latitudes = index.latitude_bars
    expected, _ = np.histogram(rows["lat"], bins=latitudes.edges)
    assert latitudes.counts(selection.mask).tolist() == expected.tolist()
    observed = rows.filter(like="has ").sum(axis=1)
    assert index.share_bars.counts(selection.mask).tolist() == [int((observed == k).sum()) for k in range(8)]
    labels = dict(zip(index.label_bars.names, index.label_bars.counts(selection.mask).tolist(), strict=True))
    assert {name: count for name, count in labels.items() if count} == rows["class"].value_counts().to_dict()


def test_choices_are_counted_under_the_other_conditions(index: TileIndex, frame: pd.DataFrame) -> None:
    selection = Selection(index)
    selection.apply(from_query("split=train&level=L2A&has=era5", index))
    for facet in facets_of(index):
        others = {"split": "split=train", "level": "level=L2A", "has": "has=era5"}
        others.pop(facet.key, None)
        rows = by_pandas(frame, "&".join(others.values()))
        expected = [int((rows[facet.key] == choice.name).sum()) for choice in facet.choices]
        assert facet.counts(selection) == expected, facet.key
    rows = by_pandas(frame, "split=train&level=L2A")
    assert modality_counts(selection) == [int(rows[f"has {name}"].sum()) for name in index.stored]


# ---------------------------------------------------------------- map


def test_positions_on_the_map_are_those_of_proj(index: TileIndex) -> None:
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(index.lon, index.lat)
    assert np.abs(index.x - x).max() < 2
    assert np.abs(index.y - y).max() < 2
    assert mercator_x(0.0) == 0
    assert np.isfinite(mercator_y(90.0))


def views() -> st.SearchStrategy[View]:
    edges = st.floats(-2e7, 2e7, width=32)
    return st.builds(
        lambda x, y: View(west=x[0], east=x[1], south=y[0], north=y[1]),
        *(st.tuples(edges, edges).filter(lambda pair: abs(pair[0] - pair[1]) > 1000).map(sorted) for _ in range(2)),
    )


@given(views(), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_an_image_counts_every_tile_of_a_view_once(index: TileIndex, view: View, shape: tuple[int, int]) -> None:
    mask = index.split == 0
    tiles = in_view(index, mask, view)
    inside = (index.x >= view.west) & (index.x <= view.east) & (index.y >= view.south) & (index.y <= view.north)
    assert tiles.tolist() == np.flatnonzero(inside & mask).tolist()
    image = count_image(index, tiles, view, shape)
    assert image.shape == shape
    assert np.nansum(image) == len(tiles)
    assert not (image == 0).any()


def test_an_image_is_the_histogram_of_numpy(index: TileIndex) -> None:
    view = View(west=-2.0e7, south=-1.5e7, east=2.0e7, north=1.5e7)
    tiles = in_view(index, np.ones(TILES, dtype=bool), view)
    expected, _, _ = np.histogram2d(
        index.y[tiles], index.x[tiles], bins=(7, 9), range=((view.south, view.north), (view.west, view.east))
    )
    assert np.nan_to_num(count_image(index, tiles, view, (7, 9))).tolist() == expected.tolist()


def test_an_image_of_classes_has_the_most_frequent_one(index: TileIndex) -> None:
    view = View(west=-2.0e7, south=-1.5e7, east=2.0e7, north=1.5e7)
    tiles = in_view(index, np.ones(TILES, dtype=bool), view)
    classes = (index.split % 4).astype(np.uint8)
    image = class_image(index, tiles, view, (3, 4), classes=classes, number=4)
    x = ((index.x - view.west) / 1e7).astype(int)
    y = ((index.y - view.south) / 1e7).astype(int)
    for row in range(3):
        for column in range(4):
            here = classes[(x == column) & (y == row)]
            counts = np.bincount(here, minlength=4)
            assert np.isnan(image[row, column]) if not len(here) else counts[int(image[row, column])] == counts.max()


def test_a_click_finds_the_nearest_selected_tile(index: TileIndex) -> None:
    mask = index.split == 1
    x, y = float(index.x[0]) + 500, float(index.y[0]) - 300
    distance = np.where(mask, np.hypot(index.x - x, index.y - y), np.inf)
    assert nearest(index, mask, x, y, 1e8) == int(np.argmin(distance))
    assert nearest(index, mask, x, y, float(distance.min()) * 0.99) is None
    assert nearest(index, np.zeros(TILES, dtype=bool), x, y, 1e8) is None


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 11), st.sampled_from([1, -1]))
def test_steps_visit_every_selected_tile_in_order(flags: list[bool], start: int, step: int) -> None:
    mask = np.array(flags)
    selected = np.flatnonzero(mask)[::step].tolist()
    if not selected:
        assert step_in(mask, None, step) is None
        return
    position = step_in(mask, start % len(mask), step)
    walked = []
    for _ in selected:
        walked.append(position)
        position = step_in(mask, position, step)
    assert sorted(walked) == sorted(selected)
    at = selected.index(walked[0])
    assert walked == selected[at:] + selected[:at]
    assert step_in(mask, None, step) == np.flatnonzero(mask)[0]


def test_land_is_finer_in_a_small_view() -> None:
    world = View(west=-2e7, south=-2e7, east=2e7, north=2e7)
    name, xs, ys = land_in(world)
    assert name == "world"
    assert all(np.isfinite(y).all() for y in ys)
    iberia = View(west=mercator_x(-10.0), east=mercator_x(4.0), south=mercator_y(36.0), north=mercator_y(44.0))
    near, fine_xs, _ = land_in(iberia)
    assert near != name
    assert 0 < len(fine_xs) < len(xs)


# ---------------------------------------------------------------- what leaves the page


def test_a_tile_is_found_by_its_id_in_every_form(index: TileIndex) -> None:
    number = int(index.tile_id[3])
    for text in (f"{number:016x}", f"{number:016X}", f"0x{number:016x}", f" {number:016x} ", str(number)):
        assert index.position(text) == 3
    for text in ("3", "0123456789abcdef", "Paris"):
        with pytest.raises(InputError):
            index.position(text)


def several_dates(arrays: dict[str, Any]) -> None:
    """Rows 3, 40 and 7 have one location; the scenes of 40, 7 and 3 follow each other."""
    for row, moment in ((40, "2018-01-01"), (7, "2018-05-01"), (3, "2019-01-01")):
        arrays["time"][row] = np.datetime64(moment, "ms").astype(np.int64)
        for name in ("tile_id", "lon", "lat", "epsg", "ulx", "uly", "split"):
            arrays[name][row] = arrays[name][3]


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> TileIndex:
    path = tmp_path_factory.mktemp("dated") / "toy.zarr"
    return TileIndex.of(toy_store.write_store(path, TILES, change=several_dates))


def test_tiles_with_one_id_are_named_by_the_order_of_their_dates(dated: TileIndex, index: TileIndex) -> None:
    name = format_tile_id(int(dated.tile_id[3]))
    assert [dated.name(row) for row in (40, 7, 3)] == [f"{name}.1", f"{name}.2", f"{name}.3"]
    assert [dated.position(f"{name}{end}") for end in ("", ".1", ".2", ".3")] == [40, 40, 7, 3]
    assert dated.name(5) == format_tile_id(int(dated.tile_id[5]))
    assert len({dated.name(row) for row in range(TILES)}) == TILES
    for end in (".0", ".4", ".x", ".", ".-1", ".1.1", ".\u00b2"):
        with pytest.raises(InputError, match="Expected the id of a tile"):
            dated.position(f"{name}{end}")
    assert [index.name(row) for row in range(TILES)] == [format_tile_id(number) for number in index.tile_id.tolist()]


def test_ids_are_read_by_subset(index: TileIndex, store: Store, tmp_path: Path) -> None:
    selection = Selection(index)
    selection.apply(from_query("class=Tundra&from=2018-01-01", index))
    file = tmp_path / "ids.txt"
    file.write_bytes(ids_text(index.tile_id[selection.mask]))
    assert read_ids(str(file)) == [format_tile_id(number) for number in index.tile_id[selection.mask].tolist()]
    make_subset(store, tmp_path / "part.zarr", Part(ids=read_ids(str(file))))
    part = open_store(tmp_path / "part.zarr")
    assert sorted(part.coords["tile_id"].tolist()) == sorted(index.tile_id[selection.mask].tolist())


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        (Filter(), "--ids ids.txt"),
        (Filter(splits=(0, 2)), "--split train --split test"),
        (Filter(splits=(0, 255)), "--ids ids.txt"),
        (Filter(splits=(0,), first_day=17_000), "--ids ids.txt"),
    ],
)
def test_the_command_has_the_options_of_subset(chosen: Filter, options: str) -> None:
    assert subset_command("a b.zarr", chosen) == f"mmearth-data subset 'a b.zarr' {options} --out part.zarr"


# ---------------------------------------------------------------- stores of other kinds


def test_rows_without_a_tile_and_unknown_dates(tmp_path: Path) -> None:
    store_making.make_store(tmp_path / "made.zarr")
    made = open_store(tmp_path / "made.zarr")
    index = TileIndex.of(made)
    assert len(index) == len(made)
    assert index.label_of is None
    assert index.rows.tolist() == made.rows.tolist()
    known = ~np.isnat(made.coords["time"])
    assert index.date_bars.counts(np.ones(len(index), dtype=bool)).sum() == known.sum() < len(index)
    selection = Selection(index)
    selection.change(first_day=0)
    assert selection.mask.tolist() == known.tolist()


def test_an_unfinished_store_shows_what_is_committed(tmp_path: Path) -> None:
    made = toy_store.write_store(tmp_path / "toy.zarr", 40, finish=False)
    world = World.of(made)
    assert len(world.index) == 40
    assert "not finished" in world.notes[0]


def test_a_store_without_a_tile_is_refused(tmp_path: Path) -> None:
    store_making.begin_store(tmp_path / "made.zarr")
    with pytest.raises(InputError, match="expected a store with tiles, got one in which no tile is committed yet"):
        World.of(open_store(tmp_path / "made.zarr"))


def test_a_damaged_column_is_reported(tmp_path: Path) -> None:
    toy_store.write_store(tmp_path / "toy.zarr", 16)
    chunk = next(
        file for file in (tmp_path / "toy.zarr" / "lon").rglob("*") if file.is_file() and file.suffix != ".json"
    )
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    with pytest.raises(StoreDamaged, match="lon"):
        World.of(open_store(tmp_path / "toy.zarr"))


# ---------------------------------------------------------------- neighbours


def write_embeddings(path: Path, ids: Any, values: np.ndarray[Any, Any]) -> Path:
    flat = pa.array(values.reshape(-1).astype(np.float32))
    column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    pq.write_table(pa.table({"tile_id": pa.array(ids), "embedding": column}), path)
    return path


def test_neighbours_are_those_of_the_cosine(index: TileIndex, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(TILES)[:80]
    values = rng.normal(size=(81, 6))
    ids = np.append(index.tile_id[order], np.uint64(2**40))
    found = read_neighbours(write_embeddings(tmp_path / "e.parquet", ids, values), index)
    units = values[:80] / np.linalg.norm(values[:80], axis=1, keepdims=True)
    for row in (0, 17):
        similarity = units @ units[row]
        expected = [k for k in np.argsort(-similarity) if k != row][:8]
        near = found.find(int(order[row]), 8)
        assert near is not None
        assert [position for position, _ in near] == order[expected].tolist()
        assert [value for _, value in near] == pytest.approx(similarity[expected].tolist(), abs=1e-5)
    without = next(k for k in range(TILES) if k not in set(order.tolist()))
    assert found.find(without, 8) is None


def test_embeddings_of_tiles_with_one_id_are_told_apart_by_their_dates(dated: TileIndex, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(TILES)
    values = np.random.default_rng(2).normal(size=(TILES, 6))
    file = write_embeddings(tmp_path / "e.parquet", dated.tile_id[order], values)
    times = pa.array(dated.time_ms[order].view("datetime64[ms]"), pa.timestamp("ms", tz="UTC"))
    pq.write_table(pq.read_table(file).append_column("time", times), file)
    found = read_neighbours(file, dated)
    assert found.tiles.tolist() == order.tolist()
    assert found.of_tile.tolist() == np.argsort(order).tolist()


def test_embeddings_beside_a_store_are_found_by_name(store: Store, index: TileIndex, tmp_path: Path) -> None:
    assert beside(tmp_path / "planet.zarr") is None
    pq.write_table(pa.table({"lon": [1.0]}), tmp_path / "planet.parquet")
    assert beside(tmp_path / "planet.zarr") is None
    file = write_embeddings(tmp_path / "planet.embeddings.parquet", index.tile_id, np.ones((TILES, 2)))
    assert beside(tmp_path / "planet.zarr") == file
    assert beside("s3://bucket/planet.zarr") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, index: None, "no such file"),
        (lambda path, index: path.write_text("no parquet"), "cannot be read"),
        (lambda path, index: pq.write_table(pa.table({"lon": [1.0]}), path), "got columns lon"),
        (lambda path, index: write_embeddings(path, ["a.tif"], np.ones((1, 2))), "embeddings of files"),
        (
            lambda path, index: pq.write_table(pa.table({"id": ["a.tif"], "embedding": [[1.0]]}), path),
            "embeddings of files",
        ),
        (lambda path, index: write_embeddings(path, np.array([7], np.uint64), np.ones((1, 2))), "got 1 of other tiles"),
        (
            lambda path, index: write_embeddings(path, index.tile_id[:1], np.full((1, 2), np.nan)),
            "expected finite numbers",
        ),
        (lambda path, index: write_embeddings(path, [None, 7], np.ones((2, 2))), "expected an id in each row"),
        (
            lambda path, index: pq.write_table(pa.table({"tile_id": index.tile_id[:1], "embedding": ["x"]}), path),
            "expected lists of numbers",
        ),
    ],
)
def test_a_wrong_file_of_embeddings_is_refused(index: TileIndex, tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "e.parquet"
    make(path, index)
    with pytest.raises(FileInputError, match=message):
        read_neighbours(path, index)
