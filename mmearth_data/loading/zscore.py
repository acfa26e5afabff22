"""The inner loop of normalising, compiled; see `mmearth_data.store.bitplanes` for when and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from mmearth_data.store.bitplanes import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALED_TYPES = ("uint8", "uint16", "int16", "float32")
"""Stored types that `z_score` takes."""


def _signature(name: str) -> Any:  # noqa: ANN401 - numba has no types
    values, floats = types.Array(getattr(types, name), 1, "C"), types.Array(types.float32, 1, "C")
    scale = types.Array(types.float32, 2, "C", readonly=True)
    return types.void(values, types.intp, types.intp, scale, types.float64, floats)


@compiled(*map(_signature, SCALED_TYPES))
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
        (n,) stored values, of one of `SCALED_TYPES`.
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
