"""Selections of tiles: positions, and boolean masks over coordinates."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data.catalog.tile import LEAST_ID, as_integer, parse_tile_id
from mmearth_data.errors import InputError, UnknownPosition
from mmearth_data.words import closest, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import geopandas as gpd
    import pandas as pd
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.geography.regions import Region

TileName: TypeAlias = "str | int | np.integer[Any]"
Box: TypeAlias = "tuple[float, float, float, float]"
Place: TypeAlias = "str | Path | Region | BaseGeometry | gpd.GeoSeries | gpd.GeoDataFrame | Box"
Regions: TypeAlias = "Place | Sequence[Place] | NDArray[np.float64]"
Date: TypeAlias = "str | int | datetime.date | np.datetime64"
Dates: TypeAlias = "Date | tuple[Date | None, Date | None]"
Ids: TypeAlias = "TileName | Iterable[TileName]"
Mask: TypeAlias = "Sequence[bool] | NDArray[np.bool_] | pd.Series[bool]"
DATE_FORMS = "'2019', '2019-06', '2019-06-01' or a pair of them"
REGION_FORMS = (
    "a name, an ISO code, 'bbox:W,S,E,N', four numbers (W, S, E, N), a vector file, a shapely geometry, "
    "a GeoSeries or GeoDataFrame, or a list of them"
)
PERIOD = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


def positions_of(key: object, count: int) -> NDArray[np.intp]:
    """Positions (n,) of tiles, ascending, from a slice, positions or a mask of ``count`` booleans.

    Raises
    ------
    UnknownPosition
        If a position is outside 0 to count - 1.
    InputError
        If it is none of these, or the positions are not ascending, since a store keeps the order of its tiles.
    """
    if isinstance(key, slice):
        return _sliced(key, count)
    values = np.asarray([] if isinstance(key, tuple) or key is None else key)
    if values.ndim != 1 or isinstance(key, tuple | str | bytes) or key is None:
        raise InputError(
            f"Expected a position, a slice, a list of positions, a mask of {count} booleans, the id of a tile or the name of a "
            f"modality, got {shown(key)}."
        )
    if values.dtype == np.bool_:
        return np.flatnonzero(mask_of(key, count, "Expected"))
    if values.dtype.kind not in "iu" and len(values):
        raise InputError(
            f"Expected positions as integers, or a mask of {count} booleans, got {shown(key)}; "
            "for ids, use select(ids=...)."
        )
    return _ascending(values, count)


def _sliced(key: slice, count: int) -> NDArray[np.intp]:
    try:
        positions = np.arange(count)[key]
    except (TypeError, ValueError, IndexError):
        raise InputError(
            f"Expected a slice of positions such as store[0:4], got {shown(key)}; for dates, use select(date=...)."
        ) from None
    if key.step is not None and key.step < 0:
        raise _disordered(key)
    return positions


def _ascending(values: np.ndarray[Any, Any], count: int) -> NDArray[np.intp]:
    outside = (values < -count) | (values >= count) if values.dtype.kind == "i" else values >= count
    if outside.any():
        number = int(values[outside][0])
        ids = number >= LEAST_ID
        raise UnknownPosition(
            f"No tile is at position {number}; {'for ids, use select(ids=...).' if ids else valid_positions(count)}"
        )
    positions: NDArray[np.intp] = values.astype(np.intp)
    positions = np.where(positions < 0, positions + count, positions)
    if len(positions) > 1 and not (np.diff(positions) > 0).all():
        raise _disordered(values.tolist())
    return positions


def _disordered(key: object) -> InputError:
    return InputError(
        f"Expected ascending positions without duplicates, got {shown(key)}, but a store keeps the order of its tiles; "
        "sort the positions, or reorder the data with store.dataset.isel(tile=...)."
    )


def valid_positions(count: int) -> str:
    """End of an error message about a position that does not exist."""
    return f"positions are 0 to {count - 1}." if count else "there are no tiles."


def mask_of(mask: object, count: int, what: str = "where: expected") -> NDArray[np.bool_]:
    """Boolean mask (count,) from a list, an array, or a pandas Series with the index of `Store.tiles`.

    ``what`` is the beginning of the error message.

    Raises
    ------
    InputError
        If it is not a mask of ``count`` booleans.
    """
    values = np.asarray(_in_order(mask, count, what))
    if values.shape != (count,) or values.dtype != np.bool_:
        found = f"{values.shape} of {values.dtype.name}" if values.ndim else shown(mask)
        raise InputError(f"{what} a boolean array of {count} tiles, got {found}.")
    return values


def _in_order(mask: object, count: int, what: str) -> object:
    """Sort a pandas Series by its index, as pandas aligns masks; return other masks unchanged."""
    if isinstance(mask, np.ndarray | list):
        return mask
    import pandas as pd

    if not isinstance(mask, pd.Series) or mask.index.equals(pd.RangeIndex(count)):
        return mask
    ordered = mask.sort_index()
    if not ordered.index.equals(pd.RangeIndex(count)):
        raise InputError(
            f"{what} a Series with the index of store.tiles (0 to {count - 1}), got another index of "
            f"{len(mask)} values; pass its values (Series.to_numpy()) if they are in the order of the store."
        )
    return ordered


def among_ids(ids: Ids, tile_id: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mask (n,) of the tiles that have one of the given ids.

    Parameters
    ----------
    ids
        One id or several, as text of 16 hex digits or as numbers; each must be the id of a tile.
    tile_id
        (n,) ids of the tiles.

    Raises
    ------
    InputError
        If a value is not an id, or no tile has it.
    """
    wanted = parse_tile_ids(ids)
    mask: NDArray[np.bool_] = np.isin(tile_id, wanted)
    missing = wanted[~np.isin(wanted, tile_id)]
    if len(missing):
        raise InputError(
            f"ids: expected ids of the {len(tile_id)} tiles to select from, got {len(missing)} of others, the first is "
            f"{int(missing[0]):016x}."
        )
    return mask


