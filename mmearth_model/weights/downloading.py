"""Download files over HTTPS, or over plain HTTP from the local machine; interrupted downloads resume."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mmearth_data import InputError, MMEarthError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

TIMEOUT_S = 60
CHUNK_BYTES = 2**20
REFUSED = frozenset({401, 403})
ABSENT = frozenset({404, 410})
PARTIAL_CONTENT = 206


class DownloadFailed(MMEarthError):  # noqa: N818 - named by what happened
    """A file could not be downloaded."""


class Unreachable(DownloadFailed):
    """The server did not answer."""


def is_loopback(host: str | None) -> bool:
    """Whether a host name is that of the local machine.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("example.org")
    (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def check_transport(url: str) -> None:
    """Refuse a URL over which others could read or change what is downloaded.

    Raises
    ------
    InputError
        For anything but ``https://``, or ``http://`` to the local machine.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise InputError(f"{url}: expected an address that begins with https://, got {parts.scheme}://; use https.")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to encrypted addresses only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: ANN401 - urllib's signature
        check_transport(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> http.client.HTTPResponse:
    """Send a request; certificates are verified.

    Raises
    ------
    FileNotFoundError
        If the server has no such file.
    DownloadFailed
        If the server refuses (`Unreachable` if it does not answer), with the reason.
    InputError
        If the address, or one that it redirects to, is not encrypted.
    """
    check_transport(url)
    context = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(context, _Redirects())
    try:
        answer: http.client.HTTPResponse = opener.open(
            urllib.request.Request(url, headers=dict(headers or {}), method=method), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in ABSENT:
            raise FileNotFoundError(url) from None
        remedy = "ask its owner for access" if error.code in REFUSED else "try again later"
        raise DownloadFailed(f"the server answered {error.code} {error.reason}; {remedy}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(str(getattr(error, "reason", None) or error)) from None
    return answer


class HttpFolder:
    """Files below a URL; the server need not list them.

    Parameters
    ----------
    url
        Address of the folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, name: str, limit: int) -> bytes:
        """Content of a small file, at most ``limit`` bytes of it; raises like `open_url`."""
        with open_url(self._address(name)) as answer:
            return b"".join(_blocks(answer, limit))

    def stamp(self, name: str) -> tuple[int | None, str]:
        """Size of a file in bytes if the server reports it, and the tag of its content; raises like `open_url`."""
        with open_url(self._address(name), method="HEAD") as answer:
            return _size_of(answer), _tag_of(answer)

    def open_at(self, name: str, start: int, tag: str) -> tuple[int, Iterator[bytes]]:
        """Open a file whose first ``start`` bytes are present, if its tag is unchanged.

        Returns the offset from which the server continues, 0 if it cannot, and the bytes from there on; raises like
        `open_url`.
        """
        wanted = {"Range": f"bytes={start}-", "If-Range": tag} if start and tag else {}
        answer = open_url(self._address(name), wanted)
        return start if answer.status == PARTIAL_CONTENT else 0, _blocks(answer)

    def _address(self, name: str) -> str:
        return f"{self.url}/{quote(name)}"


def _size_of(answer: http.client.HTTPResponse) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _tag_of(answer: http.client.HTTPResponse) -> str:
    """Strong entity tag, the only kind with which a download may resume (RFC 9110, 13.1.5), or time of modification."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _blocks(answer: http.client.HTTPResponse, limit: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a response, at most ``limit``, and close it."""
    left = limit
    with answer:
        try:
            while block := answer.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES)):
                left = None if left is None else left - len(block)
                yield block
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the connection was interrupted ({error})") from None


def receive(
    blocks: Iterator[bytes], target: BinaryIO, size: int | None, report: Callable[[int], None] | None = None
) -> None:
    """Write blocks from the current position of a file, and check its size.

    ``report`` is called with the size so far. Raises `DownloadFailed` if bytes are missing.
    """
    for block in blocks:
        target.write(block)
        if report is not None:
            report(target.tell())
    if size is not None and target.tell() != size:
        raise DownloadFailed(f"only {target.tell()} of {size} bytes were received")


def download(url: str, target: BinaryIO, report: Callable[[int], None] | None = None) -> None:
    """Download one file into an empty stream; raises like `open_url` and `receive`."""
    answer = open_url(url)
    receive(_blocks(answer), target, _size_of(answer), report)
