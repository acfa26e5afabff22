"""Compiled loops that decode and normalise many tiles per call: Blosc frames of Zstandard with bit planes.

They run without the interpreter's lock from the first tile to the last. Releasing it block by block took longer than
decoding: two threads were no faster than one. All decoding loops are in this file, because numba invalidates a cache
only when the file of the function changes, not when other files do.

Importing it raises ImportError if Zstandard's functions are not available; `mmearth_data.store.decoding` then works
without it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite.binding import add_symbol
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from zstandard._cffi import ffi, lib

from mmearth_data.store.compiling import compiled, inner
from mmearth_data.store.states import BROKEN, DONE, FOREIGN

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER, _WORD_BYTES, _BITS = 16, 4, 8
_BLOSC_FORMAT = 2
_FLAGS = 0x94
"""Codec 4 (Zstandard) in the upper three bits, blocks in one piece (0x10), bit planes (0x04)."""

FORMS = {"uint8": 0, "uint16": 1, "int16": 2, "float32": 3}
"""Stored types that are normalised here -> their numbers in `score_tiles`."""
_ITEMSIZES = (1, 2, 2, 4)

_WORD = np.uint64
# Masks of an 8 x 8 transposition of bits: H. S. Warren, Hacker's Delight, 7-3.
_ONES, _PAIRS, _FOURS = _WORD(0x00AA00AA00AA00AA), _WORD(0x0000CCCC0000CCCC), _WORD(0x00000000F0F0F0F0)
_BY_1, _BY_2, _BY_4 = _WORD(7), _WORD(14), _WORD(28)

# By name, so that compiled code can be cached: the address differs between processes.
add_symbol("mmearth_zstd_decompress", int(ffi.cast("uintptr_t", ffi.addressof(lib, "ZSTD_decompressDCtx"))))
_decompress: Any = types.ExternalFunction(
    "mmearth_zstd_decompress", types.uintp(types.uintp, types.uintp, types.uintp, types.uintp, types.uintp)
)


def address_of(part: bytes) -> int:
    """Address of bytes in memory, which the caller must keep alive; three times as fast as with numpy."""
    return int(ffi.cast("uintptr_t", ffi.from_buffer(part)))


class _Contexts(threading.local):
    """One Zstandard context per thread: creating one takes longer than decoding most blocks of a tile."""

    def __init__(self) -> None:
        self._context = ffi.gc(lib.ZSTD_createDCtx(), lib.ZSTD_freeDCtx)
        self.address = int(ffi.cast("uintptr_t", self._context))


contexts = _Contexts()


@intrinsic
def _pointer(_context: Any, address: Any) -> Any:  # noqa: ANN401 - numba has no types
    """Convert an address to a pointer for `carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    pointer: Any = types.CPointer
    return pointer(types.uint8)(address), generate


BYTES, WORDS = types.Array(types.uint8, 1, "C"), types.Array(types.uint64, 1, "C")
_ROWS = types.Array(types.uint8, 2, "C")
_ADDRESSES = types.Array(types.intp, 1, "C")
_FLOAT_ROWS, _SCALES = types.Array(types.float32, 2, "C"), types.Array(types.float32, 3, "C")


@inner
def flip_bits(x: np.uint64) -> np.uint64:
    """Transpose an 8 x 8 bit matrix: bit k of byte j becomes bit j of byte k."""
    # Also compiled into the cache of `packing`, which must be changed when this changes.
    t = (x ^ (x >> _BY_1)) & _ONES
    x = x ^ t ^ (t << _BY_1)
    t = (x ^ (x >> _BY_2)) & _PAIRS
    x = x ^ t ^ (t << _BY_2)
    t = (x ^ (x >> _BY_4)) & _FOURS
    return x ^ t ^ (t << _BY_4)


@inner
def _transpose(planes: NDArray[np.uint8], out: NDArray[np.uint64]) -> None:
    """(8 * n,) bytes, the 8 bit planes of 8 * n bytes each a run of n, to these bytes, eight a word."""
    n = len(planes) // 8
    # With separate slices, the compiler sees that no index wraps around and vectorises: five times as fast.
    p0, p1, p2, p3 = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    p4, p5, p6, p7 = planes[4 * n : 5 * n], planes[5 * n : 6 * n], planes[6 * n : 7 * n], planes[7 * n : 8 * n]
    for i in range(n):
        x = _WORD(p0[i]) | (_WORD(p1[i]) << _WORD(8)) | (_WORD(p2[i]) << _WORD(16)) | (_WORD(p3[i]) << _WORD(24))
        x |= (_WORD(p4[i]) << _WORD(32)) | (_WORD(p5[i]) << _WORD(40)) | (_WORD(p6[i]) << _WORD(48))
        x |= _WORD(p7[i]) << _WORD(56)
        out[i] = flip_bits(x)


@inner
def unshuffle(planes: NDArray[np.uint8], itemsize: int, words: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
    """Undo bitshuffle: convert bit planes to values.

    Parameters
    ----------
    planes
        (n,) bytes: the lowest bit of all values, the next one of all values, and so on; n is a multiple of
        8 * ``itemsize``.
    itemsize
        Bytes of a value: 1, 2, 4 or 8.
    words
        Work space, at least (n / 8,).
    out
        (n,) bytes of the values, little-endian.
    """
    if itemsize == 1:
        _transpose(planes, out.view(np.uint64))
        return
    part = len(planes) // itemsize
    for k in range(itemsize):
        _transpose(planes[k * part : (k + 1) * part], words[k * part // 8 : (k + 1) * part // 8])
    ours = words.view(np.uint8)
    if itemsize == 2:
        low, high, pairs = ours[:part], ours[part : 2 * part], out.view(np.uint16)
        for i in range(part):
            pairs[i] = np.uint16(low[i]) | (np.uint16(high[i]) << np.uint16(8))
    elif itemsize == 4:
        a, b, c, d = ours[:part], ours[part : 2 * part], ours[2 * part : 3 * part], ours[3 * part : 4 * part]
        fours = out.view(np.uint32)
        for i in range(part):
            low_half = np.uint32(a[i]) | (np.uint32(b[i]) << np.uint32(8))
            fours[i] = low_half | (np.uint32(c[i]) << np.uint32(16)) | (np.uint32(d[i]) << np.uint32(24))
    else:
        for k in range(itemsize):
            for i in range(part):
                out[i * itemsize + k] = ours[k * part + i]


@inner
def _number(data: NDArray[np.uint8], at: int) -> int:
    """Four bytes, little-endian."""
    number = np.intp(0)  # signed, like positions: with unsigned integers, numba would continue in floats
    for k in range(_WORD_BYTES):
        number |= np.intp(data[at + k]) << (8 * k)
    return int(number)


@compiled(types.intp(BYTES, types.intp, types.intp))
def block_bytes(frame: NDArray[np.uint8], itemsize: int, size: int) -> int:
    """Bytes of a decoded block; 0 if only Blosc itself can decode the frame, or nothing can.

    Parameters
    ----------
    frame
        The Blosc frame.
    itemsize, size
        Bytes per value, and in total, that it should contain.
    """
    if len(frame) < _HEADER or frame[0] != _BLOSC_FORMAT or frame[2] != _FLAGS or frame[3] != itemsize:
        return 0
    block = _number(frame, 8)
    if _number(frame, 4) != size or _number(frame, 12) != len(frame) or block == 0:
        return 0
    # Blosc does not shuffle a block whose number of values is not a multiple of eight.
    in_eights = block % (_BITS * itemsize) == 0 and size % (_BITS * itemsize) == 0
    table_there = _HEADER + -(-size // block) * _WORD_BYTES <= len(frame)
    return min(block, size) if in_eights and table_there else 0


@inner
def unpack_block(
    context: int,
    frame: NDArray[np.uint8],
    index: int,
    itemsize: int,
    planes: NDArray[np.uint8],
    words: NDArray[np.uint64],
    out: NDArray[np.uint8],
) -> bool:
    """Decode one block of a frame that `block_bytes` accepts; False if it is corrupt.

    Parameters
    ----------
    context
        Address of Zstandard's.
    frame
        The Blosc frame.
    index
        Number of the block.
    itemsize
        Bytes of a value.
    planes, words
        Work space of the size of a block.
    out
        Decoded bytes of the block; written.
    """
    start = _number(frame, _HEADER + index * _WORD_BYTES)
    if start + _WORD_BYTES > len(frame):
        return False
    length = _number(frame, start)
    begin = start + _WORD_BYTES
    if begin + length > len(frame):
        return False
    if length == len(out):  # Blosc stores an incompressible block unchanged
        unshuffle(frame[begin : begin + length], itemsize, words, out)
        return True
    source = np.uintp(frame.ctypes.data) + np.uintp(begin)
    got = _decompress(context, np.uintp(planes.ctypes.data), np.uintp(len(out)), source, np.uintp(length))
    if got != np.uintp(len(out)):
        return False
    unshuffle(planes[: len(out)], itemsize, words, out)
    return True


@inner
def bytes_at(address: int, length: int) -> NDArray[np.uint8]:
    """View memory as an array."""
    array: NDArray[np.uint8] = carray(_pointer(address), (length,), np.uint8)  # type: ignore[call-arg]
    return array


@compiled(types.void(types.uintp, _ADDRESSES, _ADDRESSES, types.intp, _ROWS, BYTES))
def unpack_tiles(
    context: int,
    addresses: NDArray[np.intp],
    lengths: NDArray[np.intp],
    itemsize: int,
    out: NDArray[np.uint8],
    states: NDArray[np.uint8],
) -> None:
    """Decode tiles into an array.

    Parameters
    ----------
    context
        Address of Zstandard's.
    addresses, lengths
        (n,) of their Blosc frames.
    itemsize
        Bytes of a value.
    out
        (n, bytes of a tile).
    states
        (n,) `DONE`, `FOREIGN` or `BROKEN`; written.
    """
    size = out.shape[1]
    planes, words = np.empty(0, np.uint8), np.empty(0, np.uint64)
    for k in range(len(addresses)):
        frame = bytes_at(addresses[k], lengths[k])
        step = block_bytes(frame, itemsize, size)
        states[k] = FOREIGN if step == 0 else DONE
        if step > len(planes):
            planes, words = np.empty(step, np.uint8), np.empty(step // 8, np.uint64)
        for index in range(-(-size // step) if step else 0):
            place = out[k, index * step : min(size, (index + 1) * step)]
            if not unpack_block(context, frame, index, itemsize, planes, words, place):
                states[k] = BROKEN
                break


@inner
def z_score(
    values: np.ndarray[Any, Any],
    first: int,
    pixels: int,
    scale: NDArray[np.float32],
    nodata: float,
    out: NDArray[np.float32],
) -> None:
    """Normalise a run of a tile's values: (value - mean) * (1 / std) by band, NaN where nothing was observed.

    Parameters
    ----------
    values
        (n,) stored values, of one of the types in `FORMS`.
    first
        Position of the first one in the tile, laid out (band, pixel).
    pixels
        Number of values per band.
    scale
        (bands, 3): mean, 1 / std, usable.
    nodata
        Stored value that means "never observed"; NaN where NaN does.
    out
        (bands * pixels,) float32 of the whole tile; only the run is written.
    """
    missing = np.float32(np.nan)
    done = 0
    while done < len(values):
        band = (first + done) // pixels
        count = min(len(values) - done, (band + 1) * pixels - first - done)
        source, target = values[done : done + count], out[first + done : first + done + count]
        mean, inverse_std = scale[band, 0], scale[band, 1]
        if scale[band, 2] == 0:
            target[:] = missing
        elif np.isnan(nodata):
            for i in range(count):
                target[i] = (np.float32(source[i]) - mean) * inverse_std
        else:
            none = source.dtype.type(nodata)
            for i in range(count):
                target[i] = missing if source[i] == none else (np.float32(source[i]) - mean) * inverse_std
        done += count


@compiled(
    types.void(types.uintp, _ADDRESSES, _ADDRESSES, types.intp, types.intp, _SCALES, types.float64, _FLOAT_ROWS, BYTES)
)
def score_tiles(
    context: int,
    addresses: NDArray[np.intp],
    lengths: NDArray[np.intp],
    form: int,
    pixels: int,
    scales: NDArray[np.float32],
    nodata: float,
    out: NDArray[np.float32],
    states: NDArray[np.uint8],
) -> None:
    """Decode tiles and normalise them, block by block, while each block is in the cache.

    Parameters
    ----------
    context
        Address of Zstandard's.
    addresses, lengths
        (n,) of their Blosc frames.
    form
        Of `FORMS`.
    pixels
        Values of one band.
    scales
        (n, bands, 3): mean, 1 / std, usable.
    nodata
        See `z_score`.
    out
        (n, bands * pixels) float32.
    states
        (n,) `DONE`, `FOREIGN` or `BROKEN`; written.
    """
    itemsize = _ITEMSIZES[form]
    size = out.shape[1] * itemsize
    planes, words, block = np.empty(0, np.uint8), np.empty(0, np.uint64), np.empty(0, np.uint8)
    for k in range(len(addresses)):
        frame = bytes_at(addresses[k], lengths[k])
        step = block_bytes(frame, itemsize, size)
        states[k] = FOREIGN if step == 0 else DONE
        if step > len(planes):
            planes, words, block = np.empty(step, np.uint8), np.empty(step // 8, np.uint64), np.empty(step, np.uint8)
        for index in range(-(-size // step) if step else 0):
            values = block[: min(size, (index + 1) * step) - index * step]
            if not unpack_block(context, frame, index, itemsize, planes, words, values):
                states[k] = BROKEN
                break
            first = index * step // itemsize
            if form == 0:
                z_score(values, first, pixels, scales[k], nodata, out[k])
            elif form == 1:
                z_score(values.view(np.uint16), first, pixels, scales[k], nodata, out[k])
            elif form == 2:
                z_score(values.view(np.int16), first, pixels, scales[k], nodata, out[k])
            else:
                z_score(values.view(np.float32), first, pixels, scales[k], nodata, out[k])
