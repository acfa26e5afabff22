"""Answers of the load-test mode that are given again to requests of the same form.

While pixels are cheap an answer depends on which bands a request asks for, not on where or when. Two requests that
differ only in the scenes they load, in dates, coordinates and the place of the grid are answered alike, so that a
load test measures the client.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Form = TypeVar("Form")
Answer = TypeVar("Answer")
KEPT = 1024
SCENE = re.compile(rb'/\w*\d{8}\w*"')
NUMBER = re.compile(rb"-?\d[\d.eE+-]{5,}")
ZONE = re.compile(rb"EPSG:32\d{3}")
"""What may differ between two requests that are answered alike: scenes; dates and coordinates; UTM zones."""


def form_of(body: bytes) -> bytes:
    """Request without what says where and when; numbers of up to five digits stay, as they may decide types."""
    return ZONE.sub(b"EPSG:*", NUMBER.sub(b"#", SCENE.sub(b'/*"', body)))


class Remembered(Generic[Form, Answer]):
    """Answers by the form of what was asked; the oldest are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[Form, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, form: Form, compute: Callable[[], Answer]) -> Answer:
        """Answer that was computed for the first of its form.

        What computing raises is raised, and nothing is kept.
        """
        with self._lock:
            if form in self._known:
                return self._known[form]
        made = compute()
        with self._lock:
            self._known[form] = made
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return made


class CheapAnswers(Remembered[bytes, "tuple[bytes, str]"]):
    """(body, content type) of requests, by their form."""

    def answer(self, form: bytes, compute: Callable[[], tuple[bytes, str]]) -> tuple[bytes, str]:
        """Answer a request as the first of its form was."""
        return super().answer(form_of(form), compute)
