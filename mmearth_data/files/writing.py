"""Write files atomically: complete under the final name or not at all, with errors that say what to do.

Bytes are written to a temporary file in the target's folder, flushed to the disk, and renamed. A full disk, a read-only
folder and a target of the wrong kind each end in a one-line error; nothing is left behind.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mmearth_data.errors import FileInputError, InputError, MMEarthError, WriteFailed
from mmearth_data.files.temporary import PARTIAL, remove_left, temporary_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
BROKEN = frozenset({errno.EIO, errno.ESTALE})
MISPLACED = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
FAILURES = FULL | CLOSED | BROKEN | MISPLACED

NUMBER_IN_TEXT = re.compile(r"(?:errno = |errno |os error )(\d+)")
"""How native libraries (HDF5, Arrow, safetensors) write the system's error number in their messages."""
IN_STORES = Path("tile_id", "zarr.json")
"""A file that every store has."""
PROBE_BYTES = 2**20
"""Bytes written to test whether the disk is full, after an error without a reason."""


@contextmanager
def staged_file(path: str | Path, *, needed_bytes: int | None = None) -> Iterator[Path]:
    """Path of a temporary file, which is renamed to ``path`` if the block succeeds and removed otherwise.

    Missing folders are created, an older file is replaced, a link keeps its target. With ``needed_bytes``, the size of
    the file, it is refused immediately if the disk has less free space.

    Raises WriteFailed if the disk is full or the folder is not writable, InputError if a folder has that name or a
    parent is a file.
    """
    with _staging(path, folder=False, needed_bytes=needed_bytes) as (path, beside):
        yield beside
        flush(beside)
        beside.replace(path)
        flush(path.parent)


@contextmanager
def staged_stream(path: str | Path) -> Iterator[BinaryIO]:
    """Binary stream that is renamed to ``path`` if the block succeeds; raises like `staged_file`."""
    with staged_file(path) as beside, beside.open("wb") as stream:
        yield stream


@contextmanager
def staged_array(
    path: str | Path, dtype: np.dtype[Any] | type, shape: tuple[int, ...]
) -> Iterator[np.memmap[Any, Any]]:
    """Memory-mapped ``.npy`` array, which is renamed to ``path`` if the block succeeds.

    Its space on the disk is allocated first: the system kills a process that writes to a mapped file on a full disk.
    Raises like `staged_file`.
    """
    import numpy as np

    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    remove_left(_target(path).parent, _target(path).name)
    with staged_file(path, needed_bytes=size) as beside:
        with beside.open("wb") as stream:
            header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            _allocate(stream, size)
        mapped = np.lib.format.open_memmap(beside, mode="r+")
        yield mapped
        mapped.flush()


@contextmanager
def staged_folder(path: str | Path) -> Iterator[Path]:
    """Empty temporary folder, which is renamed to ``path`` if the block succeeds and removed otherwise.

    An older folder of that name is replaced. Raises like `staged_file`.
    """
    with _staging(path, folder=True) as (path, beside):
        beside.mkdir()
        yield beside
        for entry in (*beside.rglob("*"), beside):
            flush(entry)
        move_folder(beside, path)
        remove_left(path.parent, path.name)  # only now: one of them may be the older version


@contextmanager
def _staging(path: str | Path, *, folder: bool, needed_bytes: int | None = None) -> Iterator[tuple[Path, Path]]:
    """Target of a path and a temporary name beside it, for a block that writes there; raises like `staged_file`."""
    path = _target(path)
    with write_errors(path, needed_bytes=needed_bytes):
        if path.exists() and path.is_dir() != folder:
            number = errno.ENOTDIR if folder else errno.EISDIR
            raise OSError(number, os.strerror(number), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        if needed_bytes is not None and shutil.disk_usage(path.parent).free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
        beside = temporary_path(path)
        try:
            yield path, beside
        except Exception as error:
            _name_reason(error, path.parent)
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True) if folder else beside.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file atomically; raises like `staged_file`."""
    with staged_file(path, needed_bytes=len(data)) as beside:
        beside.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 atomically, line ends unchanged; raises like `staged_file`."""
    write_bytes(path, text.encode())


