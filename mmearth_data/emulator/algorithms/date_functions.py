"""``Date*`` and ``DateRange*``. Time zones are those of the IANA; patterns are Joda-Time's."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import function, functions
from mmearth_data.emulator.graph.values import Date, DateRange, parse_date

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from mmearth_data.emulator.graph.registry import Context, Value

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
YEAR_MS = 365.2425 * DAY
UNIT_MS = {
    "second": SECOND,
    "minute": MINUTE,
    "hour": HOUR,
    "day": DAY,
    "week": 7 * DAY,
    "month": YEAR_MS / 12,
    "year": YEAR_MS,
}
"""Mean length of a unit."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _unit(name: str, unit: str) -> str:
    found = unit.lower().removesuffix("s")
    if found not in UNIT_MS:
        raise EmulatorError(f"{name}: Unknown unit '{unit}'. Expected one of {', '.join(UNIT_MS)}.")
    return found


def _zone(name: str | None) -> tzinfo:
    if name is None or name in {"UTC", "GMT", "Z"}:
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise EmulatorError(f"Date: Unknown time zone '{name}'.") from None


def moment(ms: int, zone: str | None = None) -> datetime:
    """Date and time of UTC milliseconds."""
    try:
        return (EPOCH + timedelta(milliseconds=ms)).astimezone(_zone(zone))
    except OverflowError:
        raise EmulatorError(f"Date: {ms} is out of range.") from None


def _ms(when: datetime) -> int:
    return (when - EPOCH) // timedelta(milliseconds=1)


