"""Tortilla files, the containers of GEO-Bench 2: concatenated files, followed by a table of them.

A file begins with two letters, followed by position and length of the table as little-endian 64-bit numbers. The table
is a Parquet file with a row for each member: name, format, position and length, and columns about it. A member of the
format TORTILLA is again such a file, whose positions count from its own beginning. Layout:
https://tacofoundation.github.io (tacoreader 0.5). No other library is needed to read them, and nothing is unpickled.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, Raster, raster_outline, read_raster, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shapely.geometry.base import BaseGeometry

    from mmearth_data import Marks

HEADER = struct.Struct("<2sqq")
MAGIC = (b"#y", b"WX")
CONTAINER, HDF5 = "TORTILLA", "HDF5"
NAME, FORMAT, OFFSET, LENGTH = "tortilla:id", "tortilla:file_format", "tortilla:offset", "tortilla:length"
MODALITY = "modality"
DATA = "data"
"""Data set of an HDF5 member."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file within a container."""

    file: Path
    offset: int
    length: int
    format: str
    row: Mapping[str, Any]  # its row of the table

    @property
    def name(self) -> str:
        """Name in the container."""
        return str(self.row[NAME])

    @property
    def source(self) -> str:
        """Path with which GDAL reads it."""
        return f"/vsisubfile/{self.offset}_{self.length},{self.file}"


def members(file: Path, offset: int = 0, length: int | None = None) -> list[Member]:
    """List the members of a container: a whole file, or ``length`` bytes of it from ``offset``.

    Raises
    ------
    FileInputError
        If it is not a tortilla file, or incomplete.
    """
    try:
        with file.open("rb") as opened:
            end = opened.seek(0, 2) if length is None else offset + length
            opened.seek(offset)
            head = opened.read(HEADER.size)
            magic, start, size = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0)
            if magic not in MAGIC or not HEADER.size <= start <= start + size <= end - offset:
                raise FileInputError(
                    file, "expected a complete tortilla file, got another or a truncated one; copy it again."
                )
            opened.seek(offset + start)
            columns = _columns(file, opened.read(size))
    except OSError as error:
        raise FileInputError(file, f"expected a tortilla file, got: {reason_of(error)}.") from None
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return [_member(file, offset, end, row) for row in rows]


def _columns(file: Path, table: bytes) -> dict[str, list[Any]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        opened = ParquetFile(pa.BufferReader(table), pre_buffer=False)
        columns: dict[str, list[Any]] = opened.read(use_threads=False).to_pydict()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FileInputError(file, f"expected a Parquet table at its end, got: {reason_of(error)}.") from None
    absent = [name for name in (NAME, FORMAT, OFFSET, LENGTH) if name not in columns]
    if absent:
        raise FileInputError(file, f"expected the column {absent[0]!r} in its table, got {', '.join(columns)}.")
    return columns


def _member(file: Path, offset: int, end: int, row: dict[str, Any]) -> Member:
    start, length = row[OFFSET], row[LENGTH]
    whole = isinstance(start, int) and isinstance(length, int)
    if not (whole and start >= HEADER.size and length > 0 and offset + start + length <= end):
        raise FileInputError(
            file, f"expected {row[NAME]!r} within the file, got position {start} and length {length}; copy it again."
        )
    return Member(file, offset + start, length, str(row[FORMAT]), row)


@dataclass(frozen=True, slots=True)
class TortillaRasters:
    """Rasters in samples, which are containers; an item is ``SAMPLE/MEMBER``."""

    root: Path
    samples: Mapping[str, Member]
    planes: int  # number of planes that a raster must have; further ones are left out

    def read(self, item: str, marks: Marks = None) -> Raster:
        """Read the planes of a member; `marks` mean missing instead of the file's no-data tag."""
        member = self._member(item)
        name = f"{self.root}/{item}"
        if member.format == HDF5:
            raster = Raster.of(_hdf5(member, name), marks=marks)
        else:
            raster = read_raster(member.source, name, marks)
        return raster if len(raster.values) <= self.planes else raster.select(range(self.planes))

    def outline(self, item: str) -> BaseGeometry | None:
        """Outline in EPSG:4326, None without a georeference."""
        member = self._member(item)
        return None if member.format == HDF5 else raster_outline(member.source, f"{self.root}/{item}")

    def stamp(self, item: str) -> str:
        """Size and modification time of the file, and the position of the sample."""
        sample = self._sample(item)
        status = sample.file.stat()
        return f"{sample.file.name} {status.st_size} {status.st_mtime_ns} {sample.offset}"

    def _sample(self, item: str) -> Member:
        name = item.rpartition("/")[0]
        if name not in self.samples:
            raise FileInputError(f"{self.root}/{item}", "expected a sample of the data set, got another name.")
        return self.samples[name]

    def _member(self, item: str) -> Member:
        """Find a member by position, by name, or as the first of a modality."""
        sample, wanted = self._sample(item), item.rpartition("/")[2]
        inside = members(sample.file, sample.offset, sample.length)
        if wanted.lstrip("-").isdigit():
            found = inside[int(wanted) :][:1] if int(wanted) >= -len(inside) else []
        else:
            found = [m for m in inside if wanted in (m.name, m.row.get(MODALITY))][:1]
        if not found or found[0].format == CONTAINER:
            raise FileInputError(
                f"{self.root}/{item}",
                f"expected the member {wanted} in the sample, got {', '.join(m.name for m in inside)}; correct the task file.",
            )
        return found[0]


def _hdf5(member: Member, name: str) -> np.ndarray[Any, Any]:
    """(C, H, W) of the first date of a series (T, C, H, W), or the first plane of (C, H, W), which is a mask."""
    import h5py

    try:
        with member.file.open("rb") as opened:
            opened.seek(member.offset)
            content = BytesIO(opened.read(member.length))
        with h5py.File(content) as file:
            data = file[DATA]
            first = np.asarray(data[0])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise FileInputError(name, f"expected HDF5 with the data set {DATA!r}, got: {reason_of(error)}.") from None
    if first.ndim not in (2, 3):
        raise FileInputError(name, f"expected dates of planes, or a mask, got {first.ndim + 1} dimensions.")
    return first if first.ndim == 3 else first[None]
