"""Facts about a store that catalogs and other programs need: the licences of its data, and its extent in space and time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

DEGREE_M = 110_574.0
"""Metres per degree of latitude at the equator, where a degree is shortest (WGS 84)."""
CELL_DEGREES = 0.25
"""Width of the strips of longitude of an `ExtentsMerger`, which keeps the westernmost and easternmost longitude of each."""


@dataclass(frozen=True, slots=True)
class LicenceUse:
    """A licence, and the modalities of a store that it applies to."""

    name: str
    """Name of the licence, as in the catalog."""
    url: str
    """URL of its text."""
    spdx: str
    """SPDX licence expression: an identifier of the SPDX list, or ``LicenseRef-...`` for a licence that is not listed."""
    modalities: tuple[str, ...]
    """Names of the modalities that it applies to."""
    attributions: tuple[str, ...]
    """Attribution lines that it requires, without duplicates."""


def licences(modalities: Iterable[Modality]) -> tuple[LicenceUse, ...]:
    """Licences of some modalities, without duplicates, in the order of the modalities.

    Parameters
    ----------
    modalities
        Usually ``layout.stored``, since derived modalities are computed from coordinates and have no stored data.
    """
    grouped: dict[tuple[str, str], list[Modality]] = {}
    for m in modalities:
        grouped.setdefault((m.licence.name, m.licence.url), []).append(m)
    return tuple(
        LicenceUse(
            name=name,
            url=url,
            spdx=spdx(name),
            modalities=tuple(m.name for m in members),
            attributions=tuple(dict.fromkeys(m.licence.attribution for m in members)),
        )
        for (name, url), members in grouped.items()
    )


def spdx(name: str) -> str:
    """SPDX licence expression of a licence: its name if SPDX lists it, otherwise a ``LicenseRef`` made from the name.

    Examples
    --------
    >>> spdx("CC-BY-4.0"), spdx("Copernicus DEM licence")
    ('CC-BY-4.0', 'LicenseRef-Copernicus-DEM-licence')
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression  # its list takes 20 ms

    try:
        return str(canonicalize_license_expression(name))
    except InvalidLicenseExpression:
        return "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "unnamed")


def spdx_of_all(modalities: Iterable[Modality]) -> str:
    """SPDX licence expression of several modalities together, to which the terms of all licences apply."""
    parts = dict.fromkeys(use.spdx for use in licences(modalities))
    return " AND ".join(f"({part})" if " " in part and len(parts) > 1 else part for part in parts)


def licence_summary(modalities: Iterable[Modality]) -> str:
    """Describe the licences of several modalities in one line: each with its URL and the modalities that it applies to."""
    uses = licences(modalities)
    named = [f"{use.name} ({use.url})" if use.url else use.name for use in uses]
    parts = [f"{', '.join(use.modalities)}: {name}" for use, name in zip(uses, named, strict=True)]
    return "; ".join(parts) if len(uses) > 1 else "".join(named)


