"""Area of the pixels of a map on the Earth.

In a projection whose area scale is within one per cent of 1, such as UTM, areas are computed on the map's grid. Areas
of maps in degrees are computed on the ellipsoid: Lambert's cylindrical equal-area projection keeps parallels and
meridians straight, so that the area of a pixel, or of a polygon of pixels, is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_model.maps.class_map import ClassMap

TOLERANCE = 0.01
"""Largest relative deviation of a projection's area scale from 1."""


def row_areas_m2(found: ClassMap) -> NDArray[np.float64]:
    """(H,) area of a pixel of each row in square metres.

    Raises
    ------
    FileInputError
        If the map's projection distorts areas.
    """
    a, _, c, _, e, f = found.transform
    if keeps_areas(found):
        return np.full(found.height, abs(a * e) * _metres(found.crs) ** 2)
    if not found.crs.is_geographic:
        scale = _area_scales(found)
        raise FileInputError(
            found.path,
            f"expected a map in UTM, in an equal-area projection or in degrees, got {found.crs.name}, in which areas are "
            f"{scale.min():.3g} to {scale.max():.3g} times too large; warp it to UTM (gdalwarp).",
        )
    edges = f + e * np.arange(found.height + 1, dtype=np.float64)
    x, y = (
        _equal_area(found.crs, np.array([c, c + a]), np.zeros(2))[0],
        _equal_area(found.crs, np.zeros(len(edges)), edges)[1],
    )
    areas: NDArray[np.float64] = np.abs(np.diff(y)) * (x[1] - x[0])
    return areas


def polygon_areas_m2(found: ClassMap, polygons: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) areas in square metres of polygons in the map's CRS."""
    import shapely

    if keeps_areas(found):
        return np.asarray(shapely.area(polygons) * _metres(found.crs) ** 2)

    def flat(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(_equal_area(found.crs, points[:, 0], points[:, 1]), axis=1)

    return np.asarray(shapely.area(shapely.transform(polygons, flat)))


def keeps_areas(found: ClassMap) -> bool:
    """Whether the map's projection preserves area to within one per cent."""
    return bool(found.crs.is_projected and np.abs(_area_scales(found) - 1).max() <= TOLERANCE)


def _area_scales(found: ClassMap) -> NDArray[np.float64]:
    """Area scales of a projected map at its corners and its centre."""
    from pyproj import Proj

    columns, rows = np.array([0, 1, 0, 1, 0.5]) * found.width, np.array([0, 0, 1, 1, 0.5]) * found.height
    lon, lat = found.lonlat(columns, rows)
    return np.asarray(Proj(found.crs).get_factors(lon, lat).areal_scale)


def _metres(crs: Any) -> float:  # noqa: ANN401 - pyproj's
    """Metres per unit of a projected CRS."""
    return float(crs.axis_info[0].unit_conversion_factor)


def _equal_area(
    crs: Any,  # noqa: ANN401 - pyproj's
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of points, in metres, in the cylindrical equal-area projection of the CRS's ellipsoid."""
    from pyproj import CRS, Transformer

    ellipsoid = crs.ellipsoid
    flat = CRS.from_proj4(
        f"+proj=cea +a={ellipsoid.semi_major_metre!r} +b={ellipsoid.semi_minor_metre!r} +units=m +type=crs"
    )
    east, north = Transformer.from_crs(crs.geodetic_crs if crs.is_geographic else crs, flat, always_xy=True).transform(
        x, y
    )
    return np.asarray(east), np.asarray(north)
