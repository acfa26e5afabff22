"""A build of 1.2 million tiles without pixels: what plan, engine, commits, statistics and index cost, and how it opens.

The source answers at once and has no pixels (every raster of the store is there, and empty), so that all of the time is
ours: planning locations with reserves and splits over the synthetic planet, rounds of replacements, shards, commit
records, 1-D arrays, statistics, tables, manifest. Nothing is left out of it, flushing to disk included. Each step runs in
a process of its own. Then a fresh process opens the store, and another builds with real pixel arrays of 128 px, few and
many tiles, to see that memory does not grow.

    python tests/benchmarks/bench_scale.py [--tiles 1200000] [--memory-tiles 1000,20000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import report, table
from _null_source import NullSource

LARGEST_SHARD = 256
"""Tiles; small stores have smaller shards unless told otherwise, and what is compared here is the number of tiles."""
KINDS = {
    "_commits": "commit records",
    "tiles.parquet": "tile table",
    "tiles_spatial.parquet": "tile table in spatial order",
    "rejected.parquet": "rejected candidates",
}
TARGETS = {
    "engine": "at least 5,000 tiles/s",
    "open_store": "under 1 s and 300 MB",
    "open_store and .tiles": "under 3 s and 1.3 GB, with outlines too",
    "report": "at most 5 MB",
    "memory of a 128 px build": "under 2 GB, few and many tiles alike",
}


def seconds_since(start: float) -> float:
    """Wall-clock seconds."""
    return time.perf_counter() - start


def peak_gb() -> float:
    """Peak memory of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def cpu_s() -> float:
    """Processor seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def build_null(folder: Path, tiles: int, size_px: int, *, pixels: str, sampled: bool) -> dict[str, float]:
    """Build a store of a null source; seconds and memory of each step."""
    from mmearth_data.building.executor import run
    from mmearth_data.store import StoreWriter

    start = time.perf_counter()
    plan = make_plan(tiles, size_px, sampled=sampled)
    found = {"plan_s": seconds_since(start), "plan_gb": peak_gb()}
    source = NullSource(size_px, pixels)
    writer = StoreWriter.create(folder, plan.layout, recipe={"seed": 0}, source=source.identity(), synthetic=True)
    start, busy = time.perf_counter(), cpu_s()
    done = run(plan, source, writer, threads=2)
    found |= {"shards_s": seconds_since(start), "shards_cpu_s": cpu_s() - busy, "shards_gb": peak_gb()}
    start, busy = time.perf_counter(), cpu_s()
    writer.finish()
    found |= {"finish_s": seconds_since(start), "finish_cpu_s": cpu_s() - busy, "peak_gb": peak_gb()}
    return found | {"filled": done.filled, "rejected": done.rejected, "shards": plan.layout.shards}


def make_plan(tiles: int, size_px: int, *, sampled: bool) -> Any:
    """Plan of a build: sampled on the synthetic planet, or (faster) locations in rows along the equator."""
    from mmearth_data import make_recipe, prepare

    if sampled:
        return prepare(make_recipe(None, {"source": "synthetic", "tiles": tiles, "tile_size": size_px})).plan
    from _null_source import plan_in_rows

    return plan_in_rows(tiles, size_px, LARGEST_SHARD)


def open_it(folder: Path) -> dict[str, float]:
    """Open a store in a process that has done nothing else but import."""
    from mmearth_data import open_store

    start, busy = time.perf_counter(), cpu_s()
    store = open_store(folder)
    count = len(store)
    found = {"open_s": seconds_since(start), "open_cpu_s": cpu_s() - busy, "open_gb": peak_gb(), "tiles": count}
    start, busy = time.perf_counter(), cpu_s()
    frame = store.tiles
    assert len(frame) == count
    found |= {"table_s": seconds_since(start), "table_cpu_s": cpu_s() - busy, "table_gb": peak_gb()}
    start, busy = time.perf_counter(), cpu_s()
    assert (frame.split == "train").sum() == (store.coords["split"] == 0).sum()
    found |= {"train_s": seconds_since(start)}
    start, busy = time.perf_counter(), cpu_s()
    assert frame.geometry.array[-1] is not None
    assert len(frame.geometry.to_numpy()) == count
    found |= {"outlines_s": seconds_since(start), "outlines_cpu_s": cpu_s() - busy, "outlines_gb": peak_gb()}
    del frame
    start = time.perf_counter()
    assert store.dataset.sizes["tile"] == count
    return found | {"dataset_s": seconds_since(start)}


def report_it(folder: Path) -> dict[str, float]:
    """Write the report of a store as a page, in a process that has done nothing else but import."""
    from mmearth_data import open_store, store_report

    start, busy = time.perf_counter(), cpu_s()
    with tempfile.TemporaryDirectory() as name:
        size = store_report(open_store(folder), Path(name) / "report.html")
    return {"report_s": seconds_since(start), "report_cpu_s": cpu_s() - busy, "report_gb": peak_gb(), "bytes": size}


def count_objects(folder: Path) -> dict[str, tuple[int, int]]:
    """Objects and bytes by kind."""
    found: dict[str, tuple[int, int]] = {}
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        parts = file.relative_to(folder).parts
        kind = KINDS.get(parts[0], "metadata" if parts[-1].endswith(".json") else "raster shards")
        kind = "1-D arrays and bands" if kind == "raster shards" and len(parts) < 5 else kind
        objects, size = found.get(kind, (0, 0))
        found[kind] = objects + 1, size + file.stat().st_size
    return found


def child(step: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Run one step in a process of its own."""
    command = [sys.executable, __file__, "--step", json.dumps({"step": step, "folder": str(folder), **options})]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def run_step(options: dict[str, Any]) -> dict[str, float]:
    """Do what `child` asked for."""
    folder = Path(options.pop("folder"))
    step = options.pop("step")
    return (
        build_null(folder, **options) if step == "build" else report_it(folder) if step == "report" else open_it(folder)
    )


