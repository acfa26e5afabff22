"""Modalities that a recipe requests from a source, their assets, and the period of monthly statistics."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mmearth_data.catalog.entries import Catalog
from mmearth_data.catalog.modality import Kind
from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source

BASE_SCENE = "base-scene"
"""Recipe of the modality whose scene gives a tile its grid and date; it is read even if it is not stored."""

USUAL_WINDOW = 12
"""Months for which the catalog's periods of monthly statistics are left unchanged."""


def wanted_modalities(catalog: Catalog, recipe: BuildRecipe) -> tuple[Modality, ...]:
    """Modalities that a recipe lists; without a list, the enabled ones, or all of a raster mapping."""
    if recipe.modalities is None and recipe.source_file is not None:
        return tuple(catalog.modalities.values())
    return catalog.select(recipe.modalities)


def adjusted_catalog(catalog: Catalog, recipe: BuildRecipe) -> Catalog:
    """Catalog with the assets and the period of monthly statistics that a recipe sets.

    An asset that several entries share changes in all of them. Raises InputError if a modality is unknown, has no such
    asset, has several and the recipe does not say which, or is not read by the build.
    """
    named = {_asset_of(catalog, name): asset for name, asset in recipe.assets.items()}
    _check_assets_used(catalog, recipe, named)
    moved = {catalog.modalities[name].asset[key]: asset for (name, key), asset in named.items()}

    def changed(m: Modality) -> Modality:
        assets = {key: named.get((m.name, key), moved.get(old, old)) for key, old in m.asset.items()}
        return dataclasses.replace(m, asset=assets, recipe=_with_window(m, recipe.era5_window))

    return Catalog({name: changed(m) for name, m in catalog.modalities.items()})


def _check_assets_used(catalog: Catalog, recipe: BuildRecipe, named: Mapping[tuple[str, str], str]) -> None:
    """Refuse an asset that is neither of a requested modality nor of the one whose scene gives every tile its grid."""
    if not named:
        return
    used = {m.name: m for m in catalog.select(recipe.modalities)}
    used |= {name: m for name, m in catalog.modalities.items() if m.recipe.get("name") == BASE_SCENE}
    read = {asset for m in used.values() for asset in m.asset.values()}
    for name, key in named:
        if catalog.modalities[name].asset[key] not in read:
            raise InputError(
                f"assets (--asset): expected a modality that this build reads ({', '.join(sorted(used))}), got {name}; "
                "add it to --modalities, or leave its --asset out."
            )


def _asset_of(catalog: Catalog, text: str) -> tuple[str, str]:
    """Split ``MODALITY`` or ``MODALITY.KEY``, as given in the recipe field ``assets``, into modality and key."""
    name, dot, key = text.partition(".")
    m = catalog.find(name)
    if not m.asset:
        raise InputError(
            f"assets (--asset): expected a modality that is read from an asset, got {name}, which is derived."
        )
    if not dot and len(m.asset) == 1:
        return name, next(iter(m.asset))
    if key not in m.asset:
        forms = " or ".join(f"{name}.{k}=ID" for k in m.asset)
        raise InputError(f"assets (--asset): expected {forms}, got {text!r}.")
    return name, key


def _with_window(m: Modality, months: int) -> Mapping[str, Any]:
    """Recipe of a modality with the length of its longest period of monthly statistics changed to ``months``."""
    windows = (m.recipe.get("parameters") or {}).get("windows")
    if not windows or months == USUAL_WINDOW:
        return m.recipe
    longest = min(windows, key=lambda name: windows[name][0] - windows[name][1])
    last = windows[longest][1]
    return {
        **m.recipe,
        "parameters": {**m.recipe["parameters"], "windows": {**windows, longest: [last - months + 1, last]}},
    }


def deliverable(source: Source, wanted: tuple[Modality, ...], recipe: BuildRecipe) -> tuple[Modality, ...]:
    """Modalities that the store will have: what the source delivers, derived ones, and labels of locations.

    Raises InputError if the recipe lists one that is not available, or none of them is a raster.
    """
    labels = {m.name for m in wanted if m.kind is Kind.TILE_CATEGORICAL} if _labelled(recipe) else set()
    pixels = {m.name for m in source.modalities([m for m in wanted if m.stored])}
    kept = tuple(
        m for m in wanted if m.name in pixels | labels or (not m.stored and set(m.derived_from) <= source.coordinates)
    )
    missing = [m.name for m in wanted if m not in kept]
    if recipe.modalities is not None and missing:
        raise InputError(
            f"--modalities: expected modalities that the source {recipe.source} delivers, got {', '.join(missing)}; "
            + (f"it has {', '.join(m.name for m in kept)}." if kept else "leave it out.")
        )
    if not any(m.kind.is_raster for m in kept):
        names = ", ".join(m.name for m in kept) or "none"
        raise InputError(f"Expected at least one raster modality, got {names}; add one to --modalities.")
    return kept


def _labelled(recipe: BuildRecipe) -> bool:
    """Whether the locations of this build have a biome and an ecoregion."""
    return recipe.source_file is None or recipe.ecoregions is not None
