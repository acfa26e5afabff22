"""A scene: one or several raster files of one area, read as the stored values that a network takes.

Coarser files are resampled to the grid of the finest one (bilinear, as band files of a labelled task are). A pixel that
no file covers is missing, and so is everything beyond the scene.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import open_raster, read_raster_window
from mmearth_model.data.targets import LEVELS
from mmearth_model.tasks.files import NO_LEVEL_CODE, OBSERVED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Marks, Modality

    Affine = tuple[float, float, float, float, float, float]

SAME_GRID_PX = 1e-3
"""Pixels by which two grids may differ and still count as equal."""
CACHE_MB = 128
"""Memory of GDAL's cache of decoded blocks per process; GDAL's default is a share of the machine's memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneBand:
    """One band of a scene.

    Attributes
    ----------
    modality, band
        Names in the catalog.
    number
        1-based position in its file.
    factors
        Scale and offset: stored = number * scale + offset.
    """

    modality: str
    band: str
    number: int
    factors: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFile:
    """One file of a scene.

    Attributes
    ----------
    path
        The file.
    stamp
        Text that changes whenever the file does.
    bands
        Bands that are read.
    marks
        Numbers that mean missing, instead of the file's no-data tag.
    shape
        (rows, columns).
    rows, columns
        Position in this file = factor * position in the scene + shift, along each axis, in pixels from the outer edge.
    """

    path: Path
    stamp: str
    bands: tuple[SceneBand, ...]
    marks: Marks
    shape: tuple[int, int]
    rows: tuple[float, float] = (1.0, 0.0)
    columns: tuple[float, float] = (1.0, 0.0)

    @property
    def on_grid(self) -> bool:
        """Whether its pixels are on the grid of the scene, though it may cover only a part of it."""
        return all(
            abs(factor - 1) * max(self.shape) < SAME_GRID_PX and abs(shift - round(shift)) < SAME_GRID_PX
            for factor, shift in (self.rows, self.columns)
        )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Files of one area, and how their numbers are converted to stored values.

    Attributes
    ----------
    files
        Together they have every band that the network takes, except those filled with the mean.
    modalities
        Modalities that the network takes.
    fills
        Modality -> band that no file has -> band that replaces it.
    crs
        Coordinate reference system, WKT.
    transform
        Affine coefficients (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f.
    height, width
        Pixels.
    level
        Processing level, None if the statistics do not depend on it.
    synthetic
        Whether tags of the files mark their pixels as synthetic.
    """

    files: tuple[SceneFile, ...]
    modalities: tuple[Modality, ...]
    crs: str
    transform: Affine
    height: int
    width: int
    level: str | None = None
    fills: Mapping[str, Mapping[str, str]]
    synthetic: bool = False

    @contextmanager
    def open(self) -> Iterator[SceneReader]:
        """Open the files for reading, by one thread.

        Raises
        ------
        FileInputError
            If a file cannot be read, on entry or within the context.
        """
        with ExitStack() as stack:
            stack.enter_context(bounded_cache())
            yield SceneReader(self, [stack.enter_context(open_raster(f.path, f.path)) for f in self.files])

    def tiles(self, count: int) -> dict[str, Any]:
        """Coordinates of ``count`` windows, as in a batch of a store."""
        code = NO_LEVEL_CODE if self.level is None else LEVELS.index(self.level)
        return {"tile_id": np.zeros(count, np.uint64), "s2_level": np.full(count, code, np.uint8)}

    def identity(self) -> dict[str, Any]:
        """Everything that determines the numbers that are read, JSON-ready."""
        return {
            "files": [
                [f.path.name, f.stamp, None if f.marks is None else list(f.marks), [[b.modality, b.band, b.number, *b.factors] for b in f.bands]]
                for f in self.files
            ],
            "fills": {name: dict(fills) for name, fills in self.fills.items()},
            "level": self.level,
            "grid": [self.crs, list(self.transform), self.height, self.width],
        }  # fmt: skip


class SceneReader:
    """Open files of a scene."""

    def __init__(self, scene: Scene, datasets: Sequence[Any]) -> None:
        self.scene, self._datasets = scene, datasets

    @cached_property
    def _bands(self) -> dict[str, dict[str, int]]:
        return {m.name: {band: index for index, band in enumerate(m.bands)} for m in self.scene.modalities}

    def read(self, top: int, left: int, height: int, width: int) -> dict[str, NDArray[np.float32]]:
        """Read a window, which may extend beyond the scene.

        Returns
        -------
        dict
            Modality -> (bands of the catalog, height, width) float32 stored numbers, the modality's no-data value
            where nothing was observed.
        """
        shape = (height, width)
        found = {m.name: np.full((len(m.bands), *shape), m.nodata, np.float32) for m in self.scene.modalities}
        inside = _inside(top, left, height, width, self.scene.height, self.scene.width)
        if inside is None:
            return found
        rows, columns = inside
        at = (slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left))
        nodata = {m.name: m.nodata for m in self.scene.modalities}
        for file, dataset in zip(self.scene.files, self._datasets, strict=True):
            values = _read(file, dataset, rows, columns)
            for band, plane in zip(file.bands, values, strict=True):
                place = found[band.modality][self._bands[band.modality][band.band]]
                place[at] = _stored(plane, band.factors, nodata[band.modality])
        for name, fills in self.scene.fills.items():
            for filled, other in fills.items():
                found[name][self._bands[name][filled]] = found[name][self._bands[name][other]]
        return found

    def tiles(self, count: int) -> dict[str, Any]:
        """Coordinates of ``count`` windows; see `Scene.tiles`."""
        return self.scene.tiles(count)

    def observed(self, numbers: Mapping[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
        """(height, width) where any band that the network sees was observed, of what `read` returned."""
        seen = [m.observed(numbers[m.name][m.band_indices(m.model_bands)]).any(axis=0) for m in self.scene.modalities]
        found: NDArray[np.bool_] = np.logical_or.reduce(seen)
        return found


@contextmanager
def bounded_cache() -> Iterator[None]:
    """Limit GDAL's cache of decoded blocks within the block, to `CACHE_MB`."""
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB * 2**20):
        yield


