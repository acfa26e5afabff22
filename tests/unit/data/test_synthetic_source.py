"""The synthetic source at its boundary: what a build asks of any source, and what the rules say it must do."""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from geopandas.testing import assert_geodataframe_equal
from planet_world import CATALOG, RASTERS, READABLE, S2, modality, place, source, surveyed

from mmearth_data.catalog.entries import biomes, eco_regions
from mmearth_data.catalog.tile import LEVEL_L1C, LEVEL_L2A, LEVEL_NAMES, TileGrid, utm_epsg
from mmearth_data.errors import TileUnavailable
from mmearth_data.planet import ecology
from mmearth_data.planet.planet import L1C, L2A
from mmearth_data.planet.scenes import Box, optical_scenes
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.draws import draw, year_window_ms
from mmearth_data.sources.synthetic import SyntheticSource

PLACES = [
    (9.5, 48.2),
    (-60.2, -3.1),
    (100.3, 66.2),
    (22.5, -19.5),
    (10.2, 23.0),
    (-100.0, 45.0),
    (36.0, -3.0),
    (2.1, 47.3),
]


def reads(level: int) -> Survey:
    """Survey of a location whose Sentinel-2 scene has a given level."""
    for k in range(40):
        answer = source().survey([place(9.0 + k / 50, 48.2)])[0]
        if isinstance(answer, Survey) and answer.s2_level == level:
            return answer
    raise AssertionError(level)


def test_arrays_have_the_shapes_and_types_of_the_catalog() -> None:
    for size in (64, 128, 16):
        survey = surveyed(9.5, 48.2, size)
        assert survey.grid.size_px == size
        arrays = source().read(survey, READABLE)
        assert list(arrays) == [m.name for m in READABLE]
        for m in READABLE:
            assert arrays[m.name].shape == m.array_shape(size)
            assert arrays[m.name].dtype == m.dtype
            assert arrays[m.name].flags.owndata or arrays[m.name].base is not None


def test_classes_and_numbers_lie_in_the_ranges_of_the_catalog() -> None:
    for lon, lat in PLACES:
        arrays = source().read(surveyed(lon, lat), READABLE)
        for m in READABLE:
            seen = arrays[m.name][m.observed(arrays[m.name])]
            if m.classes:
                assert set(np.unique(seen).tolist()) <= {label.code for label in m.classes}, m.name
            elif m.histogram_range is not None and m.kind.is_raster:
                assert seen.size == 0 or (m.histogram_range[0] <= seen.min() and seen.max() <= m.histogram_range[1])


def test_levels_have_their_own_bands_and_masks() -> None:
    b10 = S2.bands.index("B10")
    l1c, l2a = (source().read(reads(level), RASTERS) for level in (LEVEL_L1C, LEVEL_L2A))
    assert (l1c["sentinel2"] > 0).all()
    assert (l1c["sentinel2"][b10] < 200).all()  # the cirrus band sees next to nothing
    assert (l2a["sentinel2"][b10] == 0).all()
    assert (np.delete(l2a["sentinel2"], b10, axis=0) > 0).all()
    for name in ("sentinel2_scl", "sentinel2_cloudprod"):
        m = modality(name)
        assert not m.observed(l1c[name]).any()
    assert modality("sentinel2_scl").observed(l2a["sentinel2_scl"]).all()
    for tile in (l1c, l2a):
        assert modality("sentinel2_cloudmask").observed(tile["sentinel2_cloudmask"]).all()


def test_some_level_2a_scenes_lack_the_cloud_probability() -> None:
    box = Box(32632, 500_000, 5_300_000, 500_640, 5_300_640)
    scenes = optical_scenes(source().planet.views.world, box, *year_window_ms(2019))
    lacking = [scene for scene in scenes if not scene.has_cloud_probability]
    assert 0 < len(lacking) < 0.2 * len(scenes)
    survey = reads(LEVEL_L2A)
    scene = replace(lacking[0], granule=survey.request.scene.granule)
    m = modality("sentinel2_cloudprod")
    tile = source().read(replace(survey, request=survey.request._replace(scene=scene)), [m])[m.name]
    assert not m.observed(tile).any()


