"""Maps made by several processes, by a cluster, and by processes that are killed: always the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import LocalCluster
from map_world import make_network, numbers, write_scene

from mmearth_model import predict_scene, save_network

KILLS = 20
PROGRAM = "from mmearth_model.cli import cli; cli()"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, a scene of six blocks, and its map, made by this process alone (``alone.tif``)."""
    folder = tmp_path_factory.mktemp("maps")
    save_network(folder / "net", make_network())
    write_scene(folder / "scene.tif", numbers(6000, 40))
    predict_scene(folder / "net", [folder / "scene.tif"], folder / "alone.tif", scores=True)
    return folder


def check_same(folder: Path, name: str) -> None:
    """Map and scores have the bytes of the ones made alone, and nothing else is left."""
    for ending in ("tif", "scores.tif", "tif.aux.xml"):
        assert (folder / f"{name}.{ending}").read_bytes() == (folder / f"alone.{ending}").read_bytes()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "where",
    [
        "cluster",
        pytest.param("processes", marks=pytest.mark.slow),
        pytest.param("cluster of processes", marks=pytest.mark.slow),
    ],
)
def test_processes_and_clusters_give_the_same_bytes(world: Path, where: str) -> None:
    arguments = (world / "net", [world / "scene.tif"], world / "many.tif")
    if where == "processes":
        predict_scene(*arguments, scores=True, workers=2)
    else:
        own = where == "cluster of processes"
        with LocalCluster(
            n_workers=1, threads_per_worker=1, processes=own, protocol="tcp://", dashboard_address="127.0.0.1:0"
        ) as cluster:
            predict_scene(*arguments, scores=True, scheduler=cluster.scheduler_address)
    check_same(world, "many")
    for path in world.glob("many.*"):
        path.unlink()


def start(world: Path, workers: int) -> subprocess.Popen[str]:
    words = ("predict", world / "net", world / "scene.tif", "--out", world / "killed.tif", "--scores", "--workers", workers, "--device", "cpu")  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_kill_9_at_twenty_moments(world: Path) -> None:
    """By two processes and by one; the moments are spread over the time that a whole run takes."""
    begin = time.monotonic()
    _, problems = start(world, 1).communicate()
    took = time.monotonic() - begin
    assert (world / "killed.tif").is_file(), problems
    for path in world.glob("killed.*"):
        path.unlink()
    moment = random.Random(3)
    for kill in range(KILLS):
        process = start(world, 1 + kill % 2)
        time.sleep(moment.uniform(0.3, 1) * took)
        process.kill()
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        if process.returncode == 0:  # finished before: begin again
            check_same(world, "killed")
            for path in world.glob("killed.*"):
                path.unlink()
    _, problems = start(world, 2).communicate()
    assert "Traceback" not in problems
    check_same(world, "killed")
