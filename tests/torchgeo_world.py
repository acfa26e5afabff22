"""A toy store whose tiles have places of their own, for data sets that are asked for areas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from toy_store import SIZE_PX, write_store

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data import Store

TILES = 24
SIDE_M = 10 * SIZE_PX
UNLABELLED = 5
"""A tile without a biome."""


def placed_store(path: Path, **options: Any) -> Store:
    """Tiles of one CRS in rows of six, with gaps of 100 m, but for the last two, which touch; one has no biome."""

    def change(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        row, column = np.divmod(np.arange(TILES), 6)
        arrays["ulx"] = 500_000.0 + column * (SIDE_M + 100)
        arrays["uly"] = 4_000_000.0 - row * (SIDE_M + 100)
        arrays["ulx"][-1] = arrays["ulx"][-2] + SIDE_M
        arrays["biome"][UNLABELLED] = 255

    return write_store(path, TILES, change=change, shares=(0.5, 0.25), **options)
