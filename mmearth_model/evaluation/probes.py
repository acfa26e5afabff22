"""Probes on frozen features: nearest neighbours, linear models by L-BFGS, and a linear layer by AdamW.

None of them is the paper's probe, which is not fitted to fixed features: see `mmearth_model.evaluation.paper`.

Probes are fitted to training samples only, and validation samples only choose between fits, so that curves over label
shares are meaningful.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mmearth_model.devices import one_thread
from mmearth_model.evaluation.metrics import from_sums, sample_sums
from mmearth_model.tasks import TaskKind
from mmearth_model.training.random_numbers import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

NEIGHBOURS = (5, 20)
REGULARISATION = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse strengths C tried on the validation samples, strongest regularisation first."""
TOLERANCE = 1e-5
MAX_ITERATIONS = 2000
EPOCHS = 100
"""Epochs of the linear layer, as many as in the paper."""
LEARNING_RATES = (3e-4, 3e-3, 3e-2)
BATCH_SIZE = 64
SMALL = 4_000_000
"""Numbers of a table of features that one core fits faster than several."""


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """Features of some samples and what they are."""

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
    predicted: NDArray[Any]  # predicted labels, in the form of the labels of `LabelledFeatures`
    scores: NDArray[Any] | None = None  # multi-label: (N, K) scores of each label
    # the task's metric on the validation samples, if something was chosen by it, or at the last epoch of the paper's
    # probe, which chooses nothing; else None
    validation: float | None = None
    converged: bool | None = None  # whether the optimiser reached its tolerance; None if that does not apply
    chosen: str = ""  # description of what was chosen on validation samples


