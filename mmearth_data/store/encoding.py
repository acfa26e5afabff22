"""From values to stored bytes: JSON, Zarr metadata, chunks and shards.

Shards are assembled here, from the parts that zarr-python itself uses (numcodecs, google-crc32c), and equal
what zarr-python's encoder writes byte for byte (tested). Three reasons: inner chunks stand in index order
whatever codec pipeline a process has configured; threads do not queue up on zarr's one event loop; and it
takes half the time.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import google_crc32c
import numpy as np
from numcodecs import blosc
from numcodecs.blosc import Blosc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from io import BufferedReader

    from numpy.typing import NDArray

    from mmearth_data.store.schema import ArraySpec

Part: TypeAlias = bytes | memoryview
"""An inner chunk, its checksum included."""
COMPRESSOR = "zstd"
"""lz4 at level 7 decodes three to five times as fast, but on real Sentinel-2 tiles it takes half as many bytes again."""
COMPRESSION_LEVEL = 1
BITSHUFFLE = 2
CRC_BYTES = 4
DIGEST_BYTES = 32
INDEX_ENTRY_BYTES = 16
FIXED_BYTES = 12
"""Of a Blosc frame, which only depend on how it was encoded; its length follows."""
CRC_RESIDUE = 0x48674BC7
"""The crc32c of any bytes that end in their own crc32c: comparing needs no copy without the last four bytes."""
ABSENT = 2**64 - 1
"""Offset and length of an inner chunk that is not there (Zarr v3, sharding codec)."""


def to_json(value: Any) -> bytes:  # noqa: ANN401 - whatever JSON can say
    """Canonical JSON: compact, UTF-8, keys in the given order, no NaN.

    Raises
    ------
    ValueError
        For NaN and infinities, which JSON cannot say.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def digest_of(data: bytes | memoryview) -> str:
    """Digest that identifies an object: blake2b with 32 bytes, in hex."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digest_stream(stream: BufferedReader) -> str:
    """Digest of everything that a file holds, without having all of it in memory."""
    return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()


def array_metadata(spec: ArraySpec) -> dict[str, Any]:
    """Zarr v3 metadata of one array."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": "string" if spec.dtype.kind == "O" else spec.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": spec.fill,
        "codecs": _codecs(spec),
        "attributes": dict(spec.attributes),
        "dimension_names": list(spec.dimensions),
    }


def group_metadata(attributes: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Zarr v3 metadata of the root group, with consolidated metadata of its arrays."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": dict(arrays)},
    }


def _codecs(spec: ArraySpec) -> list[dict[str, Any]]:
    if spec.dtype.kind == "O":
        return [{"name": "vlen-utf8", "configuration": {}}, {"name": "crc32c"}]
    numbers: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc: dict[str, Any] = {
        "typesize": spec.dtype.itemsize,
        "cname": COMPRESSOR,
        "clevel": COMPRESSION_LEVEL,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }
    codecs: list[dict[str, Any]] = [numbers, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}]
    if spec.inner_shape is None:
        return codecs
    sharding: dict[str, Any] = {
        "chunk_shape": list(spec.inner_shape),
        "codecs": codecs,
        "index_codecs": [numbers, {"name": "crc32c"}],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]


def object_key(spec: ArraySpec, position: int) -> str:
    """Key of the object at a position on the leading axis, relative to the store."""
    return f"{spec.name}/c/{position}" + "/0" * (len(spec.shape) - 1)


def encode_shard(values: np.ndarray[Any, Any], chunks: int) -> bytes:
    """Encode one shard of a raster: inner chunks in index order, then the index.

    Parameters
    ----------
    values
        (n, band, y, x), n at most ``chunks``.
    chunks
        Inner chunks that a whole shard holds; those beyond n are absent, as the last shard of an array has it.

    Returns
    -------
    bytes
        The object, as the Zarr v3 sharding codec lays it out.
    """
    return join_shard(encode_tiles(values), chunks)


