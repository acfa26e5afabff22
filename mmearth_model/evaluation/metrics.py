"""Quality of predictions: metrics by torchmetrics, intervals by the bootstrap over test samples.

The main metric of a task is a function of sums over the test samples (hits, overlaps, squared errors). It is therefore
enough to store a few numbers per sample; an interval, or the difference of two encoders on the same samples, is
computed by summing them again with other weights.

Classes, labels or samples for which a metric is not defined are excluded from it, and counted (`Count`):

- ``accuracy_macro`` is the mean over the classes with a test sample; a class without one has no recall.
- ``f1`` is micro: hits and misses of all labels are summed first, so a label without a positive contributes its false
  alarms and nothing is left out. Without any positive, true or predicted, it is undefined (NaN).
- ``micro_map`` (of `mmearth_model.evaluation.torchgeo_bench`) is the average precision of all labels together.
- ``map`` is the mean over the labels with a positive test sample; a label without one has no average precision.
- ``map_macro`` and ``recall_macro`` are torchmetrics' own means over all labels, in which a label without a positive test
  sample counts as 0: the figures of MMEarth-Bench's published code. A label is predicted above a score of 1/2.
- ``jaccard`` is macro, over the classes in the truth or in the prediction. A class that is only in the prediction has
  an index of 0; one that is in neither is left out.
- ``r2`` is the mean over the targets that vary.
- ``rmse`` of several targets is pooled: the root of the mean over all targets' squared errors, in their own units. It
  is dominated by the target with the largest numbers, so it is suitable for comparing encoders on one task, but not for
  judging a single target.

``map_macro`` ranks the test samples, so it is no function of sums. Where it is the main metric of a task
(`LabelledSet.metric`), scores and labels are stored for each sample, and resamples weight the samples.

The same rules apply within each bootstrap resample. A resample in which the metric is undefined is left out of the
interval.

Axes: N samples, K classes, T targets, S numbers per sample, R resamples.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torchmetrics import functional

from mmearth_model.tasks import IGNORED, TaskKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Sums = NDArray[np.float64]

PRIMARY = {
    TaskKind.SINGLE_LABEL: "accuracy",
    TaskKind.MULTI_LABEL: "f1",
    TaskKind.REGRESSION: "r2",
    TaskKind.SEGMENTATION: "jaccard",
    TaskKind.PIXEL_REGRESSION: "r2",
}
"""Main metric of a kind of task."""
RANKED = "map_macro"
"""Main metric of the multi-label tasks that set it; their `Score.sums` are (N, 2 K) scores and labels."""
CONSTANT = 1e-12
"""A target whose variance is a smaller share of its mean square does not vary, and has no R2."""
RESAMPLES = 1000
COVERAGE = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Count:
    """Basis of a figure."""

    samples: int
    # number of classes, labels or targets included; None if the metric does not average over any
    labels: int | None = None
    of: int | None = None  # how many of them the task has
    pixels: int | None = None  # per-pixel tasks: number of labelled pixels, for quantities summed over all targets


class Score(NamedTuple):
    """Quality of the predictions for the test samples."""

    sums: Sums  # (N, S) output of `sample_sums`, or (N, 2 K) if the main metric is `RANKED`
    metrics: dict[str, float]
    counts: dict[str, Count]


def sample_sums(kind: TaskKind, predicted: NDArray[Any], truth: NDArray[Any], classes: int) -> Sums:
    """(N, S) contributions of each test sample to the sums that `from_sums` reads.

    ``predicted`` and ``truth`` are (N,) for a single label; (N, K) 0 or 1 for several; (N, T) for quantities; per pixel
    (N, H, W), unlabelled pixels `IGNORED` or NaN in ``truth``. ``classes`` is K, of a segmentation.
    """
    if kind is TaskKind.SINGLE_LABEL:
        return np.stack([predicted == truth, np.ones(len(truth))], axis=1).astype(np.float64)
    if kind is TaskKind.MULTI_LABEL:
        both = (predicted * truth).sum(axis=1)
        return np.stack([2 * both, predicted.sum(axis=1) + truth.sum(axis=1)], axis=1).astype(np.float64)
    if kind is TaskKind.SEGMENTATION:
        return np.stack([confusion(p, t, classes).ravel() for p, t in zip(predicted, truth, strict=True)])
    if kind is TaskKind.PIXEL_REGRESSION:
        predicted, truth = predicted.reshape(len(truth), -1, 1), truth.reshape(len(truth), -1, 1)
    else:
        predicted, truth = predicted[:, None], truth[:, None]
    seen = np.isfinite(truth)
    y, error = np.where(seen, truth, 0.0), np.where(seen, truth - predicted, 0.0)
    parts = [part.sum(axis=1) for part in (seen.astype(float), y, y**2, error**2)]
    sums: Sums = np.concatenate(parts, axis=1).astype(np.float64)
    return sums


def confusion(predicted: NDArray[Any], truth: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """(K, K) pixels by true and predicted class, unlabelled ones left out."""
    known = truth != IGNORED
    counts = np.bincount(truth[known].astype(np.int64) * classes + predicted[known], minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.float64)


def from_sums(kind: TaskKind, sums: Sums) -> NDArray[np.float64]:
    """(..., S) sums to (...) values of the main metric."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if kind in (TaskKind.SINGLE_LABEL, TaskKind.MULTI_LABEL):
            return np.asarray(sums[..., 0] / sums[..., 1])
        if kind is TaskKind.SEGMENTATION:
            classes = round(sums.shape[-1] ** 0.5)
            matrix = sums.reshape(*sums.shape[:-1], classes, classes)
            hits = np.diagonal(matrix, axis1=-2, axis2=-1)
            union = matrix.sum(axis=-1) + matrix.sum(axis=-2) - hits
            present = union > 0
            return np.asarray(np.where(present, hits / union, 0).sum(axis=-1) / present.sum(axis=-1))
        count, first, second, error = np.split(sums, 4, axis=-1)
        spread = second - first**2 / count
        varies = spread > CONSTANT * second
        return np.asarray(np.where(varies, 1 - error / spread, 0).sum(axis=-1) / varies.sum(axis=-1))


