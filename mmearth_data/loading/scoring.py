"""Decode tiles to z-scores in one pass over each block if compiled loops are available, otherwise in two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.store.decoding import decode_plainly, decode_run
from mmearth_data.store.states import FOREIGN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.loading.scaling import Scaling


def score_tiles(
    parts: Sequence[bytes],
    dtype: np.dtype[Any],
    scaling: Scaling,
    levels: NDArray[np.integer[Any]],
    out: NDArray[np.float32],
) -> None:
    """Decode inner chunks of a raster to z-scores.

    Parameters
    ----------
    parts
        n inner chunks, checksums included.
    dtype
        Stored type.
    scaling
        Scaling of all stored bands.
    levels
        (n,) level codes of the tiles' scenes.
    out
        (n, bands, ...) contiguous float32; NaN where nothing was observed.

    Raises
    ------
    BrokenTileError
        If a chunk is corrupt.
    """
    scales, pixels = scaling.scales(levels), out[0, 0].size
    rows = out.reshape(len(out), -1)

    def run(loops: Any, addresses: NDArray[np.intp], lengths: NDArray[np.intp], states: NDArray[np.uint8]) -> None:  # noqa: ANN401
        form = loops.FORMS.get(dtype.name)
        if form is None:
            states[:] = FOREIGN
        else:
            place = loops.contexts.address
            loops.score_tiles(place, addresses, lengths, form, pixels, scales, scaling.nodata, rows, states)

    for index in decode_run(parts, run):
        values = np.empty((1, *out.shape[1:]), dtype)
        decode_plainly(index, parts[index], values[0])
        scaling.apply(values, levels[index : index + 1], out[index : index + 1])
