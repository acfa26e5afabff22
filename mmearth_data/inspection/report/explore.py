"""Map and distributions of a report, which share their filters; `report.js` fills them in the browser."""

from __future__ import annotations

import base64
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import format_tile_id
from mmearth_data.inspection.maps import land_shapes
from mmearth_data.inspection.projection import STEP_DEG, grid_lines, land_rings, outline
from mmearth_data.pages.parts import (
    Button,
    Choices,
    Data,
    Finder,
    Notice,
    Paragraph,
    Part,
    Plot,
    Row,
    Select,
    Sidebar,
    Slot,
    Status,
)
from mmearth_data.pages.style import MARKERS, class_styles, page_figure
from mmearth_data.resources import resource_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from bokeh.plotting import figure
    from numpy.typing import NDArray

    from mmearth_data.inspection.projection import Projection
    from mmearth_data.inspection.report.fields import Field
    from mmearth_data.inspection.report.places import MapRows
    from mmearth_data.inspection.report.sample import Panel, Sample
    from mmearth_data.store import Store

GREY = "#8b949e"
CHOSEN_LOOK: dict[str, Any] = {"selection_alpha": 1, "selection_line_color": "#f0245e", "selection_line_width": 4}
DETAIL = 1 / 1500
"""Size of the smallest detail of coastlines, as a share of the map's width."""
SMALL_CELL_M = 10_000
"""Side in metres below which cells need more than two decimals of a degree to be distinguished."""
SPARE = 0.01
"""Space around the map, as a share of its width."""
TOOLTIP = '<div style="max-width: 15rem; white-space: normal">@text</div>'
"""Bokeh escapes what it inserts."""
POINTS = "tiles"
"""Name of the map's source of points, by which the script finds it."""


def explore(store: Store, fields: Sequence[Field], rows: MapRows) -> list[Part]:
    """Make the filters, the map and its legend."""
    if not len(rows.x):
        return [Notice("No tile of this store has coordinates, so there is no map.")]
    several = [field for field in fields if len(field.values) > 1]
    colours = [(field.name, field.title) for field in (several or fields)]
    if rows.tiles is None:
        colours.append(("count", "Number of tiles"))
    filters = [
        Choices(field.name, field.title, [(str(code), name) for code, name in enumerate(field.values)])
        for field in several
    ]
    lost = len(store) - int(rows.count.sum())
    return [
        *([Notice(f"{lost:,} tiles without coordinates are not on the map.")] if lost else []),
        Row(
            [Status("count", f"{len(store):,} of {len(store):,} tiles"), Button("clear", "Clear filters")], sticky=True
        ),
        Sidebar(
            "Filters",
            filters,
            [
                Row([Select("colour", "Colour by", colours)]),
                Plot(
                    _map(rows.projection), "Map of the tiles; the legend below gives the number of tiles of each group."
                ),
                _finder(rows),
                Status("selected", ""),
                Slot("map-legend"),
                _explanation(rows),
            ],
        ),
    ]


def _finder(rows: MapRows) -> Finder:
    if rows.tiles is None:
        return Finder("finder", "Cell", "latitude, longitude")
    return Finder("finder", "Tile id", "16 hex digits", "All modalities")


def _explanation(rows: MapRows) -> Part:
    where = f"{rows.projection.name} projection, land from Natural Earth."
    noun = "cell" if rows.tiles is None else "tile"
    zoom = (
        "Zoom with Ctrl and the mouse wheel, the tools above the map, or the keyboard: arrow keys pan, + and - zoom, 0 "
        f"resets the view, n and p choose the next and the previous {noun} that passes the filters"
        f"{'.' if rows.tiles is None else ', Enter opens its modalities.'} Hover or click for details."
    )
    if rows.tiles is not None:
        return Paragraph(f"One symbol per tile. {zoom} {where}")
    side = f"{rows.side_m / 1000:,.0f} km"
    cells = f"One symbol per cell of {side} by {side}; its size shows the number of tiles that pass the filters, its"
    return Paragraph(f"{cells} colour and shape their most frequent group. {zoom} {where}")


def values_of(store: Store, fields: Sequence[Field], rows: MapRows, sample: Sample) -> Data:
    """Collect the data for the script: fields, rows of the map, distributions of the sampled tiles."""
    coords = store.coords
    names = [] if rows.tiles is None else [format_tile_id(int(name)) for name in coords["tile_id"][rows.tiles]]
    dates = [] if rows.tiles is None else np.datetime_as_string(coords["time"][rows.tiles], unit="D").tolist()
    return Data(
        "report-data",
        {
            "tiles": len(store),
            "fields": [_field_value(field, codes, sample) for field, codes in zip(fields, rows.codes, strict=True)],
            "shapes": MARKERS,
            "count": _packed(rows.count, np.uint32),
            "point": _packed(rows.point, np.uint16),
            "points": {axis: _packed(getattr(rows, axis), np.float32) for axis in ("x", "y", "lon", "lat")},
            "cells": rows.tiles is None,
            "digits": 4 if 0 < rows.side_m < SMALL_CELL_M else 2,
            "drawing": shlex.join(["mmearth-data", "inspect", str(store.path)]),
            "ids": names,
            "dates": ["" if date == "NaT" else date for date in dates],
            "panels": [_panel_value(panel) for panel in sample.panels],
        },
    )


