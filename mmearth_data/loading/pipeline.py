"""Deliver the batches of a plan, decoding some ahead, with threads of this process or on a cluster.

Both run the same kernel with Dask. Memory is bounded: encoded tiles of two windows, and ``prefetch`` decoded batches
besides the one in use.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from dask.threaded import get

from mmearth_data.errors import RetryLater
from mmearth_data.loading.kernel import whole_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from mmearth_data.loading.buffers import BufferPool
    from mmearth_data.loading.kernel import Batch, Kernel
    from mmearth_data.loading.plan import Block, Window

Span: TypeAlias = "tuple[tuple[int, int, int], ...]"
"""Positions of a batch's tiles in the plan: one or more (window, first, end) ranges of its order."""

Encoded: TypeAlias = "dict[str, list[bytes]]"
"""Raster modality -> encoded tiles."""
Source: TypeAlias = "tuple[WindowTiles, Future[Encoded]]"
"""A window and, once fetched, its encoded tiles."""

TASK_TILES = 16
"""Tiles per decode task: few enough that threads end together, enough that a task's overhead is small."""
LOCAL_READERS, FAR_READERS = 2, 96
"""Blocks fetched at the same time: over a network, requests mostly wait."""
HEARTBEAT_S = 5.0
"""Seconds between checks that a cluster still has workers."""


def spans_of(sizes: Sequence[int], batch_size: int, *, drop_last: bool) -> list[Span]:
    """Cut consecutive windows into batches."""
    ends = np.cumsum(sizes).tolist()
    tiles = ends[-1] if ends else 0
    spans, window = [], 0
    for first in range(0, tiles - tiles % batch_size if drop_last else tiles, batch_size):
        stop, span = min(first + batch_size, tiles), []
        while first < stop:
            while ends[window] <= first:
                window += 1
            begin, end = ends[window] - sizes[window], min(stop, ends[window])
            span.append((window, first - begin, end - begin))
            first = end
        spans.append(tuple(span))
    return spans


class WindowTiles:
    """Requested tiles of one window, by block.

    Parameters
    ----------
    window
        The window.
    wanted
        Parts of its order that are delivered here; workers that share an epoch deliver some batches each.
    """

    def __init__(self, window: Window, wanted: Sequence[tuple[int, int]]) -> None:
        self.order = window.order
        self.rows = np.concatenate([block.rows for block in window.blocks])
        mask = np.zeros(len(self.rows), dtype=bool)
        for first, end in wanted:
            mask[self.order[first:end]] = True
        self.blocks = [
            begin + np.flatnonzero(mask[begin:end]) for begin, end in _bounds(window.blocks) if mask[begin:end].any()
        ]
        """Positions of each block's requested tiles among the concatenated tiles of the window."""

    def take(self, packed: Encoded, first: int, end: int) -> tuple[NDArray[np.intp], Encoded]:
        """Store rows and encoded tiles of a part of the order; the tiles are released afterwards."""
        positions = self.order[first:end]
        taken = {name: [parts[position] for position in positions] for name, parts in packed.items()}
        for parts in packed.values():
            for position in positions:
                parts[position] = b""
        return self.rows[positions], taken


