"""The Python interface of a store: positions, ids, selections, loaders, figures, text and HTML."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import inspect
import io
import pickle
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import toy_store
from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image
from store_making import make_store, modality, small_layout

from mmearth_data import (
    ClassLabel,
    InputError,
    Kind,
    Loader,
    Store,
    UnknownKey,
    UnknownPosition,
    format_tile_id,
    open_store,
    read_ids,
    subset,
    tile_figure,
    verify,
)
from mmearth_data.catalog.tile import LEAST_ID, MAX_LAT, MIN_LAT, TileGrid, tile_ids, utm_epsg
from mmearth_data.cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TILES = 48
LON = np.round(np.linspace(-179.9, 179.9, TILES), 4)
"""Longitudes of the tiles: tiles 0 and 47 are 0.2 degrees apart, across 180."""


def spread(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Put the tiles around the Earth."""
    arrays["lon"] = LON
    arrays["tile_id"] = tile_ids(LON, arrays["lat"], toy_store.SIZE_PX)
    places = zip(LON.tolist(), arrays["lat"].tolist(), strict=True)
    grids = [TileGrid.around(lon, lat, utm_epsg(lon, lat), toy_store.SIZE_PX) for lon, lat in places]
    for name in ("epsg", "ulx", "uly"):
        arrays[name] = np.array([getattr(grid, name) for grid in grids], dtype=arrays[name].dtype)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    names = ("sentinel2", "esa_worldcover", "era5", "month", "biome")
    return toy_store.write_store(tmp_path_factory.mktemp("api") / "toy.zarr", TILES, names=names, change=spread)


@pytest.fixture(scope="module")
def ids(store: Store) -> list[str]:
    return [f"{int(number):016x}" for number in store.coords["tile_id"]]


def positions(part: Store) -> list[int]:
    """Positions of a selection's tiles in the whole store, whose rows all hold tiles."""
    return part.rows.tolist()


# ---------------------------------------------------------------- positions, slices, masks


def test_a_position_is_any_integer(store: Store, ids: list[str]) -> None:
    for position in (3, np.int64(3), np.uint8(3), 3 - TILES, np.int16(3 - TILES)):
        tile = store[position]
        assert tile["tile"]["id"] == ids[3]
        assert tile["tile"]["tile_id"] == store.coords["tile_id"][3]
        np.testing.assert_array_equal(tile["sentinel2"], store.read("sentinel2", slice(3, 4))[0])


@pytest.mark.parametrize(
    "key",
    [
        slice(0, 4),
        slice(None, None, 3),
        slice(-5, None),
        slice(40, 400),
        slice(4, 4),
        [2, 5, -1],
        [],
        np.array([0, 47]),
        np.arange(TILES) % 2 == 0,
        [k == 7 for k in range(TILES)],
        range(3, 9),
    ],
)
def test_indexing_selects_the_same_tiles_as_numpy(store: Store, key: Any) -> None:
    part = store[key]
    whole = np.arange(TILES)
    expected = whole[np.asarray(key, dtype=bool if len(key) == TILES else int) if not isinstance(key, slice) else key]
    assert isinstance(part, Store)
    assert positions(part) == expected.tolist()
    assert len(part) == len(part.tiles) == part.dataset.sizes["tile"] == len(expected)
    np.testing.assert_array_equal(part.tiles["lon"], LON[expected])
    np.testing.assert_array_equal(part.coords["lon"], LON[expected])


def test_a_selection_of_a_selection_has_its_own_positions_and_loader(store: Store, ids: list[str]) -> None:
    part = store.select(modalities=["biome", "sentinel2"])[::2][[1, 3]]
    assert positions(part) == [2, 6]
    assert list(part.modalities) == ["sentinel2", "biome"]
    assert part[1]["tile"]["id"] == ids[6]
    (batch,) = part.loader(shuffle=False)
    np.testing.assert_array_equal(batch["sentinel2"], part.read("sentinel2", slice(0, TILES))[[2, 6]])
    assert positions(pickle.loads(pickle.dumps(part))) == [2, 6]


@pytest.mark.parametrize("key", [slice(None, None, -1), [5, 2], [2, 2], np.array([3, 1]), [-1, 0]])
def test_positions_in_another_order_are_refused(store: Store, key: Any) -> None:
    with pytest.raises(
        InputError, match=r"ascending positions without duplicates, got .*store\.dataset\.isel\(tile=\.\.\.\)"
    ):
        store[key]