def encode_tiles(values: np.ndarray[Any, Any], empty: Mapping[int, bytes] | None = None) -> list[Part]:
    """Encode the inner chunks of rows.

    Parameters
    ----------
    values
        (n, band, y, x).
    empty
        Rows that hold no data, with their inner chunk: `encode_tile` gives the same for all of them.
    """
    known = empty or {}
    whole = _little_endian(values)
    rows = [k for k in range(len(whole)) if k not in known]
    parts = dict(zip(rows, _encode_rows(whole, rows), strict=True))
    return [known[k] if k in known else parts[k] for k in range(len(whole))]


def encode_tile(tile: np.ndarray[Any, Any]) -> bytes:
    """Encode one inner chunk of a raster, (band, y, x)."""
    return _checksummed(_compressor(tile.dtype).encode(_little_endian(tile)))


def _encode_rows(values: np.ndarray[Any, Any], rows: Sequence[int]) -> Sequence[Part]:
    """Inner chunks of some rows of contiguous values: by compiled loops where they know how, else by Blosc itself."""
    header = _header(values[0].nbytes, values.dtype) if rows else None
    if header is None:
        return [encode_tile(values[k]) for k in rows]
    from mmearth_data.store.packing import pack

    tiles = values.reshape(len(values), -1).view(np.uint8)
    data, ends = pack(tiles, np.array(rows, np.intp), header, COMPRESSION_LEVEL)
    parts = [data[start:end] for start, end in pairwise([0, *ends.tolist()])]
    for part in parts:
        part[-CRC_BYTES:] = np.frombuffer(_checksum(part[:-CRC_BYTES]), np.uint8)
    return [part.data for part in parts]


@lru_cache(maxsize=64)
def _header(size: int, dtype: np.dtype[Any]) -> NDArray[np.uint8] | None:
    """First bytes of every frame of so many bytes, as Blosc begins it; None where compiled loops cannot go on."""
    # Compiled code is loaded for it, which takes most of a second.
    try:
        from mmearth_data.store import packing  # noqa: F401 - is it there?
        from mmearth_data.store.bitplanes import block_bytes
    except ImportError:  # a build of Zstandard's package without its functions
        return None
    frame = np.frombuffer(_compressor(dtype).encode(bytes(size)), np.uint8)
    return frame[:FIXED_BYTES] if block_bytes(frame.copy(), dtype.itemsize, size) else None


def join_shard(parts: Sequence[Part], chunks: int) -> bytes:
    """One shard of its inner chunks, in index order; see `encode_shard`."""
    index = np.full((chunks, 2), ABSENT, dtype="<u8")
    ends = np.cumsum([len(part) for part in parts], dtype="<u8")
    index[: len(parts), 1] = np.diff(ends, prepend=np.uint64(0))
    index[: len(parts), 0] = ends - index[: len(parts), 1]
    return b"".join([*parts, _checksummed(index.tobytes())])


def extend_shard(data: bytes, chunks: int, held: int, parts: Sequence[Part]) -> bytes:
    """Put rows behind the first ones of a shard.

    The inner chunks of the first rows stay byte for byte where they were, so that whoever reads with the older
    index, or the older commit record, gets the same values.

    Parameters
    ----------
    data
        The shard.
    chunks
        Inner chunks that a whole shard holds.
    held
        Rows to keep; those behind them are replaced.
    parts
        Inner chunks to put there, as `encode_tiles` gives them.

    Raises
    ------
    ValueError
        When the shard does not hold those rows, one after the other.
    """
    return join_shard([*_first_parts(data, chunks, held), *parts], chunks)


def cut_shard(data: bytes, chunks: int, held: int) -> bytes:
    """Shard as it was when it held its first rows only; the inverse of `extend_shard`, which says what it raises."""
    return join_shard(_first_parts(data, chunks, held), chunks)


