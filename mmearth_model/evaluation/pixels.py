"""Linear probe per pixel: one linear model on the encoder's maps of all stages, upsampled to the image.

Hypercolumns after Hariharan et al., CVPR 2015. The model is fitted to a random sample of the training pixels, the same
number from each image, and applied to all pixels of the test images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmearth_model.devices import slice_length
from mmearth_model.evaluation.metrics import Score, pixel_score, sample_sums
from mmearth_model.evaluation.probes import LabelledFeatures, Prediction, Question, fit_path
from mmearth_model.heads.probes import hypercolumns
from mmearth_model.network.pooling import centre, whole_patches
from mmearth_model.tasks import IGNORED, TaskKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mmearth_model.evaluation.features import ImageInput
    from mmearth_model.network.backbone import Backbone
    from mmearth_model.tasks import LabelledSet

TRAIN_PIXELS = 20_000
VALIDATION_PIXELS = 10_000
READ_TILES = 32


def probe_pixels(
    encoder: Backbone, reading: ImageInput, task: LabelledSet, train: NDArray[np.intp], seed: int
) -> tuple[Prediction, Score]:
    """Fit the probe and apply it to the test images.

    Returns
    -------
    tuple
        Prediction, with the chosen settings but without the predicted labels, which are many; and its score.
    """
    rng = np.random.default_rng([seed, 13])
    held_out = task.parts.validation
    if not len(held_out):
        order = rng.permutation(train)
        held_out, train = order[: max(1, len(order) // 5)], order[max(1, len(order) // 5) :]
    fit, choose = (
        _sampled(encoder, reading, task, rows, pixels, rng)
        for rows, pixels in ((train, TRAIN_PIXELS), (held_out, VALIDATION_PIXELS))
    )
    kind = TaskKind.REGRESSION if task.kind.continuous else TaskKind.SINGLE_LABEL
    question = Question(kind, len(task.classes), fit, choose, choose, seed=seed)
    strength, model, best = fit_path(question, to_the_end=False)
    sums = []
    for columns, masks in _maps(encoder, reading, task, task.parts.test):
        answers = model.predict(columns.permute(0, 2, 3, 1).reshape(-1, columns.shape[1]).numpy())
        sums.append(sample_sums(task.kind, answers.reshape(masks.shape), masks, len(task.classes)))
    chosen = f"C={strength:g}"
    none = np.empty(0)
    done = Prediction("pixels", none, validation=best, converged=model.converged, chosen=chosen, model=model)
    return done, pixel_score(task.kind, np.concatenate(sums))


def _sampled(
    encoder: Backbone,
    reading: ImageInput,
    task: LabelledSet,
    rows: NDArray[np.intp],
    pixels: int,
    rng: np.random.Generator,
) -> LabelledFeatures:
    """Hypercolumns of labelled pixels in one array, at most the same number from each image."""
    each = max(1, pixels // len(rows))
    values = np.empty((each * len(rows), sum(encoder.channels)), dtype=np.float32)
    labels: list[NDArray[Any]] = []
    filled = 0
    for columns, masks in _maps(encoder, reading, task, np.sort(rows)):
        for column, mask in zip(columns, masks, strict=True):
            known = np.flatnonzero(np.isfinite(mask) if task.kind.continuous else mask != IGNORED)
            chosen = rng.permutation(known)[:each]
            values[filled : filled + len(chosen)] = column.flatten(1).T[torch.from_numpy(chosen)].numpy()
            filled += len(chosen)
            labels.append(mask.ravel()[chosen])
    found = np.concatenate(labels)
    return LabelledFeatures(values[:filled], found[:, None] if task.kind.continuous else found)


def _maps(
    encoder: Backbone, reading: ImageInput, task: LabelledSet, rows: NDArray[np.intp]
) -> Iterator[tuple[torch.Tensor, NDArray[Any]]]:
    """Hypercolumns (B, C, H, W) and masks (B, H, W), in slices."""
    assert task.masks is not None
    device = encoder.device
    length = slice_length(device, READ_TILES)
    done = 0
    for batch in task.images.batches(rows, READ_TILES, reading.stored):
        images = whole_patches(encoder, reading.images(batch, device))
        masks = cut_masks(task.masks(rows[done : done + len(images)]), images.shape[-2:])
        done += len(images)
        for start in range(0, len(images), length):
            with torch.inference_mode():
                columns = hypercolumns(encoder, images[start : start + length]).cpu()
            yield columns, masks[start : start + length]


def cut_masks(masks: NDArray[Any], sides: Sequence[int]) -> NDArray[Any]:
    """Crop (B, H, W) to the centre of this height and width, as `whole_patches` does with the images."""
    rows, columns = centre(masks.shape[-2:], sides)
    return masks[:, rows, columns]
