"""Results for a terminal: a row per task and encoder, a column per protocol; shared properties are shown once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from mmearth_data import FittedTable, Paragraphs, TableColumn, wrapped_path
from mmearth_model.evaluation.results import notes, speed_text
from mmearth_model.formatting import PERCENT, shown
from mmearth_model.published import render_beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from mmearth_model.evaluation.results import Difference, Evaluation, Summary
    from mmearth_model.published import Beside

DASH = "\N{EN DASH}"
ENCODER = 24
"""Maximum width of the column of encoders; longer paths are broken after their slashes."""
INTERVALS = "Means over the seeds, with 95 % intervals (bootstrap over the test samples)."
PAIRED = "Signed values are differences from {}, with paired 95 % intervals."


@dataclass(frozen=True, slots=True)
class RenderedResults:
    """Results that rich can print in the width of the console."""

    title: str
    result: Evaluation
    baseline: str | None = None
    beside: Beside | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        summaries = self.result.summaries()
        remarks = Remarks()
        compared = {} if self.baseline is None else self._differences(self.baseline)
        yield Text(self.title, style="bold", overflow="ignore")
        for task in dict.fromkeys(s.task for s in summaries):
            mine = [s for s in summaries if s.task == task]
            yield Text()
            yield Paragraphs([self._heading(task, mine)], style="bold")
            yield _task_table(mine, compared, remarks, options.max_width)
        yield Text()
        yield Paragraphs([*remarks.lines(), INTERVALS, *self._notes()])
        if self.beside is not None:
            yield render_beside(self.beside)

    def _differences(self, baseline: str) -> dict[tuple[str, str, str, str], Difference]:
        return {(d.task, d.protocol, d.labels, d.encoder): d for d in self.result.differences(baseline)}

    def _heading(self, task: str, summaries: Sequence[Summary]) -> str:
        """Task, with the properties that its rows share."""
        rows = [row for row in self.result.rows if row.task == task]
        s = summaries[0]
        facts = [f"{s.metric}, %" if s.metric in PERCENT else s.metric]
        if rows[0].guess is not None:
            facts.append(f"guessing: {shown(s.metric, rows[0].guess)}")
        fitted = list(dict.fromkeys(str(row.train_tiles) for row in rows))
        facts.append(f"fitted to {', '.join(fitted)}, tested on {s.samples}")
        for value, unit in (
            (", ".join({s.labels: None for s in summaries}), "of the training labels"),
            (_seeds(summaries), ""),
        ):
            if value and value != "100%" and "," not in value:
                facts.append(f"{value} {unit}".rstrip())
        return f"{task}: {'; '.join(facts)}"

    def _notes(self) -> Iterable[str]:
        if self.baseline is not None:
            yield PAIRED.format(self.baseline)
        for (task, encoder), bands in self.result.filled.items():
            yield (
                f"{task}: {encoder} uses bands that the task lacks; they were filled with their mean or another band: "
                f"{', '.join(bands)}."
            )
        yield from self.result.notes


@dataclass(frozen=True, slots=True)
class Remarks:
    """Remarks on single results, numbered in the order in which they occur."""

    texts: dict[str, int] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """Return the mark of a remark; "" for none."""
        return f" [{self.texts.setdefault(text, len(self.texts) + 1)}]" if text else ""

    def lines(self) -> list[str]:
        """All remarks with their marks."""
        return [f"[{number}] {text}" for text, number in self.texts.items()]


def render_results(
    title: str, result: Evaluation, baseline: str | None = None, beside: Beside | None = None
) -> RenderedResults:
    """Tables of an evaluation for a terminal.

    Parameters
    ----------
    title
        First line.
    result
        The evaluation.
    baseline
        Encoder from which differences are shown; None shows none.
    beside
        Comparisons with published results, shown below.
    """
    return RenderedResults(title, result, baseline, beside)


def _seeds(summaries: Sequence[Summary]) -> str:
    counts = {s.seeds for s in summaries}
    return f"{counts.pop()} seeds" if len(counts) == 1 and max(s.seeds for s in summaries) > 1 else ""


def _task_table(
    summaries: Sequence[Summary],
    compared: dict[tuple[str, str, str, str], Difference],
    remarks: Remarks,
    width: int,
) -> RenderableType:
    """One table with all protocols; if it is too wide, intervals below the means; then several tables."""
    protocols = list(dict.fromkeys(s.protocol for s in summaries))
    many = len({s.labels for s in summaries}) > 1
    for between, each in ((" ", len(protocols)), *(("\n", n) for n in range(len(protocols), 0, -1))):
        parts = [protocols[k : k + each] for k in range(0, len(protocols), each)]
        tables = [_table(summaries, part, many, between, compared, remarks) for part in parts]
        if all(table.fits(width) for table in tables):
            break
    return Group(*tables)


def _table(
    summaries: Sequence[Summary],
    protocols: Sequence[str],
    many: bool,
    between: str,
    compared: dict[tuple[str, str, str, str], Difference],
    remarks: Remarks,
) -> FittedTable:
    known = {(s.encoder, s.labels, s.protocol): s for s in summaries}
    labels = [TableColumn("labels")] if many else []
    timed = any(s.images_per_s is not None for s in summaries)
    speed = [TableColumn("images/s", right=True)] * timed
    table = FittedTable([TableColumn("encoder"), *labels, *(TableColumn(name) for name in protocols), *speed])
    before = ""
    for encoder, share in dict.fromkeys((s.encoder, s.labels) for s in summaries):
        found = [known.get((encoder, share, protocol)) for protocol in protocols]
        if any(found):
            cells = ["" if s is None else _cell(s, between, compared, remarks) for s in found]
            fast = [speed_text(next(s for s in found if s is not None))] * timed
            table.add("" if encoder == before else wrapped_path(encoder, ENCODER), *[share] * many, *cells, *fast)
            before = encoder
    return table


def _cell(s: Summary, between: str, compared: dict[tuple[str, str, str, str], Difference], remarks: Remarks) -> str:
    """Mean with its interval, and the difference from the baseline with its own."""
    mean = f"{shown(s.metric, s.mean)}{remarks.mark(notes(s))}"
    cell = f"{mean}{between}{_enclosed(span(s.metric, s.low, s.high), between)}"
    d = compared.get((s.task, s.protocol, s.labels, s.encoder))
    if d is None:
        return cell
    value = shown(s.metric, d.value)
    sign = "" if value.startswith("-") else "+"
    return f"{cell}\n{sign}{value}{between}{_enclosed(span(s.metric, d.low, d.high), between)}"


def _enclosed(interval: str, between: str) -> str:
    """Interval in brackets, unless it is on a line of its own."""
    return interval if between == "\n" else f"({interval})"


def span(metric: str, low: float, high: float) -> str:
    """Format an interval, with a dash unless a number is negative.

    Examples
    --------
    >>> span("r2", 0.1, 0.25), span("accuracy", -0.1, 0.25)
    ('0.100\N{EN DASH}0.250', '-10.0 to 25.0')
    """
    return f"{shown(metric, low)}{' to ' if low < 0 else DASH}{shown(metric, high)}"
