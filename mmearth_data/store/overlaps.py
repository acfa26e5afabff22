"""Tiles that occur twice, and areas that are in two splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.store.schema import SPLIT_NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

M_PER_DEGREE = 111_194.9
"""Metres per degree of a great circle on the mean sphere."""
SURE = 0.9
"""Squares of equal size whose centres are closer than this share of a side, in both directions, overlap for every
rotation of their UTM zones (at most 3.5 degrees) and every snapping to the pixel grid.
"""

NEAR_DATE_LINE = 175.0
"""Degrees from which tiles are also compared with those across 180 degrees: the largest tile, 20 km, spans 2 at 84 N."""


def repeated(tile_id: NDArray[np.uint64], time: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of tiles with the id and time (n,) of an earlier one, and the position of that one."""
    pairs = np.stack([tile_id.view(np.int64), time], axis=-1)
    _, first, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    earliest = first[group.reshape(-1)]
    later = np.flatnonzero(earliest != np.arange(len(pairs)))
    return later, earliest[later]


def overlapping_splits(
    lon: NDArray[np.float64], lat: NDArray[np.float64], split: NDArray[np.uint8], size_px: int
) -> tuple[int, int] | None:
    """Positions of two overlapping tiles of different splits, None if there are none; see `overlap_pairs`."""
    pairs = overlap_pairs(lon, lat, split, size_px)
    if not pairs.size:
        return None
    low, high = sorted(pairs[:, 0].tolist())
    return low, high


def overlap_pairs(
    lon: NDArray[np.float64], lat: NDArray[np.float64], split: NDArray[np.uint8], size_px: int
) -> NDArray[np.intp]:
    """All pairs of overlapping tiles of different splits; tiles without a split are ignored.

    Parameters
    ----------
    lon, lat, split
        (n,) centres of the tiles in degrees, and their splits, 255 for none.
    size_px
        Side of the tiles.

    Returns
    -------
    ndarray
        (2, pairs) positions; a pair may occur in both orders.
    """
    import shapely

    if len(np.unique(split[split != SPLIT_NONE])) < 2:
        return np.empty((2, 0), dtype=np.intp)
    side_m = SURE * PIXEL_M * size_px
    boxes = _cores(lon, lat, side_m)
    # The largest split is indexed and the others query it, one by one, so that a pair is found once.
    tree = shapely.STRtree(boxes)
    asking = np.flatnonzero(split != np.bincount(split).argmax())
    crossing = asking[np.abs(lon[asking]) > NEAR_DATE_LINE]
    beyond = _cores(lon[crossing] - np.copysign(360, lon[crossing]), lat[crossing], side_m)
    left, right = tree.query(np.concatenate([boxes[asking], beyond]), predicate="intersects")
    pairs: NDArray[np.intp] = np.stack([np.concatenate([asking, crossing])[left], right])
    known = (split[pairs] != SPLIT_NONE).all(axis=0)
    wrong: NDArray[np.intp] = pairs[:, known & (split[pairs[0]] != split[pairs[1]])]
    return wrong


def _cores(lon: NDArray[np.float64], lat: NDArray[np.float64], side_m: float) -> np.ndarray[Any, Any]:
    """Boxes in degrees around the centres, within which tiles certainly overlap."""
    import shapely

    half_y = side_m / 2 / M_PER_DEGREE
    half_x = half_y / np.maximum(np.cos(np.radians(lat)), 1e-6)
    return np.asarray(shapely.box(lon - half_x, lat - half_y, lon + half_x, lat + half_y))