def test_the_suggested_reordering_works(store: Store) -> None:
    ordered = store.dataset.isel(tile=[5, 2])
    np.testing.assert_array_equal(ordered.lon, LON[[5, 2]])
    pixels = store.read("sentinel2", slice(0, TILES))[[5, 2]].astype(np.float32)
    np.testing.assert_array_equal(ordered.sentinel2.fillna(0), pixels)


@pytest.mark.parametrize("key", [48, -49, [48], [0, -49], np.array([2**40], dtype=np.uint64), 2**30 - 1])
def test_a_position_outside_is_an_index_error(store: Store, key: Any) -> None:
    with pytest.raises(IndexError, match=r"[Nn]o tile is at position") as caught:
        store[key]
    assert isinstance(caught.value, UnknownPosition)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "key", [1.0, None, True, np.True_, (1, 2), ..., {1: 2}, b"x", [1.5], [None], [[1]], slice(1.5, 3), slice("2019", None), np.zeros(3, bool)]
)  # fmt: skip
def test_other_keys_are_refused_in_one_line(store: Store, key: Any) -> None:
    with pytest.raises(InputError) as caught:
        store[key]
    assert str(caught.value).count("\n") == 0
    assert "xpected" in str(caught.value)


def test_iterating_gives_every_tile_once(store: Store, ids: list[str]) -> None:
    part = store[40:]
    assert [tile["tile"]["id"] for tile in part] == ids[40:]
    assert len(list(zip(part, part, strict=True))) == 8
    assert not store[:0]
    assert list(store[:0]) == []


# ---------------------------------------------------------------- names


def test_a_name_gives_the_array_of_the_dataset(store: Store) -> None:
    import xarray as xr

    array = store["sentinel2"]
    assert isinstance(array, xr.DataArray)
    xr.testing.assert_identical(array, store.dataset["sentinel2"])
    np.testing.assert_array_equal(store["lat"], store.coords["lat"])
    assert store[3:5]["biome"].sizes == {"tile": 2}
    assert list(store[["sentinel2", "biome"]].modalities) == ["sentinel2", "biome"]
    completed = store._ipython_key_completions_()
    assert {"sentinel2", "biome", "lat", "time"} <= set(completed)
    assert all(name in store.dataset.variables for name in completed)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sentinel3", "did you mean 'sentinel2'"),
        ("biom", "did you mean 'biome'"),
        ("month", "month is derived from time, and not stored"),
        (["sentinel2", "biom"], "got biom; did you mean 'biome'"),
        ("0123456789abcdef", "no tile has the id 0123456789abcdef; positions are 0 to 47"),
        (2**60, "no tile has the id 1000000000000000"),
    ],
)
def test_an_unknown_name_is_a_key_error(store: Store, key: Any, message: str) -> None:
    with pytest.raises(KeyError) as caught:
        store[key]
    assert isinstance(caught.value, UnknownKey)
    assert isinstance(caught.value, InputError)
    assert message in str(caught.value)
    assert not str(caught.value).startswith("'"), "KeyError quotes its message"


def test_containment_is_of_ids_and_names(store: Store, ids: list[str]) -> None:
    assert "sentinel2" in store
    assert "month" in store
    assert "lat" in store
    assert ids[5] in store
    assert ids[5].upper() in store
    assert int(ids[5], 16) in store
    assert store.coords["tile_id"][5] in store
    assert ids[5] not in store[:5]
    for other in ("sentinel1", "0123456789abcdef", "9" * 20, 10**30, 3, None, 1.5, (1,)):
        assert other not in store


# ---------------------------------------------------------------- ids


def forms(text: str) -> list[Any]:
    number = int(text, 16)
    return [text, text.upper(), f"0x{text}", number, np.uint64(number), str(number)]


def test_a_tile_is_found_by_its_id_in_every_form(store: Store, ids: list[str]) -> None:
    for form in forms(ids[9]):
        assert store.position(form) == 9
        assert store[4:].position(form) == 5
        assert store[form]["tile"]["id"] == ids[9]
        assert positions(store.select(ids=form)) == [9]


def test_no_tile_s_id_could_be_a_position() -> None:
    # The smallest id that a store can hold: on 180 degrees west, where the high bits are 0, at the southern end.
    least = int(tile_ids([-180.0], [MIN_LAT], 16)[0])
    assert least > LEAST_ID
    assert int(tile_ids([-180.0], [MAX_LAT], 16)[0]) > LEAST_ID


