"""Tiles over labelled polygons: their locations, the polygons rasterised in each, and their splits.

Polygons of different dates are in different tiles, of the same area. A polygon is rasterised in the tiles of one split
only, so that it is never in both training and test tiles. With block splits, this applies to polygons that touch at
most four tiles; larger ones are in the tiles of all splits that they extend into.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.tile import (
    MAX_LAT,
    MIN_LAT,
    PIXEL_M,
    WGS84,
    TileGrid,
    round_lonlat,
    tile_ids,
    transformer,
    utm_epsg,
)
from mmearth_data.errors import FileInputError, TileUnavailable
from mmearth_data.geography.equal_area import runs
from mmearth_data.geography.pieces import polygons_of
from mmearth_data.geography.zones import zone_parts
from mmearth_data.sampling.covering import RIGHT, TOUCH_M
from mmearth_data.sampling.grouping import (
    components,
    empty_splits,
    footprints,
    groups_of_tiles,
    split_at_random,
    split_by_blocks,
)
from mmearth_data.sampling.lattices import squares_over
from mmearth_data.sampling.options import Sample, SampleReport, sample_frame
from mmearth_data.sampling.places import PlaceColumns, column_of, days_of, given_splits
from mmearth_data.sampling.quotas import split_totals

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

    from mmearth_data.geography.equal_area import Floats, Ints
    from mmearth_data.geography.pieces import Geometries
    from mmearth_data.sampling.covering import Labels
    from mmearth_data.sampling.options import SamplingOptions
    from mmearth_data.sampling.polygons import LabelledPolygons

UNDATED = np.int64(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class PolygonTiles:
    """Tiles over polygons.

    Attributes
    ----------
    polygons
        The polygons.
    epsg, ulx, uly
        (n,) pixel grids of the tiles.
    lon, lat, tile_id
        (n,) their centres in degrees, and their ids, each once: of tiles of one area with different dates, all but the
        first have the id of a point a few micro-degrees away.
    split
        (n,) splits.
    date_ms
        (n,) start of the day, UTC milliseconds since 1970; None if the polygons have no dates.
    polygon, stop
        Positions of the polygons to rasterise, tile by tile, and the end (n,) of those of each tile.
    notes
        Messages for the user.
    """

    polygons: LabelledPolygons
    epsg: Ints
    ulx: Ints
    uly: Ints
    lon: Floats
    lat: Floats
    tile_id: NDArray[np.uint64]
    split: NDArray[np.uint8]
    date_ms: Ints | None
    polygon: Ints
    stop: Ints
    block_m: float | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.epsg)

    def of_tile(self, tile_id: int) -> Ints:
        """Positions of the polygons to rasterise in a tile; none for an unknown id."""
        at = self._position.get(tile_id)
        return self.polygon[:0] if at is None else self.polygon[self.stop[at - 1] if at else 0 : self.stop[at]]

    @cached_property
    def _position(self) -> dict[int, int]:
        return {tile_id: at for at, tile_id in enumerate(self.tile_id.tolist())}


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Polygons in the coordinates of their zones; a wide polygon may be several."""

    geometry: Geometries
    zone: Ints
    polygon: Ints

    def joined(self, more: _Pieces) -> _Pieces:
        pairs = zip(*((one.geometry, one.zone, one.polygon) for one in (self, more)), strict=True)
        return _Pieces(*map(np.concatenate, pairs))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of a piece and a square, both given by their positions."""

    piece: Ints
    polygon: Ints
    square: Ints

    def take(self, index: NDArray[Any]) -> _Pairs:
        return _Pairs(self.piece[index], self.polygon[index], self.square[index])

    def joined(self, more: _Pairs) -> _Pairs:
        return _Pairs(*map(np.append, (self.piece, self.polygon, self.square), (more.piece, more.polygon, more.square)))


@dataclass(frozen=True, eq=False)
class _Squares:
    """Areas of tiles."""

    epsg: Ints
    west: Ints
    north: Ints
    size_px: int

    def __len__(self) -> int:
        return len(self.epsg)

    def grids(self) -> list[TileGrid]:
        columns = (self.epsg.tolist(), self.west.tolist(), self.north.tolist())
        return [
            TileGrid(epsg=epsg, ulx=float(x), uly=float(y), size_px=self.size_px)
            for epsg, x, y in zip(*columns, strict=True)
        ]

    def centres(self) -> tuple[Floats, Floats]:
        half = PIXEL_M * self.size_px / 2
        lonlat = np.empty((len(self), 2))
        for epsg in np.unique(self.epsg).tolist():
            own = self.epsg == epsg
            points = transformer(epsg, WGS84).transform(self.west[own] + half, self.north[own] - half)
            lonlat[own] = np.column_stack(points)
        lon, lat = round_lonlat(lonlat).T
        return lon, lat


def tiles_over(
    polygons: LabelledPolygons, options: SamplingOptions, names: PlaceColumns, *, touched: bool
) -> PolygonTiles:
    """Cover polygons with few tiles that do not overlap within a UTM zone; tiles without a labelled pixel are left out.

    Parameters
    ----------
    polygons
        The polygons.
    options
        Tile size, seed, split method and shares.
    names
        Columns of the splits and dates of the polygons.
    touched
        Whether to label all pixels that a polygon touches, rather than those whose centre is inside.

    Raises
    ------
    FileInputError
        For polygons beyond 84 N or 80 S, columns without splits or dates, and polygons that are all too small.
    """
    size_px = options.size_px
    pieces = _pieces_of(polygons)
    found = squares_over(pieces.geometry, pieces.zone, PIXEL_M * size_px)
    (epsg, west, north), square = _distinct(pieces.zone[found.polygon], found.west, found.north)
    squares = _Squares(epsg, west, north, size_px)
    pairs = _Pairs(found.polygon, pieces.polygon[found.polygon], square)
    pieces, pairs = _across_zones(polygons, squares, pairs, pieces)
    notes = []
    if not touched:
        pairs = pairs.take(_has_centre(pieces, squares, pairs))
        notes += _sentence(polygons, pairs, len(polygons), "contain no pixel centre and are skipped")
    if not len(pairs.piece):
        raise FileInputError(
            polygons.path,
            f"expected polygons that contain the centre of a 10 m pixel, but none of {len(polygons)} does; give --burn touched.",
        )
    split, pairs, block_m, words = _split(polygons, options, names, squares, pairs)
    return _assembled(polygons, options, names.date, squares, pairs, split, block_m, (*notes, *words))


def sample_of_polygons(tiles: PolygonTiles, options: SamplingOptions, labels: Labels | None) -> Sample:
    """Make a sample of tiles over polygons: all primaries, no reserves, with their pixel grids.

    ``labels`` returns the biome and the ecoregion of points; None leaves them unknown.
    """
    order = np.random.default_rng(options.seed).permutation(len(tiles))
    order = order[np.argsort(tiles.split[order], kind="stable")]
    lon, lat = tiles.lon[order], tiles.lat[order]
    biome, eco_region = (np.full(len(order), none) for none in (255, 65535)) if labels is None else labels(lon, lat)
    frame = sample_frame(options.size_px, len(order), lon, lat, biome, eco_region, tiles.split[order])
    frame["epsg"], frame["ulx"], frame["uly"] = (
        tiles.epsg[order],
        tiles.ulx[order].astype(np.float64),
        tiles.uly[order].astype(np.float64),
    )
    if tiles.date_ms is not None:
        frame["date_ms"] = tiles.date_ms[order]
    report = SampleReport.of(
        frame,
        frame["biome"],
        region=tiles.polygons.path.name,
        area_km2=0.0,
        options={key: getattr(options, key) for key in ("size_px", "seed", "split")},
        cell_width_m=tiles.block_m,
        cells={},
        guard_m=0.0,
        notes=list(tiles.notes),
    )
    return Sample(frame, report)


def _pieces_of(polygons: LabelledPolygons) -> _Pieces:
    bounds = shapely.bounds(polygons.geometry)
    narrow = np.flatnonzero(~polygons.wide)
    lon, lat = polygons.lonlat(bounds[narrow][:, [0, 2]].mean(axis=1), bounds[narrow][:, [1, 3]].mean(axis=1))
    zone = _zones(polygons, lon, lat)
    geometry = np.empty(len(narrow), dtype=object)
    for epsg in np.unique(zone).tolist():
        own = zone == epsg
        geometry[own] = polygons.projected(narrow[own], epsg)
    found = _Pieces(geometry, zone, narrow)
    return found if not len(polygons.degrees) else found.joined(_wide_pieces(polygons))


def _zones(polygons: LabelledPolygons, lon: Floats, lat: Floats) -> Ints:
    try:
        return np.array([utm_epsg(*point) for point in zip(lon.tolist(), lat.tolist(), strict=True)], dtype=np.int64)
    except TileUnavailable as refusal:
        problem = f"expected polygons between 80 S and 84 N, where UTM ends: {refusal.detail}; remove the others."
        raise FileInputError(polygons.path, problem) from None


def _wide_pieces(polygons: LabelledPolygons) -> _Pieces:
    """Wide polygons, divided among the zones."""
    found = [(part, at) for at, shape in polygons.degrees.items() for part in zone_parts(shape)]
    parts, of = polygons_of(np.array([part.geometry for part, _ in found], dtype=object))
    return _Pieces(parts, np.array([part.epsg for part, _ in found])[of], np.array([at for _, at in found])[of])


def _across_zones(
    polygons: LabelledPolygons, squares: _Squares, pairs: _Pairs, pieces: _Pieces
) -> tuple[_Pieces, _Pairs]:
    """Add the polygons of neighbouring zones to the squares that extend beyond their own zone."""
    grids = squares.grids()
    shapes = footprints(grids)
    corners = shapely.bounds(shapes).reshape(-1, 2, 2)
    beyond = [
        at
        for at, (west_south, east_north) in enumerate(corners.tolist())
        if {_zone_at(*west_south), _zone_at(*east_north)} != {grids[at].epsg}
    ]
    if not beyond:
        return pieces, pairs
    square, polygon = polygons.touching(shapes[beyond])
    square = np.array(beyond)[square]
    known = np.isin(square * len(polygons) + polygon, pairs.square * len(polygons) + pairs.polygon)
    square, polygon = square[~known], polygon[~known]
    near = [
        polygons.around(np.array([at]), grids[of])[0] for of, at in zip(square.tolist(), polygon.tolist(), strict=True)
    ]
    boxes = [shapely.box(*grids[of].bounds).buffer(-TOUCH_M) for of in square.tolist()]
    hit = np.flatnonzero(shapely.intersects(np.array(near, dtype=object), np.array(boxes, dtype=object)))
    parts, of = polygons_of(np.array(near, dtype=object)[hit])
    more = _Pieces(parts, squares.epsg[square[hit]][of], polygon[hit][of])
    added = _Pairs(len(pieces.polygon) + np.arange(len(parts)), more.polygon, square[hit][of])
    return pieces.joined(more), pairs.joined(added)


def _zone_at(lon: float, lat: float) -> int:
    return utm_epsg((lon + 180) % 360 - 180, min(max(lat, MIN_LAT), MAX_LAT))


def _has_centre(pieces: _Pieces, squares: _Squares, pairs: _Pairs) -> NDArray[np.bool_]:
    """Whether each pair has a pixel whose centre is in the polygon.

    The pixels at the middle of the common box, and at a point inside the common area, are tried first: they decide nearly
    all pairs.
    """
    side = PIXEL_M * squares.size_px
    corner = np.stack([squares.west, squares.north - side], axis=1)[pairs.square].astype(np.float64)
    bounds = shapely.bounds(pieces.geometry)[pairs.piece]
    low, high = np.maximum(bounds[:, :2], corner), np.minimum(bounds[:, 2:], corner + side)
    shapely.prepare(pieces.geometry)
    found = _contains_nearest(pieces, pairs.piece, (low + high) / 2, corner)
    left = np.flatnonzero(~found)
    areas = shapely.box(*low[left].T, *high[left].T)
    inside = shapely.point_on_surface(shapely.intersection(pieces.geometry[pairs.piece[left]], areas))
    there = ~shapely.is_empty(inside)
    points = np.stack([shapely.get_x(inside), shapely.get_y(inside)], axis=1)
    found[left[there]] = _contains_nearest(pieces, pairs.piece[left[there]], points[there], corner[left[there]])
    for at in np.flatnonzero(~found):
        found[at] = _contains_any(pieces.geometry[pairs.piece[at]], low[at], high[at], corner[at])
    return found


def _contains_nearest(pieces: _Pieces, piece: Ints, points: Floats, corner: Floats) -> NDArray[np.bool_]:
    """Whether pieces contain the centre of the pixel around a point."""
    x, y = (corner + PIXEL_M * (np.floor((points - corner) / PIXEL_M) + 0.5)).T
    return np.asarray(shapely.contains_xy(pieces.geometry[piece], x, y), dtype=bool)


def _contains_any(geometry: shapely.Geometry, low: Floats, high: Floats, corner: Floats) -> bool:
    """Whether a piece contains any centre of a pixel within a box."""
    first = np.ceil((low - corner) / PIXEL_M - 0.5).astype(np.int64)
    last = np.floor((high - corner) / PIXEL_M - 0.5).astype(np.int64)
    x, y = (
        corner[axis] + PIXEL_M * (np.arange(first[axis], last[axis] + 1, dtype=np.float64) + 0.5) for axis in (0, 1)
    )
    return bool(shapely.contains_xy(geometry, *np.meshgrid(x, y)).any())


def _split(
    polygons: LabelledPolygons, options: SamplingOptions, names: PlaceColumns, squares: _Squares, pairs: _Pairs
) -> tuple[NDArray[np.uint8], _Pairs, float | None, list[str]]:
    """Split of each square, the pairs to rasterise, the width of blocks, and messages."""
    groups = groups_of_tiles(squares.grids())
    name = names.split_in(polygons.table)
    if name is not None:
        column = column_of(polygons.path, polygons.table, name, "--split-column")
        names.refuse_second_split(polygons.path, name)
        own = _of_used(polygons, column, lambda used: given_splits(polygons.path, used))[polygons.row]
        last = np.zeros(int(groups.max()) + 1, np.uint8)
        np.maximum.at(last, groups[pairs.square], own[pairs.polygon])
        split, kept = last[groups], last[groups][pairs.square] == own[pairs.polygon]
        text = "are in tiles with polygons of a later split (train, val, test) and are not rasterised there"
        return split, pairs.take(kept), None, _sentence(polygons, pairs.take(~kept), None, text)
    if options.split == "random":
        groups = _joined(groups, pairs)
        order = np.random.default_rng(options.seed).permutation(len(squares))
        split = split_at_random(order, groups, split_totals(len(squares), options.split_shares))
        return split, pairs, None, empty_splits(split, options.split_shares, groups)
    split, width = split_by_blocks(*squares.centres(), groups, options.split_shares, options.seed)
    kept = _kept_whole(polygons, squares, pairs, split)
    words = _sentence(
        polygons,
        pairs.take(~kept),
        None,
        "extend into tiles of several splits and are rasterised in those of one split only",
    )
    return split, pairs.take(kept), width, words + empty_splits(split, options.split_shares, groups)


def _joined(groups: Ints, pairs: _Pairs) -> Ints:
    """Group squares so that those of one polygon are together."""
    order = np.lexsort((pairs.square, pairs.polygon))
    same = pairs.polygon[order][:-1] == pairs.polygon[order][1:]
    left, right = groups[pairs.square[order][:-1][same]], groups[pairs.square[order][1:][same]]
    joined = components(int(groups.max()) + 1, np.concatenate([left, right]), np.concatenate([right, left]))
    return joined[groups]


def _kept_whole(
    polygons: LabelledPolygons, squares: _Squares, pairs: _Pairs, split: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Whether to rasterise the polygon of each pair in the square.

    A polygon that touches at most four squares is rasterised only in those of the split with most of it, judged by the
    number of squares; in a tie, in those of the later split.
    """
    counts = np.zeros((len(polygons), 3), np.int64)
    np.add.at(counts, (pairs.polygon, split[pairs.square]), 1)
    own = 2 - counts[:, ::-1].argmax(axis=1)
    small = counts.sum(axis=1) <= 4
    return np.asarray(~small[pairs.polygon] | (split[pairs.square] == own[pairs.polygon]))