def _inside(
    top: int, left: int, height: int, width: int, rows: int, columns: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Part of a window within the scene: (first, end) rows and columns; None if there is none."""
    found = (max(0, top), min(rows, top + height)), (max(0, left), min(columns, left + width))
    return found if all(first < end for first, end in found) else None


def _stored(plane: NDArray[np.float32], factors: tuple[float, float], nodata: float) -> NDArray[np.float32]:
    """Convert numbers of a file, NaN where missing, to stored numbers; an observed one never equals the no-data value."""
    scale, offset = np.float32(factors[0]), np.float32(factors[1])
    values = plane if factors == (1.0, 0.0) else plane * scale + offset
    values = np.where(values == np.float32(nodata), np.float32(nodata + OBSERVED), values)
    return np.where(np.isnan(plane), np.float32(nodata), values)


def _read(
    file: SceneFile,
    dataset: Any,  # noqa: ANN401 - rasterio has no types
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> NDArray[np.float32]:
    """(bands of the file, rows, columns) float32 numbers of a part of the scene, NaN where missing."""
    if file.on_grid:
        (top, bottom), (left, right) = (
            (first + round(shift), end + round(shift))
            for (first, end), (_, shift) in ((rows, file.rows), (columns, file.columns))
        )
        return _read_part(file, dataset, top, left, bottom - top, right - left)
    row_of, column_of = _neighbours(*rows, *file.rows), _neighbours(*columns, *file.columns)
    top, left = int(row_of[0].min()), int(column_of[0].min())
    shape = int(row_of[0].max()) + 2 - top, int(column_of[0].max()) + 2 - left
    return _bilinear(_read_edged(file, dataset, top, left, *shape), top, left, row_of, column_of)


def _neighbours(first: int, end: int, factor: float, shift: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pixel of a coarser file before each position, and how far the position is from it to the next, 0 to 1."""
    at = (np.arange(first, end) + 0.5) * factor + shift - 0.5
    before = np.floor(at)
    return before.astype(np.int64), (at - before).astype(np.float32)


def _bilinear(
    values: NDArray[np.float32],
    top: int,
    left: int,
    row_of: tuple[NDArray[np.int64], NDArray[np.float32]],
    column_of: tuple[NDArray[np.int64], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Interpolate (C, h, w) numbers whose first pixel is (top, left); NaN next to a missing one."""
    row, down = row_of[0] - top, row_of[1][:, None]
    column, across = column_of[0] - left, column_of[1]
    upper, lower = values[:, row], values[:, row + 1]
    lines = upper + (lower - upper) * down
    before, after = lines[:, :, column], lines[:, :, column + 1]
    found: NDArray[np.float32] = before + (after - before) * across
    return found


def _read_edged(file: SceneFile, dataset: Any, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:  # noqa: ANN401
    """Read a part as `_read_part` does, with the outermost pixels of the file repeated once around it."""
    values = _read_part(file, dataset, top, left, height, width)
    for axis, first, length in ((1, top, file.shape[0]), (2, left, file.shape[1])):
        lines = np.moveaxis(values, axis, 0)
        for outer, inner in ((-1 - first, -first), (length - first, length - 1 - first)):
            if 0 <= outer < len(lines) and 0 <= inner < len(lines):
                lines[outer] = lines[inner]
    return values


def _read_part(file: SceneFile, dataset: Any, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:  # noqa: ANN401
    """(bands, height, width) float32 numbers of a part of a file, NaN where missing or outside."""
    from rasterio.windows import Window

    found = np.full((len(file.bands), height, width), np.nan, dtype=np.float32)
    inside = _inside(top, left, height, width, *file.shape)
    if inside is None:
        return found
    (first, end), (start, stop) = inside
    window = Window(start, first, stop - start, end - first)
    raster = read_raster_window(dataset, file.marks, [band.number for band in file.bands], window)
    values = raster.values.astype(np.float32)
    values[raster.missing] = np.nan
    found[:, first - top : end - top, start - left : stop - left] = values
    return found
