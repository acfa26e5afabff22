"""Dates of the locations of a table."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

DATE_FORMS = "2020-05-31 or 2020-05-31T10:30:00Z"
"""Examples for messages."""


def day_ms(value: object) -> int | None:
    """Start of the UTC day of a date or time, milliseconds since 1970; None if it is neither.

    Text is ISO 8601 with a day: a year or a month is not enough, and in other formats the order of day and month is
    ambiguous. Times with a time zone are converted to UTC; those without one are UTC. Numbers are days such as
    20200531.

    Examples
    --------
    >>> day_ms("2020-05-31"), day_ms("2020-05-31T23:30:00-05:00"), day_ms("31.05.2020"), day_ms("2020")
    (1590883200000, 1590969600000, None, None)
    """
    whole = isinstance(value, float) and value.is_integer()
    text = f"{value:.0f}" if whole else str(value).strip()
    try:
        moment = datetime.fromisoformat(text)
        day = (moment if moment.tzinfo is None else moment.astimezone(UTC)).date()
    except (ValueError, OverflowError):
        return None
    return int(np.datetime64(day, "ms").astype(np.int64))
