"""Properties of every storage of a store: a folder, and S3 and Google buckets (server processes on loopback)."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import buckets
from store_making import begin_store, digests, make_store, small_layout, write_shard

from mmearth_data import InputError, open_store, verify
from mmearth_data.store import StoreWriter
from mmearth_data.store.encoding import digest_of
from mmearth_data.store.storage import storage_at
from mmearth_data.store.storage.local import STAGING, LocalStorage
from mmearth_data.store.storage.lock import StoreTaken
from mmearth_data.store.storage.protocol import ObjectChanged, Storage

BUCKETS = ("s3", "gs")
KEYS = ("zarr.json", "a/b/c/0", "name with space/x", "größe/ß", "50%/%20", "a+b=c", "q?x#y", ".hidden", "a.b/..c")
"""Keys with characters that paths or URLs treat specially."""


@pytest.fixture(scope="module", params=("folder", *BUCKETS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Folder or bucket in which each test has a store of its own."""
    if request.param == "folder":
        yield str(tmp_path_factory.mktemp("stores"))
    else:
        with buckets(request.param) as url:
            yield f"{url}tiles"


@pytest.fixture
def path(base: str, request: pytest.FixtureRequest) -> str:
    """Path or URL of a store that does not exist yet."""
    return f"{base}/{re.sub('[^a-z0-9]+', '-', request.node.name)}/s.zarr"


@pytest.fixture
def storage(path: str) -> Storage:
    """Empty storage, ready to be written."""
    made = storage_at(path)
    made.make()
    return made


def test_an_object_comes_back_and_is_replaced_as_a_whole(storage: Storage) -> None:
    for data in (b"12345", b"678", b""):
        storage.put("a/b/c", data)
        assert storage.get("a/b/c") == data
        assert storage.size("a/b/c") == len(data)
        with storage.open("a/b/c") as stream:
            assert stream.read() == data
    assert storage.names("a") == ["b"]
    assert list(storage.keys()) == ["a/b/c"]
    assert storage.is_there()


def test_a_tag_changes_with_the_object_and_only_then(storage: Storage) -> None:
    storage.put("a", b"one")
    first = storage.tag("a")
    storage.put("b", b"other")
    assert storage.tag("a") == first
    storage.put("a", b"two")
    assert storage.tag("a") != first


def test_what_is_missing_is_an_error_of_its_own(storage: Storage) -> None:
    storage.put("a/b", b"1")
    assert storage.size("c") is None
    assert storage.size("a") is None, "a folder is no object"
    assert storage.names("c") == []
    storage.delete("c")
    for read in (storage.get, storage.open, storage.tag, lambda key: storage.get_ranges(key, [(0, 1)])):
        with pytest.raises(FileNotFoundError):
            read("c")


def test_ranges_are_slices_of_the_object(storage: Storage) -> None:
    data = np.random.default_rng(1).bytes(300_000)
    storage.put("a", data)
    ranges = [(299_990, 10), (0, 1), (7, 100_000), (8, 3)]
    assert storage.get_ranges("a", ranges) == [data[start : start + length] for start, length in ranges]
    assert storage.get_ranges("a", []) == []


def test_any_name_is_a_key(storage: Storage) -> None:
    for key in KEYS:
        storage.put(key, key.encode())
    assert sorted(storage.keys()) == sorted(KEYS)
    assert {key: storage.get(key) for key in KEYS} == {key: key.encode() for key in KEYS}
    assert storage.names("") == sorted({key.partition("/")[0] for key in KEYS} | ({STAGING} & set(storage.names(""))))
    for key in KEYS:
        storage.delete(key)
    assert list(storage.keys()) == []


def test_a_staged_object_appears_when_its_block_succeeds(storage: Storage) -> None:
    storage.put("a", b"old")
    with suppress(OSError), storage.staged("a") as staged:
        staged.write_bytes(b"half of the ne")
        raise OSError(28, "No space left on device")
    assert storage.get("a") == b"old"
    with storage.staged("a") as staged:
        staged.write_bytes(b"new")
        assert storage.get("a") == b"old"
    assert storage.get("a") == b"new"
    assert list(storage.keys()) == ["a"]