def _assembled(
    polygons: LabelledPolygons,
    options: SamplingOptions,
    date: str | None,
    squares: _Squares,
    pairs: _Pairs,
    split: NDArray[np.uint8],
    block_m: float | None,
    notes: tuple[str, ...],
) -> PolygonTiles:
    """Tiles of the remaining pairs: one for each square and date."""
    days = np.full(len(polygons), UNDATED)
    if date is not None:
        column = column_of(polygons.path, polygons.table, date, "--date-column")
        days = _of_used(polygons, column, lambda used: days_of(polygons.path, used.to_frame(), date))[polygons.row]
    (square, day), tile = _distinct(pairs.square, days[pairs.polygon])
    (tile, burnt), _ = _distinct(tile, pairs.polygon)
    lon, lat = (of_square[square] for of_square in squares.centres())
    lon, ids = _each_once(lon, lat, options.size_px)
    return PolygonTiles(
        polygons=polygons,
        epsg=squares.epsg[square],
        ulx=squares.west[square],
        uly=squares.north[square],
        lon=lon,
        lat=lat,
        tile_id=ids,
        split=split[square],
        date_ms=None if date is None else day,
        polygon=burnt,
        stop=np.cumsum(np.bincount(tile, minlength=len(square))),
        block_m=block_m,
        notes=(*polygons.notes, *notes),
    )


