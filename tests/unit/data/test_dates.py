"""Scenes by the dates of locations: the nearest one by brute force, dates that share a scene, and dates of every form."""

from __future__ import annotations

import datetime
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from append_making import write_ecoregions
from rasters_world import small_world
from sites_world import many_sites

from mmearth_data import BuildRecipe, build, make_recipe, open_store, verify
from mmearth_data.building.plan import other_dates
from mmearth_data.building.prepare import prepare
from mmearth_data.catalog.tile import NO_TIME, Place, TileGrid, tile_ids
from mmearth_data.errors import FileInputError, InputError, TileUnavailable
from mmearth_data.planet.scenes import Box, OpticalScene, optical_scenes
from mmearth_data.sampling import PlaceColumns, SamplingOptions, read_sample
from mmearth_data.sampling.dates import day_ms
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.dated import NearDates
from mmearth_data.sources.synthetic import SyntheticSource

SEED, SIZE_PX = 3, 16
DAY = datetime.timedelta(days=1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
CLEARANCE_M = 200


def place(lon: float, lat: float, day: datetime.date) -> Place:
    tile_id = int(tile_ids([lon], [lat], SIZE_PX)[0])
    return Place(tile_id=tile_id, lon=lon, lat=lat, size_px=SIZE_PX, date_ms=ms(day))


def ms(day: datetime.date) -> int:
    return (day - EPOCH.date()).days * 86_400_000


def day_of(time_ms: int) -> datetime.date:
    return (EPOCH + datetime.timedelta(milliseconds=time_ms)).date()


def some_places(count: int, seed: int) -> list[Place]:
    """Locations of the whole land with dates of eight years."""
    planet, rng, found = SyntheticSource(SEED).planet, np.random.default_rng(seed), list[Place]()
    while len(found) < count:
        lon, lat = round(float(rng.uniform(-180, 180)), 6), round(float(rng.uniform(-55, 70)), 6)
        if planet.labels(np.array([lon]), np.array([lat]))[0][0] >= 0:
            found.append(place(lon, lat, datetime.date(2017, 5, 1) + int(rng.integers(3000)) * DAY))
    return found


def scenes_around(origin: SyntheticSource, of: Place, days: int) -> list[OpticalScene]:
    """All scenes that contain a location's tile, from a month before its first day to a month after its last one."""
    west, south, east, north = of.own_grid.bounds
    box = Box(of.own_grid.epsg, west - CLEARANCE_M, south - CLEARANCE_M, east + CLEARANCE_M, north + CLEARANCE_M)
    day = day_of(of.date_ms or 0)
    period = ms(day - (days + 30) * DAY), ms(day + (days + 31) * DAY)
    return optical_scenes(origin.planet.views.world, box, *period)


@pytest.mark.parametrize(
    ("days", "levels", "cloud_percent"),
    [(15, ("L2A", "L1C"), 10.0), (60, ("L1C", "L2A"), 25.0), (3, ("L2A",), 60.0), (0, ("L2A", "L1C"), 100.0)],
)
def test_the_scene_is_the_nearest_of_all_scenes_of_the_planet(
    days: int, levels: tuple[str, ...], cloud_percent: float
) -> None:
    origin = SyntheticSource(SEED, levels=levels, cloud_percent=cloud_percent, near=NearDates(days=days))
    wanted = some_places(24, seed=days)
    found = 0
    for of, answer in zip(wanted, origin.survey(wanted), strict=True):
        day = day_of(of.date_ms or 0)
        ranked = sorted(
            (
                abs((day_of(scene.time_ms) - day).days),
                levels.index(level),
                scene.cloud_percent,
                scene.time_ms,
                scene.index,
            )
            for scene in scenes_around(origin, of, days)
            for level in levels
            if (level == "L1C" or scene.has_level_2a) and scene.cloud_percent < cloud_percent
        )
        if not ranked or ranked[0][0] > days:
            assert isinstance(answer, Rejection)
            assert answer.reason == "no_scene"
            assert f"{days} days of {day}" in answer.detail or f"on {day}" in answer.detail
            continue
        assert isinstance(answer, Survey)
        apart, level, clouds, time_ms, index = ranked[0]
        assert (answer.time_ms, answer.s2_level) == (time_ms, {"L1C": 0, "L2A": 1}[levels[level]])
        assert answer.facts["sentinel2"].endswith(index)
        assert answer.facts["cloud_percent"] == clouds
        assert answer.facts["label_date"] == str(day)
        assert answer.facts["label_days"] == (day_of(time_ms) - day).days
        assert abs(answer.facts["label_days"]) == apart
        found += 1
    assert found >= 2


# ---------------------------------------------------------------- several dates of one location


Clouds = dict[datetime.date, float]


def toy_answer(near: NearDates, scenes: Clouds, of: Place) -> Survey | Rejection:
    """Nearest scene of a list, at half past ten."""
    day = day_of(of.date_ms or 0)
    close = [(abs((other - day).days), clouds, other) for other, clouds in scenes.items()]
    if not close or min(close)[0] > near.days:
        return Rejection(place=of, reason="no_scene")
    time_ms = ms(min(close)[2]) + 37_800_000
    return Survey(place=of, grid=TileGrid(epsg=32632, ulx=0, uly=0, size_px=SIZE_PX), time_ms=time_ms)


def toy_series(rng: random.Random, days: int) -> tuple[list[Place], Clouds]:
    """Dates and scenes of 120 days, in random order."""
    start = datetime.date(2020, 1, 1)
    dates = rng.sample([start + k * DAY for k in range(120)], rng.randint(1, 25))
    scenes = {start + k * DAY: rng.choice([1.0, 2.0, 3.0]) for k in rng.sample(range(-days, 120 + days), 15)}
    plain = [place(8.5, 45.2, day) for day in dates]
    others = other_dates(np.array([p.tile_id for p in plain]), np.array([p.date_ms for p in plain]))
    pairs = zip(*(column.tolist() for column in others.values()), strict=True)
    return [
        replace(p, other_dates_ms=tuple(other for other in pair if other != NO_TIME))
        for p, pair in zip(plain, pairs, strict=True)
    ], scenes


@pytest.mark.parametrize("seed", range(40))
def test_a_scene_belongs_to_the_nearest_of_the_dates_that_want_it(seed: int) -> None:
    """The answers are the same in any order, alone or together, and no scene is used twice."""
    rng = random.Random(seed)
    near = NearDates(days=rng.choice([1, 4, 9, 30]))
    dated, scenes = toy_series(rng, near.days)
    asked: list[int] = []

    def ask(places: Any) -> list[Survey | Rejection]:
        asked.append(len(places))
        return [toy_answer(near, scenes, of) for of in places]

    answers = near.survey(dated, ask)
    assert asked == [len(dated)], "all dates of the location are there, none is asked for again"
    assert [repr(near.survey([of], ask)[0]) for of in dated] == [*map(repr, answers)]  # NaN differs from itself
    assert max(asked[1:]) <= 3, "a date and its two neighbours"
    wanted: dict[int, list[Place]] = {}
    for of in dated:
        if isinstance(first := toy_answer(near, scenes, of), Survey):
            wanted.setdefault(first.time_ms, []).append(of)
    owner = {
        time: min(rivals, key=lambda of: (abs(day_of(time) - day_of(of.date_ms or 0)), of.date_ms))
        for time, rivals in wanted.items()
    }
    for of, answer in zip(dated, answers, strict=True):
        first = toy_answer(near, scenes, of)
        if isinstance(first, Survey) and owner[first.time_ms] == of:
            assert isinstance(answer, Survey)
            assert answer.time_ms == first.time_ms
        else:
            assert isinstance(answer, Rejection)
            assert answer.reason == ("same_scene" if isinstance(first, Survey) else "no_scene")


def test_the_dates_around_each_date_of_a_location() -> None:
    found = other_dates(np.array([7, 9, 7, 7], np.uint64), np.array([30, 30, 10, 20]))
    assert found["date_before_ms"].tolist() == [20, NO_TIME, NO_TIME, 10]
    assert found["date_after_ms"].tolist() == [NO_TIME, NO_TIME, 20, 30]


# ---------------------------------------------------------------- the archive


@pytest.mark.parametrize(
    ("levels", "day", "outside"),
    [
        (("L1C",), datetime.date(2015, 6, 11), True),
        (("L1C",), datetime.date(2015, 6, 12), False),
        (("L2A", "L1C"), datetime.date(2015, 6, 12), False),
        (("L2A",), datetime.date(2017, 3, 12), True),
        (("L2A",), datetime.date(2017, 3, 13), False),
        (("L2A",), datetime.date(1800, 1, 1), True),
        (("L2A",), datetime.date(2200, 1, 1), True),
        (("L2A",), datetime.date(9999, 12, 31), True),
        (("L2A",), datetime.datetime.now(datetime.UTC).date() + 15 * DAY, False),
        (("L2A",), datetime.datetime.now(datetime.UTC).date() + 17 * DAY, True),
    ],
)
def test_dates_whose_days_are_before_the_archive_or_in_the_future_are_refused(
    levels: tuple[str, ...], day: datetime.date, *, outside: bool
) -> None:
    """Collections begin on 2015-06-27 (L1C) and 2017-03-28 (L2A); 15 days before that is the first date of use."""
    near, of = NearDates(days=15), place(8.5, 45.2, day)
    if not outside:
        near.require_archive(of, levels)
        return
    with pytest.raises(TileUnavailable) as caught:
        near.require_archive(of, levels)
    assert caught.value.reason == "date_outside_archive"
    assert str(day) in str(caught.value)


# ---------------------------------------------------------------- dates in tables


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("2020-05-31", "2020-05-31"),
        (" 20200531 ", "2020-05-31"),
        (20200531.0, "2020-05-31"),
        ("2020-05-31T10:30:00", "2020-05-31"),
        ("2020-05-31 23:30:00-05:00", "2020-06-01"),
        ("2020-05-31T00:30:00+02:00", "2020-05-30"),
        (datetime.date(2020, 5, 31), "2020-05-31"),
        (pd.Timestamp("2020-05-31T23:30", tz="America/Lima"), "2020-06-01"),
        (pd.Timestamp("2020-05-31T23:59:59.999999999"), "2020-05-31"),
        ("1800-01-01", "1800-01-01"),
        ("2200-01-01", "2200-01-01"),
        ("0001-01-01", "0001-01-01"),
        *(
            (wrong, None)
            for wrong in ("31.05.2020", "05/31/2020", "2020", "2020-05", "2020-13-01", "2020-02-30", "soon")
        ),
        *((missing, None) for missing in ("", None, float("nan"), pd.NaT, pd.NA, 2020, True)),
        ("9999-12-31T23:00:00-05:00", None),
    ],
)
def test_a_date_is_a_day_in_utc_or_none(value: object, day: str | None) -> None:
    expected = None if day is None else ms(datetime.date.fromisoformat(day))
    assert day_ms(value) == expected


