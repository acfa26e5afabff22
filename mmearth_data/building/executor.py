"""Runs the plan: fill, write, commit, shard after shard, and say how far it got."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmearth_data.building.kernel import FilledShard, fill_shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.building.plan import BuildPlan
    from mmearth_data.sources.base import Source
    from mmearth_data.store.writer import StoreWriter


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a build is.

    Attributes
    ----------
    rows_done, rows_total
        Rows of the store that are committed, and all of them.
    filled, rejected
        Tiles delivered and candidates refused by this run.
    resumed
        Rows that an earlier run had committed.
    seconds
        Since this run began.
    """

    rows_done: int
    rows_total: int
    filled: int
    rejected: int
    resumed: int
    seconds: float


def run(
    plan: BuildPlan,
    source: Source,
    writer: StoreWriter,
    *,
    threads: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Fill and commit every pending shard; one shard is written while the next is read.

    At most two shards are in memory, whatever the size of the store.
    """
    start = time.perf_counter()
    done = writer.committed()
    resumed = sum(len(plan.layout.rows(shard)) for shard in done)
    state = Progress(
        rows_done=resumed, rows_total=plan.layout.tiles, filled=0, rejected=0, resumed=resumed, seconds=0.0
    )
    report(state)
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as committer:
        previous: Future[None] | None = None
        for shard_plan in plan.pending(done):
            filled = fill_shard(shard_plan, source, plan.layout, readers)
            if previous is not None:
                previous.result()
            previous = committer.submit(_write, writer, shard_plan.shard, filled)
            state = Progress(
                rows_done=state.rows_done + len(shard_plan.slots),
                rows_total=state.rows_total,
                filled=state.filled + filled.filled,
                rejected=state.rejected + len(filled.rejected),
                resumed=resumed,
                seconds=time.perf_counter() - start,
            )
            report(state)
        if previous is not None:
            previous.result()
    return state


def _write(writer: StoreWriter, shard: int, filled: FilledShard) -> None:
    writer.write_shard(shard, filled.columns, filled.rasters, filled.rejected)