@pytest.mark.parametrize(
    "many",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        lambda ids: np.array([int(one, 16) for one in ids], dtype=np.uint64),
        lambda ids: pd.Series([int(one, 16) for one in ids], dtype="uint64", index=[7, 8, 9]),
        lambda ids: {one.upper() for one in ids},
        lambda ids: (one for one in ids),
        lambda ids: pd.Series(ids, dtype="string"),
    ],
)
def test_select_takes_several_ids_in_any_container_and_order(
    store: Store, ids: list[str], many: Callable[[list[str]], Any]
) -> None:
    assert positions(store.select(ids=many([ids[30], ids[2], ids[17]]))) == [2, 17, 30]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["x"], "ids: expected tile ids of 16 hex digits, or their numbers, got 'x'"),
        (["ids.txt"], "use mmearth_data.read_ids"),
        (3, "got 3 "),
        (3.5, "ids: expected tile ids, got 3.5 (float)"),
        ([None], "got None"),
        (["0123456789abcdef", 2**60], "got 2 of others, the first is 0123456789abcdef"),
    ],
)
def test_other_ids_are_refused(store: Store, wanted: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        store.select(ids=wanted)


def test_a_subset_takes_ids_in_both_forms(store: Store, ids: list[str], tmp_path: Path) -> None:
    wanted = store.coords["tile_id"][[1, 20]]
    by_number = subset(store.path, tmp_path / "n.zarr", ids=wanted, split="train")
    by_text = subset(store.path, tmp_path / "t.zarr", ids=pd.Series([ids[20].upper(), f"0x{ids[1]}"]), split=["train"])
    np.testing.assert_array_equal(by_number.coords["tile_id"], wanted)
    assert by_number.digest == by_text.digest, "the same subset, however it is written"
    boxed = subset(store.path, tmp_path / "b.zarr", region=(170, -90, -170, 90), ids=ids)
    assert boxed.recipe["subset"]["region"] == "bbox:170,-90,-170,90"
    assert {boxed[0]["tile"]["id"], boxed[-1]["tile"]["id"]} == {ids[0], ids[47]}
    with pytest.raises(InputError, match=r"ids, such as those of store\.select"):
        subset(store.path, tmp_path / "g.zarr", region=shapely.box(0, 0, 1, 1))


def test_commands_take_ids_in_both_forms(store: Store, ids: list[str], tmp_path: Path) -> None:
    def pictures(*tiles: str) -> set[bytes]:
        found = set()
        for tile in tiles:
            command = ["inspect", str(store.path), "--tile", tile, "--figure", str(tmp_path / "tile.png")]
            done = CliRunner().invoke(cli, command)
            assert done.exit_code == 0, done.output
            found.add((tmp_path / "tile.png").read_bytes())
        return found

    assert len(pictures(*map(str, forms(ids[46])), "46", "-2")) == 1
    table = tmp_path / "chosen.csv"
    table.write_text(f"id,why\n0x{ids[3]},a\n{ids[4].upper()},b\n")
    assert read_ids(str(table)) == [f"0x{ids[3]}", ids[4].upper()]
    for number, given in enumerate((str(table), f"{int(ids[3], 16)},{ids[4]}")):
        out = tmp_path / f"{number}.zarr"
        done = CliRunner().invoke(cli, ["subset", str(store.path), "--ids", given, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert [tile["tile"]["id"] for tile in open_store(out)] == ids[3:5]
    done = CliRunner().invoke(cli, ["inspect", str(store.path), "--tile", "99", "--figure", str(tmp_path / "x.png")])
    assert done.exit_code == 2
    assert "no tile is at position 99; positions are 0 to 47" in done.output


# ---------------------------------------------------------------- select


EAST = [k for k in range(TILES) if LON[k] >= 0]


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ((0, -90, 180, 90), EAST),
        ([0.0, -90, 180, 90], EAST),
        (np.array([0, -90, 180, 90]), EAST),
        (shapely.box(0, -90, 180, 90), EAST),
        ((179, -90, -179, 90), [0, 47]),
        ("bbox:179,-90,-179,90", [0, 47]),
        (shapely.box(179, -90, 181, 90), [0, 47]),
        (gpd.GeoSeries([shapely.box(0, -85, 180, 85)], crs=4326), EAST),
        (gpd.GeoSeries([shapely.box(0, -85, 180, 85)], crs=4326, index=["a"]).to_crs(3857), EAST),
        (gpd.GeoDataFrame({"name": ["x"]}, geometry=[shapely.box(0, -85, 180, 85)], crs=4326), EAST),
        (gpd.GeoSeries([shapely.box(179, -60, 180, 60), shapely.box(-180, -60, -179, 60)], crs=4326), [0, 47]),
        ([(-180, -90, -179, 90), shapely.box(179, -90, 180, 90)], [0, 47]),
        ([(-180, -90, -179, 90), "global"], list(range(TILES))),
        (shapely.Polygon(), []),
    ],
)
def test_regions_in_every_form(store: Store, region: Any, expected: list[int]) -> None:
    assert positions(store.select(region=region)) == expected


def test_a_frame_in_metres_that_crosses_180_is_projected(store: Store) -> None:
    # UTM zone 60 ends at 180 degrees east; a circle around its end is in both hemispheres.
    circle = gpd.GeoSeries([shapely.Point(LON[47], 30)], crs=4326).to_crs(32660).buffer(60_000)
    assert positions(store.select(region=circle)) == [k for k in (0, 47) if store.coords["lat"][k] == 30] == [47]


def test_the_tiles_of_a_store_select_themselves(store: Store) -> None:
    table = store.tiles
    assert positions(store.select(region=table.iloc[[3, 9]])) == [3, 9]
    assert positions(store.select(region=table.total_bounds)) == list(range(TILES))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (gpd.GeoSeries([shapely.box(0, 0, 1, 1)]), "expected a GeoSeries with a CRS, got one without; declare it"),
        (gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]), "expected a GeoDataFrame with a CRS"),
        (gpd.GeoSeries([shapely.Point(0, 0)], crs=4326), "expected polygons"),
        (gpd.GeoDataFrame({"a": [1]}), "expected a GeoDataFrame with a geometry, got one without"),
        ((1, 2, 3), "region: expected a name, .*four numbers.*, got .1, 2, 3."),
        (3.5, "region: expected a name, .* got 3.5 .float."),
        ([], "region: expected a name"),
        ((10, 5, 20, -5), "Expected S < N"),
        ((0, 0, 370, 10), "longitudes in -180..180"),
        ((0, 0, float("nan"), 10), "longitudes in -180..180"),
        (["France", "Atlantis"], "Unknown region 'Atlantis'"),
    ],
)
def test_other_regions_are_refused(store: Store, region: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        store.select(region=region)


def test_masks_of_every_kind(store: Store) -> None:
    expected = np.flatnonzero(LON > 0).tolist()
    frame = pd.DataFrame({"lon": LON})
    masks = [LON > 0, (LON > 0).tolist(), frame.lon > 0, store.dataset.lon > 0, lambda c: c["lon"] > 0]
    for mask in masks:
        assert positions(store.select(where=mask)) == expected
    for mask in masks[:-1]:
        assert positions(store[mask]) == expected
    # pandas aligns a mask by its index, wherever it was sorted.
    assert positions(store.select(where=frame.sort_values("lon", ascending=False).lon > 0)) == expected
    assert positions(store[(frame.lon > 0)[::-1]]) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (np.zeros(3, bool), r"expected a boolean array of 48 tiles, got \(3,\) of bool"),
        ([1] * TILES, r"got \(48,\) of int64"),
        ("lon > 0", "got 'lon > 0'"),
        (lambda c: None, "got None"),
        (pd.Series([True] * TILES, index=range(5, 5 + TILES)), "with the index of store.tiles"),
    ],
)
def test_other_masks_are_refused(store: Store, where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        store.select(where=where)


def test_classes_by_name_code_and_category(store: Store) -> None:
    m = store.modalities["biome"]
    codes = store.read("biome", slice(0, TILES))
    first, second = (next(label for label in m.classes if label.code == code) for code in np.unique(codes)[:2].tolist())
    one, both = (
        np.flatnonzero(np.isin(codes, chosen)).tolist() for chosen in ([first.code], [first.code, second.code])
    )
    assert 0 < len(one) < len(both)
    names = [first.name, second.name]
    for given in (first.name, first.code, np.uint8(first.code), [first.name], np.array([first.code])):
        assert positions(store.select(biome=given)) == one
    for given in (
        names,
        [first.name, second.code],
        pd.Series(names).astype("category"),
        pd.Categorical(names),
        set(names),
    ):
        assert positions(store.select(biome=given)) == both


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"split": "trian"}, "split: expected train, val, test, got trian; did you mean 'train'"),
        ({"split": 1.5}, "split: expected names or codes, got 1.5"),
        ({"split": True}, "split: expected names or codes, got True"),
        ({"split": [None]}, "got None"),
        ({"split": 7}, "got 7"),
        ({"biome": "Tundr"}, "did you mean 'Tundra'"),
        ({"biom": "Tundra"}, "got 'biom'; did you mean 'biome'"),
        ({"regions": "Africa"}, "did you mean 'region'"),
        ({"date": 3.5}, "date: expected '2019'"),
        ({"date": "June"}, "date: expected '2019'"),
        ({"modalities": 3}, "modalities: expected names, got 3"),
        ({"modalities": {"sentinel2": ["B4"]}}, "modalities: expected names, got {"),
        ({"modalities": [1]}, "got 1"),
        ({"modalities": [["biome"]]}, "got ['biome']"),
        ({"date": pd.Series(["2019"])}, "date: expected '2019'"),
    ],
)
def test_other_conditions_are_refused(store: Store, conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        store.select(**conditions)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [pd.Series(["a", "b"]), np.array([["a"], ["b"]]), pd.DataFrame({"a": [1]}), None, 1.5]
)
def test_what_names_no_tile_or_store_is_refused_in_one_line(store: Store, given: Any) -> None:
    for refused in (store.tile, open_store):
        with pytest.raises(InputError) as caught:
            refused(given)
        assert "\n" not in str(caught.value)


