"""The two documents that Earth Engine serves and that its Python client ships: signatures and discovery.

They are found beside the installed client, which is not imported.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmearth_data.errors import InputError


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


def discovery(root_url: str) -> dict[str, Any]:
    """Describe the API to the client, served from ``root_url`` (with a slash at the end)."""
    document = _read("cloud_api_discovery_document.json")
    document |= {"rootUrl": root_url, "baseUrl": root_url, "mtlsRootUrl": root_url, "servicePath": ""}
    return document
