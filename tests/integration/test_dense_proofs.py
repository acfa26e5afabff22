"""Long proofs of dense embeddings: no seams with a trained encoder, and the same bytes after any interruption."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dense_world import contrast, make_checkpoint
from map_world import make_network, numbers, write_planet_scene, write_scene

from mmearth_data import build
from mmearth_data import make_recipe as make_build_recipe
from mmearth_model import WindowOptions, embed_dense, load_checkpoint, make_recipe, pretrain

pytestmark = pytest.mark.slow
KILLS = 20
SIZE_PX, WINDOW, PATCH = 1024, 64, 8
LON, LAT = 9.73, 48.03


def test_windows_that_overlap_leave_no_seam(tmp_path: Path) -> None:
    """Trained on tiles of the synthetic planet, of the size of the windows."""
    recipe = make_build_recipe(
        "default", {"source": "synthetic", "tiles": 600, "tile_size": 64, "modalities": ["sentinel2"]}
    )
    store = build(recipe, tmp_path / "planet.zarr")
    training = {
        "image_size": WINDOW,
        "patch_size": PATCH,
        "epochs": 8,
        "depths": (1, 1, 2, 1),
        "widths": (16, 32, 64, 128),
    }
    checkpoint = load_checkpoint(pretrain(store, make_recipe("demo", training), tmp_path / "run", device="cpu"))
    files = write_planet_scene(tmp_path, LON, LAT, SIZE_PX)
    found = {}
    for name, overlap in (("smooth", None), ("separate", 0)):
        (field,) = embed_dense(
            checkpoint, files, tmp_path / f"{name}.zarr", windows=WindowOptions(overlap_px=overlap), device="cpu"
        )
        found[name] = field.read(slice(0, field.grid.shape[0]), slice(0, field.grid.shape[1]))
    assert contrast(found["smooth"], 4) <= 1.05
    assert contrast(found["separate"], 8) > 1.1


PROGRAM = "from mmearth_model.cli import cli; cli()"


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_killed_at_any_moment_and_run_again_it_writes_the_same_bytes(kind: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "run", make_network().encoder)
    scene = write_scene(tmp_path / "scene.tif", numbers(6000, 600))
    words = [sys.executable, "-c", PROGRAM, "embed", str(scene), "--dense", "--checkpoint", str(tmp_path / "run"), "--type", kind, "--workers", "2", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run([*words, "--out", str(tmp_path / "whole.zarr")], env=environment, check=True)
    seconds = time.monotonic() - began
    again, chance, killed = tmp_path / "again.zarr", random.Random(0), 0
    while killed < KILLS:
        process = subprocess.Popen([*words, "--out", str(again)], env=environment, start_new_session=True)
        try:
            process.wait(timeout=chance.uniform(0.1, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        if again.exists():
            assert content(again) == content(tmp_path / "whole.zarr")
            if process.returncode == 0:
                assert sorted(p.name for p in tmp_path.glob("*again*")) == ["again.zarr"]
                for file in sorted(again.rglob("*"), reverse=True):
                    file.rmdir() if file.is_dir() else file.unlink()
                again.rmdir()
    subprocess.run([*words, "--out", str(again)], env=environment, check=True)
    assert content(again) == content(tmp_path / "whole.zarr")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".again", ".partial"))]
