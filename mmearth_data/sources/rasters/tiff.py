"""Detect truncated TIFF files, by the offsets in their directories.

If a tag is beyond the end of a file, GDAL only warns and continues without it, so that a no-data value or a date would
be lost silently. The directories are therefore checked before GDAL opens a file (TIFF 6.0, section 2; BigTIFF, section
2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDTHS = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), 1)) | {16: 8, 17: 8, 18: 8}
"""Field type -> bytes of one value."""
BLOCKS = {273: 279, 324: 325}
"""Tags with the offsets of strips and tiles -> tags with their byte counts."""
SUB_DIRECTORIES = 330


class _Beyond(Exception):  # noqa: N818 - internal, never seen by callers
    """A part of the file is beyond its end; the argument is the byte at which that part ends."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


@dataclass(frozen=True, slots=True)
class _Layout:
    """Widths of the fields of a directory: classic TIFF or BigTIFF, either byte order."""

    order: str
    big: bool

    @property
    def count(self) -> str:
        return f"{self.order}{'Q' if self.big else 'H'}"

    @property
    def offset(self) -> str:
        return f"{self.order}{'Q' if self.big else 'L'}"

    @property
    def entry(self) -> str:
        return f"{self.order}HH{'Q8s' if self.big else 'L4s'}"


def missing_end(path: Path) -> int | None:
    """Minimum size of a TIFF file, bytes, if it is shorter; None if nothing is missing, or it is not a TIFF."""
    with path.open("rb") as stream:
        magic = stream.read(4)
        order = {b"II": "<", b"MM": ">"}.get(magic[:2])
        version = struct.unpack(f"{order}H", magic[2:])[0] if order and len(magic) == 4 else None
        if version not in {42, 43}:
            return None
        layout = _Layout(order=order or "", big=version == 43)
        try:
            _walk(stream, layout)
        except _Beyond as beyond:
            return beyond.end
    return None


def _walk(stream: BinaryIO, layout: _Layout) -> None:
    """Check all directories, including those of masks and overviews."""
    waiting = [_number(stream, 8 if layout.big else 4, layout.offset)]
    seen: set[int] = set()
    while waiting:
        start = waiting.pop()
        if start == 0 or start in seen:
            continue
        seen.add(start)
        tags, following = _read_directory(stream, layout, start)
        for offsets, counts in BLOCKS.items():
            if offsets in tags and len(tags.get(counts, ())) == len(tags[offsets]):
                ends = tags[offsets].astype(np.uint64) + tags[counts].astype(np.uint64)
                _check(stream, int(ends.max(initial=0)))
        waiting += [following, *tags.get(SUB_DIRECTORIES, np.empty(0, np.uint64)).tolist()]


def _read_directory(stream: BinaryIO, layout: _Layout, start: int) -> tuple[dict[int, NDArray[Any]], int]:
    """Read the tags of blocks and sub-directories, and the offset of the next directory; all values must exist."""
    entries = _number(stream, start, layout.count)
    first = start + struct.calcsize(layout.count)
    table = _bytes(stream, first, entries * struct.calcsize(layout.entry))
    tags: dict[int, NDArray[Any]] = {}
    for tag, kind, length, inline in struct.iter_unpack(layout.entry, table):
        width = WIDTHS.get(kind, 1)
        size = length * width
        if size > len(inline):
            offset = struct.unpack(layout.offset, inline)[0]
            _check(stream, offset + size)
        if tag in BLOCKS or tag in BLOCKS.values() or tag == SUB_DIRECTORIES:
            content = inline[:size] if size <= len(inline) else _bytes(stream, offset, size)
            tags[tag] = np.frombuffer(content, f"{layout.order}u{width}")
    return tags, _number(stream, first + len(table), layout.offset)


def _number(stream: BinaryIO, offset: int, form: str) -> int:
    found: int = struct.unpack(form, _bytes(stream, offset, struct.calcsize(form)))[0]
    return found


def _bytes(stream: BinaryIO, offset: int, size: int) -> bytes:
    _check(stream, offset + size)
    stream.seek(offset)
    return stream.read(size)


def _check(stream: BinaryIO, end: int) -> None:
    if end > stream.seek(0, 2):
        raise _Beyond(end)
