"""Evaluation of the expressions that the client sends: a graph of values, calls and functions.

An expression is ``{"result": id, "values": {id: node}}``; the nodes are those of the REST reference (ValueNode).
A node is computed when it is first asked for, and once for each binding of the arguments that it depends on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator.errors import (
    EmulatorError,
    argument_missing,
    not_emulated,
    unknown_argument,
    unknown_function,
    wrong_type,
)
from mmearth_data.emulator.library import implementation
from mmearth_data.emulator.profiles import Profiles
from mmearth_data.emulator.registry import NOT_PROMOTED, PROMOTIONS, encode, type_name
from mmearth_data.emulator.signatures import Argument, Signature, signatures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmearth_data.emulator.registry import Value
    from mmearth_data.sources.synthetic.planet import Planet

    Node = dict[str, Any]

LAZY = "If"
"""The one algorithm whose arguments are computed as it asks for them."""


@dataclass(frozen=True)
class Request:
    """The `Context` of one request.

    Attributes
    ----------
    planet
        What the assets hold.
    cheap_pixels
        True where pixels may be any.
    profiles
        Of requests that asked for it.
    """

    planet: Planet
    cheap_pixels: bool = False
    profiles: Profiles = field(default_factory=Profiles)

    @property
    def seed(self) -> int:
        """Seed of the planet."""
        return self.planet.seed

    def call(self, name: str, **arguments: Value) -> Value:
        """Apply an algorithm to values."""
        signature = _signature(name)
        given = {key.rstrip("_"): value for key, value in arguments.items()}
        return self.apply(signature, self.check(signature, given))

    def promote(self, value: Value, kind: str) -> Value:
        """Give a value of a declared type."""
        promoted = _promote(value, kind, self)
        if promoted is NOT_PROMOTED:
            raise EmulatorError(f"Invalid type.\nExpected type: {kind}.\nActual type: {type_name(value)}.")
        return promoted

    def check(self, signature: Signature, given: Mapping[str, Value]) -> dict[str, Value]:
        """Arguments of a call as its signature declares them."""
        names = {argument.name for argument in signature.arguments}
        if unknown := [name for name in given if name not in names]:
            raise unknown_argument(signature.name, unknown)
        checked = {a.name: self._argument(signature, a, given.get(a.name)) for a in signature.arguments}
        return {name: value for name, value in checked.items() if value is not None}

    def _argument(self, signature: Signature, argument: Argument, value: Value) -> Value:
        if value is None:
            if not argument.optional:
                raise argument_missing(signature.name, argument.name)
            value = argument.default
            if value is None:
                return None
        promoted = _promote(value, argument.kind, self)
        if promoted is NOT_PROMOTED:
            shown = encode(value) if isinstance(value, (str, int, float, list)) else None
            raise wrong_type(signature.name, argument.name, argument.kind, type_name(value), shown)
        return promoted

    def apply(self, signature: Signature, arguments: Mapping[str, Value]) -> Value:
        """Compute a call whose arguments are checked."""
        found = implementation(signature.name)
        if found is None:
            raise not_emulated(signature.name)
        return found(self, arguments)


def _signature(name: str) -> Signature:
    signature = signatures().get(name)
    if signature is None:
        raise unknown_function(name)
    return signature


@lru_cache(maxsize=512)
def _parse_kind(kind: str) -> tuple[str, str | None]:
    """Split a declared type: ``List<String>`` is ("List", "String")."""
    outer, bracket, inner = kind.partition("<")
    if not bracket or not outer or outer == "Image":
        return outer or kind, None
    return outer, inner[:-1]


def _promote(value: Value, kind: str, context: Request) -> Value:
    outer, inner = _parse_kind(kind)
    promote = PROMOTIONS.get(outer)
    if promote is None:
        return value
    promoted = promote(value, context)
    if inner is None or inner == "Object" or promoted is NOT_PROMOTED:
        return promoted
    if isinstance(promoted, dict):
        items = {key: _promote(item, inner, context) for key, item in promoted.items()}
        return NOT_PROMOTED if any(item is NOT_PROMOTED for item in items.values()) else items
    listed = [_promote(item, inner, context) for item in promoted]
    return NOT_PROMOTED if any(item is NOT_PROMOTED for item in listed) else listed


# ---------------------------------------------------------------- the graph


@dataclass(frozen=True)
class Scope:
    """Arguments of one call of a function that the client defined, and what was computed with them."""

    bindings: Mapping[str, Value]
    outer: Scope | None
    computed: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value:
        """Value of an argument."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bindings:
                return scope.bindings[name]
            scope = scope.outer
        raise EmulatorError(f"Unknown argument reference: '{name}'.")

    def home(self, names: frozenset[str]) -> Scope:
        """Innermost scope that binds one of the arguments; the outermost where none does."""
        scope = self
        while scope.outer is not None and names.isdisjoint(scope.bindings):
            scope = scope.outer
        return scope


