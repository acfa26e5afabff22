"""Write HDF5 files atomically.

After a failed write, HDF5 writes again while closing the file, and crashes the process. It therefore gets a file object
that accepts everything; the first failure is raised after HDF5 has closed it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py

from mmearth_data.files.writing import staged_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path


@contextmanager
def new_hdf5(path: Path, *, needed_bytes: int | None = None) -> Iterator[h5py.File]:
    """HDF5 file that is renamed to ``path`` if the block succeeds; arguments and errors as for `staged_file`."""
    with staged_file(path, needed_bytes=needed_bytes) as beside, beside.open("w+b", buffering=0) as raw:
        accepting = AcceptingFile(raw)
        try:
            with h5py.File(accepting, "w") as file:
                yield file
        finally:
            accepting.check()


class AcceptingFile:
    """File object for `h5py.File` over an unbuffered file that keeps the first write error and drops all later bytes."""

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self._failure: OSError | None = None
        self.seek, self.tell, self.read, self.readinto = raw.seek, raw.tell, raw.read, raw.readinto

    def write(self, data: memoryview) -> int:
        """Write all bytes, or none after a failure; reports all as written."""
        left = memoryview(data).cast("B")
        while left and self._failure is None:
            try:
                left = left[self._raw.write(left) or 0 :]
            except OSError as error:
                self._failure = error
        return memoryview(data).nbytes

    def truncate(self, size: int) -> int:
        """Set the size."""
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size

    def flush(self) -> None:
        """Do nothing: the file is unbuffered."""

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure
