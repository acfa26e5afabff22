"""Tiles as STAC items: the columns and the file metadata that stac-geoparquet 1.1 adds to ``tiles.parquet``.

https://github.com/radiantearth/stac-geoparquet-spec, https://github.com/radiantearth/stac-spec (1.1.0).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M, as_datetime64_ms
from mmearth_data.store.root import collection_id
from mmearth_data.store.schema import tabular_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from mmearth_data.store.root import Root
    from mmearth_data.store.schema import StoreLayout

STAC_VERSION = "1.1.0"
SPECIFICATION = "1.1.0"
"""Version of the stac-geoparquet specification."""
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
COLLECTION_HREF = "./collection.json"
ZARR_TYPE = "application/vnd.zarr; version=3"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
WORLD = (-180.0, -90.0, 180.0, 90.0)
MULTIPOLYGON = 6
"""Type id of shapely for outlines across 180 degrees."""
TIME_COLUMN = "datetime"
"""Name of the coordinate ``time`` in STAC."""
ITEM_COLUMNS = frozenset(
    {"id", "bbox", TIME_COLUMN, "type", "stac_version", "stac_extensions", "collection", "links", "assets"}
)
"""Columns whose names a label could also have; a store with such a label has the columns of version 1."""
FEW_VALUES = (
    "type",
    "stac_version",
    "stac_extensions.list.element",
    "collection",
    "links.list.element.href",
    "links.list.element.rel",
    "links.list.element.type",
    "assets.zarr.href",
    "assets.zarr.type",
    "assets.zarr.roles.list.element",
    "proj:code",
    "proj:shape.list.element",
)
"""Parquet columns with few different values, stored with dictionary encoding."""


def has_items(root: Root) -> bool:
    """Whether the tables of a store describe its tiles as STAC items, as they do from version 2 on."""
    names = {column for m in root.layout.tabular for column in tabular_columns(m)}
    return root.version > 1 and names.isdisjoint(ITEM_COLUMNS)


def id_texts(tile_ids: np.ndarray[Any, Any]) -> pa.StringArray:
    """Tile ids (n,) as a text column of 16 hex digits each."""
    import pyarrow as pa

    ends = np.arange(0, 16 * len(tile_ids) + 1, 16, dtype=np.int32)
    digits = tile_ids.astype(">u8").tobytes().hex().encode()
    return pa.StringArray.from_buffers(len(tile_ids), pa.py_buffer(ends), pa.py_buffer(digits))


def outline_boxes(outlines: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """West, south, east and north (n, 4) of outlines in degrees; NaN where there is none.

    If an outline crosses 180 degrees, west is greater than east, as in RFC 7946, section 5.2, and thus in GeoParquet and STAC.
    """
    import shapely

    boxes: np.ndarray[Any, Any] = shapely.bounds(outlines)
    for position in np.flatnonzero(shapely.get_type_id(outlines) == MULTIPOLYGON):
        parts = shapely.bounds(shapely.get_parts(outlines[position]))
        boxes[position, 0] = parts[parts[:, 0] > 0, 0].min()
        boxes[position, 2] = parts[parts[:, 0] <= 0, 2].max()
    return boxes


def box_column(boxes: np.ndarray[Any, Any]) -> pa.StructArray:
    """Bounding box column of GeoParquet 1.1, null where there is no outline; see `outline_boxes`."""
    import pyarrow as pa

    fields = [pa.array(np.ascontiguousarray(column)) for column in boxes.T]
    return pa.StructArray.from_arrays(
        fields, names=["xmin", "ymin", "xmax", "ymax"], mask=pa.array(np.isnan(boxes[:, 0]))
    )


def renamed(table: pa.Table, old: str, new: str) -> pa.Table:
    """Rename a column of a table, if the table has it."""
    return table.rename_columns([new if name == old else name for name in table.column_names])


def item_columns(
    columns: Mapping[str, np.ndarray[Any, Any]], boxes: np.ndarray[Any, Any], root: Root
) -> dict[str, pa.Array]:
    """Columns of STAC items that are not properties, and those of the projection extension.

    ``columns`` are the coordinates (n,) of some tiles, ``boxes`` (n, 4) those of their outlines.
    """
    import pyarrow as pa

    count = len(columns["tile_id"])
    size = [root.layout.size_px] * 2
    return {
        "bbox": box_column(boxes),
        **{name: _repeated(value, count) for name, value in _constants(root).items()},
        "proj:code": _codes(columns["epsg"]),
        "proj:transform": _transforms(columns["ulx"], columns["uly"]),
        "proj:shape": _repeated(pa.scalar(size, pa.list_(pa.int64())), count),
    }


def _constants(root: Root) -> dict[str, pa.Scalar]:
    """Values that all items of a store share; paths are relative to the store, which contains its tables."""
    import pyarrow as pa

    text = pa.string()
    link = pa.struct({"href": text, "rel": text, "type": text})
    asset = pa.struct({"href": text, "type": text, "roles": pa.list_(text)})
    collection = {"href": COLLECTION_HREF, "rel": "collection", "type": "application/json"}
    zarr = {"href": "./", "type": ZARR_TYPE, "roles": ["data"]}
    return {
        "type": pa.scalar("Feature"),
        "stac_version": pa.scalar(STAC_VERSION),
        "stac_extensions": pa.scalar([PROJECTION], pa.list_(text)),
        "collection": pa.scalar(collection_id(root.attributes)),
        "links": pa.scalar([collection], pa.list_(link)),
        "assets": pa.scalar({"zarr": zarr}, pa.struct({"zarr": asset})),
    }


def with_files(table: pa.Table, files: Mapping[str, Sequence[str]]) -> pa.Table:
    """Replace the assets of STAC items, which are parts of a store, with files outside it.

    The items lose their collection, which belongs to the store. A table without items is returned unchanged.

    Parameters
    ----------
    table
        Rows of ``tiles.parquet``.
    files
        Name of an asset -> path (n,) of the GeoTIFF of each row, relative to the table.
    """
    import pyarrow as pa

    if "assets" not in table.column_names:
        return table
    values = {}
    for name, paths in files.items():
        kind, roles = _repeated(pa.scalar(COG_TYPE), len(paths)), _repeated(pa.scalar(["data"]), len(paths))
        values[name] = pa.StructArray.from_arrays(
            [pa.array(paths, pa.string()), kind, roles], ["href", "type", "roles"]
        )
    assets = pa.StructArray.from_arrays(list(values.values()), list(values))
    links = table.column("links")
    replaced = {"links": _repeated(pa.scalar([], links.type), len(table)), "assets": assets}
    for name, column in replaced.items():
        table = table.set_column(table.column_names.index(name), name, column)
    metadata = {**(table.schema.metadata or {}), b"stac-geoparquet": json.dumps({"version": SPECIFICATION}).encode()}
    return table.drop_columns("collection").replace_schema_metadata(metadata)


def _repeated(value: pa.Scalar, count: int) -> pa.Array:
    import pyarrow as pa

    return pa.repeat(value, count) if count else pa.array([], value.type)


def _codes(epsg: np.ndarray[Any, Any]) -> pa.Array:
    """Codes of coordinate reference systems as text, null for unknown ones."""
    import pyarrow as pa

    known, positions = np.unique(epsg, return_inverse=True)
    texts = pa.array([f"EPSG:{code}" if code else None for code in known.tolist()], pa.string())
    return texts.take(pa.array(positions))


def _transforms(ulx: np.ndarray[Any, Any], uly: np.ndarray[Any, Any]) -> pa.ListArray:
    """Affine coefficients as in `mmearth_data.catalog.tile.TileGrid.transform`, null for unknown corners."""
    import pyarrow as pa

    values = np.tile(np.array([PIXEL_M, 0, 0, 0, -PIXEL_M, 0], dtype=np.float64), (len(ulx), 1))
    values[:, 2], values[:, 5] = ulx, uly
    unknown = np.isnan(values).any(axis=1)
    ends = np.concatenate([[0], np.cumsum(np.where(unknown, 0, 6))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values[~unknown].ravel()), mask=pa.array(unknown))


def items_metadata(root: Root, bounds: Sequence[float], times: tuple[int, int] | None) -> dict[str, Any]:
    """Content of the file key ``stac-geoparquet``.

    Parameters
    ----------
    root
        Root of the store.
    bounds
        West, south, east and north of all outlines, in degrees.
    times
        First and last scene, UTC milliseconds since 1970; None if no tile has a time.
    """
    key = collection_id(root.attributes)
    interval = (
        [None, None] if times is None else np.datetime_as_string(as_datetime64_ms(times), timezone="UTC").tolist()
    )
    collection = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": key,
        "title": root.attributes["title"],
        "description": _description(root.layout),
        "license": "other",
        "extent": {"spatial": {"bbox": [list(bounds)]}, "temporal": {"interval": [interval]}},
        "links": _licence_links(root.layout),
    }
    return {"version": SPECIFICATION, "collections": {key: collection}}


def _description(layout: StoreLayout) -> str:
    names = ", ".join(m.name for m in layout.stored)
    return f"Tiles of {layout.size_px} by {layout.size_px} pixels at {PIXEL_M} m, with the aligned modalities {names}."


def _licence_links(layout: StoreLayout) -> list[dict[str, str]]:
    licences = {m.licence.url: m.licence.name for m in layout.stored if m.licence.url}
    return [{"rel": "license", "href": url, "title": name} for url, name in licences.items()]
