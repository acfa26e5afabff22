"""Algorithms on images: bands, arithmetic, masks, types."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.arithmetic import BINARY, CASTS, UNARY, Binary, Unary, relative_difference
from mmearth_data.emulator.algorithms.image import (
    DEFAULT_PROJECTION,
    DOUBLE,
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
from mmearth_data.emulator.algorithms.resampling import pixel_metres
from mmearth_data.emulator.errors import MAX_BANDS, EmulatorError
from mmearth_data.emulator.graph.registry import function, functions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.geometry import Geometry
    from mmearth_data.emulator.algorithms.image import Mask
    from mmearth_data.emulator.graph.registry import Context, Value

    Array = NDArray[Any]

SHARE = PixelType("float", 0, 1)


# ---------------------------------------------------------------- bands


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


@function("Image.addBands")
def add_bands(dstImg: Image, srcImg: Image, names: list[str] | None = None, overwrite: bool = False) -> Image:
    """Bands of both images; those of the second replace others of their name where that is wanted."""
    added = list(srcImg.bands) if names is None else [srcImg.find(name, "Image.addBands") for name in names]
    return _limited(dstImg.replaced(added) if overwrite else dstImg.with_bands((*dstImg.bands, *added)))


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


functions(
    "Image",
    {
        "rename": lambda input, names: renamed("Image.rename", input, input.bands, names),
        "pixelLonLat": lambda: positions(
            ("longitude", "latitude"), DEFAULT_PROJECTION, lambda grid: grid.centres(WGS84)
        ),
        "pixelCoordinates": lambda projection: positions("xy", projection, lambda grid: grid.positions(projection)),
        "constant": lambda value, context: context.promote(value, "Image"),
        "bandNames": lambda image: image.names,
        "bandTypes": lambda image: {band.name: band.type for band in image.bands},
    },
)


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


def positions(names: Sequence[str], home: Projection, of: Callable[[Grid], tuple[Array, Array]]) -> Image:
    """Image of two bands, each a coordinate of the pixels' centres."""

    def axis(k: int) -> Callable[[Grid], Pixels]:
        return lambda grid: Pixels(of(grid)[k], np.ones(grid.shape, bool))

    return Image(tuple(Band(name, DOUBLE, home, axis(k)) for k, name in enumerate(names)))


@function("Image.pixelArea")
def pixel_area() -> Image:
    """Square metres of each pixel."""

    def evaluate(grid: Grid) -> Pixels:
        width, height = pixel_metres(grid)
        return Pixels(np.broadcast_to(width * height, grid.shape).copy(), np.ones(grid.shape, bool))

    return Image((Band("area", DOUBLE, DEFAULT_PROJECTION, evaluate),))


# ---------------------------------------------------------------- arithmetic


def defined(values: Array, valid: Array) -> Pixels:
    """Pixels of a result: masked where it is no number."""
    values = np.asarray(values, np.float64)
    whole = least(valid, ~np.isnan(values))
    return Pixels(np.where(whole, values, 0.0), whole)


def _enter_unary(name: str, row: Unary) -> None:
    def compute(own: Pixels) -> Pixels:
        with np.errstate(all="ignore"):
            return own if row.pixels is np.asarray else defined(row.pixels(own.values), own.valid)

    function(f"Image.{name}")(lambda value: value.mapped(lambda band: band.computed(compute, type=row.type)))


for _name, _unary in {**UNARY, **CASTS}.items():
    _enter_unary(_name, _unary)


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


def combined(name: str, row: Binary, left: Image, right: Image) -> Image:
    """Image of an operation on two images: masked where either is."""

    def compute(x: Pixels, y: Pixels) -> Pixels:
        with np.errstate(all="ignore"):
            return defined(row.pixels(x.values, y.values), least(x.valid, y.valid))

    def joined(a: Band, b: Band) -> Band:
        first, second = (b, a) if a.composite else (a, b)
        window = shared(first.window, second.window) if first.projection == second.projection else first.window
        made = a.computed(compute, b, type=row.type_of(a.type, b.type))
        return replace(made, projection=first.projection, frame=first.frame).within(window)

    made = left.with_bands(tuple(joined(a, b) for a, b in pairs(name, left, right)))
    return replace(made, footprint=_common(left.footprint, right.footprint))


def _common(one: BaseGeometry | None, other: BaseGeometry | None) -> BaseGeometry | None:
    """Intersection of two footprints; None is everywhere."""
    if one is None or other is None or one is other:
        return one or other
    return shapely.intersection(one, other)


def _binary(name: str, row: Binary) -> Callable[..., Image]:
    return lambda image1, image2: combined(name, row, image1, image2)


