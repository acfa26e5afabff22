"""Rebuild the damaged parts of a store from its recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.build_fields import BuildFields
from mmearth_data.building.build import inputs_of_store, rebuild
from mmearth_data.errors import InputError, StoreDamaged
from mmearth_data.fields import fields_of
from mmearth_data.recipes import FILES, SERVICE, SOURCE_FORMS, file_digest, make_recipe
from mmearth_data.sources.opening import with_size
from mmearth_data.store.commits import commit_key
from mmearth_data.store.root import Root, read_root
from mmearth_data.store.schema import COMMITS, MANIFEST_KEY, ROOT_KEY
from mmearth_data.store.session import ignore, session
from mmearth_data.store.storage import storage_at
from mmearth_data.store.verify import refuse_absent, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmearth_data.building.executor import Progress
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.storage.protocol import Storage
    from mmearth_data.store.verify import VerifyReport

WITH_FILE = frozenset(form.partition(":")[0] for form in SOURCE_FORMS if ":" in form)
"""Sources that need a file to describe them."""


def repair(path: str | Path, *, report: Callable[[Progress], None] | None = None, **inputs: Any) -> VerifyReport:
    """Rebuild the damaged parts of a store from its recipe.

    Damaged shards are read from the source again. Metadata, 1-D arrays, statistics and tables are rewritten from the
    commit records. The store is locked during the repair, as during a build. It is not changed if it is undamaged, or
    if it cannot be repaired with the given files.

    Parameters
    ----------
    path
        The store.
    report
        Called with the progress.
    **inputs
        Files that the store was built with, by recipe field (``source="rasters:FILE"``, ``ecoregions``,
        ``tiles_file``, ``polygons``, ``labels_file``), because a store contains only their digests. Also ``catalog``,
        if the store was built with one, and the Earth Engine connection (``ee_project``, ``ee_url``, ``service_account``
        and so on), which is not kept in the store.

    Returns
    -------
    VerifyReport
        Report on the store after the repair.

    Raises
    ------
    StoreDamaged
        If the root metadata, which contain the recipe, are damaged.
    InputError
        If there is no store, if another command holds it, if a file is missing or is not the one that the store was built
        with, or if the store was not built from a source. In the last case, its damaged parts are removed first.
    """
    objects = storage_at(path)
    refuse_absent(objects)
    with session(path) as work:
        work.hold()
        found = verify(path)
        if not found.problems:
            _checked(path, read_root(objects), inputs)  # the inputs are not needed, but wrong ones are reported
            return found
        root = _root_of(objects, found)
        _refuse_made_otherwise(path, root, found)
        catalog = inputs.get("catalog")
        recipe = with_size(_recipe_of(path, root, inputs), catalog)
        opened = inputs_of_store(path, root.attributes, recipe, catalog)
        reopen(path, found)
        rebuild(work, recipe, opened, report or ignore)
    return verify(path)


def damaged_shards(layout: StoreLayout, report: VerifyReport) -> tuple[int, ...]:
    """Shards whose pixels or commit records are damaged; everything else can be rewritten from the commit records."""
    rasters = "|".join(re.escape(m.name) for m in layout.rasters)
    pattern = re.compile(rf"{COMMITS}/(\d+)\.parquet|(?:{rasters})/c/(\d+)(?:/0)*")
    found = (pattern.fullmatch(problem.part) for problem in report.problems)
    return tuple(sorted({int(match[1] or match[2]) for match in found if match}))


def reopen(path: str | Path, report: VerifyReport) -> tuple[int, ...]:
    """Turn a damaged store into an unfinished one: remove its manifest and the commit records of damaged shards.

    Returns the damaged shards. Raises StoreDamaged if the root metadata, which contain the recipe, are damaged.
    """
    objects = storage_at(path)
    shards = damaged_shards(_root_of(objects, report).layout, report)
    # Remove the records first: if this is interrupted, `verify` still reports the store as damaged.
    for shard in shards:
        objects.delete(commit_key(shard))
    objects.delete(MANIFEST_KEY)
    return shards


def _root_of(objects: Storage, report: VerifyReport) -> Root:
    """Read the root metadata; raise StoreDamaged if they are damaged."""
    for problem in report.problems:
        if problem.part == ROOT_KEY:
            raise StoreDamaged(
                objects.root, ROOT_KEY, f"{problem.problem}, and it contains the recipe: restore the file from a backup"
            )
    return read_root(objects)


def _refuse_made_otherwise(path: str | Path, root: Root, report: VerifyReport) -> None:
    """Refuse a store that was not built from a source; first remove its damaged parts, so that its command restores them."""
    made_by = next((name for name in ("import", "subset", "merge") if name in root.attributes["recipe"]), None)
    if made_by is not None:
        reopen(path, report)
        raise InputError(
            f"{path}: expected a store that was built from a source, got one made by `mmearth-data {made_by}`. The "
            "damaged parts were removed; to restore them, run that command again."
        )


def _recipe_of(path: str | Path, root: Root, inputs: Mapping[str, Any]) -> BuildRecipe:
    """Recipe of a store, completed with the inputs that the store does not contain."""
    stored, source = root.attributes["recipe"], root.attributes["source"]["name"]
    given = _checked(path, root, inputs)
    if source in WITH_FILE and "source" not in given:
        raise _missing(path, "source", f"--source {source}:FILE.yaml")
    for name in (name for name in FILES if stored.get(name) is not None and name not in given):
        raise _missing(path, name.replace("_", " "), f"{_flag(name)} FILE")
    kept = {name: value for name, value in stored.items() if name not in FILES}
    return make_recipe(None, {"source": source, **kept, **given}).with_given(given)


def _checked(path: str | Path, root: Root, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that were given; InputError for one that cannot be read or does not belong to the store."""
    given = {name: value for name, value in inputs.items() if name != "catalog" and value is not None}
    source = root.attributes["source"]["name"]
    if source != "earthengine":
        _refuse_connection(path, source, given)
    _refuse_bad(path, root.attributes["recipe"], given)
    return given


def _refuse_connection(path: str | Path, source: str, given: Mapping[str, Any]) -> None:
    """Refuse connection options if the source of the store does not use the service."""
    for name in sorted(given.keys() & SERVICE):
        raise InputError(
            f"{path}: expected no {_flag(name)}, since the store was built from the source {source}, which does "
            "not use Earth Engine; leave it out."
        )


def _refuse_bad(path: str | Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse files that cannot be read, files that the store was built without, and a source that does not exist."""
    for name in sorted(given.keys() - {"source"} - SERVICE):
        if stored.get("labels" if name == "labels_file" else name) is None:
            raise InputError(
                f"{path}: expected only files that the store was built with, got {_flag(name)}; leave it out."
            )
        file_digest(Path(given[name]))
    if "source" in given:
        make_recipe(None, {"source": given["source"]})


def _flag(name: str) -> str:
    """Command-line option of a recipe field."""
    return fields_of(BuildFields)[name].flag


def _missing(path: str | Path, what: str, option: str) -> InputError:
    """Error for a file that the repair needs."""
    return InputError(
        f"{path}: expected every file that the store was built with, got none for {what}; add {option} and repair again."
    )
