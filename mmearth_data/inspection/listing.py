"""Catalog entries for a terminal: a table of all entries, or all details of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from mmearth_data.catalog.entries import describe_modality
from mmearth_data.terminal.tables import FittedTable, NamedValues, TableColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.catalog.modality import Modality

SWATCH = 6
"""Columns that show a colour."""


def render_catalog(modalities: Sequence[Modality]) -> FittedTable:
    """Table of modalities for a terminal, one per row; licences are shown by `render_modality`."""
    table = FittedTable(
        [
            TableColumn("modality"),
            TableColumn("kind", rank=1),
            TableColumn("stored as", rank=2),
            TableColumn("holds", wrap=True),
        ]
    )
    for m in modalities:
        what = f"{len(m.classes)} classes" if m.classes else " ".join(m.bands)
        unit = "" if m.units == "1" or m.kind.is_categorical else f", {m.units}"
        wanted = "" if m.enabled else " (on request)"
        table.add(m.name, str(m.kind), m.dtype.name if m.stored else "derived", what + unit + wanted)
    return table


def render_modality(modality: Modality) -> Group:
    """One modality for a terminal: its facts, then its classes in their colours."""
    facts = [
        (name, _as_text(value))
        for name, value in describe_modality(modality).items()
        if name != "classes" and value not in ("", {}, (), None)
    ]
    if not modality.classes:
        return Group(NamedValues(facts, style="bold"))
    classes = FittedTable([TableColumn("code", right=True), TableColumn("class", wrap=True), TableColumn("colour")])
    for label in modality.classes:
        swatch = Text(" " * SWATCH, style=f"on {label.colour}") if label.colour else Text("")
        classes.add(str(label.code), label.name, swatch)
    return Group(NamedValues(facts, style="bold"), "", classes)


def _as_text(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_as_text(item)}" for key, item in value.items() if item not in ("", {}, (), None))
    return " ".join(map(_as_text, value)) if isinstance(value, (list, tuple)) else str(value)
