"""Make or continue a store, whatever its rows come from: find it, compare it, create or resume it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.recipe import differences
from mmearth_data.store.objects import objects_at
from mmearth_data.store.reader import Store, open_store
from mmearth_data.store.schema import ROOT_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping


def find_store(out: str | Path) -> Store | None:
    """Open the store at a path, None where there is nothing yet.

    Raises
    ------
    InputError
        When there is something else.
    """
    objects = objects_at(out)
    if not isinstance(objects.root, Path):
        return None if objects.size(ROOT_KEY) is None else open_store(out)
    out = objects.root
    if not out.exists():
        return None
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder for the store, got a file; choose another --out.")
    if not any(out.iterdir()):
        return None
    if not (out / ROOT_KEY).is_file():
        raise InputError(f"{out}: expected a new or empty folder, or an MMEarth store, got a folder of other files.")
    return open_store(out)


def refuse_other(existing: Store, what: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to continue a store that was begun from something else.

    Raises
    ------
    InputError
        With the differences.
    """
    lines = differences({what: dict(stored)}, {what: dict(wanted)})
    if lines:
        raise InputError(
            f"{existing.path}: expected the {what} that this store was begun with, got another one "
            f"(stored -> given): {'; '.join(lines)}. Use the stored values, or another --out."
        )
