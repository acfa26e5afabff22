"""How fast the synthetic planet delivers tiles, all modalities: survey and pixels, equal numbers of each biome.

Threads share one interpreter, as in `mmearth-data build`; processes do not, as with `--workers`. The baseline reads
one modality at a time and keeps nothing in between; reading all maps of a location together is faster because they
share the same land surface.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import shapely
from _harness import alternate, report, table

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import Place, round_lonlat, tile_ids
from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection
from mmearth_data.sources.synthetic import SyntheticSource

SIZES_PX = {64: 168, 128: 84}
"""Side of a tile -> number of tiles."""
TARGETS = {64: 60.0, 128: 20.0}
"""Tiles a second, two cores."""
WORKERS = 2


@lru_cache(maxsize=1)
def source() -> SyntheticSource:
    """Source of this process."""
    return SyntheticSource(0)


def places(size_px: int, count: int) -> list[Place]:
    """Locations on land, uniform over each biome in turn."""
    regions = source().ecoregions()
    rng = np.random.default_rng(0)
    found: list[Place] = []
    biomes = [group for _, group in regions.groupby("biome")]
    while len(found) < count:
        group = biomes[len(found) % len(biomes)]
        polygon = group.geometry.iloc[int(rng.choice(len(group), p=group.area_km2 / group.area_km2.sum()))]
        west, south, east, north = polygon.bounds
        lon, lat = rng.uniform(west, east, 64), rng.uniform(south, north, 64)
        inside = np.flatnonzero(shapely.contains_xy(polygon, lon, lat) & (lat > -79) & (lat < 83))
        if inside.size:
            x, y = (float(round_lonlat(axis[inside[0]])) for axis in (lon, lat))
            found.append(Place(tile_id=int(tile_ids([x], [y], size_px)[0]), lon=x, lat=y, size_px=size_px))
    return found


MODALITIES = tuple(m for m in load_catalog().select() if m.stored and (m.kind.is_raster or m.kind.is_continuous))


def deliver(place: Place) -> int:
    """Survey and read one tile; 1 if it is available, else 0."""
    answer = source().survey([place])[0]
    if isinstance(answer, Rejection):
        return 0
    try:
        source().read(answer, MODALITIES)
    except TileUnavailable:
        return 0
    return 1


def deliver_piecemeal(place: Place) -> int:
    """The same, each modality by itself, with nothing kept from the one before."""
    answer = source().survey([place])[0]
    if isinstance(answer, Rejection):
        return 0
    try:
        for m in MODALITIES:
            source().planet.views.forget()
            source().read(answer, [m])
    except TileUnavailable:
        return 0
    return 1


def tiles_per_second(pool: Executor, wanted: list[Place]) -> float:
    """Tiles a second through a pool, after a round that fills its caches."""
    list(pool.map(deliver, wanted, chunksize=7))
    start = time.perf_counter()
    delivered = sum(pool.map(deliver, wanted, chunksize=7))
    return delivered / (time.perf_counter() - start)


def main() -> None:
    """Run the benchmark."""
    figures: dict[str, tuple[float, str]] = {}
    rows = []
    for size, count in SIZES_PX.items():
        wanted = places(size, count)
        for place in wanted:  # fills caches: coordinate transformations are made once for each zone
            deliver(place)
        start = time.process_time()
        for place in wanted:
            deliver(place)
        cpu_ms = (time.process_time() - start) / count * 1000
        with ThreadPoolExecutor(WORKERS) as threads, ProcessPoolExecutor(WORKERS) as processes:
            rates = {"threads": tiles_per_second(threads, wanted), "processes": tiles_per_second(processes, wanted)}
        figures[f"cpu_{size}px"] = (cpu_ms, "ms/tile")
        figures |= {f"{kind}_{size}px": (rate, "tiles/s") for kind, rate in rates.items()}
        rows.append((size, cpu_ms, rates["threads"], rates["processes"], TARGETS[size]))
    names = (
        "tile px",
        "CPU ms per tile",
        f"{WORKERS} threads, tiles/s",
        f"{WORKERS} processes, tiles/s",
        "target, tiles/s",
    )
    table("Synthetic planet: survey and read, all modalities", names, rows)
    some = places(64, 28)
    turns = alternate(lambda: [deliver(p) for p in some], lambda: [deliver_piecemeal(p) for p in some], runs=3)
    report("planet", turns.ratio, figures)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
