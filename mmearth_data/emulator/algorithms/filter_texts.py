"""Filters written as text: ``CLOUDY_PIXEL_PERCENTAGE < 20 && MGRS_TILE == "32TMT"``.

Operators by precedence, as listed in the reference of ``Collection.filter``: ``||`` (``or``); ``&&`` (``and``); ``!``
(``not``); ``> >= < <= == !=`` and ``in``; ``( )`` may enclose anything. A name is a property; a number or a quoted
string is a value; the right side of ``in`` is a list of values, ``['a', 'b']``, or a property that holds one. Anything
else is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from mmearth_data.emulator.algorithms.filters import Filter, Sides, all_of, any_of, compare, inverted
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.graph.text_reader import TextReader, number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmearth_data.emulator.graph.registry import Value

TOKEN = re.compile(
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

CONSTANTS = frozenset({"true", "false", "null"})
"""Words that are values in other languages; the reference does not say whether they are here."""


function("Filter.expression")(lambda expression: parsed(expression, "Filter.expression"))


def parsed(text: str, name: str) -> Filter:
    """Filter that a text describes; ``name`` is the algorithm that received it. Raises `EmulatorError` for other texts."""
    return _Reader(text, TOKEN, name, "filter").result()


class _Operand(NamedTuple):
    """One side of a comparison: a property, or a value."""

    name: str | None
    value: Value = None


class _Reader(TextReader):
    """Reads a text from left to right and builds its filter."""

    def token_of(self, token: tuple[str, str]) -> tuple[str, str]:
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
        return self._joined("||", self._both, any_of)

    def _both(self) -> Filter:
        return self._joined("&&", self._one, all_of)

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
            raise self.error(f"'{self.text}' compares two values; one side must be a property.")
        if sign == "in" and right.name is None and not isinstance(right.value, list):
            raise self.error(f"'in' needs a list such as ['a', 'b'] at its right in '{self.text}'.")
        return compare(COMPARISONS[sign], Sides(left.name, right.value, right.name, left.value))

    def _operand(self) -> _Operand:
        kind, token = self._peek()
        if kind == "name" and token not in CONSTANTS:
            return _Operand(self._next()[1])
        return _Operand(None, self._value())

    def _value(self) -> Value:
        kind, token = self._next("number", "text")
        return token[1:-1] if kind == "text" else number_of(token)

    def _list(self) -> _Operand:
        values = [self._value()]
        while self._taken(","):
            values.append(self._value())
        self._need("]")
        return _Operand(None, values)