def _field_value(field: Field, codes: NDArray[np.uint8], sample: Sample) -> dict[str, Any]:
    """Pack a field: its values' looks, and its codes of the map's rows and of the sampled tiles."""
    looks = class_styles(field.values)
    return {
        "name": field.name,
        "title": field.title,
        "values": field.values,
        "colours": [style.colour for style in looks],
        "markers": [style.marker for style in looks],
        "codes": _packed(codes, np.uint8),
        "sample": _packed(field.codes[sample.positions], np.uint8),
    }


def _panel_value(panel: Panel) -> dict[str, Any]:
    """Pack a distribution."""
    plain = {name: getattr(panel, name) for name in ("modality", "label", "low", "high", "unit", "names")}
    return plain | {"bins": panel.shares.shape[1], "shares": _packed(panel.shares, np.uint8)}


def _packed(values: NDArray[Any], dtype: Any) -> str:  # noqa: ANN401 - a type of numpy
    """Numbers in the given type as Base64, little-endian."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def _map(projection: Projection) -> figure:
    """Land, grid and an empty source of points."""
    from bokeh.models import ColumnDataSource, HoverTool, WheelZoomTool

    zoom = WheelZoomTool(modifiers="ctrl")  # the wheel alone scrolls the page
    west, south, east, north = projection.window
    spare = SPARE * (east - west)
    made = page_figure(
        x_range=(west - spare, east + spare),
        y_range=(south - spare, north + spare),
        match_aspect=True,
        sizing_mode="scale_width",
        aspect_ratio=(east - west) / (north - south),
        tools=["pan", zoom, "zoom_in", "zoom_out", "tap", "reset", "save"],
        active_scroll=zoom,
        min_border=0,
        min_border_left=0,
        name="map",
        outline_line_alpha=0,
    )
    made.axis.visible = False
    made.grid.visible = False
    _draw_world(made, projection)
    empty: dict[str, Sequence[Any] | NDArray[Any] | pd.Series[Any] | pd.Index[Any]] = {
        name: [] for name in ("x", "y", "colour", "marker", "size", "name", "text")
    }
    source = ColumnDataSource(empty, name=POINTS)
    points = made.scatter(
        "x",
        "y",
        source=source,
        color="colour",
        marker="marker",
        size="size",
        alpha=0.85,
        line_width=0.5,
        nonselection_alpha=0.4,
        name="points",
        **CHOSEN_LOOK,
    )
    made.add_tools(HoverTool(renderers=[points], tooltips=TOOLTIP, point_policy="snap_to_data"))
    return made


def _draw_world(made: figure, projection: Projection) -> None:
    lines = [metres[np.isfinite(metres).all(axis=1)].round()[::6] for *_, metres in grid_lines(projection)]
    xs, ys = ([line[:, axis].tolist() for line in lines] for axis in (0, 1))
    made.multi_line(xs, ys, color=GREY, alpha=0.25)
    borders = _borders(projection)
    made.multi_line([b[:, 0].tolist() for b in borders], [b[:, 1].tolist() for b in borders], color=GREY, alpha=0.7)
    edge = outline(projection).round()
    made.line(edge[:, 0], edge[:, 1], color=GREY, alpha=0.5)
    rings = _land(projection)
    if rings:  # one area whose rings are filled by the even-odd rule, so that lakes stay empty
        areas = ([[[ring[:, axis].tolist() for ring in rings]]] for axis in (0, 1))
        made.multi_polygons(*areas, fill_color=GREY, fill_alpha=0.25, line_color=GREY, line_alpha=0.6)


def _borders(projection: Projection) -> list[NDArray[np.float64]]:
    """Lines (n, 2) between countries within a regional map, in metres; a map of the world has none."""
    if projection.world:
        return []
    import geopandas as gpd

    window = shapely.box(*projection.lonlat_bounds())
    countries = gpd.read_parquet(resource_path("catalog") / "regions" / "countries.parquet").geometry.to_numpy()
    edges = shapely.boundary(countries[shapely.intersects(countries, window)])
    inside = shapely.segmentize(shapely.intersection(edges, window), STEP_DEG)
    bent = [shapely.transform(part, lambda lonlat: projection.forward(*lonlat.T)) for part in inside]
    simple = shapely.simplify(shapely.get_parts(np.asarray(bent, dtype=object)), _detail(projection))
    lines = [shapely.get_coordinates(line).round() for line in simple]
    return [line for line in lines if len(line) > 1]


def _detail(projection: Projection) -> float:
    """Size in metres of the smallest visible detail."""
    return (projection.window[2] - projection.window[0]) * DETAIL


def _land(projection: Projection) -> list[NDArray[np.float64]]:
    """Rings of the land within a map, simplified to the resolution of a screen; metres."""
    detail = _detail(projection)
    rings = [shapely.linearrings(ring) for ring in land_rings(land_shapes(), projection) if len(ring) > 3]
    simple = [shapely.get_coordinates(shapely.simplify(ring, detail)).round() for ring in rings]
    return [ring for ring in simple if len(ring) > 4 or np.ptp(ring, axis=0).max(initial=0) > 4 * detail]