def show(built: dict[str, float], opened: dict[str, float], objects: dict[str, tuple[int, int]], tiles: int) -> None:
    """Tables for people."""
    steps = [
        ["plan (sample, splits, reserves)", built["plan_s"], tiles / built["plan_s"], built["plan_gb"]],
        ["shards (survey, commits, flushes)", built["shards_s"], tiles / built["shards_s"], built["shards_gb"]],
        ["finish (1-D arrays, statistics, tables)", built["finish_s"], tiles / built["finish_s"], built["peak_gb"]],
    ]
    table(f"{tiles:,} tiles, null source", ["step", "s", "tiles/s", "peak GB"], steps)
    kinds = [[kind, count, size / 1e6] for kind, (count, size) in sorted(objects.items())]
    table("objects of the store", ["kind", "objects", "MB"], kinds)
    opening = [
        ["open_store and len", opened["open_s"], opened["open_cpu_s"], opened["open_gb"]],
        [".tiles", opened["table_s"], opened["table_cpu_s"], opened["table_gb"]],
        ["its outlines", opened["outlines_s"], opened["outlines_cpu_s"], opened["outlines_gb"]],
        [f"report ({opened['bytes'] / 1e6:.1f} MB)", opened["report_s"], opened["report_cpu_s"], opened["report_gb"]],
    ]
    table("in a fresh process", ["what", "s", "CPU s", "peak GB"], opening)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=1_200_000)
    parser.add_argument("--memory-tiles", default="1000,20000", help="sizes of builds of 128 px with real arrays")
    parser.add_argument("--folder", type=Path, help="where the stores are made (a temporary folder by default)")
    parser.add_argument("--opened", type=Path, help="only measure how this store, built before, is opened")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        sys.stdout.write(json.dumps(run_step(json.loads(options.step))))
        return
    if options.opened:
        figures = [[name, value] for name, value in child("open", options.opened).items()]
        table(f"{options.opened} in a fresh process", ["what", "s, GB or tiles"], figures)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        memory = {
            int(text): child(
                "build", folder / f"{text}.zarr", tiles=int(text), size_px=128, pixels="slope", sampled=False
            )
            for text in filter(None, options.memory_tiles.split(","))
        }
        rows = [[f"{n:,}", m["peak_gb"], n / m["shards_s"]] for n, m in memory.items()]
        if rows:
            table("builds of 128 px, all modalities", ["tiles", "peak GB", "tiles/s"], rows)
        built = child("build", folder / "big.zarr", tiles=options.tiles, size_px=64, pixels="none", sampled=True)
        opened = child("open", folder / "big.zarr") | child("report", folder / "big.zarr")
        objects = count_objects(folder / "big.zarr")
    show(built, opened, objects, options.tiles)
    sys.stderr.write("targets: " + "; ".join(f"{what} {aim}" for what, aim in TARGETS.items()) + "\n")
    sys.stderr.write(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    engine_s = built["shards_s"] + built["finish_s"]
    report(
        "scale",
        None,
        {
            "engine": (options.tiles / engine_s, "tiles/s"),
            "engine_shards": (options.tiles / built["shards_s"], "tiles/s"),
            "engine_cpu": ((built["shards_cpu_s"] + built["finish_cpu_s"]) / options.tiles * 1e6, "us/tile"),
            "build_peak": (built["peak_gb"], "GB"),
            "objects": (sum(count for count, _ in objects.values()), "objects"),
            "metadata": (sum(size for kind, (_, size) in objects.items() if kind != "raster shards") / 1e6, "MB"),
            "open": (opened["open_s"], "s"),
            "open_peak": (opened["open_gb"] * 1e3, "MB"),
            "tiles_table": (opened["table_s"], "s"),
            "tiles_table_cpu": (opened["table_cpu_s"], "s"),
            "tiles_table_peak": (opened["table_gb"], "GB"),
            "tiles_outlines": (opened["outlines_s"], "s"),
            "tiles_outlines_cpu": (opened["outlines_cpu_s"], "s"),
            "tiles_outlines_peak": (opened["outlines_gb"], "GB"),
            "dataset": (opened["dataset_s"], "s"),
            "report": (opened["report_s"], "s"),
            "report_cpu": (opened["report_cpu_s"], "s"),
            "report_peak": (opened["report_gb"], "GB"),
            "report_page": (opened["bytes"] / 1e6, "MB"),
            **{f"peak_128px_{n}_tiles": (m["peak_gb"], "GB") for n, m in memory.items()},
        },
    )


if __name__ == "__main__":
    main()
