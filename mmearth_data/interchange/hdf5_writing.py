"""HDF5 files that are written whole or not at all.

HDF5 does not survive a write that fails: when it closes the file, it writes once more, and ends the process. It is
therefore given a file that accepts everything, and the first failure is raised when HDF5 is done with it.
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
    """HDF5 file to fill, which becomes ``path`` when the block ends well; arguments and errors of `staged_file`."""
    with staged_file(path, needed_bytes=needed_bytes) as beside, beside.open("w+b", buffering=0) as raw:
        accepting = AcceptingFile(raw)
        try:
            with h5py.File(accepting, "w") as file:
                yield file
        finally:
            accepting.check()


class AcceptingFile:
    """What `h5py.File` needs of a file; the first failure to write is kept, and later bytes are dropped.

    Parameters
    ----------
    raw
        An unbuffered file, open for reading and writing.
    """

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self._failure: OSError | None = None
        self.seek, self.tell, self.read, self.readinto = raw.seek, raw.tell, raw.read, raw.readinto

    def write(self, data: memoryview) -> int:
        """Write all bytes, or none once something failed; reports all as written."""
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
        """Nothing is held back."""

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure
