"""The map of embeddings for a page: one point per tile, next to the picture of the chosen tile."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomJS, HoverTool, InlineStyleSheet, TapTool

from mmearth_data import Columns, Legend, Paragraph, Plot, Section, class_styles, page_figure
from mmearth_model.report.widgets import choice, html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bokeh.plotting import figure as BokehFigure  # noqa: N812 - a class that Bokeh spells in lower case

    from mmearth_data import Part
    from mmearth_model.report.embedding_map import Plane, ShownTiles

ALONE = "tile"
"""Class of all tiles of a store without classes."""
CSS = """
.chosen { display: grid; grid-template-columns: minmax(0, 220px); gap: 0.6rem; }
.chosen img { width: 100%; image-rendering: pixelated; border-radius: 4px; display: block; }
.near { display: grid; grid-template-columns: repeat(5, 1fr); gap: 4px; margin-top: 0.25rem; max-width: 260px; }
p { margin: 0; overflow-wrap: anywhere; } .soft { color: var(--soft); font-size: 0.86rem; }
"""
TIP = """
<div style="max-width: 140px"><img src="@picture" alt="" style="width: 128px; image-rendering: pixelated; display: block">
<div><b>@tile</b></div><div>@label</div></div>
"""
PLAIN_TIP = [("tile", "@tile"), ("class", "@label")]
CHOOSE = """
const [chosen] = source.selected.indices;
if (chosen === undefined) return;
const image = (i) => pictures.length ? `<img src="${pictures[i]}" alt="tile ${tiles[i]}">` : "";
const near = neighbours[run_list.value][chosen].map(image).join("");
const title = near ? `<div><p class="soft">Most similar tiles</p><div class="near">${near}</div></div>` : "";
panel.text = `<div class="chosen">${image(chosen)}<div>${captions[chosen]}</div>${title}</div>`;
if (tile_list.value !== String(chosen)) tile_list.value = String(chosen);
"""
FROM_LIST = "source.selected.indices = [Number(tile_list.value)];"
OTHER_RUN = """
const {x, y} = points[run_list.value];
source.data = {...source.data, x, y};
note.text = methods[run_list.value];
source.selected.change.emit();
"""


def embedding_section(tiles: ShownTiles, planes: Sequence[Plane]) -> Section:
    """Lay out the map of embeddings."""
    classes = tiles.classes or (ALONE,) * len(tiles.names)
    styles = class_styles(list(dict.fromkeys(sorted(classes))))
    looks = {style.name: style for style in styles}
    pictures = [f"data:image/webp;base64,{base64.b64encode(picture).decode()}" for picture in tiles.pictures]
    source = ColumnDataSource(
        {
            "x": planes[0].points[:, 0].astype(np.float32), "y": planes[0].points[:, 1].astype(np.float32),
            "tile": list(tiles.names), "label": list(classes),
            "colour": [looks[name].colour for name in classes], "marker": [looks[name].marker for name in classes],
            **({"picture": pictures} if pictures else {}),
        },
        name="embedding-source",
    )  # fmt: skip
    parts: list[Part] = [Legend(styles)] if tiles.label else []
    chart, panel = _linked(source, tiles, classes, planes, pictures)
    parts.append(Columns([Plot(chart, f"Map of {len(tiles.names)} embeddings"), Plot(panel, "The chosen tile")], 300))
    if not pictures:
        parts.append(Paragraph("The store has no modality with red, green and blue bands, so tiles have no pictures."))
    lead = (
        f"{len(tiles.names)} tiles, placed by their embeddings: tiles with similar embeddings are close together. "
        "Hover over a tile to see it; click it, or choose it in the list, to keep it in view."
    )
    return Section("embeddings", "Map of embeddings", parts, lead=lead)


def _linked(
    source: ColumnDataSource,
    tiles: ShownTiles,
    classes: Sequence[str],
    planes: Sequence[Plane],
    pictures: Sequence[str],
) -> tuple[Any, Any]:
    """Figure, and the panel with the chosen tile."""
    order = sorted(range(len(tiles.names)), key=lambda place: (classes[place], place))
    options = [
        (str(place), f"{classes[place]}: {tiles.names[place]}" if tiles.label else tiles.names[place])
        for place in order
    ]
    tile_list = choice(options, "Tile", "embedding-tile")
    run_list = choice([(str(number), plane.run) for number, plane in enumerate(planes)], "Run", "embedding-run")
    panel = html("", "embedding-panel")
    panel.stylesheets.append(InlineStyleSheet(css=CSS))
    note = html(f'<span style="color: var(--soft)">{escape(planes[0].method)}</span>', "embedding-note")
    neighbours = {str(number): [list(near) for near in plane.neighbours] for number, plane in enumerate(planes)}
    captions = [
        f"<p><b>{escape(name)}</b></p><p class=soft>{escape(label) if tiles.label else ''} {lat:.3f}, {lon:.3f}</p>"
        for name, label, lat, lon in zip(tiles.names, classes, tiles.lat, tiles.lon, strict=True)
    ]
    common = {"source": source, "run_list": run_list, "tile_list": tile_list, "panel": panel}
    choose = CustomJS(args={**common, "pictures": list(pictures), "tiles": list(tiles.names), "neighbours": neighbours, "captions": captions}, code=CHOOSE)  # fmt: skip
    source.selected.js_on_change("indices", choose)
    source.selected.indices = [order[0]]
    figure = _figure(source, pictured=bool(pictures))
    figure.js_on_change("inner_width", choose)  # when it is first laid out
    tile_list.js_on_change("value", CustomJS(args=common, code=FROM_LIST))
    points = {
        str(n): {"x": plane.points[:, 0].tolist(), "y": plane.points[:, 1].tolist()} for n, plane in enumerate(planes)
    }
    methods = {
        str(n): f'<span style="color: var(--soft)">{escape(plane.method)}</span>' for n, plane in enumerate(planes)
    }
    run_list.js_on_change(
        "value", CustomJS(args={**common, "points": points, "methods": methods, "note": note}, code=OTHER_RUN)
    )
    lists = [run_list] if len(planes) > 1 else []
    return column(*lists, figure, note, sizing_mode="stretch_width"), column(tile_list, panel, sizing_mode="stretch_width")  # fmt: skip


def _figure(source: ColumnDataSource, *, pictured: bool) -> BokehFigure:
    made = page_figure(height=520, tools="pan,wheel_zoom,box_zoom,reset,save")
    dots = made.scatter(
        "x", "y", marker="marker", size=9, fill_color="colour", line_color="#00000055", line_width=0.5, source=source,
        nonselection_fill_alpha=0.8,
    )  # fmt: skip
    dots.selection_glyph = dots.glyph.clone(size=18, line_color="#d55e00", line_width=4, fill_alpha=1.0)
    made.add_tools(HoverTool(renderers=[dots], tooltips=TIP if pictured else PLAIN_TIP), TapTool(renderers=[dots]))
    made.axis.visible = False
    made.grid.visible = False
    return made