OPTIONS = SamplingOptions(tiles=1, size_px=SIZE_PX, split="random")
ROWS = {"lon": [8.5, 9.5, 8.5], "lat": [45.0, 45.0, 45.0], "biome": [1, 1, 1], "eco_region": [1, 1, 1]}


def read(path: Path, **columns: Any) -> gpd.GeoDataFrame:
    if path.suffix == ".csv":
        pd.DataFrame(ROWS | columns).to_csv(path, index=False)
    else:
        pd.DataFrame(ROWS | columns).to_parquet(path)
    return read_sample(path, options=OPTIONS, names=PlaceColumns(date="seen")).frame


@pytest.mark.parametrize("name", ["places.csv", "places.parquet"])
def test_rows_of_one_location_with_other_dates_are_several_tiles(tmp_path: Path, name: str) -> None:
    frame = read(tmp_path / name, seen=pd.to_datetime(["2020-05-31", "2020-05-31", "2020-06-05"]))
    assert sorted(zip(frame["lon"], frame["date_ms"], strict=True)) == [
        (8.5, ms(datetime.date(2020, 5, 31))),
        (8.5, ms(datetime.date(2020, 6, 5))),
        (9.5, ms(datetime.date(2020, 5, 31))),
    ]
    assert frame["slot"].tolist() == [0, 1, 2]


