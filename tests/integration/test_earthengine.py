"""The Earth Engine source, through the real client and HTTP, against the planet read directly.

The two sides share the planet and nothing else: scenes are found by expressions there and by plain Python here, and
pixels are brought to the tile's grid by resamplers written apart.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from append_making import write_ecoregions
from click.testing import CliRunner
from emulator_process import emulator as process

from mmearth_data import build, make_recipe, open_store
from mmearth_data.building.plan import plan_cover
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import PIXEL_M, WGS84, Place, TileGrid, tile_ids, transformer
from mmearth_data.cli import cli
from mmearth_data.emulator.assets.derived import elevation_tiles
from mmearth_data.emulator.server.faults import parse_fault
from mmearth_data.emulator.server.server import Emulator, EmulatorOptions
from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.geography.zones import zone_parts
from mmearth_data.planet.grids import Window
from mmearth_data.planet.planet import ERA5
from mmearth_data.planet.products import Era5
from mmearth_data.sampling.covering import cover
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.dated import NearDates
from mmearth_data.sources.earthengine.quota import LocalLimiter
from mmearth_data.sources.earthengine.retry import Backoff
from mmearth_data.sources.earthengine.session import SessionOptions, close_session, open_session
from mmearth_data.sources.earthengine.source import EarthEngineSource
from mmearth_data.sources.earthengine.survey import SceneRules
from mmearth_data.sources.period import Period
from mmearth_data.sources.synthetic import SyntheticSource
from mmearth_data.store.schema import StoreLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmearth_data.catalog.modality import Modality

SEED = 3
YEARS = (2017, 2018, 2019, 2020)
MODALITIES = tuple(m for m in load_catalog().select() if m.stored and (m.kind.is_raster or m.kind.is_continuous))
S1_TOLERANCE_DB, ERA5_TOLERANCE = 1e-3, 1e-5
FAULTS = ("429:0.2", "503:0.05", "hang:0.01", "truncate:0.01", "reset:0.01")


@pytest.fixture(autouse=True)
def _no_session_left() -> Iterator[None]:
    close_session()
    yield
    close_session()


def emulator(*faults: str, **options: Any) -> Emulator:
    """Server in this process, on the planet that the tests read directly."""
    return Emulator(EmulatorOptions(seed=SEED, faults=tuple(map(parse_fault, faults)), **options))


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulator() as running:
        yield running


def source(
    server: Emulator,
    names: list[str] | None = None,
    years: tuple[int, ...] = YEARS,
    rules: dict[str, Any] | None = None,
    **limits: Any,
) -> EarthEngineSource:
    catalog = load_catalog()
    chosen: dict[str, Any] = {"years": years, "levels": ("L2A", "L1C"), "cloud_percent": 10.0} | (rules or {})
    options = SessionOptions(url=server.url, connections=8, timeout_s=120, backoff=Backoff(attempts=3))
    return EarthEngineSource(
        catalog, catalog.select(names), SceneRules(seed=SEED, **chosen), options, LocalLimiter(8, **limits)
    )


def places(count: int, seed: int, size_px: int = 32) -> list[Place]:
    """Locations on land and sea, the latitudes of the southern hemisphere and beyond the polar circle included."""
    planet, rng, found = SyntheticSource(SEED).planet, np.random.default_rng(seed), list[Place]()
    while len(found) < count:
        lon = round(float(rng.uniform(-180, 180)), 6)
        lat = round(float(np.degrees(np.arcsin(rng.uniform(-0.95, 0.99)))), 6)
        if planet.labels(np.array([lon]), np.array([lat]))[0][0] >= 0:
            found.append(place_at(lon, lat, size_px))
    return found


def place_at(lon: float, lat: float, size_px: int = 32) -> Place:
    return Place(tile_id=int(tile_ids([lon], [lat], size_px)[0]), lon=lon, lat=lat, size_px=size_px)


def weather_ends() -> list[Place]:
    """Locations on a border between cells of 0.1 degree, of which one has weather and the other is sea."""
    found = []
    for place in places(200, seed=5):
        column, row = math.floor((place.lon + 180.05) * 10), math.floor((90.05 - place.lat) * 10)
        if has_weather(column, row) != has_weather(column + 1, row):
            found.append(place_at(round((column + 1) / 10 - 180.05, 6), place.lat))
    return found


def has_weather(column: int, row: int) -> bool:
    era5 = SyntheticSource(SEED).planet.products[ERA5]
    assert isinstance(era5, Era5)
    return bool(np.isfinite(era5.cube([600], Window(column, row, 1, 1))).all())


def read(
    origin: SyntheticSource | EarthEngineSource, answer: Survey | Rejection
) -> tuple[Survey, dict[str, Any]] | Rejection:
    if isinstance(answer, Rejection):
        return answer
    try:
        arrays = origin.read(answer, [m for m in MODALITIES if m.name not in answer.values])
    except TileUnavailable as refusal:
        return Rejection(place=answer.place, reason=refusal.reason, detail=refusal.detail)
    return answer, arrays | dict(answer.values)


def assert_equal(
    m: Modality, band: str, ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any], *, copied: bool
) -> None:
    """Bit for bit where pixels are copied, within one step where they are interpolated."""
    np.testing.assert_array_equal(m.observed(ours), m.observed(theirs), err_msg=f"{m.name} {band}: what is missing")
    seen = m.observed(theirs)
    native = copied and band in (m.recipe.get("parameters") or {}).get("native", ())
    if not seen.any():
        return
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))[seen].max()
    if not m.kind.is_raster:
        assert difference <= ERA5_TOLERANCE * max(1.0, float(np.abs(theirs[seen]).max())), (m.name, band)
    elif m.dtype.kind == "f":
        assert difference <= S1_TOLERANCE_DB, (m.name, band)
    else:
        assert difference <= (0 if native or m.resampling == "nearest" else 1), (m.name, band)


def assert_parity(server: Emulator, wanted: list[Place], **rules: Any) -> set[str]:
    """Compare both sources over locations; names of the cases that were met."""
    ours, theirs = source(server, rules=rules), SyntheticSource(SEED, **rules)
    met: set[str] = set()
    coast = {place.tile_id for place in weather_ends()}
    for place, mine, direct in zip(wanted, ours.survey(wanted), theirs.survey(wanted), strict=True):
        a, b = read(ours, mine), read(theirs, direct)
        if isinstance(a, Rejection) or isinstance(b, Rejection):
            assert a == b
            assert isinstance(b, Rejection)
            met.add(b.reason)
            continue
        (survey, arrays), (expected, expected_arrays) = a, b
        assert (survey.grid, survey.time_ms, survey.s2_level) == (expected.grid, expected.time_ms, expected.s2_level)
        np.testing.assert_array_equal(
            [survey.s1_asc_days, survey.s1_desc_days], [expected.s1_asc_days, expected.s1_desc_days]
        )
        for fact in ("sentinel2", "sentinel1_ascending", "sentinel1_descending", "label_date", "label_days"):
            assert survey.facts.get(fact) == expected.facts.get(fact)
        for m in MODALITIES:
            for k, band in enumerate(m.bands):
                copied = survey.grid.epsg == expected.request.scene.epsg
                assert_equal(m, band, arrays[m.name][k], expected_arrays[m.name][k], copied=copied)
        met |= cases(place, expected, expected_arrays)
        if place.tile_id in coast and np.isfinite(expected_arrays["era5"]).all():
            met.add("on ERA5's coast")
    return met


def cases(place: Place, survey: Survey, arrays: dict[str, Any]) -> set[str]:
    from mmearth_data.catalog.tile import utm_epsg

    seen = {m.name: m.observed(arrays[m.name]) for m in MODALITIES}
    found = {
        "L2A": survey.s2_level == 1,
        "L1C": survey.s2_level == 0,
        "south": place.lat < 0,
        "neighbouring zone": survey.grid.epsg != utm_epsg(place.lon, place.lat),
        "resampled scene": survey.grid.epsg != survey.request.scene.epsg,
        "missing pass": bool(np.isnan([survey.s1_asc_days, survey.s1_desc_days]).any()),
        "missing polarisation": not seen["sentinel1"].any(axis=(1, 2)).all(),
        "no MSK_CLDPRB": survey.s2_level == 1 and not seen["sentinel2_cloudprod"].any(),
        "no Dynamic World": not seen["dynamic_world"].any(),
        "ERA5 masked": not seen["era5"].any(),
        "QA60 masked": not survey.request.scene.has_cloud_mask,
        "QA60 valid": bool(seen["sentinel2_cloudmask"].all()),
        "canopy partly masked": bool(seen["canopy_height_eth"].any() and not seen["canopy_height_eth"].all()),
    }
    year = str(np.datetime64(survey.time_ms, "ms").astype("datetime64[Y]"))
    return {name for name, is_so in found.items() if is_so} | {year}


def test_tiles_equal_the_planet_read_directly(server: Emulator) -> None:
    assert {"L2A", "L1C", "south", "missing polarisation"} <= assert_parity(server, places(16, seed=1))


def test_tiles_at_the_edges_of_things_equal_the_planet(server: Emulator) -> None:
    """Where the land of the weather ends, where a UTM zone ends, and beyond the last orbit."""
    coast = weather_ends()[:6]
    zones = [place_at(6.0 + step, lat) for lat in (44.5, 46.5, 48.5) for step in (-0.02, 0.02)]
    met = assert_parity(server, [*coast, *zones, place_at(-38.5, 82.9)])
    assert met >= {"on ERA5's coast", "neighbouring zone", "sentinel2_missing"}


def test_tiles_of_a_cover_equal_the_planet(server: Emulator) -> None:
    """Where a zone ends, granules of two zones contain a cell; in the Sahel, two scenes of a year are equally clear."""
    cells = [cell for lonlat in ((12.0, 47.5), (0.167, 13.306), (-60.0, -3.0)) for cell in cells_at(*lonlat)]
    year = {
        "levels": ("L2A",),
        "cloud_percent": 100.0,
        "period": Period(first=date(2020, 1, 1), last=date(2020, 12, 31)),
    }
    met = assert_parity(server, [*cells, *cells_at(-38.5, 82.9)[:1]], **year)
    assert met >= {"L2A", "south", "resampled scene", "sentinel2_missing"}
    assert "L1C" not in met


def test_tiles_of_dates_equal_the_planet(server: Emulator) -> None:
    met = assert_parity(server, dated_places()[6:9], near=NearDates(days=40), levels=("L2A", "L1C"))
    assert "L2A" in met


@pytest.mark.parametrize(
    ("levels", "days", "clouds", "reasons"),
    [
        (("L2A", "L1C"), 12, 40.0, {"same_scene", "no_scene", "date_outside_archive"}),
        (("L1C", "L2A"), 40, 100.0, {"same_scene", "date_outside_archive"}),
        (("L2A",), 0, 101.0, {"no_scene", "date_outside_archive"}),
    ],
)
def test_scenes_of_dates_equal_the_planet(
    server: Emulator, levels: tuple[str, ...], days: int, clouds: float, reasons: set[str]
) -> None:
    """Dates of one location, some too near to each other for two scenes; dates before the archive and ahead of time."""
    one = places(1, seed=9)[0]
    near = [datetime.date(2019, 7, 1) + datetime.timedelta(days=k) for k in (0, 2, 7, 30, 34)]
    series = [dated(one, day, others=(*near[max(k - 1, 0) : k], *near[k + 1 : k + 2])) for k, day in enumerate(near)]
    beyond = [dated(one, datetime.date(year, 1, 1)) for year in (1800, 2014, 2200)]
    rules: dict[str, Any] = {"levels": levels, "cloud_percent": clouds, "near": NearDates(days=days)}
    wanted = [*dated_places(), *series[::-1], *beyond]
    ours = source(server, ["sentinel2", "sentinel1"], rules=rules)
    before, theirs = ours.account()["requests"].get("value:compute", 0), SyntheticSource(SEED, **rules).survey(wanted)
    answers = ours.survey(wanted)
    assert ours.account()["requests"]["value:compute"] - before <= 2, "all dates in one request, and one for radar"
    for mine, direct in zip(answers, theirs, strict=True):
        if isinstance(direct, Rejection):
            assert mine == direct
        else:
            assert isinstance(mine, Survey)
            assert (mine.time_ms, mine.s2_level, mine.grid) == (direct.time_ms, direct.s2_level, direct.grid)
            assert {**mine.facts, **direct.facts} == {**direct.facts, **mine.facts}
            assert mine.facts["label_days"] == direct.facts["label_days"]
    assert {answer.reason for answer in answers if isinstance(answer, Rejection)} == reasons
    assert {answer.s2_level for answer in answers if isinstance(answer, Survey)} >= {LEVELS[levels[0]]}


LEVELS = {"L1C": 0, "L2A": 1}


def dated_places() -> list[Place]:
    dates = [datetime.date(2017, 1, 1) + datetime.timedelta(days=211 * k) for k in range(12)]
    return [dated(place, day) for place, day in zip(places(12, seed=8), dates, strict=True)]


def dated(place: Place, day: datetime.date, others: tuple[datetime.date, ...] = ()) -> Place:
    """Location with a date, and the dates before and after it of the same location."""
    return replace(place, date_ms=day_ms(day), other_dates_ms=tuple(day_ms(other) for other in others))


def day_ms(day: datetime.date) -> int:
    return (day - datetime.date(1970, 1, 1)).days * 86_400_000


def cells_at(lon: float, lat: float, size_px: int = 32) -> list[Place]:
    """Cells of a cover of a hundred metres around a point."""
    around = shapely.box(lon - 0.001, lat - 0.0005, lon + 0.001, lat + 0.0005)
    found = cover(zone_parts(around), size_px, 8)
    plan = plan_cover(
        found, StoreLayout(modalities=MODALITIES, tiles=len(found), size_px=size_px, tiles_per_shard=len(found)), None
    )
    return [slot.place for slot in plan.shard(0).slots]


def test_there_is_nothing_beyond_the_edge_of_an_asset(server: Emulator) -> None:
    """Squares of one degree of the Copernicus elevation exist where there is land; a zero beyond them would be wrong."""
    extra, m = source(server, ["copernicus_dem"]), load_catalog().modalities["copernicus_dem"]
    answer = next(answer for answer in extra.survey(elevation_ends()) if isinstance(answer, Survey))
    elevation = extra.read(answer, [m])["copernicus_dem"][0]
    east, pixel = tile_positions(answer.grid)[0] - answer.place.lon, 1 / 3600
    assert (east > pixel).any()
    assert np.isnan(elevation[east > pixel]).all()
    assert np.isfinite(elevation[east < -pixel]).all()


def test_a_map_that_ends_at_a_latitude_has_no_water_beyond(server: Emulator) -> None:
    """The surface water ends at 80 degrees north: the sea continues, the map must not."""
    extra, m = source(server, ["jrc_water"]), load_catalog().modalities["jrc_water"]
    below = above = 0
    for answer in extra.survey([place_at(float(lon), 80.0) for lon in range(14, 26, 2)]):
        if isinstance(answer, Survey):
            observed = m.observed(extra.read(answer, [m])["jrc_water"][0])
            lat = tile_positions(answer.grid)[1]
            above += int(observed[lat > 80].sum())
            below += int(observed[lat < 80].sum())
    assert above == 0
    assert below > 0


def tile_positions(grid: TileGrid) -> tuple[Any, Any]:
    """(longitude, latitude) of a tile's pixels."""
    offset = PIXEL_M * np.arange(grid.size_px) + PIXEL_M / 2
    return transformer(grid.epsg, WGS84).transform(*np.meshgrid(grid.ulx + offset, grid.uly - offset))


