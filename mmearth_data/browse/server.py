"""The server of the page: local only, under a random path that is part of its URL."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
import threading
import webbrowser
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

from mmearth_data.browse.commands import IDS_FILE, ids_text
from mmearth_data.browse.filters import Selection, from_query
from mmearth_data.browse.page import Visit, fill_document
from mmearth_data.browse.world import World
from mmearth_data.errors import InputError, MMEarthError
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from mmearth_data.store import Store

ADDRESS = "127.0.0.1"
TOKEN_BYTES = 24
"""Number of random bytes in the path, so that it cannot be guessed."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Browser:
    """A page for a store, on loopback.

    Parameters
    ----------
    store
        An open store; it may be unfinished.
    port
        Port of 127.0.0.1; 0 takes a free one.
    embeddings
        File of ``mmearth-train embed``, for nearest neighbours; by default the one next to the store, if there is one.

    Raises
    ------
    InputError
        If the port is taken, the store has no tile, or the embeddings cannot be used.

    Examples
    --------
    >>> browser = Browser(open_store("planet.zarr"))  # doctest: +SKIP
    >>> browser.url  # doctest: +SKIP
    'http://127.0.0.1:41873/Zk3.../'
    >>> browser.serve()  # doctest: +SKIP
    """

    def __init__(self, store: Store, *, port: int = 0, embeddings: Path | None = None) -> None:
        self._sockets, self.port = _bind(port)
        try:
            self.world = World.of(store, embeddings)
        except BaseException:
            self._close_sockets()
            raise
        self.prefix = f"/{secrets.token_urlsafe(TOKEN_BYTES)}"
        self._loop: IOLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.serve, name="browser", daemon=True)

    @property
    def url(self) -> str:
        """URL of the page; the server refuses requests without its random part."""
        return f"http://{ADDRESS}:{self.port}{self.prefix}/"

    @property
    def notes(self) -> tuple[str, ...]:
        """Notices about the store, which the page also shows."""
        return self.world.notes

    def open_page(self) -> bool:
        """Open the page in the user's browser, unless that runs in the terminal; False if it is not opened."""
        try:
            browser = webbrowser.get()
        except webbrowser.Error:
            return False
        if type(browser) is webbrowser.GenericBrowser:  # such as lynx, which would take the terminal
            return False
        return browser.open(self.url)

    def serve(self) -> None:
        """Serve until interrupted, or until `stop` is called in another thread."""
        self._loop = loop = IOLoop(make_current=False)
        logging.getLogger("bokeh.server.views.ws").setLevel(logging.ERROR)  # do not log pages that are closed
        try:
            loop.run_sync(self._begin)
        finally:
            self._ready.set()
        try:
            loop.start()
        finally:
            self.world.pictures.close()
            self._close_sockets()
            loop.close(all_fds=True)

    def start(self) -> None:
        """Serve in a background thread."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Stop serving in the background."""
        if self._loop is not None:
            self._loop.add_callback(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _begin(self) -> None:
        hosts = [f"{ADDRESS}:{self.port}", f"localhost:{self.port}"]
        fill = partial(fill_document, self.world, self.prefix, _policy(hosts))
        tornado = BokehTornado(
            {"/": Application(FunctionHandler(fill))},
            prefix=self.prefix,
            extra_websocket_origins=hosts,
            extra_patterns=_routes(self.world),
            use_index=False,
            ico_path="none",
            log_function=_log_nothing,
        )
        http = HTTPServer(tornado)
        http.add_sockets(self._sockets)
        self._server = BaseServer(IOLoop.current(), tornado, http)
        self._server.start()
        IOLoop.current().add_callback(self._prepare)

    def _prepare(self) -> None:
        """Render a page in advance while the user's browser starts, so that shared data are already computed."""
        Visit(self.world, Document(), self.prefix)

    def _close_sockets(self) -> None:
        for bound in self._sockets:
            bound.close()


def _bind(port: int) -> tuple[list[socket.socket], int]:
    try:
        bound = socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--port: expected a free port of {ADDRESS} (0 selects one), got {port}: {reason_of(error)}."
        ) from None
    bound.setblocking(False)
    return [bound], bound.getsockname()[1]


def _policy(hosts: list[str]) -> str:
    """Content security policy: the page loads from this server alone, and connects to nothing else."""
    sockets = " ".join(f"ws://{host}" for host in hosts)
    return (
        "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' {sockets}; base-uri 'none'; form-action 'none'"
    )


def _routes(world: World) -> list[Any]:
    return [
        (rf"/{re.escape(IDS_FILE)}", _Ids, {"world": world}),
        (r"/tile/([0-9a-f]{16}(?:\.[0-9]{1,6})?)\.png", _Figure, {"world": world}),
    ]


def _log_nothing(handler: RequestHandler) -> None:
    """Leave requests out of the log: an unknown path is the sender's mistake."""


class _Handler(RequestHandler):
    """Answers that concern the store."""

    def initialize(self, world: World) -> None:
        """Take the store."""
        self.world = world

    def set_default_headers(self) -> None:
        """Prevent caching and content-type sniffing of responses."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def refuse(self, status: int, text: str) -> None:
        """Answer with a line of text."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{text}\n")


class _Ids(_Handler):
    """Ids of the tiles that meet the filter of the query."""

    def get(self) -> None:
        """Answer 200, or 400 if the filter cannot be read."""
        selection = Selection(self.world.index)
        try:
            selection.apply(from_query(self.request.query, self.world.index))
        except InputError as error:
            self.refuse(400, str(error))
            return
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Content-Disposition", f'attachment; filename="{IDS_FILE}"')
        self.finish(ids_text(self.world.index.tile_id[selection.mask]))


class _Figure(_Handler):
    """Figure of a tile."""

    async def get(self, name: str) -> None:
        """Answer 200, 404 if there is no such tile, or 500 if it cannot be read."""
        try:
            position = self.world.index.position(name)
        except InputError as error:
            self.refuse(404, str(error))
            return
        try:
            png = await asyncio.wrap_future(self.world.pictures.figure(position))
        except asyncio.CancelledError:
            self.refuse(503, "Newer requests replaced this one; try again.")
        except (MMEarthError, OSError) as error:
            self.refuse(500, str(error))
        else:
            self.set_header("Content-Type", "image/png")
            self.finish(png)
