"""Which server is contacted, and whether it may receive credentials."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import requests

from mmearth_data.errors import InputError

ENDPOINTS = {
    "high-volume": "https://earthengine-highvolume.googleapis.com",
    "standard": "https://earthengine.googleapis.com",
}
"""The service's own endpoints: for many small requests at once, or for few large ones."""
SERVICE_DOMAIN = ".googleapis.com"
"""Credentials are sent only to hosts of this domain."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that speaks the service's protocol."""

    url: str  # Scheme, host and port, without a trailing slash
    trusted: bool  # True within the service's own domain; elsewhere only anonymous credentials are ever sent


def resolve_endpoint(name: str = "high-volume", url: str | None = None) -> Endpoint:
    """Endpoint by name, or by URL.

    Raises `InputError` if the text is not a URL, or not https (plain http is allowed only to this machine).
    """
    if url is None:
        return Endpoint(ENDPOINTS[name], trusted=True)
    parts, host = _server(url)
    if parts.scheme == "http" and not _is_loopback(host):
        raise InputError(f"--ee-url: expected https, or http to this machine itself (127.0.0.1), got {url!r}.")
    trusted = parts.scheme == "https" and host.endswith(SERVICE_DOMAIN) and parts.port in {None, 443}
    return Endpoint(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", trusted)


def _server(url: str) -> tuple[SplitResult, str]:
    """Parts of the URL of a server, and its host."""
    try:
        parts = urlsplit(url)
        requests.Request("GET", url).prepare()  # checks the host
        more = parts.username or parts.query or parts.fragment or parts.port == 0
        if parts.scheme in {"http", "https"} and parts.hostname and not more:
            return parts, parts.hostname
    except ValueError:  # an impossible port, address or name
        pass
    raise InputError(f"--ee-url: expected a URL such as https://HOST or http://127.0.0.1:PORT, got {url!r}.")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
