"""SIGTERM, as schedulers and containers send it: one line, exit code 143, and the same command ends in the same files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from published_world import NAME, make_published
from test_bridges_killed import digests
from toy_store import write_store

from mmearth_data.cli import cli as data_cli
from mmearth_model import make_recipe, pretrain
from mmearth_model.cli import cli as train_cli

SENDING = """
import os, signal, sys, threading, time
from {module}.cli import cli
after = float(sys.argv.pop(1))
def send():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.001)
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=send, daemon=True).start()
cli()
"""
"""The command, which gets the signal some seconds after it has begun to run."""
CONTINUES = "Error: terminated; what is done is kept. Run the same command to continue: "
BEFORE = "Error: terminated before anything was done. Run the same command again: "
BEGINS = "Error: terminated; no file is left incomplete. The same command starts from the beginning: "


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a published data set, the store of it, a toy store, and a run on that."""
    folder = tmp_path_factory.mktemp("world")
    published = make_published(folder / "published", rows=40, size_px=48)
    assert run("data", "import", published, "--out", folder / "s.zarr").exit_code == 0
    for split in ("train", "val"):
        part = run("data", "subset", folder / "s.zarr", "--split", split, "--out", folder / f"{split}.zarr")
        assert part.exit_code == 0, part.stderr
    store = write_store(folder / "toy.zarr", 96, shares=(0.5, 0.25))
    changes = {"depths": [1, 1, 1, 1], "widths": [8, 12, 16, 24], "image_size": 24, "patch_size": 8}
    recipe = make_recipe("demo", {**changes, "decoder_dim": 16, "epochs": 1, "batch_size": 24})
    pretrain(store, recipe, folder / "run", device="cpu")
    return folder


def run(program: str, *arguments: object) -> Result:
    return CliRunner().invoke(data_cli if program == "data" else train_cli, [str(a) for a in arguments])