def elevation_ends() -> list[Place]:
    """Locations on the eastern edge of a square with land, beside one that is all sea."""
    views = SyntheticSource(SEED).planet.views

    def exists(lon: float, lat: float) -> bool:
        return any(elevation_tiles(views, shapely.Point(lon, lat)))

    corners = {(math.floor(place.lon) + 0.5, math.floor(place.lat) + 0.5) for place in places(300, seed=6)}
    return [place_at(lon + 0.5, lat) for lon, lat in sorted(corners) if exists(lon, lat) and not exists(lon + 1, lat)]


def test_tiles_of_the_years_without_a_cloud_band_equal_the_planet(server: Emulator) -> None:
    met = assert_parity(server, places(8, seed=2), years=(2022, 2023))
    assert "QA60 masked" in met


def test_a_cloud_band_that_is_masked_is_missing_in_the_tile(server: Emulator) -> None:
    """From February 2022 to February 2024 QA60 exists but is fully masked: it is nodata in the tile, valid bit 0."""
    origin, m = source(server, ["sentinel2", "sentinel2_cloudmask"], years=(2022, 2023)), load_catalog().modalities
    band, clouds = m["sentinel2"], m["sentinel2_cloudmask"]
    read = 0
    for answer in origin.survey(places(10, seed=4)):
        scene = None if isinstance(answer, Rejection) else answer.request
        if scene is None or answer.time_ms < 1_643_700_000_000:  # type: ignore[union-attr]
            continue
        assert "QA60" in scene.bands, "it is asked for, like any band that is there"
        try:
            arrays = origin.read(answer, [band, clouds])  # type: ignore[arg-type]
        except TileUnavailable:
            continue
        read += 1
        assert (arrays["sentinel2_cloudmask"] == clouds.nodata).all()
        assert band.observed(arrays["sentinel2"]).any()
    assert read >= 3


