"""Write figures and weights atomically."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from mmearth_data import staged_file, write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch import Tensor


def save_figure(figure: Figure, file: Path, *, dpi: int = 150) -> None:
    """Write a figure as PNG; raises like `mmearth_data.staged_file`."""
    png = io.BytesIO()
    figure.savefig(png, dpi=dpi, format="png")
    write_bytes(file, png.getbuffer())


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors by name as safetensors, sorted; raises like `mmearth_data.staged_file`."""
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())}
    with staged_file(file, needed_bytes=sum(t.numel() * t.element_size() for t in whole.values())) as beside:
        save_file(whole, beside)
