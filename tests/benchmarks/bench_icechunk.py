"""Compare the store with icechunk: the same tiles, chunks, shards and codecs, written and read in the same run.

The pixels are those of 64 tiles of the synthetic planet (all modalities, 64 px), repeated. Each tile is compressed
separately, so the repetition does not help any codec. Shards of icechunk have the same bytes as ours (asserted).

The benchmark measures:

- writing, with one icechunk commit per shard, with zarr-python's encoder and with ours, which isolates icechunk's overhead;
- reading whole shards and random blocks of 32 tiles with zarr-python from both, and with our loader;
- opening;
- a writer that is killed (SIGKILL) after half of its shards;
- single flipped bits in every kind of file;
- bytes and objects;
- requests to an S3 server, if moto is installed;
- other libraries as readers;
- lines of our code.

Only this benchmark uses icechunk: `pip install icechunk`.

    python tests/benchmarks/bench_icechunk.py [--tiles 10000] [--runs 3] [--kills 3] [--flips 25]
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import importlib.util
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import xarray as xr
import zarr
from _harness import alternate, report, table, timed
from bench_write import Shards, make_shards, write_ours
from zarr.core.buffer import default_buffer_prototype

from mmearth_data import open_store, verify
from mmearth_data.errors import MMEarthError
from mmearth_data.store import StoreWriter
from mmearth_data.store.encoding import encode_shard, object_key

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE_PX = 64
BLOCK = 32
BLOCKS = 48
MOST_KILLED = 2560
"""Tiles of a store whose writer is killed."""
FLIPPED = 64
"""Tiles of a store whose bits are flipped."""
WRITERS = {"ours": "ours", "each": "icechunk, a commit per shard", "once": "icechunk, one commit"}
MODULES = {
    "folders and buckets": ("storage/local.py", "storage/remote.py", "storage/protocol.py", "storage/__init__.py"),
    "commit records, manifest": ("commits.py", "manifest.py"),
    "lock": ("storage/lock.py",),
    "create, resume, grow": ("session.py", "growth.py"),
    "verify": ("verify.py",),
    "whole of mmearth_data/store": ("**/*.py",),
}
"""Modules of `mmearth_data/store` whose work icechunk does in whole or in part."""
PACKAGE = Path(__file__).resolve().parents[2] / "mmearth_data" / "store"


# ------------------------------------------------------------ writing


def make_tiles(folder: Path, tiles: int) -> Shards:
    """Shards of planet tiles; no row occurs twice."""
    shards = make_shards(folder, tiles, SIZE_PX)
    for number, columns in enumerate(shards.columns):
        columns["time"] = columns["time"] + number * shards.layout.tiles_per_shard
    return shards


def finish_ours(shards: Shards, folder: Path) -> None:
    """Write all shards, statistics, tables and the manifest, as a build does."""
    write_ours(shards, folder).finish()


def repository(path: Path | str) -> icechunk.Repository:
    """Open a repository in a folder."""
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))


def lay_out(template: Path, storage: icechunk.Storage) -> icechunk.Repository:
    """Create a repository with the arrays of a finished store, the 1-D ones filled."""
    repo = icechunk.Repository.create(storage)
    session = repo.writable_session("main")
    group = zarr.open_group(template, mode="r")
    zarr.create_group(session.store, attributes=dict(group.attrs))
    for name, array in group.arrays():
        zarr.from_array(session.store, data=array, name=name, write_data=array.shards is None)
    session.commit("layout")
    return repo


def put_by_zarr(session: icechunk.Session, shards: Shards, shard: int) -> None:
    """Let zarr-python encode a shard."""
    rows = shards.layout.rows(shard)
    group = zarr.open_group(session.store)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for m in shards.layout.rasters:
            array = group[m.name]
            assert isinstance(array, zarr.Array)
            array[rows.start : rows.stop] = shards.rasters[shard][m.name]


def put_by_us(session: icechunk.Session, shards: Shards, shard: int) -> None:
    """Encode a shard as our writer does, and let icechunk store it."""
    layout = shards.layout
    specs = {spec.name: spec for spec in layout.arrays}

    def encoded(name: str) -> tuple[str, bytes]:
        values = shards.rasters[shard][name]
        return object_key(specs[name], shard), bytes(encode_shard(values, layout.tiles_per_shard))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(encoded, [m.name for m in layout.rasters]))

    async def put() -> None:
        make = default_buffer_prototype().buffer.from_bytes
        await asyncio.gather(*(session.store.set(key, make(data)) for key, data in objects))

    asyncio.run(put())


def write_theirs(
    shards: Shards, template: Path, folder: Path, put: Callable[[icechunk.Session, Shards, int], None]
) -> icechunk.Repository:
    """Write all shards through icechunk, with one commit per shard, from which an interrupted build resumes."""
    shutil.rmtree(folder, ignore_errors=True)
    repo = lay_out(template, icechunk.local_filesystem_storage(str(folder)))
    for shard in range(shards.layout.shards):
        session = repo.writable_session("main")
        put(session, shards, shard)
        session.commit(f"shard {shard}")
    return repo


def measure_writing(shards: Shards, folder: Path, runs: int) -> dict[str, tuple[float, str]]:
    """Write with all three, and compare the values and bytes."""
    ours, theirs, mixed, template = (folder / name for name in ("ours", "icechunk", "mixed", "template"))
    busy: dict[str, list[float]] = {"ours": [], "theirs": [], "mixed": []}

    def turn(name: str) -> None:
        start = time.process_time()
        if name == "ours":
            shutil.rmtree(ours, ignore_errors=True)
            finish_ours(shards, ours)
        else:
            put = put_by_zarr if name == "theirs" else put_by_us
            write_theirs(shards, template, folder / ("icechunk" if name == "theirs" else name), put)
        busy[name].append(time.process_time() - start)

    finish_ours(shards, template)
    plain = alternate(lambda: turn("ours"), lambda: turn("theirs"), runs, warm_up=False)
    own = alternate(lambda: turn("ours"), lambda: turn("mixed"), runs, warm_up=False)
    assert_equal(ours, theirs, mixed)
    cpu = {name: statistics.median(seconds) for name, seconds in busy.items()}
    wall = {"ours": statistics.median((*plain.a_s, *own.a_s)), "theirs": plain.median_b_s, "mixed": own.median_b_s}
    labels = ("ours, with statistics, tables, digests", "icechunk, encoded by zarr-python", "icechunk, encoded by us")
    mb, tiles = shards.raw_mb, shards.layout.tiles
    rows = [
        [label, mb / wall[name], mb / cpu[name], tiles / wall[name]] for name, label in zip(busy, labels, strict=True)
    ]
    header = ["writer", "MB/s raw", "MB/CPU s", "tiles/s"]
    table(f"writing {tiles:,} tiles, one commit per shard", header, rows)
    return {
        **{f"write_{name}": (mb / wall[name], "MB/s raw") for name in busy},
        **{f"write_cpu_{name}": (mb / cpu[name], "MB raw per CPU second") for name in busy},
        "write_ratio": (plain.ratio, "ours / icechunk"),
        "write_ratio_our_encoder": (own.ratio, "ours / icechunk"),
    }


def assert_equal(ours: Path, *others: Path) -> None:
    """Compare the bytes of all shards."""
    layout = open_store(ours).layout
    names = {m.name for m in layout.rasters}
    mine = Counter(file.read_bytes() for name in names for file in (ours / name).rglob("0/0/0") if file.is_file())
    for other in others:
        found = Counter(file.read_bytes() for file in (other / "chunks").iterdir())
        assert not mine - found, f"{other}: shards differ"


# ------------------------------------------------------------ reading


def groups(ours: Path, theirs: Path) -> tuple[zarr.Group, zarr.Group]:
    """Both stores, as zarr-python opens them."""
    session = repository(theirs).readonly_session("main")
    return zarr.open_group(ours, mode="r"), zarr.open_group(session.store, mode="r")


def read_blocks(group: zarr.Group, names: list[str], blocks: list[slice]) -> None:
    """Read all rasters of some rows."""
    for block in blocks:
        for name in names:
            array = group[name]
            assert isinstance(array, zarr.Array)
            array[block]


def measure_reading(ours: Path, theirs: Path, runs: int) -> dict[str, tuple[float, str]]:
    """Read whole shards and random blocks from both, and ours with the loader."""
    store = open_store(ours)
    layout, names = store.layout, [m.name for m in store.layout.rasters]
    whole = [slice(rows.start, rows.stop) for rows in map(layout.rows, range(layout.shards))]
    starts = np.random.default_rng(0).choice(max(1, layout.tiles // BLOCK), min(BLOCKS, layout.tiles // BLOCK), False)
    some = [slice(start * BLOCK, (start + 1) * BLOCK) for start in starts.tolist()]
    group = dict(zip(("ours", "icechunk"), groups(ours, theirs), strict=True))
    busy: dict[str, list[float]] = {}

    def turn(name: str, blocks: list[slice]) -> None:
        start = time.process_time()
        read_blocks(group[name], names, blocks)
        busy.setdefault(name, []).append(time.process_time() - start)

    rows: list[list[object]] = []
    figures: dict[str, tuple[float, str]] = {}
    for what, blocks in (("whole shards", whole), ("random blocks of 32", some)):
        busy.clear()
        tiles = sum(min(block.stop, layout.tiles) - block.start for block in blocks)
        turns = (partial(turn, name, blocks) for name in group)
        times = alternate(next(turns), next(turns), runs, warm_up=blocks is some)
        wall = {"ours": times.median_a_s, "icechunk": times.median_b_s}
        for name in group:
            cpu_s = statistics.median(busy[name][-runs:])
            rows.append([f"{name}, {what}", tiles / wall[name], tiles / cpu_s])
            figures[f"read_{what.split()[1]}_{name}"] = (tiles / wall[name], "tiles/s")
            figures[f"read_cpu_{what.split()[1]}_{name}"] = (tiles / cpu_s, "tiles per CPU second")
    loader_s = statistics.median(
        timed(lambda: sum(1 for _ in store.loader(batch_size=256, seed=0))) for _ in range(runs)
    )
    rows.append(["our loader, shuffled, raw", layout.tiles / loader_s, ""])
    table("reading (zarr-python reads both)", ["read", "tiles/s", "tiles/CPU s"], rows)
    return {**figures, "loader": (layout.tiles / loader_s, "tiles/s")}


def measure_opening(ours: Path, theirs: Path, runs: int) -> dict[str, tuple[float, str]]:
    """Open both with xarray, ours also with the toolkit."""

    def open_theirs() -> None:
        session = repository(theirs).readonly_session("main")
        xr.open_zarr(session.store, consolidated=False, chunks=None)

    times = alternate(lambda: xr.open_zarr(ours, chunks=None), open_theirs, max(5, runs))
    store_s = statistics.median(timed(lambda: open_store(ours)) for _ in range(5))
    rows = [
        ["open_store, which checks digests", store_s * 1e3],
        ["xarray.open_zarr", times.median_a_s * 1e3],
        ["icechunk and xarray.open_zarr", times.median_b_s * 1e3],
    ]
    table("opening, ms", ["how", "ms"], rows)
    keys = ("open_store", "open_xarray", "open_icechunk")
    return {key: (row[1], "ms") for key, row in zip(keys, rows, strict=True)}


def measure_size(ours: Path, theirs: Path) -> dict[str, tuple[float, str]]:
    """Bytes and objects of both."""
    rows = [[name, *size_of(path)] for name, path in (("ours", ours), ("icechunk", theirs))]
    parts = Counter(file.relative_to(theirs).parts[0] for file in theirs.rglob("*") if file.is_file())
    table("size", ["store", "MB", "objects"], rows)
    table("objects of icechunk", ["folder", "objects"], [list(part) for part in parts.items()])
    return {
        f"{what}_{row[0]}": (row[k], unit) for row in rows for k, what, unit in ((1, "size", "MB"), (2, "objects", "1"))
    }


def size_of(path: Path) -> tuple[float, int]:
    """MB and number of the files in a folder."""
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file() and "_ledger" not in file.parts]
    return sum(sizes) / 1e6, len(sizes)


# ------------------------------------------------------------ a killed writer


def child(mode: str, folder: Path, template: Path, tiles: int, planet: Path) -> None:
    """Write the missing shards, one after another, and print a line for each."""
    shards = make_tiles(planet, tiles)
    if mode == "ours":
        writer = StoreWriter.resume(folder)
        for shard in sorted(set(range(shards.layout.shards)) - writer.committed()):
            writer.write_shard(shard, shards.columns[shard], shards.rasters[shard])
            sys.stdout.write(f"{shard}\n")
            sys.stdout.flush()
        writer.finish()
        return
    repo = repository(folder)
    done = {snapshot.message for snapshot in repo.ancestry(branch="main")}
    session = repo.writable_session("main")
    for shard in range(shards.layout.shards):
        if f"shard {shard}" in done:
            continue
        put_by_us(session, shards, shard)
        if mode == "each":
            session.commit(f"shard {shard}")
            session = repo.writable_session("main")
        sys.stdout.write(f"{shard}\n")
        sys.stdout.flush()
    if mode == "once":
        session.commit("all")


@dataclass
class Killed:
    """What kills left, over several tries."""

    written: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    left_mb: list[float] = field(default_factory=list)
    equal: list[bool] = field(default_factory=list)
    same_bytes: list[bool] = field(default_factory=list)


def kill_once(mode: str, folder: Path, shards: Shards, template: Path, after_s: float, found: Killed) -> None:
    """Kill a writer after half of its shards, look, resume, and compare with the uninterrupted store."""
    path, planet = folder / mode, folder / "planet"
    shutil.rmtree(path, ignore_errors=True)
    if mode == "ours":
        StoreWriter.create(path, shards.layout, recipe={}, source={}, synthetic=True)
    else:
        lay_out(template, icechunk.local_filesystem_storage(str(path)))
    command = [sys.executable, __file__, "--child", mode, str(path), str(template), str(planet)]
    command += ["--tiles", str(shards.layout.tiles)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(shards.layout.shards // 2):
            process.stdout.readline()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        found.written.append(shards.layout.shards // 2 + len(process.stdout.readlines()))
    if mode == "ours":
        found.kept.append(len(StoreWriter.resume(path).committed()))
    else:
        messages = [snapshot.message for snapshot in repository(path).ancestry(branch="main")]
        found.kept.append(sum(message.startswith("shard") for message in messages))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if mode == "ours":
        found.left_mb.append(0.0 if not verify(path).problems else float("nan"))
        found.same_bytes.append(files_of(path) == files_of(template))
        found.equal.append(found.same_bytes[-1])
    else:
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        found.left_mb.append(repository(path).garbage_collect(later).bytes_deleted / 1e6)
        found.equal.append(same_values(*groups(template, path)))
        names = {file.name for file in (path / "chunks").iterdir()}
        found.same_bytes.append(names == {file.name for file in (template / "chunks").rglob("*")})


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of a store, without the ledger."""
    files = [file for file in path.rglob("*") if file.is_file() and "_ledger" not in file.parts]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def same_values(a: zarr.Group, b: zarr.Group) -> bool:
    """Compare all arrays."""
    values = [(np.asarray(array[:]), np.asarray(b[name][:])) for name, array in a.arrays()]  # type: ignore[index]
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind in "fM") for x, y in values)


