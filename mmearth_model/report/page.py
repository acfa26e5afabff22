"""The page of a report: every section, in reading order."""

from __future__ import annotations

from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mmearth_data import (
    Badge,
    Columns,
    Details,
    Facts,
    Legend,
    Link,
    Notice,
    Page,
    PageTable,
    Paragraph,
    Plot,
    Section,
    Tone,
    __version__,
    write_page,
)
from mmearth_model.report.curves import Choice, curves_of, curves_plot, plain_curves, styles_of
from mmearth_model.report.forest import results_section
from mmearth_model.report.gather import Report
from mmearth_model.report.log import TOTAL
from mmearth_model.report.map_parts import embedding_section
from mmearth_model.report.pictures import reconstruction_section
from mmearth_model.report.results import results_of
from mmearth_model.report.runs import recipe_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mmearth_data import Part
    from mmearth_model.report.curves import Curve
    from mmearth_model.report.drawing import Drawings
    from mmearth_model.report.log import LogTable
    from mmearth_model.report.runs import RunRecord


SUM = "total"
"""Name of the total loss in lists of task losses."""


def make_page(report: Report, drawings: Drawings | None = None, store_page: str = "") -> Page:
    """Lay out a report as a page, with pictures if they were drawn, and with a link to the page of the store."""
    sections = [
        *_runs(report.runs),
        *_pictures(drawings),
        *(results_section(found, number) for number, found in enumerate(report.results, start=1)),
        *_recipes(report),
        *_store(drawings, store_page),
        *_missing(drawings),
    ]
    return Page(
        title=_title(report),
        lead=_lead(report),
        badges=[Badge("synthetic tiles", Tone.WARNING)] if report.synthetic else [],
        sections=sections,
        footer=f"Made by mmearth {__version__}.",
    )


def _title(report: Report) -> str:
    names = ", ".join(run.folder.name for run in report.runs[:3]) + (" ..." if len(report.runs) > 3 else "")
    return f"Training report: {names}" if names else ", ".join(dict.fromkeys(found.title for found in report.results))


def _lead(report: Report) -> str:
    """Describe what the page covers."""
    stores = dict.fromkeys(PurePath(str(run.store.get("path", ""))).name for run in report.runs)
    runs = f"{len(report.runs)} {'run' if len(report.runs) == 1 else 'runs'} on {', '.join(stores)}"
    tasks = dict.fromkeys(task for found in report.results for task in found.tasks)
    parts = ([runs] if report.runs else []) + ([f"tested on {', '.join(tasks)}"] if tasks else [])
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def write_results_page(content: Mapping[str, Any], title: str, path: Path) -> int:
    """Write the page of one command's results, in the JSON form of `mmearth_model.Evaluation`; returns its size in bytes."""
    found = results_of(content, str(content.get("store") or "files"), title)
    return write_page(make_page(Report(results=(found,))), path)


def _runs(runs: Sequence[RunRecord]) -> Iterator[Section]:
    if not runs:
        return
    notes = [Notice(f"{run.name}: {note}.") for run in runs for note in run.notes]
    yield Section("runs", "Runs", [_overview(runs), *notes])
    losses = curves_of(runs, _losses)
    if not losses:
        return
    yield Section("losses", "Losses", list(_loss_parts(losses, runs)), lead="The total loss and the loss of each task; lower is better.")  # fmt: skip
    weights = curves_of(runs, lambda log: log.weights)
    if weights:
        yield Section("weights", "Loss weights", list(_weight_parts(weights)), lead="Weight of each task's loss in the total, learned by uncertainty weighting.")  # fmt: skip
    yield Section("speed", "Learning rate and speed", list(_speed_parts(runs)))


def _pictures(drawings: Drawings | None) -> Iterator[Section]:
    if drawings is None:
        return
    found = reconstruction_section(drawings.reconstructions, drawings.epochs)
    if found is not None:
        yield found
    if drawings.tiles is not None:
        yield embedding_section(drawings.tiles, drawings.planes)


