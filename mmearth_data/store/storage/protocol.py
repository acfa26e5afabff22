"""The interface to the bytes of a store, which are in a folder or a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from io import BufferedReader
    from pathlib import Path

    from mmearth_data.store.storage.lock import Held


class ObjectChanged(Exception):  # noqa: N818 - named by what happened
    """A conditional write found another object than the expected one."""


class StoreUrl(str):
    """URL of a store in the cloud, with a name like a path."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return self.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Last part of the URL, without its suffix."""
        return self.name.rpartition(".")[0] or self.name


class Storage(Protocol):
    """Objects (bytes by key) of one store.

    An object is published atomically: readers see the whole object or none of it, or the older one. Keys are names
    joined by ``/``.
    """

    @property
    def root(self) -> Path | StoreUrl:
        """Folder or URL of the store."""
        ...

    @property
    def far(self) -> bool:
        """Whether each access waits for a network, so that many should run at the same time."""
        ...

    def hold(self) -> AbstractContextManager[Held]:
        """Hold the store for one command; a folder that does not exist is made.

        Raises
        ------
        StoreTaken
            When another command holds it.
        InputError
            When stores cannot be held there; nothing is written then.
        """
        ...

    def make(self) -> None:
        """Make the folder, where there are folders, unless it exists."""
        ...

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Publish one object; an existing one is replaced."""
        ...

    def together(self) -> AbstractContextManager[Callable[[str, bytes | memoryview], None]]:
        """Yield a function that publishes objects, from any thread; all of them are durable when the block ends."""
        ...

    def staged(self, key: str) -> AbstractContextManager[Path]:
        """Path of a temporary file that becomes the object ``key`` if the block succeeds."""
        ...

    def get(self, key: str) -> bytes:
        """Bytes of an object.

        Raises
        ------
        FileNotFoundError
            When there is no such object.
        """
        ...

    def open(self, key: str) -> BufferedReader:
        """Open an object for reading: a file, or the bytes of a remote object; raises like `get`."""
        ...

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each given as (offset, length); raises like `get`."""
        ...

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, None if it does not exist."""
        ...

    def tag(self, key: str) -> str:
        """Return a tag of the content of an object, which changes when the object is replaced.

        Raises
        ------
        FileNotFoundError
            When there is no such object.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted names directly in a folder; empty if it does not exist."""
        ...

    def keys(self) -> Iterator[str]:
        """All keys, without staged objects."""
        ...

    def is_there(self) -> bool:
        """Whether the path has anything that could be a store."""
        ...

    def absence(self) -> str:
        """Message that says what is at the path instead of a store."""
        ...

    def remove(self) -> None:
        """Remove all objects, those of `LEDGER` last, so that no other command starts earlier."""
        ...

    def unmake(self) -> None:
        """Remove the folder, if the storage has folders and this one is empty, and not a link or a mount point."""
        ...

    def discard_staged(self) -> None:
        """Remove partial objects of killed processes."""
        ...
