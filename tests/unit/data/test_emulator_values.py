"""Numbers, texts, lists, dictionaries and dates of the emulator: answers worked out by hand, asked by the real client."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import ee
import pytest
from ee_world import refusal
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("earth")

Make = Callable[[], Any]


def nulls(*names: str) -> Any:
    """Dictionary of nulls."""
    return ee.Feature(None, dict.fromkeys(names)).toDictionary(list(names))


NUMBERS: list[tuple[Make, Any]] = [
    (lambda: ee.Number(1).add(2), 3),
    (lambda: ee.Number(7).subtract(9), -2),
    (lambda: ee.Number(7).divide(2), 3.5),
    (lambda: ee.Number(7).divide(0), 0),
    (lambda: ee.Number(-7).mod(3), -1),
    (lambda: ee.Number(2).pow(10), 1024),
    (lambda: ee.Number(3).hypot(4), 5),
    (lambda: ee.Number(0).atan2(1), math.pi / 2),  # the vector (0, 1)
    (lambda: ee.Number(5).max(9), 9),
    (lambda: ee.Number(5).min(9), 5),
    (lambda: ee.Number(0).firstNonZero(4), 4),
    (lambda: ee.Number(6).bitwiseAnd(3), 2),
    (lambda: ee.Number(6).bitwiseOr(3), 7),
    (lambda: ee.Number(6).bitwiseXor(3), 5),
    (lambda: ee.Number(1).leftShift(10), 1024),
    (lambda: ee.Number(1024).rightShift(3), 128),
    (lambda: ee.Number(5).lt(5), 0),
    (lambda: ee.Number(5).lte(5), 1),
    (lambda: ee.Number(5).gt(4), 1),
    (lambda: ee.Number(5).eq(5.0), 1),
    (lambda: ee.Number(5).neq(5), 0),
    (lambda: ee.Number(1).And(0), 0),
    (lambda: ee.Number(1).Or(0), 1),
    (lambda: ee.Number(0).Not(), 1),
    (lambda: ee.Number(-2.5).abs(), 2.5),
    (lambda: ee.Number(2.5).floor(), 2),
    (lambda: ee.Number(2.1).ceil(), 3),
    (lambda: ee.Number(2.5).round(), 3),
    (lambda: ee.Number(2.49).round(), 2),
    (lambda: ee.Number(100).log10(), 2),
    (lambda: ee.Number(1).exp().log(), 1),
    (lambda: ee.Number(2).sqrt().pow(2).subtract(2).abs().lt(1e-12), 1),
    (lambda: ee.Number(-3.2).signum(), -1),
    (lambda: ee.Number(27).cbrt().subtract(3).abs().lt(1e-12), 1),
    (lambda: ee.Number(300.9).toUint8(), 255),
    (lambda: ee.Number(-1.9).toUint16(), 0),
    (lambda: ee.Number(-1.9).toInt16(), -1),
    (lambda: ee.Number(40000).toInt16(), 32767),
    (lambda: ee.Number(12).clamp(0, 10), 10),
    (lambda: ee.Number(5).unitScale(0, 10), 0.5),
    (lambda: ee.Number(3.14159).format("%.2f"), "3.14"),
    (lambda: ee.Number(7).format("%03d"), "007"),
    (lambda: ee.Number(7.0).format(), "7"),
    # java.util.Formatter, JDK 11: halves are rounded up, %g has six significant digits
    (lambda: ee.Number(0.125).format("%.2f"), "0.13"),
    (lambda: ee.Number(1.005).format("%.2f"), "1.01"),
    (lambda: ee.Number(-0.125).format("%.2f"), "-0.13"),
    (lambda: ee.Number(2.5).format("%.0f"), "3"),
    (lambda: ee.Number(2.5).format("%#.0f"), "3."),
    (lambda: ee.Number(3).format("%f"), "3.000000"),
    (lambda: ee.Number(0.0001).format("%g"), "0.000100000"),
    (lambda: ee.Number(0.00001).format("%g"), "1.00000e-05"),
    (lambda: ee.Number(123456.5).format("%g"), "123457"),
    (lambda: ee.Number(1234567).format("%G"), "1.23457E+06"),
    (lambda: ee.Number(0).format("%g"), "0.00000"),
    (lambda: ee.Number(12345.675).format("%.2e"), "1.23e+04"),
    (lambda: ee.Number(1.25).format("%.1e"), "1.3e+00"),
    (lambda: ee.Number(0).format("%e"), "0.000000e+00"),
    (lambda: ee.Number(1234567).format("%,d"), "1,234,567"),
    (lambda: ee.Number(-1234567.891).format("%,(.2f"), "(1,234,567.89)"),
    (lambda: ee.Number(-7).format("%(05d"), "(007)"),
    (lambda: ee.Number(7).format("%+d"), "+7"),
    (lambda: ee.Number(7).format("[%-5d]"), "[7    ]"),
    (lambda: ee.Number(7).format("[%5d]"), "[    7]"),
    (lambda: ee.Number(-7).format("%05d"), "-0007"),
    (lambda: ee.Number(255).format("%#x"), "0xff"),
    (lambda: ee.Number(255).format("%#08X"), "0X0000FF"),
    (lambda: ee.Number(8).format("%o"), "10"),
    (lambda: ee.Number(-1).sqrt().format("%05.1f"), "  NaN"),
    (lambda: ee.Number(1.5).format("%5s m"), "  1.5 m"),
    (lambda: ee.Number(0.00012).format(), "1.2E-4"),  # Double.toString
    (lambda: ee.Number.parse("ff", 16), 255),
    (lambda: ee.Number.parse("2.5"), 2.5),
    (lambda: ee.Number(11).bitCount(), 3),
]

TEXTS: list[tuple[Make, Any]] = [
    (lambda: ee.String("ab").cat("cd"), "abcd"),
    (lambda: ee.String("T32UMV_x").split("_"), ["T32UMV", "x"]),
    (lambda: ee.String("abc").split(""), ["a", "b", "c"]),
    (lambda: ee.String("20200105T1").slice(0, 4), "2020"),
    (lambda: ee.String("abc").slice(-1), "c"),
    (lambda: ee.String("abcabc").index("c"), 2),
    (lambda: ee.String("abcabc").rindex("c"), 5),
    (lambda: ee.String("abc").index("x"), -1),
    (lambda: ee.String("abc").length(), 3),
    (lambda: ee.String("a1b22").match("[0-9]+", "g"), ["1", "22"]),
    (lambda: ee.String("a1b22").match("([a-z])([0-9])"), ["a1", "a", "1"]),
    (lambda: ee.String("abc").match("x"), []),
    (lambda: ee.String("aXbX").replace("X", "-"), "a-bX"),
    (lambda: ee.String("aXbX").replace("x", "-", "gi"), "a-b-"),
    (lambda: ee.String("B12").replace("B(\\d+)", "band $1"), "band 12"),
    (lambda: ee.String("abc").replace("b", "[$0]"), "a[b]c"),
    (lambda: ee.String("aB").toUpperCase(), "AB"),
    (lambda: ee.String("aB").toLowerCase(), "ab"),
    (lambda: ee.String("  a ").trim(), "a"),
    (lambda: ee.String("a").compareTo("b"), -1),
    (lambda: ee.String("a").equals("a"), True),
    (lambda: ee.String.encodeJSON({"a": [1, 2]}), '{"a":[1,2]}'),
    (lambda: ee.String('{"a": [1, 2.5]}').decodeJSON(), {"a": [1, 2.5]}),
    (lambda: ee.String(ee.Number(5)), "5"),
    (lambda: ee.String(ee.List([True]).get(0)), "true"),
    (lambda: ee.String(ee.List([0.0001]).get(0)), "1.0E-4"),
    (lambda: ee.String("a1b22c").split("([0-9])+"), ["a", "b", "c"]),
]

LISTS: list[tuple[Make, Any]] = [
    (lambda: ee.List([1, 2]).add(3), [1, 2, 3]),
    (lambda: ee.List([1, 2]).cat([3]), [1, 2, 3]),
    (lambda: ee.List([1, 2, 3]).get(-1), 3),
    (lambda: ee.List([1, 2]).contains(2), True),
    (lambda: ee.List([1, 2]).contains(2.0), True),
    (lambda: ee.List([1, 2, 3]).containsAll([3, 1]), True),
    (lambda: ee.List([1, 2, 1]).distinct(), [1, 2]),
    (lambda: ee.List([1, [2, [3]]]).flatten(), [1, 2, 3]),
    (lambda: ee.List([1, 2, 1]).frequency(1), 2),
    (lambda: ee.List([1, 2, 1]).indexOf(3), -1),
    (lambda: ee.List([1, 2, 3, 2, 3]).indexOfSublist([2, 3]), 1),
    (lambda: ee.List([1, 2, 3, 2, 3]).lastIndexOfSubList([2, 3]), 3),
    (lambda: ee.List([1, 3]).insert(1, 2), [1, 2, 3]),
    (lambda: ee.List([1, 2, 3]).iterate(lambda x, total: ee.Number(x).add(total), 10), 16),
    (lambda: ee.List([1, 2]).join("-"), "1-2"),
    (lambda: ee.List([True, False, None, 1.5]).join("-"), "true-false-null-1.5"),
    (lambda: ee.List([1, 2]).length(), 2),
    (lambda: ee.List([1, 2]).map(lambda x: ee.Number(x).multiply(10)), [10, 20]),
    (lambda: ee.List([1, 2, 1]).remove(1), [2, 1]),
    (lambda: ee.List([1, 2, 1]).removeAll([1]), [2]),
    (lambda: ee.List.repeat("x", 3), ["x", "x", "x"]),
    (lambda: ee.List([1, 2, 1]).replace(1, 9), [9, 2, 1]),
    (lambda: ee.List([1, 2, 1]).replaceAll(1, 9), [9, 2, 9]),
    (lambda: ee.List([1, 2, 3]).reverse(), [3, 2, 1]),
    (lambda: ee.List([1, 2, 3]).rotate(1), [2, 3, 1]),
    (lambda: ee.List([1, 2, 3]).rotate(-1), [3, 1, 2]),
    (lambda: ee.List.sequence(2017, 2020), [2017, 2018, 2019, 2020]),
    (lambda: ee.List.sequence(0, 1, 0.25), [0, 0.25, 0.5, 0.75, 1]),
    (lambda: ee.List.sequence(start=0, end=10, count=3), [0, 5, 10]),
    (lambda: ee.List([1, 2, 3]).set(-1, 9), [1, 2, 9]),
    (lambda: ee.List([1, 2, 3, 4]).slice(1, 3), [2, 3]),
    (lambda: ee.List([1, 2, 3, 4]).slice(0, 4, 2), [1, 3]),
    (lambda: ee.List([3, 1, 2]).sort(), [1, 2, 3]),
    (lambda: ee.List(["a", "b", "c"]).sort([3, 1, 2]), ["b", "c", "a"]),
    (lambda: ee.List([1, 2, 3, 4]).splice(1, 2, ["x"]), [1, "x", 4]),
    (lambda: ee.List([1, 2, 3]).swap(0, 2), [3, 2, 1]),
    (lambda: ee.List([1, 2]).zip([3, 4]), [[1, 3], [2, 4]]),
    (lambda: ee.List([[1, 3], [2, 4]]).unzip(), [[1, 2], [3, 4]]),
    (lambda: ee.List([1, 5, 3]).filter(ee.Filter.gt("item", 2)), [5, 3]),
    (lambda: ee.List([1, 2, 3]).reduce(ee.Reducer.sum()), 6),
    (lambda: ee.List([1, 2, 6]).reduce(ee.Reducer.mean()), 3),
    (lambda: ee.List([1, None, 6]).reduce(ee.Reducer.mean()), 3.5),
    (lambda: ee.List(["b", "a", "b"]).reduce(ee.Reducer.toList()), ["b", "a", "b"]),
    (lambda: ee.List(["b", None, "b"]).reduce(ee.Reducer.countDistinctNonNull()), 1),
    (lambda: ee.List(["b", None, "b"]).reduce(ee.Reducer.countDistinct()), 2),
    (lambda: ee.List(["b", "a", "b"]).reduce(ee.Reducer.frequencyHistogram()), {"a": 1, "b": 2}),
    (lambda: ee.List([1, 2, 2]).reduce(ee.Reducer.frequencyHistogram()), {"1": 1, "2": 2}),
    (lambda: ee.List([None, "x", "y"]).reduce(ee.Reducer.first()), "x"),
    (lambda: ee.List([[1, 2], [3, 4]]).reduce(ee.Reducer.toList(2)), [[1, 2], [3, 4]]),
]

DICTIONARIES: list[tuple[Make, Any]] = [
    (lambda: ee.Dictionary({"a": 1}).combine(nulls("a", "b")), {"a": 1}),
    (lambda: nulls("a").combine({"a": 2, "b": 3}, False), {"a": 2, "b": 3}),
    (lambda: ee.Dictionary({"a": 1}).combine({"a": 2}, False), {"a": 1}),
    (lambda: ee.Dictionary({"a": 1}).combine({"a": 2, "b": 3}), {"a": 2, "b": 3}),
    (lambda: ee.Dictionary({"a": 1}).combine({"a": 2, "b": 3}, False), {"a": 1, "b": 3}),
    (lambda: ee.Dictionary({"a": 1}).contains("b"), False),
    (lambda: ee.Dictionary.fromLists(["a", "b"], [1, 2]), {"a": 1, "b": 2}),
    (lambda: ee.Dictionary({"a": 1}).get("a"), 1),
    (lambda: ee.Dictionary({"a": 1}).get("b", 7), 7),
    (lambda: ee.Dictionary({"b": 1, "a": 2}).keys(), ["a", "b"]),
    (lambda: ee.Dictionary({"b": 1, "a": 2}).values(), [2, 1]),
    (lambda: ee.Dictionary({"b": 1, "a": 2}).values(["b"]), [1]),
    (lambda: ee.Dictionary({"a": 1, "b": 2}).map(lambda key, value: ee.Number(value).add(1)), {"a": 2, "b": 3}),
    (lambda: ee.Dictionary({"a": 1, "b": 2}).remove(["a"]), {"b": 2}),
    (lambda: ee.Dictionary({"a": 1, "b": 2}).select(["b"]), {"b": 2}),
    (lambda: ee.Dictionary({"a": 1}).rename(["a"], ["z"]), {"z": 1}),
    (lambda: ee.Dictionary({"a": 1}).set("b", 2).size(), 2),
    (lambda: ee.Dictionary(["a", 1, "b", 2]), {"a": 1, "b": 2}),
]

DAY = 86_400_000
DATES: list[tuple[Make, Any]] = [
    (lambda: ee.Date("1970-01-02").millis(), DAY),
    (lambda: ee.Date("1970-01-01T00:00:01.5").millis(), 1500),
    (lambda: ee.Date(DAY), {"type": "Date", "value": DAY}),
    (lambda: ee.Date("2018").format(), "2018-01-01T00:00:00"),
    (lambda: ee.Date("2018-01").format(), "2018-01-01T00:00:00"),
    (lambda: ee.Date("2019-8-01").format(), "2019-08-01T00:00:00"),
    (lambda: ee.Date("2017-6-24T00:14:46").format(), "2017-06-24T00:14:46"),
    (lambda: ee.Date("1996-060").format(), "1996-02-29T00:00:00"),
    (lambda: ee.Date("1996-01-01T08:00").format(), "1996-01-01T08:00:00"),
    (lambda: ee.Date("1996-01-01T08:00+02:00", "Asia/Tokyo").format(), "1996-01-01T06:00:00"),
    (lambda: ee.Date("2020-7", "Europe/Berlin").format(), "2020-06-30T22:00:00"),
    (lambda: ee.DateRange("2018", "2019-1").end().format(), "2019-01-01T00:00:00"),
    (lambda: ee.DateRange("2020-7", "2020-8", "Europe/Berlin").start().format(), "2020-06-30T22:00:00"),
    (lambda: ee.Date("2020-03-05").update(second=1.5).millis().mod(60_000), 1500),
    (lambda: ee.Date("2020-01-31").advance(1, "month").format("YYYY-MM-dd"), "2020-02-29"),
    (lambda: ee.Date("2020-02-29").advance(-1, "year").format("YYYY-MM-dd"), "2019-02-28"),
    (lambda: ee.Date("2020-03-01").advance(-1, "day").format("YYYYMMdd"), "20200229"),
    (lambda: ee.Date("2020-03-01").advance(1.5, "day").format("YYYY-MM-dd'T'HH:mm"), "2020-03-02T12:00"),
    (lambda: ee.Date("2020-03-01").difference("2020-02-28", "day"), 2),
    (lambda: ee.Date("2020-03-01").difference("2020-03-02", "hour"), -24),
    (lambda: ee.Date.unitRatio("day", "minute"), 1440),
    (lambda: ee.Date.fromYMD(2019, 12, 1).format(), "2019-12-01T00:00:00"),
    (lambda: ee.Date("2020-03-05T10:20:30").get("month"), 3),
    (lambda: ee.Date("2020-03-05T10:20:30").get("day"), 5),
    (lambda: ee.Date("2020-03-05T10:20:30").get("hour"), 10),
    (lambda: ee.Date("2020-12-31").getRelative("day", "year"), 365),
    (lambda: ee.Date("2020-03-05").getRelative("month", "year"), 2),
    (lambda: ee.Date("2020-03-16T12:00").getFraction("month"), 0.5),
    (lambda: ee.Date("2020-03-05").getRange("month").end().format("YYYY-MM-dd"), "2020-04-01"),
    (lambda: ee.Date("2020-03-05").getRange("week").start().format("E"), "Mon"),
    (lambda: ee.Date("2020-03-05").update(year=2018, day=1).format("YYYY-MM-dd"), "2018-03-01"),
    (lambda: ee.Date("2020-03-05").format("DDD"), "065"),
    (lambda: ee.Date("2020-03-05").format("d MMM YYYY"), "5 Mar 2020"),
    # DateTimeFormat of Joda-Time
    (lambda: ee.Date("2020-02-29").format("HH:mm Z", "America/New_York"), "19:00 -0500"),
    (lambda: ee.Date("2020-02-29").format("HH:mm ZZ", "America/New_York"), "19:00 -05:00"),
    (lambda: ee.Date("2020-02-29").format("ZZ ZZZ"), "+00:00 UTC"),
    (lambda: ee.Date("2020-02-29").format("ZZZ z", "Asia/Kolkata"), "Asia/Kolkata IST"),
    (lambda: ee.Date("2020-02-29T12:30").format("G C K xx ee"), "AD 20 0 20 06"),
    (lambda: ee.Date("2020-07-01T00:00", "Europe/Berlin").millis(), 1_593_554_400_000),
    (lambda: ee.Date("2020-07-01").get("hour", "Europe/Berlin"), 2),
    (lambda: ee.Date.parse("dd/MM/YYYY", "05/03/2020").format("YYYY-MM-dd"), "2020-03-05"),
    (lambda: ee.DateRange("2020-01-01", "2020-02-01").contains("2020-02-01"), False),
    (lambda: ee.DateRange("2020-01-01", "2020-02-01").contains("2020-01-01"), True),
    (lambda: ee.DateRange("2020-01-01", "2020-02-01").intersects(ee.DateRange("2020-02-01", "2020-03-01")), False),
    (lambda: ee.DateRange("2020-01-01", "2020-01-01").isEmpty(), True),
    (lambda: ee.DateRange("2020-01-01", "2020-02-01").start().millis(), 1577836800000),
    (
        lambda: (
            ee.DateRange("2020-01-01", "2020-02-01").union(ee.DateRange("2020-03-01", "2020-04-01")).end().get("month")
        ),
        4,
    ),
]

GENERAL: list[tuple[Make, Any]] = [
    (lambda: ee.Algorithms.If(ee.Number(1).eq(1), "yes", "no"), "yes"),
    (lambda: ee.Algorithms.If(None, "yes", "no"), "no"),
    (lambda: ee.Algorithms.If(ee.List([]), "yes", "no"), "no"),
    (lambda: ee.Algorithms.If(ee.List([0]), "yes", "no"), "yes"),
    (lambda: ee.Algorithms.If(ee.Dictionary({}), "yes", "no"), "no"),
    (lambda: ee.Algorithms.If(ee.Dictionary({"a": 0}), "yes", "no"), "yes"),
    (lambda: ee.Algorithms.If(ee.Number(-1).sqrt(), "yes", "no"), "no"),
    (lambda: ee.Algorithms.If(ee.String(""), "yes", "no"), "no"),
    (lambda: ee.Algorithms.IsEqual(1, 1.0), True),
    (lambda: ee.Algorithms.ObjectType(ee.Number(1.5)), "Float"),
    (lambda: ee.Algorithms.ObjectType("x"), "String"),
    (lambda: ee.List([1, 2]).map(lambda x: ee.List([10, 20]).map(lambda y: ee.Number(x).add(y))), [[11, 21], [12, 22]]),
]


@pytest.mark.parametrize("table", [NUMBERS, TEXTS, LISTS, DICTIONARIES, DATES, GENERAL])
def test_answers_are_those_worked_out_by_hand(table: list[tuple[Make, Any]]) -> None:
    answers = ee.List([[ee.Algorithms.Describe(make())] for make, _ in table]).getInfo()  # one request a table
    for (answer,), (make, expected) in zip(answers, table, strict=True):
        shown = make().serialize()
        if isinstance(expected, float):
            assert answer == pytest.approx(expected, rel=1e-12), shown
        else:
            assert answer == expected, shown
            assert type(answer) is type(expected), shown


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ee.List([1, 2]).get(2), "List.get: List index must be between 0 and 1"),
        (lambda: ee.Dictionary({"a": 1}).get("b"), "Dictionary.get: Dictionary does not contain key: 'b'."),
        (lambda: ee.Dictionary({"a": 1}).select(["b"]), "Dictionary does not contain key: 'b'."),
        (lambda: ee.Number.parse("x"), "Number.parse"),
        *(
            (lambda pattern=pattern: ee.Number(1).format(pattern), "Number.format: Invalid format pattern")
            for pattern in ("%r", "%i", "%5", "%d %d", "%%", "%+ d", "%-d", "%.2d", "%,x", "%#d", "%++d", "%5000d")
        ),
        (lambda: ee.Number(-1).format("%x"), "%x of a negative number: Earth Engine has this function"),
        (lambda: ee.Number(1).format("%a"), "with %a: Earth Engine has this function"),
        (lambda: ee.Date("2020").format("zzzz"), "the full name of a time zone: Earth Engine has this function"),
        (lambda: ee.Date("2020").format("J"), "Illegal pattern component: J"),
        (lambda: ee.Date("no date"), "Bad date/time 'no date'"),
        (lambda: ee.Date("2018-13"), "Bad date/time '2018-13'"),
        (lambda: ee.Date("2018-02-30"), "Bad date/time '2018-02-30'"),
        (lambda: ee.Date("1995-366"), "Bad date/time '1995-366'"),
        (lambda: ee.Date("20180101"), "Bad date/time '20180101'"),
        (lambda: ee.DateRange("2018", "next year"), "Bad date/time 'next year'"),
        (lambda: ee.Date("2020-01-01").advance(1, "fortnight"), "Unknown unit 'fortnight'"),
        (lambda: ee.Date("2020-01-01", "Mars/Olympus"), "Unknown time zone"),
    ],
)
def test_what_has_no_answer_is_refused_in_words(make: Make, words: str) -> None:
    assert words in refusal(make())


@settings(max_examples=12)
@given(
    st.datetimes(datetime(1985, 1, 1), datetime(2035, 1, 1)),
    st.integers(-400, 400),
    st.sampled_from(["second", "minute", "hour", "day", "week"]),
)
def test_dates_move_by_units_of_fixed_length(when: datetime, count: int, unit: str) -> None:
    start = when.replace(microsecond=0, tzinfo=UTC)
    moved = start + count * timedelta(**{f"{unit}s": 1})
    date = ee.Date(int(start.timestamp()) * 1000).advance(count, unit)
    millis, back, text = ee.List(
        [
            date.millis(),
            date.difference(ee.Date(int(start.timestamp()) * 1000), unit),
            date.format("YYYY-MM-dd'T'HH:mm:ss"),
        ]
    ).getInfo()
    assert millis == int(moved.timestamp()) * 1000
    assert back == pytest.approx(count, abs=1e-9)
    assert text == moved.strftime("%Y-%m-%dT%H:%M:%S")


@settings(max_examples=12)
@given(st.lists(st.integers(-5, 5), max_size=8), st.lists(st.integers(-5, 5), max_size=4), st.integers(-9, 9))
def test_lists_behave_as_sequences_do(left: list[int], right: list[int], shift: int) -> None:
    a, b = ee.List(left), ee.List(right)
    joined, order, missing, turned, distinct = ee.List(
        [a.cat(b), a.sort(), a.removeAll(b), a.rotate(shift), a.distinct()]
    ).getInfo()
    assert joined == left + right
    assert order == sorted(left)
    assert missing == [x for x in left if x not in right]
    k = shift % len(left) if left else 0
    assert turned == left[k:] + left[:k]
    assert distinct == list(dict.fromkeys(left))
