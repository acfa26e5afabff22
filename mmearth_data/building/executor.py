"""Run a plan: give shards to threads of this process or to a Dask cluster, and report progress."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from mmearth_data.building.worker import SHARDS_AT_ONCE, ShardReport, ShardWorker
from mmearth_data.store.session import ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from mmearth_data.building.cluster import Cluster
    from mmearth_data.building.plan import BuildPlan, ShardPlan
    from mmearth_data.sources.base import Source
    from mmearth_data.store.writer import StoreWriter


TICK_S = 1.0
"""Seconds between progress reports while no shard is finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a build.

    Attributes
    ----------
    rows_done, rows_total
        Rows of the store that are committed, and all of them.
    filled, rejected
        Tiles delivered and candidates rejected by this run.
    resumed
        Rows that were committed before this run, including those of the store that it appends to.
    seconds
        Since this run began.
    accounts
        Worker of a cluster -> requests of its process so far, see `SourceOverNetwork.account`.
    reading
        Tiles of unfinished shards that this process has read, or found rejected; they are committed with their shard.
    """

    rows_done: int
    rows_total: int
    filled: int
    rejected: int
    resumed: int
    seconds: float
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reading: int = 0


def in_rows(report: Callable[[Progress], None] | None) -> Callable[[int, int], None]:
    """Return a function of rows done and all rows that reports `Progress`."""
    start = time.perf_counter()
    resumed: list[int] = []

    def reported(done: int, total: int) -> None:
        resumed.append(done)
        if report is not None:
            report(
                Progress(
                    rows_done=done,
                    rows_total=total,
                    filled=done - resumed[0],
                    rejected=0,
                    resumed=resumed[0],
                    seconds=time.perf_counter() - start,
                )
            )

    return reported


def run(
    plan: BuildPlan,
    source: Source,
    writer: StoreWriter,
    *,
    threads: int,
    cluster: Cluster | None = None,
    report: Callable[[Progress], None] = ignore,
    watch: Callable[[Progress], None] = ignore,
) -> Progress:
    """Fill and commit every pending shard.

    Shards are planned when a thread or worker is free, so memory does not depend on the size of the store.

    Parameters
    ----------
    plan
        What to build.
    source
        Delivers the pixels.
    writer
        Commits the shards.
    threads
        Tiles read at the same time in each process.
    cluster
        Where to run; None uses this process.
    report
        Called after each shard.
    watch
        Called every second while tiles are read in this process.
    """
    start = time.perf_counter()
    done = writer.committed()
    total = plan.layout.tiles
    resumed = total - plan.rows_left(done)
    state = Progress(rows_done=resumed, rows_total=total, filled=0, rejected=0, resumed=resumed, seconds=0.0)
    report(state)
    worker = ShardWorker(source, writer, threads=threads)
    pending = plan.pending(done)
    with closing(run_threads(pending, worker) if cluster is None else cluster.run(pending, worker)) as reports:
        for shard in reports:
            if shard is None:
                watch(replace(state, reading=worker.tiles_read, seconds=time.perf_counter() - start))
                continue
            state = replace(
                state,
                rows_done=state.rows_done + shard.rows,
                filled=state.filled + shard.filled,
                rejected=state.rejected + shard.rejected,
                seconds=time.perf_counter() - start,
                accounts={**state.accounts, shard.worker: shard.account} if shard.account else state.accounts,
            )
            report(state)
    return state


def run_threads(pending: Iterator[ShardPlan], worker: ShardWorker) -> Generator[ShardReport | None, None, None]:
    """Fill shards in threads of this process; yields a report after each commit, and None every second until then."""
    with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as pool:
        running: set[Future[ShardReport]] = set()
        try:
            while True:
                running |= {pool.submit(worker.work, plan) for plan in islice(pending, SHARDS_AT_ONCE - len(running))}
                if not running:
                    return
                finished, running = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
                if not finished:
                    yield None
                for future in finished:
                    yield future.result()
        except BaseException:
            worker.abandon()
            raise
        finally:
            # After an error or an interruption, queued shards are dropped.
            worker.stop()
            for future in running:
                future.cancel()
