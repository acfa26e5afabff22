"""``String``, ``Number.*``, ``List.*``, ``Dictionary`` and algorithms of no class: values that Python has types for.

Indices may be negative: they count from the end. Keys of dictionaries are sorted, as Earth Engine keeps them.
"""

from __future__ import annotations

import json
import math
import random
import re
from functools import reduce
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator.algorithms.arithmetic import BINARY, CASTS, UNARY, Number, narrow, real
from mmearth_data.emulator.algorithms.formatting import formatted, text_of
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.patterns import Pattern, all_matching
from mmearth_data.emulator.graph.registry import encode, function, functions, type_name
from mmearth_data.emulator.graph.values import Date, ErrorMargin, is_number
from mmearth_data.emulator.server.work import check, room_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.emulator.graph.registry import Context, Value

    Values = list[Value]
    Entries = dict[str, Value]

FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}


def same(left: Value, right: Value) -> bool:
    """Whether two values are equal; 1 equals 1.0, true does not equal 1."""
    alike = type(left) is type(right) or not (isinstance(left, bool) or isinstance(right, bool))
    return alike and left == right


def sort_key(value: Value) -> tuple[int, Value]:
    """Order of values of several types: null, numbers, texts, dates, others."""
    if value is None:
        return 0, 0
    if is_number(value):
        return 1, value
    if isinstance(value, str):
        return 2, value
    return (3, value.ms) if isinstance(value, Date) else (4, str(encode(value)))


function("IsEqual")(lambda left, right: same(left, right))
function("ObjectType")(lambda value: getattr(value, "element_type", None) or type_name(value))
function("Describe")(lambda input: encode(input))
function("ErrorMargin")(lambda value, unit: ErrorMargin(math.inf if value is None else value, unit))

# ---------------------------------------------------------------- strings


def _pattern(function: str, regex: str, flags: str) -> Pattern:
    """Pattern with the flags of the reference; others change nothing."""
    return Pattern(function, regex, sum(FLAGS.get(flag, 0) for flag in set(flags)))


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
        "slice": lambda string, start, end: string[start:end],
        "split": lambda string, regex, flags: (
            _pattern("String.split", regex, flags).split(string) if regex else list(string)
        ),
        "toLowerCase": lambda string: string.lower(),
        "toUpperCase": lambda string: string.upper(),
        "trim": lambda string: string.strip(),
    },
)


function("String")(lambda input: text_of(input))


@function("String.decodeJSON")
def _decode_json(string: str) -> Value:
    try:
        return json.loads(string)
    except ValueError:
        raise EmulatorError("String.decodeJSON: Invalid JSON.") from None


@function("String.match")
def _match(input: str, regex: str, flags: str) -> Values:
    """First match and its groups; with flag ``g`` all matches; an empty list if there is none."""
    pattern = _pattern("String.match", regex, flags)
    return [*pattern.all(input)] if "g" in flags else pattern.first(input)


@function("String.replace")
def _replace(input: str, regex: str, replacement: str, flags: str) -> str:
    """Replace the first match, or all with flag ``g``; ``$1`` is the first group, ``$0`` the whole match."""
    everywhere, pattern = "g" in flags, _pattern("String.replace", regex, flags)
    hits = len(pattern.all(input)) if everywhere else 1
    room_for(len(input) * (1 + replacement.count("$")) + hits * len(replacement))
    return pattern.substituted(replacement, input, everywhere=everywhere)


# ---------------------------------------------------------------- numbers


def _binary(operation: Callable[[Any, Any], Number]) -> Callable[..., Number]:
    return lambda left, right: narrow(operation(left, right))


def _unary(operation: Callable[[Any], Number]) -> Callable[..., Number]:
    return lambda input: operation(input)


functions("Number", {name: _binary(row.number) for name, row in BINARY.items()})
functions("Number", {name: _unary(row.number) for name, row in {**UNARY, **CASTS}.items()})
functions(
    "Number",
    {
        "gamma": _unary(real(math.gamma)),
        "erf": _unary(math.erf),
        "erfc": _unary(math.erfc),
        "erfInv": lambda input: NormalDist().inv_cdf((input + 1) / 2) / math.sqrt(2),
        "erfcInv": lambda input: NormalDist().inv_cdf(1 - input / 2) / math.sqrt(2),
        "clamp": lambda number, min, max: min if number < min else max if number > max else number,
        "unitScale": lambda number, min, max: (number - min) / (max - min),
    },
)


function("Number.format")(lambda number, pattern: formatted(number, pattern))


@function("Number.parse")
def _parse_number(input: str, radix: int) -> Number:
    try:
        return int(input, radix)
    except ValueError:
        pass
    try:
        return float(input)
    except ValueError:
        raise EmulatorError(f"Number.parse: Can't parse '{input}' as a number.") from None


