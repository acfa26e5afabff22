"""Locations on the synthetic planet, for its tests."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import Modality
from mmearth_data.catalog.tile import Place, round_lonlat, tile_ids
from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.synthetic import SyntheticSource

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOG = load_catalog()
READABLE = tuple(m for m in CATALOG.select() if m.stored and (m.kind.is_raster or m.kind.is_continuous))
RASTERS = tuple(m for m in READABLE if m.kind.is_raster)
S2 = CATALOG.modalities["sentinel2"]


@lru_cache(maxsize=8)
def source(seed: int = 0, **options: Any) -> SyntheticSource:
    """Source that the tests of one process share."""
    return SyntheticSource(seed, **options)


def place(lon: float, lat: float, size_px: int = 64) -> Place:
    """Place of a point."""
    lon, lat = (float(round_lonlat(degree)) for degree in (lon, lat))
    return Place(tile_id=int(tile_ids([lon], [lat], size_px)[0]), lon=lon, lat=lat, size_px=size_px)


def surveyed(lon: float, lat: float, size_px: int = 64, of: SyntheticSource | None = None) -> Survey:
    """Survey of a location that has a scene."""
    answer = (of or source()).survey([place(lon, lat, size_px)])[0]
    assert isinstance(answer, Survey), answer
    return answer


class Tile(NamedTuple):
    """One tile of a sample."""

    survey: Survey
    biome: int
    month: int
    arrays: dict[str, np.ndarray[Any, Any]]

    def band(self, name: str) -> np.ndarray[Any, Any]:
        """Reflectance x 10,000."""
        return self.arrays["sentinel2"][S2.bands.index(name)].astype(np.float64)

    @property
    def ndvi(self) -> np.ndarray[Any, Any]:
        """Greenness of each pixel."""
        red, nir = self.band("B4"), self.band("B8")
        return (nir - red) / (nir + red)

    @property
    def clear(self) -> np.ndarray[Any, Any]:
        """Pixels without clouds."""
        return self.arrays["sentinel2_cloudmask"][0] == 0

    @property
    def warm_season(self) -> bool:
        """May to September north of the equator, November to March south of it."""
        return (5 <= self.month <= 9) == (self.survey.place.lat > 0)


@lru_cache(maxsize=1)
def sample(per_biome: int = 20) -> tuple[Tile, ...]:
    """Tiles of 64 px, as many of each biome, uniform over the biome's ecoregions by area."""
    return tuple(_sample(per_biome))


def _sample(per_biome: int) -> Iterator[Tile]:
    regions = source().ecoregions()
    rng = np.random.default_rng(11)
    for biome, group in regions.groupby("biome"):
        share = group.area_km2.to_numpy() / group.area_km2.sum()
        found = 0
        while found < per_biome:
            polygon = group.geometry.iloc[int(rng.choice(len(group), p=share))]
            tile = _tile_in(polygon, int(biome), rng)
            if tile is not None:
                found += 1
                yield tile


def _tile_in(polygon: shapely.Geometry, biome: int, rng: np.random.Generator) -> Tile | None:
    west, south, east, north = polygon.bounds
    for _ in range(200):
        lon, lat = rng.uniform(west, east), rng.uniform(south, north)
        if not -79 < lat < 83 or not shapely.contains_xy(polygon, lon, lat):
            continue
        answer = source().survey([place(lon, lat)])[0]
        if isinstance(answer, Rejection):
            return None
        month = int(str(np.datetime64(answer.time_ms, "ms"))[5:7])
        try:
            return Tile(answer, biome, month, source().read(answer, READABLE))
        except TileUnavailable:
            return None
    return None


def modality(name: str) -> Modality:
    """Entry of the catalog."""
    return CATALOG.modalities[name]