def decode_rows(data: bytes, chunks: int, held: int, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of the first rows of a shard, (held, band, y, x) with the shape and type of a tile like the given one.

    Raises
    ------
    ValueError
        When the shard does not hold them.
    """
    values = np.empty((held, *like.shape), dtype=like.dtype)
    for part, out in zip(_first_parts(data, chunks, held), values, strict=True):
        decode_tile(part, out)
    return values


def _first_parts(data: bytes, chunks: int, held: int) -> list[bytes]:
    """Inner chunks of the first rows, which must stand one after the other from the beginning on."""
    entries = decode_index(data[-smallest_shard_bytes(chunks) :])[:held]
    starts = np.cumsum(entries[:, 1]) - entries[:, 1]
    if (entries == ABSENT).any() or (entries[:, 0] != starts).any():
        raise ValueError(f"it does not hold its first {held} rows one after the other")
    return [data[offset : offset + length] for offset, length in entries.tolist()]


def encode_chunk(values: np.ndarray[Any, Any], rows: int, fill: np.generic) -> bytes:
    """Encode one plain chunk of numbers, filled up to ``rows`` rows."""
    chunk = np.full((rows, *values.shape[1:]), fill, dtype=values.dtype)
    chunk[: len(values)] = values
    return _checksummed(_compressor(values.dtype).encode(_little_endian(chunk)))


def decode_tile(data: bytes, out: np.ndarray[Any, Any]) -> None:
    """Decode one inner chunk of a raster into its place.

    Parameters
    ----------
    data
        The inner chunk, its checksum included.
    out
        Contiguous array of the tile's shape and stored type.

    Raises
    ------
    ValueError
        When the checksum does not match, or the values are not as many as they should be.
    """
    if google_crc32c.value(data) != CRC_RESIDUE:
        raise ValueError("its checksum does not match")
    # Bytes 4 to 8 of a Blosc frame count the bytes of the decoded values.
    if int.from_bytes(data[4:8], "little") != out.nbytes:
        raise ValueError(f"it does not hold the {out.nbytes} bytes of a tile")
    blosc.use_threads = False
    blosc.decompress(data, out)


def decode_index(data: bytes) -> NDArray[np.uint64]:
    """Offset and length of the inner chunks of a shard, (chunks, 2).

    Parameters
    ----------
    data
        The end of the shard, `smallest_shard_bytes` long.

    Raises
    ------
    ValueError
        When the checksum does not match.
    """
    if not has_checksum(data):
        raise ValueError("the checksum of its index does not match")
    return np.frombuffer(data[:-CRC_BYTES], dtype="<u8").reshape(-1, 2)


def encode_names(names: Sequence[str]) -> bytes:
    """Encode a chunk of text (vlen-utf8, crc32c): a count, then length and bytes of each, 32-bit little-endian."""
    words = [name.encode() for name in names]
    body = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    return _checksummed(len(words).to_bytes(4, "little") + body)


def smallest_shard_bytes(chunks: int) -> int:
    """Fewest bytes that a whole shard can have: its index."""
    return chunks * INDEX_ENTRY_BYTES + CRC_BYTES


def digest_all(parts: Iterable[bytes]) -> str:
    """Digest of several objects in order: of their digests, so that no boundary can shift."""
    return digest_of("".join(digest_of(part) for part in parts).encode())


def _compressor(dtype: np.dtype[Any]) -> Blosc:
    # The threads of blosc append blocks as they finish: twelve runs, twelve files (numcodecs 0.16, where it is on
    # in the main thread by default). zarr-python switches them off for the whole process as well.
    blosc.use_threads = False
    return Blosc(cname=COMPRESSOR, clevel=COMPRESSION_LEVEL, shuffle=BITSHUFFLE, blocksize=0, typesize=dtype.itemsize)


def _little_endian(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


def _checksummed(data: bytes) -> bytes:
    return data + _checksum(data)


def has_checksum(data: bytes | memoryview) -> bool:
    """Whether bytes end in the crc32c of what stands before."""
    return len(data) > CRC_BYTES and _checksum(bytes(data[:-CRC_BYTES])) == bytes(data[-CRC_BYTES:])


def _checksum(data: bytes | NDArray[np.uint8]) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")
