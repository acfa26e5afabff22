"""Native pixel grids, their windows, and the coarse lattice on which smooth fields are computed.

A smooth field is computed at the nodes of a lattice that belongs to the grid (every k-th pixel corner, counted from the
grid's origin) and interpolated to pixels. The lattice does not move with the window, so a pixel has the same value in
every window.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmearth_data.catalog.tile import WGS84, transformer
from mmearth_data.planet.kernels import bilinear, blend
from mmearth_data.planet.lazy import lazy
from mmearth_data.planet.noise import Chart, Part, chart_of, face_uv, faces_among, faces_of, unit_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.planet.noise import Float32, Float64


@dataclass(frozen=True, slots=True)
class Grid:
    """An infinite pixel grid, north up.

    The centre of pixel (column, row) is at ``x0 + (column + 1/2) * step``, ``y0 - (row + 1/2) * step``.
    """

    epsg: int
    step: tuple[int, int]
    """Side of a pixel, as a fraction (numerator, denominator) in units of the CRS: 1/12000 degree is exact."""
    origin: tuple[float, float] = (0, 0)
    """(x0, y0)."""
    stride: int = 16
    """Pixels between two nodes of the lattice for smooth fields."""
    substride: int = 4
    """Pixels between two nodes of the finer lattice (a divisor of the stride)."""

    @property
    def geographic(self) -> bool:
        """True where coordinates are degrees."""
        return self.epsg == WGS84

    @property
    def lattice(self) -> tuple[int, Fraction, tuple[float, float]]:
        """Identity of its lattice."""
        return self.epsg, Fraction(*self.step) * self.stride, self.origin

    def x(self, column: NDArray[Any]) -> Float64:
        """X of a position in pixels (0.0: left edge of column 0)."""
        return self.origin[0] + column * self.step[0] / self.step[1]

    def y(self, row: NDArray[Any]) -> Float64:
        """Y of a position in pixels (0.0: upper edge of row 0)."""
        return self.origin[1] - row * self.step[0] / self.step[1]

    def column(self, x: Float64) -> Float64:
        """Inverse of `x`."""
        return (x - self.origin[0]) * self.step[1] / self.step[0]

    def row(self, y: Float64) -> Float64:
        """Inverse of `y`."""
        return (self.origin[1] - y) * self.step[1] / self.step[0]


class Window(NamedTuple):
    """A rectangle of pixels of a grid."""

    column: int
    row: int
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.height, self.width)

    def padded(self, pixels: int) -> Window:
        """Window with a margin on all sides."""
        return Window(self.column - pixels, self.row - pixels, self.width + 2 * pixels, self.height + 2 * pixels)

    def contains(self, other: Window) -> bool:
        """Whether the other window is inside this one."""
        return (
            self.column <= other.column
            and self.row <= other.row
            and other.column + other.width <= self.column + self.width
            and other.row + other.height <= self.row + self.height
        )

    def slices_of(self, other: Window) -> tuple[slice, slice]:
        """(rows, columns) of the other window within an array of this one."""
        top, left = other.row - self.row, other.column - self.column
        return slice(top, top + other.height), slice(left, left + other.width)

    def aligned(self, pixels: int) -> Window:
        """Smallest window around this one whose edges are multiples of a number of pixels."""
        left, top = self.column // pixels, self.row // pixels
        right = -((-self.column - self.width) // pixels)
        bottom = -((-self.row - self.height) // pixels)
        return Window(left * pixels, top * pixels, (right - left) * pixels, (bottom - top) * pixels)

    def coarser(self, pixels: int) -> Window:
        """Return an aligned window in blocks of pixels."""
        return Window(self.column // pixels, self.row // pixels, self.width // pixels, self.height // pixels)

    def finer(self, pixels: int) -> Window:
        """Return the window in smaller pixels, so many along the side of each of its own."""
        return Window(self.column * pixels, self.row * pixels, self.width * pixels, self.height * pixels)


def bilinear_cover(window: Window, pixels: int) -> Window:
    """Coarse pixels (multiples of fine ones) whose centres surround all fine centres of a window."""
    half = pixels // 2
    first = [(2 * start + 1 - pixels) // (2 * pixels) for start in (window.column, window.row)]
    last = [
        -((pixels - 2 * (start + count - 1) - 1) // (2 * pixels))
        for start, count in ((window.column, window.width), (window.row, window.height))
    ]
    return Window(first[0], first[1], last[0] - first[0] + 1, last[1] - first[1] + 1) if half else window


class Axis(NamedTuple):
    """Position of the pixels along one axis between the nodes of the lattice."""

    first: int
    """Index of the first node of the patch."""
    nodes: int
    below: NDArray[np.intp]
    """Position, in the patch, of the node before each pixel centre."""
    linear: Float32
    """(2, pixel) weights of the nodes before and after."""
    spline: Float32
    """(4, pixel) weights of a uniform cubic B-spline."""
    exact: Float64
    """As `linear`, in full precision."""


@lru_cache(maxsize=32)
def _weights(stride: int, centre: float) -> tuple[Float32, Float64]:
    """Weights by a pixel's position between two nodes: linear (2 rows) and B-spline (4 rows); linear in float64."""
    t = (np.arange(stride) + centre) / stride
    linear = np.stack([1 - t, t])
    spline = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    return np.concatenate([linear, spline]).astype(np.float32), linear


