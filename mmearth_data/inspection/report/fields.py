"""Fields by which the tiles of a report are coloured and filtered: columns of small integers, one value per tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.inspection.maps import coloured_label
from mmearth_data.store.schema import SPLIT_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmearth_data.store import Store

NONE, NO_DATE = "none", "no date"
MOST_MISSING = 4
"""Tiles that lack this many modalities or more are one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One property of the tiles.

    Attributes
    ----------
    name, title
        Name in scripts, and label for users.
    values
        Names of the values that occur.
    codes
        (tiles,) uint8 positions in ``values``.
    """

    name: str
    title: str
    values: tuple[str, ...]
    codes: NDArray[np.uint8]


def fields_of(store: Store) -> tuple[Field, ...]:
    """Split, label, year, product level and completeness of a store's tiles."""
    coords = store.coords
    split = _field("split", "Split", coords["split"], SPLIT_NAMES, NONE)
    years = coords["time"].astype("datetime64[Y]").astype(np.int64) + 1970
    years[np.isnat(coords["time"])] = 0
    known = {int(year): str(year) for year in np.unique(years) if year}
    year = _field("year", "Year", years, known, NO_DATE)
    level = _field("level", "Product level", coords["s2_level"], LEVEL_NAMES, NONE)
    return split, *_label(store), year, level, _valid(store)


def _label(store: Store) -> tuple[Field, ...]:
    m = coloured_label(store.modalities.values())
    if m is None:
        return ()
    codes = store.read(m.name, slice(0, store.layout.tiles))[store.rows]
    names = {label.code: label.name for label in m.classes}
    return (_field("label", m.long_name, codes, names, "not labelled"),)


def _valid(store: Store) -> Field:
    """Count the stored modalities with any value."""
    of = len(store.layout.stored)
    lacking = of - observed_modalities(store).sum(axis=1)
    names = {0: f"all {of}", **{k: f"{of - k} of {of}" for k in range(1, MOST_MISSING)}}
    names[MOST_MISSING] = f"{max(0, of - MOST_MISSING)} or fewer"
    return _field("valid", "Modalities with values", np.minimum(lacking, MOST_MISSING), names, NONE)


def observed_modalities(store: Store) -> NDArray[np.bool_]:
    """(tiles, stored modalities) whether a tile has at least one value of a modality."""
    bits = np.arange(len(store.layout.stored), dtype=np.uint32)
    found: NDArray[np.bool_] = (store.coords["valid"][:, None] >> bits & np.uint32(1)).astype(bool)
    return found


def _field(name: str, title: str, given: NDArray[np.integer], names: Mapping[int, str], other: str) -> Field:
    """Field of the values that occur, in the order of ``names``; codes without a name are the last one."""
    order = [code for code in names if (given == code).any()]
    codes = np.full(len(given), len(order), dtype=np.uint8)
    for position, code in enumerate(order):
        codes[given == code] = position
    rest = bool((codes == len(order)).any())
    return Field(name=name, title=title, values=(*(names[c] for c in order), *([other] if rest else [])), codes=codes)
