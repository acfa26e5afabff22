"""Tiles decoded block by block are what Blosc itself makes of them, and broken ones are refused."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import BITSHUFFLE, NOSHUFFLE, SHUFFLE, Blosc

from mmearth_data.store.decoding import BY_BLOSC, BrokenTileError, CompiledLoops, decode_tiles

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "float32", "float64")
HEADER_BYTES = 16
SHAPES = ((13, 64, 64), (1, 16, 16), (3, 128, 128), (2, 5, 7))


@pytest.fixture(autouse=True)
def loops(monkeypatch: pytest.MonkeyPatch) -> CompiledLoops:
    """Those of a process that has read enough to load them."""
    loops = CompiledLoops()
    loops.left = 0
    monkeypatch.setattr("mmearth_data.store.decoding.compiled_loops", loops)
    return loops


def tile(dtype: str, shape: tuple[int, ...], entropy: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Values of some random bits: none is constant, all are noise that no codec makes smaller."""
    kind = np.dtype(dtype)
    words = np.random.default_rng(seed).integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8)
    words[..., entropy:] = 7
    return np.ascontiguousarray(words).view(kind)[..., 0].copy()


def checked(data: bytes) -> bytes:
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def encoded(values: np.ndarray[Any, Any], cname: str = "zstd", shuffle: int = BITSHUFFLE, **more: Any) -> bytes:
    return checked(
        bytes(Blosc(cname=cname, clevel=1, shuffle=shuffle, typesize=values.itemsize, **more).encode(values))
    )


def assert_decodes(data: bytes, values: np.ndarray[Any, Any]) -> None:
    out = np.empty((1, *values.shape), values.dtype)
    decode_tiles([data], out)
    assert out.tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    for entropy in range(np.dtype(dtype).itemsize + 1):
        values = tile(dtype, shape, entropy)
        assert_decodes(encoded(values), values)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    cname=st.sampled_from(["zstd", "lz4", "zlib", "blosclz"]),
    shuffle=st.sampled_from([NOSHUFFLE, SHUFFLE, BITSHUFFLE]),
    blocksize=st.sampled_from([0, 256, 1000, 4096]),
    size=st.integers(1, 3000),
    entropy=st.integers(0, 8),
)
def test_every_frame_that_blosc_may_write(
    dtype: str, cname: str, shuffle: int, blocksize: int, size: int, entropy: int
) -> None:
    values = tile(dtype, (size,), entropy)
    assert_decodes(encoded(values, cname, shuffle, blocksize=blocksize), values)


def refused(data: bytes, like: np.ndarray[Any, Any]) -> None:
    """As the second of two tiles."""
    good = encoded(like)
    with pytest.raises(BrokenTileError) as caught:
        decode_tiles([good, data], np.empty((2, *like.shape), like.dtype))
    assert caught.value.index == 1


def test_a_bit_that_changed_is_noticed_wherever_it_is() -> None:
    values = tile("uint16", (2, 16, 16), 1)
    data = encoded(values)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x10
        refused(bytes(broken), values)


def test_what_is_cut_short_or_of_another_size_is_refused() -> None:
    values = tile("uint16", (2, 64, 64), 1)
    data = encoded(values)
    for length in (0, 3, 10, 19, 40, len(data) - 1):
        refused(data[:length], values)
    refused(data, values[:1])
    refused(data, np.empty((4, 64, 64), np.uint16))


@pytest.mark.parametrize("problem", ["no frame", "too long", "outside", "table outside"])
def test_a_broken_frame_under_a_right_checksum_is_refused(problem: str) -> None:
    """Whoever wrote that may have meant harm."""
    values = tile("uint16", (4, 64, 64), 1)
    frame = bytearray(encoded(values)[:-4])
    assert len(frame) > HEADER_BYTES
    (start,) = struct.unpack_from("<I", frame, HEADER_BYTES)
    if problem == "no frame":
        frame[start + 4 : start + 12] = bytes(8)
    elif problem == "too long":
        larger = zstandard.compress(bytes(1 << 20))
        frame[start : start + 4 + len(larger)] = len(larger).to_bytes(4, "little") + larger
    elif problem == "outside":
        struct.pack_into("<I", frame, HEADER_BYTES, 1 << 30)
    else:
        struct.pack_into("<I", frame, 8, 16)
    refused(checked(bytes(frame)), values)


def test_tiles_of_several_kinds_at_once() -> None:
    """Among those that the compiled loop decodes stands one that Blosc has to."""
    tiles = [tile("uint16", (2, 32, 32), entropy, seed) for seed, entropy in enumerate((0, 1, 2, 1))]
    parts = [encoded(t, "lz4" if k == 2 else "zstd") for k, t in enumerate(tiles)]
    out = np.empty((4, 2, 32, 32), np.uint16)
    decode_tiles(parts, out)
    np.testing.assert_array_equal(out, tiles)


def test_without_the_functions_of_zstandard_blosc_decodes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    values = tile("float32", (3, 64, 64), 2)
    monkeypatch.setattr("mmearth_data.store.decoding.load", lambda name: None)
    assert_decodes(encoded(values), values)
    refused(encoded(values)[:-1], values)


def test_a_process_that_reads_little_loads_no_compiled_code() -> None:
    program = f"""
import sys
import numpy as np
from mmearth_data.store.decoding import decode_tiles
data = bytes.fromhex("{encoded(tile("uint16", (1, 16, 16), 1)).hex()}")
for _ in range({BY_BLOSC} // 16):
    decode_tiles([data] * 16, np.empty((16, 1, 16, 16), np.uint16))
assert "numba" not in sys.modules
out = np.empty((1, 1, 16, 16), np.uint16)
decode_tiles([data], out)
assert "numba" in sys.modules
assert out.tobytes().hex() == "{tile("uint16", (1, 16, 16), 1).tobytes().hex()}"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_a_child_that_is_forked_while_compiled_code_is_loaded_can_load_it_too() -> None:
    """Without waiting for the import, the child would wait for ever for a thread that it does not have."""
    program = """
import os, signal, sys, threading
from mmearth_data.store.loops import load
thread = threading.Thread(target=load, args=("bitplanes",))
thread.start()
while "numba" not in sys.modules:
    pass
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if load("bitplanes") is not None else 1)
assert os.waitpid(child, 0)[1] == 0
thread.join()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