class Expression:
    """One expression, to be evaluated once.

    Parameters
    ----------
    expression
        As the client sends it.
    context
        The request.
    """

    def __init__(self, expression: Mapping[str, Any], context: Request) -> None:
        try:
            self._nodes: dict[str, Node] = expression["values"]
            self._result: str = expression["result"]
        except (KeyError, TypeError):
            raise EmulatorError(
                "Invalid JSON payload received: expected an expression with result and values."
            ) from None
        self._context = context
        self._free: dict[str, frozenset[str]] = {}

    def value(self) -> Value:
        """Compute the result."""
        return self._of(self._result, Scope({}, None))

    def _of(self, key: str, scope: Scope) -> Value:
        if key not in self._nodes:
            raise EmulatorError(f"Invalid expression: value '{key}' is not defined.")
        home = scope.home(self._free_arguments(key))
        if key not in home.computed:
            home.computed[key] = self._compute(self._nodes[key], scope)
        return home.computed[key]

    def _compute(self, node: Node, scope: Scope) -> Value:
        for kind, content in node.items():
            handler = _HANDLERS.get(kind)
            if handler is not None:
                return handler(self, content, scope)
        raise EmulatorError(f"Invalid expression: unknown node {sorted(node)}.")

    def _reference(self, key: str, scope: Scope) -> Value:
        return self._of(key, scope)

    def _constant(self, value: Value, scope: Scope) -> Value:
        return value

    def _integer(self, text: str, scope: Scope) -> int:
        return int(text)

    def _bytes(self, text: str, scope: Scope) -> str:
        return text

    def _argument(self, name: str, scope: Scope) -> Value:
        return scope.find(name)

    def _list(self, content: Node, scope: Scope) -> list[Value]:
        return [self._compute(item, scope) for item in content.get("values", [])]

    def _dictionary(self, content: Node, scope: Scope) -> dict[str, Value]:
        return {key: self._compute(item, scope) for key, item in content.get("values", {}).items()}

    def _definition(self, content: Node, scope: Scope) -> Callable[..., Value]:
        names = content.get("argumentNames", [])

        def call(*arguments: Value) -> Value:
            return self._of(content["body"], Scope(dict(zip(names, arguments, strict=False)), scope))

        return call

    def _invocation(self, content: Node, scope: Scope) -> Value:
        given = content.get("arguments", {})
        if "functionReference" in content:
            function = self._of(content["functionReference"], scope)
            named = {key: self._compute(node, scope) for key, node in given.items()}
            by_name = getattr(function, "by_name", None)  # formulas of `Image.expression`
            return function(*named.values()) if by_name is None else by_name(named)
        name = content.get("functionName", "")
        signature = _signature(name)
        if name == LAZY:
            return self._choose(given, scope)
        arguments = {key: self._compute(node, scope) for key, node in given.items()}
        return self._context.apply(signature, self._context.check(signature, arguments))

    def _choose(self, given: Node, scope: Scope) -> Value:
        condition = self._compute(given["condition"], scope) if "condition" in given else None
        taken = given.get("trueCase" if is_true(condition) else "falseCase")
        return None if taken is None else self._compute(taken, scope)

    def _free_arguments(self, key: str) -> frozenset[str]:
        if key not in self._free:
            self._free[key] = frozenset()  # a graph has no cycles; this only keeps a bad one from running forever
            node = self._nodes.get(key, {})
            self._free[key] = frozenset().union(*self._free_of(node))
        return self._free[key]

    def _free_of(self, node: Node) -> Iterator[frozenset[str]]:
        for kind, content in node.items():
            if kind == "argumentReference":
                yield frozenset({content})
            elif kind == "valueReference":
                yield self._free_arguments(content)
            elif kind == "functionDefinitionValue":
                yield self._free_arguments(content["body"]) - frozenset(content.get("argumentNames", []))
            else:
                for child in _children(kind, content):
                    yield from self._free_of(child)
                if kind == "functionInvocationValue" and "functionReference" in content:
                    yield self._free_arguments(content["functionReference"])


def _children(kind: str, content: Node) -> Iterator[Node]:
    if kind == "arrayValue":
        yield from content.get("values", [])
    elif kind == "dictionaryValue":
        yield from content.get("values", {}).values()
    elif kind == "functionInvocationValue":
        yield from content.get("arguments", {}).values()


_HANDLERS: dict[str, Callable[[Expression, Any, Scope], Value]] = {
    "valueReference": Expression._reference,
    "constantValue": Expression._constant,
    "integerValue": Expression._integer,
    "bytesValue": Expression._bytes,
    "argumentReference": Expression._argument,
    "arrayValue": Expression._list,
    "dictionaryValue": Expression._dictionary,
    "functionDefinitionValue": Expression._definition,
    "functionInvocationValue": Expression._invocation,
}


def is_true(value: Value) -> bool:
    """Truth of a condition: null, false, zero and empty text are false; everything else is true."""
    return value not in (None, False, 0, "") if isinstance(value, (bool, int, float, str, type(None))) else True
