"""Checks of all data of a shard before any of it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import ABSENT, PRESENT
from mmearth_data.catalog.tile import LEVEL_NAMES, LEVEL_NONE, format_tile_id, is_content_id
from mmearth_data.errors import InputError
from mmearth_data.store.index import REJECTED_FIELDS, check_crs
from mmearth_data.store.moments import count_codes
from mmearth_data.store.schema import GIVEN_COORDINATES, SPLIT_NAMES, SPLIT_NONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.schema import StoreLayout

Columns = dict[str, np.ndarray[Any, Any]]
LOOKS = 61
"""Approximate number of values per tile that `seen_tiles` tests first."""


def check_columns(layout: StoreLayout, count: int, columns: Mapping[str, Any]) -> tuple[Columns, list[str]]:
    """Coordinates and tile modalities in their stored types, and the facts.

    Raises
    ------
    InputError
        With the column, what was expected and what was found.
    """
    expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        c.name: ((count,), c.dtype) for c in GIVEN_COORDINATES
    }
    expected |= {m.name: ((count, *m.array_shape(layout.size_px)), m.dtype) for m in layout.tabular}
    _check_names("column", set(columns), {*expected, "facts"})
    checked = {name: _stored_type(name, columns[name], shape, dtype) for name, (shape, dtype) in expected.items()}
    check_coordinates(checked)
    for m in layout.tabular:
        check_values(m, checked[m.name])
    return checked, _check_facts(columns["facts"], count)


def check_rasters(
    layout: StoreLayout, tile_ids: NDArray[np.uint64], rasters: Mapping[str, np.ndarray[Any, Any] | None]
) -> None:
    """Refuse rasters with a wrong shape or type, impossible values, and pixels in empty rows.

    None means a raster that no tile has.

    Raises
    ------
    InputError
        With the array, what was expected and what was found.
    """
    _check_names("raster", set(rasters), {m.name for m in layout.rasters})
    empty = np.flatnonzero(tile_ids == 0)
    for m in layout.rasters:
        values = rasters[m.name]
        if values is None:
            continue
        shape = (len(tile_ids), *m.array_shape(layout.size_px))
        if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype != m.dtype:
            raise InputError(f"{m.name}: expected an array {shape} of {m.dtype.name}, got {_describe(values)}.")
        check_values(m, values)
        if empty.size and m.observed(values[empty]).any():
            raise InputError(f"{m.name}: expected no data in rows without a tile (tile_id 0), got values there.")


def check_values(m: Modality, values: np.ndarray[Any, Any]) -> None:
    """Refuse infinities, and class codes that the catalog lacks.

    Raises
    ------
    InputError
        With the modality.
    """
    if m.dtype.kind == "f" and any(np.isinf(tile).any() for tile in values):
        raise InputError(f"{m.name}: expected finite values or NaN, got infinities; mark them as missing.")
    unknown = unknown_codes(m, values)
    if unknown:
        raise InputError(
            f"{m.name}: expected the class codes of its catalog entry, got {', '.join(map(str, unknown))}; "
            "map them to known codes, or add them to the catalog."
        )


def unknown_codes(m: Modality, values: np.ndarray[Any, Any]) -> list[int]:
    """Codes of a categorical modality that none of its classes has."""
    if not (m.kind.is_categorical or m.kind.is_multi_label):
        return []
    codes, _ = count_codes(values)
    known = {ABSENT, PRESENT} if m.kind.is_multi_label else {label.code for label in m.classes}
    return [code for code in codes[m.observed(codes)].tolist() if code not in known]


def seen_tiles(m: Modality, values: np.ndarray[Any, Any]) -> NDArray[np.bool_]:
    """(n,) True where a tile has at least one observed value of the modality, given its values (n, ...)."""
    flat = values.reshape(len(values), -1)
    # A few values per tile decide nearly all tiles; only the others are tested completely.
    seen: NDArray[np.bool_] = np.any(m.observed(flat[:, :: max(1, flat.shape[1] // LOOKS)]), axis=1)
    for k in np.flatnonzero(~seen):
        seen[k] = m.observed(flat[k]).any()
    return seen


def valid_bits(seen: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint32]:
    """(n,) with bit k set if a tile has a value of the k-th stored modality, given `seen_tiles` of all of them."""
    bits = np.zeros(len(seen[0]), dtype=np.uint32)
    for k, tiles in enumerate(seen):
        bits |= tiles.astype(np.uint32) << np.uint32(k)
    return bits


def moved_bits(bits: NDArray[np.uint32], theirs: Sequence[Modality], ours: Sequence[Modality]) -> NDArray[np.uint32]:
    """Reorder the bits of ``valid`` to the modalities ``ours``, all of which must be among ``theirs``."""
    names = [m.name for m in theirs]
    moved = np.zeros_like(bits)
    for k, m in enumerate(ours):
        moved |= ((bits >> np.uint32(names.index(m.name))) & np.uint32(1)) << np.uint32(k)
    return moved


def check_rejected(rejected: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rejected candidates in the form of a commit: JSON-ready, with the tile id in hex, and None for unknown degrees.

    Raises
    ------
    InputError
        If a row lacks a field or has an unknown one.
    """
    rows = []
    for entry in rejected:
        _check_names("field of rejected", set(entry), set(REJECTED_FIELDS))
        slot = entry["slot"]
        known = np.isfinite(entry["lon"]) and np.isfinite(entry["lat"])
        if not known and not is_content_id(int(entry["tile_id"])):
            raise InputError(f"rejected: expected a location, got lon {entry['lon']} and lat {entry['lat']}.")
        rows.append(
            {
                "tile_id": format_tile_id(int(entry["tile_id"])),
                "lon": float(entry["lon"]) if known else None,
                "lat": float(entry["lat"]) if known else None,
                "reason": str(entry["reason"]),
                "detail": str(entry["detail"]),
                "slot": None if slot is None else int(slot),
            }
        )
    return rows


