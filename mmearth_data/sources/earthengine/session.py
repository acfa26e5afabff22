"""The one session of this process with Earth Engine.

The client keeps its state per process (server, account, functions), so there is one session per process. The client's
own retries are switched off; only the session's limiter, retries and ledger apply.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import ee
from googleapiclient.errors import InvalidJsonError, UnknownApiNameOrVersion

from mmearth_data.errors import InputError, MMEarthError, RetryLater, TileUnavailable
from mmearth_data.sources.earthengine.credentials import Account, anonymous, sign_in
from mmearth_data.sources.earthengine.endpoint import Endpoint, resolve_endpoint
from mmearth_data.sources.earthengine.failures import TOO_LARGE, Throttled, TooDear, TooManyAggregations, classify
from mmearth_data.sources.earthengine.retry import Backoff, LongWaits, with_retries
from mmearth_data.sources.earthengine.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmearth_data.sources.earthengine.ledger import Ledger
    from mmearth_data.sources.earthengine.profiles import Profiles
    from mmearth_data.sources.earthengine.quota import Limiter

Answer = TypeVar("Answer")
WORKLOAD_TAG = "mmearth-build"
SIGN_IN_ATTEMPTS = 6
"""Attempts to sign in: an unreachable server is reported without waiting for minutes."""
report_wait = LongWaits()
"""Reports the long waits of all threads of this process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionOptions:
    """How to reach the service."""

    endpoint: str = "high-volume"  # ``high-volume`` or ``standard``
    url: str | None = None  # Another server that speaks the same protocol
    project: str | None = None  # Cloud project to charge
    service_account: Path | None = None  # Key file
    connections: int = 40  # Requests in flight at once
    timeout_s: float = 330.0  # Deadline of one request and its answer; the service itself allows 300 s
    backoff: Backoff = field(default_factory=Backoff)  # How failed requests are retried

    @property
    def identity(self) -> tuple[object, ...]:
        """Options that must be equal for all users of one session."""
        return (self.endpoint, self.url, self.project, self.service_account)


class Session:
    """An open session; use `open_session`."""

    def __init__(self, options: SessionOptions, endpoint: Endpoint, account: Account, transport: Transport) -> None:
        self.options = options
        self.endpoint = endpoint
        self.project = f"projects/{account.project}"
        self._transport = transport
        # The client rebuilds these for every call and encodes expressions again, which takes 9 ms per tile.
        self._values = ee.data._get_cloud_projects().value()
        self._images = ee.data._get_cloud_projects_raw().image()
        self._tables = ee.data._get_cloud_projects().table()
        self._assets: dict[str, dict[str, Any]] = {}
        self.profiles: Profiles | None = None
        """If set, requests ask for profiles, whose ids are stored there."""

    @property
    def emulator(self) -> str | None:
        """Name of the server if it is an emulator, whose pixels are synthetic."""
        return self._transport.emulator

    def compute_value(
        self,
        expression: str,
        limiter: Limiter,
        ledger: Ledger,
        *,
        decode: Callable[[Any], Any] = lambda value: value,
        divisible: bool = False,
    ) -> Any:  # noqa: ANN401 - what ``decode`` returns
        """Value of an encoded expression, decoded from JSON.

        If ``decode`` raises an exception, the answer counts as undecodable, and the request is retried.
        ``divisible`` is True if the caller can request less, so that a request with too many aggregations is not
        retried unchanged. Raises what `mmearth_data.sources.earthengine.failures.classify` returns, and `Stopped`.
        """
        ask = self._asked(partial(self._values.compute, prettyPrint=False), expression, {})
        return self._send(
            "value:compute", lambda: decode(_object(ask())["result"]), limiter, ledger, divisible=divisible
        )

    def compute_pixels(
        self,
        expression: str,
        fields: Mapping[str, Any],
        decode: Callable[[bytes], Answer],
        limiter: Limiter,
        ledger: Ledger,
        *,
        divisible: bool = False,
    ) -> Answer:
        """Pixels of an encoded image, with ``grid`` and ``fileFormat`` as further fields of the request; as `compute_value`."""
        ask = self._asked(self._images.computePixels, expression, fields)
        return self._send("image:computePixels", lambda: decode(ask()), limiter, ledger, divisible=divisible)

    def compute_features(
        self,
        expression: str,
        fields: Mapping[str, Any],
        decode: Callable[[Any], Answer],
        limiter: Limiter,
        ledger: Ledger,
    ) -> Answer:
        """One page of an encoded feature collection, decoded from GeoJSON; as `compute_value`."""
        ask = self._asked(self._tables.computeFeatures, expression, fields)
        return self._send("table:computeFeatures", lambda: decode(_object(ask())), limiter, ledger)

    def asset(
        self, asset_id: str, decode: Callable[[Any], dict[str, Any]], limiter: Limiter, ledger: Ledger
    ) -> dict[str, Any]:
        """Request the description of an asset (type, bands and properties), once per session; as `compute_value`."""
        if asset_id not in self._assets:
            self._assets[asset_id] = self._send(
                "assets", lambda: decode(_object(ee.data.getAsset(asset_id))), limiter, ledger
            )
        return self._assets[asset_id]

    def _asked(self, method: Callable[..., Any], expression: str, fields: Mapping[str, Any]) -> Callable[[], Any]:
        """Return a function that sends an encoded expression to a method of the client."""
        return partial(self._execute, method, request_body(expression, fields))

    def _execute(self, method: Callable[..., Any], body: bytes) -> Any:  # noqa: ANN401 - what the client makes of it
        """Send an already encoded body: the client would encode it again for each request."""
        request = method(project=self.project, body={})
        request.body, request.body_size = body, len(body)
        return request.execute(num_retries=0)

    def _send(
        self, what: str, ask: Callable[[], Answer], limiter: Limiter, ledger: Ledger, *, divisible: bool = False
    ) -> Answer:
        def attempt() -> Answer:
            with limiter.slot():
                return self._once(what, ask, limiter, ledger, divisible=divisible)

        def on_retry(error: RetryLater, wait_s: float) -> None:
            ledger.retry(error.message.partition(":")[0], wait_s)
            report_wait(error, wait_s)

        return with_retries(attempt, self.options.backoff, on_retry=on_retry, sleep=limiter.switch.sleep)

    def _once(
        self, what: str, ask: Callable[[], Answer], limiter: Limiter, ledger: Ledger, *, divisible: bool
    ) -> Answer:
        start = time.perf_counter()
        profiles = self.profiles
        try:
            profiled = nullcontext() if profiles is None else profiles.of(what)
            with profiled, self._transport.stopped_by(limiter.switch):
                answer = ask()
        except Exception as error:
            sorted_error = classify(error)
            if divisible and isinstance(sorted_error, TooManyAggregations):
                sorted_error = TooDear(TOO_LARGE, sorted_error.message)
            if isinstance(sorted_error, Throttled):
                limiter.throttled(sorted_error.wait_s)
            raise sorted_error from error
        else:
            limiter.succeeded()
            return answer
        finally:
            latest = self._transport.latest
            if latest.restricted:
                limiter.restrict()
            seconds = time.perf_counter() - start
            if profiles is not None:
                profiles.took(what, seconds)
            ledger.request(what, sent_bytes=latest.sent_bytes, received_bytes=latest.received_bytes, seconds=seconds)


