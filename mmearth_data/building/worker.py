"""What fills and commits shards in one process, whoever hands them out: threads here, Dask elsewhere."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mmearth_data.building.kernel import fill_shard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.building.plan import ShardPlan
    from mmearth_data.catalog.tile import Place
    from mmearth_data.sources.base import Rejection, Source, Survey
    from mmearth_data.store.writer import StoreWriter

Answers: TypeAlias = "list[Survey | Rejection]"

SHARDS_IN_MEMORY = 2
"""Shards of one process whose pixels are in memory: one is compressed and written while another is read."""
SHARDS_AT_ONCE = SHARDS_IN_MEMORY + 1
"""Shards of one process that are under way: the one beyond is surveyed meanwhile, which takes no memory."""

TASKS_A_THREAD = 8
"""Tasks of each thread in a shard, at least: few enough not to cost more than the tiles, enough to share them out evenly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What became of one shard.

    Attributes
    ----------
    shard
        Its number.
    rows
        Its rows.
    filled, rejected
        Tiles delivered and candidates refused; 0 where the shard was committed before.
    worker, account
        Of a worker elsewhere: its name, and what its process has asked of the source's service so far.
    """

    shard: int
    rows: int
    filled: int = 0
    rejected: int = 0
    worker: str = ""
    account: Mapping[str, Any] = field(default_factory=dict)


class SurveyDesk:
    """Brings the questions of several shards together: one survey at a time, with all that is waiting.

    So replacements, which are few in each shard, share their requests.

    Parameters
    ----------
    source
        Is asked.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._turn = threading.Lock()
        self._listing = threading.Lock()
        self._waiting: list[tuple[Sequence[Place], Future[Answers]]] = []

    def ask(self, places: Sequence[Place]) -> Answers:
        """One answer per place, in order; raises what the source raises."""
        mine: Future[Answers] = Future()
        with self._listing:
            self._waiting.append((places, mine))
        with self._turn:
            with self._listing:
                batch, self._waiting = self._waiting, []
            self._answer(batch)
        return mine.result()

    def _answer(self, batch: list[tuple[Sequence[Place], Future[Answers]]]) -> None:
        """Answer everybody in the batch; none where whoever had the turn before took this question along."""
        if not batch:
            return
        try:
            answers = self._source.survey([place for places, _ in batch for place in places])
        except BaseException as error:  # handed to everybody who asked
            for _, future in batch:
                future.set_exception(error)
            return
        start = 0
        for places, future in batch:
            future.set_result(answers[start : start + len(places)])
            start += len(places)


class ShardWorker:
    """Fills and commits shards in this process.

    `work` may be called from `SHARDS_AT_ONCE` threads at once. Survives pickling; each process then has pools
    of its own.

    Parameters
    ----------
    source
        Delivers the pixels.
    writer
        Commits them.
    threads
        Tiles that are read at once.
    """

    def __init__(self, source: Source, writer: StoreWriter, *, threads: int) -> None:
        self.source = source
        self.writer = writer
        self.threads = threads
        self.name = uuid.uuid4().hex
        self._desk = SurveyDesk(source)
        self._memory = threading.BoundedSemaphore(SHARDS_IN_MEMORY)
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_worker, (self.source, self.writer, self.threads)

    def work(self, plan: ShardPlan) -> ShardReport:
        """Fill one shard and commit it; the only effect of a build.

        A shard that is committed already is not read again: its worker may have died before it could say so.
        """
        rows = len(plan.slots)
        if self.writer.is_committed(plan.shard):
            return ShardReport(shard=plan.shard, rows=rows)
        first = self._desk.ask([slot.place for slot in plan.slots])
        with self._memory:
            shard = fill_shard(
                plan,
                self._desk.ask,
                self.source,
                self.writer.layout,
                self._readers,
                first=first,
                at_once=max(1, rows // (TASKS_A_THREAD * self.threads)),
            )
            self.writer.write_shard(plan.shard, shard.columns, shard.rasters, shard.rejected)
        return ShardReport(shard=plan.shard, rows=rows, filled=shard.filled, rejected=len(shard.rejected))

    def stop(self) -> None:
        """Read no further tile; shards under way end in `CancelledError` and stay uncommitted."""
        self._readers.shutdown(wait=False, cancel_futures=True)


def _make_worker(source: Source, writer: StoreWriter, threads: int) -> ShardWorker:
    return ShardWorker(source, writer, threads=threads)
