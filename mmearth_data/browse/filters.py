"""The filter of the page, as a value and as the query of a URL, and the mask of the tiles that it selects."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

import numpy as np

from mmearth_data.browse.index import NO_DAY, NO_LABEL
from mmearth_data.catalog.tile import LEVEL_NAMES, LEVEL_NONE
from mmearth_data.errors import InputError
from mmearth_data.store.schema import SPLIT_NAMES, SPLIT_NONE
from mmearth_data.store.selection import distinct_names
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from mmearth_data.browse.index import TileIndex

NONE = "none"
SPLITS = {**SPLIT_NAMES, SPLIT_NONE: NONE}
LEVELS = {**LEVEL_NAMES, LEVEL_NONE: NONE}
EVERY_SHARE = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that a tile must meet; None, an empty tuple or the whole range is no condition.

    Attributes
    ----------
    splits, labels, levels
        Codes, of which a tile must have one.
    first_day, last_day
        Days since 1970, both included; tiles without a date meet no such condition.
    modalities
        Names of modalities of which the tile must have observed values.
    share
        Least and greatest share of the stored modalities that are observed, 0 to 1.
    """

    splits: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    first_day: int | None = None
    last_day: int | None = None
    levels: tuple[int, ...] | None = None
    modalities: tuple[str, ...] = ()
    share: tuple[float, float] = EVERY_SHARE

    def query(self, index: TileIndex) -> str:
        """Text of the filter for a URL; `from_query` reads it."""
        parts: list[tuple[str, str]] = []
        for key, codes, names in _coded(self, index):
            parts += [(key, names[code]) for code in codes or ()] or ([(key, "")] if codes is not None else [])
        for key, day in (("from", self.first_day), ("to", self.last_day)):
            parts += [] if day is None else [(key, str(np.datetime64(day, "D")))]
        parts += [("has", name) for name in self.modalities]
        if self.share != EVERY_SHARE:
            parts.append(("observed", f"{self.share[0]:g}:{self.share[1]:g}"))
        return urlencode(parts)


def _coded(chosen: Filter, index: TileIndex) -> Iterable[tuple[str, tuple[int, ...] | None, Mapping[int, str]]]:
    """(key in a query, codes, names) of the conditions that are lists of codes."""
    return (
        ("split", chosen.splits, SPLITS),
        ("class", chosen.labels, label_names(index)),
        ("level", chosen.levels, LEVELS),
    )


def label_names(index: TileIndex) -> dict[int, str]:
    """Distinct name of each class by its code, and of no class."""
    classes = () if index.label_of is None else index.label_of.classes
    return {**distinct_names({label.code: label.name for label in classes}), NO_LABEL: "not labelled"}


def from_query(text: str, index: TileIndex) -> Filter:
    """Filter of a URL's query.

    Raises
    ------
    InputError
        If it has an unknown key or value.

    Examples
    --------
    >>> from_query("split=train&split=val&from=2019-01-01", index)  # doctest: +SKIP
    Filter(splits=(0, 1), labels=None, first_day=17897, ...)
    """
    given = parse_qs(text, keep_blank_values=True)
    known = ("split", "class", "level", "from", "to", "has", "observed")
    for key in given:
        if key not in known:
            raise InputError(f"Expected a filter of {', '.join(known)}, got {key!r}; {did_you_mean(key, known)}")
    codes = {key: _codes(key, given[key], names) if key in given else None for key, _, names in _coded(Filter(), index)}
    for name in given.get("has", ()):
        if name not in index.stored:
            raise InputError(f"has: expected a stored modality, got {name!r}; {did_you_mean(name, index.stored)}")
    return Filter(
        splits=codes["split"],
        labels=codes["class"],
        levels=codes["level"],
        first_day=_day("from", given),
        last_day=_day("to", given),
        modalities=tuple(given.get("has", ())),
        share=_share(given["observed"][-1]) if "observed" in given else EVERY_SHARE,
    )


def _codes(key: str, names: Iterable[str], known: Mapping[int, str]) -> tuple[int, ...]:
    code_of = {name: code for code, name in known.items()}
    found = []
    for name in filter(None, names):
        if name not in code_of:
            raise InputError(f"{key}: expected one of {', '.join(code_of)}, got {name!r}.")
        found.append(code_of[name])
    return tuple(found)


