"""Injected faults: failures of networks and services that a client must survive."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mmearth_data.emulator.errors import EmulatorError, too_many_requests
from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

REFUSALS: Final = {
    "429": too_many_requests(),
    "503": EmulatorError("The service is currently unavailable.", 503),
    "400": EmulatorError("Emulated fault: this request is refused for good."),
    "401": EmulatorError(
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        401,
    ),
}
"""Faults that are answers."""
KINDS = (*REFUSALS, "hang", "truncate", "reset", "restricted")


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault (one of `KINDS`), and the share of requests that it affects (0-1)."""

    kind: str
    rate: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"--fault: expected KIND:RATE with KIND one of {' '.join(KINDS)}, got {self.kind!r}.")
        if not 0 <= self.rate <= 1:
            raise InputError(f"--fault {self.kind}: expected a rate from 0 to 1, got {self.rate:g}.")


def parse_fault(text: str) -> Fault:
    """Fault of a text such as ``429:0.2``. Raises `InputError` for another kind, or a rate outside 0 to 1."""
    kind, _, rate = text.partition(":")
    try:
        return Fault(kind, float(rate))
    except ValueError:
        raise InputError(f"--fault: expected KIND:RATE such as 429:0.2, got {text!r}.") from None


class Troublemaker:
    """Chooses at most one fault for each request, at random by a seed, in the order of arrival."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self._faults = tuple(faults)
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> str | None:
        """Kind of the next request's fault, or None."""
        if not self._faults:
            return None
        with self._lock:
            left = self._random.random()
        for fault in self._faults:
            left -= fault.rate
            if left < 0:
                return fault.kind
        return None
