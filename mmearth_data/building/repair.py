"""Rebuild what is damaged in a store, from the recipe that it carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_data.building.build import build
from mmearth_data.errors import InputError
from mmearth_data.recipes import FILES, make_recipe
from mmearth_data.store.reader import open_store
from mmearth_data.store.repair import reopen
from mmearth_data.store.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mmearth_data.building.executor import Progress
    from mmearth_data.store.verify import VerifyReport


def repair(path: str | Path, *, report: Callable[[Progress], None] | None = None, **files: Any) -> VerifyReport:
    """Rebuild what is damaged in a store, from the recipe that it carries.

    Damaged shards are read again from the source; metadata, 1-D arrays, statistics and tables are written anew
    from the commit records. A sound store is left alone.

    Parameters
    ----------
    path
        The store.
    report
        Called with the progress.
    **files
        Recipe fields that name files (``source="rasters:FILE"``, ``ecoregions``, ``tiles_file``): a store keeps
        their digests only. ``catalog`` where the store was built with one.

    Returns
    -------
    VerifyReport
        Of the store as it is now.

    Raises
    ------
    StoreDamaged
        When the root metadata, and with them the recipe, are damaged.
    InputError
        When the files are not those that the store was built from.
    """
    found = verify(path)
    if not found.problems:
        return found
    reopen(path, found)
    damaged = open_store(path)
    made_by = next((name for name in ("import", "subset", "merge") if name in damaged.recipe), None)
    if made_by is not None:
        raise InputError(
            f"{path}: expected a store that was built from a source, got one made by `mmearth-data {made_by}`. What is "
            "damaged was taken out; the command that made the store puts it back."
        )
    catalog = files.pop("catalog", None)
    kept = {name: value for name, value in damaged.recipe.items() if name not in FILES}
    given = {name: value for name, value in files.items() if value is not None}
    recipe = make_recipe(None, {"source": damaged.source["name"], **kept, **given}).with_given(given)
    build(recipe, path, catalog=catalog, report=report)
    return verify(path)
