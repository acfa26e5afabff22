"""Polygons of a class map: one per connected region, however large the map.

The map is traced in strips of rows. A region that touches the border between two strips stays open until a strip does not
continue it, and its parts are then joined; all others are written with their strip. Only one strip and the open regions are
in memory. Coordinates are integer pixels until a region is finished, so that joining is exact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import staged_file
from mmearth_model.geoparquet import ROW_GROUP, categories, describe_geometries, geometry_columns
from mmearth_model.maps.class_map import ClassMap, unnamed
from mmearth_model.maps.ground_area import polygon_areas_m2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from mmearth_model.heads.network import Output

    Regions = tuple[NDArray[Any], NDArray[np.intp]]

NONE = -1
"""Pixel that is in no region."""
TRACED_PX = 2**20
"""Pixels that are traced together; in noise, every fourth pixel has a polygon."""


def write_polygons(
    path: str | Path, out: str | Path, *, report: Callable[[int, int], None] | None = None, rows: int = 0
) -> int:
    """Write the regions of a class map as polygons: GeoParquet 1.1 in the map's CRS.

    A region is a set of pixels of one class that are connected by their sides. Columns: ``class`` (code), ``name``,
    ``colour``, ``area_m2`` (see `mmearth_model.maps.ground_area`), ``geometry`` and ``bbox``. Pixels without a class are
    left out.

    Parameters
    ----------
    path
        The map.
    out
        GeoParquet file.
    report
        Called with the number of finished rows, and their total.
    rows
        Rows of pixels that are traced together; 0 uses as many as `TRACED_PX` allows. It does not change the polygons.

    Returns
    -------
    int
        Number of polygons.

    Raises
    ------
    FileInputError
        If the file is not a class map.
    """
    from pyarrow import parquet

    found = ClassMap.open(Path(path))
    legend = {output.code: output for output in found.classes}
    count = 0
    with staged_file(out) as beside, parquet.ParquetWriter(beside, _schema(found)) as writer:
        for polygons, codes in _batches(_regions(found, rows, report)):
            writer.write_table(_table(found, legend, polygons, codes))
            count += len(codes)
    return count


def _schema(found: ClassMap) -> pa.Schema:
    empty = _table(found, {}, np.empty(0, dtype=object), np.empty(0, dtype=np.intp))
    geo = describe_geometries(["Polygon"], found.crs.to_json_dict())
    return empty.schema.with_metadata({"geo": json.dumps(geo)})


def _table(
    found: ClassMap, legend: dict[int | None, Output], polygons: NDArray[Any], codes: NDArray[np.intp]
) -> pa.Table:
    import pyarrow as pa
    import shapely

    kinds, which = np.unique(codes, return_inverse=True)
    labels = [legend.get(code) or unnamed(code) for code in kinds.tolist()]
    names = np.array([label.name for label in labels], dtype=object)
    colours = np.array([label.colour or "" for label in labels], dtype=object)
    a, _, c, _, e, f = found.transform
    placed = shapely.transform(polygons, lambda points: points * (a, e) + (c, f))
    return pa.table(
        {
            "class": pa.array(codes, pa.uint16()),
            "name": categories(names[which]),
            "colour": categories(colours[which]),
            "area_m2": pa.array(polygon_areas_m2(found, placed)),
            **geometry_columns(placed),
        }
    )


def _batches(parts: Iterator[Regions]) -> Iterator[Regions]:
    """Collect regions until there are enough for a row group."""
    held: list[Regions] = []
    for part in parts:
        held.append(part)
        if sum(len(codes) for _, codes in held) >= ROW_GROUP:
            yield _together(held)
            held = []
    if held:
        yield _together(held)


def _together(parts: list[Regions]) -> Regions:
    return np.concatenate([polygons for polygons, _ in parts]), np.concatenate([codes for _, codes in parts])


def _regions(found: ClassMap, rows: int, report: Callable[[int, int], None] | None) -> Iterator[Regions]:
    """Yield finished regions, polygons in pixels with their codes, from north to south."""
    still = _Open(np.full(found.width, NONE, dtype=np.intp))
    for first, codes, seen in found.strips(rows or max(1, TRACED_PX // found.width)):
        strip = _trace(codes, seen, first)
        still, finished = _continue(still, strip)
        yield finished
        if report is not None:
            report(first + len(codes), found.height)
    yield _finish(still.regions)


@dataclass(frozen=True, slots=True)
class _Strip:
    """Traced rows of a map.

    ``polygons`` (P,) in pixels of the map, ``codes`` (P,); ``top`` and ``bottom`` (W,): polygon of each pixel of the first
    and the last row, `NONE` where there is no class.
    """

    polygons: NDArray[Any]
    codes: NDArray[np.intp]
    top: NDArray[np.intp]
    bottom: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Open:
    """Regions that the next strip may continue: ``border`` (W,) has the region of each pixel of the last row."""

    border: NDArray[np.intp]
    regions: list[tuple[int, list[Any]]] = field(default_factory=list)
    """Code and parts of each."""


def _trace(codes: NDArray[Any], seen: NDArray[np.bool_], first: int) -> _Strip:
    import shapely
    from rasterio.features import shapes

    points: list[tuple[float, float]] = []
    ring_ends, polygon_ends, of = [0], [0], []
    for shape, code in shapes(codes, mask=seen, connectivity=4):
        for ring in shape["coordinates"]:
            points += ring
            ring_ends.append(len(points))
        polygon_ends.append(len(ring_ends) - 1)
        of.append(int(code))
    xy = np.add(np.array(points, dtype=np.float64).reshape(-1, 2), (0, first))
    rings, parts = np.array(ring_ends), np.array(polygon_ends)
    owners = np.repeat(np.arange(len(of)), np.diff(rings[parts]))
    return _Strip(
        polygons=shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (rings, parts)),
        codes=np.array(of, dtype=np.intp),
        top=_along(xy, owners, first, codes.shape[1]),
        bottom=_along(xy, owners, first + len(codes), codes.shape[1]),
    )


def _along(xy: NDArray[np.float64], owners: NDArray[np.intp], y: int, width: int) -> NDArray[np.intp]:
    """(width,) owner of each pixel that has an edge on a border of the strip.

    Both ends of an edge of a ring are on the border, and follow each other; the last point of a ring and the first one of
    the next have different owners, or are on the outline and a hole, which do not both reach the border there.
    """
    found = np.full(width, NONE, dtype=np.intp)
    on = xy[:, 1] == y
    starts = np.flatnonzero(on[:-1] & on[1:] & (owners[:-1] == owners[1:]))
    sides = np.sort(np.stack([xy[starts, 0], xy[starts + 1, 0]], axis=1).astype(np.intp), axis=1)
    for (west, east), owner in zip(sides, owners[starts], strict=True):
        found[west:east] = owner
    return found


def _continue(still: _Open, strip: _Strip) -> tuple[_Open, Regions]:
    """Join the parts of a strip with the open regions; return what is open now, and what is finished."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    before, parts, last = len(still.regions), len(strip.codes), strip.bottom != NONE
    codes = np.concatenate([np.array([code for code, _ in still.regions], dtype=np.intp), strip.codes])
    both = np.flatnonzero((still.border != NONE) & (strip.top != NONE))
    pairs = np.stack([still.border[both], before + strip.top[both]])
    pairs = np.unique(pairs[:, codes[pairs[0]] == codes[pairs[1]]], axis=1)
    links = coo_array((np.ones(pairs.shape[1]), pairs), shape=(before + parts,) * 2)
    _, component = connected_components(links, directed=False)
    reaches = np.zeros(before + parts, dtype=bool)
    reaches[component[before + np.unique(strip.bottom[last])]] = True  # by component: it has a part in the last row
    alone = (np.bincount(component, minlength=before + parts) == 1) & ~reaches
    ready = alone[component[before:]]
    groups: dict[int, tuple[int, list[Any]]] = {}
    for node in (*range(before), *(before + np.flatnonzero(~ready)).tolist()):
        group = groups.setdefault(int(component[node]), (int(codes[node]), []))
        group[1].extend(still.regions[node][1] if node < before else [strip.polygons[node - before]])
    opened = [label for label in groups if reaches[label]]
    number = np.full(before + parts, NONE, dtype=np.intp)
    number[opened] = np.arange(len(opened))
    border = np.full_like(strip.bottom, NONE)
    border[last] = number[component[before + strip.bottom[last]]]
    joined, of = _finish([group for label, group in groups.items() if not reaches[label]])
    finished = (np.concatenate([strip.polygons[ready], joined]), np.concatenate([strip.codes[ready], of]))
    return _Open(border, [groups[label] for label in opened]), finished


def _finish(regions: list[tuple[int, list[Any]]]) -> Regions:
    """Join the parts of each region to one polygon."""
    polygons = np.empty(len(regions), dtype=object)
    for number, (_, parts) in enumerate(regions):
        polygons[number] = parts[0] if len(parts) == 1 else _join(parts)
    return polygons, np.array([code for code, _ in regions], dtype=np.intp)


def _join(parts: list[Any]) -> Any:  # noqa: ANN401 - a shapely polygon
    """Union without the points on straight edges that the borders of strips leave."""
    import shapely

    return shapely.simplify(shapely.normalize(shapely.union_all(parts)), 0)
