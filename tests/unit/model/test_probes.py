"""Probes against closed forms, slow loops and scikit-learn itself."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mmearth_model.evaluation.logistic import Logistic, PrincipalAxes
from mmearth_model.evaluation.probes import (
    REGULARISATION,
    LabelledFeatures,
    Prediction,
    Question,
    adamw,
    fit_path,
    knn,
    linear,
    standardise,
)  # fmt: skip
from mmearth_model.tasks import TaskKind


def clusters(tiles: int, *, noise: int = 0, spread: float = 0.1, seed: int = 0) -> LabelledFeatures:
    """Three classes around three corners of a triangle, and features that mean nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=tiles)
    signal = np.eye(3)[labels] + spread * rng.normal(size=(tiles, 3))
    return LabelledFeatures(np.concatenate([signal, rng.normal(size=(tiles, noise))], axis=1), labels)


def question(train: LabelledFeatures, test: LabelledFeatures, validation: LabelledFeatures | None = None) -> Question:
    classes = train.labels.shape[1] if train.labels.ndim == 2 else int(max(train.labels.max(), test.labels.max())) + 1
    kind = TaskKind.SINGLE_LABEL
    if train.labels.ndim == 2:
        kind = TaskKind.REGRESSION if train.labels.dtype.kind == "f" else TaskKind.MULTI_LABEL
    return Question(kind, classes, train, validation or train.take(np.arange(0)), test)


def accuracy(prediction: Prediction, test: LabelledFeatures) -> float:
    return float((prediction.predicted == test.labels).mean())


def data_set(name: str) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    data = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine}[name]()
    order = np.random.default_rng(0).permutation(len(data.target))
    whole = LabelledFeatures(data.data[order], data.target[order])
    cuts = np.split(np.arange(len(order)), [len(order) // 2, 2 * len(order) // 3])
    return whole.take(cuts[0]), whole.take(cuts[1]), whole.take(cuts[2])


@pytest.mark.parametrize("name", ["digits", "breast cancer", "wine"])
def test_the_probe_is_scikit_learns_logistic_regression(name: str) -> None:
    """Within 0.2 points of a cold fit to a tight tolerance, at every strength of the path and for the chosen one."""
    train, validation, test = data_set(name)
    scaler = StandardScaler().fit(train.values)
    exact = {
        c: LogisticRegression(C=c, tol=1e-6, max_iter=20_000).fit(scaler.transform(train.values), train.labels)
        for c in REGULARISATION
    }
    values = [exact[c].score(scaler.transform(validation.values), validation.labels) for c in REGULARISATION]
    found = linear(question(train, test, validation))
    assert found.chosen == f"C={REGULARISATION[int(np.argmax(values))]:g}"
    assert found.validation == pytest.approx(max(values), abs=1e-12)
    for strength, model in exact.items():
        probed = linear(question(train, test, validation), regularisation=[strength])
        assert abs(accuracy(probed, test) - model.score(scaler.transform(test.values), test.labels)) <= 0.002
        assert probed.converged is True


@pytest.mark.parametrize("name", ["digits", "breast cancer", "wine"])
def test_neighbours_are_scikit_learns_exactly(name: str) -> None:
    train, _, test = data_set(name)
    for prediction, k in zip(knn(question(train, test)), (5, 20), strict=True):
        model = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(train.values, train.labels)
        assert prediction.predicted.tolist() == model.predict(test.values).tolist()


def test_neighbours_vote_by_cosine() -> None:
    train, _, test = data_set("digits")
    test = test.take(np.arange(100))
    unit_train = train.values / np.linalg.norm(train.values, axis=1, keepdims=True)
    right = {5: 0, 20: 0}
    for value, label in zip(test.values, test.labels, strict=True):
        nearest = np.argsort(-(unit_train @ value), kind="stable")
        for k in right:
            votes = Counter(train.labels[nearest[:k]].tolist())
            most = max(votes.values())
            right[k] += min(c for c, n in votes.items() if n == most) == label
    found = knn(question(train, test))
    assert [prediction.protocol for prediction in found] == ["knn-5", "knn-20"]
    assert [accuracy(prediction, test) for prediction in found] == [right[5] / 100, right[20] / 100]


@pytest.mark.parametrize("probe", [linear, partial(adamw, epochs=30)], ids=["linear", "adamw"])
def test_what_can_be_separated_is_and_what_means_nothing_stays_at_chance(probe: Any) -> None:
    train, test = clusters(300), clusters(300, seed=1)
    assert accuracy(probe(question(train, test)), test) == 1.0
    shuffled = LabelledFeatures(train.values, np.random.default_rng(2).permutation(train.labels))
    assert accuracy(probe(question(shuffled, test)), test) < 0.5


def test_the_papers_probe_ends_where_logistic_regression_does() -> None:
    train, validation, test = data_set("digits")
    found = adamw(question(train, test, validation), epochs=30)
    exact = linear(question(train, test, validation))
    assert accuracy(found, test) == pytest.approx(accuracy(exact, test), abs=0.02)
    one, same = (adamw(question(train, test, validation), epochs=2) for _ in range(2))
    assert np.array_equal(one.predicted, same.predicted)  # seeded


def test_several_labels_are_as_many_logistic_regressions() -> None:
    train, validation, test = data_set("digits")
    bits = [LabelledFeatures(p.values, (p.labels[:, None] >> np.arange(3)) & 1) for p in (train, validation, test)]
    found = linear(question(bits[0], bits[2], bits[1]), regularisation=[0.1])
    scaler = StandardScaler().fit(train.values)
    for column in range(3):
        model = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000)
        model.fit(scaler.transform(train.values), bits[0].labels[:, column])
        expected = model.predict_proba(scaler.transform(test.values))[:, 1]
        assert found.scores is not None
        assert found.scores[:, column] == pytest.approx(expected, abs=1e-3)
    constant = LabelledFeatures(train.values, np.ones((len(train), 1), np.int64))
    assert linear(question(constant, constant)).predicted.all()


def test_quantities_are_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 2))
    parts = []
    for n in (200, 50, 80):
        values = rng.normal(size=(n, 6))
        parts.append(LabelledFeatures(values, 100 + values @ weight + 0.01 * rng.normal(size=(n, 2))))
    train, validation, test = parts
    for probe in (linear, adamw):
        found = probe(question(train, test, validation))
        assert found.predicted == pytest.approx(test.labels, abs=0.15)
    near = knn(question(train, test))[0].predicted
    assert near.shape == test.labels.shape


