"""``nearest-in-time``: the scene of another collection that is closest in time to the base scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ee

from mmearth_data.sources.earthengine.expressions import band_names, holds, hole, interpolated, stored, touches
from mmearth_data.sources.earthengine.recipes.kinds import Ask, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.sources.earthengine.recipes.kinds import Found, Scene

NEAR_DAYS, MOST_NEAR = 16, 200
"""Days before and after the base scene: the longest repeat cycle of a single Sentinel-1 or Landsat satellite. The
window is symmetric, so if it has any scene, it has the closest one.
"""
DAY_MS = 86_400_000
PASS_PROPERTY, MODE_PROPERTY = "orbitProperties_pass", "instrumentMode"


def groups(m: Modality) -> Mapping[str, list[str]]:
    """Orbit pass -> bands, or "" -> all bands if passes do not matter."""
    passes: Mapping[str, list[str]] = parameters(m).get("passes") or {"": list(m.bands)}
    return passes


def survey(m: Modality, scene: Scene) -> dict[str, Any]:
    """Scenes of each pass within a few weeks of the base scene: lists, possibly empty.

    They suffice for most locations, so that all years need not be searched.
    """
    near = _collection(m).filterDate(*scene.years)
    near = near.filterDate(scene.time.subtract(NEAR_DAYS * DAY_MS), scene.time.add(NEAR_DAYS * DAY_MS + 1))
    return {name: _own(near, m, name, scene).toList(MOST_NEAR).map(_describe) for name in groups(m)}


def search(m: Modality, scene: Scene, windows: ee.Dictionary | None) -> dict[str, Any]:
    """Last scene of each pass before the base scene and first one after it: lists of zero to two scenes.

    ``windows`` is pass -> [start, end) to search; None searches all years for each pass.
    """
    return {name: _around(m, name, scene, windows).map(_describe) for name in groups(m)}


def _around(m: Modality, name: str, scene: Scene, windows: ee.Dictionary | None) -> ee.List:
    start, end = scene.years if windows is None else _window(windows, name)
    scenes = _own(_collection(m).filterDate(start, end), m, name, scene)
    before = scenes.filter(ee.Filter.lte("system:time_start", scene.time)).sort("system:time_start", False)
    after = scenes.filter(ee.Filter.gt("system:time_start", scene.time)).sort("system:time_start")
    return before.toList(1).cat(after.toList(1))


def _window(windows: ee.Dictionary, name: str) -> tuple[ee.ComputedObject, ee.ComputedObject]:
    window = ee.List(windows.get(name))
    return window.get(0), window.get(1)


def _collection(m: Modality) -> ee.ImageCollection:
    return ee.ImageCollection(next(iter(m.asset.values())))


def _own(collection: ee.ImageCollection, m: Modality, name: str, scene: Scene) -> ee.ImageCollection:
    """Images of a pass and mode that contain the tile and 200 m around it."""
    if name:
        collection = collection.filter(ee.Filter.eq(PASS_PROPERTY, name))
    if "instrument_mode" in parameters(m):
        collection = collection.filter(ee.Filter.eq(MODE_PROPERTY, parameters(m)["instrument_mode"]))
    return collection.filter(touches(scene.box)).filter(holds(scene.box))


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
    """Scene of each pass that is closest in time, the earlier one of a tie; passes without a scene are left out."""
    return {
        name: min(scenes, key=lambda scene: (abs(scene["time"] - time_ms), scene["time"]))
        for name, scenes in answer.items()
        if scenes
    }


def ask(m: Modality, found: Found) -> Ask | None:
    """Bands of the scene of each pass: not all scenes have the same polarisations."""
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
