"""``monthly-statistics``: the months around the scene's, reduced over time, then averaged over the tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ee
import numpy as np

from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.sources.earthengine.expressions import never_empty
from mmearth_data.sources.earthengine.recipes.kinds import parameters

if TYPE_CHECKING:
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.sources.earthengine.recipes.kinds import Scene

PLAIN_OF_ONE = frozenset({"mean", "median", "mode", "min", "max", "sum", "product"})
"""Reducers that leave a single month unchanged, so that the service need not compute it."""


def survey(m: Modality, scene: Scene) -> ee.Dictionary:
    """Band -> mean over the tile's pixels that are not masked; null where all are."""
    date = ee.Date(scene.time)
    month = ee.Date.fromYMD(date.get("year"), date.get("month"), 1)
    images = [_window(m, name, months, month) for name, months in parameters(m)["windows"].items()]
    return ee.Image.cat(images).reduceRegion(
        reducer=ee.Reducer.mean(), geometry=scene.tile, crs=scene.crs, scale=PIXEL_M
    )


def _window(m: Modality, name: str, months: list[int], month: ee.Date) -> ee.Image:
    """Reduce the months of a window; masked unless all of them exist."""
    first, last = months
    bands = [band for band in m.bands if band.startswith(f"{name}_")]
    names = [m.asset_bands[band] for band in bands]
    collection = ee.ImageCollection(next(iter(m.asset.values()))).filterDate(
        month.advance(first, "month"), month.advance(last + 1, "month")
    )
    complete = ee.Image.constant(collection.size().eq(last - first + 1))
    filled = never_empty(collection, names, "float64")
    reducers = [parameters(m)["reducers"][band.removeprefix(f"{name}_")] for band in bands]
    if first == last and PLAIN_OF_ONE.issuperset(reducers):
        return filled.mosaic().select(names, bands).updateMask(complete)
    reduced = [
        _reduced(filled, reducer).select([m.asset_bands[band]], [band])
        for band, reducer in zip(bands, reducers, strict=True)
    ]
    return ee.Image.cat(reduced).updateMask(complete)


def _reduced(collection: ee.ImageCollection, reducer: str) -> ee.Image:
    reduced: ee.Image = getattr(collection, reducer)()
    return reduced


def values(m: Modality, answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Shape (band,), stored type; NaN where the service has null."""
    found = [answer.get(band) for band in m.bands]
    return np.array([np.nan if value is None else value for value in found], dtype=m.dtype)
