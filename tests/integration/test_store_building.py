"""However a store is built, cut off and continued, it ends in the same bytes."""

from __future__ import annotations

import errno
import getpass
import os
import pickle
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from store_making import (
    begin_store,
    digests,
    make_columns,
    make_rasters,
    make_rejected,
    make_store,
    small_layout,
    write_shard,
)

from mmearth_data.errors import InputError, StoreDamaged
from mmearth_data.store import StoreLayout, StoreWriter, open_store, verify

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store built in one go, shard after shard."""
    path = tmp_path_factory.mktemp("reference") / "s.zarr"
    make_store(path)
    return path


def test_two_builds_are_equal_in_every_byte(reference: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "another name.zarr")
    assert digests(tmp_path / "another name.zarr") == digests(reference)


def test_threads_and_order_leave_no_trace(reference: Path, tmp_path: Path) -> None:
    writer = begin_store(tmp_path / "s.zarr")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda shard: write_shard(writer, shard), [2, 0, 1]))
    writer.finish()
    assert digests(tmp_path / "s.zarr") == digests(reference)


def test_a_writer_can_be_sent_to_another_process(reference: Path, tmp_path: Path) -> None:
    writer = begin_store(tmp_path / "s.zarr")
    for shard in range(3):
        write_shard(pickle.loads(pickle.dumps(writer)), shard)
    writer.finish()
    assert digests(tmp_path / "s.zarr") == digests(reference)


def test_the_ledger_is_outside_of_the_identity(reference: Path, tmp_path: Path) -> None:
    writer = make_store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / "_ledger").mkdir()
    (tmp_path / "s.zarr" / "_ledger" / "seconds.json").write_text("12.5")
    assert open_store(writer.path).digest == open_store(reference).digest
    assert verify(writer.path).problems == ()


def test_files_are_those_of_the_contract(reference: Path) -> None:
    layout = small_layout()
    expected = {"zarr.json", "_manifest.json", "tiles.parquet", "tiles_spatial.parquet", "rejected.parquet"}
    expected |= {f"_commits/{shard}.parquet" for shard in range(3)}
    expected |= {f"{spec.name}/zarr.json" for spec in layout.arrays}
    expected |= {f"{m.name}/c/{shard}/0/0/0" for m in layout.rasters for shard in range(3)}
    expected |= {spec.name + "/c/0" + "/0" * (len(spec.shape) - 1) for spec in layout.arrays if not spec.sharded}
    assert set(digests(reference)) == expected
    assert sorted(path.name for path in reference.parent.iterdir()) == ["s.zarr"], "nothing left beside"
    names = {spec.name for spec in layout.arrays} | {"_commits"}
    assert {path.name for path in reference.iterdir() if path.is_dir()} == names, "nothing left within"


def test_nothing_tells_when_where_or_by_whom_it_was_built(reference: Path) -> None:
    words = {str(reference), str(reference.parent), str(Path.home()), str(TESTS)}
    # Compressed bytes may contain a name of a few letters by coincidence.
    words |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4}
    for file in reference.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        for word in words:
            assert word.encode() not in data, (file, word)


def test_a_store_that_was_interrupted_goes_on(reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_shard(begin_store(path), 1)
    again = StoreWriter.resume(path)
    assert again.committed() == {1}
    assert not again.finished
    assert again.layout == small_layout()
    with pytest.raises(InputError, match=r"all 3 shards, 2 are missing \(the first is 0\)"):
        again.finish()
    for shard in (0, 2):
        write_shard(again, shard)
    again.finish()
    assert again.finished
    assert digests(path) == digests(reference)


def test_a_shard_may_be_written_twice(reference: Path, tmp_path: Path) -> None:
    writer = begin_store(tmp_path / "s.zarr")
    for shard in (0, 1, 1, 2, 0):
        write_shard(writer, shard)
    writer.finish()
    writer.finish()
    assert digests(tmp_path / "s.zarr") == digests(reference)


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from store_making import make_store, begin_store, write_shard
from mmearth_data.store import StoreWriter
from pathlib import Path
path = Path(sys.argv[1])
writer = StoreWriter.resume(path) if path.exists() else begin_store(path)
print("ready", flush=True)
for shard in sorted(set(range(3)) - writer.committed()):
    write_shard(writer, shard)
writer.finish()
"""


