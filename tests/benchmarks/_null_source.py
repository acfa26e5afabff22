"""A source that costs next to nothing, so that what is measured is the engine: every tile at once, of ready-made pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.building.plan import BuildPlan, plan_given
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import Modality
from mmearth_data.catalog.tile import (
    LEVEL_L1C,
    LEVEL_L2A,
    PIXEL_M,
    WGS84,
    Place,
    TileGrid,
    tile_ids,
    transformer,
    utm_epsg,
)
from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.store.schema import StoreLayout, default_tiles_per_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

PATCHES = 61
"""Ready-made tiles of each modality; a tile's id says which one it gets."""
REFUSED = 23
"""One in this many locations has no scene, so that reserves and ``rejected.parquet`` are part of the build."""
FALSE_NORTHING_M = 10_000_000
"""What UTM adds south of the equator."""
FIRST_MS, LAST_MS = 1_483_228_800_000, 1_609_459_200_000
"""2017 to 2020."""


def patch(m: Modality, number: int, size_px: int, *, noise: bool = True) -> np.ndarray[Any, Any]:
    """Values of one ready-made tile, within the range of the catalog: with noise, or a slope, which costs little."""
    rng = np.random.default_rng([number, m.order])
    shape = m.array_shape(size_px)
    if m.classes and not noise:
        return np.full(shape, m.classes[number % len(m.classes)].code, dtype=m.dtype)
    if m.classes:
        return rng.choice(np.array([label.code for label in m.classes], dtype=m.dtype), shape)
    values = np.empty(shape, dtype=m.dtype)
    for position, band in enumerate(m.bands):
        low, high = m.histogram_range_of(band) or (0.0, 100.0)
        centre = low + (high - low) * rng.uniform(0.3, 0.5)
        if noise or not m.kind.is_raster:
            drawn = rng.normal(centre, (high - low) / 30, shape[1:])
        else:
            drawn = np.broadcast_to(np.linspace(centre, centre + (high - low) / 10, size_px), shape[1:])
        values[position] = drawn.clip(low, high)
    return values


def plan_in_rows(tiles: int, size_px: int, tiles_per_shard: int | None = None) -> BuildPlan:
    """Plan of all modalities without sampling: rows of tiles that do not touch, a random split, no reserves."""
    modalities = load_catalog().select(None)
    per_shard = tiles_per_shard or default_tiles_per_shard(tiles)
    layout = StoreLayout(modalities=modalities, tiles=tiles, size_px=size_px, tiles_per_shard=per_shard)
    column, row = np.arange(tiles) % 4000, np.arange(tiles) // 4000
    lon, lat = np.round(-179 + 0.0895 * column, 6), np.round(-60 + 0.1 * row, 6)
    ids = tile_ids(lon, lat, size_px)
    places = [
        Place(tile_id=i, lon=x, lat=y, size_px=size_px, biome=k % 14, eco_region=k % 846)
        for k, (i, x, y) in enumerate(zip(ids.tolist(), lon.tolist(), lat.tolist(), strict=True))
    ]
    return plan_given(places, (90, 5, 5), 0, layout)


@dataclass
class NullSource:
    """Answers at once. Its pixels are ``none`` at all, or those of a few ready-made tiles: ``noise`` or ``slope``."""

    size_px: int
    pixels: str = "noise"
    name: str = "null"
    synthetic: bool = True
    _tiles: dict[int, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict, init=False, repr=False)

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "pixels": self.pixels}

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        return tuple(wanted)

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        return [
            Rejection(place=place, reason="no_scene", detail="no Sentinel-2 scene in 2017-2020 below 10 % clouds")
            if place.tile_id // 128 % REFUSED == 0
            else _answer(place, grid)
            for place, grid in zip(places, _grids(places), strict=True)
        ]

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        number = survey.place.tile_id // 128
        if number % REFUSED == 1:
            raise TileUnavailable("sentinel2_nodata", "3.1 % of the 10 m pixels are masked")
        return self._tile(tuple(modalities), number % PATCHES)

    def _tile(self, modalities: tuple[Modality, ...], number: int) -> dict[str, np.ndarray[Any, Any]]:
        if number not in self._tiles:
            kept = [m for m in modalities if self.pixels != "none" or not m.kind.is_raster]
            noise = self.pixels == "noise"
            self._tiles[number] = {m.name: patch(m, number, self.size_px, noise=noise) for m in kept}
        return self._tiles[number]


def _grids(places: Sequence[Place]) -> list[TileGrid]:
    """Grids of many locations. UTM zones differ only in their central meridian, so that one projection serves all."""
    size_px = places[0].size_px
    zones = [utm_epsg(place.lon, place.lat) for place in places]
    south, zone = np.array(zones) // 100 % 10 == 7, np.array(zones) % 100
    lonlat = np.array([(place.lon, place.lat) for place in places])
    # Zone 31, whose central meridian is 3 degrees east; a location one degree outside its zone stays so.
    x, y = transformer(WGS84, utm_epsg(3, 0)).transform(
        (lonlat[:, 0] - (6 * zone - 186) + 180) % 360 - 180, lonlat[:, 1]
    )
    half = PIXEL_M * size_px / 2
    ulx, uly = (
        PIXEL_M * np.floor(v / PIXEL_M + 0.5) for v in (x - half, y + half + np.where(south, FALSE_NORTHING_M, 0))
    )
    return [
        TileGrid(epsg=epsg, ulx=left, uly=top, size_px=size_px)
        for epsg, left, top in zip(zones, ulx.tolist(), uly.tolist(), strict=True)
    ]


def _answer(place: Place, grid: TileGrid) -> Survey:
    number = place.tile_id // 128
    scene = f"2019{number % 12 + 1:02d}{number % 28 + 1:02d}T103021_{number % 10**15:015d}_T32TMT"
    radar = f"S1A_IW_GRDH_1SDV_2019{number % 12 + 1:02d}{number % 28 + 1:02d}T{number % 10**6:06d}_027183_0310A8_{number % 65536:04X}"
    return Survey(
        place=place,
        grid=grid,
        time_ms=FIRST_MS + number % (LAST_MS - FIRST_MS),
        s2_level=LEVEL_L2A if number % 2 else LEVEL_L1C,
        s1_asc_days=number % 97 / 10 - 5,
        s1_desc_days=number % 89 / 10 - 4,
        facts={
            "sentinel2": scene,
            "cloud_percent": number % 1000 / 100,
            "sentinel1_ascending": radar,
            "sentinel1_descending": radar[::-1],
        },
    )
