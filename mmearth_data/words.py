"""Wording that error messages share."""

from __future__ import annotations

import difflib
import errno
import math
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_REMEDIES = {
    errno.ENOENT: "no such file or folder; correct the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder; correct the path",
    errno.EISDIR: "expected a file, got a folder; correct the path",
    errno.EEXIST: "exists already; choose another path",
    errno.ENOTEMPTY: "the folder is not empty; choose another path",
    errno.EACCES: "permission denied; change the permissions or choose another path",
    errno.EPERM: "the system does not permit this; change the permissions or choose another path",
    errno.EROFS: "the file system is read-only; choose another path",
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file would be larger than the file system allows; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "the symbolic links lead in a circle; correct the path",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) and run the same command again",
    errno.ENFILE: "too many files are open on this machine; run the same command again later",
    errno.ENOMEM: "not enough memory; free some and run the same command again",
    errno.EIO: "the device reports an input/output error; check the disk",
    errno.EADDRINUSE: "the address is in use; choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another host",
    errno.ECONNREFUSED: "the connection was refused; check the address and that the server runs",
}
"""Operating system's error number -> what it means, and what to do."""


def describe_os_error(error: OSError) -> str:
    """Describe a system error in one line: the file, the reason, and what to do.

    Parameters
    ----------
    error
        Error of a system call, or of a library that reports one (its own text is kept).

    Examples
    --------
    >>> describe_os_error(FileNotFoundError(2, "No such file or directory", "x.csv"))
    'x.csv: no such file or folder; correct the path.'
    """
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names)}: {os_problem(error)}." if names else f"{_sentence(os_problem(error))}."


def os_problem(error: OSError) -> str:
    """As `describe_os_error`, but without the file's name and the full stop.

    Examples
    --------
    >>> os_problem(IsADirectoryError(21, "Is a directory"))
    'expected a file, got a folder; correct the path'
    """
    known = None if error.errno is None else _REMEDIES.get(error.errno)
    text = re.sub(r"\[Errno -?\d+\] ", "", " ".join(str(error.strerror or error).split()))
    return known or text.rstrip(".") or "the system refused without a reason; check the path and the disk"


def reason_of(error: BaseException) -> str:
    """Describe an error in one line without a full stop: a system error as `os_problem` does, others by their own text.

    Examples
    --------
    >>> reason_of(FileNotFoundError(2, "No such file or directory", "x.csv"))
    'no such file or folder; correct the path'
    """
    return os_problem(error) if isinstance(error, OSError) else " ".join(str(error).split()).rstrip(".")


def is_there(path: str | Path) -> bool:
    """Whether a text is the path of a file or folder; False if the name is impossible or its folder is not accessible."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def is_file(path: str | Path) -> bool:
    """Whether a text is the path of a file; see `is_there`."""
    return is_there(path) and Path(path).is_file()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def closest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Known names most similar to a name; empty if none is similar.

    Examples
    --------
    >>> closest("sentinel3", ["sentinel1", "aster"])
    ['sentinel1']
    """
    return difflib.get_close_matches(name, list(known), n=count)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: suggest the closest known name, or list them all.

    Parameters
    ----------
    name
        The unknown name.
    known
        The known names.

    Examples
    --------
    >>> did_you_mean("sentinel3", ["sentinel1", "aster"])
    "did you mean 'sentinel1'?"
    >>> did_you_mean("x", ["sentinel1", "aster"])
    'known are sentinel1, aster.'
    """
    options = list(known)
    close = closest(name, options)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(options) or 'none'}."


def python_literal(text: str) -> str:
    """Text as a Python literal, in double quotes if nothing needs an escape.

    Examples
    --------
    >>> print(python_literal("a.zarr"), python_literal('say "hi".zarr'))
    "a.zarr" 'say "hi".zarr'
    """
    return f'"{text}"' if repr(text) == f"'{text}'" and '"' not in text else repr(text)


def shown(value: object) -> str:
    """Value and type for a message, in one line of at most 60 characters and the type."""
    text = " ".join(repr(value).split())
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return short if isinstance(value, str | slice | tuple | list | None) else f"{short} ({type(value).__name__})"


def short_path(path: str | Path) -> str:
    """Path for display: relative if it is below the current folder; others, and URLs, unchanged.

    Examples
    --------
    >>> short_path(Path("runs").absolute()), short_path("/data/x.zarr"), short_path("s3://b/x.zarr")
    ('runs', '/data/x.zarr', 's3://b/x.zarr')
    """
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path) != here and Path(path).is_relative_to(here) else str(path)


def shell_path(path: str | Path) -> str:
    """Path as an argument in a command that users can copy: quoted, and never mistaken for an option.

    Examples
    --------
    >>> shell_path("my store.zarr"), shell_path("-lead.zarr")
    ("'my store.zarr'", './-lead.zarr')
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def format_bytes(count: int) -> str:
    """Format bytes in binary multiples, with three digits.

    Examples
    --------
    >>> format_bytes(512), format_bytes(1486017)
    ('512 B', '1.42 MiB')
    """
    if count < 1024:
        return f"{count:.0f} B"
    exponent = min(4, int(math.log2(count) // 10))
    if count / 1024**exponent >= 1000 and exponent < 4:  # three digits, so that 1000 KiB are 0.977 MiB
        exponent += 1
    return f"{count / 1024**exponent:.3g} {('KiB', 'MiB', 'GiB', 'TiB')[exponent - 1]}"
