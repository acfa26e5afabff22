"""Encode values to stored bytes: JSON, Zarr metadata, chunks and shards.

Shards are assembled here with the libraries that zarr-python uses (numcodecs, google-crc32c), and are byte for byte
equal to those of zarr-python's encoder (tested). There are three reasons: inner chunks are in index order whatever
codec pipeline a process has configured; threads do not wait for zarr's single event loop; and it takes half the time.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import google_crc32c
import numpy as np
from numcodecs import blosc
from numcodecs.blosc import Blosc

from mmearth_data.store.loops import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from io import BufferedReader

    from numpy.typing import NDArray

    from mmearth_data.store.schema import ArraySpec

Part: TypeAlias = bytes | memoryview
"""An inner chunk including its checksum, or a whole shard."""
COMPRESSOR = "zstd"
"""lz4 at level 7 decodes three to five times as fast, but takes 1.5 times the bytes on real Sentinel-2 tiles."""
COMPRESSION_LEVEL = 1
BITSHUFFLE = 2
CRC_BYTES = 4
DIGEST_BYTES = 32
INDEX_ENTRY_BYTES = 16
FIXED_BYTES = 12
"""Number of first bytes of a Blosc frame that depend only on the encoder's settings; its length follows."""
CRC_RESIDUE = 0x48674BC7
"""The crc32c of any bytes that end with their own crc32c; checking them needs no copy without the last four bytes."""
ABSENT = 2**64 - 1
"""Offset and length of an absent inner chunk (Zarr v3, sharding codec)."""


def to_json(value: Any) -> bytes:  # noqa: ANN401 - whatever JSON can say
    """Canonical JSON: compact, UTF-8, keys in the given order, no NaN.

    Raises
    ------
    ValueError
        For NaN and infinities, which JSON cannot represent.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def digest_of(data: bytes | memoryview) -> str:
    """Digest that identifies an object: blake2b with 32 bytes, in hex."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digest_stream(stream: BufferedReader) -> str:
    """Digest of a file's content, computed without reading all of it into memory."""
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


@lru_cache(maxsize=1)
def encoder_name() -> str:
    """Name the libraries that encode rasters in this process, with their versions.

    Compiled loops write Blosc frames with their own Zstandard, so equal values may be encoded to other bytes.
    """
    name = f"numcodecs {version('numcodecs')} with Blosc {blosc.VERSION_STRING}"
    loops = load("packing")
    return name if loops is None else f"{name}, bit planes with Zstandard {loops.zstandard_version()}"


def encode_shard(
    values: np.ndarray[Any, Any], chunks: int, seen: NDArray[np.bool_] | None = None, nothing: bytes = b""
) -> Part:
    """Encode one shard of a raster: inner chunks in index order, then the index.

    Parameters
    ----------
    values
        (n, band, y, x), n at most ``chunks``.
    chunks
        Number of inner chunks in a whole shard; those beyond n are absent, as in the last shard of an array.
    seen, nothing
        (n,) which rows have data, and the inner chunk of those that have none; see `encode_tiles`.

    Returns
    -------
    bytes or memoryview
        The object, in the layout of the Zarr v3 sharding codec.
    """
    length = smallest_shard_bytes(chunks)
    packed = _pack(values, seen, nothing, spare=length)
    if packed is None:
        return join_shard(encode_tiles(values, seen, nothing), chunks)
    data, ends = packed
    end = ends[-1] + length
    data[ends[-1] : end] = np.frombuffer(_shard_index(np.diff(ends, prepend=0), chunks), np.uint8)
    return data[:end].data


def encode_tiles(
    values: np.ndarray[Any, Any], seen: NDArray[np.bool_] | None = None, nothing: bytes = b""
) -> list[Part]:
    """Encode the inner chunks of rows.

    Parameters
    ----------
    values
        (n, band, y, x).
    seen
        (n,) which rows have data, None if all have.
    nothing
        Inner chunk of the other rows, which is the same for all of them.
    """
    packed = _pack(values, seen, nothing)
    if packed is not None:
        data, ends = packed
        return [data[start:end].data for start, end in pairwise([0, *ends.tolist()])]
    return [encode_tile(tile) if seen is None or seen[k] else nothing for k, tile in enumerate(values)]


def encode_tile(tile: np.ndarray[Any, Any]) -> bytes:
    """Encode one inner chunk of a raster, (band, y, x)."""
    return _checksummed(_compressor(tile.dtype).encode(_little_endian(tile)))


