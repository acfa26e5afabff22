"""Types of arithmetic results, including their possible range of values.

The service keeps ranges through arithmetic: a 16-bit band times 0.0000275 minus 0.2 is ``Float<-0.2, 1.6022125>``
(geemap issue 1058). This module computes ranges for sums, differences, products, quotients and extremes; for other
operations the range is open, or that of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data.emulator.algorithms.image import PixelType

if TYPE_CHECKING:
    from collections.abc import Callable

    Range = tuple[float, float]

SPREADING = frozenset({"pow", "leftShift", "left_shift", "signum"})
"""Integer operations whose results may leave the range of the input, and whose own range is not computed."""


def _of_corners(operation: Callable[[float, float], float]) -> Callable[[Range, Range], Range]:
    def between(a: Range, b: Range) -> Range:
        corners = [operation(x, y) for x in a for y in b]
        return min(corners), max(corners)

    return between


INTERVALS: dict[str, Callable[[Range, Range], Range | None]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "subtract": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "multiply": _of_corners(lambda x, y: x * y),
    "divide": lambda a, b: None if b[0] <= 0 <= b[1] else _of_corners(lambda x, y: x / y)(a, b),
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
}
"""Operation -> range of its results given the ranges of two operands; None if it is open."""


def type_after(name: str, declared: PixelType | None, left: PixelType, right: PixelType) -> PixelType:
    """Type of the result of an operation on two numbers.

    Parameters
    ----------
    name
        Operation, as named by `Image`.
    declared
        Type of its results if that does not depend on the operands.
    left, right
        Types of the operands.
    """
    joined = left.joined(right)
    if name in INTERVALS:
        precision = joined.precision if declared is None else declared.precision
        if left.low is None or left.high is None or right.low is None or right.high is None:
            return PixelType(precision)
        return PixelType(precision, *(INTERVALS[name]((left.low, left.high), (right.low, right.high)) or (None, None)))
    if declared is not None:
        return declared
    if joined.precision != "int" or name in SPREADING:
        return PixelType(joined.precision)
    return joined
