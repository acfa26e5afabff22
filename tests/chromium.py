"""Chromium from the system (Debian: apt-get install chromium), with windows that record what goes wrong in a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]
WIDTHS = (390, 1600)
NO_WEBGL = """
HTMLCanvasElement.prototype.getContext = new Proxy(HTMLCanvasElement.prototype.getContext, {
  apply: (get, canvas, [kind, ...more]) => kind.startsWith("webgl") ? null : Reflect.apply(get, canvas, [kind, ...more]),
});
"""
"""Script that makes a browser one without WebGL."""


@contextmanager
def chromium_browser() -> Iterator[Any]:
    """Playwright's handle of a running Chromium."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program, f"expected one of {', '.join(BROWSERS)} on the PATH; apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


class WatchedWindow:
    """A window in which a page may request only addresses that begin with ``allowed``, and complain about nothing."""

    def __init__(self, chromium: Any, allowed: str, *, script: str = "", **options: Any) -> None:
        self.problems: list[str] = []
        self.allowed = (allowed, "data:", "blob:")
        self.context = chromium.new_context(**options)
        self.context.route("**/*", self._route)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self._record(message.type, message.text))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("websocket", lambda socket: self._check(socket.url.replace("ws:", "http:")))
        if script:
            self.page.add_init_script(script)

    def screenshot(self, name: str) -> None:
        """Write a picture of the whole page to the folder in ``MMEARTH_SCREENSHOTS``, if it is set."""
        folder = os.environ.get("MMEARTH_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / name, full_page=True)

    def _check(self, url: str) -> bool:
        allowed = url.startswith(self.allowed)
        if not allowed:
            self.problems.append(f"request: {url}")
        return allowed

    def _route(self, route: Any) -> None:
        if self._check(route.request.url):
            route.continue_()
        else:
            route.abort()

    def _record(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not text.startswith("Canvas2D"):  # a remark about the tests' own reading
            self.problems.append(f"{kind}: {text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.close()
        assert self.problems == []
