"""Loading: shuffled batches of all modalities against HDF5 through torch's DataLoader, and beside xbatcher and litdata.

Two pinned cores. The synthetic planet makes some tiles, which are then written several times over, with times of their
own, so that an epoch is long enough; store, HDF5 and the others' formats hold the same tiles, ours and the baseline
deliver the same values (checked), and all files are in the page cache. The ratio is that of normalised float batches
over the baseline, the smaller one of both tile sizes; ours and the baseline take turns, epoch by epoch. The other
loaders run for a few seconds each. Finally, the store is read from an S3 server on loopback that answers 50 ms late,
in turns with the local disk.

    python tests/benchmarks/bench_loader.py [--runs 5] [--sizes 64,128] [--tiles 1024,512] [--unique 64]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import report, table
from _hdf5_baseline import BATCH, PerSample, make_loader, parts_ms, write_hdf5

sys.path.insert(0, str(Path(__file__).parents[1]))

from far_bucket import far_bucket

from mmearth_data import Store, build, make_recipe, open_store
from mmearth_data.store import StoreLayout, StoreWriter
from mmearth_data.store.commits import read_commit
from mmearth_data.store.storage.local import LocalStorage
from mmearth_model import Normaliser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CORES = 2
MINUTE_MS = 60_000
SHARD = 64
BESIDE_S = 3.0
"""Seconds for which every loader but ours and the baseline runs; its last batch is completed."""
FAR_S = 0.05
FAR_RUNS = 3


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
    commits = [read_commit(LocalStorage(origin.path), origin.layout, k) for k in range(origin.layout.shards)]
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
    epoch_tiles
        Tiles of an epoch: a whole one that counts others is an error.
    limit_s
        Ends a run early; by default it is a whole epoch.
    tiles_per_s, cpu_ms
        Tiles a second and milliseconds of processor time a tile, of each timed run.
    """

    name: str
    batches: Callable[[], Iterable[Any]]
    epoch_tiles: int
    limit_s: float = math.inf
    tiles_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def run(self, *, record: bool = True) -> None:
        """Read one epoch, or as far as it gets."""
        start, cpu, tiles, whole = time.perf_counter(), cpu_seconds(), 0, True
        for batch in self.batches():
            count = len(batch["sentinel2"])
            if not 0 < count <= max(BATCH, SHARD):
                raise ValueError(f"{self.name}: expected at most {max(BATCH, SHARD)} tiles at a time, got {count}.")
            tiles += count
            if time.perf_counter() - start > self.limit_s:
                whole = False
                break
        seconds = time.perf_counter() - start
        if tiles > self.epoch_tiles or (whole and tiles != self.epoch_tiles):
            raise ValueError(f"{self.name}: expected the {self.epoch_tiles} tiles of an epoch, got {tiles}.")
        if record:
            self.tiles_per_s.append(tiles / seconds)
            self.cpu_ms.append((cpu_seconds() - cpu) / tiles * 1e3)

    @property
    def speed(self) -> float:
        """Tiles a second, the median of its runs."""
        return statistics.median(self.tiles_per_s)

    @property
    def cost(self) -> float:
        """Milliseconds of processor time a tile, the median of its runs."""
        return statistics.median(self.cpu_ms)


