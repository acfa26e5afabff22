"""Temporary names of files that are being written, and what killed processes left behind under such names."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import socket
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PARTIAL = ".partial-"
"""Prefix of temporary names; names with a leading dot are never read as data."""
OWNER = re.compile(re.escape(PARTIAL) + r"[0-9a-f]{6}-(\d+)-[0-9a-f]{8}-.*", re.DOTALL)
NAME_LENGTH = 100
"""Characters of the final name that the temporary one repeats: file systems take 255 bytes."""


def temporary_path(path: Path) -> Path:
    """Temporary name beside a file or folder: no other process uses it, and it names the process that writes."""
    return path.with_name(f"{PARTIAL}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name[:NAME_LENGTH]}")


def remove_left(folder: Path, name: str | None = None) -> None:
    """Remove what processes of this machine left in a folder when they were killed.

    With ``name``, only what was to become the file or folder of that name; without it, files only, since a folder may
    be the older version of one that was being replaced. Whatever a running process writes is kept.
    """
    ending = "*" if name is None else glob.escape(name[:NAME_LENGTH])
    for left in folder.glob(f"{PARTIAL}{_host()}-*-{ending}"):
        owner = OWNER.fullmatch(left.name)
        if owner is not None and not is_running(int(owner[1])) and (name is not None or left.is_file()):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def is_running(pid: int) -> bool:
    """Whether this machine has a process with that number; True on Windows, where asking would end it."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()
