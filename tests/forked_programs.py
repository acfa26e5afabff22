"""A process that has imported everything and forks once per command: what a new interpreter does, without its seconds of imports.

Run as a script, it reads one request per line from stdin (JSON: ``program``, ``words``, ``folder``, ``stdout``,
``stderr``) and answers with the exit status. A request without a program runs its one word as Python.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAMS = {"mmearth-data": "mmearth_data.cli", "mmearth-train": "mmearth_model.cli"}
"""Program -> module whose ``cli`` is its click command."""
PRELOADED = (*PROGRAMS.values(), "mmearth_data", "mmearth_model", "xarray", "geopandas", "rasterio", "pyarrow.parquet", "matplotlib.figure", "torch", "sklearn.linear_model")  # fmt: skip


class ForkedPrograms:
    """The process, and what to ask of it.

    Parameters
    ----------
    scratch
        Folder for what the commands print.
    environment
        Variables of every command.
    """

    def __init__(self, scratch: Path, environment: Mapping[str, str]) -> None:
        self.scratch = scratch
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def run(self, words: Sequence[str], folder: Path, program: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program with its arguments, or Python text, in a process of its own."""
        printed = {name: self.scratch / name for name in ("stdout", "stderr")}
        request = {"program": program, "words": list(words), "folder": str(folder)}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request | {name: str(path) for name, path in printed.items()}) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, "the process that forks the commands died"
        texts = (path.read_text(encoding="utf-8") for path in printed.values())
        return subprocess.CompletedProcess([program, *words], int(answer), *texts)


def _serve() -> None:
    """Answer requests until stdin ends."""
    for name in PRELOADED:
        import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any]) -> None:
    """Be the command that is asked for, and end with its exit code."""
    for descriptor, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, flags, 0o600), descriptor)
    os.chdir(request["folder"])
    code = 0
    try:
        _call(request["program"], request["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # what the interpreter does with it
        traceback.print_exc()
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _call(program: str, words: Sequence[str]) -> None:
    if not program:
        exec(compile(words[0], "<block>", "exec"), {"__name__": "__main__"})
        return
    sys.argv = [program, *words]
    import_module(PROGRAMS[program]).cli()


if __name__ == "__main__":
    _serve()
