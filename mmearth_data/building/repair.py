"""Rebuild the damaged parts of a store from its recipe."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mmearth_data.building.build import rebuild
from mmearth_data.errors import InputError, StoreDamaged
from mmearth_data.recipes import FILES, SOURCE_FORMS, make_recipe
from mmearth_data.store.commits import commit_key
from mmearth_data.store.reader import open_store
from mmearth_data.store.root import read_root
from mmearth_data.store.schema import COMMITS, MANIFEST_KEY, ROOT_KEY
from mmearth_data.store.session import ignore, session
from mmearth_data.store.storage import storage_at
from mmearth_data.store.verify import refuse_absent, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmearth_data.building.executor import Progress
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.store.reader import Store
    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.verify import VerifyReport

WITH_FILE = frozenset(form.partition(":")[0] for form in SOURCE_FORMS if ":" in form)
"""Sources that are described by a file."""


def repair(path: str | Path, *, report: Callable[[Progress], None] | None = None, **files: Any) -> VerifyReport:
    """Rebuild the damaged parts of a store from its recipe.

    Damaged shards are read again from the source; metadata, 1-D arrays, statistics and tables are rewritten from the
    commit records. The store is held meanwhile, as by a build. A store without damage is not changed.

    Parameters
    ----------
    path
        The store.
    report
        Called with the progress.
    **files
        Recipe fields that name files (``source="rasters:FILE"``, ``ecoregions``, ``tiles_file``, ``polygons``, ``labels_file``), of which a store has
        only the digests; ``catalog`` if the store was built with one.

    Returns
    -------
    VerifyReport
        Of the repaired store.

    Raises
    ------
    StoreDamaged
        When the root metadata, and with them the recipe, are damaged.
    InputError
        When there is no store, the files are not those that it was built from, or another command holds it.
    """
    refuse_absent(storage_at(path))
    with session(path) as work:
        work.hold()
        found = verify(path)
        if not found.problems:
            return found
        reopen(path, found)
        damaged = open_store(path)
        recipe = _recipe_of(damaged, files)
        rebuild(work, damaged, recipe, files.get("catalog"), report or ignore)
    return verify(path)


def damaged_shards(layout: StoreLayout, report: VerifyReport) -> tuple[int, ...]:
    """Shards with damaged pixels or records; everything else can be restored from the records."""
    rasters = "|".join(re.escape(m.name) for m in layout.rasters)
    pattern = re.compile(rf"{COMMITS}/(\d+)\.parquet|(?:{rasters})/c/(\d+)(?:/0)*")
    found = (pattern.fullmatch(problem.part) for problem in report.problems)
    return tuple(sorted({int(match[1] or match[2]) for match in found if match}))


def reopen(path: str | Path, report: VerifyReport) -> tuple[int, ...]:
    """Turn a damaged store into an unfinished one, without its seal and the records of its damaged shards.

    Returns these shards. Raises StoreDamaged if the root metadata, and with them the recipe, are damaged.
    """
    objects = storage_at(path)
    for problem in report.problems:
        if problem.part == ROOT_KEY:
            raise StoreDamaged(
                objects.root, ROOT_KEY, f"{problem.problem}, and it contains the recipe: restore the file from a backup"
            )
    shards = damaged_shards(read_root(objects).layout, report)
    # The records are removed first: if this is interrupted, `verify` still finds the store damaged.
    for shard in shards:
        objects.delete(commit_key(shard))
    objects.delete(MANIFEST_KEY)
    return shards


def _recipe_of(store: Store, files: Mapping[str, Any]) -> BuildRecipe:
    """Recipe in a store, with the files that it was built from."""
    made_by = next((name for name in ("import", "subset", "merge") if name in store.recipe), None)
    if made_by is not None:
        raise InputError(
            f"{store.path}: expected a store that was built from a source, got one made by `mmearth-data {made_by}`. The "
            "damaged parts were removed; run the command that made the store again to restore them."
        )
    kept = {name: value for name, value in store.recipe.items() if name not in FILES}
    given = {name: value for name, value in files.items() if name != "catalog" and value is not None}
    for name in (name for name in FILES if store.recipe.get(name) is not None and name not in given):
        raise InputError(
            f"{store.path}: expected the file of {name} that the store was built with, got none; the damaged parts were "
            f"removed, so add it and repair again: --{name.replace('_', '-')} FILE."
        )
    if store.source["name"] in WITH_FILE and "source" not in given:
        raise InputError(
            f"{store.path}: expected the file of the source that the store was built with, got none; the damaged parts were "
            f"removed, so add it and repair again: --source {store.source['name']}:FILE.yaml."
        )
    return make_recipe(None, {"source": store.source["name"], **kept, **given}).with_given(given)
