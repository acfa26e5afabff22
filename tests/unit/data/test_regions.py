"""Regions: names, codes, boxes and files, against facts about the Earth."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from mmearth_data.errors import FileInputError, InputError
from mmearth_data.geography.equal_area import areas_m2
from mmearth_data.geography.regions import largest_part, plain, read_polygons, resolve_region
from mmearth_data.resources import resource_path

FOLDER = resource_path("catalog") / "regions"
with (FOLDER / "countries.csv").open(encoding="utf-8", newline="") as _file:
    COUNTRIES = list(csv.DictReader(_file))


def holds(text: str, lon: float, lat: float, *, mainland: bool = False) -> bool:
    geometry = resolve_region(text, mainland=mainland).geometry
    return bool(shapely.contains_xy(geometry, lon, lat))


# -------------------------------------------------------------------------------------------------------- names


def test_every_spelling_of_every_country_leads_to_it() -> None:
    spellings: dict[str, str] = {}
    for row in COUNTRIES:
        for text in filter(None, [row["name"], row["alpha2"], row["alpha3"], *row["aliases"].split(";")]):
            assert spellings.setdefault(plain(text), row["name"]) == row["name"], text
            region = resolve_region(text)
            assert region.name == row["name"]
            assert region.geometry is not None
            assert region.geometry.is_valid
            assert not region.geometry.is_empty


def test_the_table_is_iso_3166() -> None:
    coded = [row for row in COUNTRIES if row["numeric"]]
    assert len(coded) == 247  # 249 in the standard; Bouvet Island and Tokelau have no polygon
    for column, length in (("alpha2", 2), ("alpha3", 3), ("numeric", 3)):
        values = [row[column] for row in coded]
        assert len(set(values)) == len(values)
        assert {len(value) for value in values} == {length}
    by_code = {row["alpha2"]: (row["alpha3"], row["numeric"]) for row in coded}
    known = {
        "FR": ("FRA", "250"),
        "NO": ("NOR", "578"),
        "DE": ("DEU", "276"),
        "ZA": ("ZAF", "710"),
        "GB": ("GBR", "826"),
    }
    assert {code: by_code[code] for code in known} == known


@pytest.mark.parametrize(
    ("text", "km2"),
    [  # land area, or area where inland waters are part of the polygons (CIA World Factbook)
        ("France", 640_427),
        ("NO", 385_207),
        ("Luxembourg", 2_586),
        ("Fiji", 18_274),
        ("Russia", 16_900_000),
        ("Brazil", 8_515_770),
        ("LSO", 30_355),
        ("Antarctica", 12_300_000),
        ("Africa", 30_065_000),
        ("South America", 17_800_000),
        ("Australia", 7_692_024),
    ],
)
def test_areas_are_those_of_the_atlas(text: str, km2: float) -> None:
    assert resolve_region(text).area_km2 == pytest.approx(km2, rel=0.03)


def test_continents_share_out_all_land() -> None:
    land = gpd.read_parquet(FOLDER / "land.parquet")
    continents = gpd.read_parquet(FOLDER / "continents.parquet")
    total = areas_m2(land.geometry.to_numpy()).sum() / 1e12
    assert total == pytest.approx(
        148.9 - 2.2, rel=0.02
    )  # all land; the coarse map lacks small islands and has lakes out
    assert areas_m2(continents.geometry.to_numpy()).sum() / 1e12 == pytest.approx(total, rel=0.005)
    tree = shapely.STRtree(continents.geometry.to_numpy())
    shared = sum(
        shapely.intersection(continents.geometry[a], continents.geometry[b]).area
        for a, b in tree.query(continents.geometry.to_numpy(), predicate="overlaps").T
        if a < b
    )
    assert shared < 1e-3


@pytest.mark.parametrize(
    ("text", "lon", "lat", "inside"),
    [
        ("Asia", 100, 60, True),
        ("Europe", 37.6, 55.7, True),
        ("Europe", 100, 60, False),
        ("Europe", -53, 4, False),  # French Guiana
        ("South America", -53, 4, True),
        ("Oceania", -155.5, 19.6, True),  # Hawaii
        ("Asia", -175, 67, True),  # Chukotka beyond the antimeridian
        ("France", -53, 4, True),
        ("GF", -53, 4, True),
        ("Svalbard", 18, 79, True),
        ("Russia", -172, 66, True),
        ("Fiji", 179.2, -16.6, True),
        ("Fiji", 0, -17, False),
        ("Antarctica", 12, -89.9, True),
        ("Antarctica", -179.9, -85, True),
    ],
)
def test_places_lie_where_they_lie(text: str, lon: float, lat: float, inside: bool) -> None:
    assert holds(text, lon, lat) is inside


@pytest.mark.parametrize("text", ["cote d'ivoire", "Côte d\u2019Ivoire", "IVORY COAST", "ci", "The  Ivory Coast"])
def test_case_accents_articles_make_no_difference(text: str) -> None:
    assert resolve_region(text).name == "Côte d'Ivoire"


def test_global_has_no_outline() -> None:
    assert resolve_region("global") == resolve_region("World")
    assert resolve_region("global").geometry is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [("Frnace", "France"), ("Luxemburg", "Luxembourg"), ("Germny", "Germany"), ("Untied Kingdom", "United Kingdom")],
)
def test_unknown_names_get_a_guess(text: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"Unknown region '{text}'; did you mean .*{meant}") as refusal:
        resolve_region(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "   ", "x" * 5000, "x" * 5000 + ".gpkg", "nul\0", ".", "/"])
def test_texts_that_name_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError) as refusal:
        resolve_region(text)
    assert "\n" not in str(refusal.value)


def test_gibberish_gets_the_ways_to_name_a_region() -> None:
    with pytest.raises(InputError, match="bbox:W,S,E,N"):
        resolve_region("qqqqzzzz")


# ----------------------------------------------------------------------------------------------------- mainland


def test_mainland_of_france_is_without_corsica_and_overseas() -> None:
    assert holds("France", 9.1, 42.2)
    assert not holds("France", 9.1, 42.2, mainland=True)
    assert not holds("France", -53, 4, mainland=True)
    assert holds("France", 2.3, 46, mainland=True)
    assert resolve_region("France", mainland=True).area_km2 == pytest.approx(543_000, rel=0.02)


def test_mainland_reaches_across_the_antimeridian() -> None:
    assert holds("Russia", -172, 66, mainland=True)
    assert holds("Russia", 37.6, 55.7, mainland=True)
    assert not holds("Russia", 143, 50, mainland=True)  # Sakhalin
    assert not holds("Russia", 20.5, 54.7, mainland=True)  # Kaliningrad
    assert holds("Antarctica", 0, -85, mainland=True)
    assert resolve_region("Fiji", mainland=True).area_km2 == pytest.approx(10_388, rel=0.06)  # Viti Levu


def test_largest_part_joins_what_was_cut_at_180() -> None:
    island = shapely.box(0, 0, 12, 10)
    cut = shapely.MultiPolygon([island, shapely.box(172, 0, 180, 10), shapely.box(-180, 0, -172, 10)])
    joined = largest_part(cut)
    assert joined.bounds == (-180, 0, 180, 10)
    assert shapely.contains_xy(joined, [175, -175, 5], [5, 5, 5]).tolist() == [True, True, False]


def test_mainland_needs_a_region() -> None:
    with pytest.raises(InputError, match="got the whole Earth"):
        resolve_region("global", mainland=True)


# -------------------------------------------------------------------------------------------------------- boxes


def test_box_across_the_antimeridian() -> None:
    region = resolve_region("bbox:170,-20,-170,0")
    assert shapely.contains_xy(region.geometry, [175, -175, 180 - 1e-9, 0], [-10] * 4).tolist() == [True] * 3 + [False]
    assert region.area_km2 == pytest.approx(resolve_region("bbox:10,-20,30,0").area_km2, rel=1e-12)


def test_boxes_that_touch_180() -> None:
    assert resolve_region("bbox:170,-10,-180,10").geometry == shapely.box(170, -10, 180, 10)
    assert resolve_region("bbox:-180,-90,180,90").area_km2 == pytest.approx(510_065_622, rel=1e-8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bbox:1,2,3", "four numbers"),
        ("bbox:1,2,3,x", "four numbers"),
        ("bbox:0,10,5,-10", "S < N"),
        ("bbox:0,5,5,5", "S < N"),
        ("bbox:-200,0,5,10", "-180..180"),
        ("bbox:0,-95,5,10", "-90..90"),
        ("bbox:nan,0,5,10", "-180..180"),
        ("bbox:7,0,7,10", "W and E to differ"),
    ],
)
def test_impossible_boxes_are_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        resolve_region(text)
    assert "\n" not in str(refusal.value)


# -------------------------------------------------------------------------------------------------------- files


def write(path: Path, *polygons: shapely.Geometry, crs: Any = 4326, **options: Any) -> Path:
    frame = gpd.GeoDataFrame({"name": [f"part {k}" for k in range(len(polygons))]}, geometry=list(polygons), crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"area{suffix}", shapely.box(5, 45, 6, 46), shapely.box(6, 45, 7, 46))
    region = resolve_region(str(path))
    assert region.name == f"area{suffix}"
    assert shapely.symmetric_difference(region.geometry, shapely.box(5, 45, 7, 46)).area < 1e-12


@pytest.mark.parametrize("epsg", [3857, 3035, 32632, 2154])
def test_other_crs_with_edges_that_bend(tmp_path: Path, epsg: int) -> None:
    """A box of 400 km in another CRS holds the points that it holds there."""
    centre = gpd.GeoSeries([shapely.Point(7, 47)], crs=4326).to_crs(epsg).iloc[0]
    box = shapely.box(centre.x - 200_000, centre.y - 200_000, centre.x + 200_000, centre.y + 200_000)
    region = resolve_region(str(write(tmp_path / "box.gpkg", box, crs=epsg)))
    rng = np.random.default_rng(0)
    points = shapely.points(centre.x + rng.uniform(-3e5, 3e5, 4000), centre.y + rng.uniform(-3e5, 3e5, 4000))
    clear = np.abs(shapely.distance(points, box.exterior)) > 50
    degrees = gpd.GeoSeries(points, crs=epsg).to_crs(4326)
    inside = shapely.contains_xy(region.geometry, degrees.x, degrees.y)
    assert (inside == shapely.contains(box, points))[clear].all()


def test_other_crs_across_the_antimeridian_and_around_the_pole(tmp_path: Path) -> None:
    box = shapely.box(400_000, 8_000_000, 1_100_000, 8_300_000)  # UTM zone 60 south, up to 4 degrees beyond 180
    fiji = resolve_region(str(write(tmp_path / "fiji.gpkg", box, crs=32760))).geometry
    assert shapely.contains_xy(fiji, [178, -179.5, 0, 100], [-16.5] * 4).tolist() == [True, True, False, False]
    assert areas_m2(np.array([fiji]))[0] == pytest.approx(7e5 * 3e5, rel=0.01)
    cap = shapely.Point(0, 0).buffer(1_500_000, quad_segs=64)  # polar stereographic, pole inside
    south = resolve_region(str(write(tmp_path / "cap.gpkg", cap, crs=3031))).geometry
    assert shapely.contains_xy(south, [0, 90, 179, -179, 0], [-89.9, -80, -85, -85, -70]).tolist() == [True] * 4 + [
        False
    ]


def test_self_intersecting_geojson_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "bowtie.geojson"
    path.write_text(
        '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": '
        "[[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}}"
    )
    geometry = resolve_region(str(path)).geometry
    assert geometry is not None
    assert geometry.is_valid
    assert geometry.area == pytest.approx(2)
    assert shapely.contains_xy(geometry, [0.2, 1.8, 1.0], [1, 1, 1.9]).tolist() == [True, True, False]


def test_heights_lines_and_points_are_set_aside(tmp_path: Path) -> None:
    flat = shapely.box(1, 1, 2, 2)
    high = shapely.force_3d(flat, 100.0)
    path = write(tmp_path / "mixed.geojson", high, shapely.Point(50, 50), shapely.LineString([(0, 0), (9, 9)]))
    geometry = resolve_region(str(path)).geometry
    assert geometry is not None
    assert not geometry.has_z
    assert shapely.equals(geometry, flat)


def test_layer_with_polygons_is_found(tmp_path: Path) -> None:
    path = tmp_path / "layers.gpkg"
    gpd.GeoDataFrame(geometry=[shapely.Point(1, 1)], crs=4326).to_file(path, layer="sites")
    gpd.GeoDataFrame(geometry=[shapely.box(1, 1, 2, 2)], crs=4326).to_file(path, layer="areas")
    assert resolve_region(str(path)).geometry == shapely.box(1, 1, 2, 2)


def test_layers_of_lines_are_passed_over(tmp_path: Path) -> None:
    """As in extracts of OpenStreetMap; a layer of mixed geometries is read only if there is no polygon layer."""
    path, area = tmp_path / "layers.gpkg", shapely.box(1, 1, 2, 2)
    gpd.GeoDataFrame(geometry=[shapely.LineString([(5, 5), (6, 6)])], crs=4326).to_file(path, layer="roads")
    gpd.GeoDataFrame(geometry=[shapely.Point(1, 1), shapely.box(7, 7, 8, 8)], crs=4326).to_file(path, layer="mixed")
    assert resolve_region(str(path)).geometry == shapely.box(7, 7, 8, 8)
    gpd.GeoDataFrame(geometry=[area], crs=4326).to_file(path, layer="areas")
    assert resolve_region(str(path)).geometry == area


def test_longitudes_up_to_360_are_understood(tmp_path: Path) -> None:
    geometry = resolve_region(str(write(tmp_path / "pacific.gpkg", shapely.box(170, -10, 200, 10)))).geometry
    assert shapely.contains_xy(geometry, [175, -165, -155], [0, 0, 0]).tolist() == [True, True, False]


def test_a_file_beside_a_country_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "france", shapely.box(0, 0, 1, 1), driver="GeoJSON")
    monkeypatch.chdir(tmp_path)
    assert resolve_region("france").geometry == shapely.box(0, 0, 1, 1)


def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gpkg", *(shapely.Point(k, 0).buffer(0.4, quad_segs=64) for k in range(50)))
    (tmp_path / "truncated.gpkg").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "empty.geojson").write_text("")
    (tmp_path / "nothing.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (tmp_path / "text.geojson").write_text("hello")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    write(tmp_path / "points.geojson", shapely.Point(1, 1))
    metres = gpd.GeoDataFrame(geometry=[shapely.box(4e5, 5e6, 5e5, 6e6)])
    metres.to_parquet(tmp_path / "metres.parquet")
    words = {
        "truncated.gpkg": "could not read it",
        "empty.geojson": "could not read it",
        "nothing.geojson": "expected polygons",
        "text.geojson": "could not read it",
        "broken.parquet": "could not read it",
        "points.geojson": "expected polygons, got 1 rows of Point",
        "metres.parquet": "declare its CRS",
        "absent.gpkg": "no such file",
    }
    for name, expected in words.items():
        with pytest.raises(FileInputError, match=expected) as refusal:
            resolve_region(str(tmp_path / name))
        assert "\n" not in str(refusal.value)
        assert name in str(refusal.value)


def test_columns_survive_reading(tmp_path: Path) -> None:
    frame = read_polygons(write(tmp_path / "two.gpkg", shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)))
    assert frame["name"].tolist() == ["part 0", "part 1"]
    assert frame.crs.to_epsg() == 4326
