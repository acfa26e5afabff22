"""Comparisons with published results as tables: in a terminal, and in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from mmearth_data import FittedTable, Paragraphs, TableColumn, wrapped_path
from mmearth_model.formatting import shown

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from mmearth_model.published.comparing import Beside, Comparison, Line

ENCODER = 34
"""Maximum width of the column of encoders."""


@dataclass(frozen=True, slots=True)
class RenderedBeside:
    """Comparisons that rich can print in the width of the console."""

    beside: Beside

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sources: dict[str, int] = {}
        for comparison in self.beside.comparisons:
            yield Text()
            yield Paragraphs([comparison.heading], style="bold")
            yield _table(comparison, sources)
        yield Text()
        yield Paragraphs([*(f"[{number}] {source}" for source, number in sources.items()), *self.beside.notes()])


def render_beside(beside: Beside) -> RenderedBeside:
    """Tables of comparisons for a terminal: one per task, metric and protocol, with numbered sources."""
    return RenderedBeside(beside)


def _table(comparison: Comparison, sources: dict[str, int]) -> FittedTable:
    table = FittedTable(
        [
            TableColumn("encoder", wrap=True),
            TableColumn(comparison.unit, right=True),
            TableColumn("95 % interval", right=True),
            TableColumn("from"),
        ]
    )
    for line in comparison.lines:
        mark = (
            f"[{sources.setdefault(line.source, len(sources) + 1)}] {line.date}".rstrip() if line.source else line.kind
        )
        name = line.encoder if line.source else wrapped_path(line.encoder, ENCODER)
        table.add(name, shown(comparison.metric, line.value), interval_of(comparison.metric, line), mark)
    return table


def interval_of(metric: str, line: Line) -> str:
    """Interval of a result; empty if there is none."""
    if line.low is None or line.high is None:
        return ""
    return f"{shown(metric, line.low)} to {shown(metric, line.high)}"


def cells_of(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of a comparison, as text."""
    columns = ("encoder", comparison.unit, "95 % interval", "from", "source", "date")
    rows: list[tuple[str, ...]] = [
        (
            line.encoder,
            shown(comparison.metric, line.value),
            interval_of(comparison.metric, line),
            line.kind,
            line.source,
            line.date,
        )
        for line in comparison.lines
    ]
    return columns, rows
