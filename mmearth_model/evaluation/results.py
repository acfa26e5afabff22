"""Results of an evaluation: rows, means over the seeds with intervals, tables and a figure."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data import write_text
from mmearth_model.evaluation.metrics import (  # fmt: skip
    PRIMARY,
    RANKED,
    RESAMPLES,
    average_precision,
    bootstrap,
    from_sums,
    interval,
    sample_sums,
)
from mmearth_model.formatting import PERCENT, shown
from mmearth_model.published import compare
from mmearth_model.published.drawing import draw_comparison, panel_inches
from mmearth_model.published.rendering import cells_of
from mmearth_model.saving import save_figure_forms
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mmearth_model.evaluation.metrics import Score
    from mmearth_model.published import Beside, Published
    from mmearth_model.tasks import LabelledSet

NOUNS = {"map": "labels", "r2": "targets"}
"""Units over which a metric averages, if not classes."""
SETTINGS_SHOWN = frozenset({"paper", "finetune-paper", "network", "constant"})
"""Protocols whose settings are shown in the table: they depend on the training samples, or on the network."""


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
    images_per_s: float | None = None  # speed of the encoder, from normalised images to features; None: not measured
    guess: float | None = None  # the metric of the best constant answer; None for tasks per pixel. See `guessing`
    drawn: int = RESAMPLES  # number of resamples
    details: dict[str, Any] = field(default_factory=dict)  # settings and figures that only this protocol has

    @classmethod
    def of(cls, task: LabelledSet, found: Score, **fields: Any) -> Row:
        """Row of a score on a task's test samples; ``fields`` are those that the score does not determine."""
        metric = task.metric or PRIMARY[task.kind]
        resampled = bootstrap(task.kind, [found.sums], metric)
        low, high = interval(resampled)
        if metric not in found.metrics:  # of a protocol with a metric of its own
            metric = next(iter(found.metrics))
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
            guess=guessing(task, metric),
            drawn=len(resampled),
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
        return named + (few,) * (self.resamples < self.drawn)


