"""Formulas and filters written as text: `Image.expression`, and ``CLOUDY_PIXEL_PERCENTAGE < 20 && MGRS_TILE == "32TMT"``.

Operators of formulas, by rank: ``**``; unary ``- + ! ~``; ``* / %``; ``+ -``; ``<< >>``; ``< > <= >=``; ``== !=``;
``&``; ``^``; ``|``; ``&&``; ``||``; ``a ? b : c``. ``b('B4')`` and ``b(0)`` are bands of the image, a name is a variable,
or a constant such as ``PI``; ``NIR.B8`` is a band of a variable; ``sqrt(x)`` calls a method of images.

Operators of filters, as listed in the reference of ``Collection.filter``: ``||`` (``or``); ``&&`` (``and``); ``!``
(``not``); ``> >= < <= == !=`` and ``in``; ``( )`` may enclose anything. A name is a property; a number or a quoted
string is a value; the right side of ``in`` is a list of values, ``['a', 'b']``, or a property that holds one. Anything
else is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from mmearth_data.emulator.algorithms.arithmetic import BINARY
from mmearth_data.emulator.algorithms.filters import Filter, Sides, all_of, any_of, compare, inverted
from mmearth_data.emulator.algorithms.image import Image, chosen_bands
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmearth_data.emulator.graph.registry import Context, Value

    Token = tuple[str, str]


class _Reader:
    """Tokens of a text, and the position up to which they are read; messages name the algorithm, and what the text is."""

    def __init__(self, text: str, pattern: re.Pattern[str], algorithm: str, what: str) -> None:
        self.text = text
        self._algorithm, self._what = algorithm, what
        self._tokens = [*map(self._token_of, self._split(pattern)), ("end", "")]
        self._at = 0

    def _token_of(self, token: Token) -> Token:
        return token

    def _split(self, pattern: re.Pattern[str]) -> Iterator[Token]:
        at, end = 0, len(self.text.rstrip())
        while at < end:
            found = pattern.match(self.text, at)
            if found is None:
                raise self._error(f"Unexpected character '{self.text[at:].strip()[:1]}' in '{self.text}'.")
            at = found.end()
            yield str(found.lastgroup), found.group(str(found.lastgroup))

    def _error(self, problem: str) -> EmulatorError:
        return EmulatorError(f"{self._algorithm}: {problem}")

    def _wrong(self) -> EmulatorError:
        found = self._peek()[1] or "the end"
        return self._error(f"Unexpected '{found}' in {self._what} '{self.text}'.")

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self, *kinds: str) -> Token:
        """Read a token, of one of some kinds if any are given."""
        token = self._tokens[self._at]
        if kinds and token[0] not in kinds:
            raise self._wrong()
        self._at += 1
        return token

    def _taken(self, sign: str) -> bool:
        taken = self._peek() == ("sign", sign)
        self._at += taken
        return taken

    def _need(self, sign: str) -> None:
        if not self._taken(sign):
            raise self._wrong()


def _number_of(token: str) -> float | int:
    return float(token) if any(c in token for c in ".eE") else int(token)


# ---------------------------------------------------------------- formulas

FORMULA_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<sign>\*\*|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>&|^!~?:(),.\[\]=]))"
)
OPERATORS = {row.sign[0]: (row.sign[1], name) for name, row in BINARY.items() if row.sign and "_" not in name}
"""Operator -> (rank, operation)."""
POWER, PREFIXES = "**", {"!": "not", "~": "bitwiseNot"}
CONSTANTS = {"PI": math.pi, "E": math.e, "true": 1, "false": 0}
BINARY_FUNCTIONS = frozenset({"min", "max", "pow", "atan2", "hypot"})


@dataclass(frozen=True)
class Formula:
    """A function that a text describes."""

    text: str
    image: str  # Name of the variable whose bands ``b()`` selects
    context: Context

    def by_name(self, variables: Mapping[str, Value]) -> Image:
        """Compute it for values of its variables; properties are dropped, as in arithmetic."""
        images = {name: self.context.promote(value, "Image") for name, value in variables.items()}
        made = _FormulaReader(self, images).result()
        return Image(made.bands, {}, made.footprint)


function("Image.parseExpression")(lambda expression, argName, context: Formula(expression, argName, context))


class _FormulaReader(_Reader):
    """Reads a formula from left to right and computes it on the way."""

    def __init__(self, formula: Formula, variables: Mapping[str, Image]) -> None:
        super().__init__(formula.text, FORMULA_TOKEN, "Image.parseExpression", "expression")
        self._formula = formula
        self._variables = variables

    def result(self) -> Image:
        value = self._choice()
        self._next("end")
        return value

    def _call(self, name: str, **arguments: Image) -> Image:
        image: Image = self._formula.context.call(f"Image.{name}", **arguments)
        return image

    def _choice(self) -> Image:
        condition = self._binary(0)
        if not self._taken("?"):
            return condition
        yes = self._choice()
        self._need(":")
        no = self._choice()
        chosen = self._call("where", input=no, test=condition, value=yes)
        return self._call("updateMask", image=chosen, mask=self._call("mask", image=condition))

    def _binary(self, lowest: int) -> Image:
        left = self._unary()
        while True:
            kind, sign = self._peek()
            rank, name = OPERATORS.get(sign, (0, "")) if kind == "sign" else (0, "")
            if rank <= lowest:
                return left
            self._next()
            left = self._call(name, image1=left, image2=self._binary(rank))

    def _unary(self) -> Image:
        if self._taken("-"):
            return self._call("multiply", image1=self._unary(), image2=self._number(-1))
        if self._taken("+"):
            return self._unary()
        for sign, name in PREFIXES.items():
            if self._taken(sign):
                return self._call(name, value=self._unary())
        base = self._primary()
        return self._call("pow", image1=base, image2=self._unary()) if self._taken(POWER) else base

    def _number(self, value: float) -> Image:
        image: Image = self._formula.context.promote(value, "Image")
        return image

    def _primary(self) -> Image:
        if self._taken("("):
            value = self._choice()
            self._need(")")
            return value
        kind, text = self._next("number", "name")
        return self._number(_number_of(text)) if kind == "number" else self._member(self._named(text))

    def _named(self, name: str) -> Image:
        if self._taken("("):
            return self._bands() if name == "b" else self._applied(name)
        if name in self._variables:
            return self._variables[name]
        if name in CONSTANTS:
            return self._number(CONSTANTS[name])
        raise self._error(f"Undefined variable '{name}'.")

    def _member(self, image: Image) -> Image:
        """Band of a variable: ``NIR.B8`` or ``NIR['B8']``."""
        if self._taken("."):
            return self._selected(image, [self._next()[1]])
        if self._taken("["):
            band = self._next()[1].strip("'\"")
            self._need("]")
            return self._selected(image, [int(band) if band.isdigit() else band])
        return image

    def _bands(self) -> Image:
        selectors: list[Value] = []
        while not self._taken(")"):
            kind, text = self._next("text", "number")
            selectors.append(int(text) if kind == "number" else text[1:-1])
            self._taken(",")
        image = self._variables[self._formula.image]
        return self._selected(image, selectors) if selectors else image

    @staticmethod
    def _selected(image: Image, selectors: list[Value]) -> Image:
        return image.with_bands(tuple(chosen_bands(image, selectors, "Image.select")))

    def _applied(self, name: str) -> Image:
        values = []
        while not self._taken(")"):
            values.append(self._choice())
            self._taken(",")
        if name in BINARY_FUNCTIONS and len(values) >= 2:
            return reduce(lambda left, right: self._call(name, image1=left, image2=right), values)
        if len(values) != 1:
            raise self._error(f"{name}() takes one argument, got {len(values)}.")
        return self._call(name, value=values[0])


# ---------------------------------------------------------------- filters

FILTER_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_.][\w:.]*)|(?P<sign>&&|\|\||[<>=!]=|[<>!()\[\],]))"
)
COMPARISONS = {
    "==": "equals",
    "!=": "notEquals",
    "<": "lessThan",
    "<=": "lessThanOrEquals",
    ">": "greaterThan",
    ">=": "greaterThanOrEquals",
    "in": "inList",
}
TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
"""Operator -> the operator with its sides exchanged."""
WORDS = {"and": "&&", "or": "||", "not": "!", "in": "in"}
"""Words that can be used as operators."""
VALUES = frozenset({"true", "false", "null"})
"""Words that are values in other languages; the reference does not say whether they are here."""


function("Filter.expression")(lambda expression: parsed(expression, "Filter.expression"))


def parsed(text: str, name: str) -> Filter:
    """Filter that a text describes; ``name`` is the algorithm that received it. Raises `EmulatorError` for other texts."""
    return _FilterReader(text, FILTER_TOKEN, name, "filter").result()


class _Operand(NamedTuple):
    """One side of a comparison: a property, or a value."""

    name: str | None
    value: Value = None


class _FilterReader(_Reader):
    """Reads a filter from left to right and builds it on the way."""

    def _token_of(self, token: Token) -> Token:
        kind, text = token
        return ("sign", WORDS[text]) if kind == "name" and text in WORDS else token

    def result(self) -> Filter:
        found = self._either()
        self._next("end")
        return found

    def _joined(self, sign: str, part: Callable[[], Filter], join: Callable[[Sequence[Filter]], Filter]) -> Filter:
        parts = [part()]
        while self._taken(sign):
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(parts)

    def _either(self) -> Filter:
        return self._joined("||", lambda: self._joined("&&", self._one, all_of), any_of)

    def _one(self) -> Filter:
        if self._taken("!"):
            return inverted(self._one())
        if self._taken("("):
            found = self._either()
            self._need(")")
            return found
        return self._comparison()

    def _comparison(self) -> Filter:
        left = self._operand()
        sign = self._peek()[1]
        if self._peek()[0] != "sign" or sign not in COMPARISONS:
            raise self._wrong()
        self._next()
        right = self._list() if sign == "in" and self._taken("[") else self._operand()
        if left.name is None and right.name is not None and sign in TURNED:
            left, right, sign = right, left, TURNED[sign]
        if left.name is None and right.name is None:
            raise self._error(f"'{self.text}' compares two values; one side must be a property.")
        if sign == "in" and right.name is None and not isinstance(right.value, list):
            raise self._error(f"'in' needs a list such as ['a', 'b'] at its right in '{self.text}'.")
        return compare(COMPARISONS[sign], Sides(left.name, right.value, right.name, left.value))

    def _operand(self) -> _Operand:
        kind, token = self._peek()
        if kind == "name" and token not in VALUES:
            return _Operand(self._next()[1])
        return _Operand(None, self._value())

    def _value(self) -> Value:
        kind, token = self._next("number", "text")
        return token[1:-1] if kind == "text" else _number_of(token)

    def _list(self) -> _Operand:
        values = [self._value()]
        while self._taken(","):
            values.append(self._value())
        self._need("]")
        return _Operand(None, values)
