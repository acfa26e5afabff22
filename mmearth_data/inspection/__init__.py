"""Inspect a store: a summary, a figure of one tile with all its modalities, and a map of its tiles."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmearth_data.inspection.figures import tile_figure
    from mmearth_data.inspection.maps import map_figure, sample_map
    from mmearth_data.inspection.summary import Summary, summarise
    from mmearth_data.inspection.terminal import render_summary

_HOME = {
    "Summary": "summary",
    "map_figure": "maps",
    "render_summary": "terminal",
    "sample_map": "maps",
    "summarise": "summary",
    "tile_figure": "figures",
}

__all__ = ["Summary", "map_figure", "render_summary", "sample_map", "summarise", "tile_figure"]


def __getattr__(name: str) -> object:
    """Load a name on first use: a summary needs no matplotlib."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
