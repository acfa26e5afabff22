"""How fast are scenes embedded position by position, and in how much memory?

The encoder is an atto (patches of 8 px, windows of 64 px that overlap by half), its weights random. Scenes have 12 bands of
uint16, as those of `bench_predict`. Times are from the call to the finished Zarr file; memory is the sum over all processes,
sampled ten times a second.

    python tests/benchmarks/bench_dense.py [--sizes 1024,4096] [--type float32] [--workers 2] [--folder F]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from _harness import report, table
from bench_predict import ATTO, SIZE_PX, measured, write_large

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dense_world import make_checkpoint
from map_world import make_network

from mmearth_model import embed_dense, load_checkpoint


def run_one(kind: str, folder: Path, size: int, workers: int) -> None:
    """Embed one scene in this process, and print its seconds."""
    out = folder / f"{kind}{size}.zarr"
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    embed_dense(load_checkpoint(folder / "run"), [folder / f"s{size}.tif"], out, kind=kind, workers=workers)
    sys.stdout.write(f"{time.perf_counter() - begin}\n")


def main() -> None:
    """Write the scenes, measure, report."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", default="1024,4096", help="sides of the scenes, px")
    options.add_argument("--type", default="float32", choices=["float32", "int8"])
    options.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options.add_argument("--folder", type=Path, default=None)
    options.add_argument("--one", default=None, help=argparse.SUPPRESS)
    given = options.parse_args()
    sizes = sorted(int(text) for text in given.sizes.split(","))
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        if given.one:
            run_one(given.one, folder, sizes[0], given.workers)
            return
        make_checkpoint(folder / "run", make_network(window_px=SIZE_PX, encoder=ATTO).encoder)
        rows: list[list[object]] = []
        figures: dict[str, tuple[float, str]] = {}
        for size in sizes:
            write_large(folder / f"s{size}.tif", size)
            seconds, peak = measured(given.type, folder, size, given.workers, __file__)
            rows.append([f"{size} px", size**2 / seconds, peak])
            figures |= {f"{size} px": (size**2 / seconds, "px/s"), f"{size} px, peak": (peak, "GiB")}
        table("Dense embeddings of scenes", ["scene", "px/s", "peak GiB"], rows)
        report("dense", None, figures)


if __name__ == "__main__":
    main()
