"""A modality: one layer of a tile, as stored and as learned. Code branches on its kind, never on its name."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from mmearth_data.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Problems = Iterator[tuple[str, str]]

Resampling = Literal["bilinear", "nearest"]
StatisticsBy = Literal["s2_level", "none"]
PretextNorm = Literal["patch", "none"]

ABSENT, PRESENT = 0, 1
"""Stored values of the classes of a multi-label modality."""
MULTI_LABEL_NODATA = 255
CODE_DTYPES = ("uint8", "uint16")
"""Stored types of class codes; a lookup table over all their values is small."""
DERIVABLE_FROM = ("lon", "lat", "time")
"""Coordinates of a tile from which a modality can be computed on read."""


class Kind(StrEnum):
    """Kind of a modality; it determines storage, statistics, losses and display."""

    RASTER_CONTINUOUS = "raster/continuous"
    RASTER_CATEGORICAL = "raster/categorical"
    RASTER_MASK = "raster/mask"
    TILE_CONTINUOUS = "tile/continuous"
    TILE_CATEGORICAL = "tile/categorical"
    TILE_MULTI_LABEL = "tile/multi-label"

    @property
    def is_raster(self) -> bool:
        """True if every pixel has a value, false if the tile as a whole has one."""
        return self.value.startswith("raster/")

    @property
    def is_continuous(self) -> bool:
        """True if values are quantities that can be averaged."""
        return self.value.endswith("/continuous")

    @property
    def is_categorical(self) -> bool:
        """True if values are class codes."""
        return self.value.endswith("/categorical")

    @property
    def is_multi_label(self) -> bool:
        """True if any number of classes apply at once: each has a band of 0 (absent) and 1 (present)."""
        return self.value.endswith("/multi-label")


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One class of a categorical modality."""

    code: int
    """Stored value."""
    name: str
    """Display name."""
    colour: str | None = None
    """Display colour, ``#rrggbb``."""


@dataclass(frozen=True, slots=True)
class Display:
    """How a modality is drawn."""

    bands: tuple[str, ...] = ()
    """Bands of the picture: three for a colour composite, one for a colour map."""
    false_colour: tuple[str, ...] = ()
    """Three bands of a second composite, in addition to that of ``bands``."""
    range: tuple[float, float] | None = None
    """Stored values at the two ends of the scale."""
    colormap: str = "viridis"
    """Colour map of matplotlib, if one band is drawn."""


@dataclass(frozen=True, slots=True)
class Licence:
    """Terms of use of a modality's data, and the attribution that they require."""

    name: str
    """Name of the licence."""
    url: str
    """URL of its text."""
    attribution: str
    """Attribution line that the licence requires."""


@dataclass(frozen=True, slots=True)
class Wavelength:
    """Part of the spectrum that an optical band measures."""

    centre_um: float
    """Central wavelength, micrometres."""
    width_um: float
    """Full width at half maximum of the spectral response, micrometres."""


