"""How metrics are shown."""

from __future__ import annotations

PERCENT = frozenset({"accuracy", "f1", "jaccard", "map"})
"""Metrics shown in per cent."""


def shown(metric: str, value: float) -> str:
    """Format a value; shares in per cent.

    Examples
    --------
    >>> shown("accuracy", 0.5), shown("rmse", 0.5)
    ('50.0', '0.500')
    """
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.3f}"
