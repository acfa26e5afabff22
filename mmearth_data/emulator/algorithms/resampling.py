"""Interpolation between native pixels, forced grids, and slopes: what needs an image's own lattice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.emulator.algorithms.image import (
    CHEAP,
    Band,
    Grid,
    Pixels,
    PixelType,
    Projection,
    coarsened,
    cut,
    least,
    level_for,
    nearest,
    outline,
    parsed_crs,
    window_in,
)
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.image import Image, Mask

    Float = NDArray[np.float64]
    Weights = Callable[[Float], list[Float]]

EARTH_MAJOR_M, EARTH_ECCENTRICITY2 = 6_378_137.0, 0.006_694_379_990_14
"""WGS 84."""
NORTH_POLE_DEG = 90.0


def linear_weights(t: Float) -> list[Float]:
    """Weights of the pixels before and after a position between them (0-1)."""
    return [1 - t, t]


def cubic_weights(t: Float) -> list[Float]:
    """Weights of four pixels by cubic convolution (Keys 1981, a = -1/2)."""
    return [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]


MODES: dict[str, tuple[Weights, int]] = {"bilinear": (linear_weights, 0), "bicubic": (cubic_weights, 1)}
"""Mode -> weights, and how many pixels before the nearest lower one they begin."""


@function("Image.resample")
def resample(image: Image, mode: str = "bilinear") -> Image:
    """Interpolate an image wherever its own pixels are not what is asked for; composites have none."""
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
        native = band.evaluate(window)
        at = top - window.row, left - window.column
        return _weighted(native, at, across, down)

    kind = band.type if band.type.precision == "double" else PixelType("float")
    return band.derived(evaluate, kind)


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
            valid = least(valid, valid_under_interpolation(seen, weight))
    return Pixels(values, valid)


def valid_under_interpolation(seen: Mask, weight: Float) -> Mask:
    """Mask that one neighbour contributes to a pixel: its own if it has any weight, so a masked one masks the pixel.

    Earth Engine's documentation does not say what happens between valid and masked pixels.
    """
    return np.asarray(np.maximum(seen, weight == 0))


@function("Image.reproject")
def reproject(
    image: Image, crs: Projection, crsTransform: list[float] | None = None, scale: float | None = None
) -> Image:
    """Force the computation onto a lattice; what follows takes its pixels from there."""
    return image.mapped(lambda band: _forced(band, lattice(crs, crsTransform, scale)))


def affine(numbers: list[float]) -> tuple[float, float, float, float, float, float]:
    """Transform of 6 numbers."""
    if len(numbers) != 6:
        raise EmulatorError(f"Expected an affine transform of 6 numbers, got {len(numbers)}.")
    a, b, c, d, e, f = (float(number) for number in numbers)
    return a, b, c, d, e, f


def lattice(crs: Projection, transform: list[float] | None, scale: float | None) -> Projection:
    """Lattice that a projection, a transform or a scale in metres stand for."""
    if transform is not None and scale is not None:
        raise EmulatorError("Can't specify both crsTransform and scale.")
    if transform is not None:
        return Projection(crs.crs, affine(transform))
    return crs if scale is None else crs.at_scale(scale)


def _forced(band: Band, projection: Projection) -> Band:
    def evaluate(grid: Grid) -> Pixels:
        return nearest(grid, projection, band.evaluate)

    window = band.window
    moved = None if window is None else window_in(outline(window), band.projection.crs, projection)
    return Band(band.name, band.type, projection, evaluate).within(moved)


@function("Image.setDefaultProjection")
def set_default_projection(
    image: Image, crs: Projection, crsTransform: list[float] | None = None, scale: float | None = None
) -> Image:
    """Say where an image is at home without forcing it there."""
    home = lattice(crs, crsTransform, scale)
    return image.mapped(lambda band: Band(band.name, band.type, home, band.evaluate))


# ---------------------------------------------------------------- terrain


@function("Terrain.slope")
def slope(input: Image) -> Image:
    """Slope in degrees, from the four neighbours on the elevation's own lattice."""
    return _terrain(input, "slope", lambda east, north: np.degrees(np.arctan(np.hypot(east, north))))


@function("Terrain.aspect")
def aspect(input: Image) -> Image:
    """Direction that a slope faces, degrees clockwise from north."""
    return _terrain(input, "aspect", lambda east, north: np.degrees(np.arctan2(-east, -north)) % 360)


def _terrain(image: Image, name: str, of_gradient: Callable[[Float, Float], Float]) -> Image:
    if not image.bands:
        raise EmulatorError(f"Terrain.{name}: the input has no bands.")
    band = image.bands[0]

    def native(grid: Grid) -> Pixels:
        heights, valid = band.evaluate(grid.padded(1))
        heights = np.where(valid, heights, np.nan)
        step_x, step_y = pixel_metres(grid)
        with np.errstate(invalid="ignore"):
            east = (heights[1:-1, 2:] - heights[1:-1, :-2]) / (2 * step_x)
            north = (heights[:-2, 1:-1] - heights[2:, 1:-1]) / (2 * step_y) * -np.sign(grid.projection.transform[4])
            values = of_gradient(east, north)
        whole = least(np.isfinite(values), valid[1:-1, 1:-1])
        return Pixels(np.where(whole, values, 0.0), whole)

    def evaluate(grid: Grid) -> Pixels:
        return nearest(grid, band.projection, native)

    return image.with_bands((replace(band.derived(evaluate, PixelType("float")), name=name),))


def pixel_metres(grid: Grid) -> tuple[Float, Float]:
    """Width and height of a grid's pixels on the ground, metres; (row, 1) each."""
    a, _, _, _, e, f = grid.projection.transform
    rows = (grid.row + np.arange(grid.height) + 0.5)[:, None]
    if not parsed_crs(grid.projection.crs).is_geographic:
        return np.full(rows.shape, abs(a)), np.full(rows.shape, abs(e))
    lat = np.radians(np.clip(f + e * rows, -NORTH_POLE_DEG, NORTH_POLE_DEG))
    bend = 1 - EARTH_ECCENTRICITY2 * np.sin(lat) ** 2
    meridian = EARTH_MAJOR_M * (1 - EARTH_ECCENTRICITY2) / bend**1.5
    parallel = EARTH_MAJOR_M / np.sqrt(bend) * np.cos(lat)
    return np.radians(abs(a)) * parallel, np.radians(abs(e)) * meridian
