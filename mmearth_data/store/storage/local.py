"""A store in a folder: objects are files.

Each is written to a temporary file, flushed to the disk and renamed; then its folder is flushed.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmearth_data.files.writing import flush, write_bytes, write_errors
from mmearth_data.store.schema import LEDGER
from mmearth_data.store.storage.lock import hold_folder
from mmearth_data.store.threads import lasting_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from io import BufferedReader

    from mmearth_data.store.storage.lock import Held

STAGING = "_partial"
"""Folder of objects being written; its files do not belong to the store."""
FLUSHERS = 8
"""Number of folders flushed to the disk at a time."""
LASTING = 2
"""Folders down to this depth are used by all shards; deeper ones belong to one shard and are not reused."""


class LocalStorage:
    """Objects in a folder; see `mmearth_data.store.storage.protocol.Storage`.

    Parameters
    ----------
    root
        Folder of the store; a relative path is resolved now.
    """

    far = False

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()  # launchers change the current folder while a store is open
        self._flushed: set[str] = set()
        """Folders whose own entries have been flushed: those of arrays and of their chunks."""

    def hold(self) -> AbstractContextManager[Held]:
        """Hold the folder for one command, by a lock of the operating system; a missing folder is made."""
        return hold_folder(self.root)

    def make(self) -> None:
        """Make the folder and those above it, unless it exists."""
        with write_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            flush(self.root.parent)  # which `hold` does not

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Publish one object; an existing one is replaced."""
        if key.startswith(f"{LEDGER}/"):  # written after a store is sealed, too, which has no staging folder
            write_bytes(self.root / key, data)
            return
        self._put(key, data)
        self._flush_folders([key])

    @contextmanager
    def together(self) -> Iterator[Callable[[str, bytes | memoryview], None]]:
        """Yield a function that publishes objects; their folders are flushed once, when the block ends."""
        keys: list[str] = []

        def put(key: str, data: bytes | memoryview) -> None:
            self._put(key, data)
            keys.append(key)

        yield put
        self._flush_folders(keys)

    @contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """Path of a temporary file that becomes the object ``key`` if the block succeeds."""
        (self.root / STAGING).mkdir(exist_ok=True)
        path = self.root / STAGING / uuid.uuid4().hex
        try:
            yield path
            flush(path)
            self._move(str(path), key)
        finally:
            path.unlink(missing_ok=True)
        self._flush_folders([key])

    def _put(self, key: str, data: bytes | memoryview) -> None:
        """Write and flush the bytes of an object and rename it; the name is not flushed yet."""
        path = f"{self.root}/{STAGING}/{uuid.uuid4().hex}"
        try:
            try:
                file = open(path, "wb")  # noqa: PTH123, SIM115 - closed below; a build does this for every object
            except FileNotFoundError:
                (self.root / STAGING).mkdir(exist_ok=True)
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
        target = f"{self.root}/{key}"
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
        # The disk combines concurrent requests; sequential ones would each wait for it.
        pool = lasting_threads("flusher", FLUSHERS, os.getpid())
        list(pool.map(flush, (f"{self.root}/{folder}" for folder in sorted(folders))))
        self._flushed |= lasting

    def get(self, key: str) -> bytes:
        """Bytes of an object; FileNotFoundError if it does not exist."""
        return (self.root / key).read_bytes()

    def open(self, key: str) -> BufferedReader:
        """Open an object for reading; raises like `get`."""
        return (self.root / key).open("rb")

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each given as (offset, length), shorter past its end; raises like `get`."""
        descriptor = os.open(self.root / key, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            return [_read_at(descriptor, offset, length) for offset, length in ranges]
        finally:
            os.close(descriptor)

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, None if it does not exist."""
        try:
            found = os.stat(f"{self.root}/{key}")  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def tag(self, key: str) -> str:
        """Return a tag of the content of a file, which is only replaced as a whole; FileNotFoundError if it does not exist."""
        found = (self.root / key).stat()
        return f"{found.st_ino:x}-{found.st_mtime_ns:x}"

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        path = self.root / key
        if path.is_file():
            path.unlink()
            flush(path.parent)
            if key.startswith(f"{LEDGER}/"):
                with suppress(OSError):  # others may have notes there
                    path.parent.rmdir()

    def names(self, folder: str) -> list[str]:
        """Sorted names directly in a folder; empty if it does not exist."""
        path = self.root / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def keys(self) -> Iterator[str]:
        """All keys, sorted within each folder, without staged objects."""
        for folder, folders, files in os.walk(self.root):
            here = Path(folder).relative_to(self.root)
            folders[:] = sorted(name for name in folders if here.parts or name != STAGING)
            yield from ((here / name).as_posix() for name in sorted(files))

    def is_there(self) -> bool:
        """Whether the path has anything that could be a store."""
        return self.root.is_dir()

    def absence(self) -> str:
        """Message that says what is at the path instead of a store."""
        if not self.root.exists():
            return f"{self.root}: expected an MMEarth store, found nothing there; check the path, or build one."
        if not self.root.is_dir():
            return f"{self.root}: expected the folder of an MMEarth store, got a file; check the path."
        if not any(self.root.iterdir()):
            return f"{self.root}: expected an MMEarth store, got an empty folder; check the path, or build one."
        return f"{self.root}: expected an MMEarth store, got a folder without zarr.json; check the path."

    def remove(self) -> None:
        """Remove all objects and folders in the root, but not the root itself, which may be a link or a mount point."""
        for entry in sorted(self.root.iterdir(), key=lambda entry: entry.name == LEDGER):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def unmake(self) -> None:
        """Remove the folder if it is empty, and not a link or a mount point."""
        with suppress(OSError):
            self.root.rmdir()

    def discard_staged(self) -> None:
        """Remove partial objects of killed processes."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root / STAGING)


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pread
    return os.read(descriptor, length)
