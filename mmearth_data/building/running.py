"""One run of a build on a store that is held: shards, then the seal, with every failure turned into its remedy."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mmearth_data.building.executor import Progress, run
from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from mmearth_data.building.cluster import Cluster
    from mmearth_data.building.plan import BuildPlan
    from mmearth_data.sources.base import Source
    from mmearth_data.store.writer import StoreWriter


def run_build(
    plan: BuildPlan,
    source: Source,
    writer: StoreWriter,
    *,
    threads: int,
    workers: int | None,
    scheduler: str | None,
    limits: Mapping[str, Any],
    report: Callable[[Progress], None] | None,
) -> None:
    """Fill every pending shard, and seal the store once it lacks none; see `mmearth_data.api.build`.

    ``limits`` are those of `mmearth_data.building.quota.Quota`, for all workers together.
    """
    with choose_cluster(workers, scheduler, limits) as cluster:
        run(plan, source, writer, threads=threads, cluster=cluster, report=report or (lambda progress: None))
    if writer.stage == len(writer.stages) - 1:
        writer.finish()


def choose_cluster(
    workers: int | None, scheduler: str | None, limits: Mapping[str, Any]
) -> AbstractContextManager[Cluster | None]:
    """Cluster to run on, None for this process.

    Raises
    ------
    InputError
        When both are asked for, or the number is none.
    """
    if workers is None and scheduler is None:
        return nullcontext(None)
    if workers is not None and scheduler is not None:
        raise InputError("Expected --workers or --scheduler, got both; a running cluster has its own workers.")
    if workers is not None and workers < 1:
        raise InputError(f"--workers: expected at least one process, got {workers}.")
    # Dask is slow to import, and a build in this process needs none of it.
    from mmearth_data.building.cluster import local_cluster, running_cluster
    from mmearth_data.building.quota import Quota

    quota = Quota(**limits)
    return local_cluster(workers, quota) if workers is not None else running_cluster(str(scheduler), quota)
