"""Describe what a build would do and cost, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_data.building.append import appended_store, plan_append
from mmearth_data.building.prepare import layout_of, planned, read_inputs
from mmearth_data.building.price import describe_needs
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.errors import InputError
from mmearth_data.store.session import refuse_other

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.recipes import BuildRecipe


def preview(
    recipe: BuildRecipe, *, catalog: Catalog | None = None, append: int | None = None, out: str | Path | None = None
) -> dict[str, Any]:
    """Describe what a build would do and cost, JSON-ready; writes nothing, and signs in only if locations depend on it.

    Without an account the plan has no locations, unless ecoregions are given or cached. With ``append``, describes that
    number of additional tiles for the finished store at ``out``.

    Raises
    ------
    InputError
        When any input cannot be used.
    """
    catalog = catalog or load_catalog()
    store = None if append is None else appended_store(str(out), recipe, append)
    if store is not None:
        refuse_other(store.path, store.attributes, recipe=recipe.identity())
    inputs = read_inputs(recipe, catalog, connect=False)
    try:
        if store is None or append is None:
            return planned(recipe, inputs).describe()
        return plan_append(recipe, inputs, store, store.layout.tiles, append).describe()
    except InputError as missing:
        if recipe.source != "earthengine" or not _wants_account(missing):
            raise
        layout = layout_of(recipe, inputs.modalities, recipe.tiles) if store is None else store.layout
        note = f"locations are not known yet: they need ecoregions (--ecoregions FILE, or an account). {missing}"
        account = describe_needs(recipe, inputs.source, layout, append or recipe.tiles)
        return account | {"sample": None, "note": note}


def _wants_account(error: InputError) -> bool:
    """Whether an error is a missing sign-in; its class is imported here because it needs the client of the service."""
    from mmearth_data.sources.earthengine.failures import SignInMissing

    return isinstance(error, SignInMissing)
