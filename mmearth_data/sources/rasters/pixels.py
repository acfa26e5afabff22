"""The pixels of one file on the grid of one tile: copied if the grids agree, otherwise warped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.geography.equal_area import metres_per_degree
from mmearth_data.rasterfile import open_raster, read_raster_window
from mmearth_data.sources.base import to_stored
from mmearth_data.sources.rasters.georeferencing import true_sides
from mmearth_data.sources.rasters.terrain import slope_degrees
from mmearth_data.sources.rasters.wrapping import columns_around, edge_points, origins, pixels_of, window_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.sources.rasters.files import SiteFile

WARP_TOLERANCE_PX = 1e-3
"""Error tolerance of GDAL's approximate transformer; rasterio's default is 0.125, and rasterio 1.4 fails with 0."""
SCALE_OF_UTM = 0.002
"""Largest deviation of a projection's scale from 1 that is ignored, as is usual for slopes on UTM grids."""
KERNEL_PX = 2
"""Margin around a window: one pixel for bilinear interpolation, and one for the error of the coordinates."""


def read_stored(file: SiteFile, tile: TileGrid) -> dict[str, NDArray[Any]]:
    """Read what a file has for a tile: stored band -> (y, x) array of the stored type, no-data where there is no value.

    Raises FileInputError if the file is broken, or has an unknown class code or numbers that do not fit.
    """
    bands = read_bands(file, tile)
    values = np.stack(list(bands.values()))
    try:
        stored = to_stored(values, np.isfinite(values), file.modality)
    except InputError as error:
        raise FileInputError(file.path, str(error)) from None
    return dict(zip(bands, stored, strict=True))


def read_bands(file: SiteFile, tile: TileGrid) -> dict[str, NDArray[np.float64]]:
    """Read what a file has for a tile, in stored units before rounding; NaN is no-data.

    Derived bands are computed on the file's own grid, including pixels beyond the tile's border, so that neighbouring
    tiles agree; then all bands are resampled to the tile's grid.
    """
    shift = file.grid.shift(tile)
    reach = 1 if file.layer.derive else 0
    if shift is not None:
        row, col = shift
        window = Window(col - reach, row - reach, tile.size_px + 2 * reach, tile.size_px + 2 * reach)
    else:
        window = _source_window(file, tile, reach)
    parts = [_read_window(file, part) for part in window_parts(file.grid, window)]
    values = _calibrated(file, np.concatenate(parts, axis=-1))
    bands = [band for band in file.layer.stored_bands if band is not None]
    native = dict(zip(bands, values, strict=True))
    for derived, origin in file.layer.derive.items():
        native[derived] = _slope(file, native[origin], window)
    if shift is not None:
        inner = slice(reach, reach + tile.size_px)
        return {band: array[inner, inner] for band, array in native.items()}
    stack = np.stack(list(native.values()))
    if stack.size == 0:
        return {band: np.full((tile.size_px, tile.size_px), np.nan) for band in native}
    return dict(zip(native, _warp(file, stack, window, tile), strict=True))


def unknown_codes(file: SiteFile) -> list[float]:
    """Class codes of a file that neither the mapping nor the catalog has; reads the file block by block."""
    known = _code_map(file)
    if known is None:
        return []
    found: set[float] = set()
    with open_raster(file.path, file.path) as dataset:
        for number in file.layer.band_numbers:
            for _, window in dataset.block_windows(number):
                raster = read_raster_window(dataset, file.layer.nodata, [number], window)
                found.update(np.unique(raster.values[~raster.missing]).tolist())
    return sorted(found - known.keys())


