"""Operations on numbers, which ``Number`` and ``Image`` share: one row for each.

The service keeps ranges through arithmetic: a 16-bit band times 0.0000275 minus 0.2 is ``Float<-0.2, 1.6022125>``
(geemap issue 1058). Ranges are computed for sums, differences, products, quotients and extremes; for other operations
the range is open, or that of the input.
"""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from mmearth_data.emulator.algorithms.image import DOUBLE, FLOAT, INT32, PixelType
from mmearth_data.emulator.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

Number = int | float
Range = tuple[float, float]
Row = TypeVar("Row")
TRUTH, INTEGER = PixelType("int", 0, 1), PixelType("int")
EXACT = 2**53
"""Integers below this number are exact as floating-point numbers; so are sums and products that are below it."""
LONG_BITS = 64
"""Bits of the longest integer; shifts wrap around at this number, as in Java."""
MOST_BITS = 4096
"""Maximum number of bits of a power that is computed as an integer; every double is below."""


class Unary(NamedTuple):
    """Operation on one number, or on an array."""

    number: Callable[[Any], Number]
    pixels: Callable[[Array], Array]
    type: PixelType | None = None  # Type of the resulting band; None: that of the input
    # Computes the range of the results from that of the operand; without it, the range is that of the type
    range: Callable[[Range], Range] | None = None

    def type_of(self, given: PixelType) -> PixelType:
        """Type of the result for an operand of a given type."""
        kind = self.type or given
        if self.range is None:
            return kind
        if given.low is None or given.high is None:
            return PixelType(kind.precision)
        return PixelType(kind.precision, *self.range((given.low, given.high)))


class Binary(NamedTuple):
    """Operation on two numbers."""

    number: Callable[[Any, Any], Number]
    pixels: Callable[[Array, Array], Array]
    type: PixelType | None = None  # Type of the resulting band; None joins those of the operands
    # Computes the range of the results from those of the operands, None if it is open; without it the range is that of
    # both operands together for integers, and open for other numbers
    range: Callable[[Range, Range], Range | None] | None = None
    sign: tuple[str, int] | None = None  # Operator in formulas, and its rank: a higher one binds more tightly

    def type_of(self, left: PixelType, right: PixelType) -> PixelType:
        """Type of the result for operands of given types."""
        joined = left.joined(right)
        if self.range is not None:
            precision = joined.precision if self.type is None else self.type.precision
            if left.low is None or left.high is None or right.low is None or right.high is None:
                return PixelType(precision)
            return PixelType(precision, *(self.range((left.low, left.high), (right.low, right.high)) or (None, None)))
        if self.type is not None:
            return self.type
        return joined if joined.precision == "int" else PixelType(joined.precision)


# ---------------------------------------------------------------- numbers


def truncate(value: Number, low: int, high: int) -> int:
    """Cast to an integer type: toward zero, clamped; NaN is 0, as in Java."""
    if isinstance(value, float) and not math.isfinite(value):
        return 0 if math.isnan(value) else (high if value > 0 else low)
    return min(max(int(value), low), high)


def narrow(value: Number) -> Number:
    """Convert integers that need more than 64 bits to floating-point numbers."""
    return float(value) if isinstance(value, int) and value.bit_length() >= LONG_BITS else value


def _round_half_away(value: Number) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _remainder(left: Number, right: Number) -> Number:
    """Remainder with the sign of the dividend; 0 for a divisor of 0."""
    if right == 0:
        return 0
    rest = math.fmod(left, right)
    return int(rest) if isinstance(left, int) and isinstance(right, int) else rest


def _power(left: Number, right: Number) -> Number:
    try:
        result = float(left) ** right if abs(right) * math.log2(abs(left) + 2) > MOST_BITS else left**right
    except (ZeroDivisionError, OverflowError):
        return math.inf
    return math.nan if isinstance(result, complex) else result


def real(operation: Callable[[float], float]) -> Callable[[Number], float]:
    """Operation that returns NaN or infinity where Python raises an error."""

    def apply(value: Number) -> float:
        try:
            return operation(value)
        except ValueError:
            return -math.inf if value == 0 else math.nan
        except OverflowError:
            return math.inf

    return apply


def _truth(operation: Callable[[Any, Any], Any]) -> Callable[[Number, Number], int]:
    return lambda left, right: int(bool(operation(left, right)))


def _shift(operation: Callable[[int, int], int]) -> Callable[[Number, Number], int]:
    return lambda left, right: operation(int(left), int(right) % LONG_BITS)


def _bits(operation: Callable[[int, int], int]) -> Callable[[Number, Number], int]:
    return lambda left, right: operation(int(left), int(right))


