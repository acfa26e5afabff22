"""HTML of a store for notebooks: its overview, a small map of its tiles, and pictures of a few tiles.

The HTML is small, needs no network and no style sheet, and inherits the colours of text and background.
"""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES, format_tile_id
from mmearth_data.errors import MMEarthError
from mmearth_data.store.overview import Overview, overview

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from mmearth_data.store.reader import Store

MAP_WIDTH, MAP_HEIGHT = 400, 260
"""Width and maximum height of the map in CSS pixels."""
MOST_POINTS = 4000
"""Maximum number of tiles on the map; of more tiles, a seeded random sample is shown."""
THUMBNAILS, THUMBNAIL_PX = 8, 96
LEAST_DETAIL_PX, LEAST_ISLAND_PX2 = 0.4, 2.0
"""Precision of coastlines, and the area of the smallest island shown."""
GREY = "rgba(128,128,128,{})"
STYLE = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;color:inherit;background:transparent;max-width:960px"
CELL = "text-align:left;vertical-align:top;padding:1px 14px 1px 0;border:0;background:transparent"
MONO = "font-family:ui-monospace,monospace;font-size:12px"
BADGES = {"SYNTHETIC": ("#b42318", "The pixels were computed, never measured")}
OTHER_BADGE = ("#92610e", "Only committed shards are visible")


def store_html(store: Store) -> str:
    """HTML of a store or a selection of it, as notebooks show it.

    If matplotlib, geopandas or pillow is not installed, or tiles cannot be read, it has the overview only.
    """
    view = overview(store)
    pictures = ""
    note = ""
    try:
        map_part, pictures = _map(store), _thumbnails(store)
    except ImportError as error:
        map_part, note = "", f"To see a map and pictures of tiles, install {error.name or 'matplotlib'}."
    except (MMEarthError, OSError) as error:
        map_part, note = "", f"No pictures: {' '.join(str(error).split())}"
    head = (
        f'<div style="display:flex;flex-wrap:wrap;gap:8px 28px;align-items:flex-start">{_facts(view)}{map_part}</div>'
    )
    note = f'<div style="opacity:.7;margin-top:4px">{escape(note)}</div>' if note else ""
    return f'<div class="mmearth-store" style="{STYLE}">{_title(view)}{head}{pictures}{note}{_modalities(view)}</div>'


def _title(view: Overview) -> str:
    badges = "".join(_badge(name) for name in view.badges)
    return f'<div style="margin-bottom:6px"><b style="font-size:14px">{escape(view.title)}</b>{badges}</div>'


def _badge(name: str) -> str:
    colour, meaning = BADGES.get(name, OTHER_BADGE)
    style = f"background:{colour};color:#fff;border-radius:4px;padding:1px 7px;margin-left:8px;font-size:11px;font-weight:700"
    return f'<span style="{style}" title="{meaning}">{escape(name)}</span>'


def _facts(view: Overview) -> str:
    rows = [(f'<span style="opacity:.65">{escape(name)}</span>', escape(value)) for name, value in view.facts]
    return f'<div style="max-width:540px;overflow-wrap:anywhere">{_table(rows)}</div>'


