"""Limits of a request, and requests from clients that disconnect, are slow, or come from another host."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import ee
import numpy as np
import psutil
import pytest
import requests
from ee_world import post, refusal, sign_in
from emulator_process import RunningEmulator, emulator

from mmearth_data.emulator.algorithms.image import Grid, Image
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph import patterns
from mmearth_data.emulator.graph.registry import encode
from mmearth_data.emulator.graph.values import answered
from mmearth_data.emulator.server import output
from mmearth_data.emulator.server.output import stored
from mmearth_data.emulator.server.routes import MAX_REQUEST_BYTES
from mmearth_data.emulator.server.server import Emulator, EmulatorOptions
from mmearth_data.emulator.server.work import LONGEST_LIST, Work, working

MEMORY = "User memory limit exceeded."
GIGABYTE = 10**9


def of_itself(seed: Any, step: Callable[[Any], Any], times: int = 40) -> Any:
    """Result of doubling a value this many times, computed on the server."""
    for _ in range(times):
        seed = step(seed)
    return seed


EXPENSIVE: dict[str, Callable[[], Any]] = {
    "a billion numbers": lambda: ee.List.sequence(0, 1e9),
    "as many of one": lambda: ee.List.repeat(1, 10**9),
    "steps that are tiny": lambda: ee.List.sequence(0, 1, 1e-12),
    "a count of two billion": lambda: ee.List.sequence(0, 1, None, 2**31 - 1),
    "one list over and over": lambda: of_itself(ee.List([0]), lambda v: ee.List([v, v])),
    "a list of lists, in a row": lambda: ee.List.repeat(ee.List.repeat(0, 10**5), 10**5).flatten(),
    "a list of lists, as it is": lambda: ee.List.repeat(ee.List.repeat(0, 10**5), 10**5),
    "a text joined to itself": lambda: of_itself(ee.String("x" * 64), lambda v: v.cat(v)),
    "a text for every letter": lambda: ee.String("x" * 1000).replace("x", "y" * 10**5, "g"),
    "a billion points": lambda: ee.FeatureCollection.randomPoints(ee.Geometry.Rectangle([0, 0, 1, 1]), 10**9).size(),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningEmulator]:
    with emulator(seed=7) as running:
        sign_in(running.url)
        ee.Number(1).getInfo()
        yield running


@pytest.mark.parametrize("name", EXPENSIVE)
def test_what_would_fill_the_memory_is_refused_at_once(server: RunningEmulator, name: str) -> None:
    sign_in(server.url)
    expression = EXPENSIVE[name]()
    before = psutil.Process(server.pid).cpu_times()
    assert refusal(expression) == MEMORY
    after = psutil.Process(server.pid).cpu_times()
    memory = psutil.Process(server.pid).memory_info().rss
    assert after.user + after.system - before.user - before.system < 1
    assert memory < GIGABYTE
    assert ee.Number(1).add(1).getInfo() == 2


def test_numbers_stay_numbers_and_patterns_short(earth: str) -> None:
    assert of_itself(ee.Number(3), lambda v: v.multiply(v)).getInfo() == "Infinity"
    assert ee.Number(10).pow(1e9).getInfo() == "Infinity"
    assert ee.Number(2).pow(53).add(1).getInfo() == 2**53 + 1
    assert ee.Number(1).leftShift(65).getInfo() == 2  # shifts wrap around at 64 bits, as in Java
    assert "Invalid format pattern" in refusal(ee.Number(1).format("%0999999999d"))


@pytest.mark.parametrize("regex", ["(a+)+[bc]", "((a{1,5}){1,5}){1,9}[bc]", "(?:[ab]*)*[cd]", "(a|aa)+$b"])
def test_patterns_that_take_exponential_time_do_not_hold_up_the_server(
    earth: str, regex: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other implementations try for days is answered within bounded time: no match, or a refusal."""
    monkeypatch.setattr(patterns, "LONGEST_MATCH_S", 0.1)
    long = "a" * 40
    for ask, nothing in (
        (ee.String(long).match(regex), []),
        (ee.String(long).replace(regex, "x"), long),
        (ee.String(long).split(regex), [long]),
        (ee.Image(1).rename(long).regexpRename(regex, "x").bandNames(), [long]),
    ):
        try:
            answer = ask.getInfo()
        except ee.EEException as error:
            assert "in bounded time" in str(error)  # noqa: PT017 - either is right
        else:
            assert answer == nothing
    assert ee.String("aab").match("(a+)+b").getInfo() == ["aab", "aa"]


