"""Collections: sequences of elements that are found, filtered and mapped only when elements are needed.

Filters are passed down to the archive as far as possible, so that the scenes of a location and a month are found
without searching the whole globe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias

from mmearth_data.emulator.algorithms.features import INDEX, Feature, from_json, geometry_of
from mmearth_data.emulator.algorithms.filters import ANYTHING, Filter, Query, all_of
from mmearth_data.emulator.algorithms.geometry import Geometry, union_of
from mmearth_data.emulator.algorithms.image import Image
from mmearth_data.emulator.algorithms.plain_functions import sort_key
from mmearth_data.emulator.errors import MAX_ELEMENTS, EmulatorError, timed_out
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, encode, named, promotion, type_name
from mmearth_data.emulator.server.work import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mmearth_data.emulator.assets.directory import Source
    from mmearth_data.emulator.graph.registry import Value

    Parent: TypeAlias = "Elements | Collection"

MOST_VISITED = 200_000
"""Elements that one request may visit before it counts as timed out."""


@dataclass(frozen=True)
class Elements:
    """Where the elements of a collection come from."""

    # All elements that a query finds, and perhaps others
    find: Callable[[Query], Iterator[Value]]
    # Whether the results of a query are spread over the globe, so that they can be listed only for a location
    scattered: Callable[[Query], bool] = lambda query: False


def listed(elements: Sequence[Value]) -> Elements:
    """Elements that exist already."""
    return Elements(lambda query: iter(elements))


def _stored(source: Source) -> Elements:
    def find(query: Query) -> Iterator[Value]:
        bounds = query.region if query.bounds is None else query.bounds
        return iter(source.query(bounds, query.start_ms, query.end_ms, query.equal, query.below))

    def scattered(query: Query) -> bool:
        """Whether no location, index or empty period narrows the search of a large archive."""
        since = source.since_ms
        if since is None or query.bounds is not None or isinstance(query.equal.get(INDEX), str):
            return False
        after = query.end_ms is None or query.end_ms > since
        return after and (query.start_ms is None or query.start_ms < source.until_ms)

    return Elements(find, scattered)


def ordered(parent: Parent, key: str, *, ascending: bool) -> Elements:
    """Elements in the order of a property; those without it come first, and equal ones keep their order."""

    def find(query: Query) -> Iterator[Value]:
        found = list(_visited(parent.find(query)))
        return iter(sorted(found, key=lambda e: sort_key(e.properties.get(key)), reverse=not ascending))

    return Elements(find, parent.scattered)


def first(parent: Parent, count: int) -> Elements:
    """First elements of the parent, whatever the query: all of them determine which these are."""
    return Elements(lambda query: islice(parent.find(ANYTHING), count), lambda query: parent.scattered(ANYTHING))


def mapped(parent: Parent, function: Callable[[Value], Value], *, keeps: bool = False) -> Elements:
    """Results of a function of elements; None is dropped.

    ``keeps`` is whether a result has the properties and the footprint of its element; otherwise the function is applied
    to every element that may have a result.
    """

    def passed(query: Query) -> Query:
        return query if keeps else Query(region=query.region)

    def find(query: Query) -> Iterator[Value]:
        local = query.region is not None and parent.scattered(passed(query))
        apply = partial(_with_footprint, function) if local else function
        return (made for made in map(apply, parent.find(passed(query))) if made is not None)

    return Elements(find, lambda query: parent.scattered(passed(query)))


def _with_footprint(function: Callable[[Value], Value], element: Value) -> Value:
    """Apply a function to an image of one location; a result without a footprint would count everywhere."""
    made = function(element)
    if isinstance(made, Image) and made.footprint is None:
        raise EmulatorError(
            "Expected a function that keeps the footprints of the images of a collection without filterBounds, got "
            "an image that is valid everywhere (from unmask(value, false), or from a constant), so that images "
            "from all over the globe would count; add filterBounds(geometry) before map."
        )
    return made


def merged(one: Parent, other: Parent) -> Elements:
    """Elements of one collection, then those of another, with a prefix for each."""

    def find(query: Query) -> Iterator[Value]:
        free = _without_index(query)
        firsts = (_renamed(element, "1_") for element in one.find(free))
        return chain(firsts, (_renamed(element, "2_") for element in other.find(free)))

    def scattered(query: Query) -> bool:
        free = _without_index(query)
        return one.scattered(free) or other.scattered(free)

    return Elements(find, scattered)


def _without_index(query: Query) -> Query:
    return replace(query, equal={name: value for name, value in query.equal.items() if name != INDEX})


def _renamed(element: Value, prefix: str) -> Value:
    index = element.properties.get(INDEX)
    return element if index is None else element.with_properties({**element.properties, INDEX: f"{prefix}{index}"})


def _visited(elements: Iterable[Value]) -> Iterator[Value]:
    for count, element in enumerate(elements):
        check()
        if count >= MOST_VISITED:
            raise timed_out()
        yield element


@named("FeatureCollection")
@dataclass(frozen=True)
class Collection:
    """A collection of features or images."""

    source: Parent
    of: str = "Feature"  # ``Feature`` or ``Image``
    properties: Mapping[str, Value] = field(default_factory=dict)
    id: str | None = None  # Asset id, if it is one
    filters: tuple[Filter, ...] = ()  # Conditions on the elements of the source
    _found: list[Value] = field(default_factory=list, compare=False, repr=False)

    def __iter__(self) -> Iterator[Value]:
        return iter(self._found) if self._found else _visited(self.find(ANYTHING))

    def find(self, query: Query) -> Iterator[Value]:
        """Elements that the query finds, or all if they are computed already."""
        if self._found or not self.filters:
            return iter(self._found) if self._found else self.source.find(query)
        wanted = all_of(self.filters)
        passes = wanted.test
        return (element for element in self.source.find(query.both(wanted.query)) if passes(element, None))

    def scattered(self, query: Query) -> bool:
        """Whether the results of a query are spread over the globe (see `Elements.scattered`)."""
        narrowed = query.both(all_of(self.filters).query) if self.filters else query
        return not self._found and self.source.scattered(narrowed)

    def elements(self) -> list[Value]:
        """All elements; computed once."""
        if not self._found:
            self._found.extend(self)
        return self._found

    def answered(self) -> list[Value]:
        """All elements, for an answer: no more than the service lists."""
        found = self._found or list(islice(self, MAX_ELEMENTS + 1))
        if len(found) > MAX_ELEMENTS:
            raise EmulatorError(f"Collection query aborted after accumulating over {MAX_ELEMENTS} elements.")
        return found

    def with_properties(self, properties: Mapping[str, Value]) -> Collection:
        """Return the collection with other properties."""
        return replace(self, properties=dict(properties))

    def from_source(self, source: Parent) -> Collection:
        """Return a collection of the same kind with other elements."""
        return Collection(source, self.of, self.properties, self.id)

    def where(self, condition: Filter) -> Collection:
        """Elements that pass a filter."""
        further = bool(self.filters) and not self._found
        source, filters = (self.source, self.filters) if further else (self, ())
        return Collection(source, self.of, self.properties, self.id, (*filters, condition))

    def union_geometry(self) -> Geometry:
        """Geometry of all elements together."""
        return union_of([geometry_of(element) for element in self.elements()])

    @property
    def element_type(self) -> str:
        """``ImageCollection`` or ``FeatureCollection``."""
        return f"{self.of}Collection"


def of_elements(elements: Iterable[Value], of: str | None = None) -> Collection:
    """Make a collection of elements, named ``0``, ``1``, ... in their order."""
    named = [e.with_properties({**e.properties, INDEX: str(k)}) for k, e in enumerate(_visited(elements))]
    return Collection(listed(named), of or kind_of(named))


def kind_of(elements: Sequence[Value]) -> str:
    """``Image`` if there are elements, and all are images; otherwise ``Feature``."""
    return "Image" if elements and all(isinstance(e, Image) for e in elements) else "Feature"


def of_asset(source: Source) -> Collection:
    """Make a collection of an archive's."""
    return Collection(_stored(source), "Image", source.properties, source.id)


