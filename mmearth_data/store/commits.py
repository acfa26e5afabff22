"""Commit records: one small Parquet file per shard, written last. A shard counts as written once it has a record."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.zstd import Zstd

from mmearth_data.catalog.tile import NO_TIME, as_datetime64_ms
from mmearth_data.errors import StoreDamaged
from mmearth_data.store.encoding import to_json
from mmearth_data.store.schema import COMMITS, COORDINATE_NAMES, COORDINATES, GIVEN_COORDINATES, tabular_columns
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.schema import ArraySpec, StoreLayout
    from mmearth_data.store.storage.protocol import Storage

METADATA_KEY = b"mmearth"
STATISTICS_KEY = b"mmearth_statistics"
"""Metadata key of the statistics, stored separately and compressed: they are large and rarely needed."""
ENCODERS_KEY = b"mmearth_encoders"
"""Metadata key of the encoders; records of version 1 lack it, and older releases ignore it."""
PACKING = Zstd(level=1)
BATCH_ROWS = 65_536
"""Rows of a table decoded at a time."""
WRITING: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}
"""Options of all Parquet files. Facts and outlines are all different, so a dictionary would double the reading time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """Content of one shard's record.

    Attributes
    ----------
    shard
        Number of the shard.
    rows
        (k,) store rows with tiles; the other rows of the shard are empty.
    columns
        One array (k, ...) for every coordinate and stored tile modality, ``time`` as int64 milliseconds.
    facts
        (k,) JSON texts.
    objects
        Key -> ``{"size", "digest"}`` of each object of the shard.
    arrays
        Digest of the metadata of all arrays at the time the shard was written.
    statistics_json
        Partial statistics, see `mmearth_data.store.stats`; large, and parsed only when needed.
    rejected
        Rejected candidates, in the order in which they were tried.
    encoders
        Libraries that encoded the objects, with their versions, in order of use; empty for older records. For
        information only.
    """

    shard: int
    rows: np.ndarray[Any, Any]
    columns: Mapping[str, np.ndarray[Any, Any]]
    facts: Sequence[str]
    objects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    arrays: str = ""
    statistics_json: bytes = b"{}"
    rejected: Sequence[Mapping[str, Any]] = ()
    encoders: tuple[str, ...] = ()

    @property
    def statistics(self) -> dict[str, Any]:
        """Partial statistics of the shard's tiles."""
        partial: dict[str, Any] = json.loads(self.statistics_json)
        return partial


def commit_key(shard: int) -> str:
    """Key of a shard's record."""
    return f"{COMMITS}/{shard}.parquet"


def committed_shards(objects: Storage) -> frozenset[int]:
    """Shards whose record exists."""
    stems = (name.removesuffix(".parquet") for name in objects.names(COMMITS) if name.endswith(".parquet"))
    return frozenset(int(stem) for stem in stems if stem.isdecimal())


def encode_commit(commit: Commit, tabular: Sequence[Modality]) -> bytes:
    """Bytes of a record: a Parquet table of the tiles, everything else in its key-value metadata."""
    import pyarrow.parquet as pq

    table = tiles_table(commit, tabular)
    metadata = {
        "shard": commit.shard,
        "objects": commit.objects,
        "arrays": commit.arrays,
        "rejected": commit.rejected,
    }
    statistics = base64.b64encode(bytes(PACKING.encode(commit.statistics_json)))
    sink = io.BytesIO()
    # Without Arrow's own schema, which would contain the texts a second time.
    with pq.ParquetWriter(sink, table.schema, store_schema=False, write_statistics=False, **WRITING) as writer:
        writer.write_table(table)
        texts = {METADATA_KEY: to_json(metadata), STATISTICS_KEY: statistics}
        writer.add_key_value_metadata({**texts, ENCODERS_KEY: to_json(commit.encoders)})
    return sink.getvalue()


