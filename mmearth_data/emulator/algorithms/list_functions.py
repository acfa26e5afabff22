"""``List.*``. Places may be negative: they count from the end."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import encode, function, functions
from mmearth_data.emulator.graph.values import Date, is_number
from mmearth_data.emulator.server.work import check, room_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.emulator.graph.registry import Value

    Values = list[Value]


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


def _place(name: str, list: Values, index: int) -> int:
    place = index + len(list) if index < 0 else index
    if not 0 <= place < len(list):
        raise EmulatorError(
            f"{name}: List index must be between 0 and {len(list) - 1}, or -1 and {-len(list)}. Found {index}."
        )
    return place


def _index(values: Values, element: Value) -> int:
    check()
    return next((k for k, value in enumerate(values) if same(value, element)), -1)


def _without(values: Values, place: int, *instead: Value) -> Values:
    """Replace the element at a place; nothing where there is no such place."""
    return values if place < 0 else [*values[:place], *instead, *values[place + 1 :]]


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
        "get getNumber getString getGeometry": lambda list, index: list[_place("List.get", list, index)],
        "indexOf": lambda list, element: _index(list, element),
        "indexOfSublist": lambda list, target: _find(list, target, range(len(list) - len(target) + 1)),
        "lastIndexOfSubList": lambda list, target: _find(list, target, range(len(list) - len(target), -1, -1)),
        "length size": lambda list: len(list),
        "remove": lambda list, element: _without(list, _index(list, element)),
        "removeAll": lambda list, other: [value for value in list if _index(other, value) < 0],
        "repeat": lambda value, count: [value] * room_for(count),
        "replace": lambda list, oldval, newval: _without(list, _index(list, oldval), newval),
        "replaceAll": lambda list, oldval, newval: [newval if same(value, oldval) else value for value in list],
        "reverse": lambda list: list[::-1],
        "set": lambda list, index, element: _without(list, _place("List.set", list, index), element),
        "slice": lambda list, start, end=None, step=None: list[start:end:step],
        "unzip": lambda list: [[pair[k] for pair in list] for k in (0, 1)],
        "zip": lambda list, other: [[a, b] for a, b in zip(list, other, strict=False)],
    },
)


@function("List.distinct")
def distinct(list: Values) -> Values:
    """First of equal elements."""
    kept: Values = []
    for value in list:
        if _index(kept, value) < 0:
            kept.append(value)
    return kept


@function("List.flatten")
def flatten(list: Values) -> Values:
    """Elements of all lists within."""
    flat: Values = []
    for value in list:
        flat += flatten(value) if isinstance(value, type(list)) else [value]
        room_for(len(flat))
    return flat


@function("List.insert")
def insert(list: Values, index: int, element: Value) -> Values:
    """Put an element before a place."""
    place = index + len(list) + 1 if index < 0 else index
    return [*list[:place], element, *list[place:]]


@function("List.iterate")
def iterate(list: Values, function: Callable[[Value, Value], Value], first: Value) -> Value:
    """Apply a function of element and result so far."""
    for value in list:
        first = function(value, first)
    return first


@function("List.join")
def join(list: Values, separator: str = "") -> str:
    """Text of the elements."""
    texts, size = [], 0
    for value in list:
        texts.append(value if isinstance(value, str) else str(encode(value)))
        size = room_for(size + len(texts[-1]) + len(separator))
    return separator.join(texts)


@function("List.map")
def map_list(list: Values, baseAlgorithm: Callable[[Value], Value], dropNulls: bool = False) -> Values:
    """Apply a function to each."""
    mapped = [baseAlgorithm(value) for value in list]
    return [value for value in mapped if value is not None] if dropNulls else mapped


@function("List.rotate")
def rotate(list: Values, distance: int) -> Values:
    """Move all elements to the left, round the end."""
    shift = distance % len(list) if list else 0
    return list[shift:] + list[:shift]


@function("List.sequence")
def sequence(start: float, end: float | None = None, step: float = 1, count: int | None = None) -> Values:
    """Numbers from start to end (included) in steps, or so many of them."""
    if count is not None:
        pace = step if end is None or count < 2 else (end - start) / (count - 1)
        return [start + k * pace for k in range(room_for(count))]
    if end is None or step == 0:
        raise EmulatorError("List.sequence: Expected an end or a count, and a step other than 0.")
    return [start + k * step for k in range(max(room_for((end - start) / step + 1e-9) + 1, 0))]


@function("List.shuffle")
def shuffle(list: Values, seed: Value = None) -> Values:
    """Random order, decided by the seed."""
    order = list[:]
    if seed is not False:
        random.Random(repr(seed)).shuffle(order)
    return order


@function("List.sort")
def sort(list: Values, keys: Values | None = None) -> Values:
    """Ascending, by the elements or by keys of their own."""
    if keys is None:
        return sorted(list, key=sort_key)
    if len(keys) != len(list):
        raise EmulatorError("List.sort: The list and its keys must have the same length.")
    return [list[k] for k in sorted(range(len(list)), key=lambda k: sort_key(keys[k]))]


@function("List.splice")
def splice(list: Values, start: int, count: int, other: Values | None = None) -> Values:
    """Replace a run of elements."""
    first = start + len(list) if start < 0 else start
    return [*list[:first], *(other or []), *list[first + count :]]


@function("List.swap")
def swap(list: Values, pos1: int, pos2: int) -> Values:
    """Exchange two elements."""
    swapped, a, b = list[:], _place("List.swap", list, pos1), _place("List.swap", list, pos2)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    return swapped
