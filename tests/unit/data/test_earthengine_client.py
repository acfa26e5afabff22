"""Limits, retries, sign-in and endpoint of the Earth Engine source, without any server."""

from __future__ import annotations

import io
import math
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.auth.exceptions
import httplib2
import numpy as np
import pytest
from ee.ee_exception import EEException
from googleapiclient.errors import HttpError
from hypothesis import given
from hypothesis import strategies as st

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.errors import EXIT_INPUT, FileInputError, InputError, MMEarthError, RetryLater, TileUnavailable
from mmearth_data.sources.earthengine import credentials
from mmearth_data.sources.earthengine.endpoint import resolve_endpoint
from mmearth_data.sources.earthengine.estimate import estimate
from mmearth_data.sources.earthengine.failures import (
    LONGEST_ASKED_S,
    AccessRefused,
    SignInMissing,
    Throttled,
    TooDear,
    TooManyAggregations,
    TooMuch,
    classify,
    retry_after_s,
)
from mmearth_data.sources.earthengine.ledger import Ledger
from mmearth_data.sources.earthengine.pixels import array_of
from mmearth_data.sources.earthengine.quota import LocalLimiter
from mmearth_data.sources.earthengine.retry import Backoff, LongWaits, with_retries
from mmearth_data.sources.earthengine.stopping import Stopped, StopSwitch
from mmearth_data.sources.earthengine.transport import Transport
from mmearth_data.store.ledger import merge_ledgers, read_ledger, write_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

# ---------------------------------------------------------------- transport, pixels


class _Counting(ThreadingHTTPServer):
    daemon_threads = True
    connections = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_connections_stay_open_from_one_request_to_the_next() -> None:
    with _Counting(("127.0.0.1", 0), _Quiet) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        transport = Transport(4, timeout_s=5)
        for _ in range(5):
            transport.widen(4)
            assert transport.request(f"http://127.0.0.1:{server.server_address[1]}/")[1] == b"ok"
        transport.close()
        server.shutdown()
    assert server.connections == 1


