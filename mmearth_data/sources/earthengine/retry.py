"""Retries: exponential backoff with full jitter, never sooner than the service requests; long waits are reported.

After Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mmearth_data.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

Answer = TypeVar("Answer")
LONG_WAIT_S = 10.0
"""Waits of at least this length are reported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Number and timing of retries."""

    attempts: int = 12  # Including the first one
    first_s: float = 0.5  # The wait before attempt n + 1 is uniform in 0 ... min(longest_s, first_s * 2^(n - 1)).
    longest_s: float = 60.0

    def wait_s(self, attempt: int, asked_s: float | None) -> float:
        """Seconds to wait after the given attempt (from 1) failed."""
        jitter = random.uniform(0, min(self.longest_s, self.first_s * 2 ** (attempt - 1)))  # decides no byte
        return jitter if asked_s is None else asked_s + min(jitter, 1.0)


def with_retries(
    ask: Callable[[], Answer],
    backoff: Backoff,
    *,
    on_retry: Callable[[RetryLater, float], None] = lambda error, wait_s: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Retry until there is an answer. Raises `RetryLater` when the last attempt failed too."""
    attempt = 1
    while True:
        try:
            return ask()
        except RetryLater as error:
            if attempt >= backoff.attempts:
                raise RetryLater(
                    f"Earth Engine did not answer in {attempt} attempts ({error.message}); "
                    "run the same command again later, it continues.",
                    error.wait_s,
                ) from error
            wait_s = backoff.wait_s(attempt, error.wait_s)
            on_retry(error, wait_s)
        sleep(wait_s)
        attempt += 1


class LongWaits:
    """Logs long waits, once for all threads that wait at the same time; see `with_retries`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reported_until_s = 0.0

    def __call__(self, error: RetryLater, wait_s: float) -> None:
        """Report a wait after an error."""
        now = time.monotonic()
        with self._lock:
            if wait_s < LONG_WAIT_S or now < self._reported_until_s:
                return
            self._reported_until_s = now + wait_s
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + wait_s))
        LOG.warning(
            "Earth Engine: %s; waiting %.0f s, until %s, before the next attempt.",
            error.message.rstrip("."),
            wait_s,
            until,
        )