def _distinct(*columns: Ints) -> tuple[tuple[Ints, ...], Ints]:
    """Distinct rows of some columns (n,), sorted, and the position (n,) of each row among them."""
    order = np.lexsort(columns[::-1])
    rows = [column[order] for column in columns]
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.any([row[1:] != row[:-1] for row in rows], axis=0)
    at = np.empty(len(order), dtype=np.int64)
    at[order] = np.cumsum(first) - 1
    return tuple(row[first] for row in rows), at


def _each_once(lon: Floats, lat: Floats, size_px: int) -> tuple[Floats, NDArray[np.uint64]]:
    """Longitudes and ids of tiles, moved to the right (left at 180 degrees) until no id occurs twice."""
    right = np.where(lon > 179, -RIGHT, RIGHT)
    while True:
        ids = tile_ids(lon, lat, size_px)
        order = np.argsort(ids, kind="stable")
        _, counts = np.unique(ids, return_counts=True)
        if counts.max(initial=1) == 1:
            return lon, ids
        nth = np.empty(len(ids), np.int64)
        nth[order] = runs(counts)[1]
        lon = round_lonlat(lon + nth * right)


def _of_used(
    polygons: LabelledPolygons,
    column: pd.Series[Any],
    parse: Callable[[pd.Series[Any]], NDArray[Any]],
) -> NDArray[Any]:
    """Parse a column; rows whose polygons are not used get the value of a row that is used."""
    used = np.zeros(len(column), dtype=bool)
    used[polygons.row] = True
    return parse(column.where(used, column.iloc[int(polygons.row[0])]))


def _sentence(polygons: LabelledPolygons, pairs: _Pairs, among: int | None, text: str) -> list[str]:
    """Note with the number of polygons in these pairs, or of those in none of them; empty if there are none."""
    count = len(np.unique(pairs.polygon))
    count = count if among is None else among - count
    return [f"{polygons.path.name}: {count:,} of {len(polygons):,} polygons {text}."] if count else []
