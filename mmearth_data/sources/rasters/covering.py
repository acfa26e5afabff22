"""Find the files that the tiles of a cover overlap; their grids may differ."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.catalog.tile import WGS84, transformer
from mmearth_data.geography.regions import frame_region
from mmearth_data.geography.zones import ZonePart, zone_parts
from mmearth_data.sources.rasters.meeting import area_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.sources.rasters.sites import Site

EDGE_POINTS = 4
"""Parts into which a tile's edges are divided before they are projected; the error is below a centimetre per kilometre."""


def _outline(site: Site) -> shapely.Polygon:
    return shapely.box(*area_of(site, 1).bounds)


def area_of_sites(sites: Sequence[Site]) -> tuple[ZonePart, ...]:
    """Area of the base files: in their CRS if all of them are in one UTM zone, otherwise divided among the UTM zones."""
    import geopandas as gpd

    outlines: dict[int, list[shapely.Polygon]] = defaultdict(list)
    for site in sites:
        outlines[area_of(site, 1).epsg].append(_outline(site))
    (epsg, own), *others = outlines.items()
    if not others and 32600 < epsg < 32800:
        return (ZonePart(epsg, shapely.union_all(own)),)
    degrees = [frame_region(gpd.GeoSeries(shapes, crs=epsg)) for epsg, shapes in outlines.items()]
    return zone_parts(shapely.union_all([region.geometry for region in degrees if region is not None]))


class SitesBelow:
    """Finds the sites whose base files overlap a tile."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._outlines: dict[int, tuple[list[int], shapely.STRtree]] = {}
        numbers = defaultdict(list)
        for number, site in enumerate(sites):
            numbers[area_of(site, 1).epsg].append(number)
        for epsg, group in numbers.items():
            self._outlines[epsg] = group, shapely.STRtree([_outline(sites[number]) for number in group])

    def __call__(self, grid: TileGrid) -> list[int]:
        """Numbers of the sites that overlap a tile, by decreasing overlap; ties are in the order of sites."""
        shares: dict[int, float] = {}
        for epsg, (numbers, tree) in self._outlines.items():
            tile = _in_crs(grid, epsg)
            if tile is not None:
                found = tree.query(tile, predicate="intersects")
                areas = shapely.area(shapely.intersection(tree.geometries[found], tile)) / tile.area
                shares |= {
                    numbers[at]: round(share, 6) for at, share in zip(found.tolist(), areas.tolist(), strict=True)
                }
        return sorted(
            (number for number, share in shares.items() if share), key=lambda number: (-shares[number], number)
        )


def _in_crs(grid: TileGrid, epsg: int) -> shapely.Polygon | None:
    """Outline of a tile in another CRS; None if it is outside the CRS's domain."""
    edges = shapely.box(*grid.bounds)
    if epsg == grid.epsg:
        return edges
    x, y = shapely.get_coordinates(shapely.segmentize(edges, edges.length / 4 / EDGE_POINTS)).T
    lon, lat = transformer(grid.epsg, WGS84).transform(x, y)
    points = np.column_stack(transformer(WGS84, epsg).transform(lon, lat))
    return shapely.Polygon(points) if np.isfinite(points).all() else None
