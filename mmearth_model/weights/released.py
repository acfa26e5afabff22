"""The released checkpoints by name: downloaded once, and verified on every use."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmearth_data import (
    FileInputError,
    InputError,
    cache_folder,
    closest,
    did_you_mean,
    is_there,
    resource_path,
    staged_stream,
    write_text,
)
from mmearth_model.weights.downloading import DownloadFailed, download

if TYPE_CHECKING:
    from collections.abc import Callable

CATALOG_FILE = "checkpoints.yaml"
SUFFIXES = (".pth", ".pt", ".safetensors")
"""Suffixes of weight files that can be imported."""


@dataclass(frozen=True, slots=True)
class Released:
    """A released checkpoint."""

    name: str
    url: str
    # learned, tiles: description of its training data, for the user
    learned: str
    tiles: str
    bands: tuple[str, ...] = ()  # bands of Sentinel-2 that it takes; empty: those of the catalog entry

    @property
    def seen(self) -> dict[str, tuple[str, ...]]:
        """Modality -> its bands that the weights take, where they differ from the catalog entry."""
        return {"sentinel2": self.bands} if self.bands else {}


def released_checkpoints(catalog: Path | None = None) -> dict[str, Released]:
    """All released checkpoints of the catalog, by name."""
    file = catalog or resource_path("catalog") / CATALOG_FILE
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {
        name: Released(
            name, content["url"].format(**entry), entry["learned"], entry["tiles"], tuple(entry.get("bands", ()))
        )
        for name, entry in content["checkpoints"].items()
    }


def find_released(name: str, catalog: Path | None = None) -> Released | None:
    """Look up a name; None if it is a path, or not similar to a name. Raises `InputError` if it is a misspelt name."""
    known = released_checkpoints(catalog)
    if is_there(Path(name)):
        return None
    if name in known:
        return known[name]
    if closest(name, known) or not (os.sep in name or Path(name).suffix):
        raise InputError(
            f"expected a checkpoint, a file of weights or a released name, got {name!r}; {did_you_mean(name, known)}"
        )
    return None


def fetch(released: Released, cache: Path | None = None, report: Callable[[int], None] | None = None) -> Path:
    """File of a released checkpoint, downloaded if it is not in the cache (by default, the user's).

    ``report`` is called with the number of bytes received so far. Raises `DownloadFailed` if there is no connection, with
    the remedy, and `FileInputError` if the file differs from the one downloaded first.
    """
    file = (cache or cache_folder() / "checkpoints") / f"{released.name}.pth"
    if not file.exists():
        _download(released, file, report)
    digest, record = digest_of(file), file.with_suffix(".sha256")
    if not record.exists():
        write_text(record, f"{digest}  {file.name}\n")
    expected = record.read_text(encoding="utf-8").split()[0]
    if digest != expected:
        raise FileInputError(
            file, f"expected the digest {expected} that was recorded on first use, got {digest}; delete the file."
        )
    return file


def digest_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _download(released: Released, file: Path, report: Callable[[int], None] | None) -> None:
    try:
        with staged_stream(file) as target:
            download(released.url, target, report)
    except FileNotFoundError:
        raise DownloadFailed(_offline(released, file, "the server does not have it")) from None
    except DownloadFailed as error:
        raise DownloadFailed(_offline(released, file, str(error))) from None


def _offline(released: Released, file: Path, reason: str) -> str:
    return (
        f"{released.name}: could not be downloaded ({reason}). Without a connection: fetch {released.url} elsewhere and "
        f"put it at {file}."
    )
