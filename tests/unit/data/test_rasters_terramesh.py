"""The shipped mapping on the real TerraMesh samples: what comes out equals what rasterio reads."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.windows import Window
from rasters_world import CATALOG

from mmearth_data.catalog.tile import LEVEL_L1C, LEVEL_L2A, NO_TIME
from mmearth_data.resources import resource_path
from mmearth_data.sources.base import Survey
from mmearth_data.sources.rasters import RasterSource

MAPPING = resource_path("pipelines") / "rasters" / "terramesh_samples.yaml"
MODALITIES = tuple(CATALOG.modalities.values())
FOLDERS = {"L1C": "S2L1C", "L2A": "S2L2A"}
# Band order of the files, from the README of the data.
S2_BANDS = {
    "L1C": ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"],
    "L2A": ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"],
}
# Sentinel-1 flies north at about 18:00 local solar time and south at about 06:00.
PASSES = {"asc": (17.0, 19.5), "desc": (5.0, 7.5)}


@pytest.fixture(scope="module")
def folder(test_data: Path) -> Path:
    return test_data / "terramesh"


@pytest.fixture(autouse=True)
def _root(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMEARTH_TEST_DATA", str(test_data))


@cache
def opened(level: str | None = None) -> RasterSource:
    """Source that the tests share: opening it reads the heads of all files."""
    return RasterSource(MAPPING, level=level, catalog=CATALOG)


def surveys(source: RasterSource, size_px: int = 64) -> list[Survey]:
    answers = source.survey(source.places(size_px))
    assert all(isinstance(answer, Survey) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Survey)]


def window_of(path: Path, survey: Survey) -> np.ndarray:
    """Pixels by rasterio, the window found from the tile's centre alone."""
    with rasterio.open(path) as dataset:
        west, south, east, north = survey.grid.bounds
        row, col = dataset.index((west + east) / 2 + 1, (south + north) / 2 - 1)
        half = survey.grid.size_px // 2
        values: np.ndarray = dataset.read(window=Window(col - half, row - half, 2 * half, 2 * half))
        return values


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_every_window_of_every_layer_is_copied_bit_for_bit(folder: Path, level: str) -> None:
    source = opened(level)
    tiles = surveys(source)
    assert len(tiles) == 45
    assert {tile.facts["site"] for tile in tiles} == {path.stem for path in (folder / "DEM").iterdir()}
    for tile in tiles:
        name = f"{tile.facts['site']}.tif"
        arrays = source.read(tile, source.modalities(MODALITIES))
        assert set(arrays) == {"sentinel2", "sentinel1", "aster", "io_lulc"}
        for modality, array in arrays.items():
            entry = CATALOG.modalities[modality]
            assert array.dtype == entry.dtype
            assert array.shape == entry.array_shape(64)
        optical = window_of(folder / FOLDERS[level] / name, tile)
        bands = CATALOG.modalities["sentinel2"].bands
        for number, band in enumerate(S2_BANDS[level]):
            np.testing.assert_array_equal(arrays["sentinel2"][bands.index(band)], optical[number].astype("uint16"))
        if level == "L2A":
            assert not arrays["sentinel2"][bands.index("B10")].any()
        radar = window_of(folder / "S1RTC" / name, tile).astype("float32")
        first = 0 if np.isfinite(tile.s1_asc_days) else 4
        np.testing.assert_array_equal(arrays["sentinel1"][first : first + 2], radar)
        assert np.isnan(np.delete(arrays["sentinel1"], [first, first + 1], axis=0)).all()
        np.testing.assert_array_equal(arrays["aster"][:1], window_of(folder / "DEM" / name, tile))
        np.testing.assert_array_equal(arrays["io_lulc"], window_of(folder / "LULC" / name, tile))


def test_slope_is_that_of_the_whole_site_seamless_over_tiles(folder: Path) -> None:
    source = opened()
    for tile in surveys(source):
        with rasterio.open(folder / "DEM" / f"{tile.facts['site']}.tif") as dataset:
            along_y, along_x = np.gradient(dataset.read(1).astype(float), 10.0)
        row, col = tile.facts["row"], tile.facts["col"]
        whole = np.degrees(np.arctan(np.hypot(along_x, along_y)))
        expected = np.floor(whole + 0.5)[row : row + 64, col : col + 64]
        slope = source.read(tile, [CATALOG.modalities["aster"]])["aster"][1]
        np.testing.assert_array_equal(slope, expected)


def test_tiles_keep_the_grid_of_their_site_and_are_named_by_their_centre(folder: Path) -> None:
    source = opened()
    places = source.places(64)
    assert len({place.tile_id for place in places}) == 45
    for place, tile in zip(places, surveys(source), strict=True):
        with rasterio.open(folder / "S2L2A" / f"{tile.facts['site']}.tif") as dataset:
            assert tile.grid.epsg == dataset.crs.to_epsg()
            corner = dataset.transform @ (tile.facts["col"], tile.facts["row"])
            assert (tile.grid.ulx, tile.grid.uly) == pytest.approx(corner, abs=1e-6)
            centre = dataset.transform @ (tile.facts["col"] + 32, tile.facts["row"] + 32)
            (lon,), (lat,) = rasterio.warp.transform(dataset.crs, "EPSG:4326", [centre[0]], [centre[1]])
        assert (place.lon, place.lat) == pytest.approx((lon, lat), abs=6e-7)
        assert (round(place.lon, 6), round(place.lat, 6)) == (place.lon, place.lat)
    assert len(source.places(128)) == 5
    assert len(source.places(224)) == 5
    assert len(source.places(112)) == 20


