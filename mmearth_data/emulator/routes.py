"""What the REST interface answers, apart from HTTP: paths and JSON bodies in, status and bytes out."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator import tables
from mmearth_data.emulator.assets import describe_asset, list_assets
from mmearth_data.emulator.cheap import CheapAnswers
from mmearth_data.emulator.client_files import algorithms, discovery
from mmearth_data.emulator.errors import MAX_BYTES, EmulatorError, too_large
from mmearth_data.emulator.evaluate import Expression, Request
from mmearth_data.emulator.output import render_pixels
from mmearth_data.emulator.profiles import Profiles
from mmearth_data.emulator.registry import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmearth_data.emulator.registry import Value
    from mmearth_data.sources.synthetic.planet import Planet

JSON = "application/json; charset=UTF-8"
MAX_REQUEST_BYTES = 10 * 2**20
KEPT_THUMBNAILS = 4096
PUBLIC = "projects/earthengine-public/assets/"
LEGACY = "projects/earthengine-legacy/assets/"
"""Where the client looks for ``users/...`` and for ``projects/...`` without ``assets``."""


@dataclass(frozen=True)
class Answer:
    """What goes back: status, body, type."""

    body: bytes
    content_type: str = JSON
    status: int = 200


def answer_json(value: Value, status: int = 200) -> Answer:
    """Answer of a JSON value."""
    return Answer(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), JSON, status)


def answer_error(error: EmulatorError) -> Answer:
    """Answer that refuses."""
    return answer_json(error.body(), error.status)


@dataclass(frozen=True)
class Call:
    """One request, taken apart.

    Attributes
    ----------
    method
        ``GET`` or ``POST``.
    path
        Without version and query.
    query
        Query parameters.
    body
        As sent.
    root_url
        Where the client finds the server.
    """

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    root_url: str

    def json(self) -> dict[str, Any]:
        """Body as JSON."""
        body = gzip.decompress(self.body) if self.body[:2] == b"\x1f\x8b" else self.body
        if len(body) > MAX_REQUEST_BYTES:
            raise EmulatorError(f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")
        try:
            parsed = json.loads(body or b"{}")
        except ValueError:
            raise EmulatorError("Invalid JSON payload received.") from None
        if not isinstance(parsed, dict):
            raise EmulatorError("Invalid JSON payload received. Expected an object.")
        return parsed


@dataclass(frozen=True)
class Service:
    """The service: a planet behind Earth Engine's paths.

    Attributes
    ----------
    planet
        What the assets hold.
    cheap_pixels
        True where pixels may be any.
    profiles
        What requests took that asked to be profiled.
    """

    planet: Planet
    cheap_pixels: bool = False
    profiles: Profiles = field(default_factory=Profiles)
    _thumbnails: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cheap: CheapAnswers = field(default_factory=CheapAnswers)
    _turn: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        """Let as many compute at a time as can: more threads only hand Python's lock around."""
        turns = 1 if self.cheap_pixels else os.cpu_count() or 1
        object.__setattr__(self, "_turn", threading.BoundedSemaphore(turns))

    def route(self, method: str, path: str) -> tuple[str, Callable[[Call], Answer]]:
        """(name in the ledger, function that answers) of a path without its version."""
        for of_method, pattern, name, handler in _ROUTES:
            if method == of_method and re.fullmatch(pattern, path):
                return name, partial(handler, self)
        raise EmulatorError(f"Method not found: {method} {path}", 404)

    def request(self) -> Request:
        """Context of a new request."""
        return Request(self.planet, self.cheap_pixels, self.profiles)

    def evaluate(self, body: Mapping[str, Any], context: Request) -> Value:
        """Value of the expression in a body."""
        if "expression" not in body:
            raise EmulatorError("Expression must be specified.")
        return Expression(body["expression"], context).value()

    def discover(self, call: Call) -> Answer:
        """Describe the API."""
        return answer_json(discovery(call.root_url))

    def list_algorithms(self, call: Call) -> Answer:
        """Send the signatures."""
        return answer_json(algorithms())

    def compute_value(self, call: Call) -> Answer:
        """Answer ``value:compute``."""
        body = call.json()
        with self._turn:
            result = encode(self.evaluate(body, self.request()))
        return _limited(answer_json({"result": result}))

    def compute_pixels(self, call: Call) -> Answer:
        """Answer ``image:computePixels``."""
        if not self.cheap_pixels:
            return self._pixels(call.json())

        def compute() -> tuple[bytes, str]:
            answer = self._pixels(call.json())
            return answer.body, answer.content_type

        return Answer(*self._cheap.answer(call.body, compute))

    def _pixels(self, body: Mapping[str, Any]) -> Answer:
        context = self.request()
        with self._turn:
            image = context.promote(self.evaluate(body, context), "Image")
            return Answer(*render_pixels(image, body, context))

    def compute_features(self, call: Call) -> Answer:
        """Answer ``table:computeFeatures``."""
        body, context = call.json(), self.request()
        collection = context.promote(self.evaluate(body, context), "FeatureCollection")
        page = tables.page(collection, body.get("pageSize"), body.get("pageToken"))
        return _limited(answer_json(page))

    def compute_images(self, call: Call) -> Answer:
        """Answer ``imageCollection:computeImages``."""
        body, context = call.json(), self.request()
        collection = context.promote(self.evaluate(body, context), "ImageCollection")
        return _limited(answer_json(tables.image_page(collection, body.get("pageSize"), body.get("pageToken"))))

    def create_thumbnail(self, call: Call) -> Answer:
        """Keep a request for pixels; a GET of its name computes them."""
        body = call.json()
        name = f"{call.path}/{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]}"
        with self._lock:
            self._thumbnails[name] = body
            while len(self._thumbnails) > KEPT_THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return answer_json({"name": name})

    def thumbnail_pixels(self, call: Call) -> Answer:
        """Compute the pixels of a kept request."""
        name = call.path.removesuffix(":getPixels")
        with self._lock:
            body = self._thumbnails.get(name)
        if body is None:
            raise EmulatorError(f"Thumbnail '{name}' not found.", 404)
        return self._pixels(body)

    def asset(self, call: Call) -> Answer:
        """Describe an asset."""
        asset = _asset_id(call.path)
        found = describe_asset(asset, self.request())
        if found is None:
            raise EmulatorError(f"Asset '{call.path}' not found (does not exist or caller does not have access).", 404)
        return answer_json(found)

    def asset_pixels(self, call: Call) -> Answer:
        """Answer ``assets:getPixels``: pixels of a stored image."""
        asset = _asset_id(call.path.removesuffix(":getPixels"))
        context = self.request()
        image = context.call("Image.load", id=asset)
        return Answer(*render_pixels(image, call.json(), context))

    def assets_below(self, call: Call) -> Answer:
        """List the assets: all belong to the public project."""
        public = call.path.startswith(PUBLIC.removesuffix("/assets/"))
        return answer_json({"assets": list_assets() if public else []})

    def features_of(self, call: Call) -> Answer:
        """Answer ``assets:listFeatures``: rows of a stored table."""
        asset = _asset_id(call.path.removesuffix(":listFeatures"))
        collection = self.request().call("Collection.loadTable", tableId=asset)
        size = call.query.get("pageSize")
        page = tables.page(collection, None if size is None else int(size), call.query.get("pageToken"))
        return _limited(answer_json(page))


