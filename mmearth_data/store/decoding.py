"""Inner chunks decoded fast: block by block, while each is in the cache, by contexts that are used again.

Blosc makes a context of Zstandard for every block and throws it away, which takes longer than decoding most blocks of
a tile: 27 of the 38 microseconds of a tile that is constant. Here each thread has one. Frames that Blosc may write, but
this project does not, are left to Blosc.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from zstandard import ZstdDecompressor, ZstdError, frame_content_size

from mmearth_data.store.bitplanes import unshuffle
from mmearth_data.store.encoding import CRC_BYTES, CRC_RESIDUE, decode_tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

HEADER = struct.Struct("<BBBBIII")
"""Of a Blosc frame: format, format of the codec, flags, bytes a value, bytes decoded, bytes a block, bytes encoded."""
LENGTH_BYTES = 4
BLOSC_FORMAT = 2
ZSTD_BITSHUFFLED = 0x94
"""Flags: codec 4 (Zstandard) in the upper three bits, blocks in one piece (0x10), bit planes (0x04)."""
BITS = 8


class _Thread(threading.local):
    """What a thread uses again."""

    def __init__(self) -> None:
        self.zstd = ZstdDecompressor()


_thread = _Thread()


def decode_fast(data: bytes, out: np.ndarray[Any, Any]) -> None:
    """Decode one inner chunk of a raster into its place; as `mmearth_data.store.encoding.decode_tile`."""
    block_bytes = _block_bytes(data, out.dtype, out.nbytes)
    if block_bytes is None:
        decode_tile(data, out)
        return
    place = out.reshape(-1).view(np.uint8)
    for first, planes in _planes(data, block_bytes, out.nbytes):
        unshuffle(planes, out.itemsize, place[first : first + len(planes)])


def decode_blocks(
    data: bytes, dtype: np.dtype[Any], count: int, take: Callable[[int, np.ndarray[Any, Any]], None]
) -> None:
    """Decode one inner chunk of a raster block by block, each handed on while it is in the cache.

    Parameters
    ----------
    data
        The inner chunk, its checksum included.
    dtype, count
        Type and number of its values.
    take
        Called with the position of a block's first value in the tile, and the block's values, which it must not keep.

    Raises
    ------
    ValueError
        As `decode_tile`; blocks before the broken one may have been handed on.
    """
    size = count * dtype.itemsize
    block_bytes = _block_bytes(data, dtype, size)
    if block_bytes is None:
        values = np.empty(count, dtype)
        decode_tile(data, values)
        take(0, values)
        return
    memory = np.empty(min(block_bytes, size), np.uint8)
    for first, planes in _planes(data, block_bytes, size):
        block = memory[: len(planes)]
        unshuffle(planes, dtype.itemsize, block)
        take(first // dtype.itemsize, block.view(dtype))


def _block_bytes(data: bytes, dtype: np.dtype[Any], size: int) -> int | None:
    """Bytes of a decoded block; None where the frame is one for Blosc itself, or for nobody."""
    if len(data) < HEADER.size + CRC_BYTES:
        return None
    form, _, flags, itemsize, decoded, block_bytes, encoded = HEADER.unpack_from(data)
    plain = form == BLOSC_FORMAT and flags == ZSTD_BITSHUFFLED and itemsize == dtype.itemsize and itemsize <= BITS
    if not plain or block_bytes == 0 or decoded != size or encoded != len(data) - CRC_BYTES:
        return None
    # Blosc leaves a block as it is, whose values are not a multiple of eight.
    in_eights = block_bytes % (BITS * itemsize) == 0 and size % (BITS * itemsize) == 0
    table_there = HEADER.size + -(-size // block_bytes) * LENGTH_BYTES <= encoded
    return block_bytes if in_eights and table_there else None


def _planes(data: bytes, block_bytes: int, size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Position and bit planes of each block."""
    if google_crc32c.value(data) != CRC_RESIDUE:
        raise ValueError("its checksum does not match")
    decompress = _thread.zstd.decompress
    blocks = -(-size // block_bytes)
    starts = struct.unpack_from(f"<{blocks}I", data, HEADER.size)
    view = memoryview(data)
    for first, start in zip(range(0, size, block_bytes), starts, strict=True):
        begin = start + LENGTH_BYTES
        wanted = min(block_bytes, size - first)
        part = view[begin : begin + int.from_bytes(view[start:begin], "little")]
        # Blosc keeps a block that does not become smaller.
        yield first, np.frombuffer(part if len(part) == wanted else _inflate(decompress, part, wanted), np.uint8)


def _inflate(decompress: Callable[..., bytes], part: memoryview, wanted: int) -> bytes:
    try:
        if frame_content_size(part) != wanted:
            raise ValueError(f"a block of it does not hold {wanted} bytes")
        return decompress(part)
    except ZstdError as error:
        raise ValueError(f"a block of it cannot be decoded: {error}") from error
