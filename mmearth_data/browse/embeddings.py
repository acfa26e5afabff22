"""Nearest neighbours of a tile among the embeddings written by `mmearth-train embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import NO_TIME
from mmearth_data.errors import FileInputError
from mmearth_data.words import os_problem, reason_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from mmearth_data.browse.index import TileIndex

ID_COLUMN, TEXT_COLUMN, TIME_COLUMN, VALUE_COLUMN = "tile_id", "id", "time", "embedding"
BESIDE = (".embeddings.parquet", "-embeddings.parquet", ".parquet")
"""Suffixes of embedding files next to a store: planet.zarr has planet.embeddings.parquet, or planet.parquet."""
EXPECTED = "expected a Parquet file written by mmearth-train embed (columns tile_id and embedding)"
BLOCK_ROWS = 65_536
"""Number of rows compared in one step."""
BATCH_ROWS, BUFFER_BYTES = 8_192, 2**20
"""Rows and bytes read at once; by default Arrow reads a whole row group of a million rows into memory."""
SINGLE_BYTES = 512 * 2**20
"""Above this size, values are kept in float16: 1.2 million tiles of 320 features then take 0.77 GB instead of 1.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Embeddings of tiles, scaled to length 1."""

    path: Path
    of_tile: NDArray[np.intp]
    """(n,) row of each tile, -1 if it has none."""
    tiles: NDArray[np.intp]
    """(m,) position of the tile of each row, -1 if the store has no such tile."""
    units: NDArray[Any]
    """(m, d) float32 or float16."""

    def find(self, position: int, count: int) -> list[tuple[int, float]] | None:
        """Tiles most similar to a tile, best first, with their cosine similarity; None if it has no embedding."""
        row = int(self.of_tile[position])
        if row < 0:
            return None
        wanted = self.units[row].astype(np.float32)
        similarity = np.empty(len(self.units), dtype=np.float32)
        for start in range(0, len(self.units), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            similarity[part] = self.units[part].astype(np.float32, copy=False) @ wanted
        similarity[(self.tiles < 0) | (self.tiles == position)] = -np.inf
        best = np.argpartition(-similarity, min(count, len(similarity) - 1))[: count + 1]
        best = best[np.argsort(-similarity[best], kind="stable")][:count]
        return [(int(self.tiles[k]), float(similarity[k])) for k in best if np.isfinite(similarity[k])]


def beside(store: str | Path) -> Path | None:
    """File of embeddings next to a store on disk, by its name; None if there is none."""
    if "://" in str(store):
        return None
    path = Path(store)
    names = (path.with_name(path.stem + end) for end in BESIDE)
    return next((name for name in names if name.is_file() and _has_columns(name)), None)


def read_neighbours(path: Path, index: TileIndex) -> Neighbours:
    """Read embeddings, and match them with the tiles of a store by id; also by time, if several tiles have the same id.

    Raises
    ------
    FileInputError
        If the file is missing, damaged, has other columns, or describes no tile of the store.
    """
    ids, units = _read(path)
    times = None if index.ids_are_unique else _times(path)
    tiles = index.positions(ids) if times is None else index.matching(ids, times)
    if not (tiles >= 0).any():
        raise FileInputError(
            path,
            f"expected embeddings of tiles of this store, got {len(ids)} of other tiles; run mmearth-train embed on this store.",
        )
    of_tile = np.full(len(index), -1, dtype=np.intp)
    known = np.flatnonzero(tiles >= 0)
    of_tile[tiles[known]] = known
    return Neighbours(path=path, of_tile=of_tile, tiles=tiles, units=units)


def _has_columns(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False
    return {ID_COLUMN, VALUE_COLUMN} <= set(names)


def _read(path: Path) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Tile ids (m,) and values (m, d) scaled to length 1, read in parts: a whole table would need twice the memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        width = _width(path, file.schema_arrow)
        count, start = file.metadata.num_rows, 0
        ids = np.empty(count, dtype=np.uint64)
        units = np.empty((count, width), dtype=np.float32 if count * width * 4 <= SINGLE_BYTES else np.float16)
        for batch in file.iter_batches(BATCH_ROWS, columns=[ID_COLUMN, VALUE_COLUMN]):
            part = slice(start, start + len(batch))
            if batch.column(ID_COLUMN).null_count:
                raise FileInputError(
                    path, f"{ID_COLUMN}: expected an id in each row, got none in some; embed the store again."
                )
            ids[part] = batch.column(ID_COLUMN).to_numpy(zero_copy_only=False)
            units[part] = _scaled(path, batch.column(VALUE_COLUMN), width)
            start = part.stop
    except FileNotFoundError as error:
        raise FileInputError(path, f"{os_problem(error)}.") from error
    except (pa.ArrowException, OSError) as error:
        raise FileInputError(path, f"{EXPECTED}, got a file that cannot be read ({reason_of(error)}).") from error
    return ids, units


def _times(path: Path) -> NDArray[np.int64] | None:
    """Read the times (m,) of the scenes: UTC milliseconds since 1970, `NO_TIME` if unknown; None if the file has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, pre_buffer=False)
    if TIME_COLUMN not in file.schema_arrow.names:
        return None
    column = file.read([TIME_COLUMN], use_threads=False).column(TIME_COLUMN)
    if not pa.types.is_timestamp(column.type):
        return None
    times: NDArray[np.int64] = (
        column.cast(pa.timestamp("ms", column.type.tz)).cast(pa.int64()).fill_null(NO_TIME).to_numpy()
    )
    return times


def _width(path: Path, schema: pa.Schema) -> int:
    """Check the columns; returns the number of features."""
    import pyarrow as pa

    names = set(schema.names)
    # Older releases wrote the names of files as tile_id.
    of_files = TEXT_COLUMN in names if ID_COLUMN not in names else not pa.types.is_integer(schema.field(ID_COLUMN).type)
    if VALUE_COLUMN in names and of_files:
        raise FileInputError(path, f"{EXPECTED}, got embeddings of files, not of tiles; embed the store.")
    if not {ID_COLUMN, VALUE_COLUMN} <= names:
        raise FileInputError(path, f"{EXPECTED}, got columns {', '.join(schema.names) or 'none'}.")
    kind = schema.field(VALUE_COLUMN).type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise FileInputError(path, f"{VALUE_COLUMN}: expected lists of numbers of one length, got {kind}.")
    return int(kind.list_size)


def _scaled(path: Path, column: pa.Array, width: int) -> NDArray[np.float32]:
    """Values (m, d) of length 1; missing ones are refused."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if len(values) != len(column) * width or not np.isfinite(values).all():
        raise FileInputError(
            path, f"{VALUE_COLUMN}: expected finite numbers of float32, got others; embed the store again."
        )
    values = values.reshape(-1, width)
    scaled: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return scaled
