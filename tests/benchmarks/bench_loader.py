"""Loading: shuffled batches of all modalities against HDF5 through torch's DataLoader, and beside xbatcher and litdata.

Two pinned cores. The synthetic planet makes some tiles, which are then written several times over, with times of their
own, so that an epoch is long enough; store, HDF5 and the others' formats hold the same tiles, and all of them have been
read once before anything is timed. The ratio is that of normalised float batches over the baseline, the smaller one of
both tile sizes; ours and the baseline take turns.

    python tests/benchmarks/bench_loader.py [--tiles 1024] [--unique 128] [--runs 5] [--sizes 64,128]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import report, table
from _hdf5_baseline import BATCH, PerSample, make_loader, parts_ms, write_hdf5

from mmearth_data import Store, build, make_recipe, open_store
from mmearth_data.store import StoreLayout, StoreWriter
from mmearth_data.store.commits import read_commit
from mmearth_data.store.objects import Objects
from mmearth_model import Normaliser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CORES = 2
MINUTE_MS = 60_000
SHARD = 64


def pin() -> None:
    """Keep this process and its workers on two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def make_store(folder: Path, size_px: int, tiles: int, unique: int) -> Store:
    """Build a store of ``tiles`` rows, in which synthetic tiles repeat."""
    sys.stderr.write(f"building {unique} synthetic tiles of {size_px} px ...\n")
    recipe = make_recipe(None, {"source": "synthetic", "tiles": unique, "tile_size": size_px, "tiles_per_shard": SHARD})
    origin = build(recipe, folder / f"origin{size_px}.zarr")
    layout = StoreLayout(modalities=origin.layout.modalities, tiles=tiles, size_px=size_px, tiles_per_shard=SHARD)
    writer = StoreWriter.create(folder / f"s{size_px}.zarr", layout, recipe={}, source={}, synthetic=True)
    commits = [read_commit(Objects(origin.path), origin.layout, k) for k in range(origin.layout.shards)]
    for shard in range(layout.shards):
        k = shard % origin.layout.shards
        count = len(layout.rows(shard))
        columns = {name: values[:count].copy() for name, values in commits[k].columns.items() if name != "valid"}
        columns["time"] += MINUTE_MS * shard
        rows = slice(origin.layout.rows(k).start, origin.layout.rows(k).start + count)
        rasters = {m.name: origin.read(m.name, rows) for m in layout.rasters}
        writer.write_shard(shard, {**columns, "facts": commits[k].facts[:count]}, rasters)
    writer.finish()
    return open_store(folder / f"s{size_px}.zarr")


@dataclass
class Contender:
    """One way to read the tiles.

    Attributes
    ----------
    batches
        Gives an iterable over one epoch.
    seconds, cpu_s
        Of each timed run.
    """

    name: str
    batches: Callable[[], Iterable[Any]]
    seconds: list[float]
    cpu_s: list[float]

    def run(self, *, record: bool = True) -> None:
        """Read one epoch."""
        start, cpu = time.perf_counter(), cpu_seconds()
        for _ in self.batches():
            pass
        if record:
            self.seconds.append(time.perf_counter() - start)
            self.cpu_s.append(cpu_seconds() - cpu)

    def tiles_per_s(self, tiles: int) -> float:
        """Median speed."""
        return tiles / statistics.median(self.seconds)


def cpu_seconds() -> float:
    """Seconds of processor time of this process and its living children."""
    total = time.process_time()
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def read_shards(store: Store) -> Iterable[Any]:
    """Decode whole shards, one array after the other: the plainest way to have all values once."""
    for shard in range(store.layout.shards):
        rows = store.layout.rows(shard)
        yield {m.name: store.read(m.name, slice(rows.start, rows.stop)) for m in store.layout.rasters}


def targets_of(store: Store) -> Callable[[], Iterable[Any]]:
    """Raw batches, normalised by `mmearth_model.targets` on the CPU."""
    modalities = [m for m in store.layout.modalities if m.input or m.pretext]
    normaliser = Normaliser(
        modalities,
        store.statistics,
        inputs=[m.name for m in modalities if m.input][:1],
        targets=[m.name for m in modalities if m.pretext],
    )
    loader = store.loader(modalities=normaliser.stored)
    return lambda: (normaliser(batch) for batch in loader)


def contenders(store: Store, dataset: PerSample, folder: Path) -> list[Contender]:
    """Everything that is compared, the normalised loader and the baseline first."""
    normalised, raw, baseline = store.loader(normalise=True), store.loader(), make_loader(dataset)
    ways: list[tuple[str, Callable[[], Iterable[Any]]]] = [
        ("ours, normalised", lambda: normalised),
        ("HDF5, DataLoader", lambda: baseline),
        ("ours, raw", lambda: raw),
        ("whole shards (zarrs)", lambda: read_shards(store)),
        ("ours, raw + targets on the CPU", targets_of(store)),
    ]
    if importlib.util.find_spec("xbatcher"):
        ways.append(("xbatcher, in order", lambda: xbatcher_batches(store)))
    if importlib.util.find_spec("litdata"):
        ways.append(("litdata, shuffled", litdata_loader(store, folder)))
    return [Contender(name, way, [], []) for name, way in ways]


