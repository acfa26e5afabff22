"""The objects of a store: in a folder (`local`) or a bucket (`remote`), each held by one command at a time (`lock`)."""

from __future__ import annotations

import errno
import os
from os import PathLike
from typing import TYPE_CHECKING

from mmearth_data.errors import InputError
from mmearth_data.store.storage.local import LocalStorage
from mmearth_data.words import shown

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.store.storage.protocol import Storage, StoreUrl

REMOTE = ("s3://", "gs://", "az://")


def storage_at(path: str | Path | StoreUrl) -> Storage:
    """Storage of the store at a path or URL.

    Raises
    ------
    InputError
        For an unknown kind of URL, if its library is not installed, or if it is neither a path nor a URL.
    """
    if not isinstance(path, str | PathLike):
        raise InputError(f"Expected the path or URL of a store, got {shown(path)}.")
    if "://" not in str(path):
        if not _is_possible(path):
            raise InputError(f"Expected the path or URL of a store, got {shown(str(path))}; correct it.")
        return LocalStorage(path)
    if not str(path).startswith(REMOTE):
        raise InputError(f"{path}: expected a folder or a URL that begins with {', '.join(REMOTE)}.")
    try:
        from mmearth_data.store.storage.remote import RemoteStorage
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: expected the library {error.name} for it; pip install 'mmearth[cloud]'.") from error
    return RemoteStorage(str(path))


def _is_possible(path: str | PathLike[str]) -> bool:
    """Whether the system allows such a path: it is not too long, and contains no NUL."""
    try:
        os.lstat(path)
    except ValueError:
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True