# ---------------------------------------------------------------- pixels


def half_up(values: Array) -> Array:
    """Nearest whole number; Earth Engine does not document what becomes of halves: here they go up."""
    return np.asarray(np.floor(values + 0.5))


def quotient(a: Array, b: Array) -> Array:
    """Quotient; 0 for a division by 0 (Earth Engine's reference)."""
    return np.where(b == 0, 0.0, a / np.where(b == 0, 1, b))


def relative_difference(a: Array, b: Array) -> Array:
    """Compute (a - b) / (a + b); masked where either is negative and (undocumented) where both are 0."""
    return np.where((a < 0) | (b < 0) | (a + b == 0), np.nan, quotient(a - b, a + b))


def _bit_count(values: Array) -> Array:
    bits = values.astype(np.int64).view(np.uint8).reshape(*values.shape, 8)
    return np.asarray(np.unpackbits(bits, axis=-1).sum(axis=-1), np.float64)


def _integers(operation: Callable[..., Array]) -> Callable[..., Array]:
    """Operation on 64-bit integers; refuses results that pixels, which are floating-point numbers, cannot hold."""

    def compute(*operands: Array) -> Array:
        found = operation(*(values.astype(np.int64) for values in operands))
        held = found.astype(np.float64)
        if not (np.where(held < 2.0 ** (LONG_BITS - 1), held, 0.0).astype(np.int64) == found).all():
            raise too_long()
        return held

    return compute


def too_long() -> EmulatorError:
    """Return the error for integers that pixels cannot hold."""
    return EmulatorError(
        "Expected integers of at most 53 bits, found larger ones. The emulator computes pixels with floating-point "
        "numbers, Earth Engine computes integers exactly; cast the operands with toDouble() if rounded values are enough."
    )


def exactly(values: Array, valid: Array, kind: PixelType) -> Array:
    """Return sums or products; refuse integers that may have been rounded."""
    short = kind.low is not None and kind.high is not None and max(-kind.low, kind.high) < EXACT
    if kind.precision == "int" and not short and (np.abs(values[valid]) >= EXACT).any():
        raise too_long()
    return values


def _single(values: Array) -> Array:
    return values.astype(np.float32).astype(np.float64)


# ---------------------------------------------------------------- ranges


def _of_corners(operation: Callable[[float, float], float]) -> Callable[[Range, Range], Range]:
    def between(a: Range, b: Range) -> Range:
        corners = [operation(x, y) for x in a for y in b]
        return min(corners), max(corners)

    return between


def _of_absolute(given: Range) -> Range:
    low, high = given
    return max(low, -high, 0), max(-low, high)


def _signed(given: Range) -> Range:
    """Range of the smallest signed type that holds a range."""
    limits = [2 ** (bits - 1) for bits in (8, 16, 32, LONG_BITS)]
    limit = next((n for n in limits if -n <= given[0] and given[1] < n), limits[-1])
    return -limit, limit - 1


def _of_ends(operation: Callable[[float], float]) -> Callable[[Range], Range]:
    return lambda given: (operation(given[0]), operation(given[1]))


def _of_quotient(a: Range, b: Range) -> Range | None:
    return None if b[0] <= 0 <= b[1] else _of_corners(operator.truediv)(a, b)


# ---------------------------------------------------------------- the table


def _spelled(table: Mapping[str, Row]) -> dict[str, Row]:
    return {name: row for names, row in table.items() for name in names.split()}


