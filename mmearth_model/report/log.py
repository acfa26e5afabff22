"""The log of a run as columns of numbers, thinned to the resolution of a screen."""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data import FileInputError
from mmearth_model.report.files import read_text
from mmearth_model.training.layout import WEIGHT_PREFIX
from mmearth_model.training.log import REQUIRED, is_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Column = NDArray[np.float64]

TOTAL = "loss"
SETTINGS = frozenset({"epoch", "step", "lr", TOTAL, "images_per_s", "waiting"})
"""Columns that are neither the loss nor the weight of a task."""


@dataclass(frozen=True, slots=True)
class LogTable:
    """Rows of a run's log.

    Attributes
    ----------
    columns
        Name -> (R,) values in ascending order of ``step``; NaN where the log has none.
    notes
        Anything unusual about it, one sentence each.
    """

    columns: Mapping[str, Column]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["step"])

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that have a loss."""
        return tuple(n for n in self.columns if n not in SETTINGS and not n.startswith(WEIGHT_PREFIX))

    @property
    def weights(self) -> dict[str, Column]:
        """Task -> weight of its loss; empty where losses are not weighted."""
        found = {n.removeprefix(WEIGHT_PREFIX): v for n, v in self.columns.items() if n.startswith(WEIGHT_PREFIX)}
        return {name: values for name, values in found.items() if np.isfinite(values).any()}

    def thinned(self, rows: int) -> LogTable:
        """Means of consecutive rows, at most ``rows`` of them; ``epoch`` and ``step`` are those of the last one."""
        if len(self) <= rows:
            return self
        ends = np.linspace(0, len(self), rows + 1).round().astype(int)
        parts = list(itertools.pairwise(ends))
        last = {"epoch", "step"}
        columns = {
            name: np.array([values[b - 1] if name in last else _mean(values[a:b]) for a, b in parts])
            for name, values in self.columns.items()
        }
        return LogTable(columns, self.notes)


def _mean(values: Column) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def read_log_table(path: Path) -> LogTable:
    """Read a run's ``log.csv``.

    The last line is ignored if it is incomplete, because a run may be writing it or may have been killed while doing so;
    any other damage raises an error.

    Raises
    ------
    FileInputError
        When the file cannot be read, or is not a log, with the line.
    """
    lines = read_text(path, "the log of a run").splitlines(keepends=True)
    notes = []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        notes.append("the last line of its log is incomplete and is ignored")
    if not lines:
        return LogTable({name: np.empty(0) for name in REQUIRED}, tuple(notes))
    head, *rows = csv.reader(lines)
    missing = [name for name in REQUIRED if name not in head]
    if missing or len(set(head)) < len(head):
        raise FileInputError(
            path, f"expected the log of a run, with {', '.join(REQUIRED)} and the tasks as columns, got {','.join(head)[:60]!r}; restore it.", 1
        )  # fmt: skip
    values = np.array(list(_numbers(path, head, rows)), dtype=np.float64).reshape(len(rows), len(head))
    columns = {name: values[:, place] for place, name in enumerate(head)}
    back = np.flatnonzero(~(np.diff(columns["step"]) > 0))
    if len(back):
        raise FileInputError(path, "expected steps in ascending order, got one that is not; restore the file.", int(back[0]) + 3)  # fmt: skip
    return LogTable(columns, (*notes, *_not_finite(columns, head, rows)))


def _numbers(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[list[float]]:
    """Numbers of each row; an empty cell is NaN."""
    for line, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise FileInputError(
                path, f"expected {len(head)} values, got {len(row)}: the line is damaged; remove it.", line
            )
        try:
            yield [float(cell) if cell else np.nan for cell in row]
        except ValueError:
            wrong = next(cell for cell in row if cell and not is_number(cell))
            raise FileInputError(path, f"expected numbers, got {wrong[:40]!r}; remove the line.", line) from None


def _not_finite(columns: Mapping[str, Column], head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Name the losses that were logged as NaN or infinite; an empty cell only means that no tile had the target."""
    found = []
    for place, name in enumerate(head):
        bad = [
            int(columns["step"][i]) for i, row in enumerate(rows) if row[place] and not np.isfinite(columns[name][i])
        ]
        if bad:
            found.append(f"{name} is not a finite number in {len(bad)} of {len(rows)} rows, first at step {bad[0]}")
    return found
