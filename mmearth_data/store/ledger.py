"""Notes about a store's builds (requests, bytes, seconds), which are not part of the store's identity."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from mmearth_data.store.schema import LEDGER
from mmearth_data.store.storage import storage_at
from mmearth_data.store.storage.lock import LOCK_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

INTENT_KEY = f"{LEDGER}/append.json"
"""Intent of an append, removed when it ends: the same command resumes it wherever it was interrupted."""


def write_ledger(store: str | Path, run: str, content: Mapping[str, Any]) -> None:
    """Write or replace the notes of one run.

    Parameters
    ----------
    store
        Folder or URL of the store.
    run
        Name of the run; a plain file name.
    content
        JSON-ready counts; dictionaries of counts may be nested once.
    """
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    storage_at(store).put(f"{LEDGER}/{run}.json", text.encode())


def read_ledger(store: str | Path) -> dict[str, Any] | None:
    """Sum of the notes of all runs, or None if there are none; unreadable notes are skipped."""
    objects = storage_at(store)
    ledgers = []
    for name in objects.names(LEDGER):
        key = f"{LEDGER}/{name}"
        if not name.endswith(".json") or key in (LOCK_KEY, INTENT_KEY):
            continue
        try:
            content = json.loads(objects.get(key))
        except (OSError, ValueError):  # an unreadable note does no harm
            continue
        if isinstance(content, dict):
            ledgers.append(content)
    return merge_ledgers(ledgers) if ledgers else None


def merge_ledgers(ledgers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum of several ledgers: of runs, or of workers."""
    total: dict[str, Any] = {}
    for ledger in ledgers:
        for key, value in ledger.items():
            if isinstance(value, dict):
                total[key] = dict(Counter(total.get(key, {})) + Counter(value))
            elif isinstance(value, (int, float)):
                total[key] = round(total.get(key, 0) + value, 3)
    return total
