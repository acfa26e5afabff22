"""Remove damaged parts from a store, so that a build can restore them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmearth_data.errors import StoreDamaged
from mmearth_data.store.commits import commit_key
from mmearth_data.store.root import read_root
from mmearth_data.store.schema import COMMITS, MANIFEST_KEY, ROOT_KEY
from mmearth_data.store.storage import storage_at

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.verify import VerifyReport


def damaged_shards(layout: StoreLayout, report: VerifyReport) -> tuple[int, ...]:
    """Shards whose pixels or records are damaged; everything else is restored from the records."""
    rasters = "|".join(re.escape(m.name) for m in layout.rasters)
    pattern = re.compile(rf"{COMMITS}/(\d+)\.parquet|(?:{rasters})/c/(\d+)(?:/0)*")
    found = (pattern.fullmatch(problem.part) for problem in report.problems)
    return tuple(sorted({int(match[1] or match[2]) for match in found if match}))


def reopen(path: str | Path, report: VerifyReport) -> tuple[int, ...]:
    """Turn a damaged store into an unfinished one, without its seal and the records of its damaged shards.

    Parameters
    ----------
    path
        The store.
    report
        Result of `verify`.

    Returns
    -------
    tuple of int
        Shards to read again.

    Raises
    ------
    StoreDamaged
        If the root metadata are damaged, because the recipe is then lost.
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
