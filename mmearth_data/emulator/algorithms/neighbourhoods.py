"""Kernels, and what is computed from the neighbours of a pixel: reductions, convolutions, slopes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.emulator.algorithms.image import FLOAT, Band, Grid, Image, Pixels, PixelType, least, nearest, shown
from mmearth_data.emulator.algorithms.reducers import Output, Reducer, simple
from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import encode, function, functions, named

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.image import Mask
    from mmearth_data.emulator.graph.registry import Context

    Float = NDArray[np.float64]

LARGEST_RADIUS_PX = 256
TINY = 1e-9


@named("Kernel")
@dataclass(frozen=True)
class Kernel:
    """Weights around a pixel."""

    shape: Callable[[float], Float]  # (rows, columns) of weights for a radius in pixels; 0 where nothing counts
    radius: float = 1.0
    units: str = "pixels"  # ``pixels`` or ``meters``
    normalize: bool = False  # Whether the weights sum to one
    magnitude: float = 1.0  # Factor on the weights

    def weights(self, grid: Grid) -> Float:
        """Weights on a grid, odd in both directions."""
        radius = self.radius if self.units == "pixels" else self.radius / grid.projection.nominal_scale
        if radius > LARGEST_RADIUS_PX:
            raise EmulatorError("The kernel is too large: at most 512 pixels across are allowed.")
        weights = self.shape(radius)
        total = weights.sum()
        return (weights / total if self.normalize and total != 0 else weights) * self.magnitude


encode.register(Kernel)(lambda value: {"type": "Kernel", "radius": value.radius, "units": value.units})


def _offsets(radius: float) -> tuple[Float, Float]:
    """(dy, dx) of the pixels within a radius, each (rows, columns)."""
    reach = math.floor(radius + TINY)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    return dy, dx


def _flat(inside: Callable[[Float, Float, float], NDArray[np.bool_]]) -> Callable[[float], Float]:
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


def _of_shape(shape: Callable[[float], Float]) -> Callable[..., Kernel]:
    return lambda radius, units, normalize, magnitude: Kernel(shape, radius, _units(units), normalize, magnitude)


def _of_table(table: list[list[float]]) -> Callable[..., Kernel]:
    return lambda magnitude, normalize: _fixed(np.array(table, np.float64), normalize, magnitude)


def _units(units: str) -> str:
    if units not in {"pixels", "meters"}:
        raise EmulatorError(f"Kernel: Invalid units '{units}'. Expected 'pixels' or 'meters'.")
    return units


def _fixed(weights: Float, normalize: bool, magnitude: float = 1.0) -> Kernel:
    """Kernel of a table, padded to an odd number of rows and columns."""
    padded = np.pad(weights, [(0, 1 - n % 2) for n in weights.shape])
    return Kernel(lambda _: padded, 1.0, "pixels", normalize, magnitude)


functions("Kernel", {name: _of_shape(shape) for name, shape in {**FLAT, **DISTANCES}.items()})
functions("Kernel", {name: _of_table(table) for name, table in TABLES.items()})


@function("Kernel.rectangle")
def _rectangle(xRadius: float, yRadius: float, units: str, normalize: bool, magnitude: float) -> Kernel:
    ratio = yRadius / xRadius

    def shape(radius: float) -> Float:
        across, down = math.floor(radius + TINY), math.floor(radius * ratio + TINY)
        return np.ones((2 * down + 1, 2 * across + 1))

    return Kernel(shape, xRadius, _units(units), normalize, magnitude)


@function("Kernel.gaussian")
def _gaussian(radius: float, sigma: float, units: str, normalize: bool, magnitude: float) -> Kernel:
    share = sigma / radius

    def shape(pixels: float) -> Float:
        dy, dx = _offsets(pixels)
        width = share * pixels
        return np.asarray(np.exp(-(dy**2 + dx**2) / (2 * width**2)) / (2 * np.pi * width**2))

    return Kernel(shape, radius, _units(units), normalize, magnitude)


@function("Kernel.fixed")
def _fixed_kernel(weights: list[list[float]], width: int, height: int, x: int, y: int, normalize: bool) -> Kernel:
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
    layers = band.evaluate(grid.padded(across, down))
    around = (np.lib.stride_tricks.sliding_window_view(layer, grid.shape) for layer in layers)
    counted = weights != 0
    values, valid = (windows[counted] for windows in around)
    return values, valid, np.broadcast_to(weights[counted][:, None, None], values.shape)


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
def _reduce_neighborhood(image: Image, reducer: Reducer, kernel: Kernel, inputWeight: str, skipMasked: bool) -> Image:
    if inputWeight not in WEIGHTS:
        raise EmulatorError(f"Image.reduceNeighborhood: Invalid inputWeight '{inputWeight}'. Expected {list(WEIGHTS)}.")

    def made(band: Band, output: Output) -> Band:
        only = replace(reducer, outputs=(output,))
        reduced = _reduced(band, only, kernel, weight=inputWeight, centre=skipMasked)
        return replace(reduced, name=f"{band.name}_{output.name}")

    return image.with_bands(tuple(made(band, output) for band in image.bands for output in reducer.outputs))


@function("Image.convolve")
def _convolve(image: Image, kernel: Kernel) -> Image:
    """Weighted sum of the neighbours; masked where the pixel itself is."""

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid, weights = neighbours(band, grid, kernel.weights(grid))
            return Pixels(np.where(valid, values * weights, 0.0).sum(axis=0), band.evaluate(grid).valid)

        return band.derived(evaluate, FLOAT)

    return image.mapped(change)


def _enter_focal(name: str) -> None:
    @function(f"Image.focal{name}", f"Image.focal_{name.lower()}")
    def focal(
        image: Image, radius: float, kernelType: str, units: str, iterations: int, kernel: Kernel | None
    ) -> Image:
        if kernel is None and kernelType not in FLAT:
            raise EmulatorError(f"Image.focal{name}: Unknown kernel type '{kernelType}'.")
        shape = kernel or Kernel(FLAT[kernelType], radius, _units(units))
        for _ in range(iterations):
            image = image.mapped(lambda band: _reduced(band, simple(name.lower()), shape))
        return image


for _name in ("Min", "Max", "Mean", "Median", "Mode"):
    _enter_focal(_name)


# ---------------------------------------------------------------- terrain


def _elevation(image: Image, name: str) -> Band:
    if not image.bands:
        raise EmulatorError(f"{name}: the input has no bands.")
    return image.bands[0]


def _slopes(values: Float, grid: Grid) -> tuple[Float, Float]:
    """Change per metre along the columns and along the rows, of values with a margin of one pixel."""
    step_x, step_y = grid.pixel_metres()
    return (values[1:-1, 2:] - values[1:-1, :-2]) / (2 * step_x), (values[:-2, 1:-1] - values[2:, 1:-1]) / (2 * step_y)


@function("Image.gradient")
def _gradient(input: Image) -> Image:
    """Change per metre to the east and to the north."""
    band = _elevation(input, "Image.gradient")

    def axis(k: int) -> Callable[[Grid], Pixels]:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid.padded(1, 1))
            pair = (valid[1:-1, 2:], valid[1:-1, :-2]) if k == 0 else (valid[:-2, 1:-1], valid[2:, 1:-1])
            fine = least(*pair)
            return Pixels(np.where(fine, _slopes(values, grid)[k], 0.0), fine)

        return evaluate

    return input.with_bands(tuple(replace(band.derived(axis(k), FLOAT), name=name) for k, name in enumerate("xy")))


def _terrain(image: Image, name: str, of_gradient: Callable[[Float, Float], Float]) -> Image:
    """Image computed from the four neighbours on the elevation's own pixel grid."""
    band = _elevation(image, f"Terrain.{name}")
    if band.composite:
        raise EmulatorError(
            f"Terrain.{name}: expected an elevation with pixels of its own, found a composite in the default "
            "projection (pixels of 1 degree); set another with setDefaultProjection(), such as that of an image of "
            "the collection."
        )

    def native(grid: Grid) -> Pixels:
        heights, valid = band.evaluate(grid.padded(1, 1))
        with np.errstate(invalid="ignore"):
            east, north = _slopes(np.where(valid, heights, np.nan), grid)
            values = of_gradient(east, north * -np.sign(grid.projection.transform[4]))
        whole = least(np.isfinite(values), valid[1:-1, 1:-1])
        return Pixels(np.where(whole, values, 0.0), whole)

    made = band.derived(lambda grid: nearest(grid, band.projection, native), FLOAT)
    return image.with_bands((replace(made, name=name),))


