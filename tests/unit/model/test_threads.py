"""Threads of the commands that compute, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner

from mmearth_model.cli import cli
from mmearth_model.threads import COUNTS, PASSIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {
    "pretrain": ("absent.zarr",),
    "evaluate": ("absent", "--task", "store:biome"),
    "finetune": ("absent", "--task", "store:biome"),
    "embed": ("absent.zarr", "--checkpoint", "absent", "--out", "x.parquet"),
    "bench": ("--device", "warp"),
    "predict": ("absent", "absent.tif", "--out", "m.tif"),
    "experiment": ("absent",),
}
"""Commands that compute, with arguments that are refused later than the threads are set."""


@pytest.fixture
def other_threads() -> Iterator[int]:
    """Give another number of threads than the current one, which is restored."""
    before = torch.get_num_threads()
    kept = {name: os.environ.get(name) for name in (*COUNTS, *PASSIVE)}
    yield before + 1
    torch.set_num_threads(before)
    for name, value in kept.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_computes_takes_threads(command: str, other_threads: int) -> None:
    result = CliRunner().invoke(cli, [command, *COMMANDS[command], "--threads", str(other_threads)])
    assert result.exit_code == 2, result.output
    assert torch.get_num_threads() == other_threads
    assert os.environ["OMP_NUM_THREADS"] == str(other_threads), "processes that are started later inherit it"


def test_waiting_threads_are_passive_before_pytorch_loads() -> None:
    """GNU OpenMP, which the wheels of PyTorch bring, reads its settings once; it prints them on request."""
    program = (
        "import sys; from mmearth_model.threads import use_threads; assert 'torch' not in sys.modules; "
        "use_threads(3); import torch; torch.ones(9).sum(); print(torch.get_num_threads())"
    )
    unset = {key: value for key, value in os.environ.items() if key not in (*PASSIVE, *COUNTS)}
    asked = {**unset, "OMP_DISPLAY_ENV": "TRUE"}
    done = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "3"
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


def test_a_policy_of_the_user_wins() -> None:
    program = "import os; from mmearth_model.threads import use_threads; use_threads(None); print(os.environ['OMP_WAIT_POLICY'])"
    asked = {**os.environ, "OMP_WAIT_POLICY": "ACTIVE"}
    done = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ACTIVE"]
