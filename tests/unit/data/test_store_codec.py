"""Chunks against Blosc 1 itself (numcodecs), with python-blosc2's library and without; corrupt ones are refused."""

from __future__ import annotations

import logging
import random
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import BITSHUFFLE, NOSHUFFLE, SHUFFLE, Blosc

from mmearth_data.store import blosc_fast, codec, packing
from mmearth_data.store.codec import BrokenTileError, decode, decoded
from mmearth_data.store.encoding import encode_shard, encode_tiles, join_shard

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "float32", "float64")
SHAPES = ((13, 64, 64), (1, 16, 16), (3, 128, 128), (2, 5, 7), (1, 2, 2), (5, 40, 48))
LIBRARIES = {"blosc2": blosc_fast, "numcodecs": None}
MUTATIONS = 3000


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each library in turn."""
    use(request.param, monkeypatch)
    return str(request.param)


def use(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "fast_blosc", lambda: LIBRARIES[library])


def tile(dtype: str, shape: tuple[int, ...], entropy: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Values with some random bytes each: with none they are constant, with all they are noise."""
    kind = np.dtype(dtype)
    words = np.random.default_rng(seed).integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8)
    words[..., entropy:] = 7
    return np.ascontiguousarray(words).view(kind)[..., 0].copy()


def tiles(dtype: str, shape: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    """From zeros to noise, and values of which a half is zero."""
    found = [tile(dtype, shape, entropy) for entropy in range(np.dtype(dtype).itemsize + 1)]
    half = found[-1].copy()
    half.reshape(-1)[: half.size // 2] = 0
    return [np.zeros_like(half), half, *found]


def encode(values: np.ndarray[Any, Any]) -> bytes:
    """One tile as a chunk of a shard."""
    (chunk,) = encode_tiles(values[None])
    return bytes(chunk)


def checked(frame: bytes) -> bytes:
    return frame + int(google_crc32c.value(frame)).to_bytes(4, "little")


def by_blosc1(
    values: np.ndarray[Any, Any], cname: str = "zstd", shuffle: int = BITSHUFFLE, blocksize: int = 0
) -> bytes:
    blosc1 = Blosc(cname=cname, clevel=1, shuffle=shuffle, typesize=values.itemsize, blocksize=blocksize)
    return checked(bytes(blosc1.encode(values)))


def assert_decodes(chunk: bytes, values: np.ndarray[Any, Any]) -> None:
    out = np.empty((1, *values.shape), values.dtype)
    decode([chunk], out)
    assert out.tobytes() == values.tobytes()


# ------------------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blosc_1_reads_what_is_written(dtype: str, shape: tuple[int, ...], library: str) -> None:
    for values in tiles(dtype, shape):
        chunk = encode(values)
        assert chunk[0] == 2, "readers built on Blosc 1 refuse later versions"
        assert checked(chunk[:-4]) == chunk
        assert bytes(Blosc().decode(chunk[:-4])) == values.tobytes()
        assert len(chunk) <= values.nbytes + 20
        assert_decodes(chunk, values)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    side=st.integers(1, 96),
    bits=st.lists(st.integers(0, 8), min_size=8, max_size=8),
    seed=st.integers(0, 99),
)
def test_any_side_and_any_noise(dtype: str, side: int, bits: list[int], seed: int) -> None:
    itemsize = np.dtype(dtype).itemsize
    words = np.random.default_rng(seed).integers(0, 256, (1, side, side, itemsize), dtype=np.uint8)
    words >>= np.array(bits[:itemsize], np.uint8)
    values = words.view(dtype)[..., 0]
    chunk = encode(values)
    assert bytes(Blosc().decode(chunk[:-4])) == values.tobytes()
    assert_decodes(chunk, values)


@pytest.mark.parametrize("zeros", [0, 7, 13], ids=["no", "some", "all"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_frames_of_both_libraries_differ_only_by_their_zstandard(dtype: str, zeros: int) -> None:
    """Bands of zeros are common: processing level L2A has no B10."""
    values = tile(dtype, (13, 64, 64), 1)
    values[13 - zeros :] = 0
    values[:2].view(np.uint8)[:] = 0xFF  # runs of other bytes
    ours, theirs = encode(values), by_blosc1(values)
    out = np.zeros(values.nbytes + codec.MOST_ADDED, np.uint8)
    assert packing.pack(values[None], np.ones(1, bool), b"", 0, out, np.zeros(2, np.intp)) == 1
    assert out.tobytes().startswith(ours), "not left to numcodecs"
    assert ours[:12] == theirs[:12], "header"
    assert abs(len(ours) / len(theirs) - 1) < 0.02


def test_earlier_chunks_leave_no_trace(library: str) -> None:
    values = [t for dtype in ("uint8", "uint16", "float32") for shape in SHAPES for t in tiles(dtype, shape)]
    expected = [encode(v) for v in values]
    turns = [*range(len(values))] * 3
    random.Random(5).shuffle(turns)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda k: encode(values[k]), turns)) == [expected[k] for k in turns]


def test_rows_without_data_get_the_given_chunk(library: str) -> None:
    values = np.stack([tile("uint16", (2, 16, 16), 1, seed) for seed in range(3)])
    nothing = encode(np.zeros((2, 16, 16), np.uint16))
    seen = np.array([True, False, True])
    parts = [encode(values[0]), nothing, encode(values[2])]
    assert encode_tiles(values, seen, nothing) == parts
    assert encode_shard(values, 3, seen, nothing) == join_shard(parts, 3)


def test_memory_order_bytes_and_rights_of_the_values_leave_no_trace(library: str) -> None:
    values = tile("uint16", (2, 16, 16), 1)
    expected = encode(values)
    assert encode(np.asfortranarray(values)) == expected
    assert encode(values.astype(">u2")) == expected
    values.flags.writeable = False
    assert encode(values) == expected
    assert encode_tiles(np.broadcast_to(values, (4, *values.shape))) == [expected] * 4


# ------------------------------------------------------------------------------------------------- decoding


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    cname=st.sampled_from(["zstd", "lz4", "lz4hc", "zlib", "blosclz"]),
    shuffle=st.sampled_from([NOSHUFFLE, SHUFFLE, BITSHUFFLE]),
    blocksize=st.sampled_from([0, 256, 1000, 4096]),
    size=st.integers(1, 3000),
    entropy=st.integers(0, 8),
)
def test_every_frame_of_blosc_1(dtype: str, cname: str, shuffle: int, blocksize: int, size: int, entropy: int) -> None:
    values = tile(dtype, (size,), entropy)
    assert_decodes(by_blosc1(values, cname, shuffle, blocksize), values)


