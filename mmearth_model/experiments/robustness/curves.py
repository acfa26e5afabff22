"""Results of a robustness experiment: points, curves and comparisons."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_model.evaluation.metrics import PRIMARY, bootstrap, interval
from mmearth_model.evaluation.results import defined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_model.evaluation.metrics import Score
    from mmearth_model.tasks import LabelledSet


@dataclass(frozen=True, slots=True)
class Point:
    """Metric at one level of a change.

    Attributes
    ----------
    level
        Level of the change; 0 changes nothing.
    value, low, high
        Mean of the metric over the seeds, and its 95 % interval (bootstrap over the test samples).
    difference, difference_low, difference_high
        Difference from level 0 and its 95 % interval, from the same resamples.
    """

    level: float
    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Metric of one encoder on one task as a function of the level of a change.

    Attributes
    ----------
    task, encoder, protocol, metric
        What was measured.
    change, axis
        Name of the change, and what its levels measure.
    points
        One per level, ascending; the first is level 0.
    seeds
        Number of seeds.
    samples
        Number of test samples.
    """

    task: str
    encoder: str
    protocol: str
    metric: str
    change: str
    axis: str
    points: tuple[Point, ...]
    seeds: int
    samples: int

    @property
    def area(self) -> float:
        """Area under the curve divided by the range of the levels: the mean of the metric over this range."""
        levels, values = zip(*((p.level, p.value) for p in self.points), strict=True)
        return float(np.trapezoid(values, levels) / levels[-1])

    @property
    def kept(self) -> float:
        """Area divided by the value at level 0: 1 means no loss; NaN if that value is not positive."""
        clean = self.points[0].value
        return self.area / clean if clean > 0 else float("nan")

    @property
    def note(self) -> str:
        """Report that the curve does not fall, or not by more than its uncertainty; "" otherwise."""
        last = self.points[-1]
        if not last.difference < 0:
            return "does not fall"
        if last.difference_high >= 0:
            return "falls, but the interval of the difference includes 0"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; undefined values are None."""
        found: dict[str, Any] = defined({**asdict(self), "area": self.area, "kept": self.kept, "note": self.note})
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two probes tested on the same tiles: one fitted to tiles of the same group, one to tiles of the other groups.

    Attributes
    ----------
    task, encoder, protocol, metric
        What was measured.
    change
        ``season`` or ``continent``.
    test
        Name of the group of the test tiles.
    own, other
        Mean of the metric over the seeds of the probes fitted to the same group, and to the same number of other tiles.
    difference, low, high
        ``other - own``, and its 95 % interval (paired bootstrap over the test samples).
    train_samples, samples, seeds
        Numbers of training samples of each probe, of test samples, and of seeds.
    """

    task: str
    encoder: str
    protocol: str
    metric: str
    change: str
    test: str
    own: float
    other: float
    difference: float
    low: float
    high: float
    train_samples: int
    samples: int
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; undefined values are None."""
        found: dict[str, Any] = defined(asdict(self))
        return found


@dataclass(frozen=True, slots=True)
class Robustness:
    """Results of a robustness experiment.

    Attributes
    ----------
    curves, comparisons
        In the order of tasks, encoders and changes.
    notes
        One sentence for each omission, with the reason, and for each encoder trained on the labels of a task.
    """

    curves: tuple[Curve, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "curves": [curve.to_dict() for curve in self.curves],
            "comparisons": [found.to_dict() for found in self.comparisons],
            "notes": list(self.notes),
        }


def points_of(task: LabelledSet, levels: Sequence[float], scores: Sequence[Sequence[Score]]) -> tuple[Point, ...]:
    """Make the points of a curve from the scores at each level, one per seed."""
    metric = task.metric or PRIMARY[task.kind]
    draws = [bootstrap(task.kind, [score.sums for score in each], metric) for each in scores]
    values = [statistics.fmean(score.metrics[metric] for score in each) for each in scores]
    return tuple(
        Point(level, value, *interval(drawn), value - values[0], *interval(drawn - draws[0]))
        for level, value, drawn in zip(levels, values, draws, strict=True)
    )


def difference_of(
    task: LabelledSet, own: Sequence[Score], other: Sequence[Score]
) -> tuple[float, float, float, float, float]:
    """Means of two probes on the same samples, their difference, and its interval; see `Comparison`."""
    metric = task.metric or PRIMARY[task.kind]
    first, second = (statistics.fmean(score.metrics[metric] for score in each) for each in (own, other))
    drawn = [bootstrap(task.kind, [score.sums for score in each], metric) for each in (other, own)]
    return (first, second, second - first, *interval(drawn[0] - drawn[1]))