def _asset_id(path: str) -> str:
    """Return the id that scripts use: neither public assets nor those of before there were projects carry one."""
    return path.removeprefix(PUBLIC).removeprefix(LEGACY)


def _limited(answer: Answer) -> Answer:
    if len(answer.body) > MAX_BYTES:
        raise too_large(len(answer.body))
    return answer


_PROJECT = r"projects/[^/:]+"
_ROUTES: tuple[tuple[str, str, str, Any], ...] = (
    ("GET", r"\$discovery/rest", "discovery", Service.discover),
    ("GET", f"{_PROJECT}/algorithms", "algorithms", Service.list_algorithms),
    ("POST", f"{_PROJECT}/value:compute", "value:compute", Service.compute_value),
    ("POST", f"{_PROJECT}/image:computePixels", "image:computePixels", Service.compute_pixels),
    ("POST", f"{_PROJECT}/table:computeFeatures", "table:computeFeatures", Service.compute_features),
    ("POST", f"{_PROJECT}/imageCollection:computeImages", "imageCollection:computeImages", Service.compute_images),
    ("POST", f"{_PROJECT}/thumbnails", "thumbnails", Service.create_thumbnail),
    ("GET", f"{_PROJECT}/thumbnails/[^/:]+:getPixels", "thumbnails:getPixels", Service.thumbnail_pixels),
    ("POST", f"{_PROJECT}/assets/[^:]+:getPixels", "assets:getPixels", Service.asset_pixels),
    ("GET", f"{_PROJECT}/assets/[^:]+:listFeatures", "assets:listFeatures", Service.features_of),
    ("GET", f"{_PROJECT}(/assets/[^:]+)?:listAssets", "listAssets", Service.assets_below),
    ("GET", f"{_PROJECT}/assets/[^:]+", "assets", Service.asset),
)
COMPUTING = frozenset(name for _, _, name, _ in _ROUTES) - {"discovery", "algorithms"}
"""Names of the requests that faults, latency and quotas concern."""
