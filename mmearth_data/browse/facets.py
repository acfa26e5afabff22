"""Choices of the filter form, and the number of tiles of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.browse.filters import LEVELS, SPLITS, label_names
from mmearth_data.browse.index import split_codes
from mmearth_data.pages.style import class_styles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.browse.filters import Selection
    from mmearth_data.browse.index import TileIndex

UNKNOWN_COLOUR = "#71717a"


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of a list of choices."""

    name: str
    """Its value in the query of a filter, and its text."""
    code: int
    colour: str
    marker: str
    path: str
    """Shape of its marker for the legend, as an SVG path of 16 by 16 units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """A list of choices, of which a tile has exactly one."""

    key: str
    """Name in the query of a filter."""
    title: str
    choices: tuple[Choice, ...]
    codes: NDArray[np.uint8]
    """(n,) code of each tile."""
    field: str
    """Field of the filter."""

    @property
    def classes(self) -> NDArray[np.uint8]:
        """(n,) position of each tile's choice."""
        position = np.full(256, len(self.choices) - 1, dtype=np.uint8)
        for number, choice in enumerate(self.choices):
            position[choice.code] = number
        found: NDArray[np.uint8] = position[self.codes]
        return found

    def counts(self, selection: Selection) -> list[int]:
        """Tiles of each choice that meet the conditions on everything else."""
        counts = np.bincount(self.codes[selection.mask_without(self.field)], minlength=256)
        return [int(counts[choice.code]) for choice in self.choices]


def facets_of(index: TileIndex) -> tuple[Facet, ...]:
    """List the choices of a store: splits, classes and levels that occur."""
    found = [
        Facet(
            key="split",
            title="Split",
            choices=_choices([(code, SPLITS.get(code, str(code)), None) for code in split_codes(index)]),
            codes=index.split,
            field="splits",
        )
    ]
    if index.label_of is not None:
        names, present = label_names(index), set(np.unique(index.label).tolist())
        colours = {label.code: label.colour for label in index.label_of.classes}
        rows = [(code, name, colours.get(code, UNKNOWN_COLOUR)) for code, name in names.items() if code in present]
        title = index.label_of.long_name
        found.append(Facet(key="class", title=title, choices=_choices(rows), codes=index.label, field="labels"))
    levels = [code for code in LEVELS if code in set(np.unique(index.level).tolist())]
    rows = [(code, LEVELS[code], None) for code in levels]
    found.append(
        Facet(key="level", title="Sentinel-2 level", choices=_choices(rows), codes=index.level, field="levels")
    )
    return tuple(facet for facet in found if facet.choices)


def _choices(rows: Sequence[tuple[int, str, str | None]]) -> tuple[Choice, ...]:
    """Choices of (code, name, colour); those without a colour get a default colour."""
    styles = class_styles([name for _, name, _ in rows])
    return tuple(
        Choice(style.name, code, colour or style.colour, style.marker, style.path)
        for style, (code, _, colour) in zip(styles, rows, strict=True)
    )


def modality_counts(selection: Selection) -> list[int]:
    """Tiles with observed values of each stored modality, among those that meet the conditions on everything else."""
    values, of_tile = selection.index.combinations
    counts = np.bincount(of_tile[selection.mask_without("modalities")], minlength=len(values))
    bits = np.arange(len(selection.index.stored), dtype=np.uint32)
    return [int(counts[(values >> bit & 1).astype(bool)].sum()) for bit in bits]
