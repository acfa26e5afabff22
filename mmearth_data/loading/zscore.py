"""The inner loops of normalising, compiled; see `mmearth_data.store.bitplanes` for when and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from mmearth_data.store.bitplanes import (
    ADDRESSES,
    BYTES,
    block_bytes,
    bytes_at,
    unpack_block,
)
from mmearth_data.store.compiling import compiled
from mmearth_data.store.states import BROKEN, DONE, FOREIGN

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMS = {"uint8": 0, "uint16": 1, "int16": 2, "float32": 3}
"""Stored types that are normalised here, and the numbers by which `score_tiles` knows them."""
_ITEMSIZES = (1, 2, 2, 4)

_FLOATS, _FLOAT_ROWS = types.Array(types.float32, 1, "C"), types.Array(types.float32, 2, "C")
_SCALES = types.Array(types.float32, 3, "C")


def _signature(name: str) -> Any:  # noqa: ANN401 - numba has no types
    values = types.Array(getattr(types, name), 1, "C")
    return types.void(values, types.intp, types.intp, _FLOAT_ROWS, types.float64, _FLOATS)


@compiled(*map(_signature, FORMS))
def z_score(
    values: np.ndarray[Any, Any],
    first: int,
    pixels: int,
    scale: NDArray[np.float32],
    nodata: float,
    out: NDArray[np.float32],
) -> None:
    """Normalise a run of a tile's values: (value - mean) * (1 / std) by band, NaN where nothing was observed.

    Parameters
    ----------
    values
        (n,) stored values, of one of the types in `FORMS`.
    first
        Position of the first one in the tile, laid out (band, pixel).
    pixels
        Values of one band.
    scale
        (bands, 3): mean, 1 / std, usable.
    nodata
        Stored value that means "never observed"; NaN where NaN does.
    out
        (bands * pixels,) float32 of the whole tile, of which that run is written.
    """
    missing = np.float32(np.nan)
    done = 0
    while done < len(values):
        band = (first + done) // pixels
        count = min(len(values) - done, (band + 1) * pixels - first - done)
        source, target = values[done : done + count], out[first + done : first + done + count]
        mean, inverse_std = scale[band, 0], scale[band, 1]
        if scale[band, 2] == 0:
            target[:] = missing
        elif np.isnan(nodata):
            for i in range(count):
                target[i] = (np.float32(source[i]) - mean) * inverse_std
        else:
            none = source.dtype.type(nodata)
            for i in range(count):
                target[i] = missing if source[i] == none else (np.float32(source[i]) - mean) * inverse_std
        done += count


@compiled(
    types.void(types.uintp, ADDRESSES, ADDRESSES, types.intp, types.intp, _SCALES, types.float64, _FLOAT_ROWS, BYTES)
)
def score_tiles(
    context: int,
    addresses: NDArray[np.intp],
    lengths: NDArray[np.intp],
    form: int,
    pixels: int,
    scales: NDArray[np.float32],
    nodata: float,
    out: NDArray[np.float32],
    states: NDArray[np.uint8],
) -> None:
    """Decode tiles and normalise them, block by block, while each block is in the cache.

    Parameters
    ----------
    context
        Address of Zstandard's.
    addresses, lengths
        (n,) of their Blosc frames.
    form
        Of `FORMS`.
    pixels
        Values of one band.
    scales
        (n, bands, 3): mean, 1 / std, usable.
    nodata
        See `z_score`.
    out
        (n, bands * pixels) float32.
    states
        (n,) `DONE`, `FOREIGN` or `BROKEN`; written.
    """
    itemsize = _ITEMSIZES[form]
    size = out.shape[1] * itemsize
    planes, words, block = np.empty(0, np.uint8), np.empty(0, np.uint64), np.empty(0, np.uint8)
    for k in range(len(addresses)):
        frame = bytes_at(addresses[k], lengths[k])
        step = block_bytes(frame, itemsize, size)
        states[k] = FOREIGN if step == 0 else DONE
        if step > len(planes):
            planes, words, block = np.empty(step, np.uint8), np.empty(step // 8, np.uint64), np.empty(step, np.uint8)
        for index in range(-(-size // step) if step else 0):
            values = block[: min(size, (index + 1) * step) - index * step]
            if not unpack_block(context, frame, index, itemsize, planes, words, values):
                states[k] = BROKEN
                break
            first = index * step // itemsize
            if form == 0:
                z_score(values, first, pixels, scales[k], nodata, out[k])
            elif form == 1:
                z_score(values.view(np.uint16), first, pixels, scales[k], nodata, out[k])
            elif form == 2:
                z_score(values.view(np.int16), first, pixels, scales[k], nodata, out[k])
            else:
                z_score(values.view(np.float32), first, pixels, scales[k], nodata, out[k])