def _bounds(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    ends = np.cumsum([len(block.keep) for block in blocks]).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def windows_of(windows: Sequence[Window], spans: Iterable[Span]) -> dict[int, WindowTiles]:
    """Windows that some batches need, with the requested parts."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for span in spans:
        for window, first, end in span:
            wanted.setdefault(window, []).append((first, end))
    return {index: WindowTiles(windows[index], parts) for index, parts in wanted.items()}


class ThreadPipeline:
    """Pipeline with threads of this process.

    Parameters
    ----------
    kernel
        Fetches and decodes.
    threads
        Number of decoding threads.
    prefetch
        Number of batches decoded ahead.
    buffers
        Memory of the batches.
    """

    def __init__(self, kernel: Kernel, *, threads: int, prefetch: int, buffers: BufferPool) -> None:
        self.kernel = kernel
        self.threads = threads
        self.prefetch = prefetch
        self.buffers = buffers
        self.far = kernel.content.objects.far

    def batches(self, windows: Sequence[Window], spans: Sequence[Span]) -> Iterator[Batch]:
        """Yield the batches of some spans, in order."""
        tiles = windows_of(windows, spans)
        fetched: dict[int, Future[Encoded]] = {}
        upcoming = deque(sorted(tiles))
        pending: deque[Future[list[Batch]]] = deque()
        with _workers("fetch", 1) as fetcher, _workers("decode", 1) as decoder, self._pools() as (readers, threads):
            for group in _groups(spans, max(1, self.prefetch // 2)):
                last = group[-1][-1][0]
                # Meanwhile, fetch the window after the one in use.
                while upcoming and (upcoming[0] <= last or len(fetched) < 2):
                    index = upcoming.popleft()
                    fetched[index] = fetcher.submit(self._fetch, tiles[index], readers)
                for index in [index for index in fetched if index < group[0][0][0]]:
                    del fetched[index]
                sources = {window: (tiles[window], fetched[window]) for span in group for window, _, _ in span}
                pending.append(decoder.submit(self._decode, group, sources, threads))
                if len(pending) > 2:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()

    @contextmanager
    def _pools(self) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
        readers_count = FAR_READERS if self.far else LOCAL_READERS
        with _workers("read", readers_count) as readers, _workers("tiles", self.threads) as threads:
            yield readers, threads

    def _fetch(self, tiles: WindowTiles, pool: ThreadPoolExecutor) -> Encoded:
        """Fetch the requested tiles of a window, in the order of its blocks."""
        names = [layer.modality.name for layer in self.kernel.rasters]
        packed: Encoded = {name: [b""] * len(tiles.rows) for name in names}

        def fetch(positions: NDArray[np.intp], some: list[str]) -> None:
            for name, parts in self.kernel.fetch(tiles.rows[positions], some).items():
                for position, part in zip(positions.tolist(), parts, strict=True):
                    packed[name][position] = part

        # For a remote store, every request is its own task; for a local one, that would cost more than it gains.
        groups = [[name] for name in names] if self.far else [names]
        _run([partial(fetch, positions, some) for positions in tiles.blocks for some in groups], pool)
        return packed

    def _decode(self, group: Sequence[Span], sources: Mapping[int, Source], pool: ThreadPoolExecutor) -> list[Batch]:
        """Decode some batches together."""
        batches, tasks = [], []
        for span in group:
            parts = [sources[w][0].take(sources[w][1].result(), first, end) for w, first, end in span]
            rows = np.concatenate([some for some, _ in parts])
            packed = {name: [tile for _, taken in parts for tile in taken[name]] for name in parts[0][1]}
            batch = self.kernel.batch(rows, self.buffers.array)
            for first in range(0, len(rows), TASK_TILES):
                places = range(first, min(first + TASK_TILES, len(rows)))
                some_tiles = {name: tiles[places.start : places.stop] for name, tiles in packed.items()}
                tasks.append(partial(self.kernel.decode, rows, some_tiles, batch, places))
            batches.append(batch)
        _run(tasks, pool)
        return batches


def _groups(spans: Sequence[Span], size: int) -> Iterator[Sequence[Span]]:
    """Batches that are decoded together; the first one alone, because the caller waits for it."""
    if spans:
        yield spans[:1]
    for first in range(1, len(spans), size):
        yield spans[first : first + size]


def _run(tasks: Sequence[Callable[[], None]], pool: ThreadPoolExecutor) -> None:
    # Dask's scheduler without `dask.compute`, which doubles the time per task and hashes tasks under a lock; a process
    # forked while it is held would wait forever.
    get({index: (task,) for index, task in enumerate(tasks)}, list(range(len(tasks))), pool=pool)


@contextmanager
def _workers(name: str, count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that end with the block; tasks that have not started are cancelled."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=f"mmearth-{name}")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class ClusterPipeline:
    """Pipeline on the workers of a Dask cluster, which must reach the store by the same path.

    Parameters
    ----------
    kernel
        Fetches and decodes.
    client
        A `distributed.Client`.
    prefetch
        Number of batches decoded ahead.
    """

    def __init__(self, kernel: Kernel, client: Any, *, prefetch: int) -> None:  # noqa: ANN401 - distributed has no types
        self.kernel = kernel
        self.client = client
        self.prefetch = prefetch

    def batches(self, windows: Sequence[Window], spans: Sequence[Span]) -> Iterator[Batch]:
        """Yield the batches of some spans, in order.

        Raises
        ------
        RetryLater
            If no worker is left.
        """
        tiles = windows_of(windows, spans)
        kernel = self.client.scatter(self.kernel, broadcast=True, hash=False)
        fetched: dict[int, list[Any]] = {}
        upcoming = deque(sorted(tiles))
        pending: deque[Any] = deque()
        for span in spans:
            while upcoming and (upcoming[0] <= span[-1][0] or len(fetched) < 2):
                index = upcoming.popleft()
                rows = [tiles[index].rows[positions] for positions in tiles[index].blocks]
                fetched[index] = self.client.map(_fetch_block, [kernel] * len(rows), rows, pure=False)
            for index in [index for index in fetched if index < span[0][0]]:
                del fetched[index]
            pending.append(self._submit(kernel, span, tiles, fetched))
            if len(pending) > self.prefetch:
                yield self._result(pending.popleft())
        while pending:
            yield self._result(pending.popleft())

    def _submit(self, kernel: Any, span: Span, tiles: dict[int, WindowTiles], fetched: dict[int, list[Any]]) -> Any:  # noqa: ANN401
        """Start one batch, which depends on the blocks of its tiles."""
        rows: list[NDArray[np.intp]] = []
        index: list[tuple[int, int]] = []
        blocks: list[Any] = []
        for w, first, end in span:
            positions = tiles[w].order[first:end]
            rows.append(tiles[w].rows[positions])
            home = {int(p): (b, i) for b, some in enumerate(tiles[w].blocks) for i, p in enumerate(some)}
            used = sorted({home[int(p)][0] for p in positions})
            index += [(len(blocks) + used.index(home[int(p)][0]), home[int(p)][1]) for p in positions]
            blocks += [fetched[w][b] for b in used]
        return self.client.submit(whole_batch, kernel, np.concatenate(rows), index, *blocks, pure=False)

    def _result(self, future: Any) -> Batch:  # noqa: ANN401 - distributed has no types
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        while True:
            try:
                batch: Batch = future.result(timeout=HEARTBEAT_S)
            except (TimeoutError, StillRunning):
                if not self.client.scheduler_info(n_workers=-1)["workers"]:
                    raise RetryLater("Expected a cluster with workers, got none; start some.") from None
            except (KilledWorker, FutureCancelledError) as error:
                raise RetryLater(f"A worker of the cluster died while decoding: {error}.") from error
            else:
                return batch


def _fetch_block(kernel: Kernel, rows: NDArray[np.intp]) -> dict[str, list[bytes]]:
    return kernel.fetch(rows)
