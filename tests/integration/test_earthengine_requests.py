"""Requests of the Earth Engine source, and its reaction to refusals, through the real client and HTTP.

A proxy server records every request, and refuses those selected by a test, as the service might, or spoils their answers,
as a network might.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ee
import numpy as np
import pytest
import requests
from append_making import write_ecoregions
from click.testing import CliRunner
from store_making import digests

from mmearth_data import open_store, verify
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import Place, tile_ids
from mmearth_data.cli import cli
from mmearth_data.emulator.server.server import Emulator, EmulatorOptions
from mmearth_data.errors import InputError, RetryLater, TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.earthengine.quota import LocalLimiter
from mmearth_data.sources.earthengine.recipes import RECIPES
from mmearth_data.sources.earthengine.retry import Backoff
from mmearth_data.sources.earthengine.session import SessionOptions, close_session, open_session
from mmearth_data.sources.earthengine.source import EarthEngineSource
from mmearth_data.sources.earthengine.survey import SceneRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Refusal = Callable[[str, str], tuple[int, str] | None]
    Spoiler = Callable[["_Handler", bytes], bool]

SEED = 3
MIXED = "Expected a homogeneous image collection, but an image with an incompatible band was encountered."


class Between(ThreadingHTTPServer):
    """Forwards requests unless it refuses them; ``spoil`` may answer in another way than the server did."""

    daemon_threads = True
    to = ""
    refuse: Refusal = staticmethod(lambda path, body: None)
    spoil: Spoiler = staticmethod(lambda handler, content: False)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sent(self, what: str) -> list[str]:
        """Bodies (or paths, without a body) of the requests whose path ends with or contains a text."""
        return [body or path for path, body in self.seen if what in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Between

    def do_GET(self) -> None:
        self._pass_on("GET", b"")

    def do_POST(self) -> None:
        self._pass_on("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def _pass_on(self, method: str, body: bytes) -> None:
        text = body.decode()
        self.server.seen.append((self.path, text))
        refused = self.server.refuse(self.path, text)
        if refused is not None:
            error = {"error": {"code": refused[0], "message": refused[1], "status": "REFUSED"}}
            self.answer(refused[0], json.dumps(error).encode(), {"Content-Type": "application/json"})
            return
        kept = {k: v for k, v in self.headers.items() if k.lower() in {"content-type", "authorization"}}
        answer = requests.request(method, f"{self.server.to}{self.path}", data=body, headers=kept, timeout=120)
        content = answer.content.replace(self.server.to.encode(), self.server.url.encode())
        if self.server.spoil(self, content):
            return
        named = ("content-type", "x-mmearth-emulator")
        self.answer(answer.status_code, content, {k: v for k, v in answer.headers.items() if k.lower() in named})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(seed=SEED)) as running:
        yield running


@pytest.fixture
def between(server: Emulator) -> Iterator[Between]:
    """Proxy server, with no session before or after."""
    close_session()
    with Between() as running:
        running.to = server.url
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()
    close_session()


@contextmanager
def refusing(between: Between, refuse: Refusal) -> Iterator[None]:
    """Refuse requests within the block, and forget the requests before it."""
    between.seen.clear()
    between.refuse = refuse  # type: ignore[method-assign]
    yield
    between.refuse = lambda path, body: None  # type: ignore[method-assign]


@contextmanager
def spoiling(between: Between, spoil: Spoiler) -> Iterator[None]:
    """Spoil answers within the block."""
    between.spoil = spoil  # type: ignore[method-assign]
    yield
    between.spoil = lambda handler, content: False  # type: ignore[method-assign]


def source(url: str, names: list[str], first_s: float = 0.01) -> EarthEngineSource:
    catalog = load_catalog()
    rules = SceneRules(seed=SEED, years=(2017, 2018, 2019, 2020), levels=("L2A", "L1C"), cloud_percent=10.0)
    backoff = Backoff(attempts=4, first_s=first_s)
    options = SessionOptions(url=url, connections=4, timeout_s=120, backoff=backoff)
    return EarthEngineSource(catalog, catalog.select(names), rules, options, LocalLimiter(4))


def place(lon: float, lat: float) -> Place:
    return Place(tile_id=int(tile_ids([lon], [lat], 16)[0]), lon=lon, lat=lat, size_px=16)


@cache
def alps() -> list[Place]:
    """Locations that share scenes."""
    return [place(round(8.0 + 0.02 * k, 6), 47.0) for k in range(8)]


def tropics() -> list[Place]:
    """Locations in many UTM zones, where one orbit pass of Sentinel-1 is often missing."""
    return [
        place(float(lon), lat) for lon, lat in ((20, 5.5), (22, -3.2), (-60, -8.1), (-63, -12.4), (33, 1.2), (101, 15))
    ]


# ---------------------------------------------------------------- casts


CASTS = ("Image.toDouble", "Image.toUint8")


def casts_in(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every cast of an encoded expression."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(value, dict) and value.get("functionInvocationValue", {}).get("functionName") in CASTS:
            yield node, key
        yield from casts_in(value)


def without_each_cast(expression: str) -> Iterator[str]:
    """Encode the expression anew for each cast, with that cast removed."""
    whole = json.loads(expression)
    for k in range(len(list(casts_in(whole)))):
        other = copy.deepcopy(whole)
        container, key = list(casts_in(other))[k]
        container[key] = container[key]["functionInvocationValue"]["arguments"]["value"]
        yield json.dumps(other)


def test_a_survey_without_one_of_its_casts_is_refused(server: Emulator) -> None:
    close_session()
    origin = source(server.url, ["sentinel2", "era5"])
    session, plan = open_session(origin.options), origin._survey_plan()
    expression = plan.expression([plan.question(alps()[0])], again=False)
    answer = session.compute_value(expression, origin.limiter, origin.ledger)
    refused = []
    for other in without_each_cast(expression):
        try:
            assert session.compute_value(other, origin.limiter, origin.ledger) == answer
        except TileUnavailable as refusal:
            refused.append(refusal.detail)
    (words,) = refused  # one blank image serves all months; the asset has doubles anyway
    assert MIXED in words
    assert "Expected type: Double. Actual type: Byte<0, 0>. Image ID: 2_0 This band might require" in words
    close_session()


@pytest.mark.parametrize("name", ["dynamic_world", "esa_worldcover"])
def test_a_pixels_request_without_one_of_its_casts_is_refused(server: Emulator, name: str) -> None:
    close_session()
    origin = source(server.url, ["sentinel2", name])
    survey = next(answer for answer in origin.survey(alps()) if isinstance(answer, Survey))
    m = load_catalog().modalities[name]
    expected = origin.read(survey, [m])[name]
    refused = []
    ask = RECIPES[m.recipe["name"]].ask(m, survey.request)
    assert ask is not None
    expression, fields, _ = origin._templates.request([(m, ask)], survey.request.grid)
    session = open_session(origin.options)
    for other in without_each_cast(expression):
        try:
            session.compute_pixels(other, fields, lambda content: content, origin.limiter, origin.ledger)
        except TileUnavailable as refusal:
            refused.append(refusal.detail)
    assert refused
    assert all(MIXED in words for words in refused)
    assert m.observed(expected).any()
    close_session()


# ---------------------------------------------------------------- content of the requests


def calls_in(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(function, arguments) of every call of an encoded expression."""
    if isinstance(node, dict):
        if "functionInvocationValue" in node:
            yield node["functionInvocationValue"]["functionName"], node["functionInvocationValue"]["arguments"]
        for value in node.values():
            yield from calls_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from calls_in(value)


