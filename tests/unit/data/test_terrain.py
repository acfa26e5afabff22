"""Slope: what a plane, a ridge and a pole of the ellipsoid say it must be."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmearth_data.sources.rasters.terrain import slope_degrees


def plane(tilt_deg: float, azimuth_deg: float, dx: float, dy: float, shape: tuple[int, int] = (9, 13)) -> np.ndarray:
    """Heights of a plane that falls towards an azimuth; rows run south."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    azimuth = np.radians(azimuth_deg)
    return -np.tan(np.radians(tilt_deg)) * (np.sin(azimuth) * cols * dx - np.cos(azimuth) * rows * dy) + 500.0


@given(
    tilt=st.floats(0, 85),
    azimuth=st.floats(0, 360),
    dx=st.sampled_from([1.0, 10.0, 30.9]),
    dy=st.sampled_from([1.0, 10.0, 20.0]),
)
def test_a_plane_has_its_tilt_everywhere_borders_and_corners_included(
    tilt: float, azimuth: float, dx: float, dy: float
) -> None:
    slope = slope_degrees(plane(tilt, azimuth, dx, dy), dx, dy)
    np.testing.assert_allclose(slope, tilt, atol=1e-5)


def test_the_inside_is_the_central_difference_of_numpy() -> None:
    surface = np.random.default_rng(0).normal(0, 30, (40, 50))
    along_y, along_x = np.gradient(surface, 10.0, 20.0)
    expected = np.degrees(np.arctan(np.hypot(along_x, along_y)))
    np.testing.assert_allclose(slope_degrees(surface, 20, 10), expected, rtol=1e-12)


def test_missing_neighbours_are_replaced_and_missing_pixels_stay_missing() -> None:
    surface = plane(20, 130, 10, 10)
    surface[3, 4] = surface[6, 6] = surface[6, 8] = np.nan
    slope = slope_degrees(surface, 10, 10)
    missing = np.isnan(slope)
    # (6, 7) has lost both neighbours along x: nothing is known of that direction.
    assert np.argwhere(missing).tolist() == [[3, 4], [6, 6], [6, 7], [6, 8]]
    np.testing.assert_allclose(slope[~missing], 20, atol=1e-9)


def test_flat_ground_and_a_ridge_line() -> None:
    assert np.all(slope_degrees(np.full((5, 5), 7.0), 10, 10) == 0)
    ridge = 10.0 * (3 - abs(np.arange(7) - 3.0))[None].repeat(3, axis=0)
    np.testing.assert_allclose(slope_degrees(ridge, 10, 10), np.array([[45, 45, 45, 0, 45, 45, 45]] * 3), atol=1e-12)


def test_one_row_or_column_tells_nothing() -> None:
    assert np.isnan(slope_degrees(np.arange(5.0)[None], 10, 10)).all()
