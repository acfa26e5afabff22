"""How fast are scenes mapped, and in how much memory? Against a plain loop over the same windows.

The network is an atto encoder (patches of 8 px by default, windows of 64 px) with the UNet decoder and 10 classes, its weights random.
Scenes have 12 bands of uint16. The plain loop reads one window at a time with rasterio, applies the network to it with
all cores, and adds its weighted probabilities to an array of the whole scene; it takes turns with `predict_scene`, which
starts one process per core. Both are measured from the call to the finished file. Memory is the sum over all processes of
a run, sampled at most ten times a second and in at most a fiftieth of the time (pages that processes share count once).

The share of the network is its own time, on one core, over all of the time in which one process maps the smallest scene.

    python tests/benchmarks/bench_predict.py [--sizes 1024,4096] [--runs 2] [--patch 8] [--workers 2] [--folder F]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import torch
from _harness import report, table
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from map_world import BANDS, make_network, write_scene

from mmearth_model import Network, Output, load_network, predict_scene, save_network
from mmearth_model.heads.unet import UNet
from mmearth_model.maps.windows import plan_axis
from mmearth_model.threads import PASSIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE_PX, STEP_PX = 64, 32
CLASSES = tuple(Output(name=f"class {code}", code=code) for code in range(10))
ATTO: dict[str, Any] = {"depths": None, "widths": None}
ROWS = 1024
GIB = 2**30


def write_large(path: Path, size: int) -> None:
    """Write a scene in pieces, so that this process stays small."""
    rng = np.random.default_rng(0)
    tiled = {
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "DEFLATE",
        "zlevel": 1,
        "bigtiff": "IF_SAFER",
    }
    write_scene(path, np.zeros((len(BANDS), 16, 16), np.uint16))
    with rasterio.open(path) as small:
        profile = {**small.profile, **tiled, "height": size, "width": size}
        tags = small.tags()
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.descriptions = BANDS
        dataset.update_tags(**tags)
        for row in range(0, size, 512):
            for column in range(0, size, 512):
                height, width = min(512, size - row), min(512, size - column)
                coarse = rng.uniform(300, 4000, (len(BANDS), 64, 64))
                part = np.kron(coarse, np.ones((8, 8)))[:, :height, :width]
                dataset.write(part.astype(np.uint16), window=Window(column, row, width, height))


def plain_loop(network: Network, scene: Path, out: Path) -> None:
    """Map a scene as one would without this package's maps: a window at a time, the whole result in memory."""
    with rasterio.open(scene) as dataset:
        height, width = dataset.shape
        rows, columns = (plan_axis(length, SIZE_PX, STEP_PX, align=network.patch_px) for length in (height, width))
        total = np.zeros((len(CLASSES), height + SIZE_PX, width + SIZE_PX), np.float32)
        stored = network.normaliser.modalities["sentinel2"].bands
        for top, down in zip(rows.offsets.tolist(), rows.weights, strict=True):
            for left, across in zip(columns.offsets.tolist(), columns.weights, strict=True):
                batch = np.zeros((1, len(stored), SIZE_PX, SIZE_PX), np.uint16)
                pixels = dataset.read(
                    window=Window(left, top, SIZE_PX, SIZE_PX),
                    boundless=left + SIZE_PX > width or top + SIZE_PX > height,
                )
                batch[0, [stored.index(band) for band in BANDS]] = pixels
                images = network.normaliser.images({"sentinel2": batch, "tile": {"s2_level": np.ones(1, np.uint8)}})
                with torch.inference_mode():
                    values = torch.softmax(network.module(images), dim=1)[0].numpy()
                total[:, top : top + SIZE_PX, left : left + SIZE_PX] += values * np.outer(down, across)
        profile = {
            **dataset.profile,
            "count": 1,
            "dtype": "uint8",
            "nodata": 255,
            "driver": "COG",
            "compress": "DEFLATE",
        }
    for name in ("blockxsize", "blockysize", "tiled", "interleave"):
        profile.pop(name, None)
    with rasterio.open(out, "w", **profile) as dataset:
        dataset.write(total[:, :height, :width].argmax(axis=0).astype(np.uint8), 1)