functions("Image", {name: _binary(name, row) for name, row in BINARY.items()})
NORMALIZED = BINARY["divide"]._replace(pixels=relative_difference, type=PixelType("float", -1, 1), range=None)


@function("Image.normalizedDifference")
def normalized_difference(input: Image, bandNames: list[str] | None = None) -> Image:
    """(first - second) / (first + second); masked where either is negative."""
    names = bandNames or input.names[:2]
    first, second = (Image((input.find(name, "Image.normalizedDifference"),)) for name in names)
    image = combined("normalizedDifference", NORMALIZED, first, second)
    return input.with_bands((replace(image.bands[0], name="nd"),))


@function("Image.clamp")
def clamp(input: Image, low: float, high: float) -> Image:
    """Cut values at both ends."""
    return input.mapped(lambda band: band.computed(lambda own: Pixels(np.clip(own.values, low, high), own.valid)))


@function("Image.unitScale")
def unit_scale(input: Image, low: float, high: float) -> Image:
    """Scale so that ``low`` becomes 0 and ``high`` 1."""

    def scaled(own: Pixels) -> Pixels:
        return Pixels((own.values - low) / (high - low), own.valid)

    return input.mapped(lambda band: band.computed(scaled, type=DOUBLE))


# ---------------------------------------------------------------- masks


@function("Image.updateMask")
def update_mask(image: Image, mask: Image) -> Image:
    """Replace the mask of unmasked pixels by another image's values; pixels masked in that image are masked."""

    def masked(own: Pixels, given: Pixels) -> Pixels:
        return Pixels(own.values, least(shown(own.valid), _as_mask(given)))

    bands = pairs("updateMask", image, mask)[: len(image.bands)]
    return image.with_bands(tuple(a.computed(masked, b) for a, b in bands))


functions("Image", {"selfMask": lambda image: update_mask(image, image)})  # zero is masked


def _as_mask(pixels: Pixels) -> Mask:
    """Values of an image as a mask, clipped to 0-1; 0 where the image itself is masked."""
    return least(mask_of(pixels.values), pixels.valid)


@function("Image.mask")
def mask(image: Image, mask: Image | None = None) -> Image:
    """Return the mask of each band, 0 to 1, or replace it by another image's values."""

    def shares(own: Pixels) -> Pixels:
        return Pixels(own.valid.astype(np.float64), np.ones(own.valid.shape, bool))

    def replaced(own: Pixels, given: Pixels) -> Pixels:
        return Pixels(np.where(shown(own.valid), own.values, 0.0), _as_mask(given))

    if mask is None:
        return image.mapped(lambda band: band.computed(shares, type=SHARE))
    return image.with_bands(tuple(a.computed(replaced, b) for a, b in pairs("mask", image, mask)))


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

    def chosen(own: Pixels, tested: Pixels, new: Pixels) -> Pixels:
        taken = least(shown(own.valid), shown(tested.valid), tested.values != 0, shown(new.valid))
        return Pixels(np.where(taken, new.values, own.values), own.valid)

    tests = [b for _, b in pairs("where", input, test)]
    values = [b for _, b in pairs("where", input, value)]
    bands = zip(input.bands, tests, values, strict=True)
    return input.with_bands(tuple(a.computed(chosen, t, b, type=a.type.joined(b.type)) for a, t, b in bands))


@function("Image.clip")
def clip(input: Image, geometry: Value, context: Context) -> Image:
    """Mask what lies outside a geometry."""
    area: Geometry = context.promote(geometry, "Geometry")
    return input if area.unbounded else clipped(input, area)


def clipped(image: Image, area: Geometry) -> Image:
    """Image masked outside a geometry, which also bounds its footprint."""

    def change(band: Band) -> Band:
        def evaluate(grid: Grid) -> Pixels:
            values, valid = band.evaluate(grid)
            return Pixels(values, least(valid, covered(area.shape, area.crs, grid)))

        window = window_in(area.shape, area.crs, band.projection, HALF_PIXEL)
        return band.derived(evaluate).within(shared(band.window, window))

    footprint = area.lonlat if image.footprint is None else shapely.intersection(image.footprint, area.lonlat)
    return bounded(image.mapped(change), footprint)


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

    def exchanged(own: Pixels) -> Pixels:
        values, valid = own
        at = np.clip(np.searchsorted(old, values), 0, max(len(old) - 1, 0))
        known = old[at] == values if len(old) else np.zeros(values.shape, bool)
        if defaultValue is None:
            return Pixels(np.where(known, new[at] if len(new) else 0.0, 0.0), least(valid, known))
        return Pixels(np.where(known, new[at] if len(new) else 0.0, float(defaultValue)), valid)

    kind = INT32 if all(float(v).is_integer() for v in to) else DOUBLE
    return image.with_bands((replace(band.computed(exchanged, type=kind), name="remapped"),))
