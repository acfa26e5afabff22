"""Long proofs of dense embeddings: no seams with a trained encoder, and the same bytes after any interruption."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from dense_world import contrast, make_checkpoint
from map_world import make_network, numbers, write_planet_scene, write_scene

from mmearth_data import build
from mmearth_data import make_recipe as make_build_recipe
from mmearth_model import WindowOptions, embed_dense, load_checkpoint, make_recipe, pretrain
from mmearth_model.maps import dense

pytestmark = pytest.mark.slow
KILLS = 20
SIZE_PX, WINDOW, PATCH = 1024, 64, 8
LON, LAT = 9.73, 48.03


def test_windows_that_overlap_leave_no_seam(tmp_path: Path) -> None:
    """Trained on tiles of the synthetic planet, of the size of the windows."""
    recipe = make_build_recipe(
        None, {"source": "synthetic", "tiles": 600, "tile_size": 64, "modalities": ["sentinel2"]}
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


def content(path: Path) -> dict[str, bytes]:
    """Bytes of all files below a folder, or of a file."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def embed(run: Path, scene: Path, out: Path, kind: str) -> None:
    """Embed a scene in many small blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "BLOCK_VALUES", 8 * 32**2)
        embed_dense(load_checkpoint(run), [scene], out, kind=kind, device="cpu")


@pytest.mark.parametrize(("name", "kind"), [("x.zarr", "float32"), ("x.tif", "int8")])
def test_killed_at_random_moments_it_writes_the_same_bytes(name: str, kind: str, tmp_path: Path) -> None:
    """The process is killed while it computes blocks or writes the file; see test_commands_cut_off.

    It is forked from a process that has written nothing: threads of GDAL that have written a file are missing in a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([dense.__name__, load_checkpoint.__module__])
    run = make_checkpoint(tmp_path / "run", make_network().encoder).folder
    scene = write_scene(tmp_path / "scene.tif", numbers(1600, 400))
    whole, again = tmp_path / "whole" / name, tmp_path / "again" / name
    for out in (again, whole):  # the first one starts the server
        began = time.monotonic()
        process = context.Process(target=embed, args=(run, scene, out, kind))
        process.start()
        process.join()
        assert process.exitcode == 0
        seconds = time.monotonic() - began
    shutil.rmtree(again.parent)
    chance, killed, finished = random.Random(0), 0, 0
    while killed < KILLS:
        process = context.Process(target=embed, args=(run, scene, again, kind))
        process.start()
        process.join(
            chance.uniform(0, 1.5 if killed % 4 == 3 else 0.4) * seconds
        )  # every fourth one long enough to end
        if process.is_alive():
            process.kill()
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if again.exists():  # a file under its final name is whole
            assert content(again) == content(whole)
        if process.exitcode == 0:
            assert [path.name for path in again.parent.iterdir()] == [name], "nothing is left behind"
            shutil.rmtree(again.parent)
            finished += 1
    embed(run, scene, again, kind)
    assert content(again) == content(whole)
    assert [path.name for path in again.parent.iterdir()] == [name]
    assert finished, "some runs came to their end, so that all moments were met"