# ---------------------------------------------------------------- lists


def _at(name: str, list: Values, index: int) -> int:
    """Index of an element that exists, counted from the start."""
    at = index + len(list) if index < 0 else index
    if not 0 <= at < len(list):
        raise EmulatorError(
            f"{name}: List index must be between 0 and {len(list) - 1}, or -1 and {-len(list)}. Found {index}."
        )
    return at


def _index(values: Values, element: Value) -> int:
    check()
    return next((k for k, value in enumerate(values) if same(value, element)), -1)


def _without(values: Values, at: int, *instead: Value) -> Values:
    return values if at < 0 else [*values[:at], *instead, *values[at + 1 :]]


def _find(values: Values, target: Values, order: range) -> int:
    return next((k for k in order if all(same(a, b) for a, b in zip(values[k:], target, strict=False))), -1)


functions(
    "List",
    {
        "add": lambda list, element: [*list, element],
        "cat": lambda list, other: [*list, *other],
        "contains": lambda list, element: _index(list, element) >= 0,
        "containsAll": lambda list, other: all(_index(list, element) >= 0 for element in other),
        "equals": lambda list, other: len(list) == len(other) and all(map(same, list, other)),
        "filter": lambda list, filter: [value for value in list if filter.test(value, None)],
        "frequency": lambda list, element: sum(same(value, element) for value in list),
        "get getNumber getString getGeometry": lambda list, index: list[_at("List.get", list, index)],
        "indexOf": lambda list, element: _index(list, element),
        "indexOfSublist": lambda list, target: _find(list, target, range(len(list) - len(target) + 1)),
        "iterate": lambda list, function, first: reduce(lambda result, value: function(value, result), list, first),
        "lastIndexOfSubList": lambda list, target: _find(list, target, range(len(list) - len(target), -1, -1)),
        "length size": lambda list: len(list),
        "remove": lambda list, element: _without(list, _index(list, element)),
        "removeAll": lambda list, other: [value for value in list if _index(other, value) < 0],
        "repeat": lambda value, count: [value] * room_for(count),
        "replace": lambda list, oldval, newval: _without(list, _index(list, oldval), newval),
        "replaceAll": lambda list, oldval, newval: [newval if same(value, oldval) else value for value in list],
        "reverse": lambda list: list[::-1],
        "set": lambda list, index, element: _without(list, _at("List.set", list, index), element),
        "slice": lambda list, start, end, step: list[start:end:step],
        "unzip": lambda list: [[pair[k] for pair in list] for k in (0, 1)],
        "zip": lambda list, other: [[a, b] for a, b in zip(list, other, strict=False)],
    },
)


@function("List.distinct")
def _distinct(list: Values) -> Values:
    kept: Values = []
    for value in list:
        if _index(kept, value) < 0:
            kept.append(value)
    return kept


@function("List.flatten")
def _flatten(list: Values) -> Values:
    flat: Values = []
    for value in list:
        flat += _flatten(value) if isinstance(value, type(list)) else [value]
        room_for(len(flat))
    return flat


@function("List.insert")
def _insert(list: Values, index: int, element: Value) -> Values:
    at = index + len(list) + 1 if index < 0 else index
    return [*list[:at], element, *list[at:]]


@function("List.join")
def _join(list: Values, separator: str) -> str:
    texts, size = [], 0
    for value in list:
        texts.append(text_of(value))
        size = room_for(size + len(texts[-1]) + len(separator))
    return separator.join(texts)


@function("List.map")
def _map(list: Values, baseAlgorithm: Callable[[Value], Value], dropNulls: bool) -> Values:
    mapped = [baseAlgorithm(value) for value in list]
    return [value for value in mapped if value is not None] if dropNulls else mapped


@function("List.rotate")
def _rotate(list: Values, distance: int) -> Values:
    shift = distance % len(list) if list else 0
    return list[shift:] + list[:shift]


@function("List.sequence")
def _sequence(start: float, end: float | None, step: float, count: int | None) -> Values:
    """Numbers from start to end (included) in steps, or a given number of them."""
    if count is not None:
        pace = step if end is None or count < 2 else (end - start) / (count - 1)
        return [start + k * pace for k in range(room_for(count))]
    if end is None or step == 0:
        raise EmulatorError("List.sequence: Expected an end or a count, and a step other than 0.")
    return [start + k * step for k in range(max(room_for((end - start) / step + 1e-9) + 1, 0))]


@function("List.shuffle")
def _shuffle(list: Values, seed: Value) -> Values:
    order = list[:]
    if seed is not False:
        random.Random(repr(seed)).shuffle(order)
    return order


