"""A store under ``gs://``: obstore's own client of Google Cloud Storage, through a server process on loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import make_bucket, serving
from store_making import begin_store, make_store, write_shard
from test_store_building import digests

from mmearth_data import InputError, open_store, verify
from mmearth_data.store import StoreWriter
from mmearth_data.store.encoding import digest_of
from mmearth_data.store.storage import storage_at

SERVER = Path(__file__).resolve().parents[1] / "bucket_server.py"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(lambda port: [sys.executable, "-W", "ignore", str(SERVER), str(port), "gs"]) as url:
        make_bucket(f"{url}/tiles")
        yield url


@pytest.fixture(autouse=True)
def _environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service account as a user sets it, with the address of another server in it."""
    account = {
        "gcs_base_url": server,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))


def test_the_same_bytes_as_in_a_folder_also_when_interrupted(tmp_path: Path) -> None:
    url = "gs://tiles/folder/s.zarr"
    make_store(tmp_path / "s.zarr")
    writer = begin_store(url)
    write_shard(writer, 1)
    assert len(open_store(url)) == 8
    again = StoreWriter.resume(url)
    assert again.committed() == {1}
    for shard in (0, 2):
        write_shard(again, shard)
    again.finish()
    objects = storage_at(url)
    assert {key: digest_of(objects.get(key)) for key in objects.keys()} == digests(tmp_path / "s.zarr")  # noqa: SIM118
    here, there = open_store(tmp_path / "s.zarr"), open_store(url)
    for name, m in here.modalities.items():
        if m.stored:
            np.testing.assert_array_equal(here.read(name, slice(3, 21)), there.read(name, slice(3, 21)))
    assert here.tiles.equals(there.tiles)
    assert verify(url).problems == ()
    objects.remove()
    assert not objects.is_there()


def test_a_bucket_that_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match="expected a bucket that exists"):
        begin_store("gs://nobodys-bucket/s.zarr")
