"""Pixels as files: NPY, GeoTIFF, PNG, and zip archives of them."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from mmearth_data.emulator.algorithms.image import parsed_crs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.image import Grid

    Array = NDArray[Any]


def npy(layers: Mapping[str, Array]) -> bytes:
    """Structured array with one field per band, as `computePixels` returns it."""
    shape = next(iter(layers.values())).shape
    out = np.empty(shape, np.dtype([(name, layer.dtype) for name, layer in layers.items()]))
    for name, layer in layers.items():
        out[name] = layer
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, out, allow_pickle=False)
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Archive of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def png(channels: Array) -> bytes:
    """PNG of (row, column, channel) bytes: 2 channels are grey and alpha, 4 are colours and alpha."""
    # PNG does not store the transform; without one, rasterio warns that the file has none.
    return _raster(np.moveaxis(channels, -1, 0), {"driver": "PNG", "transform": Affine.scale(2)})


def geotiff(layers: Mapping[str, Array], grid: Grid) -> bytes:
    """GeoTIFF with one sample per band, all of the type that holds them all; names of bands as descriptions."""
    dtype = np.result_type(*(layer.dtype for layer in layers.values()))
    if dtype.kind in "iu" and dtype.itemsize == 8:
        dtype = np.dtype(np.float64)  # not every reader supports integers of 64 bits
    a, b, _, d, e, _ = grid.projection.transform
    x, y = grid.projection.to_crs(grid.column, grid.row)
    profile = {
        "driver": "GTiff",
        "crs": CRS.from_wkt(parsed_crs(grid.projection.crs).to_wkt()),
        "transform": Affine(a, b, float(x), d, e, float(y)),
        "compress": "deflate",
        "interleave": "pixel",
        "photometric": "minisblack",
    }
    return _raster(np.stack([layer.astype(dtype) for layer in layers.values()]), profile, tuple(layers))


def _raster(bands: Array, profile: Mapping[str, Any], names: tuple[str, ...] = ()) -> bytes:
    count, height, width = bands.shape
    with MemoryFile() as memory:
        with memory.open(count=count, height=height, width=width, dtype=bands.dtype, **profile) as file:
            file.write(bands)
            if names:
                file.descriptions = names
        return bytes(memory.getbuffer())
