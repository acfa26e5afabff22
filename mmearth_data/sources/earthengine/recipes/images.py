"""``base-scene``, ``static-image``, ``mosaic`` and ``mode-of-year``: recipes that deliver an image and need no search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ee
import numpy as np

from mmearth_data.sources.earthengine.expressions import (
    band_name,
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
RESAMPLED = "resampled"
"""First part of the shape of a request for a scene in another CRS than the tile."""
SCENES_OF_A_YEAR = 100
"""Upper bound on a year's scenes with few clouds, of about 140 overpasses where two orbits of Sentinel-2 overlap."""
ANY_NUMBER = "float64"
"""Type that can hold the values of every band; interpolated pixels are real numbers anyway."""

# ---------------------------------------------------------------- the tile's own scene, at the scene's level


def ask_scene(m: Modality, found: Found) -> Ask | None:
    """Bands that exist at the level and in the scene; some scenes lack bands."""
    if found.level not in m.asset:
        return None
    expected = m.bands_by_level.get(found.level, m.bands)
    present = tuple(band for band in expected if m.asset_bands.get(band, band) in found.bands)
    shape = (RESAMPLED, *present) if found.resampled else present
    return Ask(shape, {"scene": found.scene}) if present else None


def scene(m: Modality, shape: tuple[str, ...]) -> tuple[ee.Image, list[str]]:
    """Bands of the scene: those on the native grid copied, the others resampled; all, if it is in another CRS."""
    whole = ee.Image.load(hole("scene"))
    native = () if RESAMPLED in shape else parameters(m).get("native", ())
    bands_of = [band for band in shape if band != RESAMPLED]
    groups = [
        (bands, copied)
        for copied in (True, False)
        if (bands := [band for band in bands_of if (band in native) is copied])
    ]
    parts = []
    for bands, copied in groups:
        part = whole.select([m.asset_bands.get(band, band) for band in bands], band_names(m, bands))
        parts.append(part if copied else interpolated(part, m))
    ordered = [band for bands, _ in groups for band in bands]
    return stored(ee.Image.cat(parts), m), ordered


# ---------------------------------------------------------------- assets without a time, one per band or one for all


def ask_static(m: Modality, found: Found) -> Ask | None:
    """Make the same request everywhere."""
    return Ask()


def static(m: Modality, shape: tuple[()]) -> tuple[ee.Image, list[str]]:
    """All bands; a slope is taken from the unresampled elevation, then both are resampled."""
    return stored(ee.Image.cat([_band(m, band) for band in m.bands]), m), list(m.bands)


def static_bands(m: Modality, role: str) -> list[str]:
    """Bands that are read from the asset of a role."""
    read = [_read_from(m, band) for band in m.bands]
    return sorted({m.asset_bands.get(of, of) for of, its in read if its == role})


def _read_from(m: Modality, band: str) -> tuple[str, str]:
    """Asset band from which a stored band is computed, and the role of its asset."""
    of = parameters(m)["elevation"] if band == parameters(m).get("slope") else band
    return of, of if of in m.asset else next(iter(m.asset))


def _band(m: Modality, band: str) -> ee.Image:
    of, role = _read_from(m, band)
    found = without_nodata(ee.Image(m.asset[role]).select(m.asset_bands.get(of, of)), parameters(m))
    if of != band:
        found = ee.Terrain.slope(found)
    return interpolated(found.rename(band_name(m, band)), m)


# ---------------------------------------------------------------- a collection combined into one image


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
