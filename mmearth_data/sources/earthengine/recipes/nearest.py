"""``nearest-in-time``: the scene of another collection that is closest in time to the base scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ee

from mmearth_data.sources.earthengine.expressions import band_names, hole, interpolated, stored
from mmearth_data.sources.earthengine.recipes.kinds import Ask, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.modality import Modality
    from mmearth_data.sources.earthengine.recipes.kinds import Found, Scene

PASS_PROPERTY, MODE_PROPERTY = "orbitProperties_pass", "instrumentMode"


def groups(m: Modality) -> Mapping[str, list[str]]:
    """Orbit pass -> bands, or "" -> all bands where passes do not matter."""
    passes: Mapping[str, list[str]] = parameters(m).get("passes") or {"": list(m.bands)}
    return passes


def survey(m: Modality, scene: Scene) -> dict[str, Any]:
    """Latest scene not after the base scene, and earliest after it, of each pass: lists of none, one or two."""
    containing = (
        ee.ImageCollection(next(iter(m.asset.values())))
        .filterDate(*scene.years)
        .filterBounds(scene.box)
        .filter(ee.Filter.contains(leftField=".geo", rightValue=scene.box))
    )
    if "instrument_mode" in parameters(m):
        containing = containing.filter(ee.Filter.eq(MODE_PROPERTY, parameters(m)["instrument_mode"]))
    return {name: _around(containing, name, scene.time) for name in groups(m)}


def _around(containing: ee.ImageCollection, name: str, time: ee.Number) -> ee.List:
    own = containing.filter(ee.Filter.eq(PASS_PROPERTY, name)) if name else containing
    before = own.filter(ee.Filter.lte("system:time_start", time)).sort("system:time_start", False)
    after = own.filter(ee.Filter.gt("system:time_start", time)).sort("system:time_start")
    return before.toList(1).cat(after.toList(1)).map(_describe)


def _describe(element: ee.ComputedObject) -> ee.Dictionary:
    image = ee.Image(element)
    return ee.Dictionary(
        {
            "index": image.get("system:index"),
            "time": image.get("system:time_start"),
            "bands": image.bandNames(),
        }
    )


def closest(answer: Mapping[str, Any], time_ms: int) -> dict[str, Mapping[str, Any]]:
    """Scene of each pass that is closest in time, of two equally close ones the earlier; passes without are left out."""
    return {
        name: min(scenes, key=lambda scene: (abs(scene["time"] - time_ms), scene["time"]))
        for name, scenes in answer.items()
        if scenes
    }


def ask(m: Modality, found: Found) -> Ask | None:
    """Bands that the scenes of each pass have: polarisations differ."""
    shape, holes = [], {}
    for name, scene in closest(found.answers[m.name], found.time_ms).items():
        present = tuple(band for band in groups(m)[name] if m.asset_bands.get(band, band) in scene["bands"])
        if present:
            shape.append((name, present))
            holes[_hole(m, name)] = f"{next(iter(m.asset.values()))}/{scene['index']}"
    return Ask(tuple(shape), holes) if shape else None


def image(m: Modality, shape: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[ee.Image, list[str]]:
    """Bands of the scene of each pass, resampled."""
    parts = [
        interpolated(
            ee.Image.load(hole(_hole(m, name))).select(
                [m.asset_bands.get(band, band) for band in bands], band_names(m, bands)
            ),
            m,
        )
        for name, bands in shape
    ]
    return stored(ee.Image.cat(parts), m), [band for _, bands in shape for band in bands]


def _hole(m: Modality, name: str) -> str:
    return f"{m.name}_{name}"
