"""The distribution as a user gets it: a wheel, in a fresh environment without PyTorch, in an empty folder.

The environment holds what the wheel asks for and nothing else: links to the files of those distributions here, which
pip would only fetch and unpack a second time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmearth_data import load_catalog, resource_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

REPOSITORY = resource_path("catalog").parent
SHIPPED = ("catalog", "pipelines")
PACKAGES = ("mmearth_data", "mmearth_model")


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds the installed wheel."""

    folder: Path

    @property
    def site_packages(self) -> Path:
        """Folder of its libraries."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    def run(self, *command: str, cwd: Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, cut off from this checkout."""
        ours = ("PYTHON", "VIRTUAL_ENV", "MMEARTH", "COV")
        variables = {k: v for k, v in os.environ.items() if k == "MMEARTH_CACHE" or not k.startswith(ours)}
        variables["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{variables.get('PATH', '')}"
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=cwd,
            env=variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def required_by(wheel: Path) -> list[Distribution]:
    """All distributions that a wheel needs, without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        requires = Parser().parsestr(archive.read(name).decode("utf-8")).get_all("Requires-Dist") or []
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(line, "") for line in requires]
    while waiting:
        line, extra = waiting.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        key = canonicalize_name(requirement.name)
        found[key] = distribution(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (key, wanted) not in seen:
                seen.add((key, wanted))
                waiting += [(line, wanted) for line in found[key].requires or []]
    return list(found.values())


def link_files(installed: Distribution, site_packages: Path) -> None:
    """Put links to a distribution's files, and to what Python has compiled of them, into another environment."""
    for file in installed.files or []:
        source, target = Path(str(installed.locate_file(file))), site_packages / file
        if ".." in file.parts or file.suffix == ".pyc" or not source.is_file():
            continue  # programs; what is compiled comes with its source
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
        if source.suffix == ".py" and (compiled := Path(cache_from_source(str(source)))).is_file():
            link_beside(target, compiled)


def link_beside(target: Path, compiled: Path) -> None:
    """Put a link to what was compiled of a file beside its copy."""
    beside = target.parent / "__pycache__"
    beside.mkdir(exist_ok=True)
    (beside / compiled.name).symlink_to(compiled)


def take_compiled(site_packages: Path) -> None:
    """Give the installed packages what Python and numba have compiled of the same files in the checkout.

    Both know a file by its size and the time when it was changed. Inner loops take 15 seconds to compile.
    """
    for source in (path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")):
        target = site_packages / source.relative_to(REPOSITORY)
        times = source.stat()
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        for compiled in (source.parent / "__pycache__").glob(f"{source.stem}.*.[np][by][ic]"):
            link_beside(target, compiled)


def pip(*arguments: str) -> None:
    """Run pip, which needs a package index as `make test` itself does."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", str(REPOSITORY), "--no-deps", "--wheel-dir", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    environment = Environment(folder)
    for needed in required_by(wheel):
        link_files(needed, environment.site_packages)
    # pip of the tests' environment installs into the fresh one, and looks there for what the wheel asks for.
    pip("--python", str(folder / "bin" / "python"), "install", "--no-compile", "--no-index", str(wheel))
    take_compiled(environment.site_packages)
    yield environment
    shutil.rmtree(folder)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def tracked(folder: str) -> set[str]:
    """Return the files of a folder that belong to the project."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        return {p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / folder).rglob("*") if p.is_file()}
    return {name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()}


def test_the_wheel_carries_all_data_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for folder in SHIPPED:
            for name in tracked(folder):
                assert archive.read(f"mmearth_data/_resources/{name}") == (REPOSITORY / name).read_bytes(), name


def test_the_wheel_carries_both_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"mmearth_data/py.typed", "mmearth_model/py.typed"} <= set(names)
    assert set.union(*map(tracked, PACKAGES)) <= set(names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"mmearth_data", "mmearth_model", "mmearth"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_core_needs_no_torch(metadata: Message) -> None:
    core = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert core
    assert not [line for line in core if line.startswith(("torch", "lightning", "scikit-learn", "safetensors"))]
    assert set(metadata.get_all("Provides-Extra") or []) >= {"model", "cloud", "dev"}
    assert metadata["License-Expression"] == "Apache-2.0"


def test_an_installed_catalog_is_the_shipped_one(installed: Environment, empty: Path) -> None:
    done = installed.run("mmearth-data", "catalog", "--json", cwd=empty)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == list(load_catalog().modalities)
    assert list(empty.iterdir()) == []


def test_a_tiny_store_is_built_and_read_in_an_empty_folder(installed: Environment, empty: Path) -> None:
    command = "mmearth-data build --source synthetic --tiles 4 --tile-size 32 --out t.zarr"
    done = installed.run(*command.split(), cwd=empty)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in empty.iterdir()] == ["t.zarr"]
    program = "import xarray; d = xarray.open_zarr('t.zarr'); print(d.sizes['tile'], d['sentinel2'].shape)"
    read = installed.run("python", "-W", "error", "-c", program, cwd=empty)
    assert read.returncode == 0, read.stderr
    assert read.stdout == "4 (4, 13, 32, 32)\n"


def test_versions_agree(installed: Environment, empty: Path, metadata: Message) -> None:
    for program in ("mmearth-data", "mmearth-train"):
        done = installed.run(program, "--version", cwd=empty)
        assert done.returncode == 0, done.stderr
        assert metadata["Version"] in done.stdout


def test_training_without_torch_says_what_to_install(installed: Environment, empty: Path) -> None:
    assert not (installed.site_packages / "torch").exists()
    done = installed.run("mmearth-train", "pretrain", "t.zarr", cwd=empty)
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert "mmearth[model]" in done.stderr