def margins_without_default() -> dict[str, set[str]]:
    """Function -> its error margins without a default, according to the client's own list of functions."""
    listed = json.loads((Path(ee.__file__).parent / "tests" / "algorithms.json").read_text())["algorithms"]
    return {
        function["name"].removeprefix("algorithms/"): {
            argument["argumentName"]
            for argument in function.get("arguments", [])
            if argument["type"] == "ErrorMargin" and argument.get("defaultValue") is None
        }
        for function in listed
    }


def test_no_request_has_a_conditional_or_leaves_an_error_margin_open(between: Between) -> None:
    names = [m.name for m in load_catalog().modalities.values() if m.stored and m.kind.is_raster] + ["era5"]
    origin = source(between.url, names)
    wanted = [m for m in origin.modalities(tuple(load_catalog().modalities.values())) if m.name in names]
    answers = [answer for answer in origin.survey(tropics()) if isinstance(answer, Survey)]
    assert answers
    origin.read(answers[0], [m for m in wanted if m.name not in answers[0].values])
    origin.ecoregions()
    bodies = [*between.sent("value:compute"), *between.sent("computePixels"), *between.sent("computeFeatures")[:1]]
    assert len(between.sent("value:compute")) >= 2 + 1, "two surveys, and the ids of the ecoregions"
    margins, seen = margins_without_default(), set[str]()
    for body in bodies:
        for name, arguments in calls_in(json.loads(body)["expression"]):
            seen.add(name)
            assert margins[name] <= set(arguments), name
    assert not {"If", "Algorithms.If"} & seen
    assert {"GeometryConstructors.Polygon", "Feature.simplify", "reduce.mode", "ImageCollection.mosaic"} <= seen


