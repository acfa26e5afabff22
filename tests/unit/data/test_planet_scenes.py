"""Orbits, granules and scenes: against the missions' handbooks, known tiles and the almanac."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
import shapely

from mmearth_data.catalog.tile import TileGrid, utm_epsg
from mmearth_data.planet.orbits import DAY_MS, SENTINEL1, SENTINEL2, Orbit
from mmearth_data.planet.scenes import (
    Box,
    Granule,
    closest_radar_scene,
    granules_at,
    optical_scenes,
    radar_scenes,
    sun_position,
)
from mmearth_data.planet.world import world
from mmearth_data.sources.draws import draw, year_window_ms

YEAR = year_window_ms(2017)[0], year_window_ms(2020)[1]


def ms(date: str) -> int:
    return int(np.datetime64(date, "ms").astype(np.int64))


def _stamp(time_ms: int) -> str:
    return str(np.datetime64(time_ms, "ms").astype("datetime64[s]")).replace("-", "").replace(":", "")


def box(lon: float, lat: float, size_px: int = 64, epsg: int | None = None) -> Box:
    grid = TileGrid.around(lon, lat, epsg or utm_epsg(lon, lat), size_px)
    west, south, east, north = grid.bounds
    return Box(grid.epsg, west - 200, south - 200, east + 200, north + 200)


@pytest.mark.parametrize(
    ("lon", "lat", "tile"),
    [
        (2.3522, 48.8566, "T31UDQ"),  # Paris
        (11.5755, 48.1374, "T32UPU"),  # Munich
        (13.4050, 52.5200, "T33UUU"),  # Berlin
        (-74.0060, 40.7128, "T18TWL"),  # New York
        (151.2093, -33.8688, "T56HLH"),  # Sydney
        (36.8219, -1.2921, "T37MBU"),  # Nairobi
        (-58.3816, -34.6037, "T21HUB"),  # Buenos Aires
        (10.7522, 59.9139, "T32VNM"),  # Oslo, in the widened zone 32
    ],
)
def test_granules_carry_the_names_of_the_military_grid(lon: float, lat: float, tile: str) -> None:
    assert tile in {granule.name for granule, _ in granules_at(box(lon, lat))}


def test_granules_have_the_corners_of_the_real_ones() -> None:
    """T31UDQ begins at (399960, 5500020), T32UPU at (600000, 5400000), as their metadata say."""
    assert Granule(32631, 4, 54).corner == (399_960, 5_500_020)
    assert Granule(32632, 6, 53).corner == (600_000, 5_400_000)
    west, south, east, north = Granule(32631, 4, 54).bounds
    assert (east - west, north - south) == (109_800, 109_800)


def test_a_place_near_a_zone_border_lies_in_granules_of_both_zones() -> None:
    assert {g.epsg for g, _ in granules_at(box(11.95, 50.0))} == {32632, 32633}
    assert {g.epsg for g, _ in granules_at(box(9.0, 50.0))} == {32632}


@pytest.mark.parametrize(("lon", "lat"), [(9.5, 48.2), (-60.1, -3.3), (150.0, -33.0)])
def test_sentinel2_comes_back_every_five_days_at_half_past_ten(lon: float, lat: float) -> None:
    track = int(SENTINEL2.tracks(lon, lat)[0])
    times = np.sort(
        np.concatenate(
            [
                SENTINEL2.times_ms(track, 0.0, p, SENTINEL2.cycles(track, 0.0, ms("2019-01-01"), ms("2020-01-01"), p))
                for p in SENTINEL2.platforms
            ]
        )
    )
    np.testing.assert_allclose(np.diff(times) / DAY_MS, 5, atol=1e-6)
    node_lon = SENTINEL2.node_deg(track)
    hours = (times / 3.6e6 + node_lon / 15) % 24
    np.testing.assert_allclose(hours, 10.5, atol=0.01)  # local solar time at the equator


def test_one_satellite_alone_comes_back_every_ten_days() -> None:
    track = int(SENTINEL2.tracks(9.5, 48.2)[0])
    flown = {p: SENTINEL2.cycles(track, 48.2, ms("2016-01-01"), ms("2017-01-01"), p) for p in SENTINEL2.platforms}
    assert len(flown["S2A"]) in {36, 37}
    assert len(flown["S2B"]) == 0  # launched in 2017


def test_tracks_of_the_cycle_cover_the_equator_without_gaps() -> None:
    for orbit in (SENTINEL2, *SENTINEL1.values()):
        lon = np.linspace(-180, 180, 2000)
        across = np.abs(orbit.across_km(np.arange(orbit.orbits)[:, None], lon, np.zeros(2000)))
        assert across.min(axis=0).max() <= orbit.half_swath_km
        spacing = 40_075 / orbit.orbits
        assert across.min(axis=0).max() == pytest.approx(spacing / 2 * 0.98, rel=0.05)  # tracks cross it at a slant


@pytest.mark.parametrize("orbit", [SENTINEL2, *SENTINEL1.values()])
def test_tracks_cross_the_equator_at_the_apparent_inclination(orbit: Orbit) -> None:
    """tan(i') = sin i / (cos i - 1 / n), n revolutions a day (Capderou, Handbook of Satellite Orbits, 2014)."""
    inclination, n = np.radians(orbit.inclination_deg), orbit.orbits / orbit.days
    west_per_north = abs((np.cos(inclination) - 1 / n) / np.sin(inclination))
    north, south = orbit.drift_deg(np.array([0.01, -0.01]))
    sign = 1 if orbit.northward else -1  # the satellite moves west either way
    assert (south - north) * sign / 0.02 == pytest.approx(west_per_north, rel=1e-3)


def test_sentinel1_passes_are_half_a_day_apart_and_repeat_after_twelve_days() -> None:
    for orbit, hour in ((SENTINEL1["ASCENDING"], 18), (SENTINEL1["DESCENDING"], 6)):
        track = int(orbit.tracks(20.0, 0.0)[0])
        cycles = orbit.cycles(track, 0.0, ms("2019-01-01"), ms("2020-01-01"), "S1A")
        times = orbit.times_ms(track, 0.0, "S1A", cycles)
        np.testing.assert_allclose(np.diff(times) / DAY_MS, 12, atol=1e-6)
        assert abs(float(np.mean((times / 3.6e6 + 20 / 15) % 24)) - hour) < 1


@pytest.mark.parametrize(
    ("lon", "lat", "when", "zenith", "azimuth"),
    [
        (0.0, 23.44, "2019-06-21T12:02", 0.0, None),  # the sun is over the tropic
        (0.0, 0.0, "2019-03-20T12:07", 0.0, None),
        (0.0, 50.0, "2019-12-22T11:58", 73.44, 180.0),
        (0.0, -50.0, "2019-12-22T11:58", 26.56, 0.0),
        (90.0, 40.0, "2019-06-21T06:02", 16.56, 180.0),
        (0.0, 0.0, "2019-03-20T06:08", 90.0, 90.0),  # sunrise in the east
    ],
)
def test_the_sun_stands_where_the_almanac_has_it(
    lon: float, lat: float, when: str, zenith: float, azimuth: float | None
) -> None:
    found = sun_position(lon, lat, np.array([ms(when)]))
    assert found[0][0] == pytest.approx(zenith, abs=0.8)
    if azimuth is not None:
        assert abs((found[1][0] - azimuth + 180) % 360 - 180) < 1.5


def test_scenes_come_sorted_by_index_with_times_and_clouds_that_fit() -> None:
    scenes = optical_scenes(world(0), box(9.5, 48.2), *year_window_ms(2019), cloud_limit=10)
    assert 5 < len(scenes) < 80
    assert [s.index for s in scenes] == sorted(s.index for s in scenes)
    assert len({s.index for s in scenes}) == len(scenes)
    start, end = year_window_ms(2019)
    assert all(start <= s.time_ms < end and 0 <= s.cloud_percent < 10 for s in scenes)
    assert all(s.index.split("_")[1] == _stamp(s.time_ms) for s in scenes)


def test_footprints_contain_the_tile_and_its_surroundings() -> None:
    rng = np.random.default_rng(2)
    for lon, lat in zip(rng.uniform(-180, 180, 25), rng.uniform(-55, 80, 25), strict=True):
        square = box(float(lon), float(lat), 128)
        for scene in optical_scenes(world(0), square, *year_window_ms(2020), cloud_limit=20):
            assert np.abs(SENTINEL2.across_km(np.array([scene.track]), *square.lonlat)).max() <= 145
            if scene.epsg == square.epsg:
                west, south, east, north = scene.granule.bounds
                assert west <= square.west < square.east <= east
                assert south <= square.south < square.north <= north


def test_outlines_hold_the_places_that_scenes_are_found_for() -> None:
    """Also those of squares, which are straight in their zone and not on the map, to some metres."""
    rng = np.random.default_rng(6)
    places = [
        *zip(rng.uniform(-180, 180, 30), rng.uniform(-55, 75, 30), strict=True),
        (179.999, -17.0),
        (-179.999, 66.0),
    ]
    seen = 0
    for lon, lat in places:
        square = box(float(lon), float(lat))
        corners = np.stack(square.lonlat, axis=1)
        scenes = [
            *optical_scenes(world(0), square, ms("2020-06-01"), ms("2020-07-01")),
            *(s for way in SENTINEL1 for s in radar_scenes(world(0), way, square, ms("2020-06-01"), ms("2020-07-01"))),
        ]
        for scene in scenes:
            middle = scene.footprint.centroid.x
            unrolled = corners.copy()
            unrolled[:, 0] = middle + (corners[:, 0] - middle + 180) % 360 - 180
            assert scene.footprint.buffer(0.01).contains(shapely.Polygon(unrolled))
            assert scene.footprint.is_valid
            seen += 1
    assert seen > 300


def test_wet_places_have_fewer_clear_scenes_than_dry_ones() -> None:
    dry = len(optical_scenes(world(0), box(24.0, 24.5), *YEAR, cloud_limit=10))
    wet = len(optical_scenes(world(0), box(-65.0, -2.0), *YEAR, cloud_limit=10))
    assert dry > 1.5 * wet


def test_level_2a_begins_in_europe_and_covers_the_earth_from_december_2018() -> None:
    def share(lon: float, lat: float, year: int) -> float:
        scenes = optical_scenes(world(0), box(lon, lat), *year_window_ms(year))
        return float(np.mean([scene.has_level_2a for scene in scenes]))

    assert share(-100, 40, 2017) == share(-100, 40, 2018) == 0
    assert share(-100, 40, 2019) > 0.9
    assert 0.5 < share(9.5, 48.2, 2017) < 1
    assert share(9.5, 48.2, 2018) == 1


def test_no_scene_is_taken_in_the_polar_night() -> None:
    months = {int(_stamp(s.time_ms)[4:6]) for s in optical_scenes(world(0), box(20.0, 74.0), *YEAR)}
    assert {5, 6, 7} <= months
    assert not months & {11, 12, 1}


def test_the_closest_radar_scene_is_the_closest_of_all() -> None:
    rng = np.random.default_rng(3)
    found = 0
    for lon, lat in zip(rng.uniform(-180, 180, 40), rng.uniform(-55, 78, 40), strict=True):
        square, when = box(float(lon), float(lat)), ms("2019-06-15")
        for way in SENTINEL1:
            every = radar_scenes(world(0), way, square, *YEAR)
            best = min(every, key=lambda s: (abs(s.time_ms - when), s.time_ms), default=None)
            closest = closest_radar_scene(world(0), way, square, when, *YEAR)
            assert (closest and (closest.time_ms, closest.platform, closest.track)) == (
                best and (best.time_ms, best.platform, best.track)
            )
            found += closest is not None
    assert 50 < found < 80  # of 80: here and there a pass is missing


def test_polarisations_are_those_of_land_and_of_ice() -> None:
    land = radar_scenes(world(0), "DESCENDING", box(9.5, 48.2), *YEAR)
    assert {s.polarisations[0] for s in land} == {"VV"}
    ice = [s for way in SENTINEL1 for s in radar_scenes(world(0), way, box(-42.0, 72.0), *YEAR)]
    assert {s.polarisations[0] for s in ice} == {"HH"}
    assert all(s.index.startswith(f"{s.platform}_IW_GRDH_1S") for s in (*land, *ice))
    assert {s.epsg for s in land} <= {32631, 32632, 32633}


def test_draws_follow_the_rule() -> None:
    """h = big-endian blake2b(8 bytes, key = seed, tile id + label); one of n: (h * n) >> 64."""
    tile_id, seed = 0x55D4A802AEA54004, 12345
    digest = blake2b(tile_id.to_bytes(8, "little") + b"scene", digest_size=8, key=seed.to_bytes(8, "little")).digest()
    assert draw(seed, tile_id, "scene", 17) == (int.from_bytes(digest, "big") * 17) >> 64
    counts = np.bincount([draw(0, k, "year", 4) for k in range(4000)], minlength=4)
    assert counts.min() > 900


def test_years_have_the_windows_of_mmearth() -> None:
    assert year_window_ms(2017) == (ms("2017-01-01"), ms("2018-01-01"))
    assert year_window_ms(2018) == (ms("2018-01-01"), ms("2018-12-01"))
    assert year_window_ms(2019) == (ms("2018-12-01"), ms("2020-01-01"))
    assert year_window_ms(2020) == (ms("2020-01-01"), ms("2021-01-01"))
    assert year_window_ms(2023) == (ms("2023-01-01"), ms("2024-01-01"))
