"""Evaluation of the expressions that the client sends: a graph of values, calls and functions.

An expression is ``{"result": id, "values": {id: node}}``; the nodes are those of the REST reference (ValueNode).
A node is computed on demand, once for each binding of the arguments that it depends on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator.errors import UNCOMPUTABLE, EmulatorError, not_computed, not_emulated, wrong_type
from mmearth_data.emulator.graph.kept import settled
from mmearth_data.emulator.graph.library import implementation
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, PROMOTIONS, encode, type_name
from mmearth_data.emulator.graph.signatures import Signature, not_heeded, signatures
from mmearth_data.emulator.graph.values import Selection
from mmearth_data.emulator.server.profiles import Profiles
from mmearth_data.emulator.server.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.planet.planet import Planet

    Node = dict[str, Any]

LOG = logging.getLogger(__name__)

ANY = frozenset({"Object", "<any>"})
"""Declared types that every value has."""
LAZY = "If"
"""The one algorithm whose arguments are computed on demand."""


@dataclass(frozen=True)
class Request:
    """What an implementation can use of the request that it answers."""

    planet: Planet
    cheap_pixels: bool = False  # True if pixel values do not matter
    profiles: Profiles = field(default_factory=Profiles)  # Profiles of requests
    work: Work = field(default_factory=Work)  # Limits of the request, and whether to continue

    def call(self, name: str, **arguments: Value) -> Value:
        """Apply an algorithm to values."""
        signature = _signature(name)
        given = {key.rstrip("_"): value for key, value in arguments.items()}
        return self.apply(signature, self.check(signature, given))

    def promote(self, value: Value, kind: str) -> Value:
        """Give a value of a declared type."""
        promoted = _promote(value, kind)
        if promoted is NOT_PROMOTED:
            raise EmulatorError(f"Invalid type.\nExpected type: {kind}.\nActual type: {type_name(value)}.")
        return promoted

    def check(self, signature: Signature, given: Mapping[str, Value]) -> dict[str, Value]:
        """Arguments of a call as its signature declares them."""
        name = signature.name
        if not given.keys() <= signature.names:
            unknown = ", ".join(f"'{argument}'" for argument in given if argument not in signature.names)
            raise EmulatorError(f"{name}: Unrecognized argument(s): {unknown}.")
        checked = {}
        for argument in signature.arguments:
            value = given.get(argument.name)
            if value is None:
                if not argument.optional:
                    raise EmulatorError(f"{name}: Parameter '{argument.name}' is required and may not be null.")
                value = argument.default
                if value is None:
                    continue
            promote, contained = _promotion(argument.kind)
            if contained is not None:
                promoted = _promote(value, argument.kind)
            else:
                promoted = value if promote is None else promote(value)
            if promoted is NOT_PROMOTED:
                shown = encode(value) if isinstance(value, (str, int, float, list)) else None
                raise wrong_type(name, argument.name, argument.kind, type_name(value), shown)
            if promoted is not None:
                checked[argument.name] = promoted
        return checked

    def apply(self, signature: Signature, arguments: Mapping[str, Value]) -> Value:
        """Compute a call whose arguments are checked."""
        found = implementation(signature.name)
        if found is None:
            raise not_emulated(signature.name)
        for argument in signature.unheeded:
            if arguments.get(argument.name, argument.default) != argument.default:
                raise not_heeded(signature.name, argument)
        self.work.check()
        try:
            value = settled(signature.name, arguments, found(self, arguments))
        except UNCOMPUTABLE as error:
            LOG.warning("%s failed.", signature.name, exc_info=error)
            raise not_computed(signature.name, error) from error
        self.work.made(value)
        return value


def _signature(name: str) -> Signature:
    signature = signatures().get(name)
    if signature is None:
        raise EmulatorError(f"Unknown function: '{name}'.")
    return signature


@lru_cache(maxsize=512)
def _promotion(kind: str) -> tuple[Callable[[Value], Value] | None, str | None]:
    """Promotion to a declared type, None if every value has it; and the type of the items, as in ``List<String>``."""
    outer, bracket, inner = kind.partition("<")
    if not bracket or not outer or outer == "Image":
        outer, inner = outer or kind, ""
    contained = inner[:-1]
    return None if outer in ANY else PROMOTIONS.get(outer), contained if contained and contained not in ANY else None


def _promote(value: Value, kind: str) -> Value:
    """Value of a declared type, its items too; `NOT_PROMOTED` if it cannot become one."""
    promote, contained = _promotion(kind)
    if promote is None:
        return value
    promoted = promote(value)
    if contained is None or promoted is NOT_PROMOTED:
        return promoted
    if isinstance(promoted, dict):
        items = [_promote(item, contained) for item in promoted.values()]
        return NOT_PROMOTED if any(item is NOT_PROMOTED for item in items) else dict(zip(promoted, items, strict=True))
    items = [_promote(item, contained) for item in promoted]
    return NOT_PROMOTED if any(item is NOT_PROMOTED for item in items) else items


# ---------------------------------------------------------------- the graph


@dataclass(slots=True)
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


Compute = Callable[[Scope], "Value"]
"""Computes the value of a node."""


class Expression:
    """One expression as the client sends it, to be evaluated once.

    Its nodes become functions of a scope on demand: most are computed for many bindings.
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
        self._values: dict[str, Compute] = {}

    def value(self) -> Value:
        """Compute the result."""
        return self._value(self._result)(Scope({}, None))

    def _value(self, key: str) -> Compute:
        """Node of a key: computed once for each binding of the arguments that it depends on."""
        if key not in self._values:
            self._values[key] = self._made(key)
        return self._values[key]

    def _made(self, key: str) -> Compute:
        if key not in self._nodes:
            raise EmulatorError(f"Invalid expression: value '{key}' is not defined.")
        node, free = self._nodes[key], self._free_arguments(key)
        compute: list[Compute] = []

        def value(scope: Scope) -> Value:
            home = scope.home(free)
            computed = home.computed
            if key not in computed:
                if not compute:
                    compute.append(self._prepare(node))
                computed[key] = compute[0](scope)
            return computed[key]

        return value

    def _prepare(self, node: Node) -> Compute:
        for kind, content in node.items():
            prepare = _PREPARE.get(kind)
            if prepare is not None:
                return prepare(self, content)
        raise EmulatorError(f"Invalid expression: unknown node {sorted(node)}.")

    def _list(self, content: Node) -> Compute:
        items = [self._prepare(item) for item in content.get("values", [])]
        return lambda scope: [item(scope) for item in items]

    def _dictionary(self, content: Node) -> Compute:
        items = self._prepare_all(content.get("values", {}))
        return lambda scope: {key: item(scope) for key, item in items}

    def _prepare_all(self, nodes: Mapping[str, Node]) -> list[tuple[str, Compute]]:
        return [(key, self._prepare(node)) for key, node in nodes.items()]

    def _definition(self, content: Node) -> Compute:
        names, body = content.get("argumentNames", []), self._value(content["body"])
        keeps = self._is_selection(content)

        def define(scope: Scope) -> Callable[..., Value]:
            def call(*arguments: Value) -> Value:
                return body(Scope(dict(zip(names, arguments, strict=False)), scope))

            return Selection(call) if keeps else call

        return define

    def _is_selection(self, content: Node) -> bool:
        """Whether a function only selects bands of its argument."""
        called = self._nodes.get(content["body"], {}).get("functionInvocationValue", {})
        given = called.get("arguments", {}).get("input")
        first = next(iter(content.get("argumentNames", [])), None)
        return bool(called.get("functionName") == "Image.select" and given == {"argumentReference": first})

    def _invocation(self, content: Node) -> Compute:
        given = content.get("arguments", {})
        if "functionReference" in content:
            return self._call_value(self._value(content["functionReference"]), self._prepare_all(given))
        name = content.get("functionName", "")
        signature = _signature(name)
        if name == LAZY:
            return self._choice(given)
        arguments = self._prepare_all(given)
        check, apply = self._context.check, self._context.apply

        def call(scope: Scope) -> Value:
            return apply(signature, check(signature, {key: compute(scope) for key, compute in arguments}))

        return call

    @staticmethod
    def _call_value(function: Compute, arguments: Sequence[tuple[str, Compute]]) -> Compute:
        def call(scope: Scope) -> Value:
            called = function(scope)
            named = {key: compute(scope) for key, compute in arguments}
            by_name = getattr(called, "by_name", None)  # formulas of `Image.expression`
            return called(*named.values()) if by_name is None else by_name(named)

        return call

    def _choice(self, given: Node) -> Compute:
        """Prepare a branch when it is taken: errors in the other one are never detected."""
        prepared: dict[str, Compute] = {}

        def branch(name: str, scope: Scope) -> Value:
            if name not in given:
                return None
            if name not in prepared:
                prepared[name] = self._prepare(given[name])
            return prepared[name](scope)

        return lambda scope: branch("trueCase" if is_true(branch("condition", scope)) else "falseCase", scope)

    def _free_arguments(self, key: str) -> frozenset[str]:
        if key not in self._free:
            self._free[key] = frozenset()  # a graph has no cycles; this prevents an endless recursion in an invalid one
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
            elif kind in {"arrayValue", "dictionaryValue", "functionInvocationValue"}:
                inner = content.get("arguments" if kind == "functionInvocationValue" else "values", {})
                for child in inner.values() if isinstance(inner, dict) else inner:
                    yield from self._free_of(child)
                if "functionReference" in content:
                    yield self._free_arguments(content["functionReference"])


_PREPARE: dict[str, Callable[[Expression, Any], Compute]] = {
    "valueReference": Expression._value,
    "constantValue": lambda _, value: lambda scope: value,
    "integerValue": lambda _, text: lambda scope: int(text),
    "bytesValue": lambda _, value: lambda scope: value,
    "argumentReference": lambda _, name: lambda scope: scope.find(name),
    "arrayValue": Expression._list,
    "dictionaryValue": Expression._dictionary,
    "functionDefinitionValue": Expression._definition,
    "functionInvocationValue": Expression._invocation,
}


def is_true(value: Value) -> bool:
    """Truth of a condition: null, false, 0, NaN and empty strings, lists and dictionaries are false, all else true."""
    if isinstance(value, float) and math.isnan(value):
        return False
    return bool(value) if isinstance(value, (bool, int, float, str, list, tuple, dict, type(None))) else True
