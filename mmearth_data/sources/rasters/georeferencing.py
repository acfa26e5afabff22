"""Georeferencing of a file: a geotransform and a CRS, or something that must be converted to these first.

The commands in the messages are those of ``rio``, which rasterio installs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from pyproj import CRS, Geod, Transformer
from rasterio._err import CPLE_BaseError
from rasterio.warp import transform as warp_transform

from mmearth_data.catalog.tile import WGS84, utm_epsg
from mmearth_data.errors import TileUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


GAUGE_PX = 8
"""Pixels on either side of a position over which distances are measured."""
COMPOUND = ("COMPD_CS", "COMPOUNDCRS")
"""First words of a compound CRS (WKT 1 and WKT 2)."""


def horizontal(crs: Any) -> Any:  # noqa: ANN401 - rasterio has no types
    """Horizontal part of a compound CRS (horizontal and vertical); any other CRS unchanged.

    Heights are values of a band here, so the vertical datum affects no position.
    """
    wkt = crs.to_wkt()
    if not wkt.startswith(COMPOUND):
        return crs
    part = CRS.from_wkt(wkt).sub_crs_list[0]
    epsg = part.to_epsg()
    return rasterio.CRS.from_wkt(part.to_wkt()) if epsg is None else rasterio.CRS.from_epsg(epsg)


def transform_points(
    source: Any,  # noqa: ANN401 - rasterio has no types
    target: Any,  # noqa: ANN401
    x: NDArray[Any],
    y: NDArray[Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transform points between CRSs, as GDAL's warper does; infinite outside the target's domain."""
    try:
        u, v = warp_transform(source, target, x, y)
    except CPLE_BaseError:  # raised by GDAL if a point is outside the domain
        u, v = Transformer.from_crs(source.to_wkt(), target.to_wkt(), always_xy=True).transform(x, y)
    return np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64)


def true_sides(crs: str, transform: Sequence[float], column: float, row: float) -> tuple[float, float]:
    """Measure a pixel in metres along a row and along a column, at a position; infinite outside the CRS's domain.

    The scale of a projection varies with location: at 60 N, a metre of Web Mercator is half a metre on the Earth's surface.
    """
    a, b, c, d, e, f = transform
    columns, rows = column + np.array([-GAUGE_PX, GAUGE_PX, 0, 0]), row + np.array([0, 0, -GAUGE_PX, GAUGE_PX])
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    lon, lat = transform_points(rasterio.CRS.from_wkt(crs), rasterio.CRS.from_epsg(WGS84), x, y)
    if not (np.isfinite(lon) & np.isfinite(lat)).all():
        return float("inf"), float("inf")
    _, _, metres = Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    along_row, along_column = (metres / (2 * GAUGE_PX)).tolist()
    return along_row, along_column


def georeferencing_problem(dataset: Any) -> str | None:  # noqa: ANN401 - rasterio has no types
    """Reason why the pixels of a file have no location, and the command that gives them one; None if they have one."""
    placed = not (dataset.transform.is_identity or dataset.transform.determinant == 0)
    points, crs_of_points = dataset.gcps
    if points and not placed:
        if crs_of_points is None:
            return "expected a geotransform, got ground control points without a CRS; write the file again with both."
        lon, lat = _lonlat(crs_of_points, np.mean([p.x for p in points]), np.mean([p.y for p in points]))
        return f"expected a geotransform, got ground control points only; warp it: {_warp(lon, lat)}."
    if dataset.rpcs is not None and not placed:
        return (
            "expected a geotransform, got rational polynomial coefficients (RPC) only; orthorectify it, for example "
            "with gdalwarp -rpc -t_srs EPSG:326ZZ -tr 10 10 IN OUT."
        )
    if dataset.crs is None:
        return "expected a CRS, got none; assign the right one: rio edit-info --crs EPSG:CODE FILE."
    if not placed:
        return (
            "expected a geotransform, got none; assign the right one: "
            "rio edit-info --transform '[WIDTH, 0, WEST, 0, -HEIGHT, NORTH]' FILE (size of a pixel, upper-left corner)."
        )
    return None


def warp_to_utm(crs: str, transform: tuple[float, ...], height: int, width: int) -> str:
    """Command that warps a file of a CRS (WKT) and a grid to a north-up 10 m grid, in the UTM zone of its centre."""
    a, b, c, d, e, f = transform
    col, row = width / 2, height / 2
    return _warp(*_lonlat(rasterio.CRS.from_wkt(crs), a * col + b * row + c, d * col + e * row + f))


def warp_to(epsg: int) -> str:
    """Command that warps a file to a north-up 10 m grid."""
    return f"rio warp IN OUT --dst-crs EPSG:{epsg} --res 10"


def _warp(lon: float, lat: float) -> str:
    try:
        return warp_to(utm_epsg(lon, lat))
    except TileUnavailable:
        return "rio warp IN OUT --dst-crs EPSG:CODE --res 10"


def _lonlat(crs: Any, x: float, y: float) -> tuple[float, float]:  # noqa: ANN401 - rasterio has no types
    lon, lat = transform_points(horizontal(crs), rasterio.CRS.from_epsg(WGS84), np.array([x]), np.array([y]))
    return (float(lon[0]) + 180) % 360 - 180, float(lat[0])
