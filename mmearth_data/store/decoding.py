"""Inner chunks decoded many at a time, by compiled loops that hold no lock.

What they do not know (frames that Blosc may write, but this project does not) is left to Blosc, tile by tile, and so is
everything where Zstandard's functions cannot be had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from mmearth_data.store.encoding import CRC_BYTES, CRC_RESIDUE, decode_tile
from mmearth_data.store.states import BROKEN, FOREIGN

try:
    from mmearth_data.store import bitplanes
except ImportError:  # a build of Zstandard's package without its functions
    bitplanes = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Run = Callable[[int, NDArray[np.intp], NDArray[np.intp], NDArray[np.uint8]], None]


class BrokenTileError(ValueError):
    """One of several tiles cannot be decoded.

    Attributes
    ----------
    index
        Which of them.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(index, problem)
        self.index = index

    def __str__(self) -> str:
        return str(self.args[1])


def decode_tiles(parts: Sequence[bytes], out: np.ndarray[Any, Any]) -> None:
    """Decode inner chunks of a raster into their places.

    Parameters
    ----------
    parts
        n inner chunks, checksums included.
    out
        (n, ...) contiguous array of the stored type.

    Raises
    ------
    BrokenTileError
        When a checksum does not match, or a tile does not hold as many values as it should.
    """
    rows = out.reshape(len(out), -1).view(np.uint8)

    def unpack(context: int, addresses: NDArray[np.intp], lengths: NDArray[np.intp], states: NDArray[np.uint8]) -> None:
        bitplanes.unpack_tiles(context, addresses, lengths, out.itemsize, rows, states)

    for index in decode_run(parts, unpack):
        decode_plainly(index, parts[index], out[index])


def decode_run(parts: Sequence[bytes], run: Run) -> list[int]:
    """Check and decode inner chunks by a compiled loop; returns the positions of those that are left to Blosc.

    Parameters
    ----------
    parts
        n inner chunks, checksums included.
    run
        Called with the address of this thread's context, (n,) addresses and (n,) lengths of the Blosc frames, and (n,)
        states to write.

    Raises
    ------
    BrokenTileError
        When a checksum does not match, or a block cannot be decoded.
    """
    for index, part in enumerate(parts):
        if len(part) <= CRC_BYTES or google_crc32c.value(part) != CRC_RESIDUE:
            raise BrokenTileError(index, "its checksum does not match")
    if bitplanes is None:
        return list(range(len(parts)))
    frames = [np.frombuffer(part, np.uint8) for part in parts]
    addresses = np.array([frame.__array_interface__["data"][0] for frame in frames], np.intp)
    lengths = np.array([len(part) - CRC_BYTES for part in parts], np.intp)
    states = np.empty(len(parts), np.uint8)
    run(bitplanes.contexts.address, addresses, lengths, states)
    broken = np.flatnonzero(states == BROKEN).tolist()
    if broken:
        raise BrokenTileError(broken[0], "a block of it cannot be decoded")
    foreign: list[int] = np.flatnonzero(states == FOREIGN).tolist()
    return foreign


def decode_plainly(index: int, part: bytes, out: np.ndarray[Any, Any]) -> None:
    """Decode one of several inner chunks by Blosc itself; raises as `decode_run`."""
    try:
        decode_tile(part, out)
    except (ValueError, RuntimeError) as error:
        raise BrokenTileError(index, str(error)) from error
