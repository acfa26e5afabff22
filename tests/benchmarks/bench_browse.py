"""The page of `mmearth-data browse` at 1.2 million tiles: time until the first view, times of what readers do, memory.

The server runs in a process of its own, and is used through HTTP and a websocket by Bokeh's own client: a time is that
from a request until the server has computed and sent everything that it changes on the page. ``--chromium`` measures in
a browser too, where Playwright is installed: from the URL until the map is filled, and from a click until the count on
the page has changed. The store is that of bench_scale: all modalities, without pixels.

    python tests/benchmarks/bench_browse.py [--store STORE | --tiles 1200000] [--chromium /usr/bin/chromium]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from _harness import report, table
from bokeh.client import pull_session
from bokeh.core.types import ID
from bokeh.util.token import get_session_id

import mmearth_data.browse.page  # noqa: F401 - defines the models of the page

RUNS = 5
PAGE, DOCUMENT = "page (HTML)", "document, by a websocket"
TARGETS = "first view under 2 s after the store is open, interactions under 300 ms, server under 2 GB"
FILTERS = {
    "split": "split=train",
    "two classes": "class=Tundra&class=Mangroves",
    "period": "from=2018-03-01&to=2019-06-30",
    "modality": "has=era5",
    "observed": "observed=0.2:0.9",
    "all of them": "split=train&class=Tundra&class=Mangroves&from=2018-03-01&has=era5&observed=0.2:0.9&level=L2A",
}
VIEWS_M = {
    "map of a continent": (-1.2e6, 4.2e6, 6.2e6, 8.2e6),
    "map of single tiles": (1.0e6, 5.9e6, 1.2e6, 6.0e6),
    "map of the world": (-2.0e7, -1.5e7, 2.0e7, 1.5e7),
}
"""West, south, east, north in metres of Web Mercator."""


def serve(path: str) -> None:
    """Open a store and serve its page until the input ends; a line of JSON before and after."""
    from mmearth_data import Browser, open_store

    start, busy = time.perf_counter(), time.process_time()
    store = open_store(path)
    said: dict[str, Any] = {"pid": os.getpid(), "tiles": len(store)}
    said |= {"open_s": time.perf_counter() - start, "open_cpu_s": time.process_time() - busy}
    start, busy = time.perf_counter(), time.process_time()
    with Browser(store) as browser:
        said |= {"url": browser.url, "index_s": time.perf_counter() - start, "index_cpu_s": time.process_time() - busy}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    sys.stdout.write(json.dumps({"peak_gb": peak}) + "\n")


@contextmanager
def server(path: str) -> Iterator[dict[str, Any]]:
    """Run `serve` in a process of its own; yields what it reports, and adds its peak memory at the end."""
    command = [sys.executable, __file__, "--serve", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        said: dict[str, Any] = json.loads(running.stdout.readline())
        yield said
        running.stdin.close()
        said |= json.loads(running.stdout.read())


class Client:
    """A page without a browser."""

    def __init__(self, url: str, session: ID) -> None:
        self.session = pull_session(session, url.rstrip("/"))
        self.channel: Any = self.session.document.get_model_by_name("channel")
        self.map: Any = self.session.document.get_model_by_name("map")
        self.asked = 0

    def settle(self) -> None:
        """Wait until the server has done what it was asked for; it answers in turn."""
        self.session.force_roundtrip()

    def filter(self, query: str) -> None:
        """Apply a filter."""
        self.channel.query = query
        self.settle()

    def step(self) -> None:
        """Go to the next tile."""
        self.asked += 1
        self.channel.ask = json.dumps({"step": 1, "number": self.asked})
        self.settle()

    def colour(self, key: str) -> None:
        """Colour the map by a list of choices."""
        self.channel.colour = key
        self.settle()

    def view(self, west: float, south: float, east: float, north: float) -> None:
        """Move the map; the server fills it 60 ms later, which count too."""
        self.map.x_range.update(start=west, end=east)
        self.map.y_range.update(start=south, end=north)
        self.settle()
        time.sleep(0.062)
        self.settle()


def session_of(page: bytes) -> ID:
    """Session of a page, which its script opens a websocket for."""
    found = re.search(rb'"token":"([^"]+)"', page)
    assert found, "the page has no session"
    return get_session_id(found[1].decode())


class Clock:
    """Times of what readers do: wall-clock seconds, and processor seconds of the server."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.wall: dict[str, list[float]] = {}
        self.busy: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[[], object]) -> None:
        """Time one call."""
        before, start = self._cpu(), time.perf_counter()
        work()
        self.wall.setdefault(name, []).append(time.perf_counter() - start)
        self.busy.setdefault(name, []).append(self._cpu() - before)

    def _cpu(self) -> float:
        used = self._process.cpu_times()
        return float(used.user + used.system)


