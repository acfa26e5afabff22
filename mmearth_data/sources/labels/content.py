"""Cells of a column as labels: values, classes, or several classes per cell."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.errors import FileInputError
from mmearth_data.sampling.files import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from mmearth_data.recipes import Content

SEPARATORS = re.compile("[;|]")
LIST = "["
MOSTLY = 0.5
"""In a column of text with a larger share of numbers than this, the other cells are considered errors, not classes."""
FEW = 20
"""Whole numbers with at most this many distinct values may be classes."""
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a column.

    Attributes
    ----------
    path, name
        File and column, for messages.
    rows
        Number of each row in the file.
    values
        Text, numbers, truth values and lists; None if missing.
    """

    path: Path
    name: str
    rows: Sequence[int]
    values: Sequence[Any]

    @classmethod
    def of(cls, path: Path, column: pd.Series[Any]) -> Cells:
        """Cells of a column of a table whose index has the row numbers."""
        return cls(path, str(column.name), column.index.tolist(), [_cell(value) for value in column.tolist()])

    @property
    def present(self) -> list[Any]:
        """Cells that are not missing."""
        return [value for value in self.values if value is not None]

    def refusal(self, expected: str, wrong: Sequence[int], remedy: str) -> FileInputError:
        """Error that names the first wrong cells, given their positions."""
        shown = "; ".join(f"row {self.rows[k]}: {self.values[k]!r}"[:60] for k in wrong[:SHOWN])
        problem = (
            f"expected {expected} in the column {self.name}, {len(wrong)} of {len(self.values)} rows have other content"
        )
        return FileInputError(self.path, f"{problem} ({shown}); {remedy}.")


def content_of(cells: Cells, given: Content | None) -> tuple[Content, str]:
    """Whether the cells are values, classes or several classes, and why.

    Raises FileInputError if all cells are missing, or most of a column without a given content are numbers, but not all.
    """
    present = cells.present
    if not present:
        if not cells.values:
            raise FileInputError(cells.path, "expected rows with labels, got a table without rows; add some.")
        problem = f"expected labels in the column {cells.name}, got {len(cells.values)} empty cells; fill it"
        raise FileInputError(cells.path, f"{problem}, or leave out its --label.")
    if given is not None:
        return given, "as given"
    numeric = [k for k, value in enumerate(cells.values) if _is_number(value)]
    if len(numeric) == len(present):
        return "value", _about_numbers(cells, present)
    if any(isinstance(value, list) for value in present):
        return "multi", "lists"
    if len(numeric) > MOSTLY * len(present):
        wrong = [k for k, value in enumerate(cells.values) if value is not None and not _is_number(value)]
        raise cells.refusal("numbers", wrong, f"correct them, leave them empty, or write {cells.name}:class")
    texts = [value for value in present if isinstance(value, str)]
    if texts and all(text.startswith(LIST) for text in texts):
        return "multi", "JSON lists"
    separated = next((match[0] for text in texts if (match := SEPARATORS.search(text))), None)
    return ("multi", f"text with {separated!r}") if separated else ("class", "text")


def numbers_of(cells: Cells) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(n,) values, NaN where missing; FileInputError if a cell is no number, or too large for float32."""
    wrong = [k for k, value in enumerate(cells.values) if value is not None and not _is_number(value)]
    if wrong:
        raise cells.refusal("numbers", wrong, f"correct them, leave them empty, or write {cells.name}:class")
    exact = np.array([math.nan if value is None else float(value) for value in cells.values])
    with np.errstate(over="ignore"):
        found = exact.astype(np.float32)
    beyond = np.flatnonzero(np.isinf(found)).tolist()
    if beyond:
        raise cells.refusal("numbers that fit float32", beyond, "correct them, or convert them to another unit")
    return found


def names_of(cells: Cells) -> list[str | None]:
    """Class of each row, None where missing; FileInputError if a cell is a list."""
    wrong = [k for k, value in enumerate(cells.values) if isinstance(value, list)]
    if wrong:
        raise cells.refusal("one class per row", wrong, f"write {cells.name}:multi")
    return [None if value is None else _name(value) for value in cells.values]


def name_lists_of(cells: Cells) -> list[list[str] | None]:
    """Classes of each row, each once; None where missing, empty if a list is. FileInputError if JSON is broken."""
    found: list[list[str] | None] = []
    wrong = []
    for k, value in enumerate(cells.values):
        names = _names(value)
        if names is None and value is not None:
            wrong.append(k)
        found.append(None if names is None else list(dict.fromkeys(names)))
    if wrong:
        raise cells.refusal('JSON lists of names, such as ["oak", "beech"]', wrong, "correct them")
    return found


def in_order(names: Iterator[str]) -> list[str]:
    """Each name once, sorted: by number if all are numbers, otherwise by text."""
    distinct = set(names)
    return (
        sorted(distinct, key=lambda name: (float(name), name))
        if all(map(_reads_as_number, distinct))
        else sorted(distinct)
    )


def _cell(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Plain Python value of a cell, None if it is missing."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_cell(item) for item in value]
    if isinstance(value, str):
        text = value.strip()
        return None if text.casefold() in MISSING or not text else text
    if value is None or value != value or str(value) in ("NaT", "<NA>"):  # NaN differs from itself
        return None
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    if isinstance(value, str):
        return _reads_as_number(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _about_numbers(cells: Cells, present: Sequence[Any]) -> str:
    distinct = {float(value) for value in present}
    if len(distinct) <= FEW and all(value.is_integer() for value in distinct):
        few = f"{len(distinct)} distinct integers" if len(distinct) > 1 else "the same number in every row"
        return f"{few}; write {cells.name}:class if they are classes"
    return "numbers"


def _name(value: Any) -> str:  # noqa: ANN401 - whatever a file holds
    """Class name of a cell: 3.0, as which tables with gaps hold whole numbers, is 3."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _names(value: Any) -> list[str] | None:  # noqa: ANN401 - whatever a file holds
    """Class names of a cell; None if it is missing or broken."""
    if isinstance(value, str) and value.startswith(LIST):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, list):
        names = [_cell(item) for item in value]
        plain = all(isinstance(name, str | int | float | bool) for name in names)
        return [_name(name) for name in names] if plain else None
    if value is None or isinstance(value, dict):
        return None
    parts = (part.strip() for part in SEPARATORS.split(_name(value)))
    return [part for part in parts if part]
