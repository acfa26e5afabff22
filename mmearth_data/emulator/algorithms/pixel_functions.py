"""Algorithms on the values and masks of an image, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.emulator.algorithms.arithmetic import (
    BINARY,
    CASTS,
    INTEGER,
    UNARY,
    Binary,
    Unary,
    exactly,
    relative_difference,
)
from mmearth_data.emulator.algorithms.geometry import Geometry, shared_lonlat, union_of
from mmearth_data.emulator.algorithms.image import (
    DOUBLE,
    FLOAT,
    HALF_PIXEL,
    INT32,
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    bounded,
    constant,
    covered,
    inside,
    least,
    mask_of,
    shared,
    shown,
    window_in,
)
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function, functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.image import Mask
    from mmearth_data.emulator.graph.registry import Context, Value

    Array = NDArray[Any]

SHARE = PixelType("float", 0, 1)
NORMALIZED = BINARY["divide"]._replace(pixels=relative_difference, type=PixelType("float", -1, 1), range=None)
GROWING = frozenset({"add", "subtract", "multiply"})
"""Operations whose integer results may need more bits than the operands."""
BEHAVIOURS = ("extrapolate", "clamp", "mask", "input")


# ---------------------------------------------------------------- arithmetic


def _defined(values: Array, valid: Array) -> Pixels:
    values = np.asarray(values, np.float64)
    whole = least(valid, ~np.isnan(values))
    return Pixels(np.where(whole, values, 0.0), whole)


def _unary(row: Unary) -> Callable[..., Image]:
    def compute(own: Pixels) -> Pixels:
        with np.errstate(all="ignore"):
            return own if row.pixels is np.asarray else _defined(row.pixels(own.values), own.valid)

    return lambda value: value.mapped(lambda band: band.computed(compute, type=row.type_of(band.type)))


def pairs(name: str, left: Image, right: Image) -> list[tuple[Band, Band]]:
    """Pair the bands of two images: by name if both have the same names, otherwise in order.

    If one image has a single band, it is paired with each band of the other.
    """
    if set(left.names) == set(right.names):
        return [(band, right.find(band.name, f"Image.{name}")) for band in left.bands]
    if len(left.bands) == len(right.bands):
        return list(zip(left.bands, right.bands, strict=True))
    if len(right.bands) == 1:
        return [(band, right.bands[0]) for band in left.bands]
    if len(left.bands) == 1:
        return [(replace(left.bands[0], name=band.name), band) for band in right.bands]
    rule = (
        "Images must contain the same number of bands, or one must have a single band."
        if left.bands and right.bands
        else "If one image has no bands, the other must also have no bands."
    )
    raise EmulatorError(f"Image.{name}: {rule} Got {len(left.bands)} and {len(right.bands)}.")


def aligned(name: str, left: Image, right: Image) -> list[tuple[Band, Band]]:
    """Pair the bands of two images where Earth Engine does not document whether it pairs by name or in order."""
    if left.names != right.names and set(left.names) == set(right.names):
        raise EmulatorError(
            f"Image.{name}: Expected bands in the order {left.names}, found {right.names}. Earth Engine does not document "
            "whether these are paired by name or in order; select the bands of one image in the order of the other."
        )
    return pairs(name, left, right)


def _combined(name: str, row: Binary, left: Image, right: Image) -> Image:
    def joined(a: Band, b: Band) -> Band:
        kind = row.type_of(a.type, b.type)

        def compute(x: Pixels, y: Pixels) -> Pixels:
            valid = least(x.valid, y.valid)
            with np.errstate(all="ignore"):
                found = row.pixels(x.values, y.values)
            return _defined(exactly(found, shown(valid), kind) if name in GROWING else found, valid)

        first, second = (b, a) if a.composite else (a, b)
        window = shared(first.window, second.window) if first.projection == second.projection else first.window
        made = a.computed(compute, b, type=kind)
        return replace(made, projection=first.projection, frame=first.frame).within(window)

    made = left.with_bands(tuple(joined(a, b) for a, b in pairs(name, left, right)))
    return replace(made, footprint=_common(left.footprint, right.footprint))


def _common(one: BaseGeometry | None, other: BaseGeometry | None) -> BaseGeometry | None:
    if one is None or other is None or one is other:
        return one or other
    return shared_lonlat(one, other)


def _binary(name: str, row: Binary) -> Callable[..., Image]:
    return lambda image1, image2: _combined(name, row, image1, image2)


functions("Image", {name: _unary(row) for name, row in {**UNARY, **CASTS}.items()})
functions("Image", {name: _binary(name, row) for name, row in BINARY.items()})


@function("Image.normalizedDifference")
def _normalized_difference(input: Image, bandNames: list[str] | None) -> Image:
    names = bandNames or input.names[:2]
    first, second = (Image((input.find(name, "Image.normalizedDifference"),)) for name in names)
    image = _combined("normalizedDifference", NORMALIZED, first, second)
    return input.with_bands((image.bands[0].called("nd"),))


# ---------------------------------------------------------------- functions of the values


def on_values(band: Band, compute: Callable[[Array], Array], kind: PixelType | None = None) -> Band:
    """Band of a function of the values; masked where its result is not finite."""

    def computed(own: Pixels) -> Pixels:
        found = compute(own.values)
        fine = least(own.valid, np.isfinite(found))
        return Pixels(np.where(fine, found, 0.0), fine)

    return band.computed(computed, type=kind)


def _each(image: Image, compute: Callable[[Array], Array], kind: PixelType | None = None) -> Image:
    """Apply a function to the values of each band; their masks stay."""
    return image.mapped(lambda band: band.computed(lambda own: Pixels(compute(own.values), own.valid), type=kind))


functions(
    "Image",
    {
        "clamp": lambda input, low, high: _each(input, lambda values: np.clip(values, low, high)),
        "unitScale": lambda input, low, high: _each(input, lambda values: (values - low) / (high - low), DOUBLE),
        "polynomial": lambda image, coefficients: image.mapped(
            lambda band: on_values(band, lambda v: np.polynomial.polynomial.polyval(v, coefficients), DOUBLE)
        ),
    },
)


@function("Image.interpolate")
def _interpolate(image: Image, x: list[float], y: list[float], behavior: str) -> Image:
    if behavior not in BEHAVIOURS:
        raise EmulatorError(f"Image.interpolate: Invalid behavior '{behavior}'. Expected one of {BEHAVIOURS}.")
    if len(x) != len(y) or len(x) < 2:
        raise EmulatorError("Image.interpolate: x and y must have the same length, at least 2.")
    if any(a >= b for a, b in pairwise(x)):
        raise EmulatorError(f"Image.interpolate: Expected x values that are strictly increasing, found {x}; sort them.")
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def compute(values: Array) -> Array:
        found = np.interp(values, xs, ys)
        if behavior in {"mask", "input"}:
            outside = (values < xs[0]) | (values > xs[-1])
            return np.where(outside, np.nan if behavior == "mask" else values, found)
        if behavior == "extrapolate":
            first, last = (ys[1] - ys[0]) / (xs[1] - xs[0]), (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
            found = np.where(values < xs[0], ys[0] + first * (values - xs[0]), found)
            found = np.where(values > xs[-1], ys[-1] + last * (values - xs[-1]), found)
        return np.asarray(found)

    return image.with_bands([on_values(band, compute, DOUBLE) for band in image.bands[:1]])


@function("Image.remap")
def _remap(image: Image, from_: list[Value], to: list[Value], defaultValue: Value, bandName: str | None) -> Image:
    if len(from_) != len(to):
        raise EmulatorError(f"Image.remap: The lists 'from' ({len(from_)}) and 'to' ({len(to)}) differ in length.")
    band = image.bands[0] if bandName is None else image.find(bandName, "Image.remap")
    order = np.argsort(np.asarray(from_, np.float64), kind="stable")
    old, new = np.asarray(from_, np.float64)[order], np.asarray(to, np.float64)[order]

    def exchanged(own: Pixels) -> Pixels:
        values, valid = own
        at = np.clip(np.searchsorted(old, values), 0, max(len(old) - 1, 0))
        known = old[at] == values if len(old) else np.zeros(values.shape, bool)
        found = new[at] if len(new) else 0.0
        if defaultValue is None:
            return Pixels(np.where(known, found, 0.0), least(valid, known))
        return Pixels(np.where(known, found, float(defaultValue)), valid)

    results = [float(v) for v in (*to, *([] if defaultValue is None else [defaultValue]))]
    short = all(abs(v) < 2**31 for v in results)
    kind = DOUBLE if not all(v.is_integer() for v in results) else INT32 if short else INTEGER
    return image.with_bands((band.computed(exchanged, type=kind).called("remapped"),))


def _on_three(name: str, image: Image, names: tuple[str, str, str], compute: Callable[[Array], Array]) -> Image:
    """Image of three bands that a function makes of three, (3, row, column)."""
    if len(image.bands) != 3:
        raise EmulatorError(f"Image.{name}: Expected an image with 3 bands, got {len(image.bands)}.")

    def channel(k: int, new: str) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            layers = [band.evaluate(grid) for band in image.bands]
            valid = least(*(layer.valid for layer in layers))
            return Pixels(np.where(valid, compute(np.stack([layer.values for layer in layers]))[k], 0.0), valid)

        return image.bands[k].derived(evaluate, FLOAT).called(new)

    return image.with_bands(tuple(channel(k, new) for k, new in enumerate(names)))


@function("Image.rgbToHsv")
def _rgb_to_hsv(image: Image) -> Image:
    def compute(rgb: Array) -> Array:
        red, green, blue = rgb
        value, least = rgb.max(axis=0), rgb.min(axis=0)
        spread = np.where(value > least, value - least, 1.0)
        hue = np.select(
            [value == red, value == green], [(green - blue) / spread % 6, (blue - red) / spread + 2],
            (red - green) / spread + 4,
        )  # fmt: skip
        hue = np.where(value > least, hue / 6, 0.0)
        return np.stack([hue, np.where(value > 0, (value - least) / np.where(value > 0, value, 1.0), 0.0), value])

    return _on_three("rgbToHsv", image, ("hue", "saturation", "value"), compute)


@function("Image.hsvToRgb")
def _hsv_to_rgb(image: Image) -> Image:
    def compute(hsv: Array) -> Array:
        hue, saturation, value = hsv
        parts = np.stack([(shift + hue * 6) % 6 for shift in (5, 3, 1)])
        return np.asarray(value - value * saturation * np.clip(np.minimum(parts, 4 - parts), 0, 1))

    return _on_three("hsvToRgb", image, ("red", "green", "blue"), compute)


# ---------------------------------------------------------------- masks


def _as_mask(pixels: Pixels) -> Mask:
    """Values of an image as a mask, clipped to 0-1; 0 where the image itself is masked."""
    return least(mask_of(pixels.values), pixels.valid)


@function("Image.updateMask")
def _update_mask(image: Image, mask: Image) -> Image:
    """Replace the mask of unmasked pixels by another image's values; pixels masked in that image are masked."""
    if len(mask.bands) not in {1, len(image.bands)}:
        raise EmulatorError(
            f"Image.updateMask: Expected a mask with 1 band or {len(image.bands)}, as the image has; "
            f"got {len(mask.bands)}."
        )

    def masked(own: Pixels, given: Pixels) -> Pixels:
        return Pixels(own.values, least(shown(own.valid), _as_mask(given)))

    return image.with_bands(tuple(a.computed(masked, b) for a, b in aligned("updateMask", image, mask)))


