"""A machine that only trains needs few libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from store_making import begin_store, make_store, write_shard

ABSENT = ("pyarrow", "geopandas", "shapely", "rasterio", "h5py", "ee", "pyproj", "pydantic", "matplotlib")

COMPILED = ("numba", "llvmlite", "blosc2")
"""Faster ways to decode, encode and count; everything works without them."""

BLOCK = """
import importlib.metadata, sys

class Absent:
    names = set(sys.argv[2].split(","))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not installed here")

def installed(found=importlib.metadata.distributions, **chosen):
    return (one for one in found(**chosen) if one.metadata["Name"] not in Absent.names)

sys.meta_path.insert(0, Absent())
importlib.metadata.distributions = installed
"""


def run(code: str, path: Path, absent: tuple[str, ...]) -> str:
    """Output of a script in a process that lacks some libraries."""
    command = [sys.executable, "-W", "error", "-c", BLOCK + code, str(path), ",".join(absent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store."""
    path = tmp_path_factory.mktemp("few") / "s.zarr"
    make_store(path)
    return path


READ = """
from mmearth_data.store import open_store
store = open_store(sys.argv[1]).select(split="train")
tile = store[0]
print(tile["optical"].dtype, tile["weather"].shape, len(store), store.statistics["train"]["radar"]["-"]["vv"]["count"])
print(store.digest == open_store(sys.argv[1]).digest, store.dataset["cover"].shape)
"""


def test_a_finished_store_is_read_without_them(path: Path) -> None:
    assert run(READ, path, ABSENT) == run(READ, path, ())


USE = """
import numpy as np
from pathlib import Path
sys.path.insert(0, {tests!r})
from store_making import make_store
from mmearth_data import open_store, verify
made = Path(sys.argv[1]).with_name("made-" + str(len(Absent.names)) + ".zarr")
make_store(made)
for path in (Path(sys.argv[1]), made):
    store = open_store(path)
    batches = [(name, np.nansum(value)) for batch in store.loader(batch_size=4, seed=0) for name, value in batch.items()]
    print(verify(path).problems, len(batches), batches, store.statistics)
"""


def test_a_store_is_made_loaded_and_verified_without_compiled_loops(path: Path) -> None:
    use = USE.format(tests=str(Path(__file__).parents[1]))
    plain = run(use, path, COMPILED)
    assert plain.startswith("() ")
    assert plain == run(use, path, ())


def test_opening_imports_none_of_them(path: Path) -> None:
    code = """
from mmearth_data.store import open_store
len(open_store(sys.argv[1]))
print(*sorted(Absent.names & set(sys.modules)))
"""
    command = [sys.executable, "-c", "import sys\nclass Absent: names = set(sys.argv[2].split(','))\n" + code]
    done = subprocess.run([*command, str(path), ",".join(ABSENT)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_an_unfinished_store_needs_pyarrow_only(tmp_path: Path) -> None:
    write_shard(begin_store(tmp_path / "s.zarr"), 0)
    code = "from mmearth_data.store import open_store\nprint(len(open_store(sys.argv[1])))"
    assert run(code, tmp_path / "s.zarr", tuple(name for name in ABSENT if name != "pyarrow")) == "7\n"