@dataclass(frozen=True, slots=True)
class Extents:
    """Extent of the tiles of a store in space and time."""

    west: float
    """Degrees, -180 to 180; greater than ``east`` if the tiles are on both sides of 180 degrees, as in GeoJSON."""
    south: float
    east: float
    north: float
    start: np.datetime64 | None
    """Time of the first scene, UTC, in milliseconds; None if no tile has a known time."""
    end: np.datetime64 | None
    """Time of the last scene."""

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees."""
        return self.west, self.south, self.east, self.north


@dataclass
class ExtentsMerger:
    """Computes the extents of tiles that are added in parts; its memory does not depend on their number.

    Parameters
    ----------
    size_px
        Width and height of the tiles in pixels. Extents cover the centres of the tiles plus half a diagonal, which exceeds
        the exact outlines by less than half a tile.
    """

    size_px: int
    _west: NDArray[np.float64] = field(default_factory=lambda: np.full(round(360 / CELL_DEGREES), np.inf))
    _east: NDArray[np.float64] = field(default_factory=lambda: np.full(round(360 / CELL_DEGREES), -np.inf))
    _lat: tuple[float, float] = (math.inf, -math.inf)
    _time: tuple[np.datetime64, ...] = ()

    def add(self, columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Add tiles: ``tile_id``, ``lon``, ``lat`` (degrees) and ``time`` (datetime64, or int64 milliseconds), each (n,).

        Rows without a tile (tile id 0), and unknown locations and times, are ignored.
        """
        tiles = columns["tile_id"] != 0
        lon, lat = columns["lon"][tiles], columns["lat"][tiles]
        known = np.isfinite(lon) & np.isfinite(lat)
        if known.any():
            self._add_places(lon[known], lat[known])
        time = columns["time"][tiles].astype("datetime64[ms]")
        time = time[~np.isnat(time)]
        if len(time):
            times = (*self._time, time.min(), time.max())
            self._time = (min(times), max(times))

    def _add_places(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> None:
        reach = self.size_px * PIXEL_M * math.sqrt(0.5) / DEGREE_M
        self._lat = (min(self._lat[0], lat.min() - reach), max(self._lat[1], lat.max() + reach))
        across = reach / np.maximum(np.cos(np.deg2rad(lat)), reach / 180)
        eastward = (lon + 180) % 360
        strip = np.minimum((eastward / CELL_DEGREES).astype(np.intp), len(self._west) - 1)
        np.minimum.at(self._west, strip, eastward - across)
        np.maximum.at(self._east, strip, eastward + across)

    def extents(self) -> Extents | None:
        """Extents of the tiles that were added; None if no tile has a known location."""
        used = np.isfinite(self._west)
        if not used.any():
            return None
        west, east = _shortest_arc(self._west[used], self._east[used])
        start, end = self._time or (None, None)
        return Extents(
            west=round(west, 6),
            south=round(float(max(self._lat[0], -90)), 6),
            east=round(east, 6),
            north=round(float(min(self._lat[1], 90)), 6),
            start=start,
            end=end,
        )


def extents(columns: Mapping[str, np.ndarray[Any, Any]], size_px: int) -> Extents | None:
    """Extents of some tiles; see `ExtentsMerger` for the columns. None if no tile has a known location.

    Examples
    --------
    >>> columns = {"tile_id": np.array([1, 2]), "lon": np.array([179.9, -179.9]), "lat": np.array([0.0, 1.0])}
    >>> extents({**columns, "time": np.array(["2018-06-01", "2019-06-01"], "datetime64[ms]")}, 64).bbox
    (179.895907, -0.004093, -179.895907, 1.004093)
    """
    merger = ExtentsMerger(size_px)
    merger.add(columns)
    return merger.extents()


def bounds_of(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[float, float, float, float] | None:
    """West, south, east and north of locations in degrees; None if none is known.

    West is greater than east if the locations are on both sides of 180 degrees, within less than half of the globe.

    Examples
    --------
    >>> bounds_of(np.array([179.5, -179.0]), np.array([0.0, 1.0]))
    (179.5, 0.0, -179.0, 1.0)
    """
    known = np.isfinite(lon) & np.isfinite(lat)
    if not known.any():
        return None
    lon, lat = lon[known], lat[known]
    west, east, eastern = lon.min(), lon.max(), lon >= 0
    if eastern.any() and not eastern.all() and lon[~eastern].max() + 360 - lon[eastern].min() < min(180, east - west):
        west, east = lon[eastern].min(), lon[~eastern].max()
    return float(west), float(lat.min()), float(east), float(lat.max())


def _shortest_arc(west: NDArray[np.float64], east: NDArray[np.float64]) -> tuple[float, float]:
    """Shortest arc of longitude that covers some intervals, which are sorted and counted eastward from 180 degrees W.

    Its ends are from -180 to 180; the first is greater than the second if the arc crosses 180 degrees.
    """
    reached = np.maximum.accumulate(east)
    gaps = np.append(west[1:], west[0] + 360) - reached
    widest = len(gaps) - 1 if gaps[-1] >= gaps.max() else int(gaps.argmax())
    if gaps[widest] <= 0:
        return -180.0, 180.0
    first, last = west[(widest + 1) % len(west)], reached[widest]
    return _from_greenwich(first), _from_greenwich(last)


def _from_greenwich(eastward: float) -> float:
    """Convert a longitude counted eastward from 180 degrees W to -180 to 180; 360 becomes 180, and 0 becomes -180."""
    inside = eastward % 360 if not 0 <= eastward <= 360 else eastward
    return float(inside - 180)
