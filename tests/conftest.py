"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

settings.register_profile("house", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("house")

REPOSITORY = Path(__file__).resolve().parents[1]


LONGEST = (
    "integration/test_documentation.py",
    "unit/model/test_train_options.py",
    "unit/data/test_data_options.py",
    "unit/model/test_experiments.py",
    "unit/model/test_pretraining.py",
    "integration/test_commands_cut_off.py",
    "integration/test_earthengine.py",
    "unit/data/test_planet_plausible.py",
)
"""Files that one process works on for a minute: they begin first, so that none of them is what is left at the end."""


YOUNG_OBJECTS = 50_000
"""Number of new objects after which the youngest generation is collected; up to Python 3.12, the default is 700."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare two operators that torchvision, if installed, looks up on import; torchmetrics imports torchvision.

    Its wheel on PyPI is built for CUDA: the compiled part does not load with PyTorch for the CPU, and is not used here.
    """
    if find_spec("torchvision") is None:
        return
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    config.add_cleanup(library._destroy)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave the others in their order."""
    rank = {REPOSITORY / "tests" / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in rank), "LONGEST names a file that does not exist"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Disable garbage collection while modules are imported: nearly all the objects they create live to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Exclude modules and tests from garbage collection: they live until the process ends, and one pass over them takes a second.

    Young objects are collected less often than by default, since tests create many of them and run for only a short time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def pytest_unconfigure() -> None:
    """Let the interpreter end as it does without tests; some libraries report what was not collected."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real Earth-observation files (see its README)."""
    folder = Path(os.environ.get("MMEARTH_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}; set MMEARTH_TEST_DATA")
    return folder.resolve()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache folder; cutting the ecoregions takes long enough to be done once for all."""
    cache, base = tmp_path_factory.mktemp("cache"), tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ecoregions"
    shared.mkdir(exist_ok=True)
    (cache / "ecoregions").symlink_to(shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMEARTH_CACHE", str(cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave out flushes, each of which takes milliseconds: no power fails here. Tests of full disks count them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def emulator_url() -> Iterator[str]:
    """URL of an Earth Engine emulator that all tests of a process share."""
    from ee_world import SEED

    from mmearth_data.emulator.server.server import Emulator, EmulatorOptions

    with Emulator(EmulatorOptions(seed=SEED)) as emulator:
        yield emulator.url


@pytest.fixture
def earth(emulator_url: str) -> str:
    """Sign the real client in to the shared emulator; gives its URL."""
    from ee_world import sign_in

    sign_in(emulator_url)
    return emulator_url
