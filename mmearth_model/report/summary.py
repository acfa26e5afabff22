"""Summary of a report for a terminal: plain tables without borders that fit 80 columns."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mmearth_model.formatting import PERCENT, shown
from mmearth_model.published import render_beside
from mmearth_model.report.log import TOTAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from mmearth_model.report.gather import Report
    from mmearth_model.report.results import Difference, Entry, ResultSet
    from mmearth_model.report.runs import RunRecord

NOTHING = "-"
WIDTH = 80
NAME = 23
"""Columns of a run's or an encoder's name."""
RUNS_PER_TABLE = 6
FIELD_VALUE = 14


def render_report(report: Report) -> Group:
    """Render a report: print it with `rich.console.Console.print`."""
    return Group(*itertools.chain(_head(report), _runs(report.runs), _differences(report), _results(report.results)))


def clean(text: str, most: int = 0) -> str:
    """Text without control characters; if it is longer than ``most``, only its end is kept."""
    plain = "".join(one if one.isprintable() else "?" for one in text)
    return plain if not most or len(plain) <= most else f"...{plain[3 - most :]}"


def _head(report: Report) -> Iterator[RenderableType]:
    counts = ((len(report.runs), "run", "runs"), (len(report.results), "set of results", "sets of results"))
    title = Text(", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n), style="bold")
    yield (
        title.append("  synthetic tiles: results do not apply to the real Earth", "yellow")
        if report.synthetic
        else title
    )


def _table(*columns: str, left: int = 1) -> Table:
    """Plain table: a rule below the heads, numbers to the right; the first ``left`` columns are text."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return table


def _titled(title: str, body: RenderableType) -> Group:
    return Group(Text(), Text(clean(title), style="bold"), body)


# ---------------------------------------------------------------- runs


def _runs(runs: Sequence[RunRecord]) -> Iterator[RenderableType]:
    if not runs:
        return
    table = _table("", "run", "state", "images/s", "waiting", TOTAL, left=3)
    for number, run in enumerate(runs, start=1):
        speed, waiting, loss = (run.last(name) for name in ("images_per_s", "waiting", TOTAL))
        cells = (_number(speed, ".1f"), NOTHING if waiting is None else f"{100 * waiting:.0f} %", _number(loss, ".3f"))
        table.add_row(str(number), clean(run.name, NAME), run.state, *cells)
    yield _titled("Runs", table)
    for number, run in enumerate(runs, start=1):
        yield from (Text(f"{number}: {clean(note)}.", style="yellow") for note in run.notes)
    if len(runs) == 1:
        yield from _one_run(runs[0])
        return
    for some in _some(list(enumerate(runs, start=1)), RUNS_PER_TABLE):
        yield from _losses(some)
        yield from _weights(some)


def _some(runs: Sequence[tuple[int, RunRecord]], most: int) -> Iterator[Sequence[tuple[int, RunRecord]]]:
    yield from (runs[first : first + most] for first in range(0, len(runs), most))


def _losses(runs: Sequence[tuple[int, RunRecord]]) -> Iterator[RenderableType]:
    known = {number: run.losses() for number, run in runs}
    tasks = dict.fromkeys(task for losses in known.values() for task in losses)
    if not tasks:
        return
    table = _table("task", *map(str, known))
    for task in tasks:
        ends = [losses[task][1] if task in losses else None for losses in known.values()]
        table.add_row(clean(task, NAME), *(_number(value, ".3f") for value in ends))
    yield _titled("Final losses", table)


def _one_run(run: RunRecord) -> Iterator[RenderableType]:
    """Losses and weights of the only run in one table."""
    weights = {} if run.log is None else run.log.weights
    table = _table("task", "first loss", "last loss", *["weight"] * bool(weights))
    for task, values in run.losses().items():
        weight = [_number(float(weights[task][-1]) if task in weights else None, ".3f")] * bool(weights)
        table.add_row(clean(task, NAME), *(_number(value, ".3f") for value in values), *weight)
    if table.rows:
        yield _titled("Tasks", table)


