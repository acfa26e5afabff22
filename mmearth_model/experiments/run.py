"""Run an experiment: a grid of runs, each done once, by one or several processes, on one or several machines.

::

    OUT/experiment.json            the experiment and its inputs (see `mmearth_model.experiments.record`); must not change
    OUT/store.zarr                 its own store, if the scale builds one
    OUT/runs/VARIANT-SEED/         pretrain/ (the run, until it is probed), result.json, sums.npz; result.json is last
    OUT/claims/                    runs in progress, and their processes
    OUT/results.{md,csv,json,png}  the results
"""

from __future__ import annotations

import io
import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import numpy as np
from annotated_types import MinLen
from pydantic import TypeAdapter, ValidationError

from mmearth_data import (
    FileInputError,
    InputError,
    __version__,
    build,
    did_you_mean,
    open_store,
    reason_of,
    staged_folder,
    write_bytes,
    write_text,
)
from mmearth_data import make_recipe as make_build_recipe
from mmearth_model.claims import claim
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation import Evaluation, Row, evaluate
from mmearth_model.experiments.record import identity, record, store_digest
from mmearth_model.experiments.report import write_report
from mmearth_model.experiments.spec import Experiment, Selection, Unit, plan_units
from mmearth_model.spreading import Spreading, spread
from mmearth_model.tasks import PREFIX, LabelShare
from mmearth_model.training.plan import plan_training
from mmearth_model.training.pretraining import configuration, pretrain
from mmearth_model.training.pretraining import prepare as prepare_module
from mmearth_model.training.recipe import make_recipe
from mmearth_model.training.runs import RunTaken
from mmearth_model.weights.checkpoints import load_checkpoint, read_json, write_checkpoint
from mmearth_model.weights.store_record import describe_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model.training.pretraining import TrainProgress

LOG = logging.getLogger(__name__)
RESULT_FILE = "result.json"
SUMS_FILE = "sums.npz"
POLL_S = 2.0
ELSEWHERE = "another process has this run"
YEAR_0 = 1970


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """An experiment with its folder and inputs."""

    experiment: Experiment
    scale: str
    out: Path
    stores: dict[str, Path]  # name -> store; probes use ``default``
    data: dict[str, Path]  # task -> its data, for tasks that do not come from a store
    convnext: Path | None = None
    device: str = "auto"

    def anywhere(self) -> Setting:
        """Make all paths absolute: workers may run in other folders."""
        return replace(
            self,
            out=self.out.absolute(),
            stores={name: path.absolute() for name, path in self.stores.items()},
            data={name: path.absolute() for name, path in self.data.items()},
            convnext=None if self.convnext is None else self.convnext.absolute(),
        )

    def folder(self, unit: Unit) -> Path:
        """Folder of a run."""
        return self.out / "runs" / unit.key

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with the paths of their data."""
        names = self.experiment.scale(self.scale).tasks
        return tuple(name if name.startswith(PREFIX) else f"{name}={self.data[name]}" for name in names)


def run_experiment(
    setting: Setting,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Do the unfinished runs, and write the results.

    The same call resumes; several processes that make it at the same time share the work.

    Parameters
    ----------
    setting
        The experiment, its folder and inputs.
    workers
        Number of processes on this machine.
    scheduler
        Address of a Dask scheduler, whose workers must see the same folders.
    threads
        Threads of each process on this machine; None divides its cores.
    report
        Called with a line of text at each step; None logs it.
    progress
        Called with the finished runs, the number of all known ones, and what is computed now.

    Raises
    ------
    InputError
        If folder, stores and data do not match the experiment, or no scheduler answers; nothing was run.
    RetryLater
        When a process that worked on a run died.
    """
    say = report or LOG.info
    setting = prepare(setting.anywhere(), say)
    while True:
        units = _planned(setting)
        todo = [unit for unit in units if not finished(setting, unit)]
        if not todo:
            break
        say(f"{len(units) - len(todo)} of {len(units)} known runs finished.")
        spreading = Spreading(workers, scheduler, threads)
        if not _run_all(setting, todo, spreading, say, _Runs(len(units) - len(todo), len(units), progress)):
            time.sleep(POLL_S)
    first, *others = (read_result(setting, unit) for unit in units)
    result = first.merged(*others)
    write_report(setting.experiment, setting.scale, result, setting.out, synthetic=open_store(setting.stores["default"]).synthetic)  # fmt: skip
    return result


