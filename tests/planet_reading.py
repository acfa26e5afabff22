"""Direct reads of the planet, without Earth Engine's interface: expected values for clients of the emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ee_world import SEED

from mmearth_data.catalog.tile import WGS84, transformer
from mmearth_data.planet.grids import Window
from mmearth_data.planet.planet import ERA5, planet
from mmearth_data.planet.products import Era5, Image, Sentinel2, Static
from mmearth_data.planet.scenes import optical_scene_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]


def image_of(asset: str, index: str | None = None) -> Image:
    """Image of a collection by index (a scene, a month of weather), or the only image of an asset."""
    product = planet(SEED).products[asset]
    if isinstance(product, Sentinel2):
        scene = optical_scene_named(planet(SEED).views.world, str(index))
        assert scene is not None
        return product.image(scene)
    if isinstance(product, Era5):
        return product.image((int(str(index)[:4]) - 1970) * 12 + int(str(index)[4:]) - 1)
    assert isinstance(product, Static)
    return product.image(product.years[0])


def pixels_at(asset: str, index: str | None, band: str, x: Array, y: Array, epsg: int = WGS84) -> Array:
    """Values of the pixels that contain locations, NaN where masked.

    Parameters
    ----------
    asset, index, band
        What is read.
    x, y
        Locations (any shape), in the CRS of ``epsg``.
    epsg
        Their CRS.
    """
    product, image = planet(SEED).products[asset], image_of(asset, index)
    grid = product.grid(image, band)
    if grid.epsg != epsg:
        x, y = transformer(epsg, grid.epsg).transform(x, y)
    columns, rows = (np.floor(at).astype(int) for at in (grid.column(np.asarray(x)), grid.row(np.asarray(y))))
    left, top = int(columns.min()), int(rows.min())
    layer = product.read(image, band, Window(left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1))
    values = np.asarray(layer.values, np.float64)[rows - top, columns - left]
    if layer.valid is None:
        return values
    return np.where(layer.valid[rows - top, columns - left], values, np.nan)


def weather(band: str, months: Sequence[str], lon: Array, lat: Array) -> Array:
    """(month, ...) values of ERA5-Land in months such as ``201906``."""
    return np.stack([pixels_at(ERA5, month, band, lon, lat) for month in months])


def centres(
    transform: Sequence[float], width: int, height: int, first_column: int = 0, first_row: int = 0
) -> tuple[Array, Array]:
    """(x, y) of the centres of pixels, each (row, column), for a transform as in Earth Engine and rasterio."""
    a, b, c, d, e, f = transform[:6]
    column, row = np.meshgrid(first_column + np.arange(width) + 0.5, first_row + np.arange(height) + 0.5)
    return a * column + b * row + c, d * column + e * row + f
