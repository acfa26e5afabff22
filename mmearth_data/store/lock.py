"""One build at a time on one store.

A local store is held by a lock of the operating system, which is free the moment that its holder dies,
however it dies and whatever the clock says. The text in the file is for people.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.store.schema import LEDGER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_KEY = f"{LEDGER}/lock.json"


@contextmanager
def hold(root: Path) -> Iterator[str | None]:
    """Hold a local store for one build.

    Parameters
    ----------
    root
        Folder of the store.

    Yields
    ------
    str or None
        What an earlier build left behind that did not end by itself, in words.

    Raises
    ------
    InputError
        When another build holds it.
    """
    path = root / LOCK_KEY
    path.parent.mkdir(exist_ok=True)
    descriptor = _locked(root, path)
    try:
        left = os.pread(descriptor, 4096, 0)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder()).encode(), 0)
        try:
            yield describe_stale(left) if left else None
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


def holder() -> dict[str, Any]:
    """Who holds a lock, for people."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def refusal(store: str, text: bytes) -> str:
    """Say who builds this store now."""
    return f"{store}: expected a store that nobody else is building, got one that {_who(text)} is building; wait for it, or stop it."


def describe_stale(text: bytes) -> str:
    """Say what an earlier build left behind."""
    return f"An earlier build ({_who(text)}) ended before it was done; its lock is free, and this build goes on where it stopped."


def _who(text: bytes) -> str:
    try:
        entry = json.loads(text)
        return f"process {entry['pid']} on {entry['host']} (since {entry['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
