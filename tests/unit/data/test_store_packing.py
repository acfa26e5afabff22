"""Tiles encoded many a call are byte for byte what Blosc itself makes of them, one by one."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import BITSHUFFLE, Blosc

from mmearth_data.store import encoding
from mmearth_data.store.bitplanes import unshuffle
from mmearth_data.store.encoding import encode_shard, encode_tile, encode_tiles
from mmearth_data.store.packing import shuffle

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "float32", "float64")
SHAPES = ((13, 64, 64), (1, 16, 16), (3, 128, 128), (2, 5, 7), (1, 2, 2), (5, 40, 48))


def tiles(dtype: str, shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """From constant tiles to such of pure noise, which no codec makes smaller."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 256, (count, *shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    for k, tile in enumerate(words):
        tile &= np.uint8(256 - 2 ** (8 - 8 * k // max(1, count - 1))) if count > 1 else np.uint8(0xF0)
    words[count // 2, ..., 1:] = 7
    return words.view(dtype)[..., 0].copy()


def by_blosc(values: np.ndarray[Any, Any]) -> list[bytes]:
    codec = Blosc(cname="zstd", clevel=1, shuffle=BITSHUFFLE, typesize=values.itemsize)
    frames = [bytes(codec.encode(tile)) for tile in values]
    return [frame + int(google_crc32c.value(frame)).to_bytes(4, "little") for frame in frames]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    values = tiles(dtype, shape, 9)
    assert [bytes(part) for part in encode_tiles(values)] == by_blosc(values)


def test_all_kinds_of_frames_are_among_them() -> None:
    flags = {part[2] for shape in SHAPES for part in encode_tiles(tiles("uint16", shape, 9))}
    assert {0x94, 0x96} <= flags, "compressed ones, and noise as it is"


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    side=st.integers(1, 96),
    bits=st.lists(st.integers(0, 8), min_size=8, max_size=8),
    seed=st.integers(0, 99),
)
def test_any_side_and_any_noise(dtype: str, side: int, bits: list[int], seed: int) -> None:
    itemsize = np.dtype(dtype).itemsize
    words = np.random.default_rng(seed).integers(0, 256, (2, 1, side, side, itemsize), dtype=np.uint8)
    words >>= np.array(bits[:itemsize], np.uint8)
    values = words.view(dtype)[..., 0]
    assert [bytes(part) for part in encode_tiles(values)] == by_blosc(values)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_bit_planes_are_those_of_the_definition_and_come_back(itemsize: int) -> None:
    values = np.random.default_rng(1).integers(0, 256, 64 * itemsize, dtype=np.uint8)
    planes, words, back = np.empty_like(values), np.empty(len(values) // 8, np.uint64), np.empty_like(values)
    shuffle(values, itemsize, words, planes)
    bits = np.unpackbits(values.reshape(64, itemsize), axis=1, bitorder="little")
    assert planes.tobytes() == np.packbits(bits.T, axis=1, bitorder="little").tobytes()
    unshuffle(planes, itemsize, words, back)
    assert back.tobytes() == values.tobytes()


def test_what_was_encoded_before_leaves_no_trace() -> None:
    values = {(dtype, shape): tiles(dtype, shape, 5) for dtype in ("uint8", "uint16", "float32") for shape in SHAPES}
    expected = {key: by_blosc(part) for key, part in values.items()}
    turns = [(key, k) for key in values for k in range(5)] * 3
    random.Random(5).shuffle(turns)

    def right(turn: tuple[tuple[str, tuple[int, ...]], int]) -> bool:
        key, k = turn
        return bytes(encode_tiles(values[key][k : k + 1])[0]) == expected[key][k]

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(right, turns))


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 5, 7)], ids=["compiled", "by Blosc"])
def test_rows_without_data_get_the_given_chunk(shape: tuple[int, ...]) -> None:
    values = tiles("uint16", shape, 6)
    seen = np.array([False, True, False, True, True, False])
    nothing = encode_tile(np.zeros(shape, np.uint16))
    expected = [part if seen[k] else nothing for k, part in enumerate(by_blosc(values))]
    assert [bytes(part) for part in encode_tiles(values, seen, nothing)] == expected
    assert bytes(encode_shard(values, 8, seen, nothing)) == encoding.join_shard(expected, 8)
    assert bytes(encode_shard(values, 8, ~seen & False, nothing)) == encoding.join_shard([nothing] * 6, 8)


def test_values_that_may_not_be_written_to_are_encoded_too() -> None:
    values = tiles("uint16", (2, 16, 16), 3)
    expected = by_blosc(values)
    values.flags.writeable = False
    assert [bytes(part) for part in encode_tiles(values)] == expected
    wide = np.broadcast_to(values[:1], (4, 2, 16, 16))
    assert [bytes(part) for part in encode_tiles(wide)] == expected[:1] * 4


def test_without_the_functions_of_zstandard_the_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = tiles("float32", (3, 32, 32), 5)
    seen, nothing = np.array([True, False, True, True, False]), encode_tile(np.zeros((3, 32, 32), np.float32))
    before = bytes(encode_shard(values, 8, seen, nothing))
    monkeypatch.setitem(sys.modules, "mmearth_data.store.packing", None)
    monkeypatch.delattr("mmearth_data.store.packing")
    encoding._header.cache_clear()
    try:
        assert bytes(encode_shard(values, 8, seen, nothing)) == before
    finally:
        encoding._header.cache_clear()
