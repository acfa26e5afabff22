"""Distinguish the data files of a folder or a zip from files that an editor or an operating system left there."""

from __future__ import annotations

from pathlib import PurePath

LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
"""Names, in lower case, of files that Windows and macOS create."""


def is_data(path: str | PurePath) -> bool:
    """Whether a relative path is data: no part of it begins with a dot or has a name that a system creates.

    Examples
    --------
    >>> is_data("forest/a.tif"), is_data(".ipynb_checkpoints/a.tif"), is_data("forest/._a.tif")
    (True, False, False)
    >>> is_data("__MACOSX/forest/a.tif"), is_data("forest/Thumbs.db")
    (False, False)
    """
    return not any(part.startswith(".") or part.lower() in LEFT_BEHIND for part in PurePath(path).parts)