def test_the_second_survey_asks_for_those_that_need_it_only(between: Between) -> None:
    """Scenes and Sentinel-1 passes found by the first survey are not searched again."""
    origin = source(between.url, ["sentinel2", "sentinel1"])
    answers = origin.survey(tropics())
    first, second = between.sent("value:compute")
    assert first.count('"high":') == len(tropics())
    looked_for, known = second.count('"high":'), second.count('"box":')
    assert looked_for + known < len(tropics())
    assert known
    lacking = sum(
        isinstance(answer, Survey) and not np.isfinite([answer.s1_asc_days, answer.s1_desc_days]).all()
        for answer in answers
    )
    assert lacking <= looked_for + known


# ---------------------------------------------------------------- refusals


def test_a_survey_with_too_many_aggregations_is_halved_at_once(between: Between) -> None:
    names = ["sentinel2", "era5"]
    expected = source(between.url, names).survey(alps())
    origin = source(between.url, names, first_s=600.0)

    def crowded(path: str, body: str) -> tuple[int, str] | None:
        return (429, "Too many concurrent aggregations.") if body.count('"high":') > 2 else None

    with refusing(between, crowded):
        start = time.monotonic()
        found = origin.survey(alps())
    assert [answer.facts for answer in found] == [answer.facts for answer in expected]  # type: ignore[union-attr]
    assert time.monotonic() - start < 300, "a pause would have been of minutes"
    assert origin.account()["retries"] == {}
    asked = [body.count('"high":') for body in between.sent("value:compute")]
    assert max(asked) == 8
    assert sorted(asked)[:4] == [2, 2, 2, 2]
    with refusing(between, crowded):
        origin.survey(alps())
    assert max(body.count('"high":') for body in between.sent("value:compute")) == 2, "it remembers what was answered"


def test_one_candidate_with_too_many_aggregations_waits_like_any_other(between: Between) -> None:
    origin = source(between.url, ["sentinel2"])
    left = [2]

    def crowded(path: str, body: str) -> tuple[int, str] | None:
        left[0] -= "value:compute" in path
        return (429, "Too many concurrent aggregations.") if "value:compute" in path and left[0] >= 0 else None

    with refusing(between, crowded):
        (answer,) = origin.survey(alps()[:1])
    assert isinstance(answer, (Survey, Rejection))
    assert origin.account()["retries"] == {"HTTP 429": 2}


@pytest.mark.parametrize("words", ["User memory limit exceeded.", "Computation timed out."])
def test_what_costs_most_goes_alone_when_all_together_are_too_much(between: Between, words: str) -> None:
    names = ["sentinel2", "sentinel2_cloudmask", "dynamic_world", "esa_worldcover"]
    origin, wanted = source(between.url, names), load_catalog().select(names)
    survey = next(answer for answer in origin.survey(alps()) if isinstance(answer, Survey))
    expected = origin.read(survey, wanted)

    def dear(path: str, body: str) -> tuple[int, str] | None:
        return (400, words) if "reduce.mode" in body and "Image.load" in body else None

    with refusing(between, dear):
        found = origin.read(survey, wanted)
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])
    refused, alone, others = between.sent("computePixels")
    assert "reduce.mode" in refused
    assert "reduce.mode" in alone
    assert "mosaic" not in alone
    assert "reduce.mode" not in others
    assert "mosaic" in others
    assert "Image.load" in others


def test_an_answer_that_is_too_large_is_split_by_bytes(between: Between) -> None:
    names = ["sentinel2", "dynamic_world"]
    origin, wanted = source(between.url, names), load_catalog().select(names)
    survey = next(answer for answer in origin.survey(alps()) if isinstance(answer, Survey))

    def large(path: str, body: str) -> tuple[int, str] | None:
        too_large = "Total request size (60000000 bytes) must be less than or equal to 50331648 bytes."
        return (400, too_large) if "reduce.mode" in body and "Image.load" in body else None

    with refusing(between, large):
        origin.read(survey, wanted)
    _, first, second = between.sent("computePixels")
    assert "Image.load" in first
    assert "reduce.mode" in second


