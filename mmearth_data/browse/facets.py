"""Choices of the filter form, and how many tiles each of them has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.browse.filters import LEVELS, SPLITS, label_names
from mmearth_data.browse.index import split_codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.browse.filters import Selection
    from mmearth_data.browse.index import TileIndex

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#8c8c8c")
"""Okabe and Ito 2008, "Color Universal Design": visible on light and dark backgrounds."""
DOT = "M8 6.2a1.8 1.8 0 1 1-.01 0z"
CIRCLE, SQUARE, DIAMOND = "M8 2a6 6 0 1 1-.01 0z", "M3 3h10v10H3z", "M8 1l5 7-5 7-5-7z"
HEXAGON = "M8 1.5l5.8 3.2v6.6L8 14.5l-5.8-3.2V4.7z"
MARKERS = {
    "circle": CIRCLE,
    "square": SQUARE,
    "triangle": "M8 2l6 11H2z",
    "diamond": DIAMOND,
    "inverted_triangle": "M8 14l6-11H2z",
    "hex": HEXAGON,
    "star": "M8 1l2.1 4.9 5.3.5-4 3.5 1.2 5.2L8 12.4l-4.6 2.7 1.2-5.2-4-3.5 5.3-.5z",
    "square_pin": "M2 2q6 3 12 0-3 6 0 12-6-3-12 0 3-6 0-12z",
    "plus": "M6 2h4v4h4v4h-4v4H6v-4H2V6h4z",
    "triangle_pin": "M8 1q1 7 7 12-7-2-14 0 6-5 7-12z",
    "circle_dot": CIRCLE + DOT,
    "square_dot": SQUARE + DOT,
    "diamond_dot": DIAMOND + DOT,
    "hex_dot": HEXAGON + DOT,
}
"""Shapes of single tiles, so that classes differ not only by colour; the outline of each for the legend (SVG, 16 px)."""
UNKNOWN_COLOUR = "#71717a"


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of a list of choices."""

    name: str
    """Its value in the query of a filter, and its text."""
    code: int
    colour: str
    marker: str

    @property
    def outline(self) -> str:
        """Path of its marker, for the legend."""
        return MARKERS[self.marker]


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
    markers = tuple(MARKERS)
    return tuple(
        Choice(name, code, colour or COLOURS[number % len(COLOURS)], markers[number % len(markers)])
        for number, (code, name, colour) in enumerate(rows)
    )


def modality_counts(selection: Selection) -> list[int]:
    """Tiles with observed values of each stored modality, among those that meet the conditions on everything else."""
    values, of_tile = selection.index.combinations
    counts = np.bincount(of_tile[selection.mask_without("modalities")], minlength=len(values))
    bits = np.arange(len(selection.index.stored), dtype=np.uint32)
    return [int(counts[(values >> bit & 1).astype(bool)].sum()) for bit in bits]
