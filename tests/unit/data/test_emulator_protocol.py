"""What goes over the wire: documents, checks against the signatures, errors and statuses, limits, faults, the ledger."""

from __future__ import annotations

import gzip
import http.client
import inspect
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import ee
import pytest
import requests
from ee_world import post, refusal, status_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mmearth_data.emulator.errors import MAX_BYTES, too_large
from mmearth_data.emulator.graph.client_files import algorithms
from mmearth_data.emulator.graph.evaluate import Request
from mmearth_data.emulator.graph.library import implementation
from mmearth_data.emulator.graph.registry import FUNCTIONS, Implementation
from mmearth_data.emulator.graph.signatures import signatures
from mmearth_data.emulator.server.faults import KINDS, Fault, Troublemaker, parse_fault
from mmearth_data.emulator.server.ledger import Ledger
from mmearth_data.emulator.server.profiles import ANSWERED, ASKED, HEADING
from mmearth_data.emulator.server.server import Emulator, EmulatorOptions
from mmearth_data.errors import InputError
from mmearth_data.planet.planet import planet
from mmearth_data.sources.earthengine.profiles import eecu_seconds

ONE = {"expression": {"result": "0", "values": {"0": {"constantValue": 1}}}}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """Body that calls an algorithm, as no client would let one."""
    nodes = {key: {"constantValue": value} for key, value in arguments.items()}
    invocation = {"functionInvocationValue": {"functionName": name, "arguments": nodes}}
    return {"expression": {"result": "0", "values": {"0": invocation}}}


def answered(url: str, body: dict[str, Any]) -> tuple[int, str]:
    """(status, message) of a refusal."""
    answer = post(url, "value:compute", body)
    return answer.status_code, answer.json()["error"]["message"]


# ---------------------------------------------------------------- documents


def test_documents_are_the_clients_own_and_point_back(earth: str) -> None:
    document = requests.get(f"{earth}/$discovery/rest?version=v1alpha", timeout=60).json()
    assert document["rootUrl"] == document["baseUrl"] == document["mtlsRootUrl"] == f"{earth}/"
    for version in ("v1", "v1alpha"):
        listed = requests.get(f"{earth}/{version}/projects/any/algorithms", timeout=60).json()
        assert listed == algorithms()
    assert len(signatures()) == 991


def test_every_algorithm_that_is_entered_exists_with_these_arguments() -> None:
    assert implementation("Number.add") is FUNCTIONS["Number.add"]
    for name, entered in FUNCTIONS.items():
        assert name in signatures(), name
        declared = {argument.name: argument for argument in signatures()[name].arguments}
        parameters = inspect.signature(entered.function).parameters
        named = [p for p in parameters.values() if p.kind is not p.VAR_KEYWORD and p.name != "context"]
        needed = {p.name for p in named if p.default is p.empty}
        assert set(entered.takes) <= set(declared), name
        assert {parameter.rstrip("_") for parameter in needed} <= set(declared), name


def test_an_optional_argument_that_is_left_out_is_null() -> None:
    entered = Implementation("probe", lambda from_, to: (from_, to), {"from": "from_", "to": "to"})
    assert entered(Request(planet(0)), {"to": 1}) == (None, 1)


def test_every_answer_carries_the_mark(earth: str) -> None:
    for answer in (
        requests.get(f"{earth}/emulator/ledger", timeout=60),
        requests.get(f"{earth}/v1/nowhere", timeout=60),
        post(earth, "value:compute", ONE),
        post(earth, "value:compute", {}),
    ):
        assert answer.headers["x-mmearth-emulator"]


