"""Keep tiles from overlapping: find conflicts among points by hashing them into cells.

Two tiles conflict if both |dx| and |dy| of their centres, in a north-up metric frame between them, are smaller than
`reach_m`; with a minimum distance, also if they are closer than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.geography.equal_area import SEMI_MAJOR_M, Floats, Ints, matches, metres_per_degree

if TYPE_CHECKING:
    from numpy.typing import NDArray

SNAP_M = 20.0
"""Allowance in metres: both tiles are snapped to the 10 m grid, and a UTM metre is up to 0.04 % longer on the
ellipsoid.
"""
ZONE_REACH_DEG = 3.5
"""Degrees to the central meridian of a tile's zone: half a zone, and a little of the neighbouring one."""
WIDE_ZONE_REACH_DEG = 6.5
"""The same distance in the wide zones of Norway and Svalbard."""
GRANULE_OVERHANG_M = 110_000.0
"""Metres by which a Sentinel-2 granule may extend beyond its zone (its side); a tile has the zone of its granule."""
JAMMED = 0.562
"""Share of a plane covered by randomly placed squares when no more fit (Brosilow, Ziff & Vigil 1991)."""
METRES_PER_DEGREE_LAT = 110_574.0
"""Smallest value on the ellipsoid (at the equator)."""


def reach_m(lon: Floats, lat: Floats, size_px: int) -> Floats:
    """Minimum |dx| or |dy| between tile centres, metres.

    10 m * size * (cos g + sin g) + 20 m, where g is the angle between UTM north and true north, at most the tile's
    distance from its central meridian times sin|lat|. That distance is 3.5 degrees, or more where zones are wider or
    where a granule's overhang spans more degrees.
    """
    degrees = np.maximum(ZONE_REACH_DEG, 3.0 + GRANULE_OVERHANG_M / (METRES_PER_DEGREE_LAT * np.cos(np.deg2rad(lat))))
    wide = ((lat >= 55) & (lat < 65) & (lon >= -1) & (lon < 16)) | ((lat >= 71) & (lon >= -8) & (lon < 50))
    degrees = np.where(wide, degrees + (WIDE_ZONE_REACH_DEG - ZONE_REACH_DEG), degrees)
    angle = np.deg2rad(np.minimum(degrees * np.abs(np.sin(np.deg2rad(lat))), 45.0))
    found: Floats = PIXEL_M * size_px * (np.cos(angle) + np.sin(angle)) + SNAP_M
    return found


@dataclass(frozen=True)
class Spacing:
    """Rule for the minimum spacing of tiles."""

    size_px: int
    min_distance_m: float = 0.0
    """Additional minimum distance between centres, 0 for none."""

    def conflict(self, lon1: Floats, lat1: Floats, lon2: Floats, lat2: Floats) -> NDArray[np.bool_]:
        """Whether tiles at two arrays of points are too close, pair by pair."""
        lat = (lat1 + lat2) / 2
        east_m, north_m = metres_per_degree(lat)
        dx = np.abs((lon2 - lon1 + 180) % 360 - 180) * east_m
        dy = np.abs(lat2 - lat1) * north_m
        reach = np.maximum(reach_m(lon1, lat1, self.size_px), reach_m(lon2, lat2, self.size_px))
        close = (dx < reach) & (dy < reach)
        if self.min_distance_m > 0:
            close |= _distance_m(lon1, lat1, lon2, lat2) < self.min_distance_m
        return np.asarray(close, dtype=bool)

    def footprint_m2(self) -> float:
        """Area around a tile without centres of others: the square of its reach, or the disc of the distance.

        Random placement jams when such squares cover 56.2 % of a plane, or discs 54.7 % (Brosilow et al. 1991; Feder
        1980); the disc is scaled so that both jam at the same density.
        """
        reach = float(reach_m(np.array([20.0]), np.array([45.0]), self.size_px)[0])
        return max(reach**2, JAMMED / 0.547 * math.pi / 4 * self.min_distance_m**2)

    def hashing(self) -> CellHash:
        """Cells wide enough that conflicts occur only between neighbouring cells."""
        longest = reach_m(np.array([10.0, 10.0]), np.array([84.0, -80.0]), self.size_px).max()
        return CellHash.of_width(max(float(longest), self.min_distance_m * 1.01))


def _distance_m(lon1: Floats, lat1: Floats, lon2: Floats, lat2: Floats) -> Floats:
    """Great-circle distance on a sphere that is nowhere larger than the ellipsoid."""
    phi1, phi2 = np.deg2rad(lat1), np.deg2rad(lat2)
    half = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin(np.deg2rad(lon2 - lon1) / 2) ** 2
    found: Floats = 2 * SMALLEST_RADIUS_M * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
    return found


SMALLEST_RADIUS_M = SEMI_MAJOR_M * (1 - 1 / 298.257223563) ** 2
"""Meridian radius of curvature at the equator: distances are exact or up to 1 % too short, never too long."""


