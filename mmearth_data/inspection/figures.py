"""Figure of one tile: every modality with its legend, and its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M, format_tile_id, pixel_size_m, unpack_tile_id
from mmearth_data.files.writing import write_bytes
from mmearth_data.inspection import canvas as sheet
from mmearth_data.inspection.canvas import FAINT, INK, PAPER, SOFT, Canvas, fit, text_width, wrap
from mmearth_data.inspection.facts import FactTable, format_ends, format_lonlat, format_time, level_name, plan_facts
from mmearth_data.inspection.panels import (
    ClassKey,
    ColourBar,
    CompositeKey,
    Legend,
    Panel,
    PanelGroup,
    plan_panels,
)
from mmearth_data.inspection.summary import source_notes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store import Store
    from mmearth_data.store.selection import TileName

SIDE = 384
"""Approximate side of a panel in pixels: each pixel of a 128 px tile takes 3 x 3, of a 64 px tile 6 x 6."""
MARGIN, GAP, ROW_GAP = 56, 32, 30
TITLE_LINE, HEAD, LABEL, LINE = 28, 42, 28, 27
"""Heights in pixels: a line of a modality's title, one such line with its rule, a panel's label, a legend's line."""
TITLE, LEAST_WIDTH = 110, 1200
SCALE_LENGTHS_M = (20, 50, 100, 200, 500, 1000, 2000, 5000)
CHANNEL_COLOURS = ("#e5484d", "#30a46c", "#3b82f6")


@dataclass(frozen=True, slots=True)
class Placed:
    """A group of panels and the grid cell of its first one."""

    group: PanelGroup
    row: int
    column: int


def tile_figure(store: Store, tile: TileName, path: str | Path) -> Path:
    """Draw all modalities of one tile, with legends, into a file; returns its path.

    Parameters
    ----------
    store
        An open store.
    tile
        Id of the tile, or its position in the store; see `Store.position`.
    path
        File to write: PNG, PDF or SVG, by its ending.

    Raises
    ------
    InputError
        If the store has no such tile, or the picture cannot be written.
    """
    target = sheet.check_picture(path)
    save_canvas(canvas_of_tile(store, tile), target)
    return target


def canvas_of_tile(store: Store, tile: TileName) -> Canvas:
    """Lay out the figure of one tile of a store; see `tile_figure`."""
    values = store[store.position(tile)]
    with sheet.DRAWING:
        return compose_tile(values, tuple(store.modalities.values()), store.synthetic, source_notes(store.source))


def save_canvas(canvas: Canvas, path: Path) -> None:
    """Write a picture in the format of its name."""
    with sheet.DRAWING:
        drawn = canvas.encoded(sheet.picture_format(path))
    write_bytes(path, drawn)


def shown_figure(path: str | Path | None, compose: Callable[[], Canvas]) -> Figure:
    """Figure of a canvas, written to a file as well if a path is given; the path is checked before anything is drawn."""
    target = None if path is None else sheet.check_picture(path)
    canvas = compose()
    if target is not None:
        save_canvas(canvas, target)
    return canvas.figure()


def draw_tile(
    tile: Mapping[str, Any], modalities: Sequence[Modality], synthetic: bool, notes: Sequence[str] = ()
) -> bytes:
    """PNG of one tile, see `compose_tile`; the same tile gives the same bytes."""
    with sheet.DRAWING:
        return compose_tile(tile, modalities, synthetic, notes).png()


def compose_tile(
    tile: Mapping[str, Any], modalities: Sequence[Modality], synthetic: bool, notes: Sequence[str] = ()
) -> Canvas:
    """Lay out the figure of one tile.

    ``tile`` maps modality names to arrays as stored, and ``tile`` to its coordinates; modalities are drawn in the given
    order. If the pixels are synthetic, the title says so; ``notes`` are at the bottom.
    """
    coordinates = tile["tile"]
    groups = plan_panels(tile, modalities, level_name(coordinates))
    tables = plan_facts(tile, modalities)
    _, _, size_px = unpack_tile_id(int(coordinates["tile_id"]))
    credit = [*notes, ". ".join(credits_of(modalities, tile, synthetic))]
    return _draw(coordinates, groups, tables, size_px, synthetic, credit)


def credits_of(modalities: Sequence[Modality], tile: Mapping[str, Any], synthetic: bool) -> list[str]:
    """Attribution lines of the modalities shown, each once; none if the pixels are synthetic."""
    if synthetic:
        return ["Synthetic pixels: computed, never measured"]
    return list(dict.fromkeys(m.licence.attribution for m in modalities if m.stored and m.name in tile))