def measure_kills(folder: Path, tiles: int, kills: int) -> dict[str, tuple[float, str]]:
    """Kill each writer several times."""
    shards = make_tiles(folder / "planet", tiles)
    template = folder / "whole"
    finish_ours(shards, template)
    pause = random.Random(0)
    rows: list[list[object]] = []
    figures: dict[str, tuple[float, str]] = {}
    for mode in ("ours", "each", "once"):
        found = Killed()
        for _ in range(kills):
            kill_once(mode, folder, shards, template, pause.uniform(0, 0.1), found)
        lost = [written - kept for written, kept in zip(found.written, found.kept, strict=True)]
        left = [round(mb, 1) for mb in found.left_mb]
        rows.append([WRITERS[mode], *map(str, (found.written, lost, left)), all(found.equal), all(found.same_bytes)])
        figures[f"killed_lost_{mode}"] = (max(lost), "shards reported as written")
        figures[f"killed_left_{mode}"] = (max(found.left_mb), "MB until garbage is collected")
        figures[f"killed_equal_{mode}"] = (int(all(found.equal)), "1 = values equal after resuming")
        figures[f"killed_bytes_{mode}"] = (int(all(found.same_bytes)), "1 = files equal after resuming")
    header = ["writer", "written", "lost", "MB left", "values equal", "files equal"]
    table(f"killed after half of {shards.layout.shards} shards, {kills} times", header, rows)
    return figures


