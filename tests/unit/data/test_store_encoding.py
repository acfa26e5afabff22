"""Stored bytes against the Zarr specification and other people's encoders and decoders."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_making import make_rasters, make_values, small_layout
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from mmearth_data.store.chunks import ChunkReader
from mmearth_data.store.codec import encode
from mmearth_data.store.encoding import (
    array_metadata,
    digest_all,
    digest_of,
    digest_stream,
    encode_chunk,
    encode_names,
    encode_shard,
    encode_tiles,
    join_shard,
    object_key,
    smallest_shard_bytes,
    to_json,
)
from mmearth_data.store.storage.local import LocalStorage

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.store.schema import ArraySpec

LAYOUT = small_layout()
SPECS = {spec.name: spec for spec in LAYOUT.arrays}
RASTERS = [spec for spec in LAYOUT.arrays if spec.sharded]
COLUMNS = list(LAYOUT.columns)


def stored_bytes(store: ZarrStore, key: str) -> bytes:
    """What a zarr store holds."""
    value = asyncio.run(store.get(key, default_buffer_prototype()))
    assert value is not None, key
    return value.to_bytes()


def zarr_encodes(spec: ArraySpec, values: np.ndarray[Any, Any], start: int) -> bytes:
    """The object that zarr-python writes for some rows."""
    store = MemoryStore()
    metadata = zarr.core.metadata.ArrayV3Metadata.from_dict(array_metadata(spec))
    asyncio.run(store.set("zarr.json", default_buffer_prototype().buffer.from_bytes(to_json(metadata.to_dict()))))
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(store, mode="r+", zarr_format=3)[start : start + len(values)] = values
    position = start // spec.chunk_shape[0]
    return stored_bytes(store, object_key(spec, position).removeprefix(f"{spec.name}/"))


def zarr_decodes(spec: ArraySpec, data: bytes, start: int, rows: int) -> np.ndarray[Any, Any]:
    """Rows that zarr-python reads from an object."""
    store = MemoryStore()
    key = object_key(spec, start // spec.chunk_shape[0]).removeprefix(f"{spec.name}/")
    for name, content in (("zarr.json", to_json(array_metadata(spec))), (key, data)):
        asyncio.run(store.set(name, default_buffer_prototype().buffer.from_bytes(content)))
    found: np.ndarray[Any, Any] = np.asarray(zarr.open_array(store, mode="r", zarr_format=3)[start : start + rows])
    return found


@pytest.mark.parametrize("spec", RASTERS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("shard", [0, 2], ids=["whole", "last"])
def test_zarr_python_decodes_a_shard_and_numcodecs_writes_the_same_bytes(
    spec: ArraySpec, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, start = make_rasters(LAYOUT, shard)[spec.name], LAYOUT.rows(shard).start
    data = encode_shard(values, LAYOUT.tiles_per_shard)
    np.testing.assert_array_equal(zarr_decodes(spec, data, start, len(values)), values)
    monkeypatch.setattr("mmearth_data.store.codec.fast_blosc", lambda: None)
    assert encode_shard(values, LAYOUT.tiles_per_shard) == zarr_encodes(spec, values, start)


def difficult_tiles(dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Noise, zeros, all bits set, bands of these beside others, and bit planes that repeat another byte."""
    noise = np.random.default_rng(1).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    smooth = noise >> np.array([6, 8, 8, 8, 8, 8, 8, 8][: noise.shape[-1]], np.uint8)
    zeros, ones = np.zeros_like(noise), np.full_like(noise, 0xFF)
    stripes = np.where(np.arange(noise[..., 0].size).reshape(*shape, 1) % 2, ones, zeros)
    half = noise.size // 2
    mixed = [
        np.r_[x.ravel()[:half], y.ravel()[half:]].reshape(noise.shape) for x in (smooth, noise) for y in (zeros, ones)
    ]
    tiles = [noise, zeros, smooth, stripes, ones, *mixed, stripes, smooth]
    return np.ascontiguousarray(np.stack(tiles)).view(dtype)[..., 0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize(
    "shape",
    [(1, 2, 2), (1, 8, 8), (1, 16, 16), (2, 5, 7), (3, 40, 48), (1, 171, 192), (5, 127, 129), (13, 64, 64)],
    ids=str,
)
def test_zarr_python_decodes_tiles_of_any_size_and_content(dtype: str, shape: tuple[int, ...]) -> None:
    values = difficult_tiles(dtype, shape)
    seen = np.arange(len(values)) != 2
    values[~seen] = 0
    data = encode_shard(values, len(values) + 1, seen, encode(values[2]))
    rows = (len(values) + 1, *shape)
    spec = replace(SPECS["optical"], shape=rows, chunk_shape=rows, inner_shape=(1, *shape), dtype=values.dtype, fill=0)
    found = zarr_decodes(spec, data, 0, len(values))
    assert found.tobytes() == values.tobytes()
    parts = [encode_tiles(tile[None])[0] if there else encode(tile) for tile, there in zip(values, seen, strict=True)]
    assert join_shard(parts, len(values) + 1) == data, "a tile's bytes do not depend on the others"


@pytest.mark.parametrize("spec", COLUMNS, ids=lambda spec: spec.name)
def test_zarr_python_decodes_a_chunk_of_a_column_and_numcodecs_writes_the_same_bytes(
    spec: ArraySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 200, (21, *spec.shape[1:])).astype(spec.dtype)
    data = encode_chunk(values, spec.chunk_shape[0], spec.empty)
    np.testing.assert_array_equal(zarr_decodes(spec, data, 0, 21), values)
    monkeypatch.setattr("mmearth_data.store.codec.fast_blosc", lambda: None)
    assert encode_chunk(values, spec.chunk_shape[0], spec.empty) == zarr_encodes(spec, values, 0)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=9), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_names_are_read_back_by_zarr_python(names: list[str]) -> None:
    spec = SPECS["optical_band"]
    metadata = array_metadata(spec)
    metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [len(names)]
    store = MemoryStore()
    for key, data in (("zarr.json", to_json(metadata)), ("c/0", encode_names(names))):
        asyncio.run(store.set(key, default_buffer_prototype().buffer.from_bytes(data)))
    assert zarr.open_array(store, mode="r")[:].tolist() == names


