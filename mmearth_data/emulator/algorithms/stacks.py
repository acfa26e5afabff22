"""Collections of images to one image: mosaics, and statistics per pixel.

A reduction requires images with the same bands of the same types, including the ranges of their values, which differ
for two constants. The service checks this when a pixel is computed, for all bands, whichever are selected from the
result; requests for band metadata are answered regardless. It is not documented that `mosaic` and `mode` check types
too; here every reduction does. The messages are the service's (geemap issue 1058, geedim issue 16).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.filters import ANYTHING, Query
from mmearth_data.emulator.algorithms.image import (
    DEFAULT_PROJECTION,
    Band,
    Grid,
    Image,
    LazyBands,
    Pixels,
    lonlat_outline,
)
from mmearth_data.emulator.algorithms.reducers import Output, Reducer, simple
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function, functions
from mmearth_data.emulator.server.work import room_for_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.collections import Collection
    from mmearth_data.emulator.graph.registry import Value

PER_PIXEL = ("min", "max", "count", "sum", "product", "mean", "median", "mode", "and", "or")
"""`ImageCollection` methods that are reducers without a suffix on the bands' names."""


KEPT_GRIDS = 16
EXAMPLE_POINTS = [
    shapely.Point(*lonlat)
    for lonlat in (
        (10.2, 47.3), (-60.5, -10.2), (25.1, 9.7), (105.3, 34.8), (134.6, -24.9), (-100.4, 40.2),
        (-40.0, 72.0), (60.3, 62.1), (24.8, -28.3), (-69.7, -30.4), (78.2, 22.4), (-120.3, 55.2),
    )
]  # fmt: skip
"""(longitude, latitude) on land, used to look up the bands of a collection without bounds."""


@dataclass(frozen=True)
class Stack:
    """Images of a collection, as far as they are needed for a grid."""

    # Images that define the names and types of bands: all, or one of a collection spread over the globe
    images: Sequence[Image]
    # Returns the images that may have pixels on a grid, in order; refuses images with different bands or types
    on: Callable[[Grid], Sequence[Image]]

    @property
    def names(self) -> list[str]:
        """Band names of the first image; none for an empty collection."""
        return self.images[0].names if self.images else []

    def bands(self, name: str) -> Layers:
        """Bands with a given name."""

        def having(images: Sequence[Image]) -> list[Band]:
            return [band for image in images if (band := image.named(name)) is not None]

        return Layers(having(self.images), lambda grid: having(self.on(grid)))


@dataclass(frozen=True)
class Layers:
    """Bands with the same name."""

    known: Sequence[Band]
    on: Callable[[Grid], Sequence[Band]]


def stack_of(collection: Collection) -> Stack:
    """Images of a collection: all of them, or those that the requested grid needs."""
    if not collection.scattered(ANYTHING):
        images = images_of(collection)
        alike = cache(partial(_alike, images))  # checked once
        return Stack(images, lambda grid: alike())
    return Stack([_example_of(collection)], lru_cache(KEPT_GRIDS)(partial(_near, collection)))


MIXED = "Expected a homogeneous image collection, but an image with"


def _alike(images: Sequence[Image]) -> Sequence[Image]:
    """Return the images; refuse them if their bands differ from those of the first one."""
    for image in images[1:]:
        first = images[0]
        if image.names != first.names:
            kinds = [f"{len(each.names)} bands ([{', '.join(each.names)}])" for each in (first, image)]
            raise EmulatorError(
                f"{MIXED} incompatible bands was encountered: First image type: {kinds[0]}. "
                f"Current image type: {kinds[1]}."
            )
        for expected, band in zip(first.bands, image.bands, strict=True):
            if band is not expected and band.type != expected.type:
                raise EmulatorError(
                    f"{MIXED} an incompatible band was encountered. Mismatched type for band '{band.name}':\n"
                    f"Expected type: {expected.type.shown}.\n  Actual type: {band.type.shown}.\n"
                    f"     Image ID: {image.properties.get('system:index', '')}\n"
                    "This band might require an explicit cast."
                )
    return images


def images_of(collection: Collection) -> list[Image]:
    """Elements of a collection, all of them images."""
    return [_as_image(element) for element in collection.elements()]


def _as_image(element: Value) -> Image:
    if not isinstance(element, Image):
        raise EmulatorError("Invalid type.\nExpected type: ImageCollection.\nActual type: FeatureCollection.")
    return element


def _near(collection: Collection, grid: Grid) -> Sequence[Image]:
    return _alike(images_near(collection, lonlat_outline(grid)))


def images_near(collection: Collection, region: BaseGeometry) -> list[Image]:
    """Images of a collection without bounds that overlap an area (EPSG:4326)."""
    return [_as_image(element) for element in collection.find(Query(region=region))]


def _example_of(collection: Collection) -> Image:
    """Image that describes the bands of a collection without bounds.

    A composite has the bands of the first image of the collection. The emulator does not know which image on Earth is
    the first, so the images at all sample locations must have the same band names.
    """
    examples = examples_of(collection)
    other = next((image for image in examples if image.names != examples[0].names), None)
    if other is not None:
        raise EmulatorError(
            f"The images of this collection differ in their bands ({', '.join(examples[0].names)}; "
            f"{', '.join(other.names)}), and the emulator does not know which is the first one on Earth; select bands, "
            "filter by a property, or add filterBounds(geometry)."
        )
    return examples[0]


