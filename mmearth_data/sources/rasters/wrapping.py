"""Find the pixels of points in grids of any longitude range, across the antimeridian as well.

Grids in degrees cover -180 to 180, 0 to 360, or a part of either. Longitudes of points are shifted to the range of the
file; a global grid continues at its opposite edge.
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

EDGE_POINTS = 21
"""Points per side with which the outline of an area is transformed: in another CRS its edges are curves."""
WHOLE_PX = 0.05
"""Tolerance in pixels with which 360 degrees count as a whole number of pixels; files round the pixel size."""


@lru_cache(maxsize=64)
def turn_of(crs: str) -> float | None:
    """Length of 360 degrees of longitude in the units of a CRS (WKT); None if it is not geographic."""
    parsed = rasterio.CRS.from_wkt(crs)
    return 2 * math.pi / float(parsed.units_factor[1]) if parsed.is_geographic else None


def columns_around(grid: RasterGrid) -> int | None:
    """Columns of a grid that covers all longitudes; else None."""
    turn = turn_of(grid.crs)
    a, b, _, d, _, _ = grid.transform
    if turn is None or b or d:
        return None
    columns = round(turn / abs(a))
    return columns if abs(turn / abs(a) - columns) < WHOLE_PX and grid.width >= columns else None


def pixels_of(
    grid: RasterGrid, epsg: int, x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(rows, cols) of points near each other, given in a CRS; infinite outside the domain of the grid's CRS.

    0 is the outer edge of the first pixel. Columns of a grid in degrees may be beyond its edges on either side, and are
    next to each other for points on both sides of any meridian.
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


def edge_points(bounds: tuple[float, float, float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y) of points on the edges of an area (west, south, east, north)."""
    west, south, east, north = bounds
    along, low, high = np.linspace(0, 1, EDGE_POINTS), np.zeros(EDGE_POINTS), np.ones(EDGE_POINTS)
    x = west + (east - west) * np.concatenate([along, along, low, high])
    y = south + (north - south) * np.concatenate([low, high, along, along])
    return x, y


def window_parts(grid: RasterGrid, window: Window) -> list[Window]:
    """Split a window that may cross the edge of a global grid into windows within the file, from left to right."""
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
    """Left edge of a window in the grid's CRS, in longitudes from -180 to 180; two values if it crosses 180 degrees."""
    a, b, c, *_ = grid.transform
    x = c + a * window.col_off + b * window.row_off
    turn = turn_of(grid.crs)
    if turn is None:
        return [x]
    span = sorted((x, x + a * window.width + b * window.height))
    first, last = (math.ceil((end - turn / 2) / turn - 1e-12) for end in (span[0], span[1]))
    return [x - turn * number for number in range(first, last + 1)]
