"""Runs spread over processes: of this machine, or the workers of a Dask cluster that see the same folders."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, TypeVar

import torch

from mmearth_data import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

Work = TypeVar("Work")
Result = TypeVar("Result")

GRACE_S = 10.0
"""Time that a process has to save a checkpoint when the experiment is stopped; schedulers kill after 30 s or so."""
AGAIN = "the same command goes on where it stopped."


def spread(
    function: Callable[[Work], Result], works: Iterable[Work], *, workers: int, scheduler: str | None
) -> Iterator[tuple[Work, Result]]:
    """Call a function for each piece of work, in other processes; yields work and result as they come.

    Parameters
    ----------
    function, works
        Both go to other processes by pickle.
    workers
        Processes of this machine, where there is no ``scheduler``.
    scheduler
        Address of a Dask scheduler.

    Raises
    ------
    InputError
        When no scheduler answers there.
    RetryLater
        When a process died.
    """
    with _executor(workers, scheduler) as executor, _deaths():
        pending = {executor.submit(function, work): work for work in works}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    if scheduler is None:
        threads = max(1, (os.cpu_count() or 1) // workers)
        others = multiprocessing.active_children()
        with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
            try:
                yield pool
            except (KeyboardInterrupt, GeneratorExit):  # the latter where the caller was interrupted between two runs
                _end([child for child in multiprocessing.active_children() if child not in others])
                raise
        return
    from mmearth_data import connect  # Dask's cluster is not needed by anybody else

    with connect(scheduler) as client, client.get_executor(pure=False) as pool:
        yield pool


def _end(children: Sequence[BaseProcess]) -> None:
    """Let processes save what they do, and end them: a signal to this process alone does not reach them."""
    for child in children:
        child.terminate()
    until = time.monotonic() + GRACE_S
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
        child.kill()


@contextmanager
def _deaths() -> Iterator[None]:
    from distributed import KilledWorker

    try:
        yield
    except BrokenExecutor as error:
        raise RetryLater(f"A process that worked on a run died (killed, or out of memory); {AGAIN}") from error
    except KilledWorker as error:
        raise RetryLater(f"Workers of the cluster died while they worked on a run: {error}; {AGAIN}") from error