@dataclass(frozen=True, slots=True)
class Question:
    """A probe's task: what it is fitted to, chosen by and asked."""

    kind: TaskKind
    classes: int  # how many there are, or targets
    # train, validation, test: features with labels. Without validation samples a fifth of the training samples, drawn
    # with ``seed``, takes their place, and what was chosen is fitted again to all of them.
    train: LabelledFeatures
    validation: LabelledFeatures
    test: LabelledFeatures
    seed: int = 0  # decides who is held out, and the order of training

    def held_out(self) -> tuple[LabelledFeatures, LabelledFeatures]:
        """Return what is fitted to and what is chosen by."""
        if len(self.validation):
            return self.train, self.validation
        order = np.random.default_rng(self.seed).permutation(len(self.train))
        cut = max(1, len(self.train) // 5)
        return self.train.take(order[cut:]), self.train.take(order[:cut])

    def value(self, predicted: NDArray[Any], truth: NDArray[Any]) -> float:
        """Return the metric that the task is judged by."""
        return float(from_sums(self.kind, sample_sums(self.kind, predicted, truth, self.classes).sum(axis=0)))


def knn(question: Question, neighbours: Sequence[int] = NEIGHBOURS) -> list[Prediction]:
    """Majority (or mean) of the k most similar training samples (cosine), for each k, by scikit-learn.

    Parameters
    ----------
    question
        What is asked.
    neighbours
        Values of k; each is cut to the number of training samples.
    """
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    train, test = question.train, question.test
    found = []
    for k in neighbours:
        maker = KNeighborsRegressor if question.kind.continuous else KNeighborsClassifier
        model = maker(n_neighbors=min(k, len(train)), metric="cosine", algorithm="brute").fit(
            train.values, train.labels
        )
        scores = None
        if question.kind is TaskKind.MULTI_LABEL:
            nearest = model.kneighbors(test.values, return_distance=False)
            scores = train.labels[nearest].mean(axis=1)
        found.append(Prediction(f"knn-{k}", model.predict(test.values), scores))
    return found


def linear(
    question: Question, *, regularisation: Sequence[float] = REGULARISATION, max_iterations: int = MAX_ITERATIONS
) -> Prediction:
    """Linear model on standardised features in double precision, its regularisation chosen on validation samples.

    Logistic regression by L-BFGS, one for each label of a multi-label task; ridge regression of quantities. Of equal
    values the strongest regularisation counts.

    Parameters
    ----------
    question
        What is asked.
    regularisation
        Inverse strengths to choose from, ascending; each fit starts from the one before.
    max_iterations
        A probe that needs more is reported as not converged.
    """
    strength, model, best = fit_path(question, regularisation, max_iterations)
    values = question.test.values
    return Prediction(
        "linear",
        model.predict(values),
        model.scores(values),
        validation=best,
        converged=model.converged,
        chosen=f"C={strength:g}",
    )


def fit_path(
    question: Question,
    regularisation: Sequence[float] = REGULARISATION,
    max_iterations: int = MAX_ITERATIONS,
    *,
    to_the_end: bool = True,
) -> tuple[float, Linear, float]:
    """Return the chosen strength, its model, and its value on the validation samples; see `linear`.

    Not ``to_the_end``, the path ends at the first strength that is worse than the one before: weak regularisation takes
    by far the most iterations, and where validation samples are many the value has one peak.
    """
    train, validation = question.held_out()
    path = _fits(question, train, regularisation, max_iterations)
    strength, model, best = _best(question, validation, path, to_the_end=to_the_end)
    if not len(question.validation):
        (_, model), *_ = _fits(question, question.train, [strength], max_iterations)
    return strength, model, best


def adamw(question: Question, *, epochs: int = EPOCHS, rates: Sequence[float] = LEARNING_RATES) -> Prediction:
    """Train a linear layer: AdamW, 100 epochs, cosine; the learning rate is chosen on validation samples.

    The optimiser and the number of epochs are the paper's. The rest is our own: standardised features of an encoder in
    evaluation mode, the choice of the rate, the schedule down to 0, batches of 64. ``--protocol paper`` is the paper's.

    Parameters
    ----------
    question
        Data and kind of the task.
    epochs
        Passes over the training samples.
    rates
        Learning rates to choose from.
    """
    train, validation = question.held_out()
    path = ((rate, _layer(question, train, rate, epochs)) for rate in rates)
    rate, model, best = _best(question, validation, path)
    if not len(question.validation):
        model = _layer(question, question.train, rate, epochs)
    values = question.test.values
    return Prediction("probe", model.predict(values), model.scores(values), validation=best, chosen=f"lr={rate:g}")


def _best(
    question: Question, validation: LabelledFeatures, path: Iterator[tuple[float, Linear]], *, to_the_end: bool = True
) -> tuple[float, Linear, float]:
    """Return the setting, model and value of the best fit of a path, the first of equals; see `fit_path`."""
    best: tuple[float, Linear, float] | None = None
    for setting, model in path:
        value = question.value(model.predict(validation.values), validation.labels)
        if best is None or value > best[2]:
            best = (setting, model, value)
        elif value < best[2] and not to_the_end:
            break
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class Linear:
    """Standardise, then a linear function."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    answer: Callable[[NDArray[np.float64]], tuple[NDArray[Any], NDArray[Any] | None]]
    converged: bool = True

    @classmethod
    def standardise(cls, values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of features, in double precision; a constant one is only centred."""
        wide = np.asarray(values, dtype=np.float64)
        deviation = wide.std(axis=0)
        return wide.mean(axis=0), np.where(deviation > 1e-12, deviation, 1.0)

    def predict(self, values: NDArray[Any]) -> NDArray[Any]:
        """(N, D) to answers."""
        return self.answer((values - self.mean) / self.deviation)[0]

    def scores(self, values: NDArray[Any]) -> NDArray[Any] | None:
        """(N, D) to certainties."""
        return self.answer((values - self.mean) / self.deviation)[1]


def _fits(
    question: Question, train: LabelledFeatures, path: Sequence[float], max_iterations: int
) -> Iterator[tuple[float, Linear]]:
    mean, deviation = Linear.standardise(train.values)
    values = (np.asarray(train.values, dtype=np.float64) - mean) / deviation
    if question.kind is TaskKind.REGRESSION:
        yield from ((c, Linear(mean, deviation, _ridge(values, train.labels, c))) for c in path)
        return
    columns = [train.labels] if question.kind is TaskKind.SINGLE_LABEL else list(train.labels.T)
    models = [Logistic(max_iterations) for _ in columns]
    for strength in path:
        for model, labels in zip(models, columns, strict=True):
            model.fit(values, labels, strength)
        answer = _one_answer(models[0]) if question.kind is TaskKind.SINGLE_LABEL else _many_answers(models)
        yield strength, Linear(mean, deviation, answer, all(model.converged for model in models))


class Logistic:
    """Logistic regression by scikit-learn's L-BFGS, each fit starting from the one before; a single class is kept."""

    def __init__(self, max_iterations: int) -> None:
        from sklearn.linear_model import LogisticRegression

        self.model = LogisticRegression(tol=TOLERANCE, max_iter=max_iterations, warm_start=True)
        self.only: int | None = None
        self.converged = True

    def fit(self, values: NDArray[np.float64], labels: NDArray[Any], strength: float) -> None:
        """Fit to standardised features."""
        from sklearn.exceptions import ConvergenceWarning

        if len(np.unique(labels)) < 2:
            self.only = int(labels[0])
            return
        self.model.C = strength
        small = one_thread() if values.size < SMALL else nullcontext()
        with small, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self.model.fit(values, labels)
        self.converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)

    def frozen(self) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
        """Classes, (K or 1, D) weights and (K or 1,) offsets as they are now."""
        if self.only is not None:
            return np.array([self.only]), np.zeros((1, 1)), np.zeros(1)
        return self.model.classes_, self.model.coef_.copy(), self.model.intercept_.copy()


