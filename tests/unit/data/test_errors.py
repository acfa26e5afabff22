"""Errors survive the way between processes, and say what to do."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest

from mmearth_data import errors
from mmearth_data.errors import (
    CatalogError,
    FileInputError,
    InputError,
    MMEarthError,
    RetryLater,
    StoreDamaged,
    TileUnavailable,
    UnknownKey,
    UnknownPosition,
    WriteFailed,
)

EXAMPLES = [
    (MMEarthError("it failed"), 1),
    (RetryLater("the service is busy", wait_s=2.5), 1),
    (RetryLater("the connection was reset"), 1),
    (TileUnavailable("sentinel2_nodata", "3.1 % masked"), 1),
    (TileUnavailable("no_scene"), 1),
    (InputError("expected 64, got 63"), 2),
    (CatalogError("x: nodata does not fit", "nodata"), 2),
    (FileInputError("map.yaml", "expected a list", 7), 2),
    (FileInputError("map.yaml", "not YAML"), 2),
    (StoreDamaged("a.zarr", "sentinel2/c/0/0/0/0", "the file is missing"), 1),
    (UnknownKey("no modality is named 'sentinel_2'"), 2),
    (UnknownPosition("no tile is at position 99"), 2),
    (WriteFailed("a.png", "the disk is full; free some space."), 1),
]


def every_error() -> set[type[MMEarthError]]:
    found = {MMEarthError}
    for kind in list(vars(errors).values()):
        if isinstance(kind, type) and issubclass(kind, MMEarthError):
            found.add(kind)
    return found


def test_every_error_of_the_module_has_an_example() -> None:
    assert {type(error) for error, _ in EXAMPLES} == every_error()


@pytest.mark.parametrize(("error", "exit_code"), EXAMPLES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_everything(error: MMEarthError, exit_code: int, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.args == error.args
    assert copy.exit_code == error.exit_code == exit_code


def fail_in_worker() -> None:
    raise StoreDamaged("a.zarr", "shard 3", "the checksum differs")


def test_a_worker_process_hands_the_error_over() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool, pytest.raises(StoreDamaged, match="shard 3 is damaged") as caught:
        pool.apply(fail_in_worker)
    assert caught.value.part == "shard 3"


def test_the_families_do_not_overlap() -> None:
    families = (RetryLater, TileUnavailable, InputError, StoreDamaged, WriteFailed)
    for kind in every_error() - {MMEarthError}:
        assert sum(issubclass(kind, family) for family in families) == 1


def test_exit_codes_follow_the_habits_of_posix() -> None:
    # 128 + the signal is what a shell reports: SIGINT is 2, SIGTERM 15.
    codes = (errors.EXIT_OK, errors.EXIT_FAILURE, errors.EXIT_INPUT, errors.EXIT_INTERRUPTED, errors.EXIT_TERMINATED)
    assert codes == (0, 1, 2, 128 + 2, 128 + 15)


@pytest.mark.parametrize(("error", "exit_code"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_messages_are_one_line(error: MMEarthError, exit_code: int) -> None:
    assert str(error)
    assert "\n" not in str(error)


def test_messages_name_the_place_and_the_remedy() -> None:
    assert str(FileInputError("map.yaml", "expected a list", 7)) == "map.yaml:7: expected a list"
    assert str(FileInputError("map.yaml", "not YAML")) == "map.yaml: not YAML"
    assert str(TileUnavailable("no_scene")) == "no_scene"
    assert str(TileUnavailable("no_scene", "0 of 12 images")) == "no_scene: 0 of 12 images"
    assert "mmearth-data verify a.zarr" in str(StoreDamaged("a.zarr", "shard 3", "it is gone"))