def start(code: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def terminated(program: str, *arguments: object, when: Callable[[], bool], cwd: Path) -> str:
    """Last line on stderr of a command that gets SIGTERM at a moment, and ends with its exit code."""
    process = start(f"from mmearth_{program}.cli import cli; cli()", *arguments, cwd=cwd)
    until = time.monotonic() + 100
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, (stdout, stderr)
    assert "Traceback" not in stderr
    return stderr.splitlines()[-1]


def test_a_terminated_export_continues_to_the_same_files(world: Path, tmp_path: Path) -> None:
    command = ("export", world / "s.zarr", "--format", "geotiff", "--out")
    out = tmp_path / "cut"
    line = terminated("data", *command, out, when=lambda: len(list(out.glob("*/*.tif"))) > 5, cwd=tmp_path)
    assert line.startswith(CONTINUES)
    assert line.endswith(f"export {world / 's.zarr'} --format geotiff --out {out}")
    written = len(list(out.glob("*/*.tif")))
    again = run("data", *command, out)
    assert again.exit_code == 0
    assert f"Continuing {out}: {written} of " in again.stderr
    assert run("data", *command, tmp_path / "whole").exit_code == 0
    assert digests(out) == digests(tmp_path / "whole")


def test_a_terminated_evaluation_continues_to_the_same_results(world: Path, tmp_path: Path) -> None:
    """Features of the first random encoder are kept; the other ones are computed by the second call."""
    cache = tmp_path / "cache"
    command = (
        "evaluate",
        world / "run",
        "--task",
        "store:esa_worldcover",
        "--protocol",
        "knn",
        "--seeds",
        3,
        "--json",
        "--cache",
    )
    line = terminated("model", *command, cache, when=lambda: any(cache.glob("[!.]*.npy")), cwd=tmp_path)
    assert line.startswith(CONTINUES)
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("[!.]*.npy")}
    assert kept
    again, straight = run("model", *command, cache), run("model", *command, tmp_path / "other")
    assert again.exit_code == straight.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["rows"] == json.loads(straight.stdout)["rows"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "features that are kept are not computed again"
    assert len(list(cache.iterdir())) == len(list((tmp_path / "other").iterdir()))


def test_a_command_that_cannot_continue_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    command = ("sample", "--source", "synthetic", "--tiles", 200_000, "--out", tmp_path / "sample.parquet")
    process = start(SENDING.format(module="mmearth_data"), 0, *command, cwd=tmp_path)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 143, stderr
    assert stderr.splitlines()[-1].startswith((BEGINS, BEFORE))
    assert not list(tmp_path.iterdir())


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    """A command that cleans up for a minute after the first one."""
    slow = """
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
    process = start(slow, "wait", cwd=tmp_path)
    assert process.stdout is not None
    for expected in ("begun", "cleaning"):
        assert process.stdout.readline().strip() == expected
        process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, "ended by the signal itself, which shells report as 143"
    assert time.monotonic() - begin < 30


def test_handlers_are_given_back_after_a_command() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run("data", "catalog").exit_code == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


PUBLISHED, STORE, TOY, RUN = "published", "s.zarr", "toy.zarr", "run"
EVERY: dict[str, tuple[str, ...]] = {
    "data build": ("--source", "synthetic", "--tiles", "64", "--tile-size", "32", "--tiles-per-shard", "8", "--out", "OUT"),
    "data build --workers": ("--source", "synthetic", "--tiles", "64", "--tile-size", "32", "--tiles-per-shard", "8", "--workers", "2", "--out", "OUT"),
    "data sample": ("--source", "synthetic", "--tiles", "2000", "--out", "OUT.parquet"),
    "data import": (PUBLISHED, "--out", "OUT"),
    "data export": (STORE, "--format", "mmearth-h5", "--name", NAME, "--out", "OUT"),
    "data subset": (STORE, "--split", "train", "--out", "OUT"),
    "data merge": ("train.zarr", "val.zarr", "--drop-clashes", "--out", "OUT"),
    "data inspect": (STORE, "--figure", "OUT.png", "--map", "OUT2.png"),
    "data verify": (STORE,),
    "data catalog": (),
    "model pretrain": (TOY, "--recipe", "demo", "--image-size", "24", "--patch-size", "8", "--epochs", "2", "--out", "OUT", "--device", "cpu"),
    "model evaluate": (RUN, "--task", "store:esa_worldcover", "--cache", "OUT"),
    "model finetune": (RUN, "--task", "store:esa_worldcover", "--epochs", "2", "--out", "OUT"),
    "model embed": (TOY, "--checkpoint", RUN, "--out", "OUT.parquet"),
    "model convert": (RUN, "--to", "finetune", "--out", "OUT"),
    "model bench": ("--runs", "2", "--batch-size", "4"),
    "model experiment": ("plus-biome", "--workers", "2", "--out", "OUT"),
}  # fmt: skip
RESUME = {"build", "import", "export", "subset", "merge", "pretrain", "evaluate", "experiment"}
LONG = {"model experiment"}
"""Minutes: they are terminated, and not run to their end."""
SAME_BYTES = {"build", "sample", "import", "export", "subset", "merge", "inspect"}


@pytest.mark.slow
@pytest.mark.parametrize("command", EVERY)
def test_every_command_ends_in_one_line_and_runs_again(command: str, world: Path, tmp_path: Path) -> None:
    """SIGTERM at its very beginning, and half way through; then it runs to its end, beside one that was left alone."""
    program, name = command.split()[:2]
    arguments = [
        str(tmp_path / word) if word.startswith("OUT") else str(world / word) if (world / word).exists() else word
        for word in EVERY[command]
    ]
    code = SENDING.format(module=f"mmearth_{program}")
    begin = time.monotonic()
    if command not in LONG:
        whole = start(code, 10_000, name, *(word.replace("OUT", "whole") for word in arguments), cwd=tmp_path)
        stdout, stderr = whole.communicate(timeout=200)
        assert whole.returncode == 0, (stdout, stderr)
    took = 10.0 if command in LONG else time.monotonic() - begin
    for after in (0.0, 0.5 * took):
        process = start(code, after, name, *arguments, cwd=tmp_path)
        _, stderr = process.communicate(timeout=200)
        assert process.returncode == 143 or (after and process.returncode == 0), stderr
        assert "Traceback" not in stderr
        if process.returncode == 143:
            text = stderr.splitlines()[-1]
            assert (
                text.startswith((CONTINUES if name in RESUME else BEGINS, BEFORE))
                or "the same command continues" in text
            )
    if command in LONG:
        return
    process = start(code, 10_000, name, *arguments, cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, (stdout, stderr)
    if name in SAME_BYTES:
        found = {key.replace("OUT", "whole"): value for key, value in digests(tmp_path).items() if "OUT" in key}
        assert found
        assert found == {key: value for key, value in digests(tmp_path).items() if "OUT" not in key}
