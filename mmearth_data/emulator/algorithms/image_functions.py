"""Algorithms on images: bands, arithmetic, masks, types."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.image import (
    DEFAULT_PROJECTION,
    DOUBLE,
    FLOAT,
    HALF_PIXEL,
    INT32,
    WGS84,
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    Projection,
    bounded,
    chosen_bands,
    constant,
    covered,
    inside,
    least,
    mask_of,
    shared,
    shown,
    window_in,
)
from mmearth_data.emulator.algorithms.ranges import type_after
from mmearth_data.emulator.algorithms.resampling import pixel_metres
from mmearth_data.emulator.errors import MAX_BANDS, EmulatorError
from mmearth_data.emulator.graph.registry import function

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.geometry import Geometry
    from mmearth_data.emulator.algorithms.image import Mask
    from mmearth_data.emulator.graph.registry import Context, Value

    Array = NDArray[Any]

TRUTH, SHARE = PixelType("int", 0, 1), PixelType("float", 0, 1)
INTEGERS = {
    "Uint8": np.uint8,
    "Byte": np.uint8,
    "Int8": np.int8,
    "Uint16": np.uint16,
    "Int16": np.int16,
    "Short": np.int16,
    "Uint32": np.uint32,
    "Int32": np.int32,
    "Int": np.int32,
    "Long": np.int64,
    "Int64": np.int64,
}
"""Casts to whole numbers: they truncate toward zero and clamp to the range."""


# ---------------------------------------------------------------- bands


@function("Image.constant")
def image_constant(value: Value, context: Context) -> Image:
    """Image of one number, or of a list of them."""
    image: Image = context.promote(value, "Image")
    return image


@function("Image.select")
def select(input: Image, bandSelectors: list[Value], newNames: list[str] | None = None) -> Image:
    """Pick bands, in the order asked for, renamed perhaps."""
    bands = chosen_bands(input, bandSelectors, "Image.select")
    return renamed("Image.select", input, bands, newNames)


def renamed(name: str, image: Image, bands: Sequence[Band], names: Sequence[str] | None) -> Image:
    """Image of some bands under new names."""
    if names is not None and len(names) != len(bands):
        raise EmulatorError(
            f"{name}: The number of names ({len(names)}) must match the number of bands ({len(bands)})."
        )
    new = [band.name for band in bands] if names is None else names
    return image.with_bands(tuple(band.called(name) for band, name in zip(bands, new, strict=True)))


@function("Image.rename")
def rename(input: Image, names: list[str]) -> Image:
    """All bands under new names."""
    return renamed("Image.rename", input, input.bands, names)


@function("Image.addBands")
def add_bands(dstImg: Image, srcImg: Image, names: list[str] | None = None, overwrite: bool = False) -> Image:
    """Bands of both images; those of the second replace others of their name where that is wanted."""
    added = list(srcImg.bands) if names is None else [srcImg.find(name, "Image.addBands") for name in names]
    if not overwrite:
        return _limited(dstImg.with_bands((*dstImg.bands, *added)))
    new = {band.name: band for band in added}
    kept = [new.pop(band.name, band) for band in dstImg.bands]
    return _limited(dstImg.with_bands((*kept, *new.values())))


@function("Image.cat")
def cat(images: list[Value], context: Context) -> Image:
    """Bands of all images; the first one's properties."""
    parts: list[Image] = [context.promote(image, "Image") for image in images]
    if not parts:
        return Image()
    return _limited(parts[0].with_bands(tuple(band for image in parts for band in image.bands)))


def _limited(image: Image) -> Image:
    if len(image.bands) > MAX_BANDS:
        raise EmulatorError(f"Too many bands ({len(image.bands)}); at most {MAX_BANDS} are allowed.")
    return image


@function("Image.bandNames")
def band_names(image: Image) -> list[str]:
    """Names of the bands."""
    return image.names


