"""Noise, lattices and coastlines: no seams, no dependence on what else is asked for, true distances."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from mmearth_data.planet.grids import Grid, Patch, Window, axis, bilinear_cover
from mmearth_data.planet.land import REACH_M, land_polygons, natural_earth
from mmearth_data.planet.noise import (
    EARTH_RADIUS_M,
    NoiseBank,
    Octaves,
    cells_across,
    chart_of,
    faces_of,
    unit_vectors,
    value_noise,
)

UTM32 = Grid(32632, (10, 1))
CELLS = cells_across(300_000)


def values_at(lon: np.ndarray, lat: np.ndarray, cells: int = CELLS) -> np.ndarray:
    return value_noise(chart_of(unit_vectors(lon, lat)), [cells], [7])[0]


@pytest.mark.parametrize(
    ("lon", "lat", "dlon", "dlat"),
    [
        (180.0, 12.0, 1e-6, 0),  # antimeridian, inside a face
        (45.0, 5.0, 1e-6, 0),  # between two faces of the equator
        (-135.0, -31.0, 1e-6, 0),
        (0.0, 45.0, 0, 1e-6),  # between an equatorial face and the pole's
        (90.0, -45.0, 0, 1e-6),
        (10.0, 89.9999999, 170.0, 0),  # across the pole
    ],
)
def test_there_is_no_seam(lon: float, lat: float, dlon: float, dlat: float) -> None:
    lons = np.array([lon - dlon, lon + dlon])
    lats = np.array([lat - dlat, lat + dlat])
    one, other = values_at((lons + 180) % 360 - 180, lats)
    assert abs(one - other) < 1e-4


def test_corners_of_the_cube_are_the_same_from_all_three_faces() -> None:
    corner = np.degrees(np.arcsin(1 / np.sqrt(3)))
    lons, lats = np.array([45.001, 44.999, 45.0]), np.array([corner - 1e-3, corner - 1e-3, corner + 1e-3])
    assert len(set(faces_of(unit_vectors(lons, lats)).tolist())) == 3
    assert np.ptp(values_at(lons, lats)) < 5e-3


def test_an_octave_has_mean_0_and_standard_deviation_1() -> None:
    rng = np.random.default_rng(0)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 200_000)))
    values = values_at(rng.uniform(-180, 180, 200_000), lat, 400)
    assert abs(values.mean()) < 0.02
    assert values.std() == pytest.approx(1, abs=0.02)
    assert abs(values).max() < 2.22


def test_the_size_of_features_is_what_was_asked_for() -> None:
    """Along a meridian the correlation dies out within one wavelength of 300 km."""
    lat = np.linspace(-40, 40, 8000)
    step_km = np.radians(80 / 8000) * EARTH_RADIUS_M / 1000
    runs = np.stack([values_at(np.full_like(lat, lon), lat) for lon in np.linspace(-40, 40, 40)])
    near, far = round(30 / step_km), round(330 / step_km)
    assert np.mean(runs[:, near:] * runs[:, :-near]) > 0.9
    assert abs(np.mean(runs[:, far:] * runs[:, :-far])) < 0.1


def test_a_point_has_the_same_bits_whatever_was_asked_for_before_it() -> None:
    rng = np.random.default_rng(1)
    lon, lat = np.repeat(rng.uniform(-180, 180, 40), 20), np.repeat(rng.uniform(-90, 90, 40), 20)
    lon, lat = lon + np.tile(np.linspace(0, 1e-3, 20), 40), lat * 0.99 + np.tile(np.linspace(0, 1e-3, 20), 40)
    order = rng.permutation(lon.size)
    cells, salts = [11, 900, 40_000], [1, 2, 3]
    together = value_noise(chart_of(unit_vectors(lon, lat)), cells, salts)
    shuffled = value_noise(chart_of(unit_vectors(lon[order], lat[order])), cells, salts)
    np.testing.assert_array_equal(together[:, order], shuffled)
    alone = [value_noise(chart_of(unit_vectors(lon[[k]], lat[[k]])), cells, salts)[:, 0] for k in range(0, 800, 37)]
    np.testing.assert_array_equal(together[:, ::37], np.stack(alone, axis=1))


def test_an_octave_is_value_noise_by_its_definition() -> None:
    """Perlin's fade between hashed vertices, in whole numbers and double precision."""

    def vertex(i: int, j: int, cells: int, salt: int) -> float:
        primes = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
        word = (cells * primes[0] + (2 * i - cells) * primes[1] + (2 * j - cells) * primes[2] + salt) % 2**32
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            word = (word ^ word >> shift) * factor % 2**32
        return ((word >> 8) / 2**23 - 1) / 0.4526

    rng = np.random.default_rng(2)
    lon, lat = rng.uniform(-40, 40, (2, 200))  # the face around 0 N 0 E
    cells, salt = 1_000, 77
    got = value_noise(chart_of(unit_vectors(lon, lat)), [cells], [salt])[0]
    for k in range(200):
        x = (np.radians(lon[k]) * 2 / np.pi + 0.5) * cells
        y = (np.arctan(np.tan(np.radians(lat[k])) / np.cos(np.radians(lon[k]))) * 2 / np.pi + 0.5) * cells
        i, j = int(x), int(y)
        s, t = (6 * w**5 - 15 * w**4 + 10 * w**3 for w in (x - i, y - j))
        low = vertex(i, j, cells, salt) * (1 - t) + vertex(i, j + 1, cells, salt) * t
        high = vertex(i + 1, j, cells, salt) * (1 - t) + vertex(i + 1, j + 1, cells, salt) * t
        assert got[k] == pytest.approx(low * (1 - s) + high * s, abs=1e-5)


