"""Small worlds to sample in, and measurements on samples that use none of the sampler's own code."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import Transformer

from mmearth_data.catalog.entries import eco_regions
from mmearth_data.geography.ecoregions import make_ecoregions
from mmearth_data.geography.regions import Region
from mmearth_data.sampling import Sample, SamplingOptions, sample

if TYPE_CHECKING:
    import geopandas as gpd

GLOBAL = Region("global", None)


def one_per_biome() -> list[int]:
    """An ecoregion of each of the 14 biomes."""
    first: dict[int, int] = {}
    for region in eco_regions():
        first.setdefault(region.biome, region.id)
    return [first[biome] for biome in sorted(first)]


def of_biome(biome: int) -> list[int]:
    """All ecoregions of a biome."""
    return [region.id for region in eco_regions() if region.biome == biome]


def world(*polygons: shapely.Geometry, codes: list[int] | None = None) -> gpd.GeoDataFrame:
    """Ecoregions of the given polygons; by default each is of another biome."""
    codes = one_per_biome()[: len(polygons)] if codes is None else codes
    return make_ecoregions(np.array(codes), np.array(polygons, dtype=object))


def draw(ecoregions: gpd.GeoDataFrame, tiles: int, region: Region = GLOBAL, **options: Any) -> Sample:
    """Sample with other defaults than the product's: no reserves."""
    return sample(ecoregions, region, SamplingOptions(tiles=tiles, **{"oversample": 1.0, **options}))


@lru_cache
def _between(source: int, target: int) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def utm_zones(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """EPSG code of the UTM zone of each point, with the wide zones of the military grid (DMA TM8358.1, 3-1)."""
    zone = np.minimum((lon + 180) // 6 + 1, 60).astype(int)
    zone[(lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12)] = 32
    svalbard = (lat >= 72) & (lon >= 0) & (lon < 42)
    zone[svalbard] = np.array([31, 33, 35, 37])[np.digitize(lon[svalbard], [9, 21, 33])]
    return np.where(lat >= 0, 32600, 32700) + zone


def squares(lon: np.ndarray, lat: np.ndarray, size_px: int, overhang_m: float) -> tuple[np.ndarray, ...]:
    """Every square that a tile may get: (position of the point, EPSG code, bounds in that CRS).

    A tile takes the zone of its scene: its own, or one that begins within the overhang. The square is laid on the
    10 m grid as DESIGN 4 has it.
    """
    degrees = overhang_m / (111_320 * np.cos(np.deg2rad(lat)))
    shifts = np.linspace(-1, 1, 9) if overhang_m else np.zeros(1)
    options = np.stack([utm_zones((lon + s * degrees + 180) % 360 - 180, lat) for s in shifts], axis=1)
    owner, epsg = np.unique(np.column_stack([np.repeat(np.arange(len(lon)), len(shifts)), options.ravel()]), axis=0).T
    bounds = np.empty((len(owner), 4))
    for code in np.unique(epsg):
        here = epsg == code
        x, y = _between(4326, int(code)).transform(lon[owner[here]], lat[owner[here]])
        west, north = (10 * np.floor((v + sign * 5 * size_px) / 10 + 0.5) for v, sign in ((x, -1), (y, 1)))
        bounds[here] = np.column_stack([west, north - 10 * size_px, west + 10 * size_px, north])
    return owner, epsg, bounds


def overlapping_pairs(lon: np.ndarray, lat: np.ndarray, size_px: int, overhang_m: float = 0.0) -> list[tuple[int, int]]:
    """Pairs of tiles whose real UTM squares intersect, in any of the zones that their scenes may have.

    Near pairs are found through an index in degrees (twice, so that the antimeridian is no edge) and compared with
    shapely in the CRS of the first of the two.
    """
    owner, epsg, bounds = squares(lon, lat, size_px, overhang_m)
    corners = shapely.get_coordinates(shapely.box(*bounds.T)).reshape(-1, 5, 2)
    degrees = np.empty_like(corners)
    for code in np.unique(epsg):
        here = epsg == code
        xy = corners[here].reshape(-1, 2)
        degrees[here] = np.column_stack(_between(int(code), 4326).transform(xy[:, 0], xy[:, 1])).reshape(-1, 5, 2)
    near = np.concatenate([_near(degrees, owner, 0.0), _near(degrees, owner, 180.0)])
    a, b = np.unique(near, axis=0).T
    found = set()
    for first, second in {(int(i), int(j)) for i, j in zip(epsg[a], epsg[b], strict=True)}:
        here = (epsg[a] == first) & (epsg[b] == second)
        xy = corners[b[here]].reshape(-1, 2)
        there = np.column_stack(_between(second, first).transform(xy[:, 0], xy[:, 1])).reshape(-1, 5, 2)
        shared = shapely.area(shapely.intersection(shapely.polygons(corners[a[here]]), shapely.polygons(there)))
        hits = np.flatnonzero(shared > 1e-6)
        found |= set(zip(owner[a[here]][hits].tolist(), owner[b[here]][hits].tolist(), strict=True))
    return sorted(found)


def _near(degrees: np.ndarray, owner: np.ndarray, turn: float) -> np.ndarray:
    """Pairs of squares of different tiles whose boxes in degrees meet."""
    lon = (degrees[:, :, 0] - turn + 180) % 360 - 180
    boxes = np.array(shapely.box(lon.min(1), degrees[:, :, 1].min(1), lon.max(1), degrees[:, :, 1].max(1)))
    whole = np.flatnonzero(np.ptp(lon, axis=1) < 180)
    first, second = shapely.STRtree(boxes[whole]).query(boxes[whole])
    pairs = whole[np.column_stack([first, second])]
    return pairs[owner[pairs[:, 0]] < owner[pairs[:, 1]]]


def cells_of(lon: np.ndarray, lat: np.ndarray, width_m: float) -> np.ndarray:
    """Number of the square of the equal-area plane (EPSG:6933) that contains a point, from 180 W and the south pole."""
    x, y = _between(4326, 6933).transform(lon, lat)
    west, south = _between(4326, 6933).transform(-180, -90)
    return np.floor((x - west) / width_m).astype(np.int64) * 10**7 + np.floor((y - south) / width_m).astype(np.int64)


def bounds_of_cells(cell: np.ndarray, width_m: float) -> np.ndarray:
    """West, south, east, north of such squares in degrees, (cell, 4)."""
    west, south = _between(4326, 6933).transform(-180, -90)
    x, y = west + cell // 10**7 * width_m, south + cell % 10**7 * width_m
    low = _between(6933, 4326).transform(x, y)
    high = _between(6933, 4326).transform(np.minimum(x + width_m, -west), y + width_m)
    return np.column_stack([*low, *high])


def pairs_within(lon: np.ndarray, lat: np.ndarray, metres: float) -> list[tuple[int, int]]:
    """Pairs closer than a geodesic distance, all against all."""
    from pyproj import Geod

    pairs = np.array(list(itertools.combinations(range(len(lon)), 2)))
    a, b = pairs[:, 0], pairs[:, 1]
    distance = Geod(ellps="WGS84").inv(lon[a], lat[a], lon[b], lat[b])[2]
    return [(int(i), int(j)) for i, j in pairs[distance < metres]]
