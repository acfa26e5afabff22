"""`mmearth-train` as a process: interrupted, killed, continued, and on a machine with few libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_store import write_store

from mmearth_data import open_store
from mmearth_model import load_checkpoint, make_recipe, pretrain
from mmearth_model.weights.checkpoints import OPTIMIZER_FILE, checkpoints_of, read_tensors
from tests.unit.model.closeness import assert_near

RECIPE = """
depths: [1, 1, 1, 1]
widths: [8, 12, 16, 24]
image_size: 24
patch_size: 8
decoder_dim: 16
precision: float32
epochs: 24
batch_size: 18
checkpoint_epochs: 3
"""
STEPS = 48

NOT_FOR_TRAINING = ("pyarrow", "geopandas", "shapely", "rasterio", "h5py", "ee")
"""DESIGN 2: reading a finished store and training need none of them."""

BLOCKED = f"""
import sys
class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {NOT_FOR_TRAINING}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Missing)
from mmearth_model.cli import cli
cli()
"""

RUN = "from mmearth_model.cli import cli; cli()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process")
    write_store(folder / "toy.zarr")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


def start(folder: Path, out: str, program: str = RUN) -> subprocess.Popen[str]:
    arguments = ["toy.zarr", "--recipe", "tiny.yaml", "--out", out, "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps(out: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints_of(out)]


def end_after(process: subprocess.Popen[str], out: Path, step: int, number: signal.Signals) -> str:
    """Send a signal once a later checkpoint stands; return what was said on stderr."""
    begin = time.monotonic()
    while not steps(out) or steps(out)[-1] <= step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begin < 200
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=100)[1]


def test_what_was_stopped_goes_on_and_ends_in_the_same_weights(folder: Path) -> None:
    """Once by SIGTERM, once by kill -9; the run beside it is never stopped, and has few libraries."""
    straight = start(folder, "straight", BLOCKED)
    out = folder / "stopped"

    process = start(folder, out.name)
    stderr = end_after(process, out, 0, signal.SIGTERM)
    assert process.returncode == 143
    assert "the same command continues" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    (first,) = steps(out)
    assert 0 < first < STEPS

    process = start(folder, out.name)
    end_after(process, out, first, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert first < steps(out)[-1] < STEPS

    last = steps(out)[-1]
    for process in (start(folder, out.name), straight):
        _, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr
        assert (f"continuing after step {last} of {STEPS}" in stderr) == (process is not straight)
    ours, theirs = (load_checkpoint(run).tensors() for run in (out, folder / "straight"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_processes_learn_what_one_that_accumulates_learns(folder: Path) -> None:
    """Gloo, two processes of a machine: after one step the optimiser holds the same gradients, to rounding."""
    options = ["toy.zarr", "--recipe", "tiny.yaml", "--device", "cpu", "--epochs", "1", "--batch-size", "36", "--device-batch", "9"]  # fmt: skip
    (folder / "program.py").write_text(f"if __name__ == '__main__':\n    {RUN}\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]  # fmt: skip
    done = subprocess.run(
        [*launcher, "program.py", *options, "--out", "two"], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    recipe = make_recipe(str(folder / "tiny.yaml"), {"epochs": 1, "batch_size": 36, "device_batch": 9})
    pretrain(open_store(folder / "toy.zarr"), recipe, folder / "one", device="cpu")
    one, two = (load_checkpoint(folder / name).folder for name in ("one", "two"))
    alone, shared = (read_tensors(checkpoint / OPTIMIZER_FILE) for checkpoint in (one, two))
    moments = [name for name in alone if name.startswith("exp_avg/")]
    assert alone.keys() == shared.keys()
    assert len(moments) > 50
    for name in moments:
        assert_near(shared[name], alone[name], name, gradient=True)
