"""Fill and commit shards in one process, for threads of this process or tasks of Dask."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from mmearth_data.building.kernel import fill_shard
from mmearth_data.sources.opening import over_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.building.plan import ShardPlan
    from mmearth_data.catalog.tile import Place
    from mmearth_data.sources.base import Rejection, Source, Survey
    from mmearth_data.store.writer import StoreWriter

Answers: TypeAlias = "list[Survey | Rejection]"

SHARDS_IN_MEMORY = 2
"""Shards of one process with pixels in memory: one is compressed and written while another is read."""
SHARDS_AT_ONCE = SHARDS_IN_MEMORY + 1
"""Shards of one process at the same time: the additional one is surveyed, which takes no memory."""

TASKS_PER_THREAD = 8
"""Minimum number of tasks per thread and shard: enough to distribute the tiles evenly, few enough to cost little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """Result of one shard.

    Attributes
    ----------
    shard, rows
        Its number, and its number of rows.
    filled, rejected
        Tiles delivered and candidates rejected; 0 if the shard was committed before.
    worker, account
        On a cluster: name of the worker, and requests of its process so far, see `SourceOverNetwork.account`.
    """

    shard: int
    rows: int
    filled: int = 0
    rejected: int = 0
    worker: str = ""
    account: Mapping[str, Any] = field(default_factory=dict)


class SurveyDesk:
    """Combines the surveys of several shards: one survey at a time, of all locations that are waiting.

    This lets replacements, of which each shard has few, share requests.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._turn = threading.Lock()
        self._listing = threading.Lock()
        self._waiting: list[tuple[Sequence[Place], Future[Answers]]] = []

    def ask(self, places: Sequence[Place]) -> Answers:
        """Survey locations; returns and raises what `Source.survey` does."""
        mine: Future[Answers] = Future()
        with self._listing:
            self._waiting.append((places, mine))
        with self._turn:
            with self._listing:
                batch, self._waiting = self._waiting, []
            self._answer(batch)
        return mine.result()

    def _answer(self, batch: list[tuple[Sequence[Place], Future[Answers]]]) -> None:
        """Survey all locations of a batch; an empty one was answered by the thread that had the turn before."""
        if not batch:
            return
        try:
            answers = self._source.survey([place for places, _ in batch for place in places])
        except BaseException as error:  # raised by all calls of `ask` in the batch
            for _, future in batch:
                future.set_exception(error)
            return
        start = 0
        for places, future in batch:
            future.set_result(answers[start : start + len(places)])
            start += len(places)


class ShardWorker:
    """Fills and commits shards in this process.

    `work` may be called from `SHARDS_AT_ONCE` threads at the same time. A pickled copy has pools of its own.

    Parameters
    ----------
    source
        Delivers the pixels.
    writer
        Commits the shards.
    threads
        Tiles read at the same time.
    """

    def __init__(self, source: Source, writer: StoreWriter, *, threads: int) -> None:
        self.source = source
        self.writer = writer
        self.threads = threads
        self.name = uuid.uuid4().hex
        self._desk = SurveyDesk(source)
        self._memory = threading.BoundedSemaphore(SHARDS_IN_MEMORY)
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._read: Counter[int] = Counter()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), threads=self.threads), (self.source, self.writer)

    def work(self, plan: ShardPlan) -> ShardReport:
        """Fill one shard and commit it.

        A shard that is committed already is not read again: its worker may have died before reporting it.
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
                at_once=max(1, rows // (TASKS_PER_THREAD * self.threads)),
                arrived=lambda: self._read.update([plan.shard]),
            )
            self.writer.write_shard(plan.shard, shard.columns, shard.rasters, shard.rejected)
        self._read.pop(plan.shard, None)
        return ShardReport(shard=plan.shard, rows=rows, filled=shard.filled, rejected=len(shard.rejected))

    @property
    def tiles_read(self) -> int:
        """Tiles of shards that are not committed yet."""
        return sum(list(self._read.values()))

    def stop(self) -> None:
        """Read no more tiles; running shards end in `CancelledError` and are not committed."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Stop without waiting for tiles that are being read from a service."""
        self.stop()
        remote = over_network(self.source)
        if remote is not None:
            remote.stop()
