"""Results of an evaluation: rows, means over the seeds with intervals, tables and a figure."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import write_text
from mmearth_model.evaluation.metrics import PRIMARY, RESAMPLES, bootstrap, from_sums, interval, sample_sums
from mmearth_model.formatting import PERCENT, shown
from mmearth_model.saving import save_figure
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mmearth_model.evaluation.metrics import Score
    from mmearth_model.tasks import LabelledSet

NOUNS = {"map": "labels", "r2": "targets"}
"""Units over which a metric averages, if not classes."""
SETTINGS_SHOWN = frozenset({"paper", "finetune-paper"})
"""Protocols whose settings are shown in the table, because they depend on the number of training samples."""


@dataclass(frozen=True, slots=True)
class Row:
    """One probe of one encoder."""

    task: str  # ``store:biome``, ``m-eurosat``, ...
    kind: str
    encoder: str  # checkpoint folder, or a baseline
    seed: int  # seed of the random encoder, of the split and labels if they are sampled, and of the validation hold-out
    # protocol, converged, chosen, validation: see `mmearth_model.evaluation.probes.Prediction`
    protocol: str
    labels: str  # share of the training labels that was used
    # metric, value: main metric of the task, and its value on the test samples
    metric: str
    value: float
    # low, high: 95 % interval of the value, by the bootstrap over the test samples
    low: float
    high: float
    metrics: dict[str, float]
    validation: float | None
    converged: bool | None
    chosen: str
    leaky: bool  # the encoder was trained on these or related labels, so the figure is not evidence
    # train_tiles, test_tiles: number of samples used for fitting and for testing
    train_tiles: int
    test_tiles: int
    # metric -> test samples, labels (classes, targets) used out of all, and labelled pixels it was computed over; see
    # `mmearth_model.evaluation.metrics.Count`
    counts: dict[str, dict[str, int | None]] = field(default_factory=dict)
    # number of resamples of the test samples in which the metric is defined; the interval is computed from these
    resamples: int = RESAMPLES
    guess: float | None = None  # the metric of the best constant answer; None for tasks per pixel. See `guessing`

    @classmethod
    def of(cls, task: LabelledSet, found: Score, **fields: Any) -> Row:
        """Row of a score on a task's test samples; ``fields`` are those that the score does not determine."""
        resampled = bootstrap(task.kind, [found.sums])
        low, high = interval(resampled)
        metric = PRIMARY[task.kind]
        return cls(
            task=task.name,
            kind=task.kind.value,
            metric=metric,
            value=found.metrics[metric],
            low=low,
            high=high,
            metrics=found.metrics,
            test_tiles=len(task.parts.test),
            counts={name: asdict(count) for name, count in found.counts.items()},
            resamples=int(np.isfinite(resampled).sum()),
            guess=guessing(task),
            **fields,
        )

    @property
    def accuracy(self) -> float:
        """Share of test samples with the correct label."""
        return self.metrics["accuracy"]

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Fields that rows of several seeds share."""
        return (self.task, self.protocol, self.labels, self.encoder)

    def remarks(self) -> tuple[str, ...]:
        """Describe special properties of this figure and its metrics."""
        return tuple(text for name, count in self.counts.items() if (text := _remark(name, count))) + self._settings()

    def _settings(self) -> tuple[str, ...]:
        few = f"interval of {self.resamples} resamples, undefined in the others"
        named = (self.chosen,) if self.protocol in SETTINGS_SHOWN else ()
        return named + (few,) * (self.resamples < RESAMPLES)


def guessing(task: LabelledSet) -> float | None:
    """Metric of the same answer for all test samples: the most frequent training label (of each label), or the mean.

    None for tasks per pixel.
    """
    if task.kind.per_pixel:
        return None
    train, test = task.labels[task.parts.train], task.labels[task.parts.test]
    if task.kind is TaskKind.SINGLE_LABEL:
        answer = np.bincount(train).argmax()
    else:
        answer = train.mean(axis=0) if task.kind.continuous else (train.mean(axis=0) > 0.5).astype(train.dtype)
    sums = sample_sums(task.kind, np.broadcast_to(answer, test.shape), test, task.outputs)
    return float(from_sums(task.kind, sums.sum(axis=0)))


def _remark(metric: str, count: Mapping[str, int | None]) -> str:
    labels, total = count["labels"], count["of"]
    if labels is None or total is None:
        return ""
    if metric == "rmse" and total > 1:
        return f"rmse pooled over {total} targets"
    return f"{metric} over {labels} of {total} {NOUNS.get(metric, 'classes')}" if labels < total else ""


@dataclass(frozen=True, slots=True)
class Summary:
    """Rows of one encoder, task, protocol and label share, over the seeds."""

    task: str
    encoder: str
    protocol: str
    labels: str
    metric: str
    # mean, deviation: of the metric; unbiased, 0 for one seed
    mean: float
    deviation: float
    # low, high: 95 % interval of the mean, by the bootstrap over the test samples
    low: float
    high: float
    seeds: int
    leaky: bool
    converged: bool
    samples: int = 0
    remarks: tuple[str, ...] = ()  # special properties of the figure; see `Row.remarks`


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between two encoders on the same test samples."""

    task: str
    protocol: str
    labels: str
    encoder: str
    baseline: str
    # value, low, high: of the metric, with its 95 % interval (paired bootstrap)
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results.

    Attributes
    ----------
    rows
        Every probe.
    sums
        For each row, (test samples, S) contributions of each test sample; see `mmearth_model.evaluation.metrics`.
    filled
        (Task, encoder) -> bands that the encoder takes and the task lacks: ``sentinel2.B10`` if the band's mean is
        used, ``sentinel2.B1 from B2`` if another band is.
    notes
        What was left out, one sentence each.
    """

    rows: tuple[Row, ...]
    sums: tuple[NDArray[np.float64], ...] = ()
    filled: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def groups(self) -> dict[tuple[str, str, str, str], list[int]]:
        """(task, protocol, labels, encoder) -> rows, in order."""
        found: dict[tuple[str, str, str, str], list[int]] = {}
        for index, row in enumerate(self.rows):
            found.setdefault(row.group, []).append(index)
        return found

    def draws(self, group: tuple[str, str, str, str]) -> NDArray[np.float64]:
        """(R,) mean of the metric over a group's seeds, on resampled test samples."""
        rows = self.groups()[group]
        return bootstrap(TaskKind(self.rows[rows[0]].kind), [self.sums[i] for i in rows])

    def summaries(self) -> list[Summary]:
        """Means over the seeds, in the order of the rows."""
        return [self._summary(group, [self.rows[i] for i in rows]) for group, rows in self.groups().items()]

    def _summary(self, group: tuple[str, str, str, str], rows: Sequence[Row]) -> Summary:
        values = [row.value for row in rows]
        if len(rows) == 1 or not self.sums:
            low, high = statistics.fmean(row.low for row in rows), statistics.fmean(row.high for row in rows)
        else:
            low, high = interval(self.draws(group))
        return Summary(
            **dict(zip(("task", "protocol", "labels", "encoder"), group, strict=True)),
            metric=rows[0].metric,
            mean=statistics.fmean(values),
            deviation=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,  # NaN where a score is
            low=low,
            high=high,
            seeds=len(values),
            leaky=any(row.leaky for row in rows),
            converged=all(row.converged is not False for row in rows),
            samples=max(row.test_tiles for row in rows),
            remarks=tuple(dict.fromkeys(text for row in rows for text in row.remarks())),
        )

    def differences(self, baseline: str) -> list[Difference]:
        """Every encoder against one of them on every task; paired, so that the difficulty of samples cancels."""
        found = []
        groups = self.groups()
        means = {group: statistics.fmean(self.rows[i].value for i in rows) for group, rows in groups.items()}
        for group in groups:
            other = (*group[:3], baseline)
            if group[3] == baseline or other not in groups:
                continue
            low, high = interval(self.draws(group) - self.draws(other))
            found.append(Difference(*group, baseline, means[group] - means[other], low, high))
        return found

    def to_dict(self, baseline: str | None = None) -> dict[str, Any]:
        """JSON-ready form, with the differences from a ``baseline`` if there is one; undefined figures are None."""
        compared = {} if baseline is None else {"differences": [asdict(d) for d in self.differences(baseline)]}
        found: dict[str, Any] = _defined(
            {
                "rows": [asdict(row) for row in self.rows],
                "summary": [asdict(s) for s in self.summaries()],
                **compared,
                "filled": [{"task": t, "encoder": e, "bands": list(b)} for (t, e), b in self.filled.items()],
                "notes": list(self.notes),
            }
        )
        return found

    def merged(self, *others: Evaluation) -> Evaluation:
        """Combine evaluations."""
        every = (self, *others)
        return Evaluation(
            tuple(row for e in every for row in e.rows),
            tuple(part for e in every for part in e.sums),
            {key: bands for e in every for key, bands in e.filled.items()},
            tuple(dict.fromkeys(note for e in every for note in e.notes)),
        )


