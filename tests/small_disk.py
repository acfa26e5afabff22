"""A disk of a few MiB that can be filled, freed and made read-only, by any user: a tmpfs in a user namespace.

The mount is seen by processes that enter the namespace, and by this one below ``/proc/PID/root``, which the tests write
to directly. Where a system forbids user namespaces to users (and the tests do not run as root) this fails: it does not
skip, since nothing else shows what a full disk does.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILLER = ".filler"
HOLD = 'mount -t tmpfs -o size="$1" none "$2" && echo mounted && exec sleep infinity'


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted disk.

    Attributes
    ----------
    holder
        Process that keeps it mounted.
    inside
        Its path for processes in the namespace.
    """

    holder: int
    inside: Path

    @property
    def path(self) -> Path:
        """The disk as this process sees it."""
        return Path(f"/proc/{self.holder}/root{self.inside}")

    def enter(self, *command: str | Path) -> list[str]:
        """Command line that runs a command where the disk is mounted at `inside`."""
        return ["nsenter", "-t", str(self.holder), "-U", "-m", "--preserve-credentials", *map(str, command)]

    def remount(self, options: str) -> None:
        """Change its size (``size=8m``), or close and open it (``ro``, ``rw``)."""
        subprocess.run(self.enter("mount", "-o", f"remount,{options}", self.inside), check=True)

    def fill(self, left_bytes: int = 0) -> None:
        """Leave so many bytes free (in pages of 4 KiB)."""
        filler = self.path / FILLER
        filler.unlink(missing_ok=True)
        found = os.statvfs(self.path)
        size = max(0, found.f_bavail * found.f_frsize - left_bytes)
        with filler.open("wb") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)

    def free(self) -> None:
        """Take away what `fill` put there."""
        (self.path / FILLER).unlink(missing_ok=True)

    def files(self) -> dict[str, bytes]:
        """Bytes of every file by relative path, hidden ones included, the filler left out."""
        found = (path for path in sorted(self.path.rglob("*")) if path.is_file() and path.name != FILLER)
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}


@contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[SmallDisk]:
    """Mount a disk of its own on a new folder; gone when the block ends."""
    inside = folder / "disk"
    inside.mkdir()
    command = ["unshare", "-Urm", "sh", "-c", HOLD, "sh", size, str(inside)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline() != "mounted\n":
            raise RuntimeError(f"expected a tmpfs in a user namespace, got: {holder.stderr.read()}")
        yield SmallDisk(holder.pid, inside)
    finally:
        holder.kill()
        holder.communicate()
