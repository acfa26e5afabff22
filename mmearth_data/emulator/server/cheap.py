"""Answers of the load-test mode, which are reused for requests of the same form.

While pixels are cheap an answer depends on the requested bands, not on location or time. Requests that differ only in
scenes, dates, coordinates and the position of the grid get the same answer, so that a load test measures the client.
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
"""Differences between requests that get the same answer: scenes; dates and coordinates; UTM zones."""


def form_of(body: bytes) -> bytes:
    """Request without locations and times; numbers of up to five digits stay, as they may determine types."""
    return ZONE.sub(b"EPSG:*", NUMBER.sub(b"#", SCENE.sub(b'/*"', body)))


class Remembered(Generic[Form, Answer]):
    """Latest values by key, shared by threads."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._kept: OrderedDict[Form, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Form) -> Answer | None:
        """Value of a key, or None."""
        with self._lock:
            return self._kept.get(key)

    def keep(self, key: Form, value: Answer) -> Answer:
        """Keep a value, and return it."""
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value

    def answer(self, form: Form, compute: Callable[[], Answer]) -> Answer:
        """Answer that was computed for the first request of its form; errors are not kept."""
        known = self.get(form)
        return self.keep(form, compute()) if known is None else known
