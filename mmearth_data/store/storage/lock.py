"""One build at a time on one store.

A local store is held by a lock of the operating system, which is free the moment that its holder dies,
however it dies and whatever the clock says. A bucket has no such lock: there the holder keeps a record up to date by
compare-and-swap (conditional writes), so that of any number of builds that reach for it exactly one gets it, and a
holder that was replaced notices at its next write. Clocks of different machines are never compared, so a clock that
jumps does no harm.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError, MMEarthError, RetryLater
from mmearth_data.store.schema import LEDGER
from mmearth_data.store.storage import storage_at
from mmearth_data.store.storage.protocol import ObjectChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore import UpdateVersion

    from mmearth_data.store.remote import RemoteStorage
    from mmearth_data.store.storage.protocol import StoreUrl

try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where stores are read but not written
    fcntl = None  # type: ignore[assignment]

LOCK_KEY = f"{LEDGER}/lock.json"
BEAT_S = 5.0
"""A holder in the cloud renews its record this often."""
WATCH_BEATS = 4
"""A record that does not change for so many beats belongs to a build that has died."""
RELEASED = "released"
"""Field of a record that a holder left in good order."""


class StoreTaken(InputError):  # noqa: N818 - named by what happened
    """Another build holds the store; nothing of it may be touched."""


class Held:
    """A store that is held for one build.

    Attributes
    ----------
    left
        What an earlier build left behind that did not end by itself, in words; None otherwise.
    """

    def __init__(self, left: str | None, confirm: Callable[[], None] = lambda: None) -> None:
        self.left = left
        self._confirm = confirm

    def confirm(self) -> None:
        """Check that the store is still held; called before anything is published.

        Raises
        ------
        StoreTaken
            When another build has taken the store over.
        RetryLater
            When the lock could not be renewed for so long that another build may have.
        """
        self._confirm()


@contextmanager
def hold(store: str | Path | StoreUrl, *, beat_s: float | None = None) -> Iterator[Held]:
    """Hold a store for one build.

    Parameters
    ----------
    store
        The store. A folder must exist; under a URL there may be nothing yet.
    beat_s
        Seconds between two renewals of the record of a store in the cloud; None: `BEAT_S`.

    Yields
    ------
    Held
        Says what an earlier build left behind, and whether the store is still held.

    Raises
    ------
    StoreTaken
        When another build holds it.
    InputError
        When the object store has no conditional writes, or the system has no locks that end with their process.
    """
    objects = storage_at(store)
    if isinstance(objects.root, Path):
        with _hold_folder(objects.root) as left:
            yield Held(None if left is None else describe_stale(left))
        return
    lock = _RemoteLock(objects, BEAT_S if beat_s is None else beat_s)  # type: ignore[arg-type]  # URLs have remote objects
    left = lock.take()
    try:
        yield Held(None if left is None else describe_stale(left), lock.confirm)
    finally:
        lock.release()


@contextmanager
def _hold_folder(root: Path) -> Iterator[bytes | None]:
    if fcntl is None:
        raise InputError(
            f"{root}: expected a system that can lock a folder's store for one writer (Linux, macOS), got {sys.platform}; "
            "write it there or in the Windows Subsystem for Linux. Stores can be read here."
        )
    path = root / LOCK_KEY
    path.parent.mkdir(exist_ok=True)
    descriptor = _locked(root, path)
    try:
        left = os.pread(descriptor, 4096, 0)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder()).encode(), 0)
        try:
            yield left or None
        finally:  # a process that is killed leaves its file, whose text then tells of it
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(root: Path, path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed it between our opening and locking: then we hold a file without a name.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            text = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise StoreTaken(refusal(str(root), text)) from None
        os.close(descriptor)


class _RemoteLock:
    """The record of one holder in a bucket.

    Parameters
    ----------
    objects
        The store's.
    beat_s
        Seconds between two renewals.
    """

    def __init__(self, objects: RemoteStorage, beat_s: float) -> None:
        self._objects = objects
        self._beat_s = beat_s
        self._record: dict[str, Any] = {**holder(), "token": uuid.uuid4().hex, "beat": 0}
        self._version: UpdateVersion = {}
        self._renewed_s = 0.0
        self._taken_by: bytes | None = None
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> bytes | None:
        """Take the lock, and begin to renew it; returns the record of a build that died with it.

        Raises
        ------
        StoreTaken
            When another build holds it.
        InputError
            When writes are not conditional here.
        """
        left, version = self._watched()
        self._write(version)
        if self._taken_by is not None:
            raise StoreTaken(refusal(str(self._objects.root), self._taken_by))
        self._prove_conditional()
        self._beating.start()
        return left

    def confirm(self) -> None:
        """See `Held.confirm`."""
        if self._taken_by is None and time.monotonic() - self._renewed_s > (WATCH_BEATS - 1) * self._beat_s:
            self._renew()
        if self._taken_by is not None:
            raise StoreTaken(refusal(str(self._objects.root), self._taken_by))

    def release(self) -> None:
        """Mark the record as released, unless another build has replaced it; a bucket deletes without conditions."""
        self._over.set()
        self._beating.join()
        if self._taken_by is None:
            self._record[RELEASED] = True
            with suppress(MMEarthError):  # the record stops changing, which frees the lock too
                self._renew()

    def _watched(self) -> tuple[bytes | None, UpdateVersion | None]:
        """Record to replace: (its text where a build died with it, its version), both None where there is none."""
        try:
            first, version = self._objects.get_version(LOCK_KEY)
        except FileNotFoundError:
            return None, None
        if _field(first, RELEASED):
            return None, version
        end = time.monotonic() + WATCH_BEATS * self._beat_s
        while time.monotonic() < end:
            time.sleep(self._beat_s / 2)
            try:
                now, version = self._objects.get_version(LOCK_KEY)
            except FileNotFoundError:
                return None, None
            if _field(now, RELEASED):
                return None, version
            if now != first:
                raise StoreTaken(refusal(str(self._objects.root), now))
        return first, version

    def _beat(self) -> None:
        while self._taken_by is None and not self._over.wait(self._beat_s):
            with suppress(MMEarthError):  # the build itself meets the same trouble, and reports it
                self._renew()

    def _renew(self) -> None:
        with self._turn:
            self._record["beat"] += 1
            self._write(self._version)

    def _write(self, version: UpdateVersion | None) -> None:
        """Swap the record in; a record of another build in its place is kept in `_taken_by`."""
        text = json.dumps(self._record).encode()
        try:
            self._version = self._objects.put_if(LOCK_KEY, text, version)
        except (ObjectChanged, RetryLater) as error:
            # Either may hide a write that happened and whose answer was lost: the record tells by its token.
            now = self._read_back(error)
            if isinstance(error, RetryLater) and now != text and self._taken_by is None:
                raise
        if self._taken_by is None:
            self._renewed_s = time.monotonic()

    def _read_back(self, error: Exception) -> bytes:
        """Record that is there; its version where it is ours, and otherwise who took the lock."""
        try:
            now, version = self._objects.get_version(LOCK_KEY)
        except FileNotFoundError:
            now, version = b"", {}
            if isinstance(error, RetryLater):
                raise error from None
        if _field(now, "token") == self._record["token"]:
            self._version = version
        elif isinstance(error, ObjectChanged):
            self._taken_by = now
        return now

    def _prove_conditional(self) -> None:
        """Refuse an object store that writes whatever the condition says.

        Raises
        ------
        InputError
            When a second record could be created over the first.
        """
        try:
            self._objects.put_if(LOCK_KEY, json.dumps(self._record).encode(), None)
        except ObjectChanged:
            return
        raise InputError(no_conditional_writes(str(self._objects.root)))


def _field(text: bytes, name: str) -> Any:  # noqa: ANN401 - of a record
    try:
        return json.loads(text).get(name)
    except (ValueError, AttributeError):
        return None


def holder() -> dict[str, Any]:
    """Who holds a lock, for people."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def refusal(store: str, text: bytes) -> str:
    """Say who builds this store now."""
    return (
        f"{store}: expected a store that no other process is building, got one that {_who(text)} is building; "
        "wait for it, or stop it."
    )


def no_conditional_writes(url: object) -> str:
    """Message that refuses to build where writes cannot be conditional."""
    return (
        f"{url}: expected an object store with conditional writes (If-None-Match, If-Match), got one that ignores or "
        "refuses them, so that two builds could write one store at the same time; build into a local folder and copy it."
    )


def describe_stale(text: bytes) -> str:
    """Say what an earlier build left behind."""
    return (
        f"An earlier build ({_who(text)}) ended before it was done; its lock is free, and this build continues where it "
        "stopped."
    )


def _who(text: bytes) -> str:
    try:
        entry = json.loads(text)
        return f"process {entry['pid']} on {entry['host']} (since {entry['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
