"""Decode the arrays of a store.

`zarrs` (Rust) decodes if it is installed. It is passed to each array separately: zarr's configuration applies to the
whole process, so setting it there would change how other code in the process reads and writes, and `zarrs` writes inner
chunks in an order that depends on thread timing.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from mmearth_data.errors import StoreDamaged
from mmearth_data.store.encoding import ABSENT, CRC_BYTES, has_checksum, object_key, smallest_shard_bytes
from mmearth_data.store.schema import ROOT_KEY
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader

    from mmearth_data.store.schema import ArraySpec
    from mmearth_data.store.storage.protocol import Storage


@cache
def zarrs_pipeline() -> Any | None:  # noqa: ANN401 - zarrs ships no types
    """Codec pipeline of `zarrs`, None if it is not installed."""
    try:
        from zarrs import ZarrsCodecPipeline
    except ImportError:
        return None
    return ZarrsCodecPipeline


class ArrayReader:
    """Read rows of one array, and distinguish a missing object from missing data.

    Parameters
    ----------
    objects
        The store.
    spec
        The array.
    engine
        ``zarrs`` or ``zarr``; None takes `zarrs` if it is installed.
    check
        Called with the key of each object before it is read; raises if the object is known to be wrong.
    """

    def __init__(
        self,
        objects: Storage,
        spec: ArraySpec,
        *,
        engine: str | None = None,
        check: Callable[[str], None] = lambda key: None,
    ) -> None:
        self._objects = objects
        self.spec = spec
        self._check = check
        self._array, decodes_by_zarrs = _open(objects, spec, engine)
        # zarrs (0.2.3) compares checksums only when it decodes a whole shard.
        self._unchecked_parts = decodes_by_zarrs and spec.sharded

    def read(self, rows: slice) -> np.ndarray[Any, Any]:
        """Raw stored values of consecutive rows.

        Raises
        ------
        StoreDamaged
            With the object that is missing or corrupt.
        """
        keys = self._keys(rows)
        for key in keys:
            self._check_present(key)
        if self._unchecked_parts:
            self._check_parts(rows, keys)
        try:
            values = np.asarray(self._array[rows])
        except (RuntimeError, ValueError, OSError) as error:
            raise StoreDamaged(
                self._objects.root, self._first_broken(rows, keys), f"it cannot be decoded ({reason_of(error)})"
            ) from error
        return values

    def _keys(self, rows: slice) -> list[str]:
        size = self.spec.chunk_shape[0]
        start, stop, _ = rows.indices(self.spec.shape[0])
        return [object_key(self.spec, position) for position in range(start // size, -(-stop // size))]

    def _check_present(self, key: str) -> None:
        size = self._objects.size(key)
        if size is None:
            # Zarr would return no data for it, as if it had not been observed.
            raise StoreDamaged(self._objects.root, key, "the file is missing")
        if self.spec.sharded and size < smallest_shard_bytes(self.spec.chunk_shape[0]):
            raise StoreDamaged(self._objects.root, key, f"it has {size} bytes, less than its index alone")
        self._check(key)

    def _check_parts(self, rows: slice, keys: list[str]) -> None:
        """Compare the checksums of the inner chunks of shards that are read in part."""
        start, stop, _ = rows.indices(self.spec.shape[0])
        size = self.spec.chunk_shape[0]
        for key, begin in zip(keys, range(start // size * size, stop, size), strict=False):
            end = min(begin + size, self.spec.shape[0])
            wanted = range(max(start, begin) - begin, min(stop, end) - begin)
            if 0 < len(wanted) < end - begin:
                with self._objects.open(key) as stream:
                    problem = broken_part(stream, size, wanted)
                if problem:
                    raise StoreDamaged(self._objects.root, key, problem)

    def _first_broken(self, rows: slice, keys: list[str]) -> str:
        """Find the first of several objects that cannot be decoded."""
        size = self.spec.chunk_shape[0]
        for key, start in zip(keys, range(rows.start // size * size, rows.stop, size), strict=False):
            try:
                self._array[max(rows.start, start) : min(rows.stop, start + size)]
            except (RuntimeError, ValueError, OSError):
                return key
        return keys[0]


def broken_part(stream: BufferedReader, chunks: int, wanted: range) -> str | None:
    """Describe what is wrong with some consecutive inner chunks of a shard; None if all are intact.

    Parameters
    ----------
    stream
        The shard.
    chunks
        Number of inner chunks in a whole shard.
    wanted
        Positions of the chunks to check.
    """
    stream.seek(-smallest_shard_bytes(chunks), os.SEEK_END)
    index = stream.read()
    if not has_checksum(index):
        return "the checksum of its index does not match"
    entries = np.frombuffer(index[:-CRC_BYTES], dtype="<u8").reshape(-1, 2)[wanted.start : wanted.stop]
    if (entries == ABSENT).any():
        return f"the inner chunks {wanted.start} to {wanted.stop - 1} are not all there"
    first = int(entries[0, 0])
    stream.seek(first)
    data = memoryview(stream.read(int(entries[-1].sum()) - first))
    for position, (offset, length) in zip(wanted, entries.tolist(), strict=True):
        if not has_checksum(data[offset - first : offset - first + length]):
            return f"the checksum of its inner chunk {position} does not match"
    return None


def _open(objects: Storage, spec: ArraySpec, engine: str | None) -> tuple[zarr.Array[Any], bool]:
    """Open an array, and say whether `zarrs` decodes it."""
    try:
        array = zarr.open_array(objects.zarr_store(spec.name), mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:  # zarr's own errors are among these
        raise StoreDamaged(
            objects.root, f"{spec.name}/{ROOT_KEY}", f"zarr cannot open it ({reason_of(error)})"
        ) from error
    pipeline = zarrs_pipeline() if engine != "zarr" and not objects.far else None
    if pipeline is None:
        return array, False
    asynchronous = array.async_array
    decoder = pipeline.from_array_metadata_and_store(asynchronous.metadata, asynchronous.store_path.store)
    object.__setattr__(asynchronous, "codec_pipeline", decoder)
    return array, True
