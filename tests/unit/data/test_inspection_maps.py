"""Maps: equal areas, correct locations, and nothing torn at 180 degrees or at a pole."""

from __future__ import annotations

import html
import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import shapely
import store_making
from hypothesis import given, settings
from hypothesis import strategies as st
from inspection_pictures import layout_problems, pixels

from mmearth_data import build, make_recipe
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.inspection.canvas import WARNING
from mmearth_data.inspection.facts import SPLIT_NAMES
from mmearth_data.inspection.maps import (
    LAND,
    SEA,
    UNLABELLED,
    Colour,
    Colouring,
    Places,
    Window,
    coloured_label,
    compose_map,
    country_shapes,
    draw_map,
    legend_entries,
    map_figure,
    places_of_store,
    sample_map,
)
from mmearth_data.inspection.projection import border_lines, choose_projection, middle_of
from mmearth_data.store import open_store

if TYPE_CHECKING:
    from pathlib import Path


BIOME = load_catalog().modalities["biome"]
AUTHALIC_M = 6_371_007.2
"""Radius of the sphere that has the area of the ellipsoid of WGS 84."""


def places(lon: list[float], lat: list[float], **changes: Any) -> Places:
    count = len(lon)
    values: dict[str, Any] = {
        "lon": np.array(lon, dtype=float),
        "lat": np.array(lat, dtype=float),
        "split": np.zeros(count, dtype=np.uint8),
        "label": Colouring.of(BIOME),
        "codes": np.arange(count) % 14,
        "title": "planet.zarr",
        "details": (f"{count} tiles",),
        "synthetic": False,
    }
    return Places(**(values | changes))


def world() -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(0)
    return rng.uniform(-180, 180, 60).tolist(), rng.uniform(-60, 75, 60).tolist()


def colour_at(sheet: np.ndarray[Any, Any], window: Window, lon: float, lat: float) -> str:
    at = window.pixels(window.projection.forward(np.array([lon]), np.array([lat])))[0]
    x, y = (round(float(value)) for value in at)
    red, green, blue = sheet[y, x]
    return f"#{red:02x}{green:02x}{blue:02x}"


# ---------------------------------------------------------------- projections


@pytest.mark.parametrize("region", ["world", "Fiji", "Antarctica", "Chile"])
def test_equal_areas_on_the_earth_are_equal_on_the_map(region: str) -> None:
    """One tenth of a degree squared, anywhere: R^2 dlon (sin lat2 - sin lat1), on the authalic sphere."""
    around = {"Fiji": (178, -18), "Antarctica": (60, -82), "Chile": (-71, -40)}.get(region)
    lon, lat = world() if around is None else ([around[0] - 3.0, around[0] + 3.0], [around[1] - 5.0, around[1] + 5.0])
    projection = choose_projection(np.array(lon), np.array(lat))
    assert projection.world is (region == "world")
    areas = []
    for west, south in zip(lon, lat, strict=True):
        box = shapely.segmentize(shapely.box(west, south, west + 0.1, south + 0.1), 0.01)
        flat = shapely.Polygon(projection.forward(*shapely.get_coordinates(box).T))
        band = _authalic_sine(south + 0.1) - _authalic_sine(south)
        areas.append(flat.area / (AUTHALIC_M**2 * np.radians(0.1) * band))
    assert np.allclose(areas, 1, atol=2e-5)


def _authalic_sine(lat: float) -> float:
    """Sine of the authalic latitude (Snyder 1987, equations 3-11 and 3-12)."""
    e = 0.0818191908426215

    def q(sine: float) -> float:
        return float((1 - e**2) * (sine / (1 - (e * sine) ** 2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e)))

    return q(float(np.sin(np.radians(lat)))) / q(1.0)


