"""Results as cloud-optimised GeoTIFFs, made from any number of blocks.

GDAL's driver COG copies a file and adds overviews, so blocks are first written to a plain GeoTIFF. GDAL reports a full
disk only in its log, if at all; the finished file is therefore read again and compared with the blocks before it is
published.
"""

from __future__ import annotations

import colorsys
import errno
import json
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from mmearth_data import (
    FileInputError,
    InputError,
    WriteFailed,
    missing_end,
    open_raster,
    staged_file,
    write_bytes,
    write_text,
)
from mmearth_model.maps.scene import bounded_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.heads.network import Output
    from mmearth_model.maps.blocks import Block

    Affine = tuple[float, float, float, float, float, float]
    Blocks = Callable[[], Iterator[tuple[Block, NDArray[Any]]]]

TILE_PX = 512
IDENTITY_TAG = "mmearth_identity"
"""Tag with the digest of everything that determined a result."""
CLASSES_TAG = "classes"
"""Tag with a JSON object: code of each class -> its name."""
SCORE_SCALE = 0.004
"""A score is stored as uint8: probability = number * 0.004, so 250 is certain; 255 is no-data."""
NO_SCORE = 255
FULL_BYTES = 2**24
"""If GDAL fails to write and less space than this is free, the disk counts as full: GDAL writes several tiles at once."""
GOLDEN = 0.618033988749895
"""Step of hues for classes without a colour, which keeps any number of them distinct."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RasterForm:
    """Form of a result.

    Attributes
    ----------
    bands
        Name of each band.
    dtype
        Data type.
    nodata
        Value of pixels without a result.
    units
        Unit of each band; empty for none.
    scale
        Value = number * scale; one scale, or one for each band.
    tile_px
        Pixels along a side of the tiles of the file, each of which holds all bands.
    classes
        Legend of the band, if its numbers are codes of classes.
    tags
        Facts for readers that have only the file.
    """

    bands: tuple[str, ...]
    dtype: str
    nodata: float
    units: tuple[str, ...] = ()
    scale: float | tuple[float, ...] = 1.0
    tile_px: int = TILE_PX
    classes: tuple[Output, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def resampling(self) -> str:
        """How overviews are computed."""
        whole = np.dtype(self.dtype).kind in "iu" and self.scale == 1.0
        return "MODE" if whole else "AVERAGE"


@dataclass(frozen=True, kw_only=True, slots=True)
class RasterGrid:
    """Grid of a result: CRS (WKT), affine coefficients, rows and columns."""

    crs: str
    transform: Affine
    height: int
    width: int


def code_form(outputs: Sequence[Output]) -> tuple[str, int]:
    """Choose the data type of a class map, and a no-data value that is no class code.

    Raises
    ------
    InputError
        If no type has room for the codes.
    """
    codes = {-1 if output.code is None else output.code for output in outputs}
    for dtype in ("uint8", "uint16"):
        limit = int(np.iinfo(dtype).max)
        free = next((number for number in range(limit, -1, -1) if number not in codes), None)
        if min(codes) >= 0 and max(codes) <= limit and free is not None:
            return dtype, free
    raise InputError(
        f"expected class codes from 0 to 65535, with one of them free for pixels without a class, got {len(codes)} codes from "
        f"{min(codes)} to {max(codes)}; such classes cannot be stored in a map."
    )


def colours_of(classes: Sequence[Output]) -> dict[int, tuple[int, int, int, int]]:
    """Colour of each class by code; classes without one get hues that differ from each other."""
    found = {}
    for number, output in enumerate(classes):
        red, green, blue = colorsys.hsv_to_rgb((number * GOLDEN) % 1, 0.65, 0.9)
        made = tuple(round(255 * part) for part in (red, green, blue))
        found[output.code or 0] = (*(bytes.fromhex(output.colour[1:]) if output.colour else made), 255)
    return found


def write_cog(path: Path, plain: Path, form: RasterForm, grid: RasterGrid, blocks: Blocks) -> None:
    """Write a result as a cloud-optimised GeoTIFF atomically, with the names of its classes in a file next to it.

    Parameters
    ----------
    path
        Its final name.
    plain
        Folder on the same disk for temporary files.
    form, grid
        Form and grid of the result.
    blocks
        Yields all blocks: where, and (bands, height, width) numbers. Called twice.

    Raises
    ------
    WriteFailed
        If the disk is full.
    """
    import rasterio.shutil
    from rasterio.errors import RasterioError

    first, second = plain / f"{path.name}.plain.tif", plain / f"{path.name}.cog.tif"
    with staged_file(path) as beside, bounded_cache():
        try:
            _write_plain(first, form, grid, blocks)
            rasterio.shutil.copy(first, second, driver="COG", **_cog_options(form))
            first.unlink()
            _check(second, blocks)
        except (RasterioError, FileInputError, IncompleteError) as error:
            left = shutil.disk_usage(plain).free
            for made in (first, second):
                made.unlink(missing_ok=True)
            raise _reason(path, left) from error
        if form.classes:
            write_text(path.with_name(f"{path.name}.aux.xml"), category_names(form.classes))
        second.replace(beside)


def _write_plain(path: Path, form: RasterForm, grid: RasterGrid, blocks: Blocks) -> None:
    import rasterio
    from rasterio.windows import Window

    tiling = {"tiled": True, "blockxsize": form.tile_px, "blockysize": form.tile_px, "bigtiff": "IF_SAFER", "zlevel": 1}
    profile = {**_profile(form, grid), **tiling, "num_threads": "ALL_CPUS"}
    with rasterio.open(path, "w", **profile) as plain:
        _describe(plain, form)
        for block, values in blocks():
            plain.write(values, window=Window(block.column, block.row, block.width, block.height))


def write_small(path: Path, form: RasterForm, grid: RasterGrid, values: NDArray[Any]) -> None:
    """Write (bands, height, width) numbers as a GeoTIFF without overviews, atomically.

    GDAL's file is made in memory. Raises WriteFailed if the disk is full.
    """
    from rasterio.io import MemoryFile

    with MemoryFile() as memory:
        with memory.open(**_profile(form, grid)) as plain:
            _describe(plain, form)
            plain.write(values)
        write_bytes(path, memory.getbuffer())


def _profile(form: RasterForm, grid: RasterGrid) -> dict[str, Any]:
    import rasterio

    return {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": len(form.bands), "dtype": form.dtype,
        "nodata": form.nodata, "crs": grid.crs, "transform": rasterio.Affine(*grid.transform), "compress": "DEFLATE",
    }  # fmt: skip


def _describe(plain: Any, form: RasterForm) -> None:  # noqa: ANN401 - rasterio has no types
    """Write names, units, legend and tags into an open file."""
    plain.descriptions = form.bands
    plain.scales = form.scale if isinstance(form.scale, tuple) else (form.scale,) * len(form.bands)
    if form.units:
        plain.units = form.units
    plain.update_tags(**form.tags, **_legend(form.classes))
    if form.classes:
        plain.write_colormap(1, colours_of(form.classes))


def _cog_options(form: RasterForm) -> dict[str, Any]:
    predictor = "NO" if form.resampling == "MODE" else "YES"
    return {
        "compress": "DEFLATE", "predictor": predictor, "blocksize": form.tile_px, "bigtiff": "IF_SAFER", "num_threads": "ALL_CPUS",
        "overview_resampling": form.resampling,
    }  # fmt: skip


def _legend(classes: Sequence[Output]) -> dict[str, str]:
    if not classes:
        return {}
    return {CLASSES_TAG: json.dumps({str(output.code): output.name for output in classes}, ensure_ascii=False)}


class IncompleteError(Exception):
    """A file on disk differs from what was written."""


def _check(written: Path, blocks: Blocks) -> None:
    """Compare a finished file with the blocks that it was made from."""
    from rasterio.windows import Window

    if missing_end(written) is not None:
        raise IncompleteError
    with open_raster(written, written) as dataset:
        for block, values in blocks():
            found = dataset.read(window=Window(block.column, block.row, block.width, block.height))
            if not np.array_equal(found, values, equal_nan=values.dtype.kind == "f"):
                raise IncompleteError


def _reason(path: Path, left_bytes: int) -> WriteFailed | OSError:
    """Why GDAL could not write a file, which its own error does not explain."""
    if left_bytes < FULL_BYTES:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return WriteFailed(
        str(path), "the file on disk differs from what was written; check the disk, and run the same command again."
    )


def category_names(classes: Sequence[Output]) -> str:
    """Names of classes in the format of GDAL's sidecar file (``.aux.xml``)."""
    names = {output.code: output.name for output in classes}
    last = max(code for code in names if code is not None)
    lines = [f"      <Category>{escape(names.get(code, ''))}</Category>" for code in range(last + 1)]
    body = "\n".join(["    <CategoryNames>", *lines, "    </CategoryNames>"])
    return f'<PAMDataset>\n  <PAMRasterBand band="1">\n{body}\n  </PAMRasterBand>\n</PAMDataset>\n'


def is_finished(path: Path, identity: str) -> bool:
    """Whether a file is the finished result of an identity.

    Raises
    ------
    InputError
        If another file has its name, which would be lost.
    """
    if not path.exists():
        return False
    try:
        with open_raster(path, path) as dataset:
            found = dataset.tags().get(IDENTITY_TAG)
    except FileInputError:
        found = None
    return refuse_other(path, found, identity)


def refuse_other(path: Path, found: str | None, identity: str) -> bool:
    """Return True if a file has the identity of a result; raises `InputError` if it is something else."""
    if found == identity:
        return True
    got = "another file" if found is None else "the result of another network, scene or option"
    raise InputError(f"{path}: expected a new file, found {got}; delete it, or choose another --out.")
