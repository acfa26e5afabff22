"""Throughput of encoders."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from mmearth_model.evaluation.candidates import Model
    from mmearth_model.tasks import LabelledSet

TIMED_IMAGES = 64
RUNS = 5


def images_per_second(model: Model, task: LabelledSet, seed: int, device: torch.device) -> float:
    """Images of a task per second, from normalised images to features: the median of a few runs after a warm-up run."""
    extractor, reading = model.extractor(task, seed, device), model.input(task)
    rows = np.resize(task.parts.train, TIMED_IMAGES)
    (batch,) = task.images.batches(rows, TIMED_IMAGES, reading.stored)
    images = reading.images(batch, device)
    extractor(images)
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        extractor(images)  # its result is on the CPU, so that the device has finished
        seconds.append(time.perf_counter() - begin)
    return TIMED_IMAGES / statistics.median(seconds)
