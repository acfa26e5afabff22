"""Convert one tile's entry of ``tile_info`` to columns and back.

Values for which the store has a column go to that column. Everything that the columns could not reproduce exactly is
kept in the tile's facts (`TILE_INFO`), so that an export repeats the imported entry unchanged.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import PRESENT
from mmearth_data.catalog.tile import (
    LEVEL_NAMES,
    LEVEL_NONE,
    NO_TIME,
    as_datetime64_ms,
    format_tile_id,
    round_lonlat,
)
from mmearth_data.errors import InputError
from mmearth_data.store.schema import GIVEN_COORDINATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.interchange.form import PublishedForm
    from mmearth_data.store.schema import StoreLayout

Entry = dict[str, Any]
PUBLISHED_ID = "mmearth_id"
TILE_INFO, WITHOUT, TABLES = "tile_info", "tile_info_without", "tables"
OURS = (PUBLISHED_ID, TILE_INFO, WITHOUT, TABLES)
"""Keys of a tile's facts that import and export use."""
DATE, LEVEL, CRS, BANDS = "S2_DATE", "S2_type", "CRS", "BANDS"
LABELS = "labels"
"""Key of an entry: values of the whole tile for which the published form has no array."""
DAY_MS = 86_400_000
NUMBER = "non_finite"
"""Marks a number that JSON does not allow but Python's JSON writer produces (NaN, infinities)."""
_UNKNOWN = object()


SCENE = np.dtype([(c.name, c.dtype) for c in GIVEN_COORDINATES if c.name not in ("tile_id", "split")])
"""Location and time of an entry, as in the store; NaN, `NO_TIME` or 0 if unknown."""