def test_a_store_is_opened_from_its_path_and_not_from_an_open_one(store: Store, tmp_path: Path) -> None:
    """A part of an open store would be lost on the way."""
    with pytest.raises(InputError, match=r"Expected the path or URL of a store, got <mmearth_data.Store: 48 tiles>"):
        subset(store, tmp_path / "part.zarr")  # type: ignore[arg-type]


def test_classes_that_share_a_name_are_selected_together_or_by_what_the_table_calls_them(tmp_path: Path) -> None:
    classes = tuple(ClassLabel(code, name) for code, name in ((0, "Wet\nland"), (1, "Same"), (2, "Same"), (3, "Ice")))
    zone = modality("zone", Kind.TILE_CATEGORICAL, (), "uint16", 65535, classes=classes)
    layout = small_layout()
    own = (*(m for m in layout.modalities if m.name != "zone"), zone)
    make_store(tmp_path / "s.zarr", dataclasses.replace(layout, modalities=own))
    store = open_store(tmp_path / "s.zarr")
    codes, names = store.dataset.zone.values, store.tiles.zone
    assert {1, 2} < set(codes.tolist())
    for given, wanted in (("Same", [1, 2]), ("Same [1]", [1]), (1, [1]), (2, [2]), (["Same [2]", "Ice"], [2, 3])):
        np.testing.assert_array_equal(store.select(zone=given).rows, store.rows[np.isin(codes, wanted)])
    for name in names.cat.categories:
        np.testing.assert_array_equal(store.select(zone=name).rows, store.rows[names == name])
    with pytest.raises(InputError) as caught:
        store.select(zone="Wett land")
    assert "\n" not in str(caught.value)


