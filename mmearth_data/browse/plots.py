"""The figures of the page: the map, and histograms of the selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import SelectionGeometry
from bokeh.models import (
    BasicTicker,
    BoxSelectTool,
    ColumnDataSource,
    CustomJSTickFormatter,
    DatetimeTickFormatter,
    HoverTool,
    LinearColorMapper,
    LogColorMapper,
    NoOverlap,
    NumeralTickFormatter,
    Range1d,
)

from mmearth_data.browse.filters import SPLITS, label_names
from mmearth_data.browse.land import land_in
from mmearth_data.browse.views import View, class_image, count_image, in_view
from mmearth_data.catalog.tile import format_tile_ids
from mmearth_data.pages.style import page_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.browse.facets import Facet
    from mmearth_data.browse.index import Bars, TileIndex

MOST_POINTS = 2_000
"""Maximum number of tiles in view with one marker each."""
CELL_PX = 3
"""Side of one cell of the image of counts."""
AROUND = 0.15
"""Share of a view by which its image extends it on each side."""
LEAST_SPAN_M = 20_000.0
GREY = "#8c8c8c"
RAMP = ((0xE6, 0x9F, 0x00, 0x59), (0xD5, 0x5E, 0x00, 0xC8), (0xA5, 0x0F, 0x15, 0xFF))
"""Red, green, blue and opacity from few to many tiles: low counts are close to a light or dark background."""
BAR_COLOUR = "#2a86c8"
"""Blue that is visible on light and on dark backgrounds."""
CHOSEN_COLOUR = "#f0245e"
QUIET = "#00000000"
LAND_LOOK = {"fill_color": GREY, "fill_alpha": 0.22, "line_color": GREY, "line_alpha": 0.55, "line_width": 0.5}
POINT_LOOK = {"size": 9, "fill_alpha": 0.85, "line_color": GREY, "line_width": 0.8}
IMAGE = ("image", "x", "y", "dw", "dh")
POINTS = ("x", "y", "id", "date", "split", "label", "colour", "marker")
DEGREES = """
const degrees = (metres) => %s * 180 / Math.PI;
const step = ticks.length > 1 ? Math.abs(degrees(ticks[1]) - degrees(ticks[0])) : 1;
const text = Math.abs(degrees(tick)).toFixed(Math.min(5, Math.max(0, Math.ceil(-Math.log10(step) - 0.01))));
return Number(text) === 0 ? "0°" : `${text}° ${tick > 0 ? "%s" : "%s"}`;
"""
LONGITUDE = DEGREES % ("metres / 6378137", "E", "W")
LATITUDE = DEGREES % ("Math.atan(Math.sinh(metres / 6378137))", "N", "S")
"""Texts of the axes, for Bokeh's JavaScript: from metres of Web Mercator to degrees."""
POINT_TIPS = """<div style="font-size:12px"><b>@id</b><br>@date, @split<br>@label</div>"""


def ramp(steps: int) -> list[str]:
    """Colours of counts, ``#rrggbbaa``."""
    at = np.linspace(0, len(RAMP) - 1, steps)
    channels = [np.interp(at, np.arange(len(RAMP)), [stop[k] for stop in RAMP]) for k in range(4)]
    return ["#" + "".join(f"{round(float(value)):02x}" for value in colour) for colour in zip(*channels, strict=True)]


def whole_view(index: TileIndex) -> View:
    """View of all tiles that have a location, with a margin; of the point 0, 0 if none has."""
    known = np.isfinite(index.x) & np.isfinite(index.y)
    x, y = (values[known] if known.any() else np.zeros(1) for values in (index.x, index.y))
    west, east, south, north = (float(v) for v in (x.min(), x.max(), y.min(), y.max()))
    grow = max(0.0, LEAST_SPAN_M - (east - west)) / 2, max(0.0, LEAST_SPAN_M - (north - south)) / 2
    view = View(west=west - grow[0], south=south - grow[1], east=east + grow[0], north=north + grow[1])
    return view.around(0.04)