def test_times_levels_and_passes(folder: Path) -> None:
    for level, code in (("L1C", LEVEL_L1C), ("L2A", LEVEL_L2A), (None, LEVEL_L2A)):
        for tile in surveys(opened(level)):
            assert tile.s2_level == code
            with rasterio.open(folder / "LULC" / f"{tile.facts['site']}.tif") as dataset:
                scene = np.datetime64(dataset.tags()["datetime"], "ms")
            with rasterio.open(folder / "S1RTC" / f"{tile.facts['site']}.tif") as dataset:
                radar = np.datetime64(dataset.tags()["datetime"], "ms")
            assert tile.time_ms == scene.astype(int) != NO_TIME
            days = (radar - scene) / np.timedelta64(1, "D")
            solar_hour = ((radar - radar.astype("datetime64[D]")) / np.timedelta64(1, "h") + tile.place.lon / 15) % 24
            expected = next(name for name, (low, high) in PASSES.items() if low < solar_hour < high)
            found = {"asc": tile.s1_asc_days, "desc": tile.s1_desc_days}
            assert found.pop(expected) == pytest.approx(days, abs=1e-9)
            assert np.isnan(list(found.values())).all()


def test_notes_and_content_travel_in_the_identity(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = RasterSource(MAPPING, catalog=CATALOG).identity()
    notes = " ".join(identity["notes"])
    assert "RTC" in notes
    assert "radiometric offset not harmonised" in notes
    assert identity["level"] == "L2A"
    assert str(folder.parent) not in str(identity)
    assert RasterSource(MAPPING, level="L1C", catalog=CATALOG).identity() != identity
    shutil.copytree(folder, tmp_path / "terramesh")
    monkeypatch.setenv("MMEARTH_TEST_DATA", str(tmp_path))
    assert RasterSource(MAPPING, catalog=CATALOG).identity() == identity
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    changed = bytearray((tmp_path / "terramesh" / "DEM" / "38D_378R_2_3.tif").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "terramesh" / "DEM" / "38D_378R_2_3.tif").write_bytes(changed)
    assert RasterSource(MAPPING, catalog=CATALOG).identity()["files"]["aster"] != identity["files"]["aster"]


def test_the_notes_tell_which_files_carry_the_offset(folder: Path) -> None:
    """Dark water, shadow and the cirrus band are near 0 without the offset, and never below about 970 with it."""
    for level, kind in FOLDERS.items():
        notes = opened(level).notes
        (note,) = [note for note in notes if "not harmonised" in note]
        said = note[: note.index("carry")]
        for path in (folder / kind).glob("*.tif"):
            with rasterio.open(path) as dataset:
                assert (dataset.read().min() > 950) == (path.stem in said)


def test_a_site_is_harmonised_by_an_offset_of_its_own(folder: Path, tmp_path: Path) -> None:
    mapping = yaml.safe_load(MAPPING.read_text(encoding="utf-8"))
    optical = next(layer for layer in mapping["layers"] if layer.get("level") == "L2A")
    optical["sites"] = {"433D_629L_3_1": {"offset": -1000, "clip": [1, 65535]}}
    (tmp_path / "harmonised.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    source = RasterSource(tmp_path / "harmonised.yaml", catalog=CATALOG)
    places = CATALOG.modalities["sentinel2"].band_indices(tuple(S2_BANDS["L2A"]))
    for tile in surveys(source):
        raw = window_of(folder / "S2L2A" / f"{tile.facts['site']}.tif", tile).astype(int)
        own = tile.facts["site"] == "433D_629L_3_1"
        expected = np.maximum(raw - 1000, 1) if own else raw
        np.testing.assert_array_equal(
            source.read(tile, [CATALOG.modalities["sentinel2"]])["sentinel2"][places], expected
        )


def test_threads_and_other_processes_read_the_same() -> None:
    source = opened()
    tiles, wanted = surveys(source), source.modalities(MODALITIES)
    alone = [source.read(tile, wanted) for tile in tiles]
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        for reader in (source, copy):
            for one, other in zip(alone, pool.map(lambda tile, s=reader: s.read(tile, wanted), tiles), strict=True):
                assert one.keys() == other.keys()
                for name, array in one.items():
                    np.testing.assert_array_equal(array, other[name])


def test_biome_and_ecoregion_are_those_of_the_polygon_around_the_centre(test_data: Path, tmp_path: Path) -> None:
    import geopandas
    import pandas
    from shapely import Point, make_valid

    from mmearth_data.catalog.entries import biomes, eco_regions
    from mmearth_data.geography.ecoregions import read_ecoregions

    whole = test_data / "ecoregions" / "resolve2017_simplified.gpkg"
    corners = [(place.lon, place.lat) for place in opened().places(224)]
    near = [geopandas.read_file(whole, bbox=(lon - 1, lat - 1, lon + 1, lat + 1)) for lon, lat in corners]
    polygons = pandas.concat(near).drop_duplicates("ECO_NAME", ignore_index=True)
    polygons.to_file(tmp_path / "near.gpkg")
    shapes = [make_valid(shape) for shape in polygons.geometry]
    source = RasterSource(MAPPING, catalog=CATALOG, ecoregions=read_ecoregions(tmp_path / "near.gpkg"))
    places = source.places(64)
    labelled = 0
    for place in places:
        inside = [n for n, shape in enumerate(shapes) if shape.contains(Point(place.lon, place.lat))]
        names = {polygons["ECO_NAME"][n] for n in inside}
        if place.eco_region is None:
            assert not names
            continue
        assert eco_regions()[place.eco_region].name in names
        assert {biomes()[place.biome or 0].name} == {polygons["BIOME_NAME"][n] for n in inside}
        labelled += 1
    assert labelled >= 40
    assert places[-1].biome is not None
