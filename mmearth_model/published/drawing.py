"""Panels of a figure with published results: filled circles are measured here, open diamonds are published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_model.formatting import PERCENT, shown
from mmearth_model.published.rendering import interval_of

if TYPE_CHECKING:
    from mmearth_model.published.comparing import Comparison

MEASURED = {"color": "#0072b2", "marker": "o", "markersize": 5, "linewidth": 1.4}
OTHERS = {"color": "0.45", "marker": "D", "markersize": 4, "linewidth": 1.0, "markerfacecolor": "white"}
ROW_INCHES = 0.24
NAME = 44


def panel_inches(comparison: Comparison) -> float:
    """Height of the panel of a comparison."""
    return max(1.5, 1.0 + ROW_INCHES * len(comparison.lines))


def draw_comparison(axis: Any, comparison: Comparison) -> None:  # noqa: ANN401 - matplotlib axes
    """Draw a row per result, with the values next to it."""
    metric, scale = comparison.metric, 100.0 if comparison.metric in PERCENT else 1.0
    for row, line in enumerate(comparison.lines):
        low, high = (line.value if end is None else end for end in (line.low, line.high))
        bars = [[scale * max(0.0, line.value - low)], [scale * max(0.0, high - line.value)]]
        axis.errorbar(scale * line.value, row, xerr=bars, linestyle="", **(OTHERS if line.source else MEASURED))
        interval = interval_of(metric, line)
        words = f"{shown(metric, line.value)}{f'  ({interval})' if interval else ''}"
        axis.text(1.02, row, words, transform=axis.get_yaxis_transform(), va="center", fontsize=7.5)
    names = [name if len(name) <= NAME else f"…{name[1 - NAME :]}" for name in (x.encoder for x in comparison.lines)]
    axis.set_yticks(range(len(names)), names, fontsize=7.5)
    axis.set_ylim(len(names) - 0.4, -0.6)
    marks = "filled: measured here; open: published by others" if comparison.measured else "published by others"
    axis.set_xlabel(f"{comparison.unit}   ({marks})", fontsize=8)
    axis.set_title(comparison.heading, fontsize=9, loc="left", x=-0.5, fontweight="bold", pad=10)
    axis.tick_params(axis="x", labelsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25)
