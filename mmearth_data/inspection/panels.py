"""Content of a tile's figure, as plain values: images, legends and notes.

Everything is derived from a modality's kind, display and roles, so that entries of the user's own catalog are drawn
like the shipped ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb

from mmearth_data.catalog.tile import LEVEL_L1C, LEVEL_NAMES, PIXEL_M

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

MISSING_COLOUR = "#e4e4e7"
UNKNOWN_COLOUR = "#ff00ff"
"""Colour of codes that the modality's classes do not list; conspicuous, since they should not occur."""
MAX_BANDS = 5
"""Maximum number of single-band panels; of a modality with more bands, those named by its display are shown."""
MAX_CLASSES = 6
MAX_AUTO_CLASSES = 12
"""A mask without classes and range, with at most this many distinct values, is drawn as classes."""
PERCENTILES = (2.0, 98.0)
LEAST_SHARE_OF_RANGE, LEAST_STEPS = 0.15, 20
"""Minimum span of a tile's stretch, as a share of the display range and in integer steps, so that noise on open water
is not amplified and a plain that rises by two metres looks flat.
"""
TOP_OF_ATMOSPHERE = frozenset({LEVEL_NAMES[LEVEL_L1C]})
"""Levels whose reflectance includes light scattered by the atmosphere, mostly blue."""
MOST_HAZE = 0.25
"""Maximum haze, as a share of the display range; anything brighter (snow, cloud) keeps its tint."""
COMPOSITE_GAMMA = 1.5
"""Gamma of composites, which brightens forests and shadows; colour bars are linear."""
OTHER_UNITS_COLORMAP = "YlOrBr"
"""Colour map of bands in another unit than that for which the display's colour map was chosen."""
LAND_OF_COLORMAP = 0.25
"""Share of a hypsometric colour map that is for the sea, and which a stretch per tile would use for land."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourBar:
    """Legend of one band: colours from the low to the high value, physical units."""

    low: float
    high: float
    units: str
    colours: NDArray[np.uint8]
    """(256, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeKey:
    """Legend of a composite: band and range of values of each channel."""

    channels: tuple[tuple[str, float, float], ...]
    """(band, low, high) of red, green and blue, physical units."""
    units: str

    @property
    def common(self) -> bool:
        """Whether all three share one scale."""
        return len({(low, high) for _, low, high in self.channels}) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassKey:
    """One line of a class legend."""

    name: str
    colour: str
    share: float
    """Share of the tile's observed pixels, 0 to 1."""


Legend = ColourBar | CompositeKey | tuple[ClassKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One image of a figure."""

    label: str
    """What it shows of the modality: bands, role."""
    image: NDArray[np.uint8] | None = None
    """(y, x, 3) uint8; None if nothing was observed."""
    legend: Legend | None = None
    note: str = ""
    """What is missing, and the reason if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelGroup:
    """Panels of one modality."""

    title: str
    panels: tuple[Panel, ...]
    note: str = ""


def plan_panels(
    tile: Mapping[str, Any], modalities: Iterable[Modality], level: str | None = None
) -> tuple[PanelGroup, ...]:
    """Images of all raster modalities of a tile, one group per modality in the given order; none is left out silently.

    ``tile`` maps modality names to arrays (band, y, x) as stored. The product level of the scene (``L1C``, ``L2A``)
    explains missing bands.
    """
    return tuple(_group(tile[m.name], m, level) for m in modalities if m.kind.is_raster and m.name in tile)


def main_raster(rasters: Sequence[Modality]) -> Modality | None:
    """First raster that is displayed in colour, otherwise the first raster; None if there is none."""
    return next((m for m in rasters if len(m.display.bands) == 3), rasters[0] if rasters else None)


def factor_bands(bands: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Rows and columns if the band names are all combinations ``row_column``, else None.

    Examples
    --------
    >>> factor_bands(["asc_VV", "asc_VH", "desc_VV", "desc_VH"])
    (('asc', 'desc'), ('VV', 'VH'))
    >>> factor_bands(["elevation", "slope"]) is None
    True
    """
    parts = [band.split("_") for band in bands]
    for tail in range(1, min(map(len, parts))):
        pairs = [("_".join(p[:-tail]), "_".join(p[-tail:])) for p in parts]
        rows = tuple(dict.fromkeys(row for row, _ in pairs))
        columns = tuple(dict.fromkeys(column for _, column in pairs))
        complete = len(set(pairs)) == len(rows) * len(columns) == len(bands)
        if complete and len(rows) > 1 and len(columns) > 1:
            return rows, columns
    return None


def _group(values: NDArray[Any], m: Modality, level: str | None) -> PanelGroup:
    observed = m.observed(values)
    if not observed.any():
        return PanelGroup(title=m.long_name, panels=(_missing(", ".join(m.bands), m, m.bands, level),))
    if not m.kind.is_continuous:
        return PanelGroup(
            title=m.long_name,
            panels=tuple(
                _coded(codes, seen, m, band) if seen.any() else _missing(band, m, (band,), level)
                for band, codes, seen in zip(m.bands[:MAX_BANDS], values, observed, strict=False)
            ),
        )
    if len(m.display.bands) == 3:
        triples = [bands for bands in (m.display.bands, m.display.false_colour) if len(bands) == 3]
        return PanelGroup(
            title=m.long_name, panels=tuple(_composite(values, observed, m, triple, level) for triple in triples)
        )
    return _bands_group(values, observed, m, level)


def _missing(label: str, m: Modality, bands: Sequence[str], level: str | None) -> Panel:
    """Make a placeholder, with the reason if it is the product level."""
    possible = m.bands_by_level.get(level or "")
    absent = possible is not None and not set(bands) & set(possible)
    return Panel(label=label, note=f"not part of {level}" if absent else "not observed")


def _share_note(observed: NDArray[np.bool_]) -> str:
    missing = 1 - float(observed.mean())
    if missing == 0:
        return ""
    return f"{missing:.0%} missing" if missing >= 0.01 else "< 1% missing"


# ---------------------------------------------------------------- quantities


def _bands_group(values: NDArray[Any], observed: NDArray[np.bool_], m: Modality, level: str | None) -> PanelGroup:
    """One panel per observed band; a row of missing ones (such as an orbit pass) shares a placeholder."""
    seen = {band for band, pixels in zip(m.bands, observed, strict=True) if pixels.any()}
    factors = factor_bands(m.bands)
    rows = [[f"{row}_{column}" for column in factors[1]] for row in factors[0]] if factors else [list(m.bands)]
    names = factors[0] if factors else ("",)
    first = set(m.display.bands) if len(seen) > MAX_BANDS else seen
    places = {band: (column, row) for row, line in enumerate(rows) for column, band in enumerate(line)}
    drawn = set(sorted(seen, key=lambda band: (band not in first, places[band]))[:MAX_BANDS])
    panels: list[Panel] = []
    for name, row in zip(names, rows, strict=True):
        if not seen & set(row):
            panels.append(_missing(name, m, row, level))
        panels += [_single(values, observed, m, band) for band in row if band in drawn]
    notes = []
    if len(seen) > len(drawn):
        notes.append(f"{len(seen) - len(drawn)} more bands")
    absent = [c for c in factors[1] if not any(f"{r}_{c}" in seen for r in factors[0])] if factors else []
    absent = absent or [band for band in m.bands if band not in seen and not factors]
    if absent:
        notes.append(f"no {', '.join(absent)}")
    return PanelGroup(title=m.long_name, panels=tuple(panels), note="; ".join(notes))


def _single(values: NDArray[Any], observed: NDArray[np.bool_], m: Modality, band: str) -> Panel:
    """One band with a colour map; elevation with shaded relief."""
    index = m.bands.index(band)
    stored, seen = values[index].astype(np.float64), observed[index]
    relief = band == m.recipe.get("parameters", {}).get("elevation")
    low, high = stretch(stored[seen], m, band)
    colours = colour_table(m.display.colormap if shares_display(m, band) else OTHER_UNITS_COLORMAP, land=relief)
    image = colours[_levels(np.where(seen, stored, low), low, high)].astype(np.float64)
    if relief:
        image *= _shade(np.where(seen, stored, np.median(stored[seen])))[..., None]
    label = f"{band}, shaded relief" if relief else band
    bar = _colour_bar(m, band, low, high, colours)
    return Panel(label=label, image=_with_missing(image, seen), legend=bar, note=_share_note(seen))


def _colour_bar(m: Modality, band: str, low: float, high: float, colours: NDArray[np.uint8]) -> ColourBar:
    low, high = (end * m.scale + m.offset for end in (low, high))
    return ColourBar(low=low, high=high, units=unit_text(m, band), colours=colours)


def shares_display(m: Modality, band: str) -> bool:
    """Whether the display's colour map and range also apply to this band, because it has the same unit."""
    return not m.display.bands or m.units_of(band) == m.units_of(m.display.bands[0])


def unit_text(m: Modality, band: str) -> str:
    """Display unit of a band: nothing for plain numbers, symbols for degrees and per cent."""
    units = m.units_of(band)
    return {"1": "", "degree": "°", "percent": "%"}.get(units, units)


def stretch(values: NDArray[np.float64], m: Modality, band: str) -> tuple[float, float]:
    """Choose the ends of the scale for a tile, in stored values.

    Percentiles of the tile, widened to the minimum span of the display range and of integer steps, within the limits of
    the catalog.
    """
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    least = LEAST_STEPS if m.dtype.kind in "iu" else 1e-6 * max(1.0, abs(low), abs(high))
    if m.display.range and shares_display(m, band):
        least = max(least, LEAST_SHARE_OF_RANGE * (m.display.range[1] - m.display.range[0]))
    if high - low >= least:
        return low, high
    floor, ceiling = m.histogram_range_of(band) or (-np.inf, np.inf)
    start = max(min((low + high - least) / 2, ceiling - least), floor)
    return start, start + least


def colour_table(name: str, *, land: bool = False) -> NDArray[np.uint8]:
    """256 colours of a matplotlib colour map, (256, 3) uint8; an unknown name falls back to viridis."""
    colormap = mpl.colormaps[name if name in mpl.colormaps else "viridis"]
    positions = np.linspace(LAND_OF_COLORMAP if land else 0.0, 1.0, 256)
    return np.round(255 * colormap(positions)[:, :3]).astype(np.uint8)


def _levels(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.intp]:
    scaled = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.round(255 * scaled).astype(np.intp)


def _with_missing(image: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    grey = 255 * np.asarray(to_rgb(MISSING_COLOUR))
    return np.round(np.clip(np.where(seen[..., None], image, grey), 0, 255)).astype(np.uint8)


def _shade(height_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Brightness around 1 of a surface lit from the north-west at 45 degrees; gentle terrain is exaggerated."""
    padded = np.pad(height_m, 1, mode="edge")
    smooth = sum(padded[i : i + height_m.shape[0], j : j + height_m.shape[1]] for i in range(3) for j in range(3)) / 9
    south, east = np.gradient(smooth, PIXEL_M)
    steep = float(np.percentile(np.hypot(south, east), 90))
    exaggeration = float(np.clip(0.5 / max(steep, 1e-9), 1.0, 6.0))
    south, east = south * exaggeration, east * exaggeration
    # A surface z(x east, y north) has the normal (-dz/dx, -dz/dy, 1); the light comes from (-1, 1, sqrt 2) / 2.
    lit = (east + south + np.sqrt(2)) / (2 * np.sqrt(1 + east**2 + south**2))
    found: NDArray[np.float64] = np.clip(1 + 0.9 * (lit - np.sqrt(0.5)), 0.35, 1.25)
    return found


# ---------------------------------------------------------------- composites


def _composite(
    values: NDArray[Any], observed: NDArray[np.bool_], m: Modality, bands: tuple[str, ...], level: str | None
) -> Panel:
    label = "false colour" if bands == m.display.false_colour else "composite"
    indices = m.band_indices(bands)
    stored = values[indices].astype(np.float64)
    seen: NDArray[np.bool_] = np.logical_and.reduce(observed[indices], axis=0)
    if not seen.any():
        return _missing(label, m, bands, level)
    lows, span = _composite_scale(stored[:, seen], m, bands, level)
    scaled = np.clip((stored - lows[:, None, None]) / span, 0, 1) ** (1 / COMPOSITE_GAMMA)
    channels = tuple(
        (band, low * m.scale + m.offset, (low + span) * m.scale + m.offset)
        for band, low in zip(bands, lows.tolist(), strict=True)
    )
    return Panel(
        label=label,
        image=_with_missing(255 * np.moveaxis(scaled, 0, -1), seen),
        legend=CompositeKey(channels=channels, units=unit_text(m, bands[0])),
        note=_share_note(seen),
    )


def _composite_scale(
    values: NDArray[np.float64], m: Modality, bands: tuple[str, ...], level: str | None
) -> tuple[NDArray[np.float64], float]:
    """Choose the lower end of each channel, and the span that all share.

    All channels have the same lower end, so that grey stays grey. If the level includes atmospheric light, it is
    subtracted first: the dark end of a channel, unless a longer wavelength is darker there (vegetation is dark in red
    and blue, haze only in red).
    """
    lows, highs = np.array([stretch(band, m, name) for band, name in zip(values, bands, strict=True)]).T
    start = np.full(3, lows.min())
    if level in TOP_OF_ATMOSPHERE and m.display.range:
        haze = np.minimum.accumulate(lows[::-1])[::-1]
        start = np.minimum(haze, start + MOST_HAZE * (m.display.range[1] - m.display.range[0]))
    return start, float((highs - start).max())


# ---------------------------------------------------------------- classes and masks


def _coded(codes: NDArray[Any], seen: NDArray[np.bool_], m: Modality, band: str) -> Panel:
    """Classes in their colours; masks without classes by their range or their few values."""
    present, counts = np.unique(codes[seen], return_counts=True)
    if not m.classes and (m.display.range is not None or len(present) > MAX_AUTO_CLASSES):
        return _fixed_scale(codes, seen, m, band)
    known = {label.code: label for label in m.classes}
    palette = colour_table("tab20")
    image = np.zeros((*codes.shape, 3))
    keys = []
    for order, (code, count) in enumerate(zip(present.tolist(), counts.tolist(), strict=True)):
        label = known.get(code)
        spare = "#{:02x}{:02x}{:02x}".format(*palette[(order * 256) // MAX_AUTO_CLASSES % 256])
        colour = (label.colour or spare) if label else (UNKNOWN_COLOUR if known else spare)
        image[codes == code] = 255 * np.asarray(to_rgb(colour))
        name = label.name if label else f"{'unknown code' if known else 'value'} {code}"
        keys.append(ClassKey(name=name, colour=colour, share=count / int(counts.sum())))
    keys.sort(key=lambda key: -key.share)
    if len(keys) > MAX_CLASSES + 1:
        rest = keys[MAX_CLASSES:]
        more = ClassKey(name=f"{len(rest)} more", colour="", share=sum(key.share for key in rest))
        keys = [*keys[:MAX_CLASSES], more]
    return Panel(label=band, image=_with_missing(image, seen), legend=tuple(keys), note=_share_note(seen))


def _fixed_scale(codes: NDArray[Any], seen: NDArray[np.bool_], m: Modality, band: str) -> Panel:
    """Draw a mask that is a quantity (cloud probability) on the same scale in every tile."""
    low, high = m.display.range or (float(codes[seen].min()), float(codes[seen].max()))
    colours = colour_table(m.display.colormap)
    image = colours[_levels(codes.astype(np.float64), low, high)].astype(np.float64)
    bar = _colour_bar(m, band, low, high, colours)
    return Panel(label=band, image=_with_missing(image, seen), legend=bar, note=_share_note(seen))
