"""Which arguments change nothing here, and which the emulator refuses: none is dropped in silence.

An argument of a signature is taken by the implementation, or is listed in `HINTS` with the reason why it changes
nothing, or is refused as soon as it is given another value than its default.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.registry import FUNCTIONS
from mmearth_data.emulator.signatures import Argument, signatures

ANY_FUNCTION = "*"
EXACT_MARGIN = "every vertex is transformed, and long edges are cut first: results are within any margin"
EXACT_VALUES = "values are reduced directly, as the service does with few of them; none are put into buckets first"
MEMORY = "how the service cuts up a computation for its memory; results are the same"
HINTS: dict[tuple[str, str], str] = {
    (ANY_FUNCTION, "maxError"): EXACT_MARGIN,
    (ANY_FUNCTION, "tileScale"): MEMORY,
    (ANY_FUNCTION, "parallelScale"): MEMORY,
    ("Image.reduceNeighborhood", "optimization"): "how the same neighbourhoods are visited",
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
"""(function, argument) -> why its value changes nothing."""

_PREDICATES = ("contains", "containedIn", "intersects", "disjoint", "withinDistance", "distance")
_COMBINATIONS = ("intersection", "difference", "symmetricDifference", "union")
REFUSED: frozenset[tuple[str, str]] = frozenset(
    {
        *product(
            (f"{kind}.{name}" for kind in ("Geometry", "Feature") for name in (*_PREDICATES, *_COMBINATIONS)), ("proj",)
        ),
        *product(("Geometry.simplify", "Feature.simplify"), ("proj",)),
        *product(("Geometry.distance", "Feature.distance"), ("spherical",)),
        *product(("Geometry.transform", "Feature.transform", "ProjectionTransform"), ("geodesic",)),
        *product((f"GeometryConstructors.{kind}" for kind in ("Polygon", "MultiPolygon")), ("evenOdd",)),
    }
)
"""(function, argument) that an implementation takes and does not heed: only the default is answered."""


def is_hint(function: str, argument: str) -> bool:
    """Whether a value of an argument changes nothing."""
    return (function, argument) in HINTS or (ANY_FUNCTION, argument) in HINTS


@lru_cache(maxsize=1024)
def unheeded(function: str) -> tuple[Argument, ...]:
    """Arguments of which only the default is answered."""
    takes = FUNCTIONS[function].takes
    return tuple(
        argument
        for argument in signatures()[function].arguments
        if (function, argument.name) in REFUSED or (argument.name not in takes and not is_hint(function, argument.name))
    )


def not_heeded(function: str, argument: Argument) -> EmulatorError:
    """Say plainly that Earth Engine heeds an argument and this emulator does not."""
    default = "null" if argument.default is None else repr(argument.default)
    return EmulatorError(
        f"{function}: Earth Engine has the argument '{argument.name}'; the emulator has only its default, {default}."
    )