def _store(drawings: Drawings | None, page: str) -> Iterator[Section]:
    facts = [] if drawings is None or not drawings.store else [Facts(drawings.store)]
    link = [Paragraph("More: ", Link("the report of the store", page), ".")] if page else []
    if facts or link:
        yield Section("store", "Store", [*facts, *link])


def _missing(drawings: Drawings | None) -> Iterator[Section]:
    if drawings is not None and drawings.missing:
        yield Section("missing", "Not shown", [Notice(f"{line}.") for line in drawings.missing])


def _overview(runs: Sequence[RunRecord]) -> Part:
    if len(runs) == 1:
        return Facts(list(zip(_OVERVIEW, _overview_cells(runs[0]), strict=True)))
    return PageTable(_OVERVIEW, [_overview_cells(run) for run in runs])


_OVERVIEW = ("run", "state", "epochs", "tiles", "images/s", "waiting for data", "total loss, first", "last")


def _overview_cells(run: RunRecord) -> tuple[str | int | float | None, ...]:
    first, last = run.losses().get(TOTAL, (None, None))
    waiting = run.last("waiting")
    epochs, tiles = run.recipe.get("epochs"), run.store.get("tiles")
    return (
        run.name,
        run.state,
        epochs if isinstance(epochs, int) else None,
        tiles if isinstance(tiles, int) else None,
        run.last("images_per_s"),
        None if waiting is None else f"{100 * waiting:.0f} %",
        first,
        last,
    )


def _losses(log: LogTable) -> dict[str, Any]:
    return {SUM: log.columns[TOTAL], **{name: log.columns[name] for name in log.tasks}}


def _loss_parts(curves: Sequence[Curve], runs: Sequence[RunRecord]) -> Iterator[Part]:
    by_run = len({curve.run for curve in curves}) > 1
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    first = [SUM] if by_run else [task for task in tasks if task != SUM]
    choice = Choice(tasks=first, runs=[run.name for run in runs], by_run=by_run)
    yield Legend(styles_of(curves, by_run=by_run))
    yield Plot(
        curves_plot(curves, choice, "loss", name="losses"),
        "Losses over the steps of each run.",
        caption="A logarithmic axis omits values of zero and below.",
    )


def _weight_parts(curves: Sequence[Curve]) -> Iterator[Part]:
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    choice = Choice(tasks=tasks, runs=[curves[0].run], by_run=False)
    yield Legend(styles_of(curves, by_run=False))
    yield Plot(
        curves_plot(curves, choice, "weight", name="weights"), "Weights of the losses over the steps of each run."
    )


def _speed_parts(runs: Sequence[RunRecord]) -> Iterator[Part]:
    plots = []
    for name, label in (
        ("lr", "learning rate"),
        ("images_per_s", "images/s"),
        ("waiting", "share of the time waiting"),
    ):
        curves = curves_of(runs, partial(_column, name, label))
        if curves:
            plots.append(Plot(plain_curves(curves, label), f"{label} over the steps of each run", caption=label))
    if len(runs) > 1:
        yield Legend(styles_of(curves_of(runs, lambda log: {TOTAL: log.columns[TOTAL]}), by_run=True))
    yield Columns(plots, 300)


def _column(name: str, label: str, log: LogTable) -> dict[str, Any]:
    return {label: log.columns[name]} if name in log.columns else {}


def _recipes(report: Report) -> Iterator[Section]:
    if len(report.runs) == 1:
        fields = [Facts(list(recipe_fields(report.runs[0]).items()))]
        yield Section("recipes", "Recipe", [Details("All fields, the store and the version", fields)])
    if len(report.runs) < 2:
        return
    found = report.differences()
    rows = [(name, *values) for name, values in found.items()]
    table = PageTable(("field", *(run.name for run in report.runs)), rows)
    yield Section("recipes", "Differences between the recipes", [table if rows else Notice("All runs have the same recipe and store.", Tone.PLAIN)])  # fmt: skip