# ------------------------------------------------------------ flipped bits


def kinds_of(path: Path) -> dict[str, list[Path]]:
    """Files by what they are: chunks of arrays, their metadata, and everything else by its folder or name."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        if not file.is_file() or parts[0] == "_ledger":
            continue
        chunk = parts[0] == "chunks" or (len(parts) > 2 and parts[1] == "c")
        metadata = len(parts) > 1 and parts[-1] == "zarr.json"
        kind = "chunks" if chunk else "array metadata" if metadata else parts[0]
        found.setdefault(kind, []).append(file)
    return found


def read_by_zarr(group: zarr.Group) -> dict[str, Any]:
    """All values."""
    return {name: np.asarray(array[:]) for name, array in group.arrays()}


def read_theirs(path: Path) -> dict[str, Any]:
    """All values and the history, by icechunk."""
    repo = repository(path)
    history = [(snapshot.id, snapshot.message) for snapshot in repo.ancestry(branch="main")]
    session = repo.readonly_session("main")
    return {**read_by_zarr(zarr.open_group(session.store, mode="r")), "history": np.array(history)}


def read_ours(path: Path) -> dict[str, Any]:
    """All values and the table of tiles, by the toolkit."""
    store = open_store(path)
    whole = slice(0, store.layout.tiles)
    arrays = {m.name: store.read(m.name, whole) for m in store.layout.stored}
    frame = {f"table {name}": store.tiles[name].to_numpy() for name in store.tiles.columns if name != "geometry"}
    return {**arrays, **dict(store.tile_columns), **frame, "statistics": np.array(str(store.statistics))}


def outcome(read: Callable[[Path], dict[str, Any]], path: Path, truth: dict[str, Any]) -> str:
    """``noticed``, ``wrong`` (values without an error) or ``no effect``."""
    try:
        seen = read(path)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "noticed"
    if seen.keys() != truth.keys():
        return "wrong"
    same = all(
        seen[name].shape == truth[name].shape
        and np.array_equal(seen[name], truth[name], equal_nan=truth[name].dtype.kind in "fM")
        for name in truth
    )
    return "no effect" if same else "wrong"


def problems(path: Path) -> dict[str, Any]:
    """Nothing if the store is sound, otherwise an error."""
    found = verify(path).problems
    if found:
        raise MMEarthError(found[0].part)
    return {}


def flip(
    path: Path, flips: int, readers: dict[str, tuple[Callable[[Path], dict[str, Any]], dict[str, Any]]]
) -> dict[tuple[str, str], Counter[str]]:
    """Flip one bit at a time in each kind of file; count what each reader makes of it."""
    draw = random.Random(1)
    counts: dict[tuple[str, str], Counter[str]] = {}
    for kind, files in kinds_of(path).items():
        for _ in range(flips):
            file = draw.choice(files)
            data = file.read_bytes()
            changed = bytearray(data)
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            for name, (read, truth) in readers.items():
                counts.setdefault((name, kind), Counter())[outcome(read, path, truth)] += 1
            file.write_bytes(data)
    return counts


def measure_flips(folder: Path, flips: int) -> dict[str, tuple[float, str]]:
    """Flip bits in both."""
    ours, theirs = folder / "flipped", folder / "flipped-icechunk"
    shards = make_tiles(folder / "planet", FLIPPED)
    finish_ours(shards, ours)
    write_theirs(shards, ours, theirs, put_by_us)

    def plain(path: Path) -> dict[str, Any]:
        return read_by_zarr(zarr.open_group(path, mode="r"))

    counts = flip(ours, flips, {
        "ours, verify": (problems, {}),
        "ours, reading everything": (read_ours, read_ours(ours)),
        "ours, zarr-python": (plain, plain(ours)),
    })  # fmt: skip
    counts |= flip(theirs, flips, {"icechunk, reading everything": (read_theirs, read_theirs(theirs))})
    names = ("noticed", "wrong", "no effect")
    table(
        f"{flips} flipped bits in each kind of file",
        ["reader", "kind of file", *names],
        [[*key, *(found[name] for name in names)] for key, found in counts.items()],
    )
    figures = {}
    for reader in dict.fromkeys(reader for reader, _ in counts):
        total = sum((found for (one, _), found in counts.items() if one == reader), Counter[str]())
        for name in names:
            key = f"flips {reader} {name}".replace(",", "").replace(" ", "_")
            figures[key] = (total[name] / total.total(), "of 1")
    return figures


# ------------------------------------------------------------ buckets


class Counted:
    """Counts the requests to a WSGI application by their method."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.counts[environ["REQUEST_METHOD"]] += 1
        return self.application(environ, start_response)