class _Dripping(_Quiet):
    """Answers a byte every tenth of a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "30")
        self.end_headers()
        with suppress(OSError):  # the client has left
            for _ in range(30):
                self.wfile.write(b"x")
                time.sleep(0.1)


@contextmanager
def dripping(timeout_s: float) -> Iterator[tuple[Transport, str]]:
    """Transport, and the URL of a slow answer, each byte of which is in time."""
    with _Counting(("127.0.0.1", 0), _Dripping) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        transport = Transport(4, timeout_s=timeout_s)
        yield transport, f"http://127.0.0.1:{server.server_address[1]}/"
        transport.close()
        server.shutdown()


def test_a_request_ends_at_its_deadline_however_its_answer_arrives() -> None:
    with dripping(timeout_s=0.5) as (transport, url):
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no complete answer in 0\.5 s"):
            transport.request(url)
        assert time.monotonic() - start < 2
    with dripping(timeout_s=30) as (transport, url):
        assert transport.request(url)[1] == 30 * b"x"


def test_a_switch_ends_all_waits() -> None:
    """A request, a turn in restricted mode, an even start, a pause for all, and a wait before the next attempt."""
    busy, slow, paused = LocalLimiter(1), LocalLimiter(4, per_second=0.01), LocalLimiter(4, first_pause_s=60)
    for _ in range(40):
        paused.throttled(None)

    def wait_in(limiter: LocalLimiter) -> None:
        with limiter.slot():
            pass

    def sleep(switch: StopSwitch) -> None:
        with_retries(_throttled, Backoff(), sleep=switch.sleep)

    def ask(switch: StopSwitch) -> None:
        with transport.stopped_by(switch):
            transport.request(url)

    switch = StopSwitch()
    for limiter in (busy, slow, paused):
        limiter.switch = switch
    with dripping(timeout_s=60) as (transport, url), busy.slot(), slow.slot(), ThreadPoolExecutor(5) as pool:
        waits = [pool.submit(wait_in, limiter) for limiter in (busy, slow, paused)]
        waits += [pool.submit(sleep, switch), pool.submit(ask, switch)]
        assert not wait(waits, timeout=0.5).done
        start = time.monotonic()
        switch.set()
        assert {type(each.exception()) for each in waits} == {Stopped}
        assert time.monotonic() - start < 2
        with pytest.raises(Stopped), slow.slot():
            pass


def _throttled() -> str:
    raise RetryLater("HTTP 429: slow down", 60.0)


NAMES = st.lists(st.text("abcXYZ_09", min_size=1, max_size=12), min_size=1, max_size=40, unique=True)


@given(NAMES, st.sampled_from(["<u2", ">i4", "|u1", "<f8"]), st.integers(1, 5), st.booleans())
def test_npy_answers_are_read_as_numpy_reads_them(names: list[str], kind: str, size: int, columns_first: bool) -> None:
    pixels = np.zeros((size, size + 1), [(name, kind) for name in names], order="F" if columns_first else "C")
    for k, name in enumerate(names):
        pixels[name] = np.arange(pixels.size).reshape(pixels.shape) + k
    body = io.BytesIO()
    np.save(body, pixels)
    content = body.getvalue()
    for _ in range(2):
        found = array_of(content)
        assert found.dtype == pixels.dtype
        assert np.array_equal(found, pixels)
    for damaged in (content[:-1], content + b"0", content[:20], b"PNG" + content, b""):
        with pytest.raises(ValueError):  # noqa: PT011 - numpy words them
            array_of(damaged)


# ---------------------------------------------------------------- endpoint


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:port",
        "http://[::1",
        "https://two words",
        "https://*",
        "https://example.org/#part",
        "https://example.org/?query=1",
    ],
)
def test_what_is_no_url_of_a_server_is_bad_input(url: str) -> None:
    with pytest.raises(InputError, match=r"--ee-url: expected a URL such as https://HOST"):
        resolve_endpoint(url=url)


def test_only_the_services_own_domain_is_trusted() -> None:
    assert resolve_endpoint().url == "https://earthengine-highvolume.googleapis.com"
    assert resolve_endpoint("standard").url == "https://earthengine.googleapis.com"
    assert resolve_endpoint(url="https://earthengine.googleapis.com/").trusted
    for url in (
        "http://127.0.0.1:8080",
        "http://localhost:1",
        "http://[::1]:80",
        "https://example.org",
        "https://earthengine.googleapis.com.example.org",
        "https://googleapis.com.evil.example",
        "https://earthengine.googleapis.com:8443",
    ):
        assert not resolve_endpoint(url=url).trusted, url


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "http://10.0.0.1:80", "http://127.0.0.1.example.org", "ftp://127.0.0.1", "127.0.0.1:80", ""],
)
def test_plain_http_goes_to_this_machine_only(url: str) -> None:
    with pytest.raises(InputError, match="--ee-url"):
        resolve_endpoint(url=url)


# ---------------------------------------------------------------- limiter


def test_requests_in_flight_never_exceed_the_limit() -> None:
    limiter, busy, most, lock = LocalLimiter(3, 10_000), 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal busy, most
        with limiter.slot():
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.002)
            with lock:
                busy -= 1

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(60)))
    assert most == 3


def test_no_second_holds_more_starts_than_allowed() -> None:
    limiter, starts, lock = LocalLimiter(50, 40), [], threading.Lock()

    def work(_: int) -> None:
        with limiter.slot(), lock:
            starts.append(time.monotonic())

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(60)))
    starts.sort()
    assert max(sum(1 for s in starts if start <= s < start + 1) for start in starts) <= 40
    assert starts[-1] - starts[0] < 2.5, "the limit is used"


def test_restricted_mode_lowers_the_limit_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    limiter = LocalLimiter(40, 10_000, restricted_in_flight=2)
    for _ in range(3):
        limiter.restrict()
    assert limiter.in_flight_limit == 2
    assert len(caplog.records) == 1
    assert "restricted mode" in caplog.text


def test_a_storm_of_refusals_pauses_everybody_and_some_refusals_do_not(caplog: pytest.LogCaptureFixture) -> None:
    limiter = LocalLimiter(4, 10_000, first_pause_s=0.2)
    for k in range(200):
        limiter.throttled(None) if k % 5 == 0 else limiter.succeeded()
    start = time.monotonic()
    with limiter.slot():
        assert time.monotonic() - start < 0.1, "20 % of refusals is no storm"
    for _ in range(40):
        limiter.throttled(None)
    start = time.monotonic()
    with limiter.slot():
        assert time.monotonic() - start >= 0.15
    assert "pausing all" in caplog.text


# ---------------------------------------------------------------- retry


def test_waits_grow_with_full_jitter_and_honour_the_services_wish() -> None:
    backoff = Backoff(first_s=1, longest_s=8)
    for attempt, most in ((1, 1), (2, 2), (3, 4), (4, 8), (9, 8)):
        waits = [backoff.wait_s(attempt, None) for _ in range(300)]
        assert 0 <= min(waits) < 0.1 * most
        assert 0.9 * most < max(waits) <= most
    assert all(30 <= backoff.wait_s(1, 30.0) <= 31 for _ in range(50))


def test_it_asks_again_until_there_is_an_answer_or_no_attempt_left() -> None:
    failures = [RetryLater("HTTP 503: busy"), RetryLater("HTTP 429: slow down", 7.0)]
    waits: list[float] = []

    def ask() -> str:
        if failures:
            raise failures.pop(0)
        return "pixels"

    assert with_retries(ask, Backoff(), sleep=waits.append) == "pixels"
    assert len(waits) == 2
    assert waits[1] >= 7

    def never() -> str:
        raise RetryLater("HTTP 503: busy")

    with pytest.raises(RetryLater, match=r"3 attempts.*busy.*same command"):
        with_retries(never, Backoff(attempts=3), sleep=waits.append)


def test_a_long_wait_is_reported_once_for_all_threads_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    report, error = LongWaits(), RetryLater("HTTP 429: slow down", 60.0)
    report(error, 3.0)
    assert not caplog.records
    for wait_s in (60.0, 45.0, 60.0):
        report(error, wait_s)
    (record,) = caplog.records
    assert "HTTP 429: slow down; waiting 60 s, until " in record.getMessage()


# ---------------------------------------------------------------- failures


def answered(status: int, words: str, **headers: str) -> EEException:
    """What the client raises for an error answer: the words, and the HTTP error behind it."""
    body = f'{{"error": {{"code": {status}, "message": "{words}", "status": "X"}}}}'.encode()
    resp = httplib2.Response({"status": status, "content-type": "application/json", **headers})
    behind = HttpError(resp, body)
    error = EEException(behind._get_reason())
    error.__context__ = behind
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (answered(429, "Too many concurrent aggregations."), TooManyAggregations, "Too many"),
        (answered(429, "Quota exceeded for quota metric 'Requests'."), Throttled, "Quota exceeded"),
        (answered(500, "An internal error has occurred."), RetryLater, "internal"),
        (answered(503, "The service is currently unavailable."), RetryLater, "503"),
        (answered(504, "Deadline"), RetryLater, "504"),
        (ConnectionError("Connection reset by peer"), RetryLater, "reset"),
        (TimeoutError("no complete answer in 3 s"), RetryLater, "3 s"),
        (ValueError("bad magic string"), RetryLater, "undecodable"),
        (answered(400, "Computation timed out."), TooDear, "timed out"),
        (answered(400, "User memory limit exceeded."), TooDear, "memory"),
        (
            answered(400, "Total request size (60000000 bytes) must be less than or equal to 50331648 bytes."),
            TooMuch,
            "50331648",
        ),
        (answered(400, "Image.select: Band pattern 'B99' did not match any bands."), TileUnavailable, "B99"),
        (answered(404, "Image.load: Image asset 'x' not found."), TileUnavailable, "not found"),
        (answered(401, "Request had invalid authentication credentials."), AccessRefused, "earthengine authenticate"),
        (google.auth.exceptions.RefreshError("Token has been expired or revoked."), AccessRefused, "authenticate"),
        (
            answered(403, "Google Earth Engine API has not been used in project 1 before or it is disabled."),
            AccessRefused,
            "enable the Earth Engine API",
        ),
        (
            answered(403, "Project 'p' is not registered to use Earth Engine."),
            AccessRefused,
            "register the project",
        ),
        (
            answered(403, "Noncommercial eligibility of the project could not be verified."),
            AccessRefused,
            "verify the project",
        ),
        (answered(403, "Permission denied."), AccessRefused, "--ee-project"),
    ],
)
def test_failures_are_sorted_by_remedy(error: Exception, kind: type[MMEarthError], words: str) -> None:
    found = classify(error)
    assert type(found) is kind
    assert words in str(found)
    assert "\n" not in str(found)
    again = pickle.loads(pickle.dumps(found))
    assert (type(again), str(again)) == (type(found), str(found))


def test_access_refused_ends_with_the_code_for_input() -> None:
    assert classify(answered(401, "x")).exit_code == EXIT_INPUT


def test_retry_after_is_a_number_or_a_date() -> None:
    found = classify(answered(429, "x", **{"retry-after": "17"}))
    assert isinstance(found, RetryLater)
    assert found.wait_s == 17
    in_a_minute = retry_after_s(formatdate(time.time() + 60, usegmt=True))
    assert in_a_minute is not None
    assert 55 < in_a_minute <= 60
    sent, later = (formatdate(at, usegmt=True) for at in (1_500_000_000, 1_500_000_042))
    dated = classify(answered(503, "x", **{"retry-after": later, "date": sent}))
    assert isinstance(dated, RetryLater)
    assert dated.wait_s == 42, "by the server's clock, whatever ours says"
    assert retry_after_s("soon") is None
    assert retry_after_s("") is None


@pytest.mark.parametrize("header", ["86400", "1000000000", 400 * "9", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_of_days_is_cut_short(header: str) -> None:
    assert retry_after_s(header) == LONGEST_ASKED_S == 600


@pytest.mark.parametrize(
    "header", ["inf", "-inf", "nan", "1e9", "-5", "1_000", "Fri, 31 Dec 99999 23:59:59 GMT", "Fri"]
)
def test_a_retry_after_that_is_neither_decimal_digits_nor_a_date_is_none(header: str) -> None:
    """RFC 9110, section 10.2.3: delay-seconds = 1*DIGIT."""
    assert retry_after_s(header) is None


# ---------------------------------------------------------------- sign-in


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Home folder of a user who never signed in."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", *credentials.PROJECT_VARIABLES, *credentials.GOOGLE_MACHINE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    return tmp_path


def test_missing_credentials_are_told_with_three_ways_and_the_synthetic_one(nobody: Path) -> None:
    start = time.monotonic()
    with pytest.raises(SignInMissing) as caught:
        credentials.sign_in(None, None)
    assert time.monotonic() - start < 1
    for way in ("earthengine authenticate", "gcloud auth", "--service-account", "--source synthetic"):
        assert way in str(caught.value)


def test_tokens_and_project_are_found_where_they_lie(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nobody / ".config" / "earthengine"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text('{"refresh_token": "r", "project": "from-the-tokens"}')
    assert credentials.sign_in(None, None).project == "from-the-tokens"
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-the-cloud")
    assert credentials.sign_in(None, None).project == "from-the-cloud"
    monkeypatch.setenv("EARTHENGINE_PROJECT", "from-the-environment")
    assert credentials.sign_in(None, None).project == "from-the-environment"
    assert credentials.sign_in("from-the-option", None).project == "from-the-option"
    (folder / "credentials").write_text('{"refresh_token": "r"}')
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    monkeypatch.delenv("EARTHENGINE_PROJECT")
    with pytest.raises(SignInMissing, match="--ee-project"):
        credentials.sign_in(None, None)


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text("{}")
    with pytest.raises(InputError, match=r"key\.json"):
        credentials.sign_in("p", key)
    with pytest.raises(InputError, match=r"absent\.json"):
        credentials.sign_in("p", tmp_path / "absent.json")


NO_OBJECT = ("[]", "null", "5", '"text"', "{", "", "\x00")


@pytest.mark.parametrize("content", [*NO_OBJECT, '{"client_email": 5, "token_uri": 6, "private_key": 7}'])
def test_a_key_file_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text(content)
    with pytest.raises(FileInputError, match=r"key\.json: expected the key file of a service account") as caught:
        credentials.sign_in("p", key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        *NO_OBJECT,
        '{"refresh_token": 5}',
        '{"refresh_token": "r", "scopes": [5]}',
        '{"refresh_token": "r", "project": ["p"]}',
    ],
)
def test_tokens_that_cannot_be_used_are_named_instead_of_not_found(content: str, nobody: Path) -> None:
    tokens = nobody / ".config" / "earthengine" / "credentials"
    tokens.parent.mkdir(parents=True)
    tokens.write_text(content)
    with pytest.raises(FileInputError, match=r"earthengine/credentials: expected the tokens.*authenticate --force"):
        credentials.sign_in("p", None)


@pytest.mark.parametrize("content", [*NO_OBJECT, '{"type": "impersonated_service_account"}', '{"type": 5}'])
def test_application_default_credentials_that_cannot_be_used_are_named(
    content: str, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = nobody / "default.json"
    default.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(default))
    with pytest.raises(InputError, match=r"Expected application default credentials.*default\.json") as caught:
        credentials.sign_in("p", None)
    assert "found none" not in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- ledger, estimate


def test_ledgers_of_several_runs_add_up(tmp_path: Path) -> None:
    first, second = Ledger(), Ledger()
    for ledger, reason in ((first, "sentinel2_missing"), (second, "sentinel2_nodata")):
        ledger.request("value:compute", sent_bytes=10, received_bytes=20, seconds=0.5)
        ledger.retry("HTTP 429", 2.0)
        ledger.rejection(reason)
    write_ledger(tmp_path, "a", first.to_dict())
    write_ledger(tmp_path, "b", first.to_dict())
    write_ledger(tmp_path, "b", second.to_dict())
    (tmp_path / "_ledger" / "c.json").write_text("{broken")
    assert read_ledger(tmp_path) == {
        "requests": {"value:compute": 2},
        "retries": {"HTTP 429": 2},
        "rejections": {"sentinel2_missing": 1, "sentinel2_nodata": 1},
        "sent_bytes": 20,
        "received_bytes": 40,
        "seconds": 1.0,
        "waited_s": 4.0,
    }
    assert read_ledger(tmp_path / "absent") is None
    assert merge_ledgers([]) == {}


def test_the_estimate_follows_its_formula() -> None:
    modalities = load_catalog().select(["sentinel2", "era5"])
    found = estimate(1000, 64, modalities, in_flight=40, per_second=100, latency_s=2.0, eecu_per_tile=3.6)
    assert found["requests"] == {"value:compute": 50, "image:computePixels": 1000, "total": 1050}
    assert found["download_bytes"] == 1000 * 13 * 64 * 64 * 2
    assert found["hours"] == pytest.approx(max(1050 / 100, 1050 * 2 / 40) / 3600, abs=1e-4)
    assert found["eecu_hours"] == 1.0
    table: dict[str, Any] = estimate(1000, 64, modalities, in_flight=40, per_second=100)
    assert set(table["eecu_hours"]) == {"1", "5", "20"}
    assert "workload tag" in table["how_to_measure"]


# ---------------------------------------------------------------- random numbers


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**20))
def test_the_draw_taken_in_halves_is_exact_in_double_precision(bits: int, count: int) -> None:
    """The service computes in doubles: what the survey's expression does, step by step."""
    high, low = float(bits // 2**32), float(bits % 2**32)
    carried = math.floor(low * count / 2**32)
    assert math.floor((high * count + carried) / 2**32) == (bits * count) >> 64
