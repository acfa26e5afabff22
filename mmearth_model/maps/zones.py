"""Tiles of a store on the pixel grid of their UTM zone, and the vectors of a block of it.

A tile is one window, or several if it is much larger than the images that the encoder was trained on. Where tiles overlap,
their vectors are blended as those of windows are: a tile counts most in its centre.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError
from mmearth_model.evaluation.embedding import unlabelled
from mmearth_model.evaluation.features import input_normaliser
from mmearth_model.maps.blocks import Block
from mmearth_model.maps.lattice import Lattice, block_vectors
from mmearth_model.maps.strips import StripReader
from mmearth_model.tasks import StoreImages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmearth_data import Modality, Store
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.network.encoder import ConvNeXtV2

PIXEL_M = 10.0
"""Side of a pixel of a store in metres."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Zone:
    """Tiles of a store in one UTM zone.

    Attributes
    ----------
    epsg
        CRS.
    west, north
        Upper left corner of all tiles in metres.
    height, width
        Pixels from there to the last corner.
    size_px
        Pixels along a side of a tile.
    tiles
        (N,) positions in the store.
    tops, lefts
        (N,) pixel of the upper left corner of each tile.
    """

    epsg: int
    west: float
    north: float
    height: int
    width: int
    size_px: int
    tiles: NDArray[np.intp]
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Name of its group: the EPSG code."""
        return str(self.epsg)

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients of its pixels."""
        return (PIXEL_M, 0.0, self.west, 0.0, -PIXEL_M, self.north)

    def within(self, block: Block, stride: int) -> NDArray[np.intp]:
        """Tiles, by their number in the zone, that share pixels with a block of positions."""
        hit = np.ones(len(self.tiles), dtype=bool)
        for starts, first, length in ((self.tops, block.row, block.height), (self.lefts, block.column, block.width)):
            hit &= (starts < (first + length) * stride) & (starts + self.size_px > first * stride)
        return np.flatnonzero(hit)


def zone_lattice(store: Store, lattice: Lattice) -> Lattice:
    """Choose windows within tiles: a whole tile, unless it has room for two training images along a side."""
    side = store.layout.size_px // lattice.patch * lattice.patch
    if not side:
        raise InputError(
            f"{store.path}: expected tiles of at least one {lattice.patch} px patch, got {store.layout.size_px} px."
        )
    return lattice if side >= 2 * lattice.window else replace(lattice, window=side, step=side)


def zones_of(store: Store, normaliser: Normaliser, lattice: Lattice) -> tuple[Zone, ...]:
    """Arrange the tiles of a store by zone.

    Raises
    ------
    InputError
        If the store lacks what the encoder takes, several tiles have the same corner, or positions of different tiles in
        a zone do not coincide.
    """
    input_normaliser(normaliser, unlabelled(StoreImages(store)))
    epsg = np.asarray(store.coords["epsg"])
    if not len(epsg):
        raise InputError(f"{store.path}: expected tiles, got none.")
    return tuple(_zone(store, int(code), np.flatnonzero(epsg == code), lattice) for code in np.unique(epsg))


def _zone(store: Store, epsg: int, tiles: NDArray[np.intp], lattice: Lattice) -> Zone:
    ulx, uly = (np.asarray(store.coords[name], dtype=np.float64)[tiles] for name in ("ulx", "uly"))
    if not np.isfinite([ulx, uly]).all():
        raise InputError(f"{store.path}: expected tiles with a known corner, got some without.")
    lefts, tops = (ulx - ulx.min()) / PIXEL_M, (uly.max() - uly) / PIXEL_M
    apart = max(lattice.patch, lattice.stride)
    off = np.flatnonzero((lefts % apart != 0) | (tops % apart != 0))
    if off.size:
        raise InputError(
            f"{store.path}: expected corners of tiles that are multiples of {apart} px apart within a zone, so that positions of "
            f"different tiles coincide, got {lefts[off[0]]:g} and {tops[off[0]]:g} px in EPSG:{epsg}; use a store of "
            "mmearth-data build --cover, another --stride, or leave out --dense."
        )
    if len(np.unique(np.stack([tops, lefts]), axis=1).T) < len(tiles):
        raise InputError(
            f"{store.path}: expected one tile at each location, got several with the same corner in EPSG:{epsg}, such as several "
            "dates; use a store of mmearth-data build --cover, or leave out --dense."
        )
    size = store.layout.size_px
    return Zone(
        epsg=epsg,
        west=float(ulx.min()),
        north=float(uly.max()),
        height=int(tops.max()) + size,
        width=int(lefts.max()) + size,
        size_px=size,
        tiles=tiles,
        tops=tops.astype(np.int64),
        lefts=lefts.astype(np.int64),
    )


