"""Read tables of published results: ``catalog/published_results.csv``, and users' own files with the same columns."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data import FileInputError, InputError, did_you_mean, read_table, resource_path
from mmearth_model.formatting import PERCENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmearth_data import Table

PUBLISHED = "published"
"""Name of the table that is part of the package."""
COLUMNS = ("task", "metric", "protocol", "encoder", "value", "ci_lower", "ci_upper", "source", "page", "date")
TEXTS = ("task", "metric", "protocol", "encoder", "source", "page")
"""Columns that must not be empty."""
METRICS = PERCENT | {"r2", "rmse"}
"""Metrics of results; those shown in per cent are between 0 and 1."""
MOST_BYTES = 10_000_000
MOST_TEXT = 300
MOST_ERRORS = 20
DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published result.

    Attributes
    ----------
    task
        Name of the task, as in ``catalog/tasks``.
    metric
        Metric, as in results of `mmearth_model.evaluate`.
    protocol
        Protocol, as in the rows of results: ``linear``, ``paper``, ``torchgeo-bench linear``, ... Results of a protocol
        that this program does not have can be listed under any other name.
    encoder
        Encoder, with the bands that it was given.
    value, ci_lower, ci_upper
        The result, and its 95 % interval if one was published; shares are between 0 and 1.
    source, page
        Publication or repository, and the page, table, or file and commit.
    date
        Year, month or day of publication; empty if it is not known.
    """

    task: str
    metric: str
    protocol: str
    encoder: str
    value: float
    ci_lower: float | None = None
    ci_upper: float | None = None
    source: str
    page: str
    date: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Fields that distinguish a result from others."""
        return (self.task, self.metric, self.protocol, self.encoder, self.source, self.page)


def read_published(table: str | Path = PUBLISHED) -> tuple[Published, ...]:
    """Read a table of published results.

    Parameters
    ----------
    table
        ``published``, the table of the catalog, or a CSV file with the columns of it (`COLUMNS`).

    Raises
    ------
    InputError
        If there is no such table, or values are invalid, with one line for each of them.
    """
    path = resource_path("catalog") / "published_results.csv" if str(table) == PUBLISHED else Path(table)
    if path.suffix.lower() != ".csv":
        raise InputError(
            f"--beside: expected {PUBLISHED} or a CSV file, got {str(table)!r}; {did_you_mean(str(table), [PUBLISHED])}"
        )
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise FileInputError(
            path, f"expected at most {MOST_BYTES // 10**6} MB, got {path.stat().st_size / 1e6:.0f} MB; split the file."
        )
    found = read_table(path).require(COLUMNS)
    if not len(found):
        raise FileInputError(path, "expected at least one result, got only the header; add rows.")
    return _checked(found)


def _checked(table: Table) -> tuple[Published, ...]:
    """Results of all rows; raises `InputError` with a line for each invalid value."""
    rows: dict[tuple[str, ...], tuple[int, Published]] = {}
    errors: list[str] = []
    for line, row in table.rows():
        problems = list(_problems(row, table.decimal))
        if not problems:
            result = _result(row, table.decimal)
            first, _ = rows.setdefault(result.key, (line, result))
            if first != line:
                problems = [f"expected each result once, got that of line {first} again; remove one."]
        errors += [f"{table.path}:{line}: {problem}" for problem in problems]
    if errors:
        more = [f"{table.path}: {len(errors) - MOST_ERRORS} more invalid values."] if len(errors) > MOST_ERRORS else []
        raise InputError("\n".join(errors[:MOST_ERRORS] + more))
    return tuple(result for _, result in rows.values())


def _result(row: Mapping[str, str], decimal: str) -> Published:
    texts: dict[str, Any] = {name: row[name].strip() for name in (*TEXTS, "date")}
    value, low, high = (_number(row[name], decimal) for name in ("value", "ci_lower", "ci_upper"))
    assert value is not None
    return Published(**texts, value=value, ci_lower=low, ci_upper=high)


def _problems(row: Mapping[str, str], decimal: str) -> Iterator[str]:
    """Describe what is wrong in a row."""
    for name in (*TEXTS, "date"):
        text = row[name].strip()
        if name in TEXTS and not text:
            yield f"{name}: expected text, got none; add it."
        elif len(text) > MOST_TEXT or not text.isprintable():
            yield f"{name}: expected up to {MOST_TEXT} printable characters, got {text[:30]!r}; shorten or correct it."
    metric = row["metric"].strip()
    if metric and metric not in METRICS:
        yield f"metric: expected {', '.join(sorted(METRICS))}, got {metric[:30]!r}; {did_you_mean(metric, METRICS)}"
    if not _is_date(row["date"].strip()):
        yield f"date: expected a year, month or day such as 2024-05, or nothing, got {row['date'][:30]!r}; correct it."
    yield from _wrong_numbers(row, metric, decimal)


def _wrong_numbers(row: Mapping[str, str], metric: str, decimal: str) -> Iterator[str]:
    """Describe cells that are not numbers or out of range, or else numbers that contradict each other."""
    low = 0.0 if metric in PERCENT or metric == "rmse" else -math.inf
    high = math.inf if metric == "rmse" else 1.0
    found: list[float | None] = []
    for name in ("value", "ci_lower", "ci_upper"):
        try:
            number = _number(row[name], decimal)
        except ValueError:
            yield f"{name}: expected a number, got {row[name][:30]!r}; correct it."
            continue
        if number is not None and metric in METRICS and not low <= number <= high:
            remedy = "divide percentages by 100" if number > high else "correct it"
            yield f"{name}: expected {metric} between {low:g} and {high:g}, got {number:g}; {remedy}."
            continue
        found.append(number)
    if len(found) == 3:
        yield from _wrong_interval(*found)


def _wrong_interval(value: float | None, low: float | None, high: float | None) -> Iterator[str]:
    if value is None:
        yield "value: expected a number, got none; add it or remove the row."
    elif (low is None) != (high is None):
        yield "ci_lower, ci_upper: expected both ends of an interval or neither, got one; add the other."
    elif low is not None and high is not None and not low <= value <= high:
        yield f"ci_lower, ci_upper: expected an interval around {value:g}, got {low:g} to {high:g}; correct it."


def _number(text: str, decimal: str) -> float | None:
    """Finite number of a cell, None if it is empty."""
    plain = text.strip()
    if not plain:
        return None
    number = float(plain.replace(",", ".") if decimal == "," else plain)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _is_date(text: str) -> bool:
    if not text:
        return True
    if not DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text + "-01-01"[: 10 - len(text)] if len(text) == 4 else (text + "-01")[:10])
    except ValueError:
        return False
    return True