def test_a_match_that_takes_too_long_is_refused(earth: str) -> None:
    assert "in bounded time" in refusal(ee.String("ab" * 5000).match("(?:(?:a|b|ab)*)*(?:c|d)$"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: ee.String("a").match("a["),
        lambda: ee.Image([1, 2]).select("B[").bandNames(),
        lambda: ee.Image([1, 2]).regexpRename("(", "x").bandNames(),
        lambda: ee.Dictionary({"a": 1}).select(["a["]),
    ],
)
def test_patterns_that_are_none_are_refused(earth: str, ask: Callable[[], Any]) -> None:
    assert "Invalid regular expression" in refusal(ask())


def test_groups_that_a_pattern_lacks_are_refused(earth: str) -> None:
    assert "No such group" in refusal(ee.String("abc").replace("b", "$9"))


def test_what_the_emulator_does_not_describe_is_refused(earth: str) -> None:
    assert "Filter: Earth Engine describes it" in refusal(ee.Filter.eq("a", 1))


def test_lists_up_to_the_limit_are_answered(earth: str) -> None:
    assert ee.List.sequence(1, LONGEST_LIST).size().getInfo() == LONGEST_LIST
    assert refusal(ee.List.sequence(1, LONGEST_LIST + 2).size()) == MEMORY
    assert ee.List.sequence(0, 4000).iterate(lambda k, past: ee.List(past).add(k), []).getInfo()[-1] == 4000


def test_what_is_encoded_counts() -> None:
    row = [0] * 1000
    assert answered([row, row]) == [row, row]
    with pytest.raises(EmulatorError, match="memory"):
        answered([[row] * 1000] * 1000)
    with working(Work()), pytest.raises(EmulatorError, match="memory"):
        encode([["x" * 1000] * 1000] * 100)


# ---------------------------------------------------------------- time, and clients that disconnect


def endless() -> dict[str, Any]:
    """Body of a request that takes hours: a list of lists, each element of which is visited."""
    rows = ee.List.repeat(ee.List.sequence(0, 900_000), 10**4)
    return {"expression": ee.serializer.encode(rows.map(lambda row: ee.List(row).map(lambda v: ee.Number(v).add(1))))}


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


def test_what_takes_too_long_gives_its_turn_and_its_memory_back() -> None:
    with Emulator(EmulatorOptions(compute_s=0.3)) as running:
        sign_in(running.url)
        answer = post(running.url, "value:compute", endless())
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "Computation timed out."
        assert running.service._turn.acquire(blocking=False)
        running.service._turn.release()
        assert running.ledger.report()["in_flight"] == 0


