"""L-BFGS for linear classifiers in single precision, with the steps of ``torch.optim.LBFGS`` (strong Wolfe conditions).

The optimiser of PyTorch stops where the loss no longer changes in single precision. Where that happens and, with weak
regularisation, also the weights depend on rounding errors. Reproducing published results therefore requires the same
operations in the same order. Instead of using automatic differentiation, this implementation calls the kernels of the
gradients directly, and it omits the generic code around them, which takes longer than the arithmetic for small data sets.

Liu and Nocedal, *On the limited memory BFGS method for large scale optimization*, 1989; Nocedal and Wright, *Numerical
Optimization*, algorithms 3.5, 3.6 and 7.4.

Axes: N samples, D features, K classes, P = K (D + 1) parameters.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Scalar: TypeAlias = "float | Tensor"
"""A number, or a tensor (); sums of both are in single precision, and the first step of a search is often a tensor."""
DECREASE, CURVATURE = 1e-4, 0.9
"""Constants of the Wolfe conditions."""
MIN_CURVATURE = 1e-10
NEAR_EDGE, WIDEST = 0.1, 10
"""Share of a bracket within which a trial point is at its edge; largest extrapolation of a step."""
SMALLEST = 1e-9
"""Change of a parameter below which a bracket is not narrowed; default tolerance of changes without a line search."""
GRADIENT_TOLERANCE, LONG_HISTORY = 1e-7, 100
"""Defaults of PyTorch."""
EVALUATIONS = 5 / 4
"""Evaluations per iteration, at most."""


class Objective(Protocol):
    """A loss of linear functions of fixed features."""

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """(P,) parameters, weights (K, D) first, to the loss and its gradient (P,)."""
        ...

    @property
    def classes(self) -> int:
        """K."""
        ...


@dataclass(frozen=True, slots=True)
class Penalty:
    """Sum of the squared weights, times a factor."""

    factor: float

    def add(self, loss: Tensor, weight: Tensor, gradient: Tensor) -> tuple[float, Tensor]:
        """Add the penalty to a loss, and its gradient to that of the weights."""
        total = float(loss + self.factor * weight.mul(weight).sum())
        part = weight * self.factor
        return total, part.add_(part).add_(gradient)


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Mean cross-entropy of classes, and a penalty."""

    values: Tensor  # (N, D) float32
    labels: Tensor  # (N,) int64
    classes: int
    penalty: Penalty
    towards: Tensor = field(init=False)  # (N, K) gradient of the loss by the logarithms of the probabilities

    def __post_init__(self) -> None:
        count = len(self.values)
        towards = torch.zeros(count, self.classes)
        towards[torch.arange(count), self.labels] = torch.tensor(-1.0) / count
        object.__setattr__(self, "towards", towards)

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """See `Objective`."""
        weight, offset = split(point, self.classes)
        logarithms = torch.log_softmax(functional.linear(self.values, weight, offset), 1)
        loss = functional.nll_loss(logarithms, self.labels)
        slope = torch.ops.aten._log_softmax_backward_data(self.towards, logarithms, 1, torch.float32)
        total, by_weight = self.penalty.add(loss, weight, slope.t().mm(self.values))
        return total, torch.cat([by_weight.view(-1), slope.sum(0)])


@dataclass(frozen=True, slots=True)
class LabelEntropy:
    """Mean binary cross-entropy of independent labels, and a penalty."""

    values: Tensor  # (N, D) float32
    labels: Tensor  # (N, K) float32, 0 or 1
    penalty: Penalty

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.labels.shape[1]

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """See `Objective`."""
        weight, offset = split(point, self.classes)
        logits = functional.linear(self.values, weight, offset)
        loss = functional.binary_cross_entropy_with_logits(logits, self.labels)
        slope = (logits.sigmoid() - self.labels).div_(logits.numel())
        total, by_weight = self.penalty.add(loss, weight, slope.t().mm(self.values))
        return total, torch.cat([by_weight.view(-1), slope.sum(0)])


