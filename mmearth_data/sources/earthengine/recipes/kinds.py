"""Inputs and results that all recipes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    import ee
    import numpy as np

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import TileGrid


@dataclass(frozen=True, slots=True)
class Scene:
    """The base scene of a candidate as a server-side object, to which surveys refer."""

    time: ee.Number  # ``system:time_start``
    crs: ee.String  # Code of its CRS
    tile: ee.Geometry  # Square of the tile
    box: ee.Geometry  # The same square with a margin of 200 m
    years: tuple[ee.ComputedObject, ee.ComputedObject]  # [start, end) of scenes of other collections, UTC milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the survey found for a tile: all that is needed to read its pixels."""

    level: str  # Name of the base scene's level
    scene: str  # Asset id of the base scene
    bands: frozenset[str]  # Bands of the base scene
    time_ms: int  # Acquisition time, UTC milliseconds
    grid: TileGrid  # Grid of the tile
    resampled: bool = False  # Whether the base scene is in another CRS than the tile
    answers: Mapping[str, Any] = field(default_factory=dict)  # Modality -> result of its recipe's survey


@dataclass(frozen=True, slots=True)
class Ask:
    """Request for one modality of one tile."""

    shape: Hashable = ()  # Everything that determines the form of the expression; tiles with equal shapes share it
    holes: Mapping[str, Any] = field(default_factory=dict)  # Hole -> constant, for this tile


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeKind:
    """One way of obtaining a modality."""

    # What to compute for a candidate's scene; None requests nothing
    survey: Callable[[Modality, Scene], Any] | None = None
    # What to compute in a second survey if `survey` found no scenes for some group: the same form of answer, group ->
    # scenes, for a scene and the windows to search (None: all years). None: `survey` never leaves a group empty.
    search: Callable[[Modality, Scene, ee.Dictionary | None], Any] | None = None
    # Turns the survey's answer into the modality's values, for ``tile/continuous``
    values: Callable[[Modality, Any], np.ndarray[Any, Any]] | None = None
    # What to request for a tile, None if the modality is missing here; a recipe without it has no pixels
    ask: Callable[[Modality, Found], Ask | None] | None = None
    # Image to request, given the shape of the request, and the stored bands that it holds, in order
    image: Callable[[Modality, Any], tuple[ee.Image, list[str]]] | None = None
    # Type that the service reports for its assets: ``IMAGE`` or ``IMAGE_COLLECTION``
    asset_type: str = "IMAGE_COLLECTION"
    # Bands that are read from the asset of a role, if it is an image
    asset_bands: Callable[[Modality, str], Sequence[str]] | None = None
    # Approximate number of images that the service reads per pixel; if a request for all modalities is too large, the
    # most expensive one is requested alone
    cost: int = 1


def box_holes(grid: TileGrid) -> dict[str, Any]:
    """Constants for `mmearth_data.sources.earthengine.recipes.images.touching`."""
    return {"tile_ring": ring(grid, 0.0), "tile_crs": f"EPSG:{grid.epsg}"}


def ring(grid: TileGrid, clearance_m: float) -> list[list[float]]:
    """Outline of a tile with a margin, as a closed ring, metres in its CRS."""
    west, south, east, north = grid.bounds
    west, south, east, north = west - clearance_m, south - clearance_m, east + clearance_m, north + clearance_m
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def parameters(m: Modality) -> Mapping[str, Any]:
    """Parameters of a modality's recipe."""
    return m.recipe.get("parameters") or {}
