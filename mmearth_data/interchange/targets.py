"""Target folders of an export: renamed to their final name when complete, and resumed after an interruption."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import is_content_id
from mmearth_data.errors import InputError
from mmearth_data.files.writing import write_text
from mmearth_data.store.storage import storage_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmearth_data.store.reader import Store

IDENTITY = "export.json"


def check_name(name: str) -> str:
    """Return a name if it is valid for a folder.

    Raises
    ------
    InputError
        If it is not.
    """
    if re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name) is None:
        raise InputError(f"--name: expected a name of letters, digits, _, - and ., got {name!r}.")
    return name


def check_located(store: Store) -> None:
    """Refuse a store of images without a georeference, for formats that require the location of each tile.

    Raises
    ------
    InputError
        With the number of tiles without a location.
    """
    coords = store.coords
    nowhere = np.isnan(coords["lon"]) & is_content_id(coords["tile_id"])
    if nowhere.any():
        raise InputError(
            f"{store.path}: expected tiles with a location, got {np.count_nonzero(nowhere):,} of {len(store):,} without; "
            "read the store with xarray or mmearth_data instead."
        )


def check_finished(store: Store) -> None:
    """Refuse a store that is not finished.

    Raises
    ------
    InputError
        With the remedy.
    """
    if not store.finished:
        raise InputError(
            f"{store.path}: expected a finished store, got one that is not; run the command that makes it again."
        )


@contextmanager
def collecting(staging: Path, target: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Hold the staging folder of an export, mark it as that of this export, and remove it at the end.

    Raises
    ------
    InputError
        If it belongs to another export, or another command holds it.
    """
    with storage_at(staging).hold():
        mark = staging / IDENTITY
        if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != dict(identity):
            raise InputError(
                f"{target}: expected no other export in progress, got one of another store; remove {staging}, or choose "
                "another --out."
            )
        write_text(mark, json.dumps(dict(identity)))
        yield
    shutil.rmtree(staging)