def run_one(kind: str, folder: Path, size: int, workers: int) -> None:
    """Do one run in this process, and print its seconds."""
    network, scene, out = load_network(folder / "net"), folder / f"s{size}.tif", folder / f"{kind}{size}.tif"
    out.unlink(missing_ok=True)
    begin = time.perf_counter()
    if kind == "plain":
        torch.set_num_threads(workers)
        plain_loop(network, scene, out)
    else:
        predict_scene(folder / "net", [scene], out, workers=workers)
    sys.stdout.write(f"{time.perf_counter() - begin}\n")


def measured(kind: str, folder: Path, size: int, workers: int, program: str = __file__) -> tuple[float, float]:
    """Seconds and peak memory, GiB, of one run of a benchmark in a process of its own."""
    command = [
        sys.executable,
        program,
        "--one",
        kind,
        "--folder",
        str(folder),
        "--sizes",
        str(size),
        "--workers",
        str(workers),
    ]
    waiting = {**os.environ, **PASSIVE}  # else idle threads of the plain loop take its cores
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=waiting)
    peaks = [0]
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    text, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(process.returncode)
    return float(text.splitlines()[-1]), peaks[0] / GIB


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.poll() is None:
        begun = time.perf_counter()
        peaks[0] = max(peaks[0], sum(_resident(pid) for pid in _family(process.pid)))
        time.sleep(max(0.1, 50 * (time.perf_counter() - begun)))  # looking at much memory takes what it measures


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _resident(pid: int) -> int:
    """Bytes that a process holds; pages that several processes share count in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, IndexError):
        return 0


def network_share(folder: Path, size: int) -> float:
    """Share of the time of one process that is spent in the network itself."""
    from mmearth_model.maps import jobs

    spent, original = [0.0], jobs.loaded

    def loaded(path: Path, device: str) -> Network:
        network = original(path, device)
        if not network.module._forward_hooks:
            begun: list[float] = []
            network.module.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
            network.module.register_forward_hook(lambda *_: spent.append(time.perf_counter() - begun[-1]))
        return network

    jobs.loaded = loaded  # type: ignore[assignment]
    out = folder / "share.tif"
    out.unlink(missing_ok=True)
    begin = time.perf_counter()
    predict_scene(folder / "net", [folder / f"s{size}.tif"], out)
    jobs.loaded = original
    return sum(spent) / (time.perf_counter() - begin)


def main() -> None:
    """Write the scenes, measure, report."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--sizes", default="1024,4096", help="sides of the scenes, px; the plain loop maps the smallest"
    )
    options.add_argument("--runs", type=int, default=2, help="runs of both on the smallest scene, in turns")
    options.add_argument(
        "--patch", type=int, default=8, help="patches, px; with 16 the encoder does a quarter of the work"
    )
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
        network = make_network(
            outputs=CLASSES, window_px=SIZE_PX, encoder=ATTO | {"patch_size": given.patch}, head=UNet
        )
        save_network(folder / "net", network)
        for size in sizes:
            write_large(folder / f"s{size}.tif", size)
        tell(folder, sizes, given)


def tell(folder: Path, sizes: list[int], given: Any) -> None:
    """Measure, and write tables and the line of JSON."""
    smallest = sizes[0]
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    memory = dict.fromkeys(times, 0.0)
    for run in range(given.runs):
        for kind in ("plain", "ours")[:: 1 if run % 2 == 0 else -1]:
            seconds, peak = measured(kind, folder, smallest, given.workers)
            times[kind].append(seconds)
            memory[kind] = max(memory[kind], peak)
    ours, plain = (statistics.median(times[kind]) for kind in ("ours", "plain"))
    rows = [[f"{smallest} px, {kind}", smallest**2 / statistics.median(times[kind]), memory[kind]] for kind in times]
    figures = {
        "plain": (smallest**2 / plain, "px/s"),
        f"{smallest} px": (smallest**2 / ours, "px/s"),
        f"{smallest} px, peak": (memory["ours"], "GiB"),
        "share of the network": (100 * network_share(folder, smallest), "%"),
    }
    for size in sizes[1:]:
        seconds, peak = measured("ours", folder, size, given.workers)
        rows.append([f"{size} px, ours", size**2 / seconds, peak])
        figures |= {f"{size} px": (size**2 / seconds, "px/s"), f"{size} px, peak": (peak, "GiB")}
    table("Maps of scenes", ["scene", "px/s", "peak GiB"], rows)
    report("predict", plain / ours, figures)


if __name__ == "__main__":
    main()
