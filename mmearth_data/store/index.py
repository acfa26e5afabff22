"""The tables of a store: ``tiles.parquet`` (GeoParquet, one row per tile) and ``rejected.parquet``."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M, WGS84, WGS84_PROJJSON, transformer
from mmearth_data.errors import InputError
from mmearth_data.store.commits import WRITING, tiles_table
from mmearth_data.store.encoding import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from mmearth_data.store.commits import Commit
    from mmearth_data.store.schema import StoreLayout

GEOMETRY_TYPES = {3: "Polygon", 6: "MultiPolygon"}
"""Geometry types of tile outlines, by shapely's type id."""
SQUARE_HEAD = struct.pack("<BIII", 1, 3, 1, 5)
"""WKB of a polygon up to its coordinates: little-endian, polygon, one ring, five points."""
SQUARE_BYTES = len(SQUARE_HEAD) + 5 * 2 * 8
REJECTED_FIELDS = {
    "tile_id": "uint64",
    "lon": "float64",
    "lat": "float64",
    "reason": "string",
    "detail": "string",
    "slot": "int64",
}
"""Column of ``rejected.parquet`` -> its Arrow type."""


def check_crs(epsg: int) -> None:
    """Refuse a coordinate reference system that PROJ does not know.

    Raises
    ------
    InputError
        If it is unknown.
    """
    from pyproj.exceptions import CRSError

    try:
        transformer(epsg, WGS84)
    except CRSError as error:
        raise InputError(f"epsg: expected the EPSG code of a coordinate reference system, got {epsg}.") from error


def tile_outlines(columns: Mapping[str, np.ndarray[Any, Any]], size_px: int) -> np.ndarray[Any, Any]:
    """Squares of tiles with the columns ``epsg``, ``ulx``, ``uly`` (n,), as shapely geometries in EPSG:4326.

    Returns (n,) polygons, longitude before latitude, counterclockwise. A tile across 180 degrees is two polygons, and one
    without a known corner is None.
    """
    outlines = np.full(len(columns["epsg"]), None, dtype=object)
    known = np.isfinite(columns["ulx"]) & np.isfinite(columns["uly"])
    if known.any():
        outlines[known] = _squares({name: columns[name][known] for name in ("epsg", "ulx", "uly")}, size_px)
    return outlines


def _squares(columns: Mapping[str, np.ndarray[Any, Any]], size_px: int) -> np.ndarray[Any, Any]:
    import shapely

    side = PIXEL_M * size_px
    corners = np.array([[0, -side], [side, -side], [side, 0], [0, 0], [0, -side]], dtype=np.float64)
    ring = np.stack([columns["ulx"], columns["uly"]], axis=-1)[:, None, :] + corners
    for epsg in np.unique(columns["epsg"]).tolist():
        members = columns["epsg"] == epsg
        lon, lat = transformer(epsg, WGS84).transform(ring[members, :, 0], ring[members, :, 1])
        ring[members] = np.stack([lon, lat], axis=-1)
    crosses = np.ptp(ring[:, :, 0], axis=1) > 180
    outlines = np.empty(len(ring), dtype=object)
    outlines[~crosses] = shapely.polygons(ring[~crosses])
    for position in np.flatnonzero(crosses):
        outlines[position] = _cut_at_180(ring[position])
    return outlines


def outlines_from_wkb(column: pa.BinaryArray) -> np.ndarray[Any, Any]:
    """Geometries (n,) of a column of outlines; nearly all are quadrilaterals, which are read by a fast path."""
    import shapely

    count = len(column)
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset : column.offset + count + 1]
    if not count or (np.diff(offsets) != SQUARE_BYTES).any():
        return np.asarray(shapely.from_wkb(column.to_numpy(zero_copy_only=False)), dtype=object)
    data = np.frombuffer(column.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]].reshape(count, SQUARE_BYTES)
    head = len(SQUARE_HEAD)
    if (data[:, :head] != np.frombuffer(SQUARE_HEAD, dtype=np.uint8)).any():
        return np.asarray(shapely.from_wkb(column.to_numpy(zero_copy_only=False)), dtype=object)
    corners = np.ascontiguousarray(data[:, head:]).view("<f8").reshape(-1, 2)
    rings, polygons = np.arange(0, 5 * count + 1, 5), np.arange(count + 1)
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, (rings, polygons)), dtype=object)


def _cut_at_180(ring: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - a shapely geometry
    import shapely
    from shapely.affinity import translate

    eastward = ring.copy()
    eastward[:, 0] = np.where(ring[:, 0] < 0, ring[:, 0] + 360, ring[:, 0])
    whole = shapely.Polygon(eastward)
    west = whole.intersection(shapely.box(0, -90, 180, 90))
    east = translate(whole.intersection(shapely.box(180, -90, 360, 90)), xoff=-360)
    return shapely.orient_polygons(west.union(east))


def geo_metadata(bounds: Sequence[float], types: Sequence[str]) -> dict[str, Any]:
    """GeoParquet 1.1 file metadata of a column ``geometry`` in EPSG:4326."""
    column = {
        "encoding": "WKB",
        "geometry_types": list(types),
        "crs": WGS84_PROJJSON,
        "orientation": "counterclockwise",
        "edges": "planar",
        "bbox": list(bounds),
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


@contextmanager
def tiles_writer(path: Path, layout: StoreLayout) -> Iterator[Callable[[Sequence[Commit]], None]]:
    """Write ``tiles.parquet``: yields a function that adds the rows of some commits as one row group.

    Memory does not grow with the store, and the footer does not grow with thousands of small row groups.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    writer: pq.ParquetWriter | None = None
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    types: set[str] = set()

    def add(commits: Sequence[Commit]) -> None:
        nonlocal writer
        corners = {
            name: np.concatenate([commit.columns[name] for commit in commits]) for name in ("epsg", "ulx", "uly")
        }
        outlines = tile_outlines(corners, layout.size_px)
        drawn = outlines[~shapely.is_missing(outlines)]
        if len(drawn):
            west, south, east, north = shapely.total_bounds(drawn)
            types.update(GEOMETRY_TYPES[code] for code in np.unique(shapely.get_type_id(drawn)).tolist())
            bounds[:] = [min(bounds[0], west), min(bounds[1], south), max(bounds[2], east), max(bounds[3], north)]
        table = pa.concat_tables([tiles_table(commit, layout.tabular) for commit in commits]).combine_chunks()
        table = table.append_column("geometry", pa.array(shapely.to_wkb(outlines), type=pa.binary()))
        writer = writer or pq.ParquetWriter(path, table.schema, **WRITING)
        writer.write_table(table)

    try:
        yield add
        if writer is not None:
            box = bounds.tolist() if np.isfinite(bounds).all() else [-180.0, -90.0, 180.0, 90.0]
            writer.add_key_value_metadata({b"geo": to_json(geo_metadata(box, sorted(types)))})
    finally:
        if writer is not None:
            writer.close()


def rejected_table(rejected: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Table of rejected candidates, as recorded by `mmearth_data.store.writer`."""
    import pyarrow as pa

    columns = {name: [entry[name] for entry in rejected] for name in REJECTED_FIELDS}
    columns["tile_id"] = [int(text, 16) for text in columns["tile_id"]]
    return pa.table(columns, schema=pa.schema(list(REJECTED_FIELDS.items())))


def write_tables(tables: Sequence[pa.Table], path: Path) -> None:
    """Write some tables of equal columns as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.concat_tables(tables), path, **WRITING)
