"""Compiled loops that decode the tiles of a batch, and normalise each one while it is in the cache.

They run without the GIL from the first tile to the last, because decoding a small tile takes less time than releasing
the GIL. Importing this module raises ImportError if numba or python-blosc2 is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import typeof, types

from mmearth_data.loading.scaling import z_score
from mmearth_data.store.blosc_fast import DECOMPRESS, arguments
from mmearth_data.store.codec import CORRUPT, BrokenTileError, check
from mmearth_data.store.compiling import compiled, inner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.loading.scaling import Scaling

TYPES = ("uint8", "uint16", "int16", "float32")
"""Stored types that `decode_normalised` supports."""
_FUNCTION = typeof(DECOMPRESS)  # type: ignore[no-untyped-call]
_FRAMES = (_FUNCTION, types.uintp, types.Array(types.intp, 1, "C"), types.Array(types.int32, 1, "C"))
_BYTES, _FLOATS = types.Array(types.uint8, 2, "C"), types.Array(types.float32, 3, "C")
_z_score = inner(z_score)  # cached with this file too, so change this file whenever that function changes


def decode(chunks: Sequence[bytes], out: np.ndarray[Any, Any]) -> None:
    """Decode chunks into an array; parameters and errors as of `mmearth_data.store.codec.decode`."""
    check(chunks, out[0].nbytes)
    done = _decode(*arguments(chunks), out.reshape(len(out), -1).view(np.uint8))
    if done < len(chunks):
        raise BrokenTileError(done, CORRUPT)


def decode_normalised(
    chunks: Sequence[bytes],
    modality: Modality,
    scaling: Scaling,
    levels: NDArray[np.integer[Any]],
    out: NDArray[np.float32],
) -> None:
    """Decode chunks of a raster to z-scores.

    Parameters
    ----------
    chunks
        n chunks, checksums included.
    modality
        Its stored type is one of `TYPES`.
    scaling
        Scaling of all stored bands.
    levels
        (n,) level codes of the tiles' scenes.
    out
        (n, bands, y, x) contiguous; NaN where nothing was observed.

    Raises
    ------
    BrokenTileError
        If a chunk is corrupt.
    """
    tile = np.empty((len(out[0]), out[0, 0].size), modality.dtype)
    check(chunks, tile.nbytes)
    nodata, rows = modality.dtype.type(scaling.nodata), out.reshape(len(out), *tile.shape)
    done = _decode_normalised(*arguments(chunks), tile, scaling.scales(levels), nodata, rows)
    if done < len(chunks):
        raise BrokenTileError(done, CORRUPT)


@compiled(types.intp(*_FRAMES, _BYTES))
def _decode(
    decompress: Callable[..., int],
    context: int,
    addresses: NDArray[np.intp],
    lengths: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> int:
    """Decode frames into (n, bytes of a tile); returns the position of the first one that it cannot decode, or n."""
    for k in range(len(out)):
        place, size = np.uintp(out[k].ctypes.data), np.int32(out.shape[1])
        if decompress(context, np.uintp(addresses[k]), lengths[k], place, size) != size:
            return k
    return len(out)


@compiled(
    *(
        types.intp(*_FRAMES, types.Array(value, 2, "C"), _FLOATS, value, _FLOATS)
        for value in (getattr(types, name) for name in TYPES)
    )
)
def _decode_normalised(
    decompress: Callable[..., int],
    context: int,
    addresses: NDArray[np.intp],
    lengths: NDArray[np.int32],
    tile: np.ndarray[Any, Any],
    scales: NDArray[np.float32],
    nodata: np.generic,
    out: NDArray[np.float32],
) -> int:
    """Decode frames into ``tile``, (band, pixel), and normalise each into (n, band, pixel); returns as `_decode`."""
    missing = np.float32(np.nan)
    place, size = np.uintp(tile.ctypes.data), np.int32(tile.nbytes)
    for k in range(len(out)):
        if decompress(context, np.uintp(addresses[k]), lengths[k], place, size) != size:
            return k
        for band in range(len(tile)):
            source, target, mean, inverse_std = tile[band], out[k, band], scales[k, band, 0], scales[k, band, 1]
            for i in range(len(source)):
                target[i] = missing if source[i] == nodata else _z_score(source[i], mean, inverse_std)
    return len(out)
