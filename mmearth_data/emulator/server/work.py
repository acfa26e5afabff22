"""Limits of one request, and whether its answer is still needed."""

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
"""Time limit of the service: five minutes."""
LONGEST_LIST = 1_000_000
"""Maximum number of elements in a list, or of characters in a string."""
MOST_ELEMENTS = 16_000_000
"""Maximum number of elements in all lists made by one request, most of which are already released by the end."""
LIST_BYTES, ELEMENT_BYTES = 24, 8
"""Assumed size of a list and of each element in an answer: more than brackets, digit and comma, less than decimals."""
MOST_PIXEL_BYTES = 2**29
"""Maximum number of pixels of all images that are reduced together."""
LEFT = 499
"""Status of a request whose client disconnected before it was answered; never sent."""
LOOK_S = 0.05
"""Interval at which the watch checks the clients of requests being computed."""


class Work:
    """One request being computed: code checks here whether to continue, and reserves memory."""

    def __init__(self, seconds: float = LONGEST_S) -> None:
        self.seconds = seconds
        self.until: float | None = None
        self.stopped: EmulatorError | None = None
        self.elements = 0
        self._written = 0

    def stop(self, reason: EmulatorError) -> None:
        """Make the next check fail; may be called from any thread."""
        self.stopped = self.stopped or reason

    def check(self) -> None:
        """Raise `EmulatorError` if the client has disconnected or the time is up."""
        if self.stopped is not None:
            raise self.stopped

    def made(self, value: object) -> None:
        """Count the size of what an algorithm returned, if it has a length."""
        if isinstance(value, (list, str, dict)):
            count = len(value)
            self.elements += count
            if count > LONGEST_LIST or self.elements > MOST_ELEMENTS:
                raise memory_exceeded()

    def written(self, size: int) -> None:
        """Count approximate bytes of the answer before they are produced."""
        self._written += size
        if self._written > MAX_BYTES:
            raise memory_exceeded()


_CURRENT: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def working(work: Work) -> Iterator[None]:
    """Compute on behalf of a request within the context; its time starts here, after waiting for a turn."""
    token = _CURRENT.set(work)
    work.until = time.monotonic() + work.seconds
    try:
        yield
    finally:
        _CURRENT.reset(token)


def check() -> None:
    """Stop if the answer is late or no longer needed; called between long steps."""
    work = _CURRENT.get()
    if work is not None:
        work.check()


def room_for(count: float) -> int:
    """Return the number of elements about to be created as an integer; refuse more than one list may have."""
    if not count <= LONGEST_LIST:
        raise memory_exceeded()
    return int(count)


def room_for_pixels(count: int) -> None:
    """Refuse to hold more pixels at a time than fit in memory; each takes a value and a mask, twice while stacked."""
    if 18 * count > MOST_PIXEL_BYTES:
        raise memory_exceeded()


def written(size: int) -> None:
    """Count bytes of the answer being encoded."""
    work = _CURRENT.get()
    if work is not None:
        work.written(size)


class Watch:
    """A thread that stops requests that are late or whose client has disconnected."""

    def __init__(self) -> None:
        self._watched: dict[Work, Callable[[], bool]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    @contextmanager
    def over(self, work: Work, left: Callable[[], bool]) -> Iterator[None]:
        """Watch a request within the context; ``left`` checks whether its client has disconnected."""
        self._watched[work] = left
        try:
            yield
        finally:
            del self._watched[work]

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            for work, left in list(self._watched.items()):
                if left():
                    work.stop(EmulatorError("The client disconnected before the request was answered.", LEFT))
                elif work.until is not None and time.monotonic() > work.until:
                    work.stop(timed_out())
