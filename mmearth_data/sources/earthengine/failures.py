"""What a failed request means: wait, request less, try another location, or stop.

The client hides the HTTP error in ``EEException.__context__``; status and headers are read from there.
"""

from __future__ import annotations

import email.utils
import re
import time
from typing import TYPE_CHECKING

import google.auth.exceptions
from googleapiclient.errors import HttpError

from mmearth_data.errors import InputError, MMEarthError, RetryLater, TileUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSING = frozenset({429, 500, 502, 503, 504})
TOO_MUCH = re.compile(
    r"timed out|memory limit|memory capacity|too large|must be less than or equal to|exceeds? .*limit", re.I
)
TOO_DEAR = re.compile(r"timed out|memory limit|memory capacity", re.I)
AGGREGATIONS = re.compile(r"too many concurrent aggregations", re.I)
UNREADABLE = re.compile(r"HTTP 404|denied on resource|may not exist|does not have access|not found", re.I)
"""Messages of the service for an asset that this account cannot read; missing and forbidden are not distinguished."""
REFUSED, TOO_LARGE = "earthengine_refused", "earthengine_too_large"
"""Reasons of rejected candidates."""
FIXES = {
    r"has not been used|is disabled|SERVICE_DISABLED": "enable the Earth Engine API in that project "
    "(https://console.cloud.google.com/apis/library/earthengine.googleapis.com)",
    r"not registered": "register the project for Earth Engine (https://console.cloud.google.com/earth-engine)",
    r"eligib|non-?commercial": "verify the project's non-commercial eligibility "
    "(https://console.cloud.google.com/earth-engine/configuration)",
    r"serviceusage|required permission to use project": "ask for the role Service Usage Consumer in that project, or name "
    "another with --ee-project",
}
"""Message of a refusal (403) -> remedy."""
LONGEST_ASKED_S = 600.0
"""Longest wait that a Retry-After header can request; longer waits are shortened to it.

Other clients limit it too: urllib3 2.8 to 6 hours, botocore 1.44 to a few seconds; google-api-core 2.44 ignores the header.
"""
DECIMAL = re.compile(r"\s*[0-9]+(\.[0-9]+)?\s*")
OTHER_FIX = "check that the signed-in account may use Earth Engine in this project, or name another (--ee-project)"
SIGN_IN_AGAIN = "sign in again: `earthengine authenticate --force`, or renew the service account's key"


class Throttled(RetryLater):
    """Too many requests (429)."""


class TooManyAggregations(Throttled):
    """Too many concurrent aggregations (429). They are counted within one request, so a smaller request has fewer."""


class TooMuch(TileUnavailable):
    """The service could answer a smaller request: it ran out of time or memory, or the answer was too large."""


class TooDear(TooMuch):
    """The service ran out of time or memory, whatever the size of the answer."""


class AccessRefused(InputError):  # noqa: N818 - named by what happened, as its siblings are
    """Signing in failed, or the project may not do this; every further request would fail too."""


class SignInMissing(InputError):  # noqa: N818
    """There are no credentials, or no project, to sign in with."""


def classify(error: BaseException) -> MMEarthError:
    """Classify the exception of a request by what can be done about it."""
    if isinstance(error, MMEarthError):
        return error
    for cause in _chain(error):
        if isinstance(cause, HttpError):
            return _by_status(cause)
        if isinstance(cause, google.auth.exceptions.TransportError):
            return RetryLater(f"sign-in server not reached: {_words(cause)}")
        if isinstance(cause, google.auth.exceptions.GoogleAuthError):
            return access_refused(f"credentials were refused: {_words(cause)}", SIGN_IN_AGAIN)
        if isinstance(cause, (ConnectionError, TimeoutError)):
            return RetryLater(_words(cause))
    return RetryLater(f"undecodable answer: {type(error).__name__}: {_words(error)}")


def access_refused(what: str, fix: str) -> AccessRefused:
    """Error that stops a build, with its remedy."""
    return AccessRefused(
        f"Earth Engine: {what.rstrip('.')}. To continue, {fix}; then run the same command again. "
        "A new store needs no account with --source synthetic."
    )


def _by_status(error: HttpError) -> MMEarthError:
    status, words = int(error.resp.status), _reason(error)
    if status in PASSING:
        wait_s = retry_after_s(str(error.resp.get("retry-after", "")), str(error.resp.get("date", "")))
        many = TooManyAggregations if AGGREGATIONS.search(words) else Throttled
        return (many if status == 429 else RetryLater)(f"HTTP {status}: {words}", wait_s)
    if status == 401:
        return access_refused(f"credentials were refused (HTTP 401): {words}", SIGN_IN_AGAIN)
    if status == 403:
        fix = next((fix for pattern, fix in FIXES.items() if re.search(pattern, words, re.I)), OTHER_FIX)
        return access_refused(f"access was refused (HTTP 403): {words}", fix)
    if status in {400, 413} and TOO_MUCH.search(words):
        return (TooDear if TOO_DEAR.search(words) else TooMuch)(TOO_LARGE, words)
    return TileUnavailable(REFUSED, f"HTTP {status}: {words}")


def retry_after_s(header: str, sent: str = "") -> float | None:
    """Seconds requested by a Retry-After header, a number or a date, at most `LONGEST_ASKED_S`; None if it is neither.

    A date is compared with that of the answer (``sent``, its Date header), not with this machine's clock, which may be
    wrong.
    """
    if DECIMAL.fullmatch(header):
        return min(float(header), LONGEST_ASKED_S)
    then, now = _seconds_of(header), _seconds_of(sent)
    if then is None:
        return None
    return min(max(0.0, then - (time.time() if now is None else now)), LONGEST_ASKED_S)


def _seconds_of(date: str) -> float | None:
    """Seconds since 1970 of a date in a header; None if it is not one."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _reason(error: HttpError) -> str:
    return " ".join(str(error.reason or error.content[:200].decode("utf-8", "replace")).split())


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _words(error: BaseException) -> str:
    text = error.args[0] if error.args else ""
    return " ".join(str(text).split()) or type(error).__name__
