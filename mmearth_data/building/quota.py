"""One quota over all workers of a cluster: leases, kept on the Dask scheduler.

A service that allows so many requests at once and so many a second does not care how many processes send
them. The book of leases lies on the scheduler, which all workers talk to anyway. A process that dies cannot
give its leases back; they run out when it has not been heard of for a while. All times are the scheduler's
own monotonic clock, so no clock that jumps and no two clocks that differ can matter.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from distributed import SchedulerPlugin, get_client, get_worker
from distributed.utils import sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Scheduler

HANDLER = "mmearth_quota"
LEASE_S = 60.0
"""A process that is not heard of for so long has lost its leases. Longer than any pause of a living one."""
BEAT_S = 10.0
"""Living processes make themselves heard this often, however long their requests take."""
ASK_AGAIN_S = 0.05
SLACK = 1.05
"""Starts are spaced a little wider than the limit: on their way requests move closer together."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0
STORM_LEAST, STORM_SHARE, STORM_WINDOW = 20, 0.5, 40
"""A storm: of the last outcomes (at least so many), so large a share were refusals for sending too much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """What the service allows.

    Attributes
    ----------
    in_flight
        Requests at once.
    per_second
        Starts a second.
    restricted_in_flight
        Requests at once after the service announced its restricted mode.
    """

    in_flight: int = 40
    per_second: float = 100.0
    restricted_in_flight: int = 1


@dataclass
class QuotaBook:
    """Who holds how many leases. Plain values and a clock; whoever owns it calls from one thread.

    Attributes
    ----------
    quota
        The limits.
    lease_s
        A holder that is not heard of for so long loses its leases.
    clock
        Seconds that never jump.
    """

    quota: Quota
    lease_s: float = LEASE_S
    clock: Callable[[], float] = time.monotonic
    _limit: int = field(init=False)
    _held: dict[str, int] = field(init=False, default_factory=dict)
    _heard: dict[str, float] = field(init=False, default_factory=dict)
    _next: float = field(init=False, default=0.0)
    _paused_until: float = field(init=False, default=0.0)
    _pause_s: float = field(init=False, default=FIRST_PAUSE_S)
    _outcomes: list[bool] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._limit = self.quota.in_flight

    @property
    def in_flight(self) -> int:
        """Leases that are held now."""
        return sum(self._held.values())

    def acquire(self, holder: str) -> tuple[bool, float]:
        """Ask for a lease.

        Returns
        -------
        granted
            Whether there is one.
        wait_s
            Seconds until its turn; where there is none, until it makes sense to ask again.
        """
        now = self.clock()
        self.beat(holder)
        self._forget_the_dead(now)
        if now < self._paused_until:
            return False, self._paused_until - now
        if self.in_flight >= self._limit:
            return False, ASK_AGAIN_S
        start = max(now, self._next)
        self._next = start + SLACK / self.quota.per_second
        self._held[holder] = self._held.get(holder, 0) + 1
        return True, start - now

    def release(self, holder: str) -> None:
        """Give a lease back; one that ran out meanwhile counts no more."""
        self.beat(holder)
        if self._held.get(holder):
            self._held[holder] -= 1

    def beat(self, holder: str) -> None:
        """Hear of a holder."""
        self._heard[holder] = self.clock()

    def succeeded(self) -> None:
        """Take note of an answer."""
        self._note(refused=False)
        self._pause_s = FIRST_PAUSE_S

    def throttled(self, wait_s: float | None) -> None:
        """Take note of a refusal for sending too much; a storm of them pauses everybody."""
        self._note(refused=True)
        if len(self._outcomes) < STORM_LEAST or sum(self._outcomes) < STORM_SHARE * len(self._outcomes):
            return
        pause = max(self._pause_s, wait_s or 0.0)
        self._paused_until = self.clock() + pause
        self._pause_s = min(2 * pause, LONGEST_PAUSE_S)
        self._outcomes.clear()

    def restrict(self) -> None:
        """Take note of the restricted mode."""
        self._limit = min(self._limit, self.quota.restricted_in_flight)

    def _note(self, *, refused: bool) -> None:
        self._outcomes = [*self._outcomes[-STORM_WINDOW + 1 :], refused]

    def _forget_the_dead(self, now: float) -> None:
        for holder in [holder for holder, heard in self._heard.items() if now - heard > self.lease_s]:
            self._held.pop(holder, None)
            del self._heard[holder]


class QuotaPlugin(SchedulerPlugin):
    """Keeps the book on the scheduler."""

    name = HANDLER

    def __init__(self, quota: Quota, lease_s: float = LEASE_S) -> None:
        self.book = QuotaBook(quota, lease_s)

    async def start(self, scheduler: Scheduler) -> None:
        """Answer the workers."""
        scheduler.handlers[HANDLER] = self.handle

    async def handle(self, act: str, **arguments: Any) -> Any:  # noqa: ANN401 - what the act answers
        """Call one method of the book."""
        if act not in {"acquire", "release", "beat", "succeeded", "throttled", "restrict"}:
            raise ValueError(f"Expected an act of the quota, got {act!r}.")
        return getattr(self.book, act)(**arguments)


class SharedLimiter:
    """The quota as a source sees it, in any process of a cluster.

    Sources take it in the place of a limiter of their own; it survives pickling.

    Parameters
    ----------
    quota
        Its limits; only their number at once is looked at here.
    """

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._turn = threading.Lock()
        self._starting = threading.Lock()
        self._call: Callable[..., Any] | None = None
        self._holder = uuid.uuid4().hex

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.quota,)

    @property
    def in_flight_limit(self) -> int:
        """Requests at once over all processes."""
        return self.quota.in_flight

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Wait until a request may go; it is in flight until the context ends."""
        # One thread of a process asks at a time, so that hundreds of waiting ones do not flood the scheduler.
        with self._turn:
            wait_s = self._acquire()
        time.sleep(wait_s)
        try:
            yield
        finally:
            self._ask("release", holder=self._holder)

    slot = lease

    def _acquire(self) -> float:
        while True:
            granted, wait_s = self._ask("acquire", holder=self._holder)
            if granted:
                return float(wait_s)
            time.sleep(wait_s * random.uniform(0.5, 1.5))

    def succeeded(self) -> None:
        """Take note of an answer."""
        self._ask("succeeded")

    def throttled(self, wait_s: float | None) -> None:
        """Take note of a refusal for sending too much."""
        self._ask("throttled", wait_s=wait_s)

    def restrict(self) -> None:
        """Take note of the restricted mode."""
        self._ask("restrict")

    def connect(self) -> None:
        """Find the way to the scheduler; to be called from a Dask task, or beside a Dask client."""
        with self._starting:
            if self._call is None:
                self._call = _scheduler_call()
                threading.Thread(target=self._keep_beating, name="quota-beat", daemon=True).start()

    def _ask(self, act: str, **arguments: Any) -> Any:  # noqa: ANN401 - what the act answers
        if self._call is None:
            self.connect()
        return cast("Callable[..., Any]", self._call)(act=act, **arguments)

    def _keep_beating(self) -> None:
        while True:
            time.sleep(BEAT_S)
            try:
                self._ask("beat", holder=self._holder)
            except Exception:  # the scheduler is gone, and with it this worker's work
                return


def _scheduler_call() -> Callable[..., Any]:
    """Return what calls the handler on the scheduler, from a worker's task or beside a client."""
    try:
        worker = get_worker()
    except ValueError:
        return partial(get_client().sync, getattr(get_client().scheduler, HANDLER))
    return partial(sync, worker.loop, getattr(worker.scheduler, HANDLER))
