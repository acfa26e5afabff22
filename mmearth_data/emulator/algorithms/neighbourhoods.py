"""Kernels, and what is computed from the neighbours of a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.emulator.algorithms.image import FLOAT, Band, Grid, Image, Pixels, PixelType, least, shown
from mmearth_data.emulator.algorithms.reducers import Output, Reducer, simple
from mmearth_data.emulator.algorithms.resampling import aspect, pixel_metres, slope
from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import encode, function, named

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.image import Mask
    from mmearth_data.emulator.graph.registry import Value

    Float = NDArray[np.float64]

LARGEST_RADIUS_PX = 256
TINY = 1e-9


@named("Kernel")
@dataclass(frozen=True)
class Kernel:
    """Weights around a pixel."""

    shape: Callable[[float], Float]  # Gives (rows, columns) of weights for a radius in pixels; 0 where nothing counts
    radius: float = 1.0  # In units
    units: str = "pixels"  # ``pixels`` or ``meters``
    normalize: bool = False  # Whether the weights sum to one, and a factor on them
    magnitude: float = 1.0

    def weights(self, grid: Grid) -> Float:
        """Weights on a grid, odd in both directions."""
        radius = self.radius if self.units == "pixels" else self.radius / grid.projection.nominal_scale
        if radius > LARGEST_RADIUS_PX:
            raise EmulatorError("The kernel is too large: at most 512 pixels across are allowed.")
        weights = self.shape(radius)
        total = weights.sum()
        if self.normalize and total != 0:
            weights = weights / total
        return weights * self.magnitude


@encode.register(Kernel)
def _(value: Kernel) -> Value:
    return {"type": "Kernel", "radius": value.radius, "units": value.units}


def _offsets(radius: float) -> tuple[Float, Float]:
    """(dy, dx) of the pixels within a radius, each (rows, columns)."""
    reach = math.floor(radius + 1e-9)
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    dx, dy = np.meshgrid(steps, steps)
    return dy, dx


def _flat(inside: Callable[[Float, Float, float], NDArray[np.bool_]]) -> Callable[[float], Float]:
    """Ones where a pixel, (dy, dx) away, is inside a shape of a radius."""
    return lambda radius: np.asarray(inside(*_offsets(radius), radius), np.float64)


def _distances(distance: Callable[[Float, Float], Float]) -> Callable[[float], Float]:
    def shape(radius: float) -> Float:
        away = distance(*_offsets(radius))
        return np.where(away <= radius + TINY, away, 0.0)

    return shape


FLAT: dict[str, Callable[[float], Float]] = {
    "circle": _flat(lambda dy, dx, radius: np.hypot(dy, dx) <= radius + TINY),
    "square": _flat(lambda dy, *_: np.ones_like(dy, bool)),
    "diamond": _flat(lambda dy, dx, radius: np.abs(dy) + np.abs(dx) <= radius + TINY),
    "plus": _flat(lambda dy, dx, _: (dy == 0) | (dx == 0)),
    "cross": _flat(lambda dy, dx, _: np.abs(dy) == np.abs(dx)),
    "octagon": _flat(lambda dy, dx, radius: np.abs(dy) + np.abs(dx) <= 1.5 * radius + TINY),
}
DISTANCES: dict[str, Callable[[float], Float]] = {
    "euclidean": _distances(np.hypot),
    "manhattan": _distances(lambda dy, dx: np.abs(dy) + np.abs(dx)),
    "chebyshev": _distances(lambda dy, dx: np.maximum(np.abs(dy), np.abs(dx))),
}
TABLES: dict[str, list[list[float]]] = {
    "laplacian4": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "laplacian8": [[1, 1, 1], [1, -8, 1], [1, 1, 1]],
    "sobel": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "prewitt": [[1, 0, -1], [1, 0, -1], [1, 0, -1]],
    "roberts": [[1, 0], [0, -1]],
    "compass": [[1, 1, -1], [1, -2, -1], [1, 1, -1]],
    "kirsch": [[5, -3, -3], [5, 0, -3], [5, -3, -3]],
}
"""Earth Engine's reference."""


def _enter_shape(name: str, shape: Callable[[float], Float], *, normalized: bool) -> None:
    @function(f"Kernel.{name}")
    def make(radius: float, units: str = "pixels", normalize: bool = normalized, magnitude: float = 1.0) -> Kernel:
        return Kernel(shape, radius, _units(units), normalize, magnitude)


