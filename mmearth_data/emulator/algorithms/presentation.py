"""Algorithms that prepare images to be looked at and downloaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.image import (
    WGS84,
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    Projection,
    bounded,
    chosen_bands,
    covered,
    in_crs,
    least,
    mask_of,
    window_of,
)
from mmearth_data.emulator.algorithms.image_functions import clipped
from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.output import hex_colour

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Context, Value

    Array = NDArray[Any]

BYTE = PixelType("int", 0, 255)
RGB = ("vis-red", "vis-green", "vis-blue")


# ---------------------------------------------------------------- the window of a download


@function("Image.clipToBoundsAndScale")
def clip_to_bounds_and_scale(
    input: Image,
    geometry: Geometry | None = None,
    width: int | None = None,
    height: int | None = None,
    maxDimension: int | None = None,
    scale: float | None = None,
) -> Image:
    """Cut an image to the bounds of a geometry, in pixels of a size or in a number of them."""
    shape, own = _outline(input, geometry)

    def change(band: Band) -> Band:
        home = band.projection if scale is None else band.projection.at_scale(scale)
        frame = framed(in_crs(shape, own, home.crs), home, (width, height), maxDimension)
        edge = shapely.box(*in_crs(shape, own, home.crs).bounds)

        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels(values, least(valid, within(edge, home.crs, grid)))

        forced = scale is not None or width is not None or height is not None or maxDimension is not None
        return replace(band.derived(evaluate), frame=frame, projection=frame.projection if forced else band.projection)

    return bounded(input.mapped(change), in_crs(shapely.box(*shape.bounds), own, WGS84))


def _outline(image: Image, geometry: Geometry | None) -> tuple[BaseGeometry, str]:
    if geometry is not None and not geometry.unbounded:
        return geometry.shape, geometry.crs
    if image.footprint is None:
        raise EmulatorError(
            "Image.clipToBoundsAndScale: The geometry for image clipping must not be unbounded. Specify a region."
        )
    return image.footprint, WGS84


def within(edge: BaseGeometry, crs: str, grid: Grid) -> NDArray[np.bool_]:
    """Pixels of a grid that touch a rectangle in a CRS: those on its rim are kept whole."""
    west, south, east, north = edge.bounds
    x, y = grid.centres(crs)
    a, b, _, d, e, _ = grid.projection.transform
    margin_x, margin_y = ((abs(p) + abs(q)) / 2 if crs == grid.projection.crs else 0.0 for p, q in ((a, b), (d, e)))
    return np.asarray(
        (x > west - margin_x) & (x < east + margin_x) & (y > south - margin_y) & (y < north + margin_y), dtype=bool
    )


def framed(shape: BaseGeometry, home: Projection, size: tuple[int | None, int | None], longest: int | None) -> Grid:
    """Window of a download: pixels of the lattice, or the bounds cut into a number of pixels."""
    if size == (None, None) and longest is None:
        return window_of(shape, home)
    west, south, east, north = shape.bounds
    across, up = east - west, north - south
    width, height = size
    if longest is not None:
        step = max(across, up) / longest
        width, height = (max(1, round(side / step)) for side in (across, up))
    width = width or max(1, round(across / up * (height or 1)))
    height = height or max(1, round(up / across * width))
    step_x, step_y = across / width, up / height
    return Grid(Projection(home.crs, (step_x, 0.0, west, 0.0, -step_y, north)), 0, 0, width, height)


# ---------------------------------------------------------------- colours


def _numbers(value: Value, default: float) -> list[float]:
    if value is None:
        return [default]
    if not isinstance(value, str):
        return [float(item) for item in value] if isinstance(value, list) else [float(value)]
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise EmulatorError(f"Image.visualize: Expected numbers with commas between them, got '{value}'.") from None


@function("Image.visualize")
def visualize(
    image: Image,
    bands: Value = None,
    gain: Value = None,
    bias: Value = None,
    min: Value = None,
    max: Value = None,
    gamma: Value = None,
    opacity: float | None = None,
    palette: Value = None,
    forceRgbOutput: bool = False,
) -> Image:
    """Stretch one or three bands to bytes, or paint one with a palette; lists may be texts with commas."""
    if opacity not in {None, 1}:
        raise not_emulated("Image.visualize with an opacity")
    chosen = chosen_bands(image, _listed(bands), "Image.visualize")
    if len(chosen) not in {1, 3}:
        raise EmulatorError(f"Image.visualize: Must specify one or three bands, got {len(chosen)}.")
    if (gain is not None or bias is not None) and (min is not None or max is not None):
        raise EmulatorError("Image.visualize: Cannot specify both gain/bias and min/max.")
    stretch = [_stretch(k, band, (min, max, gain, bias, gamma)) for k, band in enumerate(chosen)]
    if palette is not None:
        if len(chosen) != 1:
            raise EmulatorError("Image.visualize: A palette needs exactly one band.")
        return image.with_bands(_painted(chosen[0], stretch[0], palette))
    if len(chosen) == 1 and not forceRgbOutput:
        return image.with_bands((_byte("vis-gray", chosen[0], stretch[0]),))
    pairs = list(zip(chosen, stretch, strict=True)) * (3 if len(chosen) == 1 else 1)
    return image.with_bands(tuple(_byte(name, band, share) for name, (band, share) in zip(RGB, pairs, strict=True)))


def _listed(given: Value) -> Value:
    """List of what may be given as a text with commas."""
    return [text.strip() for text in given.split(",")] if isinstance(given, str) else given


def _stretch(k: int, band: Band, given: tuple[Value, ...]) -> Callable[[Array], Array]:
    """Values of a band to 0-1."""
    low, high, gain, bias, gamma = given
    usual = 255.0 if band.type.precision == "int" else 1.0
    lows, highs = _numbers(low, 0.0), _numbers(high, usual)
    gains, biases, gammas = _numbers(gain, 1.0), _numbers(bias, 0.0), _numbers(gamma, 1.0)
    start, end = lows[k % len(lows)], highs[k % len(highs)]
    factor, shift, power = gains[k % len(gains)], biases[k % len(biases)], 1 / gammas[k % len(gammas)]

    def share(values: Array) -> Array:
        scaled = (
            (values * factor + shift) / 255
            if gain is not None or bias is not None
            else (values - start) / (end - start if end != start else 1.0)
        )
        return np.asarray(np.clip(scaled, 0, 1) ** power)

    return share


def _byte(name: str, band: Band, share: Callable[[Array], Array]) -> Band:
    made = band.computed(lambda own: Pixels(np.round(share(own.values) * 255), own.valid), type=BYTE)
    return replace(made, name=name)


def _painted(band: Band, share: Callable[[Array], Array], palette: Value) -> tuple[Band, ...]:
    colours = np.array([hex_colour(str(text)) for text in _listed(palette)], np.float64)
    steps = np.linspace(0, 1, len(colours))

    def channel(k: int) -> Band:
        def painted(own: Pixels) -> Pixels:
            return Pixels(np.round(np.interp(share(own.values), steps, colours[:, k])), own.valid)

        return replace(band.computed(painted, type=BYTE), name=RGB[k])

    return tuple(map(channel, range(3)))


@function("Image.blend")
def blend(bottom: Image, top: Image) -> Image:
    """Blend one image over another, using its mask as opacity."""
    if len(bottom.bands) != len(top.bands):
        raise EmulatorError("Image.blend: Both images must have the same number of bands.")

    def blended(below: Pixels, above: Pixels) -> Pixels:
        (values, valid), (new, fresh) = below, above
        if valid.dtype == fresh.dtype == bool:
            return Pixels(np.where(fresh, new, values), valid | fresh)
        behind = valid * (1.0 - fresh)
        mask = fresh + behind
        return Pixels((new * fresh + values * behind) / np.where(mask > 0, mask, 1.0), mask_of(mask))

    bands = zip(bottom.bands, top.bands, strict=True)
    return bottom.with_bands(tuple(a.computed(blended, b, type=a.type.joined(b.type)) for a, b in bands))


@function("Image.paint")
def paint(image: Image, featureCollection: Value, color: Value = 0, width: Value = None) -> Image:
    """Give the inside of features a value, by number or by a property of theirs."""
    if width is not None:
        raise EmulatorError("Image.paint: Earth Engine paints outlines; the emulator only fills.", 501)
    features = [(f.geometry, f.properties) for f in featureCollection.elements() if f.geometry is not None]

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            own = band.evaluate(grid)
            values, valid = own.values.copy(), own.valid.copy()
            for geometry, properties in features:
                held = covered(geometry.shape, geometry.crs, grid)
                values[held] = float(properties.get(color, 0)) if isinstance(color, str) else float(color)
                valid = np.maximum(valid, held)
            return Pixels(values, valid)

        return band.derived(evaluate)

    return image.mapped(change)


@function("Image.clipToCollection")
def clip_to_collection(input: Image, collection: Value, context: Context) -> Image:
    """Mask what lies outside all features."""
    features = context.promote(collection, "FeatureCollection")
    shapes = [f.geometry.lonlat for f in features.elements() if f.geometry is not None]
    return clipped(input, Geometry(shapely.union_all(shapes)))