# ---------------------------------------------------------------- preflight, assets


HEIGHT = "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"
SPREAD = "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1"


@pytest.fixture(scope="module")
def ecoregions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ecoregions(tmp_path_factory.mktemp("ecoregions") / "e.parquet")


def command(between: Between, ecoregions: Path, out: Path, *more: str) -> Any:
    """Result of a small build."""
    given = ["build", "--ee-url", between.url, "--ecoregions", str(ecoregions), "--out", str(out), "--seed", str(SEED)]
    given += ["--tiles", "3", "--tile-size", "16", "--balance", "area", "--json", *more]
    return CliRunner().invoke(cli, given)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, f"Asset 'projects/earthengine-legacy/assets/{SPREAD}' not found."),
        (403, f"Permission 'earthengine.assets.get' denied on resource '{SPREAD}' (or it may not exist)."),
    ],
)
def test_an_asset_that_cannot_be_read_ends_the_build_before_its_first_tile(
    between: Between, ecoregions: Path, tmp_path: Path, status: int, words: str
) -> None:
    def gone(path: str, body: str) -> tuple[int, str] | None:
        return (status, words) if path.split("?")[0].endswith(SPREAD) else None

    with refusing(between, gone):
        modalities = "sentinel2,canopy_height_eth,esa_worldcover"
        done = command(between, ecoregions, tmp_path / "s.zarr", "--modalities", modalities)
    assert done.exit_code == 2
    (said,) = (
        line for line in done.stderr.splitlines() if not line.startswith("Building ")
    )  # progress, if it took long
    for part in (SPREAD, "modality canopy_height_eth", "--modalities sentinel2,esa_worldcover"):
        assert part in said
    assert "--asset canopy_height_eth.std=ID" in said
    assert not between.sent("value:compute")
    assert not between.sent("computePixels")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("asset", "said"),
    [
        ("ESA/WorldCover/v100", "expected IMAGE, is IMAGE_COLLECTION"),
        ("COPERNICUS/S2_SR_HARMONIZED", "expected IMAGE, is IMAGE_COLLECTION"),  # the right type, for another modality
        ("JRC/GSW1_4/GlobalSurfaceWater", "expected band b1, has occurrence, "),
    ],
)
def test_an_asset_of_another_kind_is_refused_too(
    between: Between, ecoregions: Path, tmp_path: Path, asset: str, said: str
) -> None:
    more = ("--modalities", "sentinel2,aster", "--asset", f"aster={asset}")
    done = command(between, ecoregions, tmp_path / "s.zarr", *more)
    assert done.exit_code == 2
    assert f"'{asset}' (modality aster): {said}" in done.stderr
    assert "--modalities sentinel2" in done.stderr


