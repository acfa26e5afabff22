"""Build a store: from a recipe to the last shard and the seal, in this process or on a cluster."""

from __future__ import annotations

import uuid
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mmearth_data.building.append import (
    appended_store,
    begin_append,
    forget_append,
    intended,
    is_appended,
    is_begun,
    plan_append,
)
from mmearth_data.building.executor import Progress, run
from mmearth_data.building.labels import refuse_changed_labels
from mmearth_data.building.prepare import planned, read_inputs
from mmearth_data.errors import InputError
from mmearth_data.sources.opening import over_network, with_size
from mmearth_data.store.ledger import merge_ledgers, write_ledger
from mmearth_data.store.reader import open_store
from mmearth_data.store.session import NewStore, find_store, ignore, refuse_other, session
from mmearth_data.store.storage import storage_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mmearth_data.building.cluster import Cluster
    from mmearth_data.building.plan import BuildPlan
    from mmearth_data.building.prepare import Inputs, PreparedBuild
    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source, SourceOverNetwork
    from mmearth_data.store.reader import Store
    from mmearth_data.store.session import Session
    from mmearth_data.store.writer import StoreWriter


def build(
    recipe: BuildRecipe,
    out: str | Path,
    *,
    catalog: Catalog | None = None,
    report: Callable[[Progress], None] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    note: Callable[[str], None] | None = None,
    append: int | None = None,
    done: Callable[[], None] | None = None,
) -> None:
    """Build a store, continue one that was interrupted, or append to one; see `mmearth_data.build`."""
    note = note or ignore
    recipe = with_size(recipe, catalog)
    with session(out, note) as work:
        existing = _existing(work, out, recipe, append)
        inputs = read_inputs(recipe, catalog, connect=True)
        if existing is not None:
            refuse_other(existing.path, existing.attributes, source=_identity(inputs))
        if existing is None or not _is_complete(existing, append, note):
            if existing is None:
                prepared, writer = _begin(work, recipe, inputs, note)
            else:
                prepared, writer = _continue(work, existing, recipe, inputs, append)
            reports = (work.confirmed(report or ignore), report or ignore)
            _run_stages(writer, recipe, inputs, prepared, reports, workers=workers, scheduler=scheduler)
            for sentence in _missing_everywhere(open_store(out)) if recipe.source_file is not None else ():
                note(sentence)
    (done or ignore)()
    if work.held:
        forget_append(out)


def _existing(work: Session, out: str | Path, recipe: BuildRecipe, append: int | None) -> Store | None:
    """Return the store at a path, held if work remains; None if a new one can be written there."""
    existing = find_store(out) if append is None else appended_store(out, recipe, append)
    if existing is None:
        return None
    refuse_changed_labels(existing, recipe)
    refuse_other(existing.path, existing.attributes, recipe=recipe.identity())
    if append is None and existing.finished and intended(out) is None:
        return existing
    work.hold()
    return open_store(out)


def inputs_of_store(
    path: str | Path, attributes: Mapping[str, Any], recipe: BuildRecipe, catalog: Catalog | None
) -> Inputs:
    """Open the inputs of a store; raises InputError if it was begun with another recipe or source."""
    inputs = read_inputs(recipe, catalog, connect=True)
    refuse_other(path, attributes, recipe=recipe.identity(), source=_identity(inputs))
    return inputs


def rebuild(work: Session, recipe: BuildRecipe, inputs: Inputs, report: Callable[[Progress], None]) -> None:
    """Fill in this process whatever is missing from a store that the session holds; raises like `build`."""
    reports = (work.confirmed(report), report)
    _run_stages(work.resume(), recipe, inputs, None, reports, workers=None, scheduler=None)


def _identity(inputs: Inputs) -> dict[str, Any]:
    """Return the attribute ``source`` of a store that is built from these inputs."""
    return {**inputs.source.identity(), "synthetic": inputs.source.synthetic}


def _is_complete(store: Store, append: int | None, note: Callable[[str], None]) -> bool:
    """Whether nothing is left to do; if an append was interrupted after its last step, a note reports it."""
    if append is None:
        return store.finished
    if not is_appended(store, append):
        return False
    note(f"{store.path}: the interrupted append of {append} tiles is complete; run the command again to append more.")
    return True


def _begin(
    work: Session, recipe: BuildRecipe, inputs: Inputs, note: Callable[[str], None]
) -> tuple[PreparedBuild | None, StoreWriter]:
    """Plan and writer of a new store."""
    prepared = planned(recipe, inputs)
    for sentence in prepared.notes:
        note(sentence)
    source = inputs.source
    new = NewStore(
        layout=prepared.plan.layout, recipe=recipe.identity(), source=source.identity(), synthetic=source.synthetic
    )
    return prepared, work.begin(new)


