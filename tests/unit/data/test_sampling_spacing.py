"""No two tiles overlap: the real UTM squares, near zone borders, the antimeridian and the poles."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from sampling_world import draw, overlapping_pairs, pairs_within, squares, world

from mmearth_data.catalog.tile import TileGrid, utm_epsg
from mmearth_data.errors import InputError
from mmearth_data.sampling.spacing import CellHash, Placed, Spacing, reach_m

PLACES = {
    "zone border in mid latitudes": (5.7, 44.9, 6.3, 45.2),
    "equator": (11.9, -0.2, 12.2, 0.2),
    "wide zone 32 in Norway": (2.6, 59.9, 3.4, 60.2),
    "wide zones 31 and 33 in Svalbard": (7.0, 77.8, 11.0, 78.2),
    "antimeridian": (179.8, -17.2, 180.0, -16.8),
    "last latitudes of the north": (23.0, 83.8, 26.5, 84.0),
    "last latitudes of the south": (-61.5, -80.0, -58.5, -79.8),
}
GRANULE_OVERHANG_M = 100_000


@pytest.mark.parametrize("place", PLACES)
def test_squares_of_a_crowded_sample_never_intersect(place: str) -> None:
    west, south, east, north = PLACES[place]
    polygons = [shapely.box(west, south, east, north)]
    if place == "antimeridian":
        polygons = [shapely.MultiPolygon([*polygons, shapely.box(-180, south, -179.8, north)])]
    ecoregions = world(*polygons)
    tiles = int(0.4 * ecoregions["area_km2"].sum() / 1.4**2)
    frame = draw(ecoregions, tiles, oversample=1.2).frame
    assert len(frame) > 200
    lon, lat = frame["lon"].to_numpy(), frame["lat"].to_numpy()
    assert overlapping_pairs(lon, lat, 128) == []
    assert overlapping_pairs(lon, lat, 128, GRANULE_OVERHANG_M) == []


def test_the_check_itself_sees_squares_that_overlap() -> None:
    lon, lat = np.array([10.0, 10.0161, 10.0163, 10.5]), np.array([0.0, 0.0, 0.0, 0.0])
    assert overlapping_pairs(lon, lat, 128) == [(1, 2)]
    across = np.array([179.9999, -179.9999])
    assert overlapping_pairs(across, np.array([10.0, 10.0]), 128) == [(0, 1)]


def test_squares_of_the_check_are_those_of_the_product() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 500).round(6), rng.uniform(-80, 84, 500).round(6)
    lon[:100], lat[:100] = rng.uniform(-2, 45, 100).round(6), rng.uniform(55, 84, 100).round(6)
    _, epsg, bounds = squares(lon, lat, 64, 0.0)
    ours = [TileGrid.around(x, y, utm_epsg(x, y), 64) for x, y in zip(lon, lat, strict=True)]
    assert epsg.tolist() == [grid.epsg for grid in ours]
    assert np.array_equal(bounds, [grid.bounds for grid in ours])


@given(st.floats(-80, 84), st.floats(-180, 179.9), st.sampled_from([16, 64, 128, 512]))
@settings(max_examples=200, deadline=None)
def test_reach_is_never_below_the_rule(lat: float, lon: float, size: int) -> None:
    angle = np.deg2rad(3.5 * np.sin(np.deg2rad(abs(lat))))
    least = 10 * size * (np.cos(angle) + np.sin(angle)) + 20
    reach = reach_m(np.array([lon]), np.array([lat]), size)[0]
    assert least - 1e-9 <= reach <= 10 * size * 2**0.5 + 20 + 1e-9


@given(st.integers(0, 2**32), st.sampled_from([(0, 0), (179.99, 60), (-75, 83.9), (40, -79.9)]), st.integers(0, 3000))
@settings(max_examples=30, deadline=None)
def test_choosing_in_rounds_equals_choosing_one_by_one(
    seed: int, centre: tuple[float, float], min_distance: int
) -> None:
    rng = np.random.default_rng(seed)
    lon = (centre[0] + rng.normal(0, 0.03, 150) / np.cos(np.deg2rad(centre[1])) + 180) % 360 - 180
    lat = np.clip(centre[1] + rng.normal(0, 0.03, 150), -80, 84)
    spacing = Spacing(64, float(min_distance))
    taken: list[int] = []
    for i in range(len(lon)):
        against = np.array(taken, dtype=int)
        here = np.full(len(against), lon[i]), np.full(len(against), lat[i])
        if not spacing.conflict(lon[against], lat[against], *here).any():
            taken.append(i)
    placed = Placed(spacing)
    first = placed.choose(lon[:70], lat[:70])
    placed.add(lon[:70][first], lat[:70][first])
    second = placed.choose(lon[70:], lat[70:])
    assert np.flatnonzero(np.concatenate([first, second])).tolist() == taken


@pytest.mark.parametrize("metres", [5_000, 150_000, 1_500_000])
def test_minimum_distance_holds_everywhere_on_the_globe(metres: int) -> None:
    ecoregions = world(shapely.box(-180, -80, 180, 84))
    frame = draw(ecoregions, {5_000: 400, 150_000: 400, 1_500_000: 60}[metres], min_distance_m=metres).frame
    assert pairs_within(frame["lon"].to_numpy(), frame["lat"].to_numpy(), metres) == []


def test_minimum_distance_holds_where_it_is_tight() -> None:
    ecoregions = world(shapely.box(10, 50, 11, 51))
    frame = draw(ecoregions, 50, min_distance_m=8_000, oversample=1.2).frame
    lon, lat = frame["lon"].to_numpy(), frame["lat"].to_numpy()
    assert pairs_within(lon, lat, 8_000) == []
    assert pairs_within(lon, lat, 9_000)


def test_cells_of_the_hash_are_wide_enough_to_look_at_neighbours_only() -> None:
    cells = CellHash.of_width(1500.0)
    geod = Geod(ellps="WGS84")
    for lat in (-79.9, -45.0, 0.0, 60.0, 83.9):
        row, _ = cells.locate(np.array([0.0]), np.array([lat]))
        step = 360 / cells.columns[row[0]]
        assert geod.inv(0, lat, step, lat)[2] >= 1500
        assert geod.inv(0, lat, 0, lat + cells.height_deg)[2] >= 1500 * (1 - 1e-9)


def test_more_tiles_than_fit_are_refused_with_a_number_that_fits() -> None:
    ecoregions = world(shapely.box(10, 50, 10.4, 50.3))
    with pytest.raises(InputError, match=r"about \d+ tiles of 128 px fit") as refusal:
        draw(ecoregions, 5000)
    fits = int(str(refusal.value).split("about ")[1].split()[0])
    assert 230 < fits < 600
    assert len(draw(ecoregions, fits).frame) == fits


def test_a_distance_between_centres_is_named_as_the_reason() -> None:
    with pytest.raises(
        InputError, match="px fit with centres at least 4000 m apart; ask for fewer, lower --min-distance"
    ):
        draw(world(shapely.box(10, 50, 10.4, 50.3)), 400, min_distance_m=4000)


def test_an_absurd_number_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="fit without overlap"):
        draw(world(shapely.box(10, 50, 10.4, 50.3)), 10**12)
