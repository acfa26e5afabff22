"""The log of a run, ``log.csv``: losses and learning rate, one row per 50 steps and per epoch; read without PyTorch."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmearth_data import FileInputError, append_text, reason_of, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

REQUIRED = ("epoch", "step", "loss")
"""Columns of every log."""
REMEDY = "restore it, or move it away to continue without the rows so far"


@dataclass(frozen=True, slots=True)
class Log:
    """A CSV table of losses, in ascending order of ``step``."""

    path: Path
    columns: tuple[str, ...]

    def rewind(self, step: int) -> None:
        """Delete rows after this step, which will be written again, and an incomplete row that a killed process left.

        Raises `FileInputError` if the file is damaged or has other columns.
        """
        rows = read_log(self.path, self.columns) if self.path.exists() else []
        kept = [row for row in rows if int(row["step"]) <= step]
        write_text(self.path, self._csv(dict(zip(self.columns, self.columns, strict=True)), *kept))

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row."""
        append_text(self.path, self._csv(row))

    def _csv(self, *rows: Mapping[str, Any]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerows(rows)
        return text.getvalue()


def read_log(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Rows of a log with these columns (None: any that include `REQUIRED`).

    The last row is omitted if its line is incomplete: the process was killed while writing it. Raises `FileInputError`
    if the file is otherwise damaged.
    """
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
        table = list(csv.reader(lines if not lines or lines[-1].endswith("\n") else lines[:-1]))
    except (OSError, ValueError, csv.Error) as error:
        raise FileInputError(path, f"expected the log of a run, got: {reason_of(error)}; {REMEDY}.") from None
    if not table:
        return []
    head, *rows = table
    if head != list(columns or head) or not {*REQUIRED} <= {*head}:
        expected = ",".join(columns or (*REQUIRED, "..."))
        raise FileInputError(path, f"expected the columns {expected}, got {','.join(head)[:200]!r}; {REMEDY}.", 1)
    for line, row in enumerate(rows, start=2):
        whole = len(row) == len(head) and all(is_number(cell) for cell in row if cell)
        if not whole or not row[head.index("step")].isdecimal():
            raise FileInputError(path, f"expected {len(head)} numbers, got {','.join(row)[:200]!r}; {REMEDY}.", line)
    return [dict(zip(head, row, strict=True)) for row in rows]


def is_number(cell: str) -> bool:
    """Whether a cell is a number, infinity or NaN."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