@settings(max_examples=30)
@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(0.01, 45), st.integers(0, 2**32 - 1))
def test_a_window_holds_its_points_wherever_they_are(lon_0: float, lat_0: float, reach: float, seed: int) -> None:
    """Points within a cap of any size around any place, the poles and 180 degrees included."""
    rng = np.random.default_rng(seed)
    lon, lat = _cap(lon_0, lat_0, reach, rng)
    projection = choose_projection(lon, lat)
    west, south, east, north = projection.window
    x, y = projection.forward(lon, lat).T
    assert ((west <= x) & (x <= east) & (south <= y) & (y <= north)).all()
    if not projection.world:
        west_deg, south_deg, east_deg, north_deg = projection.lonlat_bounds()
        turned = projection.lon_0 + (lon - projection.lon_0 + 180) % 360 - 180
        assert ((south_deg <= lat) & (lat <= north_deg)).all()
        assert ((west_deg <= turned) & (turned <= east_deg)).all()


def _cap(lon_0: float, lat_0: float, reach: float, rng: np.random.Generator) -> tuple[Any, Any]:
    """Points at most ``reach`` degrees from a location."""
    distance, azimuth = np.radians(rng.uniform(0, reach, 12)), rng.uniform(0, 2 * np.pi, 12)
    phi = np.radians(lat_0)
    sine = np.sin(phi) * np.cos(distance) + np.cos(phi) * np.sin(distance) * np.cos(azimuth)
    lat = np.arcsin(np.clip(sine, -1, 1))
    along = np.arctan2(np.sin(azimuth) * np.sin(distance) * np.cos(phi), np.cos(distance) - np.sin(phi) * np.sin(lat))
    return (np.degrees(np.radians(lon_0) + along) + 180) % 360 - 180, np.degrees(lat)


def test_the_middle_of_points_across_180_degrees_lies_between_them() -> None:
    lon, lat, reach = middle_of(np.array([170.0, -170.0]), np.array([0.0, 0.0]))
    assert abs(lon) == 180
    assert (lat, reach) == (0, 10)


def test_points_all_over_the_earth_make_a_world_map() -> None:
    assert choose_projection(np.array([0.0, 180.0]), np.array([0.0, 0.0])).world
    assert choose_projection(np.array([]), np.array([])).world


# ---------------------------------------------------------------- land and points


KNOWN = {  # far enough from the coast for 1:110 million
    "land": [(2.35, 47.5), (-100.0, 45.0), (25.0, 0.0), (134.0, -25.0), (100.0, 62.0), (-60.0, -10.0)],
    "sea": [(-30.0, 30.0), (-140.0, 0.0), (80.0, -30.0), (175.0, -50.0), (-30.0, -30.0)],
}


def test_land_and_sea_lie_where_they_do_on_the_world_map() -> None:
    canvas, window = compose_map(places([-179.9, 0.0, 90.0], [-65.0, 80.0, -64.0]))
    sheet = pixels(canvas.png())
    for lon, lat in KNOWN["land"]:
        assert colour_at(sheet, window, lon, lat) == LAND, (lon, lat)
    for lon, lat in KNOWN["sea"]:
        assert colour_at(sheet, window, lon + 0.7, lat + 0.7) == SEA, (lon, lat)  # off the grid's lines


def test_a_map_of_fiji_is_whole_across_180_degrees() -> None:
    canvas, window = compose_map(places([177.3, -178.4, 179.2], [-18.9, -19.1, -15.8]))
    sheet = pixels(canvas.png())
    west, _, east, _ = window.projection.window
    assert east - west < 1_000_000
    assert colour_at(sheet, window, 178.0, -17.8) == LAND  # Viti Levu
    assert colour_at(sheet, window, 180.1, -18.2) == SEA


def test_antarctica_has_no_seam_and_no_hole_at_the_pole() -> None:
    lon = np.arange(-170.0, 180.0, 30.0).tolist()
    canvas, window = compose_map(places(lon, [-72.0] * len(lon)))
    sheet = pixels(canvas.png())
    assert not window.projection.world
    for lat in (-89.9, -88.3, -86.7, -85.2):
        assert colour_at(sheet, window, 179.99, lat) == LAND
        assert colour_at(sheet, window, 17.0, lat) == LAND


