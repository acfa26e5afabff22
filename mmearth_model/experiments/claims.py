"""Who works on what, when several processes share a folder: a file that exists once, kept warm while its owner lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEARTBEAT_S = 10.0
STALE_S = 90.0
"""A claim that nobody has touched for so long is nobody's (clocks of a cluster differ by less)."""


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Take a claim if nobody living has it, and hold it inside; yields whether it is ours."""
    if not _take(path):
        yield False
        return
    ended = threading.Event()
    keeper = threading.Thread(target=_keep_warm, args=(path, ended), daemon=True)
    keeper.start()
    try:
        yield True
    finally:
        ended.set()
        keeper.join()
        path.unlink(missing_ok=True)


def _keep_warm(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        try:
            os.utime(path)
        except FileNotFoundError:
            return


def _take(path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not _alive(path):
        _bury(path)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    return True


def _alive(path: Path) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # being written
        return age < STALE_S
    if owner["host"] != socket.gethostname():
        return age < STALE_S
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _bury(path: Path) -> None:
    """Move a dead claim aside; if another process was faster and this is its new one, put it back."""
    aside = path.with_name(f".dead-{os.getpid()}-{path.name}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _alive(aside):
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()
