"""Where a store's bytes lie. The one place that knows they are files.

An object is published whole or not at all: written beside, flushed to disk, renamed into place, and the
folder flushed too. An object store that puts atomically can stand in for this class.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import BufferedReader

STAGING = "_partial"
"""Folder of objects that are being written; nothing in it belongs to the store."""


class Objects:
    """Bytes by key, in a local folder.

    Parameters
    ----------
    root
        Folder of the store.
    """

    far = False
    """Whether each access waits for a network, so that many have to be under way at a time."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def put(self, key: str, data: bytes) -> None:
        """Publish one object atomically; an older one of that key is replaced."""
        with self.staged(key) as path:
            path.write_bytes(data)

    @contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """Path of a file to fill, which becomes the object ``key`` when the block ends well."""
        staging = self.root / STAGING
        staging.mkdir(exist_ok=True)
        path = staging / uuid.uuid4().hex
        try:
            yield path
            flush(path)
            target = self.root / key
            _make_folder(target.parent)
            path.replace(target)
            flush(target.parent)
        finally:
            path.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        """Bytes of an object.

        Raises
        ------
        FileNotFoundError
            When there is no such object.
        """
        return (self.root / key).read_bytes()

    def open(self, key: str) -> BufferedReader:
        """Open an object for reading; raises like `get`."""
        return (self.root / key).open("rb")

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each given as (offset, length); raises like `get`, and returns less past its end."""
        descriptor = os.open(self.root / key, os.O_RDONLY)
        try:
            return [os.pread(descriptor, length, offset) for offset, length in ranges]
        finally:
            os.close(descriptor)

    def size(self, key: str) -> int | None:
        """Bytes of an object, None when there is none."""
        path = self.root / key
        return path.stat().st_size if path.is_file() else None

    def path(self, key: str) -> str:
        """Path for a library that reads files by itself."""
        return str(self.root / key)

    def names(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted; none where there is no such folder."""
        path = self.root / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def keys(self) -> Iterator[str]:
        """Every key, sorted within each folder, staged objects left out."""
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            if here == self.root:
                folders[:] = [name for name in folders if name != STAGING]
            folders.sort()
            yield from (str((here / name).relative_to(self.root)) for name in sorted(files))

    def discard_staged(self) -> None:
        """Remove what a killed process left half written."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root / STAGING)


def flush(path: Path) -> None:
    """Bring a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, so that they survive a power cut as well as what is put in them."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)