def examples_of(collection: Collection) -> list[Image]:
    """First images of a collection without bounds at sample locations on all continents; refused if there is none."""
    found = (next(collection.find(Query(region=point)), None) for point in EXAMPLE_POINTS)
    examples = [_as_image(image) for image in found if image is not None]
    if not examples:
        raise EmulatorError(
            "Expected an image of a collection without filterBounds, found none at sample locations on all continents, "
            "which are all that the emulator checks; add filterBounds(geometry)."
        )
    return examples


def _reduced_band(inputs: Sequence[Layers], reducer: Reducer, output: Output, name: str) -> Band:
    only = replace(reducer, outputs=(output,))

    def evaluate(grid: Grid) -> Pixels:
        ((found, fine),) = only.over([_pixels_of(layers.on(grid), grid) for layers in inputs])
        return Pixels(found, fine)

    kind = output.type
    if kind is None:
        bands = inputs[output.input].known
        kind = bands[0].type
        for other in {band.type for band in bands[1:]}:
            kind = kind.joined(other)
    return Band(name, kind, DEFAULT_PROJECTION, evaluate)


def _pixels_of(bands: Sequence[Band], grid: Grid) -> tuple[NDArray[Any], NDArray[Any]]:
    """(values, valid) of a stack of bands on a grid, (band, row, column); one masked layer if there is no band."""
    room_for_pixels(len(bands) * grid.width * grid.height)
    if not bands:
        return np.zeros((1, *grid.shape)), np.zeros((1, *grid.shape), bool)
    layers = [band.evaluate(grid) for band in bands]
    return np.stack([layer.values for layer in layers]), np.stack([layer.valid for layer in layers])


@function("ImageCollection.reduce")
def _reduce(collection: Collection, reducer: Reducer) -> Image:
    stack = stack_of(collection)
    if reducer.inputs > 1 and len(stack.names) != reducer.inputs:
        raise EmulatorError(
            f"ImageCollection.reduce: Need {reducer.inputs} bands for the reducer, the images have {len(stack.names)}."
        )
    if reducer.inputs > 1:
        inputs = [stack.bands(name) for name in stack.names]
        bands = [_reduced_band(inputs, reducer, output, output.name) for output in reducer.outputs]
    else:
        bands = [
            _reduced_band([stack.bands(name)], reducer, output, f"{name}_{output.name}")
            for name in stack.names
            for output in reducer.outputs
        ]
    return Image(tuple(bands))


def _composite(name: str, collection: Collection) -> Image:
    """Reduce each band over the images, under its own name."""
    stack, reducer = stack_of(collection), simple(name)

    def made(band: str) -> Band:
        return _reduced_band([stack.bands(band)], reducer, reducer.outputs[0], band)

    return Image(LazyBands(lambda: {band: partial(made, band) for band in stack.names}))


functions("reduce", {name: partial(_composite, name) for name in PER_PIXEL})
functions("ImageCollection", {"mosaic": partial(_composite, "last")})


@function("ImageCollection.qualityMosaic")
def _quality_mosaic(collection: Collection, qualityBand: str) -> Image:
    stack = stack_of(collection)
    for image in stack.images:
        image.find(qualityBand, "ImageCollection.qualityMosaic")
    quality = stack.bands(qualityBand)

    def chosen(name: str) -> Band:
        bands = stack.bands(name)

        def evaluate(grid: Grid) -> Pixels:
            ranks, seen = _pixels_of(quality.on(grid), grid)
            ranks = np.where(seen > 0, ranks, -np.inf)
            best = np.argmax(ranks, axis=0)[None]
            stacks = _pixels_of(bands.on(grid), grid)
            values, valid = (np.take_along_axis(layers, best, axis=0)[0] for layers in stacks)
            return Pixels(values, np.where(np.isfinite(ranks.max(axis=0)), valid, np.zeros((), valid.dtype)))

        return Band(name, bands.known[0].type, DEFAULT_PROJECTION, evaluate)

    return Image(tuple(chosen(name) for name in stack.names))


@function("ImageCollection.toBands")
def _to_bands(collection: Collection) -> Image:
    bands: list[Band] = []
    for k, image in enumerate(images_of(collection)):
        prefix: Value = image.properties.get("system:index", k)
        bands += [replace(band, name=f"{prefix}_{band.name}") for band in image.bands]
    return Image().with_bands(tuple(bands))


@function("Image.reduce")
def _reduce_image(image: Image, reducer: Reducer) -> Image:
    if reducer.inputs != 1:
        raise EmulatorError(f"Image.reduce: Expected a reducer with one input, got one with {reducer.inputs}.")

    def made(output: Output) -> Band:
        band = _reduced_band([Layers(image.bands, lambda _: image.bands)], reducer, output, output.name)
        return replace(band, projection=image.projection)

    return image.with_bands(tuple(made(output) for output in reducer.outputs))
