"""Algorithms of no class: ``IsEqual``, ``ObjectType``, ``Describe``, ``ErrorMargin``."""

from __future__ import annotations

from mmearth_data.emulator.algorithms.list_functions import same
from mmearth_data.emulator.graph.registry import encode, function, type_name
from mmearth_data.emulator.graph.values import ErrorMargin

function("IsEqual")(lambda left=None, right=None: same(left, right))
function("ObjectType")(lambda value=None: getattr(value, "element_type", None) or type_name(value))
function("Describe")(lambda input: encode(input))
function("ErrorMargin")(lambda value=None, unit="meters": ErrorMargin(float("inf") if value is None else value, unit))
