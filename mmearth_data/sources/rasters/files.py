"""Raster files: everything known from a file's header, before its pixels are read."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from mmearth_data.catalog.tile import NO_TIME, PIXEL_M, TileGrid
from mmearth_data.errors import FileInputError
from mmearth_data.rasterfile import Calibration, calibrate, check_marks, marks_synthetic, open_raster, tags_of
from mmearth_data.sources.rasters.georeferencing import (
    georeferencing_problem,
    horizontal,
    true_sides,
    warp_to,
    warp_to_utm,
)
from mmearth_data.sources.rasters.tiff import missing_end
from mmearth_data.words import os_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.sources.rasters.mapping import Layer

SAME_GRID_PX = 1e-3
"""Pixels by which two grids may differ and still count as equal: too little to show in the pixels."""
SCALE_TOLERANCE = 0.05
"""Largest deviation of a projection's scale from 1, and thus of a tile's true size from its nominal size."""
DRIVERS = ("GTiff", "COG", "JP2OpenJPEG")
"""Accepted formats, which contain their pixels; the digest of a VRT would not cover the files behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RasterGrid:
    """Pixel grid of a file."""

    crs: str
    """WKT."""
    epsg: int | None
    """EPSG code, None if it has none."""
    transform: tuple[float, float, float, float, float, float]
    """Affine coefficients (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f."""
    height: int
    width: int

    def tile(self, row: int, col: int, size_px: int) -> TileGrid:
        """Grid of the tile whose upper-left pixel is (row, col); the grid must be a base grid."""
        a, _, c, _, e, f = self.transform
        return TileGrid(epsg=self.epsg or 0, ulx=c + a * col, uly=f + e * row, size_px=size_px)

    def shift(self, tile: TileGrid) -> tuple[int, int] | None:
        """(row, col) of a tile's upper-left pixel if the tile is aligned with this grid, else None."""
        if tile.epsg != self.epsg:
            return None
        rows, cols = self.pixels(np.array(tile.bounds[0::2]), np.array(tile.bounds[3::-2]))
        row, col = round(rows[0]), round(cols[0])
        off = max(abs(rows - [row, row + tile.size_px]).max(), abs(cols - [col, col + tile.size_px]).max())
        axes = abs(self.transform[1]) + abs(self.transform[3])
        return (row, col) if off < SAME_GRID_PX and axes * tile.size_px < SAME_GRID_PX * PIXEL_M else None

    def pixels(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(rows, cols) of points in the grid's CRS; 0 is the outer edge of the first pixel."""
        a, b, c, d, e, f = self.transform
        determinant = a * e - b * d
        rows = (a * (y - f) - d * (x - c)) / determinant
        cols = (e * (x - c) - b * (y - f)) / determinant
        return rows, cols


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFile:
    """One file of one site, inspected."""

    path: Path
    name: str
    """Its path relative to the mapping's root."""
    layer: Layer
    """How it is read at this site."""
    modality: Modality
    grid: RasterGrid
    calibration: Calibration
    """Scale and offset of each band that is read."""
    time_ms: int
    """UTC milliseconds since 1970, or `NO_TIME`."""
    synthetic: bool = False
    """Whether its tags mark its pixels as synthetic."""


@contextmanager
def quiet_georeferencing() -> Iterator[None]:
    """Silence rasterio's warning about files without a grid; `inspect` refuses them with a message of its own.

    Python's warning filters belong to the whole process, so this is entered once, around all threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def inspect(path: Path, name: str, layer: Layer, modality: Modality) -> SiteFile:
    """Read a file's header and check it.

    Raises FileInputError if the file is truncated or not a GeoTIFF, or has no grid, another number of bands than in the
    mapping, or no date although the mapping expects one.
    """
    _check_whole(path)
    with open_raster(path, path) as dataset:
        problem = _header_problem(dataset, layer)
        if problem:
            raise FileInputError(path, problem)
        crs = horizontal(dataset.crs)
        check_marks(layer.nodata, dataset.dtypes, path)
        grid = RasterGrid(
            crs=crs.to_wkt(),
            epsg=crs.to_epsg(),
            transform=tuple(dataset.transform)[:6],
            height=dataset.height,
            width=dataset.width,
        )
        return SiteFile(
            path=path,
            name=name,
            layer=layer,
            modality=modality,
            grid=grid,
            calibration=_calibration(dataset, path, layer, modality),
            time_ms=_date(path, layer, dataset.tags()),
            synthetic=marks_synthetic(dataset.tags()),
        )


def _calibration(dataset: Any, path: Path, layer: Layer, modality: Modality) -> Calibration:  # noqa: ANN401
    """Calibration of a file; `codes` are not scaled, and the file's tags are then reported as ignored."""
    tags = tags_of(dataset, layer.band_numbers)
    scale, offset = (layer.scale, layer.offset) if layer.codes is None else (1.0, 0.0)
    return calibrate(tags, modality, scale, offset, path)


def _check_whole(path: Path) -> None:
    try:
        end, size = missing_end(path), path.stat().st_size
    except OSError as error:
        raise FileInputError(path, f"expected a file that can be read: {os_problem(error)}.") from None
    if end is not None:
        raise FileInputError(path, f"expected at least {end} bytes, got {size}: it is truncated; copy it again.")


def _date(path: Path, layer: Layer, tags: Mapping[str, str]) -> int:
    if layer.date is None:
        return NO_TIME
    try:
        return layer.date.time_ms(path.name, tags)
    except ValueError as error:
        raise FileInputError(path, f"{error}; correct the date of {layer.modality} in the mapping.") from None


def base_of(files: Sequence[SiteFile]) -> SiteFile:
    """Choose the file that defines the grid of the tiles: the first one with 10 m pixels.

    ``files`` are those of the base modality at one site, at least one. Raises FileInputError if none has such a grid;
    it names the file with the smallest pixels.
    """
    usable = next((file for file in files if base_problem(file) is None), None)
    if usable is not None:
        return usable
    finest = min(files, key=lambda file: abs(file.grid.transform[0]))
    others = f" (the finest of {len(files)} files of {finest.modality.name})" if len(files) > 1 else ""
    raise FileInputError(finest.path, f"{base_problem(finest)}{others}.")


def base_problem(file: SiteFile) -> str | None:
    """Reason why a file's grid cannot be the grid of tiles, without a full stop, or None."""
    a, b, _, d, e, _ = file.grid.transform
    longest = max(file.grid.height, file.grid.width)
    epsg = file.grid.epsg
    if epsg is None or not rasterio.CRS.from_epsg(epsg).is_projected:
        expected, got = "in a projected CRS with an EPSG code (UTM)", _crs_name(file.grid.crs)
        return f"expected a base grid {expected}, got {got}; warp it: {_warp(file.grid)}"
    if rasterio.CRS.from_epsg(epsg).linear_units_factor[1] != 1:
        got = _crs_name(file.grid.crs)
        return f"expected a base grid in metres, got {got}; warp it to UTM: {_warp(file.grid)}"
    if (abs(b) + abs(d)) * longest > SAME_GRID_PX * PIXEL_M:
        got = ", ".join(f"{number:g}" for number in file.grid.transform)
        return f"expected a base grid with north up, got the rotated transform ({got}); warp it: {warp_to(epsg)}"
    if max(abs(a - PIXEL_M), abs(e + PIXEL_M)) * longest > SAME_GRID_PX * PIXEL_M:
        return (
            f"expected a base grid of 10 m pixels with north up, got {a:g} x {-e:g} m; map a layer of "
            f"{file.modality.name} with pixels of 10 m, choose another base, or warp it: {warp_to(epsg)}"
        )
    return None


def scale_problem(file: SiteFile) -> str | None:
    """Reason why tiles of a base grid would not have their true size, or None."""
    sides = true_sides(file.grid.crs, file.grid.transform, file.grid.width / 2, file.grid.height / 2)
    if any(SCALE_TOLERANCE < abs(side / PIXEL_M - 1) < math.inf for side in sides):
        return (
            f"expected a base grid whose pixels are 10 m on the Earth's surface, got {sides[0]:.3g} x {sides[1]:.3g} m "
            f"because of the scale of {_crs_name(file.grid.crs)} there; warp it: {_warp(file.grid)}."
        )
    return None


def _warp(grid: RasterGrid) -> str:
    return warp_to_utm(grid.crs, grid.transform, grid.height, grid.width)


def _header_problem(dataset: Any, layer: Layer) -> str | None:  # noqa: ANN401 - rasterio has no types
    if dataset.driver not in DRIVERS:
        return f"expected a GeoTIFF or JPEG 2000, got the format {dataset.driver}; convert it."
    if dataset.count != len(layer.bands):
        return (
            f"expected {len(layer.bands)} bands as the mapping lists them, got {dataset.count}; "
            "list one name per band of the file, null for those to skip."
        )
    problem = georeferencing_problem(dataset)
    if problem:
        return problem
    if any(np.dtype(t).kind not in "iuf" for t in dataset.dtypes):
        return f"expected integers or floating-point numbers, got {dataset.dtypes[0]}; convert it."
    return None


def _crs_name(wkt: str) -> str:
    name = wkt.split('"')[1] if '"' in wkt else wkt
    return name or "an unnamed CRS"