@dataclass(frozen=True, slots=True)
class TileReader:
    """A tile of a store, read as a scene is."""

    batch: Mapping[str, Any]
    modalities: tuple[Modality, ...]

    def read(self, top: int, left: int, height: int, width: int) -> dict[str, NDArray[Any]]:
        """Read a window, which may reach beyond the tile, where all is missing."""
        found = {}
        for m in self.modalities:
            values = self.batch[m.name][0]
            part = np.full((values.shape[0], height, width), m.nodata, dtype=values.dtype)
            rows, columns = (
                slice(max(0, first), max(0, min(first + length, side)))
                for first, length, side in ((top, height, values.shape[1]), (left, width, values.shape[2]))
            )
            part[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = values[
                :, rows, columns
            ]
            found[m.name] = part
        return found

    def observed(self, numbers: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """(height, width) where any band that the encoder sees was observed."""
        seen = [m.observed(numbers[m.name][m.band_indices(m.model_bands)]).any(axis=0) for m in self.modalities]
        found: NDArray[np.bool_] = np.logical_or.reduce(seen)
        return found

    def tiles(self, count: int) -> dict[str, Any]:
        """Coordinates of ``count`` windows, as in a batch of a store."""
        return {name: np.repeat(column[:1], count) for name, column in self.batch["tile"].items()}


def zone_vectors(
    encoder: ConvNeXtV2, normaliser: Normaliser, store: Store, zone: Zone, lattice: Lattice, block: Block
) -> NDArray[np.float32]:
    """(D, height, width) vectors of a block of positions of a zone, NaN where no tile has data; see `block_vectors`."""
    normaliser = input_normaliser(normaliser, unlabelled(StoreImages(store)))
    modalities = tuple(normaliser.modalities[name] for name in normaliser.inputs)
    shape = lattice.positions((zone.size_px, zone.size_px))
    total = np.zeros((encoder.out_channels, block.height, block.width), dtype=np.float32)
    weight = np.zeros((block.height, block.width), dtype=np.float32)
    ramps = [np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2 for length in shape]
    ramp = np.outer(*ramps).astype(np.float32)
    numbers = zone.within(block, lattice.stride)
    batches = StoreImages(store).batches(zone.tiles[numbers], 1, normaliser.stored)
    with ThreadPoolExecutor(1) as pool:
        for number, batch in zip(numbers.tolist(), batches, strict=True):
            reader = StripReader(TileReader(batch, modalities), normaliser, pool)
            values = block_vectors(encoder, reader, lattice, (zone.size_px, zone.size_px), Block(0, 0, *shape))
            row, column = int(zone.tops[number]) // lattice.stride, int(zone.lefts[number]) // lattice.stride
            known = np.isfinite(values[0])
            _add_at(weight[None], np.where(known, ramp, 0)[None], row - block.row, column - block.column)
            _add_at(total, np.where(known, values * ramp, 0), row - block.row, column - block.column)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.float32(np.nan))


def _add_at(into: NDArray[np.float32], values: NDArray[np.float32], row: int, column: int) -> None:
    """Add (C, h, w) values to the part of an array where they begin at (row, column), which may be outside."""
    rows, columns = (
        slice(max(0, first), max(0, min(first + length, limit)))
        for first, length, limit in zip((row, column), values.shape[1:], into.shape[1:], strict=True)
    )
    into[:, rows, columns] += values[
        :, rows.start - row : rows.stop - row, columns.start - column : columns.stop - column
    ]