def test_objects_are_published_together_from_threads(storage: Storage) -> None:
    keys = [f"x{k % 3}/c/{k}" for k in range(24)]
    with storage.together() as put, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: put(key, key.encode()), keys))
    assert {key: storage.get(key) for key in storage.keys()} == {key: key.encode() for key in keys}  # noqa: SIM118


def test_readers_never_see_half_an_object(storage: Storage) -> None:
    storage.put("a", bytes(200_000))
    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(storage.put, "a", bytes([value]) * 200_000) for value in range(12)]
        seen = [storage.get("a") for _ in range(40)]
        for future in writing:
            future.result()
    assert all(len(data) == 200_000 and len(set(data)) == 1 for data in seen)


def test_removing_leaves_nothing(storage: Storage) -> None:
    assert "MMEarth store" in storage.absence()
    for key in ("a", "b/c", "_ledger/x.json"):
        storage.put(key, b"1")
    assert "without zarr.json" in storage.absence()
    storage.unmake()
    assert storage.is_there(), "it is not empty"
    storage.remove()
    assert list(storage.keys()) == []
    storage.unmake()
    assert not storage.is_there()
    assert "found nothing there" in storage.absence()


def test_notes_leave_no_staging_in_a_sealed_store(storage: Storage) -> None:
    storage.put("a", b"1")
    storage.discard_staged()
    storage.discard_staged()
    storage.put("_ledger/x.json", b"{}")
    assert storage.names("") == ["_ledger", "a"]


def test_a_copy_in_another_process_is_the_same_storage(storage: Storage) -> None:
    storage.put("a", b"1")
    copy: Storage = pickle.loads(pickle.dumps(storage))
    assert (copy.root, copy.far, copy.get("a")) == (storage.root, storage.far, b"1")


def test_one_holder_at_a_time_who_is_named(path: str) -> None:
    refused = pytest.raises(StoreTaken, match=rf"process {os.getpid()} on .* is building; wait for it, or stop it\.")
    with storage_at(path).hold() as held:
        held.confirm()
        assert held.left is None
        if not storage_at(
            path
        ).far:  # in a bucket, the old record is watched for four beats; see test_store_lock_remote
            with refused, storage_at(path).hold():
                raise AssertionError("held twice")
    with storage_at(path).hold() as held:
        assert held.left is None, "a holder that ends normally leaves nothing"


