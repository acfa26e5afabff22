"""Facts about values without pixels: numbers, lists, dictionaries, strings, dates and geometries."""

from __future__ import annotations

import ee
from _asking import Then
from _fact import Both, Equal, Fact, OneOf, Refused, Source
from _world import months, point

GUIDE, REFERENCE, ISSUE, MEMORY = Source.GUIDE, Source.REFERENCE, Source.ISSUE, Source.MEMORY
DAY_MS = 86_400_000
Y2018, AUGUST_2019 = 1514764800000, 1564617600000
"""First milliseconds of a year and of a month."""

DATES = (
    *(
        Fact(
            "dates",
            f"{text!r} is a date",
            source,
            lambda text=text: ee.Date(text).millis(),
            Equal(ms),
        )
        for text, source, ms in (
            ("2018", REFERENCE, Y2018),
            ("2018-01", ISSUE, Y2018),
            ("2018-01-01", REFERENCE, Y2018),
            ("2019-8-01", REFERENCE, AUGUST_2019),
            ("2019-8-1", REFERENCE, AUGUST_2019),
            ("2017-6-24", REFERENCE, 1498262400000),
            ("2017-6-24T00:14:46", REFERENCE, 1498263286000),
            ("2017-06-24T00:14:46.500", MEMORY, 1498263286500),
            ("2017-06-24T00:14:46Z", MEMORY, 1498263286000),
        )
    ),
    Fact(
        "dates",
        "text that is not a date is refused",
        MEMORY,
        lambda: ee.Date("yesterday").millis(),
        Refused("HTTP 400"),
    ),
    Fact("dates", "month 13 is refused", MEMORY, lambda: ee.Date("2019-13-01").millis(), Refused("HTTP 400")),
    *(
        Fact(
            "dates",
            f"filterDate({start!r}, {end!r})",
            source,
            lambda start=start, end=end: months(start, end).aggregate_array("system:index"),
            Equal(found),
        )
        for start, end, source, found in (
            ("2018", "2018-03", ISSUE, ["201801", "201802"]),
            ("2019-8-01", "2019-9-01", REFERENCE, ["201908"]),
            ("2019-8-1", "2019-08-02", REFERENCE, ["201908"]),
        )
    ),
    Fact(
        "dates",
        "a number is milliseconds since 1970",
        REFERENCE,
        lambda: ee.Date(Y2018).format("YYYY-MM-dd"),
        Equal("2018-01-01"),
    ),
    Fact(
        "dates",
        "one month after 31 January is the end of February",
        REFERENCE,
        lambda: ee.Date.fromYMD(2020, 1, 31).advance(1, "month").format("YYYY-MM-dd"),
        Equal("2020-02-29"),
    ),
    Fact(
        "dates",
        "advance accepts negative steps",
        REFERENCE,
        lambda: ee.Date("2020-03-01").advance(-1, "month").format("YYYY-MM-dd"),
        Equal("2020-02-01"),
    ),
    Fact("dates", "the year of a date", REFERENCE, lambda: ee.Date(Y2018).get("year"), Equal(2018)),
    Fact(
        "dates",
        "days of a year are counted from 1",
        REFERENCE,
        lambda: ee.Number.parse(ee.Date("2019-02-01").format("D")),
        Equal(32),
    ),
    Fact(
        "dates",
        "getRelative counts from 0",
        REFERENCE,
        lambda: ee.Date("2019-02-01").getRelative("day", "year"),
        Equal(31),
    ),
    Fact(
        "dates",
        "difference in days",
        REFERENCE,
        lambda: ee.Date("2019-03-01").difference(ee.Date("2019-02-01"), "day"),
        Equal(28),
    ),
    Fact(
        "dates",
        "the end of a range is exclusive",
        REFERENCE,
        lambda: ee.DateRange("2019-01-01", "2019-02-01").contains(ee.Date("2019-02-01")),
        Equal(False),
    ),
    Fact(
        "dates",
        "time zones shift times",
        REFERENCE,
        lambda: ee.Date("2019-01-01", "Europe/Vienna").millis(),
        Equal(1546297200000),
    ),
)

