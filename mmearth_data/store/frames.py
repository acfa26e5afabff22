"""A store as xarray and geopandas see it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import xarray as xr
from xarray.backends.common import BackendArray
from xarray.core import indexing

from mmearth_data.store.commits import BATCH_ROWS, empty_commit, tiles_table
from mmearth_data.store.index import outlines_from_wkb, tile_outlines
from mmearth_data.store.schema import COORDINATE_NAMES, TILES_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.store.content import Content
    from mmearth_data.store.schema import ArraySpec


class StoredArray(BackendArray):
    """Some rows of one array of a store, as xarray's lazy indexing asks for them.

    It reads through `Content`, so that a missing object is an error here too, and not missing data.
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
    """Hand given rows and modalities to xarray, decoded as `xarray.open_zarr` does.

    Dask chunks are the shards, as far as their rows are among the given ones.
    """
    variables: dict[str, xr.Variable] = {}
    specs = {spec.name: spec for spec in content.layout.arrays}
    for name in (*names, *COORDINATE_NAMES):
        spec = specs[name]
        lazy = indexing.LazilyIndexedArray(StoredArray(content, spec, rows))
        attributes = {**spec.attributes}
        if "_FillValue" in attributes:
            attributes["_FillValue"] = spec.empty
        variables[name] = xr.Variable(spec.dimensions, lazy, attributes)
    for m in content.layout.stored:
        if m.bands and m.name in names:
            spec = specs[f"{m.name}_band"]
            variables[spec.name] = xr.Variable(spec.dimensions, np.array(m.bands, dtype=object), dict(spec.attributes))
    decoded = xr.decode_cf(xr.Dataset(variables, attrs=dict(content.attributes)))
    tiles = np.bincount(rows // content.layout.tiles_per_shard)
    return decoded.chunk({"tile": tuple(tiles[tiles > 0].tolist()) or (0,)})


def tiles_frame(content: Content, rows: NDArray[np.intp]) -> GeoDataFrame:
    """Index of the given rows: every 1-D value, facts and outline."""
    import geopandas as gpd
    import shapely

    if content.manifest is None:
        table, outlines = _committed_table(content)
        kept = np.flatnonzero(np.isin(table["row"].to_numpy(), rows))
        frame = table.take(kept).to_pandas(use_threads=False)
        return gpd.GeoDataFrame(frame, geometry=shapely.from_wkb(outlines[kept]), crs="EPSG:4326")
    with content.open_checked(TILES_KEY) as stream:
        frame, geometry = _sealed_table(stream, content.layout.tiles, rows)
    return gpd.GeoDataFrame(frame, geometry=geometry, crs="EPSG:4326")


def _sealed_table(stream: BinaryIO, tiles: int, rows: NDArray[np.intp]) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """Values and outlines of the given rows, read piece by piece: a thread makes geometries of what is decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream, pre_buffer=False)
    wanted = np.zeros(tiles, dtype=np.bool_)
    wanted[rows] = True
    values, outlines = [], []
    with ThreadPoolExecutor(1) as pool:
        for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
            kept = batch if len(rows) == tiles else batch.filter(pa.array(wanted[batch["row"].to_numpy()]))
            outlines.append(pool.submit(outlines_from_wkb, kept["geometry"]))
            values.append(kept.drop_columns(["geometry"]))
        schema = file.schema_arrow
        table = pa.Table.from_batches(values, schema.remove(schema.get_field_index("geometry")))
        frame = table.to_pandas(use_threads=False)
        geometry = np.concatenate([np.empty(0, dtype=object), *(part.result() for part in outlines)])
    return frame, geometry


def _committed_table(content: Content) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    import pyarrow as pa
    import shapely

    commits = list(content.commits.values()) or [empty_commit(content.layout)]
    table = pa.concat_tables([tiles_table(commit, content.layout.tabular) for commit in commits])
    outlines = [shapely.to_wkb(tile_outlines(commit.columns, content.layout.size_px)) for commit in commits]
    return table, np.concatenate(outlines)
