"""From native grids to the tile's grid: copied if the pixels are the same, otherwise nearest or bilinear."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M, WGS84, transformer
from mmearth_data.planet.grids import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Resampling
    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.planet.grids import Grid
    from mmearth_data.planet.products import Layer

    Float64 = NDArray[np.float64]
    Reader = Callable[[Window], Layer]

NODE_PX = 16


class Sampled(NamedTuple):
    """A band on the tile's grid."""

    values: NDArray[np.float32]
    valid: NDArray[np.bool_] | None
    """None where nothing is masked."""


class Nearest:
    """Takes, for every pixel of a tile, the native pixel that contains its centre.

    ``column``, ``row`` are the positions of the tile's pixel centres in native pixels (0.5: centre of pixel 0): of the
    tile's shape or, if the grids share a CRS, (1, columns) and (rows, 1).
    """

    def __init__(self, column: Float64, row: Float64) -> None:
        columns, rows = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
        self.window = _window(columns, rows)
        straight = column.shape[0] == 1 and np.all(np.diff(columns) == 1) and np.all(np.diff(rows, axis=0) == 1)
        self._at = ... if straight else (rows - self.window.row, columns - self.window.column)

    def __call__(self, read: Reader) -> Sampled:
        """Pixels on the tile's grid; identical pixels are copied."""
        values, valid = read(self.window)
        return Sampled(values[self._at].astype(np.float32), None if valid is None else valid[self._at])


class Bilinear:
    """Takes, for every pixel of a tile, the mean of the four native pixels around its centre, weighted by distance.

    A pixel is masked if one with a weight is masked. How Earth Engine treats masked neighbours is not documented; this
    rule never invents a value.
    """

    def __init__(self, column: Float64, row: Float64) -> None:
        columns, rows = (np.floor(axis - 0.5).astype(np.int64) for axis in (column, row))
        self._s = (column - 0.5 - columns).astype(np.float32)
        self._t = (row - 0.5 - rows).astype(np.float32)
        self.window = _window(columns, rows, beyond=1)
        self._columns, self._rows = columns - self.window.column, rows - self.window.row
        self._separable = column.shape[0] == 1

    def __call__(self, read: Reader) -> Sampled:
        """Pixels on the tile's grid."""
        values, valid = read(self.window)
        mixed = self._mix(values.astype(np.float32))
        if valid is None:
            return Sampled(mixed, None)
        return Sampled(mixed, self._mix((~valid).astype(np.float32)) == 0)

    def _mix(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        s, t = self._s, self._t
        if self._separable:
            rows, columns = self._rows[:, 0], self._columns[0]
            tall = values.take(rows, axis=0) * (1 - t) + values.take(rows + 1, axis=0) * t
            mixed: NDArray[np.float32] = tall.take(columns, axis=1) * (1 - s) + tall.take(columns + 1, axis=1) * s
        else:
            flat, width = values.ravel(), values.shape[1]
            at = self._rows * width + self._columns
            upper = flat.take(at) * (1 - s) + flat.take(at + 1) * s
            lower = flat.take(at + width) * (1 - s) + flat.take(at + (width + 1)) * s
            mixed = upper * (1 - t) + lower * t
        return mixed


class TilePixels:
    """Pixel centres of a tile, and their positions in other grids."""

    def __init__(self, grid: TileGrid) -> None:
        self.grid = grid
        self._coordinates: dict[int, tuple[Float64, Float64]] = {}
        self._samplers: dict[tuple[Grid, str], Nearest | Bilinear] = {}

    def sampler(self, grid: Grid, resampling: Resampling) -> Nearest | Bilinear:
        """Resampler from a grid to the tile's; identical pixels are copied with either method."""
        key = (grid, resampling)
        if key not in self._samplers:
            column, row = self.positions(grid)
            same_crs = column.shape[0] == 1
            aligned = same_crs and not np.any(column % 1 != 0.5) and not np.any(row % 1 != 0.5)
            self._samplers[key] = (Nearest if aligned or resampling == "nearest" else Bilinear)(column, row)
        return self._samplers[key]

    def positions(self, grid: Grid) -> tuple[Float64, Float64]:
        """(column, row) of pixel centres on another grid (see `Nearest`)."""
        x, y = self.coordinates(grid.epsg)
        return grid.column(x), grid.row(y)

    def coordinates(self, epsg: int) -> tuple[Float64, Float64]:
        """(x, y) of pixel centres in another CRS."""
        if epsg not in self._coordinates:
            if epsg == self.grid.epsg:
                x, y = self.grid.pixel_centres()
                self._coordinates[epsg] = x[None, :], y[:, None]
            else:
                self._coordinates[epsg] = _transformed(self.grid, epsg)
        return self._coordinates[epsg]


def _transformed(grid: TileGrid, epsg: int) -> tuple[Float64, Float64]:
    """Pixel centres in another CRS: exact at nodes, cubic between them (to a micrometre)."""
    x, y = grid.pixel_centres()
    column, weights_x = _lagrange(x / PIXEL_M)
    row, weights_y = _lagrange(y / PIXEL_M)
    nodes_x = np.arange(column[0] - 1, column[-1] + 3) * float(NODE_PX * PIXEL_M)
    nodes_y = np.arange(row.min() - 1, row.max() + 3) * float(NODE_PX * PIXEL_M)
    far = np.array(transformer(grid.epsg, WGS84).transform(*np.meshgrid(nodes_x, nodes_y)))
    if epsg != WGS84:  # through degrees: making a transformer for each pair of zones would take 5 ms
        far = np.array(transformer(WGS84, epsg).transform(*far))
    else:
        far[0] = far[0, 0, 0] + (far[0] - far[0, 0, 0] + 180) % 360 - 180
    first_row, first_column = int(row.min()), int(column[0])
    tall = np.sum([far[:, row - first_row + k] * weights_y[k][:, None] for k in range(4)], axis=0)
    wide = np.sum([tall[:, :, column - first_column + k] * weights_x[k] for k in range(4)], axis=0)
    return wide[0], wide[1]


def _lagrange(position: Float64) -> tuple[NDArray[np.int64], list[Float64]]:
    """Node before each position, and the weights of the four nodes around it."""
    whole = np.floor(position / NODE_PX)
    t = position / NODE_PX - whole
    weights = [
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    ]
    return whole.astype(np.int64), weights


def _window(column: NDArray[np.int64], row: NDArray[np.int64], beyond: int = 0) -> Window:
    left, top = int(column.min()), int(row.min())
    return Window(left, top, int(column.max()) - left + 1 + beyond, int(row.max()) - top + 1 + beyond)
