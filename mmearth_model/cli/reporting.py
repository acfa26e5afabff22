"""The command `report`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from annotated_types import Interval

from mmearth_data import FilePath, Number, option, refuse_unused
from mmearth_model.cli.options import BESIDE, DEVICE, FILE, FOLDER, HTML, JSON, WHAT, command
from mmearth_model.cli.output import check_page, print_rich, published_results, say

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_model import Report


@command()
@click.argument("runs", type=FILE, nargs=-1, required=True, metavar="RUN...")
@BESIDE
@HTML
@option("--store STORE", WHAT, "With --html: store whose tiles are shown.", FOLDER, shown="the store of each run")
@option(
    "--store-page FILE",
    WHAT,
    "With --html: report of the store to link to, written by mmearth-data inspect --html.",
    FilePath(".html"),
)
@option("--tiles N", WHAT, "With --html: tiles to reconstruct.", Number(int, Interval(ge=0, le=16)), default=4)
@option(
    "--embeddings N",
    WHAT,
    "With --html: tiles on the map of embeddings.",
    Number(int, Interval(ge=0, le=500)),
    name="embedded",
    default=300,
)
@DEVICE
@JSON
def report(
    runs: tuple[Path, ...],
    beside: str | None,
    page: Path | None,
    store: str | Path | None,
    store_page: Path | None,
    tiles: int,
    embedded: int,
    device: str,
    as_json: bool,
) -> None:
    """Report on runs and results; with --html, as an HTML page.

    RUN is a run folder, a folder that evaluate or finetune wrote with --out, or an experiment folder; results in folders
    directly below a run are also read. Runs may be unfinished.
    """
    from mmearth_model import read_report

    if page is None:
        refuse_unused("without --html", "store", "store_page", "tiles", "embedded", "device")
    check_page(page)
    published = published_results(beside)
    found = read_report(runs)
    if published is not None:
        found = found.beside(published)
    if page is not None:
        from mmearth_model import write_report  # needs PyTorch, which a summary does without

        drawn: dict[str, Any] = {
            "store": store,
            "store_page": store_page,
            "tiles": tiles,
            "embedded": embedded,
            "device": device,
        }
        written = write_report(found, page, **drawn, report=say)
        say(f"{page}: {written / 1e6:.1f} MB")
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
        return
    _print_report(found)


def _print_report(found: Report) -> None:
    from mmearth_model.report.summary import render_report

    print_rich(render_report(found))