BINARY: dict[str, Binary] = _spelled(
    {
        "add": Binary(operator.add, np.add, None, lambda a, b: (a[0] + b[0], a[1] + b[1]), ("+", 9)),
        "subtract": Binary(operator.sub, np.subtract, None, lambda a, b: (a[0] - b[1], a[1] - b[0]), ("-", 9)),
        "multiply": Binary(operator.mul, np.multiply, None, _of_corners(operator.mul), ("*", 10)),
        "divide": Binary(lambda a, b: 0.0 if b == 0 else a / b, quotient, DOUBLE, _of_quotient, ("/", 10)),
        "mod": Binary(_remainder, np.fmod, sign=("%", 10)),
        "pow": Binary(_power, np.power, DOUBLE),
        "min": Binary(min, np.minimum, None, lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
        "max": Binary(max, np.maximum, None, lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
        "first": Binary(lambda *pair: pair[0], lambda *pair: pair[0]),
        "firstNonZero first_nonzero": Binary(lambda a, b: a or b, lambda a, b: np.where(a != 0, a, b)),
        "hypot": Binary(math.hypot, np.hypot, DOUBLE),
        # "the angle formed by the 2D vector [x, y]"
        "atan2": Binary(lambda x, y: math.atan2(y, x), np.arctan2, DOUBLE),
        "eq": Binary(_truth(operator.eq), np.equal, TRUTH, sign=("==", 6)),
        "neq": Binary(_truth(operator.ne), np.not_equal, TRUTH, sign=("!=", 6)),
        "lt": Binary(_truth(operator.lt), np.less, TRUTH, sign=("<", 7)),
        "lte": Binary(_truth(operator.le), np.less_equal, TRUTH, sign=("<=", 7)),
        "gt": Binary(_truth(operator.gt), np.greater, TRUTH, sign=(">", 7)),
        "gte": Binary(_truth(operator.ge), np.greater_equal, TRUTH, sign=(">=", 7)),
        "and": Binary(_truth(lambda a, b: a and b), np.logical_and, TRUTH, sign=("&&", 2)),
        "or": Binary(_truth(lambda a, b: a or b), np.logical_or, TRUTH, sign=("||", 1)),
        "bitwiseAnd bitwise_and": Binary(_bits(operator.and_), _integers(np.bitwise_and), sign=("&", 5)),
        "bitwiseOr bitwise_or": Binary(_bits(operator.or_), _integers(np.bitwise_or), sign=("|", 3)),
        "bitwiseXor bitwise_xor": Binary(_bits(operator.xor), _integers(np.bitwise_xor), sign=("^", 4)),
        "leftShift left_shift": Binary(
            _shift(operator.lshift), _integers(np.left_shift), None, lambda *_: None, sign=("<<", 8)
        ),
        "rightShift right_shift": Binary(_shift(operator.rshift), _integers(np.right_shift), sign=(">>", 8)),
    }
)

UNARY: dict[str, Unary] = _spelled(
    {
        "abs": Unary(abs, np.abs, None, _of_absolute),
        "floor": Unary(math.floor, np.floor, INTEGER, _of_ends(math.floor)),
        "ceil": Unary(math.ceil, np.ceil, INTEGER, _of_ends(math.ceil)),
        "round": Unary(_round_half_away, half_up, INTEGER, _of_ends(lambda value: math.floor(value + 0.5))),
        "signum": Unary(lambda value: (value > 0) - (value < 0), np.sign),
        "not": Unary(lambda value: int(not value), lambda values: values == 0, TRUTH),
        "sqrt": Unary(lambda value: math.sqrt(value) if value >= 0 else math.nan, np.sqrt, DOUBLE),
        "exp": Unary(real(math.exp), np.exp, DOUBLE),
        "log": Unary(real(math.log), np.log, DOUBLE),
        "log10": Unary(real(math.log10), np.log10, DOUBLE),
        "cbrt": Unary(math.cbrt, np.cbrt, DOUBLE),
        "sin": Unary(real(math.sin), np.sin, DOUBLE),
        "cos": Unary(real(math.cos), np.cos, DOUBLE),
        "tan": Unary(real(math.tan), np.tan, DOUBLE),
        "asin": Unary(real(math.asin), np.arcsin, DOUBLE),
        "acos": Unary(real(math.acos), np.arccos, DOUBLE),
        "atan": Unary(real(math.atan), np.arctan, DOUBLE),
        "sinh": Unary(real(math.sinh), np.sinh, DOUBLE),
        "cosh": Unary(real(math.cosh), np.cosh, DOUBLE),
        "tanh": Unary(real(math.tanh), np.tanh, DOUBLE),
        "bitwiseNot bitwise_not": Unary(lambda value: ~int(value), _integers(np.bitwise_not), INTEGER, _signed),
        "bitCount": Unary(lambda value: (int(value) & 0xFFFFFFFFFFFFFFFF).bit_count(), _bit_count, INT32),
    }
)

CASTS: dict[str, Unary] = _spelled(
    {"toFloat float": Unary(float, _single, FLOAT), "toDouble double": Unary(float, np.asarray, DOUBLE)}
)
"""Integer casts truncate toward zero and clamp to the range of the type."""


def _integer_cast(dtype: str) -> Unary:
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return Unary(
        partial(truncate, low=low, high=high),
        lambda values: np.clip(np.trunc(np.nan_to_num(values)), float(low), float(high)),
        PixelType.of(np.dtype(dtype)),
    )


for _names, _dtype in {
    "Uint8 Byte": "uint8", "Int8": "int8", "Uint16": "uint16", "Int16 Short": "int16", "Uint32": "uint32",
    "Int32 Int": "int32", "Int64 Long": "int64",
}.items():  # fmt: skip
    for _name in _names.split():
        CASTS[f"to{_name}"] = CASTS[_name[0].lower() + _name[1:]] = _integer_cast(_dtype)