def test_a_failure_of_the_emulator_closes_the_connection_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(EmulatorOptions(seed=7)) as broken, requests.Session() as client:
        monkeypatch.setattr(broken, "answer", lambda handler, call: 1 // 0)
        answer = client.post(f"{broken.url}/v1/projects/p/value:compute", json=ONE, timeout=60)
        assert answer.status_code == 500
        assert answer.headers["Connection"] == "close"
        monkeypatch.undo()
        assert client.post(f"{broken.url}/v1/projects/p/value:compute", json=ONE, timeout=60).status_code == 200


def test_connections_stay_open_and_bodies_may_be_zipped(earth: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(earth).netloc, timeout=60)
    long = {"expression": {"result": "0", "values": {"0": {"constantValue": "x" * 5000}}}}
    sockets = set()
    for _ in range(3):
        headers = {"Accept-Encoding": "gzip", "Content-Encoding": "gzip"}
        connection.request("POST", "/v1/projects/p/value:compute", gzip.compress(json.dumps(long).encode()), headers)
        answer = connection.getresponse()
        assert answer.headers["Content-Encoding"] == "gzip"
        assert json.loads(gzip.decompress(answer.read())) == {"result": "x" * 5000}
        sockets.add(id(connection.sock))
    assert len(sockets) == 1
    connection.close()


# ---------------------------------------------------------------- signatures


def test_an_unknown_function_is_refused(earth: str) -> None:
    assert answered(earth, call("Number.divideEt", left=1)) == (400, "Unknown function: 'Number.divideEt'.")


def test_a_function_that_is_not_emulated_says_so(earth: str) -> None:
    status, words = answered(earth, call("Classifier.smileCart"))
    assert status == 400
    assert words == "Classifier.smileCart: Earth Engine has this function; the emulator does not."


def test_a_missing_argument_is_refused(earth: str) -> None:
    expected = (400, "Number.add: Parameter 'right' is required and may not be null.")
    assert answered(earth, call("Number.add", left=1)) == expected
    assert answered(earth, call("Number.add", left=1, right=None)) == expected


def test_an_unknown_argument_is_refused(earth: str) -> None:
    status, words = answered(earth, call("Number.add", left=1, right=2, middle=3))
    assert (status, "'middle'" in words) == (400, True)


@pytest.mark.parametrize(
    ("name", "arguments", "argument", "expected", "actual"),
    [
        ("Number.add", {"left": "x", "right": 1}, "left", "Number", "String"),
        ("List.get", {"list": [1], "index": 0.5}, "index", "Integer", "Float"),
        ("List.get", {"list": 3, "index": 0}, "list", "List<Object>", "Integer"),
        ("String.length", {"string": 5}, "string", "String", "Integer"),
        ("Collection.size", {"collection": "x"}, "collection", "FeatureCollection", "String"),
        ("Image.bandNames", {"image": "x"}, "image", "Image<unknown bands>", "String"),
        ("Filter.and", {"filters": [1]}, "filters", "List<Filter>", "List"),
    ],
)
def test_an_argument_of_another_type_is_refused(
    earth: str, name: str, arguments: dict[str, Any], argument: str, expected: str, actual: str
) -> None:
    status, words = answered(earth, call(name, **arguments))
    assert status == 400
    assert words.startswith(
        f"{name}, argument '{argument}': Invalid type.\nExpected type: {expected}.\nActual type: {actual}."
    )


def test_what_may_stand_for_a_type_is_taken(earth: str) -> None:
    assert ee.Number(True).add(1).getInfo() == 2
    assert ee.List([1, 2]).get(1.0).getInfo() == 2
    assert ee.Date(5).millis().getInfo() == 5
    assert ee.FeatureCollection(ee.Feature(None, {"a": 1})).size().getInfo() == 1


def test_errors_have_googles_body(earth: str) -> None:
    body = post(earth, "value:compute", call("Number.add", left=1)).json()["error"]
    assert body == {
        "code": 400,
        "message": "Number.add: Parameter 'right' is required and may not be null.",
        "status": "INVALID_ARGUMENT",
    }
    missing = requests.get(f"{earth}/v1/projects/p/assets/no/such", timeout=60)
    assert (missing.status_code, missing.json()["error"]["status"]) == (404, "NOT_FOUND")
    with pytest.raises(ee.EEException, match="not found"):
        ee.data.getAsset("projects/earthengine-public/assets/NO/SUCH")
    broken = requests.post(f"{earth}/v1/projects/p/value:compute", data=b"{", timeout=60)
    assert broken.status_code == 400


# ---------------------------------------------------------------- expressions


def test_a_shared_value_is_computed_once(earth: str) -> None:
    # 2^40 additions, were each reference computed anew.
    number = ee.Number(1)
    for _ in range(40):
        number = number.add(number)
    started = time.monotonic()
    assert number.getInfo() == 2**40
    assert time.monotonic() - started < 30


def test_functions_see_the_arguments_of_the_functions_around_them(earth: str) -> None:
    table = ee.List([1, 2]).map(
        lambda x: ee.List([10, 20]).map(lambda y: ee.List([100]).map(lambda z: ee.Number(x).add(y).add(z)))
    )
    assert table.getInfo() == [[[111], [121]], [[112], [122]]]


def test_only_the_branch_that_is_taken_is_computed(earth: str) -> None:
    wrong = ee.List([]).get(0)
    assert ee.Algorithms.If(True, "fine", wrong).getInfo() == "fine"
    assert "List index" in refusal(ee.Algorithms.If(False, "fine", wrong))


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
        max_leaves=8,
    )
)
def test_json_goes_there_and_back(value: Any) -> None:
    from mmearth_data.emulator.graph.registry import encode

    assert encode(value) == value


