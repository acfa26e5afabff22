"""Expressions shared by the facts: one town in the Alps, its scenes, and images with known values."""

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
"""Number of 10 m pixels along a side of the square."""


def point() -> ee.Geometry:
    """Innsbruck: mountains, a town, no sea."""
    return ee.Geometry.Point([LON, LAT])


def box(west: float, south: float, east: float, north: float) -> ee.Geometry:
    """Rectangle with straight edges on the town's UTM grid, in metres from the square's lower-left corner."""
    x, y = WEST, NORTH - SIDE_M
    return ee.Geometry.Rectangle([x + west, y + south, x + east, y + north], CRS, False)


def square() -> ee.Geometry:
    """640 m around the town, on the 10 m grid of its scenes."""
    return box(0, 0, SIDE_M, SIDE_M)


def scenes(asset: str = S2, start: str = "2019-06-01", end: str = "2019-09-01") -> ee.ImageCollection:
    """Scenes of the town, by default from one summer."""
    return ee.ImageCollection(asset).filterDate(start, end).filterBounds(point())


def whole_scenes(asset: str = S2, start: str = "2019-06-01", end: str = "2019-09-01") -> ee.ImageCollection:
    """Scenes in the town's own zone that cover the whole square."""
    utm = ee.Filter.stringStartsWith("MGRS_TILE", "32")
    return scenes(asset, start, end).filter(ee.Filter.contains(".geo", square(), maxError=1)).filter(utm)


def scene(asset: str = S2, start: str = "2019-06-01", end: str = "2019-09-01") -> ee.Image:
    """First of these scenes."""
    return ee.Image(whole_scenes(asset, start, end).first())


def months(start: str = "2019-01-01", end: str = "2020-01-01") -> ee.ImageCollection:
    """Monthly weather images."""
    return ee.ImageCollection(ERA5).filterDate(start, end)


def ramp() -> ee.Image:
    """Band x: metres from the square's western edge, so that the centres of 10 m pixels are 5, 15, ..."""
    return ee.Image.pixelCoordinates(CRS).select("x").subtract(WEST)


def grid_ramp() -> ee.Image:
    """Band x: the ramp sampled on a 10 m grid, from which everything else is resampled."""
    return ramp().reproject(CRS, [10, 0, WEST, 0, -10, NORTH])


def west_half() -> ee.Image:
    """1 in the western half of the square, 0 elsewhere."""
    return ramp().lt(SIDE_M / 2)


def constant(value: float, cast: str = "toByte") -> ee.Image:
    """Image with a single value, cast to one type."""
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
    """Value of an image's only band reduced over a region: by default the mean over the square."""
    found = image.rename("v").reduceRegion(reducer or ee.Reducer.mean(), region or square(), scale, CRS, **more)
    return found.get("v")


def features(**columns: list[Any]) -> ee.FeatureCollection:
    """Table with these columns; None is a property that the feature lacks."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return ee.FeatureCollection([ee.Feature(None, row) for row in kept])