@dataclass(frozen=True)
class CellHash:
    """Rows of equal height in latitude, each divided into as many columns of a minimum width as fit."""

    height_deg: float
    columns: Ints
    offset: Ints
    """Number of each row's first cell."""

    @classmethod
    def of_width(cls, width_m: float) -> CellHash:
        """Cells at least this wide and high, even when measured one row closer to the pole."""
        height = width_m / METRES_PER_DEGREE_LAT
        count = int(np.ceil(180 / height)) + 2
        south = -90 + height * (np.arange(count) - 1)
        poleward = np.minimum(np.maximum(np.abs(south), np.abs(south + height)) + height, 90.0)
        around_m = 360 * metres_per_degree(poleward)[0]
        columns = np.maximum(np.floor(around_m / width_m).astype(np.int64), 1)
        return cls(height, columns, np.concatenate([[0], np.cumsum(columns)[:-1]]))

    def locate(self, lon: Floats, lat: Floats) -> tuple[Ints, Floats]:
        """(row, fraction of the circle of latitude) of points."""
        row = np.floor((lat + 90) / self.height_deg).astype(np.int64) + 1
        return row, ((lon + 180) / 360) % 1.0

    def keys(self, lon: Floats, lat: Floats) -> Ints:
        """Cell number of points."""
        row, around = self.locate(lon, lat)
        return self.offset[row] + self._column(row, around)

    def _column(self, row: Ints, around: Floats) -> Ints:
        return np.minimum((around * self.columns[row]).astype(np.int64), self.columns[row] - 1)

    def neighbour_ranges(self, lon: Floats, lat: Floats) -> list[tuple[Ints, Ints, Ints]]:
        """Ranges of cells around points: (position of the point, first cell, last cell), no cell twice."""
        row, around = self.locate(lon, lat)
        everyone = np.arange(len(lon))
        ranges = []
        for other in (row - 1, row, row + 1):
            column, count, offset = self._column(other, around), self.columns[other], self.offset[other]
            first, last = np.maximum(column - 1, 0), np.minimum(column + 1, count - 1)
            ranges.append((everyone, offset + first, offset + last))
            for at_end, beyond in ((column == 0, count - 1), (column == count - 1, np.zeros_like(count))):
                across = np.flatnonzero(at_end & ((beyond > last) | (beyond < first)))
                ranges.append((across, (offset + beyond)[across], (offset + beyond)[across]))
        return ranges


@dataclass
class Placed:
    """Growing set of points without conflicts (``lon`` and ``lat`` in degrees), sorted by cell."""

    spacing: Spacing

    def __post_init__(self) -> None:
        self._hash = self.spacing.hashing()
        self.lon, self.lat = np.zeros(0), np.zeros(0)
        self._keys = np.zeros(0, dtype=np.int64)

    def add(self, lon: Floats, lat: Floats) -> None:
        """Add points; the caller must have checked them for conflicts."""
        keys = np.concatenate([self._keys, self._hash.keys(lon, lat)])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self.lon = np.concatenate([self.lon, lon])[order]
        self.lat = np.concatenate([self.lat, lat])[order]

    def blocked(self, lon: Floats, lat: Floats) -> NDArray[np.bool_]:
        """Whether points are too close to one that is placed."""
        theirs, ours = _pairs(self._hash, self._keys, lon, lat)
        close = self.spacing.conflict(self.lon[theirs], self.lat[theirs], lon[ours], lat[ours])
        blocked = np.zeros(len(lon), dtype=bool)
        blocked[ours[close]] = True
        return blocked

    def choose(self, lon: Floats, lat: Floats) -> NDArray[np.bool_]:
        """Accept points in order, each unless it is too close to a placed or an accepted one."""
        free = np.flatnonzero(~self.blocked(lon, lat))
        chosen = np.zeros(len(lon), dtype=bool)
        chosen[free] = _first_come(self._hash, self.spacing, lon[free], lat[free])
        return chosen


def _pairs(cells: CellHash, keys: Ints, lon: Floats, lat: Floats) -> tuple[Ints, Ints]:
    """Positions (in sorted keys, in the points) of all pairs in the same or neighbouring cells."""
    found = []
    sorted_ = np.argsort(cells.keys(lon, lat))  # looking up neighbouring keys one after the other is five times as fast
    for position, first, last in cells.neighbour_ranges(lon[sorted_], lat[sorted_]):
        at, of = matches(keys, first, last)
        found.append((at, sorted_[position[of]]))
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


def _first_come(cells: CellHash, spacing: Spacing, lon: Floats, lat: Floats) -> NDArray[np.bool_]:
    """Greedy choice in order, in rounds: accept points without an undecided earlier rival, reject their rivals."""
    keys = cells.keys(lon, lat)
    order = np.argsort(keys, kind="stable")
    theirs, late = _pairs(cells, keys[order], lon, lat)
    early = order[theirs]
    keep = np.flatnonzero(early < late)
    early, late = early[keep], late[keep]
    keep = np.flatnonzero(spacing.conflict(lon[early], lat[early], lon[late], lat[late]))
    early, late = early[keep], late[keep]
    out = np.zeros(len(lon), dtype=bool)
    while len(early):
        waits = np.zeros(len(lon), dtype=bool)
        waits[late] = True
        out[late[~waits[early]]] = True
        open_ = np.flatnonzero(waits[early] & ~out[early] & ~out[late])
        early, late = early[open_], late[open_]
    return ~out
