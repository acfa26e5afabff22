"""Append tiles to a finished store: decide what to resume, and where new tiles are located."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from mmearth_data.building.plan import plan_sampled
from mmearth_data.building.prepare import PreparedBuild, draw_sample
from mmearth_data.errors import InputError
from mmearth_data.store.ledger import INTENT_KEY
from mmearth_data.store.reader import open_store
from mmearth_data.store.storage import storage_at
from mmearth_data.store.storage.lock import StoreTaken
from mmearth_data.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

    from geopandas import GeoDataFrame

    from mmearth_data.building.prepare import Inputs
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.store.reader import Store
    from mmearth_data.store.storage.protocol import StoreUrl


def appended_store(out: str | Path, recipe: BuildRecipe, append: int) -> Store:
    """Open the store to append to.

    Raises
    ------
    InputError
        When nothing is added, the recipe does not sample its locations, or there is no store.
    """
    if append < 1:
        raise InputError(f"--append: expected at least one tile, got {append}.")
    if recipe.cover:
        raise InputError(
            "--append: expected a recipe that samples locations, got one with --cover; build a store that covers the "
            "other "
            "region, and merge the two."
        )
    given = recipe.source if recipe.source_file is not None else recipe.table
    if given is not None:
        raise InputError(
            f"--append: expected a recipe that samples locations, got one with the locations of {given}; build a store of "
            "the other locations, and merge the two."
        )
    return open_store(out)


def is_begun(store: Store, append: int) -> bool:
    """Whether this append of ``append`` tiles to a store, locked by this process, must be resumed.

    Raises
    ------
    InputError
        When another operation has to be finished first.
    """
    if store.finished:
        return False
    writer = StoreWriter.resume(store.path)
    appended = writer.stages[-1] - writer.first_row if writer.stage else None
    missing = writer.layout.shards - len(writer.committed())
    intent = intended(store.path)
    if not missing and intent is not None and intent[0] == writer.stages[-1]:  # the store does not record it yet
        return False
    if appended == append:
        return True
    if not missing:
        return False
    if appended is None:
        raise InputError(
            f"{store.path}: expected a finished store to append to, got one with {missing} of {writer.layout.shards} "
            "shards missing; run the same command without --append first."
        )
    raise InputError(
        f"{store.path}: expected --append {appended}, which was begun and is not finished, got {append}; "
        f"finish it first, with --append {appended}."
    )


def begin_append(path: str | Path | StoreUrl, append: int) -> StoreWriter:
    """Open a store that this process holds for ``append`` more rows; if only its seal is missing, seal it first.

    The intent remains until `forget_append`.
    """
    writer = StoreWriter.resume(path)
    writer.finish()
    storage_at(path).put(INTENT_KEY, json.dumps({"rows": writer.layout.tiles, "append": append}).encode())
    return StoreWriter.append(path, append)


def intended(path: str | Path | StoreUrl) -> tuple[int, int] | None:
    """Rows of a store before its unfinished append, and rows to append; None if there is no unfinished append."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        intent = json.loads(storage_at(path).get(INTENT_KEY))
        return int(intent["rows"]), int(intent["append"])
    return None


def is_appended(store: Store, append: int) -> bool:
    """Whether an append of ``append`` tiles sealed the store, and was interrupted only afterwards."""
    return store.finished and intended(store.path) == (store.layout.tiles - append, append)


def forget_append(path: str | Path | StoreUrl) -> None:
    """Remove the intent of a completed append, if there is one; from now on, the same command appends again.

    If another command holds the store by now, it has found the intent and removes it itself.
    """
    if intended(path) is not None:
        objects = storage_at(path)
        with suppress(StoreTaken), objects.hold():
            objects.delete(INTENT_KEY)


def existing_tiles(store: Store, rows: int) -> GeoDataFrame:
    """Tiles in the first rows of a store: ``lon``, ``lat`` and ``split``, in order."""
    import geopandas as gpd

    kept = store.rows[store.rows < rows]
    return gpd.GeoDataFrame({name: store.content.column(name)[kept] for name in ("lon", "lat", "split")})


def plan_append(recipe: BuildRecipe, inputs: Inputs, store: Store, first_row: int, more: int) -> PreparedBuild:
    """Plan ``more`` rows after the first ``first_row`` of a store, in areas without a tile."""
    layout = dataclasses.replace(store.layout, tiles=first_row + more)
    if layout.modalities != inputs.modalities:
        names = {m.name for m in set(layout.modalities) ^ set(inputs.modalities)}
        raise InputError(
            f"{store.path}: expected the catalog entries that it was built with, got others for "
            f"{', '.join(sorted(names)) or 'their order'}; give the same --catalog."
        )
    wanted = recipe.model_copy(update={"tiles": more})
    chosen = draw_sample(wanted, inputs.ecoregions_to_sample(), existing=existing_tiles(store, first_row))
    plan = plan_sampled(chosen.frame, layout, first_row)
    return PreparedBuild(recipe=recipe, source=inputs.source, plan=plan, sample=chosen)
