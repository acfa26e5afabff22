"""Dense embeddings: one vector per position of a georeferenced grid, and reading their files.

::

    X.zarr            group with attributes (geoemb, proj, spatial) and the arrays of one grid ...
    X.zarr/EPSG       ... or one such group per UTM zone of a store
    X.tif             one grid, one band per feature

Positions without data are NaN, or -128 in files of type int8, which have a scale per feature.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmearth_data import FileInputError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zarr
    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

EMBEDDING, SCALE = "embedding", "scale"
"""Arrays of a group: (feature, y, x), and for type int8 the scale of each feature."""
PIXEL = "pixel"
"""``geoemb:type`` of dense embeddings."""
LEVELS = 127
"""Largest stored value of type int8; the smallest is its negative."""
NODATA = -128
"""Stored value of positions without data in type int8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorGrid:
    """Georeferenced positions of vectors.

    Attributes
    ----------
    crs
        Coordinate reference system.
    transform
        Converts (column, row) of a position's upper left corner to (x, y).
    shape
        Rows and columns of positions.
    features
        Length of a vector.
    """

    crs: CRS
    transform: Affine
    shape: tuple[int, int]
    features: int

    def position(self, lon: float, lat: float) -> tuple[int, int] | None:
        """Row and column of the position at a location in degrees (EPSG:4326); None outside the grid."""
        from pyproj import Transformer

        x, y = Transformer.from_crs(4326, self.crs.to_wkt(), always_xy=True).transform(lon, lat)
        if not np.isfinite([x, y]).all():
            return None
        column, row = (int(np.floor(value)) for value in ~self.transform @ (x, y))
        return (row, column) if 0 <= row < self.shape[0] and 0 <= column < self.shape[1] else None

    def spans(self, side: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of squares of ``side`` positions that cover the grid, row by row."""
        for row, column in itertools.product(*(range(0, length, side) for length in self.shape)):
            yield slice(row, min(row + side, self.shape[0])), slice(column, min(column + side, self.shape[1]))


class Vectors(Protocol):
    """Vectors of one grid, read in parts."""

    @property
    def name(self) -> str:
        """Name among the grids of a file: "" if it is the only one, or the EPSG code of a zone."""
        ...

    @property
    def grid(self) -> VectorGrid:
        """Positions."""
        ...

    @property
    def side(self) -> int:
        """Positions along a side of the squares that are read efficiently."""
        ...

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """(D, h, w) vectors, NaN where a position has no data."""
        ...


def quantise(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Round (D, h, w) vectors to multiples of the scale (D,) of each feature; NaN becomes -128.

    The error is at most half of the scale if the scale is that of `scale_of_largest`.

    Examples
    --------
    >>> quantise(np.array([[[0.5, -1.0, np.nan]]], np.float32), scale_of_largest(np.ones(1, np.float32)))
    array([[[  64, -127, -128]]], dtype=int8)
    """
    steps = np.rint(values / scale[:, None, None]).clip(-LEVELS, LEVELS)
    return np.where(np.isnan(steps), NODATA, steps).astype(np.int8)


def scale_of_largest(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D,) scale of each feature by its largest absolute value, 1 where that is 0 or too small for a float32 scale."""
    scale = (largest / LEVELS).astype(np.float32)
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))


def restore(values: NDArray[Any], scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """(D, h, w) float32 vectors of stored values; the inverse of `quantise` if there is a scale."""
    if scale is None:
        return values.astype(np.float32, copy=False)
    return np.where(values == NODATA, np.float32(np.nan), values * scale[:, None, None])


@dataclass(frozen=True, slots=True)
class ZarrVectors:
    """Vectors in a group of a Zarr store."""

    name: str
    grid: VectorGrid
    array: zarr.Array[Any]
    scale: NDArray[np.float32] | None

    @property
    def side(self) -> int:
        """Positions along a side of a shard."""
        return int((self.array.shards or self.array.chunks)[-1])

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """See `Vectors.read`."""
        return restore(np.asarray(self.array[:, rows, columns]), self.scale)


@dataclass(frozen=True, slots=True)
class TiffVectors:
    """Vectors in a GeoTIFF with one band per feature."""

    path: Path
    grid: VectorGrid
    scale: NDArray[np.float32] | None
    name: str = ""
    side: int = 128

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """See `Vectors.read`."""
        import rasterio
        from rasterio.windows import Window

        with rasterio.open(self.path) as file:
            return restore(file.read(window=Window.from_slices(rows, columns)), self.scale)


def is_dense(path: Path) -> bool:
    """Whether a path is a file of dense embeddings."""
    if path.suffix == ".zarr":
        return zarr_attributes(path).get("geoemb:type") == PIXEL
    if path.suffix not in (".tif", ".tiff") or not path.is_file():
        return False
    import rasterio

    try:
        with rasterio.open(path) as file:
            return bool(file.tags().get("geoemb_type") == PIXEL)
    except rasterio.RasterioIOError:
        return False


def open_vectors(path: str | Path) -> tuple[Vectors, ...]:
    """Open a file of dense embeddings.

    Parameters
    ----------
    path
        x.zarr or x.tif of `mmearth_model.embed_dense`.

    Returns
    -------
    tuple
        The grids in it, one per UTM zone of a store: ``grid`` (crs, transform, shape, features), ``name`` and
        ``read(rows, columns)``, which returns (features, rows, columns) float32, NaN where there is no data.

    Raises
    ------
    FileInputError
        If it is not a dense embedding, or is damaged.

    Examples
    --------
    >>> (field,) = open_vectors("scene-vectors.zarr")  # doctest: +SKIP
    >>> field.read(slice(0, 64), slice(0, 64)).shape  # doctest: +SKIP
    (320, 64, 64)
    """
    path = Path(path)
    if not is_dense(path):
        raise FileInputError(
            path, "expected a dense embedding (mmearth-train embed --dense), got something else; correct the path."
        )
    try:
        return (_open_tiff(path),) if path.suffix != ".zarr" else _open_zarr(path)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FileInputError(path, f"expected a complete dense embedding, got: {reason_of(error)}.") from None


def zarr_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a Zarr group; empty if there is no group."""
    try:
        found = json.loads((path / "zarr.json").read_bytes())
    except (OSError, ValueError):
        return {}
    attributes = found.get("attributes", {}) if isinstance(found, dict) else {}
    return attributes if isinstance(attributes, dict) else {}


def _open_zarr(path: Path) -> tuple[Vectors, ...]:
    import zarr

    root = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
    if EMBEDDING in root:
        return (_group_vectors("", root),)
    return tuple(_group_vectors(name, group) for name, group in sorted(root.groups()))


def _group_vectors(name: str, group: zarr.Group) -> ZarrVectors:
    from affine import Affine
    from rasterio.crs import CRS

    array, scale = _array(group, EMBEDDING), None if SCALE not in group else _array(group, SCALE)
    attributes: dict[str, Any] = group.attrs.asdict()
    grid = VectorGrid(
        crs=CRS.from_user_input(attributes.get("proj:code") or attributes["proj:wkt2"]),
        transform=Affine(*attributes["spatial:transform"]),
        shape=(array.shape[1], array.shape[2]),
        features=array.shape[0],
    )
    return ZarrVectors(name, grid, array, None if scale is None else np.asarray(scale[:], dtype=np.float32))


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    import zarr

    found = group[name]
    if not isinstance(found, zarr.Array):
        raise TypeError(f"{name} is not an array")
    return found


def _open_tiff(path: Path) -> Vectors:
    import rasterio

    with rasterio.open(path) as file:
        grid = VectorGrid(crs=file.crs, transform=file.transform, shape=file.shape, features=file.count)
        scale = None if file.dtypes[0] == "float32" else np.array(file.scales, dtype=np.float32)
        return TiffVectors(path, grid, scale)
