"""Tables, figure and HTML page of a robustness experiment."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich.console import Group

from mmearth_data import (
    Badge,
    FittedTable,
    Notice,
    Page,
    PageTable,
    Paragraphs,
    Picture,
    Section,
    TableColumn,
    Tone,
    __version__,
    encode_figure,
    write_page,
    write_text,
)
from mmearth_model.evaluation.results import MARKERS, OKABE_ITO, short_name, to_csv, to_markdown
from mmearth_model.experiments.robustness.changes import QUESTION
from mmearth_model.formatting import PERCENT, shown
from mmearth_model.saving import save_figure_forms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from mmearth_data import Part
    from mmearth_model.experiments.robustness.curves import Comparison, Curve, Point, Robustness

HOW = (
    "The probes were fitted to clean training images. Values are means over the seeds, with 95 % intervals (bootstrap "
    "over the test samples; paired for differences). Area: mean over the range of levels. Kept: area divided by the "
    "value on clean images."
)
GROUPS_HOW = (
    "Each row compares two probes on the same test tiles. They were fitted to equal numbers of training tiles: one to "
    "tiles of the same group, the other to tiles of the other groups."
)
COLUMNS = ("task", "encoder", "protocol", "change", "level", "metric", "value", "low", "high", "difference",
           "difference low", "difference high", "area", "kept", "seeds", "test samples", "note")  # fmt: skip
GROUP_COLUMNS = ("task", "encoder", "protocol", "comparison", "tested on", "metric", "same group", "other groups",
                 "difference", "low", "high", "training samples", "test samples", "seeds")  # fmt: skip
SUMMARY_COLUMNS = ("change", "encoder", "clean", "most changed", "difference", "area", "kept")
GROUP_SUMMARY_COLUMNS = ("task", "encoder", "tested on", "same group", "other groups", "difference")
PANEL_INCHES = (2.6, 2.2)
MOST_COLUMNS = 4


def write_robustness(result: Robustness, out: Path, about: Mapping[str, Any]) -> None:
    """Write ``results.md``, ``.csv``, ``.json``, ``.png``, ``.pdf``, ``.svg`` and, with comparisons, ``groups.csv``."""
    rows, groups = list(_rows(result.curves)), [_group_row(found) for found in result.comparisons]
    write_text(out / "results.json", json.dumps({**about, **result.to_dict()}, indent=1) + "\n")
    write_text(out / "results.csv", to_csv(COLUMNS, rows))
    synthetic = " Synthetic tiles: this says nothing about the Earth." if about.get("synthetic") else ""
    text = f"# Robustness\n\n{QUESTION}\n\n{HOW}{synthetic}\n\n{to_markdown(COLUMNS, rows)}"
    if groups:
        write_text(out / "groups.csv", to_csv(GROUP_COLUMNS, groups))
        text += f"\n{GROUPS_HOW}\n\n{to_markdown(GROUP_COLUMNS, groups)}"
    else:
        (out / "groups.csv").unlink(missing_ok=True)  # from an earlier run
    text += "".join(f"\n{note}\n" for note in result.notes)
    write_text(out / "results.md", text)
    save_figure_forms(curves_figure(result, synthetic=bool(about.get("synthetic"))), out / "results")


def _rows(curves: Sequence[Curve]) -> Iterator[tuple[str, ...]]:
    for curve in curves:
        for point in curve.points:
            yield (
                *(curve.task, curve.encoder, curve.protocol, curve.change, f"{point.level:g}", curve.metric),
                *_figures(curve.metric, point),
                *(
                    shown(curve.metric, curve.area),
                    _share(curve.kept),
                    str(curve.seeds),
                    str(curve.samples),
                    curve.note,
                ),
            )


def _figures(metric: str, point: Point) -> tuple[str, ...]:
    values = (point.value, point.low, point.high, point.difference, point.difference_low, point.difference_high)
    return tuple(shown(metric, value) for value in values)


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def _group_row(c: Comparison) -> tuple[str, ...]:
    values = (shown(c.metric, value) for value in (c.own, c.other, c.difference, c.low, c.high))
    counts = (str(c.train_samples), str(c.samples), str(c.seeds))
    return (c.task, c.encoder, c.protocol, c.change, c.test, c.metric, *values, *counts)


def curves_figure(result: Robustness, *, synthetic: bool = False) -> Figure:
    """Draw a panel per task and change, with a curve and its interval per encoder, and one per task and comparison."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((c.task, c.change) for c in result.curves))
    compared = list(dict.fromkeys((c.task, c.change) for c in result.comparisons))
    total = max(1, len(panels) + len(compared))
    columns = min(MOST_COLUMNS, total)
    rows = -(-total // columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    encoders = list(dict.fromkeys([*(c.encoder for c in result.curves), *(c.encoder for c in result.comparisons)]))
    for axis, key in zip(axes, panels, strict=False):
        _draw_curves(axis, [c for c in result.curves if (c.task, c.change) == key], encoders)
    for axis, key in zip(axes[len(panels) :], compared, strict=False):
        _draw_groups(axis, [c for c in result.comparisons if (c.task, c.change) == key], encoders)
    for axis in axes[len(panels) + len(compared) :]:
        axis.set_visible(False)
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(3, len(handles)), fontsize=8, frameon=False)  # fmt: skip
    figure.suptitle(f"Robustness{' (synthetic)' if synthetic else ''}", fontsize=10)
    return figure