functions("Image", {"selfMask": lambda image: _update_mask(image, image)})  # zero is masked


@function("Image.mask")
def _mask(image: Image, mask: Image | None) -> Image:
    """Return the mask of each band, 0 to 1, or replace it by another image's values."""

    def shares(own: Pixels) -> Pixels:
        return Pixels(own.valid.astype(np.float64), np.ones(own.valid.shape, bool))

    def replaced(own: Pixels, given: Pixels) -> Pixels:
        return Pixels(np.where(shown(own.valid), own.values, 0.0), _as_mask(given))

    if mask is None:
        return image.mapped(lambda band: band.computed(shares, type=SHARE))
    return image.with_bands(tuple(a.computed(replaced, b) for a, b in aligned("mask", image, mask)))


@function("Image.unmask")
def _unmask(input: Image, value: Image | None, sameFootprint: bool) -> Image:
    filling = value or Image((constant(0),))
    footprint = input.footprint if sameFootprint else None

    def change(band: Band, other: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            (values, valid), (fill, filled) = band.evaluate(grid), other.evaluate(grid)
            seen, reached = shown(valid), least(filled, inside(footprint, grid))
            mask = seen | reached if valid.dtype == reached.dtype == bool else np.where(seen, valid, reached)
            return Pixels(np.where(seen, values, np.where(reached, fill, 0.0)), mask)

        return band.derived(evaluate, band.type.joined(other.type))

    image = input.with_bands(tuple(change(a, b) for a, b in aligned("unmask", input, filling)))
    return image if sameFootprint else replace(image.mapped(lambda band: band.within(None)), footprint=None)


@function("Image.where")
def _where(input: Image, test: Image, value: Image) -> Image:
    def chosen(own: Pixels, tested: Pixels, new: Pixels) -> Pixels:
        taken = least(shown(own.valid), shown(tested.valid), tested.values != 0, shown(new.valid))
        return Pixels(np.where(taken, new.values, own.values), own.valid)

    tests, values = ([b for _, b in aligned("where", input, other)] for other in (test, value))
    bands = zip(input.bands, tests, values, strict=True)
    return input.with_bands(tuple(a.computed(chosen, t, b, type=a.type.joined(b.type)) for a, t, b in bands))


@function("Image.clip")
def _clip(input: Image, geometry: Value, context: Context) -> Image:
    area: Geometry = context.promote(geometry, "Geometry")
    return input if area.unbounded else _clipped(input, area)


@function("Image.clipToCollection")
def _clip_to_collection(input: Image, collection: Value, context: Context) -> Image:
    features = context.promote(collection, "FeatureCollection")
    return _clipped(input, union_of([f.geometry for f in features.elements() if f.geometry is not None]))


def _clipped(image: Image, area: Geometry) -> Image:
    """Image masked outside a geometry, which also bounds its footprint."""

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels(values, least(valid, covered(area.shape, area.crs, grid)))

        window = window_in(area.shape, area.crs, band.projection, HALF_PIXEL)
        return band.derived(evaluate).within(shared(band.window, window))

    footprint = area.lonlat if image.footprint is None else shared_lonlat(image.footprint, area.lonlat)
    return bounded(image.mapped(change), footprint)