# ---------------------------------------------------------------- where things go


def arrange(groups: Sequence[PanelGroup], columns: int) -> tuple[list[Placed], int]:
    """Arrange groups in rows of a given width, each in the first row with room; a longer group is split into parts.

    Returns the placed groups and the number of rows.
    """
    free: list[int] = []
    placed: list[Placed] = []
    for group in groups:
        first = 0
        for start in range(0, len(group.panels), columns):
            part = PanelGroup(
                title=group.title if start == 0 else f"{group.title} (continued)",
                panels=group.panels[start : start + columns],
                note=group.note if start == 0 else "",
            )
            row = next((r for r in range(first, len(free)) if free[r] >= len(part.panels)), len(free))
            if row == len(free):
                free.append(columns)
            placed.append(Placed(part, row, columns - free[row]))
            free[row] -= len(part.panels)
            first = row + 1  # a part is never placed before the one that it continues
    return placed, len(free)


def best_columns(groups: Sequence[PanelGroup]) -> int:
    """Choose the number of columns that splits no group and leaves the fewest cells empty; of a tie, the larger."""
    total = sum(len(group.panels) for group in groups)
    least = max(1, min(4, total))

    def cost(columns: int) -> tuple[int, int, int]:
        placed, rows = arrange(groups, columns)
        return len(placed) - len(groups), rows * columns - total, -columns

    return min(range(least, max(least, 5) + 1), key=cost)


def legend_height(legend: Legend | None) -> int:
    """Height of a legend below its image, in pixels."""
    if isinstance(legend, ColourBar):
        return 52
    if isinstance(legend, CompositeKey):
        return LINE if legend.common else LINE * len(legend.channels)
    return LINE * len(legend) if legend else 0


def _head_height(groups: Sequence[PanelGroup], side: int) -> int:
    return HEAD + TITLE_LINE * (max(len(title_lines(group, side)) for group in groups) - 1)


def _legends_height(groups: Sequence[PanelGroup]) -> int:
    return max(legend_height(panel.legend) for group in groups for panel in group.panels)


# ---------------------------------------------------------------- drawing


def _draw(
    coordinates: Mapping[str, Any],
    groups: Sequence[PanelGroup],
    tables: Sequence[FactTable],
    size_px: int,
    synthetic: bool,
    credit: Sequence[str],
) -> Canvas:
    columns = best_columns(groups)
    placed, rows = arrange(groups, columns)
    side = size_px * max(1, round(SIDE / size_px)) if size_px <= SIDE else SIDE
    width = max(2 * MARGIN + columns * side + (columns - 1) * GAP, LEAST_WIDTH)
    heads = [_head_height([p.group for p in placed if p.row == row], side) for row in range(rows)]
    bodies = [LABEL + side + 14 + _legends_height([p.group for p in placed if p.row == row]) for row in range(rows)]
    tops = [
        MARGIN + TITLE + sum(heads[: row + 1]) + sum(bodies[:row]) + row * ROW_GAP for row in range(rows)
    ]  # of the panels' labels
    lines = [line for text in credit for line in wrap(text, width - 2 * MARGIN, size=5.5)]
    strip = tops[-1] + bodies[-1] + ROW_GAP if rows else MARGIN + TITLE
    flow = _flow_tables(tables, width - 2 * MARGIN)
    strip_height = max((y + _table_height(table) for table, _, y in flow), default=0)
    height = strip + strip_height + 30 + 20 * len(lines) + MARGIN - 16

    canvas = Canvas(width, height)
    title = f"Tile {format_tile_id(int(coordinates['tile_id']))}"
    canvas.heading(title, _details(coordinates, size_px), MARGIN, synthetic=synthetic, gap=48)
    for place in placed:
        x = MARGIN + place.column * (side + GAP)
        _group(canvas, place.group, x, tops[place.row], side)
    if placed and placed[0].group.panels[0].image is not None and pixel_size_m(coordinates["tile_id"]) is not None:
        _scale_bar(canvas, MARGIN, tops[0] + LABEL, side, size_px)
    for table, x, y in flow:
        _table(canvas, table, MARGIN + x, strip + y)
    for number, line in enumerate(lines):
        canvas.text(MARGIN, strip + strip_height + 30 + 20 * (number + 1) - 4, line, size=5.5, colour=SOFT)
    return canvas