def _modalities(view: Overview) -> str:
    rows = [
        (f'<span style="{MONO}">{escape(name)}</span>', escape(kind), escape(dtype), escape(content))
        for name, kind, dtype, content in view.modalities
    ]
    summary = f'<summary style="cursor:pointer;font-weight:600">{escape(view.heading)}</summary>'
    return f'<details open style="margin-top:8px">{summary}{_table(rows)}</details>'


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Build a table of HTML cells, with a style that does not depend on that of the notebook."""
    body = "".join(
        f'<tr style="background:transparent">{"".join(f"<td style={chr(34)}{CELL}{chr(34)}>{cell}</td>" for cell in row)}</tr>'
        for row in rows
    )
    style = "border-collapse:collapse;border:0;margin:0;font-size:13px"
    return f'<table style="{style}"><tbody>{body}</tbody></table>'


# ---------------------------------------------------------------- pictures


def _thumbnails(store: Store) -> str:
    """Pictures of evenly spaced tiles of the selection, of the modality that is displayed first."""
    from mmearth_data.inspection.panels import main_raster, plan_panels
    from mmearth_data.inspection.report.mosaic import encode

    m = main_raster([m for m in store.modalities.values() if m.stored and m.kind.is_raster])
    if m is None or not len(store):
        return ""
    found = []
    for position in np.unique(np.linspace(0, len(store) - 1, THUMBNAILS).round().astype(int)).tolist():
        row = int(store.rows[position])
        level = LEVEL_NAMES.get(int(store.content.column("s2_level")[row]))
        image = plan_panels({m.name: store.read(m.name, slice(row, row + 1))[0]}, [m], level)[0].panels[0].image
        if image is not None:
            name = format_tile_id(int(store.content.column("tile_id")[row]))
            found.append(_thumbnail(position, name, _uri("webp", encode(image, 2 * THUMBNAIL_PX, lossless=False))))
    caption = f'<div style="opacity:.65;font-size:11px">{escape(m.long_name)}; positions in the selection</div>'
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:6px;margin-top:8px">{"".join(found)}</div>{caption}'
        if found
        else ""
    )


def _thumbnail(position: int, name: str, source: str) -> str:
    side = f"width:{THUMBNAIL_PX}px;height:{THUMBNAIL_PX}px"
    style = f"{side};margin:0;display:block;image-rendering:pixelated;border-radius:3px"
    label = f'<div style="font-size:11px;opacity:.65;text-align:center">{position:,}</div>'
    return f'<div title="{name}"><img src="{source}" alt="tile {name}" style="{style}">{label}</div>'


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# ---------------------------------------------------------------- map


def _map(store: Store) -> str:
    """Map of the tiles, coloured by split; empty text if no tile has a location."""
    known = np.isfinite(store.content.column("lon")[store.rows]) & np.isfinite(store.content.column("lat")[store.rows])
    if not known.any():
        return ""
    from mmearth_data.inspection.maps import by_split

    rows, label = _sampled(store.rows[known]), by_split()
    lon, lat, split = (store.content.column(name)[rows] for name in ("lon", "lat", "split"))
    colours = {c.code: (c.name, c.colour or GREY.format(1)) for c in label.classes}
    groups = [(*colours.get(code, ("no split", "#71717a")), split == code) for code in np.unique(split).tolist()]
    picture = _uri("svg+xml", draw_points(lon, lat, [(colour, mask) for _, colour, mask in groups]).encode())
    keys = "".join(
        f'<span style="margin-right:12px"><span style="color:{colour}">&#9679;</span> {escape(name)}</span>'
        for name, colour, _ in groups
    )
    part = "" if len(rows) == len(store) else f'<span style="opacity:.65">{len(rows):,} of {len(store):,} tiles</span>'
    image = f'<img src="{picture}" alt="map of the tiles" style="max-width:100%;margin:0;display:block">'
    return f'<div>{image}<div style="font-size:11px;margin-top:2px">{keys}{part}</div></div>'


def _sampled(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    if len(rows) <= MOST_POINTS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))


def draw_points(
    lon: NDArray[np.float64], lat: NDArray[np.float64], groups: Sequence[tuple[str, NDArray[np.bool_]]]
) -> str:
    """SVG map of points (n,) in degrees, with a colour for each mask (n,).

    Land and sea are translucent greys, which fit light and dark pages.
    """
    from mmearth_data.inspection.maps import Window, land_shapes
    from mmearth_data.inspection.projection import choose_projection, land_rings, outline

    projection = choose_projection(lon, lat)
    west, south, east, north = projection.window
    aspect = (north - south) / (east - west)
    width = min(MAP_WIDTH, MAP_HEIGHT / aspect)
    window = Window(projection, 0, 0, width, width * aspect)
    frame = _path([window.pixels(outline(projection))])
    land = _simple(land_rings(land_shapes(), projection), window)
    radius = float(np.clip(9 * len(lon) ** -0.2, 1.4, 5.0))
    dots = "".join(_dots(window.pixels(projection.forward(lon[mask], lat[mask])), c, radius) for c, mask in groups)
    size = f'width="{width:.0f}" height="{window.height:.0f}" viewBox="-1 -1 {width + 2:.0f} {window.height + 2:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><clipPath id="f"><path d="{frame}"/></clipPath>'
        f'<path d="{frame}" fill="{GREY.format(0.08)}" stroke="{GREY.format(0.6)}"/><g clip-path="url(#f)">'
        f'<path d="{land}" fill="{GREY.format(0.32)}" fill-rule="evenodd"/>{dots}</g></svg>'
    )


def _simple(rings: Sequence[NDArray[np.float64]], window: Any) -> str:  # noqa: ANN401 - a Window
    """Path of rings in pixels, without invisible details and tiny islands."""
    import shapely

    lines = np.array([shapely.LineString(window.pixels(ring)) for ring in rings], dtype=object)
    west, north, east, south = shapely.bounds(lines).reshape(-1, 4).T
    lines = shapely.simplify(lines[(east - west) * (south - north) > LEAST_ISLAND_PX2], LEAST_DETAIL_PX)
    return _path([shapely.get_coordinates(line) for line in lines if shapely.get_num_coordinates(line) > 3])


def _path(rings: Sequence[NDArray[np.float64]]) -> str:
    return "".join(f"M{' '.join(f'{x:.1f},{y:.1f}' for x, y in ring.tolist())}Z" for ring in rings)


def _dots(at: NDArray[np.float64], colour: str, size: float) -> str:
    """Points as strokes of zero length with round ends, which take the fewest bytes."""
    places = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in at.tolist())
    return f'<path d="{places}" stroke="{colour}" stroke-width="{size:.1f}" stroke-linecap="round" fill="none"/>'
