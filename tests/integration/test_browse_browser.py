"""The page of `mmearth-data browse` in a real browser: filters count right, a click shows the right tile, keys do as well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chromium import NO_WEBGL, WIDTHS, WatchedWindow, chromium_browser

from mmearth_data import Browser, build, make_recipe, open_store
from mmearth_data.browse.index import mercator_x, mercator_y

pytestmark = pytest.mark.browser

TILES = 60


@pytest.fixture(scope="module")
def table_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pd.DataFrame, Browser]]:
    """Table of a store's tiles, and its page."""
    folder = tmp_path_factory.mktemp("browse")
    store = open_store(build(make_recipe("demo", {"tiles": TILES}), folder / "planet.zarr").path)
    frame = pd.DataFrame(store.tiles.drop(columns="geometry"))
    values = np.column_stack([np.cos(frame["lat"] / 99), np.sin(frame["lat"] / 99)]).astype(np.float32)
    columns = {"tile_id": frame["tile_id"], "embedding": pa.FixedSizeListArray.from_arrays(values.ravel(), 2)}
    pq.write_table(pa.table(columns), folder / "planet.embeddings.parquet")
    with Browser(store) as server:
        yield frame, server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with chromium_browser() as running:
        yield running


class Window(WatchedWindow):
    """A window with the page."""

    def __init__(self, chromium: Any, server: Browser, *, width: int = 1600, query: str = "", **options: Any) -> None:
        super().__init__(chromium, server.url, viewport={"width": width, "height": 1000}, **options)
        self.page.goto(server.url + query)
        self.page.wait_for_selector("html[data-ready]")
        self.page.wait_for_function("document.getElementById('shown').innerText !== ''")

    def expect_count(self, count: int) -> None:
        """Wait until the page reports a number of selected tiles."""
        text = f"{count:,} of {TILES} tiles"
        self.page.wait_for_function("text => document.getElementById('count').innerText === text", arg=text)

    def expect_tile(self, identity: str) -> None:
        """Wait until the page shows a tile, and its figure."""
        self.page.wait_for_function("id => document.querySelector('.tile-id')?.innerText === id", arg=identity)
        self.page.wait_for_selector(f'#figure img[src$="{identity}.png"]')
        self.page.wait_for_function("document.querySelector('#figure img').naturalWidth > 800")

    def pixel_of(self, lon: float, lat: float) -> tuple[float, float]:
        """Pixel of the window where the map shows a location."""
        code = """([x, y]) => {
            const plot = Bokeh.documents[0].get_model_by_name("map");
            const view = Bokeh.index.find_one(plot);
            const box = view.el.getBoundingClientRect();
            return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)];
        }"""
        x, y = self.page.evaluate(code, [float(mercator_x(lon)), float(mercator_y(lat))])
        return x, y


World = tuple[pd.DataFrame, Browser]


def test_filters_count_what_pandas_counts(table_and_server: World, chromium: Any) -> None:
    frame, server = table_and_server
    with Window(chromium, server) as window:
        page = window.page
        window.expect_count(TILES)
        page.check("input[name=split][value=train]")
        train = frame[frame["split"] == "train"]
        window.expect_count(len(train))
        page.check("input[name=level][value=L2A]")
        both = train[train["s2_level"] == "L2A"]
        window.expect_count(len(both))
        counts = page.locator("[data-facet=split] .tiles").all_inner_texts()
        l2a = frame[frame["s2_level"] == "L2A"]
        assert [int(text) for text in counts] == [
            int((l2a["split"] == name).sum()) for name in frame["split"].cat.remove_unused_categories().cat.categories
        ]
        page.fill("input[name=from]", "2020-01-01")
        later = both[both["time"] >= "2020-01-01"]
        window.expect_count(len(later))
        assert 0 < len(later) < len(both) < len(train) < TILES
        with page.expect_download() as download:
            page.click("#ids")
        assert Path(download.value.path()).read_text().split() == later["id"].tolist()
        assert "--ids ids.txt" in page.inner_text("#command")
        page.click("text=Clear")
        window.expect_count(TILES)