NUMBERS = tuple(
    Fact("numbers and lists", says, source, ask, expected)
    for says, source, ask, expected in (
        ("1 and 2 are 3", REFERENCE, lambda: ee.Number(1).add(2), Equal(3)),
        ("integers divide to a fraction", REFERENCE, lambda: ee.Number(7).divide(2), Equal(3.5)),
        ("floor of a negative", REFERENCE, lambda: ee.Number(-1.5).floor(), Equal(-2)),
        ("toInt truncates", REFERENCE, lambda: ee.Number(-1.9).toInt(), Equal(-1)),
        (
            "products beyond 32 bits are exact",
            MEMORY,
            lambda: ee.Number(4294967295).multiply(1048575),
            Equal(4294967295 * 1048575, 0),
        ),
        ("a comparison is 1 or 0", REFERENCE, lambda: ee.List([ee.Number(2).gt(1), ee.Number(1).gt(2)]), Equal([1, 0])),
        ("a remainder", REFERENCE, lambda: ee.Number(7).mod(3), Equal(1)),
        ("parse reads a number", REFERENCE, lambda: ee.Number.parse("12.5"), Equal(12.5)),
        ("format has decimals", REFERENCE, lambda: ee.Number(1.5).format("%.2f"), Equal("1.50")),
        ("slice stops at the end", REFERENCE, lambda: ee.List([1, 2]).slice(0, 5), Equal([1, 2])),
        ("slice counts negatives from the end", REFERENCE, lambda: ee.List([1, 2, 3]).slice(-2), Equal([2, 3])),
        ("get counts from 0", REFERENCE, lambda: ee.List([3, 4]).get(1), Equal(4)),
        ("get counts negatives from the end", REFERENCE, lambda: ee.List([3, 4]).get(-1), Equal(4)),
        ("get beyond the end is refused", MEMORY, lambda: ee.List([3]).get(1), Refused("HTTP 400")),
        ("cat and sort", REFERENCE, lambda: ee.List([3, 1]).cat([2]).sort(), Equal([1, 2, 3])),
        ("capitals sort before small letters", MEMORY, lambda: ee.List(["b", "A", "a"]).sort(), Equal(["A", "a", "b"])),
        ("a sequence includes its end", REFERENCE, lambda: ee.List.sequence(1, 3), Equal([1, 2, 3])),
        ("a sequence has steps", REFERENCE, lambda: ee.List.sequence(0, 5, 2), Equal([0, 2, 4])),
        ("a sequence has a count", REFERENCE, lambda: ee.List.sequence(0, 1, count=3), Equal([0, 0.5, 1])),
        ("repeat", REFERENCE, lambda: ee.List.repeat(7, 3), Equal([7, 7, 7])),
        ("zip", REFERENCE, lambda: ee.List([1, 2]).zip([3, 4]), Equal([[1, 3], [2, 4]])),
        ("distinct keeps the first of each", REFERENCE, lambda: ee.List([2, 1, 2]).distinct(), Equal([2, 1])),
        ("flatten", REFERENCE, lambda: ee.List([[1, [2]], 3]).flatten(), Equal([1, 2, 3])),
        ("indexOf of a missing element is -1", REFERENCE, lambda: ee.List([1]).indexOf(2), Equal(-1)),
        ("contains", REFERENCE, lambda: ee.List([1]).contains(1), Equal(True)),
        ("removeAll", REFERENCE, lambda: ee.List([1, 2, 1]).removeAll([1]), Equal([2])),
        ("map", REFERENCE, lambda: ee.List([1, 2]).map(lambda n: ee.Number(n).multiply(10)), Equal([10, 20])),
        (
            "a map within a map sees both elements",
            REFERENCE,
            lambda: ee.List([1, 2]).map(lambda a: ee.List([10, 20]).map(lambda b: ee.Number(a).add(b))),
            Equal([[11, 21], [12, 22]]),
        ),
        (
            "iterate carries a value",
            REFERENCE,
            lambda: ee.List([1, 2, 3]).iterate(lambda n, total: ee.Number(n).add(total), 0),
            Equal(6),
        ),
        ("a map that leaves out null", REFERENCE, lambda: ee.List([1, 2]).map(dropping, True), Equal([2])),
        ("reduce a list", REFERENCE, lambda: ee.List([1, 2, 6]).reduce(ee.Reducer.mean()), Equal(3)),
        ("get has a default", REFERENCE, lambda: ee.Dictionary({"a": 1}).get("b", 7), Equal(7)),
        ("get without one is refused", MEMORY, lambda: ee.Dictionary({"a": 1}).get("b"), Refused(r"HTTP 400: .*'?b'?")),
        ("keys are sorted", MEMORY, lambda: ee.Dictionary({"b": 1, "a": 2}).keys(), Equal(["a", "b"])),
        ("values follow the keys", MEMORY, lambda: ee.Dictionary({"b": 1, "a": 2}).values(), Equal([2, 1])),
        (
            "combine overwrites",
            REFERENCE,
            lambda: ee.Dictionary({"a": 1}).combine({"a": 2, "b": 3}),
            Equal({"a": 2, "b": 3}),
        ),
        ("slice of a string", REFERENCE, lambda: ee.String("abcdef").slice(1, 3), Equal("bc")),
        ("split of a string", REFERENCE, lambda: ee.String("a_b").split("_"), Equal(["a", "b"])),
        ("join of strings", REFERENCE, lambda: ee.List([1, "a"]).join("-"), Equal("1-a")),
        ("replace takes a pattern", REFERENCE, lambda: ee.String("a1b22").replace("[0-9]+", "", "g"), Equal("ab")),
        ("cat of strings", REFERENCE, lambda: ee.String("a").cat("b"), Equal("ab")),
    )
)


