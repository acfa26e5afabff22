"""Map of tile locations: coloured by label, markers by split, on an equal-area projection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import ClassLabel
from mmearth_data.catalog.tile import LEVEL_L1C, LEVEL_L2A, LEVEL_NAMES, PIXEL_M
from mmearth_data.errors import InputError
from mmearth_data.files.writing import write_bytes
from mmearth_data.inspection import canvas as sheet
from mmearth_data.inspection.canvas import INK, PAPER, SOFT, Canvas, fit, text_width, wrap
from mmearth_data.inspection.facts import SPLIT_NAMES
from mmearth_data.inspection.projection import (
    Projection,
    border_lines,
    choose_projection,
    grid_lines,
    grid_steps,
    land_rings,
    outline,
)
from mmearth_data.inspection.summary import is_label
from mmearth_data.resources import resource_path
from mmearth_data.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

WIDTH, MARGIN, TITLE, LINE = 2100, 56, 110, 32
LEAST_WIDTH, REGION_HEIGHT = 1400, 1300
SEA, LAND, COAST, BORDER, GRID = "#f5f8fb", "#e6e5e1", "#b9b8b3", "#8f8e89", "#dbe3ea"
UNLABELLED = "#71717a"
MARKERS = {0: "o", 1: "^", 2: "s"}
OTHER_MARKER = "D"
MARKER_SCALE = {"o": 1.0, "^": 1.25, "s": 1.0, "D": 0.9}
"""Relative size of each marker; triangles look smaller than circles of the same size."""
MOST_COLOURS = 24
LAYERS = 8
"""Points are drawn in this many shuffled parts, so that the last class does not hide the others."""
PLAIN_FROM = 20_000
"""Number of points from which markers are drawn without edges, which would cover them."""
SCALE_LENGTHS_KM = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
LAND_CREDIT = "Land: Natural Earth (public domain)."
Colour = Literal["split", "year", "level", "biome", "label"]
COLOURS: tuple[Colour, ...] = get_args(Colour)
"""Properties that can colour the points of a map."""
SPLIT_COLOURS = {0: "#0072b2", 1: "#e69f00", 2: "#d55e00"}
LEVEL_COLOURS = {LEVEL_L1C: "#cc79a7", LEVEL_L2A: "#009e73"}
"""Colours of Okabe and Ito, which colour-blind people can distinguish."""
YEAR_COLOURS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725", "#f0f921")
"""From dark to light, as in viridis; more years are spread over them."""
NOT_KNOWN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Colouring:
    """Colours of the points of a map."""

    classes: tuple[ClassLabel, ...]
    """Code, name and colour of each class."""
    credit: str = ""
    """Attribution of the labels."""

    @classmethod
    def of(cls, modality: Modality) -> Colouring:
        """Colours of a modality's classes."""
        return cls(classes=modality.classes, credit=f"{modality.licence.attribution}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Points of a map."""

    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    """Degrees, (n,)."""
    split: NDArray[np.uint8]
    label: Colouring | None
    """Colours of the points, or None."""
    codes: NDArray[np.int64]
    """Codes of its classes, (n,)."""
    title: str
    details: tuple[str, ...]
    synthetic: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Part of the canvas with the map, and its conversion of metres to pixels."""

    projection: Projection
    x: float
    y: float
    width: float
    height: float

    def pixels(self, metres: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) positions on the canvas."""
        west, south, east, north = self.projection.window
        x = self.x + (metres[:, 0] - west) / (east - west) * self.width
        y = self.y + (north - metres[:, 1]) / (north - south) * self.height
        return np.column_stack([x, y])


def map_figure(tiles: Store | GeoDataFrame, path: str | Path, *, colour: Colour = "label") -> Path:
    """Draw a map of a store's tiles; returns the path of the picture.

    Parameters
    ----------
    tiles
        An open store or a selection of it; or a frame, see `sample_map`.
    path
        File to write: PNG, PDF or SVG, by its ending.
    colour
        Property that colours the points: ``split``, ``year`` or ``level`` (of the scene), ``biome``, or ``label``: the first
        label whose classes have colours, the user's labels first; without one, all points have the same colour.

    Raises
    ------
    InputError
        If the picture cannot be written there, or there is no biome to colour by.
    """
    if not isinstance(tiles, Store):
        return sample_map(tiles, path, colour=colour)
    target = sheet.check_picture(path)
    write_bytes(target, draw_map(places_of_store(tiles, colour), sheet.picture_format(target)))
    return target


def sample_map(frame: GeoDataFrame, path: str | Path, *, synthetic: bool = False, colour: Colour = "label") -> Path:
    """Draw a map of sampled locations; returns the path of the picture.

    Parameters
    ----------
    frame
        Columns lon, lat, split; labels by their modality's name (``biome``); ``slot``, null for reserves, which are
        counted but not drawn.
    path
        File to write: PNG, PDF or SVG, by its ending.
    synthetic
        True if the labels come from the synthetic planet.
    colour
        ``split``, ``biome`` or ``label``, as for `map_figure`; locations have no scene yet.

    Raises
    ------
    InputError
        If the picture cannot be written there, or there is no biome to colour by.
    """
    target = sheet.check_picture(path)
    write_bytes(target, draw_map(_places_of_frame(frame, synthetic, colour), sheet.picture_format(target)))
    return target


def places_of_store(store: Store, colour: Colour) -> Places:
    """Points of a store's tiles and their colours; see `map_figure`."""
    coords = store.coords
    label, codes = _colouring(store, colour)
    known = np.isfinite(coords["lon"]) & np.isfinite(coords["lat"])
    if len(store) and not known.any():
        raise InputError(f"{store.path}: expected tiles with a location to map, got {len(store):,} without.")
    side_m = store.layout.size_px * PIXEL_M
    lacking = [f"{np.count_nonzero(~known):,} without a location not shown"] if not known.all() else []
    return Places(
        lon=coords["lon"][known],
        lat=coords["lat"][known],
        split=coords["split"][known],
        label=label,
        codes=codes.astype(np.int64)[known],
        title=store.path.name,
        details=(f"{len(store):,} tiles of {side_m:,} m", *lacking),
        synthetic=store.synthetic,
    )


def canvas_of_map(store: Store, colour: Colour) -> Canvas:
    """Lay out the map of a store's tiles; see `map_figure`. Raises InputError for an unknown colour."""
    if colour not in COLOURS:
        raise InputError(f"colour: expected {', '.join(COLOURS)}, got {colour!r}.")
    places = places_of_store(store, colour)
    with sheet.DRAWING:
        return compose_map(places)[0]


def _colouring(store: Store, colour: Colour) -> tuple[Colouring | None, NDArray[Any]]:
    """Colours of a store's tiles, and the code of each."""
    coords = store.coords
    if colour == "split":
        return by_split(), coords["split"]
    if colour == "level":
        levels = [ClassLabel(code, f"Sentinel-2 {LEVEL_NAMES[code]}", fill) for code, fill in LEVEL_COLOURS.items()]
        return Colouring(classes=tuple(levels)), coords["s2_level"]
    if colour == "year":
        years = years_of(coords["time"])
        return by_year(years), years
    found = _label_to_show(store.modalities.values(), colour)
    if found is None:
        return None, np.zeros(len(store))
    return Colouring.of(found), store.read(found.name, slice(0, store.layout.tiles))[store.rows]


def by_split() -> Colouring:
    """Colours of the splits."""
    return Colouring(classes=tuple(ClassLabel(code, SPLIT_NAMES[code], fill) for code, fill in SPLIT_COLOURS.items()))


def by_year(years: NDArray[np.int64]) -> Colouring:
    """Colours of the years that occur, the earliest darkest."""
    known = np.unique(years[years != NOT_KNOWN]).tolist()
    step = max(1, len(known) - 1)
    fills = [YEAR_COLOURS[round(number * (len(YEAR_COLOURS) - 2) / step)] for number in range(len(known))]
    return Colouring(classes=tuple(ClassLabel(y, str(y), fill) for y, fill in zip(known, fills, strict=True)))


def years_of(time: NDArray[Any]) -> NDArray[np.int64]:
    """Years of scenes; `NOT_KNOWN` where the date is not known."""
    moments = time.astype("datetime64[Y]")
    found: NDArray[np.int64] = np.where(np.isnat(time), NOT_KNOWN, moments.astype(np.int64) + 1970)
    return found


def _places_of_frame(frame: GeoDataFrame, synthetic: bool, colour: Colour) -> Places:
    if colour not in {"split", "biome", "label"}:
        raise InputError(
            f"--colour: expected split, biome or label, since locations have no scene yet, got {colour}; change it."
        )
    reserves = frame["slot"].isna().to_numpy() if "slot" in frame.columns else np.zeros(len(frame), dtype=bool)
    shown = frame[~reserves]
    known = [m for name, m in load_catalog().modalities.items() if name in frame.columns]
    label = None if colour == "split" else _label_to_show(known, colour)
    split = shown["split"].to_numpy(np.uint8)
    codes = split if colour == "split" else shown[label.name].to_numpy() if label else np.zeros(len(shown))
    details = [
        f"{len(shown):,} locations",
        *([f"{int(reserves.sum()):,} reserves not shown"] if reserves.any() else []),
    ]
    return Places(
        lon=shown["lon"].to_numpy(np.float64),
        lat=shown["lat"].to_numpy(np.float64),
        split=split,
        label=by_split() if colour == "split" else Colouring.of(label) if label else None,
        codes=codes.astype(np.int64),
        title="Sampled locations",
        details=tuple(details),
        synthetic=synthetic,
    )


def _label_to_show(modalities: Iterable[Modality], colour: Colour) -> Modality | None:
    """Label that colours the points: the biome, if that was requested, or the first one."""
    if colour == "label":
        return coloured_label(modalities)
    found = coloured_label(m for m in modalities if m.name == colour)
    if found is None:
        raise InputError("--colour biome: expected tiles with a biome, got some without; choose another --colour.")
    return found


def coloured_label(modalities: Iterable[Modality]) -> Modality | None:
    """First label whose classes all have colours and are few enough to distinguish; the user's own labels first."""
    for m in sorted(modalities, key=lambda m: bool(m.asset)):
        if (
            is_label(m)
            and m.kind.is_categorical
            and len(m.classes) <= MOST_COLOURS
            and all(label.colour for label in m.classes)
        ):
            return m
    return None


def draw_map(places: Places, form: str = "png") -> bytes:
    """Draw a map in one of the formats of a sheet; the same locations give the same bytes."""
    with sheet.DRAWING:
        return compose_map(places)[0].encoded(form)


def compose_map(places: Places) -> tuple[Canvas, Window]:
    """Lay out a map; returns the canvas, and the window that contains the map."""
    projection = choose_projection(places.lon, places.lat)
    west, south, east, north = projection.window
    aspect = (north - south) / (east - west)
    width = WIDTH - 2 * MARGIN
    if not projection.world:
        width = min(width, round(REGION_HEIGHT / aspect))
    window = Window(projection, MARGIN, MARGIN + TITLE - 14, width, round(width * aspect))
    return _draw(places, window, max(width + 2 * MARGIN, LEAST_WIDTH)), window


def _draw(places: Places, window: Window, width: int) -> Canvas:
    entries = legend_entries(places)
    columns = 3 if width == WIDTH else 2
    rows = -(-len(entries) // columns)
    top = round(window.y + window.height) + (36 if window.projection.world else 64)
    credit = wrap(" ".join(credits_of(places)), width - 2 * MARGIN, size=5.5)
    legend_height = LINE * rows + (16 if rows else 0) + LINE
    canvas = Canvas(width, top + legend_height + 12 + 20 * len(credit) + MARGIN - 16)
    details = (*places.details, f"{window.projection.name} projection")
    canvas.heading(places.title, details, MARGIN, synthetic=places.synthetic, gap=44)
    _ground(canvas, window)
    _points(canvas, places, window)
    if not window.projection.world:
        _frame(canvas, window)
        _scale_bar(canvas, window)
    _splits(canvas, places, top)
    _classes(canvas, entries, columns, top + LINE + 16)
    for number, line in enumerate(credit):
        canvas.text(MARGIN, top + legend_height + 12 + 20 * number, line, size=5.5, colour=SOFT)
    return canvas


def credits_of(places: Places) -> list[str]:
    """Credits for land and labels; none for labels of the synthetic planet."""
    if places.synthetic:
        return ["Synthetic: labels and pixels were computed, never measured.", LAND_CREDIT]
    return [*([places.label.credit] if places.label and places.label.credit else []), LAND_CREDIT]


def legend_entries(places: Places) -> list[tuple[str, str, int]]:
    """(name, colour, points) of every class on the map, in the catalog's order."""
    if places.label is None:
        return []
    entries = [(c.name, c.colour or UNLABELLED, int((places.codes == c.code).sum())) for c in places.label.classes]
    rest = len(places.codes) - sum(count for *_, count in entries)
    return [entry for entry in (*entries, ("not labelled", UNLABELLED, rest)) if entry[2]]


# ---------------------------------------------------------------- drawing


def _ground(canvas: Canvas, window: Window) -> None:
    frame = window.pixels(outline(window.projection))
    canvas.polygons([frame], fill=SEA)
    for _, _, metres in grid_lines(window.projection):
        canvas.line(*window.pixels(metres[np.isfinite(metres).all(axis=1)]).T, colour=GRID, width=0.5, frame=frame)
    rings = [window.pixels(ring) for ring in land_rings(land_shapes(), window.projection)]
    canvas.polygons(rings, fill=LAND, edge=COAST, line=0.25, frame=frame)
    if not window.projection.world:
        borders = [window.pixels(line) for line in border_lines(country_shapes(), window.projection)]
        canvas.strokes(borders, colour=BORDER, width=0.45, frame=frame)


def land_shapes() -> NDArray[np.object_]:
    """Outlines of the land in degrees, as shapely geometries."""
    import geopandas as gpd

    path = resource_path("catalog") / "regions" / "land.parquet"
    found: NDArray[np.object_] = gpd.read_parquet(path).geometry.to_numpy()
    return found


def country_shapes() -> NDArray[np.object_]:
    """Outlines of the countries in degrees, as shapely geometries."""
    import geopandas as gpd

    path = resource_path("catalog") / "regions" / "countries.parquet"
    found: NDArray[np.object_] = gpd.read_parquet(path).geometry.to_numpy()
    return found


def _points(canvas: Canvas, places: Places, window: Window) -> None:
    count = len(places.lon)
    if not count:
        return
    at = window.pixels(window.projection.forward(places.lon, places.lat))
    size = float(np.clip(11 * count**-0.2, 0.8, 5.0))
    edge_width = 0.35 if count < PLAIN_FROM else 0.0
    colours = {label.code: label.colour or UNLABELLED for label in places.label.classes} if places.label else {}
    layer = np.random.default_rng(0).permutation(count) % LAYERS
    for split in sorted(set(places.split.tolist()), key=lambda code: (code not in MARKERS, code)):
        marker = MARKERS.get(split, OTHER_MARKER)
        for part in range(LAYERS if count > LAYERS else 1):
            chosen = (places.split == split) & ((layer == part) | (count <= LAYERS))
            for code in np.unique(places.codes[chosen]).tolist():
                here = chosen & (places.codes == code)
                style = _marker(marker, size, colours.get(code, UNLABELLED), edge_width)
                canvas.markers(*at[here].T, **style)


def _marker(marker: str, size: float, fill: str, edge_width: float) -> dict[str, Any]:
    edge = {"markeredgecolor": INK, "markeredgewidth": edge_width}
    return {"marker": marker, "markersize": size * MARKER_SCALE[marker], "markerfacecolor": fill, **edge}


def _splits(canvas: Canvas, places: Places, y: float) -> None:
    x = float(MARGIN)
    for code, name in (*SPLIT_NAMES.items(), (255, "no split")):
        count = int((places.split == code).sum())
        if not count:
            continue
        marker = MARKERS.get(code, OTHER_MARKER)
        canvas.markers(np.array([x + 10]), np.array([y - 8]), **_marker(marker, 5, PAPER, 0.7))
        words = f"{name}  {count:,}"
        canvas.text(x + 30, y, words, size=7.5)
        x += 30 + text_width(words, size=7.5) + 48


def _classes(canvas: Canvas, entries: Sequence[tuple[str, str, int]], columns: int, y: float) -> None:
    rows = -(-len(entries) // columns)
    width = (canvas.width - 2 * MARGIN - (columns - 1) * 48) / columns
    for number, (name, colour, count) in enumerate(entries):
        x = MARGIN + (number // rows) * (width + 48)
        baseline = y + (number % rows) * LINE
        words = f"{count:,}"
        canvas.box(x, baseline - 17, 20, 20, fill=colour, edge=SOFT, line=0.3)
        canvas.text(x + 32, baseline, fit(name, width - 48 - text_width(words, size=7), size=7), size=7)
        canvas.text(x + width, baseline, words, size=7, colour=SOFT, align="right")


def _frame(canvas: Canvas, window: Window) -> None:
    """Draw the frame of a regional map, with degrees where the grid meets its left and lower edge."""
    canvas.box(window.x, window.y, window.width, window.height, edge=SOFT, line=0.5)
    lon_decimals, lat_decimals = (max(0, -math.floor(math.log10(step))) for step in grid_steps(window.projection))
    for axis, value, metres in grid_lines(window.projection):
        points = window.pixels(metres)
        bottom, left = window.y + window.height, window.x
        if axis == "lon":
            x = _crossing(points[:, ::-1], bottom)
            if x is not None and left < x < left + window.width:
                words = _degrees((value + 180) % 360 - 180, "EW", lon_decimals)
                canvas.text(x, bottom + 24, words, size=6, colour=SOFT, align="center")
        else:
            y = _crossing(points, left)
            if y is not None and window.y + 30 < y < bottom - 10:
                canvas.text(left + 8, y - 6, _degrees(value, "NS", lat_decimals), size=6, colour=SOFT, halo=PAPER)


def _crossing(points: NDArray[np.float64], at: float) -> float | None:
    """Second coordinate where a line first crosses a value of its first one."""
    side = points[:, 0] >= at
    changes = np.flatnonzero(side[1:] != side[:-1])
    if not len(changes):
        return None
    (x0, y0), (x1, y1) = points[changes[0]], points[changes[0] + 1]
    return float(y0 + (y1 - y0) * (at - x0) / (x1 - x0))


def _degrees(value: float, letters: str, decimals: int) -> str:
    letter = "" if abs(value) < 1e-9 else f" {letters[0] if value > 0 else letters[1]}"
    return f"{abs(value):.{decimals}f}°{letter}"


def _scale_bar(canvas: Canvas, window: Window) -> None:
    west, _, east, _ = window.projection.window
    km = (east - west) / 1000
    length_km = max((length for length in SCALE_LENGTHS_KM if length <= km / 4), default=SCALE_LENGTHS_KM[0])
    length = window.width * length_km / km
    right, bottom = window.x + window.width - 24, window.y + window.height - 24
    canvas.box(right - length - 3, bottom - 9, length + 6, 12, fill=PAPER)
    canvas.box(right - length, bottom - 6, length, 6, fill=INK)
    canvas.text(right - length / 2, bottom - 16, f"{length_km:,} km", size=7, align="center", halo=PAPER)
