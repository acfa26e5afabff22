"""Collections of images to one image: mosaics, and statistics pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.image import DEFAULT_PROJECTION, Band, Grid, Image, Pixels
from mmearth_data.emulator.lazy_bands import LazyBands
from mmearth_data.emulator.reducers import SIMPLE, Output, Reducer, simple
from mmearth_data.emulator.registry import function
from mmearth_data.emulator.work import room_for_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.emulator.collections import Collection
    from mmearth_data.emulator.registry import Value

PER_PIXEL = ("min", "max", "count", "sum", "product", "mean", "median", "mode")
"""`ImageCollection` methods that are reducers without a suffix on the bands' names."""


def images_of(collection: Collection) -> list[Image]:
    """Elements of a collection, all of them images."""
    elements = list(collection.elements())
    if not all(isinstance(element, Image) for element in elements):
        raise EmulatorError("Invalid type.\nExpected type: ImageCollection.\nActual type: FeatureCollection.")
    return elements


def stacked(images: Sequence[Image], name: str) -> list[Band]:
    """Bands of one name, in the order of the images that have it."""
    return [band for image in images if (band := image.named(name)) is not None]


def reduced_band(bands: Sequence[Band], reducer: Reducer, output: Output, name: str) -> Band:
    """Band of an output of a reducer over a stack."""
    only = replace(reducer, outputs=(replace(output, input=0),))

    def evaluate(grid: Grid) -> Pixels:
        room_for_pixels(len(bands) * grid.width * grid.height)
        layers = [band.evaluate(grid) for band in bands]
        values, valid = (np.stack([layer[k] for layer in layers]) for k in (0, 1))
        ((found, fine),) = only.over([(values, valid)])
        return Pixels(found, fine)

    kind = output.type
    if kind is None:
        kind = bands[0].type
        for other in {band.type for band in bands[1:]}:
            kind = kind.joined(other)
    return Band(name, kind, DEFAULT_PROJECTION, evaluate)


def band_names_of(images: Sequence[Image]) -> list[str]:
    """Names of the bands of the first image; an empty collection has none."""
    return images[0].names if images else []


@function("ImageCollection.reduce")
def reduce(collection: Collection, reducer: Reducer) -> Image:
    """Reduce each band over the images; the output's name is added to the band's."""
    images = images_of(collection)
    names = band_names_of(images)
    if reducer.inputs > 1 and len(names) != reducer.inputs:
        raise EmulatorError(
            f"ImageCollection.reduce: Need {reducer.inputs} bands for the reducer, the images have {len(names)}."
        )
    if reducer.inputs > 1:
        bands = [
            reduced_band(stacked(images, names[output.input]), reducer, output, output.name)
            for output in reducer.outputs
        ]
    else:
        bands = [
            reduced_band(stacked(images, name), reducer, output, f"{name}_{output.name}")
            for name in names
            for output in reducer.outputs
        ]
    return Image(tuple(bands))


def _enter(name: str) -> None:
    def composite(collection: Collection) -> Image:
        return _composite(images_of(collection), simple(name))

    composite.__doc__ = f"`{name}` of each pixel over the images."
    function(f"reduce.{name}")(composite)


for _name in PER_PIXEL:
    _enter(_name)
for _alias, _of in (("and", "allNonZero"), ("or", "anyNonZero")):
    SIMPLE.setdefault(_alias, SIMPLE[_of])
    _enter(_alias)


@function("ImageCollection.mosaic")
def mosaic(collection: Collection) -> Image:
    """Take the last image that is valid, pixel by pixel."""
    return _composite(images_of(collection), simple("last"))


def _composite(images: Sequence[Image], reducer: Reducer) -> Image:
    """Reduce each band over the images, under its own name."""

    def made(name: str) -> Band:
        return reduced_band(stacked(images, name), reducer, reducer.outputs[0], name)

    return Image(LazyBands(lambda: {name: partial(made, name) for name in band_names_of(images)}))


@function("ImageCollection.qualityMosaic")
def quality_mosaic(collection: Collection, qualityBand: str) -> Image:
    """Take the image whose quality band is highest, pixel by pixel."""
    images = images_of(collection)
    quality = [image.find(qualityBand, "ImageCollection.qualityMosaic") for image in images]

    def chosen(name: str) -> Band:
        bands = stacked(images, name)

        def evaluate(grid: Grid) -> Pixels:
            ranks = [np.where(valid, values, -np.inf) for values, valid in (band.evaluate(grid) for band in quality)]
            best = np.argmax(np.stack(ranks), axis=0)[None]
            layers = [band.evaluate(grid) for band in bands]
            values, valid = (
                np.take_along_axis(np.stack([layer[k] for layer in layers]), best, axis=0)[0] for k in (0, 1)
            )
            return Pixels(values, valid & np.isfinite(np.max(np.stack(ranks), axis=0)))

        return Band(name, bands[0].type, DEFAULT_PROJECTION, evaluate)

    return Image(tuple(chosen(name) for name in band_names_of(images)))


@function("ImageCollection.toBands")
def to_bands(collection: Collection) -> Image:
    """All bands of all images; each name begins with its image's ``system:index``."""
    bands: list[Band] = []
    for k, image in enumerate(images_of(collection)):
        prefix: Value = image.properties.get("system:index", k)
        bands += [replace(band, name=f"{prefix}_{band.name}") for band in image.bands]
    return Image().with_bands(tuple(bands))


@function("Image.reduce")
def reduce_image(image: Image, reducer: Reducer) -> Image:
    """Reduce the bands of each pixel."""

    def made(output: Output) -> Band:
        band = reduced_band(image.bands, reducer, output, output.name)
        return replace(band, projection=image.projection)

    return image.with_bands(tuple(made(output) for output in reducer.outputs))