LONGEST_UM = 100.0
"""Upper limit for wavelengths of optical bands, beyond the thermal infrared; larger numbers must be nanometres."""
DESCRIPTIVE = ("wavelengths", "frequency_ghz", "native_m")
"""Fields that describe the instrument and do not influence values; stores of earlier releases lack them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Modality:
    """One layer of a tile, as stored and as learned."""

    name: str
    """Name of the array in the store."""
    kind: Kind
    """Determines storage, statistics, losses and display."""
    long_name: str
    """Display name."""
    bands: tuple[str, ...]
    """Band names in stored order; empty for ``tile/categorical``, whose array has no band axis; the classes of
    ``tile/multi-label``.
    """
    dtype: np.dtype[Any]
    """Type of the stored values."""
    nodata: float
    """Stored value that means "never observed" (NaN for floats)."""
    order: int = 1000
    """Position in the catalog: entries are sorted by it."""
    enabled: bool = True
    """Whether builds include it by default."""
    units: str = "1"
    """Unit of the physical values, in UDUNITS notation; ``1`` for none."""
    band_units: Mapping[str, str] = field(default_factory=dict)
    """Band -> its unit, if the bands do not share one; ``units`` then lists all of them."""
    wavelengths: Mapping[str, Wavelength] = field(default_factory=dict)
    """Optical band -> its central wavelength and its full width at half maximum, micrometres."""
    frequency_ghz: float | None = None
    """Centre frequency of a radar, GHz."""
    native_m: Mapping[str, float] = field(default_factory=dict)
    """Band -> pixel size before resampling to the grid of the tile, metres."""
    scale: float = 1.0
    """Physical value = stored value * scale + offset."""
    offset: float = 0.0
    """See ``scale``."""
    resampling: Resampling = "nearest"
    """How the asset's pixels are resampled to the grid of the tile."""
    asset: Mapping[str, str] = field(default_factory=dict)
    """Earth Engine asset ids by role (roles are defined by the recipe); empty for derived modalities."""
    asset_bands: Mapping[str, str] = field(default_factory=dict)
    """Stored band -> its name in the asset."""
    bands_by_level: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Sentinel-2 level (``L1C``, ``L2A``) -> bands that exist in it; empty means all bands, always."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Name of the procedure by which a source obtains the modality, and its parameters."""
    derived_from: tuple[str, ...] = ()
    """Coordinates (``lat``, ``lon``, ``time``) from which it is computed on read; empty if it is stored."""
    statistics_by: StatisticsBy = "none"
    """``s2_level`` if the distribution depends on the product level of the scene."""
    histogram_range: tuple[float, float] | None = None
    """Range of stored values in which percentiles are resolved; None for categories and masks."""
    histogram_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Band -> its own range, if one range does not suit all bands (elevation and slope)."""
    histogram_bins: int = 2048
    """Number of bins of that range, at most 2,048."""
    input: bool = False
    """Whether it may feed the encoder."""
    model_bands: tuple[str, ...] = ()
    """Bands that the model sees, in its order."""
    pretext: bool = False
    """Whether it is a pretext task of pretraining."""
    pretext_norm: PretextNorm = "none"
    """``patch``: the target is normalised within each patch."""
    classes: tuple[ClassLabel, ...] = ()
    """Class codes, in the order of the model's class indices; the codes of ``tile/multi-label`` are positions of bands."""
    display: Display = field(default_factory=Display)
    """How it is drawn."""
    doi: str = ""
    """DOI of the publication to cite."""
    source: str = ""
    """Page that describes the data."""
    licence: Licence
    """Terms of use."""

    def __post_init__(self) -> None:
        problem = _first_problem(self)
        if problem:
            field_name, text = problem
            raise CatalogError(f"{self.name}: {text}", field_name)
        if self.kind.is_multi_label and not self.classes:
            classes = tuple(ClassLabel(position, band) for position, band in enumerate(self.bands))
            object.__setattr__(self, "classes", classes)
        if math.isnan(self.nodata):
            # YAML's .nan has another sign bit than JSON's NaN, but a resumed store must get the same bytes.
            object.__setattr__(self, "nodata", math.nan)
        if not self.model_bands:
            object.__setattr__(self, "model_bands", self.bands)

    def __eq__(self, other: object) -> bool:
        """Compare definitions; a no-data value of NaN equals NaN."""
        if not isinstance(other, Modality):
            return NotImplemented
        return self is other or (self.name == other.name and self.definition() == other.definition())

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.bands, self.dtype))

    @property
    def stored(self) -> bool:
        """True if the store has an array of it; derived modalities are computed on read."""
        return not self.derived_from

    @property
    def channels(self) -> int:
        """Length of the band axis (1 for class ids of a whole tile)."""
        return max(1, len(self.bands))

    def array_shape(self, size_px: int) -> tuple[int, ...]:
        """Shape of one tile's array: ``(band, y, x)``, ``(band,)`` or ``()``."""
        if self.kind.is_raster:
            return (len(self.bands), size_px, size_px)
        return () if self.kind.is_categorical else (len(self.bands),)

    def observed(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Elementwise: True for an observed value, False for no data."""
        seen: np.ndarray[Any, np.dtype[np.bool_]] = (
            ~np.isnan(values) if math.isnan(self.nodata) else values != self.dtype.type(self.nodata)
        )
        return seen

    def empty(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Array of the stored type in which nothing was observed."""
        return np.full(shape, self.nodata, dtype=self.dtype)

    def band_indices(self, bands: tuple[str, ...]) -> list[int]:
        """Positions of the named bands on the stored band axis; CatalogError if the modality has no such band."""
        unknown = [band for band in bands if band not in self.bands]
        if unknown:
            raise CatalogError(f"{self.name} has no band {', '.join(unknown)}; its bands are {', '.join(self.bands)}.")
        return [self.bands.index(band) for band in bands]

    def histogram_range_of(self, band: str) -> tuple[float, float] | None:
        """Return the range of stored values in which the percentiles of one band are resolved."""
        return self.histogram_ranges.get(band, self.histogram_range)

    def units_of(self, band: str) -> str:
        """Return the unit of one band."""
        return self.band_units.get(band, self.units)

    def class_code_index(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Lookup from stored code to class index (position in ``classes``), -1 where no class has the code."""
        lookup = np.full(int(np.iinfo(self.dtype).max) + 1, -1, dtype=np.int64)
        for index, label in enumerate(self.classes):
            lookup[label.code] = index
        return lookup

    def definition(self) -> dict[str, Any]:
        """Fields that determine how values are obtained, stored and learned: all except `DESCRIPTIVE`."""
        return {name: value for name, value in self.to_dict().items() if name not in DESCRIPTIVE}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, as written to a store's attributes (NaN no-data becomes ``"NaN"``)."""
        entry = dataclasses.asdict(self)
        entry["kind"] = str(self.kind)
        entry["dtype"] = self.dtype.name
        entry["nodata"] = "NaN" if math.isnan(self.nodata) else self.nodata
        return entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; also accepts an entry in the form of a catalog file.

        CatalogError if it is inconsistent.
        """
        values = dict(entry)
        try:
            values["kind"] = Kind(values["kind"])
            values["dtype"] = np.dtype(values["dtype"])
            values["nodata"] = float(values["nodata"]) if values["nodata"] == "NaN" else values["nodata"]
            for name in ("bands", "derived_from", "model_bands"):
                values[name] = tuple(values.get(name) or ())
            if values.get("histogram_range") is not None:
                values["histogram_range"] = tuple(values["histogram_range"])
            values["histogram_ranges"] = {k: tuple(v) for k, v in (values.get("histogram_ranges") or {}).items()}
            values["bands_by_level"] = {k: tuple(v) for k, v in (values.get("bands_by_level") or {}).items()}
            values["wavelengths"] = {k: Wavelength(**v) for k, v in (values.get("wavelengths") or {}).items()}
            values["classes"] = tuple(ClassLabel(**label) for label in values.get("classes") or ())
            values["display"] = _display(values.get("display") or {})
            values["licence"] = Licence(**values["licence"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise CatalogError(f"{entry.get('name', 'unnamed entry')}: {error}") from error


def _display(entry: Mapping[str, Any]) -> Display:
    values = dict(entry)
    for name in ("bands", "false_colour"):
        values[name] = tuple(values.get(name) or ())
    if values.get("range") is not None:
        values["range"] = tuple(values["range"])
    return Display(**values)


def fits(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether ``value`` can be stored in ``dtype`` without change."""
    if dtype.kind == "f":
        return True
    if dtype.kind not in "iu" or not float(value).is_integer():
        return False
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max)


def _first_problem(m: Modality) -> tuple[str, str] | None:
    """Return the field that has the most fundamental problem of an entry (dotted if nested), and its text; or None."""
    checks = (
        _storage_problems,
        _histogram_problems,
        _band_problems,
        _band_name_problems,
        _spectrum_problems,
        _class_problems,
        _role_problems,
    )
    return next((problem for check in checks for problem in check(m)), None)


def _storage_problems(m: Modality) -> Problems:
    if not m.name.isidentifier():
        text = f"the name {m.name!r} must be a plain identifier, since it names an array; use letters, digits and _."
        yield "name", text
    if not fits(m.nodata, m.dtype):
        yield "nodata", f"nodata {m.nodata} does not fit {m.dtype.name}; widen one of them."
    if m.dtype.kind == "f" and not math.isnan(m.nodata):
        yield "nodata", f"floating-point modalities mark missing values by NaN, got nodata {m.nodata}; write NaN."
    if m.kind.is_categorical and m.dtype.name not in CODE_DTYPES:
        text = f"class codes are stored as {' or '.join(CODE_DTYPES)}, got dtype {m.dtype.name}; write one of them."
        yield "dtype", text
    if m.kind is Kind.RASTER_MASK and m.dtype.kind == "f":
        yield "dtype", f"masks are integers, got dtype {m.dtype.name}; write uint8 or uint16."
    if m.kind.is_multi_label and (m.dtype.name, m.nodata) != ("uint8", MULTI_LABEL_NODATA):
        text = f"tile/multi-label is stored as uint8 with nodata {MULTI_LABEL_NODATA}, got {m.dtype.name}, {m.nodata}."
        yield "dtype", text


def _histogram_problems(m: Modality) -> Problems:
    if m.kind.is_continuous and m.histogram_range is None:
        text = "a continuous modality needs histogram_range [low, high], the range in which percentiles are resolved."
        yield "histogram_range", text
    ranges = {f"histogram_ranges.{band}": limits for band, limits in m.histogram_ranges.items()}
    for where, limits in {"histogram_range": m.histogram_range, **ranges}.items():
        if limits is not None and not (len(limits) == 2 and limits[0] < limits[1]):
            yield where, f"{where} must be increasing, got {list(limits)}; write [low, high]."
    if not 1 <= m.histogram_bins <= 2048:
        yield "histogram_bins", f"histogram_bins must be in 1..2048, got {m.histogram_bins}."


def _band_problems(m: Modality) -> Problems:
    if m.kind is Kind.TILE_CATEGORICAL:
        if m.bands:
            yield "bands", f"tile/categorical has no band axis, got bands {list(m.bands)}; leave them out."
        return
    if not m.bands:
        yield "bands", "at least one band is needed; list them under bands."
    if len(set(m.bands)) != len(m.bands):
        yield "bands", f"band names must differ, got {list(m.bands)}."
    if m.kind is Kind.RASTER_CATEGORICAL and len(m.bands) != 1:
        yield "bands", f"raster/categorical has exactly one band, got {list(m.bands)}."
    if m.kind.is_raster and not m.kind.is_continuous and m.resampling != "nearest":
        text = f"class codes and masks cannot be interpolated, got resampling {m.resampling}; write nearest."
        yield "resampling", text


def _band_name_problems(m: Modality) -> Problems:
    named = {
        "model_bands": m.model_bands,
        "display.bands": m.display.bands,
        "display.false_colour": m.display.false_colour,
        "asset_bands": tuple(m.asset_bands),
        "band_units": tuple(m.band_units),
        "wavelengths": tuple(m.wavelengths),
        "native_m": tuple(m.native_m),
        "histogram_ranges": tuple(m.histogram_ranges),
        **{f"bands_by_level.{level}": bands for level, bands in m.bands_by_level.items()},
    }
    for where, bands in named.items():
        unknown = [band for band in bands if band not in m.bands]
        if unknown:
            yield where, f"{where} names {', '.join(unknown)}, but the bands are {', '.join(m.bands)}."
    if len(set(m.model_bands)) != len(m.model_bands):
        yield "model_bands", f"model_bands must differ, got {list(m.model_bands)}."


def _spectrum_problems(m: Modality) -> Problems:
    for band, seen in m.wavelengths.items():
        if not 0 < seen.width_um / 2 < seen.centre_um < LONGEST_UM:
            text = (
                f"expected the centre and the width of {band} in micrometres, such as 0.665 and 0.031, got "
                f"{seen.centre_um:g} and {seen.width_um:g}; divide nanometres by 1,000."
            )
            yield f"wavelengths.{band}", text
    if m.wavelengths and m.frequency_ghz is not None:
        yield "frequency_ghz", "expected wavelengths (optical) or frequency_ghz (radar), got both; keep one of them."


def _class_problems(m: Modality) -> Problems:
    if m.kind.is_categorical and not m.classes:
        yield "classes", "a categorical modality needs its classes (code, name, colour)."
    codes = [label.code for label in m.classes]
    if m.kind.is_multi_label:
        if m.classes and [(label.code, label.name) for label in m.classes] != list(enumerate(m.bands)):
            text = "the classes of tile/multi-label are its bands, in the same order, with codes 0, 1, 2, ...; "
            yield "classes", f"{text}correct them, or leave them out."
        return
    clashing = sorted(code for code, count in Counter(codes).items() if count > 1)
    if clashing:
        yield "classes", f"class codes must differ, got {', '.join(map(str, clashing))} more than once."
    if m.nodata in codes:
        yield "classes", f"class code {int(m.nodata)} is also the nodata value; give one of them another number."
    wide = [code for code in codes if not fits(code, m.dtype)]
    if wide:
        yield "classes", f"class codes {', '.join(map(str, wide))} do not fit {m.dtype.name}; widen the dtype."


def _role_problems(m: Modality) -> Problems:
    if m.pretext and m.kind is Kind.RASTER_MASK:
        yield "pretext", "a raster/mask cannot be a pretext task; set pretext: false."
    if m.pretext_norm == "patch" and m.kind is not Kind.RASTER_CONTINUOUS:
        text = f"only raster/continuous can be normalised within patches, got kind {m.kind}; write pretext_norm: none."
        yield "pretext_norm", text
    unknown = [name for name in m.derived_from if name not in DERIVABLE_FROM]
    if unknown:
        text = f"derived_from names {', '.join(unknown)}; a modality can be derived from {', '.join(DERIVABLE_FROM)}."
        yield "derived_from", text
    if m.derived_from and m.kind is not Kind.TILE_CONTINUOUS:
        yield "derived_from", f"only tile/continuous is derived on read, got kind {m.kind}; leave derived_from out."
