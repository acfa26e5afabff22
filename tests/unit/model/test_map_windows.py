"""Windows over an axis: they are aligned, cover it, and their weights make a mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmearth_data import InputError
from mmearth_model.maps.windows import BLENDINGS, Axis, Blend, Blending, plan_axis, plan_windows, step_of

ALIGN = 8


@st.composite
def axes(draw: st.DrawFn, longest: int = 400) -> tuple[int, int, int, Blending]:
    """Length, window, step (a multiple of the alignment) and blending."""
    window = draw(st.integers(1, 12)) * ALIGN
    step = draw(st.integers(1, window // ALIGN)) * ALIGN
    return draw(st.integers(1, longest)), window, step, draw(st.sampled_from(BLENDINGS))


@given(axes())
def test_windows_are_aligned_and_cover_the_axis(plan: tuple[int, int, int, Blending]) -> None:
    length, window, step, _ = plan
    offsets = plan_windows(length, window, step, align=ALIGN)
    assert offsets[0] == 0
    assert not (offsets % ALIGN).any()
    assert (np.diff(offsets) > 0).all()
    assert (np.diff(offsets) <= step).all()
    beyond = offsets[-1] + window - length
    assert 0 <= beyond < ALIGN or (len(offsets) == 1 and length <= window)


@given(axes())
def test_the_weights_of_a_position_sum_to_one(plan: tuple[int, int, int, Blending]) -> None:
    length, window, step, blend = plan
    axis = plan_axis(length, window, step, align=ALIGN, blend=blend)
    total = np.zeros(length + window)
    for offset, weights in zip(axis.offsets, axis.weights, strict=True):
        total[offset : offset + window] += weights
    np.testing.assert_allclose(total[:length], 1, atol=1e-6)
    assert not total[length:].any()
    inside = axis.offsets[:, None] + np.arange(window) < length
    assert (axis.weights[inside] > 0).all() or blend == "centre"


@given(axes())
def test_centre_takes_the_window_whose_centre_is_nearest(plan: tuple[int, int, int, Blending]) -> None:
    length, window, step, _ = plan
    axis = plan_axis(length, window, step, align=ALIGN, blend="centre")
    assert set(np.unique(axis.weights)) <= {0.0, 1.0}
    centres = axis.offsets + (window - 1) / 2
    for position in range(0, length, 7):
        (chosen,) = [
            n for n, o in enumerate(axis.offsets) if 0 <= position - o < window and axis.weights[n, position - o]
        ]
        assert abs(centres[chosen] - position) == np.abs(centres - position).min()


@given(axes(), st.data())
def test_a_part_of_an_axis_keeps_the_windows_that_count_there(
    plan: tuple[int, int, int, Blending], data: st.DataObject
) -> None:
    length, window, step, blend = plan
    axis = plan_axis(length, window, step, align=ALIGN, blend=blend)
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    part = axis.within(start, stop)
    total = np.zeros(length + window)
    for offset, weights in zip(part.offsets, part.weights, strict=True):
        total[offset : offset + window] += weights
    np.testing.assert_allclose(total[start:stop], 1, atol=1e-6)


@given(axes(120), axes(120), st.integers(0, 2**32 - 1))
def test_a_blend_is_the_weighted_mean(
    down: tuple[int, int, int, Blending], across: tuple[int, int, int, Blending], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    height, window, step, blend = down
    width = across[0]
    rows = plan_axis(height, window, step, align=ALIGN, blend=blend)
    columns = plan_axis(width, window, step, align=ALIGN, blend=blend)
    values = rng.normal(size=(len(rows.offsets), len(columns.offsets), 2, window, window)).astype(np.float32)
    expected = np.zeros((2, height + window, width + window))
    for r, row in enumerate(rows.offsets):
        for c, column in enumerate(columns.offsets):
            weights = np.outer(rows.weights[r], columns.weights[c])
            expected[:, row : row + window, column : column + window] += values[r, c] * weights
    found = _blended(rows, columns, values, (0, width))
    np.testing.assert_allclose(found, expected[:, :height, :width], atol=1e-5)


def _blended(rows: Axis, columns: Axis, values: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    blend, parts = Blend(columns, values.shape[2], *span), []
    for r, row in enumerate(rows.offsets.tolist()):
        first, finished = blend.advance(row)
        assert first == sum(part.shape[1] for part in parts) or not finished.size
        parts.append(finished)
        for c in range(len(columns.offsets)):
            blend.add(c, rows.weights[r], values[r, c])
    parts.append(blend.rest(rows.length)[1])
    return np.concatenate(parts, axis=1)


def test_the_step_is_half_a_window_on_the_networks_grid() -> None:
    assert (step_of(64, None, 8), step_of(56, None, 8), step_of(224, None, 16), step_of(8, None, 8)) == (32, 32, 112, 8)
    assert (step_of(56, 0, 8), step_of(56, 48, 8)) == (56, 8)
    for wrong in (56, 57, 20, -8):
        with pytest.raises(InputError, match=r"overlap of 0, 8, 16, 24, 32, 40, 48 px"):
            step_of(56, wrong, 8)