def _read_window(file: SiteFile, window: Window) -> NDArray[np.float64]:
    """Read the mapped bands of a window as (band, y, x); NaN where the file has no data, and outside it."""
    wanted = file.layer.band_numbers
    whole = np.full((len(wanted), window.height, window.width), np.nan)
    top, left = max(0, -window.row_off), max(0, -window.col_off)
    bottom = min(window.height, file.grid.height - window.row_off)
    right = min(window.width, file.grid.width - window.col_off)
    if bottom <= top or right <= left:
        return whole
    inside = Window(window.col_off + left, window.row_off + top, right - left, bottom - top)
    with open_raster(file.path, file.path) as dataset:
        raster = read_raster_window(dataset, file.layer.nodata, wanted, inside)
    whole[:, top:bottom, left:right] = np.where(raster.missing, np.nan, raster.values.astype(np.float64))
    return whole


def _calibrated(file: SiteFile, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert file numbers to stored numbers: map codes, or apply scale, offset and clip."""
    known = _code_map(file)
    if known is None:
        return _scaled(file, values)
    mapped = np.full(values.shape, np.nan)
    for code in np.unique(values[np.isfinite(values)]).tolist():
        if code not in known:
            raise FileInputError(file.path, code_problem(file, [code]))
        mapped[values == code] = known[code]
    return mapped


def _scaled(file: SiteFile, values: NDArray[np.float64]) -> NDArray[np.float64]:
    layer = file.layer
    scale, offset = (np.array(part)[:, None, None] for part in zip(*file.calibration.factors, strict=True))
    if not file.modality.kind.is_continuous and layer.scale is None and layer.offset is None:
        fractional = np.isfinite(values) & (values != np.rint(values))
        if fractional.any():
            raise FileInputError(
                file.path,
                f"expected whole numbers for {file.modality.name}, got {values[fractional][0]:.9g}; resample the file "
                "with nearest, or write scale: 1 and offset: 0 in the mapping to round it.",
            )
    stored: NDArray[np.float64] = values * scale + offset
    if layer.clip is None:
        return stored
    low, high = layer.clip
    return stored.clip(low, high)


def _code_map(file: SiteFile) -> dict[float, float] | None:
    """File code -> catalog code; None if the numbers are not codes."""
    if file.layer.codes is not None:
        return {float(code): float(target) for code, target in file.layer.codes.items()}
    if not file.modality.kind.is_categorical:
        return None
    codes = [*(label.code for label in file.modality.classes), file.modality.nodata]
    return {float(code): float(code) for code in codes}


def code_problem(file: SiteFile, codes: list[float]) -> str:
    """Message about unknown class codes."""
    got = ", ".join(f"{code:.12g}" for code in codes[:5])
    known = ", ".join(f"{code:g}" for code in sorted(_code_map(file) or {}))
    return f"expected class codes of {file.modality.name} ({known}), got {got}; add codes or nodata to the mapping."


def _slope(file: SiteFile, elevation: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """Slope on the file's own grid, in stored units, from elevation in stored units."""
    modality = file.modality
    a, b, _, d, e, _ = file.grid.transform
    crs = rasterio.CRS.from_wkt(file.grid.crs)
    if crs.is_geographic:
        dx, dy = math.hypot(a, d), math.hypot(b, e)
        rows = window.row_off + np.arange(window.height) + 0.5
        lat = d * (window.col_off + window.width / 2) + e * rows + file.grid.transform[5]
        per_lon, per_lat = metres_per_degree(lat[:, None])
        slope = slope_degrees(elevation * modality.scale + modality.offset, dx * per_lon, dy * per_lat)
    else:
        dx, dy = _projected_sides(file, crs, window)
        slope = slope_degrees(elevation * modality.scale + modality.offset, dx, dy)
    return (slope - modality.offset) / modality.scale


def _projected_sides(file: SiteFile, crs: rasterio.CRS, window: Window) -> tuple[float, float]:
    """Metres of a pixel along a row and a column: those of the grid, or the true ones if these differ noticeably."""
    a, b, _, d, e, _ = file.grid.transform
    unit = crs.linear_units_factor[1]
    sides = math.hypot(a, d) * unit, math.hypot(b, e) * unit
    centre = window.col_off + window.width / 2, window.row_off + window.height / 2
    true = true_sides(file.grid.crs, file.grid.transform, *centre)
    differ = any(SCALE_OF_UTM < abs(one / other - 1) < math.inf for one, other in zip(true, sides, strict=True))
    return true if differ else sides


def _source_window(file: SiteFile, tile: TileGrid, reach: int) -> Window:
    """Pixels of a file that a tile needs, within the file."""
    pixels = np.stack(pixels_of(file.grid, tile.epsg, *edge_points(tile.bounds)))
    if not np.isfinite(pixels).all():  # outside the domain of the file's CRS
        return Window(0, 0, 0, 0)
    margin = KERNEL_PX * np.array(_source_pixels_per_pixel(file, tile)) + reach
    height, width = file.grid.height, file.grid.width
    first, last = ([0, 0], [height, width]) if columns_around(file.grid) is None else ([0, -width], [height, 2 * width])
    row0, col0 = np.floor(pixels.min(axis=1) - margin).clip(first, last).astype(int).tolist()
    row1, col1 = np.ceil(pixels.max(axis=1) + margin).clip(first, last).astype(int).tolist()
    return Window(col0, row0, col1 - col0, row1 - row0)


def _source_pixels_per_pixel(file: SiteFile, tile: TileGrid) -> tuple[int, int]:
    """Rows and columns of a file that one pixel at the centre of a tile spans, rounded, at least 1."""
    west, south, east, north = tile.bounds
    x, y = (west + east) / 2, (south + north) / 2
    points = np.array([x, x + PIXEL_M, x]), np.array([y, y, y + PIXEL_M])
    rows, cols = pixels_of(file.grid, tile.epsg, *points)
    spans = [math.hypot(axis[1] - axis[0], axis[2] - axis[0]) for axis in (rows, cols)]
    return max(1, round(spans[0])), max(1, round(spans[1]))


def _warp(file: SiteFile, values: NDArray[np.float64], window: Window, tile: TileGrid) -> NDArray[np.float64]:
    """Warp (band, y, x) from a window of a file to a tile's grid, with the catalog's resampling.

    A finer source is averaged with a kernel of a whole number of source pixels. By default, GDAL takes a fractional
    width, even if the pixels are equal and the grids are only rotated, and truncates it asymmetrically, which shifts
    planes by up to 0.13 px (measured, GDAL 3.10); with whole widths the shift is below 0.0001 px.

    GDAL only finds longitudes from -180 to 180, so a window that crosses 180 degrees is warped once per side.
    """
    pixels = np.full((len(values), tile.size_px, tile.size_px), np.nan)
    for x in origins(file.grid, window):
        turned = _warp_from(file, values, window, x, tile)
        pixels = np.where(np.isnan(pixels), turned, pixels)
    return pixels


def _warp_from(
    file: SiteFile, values: NDArray[np.float64], window: Window, x: float, tile: TileGrid
) -> NDArray[np.float64]:
    a, b, _, d, e, f = file.grid.transform
    y = f + d * window.col_off + e * window.row_off
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": window.height,
        "width": window.width,
        "dtype": "float64",
        "crs": rasterio.CRS.from_wkt(file.grid.crs),
        "transform": rasterio.Affine(a, b, x, d, e, y),
        "nodata": math.nan,
    }
    rows_per_pixel, cols_per_pixel = _source_pixels_per_pixel(file, tile)
    with MemoryFile() as memory:
        with memory.open(**profile) as native:
            native.write(values)
        with (
            memory.open() as native,
            WarpedVRT(
                native,
                crs=rasterio.CRS.from_epsg(tile.epsg),
                transform=rasterio.Affine(*tile.transform),
                height=tile.size_px,
                width=tile.size_px,
                resampling=Resampling[file.modality.resampling],
                tolerance=WARP_TOLERANCE_PX,
                XSCALE=1 / cols_per_pixel,
                YSCALE=1 / rows_per_pixel,
                UNIFIED_SRC_NODATA="NO",  # by default, a pixel is missing only if it is missing in all bands of the file
            ) as warped,
        ):
            found: NDArray[np.float64] = warped.read()
            return found
