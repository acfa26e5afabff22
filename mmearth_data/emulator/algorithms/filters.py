"""Filters: conditions on elements, and the part of them that an archive can search by."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial, reduce
from typing import TYPE_CHECKING

import shapely

from mmearth_data.emulator.algorithms.date_functions import moment
from mmearth_data.emulator.algorithms.features import GEOMETRY, property_of
from mmearth_data.emulator.algorithms.geometry import Geometry, middle_of, relate
from mmearth_data.emulator.algorithms.measures import area_m2, distance_m
from mmearth_data.emulator.algorithms.plain_functions import same
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import (
    Implementation,
    enter,
    function,
    functions,
    named,
    only,
    promotion,
    type_name,
)
from mmearth_data.emulator.graph.values import Date, DateRange, is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Context, Value

    Test = Callable[[Value, Value], bool]

TIME = "system:time_start"
ITEM = "item"
"""Field that is the value itself, in filters of lists."""


@dataclass(frozen=True, slots=True)
class Query:
    """Conditions that an archive can search by; None is open."""

    bounds: BaseGeometry | None = None  # Images may touch this area
    start_ms: int | None = None  # They start within [start, end)
    end_ms: int | None = None
    equal: Mapping[str, Value] = field(default_factory=dict)  # Properties with their required values
    below: Mapping[str, float] = field(default_factory=dict)  # Properties with their upper limits
    # Only pixels in this area matter: without other bounds, images that do not reach it may be left out
    region: BaseGeometry | None = None

    def both(self, other: Query) -> Query:
        """Query for elements that pass two queries; of two areas, the smaller one."""
        both = [bounds for bounds in (self.bounds, other.bounds) if bounds is not None]
        starts = [ms for ms in (self.start_ms, other.start_ms) if ms is not None]
        ends = [ms for ms in (self.end_ms, other.end_ms) if ms is not None]
        shared = {name: min(limit, other.below.get(name, limit)) for name, limit in self.below.items()}
        return Query(
            min(both, key=lambda bounds: bounds.envelope.area) if len(both) > 1 else next(iter(both), None),
            max(starts, default=None),
            min(ends, default=None),
            {**other.equal, **self.equal},
            {**other.below, **shared},
            self.region if other.region is None else other.region,
        )

    def either(self, other: Query) -> Query:
        """Query for elements that may pass one of two queries."""
        when = DateRange(self.start_ms, self.end_ms).around(DateRange(other.start_ms, other.end_ms))
        if self.bounds is None or other.bounds is None:
            return Query(None, when.start_ms, when.end_ms)
        # A union: shapes on both sides of 180 degrees must not span the globe.
        return Query(shapely.union(self.bounds, other.bounds), when.start_ms, when.end_ms)


ANYTHING = Query()


@named("Filter")
@dataclass(frozen=True)
class Filter:
    """Condition on an element."""

    test: Test  # (element, the other one of a pair in joins or None) -> whether it passes
    query: Query = ANYTHING  # Finds every element that passes
    cost: int = 0  # Filters of lower cost are tested first
    opposite: Query = ANYTHING  # Finds every element that does not pass


EVERYTHING = Filter(lambda left, right: True)


def all_of(filters: Sequence[Filter]) -> Filter:
    """Pass what passes all; cheap ones first."""
    ordered = sorted(filters, key=lambda f: f.cost)
    query = reduce(Query.both, (f.query for f in ordered), ANYTHING)
    tests, cost = [f.test for f in ordered], max((f.cost for f in ordered), default=0)
    if len(tests) == 1:
        return Filter(tests[0], query, cost)

    def test(left: Value, right: Value) -> bool:
        for passes in tests:  # noqa: SIM110 - thousands of elements per request: a generator costs as much as a test
            if not passes(left, right):
                return False
        return True

    return Filter(test, query, cost)


def any_of(filters: Sequence[Filter]) -> Filter:
    """Pass what passes one."""
    ordered = sorted(filters, key=lambda f: f.cost)
    query = reduce(Query.either, (f.query for f in ordered)) if ordered else ANYTHING
    cost = max((f.cost for f in ordered), default=0)
    return Filter(lambda left, right: any(f.test(left, right) for f in ordered), query, cost)


def inverted(filter: Filter) -> Filter:
    """Pass what does not pass."""
    return Filter(lambda left, right: not filter.test(left, right), filter.opposite, filter.cost, filter.query)


def field_of(element: Value, name: str) -> Value:
    """Field of an element; of a plain value ``item`` is the value itself."""
    if hasattr(element, "properties"):
        return property_of(element, name)
    if isinstance(element, dict):
        return element.get(name)
    return element if name == ITEM else None


def _plain(value: Value) -> Value:
    return value.ms if isinstance(value, Date) else value


@dataclass(frozen=True)
class Sides:
    """Both sides of a comparison: each is a field or a value."""

    left_field: str | None
    right_value: Value
    right_field: str | None
    left_value: Value

    @classmethod
    def of(cls, name: str, sides: tuple[Value, Value, Value, Value]) -> Sides:
        """Sides as the signature has them: leftField, rightValue, rightField, leftValue."""
        left_field, right_value, right_field, left_value = sides
        if (left_field is None) == (left_value is None) or (right_field is None) == (right_value is None):
            raise EmulatorError(f"Filter.{name}: Exactly one of field and value must be specified on each side.")
        return cls(left_field, _plain(right_value), right_field, _plain(left_value))

    def left(self, element: Value) -> Value:
        """Left side."""
        return self.left_value if self.left_field is None else _plain(field_of(element, self.left_field))

    def right(self, element: Value, other: Value) -> Value:
        """Right side; its field is of the second element of a join, and of the only one elsewhere."""
        if self.right_field is None:
            return self.right_value
        return _plain(field_of(element if other is None else other, self.right_field))


# ---------------------------------------------------------------- comparisons


def _ordered(left: Value, right: Value) -> bool:
    """Whether two values have an order: numbers among themselves, texts among themselves."""
    return (is_number(left) and is_number(right)) or (isinstance(left, str) and isinstance(right, str))


def _hold(left: Value, right: Value) -> bool:
    return isinstance(right, list) and any(same(left, item) for item in right)


_COMPARISONS: dict[str, Callable[[Value, Value], bool]] = {
    "equals": same,
    "notEquals": lambda left, right: not same(left, right),
    "lessThan": lambda left, right: _ordered(left, right) and left < right,
    "lessThanOrEquals": lambda left, right: _ordered(left, right) and left <= right,
    "greaterThan": lambda left, right: _ordered(left, right) and left > right,
    "greaterThanOrEquals": lambda left, right: _ordered(left, right) and left >= right,
    "stringContains": lambda left, right: isinstance(left, str) and str(right) in left,
    "stringStartsWith": lambda left, right: isinstance(left, str) and left.startswith(str(right)),
    "stringEndsWith": lambda left, right: isinstance(left, str) and left.endswith(str(right)),
    "inList": _hold,
    "listContains": lambda left, right: _hold(right, left),
    "hasType": lambda left, right: type_name(left) == right,
}
_SHORT = {"equals": "eq", "notEquals": "neq"}
_SHORT |= {"lessThan": "lt", "lessThanOrEquals": "lte", "greaterThan": "gt", "greaterThanOrEquals": "gte"}


def _findable(name: str, sides: Sides) -> tuple[Query, Query]:
    """Return queries for what passes a comparison with a fixed value, and for what does not."""
    value, field_name = sides.right_value, sides.left_field
    if field_name is not None and field_name != TIME:
        if name == "equals" and isinstance(value, str):
            return Query(equal={field_name: value}), ANYTHING
        if name in {"lessThan", "lessThanOrEquals"} and is_number(value):
            return Query(below={field_name: value}), ANYTHING
    if field_name != TIME or not is_number(value):
        return ANYTHING, ANYTHING
    until, since = Query(end_ms=int(value) + 1), Query(start_ms=int(value))
    if name == "equals":
        return since.both(until), ANYTHING
    return {"less": (until, since), "greater": (since, until)}.get(name.partition("Than")[0], (ANYTHING, ANYTHING))


def _paired(sides: Sides, holds: Callable[[Value, Value], bool], query: Query) -> Filter:
    """Pass if a condition is true of both sides, neither of which is null."""

    def test(left: Value, right: Value) -> bool:
        a, b = sides.left(left), sides.right(left, right)
        return a is not None and b is not None and holds(a, b)

    return Filter(test, query)


def compare(name: str, sides: Sides) -> Filter:
    """Filter that compares; null passes nothing but the negation of a filter."""
    query, opposite = _findable(name, sides)
    return replace(_paired(sides, _COMPARISONS[name], query), opposite=opposite)


SIDES = ("leftField", "rightValue", "rightField", "leftValue")


def _enter(name: str, make: Callable[..., Filter], *, geometric: bool = False) -> None:
    """Enter a filter that a function makes of its sides, which may be geometries, and of further arguments."""
    own = tuple(inspect.signature(make).parameters)[1:]

    def apply(context: Context, **given: Value) -> Filter:
        for side in ("rightValue", "leftValue") if geometric else ():
            given[side] = None if given[side] is None else context.promote(given[side], "Geometry")
        left_field, right_value, right_field, left_value = (given[side] for side in SIDES)
        sides = Sides.of(name, (left_field, right_value, right_field, left_value))
        return make(sides, **{key: given[key] for key in own})

    takes = {argument: argument for argument in (*SIDES, *own)}
    for called in (name, *([_SHORT[name]] if name in _SHORT else [])):
        enter(Implementation(f"Filter.{called}", apply, takes, wants_context=True))


for _name in _COMPARISONS:
    _enter(_name, partial(compare, _name))

# ---------------------------------------------------------------- geometry


def _shape(value: Value) -> Geometry | None:
    if value is None or isinstance(value, Geometry):
        return value
    found = getattr(value, "union_geometry", None)
    return None if found is None else found()


def _near(name: str, sides: Sides) -> Query:
    shape = _shape(sides.right_value)
    if sides.left_field not in {GEOMETRY, ".all"} or shape is None or name == "disjoint":
        return ANYTHING
    return ANYTHING if shape.unbounded else Query(bounds=shape.lonlat)


def _related(name: str, predicate: str, sides: Sides) -> Filter:
    known: dict[int, tuple[Geometry, bool]] = {}

    def test(left: Value, right: Value) -> bool:
        a, b = _shape(sides.left(left)), _shape(sides.right(left, right))
        if a is None or b is None:
            return False
        # Scenes share footprints. The geometry is stored too, so that its id is not reused.
        found = known.get(id(a.shape)) if sides.right_field is None else None
        if found is None:
            found = known[id(a.shape)] = a, relate(predicate, a, b)
        return found[1]

    return Filter(test, _near(name, sides), 2)


def _within_distance(sides: Sides, distance: float) -> Filter:
    def test(left: Value, right: Value) -> bool:
        a, b = _shape(sides.left(left)), _shape(sides.right(left, right))
        return a is not None and b is not None and distance_m(a, b) <= distance

    query = _near("withinDistance", sides)
    if query.bounds is not None:
        lat = min(abs(middle_of(query.bounds)[1]), 85.0)
        reach = distance / 111_000 / max(0.08, 1 - (lat / 90) ** 2)
        query = replace(query, bounds=query.bounds.buffer(reach))
    return Filter(test, query, 3)


for _name, _predicate in {
    "contains": "contains",
    "isContained": "containedIn",
    "intersects": "intersects",
    "disjoint": "disjoint",
}.items():
    _enter(_name, partial(_related, _name, _predicate), geometric=True)
_enter("withinDistance", _within_distance, geometric=True)


@function("Filter.area")
def _area(min: float, max: float, geometrySelector: str | None) -> Filter:
    def test(left: Value, right: Value) -> bool:
        shape = _shape(field_of(left, geometrySelector or GEOMETRY))
        return shape is not None and min <= area_m2(shape) <= max

    return Filter(test, cost=2)


def _has_geometry(element: Value, _: Value) -> bool:
    shape = _shape(field_of(element, GEOMETRY))
    return shape is not None and not shape.shape.is_empty


# ---------------------------------------------------------------- dates


def _date_range_contains(sides: Sides) -> Filter:
    """Pass if a range contains a date: the start counts, the end does not."""

    def holds(window: Value, when: Value) -> bool:
        return isinstance(window, DateRange) and is_number(when) and window.holds(when)

    fixed = sides.left_value
    known = isinstance(fixed, DateRange) and sides.right_field == TIME
    return _paired(sides, holds, Query(start_ms=fixed.start_ms, end_ms=fixed.end_ms) if known else ANYTHING)


_enter("dateRangeContains", _date_range_contains)

_CALENDAR: dict[str, Callable[[datetime], int]] = {
    "year": lambda when: when.year,
    "month": lambda when: when.month,
    "hour": lambda when: when.hour,
    "minute": lambda when: when.minute,
    "day_of_year": lambda when: when.timetuple().tm_yday,
    "day_of_month": lambda when: when.day,
    "day_of_week": datetime.isoweekday,  # Monday is 1
}


@function("Filter.calendarRange")
def _calendar_range(start: int, end: int | None, field: str) -> Filter:
    """Pass what starts in a range of a calendar field, both ends included; the range may pass the end of the cycle."""
    if field not in _CALENDAR:
        raise EmulatorError(f"Filter.calendarRange: Unknown field '{field}'. Expected one of {', '.join(_CALENDAR)}.")
    last = start if end is None else end

    def test(left: Value, right: Value) -> bool:
        ms = _plain(field_of(left, TIME))
        if not is_number(ms):
            return False
        value = _CALENDAR[field](moment(int(ms)))
        return start <= value <= last if start <= last or field == "year" else value >= start or value <= last

    return Filter(test, _years(start, last) if field == "year" else ANYTHING)


def _years(first: int, last: int) -> Query:
    if not 1 <= first <= last < 9999:
        return ANYTHING
    start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1000 for year in (first, last + 1))
    return Query(start_ms=start, end_ms=end)


# ---------------------------------------------------------------- the rest


def _max_difference(sides: Sides, difference: float) -> Filter:
    def holds(a: Value, b: Value) -> bool:
        return is_number(a) and is_number(b) and abs(a - b) <= difference

    if sides.left_field != TIME or not is_number(sides.right_value):
        return _paired(sides, holds, ANYTHING)
    ms = sides.right_value
    return _paired(sides, holds, Query(start_ms=int(ms - difference), end_ms=int(ms + difference) + 1))


_enter("maxDifference", _max_difference)


@function("Filter.rangeContains")
def _range_contains(field: str, minValue: Value, maxValue: Value) -> Filter:
    low, high = _plain(minValue), _plain(maxValue)

    def test(left: Value, right: Value) -> bool:
        value = _plain(field_of(left, field))
        return _ordered(value, low) and _ordered(value, high) and low <= value <= high

    timed = field == TIME and is_number(low) and is_number(high)
    return Filter(test, Query(start_ms=int(low), end_ms=int(high) + 1) if timed else ANYTHING)


functions(
    "Filter",
    {
        "hasGeometry": lambda: Filter(_has_geometry),
        "notNull": lambda properties: Filter(
            lambda element, _: all(field_of(element, p) is not None for p in properties)
        ),
        "always": lambda: EVERYTHING,
        "never": lambda: inverted(EVERYTHING),
        "and": lambda filters: all_of(filters),
        "or": lambda filters: any_of(filters),
        "not": lambda filter: inverted(filter),
        "dayOfYear": lambda start, end: _calendar_range(start, end, "day_of_year"),
    },
)
promotion("Filter")(only(Filter))