@lru_cache(maxsize=512)
def axis(start: int, count: int, stride: int, centre: float = 0.5) -> Axis:
    """Weights of the pixels ``start ... start + count - 1``; each depends on the pixel alone.

    ``stride`` is the number of pixels between nodes; ``centre`` the position of a value within its pixel: 0.5, or 0 for
    nodes of a finer lattice.
    """
    first = start // stride - 1
    place = np.arange(start - (first + 1) * stride, start - (first + 1) * stride + count)
    whole = place // stride
    single, double = _weights(stride, centre)
    phase = place - whole * stride
    weights, exact = single.take(phase, axis=1), double.take(phase, axis=1)
    return Axis(
        first=first,
        nodes=int(whole[-1]) + 4,
        below=whole + 1,
        linear=weights[:2],
        spline=weights[2:],
        exact=exact,
    )


class Nodes:
    """Nodes of a lattice (that of ``grid``, or of any grid with the same one), and their positions.

    ``block`` is a window of the lattice.
    """

    def __init__(self, grid: Grid, block: Window) -> None:
        self.grid = grid
        self.block = block

    @lazy
    def lonlat(self) -> tuple[Float64, Float64]:
        """Degrees, each (row, column)."""
        k, b = self.grid.stride, self.block
        x = self.grid.x(k * (b.column + np.arange(b.width, dtype=np.float64)))
        y = self.grid.y(k * (b.row + np.arange(b.height, dtype=np.float64)))
        xx, yy = np.meshgrid(x, y)
        if self.grid.geographic:
            return xx, yy
        lon, lat = transformer(self.grid.epsg, WGS84).transform(xx, yy)
        return lon, lat

    @lazy
    def xyz(self) -> Float64:
        """Points on the unit sphere, (3, row, column)."""
        return unit_vectors(*self.lonlat)

    @lazy
    def chart(self) -> Chart:
        """Their chart."""
        return chart_of(self.xyz)


