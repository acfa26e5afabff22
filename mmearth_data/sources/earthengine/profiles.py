"""Cost of requests in the service's own unit of compute.

A request that carries the client's profiling header is answered with the id of a profile; another request turns ids
into a table, whose first column is EECU-seconds. The service keeps no profile of a request that failed.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ee

from mmearth_data.sources.earthengine.expressions import Template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COLUMN = "EECU"
"""Start of the heading of the column that is summed."""


class Profiles:
    """Ids of profiles by kind of request, and the number of requests; shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, list[str]] = {}
        self._requests: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Request the profile of the request that this thread makes within the block."""
        found: list[str] = []
        with ee.data.profiling(found.append):
            yield
        with self._lock:
            self._ids.setdefault(kind, []).extend(found)
            self._requests[kind] = self._requests.get(kind, 0) + 1

    def took(self, kind: str, seconds: float) -> None:
        """Record the seconds of one request."""
        with self._lock:
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def kinds(self) -> Mapping[str, tuple[list[str], int, float]]:
        """Kind of request -> ids, answered requests, total seconds."""
        with self._lock:
            return {
                kind: (list(self._ids[kind]), count, self._seconds.get(kind, 0.0))
                for kind, count in self._requests.items()
            }


def profile_request(ids: list[str]) -> str:
    """Encode the expression that fetches the table of given profiles."""
    # The client hides this function from its documentation and calls it in the same way (`ee.profilePrinting`).
    call = ee.ApiFunction.lookup("Profile.getProfiles").call(ids=ids)
    return Template(call).fill({})


def eecu_seconds(table: object) -> float | None:
    """Sum the EECU-seconds of a table of profiles; None if it has no such column.

    The table is text: a heading that begins with the unit, then one line for each operation; ``-`` where nothing was
    counted.
    """
    lines = str(table).splitlines() if isinstance(table, str) else []
    heading = next(
        (at for at, line in enumerate(lines) if line.split()[:1] and line.split()[0].startswith(COLUMN)), None
    )
    if heading is None:
        return None
    cells = [line.split()[0] for line in lines[heading + 1 :] if line.strip()]
    return float(sum(float(cell) for cell in cells if cell.replace(".", "", 1).isdigit()))
