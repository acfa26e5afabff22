"""``Number.*``: one table of operations a shape."""

from __future__ import annotations

import math
import re
from statistics import NormalDist
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function

if TYPE_CHECKING:
    from collections.abc import Callable

Number = int | float

RANGES = {
    "Byte": (0, 2**8 - 1),
    "Uint8": (0, 2**8 - 1),
    "Int8": (-(2**7), 2**7 - 1),
    "Uint16": (0, 2**16 - 1),
    "Int16": (-(2**15), 2**15 - 1),
    "Short": (-(2**15), 2**15 - 1),
    "Uint32": (0, 2**32 - 1),
    "Int32": (-(2**31), 2**31 - 1),
    "Int": (-(2**31), 2**31 - 1),
    "Int64": (-(2**63), 2**63 - 1),
    "Long": (-(2**63), 2**63 - 1),
}
"""Integer types, by the names that casts carry."""
LONG_BITS = 64
"""Bits of the longest integer; shifts wrap around at this number, as in Java."""
MOST_BITS = 4096
"""Maximum number of bits of a power that is computed as an integer; every double is below."""
WIDEST = 1000
"""Maximum number of characters that a pattern may request."""


def truncate(value: Number, low: int, high: int) -> int:
    """Cast to an integer type: toward zero, clamped; NaN is 0, as in Java."""
    if isinstance(value, float) and not math.isfinite(value):
        return 0 if math.isnan(value) else (high if value > 0 else low)
    return min(max(int(value), low), high)


def round_half_away(value: Number) -> int:
    """Nearest integer, ties away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _narrow(value: Number) -> Number:
    """Convert integers that need more than 64 bits to floating-point numbers."""
    return float(value) if isinstance(value, int) and value.bit_length() >= LONG_BITS else value


def _divide(left: Number, right: Number) -> float:
    """Divide; by zero it is 0, as the reference says."""
    return 0.0 if right == 0 else left / right


def _remainder(left: Number, right: Number) -> Number:
    """Remainder with the sign of the dividend; 0 for a divisor of 0."""
    if right == 0:
        return 0
    rest = math.fmod(left, right)
    return int(rest) if isinstance(left, int) and isinstance(right, int) else rest


def _power(left: Number, right: Number) -> Number:
    try:
        result = float(left) ** right if abs(right) * math.log2(abs(left) + 2) > MOST_BITS else left**right
    except ZeroDivisionError:
        return math.inf
    except OverflowError:
        return math.inf
    return math.nan if isinstance(result, complex) else result


def _real(operation: Callable[[float], float]) -> Callable[[Number], float]:
    """Operation that answers NaN where Python raises."""

    def apply(value: Number) -> float:
        try:
            return operation(value)
        except ValueError:
            return -math.inf if value == 0 else math.nan
        except OverflowError:
            return math.inf

    return apply


_BINARY: dict[str, Callable[[Number, Number], Number]] = {
    "add": lambda left, right: left + right,
    "subtract": lambda left, right: left - right,
    "multiply": lambda left, right: left * right,
    "divide": _divide,
    "mod": _remainder,
    "pow": _power,
    "max": max,
    "min": min,
    "first": lambda left, right: left,
    "firstNonZero": lambda left, right: left or right,
    "first_nonzero": lambda left, right: left or right,
    "and": lambda left, right: int(bool(left) and bool(right)),
    "or": lambda left, right: int(bool(left) or bool(right)),
    "lt": lambda left, right: int(left < right),
    "lte": lambda left, right: int(left <= right),
    "gt": lambda left, right: int(left > right),
    "gte": lambda left, right: int(left >= right),
    "eq": lambda left, right: int(left == right),
    "neq": lambda left, right: int(left != right),
    "atan2": lambda left, right: math.atan2(right, left),  # "the angle formed by the 2D vector [x, y]"
    "hypot": math.hypot,
    "bitwiseAnd": lambda left, right: int(left) & int(right),
    "bitwise_and": lambda left, right: int(left) & int(right),
    "bitwiseOr": lambda left, right: int(left) | int(right),
    "bitwise_or": lambda left, right: int(left) | int(right),
    "bitwiseXor": lambda left, right: int(left) ^ int(right),
    "bitwise_xor": lambda left, right: int(left) ^ int(right),
    "leftShift": lambda left, right: int(left) << (int(right) % LONG_BITS),
    "left_shift": lambda left, right: int(left) << (int(right) % LONG_BITS),
    "rightShift": lambda left, right: int(left) >> (int(right) % LONG_BITS),
    "right_shift": lambda left, right: int(left) >> (int(right) % LONG_BITS),
}

_UNARY: dict[str, Callable[[Number], Number]] = {
    "bitwiseNot": lambda value: ~int(value),
    "bitwise_not": lambda value: ~int(value),
    "bitCount": lambda value: (int(value) & 0xFFFFFFFFFFFFFFFF).bit_count(),
    "not": lambda value: int(not value),
    "sin": _real(math.sin),
    "cos": _real(math.cos),
    "tan": _real(math.tan),
    "asin": _real(math.asin),
    "acos": _real(math.acos),
    "atan": _real(math.atan),
    "sinh": _real(math.sinh),
    "cosh": _real(math.cosh),
    "tanh": _real(math.tanh),
    "sqrt": lambda value: math.sqrt(value) if value >= 0 else math.nan,
    "log": _real(math.log),
    "log10": _real(math.log10),
    "exp": _real(math.exp),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round_half_away,
    "cbrt": math.cbrt,
    "gamma": _real(math.gamma),
    "erf": math.erf,
    "erfc": math.erfc,
    "erfInv": lambda value: NormalDist().inv_cdf((value + 1) / 2) / math.sqrt(2),
    "erfcInv": lambda value: NormalDist().inv_cdf(1 - value / 2) / math.sqrt(2),
    "signum": lambda value: (value > 0) - (value < 0),
    "float": lambda value: float(value),
    "toFloat": lambda value: float(value),
    "double": lambda value: float(value),
    "toDouble": lambda value: float(value),
}


def _enter_binary(name: str, operation: Callable[[Number, Number], Number]) -> None:
    @function(f"Number.{name}")
    def apply(left: Number, right: Number) -> Number:
        return _narrow(operation(left, right))


def _enter_unary(name: str, operation: Callable[[Number], Number]) -> None:
    @function(f"Number.{name}")
    def apply(input: Number) -> Number:
        return operation(input)


def _enter_cast(kind: str, low: int, high: int) -> None:
    @function(f"Number.to{kind}", f"Number.{kind[0].lower()}{kind[1:]}")
    def cast(input: Number) -> int:
        return truncate(input, low, high)


for _name, _binary in _BINARY.items():
    _enter_binary(_name, _binary)
for _name, _unary in _UNARY.items():
    _enter_unary(_name, _unary)
for _kind, (_low, _high) in RANGES.items():
    _enter_cast(_kind, _low, _high)


@function("Number.clamp")
def clamp(number: Number, min: float, max: float) -> Number:
    """Bring into a range."""
    return min if number < min else max if number > max else number


@function("Number.unitScale")
def unit_scale(number: Number, min: float, max: float) -> float:
    """Scale so that [min, max] becomes [0, 1]; not clamped."""
    return (number - min) / (max - min)


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
