"""The server of the page: who gets an answer, and what a page shows after each request."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy_store
from bokeh.client import pull_session
from bokeh.document import Document
from bokeh.events import Tap
from bokeh.server.callbacks import NextTickCallback
from click.testing import CliRunner

from mmearth_data import Browser, InputError, Store, format_tile_id, open_store, tile_figure
from mmearth_data.browse import plots
from mmearth_data.browse.page import Visit
from mmearth_data.browse.world import World
from mmearth_data.cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TILES = 48


def spread(arrays: dict[str, Any]) -> None:
    """Two dates, and a class that depends on the kind of tile."""
    arrays["time"][::2] = np.datetime64("2017-05-01", "ms").astype(np.int64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("browse") / "toy.zarr"
    return toy_store.write_store(path, TILES, shares=(0.5, 0.25), change=spread)


@pytest.fixture(scope="module")
def browser(store: Store) -> Iterator[Browser]:
    with Browser(store) as running:
        yield running


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    """Status and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# ---------------------------------------------------------------- who gets an answer


def test_the_page_is_below_its_token_only(browser: Browser) -> None:
    host, token = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/([\w-]{32})/", browser.url).groups()  # type: ignore[union-attr]
    status, page = fetch(browser.url)
    assert status == HTTPStatus.OK
    assert b"48 of 48 tiles" in page
    for path in ("", "/", "/ids.txt", "/ws", "/autoload.js", "/metadata", "/static/js/bokeh.min.js", "/favicon.ico"):
        assert fetch(f"{host}{path}")[0] == HTTPStatus.NOT_FOUND, path
        other = token[::-1]
        assert fetch(f"{host}/{other}{path}")[0] == HTTPStatus.NOT_FOUND, path


def test_a_query_that_is_no_text_still_gives_the_page(browser: Browser) -> None:
    assert fetch(f"{browser.url}?split=%ff")[0] == 200


def test_the_page_names_no_other_host(browser: Browser) -> None:
    _, page = fetch(browser.url)
    hosts = set(re.findall(rb"(?:https?|wss?)://([^/\s\"'&;<]+)", page))
    assert hosts <= {f"127.0.0.1:{browser.port}".encode(), f"localhost:{browser.port}".encode(), b"www.w3.org"}


def test_two_servers_have_different_tokens(store: Store, browser: Browser) -> None:
    with Browser(store) as other:
        assert other.prefix != browser.prefix
        assert fetch(f"http://127.0.0.1:{other.port}{browser.prefix}/")[0] == HTTPStatus.NOT_FOUND


