"""Metrics against scikit-learn, intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from mmearth_model.evaluation.metrics import (
    all_metrics,
    bootstrap,
    from_sums,
    interval,
    pixel_metrics,
    sample_sums,
)  # fmt: skip
from mmearth_model.tasks import TaskKind

RNG = np.random.default_rng(5)
CLASSES = 6


def answers(n: int = 400) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    truth = RNG.integers(CLASSES, size=n)
    return np.where(RNG.random(n) < 0.7, truth, RNG.integers(CLASSES, size=n)), truth


def test_single_label_metrics_are_scikit_learns() -> None:
    predicted, truth = answers()
    found = all_metrics(TaskKind.SINGLE_LABEL, predicted, truth, CLASSES)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted), abs=1e-6)
    assert found["accuracy_macro"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted), abs=1e-6)


def test_multi_label_metrics_are_scikit_learns() -> None:
    truth = (RNG.random((300, 5)) < 0.3).astype(np.int64)
    scores = np.clip(0.5 * truth + RNG.random((300, 5)) * 0.7, 0, 1)
    predicted = (scores > 0.5).astype(np.int64)
    found = all_metrics(TaskKind.MULTI_LABEL, predicted, truth, 5, scores)
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="micro"), abs=1e-6)
    assert found["map"] == pytest.approx(metrics.average_precision_score(truth, scores, average="macro"), abs=1e-5)
    sums = sample_sums(TaskKind.MULTI_LABEL, predicted, truth, 5).sum(axis=0)
    assert from_sums(TaskKind.MULTI_LABEL, sums) == pytest.approx(found["f1"], abs=1e-6)


def test_regression_metrics_are_scikit_learns() -> None:
    truth = RNG.normal(100, 5, size=(200, 2))
    predicted = truth + RNG.normal(size=(200, 2))
    found = all_metrics(TaskKind.REGRESSION, predicted, truth, 2)
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, predicted), abs=1e-9)
    assert found["rmse"] == pytest.approx(metrics.mean_squared_error(truth, predicted) ** 0.5, abs=1e-9)
    sums = sample_sums(TaskKind.REGRESSION, predicted, truth, 2).sum(axis=0)
    assert from_sums(TaskKind.REGRESSION, sums) == pytest.approx(found["r2"], abs=1e-9)


def test_pixel_metrics_are_scikit_learns_over_all_labelled_pixels() -> None:
    predicted, truth = (part.reshape(20, 10, 10) for part in answers(2000))
    truth[RNG.random(truth.shape) < 0.1] = -1
    known = truth >= 0
    found = pixel_metrics(TaskKind.SEGMENTATION, sample_sums(TaskKind.SEGMENTATION, predicted, truth, CLASSES + 2))
    assert found["jaccard"] == pytest.approx(metrics.jaccard_score(truth[known], predicted[known], average="macro"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth[known], predicted[known]))
    heights = RNG.normal(20, 4, size=(20, 10, 10))
    guess = heights + RNG.normal(size=heights.shape)
    heights[~known] = np.nan
    found = pixel_metrics(TaskKind.PIXEL_REGRESSION, sample_sums(TaskKind.PIXEL_REGRESSION, guess, heights, 1))
    assert found["r2"] == pytest.approx(metrics.r2_score(heights[known], guess[known]))
    assert found["rmse"] == pytest.approx(metrics.mean_squared_error(heights[known], guess[known]) ** 0.5)


def test_the_interval_of_an_accuracy_is_the_binomials() -> None:
    n, p = 500, 0.8
    truth = np.zeros(n, np.int64)
    predicted = (np.arange(n) >= p * n).astype(np.int64)
    low, high = interval(bootstrap(TaskKind.SINGLE_LABEL, [sample_sums(TaskKind.SINGLE_LABEL, predicted, truth, 2)]))
    half = 1.96 * (p * (1 - p) / n) ** 0.5
    assert (low, high) == pytest.approx((p - half, p + half), abs=0.006)


def test_a_difference_on_the_same_samples_is_sharper_than_the_figures_themselves() -> None:
    truth = np.zeros(500, np.int64)
    worse = (np.arange(500) >= 400).astype(np.int64)
    better = (np.arange(500) >= 410).astype(np.int64)
    draws = [
        bootstrap(TaskKind.SINGLE_LABEL, [sample_sums(TaskKind.SINGLE_LABEL, p, truth, 2)]) for p in (better, worse)
    ]
    low, high = interval(draws[0] - draws[1])
    assert 0 < low < 0.02 < high < 0.04
    alone = interval(draws[0])
    assert high - low < 0.5 * (alone[1] - alone[0])
