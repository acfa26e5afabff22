"""Tiles whose pixels a report reads: all tiles of a small store, a few hundred random tiles of a large one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import PRESENT
from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.errors import StoreDamaged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store import Store

MOST_TILES = 400
PIXELS = 256
"""Number of pixels per tile and band, at equal steps, used for histograms."""
BINS = 24
RANGE = (0.005, 0.995)
"""Quantiles at the ends of a histogram."""
MOST_CLASSES = 12
OTHERS = "other classes"
LEAST_DEVIATIONS = 6.0
"""Number of robust standard deviations from the median above which a band mean is unusual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Distribution of one band, or of the classes of one modality.

    Attributes
    ----------
    modality, label
        Labels for users.
    low, high, unit
        Ends of the histogram in physical units; 0 and 0 for classes.
    names
        Names of the classes; empty for a histogram.
    shares
        (tiles, bins or classes) uint8: 255 is all of a tile's observed pixels.
    """

    modality: str
    label: str
    low: float
    high: float
    unit: str
    names: tuple[str, ...]
    shares: NDArray[np.uint8]


@dataclass(slots=True)
class Sample:
    """Data read from the sampled tiles.

    Attributes
    ----------
    positions
        (n,) positions in the store of the tiles that could be read.
    missing
        (n,) share of the pixels without a value in any band, over the modalities that a tile's product level has.
    odd, odd_band
        (n,) deviations of the most unusual band mean from the median of the sample, and that band.
    panels
        Distributions.
    damage
        Messages about tiles that could not be read.
    """

    positions: NDArray[np.intp]
    missing: NDArray[np.float64]
    odd: NDArray[np.float64]
    odd_band: list[str]
    panels: tuple[Panel, ...]
    damage: tuple[str, ...] = field(default=())


def read_sample(store: Store) -> Sample:
    """Read some tiles of a store; tiles in damaged shards are omitted and reported."""
    count = len(store)
    chosen = np.sort(np.random.default_rng(0).choice(count, min(count, MOST_TILES), replace=False))
    read, damage = [], []
    for position in chosen.tolist():
        try:
            tile = store[position]
        except StoreDamaged as error:
            damage.append(str(error))
        else:
            read.append((position, _Tile.of(tile, store)))
    tiles = [tile for _, tile in read]
    odd, bands = _oddness(tiles, store)
    return Sample(
        positions=np.array([position for position, _ in read], dtype=np.intp),
        missing=np.array([tile.missing for tile in tiles]),
        odd=odd,
        odd_band=bands,
        panels=tuple(panel for m in store.modalities.values() if m.stored for panel in _panels(m, tiles)),
        damage=tuple(dict.fromkeys(damage)),
    )


@dataclass(frozen=True, slots=True)
class _Tile:
    """Pixels kept of one tile: (band, pixels) per modality, NaN for no data; and its share of missing pixels."""

    pixels: Mapping[str, NDArray[np.float32]]
    missing: float

    @classmethod
    def of(cls, tile: Mapping[str, Any], store: Store) -> _Tile:
        level = LEVEL_NAMES.get(int(tile["tile"]["s2_level"]), "")
        pixels, absent = {}, []
        for m in (m for m in store.modalities.values() if m.stored):
            values = np.asarray(tile[m.name]).reshape(max(len(m.bands), 1), -1)
            seen = m.observed(values)
            due = m.bands_by_level.get(level, m.bands)
            rows = [row for band, row in zip(m.bands or ("",), seen, strict=True) if not m.bands or band in due]
            absent += [1 - float(np.any(rows, axis=0).mean())] if rows else []
            step = max(1, values.shape[1] // PIXELS) if _has_scale(m) else 1
            pixels[m.name] = np.where(seen, values, np.nan)[:, ::step].astype(np.float32)
        return cls(pixels, float(np.mean(absent)) if absent else 0.0)


def _oddness(tiles: Sequence[_Tile], store: Store) -> tuple[NDArray[np.float64], list[str]]:
    """Deviations of the most unusual band of each tile, in robust standard deviations, and the band's name."""
    names = [f"{m.name} {band}" for m in _continuous(store) for band in m.bands]
    if not tiles or not names:
        return np.zeros(len(tiles)), [""] * len(tiles)
    means = np.array([[_mean(row) for m in _continuous(store) for row in tile.pixels[m.name]] for tile in tiles])
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.array([_median(column) for column in means.T])
        spread = np.array([1.4826 * _median(column) for column in np.abs(means - centre).T])
        deviations = np.nan_to_num(np.abs(means - centre) / spread, nan=0.0, posinf=0.0)
    worst = deviations.argmax(axis=1)
    return deviations.max(axis=1), [names[k] for k in worst]


