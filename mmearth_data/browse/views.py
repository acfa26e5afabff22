"""Content of a view of the map: an image of counts if there are many tiles, single tiles if there are few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.browse.index import TileIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Part of the map, in metres of Web Mercator."""

    west: float
    south: float
    east: float
    north: float

    def around(self, share: float) -> View:
        """Extend a view on each side by a share of its size, so that a short pan shows no empty margin."""
        dx, dy = share * (self.east - self.west), share * (self.north - self.south)
        return View(west=self.west - dx, south=self.south - dy, east=self.east + dx, north=self.north + dy)


def in_view(index: TileIndex, mask: NDArray[np.bool_], view: View) -> NDArray[np.intp]:
    """Positions of the tiles of a mask (n,) whose centres are in a view, ascending."""
    inside = mask & (index.x >= view.west)
    inside &= index.x <= view.east
    inside &= index.y >= view.south
    inside &= index.y <= view.north
    return np.flatnonzero(inside)


def count_image(index: TileIndex, tiles: NDArray[np.intp], view: View, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Tiles per cell of a view.

    Parameters
    ----------
    index
        All tiles.
    tiles
        Positions of those to count, all in the view.
    view
        Part of the map.
    shape
        Rows and columns of the image.

    Returns
    -------
    ndarray
        (rows, columns) float32, the first row in the south; NaN where there is no tile.
    """
    cells = _cells(index, tiles, view, shape)
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float32)
    counts[counts == 0] = np.nan
    return counts


def class_image(
    index: TileIndex,
    tiles: NDArray[np.intp],
    view: View,
    shape: tuple[int, int],
    *,
    classes: NDArray[np.uint8],
    number: int,
) -> NDArray[np.float32]:
    """Most frequent class of the tiles per cell of a view, the first of equally frequent ones.

    Parameters
    ----------
    index, tiles, view, shape
        As in `count_image`.
    classes
        (n,) class of each tile of the index, below ``number``.
    number
        Number of classes.

    Returns
    -------
    ndarray
        (rows, columns) float32, NaN where there is no tile.
    """
    size = shape[0] * shape[1]
    cells = _cells(index, tiles, view, shape)
    counts = np.bincount(cells * np.int64(number) + classes[tiles], minlength=size * number).reshape(size, number)
    found = counts.argmax(axis=1).astype(np.float32)
    found[counts.max(axis=1) == 0] = np.nan
    image: NDArray[np.float32] = found.reshape(shape)
    return image


def _cells(index: TileIndex, tiles: NDArray[np.intp], view: View, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Cell of each of some tiles in the flat image of a view; tiles on its border are in the last cell."""
    rows, columns = shape
    column = (index.x[tiles] - view.west) * (columns / (view.east - view.west))
    row = (index.y[tiles] - view.south) * (rows / (view.north - view.south))
    found: NDArray[np.int32] = np.clip(row.astype(np.int32), 0, rows - 1) * np.int32(columns)
    return found + np.clip(column.astype(np.int32), 0, columns - 1)


def nearest(index: TileIndex, mask: NDArray[np.bool_], x: float, y: float, reach_m: float) -> int | None:
    """Position of the tile of a mask (n,) nearest to a point of the map; None if none is within reach."""
    square = View(west=x - reach_m, south=y - reach_m, east=x + reach_m, north=y + reach_m)
    near = in_view(index, mask, square)
    if not len(near):
        return None
    distance = np.hypot(index.x[near].astype(np.float64) - x, index.y[near].astype(np.float64) - y)
    best = int(np.argmin(distance))
    return int(near[best]) if distance[best] <= reach_m else None


def step_in(mask: NDArray[np.bool_], position: int | None, step: int) -> int | None:
    """Position of the next (step 1) or previous (step -1) selected tile, cyclic; None if none is selected."""
    if not mask.any():
        return None
    if position is None:
        return int(np.argmax(mask))
    turned = np.roll(mask, -position - 1) if step > 0 else np.roll(mask, -position)[::-1]
    ahead = int(np.argmax(turned))
    return (position + 1 + ahead if step > 0 else position - 1 - ahead) % len(mask)
