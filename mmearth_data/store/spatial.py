"""``tiles_spatial.parquet``: the locations of the tiles of a store, in spatial order.

The rows of a store are in random order, so that consecutive rows are a random sample. Readers of GeoParquet, however, skip
row groups by the bounding boxes in their statistics, which only helps if neighbouring tiles are in the same row group.
Therefore, a store has this smaller second table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import as_datetime64_ms
from mmearth_data.store.items import TIME_COLUMN, WORLD, box_column, id_texts, outline_boxes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

KEPT = ("tile_id", "time", "split", "epsg", "ulx", "uly")
"""Coordinates that the table needs; they stay in memory until it is written (50 bytes per tile)."""
GROUP_ROWS = 16_384
"""Rows per row group, so that a region is in few row groups; reading one from a bucket takes one request."""
HILBERT_LEVEL = 16
"""Level of the curve: 2^16 cells along each axis, 600 m at the equator."""


class Places:
    """Locations of all tiles of a store, collected in parts."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in ("row", "rank", *KEPT)}

    def add(self, rows: np.ndarray[Any, Any], columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Add tiles: their store rows (n,) and coordinates (n,)."""
        for name in KEPT:
            self._parts[name].append(columns[name])
        self._parts["row"].append(rows.astype(np.int64))
        self._parts["rank"].append(_hilbert_ranks(columns["lon"], columns["lat"]))

    def take_ordered(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return and release the columns (n,), in the order of a Hilbert curve over longitude and latitude, then of the store."""
        order = np.argsort(np.concatenate(self._parts.pop("rank")), kind="stable")
        return {name: np.concatenate(self._parts.pop(name))[order] for name in list(self._parts)}


def _hilbert_ranks(lon: np.ndarray[Any, Any], lat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import geopandas as gpd

    if not len(lon):
        return np.empty(0, dtype=np.uint32)
    ranks = np.full(len(lon), np.iinfo(np.uint32).max, dtype=np.uint32)  # tiles without a location come last
    known = np.isfinite(lon) & np.isfinite(lat)
    if known.any():
        centres = gpd.GeoSeries.from_xy(lon[known], lat[known])
        ranks[known] = centres.hilbert_distance(total_bounds=WORLD, level=HILBERT_LEVEL).to_numpy()
    return ranks


def spatial_table(columns: Mapping[str, np.ndarray[Any, Any]], outlines: np.ndarray[Any, Any]) -> pa.Table:
    """Table of some tiles: row, id, time, split, and the given outlines (n,) with their boxes."""
    import pyarrow as pa
    import shapely

    return pa.table(
        {
            "row": pa.array(columns["row"]),
            "id": id_texts(columns["tile_id"]),
            TIME_COLUMN: pa.array(as_datetime64_ms(columns["time"]), type=pa.timestamp("ms", tz="UTC")),
            "split": pa.array(columns["split"]),
            "geometry": pa.array(shapely.to_wkb(outlines), type=pa.binary()),
            "bbox": box_column(outline_boxes(outlines)),
        }
    )