def _continuous(store: Store) -> list[Modality]:
    return [m for m in store.modalities.values() if m.stored and m.kind.is_continuous]


def _has_scale(m: Modality) -> bool:
    """Whether values are quantities; a mask without classes, such as a probability, is one if it has a range."""
    return m.kind.is_continuous or (not m.classes and m.display.range is not None)


def _mean(values: NDArray[np.float32]) -> float:
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if len(seen) else np.nan


def _median(values: NDArray[np.float64]) -> float:
    seen = values[~np.isnan(values)]
    return float(np.median(seen)) if len(seen) else np.nan


def _panels(m: Modality, tiles: Sequence[_Tile]) -> list[Panel]:
    """Distributions of a modality's bands, or of its classes; none of what no tile has."""
    if not tiles:
        return []
    if not _has_scale(m):
        codes = [_codes(m, tile.pixels[m.name]) for tile in tiles]
        found = _classes(m, codes)
        return [found] if found else []
    panels = []
    for position, band in enumerate(m.bands):
        panel = _histogram(m, band, np.stack([tile.pixels[m.name][position] for tile in tiles]))
        panels += [panel] if panel else []
    return panels


def _codes(m: Modality, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class codes of a tile: those of its pixels, or those of the labels that it has."""
    return np.flatnonzero(values == PRESENT).astype(np.float32) if m.kind.is_multi_label else values


def _histogram(m: Modality, band: str, values: NDArray[np.float32]) -> Panel | None:
    seen = ~np.isnan(values)
    if not seen.any():
        return None
    low, high = (float(end) for end in np.quantile(values[seen], RANGE))
    high = high if high > low else low + 1.0
    bins = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low) * BINS, 0, BINS - 1).astype(np.intp)
    tile = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    counts = np.bincount((tile * BINS + bins)[seen], minlength=len(values) * BINS).reshape(-1, BINS)
    unit = {"1": ""}.get(m.units_of(band), m.units_of(band))
    ends = (low * m.scale + m.offset, high * m.scale + m.offset)
    return Panel(
        modality=m.long_name, label=band, low=ends[0], high=ends[1], unit=unit, names=(), shares=_shares(counts)
    )


def _classes(m: Modality, codes: Sequence[NDArray[np.float32]]) -> Panel | None:
    """Shares of the most frequent classes, and of all others together."""
    counted = [np.unique(values[~np.isnan(values)].astype(np.int64), return_counts=True) for values in codes]
    total: dict[int, int] = {}
    for present, counts in counted:
        for code, count in zip(present.tolist(), counts.tolist(), strict=True):
            total[code] = total.get(code, 0) + count
    if not total:
        return None
    most = sorted(total, key=lambda code: -total[code])
    kept = most if len(most) <= MOST_CLASSES else most[: MOST_CLASSES - 1]
    names = {label.code: label.name for label in m.classes}
    column = {code: position for position, code in enumerate(kept)}
    width = len(kept) + (len(kept) < len(most))
    counts_of = np.zeros((len(codes), width), dtype=np.int64)
    for tile, (present, counts) in enumerate(counted):
        for code, count in zip(present.tolist(), counts.tolist(), strict=True):
            counts_of[tile, column.get(code, width - 1)] += count
    labels = (*(names.get(code, f"code {code}") for code in kept), *([OTHERS] if len(kept) < len(most) else []))
    return Panel(modality=m.long_name, label="", low=0, high=0, unit="", names=labels, shares=_shares(counts_of))


def _shares(counts: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Convert counts (tiles, bins) to shares of each tile, 255 for all."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found: NDArray[np.uint8] = np.round(255 * counts / total).astype(np.uint8)
    return found
