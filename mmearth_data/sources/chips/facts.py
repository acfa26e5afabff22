"""Facts about each chip: labels, splits, locations and dates, from names, tables, datasets and lists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import NO_TIME
from mmearth_data.errors import FileInputError
from mmearth_data.files.tables import read_table, read_text
from mmearth_data.sampling import largest_remainder
from mmearth_data.sampling.blocks import NO_SPLIT
from mmearth_data.sampling.published import SPLIT_WORDS
from mmearth_data.sources.chips.containers import HDF5, open_array
from mmearth_data.sources.chips.description import SPLITS
from mmearth_data.sources.chips.matching import SHOWN, Names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_data.files.tables import Table
    from mmearth_data.sources.chips.description import Described, Origin
    from mmearth_data.sources.chips.matching import Chip

LEFT_OUT = 254
"""Split of a chip that a list or a table of splits does not name; it is not built."""
EIGHT_DIGITS = re.compile(r"(\d{4})(\d{2})(\d{2})")


@dataclass(frozen=True)
class Facts:
    """Reads the facts of n chips as a chips file describes them.

    Attributes
    ----------
    described
        The chips file.
    chips
        The chips.
    count
        Number of images of the first layer, copies included, which is the length of arrays of facts.
    """

    described: Described
    chips: Sequence[Chip]
    count: int

    def of(self, origin: Origin, *keys: str | int) -> list[Any]:
        """Fact of each chip: text, a number, or an array; None if unknown. ``keys`` lead to the origin in the file."""
        if origin.folder:
            return [PurePosixPath(self._path(chip)).parent.name or None for chip in self.chips]
        if origin.filename is not None:
            return self._from_names(origin.filename, keys)
        if origin.column is not None:
            return self._from_table(origin.column, keys)
        return self._from_array(origin, keys)

    @staticmethod
    def _path(chip: Chip) -> str:
        return chip.images[0]

    def _from_names(self, expression: str, keys: Sequence[str | int]) -> list[Any]:
        found: list[Any] = []
        for chip in self.chips:
            match = re.search(expression, PurePosixPath(self._path(chip)).name)
            if match is None:
                problem = f"expected names that match {expression!r}, got {self._path(chip)!r}; correct the expression."
                raise self.described.refusal(problem, *keys)
            found.append(match[1])
        return found

    def _from_table(self, column: str, keys: Sequence[str | int]) -> list[Any]:
        table = self.table
        if column not in table.columns:
            known = ", ".join(table.columns)
            raise self.described.refusal(f"expected a column of {table.path.name} ({known}), got {column!r}.", *keys)
        values = table.columns[column]
        return [None if row is None else _filled(values[row]) for row in self.rows]

    @cached_property
    def table(self) -> Table:
        """The table of the chips."""
        entry = self.described.file.table
        assert entry is not None
        return read_table(self.described.beside(entry.file))

    @cached_property
    def rows(self) -> list[int | None]:
        """Row of the table of each chip; None without one."""
        entry = self.described.file.table
        assert entry is not None
        table = self.table
        if entry.image is None:
            if len(table) != self.count:
                raise FileInputError(table.path, f"expected {self.count} rows, one per image, got {len(table)}.")
            return [chip.at for chip in self.chips]
        names = Names([chip.name for chip in self.chips])
        rows: list[int | None] = [None] * len(self.chips)
        for row, name in enumerate(table.require([entry.image]).columns[entry.image]):
            at = names.find(str(name))
            if at is not None and rows[at] is not None:
                problem = f"expected one row per image, got a second one of {name!r}; keep one."
                raise FileInputError(table.path, problem, table.lines[row])
            if at is not None:
                rows[at] = row
        if all(row is None for row in rows):
            problem = (
                f"column {entry.image}: expected names of images such as {self.chips[0].name!r}, found none of them"
            )
            raise FileInputError(table.path, f"{problem}; correct table.image.", table.header_line)
        return rows

    def _from_array(self, origin: Origin, keys: Sequence[str | int]) -> list[Any]:
        images = self.described.file.modalities[0].images or self.described.file.images
        path = self.described.beside(images if origin.file is None else origin.file)
        if origin.dataset is not None and path.suffix.lower() not in (*HDF5, ".npz"):
            raise self.described.refusal("expected images in HDF5 or .npz for a dataset; name a file instead.", *keys)
        array = open_array(path, origin.dataset)
        if array.shape[0] != self.count or len(array.shape) > 2:
            problem = f"expected one entry for each of {self.count} images, got the shape {array.shape}"
            raise self.described.refusal(f"{problem}; choose another array.", *keys)
        values = array.all()
        if values.dtype.kind not in "iufbUOST":
            raise self.described.refusal(f"expected numbers or text, got {values.dtype}; convert them.", *keys)
        values = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        plain = values if values.ndim == 2 else values.tolist()
        return [_filled(plain[chip.at]) for chip in self.chips]

    @property
    def notes(self) -> list[str]:
        """Notes about the table for the user."""
        if self.described.file.table is None or not self.chips:
            return []
        lacking = [chip.name for chip, row in zip(self.chips, self.rows, strict=True) if row is None]
        spare = len(self.table) - (len(self.chips) - len(lacking))
        notes = (
            [f"{len(lacking)} images have no row in {self.table.path.name}, such as {lacking[0]}."] if lacking else []
        )
        return notes + ([f"{spare} rows of {self.table.path.name} name no image that is used."] if spare else [])

    def numbers(self, origin: Origin, name: str, low: float, high: float) -> NDArray[np.float64]:
        """Numbers of a field, such as degrees; NaN if unknown. FileInputError outside the limits."""
        found = np.full(len(self.chips), np.nan)
        for at, value in enumerate(self.of(origin, name)):
            if value is None:
                continue
            try:
                found[at] = self.number(origin, value)
            except (TypeError, ValueError):
                raise self._refused(name, "a number", at, value) from None
            if np.isfinite(found[at]) and not low <= found[at] <= high:
                raise self._refused(name, f"a number from {low:g} to {high:g}", at, value)
        return np.where(np.isfinite(found), found, np.nan)

    def number(self, origin: Origin, value: Any) -> float:  # noqa: ANN401 - as read
        """Convert a fact, with the decimal separator of the table; TypeError or ValueError if it is not a number."""
        if origin.column is not None and isinstance(value, str) and self.table.decimal == "," and "." not in value:
            return float(value.replace(",", "."))
        return float(np.asarray(value, dtype=np.float64).item())

    def times(self, origin: Origin) -> list[int]:
        """Dates as UTC milliseconds since 1970; `NO_TIME` if unknown."""
        return [self._time(at, value) for at, value in enumerate(self.of(origin, "date"))]

    def _time(self, at: int, value: Any) -> int:  # noqa: ANN401 - as read
        if value is None:
            return NO_TIME
        text = EIGHT_DIGITS.sub(r"\1-\2-\3", str(value).strip(), count=1)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self._refused("date", "a date such as 2021-07-23 or 20210723", at, value) from None
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return int(moment.timestamp() * 1000)

    def _refused(self, name: str, expected: str, at: int, value: object) -> FileInputError:
        problem = (
            f"{name}: expected {expected}, got {value!r} for {self.chips[at].name}; correct it, or leave it empty."
        )
        return self.described.refusal(problem, name)


def _filled(value: Any) -> Any:  # noqa: ANN401 - whatever a table or array has
    """Value of a cell; None if it is blank or NaN."""
    if (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and np.isnan(value))
    ):
        return None
    return value.strip() if isinstance(value, str) else value


def splits_of(facts: Facts, seed: int, strata: Callable[[str], Sequence[Any]]) -> NDArray[np.uint8] | None:
    """Split of each chip, `LEFT_OUT` for those that a list or table does not name; None if the recipe assigns them.

    ``strata`` returns the class of each chip by a label.
    """
    entry = facts.described.file.splits
    if entry is None:
        return None
    if entry.shares is not None:
        groups = [None] * len(facts.chips) if entry.stratify is None else strata(entry.stratify)
        return _shared(facts.chips, groups, entry.shares, seed)
    origin = entry.origin()
    if origin is not None:
        return _words(facts, facts.of(origin, "splits"))
    return _lists(facts, entry.lists())


def _shared(chips: Sequence[Chip], groups: Sequence[Any], shares: Sequence[float], seed: int) -> NDArray[np.uint8]:
    """Random splits, with the same shares of every group."""
    split = np.full(len(chips), NO_SPLIT, dtype=np.uint8)
    names = np.array([str(group) for group in groups])
    for at, group in enumerate(np.unique(names)):
        members = np.random.default_rng((seed, at)).permutation(np.flatnonzero(names == group))
        counts = largest_remainder(np.asarray(shares), len(members))
        split[members] = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts)
    return split


def _words(facts: Facts, words: Sequence[Any]) -> NDArray[np.uint8]:
    split = np.full(len(words), LEFT_OUT, dtype=np.uint8)
    for at, word in enumerate(words):
        kind = SPLIT_WORDS.get(str(word).lower()) if word is not None else LEFT_OUT
        if kind is None:
            problem = f"expected train, val or test (or 0, 1, 2), got {word!r} for {facts.chips[at].name}; correct it."
            raise facts.described.refusal(problem, "splits")
        split[at] = kind
    return split


def _lists(facts: Facts, files: dict[str, str]) -> NDArray[np.uint8]:
    names = Names([chip.name for chip in facts.chips])
    split = np.full(len(facts.chips), LEFT_OUT, dtype=np.uint8)
    for word, file in files.items():
        path = facts.described.beside(file)
        lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
        found = [(number, line, names.find(line)) for number, line in lines]
        for number, line, at in found:
            if at is not None and split[at] != LEFT_OUT:
                raise FileInputError(path, f"expected every image in one split, got {line!r} twice; keep one.", number)
            if at is not None:
                split[at] = SPLIT_WORDS[word]
        if lines and all(at is None for *_, at in found):
            some = ", ".join(chip.name for chip in facts.chips[:SHOWN])
            raise FileInputError(path, f"expected names of images ({some}, ...), found none of them; correct them.")
    return split