@pytest.mark.parametrize("typesize", [1, 3, 4, 8])
def test_frames_with_other_bytes_per_value(typesize: int, library: str) -> None:
    values = tile("uint16", (2, 24, 24), 1)
    frame = bytes(Blosc("zstd", 1, BITSHUFFLE, typesize=typesize).encode(values))
    assert_decodes(checked(frame), values)


def test_tiles_of_several_codecs_at_once(library: str) -> None:
    values = [tile("uint16", (2, 32, 32), entropy, seed) for seed, entropy in enumerate((0, 1, 2, 1))]
    chunks = [by_blosc1(v, "lz4" if k == 2 else "zstd") for k, v in enumerate(values)]
    out = np.empty((4, 2, 32, 32), np.uint16)
    decode(chunks, out)
    np.testing.assert_array_equal(out, values)
    np.testing.assert_array_equal([t.copy() for t in decoded(chunks, out[0])], values)


def refused(chunk: bytes, like: np.ndarray[Any, Any]) -> str:
    """Message about the second of two chunks."""
    with pytest.raises(BrokenTileError) as caught:
        decode([by_blosc1(like), chunk], np.empty((2, *like.shape), like.dtype))
    assert caught.value.index == 1
    return str(caught.value)


def test_a_flipped_bit_is_noticed_wherever_it_is(library: str) -> None:
    values = tile("uint16", (2, 16, 16), 1)
    chunk = encode(values)
    for position in range(len(chunk)):
        broken = bytearray(chunk)
        broken[position] ^= 0x10
        assert refused(bytes(broken), values) == "its checksum does not match"


