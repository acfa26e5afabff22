"""The store that a run or a checkpoint learned from, as recorded, and where it is now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data import InputError, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data import Store


def where_store_is(store: Store, folder: Path) -> dict[str, str]:
    """Record where a store is: its URL, or its folder, absolutely and relative to a run's folder."""
    if not isinstance(store.path, Path):
        return {"path": str(store.path)}
    try:
        relative = Path(os.path.relpath(store.path, folder))
    except ValueError:  # another drive of Windows
        return {"path": str(store.path)}
    return {"path": str(store.path), "relative": relative.as_posix()}


def describe_store(store: Store, folder: Path) -> dict[str, Any]:
    """Record of the store that a run or a network in a folder is trained on."""
    return {**where_store_is(store, folder), "digest": store.digest, "synthetic": store.synthetic, "tiles": len(store)}


def find_store(record: Mapping[str, Any], folder: Path) -> Store:
    """Open the store that a run recorded, where it was or where it is now, relative to the run's folder.

    ``record`` is that of `where_store_is`; with a ``digest``, the store that has it is preferred. Raises `InputError`
    when there is no store at either location.
    """
    paths = [str(record["path"])]
    if "relative" in record:
        paths.append(os.path.normpath(folder / record["relative"]))
    paths = list(dict.fromkeys(paths))
    found: list[Store] = []
    for path in paths:
        try:
            found.append(open_store(path))
        except InputError:
            continue
    if not found:
        raise InputError(
            f"{folder}: expected the store that it was trained on at {' or '.join(paths)}, got none; give --store STORE."
        )
    return next((store for store in found if store.digest == record.get("digest")), found[0])
