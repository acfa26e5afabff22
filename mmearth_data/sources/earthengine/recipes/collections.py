"""``mosaic`` and ``mode-of-year``: a collection combined into one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ee
import numpy as np

from mmearth_data.sources.earthengine.expressions import (
    band_names,
    hole,
    interpolated,
    never_empty,
    polygon,
    stored,
    touches,
    without_nodata,
)
from mmearth_data.sources.earthengine.recipes.kinds import Ask, box_holes, parameters

if TYPE_CHECKING:
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.sources.earthengine.recipes.kinds import Found, Scene

PROJECTED = "projected"
SCENES_OF_A_YEAR = 100
"""Upper bound on a year's scenes with few clouds, of about 140 overpasses where two orbits of Sentinel-2 overlap."""
ANY_NUMBER = "float64"
"""Type that can hold the values of every band; interpolated pixels are real numbers anyway."""


def touching(m: Modality) -> ee.ImageCollection:
    """Images of the modality's collection that touch the tile."""
    collection = ee.ImageCollection(next(iter(m.asset.values())))
    return collection.filter(touches(polygon(hole("tile_ring"), hole("tile_crs"))))


def _asset_bands(m: Modality) -> list[str]:
    return [m.asset_bands.get(band, band) for band in m.bands]


def survey_mosaic(m: Modality, scene: Scene) -> ee.List | None:
    """Projection of a local image, if pixels will be interpolated: a mosaic has no native projection."""
    if m.resampling != "bilinear":
        return None
    here = ee.ImageCollection(next(iter(m.asset.values()))).filter(touches(scene.tile))
    return here.toList(1).map(lambda image: ee.Image(image).select(_asset_bands(m)[0]).projection())


def ask_mosaic(m: Modality, found: Found) -> Ask | None:
    """Request the mosaic; None if it is interpolated and the survey found no image."""
    if m.resampling != "bilinear":
        return Ask((), box_holes(found.grid))
    projections = found.answers[m.name]
    if not projections:
        return None
    own = {f"{m.name}_crs": projections[0]["crs"], f"{m.name}_transform": projections[0]["transform"]}
    return Ask((PROJECTED,), box_holes(found.grid) | own)


def mosaic(m: Modality, shape: tuple[str, ...]) -> tuple[ee.Image, list[str]]:
    """Images side by side, later ones on top."""
    names = _asset_bands(m)
    whole = never_empty(touching(m), names, ANY_NUMBER).mosaic()
    if PROJECTED in shape:
        whole = whole.setDefaultProjection(hole(f"{m.name}_crs"), hole(f"{m.name}_transform"))
    whole = without_nodata(whole, parameters(m)).select(names, band_names(m, m.bands))
    return stored(interpolated(whole, m), m), list(m.bands)


def ask_mode(m: Modality, found: Found) -> Ask | None:
    """Labels of the calendar year (UTC) of the scene."""
    year = int(np.datetime64(found.time_ms, "ms").astype("datetime64[Y]").astype(np.int64)) + 1970
    return Ask((), box_holes(found.grid) | {"year_start": _start_ms(year), "year_end": _start_ms(year + 1)})


def mode(m: Modality, shape: tuple[()]) -> tuple[ee.Image, list[str]]:
    """Most frequent label of the year, renumbered after the mode."""
    names = _asset_bands(m)
    year = touching(m).filterDate(hole("year_start"), hole("year_end"))
    labels = never_empty(year, names, label_type(m)).mode()
    numbers = parameters(m)
    if "remap_from" in numbers:
        labels = labels.remap(numbers["remap_from"], numbers["remap_to"], None, names[0])
    return stored(labels.rename(band_names(m, m.bands)), m), list(m.bands)


def label_type(m: Modality) -> str:
    """Integer type for the labels of the asset: a mode counts numbers, and bytes take an eighth of a double's memory.

    Labels that are renumbered need not fit the stored type. The result is the smallest unsigned type that can also hold
    a number beyond the last known label, so that an unknown label is never truncated to a known one.
    """
    known = parameters(m).get("remap_from")
    return m.dtype.name if known is None else np.min_scalar_type(max(known) + 1).name


def _start_ms(year: int) -> int:
    return int(np.datetime64(f"{year}-01-01", "ms").astype(np.int64))
