"""The interface between a build and the sources of its pixels.

A build calls a source in two steps: `Source.survey` returns the scene that each location would get, and its metadata;
`Source.read` returns the pixels of one surveyed tile. Both are safe to call from several threads, and their results
depend only on their arguments and the source's identity, so a build that is interrupted and resumed at any point gives
the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NONE, NO_TIME, Place, TileGrid
from mmearth_data.errors import InputError, TileUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from geopandas import GeoDataFrame

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.geography.zones import ZonePart
    from mmearth_data.sources.earthengine.quota import Limiter


COORDINATES = frozenset({"lon", "lat", "time"})
"""Coordinates from which modalities can be derived."""
FIELDS_OF_ALL = frozenset(
    {
        "source",
        "tile_size",
        "seed",
        "modalities",
        "ecoregions",
        "tiles_file",
        "polygons",
        "labels",
        "labels_file",
        "burn",
        "date_column",
        "days",
        "split_column",
        "split",
        "split_shares",
        "cover",
        "overlap_px",
        "tiles_per_shard",
        "threads",
    }
)
"""Recipe fields that apply to every source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a source would deliver for a location; enough to read its pixels without another survey."""

    place: Place
    grid: TileGrid
    """The tile's pixel grid: that of its location if it has one, otherwise in the CRS of its scene."""
    time_ms: int = NO_TIME
    """Time of the base scene, UTC milliseconds since 1970, or `NO_TIME`."""
    s2_level: int = LEVEL_NONE
    """`LEVEL_L1C`, `LEVEL_L2A` or `LEVEL_NONE`."""
    s1_asc_days: float = math.nan
    s1_desc_days: float = math.nan
    """Sentinel-1 time minus scene time, days; NaN if there is no such pass or its time is unknown."""
    values: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Tile-level modality -> array as stored, for those that the survey already knows: labels, ``era5``."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Other metadata, JSON-ready (scene ids, notes); written to the tile index."""
    split: int | None = None
    """Split of the tile if the source gives it; None if the recipe assigns it."""
    request: Any = None
    """What the source needs to read the pixels; opaque to callers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Why a location cannot become a tile."""

    place: Place
    reason: str
    """``outside_utm`` (`catalog.tile`), ``sentinel2_missing``, ``sentinel2_grid`` and ``sentinel2_nodata`` (Earth
    Engine's `survey` and `pixels`, and `synthetic`), ``earthengine_refused`` and ``earthengine_too_large``
    (`failures`, `session`), ``not_in_source`` (rasters), ``at_sea`` (rows of labelled tables, `labelled`),
    ``no_scene``, ``date_outside_archive`` and ``same_scene`` (locations with dates, `dated`), ``duplicate`` (imports of
    published data), ``image_unreadable``, ``image_bands``, ``image_size``, ``image_values`` or ``image_empty`` (chips).
    """
    detail: str = ""
    """The service's message, or the figures behind the reason."""


