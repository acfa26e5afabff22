"""Columns and metadata of GeoParquet 1.1."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import WGS84_PROJJSON, staged_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

ROW_GROUP = 65_536
"""Rows of a row group, the smallest unit that a reader of Parquet reads."""
COVERING = {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
"""Covering of GeoParquet 1.1: the column with the bounding box of each geometry."""


def categories(texts: NDArray[Any]) -> pa.Array:
    """Dictionary-encoded text column; empty text becomes null."""
    import pyarrow as pa

    return pa.array(texts, pa.string(), mask=texts == "").dictionary_encode()


def sample_columns(
    names: Sequence[str],
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    time: NDArray[np.datetime64] | None,
    tile_ids: NDArray[np.uint64] | None = None,
) -> dict[str, pa.Array]:
    """Columns ``id`` (text), ``tile_id`` (tiles only), ``lon``, ``lat`` and ``time`` (if known) of N samples."""
    import pyarrow as pa

    return {
        "id": pa.array(names, pa.string()),
        **({} if tile_ids is None else {"tile_id": pa.array(tile_ids)}),
        "lon": pa.array(lon, from_pandas=True),
        "lat": pa.array(lat, from_pandas=True),
        **({} if time is None else {"time": pa.array(time, pa.timestamp("ms", tz="UTC"))}),
    }


def write_geoparquet(
    path: Path, columns: Mapping[str, pa.Array], shapes: NDArray[Any], texts: Mapping[str, Any]
) -> None:
    """Write columns and geometries (N,) in EPSG:4326, None where unknown, with ``texts`` as JSON metadata, atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({**columns, **geometry_columns(shapes)})
    metadata = {"geo": geo_metadata(shapes), **texts}
    table = table.replace_schema_metadata({name: json.dumps(value) for name, value in metadata.items()})
    with staged_file(path) as beside:
        parquet.write_table(table, beside, row_group_size=ROW_GROUP)


def geometry_columns(shapes: NDArray[Any]) -> dict[str, pa.Array]:
    """Columns ``geometry`` and ``bbox`` of shapely geometries (N,), None where unknown."""
    import pyarrow as pa
    import shapely

    boxes = shapely.bounds(shapes)
    sides = [pa.array(np.ascontiguousarray(side)) for side in boxes.T]
    names = [path[1] for path in COVERING["bbox"].values()]
    return {
        "geometry": pa.array(shapely.to_wkb(shapes), pa.binary()),
        "bbox": pa.StructArray.from_arrays(sides, names=names, mask=pa.array(np.isnan(boxes[:, 0]))),
    }


def geo_metadata(shapes: NDArray[Any]) -> dict[str, Any]:
    """File metadata, under the key ``geo``, of geometries (N,) in EPSG:4326."""
    import shapely

    drawn = shapes[~shapely.is_missing(shapes)]
    box = {"bbox": shapely.total_bounds(drawn).tolist()} if len(drawn) else {}
    return describe_geometries(sorted({shape.geom_type for shape in drawn}), WGS84_PROJJSON, box)


def describe_geometries(
    types: list[str], crs: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """File metadata of geometries of the given types (empty: any) in a CRS as PROJJSON, with more fields of the column."""
    column = {
        "encoding": "WKB",
        "geometry_types": types,
        "crs": crs,
        "edges": "planar",
        "covering": COVERING,
        **(more or {}),
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