def test_regularisation_is_what_does_best_on_the_validation_tiles_and_the_strongest_of_equals() -> None:
    train, validation, test = (clusters(n, noise=40, spread=0.8, seed=s) for s, n in enumerate((80, 400, 50)))
    path = (1e-4, 1e-2, 1.0, 100.0)
    scaler = StandardScaler().fit(train.values)
    fits = [
        LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scaler.transform(train.values), train.labels) for c in path
    ]
    accuracies = [fit.score(scaler.transform(validation.values), validation.labels) for fit in fits]
    assert len(set(accuracies)) > 1
    asked = question(train, test, validation)
    assert linear(asked, regularisation=path).chosen == f"C={path[int(np.argmax(accuracies))]:g}"
    easy = [clusters(n, spread=0.01, seed=s) for s, n in enumerate((80, 40, 40))]
    assert linear(question(easy[0], easy[1], easy[2]), regularisation=path[2:]).chosen == "C=1"


def test_a_path_that_need_not_be_walked_to_the_end_stops_after_its_peak() -> None:
    train, validation, test = (clusters(n, noise=40, spread=0.8, seed=s) for s, n in enumerate((80, 400, 50)))
    asked = question(train, test, validation)
    peak, model, best = fit_path(asked)
    at = REGULARISATION.index(peak)
    assert 0 < at < len(REGULARISATION) - 2  # there is something behind the peak to leave out
    path = (*REGULARISATION[: at + 2], -1.0)  # not a strength: fitting it fails
    found = fit_path(asked, path, to_the_end=False)
    assert (found[0], found[2]) == (peak, best)
    assert np.array_equal(found[1].predict(test.values), model.predict(test.values))
    with pytest.raises(ValueError, match="C"):
        fit_path(asked, path)


@pytest.mark.parametrize(("samples", "classes"), [(300, 4), (300, 2), (40, 4)])
def test_few_steps_reach_the_minimum_for_features_of_any_scale(samples: int, classes: int) -> None:
    """The derivatives of scikit-learn's objective are 0 there, by their formula; also of more features than samples."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(samples, 60)) * np.logspace(0, -3, 60) @ rng.normal(size=(60, 60))
    mixed[:, 7] = 1.0  # constant
    labels = np.argmax(mixed[:, :classes] + rng.normal(size=(samples, classes)), axis=1)
    mean, deviation = standardise(mixed)
    values, strength = (mixed - mean) / deviation, 10.0
    model = Logistic(2000, 1e-6)
    found, weight, offset = model.fit(PrincipalAxes.of(values), labels, strength)
    assert (found.tolist(), model.converged) == (list(range(classes)), True)
    error = softmax(values @ weight.T + offset, axis=1) - np.eye(classes)[labels]
    penalty = weight / (strength * samples)  # of two classes, only the second has weights
    by_weight = (error.T @ values / samples + penalty)[1 if classes == 2 else 0 :]
    assert np.abs(by_weight).max() <= 1.1e-6
    assert np.abs(error.mean(axis=0)).max() <= 1.1e-6
    assert np.abs(weight[:, 7]).max() <= 1e-9
    assert model.iterations < 150


def test_a_probe_that_has_not_converged_says_so() -> None:
    train, _, test = data_set("digits")
    assert linear(question(train, test), regularisation=[100.0], max_iterations=3).converged is False