def append_text(path: str | Path, text: str) -> None:
    """Append text to a file; on failure, the file is unchanged. Raises like `staged_file`."""
    with write_errors(path), Path(path).open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            _write_all(file, text.encode())
        except BaseException:
            file.truncate(before)
            raise


def create_file(path: str | Path, text: str) -> bool:
    """Create a small file unless it exists: True for the one process that created it; raises like `staged_file`."""
    path = Path(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("xb", buffering=0)
        except FileExistsError:
            return False
        try:
            with file:
                _write_all(file, text.encode())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return True


def make_folder(path: str | Path) -> Path:
    """Create a folder, and those above it, unless it exists; raises like `staged_file`."""
    path = Path(path)
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def move_folder(new: Path, path: Path) -> None:
    """Rename a finished folder to its final name; an existing one is moved aside first and removed last."""
    with write_errors(path):
        old = temporary_path(path) if path.exists() else None
        if old is not None:
            path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            if old is not None:
                old.rename(path)
            raise
        flush(path.parent)
        if old is not None:
            shutil.rmtree(old)


def remove_partial(folder: Path) -> None:
    """Remove temporary files of killed writers from a folder; the caller must hold the folder's lock."""
    for left in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def check_output(path: str | Path, *, folder: bool = False, option: str = "--out", beside_stores: bool = False) -> None:
    """Check that a file (or a ``folder``) can be written before the work starts; leaves nothing behind.

    A URL is not checked. ``option`` is the option that sets the path, for messages. Raises WriteFailed if the disk is
    full or the folder is not writable, InputError if the path is a folder instead of a file or the reverse, a parent
    is a file, or the path is inside a store, or with ``beside_stores`` is one.
    """
    if "://" in str(path):
        return
    path = _target(path)
    if path.name in ("", ".."):  # "." and "/", which have no name that a temporary one could take
        path = path.resolve()
    if path.exists() and path.is_dir() != folder:
        wanted, found = ("folder", "file") if folder else ("file", "folder")
        raise InputError(f"{path}: expected the name of a {wanted} to write, found a {found}; choose another {option}.")
    home = path if folder and path.exists() else path.parent
    while not home.exists():
        home = home.parent
    if not home.is_dir():
        raise InputError(f"{path}: expected {home} to be a folder, found a file; choose another {option}.")
    home_of = path.resolve()
    above_it = (home_of, *home_of.parents) if beside_stores else home_of.parents
    store = next((above for above in above_it if (above / IN_STORES).is_file()), None)
    if store is not None:
        raise InputError(
            f"{path}: expected a path outside the store {store}, whose files are its own; choose another {option}."
        )
    if not folder or home == path:
        remove_left(home, None if folder else path.name)
    probe = temporary_path(home / (path.name or "root"))
    with write_errors(path):
        try:
            probe.write_bytes(bytes(4096))
            flush(probe)
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)


def check_apart(outputs: Mapping[str, str | Path | None], inputs: Iterable[str | Path]) -> None:
    """Check that no output is an input or another output, which it would replace.

    ``outputs`` are paths by the option that sets them; None and URLs are skipped. Links count as what they point to.
    Raises InputError.
    """
    known = [path for path in inputs if "://" not in str(path) and "\0" not in str(path)]
    taken = {Path(path).resolve(): "the input" for path in known}
    for option, path in outputs.items():
        if path is None or "://" in str(path):
            continue
        place = Path(path).resolve()
        if place in taken:
            raise InputError(f"{option}: expected a file of its own, got {taken[place]} {path}; choose another name.")
        taken[place] = f"that of {option},"


