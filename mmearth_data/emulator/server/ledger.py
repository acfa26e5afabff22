"""What the emulator was asked: the client's claims about quotas and requests are checked against it."""

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
        """Note that a request has come; answer how many there are at once, and how many came in the last second."""
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
        """Note how it was answered: an HTTP status or the fault that kept it from one, and the bytes of the body."""
        with self._lock:
            self._in_flight -= 1
            self._status[status] += 1
            self._bytes += size
            if fault is not None:
                self._faults[fault] += 1

    def report(self) -> dict[str, Any]:
        """Everything so far, JSON-ready."""
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
