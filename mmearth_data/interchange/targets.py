"""Target folders of an export: renamed to their final name when complete, and resumed after an interruption."""

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
    """Return a name if it is valid for a folder.

    Raises
    ------
    InputError
        If it is not.
    """
    if re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name) is None:
        raise InputError(f"--name: expected a name of letters, digits, _, - and ., got {name!r}.")
    return name


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


def claim(staging: Path, target: Path, identity: Mapping[str, Any]) -> None:
    """Check that a staging folder belongs to the same export, and mark it as such.

    Raises
    ------
    InputError
        If it belongs to another one.
    """
    mark = staging / IDENTITY
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != dict(identity):
        raise InputError(
            f"{target}: expected no other export in progress, got one of another store; remove {staging}, or choose another --out."
        )
    write_text(mark, json.dumps(dict(identity)))