def test_the_scene_is_drawn_by_the_rule() -> None:
    for lon, lat in PLACES:
        p = place(lon, lat)
        survey = source().survey([p])[0]
        assert isinstance(survey, Survey)
        year = (2017, 2018, 2019, 2020)[draw(0, p.tile_id, "year", 4)]
        level = ("L2A", "L1C")[draw(0, p.tile_id, "level", 2)]
        grid = TileGrid.around(lon, lat, utm_epsg(lon, lat), 64)
        west, south, east, north = grid.bounds
        box = Box(grid.epsg, west - 200, south - 200, east + 200, north + 200)
        scenes = optical_scenes(source().planet.views.world, box, *year_window_ms(year), cloud_limit=10)
        fitting = [s for s in scenes if level == "L1C" or s.has_level_2a]
        if not fitting:
            level, fitting = "L1C", scenes
        scene = sorted(fitting, key=lambda s: s.index)[draw(0, p.tile_id, "scene", len(fitting))]
        assert survey.time_ms == scene.time_ms
        assert survey.facts["sentinel2"] == f"{ {'L1C': L1C, 'L2A': L2A}[level] }/{scene.index}"
        assert LEVEL_NAMES[survey.s2_level] == level
        assert survey.grid == TileGrid.around(lon, lat, scene.epsg, 64)


def test_years_levels_and_clouds_can_be_chosen() -> None:
    chosen = SyntheticSource(0, years=(2020,), levels=("L1C",), cloud_percent=3)
    for survey in chosen.survey([place(lon, lat) for lon, lat in PLACES]):
        if isinstance(survey, Survey):
            assert str(np.datetime64(survey.time_ms, "ms")).startswith("2020")
            assert survey.s2_level == LEVEL_L1C
            assert survey.facts["cloud_percent"] < 3


def test_days_to_the_radar_scenes_are_signed_and_near() -> None:
    days = np.array([[s.s1_asc_days, s.s1_desc_days] for s in (surveyed(*p) for p in PLACES)])
    found = days[~np.isnan(days)]
    assert len(found) > len(PLACES)
    assert np.abs(found).max() < 40
    assert found.min() < 0 < found.max()


def test_places_that_cannot_be_had_are_refused_with_a_reason() -> None:
    polar, overcast = (
        source().survey([place(10.0, 85.0)])[0],
        SyntheticSource(0, cloud_percent=1e-6).survey([place(-60.2, -3.1)])[0],
    )
    assert isinstance(polar, Rejection)
    assert polar.reason == "outside_utm"
    assert isinstance(overcast, Rejection)
    assert overcast.reason == "sentinel2_missing"
    assert "1e-06 %" in overcast.detail


def test_a_tile_beyond_the_edge_of_the_data_is_refused() -> None:
    survey = surveyed(9.5, 48.2)
    west = survey.request.scene.granule.bounds[0]
    half_out = replace(survey.grid, ulx=float(west) - 320)
    with pytest.raises(TileUnavailable, match=r"sentinel2_nodata: 50\.0 % of the 10 m pixels are masked"):
        source().read(replace(survey, grid=half_out), [S2])
    a_little_out = source().read(replace(survey, grid=replace(survey.grid, size_px=128, ulx=float(west) - 10)), [S2])
    missing = a_little_out["sentinel2"] == 0
    b10 = S2.bands.index("B10")
    np.testing.assert_array_equal(missing[S2.bands.index("B2")], np.arange(128)[None].repeat(128, axis=0) < 1)
    assert missing[b10].all() == (survey.s2_level == LEVEL_L2A)


def test_a_source_and_its_surveys_travel_between_processes() -> None:
    survey = surveyed(9.5, 48.2)
    far, message = pickle.loads(pickle.dumps((source(), survey)))
    assert len(pickle.dumps((source(), survey))) < 10_000
    assert message == survey
    expected = source().read(survey, [S2])[S2.name]
    np.testing.assert_array_equal(far.read(message, [S2])[S2.name], expected)


def test_the_identity_tells_all_that_decides_the_pixels() -> None:
    identity = SyntheticSource(3, years=(2018,), levels=("L1C",), cloud_percent=5).identity()
    assert identity == {**identity, "seed": 3, "years": [2018], "levels": ["L1C"], "cloud_percent": 5.0}
    assert identity["planet"] >= 1
    assert source().synthetic


def test_what_the_planet_lacks_is_not_promised() -> None:
    lacking = replace(S2, name="landsat", asset={"L2A": "LANDSAT/LC08/C02/T1_L2"})
    odd = replace(modality("aster"), name="odd", recipe={"name": "read-tea-leaves"})
    extra = CATALOG.modalities["io_lulc"]
    stored = [m for m in CATALOG.select() if m.stored]
    assert source().modalities([*stored, lacking, odd, extra]) == (*stored, extra)
    values = source().read(surveyed(9.5, 48.2), [extra])["io_lulc"]
    assert set(np.unique(values).tolist()) <= {0, *(label.code for label in extra.classes)}


