"""Server processes on loopback, of other people's programs."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

PATIENCE_S = 60


@contextmanager
def serving(command: Callable[[int], Sequence[str]]) -> Iterator[str]:
    """Run a server on a free port, given the command for a port, until the context ends; gives its URL once it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE_S
        while not listens(port):
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < until, "the server does not listen"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def make_bucket(url: str) -> None:
    """Make a bucket of an S3 server that checks no signature."""
    urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30).close()
