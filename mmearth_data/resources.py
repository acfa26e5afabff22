"""Find the data files that ship with the package, in a checkout and in an installed wheel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource_path(folder: str) -> Path:
    """Folder ``catalog`` or ``pipelines``.

    Raises
    ------
    FileNotFoundError
        When the installation is incomplete.
    """
    for root in (PACKAGE / "_resources", PACKAGE.parent):
        if (root / folder).is_dir():
            return root / folder
    raise FileNotFoundError(f"The folder {folder!r} of the mmearth package is missing; reinstall the package.")


def cache_folder() -> Path:
    """User's cache folder: ``MMEARTH_CACHE``, or the platform's default. It may not exist yet."""
    if named := os.environ.get("MMEARTH_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mmearth"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mmearth" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmearth"