def guessing(task: LabelledSet, metric: str = "") -> float | None:
    """Metric of the same answer for all test samples: the most frequent training label (of each label), or the mean.

    None for tasks per pixel.
    """
    if task.kind.per_pixel:
        return None
    train, test = task.labels[task.parts.train], task.labels[task.parts.test]
    if metric == "micro_map":
        return average_precision(test, np.broadcast_to(train.mean(axis=0), test.shape))
    if task.metric == RANKED:  # samples of one score: the precision is the share of positives
        return float(test.mean())
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
    images_per_s: float | None = None  # mean over the seeds
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
        For each row, (test samples, S) contributions of each test sample, or (R,) the metric on resampled ones; see
        `mmearth_model.evaluation.metrics.bootstrap`.
    filled
        (Task, encoder) -> bands that the encoder takes and the task lacks: ``sentinel2.B10`` if the band's mean is
        used, ``sentinel2.B1 from B2`` if another band is.
    notes
        What was omitted, one sentence each.
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
        first = self.rows[rows[0]]
        return bootstrap(TaskKind(first.kind), [self.sums[i] for i in rows], first.metric)

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
            images_per_s=_mean_speed(rows),
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

    def beside(self, published: Iterable[Published]) -> Beside:
        """Compare the results with those that others have published on the same tasks (`mmearth_model.read_published`).

        Results with different tasks, metrics or protocols are in different comparisons.
        """
        return compare(self.summaries(), published)

    def to_dict(self, baseline: str | None = None) -> dict[str, Any]:
        """JSON-ready form, with the differences from a ``baseline`` if there is one; undefined figures are None."""
        compared = {} if baseline is None else {"differences": [asdict(d) for d in self.differences(baseline)]}
        found: dict[str, Any] = defined(
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


def _mean_speed(rows: Sequence[Row]) -> float | None:
    known = [row.images_per_s for row in rows if row.images_per_s is not None]
    return statistics.fmean(known) if known else None


def defined(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Replace numbers that are not finite by None, because JSON cannot represent them; tuples become lists."""
    if isinstance(value, dict):
        return {key: defined(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [defined(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def notes(summary: Summary) -> str:
    """Remarks on a figure."""
    texts = ["leaky: trained on these or related labels"] * summary.leaky + ["not converged"] * (not summary.converged)
    return "; ".join([*texts, *summary.remarks])


COLUMNS = (
    "task", "protocol", "labels", "encoder", "metric", "mean", "low", "high", "deviation", "seeds", "test samples", "images/s", "note",
)  # fmt: skip


def speed_text(summary: Summary) -> str:
    """Images per second, "" if they were not measured."""
    speed = summary.images_per_s
    return "" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"


def table_rows(summaries: Iterable[Summary]) -> list[tuple[str, ...]]:
    """Cells under `COLUMNS`."""
    return [
        (
            *(s.task, s.protocol, s.labels, s.encoder, s.metric),
            *(shown(s.metric, v) for v in (s.mean, s.low, s.high, s.deviation)),
            *(str(s.seeds), str(s.samples), speed_text(s), notes(s)),
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


def write_results(result: Evaluation, folder: Path, about: dict[str, Any], beside: Beside | None = None) -> None:
    """Write ``results.md``, ``.csv``, ``.json``, ``.png``, ``.pdf`` and ``.svg`` into a folder.

    The table in CSV contains only what was measured; the others also contain the comparisons with published results.
    """
    cells = table_rows(result.summaries())
    content = {**about, **result.to_dict(), **beside_dict(beside)}
    write_text(folder / "results.json", json.dumps(content, indent=1) + "\n")
    write_text(folder / "results.csv", to_csv(COLUMNS, cells))
    write_text(folder / "results.md", to_markdown(COLUMNS, cells) + _beside_markdown(beside))
    figure = results_figure(result, synthetic=bool(about.get("synthetic")), beside=beside)
    save_figure_forms(figure, folder / "results")


def beside_dict(beside: Beside | None) -> dict[str, Any]:
    """Comparisons with published results in the JSON form of results; empty if there are none."""
    return {} if beside is None else {"beside": defined(beside.to_dict())}


def _beside_markdown(beside: Beside | None) -> str:
    if beside is None:
        return ""
    tables = [f"\n## {one.heading}\n\n{to_markdown(*cells_of(one))}" for one in beside.comparisons]
    return "".join([*tables, *(f"\n{note}\n" for note in beside.notes())])


def results_figure(result: Evaluation, *, synthetic: bool = False, beside: Beside | None = None) -> Figure:
    """Draw every encoder's metric with its 95 % interval and the level of guessing.

    One panel per task, with a row per encoder and protocol; curves over the label shares if there are several. Below them
    is one panel for each comparison with published results.
    """
    from matplotlib.figure import Figure

    summaries = result.summaries()
    panels = panels_of(summaries)
    heights = [max(1.7, 0.9 + ROW_INCHES * len(entries)) if bars else CURVES_INCHES for _, _, entries, bars in panels]
    comparisons = () if beside is None else beside.comparisons
    heights += [panel_inches(one) for one in comparisons]
    figure = Figure(figsize=(7.5, sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, one in zip(axes[len(panels) :], comparisons, strict=True):
        draw_comparison(axis, one)
    for axis, (task, protocol, entries, bars) in zip(axes[: len(panels)], panels, strict=True):
        guess = next((row.guess for row in result.rows if row.task == task), None)
        (_draw_forest if bars else _draw_curves)(axis, entries)
        _mark_guess(axis, entries[0].metric, guess, upright=bars)
        name = task if bars else f"{task}, {protocol}"
        axis.set_title(
            f"{name}{' (synthetic)' if synthetic else ''}", fontsize=9, loc="left", fontweight="bold", pad=16
        )
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


Panel: TypeAlias = "tuple[str, str, list[Summary], bool]"
"""Task, protocol, figures, and whether they are drawn as a forest plot."""
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that colour-blind people distinguish."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
ROW_INCHES, CURVES_INCHES = 0.24, 2.8
"""Height of a row of a forest plot, and of a panel of curves."""


def panels_of(summaries: Sequence[Summary]) -> list[Panel]:
    """Divide figures into panels: a task, or each of its protocols where it has several label shares."""
    found: list[Panel] = []
    for task in dict.fromkeys(s.task for s in summaries):
        mine = [s for s in summaries if s.task == task]
        if len({s.labels for s in mine}) == 1:
            found.append((task, "", mine, True))
        else:
            found += [
                (task, p, [s for s in mine if s.protocol == p], False) for p in dict.fromkeys(s.protocol for s in mine)
            ]
    return found


def short_name(encoder: str, most: int = 34) -> str:
    """Shorten a checkpoint's path for a label."""
    return encoder if len(encoder) <= most else "…" + encoder[1 - most :]


def _factor(metric: str) -> float:
    return 100.0 if metric in PERCENT else 1.0


def _draw_forest(axis: Any, entries: Sequence[Summary]) -> None:  # noqa: ANN401 - matplotlib axes
    """Draw a row per encoder and protocol, with the values next to it."""
    scale = _factor(entries[0].metric)
    protocols = list(dict.fromkeys(s.protocol for s in entries))
    encoders = list(dict.fromkeys(s.encoder for s in entries))
    rows = sorted(entries, key=lambda s: (encoders.index(s.encoder), protocols.index(s.protocol)))
    for place, s in enumerate(rows):
        number = protocols.index(s.protocol)
        style = {"color": OKABE_ITO[number % len(OKABE_ITO)], "marker": MARKERS[number % len(MARKERS)]}
        bars = [[scale * max(0.0, s.mean - s.low)], [scale * max(0.0, s.high - s.mean)]]
        axis.errorbar(scale * s.mean, place, xerr=bars, markersize=5, linewidth=1.4, linestyle="", **style)
        words = f"{shown(s.metric, s.mean)}{'*' if s.leaky else ''}  ({shown(s.metric, s.low)} to {shown(s.metric, s.high)})"
        axis.text(1.02, place, words, transform=axis.get_yaxis_transform(), va="center", fontsize=7.5)
        if place and s.encoder != rows[place - 1].encoder:
            axis.axhline(place - 0.5, color="0.85", linewidth=0.6)
    axis.set_yticks(
        range(len(rows)), [_row_name(s, rows[k - 1] if k else None) for k, s in enumerate(rows)], fontsize=7.5
    )
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(_unit(entries[0].metric) + ("   * leaky" if any(s.leaky for s in entries) else ""), fontsize=8)
    axis.tick_params(axis="x", labelsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25)


def _row_name(s: Summary, before: Summary | None) -> str:
    """Protocol, after the encoder in its first row."""
    repeated = before is not None and before.encoder == s.encoder
    return s.protocol if repeated else f"{short_name(s.encoder)}   {s.protocol}"


def _mark_guess(axis: Any, metric: str, guess: float | None, *, upright: bool) -> None:  # noqa: ANN401 - matplotlib axes
    """Draw the level of guessing: the result of the best constant prediction."""
    if guess is None or not math.isfinite(guess):
        return
    value = _factor(metric) * guess
    (axis.axvline if upright else axis.axhline)(value, color="0.35", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    words = f"guessing {shown(metric, guess)}"
    if upright:
        axis.text(value, 1.01, words, transform=axis.get_xaxis_transform(), ha="center", va="bottom", fontsize=7, color="0.35")  # fmt: skip
    else:
        axis.text(1.01, value, words, transform=axis.get_yaxis_transform(), va="center", fontsize=7, color="0.35")


def _draw_curves(axis: Any, entries: Sequence[Summary]) -> None:  # noqa: ANN401 - matplotlib axes
    metric = entries[0].metric
    scale = _factor(metric)
    encoders = list(dict.fromkeys(s.encoder for s in entries))
    shares = list(dict.fromkeys(s.labels for s in entries))
    for place, encoder in enumerate(encoders):
        mine = [s for s in entries if s.encoder == encoder]
        x = np.array([shares.index(s.labels) for s in mine]) + 0.03 * (place - len(encoders) / 2)
        mean = scale * np.array([s.mean for s in mine])
        bars = np.abs(scale * np.array([[s.low for s in mine], [s.high for s in mine]]) - mean)
        style = {"color": OKABE_ITO[place % len(OKABE_ITO)], "marker": MARKERS[place % len(MARKERS)]}
        axis.errorbar(x, mean, yerr=bars, linestyle="-", capsize=2, markersize=5, label=short_name(encoder), **style)
    axis.set_xticks(range(len(shares)), shares)
    axis.set_xlabel("training labels", fontsize=8)
    axis.set_ylabel(_unit(metric), fontsize=8)
    axis.tick_params(labelsize=7.5)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 0.9))


def _unit(metric: str) -> str:
    return f"{metric}, %" if metric in PERCENT else metric