def _check_names(what: str, got: set[str], expected: set[str]) -> None:
    if got != expected:
        missing, extra = sorted(expected - got), sorted(got - expected)
        parts = ([f"missing {', '.join(missing)}"] if missing else []) + (
            [f"unknown {', '.join(extra)}"] if extra else []
        )
        raise InputError(f"Expected one {what} per name of the layout, got {'; '.join(parts)}.")


def _stored_type(name: str, values: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:  # noqa: ANN401
    """Convert a column to its stored type, only if no value changes."""
    array = np.asarray(values)
    if array.shape != shape or array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and dtype.kind != "f"):
        raise InputError(f"{name}: expected an array {shape} of {dtype.name}, got {_describe(values)}.")
    if dtype.kind != "f" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InputError(f"{name}: expected numbers that fit {dtype.name}, got {array.min()} to {array.max()}.")
    return array.astype(dtype)


def check_coordinates(columns: Columns) -> None:
    """Refuse impossible coordinates in rows with a tile.

    Imported data may lack the corner of a tile: then both ``ulx`` and ``uly`` are NaN, and ``epsg`` may be 0. A tile
    whose id was made from its content may lack its location too: then both ``lon`` and ``lat`` are NaN.

    Raises
    ------
    InputError
        With the coordinate and a value.
    """
    tiles = columns["tile_id"] != 0
    cornerless = np.isnan(columns["ulx"]) & np.isnan(columns["uly"])
    nowhere = np.isnan(columns["lon"]) & np.isnan(columns["lat"]) & is_content_id(columns["tile_id"])
    known = {
        "lon": (np.abs(columns["lon"]) <= 180) | nowhere,
        "lat": (np.abs(columns["lat"]) <= 90) | nowhere,
        "ulx": np.isfinite(columns["ulx"]) | cornerless,
        "uly": np.isfinite(columns["uly"]) | cornerless,
        "s2_level": np.isin(columns["s2_level"], [*LEVEL_NAMES, LEVEL_NONE]),
        "split": np.isin(columns["split"], [*SPLIT_NAMES, SPLIT_NONE]),
        "s1_asc_days": ~np.isinf(columns["s1_asc_days"]),
        "s1_desc_days": ~np.isinf(columns["s1_desc_days"]),
    }
    for name, right in known.items():
        wrong = np.flatnonzero(tiles & ~right)
        if wrong.size:
            raise InputError(
                f"{name}: expected a possible value in every row with a tile, got {columns[name][wrong[0]]}."
            )
    for epsg in np.unique(columns["epsg"][tiles & ~(cornerless & (columns["epsg"] == 0))]).tolist():
        check_crs(epsg)
    order = np.lexsort((columns["time"][tiles], columns["tile_id"][tiles]))
    ids, times = columns["tile_id"][tiles][order], columns["time"][tiles][order]
    if ((ids[1:] == ids[:-1]) & (times[1:] == times[:-1])).any():
        raise InputError("tile_id: expected rows that differ in (tile_id, time), got one twice.")


def _check_facts(facts: Any, count: int) -> list[str]:  # noqa: ANN401 - whatever came
    given = list(facts)
    if len(given) != count or not all(isinstance(entry, str | Mapping) for entry in given):
        raise InputError(f"facts: expected {count} JSON texts or mappings, got {_describe(facts)}.")
    return [_fact_text(entry) for entry in given]


def _fact_text(entry: str | Mapping[str, Any]) -> str:
    try:
        if isinstance(entry, str):
            STRICT_JSON.decode(entry)
            return entry
        return FACTS.encode(dict(entry))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"facts: expected JSON texts or mappings that JSON can represent, got {str(entry)[:80]!r} ({error})."
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


FACTS = json.JSONEncoder(sort_keys=True, allow_nan=False)
STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def _describe(values: Any) -> str:  # noqa: ANN401 - whatever came
    if isinstance(values, np.ndarray):
        return f"{values.shape} of {values.dtype.name}"
    return f"{len(values)} values in a {type(values).__name__}" if hasattr(values, "__len__") else type(values).__name__
