"""Algorithms of no class: ``IsEqual``, ``ObjectType``, ``Describe``, ``ErrorMargin``, ``Proj`` and their like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data.emulator.algorithms.list_functions import same
from mmearth_data.emulator.graph.registry import encode, function, type_name
from mmearth_data.emulator.graph.values import ErrorMargin

if TYPE_CHECKING:
    from mmearth_data.emulator.graph.registry import Value


@function("IsEqual")
def is_equal(left: Value = None, right: Value = None) -> bool:
    """Whether two values are equal."""
    return same(left, right)


@function("ObjectType")
def object_type(value: Value = None) -> str:
    """Name of a value's type."""
    kind: str = getattr(value, "element_type", None) or type_name(value)
    return kind


@function("Describe")
def describe(input: Value) -> Value:
    """JSON of a value."""
    return encode(input)


@function("ErrorMargin")
def error_margin(value: float | None = None, unit: str = "meters") -> ErrorMargin:
    """Make a margin."""
    return ErrorMargin(float("inf") if value is None else value, unit)
