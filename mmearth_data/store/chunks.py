"""Read the chunks of sharded arrays, encoded or decoded.

The loader shuffles tiles of many shards and decodes each one once, directly into its batch, so that only compressed
bytes are kept in memory. A missing object is an error here; Zarr would return fill values, as if nothing had been
observed.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.errors import StoreDamaged
from mmearth_data.store.codec import BrokenTileError, decode
from mmearth_data.store.encoding import ABSENT, decode_index, object_key, smallest_shard_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from mmearth_data.store.schema import ArraySpec
    from mmearth_data.store.storage.protocol import Storage

CACHED_INDEXES = 1024
"""Shard indexes cached per array: 4 MB for 256 tiles each."""


class ChunkReader:
    """Read the inner chunks of one sharded array.

    Parameters
    ----------
    objects
        The store.
    spec
        The array.
    check
        Called with the key of each shard before it is first read; must raise if the object is known to be damaged.
    """

    def __init__(self, objects: Storage, spec: ArraySpec, check: Callable[[str], None]) -> None:
        self._objects = objects
        self.spec = spec
        self._check = check
        self._index = lru_cache(CACHED_INDEXES)(self._read_index)

    def read(self, rows: NDArray[np.intp]) -> np.ndarray[Any, Any]:
        """Raw stored values of some rows, in any order; raises like `encoded` and `decode`."""
        values = np.empty((len(rows), *self.spec.shape[1:]), dtype=self.spec.dtype)
        ends = (np.flatnonzero(np.diff(rows // self.spec.chunk_shape[0])) + 1).tolist()
        for start, stop in pairwise([0, *ends, len(rows)] if len(rows) else []):
            part = rows[start:stop]
            self.decode(part, self.encoded(part), values[start:stop])
        return values

    def encoded(self, rows: NDArray[np.intp]) -> list[bytes]:
        """Inner chunks of some rows of one shard, checksums included.

        Raises
        ------
        StoreDamaged
            If the shard is missing, or lacks some of the chunks.
        """
        shard, first = divmod(int(rows[0]), self.spec.chunk_shape[0])
        key = object_key(self.spec, shard)
        entries = self._index(key)[rows - int(rows[0]) + first]
        if (entries == ABSENT).any():
            raise StoreDamaged(
                self._objects.root, key, f"the inner chunks of rows {rows[0]} to {rows[-1]} are not there"
            )
        return self._ranges(key, [(offset, length) for offset, length in entries.tolist()])

    def decode(self, rows: NDArray[np.intp], chunks: Sequence[bytes], out: np.ndarray[Any, Any]) -> None:
        """Decode the inner chunks of some rows into an array, (rows, ...).

        Raises
        ------
        StoreDamaged
            If one is corrupt.
        """
        with self.naming(rows):
            decode(chunks, out)

    @contextmanager
    def naming(self, rows: NDArray[np.intp]) -> Iterator[None]:
        """Add the row of a corrupt tile to its error."""
        try:
            yield
        except BrokenTileError as error:
            row = int(rows[error.index])
            key = object_key(self.spec, row // self.spec.chunk_shape[0])
            problem = f"the inner chunk of row {row} cannot be decoded: {error}"
            raise StoreDamaged(self._objects.root, key, problem) from error

    def _read_index(self, key: str) -> NDArray[np.uint64]:
        size = self._objects.size(key)
        length = smallest_shard_bytes(self.spec.chunk_shape[0])
        if size is None:
            raise StoreDamaged(self._objects.root, key, "the file is missing")
        if size < length:
            raise StoreDamaged(self._objects.root, key, f"it has {size} bytes, less than its index alone")
        self._check(key)
        (data,) = self._ranges(key, [(size - length, length)])
        try:
            return decode_index(data, size)
        except ValueError as error:
            if self._objects.size(key) != size:  # rows were appended to it meanwhile
                return self._read_index(key)
            raise StoreDamaged(self._objects.root, key, str(error)) from error

    def _ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            return self._objects.get_ranges(key, ranges)
        except FileNotFoundError as error:
            raise StoreDamaged(self._objects.root, key, "the file is missing") from error
