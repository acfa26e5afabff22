"""``Collection.*``, ``AggregateFeatureCollection.*``, ``Join.*``, and how collections are loaded."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.collections import (
    Collection,
    first,
    kind_of,
    listed,
    mapped,
    merged,
    of_asset,
    of_elements,
    ordered,
)
from mmearth_data.emulator.algorithms.features import INDEX, Feature, geometry_of, property_of
from mmearth_data.emulator.algorithms.filters import Filter
from mmearth_data.emulator.algorithms.geometry import Geometry, union_of
from mmearth_data.emulator.algorithms.geometry_functions import bounds_of, need_margin
from mmearth_data.emulator.algorithms.image import Image
from mmearth_data.emulator.algorithms.plain_functions import same, sort_key
from mmearth_data.emulator.algorithms.texts import parsed
from mmearth_data.emulator.assets.directory import Source, find, load_table
from mmearth_data.emulator.errors import NOT_FOUND, EmulatorError, wrong_type
from mmearth_data.emulator.graph.registry import encode, function, functions, named, only, promotion, type_name
from mmearth_data.emulator.graph.values import Selection, is_number
from mmearth_data.emulator.server.work import check, room_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mmearth_data.emulator.algorithms.reducers import Reducer
    from mmearth_data.emulator.graph.registry import Context, Value
    from mmearth_data.emulator.graph.values import ErrorMargin

ROOM_OF_A_POINT = 10
"""A feature with a geometry takes as much memory as this many elements of a list."""

# ---------------------------------------------------------------- loading and making


def _found(name: str, kind: str, id: str, context: Context) -> Source | Image:
    found = find(id, context)
    if found is None:
        raise EmulatorError(f"{name}: {kind} asset '{id}' {NOT_FOUND}")
    return found


@function("ImageCollection.load")
def _load_images(id: str, context: Context) -> Collection:
    found = _found("ImageCollection.load", "ImageCollection", id, context)
    if isinstance(found, Image):
        raise EmulatorError(f"ImageCollection.load: Asset '{id}' is not an ImageCollection.")
    return of_asset(found)


@function("Image.load")
def _load_image(id: str, context: Context) -> Image:
    found = _found("Image.load", "Image", id, context)
    if not isinstance(found, Image):
        raise EmulatorError(f"Image.load: Asset '{id}' is not an Image.")
    return found


@function("Collection.loadTable")
def _load_table(tableId: str, context: Context) -> Collection:
    """Table of an archive; a collection of images is a table of their footprints."""
    table = load_table(tableId, context.planet)
    if table is not None:
        return table
    found = _found("Collection.loadTable", "Collection", tableId, context)
    return of_elements([found]) if isinstance(found, Image) else of_asset(found)


@function("FeatureCollection.randomPoints")
def _random_points(region: Geometry, points: int, seed: int) -> Collection:
    shape = region.lonlat
    if shape.is_empty or shape.area == 0:
        raise EmulatorError("FeatureCollection.randomPoints: Geometry must have an area.")
    west, south, east, north = shape.bounds
    low, high = (math.sin(math.radians(lat)) for lat in (south, north))
    room_for(ROOM_OF_A_POINT * points)
    generator, found = np.random.default_rng(seed), np.empty((0, 2))
    shapely.prepare(shape)
    while len(found) < points:
        check()
        u, v = generator.random((2, max(points, 64)))
        lon, lat = west + u * (east - west), np.degrees(np.arcsin(low + v * (high - low)))
        inside = shapely.contains_xy(shape, lon, lat)
        found = np.concatenate([found, np.stack([lon[inside], lat[inside]], axis=1)])
    return of_elements([Feature(Geometry(shapely.Point(*xy))) for xy in found[:points].tolist()])


# ---------------------------------------------------------------- elements


@function("Collection.filter")
def _filter(collection: Collection, filter: Value) -> Collection:
    if isinstance(filter, str):
        return collection.where(parsed(filter, "Collection.filter"))
    if not isinstance(filter, Filter):
        raise wrong_type("Collection.filter", "filter", "Filter", type_name(filter))
    return collection.where(filter)


@function("Collection.limit")
def _limit(collection: Collection, limit: int | None, key: str | None, ascending: bool) -> Collection:
    source = collection if key is None else ordered(collection, key, ascending=ascending)
    return collection.from_source(source if limit is None else first(source, limit))


@function("Collection.distinct")
def _distinct(collection: Collection, properties: Value) -> Collection:
    names = [properties] if isinstance(properties, str) else list(properties)
    kept: dict[str, Value] = {}
    for element in collection:
        kept.setdefault(repr([encode(property_of(element, name)) for name in names]), element)
    return collection.from_source(listed(list(kept.values())))


function("Collection")(lambda features: of_elements(features))
function("Collection.merge", "ImageCollection.merge")(
    lambda collection1, collection2: Collection(
        merged(collection1, collection2), collection1.of, collection1.properties
    )
)
function("ImageCollection.fromImages")(lambda images: of_elements(images, "Image"))
functions(
    "Collection",
    {
        "first": lambda collection: next(iter(collection), None),
        "size": lambda collection: len(collection.elements()),
        "toList": lambda collection, count, offset: list(islice(collection, offset, offset + count)),
        "cache": lambda collection: collection,  # elements are computed once anyway
        "iterate": lambda collection, function, first: reduce(
            lambda result, element: function(element, result), collection, first
        ),
    },
)


@function("Collection.map")
def _map(collection: Collection, baseAlgorithm: Callable[[Value], Value], dropNulls: bool) -> Collection:
    def apply(element: Value) -> Value:
        index = element.properties.get(INDEX)
        try:
            made = baseAlgorithm(element)
        except EmulatorError as error:
            raise EmulatorError(f"Error in map(ID={index}):\n{error.message}", error.status) from None
        if made is None and dropNulls:
            return None
        if not hasattr(made, "properties"):
            raise EmulatorError("Collection.map: A mapped algorithm must return a Feature or Image.")
        named = INDEX in made.properties or index is None
        return made if named else made.with_properties({**made.properties, INDEX: index})

    return collection.from_source(mapped(collection, apply, keeps=isinstance(baseAlgorithm, Selection)))


@function("Collection.flatten")
def _flatten(collection: Collection) -> Collection:
    found = []
    for outer in collection:
        if not isinstance(outer, Collection):
            raise EmulatorError("Collection.flatten: Elements must be collections.")
        for element in outer:
            names = [str(e.properties[INDEX]) for e in (outer, element) if INDEX in e.properties]
            found.append(element.with_properties({**element.properties, INDEX: "_".join(names)}))
    return Collection(listed(found), kind_of(found))


@function("Collection.remap")
def _remap(collection: Collection, lookupIn: list[Value], lookupOut: list[int], columnName: str) -> Collection:
    """Replace values of a property; elements whose value is not listed are dropped."""
    if len(lookupIn) != len(lookupOut):
        raise EmulatorError("Collection.remap: The lists must have the same length.")

    def change(element: Value) -> Value:
        value = element.properties.get(columnName)
        at = next((k for k, item in enumerate(lookupIn) if same(item, value)), None)
        return None if at is None else element.with_properties({**element.properties, columnName: lookupOut[at]})

    return collection.from_source(mapped(collection, change))


@function("Collection.randomColumn")
def _random_column(
    collection: Collection, columnName: str, seed: int, distribution: str, rowKeys: list[str]
) -> Collection:
    if distribution not in {"uniform", "normal"}:
        raise EmulatorError(f"Collection.randomColumn: Unknown distribution '{distribution}'.")

    def change(element: Value) -> Value:
        row = [encode(property_of(element, name)) for name in rowKeys or [INDEX]]
        digest = hashlib.blake2b(repr((seed, row)).encode(), digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") >> 11) / 2**53
        value = uniform if distribution == "uniform" else NormalDist().inv_cdf(max(uniform, 2**-53))
        return element.with_properties({**element.properties, columnName: value})

    return collection.from_source(mapped(collection, change))


# ---------------------------------------------------------------- geometry


def _exact(name: str, collection: Collection, maxError: ErrorMargin | None) -> list[Geometry]:
    """Geometries of the elements; refused if they would have to be approximated without an error margin."""
    geometries = list(map(geometry_of, collection.elements()))
    need_margin(name, maxError, None, *geometries)
    return geometries


function("Collection.geometry")(
    lambda collection, maxError: union_of(_exact("Collection.geometry", collection, maxError))
)
function("Collection.union")(
    lambda collection, maxError: of_elements([Feature(union_of(_exact("Collection.union", collection, maxError)))])
)
function("Collection.bounds")(
    lambda collection, maxError, proj: bounds_of(
        union_of([bounds_of(geometry) for geometry in _exact("Collection.bounds", collection, maxError)]), proj
    )
)


# ---------------------------------------------------------------- columns


def _column(collection: Collection, name: str) -> list[Value]:
    values = [property_of(element, name) for element in collection]
    return [value for value in values if value is not None]


def _numbers(collection: Collection, name: str) -> list[float]:
    return [value for value in _column(collection, name) if is_number(value)]


def _sum(values: list[float]) -> float:
    return sum(values) if all(isinstance(v, int) for v in values) else math.fsum(values)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _variance(values: list[float], lost: int) -> float | None:
    mean = _mean(values)
    if mean is None or len(values) <= lost:
        return None
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - lost)


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


_STATISTICS: dict[str, Callable[[list[float]], float | None]] = {
    "sum": _sum,
    "mean": _mean,
    "product": math.prod,
    "sample_var": lambda values: _variance(values, 1),
    "total_var": lambda values: _variance(values, 0),
    "sample_sd": lambda values: _root(_variance(values, 1)),
    "total_sd": lambda values: _root(_variance(values, 0)),
}
"""Statistics of the numbers of a property."""
_SUMMARIES: dict[str, Callable[[list[Value]], Value]] = {
    "array": lambda values: values,
    "count": len,
    "count_distinct": lambda values: len({repr(encode(value)) for value in values}),
    "min": lambda values: min(values, key=sort_key, default=None),
    "max": lambda values: max(values, key=sort_key, default=None),
    "histogram": lambda values: dict(sorted(Counter(str(encode(value)) for value in values).items())),
}
"""Summaries of all values of a property that are not null."""


def _of_column(
    column: Callable[[Collection, str], list[Value]], summary: Callable[[list[Value]], Value]
) -> Callable[..., Value]:
    return lambda collection, property: summary(column(collection, property))


functions("AggregateFeatureCollection", {name: _of_column(_numbers, of) for name, of in _STATISTICS.items()})
functions("AggregateFeatureCollection", {name: _of_column(_column, of) for name, of in _SUMMARIES.items()})


function("AggregateFeatureCollection.first")(
    lambda collection, property: next((property_of(element, property) for element in collection), None)
)


@function("AggregateFeatureCollection.stats")
def _stats(collection: Collection, property: str) -> dict[str, Value]:
    values = _numbers(collection, property)
    spread = {name: _STATISTICS[name](values) for name in ("sample_sd", "sample_var", "total_sd", "total_var")}
    return {
        "max": max(values, default=None),
        "mean": _mean(values),
        "min": min(values, default=None),
        **spread,
        "sum": _sum(values),
        "sum_sq": math.fsum(value * value for value in values),
        "total_count": len(collection.elements()),
        "valid_count": len(values),
        "weight_sum": len(values),
        "weighted_sum": _sum(values),
    }


function("Collection.reduceColumns")(
    lambda collection, reducer, selectors: reducer.reduce_values(
        [[property_of(element, name) for name in selectors] for element in collection]
    )
)


@function("List.reduce")
def _reduce_list(list: list[Value], reducer: Reducer) -> Value:
    found = reducer.reduce_values([item if isinstance(item, type(list)) else [item] for item in list])
    return next(iter(found.values())) if len(found) == 1 else found


# ---------------------------------------------------------------- joins


@named("Join")
@dataclass(frozen=True)
class Join:
    """How pairs of elements become results."""

    # (primary element, its matches in order) -> elements of the result
    results: Callable[[Value, Sequence[Value]], Iterable[Value]]


promotion("Join")(only(Join))


def _saving(key: str, ordering: str | None, ascending: bool, outer: bool, *, every: bool) -> Join:
    """Elements with a property that is the list of their matches, or the first one."""

    def results(element: Value, matches: Sequence[Value]) -> Iterator[Value]:
        if ordering is not None:
            matches = sorted(matches, key=lambda e: sort_key(e.properties.get(ordering)), reverse=not ascending)
        if matches or (every and outer):
            value = list(matches) if every else matches[0]
            yield element.with_properties({**element.properties, key: value})
        elif outer:
            yield element

    return Join(results)


def _pair(first: Value, second: Value, keys: tuple[str, str]) -> Feature:
    index = "_".join(str(element.properties.get(INDEX)) for element in (first, second))
    return Feature(None, {keys[0]: first, keys[1]: second, INDEX: index})


functions(
    "Join",
    {
        "simple": lambda: Join(lambda element, matches: [element] if matches else []),
        "inverted": lambda: Join(lambda element, matches: [] if matches else [element]),
        "inner": lambda primaryKey, secondaryKey: Join(
            lambda element, matches: [_pair(element, match, (primaryKey, secondaryKey)) for match in matches]
        ),
        "saveAll": lambda matchesKey, ordering, ascending, outer: _saving(
            matchesKey, ordering, ascending, outer, every=True
        ),
        "saveFirst": lambda matchKey, ordering, ascending, outer: _saving(
            matchKey, ordering, ascending, outer, every=False
        ),
    },
)


@function("Join.apply")
def _apply(join: Join, primary: Collection, secondary: Collection, condition: Filter) -> Collection:
    others = secondary.elements()
    joined = [
        result
        for element in primary
        for result in join.results(element, [other for other in others if condition.test(element, other)])
    ]
    kind = primary.of if all(not isinstance(e, Feature) for e in joined) else "Feature"
    return Collection(listed(joined), kind)
