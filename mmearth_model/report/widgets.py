"""Check boxes, buttons and lists of Bokeh in the style of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bokeh.models.css import InlineStyleSheet
from bokeh.models.widgets import CheckboxGroup, Div, RadioButtonGroup, Select, Slider

if TYPE_CHECKING:
    from collections.abc import Sequence

CSS = """
:host {
  font: 14px/1.45 var(--sans); color: var(--ink); --base-font: var(--sans); --font-size: 14px;
  --color: var(--ink); --background-color: var(--paper); --surface-background-color: var(--panel);
  --border-color: var(--line); --default: var(--paper); --default-border: var(--line); --default-hover: var(--panel);
  --default-hover-border: var(--accent); --default-active: var(--accent); --default-active-border: var(--accent);
}
* { font-family: var(--sans); }
.bk-input-group.bk-inline { display: flex; flex-direction: row; flex-wrap: wrap; gap: 4px 16px; }
.bk-input-group.bk-inline > label { white-space: nowrap; margin: 0; cursor: pointer; }
.bk-btn-default.bk-active { color: var(--paper); font-weight: 600; }
input { accent-color: var(--accent); }
select { max-width: 100%; color: var(--ink); background-color: var(--paper); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
"""


def style_sheet() -> InlineStyleSheet:
    """Make the style of one widget; Bokeh shows a style sheet in one widget only."""
    return InlineStyleSheet(css=CSS)


def boxes(labels: Sequence[str], chosen: Sequence[str], name: str) -> CheckboxGroup:
    """Make check boxes in rows."""
    active = [place for place, label in enumerate(labels) if label in chosen]
    return CheckboxGroup(labels=list(labels), active=active, inline=True, name=name, stylesheets=[style_sheet()], sizing_mode="stretch_width")  # fmt: skip


def buttons(labels: Sequence[str], name: str) -> RadioButtonGroup:
    """Make buttons of which exactly one is pressed, initially the first."""
    return RadioButtonGroup(labels=list(labels), active=0, name=name, stylesheets=[style_sheet()])


def choice(options: Sequence[tuple[str, str]], title: str, name: str) -> Select:
    """Make a drop-down list of (value, text)."""
    listed: list[str | tuple[Any, str]] = [*options]
    return Select(title=title, options=listed, value=options[0][0], name=name, stylesheets=[style_sheet()])


def slider(last: int, title: str, name: str, *, value: int = 0) -> Slider:
    """Make a slider over 0 to ``last``."""
    return Slider(start=0, end=last, step=1, value=value, title=title, name=name, show_value=False, stylesheets=[style_sheet()], sizing_mode="stretch_width")  # fmt: skip


def html(text: str, name: str = "") -> Div:
    """Make an element whose HTML scripts replace."""
    return Div(text=text, name=name or None, stylesheets=[style_sheet()], sizing_mode="stretch_width")
