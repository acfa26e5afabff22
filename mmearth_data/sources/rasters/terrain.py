"""Slope of an elevation grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def slope_degrees(elevation_m: NDArray[np.floating[Any]], dx_m: ArrayLike, dy_m: ArrayLike) -> NDArray[np.float64]:
    """Slope in degrees from the horizontal, (y, x), from the four neighbours of each pixel.

    The gradient is the central difference along each axis, as in ``ee.Terrain.slope``. If one neighbour is missing
    (border of the grid, no-data), the one-sided difference is used, so that a plane has the same slope everywhere.
    ``elevation_m`` are heights in metres, (y, x), NaN where there is none; ``dx_m`` and ``dy_m`` the distances between
    pixel centres along x and y in metres, numbers or arrays that broadcast to (y, x). The result is NaN where the pixel
    itself, or both neighbours along an axis, are missing.

    Examples
    --------
    >>> slope_degrees(np.array([[0.0, 10.0], [0.0, 10.0]]), 10, 10).tolist()
    [[45.0, 45.0], [45.0, 45.0]]
    """
    z = np.asarray(elevation_m, dtype=np.float64)
    gradient_x = _mean_difference(z, axis=1) / np.asarray(dx_m)
    gradient_y = _mean_difference(z, axis=0) / np.asarray(dy_m)
    found: NDArray[np.float64] = np.degrees(np.arctan(np.hypot(gradient_x, gradient_y)))
    return found


def _mean_difference(z: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Central difference of each element: the mean of its differences to the next and from the previous one."""
    gap = np.full([1 if i == axis else n for i, n in enumerate(z.shape)], np.nan)
    step = np.diff(z, axis=axis)
    forward = np.concatenate([step, gap], axis=axis)
    backward = np.concatenate([gap, step], axis=axis)
    forward = np.where(np.isnan(forward), backward, forward)
    backward = np.where(np.isnan(backward), forward, backward)
    found: NDArray[np.float64] = (forward + backward) / 2
    return found
