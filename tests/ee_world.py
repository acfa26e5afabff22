"""The real Earth Engine client, signed in to an emulator on loopback. Its state is per process."""

from __future__ import annotations

import ee
import requests
from google.auth.credentials import AnonymousCredentials

SEED = 7
_signed_in: list[str] = []


def sign_in(url: str) -> None:
    """Point the process's client at a server; does nothing where it already is."""
    if _signed_in == [url] and ee.data.is_initialized():
        return
    ee.Reset()
    ee.Initialize(AnonymousCredentials(), project="emulator", url=url)
    ee.data.setMaxRetries(0)  # a refusal is an answer here, not a reason to wait
    _signed_in[:] = [url]


def refusal(expression: ee.ComputedObject) -> str:
    """Words with which an expression is refused."""
    try:
        answer = expression.getInfo()
    except ee.EEException as error:
        return str(error)
    raise AssertionError(f"answered {answer!r}, where a refusal was due")


def post(url: str, path: str, body: object) -> requests.Response:
    """POST without the client: what goes over the wire."""
    return requests.post(f"{url}/v1/projects/emulator/{path}", json=body, timeout=60)


def status_of(url: str, expression: ee.ComputedObject) -> int:
    """HTTP status with which an expression is answered."""
    return post(url, "value:compute", {"expression": ee.serializer.encode(expression)}).status_code
