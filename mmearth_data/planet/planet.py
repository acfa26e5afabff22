"""The planet as an archive: its assets by their ids, with scenes and native pixels.

`Planet.products` has all assets. A product lists the images of a box and period, and returns the pixels of a band on
the band's own grid; resampling is up to the caller.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.planet.products import (
    DEM_GRID,
    LAND_COVER_GRID,
    DynamicWorld,
    Era5,
    LandCover,
    Product,
    Sentinel1,
    Sentinel2,
    Static,
    canopy_height,
    canopy_spread,
    dem,
)
from mmearth_data.planet.tables import covers, spectra
from mmearth_data.planet.views import Views
from mmearth_data.planet.world import world

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality

DEFAULT_ERRORS = 0.02
L2A, L1C, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S1_GRD"
DEM = "projects/sat-io/open-datasets/ASTER/GDEM"
CANOPY = "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"
CANOPY_SD = "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1"
DYNAMIC_WORLD, WORLD_COVER = "GOOGLE/DYNAMICWORLD/V1", "ESA/WorldCover/v100"
LULC = "projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m_TS"
ERA5 = "ECMWF/ERA5_LAND/MONTHLY_AGGR"


class Planet:
    """One planet; its seed determines everything but the land."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __reduce__(self) -> tuple[type[Planet], tuple[int]]:
        """Pickle as a seed."""
        return Planet, (self.seed,)

    @cached_property
    def views(self) -> Views:
        """Views computed recently."""
        return Views(world(self.seed))

    @cached_property
    def products(self) -> dict[str, Product]:
        """Asset id -> product."""
        views = self.views
        spectral = tuple(spectra()["resolution"])
        l2a = (*(band for band in spectral if band != "B10"), "QA60", "MSK_CLDPRB", "SCL")
        found: list[Product] = [
            Sentinel2(L2A, l2a, "L2A", views),
            Sentinel2(L1C, (*spectral, "QA60"), "L1C", views),
            Sentinel1(S1, views),
            Static(DEM, "b1", dem, DEM_GRID, views),
            Static(CANOPY, "b1", canopy_height, LAND_COVER_GRID, views),
            Static(CANOPY_SD, "b1", canopy_spread, LAND_COVER_GRID, views),
            Static(WORLD_COVER, "Map", self._land_cover(WORLD_COVER, "esa_worldcover"), LAND_COVER_GRID, views),
            Static(LULC, "b1", self._land_cover(LULC, "io_lulc"), LAND_COVER_GRID, views, (2017, 2023)),
            self._dynamic_world(),
            Era5(ERA5, views),
        ]
        return {product.asset: product for product in found}

    def _dynamic_world(self) -> DynamicWorld:
        codes = cover_codes(_modality_of(DYNAMIC_WORLD), "dynamic_world")
        snow = int(codes[covers().code("ice")])
        return DynamicWorld(DYNAMIC_WORLD, "label", codes, snow, self.views)

    def _land_cover(self, asset: str, column: str) -> LandCover:
        return LandCover(cover_codes(_modality_of(asset), column), column, DEFAULT_ERRORS)

    def labels(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.int16]]:
        """Biome and ecoregion ids of points on land; -1 where there is none."""
        return world(self.seed).ecology.labels(lon, lat)

    def ecoregions(self) -> gpd.GeoDataFrame:
        """Ecoregion polygons (`Ecology.polygons`)."""
        return world(self.seed).ecology.polygons()


@lru_cache(maxsize=4)
def planet(seed: int) -> Planet:
    """Planet of a seed, shared within the process."""
    return Planet(seed)


def _modality_of(asset: str) -> Modality:
    """Catalog entry that describes an asset and the codes of its classes."""
    return next(m for m in load_catalog().modalities.values() if asset in m.asset.values())


def cover_codes(modality: Modality, column: str) -> NDArray[np.uint8]:
    """Code in the asset of the class that each land cover belongs to."""
    stored = {label.name: label.code for label in modality.classes}
    parameters = modality.recipe.get("parameters") or {}
    back = dict(zip(parameters.get("remap_to", ()), parameters.get("remap_from", ()), strict=True))
    names = covers().text[column]
    return np.array([back.get(stored[name], stored[name]) for name in names], np.uint8)