def _add_months(when: datetime, months: int) -> datetime:
    """Move by months; the day stays, or becomes the last of a shorter month."""
    year, month = divmod(when.year * 12 + when.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return when.replace(year=year, month=month + 1, day=min(when.day, last))


def _floor(when: datetime, unit: str) -> datetime:
    """Start of the unit that contains a moment; weeks start on Mondays."""
    if unit == "week":
        when -= timedelta(days=when.weekday())
    names = ("microsecond", "second", "minute", "hour", "day", "month")
    level = {"second": 1, "minute": 2, "hour": 3, "day": 4, "week": 4, "month": 5, "year": 6}[unit]
    fields: dict[str, Any] = {name: int(name in {"day", "month"}) for name in names[:level]}
    return when.replace(**fields)


def _step(when: datetime, unit: str, count: int) -> datetime:
    if unit in {"month", "year"}:
        return _add_months(when, count * (12 if unit == "year" else 1))
    if unit in {"day", "week"}:  # a day is a day of the calendar, also where clocks change
        return when + timedelta(days=count * (7 if unit == "week" else 1))
    return (when.astimezone(UTC) + timedelta(milliseconds=count * UNIT_MS[unit])).astimezone(when.tzinfo)


@function("Date")
def _make(value: Value, timeZone: str | None) -> Date:
    if isinstance(value, Date):
        return value
    if isinstance(value, str):
        return Date(parse_date(value, _zone(timeZone)))
    if isinstance(value, (int, float)):
        return Date(int(value))
    raise EmulatorError("Date: Expected a date, a number of milliseconds, or a text in ISO 8601.")


@function("Date.fromYMD")
def _from_ymd(year: int, month: int, day: int, timeZone: str | None) -> Date:
    try:
        return Date(_ms(datetime(year, month, day, tzinfo=_zone(timeZone))))
    except ValueError as error:
        raise EmulatorError(f"Date.fromYMD: {error}.") from None


@function("Date.advance")
def _advance(date: Date, delta: float, unit: str, timeZone: str | None) -> Date:
    chosen, whole = _unit("Date.advance", unit), int(delta)
    moved = _ms(_step(moment(date.ms, timeZone), chosen, whole))
    return Date(moved + round((delta - whole) * UNIT_MS[chosen]))


_FIELDS: dict[str, Callable[[datetime], int]] = {
    **{name: attrgetter(name) for name in ("year", "month", "day", "hour", "minute", "second")},
    "week": lambda when: when.isocalendar().week,
}


functions(
    "Date",
    {
        "millis": lambda date: date.ms,
        "difference": lambda date, start, unit: (date.ms - start.ms) / UNIT_MS[_unit("Date.difference", unit)],
        "unitRatio": lambda numerator, denominator: (
            UNIT_MS[_unit("Date.unitRatio", numerator)] / UNIT_MS[_unit("Date.unitRatio", denominator)]
        ),
        "get": lambda date, unit, timeZone: _FIELDS[_unit("Date.get", unit)](moment(date.ms, timeZone)),
    },
)


@function("Date.getRelative")
def _get_relative(date: Date, unit: str, inUnit: str, timeZone: str | None) -> int:
    """Count whole units since the start of the larger unit, from 0."""
    small, large = _unit("Date.getRelative", unit), _unit("Date.getRelative", inUnit)
    when = moment(date.ms, timeZone)
    start = _floor(when, large)
    if small in {"month", "year"}:
        return ((when.year - start.year) * 12 + when.month - start.month) // (12 if small == "year" else 1)
    return int((when.replace(tzinfo=UTC) - start.replace(tzinfo=UTC)) / timedelta(milliseconds=UNIT_MS[small]))


def _limits(date: Date, unit: str, zone: str | None) -> tuple[int, int]:
    """[start, end) of the unit that contains a date, UTC milliseconds."""
    chosen = _unit("Date.getRange", unit)
    start = _floor(moment(date.ms, zone), chosen)
    return _ms(start), _ms(_step(start, chosen, 1))


@function("Date.getFraction")
def _get_fraction(date: Date, unit: str, timeZone: str | None) -> float:
    start, end = _limits(date, unit, timeZone)
    return (date.ms - start) / (end - start)


functions("Date", {"getRange": lambda date, unit, timeZone: DateRange(*_limits(date, unit, timeZone))})


@function("Date.update")
def _update(
    date: Date,
    year: int | None,
    month: int | None,
    day: int | None,
    hour: int | None,
    minute: int | None,
    second: float | None,
    timeZone: str | None,
) -> Date:
    given = {"year": year, "month": month, "day": day, "hour": hour, "minute": minute}
    if second is not None:
        given |= {"second": int(second), "microsecond": round((second - int(second)) * 1e6)}
    fields = {name: value for name, value in given.items() if value is not None}
    try:
        return Date(_ms(moment(date.ms, timeZone).replace(**fields)))  # type: ignore[arg-type]
    except ValueError as error:
        raise EmulatorError(f"Date.update: {error}.") from None


# ---------------------------------------------------------------- text


def _year(year: int, letters: int) -> str:
    return f"{year % 100:02d}" if letters == 2 else f"{year:0{letters}d}"


def _offset(when: datetime, separator: str) -> str:
    """Hours and minutes ahead of UTC."""
    digits = when.strftime("%z")
    return f"{digits[:3]}{separator}{digits[3:5]}"


def _zone_name(when: datetime, letters: int) -> str:
    if letters > 3:
        raise not_emulated(f"Date.format with '{'z' * letters}', the full name of a time zone")
    return str(when.tzname())


_TEXTS: dict[str, Callable[[datetime, int], str]] = {
    "Y": lambda when, n: _year(when.year, n),
    "M": lambda when, n: f"{when.month:0{n}d}" if n < 3 else when.strftime("%b" if n == 3 else "%B"),
    "d": lambda when, n: f"{when.day:0{n}d}",
    "D": lambda when, n: f"{when.timetuple().tm_yday:0{n}d}",
    "H": lambda when, n: f"{when.hour:0{n}d}",
    "k": lambda when, n: f"{when.hour or 24:0{n}d}",
    "h": lambda when, n: f"{when.hour % 12 or 12:0{n}d}",
    "m": lambda when, n: f"{when.minute:0{n}d}",
    "s": lambda when, n: f"{when.second:0{n}d}",
    "S": lambda when, n: f"{when.microsecond:06d}".ljust(n, "0")[:n],
    "a": lambda when, n: "AM" if when.hour < 12 else "PM",
    "E": lambda when, n: when.strftime("%a" if n < 4 else "%A"),
    "e": lambda when, n: f"{when.isoweekday():0{n}d}",
    "w": lambda when, n: f"{when.isocalendar().week:0{n}d}",
    "x": lambda when, n: _year(when.isocalendar().year, n),
    "Z": lambda when, n: _offset(when, ":" if n == 2 else "") if n < 3 else str(when.tzinfo),
    "z": lambda when, n: _zone_name(when, n),
    "G": lambda when, n: "AD",
    "C": lambda when, n: f"{when.year // 100:0{n}d}",
    "K": lambda when, n: f"{when.hour % 12:0{n}d}",
}
_TOKENS = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*")


@function("Date.format")
def _format(date: Date, format: str | None, timeZone: str | None) -> str:
    """Text of a date by a pattern; without one, in ISO 8601 to the second."""
    when = moment(date.ms, timeZone)
    if format is None:
        return when.strftime("%Y-%m-%dT%H:%M:%S")

    def write(token: re.Match[str]) -> str:
        if token.group(2) is None:
            return token.group(1).replace("''", "'") or "'"
        letter = {"y": "Y"}.get(token.group(2), token.group(2))
        if letter not in _TEXTS:
            raise EmulatorError(f"Date.format: Illegal pattern component: {token.group(0)}.")
        return _TEXTS[letter](when, len(token.group(0)))

    return _TOKENS.sub(write, format)


_READERS = {"Y": "%Y", "y": "%Y", "M": "%m", "MMM": "%b", "MMMM": "%B", "d": "%d", "D": "%j", "H": "%H", "h": "%I"}
_READERS |= {"m": "%M", "s": "%S", "S": "%f", "a": "%p", "E": "%a", "Z": "%z"}


@function("Date.parse")
def _parse(format: str, date: str, timeZone: str | None) -> Date:
    def directive(token: re.Match[str]) -> str:
        if token.group(2) is None:
            return token.group(1).replace("%", "%%")
        found = _READERS.get(token.group(0), _READERS.get(token.group(2)))
        if found is None:
            raise EmulatorError(f"Date.parse: Illegal pattern component: {token.group(0)}.")
        return found

    try:
        when = datetime.strptime(date, _TOKENS.sub(directive, format))
    except ValueError:
        raise EmulatorError(f"Date.parse: Invalid format: '{date}' does not fit '{format}'.") from None
    return Date(_ms(when if when.tzinfo else when.replace(tzinfo=_zone(timeZone))))


# ---------------------------------------------------------------- ranges


@function("DateRange")
def _date_range(start: Value, end: Value, timeZone: str | None, context: Context) -> DateRange:
    first = context.call("Date", value=start, timeZone=timeZone).ms
    last = first + 1 if end is None else context.call("Date", value=end, timeZone=timeZone).ms
    return DateRange(first, last)


@function("DateRange.contains")
def _contains(dateRange: DateRange, other: Value, context: Context) -> bool:
    inner = context.promote(other, "DateRange")
    return bool(inner.empty or dateRange.within(inner) == inner)


def _date(ms: int | None) -> Date | None:
    return None if ms is None else Date(ms)


functions(
    "DateRange",
    {
        "unbounded": lambda: DateRange(None, None),
        "start": lambda dateRange: _date(dateRange.start_ms),
        "end": lambda dateRange: _date(dateRange.end_ms),
        "intersection": lambda dateRange, other: dateRange.within(other),
        "intersects": lambda dateRange, other: not dateRange.within(other).empty,
        "isEmpty": lambda dateRange: dateRange.empty,
        "isUnbounded": lambda dateRange: dateRange == DateRange(None, None),
        "union": lambda dateRange, other: dateRange.around(other),
    },
)
