"""Windows over a scene: their locations, and their weights at each pixel.

Along each axis, the offsets of windows are multiples of the network's total stride, so that all windows have the same
grid of positions. The two axes are independent: the weight of a window at a pixel is the product of its weights along
rows and along columns. The weights of all windows at a pixel sum to 1, so a weighted sum of predictions is their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mmearth_data import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Blending = Literal["smooth", "centre"]
BLENDINGS: tuple[Blending, ...] = get_args(Blending)


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Windows along one axis of a scene.

    Attributes
    ----------
    length
        Positions of the scene.
    offsets
        (N,) int64 first position of each window, ascending; the last window may extend beyond the scene.
    weights
        (N, S) float32 weight of each window at each of its positions.
    """

    length: int
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def window(self) -> int:
        """Positions of a window."""
        return int(self.weights.shape[1])

    def within(self, start: int, stop: int) -> Axis:
        """Windows with a weight above 0 at any position from ``start`` to before ``stop``."""
        positions = self.offsets[:, None] + np.arange(self.window)
        counts = ((self.weights > 0) & (positions >= start) & (positions < stop)).any(axis=1)
        return Axis(self.length, self.offsets[counts], self.weights[counts])


def plan_axis(length: int, window: int, step: int, *, align: int = 1, blend: Blending = "smooth") -> Axis:
    """Plan windows along an axis, and their weights; see `plan_windows` and `blend_weights`."""
    offsets = plan_windows(length, window, step, align=align)
    return Axis(length, offsets, blend_weights(offsets, length, window, blend))


def plan_windows(length: int, window: int, step: int, *, align: int = 1) -> NDArray[np.int64]:
    """Offsets of windows that cover an axis.

    The first window begins at 0 and every next one ``step`` later; the last one ends at the end of the axis, or beyond
    it by less than ``align``.

    Parameters
    ----------
    length
        Positions of the axis.
    window, step
        Positions of a window, and from the beginning of one window to the next.
    align
        All offsets are multiples of it; it divides ``step``.

    Examples
    --------
    >>> plan_windows(100, 56, 24, align=8)
    array([ 0, 24, 48])
    >>> plan_windows(40, 56, 24, align=8)
    array([0])
    """
    last = max(0, -(-(length - window) // align) * align)
    return np.append(np.arange(0, last, step, dtype=np.int64), last)


def blend_weights(offsets: NDArray[np.int64], length: int, window: int, blend: Blending = "smooth") -> NDArray[Any]:
    """(N, S) float32 weights of windows at their positions, whose sum at each position of the axis is 1.

    Parameters
    ----------
    offsets
        (N,) first position of each window.
    length, window
        Positions of the axis, and of a window.
    blend
        ``smooth``: a squared sine, with the largest weight at the centre of a window and nearly zero at its border;
        ``centre``: only the window whose centre is nearest.
    """
    ramp = smooth_ramp(window)
    positions = offsets[:, None] + np.arange(window)
    inside = positions < length
    ramps = _nearest(offsets, length, window) if blend == "centre" else np.where(inside, ramp, 0.0)
    total = np.zeros(length)
    np.add.at(total, positions[inside], ramps[inside])
    found = np.zeros(ramps.shape)
    found[inside] = ramps[inside] / total[positions[inside]]
    return found.astype(np.float32)


def smooth_ramp(window: int) -> NDArray[np.float64]:
    """(S,) weight of a window at its positions: a squared sine."""
    ramp: NDArray[np.float64] = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    return ramp


def _nearest(offsets: NDArray[np.int64], length: int, window: int) -> NDArray[np.float64]:
    """1 where a window is the one with the nearest centre (the first of two at the same distance), else 0."""
    centres = offsets + (window - 1) / 2
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, np.arange(length))
    positions = offsets[:, None] + np.arange(window)
    chosen = nearest[np.minimum(positions, length - 1)] == np.arange(len(offsets))[:, None]
    return np.where((positions < length) & chosen, 1.0, 0.0)


def step_of(window_px: int, overlap_px: int | None, align_px: int) -> int:
    """Pixels from one window to the next: half a window, rounded up to the total stride, or the window minus an overlap.

    Raises
    ------
    InputError
        If the overlap is not smaller than a window, or the window minus the overlap is not a multiple of the total stride.
    """
    if overlap_px is None:
        return max(align_px, -(-(window_px // 2) // align_px) * align_px)
    step = window_px - overlap_px
    if not 0 <= overlap_px < window_px or step % align_px:
        usual = ", ".join(str(window_px - n) for n in range(window_px // align_px * align_px, 0, -align_px))
        raise InputError(
            f"--overlap: expected an overlap of {usual} px (the window of {window_px} px minus a multiple of the "
            "network's stride of "
            f"{align_px} px), got {overlap_px}; choose one of them."
        )
    return step


class Blend:
    """Weighted sum of the predictions for windows, one row of windows after another.

    Only rows that later windows still change are in memory.

    Parameters
    ----------
    columns
        Windows of the block along columns.
    channels
        Values per position.
    start, stop
        First column of the block, and the one after its last.
    """

    def __init__(self, columns: Axis, channels: int, start: int, stop: int) -> None:
        self._columns = columns
        self._origin = int(columns.offsets[0])
        self._kept = slice(start - self._origin, stop - self._origin)
        width = int(columns.offsets[-1]) + columns.window - self._origin
        self._sum = np.zeros((channels, 0, width), dtype=np.float32)
        self._top: int | None = None

    def advance(self, row: int) -> tuple[int, NDArray[np.float32]]:
        """Make room for windows at ``row``, which must not decrease, and return the rows before it.

        Returns
        -------
        tuple
            First row, and (channels, rows, columns of the block) means of the rows that no later window changes.
        """
        finished = self.rest(row)
        channels, held, width = self._sum.shape
        self._top = row if self._top is None or not held else self._top
        more = row + self._columns.window - self._top - held
        self._sum = np.concatenate([self._sum, np.zeros((channels, more, width), np.float32)], axis=1)
        return finished

    def add(self, column: int, row_weights: NDArray[Any], values: NDArray[Any]) -> None:
        """Add the predictions for one window at the row of the last `advance`.

        Parameters
        ----------
        column
            Position of the window among ``columns``.
        row_weights
            (S,) its weights along rows.
        values
            (channels, S, S).
        """
        size = self._columns.window
        left = int(self._columns.offsets[column]) - self._origin
        self._sum[:, -size:, left : left + size] += values * (row_weights[:, None] * self._columns.weights[column])

    def rest(self, row: int) -> tuple[int, NDArray[np.float32]]:
        """Return the rows before ``row``; see `advance`."""
        top = row if self._top is None else self._top
        count = min(row - top, self._sum.shape[1])
        found = self._sum[:, :count, self._kept]
        self._sum, self._top = self._sum[:, count:], None if self._top is None else top + count
        return top, found
