"""Signals that arrive where Python cannot raise an exception, or where what they interrupt fails in its own way."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, time, weakref
import click
from mmearth_data import CommandGroup

class Freed:
    pass

@click.group(cls=CommandGroup)
def cli(): pass

@cli.command()
def work():
    freed = Freed()
    def callback(_):
        os.kill(os.getpid(), int(sys.argv[2]))
        time.sleep(0.05)
    reference = weakref.ref(freed, callback)
    del freed
    for _ in range(100):
        time.sleep(0.1)
    print("ran to its end")

cli(["work"])
"""


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_in_a_callback_of_a_weak_reference_ends_the_command(number: int, code: int, word: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "work", str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {word}; ")


IMPORTING = """
import os, sys
import click
from mmearth_data import CommandGroup

@click.group(cls=CommandGroup)
def cli(): pass

@cli.command()
def work():
    try:
        os.kill(os.getpid(), int(sys.argv[2]))
        for _ in range(10**9):
            pass
    except KeyboardInterrupt:
        raise RecursionError("a module whose import was cut short")

cli(["work"])
"""


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_what_fails_because_of_a_signal_ends_as_by_the_signal(number: int, code: int, word: str) -> None:
    """NumPy's attributes are loaded on demand: an import of theirs that is cut short ends in a RecursionError."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, "work", str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {word}; ")
