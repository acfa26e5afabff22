"""Answers of a network: its raw outputs, converted by the kind of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def decide(
    kind: TaskKind, outputs: NDArray[Any], mean: Floats, deviation: Floats
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Turn outputs of a network, (N, K, ...), into answers and, for a multi-label task, scores."""
    if kind is TaskKind.MULTI_LABEL:
        return (outputs > 0).astype(np.int64), sigmoid(outputs)
    if kind.continuous:
        return (outputs[:, 0] if kind.per_pixel else outputs) * deviation + mean, None
    return outputs.argmax(axis=1), None


def sigmoid(outputs: NDArray[Any]) -> NDArray[Any]:
    """Elementwise probability of a label."""
    found: NDArray[Any] = 1 / (1 + np.exp(-np.clip(outputs, -500, 500)))
    return found


def softmax(outputs: NDArray[Any]) -> NDArray[Any]:
    """(N, K, ...) outputs to probabilities of the K classes, which sum to 1."""
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    found: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return found
