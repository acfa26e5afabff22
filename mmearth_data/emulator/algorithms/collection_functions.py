"""``Collection.*``, ``AggregateFeatureCollection.*``, and how collections are loaded."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import islice
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import shapely

from mmearth_data.emulator.algorithms.collections import (
    Collection,
    Cut,
    Listed,
    Mapped,
    Merged,
    Sorted,
    of_asset,
    of_elements,
)
from mmearth_data.emulator.algorithms.features import INDEX, Feature, geometry_of, property_of
from mmearth_data.emulator.algorithms.filter_texts import parsed
from mmearth_data.emulator.algorithms.filters import Filter
from mmearth_data.emulator.algorithms.geometry import Geometry, union_of
from mmearth_data.emulator.algorithms.geometry_functions import bounds_of, need_margin
from mmearth_data.emulator.algorithms.image import Image, Projection
from mmearth_data.emulator.algorithms.list_functions import same, sort_key
from mmearth_data.emulator.assets.directory import Source, find
from mmearth_data.emulator.assets.tables import load_table
from mmearth_data.emulator.errors import EmulatorError, asset_not_found, wrong_type
from mmearth_data.emulator.graph.registry import encode, function, functions, type_name
from mmearth_data.emulator.graph.values import Selection, is_number
from mmearth_data.emulator.server.work import check, room_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmearth_data.emulator.algorithms.reducers import Reducer
    from mmearth_data.emulator.graph.registry import Context, Value
    from mmearth_data.emulator.graph.values import ErrorMargin

ROOM_OF_A_POINT = 10
"""A feature with a geometry takes as much memory as this many elements of a list."""

# ---------------------------------------------------------------- making


@function("ImageCollection.load")
def load_images(id: str, context: Context) -> Collection:
    """Open a collection of an archive."""
    found = _found("ImageCollection.load", "ImageCollection", id, context)
    if isinstance(found, Image):
        raise EmulatorError(f"ImageCollection.load: Asset '{id}' is not an ImageCollection.")
    return of_asset(found)


def _found(name: str, kind: str, id: str, context: Context) -> Source | Image:
    found = find(id, context)
    if found is None:
        raise asset_not_found(name, kind, id)
    return found


@function("Image.load")
def load_image(id: str, context: Context) -> Image:
    """Image of an archive."""
    found = _found("Image.load", "Image", id, context)
    if not isinstance(found, Image):
        raise EmulatorError(f"Image.load: Asset '{id}' is not an Image.")
    return found


@function("Collection.loadTable")
def load_features(tableId: str, context: Context) -> Collection:
    """Table of an archive; a collection of images is a table of their footprints."""
    table = load_table(tableId, context.planet)
    if table is not None:
        return table
    found = _found("Collection.loadTable", "Collection", tableId, context)
    return of_elements([found]) if isinstance(found, Image) else of_asset(found)


@function("FeatureCollection.randomPoints")
def random_points(region: Geometry, points: int = 1000, seed: int = 0) -> Collection:
    """Points that lie evenly over a region of the sphere; the seed decides them."""
    shape = region.lonlat
    if shape.is_empty or shape.area == 0:
        raise EmulatorError("FeatureCollection.randomPoints: Geometry must have an area.")
    west, south, east, north = shape.bounds
    low, high = (math.sin(math.radians(lat)) for lat in (south, north))
    room_for(ROOM_OF_A_POINT * points)
    draws, found = np.random.default_rng(seed), np.empty((0, 2))
    shapely.prepare(shape)
    while len(found) < points:
        check()
        u, v = draws.random((2, max(points, 64)))
        lon, lat = west + u * (east - west), np.degrees(np.arcsin(low + v * (high - low)))
        inside = shapely.contains_xy(shape, lon, lat)
        found = np.concatenate([found, np.stack([lon[inside], lat[inside]], axis=1)])
    return of_elements([Feature(Geometry(shapely.Point(*xy))) for xy in found[:points].tolist()])


# ---------------------------------------------------------------- choosing, ordering


@function("Collection.filter")
def filter_collection(collection: Collection, filter: Value) -> Collection:
    """Elements that pass a filter, or a string that describes one."""
    if isinstance(filter, str):
        return collection.where(parsed(filter, "Collection.filter"))
    if not isinstance(filter, Filter):
        raise wrong_type("Collection.filter", "filter", "Filter", type_name(filter))
    return collection.where(filter)


@function("Collection.limit")
def limit_collection(
    collection: Collection, limit: int | None = None, key: str | None = None, ascending: bool = True
) -> Collection:
    """Order by a property, and take the first ones."""
    source = collection if key is None else Sorted(collection, key, ascending)
    return collection.from_source(source if limit is None else Cut(source, 0, limit))


@function("Collection.distinct")
def distinct(collection: Collection, properties: Value) -> Collection:
    """First of the elements that agree in some properties."""
    names = [properties] if isinstance(properties, str) else list(properties)
    seen: set[str] = set()
    kept = []
    for element in collection:
        key = repr([encode(property_of(element, name)) for name in names])
        if key not in seen:
            seen.add(key)
            kept.append(element)
    return collection.from_source(Listed(kept))


def _merged(first: Collection, second: Collection) -> Collection:
    """Elements of both; their names begin with 1_ and 2_."""
    return Collection(Merged(first, second), first.of, first.properties)


function("Collection")(lambda features: of_elements(features))
functions(
    "Collection",
    {
        "first": lambda collection: next(iter(collection), None),
        "size": lambda collection: len(collection.elements()),
        "toList": lambda collection, count, offset=0: list(islice(collection, offset, offset + count)),
        "cache": lambda collection: collection,  # it is computed once anyway
        "merge": lambda collection1, collection2: _merged(collection1, collection2),
    },
)
functions(
    "ImageCollection",
    {
        "merge": lambda collection1, collection2: _merged(collection1, collection2),
        "fromImages": lambda images: of_elements(images, "Image"),
    },
)


# ---------------------------------------------------------------- mapping


def _in_map(index: Value, function: Callable[[Value], Value], element: Value) -> Value:
    """Apply a function; what it refuses tells of which element."""
    try:
        return function(element)
    except EmulatorError as error:
        raise EmulatorError(f"Error in map(ID={index}):\n{error.message}", error.status) from None


@function("Collection.map")
def map_collection(
    collection: Collection, baseAlgorithm: Callable[[Value], Value], dropNulls: bool = False
) -> Collection:
    """Apply a function to each element; the results keep the elements' names."""

    def apply(element: Value) -> Value:
        index = element.properties.get(INDEX)
        made = _in_map(index, baseAlgorithm, element)
        if made is None and dropNulls:
            return None
        if not hasattr(made, "properties"):
            raise EmulatorError("Collection.map: A mapped algorithm must return a Feature or Image.")
        return (
            made
            if INDEX in made.properties or index is None
            else made.with_properties({**made.properties, INDEX: index})
        )

    return collection.from_source(Mapped(collection, apply, isinstance(baseAlgorithm, Selection)))