def read_scene(form: PublishedForm, entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Location and time of an entry, in the order of `SCENE`.

    Raises
    ------
    InputError
        If it has no location, or impossible values.
    """
    lon, lat = (_number(entry.get(name)) for name in ("lon", "lat"))
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        raise InputError(f"expected lat and lon in degrees, got {entry.get('lat')!r} and {entry.get('lon')!r}")
    ulx, uly = (_number(entry.get(name)) for name in ("ulx", "uly"))
    if not (math.isfinite(ulx) and math.isfinite(uly)):
        ulx = uly = math.nan
    words = {word: level for level, word in form.levels.items()}
    levels = {name: code for code, name in LEVEL_NAMES.items()}
    lon, lat = round_lonlat([lon, lat]).tolist()
    scene = {
        "lon": lon,
        "lat": lat,
        "epsg": _epsg(entry.get(CRS)),
        "ulx": ulx,
        "uly": uly,
        "time": _time(entry),
        "s2_level": levels.get(words.get(str(entry.get(LEVEL)), ""), LEVEL_NONE),
        "s1_asc_days": _number(entry.get("s1_asc_days")),
        "s1_desc_days": _number(entry.get("s1_desc_days")),
    }
    return tuple(scene[name] for name in SCENE.names or ())


def _number(value: Any) -> float:  # noqa: ANN401 - whatever JSON holds
    """Return a finite number, NaN for everything else."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else math.nan


def _epsg(crs: Any) -> int:  # noqa: ANN401 - whatever JSON holds
    found = re.fullmatch(r"(?:EPSG:)?(\d{4,6})", str(crs), re.IGNORECASE)
    return int(found[1]) if found else 0


def _time(entry: Mapping[str, Any]) -> int:
    """Return the exact time if an export added it; otherwise midnight of the date, all that the published format has."""
    day, exact = _milliseconds(entry.get(DATE)), _milliseconds(entry.get("time"))
    return exact if day == NO_TIME or (exact != NO_TIME and exact // DAY_MS == day // DAY_MS) else day


def _milliseconds(text: Any) -> int:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(text, str):
        return NO_TIME
    try:
        return int(np.datetime64(text.removesuffix("Z"), "ms").astype(np.int64))
    except ValueError:
        return NO_TIME


def make_entry(form: PublishedForm, layout: StoreLayout, tile: Mapping[str, Any], facts: Mapping[str, Any]) -> Entry:
    """Entry of a tile from its coordinates and tile modalities, and its facts without those of import and export."""
    entry: Entry = {}
    if int(tile["time"]) != NO_TIME:
        moment = as_datetime64_ms(tile["time"])
        entry[DATE] = str(moment.astype("datetime64[D]"))
        if int(tile["time"]) % DAY_MS:
            entry["time"] = f"{moment}Z"
    if int(tile["s2_level"]) in LEVEL_NAMES:
        entry[LEVEL] = form.levels[LEVEL_NAMES[int(tile["s2_level"])]]
    if int(tile["epsg"]):
        entry[CRS] = f"EPSG:{int(tile['epsg'])}"
    entry["lat"], entry["lon"] = float(tile["lat"]), float(tile["lon"])
    for name in ("ulx", "uly", "s1_asc_days", "s1_desc_days"):
        if math.isfinite(tile[name]):
            entry[name] = float(tile[name])
    entry["tile_id"] = format_tile_id(int(tile["tile_id"]))
    entry |= _tables(form, layout, tile)
    if labels := _labels(form, layout, tile):
        entry[LABELS] = labels
    if facts:
        entry["facts"] = dict(facts)
    return entry


def _tables(form: PublishedForm, layout: StoreLayout, tile: Mapping[str, Any]) -> Entry:
    """Class ids and quantities of the whole tile, in the form of an entry."""
    entry: Entry = {}
    modalities = {m.name: m for m in layout.tabular}
    for array in form.arrays:
        m = modalities.get(array.modality)
        if m is None:
            continue
        if m.kind.is_categorical:
            if m.observed(np.asarray(tile[m.name])):
                entry[array.name] = int(tile[m.name])
        elif array.groups:
            numbers = dict(zip(m.bands, np.asarray(tile[m.name]).tolist(), strict=True))
            entry[array.name] = {
                key: [_or_none(numbers.get(b, math.nan)) for b in bands] for key, bands in array.groups.items()
            }
    return entry


def _labels(form: PublishedForm, layout: StoreLayout, tile: Mapping[str, Any]) -> Entry:
    """Observed values of modalities that the format lacks: a number or several, the name of a class, or of all present."""
    known = {array.modality for array in form.arrays}
    found: Entry = {}
    for m in layout.tabular:
        values = np.asarray(tile[m.name])
        if m.name in known or not m.observed(values).any():
            continue
        if m.kind.is_multi_label:
            found[m.name] = [m.bands[k] for k in np.flatnonzero(values == PRESENT)]
        elif m.kind.is_categorical:
            found[m.name] = m.classes[m.class_code_index()[values]].name
        else:
            numbers = [_or_none(number * m.scale + m.offset) for number in values.tolist()]
            found[m.name] = numbers[0] if len(numbers) == 1 else dict(zip(m.bands, numbers, strict=True))
    return found


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None


def facts_of(
    form: PublishedForm, layout: StoreLayout, tile: Mapping[str, Any], published_id: str, entry: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts from which, together with the columns of a tile (as they will be stored), its entry can be restored."""
    given = entry.get("facts")
    facts = {key: value for key, value in given.items() if key not in OURS} if isinstance(given, dict) else {}
    # The observed bands can only be found from pixels, so the entry's own list of them is kept unchanged.
    rebuilt = {**make_entry(form, layout, tile, facts), BANDS: _UNKNOWN}
    rest = {key: value for key, value in entry.items() if not _same(value, rebuilt.get(key, _UNKNOWN))}
    without = sorted(key for key in rebuilt if key not in entry)
    facts[PUBLISHED_ID] = published_id
    if rest:
        facts[TILE_INFO] = plain(rest)
    if without:
        facts[WITHOUT] = without
    return facts


def entry_of(
    form: PublishedForm,
    layout: StoreLayout,
    tile: Mapping[str, Any],
    facts: Mapping[str, Any],
    observed: Mapping[str, list[str]],
) -> Entry:
    """Entry of a stored tile, inverse of `facts_of`; ``observed`` has the bands with any value, by array."""
    own = {key: value for key, value in facts.items() if key not in OURS}
    entry = {**make_entry(form, layout, tile, own), BANDS: form.bands_of_tile(observed)}
    for key in facts.get(WITHOUT, ()):
        entry.pop(key, None)
    entry.update(restored(facts.get(TILE_INFO, {})))
    return entry


def _same(left: Any, right: Any) -> bool:  # noqa: ANN401 - nested JSON
    """Compare values and types: 1 differs from 1.0, and NaN equals NaN."""
    return right is not _UNKNOWN and json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def plain(value: Any) -> Any:  # noqa: ANN401 - nested JSON
    """Encode non-finite numbers, which published files contain and strict JSON forbids."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {NUMBER: str(value)}
    return value


def restored(value: Any) -> Any:  # noqa: ANN401 - nested JSON
    """Inverse of `plain`."""
    if isinstance(value, dict):
        if value.keys() == {NUMBER}:
            return float(value[NUMBER])
        return {key: restored(item) for key, item in value.items()}
    return [restored(item) for item in value] if isinstance(value, list) else value


def unique_names(tile_id: Sequence[int], time: Sequence[int], given: Sequence[str | None]) -> list[str]:
    """Names of tiles in an export: the published id, else the tile id; with the time if a name would occur twice."""
    plain_names = [g or format_tile_id(t) for g, t in zip(given, tile_id, strict=True)]
    if len(set(plain_names)) == len(plain_names):
        return plain_names
    seen: dict[str, int] = {}
    for name in plain_names:
        seen[name] = seen.get(name, 0) + 1
    stamps = [str(as_datetime64_ms(t)).replace(":", "") for t in time]
    return [
        name if seen[name] == 1 else f"{name}_{stamp}" if g is None else f"{name}_{format_tile_id(i)}_{stamp}"
        for name, g, i, stamp in zip(plain_names, given, tile_id, stamps, strict=True)
    ]