def test_a_store_that_was_interrupted_ends_in_the_bytes_of_a_folder(path: str, tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr")
    write_shard(begin_store(path), 1)
    assert len(open_store(path)) == 8
    again = StoreWriter.resume(path)
    assert again.committed() == {1}
    for shard in (0, 2):
        write_shard(again, shard)
    again.finish()
    objects = storage_at(path)
    assert {key: digest_of(objects.get(key)) for key in objects.keys()} == digests(tmp_path / "s.zarr")  # noqa: SIM118
    here, there = open_store(tmp_path / "s.zarr"), open_store(path)
    for m in (m for m in here.modalities.values() if m.stored):
        np.testing.assert_array_equal(here.read(m.name, slice(3, 21)), there.read(m.name, slice(3, 21)))
    assert here.tiles.equals(there.tiles)
    assert verify(path).problems == ()


def test_a_begin_that_was_interrupted_is_completed(path: str, tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr")
    begin_store(path)
    storage_at(path).delete("zarr.json")
    make_store(path)
    objects = storage_at(path)
    assert {key: digest_of(objects.get(key)) for key in objects.keys()} == digests(tmp_path / "s.zarr")  # noqa: SIM118


def test_a_begin_that_was_interrupted_gives_way_to_another_store(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, wide = storage_at(path), small_layout(tiles=8)
    narrow = replace(wide, modalities=wide.modalities[:3])
    put = type(storage).put

    def interrupted(self: Storage, key: str, data: bytes) -> None:
        if key == "zarr.json":
            raise KeyboardInterrupt
        put(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(storage), "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begin_store(path, wide)
    assert storage.size("radar/zarr.json") is not None
    begin_store(path, narrow)
    begin_store(tmp_path / "s.zarr", narrow)
    assert {key: digest_of(storage.get(key)) for key in storage.keys()} == digests(tmp_path / "s.zarr")  # noqa: SIM118


def test_a_store_is_not_begun_over_others_nor_twice(path: str) -> None:
    objects = storage_at(path)
    objects.make()
    objects.put("mine.txt", b"mine")
    with pytest.raises(
        InputError, match=r"expected an MMEarth store or nothing there yet, got other files \(mine\.txt\)"
    ):
        begin_store(path)
    assert list(objects.keys()) == ["mine.txt"]
    objects.delete("mine.txt")
    begin_store(path)
    with pytest.raises(InputError, match="the same command again continues it"):
        begin_store(path)


# ---------------------------------------------------------------- buckets alone


@pytest.mark.parametrize("base", BUCKETS, indirect=True)
def test_a_conditional_write_replaces_only_the_version_that_was_read(storage: Any) -> None:
    first = storage.put_if("a", b"1", None)
    with pytest.raises(ObjectChanged):
        storage.put_if("a", b"2", None)
    assert storage.get_version("a") == (b"1", first)
    second = storage.put_if("a", b"3", first)
    with pytest.raises(ObjectChanged):
        storage.put_if("a", b"4", first)
    assert storage.get_version("a") == (b"3", second)
    storage.delete("a")
    with pytest.raises(ObjectChanged):
        storage.put_if("a", b"5", second)
    with pytest.raises(FileNotFoundError):
        storage.get_version("a")


@pytest.mark.parametrize("base", BUCKETS, indirect=True)
def test_a_bucket_that_does_not_exist_is_named(base: str) -> None:
    with pytest.raises(InputError, match="expected a bucket that exists"):
        begin_store(f"{base}-of-none/s.zarr")


@pytest.mark.parametrize("base", BUCKETS, indirect=True)
def test_the_path_of_a_url_is_the_start_of_the_keys_character_by_character(base: str) -> None:
    """As for ``aws s3 cp``: ``#``, ``?`` and ``%20`` mean themselves, so URLs that differ are different stores."""
    names = ("run#1.zarr", "run#2.zarr", "run", "run?x", "a%20b", "a b", "100%", "größe", "a:b@c&d=e+f")
    whole = storage_at(f"{base}/literal")
    for name in names:
        storage_at(f"{base}/literal/{name}/").put("zarr.json", name.encode())
    assert sorted(whole.keys()) == sorted(f"{name}/zarr.json" for name in names)
    for name in names:
        copied = pickle.loads(pickle.dumps(storage_at(f"{base}/literal/{name}")))
        assert list(copied.keys()) == ["zarr.json"]
        assert copied.get("zarr.json") == name.encode()


@pytest.mark.parametrize("base", BUCKETS, indirect=True)
@pytest.mark.parametrize("path", ["a/../b", "./a", "..", "a//b", "/a", "a//", "a\nb", "a\x7f"])
def test_a_path_that_cannot_be_sent_unchanged_is_refused(base: str, path: str) -> None:
    with pytest.raises(InputError, match="expected s3://BUCKET/PATH"):
        open_store(f"{base}/{path}")


@pytest.mark.parametrize("place", ["", "/", "b#x/a", "b?x/a", "b%41/a", "..", "u@b/a", "b:80/a"])
def test_a_bucket_name_that_would_change_the_request_is_refused(place: str) -> None:
    for kind in ("s3", "gs", "az"):
        with pytest.raises(InputError, match="expected s3://BUCKET/PATH"):
            open_store(f"{kind}://{place}")


# ---------------------------------------------------------------- folders alone


def test_a_relative_path_is_resolved_when_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = LocalStorage("s.zarr")
    monkeypatch.chdir("/")
    objects.make()
    objects.put("a", b"1")
    assert (tmp_path / "s.zarr" / "a").read_bytes() == b"1"


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
    for data in map(objects.get, objects.keys()):
        assert len(data) == 3_000_000
        assert len(set(data)) == 1
    (tmp_path / STAGING).mkdir(exist_ok=True)
    (tmp_path / STAGING / "left behind").write_bytes(b"x")
    assert {key.partition("/")[0] for key in objects.keys()} == {"x"}  # noqa: SIM118
    objects.discard_staged()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
