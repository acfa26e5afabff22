"""Reading and checking a store, shards and blocks, beside zarr-python. (Writing and codecs: bench_write.)

The store is built from the synthetic planet (all modalities). The ratio is that of reading blocks of 32 tiles with our
reader over reading them with zarr-python.

    python tests/benchmarks/bench_store.py [--tiles 512] [--tile-size 64]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from _harness import alternate, report, table, timed

from mmearth_data import build, make_recipe, verify
from mmearth_data.store import StoreWriter
from mmearth_data.store.commits import read_commit, tiles_table
from mmearth_data.store.reader import Store
from mmearth_data.store.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.store import StoreLayout

BLOCK = 32


def read_blocks(read: Callable[[str, slice], object], layout: StoreLayout, step: int) -> None:
    """Read every tile once, in blocks that do not cross shards."""
    for shard in range(layout.shards):
        rows = layout.rows(shard)
        for start in range(rows.start, rows.stop, step):
            for m in layout.rasters:
                read(m.name, slice(start, min(start + step, rows.stop)))


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
        measure(store, Path(folder) / "again.zarr")


def measure(store: Store, again: Path) -> None:
    """Compare the readers, and report."""
    group = zarr.open_group(store.path, mode="r")
    arrays: dict[str, Any] = {m.name: group[m.name] for m in store.layout.rasters}
    tiles = store.layout.tiles
    rows, ratios = [], {}
    for what, step in (("blocks of 32", BLOCK), ("whole shards", store.layout.tiles_per_shard)):
        times = alternate(
            partial(read_blocks, store.read, store.layout, step),
            partial(read_blocks, lambda name, rows: arrays[name][rows], store.layout, step),
        )
        rows.append([what, tiles / times.median_a_s, tiles / times.median_b_s, times.ratio])
        ratios[what] = times
    table("reading, tiles/s", ["read", "ours", "zarr-python", "ratio"], rows)
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
