"""Pyramids: requests coarser than an asset read a reduced level of it.

Each level has pixels twice as wide as the one below; each is computed from 2 x 2 pixels by the policy of the band
(Earth Engine's reference, PyramidingPolicy). Levels are computed on request, in strips of bounded size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmearth_data.emulator.algorithms.arithmetic import half_up
from mmearth_data.emulator.algorithms.image import (
    CHEAP,
    MOST_NATIVE_PIXELS,
    Band,
    Grid,
    Pixels,
    coarsened,
    level_for,
    mask_of,
    nearest,
)
from mmearth_data.emulator.errors import memory_exceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.image import PixelType, Projection

    Float = NDArray[np.float64]

Policy = Literal["mean", "mode", "sample"]
MODE: Policy = "mode"
SAMPLE: Policy = "sample"
POLICIES: dict[str, Policy] = {
    **dict.fromkeys(("SCL", "label", "Map"), MODE),
    **dict.fromkeys(("MSK_CLASSI_OPAQUE", "MSK_CLASSI_CIRRUS", "MSK_CLASSI_SNOW_ICE", "transition"), MODE),
    **dict.fromkeys(("QA10", "QA20", "QA60", "QA_PIXEL", "QA_RADSAT", "SR_QA_AEROSOL"), SAMPLE),
}
"""Policies of bands of classes and bit masks (Earth Engine's reference, PyramidingPolicy); the others are means."""
STRIP_PIXELS = 2**21
"""Maximum number of native pixels in memory at a time."""


def pyramid_band(
    name: str,
    kind: PixelType,
    home: Projection,
    size: tuple[int, int] | None,
    native: Callable[[Grid], Pixels],
    policy: Policy | None = None,
) -> Band:
    """Band of an asset from its native pixels; coarser requests read the level that matches their scale.

    ``home`` and ``size`` are pixel grid and (columns, rows) of the asset, ``native`` returns its pixels on windows of
    that grid.
    """

    def evaluate(grid: Grid) -> Pixels:
        level = level_for(grid.projection, home, size)
        if level == 0 or CHEAP.get():
            return nearest(grid, home, native)
        chosen, whole = policy or POLICIES.get(name, "mean"), kind.precision == "int"
        reduced = partial(_level, home=home, level=level, native=native, policy=chosen, whole=whole)
        return nearest(grid, coarsened(home, level), reduced)

    return Band(name, kind, home, evaluate, size)


def _level(
    window: Grid, home: Projection, level: int, native: Callable[[Grid], Pixels], policy: Policy, *, whole: bool
) -> Pixels:
    wide = 2**level
    if window.width * window.height * wide * wide > MOST_NATIVE_PIXELS:
        raise memory_exceeded()
    rows = max(STRIP_PIXELS // (window.width * wide * wide), 1)
    strips = []
    for top in range(0, window.height, rows):
        height = min(rows, window.height - top)
        part = Grid(home, window.column * wide, (window.row + top) * wide, window.width * wide, height * wide)
        strips.append(_reduced(native(part), level, policy, whole=whole))
    return Pixels(np.concatenate([strip.values for strip in strips]), np.concatenate([strip.valid for strip in strips]))


def _reduced(pixels: Pixels, level: int, policy: Policy, *, whole: bool) -> Pixels:
    if policy == SAMPLE:
        step = 2**level
        return Pixels(pixels.values[::step, ::step], pixels.valid[::step, ::step])
    values, mask = np.asarray(pixels.values, np.float64), np.asarray(pixels.valid, np.float64)
    halved = _means if policy == "mean" else _modes
    for _ in range(level):
        values, mask = halved(values, mask)
    return Pixels(half_up(values) if whole and policy == "mean" else values, mask_of(mask))


def _quarters(values: Float) -> Float:
    """(4, row, column): upper left, upper right, lower left and lower right of each 2 x 2 block."""
    return np.stack([values[k::2, j::2] for k in (0, 1) for j in (0, 1)])


def _means(values: Float, mask: Float) -> tuple[Float, Float]:
    """Mean weighted by the mask, and the mean of the mask."""
    weights = _quarters(mask)
    total = weights.sum(axis=0)
    found = (_quarters(values) * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
    return found, total / 4


def _modes(values: Float, mask: Float) -> tuple[Float, Float]:
    """Most frequent value weighted by the mask (the smallest if tied), and the mean of the mask."""
    four, weights = _quarters(values), _quarters(mask)
    votes = np.stack([np.where(four == value, weights, 0.0).sum(axis=0) for value in four])
    votes = np.where(weights > 0, votes, -1.0)
    winning = votes == votes.max(axis=0)
    found = np.where(winning, four, np.inf).min(axis=0)
    total = weights.sum(axis=0)
    return np.where(total > 0, found, 0.0), total / 4
