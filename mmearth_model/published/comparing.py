"""Published results next to measured ones: one comparison for each task, metric and protocol, which are never mixed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from mmearth_model.formatting import PERCENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmearth_model.published.reading import Published

ALL_LABELS = "100%"
"""Share of the training labels with which results were published."""
HERE, ELSEWHERE = "measured here", "published"
NOTICE = (
    "Published results were measured by others with their own code; they are quoted, not reproduced. "
    "Each table contains the results of one task, metric and protocol only."
)


class Measured(Protocol):
    """A measured result, such as `mmearth_model.evaluation.Summary`."""

    @property
    def task(self) -> str:
        """Task, encoder, protocol, share of the labels, and metric."""
        ...

    @property
    def encoder(self) -> str: ...  # noqa: D102 - see task
    @property
    def protocol(self) -> str: ...  # noqa: D102 - see task
    @property
    def labels(self) -> str: ...  # noqa: D102 - see task
    @property
    def metric(self) -> str: ...  # noqa: D102 - see task

    @property
    def mean(self) -> float:
        """Its value, with the ends of its interval."""
        ...

    @property
    def low(self) -> float: ...  # noqa: D102 - see mean
    @property
    def high(self) -> float: ...  # noqa: D102 - see mean


@dataclass(frozen=True, slots=True)
class Line:
    """One result of a comparison."""

    encoder: str
    value: float
    low: float | None = None  # None: no interval was published
    high: float | None = None
    source: str = ""  # empty: measured here
    date: str = ""

    @property
    def kind(self) -> str:
        """``measured here`` or ``published``."""
        return ELSEWHERE if self.source else HERE


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of one task, metric and protocol: measured ones first, then published ones."""

    task: str
    metric: str
    protocol: str
    lines: tuple[Line, ...]

    @property
    def measured(self) -> bool:
        """Whether it contains a result that was measured here."""
        return any(not line.source for line in self.lines)

    @property
    def unit(self) -> str:
        """Metric, with its unit."""
        return f"{self.metric}, %" if self.metric in PERCENT else self.metric

    @property
    def heading(self) -> str:
        """Task and protocol, and whose results it contains."""
        whose = "measured here and published by others" if self.measured else "published by others, none measured here"
        return f"{self.task}, protocol {self.protocol}: {whose}"


@dataclass(frozen=True, slots=True)
class Beside:
    """Comparisons with published results.

    Attributes
    ----------
    comparisons
        One per task, metric and protocol; those with a measured result first.
    without
        Tasks that were measured and have no published results in the table.
    """

    comparisons: tuple[Comparison, ...] = ()
    without: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """Describe what users of the comparisons must know, one sentence each."""
        absent = [f"{task}: the table of published results contains none for this task." for task in self.without]
        return (*([NOTICE] if self.comparisons else []), *absent)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the JSON form. Raises KeyError, TypeError or ValueError if something is missing or has a wrong type."""
        comparisons = tuple(
            Comparison(
                str(part["task"]), str(part["metric"]), str(part["protocol"]), tuple(_line(x) for x in part["lines"])
            )
            for part in content["comparisons"]
        )
        return cls(comparisons, tuple(str(task) for task in content["without"]))


def _line(part: Mapping[str, Any]) -> Line:
    value, low, high = (None if part[name] is None else float(part[name]) for name in ("value", "low", "high"))
    texts = (str(part.get(name, "")) for name in ("source", "date"))
    return Line(str(part["encoder"]), math.nan if value is None else value, low, high, *texts)


def compare(measured: Iterable[Measured], published: Iterable[Published]) -> Beside:
    """Compare measured results with published ones of their tasks.

    A comparison has one task, metric and protocol. Published results of a task with another protocol or metric are in
    comparisons of their own. Only results with all training labels are compared.
    """
    own, others = list(measured), list(published)
    tasks = list(dict.fromkeys(result.task for result in own))
    known: dict[tuple[str, str, str], list[Line]] = {}
    for result in others:
        if result.task in tasks:
            source = f"{result.source}, {result.page}"
            line = Line(result.encoder, result.value, result.ci_lower, result.ci_upper, source, result.date)
            known.setdefault((result.task, result.metric, result.protocol), []).append(line)
    for lines in known.values():
        lines.sort(key=lambda line: -line.value)
    comparisons = [
        Comparison(*key, (*(_own(r) for r in own if _matches(r, key)), *lines)) for key, lines in known.items()
    ]
    comparisons.sort(key=lambda found: (tasks.index(found.task), not found.measured))
    with_some = {task for task, _, _ in known}
    return Beside(tuple(comparisons), tuple(task for task in tasks if task not in with_some))


def _matches(result: Measured, key: tuple[str, str, str]) -> bool:
    return (result.task, result.metric, result.protocol) == key and result.labels == ALL_LABELS


def _own(result: Measured) -> Line:
    low, high = (end if math.isfinite(end) else None for end in (result.low, result.high))
    return Line(result.encoder, result.mean, low, high)
