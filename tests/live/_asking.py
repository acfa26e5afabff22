"""Send expressions, pixel requests and client calls to one server, through the session that builds use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ee
import numpy as np
from _fact import Answer, Fact
from googleapiclient.errors import HttpError

from mmearth_data.errors import MMEarthError, TileUnavailable
from mmearth_data.sources.earthengine.failures import classify
from mmearth_data.sources.earthengine.ledger import Ledger
from mmearth_data.sources.earthengine.pixels import array_of
from mmearth_data.sources.earthengine.quota import LocalLimiter
from mmearth_data.sources.earthengine.retry import Backoff
from mmearth_data.sources.earthengine.session import Session, SessionOptions, open_session

IN_FLIGHT = 8
BACKOFF = Backoff(attempts=5)
PIXEL_M = 10


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixels of an image on a grid. The answer is a list of rows; for several bands, an object with one list per band.

    Attributes
    ----------
    image
        Image to compute.
    west, north
        Upper-left corner.
    size
        (columns, rows).
    step
        Width of a pixel, positive, and its height, positive downwards.
    crs
        CRS of the grid.
    """

    image: ee.Image
    west: float
    north: float
    size: tuple[int, int] = (4, 4)
    step: tuple[float, float] = (PIXEL_M, PIXEL_M)
    crs: str = "EPSG:32632"

    def fields(self) -> dict[str, Any]:
        """Additional fields of the request."""
        transform = {"scaleX": self.step[0], "translateX": self.west, "scaleY": -self.step[1], "translateY": self.north}
        grid = {"dimensions": dict(zip(("width", "height"), self.size, strict=True)), "crsCode": self.crs}
        return {"fileFormat": "NPY", "grid": grid | {"affineTransform": transform}}


@dataclass(frozen=True, slots=True)
class Then:
    """Several questions, and a function of their answers."""

    parts: Sequence[object]
    make: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the client or the builder, made after everything else because it may change the client's state.

    Attributes
    ----------
    make
        Called with the server; its return value is the answer.
    """

    make: Callable[[Server], Any]


class Server:
    """One server, queried through the session of this process.

    Parameters
    ----------
    options
        The server to query.
    """

    def __init__(self, options: SessionOptions) -> None:
        self.options = options
        self.session: Session = open_session(options)
        self.limiter, self.ledger = LocalLimiter(IN_FLIGHT), Ledger()

    def answers(self, facts: Iterable[Fact]) -> dict[str, Answer]:
        """Answer to each fact, by name."""
        made = {fact.name: self._made(fact) for fact in facts}
        quick = {name: asked for name, asked in made.items() if not isinstance(asked, Call)}
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            found = dict(zip(quick, pool.map(self.answer, quick.values()), strict=True))
        found |= {name: self.answer(asked) for name, asked in made.items() if isinstance(asked, Call)}
        return {name: found[name] for name in made}

    def _made(self, fact: Fact) -> object:
        try:
            return fact.ask()
        except ee.EEException as error:  # the client refuses some requests itself
            return Answer(refused=f"by the client: {error}")

    def answer(self, asked: object) -> Answer:
        """Answer to a question, or the reason why there is none."""
        if isinstance(asked, Answer):
            return asked
        try:
            return Answer(value=self.value(asked))
        except (MMEarthError, ee.EEException) as error:
            return refusal(classify(error), error)
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # an answer of an unexpected form
            return Answer(value={"not of the expected form": f"{type(error).__name__}: {error}"})

    def value(self, asked: object) -> Any:
        """Value of a question, JSON-ready."""
        if isinstance(asked, Then):
            return asked.make(*map(self.value, asked.parts))
        if isinstance(asked, Call):
            return asked.make(self)
        if isinstance(asked, Pixels):
            pixels = self.session.compute_pixels(
                encoded(asked.image), asked.fields(), array_of, self.limiter, self.ledger
            )
            return rows(pixels)
        assert isinstance(asked, ee.ComputedObject), f"expected an expression or a request, got {asked!r}"
        return self.session.compute_value(encoded(asked), self.limiter, self.ledger)


def connect(url: str | None) -> Server:
    """Sign in; None selects the service itself."""
    return Server(SessionOptions(url=url, connections=IN_FLIGHT, backoff=BACKOFF))


def encoded(expression: ee.ComputedObject) -> str:
    """Expression as JSON."""
    return json.dumps(ee.serializer.encode(expression, for_cloud_api=True))


def rows(pixels: np.ndarray[Any, Any]) -> Any:
    """Pixels of an answer, JSON-ready."""
    names = pixels.dtype.names
    if names is None:
        return pixels.tolist()
    return pixels[names[0]].tolist() if len(names) == 1 else {name: pixels[name].tolist() for name in names}


def refusal(sorted_error: MMEarthError, error: Exception) -> Answer:
    """Answer for a request that the server refused or could not answer."""
    if isinstance(sorted_error, TileUnavailable):
        words, cause = sorted_error.detail, error.__cause__ or error.__context__
        marked = words.startswith("HTTP ") or not isinstance(cause, HttpError)
        return Answer(refused=words if marked else f"HTTP {int(cause.resp.status)}: {words}")
    return Answer(unasked=str(sorted_error))
