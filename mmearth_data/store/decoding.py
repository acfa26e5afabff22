"""Inner chunks decoded many at a time, by compiled loops that hold no lock.

What they do not know (frames that Blosc may write, but this project does not) is left to Blosc, tile by tile, and so is
everything where Zstandard's functions cannot be had. So are the first tiles that a process decodes: they are there before
the compiled loops would be loaded, and who reads few tiles never loads them.
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
"""Inner chunks, of all rasters, that a process leaves to Blosc at first: a batch or two."""


class CompiledLoops:
    """The module `bitplanes`, from the time on when loading it pays."""

    def __init__(self) -> None:
        self.left = BY_BLOSC
        self._module: Any = None
        self._asked = False

    def given(self, chunks: int) -> Any:  # noqa: ANN401 - a module
        """Return the module, or None while these are left to Blosc, or where it cannot be had."""
        if self.left > 0:
            self.left -= chunks  # counted roughly: threads may come at once
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

    def unpack(loops: Any, addresses: NDArray[np.intp], lengths: NDArray[np.intp], states: NDArray[np.uint8]) -> None:  # noqa: ANN401
        loops.unpack_tiles(loops.contexts.address, addresses, lengths, out.itemsize, rows, states)

    for index in decode_run(parts, unpack):
        decode_plainly(index, parts[index], out[index])


def decode_run(parts: Sequence[bytes], run: Run) -> list[int]:
    """Check and decode inner chunks by a compiled loop; returns the positions of those that are left to Blosc.

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
    """Decode one of several inner chunks by Blosc itself; raises as `decode_run`."""
    try:
        decode_tile(part, out)
    except (ValueError, RuntimeError) as error:
        raise BrokenTileError(index, str(error)) from error