def tiles_table(commit: Commit, tabular: Sequence[Modality]) -> pa.Table:
    """One row per tile: its position in the store, every 1-D value and the facts."""
    import pyarrow as pa

    columns: dict[str, Any] = {"row": pa.array(commit.rows.astype(np.int64))}
    for name in COORDINATE_NAMES:
        columns[name] = pa.array(commit.columns[name])
    columns["time"] = pa.array(as_datetime64_ms(commit.columns["time"]), type=pa.timestamp("ms", tz="UTC"))
    for m in tabular:
        values = commit.columns[m.name]
        for position, column in enumerate(tabular_columns(m)):
            columns[column] = pa.array(np.ascontiguousarray(values[:, position]) if m.bands else values)
    columns["facts"] = pa.array(list(commit.facts), type=pa.string())
    return pa.table(columns)


def read_commit(objects: Storage, layout: StoreLayout, shard: int) -> Commit:
    """Read the record of a shard.

    Raises
    ------
    StoreDamaged
        When it is missing, cannot be read, or does not fit the layout.
    """
    try:
        return decode_commit(objects.get(commit_key(shard)), layout)
    except FileNotFoundError as error:
        raise StoreDamaged(objects.root, commit_key(shard), "the file is missing") from error
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise StoreDamaged(objects.root, commit_key(shard), f"it cannot be read ({reason_of(error)})") from error


def decode_commit(data: bytes, layout: StoreLayout) -> Commit:
    """Inverse of `encode_commit`; any exception means that the bytes are not a record of this layout."""
    table = read_table(data)
    metadata = json.loads(table.schema.metadata[METADATA_KEY])
    statistics = bytes(PACKING.decode(base64.b64decode(table.schema.metadata[STATISTICS_KEY], validate=True)))
    rows = table["row"].to_numpy()
    expected = layout.rows(metadata["shard"])
    if len(rows) and not (expected.start <= rows.min() and rows.max() < expected.stop):
        raise ValueError(f"rows outside shard {metadata['shard']}")
    return Commit(
        rows=rows,
        columns=table_columns(table, layout),
        facts=table["facts"].to_pylist(),
        statistics_json=statistics,
        encoders=tuple(json.loads(table.schema.metadata.get(ENCODERS_KEY, b"[]"))),
        **metadata,
    )


def read_table(data: bytes) -> pa.Table:
    """Read a whole Parquet file in the calling thread.

    `pyarrow.parquet.read_table` starts threads that sometimes (pyarrow 26: once in a hundred short processes) still run
    when the process ends, which then dies with SIGABRT.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)


def table_columns(table: pa.Table, layout: StoreLayout) -> dict[str, np.ndarray[Any, Any]]:
    """Coordinates and tile modalities of a table that `tiles_table` made, in their stored types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    times = pc.fill_null(table["time"].cast(pa.int64()), NO_TIME)
    table = table.set_column(table.schema.get_field_index("time"), "time", times)
    columns = {c.name: table[c.name].to_numpy().astype(c.dtype, copy=False) for c in COORDINATES}
    for m in layout.tabular:
        parts = [table[column].to_numpy().astype(m.dtype, copy=False) for column in tabular_columns(m)]
        columns[m.name] = np.stack(parts, axis=-1) if m.bands else parts[0]
    return columns


def place_rows(spec: ArraySpec, commits: Sequence[Commit], rows: range) -> np.ndarray[Any, Any]:
    """Assemble a column of consecutive store rows from their commits; rows without a commit are empty."""
    values = np.full((len(rows), *spec.shape[1:]), spec.empty, dtype=spec.dtype)
    for commit in commits:
        values[commit.rows - rows.start] = commit.columns[spec.name]
    return values


def empty_columns(layout: StoreLayout, count: int) -> dict[str, Any]:
    """Columns of rows without a tile, as `StoreWriter.write_shard` takes them."""
    columns: dict[str, Any] = {c.name: np.full(count, c.empty, dtype=c.dtype) for c in GIVEN_COORDINATES}
    columns |= {m.name: m.empty((count, *m.array_shape(layout.size_px))) for m in layout.tabular}
    return {**columns, "facts": ["{}"] * count}


def empty_commit(layout: StoreLayout) -> Commit:
    """Record without tiles, for tables that must have their columns even when empty."""
    columns = {spec.name: np.empty((0, *spec.shape[1:]), dtype=spec.dtype) for spec in layout.columns}
    return Commit(shard=0, rows=np.empty(0, dtype=np.int64), columns=columns, facts=[])
