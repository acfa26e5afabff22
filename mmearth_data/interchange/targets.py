"""Folders that an export fills: published completely or not at all, and resumed after an interruption."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.files.writing import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmearth_data.store.reader import Store

IDENTITY = "export.json"


def check_name(name: str) -> str:
    """Return a name that can be a folder's.

    Raises
    ------
    InputError
        When it cannot.
    """
    if re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name) is None:
        raise InputError(f"--name: expected a name of letters, digits, _, - and ., got {name!r}.")
    return name


def check_finished(store: Store) -> None:
    """Refuse a store that is not finished.

    Raises
    ------
    InputError
        With the fix.
    """
    if not store.finished:
        raise InputError(
            f"{store.path}: expected a finished store, got one that is not; run the command that makes it again."
        )


def claim(staging: Path, target: Path, identity: Mapping[str, Any]) -> None:
    """Check that what stands in a staging folder is of the same export, and mark it as such.

    Raises
    ------
    InputError
        When it is of another one.
    """
    mark = staging / IDENTITY
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != dict(identity):
        raise InputError(
            f"{target}: expected no other export to be under way, got one of another store; remove {staging}, or choose another --out."
        )
    write_text(mark, json.dumps(dict(identity)))
