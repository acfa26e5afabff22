"""Write a report as a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mmearth_data import write_page
from mmearth_model.report.drawing import draw_runs
from mmearth_model.report.page import make_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_model.report.gather import Report


def write_report(
    found: Report,
    path: str | Path,
    *,
    store: str | Path | None = None,
    store_page: str | Path | None = None,
    tiles: int = 4,
    embedded: int = 300,
    device: str = "auto",
    report: Callable[[str], None] | None = None,
) -> int:
    """Write a report as one HTML file that needs no network; returns its size in bytes.

    Parameters
    ----------
    found
        From `mmearth_model.read_report`.
    path
        File, which is replaced.
    store
        Store whose tiles are drawn; None uses the store that each run was trained on.
    store_page
        HTML report of the store, linked by a relative path.
    tiles, embedded
        Number of tiles to reconstruct and to embed; 0 skips them.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    report
        Called with a line of text before each step.

    Raises
    ------
    InputError
        When ``store`` is not a store, there is no such device, or Bokeh is not installed.
    WriteFailed
        When the file cannot be written.
    """
    path, store = Path(path), None if store is None else Path(store)
    drawn = draw_runs(found.runs, store=store, tiles=tiles, embedded=embedded, device=device, report=report)
    return write_page(make_page(found, drawn, "" if store_page is None else _address(Path(store_page), path)), path)


def _address(target: Path, page: Path) -> str:
    """Address of a file from a page in another folder or the same, percent-encoded."""
    return quote(Path(os.path.relpath(target, page.parent)).as_posix())
