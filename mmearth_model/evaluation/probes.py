"""Probes on frozen features: nearest neighbours, linear models by L-BFGS, and a linear layer by AdamW.

None of them is the paper's probe, which is not fitted to fixed features: see `mmearth_model.evaluation.paper`.

Probes are fitted to training samples only, and validation samples only choose between fits, so that curves over label
shares are meaningful.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mmearth_model.devices import one_thread
from mmearth_model.evaluation.logistic import Logistic, PrincipalAxes
from mmearth_model.evaluation.metrics import from_sums, sample_sums, score
from mmearth_model.heads.answers import decide
from mmearth_model.tasks import TaskKind
from mmearth_model.training.random_numbers import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NEIGHBOURS = (5, 20)
REGULARISATION = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse strengths C tried on the validation samples, strongest regularisation first."""
TOLERANCE = 1e-6
MAX_ITERATIONS = 2000
EPOCHS = 100
"""Epochs of the linear layer, as many as in the paper."""
LEARNING_RATES = (3e-4, 3e-3, 3e-2)
BATCH_SIZE = 64
SMALL = 4_000_000
"""Size of a table of features below which one core fits faster than several."""


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """Features of some samples and their labels."""

    values: NDArray[Any]  # (N, D) float
    labels: NDArray[Any]  # (N,) int64 class index, (N, K) int64 0 or 1, or (N, T) float64; none missing

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[Any]) -> LabelledFeatures:
        """Rows of a boolean mask or an index array."""
        return LabelledFeatures(self.values[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions of one probe for the test samples."""

    protocol: str  # ``knn-5``, ``linear``, ...
    predicted: NDArray[Any]  # in the form of the labels of `LabelledFeatures`
    scores: NDArray[Any] | None = None  # multi-label: (N, K) scores of each label
    # the task's metric on the validation samples, if something was chosen by it, or at the last epoch of the paper's
    # probe, which chooses nothing; else None
    validation: float | None = None
    converged: bool | None = None  # whether the optimiser reached its tolerance; None if that does not apply
    chosen: str = ""  # what was chosen on validation samples
    model: Linear | None = None  # the fitted function, if it is linear
    details: dict[str, Any] = field(default_factory=dict)  # settings and figures that only this protocol has


@dataclass(frozen=True, slots=True)
class Question:
    """Data of a probe."""

    kind: TaskKind  # not per pixel
    classes: int  # number of classes, labels or targets
    train: LabelledFeatures
    # if empty, a random fifth of the training samples replaces it, and the chosen setting is fitted again to all of them
    validation: LabelledFeatures
    test: LabelledFeatures
    seed: int = (
        0  # of the validation samples, if they are taken from the training samples, and of the order of training
    )
    metric: str = ""  # main metric, if not that of the kind

    def held_out(self) -> tuple[LabelledFeatures, LabelledFeatures]:
        """Return the samples to fit to, and those to choose by."""
        if len(self.validation):
            return self.train, self.validation
        order = np.random.default_rng(self.seed).permutation(len(self.train))
        cut = max(1, len(self.train) // 5)
        return self.train.take(order[cut:]), self.train.take(order[:cut])

    def value(self, predicted: NDArray[Any], truth: NDArray[Any], scores: NDArray[Any] | None = None) -> float:
        """Return the main metric of the task; ``scores`` are those of `Prediction`."""
        if self.metric and scores is not None:
            return score(self.kind, predicted, truth, self.classes, scores).metrics[self.metric]
        return float(from_sums(self.kind, sample_sums(self.kind, predicted, truth, self.classes).sum(axis=0)))


def knn(question: Question) -> list[Prediction]:
    """Majority (or mean) of the 5 and 20 most similar training samples (cosine), by scikit-learn."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    train, test = question.train, question.test
    found = []
    for k in NEIGHBOURS:
        maker = KNeighborsRegressor if question.kind.continuous else KNeighborsClassifier
        labels = train.labels[:, 0] if train.labels.shape[1:] == (1,) else train.labels
        model = maker(n_neighbors=min(k, len(train)), metric="cosine", algorithm="brute").fit(train.values, labels)
        scores = None
        if question.kind is TaskKind.MULTI_LABEL:
            nearest = model.kneighbors(test.values, return_distance=False)
            scores = train.labels[nearest].mean(axis=1)
        predicted = model.predict(test.values).reshape(len(test), *train.labels.shape[1:])  # one label loses its axis
        found.append(Prediction(f"knn-{k}", predicted, scores))
    return found


def linear(
    question: Question, *, regularisation: Sequence[float] = REGULARISATION, max_iterations: int = MAX_ITERATIONS
) -> Prediction:
    """Linear model on standardised features in double precision, its regularisation chosen on validation samples.

    Logistic regression by L-BFGS (`mmearth_model.evaluation.logistic`), one for each label of a multi-label task; ridge
    regression of quantities. The inverse strengths are tried in ascending order, each fit starting from the previous one;
    among equal values, the first is chosen. If the metric is undefined on the validation samples, as R2 is for a
    quantity that does not vary, the squared error is used instead.
    A probe that needs more than ``max_iterations`` is reported as not converged.
    """
    strength, model, best = fit_path(question, regularisation, max_iterations)
    answered = model(question.test.values)
    chosen = f"C={strength:g}"
    return Prediction("linear", *answered, validation=best, converged=model.converged, chosen=chosen, model=model)


def fit_path(
    question: Question,
    regularisation: Sequence[float] = REGULARISATION,
    max_iterations: int = MAX_ITERATIONS,
    *,
    to_the_end: bool = True,
) -> tuple[float, Linear, float]:
    """Return the chosen strength, its model, and its value on the validation samples; see `linear`.

    Not ``to_the_end``, the path ends at the first strength that is worse than the one before: weak regularisation takes
    by far the most iterations, and with many validation samples the value has a single peak.
    """
    train, validation = question.held_out()
    path = _fits(question.kind, train, regularisation, max_iterations)
    strength, model, best = _best(question, validation, path, to_the_end=to_the_end)
    if not len(question.validation):
        (_, model), *_ = _fits(question.kind, question.train, [strength], max_iterations)
    return strength, model, best


def adamw(question: Question, *, epochs: int = EPOCHS) -> Prediction:
    """Train a linear layer: AdamW, 100 epochs, cosine; the learning rate is chosen on validation samples.

    The optimiser and the number of epochs are the paper's. The rest is our own: standardised features of an encoder in
    evaluation mode, the choice of the rate, the schedule down to 0, batches of 64. ``--protocol paper`` is the paper's.
    """
    train, validation = question.held_out()
    path = ((rate, _layer(question, train, rate, epochs)) for rate in LEARNING_RATES)
    rate, model, best = _best(question, validation, path)
    if not len(question.validation):
        model = _layer(question, question.train, rate, epochs)
    return Prediction("probe", *model(question.test.values), validation=best, chosen=f"lr={rate:g}", model=model)


def _best(
    question: Question, validation: LabelledFeatures, path: Iterator[tuple[float, Linear]], *, to_the_end: bool = True
) -> tuple[float, Linear, float]:
    """Return the setting, model and value of the best fit of a path, the first of equals; see `fit_path`."""
    best: tuple[float, Linear, float] | None = None
    highest = (False, -np.inf)
    for setting, model in path:
        predicted, scores = model(validation.values)
        value = question.value(predicted, validation.labels, scores)
        undefined = bool(np.isnan(value))
        rank = (not undefined, -float(np.mean((predicted - validation.labels) ** 2)) if undefined else value)
        if best is None or rank > highest:
            best, highest = (setting, model, value), rank
        elif rank < highest and not to_the_end:
            break
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear function of standardised features, for tasks of a kind."""

    kind: TaskKind
    features: tuple[Floats, Floats]  # (D,) mean and deviation of the training features
    weight: NDArray[Any]  # (K, D)
    offset: NDArray[Any]  # (K,)
    classes: NDArray[Any] | None = None  # single-label: (K,) class index of each output; None: 0, 1, 2, ...
    labels: tuple[Floats, Floats] = (np.zeros(1), np.ones(1))  # mean and deviation of the training quantities
    converged: bool = True

    def __call__(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """(N, D) features to answers and, for a multi-label task, scores."""
        mean, deviation = self.features
        answers, scores = decide(self.kind, ((values - mean) / deviation) @ self.weight.T + self.offset, *self.labels)
        return answers if self.classes is None else self.classes[answers], scores

    def predict(self, values: NDArray[Any]) -> NDArray[Any]:
        """(N, D) features to answers."""
        return self(values)[0]


def standardise(values: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean and deviation of columns, in double precision; a constant column has deviation 1."""
    wide = np.asarray(values, dtype=np.float64)
    deviation = wide.std(axis=0)
    return wide.mean(axis=0), np.where(deviation > 1e-12, deviation, 1.0)


def _fits(
    kind: TaskKind, train: LabelledFeatures, path: Sequence[float], max_iterations: int
) -> Iterator[tuple[float, Linear]]:
    from sklearn.linear_model import Ridge

    mean, deviation = features = standardise(train.values)
    values = (np.asarray(train.values, dtype=np.float64) - mean) / deviation
    if kind is TaskKind.REGRESSION:
        centre, spread = labels = standardise(train.labels)
        for strength in path:
            ridge = Ridge(alpha=1 / strength).fit(values, (train.labels - centre) / spread)
            weight, offset = np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)
            yield strength, Linear(kind, features, weight, offset, labels=labels)
        return
    columns = [train.labels] if kind is TaskKind.SINGLE_LABEL else list(train.labels.T)
    models = [Logistic(max_iterations, TOLERANCE) for _ in columns]
    with one_thread() if values.size < SMALL else nullcontext():
        axes = PrincipalAxes.of(values)
    for strength in path:
        with one_thread() if values.size < SMALL else nullcontext():
            fits = [model.fit(axes, column, strength) for model, column in zip(models, columns, strict=True)]
        classes, weights, offsets = zip(*fits, strict=True)
        if kind is TaskKind.SINGLE_LABEL:
            model = Linear(kind, features, weights[0], offsets[0], classes[0], converged=models[0].converged)
        else:
            weight, offset = (np.stack([part[-1] - part[0] for part in parts]) for parts in (weights, offsets))
            for row, known in enumerate(classes):
                if len(known) == 1:
                    offset[row] = np.inf if known[0] else -np.inf
            model = Linear(kind, features, weight, offset, converged=all(m.converged for m in models))
        yield strength, model


def _layer(question: Question, train: LabelledFeatures, rate: float, epochs: int) -> Linear:
    """Train one linear layer on standardised features."""
    mean, deviation = features = standardise(train.values)
    x = torch.from_numpy(((train.values - mean) / deviation).astype(np.float32))
    labels = standardise(train.labels) if question.kind.continuous else (np.zeros(1), np.ones(1))
    y = torch.from_numpy((train.labels - labels[0]) / labels[1] if question.kind.continuous else train.labels)
    loss_of = loss_function(question.kind)
    with seeded(question.seed, purpose="probe"), one_thread():
        layer = nn.Linear(x.shape[1], question.classes)
        nn.init.trunc_normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=rate)
        steps = epochs * -(-len(x) // BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), BATCH_SIZE):
                optimizer.zero_grad()
                loss_of(layer(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return Linear(question.kind, features, layer.weight.detach().numpy(), layer.bias.detach().numpy(), labels=labels)


def loss_function(kind: TaskKind) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Loss of a network's outputs (B, K) and labels: cross-entropy, of each label, or squared error."""
    if kind is TaskKind.SINGLE_LABEL:
        return nn.functional.cross_entropy
    if kind is TaskKind.MULTI_LABEL:
        return lambda outputs, labels: nn.functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype))
    return lambda outputs, labels: nn.functional.mse_loss(outputs, labels.to(outputs.dtype))
