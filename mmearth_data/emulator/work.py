"""What one request may use, and whether its answer is still wanted."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import MAX_BYTES, EmulatorError, memory_exceeded, timed_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_S = 300.0
"""The service answers within five minutes, or not at all."""
LONGEST_LIST = 1_000_000
"""Elements of one list, characters of one text."""
MOST_ELEMENTS = 16_000_000
"""Elements of all lists that one request makes, of which most are gone again when the last is made."""
LIST_BYTES, ELEMENT_BYTES = 24, 8
"""What a list and each of its elements count for in an answer: more than brackets, digit and comma, less than decimals."""
MOST_PIXEL_BYTES = 2**29
"""Pixels of all images that are reduced together."""
LEFT = 499
"""Status of a request whose client left before it was answered; never sent."""
LOOK_S = 0.05
"""How often the watch looks at the clients of requests that are being computed."""


class Work:
    """One request being computed: it asks here whether to continue, and for room.

    Parameters
    ----------
    seconds
        Longest time that computing may take.
    """

    def __init__(self, seconds: float = LONGEST_S) -> None:
        self.seconds = seconds
        self.until: float | None = None
        self.stopped: EmulatorError | None = None
        self.elements = 0
        self._written = 0

    def begin(self) -> None:
        """Let the time run: waiting for a turn does not count."""
        self.until = time.monotonic() + self.seconds

    def stop(self, reason: EmulatorError) -> None:
        """Let the next check fail; may be called from any thread."""
        self.stopped = self.stopped or reason

    def check(self) -> None:
        """Continue only while the answer is wanted and in time.

        Raises
        ------
        EmulatorError
            The client left, or the time is over.
        """
        if self.stopped is not None:
            raise self.stopped

    def made(self, value: object) -> None:
        """Count what an algorithm returned, if it is something with a length.

        Raises
        ------
        EmulatorError
            "User memory limit exceeded."
        """
        if isinstance(value, (list, str, dict)):
            count = len(value)
            self.elements += count
            if count > LONGEST_LIST or self.elements > MOST_ELEMENTS:
                raise memory_exceeded()

    def written(self, size: int) -> None:
        """Count bytes of the answer, roughly, before they are made.

        Raises
        ------
        EmulatorError
            "User memory limit exceeded."
        """
        self._written += size
        if self._written > MAX_BYTES:
            raise memory_exceeded()


_CURRENT: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def working(work: Work) -> Iterator[None]:
    """Compute on behalf of a request while the context lasts."""
    token = _CURRENT.set(work)
    work.begin()
    try:
        yield
    finally:
        _CURRENT.reset(token)


def check() -> None:
    """Stop where the answer is no longer wanted, or late; called between steps that take long."""
    work = _CURRENT.get()
    if work is not None:
        work.check()


def room_for(count: float) -> int:
    """Give the number of elements that are about to be made, as a whole number.

    Raises
    ------
    EmulatorError
        "User memory limit exceeded.", above what one list may hold.
    """
    if not count <= LONGEST_LIST:
        raise memory_exceeded()
    return int(count)


def room_for_pixels(count: int) -> None:
    """Refuse to hold more pixels at a time than fit; each takes a value and its mask, twice while they are stacked."""
    if 18 * count > MOST_PIXEL_BYTES:
        raise memory_exceeded()


def written(size: int) -> None:
    """Count bytes of the answer that is being encoded."""
    work = _CURRENT.get()
    if work is not None:
        work.written(size)


class Watch:
    """A thread that stops requests which are late, or whose client has left.

    It looks only while something is being computed.
    """

    def __init__(self) -> None:
        self._watched: dict[Work, Callable[[], bool]] = {}
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end(self) -> None:
        """Watch no longer."""
        self._ended = True
        self._wanted.set()

    @contextmanager
    def over(self, work: Work, left: Callable[[], bool]) -> Iterator[None]:
        """Watch a request while the context lasts; ``left`` finds out whether its client is gone."""
        with self._lock:
            self._watched[work] = left
            self._wanted.set()
        try:
            yield
        finally:
            with self._lock:
                del self._watched[work]
                if not self._watched and not self._ended:
                    self._wanted.clear()

    def _look(self) -> None:
        while self._wanted.wait() and not self._ended:
            time.sleep(LOOK_S)
            with self._lock:
                watched = list(self._watched.items())
            for work, left in watched:
                if left():
                    work.stop(EmulatorError("The client left before it was answered.", LEFT))
                elif work.until is not None and time.monotonic() > work.until:
                    work.stop(timed_out())
