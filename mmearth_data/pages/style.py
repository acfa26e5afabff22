"""Style of figures on pages: colours and shapes that colour-blind readers can distinguish, and one figure factory.

Colours of axes, texts and backgrounds come from the page's style sheet (``--bk-*``, which Bokeh reads), so that a figure
follows the reader's light or dark scheme. Colours of glyphs are chosen to be visible in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.plotting import figure as bokeh_figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c8c8c")
"""Okabe and Ito 2008, "Color Universal Design", with grey for black and without yellow: neither is visible in both schemes."""
MARKERS = {
    "circle": "M8 2.5a5.5 5.5 0 1 0 .01 0z",
    "square": "M3 3h10v10H3z",
    "triangle": "M8 2l6.5 11.5h-13z",
    "diamond": "M8 1l5 7-5 7-5-7z",
    "inverted_triangle": "M8 14L1.5 2.5h13z",
    "hex": "M8 1.5l5.8 3.25v6.5L8 14.5l-5.8-3.25v-6.5z",
    "star": "M8 1l2 4.9 5.2.4-4 3.4 1.3 5.1L8 12l-4.5 2.8 1.3-5.1-4-3.4 5.2-.4z",
    "square_pin": "M1.5 1.5Q8 5 14.5 1.5 11 8 14.5 14.5 8 11 1.5 14.5 5 8 1.5 1.5z",
    "plus": "M6 1.5h4V6h4.5v4H10v4.5H6V10H1.5V6H6z",
    "triangle_pin": "M8 1q.5 7 6.5 12.5Q8 11 1.5 13.5 7.5 8 8 1z",
    "circle_cross": "M8 2.5a5.5 5.5 0 1 0 .01 0zM8 2.5v11M2.5 8h11",
    "square_x": "M3 3h10v10H3zM3 3l10 10M13 3L3 13",
    "diamond_cross": "M8 1l5 7-5 7-5-7zM8 1v14M3 8h10",
    "circle_y": "M8 2.5a5.5 5.5 0 1 0 .01 0zM8 8v5.5M8 8L3.5 4.5M8 8l4.5-3.5",
}
"""Shapes of Bokeh, each unlike its neighbours -> the same shape as an SVG path of 16 by 16 units, for legends."""
MAP_COLOURS = ("#0d0887", "#5b02a3", "#9a179b", "#cb4678", "#eb7852", "#fbb32f", "#f0f921")
"""Ends and steps of a sequential scale (matplotlib's plasma), which lightness alone orders."""
HOUSE: dict[str, Any] = {
    "sizing_mode": "stretch_width",
    "height": 320,
    "toolbar_location": "above",
    "tools": "pan,box_zoom,reset,save",
    "min_border_left": 48,
    "output_backend": "canvas",
}


class ClassStyle(NamedTuple):
    """Colour and shape of one class of a legend."""

    name: str
    colour: str
    marker: str

    @property
    def path(self) -> str:
        """Shape as an SVG path of 16 by 16 units."""
        return MARKERS[self.marker]


def class_styles(names: Sequence[str]) -> list[ClassStyle]:
    """Colour and shape of each class; no two of up to 14 classes share both.

    Parameters
    ----------
    names
        Classes, in the order of the legend; those beyond the fourteenth repeat the first ones.
    """
    markers = tuple(MARKERS)
    return [
        ClassStyle(name, COLOURS[number % len(COLOURS)], markers[number % len(markers)])
        for number, name in enumerate(names)
    ]


def page_figure(title: str = "", **options: Any) -> bokeh_figure:
    """Make a figure in the common style: as wide as its column, thin axes, tools above.

    Parameters
    ----------
    title
        Title; none if the surrounding text is sufficient.
    **options
        Options of `bokeh.plotting.figure`; they override the common style.

    Raises
    ------
    InputError
        If Bokeh is not installed.
    """
    require_bokeh()
    from bokeh.plotting import figure

    made = figure(**HOUSE | ({"title": title} if title else {}) | options)
    made.toolbar.logo = None
    made.toolbar.autohide = False
    made.axis.minor_tick_line_color = None
    made.axis.axis_line_color = None
    made.xgrid.grid_line_color = None
    return made


def require_bokeh() -> None:
    """Check that pages can be made.

    Raises
    ------
    InputError
        If Bokeh is not installed; the text says how to install it.
    """
    try:
        import bokeh  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        missing = f"expected the library {error.name}, which HTML pages require and which is not installed"
        raise InputError(f'{missing}; run: pip install "mmearth[report]"') from error
