"""What surrounds a build: targets that cannot be written, clocks that jump, two builds, and waiting that overlaps."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from append_making import build_sampled, write_ecoregions
from build_making import LoggedSource, make_plan
from store_making import digests
from test_build_crashes import ENVIRONMENT, TESTS

from mmearth_data import InputError, WriteFailed
from mmearth_data.building.build import run_build
from mmearth_data.catalog.tile import Place
from mmearth_data.errors import EXIT_FAILURE
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.store import StoreWriter
from mmearth_data.store.storage import storage_at


class TimedSource(LoggedSource):
    """Takes its time to survey, and notes when each survey and each read was under way."""

    def __init__(self, log: Path) -> None:
        super().__init__(log, read_ms=15)
        self.surveys: list[tuple[float, float, set[int]]] = []
        self.spans: list[tuple[float, float, int]] = []
        self._lock = threading.Lock()

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        begin = time.monotonic()
        time.sleep(0.02)
        answers = super().survey(places)
        with self._lock:
            self.surveys.append((begin, time.monotonic(), {place.tile_id for place in places}))
        return answers

    def read(self, survey: Survey, modalities: Any) -> Any:
        begin = time.monotonic()
        try:
            return super().read(survey, modalities)
        finally:
            with self._lock:
                self.spans.append((begin, time.monotonic(), survey.place.tile_id))


def test_the_next_shards_are_surveyed_while_these_are_read(tmp_path: Path) -> None:
    source, plan = TimedSource(tmp_path / "log"), make_plan(33)
    writer = StoreWriter.create(tmp_path / "s.zarr", plan.layout, recipe={}, source={}, synthetic=True)
    run_build(plan, source, writer, threads=2, workers=None, scheduler=None, limits={})
    shard_of = {slot.place.tile_id: shard for shard in plan.shards for slot in plan.shard(shard).slots}
    overlapped = set()
    for begin, end, asked in source.surveys:
        during = {shard_of.get(tile, -1) for start, stop, tile in source.spans if start < end and stop > begin}
        overlapped |= {shard_of[tile] for tile in asked if tile in shard_of and during - {shard_of[tile], -1}}
    later = set(plan.shards[3:])  # the first ones are surveyed before there is anything to read
    assert len(overlapped & later) >= 0.8 * len(later), sorted(overlapped)


def test_a_target_that_nobody_may_write_is_one_line(tmp_path: Path) -> None:
    """Not even root makes folders in /sys."""
    with pytest.raises(WriteFailed, match="cannot be written: its folder is not writable") as caught:
        build_sampled("/sys/planet.zarr", tmp_path / "log", write_ecoregions(tmp_path / "eco.parquet"))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == EXIT_FAILURE
    assert not (tmp_path / "log").exists(), "nothing was asked of the source"


READ_ONLY = "mount --bind {disk} {disk} && mount -o remount,ro,bind {disk} && exec {command}"


@pytest.mark.slow
@pytest.mark.parametrize("append", [None, 3])
def test_a_store_on_a_disk_that_became_read_only(append: int | None, tmp_path: Path) -> None:
    """A bind mount of its own namespace: a finished store is left alone, but cannot grow; a new one cannot begin."""
    disk, ecoregions = tmp_path / "disk", write_ecoregions(tmp_path / "eco.parquet")
    disk.mkdir()
    store = disk / "s.zarr"
    if append is not None:
        build_sampled(store, tmp_path / "log", ecoregions)
    before = digests(store)
    parts = [sys.executable, TESTS / "append_making.py", store, tmp_path / "other-log", ecoregions]
    parts += [] if append is None else ["--append", append]
    command = READ_ONLY.format(disk=disk, command=" ".join(map(str, parts)))
    result = subprocess.run(
        ["unshare", "-rm", "bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert result.returncode == EXIT_FAILURE, result.stderr
    assert "cannot be written: its folder is not writable (Read-only file system)" in result.stderr
    assert result.stderr.count("\n") == 1
    assert digests(store) == before


class Jumping:
    """A wall clock that is a day back, or ahead, at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return 1_700_000_000 + 86_400 * (-1) ** self.looks


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """Neither the bytes, nor who holds the store: the lock is the operating system's, and knows no time."""
    log, ecoregions = tmp_path / "log", write_ecoregions(tmp_path / "eco.parquet")
    build_sampled(tmp_path / "calm.zarr", log, ecoregions)
    clock, jumpy = Jumping(), tmp_path / "jumpy.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock)
        patch.setattr(time, "gmtime", lambda *_: time.struct_time((1970, 1, 1, 0, 0, clock() % 60, 3, 1, 0)))
        build_sampled(jumpy, log, ecoregions)
        with storage_at(jumpy).hold(), pytest.raises(InputError, match="no other process is building"):
            build_sampled(jumpy, log, ecoregions, append=3)
        with storage_at(jumpy).hold() as held:
            assert held.left is None, "a process that ended normally leaves nothing behind"
    assert clock.looks > 0
    assert digests(jumpy) == digests(tmp_path / "calm.zarr")
