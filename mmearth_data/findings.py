"""Pydantic's validation errors as one-line messages: what was expected, what was found, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

SHOWN = 3
"""Findings that a message spells out; the others are counted."""
MAX_VALUE_CHARACTERS = 60

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "dict": "a mapping of names to values",
    "model": "a mapping of fields",
    "list": "a list",
    "tuple": "a list",
    "date": "a date such as 2020-07-31",
    "none": "an empty value",
}
"""Prefix of pydantic's error type -> what was expected."""
_BOUNDS = {
    "greater_than": ("a number above {gt}"),
    "greater_than_equal": ("a number of at least {ge}"),
    "less_than": ("a number below {lt}"),
    "less_than_equal": ("a number of at most {le}"),
    "multiple_of": ("a multiple of {multiple_of}"),
    "too_short": ("at least {min_length} values"),
    "too_long": ("at most {max_length} values"),
    "string_too_short": ("text of at least {min_length} characters"),
    "string_too_long": ("text of at most {max_length} characters"),
    "string_pattern_mismatch": ("text of the form {pattern}"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with a value.

    Attributes
    ----------
    keys
        Path to the value: field names and positions.
    problem
        What was expected, what was found, and what to do: one sentence without a full stop, or a question.
    """

    keys: tuple[str | int, ...]
    problem: str

    def __str__(self) -> str:
        return self.problem


def describe_validation(error: ValidationError, model: type[BaseModel], given: object, whole: str = "value") -> str:
    """Pydantic's findings as one line.

    Parameters
    ----------
    error
        Raised by ``model``.
    model
        Model whose field names are suggested for an unknown field.
    given
        Values that were validated.
    whole
        Name of the validated object, for findings that concern no single field.
    """
    found = findings(error, model, given, whole)
    more = len(found) - SHOWN
    text = "; ".join(finding.problem.rstrip(".") for finding in found[:SHOWN])
    end = f" ({more} more)" if more > 0 else ""
    return f"{text}{end}{'' if text.endswith('?') and not end else '.'}"


def findings(error: ValidationError, model: type[BaseModel], given: object, whole: str = "value") -> list[Finding]:
    """One finding per wrong value, in pydantic's order; see `describe_validation`."""
    located = [(_way(problem, given), problem) for problem in error.errors(include_url=False)]
    order = {keys: position for position, (keys, _) in reversed(list(enumerate(located)))}
    located.sort(key=lambda pair: order[pair[0]])
    grouped = groupby(located, key=lambda pair: pair[0])
    return [Finding(keys, _say(keys, [problem for _, problem in part], model, whole)) for keys, part in grouped]


def _way(problem: ErrorDetails, given: object) -> tuple[str | int, ...]:
    """Path to a value, without the union branches that pydantic adds; a missing position belongs to its list."""
    keys: list[str | int] = []
    here: Any = given
    for key in problem["loc"]:
        mapped = isinstance(here, Mapping) and key in here
        if mapped or (isinstance(key, int) and isinstance(here, list | tuple) and key < len(here)):
            here = here[key]
        elif not (problem["type"] == "missing" and isinstance(here, Mapping) and key == problem["loc"][-1]):
            continue
        keys.append(key)
    return tuple(keys)


def _say(keys: tuple[str | int, ...], problems: list[ErrorDetails], model: type[BaseModel], whole: str) -> str:
    """Message about one value."""
    first = problems[0]
    name = ".".join(map(str, keys)) or whole
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return f"the field {name!r} is missing; add it"
    if first["type"] == "extra_forbidden":
        return f"unknown field {name!r}; {did_you_mean(str(keys[-1]), _known(model, keys[:-1])).rstrip('.')}"
    if first["type"] in ("value_error", "assertion_error"):
        return f"{name}: {first['msg'].partition(', ')[2]}"
    wanted = " or ".join(dict.fromkeys(_expected(problem) for problem in problems))
    return f"{name}: expected {wanted}, got {shown(first['input'])}; {_remedy(first)}"


def _expected(problem: ErrorDetails) -> str:
    kind, details = problem["type"], problem.get("ctx", {})
    if kind in ("literal_error", "enum"):
        choices = _choices(problem)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**details)
    if kind == "missing":
        return f"at least {int(problem['loc'][-1]) + 1} values"
    start = kind if kind in _TYPES else kind.partition("_")[0]
    return _TYPES.get(start) or re.sub(r"^Input should be ", "", problem["msg"])


def _choices(problem: ErrorDetails) -> list[str]:
    expected = str(problem["ctx"]["expected"])
    return re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)


def _remedy(problem: ErrorDetails) -> str:
    value = problem["input"]
    if value is None:
        return "give one, or leave the field out"
    if problem["type"] in ("literal_error", "enum") and isinstance(value, str):
        meant = did_you_mean(value, _choices(problem))
        return meant if meant.endswith("?") else "choose one of them"
    return "correct it"


def shown(value: object) -> str:
    """Value as messages show it: short, on one line.

    Examples
    --------
    >>> shown("x"), shown(None), shown(2.5)
    ("'x'", 'an empty value', '2.5')
    """
    text = "an empty value" if value is None else repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."


def _known(model: type[BaseModel], keys: tuple[str | int, ...]) -> list[str]:
    """Names of the fields that the mapping at a path may have."""
    models = [model]
    for key in keys:
        inner = [
            field.annotation for one in models for name, field in one.model_fields.items() if key in (name, field.alias)
        ]
        models = [found for annotation in inner for found in _models(annotation)] if inner else models
    return sorted({field.alias or name for one in models for name, field in one.model_fields.items()})


def _models(annotation: object) -> list[type[BaseModel]]:
    """Pydantic models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]
