"""Filters and collections of the emulator: answers worked out by hand, and what hypothesis finds, by the real client."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime
from typing import Any

import ee
import pytest
from ee_world import refusal
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("earth")

ROWS = [
    {"name": "alpha", "cloud": 5.0, "day": "2017-03-01", "at": [0.5, 0.5]},
    {"name": "beta", "cloud": 50.0, "day": "2018-01-01", "at": [2.5, 0.5]},
    {"name": "gamma", "cloud": None, "day": "2018-12-01", "at": [0.5, 2.5]},
    {"name": "delta", "cloud": 5.0, "day": "2020-06-15", "at": [9.0, 9.0]},
]


def millis(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000


def feature(row: dict[str, Any]) -> Any:
    known = {"name": row["name"], "system:time_start": millis(row["day"])}
    return ee.Feature(ee.Geometry.Point(row["at"]), known | ({} if row["cloud"] is None else {"cloud": row["cloud"]}))


def table() -> Any:
    return ee.FeatureCollection([feature(row) for row in ROWS])


def names(collection: Any) -> list[str]:
    found: list[str] = collection.aggregate_array("name").getInfo()
    return found


SQUARE = [0, 0, 1, 1]


def rectangle(corners: list[float]) -> Any:
    return ee.Geometry.Rectangle(corners, geodesic=False)


FILTERS: list[tuple[Any, list[str]]] = [
    (lambda f: f.eq("name", "beta"), ["beta"]),
    (lambda f: f.neq("name", "beta"), ["alpha", "gamma", "delta"]),
    (lambda f: f.lt("cloud", 10), ["alpha", "delta"]),
    (lambda f: f.lte("cloud", 5), ["alpha", "gamma", "delta"]),  # the client sends not(greater): null passes
    (lambda f: f.lessThanOrEquals("cloud", 5), ["alpha", "delta"]),
    (lambda f: f.gt("cloud", 5), ["beta"]),
    (lambda f: f.greaterThanOrEquals("cloud", 5), ["alpha", "beta", "delta"]),
    (lambda f: f.notNull(["cloud"]), ["alpha", "beta", "delta"]),
    (lambda f: f.inList("name", ["delta", "beta"]), ["beta", "delta"]),
    (lambda f: f.stringContains("name", "lph"), ["alpha"]),
    (lambda f: f.stringStartsWith("name", "g"), ["gamma"]),
    (lambda f: f.stringEndsWith("name", "ta"), ["beta", "delta"]),
    (lambda f: f.date("2018-01-01", "2018-12-01"), ["beta"]),  # the start counts, the end does not
    (lambda f: f.date("2018-01-01", "2018-12-02"), ["beta", "gamma"]),
    (lambda f: f.date("2018-01-01"), ["beta"]),  # one date is its millisecond
    (lambda f: f.calendarRange(2018, 2018, "year"), ["beta", "gamma"]),
    (lambda f: f.calendarRange(12, 3, "month"), ["alpha", "beta", "gamma"]),  # round the turn of the year
    (lambda f: f.dayOfYear(59, 60), ["alpha"]),  # both ends count
    (lambda f: f.calendarRange(1, 1, "day_of_week"), ["beta", "delta"]),  # Mondays
    (lambda f: f.calendarRange(6, 7, "day_of_week"), ["gamma"]),  # a Saturday
    (lambda f: f.bounds(rectangle(SQUARE)), ["alpha"]),
    (lambda f: f.intersects(".geo", rectangle([0, 0, 3, 1])), ["alpha", "beta"]),
    (lambda f: f.isContained(".geo", rectangle([0, 0, 3, 3])), ["alpha", "beta", "gamma"]),
    (lambda f: f.disjoint(".geo", rectangle(SQUARE)), ["beta", "gamma", "delta"]),
    (lambda f: f.withinDistance(230_000, ".geo", ee.Geometry.Point([0.5, 0.5])), ["alpha", "beta", "gamma"]),
    (lambda f: f.rangeContains("cloud", 5, 50), ["alpha", "beta", "delta"]),
    (lambda f: f.maxDifference(1, "cloud", 49.5), ["beta"]),
    (lambda f: f.And(f.lt("cloud", 10), f.gt("name", "b")), ["delta"]),
    (lambda f: f.Or(f.eq("name", "alpha"), f.eq("cloud", 50)), ["alpha", "beta"]),
    (lambda f: f.lt("cloud", 10).Not(), ["beta", "gamma"]),
    (lambda f: f.And(f.date("2017-01-01", "2019-01-01"), f.bounds(rectangle([0, 2, 1, 3]))), ["gamma"]),
    (lambda f: f.expression("cloud < 10 && name == 'delta'"), ["delta"]),
    (lambda f: f.eq("cloud", "5"), []),  # a text equals no number
]


@pytest.mark.parametrize(("make", "expected"), FILTERS)
def test_a_filter_passes_what_it_says(make: Any, expected: list[str]) -> None:
    assert names(table().filter(make(ee.Filter))) == expected


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("equals", "beta", ["beta"]),
        ("less_than", "beta", ["alpha"]),
        ("greater_than", "beta", ["gamma", "delta"]),
        ("not_equals", "beta", ["alpha", "gamma", "delta"]),
        ("not_less_than", "delta", ["gamma", "delta"]),
        ("not_greater_than", "beta", ["alpha", "beta"]),
        ("starts_with", "a", ["alpha"]),
        ("ends_with", "ta", ["beta", "delta"]),
        ("not_starts_with", "a", ["beta", "gamma", "delta"]),
        ("not_ends_with", "ta", ["alpha", "gamma"]),
        ("contains", "amm", ["gamma"]),
        ("not_contains", "a", []),
    ],
)
def test_the_old_metadata_filters_work(operator: str, value: str, expected: list[str]) -> None:
    assert names(table().filterMetadata("name", operator, value)) == expected


DAYS = st.integers(0, 20_000).map(lambda day: day * 86_400_000)


@settings(max_examples=15)
@given(st.lists(DAYS, min_size=1, max_size=8), DAYS, DAYS)
def test_date_filters_take_the_start_and_leave_the_end(starts: list[int], a: int, b: int) -> None:
    rows = ee.FeatureCollection([ee.Feature(None, {"system:time_start": ms}) for ms in starts])
    start, end = min(a, b), max(a, b)
    got = rows.filterDate(start, end).aggregate_array("system:time_start").getInfo()
    assert got == [ms for ms in starts if start <= ms < end]


@settings(max_examples=15)
@given(
    st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=8),
    st.integers(-3, 3),
    st.sampled_from(["lt", "gt", "eq", "neq", "lte", "gte"]),
)
def test_a_filter_and_its_negation_share_out_the_rows(values: list[int | None], limit: int, kind: str) -> None:
    rows = ee.FeatureCollection(
        [ee.Feature(None, {"k": k} | ({} if v is None else {"v": v})) for k, v in enumerate(values)]
    )
    condition = getattr(ee.Filter, kind)("v", limit)
    passed, others = ee.List([rows.filter(f).aggregate_array("k") for f in (condition, condition.Not())]).getInfo()
    assert sorted(passed + others) == list(range(len(values)))
    test = {"lt": "__lt__", "gt": "__gt__", "eq": "__eq__", "neq": "__ne__", "lte": "__le__", "gte": "__ge__"}[kind]
    known = [k for k in passed if values[k] is not None]
    assert known == [k for k, v in enumerate(values) if v is not None and getattr(v, test)(limit)]


BOXES = st.tuples(st.floats(-170, 160), st.floats(-70, 60), st.floats(0.1, 9), st.floats(0.1, 9))


@settings(max_examples=15)
@given(BOXES, st.floats(-180, 179), st.floats(-80, 79))
def test_bounds_filters_agree_with_plain_comparisons(corner: tuple[float, ...], lon: float, lat: float) -> None:
    west, south, width, height = corner
    area = rectangle([west, south, west + width, south + height])
    point = ee.FeatureCollection([ee.Feature(ee.Geometry.Point([lon, lat]))])
    inside = west <= lon <= west + width and south <= lat <= south + height
    found = ee.List([point.filterBounds(area).size(), area.contains(ee.Geometry.Point([lon, lat]))]).getInfo()
    assert found == [int(inside), inside]


# ---------------------------------------------------------------- order, parts


def test_sort_limit_first_and_lists() -> None:
    rows = table()
    assert names(rows.sort("name", False)) == ["gamma", "delta", "beta", "alpha"]
    assert names(rows.sort("cloud")) == ["gamma", "alpha", "delta", "beta"]  # null first, equal ones as they were
    assert names(rows.limit(2)) == ["alpha", "beta"]
    assert names(rows.limit(1, "name", False)) == ["gamma"]
    assert rows.first().get("name").getInfo() == "alpha"
    assert rows.size().getInfo() == 4
    assert rows.toList(2, 1).map(lambda f: ee.Feature(f).get("name")).getInfo() == ["beta", "gamma"]
    assert ee.Feature(rows.toList(4).get(3)).get("name").getInfo() == "delta"


def test_first_of_nothing_is_null_and_refused_where_something_is_required() -> None:
    nothing = table().filter(ee.Filter.eq("name", "nobody"))
    assert nothing.first().getInfo() is None
    assert nothing.size().getInfo() == 0
    assert "Parameter 'object' is required and may not be null" in refusal(nothing.first().get("name"))
    within = ee.List([1]).map(lambda _: nothing.first().get("name"))
    assert "Parameter 'object' is required and may not be null" in refusal(within)


def test_map_keeps_names_and_drops_nulls_on_demand() -> None:
    doubled = table().map(lambda f: ee.Feature(None, {"twice": ee.Number(f.get("system:time_start")).multiply(2)}))
    info = doubled.getInfo()
    assert [f["id"] for f in info["features"]] == ["0", "1", "2", "3"]
    assert info["features"][0]["properties"] == {"twice": 2 * millis("2017-03-01")}
    some = table().map(lambda f: ee.Algorithms.If(f.get("cloud"), f, None), dropNulls=True)
    assert names(some) == ["alpha", "beta", "delta"]
    assert "must return a Feature or Image" in refusal(table().map(lambda f: ee.Algorithms.If(f.get("cloud"), f, None)))


def test_an_error_in_a_map_names_the_element() -> None:
    wrong = table().map(lambda f: f.set("x", ee.List([1]).get(ee.Number(f.get("cloud")).toInt())))
    assert refusal(wrong).startswith("Error in map(ID=0):\nList.get: List index must be between")


def test_iterate_merge_distinct_flatten_and_random() -> None:
    rows = table()
    longest = rows.iterate(lambda f, best: ee.Number(best).max(ee.String(f.get("name")).length()), 0)
    assert longest.getInfo() == 5
    merged = rows.limit(1).merge(rows.limit(2))
    assert [f["id"] for f in merged.getInfo()["features"]] == ["1_0", "2_0", "2_1"]
    assert names(rows.merge(rows).distinct("name")) == [row["name"] for row in ROWS]
    assert names(rows.distinct(["cloud"])) == ["alpha", "beta", "gamma"]
    nested = ee.FeatureCollection(ee.List([rows.limit(2), rows.limit(1)]))
    assert names(nested.flatten()) == ["alpha", "beta", "alpha"]
    draw, again, other = ee.List([rows.randomColumn("r", seed).aggregate_array("r") for seed in (1, 1, 2)]).getInfo()
    assert draw == again != other
    assert all(0 <= value < 1 for value in draw)


def test_random_columns_are_even() -> None:
    rows = ee.FeatureCollection(ee.List.sequence(1, 2000).map(lambda k: ee.Feature(None, {"k": k})))
    values = rows.randomColumn().aggregate_array("random").getInfo()
    assert statistics.mean(values) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 2000))
    assert statistics.pstdev(values) == pytest.approx(math.sqrt(1 / 12), abs=0.02)
    normal = rows.randomColumn("z", 0, "normal").aggregate_total_sd("z").getInfo()
    assert normal == pytest.approx(1, abs=0.08)


@settings(max_examples=10)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20))
def test_aggregates_are_the_statistics_of_the_column(values: list[int]) -> None:
    rows = ee.FeatureCollection([ee.Feature(None, {"v": v}) for v in values])
    kinds = ["sum", "mean", "min", "max", "count", "count_distinct", "sample_sd", "total_sd", "sample_var", "product"]
    got = dict(zip(kinds, ee.List([getattr(rows, f"aggregate_{k}")("v") for k in kinds]).getInfo(), strict=True))
    assert got["sum"] == sum(values)
    assert got["mean"] == pytest.approx(statistics.mean(values), abs=1e-9)
    assert (got["min"], got["max"]) == (min(values), max(values))
    assert (got["count"], got["count_distinct"]) == (len(values), len(set(values)))
    assert got["sample_sd"] == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert got["total_sd"] == pytest.approx(statistics.pstdev(values), abs=1e-6)
    assert got["sample_var"] == pytest.approx(statistics.variance(values), rel=1e-6, abs=1e-6)
    assert got["product"] == pytest.approx(math.prod(values), rel=1e-9)


def test_columns_count_and_reduce() -> None:
    rows = table()
    assert rows.aggregate_histogram("name").getInfo() == {"alpha": 1, "beta": 1, "delta": 1, "gamma": 1}
    assert rows.aggregate_first("name").getInfo() == "alpha"
    stats = rows.aggregate_stats("cloud").getInfo()
    assert (stats["total_count"], stats["valid_count"], stats["sum"], stats["max"]) == (4, 3, 60, 50)
    reduced = rows.reduceColumns(ee.Reducer.minMax(), ["cloud"]).getInfo()
    assert reduced == {"min": 5, "max": 50}


def test_elements_get_set_copy_and_choose() -> None:
    base = ee.Feature(ee.Geometry.Point([1, 2]), {"a": 1, "b": "x", "system:time_start": 5})
    assert base.get("a").getInfo() == 1
    assert base.get("missing").getInfo() is None
    assert base.set("a", None).propertyNames().getInfo() == ["b", "system:index", "system:time_start"]
    assert base.set({"a": 3, "c": 4}).toDictionary().getInfo() == {"a": 3, "b": "x", "c": 4}
    copied = ee.Feature(None, {"z": 1}).copyProperties(base)
    assert ee.Feature(copied).toDictionary().getInfo() == {"a": 1, "b": "x", "z": 1}
    timed = ee.Feature(ee.Feature(None, {}).copyProperties(base, ["system:time_start"]))
    assert timed.get("system:time_start").getInfo() == 5
    assert base.select(["a"], ["n"]).getInfo()["properties"] == {"n": 1}
    assert base.select(["a"], None, False).getInfo()["geometry"] is None


def test_joins_match_and_order() -> None:
    primary, secondary = table(), table().filter(ee.Filter.neq("name", "gamma"))
    same = ee.Filter.equals(leftField="cloud", rightField="cloud")
    assert names(ee.Join.simple().apply(primary, secondary, same)) == ["alpha", "beta", "delta"]
    assert names(ee.Join.inverted().apply(primary, secondary, same)) == ["gamma"]
    saved = ee.Join.saveAll("matches", "system:time_start", False).apply(primary, secondary, same)
    found = ee.List(ee.Feature(saved.first()).get("matches")).map(lambda f: ee.Feature(f).get("name")).getInfo()
    assert found == ["delta", "alpha"]
    best = ee.Join.saveFirst("match", "system:time_start", False).apply(primary, secondary, same)
    assert ee.Feature(ee.Feature(best.first()).get("match")).get("name").getInfo() == "delta"
    assert ee.Join.inner().apply(primary, secondary, same).size().getInfo() == 5


def test_more_than_5000_elements_are_refused_but_counted() -> None:
    rows = ee.FeatureCollection(ee.List.sequence(1, 5001).map(lambda k: ee.Feature(None, {"k": k})))
    assert rows.size().getInfo() == 5001
    assert refusal(rows) == "Collection query aborted after accumulating over 5000 elements."
    assert len(rows.limit(5000).getInfo()["features"]) == 5000
