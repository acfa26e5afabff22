"""The planet's own map of biomes and ecoregions, which follows its climate.

The map consists of half-degree cells. The biome of a cell follows from its climate and height; its ecoregion is one of
the catalog's, of that biome and of the realm that contains the cell.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely

from mmearth_data.catalog.entries import eco_regions
from mmearth_data.geography.ecoregions import keep, read_kept
from mmearth_data.planet.climate import Climate, climate_at
from mmearth_data.planet.land import between_cells, land_polygons
from mmearth_data.planet.noise import NoiseBank, Octaves, chart_of, salt_of, unit_vectors
from mmearth_data.planet.tables import NO_BIOME, biome_traits
from mmearth_data.planet.terrain import COARSE_FIELDS, KM, mean_height
from mmearth_data.resources import cache_folder

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray

    from mmearth_data.planet.land import Land
    from mmearth_data.planet.noise import Float32, Float64

CELLS_PER_DEG = 2
ROWS, COLUMNS = 180 * CELLS_PER_DEG, 360 * CELLS_PER_DEG
CLIMATE_FIELDS = {
    "warm": Octaves((2800 * KM, 1300 * KM, 600 * KM), (1, 0.7, 0.4)),
    "rain": Octaves((2500 * KM, 1200 * KM, 560 * KM, 270 * KM), (1, 0.8, 0.6, 0.4)),
    "season": Octaves((3500 * KM, 1700 * KM), (1, 0.6)),
}
CHOICE_FIELDS = {
    "choice": Octaves((1100 * KM, 500 * KM), (1, 0.7)),
    "swamp": Octaves((650 * KM, 300 * KM), (1, 0.7)),
}
"""Fields that decide between biomes of one climate."""
EDGE_FIELDS = {f"edge_{axis}": Octaves((700 * KM, 330 * KM, 150 * KM), (1, 0.7, 0.5)) for axis in "xyz"}
EDGE_SHIFT = 0.035
"""Displacement of the borders between ecoregions, in radii of the Earth."""
POLYGONS_FORMAT = "1"
"""Changes whenever `Ecology.polygons` makes other polygons of the same cells, since they are cached."""


class Ecology:
    """Biomes, ecoregions and vegetation."""

    def __init__(self, seed: int, land: Land) -> None:
        self.seed = seed
        self.land = land

    @cached_property
    def _centres(self) -> tuple[Float64, Float64]:
        lon = -180 + (np.arange(COLUMNS) + 0.5) / CELLS_PER_DEG
        lat = -90 + (np.arange(ROWS) + 0.5) / CELLS_PER_DEG
        lons, lats = np.meshgrid(lon, lat)
        return lons, lats

    @cached_property
    def _noise(self) -> dict[str, Float32]:
        fields = {**COARSE_FIELDS, **CLIMATE_FIELDS, **CHOICE_FIELDS}
        return NoiseBank(self.seed, fields).sample(chart_of(unit_vectors(*self._centres)))

    @cached_property
    def climate(self) -> Climate:
        """Climate of each cell, at sea level."""
        lon, lat = self._centres
        noise = self._noise
        return climate_at(lat, self.land.inland(lon, lat), noise["warm"], noise["rain"], noise["season"])

    @cached_property
    def biomes(self) -> NDArray[np.int8]:
        """Biome id of each cell, (row from the south, column from the west); `NO_BIOME` on ice. Sea has one too."""
        lon, lat = self._centres
        noise, height = self._noise, mean_height(self._noise, self.land.inland(lon, lat))
        coastal = self.land.coastal_cells(CELLS_PER_DEG)
        return _classify(self.climate, np.abs(lat), height, coastal, noise["choice"], noise["swamp"])

    @cached_property
    def eco_regions(self) -> NDArray[np.int16]:
        """Ecoregion id of each cell that has land and a biome, else -1."""
        lon, lat = self._centres
        noise = NoiseBank(self.seed, EDGE_FIELDS).sample(chart_of(unit_vectors(lon, lat)))
        shift = np.stack(list(noise.values())).astype(np.float64)
        places = unit_vectors(lon, lat) + shift * EDGE_SHIFT
        realms = np.array(REALMS)[_realm_index(lon, lat)]
        out = np.full(lon.shape, -1, np.int16)
        inhabited = self.land.land_cells(CELLS_PER_DEG) & (self.biomes != NO_BIOME)
        for biome in np.unique(self.biomes[inhabited]).tolist():
            for realm in REALMS:
                cells = inhabited & (self.biomes == biome) & (realms == realm)
                if cells.any():
                    out[cells] = _choose(self.seed, biome, realm, places[:, cells])
        return out

    def labels(self, lon: Float64, lat: Float64) -> tuple[NDArray[np.int8], NDArray[np.int16]]:
        """Biome and ecoregion ids of points on land; -1 where there is none."""
        cell = cell_of(lon, lat)
        return self.biomes[cell], self.eco_regions[cell]

    def traits(self, lon: Float64, lat: Float64) -> dict[str, Float32]:
        """Vegetation at points: the columns of ``biomes.csv``, interpolated between the centres of the cells."""
        index, table = biome_traits()
        rank = np.array([index[k] for k in range(NO_BIOME, max(index) + 1)], np.int8)
        i, west, east, s, t = between_cells(lon, lat, CELLS_PER_DEG, (ROWS, COLUMNS))
        corners = (
            (i, west, (1 - s) * (1 - t)),
            (i, east, (1 - s) * t),
            (i + 1, west, s * (1 - t)),
            (i + 1, east, s * t),
        )
        columns = np.stack(list(table.values()))
        blended = np.zeros((len(table), *lon.shape), np.float32)
        for row, column, weight in corners:
            blended += columns.take(rank[self.biomes[row, column] - NO_BIOME], axis=1) * weight
        return dict(zip(table, blended, strict=True))

    def polygons(self) -> gpd.GeoDataFrame:
        """Ecoregions as polygons: their cells, cut along the real coast; cached in the user's cache folder.

        One row per ecoregion: eco_region (int), biome (int), realm, area_km2, geometry; EPSG:4326.
        """
        full = self.land.full_cells(CELLS_PER_DEG)
        content = hashlib.blake2b(
            f"{POLYGONS_FORMAT} {shapely.geos_version} {pyproj.proj_version_str}".encode(), digest_size=16
        )
        for part in (self.eco_regions, full, *shapely.to_wkb(land_polygons())):
            content.update(part)
        path = cache_folder() / "ecoregions" / f"planet-{content.hexdigest()}.parquet"
        frame = read_kept(path)
        if frame is None:
            frame = self._polygons(full)
            keep(frame, path)
        return frame

    def _polygons(self, full: NDArray[np.bool_]) -> gpd.GeoDataFrame:
        import geopandas as gpd

        pieces, ids = _cell_geometries(self.eco_regions, full)
        order = np.argsort(ids, kind="stable")
        found, first = np.unique(ids[order], return_index=True)
        merged = [shapely.union_all(group) for group in np.split(pieces[order], first[1:])]
        known = {region.id: region for region in eco_regions()}
        chosen = [known[int(k)] for k in found]
        columns = {
            "eco_region": [region.id for region in chosen],
            "biome": [region.biome for region in chosen],
            "realm": [region.realm for region in chosen],
        }
        frame = gpd.GeoDataFrame(columns, geometry=merged, crs="EPSG:4326")
        frame.insert(3, "area_km2", frame.geometry.to_crs(6933).area / 1e6)
        return frame


def cell_of(lon: Float64, lat: Float64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row from the south, column from the west) of the cells that contain points."""
    row = np.clip(((lat + 90) * CELLS_PER_DEG).astype(np.int64), 0, ROWS - 1)
    return row, np.floor((lon + 180) * CELLS_PER_DEG).astype(np.int64) % COLUMNS