def test_the_window_fills_its_place_on_the_sheet() -> None:
    canvas, window = compose_map(places([6.0, 7.0], [49.0, 50.0]))
    west, south, east, north = window.projection.window
    corners = window.pixels(np.array([[west, north], [east, south]]))
    assert np.allclose(corners, [[window.x, window.y], [window.x + window.width, window.y + window.height]])
    sheet = pixels(canvas.png())
    middle = round(window.y + window.height / 2)
    assert (sheet[middle, : round(window.x) - 3] == 255).all()
    assert (sheet[middle, round(window.x + window.width) + 3 :] == 255).all()
    assert not (sheet[middle, round(window.x) + 3 : round(window.x + window.width) - 3] == 255).all(axis=-1).any()


def test_a_point_has_its_classes_colour_at_its_place() -> None:
    lon, lat = [10.0, 11.0, 12.0], [45.0, 46.0, 47.0]
    codes = np.array([0, 11, 255])
    canvas, window = compose_map(places(lon, lat, codes=codes, split=np.array([0, 1, 2], dtype=np.uint8)))
    sheet = pixels(canvas.png())
    expected = [BIOME.classes[0].colour, BIOME.classes[11].colour, UNLABELLED]
    assert [colour_at(sheet, window, x, y) for x, y in zip(lon, lat, strict=True)] == expected


def test_splits_have_shapes_of_their_own() -> None:
    """A square fills its bounding box, a circle three quarters of it, a triangle half."""
    shares = []
    for split in (0, 1, 2):
        one = places([10.0], [45.0], codes=np.array([2]), split=np.array([split], dtype=np.uint8))
        canvas, window = compose_map(one)
        frame = pixels(canvas.png())[round(window.y) : round(window.y + window.height)]
        colour = BIOME.classes[2].colour or ""
        filled = (frame == [int(colour[k : k + 2], 16) for k in (1, 3, 5)]).all(axis=-1)
        rows, columns = np.nonzero(filled)
        shares.append(filled.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1))
    circle, triangle, square = shares
    assert triangle < 0.65 < circle < 0.85 < square


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("synthetic", [True, False])
def test_maps_are_marked_counted_and_credited(synthetic: bool) -> None:
    lon, lat = world()
    split = np.array([0] * 40 + [1] * 12 + [2] * 8, dtype=np.uint8)
    canvas, _ = compose_map(places(lon, lat, split=split, synthetic=synthetic))
    words = [line.words for line in canvas.lines]
    assert ("SYNTHETIC" in words) is synthetic
    assert ("RESOLVE" in " ".join(words)) is not synthetic
    assert {"train  40", "val  12", "test  8", "planet.zarr"} <= set(words)
    assert any("Equal Earth projection" in line for line in words)
    assert any("Natural Earth" in line for line in words)
    assert layout_problems(canvas) == []
    red = [int(WARNING[k : k + 2], 16) for k in (1, 3, 5)]
    assert bool((pixels(canvas.png()) == red).all(axis=-1).sum() > 2000) is synthetic


def test_the_legend_counts_every_point_once() -> None:
    codes = np.array([3] * 5 + [7] * 2 + [255])
    here = places([0.0] * 8, [0.0] * 8, codes=codes)
    assert [(name, count) for name, _, count in legend_entries(here)] == [
        (BIOME.classes[3].name, 5),
        (BIOME.classes[7].name, 2),
        ("not labelled", 1),
    ]


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        ([6.1, 6.3], [49.5, 50.1]),
        ([-72.0, -70.0], [-54.0, -18.0]),
        ([30.0, 179.0, -170.0], [52.0, 68.0, 66.0]),
        ([], []),
    ],
)
def test_no_text_overlaps_on_maps_of_any_shape(lon: list[float], lat: list[float]) -> None:
    canvas, _ = compose_map(places(lon, lat, title="A store with quite a long name, for a title" * 3))
    assert layout_problems(canvas) == []