class TestEcoregions:
    """The planet's own map."""

    def test_polygons_are_valid_and_named_by_the_catalog(self) -> None:
        frame = source().ecoregions()
        assert list(frame.columns) == ["eco_region", "biome", "realm", "area_km2", "geometry"]
        assert frame.crs.to_epsg() == 4326
        assert frame.is_valid.all()
        assert frame.eco_region.is_unique
        known = {region.id: region for region in eco_regions()}
        for row in frame.itertuples():
            assert (known[row.eco_region].biome, known[row.eco_region].realm) == (row.biome, row.realm)
        assert set(frame.biome) == {label.code for label in biomes()}

    def test_they_are_kept_and_come_back_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = source().ecoregions()
        (tmp_path / "ecoregions").mkdir()
        whole = {
            file.name: file.read_bytes() for file in (Path(os.environ["MMEARTH_CACHE"]) / "ecoregions").glob("planet-*")
        }
        for name, data in whole.items():
            (tmp_path / "ecoregions" / name).write_bytes(data[:1000])
        monkeypatch.setenv("MMEARTH_CACHE", str(tmp_path))
        assert_geodataframe_equal(source().ecoregions(), made)  # a damaged file is made anew
        (file,) = (file for file in (tmp_path / "ecoregions").iterdir() if file.stat().st_size > 1000)
        assert file.read_bytes() == whole[file.name]
        monkeypatch.setattr(ecology, "_cell_geometries", None)  # making them again would fail
        assert_geodataframe_equal(source().ecoregions(), made)

    def test_they_cover_the_land_once(self) -> None:
        frame = source().ecoregions()
        parts = np.asarray(frame.geometry.array, dtype=object)
        assert shapely.area(shapely.union_all(parts)) == pytest.approx(shapely.area(parts).sum(), rel=1e-9)
        assert 115e6 < frame.area_km2.sum() < 136e6  # the Earth's land without the ice sheets: 130 million km2
        assert frame.groupby("biome").area_km2.sum().min() > 1e6

    def test_the_label_of_a_point_agrees_with_the_polygons(self) -> None:
        frame = source().ecoregions()
        rng = np.random.default_rng(4)
        lat = np.degrees(np.arcsin(rng.uniform(-0.98, 0.98, 4000)))
        lon = rng.uniform(-180, 180, 4000)
        point, polygon = shapely.STRtree(frame.geometry.array).query(shapely.points(lon, lat), predicate="within")
        biome, region = source().planet.labels(lon[point], lat[point])
        assert len(point) > 800
        np.testing.assert_array_equal(region, frame.eco_region.to_numpy()[polygon])
        np.testing.assert_array_equal(biome, frame.biome.to_numpy()[polygon])

    def test_biomes_follow_the_climate(self) -> None:
        frame = source().ecoregions().to_crs(6933)
        frame["lat"] = np.abs(frame.geometry.centroid.to_crs(4326).y)
        middle = {
            biome: float(np.average(group.lat, weights=group.area_km2)) for biome, group in frame.groupby("biome")
        }
        names = {label.name: middle[label.code] for label in biomes()}
        assert names["Tundra"] > 62
        assert 50 < names["Boreal Forests/Taiga"] < 66
        assert 35 < names["Temperate Broadleaf & Mixed Forests"] < 56
        assert names["Tropical & Subtropical Moist Broadleaf Forests"] < 20
        assert names["Mangroves"] < 27
        assert 30 < names["Mediterranean Forests, Woodlands & Scrub"] < 42

    def test_realms_lie_where_they_lie(self) -> None:
        frame = source().ecoregions()
        lon = frame.geometry.representative_point().x
        home = {"Neotropic": (-120, -28), "Afrotropic": (-30, 65), "Nearctic": (-170, -10), "Australasia": (109, 180)}
        for realm, (west, east) in home.items():
            inside = lon[frame.realm == realm].between(west, east)
            assert inside.mean() > 0.85, realm  # the rest fills in where a realm lacks a biome

    def test_another_seed_draws_another_map(self) -> None:
        assert not np.array_equal(source(1).planet.labels(*grid())[0], source().planet.labels(*grid())[0])


def grid() -> tuple[np.ndarray, np.ndarray]:
    lon, lat = np.meshgrid(np.linspace(-170, 170, 40), np.linspace(-60, 75, 30))
    return lon, lat


def test_nothing_is_said_about_the_unknown() -> None:
    survey = surveyed(9.5, 48.2)
    assert survey.values == {}
    radar = survey.request.radar
    assert math.isnan(survey.s1_asc_days) == (radar["ASCENDING"] is None)
