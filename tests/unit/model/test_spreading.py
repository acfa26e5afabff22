"""Work that is spread over processes, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
PROGRAM = f"""
import signal, sys, time
from functools import partial
sys.path.insert(0, {str(TESTS / "unit" / "model")!r})
from test_spreading import slow
from mmearth_model.spreading import Spreading, spread

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for work, _ in spread(partial(slow, bytes(5_000_000)), range(40), Spreading(2, threads=1)):
            print(work, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def slow(ballast: bytes, work: int) -> int:
    """Work whose function is larger than a pipe, and which takes a while."""
    threading.Event().wait(0.2)
    return work + len(ballast)


def test_an_interrupted_pool_ends_however_large_its_function_is(tmp_path: Path) -> None:
    """A terminal sends SIGINT to all processes of a command."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        _, problems = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 130, problems
    assert "InvalidStateError" not in problems
