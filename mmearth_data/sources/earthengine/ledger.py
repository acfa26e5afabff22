"""Record of a build's use of the service: requests, bytes, retries, seconds, rejections."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any


class Ledger:
    """Counters shared by threads.

    Requests are counted by method (``value:compute``, ``image:computePixels``, ...), once per attempt; ``seconds`` is
    the time spent waiting for answers, summed over threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()
        self._sums: dict[str, float] = {"sent_bytes": 0, "received_bytes": 0, "seconds": 0.0, "waited_s": 0.0}

    def request(self, what: str, *, sent_bytes: int, received_bytes: int, seconds: float) -> None:
        """Record one attempt."""
        with self._lock:
            self._requests[what] += 1
            self._sums["sent_bytes"] += sent_bytes
            self._sums["received_bytes"] += received_bytes
            self._sums["seconds"] += seconds

    def retry(self, why: str, waited_s: float) -> None:
        """Record one failed attempt that is retried."""
        with self._lock:
            self._retries[why] += 1
            self._sums["waited_s"] += waited_s

    def rejection(self, reason: str) -> None:
        """Record one unavailable candidate."""
        with self._lock:
            self._rejections[reason] += 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        with self._lock:
            return {
                "requests": dict(sorted(self._requests.items())),
                "retries": dict(sorted(self._retries.items())),
                "rejections": dict(sorted(self._rejections.items())),
                "sent_bytes": int(self._sums["sent_bytes"]),
                "received_bytes": int(self._sums["received_bytes"]),
                "seconds": round(self._sums["seconds"], 3),
                "waited_s": round(self._sums["waited_s"], 3),
            }