def _enter_table(name: str, table: list[list[float]]) -> None:
    @function(f"Kernel.{name}")
    def make(magnitude: float = 1.0, normalize: bool = False) -> Kernel:
        return _fixed(np.array(table, np.float64), normalize, magnitude)


def _units(units: str) -> str:
    if units not in {"pixels", "meters"}:
        raise EmulatorError(f"Kernel: Invalid units '{units}'. Expected 'pixels' or 'meters'.")
    return units


def _fixed(weights: Float, normalize: bool, magnitude: float = 1.0) -> Kernel:
    height, width = (n + 1 - n % 2 for n in weights.shape)
    padded = np.zeros((height, width))
    padded[: weights.shape[0], : weights.shape[1]] = weights
    return Kernel(lambda _: padded, 1.0, "pixels", normalize, magnitude)


for _name, _shape in {**FLAT, **DISTANCES}.items():
    _enter_shape(_name, _shape, normalized=_name in FLAT)
for _name, _table in TABLES.items():
    _enter_table(_name, _table)


@function("Kernel.rectangle")
def rectangle(
    xRadius: float, yRadius: float, units: str = "pixels", normalize: bool = True, magnitude: float = 1.0
) -> Kernel:
    """Kernel of ones in a rectangle."""
    ratio = yRadius / xRadius

    def shape(radius: float) -> Float:
        across, down = math.floor(radius + 1e-9), math.floor(radius * ratio + 1e-9)
        return np.ones((2 * down + 1, 2 * across + 1))

    return Kernel(shape, xRadius, _units(units), normalize, magnitude)


@function("Kernel.gaussian")
def gaussian(
    radius: float, sigma: float = 1.0, units: str = "pixels", normalize: bool = True, magnitude: float = 1.0
) -> Kernel:
    """Kernel of a bell curve."""
    share = sigma / radius

    def shape(pixels: float) -> Float:
        dy, dx = _offsets(pixels)
        width = share * pixels
        return np.asarray(np.exp(-(dy**2 + dx**2) / (2 * width**2)) / (2 * np.pi * width**2))

    return Kernel(shape, radius, _units(units), normalize, magnitude)


