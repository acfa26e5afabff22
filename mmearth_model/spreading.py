"""Distribute work over processes on this machine, or over the workers of a Dask cluster that see the same folders."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from mmearth_data import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

Work = TypeVar("Work")
Result = TypeVar("Result")

GRACE_S = 10.0
"""Seconds that a process has to save its work when it is stopped; schedulers kill after about 30 s."""
AGAIN = "the same command continues where it stopped."


@dataclass(frozen=True, slots=True)
class Spreading:
    """Where work is computed.

    Attributes
    ----------
    workers
        Number of processes on this machine.
    scheduler
        Address of a Dask scheduler, whose workers compute instead.
    threads
        Threads of each process on this machine; None divides its cores.
    """

    workers: int = 1
    scheduler: str | None = None
    threads: int | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether work is computed in other processes."""
        return self.scheduler is not None or self.workers > 1


def spread(
    function: Callable[[Work], Result], works: Iterable[Work], where: Spreading
) -> Iterator[tuple[Work, Result]]:
    """Call a function for each piece of work in other processes; yields work and result in order of completion.

    Function and work are pickled. Raises `InputError` if the scheduler does not respond, and `RetryLater` if a process died.
    """
    with _executor(where, function) as (executor, call), _deaths():
        pending = {executor.submit(call, work): work for work in works}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            if where.scheduler is not None:  # a pool on this machine is shut down, which does not take cancelled work
                for future in pending:
                    future.cancel()


@contextmanager
def _executor(
    where: Spreading, function: Callable[[Work], Result]
) -> Iterator[tuple[Executor, Callable[[Work], Result]]]:
    """Start processes; yields what they are given work by, and what they call for it.

    Processes on this machine get the function when they begin, so that a piece of work is small: a pool that is stopped
    waits forever to send work that does not fit into the pipe to its processes.
    """
    if where.scheduler is None:
        threads = where.threads or max(1, (os.cpu_count() or 1) // where.workers)
        others = multiprocessing.active_children()
        with ProcessPoolExecutor(where.workers, get_context("spawn"), _begin, (threads, function)) as pool:
            try:
                yield pool, _call
            except (KeyboardInterrupt, GeneratorExit):  # GeneratorExit if the caller was interrupted between two runs
                ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
                ending.start()  # it waits for the processes, which are ended meanwhile
                _end([child for child in multiprocessing.active_children() if child not in others])
                ending.join()
                raise
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return
    from mmearth_data import connect  # only needed for a Dask cluster

    with connect(where.scheduler) as client, client.get_executor(pure=False) as pool:
        yield pool, function


_given: dict[str, Callable[[Any], Any]] = {}
"""The function of this process, if it is one of a pool."""


def _call(work: Any) -> Any:  # noqa: ANN401 - whatever the function takes and returns
    return _given["function"](work)


def _begin(threads: int, function: Callable[[Any], Any]) -> None:
    """Prepare a process for work."""
    _given["function"] = function
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this process if its parent was killed, since it would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end(children: Sequence[BaseProcess]) -> None:
    """Let worker processes save their work, and end them, since a signal to this process does not reach them."""
    for child in children:
        child.terminate()
    until = time.monotonic() + GRACE_S
    left = {child.sentinel: child for child in children}
    while left and (rest := until - time.monotonic()) > 0:
        for ended in wait(list(left), rest):
            left.pop(ended)  # type: ignore[arg-type]  # it returns what it was given: sentinels
    for child in left.values():
        child.kill()


@contextmanager
def _deaths() -> Iterator[None]:
    from distributed import KilledWorker

    try:
        yield
    except BrokenExecutor as error:
        raise RetryLater(f"A worker process died (killed, or out of memory); {AGAIN}") from error
    except KilledWorker as error:
        raise RetryLater(f"Workers of the cluster died: {error}; {AGAIN}") from error