class TileMap:
    """The map: land, counts or single tiles, and the chosen tile.

    Parameters
    ----------
    index
        All tiles.
    moved
        Called when the view has changed.
    """

    def __init__(self, index: TileIndex, moved: Callable[[], None]) -> None:
        self._index = index
        self._land_name = ""
        self.colour: Facet | None = None
        """List of choices that colours the tiles; None for their number."""
        self.mapper = LogColorMapper(palette=ramp(64), low=1, high=10, nan_color=QUIET)
        self.class_mapper = LinearColorMapper(palette=["#000000"], nan_color=QUIET)
        self.plot = self._make_plot()
        self._add_glyphs()
        self._set_view(whole_view(index))
        for model, names in (
            (self.plot.x_range, ("start", "end")),
            (self.plot.y_range, ("start", "end")),
            (self.plot, ("inner_width", "inner_height")),
        ):
            for name in names:
                model.on_change(name, lambda attr, old, new: moved())

    def _make_plot(self) -> Any:  # noqa: ANN401 - Bokeh's figure is typed for keywords only
        plot = _figure(
            name="map",
            x_range=Range1d(min_interval=LEAST_SPAN_M / 20),
            y_range=Range1d(min_interval=LEAST_SPAN_M / 20),
            x_axis_type="mercator",
            y_axis_type="mercator",
            tools="pan,wheel_zoom,box_zoom,zoom_in,zoom_out,reset",
            active_scroll="wheel_zoom",
            toolbar_location="right",
            lod_threshold=None,
        )
        plot.ygrid.visible = False
        plot.xaxis.ticker.desired_num_ticks = 5
        plot.xaxis.formatter = CustomJSTickFormatter(code=LONGITUDE)
        plot.yaxis.formatter = CustomJSTickFormatter(code=LATITUDE)
        return plot

    def _add_glyphs(self) -> None:
        """Add what is shown, from the lowest to the highest: land, cells, single tiles, and the ring of the chosen one."""
        plot = self.plot
        self.land = ColumnDataSource({"xs": [], "ys": []})
        self.counts = ColumnDataSource({name: [] for name in IMAGE})
        self.classes = ColumnDataSource({name: [] for name in IMAGE})
        self.points = ColumnDataSource({name: [] for name in POINTS})
        self.chosen = ColumnDataSource({"x": [], "y": []})
        plot.patches("xs", "ys", source=self.land, **LAND_LOOK)
        counts = plot.image(source=self.counts, color_mapper=self.mapper)
        plot.image(source=self.classes, color_mapper=self.class_mapper)
        points = plot.scatter(source=self.points, marker="marker", fill_color="colour", **POINT_LOOK)
        for look in ({"line_color": "#ffffff", "line_width": 6}, {"line_color": CHOSEN_COLOUR, "line_width": 3}):
            plot.scatter(source=self.chosen, marker="circle", size=20, fill_color=None, **look)
        plot.add_tools(
            HoverTool(renderers=[counts], tooltips="@image{0,0} tiles", visible=False),
            HoverTool(renderers=[points], tooltips=POINT_TIPS, visible=False),
        )

    # ------------------------------------------------------------ view

    @property
    def view(self) -> View:
        """Part of the map that is visible."""
        x, y = self.plot.x_range, self.plot.y_range
        return View(west=float(x.start), south=float(y.start), east=float(x.end), north=float(y.end))

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the map on the screen; a guess until the browser reports it."""
        try:
            return max(50, int(self.plot.inner_width)), max(50, int(self.plot.inner_height))
        except (TypeError, ValueError, AttributeError):
            return 800, 500

    def _set_view(self, view: View) -> None:
        x, y = self.plot.x_range, self.plot.y_range
        x.update(start=view.west, end=view.east)
        y.update(start=view.south, end=view.north)

    def keep_shape(self) -> bool:
        """Give both axes the same scale, by extending one of them; False if they have it already."""
        view, (width, height) = self.view, self.size_px
        scale_x, scale_y = (view.east - view.west) / width, (view.north - view.south) / height
        if abs(scale_x / scale_y - 1) < 0.01:
            return False
        scale = max(scale_x, scale_y)
        x, y = (view.west + view.east) / 2, (view.south + view.north) / 2
        self._set_view(
            View(
                west=x - scale * width / 2,
                east=x + scale * width / 2,
                south=y - scale * height / 2,
                north=y + scale * height / 2,
            )
        )
        return True

    # ------------------------------------------------------------ content

    def refresh(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Show the tiles of a mask (n,) in the view; returns what is shown, and the most tiles of a cell or None."""
        wide = self.view.around(AROUND)
        land, xs, ys = land_in(wide)
        if land != self._land_name:
            self._land_name = land
            self.land.data = {"xs": xs, "ys": ys}
        tiles = in_view(self._index, mask, wide)
        single = len(tiles) <= MOST_POINTS
        self._show_points(tiles if single else tiles[:0])
        self._show_image(tiles[:0] if single else tiles, wide)
        seen = len(in_view(self._index, mask, self.view))
        noun = "tile" if seen == 1 else "tiles"
        if not seen:
            return {"text": "No selected tile is in view.", "most": None}
        if single:
            return {"text": f"{seen:,} {noun} in view, one marker each.", "most": None}
        zoom = "Zoom in to see single tiles."
        if self.colour is not None:
            text = f"{seen:,} {noun} in view; each cell has the colour of its most frequent class. {zoom}"
            return {"text": text, "most": None}
        return {"text": f"{seen:,} {noun} in view. {zoom}", "most": int(self.mapper.high or 0)}

    def _show_image(self, tiles: NDArray[np.intp], view: View) -> None:
        counts = classes = None
        width, height = self.size_px
        shape = round(height * (1 + 2 * AROUND) / CELL_PX), round(width * (1 + 2 * AROUND) / CELL_PX)
        if len(tiles) and self.colour is None:
            counts = count_image(self._index, tiles, view, shape)
            self.mapper.high = max(2.0, float(np.nanmax(counts)))
        elif len(tiles) and self.colour is not None:
            number = len(self.colour.choices)
            classes = class_image(self._index, tiles, view, shape, classes=self.colour.classes, number=number)
            self.class_mapper.update(
                palette=[choice.colour for choice in self.colour.choices], low=-0.5, high=number - 0.5
            )
        _put(self.counts, _image(counts, view))
        _put(self.classes, _image(classes, view))

    def _show_points(self, tiles: NDArray[np.intp]) -> None:
        if not len(tiles) and not len(self.points.data["x"]):
            return
        index, labels = self._index, label_names(self._index)
        facet = self.colour
        choices = [] if facet is None else [facet.choices[k] for k in facet.classes[tiles].tolist()]
        days = index.day[tiles].astype("datetime64[D]")
        known = index.time_ms[tiles].view("datetime64[ms]")
        self.points.data = {
            "x": index.x[tiles],
            "y": index.y[tiles],
            "id": format_tile_ids(index.tile_id[tiles]).tolist(),
            "date": [
                "date not known" if missing else str(day) for day, missing in zip(days, np.isnat(known), strict=True)
            ],
            "split": [SPLITS.get(code, "") for code in index.split[tiles].tolist()],
            "label": [labels.get(code, "") for code in index.label[tiles].tolist()],
            "colour": [choice.colour for choice in choices] or [BAR_COLOUR] * len(tiles),
            "marker": [choice.marker for choice in choices] or ["circle"] * len(tiles),
        }

    def choose(self, position: int) -> bool:
        """Mark a tile, and move the view if it is outside; True if the view has moved."""
        x, y = float(self._index.x[position]), float(self._index.y[position])
        placed = bool(np.isfinite(x) and np.isfinite(y))
        self.chosen.data = {"x": [x], "y": [y]} if placed else {"x": [], "y": []}
        view = self.view
        if not placed:
            return False
        if view.west <= x <= view.east and view.south <= y <= view.north:
            return False
        dx, dy = (view.east - view.west) / 2, (view.north - view.south) / 2
        self._set_view(View(west=x - dx, east=x + dx, south=y - dy, north=y + dy))
        return True


