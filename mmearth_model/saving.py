"""Write figures atomically."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data import encode_figure, picture_format, write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

FORMS = ("png", "pdf", "svg")
"""What a figure is written as where its folder is given: for a glance, for a paper, for editing."""


def save_figure(figure: Figure, file: Path, *, dpi: int = 150) -> None:
    """Write a figure as PNG, PDF or SVG, by the ending of the file; raises like `mmearth_data.staged_file`."""
    write_bytes(file, encode_figure(figure, picture_format(file), dpi=dpi))


def save_figure_forms(figure: Figure, stem: Path, *, dpi: int = 150) -> None:
    """Write a figure in each of the formats in `FORMS`, to ``stem`` with their extensions; raises like `save_figure`.

    All formats use the layout of the first, so the layout is computed only once.
    """
    for form in FORMS:
        save_figure(figure, stem.with_name(f"{stem.name}.{form}"), dpi=dpi)
        figure.set_layout_engine("none")
