"""Further algorithms on the bands of an image: names, types, tables of values, colours, chance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.emulator.algorithms.filters import ANYTHING, Query
from mmearth_data.emulator.algorithms.image import (
    DEFAULT_PROJECTION,
    DOUBLE,
    FLOAT,
    WGS84,
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    chosen_bands,
    constant,
    least,
    wholly_masked,
)
from mmearth_data.emulator.algorithms.stacks import examples_of
from mmearth_data.emulator.errors import EmulatorError, band_not_found
from mmearth_data.emulator.graph.patterns import Pattern
from mmearth_data.emulator.graph.registry import function, functions
from mmearth_data.emulator.graph.values import Date
from mmearth_data.emulator.server.output import fitted
from mmearth_data.planet.noise import hash_cells, salt_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.collections import Collection
    from mmearth_data.emulator.graph.registry import Context, Value

    Array = NDArray[Any]

BEHAVIOURS = ("extrapolate", "clamp", "mask", "input")


def on_values(band: Band, compute: Callable[[Array], Array], kind: PixelType | None = None) -> Band:
    """Band of a function of the values; masked where the function gives none."""

    def computed(own: Pixels) -> Pixels:
        found = compute(own.values)
        fine = least(own.valid, np.isfinite(found))
        return Pixels(np.where(fine, found, 0.0), fine)

    return band.computed(computed, type=kind)


# ---------------------------------------------------------------- names and types


functions("Image", {"slice": lambda image, start, end=None: image.with_bands(tuple(list(image.bands)[start:end]))})


@function("Image.regexpRename")
def regexp_rename(input: Image, regex: str, replacement: str, all: bool = True) -> Image:
    """Rename every band by a regular expression; ``$1`` is its first group."""
    pattern = Pattern("Image.regexpRename", regex)
    return input.mapped(lambda band: replace(band, name=pattern.substituted(replacement, band.name, everywhere=all)))


def casted(band: Band, kind: PixelType) -> Band:
    """Band in another type: cut to its range, toward zero where it holds whole numbers."""
    if kind.precision == "float":
        return on_values(band, lambda values: values.astype(np.float32).astype(np.float64), kind)
    return on_values(band, lambda values: fitted(values, kind), kind)


@function("Image.cast")
def cast(image: Image, bandTypes: dict[str, Value], bandOrder: list[str] | None = None, *, context: Context) -> Image:
    """Change the types of some bands, and their order."""
    types = {name: context.promote(kind, "PixelType") for name, kind in bandTypes.items()}
    for name in types:
        image.find(name, "Image.cast")
    bands = {band.name: casted(band, types[band.name]) if band.name in types else band for band in image.bands}
    order = bandOrder or image.names
    if missing := [name for name in order if name not in bands]:
        raise band_not_found("Image.cast", missing[0], image.names)
    return image.with_bands(tuple(bands[name] for name in order))


@function("ImageCollection.cast")
def cast_collection(
    collection: Collection, bandTypes: dict[str, Value], bandOrder: list[str], context: Context
) -> Collection:
    """Change the types of all images' bands."""
    from mmearth_data.emulator.algorithms.collections import Mapped

    def change(image: Image) -> Image:
        return cast(image, bandTypes, bandOrder, context=context).with_properties(image.properties)

    return collection.from_source(Mapped(collection.source, change))


@function("Image.metadata")
def metadata(image: Image, property: str, name: str | None = None) -> Image:
    """Make a band of a property; masked where the image has no such number."""
    value = image.properties.get(property)
    value = value.ms if isinstance(value, Date) else value
    number = float(value) if isinstance(value, (int, float)) else None
    band = constant(number or 0.0, name or property)
    # "of type double", whatever its value, so that images of a collection can be reduced with it.
    return Image((replace(wholly_masked(band) if number is None else band, type=DOUBLE),), {}, image.footprint)


# ---------------------------------------------------------------- values