def test_arrays_of_xarray_select_too(store: Store) -> None:
    ds = store.dataset
    assert positions(store.select(ids=ds.tile[3:5])) == [3, 4]
    assert positions(store.select(ids=ds.tile_id[3:5])) == [3, 4]
    assert positions(store.select(split=ds.split[:1])) == np.flatnonzero(ds.split.values == ds.split.values[0]).tolist()


def test_dates_in_every_form(store: Store) -> None:
    day = pd.Timestamp("2019-02-14")
    on_that_day = np.flatnonzero(store.coords["time"].astype("datetime64[D]") == np.datetime64("2019-02-14")).tolist()
    assert on_that_day
    for given in ("2019-02-14", day, day.date(), day.to_datetime64(), (day, day)):
        assert positions(store.select(date=given)) == on_that_day
    assert len(store.select(date=2019)) == len(store.select(date=(2019, None))) == TILES
    assert len(store.select(date=np.int64(2018))) == 0


def test_days_are_utc_and_times_of_a_day_are_refused(store: Store) -> None:
    """The same instant selects the same tiles, in whatever time zone it is given."""
    midnight = pd.Timestamp("2019-02-14", tz="UTC")
    on_that_day = positions(store.select(date="2019-02-14"))
    for zone in ("Asia/Tokyo", "America/New_York"):
        assert positions(store.select(date=midnight.tz_convert(zone))) == on_that_day
    for given in (
        midnight + pd.Timedelta("1h"),
        np.datetime64("2019-02-14T00:01"),
        midnight.tz_localize(None).tz_localize("Asia/Tokyo"),
    ):
        with pytest.raises(InputError, match="date: expected a whole day"):
            store.select(date=(given, None))
    for given in (pd.NaT, np.datetime64("NaT")):
        with pytest.raises(InputError, match="date: expected '2019'"):
            store.select(date=given)


