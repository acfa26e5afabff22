"""Splits of tiles that files bring: what overlaps stays together, and published splits are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyproj import Transformer
from sites_world import many_sites, sites, write_site

from mmearth_data import build, make_recipe, verify
from mmearth_data.building.prepare import PreparedBuild, prepare
from mmearth_data.catalog.tile import TileGrid, tile_ids
from mmearth_data.errors import InputError
from mmearth_data.sampling import largest_remainder
from mmearth_data.sampling.grouping import groups_of_tiles, split_at_random
from mmearth_data.store.overlaps import overlapping_splits

SHARES = (50.0, 25.0, 25.0)
NAMES = ("train", "val", "test")


def tile(x: float, y: float = 5_300_000, epsg: int = 32632, size_px: int = 64) -> TileGrid:
    return TileGrid(epsg=epsg, ulx=x, uly=y, size_px=size_px)


def planned(world: Any, **options: Any) -> PreparedBuild:
    values = {"source": f"rasters:{world.file}", "tile_size": 64, "split_shares": SHARES}
    if "tiles_file" in options:
        values.pop("split_shares")
    return prepare(make_recipe(None, values | options))


def splits(prepared: PreparedBuild) -> dict[str, str]:
    """Site -> split, of sites of one tile each."""
    places = prepared.plan.places
    source = prepared.source
    slots = [slot for shard in prepared.plan.shards for slot in prepared.plan.shard(shard).slots]
    assert [slot.split for slot in slots] == places["split"].tolist()
    surveys = source.survey([slot.place for slot in slots])
    return {survey.facts["site"]: NAMES[slot.split] for survey, slot in zip(surveys, slots, strict=True)}


def check_apart(prepared: PreparedBuild) -> None:
    """What `verify` checks of a finished store."""
    places = prepared.plan.places
    assert overlapping_splits(places["lon"], places["lat"], places["split"], prepared.recipe.tile_size) is None


# ---------------------------------------------------------------- which tiles overlap


@pytest.mark.parametrize(
    ("grids", "groups"),
    [
        ([tile(0), tile(320), tile(640), tile(5000)], [0, 0, 0, 1]),
        ([tile(0), tile(640), tile(0, 5_300_640), tile(1280)], [0, 1, 2, 3]),  # they only touch
        ([tile(0), tile(639.5)], [0, 1]),  # half a metre
        ([tile(0), tile(630)], [0, 0]),  # a pixel
        ([tile(0), tile(630, 5_300_630)], [0, 0]),  # a pixel in the corner
        ([tile(0), tile(900), tile(450)], [0, 0, 0]),  # the third joins the first two
        ([tile(0, size_px=128), tile(320, 5_299_700)], [0, 0]),  # one inside the other
        ([tile(3e5), tile(3e5, epsg=32633)], [0, 1]),
    ],
)
def test_tiles_that_share_an_area_are_one_group(grids: list[TileGrid], groups: list[int]) -> None:
    assert groups_of_tiles(grids).tolist() == groups


@pytest.mark.parametrize(("lon", "lat", "zones"), [(12.0, 47.5, (32632, 32633)), (180.0, -17.0, (32760, 32701))])
@pytest.mark.parametrize(("east_m", "together"), [(0, True), (500, True), (-600, True), (800, False), (-900, False)])
def test_tiles_of_two_zones_are_compared_where_they_are(
    lon: float, lat: float, zones: tuple[int, int], east_m: float, together: bool
) -> None:
    grids = []
    for zone, move in zip(zones, (0, east_m), strict=True):
        x, y = Transformer.from_crs(4326, zone, always_xy=True).transform(lon, lat)
        grids.append(tile(x - 320 + move, y + 320, zone))
    assert (groups_of_tiles(grids).tolist() == [0, 0]) is together


# ---------------------------------------------------------------- overlapping sites


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
@pytest.mark.parametrize("method", ["random", "block"])
def test_sites_that_overlap_are_in_one_split(tmp_path: Path, method: str, seed: int) -> None:
    for number in range(24):  # pairs: each overlaps its neighbour by 320 m
        write_site(tmp_path, f"s{number:02d}", 500_000 + 2000 * (number // 2) + 320 * (number % 2), 5_300_000)
    prepared = planned(sites(tmp_path), split=method, seed=seed)
    check_apart(prepared)
    of_site = splits(prepared)
    assert all(of_site[f"s{number:02d}"] == of_site[f"s{number + 1:02d}"] for number in range(0, 24, 2))
    counts = [list(of_site.values()).count(name) for name in NAMES]
    assert counts == [12, 6, 6] if method == "random" else min(counts) > 0


def test_a_chain_of_sites_is_one_split_and_the_user_is_informed(tmp_path: Path) -> None:
    world = many_sites(tmp_path, 12, step_m=320)
    prepared = planned(world)
    assert set(splits(prepared).values()) == {"train"}
    (note,) = prepared.notes
    assert note.startswith("split val and test: no tile (12 tiles in 1 group")
    assert prepared.describe()["notes"] == [note]


def test_what_build_makes_verify_accepts(tmp_path: Path) -> None:
    many_sites(tmp_path, 9, step_m=320)
    for number in range(9):
        write_site(tmp_path, f"t{number}", 600_000 + 640 * number, 5_300_000)
    world = sites(tmp_path)
    world.layer("aster")["nodata"] = 1000  # every pixel of the files
    world.source()
    recipe = make_recipe(None, {"source": f"rasters:{world.file}", "tile_size": 64, "split_shares": SHARES})
    told: list[str] = []
    store = build(recipe, tmp_path / "o.zarr", note=told.append)
    assert not verify(tmp_path / "o.zarr").problems
    assert store.tiles["split"].value_counts(sort=False).tolist() == [9, 5, 4]
    assert told == ["aster: no tile has a value; check nodata, scale, clip and codes of its layers in the mapping."]


def test_without_overlap_the_split_is_exact_and_as_it_was() -> None:
    for seed, count in ((0, 45), (3, 7), (9, 100)):
        order = np.random.default_rng(seed).permutation(count)
        totals = largest_remainder(np.array(SHARES), count)
        expected = np.empty(count, dtype=np.uint8)
        expected[order] = np.repeat([0, 1, 2], totals)
        np.testing.assert_array_equal(split_at_random(order, np.arange(count), totals), expected)


def test_groups_stay_whole_and_shares_are_met_as_far_as_they_can_be() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 60))
        groups = np.unique(rng.integers(0, count, count), return_inverse=True)[1]
        totals = largest_remainder(rng.dirichlet([1, 1, 1]) * 100, count)
        split = split_at_random(rng.permutation(count), groups, totals)
        assert all(len(set(split[groups == group])) == 1 for group in np.unique(groups))
        counts = np.bincount(split, minlength=3)
        assert counts.sum() == count
        assert np.abs(counts - totals).max() <= np.bincount(groups).max()
        assert (counts[totals == 0] == 0).all()


# ---------------------------------------------------------------- published splits

PUBLISHED = {"s00": "test", "s01": "train", "s02": "val", "s03": "train", "s05": "test"}


@pytest.fixture
def world(tmp_path: Path) -> Any:
    return many_sites(tmp_path, 6)


def table(world: Any, text: str, name: str = "p.csv") -> Path:
    path: Path = world.root / name
    path.write_text(text, encoding="utf-8")
    return path


def centres(world: Any) -> pd.DataFrame:
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(
        500_320 + 2000 * np.arange(6), np.full(6, 5_299_680)
    )
    return pd.DataFrame({"site": [f"s{n:02d}" for n in range(6)], "lon": lon, "lat": lat}).set_index("site")


@pytest.mark.parametrize(
    ("header", "ending", "row"),
    [
        ("site,split", "\n", "{site},{split}"),
        ("\ufeffsite;split;why", "\r\n", "{site};{split};x"),
        ("Split\tSITE", "\n", "{split}\t{site}"),
        ("lon,lat,split,biome", "\n", "{lon:.8f},{lat:.8f},{split},4"),
        ("tile_id,split", "\n", "{tile:016x},{split}"),
        ("tile_id,split", "\n", "{tile},{split}"),
    ],
)
@pytest.mark.parametrize(
    "words", [{}, {"val": "validation", "train": "Train "}, {"val": "1", "train": "0", "test": "2"}]
)
def test_a_published_split_is_kept_and_selects(
    world: Any, header: str, ending: str, row: str, words: dict[str, str]
) -> None:
    where = centres(world)
    lines = [header]
    for site, split in PUBLISHED.items():
        lon, lat = where.loc[site]
        tile_id = int(tile_ids([round(lon, 6)], [round(lat, 6)], 64)[0])
        lines.append(row.format(site=site, split=words.get(split, split), lon=lon, lat=lat, tile=tile_id))
    prepared = planned(world, tiles_file=table(world, ending.join(lines)))
    assert splits(prepared) == PUBLISHED
    assert prepared.notes == (f"{world.root / 'p.csv'}: 5 of the 6 tiles of the source",)


def test_a_parquet_table_is_read_too(world: Any) -> None:
    path = world.root / "p.parquet"
    pd.DataFrame({"site": list(PUBLISHED), "split": list(PUBLISHED.values())}).to_parquet(path)
    assert splits(planned(world, tiles_file=path)) == PUBLISHED


def test_all_tiles_of_a_site_get_its_split(tmp_path: Path) -> None:
    for number in range(3):
        write_site(tmp_path, f"0{number}", 500_000 + 2000 * number, 5_300_000, size_px=128)
    world = sites(tmp_path)
    prepared = planned(world, tiles_file=table(world, "site,split\n00,test\n02,train\n"))
    assert prepared.plan.places["split"].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]


def test_a_table_without_splits_selects_only(world: Any) -> None:
    path = table(world, "site\ns04\ns01\n")
    prepared = planned(world, tiles_file=path, split_shares=(50, 50, 0))
    assert set(splits(prepared)) == {"s01", "s04"}
    assert sorted(splits(prepared).values()) == ["train", "val"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not a table", "p.csv:1: expected a column site, tile_id, or lon and lat (and one for split), got the columns not a table"),
        ("", "expected a table with a line of column names, got an empty file"),
        ("site,split\n", "expected rows that name sites or tiles"),
        ("site,split\ns00,train\ns09,val\n", "p.csv:3: expected a site or tile of the source, got 's09'; did you mean 's0"),
        ("site,split\ns00,train\ns01\n", "p.csv:3: expected 2 columns"),
        ("site,split\ns00,train,x\n", "p.csv:2: expected 2 columns"),
        ("site,split\ns00,training set\n", "p.csv:2: expected a split (train, val, test), got 'training set'"),
        ("site,split\ns00,\n", "p.csv:2: expected a split (train, val, test), got ''"),
        ("site,split\ns00,val\n\ns00,val\n", "p.csv:4: expected every tile once, s00 (tile"),
        ("tile_id,split\nabc,val\n", "p.csv:2: expected tile ids (16 hex digits, or all decimal) in tile_id, got 'abc'"),
        ("lon,lat,split\n9.0,x,val\n", "p.csv:2: expected a number in column lat, got 'x'"),
        ("lon,lat,split\n9.5,47.5,val\n", "p.csv:2: expected a point in a tile of the source, got 9.5, 47.5"),
        ("lon,lat,split\n190,47.5,val\n", "p.csv:2: expected lon and lat in degrees"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_its_line(world: Any, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        planned(world, tiles_file=table(world, text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_that_cannot_be_read_are_refused(world: Any) -> None:
    (world.root / "latin.csv").write_bytes("site,split\nForêt,val\n".encode("latin-1"))
    (world.root / "x.parquet").write_text("site,split\n")
    for name in ("latin.csv", "x.parquet", "absent.csv", "absent.parquet"):
        with pytest.raises(InputError, match=name):
            planned(world, tiles_file=world.root / name)


def test_a_published_split_with_overlap_is_refused(tmp_path: Path) -> None:
    world = many_sites(tmp_path, 4, step_m=320)
    with pytest.raises(InputError, match=r"one split, got s0[01] \(tile .*\) and s0[123] \(tile .*\) in two"):
        planned(world, tiles_file=table(world, "site,split\ns00,train\ns01,train\ns02,test\n"))
    assert splits(planned(world, tiles_file=table(world, "site,split\ns00,train\ns02,test\n"))) == {
        "s00": "train",
        "s02": "test",
    }


@pytest.mark.parametrize("options", [{"split": "block"}, {"split_shares": SHARES}])
def test_a_second_split_is_refused(world: Any, options: dict[str, Any]) -> None:
    path = table(world, "site,split\ns00,train\n")
    with pytest.raises(InputError, match=f"{next(iter(options))} .*whose column split is kept"):
        planned(world, tiles_file=path, **options)


@pytest.mark.parametrize("options", [{"split": "block"}, {"split_shares": SHARES}])
def test_a_second_split_of_locations_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "p.csv").write_text("lon,lat,fold,biome,eco_region\n9,45,train,4,1\n9.1,45,val,4,1\n")
    given = {"source": "synthetic", "tile_size": 64, "tiles_file": tmp_path / "p.csv", "split_column": "fold"}
    with pytest.raises(InputError, match=f"^{next(iter(options))} .--split.*whose column fold is kept"):
        prepare(make_recipe(None, given | options))


# ---------------------------------------------------------------- locations for a source that samples


@pytest.mark.parametrize("method", ["random", "block"])
@pytest.mark.parametrize("lon", [9.0, 179.98])
def test_locations_of_a_file_that_overlap_are_in_one_split(tmp_path: Path, method: str, lon: float) -> None:
    rng = np.random.default_rng(1)
    east = (lon + rng.uniform(0, 0.06, 60) + 180) % 360 - 180
    north = 45 + rng.uniform(0, 0.06, 60)
    frame = pd.DataFrame({"lon": east.round(6), "lat": north.round(6), "biome": 4, "eco_region": 1})
    frame.to_csv(tmp_path / "p.csv", index=False)
    given = {"source": "synthetic", "tile_size": 64, "tiles_file": tmp_path / "p.csv", "split": method}
    prepared = prepare(make_recipe(None, given | {"split_shares": SHARES}))
    check_apart(prepared)
    assert prepared.plan.layout.tiles == 60


def test_locations_that_overlap_in_two_published_splits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        "lon,lat,split,biome,eco_region\n9,45,train,4,1\n9.001,45,test,4,1\n9.1,45,val,4,1\n"
    )
    given = {"source": "synthetic", "tile_size": 64, "tiles_file": tmp_path / "p.csv"}
    with pytest.raises(InputError, match=r"one split, got tile [0-9a-f]{16} and tile [0-9a-f]{16} in two"):
        prepare(make_recipe(None, given))
