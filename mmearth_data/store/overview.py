"""Overview of a store in a few lines, for ``repr`` and notebooks; it reads only the root and the coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES, pixel_size_m
from mmearth_data.store.about import bounds_of
from mmearth_data.store.schema import SPLIT_NAMES
from mmearth_data.words import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.reader import Store

BANDS_SHOWN = 60
"""Maximum width of a list of band names, in characters."""
DIGEST_SHOWN = 12
TIMES = "\N{MULTIPLICATION SIGN}"
COLUMNS = ("tile_id", "lon", "lat", "time", "split", "s2_level")
"""Coordinates that an overview reads."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What a store contains, as text."""

    title: str
    badges: tuple[str, ...]
    """``SYNTHETIC`` if the pixels are not measurements, ``NOT FINISHED`` if the store is being built."""
    facts: tuple[tuple[str, str], ...]
    """Names and values."""
    modalities: tuple[tuple[str, str, str, str], ...]
    """Name, kind, type of the stored values, and bands or classes."""
    heading: str
    """Heading of the modalities, with their number."""

    def text(self) -> str:
        """Overview as lines of text, with the modalities in columns."""
        widths = [max(map(len, column)) for column in zip(*(row[:3] for row in self.modalities), strict=True)]
        lines = [" ".join([f"<{self.title}>", *(f"[{badge}]" for badge in self.badges)])]
        lines += [f"{f'{name}:':<9} {value}" for name, value in self.facts]
        lines += [f"{self.heading}:"]
        for row in self.modalities:
            cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
            lines.append("    " + "  ".join([*cells, row[3]]).rstrip())
        return "\n".join(lines)


def overview(store: Store) -> Overview:
    """Overview of a store or a selection of it; no pixels are read."""
    columns = {name: store.content.column(name)[store.rows] for name in COLUMNS}
    side_px, tiles = store.layout.size_px, len(store)
    of = f" of {store.layout.tiles:,}" if tiles != store.layout.tiles else ""
    stored = [m for m in store.modalities.values() if m.stored]
    derived = len(store.modalities) - len(stored)
    facts = [
        ("Path", str(store.path)),
        ("Tiles", f"{tiles:,}{of}, {side_px} {TIMES} {side_px} px{_of_pixels(columns['tile_id'])}"),
        ("Splits", _counts(columns["split"], SPLIT_NAMES) or "none"),
        (
            "Scenes",
            ", ".join(
                filter(
                    None, [_period(columns["time"].view("datetime64[ms]")), _counts(columns["s2_level"], LEVEL_NAMES)]
                )
            ),
        ),
        ("Area", _area(columns["lon"], columns["lat"])),
        ("Size", f"{format_bytes(tiles * _tile_bytes(stored, side_px))} uncompressed"),
        ("State", _state(store)),
    ]
    heading = f"Modalities ({len(stored)} stored{f', {derived} derived' if derived else ''})"
    badges = [*(["SYNTHETIC"] if store.synthetic else []), *([] if store.finished else ["NOT FINISHED"])]
    title = f"mmearth_data.Store: {tiles:,} tile{'' if tiles == 1 else 's'}"
    return Overview(title, tuple(badges), tuple(facts), tuple(_modality(m) for m in store.modalities.values()), heading)


def _modality(m: Modality) -> tuple[str, str, str, str]:
    if not m.stored:
        return m.name, str(m.kind), "", f"derived from {' and '.join(m.derived_from)}"
    bands = "" if m.kind.is_multi_label else ", ".join(m.bands)
    if len(bands) > BANDS_SHOWN:
        bands = f"{len(m.bands)} bands: {bands[: BANDS_SHOWN - 3].rpartition(',')[0]}, ..."
    classes = f"{len(m.classes)} classes" if m.classes else ""
    return m.name, str(m.kind), m.dtype.name, ": ".join(filter(None, [bands, classes]))


def _counts(codes: NDArray[np.uint8], names: Mapping[int, str]) -> str:
    """List the number of tiles of each name that occurs."""
    counts = np.bincount(codes, minlength=256)
    shown = [f"{counts[code]:,} {name}" for code, name in names.items() if counts[code]]
    rest = len(codes) - int(sum(counts[code] for code in names))
    return ", ".join([*shown, *([f"{rest:,} without"] if shown and rest else [])])


def _of_pixels(tile_ids: NDArray[np.uint64]) -> str:
    pixel_m = pixel_size_m(tile_ids)
    return "" if pixel_m is None else f" of {pixel_m} m"


def _period(time: NDArray[np.datetime64]) -> str:
    known = time[~np.isnat(time)]
    if not len(known):
        return "no known date"
    return f"{known.min().astype('datetime64[D]')} to {known.max().astype('datetime64[D]')}"


def _area(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> str:
    bounds = bounds_of(lon, lat)
    if bounds is None:
        return "no known location" if len(lon) else "none"
    west, south, east, north = bounds
    across = " across 180°" if west > east else ""
    return f"{west:.2f} to {east:.2f} °E{across}, {south:.2f} to {north:.2f} °N"


def _tile_bytes(stored: Sequence[Modality], size_px: int) -> int:
    return sum(int(np.prod(m.array_shape(size_px), dtype=np.int64)) * m.dtype.itemsize for m in stored)


def _state(store: Store) -> str:
    if store.finished:
        return f"finished, digest {str(store.digest)[:DIGEST_SHOWN]}"
    return f"being built or interrupted: {len(store.content.commits):,} of {store.layout.shards:,} shards are written"
