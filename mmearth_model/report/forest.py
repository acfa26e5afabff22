"""Results of probes, fine-tuning and experiments for a page: a forest plot and a table per task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bokeh.models import ColumnDataSource, FactorRange, HoverTool
from bokeh.models.annotations import Span, Whisker

from mmearth_data import Columns, Legend, Notice, PageTable, Paragraph, Plot, Section, Tone, class_styles, page_figure
from mmearth_model.formatting import PERCENT, shown
from mmearth_model.published import ELSEWHERE, HERE
from mmearth_model.published.rendering import cells_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bokeh.plotting import figure as BokehFigure  # noqa: N812 - a class that Bokeh spells in lower case

    from mmearth_data import Part
    from mmearth_model.published import Beside, Comparison, Line
    from mmearth_model.report.results import Difference, Entry, ResultSet

PROTOCOL_PX, GAP_PX, HEAD_PX = 16, 14, 110
NAME, PUBLISHED_NAME = 34, 46
"""Maximum length of an encoder's name in a figure, and in a figure of published results."""
MOST_ROWS = 60
"""Rows of one forest plot; further ones are in the table only."""


def results_section(found: ResultSet, number: int) -> Section:
    """Lay out the results of one command."""
    notes = [Paragraph(note) for note in found.notes]
    leaky = any(entry.leaky for entry in found.entries)
    warning = (
        "Leaky: the encoder was trained on these labels or on related ones; the result is no evidence of its quality."
    )
    return Section(
        f"results-{number}",
        found.title if number == 1 else f"{found.title} ({number})",
        [
            *([Paragraph(found.question)] if found.question else []),
            *(part for task in found.tasks for part in _task(found, task)),
            *([Notice(warning)] if leaky else []),
            *notes,
            *([] if found.beside is None else _beside(found.beside)),
        ],
        lead=f"{found.name}: means over the seeds, with 95 % intervals (bootstrap over the test samples).",
    )


def _task(found: ResultSet, task: str) -> Iterator[Part]:
    entries = [entry for entry in found.entries if entry.task == task]
    protocols = list(dict.fromkeys(entry.protocol for entry in entries))
    metric = entries[0].metric
    yield Paragraph(f"{task}: {metric}{', %' if metric in PERCENT else ''}")
    if len(protocols) > 1:
        yield Legend(class_styles(protocols))
    drawn = [entry for entry in entries if math.isfinite(entry.mean)]
    plots = [Plot(forest_figure(drawn, protocols), f"Forest plot of {task}")] if drawn else []
    differences = [d for d in found.differences if d.task == task and math.isfinite(d.value)]
    if differences:
        plots.append(Plot(difference_figure(differences, metric, protocols), f"Differences from {differences[0].baseline} on {task}"))  # fmt: skip
    yield Columns(plots, 420)
    yield _table(entries, found.differences)


def _beside(beside: Beside) -> Iterator[Part]:
    """Comparisons with published results: a forest plot and a table of each."""
    for comparison in beside.comparisons:
        yield Paragraph(f"{comparison.heading} ({comparison.unit})")
        styles = class_styles([HERE, ELSEWHERE])
        yield Legend([style for style in styles if style.name in {line.kind for line in comparison.lines}])
        drawn = [line for line in comparison.lines if math.isfinite(line.value)]
        if drawn:
            yield Columns([Plot(published_figure(comparison, drawn), comparison.heading)], 420)
        yield _published_table(comparison)
    yield from (Notice(note, Tone.PLAIN) for note in beside.notes())


def published_figure(comparison: Comparison, lines: Sequence[Line]) -> BokehFigure:
    """Draw measured and published results of one task, metric and protocol, by colour and shape."""
    rows = []
    for line in lines:
        low, high = (line.value if end is None else end for end in (line.low, line.high))
        rows.append((_short(line.encoder, PUBLISHED_NAME), line.kind, (line.value, low, high), line.source))
    return _figure(rows, [HERE, ELSEWHERE], comparison.metric, comparison.unit, [])


def _published_table(comparison: Comparison) -> PageTable:
    columns, rows = cells_of(comparison)
    values = [_rounded(comparison.metric, line.value) for line in comparison.lines]
    return PageTable(columns, [(row[0], value, *row[2:]) for row, value in zip(rows, values, strict=True)])


def forest_figure(entries: Sequence[Entry], protocols: Sequence[str]) -> BokehFigure:
    """Draw each encoder's mean and interval, protocols by colour and shape, and the level of guessing."""
    metric = entries[0].metric
    rows = [(_row_name(entry), entry.protocol, (entry.mean, entry.low, entry.high), _tip(entry)) for entry in entries]
    guessing = next((entry.guessing for entry in entries if entry.guessing is not None), None)
    lines = [] if guessing is None else [guessing * factor(metric)]
    remark = "".join(f" (dashed: guessing, {line:.3g})" for line in lines)
    made = _figure(rows, protocols, metric, f"{metric}{', %' if metric in PERCENT else ''}{remark}", lines)
    for line in lines:
        made.add_layout(_line(line))
    return made