@function("Image.bandTypes")
def band_types(image: Image) -> dict[str, PixelType]:
    """Band -> type."""
    return {band.name: band.type for band in image.bands}


@function("Image.projection")
def projection(image: Image) -> Projection:
    """Projection that all bands share."""
    if not image.bands:
        raise EmulatorError("Image.projection: the image has no bands.")
    if len({band.projection for band in image.bands}) > 1:
        raise EmulatorError(
            "Image.projection: The bands of the specified image contains different projections. "
            "Use Image.select to select a single band."
        )
    return image.projection


@function("Image.pixelLonLat")
def pixel_lon_lat() -> Image:
    """Degrees of each pixel's centre."""

    def axis(k: int) -> Callable[[Grid], Pixels]:
        return lambda grid: Pixels(grid.centres(WGS84)[k], np.ones(grid.shape, bool))

    names = ("longitude", "latitude")
    return Image(tuple(Band(name, DOUBLE, DEFAULT_PROJECTION, axis(k)) for k, name in enumerate(names)))


@function("Image.pixelArea")
def pixel_area() -> Image:
    """Square metres of each pixel."""

    def evaluate(grid: Grid) -> Pixels:
        width, height = pixel_metres(grid)
        return Pixels(np.broadcast_to(width * height, grid.shape).copy(), np.ones(grid.shape, bool))

    return Image((Band("area", DOUBLE, DEFAULT_PROJECTION, evaluate),))


# ---------------------------------------------------------------- one number to one number


def _integer_cast(dtype: type) -> tuple[Callable[[Array], Array], PixelType]:
    limits = np.iinfo(dtype)
    low, high = float(limits.min), float(limits.max)
    return (lambda values: np.clip(np.trunc(np.nan_to_num(values)), low, high)), PixelType.of(dtype)


def half_up(values: Array) -> Array:
    """Nearest whole number; Earth Engine does not document what becomes of halves: here they go up."""
    return np.asarray(np.floor(values + 0.5))


def _bit_count(values: Array) -> Array:
    bits = values.astype(np.int64).view(np.uint8).reshape(*values.shape, 8)
    return np.asarray(np.unpackbits(bits, axis=-1).sum(axis=-1), np.float64)


UNARY: dict[str, tuple[Callable[[Array], Array], PixelType | None]] = {
    "abs": (np.abs, None),
    "floor": (np.floor, INT32),
    "ceil": (np.ceil, INT32),
    "round": (half_up, INT32),
    "signum": (np.sign, None),
    "not": (lambda values: values == 0, TRUTH),
    "sqrt": (np.sqrt, DOUBLE),
    "exp": (np.exp, DOUBLE),
    "log": (np.log, DOUBLE),
    "log10": (np.log10, DOUBLE),
    "cbrt": (np.cbrt, DOUBLE),
    "sin": (np.sin, DOUBLE),
    "cos": (np.cos, DOUBLE),
    "tan": (np.tan, DOUBLE),
    "asin": (np.arcsin, DOUBLE),
    "acos": (np.arccos, DOUBLE),
    "atan": (np.arctan, DOUBLE),
    "sinh": (np.sinh, DOUBLE),
    "cosh": (np.cosh, DOUBLE),
    "tanh": (np.tanh, DOUBLE),
    "bitwiseNot": (lambda values: np.bitwise_not(values.astype(np.int64)), None),
    "bitwise_not": (lambda values: np.bitwise_not(values.astype(np.int64)), None),
    "bitCount": (lambda values: _bit_count(values), INT32),
    "toFloat": (lambda values: values.astype(np.float32).astype(np.float64), FLOAT),
    "float": (lambda values: values.astype(np.float32).astype(np.float64), FLOAT),
    "toDouble": (np.asarray, DOUBLE),
    "double": (np.asarray, DOUBLE),
}
UNARY |= {f"to{name}": _integer_cast(dtype) for name, dtype in INTEGERS.items()}
UNARY |= {name[0].lower() + name[1:]: _integer_cast(dtype) for name, dtype in INTEGERS.items()}


