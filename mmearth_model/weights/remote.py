"""Folders with weights at a URL: on the Hugging Face Hub, on a web server, or in a bucket.

They are downloaded into a cache folder, once for each version::

    CACHE/checkpoints/remote/DIGEST OF THE URL/VERSION/config.json, model.safetensors, origin.json
    CACHE/checkpoints/remote/DIGEST OF THE URL/latest                the version that was used last

The Hub's own library keeps its own cache (`mmearth_model.weights.hub`). Only these two files are ever downloaded: other
files of the folder, such as pickles, are ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from filelock import FileLock

from mmearth_data import (
    FileInputError,
    InputError,
    RetryLater,
    cache_folder,
    make_folder,
    staged_folder,
    storage_at,
    write_bytes,
    write_errors,
    write_text,
)
from mmearth_model.training.layout import CONFIG_FILE, MODEL_FILE
from mmearth_model.weights.downloading import DownloadFailed, HttpFolder, Unreachable, receive
from mmearth_model.weights.hub import fetch_from_hub
from mmearth_model.weights.released import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FILES = (CONFIG_FILE, MODEL_FILE)
HUB, WEB, BUCKETS = ("hf",), ("https", "http"), ("s3", "gs", "az")
ORIGIN_FILE, LATEST_FILE = "origin.json", "latest"
RANGE_BYTES = 2**23
MAX_CONFIG_BYTES = 2**26
"""Larger files are not the configuration of a network."""
COLLAPSED = re.compile(r"(hf|https?|s3|gs|az):[/\\][^/\\]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights were downloaded from.

    Attributes
    ----------
    url
        As given.
    revision
        Commit on the Hub; None elsewhere.
    sha256
        File -> digest of its content.
    """

    url: str
    revision: str | None
    sha256: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    def __str__(self) -> str:
        commit = f", revision {self.revision}" if self.revision else ""
        return f"{self.url}{commit}, sha256 {self.sha256[MODEL_FILE]}"


class Remote(Protocol):
    """Files below a URL."""

    def get(self, name: str, limit: int) -> bytes:
        """Content of a small file, at most ``limit`` bytes of it."""
        ...

    def stamp(self, name: str) -> tuple[int | None, str]:
        """Size of a file in bytes, if known, and the tag of its content."""
        ...

    def open_at(self, name: str, start: int, tag: str) -> tuple[int, Iterator[bytes]]:
        """Offset from which the download of a file can resume, ``start`` or 0, and its bytes from there."""
        ...


