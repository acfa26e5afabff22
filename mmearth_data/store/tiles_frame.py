"""GeoDataFrames of tiles: outlines that are decoded on first access, and vector files that other programs can read."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import shapely
from geopandas.array import GeometryArray, from_wkb

from mmearth_data.store.index import outlines_from_wkb

if TYPE_CHECKING:
    from numpy.typing import NDArray

CRS = "EPSG:4326"


class _Stored:
    """Outlines as stored, and as geometries once an array has accessed them."""

    def __init__(self, wkb: pa.ChunkedArray) -> None:
        self.count = len(wkb)
        self.wkb: pa.ChunkedArray | None = wkb
        """None once the geometries exist."""

    @cached_property
    def drawn(self) -> NDArray[np.object_]:
        """Geometries (n,)."""
        assert self.wkb is not None
        drawn = np.empty(self.count, dtype=object)
        chunks, self.wkb, start = self.wkb.chunks[::-1], None, 0
        while chunks:
            part = outlines_from_wkb(chunks.pop())
            pa.default_memory_pool().release_unused()
            drawn[start : start + len(part)] = part
            start += len(part)
        return drawn


class Outlines(GeometryArray):  # type: ignore[misc] # geopandas has no types
    """Outlines (n,) that stay encoded until they are accessed, since most uses of a table need no geometries.

    The first access to geometries turns the array into an ordinary `geopandas.array.GeometryArray`, and so do those of its
    views; pandas makes a view at each access to a column.
    """

    def __init__(self, stored: _Stored) -> None:
        self._stored = stored
        self._crs = None
        self.crs = CRS
        self._sindex = None

    @classmethod
    def from_wkb(cls, wkb: pa.ChunkedArray) -> Self:
        """Array of outlines in degrees, encoded as WKB."""
        return cls(_Stored(wkb))

    @property
    def _data(self) -> NDArray[np.object_]:
        """Geometries (n,), in the attribute where the parent class expects them."""
        drawn = self._stored.drawn.copy()  # callers can change the array; its views and copies must stay unchanged
        self.__class__ = GeometryArray
        self.__dict__["_data"] = drawn
        return drawn

    def __reduce__(self) -> tuple[Any, ...]:
        return from_wkb, (shapely.to_wkb(self._data), CRS)

    @property
    def size(self) -> int:
        """Number of outlines."""
        return self._stored.count

    @property
    def nbytes(self) -> int:
        """Bytes in memory; of geometries, only the pointers count."""
        wkb = self._stored.wkb
        return 8 * self.size if wkb is None else int(wkb.nbytes)

    def isna(self) -> NDArray[np.bool_]:
        """Boolean array (n,): which tiles have no outline."""
        wkb = self._stored.wkb
        return np.asarray(super().isna() if wkb is None else wkb.is_null().to_numpy())

    def equals(self, other: object) -> bool:
        """Whether another array has the same geometries."""
        for array in (self, other):
            if isinstance(array, Outlines):
                _ = array._data
        return bool(self.equals(other))

    def copy(self, *args: Any, **kwargs: Any) -> GeometryArray:
        """Copy the array."""
        return Outlines(self._stored)

    def take(self, indices: Any, allow_fill: bool = False, fill_value: Any = None) -> GeometryArray:  # noqa: ANN401 - as in pandas
        """Take outlines by position, as `pandas.api.extensions.ExtensionArray.take` does."""
        positions = np.asarray(indices, dtype=np.intp)
        wkb = self._stored.wkb
        if wkb is None or (positions < 0).any():
            return super().take(indices, allow_fill=allow_fill, fill_value=fill_value)
        return Outlines.from_wkb(wkb.take(positions))

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - an outline, or an array of them
        if self._stored.wkb is None or np.isscalar(index):
            return super().__getitem__(index)
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if (start, stop, step) == (0, len(self), 1):
                return Outlines(self._stored)
            return self.take(np.arange(start, stop, step))
        return self.take(np.arange(len(self))[pd.api.indexers.check_array_indexer(self, index)])


class TilesFrame(gpd.GeoDataFrame):  # type: ignore[misc] # geopandas has no types
    """GeoDataFrame of tiles; it differs from an ordinary one only in `to_file`."""

    def to_file(self, *args: Any, **options: Any) -> None:
        """Write the table as `geopandas.GeoDataFrame.to_file` does; GeoPackage preserves most of its content.

        Categories are written as text. OGR has no unsigned 64-bit integers, so ``tile_id`` is written as decimal digits.
        """
        wide = [name for name, dtype in self.dtypes.items() if dtype == np.uint64]
        frame: Self = self.assign(**{name: self[name].astype(str) for name in wide})
        gpd.GeoDataFrame(frame).to_file(*args, **options)