def _pack(
    values: np.ndarray[Any, Any], seen: NDArray[np.bool_] | None, nothing: bytes, spare: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.intp]] | None:
    """Concatenated inner chunks and their ends, by compiled loops; None if these do not support the type."""
    loops = load("packing")
    header = None if loops is None or not len(values) else _header(values[0].nbytes, values.dtype)
    if header is None:
        return None
    tiles = _little_endian(values).reshape(len(values), -1).view(np.uint8)
    chosen = np.ones(len(values), np.bool_) if seen is None else seen
    data, ends = loops.pack(tiles, chosen, np.frombuffer(nothing, np.uint8), header, COMPRESSION_LEVEL, spare)
    for k, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        if chosen[k]:
            data[end - CRC_BYTES : end] = np.frombuffer(_checksum(data[start : end - CRC_BYTES]), np.uint8)
    return data, ends


@lru_cache(maxsize=64)
def _header(size: int, dtype: np.dtype[Any]) -> NDArray[np.uint8] | None:
    """First bytes of every Blosc frame of a given size; None if compiled loops do not support it."""
    frame = np.frombuffer(_compressor(dtype).encode(bytes(size)), np.uint8)
    return frame[:FIXED_BYTES] if load("bitplanes").block_bytes(frame.copy(), dtype.itemsize, size) else None


def join_shard(parts: Sequence[Part], chunks: int) -> bytes:
    """Assemble a shard from its inner chunks, in index order; see `encode_shard`."""
    return b"".join([*parts, _shard_index(np.array([len(part) for part in parts]), chunks)])


def _shard_index(lengths: NDArray[np.intp], chunks: int) -> bytes:
    """Index of concatenated inner chunks, including its checksum."""
    index = np.full((chunks, 2), ABSENT, dtype="<u8")
    index[: len(lengths), 0] = np.cumsum(lengths) - lengths
    index[: len(lengths), 1] = lengths
    return _checksummed(index.tobytes())


def extend_shard(data: bytes, chunks: int, held: int, parts: Sequence[Part]) -> bytes:
    """Append rows to the first ones of a shard.

    The inner chunks of the first rows stay unchanged at their positions, so that readers with the older index or commit
    record get the same values.

    Parameters
    ----------
    data
        The shard.
    chunks
        Inner chunks that a whole shard holds.
    held
        Number of rows to keep; those after them are replaced.
    parts
        Inner chunks to append, from `encode_tiles`.

    Raises
    ------
    ValueError
        If the shard does not contain those rows consecutively.
    """
    return join_shard([*_first_parts(data, chunks, held), *parts], chunks)


def cut_shard(data: bytes, chunks: int, held: int) -> bytes:
    """Shard as it was with only its first rows: the inverse of `extend_shard`; raises like it."""
    return join_shard(_first_parts(data, chunks, held), chunks)


def decode_rows(data: bytes, chunks: int, held: int, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of the first rows of a shard, (held, band, y, x), with the tile shape and type of ``like``.

    Raises
    ------
    ValueError
        If the shard does not contain them.
    """
    values = np.empty((held, *like.shape), dtype=like.dtype)
    for part, out in zip(_first_parts(data, chunks, held), values, strict=True):
        decode_tile(part, out)
    return values


def _first_parts(data: bytes, chunks: int, held: int) -> list[bytes]:
    """Inner chunks of the first rows, which must be consecutive from the beginning."""
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
    """Decode one inner chunk of a raster.

    Parameters
    ----------
    data
        The inner chunk, including its checksum.
    out
        Contiguous array of the tile's shape and stored type.

    Raises
    ------
    ValueError
        If the checksum does not match, or the number of values is wrong.
    """
    if google_crc32c.value(data) != CRC_RESIDUE:
        raise ValueError("its checksum does not match")
    # Bytes 4 to 8 of a Blosc frame are the number of decoded bytes.
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
    """Minimum size of a shard: that of its index."""
    return chunks * INDEX_ENTRY_BYTES + CRC_BYTES


def digest_all(parts: Iterable[bytes]) -> str:
    """Digest of several objects in order: of their digests, so that no boundary can shift."""
    return digest_of("".join(digest_of(part) for part in parts).encode())


def _compressor(dtype: np.dtype[Any]) -> Blosc:
    # Blosc's threads append blocks as they finish, so twelve runs gave twelve different files (numcodecs 0.16, which
    # uses them in the main thread by default). zarr-python also switches them off for the whole process.
    blosc.use_threads = False
    return Blosc(cname=COMPRESSOR, clevel=COMPRESSION_LEVEL, shuffle=BITSHUFFLE, blocksize=0, typesize=dtype.itemsize)


def _little_endian(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


def _checksummed(data: bytes) -> bytes:
    return data + _checksum(data)


def has_checksum(data: bytes | memoryview) -> bool:
    """Whether bytes end with the crc32c of the bytes before it."""
    return len(data) > CRC_BYTES and _checksum(bytes(data[:-CRC_BYTES])) == bytes(data[-CRC_BYTES:])


def _checksum(data: bytes | NDArray[np.uint8]) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")
