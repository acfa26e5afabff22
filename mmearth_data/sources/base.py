"""The boundary between a build and whatever delivers its pixels.

A source answers two questions, in this order: `Source.survey` (which scene would each of these places
get, and what is known of it?) and `Source.read` (the pixels of one surveyed tile). Both are safe to call
from several threads, and both depend on nothing but their arguments and the source's identity, so that a
build can be cut and continued anywhere and ends in the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NONE, NO_TIME, Place, TileGrid
from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geopandas import GeoDataFrame

    from mmearth_data.catalog.modality import Modality


FIELDS_OF_ALL = frozenset(
    {
        "source",
        "tile_size",
        "seed",
        "modalities",
        "ecoregions",
        "tiles_file",
        "split",
        "split_shares",
        "tiles_per_shard",
        "threads",
    }
)
"""Fields of a recipe that mean something whichever source delivers the pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a source would deliver for a place; enough to read its pixels without asking again.

    Attributes
    ----------
    place
        The place that was asked for.
    grid
        The tile's pixel grid, in the CRS of its scene.
    time_ms
        Time of the base scene, UTC milliseconds since 1970, or `NO_TIME`.
    s2_level
        `LEVEL_L1C`, `LEVEL_L2A` or `LEVEL_NONE`.
    s1_asc_days, s1_desc_days
        Sentinel-1 time minus scene time, days, NaN where there is no such pass or it is not known.
    values
        ``tile/continuous`` modality -> float32 array (band,), as far as the survey knows them.
    facts
        Everything else worth keeping, JSON-ready (scene ids, notes); goes into the tile index.
    request
        Whatever the source needs to read the pixels; opaque to everybody else.
    """

    place: Place
    grid: TileGrid
    time_ms: int = NO_TIME
    s2_level: int = LEVEL_NONE
    s1_asc_days: float = math.nan
    s1_desc_days: float = math.nan
    values: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    request: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Why a place cannot become a tile."""

    place: Place
    reason: str
    detail: str = ""


class Source(Protocol):
    """Delivers aligned tiles.

    Attributes
    ----------
    name
        ``synthetic``, ``rasters``, ``earthengine``.
    synthetic
        True where the pixels were never measured; the store, `inspect` and every figure say so.
    recipe_fields
        Fields of a recipe that the source uses; any other one that is given is refused.
    """

    name: str
    recipe_fields: ClassVar[frozenset[str]]

    @property
    def synthetic(self) -> bool:
        """True where the pixels were never measured."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides the pixels, JSON-ready; part of the store's recipe. No secrets."""
        ...

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        """Those of the wanted stored modalities that this source can deliver, in the given order."""
        ...

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        """One answer per place, in order."""
        ...

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays of one tile, as stored (shape `Modality.array_shape`, stored dtype and no-data).

        A modality that is missing here is left out or wholly no-data. Modalities of kind
        ``tile/categorical`` and those in ``survey.values`` are not asked for.

        Raises
        ------
        TileUnavailable
            The candidate is rejected, with a reason; the build takes the next.
        RetryLater
            The same call may succeed in a while.
        """
        ...


class SourceWithPlaces(Source, Protocol):
    """A source that comes with its own places, so that nothing is sampled."""

    def places(self, size_px: int) -> list[Place]:
        """All places, in a fixed order."""
        ...


class SourceWithEcoregions(Source, Protocol):
    """A source that has ecoregions of its own, for sampling."""

    def ecoregions(self) -> GeoDataFrame:
        """Columns eco_region, biome, realm, area_km2, geometry (EPSG:4326)."""
        ...


@runtime_checkable
class SourceOverNetwork(Source, Protocol):
    """A source that waits for a service rather than computes."""

    @property
    def in_flight(self) -> int:
        """Requests that may wait for their answers at once: so many threads are of use."""
        ...

    def connect(self) -> None:
        """Sign in now rather than at the first request.

        Raises
        ------
        InputError
            When that fails, with the ways to fix it.
        """
        ...

    def account(self) -> dict[str, Any]:
        """Tell what was asked of the service so far: requests, bytes, retries, seconds, rejections; JSON-ready."""
        ...


def round_half_away(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Round to the nearest integer, ties away from zero: the one rounding rule of all sources."""
    rounded: np.ndarray[Any, Any] = np.copysign(np.floor(np.abs(values) + 0.5), values)
    return rounded


def to_stored(values: np.ndarray[Any, Any], valid: np.ndarray[Any, Any], modality: Modality) -> np.ndarray[Any, Any]:
    """Bring physical numbers into the stored type: round, fill what is not valid, cast.

    Parameters
    ----------
    values
        Numbers in stored units, any shape, float.
    valid
        Boolean, same shape; False becomes the modality's no-data.
    modality
        Gives dtype and no-data.

    Raises
    ------
    InputError
        When a valid number does not fit the stored type.
    """
    valid = np.asarray(valid, dtype=bool) & np.isfinite(values)
    if modality.dtype.kind == "f":
        with np.errstate(over="ignore"):
            stored: np.ndarray[Any, Any] = np.where(valid, values, modality.nodata).astype(modality.dtype)
        beyond = valid & np.isinf(stored)
        if beyond.any():
            raise InputError(
                f"{modality.name}: expected numbers that fit {modality.dtype.name}, got {values[beyond][0]:g}; give the "
                "number that means missing as nodata, or a scale."
            )
        return stored
    rounded = round_half_away(np.where(valid, values, modality.nodata))
    limits = np.iinfo(modality.dtype)
    if rounded.size and not (limits.min <= rounded.min() and rounded.max() <= limits.max):
        raise InputError(
            f"{modality.name}: expected numbers that fit {modality.dtype.name}, got {rounded.min():g} to "
            f"{rounded.max():g}; give a scale or offset that brings them into its units."
        )
    return rounded.astype(modality.dtype)