def _style(encoder: str, encoders: Sequence[str]) -> dict[str, Any]:
    number = encoders.index(encoder)
    style = {"color": OKABE_ITO[number % len(OKABE_ITO)], "marker": MARKERS[number % len(MARKERS)], "markersize": 3.5}
    return {**style, "linewidth": 1.2, "label": short_name(encoder)}


def _factor(metric: str) -> float:
    return 100.0 if metric in PERCENT else 1.0


def _dress(axis: Any, title: str, metric: str) -> None:  # noqa: ANN401 - matplotlib axes
    axis.set_title(title, fontsize=8, loc="left")
    axis.set_ylabel(_unit(metric), fontsize=7)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_curves(axis: Any, curves: Sequence[Curve], encoders: Sequence[str]) -> None:  # noqa: ANN401 - matplotlib axes
    first, factor = curves[0], _factor(curves[0].metric)
    for curve in curves:
        levels = [p.level for p in curve.points]
        style = _style(curve.encoder, encoders)
        axis.plot(levels, [factor * p.value for p in curve.points], **style)
        low, high = ([factor * getattr(p, side) for p in curve.points] for side in ("low", "high"))
        axis.fill_between(levels, low, high, color=style["color"], alpha=0.15, linewidth=0)
    _dress(axis, f"{first.task}: {first.change}", first.metric)
    axis.set_xlabel(first.axis, fontsize=7)


def _draw_groups(axis: Any, found: Sequence[Comparison], encoders: Sequence[str]) -> None:  # noqa: ANN401 - matplotlib axes
    first, factor = found[0], _factor(found[0].metric)
    groups = list(dict.fromkeys(c.test for c in found))
    for c in found:
        place = groups.index(c.test) + 0.5 * (encoders.index(c.encoder) + 0.5) / len(encoders) - 0.25
        bars = [[factor * max(0.0, c.difference - c.low)], [factor * max(0.0, c.high - c.difference)]]
        axis.errorbar(factor * c.difference, place, xerr=bars, **{**_style(c.encoder, encoders), "linestyle": ""})
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_yticks(range(len(groups)), groups, fontsize=7)
    axis.set_ylim(len(groups) - 0.5, -0.5)
    _dress(axis, f"{first.task}: another {first.change}", "")
    axis.set_xlabel(f"difference in {first.metric}{', points' if factor > 1 else ''}", fontsize=7)


