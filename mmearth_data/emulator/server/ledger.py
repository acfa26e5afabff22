"""Record of the requests that the emulator received, against which the client's own counts are checked."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Ledger:
    """Counts requests, answers, bytes, and the largest number at once and in any second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._status: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._starts: deque[float] = deque()
        self._in_flight = self._max_in_flight = self._max_per_second = self._bytes = 0

    def begin(self, kind: str) -> tuple[int, int]:
        """Count a request; return the number in flight, and the number that arrived in the last second."""
        now = self._clock()
        with self._lock:
            self._requests[kind] += 1
            self._in_flight += 1
            self._starts.append(now)
            while self._starts[0] <= now - 1.0:
                self._starts.popleft()
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            self._max_per_second = max(self._max_per_second, len(self._starts))
            return self._in_flight, len(self._starts)

    def end(self, status: str, size: int, fault: str | None = None) -> None:
        """Record the HTTP status of an answer, or the fault that prevented it, and the bytes of the body."""
        with self._lock:
            self._in_flight -= 1
            self._status[status] += 1
            self._bytes += size
            if fault is not None:
                self._faults[fault] += 1

    def report(self) -> dict[str, Any]:
        """Return all counts so far, JSON-ready."""
        with self._lock:
            return {
                "requests": dict(self._requests),
                "status": dict(self._status),
                "faults": dict(self._faults),
                "in_flight": self._in_flight,
                "max_in_flight": self._max_in_flight,
                "max_per_second": self._max_per_second,
                "bytes": self._bytes,
            }
