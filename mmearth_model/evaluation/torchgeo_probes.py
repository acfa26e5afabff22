"""Probes, intervals and calibration of torchgeo-bench (https://github.com/torchgeo/torchgeo-bench), release 0.4.0.

They differ from `mmearth_model.evaluation.probes` in all details: features are not standardised, neighbours are the
nearest in Euclidean distance, and the linear model is fitted in single precision from zero for each of 40 strengths.
Results are equal to those of its own code on the same features.

Axes: N samples, D features, K classes, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional
from torchmetrics.functional import classification

from mmearth_model.evaluation.metrics import average_precision
from mmearth_model.evaluation.quasi_newton import (  # fmt: skip
    CrossEntropy,
    LabelEntropy,
    Minimiser,
    Objective,
    Penalty,
    descend,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mmearth_model.evaluation.probes import LabelledFeatures

NEIGHBOURS = 5
STRENGTHS = tuple((10 ** np.linspace(-6.0, 4.0, 40)).tolist())
"""Inverse strengths C, strongest regularisation first."""
PATH_ITERATIONS, FINAL_ITERATIONS = 2000, 4000
TOLERANCE = 1e-7
"""Tolerance at which L-BFGS stops: 0.1 times the tolerance of 1e-6 with which torchgeo-bench is called."""
HISTORY = 10
RESAMPLES = 200
COVERAGE = (2.5, 97.5)
BINS = 15
"""Bins of the calibration error of the linear probe."""
NORMS: Mapping[str, Literal["l1", "l2", "max"]] = {"ece": "l1", "rms_ce": "l2", "mce": "max"}
"""Calibration error -> its norm over the bins."""
TEMPERATURE_ITERATIONS, TEMPERATURE_RATE = 100, 0.1
QUERIES = 512
"""Test samples whose distances are computed together."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Predictions of a probe for the test samples."""

    predicted: NDArray[Any]  # (N,) class index, or (N, K) 0 or 1
    scores: NDArray[np.float32]  # (N, K) probabilities
    strength: float | None = None  # the chosen C
    validation: float | None = None  # its metric on the validation samples
    errors: dict[str, float] = field(default_factory=dict)  # of calibration, by the columns of torchgeo-bench


