"""Earth Engine's own list of algorithms as values, against which every call is checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from mmearth_data.emulator.graph.client_files import algorithms


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an algorithm, of a declared type such as ``Image<unknown bands>`` or ``List<String>``.

    An optional one may be left out or null; the default is a JSON value.
    """

    name: str
    kind: str
    optional: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """An algorithm as Earth Engine describes it."""

    name: str
    arguments: tuple[Argument, ...]
    returns: str


@cache
def signatures() -> dict[str, Signature]:
    """Algorithm name -> signature; 991 of them."""
    found = {}
    for entry in algorithms()["algorithms"]:
        name = entry["name"].removeprefix("algorithms/")
        arguments = tuple(
            Argument(a["argumentName"], a["type"], a.get("optional", False), a.get("defaultValue"))
            for a in entry.get("arguments", [])
        )
        found[name] = Signature(name, arguments, entry["returnType"])
    return found
