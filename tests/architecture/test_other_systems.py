"""Windows and macOS: imports and reading need nothing that only Linux has; what cannot work there says so.

What other systems lack is removed from Python here. Libraries that look for it on Linux alone are imported before.
"""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path

import pytest
from _processes import run_python
from store_making import make_store

from mmearth_data import open_store
from mmearth_data.store.storage import storage_at

ABSENT_MODULES = frozenset({"fcntl", "grp", "pwd", "resource", "syslog", "termios"})
"""Modules of the standard library that Windows lacks."""
ABSENT_CALLS = (
    "fork",
    "forkpty",
    "getpgid",
    "killpg",
    "posix_fadvise",
    "posix_fallocate",
    "pread",
    "preadv",
    "pwrite",
    "pwritev",
    "register_at_fork",
    "sched_getaffinity",
    "sendfile",
    "setsid",
    "statvfs",
)
"""Functions of `os` that Windows lacks, and macOS some of them."""

LACKING = f"""
    import os, sys
    import {{ready}}
    for name in {sorted(ABSENT_MODULES)}:
        sys.modules[name] = None
    for name in {ABSENT_CALLS}:
        if hasattr(os, name):
            delattr(os, name)
"""

IMPORT_ALL = """
    import importlib, pkgutil
    for name in ("mmearth_data", "mmearth_model"):
        package = importlib.import_module(name)
        for info in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(info.name)
    print("done")
"""

READ = """
    from mmearth_data import open_store, verify
    store = open_store({path!r})
    print([int(store.read("optical", slice(0, len(store))).sum()), [*verify({path!r}).problems]])
"""

BUILD = """
    from mmearth_data import InputError, build, make_recipe
    recipe = make_recipe(None, {{"source": "synthetic", "tiles": 4, "tile_size": 16, "region": "Denmark"}})
    try:
        build(recipe, {path!r})
    except InputError as error:
        print(error)
"""

HOLD = """
    from mmearth_data.errors import InputError
    from mmearth_data.store.storage import storage_at
    try:
        with storage_at({path!r}).hold():
            print("held")
    except InputError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a finished store."""
    path = tmp_path_factory.mktemp("systems") / "s.zarr"
    make_store(path)
    return str(path)


def test_every_module_is_imported() -> None:
    assert run_python(LACKING.format(ready="locket, psutil, torch") + IMPORT_ALL) == "done\n"


def test_a_store_is_read_and_verified(store: str) -> None:
    read = run_python(LACKING.format(ready="random") + READ.format(path=store))
    here = open_store(store)
    assert literal_eval(read) == [int(here.read("optical", slice(0, len(here))).sum()), []]


def test_writing_is_refused_in_one_line_and_leaves_nothing(store: str) -> None:
    before = sorted(Path(store).rglob("*"))
    said = run_python(LACKING.format(ready="random") + HOLD.format(path=store))
    assert said.startswith(f"{store}: expected a system that can lock a folder's store")
    assert "Stores can be read here." in said
    assert said.count("\n") == 1
    assert sorted(Path(store).rglob("*")) == before
    with storage_at(store).hold():  # here it is not refused
        pass


def test_a_build_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    said = run_python(LACKING.format(ready="random") + BUILD.format(path=str(path)))
    assert said.startswith(f"{path}: expected a system that can lock a folder's store")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_removed_is_missing_indeed() -> None:
    with pytest.raises(AssertionError, match="import of fcntl halted"):
        run_python(LACKING.format(ready="random") + "    import fcntl")
