"""Compiled loops that encode many tiles per call: Blosc frames of Zstandard with bit planes.

The frames are those that Blosc itself writes, byte for byte if both use the same Zstandard (tested). Blosc creates a
Zstandard context for every block, which takes as long as compressing it, and needs a call with the interpreter's lock
for every small tile.

Importing it raises ImportError if Zstandard's functions are not available; `mmearth_data.store.encoding` then works
without it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite.binding import add_symbol
from numba import types
from zstandard._cffi import ffi, lib

from mmearth_data.store.bitplanes import BYTES, WORDS, flip_bits
from mmearth_data.store.compiling import compiled, inner

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER, _WORD_BYTES = 16, 4
_COPIED = 0x02
"""Flag of a frame with uncompressed values."""
_WORD = np.uint64

add_symbol("mmearth_zstd_compress", int(ffi.cast("uintptr_t", ffi.addressof(lib, "ZSTD_compressCCtx"))))
_compress: Any = types.ExternalFunction(
    "mmearth_zstd_compress",
    types.uintp(types.uintp, types.uintp, types.uintp, types.uintp, types.uintp, types.int32),
)

_TILES, _ENDS = types.Array(types.uint8, 2, "C", readonly=True), types.Array(types.intp, 1, "C")
_SEEN = types.Array(types.boolean, 1, "C", readonly=True)
_READ_BYTES = types.Array(types.uint8, 1, "C", readonly=True)


class _Contexts(threading.local):
    """One Zstandard context per thread."""

    def __init__(self) -> None:
        self._context = ffi.gc(lib.ZSTD_createCCtx(), lib.ZSTD_freeCCtx)
        self.address = int(ffi.cast("uintptr_t", self._context))


_contexts = _Contexts()


def zstandard_version() -> str:
    """Version of the Zstandard that compresses here."""
    text: bytes = ffi.string(lib.ZSTD_versionString())
    return text.decode("ascii")


def pack(
    tiles: NDArray[np.uint8],
    seen: NDArray[np.bool_],
    nothing: NDArray[np.uint8],
    header: NDArray[np.uint8],
    level: int,
    spare: int,
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Encode tiles one after the other, leaving the last four bytes of each for its checksum.

    Parameters
    ----------
    tiles
        (n, bytes of a tile).
    seen
        (n,) which of them to encode.
    nothing
        Inner chunk of each of the others, including its checksum.
    header
        (12,) first bytes of Blosc's frame of every such tile; `bitplanes.block_bytes` accepts it.
    level
        Of Zstandard.
    spare
        Bytes to leave after the last tile.

    Returns
    -------
    tuple
        Buffer, longer than needed, and (n,) end of each tile.
    """
    size, block = tiles.shape[1], int.from_bytes(header[8:12].tobytes(), "little")
    # Unused memory costs nothing: the system allocates it page by page.
    most = max(len(nothing), size + _HEADER + 2 * _WORD_BYTES * -(-size // block) + _WORD_BYTES)
    out, ends = np.empty(len(tiles) * most + spare, np.uint8), np.empty(len(tiles), np.intp)
    _pack_tiles(_contexts.address, tiles, seen, nothing, header, level, out, ends)
    return out, ends


@compiled(types.void(WORDS, BYTES))
def _planes_of(words: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
    """(n,) words of eight bytes each to the 8 bit planes of these bytes, each a run of n."""
    n = len(words)
    # With separate slices, the compiler sees that no index wraps around and vectorises.
    p0, p1, p2, p3 = out[:n], out[n : 2 * n], out[2 * n : 3 * n], out[3 * n : 4 * n]
    p4, p5, p6, p7 = out[4 * n : 5 * n], out[5 * n : 6 * n], out[6 * n : 7 * n], out[7 * n : 8 * n]
    for i in range(n):
        x = flip_bits(words[i])
        p0[i], p1[i] = np.uint8(x), np.uint8(x >> _WORD(8))
        p2[i], p3[i] = np.uint8(x >> _WORD(16)), np.uint8(x >> _WORD(24))
        p4[i], p5[i] = np.uint8(x >> _WORD(32)), np.uint8(x >> _WORD(40))
        p6[i], p7[i] = np.uint8(x >> _WORD(48)), np.uint8(x >> _WORD(56))


@compiled(types.void(_READ_BYTES, types.intp, WORDS, BYTES))
def shuffle(values: NDArray[np.uint8], itemsize: int, words: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
    """Bitshuffle: convert values to bit planes; the inverse of `bitplanes.unshuffle`.

    Parameters
    ----------
    values
        (n,) bytes of the values, little-endian; n is a multiple of 8 * ``itemsize``.
    itemsize
        Bytes of a value: 1, 2, 4 or 8.
    words
        Work space, at least (n / 8,).
    out
        (n,) bytes: the lowest bit of all values, the next one of all values, and so on.
    """
    part = len(values) // itemsize
    ours = words.view(np.uint8)
    if itemsize == 2:
        low, high, pairs = ours[:part], ours[part : 2 * part], values.view(np.uint16)
        for i in range(part):
            low[i], high[i] = np.uint8(pairs[i]), np.uint8(pairs[i] >> np.uint16(8))
    elif itemsize == 4:
        a, b, c, d = ours[:part], ours[part : 2 * part], ours[2 * part : 3 * part], ours[3 * part : 4 * part]
        fours = values.view(np.uint32)
        for i in range(part):
            four = fours[i]
            a[i], b[i] = np.uint8(four), np.uint8(four >> np.uint32(8))
            c[i], d[i] = np.uint8(four >> np.uint32(16)), np.uint8(four >> np.uint32(24))
    else:
        for k in range(itemsize):
            for i in range(part):
                ours[k * part + i] = values[i * itemsize + k]
    for k in range(itemsize):
        _planes_of(words[k * part // 8 : (k + 1) * part // 8], out[k * part : (k + 1) * part])


@inner
def _put(values: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Copy; numba takes three seconds to compile the same as an assignment to a slice."""
    for i in range(len(values)):
        out[i] = values[i]


@inner
def _put_number(out: NDArray[np.uint8], at: int, number: int) -> None:
    """Four bytes, little-endian."""
    for k in range(_WORD_BYTES):
        out[at + k] = np.uint8((number >> (8 * k)) & 0xFF)


@compiled(types.intp(types.uintp, _READ_BYTES, types.intp, types.intp, types.int32, WORDS, BYTES, BYTES))
def _pack_blocks(
    context: int,
    tile: NDArray[np.uint8],
    itemsize: int,
    block: int,
    level: int,
    words: NDArray[np.uint64],
    planes: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> int:
    """Write a frame without its header; returns its end, or 0 if it would be longer than the tile itself."""
    size = len(tile)
    blocks = -(-size // block)
    at = _HEADER + _WORD_BYTES * blocks
    for k in range(blocks):
        values = tile[k * block : min(size, (k + 1) * block)]
        shuffle(values, itemsize, words[: len(values) // 8], planes[: len(values)])
        _put_number(out, _HEADER + _WORD_BYTES * k, at)
        begin = at + _WORD_BYTES
        room = min(len(values), _HEADER + size - begin)
        if room <= 0:
            return 0
        target = np.uintp(out.ctypes.data) + np.uintp(begin)
        source, length = np.uintp(planes.ctypes.data), np.uintp(len(values))
        got: int = np.intp(_compress(context, target, np.uintp(room), source, length, level))  # type: ignore[assignment]
        if got <= 0 or got > room:  # errors are small negative numbers: the block does not become smaller
            if len(values) > _HEADER + size - begin:
                return 0
            _put(planes[: len(values)], out[begin:])
            got = len(values)
        _put_number(out, at, got)
        at = begin + got
    return at


@compiled(types.void(types.uintp, _TILES, _SEEN, _READ_BYTES, _READ_BYTES, types.int32, BYTES, _ENDS))
def _pack_tiles(
    context: int,
    tiles: NDArray[np.uint8],
    seen: NDArray[np.bool_],
    nothing: NDArray[np.uint8],
    header: NDArray[np.uint8],
    level: int,
    out: NDArray[np.uint8],
    ends: NDArray[np.intp],
) -> None:
    """See `pack`."""
    size, itemsize = tiles.shape[1], np.intp(header[3])
    block = np.intp(header[8]) | np.intp(header[9]) << 8 | np.intp(header[10]) << 16 | np.intp(header[11]) << 24
    words, planes = np.empty(block // 8, np.uint64), np.empty(block, np.uint8)
    at = 0
    for k in range(len(tiles)):
        tile, frame = tiles[k], out[at:]
        if seen[k]:
            _put(header, frame)
            length = _pack_blocks(context, tile, itemsize, block, level, words, planes, frame)
            if length == 0:
                length = _HEADER + size
                frame[2] |= np.uint8(_COPIED)
                _put(tile, frame[_HEADER:])
            _put_number(frame, 12, length)
            at += length + _WORD_BYTES
        else:
            _put(nothing, frame)
            at += len(nothing)
        ends[k] = at
