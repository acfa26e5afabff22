"""Read users' tables and lists: CSV as any program writes it, Parquet and GeoParquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mmearth_data.errors import FileInputError
from mmearth_data.words import os_problem, reason_of

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow.parquet as pq
    from numpy.typing import NDArray

DELIMITERS = ",;\t"
PARQUET_SUFFIXES = frozenset({".parquet", ".geoparquet"})
COMMENT = "#"
EXCEL_HINT = "sep="
"""First line in which Excel declares the delimiter; it is not a row."""

Number = TypeVar("Number", bound=np.generic)
HEXADECIMAL = re.compile("(0[xX])?[0-9a-fA-F]{16}")
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Table:
    """A table from a user's file."""

    path: Path
    columns: Mapping[str, Sequence[Any]]
    """Values by column, in the order of the file. Columns of CSV are unchanged text; those of Parquet have the values
    of the file (None if missing) and are read on first access.
    """
    lines: Sequence[int]
    """(N) 1-based line of each row; for Parquet the 1-based row."""
    decimal: str = "."
    """Decimal separator of numbers: a comma if semicolons separate the columns, otherwise a point."""
    header_line: int | None = None
    """1-based line of the column names; None for Parquet."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.lines)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row with its line."""
        names, columns = list(self.columns), list(self.columns.values())
        for line, values in zip(self.lines, zip(*columns, strict=True), strict=True):
            yield line, dict(zip(names, values, strict=True))

    def require(self, names: Sequence[str]) -> Table:
        """Return the table; FileInputError if it lacks a column, with the missing columns and the existing ones."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            found = ", ".join(self.columns) or "none"
            problem = f"expected the columns {', '.join(names)}, lacks {', '.join(missing)} and has {found}"
            raise FileInputError(self.path, f"{problem}; rename or add them.", self.header_line)
        return self

    def numbers(self, name: str) -> NDArray[np.float64]:
        """(N) numbers of a column, NaN where it is blank; FileInputError with the line if a value is not a number."""
        return self._parsed(self.columns[name], self._number, np.float64, f"a number in column {name}")

    def tile_ids(self, name: str) -> NDArray[np.uint64]:
        """(N) tile ids of a column: integers, 16 hex digits each, or decimal digits.

        Raises FileInputError with the line if a value is none of these.
        """
        values = [value.strip() if isinstance(value, str) else value for value in self.columns[name]]
        base = 16 if all(isinstance(value, str) and HEXADECIMAL.fullmatch(value) for value in values) else 10
        expected = f"tile ids (16 hex digits, or all decimal) in {name}"
        return self._parsed(values, lambda v: int(v, base) if isinstance(v, str) else index(v), np.uint64, expected)

    def _parsed(
        self, values: Sequence[Any], parse: Callable[[Any], Any], kind: type[Number], expected: str
    ) -> NDArray[Number]:
        numbers = np.empty(len(values), dtype=kind)
        for k, value in enumerate(values):
            try:
                numbers[k] = parse(value)
            except (TypeError, ValueError, OverflowError):
                problem = f"expected {expected}, got {value!r}; correct or remove the row."
                raise FileInputError(self.path, problem, self.lines[k]) from None
        return numbers

    def _number(self, value: Any) -> float:  # noqa: ANN401 - whatever a Parquet file holds
        if value is None or (isinstance(value, str) and not value.strip()):
            return np.nan
        if isinstance(value, str) and self.decimal == ",":
            return float(value if "." in value else value.replace(",", "."))
        return float(value)


def read_table(path: Path, *, comments: bool = False) -> Table:
    r"""Read a table: CSV in UTF-8, or Parquet and GeoParquet (by suffix).

    The header decides whether commas, semicolons or tabs separate the columns. A byte order mark, Windows line ends,
    quoted fields, blank lines and empty columns and rows at the edges are read as spreadsheets and data frames write
    them. Columns without a name are left out, and with ``comments`` also lines that begin with ``#``.

    Raises FileInputError when it cannot be read, is not in UTF-8, names a column twice, or a row has more or fewer values
    than the header.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "sites.csv")
    >>> _ = path.write_bytes("\ufeffname;share\r\nForêt;0,5\r\n".encode())
    >>> table = read_table(path)
    >>> table.columns["name"], table.numbers("share").tolist(), table.lines
    (['Forêt'], [0.5], [2])
    """
    if not path.is_file():
        raise FileInputError(path, "expected a table (CSV, Parquet or GeoParquet), no such file; check the path.")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _parquet(path)
    return _csv(path, read_text(path), comments)


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, without its byte order mark; FileInputError if it is not readable as such."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileInputError(path, f"expected a file of text, could not read it: {os_problem(error)}.") from None
    if data.startswith(UTF16_MARKS) or b"\0" in data[:4096]:
        raise FileInputError(path, "expected text in UTF-8, got UTF-16 or a binary file; save it as CSV UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x}"
        raise FileInputError(path, f"expected text in UTF-8, got {byte}; save it as CSV UTF-8.", line) from None


def _csv(path: Path, text: str, comments: bool) -> Table:
    delimiter = _delimiter(text, comments)
    rows = _rows(path, text, delimiter, comments)
    line, header = next(rows, (0, []))
    if not header:
        raise FileInputError(path, "expected a table with a line of column names, got an empty file.", 1)
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise FileInputError(path, f"expected each column once, got {twice[0]!r} twice; rename or remove one.", line)
    lines, body = [], []
    for at, row in rows:
        lines.append(at)
        body.append(_fitted(path, at, row, len(names), delimiter))
    while body and not any(cell.strip() for cell in body[-1]):  # a spreadsheet's empty rows below its last one
        body.pop(), lines.pop()
    columns = (
        dict(zip(names, map(list, zip(*body, strict=True)), strict=True)) if body else {name: [] for name in names}
    )
    columns.pop("", None)
    return Table(path, columns, lines, "," if delimiter == ";" else ".", line)


def _delimiter(text: str, comments: bool) -> str:
    lines = (line for _, line in _lines(text, comments) if line.strip())
    header = next(lines, "")
    return max(DELIMITERS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


def _lines(text: str, comments: bool) -> Iterator[tuple[int, str]]:
    """Lines with their 1-based numbers, without comments and without Excel's hint."""
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if not (comments and line.startswith(COMMENT)) and not (number == 1 and line.startswith(EXCEL_HINT)):
            yield number, line