def bootstrap(kind: TaskKind, sums: Sequence[Sums], metric: str = "") -> NDArray[np.float64]:
    """(R,) the main metric on resampled test samples, averaged over runs; all runs use the same resamples.

    A part (R,) is already the metric on resampled test samples, of a protocol that resamples in its own way.
    """
    values = []
    for part in sums:
        if part.ndim == 1:
            values.append(part)
            continue
        n = len(part)
        counts = np.random.default_rng([0, n]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        if metric == RANKED:
            values.append(weighted_precision(counts, *np.hsplit(part, 2)))
        else:
            values.append(from_sums(kind, counts.astype(np.float64) @ part))
    mean: NDArray[np.float64] = np.mean(values, axis=0)
    return mean


def weighted_precision(counts: NDArray[Any], scores: Sums, truth: Sums) -> NDArray[np.float64]:
    """(R,) ``map_macro`` of (N, K) scores and labels, with the samples counted (R, N) times."""
    weights, total = np.ascontiguousarray(counts.T, dtype=np.float32), np.zeros(len(counts))
    for score_k, truth_k in zip(scores.T, truth.T, strict=True):
        order = np.argsort(-score_k, kind="stable")
        rank = np.searchsorted(-score_k[order], -score_k[order], side="right")  # samples of this score or a higher one
        hits = truth_k[order] > 0
        if not hits.any():
            continue
        ends, first = np.unique(rank[hits], return_index=True)  # of each score that a positive has
        above = np.add.reduceat(weights[order[: ends[-1]]], np.append(0, ends[:-1])).cumsum(axis=0)
        positive = np.add.reduceat(weights[order[hits]], first)
        found = positive.cumsum(axis=0)
        total += (positive * found / np.maximum(above, 1)).sum(axis=0) / np.maximum(found[-1], 1)
    mean: NDArray[np.float64] = total / scores.shape[1]
    return mean


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the resampled values that are defined; NaN if none is."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, COVERAGE)
    return float(low), float(high)


def all_metrics(
    kind: TaskKind, predicted: NDArray[Any], truth: NDArray[Any], classes: int, scores: NDArray[Any] | None = None
) -> dict[str, float]:
    """All metrics of a task of whole images, by torchmetrics; see `sample_sums`, and `pixel_score` for other tasks.

    ``scores`` (N, K) rank the samples of each label, for the mAP of a multi-label task.
    """
    p, t = torch.from_numpy(np.ascontiguousarray(predicted)), torch.from_numpy(np.ascontiguousarray(truth))
    if kind is TaskKind.SINGLE_LABEL:
        return {
            "accuracy": float(functional.classification.multiclass_accuracy(p, t, classes, average="micro")),
            "accuracy_macro": _mean(
                functional.classification.multiclass_accuracy(p, t, classes, average="none"),
                present(kind, truth, classes),
            ),
        }
    if kind is TaskKind.MULTI_LABEL:
        asked = bool(truth.any() or predicted.any())
        f1 = functional.classification.binary_f1_score(p.flatten(), t.flatten()) if asked else float("nan")
        hits, positives = (predicted * truth).sum(axis=0), truth.sum(axis=0)
        found = {"f1": float(f1), "recall_macro": float((hits / np.maximum(positives, 1)).mean())}
        return found if scores is None else found | _mean_precision(scores, t)
    varies = torch.from_numpy(present(kind, truth, classes))
    return {
        "r2": float(functional.r2_score(p[:, varies], t[:, varies])) if varies.any() else float("nan"),
        "rmse": float(functional.mean_squared_error(p, t, squared=False)),
    }


def _mean_precision(scores: NDArray[Any], truth: torch.Tensor) -> dict[str, float]:
    """Mean average precision over the labels with a positive, and over all, of which torchmetrics counts the others as 0."""
    s = torch.from_numpy(np.ascontiguousarray(scores))
    each = [functional.classification.binary_average_precision(s[:, k], truth[:, k]) for k in truth.any(0).nonzero()[:, 0]]  # fmt: skip
    if not each:
        return {"map": float("nan"), "map_macro": 0.0}
    return {"map": float(torch.stack(each).mean()), "map_macro": float(torch.stack(each).sum()) / truth.shape[1]}


def average_precision(truth: NDArray[Any], scores: NDArray[Any]) -> float:
    """Micro-averaged average precision, of all labels together; 0 if there is no positive."""
    from sklearn.metrics import average_precision_score

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No positive class found")
        return float(average_precision_score(truth, scores, average="micro"))


def _mean(each: torch.Tensor, counts: NDArray[np.bool_]) -> float:
    """Mean over the classes that count, summed as torchmetrics does; NaN if none counts."""
    seen = torch.from_numpy(counts)
    return float((torch.where(seen, each, 0.0) / seen.sum()).sum()) if counts.any() else float("nan")


def present(kind: TaskKind, truth: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """(K,) classes or labels with a test sample; for quantities (T,) targets that vary."""
    if kind is TaskKind.SINGLE_LABEL:
        return np.bincount(truth, minlength=classes) > 0
    if kind is TaskKind.MULTI_LABEL:
        return np.asarray(truth.any(axis=0))
    return np.asarray(truth.var(axis=0) > CONSTANT * (truth**2).mean(axis=0))


def score(
    kind: TaskKind,
    predicted: NDArray[Any],
    truth: NDArray[Any],
    classes: int,
    scores: NDArray[Any] | None = None,
    metric: str = "",
) -> Score:
    """Score predictions of whole images; ``metric`` is the main metric if not that of the kind, see also `all_metrics`."""
    metrics = all_metrics(kind, predicted, truth, classes, scores)
    n = len(truth)
    averaged, summed = Count(n, int(present(kind, truth, classes).sum()), classes), Count(n, classes, classes)
    counts = {
        "accuracy": Count(n),
        "accuracy_macro": averaged,
        "f1": summed,
        "map": averaged,
        "map_macro": summed,
        "recall_macro": summed,
        "r2": averaged,
        "rmse": summed,
    }
    sums = sample_sums(kind, predicted, truth, classes)
    if metric == RANKED:
        sums = np.hstack([predicted if scores is None else scores, truth]).astype(np.float64)
    return Score(sums, metrics, {name: counts[name] for name in metrics})


def pixel_score(kind: TaskKind, sums: Sums) -> Score:
    """Score predictions per pixel, from the `sample_sums` of each test image."""
    total, images = sums.sum(axis=0), len(sums)
    value = float(from_sums(kind, total))
    if kind is TaskKind.SEGMENTATION:
        classes = round(len(total) ** 0.5)
        matrix = total.reshape(classes, classes)
        seen = int(((matrix.sum(axis=0) + matrix.sum(axis=1)) > 0).sum())
        pixels = int(matrix.sum())
        metrics = {"jaccard": value, "accuracy": float(np.trace(matrix) / matrix.sum())}
        return Score(
            sums, metrics, {"jaccard": Count(images, seen, classes, pixels), "accuracy": Count(images, pixels=pixels)}
        )
    count, _, _, error = np.split(total, 4)
    metrics = {"r2": value, "rmse": float(np.sqrt(error / count)[0])}
    return Score(sums, metrics, dict.fromkeys(metrics, Count(images, 1, 1, int(count.sum()))))