def _details(coordinates: Mapping[str, Any], size_px: int) -> list[str]:
    level = level_name(coordinates)
    return [
        format_lonlat(float(coordinates["lon"]), float(coordinates["lat"])),
        format_time(coordinates["time"]),
        *([f"level {level}"] if level else []),
        f"{size_px} \N{MULTIPLICATION SIGN} {size_px} px{_width(coordinates, size_px)}",
    ]


def _width(coordinates: Mapping[str, Any], size_px: int) -> str:
    pixel_m = pixel_size_m(coordinates["tile_id"])
    return "" if pixel_m is None else f", {size_px * pixel_m:,} m a side"


def _group(canvas: Canvas, group: PanelGroup, x: int, y: int, side: int) -> None:
    """Draw a modality; ``y`` is the top of its first panel's label, the title is above it."""
    width = group_width(group, side)
    lines = title_lines(group, side)
    for number, line in enumerate(lines):
        canvas.text(x, y - 18 - TITLE_LINE * (len(lines) - 1 - number), line, size=8, bold=True)
    if len(group.panels) > 1:
        canvas.text(x + width, y - 18, group.note, size=6.5, colour=SOFT, align="right")
    canvas.line([x, x + width], [y - 7, y - 7], colour=INK, width=0.6)
    for number, panel in enumerate(group.panels):
        _panel(canvas, panel, x + number * (side + GAP), y, side)


def group_width(group: PanelGroup, side: int) -> int:
    """Width in pixels of panels side by side."""
    return len(group.panels) * side + (len(group.panels) - 1) * GAP


def title_lines(group: PanelGroup, side: int) -> list[str]:
    """Lines of a modality's title, leaving room for a note to its right."""
    note = text_width(group.note, size=6.5) + 24 if group.note and len(group.panels) > 1 else 0
    return wrap(group.title, group_width(group, side) - note, size=8, bold=True)


def _panel(canvas: Canvas, panel: Panel, x: int, y: int, side: int) -> None:
    note_width = text_width(panel.note, size=6.5) + 16 if panel.note and panel.image is not None else 0
    canvas.text(x, y + 20, fit(panel.label, side - note_width, size=7), size=7, colour=SOFT)
    top = y + LABEL
    if panel.image is None:
        canvas.box(x, top, side, side, fill="#f4f4f5", edge=FAINT, line=0.4)
        canvas.text(x + side / 2, top + side / 2 + 7, panel.note, size=7.5, colour=SOFT, align="center")
        return
    if note_width:
        canvas.text(x + side, y + 20, panel.note, size=6.5, colour=SOFT, align="right")
    canvas.image(x, top, enlarge(panel.image, side))
    canvas.box(x, top, side, side, edge=SOFT, line=0.4)
    _legend(canvas, panel.legend, x, top + side + 14, side)


