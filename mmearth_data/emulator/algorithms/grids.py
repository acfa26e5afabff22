"""``Projection``, ``PixelType``, and images on other pixel grids: interpolated, forced, moved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.emulator.algorithms.image import (
    CHEAP,
    DOUBLE,
    FLOAT,
    IDENTITY,
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    Projection,
    coarsened,
    cut,
    least,
    level_for,
    nearest,
    need_positive,
    outline,
    parsed_crs,
    window_in,
)
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function, functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.image import Mask
    from mmearth_data.emulator.graph.registry import Context, Value

    Float = NDArray[np.float64]
    Weights = Callable[[Float], list[Float]]

ELEMENTS = ("elt_0_0", "elt_0_1", "elt_0_2", "elt_1_0", "elt_1_1", "elt_1_2")
"""Names of the numbers of a transform in a PARAM_MT."""
TYPES = {
    name: PixelType.of(np.dtype(name)) for name in ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]
}


def affine(numbers: list[float]) -> tuple[float, float, float, float, float, float]:
    """Transform of 6 numbers."""
    if len(numbers) != 6:
        raise EmulatorError(f"Expected an affine transform of 6 numbers, got {len(numbers)}.")
    a, b, c, d, e, f = (float(number) for number in numbers)
    return a, b, c, d, e, f


def lattice(crs: Projection, transform: list[float] | None, scale: float | None) -> Projection:
    """Pixel grid that a projection, a transform or a scale in metres describe."""
    if transform is not None and scale is not None:
        raise EmulatorError("Can't specify both crsTransform and scale.")
    if transform is not None:
        return Projection(crs.crs, affine(transform))
    return crs if scale is None else crs.at_scale(scale)


# ---------------------------------------------------------------- projections and types


@function("Projection", "Proj")
def _projection(crs: Value, transform: list[float] | None, transformWkt: str | None, context: Context) -> Projection:
    base: Projection = context.promote(crs, "Projection")
    if transformWkt is not None:
        raise EmulatorError("Projection: give the transform as a list of 6 numbers; transformWkt is not emulated.", 501)
    return base if transform is None else Projection(base.crs, affine(transform))


@function("Projection.transform")
def _transform(projection: Projection) -> str:
    """Affine transform as the text of a PARAM_MT."""
    parameters = [
        f'  PARAMETER["{name}", {value!r}]'
        for name, value, usual in zip(ELEMENTS, projection.transform, IDENTITY, strict=True)
        if value != usual
    ]
    head = ['PARAM_MT["Affine"', '  PARAMETER["num_row", 3]', '  PARAMETER["num_col", 3]']
    return ", \n".join([*head, *parameters]) + "]"


@function("Projection.atScale")
def _at_scale(projection: Projection, meters: float) -> Projection:
    """Scale the pixels to a size in metres, keeping the direction of the rows.

    The reference's example of ``getPixels`` negates the scale of ``EPSG:4326`` to get north up.
    """
    need_positive("scale", meters)
    factor = meters / projection.nominal_scale
    return projection.scaled(factor, factor)


def _translate(projection: Projection, x: float, y: float) -> Projection:
    a, b, c, d, e, f = projection.transform
    return Projection(projection.crs, (a, b, c + a * x + b * y, d, e, f + d * x + e * y))


functions(
    "Projection",
    {
        "crs": lambda projection: projection.crs,
        "nominalScale": lambda proj: proj.nominal_scale,
        "scale": lambda projection, x, y: projection.scaled(x, y),
        "translate": _translate,
        "wkt": lambda projection: str(parsed_crs(projection.crs).to_wkt("WKT1_GDAL", pretty=True)),
    },
)


@function("PixelType")
def _pixel_type(precision: Value, minValue: float | None, maxValue: float | None) -> PixelType:
    if isinstance(precision, PixelType):
        return precision
    if precision not in {"int", "float", "double"}:
        raise EmulatorError(f"PixelType: Invalid precision '{precision}'. Expected 'int', 'float' or 'double'.")
    return PixelType(str(precision), minValue, maxValue)


def _always(kind: PixelType) -> Callable[[], PixelType]:
    return lambda: kind


functions("PixelType", {name: _always(kind) for name, kind in {**TYPES, "float": FLOAT, "double": DOUBLE}.items()})
functions(
    "PixelType",
    {
        "precision": lambda pixelType: pixelType.precision,
        "minValue": lambda pixelType: pixelType.low,
        "maxValue": lambda pixelType: pixelType.high,
        "dimensions": lambda: 0,
    },
)

# ---------------------------------------------------------------- interpolation


def _linear(t: Float) -> list[Float]:
    """Weights of the pixels before and after a position between them (0-1)."""
    return [1 - t, t]


def _cubic(t: Float) -> list[Float]:
    """Weights of four pixels by cubic convolution (Keys 1981, a = -1/2)."""
    return [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]


MODES: dict[str, tuple[Weights, int]] = {"bilinear": (_linear, 0), "bicubic": (_cubic, 1)}
"""Mode -> weights, and how many pixels before the nearest lower one they begin."""


@function("Image.resample")
def _resample(image: Image, mode: str) -> Image:
    """Interpolate an image wherever its own pixels are not those requested; composites have none."""
    if mode not in MODES:
        raise EmulatorError(f"Image.resample: Invalid resampling mode: '{mode}'. Expected 'bilinear' or 'bicubic'.")
    return image.mapped(lambda band: band if band.composite else _interpolated(band, *MODES[mode]))


def _interpolated(band: Band, weights: Weights, before: int) -> Band:
    def evaluate(grid: Grid) -> Pixels:
        if CHEAP.get():
            return band.evaluate(grid)
        home = coarsened(band.projection, level_for(grid.projection, band.projection, band.size))
        column, row = (axis - 0.5 for axis in grid.positions(home))
        left, top = np.floor(column), np.floor(row)
        across, down = weights(column - left), weights(row - top)
        left, top = left.astype(np.int64) - before, top.astype(np.int64) - before
        window = cut(left, top, home, len(across) - 1)
        return _weighted(band.evaluate(window), (top - window.row, left - window.column), across, down)

    return band.derived(evaluate, band.type if band.type.precision == "double" else FLOAT)


def _weighted(
    native: Pixels, at: tuple[NDArray[np.int64], NDArray[np.int64]], across: list[Float], down: list[Float]
) -> Pixels:
    values = np.zeros(at[0].shape)
    valid: Mask = np.ones(at[0].shape, bool)
    for k, vertical in enumerate(down):
        for j, horizontal in enumerate(across):
            weight = vertical * horizontal
            seen = native.valid[at[0] + k, at[1] + j]
            values += np.where(seen, native.values[at[0] + k, at[1] + j], 0.0) * weight
            # A masked neighbour masks the pixel if it has any weight; Earth Engine does not document what happens
            # between valid and masked pixels.
            valid = least(valid, np.asarray(np.maximum(seen, weight == 0)))
    return Pixels(values, valid)


# ---------------------------------------------------------------- forced and moved


@function("Image.reproject")
def _reproject(image: Image, crs: Projection, crsTransform: list[float] | None, scale: float | None) -> Image:
    return image.mapped(lambda band: _forced(band, lattice(crs, crsTransform, scale)))


def _forced(band: Band, projection: Projection) -> Band:
    window = band.window
    moved = None if window is None else window_in(outline(window), band.projection.crs, projection)
    forced = Band(band.name, band.type, projection, lambda grid: nearest(grid, projection, band.evaluate))
    return forced.within(moved)


@function("Image.setDefaultProjection")
def _set_projection(image: Image, crs: Projection, crsTransform: list[float] | None, scale: float | None) -> Image:
    home = lattice(crs, crsTransform, scale)
    return image.mapped(lambda band: Band(band.name, band.type, home, band.evaluate))


def _moved(band: Band, home: Projection, to: Projection) -> Band:
    """Band whose pixels of one grid become those of another, wherever that puts them."""

    def native(grid: Grid) -> Pixels:
        return band.evaluate(replace(grid, projection=home))

    return Band(band.name, band.type, to, lambda grid: nearest(grid, to, native))


@function("Image.changeProj")
def _change_projection(input: Image, srcProj: Projection, dstProj: Projection) -> Image:
    return replace(input.mapped(lambda band: _moved(band, srcProj, dstProj)), footprint=None)


@function("Image.translate")
def _translate_image(input: Image, x: float, y: float, units: str, proj: Projection | None) -> Image:
    if units not in {"meters", "pixels"}:
        raise EmulatorError(f"Image.translate: Invalid units '{units}'. Expected 'meters' or 'pixels'.")

    def change(band: Band) -> Band:
        home = proj or band.projection
        step = 1.0 if units == "pixels" else home.nominal_scale
        flip = np.sign(home.transform[4]) if units == "meters" else 1.0
        return _moved(band, home, _translate(home, x / step, y / step * flip))

    return replace(input.mapped(change), footprint=None)