def test_truncated_chunks_and_those_of_another_size_are_refused(library: str) -> None:
    values = tile("uint16", (2, 64, 64), 1)
    chunk = encode(values)
    for length in (0, 3, 10, 19, 40, len(chunk) - 1):
        refused(chunk[:length], values)
        refused(checked(chunk[:length]), values)
    assert "does not hold" in refused(chunk, values[:1])
    assert "does not hold" in refused(chunk, np.empty((4, 64, 64), np.uint16))


@pytest.mark.parametrize(
    ("position", "word", "message"),
    [
        (8, 0, "blocks of 0 bytes"),
        (8, 1 << 20, "blocks of"),
        (8, 1, "shorter than its header says"),
        (12, 1 << 30, "a length of"),
        (12, 17, "a length of"),
        (16, 1 << 30, ""),
        (16, 1 << 31, ""),
        (16, 0, ""),
    ],
)
def test_a_wrong_number_under_a_right_checksum_is_refused(position: int, word: int, message: str, library: str) -> None:
    values = tile("uint16", (4, 64, 64), 1)
    frame = bytearray(by_blosc1(values)[:-4])
    struct.pack_into("<I", frame, position, word)
    assert message in refused(checked(bytes(frame)), values)


def test_frames_of_blosc_2_are_refused(library: str) -> None:
    values = tile("uint16", (2, 16, 16), 1)
    frame = b"\x05" + by_blosc1(values)[1:-4]
    assert refused(checked(frame), values) == "it has version 5 of Blosc's format, not 2"


def mutated(frame: bytes, rng: random.Random) -> bytes:
    """A frame with one to four changes: bytes, numbers of the header, its end cut off or repeated."""
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(min(len(data), rng.choice([16, 40, len(data)])))
        match rng.randrange(4):
            case 0:
                data[position] = rng.randrange(256)
            case 1:
                struct.pack_into(
                    "<I", data, min(position & ~3, len(data) - 4), rng.choice([0, 1, 2**31, 2**32 - 1, 5000])
                )
            case 2:
                del data[max(20, len(data) - rng.randrange(64)) :]
                struct.pack_into("<I", data, 12, len(data))
            case _:
                data += data[-8:]
                struct.pack_into("<I", data, 12, len(data))
    return bytes(data)


def test_mutated_frames_are_refused_or_fill_the_tile_and_nothing_else(library: str) -> None:
    """All under right checksums, so that every one reaches the header check, and many the library."""
    rng = random.Random(7)
    values = [tile(dtype, (2, 24, 24), 1) for dtype in ("uint8", "uint16", "float32")]
    frames = [(by_blosc1(v, cname)[:-4], v) for v in values for cname in ("zstd", "lz4", "blosclz")]
    around = np.full(4096 + 3 * values[2].nbytes, 0xA5, np.uint8)
    outcomes = {True: 0, False: 0}
    for _ in range(MUTATIONS):
        frame, like = rng.choice(frames)
        out = around[values[2].nbytes :][: like.nbytes].view(like.dtype).reshape(like.shape)
        try:
            decode([checked(mutated(frame, rng))], out[None])
        except BrokenTileError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
        assert (around[: values[2].nbytes] == 0xA5).all()
        assert (around[values[2].nbytes + like.nbytes :][:4096] == 0xA5).all()
        out.view(np.uint8)[:] = 0xA5
    assert min(outcomes.values()) > MUTATIONS // 50, outcomes


# ------------------------------------------------------------------------------------------------- libraries


def test_without_the_library_numcodecs_is_used_and_that_is_said_once() -> None:
    program = """
import logging, sys, threading
sys.modules["mmearth_data.store.blosc_fast"] = None
logging.basicConfig(format="%(message)s")
import numpy as np
from mmearth_data.store.codec import decode, encode
start = threading.Barrier(8)
def work():
    start.wait()
    decode([encode(np.ones(64, np.uint16))], np.empty((1, 64), np.uint16))
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=300)
    (line,) = done.stderr.splitlines()
    assert "install mmearth[fast]" in line


def test_with_the_library_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    codec.fast_blosc.cache_clear()
    with caplog.at_level(logging.DEBUG):
        assert codec.fast_blosc() is blosc_fast
    assert not caplog.records
    assert codec.encoder_name().endswith(f"Blosc {blosc_fast.version()}")
