"""The tables of a store: ``tiles.parquet`` and ``tiles_spatial.parquet`` (GeoParquet), and ``rejected.parquet``."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import NO_TIME, PIXEL_M, WGS84, WGS84_PROJJSON, transformer
from mmearth_data.errors import InputError
from mmearth_data.store.commits import WRITING, tiles_table
from mmearth_data.store.encoding import to_json
from mmearth_data.store.items import (
    FEW_VALUES,
    TIME_COLUMN,
    WORLD,
    has_items,
    id_texts,
    item_columns,
    items_metadata,
    outline_boxes,
    renamed,
)
from mmearth_data.store.spatial import GROUP_ROWS, Places, spatial_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from mmearth_data.store.commits import Commit
    from mmearth_data.store.root import Root

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
"""Column of ``rejected.parquet`` -> its Arrow type, as every version has it."""
COVERING = {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
"""Covering of GeoParquet 1.1: the column with the bounding box of each outline."""


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
    both = west.union(east)
    if both.geom_type == "GeometryCollection":  # the square only touches 180 degrees
        both = shapely.union_all([part for part in shapely.get_parts(both) if part.geom_type == "Polygon"])
    return shapely.orient_polygons(both)


def geo_metadata(bounds: Sequence[float], types: Sequence[str], *, boxes: bool = False) -> dict[str, Any]:
    """GeoParquet 1.1 file metadata of a column ``geometry`` in EPSG:4326; with ``boxes``, also of the column ``bbox``."""
    column = {
        "encoding": "WKB",
        "geometry_types": list(types),
        "crs": WGS84_PROJJSON,
        "orientation": "counterclockwise",
        "edges": "planar",
        "bbox": list(bounds),
        **({"covering": COVERING} if boxes else {}),
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


class _Extent:
    """Bounds, geometry types and times of the tiles that were added."""

    def __init__(self) -> None:
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._types: set[str] = set()
        self._times: list[int] = []

    def add(self, outlines: np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> None:
        import shapely

        drawn = outlines[~shapely.is_missing(outlines)]
        if len(drawn):
            bounds = shapely.total_bounds(drawn)
            self._bounds[:2] = np.minimum(self._bounds[:2], bounds[:2])
            self._bounds[2:] = np.maximum(self._bounds[2:], bounds[2:])
            self._types |= {GEOMETRY_TYPES[code] for code in np.unique(shapely.get_type_id(drawn)).tolist()}
        known = times[times != NO_TIME]
        if len(known):
            self._times += [int(known.min()), int(known.max())]

    @property
    def bounds(self) -> list[float]:
        """West, south, east and north; the whole Earth if no outline is known."""
        return self._bounds.tolist() if np.isfinite(self._bounds).all() else list(WORLD)

    @property
    def types(self) -> list[str]:
        """Geometry types of the outlines."""
        return sorted(self._types)

    @property
    def times(self) -> tuple[int, int] | None:
        """First and last time, UTC milliseconds since 1970."""
        return (min(self._times), max(self._times)) if self._times else None


class TileTables:
    """Writer of the tables of a store's tiles; see `tiles_writer`."""

    def __init__(self, path: Path, root: Root) -> None:
        self._path = path
        self._root = root
        self._items = has_items(root)
        self._extent = _Extent()
        self._places = Places()
        self._writer: pq.ParquetWriter | None = None

    def add(self, commits: Sequence[Commit]) -> None:
        """Add the rows of some commits as one row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        import shapely

        layout = self._root.layout
        columns = {spec.name: np.concatenate([c.columns[spec.name] for c in commits]) for spec in layout.coordinates}
        outlines = tile_outlines(columns, layout.size_px)
        self._extent.add(outlines, columns["time"])
        table = pa.concat_tables([tiles_table(commit, layout.tabular) for commit in commits]).combine_chunks()
        table = table.append_column("geometry", pa.array(shapely.to_wkb(outlines), type=pa.binary()))
        if self._items:
            self._places.add(np.concatenate([commit.rows for commit in commits]), columns)
            table = renamed(table, "time", TIME_COLUMN)
            table = table.add_column(table.column_names.index("tile_id") + 1, "id", id_texts(columns["tile_id"]))
            for name, column in item_columns(columns, outline_boxes(outlines), self._root).items():
                table = table.append_column(name, column)
        if self._writer is None:
            writing = {**WRITING, "use_dictionary": list(FEW_VALUES)} if self._items else WRITING
            self._writer = pq.ParquetWriter(self._path, table.schema, **writing)
        self._writer.write_table(table)

    def write_spatial(self, path: Path) -> None:
        """Write the rows that were added, in spatial order; only for stores that have this table."""
        import pyarrow.parquet as pq

        columns = self._places.take_ordered()
        parts = (
            self._spatial_part({name: column[start : start + GROUP_ROWS] for name, column in columns.items()})
            for start in range(0, max(1, len(columns["row"])), GROUP_ROWS)
        )
        first = next(parts)
        with pq.ParquetWriter(path, first.schema, **WRITING) as writer:
            for part in chain((first,), parts):
                writer.write_table(part)
            writer.add_key_value_metadata({b"geo": self._geo()})

    def _spatial_part(self, columns: Mapping[str, np.ndarray[Any, Any]]) -> pa.Table:
        return spatial_table(columns, tile_outlines(columns, self._root.layout.size_px))

    def describe(self) -> None:
        """Add the file metadata of all rows that were added."""
        if self._writer is None:
            return
        metadata = {b"geo": self._geo()}
        if self._items:
            items = items_metadata(self._root, self._extent.bounds, self._extent.times)
            metadata[b"stac-geoparquet"] = to_json(items)
        self._writer.add_key_value_metadata(metadata)

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()

    def _geo(self) -> bytes:
        return to_json(geo_metadata(self._extent.bounds, self._extent.types, boxes=self._items))


@contextmanager
def tiles_writer(path: Path, root: Root) -> Iterator[TileTables]:
    """Write ``tiles.parquet``, one row group for each call of `TileTables.add`.

    Memory grows by 50 bytes per tile, for `TileTables.write_spatial`, and the footer does not grow with thousands of
    small row groups.
    """
    tables = TileTables(path, root)
    try:
        yield tables
        tables.describe()
    finally:
        tables.close()


def rejected_table(rejected: Sequence[Mapping[str, Any]], *, texts: bool = True) -> pa.Table:
    """Table of rejected candidates, as recorded by `mmearth_data.store.writer`; with ``texts``, also with ids as text."""
    import pyarrow as pa

    columns = {name: [entry[name] for entry in rejected] for name in REJECTED_FIELDS}
    ids = pa.array(columns["tile_id"], pa.string())
    columns["tile_id"] = [int(text, 16) for text in columns["tile_id"]]
    table = pa.table(columns, schema=pa.schema(list(REJECTED_FIELDS.items())))
    return table.add_column(1, "id", ids) if texts else table


def write_tables(tables: Sequence[pa.Table], path: Path) -> None:
    """Write some tables of equal columns as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.concat_tables(tables), path, **WRITING)
