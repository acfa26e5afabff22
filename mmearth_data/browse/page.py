"""One visit to the page: its figures, and the handling of user input."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from bokeh.core.properties import String
from bokeh.events import Tap
from bokeh.model import DataModel
from bokeh.models import CustomJS

from mmearth_data.browse.filters import EVERY_SHARE, Selection, from_query
from mmearth_data.browse.index import MS_PER_DAY
from mmearth_data.browse.plots import Histogram, TileMap, ramp
from mmearth_data.browse.texts import (
    figure_html,
    neighbours_html,
    script,
    selection_state,
    style_sheet,
    template,
    tile_html,
)
from mmearth_data.browse.views import nearest, step_in
from mmearth_data.errors import InputError, MMEarthError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from bokeh.document import Document

    from mmearth_data.browse.world import World

LOG = logging.getLogger(__name__)

REACH_PX = 12
"""Distance from a click within which the nearest tile is chosen."""
SETTLED_MS = 60
"""Time over which movements of the map are collected before it is redrawn."""
LONGEST_MS = 30_000
"""Time after which the page stops waiting for the figure of a tile."""
NEIGHBOURS = 8


class Channel(DataModel):
    """Messages between the script of the page and the server."""

    query: Any = String(default="", help="The filter, from the form.")
    ask: Any = String(default="", help="A tile, as JSON: its id, or a step from the chosen one.")
    colour: Any = String(default="", help="Key of the list of choices that colours the map.")
    selection: Any = String(default="{}", help="What is selected, as JSON.")
    shown: Any = String(default="{}", help="What the map shows, as JSON.")
    tile: Any = String(default="{}", help="Id and HTML of the chosen tile, as JSON.")
    figure: Any = String(default="", help="HTML of its figure.")
    neighbours: Any = String(default="", help="HTML of the tiles similar to it.")


class Visit:
    """One open page.

    Parameters
    ----------
    world
        The store.
    document
        The page's document, which is filled.
    prefix
        Path of the page on the server.
    query
        Filter with which it opens.
    """

    def __init__(self, world: World, document: Document, prefix: str, query: str = "") -> None:
        self.world, self.document, self.prefix = world, document, prefix
        self.selection = Selection(world.index)
        self.position: int | None = None
        self._waiting = False
        self.channel = Channel(name="channel")
        self.map = TileMap(world.index, self._moved)
        self.histograms = self._make_histograms()
        self._apply(query)
        self._connect()

    def _make_histograms(self) -> tuple[Histogram, ...]:
        index = self.world.index
        count = len(index.stored)
        shares = {round(count * share): f"{share:.0%}" for share in (0, 0.25, 0.5, 0.75, 1)}
        latitudes = {-60: "60° S", -30: "30° S", 0: "0°", 30: "30° N", 60: "60° N"}
        return (
            Histogram("dates", index.date_bars, dates=True, brushed=self._brush_dates),
            Histogram("latitudes", index.latitude_bars, labels=latitudes),
            Histogram("shares", index.share_bars, labels=shares, brushed=self._brush_shares),
        )

    def _connect(self) -> None:
        channel, document = self.channel, self.document
        channel.on_change("query", lambda attr, old, new: self._apply(new))
        channel.on_change("ask", lambda attr, old, new: self._answer(new))
        channel.on_change("colour", lambda attr, old, new: self._colour(new))
        self.map.plot.on_event(Tap, self._tapped)
        self.map.plot.tags = [channel]
        document.add_root(self.map.plot)
        for histogram in self.histograms:
            document.add_root(histogram.plot)
        document.js_on_event("document_ready", CustomJS(args={"channel": channel}, code="browseTiles(channel)"))

    # ------------------------------------------------------------ filters

    def _apply(self, query: str) -> None:
        """Apply the filter of a query; one that cannot be read changes nothing."""
        try:
            self.selection.apply(from_query(query, self.world.index))
        except InputError as error:
            LOG.warning("A filter was not applied: %s", error)
        self._show_selection()

    def _brush_dates(self, begin: float, end: float) -> None:
        first, last = (int(np.floor(ms / MS_PER_DAY)) for ms in (begin, end))
        self.selection.change(first_day=first, last_day=last)
        self._show_selection()

    def _brush_shares(self, low: float, high: float) -> None:
        count = len(self.world.index.stored)
        shares = (np.clip(np.ceil(low), 0, count) / count, np.clip(np.floor(high), 0, count) / count)
        rounded = (float(np.floor(100 * shares[0]) / 100), float(np.ceil(100 * shares[1]) / 100))
        self.selection.change(share=rounded if rounded[0] <= rounded[1] else EVERY_SHARE)
        self._show_selection()

    def _colour(self, key: str) -> None:
        self.map.colour = next((facet for facet in self.world.facets if facet.key == key), None)
        self._fill_map()

    def _show_selection(self) -> None:
        self.channel.selection = json.dumps(selection_state(self.world, self.selection))
        for histogram in self.histograms:
            histogram.refresh(self.selection.mask)
        self._fill_map()

    # ------------------------------------------------------------ map

    def _moved(self) -> None:
        """Schedule a redraw of the map; further movements until then are combined."""
        if not self._waiting:
            self._waiting = True
            self.document.add_timeout_callback(self._settled, SETTLED_MS)

    def _settled(self) -> None:
        self._waiting = False
        self._fill_map()

    def _fill_map(self) -> None:
        self.map.keep_shape()
        self.channel.shown = json.dumps(self.map.refresh(self.selection.mask))

    def _tapped(self, event: Any) -> None:  # noqa: ANN401 - Bokeh's types do not know which event comes
        view, (width, _) = self.map.view, self.map.size_px
        reach = REACH_PX * (view.east - view.west) / width
        found = None if event.x is None else nearest(self.world.index, self.selection.mask, event.x, event.y, reach)
        if found is not None:
            self.choose(found)

    # ------------------------------------------------------------ tiles

    def _answer(self, text: str) -> None:
        """Show the tile that the page requests."""
        asked = json.loads(text)
        if "step" in asked:
            position = step_in(self.selection.mask, self.position, 1 if asked["step"] > 0 else -1)
            if position is None:
                self._refuse("No tile is selected; relax the filters.")
            else:
                self.choose(position)
            return
        try:
            self.choose(self.world.index.position(str(asked.get("id", ""))))
        except InputError as error:
            self._refuse(str(error))

    def _refuse(self, problem: str) -> None:
        html = template("problem.html").render(problem=problem)
        self.channel.tile = json.dumps({"id": "", "html": html})

    def choose(self, position: int) -> None:
        """Show a tile: its facts immediately, its figure and its neighbours when they are ready."""
        self.position = position
        world, channel = self.world, self.channel
        if self.map.choose(position):
            self._moved()
        thumbnail, problem = _thumbnail(world, position)
        name = world.index.name(position)
        channel.tile = json.dumps({"id": name, "html": tile_html(world, position, thumbnail, problem)})
        channel.figure = template("working.html").render(id=name)
        self._when_done(world.pictures.figure(position), position, self._show_figure)
        if world.neighbours is not None:
            self._when_done(world.pictures.run(partial(_similar, world, position)), position, self._show_neighbours)
        self.document.add_timeout_callback(partial(self._give_up, position), LONGEST_MS)

    def _when_done(self, future: Future[Any], position: int, show: Any) -> None:  # noqa: ANN401 - takes what the future has
        def schedule(done: Future[Any]) -> None:
            self.document.add_next_tick_callback(partial(self._finish, done, position, show))

        future.add_done_callback(schedule)

    def _finish(self, done: Future[Any], position: int, show: Any) -> None:  # noqa: ANN401 - see above
        """Show a result, unless another tile was chosen in the meantime."""
        if position == self.position and not done.cancelled():
            show(done, position)

    def _show_figure(self, done: Future[bytes], position: int) -> None:
        problem = _problem(done.exception())
        if problem:
            self.channel.figure = template("problem.html").render(problem=problem)
        else:
            self.channel.figure = figure_html(self.world, position, self.prefix)

    def _show_neighbours(self, done: Future[list[tuple[int, float, bytes | None]] | None], position: int) -> None:
        problem = _problem(done.exception())
        found = None if problem else done.result()
        if problem or found is None:
            text = problem or "This tile has no embedding."
            self.channel.neighbours = template("problem.html").render(problem=text)
        else:
            self.channel.neighbours = neighbours_html(self.world, found)

    def _give_up(self, position: int) -> None:
        waiting = template("working.html").render(id=self.world.index.name(position))
        if position == self.position and self.channel.figure == waiting:
            text = f"The figure takes longer than {LONGEST_MS // 1000} s; select the tile again to keep waiting."
            self.channel.figure = template("problem.html").render(problem=text)


def _thumbnail(world: World, position: int) -> tuple[bytes | None, str]:
    """Small picture of a tile, or None and the problem."""
    try:
        return world.pictures.thumbnail(position), ""
    except (MMEarthError, OSError) as error:
        return None, _problem(error)


def _similar(world: World, position: int) -> list[tuple[int, float, bytes | None]] | None:
    """Position, similarity and small picture of the tiles most similar to one; None if it has no embedding."""
    assert world.neighbours is not None
    found = world.neighbours.find(position, NEIGHBOURS)
    return None if found is None else [(at, near, _thumbnail(world, at)[0]) for at, near in found]


def _problem(error: BaseException | None) -> str:
    """One line about an error; empty if there is none."""
    if error is None:
        return ""
    if isinstance(error, MMEarthError):
        return str(error)
    LOG.warning("A picture failed.", exc_info=error)
    return f"The picture cannot be drawn: {type(error).__name__}: {error}"


HISTOGRAMS = (
    {"name": "dates", "title": "Date of the scene", "hint": "Drag to select a period."},
    {"name": "latitudes", "title": "Latitude", "hint": ""},
    {"name": "shares", "title": "Observed modalities", "hint": "Drag to select a range."},
)


def fill_document(world: World, prefix: str, policy: str, document: Document) -> None:
    """Make a page for a new visitor.

    Parameters
    ----------
    world
        The store.
    prefix
        Path of the page on the server.
    policy
        Content security policy of the page.
    document
        The page's document, which is filled.
    """
    Visit(world, document, prefix, _query_of(document))
    document.title = f"{world.store.path.name}: {len(world.index):,} tiles"
    document.template = template("browse.html")
    document.template_variables.update(prefix=prefix, policy=policy, **_variables(world))


def _variables(world: World) -> dict[str, Any]:
    """Values of the template that are equal for all visitors."""
    store, period = world.store, world.index.period
    first, last = ("", "") if period is None else (str(np.datetime64(day, "D")) for day in period)
    return {
        "name": store.path.name,
        "path": str(store.path),
        "style": style_sheet(),
        "script": script(),
        "ramp": ", ".join(ramp(9)),
        "synthetic": store.synthetic,
        "finished": store.finished,
        "notes": world.notes,
        "total": len(world.index),
        "facets": world.facets,
        "stored": world.index.stored,
        "first": first,
        "last": last,
        "histograms": HISTOGRAMS,
        "has_neighbours": world.neighbours is not None,
        "embeddings": world.neighbours.path.name if world.neighbours else "",
        "footer": _footer(world),
    }


def _query_of(document: Document) -> str:
    """Query of the URL with which the page was opened."""
    context: Any = document.session_context
    request = None if context is None else context.request
    if request is None:
        return ""
    return urlencode(
        [(name, value.decode(errors="replace")) for name, values in request.arguments.items() for value in values]
    )


def _footer(world: World) -> str:
    pixels = "Synthetic pixels: computed, not measured. " if world.store.synthetic else ""
    return f"{pixels}Land: Natural Earth (public domain). Web Mercator. Served locally; other machines have no access."
