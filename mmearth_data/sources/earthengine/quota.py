"""Decide when the next request may start: limits in flight and per second, restricted mode, storms of refusals."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mmearth_data.sources.earthengine.stopping import StopSwitch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

LOG = logging.getLogger(__name__)

SLACK = 1.05
"""Starts are spaced slightly wider than the limit, because requests move closer together in transit."""
STORM_WINDOW, STORM_LEAST, STORM_SHARE = 40, 20, 0.5
"""A storm: at least this many recent outcomes, and at least this share of them refused as too many (429)."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0
LOOK_S = 0.5
"""Interval in seconds at which a waiting thread checks the switch."""


class Limiter(Protocol):
    """Limits shared by all that send requests for one project: threads here, workers in other implementations.

    Attributes
    ----------
    switch
        Once set, ends all waits of this process for the service; no further request starts.
    """

    switch: StopSwitch

    def connect(self) -> None:
        """Find the process that keeps the limits, if it is another one; called in a task of a cluster."""
        ...

    def slot(self) -> AbstractContextManager[None]:
        """Wait until a request may start; the request is in flight until the context ends."""
        ...

    def succeeded(self) -> None:
        """Record that a request was answered."""
        ...

    def throttled(self, wait_s: float | None) -> None:
        """Record that a request was refused as one too many (429), and the wait that the service requested."""
        ...

    def restrict(self) -> None:
        """Record that the service announced restricted mode."""
        ...


class Storms:
    """Recent outcomes of requests, and how long to pause when most of them are refusals; not for several threads.

    Parameters
    ----------
    first_pause_s
        Pause at the first storm; it doubles with each storm until a request succeeds.
    """

    def __init__(self, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._first_pause_s = self._pause_s = first_pause_s
        self._outcomes: deque[bool] = deque(maxlen=STORM_WINDOW)

    def succeeded(self) -> None:
        """Record an answer."""
        self._outcomes.append(False)
        self._pause_s = self._first_pause_s

    def throttled(self, wait_s: float | None) -> float:
        """Record a refusal and the wait that the service requested; returns the seconds to pause, 0 without a storm."""
        self._outcomes.append(True)
        if len(self._outcomes) < STORM_LEAST or sum(self._outcomes) < STORM_SHARE * len(self._outcomes):
            return 0.0
        pause = max(self._pause_s, wait_s or 0.0)
        self._pause_s = min(2 * pause, LONGEST_PAUSE_S)
        self._outcomes.clear()
        return pause


class LocalLimiter:
    """Limits of one process, shared by its threads: requests in flight, also in restricted mode, and starts per second.

    Starts are spaced evenly, so that no second has more. All requests pause for ``first_pause_s`` at the first storm of
    refusals; the pause doubles with each storm until a request succeeds.
    """

    def __init__(
        self,
        in_flight: int = 40,
        per_second: float = 100.0,
        restricted_in_flight: int = 1,
        *,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.switch = StopSwitch()
        self._limit = in_flight
        self._restricted = min(restricted_in_flight, in_flight)
        self._interval_s = SLACK / per_second
        self._storms = Storms(first_pause_s)
        self._changed = threading.Condition()
        self._busy = 0
        self._next_s = 0.0
        self._paused_until_s = 0.0

    @property
    def in_flight_limit(self) -> int:
        """Number of requests currently allowed in flight."""
        return self._limit

    def connect(self) -> None:
        """Do nothing: the limits are kept here."""

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait until a request may start."""
        start_in_s = self._reserve_s()
        try:
            self.switch.sleep(start_in_s)
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify()

    def _reserve_s(self) -> float:
        """Reserve a slot in flight; returns the seconds until its turn."""
        with self._changed:
            while self._busy >= self._limit or (pause := self._paused_until_s - time.monotonic()) > 0:
                self._changed.wait(LOOK_S if self._busy >= self._limit else min(pause, LOOK_S))
                self.switch.sleep(0)
            now = time.monotonic()
            start = max(now, self._next_s)
            self._busy, self._next_s = self._busy + 1, start + self._interval_s
            return start - now

    def succeeded(self) -> None:
        """Record an answer."""
        with self._changed:
            self._storms.succeeded()

    def throttled(self, wait_s: float | None) -> None:
        """Record a refusal; a storm of them pauses all requests."""
        with self._changed:
            pause = self._storms.throttled(wait_s)
            if not pause:
                return
            self._paused_until_s = time.monotonic() + pause
        LOG.warning("Earth Engine refuses most requests (429); pausing all of them for %.0f s.", pause)

    def restrict(self) -> None:
        """Record restricted mode, which lasts until the process ends."""
        with self._changed:
            if self._limit <= self._restricted:
                return
            self._limit = self._restricted
        LOG.warning(
            "Earth Engine has put this project into restricted mode; continuing with %d request(s) at a time "
            "(--restricted-in-flight).",
            self._restricted,
        )


if TYPE_CHECKING:
    _: type[Limiter] = LocalLimiter
