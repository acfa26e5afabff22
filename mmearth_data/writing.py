"""Writing a file whole under its name, or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Path of a file to fill, which becomes ``path`` when the block ends well and is removed otherwise."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        yield beside
        flush(beside)
        beside.replace(path)
        flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def flush(path: str | Path) -> None:
    """Bring a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
