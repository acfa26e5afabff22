"""``Number.*``."""

from __future__ import annotations

import math
import re
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator.algorithms.arithmetic import BINARY, CASTS, UNARY, Number, narrow, real
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function, functions

if TYPE_CHECKING:
    from collections.abc import Callable

WIDEST = 1000
"""Maximum number of characters that a pattern may request."""


def _binary(operation: Callable[[Any, Any], Number]) -> Callable[..., Number]:
    return lambda left, right: narrow(operation(left, right))


def _unary(operation: Callable[[Any], Number]) -> Callable[..., Number]:
    return lambda input: operation(input)


functions("Number", {name: _binary(row.number) for name, row in BINARY.items()})
functions("Number", {name: _unary(row.number) for name, row in {**UNARY, **CASTS}.items()})
functions(
    "Number",
    {
        "gamma": _unary(real(math.gamma)),
        "erf": _unary(math.erf),
        "erfc": _unary(math.erfc),
        "erfInv": lambda input: NormalDist().inv_cdf((input + 1) / 2) / math.sqrt(2),
        "erfcInv": lambda input: NormalDist().inv_cdf(1 - input / 2) / math.sqrt(2),
        "clamp": lambda number, min, max: min if number < min else max if number > max else number,
        "unitScale": lambda number, min, max: (number - min) / (max - min),
    },
)


@function("Number.format")
def format_number(number: Number, pattern: str = "%s") -> str:
    """Text of a number by a pattern of printf."""
    if pattern == "%s" and isinstance(number, float) and number.is_integer():
        number = int(number)
    if any(int(digits) > WIDEST for digits in re.findall(r"\d+", pattern)):
        raise EmulatorError(f"Number.format: Invalid format pattern '{pattern[:40]}'.")
    try:
        return pattern % number
    except (TypeError, ValueError):
        raise EmulatorError(f"Number.format: Invalid format pattern '{pattern}'.") from None


@function("Number.parse")
def parse_number(input: str, radix: int = 10) -> Number:
    """Read a number in a text."""
    try:
        return int(input, radix)
    except ValueError:
        pass
    try:
        return float(input)
    except ValueError:
        raise EmulatorError(f"Number.parse: Can't parse '{input}' as a number.") from None
