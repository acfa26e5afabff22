"""Metrics against scikit-learn, intervals against closed forms."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional import classification as functional

from mmearth_model.evaluation.metrics import (
    Count,
    Score,
    all_metrics,
    bootstrap,
    from_sums,
    interval,
    pixel_score,
    sample_sums,
    score,
)  # fmt: skip
from mmearth_model.evaluation.results import Evaluation, Row, table_rows
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
    found = pixel_score(
        TaskKind.SEGMENTATION, sample_sums(TaskKind.SEGMENTATION, predicted, truth, CLASSES + 2)
    ).metrics
    assert found["jaccard"] == pytest.approx(metrics.jaccard_score(truth[known], predicted[known], average="macro"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth[known], predicted[known]))
    heights = RNG.normal(20, 4, size=(20, 10, 10))
    guess = heights + RNG.normal(size=heights.shape)
    heights[~known] = np.nan
    found = pixel_score(TaskKind.PIXEL_REGRESSION, sample_sums(TaskKind.PIXEL_REGRESSION, guess, heights, 1)).metrics
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


# ---------------------------------------------------------------- what is left out and reported


def test_mean_average_precision_leaves_out_labels_without_a_positive_and_counts_them() -> None:
    """Equal to scikit-learn over the other labels; torchmetrics' macro average counts such a label as 0."""
    truth = (RNG.random((200, 6)) < 0.3).astype(np.int64)
    truth[:, [1, 4]] = 0
    scores = np.clip(0.5 * truth + RNG.random(truth.shape) * 0.7, 0, 1)
    found = score(TaskKind.MULTI_LABEL, (scores > 0.5).astype(np.int64), truth, 6, scores)
    kept = [0, 2, 3, 5]
    expected = metrics.average_precision_score(truth[:, kept], scores[:, kept], average="macro")
    assert found.metrics["map"] == pytest.approx(expected, abs=1e-6)
    pair = (torch.from_numpy(scores[:, kept]), torch.from_numpy(truth[:, kept]))
    assert found.metrics["map"] == float(functional.multilabel_average_precision(*pair, 4, average="macro"))
    whole = Count(200, 6, 6)
    assert found.counts == {"f1": whole, "recall_macro": whole, "map": Count(200, 4, 6), "map_macro": whole}


def test_mean_average_precision_by_hand() -> None:
    """One positive at rank two of three: 1/2; two positives at ranks one and three: (1 + 2/3) / 2; none: left out."""
    scores = np.array([[0.9, 0.9, 0.1], [0.8, 0.5, 0.7], [0.1, 0.2, 0.3]])
    truth = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    found = score(TaskKind.MULTI_LABEL, truth, truth, 3, scores)
    assert found.metrics["map"] == pytest.approx((1 / 2 + 5 / 6) / 2, abs=1e-6)
    nothing = score(TaskKind.MULTI_LABEL, truth[:, [2, 2]], truth[:, [2, 2]], 2, scores[:, [2, 2]])
    assert np.isnan([nothing.metrics["map"], nothing.metrics["f1"]]).all()
    assert nothing.counts["map"] == Count(3, 0, 2)
    single = score(TaskKind.MULTI_LABEL, truth[:, :1], truth[:, :1], 1, scores[:, :1])
    assert single.metrics == {"f1": 1, "recall_macro": 1, "map": 1 / 2, "map_macro": 1 / 2}


