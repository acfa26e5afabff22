"""Raw pixels into a store: our writer beside zarr-python's, and the codecs that it could use.

Tiles of the synthetic planet, all modalities, at 64 and at 128 px. Ours is what a build calls, two shards at a time: values
checked, statistics, digests, commit record, everything flushed to disk. zarr-python fills the same arrays (same shards,
same codecs, crc32c on) and does none of that. The two take turns, once with python-blosc2's library and once with numcodecs;
the median counts. Processor seconds depend less on what else the machine does.

The codecs are tried tile by tile on one thread, on planet tiles and on the real tiles of the test data where they are
present: what they save, and how fast they write and read. The default of the store is argued from that table.

    python tests/benchmarks/bench_write.py [--tiles 1024] [--sizes 64,128] [--runs 5]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import zarr
from _harness import Alternation, alternate, report, table, timed
from numcodecs import blosc
from numcodecs.blosc import Blosc

from mmearth_data import build, make_recipe
from mmearth_data.building.worker import SHARDS_IN_MEMORY
from mmearth_data.store import StoreLayout, StoreWriter, codec
from mmearth_data.store.codec import COMPRESSION_LEVEL, COMPRESSOR
from mmearth_data.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MMEARTH_TEST_DATA", ROOT.parent / "shared" / "data"))
TARGET_MB_S = 500
DISTINCT = 64
"""Different tiles; they are repeated, which no codec sees: each tile is compressed by itself."""
SHUFFLES = {"bitshuffle": Blosc.BITSHUFFLE, "shuffle": Blosc.SHUFFLE, "plain": Blosc.NOSHUFFLE}
CODECS = (
    ("zstd", 1, "bitshuffle"),
    ("zstd", 1, "shuffle"),
    ("zstd", 1, "plain"),
    ("zstd", 3, "bitshuffle"),
    ("zstd", 3, "shuffle"),
    ("zstd", 5, "bitshuffle"),
    ("zstd", 9, "bitshuffle"),
    ("lz4", 1, "bitshuffle"),
    ("lz4", 5, "bitshuffle"),
    ("lz4", 5, "shuffle"),
    ("lz4hc", 5, "bitshuffle"),
    ("blosclz", 5, "bitshuffle"),
)
REAL = {"S2L1C": np.uint16, "S2L2A": np.uint16, "S1RTC": np.float32, "DEM": np.int16, "LULC": np.uint8}


@dataclass
class Shards:
    """What is written: columns and rasters of each shard."""

    layout: StoreLayout
    columns: list[dict[str, Any]]
    rasters: list[dict[str, np.ndarray[Any, Any]]]

    @property
    def raw_mb(self) -> float:
        """Bytes of all pixels, MB."""
        return sum(values.nbytes for part in self.rasters for values in part.values()) / 1e6


@dataclass
class Written:
    """Wall-clock and processor seconds of both writers, MB of raw pixels, raw over stored."""

    times: Alternation
    cpu: Alternation
    raw_mb: float
    saved: float


def make_shards(folder: Path, tiles: int, size_px: int) -> Shards:
    """Shards of planet tiles, the same few over and over; all shards have the same pixels, which saves memory."""
    options = {"source": "synthetic", "tiles": DISTINCT, "tile_size": size_px, "tiles_per_shard": DISTINCT}
    build(make_recipe(None, options), folder)
    store = Store.open(folder)
    per_shard = min(256, tiles // SHARDS_IN_MEMORY)
    layout = StoreLayout(modalities=store.layout.modalities, tiles=tiles, size_px=size_px, tiles_per_shard=per_shard)
    made = Shards(layout, [], [])
    pixels = {m.name: store.read(m.name, slice(0, DISTINCT)) for m in layout.rasters}
    pixels = {name: values[np.resize(store.rows, per_shard)] for name, values in pixels.items()}
    for shard in range(layout.shards):
        rows = np.resize(store.rows, len(layout.rows(shard)))
        columns = {name: values[rows] for name, values in store.tile_columns.items() if name != "valid"}
        columns["time"] = columns["time"].astype(np.int64) + np.arange(len(rows))  # no row twice in a shard
        columns |= {m.name: store.content.column(m.name)[rows] for m in layout.tabular}
        made.columns.append({**columns, "facts": ["{}"] * len(rows)})
        made.rasters.append({name: values[: len(rows)] for name, values in pixels.items()})
    return made


def write_ours(shards: Shards, folder: Path) -> StoreWriter:
    """As a build does."""
    shutil.rmtree(folder, ignore_errors=True)
    writer = StoreWriter.create(folder, shards.layout, recipe={}, source={}, synthetic=True)
    with ThreadPoolExecutor(SHARDS_IN_MEMORY) as pool:
        list(pool.map(writer.write_shard, range(shards.layout.shards), shards.columns, shards.rasters))
    return writer


def write_theirs(shards: Shards, folder: Path) -> None:
    """zarr-python, with its own threads and those of Blosc as it sets them."""
    shutil.rmtree(folder, ignore_errors=True)
    StoreWriter.create(folder, shards.layout, recipe={}, source={}, synthetic=True)
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(folder, mode="r+")
        for m in shards.layout.rasters:
            array = group[m.name]
            assert isinstance(array, zarr.Array)
            for shard, rasters in enumerate(shards.rasters):
                rows = shards.layout.rows(shard)
                array[rows.start : rows.stop] = rasters[m.name]


def raster_bytes(folder: Path, shards: Shards) -> dict[str, bytes]:
    """Every object that holds pixels."""
    files = [file for m in shards.layout.rasters for file in (folder / m.name / "c").rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def assert_same_values(ours: Path, theirs: Path) -> None:
    """Compare all rasters as zarr-python reads them."""
    group = zarr.open_group(theirs, mode="r")
    for m in Store.open(ours).layout.rasters:
        np.testing.assert_array_equal(zarr.open_array(ours / m.name, mode="r")[:], group[m.name][:])


def compare(folder: Path, shards: Shards, runs: int, *, same_bytes: bool) -> Written:
    """Let both writers write the same."""
    ours, theirs = folder / "ours", folder / "theirs"
    busy: dict[str, list[float]] = {"ours": [], "theirs": []}

    def turn(name: str, write: Callable[[Shards, Path], object], path: Path) -> None:
        start = time.process_time()
        write(shards, path)
        busy[name].append(time.process_time() - start)

    times = alternate(lambda: turn("ours", write_ours, ours), lambda: turn("theirs", write_theirs, theirs), runs)
    first = raster_bytes(ours, shards)
    write_ours(shards, ours)
    assert first == raster_bytes(ours, shards), "the bytes are not deterministic"
    if same_bytes:
        assert first == raster_bytes(theirs, shards), "zarr-python writes other bytes"
    else:
        assert_same_values(ours, theirs)
    return Written(
        times=times,
        cpu=Alternation(tuple(busy["ours"][1:]), tuple(busy["theirs"][1:])),
        raw_mb=shards.raw_mb,
        saved=shards.raw_mb * 1e6 / sum(map(len, first.values())),
    )


def try_codecs(tiles: dict[str, np.ndarray[Any, Any]]) -> list[list[Any]]:
    """Size and speed of each codec over some tiles of several modalities, one thread."""
    blosc.use_threads = False
    raw = sum(values.nbytes for values in tiles.values())
    rows = []
    for name, level, shuffle in CODECS:
        codecs = {
            key: Blosc(cname=name, clevel=level, shuffle=SHUFFLES[shuffle], typesize=values.dtype.itemsize)
            for key, values in tiles.items()
        }
        packed = {key: [codecs[key].encode(tile) for tile in values] for key, values in tiles.items()}

        def encode(codecs: dict[str, Blosc] = codecs) -> None:
            for key, values in tiles.items():
                for tile in values:
                    codecs[key].encode(tile)

        def decode(codecs: dict[str, Blosc] = codecs, packed: dict[str, list[bytes]] = packed) -> None:
            for key, parts in packed.items():
                out = np.empty_like(tiles[key][0])
                for part in parts:
                    codecs[key].decode(part, out)

        encode_s, decode_s = min(timed(encode) for _ in range(3)), min(timed(decode) for _ in range(3))
        size = sum(len(part) for parts in packed.values() for part in parts)
        mark = " *" if (name, level, shuffle) == (COMPRESSOR, COMPRESSION_LEVEL, "bitshuffle") else ""
        rows.append([f"{name} {level}, {shuffle}{mark}", size / raw, raw / encode_s / 1e6, raw / decode_s / 1e6])
    return rows


def real_tiles() -> dict[str, np.ndarray[Any, Any]]:
    """Real pixels cut into tiles of 64 px; nothing where the test data are absent."""
    import rasterio

    tiles: dict[str, list[np.ndarray[Any, Any]]] = {}
    for folder, dtype in REAL.items():
        for file in sorted((DATA / "terramesh" / folder).glob("*.tif")):
            with rasterio.open(file) as source:
                pixels = source.read().astype(dtype)
            for y, x in np.ndindex(3, 3):
                tile = pixels[:, y * 64 : y * 64 + 64, x * 64 : x * 64 + 64]
                tiles.setdefault(folder, []).append(np.ascontiguousarray(tile))
    return {name: np.stack(parts) for name, parts in tiles.items()}


def codec_tables(planet: Path) -> None:
    """Tables of codecs on planet tiles and on real ones."""
    header = ["codec (* in use)", "stored / raw", "write, MB/s", "read, MB/s"]
    store = Store.open(planet)
    sample = {m.name: store.read(m.name, slice(0, DISTINCT)) for m in store.layout.rasters}
    table("planet tiles, all rasters, one thread", header, try_codecs(sample))
    real = real_tiles()
    if not real:
        sys.stderr.write(f"no real tiles at {DATA}: set MMEARTH_TEST_DATA\n")
        return
    table("real tiles (TerraMesh): Sentinel-2, Sentinel-1, elevation, land cover", header, try_codecs(real))
    for name in ("S2L1C", "S1RTC"):
        table(f"real tiles, {name} alone", header, try_codecs({name: real[name]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=1024, help="of 64 px; a quarter of them of 128 px")
    parser.add_argument("--sizes", default="64,128")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    figures: dict[str, tuple[float, str]] = {}
    rows, ratios = [], []
    with tempfile.TemporaryDirectory() as name:
        sizes = [int(text) for text in options.sizes.split(",")]
        for size_px in sizes:
            tiles = max(2 * SHARDS_IN_MEMORY, options.tiles * 64**2 // size_px**2)
            sys.stderr.write(f"making {DISTINCT} planet tiles of {size_px} px ...\n")
            shards = make_shards(Path(name) / f"planet-{size_px}", tiles, size_px)
            for way, library in (("blosc2", codec.fast_blosc()), ("numcodecs", None)):
                with patch.object(codec, "fast_blosc", lambda library=library: library):
                    found = compare(Path(name), shards, options.runs, same_bytes=library is None)
                ours, theirs = found.raw_mb / found.times.median_a_s, found.raw_mb / found.times.median_b_s
                busy, busy_theirs = found.raw_mb / found.cpu.median_a_s, found.raw_mb / found.cpu.median_b_s
                wall, cpu = found.times.ratio, found.cpu.ratio
                rows.append([size_px, tiles, way, ours, theirs, wall, busy, busy_theirs, cpu, found.saved])
                ratios.append(wall)
                figures |= {
                    f"write_{size_px}_{way}": (ours, "MB/s raw"),
                    f"zarr_python_{size_px}_{way}": (theirs, "MB/s raw"),
                    f"cpu_ratio_{size_px}_{way}": (cpu, "theirs / ours"),
                }
        codec_tables(Path(name) / f"planet-{sizes[0]}")
    header = ["px", "tiles", "by", "MB/s", "zarr-python", "ratio", "MB/CPU s", "zarr-python", "ratio", "raw / stored"]
    table("all modalities into a store on disk", header, rows)
    sys.stderr.write(f"target: {TARGET_MB_S} MB/s on two idle cores; load now {os.getloadavg()[0]:.1f}\n")
    report("write", min(ratios), figures)


if __name__ == "__main__":
    main()
