"""Answers of the REST interface, apart from HTTP: from paths and JSON bodies to status and bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator.assets.directory import describe_asset, list_assets, plain_id
from mmearth_data.emulator.errors import MAX_BYTES, NOT_FOUND, EmulatorError, too_large
from mmearth_data.emulator.graph.client_files import algorithms, discovery, methods
from mmearth_data.emulator.graph.evaluate import Expression, Request
from mmearth_data.emulator.graph.values import answered
from mmearth_data.emulator.server import listings
from mmearth_data.emulator.server.cheap import Remembered, form_of
from mmearth_data.emulator.server.output import map_tile, render_pixels
from mmearth_data.emulator.server.profiles import Profiles
from mmearth_data.emulator.server.work import Work, working

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmearth_data.emulator.algorithms.collections import Collection
    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.planet.planet import Planet

JSON = "application/json; charset=UTF-8"
MAX_REQUEST_BYTES = 10 * 2**20
KEPT_REQUESTS = 4096
GZIPPED = b"\x1f\x8b"
LOOK_S = 0.1
"""Interval at which a waiting request checks that its client is still connected."""


@dataclass(frozen=True)
class Answer:
    """Body, content type and HTTP status of an answer."""

    body: bytes
    content_type: str = JSON
    status: int = 200


def answer_json(value: Value, status: int = 200) -> Answer:
    """Answer of a JSON value."""
    return Answer(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), JSON, status)


def answer_error(error: EmulatorError) -> Answer:
    """Return the answer that refuses a request."""
    return answer_json(error.body(), error.status)


@dataclass(frozen=True)
class Call:
    """One parsed request."""

    method: str  # ``GET`` or ``POST``
    path: str  # Path without version and query
    query: Mapping[str, str]
    body: bytes  # Body as sent
    root_url: str  # URL under which the client reaches the server
    work: Work = field(default_factory=Work)  # Limits for computing the answer

    def json(self) -> dict[str, Any]:
        """Body as JSON."""
        try:
            body = self.body
            if body[:2] == GZIPPED:  # of a body that is too long, only the beginning
                body = zlib.decompressobj(wbits=31).decompress(body, MAX_REQUEST_BYTES + 1)
            if len(body) > MAX_REQUEST_BYTES:
                raise payload_too_large()
            parsed = json.loads(body or b"{}")
        except (ValueError, zlib.error):
            raise EmulatorError("Invalid JSON payload received.") from None
        if not isinstance(parsed, dict):
            raise EmulatorError("Invalid JSON payload received. Expected an object.")
        return parsed


def payload_too_large() -> EmulatorError:
    """Refuse a body longer than the service accepts."""
    return EmulatorError(f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")


@dataclass(frozen=True)
class Service:
    """The service: a planet behind Earth Engine's paths (its attributes are those of `Request`)."""

    planet: Planet
    cheap_pixels: bool = False
    profiles: Profiles = field(default_factory=Profiles)
    _kept: Remembered[str, dict[str, Any]] = field(default_factory=lambda: Remembered(KEPT_REQUESTS))
    _cheap: Remembered[bytes, tuple[bytes, str]] = field(default_factory=Remembered)
    _turn: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        """Limit the requests computed at a time: more threads than processors only contend for Python's lock."""
        turns = 1 if self.cheap_pixels else os.cpu_count() or 1
        object.__setattr__(self, "_turn", threading.BoundedSemaphore(turns))

    def route(self, verb: str, path: str) -> tuple[str, Callable[[Call], Answer]]:
        """(name in the ledger, function that answers) of a path without its version."""
        for of_verb, pattern, name, handler in _ROUTES:
            if re.fullmatch(of_verb, verb) and re.fullmatch(pattern, path):
                return name, partial(handler, self)
        for name, of_verb, known in methods():
            if verb == of_verb and known.fullmatch(path):
                return name, partial(_refuse, name)
        raise EmulatorError(f"Method not found: {verb} {path}", 404)

    @contextmanager
    def computing(self, work: Work) -> Iterator[Request]:
        """Context of a request while it is being computed."""
        while not self._turn.acquire(timeout=LOOK_S):
            work.check()
        try:
            with working(work):
                yield Request(self.planet, self.cheap_pixels, self.profiles, work)
        finally:
            self._turn.release()

    @staticmethod
    def evaluate(body: Mapping[str, Any], context: Request, kind: str = "Object") -> Value:
        """Value of the expression in a body, of the declared type."""
        if "expression" not in body:
            raise EmulatorError("Expression must be specified.")
        return context.promote(Expression(body["expression"], context).value(), kind)

    # ------------------------------------------------------------ computing

    def compute_value(self, call: Call) -> Answer:
        """Answer ``value:compute``."""
        body = call.json()
        with self.computing(call.work) as context:
            return _limited({"result": answered(self.evaluate(body, context))})

    def compute_pixels(self, call: Call) -> Answer:
        """Answer ``image:computePixels``."""
        if not self.cheap_pixels:
            return self._pixels(call.json(), call.work)

        def compute() -> tuple[bytes, str]:
            answer = self._pixels(call.json(), call.work)
            return answer.body, answer.content_type

        return Answer(*self._cheap.answer(form_of(call.body), compute))

    def _pixels(self, body: Mapping[str, Any], work: Work) -> Answer:
        with self.computing(work) as context:
            image = self.evaluate(body, context, "Image")
            return Answer(*render_pixels(image, body, context))

    def compute_page(self, kind: str, page: Callable[..., dict[str, Any]], call: Call) -> Answer:
        """Answer ``table:computeFeatures`` or ``imageCollection:computeImages``."""
        body = call.json()
        with self.computing(call.work) as context:
            collection = self.evaluate(body, context, kind)
            return _limited(page(collection, body.get("pageSize"), body.get("pageToken")))

    # ------------------------------------------------------------ stored requests

    def keep(self, call: Call) -> Answer:
        """Store a request for pixels, a map or a table; a GET of its name computes it."""
        body = call.json()
        if "expression" not in body:
            raise EmulatorError("Expression must be specified.")
        name = f"{call.path}/{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]}"
        self._kept.keep(name, body)
        return answer_json({"name": name})

    def _found(self, name: str) -> dict[str, Any]:
        body = self._kept.get(name)
        if body is None:
            raise EmulatorError(f"'{name}' not found. The emulator stores only the last {KEPT_REQUESTS} requests.", 404)
        return body

    def kept_pixels(self, call: Call) -> Answer:
        """Compute the pixels of a stored request."""
        return self._pixels(self._found(call.path.removesuffix(":getPixels")), call.work)

    def kept_tile(self, call: Call) -> Answer:
        """Compute a tile of a stored map."""
        name, _, tile = call.path.partition("/tiles/")
        try:
            zoom, x, y = map(int, tile.split("/"))
        except ValueError:
            raise EmulatorError(f"Map tile '{tile}': expected zoom/x/y.") from None
        return self._pixels(self._found(name) | {"grid": map_tile(zoom, x, y)}, call.work)

    def kept_table(self, call: Call) -> Answer:
        """Compute the file of a stored table."""
        body = self._found(call.path.removesuffix(":getFeatures"))
        with self.computing(call.work) as context:
            collection = self.evaluate(body, context, "FeatureCollection")
            answer = Answer(*listings.table_file(collection, body.get("fileFormat") or "CSV", body.get("selectors")))
        return _of_size(answer)

    # ------------------------------------------------------------ assets

    def asset(self, call: Call) -> Answer:
        """Describe an asset."""
        with self.computing(call.work) as context:
            found = describe_asset(call.path, context)
        if found is None:
            raise _no_asset(call.path)
        return answer_json(found)

    def asset_pixels(self, call: Call) -> Answer:
        """Answer ``assets:getPixels``: pixels of a stored image."""
        asset, body = call.path.removesuffix(":getPixels"), call.json()
        with self.computing(call.work) as context:
            return Answer(*render_pixels(context.call("Image.load", id=asset), body, context))

    def assets_below(self, call: Call) -> Answer:
        """List the images of a collection, or the assets of a folder."""
        name, _, method = call.path.rpartition(":")
        with self.computing(call.work) as context:
            found = describe_asset(name, context) or {}
            if found.get("type") == "IMAGE_COLLECTION":
                collection = context.call("ImageCollection.load", id=plain_id(name))
                answer = listings.image_list(collection, call.query, context)
                return _limited({"images" if method == "listImages" else "assets": answer.pop("assets"), **answer})
        if not found:
            raise _no_asset(name)
        if found["type"] != "FOLDER":
            raise EmulatorError(f"Asset '{name}' is neither a folder nor an image collection.")
        return answer_json({"assets": list_assets(f"{found['name']}/")})

    def features_of(self, call: Call) -> Answer:
        """Answer ``assets:listFeatures``: rows of a stored table."""
        asset = plain_id(call.path.removesuffix(":listFeatures"))
        with self.computing(call.work) as context:
            collection: Collection = context.call("Collection.loadTable", tableId=asset)
            if text := call.query.get("filter"):
                collection = collection.where(listings.query_filter(text, context))
            if "region" in call.query:
                collection = collection.where(listings.region_filter(call.query["region"], context))
            return _limited(listings.page(collection, call.query.get("pageSize"), call.query.get("pageToken")))