@pytest.mark.slow
def test_many_tiles_equal_the_planet_read_directly(server: Emulator) -> None:
    """A thousand locations with scenes from all years of the archive."""
    years = tuple(range(2017, 2026))
    met = assert_parity(server, [*places(1000, seed=11), place_at(-38.5, 82.9)], years=years)
    assert met >= {"L2A", "L1C", "south", "neighbouring zone", "missing pass", "missing polarisation", "no MSK_CLDPRB"}
    assert met >= {"no Dynamic World", "sentinel2_missing", "QA60 masked", "QA60 valid"}
    assert met >= {str(year) for year in years}


def test_entries_on_request_need_no_code(server: Emulator) -> None:
    names = ["copernicus_dem", "jrc_water", "landsat8"]
    extra = source(server, names)
    wanted = load_catalog().select(names)
    read_any = set()
    for answer in extra.survey(places(6, seed=1)):
        if isinstance(answer, Rejection):
            continue
        arrays = extra.read(answer, wanted)
        assert arrays["landsat8"].dtype == np.uint16
        elevation = arrays["copernicus_dem"]
        assert np.isfinite(elevation).all() or not np.isfinite(elevation).any(), "there is none on the open sea"
        assert np.all((elevation > -500) & (elevation < 9000) | np.isnan(elevation))
        water = arrays["jrc_water"]
        assert np.all((water <= 100) | (water == 255))
        read_any |= {m.name for m in wanted if m.observed(arrays[m.name]).any()}
    assert {"copernicus_dem", "landsat8"} <= read_any