def test_rows_of_one_location_are_neighbours_and_others_are_shuffled_as_ever(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lon = np.repeat(np.arange(20) / 10, 3)[rng.permutation(60)]
    columns: dict[str, Any] = {
        "lon": lon,
        "lat": np.full(60, 45.0),
        "biome": np.ones(60, int),
        "eco_region": np.ones(60, int),
    }
    columns["seen"] = [str(datetime.date(2019, 1, 1) + k * DAY) for k in range(60)]
    frame = read(tmp_path / "many.csv", **columns)
    for _, rows in frame.groupby(["lon", "split"]):
        assert np.ptp(rows["slot"].to_numpy(int)) == len(rows) - 1


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (["2020-05-31", "31.05.2020", "2020-06-01"], "1 of 3 are not (row 3: '31.05.2020')"),
        (["2020-05-31", None, "2020"], "2 of 3 are not (row 3: empty; row 4: '2020')"),
        ([2019, 2020, 2021], "3 of 3 are not (row 2: '2019'"),
        (["2020-05-31", "2020-05-31", "2020-05-31T20:00:00Z"], "in rows 2, 4"),
    ],
)
def test_tables_with_other_dates_are_refused_with_their_rows(tmp_path: Path, seen: list[object], message: str) -> None:
    with pytest.raises(FileInputError) as caught:
        read(tmp_path / "places.csv", seen=seen)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match=r"'seen' \(--date-column\), got .*did you mean 'sen'"):
        read(tmp_path / "places.csv", sen=["2020-05-31"] * 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"years": [2020]}, "years (--years)"),
        ({"days": -1}, "days"),
        ({"days": 3661}, "days"),
        ({"cover": True}, "--cover"),
        ({"tiles_file": None}, "a table of locations"),
    ],
)
def test_options_that_dates_exclude_are_refused(fields: dict[str, Any], message: str) -> None:
    given = {"source": "synthetic", "tiles_file": Path("points.csv"), "date_column": "seen"}
    with pytest.raises(InputError) as caught:
        make_recipe(None, {name: value for name, value in (given | fields).items() if value is not None})
    assert message in str(caught.value)


