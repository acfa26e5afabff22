"""Encode values to stored bytes: JSON, Zarr metadata, chunks and shards.

Shards are assembled here and not by zarr-python for three reasons: inner chunks are in index order whatever codec
pipeline a process has configured; threads do not wait for zarr's single event loop; and it takes half the time.
zarr-python can decode the shards, and writes the same bytes if numcodecs encodes them (tested).
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.store.codec import (
    COMPRESSION_LEVEL,
    COMPRESSOR,
    CRC_BYTES,
    MOST_ADDED,
    checksummed,
    decode,
    encode,
    has_checksum,
    packing,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from io import BufferedReader

    from numpy.typing import NDArray

    from mmearth_data.store.schema import ArraySpec

DIGEST_BYTES = 32
INDEX_ENTRY_BYTES = 16
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


def encode_tiles(
    values: np.ndarray[Any, Any], seen: NDArray[np.bool_] | None = None, nothing: bytes = b""
) -> list[memoryview]:
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
    data, bounds = _encode_rows(values, seen, nothing)
    return [data.data[begin:end] for begin, end in pairwise(bounds.tolist())]


def encode_shard(
    values: np.ndarray[Any, Any], chunks: int, seen: NDArray[np.bool_] | None = None, nothing: bytes = b""
) -> memoryview:
    """Encode one shard of a raster; see `encode_tiles` and `join_shard`."""
    data, bounds = _encode_rows(values, seen, nothing, spare=smallest_shard_bytes(chunks))
    end = bounds[-1] + smallest_shard_bytes(chunks)
    data[bounds[-1] : end] = np.frombuffer(_encode_index(np.diff(bounds), chunks), np.uint8)
    return data[:end].data


def _encode_rows(
    values: np.ndarray[Any, Any], seen: NDArray[np.bool_] | None, nothing: bytes, spare: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Inner chunks of rows, one after another, with at least ``spare`` unused bytes after them, and their bounds, (n + 1,).

    They share a buffer because new memory for each of them would cost as much as compressing it.
    """
    numbers = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    shown = np.ones(len(values), np.bool_) if seen is None else seen
    data = np.empty(values.nbytes + len(values) * MOST_ADDED + spare, np.uint8)
    bounds, loops, row = np.zeros(len(values) + 1, np.intp), packing(), 0
    while row < len(values):
        if loops is not None:
            row = loops.pack(numbers, shown, nothing, row, data, bounds)
        if row < len(values):
            chunk, begin = encode(numbers[row]) if shown[row] else nothing, bounds[row]
            bounds[row + 1] = begin + len(chunk)
            data[begin : bounds[row + 1]] = np.frombuffer(chunk, np.uint8)
            row += 1
    return data, bounds


def join_shard(parts: Sequence[bytes | memoryview], chunks: int) -> bytes:
    """Assemble a shard in the layout of the Zarr v3 sharding codec: its inner chunks in index order, then the index.

    Parameters
    ----------
    parts
        Inner chunks, from `encode_tiles`.
    chunks
        Number of inner chunks in a whole shard; those beyond ``parts`` are absent, as in the last shard of an array.
    """
    return b"".join([*parts, _encode_index(np.array([len(part) for part in parts]), chunks)])


def _encode_index(lengths: NDArray[np.intp], chunks: int) -> bytes:
    """Index of a shard with chunks of these lengths, one after another."""
    index = np.full((chunks, 2), ABSENT, dtype="<u8")
    index[: len(lengths), 0] = np.cumsum(lengths) - lengths
    index[: len(lengths), 1] = lengths
    return checksummed(index.tobytes())


def extend_shard(data: bytes, chunks: int, held: int, parts: Sequence[bytes | memoryview]) -> bytes:
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
    decode(_first_parts(data, chunks, held), values)
    return values


def _first_parts(data: bytes, chunks: int, held: int) -> list[bytes]:
    """Inner chunks of the first rows, which must be consecutive from the beginning."""
    entries = decode_index(data[-smallest_shard_bytes(chunks) :], len(data))[:held]
    starts = np.cumsum(entries[:, 1]) - entries[:, 1]
    if (entries == ABSENT).any() or (entries[:, 0] != starts).any():
        raise ValueError(f"it does not hold its first {held} rows one after the other")
    return [data[offset : offset + length] for offset, length in entries.tolist()]


def encode_chunk(values: np.ndarray[Any, Any], rows: int, fill: np.generic) -> bytes:
    """Encode one plain chunk of numbers, filled up to ``rows`` rows."""
    chunk = np.full((rows, *values.shape[1:]), fill, dtype=values.dtype)
    chunk[: len(values)] = values
    return encode(chunk)


def decode_index(data: bytes, size: int) -> NDArray[np.uint64]:
    """Offset and length of the inner chunks of a shard, (chunks, 2).

    Parameters
    ----------
    data
        The end of the shard, `smallest_shard_bytes` long.
    size
        Bytes of the shard.

    Raises
    ------
    ValueError
        When the checksum does not match, or an inner chunk is not in the shard.
    """
    if not has_checksum(data):
        raise ValueError("the checksum of its index does not match")
    entries = np.frombuffer(data[:-CRC_BYTES], dtype="<u8").reshape(-1, 2)
    there = entries[(entries != ABSENT).all(axis=1)]
    room = size - len(data)
    if (there > room).any() or (there.sum(axis=1) > room).any():
        raise ValueError(f"its index has inner chunks outside of its {size} bytes")
    return entries


def encode_names(names: Sequence[str]) -> bytes:
    """Encode a chunk of text (vlen-utf8, crc32c): a count, then length and bytes of each, 32-bit little-endian."""
    words = [name.encode() for name in names]
    body = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    return checksummed(len(words).to_bytes(4, "little") + body)


def smallest_shard_bytes(chunks: int) -> int:
    """Minimum size of a shard: that of its index."""
    return chunks * INDEX_ENTRY_BYTES + CRC_BYTES


def digest_all(parts: Iterable[bytes]) -> str:
    """Digest of several objects in order: of their digests, so that no boundary can shift."""
    return digest_of("".join(digest_of(part) for part in parts).encode())
