"""Values of Earth Engine that Python has no type for, and the promotion of values to declared types."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import MAX_BYTES, EmulatorError, memory_exceeded
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, encode, named, only, promotion
from mmearth_data.emulator.server.work import ELEMENT_BYTES, LIST_BYTES, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from mmearth_data.emulator.graph.registry import Value


NUMBERS = frozenset({int, float, bool})


@named("Date")
@dataclass(frozen=True, slots=True, order=True)
class Date:
    """A moment: UTC milliseconds since 1970."""

    ms: int


@named("DateRange")
@dataclass(frozen=True, slots=True)
class DateRange:
    """[start, end) in UTC milliseconds; None is open."""

    start_ms: int | None
    end_ms: int | None

    def holds(self, ms: float) -> bool:
        """Whether it contains a moment."""
        return (self.start_ms is None or ms >= self.start_ms) and (self.end_ms is None or ms < self.end_ms)

    @property
    def empty(self) -> bool:
        """Whether it contains no moment."""
        return self.start_ms is not None and self.end_ms is not None and self.end_ms <= self.start_ms

    def within(self, other: DateRange) -> DateRange:
        """Time in both ranges."""
        starts = [ms for ms in (self.start_ms, other.start_ms) if ms is not None]
        ends = [ms for ms in (self.end_ms, other.end_ms) if ms is not None]
        return DateRange(max(starts, default=None), min(ends, default=None))

    def around(self, other: DateRange) -> DateRange:
        """Shortest range that contains both."""
        starts, ends = (self.start_ms, other.start_ms), (self.end_ms, other.end_ms)
        first = None if None in starts else min(ms for ms in starts if ms is not None)
        last = None if None in ends else max(ms for ms in ends if ms is not None)
        return DateRange(first, last)


@named("ErrorMargin")
@dataclass(frozen=True, slots=True)
class ErrorMargin:
    """How far a geometry may be off; in metres, in units of a projection, or infinite."""

    value: float
    unit: str = "meters"


def is_number(value: Value) -> bool:
    """Whether a value counts as a number."""
    return isinstance(value, (int, float))


DATE_TEXT = re.compile(
    r"(?P<year>\d{4})(?:-(?P<ordinal>\d{3})|-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2}))?)?"
    r"(?:T(?P<hour>\d{1,2})(?::(?P<minute>\d{1,2})(?::(?P<second>\d{1,2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?P<offset>Z|[+-]\d{2}(?::?\d{2})?)?)?"
)
"""A date whose parts after the year are optional, with an optional time. Earth Engine's reference of ``Date`` shows
``1996-01-01``, ``1996-001`` and ``1996-01-01T08:00``, that of ``ImageCollection.filterDate`` ``2017-6-24T00:14:46``;
`2018-01` is used by public clients."""


def parse_date(text: str, zone: tzinfo = UTC) -> int:
    """UTC milliseconds of a date string; without an offset, it is interpreted in the given zone."""
    found = DATE_TEXT.fullmatch(text.strip())
    moment = None if found is None else _moment(found, zone)
    if found is None or moment is None:
        raise EmulatorError(f"Date: Bad date/time '{text}'.")
    return round(moment.timestamp()) * 1000 + int((found["fraction"] or "0").ljust(3, "0")[:3])


def _moment(found: re.Match[str], zone: tzinfo) -> datetime | None:
    """Date and time, to the second, from the parts of a string; None if the calendar has no such time."""
    year, month, day = (int(found[name] or 1) for name in ("year", "month", "day"))
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_offset(found["offset"]) or zone)
        moment += timedelta(days=int(found["ordinal"] or 1) - 1)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year == year else None


def _offset(text: str | None) -> tzinfo | None:
    """Time zone of an offset such as ``+02:00`` or ``Z``; None if there is no offset."""
    if text is None or text == "Z":
        return None if text is None else UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    ahead = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-ahead if text[0] == "-" else ahead)


def _of_number(convert: Callable[[float], Value]) -> Callable[[Value], Value]:
    return lambda value: convert(value) if is_number(value) else NOT_PROMOTED


def _whole(value: float) -> Value:
    return int(value) if math.isfinite(value) and value == int(value) else NOT_PROMOTED


promotion("Number")(_of_number(lambda value: int(value) if isinstance(value, bool) else value))
promotion("Integer", "Long", "Short", "Byte")(_of_number(_whole))
promotion("Float", "Double")(_of_number(float))
promotion("Boolean")(_of_number(bool))
promotion("String")(only(str))
promotion("List")(lambda value: list(value) if isinstance(value, (list, tuple)) else NOT_PROMOTED)
promotion("Dictionary")(only(dict))
promotion("Object", "<any>")(lambda value: value)
promotion("Algorithm")(lambda value: value if callable(value) else NOT_PROMOTED)


@promotion("Date")
def _to_date(value: Value) -> Value:
    if isinstance(value, Date):
        return value
    if isinstance(value, str):
        return Date(parse_date(value))
    return Date(int(value)) if is_number(value) else NOT_PROMOTED


@promotion("DateRange")
def _to_date_range(value: Value) -> Value:
    if isinstance(value, DateRange):
        return value
    date = _to_date(value)
    return NOT_PROMOTED if date is NOT_PROMOTED else DateRange(date.ms, date.ms + 1)


@promotion("ErrorMargin")
def _to_error_margin(value: Value) -> Value:
    if isinstance(value, ErrorMargin):
        return value
    if isinstance(value, dict) and value.get("type") == "ErrorMargin":
        return ErrorMargin(float(value.get("value", 0)), value.get("unit", "meters"))
    return ErrorMargin(float(value)) if is_number(value) else NOT_PROMOTED


@dataclass(frozen=True, slots=True)
class Selection:
    """A function that only selects bands of its argument: properties and footprint stay."""

    select: Callable[..., Value]

    def __call__(self, *arguments: Value) -> Value:
        """Select."""
        return self.select(*arguments)


def answered(value: Value) -> Value:
    """Encode the answer of a request unless it is too large: lists may contain the same list many times."""
    if _size(value, {}) > MAX_BYTES:
        raise memory_exceeded()
    return encode(value)


def _size(value: Value, known: dict[int, int]) -> int:
    """Approximate size of a value as JSON in bytes; values met before are not measured again."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, (list, tuple, dict)):
        return ELEMENT_BYTES
    if id(value) not in known:
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = LIST_BYTES + sum(
            ELEMENT_BYTES if type(item) in NUMBERS else _size(item, known) for item in items
        )
    return known[id(value)]


@encode.register(bool)
@encode.register(type(None))
@encode.register(int)
def _(value: bool | int | None) -> Value:
    return value


@encode.register(str)
def _(value: str) -> Value:
    written(len(value))
    return value


@encode.register(float)
def _(value: float) -> Value:
    if math.isfinite(value):
        return int(value) if value == int(value) and abs(value) < 2**53 else value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@encode.register(list)
@encode.register(tuple)
def _(value: list[Value]) -> Value:
    written(LIST_BYTES + ELEMENT_BYTES * len(value))
    return [item if type(item) is int else encode(item) for item in value]


@encode.register(dict)
def _(value: dict) -> Value:  # type: ignore[type-arg]
    written(LIST_BYTES + ELEMENT_BYTES * len(value))
    return {str(key): encode(item) for key, item in value.items()}


encode.register(Date)(lambda value: {"type": "Date", "value": value.ms})
encode.register(DateRange)(lambda value: {"type": "DateRange", "dates": [value.start_ms, value.end_ms]})
encode.register(ErrorMargin)(lambda value: {"type": "ErrorMargin", "value": value.value, "unit": value.unit})
