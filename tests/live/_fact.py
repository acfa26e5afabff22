"""A fact about Earth Engine: a statement that a server is asked about, and how its answer is judged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

Ask = Callable[[], object]
"""Makes what is asked: an expression of the client, or one of the requests of `_asking`."""


class Source(Enum):
    """Where a fact is from."""

    GUIDE = "guide"
    REFERENCE = "reference"
    CATALOG = "data catalog"
    ISSUE = "issue"
    CLIENT = "client"
    MEMORY = "memory"


class Both(Enum):
    """How far the answers of the service and of the emulator have to agree, where only a server knows the value."""

    NOT = "not compared"
    EQUAL = "equal"
    ALIKE = "alike in form"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: a value (JSON), or the words of a refusal; or why it was not asked.

    Attributes
    ----------
    value
        JSON-ready.
    refused
        HTTP status and the server's words.
    unasked
        Reason.
    """

    value: Any = None
    refused: str = ""
    unasked: str = ""

    def __str__(self) -> str:
        text = f"refused: {self.refused}" if self.refused else json.dumps(self.value)
        return text if len(text) <= 200 else f"{text[:197]}..."


class Expected(Protocol):
    """What an answer has to be like; its text says so to a reader."""

    def holds(self, answer: Answer) -> bool: ...


@dataclass(frozen=True, slots=True)
class Equal:
    """This value; floating-point numbers to the given tolerance, relative or absolute."""

    value: Any
    tolerance: float = 1e-9

    def holds(self, answer: Answer) -> bool:
        return not answer.refused and same(self.value, answer.value, self.tolerance)

    def __str__(self) -> str:
        return json.dumps(self.value)


@dataclass(frozen=True, slots=True)
class Alike:
    """A value of this form: the same types, and of objects the same keys; lists may be of any length but none."""

    example: Any

    def holds(self, answer: Answer) -> bool:
        return not answer.refused and form(self.example) == form(answer.value)

    def __str__(self) -> str:
        return f"in form {json.dumps(form(self.example))}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal whose words match a pattern, whatever the capitals."""

    pattern: str

    def holds(self, answer: Answer) -> bool:
        return re.search(self.pattern, answer.refused, re.I) is not None if answer.refused else False

    def __str__(self) -> str:
        return f"a refusal matching /{self.pattern}/"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of some, where no source decides between them."""

    choices: tuple[Expected, ...]

    def holds(self, answer: Answer) -> bool:
        return any(choice.holds(answer) for choice in self.choices)

    def __str__(self) -> str:
        return " or ".join(map(str, self.choices))


@dataclass(frozen=True, slots=True)
class Answered:
    """Any answer that is no refusal."""

    def holds(self, answer: Answer) -> bool:
        return not answer.refused

    def __str__(self) -> str:
        return "an answer"


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the table.

    Attributes
    ----------
    topic
        Key of `facts.TOPICS`.
    says
        The statement; its own for each fact.
    source
        Where it is from.
    ask
        Makes the expression or request.
    expected
        What every server has to answer.
    both
        What service and emulator have to agree in besides.
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
    """What became of a fact."""

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
"""Refusals that say nothing about a fact, unless it is about them."""


def judge(fact: Fact, answer: Answer, emulated: Answer | None = None) -> Verdict:
    """Judge what a server answered.

    Parameters
    ----------
    fact
        What was asked.
    answer
        Of the server in question.
    emulated
        Of the emulator, where the two are compared.
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
    """Whether two servers agree so far."""
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
    """Whether two JSON values are equal; 1 is 1.0, but not true."""
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
    """What remains of a value when its numbers and words are left out."""
    if isinstance(value, dict):
        return {key: form(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__