def _continue(
    work: Session, store: Store, recipe: BuildRecipe, inputs: Inputs, append: int | None
) -> tuple[PreparedBuild | None, StoreWriter]:
    """Writer of an interrupted build or append; or of a new append, and its plan, which is made before any change."""
    if append is None or is_begun(store, append):
        return None, work.resume()
    prepared = plan_append(recipe, inputs, store, store.layout.tiles, append)
    return prepared, begin_append(store.path, append)


def _missing_everywhere(store: Store) -> list[str]:
    """Messages about modalities for which files were read but that no tile has."""
    valid = store.coords["valid"]
    return [
        f"{m.name}: no tile has a value; check nodata, scale, clip and codes of its layers in the mapping."
        for bit, m in enumerate(store.layout.stored)
        if m.kind.is_raster and not (valid >> bit & 1).any()
    ]


def _run_stages(
    writer: StoreWriter,
    recipe: BuildRecipe,
    inputs: Inputs,
    prepared: PreparedBuild | None,
    reports: tuple[Callable[[Progress], None], Callable[[Progress], None]],
    **cluster: Any,
) -> None:
    """Fill the missing shards of a build and of the appends that followed it, in order, and seal the store.

    ``prepared`` is the plan of the last of them, if it is known. ``reports`` are called after each shard, and in between.
    """
    report, watch = reports
    remote = over_network(inputs.source)
    threads = max(recipe.threads, remote.in_flight if remote else 0)
    limits = {name: getattr(recipe, name) for name in ("in_flight", "per_second", "restricted_in_flight")}
    with _kept_ledger(writer.path, remote, report) as reported:
        for at in writer.unfinished_stages():  # locations of an append depend on the tiles that exist by then
            if at.stage == writer.stage and prepared is not None:
                plan = prepared.plan
            elif at.stage == 0:
                plan = planned(recipe, inputs).plan
            else:
                more = at.layout.tiles - at.first_row
                plan = plan_append(recipe, inputs, open_store(writer.path), at.first_row, more).plan
            run_build(plan, inputs.source, at, threads=threads, limits=limits, report=reported, watch=watch, **cluster)
        writer.finish()


@contextmanager
def _kept_ledger(
    out: str | Path, remote: SourceOverNetwork | None, report: Callable[[Progress], None]
) -> Iterator[Callable[[Progress], None]]:
    """Write the requests of a source over the network to the store's ledger, after each shard and at the end.

    Those of its copies on a cluster are added.
    """
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    elsewhere: list[Mapping[str, Any]] = []

    def keep() -> None:
        if remote is not None and storage_at(out).is_there():
            write_ledger(out, name, merge_ledgers([remote.account(), *elsewhere]))

    def reported(progress: Progress) -> None:
        elsewhere[:] = progress.accounts.values()
        keep()
        report(progress)

    try:
        yield reported
    finally:
        keep()


def run_build(
    plan: BuildPlan,
    source: Source,
    writer: StoreWriter,
    *,
    threads: int,
    workers: int | None,
    scheduler: str | None,
    limits: Mapping[str, Any],
    report: Callable[[Progress], None] = ignore,
    watch: Callable[[Progress], None] = ignore,
) -> None:
    """Fill every pending shard of a plan; see `build`.

    ``limits`` are those of `mmearth_data.building.quota.Quota`, for all workers together.
    """
    with choose_cluster(workers, scheduler, limits) as cluster:
        run(plan, source, writer, threads=threads, cluster=cluster, report=report, watch=watch)


def choose_cluster(
    workers: int | None, scheduler: str | None, limits: Mapping[str, Any]
) -> AbstractContextManager[Cluster | None]:
    """Cluster to run on, None for this process.

    Raises
    ------
    InputError
        When both are given, or ``workers`` is less than 1.
    """
    if workers is None and scheduler is None:
        return nullcontext(None)
    if workers is not None and scheduler is not None:
        raise InputError("Expected --workers or --scheduler, got both; a running cluster has its own workers.")
    if workers is not None and workers < 1:
        raise InputError(f"--workers: expected at least one process, got {workers}.")
    # Dask is slow to import, and a build in this process does not need it.
    from mmearth_data.building.cluster import local_cluster, running_cluster
    from mmearth_data.building.quota import Quota

    quota = Quota(**limits)
    return local_cluster(workers, quota) if workers is not None else running_cluster(str(scheduler), quota)
