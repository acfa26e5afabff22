"""Cells of a label table: read without padding; invalid ones are refused with their rows.

Data rows are counted from 1, without the header.
"""

from __future__ import annotations

import math
import os.path
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError
from mmearth_model.tasks.labelled import listed, meant

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.tasks.labelled import Parts


def at_rows(positions: Iterable[int]) -> str:
    """Format rows, given by positions from 0, for a message.

    Examples
    --------
    >>> at_rows([2]), at_rows([0, 4]), at_rows(range(9))
    ('data row 3', 'data rows 1, 5', 'data rows 1, 2, 3, 4, 5 and 4 more')
    """
    rows = [position + 1 for position in positions]
    return f"data row{'s' * (len(rows) > 1)} {listed(rows)}"


def text_of(cell: object) -> str:
    """Text of a cell without surrounding space; empty if the cell is blank, null or NaN.

    Examples
    --------
    >>> text_of("forest "), text_of(None), text_of(float("nan")), text_of("NaN"), text_of(3.0)
    ('forest', '', '', '', '3')
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():  # a column of whole numbers with nulls is read as floats
        return str(int(cell))
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
    return "" if text.strip().lower() == "nan" else text.strip()


def required(column: Sequence[Any], name: str, path: Path) -> list[str]:
    """Text of every cell. Raises `FileInputError` if cells are blank, with the rows."""
    texts = [text_of(cell) for cell in column]
    blank = [row for row, text in enumerate(texts) if not text]
    if blank:
        raise FileInputError(
            path, f"expected a value of {name} in every row, got none in {at_rows(blank)}; fill in or delete the rows."
        )
    return texts


def numbers(column: Sequence[Any], name: str, path: Path) -> NDArray[np.float64]:
    """(N) finite numbers. Raises `FileInputError` if cells are not finite numbers, with the rows."""
    values = np.array([_number(cell) for cell in column])
    wrong = np.flatnonzero(~np.isfinite(values)).tolist()
    if wrong:
        got = text_of(column[wrong[0]]) or "nothing"
        raise FileInputError(
            path,
            f"expected finite numbers as labels in {name}, got {got} in {at_rows(wrong)}; correct or delete the rows.",
        )
    return values


def _number(cell: object) -> float:
    try:
        return float(text_of(cell) if isinstance(cell, str | bytes) else cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def flags(column: Sequence[Any], name: str, path: Path) -> NDArray[np.int64]:
    """(N) 0 or 1. Raises `FileInputError` if cells have other values, with the rows."""
    values = numbers(column, name, path)
    wrong = np.flatnonzero((values != 0) & (values != 1)).tolist()
    if wrong:
        raise FileInputError(
            path,
            f"expected 0 or 1 in {name}, got {values[wrong[0]]:g} in {at_rows(wrong)}; correct or delete the rows.",
        )
    return values.astype(np.int64)


def label_sets(column: Sequence[Any], name: str, separator: str, path: Path) -> tuple[list[set[str]], tuple[str, ...]]:
    """Labels of every row of a multi-label column, and a note about rows without labels.

    Raises `FileInputError` when cells are missing; blank text means none of the classes.
    """
    missing = [row for row, cell in enumerate(column) if not isinstance(cell, str | list | tuple) and not text_of(cell)]
    if missing:
        raise FileInputError(
            path, f"expected labels in {name} of every row, got null in {at_rows(missing)}; fill in or delete the rows."
        )
    sets = []
    for cell in column:
        words = cell if isinstance(cell, list | tuple) else text_of(cell).split(separator)
        sets.append({word for word in map(text_of, words) if word})
    blank = [row for row, words in enumerate(sets) if not words]
    return sets, (f"no label in {name} of {at_rows(blank)}, taken as none of the classes.",) if blank else ()


def check_names(known: Sequence[str], found: Mapping[str, Sequence[int]], path: Path, *, rows: bool = True) -> tuple[str, ...]:  # fmt: skip
    """Names of the classes: those of the task file (``known``) or, if it has none, those in the data, sorted.

    ``found`` is name in the data -> positions of its samples, which are rows of a table or not. Raises `FileInputError`
    if the data have a class that is not in the task file, or names that differ only in case.
    """
    names = tuple(sorted(found))
    unknown = [name for name in names if name not in known]
    if known and unknown:
        where = f" in {at_rows(found[unknown[0]])}" if rows and found[unknown[0]] else ""
        raise FileInputError(
            path, f"expected the classes {listed(known)}, got {unknown[0]!r}{where}; correct the label, or classes in the task file.{meant(unknown[0], known)}"
        )  # fmt: skip
    if known:
        return tuple(known)
    alike = Counter(name.casefold() for name in names)
    twins = [name for name in names if alike[name.casefold()] > 1]
    if twins:
        raise FileInputError(
            path,
            f"expected classes that differ by more than case, got {' and '.join(twins[:2])}; write them alike, or list "
            "classes in the task file.",
        )
    return names


def positions(names: Sequence[str]) -> dict[str, list[int]]:
    """Name -> its positions."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        found[name].append(row)
    return dict(found)


def check_repeats(items: Sequence[str], answers: Sequence[Hashable], parts: Parts, path: Path) -> tuple[str, ...]:
    """Note about files that several rows list with the same label in the same part; ``answers`` are the labels (N).

    Raises `FileInputError` if a file has two labels, or is in two parts: test samples must not be trained on.
    """
    part = np.full(len(items), -1)
    for number, members in enumerate((parts.train, parts.validation, parts.test)):
        part[members] = number
    repeated = {k: rows for k, rows in positions([os.path.normpath(item) for item in items]).items() if len(rows) > 1}
    for name, rows in repeated.items():
        if len({answers[row] for row in rows}) > 1:
            raise FileInputError(
                path, f"expected one label for each file, got different ones for {name} in {at_rows(rows)}; delete the wrong rows."
            )  # fmt: skip
        if len(set(part[rows])) > 1:
            raise FileInputError(
                path,
                f"expected each file in one of train, val and test, got {name} in several by {at_rows(rows)}; "
                "keep one of the rows.",
            )
    if not repeated:
        return ()
    name, rows = next(iter(repeated.items()))
    return (f"{len(repeated)} files are listed more than once and count as often ({name} in {at_rows(rows)}).",)
