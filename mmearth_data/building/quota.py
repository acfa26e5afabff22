"""One quota for all workers of a cluster: leases, kept on the Dask scheduler.

A service limits a project's requests in flight and per second, however many processes send them. The leases are
recorded on the scheduler, to which all workers are connected. Leases of a dead process expire once it has not sent a
sign of life for a while. All times are measured by the scheduler's monotonic clock, so it does not matter if clocks
jump or differ.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin, get_client, get_worker
from distributed.utils import sync

from mmearth_data.sources.earthengine.quota import SLACK, Storms
from mmearth_data.sources.earthengine.stopping import StopSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Scheduler

HANDLER = "mmearth_quota"
LEASE_S = 60.0
"""Seconds without a sign of life after which a process loses its leases; longer than any pause of a live process."""
BEAT_S = 10.0
"""Seconds between two signs of life of a process, however long its requests take."""
ASK_AGAIN_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """Limits of the service.

    Attributes
    ----------
    in_flight
        Requests at the same time.
    per_second
        Requests started per second.
    restricted_in_flight
        Requests at the same time after the service announced its restricted mode.
    """

    in_flight: int = 40
    per_second: float = 100.0
    restricted_in_flight: int = 1


@dataclass
class QuotaBook:
    """Number of leases of each holder; not for several threads.

    Attributes
    ----------
    quota
        The limits.
    lease_s
        Seconds without a sign of life after which a holder loses its leases.
    clock
        Monotonic seconds.
    """

    quota: Quota
    lease_s: float = LEASE_S
    clock: Callable[[], float] = time.monotonic
    _limit: int = field(init=False)
    _held: dict[str, int] = field(init=False, default_factory=dict)
    _heard: dict[str, float] = field(init=False, default_factory=dict)
    _next: float = field(init=False, default=0.0)
    _paused_until: float = field(init=False, default=0.0)
    _storms: Storms = field(init=False, default_factory=Storms)

    def __post_init__(self) -> None:
        self._limit = self.quota.in_flight

    @property
    def in_flight(self) -> int:
        """Number of leases."""
        return sum(self._held.values())

    def acquire(self, holder: str) -> tuple[bool, float]:
        """Ask for a lease.

        Returns
        -------
        granted
            Whether it is granted.
        wait_s
            Seconds until the request may start; if it is not granted, until the next attempt.
        """
        now = self.clock()
        self.beat(holder)
        self._drop_silent_holders(now)
        if now < self._paused_until:
            return False, self._paused_until - now
        if self.in_flight >= self._limit:
            return False, ASK_AGAIN_S
        start = max(now, self._next)
        self._next = start + SLACK / self.quota.per_second
        self._held[holder] = self._held.get(holder, 0) + 1
        return True, start - now

    def release(self, holder: str) -> None:
        """Return a lease; one that has expired is not counted."""
        self.beat(holder)
        if self._held.get(holder):
            self._held[holder] -= 1

    def beat(self, holder: str) -> None:
        """Record a sign of life."""
        self._heard[holder] = self.clock()

    def succeeded(self) -> None:
        """Record an answer."""
        self._storms.succeeded()

    def throttled(self, wait_s: float | None) -> None:
        """Record a refusal for too many requests (429); many of them pause all requests."""
        pause = self._storms.throttled(wait_s)
        if pause:
            self._paused_until = self.clock() + pause

    def restrict(self) -> None:
        """Record the restricted mode."""
        self._limit = min(self._limit, self.quota.restricted_in_flight)

    def _drop_silent_holders(self, now: float) -> None:
        for holder in [holder for holder, heard in self._heard.items() if now - heard > self.lease_s]:
            self._held.pop(holder, None)
            del self._heard[holder]


class QuotaPlugin(SchedulerPlugin):
    """Keeps a `QuotaBook` on the scheduler."""

    name = HANDLER

    def __init__(self, quota: Quota, lease_s: float = LEASE_S) -> None:
        self.book = QuotaBook(quota, lease_s)

    async def start(self, scheduler: Scheduler) -> None:
        """Register the handler of the workers' calls."""
        scheduler.handlers[HANDLER] = self.handle

    async def handle(self, act: str, **arguments: Any) -> Any:  # noqa: ANN401 - what the act answers
        """Call one method of the book."""
        if act not in {"acquire", "release", "beat", "succeeded", "throttled", "restrict"}:
            raise ValueError(f"Expected an act of the quota, got {act!r}.")
        return getattr(self.book, act)(**arguments)


class SharedLimiter:
    """Limiter of a source in any process of a cluster, see `mmearth_data.sources.earthengine.quota.Limiter`; picklable."""

    def __init__(self) -> None:
        self.switch = StopSwitch()
        self._turn = threading.Lock()
        self._starting = threading.Lock()
        self._holder = uuid.uuid4().hex

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait until a request may start; it is in flight until the context ends."""
        # One thread of a process asks at a time, so that hundreds of waiting ones do not overload the scheduler.
        with self._turn:
            wait_s = self._acquire()
        try:
            self.switch.sleep(wait_s)
            yield
        finally:
            self._ask("release", holder=self._holder)

    def _acquire(self) -> float:
        while True:
            granted, wait_s = self._ask("acquire", holder=self._holder)
            if granted:
                return float(wait_s)
            self.switch.sleep(wait_s * random.uniform(0.5, 1.5))

    def succeeded(self) -> None:
        """Record an answer."""
        self._ask("succeeded")

    def throttled(self, wait_s: float | None) -> None:
        """Record a refusal for too many requests (429)."""
        self._ask("throttled", wait_s=wait_s)

    def restrict(self) -> None:
        """Record the restricted mode."""
        self._ask("restrict")

    def connect(self) -> None:
        """Find the scheduler; called in a Dask task, since other threads cannot, or in the process of a client."""
        with self._starting:
            _ = self._call

    @cached_property
    def _call(self) -> Callable[..., Any]:
        """Function that calls the handler on the scheduler."""
        call = _scheduler_call()
        threading.Thread(target=self._keep_beating, name="quota-beat", daemon=True).start()
        return call

    def _ask(self, act: str, **arguments: Any) -> Any:  # noqa: ANN401 - what the act answers
        return self._call(act=act, **arguments)

    def _keep_beating(self) -> None:
        while True:
            time.sleep(BEAT_S)
            try:
                self._ask("beat", holder=self._holder)
            except Exception:  # the scheduler is gone, so this worker has no more work
                return


def _scheduler_call() -> Callable[..., Any]:
    """Return a function that calls the handler on the scheduler, from a worker's task or the process of a client."""
    try:
        worker = get_worker()
    except ValueError:
        return partial(get_client().sync, getattr(get_client().scheduler, HANDLER))
    return partial(sync, worker.loop, getattr(worker.scheduler, HANDLER))