def test_inner_chunks_stand_in_index_order_and_only_those_of_rows_that_exist() -> None:
    values = make_rasters(LAYOUT, 2)["optical"]
    shard = encode_shard(values, LAYOUT.tiles_per_shard)
    size = smallest_shard_bytes(LAYOUT.tiles_per_shard)
    offsets, lengths = np.frombuffer(shard[-size:-4], dtype="<u8").reshape(-1, 2).T
    rows = len(values)
    assert offsets[:rows].tolist() == [0, *np.cumsum(lengths[: rows - 1]).tolist()]
    assert int(offsets[rows - 1] + lengths[rows - 1]) == len(shard) - size
    assert set(offsets[rows:].tolist()) | set(lengths[rows:].tolist()) == {2**64 - 1}, "absent, says the codec"


def test_tiles_without_any_data_are_written_all_the_same() -> None:
    missing = np.full((3, 1, 16, 16), np.nan, dtype=np.float32)
    shard = encode_shard(missing, 8)
    assert len(shard) > smallest_shard_bytes(8)


@pytest.mark.parametrize("spec", RASTERS, ids=lambda spec: spec.name)
def test_ten_times_the_same_shard_are_ten_times_the_same_bytes(spec: ArraySpec) -> None:
    values = make_values(next(m for m in LAYOUT.rasters if m.name == spec.name), LAYOUT, 0)
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(lambda _: digest_of(encode_shard(values.copy(), 8)), range(10)))
    assert len(digests) == 1


@pytest.mark.parametrize("threads", [None, True])
def test_bytes_do_not_depend_on_the_threads_of_blosc(threads: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(1500, 300, (1, 13, 512, 512)).astype(np.uint16)
    digests = set()
    for _ in range(6):
        monkeypatch.setattr(numcodecs.blosc, "use_threads", threads)
        digests |= {digest_of(encode_shard(values, 1)), digest_of(encode_shard(values, 1))}
    assert len(digests) == 1


def test_memory_order_of_the_values_leaves_no_trace() -> None:
    values = make_rasters(LAYOUT, 0)["optical"]
    turned = np.asfortranarray(values)
    assert encode_shard(turned, 8) == encode_shard(values, 8)
    swapped = values.astype(values.dtype.newbyteorder(">"))
    assert encode_shard(swapped, 8) == encode_shard(values, 8)


@pytest.fixture
def raster(tmp_path: Path) -> tuple[Path, ArraySpec, np.ndarray[Any, Any]]:
    """The array `optical` on disk, all three shards."""
    spec = SPECS["optical"]
    objects = LocalStorage(tmp_path)
    objects.put(f"{spec.name}/zarr.json", to_json(array_metadata(spec)))
    parts = [make_rasters(LAYOUT, shard)[spec.name] for shard in range(LAYOUT.shards)]
    for shard, part in enumerate(parts):
        objects.put(object_key(spec, shard), encode_shard(part, LAYOUT.tiles_per_shard))
    return tmp_path, spec, np.concatenate(parts)


@pytest.mark.parametrize(
    "rows", [range(21), range(7, 9), range(20, 21), range(3, 21), [0, 5, 9, 20], [20, 3, 2, 9, 3], []], ids=str
)
def test_our_reader_reads_it(raster: tuple[Path, ArraySpec, np.ndarray[Any, Any]], rows: range | list[int]) -> None:
    path, spec, values = raster
    chosen = np.array(rows, dtype=np.intp)
    found = ChunkReader(LocalStorage(path), spec, lambda key: None).read(chosen)
    np.testing.assert_array_equal(found, values[chosen])


def test_zarr_python_reads_it(raster: tuple[Path, ArraySpec, np.ndarray[Any, Any]]) -> None:
    path, spec, values = raster
    np.testing.assert_array_equal(zarr.open_array(path / spec.name, mode="r")[:], values)


def test_tensorstore_reads_it(raster: tuple[Path, ArraySpec, np.ndarray[Any, Any]]) -> None:
    path, spec, values = raster
    source = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / spec.name)}}
    array = ts.open(source, read=True).result()
    np.testing.assert_array_equal(array.read().result(), values)
    assert array.schema.domain.labels == spec.dimensions


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_json_never_says_nan(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(value)


def test_json_is_compact_and_keeps_order() -> None:
    assert to_json({"b": 1, "a": ["é", None]}) == '{"b":1,"a":["é",null]}'.encode()
    assert json.loads(to_json(0.1)) == 0.1


def test_digests(tmp_path: Path) -> None:
    empty = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"  # b2sum -l 256 /dev/null
    assert digest_of(b"") == empty
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    with (tmp_path / "x").open("rb") as stream:
        assert digest_stream(stream) == digest_of(b"abc" * 100_000)
    assert digest_all([b"ab", b"c"]) != digest_all([b"a", b"bc"])
