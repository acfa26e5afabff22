"""End the waits of all threads of a source at once.

A signal interrupts only the main thread. Other threads may wait for minutes: for their turn, for an answer, or
for the next attempt.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mmearth_data.errors import MMEarthError

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")


class Stopped(MMEarthError):  # noqa: N818 - named by what happened
    """The source was stopped, because its build ended with an error or was interrupted."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "expected a source that delivers tiles, got one that was stopped; open another one."


class StopSwitch:
    """A switch for the waits of several threads; once it is set, current and later waits raise `Stopped`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._awaited: set[Future[Any]] = set()

    def set(self) -> None:
        """End all waits permanently."""
        with self._lock:
            self._event.set()
            for future in self._awaited:
                with suppress(InvalidStateError):  # it finished in the meantime
                    future.set_exception(Stopped())

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        if self._event.wait(seconds):
            raise Stopped

    def result(self, future: Future[Answer], timeout_s: float) -> Answer:
        """Wait for a result of `in_background`. Raises TimeoutError if there is none in time."""
        with self._lock:
            if self._event.is_set():
                raise Stopped
            self._awaited.add(future)
        try:
            return future.result(timeout_s)
        finally:
            with self._lock:
                self._awaited.discard(future)


def in_background(work: Callable[[], Answer]) -> Future[Answer]:
    """Run a function in a thread that can be abandoned: nothing waits for it, not even the process at exit."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            report = partial(future.set_result, work())
        except BaseException as error:  # raised where the result is awaited
            report = partial(future.set_exception, error)
        with suppress(InvalidStateError):  # stopped
            report()

    threading.Thread(target=run, name="request", daemon=True).start()
    return future