def test_another_asset_is_read_and_recorded_and_asked_for_once(
    between: Between, ecoregions: Path, tmp_path: Path
) -> None:
    more = ("--modalities", "sentinel2,canopy_height_eth", "--asset", f"canopy_height_eth.std={HEIGHT}")
    done = command(between, ecoregions, tmp_path / "s.zarr", *more)
    assert done.exit_code == 0, done.output
    asked = [path for path in between.sent("/assets/") if "compute" not in path]
    store = open_store(tmp_path / "s.zarr")
    canopy = store.dataset["canopy_height_eth"].values
    np.testing.assert_array_equal(canopy[:, 1], canopy[:, 0])
    assert (canopy != 255).any()
    assert store.modalities["canopy_height_eth"].asset == {"height": HEIGHT, "std": HEIGHT}
    assert store.recipe["assets"] == {"canopy_height_eth.std": HEIGHT}
    assert len(asked) == len({path.split("?")[0] for path in asked}) == 3, "two levels of Sentinel-2, and the height"
    again = command(between, ecoregions, tmp_path / "s.zarr", *more)
    assert again.exit_code == 0
    assert [path for path in between.sent("/assets/") if "compute" not in path] == asked, "once in a process"
    other = command(between, ecoregions, tmp_path / "s.zarr", *more[:2])
    assert other.exit_code == 2
    assert "recipe.assets" in other.stderr
    ledger = json.loads(CliRunner().invoke(cli, ["inspect", str(tmp_path / "s.zarr"), "--json"]).stdout)["ledger"]
    assert ledger["requests"]["assets"] == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--asset", "canopy_height_eth=users/a/b"], "canopy_height_eth.height=ID or canopy_height_eth.std=ID"),
        (["--asset", "canopy_height_eth.mean=users/a/b"], "canopy_height_eth.height=ID or canopy_height_eth.std=ID"),
        (["--asset", "astr=users/a/b"], "aster"),
        (["--asset", "lat=users/a/b"], "lat"),
        (["--asset", "aster"], "MODALITY=ID"),
        (["--asset", "aster=users/a b"], "users/NAME/ASSET"),
        (["--asset", "aster=/users/a"], "users/NAME/ASSET"),
        (["--asset", "aster=users/a/b", "--asset", "aster=users/a/c"], "aster twice"),
        (["--asset", "aster=users/a/b", "--source", "synthetic"], "earthengine"),
        (["--asset", "aster=users/a/b", "--modalities", "sentinel2,era5"], "(era5, sentinel2"),
    ],
)
def test_an_asset_that_is_no_such_thing_is_refused_in_one_line(given: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["build", "--out", str(tmp_path / "s.zarr"), *given])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert "--asset" in done.stderr or "modality" in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_a_build_that_delivers_no_tile_fails_and_says_why(between: Between, ecoregions: Path, tmp_path: Path) -> None:
    done = command(between, ecoregions, tmp_path / "s.zarr", "--modalities", "sentinel2,era5", "--cloud", "0.0001")
    assert done.exit_code == 1
    assert "no tile was delivered" in done.stderr
    assert "sentinel2_missing" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- spoilt answers


def shortened(content: bytes) -> bytes:
    """Leave out the last item of a result."""
    answer = json.loads(content)
    return json.dumps({"result": answer["result"][:-1]}).encode()


def without_levels(content: bytes) -> bytes:
    """Leave out the level of every scene."""
    answer = json.loads(content)
    for scenes in answer["result"]:
        for scene in scenes:
            del scene["level"]
    return json.dumps(answer).encode()


def retyped(dtype: str) -> Callable[[bytes], bytes]:
    """Return a function that gives all bands of an NPY file another type."""

    def retype(content: bytes) -> bytes:
        pixels = np.load(io.BytesIO(content))
        other, body = np.zeros(pixels.shape, [(name, dtype) for name in pixels.dtype.names]), io.BytesIO()
        np.save(body, other)
        return body.getvalue()

    return retype


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    """Return a function that replaces fields of a JSON object, or leaves out those that are None."""

    def edit(content: bytes) -> bytes:
        return json.dumps({k: v for k, v in (json.loads(content) | changes).items() if v is not None}).encode()

    return edit


JSON = {"Content-Type": "application/json"}
PORTAL = b"<html>Please sign in to this network.</html>"
GARBAGE = (b"", b"{}", b"null", b"[]", b"5", b'"x"', PORTAL)


def once(what: str, spoilt: Callable[[bytes], bytes], status: int = 200) -> Spoiler:
    """Spoil the first answer to a kind of request."""
    left = [1]

    def spoil(handler: _Handler, content: bytes) -> bool:
        left[0] -= what in handler.path
        if what not in handler.path or left[0] < 0:
            return False
        handler.answer(status, b"" if status == 204 else spoilt(content), JSON)
        return True

    return spoil


@pytest.mark.parametrize(
    "garbage", [*GARBAGE, b'{"result":null}', b'{"result":"x"}', b'{"result":[]}', b'{"result":{}}']
)
def test_a_survey_that_cannot_be_decoded_is_asked_for_again(between: Between, garbage: bytes) -> None:
    origin = source(between.url, ["sentinel2"])
    with spoiling(between, once("value:compute", lambda content: garbage)):
        assert len(origin.survey(alps())) == len(alps())
    assert origin.account()["retries"] == {"undecodable answer": 1}


@pytest.mark.parametrize("spoilt", [shortened, without_levels])
def test_a_survey_that_lacks_something_is_asked_for_again(between: Between, spoilt: Callable[[bytes], bytes]) -> None:
    expected = source(between.url, ["sentinel2", "sentinel1"]).survey(alps())
    origin = source(between.url, ["sentinel2", "sentinel1"])
    with spoiling(between, once("value:compute", spoilt)):
        found = origin.survey(alps())
    assert [answer.place for answer in found] == [answer.place for answer in expected]
    assert [type(answer) for answer in found] == [type(answer) for answer in expected]
    assert origin.account()["retries"] == {"undecodable answer": 1}


