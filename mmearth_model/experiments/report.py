"""Result of an experiment: one table with differences from the baseline, and one figure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmearth_data import write_text
from mmearth_model.evaluation.results import (  # fmt: skip
    MARKERS,
    OKABE_ITO,
    Difference,
    Summary,
    notes,
    results_figure,
    to_csv,
    to_markdown,
)
from mmearth_model.formatting import PERCENT, shown
from mmearth_model.saving import save_figure_forms

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from mmearth_model.evaluation import Evaluation
    from mmearth_model.experiments.spec import Experiment

COLUMNS = ("task", "protocol", "labels", "variant", "metric", "mean", "95 % interval", "difference", "95 % interval of it", "seeds", "note")  # fmt: skip


def report_rows(result: Evaluation, baseline: str) -> list[tuple[str, ...]]:
    """Rows of cells for `COLUMNS`, including the baseline's."""
    differences = {(d.task, d.protocol, d.labels, d.encoder): d for d in result.differences(baseline)}
    return [_cells(s, differences.get((s.task, s.protocol, s.labels, s.encoder))) for s in result.summaries()]


def _cells(s: Summary, d: Difference | None) -> tuple[str, ...]:
    def span(low: float, high: float) -> str:
        return f"{shown(s.metric, low)} to {shown(s.metric, high)}"

    compared = ("baseline", "")
    if d is not None:
        value = shown(s.metric, d.value)
        compared = (value if value.startswith("-") else f"+{value}", span(d.low, d.high))
    return (s.task, s.protocol, s.labels, s.encoder, s.metric, shown(s.metric, s.mean), span(s.low, s.high), *compared, str(s.seeds), notes(s))  # fmt: skip


def write_report(experiment: Experiment, scale: str, result: Evaluation, out: Path, *, synthetic: bool) -> None:
    """Write ``results.md``, ``.csv``, ``.json``, ``.png`` and ``.pdf``."""
    rows = report_rows(result, experiment.baseline)
    made = " Synthetic tiles: this says nothing about the Earth." if synthetic else ""
    how = (
        f"Scale: {scale}. Baseline: {experiment.baseline}. Means over the seeds; intervals by bootstrap over the test "
        f"tiles, those of differences paired; they do not include the variation between seeds.{made}"
    )
    text = f"# {experiment.name}\n\n{experiment.question}\n\n{how}\n\n{to_markdown(COLUMNS, rows)}"
    write_text(out / "results.md", text)
    write_text(out / "results.csv", to_csv(COLUMNS, rows))
    about = {"experiment": experiment.name, "question": experiment.question, "scale": scale, "baseline": experiment.baseline, "synthetic": synthetic}  # fmt: skip
    write_text(out / "results.json", json.dumps({**about, **result.to_dict(experiment.baseline)}, indent=1) + "\n")
    many = len({s.labels for s in result.summaries()}) > 1
    figure = results_figure(result, synthetic=synthetic) if many else differences_figure(experiment, result, synthetic)
    save_figure_forms(figure, out / "results")


def differences_figure(experiment: Experiment, result: Evaluation, synthetic: bool) -> Figure:
    """Draw each variant's difference from the baseline with its interval; tasks side by side, protocols by colour."""
    from matplotlib.figure import Figure

    differences = result.differences(experiment.baseline)
    summaries = {(s.task, s.protocol, s.encoder): s for s in result.summaries()}
    tasks = list(dict.fromkeys(row.task for row in result.rows))
    variants = [v for v in dict.fromkeys(row.encoder for row in result.rows) if v != experiment.baseline]
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    figure = Figure(figsize=(2.2 + 3.6 * len(tasks), 1.9 + 0.5 * max(1, len(variants))), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for axis, task in zip(axes, tasks, strict=True):
        for d in (d for d in differences if d.task == task):
            _draw(axis, d, summaries[d.task, d.protocol, d.encoder], variants, protocols)
        axis.axvline(0, color="0.3", linewidth=1)
        bases = [
            summaries[task, p, experiment.baseline] for p in protocols if (task, p, experiment.baseline) in summaries
        ]
        heading = ", ".join(f"{b.protocol} {shown(b.metric, b.mean)}" for b in bases)
        axis.set_title(f"{task}\n{experiment.baseline}: {heading}", fontsize=8, loc="left")
        axis.set_xlabel(
            f"difference in {bases[0].metric}{', points' if bases[0].metric in PERCENT else ''}", fontsize=8
        )
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(variants)), variants, fontsize=8)
    axes[0].set_ylim(len(variants) - 0.4, -0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(list(unique.values()), list(unique), loc="outside lower center", ncols=len(unique), fontsize=8, frameon=False)  # fmt: skip
    figure.suptitle(f"{experiment.name}{' (synthetic)' if synthetic else ''}", fontsize=10)
    return figure


def _draw(axis: Any, d: Difference, s: Summary, variants: list[str], protocols: list[str]) -> None:  # noqa: ANN401 - matplotlib axes
    factor = 100.0 if s.metric in PERCENT else 1.0
    shift = 0.22 * (protocols.index(d.protocol) - (len(protocols) - 1) / 2)
    bars = [[factor * max(0.0, d.value - d.low)], [factor * max(0.0, d.high - d.value)]]
    place, number = variants.index(d.encoder) + shift, protocols.index(d.protocol)
    style = {"color": OKABE_ITO[number % len(OKABE_ITO)], "marker": MARKERS[number % len(MARKERS)]}
    axis.errorbar(factor * d.value, place, xerr=bars, linestyle="", capsize=2, markersize=5, label=d.protocol, **style)
