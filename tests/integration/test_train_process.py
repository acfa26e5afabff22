"""`mmearth-train` as a process: on a machine with few libraries, and as two that share each batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_store import write_store

from mmearth_model import load_checkpoint, make_recipe, pretrain
from mmearth_model.training.log import read_log
from mmearth_model.weights.checkpoints import OPTIMIZER_FILE, read_tensors
from tests.unit.model.closeness import assert_near

RECIPE = """
depths: [1, 1, 1, 1]
widths: [8, 12, 16, 24]
image_size: 24
patch_size: 8
decoder_dim: 16
precision: float32
epochs: 1
batch_size: 36
device_batch: 9
"""

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy store, a recipe of one step, and a run of it in this process (``alone``)."""
    folder = tmp_path_factory.mktemp("process")
    store = write_store(folder / "toy.zarr")
    (folder / "tiny.yaml").write_text(RECIPE)
    pretrain(store, make_recipe(str(folder / "tiny.yaml")), folder / "alone", device="cpu")
    return folder


def train(folder: Path, out: str, *program: str) -> Path:
    """Run the program with the recipe, as a process of its own, which prints one result; gives its checkpoint."""
    command = [sys.executable, *program, "toy.zarr", "--recipe", "tiny.yaml", "--out", out, "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["run"] == out
    assert done.stderr.count("million parameters") == 1
    return load_checkpoint(folder / out).folder


def test_training_needs_few_libraries(folder: Path) -> None:
    few = load_checkpoint(train(folder, "few", "-c", BLOCKED)).tensors()
    many = load_checkpoint(folder / "alone").tensors()
    assert few.keys() == many.keys()
    assert all(torch.equal(few[name], many[name]) for name in few)


def test_two_processes_learn_what_one_that_accumulates_learns(folder: Path) -> None:
    """Gloo, two processes of a machine: after one step the optimiser holds the same gradients and the log the same means, to rounding."""
    (folder / "program.py").write_text("if __name__ == '__main__':\n    from mmearth_model.cli import cli; cli()\n")
    launcher = (
        "-m torch.distributed.run --nproc-per-node 2 --master-port 0 --rdzv-backend c10d --rdzv-endpoint localhost:0"
    )
    two, one = train(folder, "two", *launcher.split(), "program.py"), load_checkpoint(folder / "alone").folder
    alone, shared = (read_tensors(checkpoint / OPTIMIZER_FILE) for checkpoint in (one, two))
    moments = [name for name in alone if name.startswith("exp_avg/")]
    assert alone.keys() == shared.keys()
    assert len(moments) > 50
    for name in moments:
        assert_near(shared[name], alone[name], name, gradient=True)
    ((apart,), (whole,)) = (read_log(checkpoint.parent / "log.csv") for checkpoint in (two, one))
    for name in set(whole) - {"images_per_s", "waiting"}:
        assert float(apart[name]) == pytest.approx(float(whole[name]), rel=1e-4), name
    losses = [load_checkpoint(checkpoint).config["progress"]["loss"] for checkpoint in (two, one)]
    assert losses == [float(apart["loss"]), float(whole["loss"])]
