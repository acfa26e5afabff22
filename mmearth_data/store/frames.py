"""A store as an xarray data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends.common import BackendArray
from xarray.core import indexing

from mmearth_data.store.root import flat_attributes
from mmearth_data.store.schema import COORDINATE_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.store.content import Content
    from mmearth_data.store.schema import ArraySpec


class StoredArray(BackendArray):
    """Some rows of one array of a store, for xarray's lazy indexing.

    It reads through `Content`, so that a missing object is an error and not missing data.
    """

    def __init__(self, content: Content, spec: ArraySpec, rows: NDArray[np.intp]) -> None:
        self.shape = (len(rows), *spec.shape[1:])
        self.dtype = spec.dtype
        self._content = content
        self._name = spec.name
        self._rows = rows

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:  # noqa: ANN401 - as xarray declares it
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        wanted = np.atleast_1d(self._rows[key[0]])
        first, last = (int(wanted.min()), int(wanted.max())) if len(wanted) else (0, -1)
        values = self._content.read(self._name, range(first, last + 1))
        if len(wanted) != len(values) or (len(wanted) > 1 and wanted[0] > wanted[1]):
            values = values[wanted - first]
        return values[(slice(None) if isinstance(key[0], slice) else 0, *key[1:])]


def dataset(content: Content, rows: NDArray[np.intp], names: Sequence[str]) -> xr.Dataset:
    """Xarray data set of some rows and modalities, decoded as by `xarray.open_zarr`.

    Dask chunks are the shards, limited to the given rows.
    """
    variables: dict[str, xr.Variable] = {}
    specs = {spec.name: spec for spec in content.layout.arrays}
    for name in (*names, *COORDINATE_NAMES):
        spec = specs[name]
        lazy = indexing.LazilyIndexedArray(StoredArray(content, spec, rows))
        attributes = {**spec.attributes}
        if "_FillValue" in attributes:
            attributes["_FillValue"] = spec.empty
        for flags in {"flag_values", "flag_masks"} & attributes.keys():  # CF: of the variable's own type
            attributes[flags] = np.array(attributes[flags], spec.dtype)
        variables[name] = xr.Variable(spec.dimensions, lazy, attributes)
    for m in content.layout.stored:
        if m.bands and m.name in names:
            spec = specs[f"{m.name}_band"]
            variables[spec.name] = xr.Variable(spec.dimensions, np.array(m.bands, dtype=object), dict(spec.attributes))
    decoded = xr.decode_cf(xr.Dataset(variables, attrs=flat_attributes(content.attributes)))
    tiles = np.bincount(rows // content.layout.tiles_per_shard)
    return decoded.chunk({"tile": tuple(tiles[tiles > 0].tolist()) or (0,)})