def prepare(setting: Setting, report: Callable[[str], None]) -> Setting:
    """Check that an experiment can run, record it, and build its own store if it has one."""
    _check_inputs(setting)
    resolve_device(setting.device)
    asked = identity(setting)
    record(setting.out, asked)
    if "default" in setting.stores:
        return setting
    path, scale = setting.out / "store.zarr", setting.experiment.scale(setting.scale)
    with claim(setting.out / "claims" / "store") as ours:
        if ours and not _finished_store(path):
            report(f"building {path}")
            build(make_build_recipe(None, dict(scale.build or {})), path)
    while not _finished_store(path):
        time.sleep(POLL_S)
    record(setting.out, {**asked, "own_store": store_digest(path)})
    return replace(setting, stores={**setting.stores, "default": path})


def _check_inputs(setting: Setting) -> None:
    """Refuse missing stores, data and weights, and those that no variant and no task uses."""
    name, scale = setting.experiment.name, setting.experiment.scale(setting.scale)
    variants = setting.experiment.variants.values()
    tasks = [task for task in scale.tasks if not task.startswith(PREFIX)]
    lacking = [task for task in tasks if task not in setting.data]
    if lacking:
        raise InputError(f"{name}: expected the data of {', '.join(lacking)}; give --data {lacking[0]}=PATH.")
    convnext = any(v.network == "convnext" for v in variants)
    if convnext and setting.convnext is None:
        raise InputError(f"{name}: expected plain ConvNeXt V2 weights; give --convnext FILE.")
    if "default" not in setting.stores and scale.build is None:
        raise InputError(f"{name} --scale {setting.scale}: expected a store; give --store STORE.")
    stores = {"default", *(v.store for v in variants)}
    absent = stores - {*setting.stores, "default"}
    if absent:
        raise InputError(f"{name}: expected the store {min(absent)!r}; give --store {min(absent)}=STORE.")
    for option, given, known in (("--store", setting.stores, stores), ("--data", setting.data, set(tasks))):
        for unused in given.keys() - known:
            raise InputError(f"{option} {unused}: {name} uses no such name; {did_you_mean(unused, sorted(known))}")
    if setting.convnext is not None and not convnext:
        raise InputError(f"--convnext: expected none with {name}, none of whose variants uses it; leave it out.")


def _finished_store(path: Path) -> bool:
    return (path / "zarr.json").is_file() and open_store(path).finished


def _planned(setting: Setting) -> list[Unit]:
    modalities = tuple(open_store(setting.stores["default"]).modalities.values())
    scale = setting.experiment.scale(setting.scale)
    known: dict[str, float] = {}
    while True:
        units = plan_units(setting.experiment, scale, modalities, known)
        names = {unit.name for unit in units} - known.keys()
        fresh = {name: _validation(setting, [u for u in units if u.name == name]) for name in names}
        done = {name: value for name, value in fresh.items() if value is not None}
        if not done:
            return units
        known |= done


def _validation(setting: Setting, units: Sequence[Unit]) -> float | None:
    """Mean of the first task's validation value over a variant's seeds; None unless all are finished."""
    if not all(finished(setting, unit) for unit in units):
        return None
    rows = [row for unit in units for row in read_result(setting, unit).rows]
    first = [row.validation for row in rows if row.task == rows[0].task and row.validation is not None]
    return float(np.mean(first)) if first else 0.0


@dataclass
class _Runs:
    """Counts the runs, and reports them."""

    done: int
    total: int
    report: Callable[[int, int, str], None] | None

    def tell(self, what: str) -> None:
        if self.report is not None:
            self.report(self.done, self.total, what)

    def training(self, unit: Unit, state: TrainProgress) -> None:
        self.tell(f"{unit.key}: step {state.step:,}/{state.steps:,}")

    def probing(self, unit: Unit, done: int, total: int, what: str) -> None:
        self.tell(f"{unit.key}: {what}" if what else f"{unit.key}: {done}/{total} probes")

    def finish(self, unit: Unit) -> None:
        self.done += 1
        self.tell(f"{unit.key} finished")


def _run_all(
    setting: Setting, todo: Sequence[Unit], spreading: Spreading, report: Callable[[str], None], runs: _Runs
) -> bool:
    """Do all runs that no other process has; True if this call finished any."""
    done = False
    runs.tell("")
    if spreading.elsewhere:
        for unit, ran in spread(partial(run_unit, setting), todo, spreading):
            done |= ran
            runs.finish(unit)
            report(f"{unit.key}: {'finished' if ran else ELSEWHERE}")
        return done
    for unit in todo:
        begin = time.perf_counter()
        ran = run_unit(setting, unit, runs)
        done |= ran
        runs.finish(unit)
        report(f"{unit.key}: {f'{time.perf_counter() - begin:.0f} s' if ran else ELSEWHERE}")
    return done


def finished(setting: Setting, unit: Unit) -> bool:
    """Whether a run has its result."""
    return (setting.folder(unit) / RESULT_FILE).is_file()


