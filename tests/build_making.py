"""A build of known pixels that can be run as a process of its own, watched and broken.

    python build_making.py STORE LOG [--workers N | --scheduler URL] [--read-ms MS]

Every tile that is read from the source adds a line to LOG. A tile's id determines its values, so that a reader can
check a tile without another store.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmearth_data.building.build import run_build
from mmearth_data.building.plan import BuildPlan, Reserve, plan_given
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import Place, TileGrid, tile_ids, utm_epsg
from mmearth_data.errors import InputError, MMEarthError, TileUnavailable
from mmearth_data.files.writing import write_errors
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.store import StoreLayout, StoreWriter
from mmearth_data.store.session import ignore
from mmearth_data.store.storage import storage_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmearth_data.building.executor import Progress
    from mmearth_data.catalog.modality import Modality

TILES, SIZE_PX, TILES_PER_SHARD = 61, 16, 4
MODALITIES = ("sentinel2", "sentinel1", "esa_worldcover", "era5", "biome", "eco_region")
REFUSED = 7
"""Tiles whose id leaves no rest over it are refused."""
COUNTING = threading.Lock()


def layout(tiles: int = TILES) -> StoreLayout:
    """Arrays of the store: the last shard is not full."""
    modalities = load_catalog().select(MODALITIES)
    return StoreLayout(modalities=modalities, tiles=tiles, size_px=SIZE_PX, tiles_per_shard=TILES_PER_SHARD)


def places(count: int) -> list[Place]:
    """Locations in a row along the equator."""
    lon = np.round(np.linspace(-170, 170, count), 6)
    ids = tile_ids(lon, np.zeros(count), SIZE_PX)
    return [
        Place(tile_id=int(i), lon=float(x), lat=0.0, size_px=SIZE_PX, biome=k % 14, eco_region=k)
        for k, (i, x) in enumerate(zip(ids.tolist(), lon.tolist(), strict=True))
    ]


def make_plan(tiles: int = TILES) -> BuildPlan:
    """Plan of a build, two reserves a shard."""
    chosen = layout(tiles)
    plan = plan_given(places(tiles), (80, 10, 10), 3, chosen)
    return PlanWithReserves(layout=plan.layout, places=plan.places, pools=())


class PlanWithReserves(BuildPlan):
    """Adds reserves to shards, in the split of their first slot."""

    def shard(self, shard: int) -> Any:
        plan = super().shard(shard)
        lon = [round(-170 + 0.01 * (2 * shard + k + 1), 6) for k in range(2)]
        ids = tile_ids(np.array(lon), np.full(2, 10.0), SIZE_PX).tolist()
        found = [Place(tile_id=i, lon=x, lat=10.0, size_px=SIZE_PX) for i, x in zip(ids, lon, strict=True)]
        reserves = tuple(Reserve(split=plan.slots[0].split, place=place) for place in found)
        return type(plan)(shard=plan.shard, slots=plan.slots, reserves=reserves)


def tile_values(m: Modality, tile_id: int) -> np.ndarray[Any, Any]:
    """Stored values of a tile: what its id says, and nothing else."""
    rng = np.random.default_rng([tile_id, m.order])
    shape = m.array_shape(SIZE_PX)
    if m.classes:
        return rng.choice(np.array([label.code for label in m.classes], dtype=m.dtype), shape)
    low, high = m.histogram_range or (0, 1)
    return rng.uniform(low, high, shape).astype(m.dtype)


@dataclass
class LoggedSource:
    """Notes every tile that is read. With a limiter, requests are counted while they are in flight."""

    log: Path
    read_ms: float = 0.0
    limiter: Any = None
    reads: int = 0
    name: str = "logged"
    synthetic: bool = True
    coordinates: ClassVar[frozenset[str]] = frozenset({"lon", "lat", "time"})
    remarks: ClassVar[list[str]] = []

    def own_modalities(self) -> tuple[Modality, ...]:
        return ()

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    @property
    def in_flight(self) -> int:
        return 2

    def connect(self) -> None:
        """Needs no signing in."""

    def stop(self) -> None:
        """Waits for nothing."""

    def account(self) -> dict[str, Any]:
        return {"requests": {"read": self.reads}}

    def profiling(self) -> Any:
        return nullcontext({})

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        return tuple(wanted)

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        return [
            Rejection(place=p, reason="no_scene")
            if p.tile_id // 128 % REFUSED == 0
            else Survey(
                place=p,
                grid=TileGrid.around(p.lon, p.lat, utm_epsg(p.lon, p.lat), SIZE_PX),
                time_ms=1_500_000_000_000 + p.tile_id % 1000,
                s2_level=p.tile_id // 128 % 2,
                facts={"scene": f"S2-{p.tile_id}"},
            )
            for p in places
        ]

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        if self.limiter is None:
            return self._read(survey, modalities)
        with self.limiter.slot():
            return self._read(survey, modalities)

    def _read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        tile_id = survey.place.tile_id
        with COUNTING:
            self.reads += 1
        self._note(f"{tile_id} begin {time.monotonic()}")
        time.sleep(self.read_ms / 1000)
        self._note(f"{tile_id} end {time.monotonic()}")
        if tile_id // 128 % REFUSED == 1:
            raise TileUnavailable("sentinel2_nodata", "3 % masked")
        return {m.name: tile_values(m, tile_id) for m in modalities}

    def _note(self, text: str) -> None:
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, (text + "\n").encode())  # one write of a short line is never torn
        os.close(descriptor)


class RemoteSource(LoggedSource):
    """The same over a network: with all members of `SourceOverNetwork`."""

    recipe_fields: ClassVar[frozenset[str]] = frozenset()

    def places(self, size_px: int) -> list[Place]:
        return []

    def area(self) -> tuple[Any, ...]:
        return ()

    def ecoregions(self) -> Any:
        raise InputError("expected a source whose locations are sampled, got one that is given its locations")


def tiles_read(log: Path) -> list[int]:
    """Ids of the tiles that were read so far, in order."""
    lines = log.read_text().split("\n") if log.exists() else []
    return [int(line.split()[0]) for line in lines if line.count(" ") == 2 and line.split()[1] == "begin"]


def build_known(
    store: Any,
    log: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    read_ms: float = 0.0,
    threads: int = 2,
    limits: Mapping[str, float] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Begin or continue the build, as `mmearth_data.build` does."""
    source = RemoteSource(log, read_ms)
    with ExitStack() as held:
        held.enter_context(write_errors(store))
        held.enter_context(storage_at(store).hold())
        if (Path(store) / "zarr.json").exists():
            writer = StoreWriter.resume(store)
        else:
            writer = StoreWriter.create(store, layout(), recipe={"seed": 3}, source=source.identity(), synthetic=True)
        run_build(
            make_plan(),
            source,
            writer,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            limits=limits or {},
            report=report or ignore,
        )
        writer.finish()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("log", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--scheduler")
    parser.add_argument("--read-ms", type=float, default=0.0)
    options = parser.parse_args()
    from build_making import build_known as run_known  # so that workers find the source in a module they can import

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        run_known(
            options.store,
            options.log,
            workers=options.workers,
            scheduler=options.scheduler,
            read_ms=options.read_ms,
        )
    except MMEarthError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
