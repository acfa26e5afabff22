"""The registry of the emulator's algorithms, and the values that their implementations receive.

An implementation is a plain function under the name that the algorithm has in Earth Engine's own list of
signatures, and Earth Engine's reference describes what it does. Its parameters have the signature's argument names
(with a trailing ``_`` where the name is a word of Python: ``from_``), and it is called with keywords only. It need not
repeat what the signature says: values arrive evaluated, promoted to the declared type, and present where the signature
requires them; an optional argument that is left out is its default, or None.

| declared type | value |
|---|---|
| Number, Integer, Long, Float, Double, Byte, Short | ``int`` or ``float`` |
| Boolean, String | ``bool``, ``str`` |
| List, List<...> | ``list`` |
| Dictionary, Dictionary<...> | ``dict`` |
| Date, DateRange | `values.Date`, `values.DateRange` |
| Geometry, ErrorMargin | `geometry.Geometry`, `values.ErrorMargin` |
| Feature, Element | `features.Feature` or an image |
| FeatureCollection, ImageCollection | `collections.Collection` |
| Filter | `filters.Filter` |
| Algorithm | a callable of positional arguments |
| Image, Projection, PixelType, Reducer, Kernel | what their own modules register |
| Object | anything |

A parameter called ``context`` is no argument of the signature: it receives the `Context` of the request.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mmearth_data.emulator.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmearth_data.emulator.graph.evaluate import Request

Value: TypeAlias = Any
"""A value of an expression; see the table above."""
Context: TypeAlias = "Request"
"""The request that an implementation answers."""

Function = TypeVar("Function", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class Implementation:
    """An entered algorithm, under the name that Earth Engine gives it."""

    name: str
    function: Callable[..., Any]
    takes: Mapping[str, str]  # Earth Engine's argument name -> the function's parameter
    wants_context: bool = False  # True if it has a parameter called ``context``

    def __call__(self, context: Context, arguments: Mapping[str, Value]) -> Value:
        """Call with the arguments that the function takes; `signatures` handles the others."""
        given = {parameter: arguments.get(name) for name, parameter in self.takes.items()}
        return self.function(**given, context=context) if self.wants_context else self.function(**given)


FUNCTIONS: dict[str, Implementation] = {}
"""Algorithm name -> implementation."""

PROMOTIONS: dict[str, Callable[[Value], Value]] = {}
"""Declared type -> function that gives a value of that type, or `NOT_PROMOTED`."""

NOT_PROMOTED = object()
"""What a promotion answers about a value that is not of its type and cannot become it."""

TYPE_NAMES: dict[type, str] = {
    bool: "Boolean",
    int: "Integer",
    float: "Float",
    str: "String",
    list: "List",
    dict: "Dictionary",
}
"""Python type -> Earth Engine's name of it, for messages and ``ObjectType``."""


def function(*names: str) -> Callable[[Function], Function]:
    """Enter the decorated function under each of the names.

    Examples
    --------
    >>> @function("Number.add")
    ... def add(left: float, right: float) -> float:
    ...     return left + right
    """

    def decorate(implementation: Function) -> Function:
        parameters = inspect.signature(implementation).parameters
        takes = {name.rstrip("_"): name for name in parameters if name != "context"}
        for name in names:
            enter(Implementation(name, implementation, takes, "context" in parameters))
        return implementation

    return decorate


def enter(implementation: Implementation) -> None:
    """Enter an implementation whose arguments are not simply the parameters of a function."""
    if implementation.name in FUNCTIONS:
        raise ValueError(f"{implementation.name} is entered twice")
    FUNCTIONS[implementation.name] = implementation


def functions(of: str, table: Mapping[str, Callable[..., Any]]) -> None:
    """Enter short implementations: name within ``of`` -> implementation, several names with spaces between them.

    Examples
    --------
    >>> functions("String", {"cat": lambda string1, string2: string1 + string2})
    """
    for names, implementation in table.items():
        function(*(f"{of}.{name}" for name in names.split()))(implementation)


def promotion(*kinds: str) -> Callable[[Function], Function]:
    """Enter the decorated ``value -> value | NOT_PROMOTED`` for declared types."""

    def enter(implementation: Function) -> Function:
        for kind in kinds:
            if kind in PROMOTIONS:
                raise ValueError(f"the promotion to {kind} is entered twice")
            PROMOTIONS[kind] = implementation
        return implementation

    return enter


def only(*classes: type) -> Callable[[Value], Value]:
    """Promotion to a type that no other value can become."""
    return lambda value: value if isinstance(value, classes) else NOT_PROMOTED


def named(kind: str) -> Callable[[type], type]:
    """Class decorator: Earth Engine's name of a value's type."""

    def enter(cls: type) -> type:
        TYPE_NAMES[cls] = kind
        return cls

    return enter


def type_name(value: object) -> str:
    """Earth Engine's name of a value's type."""
    if value is None:
        return "Null"
    return next((TYPE_NAMES[cls] for cls in type(value).__mro__ if cls in TYPE_NAMES), type(value).__name__)


@functools.singledispatch
def encode(value: Value) -> Value:
    """Turn a value into what ``value:compute`` sends: JSON-ready; modules register their types here."""
    raise EmulatorError(f"{type_name(value)}: Earth Engine describes it in an answer; the emulator does not.")
