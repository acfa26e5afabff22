"""Identify what each path given to a report contains, and read it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data import InputError, is_there, shell_path, short_path
from mmearth_model.published import compare
from mmearth_model.report.results import (
    EXPERIMENT_FILE,
    RESULTS_FILE,
    ResultSet,
    read_experiment,
    read_results,
    read_tuned,
)
from mmearth_model.report.runs import RunRecord, is_run, read_run, recipe_differences
from mmearth_model.training.layout import CONFIG_FILE, RUN_FILE, STEP_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_model.published import Published

STORE_FILE = "zarr.json"
TABLE_SUFFIX = ".parquet"
EXPERIMENT_RUNS = 40
"""Maximum number of runs of one experiment whose curves are shown."""
MOST_RUNS = 200
"""Maximum number of runs in one report; more curves could not be distinguished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Content of a report, read from disk.

    Attributes
    ----------
    runs
        Runs, in the order given; those of experiments last.
    results
        Results of probes, fine-tuning and experiments.
    """

    runs: tuple[RunRecord, ...] = ()
    results: tuple[ResultSet, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Whether any run was trained, or any result measured, on synthetic tiles."""
        return any(run.synthetic for run in self.runs) or any(found.synthetic for found in self.results)

    def beside(self, published: Sequence[Published]) -> Report:
        """Return the report with comparisons of its results with published ones.

        Raises
        ------
        InputError
            If it has no results.
        """
        if not self.results:
            raise InputError(
                "--beside: expected results of evaluate, finetune or an experiment, got only runs; add the folder of "
                "--out, or leave --beside out."
            )
        results = tuple(replace(found, beside=compare(found.entries, published)) for found in self.results)
        return replace(self, results=results)

    def differences(self) -> dict[str, list[str]]:
        """Field -> its value in each run, of the fields in which the runs' recipes differ."""
        return recipe_differences(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; undefined figures are None."""
        found: dict[str, Any] = _defined(
            {
                "runs": [run.to_dict() for run in self.runs],
                "differences": self.differences(),
                "results": [asdict(found) for found in self.results],
                "synthetic": self.synthetic,
            }
        )
        return found


def _defined(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Replace numbers that are not finite by None, because JSON cannot represent them."""
    if isinstance(value, dict):
        return {key: _defined(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_report(paths: Sequence[str | Path]) -> Report:
    """Read runs, results and experiments.

    Parameters
    ----------
    paths
        Each a run, a folder of results of ``evaluate --out`` or its results.json, of ``finetune --out``, or of an
        experiment. Results in folders directly below a run are read too.

    Raises
    ------
    InputError
        When a path is none of these, is given twice, or one of its files is damaged.
    """
    folders = [Path(path) for path in paths]
    _check_distinct(folders)
    runs: list[RunRecord] = []
    results: list[ResultSet] = []
    for path in folders:
        more_runs, more_results = _read(path)
        runs += more_runs
        results += more_results
    if len(runs) > MOST_RUNS:
        raise InputError(f"expected at most {MOST_RUNS} runs in one report, got {len(runs)}; give fewer.")
    return Report(runs=_named(runs), results=tuple(results))


def _check_distinct(paths: Sequence[Path]) -> None:
    known = set()
    for path in paths:
        whole = path.absolute().resolve()
        if whole in known:
            raise InputError(f"{path}: expected each path once, got it twice; remove the duplicate.")
        known.add(whole)


def _read(path: Path) -> tuple[list[RunRecord], list[ResultSet]]:
    """Read the runs and results at a path."""
    if is_run(path):
        found = [read_results(file) for file in sorted(path.glob(f"*/{RESULTS_FILE}"))]
        return [read_run(path)], found
    if (path / EXPERIMENT_FILE).is_file():
        return _read_experiment(path)
    if path.name == RESULTS_FILE and path.is_file():
        return [], [read_results(path)]
    if (path / RESULTS_FILE).is_file():
        return [], [read_results(path / RESULTS_FILE)]
    if (path / CONFIG_FILE).is_file() and not is_run(path.parent):
        return [], [read_tuned(path)]
    raise InputError(_refusal(path))


def _read_experiment(path: Path) -> tuple[list[RunRecord], list[ResultSet]]:
    """Read the results of an experiment, and its first runs."""
    pretrained = [folder for folder in sorted(path.glob("runs/*/pretrain")) if is_run(folder)]
    found, left = read_experiment(path), len(pretrained) - EXPERIMENT_RUNS
    if left > 0:
        found = replace(found, notes=(*found.notes, f"{left} more runs have no curves here; give their folders to show them."))  # fmt: skip
    return [read_run(folder) for folder in pretrained[:EXPERIMENT_RUNS]], [found]


def _refusal(path: Path) -> str:
    expected = f"{path}: expected a run ({RUN_FILE}), results of evaluate or finetune, or an experiment, got"
    if path.name.startswith(STEP_PREFIX) and is_run(path.parent):
        return f"{expected} a checkpoint; give {path.parent}."
    if (path / STORE_FILE).is_file():
        return f"{expected} a Zarr folder; for a store: mmearth-data inspect {shell_path(path)} --html FILE."
    if path.is_dir():
        return f"{expected} a folder without these; give the folder of --out."
    return f"{expected} {'a file' if is_there(path) else 'nothing there'}; give the folder of --out."


def _named(runs: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Name runs by their paths without the common prefix."""
    if len(runs) < 2:
        return tuple(runs)
    folders = [run.folder.absolute() for run in runs]
    try:
        common = Path(commonpath(folders))
    except ValueError:  # other drives of Windows
        return tuple(runs)
    below = [folder.relative_to(common).as_posix() for folder in folders]
    if "." in below:  # a run inside another one
        return tuple(replace(run, name=short_path(run.folder)) for run in runs)
    return tuple(replace(run, name=name) for run, name in zip(runs, below, strict=True))