def _defined(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Replace numbers that are not finite by None, because JSON cannot represent them."""
    if isinstance(value, dict):
        return {key: _defined(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def notes(summary: Summary) -> str:
    """Remarks on a figure."""
    texts = ["leaky: trained on these labels or their kin"] * summary.leaky + ["not converged"] * (
        not summary.converged
    )
    return "; ".join([*texts, *summary.remarks])


COLUMNS = (
    "task", "protocol", "labels", "encoder", "metric", "mean", "low", "high", "deviation", "seeds", "test samples", "note",
)  # fmt: skip


def table_rows(summaries: Iterable[Summary]) -> list[tuple[str, ...]]:
    """Cells under `COLUMNS`."""
    return [
        (
            *(s.task, s.protocol, s.labels, s.encoder, s.metric),
            *(shown(s.metric, v) for v in (s.mean, s.low, s.high, s.deviation)),
            *(str(s.seeds), str(s.samples), notes(s)),
        )
        for s in summaries
    ]


def to_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a CSV table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    return text.getvalue()


def write_results(result: Evaluation, folder: Path, about: dict[str, Any]) -> None:
    """Write ``results.md``, ``.csv``, ``.json`` and ``.png`` into a folder."""
    cells = table_rows(result.summaries())
    write_text(folder / "results.json", json.dumps({**about, **result.to_dict()}, indent=1) + "\n")
    write_text(folder / "results.csv", to_csv(COLUMNS, cells))
    write_text(folder / "results.md", to_markdown(COLUMNS, cells))
    figure = results_figure(result, synthetic=bool(about.get("synthetic")))
    save_figure(figure, folder / "results.png")


def results_figure(result: Evaluation, *, synthetic: bool = False) -> Figure:
    """Draw every encoder's metric with its 95 % interval: one panel per task and protocol; curves over label shares."""
    from matplotlib.figure import Figure

    summaries = result.summaries()
    panels: dict[tuple[str, str], list[Summary]] = {}
    for s in summaries:
        panels.setdefault((s.task, s.protocol), []).append(s)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    encoders = list(dict.fromkeys(s.encoder for s in summaries))
    height = 1.2 + 0.36 * len(encoders)
    figure = Figure(figsize=(5.2 * columns, max(2.2, height) * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, ((task, protocol), entries) in zip(axes, panels.items(), strict=False):
        many = len({s.labels for s in entries}) > 1
        (_draw_curves if many else _draw_bars)(axis, entries, encoders)
        axis.set_title(f"{task}, {protocol}{' (synthetic)' if synthetic else ''}", fontsize=9, loc="left")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure


def short_name(encoder: str, most: int = 34) -> str:
    """Shorten a checkpoint's path for a label."""
    return encoder if len(encoder) <= most else "…" + encoder[1 - most :]


def _factor(metric: str) -> float:
    return 100.0 if metric in PERCENT else 1.0


def _draw_bars(axis: Any, entries: Sequence[Summary], encoders: Sequence[str]) -> None:  # noqa: ANN401 - matplotlib axes
    metric = entries[0].metric
    scale = _factor(metric)
    for s in entries:
        place = encoders.index(s.encoder)
        colour = f"C{place % 10}"
        bars = [[scale * max(0.0, s.mean - s.low)], [scale * max(0.0, s.high - s.mean)]]
        axis.errorbar(scale * s.mean, place, xerr=bars, fmt="o", color=colour, capsize=3, markersize=5)
        label = f"{scale * s.mean:.1f}" if scale > 1 else f"{s.mean:.2f}"
        axis.annotate(label + ("*" if s.leaky else ""), (scale * s.mean, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    axis.set_yticks(range(len(encoders)), [short_name(e) for e in encoders], fontsize=8)
    axis.set_ylim(len(encoders) - 0.4, -0.7)
    axis.set_xlabel(_unit(metric) + ("   * leaky" if any(s.leaky for s in entries) else ""), fontsize=8)
    axis.grid(axis="x", alpha=0.3)


def _draw_curves(axis: Any, entries: Sequence[Summary], encoders: Sequence[str]) -> None:  # noqa: ANN401 - matplotlib axes
    metric = entries[0].metric
    scale = _factor(metric)
    shares = list(dict.fromkeys(s.labels for s in entries))
    for place, encoder in enumerate(encoders):
        mine = [s for s in entries if s.encoder == encoder]
        x = np.array([shares.index(s.labels) for s in mine]) + 0.03 * (place - len(encoders) / 2)
        mean = scale * np.array([s.mean for s in mine])
        bars = np.abs(scale * np.array([[s.low for s in mine], [s.high for s in mine]]) - mean)
        axis.errorbar(x, mean, yerr=bars, fmt="o-", color=f"C{place % 10}", capsize=3, markersize=4, label=short_name(encoder))  # fmt: skip
    axis.set_xticks(range(len(shares)), shares)
    axis.set_xlabel("training labels", fontsize=8)
    axis.set_ylabel(_unit(metric), fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _unit(metric: str) -> str:
    return f"{metric}, %" if metric in PERCENT else metric
