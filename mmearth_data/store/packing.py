"""A compiled loop that encodes the tiles of a shard with python-blosc2's library, without the GIL.

Compressing a small tile takes about as long as a call from Python. The library writes frames of Blosc 2, because it can
write those of Blosc 1 only under a process-wide lock. They are converted here: the header is replaced, and blocks that
are runs of one byte, the only other difference between the formats, are expanded.

Importing this module raises ImportError if numba or python-blosc2 is not installed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import typeof, types
from numcodecs.blosc import Blosc

from mmearth_data.store.blosc_fast import COMPRESS, contexts
from mmearth_data.store.codec import BLOSC_1, COMPRESSION_LEVEL, COMPRESSOR, COPIED, CRC_BYTES, HEADER, START, crc_of
from mmearth_data.store.compiling import compiled, inner

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_HEADER, _HEADER_2 = HEADER.size, 2 * HEADER.size
_ALL_ZEROS = 0x10
"""Value of the last byte of Blosc 2's header if the frame has no blocks because all its values are zero."""
_EXTENDED = 0x01
"""Flag that, together with the bitshuffle flag, indicates a header of Blosc 2."""
_SMALLEST = 128
"""Minimum number of bytes that Blosc 1 compresses."""
_RUNS = (0x00, 0xFF)
"""Byte values of bit planes that are usually runs."""

_FUNCTION = typeof(COMPRESS)  # type: ignore[no-untyped-call]
_TILES, _SEEN = types.Array(types.uint8, 2, "C", readonly=True), types.Array(types.boolean, 1, "C", readonly=True)
_READ, _BYTES = types.Array(types.uint8, 1, "C", readonly=True), types.Array(types.uint8, 1, "C")
_BOUNDS = types.Array(types.intp, 1, "C")


def pack(
    values: np.ndarray[Any, Any],
    seen: NDArray[np.bool_],
    nothing: bytes,
    first: int,
    out: NDArray[np.uint8],
    bounds: NDArray[np.intp],
) -> int:
    """Encode tiles as consecutive chunks.

    Parameters
    ----------
    values
        (n, band, y, x) contiguous, little-endian.
    seen
        (n,) which of them to encode.
    nothing
        Chunk for each of the others, including its checksum.
    first
        Position of the first tile to encode.
    out
        Buffer for all chunks.
    bounds
        (n + 1,) offset of each chunk in the buffer, and the end of the last; filled up to ``first`` by the caller.

    Returns
    -------
    int
        Position of the first tile that Blosc 1 cannot represent; n if there is none.
    """
    tiles = values.reshape(len(values), -1).view(np.uint8)
    size, itemsize = tiles.shape[1], values.itemsize
    if size < _SMALLEST or size % (8 * itemsize):
        return first  # the formats differ in blocks that are not shuffled
    frame, context = contexts.room(size + _HEADER_2), contexts.encoder(size, itemsize, COMPRESSION_LEVEL)
    empty, (block, runs) = np.frombuffer(nothing, np.uint8), _runs(size, itemsize)
    done = int(_pack(COMPRESS, context, tiles, seen, empty, block, runs, first, frame, out, bounds))
    view = out.data
    for shown, (begin, end) in zip(seen[first:done].tolist(), pairwise(bounds[first : done + 1].tolist()), strict=True):
        if shown:
            view[end - CRC_BYTES : end] = crc_of(out[begin : end - CRC_BYTES])
    return done