def _weights(runs: Sequence[tuple[int, RunRecord]]) -> Iterator[RenderableType]:
    weighted = {number: {} if run.log is None else run.log.weights for number, run in runs}
    tasks = dict.fromkeys(task for weights in weighted.values() for task in weights)
    if not tasks:
        return
    table = _table("task", *map(str, weighted))
    for task in tasks:
        last = [float(weights[task][-1]) if task in weights else None for weights in weighted.values()]
        table.add_row(clean(task, NAME), *(_number(value, ".3f") for value in last))
    yield _titled("Final loss weights", table)


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None or not math.isfinite(value) else format(value, form)


def _differences(report: Report) -> Iterator[RenderableType]:
    if len(report.runs) < 2:
        return
    found = report.differences()
    if not found:
        yield _titled("Recipes", Text("All runs have the same recipe and store."))
        return
    numbers = list(range(len(report.runs)))
    for first in range(0, len(numbers), 3):
        some = numbers[first : first + 3]
        table = _table("field", *(str(n + 1) for n in some))
        for name, values in found.items():
            table.add_row(clean(name, NAME), *(clean(values[n], FIELD_VALUE) for n in some))
        yield _titled("Recipes differ in", table)


# ---------------------------------------------------------------- results


def _results(results: Iterable[ResultSet]) -> Iterator[RenderableType]:
    for found in results:
        yield _titled(f"{found.title} ({found.name})", Text(clean(found.question)) if found.question else Text())
        for task in found.tasks:
            entries = [entry for entry in found.entries if entry.task == task]
            yield from _task(entries, found.differences)
        yield from (Text(clean(note)) for note in (*_legend(found), *found.notes))
        if found.beside is not None:
            yield render_beside(found.beside)


def _legend(found: ResultSet) -> Iterator[str]:
    if any(entry.leaky for entry in found.entries):
        yield "* leaky: the encoder was trained on these labels or on related ones."
    for baseline in dict.fromkeys(difference.baseline for difference in found.differences):
        yield f"Signed values are differences from {baseline}."


def _task(entries: Sequence[Entry], differences: Sequence[Difference]) -> Iterator[RenderableType]:
    """Render a task: one row per encoder and share of the labels, protocols as columns, as many as fit."""
    metric, protocols = entries[0].metric, list(dict.fromkeys(entry.protocol for entry in entries))
    rows = list(dict.fromkeys((entry.encoder, entry.labels) for entry in entries))
    many = len({labels for _, labels in rows}) > 1
    compared = {(d.task, d.protocol, d.labels, d.encoder): d for d in differences}
    cells = {(e.encoder, e.labels, e.protocol): _cell(e, compared) for e in entries}
    unit = f"{metric}, %" if metric in PERCENT else metric
    fit = max(1, (WIDTH - NAME) // (max(map(len, (*cells.values(), *protocols))) + 1))
    yield Text(f"{clean(entries[0].task)}: {unit} and its 95 % interval")
    for first in range(0, len(protocols), fit):
        some = protocols[first : first + fit]
        table = _table("encoder", *some)
        for encoder, labels in rows:
            ending = f", {labels}" if many else ""
            name = clean(encoder, NAME - len(ending)) + ending
            table.add_row(name, *(cells.get((encoder, labels, protocol), NOTHING) for protocol in some))
        yield Group(table, Text())


def _cell(entry: Entry, compared: Mapping[tuple[str, str, str, str], Difference]) -> str:
    low, high = (shown(entry.metric, value) for value in (entry.low, entry.high))
    leaky = "*" if entry.leaky else ""
    return f"{shown(entry.metric, entry.mean)} ({low}, {high}){leaky}{_against(entry, compared)}"


def _against(entry: Entry, compared: Mapping[tuple[str, str, str, str], Difference]) -> str:
    found = compared.get((entry.task, entry.protocol, entry.labels, entry.encoder))
    return "" if found is None else f" {'' if found.value < 0 else '+'}{shown(entry.metric, found.value)}"
