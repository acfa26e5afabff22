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

NEAR_DAYS, MOST_NEAR = 16, 200
"""Symmetric, so that the closest scene is among those found, if any is; the longest time in which one satellite of
Sentinel-1 or Landsat comes back."""
DAY_MS = 86_400_000
PASS_PROPERTY, MODE_PROPERTY = "orbitProperties_pass", "instrumentMode"


def groups(m: Modality) -> Mapping[str, list[str]]:
    """Orbit pass -> bands, or "" -> all bands where passes do not matter."""
    passes: Mapping[str, list[str]] = parameters(m).get("passes") or {"": list(m.bands)}
    return passes


def survey(m: Modality, scene: Scene) -> dict[str, Any]:
    """Scenes of each pass among which the closest is: lists, empty where there is none."""
    collection = ee.ImageCollection(next(iter(m.asset.values()))).filterDate(*scene.years)
    near = collection.filterDate(scene.time.subtract(NEAR_DAYS * DAY_MS), scene.time.add(NEAR_DAYS * DAY_MS + 1))
    return {name: _around(_own(near, m, name, scene), _own(collection, m, name, scene), scene) for name in groups(m)}


def _own(collection: ee.ImageCollection, m: Modality, name: str, scene: Scene) -> ee.ImageCollection:
    """Images of a pass and mode that contain the tile and 200 m around it."""
    if name:
        collection = collection.filter(ee.Filter.eq(PASS_PROPERTY, name))
    if "instrument_mode" in parameters(m):
        collection = collection.filter(ee.Filter.eq(MODE_PROPERTY, parameters(m)["instrument_mode"]))
    return collection.filterBounds(scene.box).filter(ee.Filter.contains(leftField=".geo", rightValue=scene.box))


def _around(near: ee.ImageCollection, all_years: ee.ImageCollection, scene: Scene) -> ee.List:
    """All scenes of the weeks around, or else the last one before and the first one after.

    Most places are served by the first, which spares the service a search through all years.
    """
    scenes = near.toList(MOST_NEAR)
    before = all_years.filter(ee.Filter.lte("system:time_start", scene.time)).sort("system:time_start", False)
    after = all_years.filter(ee.Filter.gt("system:time_start", scene.time)).sort("system:time_start")
    found = ee.Algorithms.If(scenes.size().gt(0), scenes, before.toList(1).cat(after.toList(1)))
    return ee.List(found).map(_describe)


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
