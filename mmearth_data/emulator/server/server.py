"""The emulator as an HTTP server on loopback."""

from __future__ import annotations

import gc
import gzip
import io
import logging
import re
import select
import socket
import struct
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from mmearth_data.emulator.errors import UNCOMPUTABLE, EmulatorError, memory_exceeded, not_computed, too_many_requests
from mmearth_data.emulator.server.faults import REFUSALS, Fault, Troublemaker
from mmearth_data.emulator.server.ledger import Ledger
from mmearth_data.emulator.server.profiles import ANSWERED, ASKED
from mmearth_data.emulator.server.routes import (
    COMPUTING,
    JSON,
    MAX_REQUEST_BYTES,
    Answer,
    Call,
    Service,
    answer_error,
    answer_json,
    payload_too_large,
)
from mmearth_data.emulator.server.work import LEFT, LONGEST_S, Watch, Work
from mmearth_data.errors import InputError
from mmearth_data.planet.planet import planet
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LOG = logging.getLogger(__name__)

MARK = "x-mmearth-emulator"
"""Header of every answer, from which a client knows that the pixels are synthetic."""
QUOTA_STATUS = ("x-earth-engine-quota-status", "parallelism_restricted=true")
VERSIONS = ("v1/", "v1alpha/", "v1beta/")
GZIP_FROM_BYTES = 2048
STACK_BYTES = 64 * 2**20
DEEPEST = 30_000
"""Recursion limit of Python: expressions nest deeply."""
REQUEST_S = 60.0
"""Time limit for a request to arrive after its first byte, and for its answer to be received."""
IDLE_S = 900.0
"""Time limit between the requests of a connection; clients keep connections open while they work."""
DRAINED_BYTES = 64 * 2**20
"""Bytes of a body that is too long that are read, so that its sender can read the refusal."""
LOOPBACK = re.compile(r"(127(\.\d{1,3}){3}|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
HEAVY_ELEMENTS = 1_000_000
"""Above these limits, garbage is collected as soon as a request ends."""
GARBAGE_AFTER = 20_000
"""Objects created before Python looks for reference cycles: a survey creates this many in a dozen milliseconds."""


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    """Options of the emulator.

    Attributes
    ----------
    port
        Port; 0 picks a free one.
    seed
        Seed of the planet.
    faults
        Faults to inject, and how often.
    latency_ms
        Delay added to each computing request.
    max_in_flight, max_per_second
        Limits above which a request is answered with 429; None is unlimited.
    cheap_pixels
        Return arbitrary pixels at no cost.
    compute_s
        Time limit for computing an answer.
    request_s
        Time limit for a request to arrive.
    """

    port: int = 0
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    latency_ms: float = 0.0
    max_in_flight: int | None = None
    max_per_second: int | None = None
    cheap_pixels: bool = False
    compute_s: float = LONGEST_S
    request_s: float = REQUEST_S


class Emulator:
    """Earth Engine on loopback, over a synthetic planet.

    Examples
    --------
    >>> import ee
    >>> from google.auth.credentials import AnonymousCredentials
    >>> with Emulator(EmulatorOptions(seed=7)) as emulator:
    ...     ee.Initialize(AnonymousCredentials(), project="emulator", url=emulator.url)
    ...     ee.Number(1).add(2).getInfo()
    3
    """

    def __init__(self, options: EmulatorOptions | None = None) -> None:
        self.options = options or EmulatorOptions()
        self.ledger = Ledger()
        self.service = Service(planet(self.options.seed), self.options.cheap_pixels)
        self.trouble = Troublemaker(self.options.faults, self.options.seed)
        self.stopping = threading.Event()
        self.watch = Watch()
        try:
            self._server = _Server(("127.0.0.1", self.options.port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--port: expected a free port of 127.0.0.1 (0 takes any), got {self.options.port}: {reason_of(error)}."
            ) from None
        self._server.emulator = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Answer requests in background threads."""
        self.watch.start()
        self._thread.start()

    def serve(self) -> None:
        """Answer requests until interrupted, in a process that serves nothing else."""
        sys.setrecursionlimit(max(sys.getrecursionlimit(), DEEPEST))
        # Objects that exist now are permanent, and requests create almost no reference cycles.
        gc.freeze()
        gc.set_threshold(GARBAGE_AFTER)
        self.watch.start()
        try:
            self._server.serve_forever(0.05)
        finally:
            self.stopping.set()
            self.watch.end()
            self._server.server_close()

    def stop(self) -> None:
        """Stop answering."""
        self.stopping.set()
        self.watch.end()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------ one request

    def admit(self, name: str) -> tuple[Answer | None, str | None]:
        """Count a request, and return (refusal, fault), None if there is none."""
        at_once, in_a_second = self.ledger.begin(name)
        if name not in COMPUTING:
            return None, None
        counts = (at_once, self.options.max_in_flight), (in_a_second, self.options.max_per_second)
        if any(limit is not None and count > limit for count, limit in counts):
            return answer_error(too_many_requests()), None
        fault = self.trouble.draw()
        if self.options.latency_ms:
            self.stopping.wait(self.options.latency_ms / 1000)
        refusal = REFUSALS.get(fault or "")
        return (None if refusal is None else answer_error(refusal)), fault

    def answer(self, handler: Callable[[Call], Answer], call: Call) -> Answer:
        """Compute an answer; a refusal is an answer too."""
        try:
            return handler(call)
        except EmulatorError as error:
            return answer_error(error)
        except RecursionError:
            return answer_error(EmulatorError("Expression is nested too deeply."))
        except MemoryError:
            return answer_error(memory_exceeded())
        except UNCOMPUTABLE as error:
            LOG.warning("An answer failed.", exc_info=error)
            return answer_error(not_computed("The answer", error))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    emulator: Emulator

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as the base class says)
        before = threading.stack_size(STACK_BYTES)
        try:
            super().process_request(request, client_address)
        finally:
            threading.stack_size(before)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as the base class says)
        """Ignore clients that disconnected; anything else is our own failure and is reported."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Arriving(io.RawIOBase):
    """Bytes of a connection that must arrive before a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any buffer
        """Wait no longer than the remaining time."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server
    rfile: io.BufferedReader
    own: ClassVar[dict[str, str]] = {MARK: "1"}

    def setup(self) -> None:
        """Apply the deadline to reads."""
        super().setup()
        self._arriving = _Arriving(self.connection)
        self.rfile = io.BufferedReader(self._arriving)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the ledger counts requests."""

    def handle_one_request(self) -> None:
        """Wait for a request, which must then arrive in time."""
        self._arriving.until = time.monotonic() + IDLE_S
        try:
            begun = self.rfile.peek(1)
        except TimeoutError:
            begun = b""
        if not begun:
            self.close_connection = True
            return
        self._arriving.until = time.monotonic() + self.server.emulator.options.request_s
        super().handle_one_request()

    def _serve(self) -> None:
        try:
            self._check_host()
            body = self._body()
        except EmulatorError as error:
            self.close_connection = True
            self._send(answer_error(error))
            return
        parts = urlsplit(self.path)
        path = unquote(parts.path).lstrip("/")
        emulator = self.server.emulator
        if path == "emulator/ledger":
            self._send(answer_json(emulator.ledger.report()))
            return
        path = next((path.removeprefix(v) for v in VERSIONS if path.startswith(v)), path)
        try:
            name, handler = emulator.service.route(self.command, path)
        except EmulatorError as error:
            self._send(answer_error(error))
            return
        root, work = f"http://{self.headers['Host']}/", Work(emulator.options.compute_s)
        self._count_and_send(name, handler, Call(self.command, path, dict(parse_qsl(parts.query)), body, root, work))

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve  # noqa: N815 (as the base class looks for them)

    def _check_host(self) -> None:
        """Accept only requests addressed to this machine: a web page's host name may resolve to 127.0.0.1."""
        host = self.headers.get("Host", "")
        if not LOOPBACK.fullmatch(host):
            raise EmulatorError(
                f"Host '{host}' is not this machine: the emulator answers only 127.0.0.1, localhost and [::1].", 403
            )

    def _body(self) -> bytes:
        """Body of the request, whose length must be given."""
        if "Transfer-Encoding" in self.headers:
            raise EmulatorError("Expected a Content-Length; the emulator does not support chunked bodies.", 411)
        text = self.headers.get("Content-Length") or "0"
        if not (text.isascii() and text.isdigit()):
            raise EmulatorError(f"Invalid Content-Length: '{text[:40]}'.")
        length = int(text)
        try:
            if length > MAX_REQUEST_BYTES:
                self._drain(min(length, DRAINED_BYTES))
                raise payload_too_large()
            body = self.rfile.read(length)
        except TimeoutError:
            raise EmulatorError("The request did not arrive in time.", 408) from None
        if len(body) < length:
            raise ConnectionAbortedError
        return body

    def _drain(self, length: int) -> None:
        while length > 0 and (part := self.rfile.read(min(length, 2**20))):
            length -= len(part)

    def _left(self) -> bool:
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    def _count_and_send(self, name: str, handler: Callable[[Call], Answer], call: Call) -> None:
        emulator = self.server.emulator
        status, size, fault = "lost", 0, None
        extra: list[tuple[str, str]] = []
        try:
            refusal, fault = emulator.admit(name)
            if fault == "hang":
                status = "hang"
                self._hang()
                return
            start = time.thread_time()
            answer = refusal or self._computed(handler, call)
            if answer.status == LEFT:
                self.close_connection = True
                return
            if self.headers.get(ASKED) and name in COMPUTING and answer.status == HTTPStatus.OK:
                profile = uuid.uuid4().hex
                emulator.service.profiles.keep(profile, time.thread_time() - start)
                extra = [(ANSWERED, profile)]
            status, size = str(answer.status), len(answer.body)
            if fault in {"truncate", "reset"}:
                status = fault
                self._break_off(answer, reset=fault == "reset")
        except Exception:
            status = "500"
            self.close_connection = True
            refusal = answer_error(EmulatorError("An internal error has occurred.", 500))
            self._send(refusal, [("Connection", "close")])
            raise
        finally:
            emulator.ledger.end(status, size, fault)
        if fault not in {"truncate", "reset"}:
            self._send(answer, [QUOTA_STATUS, *extra] if fault == "restricted" else extra)

    def _computed(self, handler: Callable[[Call], Answer], call: Call) -> Answer:
        """Compute while the client waits, and release large objects before the answer is sent."""
        emulator = self.server.emulator
        with emulator.watch.over(call.work, self._left):
            answer = emulator.answer(handler, call)
        if call.work.stopped is not None or call.work.elements > HEAVY_ELEMENTS:
            gc.collect()  # expressions contain reference cycles
        return answer

    def _send(self, answer: Answer, extra: list[tuple[str, str]] | None = None) -> None:
        body, extra = answer.body, extra or []
        self.connection.settimeout(self.server.emulator.options.request_s)
        accepts = "gzip" in self.headers.get("Accept-Encoding", "")
        if accepts and answer.content_type == JSON and len(body) >= GZIP_FROM_BYTES:
            body, extra = gzip.compress(body, 1), [*extra, ("Content-Encoding", "gzip")]
        self._head(answer, len(body), extra)
        self.wfile.write(body)
        self.wfile.flush()

    def _head(self, answer: Answer, length: int, extra: list[tuple[str, str]]) -> None:
        self.send_response(answer.status)
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(length)), *self.own.items(), *extra]
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()

    def _hang(self) -> None:
        self.close_connection = True
        while not self.server.emulator.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.1)
            if readable and not self.connection.recv(4096):
                return

    def _break_off(self, answer: Answer, *, reset: bool) -> None:
        """Send half of an answer, or none, and close the connection."""
        self.close_connection = True
        if reset:
            # A socket with a linger time of zero is closed with RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        self._head(answer, len(answer.body), [])
        self.wfile.write(answer.body[: len(answer.body) // 2])
        self.wfile.flush()
