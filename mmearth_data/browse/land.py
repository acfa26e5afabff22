"""Outlines of the land for the map, at the level of detail of a view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import shapely

from mmearth_data.browse.index import mercator_x, mercator_y
from mmearth_data.resources import resource_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.browse.views import View

WORLD_M = 40_075_017.0
"""Width of the world in Web Mercator."""
FINE_BELOW = 0.4
"""Views narrower than this share of the world have outlines at 1:50 million, others at 1:110 million."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Rings of land, in metres of Web Mercator."""

    xs: list[NDArray[np.float32]]
    ys: list[NDArray[np.float32]]
    bounds: NDArray[np.float64]
    """(rings, 4) west, south, east, north."""


@lru_cache(maxsize=2)
def outlines(name: str) -> Outlines:
    """Outer rings of one of the files of land in the catalog."""
    table = pq.ParquetFile(resource_path("catalog") / "regions" / name).read(columns=["geometry"])
    shapes = shapely.from_wkb(table.column("geometry").to_pylist())  # to_numpy would import pandas
    parts = shapely.get_parts(np.asarray(shapes, dtype=object))
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_exterior_ring(parts)]
    xs = [np.asarray(mercator_x(ring[:, 0]), dtype=np.float32) for ring in rings]
    ys = [np.asarray(mercator_y(ring[:, 1]), dtype=np.float32) for ring in rings]
    bounds = [(x.min(), y.min(), x.max(), y.max()) for x, y in zip(xs, ys, strict=True)]
    return Outlines(xs, ys, np.array(bounds, dtype=np.float64))


def land_in(view: View) -> tuple[str, list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Name of what is shown, and x and y of each ring in a view; the name is equal if the rings are."""
    if view.east - view.west >= FINE_BELOW * WORLD_M:
        world = outlines("land_110m.parquet")
        return "world", world.xs, world.ys
    fine = outlines("land.parquet")
    west, south, east, north = fine.bounds.T
    near = np.flatnonzero((west <= view.east) & (east >= view.west) & (south <= view.north) & (north >= view.south))
    return str(near.tolist()), [fine.xs[k] for k in near], [fine.ys[k] for k in near]
