"""``String`` and ``String.*``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.patterns import Pattern
from mmearth_data.emulator.graph.registry import encode, function
from mmearth_data.emulator.server.work import room_for

if TYPE_CHECKING:
    from mmearth_data.emulator.graph.registry import Value

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}


def _pattern(function: str, regex: str, flags: str) -> Pattern:
    """Pattern with the flags of the reference; others change nothing."""
    return Pattern(function, regex, sum(_FLAGS.get(flag, 0) for flag in set(flags)))


@function("String")
def to_text(input: Value) -> str:
    """Text of a value."""
    if isinstance(input, str):
        return input
    encoded = encode(input)
    return json.dumps(encoded) if isinstance(encoded, (dict, list)) else str(encoded)


@function("String.cat")
def cat(string1: str, string2: str) -> str:
    """Join two texts."""
    return string1 + string2


@function("String.compareTo")
def compare(string1: str, string2: str) -> int:
    """Order of two texts: -1, 0 or 1."""
    return (string1 > string2) - (string1 < string2)


@function("String.equals")
def equals(reference: str, target: Value) -> bool:
    """Whether they are the same."""
    return bool(reference == target)


@function("String.decodeJSON")
def decode_json(string: str) -> Value:
    """Value of a JSON text."""
    try:
        return json.loads(string)
    except ValueError:
        raise EmulatorError("String.decodeJSON: Invalid JSON.") from None


@function("String.encodeJSON")
def encode_json(object: Value) -> str:
    """JSON text of a value."""
    return json.dumps(encode(object), separators=(",", ":"))


@function("String.index")
def index(target: str, pattern: str) -> int:
    """First place of a text in another; -1 where it is not."""
    return target.find(pattern)


@function("String.rindex")
def rindex(target: str, pattern: str) -> int:
    """Last place of a text in another; -1 where it is not."""
    return target.rfind(pattern)


@function("String.length")
def length(string: str) -> int:
    """Count characters."""
    return len(string)


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


@function("String.slice")
def slice_text(string: str, start: int, end: int | None = None) -> str:
    """Part of a text; negative places count from its end."""
    return string[start:end]


@function("String.split")
def split(string: str, regex: str, flags: str = "") -> list[str]:
    """Parts between matches; an empty pattern splits into characters."""
    return list(string) if not regex else _pattern("String.split", regex, flags).split(string)


@function("String.toLowerCase")
def lower(string: str) -> str:
    """Lower case."""
    return string.lower()


@function("String.toUpperCase")
def upper(string: str) -> str:
    """Upper case."""
    return string.upper()


@function("String.trim")
def trim(string: str) -> str:
    """Without white space at the ends."""
    return string.strip()