@function("List.sort")
def _sort(list: Values, keys: Values | None) -> Values:
    if keys is None:
        return sorted(list, key=sort_key)
    if len(keys) != len(list):
        raise EmulatorError("List.sort: The list and its keys must have the same length.")
    return [list[k] for k in sorted(range(len(list)), key=lambda k: sort_key(keys[k]))]


@function("List.splice")
def _splice(list: Values, start: int, count: int, other: Values | None) -> Values:
    first = start + len(list) if start < 0 else start
    return [*list[:first], *(other or []), *list[first + count :]]


@function("List.swap")
def _swap(list: Values, pos1: int, pos2: int) -> Values:
    swapped, a, b = list[:], _at("List.swap", list, pos1), _at("List.swap", list, pos2)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    return swapped


# ---------------------------------------------------------------- dictionaries


def _present(name: str, dictionary: Entries, keys: list[str]) -> list[str]:
    if lost := [key for key in keys if key not in dictionary]:
        raise EmulatorError(f"{name}: Dictionary does not contain key: '{lost[0]}'.")
    return keys


@function("Dictionary")
def _dictionary(input: Value) -> Entries:
    if input is None:
        return {}
    if isinstance(input, dict):
        return input
    if isinstance(input, list) and len(input) % 2 == 0 and all(isinstance(key, str) for key in input[::2]):
        return dict(zip(input[::2], input[1::2], strict=True))
    raise EmulatorError("Dictionary: expected a dictionary, or a list of keys and values in turn.")


@function("Dictionary.fromLists")
def _from_lists(keys: list[str], values: Values) -> Entries:
    if len(keys) != len(values):
        raise EmulatorError(f"Dictionary.fromLists: {len(keys)} keys, but {len(values)} values.")
    return dict(zip(keys, values, strict=True))


@function("Dictionary.get")
def _get(dictionary: Entries, key: str, defaultValue: Value = None) -> Value:
    value = dictionary.get(key, defaultValue)
    return dictionary[_present("Dictionary.get", dictionary, [key])[0]] if value is None else value


@function("Dictionary.values")
def _values(dictionary: Entries, keys: list[str] | None) -> Values:
    chosen = sorted(dictionary) if keys is None else keys
    return [dictionary[key] for key in _present("Dictionary.values", dictionary, chosen)]


def _matches(name: str, dictionary: Entries, selectors: list[str], ignore: bool) -> list[str]:
    found: list[str] = []
    for selector in selectors:
        matched = [selector] if selector in dictionary else all_matching(name, selector, sorted(dictionary))
        found += matched if matched or ignore else _present(name, dictionary, [selector])
    return found


@function("Dictionary.select")
def _select(dictionary: Entries, selectors: list[str], ignoreMissing: bool) -> Entries:
    return {key: dictionary[key] for key in _matches("Dictionary.select", dictionary, selectors, ignoreMissing)}


@function("Dictionary.remove")
def _remove(dictionary: Entries, selectors: list[str], ignoreMissing: bool) -> Entries:
    gone = set(_matches("Dictionary.remove", dictionary, selectors, ignoreMissing))
    return {key: value for key, value in dictionary.items() if key not in gone}


@function("Dictionary.rename")
def _rename(dictionary: Entries, from_: list[str], to: list[str], overwrite: bool) -> Entries:
    if len(from_) != len(to):
        raise EmulatorError("Dictionary.rename: The from and to lists must have the same length.")
    names = dict(zip(_present("Dictionary.rename", dictionary, from_), to, strict=True))
    kept = {key: value for key, value in dictionary.items() if key not in names}
    if clash := [key for key in to if key in kept and not overwrite]:
        raise EmulatorError(f"Dictionary.rename: Key '{clash[0]}' already exists.")
    return kept | {names[key]: dictionary[key] for key in from_}


@function("Dictionary.toImage")
def _to_image(dictionary: Entries, names: list[str] | None, context: Context) -> Value:
    chosen = sorted(dictionary) if names is None else names
    image = context.call("Image.constant", value=[dictionary[name] for name in chosen])
    return context.call("Image.rename", input=image, names=chosen)


@function("Dictionary.combine")
def _combine(first: Entries, second: Entries, overwrite: bool) -> Entries:
    """Entries of both dictionaries that are not null."""
    one, other = ({key: value for key, value in each.items() if value is not None} for each in (first, second))
    return one | other if overwrite else other | one


functions(
    "Dictionary",
    {
        "contains": lambda dictionary, key: key in dictionary,
        "getNumber getString getGeometry": lambda dictionary, key: _get(dictionary, key),
        "keys": lambda dictionary: sorted(dictionary),
        "map": lambda dictionary, baseAlgorithm: {k: baseAlgorithm(k, dictionary[k]) for k in sorted(dictionary)},
        "set": lambda dictionary, key, value: dictionary | {key: value},
        "size": lambda dictionary: len(dictionary),
    },
)
