"""Algorithms on the bands of an image: which, in what order, under which names, of which types; and images of no asset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.emulator.algorithms.collections import mapped
from mmearth_data.emulator.algorithms.filters import ANYTHING, Query
from mmearth_data.emulator.algorithms.image import (
    DEFAULT_PROJECTION,
    DOUBLE,
    WGS84,
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    Projection,
    chosen_bands,
    constant,
    wholly_masked,
)
from mmearth_data.emulator.algorithms.pixel_functions import on_values
from mmearth_data.emulator.algorithms.stacks import examples_of
from mmearth_data.emulator.errors import MAX_BANDS, EmulatorError, band_not_found
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


def _renamed(name: str, image: Image, bands: Sequence[Band], names: Sequence[str] | None) -> Image:
    if names is not None and len(names) != len(bands):
        raise EmulatorError(
            f"{name}: The number of names ({len(names)}) must match the number of bands ({len(bands)})."
        )
    new = [band.name for band in bands] if names is None else names
    return image.with_bands(tuple(band.called(name) for band, name in zip(bands, new, strict=True)))


def _limited(image: Image) -> Image:
    if len(image.bands) > MAX_BANDS:
        raise EmulatorError(f"Too many bands ({len(image.bands)}); at most {MAX_BANDS} are allowed.")
    return image


functions(
    "Image",
    {
        "bandNames": lambda image: image.names,
        "bandTypes": lambda image: {band.name: band.type for band in image.bands},
        "constant": lambda value, context: context.promote(value, "Image"),
        "rename": lambda input, names: _renamed("Image.rename", input, input.bands, names),
        "select": lambda input, bandSelectors, newNames: _renamed(
            "Image.select", input, chosen_bands(input, bandSelectors, "Image.select"), newNames
        ),
        "slice": lambda image, start, end: image.with_bands(tuple(list(image.bands)[start:end])),
    },
)


@function("Image.addBands")
def _add_bands(dstImg: Image, srcImg: Image, names: list[str] | None, overwrite: bool) -> Image:
    added = list(srcImg.bands) if names is None else [srcImg.find(name, "Image.addBands") for name in names]
    return _limited(dstImg.replaced(added) if overwrite else dstImg.with_bands((*dstImg.bands, *added)))


@function("Image.cat")
def _cat(images: list[Value], context: Context) -> Image:
    parts: list[Image] = [context.promote(image, "Image") for image in images]
    return _limited(parts[0].with_bands(tuple(b for image in parts for b in image.bands))) if parts else Image()


@function("Image.projection")
def _projection(image: Image) -> Projection:
    if not image.bands:
        raise EmulatorError("Image.projection: the image has no bands.")
    if len({band.projection for band in image.bands}) > 1:
        raise EmulatorError(
            "Image.projection: The bands of the specified image contains different projections. "
            "Use Image.select to select a single band."
        )
    return image.projection


@function("Image.regexpRename")
def _regexp_rename(input: Image, regex: str, replacement: str, all: bool) -> Image:
    pattern = Pattern("Image.regexpRename", regex)
    return input.mapped(lambda band: replace(band, name=pattern.substituted(replacement, band.name, everywhere=all)))


def _casted(band: Band, kind: PixelType) -> Band:
    """Band in another type: clipped to its range, and truncated toward zero to integers."""
    if kind.precision == "float":
        return on_values(band, lambda values: values.astype(np.float32).astype(np.float64), kind)
    return on_values(band, lambda values: fitted(values, kind), kind)


@function("Image.cast")
def _cast(image: Image, bandTypes: dict[str, Value], bandOrder: list[str] | None, context: Context) -> Image:
    types = {name: context.promote(kind, "PixelType") for name, kind in bandTypes.items()}
    for name in types:
        image.find(name, "Image.cast")
    bands = {band.name: _casted(band, types[band.name]) if band.name in types else band for band in image.bands}
    order = bandOrder or image.names
    if missing := [name for name in order if name not in bands]:
        raise band_not_found("Image.cast", missing[0], image.names)
    return image.with_bands(tuple(bands[name] for name in order))


@function("ImageCollection.cast")
def _cast_collection(
    collection: Collection, bandTypes: dict[str, Value], bandOrder: list[str], context: Context
) -> Collection:
    def change(image: Image) -> Image:
        return _cast(image, bandTypes, bandOrder, context).with_properties(image.properties)

    return collection.from_source(mapped(collection, change))


# ---------------------------------------------------------------- images of no asset


def _computed(kinds: Sequence[str], home: Projection, of: Callable[[Grid], Sequence[Array]]) -> Image:
    """Image with bands of these names, computed from the grid; masked where a map projection is undefined."""

    def evaluate(k: int) -> Callable[[Grid], Pixels]:
        def pixels(grid: Grid) -> Pixels:
            values = of(grid)[k]
            fine = np.isfinite(values)
            return Pixels(np.where(fine, values, 0.0), fine)

        return pixels

    return Image(tuple(Band(name, DOUBLE, home, evaluate(k)) for k, name in enumerate(kinds)))


functions(
    "Image",
    {
        "pixelArea": lambda: _computed(["area"], DEFAULT_PROJECTION, lambda grid: (grid.pixel_areas(),)),
        "pixelCoordinates": lambda projection: _computed("xy", projection, lambda grid: grid.positions(projection)),
        "pixelLonLat": lambda: _computed(
            ("longitude", "latitude"), DEFAULT_PROJECTION, lambda grid: grid.centres(WGS84)
        ),
    },
)


@function("Image.metadata")
def _metadata(image: Image, property: str, name: str | None) -> Image:
    value = image.properties.get(property)
    value = value.ms if isinstance(value, Date) else value
    number = float(value) if isinstance(value, (int, float)) else None
    band = constant(number or 0.0, name or property)
    # "of type double", whatever its value, so that images of a collection can be reduced with it.
    return Image((replace(wholly_masked(band) if number is None else band, type=DOUBLE),), {}, image.footprint)


@function("Image.random")
def _random(seed: int, distribution: str) -> Image:
    """Random numbers that depend on the location: equal wherever the same pixel is computed."""
    if distribution not in {"uniform", "normal"}:
        raise EmulatorError(f"Image.random: Unknown distribution '{distribution}'.")

    def uniform(grid: Grid, label: str) -> Array:
        columns, rows = (np.floor(axis * 1e6).astype(np.int64).astype(np.int32) for axis in grid.centres(WGS84))
        return (hash_cells(columns, rows, salt_of(seed, label)).astype(np.float64) + 0.5) / 2**32

    def values(grid: Grid) -> Sequence[Array]:
        found = uniform(grid, "random")
        if distribution == "normal":
            found = np.sqrt(-2 * np.log(found)) * np.cos(2 * np.pi * uniform(grid, "angle"))
        return (found,)

    return _computed(["random"], DEFAULT_PROJECTION, values)


# ---------------------------------------------------------------- with collections


@function("Image.linkCollection")
def _link_collection(
    input: Image, imageCollection: Collection, linkedBands: Value, linkedProperties: Value, matchPropertyName: str
) -> Image:
    """Add bands and properties of the image of a collection with the same property; masked and null if none."""
    match = _matching(imageCollection, input, matchPropertyName)
    names = [linkedBands] if isinstance(linkedBands, str) else linkedBands or []
    wanted = [linkedProperties] if isinstance(linkedProperties, str) else linkedProperties or []
    described = match or (_example(imageCollection, names) if names else None)
    if names and described is None:
        raise EmulatorError("Image.linkCollection: the collection is empty, so that the linked bands have no type.")
    linked = [] if described is None else chosen_bands(described, names, "Image.linkCollection")
    image = input.replaced([band if match is not None else wholly_masked(band) for band in linked])
    found = {name: None if match is None else match.properties.get(name) for name in wanted}
    return image.with_properties({**input.properties, **found})


def _matching(collection: Collection, image: Image, name: str) -> Image | None:
    """Image of a collection with the same property value as an image; the first if there are several."""
    value = image.properties.get(name)
    if value is None:
        return None
    query = Query(equal={name: value} if isinstance(value, str) else {}, region=image.footprint)
    return next((found for found in collection.find(query) if found.properties.get(name) == value), None)


def _example(collection: Collection, names: Sequence[str]) -> Image | None:
    """Image of a collection that describes these bands, the first one if none has them all; None if it is empty."""
    if not collection.scattered(ANYTHING):
        return next(iter(collection), None)
    examples = examples_of(collection)
    return next((image for image in examples if set(names) <= set(image.names)), examples[0])


@function("ImageCollection.combine")
def _combine(primary: Collection, secondary: Collection, overwrite: bool) -> Collection:
    def joined(image: Image) -> Image | None:
        other = _matching(secondary, image, "system:index")
        return None if other is None else _add_bands(image, other, None, overwrite).with_properties(image.properties)

    return primary.from_source(mapped(primary, joined, keeps=True))