# ---------------------------------------------------------------- limits


def test_an_answer_above_48_mib_is_refused() -> None:
    assert MAX_BYTES == 50_331_648
    assert (
        str(too_large(60_000_000))
        == "Total request size (60000000 bytes) must be less than or equal to 50331648 bytes."
    )


def test_more_at_once_than_allowed_is_429_and_counted() -> None:
    options = EmulatorOptions(max_in_flight=2, latency_ms=300)
    with Emulator(options) as emulator, ThreadPoolExecutor(6) as pool:
        gate = threading.Barrier(6)

        def ask(_: int) -> int:
            gate.wait()
            return post(emulator.url, "value:compute", ONE).status_code

        found = sorted(pool.map(ask, range(6)))
        report = emulator.ledger.report()
    assert found.count(200) >= 2
    assert found.count(429) >= 1
    assert report["status"] == {str(code): found.count(code) for code in set(found)}
    assert report["max_in_flight"] > 2
    assert report["in_flight"] == 0


def test_more_a_second_than_allowed_is_429() -> None:
    with Emulator(EmulatorOptions(max_per_second=5)) as emulator:
        found = [post(emulator.url, "value:compute", ONE) for _ in range(8)]
    refused = [answer for answer in found if answer.status_code == 429]
    assert refused
    assert refused[0].json()["error"]["status"] == "RESOURCE_EXHAUSTED"


def test_the_ledger_counts_the_most_in_any_second() -> None:
    now = [0.0]
    ledger = Ledger(clock=lambda: now[0])
    for at in (0.0, 0.2, 0.9, 1.1, 1.15, 1.19, 3.0):
        now[0] = at
        ledger.begin("value:compute")
        ledger.end("200", 10)
    report = ledger.report()
    assert report["max_per_second"] == 5  # 0.2, 0.9, 1.1, 1.15, 1.19
    assert (report["max_in_flight"], report["bytes"]) == (1, 70)
    assert report["requests"] == {"value:compute": 7}


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("text", ["429", "418:0.1", "503:2", "503:x", "hang:-1"])
def test_a_fault_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--fault"):
        parse_fault(text)


