"""Algorithms that prepare images for display and download."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

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
    need_positive,
    window_of,
)
from mmearth_data.emulator.algorithms.pixel_functions import aligned
from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.output import palette_colours

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.geometry import Geometry
    from mmearth_data.emulator.graph.registry import Value

    Array = NDArray[Any]

BYTE = PixelType("int", 0, 255)
RGB = ("vis-red", "vis-green", "vis-blue")


# ---------------------------------------------------------------- the window of a download


@function("Image.clipToBoundsAndScale")
def _clip_to_bounds_and_scale(
    input: Image,
    geometry: Geometry | None,
    width: int | None,
    height: int | None,
    maxDimension: int | None,
    scale: float | None,
) -> Image:
    for name, size in (("width", width), ("height", height), ("maxDimension", maxDimension)):
        if size is not None:
            need_positive(name, size)
    shape, own = _outline(input, geometry)

    def change(band: Band) -> Band:
        home = band.projection if scale is None else band.projection.at_scale(scale)
        moved = in_crs(shape, own, home.crs)
        frame = _framed(moved.bounds, home, (width, height), maxDimension)

        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels(values, least(valid, _within(moved.bounds, home.crs, grid)))

        forced = {scale, width, height, maxDimension} != {None}
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


def _within(bounds: tuple[float, float, float, float], crs: str, grid: Grid) -> NDArray[np.bool_]:
    """Pixels of a grid that touch a rectangle in a CRS: those on its edge are kept whole."""
    west, south, east, north = bounds
    x, y = grid.centres(crs)
    a, b, _, d, e, _ = grid.projection.transform
    margin_x, margin_y = ((abs(p) + abs(q)) / 2 if crs == grid.projection.crs else 0.0 for p, q in ((a, b), (d, e)))
    return np.asarray(
        (x > west - margin_x) & (x < east + margin_x) & (y > south - margin_y) & (y < north + margin_y), dtype=bool
    )


def _framed(
    bounds: tuple[float, float, float, float],
    home: Projection,
    size: tuple[int | None, int | None],
    longest: int | None,
) -> Grid:
    west, south, east, north = bounds
    if size == (None, None) and longest is None:
        return window_of(shapely.box(*bounds), home)
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
def _visualize(
    image: Image,
    bands: Value,
    gain: Value,
    bias: Value,
    min: Value,
    max: Value,
    gamma: Value,
    opacity: float | None,
    palette: Value,
    forceRgbOutput: bool,
) -> Image:
    """Stretch one or three bands to bytes, or colour one with a palette; lists may be strings with commas."""
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
        return image.with_bands(_coloured(chosen[0], stretch[0], palette))
    if len(chosen) == 1 and not forceRgbOutput:
        return image.with_bands((_byte("vis-gray", chosen[0], stretch[0]),))
    pairs = list(zip(chosen, stretch, strict=True)) * (3 if len(chosen) == 1 else 1)
    return image.with_bands(tuple(_byte(name, band, share) for name, (band, share) in zip(RGB, pairs, strict=True)))


def _listed(given: Value) -> Value:
    return [text.strip() for text in given.split(",")] if isinstance(given, str) else given


def _stretch(k: int, band: Band, given: tuple[Value, ...]) -> Callable[[Array], Array]:
    linear = given[2] is not None or given[3] is not None
    usual = (0.0, 255.0 if band.type.precision == "int" else 1.0, 1.0, 0.0, 1.0)
    numbers = (_numbers(value, default) for value, default in zip(given, usual, strict=True))
    low, high, gain, bias, gamma = (several[k % len(several)] for several in numbers)

    def share(values: Array) -> Array:
        width = high - low if high != low else 1.0
        scaled = (values * gain + bias) / 255 if linear else (values - low) / width
        return np.asarray(np.clip(scaled, 0, 1) ** (1 / gamma))

    return share


def _byte(name: str, band: Band, share: Callable[[Array], Array]) -> Band:
    return band.computed(lambda own: Pixels(np.round(share(own.values) * 255), own.valid), type=BYTE).called(name)


def _coloured(band: Band, share: Callable[[Array], Array], palette: Value) -> tuple[Band, ...]:
    colours = palette_colours(_listed(palette))

    def channel(k: int) -> Band:
        def painted(own: Pixels) -> Pixels:
            return Pixels(np.asarray(np.round(colours(share(own.values))[..., k]), np.float64), own.valid)

        return band.computed(painted, type=BYTE).called(RGB[k])

    return tuple(map(channel, range(3)))


@function("Image.blend")
def _blend(bottom: Image, top: Image) -> Image:
    def blended(below: Pixels, above: Pixels) -> Pixels:
        (values, valid), (new, fresh) = below, above
        if valid.dtype == fresh.dtype == bool:
            return Pixels(np.where(fresh, new, values), valid | fresh)
        behind = valid * (1.0 - fresh)
        mask = fresh + behind
        return Pixels((new * fresh + values * behind) / np.where(mask > 0, mask, 1.0), mask_of(mask))

    bands = aligned("blend", bottom, top)
    return bottom.with_bands(tuple(a.computed(blended, b, type=a.type.joined(b.type)) for a, b in bands))


@function("Image.paint")
def _paint(image: Image, featureCollection: Value, color: Value, width: Value) -> Image:
    """Set the pixels inside features to a value, or to a property of each feature."""
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