def test_the_scale_bar_of_a_region_is_true() -> None:
    canvas, window = compose_map(places([6.1, 6.3], [49.5, 50.1]))
    (words,) = (line.words for line in canvas.lines if line.words.endswith(" km"))
    west, _, east, _ = window.projection.window
    expected = float(words.removesuffix(" km").replace(",", "")) * 1000 / (east - west) * window.width
    sheet = pixels(canvas.png())[round(window.y + window.height) - 27]
    dark = (sheet == [0x18, 0x18, 0x1B]).all(axis=-1)
    assert dark[int(window.x + window.width / 2) : int(window.x + window.width) - 4].sum() == pytest.approx(
        expected, abs=2
    )


# ---------------------------------------------------------------- stores, samples, files


def test_a_store_and_its_selection_are_drawn(tmp_path: Path) -> None:
    store_making.make_store(tmp_path / "made.zarr")
    store = open_store(tmp_path / "made.zarr")
    first = map_figure(store, tmp_path / "all.png").read_bytes()
    assert map_figure(store.select(split="test"), tmp_path / "test.png").read_bytes() != first
    assert map_figure(store, tmp_path / "all.png").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.png", "made.zarr", "test.png"]


def test_reserves_of_a_sample_are_counted_and_not_drawn(tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame(
        {
            "lon": [10.0, 11.0, 12.0],
            "lat": [45.0, 45.5, 46.0],
            "biome": np.array([0, 3, 5], dtype=np.uint8),
            "split": np.array([0, 1, 2], dtype=np.uint8),
            "slot": np.array([0, 1, None], dtype=object),
        },
        geometry=gpd.points_from_xy([10.0, 11.0, 12.0], [45.0, 45.5, 46.0]),
        crs=4326,
    )
    with_reserve = sample_map(frame, tmp_path / "a.png").read_bytes()
    frame.loc[2, "biome"] = np.uint8(9)
    assert map_figure(frame, tmp_path / "b.png").read_bytes() == with_reserve
    assert sample_map(frame.iloc[:2], tmp_path / "c.png").read_bytes() != with_reserve, "the reserve is counted"
    assert sample_map(frame, tmp_path / "d.png", synthetic=True).read_bytes() != with_reserve


def test_a_map_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame({"lon": [], "lat": [], "split": []})
    with pytest.raises(FileInputError, match=r"write \.png"):
        sample_map(frame, tmp_path / "map.jpg")
    with pytest.raises(FileInputError, match="existing folder"):
        map_figure(frame, tmp_path / "absent" / "map.png")
    assert list(tmp_path.iterdir()) == []


def test_labels_without_colours_do_not_colour_a_map() -> None:
    catalog = load_catalog().modalities
    assert coloured_label([catalog["sentinel2"], catalog["eco_region"]]) is None
    assert coloured_label(catalog.values()) is catalog["biome"]


def test_the_same_places_give_the_same_bytes() -> None:
    lon, lat = world()
    assert draw_map(places(lon, lat)) == draw_map(places(lon, lat))


@pytest.mark.parametrize("colour", ["split", "year", "level", "label"])
def test_a_map_is_coloured_by_what_is_asked_for(tmp_path: Path, colour: Colour) -> None:
    store_making.make_store(tmp_path / "made.zarr")
    store = open_store(tmp_path / "made.zarr")
    coords = store.coords
    known = {
        "split": Counter(SPLIT_NAMES[code] for code in coords["split"].tolist()),
        "year": Counter(str(moment)[:4] for moment in coords["time"].astype("datetime64[Y]") if not np.isnat(moment)),
        "level": Counter(
            f"Sentinel-2 {LEVEL_NAMES[code]}" for code in coords["s2_level"].tolist() if code in LEVEL_NAMES
        ),
        "label": Counter(),
    }[colour]
    entries = legend_entries(places_of_store(store, colour))
    assert {name: count for name, _, count in entries if name != "not labelled"} == known
    assert len({fill for _, fill, _ in entries}) == len(entries), "each has a colour of its own"
    if known:
        assert sum(count for *_, count in entries) == len(store)


def test_biome_is_the_biome_even_beside_labels_of_the_user(tmp_path: Path) -> None:
    """A label of the user comes first only if none is named; a store without biomes has none to show."""
    (tmp_path / "t.csv").write_text("lon,lat,crop\n8.5,47.3,wheat\n-61.5,-3.2,maize\n")
    recipe = {"source": "synthetic", "tiles_file": tmp_path / "t.csv", "labels": ["crop"], "tile_size": 16}
    both = build(make_recipe(None, {**recipe, "modalities": ["aster", "biome"]}), tmp_path / "both.zarr")
    crops = build(make_recipe(None, {**recipe, "modalities": ["aster"]}), tmp_path / "crops.zarr")
    for store in (both, crops):
        assert {name for name, *_ in legend_entries(places_of_store(store, "label"))} == {"wheat", "maize"}
    assert {name for name, *_ in legend_entries(places_of_store(both, "biome"))} == set(both.tiles["biome"])
    with pytest.raises(InputError, match="--colour biome: expected tiles with a biome"):
        places_of_store(crops, "biome")


def test_locations_have_no_scene_to_colour_by(tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame({"lon": [6.0], "lat": [49.0], "split": [0]})
    with pytest.raises(InputError, match="expected split, biome or label"):
        sample_map(frame, tmp_path / "a.png", colour="year")
    with pytest.raises(InputError, match="expected tiles with a biome"):
        sample_map(frame, tmp_path / "a.png", colour="biome")
    assert sample_map(frame, tmp_path / "a.png", colour="split").is_file()


def test_borders_are_where_they_are() -> None:
    """Where Germany, Czechia and Austria meet; and no border along 180 degrees, where the data are cut."""
    germany = choose_projection(np.array([6.0, 15.0]), np.array([47.5, 54.5]))
    lines = np.concatenate(border_lines(country_shapes(), germany))
    (corner,) = germany.forward(np.array([13.8397]), np.array([48.7716]))
    assert np.linalg.norm(lines - corner, axis=1).min() < 5000
    fiji = choose_projection(np.array([177.3, -178.4]), np.array([-18.9, -15.8]))
    lon, _ = fiji.inverse(np.concatenate(border_lines(country_shapes(), fiji)))
    assert np.abs(lon).max() < 179.9999


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_a_map_is_a_vector_picture_of_the_same_size_and_words(form: str) -> None:
    one = places([6.1, 6.3], [49.5, 50.1])
    canvas, _ = compose_map(one)
    words = [line.words for line in canvas.lines]
    drawn = draw_map(one, form)
    assert drawn == draw_map(one, form)
    if form == "pdf":
        assert drawn.startswith(b"%PDF-")
        (box,) = re.findall(rb"/MediaBox \[ 0 0 ([0-9.]+) ([0-9.]+) \]", drawn)
        assert [float(side) for side in box] == pytest.approx([canvas.width * 72 / 200, canvas.height * 72 / 200])
        return
    root = ElementTree.fromstring(drawn)
    sides = [float(root.attrib[name].removesuffix("pt")) for name in ("width", "height")]
    assert sides == pytest.approx([canvas.width * 72 / 200, canvas.height * 72 / 200])
    text = html.unescape(drawn.decode())
    missing = [each for each in words if f"<!-- {each} -->" not in text]
    assert all("km" in each or "°" in each for each in missing), "text with a halo is drawn as shapes"
    assert len(missing) < len(words) / 2
