"""The mean of the training labels as the prediction for every test sample: MMEarth-Bench's baseline for regression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError
from mmearth_model.evaluation.metrics import Score, pixel_score, sample_sums, score
from mmearth_model.evaluation.results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mmearth_model.tasks import LabelledSet, LabelShare

TRAIN_MEAN = "train-mean"
PROTOCOL = "constant"
READ_TILES = 64


def quantities(tasks: Sequence[LabelledSet]) -> list[LabelledSet]:
    """Tasks that have a mean. Raises `InputError` when none has."""
    found = [task for task in tasks if task.kind.continuous]
    if not found:
        raise InputError(
            f"--baseline {TRAIN_MEAN}: expected a regression task, got {tasks[0].name} ({tasks[0].kind}); leave it out."
        )
    return found


def train_mean(task: LabelledSet, share: LabelShare, seed: int) -> tuple[Row, NDArray[np.float64]]:
    """Row of the mean over the labels of a share of the training samples, with the sums of the test samples.

    For tasks per pixel, the mean is that of all labelled pixels together.
    """
    train = share.choose(task, seed)
    mean, found = _scored(task, train)
    row = Row.of(
        task,
        found,
        encoder=TRAIN_MEAN,
        seed=seed,
        protocol=PROTOCOL,
        labels=share.text,
        validation=None,
        converged=None,
        chosen=f"mean {', '.join(f'{value:.5g}' for value in mean)}, rmse {found.metrics['rmse']:.5g}",
        leaky=False,
        train_tiles=len(train),
    )
    return row, found.sums


def _scored(task: LabelledSet, train: NDArray[np.intp]) -> tuple[NDArray[np.float64], Score]:
    if task.masks is None:
        mean, test = task.labels[train].mean(axis=0), task.labels[task.parts.test]
        return mean, score(task.kind, np.repeat(mean[None], len(test), axis=0), test, task.outputs)
    total, count = 0.0, 0
    for masks in _masks(task, train):
        seen = masks[np.isfinite(masks)]
        total, count = total + float(seen.sum()), count + seen.size
    mean = np.array([total / count if count else np.nan])
    sums = [sample_sums(task.kind, np.full(m.shape, mean), m, task.outputs) for m in _masks(task, task.parts.test)]
    return mean, pixel_score(task.kind, np.concatenate(sums))


def _masks(task: LabelledSet, rows: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    assert task.masks is not None
    for start in range(0, len(rows), READ_TILES):
        yield task.masks(rows[start : start + READ_TILES])
