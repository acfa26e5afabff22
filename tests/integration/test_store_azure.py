"""A store under ``az://``, in Azurite: Microsoft's own emulator of its storage, a process on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from loopback import serving
from store_making import begin_store, digests, make_store
from test_store_lock_remote import race

from mmearth_data import InputError, open_store, verify
from mmearth_data.store.encoding import digest_of
from mmearth_data.store.storage import storage_at

PROGRAM = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key of every Azurite, as its manual gives them."""

pytestmark = pytest.mark.slow


def make_container(endpoint: str, name: str) -> None:
    """Sign as "Authorize with Shared Key" of Azure's REST reference says."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
    text = "PUT" + "\n" * 12 + signed + f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=30).close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    assert PROGRAM.is_file(), f"expected Azurite at {PROGRAM}; make prove installs it by npm"
    options = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
    with serving(lambda port: [str(PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]) as url:
        make_container(f"{url}/{ACCOUNT}", "tiles")
        yield f"{url}/{ACCOUNT}"


@pytest.fixture(autouse=True)
def _environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables as a user sets them."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)


def test_the_same_bytes_as_in_a_folder(tmp_path: Path) -> None:
    url = "az://tiles/folder/s.zarr"
    for path in (tmp_path / "s.zarr", url):
        make_store(path)
    objects = storage_at(url)
    assert {key: digest_of(objects.get(key)) for key in objects.keys()} == digests(tmp_path / "s.zarr")  # noqa: SIM118
    assert open_store(url).tiles.equals(open_store(tmp_path / "s.zarr").tiles)
    assert verify(url).problems == ()
    objects.remove()
    assert not objects.is_there()


def test_the_path_of_a_url_is_the_start_of_the_keys_character_by_character() -> None:
    names = ("run#1.zarr", "run?x", "a%20b", "a b", "100%", "größe")
    for name in names:
        storage_at(f"az://tiles/literal/{name}").put("a", name.encode())
    assert sorted(storage_at("az://tiles/literal").keys()) == sorted(f"{name}/a" for name in names)
    assert {storage_at(f"az://tiles/literal/{name}").get("a").decode() for name in names} == set(names)


def test_a_container_that_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match="expected a bucket that exists"):
        begin_store("az://nobodys-bucket/s.zarr")


def test_a_wrong_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"wrong").decode())
    with pytest.raises(InputError, match="expected credentials"):
        begin_store("az://tiles/other/s.zarr")


def test_of_two_builders_that_start_together_exactly_one_works_a_hundred_times() -> None:
    assert race("az://tiles/race", 100) == [1] * 100