@contextmanager
def write_errors(path: str | Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Convert failures to write in the folder of ``path`` to one-line errors with a remedy; others pass unchanged.

    Raises WriteFailed if the disk is full or fails or the folder is not writable, InputError if a folder has the name
    of the file, or the reverse.
    """
    try:
        yield
    except MMEarthError:
        raise
    except Exception as error:
        found = describe_failure(error, path, needed_bytes)
        if found is None:
            raise
        raise found from error


def describe_failure(error: BaseException, path: str | Path, needed_bytes: int | None = None) -> MMEarthError | None:
    """Error with a remedy for an exception of a writer (a system error or a library's); None if it is something else.

    ``path`` is what was being written, ``needed_bytes`` its size, if known.
    """
    number = error_number(error)
    if number is None:
        return None
    named = _files_named(error, number)
    if not _concerns(error, path, number, named):
        if number not in FULL or not named:
            return None
        path, needed_bytes = named[0], None
    if number in MISPLACED:
        return FileInputError(path, _misplaced(error, number))
    return WriteFailed(str(path), _reason(number, Path(path), needed_bytes))


def error_number(error: BaseException) -> int | None:
    """Find the system's error number (`errno`) behind an exception of a writer; None if there is none."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in FAILURES:
            return cause.errno
        for digits in NUMBER_IN_TEXT.findall(str(cause)):
            if int(digits) in FAILURES - MISPLACED:
                return int(digits)
    return None


def flush(path: str | Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _target(path: str | Path) -> Path:
    """Target of a path: links are kept, and the file that they point to is written."""
    path = Path(path)
    return path.resolve() if path.is_symlink() else path


def _allocate(stream: BinaryIO, size: int) -> None:
    start = stream.tell()
    if hasattr(os, "posix_fallocate"):
        stream.flush()
        os.posix_fallocate(stream.fileno(), 0, start + size)
        return
    for offset in range(0, size, PROBE_BYTES):
        stream.write(bytes(min(PROBE_BYTES, size - offset)))


def _write_all(file: Any, data: bytes) -> None:  # noqa: ANN401 - an unbuffered file, for which there is no name
    """Write all bytes, past the buffers of the system."""
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def _name_reason(error: Exception, folder: Path) -> None:
    """Find out why writing failed if a library gives no reason; the reason is chained to its error."""
    if isinstance(error, MMEarthError) or error_number(error) is not None:
        return
    probe = temporary_path(folder / "probe")
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
        flush(probe)
    except OSError as reason:
        if reason.errno in FULL | CLOSED | BROKEN:
            raise reason from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, those in its group, and what it was raised from."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        cause = pending.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
        pending += [cause.__cause__, None if cause.__suppress_context__ else cause.__context__]


def _files_named(error: BaseException, number: int) -> list[str]:
    named = [cause.filename for cause in _causes(error) if isinstance(cause, OSError) and cause.errno == number]
    return [os.fsdecode(name) for name in named if isinstance(name, (str, bytes))]


def _concerns(error: BaseException, path: str | Path, number: int, named: list[str]) -> bool:
    """Whether an error concerns the output rather than an unreadable input or a connection."""
    if not named:
        return number in FULL or number == errno.EROFS or PARTIAL in str(error) or str(path) in str(error)
    target = Path(path).absolute()
    own = {target, target.resolve(), *target.parents}
    files = [Path(name).absolute() for name in named]
    return any(file in own or target in file.parents or PARTIAL in str(file) for file in files)


def _misplaced(error: BaseException, number: int) -> str:
    if number == errno.EISDIR:
        return "expected the name of a file to write, found a folder; choose another name."
    if number in {errno.ENOTDIR, errno.EEXIST}:
        at = next((str(c.filename) for c in _causes(error) if isinstance(c, OSError) and c.filename), "a part of it")
        return f"expected a folder to write into, found a file ({at}); choose another path."
    return f"expected a path that the file system accepts, found another one ({os.strerror(number)}); choose a shorter path."


def _reason(number: int, path: Path, needed_bytes: int | None) -> str:
    again = "run the same command again"
    if number == errno.EFBIG:
        return f"it is larger than the file system or the user's limit allows (ulimit -f); raise the limit and {again}, or choose another path."
    if number == errno.EDQUOT:
        return f"the user's quota on this disk is used up{_room(path, needed_bytes)}; free some space and {again}."
    if number == errno.ENOSPC:
        return f"the disk is full{_room(path, needed_bytes)}; free some space and {again}."
    if number in CLOSED:
        return f"its folder is not writable ({os.strerror(number)}); change its permissions, or choose another path."
    return f"the disk failed ({os.strerror(number)}); check the disk and {again}, or choose another path."


def _room(path: Path, needed_bytes: int | None) -> str:
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = f"{_size(shutil.disk_usage(folder).free)} free"
    return f" ({free})" if needed_bytes is None else f" ({_size(needed_bytes)} needed, {free})"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
