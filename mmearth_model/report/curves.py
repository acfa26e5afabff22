"""Curves of logs for a page: figures in which users choose tasks, runs, and the scales of both axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.layouts import column, row
from bokeh.models import (
    CDSView,
    ColumnDataSource,
    CustomJS,
    HoverTool,
    IndexFilter,
    MultiLine,
    Scatter,
)

from mmearth_data import ClassStyle, class_styles, page_figure
from mmearth_model.report.widgets import boxes, buttons, html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bokeh.models.ui import UIElement
    from bokeh.models.widgets import CheckboxGroup, RadioButtonGroup
    from bokeh.plotting import figure as BokehFigure  # noqa: N812 - a class that Bokeh spells in lower case
    from numpy.typing import NDArray

    from mmearth_model.report.log import LogTable
    from mmearth_model.report.runs import RunRecord

NUMBERS = 12_000
"""Points of all curves of a figure together; each is three numbers of 4 bytes, a third more as text."""
FEWEST_POINTS, MOST_POINTS = 12, 400
DASHES = ("solid", "dashed", "dotted", "dotdash")
UPDATE = """
const tasks = new Set(task_box.active), runs = new Set(run_box.active), kept = [];
const {task_index, run_index} = source.data;
for (let i = 0; i < task_index.length; i++) if (tasks.has(task_index[i]) && runs.has(run_index[i])) kept.push(i);
filter.indices = kept;
holder.children = [figures[scale.active]];
const along = x_axis.active === 1 ? "epoch" : "step";
for (const glyph of lines) glyph.xs = {field: along};
for (const glyph of ends) glyph.x = {field: `last_${along}`};
for (const axis of axes) axis.axis_label = along;
"""
"""Code that applies the choices above the figures in the browser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Values of one task of one run, over steps and epochs (N,)."""

    run: str
    task: str
    step: NDArray[np.float32]
    epoch: NDArray[np.float32]
    value: NDArray[np.float32]


def curves_of(runs: Sequence[RunRecord], values: Callable[[LogTable], Mapping[str, Any]]) -> list[Curve]:
    """Curves of all runs that have a log, thinned so that all together are small.

    Parameters
    ----------
    runs
        Runs.
    values
        Function from a log to task -> (R,) values.
    """
    logs = {run.name: run for run in runs if run.log is not None}
    count = sum(len(values(run.log)) for run in logs.values() if run.log is not None)
    points = int(np.clip(NUMBERS // max(1, count), FEWEST_POINTS, MOST_POINTS))
    return [
        Curve(
            run=name,
            task=task,
            step=log.columns["step"].astype(np.float32),
            epoch=np.interp(log.columns["step"], run.log.columns["step"], epochs_of(run, run.log)).astype(np.float32),
            value=column.astype(np.float32),
        )
        for name, run in logs.items()
        if run.log is not None
        for log in [run.log.thinned(points)]
        for task, column in values(log).items()
        if np.isfinite(column).any()
    ]


def epochs_of(run: RunRecord, log: LogTable) -> NDArray[np.float64]:
    """Epochs done at each row (R,) of a run's whole log, in fractions; NaN if the length of an epoch is unknown."""
    step, epoch = log.columns["step"], log.columns["epoch"]
    ends = np.flatnonzero(np.diff(epoch) > 0)
    planned = run.recipe.get("epochs")
    if len(ends):
        length = step[ends[0]] / max(1.0, epoch[ends[0]])
    elif run.steps and isinstance(planned, int) and planned > 0:
        length = run.steps / planned
    else:
        return np.full(len(epoch), np.nan)
    done: NDArray[np.float64] = step / max(float(length), 1e-9)
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is visible initially, and what colours represent.

    Attributes
    ----------
    tasks, runs
        Names that are visible initially.
    by_run
        Whether runs, and not tasks, have colours.
    """

    tasks: Sequence[str]
    runs: Sequence[str]
    by_run: bool


def styles_of(curves: Sequence[Curve], *, by_run: bool) -> list[ClassStyle]:
    """List the styles of runs or tasks, in order."""
    return class_styles(list(dict.fromkeys(curve.run if by_run else curve.task for curve in curves)))


def curves_plot(curves: Sequence[Curve], choice: Choice, value: str, *, name: str) -> UIElement:
    """Draw curves in two figures, of which one is visible, below boxes that choose tasks, runs and axes.

    Parameters
    ----------
    curves
        At least one.
    choice
        What is visible at first.
    value
        Label of the values.
    name
        Prefix of the names of all models, by which scripts find them.
    """
    tasks, runs = (list(dict.fromkeys(getattr(c, part) for c in curves)) for part in ("task", "run"))
    source = ColumnDataSource(_columns(curves, tasks, runs, by_run=choice.by_run), name=f"{name}-curves")
    shown = [i for i, c in enumerate(curves) if c.task in choice.tasks and c.run in choice.runs]
    view = CDSView(filter=IndexFilter(indices=shown))
    figures = [_figure(source, view, value, scale) for scale in ("linear", "log")]
    holder = column(figures[0], sizing_mode="stretch_width")
    task_box, run_box = boxes(tasks, choice.tasks, f"{name}-tasks"), boxes(runs, choice.runs, f"{name}-runs")
    scale, x_axis = buttons(["linear", "logarithmic"], f"{name}-scale"), buttons(["steps", "epochs"], f"{name}-x")
    arguments = {
        "source": source, "filter": view.filter, "task_box": task_box, "run_box": run_box, "scale": scale,
        "x_axis": x_axis, "holder": holder, "figures": figures,
        "lines": [glyph for figure in figures for glyph in figure.select({"type": MultiLine})],
        "ends": [glyph for figure in figures for glyph in figure.select({"type": Scatter})],
        "axes": [figure.xaxis[0] for figure in figures],
    }  # fmt: skip
    update = CustomJS(args=arguments, code=UPDATE)
    for box in (task_box, run_box, scale, x_axis):
        box.js_on_change("active", update)
    return column(
        *_controls({"Tasks": task_box, "Runs": run_box}),
        *_axes(scale, x_axis, curves),
        holder,
        sizing_mode="stretch_width",
    )


def _controls(known: Mapping[str, CheckboxGroup]) -> Iterator[UIElement]:
    """Boxes with more than one choice; the others are omitted."""
    for title, box in known.items():
        if len(box.labels) > 1:
            yield html(f"<b>{title}</b>")
            yield box


def _axes(scale: RadioButtonGroup, x_axis: RadioButtonGroup, curves: Sequence[Curve]) -> Iterator[UIElement]:
    known = all(np.isfinite(curve.epoch).all() for curve in curves)
    yield row(scale, *[x_axis] * known, margin=(6, 0, 6, 0))


def _columns(curves: Sequence[Curve], tasks: Sequence[str], runs: Sequence[str], *, by_run: bool) -> dict[str, Any]:
    names = runs if by_run else tasks
    looks = dict(zip(names, class_styles(names), strict=True))
    places = [names.index(curve.run if by_run else curve.task) for curve in curves]
    ends = [int(np.flatnonzero(np.isfinite(curve.value))[-1]) for curve in curves]
    return {
        "step": [curve.step for curve in curves],
        "epoch": [curve.epoch for curve in curves],
        "value": [curve.value for curve in curves],
        "last_step": [float(curve.step[end]) for curve, end in zip(curves, ends, strict=True)],
        "last_epoch": [float(curve.epoch[end]) for curve, end in zip(curves, ends, strict=True)],
        "last_value": [float(curve.value[end]) for curve, end in zip(curves, ends, strict=True)],
        "run": [curve.run for curve in curves],
        "task": [curve.task for curve in curves],
        "run_index": [runs.index(curve.run) for curve in curves],
        "task_index": [tasks.index(curve.task) for curve in curves],
        "colour": [looks[names[place]].colour for place in places],
        "marker": [looks[names[place]].marker for place in places],
        "dash": [DASHES[place // 7 % len(DASHES)] for place in places],
    }


def _figure(source: ColumnDataSource, view: CDSView, value: str, scale: str) -> BokehFigure:
    made = page_figure(height=380, y_axis_type=scale, x_axis_label="step", y_axis_label=value)
    lines = made.multi_line(
        xs="step", ys="value", line_color="colour", line_dash="dash", line_width=2, source=source, view=view
    )
    made.scatter(
        x="last_step",
        y="last_value",
        marker="marker",
        size=8,
        fill_color="colour",
        line_color=None,
        source=source,
        view=view,
    )
    tips = [("run", "@run"), ("task", "@task"), ("at", "$snap_x{0,0.[00]}"), (value, "$snap_y{0.0000}")]
    made.add_tools(HoverTool(renderers=[lines], tooltips=tips, line_policy="nearest"))
    return made


def plain_curves(curves: Sequence[Curve], label: str) -> BokehFigure:
    """Draw one curve per run over its steps, without choices."""
    source = ColumnDataSource(_columns(curves, [label], list(dict.fromkeys(c.run for c in curves)), by_run=True))
    made = _figure(source, CDSView(), label, "linear")
    made.height = 240
    return made
