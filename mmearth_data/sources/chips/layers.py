"""The layers of a chips file, checked against the catalog: the modality of each, and its numbers as stored."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import ClassLabel, Display, Kind, Licence, Modality, Wavelength
from mmearth_data.errors import CatalogError, InputError, TileUnavailable
from mmearth_data.rasterfile import Calibration, calibrate, marked
from mmearth_data.sources.base import to_stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.rasterfile import Raster
    from mmearth_data.sources.chips.description import Definition, Described, ImagesEntry

WRONG_VALUES, EMPTY = "image_values", "image_empty"
"""Reasons for leaving out an image."""
FIRST_ORDER = 1000
BYTE_RANGES = {"uint8": (-0.5, 255.5), "int8": (-128.5, 127.5)}
"""Ranges of percentiles with one bin per number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """The images of one modality, and how their numbers are stored."""

    entry: ImagesEntry
    modality: Modality
    avoids_nodata: bool = False
    """Whether an observed number equal to the no-data number becomes the number next to it."""

    def stored(self, raster: Raster, name: str) -> NDArray[Any]:
        """(band, y, x) array of the modality from all planes of an image.

        Raises TileUnavailable if a number does not fit the stored type, or is no class code.
        """
        entry, m = self.entry, self.modality
        chosen = raster.select(entry.planes)
        missing = chosen.missing | marked(chosen.values, entry.nodata or ())
        order = [entry.names.index(band) for band in m.bands]
        try:
            found = to_stored(self._numbers(chosen, missing, name)[order], ~missing[order], m)
        except InputError as error:
            raise TileUnavailable(WRONG_VALUES, f"{name}: {str(error).rstrip('.')}") from None
        if self.avoids_nodata:
            last = m.nodata == np.iinfo(m.dtype).max
            found[(found == m.nodata) & ~missing[order]] = int(m.nodata) + (-1 if last else 1)
        if not m.observed(found).any():
            raise TileUnavailable(EMPTY, f"{name}: every number is missing")
        return found

    def _numbers(self, raster: Raster, missing: NDArray[np.bool_], name: str) -> NDArray[Any]:
        """Numbers in stored units, before rounding."""
        entry, m = self.entry, self.modality
        if entry.codes is not None or m.kind.is_categorical:
            return self._codes(raster.values, missing, name)
        calibration: Calibration = calibrate(raster.tags, m, entry.scale, entry.offset, name)
        if entry.clip is None and all(factors == (1.0, 0.0) for factors in calibration.factors):
            return raster.values
        scale, offset = (np.array(part)[:, None, None] for part in zip(*calibration.factors, strict=True))
        numbers: NDArray[np.float64] = raster.values.astype(np.float64) * scale + offset
        return numbers if entry.clip is None else numbers.clip(entry.clip[0], entry.clip[1])

    def _codes(self, values: NDArray[Any], missing: NDArray[np.bool_], name: str) -> NDArray[Any]:
        m = self.modality
        known = self.entry.codes or {code: code for code in (*(label.code for label in m.classes), int(m.nodata))}
        mapped = np.full(values.shape, m.nodata)
        for code in np.unique(values[~missing]).tolist():
            if code not in known:
                words = ", ".join(map(str, sorted(known)[:20]))
                raise TileUnavailable(WRONG_VALUES, f"{name}: expected codes of {m.name} ({words}), got {code:g}")
            mapped[values == code] = known[code]
        return mapped


def select_layers(described: Described, catalog: Catalog) -> tuple[Layer, ...]:
    """Layers of a chips file, in its order; FileInputError with the line if one does not fit the catalog."""
    return tuple(_layer(described, at, entry, catalog) for at, entry in enumerate(described.file.modalities))


def _layer(described: Described, at: int, entry: ImagesEntry, catalog: Catalog) -> Layer:
    where = ("modalities", at)
    try:
        known = _modality(entry, catalog, FIRST_ORDER + at)
    except CatalogError as error:
        keys = (error.field or "").replace("histogram_range", "range").split(".") if error.field else []
        raise described.refusal(error.message, *where, *(["define", *keys] if entry.define else ["modality"])) from None
    problem = _layer_problem(entry, known)
    if problem:
        raise described.refusal(*problem[:1], *where, problem[1])
    default = entry.define is not None and entry.define.nodata is None
    return Layer(entry=entry, modality=subset(known, entry.names), avoids_nodata=default and known.dtype.kind in "iu")


def _modality(entry: ImagesEntry, catalog: Catalog, order: int) -> Modality:
    """Modality of a layer, with all its bands; CatalogError if it is unknown, defined twice, or inconsistent."""
    if entry.define is None:
        return catalog.find(entry.modality)
    if entry.modality in catalog.modalities:
        raise CatalogError(f"{entry.modality} is in the catalog; choose another name, or leave define out.")
    return _defined(entry.modality, entry.names, entry.define, order)


