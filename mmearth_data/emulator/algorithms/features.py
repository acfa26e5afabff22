"""Features, and what all elements (features, images, collections) have in common: properties and a geometry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmearth_data.emulator.algorithms.geometry import NOWHERE, Geometry, from_geojson, geometry_of_image
from mmearth_data.emulator.algorithms.image import Image
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.patterns import all_matching
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, encode, function, functions, named, promotion
from mmearth_data.emulator.graph.values import Date

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmearth_data.emulator.algorithms.image import Projection
    from mmearth_data.emulator.graph.registry import Context, Value
    from mmearth_data.emulator.graph.values import ErrorMargin

INDEX = "system:index"
GEOMETRY = ".geo"


@named("Feature")
@dataclass(frozen=True, slots=True)
class Feature:
    """A geometry with properties."""

    geometry: Geometry | None
    # Name -> value; ``system:index`` names it within its collection
    properties: Mapping[str, Value] = field(default_factory=dict)

    def with_properties(self, properties: Mapping[str, Value]) -> Feature:
        """Feature with other properties."""
        return replace(self, properties=dict(properties))

    def union_geometry(self) -> Geometry:
        """Geometry; an empty one if there is none."""
        return NOWHERE if self.geometry is None else self.geometry


def geometry_of(element: Value) -> Geometry:
    """Geometry of an element."""
    if isinstance(element, Image):
        return geometry_of_image(element)
    if isinstance(element, Geometry):
        return element
    found: Geometry = element.union_geometry()
    return found


def with_geometry(element: Value, geometry: Geometry | None) -> Feature:
    """Feature with the properties of an element."""
    return Feature(geometry, dict(element.properties))


def property_of(element: Value, name: str) -> Value:
    """Property of an element, or None."""
    if name in {GEOMETRY, ".all"}:
        return geometry_of(element)
    if name in {"system:id", ".id"}:
        return getattr(element, "id", None)
    return element.properties.get(name)


def from_json(value: Mapping[str, Value]) -> Feature:
    """Feature of GeoJSON."""
    geometry = value.get("geometry")
    properties = dict(value.get("properties") or {})
    if "id" in value:
        properties[INDEX] = value["id"]
    return Feature(from_geojson(geometry) if isinstance(geometry, dict) else geometry, properties)


# ---------------------------------------------------------------- promotions and answers


@promotion("Element")
def _to_element(value: Value) -> Value:
    if isinstance(value, Geometry):
        return Feature(value)
    if isinstance(value, dict) and value.get("type") == "Feature":
        return from_json(value)
    return value if hasattr(value, "properties") else NOT_PROMOTED


@promotion("Feature")
def _to_feature(value: Value) -> Value:
    element = _to_element(value)
    if element is NOT_PROMOTED or isinstance(element, Feature):
        return element
    return with_geometry(element, geometry_of(element))


@encode.register(Feature)
def _(value: Feature) -> Value:
    properties = {name: encode(item) for name, item in value.properties.items() if name != INDEX}
    out = {"type": "Feature", "geometry": encode(value.geometry), "properties": properties}
    return out | ({"id": value.properties[INDEX]} if INDEX in value.properties else {})


# ---------------------------------------------------------------- functions


def ordinary(names: Iterable[str]) -> list[str]:
    """Names of properties other than system properties."""
    return [name for name in names if not name.startswith("system:")]


@function("Element.geometry", "Feature.geometry", "Image.geometry")
def _geometry(feature: Value, maxError: ErrorMargin | None, proj: Projection | None, context: Context) -> Geometry:
    found = geometry_of(feature)
    if proj is None:
        return found
    transformed: Geometry = context.call("Geometry.transform", geometry=found, proj=proj, maxError=maxError)
    return transformed


@function("Feature.select")
def _select(
    input: Value, propertySelectors: list[str], newProperties: list[str] | None, retainGeometry: bool
) -> Feature:
    names = newProperties or propertySelectors
    if len(names) != len(propertySelectors):
        raise EmulatorError("Feature.select: The lists of selectors and of new names must have the same length.")
    kept = {}
    for selector, new in zip(propertySelectors, names, strict=True):
        if selector in input.properties:
            kept[new] = input.properties[selector]
        elif newProperties is None:
            matching = all_matching("Feature.select", selector, ordinary(input.properties))
            kept |= {name: input.properties[name] for name in matching}
    if INDEX in input.properties:
        kept[INDEX] = input.properties[INDEX]
    return Feature(geometry_of(input) if retainGeometry else None, kept)


@function("Element.setMulti")
def _set_properties(object: Value, properties: Mapping[str, Value]) -> Value:
    """Set properties; null removes one."""
    merged = {**object.properties, **properties}
    return object.with_properties({name: value for name, value in merged.items() if value is not None})


@function("Element.toDictionary")
def _to_dictionary(element: Value, properties: list[str] | None) -> Mapping[str, Value]:
    chosen = ordinary(sorted(element.properties)) if properties is None else properties
    if lost := [name for name in chosen if name not in element.properties]:
        raise EmulatorError(f"Element.toDictionary: Element does not have a property '{lost[0]}'.")
    return {name: element.properties[name] for name in chosen}


@function("Element.copyProperties", "Image.copyProperties")
def _copy_properties(
    destination: Value, source: Value, properties: list[str] | None, exclude: list[str] | None
) -> Value:
    """Copy properties of another element: those named, or all but those of the system."""
    if properties is not None and exclude is not None:
        raise EmulatorError("Element.copyProperties: Specify properties or exclude, not both.")
    if destination is None or source is None:
        return destination
    names = ordinary(source.properties) if properties is None else properties
    taken = {
        name: source.properties[name] for name in names if name in source.properties and name not in (exclude or ())
    }
    return destination.with_properties({**destination.properties, **taken})


@function("Image.date")
def _date(image: Image) -> Date:
    start = image.properties.get("system:time_start")
    if start is None:
        raise EmulatorError("Date: Parameter 'value' is required and may not be null.")
    return Date(int(start))


function("Feature")(lambda geometry, metadata: Feature(geometry, dict(metadata or {})))
function("Feature.id", "Image.id")(lambda element: element.properties.get(INDEX))
functions(
    "Feature",
    {
        "setGeometry": lambda feature, geometry: with_geometry(feature, geometry),
        "toArray": lambda feature, properties: [feature.properties.get(name) for name in properties],
    },
)
functions(
    "Element",
    {
        "get getNumber getString": lambda object, property: property_of(object, property),
        "set": lambda object, key, value: _set_properties(object, {key: value}),
        "propertyNames": lambda element: sorted(
            {*element.properties, INDEX} if isinstance(element, Feature) else element.properties
        ),
        "replaceProperties": lambda destination, source: (
            destination if source is None else destination.with_properties(source.properties)
        ),
    },
)