class Source(Protocol):
    """Delivers aligned tiles."""

    name: str
    """``synthetic``, ``rasters``, ``chips``, ``earthengine``."""
    recipe_fields: ClassVar[frozenset[str]]
    """Recipe fields that the source uses; others are refused if given."""

    @property
    def synthetic(self) -> bool:
        """True if the pixels are not measurements; the store, `inspect` and every figure say so."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that determines the pixels, JSON-ready and without secrets; part of the store's recipe."""
        ...

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        """Return those of the requested stored modalities that this source can deliver, in the given order."""
        ...

    def own_modalities(self) -> tuple[Modality, ...]:
        """Modalities that the source itself defines; they replace those of the same name in the catalog."""
        ...

    @property
    def coordinates(self) -> frozenset[str]:
        """Which of ``lon``, ``lat`` and ``time`` tiles may have, for the modalities derived from them."""
        ...

    @property
    def remarks(self) -> list[str]:
        """Messages for the user, such as what is left out."""
        ...

    def places(self, size_px: int) -> list[Place]:
        """Locations that the source itself provides, in a fixed order; empty if locations are sampled."""
        ...

    def area(self) -> tuple[ZonePart, ...]:
        """Areas that the source's own files cover, at most one per CRS; empty if the recipe must give a region."""
        ...

    def ecoregions(self) -> GeoDataFrame:
        """Ecoregions to sample in: columns eco_region, biome, realm, area_km2, geometry (EPSG:4326).

        Raises
        ------
        InputError
            If the source has its own locations.
        """
        ...

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        """One result per location, in order."""
        ...

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays of one tile, as stored (shape `Modality.array_shape`, stored dtype and no-data).

        A modality that does not exist at the location is left out or all no-data. Modalities of kind
        ``tile/categorical`` and those in ``survey.values`` are not requested. Raises TileUnavailable if the candidate
        is rejected, with a reason (the build takes the next one); RetryLater if the same call may succeed later.
        """
        ...


class OfCatalog:
    """Members of a source whose modalities are all in the catalog, and whose tiles have locations and may have times."""

    def own_modalities(self) -> tuple[Modality, ...]:
        """Return none: the catalog describes all of them."""
        return ()

    @property
    def coordinates(self) -> frozenset[str]:
        """All coordinates."""
        return COORDINATES

    @property
    def remarks(self) -> list[str]:
        """No messages."""
        return []


@runtime_checkable
class SourceOverNetwork(Source, Protocol):
    """A source that requests its pixels from a service.

    Attributes
    ----------
    limiter
        Decides when a request may start; a build on a cluster replaces it with one that all processes share.
    """

    limiter: Limiter

    @property
    def in_flight(self) -> int:
        """Requests that may be in flight at once; more threads than this are useless."""
        ...

    def connect(self) -> None:
        """Sign in now rather than at the first request; InputError if that fails, with the ways to fix it."""
        ...

    def stop(self) -> None:
        """End all waits for the service permanently: calls in other threads, and new ones, raise an error at once."""
        ...

    def account(self) -> dict[str, Any]:
        """Use of the service so far: requests, bytes, retries, seconds, rejections; JSON-ready."""
        ...

    def profiling(self) -> AbstractContextManager[dict[str, dict[str, Any]]]:
        """Measure the requests of a block: when it ends, kind -> ``requests``, ``seconds``, ``eecu_seconds`` (or None)."""
        ...


MOST_MASKED = 0.01
"""Share of the 10 m pixels of a sampled tile that may be masked."""


def refuse_gaps(masked: float, place: Place) -> None:
    """Refuse a tile whose scene has gaps: a sampled tile with more than 1 % of masked pixels, a tile of a cover with no others.

    A sample has other locations; a map has a hole where a tile is missing.

    Parameters
    ----------
    masked
        Share of the 10 m pixels that are masked.
    place
        Location of the tile; with a grid of its own, it belongs to a cover.

    Raises
    ------
    TileUnavailable
        ``sentinel2_nodata``.
    """
    if masked > MOST_MASKED and (place.grid is None or masked == 1):
        raise TileUnavailable("sentinel2_nodata", f"{100 * masked:.1f} % of the 10 m pixels are masked")


def to_stored(values: np.ndarray[Any, Any], valid: np.ndarray[Any, Any], modality: Modality) -> np.ndarray[Any, Any]:
    """Convert floats in stored units, of any shape, to the modality's stored type: round, fill invalid ones, cast.

    Where ``valid`` (same shape) is False, they become the modality's no-data. Raises InputError if a valid number does
    not fit the stored type.
    """
    valid = np.asarray(valid, dtype=bool) & np.isfinite(values)
    if modality.dtype.kind == "f":
        with np.errstate(over="ignore"):
            stored: np.ndarray[Any, Any] = np.where(valid, values, modality.nodata).astype(modality.dtype)
        beyond = valid & np.isinf(stored)
        if beyond.any():
            raise InputError(
                f"{modality.name}: expected numbers that fit {modality.dtype.name}, got {values[beyond][0]:g}; set "
                "nodata to the number that means missing, or give a scale."
            )
        return stored
    filled = np.where(valid, values, modality.nodata)
    rounded = np.copysign(np.floor(np.abs(filled) + 0.5), filled)  # ties away from zero, in all sources
    limits = np.iinfo(modality.dtype)
    if rounded.size and not (limits.min <= rounded.min() and rounded.max() <= limits.max):
        raise InputError(
            f"{modality.name}: expected numbers that fit {modality.dtype.name}, got {rounded.min():g} to "
            f"{rounded.max():g}; give the scale or offset that converts them to its units."
        )
    return rounded.astype(modality.dtype)
