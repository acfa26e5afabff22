"""Quality of predictions: metrics by torchmetrics, intervals by the bootstrap over test samples.

The main metric of a task is a function of sums over the test samples (hits, overlaps, squared errors). It is therefore
enough to store a few numbers per sample; an interval, or the difference of two encoders on the same samples, is
computed by summing them again with other weights.

Classes, labels or samples for which a figure is not defined are left out of it, and counted (`Count`):

- ``accuracy_macro`` is the mean over the classes with a test sample; a class without one has no recall.
- ``f1`` is micro: hits and misses of all labels are summed first, so a label without a positive contributes its false
  alarms and nothing is left out. Without any positive, true or predicted, it is undefined (NaN).
- ``map`` is the mean over the labels with a positive test sample; a label without one has no average precision.
- ``jaccard`` is macro, over the classes in the truth or in the prediction. A class that is only in the prediction has
  an index of 0; one that is in neither is left out.
- ``r2`` is the mean over the targets that vary.
- ``rmse`` of several targets is pooled: the root of the mean over all targets' squared errors, in their own units. It
  is dominated by the target with the largest numbers, so it compares encoders on one task but says little about a
  single target.

The same rules apply within each bootstrap resample. A resample in which the metric is undefined is left out of the
interval.

Axes: N samples, K classes, T targets, S numbers per sample, R resamples.
"""

from __future__ import annotations

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
"""The metric that a task is judged by."""
CONSTANT = 1e-12
"""A target whose variance is a smaller part of its mean square does not vary, and no R2 is asked of it."""
DRAWS = 1000
COVERAGE = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Count:
    """What a figure was computed over."""

    samples: int
    # number of classes, labels or targets included; None if the metric does not average over any
    labels: int | None = None
    of: int | None = None  # how many of them the task has
    pixels: int | None = None  # per-pixel tasks: number of labelled pixels, for quantities summed over all targets


class Score(NamedTuple):
    """Quality of the predictions for the test samples."""

    sums: Sums  # (N, S) output of `sample_sums`
    metrics: dict[str, float]
    counts: dict[str, Count]


def sample_sums(kind: TaskKind, predicted: NDArray[Any], truth: NDArray[Any], classes: int) -> Sums:
    """(N, S) what each test sample adds to the sums that `from_sums` reads.

    Parameters
    ----------
    kind
        Of the task.
    predicted, truth
        Single-label (N,); multi-label (N, K) 0 or 1; regression (N, T); per pixel (N, H, W), unlabelled ones
        `IGNORED` or NaN in ``truth``.
    classes
        K; of a segmentation.
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
    """(..., S) sums to (...) values of the metric that the task is judged by."""
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


def weights(samples: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float32]:
    """(R, N) how often each sample is drawn, with replacement."""
    rng = np.random.default_rng([seed, samples])
    return rng.multinomial(samples, np.full(samples, 1 / samples), size=draws).astype(np.float32)


def bootstrap(kind: TaskKind, sums: Sequence[Sums], draws: int = DRAWS) -> NDArray[np.float64]:
    """(R,) the metric on resampled test samples, averaged over runs; the same samples are drawn for each of them."""
    values = [from_sums(kind, weights(len(part), draws).astype(np.float64) @ part) for part in sums]
    mean: NDArray[np.float64] = np.mean(values, axis=0)
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
    """Every metric of a kind of task, by torchmetrics; not those per pixel, see `pixel_metrics`.

    Parameters
    ----------
    kind, predicted, truth, classes
        As of `sample_sums`.
    scores
        Multi-label: (N, K) how sure each label is, for mAP.
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
        return {"f1": float(f1)} | ({} if scores is None else {"map": _mean_precision(scores, t)})
    varies = torch.from_numpy(present(kind, truth, classes))
    return {
        "r2": float(functional.r2_score(p[:, varies], t[:, varies])) if varies.any() else float("nan"),
        "rmse": float(functional.mean_squared_error(p, t, squared=False)),
    }


def _mean_precision(scores: NDArray[Any], truth: torch.Tensor) -> float:
    """Mean average precision over the labels with a positive; torchmetrics' own mean counts the others as 0."""
    s = torch.from_numpy(np.ascontiguousarray(scores))
    each = [functional.classification.binary_average_precision(s[:, k], truth[:, k]) for k in truth.any(0).nonzero()[:, 0]]  # fmt: skip
    return float(torch.stack(each).mean()) if each else float("nan")


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
    kind: TaskKind, predicted: NDArray[Any], truth: NDArray[Any], classes: int, scores: NDArray[Any] | None = None
) -> Score:
    """Compute sums, metrics and counts of predictions; per pixel, see `pixel_score`. Parameters as in `all_metrics`."""
    metrics = all_metrics(kind, predicted, truth, classes, scores)
    seen, n = int(present(kind, truth, classes).sum()), len(truth)
    averaged, summed = Count(n, seen, classes), Count(n, classes, classes)
    counts = {
        TaskKind.SINGLE_LABEL: {"accuracy": Count(n), "accuracy_macro": averaged},
        TaskKind.MULTI_LABEL: {"f1": summed, "map": averaged},
    }.get(kind, {"r2": averaged, "rmse": summed})
    sums = sample_sums(kind, predicted, truth, classes)
    return Score(sums, metrics, {name: counts[name] for name in metrics})


def pixel_metrics(kind: TaskKind, sums: Sums) -> dict[str, float]:
    """Metrics per pixel, of the sums of all test samples."""
    total = sums.sum(axis=0)
    value = float(from_sums(kind, total))
    if kind is TaskKind.SEGMENTATION:
        classes = round(len(total) ** 0.5)
        matrix = total.reshape(classes, classes)
        return {"jaccard": value, "accuracy": float(np.trace(matrix) / matrix.sum())}
    count, _, _, error = np.split(total, 4)
    return {"r2": value, "rmse": float(np.sqrt(error / count)[0])}


def pixel_score(kind: TaskKind, sums: Sums) -> Score:
    """Compute metrics and counts per pixel from what each test image adds to the sums."""
    total = sums.sum(axis=0)
    if kind is TaskKind.SEGMENTATION:
        classes = round(len(total) ** 0.5)
        matrix = total.reshape(classes, classes)
        seen = int(((matrix.sum(axis=0) + matrix.sum(axis=1)) > 0).sum())
        whole = Count(len(sums), pixels=int(matrix.sum()))
        counts = {"jaccard": Count(len(sums), seen, classes, int(matrix.sum())), "accuracy": whole}
    else:
        whole = Count(len(sums), 1, 1, int(np.split(total, 4)[0].sum()))
        counts = {"r2": whole, "rmse": whole}
    return Score(sums, pixel_metrics(kind, sums), counts)
