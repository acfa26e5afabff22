"""Imports, exports and copies that are killed again and again end in the bytes of those that were not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from published_world import NAME, make_published

from mmearth_data.cli import cli
from mmearth_data.store.encoding import digest_of

pytestmark = pytest.mark.slow
KILLS = 6


def digests(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and "_ledger" not in f.parts)
    return {str(f.relative_to(folder)): digest_of(f.read_bytes()) for f in files}


def run(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)


def run_killed(*arguments: object) -> int:
    """Run a command, kill it at some moment after its first progress, over and over; gives the number of kills."""
    kills = 0
    chance = random.Random(1)
    program = [sys.executable, "-c", "from mmearth_data.cli import cli; cli()", *map(str, arguments)]
    while True:
        process = subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
        if kills < KILLS and line:
            time.sleep(chance.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            return kills
        assert process.returncode == -signal.SIGKILL
        kills += 1


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_published(tmp_path_factory.mktemp("killed") / "in", rows=300, size_px=48)


@pytest.fixture(scope="module")
def store(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "s.zarr"
    run("import", published, "--out", out)
    return out


def test_a_killed_import_is_gone_on_with(published: Path, store: Path, tmp_path: Path) -> None:
    assert run_killed("import", published, "--out", tmp_path / "s.zarr") > 1
    assert digests(tmp_path / "s.zarr") == digests(store)


@pytest.mark.parametrize("form", ["mmearth-h5", "geotiff"])
def test_a_killed_export_is_gone_on_with(form: str, store: Path, tmp_path: Path) -> None:
    name = ["--name", NAME] if form == "mmearth-h5" else []
    run("export", store, "--format", form, "--out", tmp_path / "once", *name)
    assert run_killed("export", store, "--format", form, "--out", tmp_path / "killed", *name) > 1
    assert digests(tmp_path / "killed") == digests(tmp_path / "once")


def test_a_killed_subset_is_gone_on_with(store: Path, tmp_path: Path) -> None:
    run("subset", store, "--split", "train", "--out", tmp_path / "once")
    assert run_killed("subset", store, "--split", "train", "--out", tmp_path / "killed") > 1
    assert digests(tmp_path / "killed") == digests(tmp_path / "once")
