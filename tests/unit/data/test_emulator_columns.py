"""Table columns and textual filters, as documented in the reference of `Reducer.toList` and `Collection.filter`."""

from __future__ import annotations

from typing import Any

import ee
import pytest
from ee_world import refusal

pytestmark = pytest.mark.usefixtures("earth")

L2A = "COPERNICUS/S2_SR_HARMONIZED"
TIME = "system:time_start"


def table() -> Any:
    """Rows with gaps: all have ``a``, the first and last have ``b``, only the first has ``c``."""
    rows = [{"a": 1, "b": "x", "c": 10}, {"a": 2}, {"a": 3, "b": "z"}]
    return ee.FeatureCollection([ee.Feature(None, row) for row in rows])


def columns(reducer: Any, *names: str) -> Any:
    return table().reduceColumns(reducer, list(names)).getInfo()


def scenes() -> Any:
    """Scenes around Zurich in a summer."""
    place = ee.Geometry.Point([8.5, 47.3])
    return ee.ImageCollection(L2A).filterBounds(place).filterDate("2019-6", "2019-9")


# ---------------------------------------------------------------- lists


def test_a_list_without_tuples_holds_the_values_that_are_there() -> None:
    assert columns(ee.Reducer.toList(), "a") == {"list": [1, 2, 3]}
    assert columns(ee.Reducer.toList(), "b") == {"list": ["x", "z"]}
    assert columns(ee.Reducer.toList(None, 1), "b") == {"list": ["x", None, "z"]}


def test_tuples_are_dropped_unless_what_lacks_is_optional() -> None:
    assert columns(ee.Reducer.toList(2), "a", "b") == {"list": [[1, "x"], [3, "z"]]}
    assert columns(ee.Reducer.toList(2, 1), "a", "b") == {"list": [[1, "x"], [2, None], [3, "z"]]}
    assert columns(ee.Reducer.toList(2, 1), "b", "a") == {"list": [["x", 1], ["z", 3]]}
    assert columns(ee.Reducer.toList(3, 2), "a", "b", "c") == {"list": [[1, "x", 10], [2, None, None], [3, "z", None]]}
    assert columns(ee.Reducer.toList(3), "a", "b", "c") == {"list": [[1, "x", 10]]}


def test_a_repeated_reducer_reduces_each_column_with_its_own_gaps() -> None:
    assert columns(ee.Reducer.toList().repeat(2), "a", "b") == {"list": [[1, 2, 3], ["x", "z"]]}
    assert columns(ee.Reducer.mean().repeat(2), "a", "c") == {"mean": [2, 10]}
    assert columns(ee.Reducer.count().repeat(3), "a", "b", "c") == {"count": [3, 2, 1]}


def test_reducers_of_both_kinds_combine() -> None:
    both = ee.Reducer.toList().combine(ee.Reducer.max(), "top_", sharedInputs=True)
    assert columns(both, "a") == {"list": [1, 2, 3], "top_max": 3}
    apart = ee.Reducer.mean().combine(ee.Reducer.frequencyHistogram())
    assert columns(apart, "a", "b") == {"mean": 2, "histogram": {"x": 1, "z": 1}}
    named = ee.Reducer.toList(2).setOutputs(["pairs"])
    assert columns(named, "a", "b") == {"pairs": [[1, "x"], [3, "z"]]}


def test_groups_may_be_named_by_texts() -> None:
    grouped = ee.Reducer.sum().group(groupField=1, groupName="b")
    assert columns(grouped, "a", "b") == {"groups": [{"b": "x", "sum": 1}, {"b": "z", "sum": 3}]}


def test_a_reducer_of_numbers_refuses_texts_and_rows_of_another_length() -> None:
    assert "Reducer.mean: Expected numbers, found String" in refusal(table().reduceColumns("mean", ["b"]))
    assert "Need 2 input(s) for the reducer, got 1" in refusal(table().reduceColumns(ee.Reducer.toList(2), ["a"]))
    assert "do not fit together" in refusal(table().reduceColumns(ee.Reducer.toList(2, 3), ["a", "b"]))


def test_the_time_axis_that_xee_asks_for_is_that_of_the_scenes() -> None:
    """Xee reads ids and dates with one reducer, repeated for each column."""
    names = ["system:id", TIME]
    asked = scenes().reduceColumns(ee.Reducer.toList().repeat(len(names)), names).get("list")
    found = ee.List([asked, scenes().aggregate_array("system:id"), scenes().aggregate_array(TIME)]).getInfo()
    (ids, times), expected_ids, expected_times = found
    assert times == expected_times
    assert len(set(times)) > 3
    assert ids == expected_ids
    assert all(name.startswith(L2A) for name in ids)


# ---------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a < 2", [1]),
        ("2 <= a", [2, 3]),
        ("a != 2 && b == 'x'", [1]),
        ('a >= 2 and b == "z"', [3]),
        ("a == 1 || a == 3", [1, 3]),
        ("a == 1 or a == 2 and b == 'z'", [1]),
        ("(a == 1 or a == 3) and b == 'z'", [3]),
        ("!(a == 2)", [1, 3]),
        ("not a == 2 and not (a == 3)", [1]),
        ("b in ['x', 'y']", [1]),
        ("not b in ['x']", [2, 3]),
        ("a in [1.0, 3]", [1, 3]),
        ("a > -1 && a < 1.5e0", [1]),
        ("c == 10", [1]),
    ],
)
def test_a_filter_may_be_a_text(text: str, kept: list[int]) -> None:
    assert table().filter(text).aggregate_array("a").getInfo() == kept
    assert table().filter(ee.Filter.expression(text)).aggregate_array("a").getInfo() == kept


def test_a_text_filters_scenes_as_its_parts_do() -> None:
    tile = scenes().first().get("MGRS_TILE").getInfo()
    text = f'CLOUDY_PIXEL_PERCENTAGE < 40 && MGRS_TILE == "{tile}"'
    parts = ee.Filter.And(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", 40), ee.Filter.eq("MGRS_TILE", tile))
    written, built, all_of_them = ee.List(
        [scenes().filter(f).aggregate_array("system:index") for f in (text, parts)] + [scenes().size()]
    ).getInfo()
    assert written == built
    assert 0 < len(written) < all_of_them


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a <", "Unexpected 'the end'"),
        ("a = 3", "Unexpected character '='"),
        ("1 < 2", "one side must be a property"),
        ("a < 2 b > 3", "Unexpected 'b'"),
        ("(a < 2", "Unexpected 'the end'"),
        ("b in 'x'", "'in' needs a list"),
        ("a == true", "Unexpected 'true'"),
        ("a < 2 & b == 'x'", "Unexpected character '&'"),
        ("b == 'x", "Unexpected character"),
    ],
)
def test_a_text_that_is_no_filter_is_refused(text: str, words: str) -> None:
    assert words in refusal(table().filter(text))


def test_dates_may_lack_their_day_where_collections_are_filtered() -> None:
    year, months, days = ee.List(
        [
            ee.ImageCollection("ECMWF/ERA5_LAND/MONTHLY_AGGR").filterDate(*period).size()
            for period in (("2018", "2019"), ("2018-01", "2018-3"), ("2018-1-01", "2018-2-2"))
        ]
    ).getInfo()
    assert (year, months, days) == (12, 2, 2)