def test_only_loopback_is_bound(browser: Browser) -> None:
    assert {socket.getsockname()[0] for socket in browser._sockets} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", HTTPStatus.FORBIDDEN),
        ("http://127.0.0.1:1", HTTPStatus.FORBIDDEN),
        ("http://127.0.0.1:PORT", HTTPStatus.SWITCHING_PROTOCOLS),
        ("http://localhost:PORT", HTTPStatus.SWITCHING_PROTOCOLS),
    ],
)
def test_websockets_are_open_to_the_page_only(browser: Browser, origin: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", browser.port)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "bokeh, nothing"}
    origin = origin.replace("PORT", str(browser.port))
    connection.request("GET", f"{browser.prefix}/ws", headers={"Origin": origin, **upgrade, **key})
    assert connection.getresponse().status == status
    connection.close()


def test_a_port_in_use_is_refused(store: Store, browser: Browser) -> None:
    with pytest.raises(InputError, match=rf"expected a free port of 127.0.0.1 \(0 selects one\), got {browser.port}"):
        Browser(store, port=browser.port)
    result = CliRunner().invoke(cli, ["browse", str(store.path), "--port", str(browser.port)])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1


# ---------------------------------------------------------------- files


def test_ids_are_those_of_the_filter(store: Store, browser: Browser) -> None:
    status, text = fetch(f"{browser.url}ids.txt?split=val&split=test")
    assert status == HTTPStatus.OK
    expected = store.coords["tile_id"][np.isin(store.coords["split"], [1, 2])]
    assert text.decode().split() == [format_tile_id(number) for number in expected.tolist()]
    assert fetch(f"{browser.url}ids.txt?split=vla") == (
        HTTPStatus.BAD_REQUEST,
        b"split: expected one of train, val, test, none, got 'vla'.\n",
    )


def test_the_picture_of_a_tile_is_its_figure(store: Store, browser: Browser, tmp_path: Path) -> None:
    name = format_tile_id(int(store.coords["tile_id"][7]))
    status, png = fetch(f"{browser.url}tile/{name}.png")
    assert status == HTTPStatus.OK
    assert png == tile_figure(store, 7, tmp_path / "tile.png").read_bytes()
    assert fetch(f"{browser.url}tile/{'0' * 15}7.png")[0] == HTTPStatus.NOT_FOUND


# ---------------------------------------------------------------- what a page shows


class Page:
    """A visit without a browser; what it schedules for later is done when `wait_for` is called."""

    def __init__(self, world: World, query: str = "") -> None:
        self.visit = Visit(world, Document(), "/token", query)
        self.channel = self.visit.channel
        self.asked = 0

    def ask(self, **what: Any) -> dict[str, Any]:
        """Ask for a tile as the page's script does; returns what the page shows of it."""
        self.asked += 1
        self.channel.ask = json.dumps({**what, "number": self.asked})
        found: dict[str, Any] = json.loads(self.channel.tile)
        return found

    def filter(self, query: str) -> dict[str, Any]:
        """Apply a filter; returns what the page shows of the selection."""
        self.channel.query = query
        found: dict[str, Any] = json.loads(self.channel.selection)
        return found

    def wait_for(self, name: str, text: str) -> str:
        """Wait until a text is in what the page shows; returns all of it."""
        document = self.visit.document
        wait_for(lambda: any(isinstance(each, NextTickCallback) for each in document.session_callbacks))
        for each in [each for each in document.session_callbacks if isinstance(each, NextTickCallback)]:
            document.remove_next_tick_callback(each)
            each.callback()
        shown: str = getattr(self.channel, name)
        return shown if text in shown else self.wait_for(name, text)


@pytest.fixture
def page(browser: Browser) -> Page:
    return Page(browser.world)


def test_filters_change_counts_histograms_and_map(page: Page) -> None:
    found = page.filter("split=train&to=2017-12-31")
    assert (found["count"], found["total"]) == (12, TILES)
    assert found["facets"]["split"] == [12, 6, 6]
    for histogram in page.visit.histograms:
        assert np.sum(histogram.source.data["top"]) == 12
    assert json.loads(page.channel.shown)["text"].startswith("12 tiles in view")
    assert len(page.visit.map.points.data["id"]) == 12
    assert found["command"].endswith("--ids ids.txt --out part.zarr")
    assert page.filter("")["count"] == TILES


def test_a_filter_that_cannot_be_read_changes_nothing(page: Page) -> None:
    before = page.filter("split=val")
    assert page.filter("split=nothing") == before


def test_tiles_are_shown_by_id_by_steps_and_by_clicks(store: Store, page: Page) -> None:
    ids = [format_tile_id(number) for number in store.coords["tile_id"].tolist()]
    page.filter("split=val")
    val = [name for name, split in zip(ids, store.coords["split"], strict=True) if split == 1]
    shown = page.ask(id=ids[3])
    assert shown["id"] == ids[3]
    assert "train" in shown["html"]
    assert "<img" in shown["html"]
    assert [page.ask(step=step)["id"] for step in (1, 1, -1, -1)] == [val[0], val[1], val[0], val[-1]]
    page.wait_for("figure", f"tile/{val[-1]}.png")
    at = ids.index(val[4])
    x, y = page.visit.world.index.x[at], page.visit.world.index.y[at]
    page.visit._tapped(Tap(page.visit.map.plot, x=float(x), y=float(y)))
    assert json.loads(page.channel.tile)["id"] == val[4]
    page.visit._tapped(Tap(page.visit.map.plot, x=float(x) + 1e6, y=float(y) + 1e6))
    assert json.loads(page.channel.tile)["id"] == val[4]


@pytest.mark.parametrize(("name", "message"), [("abc", "16 hex digits"), ("0" * 16, "Expected the id of a tile")])
def test_an_unknown_id_is_said_on_the_page(page: Page, name: str, message: str) -> None:
    assert message in page.ask(id=name)["html"]


def test_without_a_selected_tile_there_is_no_next_one(page: Page) -> None:
    page.filter("from=2031-01-01")
    assert "No tile is selected" in page.ask(step=1)["html"]
    assert json.loads(page.channel.shown)["text"] == "No selected tile is in view."


def test_names_of_a_store_are_text(tmp_path: Path) -> None:
    made = toy_store.write_store(tmp_path / "<b onclick=x>'&.zarr", 16)
    with Browser(made) as running:
        _, text = fetch(running.url)
    assert b"<b onclick" not in text
    assert b"&lt;b onclick" in text


def test_a_missing_shard_is_said_on_the_page_and_the_server_lives(tmp_path: Path) -> None:
    made = toy_store.write_store(tmp_path / "toy.zarr", 32)
    shutil.rmtree(tmp_path / "toy.zarr" / "sentinel2" / "c" / "1")
    ids = [format_tile_id(number) for number in made.coords["tile_id"].tolist()]
    with Browser(open_store(made.path)) as running:
        page = Page(running.world)
        assert "sentinel2/c/1/0/0/0 is damaged" in page.ask(id=ids[20])["html"]
        page.wait_for("figure", "is damaged")
        assert fetch(f"{running.url}tile/{ids[20]}.png")[0] == HTTPStatus.INTERNAL_SERVER_ERROR
        assert "<img" in page.ask(id=ids[2])["html"]
        page.wait_for("figure", f"{ids[2]}.png")
        assert fetch(running.url)[0] == HTTPStatus.OK


def test_neighbours_are_shown_where_embeddings_are_beside(tmp_path: Path) -> None:
    made = toy_store.write_store(tmp_path / "toy.zarr", 16)
    angles = np.linspace(0, 1, 16)
    values = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    table = {"tile_id": made.coords["tile_id"], "embedding": pa.FixedSizeListArray.from_arrays(values.ravel(), 2)}
    pq.write_table(pa.table(table), tmp_path / "toy.embeddings.parquet")
    ids = [format_tile_id(number) for number in made.coords["tile_id"].tolist()]
    page = Page(World.of(made))
    page.ask(id=ids[0])
    shown = page.wait_for("neighbours", "data-tile")
    assert re.findall(r'data-tile="(\w+)"', shown) == ids[1:9]


def test_an_unfinished_store_is_shown_and_marked(tmp_path: Path) -> None:
    made = toy_store.write_store(tmp_path / "toy.zarr", 32, finish=False)
    with Browser(made) as running:
        _, text = fetch(running.url)
        assert b"not finished" in text
        assert b'id="command"' not in text
        assert "<img" in Page(running.world).ask(step=1)["html"]


def test_a_dragged_range_becomes_the_filter(page: Page) -> None:
    begin, end = (np.datetime64(day, "ms").astype(float) for day in ("2017-04-01", "2017-06-01"))
    page.visit._brush_dates(begin, end)
    assert json.loads(page.channel.selection)["query"] == "from=2017-04-01&to=2017-06-01"
    assert page.visit.selection.count == TILES // 2
    count = len(page.visit.world.index.stored)
    page.visit._brush_shares(count - 0.4, count + 0.4)
    assert "observed=1%3A1" in json.loads(page.channel.selection)["query"]


def test_many_tiles_in_view_become_an_image(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "MOST_POINTS", 10)
    page.filter("level=L1C")
    assert np.nansum(page.visit.map.counts.data["image"][0]) == 24
    assert json.loads(page.channel.shown)["most"] >= 2
    page.channel.colour = "split"
    assert page.visit.map.counts.data["image"] == []
    assert set(
        np.unique(page.visit.map.classes.data["image"][0][~np.isnan(page.visit.map.classes.data["image"][0])])
    ) == {0, 1, 2}
    assert json.loads(page.channel.shown)["most"] is None


def test_a_page_opens_with_the_filter_of_its_url_and_answers_through_its_websocket(browser: Browser) -> None:
    url = browser.url.rstrip("/")
    session = pull_session(url=url, arguments={"split": "test", "level": "L1C"})
    channel: Any = session.document.get_model_by_name("channel")
    found = json.loads(channel.selection)
    assert (found["query"], found["count"]) == ("split=test&level=L1C", 6)
    channel.query = "split=val"
    session.force_roundtrip()
    renewed = pull_session(session.id, url)
    session.close()
    channel = renewed.document.get_model_by_name("channel")
    renewed.close()
    assert json.loads(channel.selection)["count"] == 12


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_the_command_prints_its_url_and_ends_on_a_signal(store: Store, number: int, code: int) -> None:
    program = Path(sys.executable).with_name("mmearth-data")
    command = [str(program), "browse", str(store.path), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        url = running.stdout.readline().strip()
        assert fetch(url)[0] == HTTPStatus.OK
        running.send_signal(number)
        assert running.wait(20) == code
        (line,) = running.stderr.read().strip().splitlines()
        assert line.endswith("the server is stopped")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.zarr"], "nothing.zarr"),
        (["toy.zarr", "--embeddings", "none.parquet"], "none.parquet: no such file"),
        (["toy.zarr", "--port", "70000"], "0 to 65535"),
    ],
)
def test_wrong_input_ends_with_a_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(Path(str(store.path)).parent)
    result = CliRunner().invoke(cli, ["browse", *words])
    assert result.exit_code == 2
    assert message in result.output


def test_without_bokeh_a_line_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    result = CliRunner().invoke(cli, ["browse", str(store.path)])
    assert result.exit_code == 2
    assert 'pip install "mmearth[report]"' in result.output
    assert len(result.output.strip().splitlines()) == 1
