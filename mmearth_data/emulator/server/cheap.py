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


class Latest(Generic[Form, Answer]):
    """Values by key, for several threads; the oldest are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Form, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Form) -> Answer | None:
        """Value of a key; None where it is not known."""
        with self._lock:
            return self._kept.get(key)

    def keep(self, key: Form, value: Answer) -> Answer:
        """Keep a value, and return it."""
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value


class Remembered(Latest[Form, Answer]):
    """Answers by the form of what was asked."""

    def __init__(self) -> None:
        super().__init__(KEPT)

    def answer(self, form: Form, compute: Callable[[], Answer]) -> Answer:
        """Answer that was computed for the first of its form.

        What computing raises is raised, and nothing is kept.
        """
        known = self.get(form)
        return self.keep(form, compute()) if known is None else known
