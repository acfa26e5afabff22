"""Check from their headers, before any pixel is read, that the files of a site overlap its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from mmearth_data.catalog.tile import PIXEL_M, WGS84
from mmearth_data.errors import FileInputError
from mmearth_data.sources.rasters.georeferencing import transform_points
from mmearth_data.sources.rasters.wrapping import columns_around, edge_points, pixels_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.sources.rasters.files import RasterGrid, SiteFile
    from mmearth_data.sources.rasters.sites import Site

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Area:
    """Area of the tiles of a site: a rectangle in its CRS, metres."""

    epsg: int
    bounds: Bounds


def area_of(site: Site, size_px: int) -> Area:
    """Area of all tiles of a site, which has at least one."""
    grid = site.base.grid
    height, width = (PIXEL_M * (side // size_px * size_px) for side in (grid.height, grid.width))
    left, top = grid.transform[2], grid.transform[5]
    return Area(grid.epsg or 0, (left, top - height, left + width, top))


def check_meeting(sites: Sequence[Site], size_px: int) -> None:
    """Refuse a file that overlaps no tile of its sites.

    Raises FileInputError with the bounds of the file and of a site, and how to fix the mismatch.
    """
    apart: dict[Path, tuple[SiteFile, Site]] = {}
    met: set[Path] = set()
    for site in sites:
        area = area_of(site, size_px)
        for file in site.files:
            if file.path in met:
                continue
            if meets(file.grid, area):
                met.add(file.path)
                apart.pop(file.path, None)
            else:
                apart.setdefault(file.path, (file, site))
    if apart:
        file, site = next(iter(apart.values()))
        raise FileInputError(file.path, _problem(file, site, area_of(site, size_px)))


def meets(grid: RasterGrid, area: Area) -> bool:
    """Whether the bounds of a file and an area overlap."""
    return _overlap(grid, *pixels_of(grid, area.epsg, *edge_points(area.bounds)))


def _overlap(grid: RasterGrid, rows: NDArray[Any], cols: NDArray[Any]) -> bool:
    finite = np.isfinite(rows) & np.isfinite(cols)
    if not finite.any():
        return False
    rows, cols = rows[finite], cols[finite]
    across = columns_around(grid) is not None or bool(cols.max() > 0 and cols.min() < grid.width)
    return across and bool(rows.max() > 0 and rows.min() < grid.height)


def _problem(file: SiteFile, site: Site, area: Area) -> str:
    """Message with the bounds of a file and a site, and the probable cause."""
    here, there = _degrees(rasterio.CRS.from_epsg(area.epsg), area.bounds), _degrees(file.grid.crs, _bounds(file.grid))
    got = f"got {there}" if there else f"got {_numbers(_bounds(file.grid))} in a CRS that does not cover them"
    return f"expected a file that meets the tiles of site {site.name} ({here}), {got}; {_remedy(file, area)}."


def _remedy(file: SiteFile, area: Area) -> str:
    crs, grid = rasterio.CRS.from_wkt(file.grid.crs), file.grid
    x, y = transform_points(rasterio.CRS.from_epsg(area.epsg), crs, *edge_points(area.bounds))
    if _overlap(grid, *grid.pixels(y, x)):
        first, second = ("longitude", "latitude") if crs.is_geographic else ("easting", "northing")
        return f"its axes are swapped: write it again with {first} as x and {second} as y"
    west, south, east, north = _bounds(grid)
    own = area.bounds
    if crs.is_projected and max(west, own[0]) < min(east, own[2]) and max(south, own[1]) < min(north, own[3]):
        return (
            f"its numbers meet in EPSG:{area.epsg}, so its CRS may be wrong: rio edit-info --crs EPSG:{area.epsg} FILE"
        )
    return "correct its CRS or geotransform, or the path of the layer"


def _bounds(grid: RasterGrid) -> Bounds:
    """(west, south, east, north) of a file in its own CRS."""
    a, b, c, d, e, f = grid.transform
    x = [c + a * col + b * row for col in (0, grid.width) for row in (0, grid.height)]
    y = [f + d * col + e * row for col in (0, grid.width) for row in (0, grid.height)]
    return min(x), min(y), max(x), max(y)


def _degrees(crs: Any, bounds: Bounds) -> str:  # noqa: ANN401 - rasterio has no types
    """Bounds in degrees as text; empty if they are outside the CRS's domain."""
    parsed = rasterio.CRS.from_user_input(crs)
    if parsed.to_epsg() == WGS84:
        return f"{_numbers(bounds)} degrees"
    try:
        found = transform_bounds(parsed, rasterio.CRS.from_epsg(WGS84), *bounds)
    except CRSError:
        return ""
    return f"{_numbers(found)} degrees" if np.isfinite(found).all() else ""


def _numbers(bounds: Bounds) -> str:
    return "west {:.6g}, south {:.6g}, east {:.6g}, north {:.6g}".format(*bounds)
