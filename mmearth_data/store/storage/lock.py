"""Lock a store, so that only one command at a time writes to it.

A folder is locked with a lock of the operating system, which is released as soon as its holder ends, even if it is
killed. A bucket has no such lock: the holder keeps a record up to date by compare-and-swap (conditional writes). If
several commands try at the same time, exactly one gets the lock, and a holder that was replaced notices at its next
write. Clocks of different machines are never compared.

The library filelock does not replace `hold_folder`: its locks do not name their holder, and where a file system has no
locks it creates a marker file instead, which a killed holder leaves behind.
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
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError, MMEarthError, RetryLater
from mmearth_data.store.schema import LEDGER
from mmearth_data.store.storage.protocol import ObjectChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from obstore import UpdateVersion

    from mmearth_data.store.storage.protocol import StoreUrl
    from mmearth_data.store.storage.remote import RemoteStorage

try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where stores are read but not written
    fcntl = None  # type: ignore[assignment]

LOCK_KEY = f"{LEDGER}/lock.json"
BEAT_S = 5.0
"""Seconds between two renewals of the record in a bucket."""
WATCH_BEATS = 4
"""If a record does not change for this number of beats, its holder is assumed dead."""
RELEASED = "released"
"""Field of a record whose holder has ended normally."""


class StoreTaken(InputError):  # noqa: N818 - named by what happened
    """Another command holds the store, which must not be changed."""


class Held:
    """A store that is held by this process.

    Attributes
    ----------
    left
        Message about an earlier holder that did not release the store, None if there is none.
    """

    def __init__(self, record: bytes = b"", confirm: Callable[[], None] = lambda: None) -> None:
        self.left = _interrupted(record) if record else None
        self._confirm = confirm

    def confirm(self) -> None:
        """Check that the store is still held; called before anything is published.

        Raises
        ------
        StoreTaken
            When another command has taken the store over.
        RetryLater
            When the lock could not be renewed for so long that another command may have.
        """
        self._confirm()


@contextmanager
def hold_folder(root: Path) -> Iterator[Held]:
    """Hold the store in a folder, which is made if it does not exist.

    Raises
    ------
    StoreTaken
        When another command holds it.
    InputError
        When the system has no locks that end with their process; nothing is written then.
    """
    if fcntl is None:
        raise InputError(
            f"{root}: expected a system that can lock a folder's store for one writer (Linux, macOS), got {sys.platform}; "
            "write it there or in the Windows Subsystem for Linux. Stores can be read here."
        )
    path = root / LOCK_KEY
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(root, path)
    try:
        left = os.pread(descriptor, 4096, 0)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder()).encode(), 0)
        try:
            yield Held(left)
        finally:  # a killed process leaves its file, which names it
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(root: Path, path: Path) -> int:
    """Descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have removed it after it was opened here: then another file has its name, or none.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            text = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise StoreTaken(refusal(root, text)) from None
        os.close(descriptor)


@contextmanager
def hold_record(objects: RemoteStorage, beat_s: float | None = None) -> Iterator[Held]:
    """Hold the store in a bucket, by a record that is renewed every ``beat_s`` seconds (None: `BEAT_S`).

    Raises
    ------
    StoreTaken
        When another command holds it.
    InputError
        When the bucket has no conditional writes.
    """
    lock = _RecordLock(objects, BEAT_S if beat_s is None else beat_s)
    left = lock.take()
    try:
        yield Held(left, lock.confirm)
    finally:
        lock.release()


class _RecordLock:
    """The record of one holder in a bucket."""

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

    def take(self) -> bytes:
        """Take the lock and begin to renew it; returns the record of a holder that has died, empty if there is none."""
        left, version = self._watched()
        self._write(version)
        self._refuse_if_taken()
        self._prove_conditional()
        self._beating.start()
        return left

    def confirm(self) -> None:
        """See `Held.confirm`."""
        if self._taken_by is None and time.monotonic() - self._renewed_s > (WATCH_BEATS - 1) * self._beat_s:
            self._renew()
        self._refuse_if_taken()

    def release(self) -> None:
        """Mark the record as released, unless another command has replaced it; buckets do not delete conditionally."""
        self._over.set()
        self._beating.join()
        if self._taken_by is None:
            self._record[RELEASED] = True
            with suppress(MMEarthError):  # a record that stops changing is free, too
                self._renew()

    def _refuse_if_taken(self) -> None:
        if self._taken_by is not None:
            raise StoreTaken(refusal(self._objects.root, self._taken_by))

    def _watched(self) -> tuple[bytes, UpdateVersion | None]:
        """Record of a holder that has died (empty: none), and the version to replace (None: no record)."""
        first: bytes | None = None
        end = time.monotonic() + WATCH_BEATS * self._beat_s
        while True:
            try:
                now, version = self._objects.get_version(LOCK_KEY)
            except FileNotFoundError:
                return b"", None
            if _field(now, RELEASED):
                return b"", version
            if first is not None and now != first:
                raise StoreTaken(refusal(self._objects.root, now))
            if time.monotonic() >= end:
                return now, version
            first = now
            time.sleep(self._beat_s / 2)

    def _beat(self) -> None:
        while self._taken_by is None and not self._over.wait(self._beat_s):
            with suppress(MMEarthError):  # the command itself meets the same failure, and reports it
                self._renew()

    def _renew(self) -> None:
        with self._turn:
            self._record["beat"] += 1
            self._write(self._version)

    def _write(self, version: UpdateVersion | None) -> None:
        """Replace the record; if another command's record is there instead, it is kept in `_taken_by`."""
        text = json.dumps(self._record).encode()
        try:
            self._version = self._objects.put_if(LOCK_KEY, text, version)
        except (ObjectChanged, RetryLater) as error:
            # The write may have happened, and only its answer was lost: the token in the record decides.
            now = self._read_back(error)
            if isinstance(error, RetryLater) and now != text and self._taken_by is None:
                raise
        if self._taken_by is None:
            self._renewed_s = time.monotonic()

    def _read_back(self, error: Exception) -> bytes:
        """Read the record after a failed write: keep its version if it is ours, else the record that replaced it."""
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
        """Refuse a bucket that ignores conditions: one in which a second record could be created over the first."""
        try:
            self._objects.put_if(LOCK_KEY, json.dumps(self._record).encode(), None)
        except ObjectChanged:
            return
        raise InputError(no_conditional_writes(self._objects.root))


def _field(text: bytes, name: str) -> Any:  # noqa: ANN401 - of a record
    try:
        return json.loads(text).get(name)
    except (ValueError, AttributeError):
        return None


def holder() -> dict[str, Any]:
    """Who holds a lock, for messages."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def refusal(store: Path | StoreUrl, record: bytes) -> str:
    """Message that names the process that is building a store."""
    return (
        f"{store}: expected a store that no other process is building, got one that {_holder_in(record)} is building; "
        "wait for it, or stop it."
    )


def _interrupted(record: bytes) -> str:
    return (
        f"An earlier build ({_holder_in(record)}) ended before it was done; its lock is free, and this build continues where "
        "it stopped."
    )


def no_conditional_writes(url: StoreUrl) -> str:
    """Message that refuses to build where writes cannot be conditional."""
    return (
        f"{url}: expected an object store with conditional writes (If-None-Match, If-Match), got one that ignores or "
        "refuses them, so that two builds could write one store at the same time; build into a local folder and copy it."
    )


def _holder_in(record: bytes) -> str:
    try:
        entry = json.loads(record)
        return f"process {entry['pid']} on {entry['host']} (since {entry['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
