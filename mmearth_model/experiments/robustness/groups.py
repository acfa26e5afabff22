"""Groups of tiles that are compared: by season, and by continent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import resolve_region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Groups = tuple[NDArray[np.intp], tuple[str, ...]]

CONTINENTS = ("Africa", "Asia", "Europe", "North America", "South America", "Oceania")
SEASONS = ("winter half-year", "summer half-year")
"""October to March and April to September in the northern hemisphere; the reverse in the southern."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups of samples.

    Attributes
    ----------
    name
        ``season`` or ``continent``.
    groups
        Name of each group, and positions of its training and test samples.
    """

    name: str
    groups: tuple[tuple[str, NDArray[np.intp], NDArray[np.intp]], ...]


def seasons(coords: Mapping[str, NDArray[Any]]) -> Groups:
    """Half-year of each tile (N,): 0 winter, 1 summer, -1 if the date of the scene or the latitude is unknown."""
    time = coords["time"].astype("datetime64[ms]")
    known = ~np.isnat(time) & np.isfinite(coords["lat"])
    month = np.where(known, time, np.datetime64(0, "ms")).astype("datetime64[M]").astype(np.int64) % 12
    summer_in_north = (month >= 3) & (month <= 8)
    summer = summer_in_north == (coords["lat"] >= 0)
    return np.where(known, summer.astype(np.intp), -1), SEASONS


def continents(coords: Mapping[str, NDArray[Any]]) -> Groups:
    """Continent of each tile (N,), as an index into `CONTINENTS`; -1 if it is on none of them."""
    import shapely

    found = np.full(len(coords["lon"]), -1, dtype=np.intp)
    points = shapely.points(coords["lon"], coords["lat"])
    for code, name in enumerate(CONTINENTS):
        area = resolve_region(name).geometry
        if area is not None:
            shapely.prepare(area)
            found[(found < 0) & shapely.contains(area, points)] = code
    return found, CONTINENTS


GROUPS: dict[str, Callable[[Mapping[str, NDArray[Any]]], Groups]] = {"season": seasons, "continent": continents}
"""Comparison -> function that assigns tiles to groups."""
