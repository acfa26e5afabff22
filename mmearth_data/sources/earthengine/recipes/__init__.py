"""Procedures that obtain a modality from Earth Engine, under the names that the catalog uses.

Each has up to three parts: what the survey requests (`RecipeKind.survey`), what a tile needs after it
(`RecipeKind.ask`), and the image that delivers it (`RecipeKind.image`).
"""

from __future__ import annotations

from mmearth_data.sources.earthengine.recipes import images, monthly, nearest
from mmearth_data.sources.earthengine.recipes.kinds import Ask, Found, RecipeKind, Scene

RECIPES: dict[str, RecipeKind] = {
    "base-scene": RecipeKind(ask=images.ask_scene, image=images.scene),
    "nearest-in-time": RecipeKind(survey=nearest.survey, search=nearest.search, ask=nearest.ask, image=nearest.image),
    "static-image": RecipeKind(
        ask=images.ask_static, image=images.static, asset_type="IMAGE", asset_bands=images.static_bands
    ),
    "mosaic": RecipeKind(survey=images.survey_mosaic, ask=images.ask_mosaic, image=images.mosaic),
    "mode-of-year": RecipeKind(ask=images.ask_mode, image=images.mode, cost=images.SCENES_OF_A_YEAR),
    "monthly-statistics": RecipeKind(survey=monthly.survey, values=monthly.values),
}

__all__ = ["RECIPES", "Ask", "Found", "RecipeKind", "Scene"]
