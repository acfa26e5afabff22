"""Which files of a folder or a zip are data, and which an editor or an operating system left there."""

from __future__ import annotations

from pathlib import PurePath

LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
"""Names, in lower case, that Windows and macOS write beside other people's files."""


def is_data(path: str | PurePath) -> bool:
    """Tell whether a relative path names data: no part of it begins with a dot or is left behind by a system.

    Examples
    --------
    >>> is_data("forest/a.tif"), is_data(".ipynb_checkpoints/a.tif"), is_data("forest/._a.tif")
    (True, False, False)
    >>> is_data("__MACOSX/forest/a.tif"), is_data("forest/Thumbs.db")
    (False, False)
    """
    return not any(part.startswith(".") or part.lower() in LEFT_BEHIND for part in PurePath(path).parts)
