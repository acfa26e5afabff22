"""Objects appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmearth_data.store.storage.local import STAGING, LocalStorage


def test_an_object_comes_back(tmp_path: Path) -> None:
    objects = LocalStorage(tmp_path)
    objects.put("a/b/c", b"12345")
    assert objects.get("a/b/c") == b"12345"
    assert objects.size("a/b/c") == 5
    with objects.open("a/b/c") as stream:
        assert stream.read() == b"12345"
    assert objects.names("a") == ["b"]
    assert list(objects.keys()) == ["a/b/c"]


def test_what_is_not_there(tmp_path: Path) -> None:
    objects = LocalStorage(tmp_path)
    assert objects.size("a") is None
    assert objects.names("a") == []
    with pytest.raises(FileNotFoundError):
        objects.get("a")


def test_a_folder_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert LocalStorage(tmp_path).size("a") is None


def test_a_failure_leaves_the_older_object(tmp_path: Path) -> None:
    objects = LocalStorage(tmp_path)
    objects.put("a", b"old")

    def fail() -> None:
        with objects.staged("a") as path:
            path.write_bytes(b"half of the ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert objects.get("a") == b"old"
    assert list((tmp_path / STAGING).iterdir()) == []


def test_staged_objects_can_be_discarded_and_are_no_keys(tmp_path: Path) -> None:
    objects = LocalStorage(tmp_path)
    objects.put("a", b"1")
    (tmp_path / STAGING / "left behind").write_bytes(b"x")
    assert list(objects.keys()) == ["a"]
    objects.discard_staged()
    objects.discard_staged()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_readers_never_see_half_an_object(tmp_path: Path) -> None:
    objects = LocalStorage(tmp_path)
    objects.put("a", bytes(200_000))

    def write(value: int) -> None:
        objects.put("a", bytes([value]) * 200_000)

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, value) for value in range(20)]
        seen = [objects.get("a") for _ in range(100)]
        for future in writing:
            future.result()
    assert all(len(data) == 200_000 and len(set(data)) == 1 for data in seen)


def test_a_killed_writer_leaves_whole_objects_only(tmp_path: Path) -> None:
    code = """
import sys
from mmearth_data.store.storage.local import LocalStorage
objects = LocalStorage(sys.argv[1])
k = 0
while True:
    objects.put(f"x/{k % 5}", bytes([k % 250]) * 3_000_000)
    k += 1
    print(k, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 8:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    objects = LocalStorage(tmp_path)
    for key in objects.keys():  # noqa: SIM118 - no mapping
        data = objects.get(key)
        assert len(data) == 3_000_000
        assert len(set(data)) == 1
