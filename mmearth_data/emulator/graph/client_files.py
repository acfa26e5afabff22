"""The two documents that Earth Engine serves and that its Python client ships: signatures and discovery.

They are read from the installed client, which is not imported. The client's copy of the discovery document is years
older than the client; methods that the client has called since are added here as the REST reference documents them.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = "v1alpha"
"""Version of the paths in the document; the service also answers under ``v1``."""
PROJECT = "projects/{projectsId}"


class Method(NamedTuple):
    """A method of the REST interface."""

    name: str  # Such as ``projects.tables.create``
    verb: str
    of: str  # Parts of the resource name that its path starts with; ``parameter`` is the whole name
    parameter: str  # Name of the argument that holds it
    tail: str = ""  # Rest of the path
    query: tuple[str, ...] = ()


ADDED = (
    Method("projects.getConfig", "GET", f"{PROJECT}/config", "name"),
    Method("projects.updateConfig", "PATCH", f"{PROJECT}/config", "name", query=("updateMask",)),
    Method("projects.tables.create", "POST", PROJECT, "parent", "/tables", ("workloadTag",)),
    Method("projects.tables.getFeatures", "GET", f"{PROJECT}/tables/{{tablesId}}", "name", ":getFeatures"),
    Method("projects.featureView.create", "POST", PROJECT, "parent", "/featureView"),
    Method("projects.classifier.export", "POST", PROJECT, "project", "/classifier:export"),
    Method("projects.image.importExternal", "POST", PROJECT, "project", "/image:importExternal"),
    Method(
        "projects.assets.listFeatures",
        "GET",
        f"{PROJECT}/assets/{{assetsId}}",
        "asset",
        ":listFeatures",
        ("filter", "pageSize", "pageToken", "region"),
    ),
)
"""Methods that the client's copy of the document lacks, or has with other arguments than the client passes."""
ADDED_QUERY = {
    "projects.listAssets": ("filter", "view"),
    "projects.assets.listAssets": ("filter", "view"),
    "projects.thumbnails.create": ("workloadTag",),
    "projects.videoThumbnails.create": ("workloadTag",),
    "projects.filmstripThumbnails.create": ("workloadTag",),
    "projects.maps.create": ("workloadTag",),
}
"""Arguments that the client passes to methods of the document and that were added later."""


def _folder() -> Path:
    spec = find_spec("ee")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("The emulator needs the documents that earthengine-api ships: pip install earthengine-api.")
    return Path(spec.submodule_search_locations[0]) / "tests"


def _read(name: str) -> dict[str, Any]:
    path = _folder() / name
    if not path.is_file():
        raise InputError(f"Expected {path}, which earthengine-api 1.7 ships; install earthengine-api>=1.7.")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


@cache
def algorithms() -> dict[str, Any]:
    """Read what ``projects/*/algorithms`` answers."""
    return _read("algorithms.json")


@cache
def _document() -> dict[str, Any]:
    document = _read("cloud_api_discovery_document.json")
    for method in ADDED:
        *rooms, name = method.name.split(".")
        room = document
        for part in rooms:
            room = room.setdefault("resources", {}).setdefault(part, {})
        room.setdefault("methods", {})[name] = _described(method)
    found = dict(_walked(document))
    for name, query in ADDED_QUERY.items():
        found[name]["parameters"] |= _query(query)
    return document


def _described(method: Method) -> dict[str, Any]:
    pattern = re.sub(r"\{\w+\}", "[^/]+", method.of).replace("/assets/[^/]+", "/assets/.+")
    path = {"location": "path", "pattern": f"^{pattern}$", "required": True, "type": "string"}
    entry: dict[str, Any] = {
        "id": f"earthengine.{method.name}",
        "httpMethod": method.verb,
        "flatPath": f"{VERSION}/{method.of}{method.tail}",
        "path": f"{VERSION}/{{+{method.parameter}}}{method.tail}",
        "parameterOrder": [method.parameter],
        "parameters": {method.parameter: path, **_query(method.query)},
        "response": {"type": "any"},
    }
    return entry if method.verb == "GET" else entry | {"request": {"type": "any"}}


def _query(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"location": "query", "type": "string"} for name in names}


def _walked(room: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, method in room.get("methods", {}).items():
        yield f"{prefix}{name}", method
    for name, inner in room.get("resources", {}).items():
        yield from _walked(inner, f"{prefix}{name}.")


@cache
def methods() -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    """(name, HTTP verb, pattern of the path without its version) of every method."""
    found = []
    for name, method in _walked(_document()):
        path = re.escape(method["flatPath"].removeprefix(f"{VERSION}/"))
        path = re.sub(r"\\\{(\w+)\\\}", lambda m: "[^:]+" if m[1] == "assetsId" else "[^/:]+", path)
        found.append((name, str(method["httpMethod"]), re.compile(path)))
    return tuple(found)


def discovery(root_url: str) -> dict[str, Any]:
    """Describe the API to the client, served from ``root_url`` (with a slash at the end)."""
    return _document() | {"rootUrl": root_url, "baseUrl": root_url, "mtlsRootUrl": root_url, "servicePath": ""}
