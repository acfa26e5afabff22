"""What the emulated service refuses, in Earth Engine's own words, with the HTTP status that goes with them.

The wordings are those of the service as its users report them; `mmearth_data.emulator.server.server` turns an
`EmulatorError` into the JSON body that Google's APIs send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyproj.exceptions import ProjError
from shapely.errors import GEOSException

if TYPE_CHECKING:
    from collections.abc import Iterable

STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    411: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
"""HTTP status -> `google.rpc.Code`."""

MAX_ELEMENTS = 5000
MAX_BYTES = 48 * 2**20  # "Total request size ... must be less than or equal to 50331648 bytes"
MAX_BANDS = 1024
NOT_FOUND = "not found (does not exist or caller does not have access). The emulator has no such asset; Earth Engine may have it."
"""The service's message about an asset, and an addition by the emulator: a missing asset may exist on the service."""
UNCOMPUTABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, GEOSException, ProjError)
"""What an algorithm may raise about arguments that it was not written for."""


class EmulatorError(Exception):
    """A request that Earth Engine would refuse, in the service's words and with its HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, object]:
        """Body of the answer, JSON-ready."""
        name = STATUS_NAMES.get(self.status, "UNKNOWN")
        return {"error": {"code": self.status, "message": self.message, "status": name}}


def wrong_type(function: str, argument: str, expected: str, actual: str, value: object = None) -> EmulatorError:
    """Refuse an argument of another type than the signature declares."""
    shown = "" if value is None else f"\nActual value: {value}"
    return EmulatorError(
        f"{function}, argument '{argument}': Invalid type.\nExpected type: {expected}.\nActual type: {actual}.{shown}"
    )


def not_computed(what: str, error: BaseException) -> EmulatorError:
    """Refuse what the emulator cannot compute with the given arguments; whether Earth Engine can is not known."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return EmulatorError(
        f"{what}: the emulator cannot compute this with the given arguments ({reason}); Earth Engine may."
    )


def not_emulated(function: str) -> EmulatorError:
    """Refuse an algorithm that Earth Engine has and the emulator does not."""
    return EmulatorError(f"{function}: Earth Engine has this function; the emulator does not.")


def band_not_found(function: str, pattern: object, bands: Iterable[str]) -> EmulatorError:
    """Refuse a pattern that matches no band; the service has another message for an image without bands."""
    listed = ", ".join(bands)
    if listed:
        return EmulatorError(
            f"{function}: Band pattern '{pattern}' did not match any bands. Available bands: [{listed}]"
        )
    return EmulatorError(
        f"{function}: Band pattern '{pattern}' was applied to an Image with no bands. "
        "See https://developers.google.com/earth-engine/guides/debugging#no-bands"
    )


def too_large(size: int) -> EmulatorError:
    """Refuse more bytes in one answer than the service sends."""
    return EmulatorError(f"Total request size ({size} bytes) must be less than or equal to {MAX_BYTES} bytes.")


def timed_out() -> EmulatorError:
    """Refuse requests that take longer than the service computes."""
    return EmulatorError("Computation timed out.")


def memory_exceeded() -> EmulatorError:
    """Refuse requests that need more memory than the service allows."""
    return EmulatorError("User memory limit exceeded.")


def too_many_requests() -> EmulatorError:
    """Refuse what is above the quota."""
    return EmulatorError(
        "Too Many Requests: Request was rejected because the request rate or concurrency limit was exceeded.", 429
    )