class Patch:
    """A window of a grid, between nodes of its lattice.

    Given ``nodes`` of the same lattice are reused if they extend far enough.
    """

    def __init__(self, grid: Grid, window: Window, nodes: Nodes | None = None) -> None:
        self.grid = grid
        self.window = window
        self.rows = axis(window.row, window.height, grid.stride)
        self.columns = axis(window.column, window.width, grid.stride)
        k, ratio = grid.substride, grid.stride // grid.substride
        self._sub_rows = axis(window.row, window.height, k)
        self._sub_columns = axis(window.column, window.width, k)
        self._to_sub = (
            axis(self._sub_rows.first, self._sub_rows.nodes, ratio, 0),
            axis(self._sub_columns.first, self._sub_columns.nodes, ratio, 0),
        )
        (top, rows), (left, columns) = (
            _union(*pair) for pair in zip((self.rows, self.columns), self._to_sub, strict=True)
        )
        block = Window(left, top, columns, rows)
        self.nodes = nodes if nodes is not None and nodes.block.contains(block) else Nodes(grid, block)

    @lazy
    def chart(self) -> Chart:
        """Chart of the pixels."""
        return self.pixel_chart(self.nodes.xyz)

    def pixel_chart(self, xyz: Float64) -> Chart:
        """Chart of the pixels for nodes at given points, (3, node row, node column)."""
        return _chart_between(self._of(xyz, self.rows, self.columns), self.rows, self.columns)

    def sub_chart(self, xyz: Float64) -> Chart:
        """Chart of the finer lattice's nodes for nodes at given points."""
        return _chart_between(self._of(xyz, *self._to_sub), *self._to_sub)

    def linear(self, nodes: Float32) -> Float32:
        """Interpolate bilinearly: (..., node row, node column) to (..., row, column)."""
        r, c = self.rows, self.columns
        part = self._of(nodes, r, c)
        return _leading(bilinear(_stacked(part), r.below, c.below, r.linear[1], c.linear[1]), part)

    def spline(self, nodes: Float32) -> Float32:
        """Smooth by a uniform cubic B-spline, which leaves no edges that hill shading would show."""
        return _blend(self._of(nodes, self.rows, self.columns), self.rows, self.columns, smooth=True)

    def from_sub(self, values: Float32) -> Float32:
        """Smooth values at the finer lattice's nodes by a B-spline: (..., node row, node column) to pixels."""
        return _blend(values, self._sub_rows, self._sub_columns, smooth=True)

    def _of(self, nodes: NDArray[Any], rows: Axis, columns: Axis) -> NDArray[Any]:
        top, left = rows.first - self.nodes.block.row, columns.first - self.nodes.block.column
        return nodes[..., top : top + rows.nodes, left : left + columns.nodes]


class PixelFields(dict[str, "Float32"]):
    """Fields of a patch's nodes, (field, node row, node column), interpolated to pixels on first use."""

    def __init__(self, patch: Patch, names: tuple[str, ...], values: Float32) -> None:
        super().__init__()
        self._patch = patch
        self._nodes = dict(zip(names, values, strict=True))

    def __missing__(self, name: str) -> Float32:
        self[name] = self._patch.linear(self._nodes[name])
        return self[name]


def _union(a: Axis, b: Axis) -> tuple[int, int]:
    """(first, count) of the nodes that two axes need."""
    first = min(a.first, b.first)
    return first, max(a.first + a.nodes, b.first + b.nodes) - first


def _chart_between(xyz: Float64, rows: Axis, columns: Axis) -> Chart:
    """Chart of points between nodes: interpolated on the faces, and divided at their edges point by point."""
    faces = faces_among(xyz)
    shape = (len(rows.below), len(columns.below))
    owner = None
    if len(faces) > 1:
        owner = faces_of(_blend(xyz, rows, columns))
    parts = []
    for face in faces:
        u, v = _blend(np.stack(face_uv(xyz, face)), rows, columns)
        if owner is None:
            parts.append(Part(face, None, u, v))
        elif (owner == face).any():
            where = owner == face
            parts.append(Part(face, where, u[where], v[where]))
    return Chart(shape, tuple(parts))


def _blend(nodes: NDArray[Any], rows: Axis, columns: Axis, *, smooth: bool = False) -> NDArray[Any]:
    """Interpolate between nodes: linearly in full precision, or smoothly by a B-spline."""
    before, weights = (1, (rows.spline, columns.spline)) if smooth else (0, (rows.exact, columns.exact))
    return _leading(blend(_stacked(nodes), rows.below - before, columns.below - before, *weights), nodes)


def _stacked(nodes: NDArray[Any]) -> NDArray[Any]:
    """(..., row, column) as (field, row, column)."""
    return np.ascontiguousarray(nodes).reshape(-1, *nodes.shape[-2:])


def _leading(values: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """(field, row, column) with the leading axes of another array."""
    return values.reshape(*like.shape[:-2], *values.shape[-2:])
