"""What commands print and write: notes on stderr, tables, HTML pages and progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mmearth_data import check_output, is_quiet, require_bokeh, short_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import RenderableType

    from mmearth_data import Meter, Store
    from mmearth_model import Evaluation
    from mmearth_model.published import Beside, Published


def say(text: str) -> None:
    """Write a note to stderr, unless ``--quiet``; not with click, which would write it into a live progress line."""
    if not is_quiet():
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def print_rich(renderable: RenderableType) -> None:
    """Print a rich renderable, such as a table."""
    from rich.console import Console

    Console().print(renderable, crop=False)


def print_table(result: Evaluation, store: Store | None, beside: Beside | None = None) -> None:
    """Print the table of results, with published ones if given."""
    from mmearth_model.evaluation.terminal import render_results

    synthetic = f" on {short_path(store.path)}{', synthetic' if store.synthetic else ''}" if store else ""
    print_rich(render_results(f"{title_for(result)}{synthetic}", result, beside=beside))


def title_for(result: Evaluation) -> str:
    """Heading for the results."""
    from mmearth_model.formatting import title_of

    return title_of({row.protocol for row in result.rows})


def check_page(page: Path | None) -> None:
    """Raise an error, before anything is computed, if the page cannot be created."""
    if page is not None:
        require_bokeh()
        check_output(page, option="--html")


def published_results(table: str | None) -> tuple[Published, ...] | None:
    """Read the published results that --beside names, before anything is computed."""
    from mmearth_model import read_published

    return None if table is None else read_published(table)


def write_page(content: dict[str, Any], title: str, page: Path | None) -> None:
    """Write the HTML page of a command's results, if requested."""
    if page is None:
        return
    from mmearth_model.report.page import write_results_page

    written = write_results_page(content, title, page)
    say(f"{page}: {written / 1e6:.1f} MB")


def mapping_shown(show: Meter, out: Path, unit: str = "px") -> Callable[[float, float], None]:
    """Show the progress of a map; if it resumes, first print how much is finished."""
    begun: list[float] = []

    def report(done: float, total: float) -> None:
        if done and not begun:
            say(f"Resuming {short_path(out)}: {done:,.0f} of {total:,.0f} {unit} are finished.")
        begun.append(done)
        show(done, total)

    return report
