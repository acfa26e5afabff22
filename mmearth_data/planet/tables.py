"""The planet's tables (``catalog/planet``): biomes, land covers, spectra of materials."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.files.tables import read_table
from mmearth_data.resources import resource_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_BIOME = -1


def _rows(name: str) -> list[dict[str, str]]:
    table = read_table(resource_path("catalog") / "planet" / f"{name}.csv", comments=True)
    return [row for _, row in table.rows()]


@dataclass(frozen=True)
class Covers:
    """Land covers: one entry per row and column of ``covers.csv``."""

    names: tuple[str, ...]
    text: dict[str, tuple[str, ...]]
    number: dict[str, NDArray[np.float32]]

    def code(self, name: str) -> np.int8:
        """Index of a land cover."""
        return np.int8(self.names.index(name))

    @property
    def confused_with(self) -> NDArray[np.int8]:
        """Land cover that each is most easily confused with."""
        return np.array([self.code(name) for name in self.text["confused_with"]], np.int8)


@lru_cache(maxsize=1)
def covers() -> Covers:
    """Read ``covers.csv``."""
    rows = _rows("covers")
    text, number = {}, {}
    for column in rows[0]:
        values = tuple(row[column] for row in rows)
        try:
            number[column] = np.array(values, np.float32)
        except ValueError:
            text[column] = values
    return Covers(names=text.pop("cover"), text=text, number=number)


@lru_cache(maxsize=1)
def biome_traits() -> tuple[dict[int, int], dict[str, NDArray[np.float32]]]:
    """Read ``biomes.csv``: biome id -> row, and trait -> value per row."""
    rows = _rows("biomes")
    index = {int(row["biome"]): k for k, row in enumerate(rows)}
    traits = {name: np.array([row[name] for row in rows], np.float32) for name in rows[0] if name != "biome"}
    return index, traits


@lru_cache(maxsize=1)
def spectra() -> dict[str, dict[str, float]]:
    """Read ``spectra.csv``: material -> band -> reflectance."""
    return {row.pop("material"): {band: float(value) for band, value in row.items()} for row in _rows("spectra")}
