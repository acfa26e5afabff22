"""Which modalities a recipe asks of a source, from which assets, over which months."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mmearth_data.catalog.entries import Catalog
from mmearth_data.catalog.modality import Kind
from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source

BASE_SCENE = "base-scene"
"""Recipe of the modality whose scene gives a tile its grid and date, so that it is read even when it is not stored."""


def wanted_modalities(catalog: Catalog, recipe: BuildRecipe) -> tuple[Modality, ...]:
    """Modalities that were asked for; a raster mapping asks for all that it has, also those switched off by default."""
    if recipe.modalities is None and recipe.source_file is not None:
        return tuple(catalog.modalities.values())
    return catalog.select(recipe.modalities)


def adjusted_catalog(catalog: Catalog, recipe: BuildRecipe) -> Catalog:
    """Catalog with the assets and the window of monthly statistics that a recipe names.

    Raises
    ------
    InputError
        When the recipe names an asset that no modality of the build is read from.
    """
    return _with_assets(_with_window(catalog, recipe), recipe)


def _with_assets(catalog: Catalog, recipe: BuildRecipe) -> Catalog:
    """Return a catalog with the assets named by the recipe; an asset shared by several entries changes in all of them.

    Raises
    ------
    InputError
        When a modality is unknown, has no such asset, or has several and the recipe does not say which.
    """
    named = {_asset_of(catalog, name): asset for name, asset in recipe.assets.items()}
    _check_assets_used(catalog, recipe, named)
    moved = {catalog.modalities[name].asset[key]: asset for (name, key), asset in named.items()}

    def changed(m: Modality) -> Modality:
        assets = {key: named.get((m.name, key), moved.get(old, old)) for key, old in m.asset.items()}
        return m if assets == m.asset else dataclasses.replace(m, asset=assets)

    return Catalog({name: changed(m) for name, m in catalog.modalities.items()})


def _check_assets_used(catalog: Catalog, recipe: BuildRecipe, named: Mapping[tuple[str, str], str]) -> None:
    """Refuse another asset for a modality that the build does not read.

    Raises
    ------
    InputError
        When neither the modality nor one that shares its asset is wanted, nor is it the one whose scene every tile takes.
    """
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


def _with_window(catalog: Catalog, recipe: BuildRecipe) -> Catalog:
    """Catalog in which the longest window of monthly statistics has as many months as the recipe says."""

    def changed(m: Modality) -> Modality:
        windows = (m.recipe.get("parameters") or {}).get("windows")
        if not windows or recipe.era5_window == 12:
            return m
        longest = min(windows, key=lambda name: windows[name][0] - windows[name][1])
        first = windows[longest][1] - recipe.era5_window + 1
        parameters = {**m.recipe["parameters"], "windows": {**windows, longest: [first, windows[longest][1]]}}
        return dataclasses.replace(m, recipe={**m.recipe, "parameters": parameters})

    return Catalog({name: changed(m) for name, m in catalog.modalities.items()})


def deliverable(source: Source, wanted: tuple[Modality, ...], recipe: BuildRecipe) -> tuple[Modality, ...]:
    """Modalities that the store will have: what the source delivers, derived ones, and labels of locations."""
    labels = {m.name for m in wanted if m.kind is Kind.TILE_CATEGORICAL} if _labelled(recipe) else set()
    pixels = {m.name for m in source.modalities([m for m in wanted if m.stored])}
    kept = tuple(m for m in wanted if m.name in pixels | labels or not m.stored)
    missing = [m.name for m in wanted if m not in kept]
    if recipe.modalities is not None and missing:
        raise InputError(
            f"--modalities: expected modalities that the source {recipe.source} delivers, got {', '.join(missing)}; "
            f"it has {', '.join(m.name for m in kept)}."
        )
    if not any(m.kind.is_raster for m in kept):
        raise InputError(f"Expected at least one raster modality, got {', '.join(m.name for m in kept) or 'none'}.")
    return kept


def _labelled(recipe: BuildRecipe) -> bool:
    """Whether the locations of this build have a biome and ecoregion."""
    return recipe.source_file is None or recipe.ecoregions is not None