def _layer_problem(entry: ImagesEntry, m: Modality) -> tuple[str, str] | None:
    if not (m.stored and m.kind.is_raster):
        return f"expected a modality with pixels, got {m.name} ({m.kind}); give labels under labels.", "modality"
    unknown = [band for band in entry.names if band not in m.bands]
    if unknown:
        return f"expected bands of {m.name} ({', '.join(m.bands)}), got {', '.join(unknown)}; correct them.", "bands"
    if entry.codes is not None and m.kind.is_continuous:
        return f"codes: expected a modality with class codes, but {m.name} is continuous; remove codes.", "codes"
    if not m.kind.is_continuous and (entry.scale is not None or entry.offset is not None or entry.clip is not None):
        return f"expected no scale, offset or clip for {m.name}, which has codes; remove them.", "modality"
    return None


def subset(m: Modality, bands: Iterable[str]) -> Modality:
    """Modality with some of its bands only, in its own order."""
    kept = tuple(band for band in m.bands if band in set(bands))
    if kept == m.bands:
        return m

    def of(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in kept)

    def entries(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in mapping.items() if name in kept}

    return dataclasses.replace(
        m,
        bands=kept,
        band_units=entries(m.band_units),
        wavelengths=entries(m.wavelengths),
        native_m=entries(m.native_m),
        asset_bands=entries(m.asset_bands),
        histogram_ranges=entries(m.histogram_ranges),
        bands_by_level={level: of(names) for level, names in m.bands_by_level.items()},
        model_bands=of(m.model_bands),
        display=_display_of(m.display, kept),
    )


def _display_of(display: Display, kept: tuple[str, ...]) -> Display:
    """Display of the bands that are left: a composite if it is complete, otherwise a new one."""
    bands = display.bands if set(display.bands) <= set(kept) else kept[:3] if len(kept) >= 3 else kept[:1]
    false = display.false_colour if set(display.false_colour) <= set(kept) else ()
    return dataclasses.replace(display, bands=bands, false_colour=false)


def _defined(name: str, bands: tuple[str, ...], definition: Definition, order: int) -> Modality:
    """Modality that a chips file defines; CatalogError if it is inconsistent."""
    kind, dtype = Kind(definition.kind), np.dtype(definition.dtype)
    limits = (definition.range and (definition.range[0], definition.range[1])) or BYTE_RANGES.get(dtype.name)
    if kind.is_continuous and limits is None:
        text = f"expected range, [low, high] of the stored numbers, for {dtype.name}, got none; add it."
        raise CatalogError(text, "dtype")
    shown = definition.display
    display = Display() if shown is None else Display(**{**shown.model_dump(), "bands": tuple(shown.bands)})
    if not display.bands:
        display = dataclasses.replace(display, bands=bands[:3] if len(bands) >= 3 else bands[:1])
    if kind.is_continuous and display.range is None:
        display = dataclasses.replace(display, range=_whole(limits))
    return Modality(
        name=name,
        order=order,
        kind=kind,
        long_name=definition.long_name or name,
        bands=bands,
        dtype=dtype,
        nodata=_nodata(definition, dtype),
        units=definition.units,
        scale=definition.scale,
        offset=definition.offset,
        wavelengths={band: Wavelength(**seen.model_dump()) for band, seen in definition.wavelengths.items()},
        resampling="bilinear" if kind.is_continuous else "nearest",
        histogram_range=limits if kind.is_continuous else None,
        histogram_bins=256 if dtype.itemsize == 1 and definition.range is None else 2048,
        input=kind.is_continuous if definition.input is None else definition.input,
        pretext=kind is not Kind.RASTER_MASK if definition.pretext is None else definition.pretext,
        pretext_norm=definition.pretext_norm or ("patch" if kind.is_continuous else "none"),
        classes=tuple(ClassLabel(**entry.model_dump()) for entry in definition.classes),
        display=display,
        doi=definition.doi,
        source=definition.source,
        licence=Licence(**definition.licence.model_dump()),
    )


def _whole(limits: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if limits is None else (float(math.ceil(limits[0])), float(math.floor(limits[1])))


def _nodata(definition: Definition, dtype: np.dtype[Any]) -> float:
    if definition.nodata is not None:
        return float(definition.nodata) if isinstance(definition.nodata, str) else definition.nodata
    if dtype.kind == "f":
        return math.nan
    limits = np.iinfo(dtype)
    return int(limits.max if dtype.kind == "u" else limits.min)
