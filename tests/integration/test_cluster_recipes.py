"""The recipes of `pipelines/cluster` are run, or as much of them as can be without the cluster they are for."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from build_making import build_known, tiles_read
from click.testing import CliRunner
from distributed.cli.dask_scheduler import main as scheduler_command
from distributed.cli.dask_worker import main as worker_command
from store_making import digests

from mmearth_data import resource_path
from mmearth_data.building.worker import SHARDS_AT_ONCE
from mmearth_data.cli import cli

TESTS = Path(__file__).resolve().parents[1]
RECIPES = resource_path("pipelines") / "cluster"
PROGRAMS = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(TESTS),
    "PYTHONWARNINGS": "ignore",
    "SCHEDULER_PORT": "0",
}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT, timeout=240, check=False
    )


def test_dask_by_commands(tmp_path: Path) -> None:
    """A scheduler, two workers and the build, each a process of its own: the bytes of a build in one process."""
    alone, store, log = tmp_path / "alone.zarr", tmp_path / "s.zarr", tmp_path / "log"
    build_known(alone, tmp_path / "alone-log")
    build = (sys.executable, TESTS / "build_making.py", store, log, "--read-ms", "5")
    done = run(RECIPES / "dask.sh", "2", *build)
    assert done.returncode == 0, done.stderr
    assert digests(store) == digests(alone)
    assert sorted(tiles_read(log)) == sorted(tiles_read(tmp_path / "alone-log"))


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    documents = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text())
    return {(entry["kind"], entry["metadata"]["name"]): entry for entry in documents}


def container(entry: dict[str, Any]) -> dict[str, Any]:
    (found,) = entry["spec"]["template"]["spec"]["containers"]
    return dict(found)


class TestKubernetes:
    def test_labels_ports_and_secrets_fit(self) -> None:
        found = manifests()
        assert {kind for kind, _ in found} == {"Service", "Deployment", "Job"}
        service = found["Service", "mmearth-scheduler"]["spec"]
        scheduler = found["Deployment", "mmearth-scheduler"]
        assert service["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
        assert service["ports"][0]["targetPort"] == container(scheduler)["ports"][0]["containerPort"]
        for (kind, _), entry in found.items():
            if kind == "Deployment":
                assert entry["spec"]["selector"]["matchLabels"] == entry["spec"]["template"]["metadata"]["labels"]
            if kind != "Service":
                pod = entry["spec"]["template"]["spec"]
                volumes = {volume["name"] for volume in pod.get("volumes", [])}
                assert {mount["name"] for mount in container(entry).get("volumeMounts", [])} <= volumes

    def test_dask_knows_every_option(self) -> None:
        found = manifests()
        address = "tcp://mmearth-scheduler:8786"
        for name, command in (("mmearth-scheduler", scheduler_command), ("mmearth-worker", worker_command)):
            dask, _, *rest = container(found["Deployment", name])["args"]
            assert dask == "dask"
            assert {word for word in rest if word.startswith("--")} <= options_of(command)
        worker = container(found["Deployment", "mmearth-worker"])["args"]
        assert worker[2] == address
        assert worker[worker.index("--nthreads") + 1] == str(SHARDS_AT_ONCE)

    def test_the_build_takes_every_option(self) -> None:
        program, *arguments = container(manifests()["Job", "mmearth-build"])["args"]
        assert program == "mmearth-data"
        # Refused for the credentials alone: every option before them is understood, and the recipe is found.
        result = CliRunner().invoke(cli, [*arguments, "--no-such-option"])
        assert result.exit_code == 2
        assert "No such option" in result.output
        build = cli.commands["build"]  # type: ignore[attr-defined]
        assert {word for word in arguments if word.startswith("--")} <= options_of(build)
        recipe = arguments[arguments.index("--recipe") + 1]
        assert (resource_path("pipelines") / "build" / f"{recipe}.yaml").is_file()


def test_slurm_job_script() -> None:
    options = (
        "--show",
        "--partition",
        "cpu",
        "--account",
        "earth",
        "--time",
        "02:00:00",
        "--directive=--constraint=ssd",
    )
    done = run(sys.executable, RECIPES / "slurm.py", *options, "--", "--tiles", "3")
    assert done.returncode == 0, done.stderr
    directives = [line.removeprefix("#SBATCH ") for line in done.stdout.splitlines() if line.startswith("#SBATCH ")]
    assert {"-p cpu", "-A earth", "-t 02:00:00", "--constraint=ssd", "-n 1"} <= set(directives)
    assert f"--cpus-per-task={SHARDS_AT_ONCE}" in directives
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:3] == [sys.executable, "-m", "distributed.cli.dask_worker"]
    assert words[words.index("--nthreads") + 1] == str(SHARDS_AT_ONCE)
    assert {word for word in words if word.startswith("--")} <= options_of(worker_command)


SBATCH = """#!/bin/sh
for script; do :; done
sh "$script" >"$SPOOL/$$.log" 2>&1 &
echo "Submitted batch job $!"
"""


@pytest.mark.slow
def test_slurm_from_submission_to_store(tmp_path: Path) -> None:
    """The unchanged script, with an `sbatch` that starts jobs on this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\nkill "$@" 2>/dev/null; exit 0\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    store = tmp_path / "s.zarr"
    build = ("--source", "synthetic", "--tiles", "64", "--tile-size", "16", "--out", str(store))
    environment = {**ENVIRONMENT, "PATH": f"{programs}{os.pathsep}{ENVIRONMENT['PATH']}", "SPOOL": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(RECIPES / "slurm.py"), "--jobs", "2", "--", *build],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (store / "_manifest.json").is_file()