# ---------------------------------------------------------------- the loader


def test_the_loader_s_signature_is_that_of_loader(store: Store) -> None:
    ours, theirs = (inspect.signature(f, eval_str=False).parameters for f in (store.loader, Loader.__init__))
    expected = [p for name, p in theirs.items() if name not in ("self", "store")]
    assert [(p.name, p.kind, p.default, p.annotation) for p in ours.values()] == [
        (p.name, p.kind, p.default, p.annotation) for p in expected
    ]


def test_every_option_of_the_loader_is_passed_on(store: Store) -> None:
    def no_memory(size: int) -> np.ndarray[Any, Any]:
        return np.zeros(size, np.uint8)

    given: dict[str, Any] = {
        "batch_size": 5, "shuffle": False, "seed": 3, "modalities": ["sentinel2"], "bands": {"sentinel2": ["B4"]},
        "normalise": True, "drop_last": True, "infinite": True, "rank": 1, "world_size": 2, "block_tiles": 3,
        "window_blocks": 2, "threads": 1, "prefetch": 2, "client": None, "allocate": no_memory,
    }  # fmt: skip
    assert set(given) == set(inspect.signature(store.loader).parameters)
    made, expected = store.loader(**given), Loader(store, **given)
    assert made.state_dict() == expected.state_dict()
    simple = {name: value for name, value in vars(expected).items() if isinstance(value, int | tuple | str | bool)}
    assert {name: getattr(made, name) for name in simple} == simple
    first, other = next(iter(made)), next(iter(expected))
    assert first["sentinel2"].shape == (5, 1, toy_store.SIZE_PX, toy_store.SIZE_PX)
    np.testing.assert_array_equal(first["sentinel2"], other["sentinel2"])
    assert first["sentinel2"].dtype == np.float32


def test_a_loader_delivers_numpy_arrays_as_stored_and_describes_itself(store: Store) -> None:
    loader = store.loader(batch_size=20, seed=7)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert {batch["sentinel2"].dtype.name for batch in batches} == {"uint16"}
    assert {batch["tile"]["tile_id"].dtype.name for batch in batches} == {"uint64"}
    found = np.sort(np.concatenate([batch["tile"]["tile_id"] for batch in batches]))
    np.testing.assert_array_equal(found, np.sort(store.coords["tile_id"]))
    text = repr(loader)
    assert text.startswith("<Loader: 48 tiles in 3 batches of 20, shuffled with seed 7>\n")
    assert str(store.path) in text
    assert "Next:       epoch 1, batch 0" in text
    assert "in the store's order, part 1 of 2>" in repr(store.loader(shuffle=False, rank=1, world_size=2))


