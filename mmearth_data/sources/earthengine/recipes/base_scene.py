"""``base-scene``: bands of the tile's own scene, at the scene's level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ee

from mmearth_data.sources.earthengine.expressions import band_names, hole, interpolated, stored
from mmearth_data.sources.earthengine.recipes.kinds import Ask, parameters

if TYPE_CHECKING:
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.sources.earthengine.recipes.kinds import Found


def ask(m: Modality, found: Found) -> Ask | None:
    """Bands that exist at the level and in the scene; some scenes lack bands."""
    if found.level not in m.asset:
        return None
    expected = m.bands_by_level.get(found.level, m.bands)
    present = tuple(band for band in expected if m.asset_bands.get(band, band) in found.bands)
    return Ask(present, {"scene": found.scene}) if present else None


def image(m: Modality, shape: tuple[str, ...]) -> tuple[ee.Image, list[str]]:
    """Bands of the scene: those on the native grid copied, the others resampled."""
    scene = ee.Image.load(hole("scene"))
    native = parameters(m).get("native", ())
    groups = [
        (bands, copied) for copied in (True, False) if (bands := [band for band in shape if (band in native) is copied])
    ]
    parts = []
    for bands, copied in groups:
        part = scene.select([m.asset_bands.get(band, band) for band in bands], band_names(m, bands))
        parts.append(part if copied else interpolated(part, m))
    ordered = [band for bands, _ in groups for band in bands]
    return stored(ee.Image.cat(parts), m), ordered
