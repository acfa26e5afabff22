"""Ecoregions: names to published ids, labels of points, and the cache of the prepared form."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from sampling_world import world

from mmearth_data.catalog.entries import eco_regions
from mmearth_data.errors import FileInputError
from mmearth_data.geography import ecoregions as module
from mmearth_data.geography.ecoregions import label_points, make_ecoregions, prepare, read_ecoregions

NAMES = {region.name: region for region in eco_regions()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMEARTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_prepared", {})
    return tmp_path / "cache" / "ecoregions"


def write(path: Path, **columns: list[object]) -> Path:
    count = len(next(iter(columns.values())))
    boxes = [shapely.box(3 * k, 0, 3 * k + 2, 2) for k in range(count)]
    gpd.GeoDataFrame(columns, geometry=boxes, crs=4326).to_file(path)
    return path


# ------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("column", ["ECO_NAME", "eco_name", "Name"])
def test_names_are_matched_whatever_case_accents_and_dashes(tmp_path: Path, column: str) -> None:
    spelled = ["albertine rift MONTANE forests", "Alto Parana Atlantic forests", "Appenine deciduous montane forests"]
    frame = read_ecoregions(write(tmp_path / "eco.gpkg", **{column: spelled}))
    expected = ["Albertine Rift montane forests", "Alto Paraná Atlantic forests", "Appenine deciduous montane forests"]
    assert sorted(frame["eco_region"]) == sorted(NAMES[name].id for name in expected)
    biome_of = {region.id: region.biome for region in eco_regions()}
    assert frame["biome"].tolist() == [biome_of[code] for code in frame["eco_region"]]
    assert frame.attrs["unmatched"] == []
    assert len(frame.attrs["absent"]) == 846 - 3


def test_what_does_not_match_is_listed_but_rock_and_ice(tmp_path: Path) -> None:
    names = ["Cerrado", "Rock and Ice", "Mordor ash plains", "Cerado"]
    frame = read_ecoregions(write(tmp_path / "eco.gpkg", ECO_NAME=names))
    assert frame["eco_region"].tolist() == [NAMES["Cerrado"].id]
    assert frame.attrs["unmatched"] == ["Cerado", "Mordor ash plains"]


def test_published_ids_serve_as_well(tmp_path: Path) -> None:
    frame = read_ecoregions(write(tmp_path / "eco.gpkg", eco_region=[845, 3, 846]))
    assert frame["eco_region"].tolist() == [3, 845]
    assert frame.attrs["unmatched"] == ["846"]


def test_polygons_of_one_ecoregion_are_joined_and_repaired(tmp_path: Path) -> None:
    bowtie = shapely.Polygon([(10, 0), (12, 2), (12, 0), (10, 2)])
    parts = gpd.GeoDataFrame(
        {"ECO_NAME": ["Cerrado", "Cerrado", "Caatinga"]},
        geometry=[shapely.box(0, 0, 1, 1), shapely.box(0.5, 0, 2, 1), bowtie],
        crs=4326,
    )
    parts.to_file(tmp_path / "eco.geojson")
    frame = read_ecoregions(tmp_path / "eco.geojson").set_index("eco_region")
    assert frame.geometry.is_valid.all()
    assert frame.geometry[NAMES["Cerrado"].id].area == pytest.approx(2)
    assert frame.geometry[NAMES["Caatinga"].id].area == pytest.approx(2)
    plane = frame.to_crs(6933).area / 1e6
    assert frame["area_km2"].to_numpy() == pytest.approx(plane.to_numpy(), rel=1e-4)


def test_files_that_are_no_ecoregions_are_refused(tmp_path: Path) -> None:
    lacking = write(tmp_path / "lacking.gpkg", BIOME_NAME=["Tundra"], REALM=["Nearctic"])
    with pytest.raises(FileInputError, match=r"expected a column ECO_NAME .* got the columns BIOME_NAME, REALM"):
        read_ecoregions(lacking)
    with pytest.raises(FileInputError, match="got none of them"):
        read_ecoregions(write(tmp_path / "other.gpkg", ECO_NAME=["Mordor ash plains"]))
    with pytest.raises(FileInputError, match="no such file"):
        read_ecoregions(tmp_path / "absent.gpkg")


# -------------------------------------------------------------------------------------------------------- labels


def test_labels_equal_those_of_a_plain_search(cache: Path) -> None:
    rng = np.random.default_rng(1)
    polygons = [shapely.Point(*rng.uniform([-150, -60], [150, 60])).buffer(rng.uniform(2, 20)) for _ in range(12)]
    frame = world(*polygons)
    lon, lat = rng.uniform(-180, 180, 20_000), rng.uniform(-80, 84, 20_000)
    biome, eco_region = label_points(frame, lon, lat)
    inside = np.array([shapely.contains_xy(polygon, lon, lat) for polygon in frame.geometry])
    first = np.where(inside.any(axis=0), inside.argmax(axis=0), len(frame))  # the smaller id wins
    assert biome.dtype == np.uint8
    assert eco_region.dtype == np.uint16
    assert np.array_equal(eco_region, np.append(frame["eco_region"], 65535)[first])
    assert np.array_equal(biome, np.append(frame["biome"], 255)[first])
    assert 0.05 < inside.any(axis=0).mean() < 0.9


def test_labels_at_the_antimeridian_and_on_edges(cache: Path) -> None:
    frame = world(shapely.box(170, -10, 180, 10), shapely.box(-180, -10, -170, 10), shapely.box(0, 0, 1, 1))
    codes = frame["eco_region"].tolist()
    _, found = label_points(frame, [180.0, -180.0, 179.5, 0.0, 1.0, 2.0], [0.0, 0.0, 10.0, 0.5, 1.0, 0.0])
    assert found.tolist() == [codes[0], codes[1], codes[0], codes[2], codes[2], 65535]


def test_one_point_is_enough(cache: Path) -> None:
    biome, _ = label_points(world(shapely.box(0, 0, 1, 1)), 0.5, 0.5)
    assert biome.tolist() == [0]


# --------------------------------------------------------------------------------------------------------- cache


def test_prepared_form_is_kept_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = world(shapely.Point(10, 50).buffer(5))
    made = prepare(frame)
    (file,) = cache.glob("*.parquet")
    stored = gpd.read_parquet(file)
    assert stored.crs.to_epsg() == 4326
    assert stored["area_m2"].sum() / 1e6 == pytest.approx(frame["area_km2"].sum())
    monkeypatch.setattr(module, "_prepared", {})
    monkeypatch.setattr(module, "cut", None)  # cutting again would fail
    found = prepare(world(shapely.Point(10, 50).buffer(5)))
    assert np.array_equal(made.cell, found.cell)
    assert np.array_equal(made.area_m2, found.area_m2)
    assert np.array_equal(shapely.to_wkb(made.geometry), shapely.to_wkb(found.geometry))


def test_other_polygons_get_an_entry_of_their_own(cache: Path) -> None:
    prepare(world(shapely.Point(10, 50).buffer(5)))
    prepare(world(shapely.Point(10, 50).buffer(5.0001)))
    assert len(list(cache.glob("*.parquet"))) == 2


@pytest.mark.parametrize("damage", [b"", b"PAR1 nonsense PAR1", None])
def test_damaged_cache_is_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None) -> None:
    frame = world(shapely.Point(10, 50).buffer(5))
    made = prepare(frame)
    (file,) = cache.glob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    monkeypatch.setattr(module, "_prepared", {})
    again = prepare(frame)
    assert np.array_equal(made.area_m2, again.area_m2)
    assert file.read_bytes() == whole
    assert list(cache.glob(".partial*")) == []


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMEARTH_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(module, "_prepared", {})
    assert prepare(world(shapely.box(0, 0, 1, 1))).area_m2.sum() > 0


def test_make_ecoregions_orders_by_id() -> None:
    polygons = np.array([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1), shapely.box(4, 0, 5, 1)], dtype=object)
    frame = make_ecoregions(np.array([500, 3, 500]), polygons)
    assert frame["eco_region"].tolist() == [3, 500]
    assert frame.geometry[1].bounds == (0, 0, 5, 1)
    assert list(frame.columns) == ["eco_region", "biome", "realm", "area_km2", "geometry"]
