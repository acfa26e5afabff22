"""Collections: sequences of elements that are found, filtered and mapped only when elements are needed.

Filters are passed down to the archive as far as possible, so that the scenes of a location and a month are found
without searching the whole globe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

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

MOST_VISITED = 200_000
"""Elements that one request may look at before it has taken too long."""


class Elements(Protocol):
    """Where the elements of a collection come from."""

    def find(self, query: Query) -> Iterator[Value]:
        """All elements that the query finds, and perhaps others."""
        ...

    def scattered(self, query: Query) -> bool:
        """Whether the results of a query are spread over the globe, so that they can be listed only for a location."""
        ...


@dataclass(frozen=True)
class Listed:
    """Elements that exist already."""

    elements: Sequence[Value]

    def find(self, query: Query) -> Iterator[Value]:
        """All of them."""
        return iter(self.elements)

    def scattered(self, query: Query) -> bool:
        """Return False: the elements are already listed."""
        return False


@dataclass(frozen=True)
class Stored:
    """Images of an archive."""

    source: Source

    def find(self, query: Query) -> Iterator[Value]:
        """Those that the archive finds."""
        bounds = query.region if query.bounds is None else query.bounds
        return iter(self.source.query(bounds, query.start_ms, query.end_ms, query.equal, query.below))

    def scattered(self, query: Query) -> bool:
        """Whether no location, index or empty period narrows the search of a large archive."""
        since = self.source.since_ms
        if since is None or query.bounds is not None or isinstance(query.equal.get(INDEX), str):
            return False
        after = query.end_ms is None or query.end_ms > since
        return after and (query.start_ms is None or query.start_ms < self.source.until_ms)


@dataclass(frozen=True)
class Sorted:
    """Elements in the order of a property; those without it come first."""

    parent: Elements
    key: str
    ascending: bool

    def find(self, query: Query) -> Iterator[Value]:
        """Sort what the parent finds; equal ones keep their order."""
        found = list(_visited(self.parent.find(query)))
        return iter(sorted(found, key=lambda e: sort_key(e.properties.get(self.key)), reverse=not self.ascending))

    def scattered(self, query: Query) -> bool:
        """Whether the parent is."""
        return self.parent.scattered(query)


@dataclass(frozen=True)
class Filtered:
    """Elements that pass filters."""

    parent: Elements
    filters: tuple[Filter, ...]

    def find(self, query: Query) -> Iterator[Value]:
        """Test what the parent finds."""
        wanted = all_of(self.filters)
        passes = wanted.test
        return (element for element in self.parent.find(query.both(wanted.query)) if passes(element, None))

    def scattered(self, query: Query) -> bool:
        """Whether the filters keep results of the parent that are spread over the globe."""
        return self.parent.scattered(query.both(all_of(self.filters).query))


@dataclass(frozen=True)
class Cut:
    """Some elements in a row."""

    parent: Elements
    start: int
    stop: int | None

    def find(self, query: Query) -> Iterator[Value]:
        """Select from all elements of the parent, whatever the query."""
        return islice(self.parent.find(ANYTHING), self.start, self.stop)

    def scattered(self, query: Query) -> bool:
        """Whether the whole parent is: all of it determines the selection."""
        return self.parent.scattered(ANYTHING)


@dataclass(frozen=True)
class Mapped:
    """Results of a function of elements; None is dropped."""

    parent: Elements
    function: Callable[[Value], Value]
    keeps: bool = False  # Whether a result has the properties and the footprint of its element

    def find(self, query: Query) -> Iterator[Value]:
        """Apply the function to every element that may have such a result."""
        passed = self._passed(query)
        placed = query.region is not None and self.parent.scattered(passed)
        function = self._placed if placed else self.function
        return (made for made in map(function, self.parent.find(passed)) if made is not None)

    def scattered(self, query: Query) -> bool:
        """Whether the collection it is made from is."""
        return self.parent.scattered(self._passed(query))

    def _passed(self, query: Query) -> Query:
        return query if self.keeps else Query(region=query.region)

    def _placed(self, element: Value) -> Value:
        """Apply the function to an image of one location; a result without a footprint would count everywhere."""
        made = self.function(element)
        if isinstance(made, Image) and made.footprint is None:
            raise EmulatorError(
                "Expected a function that keeps the footprints of the images of a collection without filterBounds, got "
                "an image that is valid everywhere (from unmask(value, false), or from a constant), so that images "
                "from all over the globe would count; add filterBounds(geometry) before map."
            )
        return made


@dataclass(frozen=True)
class Merged:
    """Elements of one collection, then those of another; prefixes of their names tell them apart."""

    first: Elements
    second: Elements

    def find(self, query: Query) -> Iterator[Value]:
        """Find in both."""
        anyhow = _without_index(query)
        firsts = (_renamed(element, "1_") for element in self.first.find(anyhow))
        return chain(firsts, (_renamed(element, "2_") for element in self.second.find(anyhow)))

    def scattered(self, query: Query) -> bool:
        """Whether either of them is."""
        anyhow = _without_index(query)
        return self.first.scattered(anyhow) or self.second.scattered(anyhow)


def _without_index(query: Query) -> Query:
    """Query without the index of an element, which merging changes."""
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

    source: Elements
    of: str = "Feature"  # ``Feature`` or ``Image``
    properties: Mapping[str, Value] = field(default_factory=dict)
    id: str | None = None  # Asset id, if it is one
    _found: list[Value] = field(default_factory=list, compare=False, repr=False)

    def __iter__(self) -> Iterator[Value]:
        return iter(self._found) if self._found else _visited(self.source.find(ANYTHING))

    def find(self, query: Query) -> Iterator[Value]:
        """Elements that the query finds, or all if they are computed already."""
        return iter(self._found) if self._found else self.source.find(query)

    def scattered(self, query: Query) -> bool:
        """Whether the results of a query are spread over the globe (see `Elements.scattered`)."""
        return not self._found and self.source.scattered(query)

    def elements(self) -> list[Value]:
        """All elements; computed once."""
        if not self._found:
            self._found.extend(self)
        return self._found

    def listed(self) -> list[Value]:
        """All elements, for an answer: no more than the service lists."""
        found = self._found or list(islice(self, MAX_ELEMENTS + 1))
        if len(found) > MAX_ELEMENTS:
            raise EmulatorError(f"Collection query aborted after accumulating over {MAX_ELEMENTS} elements.")
        return found

    def with_properties(self, properties: Mapping[str, Value]) -> Collection:
        """Return the collection with other properties."""
        return replace(self, properties=dict(properties))

    def from_source(self, source: Elements) -> Collection:
        """Return a collection of the same kind with other elements."""
        return Collection(source, self.of, self.properties, self.id)

    def where(self, condition: Filter) -> Collection:
        """Elements that pass a filter."""
        if isinstance(self.source, Filtered) and not self._found:
            return self.from_source(Filtered(self.source.parent, (*self.source.filters, condition)))
        return self.from_source(Filtered(self, (condition,)))

    def union_geometry(self) -> Geometry:
        """Geometry of all elements together."""
        return union_of([geometry_of(element) for element in self.elements()])

    @property
    def element_type(self) -> str:
        """``ImageCollection`` or ``FeatureCollection``."""
        return f"{self.of}Collection"


def of_elements(elements: Iterable[Value], of: str | None = None) -> Collection:
    """Make a collection of elements, named ``0``, ``1``, ... in their order."""
    listed = [e.with_properties({**e.properties, INDEX: str(k)}) for k, e in enumerate(_visited(elements))]
    return Collection(Listed(listed), of or kind_of(listed))


def kind_of(elements: Sequence[Value]) -> str:
    """``Image`` if there are elements, and all are images; otherwise ``Feature``."""
    return "Image" if elements and all(isinstance(e, Image) for e in elements) else "Feature"


def of_asset(source: Source) -> Collection:
    """Make a collection of an archive's."""
    return Collection(Stored(source), "Image", source.properties, source.id)


# ---------------------------------------------------------------- promotions and answers


@promotion("FeatureCollection", "ImageCollection")
def _to_collection(value: Value) -> Value:
    """Accept collections, and elements, geometries and lists of them."""
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
    elements = value.listed()
    out: dict[str, Value] = {"type": value.element_type}
    out |= {"bands": []} if value.of == "Image" else {"columns": _columns_of(elements)}
    if value.id is not None:
        out["id"] = value.id
    if value.properties:
        out["properties"] = encode(dict(value.properties))
    return out | {"features": [encode(element) for element in elements]}


def _columns_of(elements: Sequence[Value]) -> dict[str, str]:
    """Property -> type of its values, as in descriptions of tables."""
    columns: dict[str, str] = {}
    for element in elements:
        for name, value in element.properties.items():
            if value is not None and name not in columns:
                columns[name] = "Number" if isinstance(value, (int, float)) else type_name(value)
    return dict(sorted({INDEX: "String", **columns}.items()))
