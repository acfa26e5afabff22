"""A map of classes as a raster file: its legend, its pixels in strips of rows, and the number of pixels of each class."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmearth_data import FileInputError, open_raster
from mmearth_model.heads.network import Output
from mmearth_model.maps.raster import RasterGrid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES_TAG = "classes"
"""Tag of a class map with a JSON object: code of each class -> its name."""
STRIP_PX = 2**22
"""Maximum number of pixels per strip."""
MISSING = 2**16 - 1
"""Code of a pixel without a class in the digest; no class has it."""
CODE_TYPES = ("uint8", "uint16")
ROTATED = (
    "expected a grid with north up, which polygons and areas need, got one that is rotated, sheared or south up; warp it "
    "(gdalwarp)."
)


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Header of a class map, a raster file whose first band has class codes.

    Attributes
    ----------
    path
        The file.
    classes
        Classes of the file's legend, by code; empty if it has none.
    crs
        pyproj's CRS.
    transform
        Affine coefficients (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f.
    width, height
        Pixels.
    """

    path: Path
    classes: tuple[Output, ...]
    crs: Any
    transform: tuple[float, float, float, float, float, float]
    width: int
    height: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the header.

        Raises
        ------
        FileInputError
            If it cannot be read, or is not a north-up class map with a coordinate reference system.
        """
        with open_raster(path, path) as dataset:
            if dataset.dtypes[0] not in CODE_TYPES:
                raise FileInputError(
                    path,
                    f"expected a class map ({' or '.join(CODE_TYPES)}), got {dataset.dtypes[0]} values; use another "
                    "file.",
                )
            if dataset.crs is None or dataset.transform.is_identity:
                raise FileInputError(
                    path,
                    "expected a map with a coordinate reference system, got none; assign one with gdal_edit.py -a_srs.",
                )
            a, b, c, d, e, f = (float(number) for number in tuple(dataset.transform)[:6])
            grid = RasterGrid(
                crs=dataset.crs.to_wkt(), transform=(a, b, c, d, e, f), height=dataset.height, width=dataset.width
            )
            return cls.on(grid, path, _legend(dataset, path))

    @classmethod
    def on(cls, grid: RasterGrid, path: Path, classes: tuple[Output, ...] = ()) -> Self:
        """Return the header of a map on a grid; FileInputError if the grid is not north-up."""
        from pyproj import CRS

        a, b, _, d, e, _ = grid.transform
        if b or d or a <= 0 or e >= 0:
            raise FileInputError(path, ROTATED)
        crs = CRS.from_wkt(grid.crs)
        return cls(path=path, classes=classes, crs=crs, transform=grid.transform, width=grid.width, height=grid.height)

    def strips(self, rows: int = 0) -> Iterator[tuple[int, NDArray[Any], NDArray[np.bool_]]]:
        """Yield strips from north to south: first row, codes (h, W), and where there is a class (h, W).

        ``rows`` is the number of rows of a strip; 0 uses as many as `STRIP_PX` allows.
        """
        from rasterio.windows import Window

        step = rows or max(1, STRIP_PX // self.width)
        with open_raster(self.path, self.path) as dataset:
            for first in range(0, self.height, step):
                window = Window(0, first, self.width, min(step, self.height - first))
                yield first, dataset.read(1, window=window), dataset.read_masks(1, window=window) != 0

    def lonlat(self, columns: NDArray[Any], rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude of pixel coordinates; 0.5 is the centre of the first pixel."""
        from pyproj import Transformer

        a, _, c, _, e, f = self.transform
        lon, lat = Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True).transform(a * columns + c, e * rows + f)
        return np.asarray(lon), np.asarray(lat)

    def positions(self, lon: NDArray[Any], lat: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Column and row of the pixels at points in degrees; -1 outside the file."""
        from pyproj import Transformer

        a, _, c, _, e, f = self.transform
        x, y = Transformer.from_crs("EPSG:4326", self.crs, always_xy=True).transform(lon, lat)
        columns, rows = (np.asarray(x) - c) / a, (np.asarray(y) - f) / e
        inside = (columns >= 0) & (columns < self.width) & (rows >= 0) & (rows < self.height)  # False for infinities
        return np.where(inside, columns, -1).astype(np.intp), np.where(inside, rows, -1).astype(np.intp)

    @cached_property
    def census(self) -> Census:
        """Pixels of each class, counted in one pass over the file.

        Raises
        ------
        FileInputError
            If there is no pixel with a class.
        """
        counts: dict[int, NDArray[np.int64]] = {}
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.crs.to_wkt(), self.transform, self.width, self.height)).encode())
        for first, codes, seen in self.strips():
            plain = np.where(seen, codes.astype("<u2"), np.uint16(MISSING))
            digest.update(plain.tobytes())
            for code in np.flatnonzero(np.bincount(plain.ravel(), minlength=MISSING + 1)):
                per_row = counts.setdefault(int(code), np.zeros(self.height, dtype=np.int64))
                per_row[first : first + len(codes)] = (plain == code).sum(axis=1)
        counts.pop(MISSING, None)
        if not counts:
            raise FileInputError(
                self.path, "expected a class map, got one in which no pixel has a class; use another map."
            )
        return Census.of(self.classes, counts, digest.hexdigest())


@dataclass(frozen=True, kw_only=True, eq=False)
class Census:
    """Pixels of a map.

    Attributes
    ----------
    classes
        Classes of the legend and others that occur, by code.
    counts
        (K, H) int64: pixels of each class in each row.
    digest
        Digest of the map's grid and pixels. It does not depend on how the file is compressed.
    """

    classes: tuple[Output, ...]
    counts: NDArray[np.int64]
    digest: str

    @classmethod
    def of(cls, legend: tuple[Output, ...], counts: dict[int, NDArray[np.int64]], digest: str) -> Self:
        """Combine a legend with the number of pixels of each code in each row."""
        known = {output.code or 0: output for output in legend}
        found = {code: known.get(code) or unnamed(code) for code in counts}
        classes = tuple(sorted((known | found).values(), key=lambda output: output.code or 0))
        none = np.zeros_like(next(iter(counts.values())))
        return cls(
            classes=classes,
            counts=np.stack([counts.get(-1 if output.code is None else output.code, none) for output in classes]),
            digest=digest,
        )

    @property
    def pixels(self) -> NDArray[np.int64]:
        """(K,) pixels of each class."""
        total: NDArray[np.int64] = self.counts.sum(axis=1)
        return total


def unnamed(code: int) -> Output:
    """Class that is not in the map's legend."""
    return Output(name=f"class {code}", code=code)


def _legend(dataset: Any, path: Path) -> tuple[Output, ...]:  # noqa: ANN401 - rasterio has no types
    """Classes with names from the tag, and colours from the colour table."""
    text = dataset.tags().get(CLASSES_TAG)
    if text is None:
        return ()
    try:
        names = {int(code): str(name) for code, name in json.loads(text).items()}
    except (ValueError, AttributeError):
        raise FileInputError(
            path, f"expected a JSON object of codes and names in the tag {CLASSES_TAG}, got {text[:60]!r}; correct it."
        ) from None
    try:
        colours = dataset.colormap(1)
    except ValueError:  # rasterio raises this if there is none
        colours = {}
    return tuple(
        Output(
            name=name, code=code, colour="#{:02x}{:02x}{:02x}".format(*colours[code][:3]) if code in colours else None
        )
        for code, name in sorted(names.items())
    )
