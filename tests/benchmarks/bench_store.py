"""Reading and checking a store: decode engines, shards and blocks. (Writing and codecs: bench_write.)

The store is built from the synthetic planet (all modalities). The ratio is that of reading blocks of 32
tiles, which is what the loader does, with the decode engine in use (zarrs, checksums of partial shards compared)
over zarr-python's own.

    python tests/benchmarks/bench_store.py [--tiles 512] [--tile-size 64]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from _harness import alternate, report, table, timed

from mmearth_data import build, make_recipe, verify
from mmearth_data.store import StoreWriter
from mmearth_data.store.commits import read_commit, tiles_table
from mmearth_data.store.reader import Store
from mmearth_data.store.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 32


def read_blocks(store: Store, names: Sequence[str], step: int) -> int:
    """Read every tile once, in blocks that do not cross shards."""
    for shard in range(store.layout.shards):
        rows = store.layout.rows(shard)
        for start in range(rows.start, rows.stop, step):
            for name in names:
                store.read(name, slice(start, min(start + step, rows.stop)))
    return store.layout.tiles


def write_again(store: Store, path: Path) -> float:
    """Seconds to write all shards of a store once more."""
    writer = StoreWriter.create(path, store.layout, recipe={}, source={}, synthetic=True)
    inputs = []
    for shard in range(store.layout.shards):
        rows = store.layout.rows(shard)
        here = slice(rows.start, rows.stop)
        commit = read_commit(LocalStorage(store.path), store.layout, shard)
        assert tiles_table(commit, store.layout.tabular).num_rows == len(rows)
        columns = {name: values for name, values in commit.columns.items() if name != "valid"}
        rasters = {m.name: store.read(m.name, here) for m in store.layout.rasters}
        inputs.append((shard, {**columns, "facts": commit.facts}, rasters))

    def write() -> None:
        for shard, columns, rasters in inputs:
            writer.write_shard(shard, columns, rasters)

    return timed(write)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=512)
    parser.add_argument("--tile-size", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        sys.stderr.write(f"building {options.tiles} synthetic tiles of {options.tile_size} px ...\n")
        build(make_recipe(None, {"source": "synthetic", "tiles": options.tiles, "tile_size": options.tile_size}), path)
        store = Store.open(path)
        names = [m.name for m in store.layout.rasters]
        measure(store, names, Path(folder) / "again.zarr")


def measure(store: Store, names: Sequence[str], again: Path) -> None:
    """Compare the decode engines, and report."""
    ours, theirs = Store.open(store.path, engine="zarrs"), Store.open(store.path, engine="zarr")
    tiles = store.layout.tiles
    rows, ratios = [], {}
    for what, step in (("blocks of 32", BLOCK), ("whole shards", store.layout.tiles_per_shard)):
        times = alternate(lambda s=step: read_blocks(ours, names, s), lambda s=step: read_blocks(theirs, names, s))
        rows.append([what, tiles / times.median_a_s, tiles / times.median_b_s, times.ratio])
        ratios[what] = times
    table("reading, tiles/s", ["read", "zarrs", "zarr-python", "ratio"], rows)
    write_s, verify_s = write_again(store, again), timed(lambda: verify(store.path))
    report(
        "store",
        ratios["blocks of 32"].ratio,
        {
            "read_blocks": (tiles / ratios["blocks of 32"].median_a_s, "tiles/s"),
            "read_shards": (tiles / ratios["whole shards"].median_a_s, "tiles/s"),
            "write": (tiles / write_s, "tiles/s"),
            "verify": (tiles / verify_s, "tiles/s"),
            "open": (timed(lambda: len(Store.open(store.path))) * 1e3, "ms"),
        },
    )


if __name__ == "__main__":
    main()
