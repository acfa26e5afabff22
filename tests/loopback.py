"""Server processes on loopback, of other people's programs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("bucket_server.py")
BUCKETS = ("tiles", "lossy", "ignore", "refuse")
"""Their behaviour: see `bucket_server`."""
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


@contextmanager
def buckets(kind: str) -> Iterator[str]:
    """Start of the URLs of the buckets `BUCKETS` in a server process, whose address and keys are in the environment."""
    command = [sys.executable, "-W", "ignore", str(SERVER)]
    with serving(lambda port: [*command, str(port), kind]) as address, pytest.MonkeyPatch.context() as patch:
        for name in BUCKETS:
            make_bucket(f"{address}/{name}")
        account = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        google = {**account, "gcs_base_url": address, "disable_oauth": True}
        patch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(google))
        for name, value in (("ACCESS_KEY_ID", "t"), ("SECRET_ACCESS_KEY", "t"), ("REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", address)
        yield f"{kind}://"
