"""`Image.expression`: formulas over bands, written as text.

Operators, by rank: ``**``; unary ``- + ! ~``; ``* / %``; ``+ -``; ``<< >>``; ``< > <= >=``; ``== !=``; ``&``; ``^``;
``|``; ``&&``; ``||``; ``a ? b : c``. ``b('B4')`` and ``b(0)`` are bands of the image, a name is a variable, or a
constant such as ``PI``; ``NIR.B8`` is a band of a variable; ``sqrt(x)`` calls a method of images.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from mmearth_data.emulator.algorithms.arithmetic import BINARY
from mmearth_data.emulator.algorithms.image import Image, chosen_bands
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.graph.text_reader import TextReader, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.emulator.graph.registry import Context, Value

TOKEN = re.compile(
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
        made = _Reader(self, {name: self.context.promote(value, "Image") for name, value in variables.items()}).result()
        return Image(made.bands, {}, made.footprint)


function("Image.parseExpression")(lambda expression, argName, context: Formula(expression, argName, context))


class _Reader(TextReader):
    """Reads a formula from left to right and computes it on the way."""

    def __init__(self, formula: Formula, variables: Mapping[str, Image]) -> None:
        super().__init__(formula.text, TOKEN, "Image.parseExpression", "expression")
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
        return self._number(number_of(text)) if kind == "number" else self._member(self._named(text))

    def _named(self, name: str) -> Image:
        if self._taken("("):
            return self._bands() if name == "b" else self._applied(name)
        if name in self._variables:
            return self._variables[name]
        if name in CONSTANTS:
            return self._number(CONSTANTS[name])
        raise self.error(f"Undefined variable '{name}'.")

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
            raise self.error(f"{name}() takes one argument, got {len(values)}.")
        return self._call(name, value=values[0])
