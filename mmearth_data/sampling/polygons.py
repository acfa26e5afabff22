"""Labelled polygons of a vector file, in the coordinate reference system of the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import WGS84, transformer
from mmearth_data.errors import FileInputError
from mmearth_data.geography.pieces import polygons_of
from mmearth_data.geography.regions import read_vector, repaired, to_degrees
from mmearth_data.sampling.grouping import footprints
from mmearth_data.sampling.places import SHOWN, column_of
from mmearth_data.sampling.spacing import METRES_PER_DEGREE_LAT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import geopandas as gpd
    import pandas as pd
    from numpy.typing import NDArray
    from pyproj import CRS, Transformer
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.geography.equal_area import Floats, Ints
    from mmearth_data.geography.pieces import Geometries

AREAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON, shapely.GeometryType.GEOMETRYCOLLECTION)
SEGMENT_DEG, SEGMENT_M = 0.001, 100.0
"""Maximum length of an edge before it is projected, since straight lines become curves; the error is below 0.2 mm."""
WIDE_M = 50_000.0
"""A polygon wider or higher than this is divided among the UTM zones; others are in the zone of their centre."""
NEAR_DEG = 0.02
"""Margin around a tile outside which wide polygons are cut off, before they are projected."""
WIDEST_DEG = 180.0
"""Maximum width of a polygon; a wider one crosses the antimeridian without being split there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledPolygons:
    """Connected polygons, each with the row of the file that it is from; use `read_labelled_polygons`.

    Attributes
    ----------
    path
        The file.
    crs
        Its coordinate reference system.
    geometry
        (n,) valid polygons in this system, x before y.
    row
        (n,) position in ``table`` of each.
    table
        Columns of the file, without the geometry; its index has the row numbers, from 1.
    notes
        Messages for the user.
    """

    path: Path
    crs: CRS
    geometry: Geometries
    row: Ints
    table: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.geometry)

    def take(self, index: NDArray[Any], notes: Sequence[str] = ()) -> LabelledPolygons:
        """Select polygons by positions or by a mask, and add notes; the table is kept complete."""
        chosen = {"geometry": self.geometry[index], "row": self.row[index]}
        return replace(self, **chosen, notes=(*self.notes, *notes))

    @cached_property
    def wide(self) -> NDArray[np.bool_]:
        """(n,) whether each polygon is wider or higher than `WIDE_M`: too wide for the coordinates of one UTM zone."""
        bounds = shapely.bounds(self.geometry)
        extent = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
        return np.asarray(extent * self._unit_m > WIDE_M)

    @cached_property
    def degrees(self) -> dict[int, BaseGeometry]:
        """Wide polygons in EPSG:4326, cut at 180 degrees, by their positions."""
        import geopandas as gpd

        index = np.flatnonzero(self.wide)
        frame = gpd.GeoDataFrame(geometry=self.geometry[index], crs=self.crs)
        return dict(zip(index.tolist(), to_degrees(frame, self.path), strict=True)) if len(index) else {}

    def lonlat(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Points in the system of the file as degrees, longitudes in -180..180."""
        lon, lat = self._transform(WGS84, np.column_stack([x, y])).T
        return (lon + 180) % 360 - 180, lat

    def projected(self, index: NDArray[Any], epsg: int) -> Geometries:
        """Project some of the polygons, none of them wide, to a UTM zone.

        Long edges are divided first, since straight lines become curves.
        """
        geometry: Geometries = self.geometry[index]
        if self.crs.to_epsg() == epsg:
            return geometry
        step = SEGMENT_DEG if self.crs.is_geographic else SEGMENT_M / self._unit_m
        found: Geometries = shapely.transform(shapely.segmentize(geometry, step), partial(self._transform, epsg))
        return found

    def around(self, index: NDArray[Any], grid: TileGrid) -> Geometries:
        """Project some of the polygons to the zone of a tile; parts that are far from it may be clipped."""
        wide = self.wide[index]
        found = np.empty(len(index), dtype=object)
        found[~wide] = self.projected(index[~wide], grid.epsg)
        found[wide] = [_near(self.degrees[at], grid) for at in index[wide].tolist()]
        return found

    def touching(self, squares: Geometries) -> tuple[Ints, Ints]:
        """(square, polygon) of the pairs whose bounds may overlap; squares are in degrees, longitudes may exceed 180."""
        if self.crs.is_geographic:
            turns = [shapely.transform(squares, partial(np.add, [turn, 0.0])) for turn in (-360.0, 0.0, 360.0)]
        else:
            turns = [shapely.transform(squares, self._from_degrees)]
        tree = shapely.STRtree(self.geometry)
        pairs = [tree.query(shapely.box(*shapely.bounds(shapes).T)) for shapes in turns]
        square, polygon = np.unique(np.concatenate(pairs, axis=1), axis=1)
        return square, polygon

    @property
    def _unit_m(self) -> float:
        factor: float = (
            METRES_PER_DEGREE_LAT if self.crs.is_geographic else self.crs.axis_info[0].unit_conversion_factor
        )
        return factor

    def _transform(self, epsg: int, points: Floats) -> Floats:
        return np.column_stack(_transformer(self.crs.to_wkt(), epsg).transform(points[:, 0], points[:, 1]))

    def _from_degrees(self, points: Floats) -> Floats:
        inverse = _transformer(self.crs.to_wkt(), WGS84)
        return np.column_stack(inverse.transform(points[:, 0], points[:, 1], direction="INVERSE"))


def _near(degrees: BaseGeometry, grid: TileGrid) -> BaseGeometry:
    """Part of a geometry in degrees that is near a tile, in the coordinates of the tile."""
    (square,) = footprints([grid])
    bounds = np.array(square.bounds) + NEAR_DEG * np.array([-1, -1, 1, 1])
    boxes = [shapely.box(*(bounds + np.array([turn, 0, turn, 0]))) for turn in (-360.0, 0.0, 360.0)]
    part = shapely.segmentize(shapely.intersection(degrees, shapely.union_all(boxes)), SEGMENT_DEG)
    to_grid = transformer(WGS84, grid.epsg)
    return shapely.transform(part, lambda points: np.column_stack(to_grid.transform(points[:, 0], points[:, 1])))


@lru_cache(maxsize=128)
def _transformer(wkt: str, epsg: int) -> Transformer:
    from pyproj import Transformer

    return Transformer.from_crs(wkt, epsg, always_xy=True)


def read_labelled_polygons(path: Path, columns: Sequence[str]) -> LabelledPolygons:
    """Read the polygons of a vector file: GeoParquet, or anything that GDAL reads (GeoPackage, GeoJSON, Shapefile, ...).

    Invalid polygons are repaired, multipolygons are divided into connected polygons, and rows without a geometry are left
    out; notes say so. If there are several layers, the one with ``columns`` is read.

    Raises
    ------
    FileInputError
        If the file cannot be read, lacks a column, contains points or lines, has coordinates that are invalid in its
        coordinate reference system, or contains no polygons.
    """
    import pandas as pd

    path = Path(path)
    frame = read_vector(path, partial(_layer_with, path, columns))
    table = frame.drop(columns=frame.geometry.name)
    table.index = pd.RangeIndex(1, len(table) + 1)
    for name in columns:
        column_of(path, table, name, "--label")
    geometry = shapely.force_2d(frame.geometry.to_numpy())
    empty = shapely.is_missing(geometry) | shapely.is_empty(geometry)
    _refuse_other_kinds(path, geometry, empty)
    kept = np.flatnonzero(~empty)
    if not len(kept):
        raise FileInputError(path, f"expected polygons, got {len(frame)} rows without any; add some.")
    crs = _crs_of(path, frame)
    _refuse_coordinates(path, geometry[kept], kept, crs)
    broken = int((~shapely.is_valid(geometry[kept])).sum())
    parts, of = polygons_of(repaired(geometry[kept]))
    _refuse_jumps(path, parts, kept[of], crs)
    counts = {
        "rows have no geometry and are skipped": int(empty.sum()),
        "polygons were invalid and have been repaired": broken,
        "polygons have no area and are skipped": len(kept) - len(np.unique(of)),
    }
    notes = [f"{path.name}: {count:,} of {len(frame):,} {text}." for text, count in counts.items() if count]
    if frame.crs is None:
        notes.append(
            f"{path.name}: no coordinate reference system is defined; coordinates are read as WGS 84 longitude and "
            "latitude, in degrees."
        )
    return LabelledPolygons(path=path, crs=crs, geometry=parts, row=kept[of], table=table, notes=tuple(notes))


def _layer_with(path: Path, columns: Sequence[str], layers: list[str]) -> str:
    """Return the only layer, or the only one that has the columns."""
    import pyogrio  # type: ignore[import-untyped]

    if len(layers) == 1:
        return layers[0]
    fields = {layer: set(pyogrio.read_info(path, layer=layer)["fields"]) for layer in layers}
    having = [layer for layer in layers if set(columns) <= fields[layer]]
    if len(having) != 1:
        found = ", ".join(having or layers) or "none"
        raise FileInputError(
            path,
            f"expected one layer with the column {', '.join(columns)}, got {len(having)} (layers {found}); save the "
            "layer to use to a separate file.",
        )
    return having[0]


def _refuse_other_kinds(path: Path, geometry: Geometries, empty: NDArray[np.bool_]) -> None:
    kinds = shapely.get_type_id(geometry)
    other = np.flatnonzero(~empty & ~np.isin(kinds, AREAL))
    if len(other):
        kind = shapely.GeometryType(int(kinds[other[0]])).name.lower()
        raise FileInputError(
            path,
            f"expected polygons, got other geometries in {len(other)} of {len(geometry)} rows (row {other[0] + 1}: {kind}); "
            "remove them, give points with --tiles-file, or buffer lines to polygons.",
        )


def _crs_of(path: Path, frame: gpd.GeoDataFrame) -> CRS:
    """Coordinate reference system of a file; WGS 84 if it defines none and its coordinates can be degrees."""
    from pyproj import CRS

    if frame.crs is not None:
        two: CRS = CRS(frame.crs).to_2d()
        if not (two.is_geographic or two.is_projected):
            raise FileInputError(
                path,
                f"expected a geographic or projected coordinate reference system, got {two.name}; reproject the file.",
            )
        return two
    west, south, east, north = frame.total_bounds
    if west < -360 or east > 540 or south < -90 or north > 90:
        raise FileInputError(
            path,
            f"expected a coordinate reference system, got none and coordinates {west:g}..{east:g}, {south:g}..{north:g}, "
            "which are not degrees; define one in the file.",
        )
    return CRS(WGS84)


def _refuse_coordinates(path: Path, geometry: Geometries, rows: Ints, crs: CRS) -> None:
    bounds = shapely.bounds(geometry)
    bad: NDArray[np.bool_] = np.asarray(~np.isfinite(bounds).all(axis=1), dtype=bool)
    expected = "finite coordinates"
    if crs.is_geographic and not bad.any():
        west, south, east, north = bounds.T
        expected = "degrees"
        bad = (west < -360) | (east > 540) | (south < -90) | (north > 90)
    _refuse(path, bounds, rows, bad, expected)


def _refuse_jumps(path: Path, parts: Geometries, rows: Ints, crs: CRS) -> None:
    """Refuse polygons that span most of the Earth because they cross the antimeridian without being split there."""
    bounds = shapely.bounds(parts)
    wide: NDArray[np.bool_] = (bounds[:, 2] - bounds[:, 0] > WIDEST_DEG) & bool(crs.is_geographic)
    _refuse(path, bounds, rows, wide, "polygons that are split at 180 degrees or have longitudes beyond it")


def _refuse(path: Path, bounds: Floats, rows: Ints, bad: NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        at = np.flatnonzero(bad)
        shown = "; ".join(f"row {rows[k] + 1}: {', '.join(f'{edge:g}' for edge in bounds[k])}" for k in at[:SHOWN])
        raise FileInputError(path, f"expected {expected}, got {len(at)} others (W, S, E, N of {shown}); correct them.")