def _one_answer(model: Logistic) -> Callable[[NDArray[np.float64]], tuple[NDArray[Any], None]]:
    classes, weight, offset = model.frozen()

    def answer(values: NDArray[np.float64]) -> tuple[NDArray[Any], None]:
        if len(classes) == 1:
            return np.full(len(values), classes[0]), None
        logits = values @ weight.T + offset
        index = (logits[:, 0] > 0).astype(int) if len(classes) == 2 else logits.argmax(axis=1)
        return classes[index], None

    return answer


def _many_answers(models: Sequence[Logistic]) -> Callable[[NDArray[np.float64]], tuple[NDArray[Any], NDArray[Any]]]:
    frozen = [model.frozen() for model in models]

    def answer(values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        logits = np.stack([_logit(values, *part) for part in frozen], axis=1)
        return (logits > 0).astype(np.int64), 1 / (1 + np.exp(-np.clip(logits, -500, 500)))

    return answer


def _logit(
    values: NDArray[np.float64], classes: NDArray[Any], weight: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    if len(classes) == 1:
        return np.full(len(values), np.inf if classes[0] else -np.inf)
    logit: NDArray[np.float64] = values @ weight[0] + offset[0]
    return logit


def _ridge(
    values: NDArray[np.float64], labels: NDArray[Any], strength: float
) -> Callable[[NDArray[np.float64]], tuple[NDArray[Any], None]]:
    from sklearn.linear_model import Ridge

    centre, spread = Linear.standardise(labels)
    model = Ridge(alpha=1 / strength).fit(values, (labels - centre) / spread)

    def answer(given: NDArray[np.float64]) -> tuple[NDArray[Any], None]:
        return model.predict(given).reshape(len(given), -1) * spread + centre, None

    return answer


def _layer(question: Question, train: LabelledFeatures, rate: float, epochs: int) -> Linear:
    """Train one linear layer on standardised features."""
    mean, deviation = Linear.standardise(train.values)
    x = torch.from_numpy(((train.values - mean) / deviation).astype(np.float32))
    centre, spread = Linear.standardise(train.labels) if question.kind.continuous else (np.zeros(1), np.ones(1))
    y = torch.from_numpy((train.labels - centre) / spread if question.kind.continuous else train.labels)
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

    @torch.inference_mode()
    def answer(values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        outputs = layer(torch.from_numpy(values.astype(np.float32))).numpy().astype(np.float64)
        return decide(question.kind, outputs, centre, spread)

    return Linear(mean, deviation, answer)


def loss_function(kind: TaskKind) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what a network's outputs (B, K) and labels are compared by: cross-entropy, of each label, or squared error."""
    if kind is TaskKind.SINGLE_LABEL:
        return nn.functional.cross_entropy
    if kind is TaskKind.MULTI_LABEL:
        return lambda outputs, labels: nn.functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype))
    return lambda outputs, labels: nn.functional.mse_loss(outputs, labels.to(outputs.dtype))


def decide(
    kind: TaskKind, outputs: NDArray[np.float64], centre: NDArray[np.float64], spread: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Turn outputs of a network, (N, K), into answers and, of a multi-label task, certainties."""
    if kind is TaskKind.SINGLE_LABEL:
        return outputs.argmax(axis=1), None
    if kind is TaskKind.MULTI_LABEL:
        return (outputs > 0).astype(np.int64), 1 / (1 + np.exp(-np.clip(outputs, -500, 500)))
    return outputs * spread + centre, None