def test_an_answer_without_content_is_asked_for_again(between: Between) -> None:
    origin = source(between.url, ["sentinel2"])
    with spoiling(between, once("value:compute", lambda content: content, status=204)):
        assert len(origin.survey(alps())) == len(alps())
    assert origin.account()["retries"] == {"undecodable answer": 1}


@pytest.mark.parametrize("dtype", ["S4", "U1", "<f8", "<M8[s]", "<c16"])
def test_pixels_of_another_type_are_asked_for_again(between: Between, dtype: str) -> None:
    """Reflectances are integers: text is none, and floats would be truncated."""
    origin, wanted = source(between.url, ["sentinel2"]), load_catalog().select(["sentinel2"])
    survey = next(answer for answer in origin.survey(alps()) if isinstance(answer, Survey))
    expected = origin.read(survey, wanted)
    with spoiling(between, once("computePixels", retyped(dtype))):
        found = origin.read(survey, wanted)
    np.testing.assert_array_equal(found["sentinel2"], expected["sentinel2"])
    assert origin.account()["retries"] == {"undecodable answer": 1}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_the_description_of_an_asset_that_cannot_be_decoded_is_asked_for_again(
    between: Between, garbage: bytes
) -> None:
    origin = source(between.url, ["sentinel2"])
    with spoiling(between, once("/assets/", lambda content: garbage)):
        origin.connect()
    assert origin.account()["retries"] == {"undecodable answer": 1}


@pytest.mark.parametrize(
    "spoilt",
    [
        *(lambda content, body=body: body for body in GARBAGE),
        edited(features=None),
        edited(features=[{}]),
        lambda content: edited(features=json.loads(content)["features"][:-1])(content),
    ],
)
def test_ecoregions_that_cannot_be_decoded_or_are_not_all_there_are_asked_for_again(
    between: Between, spoilt: Callable[[bytes], bytes]
) -> None:
    origin = source(between.url, ["sentinel2"])
    with spoiling(between, once("computeFeatures", spoilt)):
        found = origin.ecoregions()
    assert found["eco_region"].is_unique
    assert len(found) > 800
    assert origin.account()["retries"] == {"undecodable answer": 1}


def test_a_table_without_ecoregions_is_named(between: Between) -> None:
    none = once("value:compute", lambda content: b'{"result":[]}')
    with spoiling(between, none), pytest.raises(InputError, match=r"property ECO_ID in the table 'RESOLVE.*--asset"):
        source(between.url, ["sentinel2"]).ecoregions()


@pytest.mark.parametrize("garbage", [*GARBAGE, b'{"algorithms":[]}', b'{"algorithms":[{}]}'])
def test_functions_that_cannot_be_decoded_are_asked_for_again(between: Between, garbage: bytes) -> None:
    with spoiling(between, once("/algorithms", lambda content: garbage)):
        origin = source(between.url, ["sentinel2"])
        assert len(origin.survey(alps())) == len(alps())


@pytest.mark.parametrize("what", ["value:compute", "/algorithms"])
def test_answers_that_are_never_decodable_end_in_one_line(between: Between, what: str) -> None:
    def spoil(handler: _Handler, content: bytes) -> bool:
        if what in handler.path:
            handler.answer(200, PORTAL, {"Content-Type": "text/html"})
        return what in handler.path

    with spoiling(between, spoil), pytest.raises(RetryLater, match=r"in 4 attempts \(undecodable answer") as caught:
        source(between.url, ["sentinel2"]).survey(alps())
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- interruptions

PROGRAM = """
import signal
from mmearth_data.cli import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
cli()
"""
"""Runs a command that handles Ctrl-C even if the tests run in the background of a shell."""
SOON_S = 10.0
"""Seconds within which an interrupted build ends; schedulers kill it after 30."""


def outage(handler: _Handler, content: bytes) -> None:
    handler.answer(500, PORTAL, {"Content-Type": "text/html"})


def throttle(handler: _Handler, content: bytes) -> None:
    error = {"error": {"code": 429, "message": "Too many requests.", "status": "RESOURCE_EXHAUSTED"}}
    handler.answer(429, json.dumps(error).encode(), JSON | {"Retry-After": "86400"})


