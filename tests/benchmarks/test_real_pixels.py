"""The target that the benchmark on real images computes itself: the local contrast of a ramp is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from real_pixels import ORIENTATIONS, TEXTURE_BANDS, WINDOW, texture

SIDE, SLOPE = 40, 2
INNER = slice(WINDOW + 1, -WINDOW - 1)
"""Pixels whose windows do not reach the border."""


@pytest.mark.parametrize(("down", "across", "orientation"), [(0, 1, 0), (1, 1, 2), (1, 0, 4), (1, -1, 6)])
def test_the_contrast_of_a_ramp(down: int, across: int, orientation: int) -> None:
    rows, columns = np.indices((SIDE, SIDE)) - SIDE // 2
    levels = 128 + SLOPE * (down * rows + across * columns) / (abs(down) + abs(across))
    found = texture(np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2))[INNER, INNER]
    step = SLOPE / (abs(down) + abs(across))
    gradients = np.zeros(ORIENTATIONS)
    gradients[orientation] = np.hypot(step * down, step * across)
    spread = step * np.sqrt((down**2 + across**2) * (WINDOW**2 - 1) / 12)  # of a uniform distribution, per axis
    expected = np.rint(np.sqrt(np.concatenate([1600 * gradients, 900 * np.full(3, spread)])))
    assert found.shape[2] == len(TEXTURE_BANDS)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_a_flat_image_has_no_contrast() -> None:
    assert not texture(np.full((SIDE, SIDE, 3), 200, np.uint8)).any()
