"""Convert columns of a table to labels: descriptions of modalities, and their values."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import (
    ABSENT,
    MULTI_LABEL_NODATA,
    PRESENT,
    ClassLabel,
    Display,
    Kind,
    Licence,
    Modality,
)
from mmearth_data.errors import FileInputError
from mmearth_data.pages.style import COLOURS
from mmearth_data.recipes import CONTENTS, LabelColumn
from mmearth_data.sampling.places import column_of
from mmearth_data.sources.labels.content import Cells, content_of, in_order, name_lists_of, names_of, numbers_of
from mmearth_data.sources.labels.describing import LabelEntry, read_description
from mmearth_data.sources.labels.table import Label
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from mmearth_data.recipes import Content
    from mmearth_data.sources.labels.describing import LabelFile

UNKNOWN_LICENCE = Licence(name="unknown", url="", attribution="Labels of a table without a stated licence")
MOST_CLASSES = 65_535
LONGEST_NAME = 100
GEOMETRY = "geometry"
KINDS = {"value": Kind.TILE_CONTINUOUS, "class": Kind.TILE_CATEGORICAL, "multi": Kind.TILE_MULTI_LABEL}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table as a label, independent of the kind of the modality that it is stored as.

    Attributes
    ----------
    name
        Of the modality.
    long_name
        For display.
    content
        What it has.
    entry
        Its description.
    licence
        Terms of use.
    classes
        In the order of their codes; empty for values.
    values
        (n,) float32 values, NaN where missing; (n,) codes, `nodata` where missing; or (n, classes) uint8.
    note
        How it was interpreted, for the user.
    """

    name: str
    long_name: str
    content: Content
    entry: LabelEntry
    licence: Licence
    classes: tuple[ClassLabel, ...]
    values: NDArray[Any]
    note: str

    @property
    def nodata(self) -> float:
        """Stored value of a missing label."""
        return float("nan") if self.content == "value" else float(np.iinfo(self.values.dtype).max)

    @property
    def values_of_tiles(self) -> NDArray[Any]:
        """Values in the form of a modality of tiles: (n,) codes, or (n, band)."""
        return self.values[:, None] if self.content == "value" else self.values

    def modality(self, kind: Kind) -> Modality:
        """Describe the modality of this kind that has the label."""
        continuous, several = self.content == "value", self.content == "multi"
        bands = tuple(label.name for label in self.classes) if several else (self.name,)
        return Modality(
            name=self.name,
            kind=kind,
            long_name=self.long_name,
            bands=() if kind is Kind.TILE_CATEGORICAL else bands,
            dtype=self.values.dtype,
            nodata=self.nodata if continuous else int(self.nodata),
            units=self.entry.units or "1",
            histogram_range=self._range() if continuous else None,
            pretext=self.entry.pretext,
            classes=self.classes,
            display=Display(bands=bands if kind.is_raster else (), range=self._range() if continuous else None),
            doi=self.entry.doi,
            source=self.entry.source,
            licence=self.licence,
        )

    def _range(self) -> tuple[float, float]:
        """Range of the description, or else of the values."""
        if self.entry.range is not None:
            return float(self.entry.range[0]), float(self.entry.range[1])
        low, high = float(np.nanmin(self.values)), float(np.nanmax(self.values))
        return (low, high) if low < high else (low - 0.5, high + 0.5)


def read_labels(
    path: Path, frame: pd.DataFrame, asked: Sequence[str], description: Path | None, taken: Collection[str]
) -> tuple[Label, ...]:
    """Read the labels of the locations of a table, each as a modality of tiles; see `read_columns`."""
    columns = read_columns(path, frame, asked, description, taken)
    return tuple(
        Label(column.modality(KINDS[column.content]), column.values_of_tiles, column.note) for column in columns
    )


