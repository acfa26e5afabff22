"""Interrupt every command that writes: by a full or read-only disk, Ctrl-C, SIGTERM or kill -9.

An interrupted command ends with one line and the right exit code and leaves no partial file; running it again gives the
same files as an undisturbed run. Each command first runs undisturbed in this process, to record its files and the disk
space that they need. The disks are a tmpfs. `test_build_crashes` kills builds of known pixels during concurrent reads.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from typing import TYPE_CHECKING

import pytest
from command_world import CASES, OTHERS, Case, make_inputs, run
from small_disk import FILLER, SmallDisk, small_disk

from mmearth_data.cli import cli as data_cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

FEW, MANY = 20, 300
"""Rows of the inputs: two shards, or so many that a signal arrives before the command ends."""
KILLS = 6
UNTIMED = ("images_per_s", "waiting")
"""Columns of a log that differ between runs."""
BOKEH_IDS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\bp\d+\b|sha256-[\w+/=]+")
"""Ids in pages, which are random numbers or counted over a whole process, and hashes of scripts with such ids."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Function that returns the folder of inputs with a number of rows; each folder is made once."""
    return cache(lambda rows: make_inputs(tmp_path_factory.mktemp("inputs"), rows))


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("full"), "64m") as disk:
        yield disk


@pytest.fixture
def disk(mounted: SmallDisk) -> SmallDisk:
    empty(mounted.path)
    return mounted


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def prepare(case: Case, world: Path, folder: Path) -> None:
    """Empty a folder, apart from what the command starts from."""
    empty(folder)
    if case.name == "append":
        run(data_cli, *CASES["build"].argv(world, folder))


def run_whole(case: Case, world: Path, folder: Path) -> dict[str, object]:
    """Run a command undisturbed; return what it wrote."""
    prepare(case, world, folder)
    result = case.run(world, folder)
    assert result.exit_code == 0, (result.stderr, result.exception)
    whole = content(folder)
    assert whole
    return whole


