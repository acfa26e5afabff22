"""The equal-area plane against PROJ, areas against closed forms and geodesics, cells and cutting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from mmearth_data.geography.equal_area import (
    MAX_X,
    MAX_Y,
    X_PER_DEGREE,
    CellGrid,
    areas_m2,
    latitude_of_y,
    metres_per_degree,
    y_of_latitude,
)
from mmearth_data.geography.pieces import cut, intersect

EARTH_M2 = 5.10065621724e14
"""Surface of the WGS 84 ellipsoid (NIMA TR8350.2, table 3.3: 510065621.7 km2)."""


def test_projection_agrees_with_proj() -> None:
    to_plane = Transformer.from_crs(4326, 6933, always_xy=True)
    lat = np.linspace(-90, 90, 20_001)
    x, y = to_plane.transform(lat * 2, lat)
    assert np.abs(lat * 2 * X_PER_DEGREE - x).max() < 1e-6
    assert np.abs(y_of_latitude(lat) - y).max() < 1e-6
    assert np.abs(latitude_of_y(y) - lat)[np.abs(lat) < 85].max() < 1e-10


def test_degrees_in_metres_agree_with_geodesics() -> None:
    geod = Geod(ellps="WGS84")
    for lat in (-79.0, -30.0, 0.0, 45.0, 83.0):
        east, north = metres_per_degree(np.array([lat]))
        assert east[0] * 1e-3 == pytest.approx(geod.inv(0, lat, 1e-3, lat)[2], rel=1e-6)
        assert north[0] * 1e-3 == pytest.approx(geod.inv(0, lat - 5e-4, 0, lat + 5e-4)[2], rel=1e-6)


def test_area_of_the_earth_and_of_polygons() -> None:
    assert areas_m2(np.array([shapely.box(-180, -90, 180, 90)]))[0] == pytest.approx(EARTH_M2, rel=1e-9)
    assert pytest.approx(EARTH_M2, rel=1e-9) == 4 * MAX_X * MAX_Y
    ring = shapely.Polygon([(10, 50), (14, 51), (12, 54)], holes=[[(11.5, 51), (12.5, 51.2), (12, 52)]])
    both = shapely.MultiPolygon([ring, shapely.box(20, -5, 21, -4)])
    fine = shapely.segmentize(both, 1e-3)
    geod = Geod(ellps="WGS84")
    expected = sum(abs(geod.geometry_area_perimeter(shapely.normalize(part))[0]) for part in fine.geoms)
    nested = shapely.GeometryCollection([both, shapely.Point(0, 0)])
    assert areas_m2(np.array([both, nested])) == pytest.approx([expected, expected], rel=1e-7)
    assert areas_m2(np.array([shapely.Polygon(), shapely.Point(1, 1)])).tolist() == [0, 0]


@given(st.floats(-180, 180), st.floats(-89, 89), st.sampled_from([100_000.0, 50_000.0, 7_654.3]))
@settings(max_examples=300, deadline=None)
def test_every_point_lies_in_its_cell(lon: float, lat: float, width: float) -> None:
    grid = CellGrid(width)
    cell = grid.cell_of(np.array([lon]), np.array([lat]))
    west, south, east, north = (side[0] for side in grid.bounds_of(cell))
    assert west - 1e-9 <= lon <= east + 1e-9
    assert south - 1e-9 <= lat <= north + 1e-9


def test_cells_have_equal_areas() -> None:
    grid = CellGrid(100_000.0)
    cell = grid.cell_of(np.linspace(-179, 170, 50), np.linspace(-75, 80, 50))
    assert areas_m2(shapely.box(*grid.bounds_of(cell))) == pytest.approx(np.full(50, 1e10), rel=1e-9)


def _star(seed: int, points: int = 40) -> shapely.Polygon:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * math.pi, points))
    radius = rng.uniform(0.3, 4, points)
    return shapely.make_valid(
        shapely.Polygon(np.column_stack([20 + radius * np.cos(angle), 45 + radius * np.sin(angle)]))
    )


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_cutting_keeps_every_bit_of_a_polygon(seed: int) -> None:
    polygons = np.array([_star(seed), shapely.box(18, 43, 23.2, 46.7)])
    pieces = cut(polygons, np.array([5, 9]), CellGrid(50_000.0))
    for owner, polygon in zip((5, 9), polygons, strict=True):
        own = pieces.take(pieces.owner == owner)
        assert own.area_m2.sum() == pytest.approx(areas_m2(np.array([polygon]))[0], rel=1e-9)
        joined = shapely.union_all(own.polygons())
        assert shapely.symmetric_difference(joined, polygon).area < 1e-9
        assert len(np.unique(own.cell)) <= len(own)
    boxes = shapely.box(*pieces.grid.bounds_of(pieces.cell))
    assert shapely.covers(shapely.buffer(boxes, 1e-9), pieces.polygons()).all()


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_intersecting_pieces_equals_intersecting_polygons(seed: int) -> None:
    grid = CellGrid(50_000.0)
    land, mask = _star(seed), shapely.union_all([_star(seed + 1), shapely.box(22, 40, 30, 50)])
    ours = intersect(cut(np.array([land]), np.zeros(1, np.int64), grid), cut(np.array([mask]), np.ones(1, int), grid))
    expected = shapely.intersection(land, mask)
    assert ours.area_m2.sum() == pytest.approx(areas_m2(np.array([expected]))[0], rel=1e-9)
    assert shapely.symmetric_difference(shapely.union_all(ours.polygons()), expected).area < 1e-9
    assert (ours.owner == 0).all()


def test_cutting_does_not_depend_on_threads() -> None:
    polygons = np.array([_star(seed) for seed in range(12)])
    one, four = (cut(polygons, np.arange(12), CellGrid(12_000.0), threads) for threads in (1, 4))
    assert np.array_equal(one.cell, four.cell)
    assert np.array_equal(one.area_m2, four.area_m2)
    assert np.array_equal(shapely.to_wkb(one.geometry), shapely.to_wkb(four.geometry))


def test_land_beyond_the_utm_zones_is_left_out() -> None:
    pieces = cut(np.array([shapely.box(0, 80, 10, 90), shapely.box(0, -90, 10, -75)]), np.arange(2), CellGrid(50_000.0))
    bounds = shapely.bounds(pieces.polygons())
    assert bounds[:, 3].max() == pytest.approx(84)
    assert bounds[:, 1].min() == pytest.approx(-80)