def _day(key: str, given: Mapping[str, list[str]]) -> int | None:
    text = given.get(key, [""])[-1]
    if not text:
        return None
    problem = f"{key}: expected a date such as 2019-06-01, got {text!r}."
    try:
        day = np.datetime64(text, "D")
    except ValueError as error:
        raise InputError(problem) from error
    if np.isnat(day):
        raise InputError(problem)
    return int(day.astype(np.int64))


def _share(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise InputError(f"observed: expected two shares such as 0.5:1, got {text!r}.") from error
    if not 0 <= low <= high <= 1:
        raise InputError(f"observed: expected two ascending shares from 0 to 1, got {text!r}.")
    return low, high


class Selection:
    """Tiles that meet a filter.

    Each tile has one bit per condition that it fails; if a condition changes, only its bit is computed again.
    """

    def __init__(self, index: TileIndex) -> None:
        self.index = index
        self.filter = Filter()
        self._failed = np.zeros(len(index), dtype=np.uint8)
        self.mask: NDArray[np.bool_] = np.ones(len(index), dtype=bool)
        """(n,) True for the selected tiles."""
        self.count = len(index)

    def apply(self, chosen: Filter) -> bool:
        """Select the tiles that meet another filter; returns False if nothing changes."""
        if chosen == self.filter:
            return False
        for bit, (fields, passes) in enumerate(CONDITIONS):
            if any(getattr(chosen, name) != getattr(self.filter, name) for name in fields):
                self._renew(np.uint8(1 << bit), passes(self.index, chosen))
        self.filter = chosen
        self.mask = self._failed == 0
        self.count = int(np.count_nonzero(self.mask))
        return True

    def change(self, **fields: Any) -> bool:
        """Change some fields of the filter."""
        return self.apply(dataclasses.replace(self.filter, **fields))

    def mask_without(self, *fields: str) -> NDArray[np.bool_]:
        """(n,) True for the tiles that meet all conditions but that on some fields."""
        bit = sum(1 << number for number, (names, _) in enumerate(CONDITIONS) if names == fields)
        if all(getattr(self.filter, name) == getattr(Filter(), name) for name in fields):
            return self.mask
        kept: NDArray[np.bool_] = self._failed & np.uint8(255 - bit) == 0
        return kept

    def _renew(self, bit: np.uint8, passing: NDArray[np.bool_] | None) -> None:
        self._failed &= ~bit
        if passing is not None:
            self._failed |= np.where(passing, np.uint8(0), bit)


def _by_code(codes: NDArray[np.uint8], wanted: tuple[int, ...] | None) -> NDArray[np.bool_] | None:
    if wanted is None:
        return None
    allowed = np.zeros(256, dtype=bool)
    allowed[list(wanted)] = True
    found: NDArray[np.bool_] = allowed[codes]
    return found


def _by_date(index: TileIndex, chosen: Filter) -> NDArray[np.bool_] | None:
    if chosen.first_day is None and chosen.last_day is None:
        return None
    passing: NDArray[np.bool_] = index.day != NO_DAY
    if chosen.first_day is not None:
        passing &= index.day >= chosen.first_day
    if chosen.last_day is not None:
        passing &= index.day <= chosen.last_day
    return passing


def _by_modalities(index: TileIndex, chosen: Filter) -> NDArray[np.bool_] | None:
    if not chosen.modalities:
        return None
    bits = np.uint32(sum(1 << index.stored.index(name) for name in chosen.modalities))
    passing: NDArray[np.bool_] = index.valid & bits == bits
    return passing


def _by_share(index: TileIndex, chosen: Filter) -> NDArray[np.bool_] | None:
    if chosen.share == EVERY_SHARE:
        return None
    total = len(index.stored)
    shares = np.arange(256) / total
    low, high = chosen.share
    slack = 1e-9
    allowed = (shares >= low - slack) & (shares <= high + slack)
    found: NDArray[np.bool_] = allowed[index.observed]
    return found


CONDITIONS: tuple[tuple[tuple[str, ...], Callable[[TileIndex, Filter], NDArray[np.bool_] | None]], ...] = (
    (("splits",), lambda index, chosen: _by_code(index.split, chosen.splits)),
    (("labels",), lambda index, chosen: _by_code(index.label, chosen.labels)),
    (("levels",), lambda index, chosen: _by_code(index.level, chosen.levels)),
    (("first_day", "last_day"), _by_date),
    (("modalities",), _by_modalities),
    (("share",), _by_share),
)
"""(fields of a filter, mask of the tiles that meet them or None if all do), in the order of the bits."""
