"""One build at a time on one store.

A local store is held by a lock of the operating system, which is free the moment that its holder dies,
however it dies and whatever the clock says. A bucket knows no such lock: there the holder writes its record
again and again, and whoever finds a record watches whether it changes. Nobody's clock is compared with
anybody's, so a clock that jumps does no harm.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError, MMEarthError
from mmearth_data.store.objects import Objects, objects_at
from mmearth_data.store.schema import LEDGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmearth_data.store.objects import StoreUrl

LOCK_KEY = f"{LEDGER}/lock.json"
BEAT_S = 5.0
"""A holder in the cloud shows this often that it lives."""
WATCH_BEATS = 4
"""A record that does not change over so many beats belongs to nobody."""


@contextmanager
def hold(store: str | Path | StoreUrl, *, beat_s: float = BEAT_S) -> Iterator[str | None]:
    """Hold a store for one build.

    Parameters
    ----------
    store
        The store, which exists.
    beat_s
        How often a holder of a store in the cloud shows that it lives.

    Yields
    ------
    str or None
        What an earlier build left behind that did not end by itself, in words.

    Raises
    ------
    InputError
        When another build holds it.
    """
    objects = objects_at(store)
    held = _hold_folder(objects.root) if isinstance(objects.root, Path) else _hold_remote(objects, beat_s)
    with held as left:
        yield None if left is None else describe_stale(left)


@contextmanager
def _hold_folder(root: Path) -> Iterator[bytes | None]:
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
            raise InputError(refusal(str(root), text)) from None
        os.close(descriptor)


@contextmanager
def _hold_remote(objects: Objects, beat_s: float) -> Iterator[bytes | None]:
    record = {**holder(), "token": uuid.uuid4().hex}
    left = _watched(objects, beat_s)
    objects.put(LOCK_KEY, json.dumps({**record, "beat": 0}).encode())
    time.sleep(beat_s / 10)
    # Of two that come at the same moment, the one that wrote last holds it.
    now = objects.get(LOCK_KEY)
    if json.loads(now)["token"] != record["token"]:
        raise InputError(refusal(str(objects.root), now))
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(objects, record, beat_s, over), daemon=True)
    beating.start()
    try:
        yield left
    finally:
        over.set()
        beating.join()
        objects.delete(LOCK_KEY)


def _watched(objects: Objects, beat_s: float) -> bytes | None:
    """Record that an earlier build left; refused when it is alive."""
    try:
        first = objects.get(LOCK_KEY)
    except FileNotFoundError:
        return None
    end = time.monotonic() + WATCH_BEATS * beat_s
    while time.monotonic() < end:
        time.sleep(beat_s / 2)
        try:
            now = objects.get(LOCK_KEY)
        except FileNotFoundError:
            return None
        if now != first:
            raise InputError(refusal(str(objects.root), now))
    return first


def _beat(objects: Objects, record: dict[str, Any], beat_s: float, over: threading.Event) -> None:
    beat = 0
    while not over.wait(beat_s):
        beat += 1
        with suppress(MMEarthError):  # the build itself will meet the same trouble, and tell
            objects.put(LOCK_KEY, json.dumps({**record, "beat": beat}).encode())


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


def describe_stale(text: bytes) -> str:
    """Say what an earlier build left behind."""
    return (
        f"An earlier build ({_who(text)}) ended before it was done; its lock is free, and this build goes on where it "
        "stopped."
    )


def _who(text: bytes) -> str:
    try:
        entry = json.loads(text)
        return f"process {entry['pid']} on {entry['host']} (since {entry['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