@function("Collection.iterate")
def iterate(collection: Collection, function: Callable[[Value, Value], Value], first: Value = None) -> Value:
    """Apply a function of element and result so far."""
    for element in collection:
        first = function(element, first)
    return first


@function("Collection.flatten")
def flatten(collection: Collection) -> Collection:
    """Elements of the collections within, named by both."""

    def inner() -> Iterator[Value]:
        for outer in collection:
            if not isinstance(outer, Collection):
                raise EmulatorError("Collection.flatten: Elements must be collections.")
            for element in outer:
                names = [str(e.properties[INDEX]) for e in (outer, element) if INDEX in e.properties]
                yield element.with_properties({**element.properties, INDEX: "_".join(names)})

    found = list(inner())
    return Collection(Listed(found), "Image" if found and all(isinstance(e, Image) for e in found) else "Feature")


@function("Collection.remap")
def remap(collection: Collection, lookupIn: list[Value], lookupOut: list[int], columnName: str) -> Collection:
    """Replace values of a property; what is not in the table falls out."""
    if len(lookupIn) != len(lookupOut):
        raise EmulatorError("Collection.remap: The lists must have the same length.")

    def change(element: Value) -> Value:
        value = element.properties.get(columnName)
        place = next((k for k, item in enumerate(lookupIn) if same(item, value)), None)
        return None if place is None else element.with_properties({**element.properties, columnName: lookupOut[place]})

    return collection.from_source(Mapped(collection, change))


@function("Collection.randomColumn")
def random_column(
    collection: Collection,
    columnName: str = "random",
    seed: int = 0,
    distribution: str = "uniform",
    rowKeys: list[str] | None = None,
) -> Collection:
    """Add a random number to each element, decided by the seed and by properties that name the element."""
    if distribution not in {"uniform", "normal"}:
        raise EmulatorError(f"Collection.randomColumn: Unknown distribution '{distribution}'.")

    def change(element: Value) -> Value:
        row = [encode(property_of(element, name)) for name in rowKeys or [INDEX]]
        digest = hashlib.blake2b(repr((seed, row)).encode(), digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") >> 11) / 2**53
        value = uniform if distribution == "uniform" else NormalDist().inv_cdf(max(uniform, 2**-53))
        return element.with_properties({**element.properties, columnName: value})

    return collection.from_source(Mapped(collection, change))


# ---------------------------------------------------------------- geometry


@function("Collection.geometry")
def geometry(collection: Collection, maxError: ErrorMargin | None = None) -> Geometry:
    """Geometry of all elements together."""
    need_margin("Collection.geometry", maxError, None, *map(geometry_of, collection.elements()))
    return collection.union_geometry()


@function("Collection.bounds")
def bounds(collection: Collection, maxError: ErrorMargin | None = None, proj: Projection | None = None) -> Geometry:
    """Least rectangle that holds all elements."""
    need_margin("Collection.bounds", maxError, None, *map(geometry_of, collection.elements()))
    return bounds_of(union_of([bounds_of(geometry_of(element)) for element in collection.elements()]), proj)


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


@function("AggregateFeatureCollection.first")
def first_value(collection: Collection, property: str) -> Value:
    """Value of the first element."""
    return next((property_of(element, property) for element in collection), None)


@function("AggregateFeatureCollection.stats")
def aggregate_stats(collection: Collection, property: str) -> dict[str, Value]:
    """Sum up the numbers of a property."""
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


@function("Collection.reduceColumns")
def reduce_columns(collection: Collection, reducer: Reducer, selectors: list[str]) -> dict[str, Value]:
    """Apply a reducer to columns of a table."""
    rows = [[property_of(element, name) for name in selectors] for element in collection]
    return reducer.reduce_values(rows)


@function("List.reduce")
def reduce_list(list: list[Value], reducer: Reducer) -> Value:
    """Apply a reducer to a list; of one output, its value."""
    rows = [item if isinstance(item, type(list)) else [item] for item in list]
    found = reducer.reduce_values(rows)
    return next(iter(found.values())) if len(found) == 1 else found


functions("Feature", {"toArray": lambda feature, properties: [feature.properties.get(name) for name in properties]})
