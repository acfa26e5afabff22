"""Runs Python in a process of its own, where nothing is imported yet and libraries can be missing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

BLOCK = """
import sys

class Missing:
    names = frozenset({names!r})

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in cls.names:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Missing)
"""
"""Makes libraries look as if they were not installed."""


def run_python(program: str, *, blocked: frozenset[str] = frozenset(), timeout_s: float = 120) -> str:
    """Return what a program prints; it must end well.

    Parameters
    ----------
    program
        Source text, may be indented.
    blocked
        Libraries that cannot be imported.
    timeout_s
        After this it is stopped.
    """
    head = BLOCK.format(names=sorted(blocked)) if blocked else ""
    with TemporaryDirectory() as folder:
        script = Path(folder) / "program.py"
        script.write_text(head + textwrap.dedent(program), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "error::ImportWarning", str(script)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
