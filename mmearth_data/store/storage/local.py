"""Bytes of a store, by key. Only this module depends on their being files.

An object is published atomically: written to a temporary file, flushed to the disk and renamed; then its folder is
flushed. `RemoteStorage` does the same for an object store with atomic puts.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.files.writing import flush

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import BufferedReader

STAGING = "_partial"
"""Folder of objects being written; its files do not belong to the store."""


FLUSHERS = 8
"""Number of folders flushed to the disk at a time."""
LASTING = 2
"""Folders down to this depth are used by all shards; deeper ones belong to one shard and are not reused."""


class LocalStorage:
    """Bytes by key, in a local folder.

    Parameters
    ----------
    root
        Folder of the store; a relative path is resolved now.
    """

    far = False
    """Whether each access waits for a network, so that many should run at the same time."""

    def __init__(self, root: str | Path) -> None:
        self.root = self.folder = Path(root).absolute()  # launchers change the current folder while a store is open
        self._flushed: set[str] = set()
        """Folders whose own entries have been flushed: those of arrays and of their chunks."""

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Publish one object atomically; an existing one is replaced."""
        self._put(key, data)
        self._flush_folders([key])

    @contextmanager
    def together(self) -> Iterator[Callable[[str, bytes | memoryview], None]]:
        """Yield a function that puts objects, from any thread; they are flushed to the disk when the block ends.

        Each is written atomically, as with `put`, but folders are flushed once instead of once per object.
        """
        keys: list[str] = []

        def put(key: str, data: bytes | memoryview) -> None:
            self._put(key, data)
            keys.append(key)

        yield put
        self._flush_folders(keys)

    @contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """Path of a temporary file that becomes the object ``key`` if the block succeeds."""
        (self.folder / STAGING).mkdir(exist_ok=True)
        path = self.folder / STAGING / uuid.uuid4().hex
        try:
            yield path
            flush(path)
            self._move(str(path), key)
        finally:
            path.unlink(missing_ok=True)
        self._flush_folders([key])

    def _put(self, key: str, data: bytes | memoryview) -> None:
        """Write and flush the bytes of an object and rename it; the name is not flushed yet."""
        path = f"{self.folder}/{STAGING}/{uuid.uuid4().hex}"
        try:
            try:
                file = open(path, "wb")  # noqa: PTH123, SIM115 - closed below; a build does this for every object
            except FileNotFoundError:
                (self.folder / STAGING).mkdir(exist_ok=True)
                file = open(path, "wb")  # noqa: PTH123, SIM115
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._move(path, key)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise

    def _move(self, path: str, key: str) -> None:
        target = f"{self.folder}/{key}"
        try:
            os.replace(path, target)  # noqa: PTH105
        except FileNotFoundError:
            os.makedirs(target.rpartition("/")[0], exist_ok=True)  # noqa: PTH103
            os.replace(path, target)  # noqa: PTH105

    def _flush_folders(self, keys: Sequence[str]) -> None:
        """Flush the entries of objects and of their folders, which the process that made them may not have flushed."""
        folders: set[str] = set()
        lasting: set[str] = set()
        for key in keys:
            parts = key.split("/")
            for depth in range(len(parts)):
                entry = "/".join(parts[: depth + 1])
                if entry in self._flushed:
                    continue
                folders.add("/".join(parts[:depth]))
                if depth < min(LASTING, len(parts) - 1):
                    lasting.add(entry)
        paths = [f"{self.folder}/{folder}" for folder in sorted(folders)]
        # The disk combines concurrent requests; sequential ones would each wait for it.
        tasks = min(FLUSHERS, len(paths))
        list(lasting_threads("flusher", FLUSHERS, os.getpid()).map(_flush_all, (paths[k::tasks] for k in range(tasks))))
        self._flushed |= lasting

    def get(self, key: str) -> bytes:
        """Bytes of an object.

        Raises
        ------
        FileNotFoundError
            When there is no such object.
        """
        return (self.folder / key).read_bytes()

    def open(self, key: str) -> BufferedReader:
        """Open an object for reading; raises like `get`."""
        return (self.folder / key).open("rb")

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each given as (offset, length); raises like `get`, and returns less past its end."""
        descriptor = os.open(self.folder / key, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            return [_read_at(descriptor, offset, length) for offset, length in ranges]
        finally:
            os.close(descriptor)

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, None if it does not exist."""
        try:
            found = os.stat(f"{self.folder}/{key}")  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def zarr_store(self, name: str) -> Any:  # noqa: ANN401 - whatever zarr opens
        """Store of one array, as zarr reads it."""
        return str(self.folder / name)

    def is_there(self) -> bool:
        """Whether the path has anything that could be a store."""
        return self.folder.is_dir()

    def absence(self) -> str:
        """Message about what the path has instead of a store."""
        if not self.folder.exists():
            return f"{self.root}: expected an MMEarth store, found nothing there; check the path, or build one."
        if not self.folder.is_dir():
            return f"{self.root}: expected the folder of an MMEarth store, got a file; check the path."
        if not any(self.folder.iterdir()):
            return f"{self.root}: expected an MMEarth store, got an empty folder; check the path, or build one."
        return f"{self.root}: expected an MMEarth store, got a folder without zarr.json; check the path."

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder)

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        path = self.folder / key
        if path.is_file():
            path.unlink()
            flush(path.parent)

    def names(self, folder: str) -> list[str]:
        """Sorted names directly in a folder; empty if it does not exist."""
        path = self.folder / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def keys(self) -> Iterator[str]:
        """All keys, sorted within each folder, without staged objects."""
        for folder, folders, files in os.walk(self.folder):
            here = Path(folder)
            if here == self.folder:
                folders[:] = [name for name in folders if name != STAGING]
            folders.sort()
            yield from ((here / name).relative_to(self.folder).as_posix() for name in sorted(files))

    def discard_staged(self) -> None:
        """Remove partial objects of killed processes."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder / STAGING)


@lru_cache(maxsize=4)
def lasting_threads(purpose: str, count: int, process: int) -> ThreadPoolExecutor:
    """Return persistent threads: starting them per shard takes longer than their work. A forked process gets its own."""
    return ThreadPoolExecutor(count, thread_name_prefix=f"{purpose}-{process}")


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pread
    return os.read(descriptor, length)


def _flush_all(paths: Sequence[str]) -> None:
    for path in paths:
        flush(path)