def _classify(
    climate: Climate, away: Float64, height: Float32, coastal: NDArray[np.bool_], choice: Float32, swamp: Float32
) -> NDArray[np.int8]:
    """Biome of each cell, by the first rule that applies."""
    mean = climate.mean_c - np.float32(0.006) * height
    warmest, coldest = mean + climate.swing_k, mean - climate.swing_k
    wet = climate.wetness(height)
    dry_summer = climate.rain_swing < -0.25
    rules = [
        (warmest < 0.0, NO_BIOME),
        ((coldest > 15.5) & coastal & (wet > 0.55) & (choice > -0.1) & (height < 500), 9),
        ((warmest < 11) & (away < 52), 8),
        (warmest < 10, 0),
        ((height > 1900) & (mean < 14) & (away < 42) & (choice > -0.6), 8),
        (wet < 0.52, 3),
        ((swamp > 1.45) & (height < 420) & (mean > 8), 10),
        (dry_summer & (mean > 9.5) & (wet < 2.2) & (away < 46), 2),
        ((mean < 3.4) & (wet > 0.95), 5),
        ((mean < 16) & (wet < 1.12), 4),
        ((mean < 16) & ((choice > 0.95) | (height > 850)), 6),
        (mean < 16, 7),
        ((height > 700) & (wet > 0.9) & (choice > 0.1), 13),
        ((wet < 1.2) & (choice < 0.8), 11),
        ((wet < 1.75) & (choice > -0.35), 12),
        (wet < 1.45, 11),
    ]
    conditions, biomes = zip(*rules, strict=True)
    found: NDArray[np.int8] = np.select(conditions, biomes, default=1).astype(np.int8)
    return found


REALMS = ("Nearctic", "Neotropic", "Palearctic", "Afrotropic", "Indomalayan", "Australasia", "Oceania", "Antarctica")