def drip(handler: _Handler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    with suppress(OSError):  # the client has left
        for k in range(len(content)):
            handler.wfile.write(content[k : k + 1])
            time.sleep(0.5)


@pytest.fixture(scope="module")
def undisturbed(server: Emulator, ecoregions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of a build that is not interrupted."""
    close_session()
    out = tmp_path_factory.mktemp("undisturbed") / "s.zarr"
    done = CliRunner().invoke(cli, build_words(server.url, ecoregions, out))
    close_session()
    assert done.exit_code == 0, done.output
    return out


def build_words(url: str, ecoregions: Path, out: Path) -> list[str]:
    given = ["build", "--ee-url", url, "--ecoregions", str(ecoregions), "--out", str(out), "--seed", str(SEED)]
    given += ["--tiles", "24", "--tile-size", "16", "--tiles-per-shard", "4", "--modalities", "sentinel2"]
    return [*given, "--balance", "area", "--in-flight", "3"]


def files_of(store: Path) -> dict[str, bytes]:
    """Files of a store, without its ledger of requests."""
    found = (path for path in store.rglob("*") if path.is_file() and "_ledger" not in path.parts)
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in found}


def interrupt(
    between: Between, words: list[str], out: Path, trouble: Callable[[_Handler, bytes], None], sent: signal.Signals
) -> tuple[float, int, str]:
    """Send a signal to a build once three requests after its first shard are in trouble; its seconds, exit code and errors."""
    troubled = threading.Semaphore(0)

    def spoil(handler: _Handler, content: bytes) -> bool:
        if "computePixels" not in handler.path or not list(out.glob("_commits/*.parquet")):
            return False
        troubled.release()
        trouble(handler, content)
        return True

    command = [sys.executable, "-c", PROGRAM, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        spoiling(between, spoil),
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            for _ in range(3):
                assert troubled.acquire(timeout=120)
            time.sleep(1)
            process.send_signal(sent)
            begin = time.monotonic()
            _, stderr = process.communicate(timeout=30)
            return time.monotonic() - begin, process.returncode, stderr
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("trouble", "sent", "said"),
    [
        pytest.param(outage, signal.SIGTERM, "Error: terminated; finished work is kept.", marks=pytest.mark.slow),
        pytest.param(throttle, signal.SIGTERM, "Error: terminated; finished work is kept.", marks=pytest.mark.slow),
        (drip, signal.SIGINT, "Error: interrupted; finished work is kept."),
    ],
)
def test_a_build_that_waits_for_the_service_ends_soon_after_a_signal_and_resumes(
    trouble: Callable[[_Handler, bytes], None],
    sent: signal.Signals,
    said: str,
    between: Between,
    undisturbed: Path,
    ecoregions: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "s.zarr"
    words = build_words(between.url, ecoregions, out)
    seconds, exit_code, stderr = interrupt(between, words, out, trouble, sent)
    assert seconds < SOON_S
    assert exit_code == 128 + sent, stderr
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == f"{said} Run the same command to resume: {shlex.join(['-c', *words])}"
    assert ("HTTP 429: Too many requests; waiting 60" in stderr) == (trouble is throttle), stderr
    committed = files_of(out / "_commits")
    assert 0 < len(committed) < 6
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert committed.items() <= files_of(out / "_commits").items(), "what is committed is kept"
    assert verify(out).problems == ()
    assert files_of(out) == files_of(undisturbed)


def test_a_store_is_repaired_over_the_connection_that_the_options_name(
    between: Between, ecoregions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store does not record how the service is reached; every option that the message names is one of the command."""
    for name in ("EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "s.zarr"
    assert command(between, ecoregions, out, "--modalities", "sentinel2,era5").exit_code == 0
    before = digests(out)
    shard = next(path for path in sorted((out / "sentinel2" / "c").rglob("*")) if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-3])
    words = ["verify", str(out), "--repair", "--ecoregions", str(ecoregions)]
    close_session()
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 2
    remedies = refused.stderr.partition("A new store")[0]
    options = {name for parameter in cli.commands["verify"].params for name in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", remedies)) - {"--quiet"} <= options
    assert "--service-account" in remedies
    assert digests(out) != before
    repaired = CliRunner().invoke(cli, [*words, "--ee-url", between.url])
    assert repaired.exit_code == 0, repaired.stderr
    assert digests(out) == before