class BucketFolder:
    """Files below the URL of a bucket; see `Remote`."""

    def __init__(self, url: str) -> None:
        self.storage = storage_at(url)

    def get(self, name: str, limit: int) -> bytes:
        """Content of a small file, at most ``limit`` bytes of it."""
        size = self.storage.size(name)
        if size is None:
            raise FileNotFoundError(name)
        return b"".join(self.storage.get_ranges(name, [(0, min(limit, size))] if size else []))

    def stamp(self, name: str) -> tuple[int | None, str]:
        """Size of an object in bytes, and its ETag."""
        return self.storage.size(name), self.storage.tag(name)

    def open_at(self, name: str, start: int, tag: str) -> tuple[int, Iterator[bytes]]:
        """Offset and bytes of an object from there on, range by range; raises `DownloadFailed` if it was replaced."""
        return start, self._ranges(name, start, tag)

    def _ranges(self, name: str, start: int, tag: str) -> Iterator[bytes]:
        size = self.storage.size(name) or 0
        for offset in range(start, size, RANGE_BYTES):
            yield self.storage.get_ranges(name, [(offset, min(RANGE_BYTES, size - offset))])[0]
        if self.storage.tag(name) != tag:
            raise DownloadFailed("the file changed during the download; run the same command again")


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL.

    Raises
    ------
    InputError
        For a `Path` made from a URL, since `Path` changes it.
    """
    if isinstance(path, Path) and COLLAPSED.match(str(path)):
        raise InputError(f"{path}: expected a URL as text, got a Path, which drops one of its slashes; pass it as str.")
    return "://" in str(path)


def locate(path: str | Path, report: Callable[[int], None] | None = None) -> tuple[Path, Origin | None]:
    """Local folder of weights, and their origin if the path is a URL, which is downloaded.

    Parameters
    ----------
    path
        Folder, ``hf://OWNER/NAME[@REVISION][/SUBFOLDER]``, ``https://...``, ``s3://...``, ``gs://...`` or ``az://...``.
    report
        Called with the number of bytes received so far.

    Raises
    ------
    InputError
        If there are no weights at this URL, or it cannot be downloaded from.
    DownloadFailed
        If the server refuses, or it cannot be reached and there is no earlier download.
    """
    if not is_url(path):
        return Path(path), None
    url = str(path)
    check_url(url)
    if urlsplit(url).scheme in HUB:
        folder, revision = fetch_from_hub(url, report)
    else:
        folder, revision = _fetch(url, report), None
    return folder, _origin(url, revision, folder)


def check_url(url: str) -> None:
    """Refuse URLs with an unknown scheme, and those with passwords, queries or fragments.

    Raises
    ------
    InputError
        With the known schemes.
    """
    known = (*HUB, *WEB, *BUCKETS)
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) or parts.scheme not in WEB
    except ValueError:
        complete = False
    if not complete:  # the message leaves the URL out: it may have a password
        raise InputError("expected a URL such as https://HOST/PATH, got one that cannot be read; correct it.")
    if parts.scheme not in known:
        raise InputError(
            f"{url}: expected a folder or a URL with one of these schemes: {', '.join(known)}; correct it."
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: expected a URL without password, query and "
            "fragment, since results record the URL; leave them out."
        )


def _fetch(url: str, report: Callable[[int], None] | None) -> Path:
    """Return the cached folder of a URL: its current version, or the last download if the server cannot be reached."""
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    home = make_folder(cache_folder() / "checkpoints" / "remote" / digest)
    remote: Remote = HttpFolder(url) if urlsplit(url).scheme in WEB else BucketFolder(url)
    try:
        return _newest(url, remote, home, report)
    except FileNotFoundError:
        raise InputError(
            f"{url}: expected a folder with {' and '.join(FILES)}, got one without; check the URL."
        ) from None
    except (Unreachable, RetryLater) as error:
        latest = home / LATEST_FILE
        if latest.exists():
            return home / latest.read_text(encoding="utf-8")
        raise DownloadFailed(
            f"{url}: could not be downloaded ({error}). Run the same command again to continue, or download the folder "
            "elsewhere and give its path."
        ) from None
    except DownloadFailed as error:
        raise DownloadFailed(f"{url}: could not be downloaded: {error}.") from None


def _newest(url: str, remote: Remote, home: Path, report: Callable[[int], None] | None) -> Path:
    config = remote.get(CONFIG_FILE, MAX_CONFIG_BYTES)
    _check_config(url, config)
    size, tag = remote.stamp(MODEL_FILE)
    version = hashlib.sha256(b"\0".join((config, str(size).encode(), tag.encode()))).hexdigest()[:16]
    folder = home / version
    with FileLock(home / ".lock"):
        if not folder.exists():
            part = home / f".{version}.part"
            _continue(remote, part, size, tag, report)
            with staged_folder(folder) as staged:
                part.rename(staged / MODEL_FILE)
                write_bytes(staged / CONFIG_FILE, config)
                write_text(staged / ORIGIN_FILE, json.dumps({"url": url, "sha256": _digests(staged)}, indent=1) + "\n")
        write_text(home / LATEST_FILE, version)
    return folder


def _check_config(url: str, content: bytes) -> None:
    """Refuse anything but a configuration, such as a server's page for missing files."""
    try:
        found = isinstance(json.loads(content), dict)
    except ValueError:
        found = False
    if not found:
        raise InputError(f"{url}/{CONFIG_FILE}: expected the configuration of a network (JSON), got something else; check the URL.")  # fmt: skip


def _continue(remote: Remote, part: Path, size: int | None, tag: str, report: Callable[[int], None] | None) -> None:
    """Download the weights into a file; an earlier download resumes."""
    start = part.stat().st_size if part.exists() and tag else 0
    if start == size:
        return
    offset, blocks = remote.open_at(MODEL_FILE, start, tag)
    with write_errors(part), part.open("r+b" if offset else "wb") as target:
        target.seek(offset)
        receive(blocks, target, size, report)


def _digests(folder: Path) -> dict[str, str]:
    return {name: digest_of(folder / name) for name in FILES}


def _origin(url: str, revision: str | None, folder: Path) -> Origin:
    """Origin of a downloaded folder. Raises `FileInputError` if a file differs from what was downloaded."""
    found, record = _digests(folder), folder / ORIGIN_FILE
    if record.exists():
        expected = json.loads(record.read_text(encoding="utf-8"))["sha256"]
        for name in (name for name in FILES if expected[name] != found[name]):
            raise FileInputError(
                folder / name,
                f"expected the digest {expected[name]} of the downloaded file, got {found[name]}; delete {folder}.",
            )
    return Origin(url, revision, found)
