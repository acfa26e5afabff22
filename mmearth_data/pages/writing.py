"""Write a page as one HTML file, which opens in any browser and cannot access the network."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.files.writing import write_bytes
from mmearth_data.pages.parts import plots_of
from mmearth_data.pages.style import require_bokeh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.model import Model
    from jinja2 import Environment

    from mmearth_data.pages.parts import Page

TEMPLATES = Path(__file__).parent / "templates"
NEUTRAL = {
    "attrs": {
        "Legend": {"background_fill_alpha": 0, "border_line_alpha": 0, "label_text_color": "#7d8590"},
        "BaseColorBar": {"background_fill_alpha": 0, "major_label_text_color": "#7d8590"},
    }
}
"""Style of parts that Bokeh shows without the style sheet: visible in the light and the dark scheme."""
FORMATS = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"\xff\xd8\xff": "image/jpeg", b"<svg": "image/svg+xml"}
"""First bytes of a picture -> its media type."""


def write_page(page: Page, path: str | Path) -> int:
    """Write a page; returns its size in bytes.

    The file contains everything that it needs, Bokeh's scripts once, and a policy by which the browser refuses every
    connection and every script that is not part of the page.

    Parameters
    ----------
    page
        What to write.
    path
        File, which is replaced atomically.

    Raises
    ------
    InputError
        If Bokeh is not installed, or the path names a folder.
    WriteFailed
        If the file cannot be written.
    """
    data = render_page(page).encode()
    write_bytes(path, data)
    return len(data)


def render_page(page: Page) -> str:
    """HTML of a page, see `write_page`."""
    require_bokeh()
    models = plots_of(page)
    scripts, divs = _bokeh(models) if models else ([], [])
    scripts = [*scripts, _text("page.js"), *page.scripts]
    remaining = iter(divs)
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            style=_text("page.css"),
            scripts=scripts,
            policy=policy(scripts, evaluating=_has_callbacks(models)),
            next_plot=remaining.__next__,
        )
    )


def policy(scripts: Sequence[str], *, evaluating: bool) -> str:
    """Content security policy of a page: no connection, and no script but the given ones.

    Bokeh makes functions of the code in its callbacks (``evaluating``); that code is part of a listed script.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    rules = {
        "default-src": "'none'",
        "script-src": hashes + (" 'unsafe-eval'" if evaluating else ""),
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _bokeh(models: Sequence[Model]) -> tuple[list[str], list[str]]:
    """Scripts of Bokeh that show models in one document, and the elements in which they appear, as HTML."""
    from bokeh.embed import components
    from bokeh.resources import Resources
    from bokeh.themes import Theme

    needed = Resources(mode="inline", minified=True, log_level="warn", components=_components(models))
    script, divs = components(list(models), wrap_script=False, theme=Theme(json=NEUTRAL))
    return [*needed.js_raw, script], list(divs)


def _has_callbacks(models: Sequence[Model]) -> bool:
    """Whether models contain code that runs in the browser."""
    return any(type(used).__name__.startswith("CustomJS") for model in models for used in model.references())


def _components(models: Sequence[Model]) -> list[Any]:
    """Parts of Bokeh's library that models need; formulas, whose part is larger than all the others, are left out."""
    used = {found for model in models for found in model.references()}
    widgets = any(type(model).__module__.startswith("bokeh.models.widgets") for model in used)
    webgl = any(getattr(model, "output_backend", "") == "webgl" for model in used)
    return ["bokeh", *(["bokeh-widgets"] if widgets else []), *(["bokeh-gl"] if webgl else [])]


@cache
def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"data_uri": data_uri, "number": format_cell, "percent": format_share}
    return made


def data_uri(data: bytes) -> str:
    """Address of a picture that contains the picture itself."""
    kind = next((kind for start, kind in FORMATS.items() if data.startswith(start)), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def format_cell(value: str | float | None) -> str:
    """Content of a cell as text: numbers with thousands separators and, below 1,000, at most four significant digits."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def format_share(share: float) -> str:
    """Format a share in per cent; only 1 gives 100 %, and only 0 gives 0 %.

    Examples
    --------
    >>> format_share(0.9999), format_share(1), format_share(0.253)
    ('99.9 %', '100 %', '25.3 %')
    """
    return f"{share:.0%}".replace("%", " %") if share in {0, 1} else f"{100 * min(max(share, 0.001), 0.999):.1f} %"
