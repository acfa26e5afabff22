"""Write figures atomically."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from mmearth_data import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


def save_figure(figure: Figure, file: Path, *, dpi: int = 150) -> None:
    """Write a figure as PNG; raises like `mmearth_data.staged_file`."""
    png = io.BytesIO()
    figure.savefig(png, dpi=dpi, format="png")
    write_bytes(file, png.getbuffer())
