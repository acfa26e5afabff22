"""Which pixels of a grid a region covers, and the share of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.image import Grid, Projection, parts_of, transformed, window_of
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.server.work import room_for_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    Float = NDArray[np.float64]
    Cells = NDArray[np.int64]

STEPS = 256
"""Steps of the share of a pixel inside a region (8 bits); a share below the first step does not count."""
SHORTEST_PX = 1e-6
"""Shorter pieces of a line are ignored: at the corner of four pixels, they are rounding errors."""


@dataclass(frozen=True)
class Coverage:
    """A region on a pixel grid: polygons cover shares of pixels, points and lines the pixels that they touch."""

    projection: Projection
    area: BaseGeometry  # Polygons, in the CRS of the grid
    cells: Cells  # (n, 2) column and row of the pixels that contain points, or that lines pass through

    @classmethod
    def of(cls, shape: BaseGeometry, projection: Projection) -> Coverage:
        """Coverage of a shape in the CRS of the grid; refuses an empty shape."""
        if shape.is_empty:
            raise EmulatorError(
                "Expected a region that is not empty, found an empty geometry, such as that of a negative buffer; "
                "filter out such regions. Earth Engine does not document its answer, so it is not emulated."
            )
        parts = parts_of(shape)
        areas = [part for part in parts if part.geom_type == "Polygon"]
        whole = len(areas) == len(parts) and shape.geom_type != "GeometryCollection"
        cells = [_touched(part, projection) for part in parts if part.geom_type != "Polygon"]
        return cls(
            projection,
            shape if whole else shapely.union_all(areas),
            np.concatenate([np.empty((0, 2), np.int64), *cells]),
        )

    @cached_property
    def grid(self) -> Grid:
        """Window of the pixels."""
        ends = [self.cells.min(axis=0), self.cells.max(axis=0) + 1] if len(self.cells) else []
        if not self.area.is_empty:
            window = window_of(self.area, self.projection)
            right, bottom = window.column + window.width, window.row + window.height
            ends += [np.array([window.column, window.row]), np.array([right, bottom])]
        (left, top), (right, bottom) = np.min(ends, axis=0).tolist(), np.max(ends, axis=0).tolist()
        return Grid(self.projection, left, top, right - left, bottom - top)

    @property
    def count(self) -> int:
        """Number of pixels; for polygons, of all pixels in their window."""
        return len(self.cells) if self.area.is_empty else self.grid.width * self.grid.height

    @property
    def points(self) -> int:
        """Number of pixels under points and lines, plus an estimate of those in polygons from their area."""
        a, b, _, d, e, _ = self.projection.transform
        return len(self.cells) + round(self.area.area / abs(a * e - b * d))

    def weights(self) -> Float:
        """Share of each pixel of the window inside the region, in steps of 1/256; 1 under points and lines."""
        room_for_pixels(self.grid.width * self.grid.height)
        share = np.zeros(self.grid.shape) if self.area.is_empty else _shares(self.area, self.grid)
        share[self._at] = 1
        return share

    def centred(self) -> NDArray[np.bool_]:
        """Pixels of the window whose centres are inside the region, and those under points and lines."""
        room_for_pixels(self.grid.width * self.grid.height)
        held = np.asarray(shapely.contains_xy(self.area, *self.grid.centres()), dtype=bool)
        held[self._at] = True
        return held

    @property
    def _at(self) -> tuple[Cells, Cells]:
        """(rows, columns) of the window's pixels under points and lines."""
        return self.cells[:, 1] - self.grid.row, self.cells[:, 0] - self.grid.column


def _touched(part: BaseGeometry, projection: Projection) -> Cells:
    """(column, row) of the pixels that contain a point, or that a line passes through."""
    positions = np.stack(projection.to_pixels(*shapely.get_coordinates(part).T), axis=1)
    if len(positions) == 1:
        return np.floor(positions).astype(np.int64)
    ends = np.round(positions, 6)
    return np.concatenate([_crossed(start, end) for start, end in pairwise(ends)])


def _crossed(start: Float, end: Float) -> Cells:
    """(column, row) of the pixels that a straight line passes through: those that contain the middles of its pieces."""
    along = end - start
    borders = [
        (np.arange(np.ceil(min(a, b)), np.floor(max(a, b)) + 1) - a) / (b - a)
        for a, b in zip(start, end, strict=True)
        if a != b
    ]
    cuts = np.unique(np.clip(np.concatenate([[0.0, 1.0], *borders]), 0, 1))
    room_for_pixels(len(cuts))
    pieces = np.diff(cuts)
    counted = pieces * np.hypot(*along) > SHORTEST_PX
    if not counted.any():
        counted[:1] = True
    middles = (cuts[:-1] + pieces / 2)[counted]
    return np.asarray(np.floor(start + middles[:, None] * along), np.int64)


# ---------------------------------------------------------------- shares of pixels


def _stepped(share: Float) -> Float:
    """Round shares down to steps, with a tolerance: rounding errors must not cost a fully covered pixel one step."""
    return np.asarray(np.floor(share * STEPS + 1e-6) / STEPS)


def _shares(shape: BaseGeometry, grid: Grid) -> Float:
    """Share of each pixel that is inside polygons in the grid's CRS."""
    columns = grid.column + np.arange(grid.width + 1, dtype=float)
    rows = grid.row + np.arange(grid.height + 1, dtype=float)
    if _upright(shape, grid.projection):
        return _in_rectangle(shape.bounds, grid.projection, columns, rows)
    shape = transformed(shape, grid.projection.to_pixels)
    left, top = np.meshgrid(columns[:-1], rows[:-1])
    boxes = shapely.box(left, top, left + 1, top + 1)
    shapely.prepare(shape)
    whole = shapely.contains(shape, boxes)
    part = shapely.intersects(shape, boxes) & ~whole
    share = whole.astype(np.float64)
    share[part] = shapely.area(shapely.intersection(shape, boxes[part]))
    return _stepped(share)


def _upright(shape: BaseGeometry, projection: Projection) -> bool:
    """Whether a shape is a rectangle aligned with the pixels, such as the square of a tile on its own grid."""
    west, south, east, north = shape.bounds
    whole = (east - west) * (north - south)
    return projection.straight and bool(whole > 0 and abs(whole - shape.area) <= 1e-9 * whole)


def _in_rectangle(
    bounds: tuple[float, float, float, float], projection: Projection, columns: Float, rows: Float
) -> Float:
    west, south, east, north = bounds
    x, y = projection.to_crs(columns, np.zeros(1))[0], projection.to_crs(np.zeros(1), rows)[1]

    def inside(edge: Float, low: float, high: float) -> Float:
        first, last = np.minimum(edge[:-1], edge[1:]), np.maximum(edge[:-1], edge[1:])
        return np.asarray(np.clip(np.minimum(last, high) - np.maximum(first, low), 0, None) / (last - first))

    return _stepped(np.outer(inside(y, south, north), inside(x, west, east)))
