"""Values of Earth Engine that Python has no type for, and what other values become where a type is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import MAX_BYTES, EmulatorError, memory_exceeded
from mmearth_data.emulator.registry import NOT_PROMOTED, encode, named, promotion
from mmearth_data.emulator.work import ELEMENT_BYTES, LIST_BYTES, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.emulator.registry import Context, Value


NUMBERS = frozenset({int, float, bool})


@named("Date")
@dataclass(frozen=True, slots=True, order=True)
class Date:
    """A moment: UTC milliseconds since 1970."""

    ms: int


@named("DateRange")
@dataclass(frozen=True, slots=True)
class DateRange:
    """[start, end) in UTC milliseconds; an end that is None is open."""

    start_ms: int | None
    end_ms: int | None

    def holds(self, ms: float) -> bool:
        """Whether a moment lies within."""
        return (self.start_ms is None or ms >= self.start_ms) and (self.end_ms is None or ms < self.end_ms)

    @property
    def empty(self) -> bool:
        """Whether nothing lies within."""
        return self.start_ms is not None and self.end_ms is not None and self.end_ms <= self.start_ms


@named("ErrorMargin")
@dataclass(frozen=True, slots=True)
class ErrorMargin:
    """How far a geometry may be off; in metres, in units of a projection, or infinite."""

    value: float
    unit: str = "meters"


def is_number(value: Value) -> bool:
    """Whether a value counts as a number."""
    return isinstance(value, (int, float))


def parse_date(text: str) -> int:
    """UTC milliseconds of an ISO 8601 text; what has no zone is UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise EmulatorError(f"Date: Bad date/time '{text}'.") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


@promotion("Number")
def to_number(value: Value, context: Context) -> Value:
    """Numbers and truth values."""
    if isinstance(value, bool):
        return int(value)
    return value if is_number(value) else NOT_PROMOTED


@promotion("Integer", "Long", "Short", "Byte")
def to_integer(value: Value, context: Context) -> Value:
    """Whole numbers."""
    if is_number(value) and math.isfinite(value) and value == int(value):
        return int(value)
    return NOT_PROMOTED


@promotion("Float", "Double")
def to_float(value: Value, context: Context) -> Value:
    """Numbers."""
    return float(value) if is_number(value) else NOT_PROMOTED


@promotion("Boolean")
def to_boolean(value: Value, context: Context) -> Value:
    """Truth values, and numbers that stand for one."""
    return bool(value) if is_number(value) else NOT_PROMOTED


@promotion("String")
def to_string(value: Value, context: Context) -> Value:
    """Text only: Earth Engine never turns a number into text by itself."""
    return value if isinstance(value, str) else NOT_PROMOTED


@promotion("List")
def to_list(value: Value, context: Context) -> Value:
    """Take lists only."""
    return list(value) if isinstance(value, (list, tuple)) else NOT_PROMOTED


@promotion("Dictionary")
def to_dictionary(value: Value, context: Context) -> Value:
    """Dictionaries."""
    return value if isinstance(value, dict) else NOT_PROMOTED


@promotion("Date")
def to_date(value: Value, context: Context) -> Value:
    """Dates, milliseconds, and ISO 8601 text."""
    if isinstance(value, Date):
        return value
    if isinstance(value, str):
        return Date(parse_date(value))
    return Date(int(value)) if is_number(value) else NOT_PROMOTED


@promotion("DateRange")
def to_date_range(value: Value, context: Context) -> Value:
    """Ranges, and a date as the millisecond that it is."""
    if isinstance(value, DateRange):
        return value
    date = to_date(value, context)
    return NOT_PROMOTED if date is NOT_PROMOTED else DateRange(date.ms, date.ms + 1)


@promotion("ErrorMargin")
def to_error_margin(value: Value, context: Context) -> Value:
    """Margins, and metres."""
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


@promotion("Object", "<any>")
def to_object(value: Value, context: Context) -> Value:
    """Anything."""
    return value


@promotion("Algorithm")
def to_algorithm(value: Value, context: Context) -> Value:
    """Functions."""
    return value if callable(value) else NOT_PROMOTED


def answered(value: Value) -> Value:
    """Encode what a request asked for, if it is not too large: lists may hold one list many times over.

    Raises
    ------
    EmulatorError
        "User memory limit exceeded."
    """
    if _size(value, {}) > MAX_BYTES:
        raise memory_exceeded()
    return encode(value)


def _size(value: Value, known: dict[int, int]) -> int:
    """Bytes that a value takes as JSON, roughly; what is met again is not looked at again."""
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


@encode.register(Date)
def _(value: Date) -> Value:
    return {"type": "Date", "value": value.ms}


@encode.register(DateRange)
def _(value: DateRange) -> Value:
    return {"type": "DateRange", "dates": [value.start_ms, value.end_ms]}


@encode.register(ErrorMargin)
def _(value: ErrorMargin) -> Value:
    return {"type": "ErrorMargin", "value": value.value, "unit": value.unit}