def test_a_field_is_the_same_alone_and_among_others() -> None:
    fields = {"a": Octaves((1e6, 4e5), (1, 0.5)), "b": Octaves((2e6,), (1,))}
    bank, chart = NoiseBank(3, fields), chart_of(unit_vectors(np.linspace(0, 50, 9), np.linspace(-80, 80, 9)))
    np.testing.assert_array_equal(bank.sample(chart)["b"], bank.sample(chart, ["b"])["b"])
    assert not np.array_equal(bank.sample(chart)["a"], NoiseBank(4, fields).sample(chart)["a"])


@given(start=st.integers(-(10**6), 10**6), count=st.integers(1, 200), stride=st.sampled_from([4, 5, 16, 20]))
def test_pixels_know_their_place_between_nodes(start: int, count: int, stride: int) -> None:
    a = axis(start, count, stride)
    pixels = np.arange(start, start + count) + 0.5
    nodes = (a.first + np.arange(a.nodes)) * stride
    np.testing.assert_allclose(nodes[a.below] * a.exact[0] + nodes[a.below + 1] * a.exact[1], pixels, rtol=0, atol=1e-6)
    spline = sum(nodes[a.below - 1 + k] * a.spline[k].astype(float) for k in range(4))
    np.testing.assert_allclose(spline, pixels, rtol=0, atol=stride * 1e-6 * max(abs(start), 1))  # reproduces a line


@settings(max_examples=30, deadline=None)
@given(column=st.integers(-100, 100), row=st.integers(-100, 100), width=st.integers(1, 90), height=st.integers(1, 90))
def test_a_patch_gives_a_pixel_the_same_bits_in_every_window(column: int, row: int, width: int, height: int) -> None:
    whole = Patch(UTM32, Window(50_000 - 120, -500_000 - 120, 330, 330))
    part = Patch(UTM32, Window(50_000 + column, -500_000 + row, width, height))
    for interpolate in (Patch.linear, Patch.spline):
        fields = [patch.nodes.xyz[0].astype(np.float32) for patch in (whole, part)]
        big, small = (interpolate(patch, field) for patch, field in zip((whole, part), fields, strict=True))
        np.testing.assert_array_equal(big[whole.window.slices_of(part.window)], small)
    np.testing.assert_array_equal(whole.chart.parts[0].u[whole.window.slices_of(part.window)], part.chart.parts[0].u)


@given(start=st.integers(-1000, 1000), count=st.integers(1, 100), pixels=st.sampled_from([2, 6]))
def test_the_cover_of_a_window_holds_the_neighbours_of_every_pixel(start: int, count: int, pixels: int) -> None:
    cover = bilinear_cover(Window(start, start, count, count), pixels)
    position = (np.arange(start, start + count) + 0.5) / pixels - 0.5
    assert cover.column <= np.floor(position).min()
    assert cover.column + cover.width - 1 >= np.ceil(position).max()
    assert cover.width * pixels <= count + 3 * pixels


def test_land_is_where_the_polygons_are() -> None:
    rng = np.random.default_rng(5)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 3000)))
    lon = rng.uniform(-180, 180, 3000)
    metres = natural_earth().distance(lon, lat, unit_vectors(lon, lat))
    tree = shapely.STRtree(land_polygons())
    inside = np.zeros(3000, bool)
    inside[tree.query(shapely.points(lon, lat), predicate="intersects")[0]] = True
    np.testing.assert_array_equal(metres > 0, inside)


def metres_to_coast(lon: float, lat: float) -> float:
    """Distance in a plane laid at the point, equidistant from it, with the coast cut fine."""
    plane = Transformer.from_crs(
        4326, f"+proj=aeqd +lat_0={lat} +lon_0={lon} +R={EARTH_RADIUS_M} +type=crs", always_xy=True
    )
    around = shapely.box(lon - 1.5, lat - 0.3, lon + 1.5, lat + 0.3)
    boundaries = shapely.boundary([p for p in land_polygons() if p.intersects(around)])
    pieces = shapely.clip_by_rect(shapely.segmentize(boundaries, 0.02), *around.bounds)
    return min(
        float(
            shapely.transform(piece, lambda xy: np.stack(plane.transform(*xy.T), axis=1)).distance(shapely.Point(0, 0))
        )
        for piece in pieces
        if not piece.is_empty
    )


def test_distances_to_the_coast_are_true() -> None:
    rng = np.random.default_rng(8)
    land, checked = natural_earth(), 0
    for lon, lat in zip(rng.uniform(-9, 25, 400), rng.uniform(36, 66, 400), strict=True):
        found = abs(float(land.distance(np.array([lon]), np.array([lat]), unit_vectors(lon, lat)[:, None])[0]))
        if found < REACH_M:
            assert found == pytest.approx(metres_to_coast(lon, lat), abs=10)
            checked += 1
    assert checked > 15


def test_far_from_the_coast_the_distance_is_cut() -> None:
    lon, lat = np.array([25.0, -30.0]), np.array([55.0, 30.0])
    np.testing.assert_array_equal(natural_earth().distance(lon, lat, unit_vectors(lon, lat)), [REACH_M, -REACH_M])
    inland = natural_earth().inland(np.array([85.0, 85.0 - 360]), np.array([47.0, 47.0]))
    assert inland[0] > 1.5e6
    assert inland[0] == inland[1]
