"""GeoDataFrames of tiles: outlines that are made when they are asked for, and files that other programs can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import geopandas as gpd
import numpy as np
import pandas as pd
from geopandas.array import GeometryArray

from mmearth_data.store.index import outlines_from_wkb

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

CRS = "EPSG:4326"


class Outlines(GeometryArray):  # type: ignore[misc] # geopandas has no types
    """Outlines as stored, which become geometries on first use: most uses of a table of a million tiles need none."""

    _stored: pa.ChunkedArray | None = None
    _drawn: NDArray[np.object_] | None = None

    def __init__(self, stored: pa.ChunkedArray) -> None:
        self._stored = stored
        self._crs = None
        self.crs = CRS
        self._sindex = None

    @property
    def _data(self) -> NDArray[np.object_]:
        """Geometries (n,), where the parent class has them."""
        if self._drawn is None:
            assert self._stored is not None
            parts = [outlines_from_wkb(chunk) for chunk in self._stored.chunks]
            self._drawn = np.concatenate(parts) if parts else np.empty(0, dtype=object)
            self._stored = None
        return self._drawn

    @_data.setter
    def _data(self, geometries: NDArray[np.object_]) -> None:
        self._drawn = geometries

    @property
    def size(self) -> int:
        """Number of outlines."""
        return len(self._stored) if self._stored is not None else len(self._data)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, of which geometries count their pointers only."""
        return int(self._stored.nbytes) if self._stored is not None else int(self._data.nbytes)

    def isna(self) -> NDArray[np.bool_]:
        """Boolean array (n,): which tiles have no outline."""
        if self._stored is None:
            return np.asarray(super().isna())
        return np.asarray(self._stored.is_null().to_numpy())

    def copy(self, *args: Any, **kwargs: Any) -> GeometryArray:
        """Copy the array; what is not drawn cannot change and is shared."""
        return super().copy(*args, **kwargs) if self._stored is None else Outlines(self._stored)

    def take(self, indices: Any, allow_fill: bool = False, fill_value: Any = None) -> GeometryArray:  # noqa: ANN401, FBT001, FBT002 - as in pandas
        """Take outlines by position, as `pandas.api.extensions.ExtensionArray.take` does."""
        positions = np.asarray(indices, dtype=np.intp)
        if self._stored is None or (positions < 0).any():
            return super().take(indices, allow_fill=allow_fill, fill_value=fill_value)
        return Outlines(self._stored.take(positions))

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - an outline, or an array of them
        if self._stored is None:
            return super().__getitem__(index)
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return Outlines(self._stored.slice(start, max(0, stop - start)))
        elif not np.isscalar(index):
            index = pd.api.indexers.check_array_indexer(self, index)
            if isinstance(index, np.ndarray):
                return self.take(np.arange(len(self))[index])
        return super().__getitem__(index)


class TilesFrame(gpd.GeoDataFrame):  # type: ignore[misc] # geopandas has no types
    """GeoDataFrame of tiles; it differs from others only in what it writes to vector files."""

    def to_file(self, *args: Any, **options: Any) -> None:
        """Write the table as `geopandas.GeoDataFrame.to_file` does; GeoPackage keeps the most.

        Categories become text. OGR has no unsigned 64-bit integers, so ``tile_id`` becomes text of its decimal digits.
        """
        wide = [name for name, dtype in self.dtypes.items() if dtype == np.uint64]
        frame: Self = self.assign(**{name: self[name].astype(str) for name in wide})
        gpd.GeoDataFrame(frame).to_file(*args, **options)