def xbatcher_batches(store: Store) -> Iterable[Any]:
    """Batches of consecutive tiles by xbatcher, as stored; xbatcher does not shuffle."""
    import xarray as xr
    import xbatcher

    dataset = xr.open_zarr(store.path, mask_and_scale=False, chunks=None)[[m.name for m in store.layout.rasters]]
    generator = xbatcher.BatchGenerator(dataset, input_dims={"tile": BATCH}, preload_batch=False)
    for batch in generator:
        yield batch.load()


def litdata_loader(store: Store, folder: Path) -> Callable[[], Iterable[Any]]:
    """Shuffled raw batches by litdata, from chunks that its own writer made of the same tiles."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    out = folder / f"litdata{store.layout.size_px}"
    writer = BinaryWriter(
        str(out), chunk_bytes="64MB", compression="zstd" if importlib.util.find_spec("zstd") else None
    )
    for index in range(len(store)):
        tile = store[index]
        writer[index] = {m.name: tile[m.name] for m in store.layout.rasters}
    writer.done()
    writer.merge()
    loader = StreamingDataLoader(StreamingDataset(str(out), shuffle=True), batch_size=BATCH, num_workers=CORES)
    return lambda: loader


def measure(store: Store, folder: Path, runs: int) -> dict[str, float]:
    """Let all take turns, and write the tables of one tile size."""
    size_px, tiles = store.layout.size_px, len(store)
    path = folder / f"b{size_px}.h5"
    write_hdf5(store, path)
    dataset = PerSample(path, list(store.layout.stored), store.statistics, tiles)
    everybody = contenders(store, dataset, folder)
    for contender in everybody:
        contender.run(record=False)
    for run in range(runs):
        for contender in everybody[:: 1 if run % 2 == 0 else -1]:
            contender.run()
    ours, baseline, raw, shards = everybody[:4]
    values = sum(int(np.prod(m.array_shape(size_px))) * m.dtype.itemsize for m in store.layout.rasters)
    rows = [
        [c.name, c.tiles_per_s(tiles), c.tiles_per_s(tiles) * values / 1e6, statistics.median(c.cpu_s) / tiles * 1e3]
        for c in everybody
    ]
    table(f"{size_px} px, {tiles} tiles", ["way", "tiles/s", "MB/s, as stored", "CPU ms / tile"], rows)
    parts = [*parts_ms(dataset)]
    total = statistics.median(baseline.cpu_s) / tiles * 1e3
    parts.append(("transfer and all else", max(0.0, total - sum(ms for _, ms in parts))))
    table("HDF5 baseline", ["part", "ms / tile"], [[name, ms] for name, ms in parts])
    return {
        "ratio": ours.tiles_per_s(tiles) / baseline.tiles_per_s(tiles),
        "normalised": ours.tiles_per_s(tiles),
        "baseline": baseline.tiles_per_s(tiles),
        "raw_of_shards": raw.tiles_per_s(tiles) / shards.tiles_per_s(tiles),
        "normalised_of_shards": ours.tiles_per_s(tiles) / shards.tiles_per_s(tiles),
        "cpu_ratio": statistics.median(baseline.cpu_s) / statistics.median(ours.cpu_s),
        "stored_of_hdf5": sum(f.stat().st_size for f in Path(store.path).rglob("*") if f.is_file())
        / path.stat().st_size,
    }


def fresh(path: Path) -> tuple[float, float]:
    """Seconds to the first batch, and peak memory in MB of two epochs, in a process of its own."""
    line = subprocess.run([sys.executable, __file__, "--probe", str(path)], check=True, capture_output=True, text=True)
    first_s, peak_mb = line.stdout.split()
    return float(first_s), float(peak_mb)


def probe(path: str) -> None:
    """Body of `fresh`: from opening the store on."""
    start = time.perf_counter()
    loader = open_store(path).loader(normalise=True)
    next(iter(itertools.islice(loader, 1)))
    first_s = time.perf_counter() - start
    for _ in range(2):
        for _ in loader:
            pass
    # Of this program alone: `ru_maxrss` begins with what the parent had.
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    sys.stdout.write(f"{first_s} {peak_mb}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=1024)
    parser.add_argument("--unique", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", default="64,128")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    pin()
    if options.probe:
        probe(options.probe)
        return
    figures: dict[str, tuple[float, str]] = {}
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for size_px in map(int, options.sizes.split(",")):
            store = make_store(Path(folder), size_px, options.tiles, options.unique)
            found = measure(store, Path(folder), options.runs)
            first_s, peak_mb = fresh(Path(store.path))
            ratios.append(found["ratio"])
            for name, value in found.items():
                figures[f"{name}_{size_px}"] = (value, "tiles/s" if name in ("normalised", "baseline") else "1")
            figures[f"first_batch_{size_px}"] = (first_s, "s")
            figures[f"peak_memory_{size_px}"] = (peak_mb, "MB")
    report("loader", min(ratios), figures)


if __name__ == "__main__":
    main()