def _figure(**options: Any) -> Any:  # noqa: ANN401 - Bokeh types neither its options nor what axes have
    """Make a figure in the style of all pages that fills its part of this one."""
    fill = {"sizing_mode": "stretch_both", "height": None, "min_width": 120, "min_height": 120, "min_border_left": 5}
    plot = page_figure(**fill | options)
    plot.xgrid.visible = False
    plot.xaxis.major_label_policy = NoOverlap(min_distance=4)
    return plot


def _image(values: NDArray[np.float32] | None, view: View) -> dict[str, list[Any]]:
    if values is None:
        return {name: [] for name in IMAGE}
    dw, dh = view.east - view.west, view.north - view.south
    return {"image": [values], "x": [view.west], "y": [view.south], "dw": [dw], "dh": [dh]}


def _put(source: ColumnDataSource, data: Mapping[str, Sequence[Any]]) -> None:
    """Send data, unless it was and stays empty."""
    if len(data["x"]) or len(source.data["x"]):
        source.data = dict(data)


class Histogram:
    """Tiles of the selection per bar.

    Parameters
    ----------
    name
        Name of its model.
    bars
        Bars.
    dates
        Whether the edges are milliseconds since 1970.
    labels
        Texts of the axis by their location; numbers by default.
    brushed
        Called with both ends of a range that was selected with the mouse; None if that is not possible.
    """

    def __init__(
        self,
        name: str,
        bars: Bars,
        *,
        dates: bool = False,
        labels: Mapping[int, str] | None = None,
        brushed: Callable[[float, float], None] | None = None,
    ) -> None:
        self.bars = bars
        edges = np.asarray(bars.edges, dtype=np.float64)
        gap = (edges[1:] - edges[:-1]) * 0.06
        zeros = np.zeros(len(bars.names))
        self.source = ColumnDataSource(
            {"left": edges[:-1] + gap, "right": edges[1:] - gap, "top": zeros, "name": list(bars.names)}
        )
        self.plot = _figure(
            name=name,
            x_axis_type="datetime" if dates else "linear",
            x_range=Range1d(start=edges[0], end=edges[-1]),
            y_range=Range1d(start=0, end=1),
            tools="",
            toolbar_location=None,
        )
        self._add_bars()
        if dates:
            self.plot.xaxis.formatter = DatetimeTickFormatter(years="%Y", months="%b %Y", days="%d %b")
            self.plot.xaxis.ticker.desired_num_ticks = 3
        if labels is not None:
            self.plot.xaxis.ticker = list(labels)
            self.plot.xaxis.major_label_overrides = {**labels}
        if brushed is not None:
            self._add_brush(brushed)

    def _add_bars(self) -> None:
        plot, ends = self.plot, {"left": "left", "right": "right", "top": "top", "bottom": 0}
        shown = plot.quad(source=self.source, fill_color=BAR_COLOUR, line_color=None, **ends)
        shown.nonselection_glyph = shown.selection_glyph = None  # a selection sets the filter; bars keep their look
        plot.add_tools(HoverTool(renderers=[shown], tooltips="@name: @top{0,0} tiles", mode="vline"))
        plot.yaxis.formatter = NumeralTickFormatter(format="0a")
        plot.yaxis.ticker = BasicTicker(desired_num_ticks=3)

    def _add_brush(self, brushed: Callable[[float, float], None]) -> None:
        tool = BoxSelectTool(dimensions="width", description="Select a range")
        self.plot.add_tools(tool)
        self.plot.toolbar.active_drag = tool

        def act(event: Any) -> None:  # noqa: ANN401 - Bokeh's types do not know which event comes
            geometry = event.geometry or {}
            if event.final and "x0" in geometry and "x1" in geometry:
                low, high = sorted((float(geometry["x0"]), float(geometry["x1"])))
                brushed(low, high)

        self.plot.on_event(SelectionGeometry, act)

    def refresh(self, mask: NDArray[np.bool_]) -> None:
        """Count the tiles of a mask (n,)."""
        counts = self.bars.counts(mask)
        self.source.patch({"top": [(slice(len(counts)), counts.tolist())]})
        self.plot.y_range.end = max(1.0, 1.08 * float(counts.max(initial=0)))