def difference_figure(differences: Sequence[Difference], metric: str, protocols: Sequence[str]) -> BokehFigure:
    """Draw differences from the baseline, with paired intervals."""
    rows = [
        (d.encoder if d.labels == "100%" else f"{d.encoder}, {d.labels}", d.protocol, (d.value, d.low, d.high), "")
        for d in differences
    ]
    unit = ", points" if metric in PERCENT else ""
    made = _figure(rows, protocols, metric, f"{metric} minus that of {differences[0].baseline}{unit}", [0.0])
    made.add_layout(_line(0.0))
    return made


def _line(place: float) -> Span:
    return Span(location=place, dimension="height", line_dash="dashed", line_color="#8c8c8c", line_width=1.5)


Row = tuple[str, str, tuple[float, float, float], str]


def _range(rows: Sequence[Row], scale: float, others: Sequence[float]) -> tuple[float, float]:
    """Choose the ends of the axis so that all intervals fit."""
    ends = [scale * value for _, _, values, _ in rows for value in values if math.isfinite(value)]
    low, high = min(*ends, *others), max(*ends, *others)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _figure(
    rows: Sequence[Row], protocols: Sequence[str], metric: str, label: str, others: Sequence[float]
) -> BokehFigure:
    names = list(dict.fromkeys(name for name, *_ in rows))[:MOST_ROWS]
    made = page_figure(
        height=HEAD_PX + (GAP_PX + PROTOCOL_PX * len(protocols)) * len(names),
        y_range=FactorRange(factors=names[::-1]),
        x_axis_label=label,
        tools="reset,save",
        x_range=_range(rows, factor(metric), others),
    )
    for style in class_styles(protocols):
        place = 0.72 * ((protocols.index(style.name) + 0.5) / len(protocols) - 0.5)
        mine = [row for row in rows if row[1] == style.name and row[0] in names]
        source = ColumnDataSource(_columns(mine, -place, factor(metric), metric))
        whisker = Whisker(base="row", upper="high", lower="low", source=source, dimension="width", line_color=style.colour, line_width=2)  # fmt: skip
        whisker.upper_head = whisker.lower_head = None
        made.add_layout(whisker)
        dots = made.scatter(x="mean", y="row", marker=style.marker, size=10, color=style.colour, source=source)
        tips = [("", "@name"), ("protocol", "@protocol"), (metric, "@text"), ("", "@note")]
        made.add_tools(HoverTool(renderers=[dots], tooltips=tips))
    made.ygrid.grid_line_color = None
    made.xgrid.grid_line_color = "#8c8c8c55"
    return made


def _columns(rows: Sequence[Row], shift: float, scale: float, metric: str) -> dict[str, Any]:
    found = {end: [scale * row[2][place] for row in rows] for place, end in enumerate(("mean", "low", "high"))}
    return {
        **found,
        "row": [(name, shift) for name, *_ in rows],
        "name": [name for name, *_ in rows],
        "protocol": [protocol for _, protocol, *_ in rows],
        "text": [interval_text(metric, *values) for _, _, values, _ in rows],
        "note": [note for *_, note in rows],
    }


def factor(metric: str) -> float:
    """Return what values of a metric are multiplied by to be shown."""
    return 100.0 if metric in PERCENT else 1.0


def interval_text(metric: str, mean: float, low: float, high: float) -> str:
    """Mean with its interval, as text."""
    return f"{shown(metric, mean)} ({shown(metric, low)} to {shown(metric, high)})"


def _row_name(entry: Entry) -> str:
    return f"{_short(entry.encoder)}{'*' if entry.leaky else ''}{'' if entry.labels == '100%' else f', {entry.labels}'}"


def _short(encoder: str, most: int = NAME) -> str:
    return encoder if len(encoder) <= most else "\N{HORIZONTAL ELLIPSIS}" + encoder[1 - most :]


def _tip(entry: Entry) -> str:
    return f"{entry.seeds} {'seed' if entry.seeds == 1 else 'seeds'}{f'; {entry.note}' if entry.note else ''}"


def _table(entries: Sequence[Entry], differences: Sequence[Difference]) -> PageTable:
    """Table of all results, without empty or constant columns."""
    compared = {(d.task, d.protocol, d.labels, d.encoder): d for d in differences}
    metric = entries[0].metric
    rows = []
    for e in entries:
        d = compared.get((e.task, e.protocol, e.labels, e.encoder))
        cells = {
            "encoder": e.encoder,
            "protocol": e.protocol,
            "labels": e.labels,
            f"{metric}, %" if metric in PERCENT else metric: _rounded(metric, e.mean),
            "95 % interval": f"{shown(metric, e.low)} to {shown(metric, e.high)}",
            "difference": None if d is None else _rounded(metric, d.value),
            "its 95 % interval": "" if d is None else f"{shown(metric, d.low)} to {shown(metric, d.high)}",
            "guessing": None if e.guessing is None else _rounded(metric, e.guessing),
            "seeds": e.seeds,
            "note": "; ".join(filter(None, ("leaky" * e.leaky, e.note))),
        }
        rows.append(cells)
    said = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    said = [name for name in said if name != "labels" or len({row["labels"] for row in rows}) > 1]
    return PageTable(said, [[row[name] for name in said] for row in rows])


def _rounded(metric: str, value: float) -> float | None:
    """Round a value as it is shown; a number, so that the column can be sorted."""
    return float(shown(metric, value)) if math.isfinite(value) else None
