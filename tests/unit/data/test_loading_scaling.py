"""Z-scores in pieces against plain arithmetic on the whole tile."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import pytest
from numcodecs.blosc import Blosc

from mmearth_data.loading.scaling import Scaling
from mmearth_data.loading.scoring import score_tiles
from mmearth_data.store.bitplanes import FORMS, z_score

BANDS, PIXELS = 3, 40


def stored(dtype: str, nodata: float) -> np.ndarray[Any, Any]:
    """(band, pixel) values of the whole range of their type, some of them no data."""
    rng = np.random.default_rng(1)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        values = rng.normal(-12, 5, (BANDS, PIXELS)).astype(kind)
    else:
        limits = np.iinfo(kind)
        values = rng.integers(limits.min, limits.max, (BANDS, PIXELS), dtype=kind, endpoint=True)
        values[0, :2] = limits.min, limits.max
    values[:, 5:9] = nodata
    return values


CASES = [
    ("uint8", 255.0),
    ("uint16", 0.0),
    ("uint16", 65535.0),
    ("int16", -32768.0),
    ("float32", np.nan),
    ("float32", -9999.0),
]
SCALE = np.array([[10, 0.5, 1], [-3.25, 2, 1], [0, 1, 0]], np.float32)


def truth(values: np.ndarray[Any, Any], nodata: float) -> np.ndarray[Any, Any]:
    """In double precision; the last band was never observed."""
    wide = values.astype(np.float64)
    result = (wide - SCALE[:, :1].astype(np.float64)) * SCALE[:, 1:2].astype(np.float64)
    result[np.isnan(wide) if np.isnan(nodata) else wide == nodata] = np.nan
    result[2] = np.nan
    return result


@pytest.mark.parametrize(("dtype", "nodata"), CASES)
@pytest.mark.parametrize("piece", [8, 24, 64, BANDS * PIXELS])
def test_pieces_across_bands(dtype: str, nodata: float, piece: int) -> None:
    assert dtype in FORMS
    values = stored(dtype, nodata)
    flat, out = values.reshape(-1), np.full(BANDS * PIXELS, 77, np.float32)
    for first in range(0, len(flat), piece):
        z_score(flat[first : first + piece].copy(), first, PIXELS, SCALE, nodata, out)
    np.testing.assert_allclose(out.reshape(BANDS, PIXELS), truth(values, nodata), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "nodata"), CASES)
def test_whole_tiles_give_the_same_bits_as_pieces(dtype: str, nodata: float) -> None:
    values = stored(dtype, nodata)
    other = SCALE[:, [0, 1, 2]] * np.float32([1, 3, 1])
    scaling = Scaling(nodata, by_level=True, table=np.stack([SCALE, other]))
    levels = np.array([0, 1, 255], np.uint8)
    whole = np.empty((3, BANDS, PIXELS), np.float32)
    scaling.apply(np.stack([values] * 3), levels, whole)
    for scale, got in zip(scaling.scales(levels), whole, strict=True):
        out = np.empty(BANDS * PIXELS, np.float32)
        z_score(values.reshape(-1), 0, PIXELS, scale, nodata, out)
        np.testing.assert_array_equal(out.reshape(BANDS, PIXELS), got)
    np.testing.assert_array_equal(whole[2], whole[1])
    assert not np.array_equal(whole[0], whole[1], equal_nan=True)


@pytest.mark.parametrize("by_blosc", [0, 9], ids=["compiled", "Blosc"])
@pytest.mark.parametrize(("dtype", "nodata"), [*CASES, ("int8", -1.0)])
def test_encoded_tiles_are_normalised_as_whole_ones(
    dtype: str, nodata: float, by_blosc: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several blocks a tile, one tile in a frame that is left to Blosc; int8 is left to numpy."""
    monkeypatch.setattr("mmearth_data.store.decoding.compiled_loops.left", by_blosc)
    rng = np.random.default_rng(2)
    kind, shape = np.dtype(dtype), (3, BANDS, 96, 96)
    values = (rng.normal(0, 40, shape) if kind.kind == "f" else rng.integers(0, 100, shape)).astype(kind)
    values[:, :, 20:30] = nodata
    parts = []
    for k, tile in enumerate(values):
        codec = Blosc(cname="lz4" if k == 1 else "zstd", clevel=1, shuffle=2, typesize=kind.itemsize, blocksize=8192)
        frame = bytes(codec.encode(tile))
        parts.append(frame + int(google_crc32c.value(frame)).to_bytes(4, "little"))
    scaling = Scaling(nodata, by_level=True, table=np.stack([SCALE, SCALE * np.float32([1, 3, 1])]))
    levels = np.array([1, 0, 255], np.uint8)
    whole, got = np.empty(shape, np.float32), np.empty(shape, np.float32)
    scaling.apply(values, levels, whole)
    score_tiles(parts, kind, scaling, levels, got)
    np.testing.assert_array_equal(got, whole)