def test_ecoregions_come_in_pages(server: Emulator) -> None:
    origin = source(server)
    found, true = origin.ecoregions(), SyntheticSource(SEED).ecoregions()
    assert found["eco_region"].tolist() == sorted(true["eco_region"])
    areas = true.set_index("eco_region")["area_km2"].reindex(found["eco_region"]).to_numpy()
    large = areas > 1e4
    np.testing.assert_allclose(found["area_km2"].to_numpy()[large], areas[large], rtol=0.01)
    asked = origin.account()["requests"]
    assert asked["value:compute"] == 1
    assert asked["table:computeFeatures"] >= len(found) / 50


def test_one_session_a_process(server: Emulator) -> None:
    first = open_session(SessionOptions(url=server.url))
    assert open_session(SessionOptions(url=server.url, connections=3)) is first
    with pytest.raises(InputError, match="process for each"):
        open_session(SessionOptions(url="http://127.0.0.1:9"))


def test_a_server_that_is_not_there_is_named_at_once() -> None:
    options = SessionOptions(url="http://127.0.0.1:9", backoff=Backoff(attempts=2, first_s=0.01))
    with pytest.raises(Exception, match="did not answer in 2 attempts"):
        open_session(options)


# ---------------------------------------------------------------- whole builds


@pytest.fixture(scope="module", autouse=True)
def _ecoregions(tmp_path_factory: pytest.TempPathFactory) -> None:
    """File of ecoregions, so that not every build fetches them."""
    ECOREGIONS[:] = [write_ecoregions(tmp_path_factory.mktemp("ecoregions") / "e.parquet")]