def test_days_determine_a_store_and_years_do_not(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("lon,lat,seen\n")
    recipe = BuildRecipe(source="synthetic", tiles_file=tmp_path / "points.csv", date_column="seen", days=0)
    identity = recipe.identity()
    assert (identity["date_column"], identity["days"]) == ("seen", 0)
    assert "years" not in identity


# ---------------------------------------------------------------- raster files, which have one date


def test_files_are_used_within_the_days_and_rejected_beyond(tmp_path: Path) -> None:
    """The sites' files are of 2021-07-20 and 2021-07-21, 13:22 UTC."""
    world = small_world(tmp_path / "world")
    (tmp_path / "sites.csv").write_text("site,split,Seen\na,train,2021-07-25\nb,test,2021-07-27\n")
    given = {"source": f"rasters:{world.file}", "tile_size": 64, "tiles_file": tmp_path / "sites.csv"}
    world.source()
    prepared = prepare(make_recipe(None, given | {"date_column": "Seen", "days": 5}))
    answers = prepared.source.survey([slot.place for slot in prepared.plan.shard(0).slots])
    of_a, of_b = sorted(answers, key=lambda answer: answer.place.date_ms or 0)
    assert isinstance(of_a, Survey)
    assert (of_a.facts["label_date"], of_a.facts["label_days"]) == ("2021-07-25", -5)
    assert isinstance(of_b, Rejection)
    assert of_b.reason == "no_scene"
    assert "site b is of 2021-07-21, 6 days before 2021-07-27; expected at most 5" in of_b.detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("site,seen\ns00,2021-07-25\n", "expected files with dates"),
        ("site,seen\ns00,25.07.2021\n", "sites.csv:2: expected a date"),
        ("site,seen\ns00,\n", "got none"),
        ("site,sen\ns00,2021-07-25\n", "did you mean 'sen'"),
    ],
)
def test_files_or_rows_without_dates_are_refused(tmp_path: Path, text: str, message: str) -> None:
    world = many_sites(tmp_path, 2)
    (tmp_path / "sites.csv").write_text(text)
    given = {"source": f"rasters:{world.file}", "tile_size": 64, "level": "L2A", "tiles_file": tmp_path / "sites.csv"}
    with pytest.raises(InputError) as caught:
        prepare(make_recipe(None, given | {"date_column": "seen"}))
    assert message in str(caught.value)


# ---------------------------------------------------------------- a whole store


def test_a_store_has_the_tiles_of_several_dates_and_lists_the_rows_it_lacks(tmp_path: Path) -> None:
    rows = [
        ("8.5,45.2,2019-07-01", None),
        ("8.5,45.2,2019-07-02", "same_scene"),
        ("8.5,45.2,2019-09-10", None),
        ("9.7,44.6,2018-05-05", None),
        ("9.7,44.6,2014-05-05", "date_outside_archive"),
        ("10.2,44.9,2200-01-01", "date_outside_archive"),
    ]
    (tmp_path / "points.csv").write_text("\n".join(["lon,lat,seen", *(row for row, _ in rows)]) + "\n")
    given = {
        "source": "synthetic",
        "seed": SEED,
        "tiles_file": tmp_path / "points.csv",
        "ecoregions": write_ecoregions(tmp_path / "e.parquet"),
        "date_column": "seen",
        "days": 5,
        "cloud_percent": 100,
        "split": "random",
        "tile_size": SIZE_PX,
        "tiles_per_shard": 2,
        "modalities": ("sentinel2",),
    }
    build(make_recipe(None, given), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert verify(tmp_path / "s.zarr").problems == ()
    rejected = pd.read_parquet(tmp_path / "s.zarr" / "rejected.parquet")
    lacking = {
        (int(text.split(":")[0].removeprefix("row ")), why) for text, why in rejected[["detail", "reason"]].to_numpy()
    }
    assert lacking == {(line, why) for line, (_, why) in enumerate(rows, 2) if why is not None}
    tiles = store.tiles
    assert len(store) == 3
    assert tiles["id"].nunique() == 2
    name = tiles["id"].mode()[0]
    several = store.select(ids=name)
    assert sorted(several.coords["time"].astype("datetime64[M]").astype(str)) in (
        ["2019-06", "2019-09"],
        ["2019-07", "2019-09"],
    )
    assert len(several.select(date="2019-09")) == 1
    boxes = shapely.get_coordinates(several.tiles.geometry)
    assert len(boxes) == 10, "two outlines"
