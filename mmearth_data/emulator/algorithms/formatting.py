"""Values as text in Java's forms: ``Double.toString`` and, for `Number.format`, ``java.util.Formatter``."""

from __future__ import annotations

import json
import math
import re
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, NamedTuple

from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import encode

if TYPE_CHECKING:
    from mmearth_data.emulator.graph.registry import Value

WIDEST = 1000
"""Maximum number of characters that a pattern may request."""
SMALLEST_PLAIN, LARGEST_PLAIN = 1e-3, 1e7
"""``Double.toString`` writes numbers beyond these with an exponent."""
PATTERN = re.compile(
    r"(?P<before>[^%]*)%(?P<flags>[#\-+ 0,(]*)(?P<width>\d*)(?:\.(?P<precision>\d+))?"
    r"(?P<kind>[sdoxXeEfgGaA])(?P<after>[^%]*)",
    re.DOTALL,
)
"""Prefix, ``%``, modifiers, conversion and suffix, as the reference of `Number.format` lists them."""
UNFIT_FLAGS = {"s": "#+ 0,(", "d": "#", "o": "+ ,(", "x": "+ ,(", "e": ",", "f": "", "g": "#", "a": ",("}
"""Conversion -> flags that Java refuses for it."""


def text_of(value: Value) -> str:
    """Text of any value."""
    if isinstance(value, str):
        return value
    encoded = encode(value)
    if isinstance(encoded, float):
        return _plain(encoded)
    return encoded if isinstance(encoded, str) else json.dumps(encoded)


def _plain(value: float) -> str:
    if SMALLEST_PLAIN <= abs(value) < LARGEST_PLAIN:
        return repr(value)
    mantissa, _, exponent = f"{Decimal(repr(value)):E}".partition("E")
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}E{int(exponent)}"


class _Specifier(NamedTuple):
    """What a pattern requests."""

    flags: str
    width: int
    precision: int | None
    kind: str  # Conversion in lower case


def formatted(number: float, pattern: str) -> str:
    """Text of a number in a pattern; refuses an invalid pattern."""
    found = PATTERN.fullmatch(pattern)
    if found is None:
        raise _invalid(pattern)
    precision, kind = found["precision"], found["kind"]
    asked = _Specifier(found["flags"], int(found["width"] or 0), int(precision) if precision else None, kind.lower())
    if not _fits(asked):
        raise _invalid(pattern)
    text = _laid_out(number, asked)
    return f"{found['before']}{text.upper() if kind.isupper() else text}{found['after']}"


def _invalid(pattern: str) -> EmulatorError:
    return EmulatorError(
        f"Number.format: Invalid format pattern '{pattern[:40]}'. Expected one '%', flags and digits that fit the "
        "conversion, and a conversion of sdoxXeEfgGaA, such as '%.2f'."
    )


def _fits(asked: _Specifier) -> bool:
    """Whether Java accepts the flags, width and precision, and the emulator accepts their size."""
    flags = set(asked.flags)
    together = {"+", " "} <= flags or {"-", "0"} <= flags or len(flags) < len(asked.flags)
    aligned = asked.width > 0 or not flags & {"-", "0"}
    whole = asked.kind in "dox" and asked.precision is not None
    sized = max(asked.width, asked.precision or 0) <= WIDEST
    return sized and aligned and not together and not whole and not flags & set(UNFIT_FLAGS[asked.kind])


def _laid_out(number: float, asked: _Specifier) -> str:
    """Sign, digits and padding."""
    if asked.kind == "s":
        body, lead, tail = text_of(number)[: asked.precision], "", ""
    else:
        lead, tail = _signs(number, asked.flags)
        if asked.kind in "ox":
            lead = {"o": "0", "x": "0x"}[asked.kind] if "#" in asked.flags else ""
        body = _digits(number, asked)
    if "0" in asked.flags and math.isfinite(number):
        body = body.rjust(asked.width - len(lead) - len(tail), "0")
    text = f"{lead}{body}{tail}"
    return text.ljust(asked.width) if "-" in asked.flags else text.rjust(asked.width)


def _signs(number: float, flags: str) -> tuple[str, str]:
    """Text before and after the digits."""
    if math.copysign(1, number) < 0 and not math.isnan(number):
        return ("(", ")") if "(" in flags else ("-", "")
    return ("" if math.isnan(number) else "+" if "+" in flags else " " if " " in flags else ""), ""


def _digits(number: float, asked: _Specifier) -> str:
    """Digits of the magnitude of a number."""
    if asked.kind in "ox":
        if number < 0:
            raise not_emulated(f"Number.format with %{asked.kind} of a negative number")
        return format(int(number), asked.kind)
    if asked.kind == "a":
        raise not_emulated("Number.format with %a")
    if asked.kind == "d":
        digits = str(abs(int(number)))
    elif not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity"
    else:
        digits = _decimals(abs(Decimal(repr(number))), asked)
    whole, point, rest = digits.partition(".")
    return f"{int(whole):,}{point}{rest}" if "," in asked.flags else digits


def _decimals(magnitude: Decimal, asked: _Specifier) -> str:
    """Digits of a finite number: its shortest exact decimal representation, rounded with halves up."""
    places = 6 if asked.precision is None else asked.precision
    if asked.kind == "f":
        digits = _fixed(magnitude, places)
    elif asked.kind == "e":
        digits = _scientific(magnitude, places)
    else:
        digits = _general(magnitude, max(places, 1))
    mantissa, sign, exponent = digits.partition("e")
    point = "." if "#" in asked.flags and "." not in mantissa else ""
    return f"{mantissa}{point}{sign}{exponent}"


def _fixed(magnitude: Decimal, places: int) -> str:
    rounded = magnitude.quantize(Decimal(1).scaleb(-places), context=Context(2 * WIDEST, ROUND_HALF_UP))
    return f"{rounded:f}"


def _rounded(magnitude: Decimal, digits: int) -> Decimal:
    return Context(digits, ROUND_HALF_UP).plus(magnitude)


def _scientific(magnitude: Decimal, places: int) -> str:
    rounded = _rounded(magnitude, places + 1)
    exponent = rounded.adjusted() if rounded else 0
    return f"{_fixed(rounded.scaleb(-exponent), places)}e{exponent:+03d}"


def _general(magnitude: Decimal, digits: int) -> str:
    """Significant digits, in fixed notation unless the number is too small or too large."""
    rounded = _rounded(magnitude, digits)
    exponent = rounded.adjusted() if rounded else 0
    return _fixed(rounded, digits - exponent - 1) if -4 <= exponent < digits else _scientific(rounded, digits - 1)
