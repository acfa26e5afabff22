"""Arguments that have no effect here, and arguments that the emulator refuses; none is silently dropped.

Each argument of a signature is either used by the implementation, listed in `HINTS` with the reason why it has no
effect, or refused when it is given a value other than its default.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import FUNCTIONS
from mmearth_data.emulator.graph.signatures import Argument, signatures

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


def is_hint(function: str, argument: str) -> bool:
    """Whether the value of an argument has no effect."""
    return (function, argument) in HINTS or (ANY_FUNCTION, argument) in HINTS


@lru_cache(maxsize=1024)
def unheeded(function: str) -> tuple[Argument, ...]:
    """Arguments for which only the default is supported."""
    takes = FUNCTIONS[function].takes
    return tuple(
        argument
        for argument in signatures()[function].arguments
        if argument.name not in takes and not is_hint(function, argument.name)
    )


def not_heeded(function: str, argument: Argument) -> EmulatorError:
    """Refuse an argument that Earth Engine supports and this emulator does not."""
    default = "null" if argument.default is None else repr(argument.default)
    return EmulatorError(
        f"{function}: Earth Engine has the argument '{argument.name}'; the emulator supports only its default, "
        f"{default}."
    )
