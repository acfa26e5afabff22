"""Pixels of a region: which count, with which weights, and what they are reduced to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.grids import lattice
from mmearth_data.emulator.algorithms.image import (
    CHEAP,
    DEFAULT_PROJECTION,
    WGS84,
    Grid,
    Image,
    Projection,
    in_crs,
    least,
    window_of,
)
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.cheap import Remembered
from mmearth_data.emulator.server.work import room_for_pixels

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.geometry import Geometry
    from mmearth_data.emulator.algorithms.reducers import Reducer
    from mmearth_data.emulator.graph.registry import Context, Value

    Float = NDArray[np.float64]

CHEAP_REGIONS: Remembered[Hashable, dict[str, Value]] = Remembered()
"""While pixels are cheap, a result depends on the bands alone, not on location or time."""
STEPS = 256
"""The share of a pixel inside a region is known in 8 bits; one that is below the first step does not count."""
POINTS = ("Point", "MultiPoint")


def _stepped(share: Float) -> Float:
    """Share in steps; a square that is cut exactly along its pixels must not lose one to the last bit."""
    return np.asarray(np.floor(share * STEPS + 1e-6) / STEPS)


def weights_in(shape: BaseGeometry, grid: Grid) -> Float:
    """Share of each pixel that is inside a shape in the grid's CRS, in steps of 1/256."""
    room_for_pixels(grid.width * grid.height)
    columns = grid.column + np.arange(grid.width + 1, dtype=float)
    rows = grid.row + np.arange(grid.height + 1, dtype=float)
    if _upright(shape, grid.projection):
        return _in_rectangle(shape.bounds, grid.projection, columns, rows)
    if shape.geom_type in POINTS:
        column, row = _pixels_at(shape, grid.projection)
        weights = np.zeros(grid.shape)
        weights[np.clip(row - grid.row, 0, grid.height - 1), np.clip(column - grid.column, 0, grid.width - 1)] = 1
        return weights
    x, y = grid.projection.to_crs(*np.meshgrid(columns, rows))
    (west, east), (south, north) = (np.sort([axis[:-1, :-1], axis[1:, 1:]], axis=0) for axis in (x, y))
    boxes = shapely.box(west, south, east, north)
    shapely.prepare(shape)
    whole = shapely.contains(shape, boxes)
    part = shapely.intersects(shape, boxes) & ~whole
    share = whole.astype(np.float64)
    share[part] = shapely.area(shapely.intersection(shape, boxes[part])) / shapely.area(boxes[part])
    return _stepped(share)


def _upright(shape: BaseGeometry, projection: Projection) -> bool:
    """Whether a shape is a rectangle along the pixels: a tile's square on its own grid is."""
    west, south, east, north = shape.bounds
    whole = (east - west) * (north - south)
    return projection.straight and bool(whole > 0 and abs(whole - shape.area) <= 1e-9 * whole)


def _in_rectangle(
    bounds: tuple[float, float, float, float], projection: Projection, columns: Float, rows: Float
) -> Float:
    west, south, east, north = bounds
    x, y = projection.to_crs(columns, np.zeros(1))[0], projection.to_crs(np.zeros(1), rows)[1]

    def inside(edge: Float, low: float, high: float) -> Float:
        first, last = np.minimum(edge[:-1], edge[1:]), np.maximum(edge[:-1], edge[1:])
        return np.asarray(np.clip(np.minimum(last, high) - np.maximum(first, low), 0, None) / (last - first))

    return _stepped(np.outer(inside(y, south, north), inside(x, west, east)))


