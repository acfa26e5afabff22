"""Declarations of fields: description, default, range and group, written once, next to the field.

Validation (`mmearth_data.recipes`), command-line options and their help (`mmearth_data.terminal.options`), docstrings,
and the tables in ``pipelines/README.md`` are generated from these declarations. Fields of a build are declared in
`mmearth_data.build_fields`, those of training and evaluation in `mmearth_model.fields`.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from annotated_types import Interval

from mmearth_data.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel
else:
    BaseModel = object  # help is printed without pydantic


Class = TypeVar("Class", bound=type)
SHOWN_BOUND = 10**6
"""Upper bounds of at least this value only catch typing errors; help and tables do not show them."""


class Fields(BaseModel):
    """Base class of declarations, for a pydantic model to inherit; type checkers take it for a pydantic model."""


class Group(StrEnum):
    """Sections of a command's help, in this order."""

    WHERE = "Where"
    WHAT = "What"
    SOURCE = "Source"
    MODEL = "Model"
    OPTIMISATION = "Optimisation"
    LIMITS = "Limits"
    HARDWARE = "Hardware"
    OUTPUT = "Output"
    OTHER = "Other"


@dataclass(frozen=True, slots=True)
class About:
    """Description of a field, as shown in help and documentation.

    Attributes
    ----------
    text
        Description in full sentences.
    group
        Section of the help; None if no option sets the field.
    metavar
        Placeholder for the value in the help; names the unit if there is one.
    flag
        Option that sets the field, if its name differs from that of the field.
    default
        What is used if the field has no value.
    repeated
        Whether several values are given by repeating the option instead of separating them by commas.
    """

    text: str
    group: Group | None = None
    metavar: str | None = None
    flag: str | None = None
    default: str = ""
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A declared field: its name, type (without None), default value, range and description."""

    name: str
    kind: Any
    value: Any
    limits: Interval
    about: About

    @property
    def flag(self) -> str:
        """Option that sets the field; "" if there is none."""
        return (self.about.flag or f"--{self.name.replace('_', '-')}") if self.about.group else ""

    @property
    def default(self) -> str:
        """Default as text; "" if there is none."""
        if self.value is None or self.value == () or isinstance(self.value, (bool, dict)):
            return self.about.default
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)

    @property
    def extra(self) -> str:
        """Default and range as text; "" if there is neither."""
        default = f"default: {self.default}" if self.default else ""
        return "; ".join(filter(None, (default, limits_text(self.limits))))


@cache
def fields_of(declaration: type) -> dict[str, Field]:
    """Return the fields that a class declares with an `About`, by name, in order of declaration."""
    found = {}
    for name, hint in get_type_hints(declaration, include_extras=True).items():
        notes = {type(note): note for note in getattr(hint, "__metadata__", ())}
        if About in notes:
            kinds = get_args(hint.__origin__)
            kind = kinds[0] if type(None) in kinds else hint.__origin__
            limits = notes.get(Interval) or _limits_of_parts(kind)
            found[name] = Field(name, kind, getattr(declaration, name), limits, notes[About])
    return found


def _limits_of_parts(kind: Any) -> Interval:  # noqa: ANN401 - a type
    """Range of the elements of a tuple type; none for other types."""
    notes = getattr((*get_args(kind), None)[0], "__metadata__", ())
    return next((note for note in notes if isinstance(note, Interval)), Interval())


def check_limits(declaration: type, values: object) -> None:
    """Check the numbers of an object whose attributes are the declared fields; pydantic models check themselves.

    Raises
    ------
    InputError
        If a field is not finite or out of range; names the first one.
    """
    for name, field in fields_of(declaration).items():
        value = getattr(values, name)
        if value is None or field.kind not in (int, float):
            continue
        if not (math.isfinite(value) and within(field.limits, value)):
            expected = ", ".join(filter(None, ("a finite number", limits_text(field.limits))))
            raise InputError(f"{name}: expected {expected}, got {value}; correct it.")


def documented(cls: Class) -> Class:
    """Add the descriptions of a class's fields to its docstring (a decorator)."""
    declaration: type = cls
    lines = [f"{field.name}\n    {field.about.text}" for field in fields_of(declaration).values()]
    cls.__doc__ = "\n".join([f"{cls.__doc__}\n", "Attributes", "----------", *lines])
    return cls


def limits_text(limits: Interval, shown: float = SHOWN_BOUND) -> str:
    """Describe a range as text, with bounds below ``shown`` only; "" if there is none.

    Examples
    --------
    >>> limits_text(Interval(ge=1, le=1024)), limits_text(Interval(gt=0)), limits_text(Interval(ge=0, lt=1))
    ('1 to 1024', 'above 0', 'at least 0, below 1')
    """
    ends: dict[str, Any] = {"at least": limits.ge, "above": limits.gt, "at most": limits.le, "below": limits.lt}
    known = {word: end for word, end in ends.items() if end is not None and end < shown}
    if {*known} == {"at least", "at most"}:
        return f"{limits.ge} to {limits.le}"
    return ", ".join(f"{word} {end}" for word, end in known.items())


def within(limits: Interval, number: float) -> bool:
    """Whether a number is in a range."""
    tests = ((operator.ge, limits.ge), (operator.gt, limits.gt), (operator.le, limits.le), (operator.lt, limits.lt))
    return all(test(number, end) for test, end in tests if end is not None)
