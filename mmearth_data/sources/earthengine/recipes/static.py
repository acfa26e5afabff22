"""``static-image``: assets without a time, one per band or one for all bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ee

from mmearth_data.sources.earthengine.expressions import band_name, interpolated, stored, without_nodata
from mmearth_data.sources.earthengine.recipes.kinds import Ask, parameters

if TYPE_CHECKING:
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.sources.earthengine.recipes.kinds import Found


def ask(m: Modality, found: Found) -> Ask | None:
    """Make the same request everywhere."""
    return Ask()


def image(m: Modality, shape: tuple[()]) -> tuple[ee.Image, list[str]]:
    """All bands; a slope is taken from the unresampled elevation, then both are resampled."""
    return stored(ee.Image.cat([_band(m, band) for band in m.bands]), m), list(m.bands)


def asset_bands(m: Modality, role: str) -> list[str]:
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