@function("Image.interpolate")
def interpolate(image: Image, x: list[float], y: list[float], behavior: str = "extrapolate") -> Image:
    """Look values up in a table, linearly between its rows."""
    if behavior not in BEHAVIOURS:
        raise EmulatorError(f"Image.interpolate: Invalid behavior '{behavior}'. Expected one of {BEHAVIOURS}.")
    if len(x) != len(y) or len(x) < 2:
        raise EmulatorError("Image.interpolate: x and y must have the same length, at least 2.")
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def compute(values: Array) -> Array:
        found = np.interp(values, xs, ys)
        outside = (values < xs[0]) | (values > xs[-1])
        if behavior == "clamp":
            return np.asarray(found)
        if behavior == "mask":
            return np.where(outside, np.nan, found)
        if behavior == "input":
            return np.where(outside, values, found)
        first, last = (ys[1] - ys[0]) / (xs[1] - xs[0]), (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
        found = np.where(values < xs[0], ys[0] + first * (values - xs[0]), found)
        return np.where(values > xs[-1], ys[-1] + last * (values - xs[-1]), found)

    return image.mapped(lambda band: on_values(band, compute, DOUBLE))


@function("Image.polynomial")
def polynomial(image: Image, coefficients: list[float]) -> Image:
    """Compute a polynomial; coefficients from the constant up."""
    return image.mapped(
        lambda band: on_values(band, lambda v: np.polynomial.polynomial.polyval(v, coefficients), DOUBLE)
    )


@function("Image.random")
def random(seed: int = 0, distribution: str = "uniform") -> Image:
    """Random numbers, one for each place: the same wherever the same pixel is asked for."""
    if distribution not in {"uniform", "normal"}:
        raise EmulatorError(f"Image.random: Unknown distribution '{distribution}'.")

    def draw(grid: Grid, label: str) -> Array:
        lon, lat = grid.centres(WGS84)
        columns, rows = (np.floor(axis * 1e6).astype(np.int64).astype(np.int32) for axis in (lon, lat))
        bits = hash_cells(columns, rows, salt_of(seed, label))
        return (bits.astype(np.float64) + 0.5) / 2**32

    def evaluate(grid: Grid) -> Pixels:
        values = draw(grid, "random")
        if distribution == "normal":
            values = np.sqrt(-2 * np.log(values)) * np.cos(2 * np.pi * draw(grid, "angle"))
        return Pixels(values, np.ones(grid.shape, bool))

    return Image((Band("random", DOUBLE, DEFAULT_PROJECTION, evaluate),))


def _on_three(name: str, image: Image, names: tuple[str, str, str], compute: Callable[[Array], Array]) -> Image:
    """Image of three bands that a function makes of three, (3, row, column)."""
    if len(image.bands) != 3:
        raise EmulatorError(f"Image.{name}: Expected an image with 3 bands, got {len(image.bands)}.")

    def channel(k: int) -> Callable[[Grid], Pixels]:
        def evaluate(grid: Grid) -> Pixels:
            layers = [band.evaluate(grid) for band in image.bands]
            valid = least(*(layer.valid for layer in layers))
            return Pixels(np.where(valid, compute(np.stack([layer.values for layer in layers]))[k], 0.0), valid)

        return evaluate

    bands = zip(names, image.bands, strict=True)
    return image.with_bands(
        tuple(replace(band.derived(channel(k), FLOAT), name=new) for k, (new, band) in enumerate(bands))
    )


@function("Image.rgbToHsv")
def rgb_to_hsv(image: Image) -> Image:
    """Turn red, green and blue (0-1) into hue, saturation and value."""

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
def hsv_to_rgb(image: Image) -> Image:
    """Turn hue, saturation and value into red, green and blue."""

    def compute(hsv: Array) -> Array:
        hue, saturation, value = hsv

        def channel(shift: float) -> Array:
            part = (shift + hue * 6) % 6
            return np.asarray(value - value * saturation * np.clip(np.minimum(part, 4 - part), 0, 1))

        return np.stack([channel(5), channel(3), channel(1)])

    return _on_three("hsvToRgb", image, ("red", "green", "blue"), compute)


# ---------------------------------------------------------------- with collections


@function("Image.linkCollection")
def link_collection(
    input: Image,
    imageCollection: Collection,
    linkedBands: Value = None,
    linkedProperties: Value = None,
    matchPropertyName: str = "system:index",
) -> Image:
    """Add bands and properties of the image of a collection with the same property; masked and null if none."""
    match = matching(imageCollection, input, matchPropertyName)
    names = [linkedBands] if isinstance(linkedBands, str) else linkedBands or []
    wanted = [linkedProperties] if isinstance(linkedProperties, str) else linkedProperties or []
    described = match or (example_image(imageCollection, names) if names else None)
    if names and described is None:
        raise EmulatorError("Image.linkCollection: the collection is empty, so that the linked bands have no type.")
    linked = [] if described is None else chosen_bands(described, names, "Image.linkCollection")
    image = input.replaced([band if match is not None else wholly_masked(band) for band in linked])
    found = {name: None if match is None else match.properties.get(name) for name in wanted}
    return image.with_properties({**input.properties, **found})


def matching(collection: Collection, image: Image, name: str = "system:index") -> Image | None:
    """Image of a collection with the same property value as an image; the first if there are several."""
    value = image.properties.get(name)
    if value is None:
        return None
    query = Query(equal={name: value} if isinstance(value, str) else {}, region=image.footprint)
    return next((found for found in collection.find(query) if found.properties.get(name) == value), None)


def example_image(collection: Collection, names: Sequence[str]) -> Image | None:
    """Image of a collection that describes these bands, the first one if none has them all; None if it is empty."""
    if not collection.scattered(ANYTHING):
        return next(iter(collection), None)
    examples = examples_of(collection)
    return next((image for image in examples if set(names) <= set(image.names)), examples[0])


@function("ImageCollection.combine")
def combine_collections(primary: Collection, secondary: Collection, overwrite: bool = False) -> Collection:
    """Join images of equal ``system:index``: bands of both."""
    from mmearth_data.emulator.algorithms.collections import Mapped
    from mmearth_data.emulator.algorithms.image_functions import add_bands

    def joined(image: Image) -> Image | None:
        other = matching(secondary, image)
        return None if other is None else add_bands(image, other, None, overwrite).with_properties(image.properties)

    return primary.from_source(Mapped(primary, joined, keeps=True))
