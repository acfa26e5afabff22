"""Every command that writes, on a disk that is full at some point: one line, exit code 1, nothing half-written; then the rest.

The disk is a tmpfs of its own. Each command runs undisturbed first, which gives its files and how much room they take;
then with less room than that; then, on what this has left, with all the room again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result
from published_world import make_published
from small_disk import SmallDisk, small_disk
from toy_store import TINY, write_store

from mmearth_data import format_tile_id, open_store
from mmearth_data.cli import cli as data_cli
from mmearth_model.cli import cli as train_cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import click

UNTIMED = ("images_per_s", "waiting")
"""Columns of a log that no two runs share."""
BUILD = "build --source synthetic --tiles 16 --tile-size 64 --tiles-per-shard 4 --modalities sentinel2,aster,era5 --threads 2"


@dataclass(frozen=True, slots=True)
class Case:
    """A command line; IN is the folder of its inputs, OUT the disk."""

    name: str
    words: str
    cli: click.Group = data_cli
    quick: bool = True

    def run(self, inputs: Path, disk: SmallDisk) -> Result:
        tile = format_tile_id(int(open_store(inputs / "toy.zarr").coords["tile_id"][0]))
        parts = {"IN/": f"{inputs}/", "OUT/": f"{disk.path}/", "TILE": tile}
        words = self.words.split()
        for part, value in parts.items():
            words = [word.replace(part, value) for word in words]
        return CliRunner().invoke(self.cli, words)


EVALUATE = "--task store:esa_worldcover --seeds 1 --protocol knn --cache OUT/cache --device cpu"
CASES = (
    Case("build", f"{BUILD} --out OUT/s.zarr", quick=False),
    Case("append", f"{BUILD} --append 4 --out OUT/s.zarr", quick=False),
    Case(
        "sample",
        "sample --source synthetic --tiles 600 --tile-size 64 --out OUT/s.parquet --map OUT/map.png",
        quick=False,
    ),
    Case("subset", "subset IN/one.zarr --out OUT/s.zarr --crop 32 --share 0.8"),
    Case("merge", "merge IN/train.zarr IN/rest.zarr --out OUT/s.zarr"),
    Case("import", "import IN/published --out OUT/s.zarr"),
    Case("export-h5", "export IN/one.zarr --format mmearth-h5 --out OUT/h5"),
    Case("export-geotiff", "export IN/one.zarr --format geotiff --out OUT/tif"),
    Case("inspect", "inspect IN/one.zarr --figure OUT/tile.png --map OUT/map.png"),
    Case("pretrain", "pretrain IN/toy.zarr --recipe IN/tiny.yaml --out OUT/run --device cpu", train_cli, quick=False),
    Case("evaluate", f"evaluate IN/run --out OUT/results {EVALUATE}", train_cli, quick=False),
    Case(
        "finetune",
        "finetune IN/run --task store:esa_worldcover --epochs 1 --seed 1 --out OUT/tuned --device cpu",
        train_cli,
        quick=False,
    ),
    Case(
        "embed",
        "embed IN/toy.zarr --checkpoint IN/run --out OUT/x.parquet --out OUT/x.zarr --map OUT/map.png --neighbours TILE "
        "--figure OUT/near.png --cache OUT/cache --device cpu",
        train_cli,
    ),
    Case("convert", "convert IN/run --out OUT/again", train_cli),
    Case("convert-to", "convert IN/run --to finetune --out OUT/tuned.pth", train_cli),
    Case("experiment", "experiment IN/toy.yaml --store IN/toy.zarr --out OUT/exp --device cpu", train_cli, quick=False),
)

RECIPE = {
    **{key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()},
    "epochs": 2,
    "batch_size": 12,
    "figure_epochs": 1,
    "exclude": ["biome", "eco_region"],
}
EXPERIMENT = {
    "name": "toy",
    "question": "Does training help?",
    "baseline": "random",
    "variants": {"sentinel2": {"train": {"modalities": ["sentinel2"]}}, "random": {"network": "random"}},
    "scales": {
        "demo": {
            "recipe": "demo",
            "train": {key: value for key, value in RECIPE.items() if key not in ("exclude", "figure_epochs")},
            "tasks": ["store:esa_worldcover"],
            "protocols": ["knn"],
            "seeds": 1,
        }
    },
}


def run(cli: click.Group, *words: object) -> None:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, (result.stderr, result.exception)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    store, published = folder / "one.zarr", folder / "published"
    make_published(published, rows=20, size_px=48)
    run(data_cli, "import", published, "--out", store)
    run(data_cli, "subset", store, "--split", "train", "--out", folder / "train.zarr")
    run(data_cli, "subset", store, "--split", "val", "--split", "test", "--out", folder / "rest.zarr")
    toy, recipe = write_store(folder / "toy.zarr").path, folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    (folder / "toy.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    run(train_cli, "pretrain", toy, "--recipe", recipe, "--out", folder / "run", "--device", "cpu")
    return folder


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("full"), "64m") as disk:
        yield disk


@pytest.fixture
def disk(mounted: SmallDisk) -> SmallDisk:
    empty(mounted)
    return mounted


def empty(disk: SmallDisk) -> None:
    for path in disk.path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def prepared(case: Case, inputs: Path, disk: SmallDisk) -> Iterator[int]:
    """Lay out what a command starts from; yields the bytes that this takes."""
    empty(disk)
    if case.name == "append":
        run(data_cli, *BUILD.split(), "--out", disk.path / "s.zarr")
    yield used_bytes(disk)


def used_bytes(disk: SmallDisk) -> int:
    found = os.statvfs(disk.path)
    return int((found.f_blocks - found.f_bfree) * found.f_frsize)


def content(disk: SmallDisk) -> dict[str, object]:
    """What is compared: bytes by path; logs without their times; notes about requests and seconds left out."""
    found: dict[str, object] = {}
    for name, data in disk.files().items():
        if "_ledger/" in name:
            continue
        if name.endswith("log.csv"):
            rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
            found[name] = [{key: value for key, value in row.items() if key not in UNTIMED} for row in rows]
        else:
            found[name] = data
    return found


def check_nothing_is_half_written(
    found: dict[str, object], earlier: dict[str, object], whole: dict[str, object]
) -> None:
    """Every visible file is whole: as before or after the command, the root of an unfinished store, or a log so far."""
    for name, data in found.items():
        parts = name.split("/")
        assert not any(part.startswith(".partial-") for part in parts), f"{name} is left behind"
        assert "_partial" not in parts, f"{name} is left behind"
        if any(part.startswith(".") for part in parts) or "claims" in parts:
            continue  # where an export collects what it will publish; who works on what
        assert name in whole, f"{name} is not a file of the finished command"
        if isinstance(data, list):
            assert data == whole[name][: len(data)], name  # type: ignore[index]
        elif data not in (whole[name], earlier.get(name)):
            assert isinstance(data, bytes)
            assert parts[-1] == "zarr.json", f"{name} is not what it will be"
            json.loads(data)


def check_failure(result: Result) -> None:
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if not line.startswith(("Building", "Making", "Importing", "Exporting", "Pretraining", "Features", "Drew", "epoch", "building"))]  # fmt: skip
    message = errors[-1]
    assert message.startswith("Error: "), result.stderr
    assert "cannot be written: the disk is full" in message
    assert "free some space and run the same command again" in message
    assert "Errno" not in message
    assert result.stderr.count("Error: ") == 1


def prove(case: Case, inputs: Path, disk: SmallDisk, shares: tuple[float, ...]) -> None:
    with prepared(case, inputs, disk) as before:
        result = case.run(inputs, disk)
        assert result.exit_code == 0, (result.stderr, result.exception)
        needed, whole = used_bytes(disk) - before, content(disk)
    assert whole
    for share in shares:
        with prepared(case, inputs, disk):
            earlier = content(disk)
            disk.fill(int(share * needed))
            check_failure(case.run(inputs, disk))
            check_nothing_is_half_written(content(disk), earlier, whole)
            disk.free()
            again = case.run(inputs, disk)
            assert again.exit_code == 0, (share, again.stderr, again.exception)
            assert content(disk).keys() == whole.keys(), share
            assert content(disk) == whole, share


@pytest.mark.parametrize("case", [case for case in CASES if case.quick], ids=lambda case: case.name)
def test_a_command_on_a_full_disk(case: Case, inputs: Path, disk: SmallDisk) -> None:
    prove(case, inputs, disk, (0.6,))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_command_on_a_disk_that_fills_at_any_point(case: Case, inputs: Path, disk: SmallDisk) -> None:
    prove(case, inputs, disk, (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97))


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "append"], ids=lambda case: case.name)
def test_a_command_on_a_disk_that_takes_no_files(case: Case, inputs: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        disk.remount("ro")
        result = case.run(inputs, disk)
        assert disk.files() == {}
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "cannot be written: its folder is not writable (Read-only file system)" in result.stderr