def _list_project(service: Service, call: Call) -> Answer:
    """List the assets of a project: those of the data catalog, and assets older than projects."""
    return answer_json({"assets": list_assets(f"{call.path.removesuffix(':listAssets')}/assets/")})


def _no_operation(service: Service, call: Call) -> Answer:
    raise EmulatorError(f"Operation '{call.path.partition(':')[0]}' not found: the emulator runs no tasks.", 404)


def _refuse(method: str, call: Call) -> Answer:
    raise EmulatorError(
        f"{method.removeprefix('projects.')}: Earth Engine has this method; the emulator does not. It only reads assets "
        "and computes; it does not store, export or import anything."
    )


def _no_asset(name: str) -> EmulatorError:
    return EmulatorError(f"Asset '{name}' {NOT_FOUND}", 404)


def _limited(value: Value) -> Answer:
    return _of_size(answer_json(value))


def _of_size(answer: Answer) -> Answer:
    if len(answer.body) > MAX_BYTES:
        raise too_large(len(answer.body))
    return answer


def _features(service: Service, call: Call) -> Answer:
    return service.compute_page("FeatureCollection", listings.page, call)


def _images(service: Service, call: Call) -> Answer:
    return service.compute_page("ImageCollection", listings.image_page, call)


_PROJECT = r"projects/[^/:]+"
_ROUTES: tuple[tuple[str, str, str, Any], ...] = (
    ("GET", r"\$discovery/rest", "discovery", lambda _, call: answer_json(discovery(call.root_url))),
    ("GET", f"{_PROJECT}/algorithms", "algorithms", lambda *_: answer_json(algorithms())),
    ("POST", f"{_PROJECT}/value:compute", "value:compute", Service.compute_value),
    ("POST", f"{_PROJECT}/image:computePixels", "image:computePixels", Service.compute_pixels),
    ("POST", f"{_PROJECT}/table:computeFeatures", "table:computeFeatures", _features),
    ("POST", f"{_PROJECT}/imageCollection:computeImages", "imageCollection:computeImages", _images),
    ("POST", f"{_PROJECT}/(thumbnails|maps|tables)", "thumbnails", Service.keep),
    ("GET", f"{_PROJECT}/thumbnails/[^/:]+:getPixels", "thumbnails:getPixels", Service.kept_pixels),
    ("GET", f"{_PROJECT}/maps/[^/:]+/tiles/.+", "maps:tiles", Service.kept_tile),
    ("GET", f"{_PROJECT}/tables/[^/:]+:getFeatures", "tables:getFeatures", Service.kept_table),
    ("POST", f"{_PROJECT}/assets/[^:]+:getPixels", "assets:getPixels", Service.asset_pixels),
    ("GET", f"{_PROJECT}/assets/[^:]+:listFeatures", "assets:listFeatures", Service.features_of),
    ("GET", f"{_PROJECT}:listAssets", "listAssets", _list_project),
    ("GET", f"{_PROJECT}/assets/[^:]+:list(Assets|Images)", "listAssets", Service.assets_below),
    ("GET", f"{_PROJECT}/assets/[^:]+", "assets", Service.asset),
    ("GET", f"{_PROJECT}/operations", "operations", lambda *_: answer_json({"operations": []})),
    ("(GET|POST|DELETE)", f"{_PROJECT}/operations/.+", "operations", _no_operation),
)
COMPUTING = frozenset(name for _, _, name, _ in _ROUTES) - {"discovery", "algorithms", "operations"}
"""Names of the requests that faults, latency and quotas concern."""
