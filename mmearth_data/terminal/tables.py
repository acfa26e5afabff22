"""Tables and name-value lists for terminals: they fit the width and break lines only between words."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.segment import Segment

    Cell: TypeAlias = "str | Text"
    Row: TypeAlias = "Sequence[Cell] | str | None"

GAP = 2
"""Columns between two values."""
RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
LEAST = 20
"""Minimum width of a column of text whose lines are broken."""
MIDDLE = 30
"""Minimum width that `NamedValues` leaves for values next to their names."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table.

    Attributes
    ----------
    title
        Heading of the column.
    right
        Whether its values are aligned to the right.
    wrap
        Whether its lines may be broken between words; at most one column of a table.
    rank
        Columns are omitted from a table that is too wide, highest rank first; those of rank 0 are always shown.
    """

    title: str
    right: bool = False
    wrap: bool = False
    rank: int = 0


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table without a grid, in the width of the terminal.

    Attributes
    ----------
    columns
        Its columns.
    rows
        One cell per column, which may have several lines; a string is a heading of the rows that follow; None is an
        empty line.
    """

    columns: Sequence[TableColumn]
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row."""
        self.rows.append(cells)

    def fits(self, width: int) -> bool:
        """Whether all columns of rank 0 fit when long texts are wrapped."""
        return self._least([c for c, column in enumerate(self.columns) if not column.rank]) <= width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._shown(options.max_width)
        widths = self._widths(shown, options.max_width)
        if any(self.columns[c].title for c in shown):
            heads = [Text(self.columns[c].title, style="dim") for c in shown]
            yield from self._lines(console, shown, widths, heads)
            yield from _line(console, Text(RULE * (sum(widths) + GAP * (len(widths) - 1)), style="dim"))
        for row in self.rows:
            if row is None or isinstance(row, str):
                for part in wrapped(row or "", options.max_width):
                    yield from _line(console, Text(part, style="bold"))
            else:
                yield from self._lines(console, shown, widths, [row[c] for c in shown])

    def _lines(
        self, console: Console, shown: Sequence[int], widths: Sequence[int], cells: Sequence[Cell]
    ) -> Iterable[Segment]:
        """Segments of the lines of one row."""
        parts = [_broken(console, cell, width) for cell, width in zip(cells, widths, strict=True)]
        for number in range(max(map(len, parts))):
            line = Text()
            for c, part, width in zip(shown, parts, widths, strict=True):
                text = part[number] if number < len(part) else Text()
                pad = " " * (width - text.cell_len)
                line = Text.assemble(line, *((pad, text) if self.columns[c].right else (text, pad)), " " * GAP)
            line.rstrip()
            yield from _line(console, line)

    def _shown(self, width: int) -> list[int]:
        """Positions of the columns that fit."""
        shown = list(range(len(self.columns)))
        for rank in sorted({column.rank for column in self.columns if column.rank}, reverse=True):
            if self._least(shown) <= width:
                break
            shown = [c for c in shown if self.columns[c].rank != rank]
        return shown

    def _widths(self, shown: Sequence[int], width: int) -> list[int]:
        others = [self._width(c) for c in shown if not self.columns[c].wrap]
        room = max(LEAST, width - sum(others) - GAP * len(others))
        return [min(self._width(c), room) if self.columns[c].wrap else self._width(c) for c in shown]

    def _least(self, shown: Sequence[int]) -> int:
        """Minimum width of the table with some columns."""
        widths = [min(self._width(c), LEAST) if self.columns[c].wrap else self._width(c) for c in shown]
        return sum(widths) + GAP * (len(widths) - 1)

    def _width(self, column: int) -> int:
        cells = [row[column] for row in self.rows if row is not None and not isinstance(row, str)]
        lines = [line for cell in (self.columns[column].title, *cells) for line in str(cell).split("\n")]
        return max(Text(line).cell_len for line in lines)


@dataclass(frozen=True, slots=True)
class NamedValues:
    """Names with their values, each on as many lines as it needs; words longer than a line stay whole.

    Attributes
    ----------
    pairs
        Names and values; a value may have several lines.
    style
        Style of the names.
    """

    pairs: Sequence[tuple[str, str]]
    style: str = "dim"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        longest = max((len(name) for name, _ in self.pairs), default=0)
        names = min(longest, max(0, options.max_width - GAP - MIDDLE))
        for name, value in self.pairs:
            lines = wrapped(value, options.max_width - names - GAP)
            if len(name) > names:
                yield from _line(console, Text(name, style=self.style))
                name = ""
            for number, line in enumerate(lines):
                head = (name if number == 0 else "").ljust(names + GAP)
                yield from _line(console, Text.assemble((head, self.style), line))


@dataclass(frozen=True, slots=True)
class Paragraphs:
    """Sentences, each beginning on a new line; words longer than a line stay whole.

    Attributes
    ----------
    texts
        The sentences.
    indent
        Columns by which all lines but the first of each are indented.
    style
        Style of all of them.
    """

    texts: Sequence[str]
    indent: int = 2
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text in self.texts:
            first, *rest = wrapped(text, options.max_width, self.indent)
            for line in (first, *(" " * self.indent + each for each in rest)):
                yield from _line(console, Text(line, style=self.style))


def _line(console: Console, text: Text) -> Iterable[Segment]:
    """Segments of one line, which is never cut."""
    yield from text.render(console, end="\n")


def wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """Break a text into lines between words; all lines but the first are ``indent`` shorter.

    Examples
    --------
    >>> wrapped("a word-by-word example", 14)
    ['a word-by-word', 'example']
    """
    lines: list[str] = []
    for part in text.split("\n"):
        lines += textwrap.wrap(
            part, max(1, width), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return [line[indent:] if number and indent else line for number, line in enumerate(lines)]


def wrapped_path(text: str, width: int) -> str:
    """Break a path into lines after its slashes.

    Examples
    --------
    >>> wrapped_path("results/first/step-00000060", 16).split()
    ['results/first/', 'step-00000060']
    """
    lines = [""]
    for part in text.replace("/", "/\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _broken(console: Console, cell: Cell, width: int) -> list[Text]:
    """Lines of a cell."""
    if isinstance(cell, str):
        return [Text(line) for line in wrapped(cell, width)]
    return list(cell.wrap(console, width))
