"""An Earth Engine emulator in a process of its own, as a user starts it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class RunningEmulator:
    """A server that answers at a URL, in a process."""

    url: str
    pid: int

    def ledger(self) -> dict[str, Any]:
        """What it was asked, as it counts."""
        with urllib.request.urlopen(f"{self.url}/emulator/ledger") as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@contextmanager
def emulator(*options: object, seed: int) -> Iterator[RunningEmulator]:
    """Run ``mmearth-data emulate`` with these options while the context lasts."""
    program = Path(sys.executable).with_name("mmearth-data")
    command = [str(program), "emulate", "--port", "0", "--seed", str(seed), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            assert running.stdout is not None
            said = ""
            for line in running.stdout:
                said += line
                if found := re.search(r"http://[\d.]+:\d+", line):
                    yield RunningEmulator(found[0], running.pid)
                    break
            else:
                raise AssertionError(f"the emulator did not start: {said}")
        finally:
            running.terminate()
            running.wait(10)
            assert running.stdout is not None
            running.stdout.close()
