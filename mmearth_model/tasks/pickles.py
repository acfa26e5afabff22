"""Read the pickles of GEO-Bench safely.

A pickle is a program that may call anything that it can name. Here, it can only name the classes of GEO-Bench and of
the few libraries in its files, and each name is replaced by a class of this module that only stores its arguments. Any
other name is refused before anything is executed.
"""

from __future__ import annotations

import datetime
import io
from collections import OrderedDict
from typing import Any, Self

import numpy as np

from mmearth_data import InputError
from mmearth_model.weights.pickles import DAMAGED, NUMBERS, DType, Maker, Refused, load, shown

MAX_BYTES = 16 * 2**20
"""Maximum size of a pickle; those of GEO-Bench are a few KB."""


class Bag:
    """Replacement for an object of GEO-Bench: its attributes, without behaviour."""

    def __new__(cls, *_: Any) -> Self:
        """Accept any arguments, as the original class may."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Keep a state that is a mapping; other states are not needed."""
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})

    def get(self, name: str, default: object = None) -> Any:  # noqa: ANN401 - whatever was pickled
        """Return an attribute, or the default if the pickle has none."""
        return self.__dict__.get(name, default)


class Array:
    """Replacement for `numpy.ndarray`."""

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray[Any, Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, DType) or not isinstance(data, bytes):
            raise Refused("an array of objects")
        self.values = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> Array:
    return Array()


_PACKAGES = ("geobench", "ccb.io", "ccb")
_CLASSES = {
    "task": ("TaskSpecifications",),
    "dataset": (
        "Band", "BandInfo", "SpectralBand", "Sentinel1", "Sentinel2", "Landsat8", "ElevationBand", "Mask", "MultiBand",
        "HyperSpectralBands", "CloudProbability", "MultiResolutionBand", "SegmentationClasses", "Sample",
    ),
    "label": (
        "LabelType", "Classification", "MultiLabelClassification", "SemanticSegmentation", "SegmentationClasses",
        "Regression", "Detection", "PointAnnotation",
    ),
}  # fmt: skip

ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (f"{package}.{module}", name): type(name, (Bag,), {})
        for package in _PACKAGES
        for module, names in _CLASSES.items()
        for name in names
    },
    ("affine", "Affine"): type("Affine", (Bag,), {}),
    ("rasterio.crs", "CRS"): type("CRS", (Bag,), {}),
    ("rasterio._crs", "_CRS"): type("CRS", (Bag,), {}),
    ("rasterio.coords", "BoundingBox"): type("BoundingBox", (Bag,), {}),
    ("datetime", "date"): datetime.date,
    ("datetime", "datetime"): datetime.datetime,
    ("collections", "OrderedDict"): OrderedDict,
    **NUMBERS,
    ("numpy", "ndarray"): Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Maker(_reconstruct) for core in ("core", "_core")},
}
"""(module, name) in a pickle -> its replacement."""


def _lookup(module: str, name: str) -> Any:  # noqa: ANN401 - a class of this module
    try:
        return ALLOWED[module, name]
    except KeyError:
        raise Refused(shown(module, name)) from None


def loads(data: bytes) -> Any:  # noqa: ANN401 - whatever was pickled
    """Value of a pickle of GEO-Bench.

    Raises `InputError` if it contains anything else, or is damaged; nothing in it was executed.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"expected a pickle of at most {MAX_BYTES} bytes, got {len(data)}; refused.")
    try:
        return _plain(load(io.BytesIO(data), _lookup))
    except Refused as error:
        raise InputError(
            f"expected a pickle of GEO-Bench's own classes, got one that asks for {error}; refused, nothing in it was executed."
        ) from None
    except DAMAGED as error:
        raise InputError(f"expected a pickle of GEO-Bench's own classes, got a damaged one ({error}).") from None


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value
    """Replace `Array` objects by arrays."""
    if isinstance(value, Array):
        return value.values
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
