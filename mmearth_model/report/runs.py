"""Data of a run folder for a report: recipe, store, log and checkpoints; nothing is loaded into PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, short_path
from mmearth_model.report.files import read_object
from mmearth_model.report.log import TOTAL, LogTable, read_log_table
from mmearth_model.training.layout import CONFIG_FILE, FIGURES, LOG_FILE, RUN_FILE, numbered, step_of
from mmearth_model.training.recipe import TrainRecipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NOT_COMPARED = frozenset({"path", "relative"})
"""Fields of a store's record that describe its location, not its content."""
NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes
    ----------
    name
        Shortest path of its folder that is unique among the runs of a report.
    folder
        Its folder.
    recipe, store, version
        As recorded when the run began.
    log
        Its log; None if there is none yet.
    step, steps
        Optimiser steps of the last checkpoint, and of the whole run; None if no checkpoint records them.
    checkpoint
        Folder of the last checkpoint, if there is one.
    pictures
        Step -> picture of reconstructions that the run saved.
    notes
        Anything missing or unusual, one sentence each.
    """

    name: str
    folder: Path
    recipe: Mapping[str, Any]
    store: Mapping[str, Any]
    version: str = ""
    log: LogTable | None = None
    step: int | None = None
    steps: int | None = None
    checkpoint: Path | None = None
    pictures: Mapping[int, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether its last checkpoint is that of the last step."""
        return self.step is not None and self.step == self.steps

    @property
    def state(self) -> str:
        """Its progress, for display."""
        if self.finished:
            return f"finished, {self.steps:,} steps"
        reached = 0 if self.log is None or not len(self.log) else int(self.log.columns["step"][-1])
        of = "" if self.steps is None else f" of {self.steps:,}"
        return f"at step {max(reached, self.step or 0):,}{of}"

    @property
    def synthetic(self) -> bool:
        """Whether its store is synthetic."""
        return bool(self.store.get("synthetic"))

    def losses(self) -> dict[str, tuple[float, float]]:
        """Task -> first and last finite loss; the total comes first."""
        if self.log is None:
            return {}
        columns = {name: self.log.columns[name] for name in (TOTAL, *self.log.tasks)}
        known = {name: values[np.isfinite(values)] for name, values in columns.items()}
        return {name: (float(values[0]), float(values[-1])) for name, values in known.items() if len(values)}

    def last(self, column: str) -> float | None:
        """Last finite value of a column of the log, if there is one."""
        values = self.log.columns.get(column) if self.log is not None else None
        if values is None or not np.isfinite(values).any():
            return None
        return float(values[np.isfinite(values)][-1])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the rows of the log."""
        weights = {} if self.log is None else self.log.weights
        return {
            "name": self.name,
            "folder": str(self.folder),
            "state": self.state,
            "finished": self.finished,
            "step": self.step,
            "steps": self.steps,
            "losses": {task: {"first": first, "last": last} for task, (first, last) in self.losses().items()},
            "weights": {task: float(values[-1]) for task, values in weights.items()},
            "images_per_s": self.last("images_per_s"),
            "waiting": self.last("waiting"),
            "recipe": dict(self.recipe),
            "store": dict(self.store),
            "version": self.version,
            "notes": list(self.notes),
        }


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / RUN_FILE).is_file()


def read_run(folder: Path) -> RunRecord:
    """Read a run, whether it is finished or not.

    Raises
    ------
    InputError
        When it is not a run, or one of its files is damaged.
    """
    record = read_object(folder / RUN_FILE, "the record of a run")
    recipe, store = record.get("recipe"), record.get("store")
    if not isinstance(recipe, dict) or not isinstance(store, dict):
        raise FileInputError(folder / RUN_FILE, "expected the record of a run, with its recipe and store, got something else; restore it.")  # fmt: skip
    log = read_log_table(folder / LOG_FILE) if (folder / LOG_FILE).is_file() else None
    checkpoint = _latest(folder)
    step, steps = (None, None) if checkpoint is None else _progress(checkpoint)
    notes = [*(() if log is None else log.notes)]
    if log is None or not len(log):
        notes.append(f"it has no {LOG_FILE} yet" if log is None else f"its {LOG_FILE} has no row yet")
    if checkpoint is None:
        notes.append("it has no checkpoint yet")
    return RunRecord(
        name=short_path(folder),
        folder=folder,
        recipe=recipe,
        store=store,
        version=str(record.get("version", "")),
        log=log if log is not None and len(log) else None,
        step=step,
        steps=steps,
        checkpoint=checkpoint,
        pictures={step_of(path): path for path in numbered(folder / FIGURES, ".png")},
        notes=tuple(notes),
    )


def _latest(folder: Path) -> Path | None:
    found = [path for path in numbered(folder) if (path / CONFIG_FILE).is_file()]
    return found[-1] if found else None


def _progress(checkpoint: Path) -> tuple[int, int | None]:
    config = read_object(checkpoint / CONFIG_FILE, "the configuration of a checkpoint")
    progress = config.get("progress")
    steps = progress.get("steps") if isinstance(progress, dict) else None
    return step_of(checkpoint), steps if isinstance(steps, int) else None


def recipe_fields(run: RunRecord) -> dict[str, str]:
    """Field -> value as text, of a run's recipe, its store and the version."""
    store = {f"store {name}": value for name, value in run.store.items() if name not in NOT_COMPARED}
    whole = {**TrainRecipe().identity(), **run.recipe, **store, "version": run.version}
    return {name: _text(value) for name, value in _flat(whole)}


def recipe_differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Field -> its value in each run, of the fields in which the runs differ.

    Fields that a run of an earlier version lacks have the current default.
    """
    flat = [recipe_fields(run) for run in runs]
    fields = dict.fromkeys(name for values in flat for name in values)
    table = {name: [values.get(name, NOTHING) for values in flat] for name in fields}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:  # noqa: ANN401 - JSON
    if value is None or value in ("", [], {}):
        return NOTHING
    return ", ".join(map(_text, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)  # fmt: skip
