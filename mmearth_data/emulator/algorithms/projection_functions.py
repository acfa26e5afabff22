"""Algorithms on projections and on the types of pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.emulator.algorithms.image import (
    DOUBLE,
    FLOAT,
    Band,
    Grid,
    Image,
    Pixels,
    PixelType,
    Projection,
    nearest,
    parsed_crs,
)
from mmearth_data.emulator.algorithms.resampling import affine
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function, functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.emulator.graph.registry import Context, Value


@function("Projection", "Proj")
def make_projection(
    crs: Value, transform: list[float] | None = None, transformWkt: str | None = None, *, context: Context
) -> Projection:
    """Projection of a CRS, with a transform perhaps."""
    base: Projection = context.promote(crs, "Projection")
    if transformWkt is not None:
        raise EmulatorError("Projection: give the transform as a list of 6 numbers; transformWkt is not emulated.", 501)
    return base if transform is None else Projection(base.crs, affine(transform))


functions(
    "Projection",
    {
        "crs": lambda projection: projection.crs,
        "wkt": lambda projection: str(parsed_crs(projection.crs).to_wkt("WKT1_GDAL", pretty=True)),
        "nominalScale": lambda proj: proj.nominal_scale,
    },
)


@function("Projection.transform")
def transform_of(projection: Projection) -> str:
    """Affine transform as a text of PARAM_MT."""
    a, b, c, d, e, f = projection.transform
    names = ("elt_0_0", "elt_0_1", "elt_0_2", "elt_1_0", "elt_1_1", "elt_1_2")
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    lines = [
        f'  PARAMETER["{name}", {value!r}]'
        for name, value, usual in zip(names, (a, b, c, d, e, f), identity, strict=True)
        if value != usual
    ]
    head = ['PARAM_MT["Affine"', '  PARAMETER["num_row", 3]', '  PARAMETER["num_col", 3]']
    return ", \n".join([*head, *lines]) + "]"


@function("Projection.atScale")
def at_scale(projection: Projection, meters: float) -> Projection:
    """Scale the pixels to a size in metres, keeping the direction of the rows.

    The reference's example of ``getPixels`` negates the scale of ``EPSG:4326`` to get north up.
    """
    factor = meters / projection.nominal_scale
    return scale(projection, factor, factor)


@function("Projection.scale")
def scale(projection: Projection, x: float, y: float) -> Projection:
    """Scale the pixels."""
    a, b, c, d, e, f = projection.transform
    return Projection(projection.crs, (a * x, b * y, c, d * x, e * y, f))


@function("Projection.translate")
def translate(projection: Projection, x: float, y: float) -> Projection:
    """Move the origin by some pixels."""
    a, b, c, d, e, f = projection.transform
    return Projection(projection.crs, (a, b, c + a * x + b * y, d, e, f + d * x + e * y))


# ---------------------------------------------------------------- types of pixels


@function("PixelType")
def pixel_type(precision: Value, minValue: float | None = None, maxValue: float | None = None) -> PixelType:
    """Type of a precision and a range."""
    if isinstance(precision, PixelType):
        return precision
    if precision not in {"int", "float", "double"}:
        raise EmulatorError(f"PixelType: Invalid precision '{precision}'. Expected 'int', 'float' or 'double'.")
    return PixelType(str(precision), minValue, maxValue)


def _always(kind: PixelType) -> Callable[[], PixelType]:
    return lambda: kind


TYPES = {
    name: PixelType.of(np.dtype(name)) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")
}
functions("PixelType", {name: _always(kind) for name, kind in {**TYPES, "float": FLOAT, "double": DOUBLE}.items()})
functions(
    "PixelType",
    {
        "precision": lambda pixelType: pixelType.precision,
        "minValue": lambda pixelType: pixelType.low,
        "maxValue": lambda pixelType: pixelType.high,
        "dimensions": lambda: 0,
    },
)


# ---------------------------------------------------------------- images moved


@function("Image.changeProj")
def change_projection(input: Image, srcProj: Projection, dstProj: Projection) -> Image:
    """Take pixels of one lattice for those of another, wherever that puts them."""
    return replace(input.mapped(lambda band: _moved(band, srcProj, dstProj)), footprint=None)


def _moved(band: Band, home: Projection, to: Projection) -> Band:
    """Band whose pixels of one lattice are those of another, wherever that puts them."""

    def native(grid: Grid) -> Pixels:
        return band.evaluate(replace(grid, projection=home))

    return Band(band.name, band.type, to, lambda grid: nearest(grid, to, native))


@function("Image.translate")
def translate_image(
    input: Image,
    x: float,
    y: float,
    units: str = "meters",
    proj: Projection | None = None,
) -> Image:
    """Move an image by metres or pixels."""
    if units not in {"meters", "pixels"}:
        raise EmulatorError(f"Image.translate: Invalid units '{units}'. Expected 'meters' or 'pixels'.")

    def change(band: Band) -> Band:
        home = proj or band.projection
        step = 1.0 if units == "pixels" else home.nominal_scale
        flip = np.sign(home.transform[4]) if units == "meters" else 1.0
        east, north = x / step, y / step * flip
        return _moved(band, home, translate(home, east, north))

    return replace(input.mapped(change), footprint=None)
