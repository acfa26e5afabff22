"""Rate at which tiles get from Earth Engine into a store, over HTTP, with the real client.

An emulator in a separate process waits 200 ms before each answer and returns arbitrary pixels, so that the client's side
is measured: expressions, requests, decoding, the store. Scenes are searched for as usual; tiles are in one region, as
those of the plain script, so that the emulator knows most of its scenes. The baseline is that script in a separate
process, written like those published with MMEarth: 22 requests per tile from 40 threads, nothing stored. Both run once
before they are measured, and then alternate; figures are medians. The table also has the processor time that each side
takes per tile, and the rate that latency alone would allow the plain script.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from _harness import report, table
from pyproj import Transformer

sys.path.insert(0, str(Path(__file__).parents[1]))

from emulator_process import RunningEmulator, emulator

from mmearth_data import build, make_recipe, open_store
from mmearth_data.sources.synthetic import SyntheticSource

if TYPE_CHECKING:
    from collections.abc import Sequence

TILES, PLAIN_TILES, RUNS = 2048, 80, 3
SIZE_PX, IN_FLIGHT, LATENCY_MS = 64, 40, 200
REGION = "bbox:0,43,16,52"
"""Both sides request locations of one region, so that the emulator has its scenes in memory."""
TRANSFORM = Transformer.from_crs(4326, 32632, always_xy=True)
TARGET, TARGET_RATIO, PLAIN_REQUESTS = 60.0, 6.0, 22


@dataclass(frozen=True)
class Run:
    """One whole build: rates in tiles a second, processor times in milliseconds a tile."""

    rate: float
    requests: float
    most_in_flight: int
    most_per_second: int
    client_ms: float
    emulator_ms: float


def ours(server: RunningEmulator, folder: Path, ecoregions: Path, run: int, tiles: int = TILES) -> Run:
    """Build a store of the emulator's tiles."""
    before, busy = server.ledger()["requests"], cpu_seconds(server.pid)
    options = {"source": "earthengine", "ee_url": server.url, "tiles": tiles, "tile_size": SIZE_PX, "seed": run}
    recipe = make_recipe(
        None,
        options
        | {
            "ecoregions": ecoregions,
            "in_flight": IN_FLIGHT,
            "tiles_per_shard": 128,
            "balance": "area",
            "region": REGION,
        },
    )
    out = folder / f"{run}.zarr"
    started: list[float] = []
    own = time.process_time()
    build(recipe, out, report=lambda progress: started.append(time.perf_counter() - progress.seconds))
    seconds, own = time.perf_counter() - started[0], time.process_time() - own
    delivered = len(open_store(out))
    after, busy = server.ledger(), cpu_seconds(server.pid) - busy
    asked = sum(after["requests"].get(k, 0) - before.get(k, 0) for k in ("value:compute", "image:computePixels"))
    costs = (1000 * own / delivered, 1000 * busy / delivered)
    return Run(delivered / seconds, asked / delivered, after["max_in_flight"], after["max_per_second"], *costs)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def plain(server: RunningEmulator) -> float:
    """Tiles a second of the plain script."""
    done = subprocess.run(
        [sys.executable, __file__, "plain", server.url], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def plain_script(url: str) -> float:
    """Tiles a second of a script in the style of those that were published with MMEarth."""
    import ee
    from google.auth.credentials import AnonymousCredentials

    ee.Initialize(AnonymousCredentials(), url=url, project="emulator")
    spots = [(7.0 + 0.05 * (i % 20), 46.0 + 0.05 * (i // 20)) for i in range(PLAIN_TILES)]
    start = time.perf_counter()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(lambda spot: plain_tile(ee, *spot), spots))
    return PLAIN_TILES / (time.perf_counter() - start)


def plain_tile(ee: Any, lon: float, lat: float) -> None:
    """One tile: fourteen questions, each asked alone, and eight requests for pixels."""
    point = ee.Geometry.Point([lon, lat])
    square = point.buffer(SIZE_PX * 5).bounds()
    scenes = (
        ee.ImageCollection("COPERNICUS/S2_HARMONIZED")
        .filterDate("2019-06-01", "2019-09-01")
        .filterBounds(square)
        .filter(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", 101))
    )
    scenes.size().getInfo()
    name = ee.Image(scenes.first()).get("system:index").getInfo()
    scene = ee.Image(f"COPERNICUS/S2_HARMONIZED/{name}")
    scene.get("system:time_start").getInfo()
    scene.bandNames().getInfo()
    crs = scene.select("B2").projection().crs().getInfo()
    radar = ee.ImageCollection("COPERNICUS/S1_GRD").filterDate("2019-06-01", "2019-09-01").filterBounds(square)
    passes = []
    for way in ("ASCENDING", "DESCENDING"):
        found = radar.filter(ee.Filter.eq("orbitProperties_pass", way))
        found.size().getInfo()
        names = found.limit(1).aggregate_array("system:index").getInfo()
        passes.append(f"COPERNICUS/S1_GRD/{names[0]}" if names else scene)
    months = ee.ImageCollection("ECMWF/ERA5_LAND/MONTHLY_AGGR").select("temperature_2m")
    for first, last in (("2019-05-01", "2019-06-01"), ("2019-06-01", "2019-07-01"), ("2018-07-01", "2019-07-01")):
        months.filterDate(first, last).mean().reduceRegion(ee.Reducer.mean(), square, 10).getInfo()
    regions = ee.FeatureCollection("RESOLVE/ECOREGIONS/2017").filterBounds(point)
    regions.aggregate_array("ECO_NAME").getInfo()
    regions.aggregate_array("BIOME_NAME").getInfo()
    labels = ee.ImageCollection("GOOGLE/DYNAMICWORLD/V1").filterDate("2019-06-01", "2019-09-01").filterBounds(square)
    images = (
        scene.select(["B2", "B3", "B4", "B8"]),
        *(ee.Image(each).select(0) for each in passes),
        ee.Image("projects/sat-io/open-datasets/ASTER/GDEM"),
        ee.Image("users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"),
        ee.Image("users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1"),
        labels.select("label").mode(),
        ee.ImageCollection("ESA/WorldCover/v100").first(),
    )
    x, y = TRANSFORM.transform(lon, lat)
    grid = {
        "dimensions": {"width": SIZE_PX, "height": SIZE_PX},
        "affineTransform": {"scaleX": 10, "shearX": 0, "translateX": x, "shearY": 0, "scaleY": -10, "translateY": y},
        "crsCode": crs,
    }
    for image in images:
        ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": grid})


def main() -> None:
    """Run the benchmark."""
    options = ("--cheap-pixels", "--latency-ms", LATENCY_MS)
    runs, baseline = list[Run](), list[float]()
    with tempfile.TemporaryDirectory() as name, emulator(*options, seed=0) as server:
        folder = Path(name)
        ecoregions = folder / "e.gpkg"
        SyntheticSource(0).ecoregions()[["eco_region", "geometry"]].to_file(ecoregions)
        ours(server, folder, ecoregions, RUNS, tiles=128)
        plain(server)
        for run in range(RUNS):
            runs.append(ours(server, folder, ecoregions, run))
            baseline.append(plain(server))
    show(runs, baseline)


def show(runs: Sequence[Run], baseline: Sequence[float]) -> None:
    """Print the tables and the figures."""
    names = (
        "tiles/s",
        "requests per tile",
        "most in flight",
        "most a second",
        "client, ms",
        "emulator, ms",
        "plain, tiles/s",
    )
    rows = [(*astuple(run), base) for run, base in zip(runs, baseline, strict=True)]
    table(f"Earth Engine into a store, {SIZE_PX} px, {LATENCY_MS} ms, {IN_FLIGHT} in flight", names, rows)
    rate = statistics.median(run.rate for run in runs)
    ratio = statistics.median(run.rate / base for run, base in zip(runs, baseline, strict=True))
    latency_bound = IN_FLIGHT / (PLAIN_REQUESTS * LATENCY_MS / 1000)
    rows = [
        ("tiles/s", rate, TARGET),
        ("ratio", ratio, TARGET_RATIO),
        ("ratio to latency alone", rate / latency_bound, None),
    ]
    table("Targets", ("figure", "here", "target"), rows)
    figures = {
        "ours": (rate, "tiles/s"),
        "plain": (statistics.median(baseline), "tiles/s"),
        "plain_latency_alone": (latency_bound, "tiles/s"),
        "requests_a_tile": (statistics.median(run.requests for run in runs), "requests"),
        "client": (statistics.median(run.client_ms for run in runs), "ms/tile"),
        "emulator": (statistics.median(run.emulator_ms for run in runs), "ms/tile"),
    }
    report("earthengine", ratio, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        sys.stdout.write(str(plain_script(sys.argv[2])))
    else:
        sys.exit(main())
