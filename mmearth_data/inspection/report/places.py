"""Locations of the tiles of a report: one point per tile or, for many tiles, equal-area cells with counts.

Cells hold the number of tiles for every combination of the fields, so that filters in the browser give exact counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.inspection.projection import Projection, choose_projection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.inspection.report.fields import Field
    from mmearth_data.store import Store

MOST_POINTS = 5_000
"""Number of tiles above which the map shows cells."""
MOST_ROWS = 40_000
"""Combinations of cell and fields; the cells become larger until there are fewer."""
MOST_CELLS = 4_000
FIRST_CELL = 1 / 160
"""Side of the smallest cells, as a share of the map's width; the next ones are larger by a quarter each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRows:
    """Content of a map.

    Attributes
    ----------
    projection
        Projection of the map.
    x, y, lon, lat
        (points,) mean locations, metres on the map and degrees.
    point
        (rows,) positions in these.
    codes
        Of each field, (rows,) positions in its values.
    count
        (rows,) tiles.
    tiles
        (points,) position of each tile in the store; None if a point is a cell.
    side_m
        Side of a cell, metres; 0 if a point is a tile.
    """

    projection: Projection
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    point: NDArray[np.intp]
    codes: tuple[NDArray[np.uint8], ...]
    count: NDArray[np.intp]
    tiles: NDArray[np.intp] | None
    side_m: float


def map_rows(store: Store, fields: Sequence[Field]) -> MapRows:
    """Points or cells of a store's map; tiles without coordinates are omitted."""
    lon, lat = store.coords["lon"], store.coords["lat"]
    here = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat))
    lon, lat = lon[here], lat[here]
    projection = choose_projection(lon, lat)
    x, y = projection.forward(lon, lat).T if len(here) else (lon, lat)
    codes = tuple(field.codes[here] for field in fields)
    if len(here) > MOST_POINTS:
        return _cells(projection, np.stack([x, y, lon, lat]), codes)
    return MapRows(
        projection=projection,
        x=x,
        y=y,
        lon=lon,
        lat=lat,
        point=np.arange(len(here)),
        codes=codes,
        count=np.ones(len(here), dtype=np.intp),
        tiles=here,
        side_m=0.0,
    )


def _cells(projection: Projection, where: NDArray[np.float64], codes: tuple[NDArray[np.uint8], ...]) -> MapRows:
    west, south, east, _ = projection.window
    sizes = [int(code.max(initial=0)) + 1 for code in codes]
    combination = np.ravel_multi_index(codes, sizes)
    side = (east - west) * FIRST_CELL
    while True:
        columns = int((east - west) / side) + 1
        cell = ((where[1] - south) // side).astype(np.int64) * columns + ((where[0] - west) // side).astype(np.int64)
        cells, point = np.unique(cell, return_inverse=True)
        rows, count = np.unique(point * np.prod(sizes) + combination, return_counts=True)
        if len(rows) <= MOST_ROWS and len(cells) <= MOST_CELLS:
            break
        side *= 1.25
    tiles = np.bincount(point)
    x, y, lon, lat = (np.bincount(point, weights=values) / tiles for values in where)
    of_row = np.unravel_index(rows % np.prod(sizes), sizes)
    return MapRows(
        projection=projection,
        x=x,
        y=y,
        lon=lon,
        lat=lat,
        point=rows // np.prod(sizes),
        codes=tuple(values.astype(np.uint8) for values in of_row),
        count=count,
        tiles=None,
        side_m=side,
    )