def measure_requests(folder: Path) -> dict[str, tuple[float, str]]:
    """Requests to an S3 server: two shards written, the store opened, one tile read."""
    from bucket_server import Buckets
    from loopback import make_bucket
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counted = Counted(Buckets("s3"))
    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    make_bucket(f"{url}/tiles")
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": url,
    }  # fmt: skip
    try:
        return _count_requests(folder, counted, url)
    finally:
        server.shutdown()


def _count_requests(folder: Path, counted: Counted, url: str) -> dict[str, tuple[float, str]]:
    shards = make_tiles(folder / "planet", FLIPPED)
    template, rows = folder / "template-bucket", []
    finish_ours(shards, template)

    def count(who: str, what: str, work: Callable[[], object]) -> None:
        counted.counts.clear()
        work()
        rows.append([who, what, sum(counted.counts.values()), str(dict(counted.counts))])

    storage = icechunk.s3_storage(
        bucket="tiles", prefix="theirs", region="us-east-1", endpoint_url=url, allow_http=True, force_path_style=True,
        access_key_id="test", secret_access_key="test",
    )  # fmt: skip

    def write_theirs_there() -> None:
        repo = lay_out(template, storage)
        for shard in range(shards.layout.shards):
            session = repo.writable_session("main")
            put_by_us(session, shards, shard)
            session.commit(f"shard {shard}")

    def write_ours_there() -> None:
        writer = StoreWriter.create("s3://tiles/ours.zarr", shards.layout, recipe={}, source={}, synthetic=True)
        for shard in range(shards.layout.shards):
            writer.write_shard(shard, shards.columns[shard], shards.rasters[shard])
        writer.finish()

    def open_theirs() -> zarr.Group:
        session = icechunk.Repository.open(storage).readonly_session("main")
        return zarr.open_group(session.store, mode="r")

    count("ours", "write two shards", write_ours_there)
    count("icechunk", "write two shards", write_theirs_there)
    count("ours", "open_store", lambda: open_store("s3://tiles/ours.zarr"))
    count("icechunk", "open", open_theirs)
    store, group = open_store("s3://tiles/ours.zarr"), open_theirs()
    name = shards.layout.rasters[0].name
    count("ours", "a raster of one tile", lambda: store.read(name, slice(3, 4)))
    count("icechunk", "a raster of one tile", lambda: group[name][3:4])  # type: ignore[index]
    table("requests to a bucket", ["store", "what", "requests", "by method"], rows)
    return {f"requests {who} {what}".replace(" ", "_"): (number, "requests") for who, what, number, _ in rows}