ECOREGIONS: list[Path] = []
TILES = 16


def recipe(server: Emulator, tiles: int = TILES, **fields: Any) -> Any:
    given = {
        "ecoregions": ECOREGIONS[0],
        "source": "earthengine",
        "ee_url": server.url,
        "seed": SEED,
        "tile_size": 32,
        "tiles": tiles,
    }
    limits = {"in_flight": 8, "tiles_per_shard": 8, "region": "bbox:4,43,16,50", "balance": "area"}
    return make_recipe(None, given | limits | fields)


def digests(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and "_ledger" not in path.parts
    }


@pytest.fixture(scope="module")
def smooth(server: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store built without any trouble."""
    out = tmp_path_factory.mktemp("smooth") / "s.zarr"
    close_session()
    build(recipe(server), out)
    return out


def test_a_store_from_an_emulator_is_marked_synthetic_and_keeps_its_ledger(smooth: Path) -> None:
    store = open_store(smooth)
    assert store.synthetic
    assert store.source["name"] == "earthengine"
    assert len(store) == TILES
    shown = json.loads(CliRunner().invoke(cli, ["inspect", str(smooth), "--json"]).stdout)["ledger"]
    assert shown["requests"]["image:computePixels"] >= TILES
    assert shown["received_bytes"] > TILES * 32 * 32 * 26
    assert "computePixels" in CliRunner().invoke(cli, ["inspect", str(smooth)]).stdout


def test_trouble_changes_no_pixel(smooth: Path, tmp_path: Path) -> None:
    with emulator(*FAULTS) as troubled:
        out = tmp_path / "t.zarr"
        build(recipe(troubled, request_timeout_s=3), out)
        assert troubled.ledger.report()["status"].get("429", 0) > 0
    assert digests(out) == digests(smooth)
    ids = open_store(out).tiles["tile_id"]
    assert ids.is_unique


def test_a_permanent_refusal_rejects_that_candidate_only(tmp_path: Path) -> None:
    with emulator("400:0.1") as refusing:
        out = tmp_path / "r.zarr"
        build(recipe(refusing), out)
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    refused = [row for row in rejected if row["reason"] == "earthengine_refused"]
    assert 0 < len(refused) < 8
    assert all(row["detail"].startswith("HTTP 400: ") for row in refused)
    assert len(open_store(out)) >= 12


def test_refused_credentials_stop_the_build_and_it_resumes(smooth: Path, server: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    with emulator("401:0.04") as expiring, pytest.raises(InputError, match="sign in again"):
        build(recipe(expiring, in_flight=1), out)
    close_session()
    build(recipe(server), out)
    assert digests(out) == digests(smooth)


def test_limits_are_kept_as_the_server_counts_them(tmp_path: Path) -> None:
    """In a process of its own: in this one, the build itself could hold up its requests, which would then arrive together."""
    with process("--latency-ms", 30, seed=SEED) as counting:
        build(
            recipe(counting, 32, tile_size=16, in_flight=5, per_second=20, modalities=["sentinel2"]),
            tmp_path / "l.zarr",
        )
        seen = counting.ledger()
    assert seen["max_in_flight"] <= 5
    assert seen["max_per_second"] <= 20
    assert seen["requests"]["algorithms"] == 1
    assert seen["requests"]["discovery"] <= 4


def test_restricted_mode_is_obeyed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with emulator("restricted:1") as restricted:
        build(recipe(restricted, 4, modalities=["sentinel2_cloudmask"]), tmp_path / "l.zarr")
        assert restricted.ledger.report()["max_in_flight"] <= 1 + 1
    assert "restricted mode" in caplog.text


@pytest.mark.slow
def test_two_hundred_tiles_take_few_requests_and_survive_trouble(server: Emulator, tmp_path: Path) -> None:
    before = server.ledger.report()["requests"]
    build(recipe(server, 200, tiles_per_shard=64), tmp_path / "s.zarr")
    after = server.ledger.report()["requests"]
    asked = sum(after.get(kind, 0) - before.get(kind, 0) for kind in ("value:compute", "image:computePixels"))
    delivered = len(open_store(tmp_path / "s.zarr"))
    assert delivered == 200
    assert asked / delivered <= 1.1
    close_session()
    with emulator(*FAULTS) as troubled:
        build(recipe(troubled, 200, tiles_per_shard=64, request_timeout_s=3), tmp_path / "t.zarr")
    assert digests(tmp_path / "t.zarr") == digests(tmp_path / "s.zarr")


LISTENING = """
import sys

def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        sys.stderr.write(f"asked the network: {args[-1]}\\n")

sys.addaudithook(hook)
"""


def test_without_credentials_there_is_one_clear_message_and_nothing_is_asked(tmp_path: Path) -> None:
    """To ask Google's metadata server for an account takes 9 seconds where there is none."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("GOOGLE_", "EARTHENGINE_", "CLOUDSDK_"))}
    (tmp_path / "sitecustomize.py").write_text(LISTENING)
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    program = Path(sys.executable).with_name("mmearth-data")
    done = subprocess.run(
        [program, "build", "--region", "global"],
        env=keep | {"HOME": str(tmp_path), "MMEARTH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "asked the network" not in done.stderr
    for way in ("earthengine authenticate", "application-default", "--service-account", "--source synthetic"):
        assert way in done.stderr
    assert not list(tmp_path.glob("*.zarr"))


def test_the_example_of_the_catalog_readme_runs_with_the_commands_beside_it(
    server: Emulator, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "catalog" / "README.md").read_text(encoding="utf-8")
    ((commands, entry),) = re.findall(r"```text\n(.*?)```\s*```yaml\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("FOLDER").mkdir()
    Path("FOLDER", "mine.yaml").write_text(entry, encoding="utf-8")
    small = [
        "--ee-url",
        server.url,
        "--ecoregions",
        str(write_ecoregions(tmp_path / "eco.parquet")),
        "--tile-size",
        "16",
    ]
    for program, command, *words in map(str.split, commands.splitlines()):
        assert program == "mmearth-data"
        done = CliRunner().invoke(cli, [command, *words, *(small if command == "build" else [])])
        assert done.exit_code == 0, done.output
    store = open_store("two.zarr")
    assert np.isfinite(store.read("glo30", slice(0, 2))).all()


def test_a_build_is_measured_before_it_is_begun(server: Emulator, tmp_path: Path) -> None:
    command = [
        "build",
        "--ee-url",
        server.url,
        "--ecoregions",
        str(ECOREGIONS[0]),
        "--tiles",
        "5000",
        "--tile-size",
        "16",
    ]
    command += [
        "--modalities",
        "sentinel2,esa_worldcover",
        "--profile",
        "3",
        "--json",
    ]
    found = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert found["places"] == 3 == found["tiles"] + found["rejected"]
    kinds = found["requests"]
    assert kinds["value:compute"]["requests"] == 1
    assert found["tiles"] <= kinds["image:computePixels"]["requests"] <= 3
    took = sum(kind["eecu_seconds"] for kind in kinds.values())
    assert 0 < took < sum(kind["seconds"] for kind in kinds.values()), "processor seconds of the emulator"
    assert found["eecu_per_tile"] == pytest.approx(took / found["tiles"])
    needs = found["recipe"]
    assert needs["tiles"] == needs["estimate"]["requests"]["image:computePixels"] == 5000
    assert needs["estimate"]["eecu_hours"] == pytest.approx(5000 * found["eecu_per_tile"] / 3600, abs=1e-4)
    pixels = kinds["image:computePixels"]
    assert needs["estimate"]["hours"] == pytest.approx(
        max(5250 / 100, 5250 * pixels["seconds"] / pixels["requests"] / 40) / 3600, abs=1e-4
    )
    assert not (tmp_path / "s.zarr").exists()
