"""A store small enough to train on in seconds: a few kinds of tile that every modality distinguishes.

Written through the real writer, read through the front door. The values do not resemble the Earth; what can be
learned from them is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import Store, load_catalog, open_store
from mmearth_data.store import StoreLayout, StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mmearth_data import Modality

KINDS = 4
"""Kinds of tile; tile k is of kind k % KINDS."""
SIZE_PX = 32
TILES_PER_SHARD = 16
MODALITIES = (
    "sentinel2", "sentinel1", "dynamic_world", "esa_worldcover", "era5", "lat", "lon", "month", "biome", "eco_region",
)  # fmt: skip
TINY = {
    "depths": (1, 1, 1, 1),
    "widths": (8, 12, 16, 24),
    "image_size": 24,
    "patch_size": 8,
    "decoder_dim": 16,
    "precision": "float32",
}
"""Recipe fields of a network to match."""

Columns = dict[str, np.ndarray[Any, Any]]


def write_store(
    path: Path,
    tiles: int = 48,
    *,
    names: Sequence[str] = MODALITIES,
    shares: tuple[float, float] = (0.75, 0.0),
    size_px: int = SIZE_PX,
    change: Callable[[Columns], None] = lambda arrays: None,
    finish: bool = True,
) -> Store:
    """Build a toy store.

    Parameters
    ----------
    path
        Folder of the store.
    tiles
        Rows.
    names
        Modalities of it.
    shares
        Of train and val; the rest is test.
    size_px
        Side of a tile.
    change
        Called with all arrays, to spoil them.
    finish
        Seal the store.
    """
    modalities = load_catalog().select(names)
    layout = StoreLayout(modalities=modalities, tiles=tiles, size_px=size_px, tiles_per_shard=TILES_PER_SHARD)
    writer = StoreWriter.create(path, layout, recipe={"toy": tiles}, source={"name": "toy"}, synthetic=True)
    arrays = {**coordinates(tiles, shares, size_px), **{m.name: values(m, tiles, size_px) for m in layout.stored}}
    change(arrays)
    rasters = [m.name for m in layout.rasters]
    for shard in range(layout.shards):
        rows = slice(layout.rows(shard).start, layout.rows(shard).stop)
        columns = {name: array[rows] for name, array in arrays.items() if name not in rasters}
        columns["facts"] = np.array(["{}"] * len(layout.rows(shard)), dtype=object)
        writer.write_shard(shard, columns, {name: arrays[name][rows] for name in rasters})
    if finish:
        writer.finish()
    return open_store(path)


def kinds(tiles: int) -> np.ndarray[Any, Any]:
    """(N,) kind of each tile."""
    return np.arange(tiles) % KINDS


def coordinates(tiles: int, shares: tuple[float, float], size_px: int) -> Columns:
    """1-D coordinates; tiles are evenly spaced in longitude, each kind at its own latitude."""
    rank = np.arange(tiles) / tiles
    lon, lat = np.arange(tiles) * 0.1, 10.0 * kinds(tiles)
    ids = (np.rint((lon + 180) * 1e6).astype(np.uint64) << np.uint64(35)) | (
        np.rint((lat + 90) * 1e6).astype(np.uint64) << np.uint64(7)
    )
    months = np.datetime64("2019-01-15", "ms") + (30 * kinds(tiles)).astype("timedelta64[D]")
    return {
        "tile_id": ids | np.uint64(size_px // 16),
        "lon": lon,
        "lat": lat,
        "epsg": np.full(tiles, 32631, np.int32),
        "ulx": np.zeros(tiles),
        "uly": np.zeros(tiles),
        "time": months.astype(np.int64),
        "s2_level": (np.arange(tiles) % 2).astype(np.uint8),
        "s1_asc_days": np.zeros(tiles, np.float32),
        "s1_desc_days": np.zeros(tiles, np.float32),
        "split": np.digitize(rank, [shares[0], sum(shares)]).astype(np.uint8),
    }


def values(m: Modality, tiles: int, size_px: int) -> np.ndarray[Any, Any]:
    """Stored values: a level per kind and band, and noise; a tenth of the pixels was never observed."""
    rng = np.random.default_rng(m.order)
    shape = (tiles, *m.array_shape(size_px))
    kind = kinds(tiles).reshape(-1, *(1,) * (len(shape) - 1))
    if m.kind.is_categorical:
        codes = np.array([label.code for label in m.classes], dtype=m.dtype)
        result = np.broadcast_to(codes[kind], shape).copy()
    else:
        level = rng.normal(size=(KINDS, len(m.bands)))[kind.reshape(-1)].reshape(tiles, -1, *(1,) * (len(shape) - 2))
        low, high = m.histogram_range or (0, 1)
        result = (0.5 * (low + high) + (high - low) * 0.1 * (level + 0.1 * rng.normal(size=shape))).astype(m.dtype)
    if m.kind.is_raster:
        result[rng.random(shape) < 0.1] = m.nodata
    return result