def dropping(n: ee.ComputedObject) -> ee.ComputedObject:
    return ee.Algorithms.If(ee.Number(n).gt(1), n, None)


ROUNDED = tuple(
    Fact(
        "numbers and lists",
        f"round of the number {value:g}",
        MEMORY,
        lambda value=value: ee.Number(value).round(),
        OneOf(tuple(map(Equal, choices))),
        Both.EQUAL,
    )
    for value, choices in ((0.5, (0, 1)), (-0.5, (-1, 0)), (2.5, (2, 3)))
)

GEOMETRY = (
    Fact("numbers and lists", "coordinates of a point", REFERENCE, lambda: point().coordinates(), Equal([11.4, 47.3])),
    Fact(
        "numbers and lists",
        "a buffer contains its centre",
        REFERENCE,
        lambda: point().buffer(100).contains(point(), 1),
        Equal(True),
    ),
    Fact(
        "numbers and lists",
        "the length of a degree along the equator",
        REFERENCE,
        lambda: Then(
            [ee.Geometry.Point([0, 0]).distance(ee.Geometry.Point([1, 0]), 1)], lambda m: abs(m - 111_195) < 250
        ),
        Equal(True),
    ),
    Fact(
        "numbers and lists",
        "the bounds of a buffer are as wide as the buffer",
        REFERENCE,
        lambda: Then([point().buffer(1000).bounds(1).area(1)], lambda area: abs(area / 4e6 - 1) < 0.03),
        Equal(True),
    ),
    Fact(
        "numbers and lists",
        "division of numbers by zero is 0",
        REFERENCE,
        lambda: ee.Number(1).divide(0),
        Equal(0),
    ),
)

FACTS = (*DATES, *NUMBERS, *ROUNDED, *GEOMETRY)
