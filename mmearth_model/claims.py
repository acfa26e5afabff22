"""Claims on runs, for processes that share a folder: a file that its owner creates once and touches while it lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mmearth_data import create_file, is_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEARTBEAT_S = 10.0
STALE_S = 90.0
"""Seconds without a touch after which a claim has expired (clocks of a cluster differ by less)."""
_held: set[Path] = set()
"""Claims of this process. A restarted container keeps its host name and process number, but not its claims."""


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Take a claim unless a live process has it, and hold it within the block; yields whether it was taken."""
    path = path.absolute()
    if not _take(path):
        yield False
        return
    _held.add(path)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep_warm, args=(path, ended), daemon=True)
    keeper.start()
    try:
        yield True
    finally:
        ended.set()
        keeper.join()
        path.unlink(missing_ok=True)
        _held.discard(path)


def _keep_warm(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        try:
            os.utime(path)
        except FileNotFoundError:
            return


def _take(path: Path) -> bool:
    if path.exists() and not _alive(path, path):
        _bury(path)
    return create_file(path, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))


def _alive(path: Path, file: Path) -> bool:
    """Whether the owner of a claim, as recorded in a file, is alive."""
    try:
        age = time.time() - file.stat().st_mtime
        owner = json.loads(file.read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # being written
        return age < STALE_S
    if owner["host"] != socket.gethostname():
        return age < STALE_S
    return path in _held if owner["pid"] == os.getpid() else is_running(owner["pid"])


def _bury(path: Path) -> None:
    """Move an expired claim aside; if another process was faster and this is its new claim, put it back."""
    aside = path.with_name(f".dead-{os.getpid()}-{path.name}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _alive(path, aside):
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()
