"""Gallery of a report: random tiles, complete and typical tiles, and tiles with the most gaps or unusual values."""

from __future__ import annotations

import io
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import format_tile_id
from mmearth_data.errors import StoreDamaged
from mmearth_data.inspection.facts import FactTable, format_ends, format_lonlat, format_time, level_name, plan_facts
from mmearth_data.inspection.panels import ColourBar, CompositeKey, Panel, PanelGroup, plan_panels
from mmearth_data.inspection.report.sample import LEAST_DEVIATIONS
from mmearth_data.pages.parts import (
    CodeBlock,
    Columns,
    Details,
    Gallery,
    GalleryItem,
    Notice,
    PageTable,
    Paragraph,
    Part,
    Picture,
    Pictures,
    walk,
)
from mmearth_data.pages.writing import format_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.inspection.report.sample import Sample
    from mmearth_data.store import Store

EACH = 24
"""Tiles of each group; a tile may be in several."""
MOST_PIXELS, MOST_PIXELS_INSIDE = 96, 64
"""Side of a thumbnail, and of the pictures in a dialog; larger ones are reduced."""
MOST_BYTES = 1_500_000
"""Maximum size of all pictures in bytes, above which no further tile is added."""
PER_GAP = 20.0
"""Number of deviations that is as suspicious as a tile without values."""
QUALITY = 82
MOST_MISSING_FOR_BEST = 0.001
GROUPS = (("random", "Random"), ("best", "Complete and typical"), ("odd", "Most suspicious"))
CLASSES_SHOWN = 3


def mosaic(store: Store, sample: Sample) -> list[Part]:
    """Gallery of a store's tiles; a notice if none of the sampled tiles has pixels."""
    chosen = _choose(sample)
    items: list[GalleryItem] = []
    for place in dict.fromkeys([*chosen["odd"], *chosen["best"], *chosen["random"]]):  # the oddest first
        if sum(map(_size, items)) > MOST_BYTES:
            break
        try:
            tile = store[int(sample.positions[place])]
        except StoreDamaged:
            continue
        groups = [name for name, places in chosen.items() if place in places]
        item = _item(store, tile, sample, place, groups)
        items += [item] if item else []
    if not items:
        return [Notice("None of the sampled tiles has pixels to show.")]
    present = [(name, label) for name, label in GROUPS if any(name in item.groups for item in items)]
    return [Gallery("mosaic", items, present)]


def _size(item: GalleryItem) -> int:
    """Bytes of an item's pictures."""
    return sum(len(part.data) for part in walk(item.detail) if isinstance(part, Picture)) + len(item.picture.data)


def _choose(sample: Sample) -> dict[str, list[int]]:
    """Positions in the sample of each group's tiles."""
    count = len(sample.positions)
    drawn = np.random.default_rng(1).permutation(count)[:EACH]
    complete = np.lexsort([sample.odd, sample.missing.round(3)])
    suspicious = np.argsort(-(PER_GAP * sample.missing + sample.odd), kind="stable")
    return {"random": drawn.tolist(), "best": complete[:EACH].tolist(), "odd": suspicious[:EACH].tolist()}


def _item(
    store: Store, tile: Mapping[str, Any], sample: Sample, place: int, groups: Sequence[str]
) -> GalleryItem | None:
    """Thumbnail and details of a tile; None if it has no picture."""
    where = tile["tile"]
    modalities = tuple(store.modalities.values())
    panels = plan_panels(tile, modalities, level_name(where))
    first = next((panel for group in panels for panel in group.panels if panel.image is not None), None)
    if first is None or first.image is None:
        return None
    name = format_tile_id(int(where["tile_id"]))
    reason = _reason(sample, place)
    picture = encode(first.image, MOST_PIXELS, lossless=False)
    thumbnail = Picture(picture, f"Tile {name}", _short_reason(sample, place), pixelated=True)
    details: list[Part] = [
        Paragraph(
            f"{format_lonlat(float(where['lon']), float(where['lat']))}, {format_time(where['time'])}. {reason}."
        ),
        *_pictures(panels, name),
        Columns([_facts(table) for table in plan_facts(tile, modalities)], 300),
        Details(
            "Draw it at full size",
            [CodeBlock(_drawing(store, name), "Shell")],
        ),
    ]
    return GalleryItem(name, thumbnail, f"Tile {name}", details, groups)


def _drawing(store: Store, name: str) -> str:
    """Command for the figure of a tile."""
    return shlex.join(["mmearth-data", "inspect", str(store.path), "--tile", name, "--figure", f"{name}.png"])


def _reason(sample: Sample, place: int) -> str:
    """Describe what is unusual about a tile."""
    missing, odd = float(sample.missing[place]), float(sample.odd[place])
    gaps = f"{format_share(missing)} of the pixels missing" if missing > MOST_MISSING_FOR_BEST else "Complete"
    return f"{gaps}; {sample.odd_band[place]} {odd:.1f} standard deviations from the median" if odd else gaps


def _short_reason(sample: Sample, place: int) -> str:
    """Label of a thumbnail."""
    missing, odd = float(sample.missing[place]), float(sample.odd[place])
    if missing > MOST_MISSING_FOR_BEST:
        return f"{format_share(missing)} missing"
    band = sample.odd_band[place].rpartition(" ")[2].replace("_", " ")
    return f"unusual {band}" if odd >= LEAST_DEVIATIONS else "complete"


def _pictures(groups: Sequence[PanelGroup], name: str) -> list[Part]:
    """All images of a tile, and a sentence about the modalities without one."""
    pictures, absent = [], []
    for group, panel in [(one, panel) for one in groups for panel in one.panels]:
        if panel.image is None:
            absent.append(f"{group.title} ({panel.label}): {panel.note}")
            continue
        pictures.append(
            Picture(
                encode(panel.image, MOST_PIXELS_INSIDE, lossless=isinstance(panel.legend, tuple)),
                f"{group.title}, {panel.label}, of tile {name}",
                ". ".join(filter(None, [panel.label, _legend(panel), panel.note])),
                pixelated=True,
                title=group.title,
            )
        )
    return [Pictures(pictures, 150), *([Paragraph(f"Without pixels: {'; '.join(absent)}.")] if absent else [])]


def _legend(panel: Panel) -> str:
    """Legend of a panel as text."""
    legend = panel.legend
    if isinstance(legend, ColourBar):
        low, high = format_ends(legend.low, legend.high)
        return f"{low} to {high} {legend.units}".strip()
    if isinstance(legend, CompositeKey):
        return ", ".join(band for band, _, _ in legend.channels) + " as red, green, blue"
    keys = sorted(legend or (), key=lambda key: -key.share)
    return ", ".join(f"{key.name} {key.share:.0%}" for key in keys[:CLASSES_SHOWN])


def _facts(table: FactTable) -> Part:
    if table.columns:
        return PageTable(["", *table.columns], table.rows, table.title, sortable=False)
    return PageTable(["", table.title], [row if len(row) > 1 else ("", *row) for row in table.rows], sortable=False)


def encode(image: NDArray[np.uint8], most_px: int, *, lossless: bool) -> bytes:
    """WebP of an image (y, x, 3), reduced to a side; images of classes keep their exact colours."""
    from PIL import Image

    picture = Image.fromarray(image)
    largest = max(picture.size)
    if largest > most_px:
        method = Image.Resampling.NEAREST if lossless else Image.Resampling.BOX
        picture = picture.resize([max(1, side * most_px // largest) for side in picture.size], method)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=lossless, quality=100 if lossless else QUALITY, method=4)
    return buffer.getvalue()
