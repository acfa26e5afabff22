"""Procedures that obtain a modality from Earth Engine, under the names that the catalog uses.

Each has up to three parts: what the survey requests (`RecipeKind.survey`), what a tile needs after it
(`RecipeKind.ask`), and the image that delivers it (`RecipeKind.image`).
"""

from __future__ import annotations

from mmearth_data.sources.earthengine.recipes import base_scene, collections, monthly, nearest, static
from mmearth_data.sources.earthengine.recipes.kinds import Ask, Found, RecipeKind, Scene

RECIPES: dict[str, RecipeKind] = {
    "base-scene": RecipeKind(ask=base_scene.ask, image=base_scene.image),
    "nearest-in-time": RecipeKind(survey=nearest.survey, search=nearest.search, ask=nearest.ask, image=nearest.image),
    "static-image": RecipeKind(ask=static.ask, image=static.image, asset_type="IMAGE", asset_bands=static.asset_bands),
    "mosaic": RecipeKind(survey=collections.survey_mosaic, ask=collections.ask_mosaic, image=collections.mosaic),
    "mode-of-year": RecipeKind(ask=collections.ask_mode, image=collections.mode, cost=collections.SCENES_OF_A_YEAR),
    "monthly-statistics": RecipeKind(survey=monthly.survey, values=monthly.values),
}

__all__ = ["RECIPES", "Ask", "Found", "RecipeKind", "Scene"]