def _enter_unary(name: str, compute: Callable[[Array], Array], kind: PixelType | None) -> None:
    def apply(value: Image) -> Image:
        def change(band: Band) -> Band:
            if compute is np.asarray:  # pixels are doubles anyway
                return band.derived(band.evaluate, kind)

            def evaluate(grid: Grid) -> Pixels:
                values, valid = band.evaluate(grid)
                with np.errstate(all="ignore"):
                    return defined(compute(values), valid)

            return band.derived(evaluate, kind)

        return value.mapped(change)

    apply.__doc__ = f"`{name}` of each pixel."
    function(f"Image.{name}")(apply)


def defined(values: Array, valid: Array) -> Pixels:
    """Pixels of a result: masked where it is no number."""
    values = np.asarray(values, np.float64)
    whole = least(valid, ~np.isnan(values))
    return Pixels(np.where(whole, values, 0.0), whole)


for _name, (_compute, _kind) in UNARY.items():
    _enter_unary(_name, _compute, _kind)


# ---------------------------------------------------------------- two numbers to one number


def _integers(operation: Callable[..., Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: operation(a.astype(np.int64), b.astype(np.int64))


def quotient(a: Array, b: Array) -> Array:
    """Quotient; 0 for a division by 0 (Earth Engine's reference)."""
    return np.where(b == 0, 0.0, a / np.where(b == 0, 1, b))


def relative_difference(a: Array, b: Array) -> Array:
    """Compute (a - b) / (a + b); masked where either is negative and (undocumented) where both are 0."""
    return np.where((a < 0) | (b < 0) | (a + b == 0), np.nan, quotient(a - b, a + b))


BINARY: dict[tuple[str, ...], tuple[Callable[[Array, Array], Array], PixelType | None]] = {
    ("add",): (np.add, None),
    ("subtract",): (np.subtract, None),
    ("multiply",): (np.multiply, None),
    ("divide",): (quotient, DOUBLE),
    ("mod",): (np.fmod, None),
    ("pow",): (np.power, DOUBLE),
    ("min",): (np.minimum, None),
    ("max",): (np.maximum, None),
    ("first",): (lambda a, b: a, None),
    ("firstNonZero", "first_nonzero"): (lambda a, b: np.where(a != 0, a, b), None),
    ("hypot",): (np.hypot, DOUBLE),
    ("atan2",): (np.arctan2, DOUBLE),
    ("eq",): (np.equal, TRUTH),
    ("neq",): (np.not_equal, TRUTH),
    ("lt",): (np.less, TRUTH),
    ("lte",): (np.less_equal, TRUTH),
    ("gt",): (np.greater, TRUTH),
    ("gte",): (np.greater_equal, TRUTH),
    ("and",): (np.logical_and, TRUTH),
    ("or",): (np.logical_or, TRUTH),
    ("bitwiseAnd", "bitwise_and"): (_integers(np.bitwise_and), None),
    ("bitwiseOr", "bitwise_or"): (_integers(np.bitwise_or), None),
    ("bitwiseXor", "bitwise_xor"): (_integers(np.bitwise_xor), None),
    ("leftShift", "left_shift"): (_integers(np.left_shift), None),
    ("rightShift", "right_shift"): (_integers(np.right_shift), None),
}


def pairs(name: str, left: Image, right: Image) -> list[tuple[Band, Band]]:
    """Bands that belong together: in order, or the only one of an image with each of the other's."""
    if len(left.bands) == len(right.bands):
        return list(zip(left.bands, right.bands, strict=True))
    if len(right.bands) == 1:
        return [(band, right.bands[0]) for band in left.bands]
    if len(left.bands) == 1:
        return [(replace(left.bands[0], name=band.name), band) for band in right.bands]
    raise EmulatorError(
        f"Image.{name}: If one image has no bands, the other must also have no bands. "
        f"Got {len(left.bands)} and {len(right.bands)}."
        if not left.bands or not right.bands
        else f"Image.{name}: Images must contain the same number of bands, or one must have a single band. "
        f"Got {len(left.bands)} and {len(right.bands)}."
    )


def combined(
    name: str, left: Image, right: Image, compute: Callable[[Array, Array], Array], kind: PixelType | None
) -> Image:
    """Image of an operation on two images: masked where either is."""

    def joined(a: Band, b: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            (x, valid_x), (y, valid_y) = a.evaluate(grid), b.evaluate(grid)
            with np.errstate(all="ignore"):
                return defined(compute(x, y), least(valid_x, valid_y))

        first, second = (b, a) if a.composite else (a, b)
        window = shared(first.window, second.window) if first.projection == second.projection else first.window
        result = type_after(name, kind, a.type, b.type)
        return replace(a.derived(evaluate, result), projection=first.projection, frame=first.frame).within(window)

    made = left.with_bands(tuple(joined(a, b) for a, b in pairs(name, left, right)))
    return replace(made, footprint=_common(left.footprint, right.footprint))


def _common(one: BaseGeometry | None, other: BaseGeometry | None) -> BaseGeometry | None:
    """Intersection of two footprints; None is everywhere."""
    if one is None or other is None or one is other:
        return one or other
    return shapely.intersection(one, other)


def _enter_binary(names: tuple[str, ...], compute: Callable[[Array, Array], Array], kind: PixelType | None) -> None:
    for name in names:

        def apply(image1: Image, image2: Image, name: str = name) -> Image:
            return combined(name, image1, image2, compute, kind)

        apply.__doc__ = f"`{name}` of two images."
        function(f"Image.{name}")(apply)


for _names, (_operation, _result) in BINARY.items():
    _enter_binary(_names, _operation, _result)


@function("Image.normalizedDifference")
def normalized_difference(input: Image, bandNames: list[str] | None = None) -> Image:
    """(first - second) / (first + second); masked where either is negative."""
    names = bandNames or input.names[:2]
    first, second = (Image((input.find(name, "Image.normalizedDifference"),)) for name in names)

    image = combined("normalizedDifference", first, second, relative_difference, PixelType("float", -1, 1))
    return input.with_bands((replace(image.bands[0], name="nd"),))


@function("Image.clamp")
def clamp(input: Image, low: float, high: float) -> Image:
    """Cut values at both ends."""

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels(np.clip(values, low, high), valid)

        return band.derived(evaluate)

    return input.mapped(change)


@function("Image.unitScale")
def unit_scale(input: Image, low: float, high: float) -> Image:
    """Scale so that ``low`` becomes 0 and ``high`` 1."""

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels((values - low) / (high - low), valid)

        return band.derived(evaluate, DOUBLE)

    return input.mapped(change)


# ---------------------------------------------------------------- masks


@function("Image.updateMask")
def update_mask(image: Image, mask: Image) -> Image:
    """Replace the mask of unmasked pixels by another image's values; pixels masked in that image are masked."""

    def change(band: Band, other: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            (values, valid), given = band.evaluate(grid), other.evaluate(grid)
            return Pixels(values, least(shown(valid), _as_mask(given)))

        return band.derived(evaluate)

    return image.with_bands(tuple(change(a, b) for a, b in pairs("updateMask", image, mask)[: len(image.bands)]))


def _as_mask(pixels: Pixels) -> Mask:
    """Values of an image as a mask, clipped to 0-1; 0 where the image itself is masked."""
    return least(mask_of(pixels.values), pixels.valid)


@function("Image.selfMask")
def self_mask(image: Image) -> Image:
    """Use unmasked values as their own mask: zero is masked."""
    return update_mask(image, image)


@function("Image.mask")
def mask(image: Image, mask: Image | None = None) -> Image:
    """Return the mask of each band, 0 to 1, or replace it by another image's values."""

    def own(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            return Pixels(band.evaluate(grid).valid.astype(np.float64), np.ones(grid.shape, bool))

        return band.derived(evaluate, SHARE)

    def replaced(band: Band, other: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels(np.where(shown(valid), values, 0.0), _as_mask(other.evaluate(grid)))

        return band.derived(evaluate)

    if mask is None:
        return image.mapped(own)
    return image.with_bands(tuple(replaced(a, b) for a, b in pairs("mask", image, mask)))


@function("Image.unmask")
def unmask(input: Image, value: Image | None = None, sameFootprint: bool = True) -> Image:
    """Fill what is masked; outside the footprint only where that is asked for."""
    filling = value or Image((constant(0),))
    footprint = input.footprint if sameFootprint else None

    def change(band: Band, other: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            (values, valid), (fill, filled) = band.evaluate(grid), other.evaluate(grid)
            seen, reached = shown(valid), least(filled, inside(footprint, grid))
            mask = seen | reached if valid.dtype == reached.dtype == bool else np.where(seen, valid, reached)
            return Pixels(np.where(seen, values, np.where(reached, fill, 0.0)), mask)

        return band.derived(evaluate, band.type.joined(other.type))

    image = input.with_bands(tuple(change(a, b) for a, b in pairs("unmask", input, filling)))
    return image if sameFootprint else replace(image.mapped(lambda band: band.within(None)), footprint=None)


@function("Image.where")
def where(input: Image, test: Image, value: Image) -> Image:
    """Take another image's value where a test is true and both are valid."""

    def change(band: Band, condition: Band, other: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            (values, valid), (true, seen), (new, fresh) = (b.evaluate(grid) for b in (band, condition, other))
            taken = least(shown(valid), shown(seen), true != 0, shown(fresh))
            return Pixels(np.where(taken, new, values), valid)

        return band.derived(evaluate, band.type.joined(other.type))

    tests = [b for _, b in pairs("where", input, test)]
    values = [b for _, b in pairs("where", input, value)]
    return input.with_bands(tuple(change(*bands) for bands in zip(input.bands, tests, values, strict=True)))


@function("Image.clip")
def clip(input: Image, geometry: Value, context: Context) -> Image:
    """Mask what lies outside a geometry."""
    area: Geometry = context.promote(geometry, "Geometry")
    shape = area.lonlat

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels(values, least(valid, covered(area.shape, area.crs, grid)))

        window = window_in(area.shape, area.crs, band.projection, HALF_PIXEL)
        return band.derived(evaluate).within(shared(band.window, window))

    if area.unbounded:
        return input
    footprint = shape if input.footprint is None else shapely.intersection(input.footprint, shape)
    return bounded(input.mapped(change), footprint)


@function("Image.remap")
def remap(
    image: Image, from_: list[Value], to: list[Value], defaultValue: Value = None, bandName: str | None = None
) -> Image:
    """Exchange values; those that are not listed become the default, or are masked."""
    if len(from_) != len(to):
        raise EmulatorError(f"Image.remap: The lists 'from' ({len(from_)}) and 'to' ({len(to)}) differ in length.")
    band = image.bands[0] if bandName is None else image.find(bandName, "Image.remap")
    order = np.argsort(np.asarray(from_, np.float64), kind="stable")
    old, new = np.asarray(from_, np.float64)[order], np.asarray(to, np.float64)[order]

    def evaluate(grid: Grid) -> Pixels:
        values, valid = band.evaluate(grid)
        at = np.clip(np.searchsorted(old, values), 0, max(len(old) - 1, 0))
        known = old[at] == values if len(old) else np.zeros(values.shape, bool)
        if defaultValue is None:
            return Pixels(np.where(known, new[at] if len(new) else 0.0, 0.0), least(valid, known))
        return Pixels(np.where(known, new[at] if len(new) else 0.0, float(defaultValue)), valid)

    kind = INT32 if all(float(v).is_integer() for v in to) else DOUBLE
    return image.with_bands((replace(band.derived(evaluate, kind), name="remapped"),))
