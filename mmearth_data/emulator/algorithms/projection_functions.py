"""Algorithms on projections and on the types of pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.emulator.algorithms.image import Band, Grid, Image, Pixels, PixelType, Projection, nearest, parsed_crs
from mmearth_data.emulator.algorithms.resampling import affine
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function

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


@function("Projection.crs")
def crs_of(projection: Projection) -> str:
    """Code of the CRS."""
    return projection.crs


@function("Projection.wkt")
def wkt_of(projection: Projection) -> str:
    """Definition of the CRS as WKT 1."""
    return str(parsed_crs(projection.crs).to_wkt("WKT1_GDAL", pretty=True))


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


@function("Projection.nominalScale")
def nominal_scale(proj: Projection) -> float:
    """Metres of a pixel's side at the true scale of the projection."""
    return proj.nominal_scale


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


def _enter_type(name: str, kind: PixelType) -> None:
    def make() -> PixelType:
        return kind

    make.__doc__ = f"Type `{name}`."
    function(f"PixelType.{name}")(make)


NAMED_TYPES = {
    name: PixelType.of(np.dtype(name)) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")
} | {"float": PixelType("float"), "double": PixelType("double")}
for _name, _kind in NAMED_TYPES.items():
    _enter_type(_name, _kind)


@function("PixelType.precision")
def precision_of(pixelType: PixelType) -> str:
    """Precision: int, float or double."""
    return pixelType.precision


@function("PixelType.minValue")
def min_value(pixelType: PixelType) -> float | None:
    """Smallest value."""
    return pixelType.low


@function("PixelType.maxValue")
def max_value(pixelType: PixelType) -> float | None:
    """Largest value."""
    return pixelType.high


@function("PixelType.dimensions")
def dimensions_of(pixelType: PixelType) -> int:
    """Count the dimensions of arrays in the pixels: there are none."""
    return 0


# ---------------------------------------------------------------- images of coordinates, and images moved


@function("Image.pixelCoordinates")
def pixel_coordinates(projection: Projection) -> Image:
    """Position of each pixel's centre, in pixels of a projection."""

    def axis(k: int) -> Callable[[Grid], Pixels]:
        return lambda grid: Pixels(grid.positions(projection)[k], np.ones(grid.shape, bool))

    return Image(tuple(Band(name, PixelType("double"), projection, axis(k)) for k, name in enumerate("xy")))


@function("Image.changeProj")
def change_projection(input: Image, srcProj: Projection, dstProj: Projection) -> Image:
    """Take pixels of one lattice for those of another, wherever that puts them."""

    def change(band: Band) -> Band:
        def native(grid: Grid) -> Pixels:
            return band.evaluate(replace(grid, projection=srcProj))

        return Band(band.name, band.type, dstProj, lambda grid: nearest(grid, dstProj, native))

    return replace(input.mapped(change), footprint=None)


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
        a, b, c, d, e, f = home.transform
        flip = np.sign(e) if units == "meters" else 1.0
        east, north = x / step, y / step * flip
        moved = Projection(home.crs, (a, b, c + a * east + b * north, d, e, f + d * east + e * north))

        def native(grid: Grid) -> Pixels:
            return band.evaluate(replace(grid, projection=home))

        return Band(band.name, band.type, moved, lambda grid: nearest(grid, moved, native))

    return replace(input.mapped(change), footprint=None)