@function("Kernel.fixed")
def fixed(
    weights: list[list[float]], width: int = -1, height: int = -1, x: int = -1, y: int = -1, normalize: bool = False
) -> Kernel:
    """Kernel of given weights around its centre."""
    table = np.array(weights, np.float64)
    for name, size, focus, actual in (("width", width, x, table.shape[1]), ("height", height, y, table.shape[0])):
        if size not in {-1, actual}:
            raise EmulatorError(f"Kernel.fixed: {name} is {size}, the weights have {actual}.")
        if focus not in {-1, actual // 2, -(actual // 2)}:
            raise not_emulated("Kernel.fixed with a focus that is not its centre")
    return _fixed(table, normalize)


# ---------------------------------------------------------------- neighbours


def neighbours(band: Band, grid: Grid, weights: Float) -> tuple[Float, NDArray[np.bool_], Float]:
    """(values, valid, weights) of the pixels around each, (neighbour, row, column); those of weight 0 are left out."""
    down, across = weights.shape[0] // 2, weights.shape[1] // 2
    wide = Grid(grid.projection, grid.column - across, grid.row - down, grid.width + 2 * across, grid.height + 2 * down)
    values, valid = band.evaluate(wide)
    rows, columns = np.nonzero(weights)
    at = [
        (slice(r, r + grid.height), slice(c, c + grid.width))
        for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    each = weights[rows, columns]
    return (
        np.stack([values[part] for part in at]),
        np.stack([valid[part] for part in at]),
        np.broadcast_to(each[:, None, None], (len(at), *grid.shape)),
    )


WEIGHTS: dict[str, Callable[[Float, Mask], Float]] = {
    "kernel": lambda kernel, mask: kernel,
    "mask": lambda kernel, mask: mask.astype(np.float64),
    "min": lambda kernel, mask: np.minimum(kernel, mask),
}
"""Weights of neighbours: the kernel, their masks, or the smaller of the two; Earth Engine's reference."""


def _reduced(band: Band, reducer: Reducer, kernel: Kernel, *, weight: str = "mask", centre: bool = False) -> Band:
    def evaluate(grid: Grid) -> Pixels:
        values, valid, weights = neighbours(band, grid, kernel.weights(grid))
        ((found, fine),) = reducer.over([(values, shown(valid))], WEIGHTS[weight](weights, valid))
        if centre:
            fine = least(fine, band.evaluate(grid).valid)
        return Pixels(np.where(fine, found, 0.0), fine)

    return band.derived(evaluate, reducer.outputs[0].type)


@function("Image.reduceNeighborhood")
def reduce_neighborhood(
    image: Image, reducer: Reducer, kernel: Kernel, inputWeight: str = "kernel", skipMasked: bool = True
) -> Image:
    """Reduce the neighbours of each pixel, weighted by a kernel, by their masks, or by the smaller of the two."""
    if inputWeight not in WEIGHTS:
        raise EmulatorError(f"Image.reduceNeighborhood: Invalid inputWeight '{inputWeight}'. Expected {list(WEIGHTS)}.")

    def made(band: Band, output: Output) -> Band:
        only = replace(reducer, outputs=(output,))
        reduced = _reduced(band, only, kernel, weight=inputWeight, centre=skipMasked)
        return replace(reduced, name=f"{band.name}_{output.name}")

    return image.with_bands(tuple(made(band, output) for band in image.bands for output in reducer.outputs))


@function("Image.convolve")
def convolve(image: Image, kernel: Kernel) -> Image:
    """Weighted sum of the neighbours; masked where the pixel itself is."""

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid, weights = neighbours(band, grid, kernel.weights(grid))
            return Pixels(np.where(valid, values * weights, 0.0).sum(axis=0), band.evaluate(grid).valid)

        return band.derived(evaluate, FLOAT)

    return image.mapped(change)


def _enter_focal(method: str, *names: str) -> None:
    def focal(
        image: Image,
        radius: float = 1.5,
        kernelType: str = "circle",
        units: str = "pixels",
        iterations: int = 1,
        kernel: Kernel | None = None,
    ) -> Image:
        if kernel is None and kernelType not in FLAT:
            raise EmulatorError(f"Image.{names[0]}: Unknown kernel type '{kernelType}'.")
        shape = kernel or Kernel(FLAT[kernelType], radius, _units(units))
        for _ in range(iterations):
            image = image.mapped(lambda band: _reduced(band, simple(method), shape))
        return image

    focal.__doc__ = f"`{method}` of the neighbours."
    function(*(f"Image.{name}" for name in names))(focal)


for _method in ("Min", "Max", "Mean", "Median", "Mode"):
    _enter_focal(_method.lower(), f"focal{_method}", f"focal_{_method.lower()}")


# ---------------------------------------------------------------- slopes


@function("Image.gradient")
def gradient(input: Image) -> Image:
    """Change per metre to the east and to the north."""
    if not input.bands:
        raise EmulatorError("Image.gradient: the input has no bands.")
    band = input.bands[0]

    def axis(k: int) -> Callable[[Grid], Pixels]:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid.padded(1))
            step_x, step_y = pixel_metres(grid)
            middle, first, last = slice(1, -1), slice(None, -2), slice(2, None)
            after, before = ((middle, last), (middle, first)) if k == 0 else ((first, middle), (last, middle))
            change = (values[after] - values[before]) / (2 * (step_x, step_y)[k])
            fine = least(valid[after], valid[before])
            return Pixels(np.where(fine, change, 0.0), fine)

        return evaluate

    return input.with_bands(tuple(replace(band.derived(axis(k), FLOAT), name=name) for k, name in enumerate("xy")))


@function("Terrain.hillshade")
def hillshade(input: Image, azimuth: float = 270.0, elevation: float = 45.0) -> Image:
    """Light on slopes under a sun, 0-255."""
    steep, facing = slope(input).bands[0], aspect(input).bands[0]
    high, turn = math.radians(elevation), math.radians(azimuth)

    def lit(slopes: Pixels, aspects: Pixels) -> Pixels:
        tilt, face = np.radians(slopes.values), np.radians(aspects.values)
        light = math.sin(high) * np.cos(tilt) + math.cos(high) * np.sin(tilt) * np.cos(turn - face)
        return Pixels(np.where(slopes.valid, np.round(255 * np.maximum(light, 0)), 0.0), slopes.valid)

    shade = steep.computed(lit, facing, type=PixelType("int", 0, 255))
    return input.with_bands((Band("hillshade", shade.type, steep.projection, shade.evaluate),))


@function("Terrain.products", "Terrain")
def products(input: Image) -> Image:
    """Elevation with its slope, aspect and hillshade."""
    made = (slope(input), aspect(input), hillshade(input))
    return input.with_bands((*input.bands, *(image.bands[0] for image in made)))