@dataclass(frozen=True, slots=True)
class Softmax:
    """A linear model of classes, or of independent labels."""

    weight: torch.Tensor  # (K, D) float32
    offset: torch.Tensor  # (K,) float32
    classes: NDArray[np.int64] | None  # class index of each output; None if every label has its own output

    def logits(self, values: NDArray[Any]) -> torch.Tensor:
        """(N, D) features to (N, K)."""
        return functional.linear(_tensor(values), self.weight, self.offset)

    def scores(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """(N, D) features to (N, K) probabilities."""
        return self.probabilities(self.logits(values))

    def probabilities(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """(N, K) logits to probabilities."""
        shares: NDArray[np.float32] = (logits.sigmoid() if self.classes is None else logits.softmax(dim=1)).numpy()
        return shares

    def spread(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K) probabilities to those of all class indices; classes without training samples have 0."""
        if self.classes is None or self.classes[-1] + 1 == len(self.classes):
            return scores
        wide = np.zeros((len(scores), self.classes[-1] + 1), dtype=np.float32)
        wide[:, self.classes] = scores
        return wide

    def predict(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """(N, K) probabilities to class indices, or to 0 and 1 of each label."""
        return (scores > 0.5).astype(np.int64) if self.classes is None else self.classes[scores.argmax(axis=1)]


def nearest(train: LabelledFeatures, test: LabelledFeatures) -> Answer:
    """Unweighted vote of the 5 nearest training samples; in a tie, the lowest class."""
    labels = train.labels[_neighbours(train.values, test.values, min(NEIGHBOURS, len(train)))]
    if train.labels.ndim == 2:
        scores = labels.astype(np.float32).mean(axis=1)
        predicted = (scores > 0.5).astype(np.int64)
    else:
        counts = functional.one_hot(torch.from_numpy(labels), int(train.labels.max()) + 1).sum(dim=1).numpy()
        predicted = counts.argmax(axis=1)
        scores = counts.astype(np.float32) / labels.shape[1]
    return Answer(predicted, scores, errors=calibration(test.labels, scores, NEIGHBOURS + 1))


def _neighbours(train: NDArray[Any], test: NDArray[Any], count: int) -> NDArray[np.int64]:
    """(N, count) positions of the nearest training samples by Euclidean distance; in a tie, the first ones."""
    known = torch.from_numpy(np.asarray(train, dtype=np.float64))
    squares = (known**2).sum(dim=1)
    found = []
    for first in range(0, len(test), QUERIES):
        asked = torch.from_numpy(np.asarray(test[first : first + QUERIES], dtype=np.float64))
        # the square of the query itself is the same for all training samples, and does not change their order
        distances = torch.addmm(squares, asked, known.T, alpha=-2.0)
        values, places = distances.topk(count, largest=False)
        rows = places.numpy()
        for row in ((distances <= values[:, -1:]).sum(dim=1) > count).nonzero()[:, 0].tolist():
            rows[row] = distances[row].argsort(stable=True)[:count].numpy()
        found.append(rows)
    return np.concatenate(found)


def linear(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    test: LabelledFeatures,
    report: Callable[[int], None] | None = None,
) -> Answer:
    """Logistic regression: C chosen on the validation samples, then fitted to these and the training samples.

    ``report`` is called with the number of values of C that have been tried.
    """
    strength, best = STRENGTHS[0], -1.0
    for number, tried in enumerate(STRENGTHS):
        if report is not None:
            report(number)
        model = fit(train, tried, PATH_ITERATIONS)
        value = _value(model, validation)
        if value > best:
            strength, best = tried, value
    whole = tuple(
        np.concatenate(pair) for pair in ((train.values, validation.values), (train.labels, validation.labels))
    )
    model = fit(type(train)(*whole), strength, FINAL_ITERATIONS)
    logits = model.logits(test.values)
    scores = model.probabilities(logits)
    temperature = _temperature(model, validation)
    cooled = calibration(test.labels, model.spread(model.probabilities(logits / temperature)), BINS)
    errors = calibration(test.labels, model.spread(scores), BINS)
    errors |= {f"{name}_ts": value for name, value in cooled.items()} | {"temperature": temperature}
    return Answer(model.predict(scores), scores, strength, best, errors)


def fit(train: LabelledFeatures, strength: float, iterations: int) -> Softmax:
    """Fit a logistic regression, or one of each label, by L-BFGS in single precision from zero.

    The loss is the mean cross-entropy plus the sum of the squared weights over 2 C n, where n counts the samples, or the
    samples of all labels.
    """
    values, several = _tensor(train.values), train.labels.ndim == 2
    classes, targets = (None, train.labels) if several else np.unique(train.labels, return_inverse=True)
    outputs = targets.shape[1] if classes is None else len(classes)
    penalty = Penalty(0.5 * (1.0 / strength) / float(len(values) * (outputs if several else 1)))
    labels = torch.from_numpy(targets)
    loss: Objective = (
        LabelEntropy(values, labels.float(), penalty) if several else CrossEntropy(values, labels, outputs, penalty)
    )
    start = torch.zeros(outputs * (values.shape[1] + 1))
    with torch.inference_mode():
        weight, offset = split(Minimiser(iterations, TOLERANCE, HISTORY)(loss, start), outputs)
    return Softmax(weight, offset, classes)


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _value(model: Softmax, validation: LabelledFeatures) -> float:
    """Metric by which C is chosen."""
    scores = model.scores(validation.values)
    if model.classes is None:
        return average_precision(validation.labels, scores)
    return float((model.predict(scores) == validation.labels).mean())


def resampled(truth: NDArray[Any], answer: Answer, seed: int) -> NDArray[Any]:
    """(R,) float32: metric on resampled test samples; NaN where a resample has no positive."""
    rng = np.random.default_rng(seed)
    n = len(truth)
    if truth.ndim == 1:
        rows = rng.integers(0, n, size=(RESAMPLES, n))
        accuracies: NDArray[Any] = (truth[rows] == answer.predicted[rows]).mean(axis=1).astype(np.float32)
        return accuracies
    found = []
    for _ in range(RESAMPLES):
        row = rng.integers(0, n, size=n)
        asked = truth[row]
        found.append(average_precision(asked, answer.scores[row]) if asked.any() else np.nan)
    return np.array(found, dtype=np.float32)


def calibration(truth: NDArray[Any], scores: NDArray[np.float32], bins: int) -> dict[str, float]:
    """Compute the expected, root mean square and maximum calibration error; of several labels, their mean where they vary."""
    asked, shares = torch.from_numpy(np.ascontiguousarray(truth)).long(), torch.from_numpy(scores)
    if truth.ndim == 1:
        shares = functional.pad(shares, (0, max(0, int(asked.max()) + 1 - shares.shape[1])))
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
        return {
            name: float(classification.multiclass_calibration_error(shares, asked, shares.shape[1], bins, norm))
            for name, norm in NORMS.items()
        }
    varied = [k for k in range(shares.shape[1]) if asked[:, k].min() != asked[:, k].max()]
    errors = {
        name: [float(classification.binary_calibration_error(shares[:, k].clamp(0, 1), asked[:, k], bins, norm)) for k in varied]
        for name, norm in NORMS.items()
    }  # fmt: skip
    return {name: float(np.mean(each)) if each else float("nan") for name, each in errors.items()}


def _temperature(model: Softmax, validation: LabelledFeatures) -> float:
    """Temperature that minimises the loss on the validation samples (temperature scaling, Guo et al., ICML 2017)."""
    logits = model.logits(validation.values).double()
    several = model.classes is None
    targets = validation.labels if model.classes is None else np.searchsorted(model.classes, validation.labels)
    labels = torch.from_numpy(targets).to(torch.float64 if several else torch.int64)
    loss_of = functional.binary_cross_entropy_with_logits if several else functional.cross_entropy

    def objective(logarithm: torch.Tensor) -> tuple[float, torch.Tensor]:
        asked = logarithm.detach().requires_grad_()
        loss = loss_of(logits / asked.exp(), labels)
        return float(loss.detach()), torch.autograd.grad(loss, asked)[0]

    start = torch.zeros(1, dtype=torch.float64)
    return float(descend(objective, start, TEMPERATURE_RATE, TEMPERATURE_ITERATIONS).exp())