def write_robustness_page(result: Robustness, path: Path, about: Mapping[str, Any]) -> int:
    """Write the results as one self-contained HTML file; returns its size in bytes."""
    synthetic = bool(about.get("synthetic"))
    figure = encode_figure(curves_figure(result, synthetic=synthetic), "svg", dpi=150)
    picture = Picture(figure[figure.index(b"<svg") :], "Metric as a function of the level of each change.")
    sections = [Section("curves", "Curves", [picture], lead=HOW)]
    for task in dict.fromkeys(c.task for c in result.curves):
        sections.append(Section(f"task-{len(sections)}", task, [_page_table(result.curves, task)]))
    if result.comparisons:
        rows = [_group_summary(c) for c in result.comparisons]
        sections.append(Section("groups", "Other seasons and continents", [PageTable(GROUP_SUMMARY_COLUMNS, rows)], lead=GROUPS_HOW))  # fmt: skip
    if result.notes:
        omitted: list[Part] = [Notice(note, Tone.PLAIN) for note in result.notes]
        sections.append(Section("notes", "Notes", omitted))
    badges = [Badge("synthetic tiles", Tone.WARNING)] if synthetic else []
    page = Page(title="Robustness", lead=QUESTION, badges=badges, sections=sections, footer=f"Made by mmearth {__version__}.")  # fmt: skip
    return write_page(page, path)


def _page_table(curves: Sequence[Curve], task: str) -> PageTable:
    mine = [c for c in curves if c.task == task]
    caption = f"{mine[0].protocol}, {_unit(mine[0].metric)}, {mine[0].samples} test samples, seeds: {mine[0].seeds}"
    return PageTable((*SUMMARY_COLUMNS, "note"), [(*_summary(c), c.note) for c in mine], caption)


def _summary(c: Curve) -> tuple[str, ...]:
    """Cells of one curve."""
    last = c.points[-1]
    difference, low, high = (shown(c.metric, x) for x in (last.difference, last.difference_low, last.difference_high))
    figures = (shown(c.metric, value) for value in (c.points[0].value, last.value))
    return (c.change, short_name(c.encoder), *figures, f"{difference} ({low} to {high})", shown(c.metric, c.area), _share(c.kept))  # fmt: skip


def _unit(metric: str) -> str:
    return f"{metric}, %" if metric in PERCENT else metric


def render(result: Robustness) -> RenderableType:
    """Results for a terminal: one table per task, with one row per change and encoder."""
    parts: list[RenderableType] = []
    for task in dict.fromkeys(c.task for c in result.curves):
        mine = [c for c in result.curves if c.task == task]
        parts += [
            Paragraphs([f"{task}   {mine[0].protocol}   {_unit(mine[0].metric)}"], style="bold"),
            _curve_table(mine),
        ]
    if result.comparisons:
        parts += [Paragraphs(["Other seasons and continents"], style="bold"), _group_table(result.comparisons)]
    notes = [f"{c.change}, {c.encoder} on {c.task}: {c.note}." for c in result.curves if c.note]
    return Group(*parts, Paragraphs([*notes, *result.notes, HOW, *[GROUPS_HOW] * bool(result.comparisons)]))


def _curve_table(curves: Sequence[Curve]) -> FittedTable:
    table = FittedTable([TableColumn(name, right=place > 1) for place, name in enumerate(SUMMARY_COLUMNS)])
    for c in curves:
        table.add(*_summary(c))
    return table


def _group_table(found: Sequence[Comparison]) -> FittedTable:
    table = FittedTable([TableColumn(name, right=place > 2) for place, name in enumerate(GROUP_SUMMARY_COLUMNS)])
    for c in found:
        table.add(*_group_summary(c))
    return table


def _group_summary(c: Comparison) -> tuple[str, ...]:
    """Cells of one comparison."""
    own, other, difference, low, high = (shown(c.metric, x) for x in (c.own, c.other, c.difference, c.low, c.high))
    return (c.task, short_name(c.encoder), c.test, own, other, f"{difference} ({low} to {high})")
