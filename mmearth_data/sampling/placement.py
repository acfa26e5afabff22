"""Place points uniformly at random in polygons, at a distance from each other, until quotas are met or no more fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.catalog.tile import round_lonlat
from mmearth_data.geography.equal_area import X_PER_DEGREE, Floats, Ints, latitude_of_y, sums, y_of_latitude
from mmearth_data.geography.pieces import Pieces, contains

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data.sampling.blocks import Blocks
    from mmearth_data.sampling.spacing import Placed

SPARE = 1.03
"""Factor by which more points are generated than expected to be needed, which saves rounds."""
MOST_DRAWN = 4_000_000
"""Maximum number of points per round, which bounds memory."""
PATIENCE = 40
"""Trials per available tile position, after which the remaining tiles count as not fitting."""
RESERVE_PATIENCE = 4
LEAST_TRIES = 400


@dataclass(frozen=True)
class Points:
    """Locations, one entry each."""

    lon: Floats
    lat: Floats
    """Degrees, rounded to 1e-6."""
    piece: Ints
    """Position of the piece that contains each point."""

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Points:
        """Select points."""
        return Points(self.lon[index], self.lat[index], self.piece[index])

    @classmethod
    def join(cls, parts: list[Points]) -> Points:
        """Concatenate points, in order."""
        if not parts:
            return cls(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("lon", "lat", "piece")))


class Field:
    """The land on which points are placed: pieces sorted into bins, one per stratum and split.

    ``bin_of_piece`` is the bin of each piece, ``blocks`` the splits of the cells (None if splits do not depend on
    location), ``guard_m`` the minimum distance from cells of later splits. Results do not depend on ``threads``.
    """

    def __init__(
        self, pieces: Pieces, bin_of_piece: Ints, bins: int, blocks: Blocks | None, guard_m: float, threads: int
    ) -> None:
        order = np.argsort(bin_of_piece, kind="stable")
        self._blocks, self._guard_m, self._threads = blocks, guard_m, threads
        self._order = order
        self._bin = bin_of_piece[order]
        self._geometry = pieces.geometry[order]
        shapely.prepare(self._geometry)
        self._west, self._south, self._east, self._north = self._boxes(pieces, order)
        self._low, self._high = y_of_latitude(self._south), y_of_latitude(self._north)
        ends = np.cumsum((self._east - self._west) * (self._high - self._low))
        last = np.searchsorted(self._bin, np.arange(bins), side="right") - 1
        first = np.searchsorted(self._bin, np.arange(bins), side="left")
        self._first, self._last, self._ends = first, last, ends
        self._start = np.where(first > 0, ends[first - 1], 0.0) if len(ends) else np.zeros(bins)
        self._stop = np.where(last >= first, ends[last], self._start) if len(ends) else np.zeros(bins)
        self.area_m2 = sums(bin_of_piece, pieces.area_m2, bins)

    @staticmethod
    def _boxes(pieces: Pieces, order: Ints) -> tuple[Floats, Floats, Floats, Floats]:
        boxes = np.column_stack(pieces.grid.bounds_of(pieces.cell[order]))
        part = ~shapely.is_missing(pieces.geometry[order])
        boxes[part] = shapely.bounds(pieces.geometry[order][part])
        return boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]

    def draw(self, wanted: Ints, rng: np.random.Generator) -> tuple[Points, Ints]:
        """Generate random points, uniform in the polygons of their bins; those outside are dropped.

        ``wanted`` is the number of points to try per bin. Returns the points inside a polygon and outside the guard, in
        random order, and the number of points per bin inside a polygon, including those within the guard.
        """
        in_bin = np.repeat(np.arange(len(wanted)), wanted)
        target = self._start[in_bin] + rng.random(len(in_bin)) * (self._stop - self._start)[in_bin]
        at = np.clip(np.searchsorted(self._ends, target, side="right"), self._first[in_bin], self._last[in_bin])
        lon = self._west[at] + rng.random(len(at)) * (self._east - self._west)[at]
        lat = latitude_of_y(self._low[at] + rng.random(len(at)) * (self._high - self._low)[at])
        lon, lat = round_lonlat(lon), round_lonlat(lat)
        # Rounding may move a point over an edge by half a millionth of a degree; 180 E is 180 W.
        within = (lon > self._west[at]) & (lon < self._east[at]) & (lat > self._south[at]) & (lat < self._north[at])
        index = np.flatnonzero(within & (np.abs(lon) < 180))
        index = index[contains(self._geometry, at[index], lon[index], lat[index], self._threads)]
        tried = np.bincount(in_bin[index], minlength=len(wanted))
        index = index[rng.permutation(len(index))]
        points = Points(lon[index], lat[index], self._order[at[index]])
        return self._off_guard(points), tried

    def _off_guard(self, points: Points) -> Points:
        if self._blocks is None:
            return points
        split = self._blocks.split_of(self._blocks.grid.cell_of(points.lon, points.lat)).astype(np.int64)
        return points.take(~self._blocks.too_close(points.lon, points.lat, split, self._guard_m))

    def efficiency(self) -> Floats:
        """Estimate, per bin, the fraction of random points that are inside a polygon."""
        boxes = (self._stop - self._start) * X_PER_DEGREE
        return np.where(boxes > 0, self.area_m2 / np.maximum(boxes, 1e-300), 1.0)


@dataclass
class Filling:
    """State while bins are filled."""

    field: Field
    placed: Placed
    bin_of_piece: Ints
    rng: np.random.Generator
    arrived: Callable[[int], None] = lambda count: None
    """Called with the number of points of every round."""

    def fill(self, quota: Ints, patience: float) -> tuple[list[Points], Ints]:
        """Place up to ``quota`` points per bin.

        Returns the points in order of placement, and their number per bin: less than the quota if no more fit.
        """
        count = np.zeros_like(quota)
        tried = np.zeros_like(quota)
        room = self.field.area_m2 / self.placed.spacing.footprint_m2()
        limit = np.where(self.field.area_m2 > 0, patience * room + LEAST_TRIES, 0)
        success = self.field.efficiency()
        parts: list[Points] = []
        while (short := np.where(tried < limit, quota - count, 0)).any():
            draws = np.ceil(short / np.maximum(success, 0.02) * SPARE + np.sqrt(short))
            draws = _bounded(draws, np.where(short > 0, limit - tried, 0))
            points, inside = self.field.draw(draws, self.rng)
            tried += np.maximum(inside, 1) * (draws > 0)
            new = points.take(self.placed.choose(points.lon, points.lat))
            new, per_bin = self._within_quota(new, quota - count)
            self.placed.add(new.lon, new.lat)
            count += per_bin
            parts.append(new)
            self.arrived(len(new.lon))
            success = np.where(draws > 0, (per_bin + 0.5) / (np.maximum(draws, 1) + 1), success)
        return parts, count

    def _within_quota(self, points: Points, open_: Ints) -> tuple[Points, Ints]:
        bins = self.bin_of_piece[points.piece]
        keep = position_in_bin(bins) < open_[bins]
        return points.take(keep), np.bincount(bins[keep], minlength=len(open_))


def position_in_bin(bins: Ints) -> Ints:
    """Count, for each entry, the earlier entries of the same bin."""
    order = np.argsort(bins, kind="stable")
    nth = np.empty(len(bins), dtype=np.int64)
    nth[order] = np.arange(len(bins)) - np.searchsorted(bins[order], bins[order], side="left")
    return nth


def _bounded(draws: Floats, left: Floats) -> Ints:
    """Whole number of trials per bin, limited by the trials left and by the maximum per round."""
    draws = np.minimum(draws, 4 * left + 8 * (left > 0))
    found: Ints = np.ceil(draws * min(1.0, MOST_DRAWN / max(draws.sum(), 1.0))).astype(np.int64)
    return found