def cpu_seconds() -> float:
    """Seconds of processor time of this process and its children, those that live and those that have ended."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
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
    """Raw batches, normalised by `mmearth_model.data.targets` on the CPU."""
    modalities = [m for m in store.layout.modalities if m.input or m.pretext]
    normaliser = Normaliser(
        modalities,
        store.statistics,
        inputs=[m.name for m in modalities if m.input][:1],
        targets=[m.name for m in modalities if m.pretext],
    )
    loader = store.loader(modalities=normaliser.stored)
    return lambda: ({"sentinel2": normaliser(batch).images} for batch in loader)


def contenders(store: Store, dataset: PerSample) -> list[Contender]:
    """What takes turns: ours and the baseline first."""
    normalised, raw, baseline = store.loader(normalise=True), store.loader(), make_loader(dataset)
    return [
        Contender("ours, normalised", lambda: normalised, len(store)),
        Contender("HDF5, DataLoader", lambda: baseline, len(store)),
        Contender("ours, raw", lambda: raw, len(store)),
        Contender("whole shards", lambda: read_shards(store), len(store)),
    ]


def beside(store: Store, folder: Path) -> list[Contender]:
    """What is read for a few seconds, once to warm up and once timed."""
    ways = [("ours, raw + targets on the CPU", targets_of(store))]
    if importlib.util.find_spec("xbatcher"):
        ways.append(("xbatcher, in order", lambda: xbatcher_batches(store)))
    if importlib.util.find_spec("litdata"):
        packed = "zstd" if importlib.util.find_spec("zstd") else "not compressed"
        ways.append((f"litdata, shuffled, {packed}, workers started anew", litdata_loader(store, folder)))
    return [Contender(name, way, len(store), BESIDE_S) for name, way in ways]


def xbatcher_batches(store: Store) -> Iterable[Any]:
    """Batches of consecutive tiles by xbatcher, as stored; xbatcher does not shuffle."""
    import xarray as xr
    import xbatcher

    dataset = xr.open_zarr(store.path, mask_and_scale=False, chunks=None)[[m.name for m in store.layout.rasters]]
    # All dimensions: xbatcher would stack the others into a sample dimension, which takes seconds per batch.
    sizes = {str(name): size for name, size in dataset.sizes.items()} | {"tile": BATCH}
    for batch in xbatcher.BatchGenerator(dataset, input_dims=sizes, preload_batch=False):
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


def check_same(store: Store, dataset: PerSample, tiles: int = 8) -> None:
    """Raise where what is compared would not deliver the same values."""
    (ours,) = store.select(where=lambda c: np.arange(len(c["lon"])) < tiles).loader(normalise=True, shuffle=False)
    for row in range(tiles):
        for name, values in dataset[row].items():
            if name in ours:
                np.testing.assert_allclose(ours[name][row], values, rtol=1e-4, atol=1e-5)
    if importlib.util.find_spec("xbatcher"):
        first = next(iter(xbatcher_batches(store)))
        for m in store.layout.rasters:
            np.testing.assert_array_equal(first[m.name].values[:tiles], store.read(m.name, slice(0, tiles)))


def measure(store: Store, folder: Path, runs: int) -> dict[str, tuple[float, str]]:
    """Let all take turns, and write the tables of one tile size."""
    size_px, tiles = store.layout.size_px, len(store)
    path = folder / f"b{size_px}.h5"
    write_hdf5(store, path)
    dataset = PerSample(path, list(store.layout.stored), store.statistics, tiles)
    check_same(store, dataset)
    core = contenders(store, dataset)
    for run in range(-1, runs):
        for contender in core[:: 1 if run % 2 == 0 else -1]:
            contender.run(record=run >= 0)
    others = beside(store, folder)
    for contender in others:
        contender.run(record=False)
        contender.run()
    memory = {"ours, normalised": fresh("ours", store.path), "HDF5, DataLoader": fresh("hdf5", store.path, path)}
    values = sum(int(np.prod(m.array_shape(size_px))) * m.dtype.itemsize for m in store.layout.rasters)
    rows = [
        [c.name, c.speed, c.speed * values / 1e6, c.cost, f"{memory[c.name][1]:.0f}" if c.name in memory else ""]
        for c in (*core, *others)
    ]
    columns = ["way", "tiles/s", "MB/s, as stored", "CPU ms / tile", "peak MB"]
    table(f"{size_px} px, {tiles} tiles", columns, rows)
    ours, baseline, raw, shards = core
    write_parts(dataset, baseline.cost)
    stored = sum(f.stat().st_size for f in Path(store.path).rglob("*") if f.is_file())
    return {
        "ratio": (ours.speed / baseline.speed, "1"),
        "normalised": (ours.speed, "tiles/s"),
        "baseline": (baseline.speed, "tiles/s"),
        "raw_of_shards": (raw.speed / shards.speed, "1"),
        "normalised_of_shards": (ours.speed / shards.speed, "1"),
        "cpu_ratio": (baseline.cost / ours.cost, "1"),
        "stored_of_hdf5": (stored / path.stat().st_size, "1"),
        "first_batch": (memory[ours.name][0], "s"),
        "peak_memory": (memory[ours.name][1], "MB"),
    }


def write_parts(dataset: PerSample, total_ms: float) -> None:
    """Write where the baseline's time goes."""
    parts = [*parts_ms(dataset)]
    parts.append(("transfer and all else", max(0.0, total_ms - sum(ms for _, ms in parts))))
    table("HDF5 baseline", ["part", "CPU ms / tile"], [[name, ms] for name, ms in parts])


def far_share(store: Store) -> float:
    """Speed from an S3 server that answers 50 ms late, as a share of the local one."""
    path = Path(store.path)
    with far_bucket(path.parent, delay_s=FAR_S) as bucket:
        os.environ.update(bucket.environment)
        far, local = open_store(bucket.url(path.name)).loader(normalise=True), store.loader(normalise=True)
        pair = Contender("S3, 50 ms", lambda: far, len(store)), Contender("local disk", lambda: local, len(store))
        for run in range(-1, FAR_RUNS):
            for contender in pair:
                contender.run(record=run >= 0)
    rows = [[c.name, c.speed, c.cost] for c in pair]
    table(f"{store.layout.size_px} px, normalised, far away", ["from", "tiles/s", "CPU ms / tile"], rows)
    return pair[0].speed / pair[1].speed


def fresh(way: str, *paths: Path | str) -> tuple[float, float]:
    """Seconds to the first batch, and peak memory in MB of two epochs, in a process of its own."""
    command = [sys.executable, __file__, "--probe", way, *map(str, paths)]
    line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    first_s, peak_mb = line.stdout.split()
    return float(first_s), float(peak_mb)


def probe(way: str, path: str, hdf5: str = "") -> None:
    """Body of `fresh`: from opening the store on."""
    start = time.perf_counter()
    store = open_store(path)
    loader: Iterable[Any]
    if way == "ours":
        loader = store.loader(normalise=True)
    else:
        loader = make_loader(PerSample(Path(hdf5), list(store.layout.stored), store.statistics, len(store)))
    next(iter(itertools.islice(loader, 1)))
    first_s = time.perf_counter() - start
    for _ in range(2):
        for _ in loader:
            pass
    children = [child for found in Path("/proc/self/task").glob("*/children") for child in found.read_text().split()]
    sys.stdout.write(f"{first_s} {sum(map(peak_mb_of, ('self', *children)))}\n")


def peak_mb_of(process: str) -> float:
    """Peak memory of a process alone: `ru_maxrss` begins with what the parent had."""
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="64,128")
    parser.add_argument("--tiles", default="1024,512", help="of each size")
    parser.add_argument("--unique", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--probe", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    pin()
    if options.probe:
        probe(*options.probe)
        return
    figures: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size_px, tiles in zip(
            *(map(int, words.split(",")) for words in (options.sizes, options.tiles)), strict=True
        ):
            store = make_store(Path(folder), size_px, tiles, options.unique)
            found = measure(store, Path(folder), options.runs)
            found["far"] = (far_share(store), "1")
            figures |= {f"{name}_{size_px}": value for name, value in found.items()}
    report("loader", min(value for name, (value, _) in figures.items() if name.startswith("ratio_")), figures)


if __name__ == "__main__":
    main()