def read_columns(
    path: Path, frame: pd.DataFrame, asked: Sequence[str], description: Path | None, taken: Collection[str]
) -> tuple[Column, ...]:
    """Read columns of a table as labels.

    Parameters
    ----------
    path
        File of the table, for messages.
    frame
        The table; its index has the row numbers.
    asked
        Columns, as in the recipe: ``COLUMN`` or ``COLUMN:class``, ``:value``, ``:multi``.
    description
        File that describes the labels; None for that beside the table, if any.
    taken
        Names that modalities of labels cannot have.

    Raises
    ------
    FileInputError
        When a column is missing, has other content than asked for, or a name that is taken; with the rows.
    """
    known = read_description(path, description, [str(name) for name in frame.columns])
    found: list[Column] = []
    for text in asked:
        wanted = LabelColumn.parse(text)
        column = _column(path, frame, wanted, known)
        _check_name(path, wanted.column, column.name, {*taken, *(other.name for other in found)})
        found.append(column)
    return tuple(found)


def identifier(column: str) -> str:
    """Name of the modality of a column: letters, digits and _.

    Examples
    --------
    >>> identifier("soil pH"), identifier("Überschuss (kg/ha)"), identifier("2020 yield"), identifier("pH")
    ('soil_pH', 'Uberschuss_kg_ha', 'label_2020_yield', 'pH')
    """
    plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain).strip("_")
    return name if name.isidentifier() else f"label_{name}".rstrip("_")


def _column(path: Path, frame: pd.DataFrame, wanted: LabelColumn, known: LabelFile) -> Column:
    if wanted.column == GEOMETRY:
        raise FileInputError(path, "expected a column of labels (--label), got the geometry; name another column.")
    column, colon, other = wanted.column.rpartition(":")
    if colon and column in frame.columns and wanted.column not in frame.columns:
        raise FileInputError(
            path,
            f"--label {column}: expected one of {', '.join(CONTENTS)} after the colon, got {other!r}; correct it.",
        )
    cells = Cells.of(path, column_of(path, frame, wanted.column, "--label"))
    entry = known.labels.get(wanted.column) or LabelEntry()
    content, reason = content_of(cells, wanted.content)
    _check_entry(path, wanted.column, content, entry)
    name = entry.name or identifier(wanted.column)
    given = entry.licence or known.licence
    classes, values = _READERS[content](cells, entry)
    missing = sum(value is None for value in cells.values)
    amount = f", {len(classes)} classes" if classes else ""
    gaps = f", {missing} of {len(cells.values)} rows without" if missing else ""
    renamed = f", stored as {name}" if name != wanted.column else ""
    return Column(
        name=name,
        long_name=entry.long_name or wanted.column,
        content=content,
        entry=entry,
        licence=Licence(given.name, given.url, given.attribution) if given else UNKNOWN_LICENCE,
        classes=classes,
        values=values,
        note=f"{wanted.column}: {content}{amount} ({reason}){gaps}{renamed}",
    )


def _check_entry(path: Path, column: str, content: Content, entry: LabelEntry) -> None:
    """Refuse descriptions that do not suit the content."""
    unsuited = {"value": ("classes",), "class": ("units", "range"), "multi": ("units", "range")}[content]
    for field in unsuited:
        if getattr(entry, field) is not None:
            problem = f"{column}: the description has {field}, which a label of content {content} does not have"
            other = "class or multi" if content == "value" else "value"
            raise FileInputError(path, f"{problem}; leave it out, or write --label {column}:{other.split()[0]}.")


def _check_name(path: Path, column: str, name: str, taken: Collection[str]) -> None:
    if len(name) > LONGEST_NAME:
        problem = f"expected a name of at most {LONGEST_NAME} characters, got {len(name)} ({name[:20]}...)"
        raise FileInputError(path, f"{problem}; rename the column, or give it a name in the description.")
    if not name.isidentifier():
        raise FileInputError(path, f"{column}: expected a name of letters, digits and _, got {name!r}; correct it.")
    if name in taken:
        problem = (
            f"the column {column!r} would be stored as {name}, the name of another array or column, or of a condition of "
            "Store.select"
        )
        raise FileInputError(
            path, f"{problem}; rename it, or give it a name in the description (labels: {column}: name)."
        )


# ---------------------------------------------------------------- values


def _value(cells: Cells, entry: LabelEntry) -> tuple[tuple[ClassLabel, ...], NDArray[Any]]:
    return (), numbers_of(cells)


def code_dtype(largest: int) -> np.dtype[Any]:
    """Type of class codes up to the largest one, whose own largest value remains for no-data."""
    return np.dtype("uint8" if largest < np.iinfo(np.uint8).max else "uint16")


