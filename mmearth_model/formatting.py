"""How metrics are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

PERCENT = frozenset({"accuracy", "accuracy_macro", "f1", "jaccard", "map", "map_macro", "micro_map", "recall_macro"})
"""Metrics shown in per cent."""


def shown(metric: str, value: float) -> str:
    """Format a value; shares in per cent.

    Examples
    --------
    >>> shown("accuracy", 0.5), shown("rmse", 0.5)
    ('50.0', '0.500')
    """
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.3f}"


def title_of(protocols: Collection[str]) -> str:
    """Heading of results: what was evaluated, by the protocols of the rows."""
    if any(name.startswith("finetune") for name in protocols):
        return "Fine-tuned encoders"
    if "network" not in protocols:
        return "Frozen encoders"
    return "Networks" if set(protocols) == {"network"} else "Frozen encoders and networks"