# ---------------------------------------------------------------- promotions and answers


@promotion("FeatureCollection", "ImageCollection")
def _to_collection(value: Value) -> Value:
    if isinstance(value, Collection):
        return value
    if isinstance(value, (Image, Feature)):
        return of_elements([value])
    if isinstance(value, Geometry):
        return of_elements([Feature(value)])
    if isinstance(value, list) and all(isinstance(item, (Image, Feature, Geometry)) for item in value):
        return of_elements([Feature(item) if isinstance(item, Geometry) else item for item in value])
    if isinstance(value, dict) and value.get("type") == "FeatureCollection":
        return of_elements([from_json(item) for item in value.get("features", [])])
    return NOT_PROMOTED


@encode.register(Collection)
def _(value: Collection) -> Value:
    elements = value.answered()
    out: dict[str, Value] = {"type": value.element_type}
    out["bands" if value.of == "Image" else "columns"] = [] if value.of == "Image" else _columns_of(elements)
    if value.id is not None:
        out["id"] = value.id
    if value.properties:
        out["properties"] = encode(dict(value.properties))
    return out | {"features": [encode(element) for element in elements]}


def _columns_of(elements: Sequence[Value]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for element in elements:
        for name, value in element.properties.items():
            if value is not None and name not in columns:
                columns[name] = "Number" if isinstance(value, (int, float)) else type_name(value)
    return dict(sorted({INDEX: "String", **columns}.items()))
