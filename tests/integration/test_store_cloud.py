"""A store in a bucket, against a real S3 server process on loopback: the same bytes, resumed, refused, repaired."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from loopback import make_bucket, serving
from published_world import make_published
from store_making import begin_store, digests, make_store, small_layout, write_shard
from test_store_growth import grow
from torch.utils.data import DataLoader

from mmearth_data import (
    InputError,
    RetryLater,
    Store,
    StoreDamaged,
    build,
    describe,
    export,
    import_hdf5,
    make_recipe,
    merge,
    open_store,
    subset,
    verify,
)
from mmearth_data.cli import cli
from mmearth_data.store import StoreWriter
from mmearth_data.store.encoding import digest_of
from mmearth_data.store.storage import remote, storage_at
from mmearth_model import TileDataset

ONE_SHARD = small_layout(tiles=8)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    """URL of an S3 server, which the variables that a user sets name."""
    moto = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p"]
    with serving(lambda port: [*moto, str(port)]) as url, pytest.MonkeyPatch.context() as patch:
        make_bucket(f"{url}/tiles")
        for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", url)
        yield url


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in a folder."""
    path = tmp_path_factory.mktemp("near") / "s.zarr"
    make_store(path)
    return path


@pytest.fixture(scope="module")
def far(server: str) -> str:
    """The same store in the bucket."""
    url = "s3://tiles/far/s.zarr"
    make_store(url)
    return url


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://tiles/{re.sub('[^a-z0-9]+', '-', request.node.name)}/s.zarr"


def remote_digests(url: str) -> dict[str, str]:
    objects = storage_at(url)
    return {key: digest_of(objects.get(key)) for key in objects.keys() if not key.startswith("_ledger/")}  # noqa: SIM118


@pytest.mark.parametrize("form", ["samples", "batches"])
def test_workers_of_a_bucket_are_spawned_and_forks_are_refused_instead_of_waiting_forever(
    near: Path, far: str, form: str
) -> None:
    """The threads that answer requests are not copied by a fork."""

    def loader(store: Store, method: str) -> DataLoader[Any]:
        options: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": method, "timeout": 60}
        if form == "samples":
            return DataLoader(store.torch(), batch_size=5, **options)
        return DataLoader(TileDataset(store, batch_size=5, shuffle=False), batch_size=None, **options)

    with pytest.raises(InputError, match=r"got a fork of one that uses it.*multiprocessing_context='spawn'"):
        next(iter(loader(open_store(far), "fork")))
    for ours, theirs in zip(loader(open_store(near), "fork"), loader(open_store(far), "spawn"), strict=True):
        assert theirs["tile"]["tile_id"] == ours["tile"]["tile_id"]
        np.testing.assert_array_equal(theirs["optical"], ours["optical"])


def test_a_store_in_a_bucket_grows(url: str, near: Path, tmp_path: Path) -> None:
    shutil.copytree(near, tmp_path / "s.zarr")
    make_store(url)
    for path in (tmp_path / "s.zarr", url):
        grow(path)
    assert remote_digests(url) == digests(tmp_path / "s.zarr")
    assert len(open_store(url)) == 32


def test_the_same_bytes_as_in_a_folder_and_read_alike(far: str, near: Path) -> None:
    assert remote_digests(far) == digests(near)
    here, there = open_store(near), open_store(far)
    assert there.finished
    assert here.digest == there.digest
    for name, m in here.modalities.items():
        if m.stored:
            for rows in (slice(0, 21), slice(3, 5)):
                np.testing.assert_array_equal(here.read(name, rows), there.read(name, rows))
    xr.testing.assert_equal(here.dataset.load(), there.dataset.load())
    assert here.tiles.equals(there.tiles)
    pairs = zip(here.loader(batch_size=4, seed=2), there.loader(batch_size=4, seed=2), strict=True)
    assert all(np.array_equal(a["optical"], b["optical"]) for a, b in pairs)
    assert verify(far).problems == ()