def _class(cells: Cells, entry: LabelEntry) -> tuple[tuple[ClassLabel, ...], NDArray[Any]]:
    names = names_of(cells)
    classes = _classes(cells, entry, (name for name in names if name is not None))
    dtype = code_dtype(classes[-1].code)
    nodata = int(np.iinfo(dtype).max)
    codes = _codes(cells, classes, entry, ([] if name is None else [name] for name in names))
    return classes, np.array([found[0] if found else nodata for found in codes], dtype=dtype)


def _multi(cells: Cells, entry: LabelEntry) -> tuple[tuple[ClassLabel, ...], NDArray[Any]]:
    lists = name_lists_of(cells)
    named = _classes(cells, entry, (name for names in lists if names for name in names))
    position = {label.code: k for k, label in enumerate(named)}
    codes = _codes(cells, named, entry, (names or [] for names in lists))
    values = np.full((len(lists), len(named)), ABSENT, dtype=np.uint8)
    for row, found in enumerate(codes):
        values[row, [position[code] for code in found]] = PRESENT
    values[[row for row, names in enumerate(lists) if names is None]] = MULTI_LABEL_NODATA
    return tuple(ClassLabel(k, label.name, label.colour) for k, label in enumerate(named)), values


_READERS = {"value": _value, "class": _class, "multi": _multi}


def _classes(cells: Cells, entry: LabelEntry, names: Iterator[str]) -> tuple[ClassLabel, ...]:
    """Classes of the description, or else those of the table, sorted; by ascending code."""
    if entry.classes is None:
        ordered = in_order(names)
        colours: Sequence[str | None] = COLOURS if len(ordered) <= len(COLOURS) else [None] * len(ordered)
        found = tuple(
            ClassLabel(code, name, colour) for code, (name, colour) in enumerate(zip(ordered, colours, strict=False))
        )
    else:
        given = [label.code for label in entry.classes]
        codes = range(len(given)) if set(given) == {None} else given
        found = tuple(
            ClassLabel(-1 if code is None else code, label.name, label.colour)
            for code, label in zip(codes, entry.classes, strict=True)
        )
        found = tuple(sorted(found, key=lambda label: label.code))
        _check_classes(cells, found)
    if not found:
        raise FileInputError(cells.path, f"expected classes in the column {cells.name}, got empty lists only; fill it.")
    if len(found) > MOST_CLASSES:
        problem = f"expected at most {MOST_CLASSES:,} classes in the column {cells.name}, got {len(found):,}"
        raise FileInputError(cells.path, f"{problem}; the column may contain names or ids; choose another column.")
    return found


def _check_classes(cells: Cells, classes: Sequence[ClassLabel]) -> None:
    codes, names = [label.code for label in classes], [label.name for label in classes]
    if codes and (min(codes) < 0 or max(codes) >= MOST_CLASSES):
        problem = f"{cells.name}: expected a code from 0 to {MOST_CLASSES - 1:,} for every class, or for none"
        raise FileInputError(cells.path, f"{problem}; correct the description.")
    if len(set(codes)) < len(codes) or len(set(names)) < len(names):
        problem = f"{cells.name}: expected classes with different names and codes; correct the description."
        raise FileInputError(cells.path, problem)


def _codes(
    cells: Cells, classes: Sequence[ClassLabel], entry: LabelEntry, names: Iterator[Sequence[str]]
) -> list[list[int]]:
    """Codes of the classes of each row; FileInputError with the rows that have others than those described."""
    known = {label.name: label.code for label in classes}
    if entry.classes is not None:
        known = {str(label.code): label.code for label in entry.classes if label.code is not None} | known
    found: list[list[int]] = []
    wrong: list[int] = []
    for row, given in enumerate(names):
        codes = [known[name] for name in given if name in known]
        if len(codes) < len(given):
            wrong.append(row)
        found.append(codes)
    if wrong:
        first = cells.values[wrong[0]]
        hint = did_you_mean(first, known) if isinstance(first, str) else "correct them"
        raise cells.refusal(
            "classes of the description", wrong, f"add them to it, or correct them: {hint}".rstrip(".?")
        )
    return found
