"""Arrays of an HDF5 file that have a row per sample and may be larger than memory.

HDF5 compresses chunks. With the default chunk shape of h5py, a chunk contains a small part of the images of hundreds of
samples, and reading one sample decompresses the chunks of all of them. Rows are therefore read in blocks as long as a
chunk, and recent blocks are kept.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

LOG = logging.getLogger(__name__)
KEPT_BYTES = 2**31
"""Maximum size of the blocks of all arrays kept in memory; the latest block is always kept."""
PLAIN_ROWS = 16
"""Rows of a block of an array without chunks."""
REPEATS = 3
"""An array that was decompressed more often than this is read in random order, which is slow."""


@dataclass
class _Opened:
    """The file as opened by one process, and its recent blocks."""

    process: int
    file: h5py.File
    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: OrderedDict[tuple[str, int], NDArray[Any]] = field(default_factory=OrderedDict)
    read: Counter[str] = field(default_factory=Counter)  # array -> blocks that were decompressed


class RowFile:
    """An HDF5 file with a row per sample in each of its arrays.

    Every process opens it anew, also after a fork; threads of a process share it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mine: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_mine": None}

    def __contains__(self, name: object) -> bool:
        import h5py

        with self._reading():
            return isinstance(self._opened().file.get(name), h5py.Dataset)

    def names(self) -> tuple[str, ...]:
        """Names of everything in the file."""
        with self._reading():
            return tuple(self._opened().file)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array. Raises `FileInputError` when there is none."""
        return tuple(self._array(name).shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of an array. Raises `FileInputError` when there is none."""
        found: np.dtype[Any] = self._array(name).dtype
        return found

    def whole(self, name: str) -> NDArray[Any]:
        """Read all rows of an array, which must fit into memory."""
        with self._reading(name):
            return np.asarray(self._array(name)[()])

    def read(self, name: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Read some rows of an array, in their order.

        Raises `FileInputError` when the file is damaged there.
        """
        array = self._array(name)
        found = np.empty((len(rows), *array.shape[1:]), array.dtype)
        length = array.chunks[0] if array.chunks else PLAIN_ROWS
        numbers = np.asarray(rows) // length
        for number in np.unique(numbers).tolist():
            inside = numbers == number
            found[inside] = self._block(name, number, length)[rows[inside] - number * length]
        return found

    def _block(self, name: str, number: int, length: int) -> NDArray[Any]:
        """One block, from memory if it was read recently."""
        mine, key = self._opened(), (name, number)
        with mine.lock:
            if key not in mine.blocks:
                self._warn(mine, name, length)
                with self._reading(f"{name}, rows {number * length} to {(number + 1) * length - 1}"):
                    mine.blocks[key] = np.asarray(mine.file[name][number * length : (number + 1) * length])
            mine.blocks.move_to_end(key)
            while sum(block.nbytes for block in mine.blocks.values()) > KEPT_BYTES and len(mine.blocks) > 1:
                mine.blocks.popitem(last=False)
            return mine.blocks[key]

    def _warn(self, mine: _Opened, name: str, length: int) -> None:
        """Warn once that reading in random order is slow, with the remedy."""
        mine.read[name] += 1
        every = -(-len(mine.file[name]) // length)
        if mine.file[name].chunks and length > 1 and every > 1 and mine.read[name] == REPEATS * every + 1:
            side = "x".join(map(str, mine.file[name].shape[1:]))
            LOG.warning(
                "%s: a chunk of %s holds %d samples, which are all decompressed to read one. Reading in random order, as "
                "in fine-tuning, is faster from a copy: h5repack -l %s:CHUNK=1x%s -f GZIP=1 IN.h5 OUT.h5",
                self.path, name, length, name, side,
            )  # fmt: skip

    def _array(self, name: str) -> h5py.Dataset:
        if name not in self:
            raise FileInputError(
                self.path, f"expected an array {name}, got {', '.join(self.names()) or 'an empty file'}; download the file again."
            )  # fmt: skip
        return self._opened().file[name]

    def _opened(self) -> _Opened:
        import h5py

        if self._mine is None or self._mine.process != os.getpid():
            with self._reading():
                # blocks are kept here: HDF5's own cache of chunks would only hold memory
                self._mine = _Opened(os.getpid(), h5py.File(self.path, "r", rdcc_nbytes=0))
        return self._mine

    @contextmanager
    def _reading(self, where: str = "") -> Iterator[None]:
        """Convert HDF5's errors about a damaged file to one line."""
        try:
            yield
        except FileInputError:
            raise
        except (OSError, RuntimeError, KeyError) as error:
            words = " ".join(str(error).split()) + (f" ({where})" if where else "")
            raise FileInputError(
                self.path, f"expected a complete HDF5 file, got: {words}; download the file again."
            ) from None
