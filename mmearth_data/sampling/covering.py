"""Cover a region without gaps: the cells of a grid per UTM zone that the region touches.

Cells are squares of ``size_px - overlap_px`` pixels, whose corners are multiples of their side in the coordinates of
their zone, so that covers of different regions share them. The tile of a cell is the cell plus half of the overlap on
each side: neighbouring tiles share ``overlap_px`` pixels, and tiles extend beyond the region's boundary by that margin.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import PIXEL_M, WGS84, round_lonlat, tile_ids, transformer
from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.geography.equal_area import Floats, Ints
    from mmearth_data.geography.zones import ZonePart

    Labels = Callable[[Floats, Floats], tuple[NDArray[np.uint8], NDArray[np.uint16]]]

MOST_CELLS = 100_000_000
"""Maximum number of cells of a cover; at 128 px, all land of the Earth needs about 91 million."""
TOUCH_M = 0.01
"""A region touches a cell if it extends into it by more than this: coordinates in degrees are not more exact."""
RIGHT = 1e-6
"""Degrees by which the second of two tiles with the same rounded centre is moved in its id, not in its pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cover:
    """The cells that cover a region, as runs of adjacent cells in a row; use `cover`.

    Attributes
    ----------
    size_px, overlap_px
        Side of the tiles, and the pixels that neighbouring tiles share.
    epsg, row, first
        (runs,) zone of each run, its row (counted from the origin of the zone northwards) and its first column
        (eastwards).
    stop
        (runs,) number of cells up to the end of each run: cells are numbered zone by zone, from north to south and from
        west to east.
    moved
        Cells whose id is that of a point `RIGHT` of their centre, because a cell of the neighbouring zone already has their id.
    """

    size_px: int
    overlap_px: int
    epsg: Ints
    row: Ints
    first: Ints
    stop: Ints
    moved: Ints

    def __len__(self) -> int:
        return int(self.stop[-1]) if len(self.stop) else 0

    @property
    def zones(self) -> dict[int, int]:
        """Zone, as an EPSG code -> number of cells."""
        counts: Counter[int] = Counter()
        for epsg, count in zip(self.epsg.tolist(), np.diff(self.stop, prepend=0).tolist(), strict=True):
            counts[epsg] += count
        return dict(sorted(counts.items()))

    def grids(self, cells: Ints) -> dict[str, NDArray[Any]]:
        """Pixel grids of the tiles of some cells (n,): ``epsg`` int32, ``ulx`` and ``uly`` float64 in metres."""
        run = np.searchsorted(self.stop, cells, side="right")
        column = self.first[run] + cells - np.append(0, self.stop)[run]
        step, margin = PIXEL_M * (self.size_px - self.overlap_px), PIXEL_M * (self.overlap_px // 2)
        return {
            "epsg": self.epsg[run].astype(np.int32),
            "ulx": (column * step - margin).astype(np.float64),
            "uly": ((self.row[run] + 1) * step + margin).astype(np.float64),
        }

    def columns(self, cells: Ints) -> dict[str, NDArray[Any]]:
        """`grids` of some cells, with ``lon`` and ``lat`` of the centres in degrees, and ``tile_id``."""
        found = self.grids(cells)
        half = PIXEL_M * self.size_px / 2
        lonlat = np.empty((len(cells), 2))
        for epsg in np.unique(found["epsg"]).tolist():
            own = found["epsg"] == epsg
            degrees = transformer(epsg, WGS84).transform(found["ulx"][own] + half, found["uly"][own] - half)
            lonlat[own] = np.column_stack(degrees)
        lonlat[np.isin(cells, self.moved), 0] += RIGHT
        lon, lat = round_lonlat(lonlat).T
        return {**found, "lon": lon, "lat": lat, "tile_id": tile_ids(lon, lat, self.size_px)}


def cover(parts: Sequence[ZonePart], size_px: int, overlap_px: int) -> Cover:
    """Cover areas by the cells of their zones.

    Parameters
    ----------
    parts
        Areas, at most one for each zone.
    size_px, overlap_px
        Side of the tiles, and the pixels that neighbouring tiles share, fewer than the side.

    Raises
    ------
    InputError
        If more than `MOST_CELLS` cells are needed.
    """
    step_m = float(PIXEL_M * (size_px - overlap_px))
    about = sum(part.geometry.area for part in parts) / step_m**2
    if about > MOST_CELLS:
        raise InputError(
            f"Expected a region of at most {MOST_CELLS:,} tiles, got one that needs about {about:,.0f} tiles of "
            f"{size_px} px with "
            f"an overlap of {overlap_px} px; choose a smaller --region, a larger --tile-size or a smaller --overlap."
        )
    epsg, row, first, count = _joined(4, (_runs_of(part, step_m) for part in parts))
    found = Cover(
        size_px=size_px,
        overlap_px=overlap_px,
        epsg=epsg,
        row=row,
        first=first,
        stop=np.cumsum(count),
        moved=np.empty(0, np.int64),
    )
    return replace(found, moved=_repeated(found))


def _runs_of(part: ZonePart, step_m: float) -> tuple[Ints, Ints, Ints, Ints]:
    """(zone, row, first column, number of cells) of the runs of an area, from north to south and west to east."""
    row, first, side = _joined(3, _blocks(part.geometry, step_m))
    of = np.repeat(np.arange(len(row)), side)
    row = row[of] + np.arange(len(of)) - np.repeat(np.cumsum(side) - side, side)
    first, count = first[of], side[of]
    order = np.lexsort((first, -row))
    row, first, count = row[order], first[order], count[order]
    follows = (row[1:] == row[:-1]) & (first[1:] == (first + count)[:-1])
    starts = np.flatnonzero(~np.append(False, follows)[: len(row)])
    count = np.add.reduceat(count, starts) if len(starts) else count
    return np.full(len(starts), part.epsg), row[starts], first[starts], count


def _joined(columns: int, rows: Iterable[tuple[Ints, ...]]) -> tuple[Ints, ...]:
    """Join tuples of arrays, column by column."""
    nothing = (np.empty(0, np.int64),) * columns
    return tuple(np.concatenate(column) for column in zip(nothing, *rows, strict=True))


def _blocks(geometry: BaseGeometry, step_m: float) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Disjoint square blocks of cells that form the cover: (row, column, side) of their lower-left cells.

    Blocks that the area touches are divided into four until they are inside it, or single cells.
    """
    shapely.prepare(geometry)
    west, south, east, north = (math.floor(edge / step_m) for edge in geometry.bounds)
    side = 1 << max(east - west, north - south, 1).bit_length()
    row, column = np.array([south]), np.array([west])
    while side:
        x, y = column * step_m, row * step_m
        edge = side * step_m
        boxes = shapely.box(x + TOUCH_M, y + TOUCH_M, x + edge - TOUCH_M, y + edge - TOUCH_M)
        touched = shapely.intersects(geometry, boxes)
        done = touched & (shapely.contains_properly(geometry, boxes) if side > 1 else True)
        yield row[done], column[done], np.full(int(done.sum()), side)
        left, side = touched & ~done, side // 2
        row, column = (
            (of[left][:, None] + side * np.array(offsets)).ravel()
            for of, offsets in ((row, (0, 0, 1, 1)), (column, (0, 1, 0, 1)))
        )


def _repeated(cells: Cover) -> Ints:
    """Cells with the id of an earlier cell, since the grids of two zones mirror each other at the meridian between them."""
    ends = np.unique(np.concatenate([np.append(0, cells.stop)[:-1], cells.stop - 1]).astype(np.int64))
    _, first = np.unique(cells.columns(ends)["tile_id"], return_index=True)
    return np.delete(ends, first)
