"""HTTP for the service's client: a connection pool, a deadline, and access to headers that the client hides.

A request runs in a thread of its own, because it cannot be interrupted while it looks up a host, connects or reads: the
waiting thread abandons it at the deadline, or when its source is stopped.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httplib2
import requests
from requests.adapters import HTTPAdapter

from mmearth_data.sources.earthengine.stopping import StopSwitch, in_background

if TYPE_CHECKING:
    from collections.abc import Iterator

QUOTA_STATUS = "x-earth-engine-quota-status"
RESTRICTED = "parallelism_restricted=true"
EMULATOR = "x-mmearth-emulator"


@dataclass(slots=True)
class Exchange:
    """A thread's latest request and answer."""

    sent_bytes: int = 0
    received_bytes: int = 0  # Size of the body, as far as it was received
    restricted: bool = False  # Whether the service announced restricted mode


class Transport:
    """The interface of ``httplib2.Http``, which the client requires, over a pooled session.

    ``timeout_s`` limits the seconds of a request, from the connection to the last byte of its answer. The client's own
    transport has 10 ``connections`` and no such limit.
    """

    def __init__(self, connections: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.emulator: str | None = None  # Name of the server if it is an emulator
        self._session = requests.Session()
        self._session.auth = _unchanged
        self._seen = threading.local()
        self._connections = 0
        self.widen(connections)

    def widen(self, connections: int) -> None:
        """Enlarge the pool and keep its open connections; a new pool would start without any."""
        if connections <= self._connections:
            return
        self._connections = connections
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=connections, max_retries=0)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    @property
    def latest(self) -> Exchange:
        """Latest exchange of the calling thread."""
        found: Exchange | None = getattr(self._seen, "exchange", None)
        return found or Exchange()

    @contextmanager
    def stopped_by(self, switch: StopSwitch) -> Iterator[None]:
        """Let a switch end the requests that the calling thread makes within the block."""
        self._seen.switch = switch
        try:
            yield
        finally:
            del self._seen.switch

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: str | bytes | None = None,
        headers: dict[str, str] | None = None,
        redirections: int | None = None,
        connection_type: object = None,
    ) -> tuple[httplib2.Response, bytes]:
        """Send one request and read the whole answer.

        Raises `ConnectionError` if the connection breaks, or the answer is shorter than announced; `TimeoutError` if
        the answer is not complete after `timeout_s`; `Stopped` if the switch of `stopped_by` is set.
        """
        exchange = self._seen.exchange = Exchange(sent_bytes=len(body or ""))
        switch: StopSwitch = getattr(self._seen, "switch", None) or StopSwitch()
        # The timeout of the connection ends the thread of an abandoned request.
        ask = partial(self._session.request, method, uri, data=body, headers=headers, timeout=self.timeout_s)
        try:
            answer = switch.result(in_background(ask), self.timeout_s)
        except (TimeoutError, requests.exceptions.Timeout) as error:
            raise TimeoutError(f"no complete answer in {self.timeout_s:g} s") from error
        except requests.exceptions.RequestException as error:
            raise ConnectionError(_innermost(error)) from error
        exchange.received_bytes = len(answer.content)
        exchange.restricted = RESTRICTED in answer.headers.get(QUOTA_STATUS, "")
        self.emulator = answer.headers.get(EMULATOR, self.emulator)
        # The client turns the quota header into a Python warning per answer; the limiter warns once.
        kept: dict[str, Any] = {k: v for k, v in answer.headers.items() if k.lower() != QUOTA_STATUS}
        return httplib2.Response(kept | {"status": answer.status_code}), answer.content

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave a request unchanged; without this, requests would replace the client's header by a password from .netrc."""
    return request


def _innermost(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(str(error).split()) or type(error).__name__