def split(point: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(P,) parameters to weights (K, D) and offsets (K,)."""
    return point[:-classes].view(classes, -1), point[-classes:]


@dataclass(frozen=True, slots=True)
class Trial:
    """A point of a line search."""

    step: Scalar
    loss: float
    gradient: Tensor
    slope: Tensor  # () derivative along the line


@dataclass(frozen=True, slots=True)
class Line:
    """A line from a point along a direction."""

    objective: Objective
    point: Tensor
    direction: Tensor
    loss: float
    slope: Tensor

    def at(self, step: Scalar) -> Trial:
        """Evaluate a step."""
        loss, gradient = self.objective(self.reach(step))
        return Trial(step, loss, gradient, gradient.dot(self.direction))

    def reach(self, step: Scalar) -> Tensor:
        """Return the point (P,) after a step: weights and offsets apart, since the last entries of an array round differently."""
        pairs = zip(
            split(self.point, self.objective.classes), split(self.direction, self.objective.classes), strict=True
        )
        return torch.cat([torch.add(part, move, alpha=float(step)).view(-1) for part, move in pairs])

    def too_high(self, trial: Trial) -> bool:
        """Whether the loss decreases less than the first Wolfe condition demands."""
        return bool(trial.loss > self.loss + DECREASE * trial.step * self.slope)

    def flat(self, trial: Trial) -> bool:
        """Whether the second Wolfe condition holds."""
        return bool(abs(trial.slope) <= -CURVATURE * self.slope)


@dataclass(slots=True)
class Minimiser:
    """L-BFGS with a line search.

    Attributes
    ----------
    iterations
        Maximum number of iterations.
    tolerance
        It stops when no entry of the gradient, no entry of a step, or no change of the loss is larger.
    history
        Number of steps from which the curvature is approximated.
    evaluations
        Number of evaluations of the last run.
    """

    iterations: int
    tolerance: float
    history: int
    evaluations: int = 0

    def __call__(self, objective: Objective, point: Tensor) -> Tensor:
        """Return the (P,) minimum, starting from a point."""
        loss, gradient = objective(point)
        self.evaluations = 1
        if gradient.abs().max() <= self.tolerance:
            return point
        curvature = Curvature(self.history)
        direction, most = gradient.neg(), int(self.iterations * EVALUATIONS)
        for number in range(self.iterations):
            slope = gradient.dot(direction)
            if slope > -self.tolerance:
                break
            first: Scalar = 1.0 if number else least(1.0, 1.0 / gradient.abs().sum())
            line = Line(objective, point, direction, loss, slope)
            found, used = search(line, Trial(0, loss, gradient, slope), first, most - self.evaluations)
            self.evaluations += used
            point = line.reach(found.step)
            moved = direction.mul(found.step)
            done = self.evaluations >= most or found.gradient.abs().max() <= self.tolerance
            if done or moved.abs().max() <= self.tolerance or abs(found.loss - loss) < self.tolerance:
                break
            curvature.add(moved, found.gradient.sub(gradient))
            loss, gradient = found.loss, found.gradient
            direction = curvature.direction(gradient)
        return point


def descend(objective: Callable[[Tensor], tuple[float, Tensor]], point: Tensor, rate: float, iterations: int) -> Tensor:
    """Return the (P,) minimum by L-BFGS with steps of a fixed length, as ``torch.optim.LBFGS`` without a line search."""
    loss, gradient = objective(point)
    curvature, direction = Curvature(LONG_HISTORY), gradient.neg()
    for number in range(iterations):
        if gradient.abs().max() <= GRADIENT_TOLERANCE or gradient.dot(direction) > -SMALLEST:
            break
        step: Scalar = rate if number else least(1.0, 1.0 / gradient.abs().sum()) * rate
        moved = direction.mul(step)
        point = torch.add(point, direction, alpha=float(step))
        before, last = loss, gradient
        loss, gradient = objective(point)
        if moved.abs().max() <= SMALLEST or abs(loss - before) < SMALLEST:
            break
        curvature.add(moved, gradient.sub(last))
        direction = curvature.direction(gradient)
    return point


@dataclass(slots=True)
class Curvature:
    """The inverse Hessian as estimated from the last steps."""

    history: int
    steps: deque[tuple[Tensor, Tensor, Tensor]] = field(default_factory=deque)  # step, change of gradient, 1 / product
    scale: Scalar = 1

    def add(self, moved: Tensor, changed: Tensor) -> None:
        """Use a step, unless the loss is not convex along it."""
        product = changed.dot(moved)
        if product > MIN_CURVATURE:
            if len(self.steps) == self.history:
                self.steps.popleft()
            self.steps.append((moved, changed, 1.0 / product))
            self.scale = product / changed.dot(changed)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the direction of descent, (P,)."""
        rest, shares = gradient.neg(), []
        for moved, changed, inverse in reversed(self.steps):
            shares.append(moved.dot(rest) * inverse)
            rest.add_(changed, alpha=-float(shares[-1]))
        found = torch.mul(rest, self.scale)
        for moved, changed, inverse in self.steps:
            found.add_(moved, alpha=float(shares.pop() - changed.dot(found) * inverse))
        return found


def search(line: Line, start: Trial, first: Scalar, most: int) -> tuple[Trial, int]:
    """Find a step that fulfils the Wolfe conditions: the trial, and the number of evaluations.

    ``start`` is the trial of no step, ``most`` the maximum number of evaluations.
    """
    before, trial = start, line.at(first)
    used = 0
    while used < most:
        if line.too_high(trial) or (used > 1 and trial.loss >= before.loss):
            break
        if line.flat(trial):
            return trial, used + 1
        if trial.slope >= 0:
            break
        step = trial.step
        lowest, highest = step + 0.01 * (step - before.step), step * WIDEST
        wider = interpolated(before, trial, (lowest, highest))
        before, trial = trial, line.at(wider)
        used += 1
    else:
        before = start
    return zoom(line, [before, trial], used, most)


def zoom(line: Line, bracket: list[Trial], used: int, most: int) -> tuple[Trial, int]:
    """Narrow a bracket until a step in it fulfils the Wolfe conditions, or the bracket is too small."""
    longest, hesitant = line.direction.abs().max(), False
    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    while used < most and not size(bracket[1].step - bracket[0].step) * longest < SMALLEST:
        step, hesitant = _tried(bracket, hesitant)
        trial = line.at(step)
        used += 1
        if line.too_high(trial) or trial.loss >= bracket[low].loss:
            bracket[high] = trial
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        done = line.flat(trial)
        if not done and trial.slope * (bracket[high].step - bracket[low].step) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = trial
        if done:
            break
    return bracket[low], used + 1


def _tried(bracket: list[Trial], hesitant: bool) -> tuple[Scalar, bool]:
    """Return the next step within a bracket, and whether it is so close to an edge that the following one must not be."""
    lower, upper = least(bracket[0].step, bracket[1].step), most_of(bracket[0].step, bracket[1].step)
    step = interpolated(bracket[0], bracket[1], None)
    edge = NEAR_EDGE * (upper - lower)
    if not least(upper - step, step - lower) < edge:
        return step, False
    if not (hesitant or step >= upper or step <= lower):
        return step, True
    return (upper - edge if size(step - upper) < size(step - lower) else lower + edge), False


def least(a: Scalar, b: Scalar) -> Scalar:
    """Return the smaller of two numbers, the first of equal ones."""
    return b if b < a else a


def most_of(a: Scalar, b: Scalar) -> Scalar:
    """Return the larger of two numbers, the first of equal ones."""
    return b if b > a else a


def size(number: Scalar) -> Scalar:
    """Return the absolute value."""
    return -number if number < 0 else number


def interpolated(a: Trial, b: Trial, bounds: tuple[Scalar, Scalar] | None) -> Scalar:
    """Minimum of the cubic through two trials, within bounds; the middle of the bounds if it has none."""
    if bounds is None:
        bounds = (a.step, b.step) if a.step <= b.step else (b.step, a.step)
    mean = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    square = mean**2 - a.slope * b.slope
    if square < 0:
        return (bounds[0] + bounds[1]) / 2.0
    root = square.sqrt()
    if a.step <= b.step:
        step = b.step - (b.step - a.step) * ((b.slope + root - mean) / (b.slope - a.slope + 2 * root))
    else:
        step = a.step - (a.step - b.step) * ((a.slope + root - mean) / (a.slope - b.slope + 2 * root))
    return least(most_of(step, bounds[0]), bounds[1])
