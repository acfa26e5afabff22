"""Locations for 1.2 million tiles over the real ecoregion polygons: seconds, memory, and properties of the result.

Each run is a process of its own, so that its peak memory is its own: read the ecoregions, sample with reserves and
splits, write the GeoParquet file. Once with an empty cache folder, then with the prepared polygons in it, with one and
with two threads, whose files must be equal byte for byte.

The ratio compares with what is available without this sampler: geopandas samples as many points per ecoregion
(`GeoSeries.sample_points`, uniform in degrees, not on the Earth) and shapely's index removes those that come too close,
until the quota is met; no reserves, splits, slots or guard. It runs at fewer tiles (``--baseline-tiles``), and so does
ours for the ratio: points per second of both at that number.

    python tests/benchmarks/bench_sampling.py [--tiles 1200000] [--baseline-tiles 20000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from _harness import alternate, report, table

from mmearth_data.geography.ecoregions import prepare, read_ecoregions
from mmearth_data.geography.regions import Region
from mmearth_data.sampling import SamplingOptions, largest_remainder, sample, write_sample

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MMEARTH_TEST_DATA", ROOT.parent / "shared" / "data"))
ECOREGIONS = DATA / "ecoregions" / "resolve2017_simplified.gpkg"
GLOBAL = Region("global", None)
TARGET_S, TARGET_GB = 30.0, 1.5
REACH_M = 1390.0
"""Least |dx| or |dy| of the baseline: that of a 128 px tile in middle latitudes."""


def child(tiles: int, threads: int, out: str) -> None:
    """Do one run and print what it took, as JSON."""
    marks = [time.perf_counter()]
    ecoregions = read_ecoregions(ECOREGIONS)
    marks.append(time.perf_counter())
    prepare(ecoregions, threads)
    marks.append(time.perf_counter())
    drawn = sample(ecoregions, GLOBAL, SamplingOptions(tiles=tiles, threads=threads))
    marks.append(time.perf_counter())
    write_sample(drawn, Path(out))
    marks.append(time.perf_counter())
    used = resource.getrusage(resource.RUSAGE_SELF)
    counts = [entry["placed"] for entry in drawn.report.biomes.values()]
    answer = {
        "steps": dict(zip(("read", "prepare", "sample", "write"), np.diff(marks).tolist(), strict=True)),
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6),
        "digest": hashlib.blake2b(Path(out).read_bytes()).hexdigest(),
        "bytes": Path(out).stat().st_size,
        "spread": max(counts) - min(counts),
        "reserves": drawn.report.reserves,
        "splits": drawn.report.splits,
        "moved": sum(max(entry["wanted"] - entry["placed"], 0) for entry in drawn.report.moved),
    }
    sys.stdout.write(json.dumps(answer))


def run(tiles: int, threads: int, cache: str) -> dict[str, Any]:
    """Run `child` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", str(Path(folder) / "tiles.parquet")]
        command += ["--tiles", str(tiles), "--threads", str(threads)]
        environment = {**os.environ, "MMEARTH_CACHE": cache}
        answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def naive(ecoregions: gpd.GeoDataFrame, tiles: int) -> int:
    """Points per ecoregion with geopandas, thinned with shapely's index; returns how many were placed."""
    quotas = np.zeros(len(ecoregions), dtype=np.int64)
    biomes = np.unique(ecoregions["biome"])
    for biome, amount in zip(biomes, largest_remainder(np.ones(len(biomes)), tiles), strict=True):
        members = np.flatnonzero(ecoregions["biome"] == biome)
        quotas[members] = largest_remainder(ecoregions["area_km2"].to_numpy()[members], int(amount))
    rng = np.random.default_rng(0)
    placed = 0
    for row in np.flatnonzero(quotas):
        polygon = gpd.GeoSeries([ecoregions.geometry.iloc[row]], crs=4326)
        drawn = polygon.sample_points(int(quotas[row]), rng=rng)
        placed += len(thinned(shapely.get_coordinates(drawn.to_numpy())))
    return placed


def thinned(lonlat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Drop every point that comes too close to an earlier one."""
    width = REACH_M / (111_320 * np.cos(np.deg2rad(lonlat[:, 1])))
    height = REACH_M / 110_574
    tree = shapely.STRtree(shapely.points(lonlat))
    squares = shapely.box(lonlat[:, 0] - width, lonlat[:, 1] - height, lonlat[:, 0] + width, lonlat[:, 1] + height)
    first, second = tree.query(squares)
    dropped = np.zeros(len(lonlat), dtype=bool)
    for a, b in zip(first, second, strict=True):
        if a < b and not dropped[a]:
            dropped[b] = True
    return lonlat[~dropped]


def main(tiles: int, baseline_tiles: int) -> None:
    """Run everything and report."""
    with tempfile.TemporaryDirectory() as cache:
        runs = {
            "first time, 2 threads": run(tiles, 2, cache),
            "cached, 2 threads": run(tiles, 2, cache),
            "cached, 1 thread": run(tiles, 1, cache),
        }
        os.environ["MMEARTH_CACHE"] = cache
        ecoregions = read_ecoregions(ECOREGIONS)
        turns = alternate(
            lambda: sample(ecoregions, GLOBAL, SamplingOptions(tiles=baseline_tiles, oversample=1.0)),
            lambda: naive(ecoregions, baseline_tiles),
            runs=2,
        )
    rows = [[name, sum(r["steps"].values()), *r["steps"].values(), r["cpu"], r["peak"]] for name, r in runs.items()]
    header = ["run", "total s", "read s", "prepare s", "sample s", "write s", "CPU s", "peak GB"]
    table(f"{tiles:,} tiles and reserves over {len(ecoregions)} ecoregions", header, rows)
    last = runs["cached, 2 threads"]
    facts = [[name, str(last[name])] for name in ("spread", "reserves", "splits", "moved", "bytes")]
    table("what came out (spread: largest minus smallest biome)", ["what", "value"], facts)
    ours, theirs = baseline_tiles / turns.median_a_s, baseline_tiles / turns.median_b_s
    rates = [["this sampler", ours], ["geopandas + index, no splits or reserves", theirs]]
    table(f"at {baseline_tiles:,} tiles", ["how", "tiles/s"], rates)
    equal = len({r["digest"] for r in runs.values()}) == 1
    total = {name: sum(r["steps"].values()) for name, r in runs.items()}
    report(
        "sampling",
        turns.ratio,
        {
            "total_cached": (total["cached, 2 threads"], "s"),
            "total_first_time": (total["first time, 2 threads"], "s"),
            "cpu_cached": (last["cpu"], "s"),
            "peak_memory": (last["peak"], "GB"),
            "tiles": (tiles, "tiles"),
            "target_time": (TARGET_S, "s"),
            "target_memory": (TARGET_GB, "GB"),
            "biome_spread": (last["spread"], "tiles"),
            "files_equal_for_1_and_2_threads": (int(equal), "1 = yes"),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=1_200_000)
    parser.add_argument("--baseline-tiles", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.tiles, arguments.threads, arguments.child)
    else:
        main(arguments.tiles, arguments.baseline_tiles)
