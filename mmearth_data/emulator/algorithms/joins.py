"""``Join.*``: elements of one collection with those of another that fit them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmearth_data.emulator.algorithms.collections import Collection, Listed
from mmearth_data.emulator.algorithms.features import INDEX, Feature
from mmearth_data.emulator.algorithms.list_functions import sort_key
from mmearth_data.emulator.graph.registry import function, functions, named, only, promotion

if TYPE_CHECKING:
    from mmearth_data.emulator.algorithms.filters import Filter
    from mmearth_data.emulator.graph.registry import Value

Matches = Callable[["Value", Sequence["Value"]], "Iterator[Value]"]


@named("Join")
@dataclass(frozen=True)
class Join:
    """How pairs of elements become results."""

    results: Matches
    """(primary element, its matches in order) -> elements of the result."""


def _with(element: Value, key: str, value: Value) -> Value:
    return element.with_properties({**element.properties, key: value})


def _ordered(matches: Sequence[Value], ordering: str | None, *, ascending: bool) -> list[Value]:
    if ordering is None:
        return list(matches)
    return sorted(matches, key=lambda e: sort_key(e.properties.get(ordering)), reverse=not ascending)


functions(
    "Join",
    {
        "simple": lambda: Join(lambda element, matches: iter([element] if matches else [])),
        "inverted": lambda: Join(lambda element, matches: iter([] if matches else [element])),
    },
)


@function("Join.inner")
def inner(primaryKey: str = "primary", secondaryKey: str = "secondary") -> Join:
    """Pairs."""

    def pairs(element: Value, matches: Sequence[Value]) -> Iterator[Value]:
        for match in matches:
            names = [str(e.properties.get(INDEX)) for e in (element, match)]
            yield Feature(None, {primaryKey: element, secondaryKey: match, INDEX: "_".join(names)})

    return Join(pairs)


@function("Join.saveAll")
def save_all(matchesKey: str, ordering: str | None = None, ascending: bool = True, outer: bool = False) -> Join:
    """Elements with the list of their matches."""

    def results(element: Value, matches: Sequence[Value]) -> Iterator[Value]:
        if matches or outer:
            yield _with(element, matchesKey, _ordered(matches, ordering, ascending=ascending))

    return Join(results)


@function("Join.saveFirst")
def save_first(matchKey: str, ordering: str | None = None, ascending: bool = True, outer: bool = False) -> Join:
    """Elements with the first of their matches."""

    def results(element: Value, matches: Sequence[Value]) -> Iterator[Value]:
        if matches:
            yield _with(element, matchKey, _ordered(matches, ordering, ascending=ascending)[0])
        elif outer:
            yield element

    return Join(results)


@function("Join.apply")
def apply(join: Join, primary: Collection, secondary: Collection, condition: Filter) -> Collection:
    """Elements of the first collection with those of the second that fit."""
    others = secondary.elements()
    joined = [
        result
        for element in primary
        for result in join.results(element, [other for other in others if condition.test(element, other)])
    ]
    kind = primary.of if all(not isinstance(e, Feature) for e in joined) else "Feature"
    return Collection(Listed(joined), kind)


promotion("Join")(only(Join))
