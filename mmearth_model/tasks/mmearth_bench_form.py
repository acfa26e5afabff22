"""The format of MMEarth-Bench's files: conversion of their arrays to those of a store.

``catalog/interchange/mmearth_bench.yaml`` lists modality, bands and missing value of each array.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from mmearth_data import InputError, load_catalog, read_yaml, resource_path
from mmearth_model.tasks.files import OBSERVED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data import Modality

FORM_FILE = "mmearth_bench.yaml"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BenchArray(_Entry):
    """One array of the HDF5 file; its fields are documented in ``mmearth_bench.yaml``."""

    name: str
    modality: str
    bands: tuple[str, ...] = ()
    codes: tuple[int, ...] | Literal["by-name"] = ()
    missing: float
    statistics: tuple[str, ...] = ()

    def shape(self, m: Modality) -> tuple[int, ...]:
        """Shape of a row without the pixels: (bands,), or () for a class."""
        return (len(self.bands),) if m.kind.is_continuous else (1,) if m.kind.is_raster else ()

    def table(self, m: Modality) -> NDArray[np.int64]:
        """Code of the catalog for each code of the file."""
        if self.codes == "by-name":
            return np.array([label.code for label in sorted(m.classes, key=lambda label: label.name)])
        return np.array(self.codes)

    def quantities(self, m: Modality, values: NDArray[Any]) -> NDArray[np.float32]:
        """Convert (B, bands, ...) numbers of the file to float32 as in the catalog's units, no-data where missing."""
        gone = missing(values, self.missing)
        found = values.astype(np.float32)
        if not math.isnan(m.nodata):
            found[found == m.nodata] += np.float32(OBSERVED)  # an observed value is never the catalog's no-data value
        found[gone] = m.nodata
        return found

    def classes(self, m: Modality, values: NDArray[Any]) -> NDArray[Any]:
        """Convert codes of the file to codes of the catalog, no-data where missing.

        Raises `InputError` when a code has no class.
        """
        gone, table = missing(values, self.missing), self.table(m)
        wrong = ~gone & ~((values >= 0) & (values < len(table)) & (values == np.floor(values)))
        if wrong.any():
            raise InputError(
                f"{self.name}: expected codes 0 to {len(table) - 1}, or {self.missing:g} for missing, got "
                f"{values[wrong][0]:g}; download the file again."
            )
        codes = table[np.where(gone, 0, values).astype(np.intp)]
        return np.where(gone, m.nodata, codes).astype(m.dtype)


class BenchForm(_Entry):
    """The complete form; its fields are documented in ``mmearth_bench.yaml``."""

    arrays: tuple[BenchArray, ...]
    label_missing: float
    parts: dict[str, str]
    partitions: dict[str, float]


@cache
def bench_form() -> BenchForm:
    """Return the format description as shipped."""
    path = resource_path("catalog") / "interchange" / FORM_FILE
    return BenchForm(**read_yaml(path, "a form").values)


@cache
def bench_modalities() -> dict[str, Modality]:
    """Modalities that the arrays fill."""
    known = load_catalog()
    return {array.modality: known.find(array.modality) for array in bench_form().arrays}


def missing(values: NDArray[Any], mark: float) -> NDArray[np.bool_]:
    """Whether numbers of any type mean missing: they equal ``mark`` as that type holds it, or are not finite.

    Examples
    --------
    >>> missing(np.array([7, 255 - 256], np.int8), 255), missing(np.array([7, 65504], np.float16), 65535)
    (array([False,  True]), array([False, False]))
    """
    with np.errstate(over="ignore", invalid="ignore"):
        held = np.array(mark, np.float64 if values.dtype.kind == "f" else np.int64).astype(values.dtype)
    gone: NDArray[np.bool_] = values == held
    return gone | ~np.isfinite(values) if values.dtype.kind == "f" else gone