def test_a_click_shows_the_tile_and_its_neighbours(table_and_server: World, chromium: Any) -> None:
    frame, server = table_and_server
    x, y = (np.asarray(make(frame[name])) for make, name in ((mercator_x, "lon"), (mercator_y, "lat")))
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + np.where(np.eye(TILES), np.inf, 0)
    alone = int(distance.min(axis=1).argmax())
    with Window(chromium, server) as window:
        window.page.wait_for_timeout(300)
        window.page.mouse.click(*window.pixel_of(frame["lon"][alone], frame["lat"][alone]))
        window.expect_tile(frame["id"][alone])
        window.page.wait_for_selector("#neighbours [data-tile]")
        near = window.page.locator("#neighbours [data-tile]").first
        similar = (frame["lat"] - frame["lat"][alone]).abs().drop(alone).idxmin()
        assert near.get_attribute("data-tile") == frame["id"][similar]
        near.click()
        window.expect_tile(frame["id"][similar])


def test_everything_works_by_keyboard(table_and_server: World, chromium: Any) -> None:
    frame, server = table_and_server
    val = frame[frame["split"] == "val"]["id"].tolist()
    with Window(chromium, server) as window:
        page = window.page
        page.focus("input[name=split][value=val]")
        page.keyboard.press("Space")
        window.expect_count(len(val))
        page.focus("#next")
        page.keyboard.press("Enter")
        window.expect_tile(val[0])
        page.focus("#previous")
        page.keyboard.press("Enter")
        window.expect_tile(val[-1])
        page.focus("#id")
        page.keyboard.press("Control+A")
        page.keyboard.type(frame["id"][5])
        page.keyboard.press("Enter")
        window.expect_tile(frame["id"][5])
        page.fill("#id", "zzz")
        page.keyboard.press("Enter")
        page.wait_for_selector("#tile [role=alert]")
        reached = set()
        page.evaluate("document.activeElement.blur()")
        for _ in range(90):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
        assert {
            "split",
            "class",
            "level",
            "from",
            "to",
            "low",
            "high",
            "has",
            "colour",
            "next",
            "id",
            "ids",
            "copy",
        } <= reached


def test_a_period_is_dragged_on_the_histogram(table_and_server: World, chromium: Any) -> None:
    frame, server = table_and_server
    with Window(chromium, server) as window:
        page = window.page
        page.locator("#dates-title").scroll_into_view_if_needed()
        box = page.locator("section:has(#dates-title) canvas").first.bounding_box()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
        page.mouse.up()
        page.wait_for_function("document.forms.filters.elements.from.value !== ''")
        first, last = (
            pd.Timestamp(page.input_value(f"input[name={name}]"), tz=frame["time"].dt.tz) for name in ("from", "to")
        )
        days = frame["time"].dt.floor("D")
        window.expect_count(int(((days >= first) & (days <= last)).sum()))
        assert page.url.split("?")[1] == f"from={first.date()}&to={last.date()}"
        page.reload()
        page.wait_for_selector("html[data-ready]")
        window.expect_count(int(((days >= first) & (days <= last)).sum()))
        assert page.input_value("input[name=from]") == str(first.date())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_window(table_and_server: World, chromium: Any, width: int, scheme: str) -> None:
    frame, server = table_and_server
    with Window(chromium, server, width=width, color_scheme=scheme) as window:
        page = window.page
        page.select_option("#colour", "class")
        page.click("#next")
        window.expect_tile(frame["id"][0])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        page.wait_for_timeout(1000)
        window.screenshot(f"browse-{width}-{scheme}.png")


def test_a_browser_without_webgl_shows_the_map(table_and_server: World, chromium: Any) -> None:
    _, server = table_and_server
    with Window(chromium, server, script=NO_WEBGL) as window:
        window.expect_count(TILES)
        code = "Bokeh.documents[0].get_model_by_name('map').renderers.some(r => r.data_source.data.id?.length === %d)"
        window.page.wait_for_function(code % TILES)
        drawn = """canvas => {
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
        assert window.page.locator("#map canvas").first.evaluate(drawn) > 20


def test_the_channel_is_text(table_and_server: World, chromium: Any) -> None:
    """A name cannot become markup: what the server sends as HTML is escaped by its templates."""
    _, server = table_and_server
    with Window(chromium, server) as window:
        window.page.fill("#id", "<img src=x>")
        window.page.press("#id", "Enter")
        window.page.wait_for_selector("#tile [role=alert]")
        assert "<img" not in json.dumps(window.page.inner_html("#tile"))
