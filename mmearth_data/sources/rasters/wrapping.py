"""Longitudes go round: which pixels of a file belong to points, whichever turn its longitudes are counted in.

Grids in degrees run from -180 to 180, from 0 to 360, or over a part of either. A point is looked for where the file
has it; a grid that goes all the way round continues at its other edge.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.windows import Window

from mmearth_data.sources.rasters.georeferencing import transform_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.sources.rasters.files import RasterGrid

WHOLE_PX = 0.05
"""A turn that is a whole number of pixels but for this is whole; files round the size of a pixel."""


@lru_cache(maxsize=64)
def turn_of(crs: str) -> float | None:
    """Length of a full turn of longitude in the units of a CRS (WKT), None where it is not geographic."""
    parsed = rasterio.CRS.from_wkt(crs)
    return 2 * math.pi / float(parsed.units_factor[1]) if parsed.is_geographic else None


def columns_around(grid: RasterGrid) -> int | None:
    """Columns of a full turn, where a grid goes all the way round; else None."""
    turn = turn_of(grid.crs)
    a, b, _, d, _, _ = grid.transform
    if turn is None or b or d:
        return None
    columns = round(turn / abs(a))
    return columns if abs(turn / abs(a) - columns) < WHOLE_PX and grid.width >= columns else None


def pixels_of(
    grid: RasterGrid, epsg: int, x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(rows, cols) of points that are near each other; infinite where the grid's CRS does not reach.

    Parameters
    ----------
    grid
        Grid of a file.
    epsg, x, y
        CRS and coordinates of the points.

    Returns
    -------
    tuple of ndarray
        0 is the outer edge of the first pixel. Columns of a grid in degrees may be beyond its edges on either side of
        it, and are next to each other for points on both sides of any meridian.
    """
    if grid.epsg == epsg:
        return grid.pixels(x, y)
    u, v = transform_points(rasterio.CRS.from_epsg(epsg), rasterio.CRS.from_wkt(grid.crs), x, y)
    turn = turn_of(grid.crs)
    finite = np.isfinite(u)
    if turn is not None and finite.any():
        u = np.where(finite, u, np.nan)
        u = u - turn * np.round((u - u[finite][0]) / turn)
        a, b, c, *_ = grid.transform
        middle = a * grid.width / 2 + b * grid.height / 2 + c
        u = u + turn * np.round((middle - u[finite].mean()) / turn)
    return grid.pixels(u, v)


def window_parts(grid: RasterGrid, window: Window) -> list[Window]:
    """Windows within a file, from left to right, that make up one that may run over the edge of a full turn."""
    around = columns_around(grid)
    if around is None:
        return [window]
    parts = []
    left, right = int(window.col_off), int(window.col_off + window.width)
    while left < right:
        start = left % around
        width = min(right - left, around - start)
        parts.append(Window(start, window.row_off, width, window.height))
        left += width
    return parts or [window]


def origins(grid: RasterGrid, window: Window) -> list[float]:
    """Where the left edge of a window is in longitudes from -180 to 180; twice where it runs over 180 degrees.

    Returns
    -------
    list of float
        x of the window's upper-left corner in the grid's CRS, less whole turns.
    """
    a, b, c, *_ = grid.transform
    x = c + a * window.col_off + b * window.row_off
    turn = turn_of(grid.crs)
    if turn is None:
        return [x]
    span = sorted((x, x + a * window.width + b * window.height))
    first, last = (math.ceil((end - turn / 2) / turn - 1e-12) for end in (span[0], span[1]))
    return [x - turn * number for number in range(first, last + 1)]