@pytest.mark.slow  # test_build_crashes kills builds of the same writer; here the disk fails at every stage instead
def test_kill_9_at_any_moment_costs_no_committed_shard(reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    command = [sys.executable, "-c", KILLED, str(path), str(TESTS)]
    committed: frozenset[int] = frozenset()
    for wait_s in (0.03, 0.08, 0.15):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        now = StoreWriter.resume(path).committed()
        assert committed <= now
        committed = now
        if not StoreWriter.resume(path).finished:
            part_of = {problem.part for problem in verify(path).problems}
            assert part_of <= {"_manifest.json"}, "what is committed is sound"
    subprocess.run(command, check=True, capture_output=True)
    assert digests(path) == digests(reference)


class FullDisk:
    """`os.fsync` of a disk that is full after some flushes."""

    def __init__(self, passes: int) -> None:
        self.flush = os.fsync
        self.passes = passes
        self.count = 0

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        if self.count > self.passes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.flush(descriptor)


@pytest.fixture(scope="module")
def flushes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How often a build flushes, from the first shard to the seal."""
    writer = begin_store(tmp_path_factory.mktemp("counted") / "s.zarr")
    disk = FullDisk(10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk)
        build_rest(writer)
    return disk.count


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_full_disk_loses_nothing(share: float, flushes: int, reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    writer = begin_store(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(int(share * flushes)))
        with pytest.raises(OSError, match="No space left"):
            build_rest(writer)
    report = verify(path)
    assert not report.finished
    assert {problem.part for problem in report.problems} <= {"_manifest.json"}
    build_rest(StoreWriter.resume(path))
    assert digests(path) == digests(reference)


def test_plain_readers_see_a_tile_once_all_of_it_stands(reference: Path, tmp_path: Path) -> None:
    """The disk is full after every few flushes of the end of a build."""
    path = tmp_path / "s.zarr"
    writer = begin_store(path)
    for shard in range(3):
        write_shard(writer, shard)
    whole = xr.open_zarr(reference).load()
    shown, failures = [], 0
    while not writer.finished:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", FullDisk(5 * failures))
            try:
                writer.finish()
            except OSError:
                failures += 1
        plain = xr.open_zarr(path)
        seen = np.flatnonzero(plain["valid"].to_numpy())
        xr.testing.assert_equal(plain.isel(tile=seen).load(), whole.isel(tile=seen))
        shown.append(len(seen))
    assert failures > 10
    assert shown[0] == 0
    assert shown[-1] == (whole["valid"] > 0).sum() > 10
    assert digests(path) == digests(reference)


def build_rest(writer: StoreWriter) -> None:
    """Write what is missing, and finish."""
    for shard in sorted(set(range(writer.layout.shards)) - writer.committed()):
        write_shard(writer, shard)
    writer.finish()


def test_finish_starts_over_after_an_interruption(reference: Path, tmp_path: Path) -> None:
    """Whichever of the last files are already written, the store is unfinished until the manifest exists."""
    path = tmp_path / "s.zarr"
    make_store(path)
    for gone in (["_manifest.json"], ["_manifest.json", "valid/c/0"], ["_manifest.json", "tiles.parquet"]):
        for key in gone:
            (path / key).unlink()
        store = open_store(path)
        assert not store.finished
        assert len(store) == 18
        StoreWriter.resume(path).finish()
        assert digests(path) == digests(reference)


def test_a_committed_object_that_is_gone_stops_the_sealing(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    writer = begin_store(path)
    for shard in range(3):
        write_shard(writer, shard)
    (path / "radar" / "c" / "1" / "0" / "0" / "0").unlink()
    with pytest.raises(StoreDamaged, match=r"radar/c/1/0/0/0 is damaged: .*missing"):
        writer.finish()
    assert not open_store(path).finished


def test_a_record_of_another_store_stops_the_sealing(tmp_path: Path) -> None:
    path, other = tmp_path / "s.zarr", tmp_path / "other.zarr"
    layout = small_layout()
    writer = begin_store(path)
    for shard in range(3):
        write_shard(writer, shard)
    narrower = StoreLayout(modalities=layout.modalities[1:], tiles=21, size_px=16, tiles_per_shard=8)
    write_shard(begin_store(other, narrower), 1)
    (path / "_commits" / "1.parquet").write_bytes((other / "_commits" / "1.parquet").read_bytes())
    with pytest.raises(StoreDamaged, match=r"_commits/1\.parquet is damaged: it was written for other arrays"):
        writer.finish()


def test_a_finished_store_takes_no_more_shards(tmp_path: Path) -> None:
    writer = make_store(tmp_path / "s.zarr")
    before = digests(writer.path)
    with pytest.raises(InputError, match="got a finished one"):
        write_shard(writer, 0)
    assert digests(writer.path) == before


def test_a_store_without_a_single_tile(tmp_path: Path) -> None:
    layout = small_layout(tiles=3)
    writer = begin_store(tmp_path / "s.zarr", layout)
    empty = (0, 1, 2)
    writer.write_shard(0, make_columns(layout, 0, empty), make_rasters(layout, 0, empty), make_rejected(0))
    writer.finish()
    store = open_store(writer.path)
    assert len(store) == len(store.tiles) == store.dataset.sizes["tile"] == 0
    assert store.statistics["all"]["radar"]["-"]["vv"]["count"] == 0
    assert verify(writer.path).problems == ()


@pytest.mark.parametrize("occupied", ["file", "folder"])
def test_what_stands_at_the_path_is_left_alone(occupied: str, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    if occupied == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="choose another path"):
        begin_store(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    assert begin_store(tmp_path / "s.zarr").committed() == frozenset()
    assert begin_store(tmp_path / "a" / "b" / "s.zarr").committed() == frozenset()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["s.zarr"]


def test_a_recipe_that_json_cannot_say_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        StoreWriter.create(tmp_path / "s.zarr", small_layout(), recipe={"x": float("nan")}, source={}, synthetic=False)
    assert list(tmp_path.iterdir()) == []


def test_recipe_and_source_come_back_as_json_has_them(tmp_path: Path) -> None:
    StoreWriter.create(
        tmp_path / "s.zarr",
        small_layout(),
        recipe={"years": (2017, 2018), "seed": 2**64 - 1},
        source={"name": "rasters"},
        synthetic=False,
    )
    store = open_store(tmp_path / "s.zarr")
    assert store.recipe == {"years": [2017, 2018], "seed": 2**64 - 1}
    assert store.source["name"] == "rasters"
    assert store.synthetic is False
