"""Who holds a store in a bucket: exactly one build, whatever the timing, whichever answers are lost."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator

import pytest
from loopback import buckets
from store_making import begin_store

from mmearth_data import InputError, build, make_recipe, open_store
from mmearth_data.store.storage import lock, storage_at
from mmearth_data.store.storage.lock import LOCK_KEY, StoreTaken

BEAT_S = 0.2
RACE_BEAT_S = 1.5
"""Long enough that a holder whose answers are lost renews its record in time on a busy machine."""


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Start of the URLs of buckets in a server process."""
    with buckets(request.param) as url:
        yield url


def race(url: str, rounds: int) -> list[int]:
    """Builders that got the lock in each round, of two that start at a barrier; a winner holds on until both tried."""
    start, tried = threading.Barrier(2), threading.Barrier(2)
    won: list[list[int]] = [[] for _ in range(rounds)]

    def builder(number: int) -> None:
        for k in range(rounds):
            start.wait(60)
            try:
                with storage_at(f"{url}/{k % 5}.zarr").hold(beat_s=RACE_BEAT_S) as held:
                    held.confirm()
                    won[k].append(number)
                    tried.wait(60)
                    held.confirm()
            except StoreTaken:
                tried.wait(60)

    threads = [threading.Thread(target=builder, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [len(winners) for winners in won]


@pytest.mark.parametrize(("server", "bucket"), [("s3", "lossy"), ("gs", "tiles")], indirect=["server"])
def test_of_two_builders_that_start_together_exactly_one_works(server: str, bucket: str) -> None:
    assert race(f"{server}{bucket}/few", 3) == [1] * 3


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["tiles", "lossy"])
def test_of_two_builders_that_start_together_exactly_one_works_a_hundred_times(server: str, bucket: str) -> None:
    assert race(f"{server}{bucket}/many", 100) == [1] * 100


@pytest.fixture
def bucket(server: str) -> str:
    """A bucket that does what it should."""
    return f"{server}tiles"


S3 = pytest.mark.parametrize("server", ["s3"], indirect=True)


@S3
def test_a_holder_whose_record_was_replaced_stops_and_leaves_the_other_alone(bucket: str) -> None:
    url = f"{bucket}/taken.zarr"
    theirs = json.dumps({"host": "elsewhere", "pid": 17, "since": "now", "token": "x", "beat": 3}).encode()
    with pytest.raises(StoreTaken, match="process 17 on elsewhere"), storage_at(url).hold(beat_s=BEAT_S) as held:  # noqa: PT012
        held.confirm()
        storage_at(url).put(LOCK_KEY, theirs)
        time.sleep(3 * BEAT_S)
        held.confirm()
    assert storage_at(url).get(LOCK_KEY) == theirs


@S3
def test_a_build_whose_store_is_taken_over_stops_and_removes_nothing(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", BEAT_S)
    url, theirs = f"{bucket}/stolen.zarr", json.dumps({"host": "elsewhere", "pid": 17, "since": "now", "token": "x"})
    recipe = make_recipe(
        None, {"source": "synthetic", "tiles": 32, "tile_size": 16, "region": "Denmark", "modalities": ["aster"]}
    )

    def steal(progress: object) -> None:
        storage_at(url).put(LOCK_KEY, theirs.encode())
        time.sleep(3 * BEAT_S)

    with pytest.raises(StoreTaken, match="process 17 on elsewhere"):
        build(recipe, url, report=steal)
    assert storage_at(url).get(LOCK_KEY) == theirs.encode()
    assert not open_store(url).finished


@S3
def test_a_released_lock_is_free_at_once_and_a_dead_one_after_some_beats(bucket: str) -> None:
    url = f"{bucket}/s.zarr"
    with storage_at(url).hold(beat_s=5) as held:
        assert held.left is None
    start = time.monotonic()
    with storage_at(url).hold(beat_s=5) as held:
        assert held.left is None
    assert time.monotonic() - start < 5
    dead = {"host": "elsewhere", "pid": 17, "since": "2031-01-01 00:00:00 UTC", "token": "x", "beat": 3}
    storage_at(url).put(LOCK_KEY, json.dumps(dead).encode())
    with storage_at(url).hold(beat_s=BEAT_S) as held:
        assert str(held.left).startswith("An earlier build (process 17 on elsewhere (since 2031-01-01 00:00:00 UTC))")


@S3
def test_a_living_build_is_refused(bucket: str) -> None:
    url = f"{bucket}/held.zarr"
    refused = pytest.raises(StoreTaken, match=rf"process {os.getpid()} on .* is building")
    with storage_at(url).hold(beat_s=BEAT_S), refused, storage_at(url).hold(beat_s=BEAT_S):
        raise AssertionError("held twice")


@pytest.mark.parametrize("lack", ["ignore", "refuse"])
def test_a_server_without_conditional_writes_is_refused_for_building(server: str, lack: str) -> None:
    refused = pytest.raises(InputError, match=r"object store with conditional writes .* build into a local")
    with refused, storage_at(f"{server}{lack}/s.zarr").hold(beat_s=BEAT_S):
        raise AssertionError("held without conditions")


@S3
def test_a_store_that_another_build_has_just_begun_is_not_laid_out_again(bucket: str) -> None:
    url = f"{bucket}/begun.zarr"
    begin_store(url)
    with pytest.raises(InputError, match="the same command again continues it"):
        begin_store(url)