# ---------------------------------------------------------------- figures


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_a_plot_is_a_figure_with_the_pixels_of_the_command(store: Store, ids: list[str], tmp_path: Path) -> None:
    drawn = tile_figure(store, 5, tmp_path / "command.png").read_bytes()
    figure = store.plot(ids[5], tmp_path / "plot.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "plot.png").read_bytes() == drawn
    figure.savefig(tmp_path / "again.png")
    np.testing.assert_array_equal(pixels((tmp_path / "again.png").read_bytes()), pixels(drawn))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.png", "command.png", "plot.png"]
    store.plot(5)
    assert len(list(tmp_path.iterdir())) == 3, "nothing is written unless asked for"


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_plot_is_written_in_the_format_of_its_name(store: Store, tmp_path: Path, ending: str, start: bytes) -> None:
    for number, figure in enumerate(
        (store.plot(0, tmp_path / f"t.{ending}"), store.plot_map(tmp_path / f"m.{ending}"))
    ):
        assert (tmp_path / f"{'tm'[number]}.{ending}").read_bytes().startswith(start)
        figure.savefig(tmp_path / "x.png", dpi=50)
        width, height = figure.get_size_inches() * 50
        assert pixels((tmp_path / "x.png").read_bytes()).shape[:2] == (int(height), int(width))


def test_trimmed_margins_cut_nothing_off(store: Store) -> None:
    # As the inline backend of notebooks saves a figure; what it shows must be the inner part of the whole.
    figure, whole, trimmed = store.plot(5), io.BytesIO(), io.BytesIO()
    figure.savefig(whole, dpi="figure")
    figure.savefig(trimmed, dpi="figure", bbox_inches="tight", pad_inches=0.0)
    ink = [int((pixels(buffer.getvalue()).min(axis=-1) < 128).sum()) for buffer in (whole, trimmed)]
    assert abs(ink[0] - ink[1]) < 0.02 * ink[0]


def test_a_notebook_shows_a_plot_once(store: Store) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = store.plot(0)
    assert plt.get_fignums() == before, "pyplot would show its own figures again at the end of a cell"
    png, size = figure._repr_png_()  # type: ignore[attr-defined]
    shape = pixels(png).shape
    assert (size["width"], size["height"]) == (shape[1] // 2, pytest.approx(shape[0] / 2, abs=1))


@pytest.mark.parametrize("name", ["tile.jpg", "no/such/folder.png"])
def test_a_picture_that_cannot_be_written_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    for plot in (store.plot, store.plot_map):
        with pytest.raises(InputError):
            plot(path=tmp_path / name)
    with pytest.raises(InputError, match="colour: expected split, year, level, biome, label, got 'height'"):
        store.plot_map(colour="height")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there are no tiles"):
        store[:0].plot()


# ---------------------------------------------------------------- repr


def test_the_text_of_a_store_describes_its_content(store: Store) -> None:
    lines = repr(store).splitlines()
    assert lines[0] == "<mmearth_data.Store: 48 tiles> [SYNTHETIC]"
    facts = dict(re.findall(r"^(\w+): +(.+)$", "\n".join(lines[1:8]), re.M))
    assert facts["Path"] == str(store.path)
    assert facts["Splits"] == "36 train, 12 test"
    assert facts["Scenes"] == "2019-01-15 to 2019-04-15, 24 L1C, 24 L2A"
    assert facts["Area"] == "-179.90 to 179.90 °E, 0.00 to 30.00 °N"
    assert facts["State"].startswith("finished, digest ")
    expected = sum(array.nbytes for name, array in store[0].items() if name != "tile") * TILES
    size, unit = facts["Size"].split()[:2]
    assert float(size) == pytest.approx(expected / {"KiB": 2**10, "MiB": 2**20}[unit], rel=0.01)
    listed = {line.split()[0]: line for line in lines if line.startswith("    ")}
    assert list(listed) == list(store.modalities)
    assert re.search(r"raster/continuous +uint16 +B1, B2, B3", listed["sentinel2"])
    assert "14 classes" in listed["biome"]
    assert "derived from time" in listed["month"]


def test_the_text_of_parts_and_of_unfinished_stores(store: Store, tmp_path: Path) -> None:
    part = repr(store[3:4])
    assert part.startswith("<mmearth_data.Store: 1 tile> ")
    assert "1 of 48" in part
    assert "<mmearth_data.Store: 0 tiles>" in repr(store[:0])
    unfinished = toy_store.write_store(tmp_path / "u.zarr", 48, names=("biome",), finish=False)
    assert "NOT FINISHED" in repr(unfinished)
    assert "being built or interrupted: 3 of 3 shards are written" in repr(unfinished)


# ---------------------------------------------------------------- HTML


class Reader(html.parser.HTMLParser):
    """Collects the tags, text and pictures of a piece of HTML, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.pictures: list[tuple[str, bytes]] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "img":
            kind, _, data = (values["src"] or "").partition(";base64,")
            self.pictures.append((kind, base64.b64decode(data)))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_html_of_a_store_is_small_complete_and_needs_nothing_else(store: Store) -> None:
    text = store._repr_html_()
    assert len(text) < 300_000
    page = Reader(text)
    assert all(address.startswith("data:") for address in page.addresses)
    assert not page.tags & {"script", "style", "link", "iframe"}, "notebooks remove them, or they change other cells"
    assert "SYNTHETIC" in page.text
    assert "36 train, 12 test" in page.text
    assert all(name in page.text for name in store.modalities)
    maps = [data.decode() for kind, data in page.pictures if kind == "data:image/svg+xml"]
    tiles = [Image.open(io.BytesIO(data)) for kind, data in page.pictures if kind == "data:image/webp"]
    (drawn,) = maps
    assert len(re.findall(r"M[-\d.]+ [-\d.]+h0", drawn)) == TILES
    assert len(tiles) == 8
    assert all(np.asarray(tile).std() > 0 for tile in tiles)
    # Read on white and on black: no colour of its own for text and background but inside the badge.
    assert re.findall(r"(?<![-\w])color:([^;\"]+)", text).count("#fff") == 1
    assert "background:#fff" not in text


def test_the_map_has_the_points_where_the_tiles_are(store: Store) -> None:
    from mmearth_data.inspection.notebook import draw_points

    lon, lat = np.array([0.0, 90.0, -90.0]), np.array([0.0, 0.0, 60.0])
    drawn = draw_points(lon, lat, [("#123456", np.ones(3, bool))])
    width, height = (float(value) for value in re.search(r'width="(\d+)" height="(\d+)"', drawn).groups())  # type: ignore[union-attr]
    x, y = np.array(re.findall(r"M([-\d.]+) ([-\d.]+)h0", drawn), dtype=float).T
    # Equal Earth: (0, 0) is in the middle, and (90, 0) halfway to the edge.
    np.testing.assert_allclose([x[0], y[0], x[1], y[1]], [width / 2, height / 2, 0.75 * width, height / 2], atol=1)
    assert x[2] < x[0]
    assert y[2] < y[0]


@pytest.mark.parametrize("change", ["empty", "no pictures", "one tile"])
def test_the_html_of_unusual_selections(store: Store, change: str) -> None:
    part = {
        "empty": store[:0],
        "no pictures": store.select(modalities=["biome", "month"]),
        "one tile": store[3:4],
    }[change]
    page = Reader(part._repr_html_())
    assert {"empty": 0, "no pictures": 1, "one tile": 2}[change] == len(page.pictures)
    assert "Modalities" in page.text
    assert "No pictures" not in page.text


def test_the_html_of_an_unfinished_store_with_a_path_that_is_markup(tmp_path: Path) -> None:
    path = tmp_path / "<b>&amp;'\"s.zarr"
    made = toy_store.write_store(path, 16, names=("sentinel2", "biome"), finish=False)
    text = made._repr_html_()
    page = Reader(text)
    assert "<b>&amp;" not in text.replace("<b style", "")
    assert str(path) in page.text
    assert "NOT FINISHED" in page.text


def test_damaged_tiles_leave_the_overview(tmp_path: Path) -> None:
    made = toy_store.write_store(tmp_path / "d.zarr", 16, names=("sentinel2", "biome"))
    for shard in (tmp_path / "d.zarr" / "sentinel2" / "c").rglob("*"):
        if shard.is_file():
            shard.unlink()
    page = Reader(open_store(made.path)._repr_html_())
    assert "16 tiles" in page.text
    assert "No pictures" in page.text
    assert verify(made.path).problems


@pytest.mark.parametrize("missing", ["matplotlib", "geopandas", "PIL"])
def test_without_plotting_libraries_the_overview_remains(store: Store, missing: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
from mmearth_data import open_store
store = open_store({str(store.path)!r})
text = store._repr_html_()
assert "<img" not in text and "install {missing}" in text and "36 train" in text, text
assert "36 train" in repr(store)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_text_of_many_tiles_is_quick(store: Store) -> None:
    from mmearth_data.store.overview import overview

    many = Store(store.content, np.tile(store.rows, 25_000))
    assert min(_timed(lambda: overview(many)) for _ in range(3)) < 0.3
    assert repr(many).startswith("<mmearth_data.Store: 1,200,000 tiles>")


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_ids_in_messages_are_hexadecimal(store: Store, ids: list[str]) -> None:
    number = int(ids[3], 16)
    with pytest.raises(UnknownKey, match=ids[3]):
        store[5:].position(number)
    with pytest.raises(InputError, match=ids[3]):
        store[5:].select(ids=[number])
    assert store[3]["tile"]["id"] == format_tile_id(number) == ids[3]
