"""Decode many inner chunks at a time, with compiled loops that do not hold the interpreter's lock.

Frames that the loops do not support (which Blosc may write, but this project does not) are decoded by Blosc, tile by
tile, and so are all frames if Zstandard's functions are not available. So are the first tiles of a process: this is
faster than loading the compiled loops, and a process that reads few tiles never loads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from mmearth_data.store.encoding import CRC_BYTES, CRC_RESIDUE, decode_tile
from mmearth_data.store.loops import load
from mmearth_data.store.states import BROKEN, FOREIGN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Run = Callable[[Any, NDArray[np.intp], NDArray[np.intp], NDArray[np.uint8]], None]

BY_BLOSC = 1024
"""Number of inner chunks, over all rasters, that a process first decodes with Blosc: a batch or two."""


class CompiledLoops:
    """The module `bitplanes`, loaded once it is worth the time."""

    def __init__(self) -> None:
        self.left = BY_BLOSC
        self._module: Any = None
        self._asked = False

    def given(self, chunks: int) -> Any:  # noqa: ANN401 - a module
        """Return the module, or None while chunks are left to Blosc or if it is not available."""
        if self.left > 0:
            self.left -= chunks  # an approximate count: threads may run concurrently
            return None
        if not self._asked:
            self._module, self._asked = load("bitplanes"), True
        return self._module


compiled_loops = CompiledLoops()


class BrokenTileError(ValueError):
    """One of several tiles cannot be decoded.

    Attributes
    ----------
    index
        Position of that tile.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(index, problem)
        self.index = index

    def __str__(self) -> str:
        return str(self.args[1])


def decode_tiles(parts: Sequence[bytes], out: np.ndarray[Any, Any]) -> None:
    """Decode inner chunks of a raster into an array.

    Parameters
    ----------
    parts
        n inner chunks, checksums included.
    out
        (n, ...) contiguous array of the stored type.

    Raises
    ------
    BrokenTileError
        If a checksum does not match, or a tile has a wrong number of values.
    """
    rows = out.reshape(len(out), -1).view(np.uint8)

    def unpack(loops: Any, addresses: NDArray[np.intp], lengths: NDArray[np.intp], states: NDArray[np.uint8]) -> None:  # noqa: ANN401
        loops.unpack_tiles(loops.contexts.address, addresses, lengths, out.itemsize, rows, states)

    for index in decode_run(parts, unpack):
        decode_plainly(index, parts[index], out[index])


def decode_run(parts: Sequence[bytes], run: Run) -> list[int]:
    """Check and decode inner chunks with a compiled loop; returns the positions of those left to Blosc.

    Parameters
    ----------
    parts
        n inner chunks, checksums included.
    run
        Called with the module `bitplanes`, (n,) addresses and (n,) lengths of the Blosc frames, and (n,) states to write.

    Raises
    ------
    BrokenTileError
        When a checksum does not match, or a block cannot be decoded.
    """
    for index, part in enumerate(parts):
        if len(part) <= CRC_BYTES or google_crc32c.value(part) != CRC_RESIDUE:
            raise BrokenTileError(index, "its checksum does not match")
    loops = compiled_loops.given(len(parts))
    if loops is None:
        return list(range(len(parts)))
    addresses = np.array([loops.address_of(part) for part in parts], np.intp)
    lengths = np.array([len(part) - CRC_BYTES for part in parts], np.intp)
    states = np.empty(len(parts), np.uint8)
    run(loops, addresses, lengths, states)
    broken = np.flatnonzero(states == BROKEN).tolist()
    if broken:
        raise BrokenTileError(broken[0], "a block of it cannot be decoded")
    foreign: list[int] = np.flatnonzero(states == FOREIGN).tolist()
    return foreign


def decode_plainly(index: int, part: bytes, out: np.ndarray[Any, Any]) -> None:
    """Decode one of several inner chunks with Blosc; raises like `decode_run`."""
    try:
        decode_tile(part, out)
    except (ValueError, RuntimeError) as error:
        raise BrokenTileError(index, str(error)) from error
