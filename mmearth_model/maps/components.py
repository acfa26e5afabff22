"""Picture of a dense embedding: its first three principal components as red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_model.maps.vectors import Vectors

SAMPLE = 20_000
"""Largest number of positions to which the components are fitted."""
STRETCH = (2.0, 98.0)
"""Percentiles of each component that become 0 and 255."""


@dataclass(frozen=True, slots=True)
class Components:
    """Projection of vectors to red, green and blue.

    Attributes
    ----------
    mean
        (D,) mean of the sample.
    axes
        (3, D) principal components, of which the largest entry is positive.
    low, span
        (3,) value that becomes 0, and range that becomes 255.
    share
        Share of the variance of each component.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    low: NDArray[np.float32]
    span: NDArray[np.float32]
    share: tuple[float, float, float]

    def colours(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(D, h, w) vectors to (4, h, w) red, green, blue and opacity; opacity is 0 where there is no data."""
        known = np.isfinite(values).all(axis=0)
        centred = np.where(known, values, 0) - self.mean[:, None, None]
        shown = (np.tensordot(self.axes, centred, axes=1) - self.low[:, None, None]) / self.span[:, None, None]
        picture = np.where(known, np.rint(255 * shown.clip(0, 1)), 0)
        return np.concatenate([picture, np.where(known, 255, 0)[None]]).astype(np.uint8)


def fit_components(fields: Sequence[Vectors]) -> Components:
    """Fit principal components to at most 20,000 positions, evenly spaced over all grids.

    Raises `InputError` if fewer than two positions have data.
    """
    sample = _sample(fields).astype(np.float64)
    if len(sample) < 2:
        raise InputError(
            f"--picture: expected at least 2 positions with data, got {len(sample)}; choose another scene."
        )
    mean = sample.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.atleast_2d(np.cov(sample - mean, rowvar=False)))
    axes = np.zeros((3, sample.shape[1]))
    count = min(3, sample.shape[1])
    axes[:count] = vectors[:, ::-1][:, :count].T
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    axes *= np.where(largest < 0, -1, 1)
    low, high = np.percentile((sample - mean) @ axes.T, STRETCH, axis=0)
    span = np.where(high > low, high - low, 1)
    parts = np.pad(variances[::-1][:3], (0, 3 - count)) / max(variances.sum(), 1e-30)
    return Components(
        mean=mean.astype(np.float32),
        axes=axes.astype(np.float32),
        low=low.astype(np.float32),
        span=span.astype(np.float32),
        share=(float(parts[0]), float(parts[1]), float(parts[2])),
    )


def _sample(fields: Sequence[Vectors]) -> NDArray[np.float32]:
    """(N, D) vectors with data of every n-th row and column of the grids."""
    positions = sum(field.grid.shape[0] * field.grid.shape[1] for field in fields)
    step = max(1, int(np.ceil((positions / SAMPLE) ** 0.5)))
    found = []
    for field in fields:
        for rows, columns in field.grid.spans(field.side):
            skip = (-rows.start % step, -columns.start % step)
            part = field.read(rows, columns)[:, skip[0] :: step, skip[1] :: step]
            vectors = part.reshape(len(part), -1).T
            found.append(vectors[np.isfinite(vectors).all(axis=1)])
    return np.concatenate(found)


def picture_of(
    field: Vectors, components: Components, report: Callable[[int], None] | None = None
) -> NDArray[np.uint8]:
    """(4, rows, columns) red, green, blue and opacity of a grid."""
    picture = np.zeros((4, *field.grid.shape), dtype=np.uint8)
    for rows, columns in field.grid.spans(field.side):
        picture[:, rows, columns] = components.colours(field.read(rows, columns))
        if report is not None:
            report(picture[0, rows, columns].size)
    return picture
