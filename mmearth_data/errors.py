"""Errors, sorted by what can be done about them.

===================  =========================================  =========
family               remedy                                     exit code
===================  =========================================  =========
`RetryLater`         the same call may succeed in a while       1
`TileUnavailable`    the tile is unavailable: record why, take  1
                     the next
`InputError`         the user changes what was given            2
`StoreDamaged`       stop; repair or rebuild the named part     1
`WriteFailed`        free some space or open the folder, and    1
                     run the same command again
===================  =========================================  =========

Every exception hands all its arguments to ``super().__init__``, so that it survives pickling between
processes.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class MMEarthError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = EXIT_FAILURE


class RetryLater(MMEarthError):  # noqa: N818 - named by its remedy
    """The service or the network failed temporarily.

    Parameters
    ----------
    message
        What happened.
    wait_s
        Seconds that the service asked to wait, if it said so.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message, wait_s)
        self.message = message
        self.wait_s = wait_s

    def __str__(self) -> str:
        return self.message


class TileUnavailable(MMEarthError):  # noqa: N818 - named by its remedy
    """One tile is unavailable; the build records why and takes the next candidate.

    Parameters
    ----------
    reason
        A short machine-readable code such as ``sentinel2_nodata``.
    detail
        Message of the refusal, or the numbers behind the reason.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class InputError(MMEarthError):
    """The user's input cannot be used.

    The text is one line: what was expected, what was found, and how to fix it.
    """

    exit_code = EXIT_INPUT


class UnknownPosition(InputError, IndexError):  # noqa: N818 - named by what is wrong
    """The position of a tile is outside the store; also an `IndexError`."""


class UnknownKey(InputError, KeyError):  # noqa: N818 - named by what is wrong
    """No tile, modality or column has the given name; also a `KeyError`."""

    def __str__(self) -> str:
        return str(self.args[0])


class CatalogError(InputError):
    """A catalog entry is inconsistent or incomplete.

    Parameters
    ----------
    message
        What was expected, what was found, how to fix it.
    field
        The faulty field of the entry (dotted where nested); file readers look up its line.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message, field)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


class FileInputError(InputError):
    """A file that the user gave cannot be used.

    Parameters
    ----------
    path
        The file.
    problem
        What was expected, what was found, how to fix it.
    line
        1-based line in the file, where one is known.
    """

    def __init__(self, path: str | Path, problem: str, line: int | None = None) -> None:
        super().__init__(str(path), problem, line)
        self.path = str(path)
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.problem}"


class StoreDamaged(MMEarthError):  # noqa: N818 - named by its remedy
    """The contents of a store do not match its own records.

    Parameters
    ----------
    store
        The store's path or URL.
    part
        The file or shard in question, relative to the store.
    problem
        What is wrong with it.
    """

    def __init__(self, store: str | Path, part: str, problem: str) -> None:
        super().__init__(str(store), part, problem)
        self.store = str(store)
        self.part = part
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"{self.store}: {self.part} is damaged: {self.problem}. "
            f"Run `mmearth-data verify {shlex.quote(str(self.store))}` for the whole extent."
        )


class WriteFailed(MMEarthError):  # noqa: N818 - named by what happened
    """A file cannot be written because of the disk or its permissions; no partial file is left under its name.

    Parameters
    ----------
    path
        What was being written.
    reason
        What the operating system reports, and what to do.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: cannot be written: {self.reason}"