def parse_tile_ids(ids: Ids) -> NDArray[np.uint64]:
    """Numbers (n,) of one tile id or several, in either form; InputError if a value is not an id."""
    one = isinstance(ids, str) or as_integer(ids) is not None
    several: list[Any] = [ids] if one else listed("ids", "tile ids", ids)
    numbers = np.empty(len(several), dtype=np.uint64)
    for k, name in enumerate(several):
        try:
            numbers[k] = parse_tile_id(name)
        except InputError:
            raise InputError(
                f"ids: expected tile ids of 16 hex digits, or their numbers, got {shown(name)}; "
                "to read ids from a file, use mmearth_data.read_ids."
            ) from None
    return numbers


def listed(what: str, expected: str, values: object) -> list[Any]:
    """List of several values; InputError if they are not iterable, or are a mapping, whose values would be lost."""
    if isinstance(values, Mapping):
        raise InputError(f"{what}: expected {expected}, got {shown(values)}.")
    try:
        # Arrays of xarray would give arrays.
        return list(values.to_numpy() if hasattr(values, "to_numpy") else values)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{what}: expected {expected}, got {shown(values)}.") from None


def distinct_names(names: Mapping[int, str]) -> dict[int, str]:
    """Code -> name of each class; names that several classes share get their code in brackets."""
    shared = Counter(names.values())
    return {code: name if shared[name] == 1 else f"{name} [{code}]" for code, name in names.items()}


def label_codes(what: str, labels: object, names: Mapping[int, str]) -> list[int]:
    """Codes of labels, each given by its code, its name or its distinct name; a name that classes share means all of them.

    Raises
    ------
    InputError
        If a label is unknown.
    """
    single = isinstance(labels, str) or as_integer(labels) is not None
    given = [labels] if single else listed(what, "names or codes", labels)
    distinct = distinct_names(names)
    found = [
        [code for code, name in names.items() if one in (name, distinct[code])]
        if isinstance(one, str)
        else [code for code in [as_integer(one)] if code in names]
        for one in given
    ]
    unknown = [one for one, codes in zip(given, found, strict=True) if not codes]
    if unknown:
        known = [" ".join(name.split()) for name in distinct.values()]
        close = closest(unknown[0], known) if isinstance(unknown[0], str) else []
        hint = f"; did you mean {close[0]!r}?" if close else "."
        expected = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
        raise InputError(
            f"{what}: expected {expected}, got {', '.join(' '.join(str(one).split()) for one in unknown)}{hint}"
        )
    return [code for codes in found for code in codes if code is not None]