# ------------------------------------------------------------ others, and lines


def readers(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Other libraries, and whether they read an array from the folder."""

    def by_zarr() -> Any:
        return zarr.open_group(path, mode="r")[name][0]  # type: ignore[index]

    def by_tensorstore() -> Any:
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}
        return tensorstore.open(spec, open=True).result()[0].read().result()

    def by_gdal() -> Any:
        import rasterio

        with rasterio.open(f'ZARR:"{path}":/{name}') as source:
            return source.read(1)

    for library, module, read in (
        ("zarr-python", "zarr", by_zarr),
        ("tensorstore", "tensorstore", by_tensorstore),
        ("GDAL (rasterio's wheel)", "rasterio", by_gdal),
    ):
        if importlib.util.find_spec(module) is None:
            yield library, "not installed"
            continue
        try:
            read()
        except Exception as error:
            yield library, f"no ({type(error).__name__})"
        else:
            yield library, "yes"


def measure_others(ours: Path, theirs: Path) -> dict[str, tuple[float, str]]:
    """Readers without icechunk, and lines of our code."""
    name = open_store(ours).layout.rasters[0].name
    found = zip(readers(ours, name), readers(theirs, name), strict=True)
    table("readers of the folder", ["library", "ours", "icechunk's"], [[a[0], a[1], b[1]] for a, b in found])
    lines = {
        what: sum(
            bool(line.strip()) for p in patterns for file in PACKAGE.glob(p) for line in file.read_text().splitlines()
        )
        for what, patterns in MODULES.items()
    }
    table("lines of ours that are not empty", ["modules", "lines"], [[what, count] for what, count in lines.items()])
    return {f"lines {what}".replace(" ", "_"): (count, "lines") for what, count in lines.items()}


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        sys.stderr.write(f"icechunk {icechunk.__version__}, zarr-python {zarr.__version__}\n")
        shards = make_tiles(folder / "planet", options.tiles)
        ours, theirs = folder / "ours", folder / "icechunk"
        figures = measure_writing(shards, folder, options.runs)
        figures |= measure_size(ours, theirs) | measure_opening(ours, theirs, options.runs)
        figures |= measure_reading(ours, theirs, options.runs) | measure_others(ours, theirs)
        figures |= measure_flips(folder, options.flips)
        figures |= measure_kills(folder, min(options.tiles, MOST_KILLED), options.kills)
        if importlib.util.find_spec("moto") is not None:
            figures |= measure_requests(folder)
    report("icechunk", figures["write_ratio"][0], figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--flips", type=int, default=25, help="per kind of file")
    parser.add_argument("--folder", help="parent of the temporary folder")
    parser.add_argument("--child", nargs=4, metavar=("MODE", "FOLDER", "TEMPLATE", "PLANET"))
    arguments = parser.parse_args()
    icechunk.set_logs_filter("off")
    if arguments.child:
        mode, path, template, planet = arguments.child
        child(mode, Path(path), Path(template), arguments.tiles, Path(planet))
    else:
        main(arguments)