def test_cards_of_a_store_in_a_bucket_are_written_here(far: str, near: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(cli, ["describe", far])
    assert (result.exit_code, result.stdout.strip()) == (0, "s-cards"), result.stderr
    here, there = describe(near, tmp_path / "near"), tmp_path / "s-cards"
    card = json.loads((there / "collection.json").read_text(encoding="utf-8"))
    assert card["assets"]["tiles"]["href"] == f"{far}/tiles.parquet"
    local = json.loads((here / "collection.json").read_text(encoding="utf-8"))
    for name in ("id", "extent", "summaries", "cube:variables"):
        assert card[name] == local[name]
    file = json.loads((there / "croissant.json").read_text(encoding="utf-8"))["distribution"][0]
    assert file["contentUrl"] == f"{far}/tiles.parquet"
    assert file["sha256"] == hashlib.sha256((near / "tiles.parquet").read_bytes()).hexdigest()


def test_damage_is_named(far: str) -> None:
    objects, broken, missing = storage_at(far), "radar/c/1/0/0/0", "optical/c/0/0/0/0"
    before = {key: objects.get(key) for key in (broken, missing)}
    data = bytearray(before[broken])
    data[20] ^= 1
    objects.put(broken, bytes(data))
    objects.delete(missing)
    assert {problem.part for problem in verify(far).problems} == {broken, missing}
    store = open_store(far)
    for name, row in (("radar", 8), ("optical", 2)):
        with pytest.raises(StoreDamaged):
            store.read(name, slice(row, row + 1))
        with pytest.raises(StoreDamaged):
            store.read(name, slice(0, 21))
    for key, content in before.items():
        objects.put(key, content)


def test_the_command_builds_into_a_bucket(url: str, tmp_path: Path) -> None:
    told = {}
    for out in (str(tmp_path / "s.zarr"), url):
        command = [
            "build", "--source", "synthetic", "--tiles", "16", "--tile-size", "16", "--region", "Denmark",
            "--modalities", "sentinel2,era5", "--out", out, "--json",
        ]  # fmt: skip
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.stderr
        told[out] = json.loads(done.stdout)["store"]
    assert told == {out: out for out in told}
    assert remote_digests(url) == digests(tmp_path / "s.zarr")


class TestRefusals:
    def refused(self, url: str) -> str:
        with pytest.raises(InputError) as caught:
            build(make_recipe(None, {"source": "synthetic", "tiles": 4, "tile_size": 16, "region": "Denmark"}), url)
        return str(caught.value)

    def test_an_unknown_kind_of_url(self) -> None:
        assert "begins with s3://, gs://, az://" in self.refused("ftp://somewhere/s.zarr")

    def test_other_objects_below_the_url(self, url: str) -> None:
        storage_at(url).put("mine.txt", b"mine")
        assert "got other files (mine.txt)" in self.refused(url)
        assert list(storage_at(url).keys()) == ["mine.txt"]

    def test_nothing_there_to_read(self, url: str) -> None:
        with pytest.raises(InputError, match="found nothing there; check the URL"):
            open_store(url)


FAULTY = """
import http.client, http.server, random, sys, threading
target, share = sys.argv[1], float(sys.argv[2])
draw = random.Random(5)
class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "PUT" and draw.random() < share:
            text = b"<Error><Code>{code}</Code></Error>"
            self.send_response({status}); self.send_header("Content-Length", str(len(text))); self.end_headers()
            self.wfile.write(text); return
        link = http.client.HTTPConnection(target); link.request(self.command, self.path, body, dict(self.headers))
        answer = link.getresponse(); data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server") and not (
                name.lower() == "content-length" and self.command != "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD": self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(data)
        link.close()
    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def faulty(request: pytest.FixtureRequest, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a proxy of the server that refuses some of the PUTs."""
    status, code, share = request.param
    script = FAULTY.replace("{status}", str(status)).replace("{code}", code)
    target = server.removeprefix("http://")
    process = subprocess.Popen([sys.executable, "-c", script, target, str(share)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{int(process.stdout.readline())}")
    monkeypatch.setitem(remote.RETRIES, "backoff", {"init_backoff": timedelta(milliseconds=5)})
    yield
    process.kill()
    process.communicate()


@pytest.mark.parametrize("faulty", [(503, "SlowDown", 0.25)], indirect=True)
def test_puts_that_fail_now_and_then_change_nothing(faulty: None, url: str, tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", ONE_SHARD)
    make_store(url, ONE_SHARD)
    assert remote_digests(url) == digests(tmp_path / "s.zarr")


@pytest.mark.parametrize("faulty", [(403, "AccessDenied", 1.0)], indirect=True)
def test_wrong_credentials_are_said(faulty: None, url: str) -> None:
    with pytest.raises(InputError, match="expected credentials that may read and write there"):
        begin_store(url)


def test_a_server_that_is_gone_is_said_and_nothing_is_lost(
    url: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = begin_store(url)
    write_shard(writer, 0)
    monkeypatch.setitem(remote.RETRIES, "max_retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RetryLater, match="run the same command again to continue"):
        write_shard(StoreWriter(url, writer._root), 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    assert StoreWriter.resume(url).committed() == {0}


def test_parts_go_into_a_bucket_and_out_of_it(far: str, near: Path, url: str, tmp_path: Path) -> None:
    """Subset and merge from a bucket to another path in it give the same bytes as on a disk."""
    there = url.removesuffix("/s.zarr")
    for whole, base in ((near, tmp_path), (far, there)):
        for name, splits in (("train", ["train"]), ("held-out", ["val", "test"])):
            subset(whole, f"{base}/{name}.zarr", split=splits, modalities=["optical", "zone"])
        merge([f"{base}/train.zarr", f"{base}/held-out.zarr"], f"{base}/merged.zarr")
    for name in ("train", "merged"):
        assert remote_digests(f"{there}/{name}.zarr") == digests(tmp_path / f"{name}.zarr")
    assert len(open_store(f"{there}/merged.zarr")) == len(open_store(far))


def test_a_data_set_in_the_published_form_goes_through_a_bucket(url: str, tmp_path: Path) -> None:
    published = make_published(tmp_path / "in")
    for name, store in (("near", tmp_path / "near.zarr"), ("far", url)):
        import_hdf5(published, store)
        export(store, tmp_path / name)
    assert remote_digests(url) == digests(tmp_path / "near.zarr")
    assert digests(tmp_path / "far") == digests(tmp_path / "near")
