"""``tiles_spatial.parquet``: where the tiles of a store are, in spatial order.

A store's rows are in random order, so that any run of them is a fair sample. Readers of GeoParquet, however, skip row
groups by the bounding boxes in their statistics, which needs neighbours beside each other: hence a small second table.
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
"""Rows per row group: one region is in few of them, and each is one request to a bucket."""
HILBERT_LEVEL = 16
"""Cells of the curve: 2^16 along each axis, 600 m at the equator."""


class Places:
    """Locations of all tiles of a store, collected part by part."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in ("row", "rank", *KEPT)}

    def add(self, rows: np.ndarray[Any, Any], columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Add tiles: their store rows (n,) and coordinates (n,)."""
        for name in KEPT:
            self._parts[name].append(columns[name])
        self._parts["row"].append(rows.astype(np.int64))
        self._parts["rank"].append(_hilbert_ranks(columns["lon"], columns["lat"]))

    def take_ordered(self) -> dict[str, np.ndarray[Any, Any]]:
        """Hand over the columns (n,) along a Hilbert curve over longitude and latitude; in store order within one of its cells."""
        order = np.argsort(np.concatenate(self._parts.pop("rank")), kind="stable")
        return {name: np.concatenate(self._parts.pop(name))[order] for name in list(self._parts)}


def _hilbert_ranks(lon: np.ndarray[Any, Any], lat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import geopandas as gpd

    if not len(lon):
        return np.empty(0, dtype=np.uint32)
    centres = gpd.GeoSeries.from_xy(lon, lat)
    ranks: np.ndarray[Any, Any] = centres.hilbert_distance(total_bounds=WORLD, level=HILBERT_LEVEL).to_numpy()
    return ranks


def spatial_table(columns: Mapping[str, np.ndarray[Any, Any]], outlines: np.ndarray[Any, Any]) -> pa.Table:
    """Table of some tiles: which they are, their time and split, and their outlines (n,)."""
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
