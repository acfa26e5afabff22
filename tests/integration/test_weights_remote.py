"""Checkpoints and networks at URLs: the Hub's own client, a web server and an S3 server, all on loopback."""

from __future__ import annotations

import http.server
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from hub_server import TOKEN, Hub, Repository, serving_hub, sha256
from loopback import buckets
from obstore.store import from_url
from toy_store import write_store
from weights_making import make_checkpoint, make_network

from mmearth_data import FileInputError, InputError, MMEarthError, Store
from mmearth_model import load_checkpoint, load_encoder, load_network
from mmearth_model.cli import cli
from mmearth_model.weights.downloading import DownloadFailed
from mmearth_model.weights.remote import locate

CONFIG, MODEL = "config.json", "model.safetensors"


# ---------------------------------------------------------------- what is served


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 24, shares=(0.5, 0.25))


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(store, tmp_path_factory.mktemp("weights") / "step-00000004")


@pytest.fixture(scope="module")
def other(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights with the configuration of the same length."""
    return make_checkpoint(store, tmp_path_factory.mktemp("weights") / "step-00000004", seed=1)


@pytest.fixture(scope="module")
def network(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_network(checkpoint, tmp_path_factory.mktemp("weights") / "network")


def content(folder: Path, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the cache of each test; connections go to this machine only."""
    monkeypatch.setenv("MMEARTH_CACHE", str(tmp_path / "cache"))
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        assert address[0] in ("127.0.0.1", "::1", "localhost"), f"a connection to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    return tmp_path


@contextmanager
def client(**variables: str) -> Iterator[None]:
    """Import the Hub's library anew with other variables, most of which it reads on import, and again afterwards."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            del sys.modules[name]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(f"HF_{name}", value)
        forget()
        try:
            yield
        finally:
            forget()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub, and the variables with which its library finds it and nothing else."""
    quiet = dict.fromkeys(("HUB_DISABLE_TELEMETRY", "HUB_DISABLE_XET", "HUB_DISABLE_PROGRESS_BARS"), "1")
    with serving_hub() as hub, client(ENDPOINT=hub.url, HOME=str(tmp_path_factory.mktemp("hf")), TOKEN="", **quiet):
        yield hub


@dataclass
class Place:
    """A repository of its own for each test."""

    hub: Hub
    name: str
    repository: Repository

    @property
    def url(self) -> str:
        return f"hf://{self.name}"


@pytest.fixture
def place(server: Hub, request: pytest.FixtureRequest, checkpoint: Path, network: Path) -> Place:
    """Repository with a checkpoint, a network in a folder, and a pickle."""
    name = f"me/{request.node.name.partition('[')[0][5:90]}"
    repository = server.repositories[name] = Repository()
    repository.commit({**content(checkpoint), **content(network, "maps/cover/"), "pickle.pth": b"\x80"}, "v1")
    server.requests.clear()
    return Place(server, name, repository)


def same_encoder(one: Any, two: Any) -> bool:
    images = torch.randn(2, 12, 24, 24, generator=torch.Generator().manual_seed(1))
    return torch.equal(one(images), two(images))


# ---------------------------------------------------------------- the Hub


def test_an_encoder_of_the_hub_is_the_one_in_the_folder(place: Place, checkpoint: Path) -> None:
    assert same_encoder(load_encoder(place.url), load_encoder(checkpoint))
    found = load_checkpoint(place.url)
    assert found.name == place.url
    assert found.origin is not None
    assert found.origin.revision == place.repository.refs["main"]
    assert found.origin.sha256[MODEL] == sha256((checkpoint / MODEL).read_bytes())
    assert found.origin.sha256[CONFIG] == sha256((checkpoint / CONFIG).read_bytes())
    fetched = {path.rpartition("/")[2] for verb, path, _ in place.hub.requests if verb == "GET" and "/resolve/" in path}
    assert fetched == {CONFIG, MODEL}, "other files are not even asked for, pickles least of all"
    assert len(place.hub.asked("GET", f"/resolve/{found.origin.revision}/{MODEL}")) == 1, "then it is in the cache"


def test_a_revision_and_a_folder(place: Place, network: Path, checkpoint: Path, other: Path) -> None:
    first = place.repository.refs["v1"]
    place.repository.commit({**content(other), **content(network, "maps/cover/")})
    for revision in ("v1", first):
        assert same_encoder(load_encoder(f"{place.url}@{revision}"), load_encoder(checkpoint))
    assert same_encoder(load_encoder(place.url), load_encoder(other))
    place.repository.refs["refs/pr/1"] = first
    assert same_encoder(load_encoder(f"{place.url}@refs%2Fpr%2F1"), load_encoder(checkpoint))
    found, expected = load_network(f"{place.url}@v1/maps/cover"), load_network(network)
    assert found.origin is not None
    assert found.origin.revision == first
    assert found.outputs == expected.outputs
    images = torch.randn(1, 12, 24, 24)
    assert torch.equal(found.module(images), expected.module(images))


def test_what_is_on_the_hub_now_is_loaded(place: Place, checkpoint: Path, other: Path) -> None:
    assert same_encoder(load_encoder(place.url), load_encoder(checkpoint))
    place.repository.commit(content(other))
    assert same_encoder(load_encoder(place.url), load_encoder(other))


def test_without_the_hub_its_cache_serves(place: Place, checkpoint: Path) -> None:
    load_encoder(place.url)
    before = len(place.hub.requests)
    with client(HUB_OFFLINE="1"):
        assert same_encoder(load_encoder(place.url), load_encoder(checkpoint))
        with pytest.raises(DownloadFailed, match=r"@v1: the Hub cannot be reached.*unset HF_HUB_OFFLINE"):
            load_encoder(f"{place.url}@v1")
    with client(ENDPOINT="http://127.0.0.1:9"):
        assert same_encoder(load_encoder(place.url), load_encoder(checkpoint))
        with pytest.raises(DownloadFailed, match=r"hf://me/none: the Hub cannot be reached"):
            load_encoder("hf://me/none")
    assert len(place.hub.requests) == before


def test_a_private_repository_needs_a_token_which_nothing_shows(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    place.repository.closed = "private"
    with pytest.raises(
        InputError, match=r"expected a repository of the Hub that you can read.*hf auth login.*HF_TOKEN"
    ):
        load_encoder(place.url)
    place.repository.closed = "gated"
    with pytest.raises(DownloadFailed, match=r"requires you to accept its terms.*HF_TOKEN"):
        load_encoder(place.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    command = ["embed", str(store.path), "--checkpoint", place.url, "--out", str(home / "x.parquet")]
    result = CliRunner().invoke(cli, [*command, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert TOKEN not in result.output
    assert TOKEN.encode() not in (home / "x.parquet").read_bytes()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://me/none", r"expected a repository of the Hub that you can read, found none; check the name"),
        ("HERE@v9", r"expected a branch, tag or commit of the repository, found none of that name"),
        ("HERE/elsewhere", r"expected a folder with config.json and model.safetensors, got one without config"),
        ("hf://atto", r"expected a URL of the form hf://OWNER/NAME\[@REVISION\]\[/SUBFOLDER\], got a different one"),
        ("HERE/../../x", r"expected a URL of the form hf://OWNER/NAME"),
        ("hf://me/-.-", r"expected hf://OWNER/NAME.*a name that the Hub does not accept"),
        ("ftp://here/atto", r"expected a folder or a URL with one of these schemes: hf, https"),
        ("https://me:secret@[::1", r"^expected a URL such as https://HOST/PATH, got one that cannot be read"),
        ("https://", r"^expected a URL such as https://HOST/PATH, got one that cannot be read"),
        ("http://192.0.2.1/atto", r"expected an address that begins with https://, got http://"),
        ("https://me:secret@192.0.2.1/atto", r"^https://192.0.2.1/atto: expected a URL without password"),
        ("hf://me:secret@me/atto", r"^hf://me/atto: expected a URL without password"),
        ("https://192.0.2.1/atto?key=secret", r"^https://192.0.2.1/atto: expected a URL without password"),
    ],
)
def test_urls_without_weights_are_refused_in_one_line(place: Place, url: str, expected: str) -> None:
    result = CliRunner().invoke(cli, ["evaluate", url.replace("HERE", place.url), "--task", "store:biome"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert re.search(expected, line.removeprefix("Error: ")), line
    assert "secret" not in line


def test_a_path_made_of_a_url_is_refused() -> None:
    for url in ("hf://me/atto", "https://host/atto", "s3://bucket/atto"):
        with pytest.raises(InputError, match="expected a URL as text, got a Path"):
            load_encoder(Path(url))


def test_the_hubs_library_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        InputError,
        match=r"expected the library huggingface_hub, which is not installed; run: pip install 'mmearth\[hub\]'",
    ):
        load_encoder("hf://me/atto")


def test_a_newer_format_is_refused(place: Place, checkpoint: Path) -> None:
    newer = {**json.loads((checkpoint / CONFIG).read_text()), "format": 2}
    place.repository.commit({**content(checkpoint), CONFIG: json.dumps(newer).encode()})
    with pytest.raises(FileInputError, match=r"expected architecture 'mp-mae' in format 1, got \('mp-mae', 2\)"):
        load_encoder(place.url)


def test_commands_take_urls_and_record_them(
    place: Place, checkpoint: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url, commit = place.url, place.repository.refs["main"]
    digest = sha256((checkpoint / MODEL).read_bytes())

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, *(() if words[0] == "convert" else ("--device", "cpu"))])
        assert result.exit_code == 0, (result.stderr, result.exception)
        return result.stderr

    said = run("embed", str(store.path), "--checkpoint", url, "--out", "x.parquet")
    assert f"{url}, revision {commit}, sha256 {digest}" in said
    about = json.loads(pq.read_schema("x.parquet").metadata[b"mmearth"])
    assert (about["checkpoint"], about["checkpoint_revision"]) == (url, commit)
    assert about["model_digest"] == f"sha256:{digest}"
    probe = ("evaluate", url, "--task", "store:esa_worldcover", "--store", str(store.path))
    run(*probe, "--protocol", "knn", "--baseline", "none", "--seeds", "1", "--out", "probes")
    results = json.loads(Path("probes/results.json").read_text())
    assert {row["encoder"] for row in results["rows"]} == {url}
    assert results["encoders"][url]["revision"] == commit
    tune = ("finetune", url, "--task", "store:esa_worldcover", "--store", str(store.path))
    run(*tune, "--epochs", "1", "--out", "tuned")
    record = load_network("tuned").record
    assert record["encoder"] == url
    assert record["encoder_origin"]["sha256"][MODEL] == digest
    assert f"base_model: {place.name}" in Path("tuned/README.md").read_text()
    written = CliRunner().invoke(cli, ["export", f"{url}/maps/cover", "--to", "torch-export", "--out", "cover.pt2"])
    assert written.exit_code == 0, (written.stderr, written.exception)
    assert f"{url}/maps/cover, revision {commit}" in written.stderr
    refused = CliRunner().invoke(cli, ["predict", f"{url}/maps/cover", "nothing.tif", "--out", "map.tif"])
    assert refused.exit_code == 2
    assert "nothing.tif" in refused.stderr.splitlines()[-1]
    run("convert", url, "--out", "again")
    assert load_checkpoint("again").config["origin"]["revision"] == commit


def test_what_hf_upload_publishes_comes_back(place: Place, checkpoint: Path, tmp_path: Path) -> None:
    """The folder as it is, by the Hub's own program."""
    folder = shutil.copytree(checkpoint, tmp_path / "weights")
    (folder / "state").mkdir()
    (folder / "state" / "optimizer.safetensors").write_bytes(b"large")
    environment = {**os.environ, "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", "upload", "me/new", str(folder), "--exclude", "state/*"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    _, files = place.hub.repositories["me/new"].files("main") or ("", {})
    assert files == content(checkpoint)
    assert same_encoder(load_encoder("hf://me/new"), load_encoder(checkpoint))


def test_a_download_from_the_hub_that_breaks_is_continued(place: Place, checkpoint: Path) -> None:
    place.hub.cut_after.append(1000)
    assert same_encoder(load_encoder(place.url), load_encoder(checkpoint))
    assert len(place.hub.asked("GET", MODEL)) == 2


# ---------------------------------------------------------------- web servers


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; redirects from ``/to/URL``. Answers no ranges."""

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        super().do_GET()


@contextmanager
def web(folder: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_folder_of_a_web_server(checkpoint: Path, other: Path, network: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "site" / "atto")
    shutil.copytree(network, tmp_path / "site" / "cover")
    received: list[int] = []
    with web(tmp_path / "site") as address:
        for url in (f"{address}/atto", f"{address}/atto/"):
            found = load_checkpoint(url, report=received.append)
            assert same_encoder(found.encoder(), load_encoder(checkpoint))
            assert found.origin is not None
            assert found.origin.sha256[MODEL] == sha256((checkpoint / MODEL).read_bytes())
        assert received[-1] == (checkpoint / MODEL).stat().st_size
        assert len([size for size in received if size == received[-1]]) == 1, "downloaded once"
        assert load_network(f"{address}/cover").outputs == load_network(network).outputs
        shutil.copyfile(other / MODEL, folder / MODEL)
        os.utime(folder / MODEL, (1e9, 1e9))
        assert same_encoder(load_encoder(f"{address}/atto"), load_encoder(other))
    assert same_encoder(load_encoder(f"{address}/atto"), load_encoder(other)), "without the server, the last version"


def test_a_damaged_download_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    with web(checkpoint.parent) as address:
        folder, _ = locate(f"{address}/{checkpoint.name}")
        with (folder / MODEL).open("r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(b"x")
        with pytest.raises(FileInputError, match=r"expected the digest [0-9a-f]{64} of the downloaded file.*delete"):
            locate(f"{address}/{checkpoint.name}")
        shutil.rmtree(folder)
        assert same_encoder(load_encoder(f"{address}/{checkpoint.name}"), load_encoder(checkpoint))


def test_a_broken_download_is_continued(place: Place, checkpoint: Path, other: Path, home: Path) -> None:
    """From a server with ranges; ``resolve`` of the Hub is one."""
    hub, url, size = place.hub, f"{place.hub.url}/{place.name}/resolve/main", (checkpoint / MODEL).stat().st_size
    for cut in (size // 3, 1000, 0):
        hub.cut_after.append(cut)
        with pytest.raises(DownloadFailed, match=r"could not be downloaded"):
            load_encoder(url)
        assert not list(home.glob(f"cache/checkpoints/remote/*/*/{MODEL}")), "nothing half under its final name"
    assert same_encoder(load_encoder(url), load_encoder(checkpoint))
    ranges = [headers.get("range") for headers in hub.asked("GET", MODEL)]
    assert ranges == [None, f"bytes={size // 3}-", f"bytes={size // 3 + 1000}-", f"bytes={size // 3 + 1000}-"]
    hub.cut_after.append(500)
    place.repository.commit(content(other))
    with pytest.raises(DownloadFailed):
        load_encoder(url)
    place.repository.commit(content(checkpoint))
    assert same_encoder(load_encoder(url), load_encoder(checkpoint)), "a part of other weights is not continued"


def test_web_servers_without_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "page").mkdir(parents=True)
    (site / "page" / CONFIG).write_text("<html>Log in</html>")
    (site / "half").mkdir()
    shutil.copyfile(checkpoint / CONFIG, site / "half" / CONFIG)
    with web(site) as address:
        with pytest.raises(InputError, match=r"/page/config.json: expected the configuration of a network \(JSON\)"):
            load_encoder(f"{address}/page")
        for name in ("half", "nothing"):
            with pytest.raises(InputError, match=rf"/{name}: expected a folder with config.json and model.safetensors"):
                load_encoder(f"{address}/{name}")
        with pytest.raises(
            InputError, match=r"http://192.0.2.1/x/config.json: expected an address that begins with https"
        ):
            load_encoder(f"{address}/to/http://192.0.2.1/x")
    with pytest.raises(DownloadFailed, match=r"http://127.0.0.1:9/x: could not be downloaded.*continue"):
        load_encoder("http://127.0.0.1:9/x")


def test_a_web_server_that_refuses(place: Place) -> None:
    place.repository.closed = "private"
    with pytest.raises(DownloadFailed, match=r"the server answered 401 .*; ask its owner for access"):
        load_encoder(f"{place.hub.url}/{place.name}/resolve/main")


# ---------------------------------------------------------------- buckets


def test_a_folder_of_a_bucket(checkpoint: Path, other: Path, network: Path, store: Store) -> None:
    with buckets("s3") as start:
        url = f"{start}tiles/models/atto"
        bucket = from_url(url, client_options={"allow_http": True})
        for folder, name in ((checkpoint, ""), (network, "cover/")):
            for path in folder.iterdir():
                obstore.put(bucket, f"{name}{path.name}", path.read_bytes())
        found = load_checkpoint(url)
        assert same_encoder(found.encoder(), load_encoder(checkpoint))
        assert found.origin is not None
        assert found.origin.sha256[MODEL] == sha256((checkpoint / MODEL).read_bytes())
        assert load_network(f"{url}/cover").outputs == load_network(network).outputs
        obstore.put(bucket, MODEL, (other / MODEL).read_bytes())
        assert same_encoder(load_encoder(url), load_encoder(other))
        with pytest.raises(InputError, match=r"s3://tiles/none: expected a folder with config.json and model"):
            load_encoder(f"{start}tiles/none")


def test_errors_are_of_the_house() -> None:
    assert issubclass(DownloadFailed, MMEarthError)
    assert importlib.import_module("mmearth_model.weights.released").DownloadFailed is DownloadFailed