@lru_cache(maxsize=64)
def _runs(size: int, itemsize: int) -> tuple[int, NDArray[np.uint8]]:
    """Bytes of a block in frames of ``size`` bytes; and such blocks of each of `_RUNS`, then last blocks of each."""
    zeros = Blosc(COMPRESSOR, COMPRESSION_LEVEL, Blosc.BITSHUFFLE, typesize=itemsize).encode(bytes(size))
    block = HEADER.unpack_from(zeros)[5]
    codec = Blosc(COMPRESSOR, COMPRESSION_LEVEL, Blosc.NOSHUFFLE, blocksize=block, typesize=1)
    parts = []
    for position in (_HEADER, _HEADER + START * ((size - 1) // block)):
        for byte in _RUNS:
            frame = bytes(codec.encode(bytes([byte]) * size))
            start = int.from_bytes(frame[position : position + START], "little")
            parts.append(frame[start : start + START + int.from_bytes(frame[start : start + START], "little")])
    return block, np.frombuffer(b"".join(parts), np.uint8)


@inner
def _copy(values: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    """Copy bytes to a position; returns their end. An assignment to a slice takes numba three seconds to compile."""
    target = out[at : at + len(values)]
    for i in range(len(target)):
        target[i] = values[i]
    return at + len(values)


@inner
def _number(data: NDArray[np.uint8], at: int) -> int:
    """Four bytes, little-endian, signed."""
    value = np.int32(data[at + 3])
    for k in range(2, -1, -1):
        value = np.int32(value << 8) | np.int32(data[at + k])
    return np.intp(value)  # type: ignore[return-value]


@inner
def _put_number(out: NDArray[np.uint8], at: int, number: int) -> None:
    for k in range(START):
        out[at + k] = np.uint8((number >> (8 * k)) & 0xFF)


@inner
def _run(runs: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
    """One of several blocks."""
    at = 0
    for _ in range(position):
        at += START + _number(runs, at)
    return runs[at : at + START + _number(runs, at)]


@inner
def _put_blocks(frame: NDArray[np.uint8], runs: NDArray[np.uint8], out: NDArray[np.uint8], begin: int) -> int:
    """Write the positions and blocks of a Blosc 1 frame that starts at ``begin``; returns its end, 0 if impossible."""
    size, block = _number(frame, 4), _number(frame, 8)
    blocks = -(-size // block)
    end = begin + _HEADER + START * blocks
    for k in range(blocks):
        _put_number(out, begin + _HEADER + START * k, end - begin)
        start, length = 0, 0
        if frame[_HEADER_2 - 1] != _ALL_ZEROS:
            start = _number(frame, _HEADER_2 + START * k)
            length = _number(frame, start)
        if length > 0:
            end = _copy(frame[start : start + START + length], out, end)
        elif length in (0, -0xFF):
            end = _copy(_run(runs, 2 * (k == blocks - 1) + (length != 0)), out, end)
        else:
            return 0
    return end


@compiled(
    types.intp(_FUNCTION, types.uintp, _TILES, _SEEN, _READ, types.intp, _READ, types.intp, _BYTES, _BYTES, _BOUNDS)
)
def _pack(
    compress: Callable[..., int],
    context: int,
    tiles: NDArray[np.uint8],
    seen: NDArray[np.bool_],
    nothing: NDArray[np.uint8],
    block: int,
    runs: NDArray[np.uint8],
    first: int,
    frame: NDArray[np.uint8],
    out: NDArray[np.uint8],
    bounds: NDArray[np.intp],
) -> int:
    """See `pack`; ``frame`` is work space for one frame of Blosc 2."""
    place, room, size = np.uintp(frame.ctypes.data), np.int32(len(frame)), np.int32(tiles.shape[1])
    begin = bounds[first]
    for k in range(first, len(tiles)):
        if not seen[k]:
            begin = bounds[k + 1] = _copy(nothing, out, begin)
            continue
        length = compress(context, np.uintp(tiles[k].ctypes.data), size, place, room)
        if length < _HEADER_2 or frame[_HEADER_2 - 1] not in (0, _ALL_ZEROS) or _number(frame, 8) != block:
            return k
        _copy(frame[:_HEADER], out, begin)
        out[begin], out[begin + 2] = BLOSC_1, frame[2] & ~_EXTENDED
        if frame[2] & COPIED:
            end = _copy(frame[_HEADER_2:length], out, begin + _HEADER)
        else:
            end = _put_blocks(frame, runs, out, begin)
            if not end:
                return k
        _put_number(out, begin + 12, end - begin)
        begin = bounds[k + 1] = end + CRC_BYTES
    return len(tiles)
