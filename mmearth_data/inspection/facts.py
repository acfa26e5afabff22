"""Text and numbers of a tile's figure, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import PRESENT, Kind
from mmearth_data.catalog.tile import LEVEL_NAMES, PIXEL_M
from mmearth_data.inspection.panels import factor_bands

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

SPLIT_NAMES = {0: "train", 1: "val", 2: "test"}
NOT_OBSERVED = "not observed"
NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactTable:
    """A small table whose rows begin with their name."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    """Cells: the name, and one per column."""
    columns: tuple[str, ...] = ()
    """Heads of the columns after the first; empty if there is only one."""
    colours: tuple[str | None, ...] = ()
    """Colour of each row's swatch, or None."""


def level_name(coordinates: Mapping[str, Any]) -> str | None:
    """Product level of a tile's scene, None if it has none."""
    return LEVEL_NAMES.get(int(coordinates["s2_level"]))


def format_lonlat(lon: float, lat: float, decimals: int = 4) -> str:
    """Format coordinates, latitude first.

    Examples
    --------
    >>> format_lonlat(-61.5, -3.25)
    '3.2500° S, 61.5000° W'
    """
    if not (np.isfinite(lon) and np.isfinite(lat)):
        return "location not known"
    return f"{abs(lat):.{decimals}f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.{decimals}f}° {'E' if lon >= 0 else 'W'}"


def format_extent(bounds: tuple[float, float, float, float]) -> str:
    """Format west, south, east and north in degrees: two corners, and whether the area crosses 180 degrees.

    Examples
    --------
    >>> format_extent((178.0, 62.0, -178.0, 68.0))
    '62.0° N, 178.0° E to 68.0° N, 178.0° W, across 180°'
    """
    west, south, east, north = bounds
    across = ", across 180°" if west > east else ""
    return f"{format_lonlat(west, south, 1)} to {format_lonlat(east, north, 1)}{across}"


def format_time(time: Any) -> str:  # noqa: ANN401 - a datetime64, or milliseconds since 1970
    """UTC date and minute of a scene, or "date not known"."""
    moment = np.asarray(time).astype("datetime64[ms]")
    return "date not known" if np.isnat(moment) else str(moment.astype("datetime64[m]")).replace("T", " ") + " UTC"


def format_number(value: float) -> str:
    """Format a value with about four significant digits."""
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else NOTHING
    decimals = int(np.clip(3 - np.floor(np.log10(abs(value))), 0, 4))
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text and decimals > 1 else text).replace("-", MINUS)


def format_ends(low: float, high: float) -> tuple[str, str]:
    """Both ends of a scale, with enough decimals to resolve a hundredth of it.

    Examples
    --------
    >>> format_ends(0.0099, 0.4516), format_ends(12.0, 1031.0)
    (('0.01', '0.45'), ('12', '1,031'))
    """
    decimals = max(0, 1 - math.floor(math.log10(high - low)))
    texts = [f"{value:,.{decimals}f}" for value in (low, high)]
    bare = ["0" if float(text.replace(",", "")) == 0 else text.replace("-", MINUS) for text in texts]
    return bare[0], bare[1]


def plan_facts(tile: Mapping[str, Any], modalities: Iterable[Modality]) -> tuple[FactTable, ...]:
    """Tables of what is not an image of a tile: scene and grid, labels, one table per tile-level quantity.

    ``tile`` maps modality names to arrays as stored, and ``tile`` to its coordinates. Derived modalities are left out;
    the coordinates from which they are computed are shown.
    """
    present = [m for m in modalities if m.stored and m.name in tile]
    labels = [m for m in present if m.kind in (Kind.TILE_CATEGORICAL, Kind.TILE_MULTI_LABEL)]
    quantities = [m for m in present if m.kind is Kind.TILE_CONTINUOUS]
    tables = [_scene(tile["tile"])]
    if labels:
        tables.append(_labels([(m, tile[m.name]) for m in labels]))
    tables += [_quantities(m, np.asarray(tile[m.name])) for m in quantities]
    return tuple(tables)


def _scene(coordinates: Mapping[str, Any]) -> FactTable:
    rows = [
        ("centre", format_lonlat(float(coordinates["lon"]), float(coordinates["lat"]), 6)),
        ("scene", format_time(coordinates["time"])),
        ("level", level_name(coordinates) or NOTHING),
        ("split", SPLIT_NAMES.get(int(coordinates["split"]), "none")),
    ]
    if coordinates.get("epsg"):
        rows.append(("grid", f"EPSG:{int(coordinates['epsg'])}, {PIXEL_M} m"))
    if np.isfinite(float(coordinates.get("ulx", np.nan))):
        rows.append(("corner", f"{float(coordinates['ulx']):,.0f} E, {float(coordinates['uly']):,.0f} N"))
    for name, text in (("s1_asc_days", "S1 ascending"), ("s1_desc_days", "S1 descending")):
        days = float(coordinates.get(name, np.nan))
        if np.isfinite(days):
            rows.append((text, f"{days:+.1f} days".replace("-", MINUS)))
    return FactTable(title="Scene and grid", rows=tuple(rows))


def _labels(labelled: Sequence[tuple[Modality, Any]]) -> FactTable:
    rows: list[tuple[str, str]] = []
    colours: list[str | None] = []
    for m, code in labelled:
        if m.kind.is_multi_label:
            rows.append((m.long_name, _present(m, np.asarray(code))))
            colours.append(None)
            continue
        known = next((label for label in m.classes if label.code == int(code)), None)
        missing = not bool(m.observed(np.asarray(code)))
        rows.append((m.long_name, NOT_OBSERVED if missing else known.name if known else f"unknown code {int(code)}"))
        colours.append(known.colour if known else None)
    return FactTable(title="Labels", rows=tuple(rows), colours=tuple(colours))


def _present(m: Modality, values: NDArray[Any]) -> str:
    """Names of the classes that are present."""
    if not m.observed(values).any():
        return NOT_OBSERVED
    return ", ".join(m.bands[position] for position in np.flatnonzero(values == PRESENT)) or "none"


def _quantities(m: Modality, values: NDArray[Any]) -> FactTable:
    """One cell per band; band names that are all combinations of two parts become rows and columns."""
    seen = m.observed(values)
    cells = {
        band: format_number(float(value) * m.scale + m.offset) if ok else NOTHING
        for band, value, ok in zip(m.bands, values, seen, strict=True)
    }
    factors = factor_bands(m.bands)
    if not seen.any():
        return FactTable(title=m.long_name, rows=((NOT_OBSERVED,),))
    if factors is None:
        pairs = tuple((band.replace("_", " "), with_unit(cells[band], m.units_of(band))) for band in m.bands)
        return FactTable(title=m.long_name, rows=pairs)
    names, columns = factors
    units = [{m.units_of(f"{name}_{column}") for name in names} for column in columns]
    heads = tuple(
        with_unit(column.replace("_", " "), next(iter(unit)), brackets=True) if len(unit) == 1 else column
        for column, unit in zip(columns, units, strict=True)
    )
    rows = tuple((name.replace("_", " "), *(cells[f"{name}_{column}"] for column in columns)) for name in names)
    return FactTable(title=m.long_name, rows=rows, columns=heads)


def with_unit(text: str, unit: str, *, brackets: bool = False) -> str:
    """Append a unit, unless the number has none."""
    if unit in {"", "1"}:
        return text
    return f"{text} ({unit})" if brackets else f"{text} {unit}"
