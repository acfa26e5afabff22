"""A fact about Earth Engine: a statement, the question that checks it, and the rule that judges the answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

Ask = Callable[[], object]
"""Makes the question: a client expression, or one of the requests of `_asking`."""


class Source(Enum):
    """Source of a fact."""

    GUIDE = "guide"
    REFERENCE = "reference"
    CATALOG = "data catalog"
    ISSUE = "issue"
    CLIENT = "client"
    MEMORY = "memory"


class Both(Enum):
    """How closely the answers of the service and the emulator must agree if only a server knows the value."""

    NOT = "not compared"
    EQUAL = "equal"
    ALIKE = "alike in form"


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of a server: a value (JSON), the message of a refusal, or the reason why it was not asked.

    Attributes
    ----------
    value
        JSON-ready.
    refused
        HTTP status and message of the server.
    unasked
        Reason why it was not asked.
    """

    value: Any = None
    refused: str = ""
    unasked: str = ""

    def __str__(self) -> str:
        text = f"refused: {self.refused}" if self.refused else json.dumps(self.value)
        return text if len(text) <= 200 else f"{text[:197]}..."


class Expected(Protocol):
    """Condition on an answer; its text describes it for readers."""

    def holds(self, answer: Answer) -> bool: ...


@dataclass(frozen=True, slots=True)
class Equal:
    """Exactly this value; floating-point numbers within the given tolerance, relative or absolute."""

    value: Any
    tolerance: float = 1e-9

    def holds(self, answer: Answer) -> bool:
        return not answer.refused and same(self.value, answer.value, self.tolerance)

    def __str__(self) -> str:
        return json.dumps(self.value)


@dataclass(frozen=True, slots=True)
class Alike:
    """A value of this form: the same types, and for objects the same keys; lists may have any length except zero."""

    example: Any

    def holds(self, answer: Answer) -> bool:
        return not answer.refused and form(self.example) == form(answer.value)

    def __str__(self) -> str:
        return f"in form {json.dumps(form(self.example))}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal whose message matches a pattern, ignoring case."""

    pattern: str

    def holds(self, answer: Answer) -> bool:
        return re.search(self.pattern, answer.refused, re.I) is not None if answer.refused else False

    def __str__(self) -> str:
        return f"a refusal matching /{self.pattern}/"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of several conditions, if no source decides between them."""

    choices: tuple[Expected, ...]

    def holds(self, answer: Answer) -> bool:
        return any(choice.holds(answer) for choice in self.choices)

    def __str__(self) -> str:
        return " or ".join(map(str, self.choices))


@dataclass(frozen=True, slots=True)
class Answered:
    """Any answer that is not a refusal."""

    def holds(self, answer: Answer) -> bool:
        return not answer.refused

    def __str__(self) -> str:
        return "an answer"


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of the table.

    Attributes
    ----------
    topic
        Key of `facts.TOPICS`.
    says
        The statement, unique to each fact.
    source
        Where the statement comes from.
    ask
        Makes the expression or request.
    expected
        Condition that every server's answer must meet.
    both
        Additional agreement required between service and emulator.
    """

    topic: str
    says: str
    source: Source
    ask: Ask
    expected: Expected
    both: Both = Both.NOT

    @property
    def name(self) -> str:
        """Topic and statement."""
        return f"{self.topic}: {self.says}"


class Outcome(Enum):
    """Outcome of a fact."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNASKED = "could not be asked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of one fact, and the line that reports it."""

    fact: Fact
    outcome: Outcome
    detail: str

    def __str__(self) -> str:
        return f"{self.outcome.value:<18}  {self.fact.name} [{self.fact.source.value}]: {self.detail}"


UNREADABLE = re.compile(
    r"does not exist or caller does not have access|permission|not allowed|timed out|memory limit|memory capacity", re.I
)
"""Refusals that say nothing about a fact, unless the fact is about them."""


def judge(fact: Fact, answer: Answer, emulated: Answer | None = None) -> Verdict:
    """Judge the answer of a server.

    Parameters
    ----------
    fact
        The fact in question.
    answer
        Answer of the server.
    emulated
        Answer of the emulator, if the two are compared.
    """
    if answer.unasked:
        return Verdict(fact, Outcome.UNASKED, answer.unasked)
    if not fact.expected.holds(answer):
        if UNREADABLE.search(answer.refused):
            return Verdict(fact, Outcome.UNASKED, answer.refused)
        return Verdict(fact, Outcome.DIFFERS, f"expected {fact.expected}, the server answered {answer}")
    if emulated is not None and not agree(fact.both, answer, emulated):
        return Verdict(fact, Outcome.DIFFERS, f"the server answered {answer}, the emulator {emulated}")
    return Verdict(fact, Outcome.AGREES, str(answer))


def agree(both: Both, answer: Answer, emulated: Answer) -> bool:
    """Whether two servers agree as closely as required."""
    if both is Both.NOT:
        return True
    if bool(answer.refused) != bool(emulated.refused):
        return False
    if both is Both.ALIKE or answer.refused:
        return form(answer.value) == form(emulated.value)
    return same(answer.value, emulated.value, 1e-6)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Count of each outcome."""
    counts = {outcome: sum(v.outcome is outcome for v in verdicts) for outcome in Outcome}
    agrees, differs, unasked = counts.values()
    return f"{len(verdicts)} facts: {agrees} agree, {differs} differ, {unasked} could not be asked"


def same(expected: Any, found: Any, tolerance: float) -> bool:
    """Whether two JSON values are equal; 1 equals 1.0, but not true."""
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(same, expected, found, [tolerance] * len(expected)))
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(same(v, found[k], tolerance) for k, v in expected.items())
    return bool(expected == found)


def form(value: Any) -> Any:
    """Form of a value without its numbers and strings."""
    if isinstance(value, dict):
        return {key: form(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__