def request_body(expression: str, fields: Mapping[str, Any]) -> bytes:
    """Body of a request for an expression that is already JSON."""
    return f'{{"expression":{expression},{json.dumps({**fields, "workloadTag": WORKLOAD_TAG})[1:]}'.encode()


def _object(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Check that an answer is a JSON object; the client returns any other text unchanged."""
    if not isinstance(answer, dict):
        raise ValueError(f"expected a JSON object, got {str(answer)[:80]!r}")  # noqa: TRY004 - as for any other answer
    return answer


_lock = threading.Lock()
_open: Session | None = None


def open_session(options: SessionOptions) -> Session:
    """Sign in, or return the open session.

    Raises `InputError` if there are no credentials or no project, the service refuses them, or this process has a
    session with another server or account; `RetryLater` if the service cannot be reached.
    """
    global _open
    with _lock:
        if _open is None:
            _open = _sign_in(options)
        elif _open.options.identity != options.identity:
            raise InputError(
                f"Expected the server and account of this process's Earth Engine session ({_open.endpoint.url}, {_open.project}), "
                "got another server or account; use a process for each."
            )
        else:
            _open._transport.widen(options.connections)
            _open._transport.timeout_s = options.timeout_s
        return _open


def close_session() -> None:
    """Drop the session of this process, so that another can be opened."""
    global _open
    with _lock:
        if _open is not None:
            _open._transport.close()
            ee.Reset()
        _open = None


def _sign_in(options: SessionOptions) -> Session:
    endpoint = resolve_endpoint(options.endpoint, options.url)
    account = sign_in(options.project, options.service_account) if endpoint.trusted else anonymous(options.project)
    transport = Transport(options.connections, options.timeout_s)
    ee.data.setMaxRetries(0)
    ee.data.setUserAgent(f"mmearth/{version('mmearth')}")
    ee.data.setDefaultWorkloadTag(WORKLOAD_TAG)

    def initialize() -> None:
        try:
            ee.Initialize(account.credentials, url=endpoint.url, project=account.project, http_transport=transport)
            _require_functions()
        except (UnknownApiNameOrVersion, InvalidJsonError) as error:
            problem = f"Expected a server that speaks the Earth Engine protocol at {endpoint.url}, got another."
            raise InputError(problem) from error
        except Exception as error:
            raise _stopping(classify(error)) from error

    backoff = replace(options.backoff, attempts=min(options.backoff.attempts, SIGN_IN_ATTEMPTS))
    with_retries(initialize, backoff, on_retry=report_wait)
    return Session(options, endpoint, account, transport)


def _require_functions() -> None:
    """Refuse an empty list of functions, from which the client cannot build an expression."""
    if not ee.ApiFunction._api:
        ee.Reset()  # otherwise, the client would keep objects without methods
        raise ValueError("expected the functions of Earth Engine, got none")


def _stopping(error: MMEarthError) -> MMEarthError:
    """Errors during sign-in concern the session, because there is no tile yet."""
    return InputError(f"Earth Engine refused to sign in: {error}") if isinstance(error, TileUnavailable) else error