@pytest.mark.parametrize("waiting", [1, 8])
def test_work_stops_when_the_client_leaves(waiting: int) -> None:
    """Waiting requests leave the queue too."""
    with Emulator() as running:
        sign_in(running.url)
        body = endless()

        def ask() -> None:
            with pytest.raises(requests.exceptions.ReadTimeout):
                requests.post(f"{running.url}/v1/projects/p/value:compute", json=body, timeout=0.5)

        threads = [threading.Thread(target=ask) for _ in range(waiting)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert within(20, lambda: running.ledger.report()["in_flight"] == 0)
        assert running.ledger.report()["status"]["lost"] == waiting


def test_pixels_stop_when_the_client_leaves() -> None:
    with Emulator() as running:
        sign_in(running.url)
        scenes = ee.ImageCollection("COPERNICUS/S2_HARMONIZED").filterBounds(ee.Geometry.Point([8.5, 47.3]))
        body = {
            "expression": ee.serializer.encode(scenes.filterDate("2018-05-01", "2018-08-01").select("B4").median()),
            "fileFormat": "NPY",
            "grid": {
                "dimensions": {"width": 2048, "height": 2048},
                "affineTransform": {"scaleX": 10, "translateX": 460000, "scaleY": -10, "translateY": 5240000},
                "crsCode": "EPSG:32632",
            },
        }
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.post(f"{running.url}/v1/projects/p/image:computePixels", json=body, timeout=0.5)
        assert within(20, lambda: running.ledger.report()["in_flight"] == 0)
        assert running.ledger.report()["status"]["lost"] == 1


def test_large_grids_are_computed_in_parts_that_fit_together(monkeypatch: pytest.MonkeyPatch, earth: str) -> None:
    from mmearth_data.emulator.graph.evaluate import Request
    from mmearth_data.planet.planet import planet

    context = Request(planet(7))
    dem = context.call("Image.load", id="projects/sat-io/open-datasets/ASTER/GDEM")
    slope = context.call("Terrain.slope", input=dem)
    smooth = context.call("Image.resample", image=dem, mode="bilinear")
    for image in (dem, slope, smooth):
        assert isinstance(image, Image)
        grid = Grid(dem.bands[0].projection, 190 * 3600, 43 * 3600, 40, 40)
        whole = stored(image.bands[0], grid)
        monkeypatch.setattr(output, "BLOCK_PIXELS", 300)
        np.testing.assert_array_equal(stored(image.bands[0], grid), whole)
        monkeypatch.undo()


# ---------------------------------------------------------------- connections


def talk(url: str, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send parts unchanged; return everything received until the server closes."""
    where = urlsplit(url)
    with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=30) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except ConnectionError:
                break
            time.sleep(pause_s)
        heard = b""
        try:
            while part := connection.recv(65536):
                heard += part
        except ConnectionError:
            pass
        return heard


HOST = b"Host: 127.0.0.1\r\n"
ASK = b"POST /v1/projects/p/value:compute HTTP/1.1\r\n"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_only_names_of_this_machine_are_answered(earth: str, host: str) -> None:
    answer = requests.get(f"{earth}/v1/projects/p/algorithms", headers={"Host": host}, timeout=60)
    assert answer.status_code == 403
    assert "is not this machine" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "LOCALHOST", "[::1]:80", "127.1.2.3:9"])
def test_names_of_this_machine_are_answered(earth: str, host: str) -> None:
    document = requests.get(f"{earth}/$discovery/rest", headers={"Host": host}, timeout=60)
    assert document.json()["rootUrl"] == f"http://{host}/"


def test_a_request_without_a_host_is_refused(earth: str) -> None:
    assert b" 403 " in talk(earth, b"GET /v1/projects/p/algorithms HTTP/1.0\r\n\r\n").splitlines()[0]


def test_a_slow_request_ends() -> None:
    one = json.dumps({"expression": {"result": "0", "values": {"0": {"constantValue": 1}}}}).encode()
    head = ASK + HOST + b"Content-Length: %d\r\n\r\n" % len(one)
    with Emulator(EmulatorOptions(request_s=0.5)) as running:
        started = time.monotonic()
        assert talk(running.url, *(bytes([b]) for b in head[:40]), pause_s=0.05) == b""  # headers, byte by byte
        assert time.monotonic() - started < 15
        heard = talk(running.url, head, *(bytes([b]) for b in one[:20]), pause_s=0.05)
        assert b" 408 " in heard.splitlines()[0]
        assert post(running.url, "value:compute", json.loads(one)).json() == {"result": 1}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: twelve\r\n", 400),
        (b"Content-Length: 99999999999\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", 411),
    ],
)
def test_a_body_has_a_length_within_bounds(earth: str, headers: bytes, status: int) -> None:
    with socket.create_connection((urlsplit(earth).hostname, urlsplit(earth).port), timeout=30) as connection:
        connection.sendall(ASK + HOST + headers + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).splitlines()[0].split()[1] == str(status).encode()


def test_a_body_that_is_too_long_is_refused_in_the_services_words(earth: str) -> None:
    url = f"{earth}/v1/projects/p/value:compute"
    for body, headers in (
        (b"[" + b" " * MAX_REQUEST_BYTES + b"]", {}),
        (gzip.compress(b" " * 10**8, 1), {"Content-Encoding": "gzip"}),
    ):
        answer = requests.post(url, data=body, headers=headers, timeout=60)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "Request payload size exceeds the limit: 10485760 bytes."
