"""The published HDF5 format as values: conversion of its arrays to and from those of a store.

``catalog/interchange/mmearth_h5.yaml`` lists the modality, type and missing values of each array.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict

from mmearth_data.errors import InputError
from mmearth_data.resources import resource_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

FORM_FILE = "mmearth_h5.yaml"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedArray(_Entry):
    """One array of the HDF5 file; its fields are documented in ``mmearth_h5.yaml``."""

    name: str
    modality: str
    dtype: str
    bands: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()
    negative_missing: bool = False
    fill: float
    statistics: dict[str, str] = {}
    groups: dict[str, tuple[str, ...]] = {}

    def shape(self, m: Modality, size_px: int) -> tuple[int, ...]:
        """Shape of one tile: (band, y, x), (band,) or (class,)."""
        if m.kind.is_raster:
            return (len(self.bands), size_px, size_px)
        return (len(m.classes),) if m.kind.is_categorical else (len(self.bands),)

    def to_stored(self, m: Modality, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Convert published values of some tiles to stored form.

        Parameters
        ----------
        m
            The modality, not a derived one.
        values
            (n, band, y, x), (n, band), or (n, class) one-hot.

        Returns
        -------
        ndarray
            (n, band, y, x), (n, band) or (n,), stored type and no-data.

        Raises
        ------
        InputError
            If a value cannot be stored.
        """
        if not m.kind.is_raster and m.kind.is_categorical:
            return _codes(self.name, m, values)
        if m.bands != self.bands:
            values = values[:, [self.bands.index(band) for band in m.bands]]
        if m.dtype.kind == "f":
            return np.where(np.isfinite(values), values, np.nan).astype(m.dtype)
        return _recoded(self.name, values, self.gone(values), m.dtype, m.nodata)

    def gone(self, values: np.ndarray[Any, Any]) -> NDArray[np.bool_]:
        """Elementwise: True if a published value means "missing"."""
        gone: NDArray[np.bool_] = np.zeros(values.shape, dtype=bool)
        if values.dtype.kind == "f":
            np.logical_not(np.isfinite(values), out=gone)
        elif self.negative_missing:
            gone |= values < 0
        for spelling in self.missing:
            gone |= values == spelling
        return gone

    def to_published(self, m: Modality, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Inverse of `to_stored`, with a single missing value.

        Raises
        ------
        InputError
            If the format cannot represent a value.
        """
        dtype = np.dtype(self.dtype)
        if not m.kind.is_raster and m.kind.is_categorical:
            position = m.class_code_index()[values]
            hot: np.ndarray[Any, Any] = position[:, None] == np.arange(len(m.classes))
            return hot.astype(dtype)
        observed = m.observed(values)
        if dtype.kind == "f":
            published = np.where(observed, values, self.fill).astype(dtype)
        else:
            published = _recoded(self.name, values, ~observed, dtype, self.fill)
            if (observed & self.gone(published)).any():
                raise InputError(
                    f"{self.name}: expected values that the published form can distinguish from missing ones, got others "
                    f"(it takes {self._missing_words()} as missing); leave the modality out: mmearth-data subset --modalities."
                )
        if m.bands == self.bands:
            return published
        whole = np.full((len(values), len(self.bands), *values.shape[2:]), self.fill, dtype=dtype)
        whole[:, [self.bands.index(band) for band in m.bands]] = published
        return whole

    def _missing_words(self) -> str:
        return ", ".join(map(str, self.missing)) + (" and negative numbers" if self.negative_missing else "")

    def check_bands(self, m: Modality) -> None:
        """Refuse a modality with bands that the format lacks.

        Raises
        ------
        InputError
            With their names.
        """
        unknown = [] if m.kind.is_categorical and not m.kind.is_raster else [b for b in m.bands if b not in self.bands]
        if unknown:
            raise InputError(
                f"{m.name}: expected bands that the published form has ({', '.join(self.bands)}), got "
                f"{', '.join(unknown)}; leave the modality out: mmearth-data subset --modalities."
            )


class TileBands(_Entry):
    """One key under BANDS in tile_info."""

    of: tuple[str, ...]
    prefix: str = ""


class MetadataArray(_Entry):
    """Names and widths of the compound array that identifies the tile of each row."""

    array: str
    id: str
    id_bytes: int
    level: str
    level_bytes: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Compound type."""
        return np.dtype([(self.id, f"S{self.id_bytes}"), (self.level, f"S{self.level_bytes}")])


class PublishedForm(_Entry):
    """The complete format; its fields are documented in ``mmearth_h5.yaml``."""

    names: dict[int, str]
    metadata: MetadataArray
    levels: dict[str, str]
    arrays: tuple[PublishedArray, ...]
    tile_bands: dict[str, TileBands]

    def default_name(self, size_px: int) -> str:
        """Name of an export of tiles of this size."""
        return self.names.get(size_px, f"data_{size_px}px")

    def bands_of_tile(self, observed: Mapping[str, list[str]]) -> dict[str, list[str] | None]:
        """BANDS of tile_info: the observed bands, None if there are none.

        Parameters
        ----------
        observed
            Array -> its bands that have any value in this tile.
        """
        found: dict[str, list[str] | None] = {}
        for key, entry in self.tile_bands.items():
            bands = [b for name in entry.of for b in observed.get(name, ()) if b.startswith(entry.prefix)]
            found[key] = [b.removeprefix(entry.prefix) for b in bands] or None
        return found


@lru_cache(maxsize=1)
def published_form() -> PublishedForm:
    """Return the form as shipped."""
    path = resource_path("catalog") / "interchange" / FORM_FILE
    return PublishedForm.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def published_missing_values() -> dict[str, float]:
    """Modality -> fill value of missing values in the published files, including infinities and NaN.

    One-hot arrays (biome, eco_region) are all zero there.
    """
    return {array.modality: array.fill for array in published_form().arrays}


def _recoded(
    name: str, values: np.ndarray[Any, Any], gone: NDArray[np.bool_], dtype: np.dtype[Any], fill: float
) -> np.ndarray[Any, Any]:
    """Convert integers to another type and another missing value."""
    if values.dtype != dtype:
        limits = np.iinfo(dtype)
        wrong = ~gone & ((values < limits.min) | (values > limits.max))
        if wrong.any():
            raise InputError(f"{name}: expected numbers that fit {dtype.name}, got {values[wrong][0]}.")
    recoded = values.astype(dtype)
    recoded[gone] = fill
    return recoded


def _codes(name: str, m: Modality, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n,) class codes of one-hot rows; a row of zeros is missing."""
    hot = values != 0
    if (hot.sum(axis=1) > 1).any():
        raise InputError(f"{name}: expected one-hot rows, got one with several classes; repair the file.")
    codes = np.array([label.code for label in m.classes])[hot.argmax(axis=1)]
    return np.where(hot.any(axis=1), codes, m.nodata).astype(m.dtype)