def interactions(client: Client, url: str, clock: Clock) -> None:
    """Do what readers do, several times each."""
    for _ in range(RUNS):
        for name, query in FILTERS.items():
            clock.time(f"filter: {name}", partial(client.filter, query))
            clock.time("filter: clear", partial(client.filter, ""))
        for name, view in VIEWS_M.items():
            clock.time(name, partial(client.view, *view))
        for key in ("class", ""):
            clock.time(f"colour: {key or 'number'}", partial(client.colour, key))
        clock.time("ids.txt, all", lambda: urllib.request.urlopen(f"{url}ids.txt").read())
    for _ in range(RUNS):  # the figures are made in the background, beside what comes next
        clock.time("facts of the next tile", client.step)


def in_chromium(url: str, program: str) -> dict[str, float]:
    """Seconds until the map is filled, and from a click on a filter until the count has changed, in a browser."""
    from playwright.sync_api import sync_playwright

    changed = "before => document.getElementById('count').innerText !== before"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = running.new_page(viewport={"width": 1600, "height": 1000})
        page.goto("about:blank")
        start = time.perf_counter()
        page.goto(url)
        page.wait_for_function("document.getElementById('shown')?.innerText")
        found = {"first view": time.perf_counter() - start}
        clicks = []
        for _ in range(RUNS):
            for box in ("input[name=split][value=train]", "input[name=level][value=L2A]"):
                before = page.inner_text("#count")
                start = time.perf_counter()
                page.click(box)
                page.wait_for_function(changed, arg=before)
                clicks.append(time.perf_counter() - start)
        running.close()
    return found | {"click": statistics.median(clicks), "slowest click": max(clicks)}


def measure(path: str, chromium: str | None) -> None:
    """Measure, and write tables and the line of JSON."""
    with server(path) as said:
        url, clock = said["url"], Clock(said["pid"])
        page: list[bytes] = []
        clock.time(PAGE, lambda: page.append(urllib.request.urlopen(url).read()))
        clients: list[Client] = []
        clock.time(DOCUMENT, lambda: clients.append(Client(url, session_of(page[0]))))
        (client,) = clients
        interactions(client, url, clock)
        client.session.close()
        browser = in_chromium(url, chromium) if chromium else {}
    wall = {name: 1e3 * statistics.median(each) for name, each in clock.wall.items()}
    busy = {name: 1e3 * statistics.mean(each) for name, each in clock.busy.items()}
    rows = [[name, wall[name], 1e3 * max(clock.wall[name]), busy[name]] for name in wall]
    table(f"{said['tiles']:,} tiles, through a websocket", ["what", "median ms", "slowest ms", "server's CPU ms"], rows)
    first = said["index_s"] + (wall[PAGE] + wall[DOCUMENT]) / 1e3
    first_cpu = said["index_cpu_s"] + (busy[PAGE] + busy[DOCUMENT]) / 1e3
    rows = [["open the store", said["open_s"], said["open_cpu_s"]], ["from then to the first view", first, first_cpu]]
    table("", ["what", "s", "server's CPU s"], rows)
    if browser:
        table("in a browser", ["what", "s"], [[name, value] for name, value in browser.items()])
    sys.stderr.write(f"targets: {TARGETS}; load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    figures: dict[str, tuple[float, str]] = {
        "tiles": (said["tiles"], "tiles"),
        "open": (said["open_s"], "s"),
        "first_view": (first, "s"),
        "first_view_cpu": (first_cpu, "s"),
        "server_peak": (said["peak_gb"], "GB"),
        "slowest_interaction": (max(value for name, value in wall.items() if name not in (PAGE, DOCUMENT)), "ms"),
        **{name: (value, "ms") for name, value in wall.items()},
        **{f"cpu: {name}": (value, "ms") for name, value in busy.items()},
        **{f"chromium: {name}": (value, "s") for name, value in browser.items()},
    }
    report("browse", None, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", help="a store, instead of making one")
    parser.add_argument("--tiles", type=int, default=1_200_000)
    parser.add_argument("--chromium", help="measure in this browser too")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.store:
        measure(options.store, options.chromium)
    else:
        from bench_scale import child

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "null.zarr"
            child("build", folder, tiles=options.tiles, size_px=64, pixels="none", sampled=True)
            measure(str(folder), options.chromium)


if __name__ == "__main__":
    main()
