"""Notes about a store's builds (requests, bytes, seconds), which are not part of the store's identity."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.files.writing import write_bytes
from mmearth_data.store.schema import LEDGER
from mmearth_data.store.storage import storage_at
from mmearth_data.store.storage.lock import LOCK_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
    objects = storage_at(store)
    data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    if not isinstance(objects.root, Path):
        objects.put(f"{LEDGER}/{run}.json", data)
        return
    # Not through the store's staging folder, which a sealed store no longer has.
    write_bytes(objects.root / LEDGER / f"{run}.json", data)


def read_ledger(store: str | Path) -> dict[str, Any] | None:
    """Sum of the notes of all runs, or None if there are none; unreadable notes are skipped."""
    objects = storage_at(store)
    ledgers = []
    for name in objects.names(LEDGER):
        key = f"{LEDGER}/{name}"
        if not name.endswith(".json") or key == LOCK_KEY:
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