def enlarge(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize by repeating or dropping pixels, without interpolation."""
    rows = (np.arange(side) * image.shape[0]) // side
    columns = (np.arange(side) * image.shape[1]) // side
    found: NDArray[np.uint8] = image[rows[:, None], columns]
    return found


def _legend(canvas: Canvas, legend: Legend | None, x: int, y: int, width: int) -> None:
    if isinstance(legend, ColourBar):
        bar = np.repeat(legend.colours[None, (np.arange(width) * 256) // width], 14, axis=0)
        canvas.image(x, y, bar)
        canvas.box(x, y, width, 14, edge=SOFT, line=0.3)
        low, high = format_ends(legend.low, legend.high)
        canvas.text(x, y + 38, low, size=6.5, colour=SOFT)
        canvas.text(x + width / 2, y + 38, legend.units, size=6.5, colour=SOFT, align="center")
        canvas.text(x + width, y + 38, high, size=6.5, colour=SOFT, align="right")
        return
    if isinstance(legend, CompositeKey):
        _composite_key(canvas, legend, x, y, width)
        return
    for number, key in enumerate(legend or ()):
        _class_line(canvas, x, y + number * LINE, width, key)


def _composite_key(canvas: Canvas, key: CompositeKey, x: int, y: int, width: int) -> None:
    """Draw the legend of a composite: on one line if the channels share a scale, otherwise one line each."""
    for number, (colour, (band, *ends)) in enumerate(zip(CHANNEL_COLOURS, key.channels, strict=True)):
        low, high = format_ends(*ends)
        text = f"{low} to {high} {key.units}".rstrip()
        room = (width - text_width(text, size=6.5)) / (3 if key.common else 1)
        left, top = (x + number * min(room, 84.0), y) if key.common else (x, y + number * LINE)
        canvas.box(left, top, 16, 16, fill=colour, edge=SOFT, line=0.3)
        canvas.text(left + 23, top + 15, fit(band, room - 30, size=6.5), size=6.5)
        if number == 0 or not key.common:
            canvas.text(x + width, top + 15, text, size=6.5, colour=SOFT, align="right")


def _class_line(canvas: Canvas, x: int, y: int, width: int, key: ClassKey) -> None:
    share = percent(key.share)
    if key.colour:
        canvas.box(x, y, 16, 16, fill=key.colour, edge=SOFT, line=0.3)
    room = width - 26 - text_width(share, size=6.5) - 16
    canvas.text(x + 26, y + 15, fit(key.name, room, size=6.5), size=6.5)
    canvas.text(x + width, y + 15, share, size=6.5, colour=SOFT, align="right")


def percent(share: float) -> str:
    """Format a share in per cent; a positive share is never shown as 0.

    Examples
    --------
    >>> percent(0.42), percent(0.0004)
    ('42%', '< 1%')
    """
    return f"{share:.0%}" if share >= 0.01 else "< 1%"


def _scale_bar(canvas: Canvas, x: int, y: int, side: int, size_px: int) -> None:
    """Bar in the lower left corner of the first image, at most two fifths of its width."""
    extent_m = size_px * PIXEL_M
    length_m = max((metres for metres in SCALE_LENGTHS_M if metres <= 0.4 * extent_m), default=SCALE_LENGTHS_M[0])
    length = side * length_m / extent_m
    left, bottom = x + 18, y + side - 18
    canvas.box(left - 2, bottom - 8, length + 4, 10, fill="#00000099")
    canvas.box(left, bottom - 6, length, 6, fill=PAPER)
    words = f"{length_m} m" if length_m < 1000 else f"{length_m // 1000} km"
    canvas.text(left, bottom - 18, words, size=7, bold=True, colour=PAPER, halo="#00000099")


# ---------------------------------------------------------------- tables of facts


def _table_height(table: FactTable) -> int:
    return HEAD + LINE * (len(table.rows) + bool(table.columns))


def _column_widths(table: FactTable) -> list[int]:
    cells = [*table.rows, *([("", *table.columns)] if table.columns else [])]
    count = max(len(row) for row in cells)
    return [int(max(text_width(row[i], size=6.5) for row in cells if len(row) > i)) + 28 for i in range(count)]


def _table_width(table: FactTable) -> int:
    swatch = 26 if any(table.colours) else 0
    return max(sum(_column_widths(table)) + swatch - 28, int(text_width(table.title, size=8, bold=True)))


def _flow_tables(tables: Sequence[FactTable], width: int) -> list[tuple[FactTable, int, int]]:
    """(table, x, y) side by side, wrapped at the edge of the canvas; remaining space is put between them."""
    lines: list[list[FactTable]] = []
    for table in tables:
        room = sum(_table_width(t) + 2 * GAP for t in lines[-1]) + _table_width(table) if lines else width + 1
        if room > width:
            lines.append([])
        lines[-1].append(table)
    placed, y = [], 0
    for line in lines:
        x, spare = 0, width - sum(_table_width(table) for table in line)
        between = min(4 * GAP, spare // max(1, len(line) - 1)) if len(line) > 1 else 0
        for table in line:
            placed.append((table, x, y))
            x += _table_width(table) + between
        y += max(_table_height(table) for table in line) + ROW_GAP
    return placed


def _table(canvas: Canvas, table: FactTable, x: int, y: int) -> None:
    width = _table_width(table)
    widths = _column_widths(table)
    canvas.text(x, y + 24, table.title, size=8, bold=True)
    canvas.line([x, x + width], [y + 35, y + 35], colour=INK, width=0.6)
    baseline = y + HEAD + 20
    indent = 26 if any(table.colours) else 0
    if table.columns:
        for number in range(1, len(widths)):
            right = x + sum(widths[: number + 1]) - 28
            canvas.text(right, baseline, table.columns[number - 1], size=6.5, colour=SOFT, align="right")
        baseline += LINE
    for row, cells in enumerate(table.rows):
        canvas.text(x, baseline, cells[0], size=6.5, colour=SOFT)
        if indent and table.colours[row]:
            canvas.box(x + widths[0], baseline - 15, 16, 16, fill=table.colours[row], edge=SOFT, line=0.3)
        for number, cell in enumerate(cells[1:], start=1):
            if table.columns:
                canvas.text(x + sum(widths[: number + 1]) - 28, baseline, cell, size=6.5, align="right")
            else:
                canvas.text(x + indent + sum(widths[:number]), baseline, cell, size=6.5)
        baseline += LINE