def _realm_index(lon: Float64, lat: Float64) -> NDArray[np.int8]:
    """Position in `REALMS` by the location of the realms of the real Earth, roughly."""
    west = lon < -25
    rules = [
        (lat < -58, 7),
        ((lon < -120) & (np.abs(lat) < 30), 6),
        ((lon > 150) & (lat > -1) & (lat < 30), 6),
        ((west & (lat > 22) & (lon > -169)) | ((lon >= -73) & (lon < -11) & (lat > 58)), 0),
        (west & (lon > -169), 1),
        (lat > np.where((lon < 60) | (lon > 150), 20.0, 30.0), 2),
        (lon < -169, 2),
        (lon < 62, 3),
        ((lon > 118) & (lat < np.where(lon < 131, -6.0, 2.0)), 5),
        (lat < -12, 5),
    ]
    conditions, realms = zip(*rules, strict=True)
    found: NDArray[np.int8] = np.select(conditions, realms, default=4).astype(np.int8)
    return found


def _choose(seed: int, biome: int, realm: str, places: Float64) -> NDArray[np.int16]:
    """Divide cells among the catalog's ecoregions: each grows around a centre, large ones farther.

    If the realm has no ecoregion of the biome, those of another realm are used.
    """
    order = (realm, *(other for other in REALMS if other != realm))
    groups = ([e for e in eco_regions() if e.biome == biome and e.realm == name] for name in order)
    group = next(found for found in groups if found)
    group = sorted(group, key=lambda region: -region.area_km2)[: places.shape[1]]
    centre = salt_of(seed, "centre", biome, realm) % places.shape[1]
    gap = np.full(places.shape[1], np.inf)
    best = np.full(places.shape[1], np.inf)
    out = np.zeros(places.shape[1], np.int16)
    for region in group:
        offset = places - places[:, centre : centre + 1]
        square = offset[0] * offset[0] + offset[1] * offset[1] + offset[2] * offset[2]
        reach = square / (1.0 + region.area_km2) ** 0.35
        closer = reach < best
        best[closer], out[closer] = reach[closer], region.id
        gap = np.minimum(gap, square)
        centre = int(np.argmax(gap))
    return out


def _cell_geometries(ids: NDArray[np.int16], full: NDArray[np.bool_]) -> tuple[NDArray[np.object_], NDArray[np.int16]]:
    """Geometries that make up the ecoregions (runs of full cells, cut coastal cells), and their ecoregions."""
    runs, owners = _runs(np.where(full, ids, -1))
    rows, columns = np.nonzero((ids >= 0) & ~full)
    block = 10 * CELLS_PER_DEG
    pieces: list[shapely.Geometry] = []
    for key in np.unique(rows // block * (COLUMNS // block) + columns // block).tolist():
        i0, j0 = (key // (COLUMNS // block)) * block, (key % (COLUMNS // block)) * block
        clipped = _clipped(land_polygons(), _box(i0, j0, block))
        inside = (rows // block * block == i0) & (columns // block * block == j0)
        for i, j in zip(rows[inside].tolist(), columns[inside].tolist(), strict=True):
            cut = [piece for piece in _clipped(clipped, _box(i, j, 1)).tolist() if piece.geom_type.endswith("Polygon")]
            pieces += cut
            owners += [int(ids[i, j])] * len(cut)
    return np.array([*runs, *pieces], dtype=object), np.array(owners, np.int16)


def _box(row: int, column: int, cells: int) -> tuple[float, float, float, float]:
    west, south = -180 + column / CELLS_PER_DEG, -90 + row / CELLS_PER_DEG
    return west, south, west + cells / CELLS_PER_DEG, south + cells / CELLS_PER_DEG


def _clipped(polygons: NDArray[np.object_], box: tuple[float, float, float, float]) -> NDArray[np.object_]:
    bounds = shapely.bounds(polygons)
    west, south, east, north = box
    near = (bounds[:, 0] < east) & (bounds[:, 2] > west) & (bounds[:, 1] < north) & (bounds[:, 3] > south)
    cut = shapely.make_valid(shapely.clip_by_rect(polygons[near], *box))
    parts: NDArray[np.object_] = shapely.get_parts(cut)
    return parts[~shapely.is_empty(parts)]


def _runs(ids: NDArray[np.int16]) -> tuple[list[shapely.Geometry], list[int]]:
    """Boxes around runs of equal cells along the rows."""
    change = np.ones(ids.shape, bool)
    change[:, 1:] = ids[:, 1:] != ids[:, :-1]
    rows, starts = np.nonzero(change)
    ends = np.r_[starts[1:], COLUMNS]
    ends[np.r_[rows[1:] != rows[:-1], True]] = COLUMNS
    kept = ids[rows, starts] >= 0
    west, east = (-180 + edge[kept] / CELLS_PER_DEG for edge in (starts, ends))
    south = -90 + rows[kept] / CELLS_PER_DEG
    boxes = shapely.box(west, south, east, south + 1 / CELLS_PER_DEG)
    return list(boxes), ids[rows, starts][kept].tolist()