def test_f1_counts_false_alarms_of_labels_without_a_positive() -> None:
    """Micro: 2 hits, 1 false alarm for a label without a positive sample, 1 miss."""
    truth = np.array([[1, 0], [1, 0], [1, 0]])
    predicted = np.array([[1, 1], [1, 0], [0, 0]])
    found = score(TaskKind.MULTI_LABEL, predicted, truth, 2)
    assert found.metrics == {"f1": pytest.approx(2 * 2 / (2 * 2 + 1 + 1)), "recall_macro": pytest.approx(2 / 3 / 2)}
    assert found.metrics["f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="micro"))


def test_resamples_without_a_positive_are_left_out_of_the_interval() -> None:
    """One sample of four has positives: (3/4)^4 of the resamples have none and no F1; the others have F1 = 1."""
    truth = np.zeros((4, 3), np.int64)
    truth[0, 0] = 1
    values = bootstrap(TaskKind.MULTI_LABEL, [sample_sums(TaskKind.MULTI_LABEL, truth, truth, 3)])
    assert np.isnan(values).mean() == pytest.approx(0.75**4, abs=0.06)
    assert interval(values) == (1.0, 1.0)
    assert np.isnan(interval(values * np.nan)).all()


def test_balanced_accuracy_leaves_out_classes_without_a_test_sample_even_where_they_are_answered() -> None:
    truth, predicted = np.array([0, 1, 1, 0]), np.array([0, 1, 2, 2])
    found = score(TaskKind.SINGLE_LABEL, predicted, truth, 4)
    assert found.metrics["accuracy_macro"] == pytest.approx(0.5)  # recall 1/2 and 1/2; scikit-learn agrees, and warns
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.metrics["accuracy_macro"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert found.counts == {"accuracy": Count(4), "accuracy_macro": Count(4, 2, 4)}


def test_jaccard_leaves_out_classes_that_are_nowhere_and_counts_the_others() -> None:
    """Class 2 is predicted but never true: 0; class 3 occurs nowhere: left out. As in torchmetrics and scikit-learn."""
    truth = np.array([[[0, 0], [1, 1]], [[0, 0], [1, -1]]])
    predicted = np.array([[[0, 0], [1, 2]], [[0, 1], [1, 3]]])
    found = pixel_score(TaskKind.SEGMENTATION, sample_sums(TaskKind.SEGMENTATION, predicted, truth, 4))
    assert found.metrics["jaccard"] == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    known = truth >= 0
    answered, true = (torch.from_numpy(part[known]) for part in (predicted, truth))
    theirs = functional.multiclass_jaccard_index(answered, true, 4, average="macro")
    assert found.metrics["jaccard"] == pytest.approx(float(theirs))
    assert found.counts == {"jaccard": Count(2, 3, 4, 7), "accuracy": Count(2, pixels=7)}


def test_rmse_of_several_targets_is_pooled_and_said_to_be() -> None:
    """Errors of 3 m in every sample of one target and 4 m in the other: the root of (9 + 16) / 2."""
    truth, errors = np.arange(20.0).reshape(10, 2), np.array([3.0, -4.0])
    found = score(TaskKind.REGRESSION, truth + errors, truth, 2)
    assert found.metrics["rmse"] == pytest.approx(12.5**0.5)
    each = metrics.root_mean_squared_error(truth, truth + errors, multioutput="raw_values")
    assert found.metrics["rmse"] == pytest.approx(np.sqrt(np.mean(each**2)))
    assert found.metrics["rmse"] != pytest.approx(np.mean(each))
    assert found.counts["rmse"] == Count(10, 2, 2)
    constant = np.column_stack([truth[:, 0], np.ones(10)])
    assert score(TaskKind.REGRESSION, constant, constant, 2).counts["r2"] == Count(10, 1, 2)


def row(kind: TaskKind, metric: str, found: Score, resamples: int = 1000) -> Row:
    counts = {name: asdict(count) for name, count in found.counts.items()}
    return Row(
        "task", kind.value, "encoder", 0, "linear", "100%", metric, found.metrics[metric], 0.0, 1.0, found.metrics, None,
        True, "", False, 10, len(found.sums), counts, resamples,
    )  # fmt: skip


def test_tables_and_json_say_what_was_left_out() -> None:
    truth = np.array([[1, 0], [1, 0], [0, 0]])
    labels = score(TaskKind.MULTI_LABEL, truth, truth, 2, truth.astype(float))
    quantities = score(TaskKind.REGRESSION, np.eye(4), np.eye(4), 4)
    rows = (row(TaskKind.MULTI_LABEL, "f1", labels, 987), row(TaskKind.REGRESSION, "r2", quantities))
    notes = [cells[-1] for cells in table_rows(Evaluation((part,)).summaries()[0] for part in rows)]
    assert notes == [
        "map over 1 of 2 labels; interval of 987 resamples, undefined in the others",
        "rmse pooled over 4 targets",
    ]
    undefined = replace(rows[0], metrics={"f1": float("nan")}, value=float("nan"))
    text = json.dumps(Evaluation((undefined,)).to_dict(), allow_nan=False)
    (written,) = json.loads(text)["rows"]
    assert (written["value"], written["metrics"]) == (None, {"f1": None})
    assert written["counts"]["map"] == {"samples": 3, "labels": 1, "of": 2, "pixels": None}
    (summary,) = Evaluation((undefined, replace(undefined, seed=1))).summaries()
    assert np.isnan([summary.mean, summary.deviation]).all(), "of several seeds too"
