"""The fields of a planet, set up once per seed and shared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mmearth_data.planet.ecology import CLIMATE_FIELDS, Ecology
from mmearth_data.planet.land import Land, natural_earth
from mmearth_data.planet.noise import NoiseBank, Octaves
from mmearth_data.planet.terrain import (
    COARSE_FIELDS,
    COAST_FIELDS,
    KM,
    VALLEY_FIELDS,
    WARP_FIELDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PLANET_VERSION = 4
"""Part of every store's identity; increased whenever a pixel of the planet changes."""
COVER_FIELDS = {
    "people": Octaves((760 * KM, 290 * KM, 95 * KM), (1, 0.8, 0.6)),
    "red": Octaves((620 * KM, 150 * KM, 36 * KM, 9 * KM), (1, 0.8, 0.6, 0.4)),
    "sand": Octaves((880 * KM, 230 * KM, 58 * KM, 14 * KM), (1, 0.8, 0.6, 0.4)),
    "bright": Octaves((300 * KM, 70 * KM, 16 * KM, 4.2 * KM), (1, 0.8, 0.7, 0.6)),
    "murk": Octaves((110 * KM, 24 * KM, 5.5 * KM), (1, 0.8, 0.5)),
    "pools": Octaves((5.4 * KM, 2.3 * KM, 1.05 * KM), (1, 0.75, 0.5)),
    "farms": Octaves((31 * KM, 8.3 * KM, 3.1 * KM), (0.7, 1, 0.7)),
    "woods": Octaves((13 * KM, 5.2 * KM, 2.1 * KM, 1.02 * KM), (0.6, 1, 0.9, 0.8)),
    "conifers": Octaves((42 * KM, 12 * KM, 3.9 * KM, 1.5 * KM), (0.8, 0.8, 0.8, 0.6)),
    "patches": Octaves((9.1 * KM, 3.7 * KM, 1.4 * KM), (0.7, 1, 0.8)),
    "damp": Octaves((6.7 * KM, 2.6 * KM, 1.1 * KM), (0.8, 1, 0.8)),
    "stands": Octaves((17 * KM, 4.4 * KM, 1.25 * KM), (1, 0.9, 0.9)),
}
"""Variation within one climate, from regions down to a kilometre."""


@dataclass(frozen=True, slots=True)
class World:
    """One planet."""

    seed: int
    """Determines everything but the land."""
    land: Land
    ecology: Ecology
    smooth: NoiseBank
    """Fields that are computed on lattices."""
    lines: NoiseBank
    """Fields of valleys and ridges, computed at warped points."""

    def __reduce__(self) -> tuple[Callable[[int], World], tuple[int]]:
        """Pickle as a seed, from which everything follows."""
        return world, (self.seed,)


@lru_cache(maxsize=4)
def world(seed: int) -> World:
    """Planet of a seed."""
    land = natural_earth()
    return World(
        seed=seed,
        land=land,
        ecology=Ecology(seed, land),
        smooth=NoiseBank(seed, {**COARSE_FIELDS, **CLIMATE_FIELDS, **WARP_FIELDS, **COAST_FIELDS, **COVER_FIELDS}),
        lines=NoiseBank(seed, VALLEY_FIELDS),
    )