def test_faults_come_at_their_rates() -> None:
    assert parse_fault("429:0.2") == Fault("429", 0.2)
    trouble = Troublemaker([Fault("429", 0.2), Fault("reset", 0.05)], seed=1)
    drawn = [trouble.draw() for _ in range(10_000)]
    assert drawn.count("429") == pytest.approx(2000, abs=4 * 40)
    assert drawn.count("reset") == pytest.approx(500, abs=4 * 22)
    assert Troublemaker([], 1).draw() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_looks_as_it_does_on_a_network(kind: str) -> None:
    with Emulator(EmulatorOptions(faults=(Fault(kind, 1.0),))) as emulator:
        url = f"{emulator.url}/v1/projects/p/value:compute"
        if kind.isdigit():
            answer = requests.post(url, json=ONE, timeout=60)
            assert answer.status_code == int(kind)
            assert answer.json()["error"]["code"] == int(kind)
        elif kind == "hang":
            with pytest.raises(requests.exceptions.ReadTimeout):
                requests.post(url, json=ONE, timeout=0.5)
        elif kind == "restricted":
            answer = requests.post(url, json=ONE, timeout=60)
            assert answer.json() == {"result": 1}
            assert answer.headers["x-earth-engine-quota-status"] == "parallelism_restricted=true"
        else:
            expected = {
                "truncate": requests.exceptions.ChunkedEncodingError,
                "reset": requests.exceptions.ConnectionError,
            }
            with pytest.raises(expected[kind]):
                requests.post(url, json=ONE, timeout=60)
        assert requests.get(f"{emulator.url}/v1/projects/p/algorithms", timeout=60).ok  # signing in has no faults
        deadline = time.monotonic() + 20
        while emulator.ledger.report()["in_flight"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert emulator.ledger.report()["faults"] == {kind: 1}


def test_latency_is_added_to_what_is_computed() -> None:
    with Emulator(EmulatorOptions(latency_ms=200)) as emulator:
        started = time.monotonic()
        assert post(emulator.url, "value:compute", ONE).ok
        assert time.monotonic() - started >= 0.2


def test_a_port_that_is_taken_is_refused_with_the_fix() -> None:
    with Emulator() as emulator, pytest.raises(InputError, match="--port: expected a free port"):
        Emulator(EmulatorOptions(port=int(emulator.url.rpartition(":")[2])))


def test_refusals_reach_the_client_with_their_status(earth: str) -> None:
    assert status_of(earth, ee.Number(1)) == 200
    assert status_of(earth, ee.Image("NO/SUCH")) in {400, 404}
    assert refusal(ee.Image("NO/SUCH")) == (
        "Image.load: Image asset 'NO/SUCH' not found (does not exist or caller does not have access). "
        "The emulator has no such asset; Earth Engine may have it."
    )


# ---------------------------------------------------------------- profiles


def test_the_clients_own_printer_gets_a_table(earth: str) -> None:
    printed = io.StringIO()
    with ee.profilePrinting(printed):
        assert ee.Number(1).add(2).getInfo() == 3
        assert ee.Number(2).add(2).getInfo() == 4
    heading, row = printed.getvalue().splitlines()
    assert heading == HEADING
    assert row.split()[2:] == ["2", "(plumbing)"]
    assert eecu_seconds(printed.getvalue()) == pytest.approx(float(row.split()[0]))


def test_only_who_asks_gets_a_profile_and_nobody_for_a_request_that_failed(earth: str) -> None:
    def header(body: object, **headers: str) -> str | None:
        answer = requests.post(f"{earth}/v1/projects/emulator/value:compute", json=body, headers=headers, timeout=60)
        return answer.headers.get(ANSWERED)

    assert header(ONE) is None
    assert header(ONE, **{ASKED: "1"})
    assert header({"expression": {"result": "0", "values": {}}}, **{ASKED: "1"}) is None
    call = {"functionName": "Profile.getProfiles", "arguments": {"ids": {"constantValue": ["none"]}}}
    refused = post(
        earth, "value:compute", {"expression": {"result": "0", "values": {"0": {"functionInvocationValue": call}}}}
    )
    assert refused.status_code == 400
    assert "Profile 'none' not found" in refused.json()["error"]["message"]
