"""Building blocks of expressions, and templates: encoded expressions with holes.

Building and encoding an expression with the client takes 15 ms of processor time, too much to do per tile. Each form of
request is therefore built and encoded once, with holes where tiles differ, and filled in as text for each tile.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import ee

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.catalog.modality import Modality

CASTS = {
    "uint8": "toUint8",
    "int8": "toInt8",
    "uint16": "toUint16",
    "int16": "toInt16",
    "uint32": "toUint32",
    "int32": "toInt32",
    "float32": "toFloat",
    "float64": "toDouble",
}
FILL_FOR_NAN = -9999
"""Number sent instead of nodata if that is NaN, which `unmask` does not preserve."""


MARGIN_M = 0.1
"""Error margin in metres of a geometry in another CRS: the default of the service's filters. Most other operations have
no default and fail without a margin.
"""

HOLE = r'\{"argumentReference":"((?!_MAPPING_VAR)[^"]+)"\}'
WRAPPED = re.compile(
    rf'\{{"functionInvocationValue":\{{"functionName":"String","arguments":\{{"input":({HOLE})\}}\}}\}}'
)
"""Functions into which the client converts a hole if it expects a string; asset ids must be plain constants."""
COMPACT = (",", ":")


def hole(name: str) -> ee.ComputedObject:
    """Hole in an expression, which `Template.fill` replaces by a constant."""
    return ee.ComputedObject(None, None, name)


class Template:
    """An encoded expression, built with the client's classes, and with a `hole` where requests differ."""

    def __init__(self, expression: ee.ComputedObject) -> None:
        text = json.dumps(ee.serializer.encode(expression, for_cloud_api=True), separators=COMPACT)
        # Alternates between text and names of holes.
        self._texts: list[str] = re.split(HOLE, WRAPPED.sub(r"\1", text))

    def fill(self, values: Mapping[str, Any]) -> str:
        """Expression to send, as JSON, with JSON-ready constants in its holes."""
        constants = {name: json.dumps({"constantValue": value}, separators=COMPACT) for name, value in values.items()}
        texts = self._texts.copy()
        texts[1::2] = [constants[name] for name in texts[1::2]]
        return "".join(texts)


def fill_value(m: Modality) -> float:
    """Return the number that marks no data in an answer."""
    return FILL_FOR_NAN if math.isnan(m.nodata) else m.nodata


def band_name(m: Modality, band: str) -> str:
    """Name of a stored band in an answer, which contains the bands of all modalities."""
    return f"{m.name}__{band}"


def band_names(m: Modality, bands: Sequence[str]) -> list[str]:
    """Names of stored bands in an answer."""
    return [band_name(m, band) for band in bands]


def cast(image: ee.Image, dtype: str) -> ee.Image:
    """Cast all bands of an image to one type, with that type's whole range."""
    same: ee.Image = getattr(image, CASTS[dtype])()
    return same


def blank(bands: Sequence[str], dtype: str) -> ee.Image:
    """Image that is masked everywhere.

    A collection that contains it is never empty; reducing an empty one would give an image without bands.
    """
    return cast(ee.Image.constant([0] * len(bands)).rename(list(bands)).updateMask(0), dtype)


def never_empty(collection: ee.ImageCollection, bands: Sequence[str], dtype: str) -> ee.ImageCollection:
    """Select these bands of a collection and add a blank image to it, all of them of one type.

    The service reduces only images whose bands agree in type, including the range of values. Both are therefore cast to
    a type that can hold every value; otherwise, the value range of a constant is just its value. The collection must be
    filtered before: after the cast, its images are no longer assets.
    """
    typed = collection.select(list(bands)).map(lambda image: cast(ee.Image(image), dtype))
    return typed.merge(ee.ImageCollection([blank(bands, dtype)]))


def without_nodata(image: ee.Image, parameters: Mapping[str, Any]) -> ee.Image:
    """Mask the asset's own nodata value."""
    if "mask_equal" in parameters:
        image = image.updateMask(image.neq(parameters["mask_equal"]))
    if "mask_at_or_below" in parameters:
        image = image.updateMask(image.gt(parameters["mask_at_or_below"]))
    return image


def interpolated(image: ee.Image, m: Modality) -> ee.Image:
    """Resample as specified in the catalog, and round if the stored type is integer."""
    return rounded(image.resample("bilinear"), m) if m.resampling == "bilinear" else image


def rounded(image: ee.Image, m: Modality) -> ee.Image:
    """Round half away from zero; `Image.round` does not document how it rounds halves."""
    if m.dtype.kind == "f":
        return image
    if m.dtype.kind == "u":
        return image.add(0.5).floor()
    return image.abs().add(0.5).floor().multiply(image.signum())


def stored(image: ee.Image, m: Modality) -> ee.Image:
    """Fill masked pixels, including those outside the asset, and cast. A cast alone would truncate and clamp."""
    return cast(image.unmask(fill_value(m), False), m.dtype.name)


def polygon(ring: ee.ComputedObject, crs: ee.ComputedObject) -> ee.Geometry:
    """Polygon with straight edges in a CRS, from one closed ring of (x, y)."""
    return ee.Geometry.Polygon(ee.List([ring]), crs, False, MARGIN_M)


def touches(shape: ee.Geometry) -> ee.Filter:
    """Filter for everything that intersects a shape."""
    return ee.Filter.bounds(shape, MARGIN_M)


def holds(shape: ee.Geometry) -> ee.Filter:
    """Filter for everything that contains a shape."""
    return ee.Filter.contains(leftField=".geo", rightValue=shape, maxError=MARGIN_M)
