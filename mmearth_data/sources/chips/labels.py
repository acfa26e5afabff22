"""Labels of chips as modalities of the store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import ABSENT, MULTI_LABEL_NODATA, PRESENT, ClassLabel, Licence
from mmearth_data.errors import CatalogError
from mmearth_data.sources.labels.describing import LabelEntry as Described
from mmearth_data.sources.labels.reading import KINDS, MOST_CLASSES, Column, code_dtype
from mmearth_data.sources.labels.table import Label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.sources.chips.description import LabelEntry
    from mmearth_data.sources.chips.facts import Facts

FIRST_ORDER = 2000
UNIT_RANGE = [0.0, 1.0]
"""Range of percentiles of a value that no chip has."""
OWN = Licence(name="not stated", url="", attribution="")


def read_labels(facts: Facts) -> tuple[Label, ...]:
    """All labels of a chips file, with one value per chip; FileInputError if one cannot be used."""
    makers = {"class": _classes, "value": _values, "multi": _several}
    entries = facts.described.file.labels
    found = []
    for at, (name, entry) in enumerate(entries.items()):
        raw = facts.of(entry, "labels", name)
        try:
            found.append(makers[entry.content](facts, name, entry, raw, FIRST_ORDER + at))
        except CatalogError as error:
            raise facts.described.refusal(error.message, "labels", name) from None
    return tuple(found)


def class_names(label: Label) -> list[str | None]:
    """Class of each chip by name; None if unknown."""
    names = {entry.code: entry.name for entry in label.modality.classes}
    return [names.get(code) for code in label.values.tolist()]


def _classes(facts: Facts, name: str, entry: LabelEntry, raw: Sequence[Any], order: int) -> Label:
    """Label with one class: codes are positions among the given names, or among the sorted ones."""
    given = [value for value in raw if value is not None]
    numbers = bool(given) and all(_is_whole(value) for value in given) and not isinstance(given[0], str)
    if entry.classes is None and numbers:
        problem = f"{name}: expected classes, the names of the codes 0, 1, 2, ..., for numbers, got none; add them."
        raise facts.described.refusal(problem, "labels", name)
    names = entry.classes or sorted({str(value) for value in given})
    code_of = {label: code for code, label in enumerate(names)}
    if not names:
        problem = f"{name}: expected a class of at least one image, got {len(raw)} images without; correct the entry."
        raise facts.described.refusal(problem, "labels", name)
    if not 0 < len(code_of) == len(names) <= MOST_CLASSES:
        problem = f"{name}: expected different classes, at least one and at most {MOST_CLASSES}, got {len(names)}"
        raise facts.described.refusal(f"{problem} of which {len(code_of)} differ.", "labels", name)
    dtype = code_dtype(len(names) - 1)
    codes = np.full(len(raw), np.iinfo(dtype).max, dtype=dtype)
    for at, value in enumerate(raw):
        if value is None:
            continue
        code = int(value) if numbers or _is_code(value, code_of, entry) else code_of.get(str(value), -1)
        if not 0 <= code < len(names):
            raise _unknown(facts, name, names, at, value)
        codes[at] = code
    return _label(name, entry, order, codes, [ClassLabel(code, label) for code, label in enumerate(names)])


def _values(facts: Facts, name: str, entry: LabelEntry, raw: Sequence[Any], order: int) -> Label:
    """Label with a number."""
    values = np.full(len(raw), np.nan, dtype=np.float32)
    for at, value in enumerate(raw):
        if value is None:
            continue
        try:
            values[at] = facts.number(entry, value)
        except (TypeError, ValueError):
            problem = (
                f"{name}: expected a number, got {value!r} for {facts.chips[at].name}; correct it, or leave it empty."
            )
            raise facts.described.refusal(problem, "labels", name) from None
    values[~np.isfinite(values)] = np.nan
    return _label(name, entry, order, values)


def _several(facts: Facts, name: str, entry: LabelEntry, raw: Sequence[Any], order: int) -> Label:
    """Label with any number of classes: names in a text, or a row of zeros and ones."""
    sets = [None if value is None else _named(facts, name, entry, at, value) for at, value in enumerate(raw)]
    names = entry.classes or sorted({label for chosen in sets if chosen for label in chosen})
    if not names:
        raise facts.described.refusal(f"{name}: expected at least one class, got none.", "labels", name)
    values = np.full((len(raw), len(names)), MULTI_LABEL_NODATA, dtype=np.uint8)
    for at, chosen in enumerate(sets):
        if chosen is None:
            continue
        unknown = sorted(chosen - set(names))
        if unknown:
            raise _unknown(facts, name, names, at, unknown[0])
        values[at] = [PRESENT if label in chosen else ABSENT for label in names]
    return _label(name, entry, order, values, [ClassLabel(position, label) for position, label in enumerate(names)])


def _named(facts: Facts, name: str, entry: LabelEntry, at: int, value: Any) -> set[str]:  # noqa: ANN401 - as read
    """Classes that apply to one chip."""
    if isinstance(value, str):
        return {part.strip() for part in value.split(entry.separator) if part.strip()}
    row: NDArray[Any] = np.asarray(value)
    if entry.classes is None or row.shape != (len(entry.classes),) or not np.isin(row, (ABSENT, PRESENT)).all():
        problem = (
            f"{name}: expected names, or zeros and ones for each of classes, got {value!r} for {facts.chips[at].name}"
        )
        raise facts.described.refusal(f"{problem}; give classes.", "labels", name)
    return {label for label, applies in zip(entry.classes, row.tolist(), strict=True) if applies == PRESENT}


def _is_code(value: object, code_of: Mapping[str, int], entry: LabelEntry) -> bool:
    """Whether a text is the code of a class rather than its name."""
    return entry.classes is not None and isinstance(value, str) and value not in code_of and value.isdecimal()


def _is_whole(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and float(value).is_integer()


def _unknown(facts: Facts, name: str, names: Sequence[str], at: int, value: object) -> Exception:
    words = ", ".join(names[:20])
    problem = f"{name}: expected a class of {words}, got {value!r} for {facts.chips[at].name}; correct classes."
    return facts.described.refusal(problem, "labels", name)


def _label(name: str, entry: LabelEntry, order: int, values: NDArray[Any], classes: Sequence[ClassLabel] = ()) -> Label:
    """Label with an array of values as stored: (n,) values or codes, or (n, classes)."""
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    column = Column(
        name=name,
        long_name=entry.long_name or name,
        content=entry.content,
        entry=Described(units=entry.units, pretext=entry.pretext, range=None if known.size else UNIT_RANGE),
        licence=OWN,
        classes=tuple(classes),
        values=values,
        note="",
    )
    return Label(replace(column.modality(KINDS[entry.content]), order=order), column.values_of_tiles)