def _pixels_at(points: BaseGeometry, projection: Projection) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(column, row) of the pixels that contain points."""
    column, row = projection.to_pixels(*shapely.get_coordinates(points).T)
    return np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)


def cells_of(shape: BaseGeometry, projection: Projection) -> Grid:
    """Pixels that a shape touches, or that contain its points if it has no extent."""
    if shape.geom_type not in POINTS:
        return window_of(shape, projection)
    column, row = _pixels_at(shape, projection)
    size = int(np.ptp(column)) + 1, int(np.ptp(row)) + 1
    return Grid(projection, int(column.min()), int(row.min()), *size)


@function("Image.reduceRegion")
def _reduce_region(
    image: Image,
    reducer: Reducer,
    geometry: Geometry | None,
    scale: float | None,
    crs: Projection | None,
    crsTransform: list[float] | None,
    bestEffort: bool,
    maxPixels: int,
    context: Context,
) -> dict[str, Value]:
    """Reduce the pixels of a region, each weighted by the share of it that is inside."""
    if not image.bands:
        return {}
    home = aggregated_on(image, crs, crsTransform, scale)
    shape = region_of(image, geometry, home.crs, "Image.reduceRegion")
    grid = cells_of(shape, home)
    while bestEffort and grid.width * grid.height > maxPixels:
        home = home.at_scale(2 * home.nominal_scale)
        grid = cells_of(shape, home)
    if grid.width * grid.height > maxPixels:
        raise EmulatorError(
            f"Image.reduceRegion: Too many pixels in the region. Found {grid.width * grid.height}, "
            f"but maxPixels allows only {maxPixels}.\nEnsure that you are not aggregating at a higher resolution than "
            "you intended; that is the most frequent cause of this error. If not, then you may set the 'maxPixels' "
            "argument to a limit suitable for your computation; set 'bestEffort' to true to aggregate at whatever "
            "scale results in 'maxPixels' total pixels; or both."
        )
    if context.cheap_pixels:
        form = tuple((band.name, band.type) for band in image.bands), reducer.name
        return CHEAP_REGIONS.answer(form, lambda: _cheaply_gathered(image, reducer, grid))
    return gathered_in(image, reducer, shape, grid, "Image.reduceRegion")


def gathered_in(image: Image, reducer: Reducer, shape: BaseGeometry, grid: Grid, name: str) -> dict[str, Value]:
    """Reduce the pixels inside a shape in the grid's CRS."""
    centred = None if reducer.weighted else centres_in(shape, grid)
    return _gathered(image, reducer, grid, weights_in(shape, grid), name, centred)


def centres_in(shape: BaseGeometry, grid: Grid) -> NDArray[np.bool_]:
    """Pixels whose centres are inside a shape in the grid's CRS; without an area, those that contain its points."""
    if shape.geom_type in POINTS:
        return weights_in(shape, grid) > 0
    return np.asarray(shapely.contains_xy(shape, *grid.centres()), dtype=bool)


def _cheaply_gathered(image: Image, reducer: Reducer, grid: Grid) -> dict[str, Value]:
    """Reduce one pixel instead of all: assets have one number each."""
    first = Grid(grid.projection, grid.column, grid.row, 1, 1)
    token = CHEAP.set(True)
    try:
        return _gathered(image, reducer, first, np.ones((1, 1)), "Image.reduceRegion")
    finally:
        CHEAP.reset(token)


def aggregated_on(
    image: Image, crs: Projection | None, transform: list[float] | None, scale: float | None
) -> Projection:
    """Pixel grid on which pixels are gathered; an image without one is refused if none is given."""
    home = lattice(crs or image.projection, transform, scale)
    if home == DEFAULT_PROJECTION:
        raise EmulatorError(
            "The default WGS84 projection is invalid for aggregations. Specify a scale or crs & crs_transform."
        )
    return home


def region_of(image: Image, geometry: Geometry | None, crs: str, name: str) -> BaseGeometry:
    """Shape of a region in a CRS: the image's footprint if none is given."""
    if geometry is not None:
        return in_crs(geometry.shape, geometry.crs, crs)
    if image.footprint is None:
        raise EmulatorError(f"{name}: The image is unbounded; 'geometry' is required.")
    return in_crs(image.footprint, WGS84, crs)


def _gathered(
    image: Image, reducer: Reducer, grid: Grid, weights: Float, name: str, centred: NDArray[np.bool_] | None = None
) -> dict[str, Value]:
    """Reduce the weighted pixels of a window; unweighted outputs count pixels whose centres are inside the region."""
    counted = weights.ravel() > 0
    weight = weights.ravel()[counted]
    inside = None if centred is None else centred.ravel()[counted]
    columns = []
    for band in image.bands:
        values, valid = band.evaluate(grid)
        columns.append((values.ravel()[counted], valid.ravel()[counted]))
    if reducer.inputs > 1:
        if len(columns) != reducer.inputs:
            raise EmulatorError(f"{name}: Need {reducer.inputs} bands for the reducer, the image has {len(columns)}.")
        return reducer.flat(columns, _weighed(weight, [mask for _, mask in columns]), inside)
    single = len(reducer.outputs) == 1
    return {
        band if single else f"{band}_{output}": value
        for band, column in zip(image.names, columns, strict=True)
        for output, value in reducer.flat([column], _weighed(weight, [column[1]]), inside).items()
    }


def _weighed(shares: Float, masks: Sequence[NDArray[Any]]) -> Float:
    """Weight of pixels: the minimum of the share inside the region and the mask (Earth Engine guides, "statistics")."""
    fractional = [mask for mask in masks if mask.dtype != bool]
    return least(shares, *fractional) if fractional else shares
