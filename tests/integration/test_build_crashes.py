"""Whatever breaks a build, resuming it gives the same bytes, reads nothing twice, and no reader sees a wrong tile."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from build_making import MODALITIES, build_known, layout, make_plan, tile_values, tiles_read
from small_disk import small_disk
from store_making import digests

from mmearth_data import InputError, WriteFailed, open_store, verify

TESTS = Path(__file__).resolve().parents[1]
RASTERS = [m for m in layout().stored if m.name in MODALITIES and m.kind.is_raster]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of an uninterrupted build."""
    path = tmp_path_factory.mktemp("reference") / "s.zarr"
    build_known(path, path.parent / "log")
    return path


@pytest.fixture(scope="module")
def reference(whole: Path) -> dict[str, str]:
    """Bytes of an uninterrupted build."""
    return digests(whole)


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """End what a failed test left running."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


STARTED: list[subprocess.Popen[str]] = []


def start(store: Path, log: Path, *options: str) -> subprocess.Popen[str]:
    """Begin or continue a build in a process of its own, and wait until it is about to begin."""
    command = [sys.executable, str(TESTS / "build_making.py"), str(store), str(log), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    STARTED.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def committed(store: Path) -> frozenset[int]:
    names = list((store / "_commits").glob("*.parquet")) if store.exists() else []
    return frozenset(int(name.stem) for name in names)


def wait_until(true: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def ids_of(shards: frozenset[int]) -> set[int]:
    """Tiles that a shard may ask the source for."""
    plans = [make_plan().shard(shard) for shard in shards]
    return {part.place.tile_id for plan in plans for part in (*plan.slots, *plan.reserves)}


class Reader(threading.Thread):
    """Opens the store over and over, and compares every tile that it sees with what its id says."""

    def __init__(self, store: Path) -> None:
        super().__init__()
        self.store, self.done, self.seen = store, threading.Event(), 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.done.is_set():
            if (self.store / "zarr.json").exists():
                try:
                    self._look()
                except Exception as error:  # the test names it
                    if "has grown since; open it again" not in str(error):
                        self.wrong.append(repr(error))
            time.sleep(0.02)

    def _look(self) -> None:
        store = open_store(self.store)
        for row in random.sample(store.rows.tolist(), min(4, len(store))):
            tile_id = int(store.tile_columns["tile_id"][row])
            for m in RASTERS:
                if not np.array_equal(store.read(m.name, slice(row, row + 1))[0], tile_values(m, tile_id)):
                    self.wrong.append(f"{m.name} of row {row}")
            self.seen += 1


@contextmanager
def watched(store: Path) -> Iterator[Reader]:
    """Read the store all the while."""
    reader = Reader(store)
    reader.start()
    try:
        yield reader
    finally:
        reader.done.set()
        reader.join()
    assert reader.wrong == []


def go_on(store: Path, log: Path, reference: dict[str, str], known: frozenset[int]) -> None:
    """Finish in this process: the same bytes, and no committed shard asks the source again."""
    before = len(tiles_read(log))
    build_known(store, log)
    again = tiles_read(log)[before:]
    assert not set(again) & ids_of(known)
    assert digests(store) == reference
    assert verify(store).problems == ()


def kill_at_random(tmp_path: Path, reference: dict[str, str], kills: int, seed: int) -> None:
    draw = random.Random(seed)
    store, log = tmp_path / "s.zarr", tmp_path / "log"
    done = 0
    with watched(store) as reader:
        while done < kills:
            shutil.rmtree(store, ignore_errors=True)
            log.unlink(missing_ok=True)
            known: frozenset[int] = frozenset()
            while done < kills and not (store / "_manifest.json").exists():
                before = len(tiles_read(log))
                process = start(store, log, "--read-ms", "12")
                time.sleep(draw.uniform(0, 0.5))
                process.kill()
                process.communicate()
                assert not set(tiles_read(log)[before:]) & ids_of(known)
                assert known <= committed(store)
                known, done = committed(store), done + 1
            go_on(store, log, reference, known)
        wait_until(lambda: reader.seen > 0)


@pytest.mark.slow
def test_kill_9_at_fifty_moments(tmp_path: Path, reference: dict[str, str]) -> None:
    kill_at_random(tmp_path, reference, 50, seed=2)


@pytest.mark.slow  # test_commands_cut_off interrupts and kills a build by the command
def test_interrupt(tmp_path: Path, reference: dict[str, str]) -> None:
    store, log = tmp_path / "s.zarr", tmp_path / "log"
    with watched(store):
        process = start(store, log, "--read-ms", "150")
        wait_until(lambda: len(committed(store)) > 1)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        process.communicate()
        assert process.returncode == 130
        assert time.monotonic() - begin < 10
        known = committed(store)
        assert 0 < len(known) < layout().shards
        go_on(store, log, reference, known)


@contextmanager
def dask_processes(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Run a scheduler and some workers, each a process: address, and the processes, the scheduler first."""
    info = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": ENVIRONMENT}
    dask = [sys.executable, "-m", "dask"]
    started = [
        subprocess.Popen(
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(info)],
            **quiet,  # type: ignore[arg-type]
        )
    ]
    worker = ["worker", "--scheduler-file", str(info), "--no-nanny", "--no-dashboard", "--nthreads", "2"]
    try:
        wait_until(info.exists)
        started += [
            subprocess.Popen([*dask, *worker, "--local-directory", str(folder)], **quiet)  # type: ignore[arg-type]
            for _ in range(workers)
        ]
        wait_until(lambda: bool(info.read_text().strip()))
        yield json.loads(info.read_text())["address"], started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_killed_worker_and_a_dropped_scheduler(tmp_path: Path, reference: dict[str, str]) -> None:
    """The first build ends with the worker that is left; the second one ends in one line, and another continues it."""
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    with dask_processes(tmp_path) as (address, processes):
        build_with_a_killed_worker(first, address, processes[1])
        log = build_with_a_dropped_scheduler(second, address, processes)
    assert digests(first) == reference
    known = committed(second)
    assert len(known) < layout().shards
    with watched(second):
        go_on(second, log, reference, known)