@function("Terrain.slope")
def _slope(input: Image) -> Image:
    """Slope in degrees."""
    return _terrain(input, "slope", lambda east, north: np.degrees(np.arctan(np.hypot(east, north))))


@function("Terrain.aspect")
def _aspect(input: Image) -> Image:
    """Direction that a slope faces, degrees clockwise from north."""
    return _terrain(input, "aspect", lambda east, north: np.degrees(np.arctan2(-east, -north)) % 360)


@function("Terrain.hillshade")
def _hillshade(input: Image, azimuth: float, elevation: float) -> Image:
    steep, facing = _slope(input).bands[0], _aspect(input).bands[0]
    high, turn = math.radians(elevation), math.radians(azimuth)

    def lit(slopes: Pixels, aspects: Pixels) -> Pixels:
        tilt, face = np.radians(slopes.values), np.radians(aspects.values)
        light = math.sin(high) * np.cos(tilt) + math.cos(high) * np.sin(tilt) * np.cos(turn - face)
        return Pixels(np.where(slopes.valid, np.round(255 * np.maximum(light, 0)), 0.0), slopes.valid)

    shade = steep.computed(lit, facing, type=PixelType("int", 0, 255))
    return input.with_bands((Band("hillshade", shade.type, steep.projection, shade.evaluate),))


@function("Terrain.products", "Terrain")
def _products(input: Image, context: Context) -> Image:
    made = (context.call(f"Terrain.{name}", input=input) for name in ("slope", "aspect", "hillshade"))
    return input.with_bands((*input.bands, *(image.bands[0] for image in made)))
