"""``String`` and ``String.*``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.patterns import Pattern
from mmearth_data.emulator.graph.registry import encode, function, functions
from mmearth_data.emulator.server.work import room_for

if TYPE_CHECKING:
    from mmearth_data.emulator.graph.registry import Value

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}


def _pattern(function: str, regex: str, flags: str) -> Pattern:
    """Pattern with the flags of the reference; others change nothing."""
    return Pattern(function, regex, sum(_FLAGS.get(flag, 0) for flag in set(flags)))


functions(
    "String",
    {
        "cat": lambda string1, string2: string1 + string2,
        "compareTo": lambda string1, string2: (string1 > string2) - (string1 < string2),
        "equals": lambda reference, target: bool(reference == target),
        "encodeJSON": lambda object: json.dumps(encode(object), separators=(",", ":")),
        "index": lambda target, pattern: target.find(pattern),
        "rindex": lambda target, pattern: target.rfind(pattern),
        "length": lambda string: len(string),
        "slice": lambda string, start, end=None: string[start:end],
        "toLowerCase": lambda string: string.lower(),
        "toUpperCase": lambda string: string.upper(),
        "trim": lambda string: string.strip(),
    },
)


@function("String")
def to_text(input: Value) -> str:
    """Text of a value."""
    if isinstance(input, str):
        return input
    encoded = encode(input)
    return json.dumps(encoded) if isinstance(encoded, (dict, list)) else str(encoded)


@function("String.decodeJSON")
def decode_json(string: str) -> Value:
    """Value of a JSON text."""
    try:
        return json.loads(string)
    except ValueError:
        raise EmulatorError("String.decodeJSON: Invalid JSON.") from None


@function("String.match")
def match(input: str, regex: str, flags: str = "") -> list[Value]:
    """First match and its groups; with flag ``g`` all matches; nothing is an empty list."""
    pattern = _pattern("String.match", regex, flags)
    return [*pattern.all(input)] if "g" in flags else pattern.first(input)


@function("String.replace")
def replace(input: str, regex: str, replacement: str, flags: str = "") -> str:
    """Replace the first match, or all with flag ``g``; ``$1`` is the first group, ``$0`` all."""
    everywhere, pattern = "g" in flags, _pattern("String.replace", regex, flags)
    hits = len(pattern.all(input)) if everywhere else 1
    room_for(len(input) * (1 + replacement.count("$")) + hits * len(replacement))
    return pattern.substituted(replacement, input, everywhere=everywhere)


@function("String.split")
def split(string: str, regex: str, flags: str = "") -> list[str]:
    """Parts between matches; an empty pattern splits into characters."""
    return list(string) if not regex else _pattern("String.split", regex, flags).split(string)
