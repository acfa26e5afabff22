"""Pieces of expressions that the facts share: one town in the Alps, its scenes, and images with known values."""

from __future__ import annotations

from typing import Any

import ee

S2, L1C, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S1_GRD"
ERA5, DYNAMIC_WORLD, WORLD_COVER = "ECMWF/ERA5_LAND/MONTHLY_AGGR", "GOOGLE/DYNAMICWORLD/V1", "ESA/WorldCover/v100"
DEM = "projects/sat-io/open-datasets/ASTER/GDEM"
CANOPY = "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"
ECOREGIONS = "RESOLVE/ECOREGIONS/2017"
CRS = "EPSG:32632"
LON, LAT = 11.4, 47.3
WEST, NORTH, SIDE_M = 681000, 5241640, 640
PIXELS = 64 * 64
"""Of 10 m, in the square."""


def point() -> ee.Geometry:
    """Innsbruck: mountains, a town, no sea."""
    return ee.Geometry.Point([LON, LAT])


def box(west: float, south: float, east: float, north: float) -> ee.Geometry:
    """Rectangle with straight edges on the UTM grid of the town, metres from the square's lower-left corner."""
    x, y = WEST, NORTH - SIDE_M
    return ee.Geometry.Rectangle([x + west, y + south, x + east, y + north], CRS, False)


def square() -> ee.Geometry:
    """640 m around the town, on the 10 m grid of its scenes."""
    return box(0, 0, SIDE_M, SIDE_M)


def scenes(asset: str = S2, start: str = "2019-06-01", end: str = "2019-09-01") -> ee.ImageCollection:
    """Scenes of the town, by default of a summer."""
    return ee.ImageCollection(asset).filterDate(start, end).filterBounds(point())


def whole_scenes(asset: str = S2, start: str = "2019-06-01", end: str = "2019-09-01") -> ee.ImageCollection:
    """Those of them that are in the town's own zone and cover the square."""
    utm = ee.Filter.stringStartsWith("MGRS_TILE", "32")
    return scenes(asset, start, end).filter(ee.Filter.contains(".geo", square(), maxError=1)).filter(utm)


def scene(asset: str = S2, start: str = "2019-06-01", end: str = "2019-09-01") -> ee.Image:
    """First of them."""
    return ee.Image(whole_scenes(asset, start, end).first())


def months(start: str = "2019-01-01", end: str = "2020-01-01") -> ee.ImageCollection:
    """Months of weather."""
    return ee.ImageCollection(ERA5).filterDate(start, end)


def ramp() -> ee.Image:
    """Band x: metres from the square's western edge, so that a pixel of 10 m has 5, 15, ... in its middle."""
    return ee.Image.pixelCoordinates(CRS).select("x").subtract(WEST)


def grid_ramp() -> ee.Image:
    """Band x: the ramp kept on a grid of 10 m, from which everything else is resampled."""
    return ramp().reproject(CRS, [10, 0, WEST, 0, -10, NORTH])


def west_half() -> ee.Image:
    """1 in the square's western half, 0 elsewhere."""
    return ramp().lt(SIDE_M / 2)


def constant(value: float, cast: str = "toByte") -> ee.Image:
    """Image of one value, of a type of its own."""
    image: ee.Image = getattr(ee.Image.constant(value), cast)()
    return image


def constants(*values: float, cast: str = "toFloat") -> ee.ImageCollection:
    """Collection of such images, all of one type."""
    return ee.ImageCollection([constant(value, cast) for value in values])


def reduced(
    image: ee.Image,
    reducer: ee.Reducer | None = None,
    region: ee.Geometry | None = None,
    scale: float = 10,
    **more: Any,
) -> ee.ComputedObject:
    """Number of the one band of an image over a region: by default the mean over the square."""
    found = image.rename("v").reduceRegion(reducer or ee.Reducer.mean(), region or square(), scale, CRS, **more)
    return found.get("v")


def features(**columns: list[Any]) -> ee.FeatureCollection:
    """Table of these columns; None is a property that the feature lacks."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return ee.FeatureCollection([ee.Feature(None, row) for row in kept])
