"""Selections of tiles, as boolean masks over coordinates."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.geography.regions import Region

Regions: TypeAlias = "str | Region | BaseGeometry"
Dates: TypeAlias = "str | tuple[str | None, str | None]"
DATE_FORMS = "'2019', '2019-06', '2019-06-01' or a pair of them"
PERIOD = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


def inside(region: Regions, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of locations inside a region or on its border.

    Parameters
    ----------
    region
        Name, ISO code, ``bbox:W,S,E,N`` or vector file (see `resolve_region`), a `Region`, or a shapely geometry in
        degrees.
    lon, lat
        (n,) degrees.

    Raises
    ------
    InputError
        When there is no such region.
    """
    import shapely

    from mmearth_data.geography.regions import resolve_region

    resolved = resolve_region(region) if isinstance(region, str) else region
    geometry = resolved if isinstance(resolved, shapely.Geometry) else resolved.geometry
    if geometry is None:
        return np.ones(len(lon), dtype=bool)
    shapely.prepare(geometry)
    within: NDArray[np.bool_] = shapely.intersects_xy(geometry, lon, lat)
    return within


def within_dates(dates: Dates, time: np.ndarray[Any, Any]) -> NDArray[np.bool_]:
    """Mask of times in a period; an unknown time is in none.

    Parameters
    ----------
    dates
        A year, month or day, or a pair of them: from the beginning of the first to the end of the last, None for no
        limit.
    time
        (n,) datetime64, UTC.

    Raises
    ------
    InputError
        If it is not a period.

    Examples
    --------
    >>> within_dates("2019-06", np.array(["2019-05-31", "2019-06-30"], dtype="datetime64[ms]")).tolist()
    [False, True]
    """
    first, last = (dates, dates) if isinstance(dates, str) else _pair(dates)
    keep: NDArray[np.bool_] = ~np.isnat(time)
    if first is not None:
        keep &= time >= _period(first)
    if last is not None:
        keep &= time < _end(_period(last))
    if first is not None and last is not None and _period(first) > _period(last):
        raise InputError(f"date: expected a first date before the last one, got {first} and {last}.")
    return keep


def _end(period: np.datetime64) -> np.datetime64:
    """Beginning of the next year, month or day."""
    unit, _ = np.datetime_data(period.dtype)
    return period + np.timedelta64(1, unit)  # type: ignore[call-overload, no-any-return]


def _pair(dates: Any) -> tuple[str | None, str | None]:  # noqa: ANN401 - whatever came
    try:
        first, last = dates
    except (TypeError, ValueError) as error:
        raise InputError(f"date: expected {DATE_FORMS}, got {dates!r}.") from error
    return first, last


def _period(text: str) -> np.datetime64:
    """Year, month or day in its own unit, so that adding 1 gives the next one."""
    if isinstance(text, str) and PERIOD.fullmatch(text):
        with suppress(ValueError):
            return np.datetime64(text)
    raise InputError(f"date: expected {DATE_FORMS}, got {text!r}.")