def run_unit(setting: Setting, unit: Unit, runs: _Runs | None = None) -> bool:
    """Pretrain and probe one variant with one seed, unless it is done or another process does it."""
    runs = runs or _Runs(0, 0, None)
    with claim(setting.out / "claims" / unit.key) as ours:
        if not ours or finished(setting, unit):
            return False
        folder = setting.folder(unit)
        try:
            checkpoint = _checkpoint(setting, unit, folder / "pretrain", partial(runs.training, unit))
        except RunTaken:
            # A process that died on another machine was training it; its claim on the unit expired slightly earlier.
            return False
        result = _probe(setting, unit, checkpoint, partial(runs.probing, unit))
        sums = io.BytesIO()
        np.savez_compressed(sums, *result.sums)
        write_bytes(folder / SUMS_FILE, sums.getbuffer())
        write_text(folder / RESULT_FILE, json.dumps([asdict(row) for row in result.rows], indent=1) + "\n")
        return True


def _checkpoint(setting: Setting, unit: Unit, folder: Path, report: Callable[[TrainProgress], None]) -> Path | None:
    """Train, resume training, or write random weights; None if the weights come from elsewhere."""
    variant, scale = unit.variant, setting.experiment.scale(setting.scale)
    if variant.network == "convnext":
        return None
    store = select(open_store(setting.stores[variant.store]), variant.select)
    exclude = [name for name in scale.exclude if name in store.modalities]
    recipe = make_recipe(scale.recipe, {"exclude": exclude, **scale.train, **variant.train, "seed": unit.seed})
    if variant.network == "trained":
        return pretrain(store, recipe, folder, device=setting.device, report=report)
    plan = plan_training(store, recipe)
    module = prepare_module(plan, store, None, 0)
    identity = {"store": describe_store(store, folder.parent), "version": __version__}
    config = {**configuration(module, identity), "progress": {"step": 0, "steps": plan.steps}}
    with staged_folder(folder) as new:
        write_checkpoint(new, {"model": module.model, "losses": module.losses}, config)
    return folder


def _probe(
    setting: Setting, unit: Unit, checkpoint: Path | None, report: Callable[[int, int, str], None]
) -> Evaluation:
    scale = setting.experiment.scale(setting.scale)
    result = evaluate(
        [] if checkpoint is None else [load_checkpoint(checkpoint)],
        select(open_store(setting.stores["default"]), setting.experiment.probe),
        setting.tasks,
        protocols=scale.protocols,
        labels=[LabelShare.parse(text) for text in scale.labels],
        seeds=1,
        baselines=(),
        convnext=setting.convnext if unit.variant.network == "convnext" else None,
        device=setting.device,
        report=report,
    )
    trained = unit.variant.network == "trained"
    rows = (replace(row, encoder=unit.name, seed=unit.seed, leaky=row.leaky and trained) for row in result.rows)
    return Evaluation(tuple(rows), result.sums)


def read_result(setting: Setting, unit: Unit) -> Evaluation:
    """Read the result of a finished run. Raises `FileInputError` if it is damaged."""
    file = setting.folder(unit) / RESULT_FILE
    expected, remedy = "the result of a run", "; remove this file to repeat the run"
    found = read_json(file, expected, remedy)
    try:
        rows = TypeAdapter(Annotated[tuple[Row, ...], MinLen(1)]).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise FileInputError(file, f"expected {expected}, got other JSON ({what}){remedy}.") from None
    return Evaluation(rows, _read_sums(setting.folder(unit) / SUMS_FILE, len(rows)))


def _read_sums(file: Path, count: int) -> tuple[NDArray[Any], ...]:
    try:
        with np.load(io.BytesIO(file.read_bytes())) as arrays:  # given a path, NumPy would leave a damaged file open
            return tuple(arrays[f"arr_{index}"] for index in range(count))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise FileInputError(
            file,
            f"expected the sums of {count} results, got: {reason_of(error)}; remove {RESULT_FILE} next to it to repeat "
            "the run.",
        ) from None


def select(store: Store, selection: Selection) -> Store:
    """Select tiles of a store. Raises `InputError` if none is left."""
    coords = store.coords
    keep = np.ones(len(store), dtype=bool)
    if selection.years is not None:
        year = coords["time"].astype("datetime64[ms]").astype("datetime64[Y]").astype(int) + YEAR_0
        keep &= np.isin(year, selection.years)
    if selection.bboxes is not None:
        lon, lat = coords["lon"], coords["lat"]
        keep &= np.any([(w <= lon) & (lon < e) & (s <= lat) & (lat < n) for w, s, e, n in selection.bboxes], axis=0)
    if selection.tiles is not None:
        train = coords["split"] == 0
        keep &= ~train | (np.cumsum(train & keep) <= selection.tiles)
    if not keep.any():
        raise InputError(f"{store.path}: expected tiles of {selection.model_dump(exclude_none=True)}, got none.")
    return store if keep.all() else store.select(where=keep)
