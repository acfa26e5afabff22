"""A store as an xarray data set: all tiles of a selection, or one tile with its grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends.common import BackendArray
from xarray.core import indexing

from mmearth_data.catalog.tile import format_tile_ids
from mmearth_data.store.about import extents
from mmearth_data.store.conventions import EXTENT, extent_attributes
from mmearth_data.store.root import flat_attributes
from mmearth_data.store.schema import COORDINATE_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.store.content import Content
    from mmearth_data.store.schema import ArraySpec

GRID_MAPPING = "spatial_ref"
"""Coordinate with the CRS of a tile; rioxarray and odc-geo look for this name first."""


class StoredArray(BackendArray):
    """Some rows of one array of a store, for xarray's lazy indexing.

    It reads through `Content`, so that a missing object raises an error instead of being read as missing data.
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
        values = self._content.read(self._name, np.atleast_1d(self._rows[key[0]]))
        return values[(slice(None) if isinstance(key[0], slice) else 0, *key[1:])]


def dataset(content: Content, rows: NDArray[np.intp], modalities: Sequence[Modality], *, scale: bool) -> xr.Dataset:
    """Return some rows and stored modalities as a data set; see `mmearth_data.store.reader.Store.to_xarray`.

    Rasters are in Dask chunks of as many tiles as the fullest shard has of the given rows; everything else is in memory.
    Chunks are equally long, as Zarr requires of what is written to it, although shards have gaps.
    """
    found = _stored_tiles(content, rows, modalities, scale=scale)
    chunks = {"tile": int(np.bincount(rows // content.layout.tiles_per_shard).max(initial=1))}
    return found.assign({m.name: found.variables[m.name].chunk(chunks) for m in modalities if m.kind.is_raster})


def tile_dataset(
    content: Content, row: int, modalities: Sequence[Modality], grid: TileGrid | None, *, scale: bool
) -> xr.Dataset:
    """Return one row in memory, with its grid if known; see `mmearth_data.store.tile.Tile.to_xarray`."""
    tiles = _stored_tiles(content, np.array([row]), modalities, scale=scale)
    # As an object: xarray would make it text of fixed length, for which Zarr has no specification.
    one_id = xr.Variable((), np.array(tiles["tile"].values[0], dtype=object), tiles["tile"].attrs)
    tile = tiles.isel(tile=0).load().assign_coords(tile=one_id)
    return tile if grid is None else _with_grid(tile, grid)


def _stored_tiles(
    content: Content, rows: NDArray[np.intp], modalities: Sequence[Modality], *, scale: bool
) -> xr.Dataset:
    """Rasters as lazy arrays, everything else in memory.

    Like split and level, class ids of tiles are coordinates, so that every variable can be grouped by them.
    """
    specs = {spec.name: spec for spec in content.layout.arrays}
    labels = [m.name for m in modalities if m.kind.is_categorical and not m.kind.is_raster]
    variables: dict[str, xr.Variable] = {}
    for m in modalities:
        variables[m.name] = _variable(content, specs[m.name], rows, _decoded_attributes(specs[m.name], m, scale=scale))
        if m.bands:
            band = specs[f"{m.name}_band"]
            variables[band.name] = xr.Variable(band.dimensions, np.array(m.bands, dtype=object), dict(band.attributes))
    variables["tile"] = _ids(content, rows)
    for name in ("time", *COORDINATE_NAMES):  # plots show the first coordinates in their titles
        variables[name] = _variable(content, specs[name], rows, dict(specs[name].attributes))
    variables |= {name: variables.pop(name) for name in labels}
    found = xr.decode_cf(xr.Dataset(variables, attrs=_root_attributes(content, rows)))
    for m in modalities:
        _complete(found.variables[m.name], m)
    found["time"].load()
    return found.set_coords([*COORDINATE_NAMES, *labels])


def _root_attributes(content: Content, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Attributes of the root, with the extent of the given rows."""
    attributes = flat_attributes(content.attributes)
    if not attributes.keys() & set(EXTENT) or len(rows) == np.count_nonzero(content.column("tile_id")):
        return attributes
    columns = {name: content.column(name)[rows] for name in ("tile_id", "lon", "lat", "time")}
    extent = extent_attributes(extents(columns, content.layout.size_px))
    return {name: value for name, value in attributes.items() if name not in EXTENT} | extent


def _complete(variable: xr.Variable, m: Modality) -> None:
    """Add the attributes and the encoding of a modality that `xarray.decode_cf` does not set."""
    if not m.kind.is_continuous:
        # Not _FillValue: results of arithmetic keep attributes, so their zeros would become NaN when read from a file.
        variable.attrs["nodata"] = m.dtype.type(m.nodata)
    if "scale_factor" in variable.encoding:  # exact in files, whatever the type in memory
        variable.encoding.update(scale_factor=m.scale, add_offset=m.offset)
    if not m.kind.is_raster:
        variable.load()


def _variable(content: Content, spec: ArraySpec, rows: NDArray[np.intp], attributes: dict[str, Any]) -> xr.Variable:
    """Raw values: lazy for rasters, in memory for columns. CF requires flags to have the type of their variable."""
    for flags in {"flag_values", "flag_masks"} & attributes.keys():
        attributes[flags] = np.array(attributes[flags], dtype=spec.dtype)
    data = (
        indexing.LazilyIndexedArray(StoredArray(content, spec, rows))
        if spec.sharded
        else content.column(spec.name)[rows]
    )
    return xr.Variable(spec.dimensions, data, attributes)


def _ids(content: Content, rows: NDArray[np.intp]) -> xr.Variable:
    """Index of tiles by id. xarray uses a pandas index as is, but would convert an array of texts twice."""
    ids = pd.Index(format_tile_ids(content.column("tile_id")[rows]), dtype=object)
    return xr.Variable(("tile",), ids, {"long_name": "tile id: tile_id as 16 hex digits"})


def _decoded_attributes(spec: ArraySpec, m: Modality, *, scale: bool) -> dict[str, Any]:
    """Attributes of a modality for `xarray.decode_cf`.

    Codes get no ``_FillValue``, since it would turn them into floats. Scale and offset become ``scale_factor`` and
    ``add_offset``, in the smallest floating-point type that holds the stored values.
    """
    attributes = {name: value for name, value in spec.attributes.items() if name not in ("_FillValue", "coordinates")}
    if m.kind.is_continuous:
        attributes["_FillValue"] = spec.empty
    if scale and m.kind.is_continuous and (m.scale, m.offset) != (1, 0):
        kind = np.result_type(m.dtype, np.float32).type
        attributes |= {"scale_factor": kind(m.scale), "add_offset": kind(m.offset), "units": m.units}
    return attributes


def _with_grid(tile: xr.Dataset, grid: TileGrid) -> xr.Dataset:
    """Add pixel centres and the coordinate reference system, following the conventions of CF and GDAL."""
    from pyproj import CRS

    crs = CRS.from_epsg(grid.epsg)
    x, y = grid.pixel_centres()
    axes = {axis["axis"]: axis for axis in crs.cs_to_cf()}
    a, b, c, d, e, f = grid.transform
    attributes = crs.to_cf()
    attributes["spatial_ref"] = attributes["crs_wkt"]
    attributes["GeoTransform"] = " ".join(f"{value:.15g}" for value in (c, a, b, f, d, e))
    for variable in tile.data_vars.values():
        if "x" in variable.dims:
            variable.encoding["grid_mapping"] = GRID_MAPPING
        if variable.dtype.kind == "f":
            variable.encoding["nodata"] = np.nan  # odc-geo would use the stored no-data code instead
    return tile.assign_coords(
        {"x": ("x", x, axes["X"]), "y": ("y", y, axes["Y"]), GRID_MAPPING: ((), np.int32(grid.epsg), attributes)}
    )
