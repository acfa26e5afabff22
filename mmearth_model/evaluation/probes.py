"""Frozen features to scores: nearest neighbours and logistic regression, both by scikit-learn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NEIGHBOURS = (5, 20)
REGULARISATION = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse strengths C tried on the validation tiles, strongest regularisation first."""
TOLERANCE = 1e-5
MAX_ITERATIONS = 2000


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """Features of some tiles and what they are.

    Attributes
    ----------
    values
        (N, D) float.
    labels
        (N,) int64 class index, none missing.
    """

    values: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[Any]) -> LabelledFeatures:
        """Rows of a boolean mask or an index array."""
        return LabelledFeatures(self.values[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Score:
    """What one probe made of one set of features.

    Attributes
    ----------
    protocol
        ``knn-5``, ``linear``, ...
    accuracy
        Share of test tiles that were named right (micro).
    balanced_accuracy
        Mean over the classes of the test tiles of the share that was named right.
    converged
        Whether the optimiser met its tolerance; None where there is nothing to converge.
    chosen
        What was chosen on validation tiles, for people.
    """

    protocol: str
    accuracy: float
    balanced_accuracy: float
    converged: bool | None = None
    chosen: str = ""


def check_classes(train: LabelledFeatures, test: LabelledFeatures, task: str) -> None:
    """Refuse what cannot be scored.

    Raises
    ------
    InputError
        When a part is empty or the training tiles hold one class only.
    """
    if not len(train) or not len(test):
        raise InputError(
            f"{task}: expected labelled tiles to train and to test on, got {len(train)} and {len(test)}; "
            "cut the test tiles from the whole store with --test-share 0.3."
        )
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise InputError(f"{task}: expected at least two classes among the {len(train)} training tiles, got one only.")


def knn(train: LabelledFeatures, test: LabelledFeatures, neighbours: Sequence[int] = NEIGHBOURS) -> list[Score]:
    """Majority of the k most similar training tiles (cosine), for each k.

    Parameters
    ----------
    train, test
        Features (N, D) with labels.
    neighbours
        Values of k; each is cut to the number of training tiles.
    """
    from sklearn.neighbors import KNeighborsClassifier

    scores = []
    for k in neighbours:
        model = KNeighborsClassifier(n_neighbors=min(k, len(train)), metric="cosine", algorithm="brute")
        model.fit(train.values, train.labels)
        scores.append(_score(f"knn-{k}", model.predict(test.values), test.labels))
    return scores


def linear(
    train: LabelledFeatures,
    test: LabelledFeatures,
    validation: LabelledFeatures | None = None,
    *,
    seed: int = 0,
    regularisation: Sequence[float] = REGULARISATION,
    max_iterations: int = MAX_ITERATIONS,
) -> Score:
    """L-BFGS logistic regression on standardised features.

    The strength of the regularisation is chosen on the validation tiles (the best accuracy; of equals the
    strongest), then the probe is fitted again to training and validation tiles together.

    Parameters
    ----------
    train, test, validation
        Features (N, D) with labels. Without validation tiles a fifth of the training tiles, drawn with
        ``seed``, takes their place.
    regularisation
        Inverse strengths to choose from, ascending.
    max_iterations
        A probe that needs more is reported as not converged.
    """
    whole = train if validation is None else _join(train, validation)
    if validation is None or not len(validation):
        train, validation = _hold_out(train, seed)
    best, best_accuracy = regularisation[0], -1.0
    for strength in regularisation:
        predicted, _ = _fit_predict(train, validation, strength, max_iterations)
        accuracy = float(np.mean(predicted == validation.labels))
        if accuracy > best_accuracy:
            best, best_accuracy = strength, accuracy
    predicted, converged = _fit_predict(whole, test, best, max_iterations)
    return _score("linear", predicted, test.labels, converged=converged, chosen=f"C={best:g}")


def _fit_predict(
    train: LabelledFeatures, test: LabelledFeatures, strength: float, max_iterations: int
) -> tuple[NDArray[np.int64], bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train.labels)) < 2:
        return np.full(len(test), train.labels[0]), True
    scaler = StandardScaler().fit(train.values.astype(np.float64))
    model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=max_iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scaler.transform(train.values.astype(np.float64)), train.labels)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    predicted: NDArray[np.int64] = model.predict(scaler.transform(test.values.astype(np.float64)))
    return predicted, converged


def _hold_out(train: LabelledFeatures, seed: int) -> tuple[LabelledFeatures, LabelledFeatures]:
    order = np.random.default_rng(seed).permutation(len(train))
    cut = max(1, len(train) // 5)
    return train.take(order[cut:]), train.take(order[:cut])


def _join(first: LabelledFeatures, second: LabelledFeatures) -> LabelledFeatures:
    return LabelledFeatures(
        np.concatenate([first.values, second.values]), np.concatenate([first.labels, second.labels])
    )


def _score(
    protocol: str,
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    converged: bool | None = None,
    chosen: str = "",
) -> Score:
    right = predicted == labels
    recalls = [float(right[labels == label].mean()) for label in np.unique(labels)]
    return Score(protocol, float(right.mean()), float(np.mean(recalls)), converged, chosen)
