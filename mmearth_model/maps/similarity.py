"""Similarity of every position of a dense embedding to one location."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_model.maps.vectors import Vectors


@dataclass(frozen=True, slots=True)
class Query:
    """A location and its vector.

    Attributes
    ----------
    lon, lat
        Degrees (EPSG:4326).
    unit
        (D,) vector there, of length 1.
    """

    lon: float
    lat: float
    unit: NDArray[np.float32]


def parse_place(text: str) -> tuple[float, float]:
    """Read ``LON,LAT`` in degrees. Raises `InputError` if it is something else.

    Examples
    --------
    >>> parse_place("11.5,48.1")
    (11.5, 48.1)
    """
    try:
        lon, lat = (float(part) for part in text.split(","))
    except ValueError:
        lon = lat = float("nan")
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise InputError(f"--query: expected LON,LAT in degrees, such as 11.5,48.1, got {text!r}.")
    return lon, lat


def check_inside(fields: Sequence[Vectors], lon: float, lat: float) -> None:
    """Raise `InputError` if a location is outside all grids."""
    if all(field.grid.position(lon, lat) is None for field in fields):
        raise InputError(f"--query: expected a location inside {_extent(fields)}, got {lon:g},{lat:g}; choose another.")


def find_place(fields: Sequence[Vectors], lon: float, lat: float) -> Query:
    """Read the vector at a location. Raises `InputError` if the location is outside all grids or has no data."""
    check_inside(fields, lon, lat)
    for field in fields:
        place = field.grid.position(lon, lat)
        if place is None:
            continue
        row, column = place
        vector = field.read(slice(row, row + 1), slice(column, column + 1))[:, 0, 0]
        if np.isfinite(vector).all():
            return Query(lon, lat, (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32))
    raise InputError(
        f"--query: expected a location with data, got {lon:g},{lat:g}, where there is none; choose another."
    )


def similarity_map(field: Vectors, query: Query, report: Callable[[int], None] | None = None) -> NDArray[np.float32]:
    """(rows, columns) cosine similarity of each vector of a grid to that at a location, NaN where there is no data."""
    found = np.full(field.grid.shape, np.nan, dtype=np.float32)
    for rows, columns in field.grid.spans(field.side):
        values = field.read(rows, columns)
        length = np.maximum(np.linalg.norm(values, axis=0), 1e-12)
        found[rows, columns] = np.clip(np.tensordot(query.unit, values, axes=1) / length, -1, 1)
        if report is not None:
            report(values[0].size)
    return found


def _extent(fields: Sequence[Vectors]) -> str:
    """Extent of all grids in degrees, for messages."""
    from rasterio.transform import array_bounds
    from rasterio.warp import transform_bounds

    boxes = [transform_bounds(f.grid.crs, 4326, *array_bounds(*f.grid.shape, f.grid.transform)) for f in fields]
    west, south = (min(box[side] for box in boxes) for side in (0, 1))
    east, north = (max(box[side] for box in boxes) for side in (2, 3))
    return f"{west:.4f},{south:.4f} to {east:.4f},{north:.4f}"