def content(folder: Path) -> dict[str, object]:
    """Content to compare: bytes by path, logs without times, pages without random ids, no notes about requests and seconds."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "_ledger/" in name or path.name == FILLER or not path.is_file():
            continue
        if path.name == "log.csv":
            rows = csv.DictReader(io.StringIO(path.read_text(), newline=""))
            found[name] = [{key: value for key, value in row.items() if key not in UNTIMED} for row in rows]
        elif path.suffix == ".html":
            found[name] = BOKEH_IDS.sub("", path.read_text(encoding="utf-8"))
        else:
            found[name] = path.read_bytes()
    return found


def check_same(found: dict[str, object], whole: dict[str, object]) -> None:
    """Check that files are the same."""
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []


def check_nothing_is_half_written(
    found: dict[str, object], earlier: dict[str, object], whole: dict[str, object]
) -> None:
    """Every visible file is whole: as before or after the command, the root of an unfinished store, or a log so far."""
    for name, data in found.items():
        parts = name.split("/")
        assert not any(part.startswith(".partial-") for part in parts), f"{name} is left behind"
        assert "_partial" not in parts, f"{name} is left behind"
        if any(part.startswith((".", "step-")) for part in parts) or "claims" in parts:
            continue  # where an export collects what it will publish; earlier checkpoints; who works on what
        assert name in whole, f"{name} is not a file of the finished command"
        if isinstance(data, list):
            assert [row["step"] for row in data] == [row["step"] for row in whole[name][: len(data)]], name  # type: ignore[index]
        elif data not in (whole[name], earlier.get(name)):
            assert isinstance(data, bytes)
            assert parts[-1] == "zarr.json", f"{name} is not what it will be"
            json.loads(data)


# ---------------------------------------------------------------- disks


QUICK = (
    "subset",
    "merge",
    "import",
    "export-h5",
    "export-geotiff",
    "inspect",
    "embed",
    "convert",
    "convert-to",
    "predict",
    "embed-dense",
)
REPORTS = (
    "Building",
    "Making",
    "Importing",
    "Exporting",
    "Pretraining",
    "Evaluating",
    "Embedding",
    "Predicting",
    "Fine-tuning",
    "Choosing",
    "Verifying",
    "Drew",
    "building",
)


def collect() -> None:
    """Free the space of deleted files that are still mapped: some mappings are parts of reference cycles."""
    gc.collect()
    gc.freeze()  # the remaining objects are in use and need not be scanned again


def used_bytes(disk: SmallDisk) -> int:
    collect()
    found = os.statvfs(disk.path)
    return int((found.f_blocks - found.f_bfree) * found.f_frsize)


def check_failure(result: Result) -> None:
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.stderr
    assert "Traceback" not in result.stderr
    message = [line for line in result.stderr.splitlines() if not line.startswith(REPORTS)][-1]
    assert message.startswith("Error: "), result.stderr
    assert "cannot be written: the disk is full" in message
    assert "free some space and run the same command again" in message
    assert "Errno" not in message
    assert result.stderr.count("Error: ") == 1


def fill_and_free(case: Case, world: Path, disk: SmallDisk, shares: tuple[float, ...]) -> None:
    """Run a command with only a share of the disk space that it needs, then with enough of it."""
    prepare(case, world, disk.path)
    before = used_bytes(disk)
    whole = run_whole(case, world, disk.path)
    needed = used_bytes(disk) - before
    for share in shares:
        prepare(case, world, disk.path)
        earlier = content(disk.path)
        collect()  # or the command would have more space than is left now
        disk.fill(int(share * needed))
        check_failure(case.run(world, disk.path))
        check_nothing_is_half_written(content(disk.path), earlier, whole)
        disk.free()
        again = case.run(world, disk.path)
        assert again.exit_code == 0, (share, again.stderr, again.exception)
        check_same(content(disk.path), whole)


@pytest.mark.parametrize("name", QUICK)
def test_a_command_on_a_full_disk(name: str, worlds: Callable[[int], Path], disk: SmallDisk) -> None:
    fill_and_free(CASES[name], worlds(FEW), disk, (0.6,))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_command_on_a_disk_that_fills_at_any_point(name: str, worlds: Callable[[int], Path], disk: SmallDisk) -> None:
    fill_and_free(CASES[name], worlds(FEW), disk, (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97))


@pytest.mark.parametrize("name", [name for name in CASES if name != "append"])
def test_a_command_on_a_disk_that_takes_no_files(name: str, worlds: Callable[[int], Path], disk: SmallDisk) -> None:
    disk.remount("ro")
    try:
        result = CASES[name].run(worlds(FEW), disk.path)
    finally:
        disk.remount("rw")
    assert disk.files() == {}
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "cannot be written: its folder is not writable (Read-only file system)" in result.stderr


# ---------------------------------------------------------------- signals

PATIENCE_S = 200
CONTINUES = {
    signal.SIGINT: "Error: interrupted; finished work is kept. Run the same command to resume: ",
    signal.SIGTERM: "Error: terminated; finished work is kept. Run the same command to resume: ",
}
BEFORE = "Error: terminated before anything was done. Run the same command again: "
BEGINS = "Error: terminated; no incomplete file is left. The same command starts from the beginning: "
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
STOPS = {"build": (INT, KILL), "export-geotiff": (TERM,), "evaluate": (TERM,), "pretrain": (TERM,)}
"""Signals sent to each command, one after the other; `make prove` sends all three to every command that can resume."""
RESUMED = {name: case for name, case in CASES.items() if case.keeps}
PUBLISHED = ("pretrain", "export-h5", "predict", "embed-dense")
"""Commands whose finished parts are replaced or removed once the whole is published."""
OF_FEW_PARTS = {"append": (INT,), "experiment": (TERM,)}
"""Of commands that can finish their last parts while they stop, only the first run is sure to be stopped."""

PROGRAM = """
import signal
from {module} import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
cli()
"""
"""Runs a command that handles Ctrl-C even if the tests run in the background of a shell."""
SENDING = """
import os, signal, sys, threading, time
from {module} import cli
after = float(sys.argv.pop(1))
def send():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.001)
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=send, daemon=True).start()
cli()
"""
"""Runs a command that receives SIGTERM some seconds after it has installed its handler."""


def start(code: str, case: Case, *words: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    assert case.cli.callback is not None
    program = [sys.executable, "-c", code.format(module=case.cli.callback.__module__), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kept(case: Case, out: Path) -> dict[Path, int]:
    """Finished parts -> modification time in nanoseconds."""
    assert case.keeps is not None
    return {path: path.stat().st_mtime_ns for path in out.glob(case.keeps)}


def stop(case: Case, sent: signal.Signals, world: Path, out: Path, *, resumes: bool) -> None:
    """Run a command, which resumes or not, and send it a signal once it has finished another part."""
    known, words = kept(case, out).keys(), case.argv(world, out)
    process = start(PROGRAM, case, *words)
    until = time.monotonic() + PATIENCE_S
    while not set(out.glob(str(case.keeps))) - known:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == (-sent if sent == KILL else 128 + sent), stderr
    assert "Traceback" not in stderr
    assert not resumes or case.resumes in stderr
    if sent != KILL:
        line = stderr.splitlines()[-1]
        assert line.startswith(CONTINUES[sent]) or "the same command continues" in line, line
        assert not line.startswith(CONTINUES[sent]) or line.endswith(shlex.join(words))


@pytest.mark.parametrize(
    ("name", "signals", "rows"),
    [
        *((name, signals, FEW) for name, signals in STOPS.items()),
        *(
            pytest.param(name, OF_FEW_PARTS.get(name, (INT, TERM, KILL)), MANY, marks=pytest.mark.slow)
            for name in RESUMED
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_a_stopped_command_continues_to_the_same_files(
    name: str, signals: tuple[signal.Signals, ...], rows: int, worlds: Callable[[int], Path], out: Path
) -> None:
    case, world = CASES[name], worlds(rows)
    whole = run_whole(case, world, out)
    prepare(case, world, out)
    earlier = content(out)
    for number, sent in enumerate(signals):
        stop(case, sent, world, out, resumes=number > 0)
        if sent != KILL:
            check_nothing_is_half_written(content(out), earlier, whole)
    known = kept(case, out)
    again = case.run(world, out)
    assert again.exit_code == 0, again.stderr
    assert case.resumes in again.stderr
    check_same(content(out), whole)
    assert known.items() <= kept(case, out).items() or case.name in PUBLISHED, "nothing is made again"


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_command_that_is_killed_again_and_again(name: str, worlds: Callable[[int], Path], out: Path) -> None:
    """Each kill comes at a random moment after the first progress message."""
    case, world, moment = CASES[name], worlds(MANY), random.Random(1)
    whole = run_whole(case, world, out)
    prepare(case, world, out)
    for _ in range(KILLS):
        process = start(PROGRAM, case, *case.argv(world, out))
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(moment.uniform(0, 0.6))
        process.kill()
        process.communicate()
        assert process.returncode in (0, -KILL)
    again = case.run(world, out)
    assert again.exit_code == 0, again.stderr
    check_same(content(out), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_every_command_ends_in_one_line_and_runs_again(name: str, worlds: Callable[[int], Path], out: Path) -> None:
    """SIGTERM at the very beginning and halfway through; then the command runs to its end."""
    case, world = {**CASES, **OTHERS}[name], worlds(FEW)
    prepare(case, world, out)
    begin = time.monotonic()
    assert case.run(world, out).exit_code == 0
    took, whole = time.monotonic() - begin, content(out)
    prepare(case, world, out)
    for after in (0.0, 0.5 * took):
        process = start(SENDING, case, str(after), *case.argv(world, out))
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 143 or (after and process.returncode == 0), stderr
        assert "Traceback" not in stderr
        if process.returncode == 143:
            line = stderr.splitlines()[-1]
            expected = (CONTINUES[TERM] if case.keeps else BEGINS, BEFORE)
            assert line.startswith(expected) or "the same command continues" in line
    assert case.run(world, out).exit_code == 0
    check_same(content(out), whole)


def test_a_command_that_cannot_continue_says_so_and_leaves_nothing(worlds: Callable[[int], Path], out: Path) -> None:
    process = start(SENDING, CASES["sample"], "0", *CASES["sample"].argv(worlds(FEW), out))
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143, stderr
    assert stderr.splitlines()[-1].startswith((BEGINS, BEFORE))
    assert not list(out.iterdir())


CLEANING = """
import click, time
from mmearth_data import CommandGroup
@click.group(cls=CommandGroup)
def cli(): pass
@cli.command()
def wait():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)
cli()
"""
"""A command that cleans up for a minute after the first signal."""


def test_the_second_signal_ends_at_once() -> None:
    command = [sys.executable, "-c", CLEANING, "wait"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for expected in ("begun", "cleaning"):
        assert process.stdout.readline().strip() == expected
        process.send_signal(TERM)
    begin = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == -TERM, "ended by the signal itself, which shells report as 143"
    assert time.monotonic() - begin < 30


def test_handlers_are_given_back_after_a_command() -> None:
    before = [signal.getsignal(number) for number in (INT, TERM)]
    run(data_cli, "catalog")
    assert [signal.getsignal(number) for number in (INT, TERM)] == before
