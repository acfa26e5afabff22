"""Encode and decode chunks of numbers: a Blosc 1 frame (Zstandard, bitshuffle) followed by its crc32c.

If python-blosc2 is installed (extra ``fast``), `mmearth_data.store.packing` encodes the tiles of a shard, and
`mmearth_data.store.blosc_fast` decodes; otherwise, and for single chunks, numcodecs does. Both write the same format and
read any Blosc 1 frame, whatever its codec, filter and bytes per value.
"""

from __future__ import annotations

import logging
import struct
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numcodecs.blosc import Blosc

from mmearth_data.store.loops import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOG = logging.getLogger(__name__)
_FAILURES = count()

COMPRESSOR = "zstd"
"""lz4 at level 7 decodes three to five times as fast, but needs 1.5 times as many bytes on real Sentinel-2 tiles."""
COMPRESSION_LEVEL = 1
CRC_BYTES = 4
CRC_RESIDUE = 0x48674BC7
"""The crc32c of any bytes that end with their own crc32c, so that they can be checked without removing the last
four."""
HEADER = struct.Struct("<4B3I")
"""Version, version of the codec, flags, bytes per value; number of decoded bytes, bytes per block, bytes of the frame."""
BLOSC_1 = 2
COPIED = 0x02
"""Flag of a frame with uncompressed values."""
CORRUPT = "Blosc cannot decode it"
MOST_ADDED = 64
"""Bytes by which a chunk is longer than its values at most."""
START = 4
"""Bytes per entry of the table of block positions, which follows the header."""


class BrokenTileError(ValueError):
    """One of several chunks cannot be decoded.

    Attributes
    ----------
    index
        Position of that chunk in the sequence.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(index, problem)
        self.index = index

    def __str__(self) -> str:
        return str(self.args[1])


@cache
def fast_blosc() -> Any | None:  # noqa: ANN401 - a module
    """Return the module `mmearth_data.store.blosc_fast`; None if it is not available, which is logged once."""
    try:
        return import_module("mmearth_data.store.blosc_fast")
    except ImportError as error:
        if next(_FAILURES):
            return None  # another thread has logged it
        LOG.warning("Chunks are encoded and decoded by numcodecs, which is slower (%s): install mmearth[fast].", error)
        return None


def packing() -> Any | None:  # noqa: ANN401 - a module
    """Return the module `mmearth_data.store.packing`; None if numba or python-blosc2 is not available."""
    return None if fast_blosc() is None else _packing()


@cache
def _packing() -> Any | None:  # noqa: ANN401 - a module
    return load(lambda: import_module("mmearth_data.store.packing"))


@lru_cache(maxsize=1)
def encoder_name() -> str:
    """Name the libraries that encode rasters in this process, with their versions.

    Each has its own copy of Zstandard, so the same values may be encoded to different bytes.
    """
    name = f"numcodecs {version('numcodecs')} with Blosc {blosc.VERSION_STRING}"
    fast = fast_blosc()
    return name if fast is None or packing() is None else f"{name}, Blosc {fast.version()}"


def encode(values: np.ndarray[Any, Any]) -> bytes:
    """Encode the values of one chunk with numcodecs."""
    # Blosc's threads append blocks as they finish, so twelve runs gave twelve different files (numcodecs 0.16, which
    # uses them in the main thread by default). zarr-python also switches them off for the whole process.
    blosc.use_threads = False
    numbers = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    codec = Blosc(COMPRESSOR, COMPRESSION_LEVEL, Blosc.BITSHUFFLE, blocksize=0, typesize=numbers.itemsize)
    return checksummed(bytes(codec.encode(numbers)))


def decode(chunks: Sequence[bytes], out: np.ndarray[Any, Any]) -> None:
    """Decode chunks of equal size into an array.

    Parameters
    ----------
    chunks
        n chunks, checksums included.
    out
        (n, ...) contiguous array of the stored type.

    Raises
    ------
    BrokenTileError
        If a chunk is corrupt, or has another number of values.
    """
    check(chunks, out.nbytes // max(1, len(out)))
    for index, (chunk, values) in enumerate(zip(chunks, out, strict=True)):
        _decode(index, chunk, values)


def decoded(chunks: Sequence[bytes], out: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Decode chunks one by one into the same array, which is yielded each time; raises like `decode`."""
    check(chunks, out.nbytes)
    for index, chunk in enumerate(chunks):
        _decode(index, chunk, out)
        yield out


def check(chunks: Sequence[bytes], size: int) -> None:
    """Refuse chunks with a wrong checksum or header; the decoders rely on this check.

    Parameters
    ----------
    chunks
        Chunks, checksums included.
    size
        Bytes of each when decoded.

    Raises
    ------
    BrokenTileError
        For the first such chunk.
    """
    for index, chunk in enumerate(chunks):
        problem = _problem(chunk, size)
        if problem is not None:
            raise BrokenTileError(index, problem)


def _decode(index: int, chunk: bytes, out: np.ndarray[Any, Any]) -> None:
    fast = fast_blosc()
    if not (_decode_by_numcodecs(chunk, out) if fast is None else fast.decode(chunk, len(chunk) - CRC_BYTES, out)):
        raise BrokenTileError(index, CORRUPT)


def _decode_by_numcodecs(chunk: bytes, out: np.ndarray[Any, Any]) -> bool:
    blosc.use_threads = False
    try:
        blosc.decompress(memoryview(chunk)[:-CRC_BYTES], out)
    except (RuntimeError, ValueError):
        return False
    return True


def _problem(chunk: bytes, size: int) -> str | None:
    """Describe the first problem of a chunk of ``size`` decoded bytes that C code would not notice; None if sound."""
    if google_crc32c.value(chunk) != CRC_RESIDUE:
        return "its checksum does not match"
    length = len(chunk) - CRC_BYTES
    if length < HEADER.size:
        return "it has no header of Blosc"
    format_version, _, flags, _, decoded, block, frame_bytes = HEADER.unpack_from(chunk)
    if format_version != BLOSC_1:
        return f"it has version {format_version} of Blosc's format, not {BLOSC_1}"
    if decoded != size:
        return f"it does not hold the {size} bytes of a tile"
    if frame_bytes != length:
        return f"its header has a length of {frame_bytes} bytes, but it has {length}"
    if not 0 < block <= size:
        return f"its header has blocks of {block} bytes"
    rest = size if flags & COPIED else START * -(-size // block)
    return None if HEADER.size + rest <= length else "it is shorter than its header says"


def checksummed(data: bytes) -> bytes:
    """Append the crc32c of bytes."""
    return data + crc_of(data)


def crc_of(data: bytes | np.ndarray[Any, Any]) -> bytes:
    """Return the crc32c of bytes, as it is stored after them."""
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def has_checksum(data: bytes | memoryview) -> bool:
    """Whether bytes end with the crc32c of the bytes before it."""
    return bool(google_crc32c.value(np.frombuffer(data, np.uint8)) == CRC_RESIDUE)
