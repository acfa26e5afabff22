"""Append tiles to a finished store: which append comes next, and which locations are free."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from mmearth_data.building.plan import plan_sampled
from mmearth_data.building.prepare import PreparedBuild, draw_sample
from mmearth_data.errors import InputError
from mmearth_data.store.objects import objects_at
from mmearth_data.store.reader import open_store
from mmearth_data.store.schema import LEDGER
from mmearth_data.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geopandas import GeoDataFrame

    from mmearth_data.building.prepare import Inputs
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.store.objects import StoreUrl
    from mmearth_data.store.reader import Store

INTENT_KEY = f"{LEDGER}/append.json"
"""What an append is about to do: read where it was cut off before the store itself says so."""


def refuse_append(recipe: BuildRecipe, append: int) -> None:
    """Refuse an append that no recipe can say the places of.

    Raises
    ------
    InputError
        When there is nothing to add, or places came from a file.
    """
    if append < 1:
        raise InputError(f"--append: expected at least one tile, got {append}.")
    given = recipe.source if recipe.source_file is not None else recipe.tiles_file
    if given is not None:
        raise InputError(
            f"--append: expected a recipe that samples places, got one whose places come from {given}; "
            "build a store of the other places, and merge the two."
        )


def appended_store(out: str | Path, recipe: BuildRecipe, append: int) -> Store:
    """Open the store to append to; raises like `refuse_append` and `open_store`."""
    refuse_append(recipe, append)
    return open_store(out)


def is_begun(store: Store, append: int) -> bool:
    """Whether this very append was begun already and is to be continued; False where it is yet to begin.

    Parameters
    ----------
    store
        The store, which nobody else is building.
    append
        Tiles to add.

    Raises
    ------
    InputError
        When something else has to be finished first.
    """
    if store.finished:
        return False
    writer = StoreWriter.resume(store.path)
    appended = writer.stages[-1] - writer.first_row if writer.stage else None
    missing = writer.layout.shards - len(writer.committed())
    if not missing and _intends(store.path, writer.stages[-1]):
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
    """Open a store for more rows; where it lacks nothing but its seal, it is sealed first.

    Parameters
    ----------
    path
        The store, which nobody else is building.
    append
        Tiles to add.
    """
    writer = StoreWriter.resume(path)
    writer.finish()
    objects = objects_at(path)
    objects.put(INTENT_KEY, json.dumps({"rows": writer.layout.tiles, "append": append}).encode())
    writer = StoreWriter.append(path, append)
    objects.delete(INTENT_KEY)
    return writer


def _intends(path: str | Path | StoreUrl, rows: int) -> bool:
    """Whether an append to a store of so many rows was cut off before the store itself said so."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return bool(json.loads(objects_at(path).get(INTENT_KEY))["rows"] == rows)
    return False


def unfinished_stages(writer: StoreWriter) -> Iterator[StoreWriter]:
    """Writers of the build and of each append, in order, as far as shards of theirs are missing.

    A later one is looked at when the one before is done: its places depend on the tiles that stand by then.
    """
    for stage in range(len(writer.stages)):
        at = writer.at(stage)
        if len(at.committed()) < at.layout.shards:
            yield at


def standing_tiles(store: Store, rows: int) -> GeoDataFrame:
    """Tiles in the first rows of a store: ``lon``, ``lat`` and ``split``, in order."""
    import geopandas as gpd

    content = store.content
    kept = store.rows[store.rows < rows]
    return gpd.GeoDataFrame({name: content.column(name)[kept] for name in ("lon", "lat", "split")})


def plan_append(recipe: BuildRecipe, inputs: Inputs, store: Store, first_row: int, more: int) -> PreparedBuild:
    """Plan rows after the existing ones of a store, in areas that those leave free."""
    layout = dataclasses.replace(store.layout, tiles=first_row + more)
    if layout.modalities != inputs.modalities:
        names = {m.name for m in set(layout.modalities) ^ set(inputs.modalities)}
        raise InputError(
            f"{store.path}: expected the catalog entries that it was built with, got others for "
            f"{', '.join(sorted(names)) or 'their order'}; give the same --catalog."
        )
    existing = standing_tiles(store, first_row)
    drawn = draw_sample(recipe.model_copy(update={"tiles": more}), inputs.ecoregions_to_sample(), existing=existing)
    plan = plan_sampled(drawn.frame, layout, first_row)
    return PreparedBuild(recipe=recipe, source=inputs.source, plan=plan, sample=drawn)
