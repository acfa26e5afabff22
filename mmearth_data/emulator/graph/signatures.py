"""Earth Engine's own list of algorithms as values, against which every call is checked.

No argument is silently dropped: it is used by the implementation, listed in `HINTS` with the reason why it has no
effect, or refused when its value is not the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.client_files import algorithms
from mmearth_data.emulator.graph.registry import FUNCTIONS

ANY_FUNCTION = "*"
EXACT_MARGIN = "every vertex is transformed, and long edges are split first: results are within any margin"
EXACT_VALUES = "values are reduced directly, as the service does for few values; none are put into buckets first"
MEMORY = "how the service splits a computation to save memory; results are the same"
HINTS: dict[tuple[str, str], str] = {
    (ANY_FUNCTION, "maxError"): EXACT_MARGIN,
    (ANY_FUNCTION, "tileScale"): MEMORY,
    (ANY_FUNCTION, "parallelScale"): MEMORY,
    ("Image.reduceNeighborhood", "optimization"): "how neighbourhoods are visited; results are the same",
    ("Image.sampleRectangle", "defaultArrayValue"): "no pixel of the emulator is an array",
    ("Image.parseExpression", "vars"): "a formula finds its variables by name",
    ("GeometryConstructors.Rectangle", "evenOdd"): "a rectangle is one ring: both rules have the same inside",
    ("Feature", "geometryKey"): "the reference calls it obsolete and without effect",
    ("Collection.loadTable", "geometryColumn"): "the reference: not used where the table is an asset",
    ("Profile.getProfiles", "maxEntries"): "a profile of the emulator has one entry",
    ("PixelType.dimensions", "pixelType"): "no pixel of the emulator is an array",
    ("Reducer.histogram", "maxRaw"): EXACT_VALUES,
    ("Reducer.autoHistogram", "maxRaw"): EXACT_VALUES,
    **{
        (f"Reducer.{name}", argument): EXACT_VALUES
        for name, argument in product(("median", "mode", "percentile"), ("maxBuckets", "minBucketWidth", "maxRaw"))
    },
}
"""(function, argument) -> why its value has no effect."""

KINDS = {("Reducer.setOutputs", "outputs"): "List<Object>"}
"""(function, argument) -> type, where the description accepts more than the declared type: names may be null."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an algorithm."""

    name: str
    kind: str  # Declared type, such as ``Image<unknown bands>`` or ``List<String>``
    optional: bool  # It may be left out or null
    default: Any  # JSON value


@dataclass(frozen=True)
class Signature:
    """An algorithm as Earth Engine describes it."""

    name: str
    arguments: tuple[Argument, ...]
    returns: str

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the arguments."""
        return frozenset(argument.name for argument in self.arguments)

    @cached_property
    def unheeded(self) -> tuple[Argument, ...]:
        """Arguments for which only the default is supported."""
        takes = FUNCTIONS[self.name].takes
        return tuple(a for a in self.arguments if a.name not in takes and not is_hint(self.name, a.name))


@cache
def signatures() -> dict[str, Signature]:
    """Algorithm name -> signature; 991 of them."""
    found = {}
    for entry in algorithms()["algorithms"]:
        name = entry["name"].removeprefix("algorithms/")
        arguments = tuple(
            Argument(
                a["argumentName"],
                KINDS.get((name, a["argumentName"]), a["type"]),
                a.get("optional", False),
                a.get("defaultValue"),
            )
            for a in entry.get("arguments", [])
        )
        found[name] = Signature(name, arguments, entry["returnType"])
    return found


def is_hint(function: str, argument: str) -> bool:
    """Whether the value of an argument has no effect."""
    return (function, argument) in HINTS or (ANY_FUNCTION, argument) in HINTS


def not_heeded(function: str, argument: Argument) -> EmulatorError:
    """Refuse an argument that Earth Engine supports and this emulator does not."""
    default = "null" if argument.default is None else repr(argument.default)
    return EmulatorError(
        f"{function}: Earth Engine has the argument '{argument.name}'; the emulator supports only its default, "
        f"{default}."
    )