def _rows(path: Path, text: str, delimiter: str, comments: bool) -> Iterator[tuple[int, list[str]]]:
    """Rows with their 1-based lines; empty lines are skipped."""
    line = 0

    def kept() -> Iterator[str]:
        nonlocal line
        for number, one in _lines(text, comments):
            line = number
            yield one

    reader = csv.reader(kept(), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row and not (len(row) == 1 and not row[0].strip()):
                yield line - sum(cell.count("\n") for cell in row), row
    except csv.Error as error:
        raise FileInputError(path, f"expected CSV, got a line that breaks its rules: {error}.", line) from None


def _fitted(path: Path, line: int, row: list[str], width: int, delimiter: str) -> list[str]:
    """Values of a row without the empty ones that a spreadsheet adds at its right."""
    if len(row) < width or any(cell.strip() for cell in row[width:]):
        problem = f"expected {width} columns separated by {delimiter!r}, as in the first line, got {len(row)}"
        raise FileInputError(path, f"{problem}; quote values that hold {delimiter!r}.", line)
    return row[:width]


@dataclass(frozen=True)
class _ParquetColumns(Mapping[str, Sequence[Any]]):
    path: Path
    file: pq.ParquetFile
    names: tuple[str, ...]
    _read: dict[str, list[Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._read:
            try:
                self._read[name] = self.file.read([name], use_threads=False).column(name).to_pylist()
            except (OSError, ValueError) as error:
                raise _unreadable(self.path, error) from None
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are among ValueError
        raise _unreadable(path, error) from None
    columns = _ParquetColumns(path, file, tuple(file.schema_arrow.names))
    return Table(path, columns, range(1, file.metadata.num_rows + 1))


def _unreadable(path: Path, error: Exception) -> FileInputError:
    return FileInputError(path, f"expected a Parquet or GeoParquet table, could not read it: {reason_of(error)}.")
