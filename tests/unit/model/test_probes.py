"""Probes against closed forms, slow loops and scikit-learn itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmearth_data import InputError
from mmearth_model.evaluation.probes import LabelledFeatures, check_classes, knn, linear


def clusters(tiles: int, *, noise: int = 0, spread: float = 0.1, seed: int = 0) -> LabelledFeatures:
    """Three classes around three corners of a triangle, and features that mean nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=tiles)
    signal = np.eye(3)[labels] + spread * rng.normal(size=(tiles, 3))
    return LabelledFeatures(np.concatenate([signal, rng.normal(size=(tiles, noise))], axis=1), labels)


def digits() -> tuple[LabelledFeatures, LabelledFeatures]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    whole = LabelledFeatures(data.data[order], data.target[order])
    return whole.take(np.arange(1200)), whole.take(np.arange(1200, len(order)))


def test_neighbours_vote_by_cosine() -> None:
    train, test = digits()
    test = test.take(np.arange(100))
    unit_train = train.values / np.linalg.norm(train.values, axis=1, keepdims=True)
    right = {5: 0, 20: 0}
    for value, label in zip(test.values, test.labels, strict=True):
        nearest = np.argsort(-(unit_train @ value), kind="stable")
        for k in right:
            votes = Counter(train.labels[nearest[:k]].tolist())
            most = max(votes.values())
            right[k] += min(c for c, n in votes.items() if n == most) == label
    scores = knn(train, test)
    assert [score.protocol for score in scores] == ["knn-5", "knn-20"]
    assert [score.accuracy for score in scores] == [right[5] / 100, right[20] / 100]


def test_the_linear_probe_is_logistic_regression_on_standardised_features() -> None:
    train, test = digits()
    score = linear(train, test, regularisation=[0.1])
    scaler = StandardScaler().fit(train.values)
    exact = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(scaler.transform(train.values), train.labels)
    assert abs(score.accuracy - exact.score(scaler.transform(test.values), test.labels)) <= 0.002
    assert score.converged is True
    assert score.chosen == "C=0.1"


def test_what_can_be_separated_is_and_what_means_nothing_stays_at_chance() -> None:
    train, test = clusters(300), clusters(300, seed=1)
    assert linear(train, test).accuracy == 1.0
    shuffled = LabelledFeatures(train.values, np.random.default_rng(2).permutation(train.labels))
    assert linear(shuffled, test).accuracy < 0.5


def test_regularisation_is_what_does_best_on_the_validation_tiles_and_the_strongest_of_equals() -> None:
    train, validation, test = (clusters(n, noise=40, spread=0.8, seed=s) for s, n in enumerate((80, 400, 50)))
    path = (1e-4, 1e-2, 1.0, 100.0)
    scaler = StandardScaler().fit(train.values)
    fits = [
        LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scaler.transform(train.values), train.labels) for c in path
    ]
    accuracies = [fit.score(scaler.transform(validation.values), validation.labels) for fit in fits]
    assert len(set(accuracies)) > 1
    assert linear(train, test, validation, regularisation=path).chosen == f"C={path[int(np.argmax(accuracies))]:g}"
    easy = [clusters(n, spread=0.01, seed=s) for s, n in enumerate((80, 40, 40))]
    assert linear(easy[0], easy[1], easy[2], regularisation=path[2:]).chosen == "C=1"


def test_a_probe_that_has_not_converged_says_so() -> None:
    train, test = digits()
    assert linear(train, test, regularisation=[100.0], max_iterations=3).converged is False


def test_balanced_accuracy_counts_every_class_alike() -> None:
    train = LabelledFeatures(np.array([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]]), np.array([0, 0, 1, 1]))
    values = np.array([[1.0, 0]] * 9 + [[1.0, 0.0]])
    score = knn(train, LabelledFeatures(values, np.array([0] * 9 + [1])), neighbours=[1])[0]
    assert (score.accuracy, score.balanced_accuracy) == (0.9, 0.5)


@pytest.mark.parametrize(("train", "test"), [([0, 0], [0, 1]), ([], [0]), ([0, 1], [])])
def test_what_cannot_be_scored_is_refused(train: list[int], test: list[int]) -> None:
    parts = [LabelledFeatures(np.ones((len(x), 2)), np.array(x, dtype=np.int64)) for x in (train, test)]
    with pytest.raises(InputError, match="store:biome: expected"):
        check_classes(parts[0], parts[1], "store:biome")
