"""Z-scores, compiled and in NumPy, against arithmetic in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from store_making import modality

from mmearth_data.catalog.modality import Kind
from mmearth_data.loading import kernel, loops
from mmearth_data.loading.kernel import Layer
from mmearth_data.loading.scaling import Scaling
from mmearth_data.store.codec import BrokenTileError, encode

BANDS, PIXELS = 3, 256


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
]
SCALES = np.array([[[10, 0.5], [-3.25, 2], [np.nan, np.nan]], [[10, 1.5], [-3.25, 6], [np.nan, np.nan]]], np.float32)
"""(level, band, 2) mean and 1 / std; the last band was never observed."""
LEVELS = np.array([1, 0, 255], np.uint8)


def layer(dtype: str, nodata: float, picks: tuple[int, ...] | None = None) -> Layer:
    m = modality("x", Kind.RASTER_CONTINUOUS, ("a", "b", "c"), dtype, nodata)
    table = SCALES if picks is None else SCALES[:, list(picks)]
    return Layer(modality=m, picks=picks, scaling=Scaling(nodata, by_level=True, table=table))


def truth(values: np.ndarray[Any, Any], nodata: float, level: int) -> np.ndarray[Any, Any]:
    """In double precision."""
    wide, scale = values.astype(np.float64), SCALES[level].astype(np.float64)
    result = (wide - scale[:, :1]) * scale[:, 1:]
    result[np.isnan(wide) if np.isnan(nodata) else wide == nodata] = np.nan
    return result


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "numpy"])
@pytest.mark.parametrize(("dtype", "nodata"), [*CASES, ("int8", -1.0)])
def test_encoded_tiles_become_z_scores(
    dtype: str, nodata: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (dtype in loops.TYPES) == (dtype != "int8")
    monkeypatch.setattr(kernel, "compiled_loops", lambda: loops if compiled else None)
    values = stored(dtype, nodata)
    tiles = np.stack([values, values[:, ::-1], values]).reshape(3, BANDS, 16, 16)
    out = np.full(tiles.shape, 77, np.float32)
    layer(dtype, nodata).decode([encode(tile) for tile in tiles], LEVELS, out)
    for tile, level, got in zip(tiles, (1, 0, 1), out, strict=True):
        expected = truth(tile.reshape(BANDS, PIXELS), nodata, level)
        np.testing.assert_allclose(got.reshape(BANDS, PIXELS), expected, rtol=1e-6, atol=1e-6)
    whole = np.empty_like(out)
    layer(dtype, nodata).deliver(tiles, LEVELS, whole)
    np.testing.assert_array_equal(out, whole, "to the last bit")


def test_chosen_bands_are_those_of_all_bands() -> None:
    tiles = np.stack([stored("uint16", 0.0).reshape(BANDS, 16, 16)] * 3)
    chunks = [encode(tile) for tile in tiles]
    whole, some = np.empty((3, BANDS, 16, 16), np.float32), np.empty((3, 2, 16, 16), np.float32)
    layer("uint16", 0.0).decode(chunks, LEVELS, whole)
    layer("uint16", 0.0, (1, 0)).decode(chunks, LEVELS, some)
    np.testing.assert_array_equal(some, whole[:, [1, 0]])


@pytest.mark.parametrize("scaled", [True, False])
def test_a_corrupt_tile_is_named_by_its_position(scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = np.ones((3, BANDS, 16, 16), np.uint16)
    chunks = [encode(tile) for tile in tiles]
    chunks[1] = chunks[1][:16] + b"\xff" * (len(chunks[1]) - 16)
    how = layer("uint16", 0.0)
    how = how if scaled else Layer(modality=how.modality)
    out = np.empty(tiles.shape, how.dtype)
    for check in ("checksum does not match", "Blosc cannot decode it"):
        with pytest.raises(BrokenTileError, match=check) as caught:
            how.decode(chunks, LEVELS, out)
        assert caught.value.index == 1
        monkeypatch.setattr(loops, "check", lambda chunks, size: None)
