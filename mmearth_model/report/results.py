"""Results of probes, fine-tuning and experiments, read back from the files that their commands write."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmearth_data import FileInputError, short_path
from mmearth_model.formatting import title_of
from mmearth_model.published import Beside
from mmearth_model.report.files import read_json, read_object
from mmearth_model.training.layout import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

RESULTS_FILE = "results.json"
EXPERIMENT_FILE = "experiment.json"
RESULT_FILE = "result.json"
EXPECTED = "results of mmearth-train evaluate, finetune or experiment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One result: an encoder on a task with a protocol, over its seeds.

    Attributes
    ----------
    task, encoder, protocol, labels, metric
        What was measured.
    mean, low, high
        Of the metric, with its 95 % interval; NaN where it is undefined.
    seeds
        Number of seeds.
    guessing
        Metric of the best constant answer; None if it is not recorded.
    leaky
        Whether the encoder was trained on these or related labels.
    note
        Remarks.
    """

    task: str
    encoder: str
    protocol: str
    labels: str
    metric: str
    mean: float
    low: float
    high: float
    seeds: int = 1
    guessing: float | None = None
    leaky: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Difference of an encoder from a baseline, with its paired 95 % interval."""

    task: str
    encoder: str
    protocol: str
    labels: str
    baseline: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSet:
    """Results of one command.

    Attributes
    ----------
    name
        Their folder, for display.
    title
        Short description of the command.
    question
        Question of an experiment.
    entries, differences
        Results, and differences of an experiment from its baseline.
    notes
        Remarks, one sentence each.
    synthetic
        Whether the labels come from a synthetic store.
    beside
        Comparisons with published results; None: they were not requested.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    question: str = ""
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    beside: Beside | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks, in order."""
        return tuple(dict.fromkeys(entry.task for entry in self.entries))


def results_of(content: Mapping[str, Any], name: str, title: str | None = None) -> ResultSet:
    """Results in the JSON form of `mmearth_model.Evaluation`, with the fields that its command adds.

    The default title is that of their protocols.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        If something is missing or has a wrong type.
    """
    summary, rows = content["summary"], content["rows"]
    experiment = content.get("experiment")
    guesses = {row["task"]: row["guess"] for row in rows if row.get("guess") is not None}
    entries = tuple(_entry(part, guesses) for part in summary)
    sizes = {(str(row["task"]), int(row["train_tiles"]), int(row["test_tiles"])) for row in rows}
    fitted = [f"{task}: fitted to {train:,} tiles, tested on {test:,}." for task, train, test in sorted(sizes)]
    filled = [
        f"{part['task']}: {part['encoder']} uses bands that the task lacks; they were filled: {', '.join(part['bands'])}."
        for part in content.get("filled", ())
    ]
    return ResultSet(
        name=name,
        title=f"Experiment {experiment}, scale {content.get('scale')}"
        if experiment
        else title or title_of({entry.protocol for entry in entries}),
        question=str(content.get("question", "")),
        entries=entries,
        differences=tuple(_difference(part) for part in content.get("differences", ())),
        notes=(*fitted, *filled, *map(str, content.get("notes", ()))),
        synthetic=bool(content.get("synthetic")),
        beside=None if content.get("beside") is None else Beside.from_dict(content["beside"]),
    )


def _entry(part: Mapping[str, Any], guesses: Mapping[str, Any]) -> Entry:
    remarks = (
        "" if part.get("converged", True) is not False else "not converged",
        *map(str, part.get("remarks", ())),
    )
    guessing = guesses.get(part["task"])
    return Entry(
        **_fields(part, ("task", "encoder", "protocol", "labels", "metric"), ("mean", "low", "high")),
        seeds=int(part.get("seeds", 1)),
        guessing=None if guessing is None else float(guessing),
        leaky=bool(part.get("leaky")),
        note="; ".join(filter(None, remarks)),
    )


def _difference(part: Mapping[str, Any]) -> Difference:
    return Difference(**_fields(part, ("task", "encoder", "protocol", "labels", "baseline"), ("value", "low", "high")))


def _fields(part: Mapping[str, Any], texts: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    return {**{name: str(part[name]) for name in texts}, **{name: _number(part[name]) for name in numbers}}


def _number(value: Any) -> float:  # noqa: ANN401 - JSON
    return math.nan if value is None else float(value)


def summarised(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summaries of probes over their seeds, in the form of results.json; intervals are averages over the seeds."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("task", "protocol", "labels", "encoder")), []).append(row)
    return [
        {
            **{name: some[0][name] for name in ("task", "protocol", "labels", "encoder", "metric")},
            "mean": statistics.fmean(_number(row["value"]) for row in some),
            "low": statistics.fmean(_number(row["low"]) for row in some),
            "high": statistics.fmean(_number(row["high"]) for row in some),
            "seeds": len(some),
            "leaky": any(row.get("leaky") for row in some),
            "converged": all(row.get("converged") is not False for row in some),
        }
        for some in groups.values()
    ]


def read_results(file: Path) -> ResultSet:
    """Read ``results.json``. Raises `FileInputError` when it is damaged or something else."""
    content = read_object(file, EXPECTED)
    return _checked(file, content, short_path(file.parent))


def read_tuned(folder: Path) -> ResultSet:
    """Read the result of a network: of fine-tuning, or of a probe. Raises `FileInputError` when it is damaged."""
    file = folder / CONFIG_FILE
    content = read_object(file, "a network")
    found = content.get("record")
    record = found if isinstance(found, dict) else {}
    row = record.get("result")
    if not isinstance(row, dict):
        raise FileInputError(
            file,
            "expected a network with a result (finetune, evaluate --keep-probe), got a file without a result; restore "
            "it.",
        )
    return _of_rows(file, [row], {"synthetic": bool(record.get("synthetic"))}, short_path(folder))


def read_experiment(folder: Path) -> ResultSet:
    """Read the results of an experiment, or of those of its runs that are finished.

    Raises
    ------
    FileInputError
        When a file is damaged.
    """
    if (folder / RESULTS_FILE).is_file():
        return read_results(folder / RESULTS_FILE)
    record = read_object(folder / EXPERIMENT_FILE, "an experiment")
    experiment = record.get("experiment")
    about = {part: experiment.get(part, "") for part in ("name", "question")} if isinstance(experiment, dict) else {}
    files = sorted(folder.glob(f"runs/*/{RESULT_FILE}"))
    rows = [row for file in files for row in _rows(file)]
    unfinished = [f"not finished: results of {len(files)} runs so far; intervals are averages over the seeds."]
    content = {"experiment": about.get("name", ""), "question": about.get("question", ""), "scale": record.get("scale"), "notes": unfinished}  # fmt: skip
    return _of_rows(folder / EXPERIMENT_FILE, rows, content, short_path(folder), "Experiment")


def _rows(file: Path) -> list[Any]:
    found = read_json(file, EXPECTED)
    if not isinstance(found, list):
        raise FileInputError(file, f"expected {EXPECTED}, got something else; run the command again.")
    return found


def _of_rows(
    file: Path, rows: Sequence[Mapping[str, Any]], content: Mapping[str, Any], name: str, title: str | None = None
) -> ResultSet:
    try:
        summary = summarised(rows)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from None
    return _checked(file, {"summary": summary, "rows": rows, **content}, name, title)


def _checked(file: Path, content: Mapping[str, Any], name: str, title: str | None = None) -> ResultSet:
    try:
        return results_of(content, name, title)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> FileInputError:
    what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return FileInputError(file, f"expected {EXPECTED}, got something else: {what}; run the command again.")
