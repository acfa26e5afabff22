"""Shards on a Dask cluster: processes of this machine, or a cluster that is running already."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import threading
import uuid
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, Security, as_completed
from distributed.comm.core import CommClosedError
from distributed.comm.core import connect as open_connection
from distributed.utils import LoopRunner

from mmearth_data.building.quota import Quota, QuotaPlugin, SharedLimiter
from mmearth_data.building.worker import SHARDS_AT_ONCE, ShardReport, ShardWorker
from mmearth_data.errors import InputError, RetryLater
from mmearth_data.sources.opening import over_network
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mmearth_data.building.plan import ShardPlan

CONNECT_S = 20
_CREATING = threading.Lock()


class Cluster:
    """A Dask cluster that fills shards.

    Parameters
    ----------
    client
        Connected to its scheduler.
    quota
        Limits of the source's service for all workers together.
    """

    def __init__(self, client: Client, quota: Quota) -> None:
        self._client = client
        self._quota = quota

    def run(self, pending: Iterator[ShardPlan], worker: ShardWorker) -> Generator[ShardReport, None, None]:
        """Fill shards on the workers; yields a report after each commit.

        Each worker has as many shards at the same time as it has threads, and one more waiting.

        Raises
        ------
        RetryLater
            When the scheduler or too many workers are gone.
        """
        remote = over_network(worker.source)
        if remote is not None:
            self._client.register_plugin(QuotaPlugin(self._quota))
            remote.limiter = SharedLimiter()
        job = pickle.dumps(worker)
        run = uuid.uuid4().hex  # a scheduler treats tasks of the same name as one task, even those of another build
        running = as_completed(loop=self._client.loop)
        try:
            while True:
                for plan in islice(pending, max(1, self._room() - running.count())):
                    running.add(self._client.submit(work, job, plan, key=f"shard-{plan.shard}-{run}", pure=False))
                if running.is_empty():
                    return
                finished: Future[ShardReport] = next(running)
                yield finished.result()
        except KilledWorker as error:
            raise RetryLater(
                f"Dask gave up a shard whose workers died one after another ({error}); is their memory enough? "
                "What is committed is kept: run the same command again to continue."
            ) from error
        except (CommClosedError, CancelledError, TimeoutError) as error:
            raise RetryLater(
                f"The Dask scheduler {self._address()} is gone ({error or type(error).__name__}). "
                "What is committed is kept: run the same command again to continue."
            ) from error
        finally:
            for future in list(running.futures):
                future.release()

    def _room(self) -> int:
        """Count the shards for all workers together: one per thread, and one more per worker."""
        workers: dict[str, int] = self._client.nthreads()
        return max(1, sum(workers.values()) + len(workers))

    def _address(self) -> str:
        return str(getattr(self._client.scheduler, "address", "") or "")


def _quiet() -> None:
    """Keep Dask from logging lost connections and slow shutdowns: the build reports what matters in one line.

    Called before anything is started, because what Dask closes later logs too. A worker process that does not end within
    seconds (a busy machine) is killed by its nanny; nothing is lost, since a shard is committed or not.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith(("distributed", "tornado"))]
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def work(job: bytes, plan: ShardPlan) -> ShardReport:
    """Fill and commit one shard, in a task of any worker."""
    with _CREATING:
        worker = _worker_of(job)
        remote = over_network(worker.source)
        if remote is not None:
            remote.limiter.connect()
    report = worker.work(plan)
    return dataclasses.replace(report, worker=worker.name, account={} if remote is None else remote.account())


@lru_cache(maxsize=1)
def _worker_of(job: bytes) -> ShardWorker:
    """Worker of a build in this process, so that its shards share pools, surveys and the source's session."""
    worker: ShardWorker = pickle.loads(job)
    return worker


@contextmanager
def local_cluster(workers: int, quota: Quota | None = None) -> Iterator[Cluster]:
    """Start processes on this machine; they end with the block."""
    _quiet()
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        closing(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=SHARDS_AT_ONCE,
                processes=True,
                dashboard_address="127.0.0.1:0",  # None means port 8787, which another build may have
                memory_limit=None,
                silence_logs=logging.CRITICAL,
            )
        ) as cluster,
        closing(Client(cluster, set_as_default=False)) as client,  # what the caller computes with Dask stays as it is
    ):
        yield Cluster(client, quota or Quota())


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """Connect to the scheduler of a running Dask cluster, such as ``tcp://HOST:8786``.

    Raises
    ------
    InputError
        When nothing answers there.
    """
    _quiet()
    try:
        LoopRunner(asynchronous=False).run_sync(_greet, address)
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"--scheduler: expected the address of a running Dask scheduler, such as tcp://HOST:8786, got {address!r} "
            f"({reason_of(error)})."
        ) from error
    with closing(client):
        yield client


async def _greet(address: str) -> None:
    """Connect and disconnect: a client that cannot connect prints a traceback and waits for a minute at exit."""
    there = await open_connection(address, timeout=CONNECT_S, **Security().get_connection_args("client"))
    await there.close()


@contextmanager
def running_cluster(address: str, quota: Quota | None = None) -> Iterator[Cluster]:
    """Use a cluster that is running already; see `connect`."""
    with connect(address) as client:
        yield Cluster(client, quota or Quota())