def build_with_a_killed_worker(store: Path, address: str, worker: subprocess.Popen[bytes]) -> None:
    log = store.with_suffix(".log")
    with watched(store):
        build = start(store, log, "--scheduler", address, "--read-ms", "30")
        wait_until(lambda: len(committed(store)) > 2)
        worker.kill()
        _, errors = build.communicate(timeout=120)
    assert build.returncode == 0, errors
    repeated = len(tiles_read(log)) - len(set(tiles_read(log)))
    assert repeated <= 3 * 6, "only the shards that the dead worker had under way are read again"


def build_with_a_dropped_scheduler(store: Path, address: str, processes: list[subprocess.Popen[bytes]]) -> Path:
    log = store.with_suffix(".log")
    with watched(store):
        build = start(store, log, "--scheduler", address, "--read-ms", "60")
        wait_until(lambda: len(committed(store)) > 1)
        processes[0].kill()
        _, errors = build.communicate(timeout=120)
    assert build.returncode == 1
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    for process in processes[1:]:
        process.kill()
        process.wait()
    return log


@pytest.mark.parametrize("address", ["http://127.0.0.1:8787", "tcp://127.0.0.1:port"])
def test_an_address_that_no_scheduler_has_is_refused_in_one_line_at_once(address: str, tmp_path: Path) -> None:
    """The page of a scheduler has such an address. A client that cannot connect would wait for a minute at exit."""
    words = ["build", "--recipe", "demo", "--tiles", "4", "--tile-size", "16", "--out", str(tmp_path / "s.zarr")]
    program = [
        sys.executable,
        "-c",
        "from mmearth_data.cli import cli\ncli()",
        *words,
        "--scheduler",
        address,
        "--quiet",
    ]
    done = subprocess.run(program, capture_output=True, text=True, timeout=45, env=ENVIRONMENT)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --scheduler: expected the address of a running Dask scheduler")
    assert address in line
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("share", [0.65, 0.97])
def test_a_full_disk(share: float, tmp_path: Path, whole: Path, reference: dict[str, str]) -> None:
    used = sum(-(-file.stat().st_size // 4096) * 4 for file in whole.rglob("*") if file.is_file())
    kept, log = tmp_path / "s.zarr", tmp_path / "log"
    with small_disk(tmp_path, f"{max(64, int(share * used))}k") as disk:
        with pytest.raises(WriteFailed, match="the disk is full"):
            build_known(disk.path / "s.zarr", log)
        shutil.copytree(disk.path / "s.zarr", kept)
    part_of = {problem.part for problem in verify(kept).problems}
    assert part_of <= {"_manifest.json"}, "what is committed is sound"
    go_on(kept, log, reference, committed(kept))


def test_a_second_build_is_refused_and_a_stale_lock_explained(tmp_path: Path, reference: dict[str, str]) -> None:
    from mmearth_data.store.storage import storage_at

    store, log = tmp_path / "s.zarr", tmp_path / "log"
    with watched(store):
        first = start(store, log, "--read-ms", "50")
        wait_until(lambda: len(committed(store)) > 0)
        with pytest.raises(InputError, match=rf"no other process is building, got one that process {first.pid} on "):
            build_known(store, tmp_path / "other-log")
        assert tiles_read(tmp_path / "other-log") == []
        assert first.poll() is None
        first.kill()
        first.communicate()
    with storage_at(store).hold() as held:
        stale = held.left
        assert stale is not None
        assert f"process {first.pid}" in stale
        assert "its lock is free" in stale
    with storage_at(store).hold() as held:
        assert held.left is None
    with watched(store):
        go_on(store, log, reference, committed(store))