def inside(region: Regions, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of locations inside a region or on its border.

    Parameters
    ----------
    region
        Name, ISO code, ``bbox:W,S,E,N`` or vector file (see `resolve_region`), a `Region`, a shapely geometry in degrees,
        four numbers (west, south, east, north in degrees; west > east crosses 180), a GeoSeries or GeoDataFrame with
        polygons in any CRS, or a list of these, whose union counts.
    lon, lat
        (n,) degrees.

    Raises
    ------
    InputError
        If the region is unknown or of another type, or no tile has a location.
    """
    import shapely

    within = np.zeros(len(lon), dtype=bool)
    geometries = _geometries(region)
    if len(lon) and np.isnan(lon).all() and all(geometry is not None for geometry in geometries):
        raise InputError(f"region: expected tiles with a location, got {len(lon)} without; leave it out.")
    for geometry in geometries:
        if geometry is None:
            return np.ones(len(lon), dtype=bool)
        shapely.prepare(geometry)
        within |= shapely.intersects_xy(geometry, lon, lat)
    return within


def _geometries(region: Any) -> list[Any]:  # noqa: ANN401 - any argument of a caller
    """Geometries in degrees; None is the whole Earth."""
    import shapely

    from mmearth_data.geography.regions import Region, frame_region, parse_bbox, resolve_region, wrapped

    if isinstance(region, str | Path):
        return [resolve_region(str(region)).geometry]
    if isinstance(region, Region):
        return [region.geometry]
    if isinstance(region, shapely.Geometry):
        west, _, east, _ = shapely.bounds(region)
        beyond = west < -180 or east > 180
        return [wrapped(region) if beyond and isinstance(region, shapely.Polygon | shapely.MultiPolygon) else region]
    box = four_numbers(region)
    if box:
        return [parse_bbox(box)]
    found = frame_region(region)
    if found is not None:
        return [found.geometry]
    several = isinstance(region, list | tuple | set | frozenset | np.ndarray) and len(region) > 0
    if not several or all(map(_is_number, region)):
        raise InputError(f"region: expected {REGION_FORMS}, got {shown(region)}.")
    return [geometry for one in region for geometry in _geometries(one)]


def four_numbers(region: Any) -> str:  # noqa: ANN401 - any argument of a caller
    """Text ``W,S,E,N`` of a box; empty if it is not one."""
    if not isinstance(region, list | tuple | np.ndarray) or len(region) != 4:
        return ""
    return ",".join(f"{float(value):.15g}" for value in region) if all(map(_is_number, region)) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def within_dates(dates: Dates, time: np.ndarray[Any, Any]) -> NDArray[np.bool_]:
    """Mask of the times in a period; unknown times are never in it.

    Parameters
    ----------
    dates
        A year, month or day (text, a year as a number, or a date), or a pair of them: the period from the beginning of
        the first to the end of the last. None in a pair is no limit.
    time
        (n,) datetime64, UTC.

    Raises
    ------
    InputError
        If the value is not a period.

    Examples
    --------
    >>> within_dates("2019-06", np.array(["2019-05-31", "2019-06-30"], dtype="datetime64[ms]")).tolist()
    [False, True]
    """
    single = isinstance(dates, str | datetime.date | np.datetime64) or as_integer(dates) is not None
    first, last = _pair((dates, dates) if single else dates)
    keep: NDArray[np.bool_] = ~np.isnat(time)
    if first is not None:
        keep &= time >= _period(first)
    if last is not None:
        keep &= time < _end(_period(last))
    if first is not None and last is not None and _period(first) > _period(last):
        raise InputError(f"date: expected the first date not to be after the last one, got {first} and {last}.")
    return keep


def _day(date: datetime.date | np.datetime64) -> str:
    """Text of a day, or of a month or a year if that is the unit of a NumPy date.

    Times with a time zone are converted to UTC; times of day other than midnight are refused: periods are whole days.
    """
    if str(date) == "NaT" or (isinstance(date, np.datetime64) and np.datetime_data(date.dtype)[0] in "YMD"):
        return str(date)
    if isinstance(date, datetime.datetime) and date.tzinfo is not None:
        date = date.astimezone(datetime.UTC).replace(tzinfo=None)
    moment = np.datetime64(date, "us") if isinstance(date, datetime.date) else date.astype("datetime64[us]")
    if moment != moment.astype("datetime64[D]"):
        raise InputError(
            f"date: expected a whole day (UTC), got {moment.astype('datetime64[s]')}; leave out the time of day, or select by it with where=."
        )
    return str(moment.astype("datetime64[D]"))


def _end(period: np.datetime64) -> np.datetime64:
    """Beginning of the next year, month or day."""
    unit, _ = np.datetime_data(period.dtype)
    return period + np.timedelta64(1, unit)  # type: ignore[call-overload, no-any-return]


def _pair(dates: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any argument of a caller
    try:
        first, last = dates
    except (TypeError, ValueError) as error:
        raise InputError(f"date: expected {DATE_FORMS}, got {shown(dates)}.") from error
    return first, last


def _period(date: Date) -> np.datetime64:
    """Year, month or day in its own unit, so that adding 1 gives the next one."""
    year = as_integer(date)
    text = _day(date) if isinstance(date, datetime.date | np.datetime64) else date if year is None else str(year)
    if isinstance(text, str) and PERIOD.fullmatch(text):
        with suppress(ValueError):
            return np.datetime64(text)
    raise InputError(f"date: expected {DATE_FORMS}, got {shown(date)}.")
