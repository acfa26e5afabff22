"""Areas of map classes: the published example, coverage of the intervals, samples of a map, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from map_making import NODATA, UTM, confused, write_map
from map_world import make_network, numbers, write_scene
from pyproj import Geod, Transformer
from rich.console import Console

from mmearth_data import InputError
from mmearth_model import save_network
from mmearth_model.cli import cli
from mmearth_model.maps.areas import report_areas, write_areas
from mmearth_model.maps.class_map import ClassMap
from mmearth_model.maps.drawing import allocate, draw_validation, validation_files, write_validation
from mmearth_model.maps.estimators import estimate
from mmearth_model.maps.ground_area import row_areas_m2
from mmearth_model.maps.polygons import write_polygons
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = {0: "water", 1: "forest", 2: "grass", 3: "bare"}


# ---------------------------------------------------------------- estimators


def test_the_example_of_the_paper() -> None:
    # Olofsson et al. (2014), table 8 and section 5: 30 m pixels; deforestation, forest gain, stable forest and non-forest.
    matrix = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    found = estimate(matrix, np.array([200_000, 150_000, 3_200_000, 6_450_000.0]))
    hectares = 0.09
    assert found.area[0] == pytest.approx(235_086, abs=1)
    assert 1.96 * found.area_se[0] == pytest.approx(68_418, abs=1)
    assert found.area * hectares == pytest.approx([21_158, 11_686, 285_770, 581_386], abs=1)
    assert 1.96 * found.area_se * hectares == pytest.approx([6_158, 3_756, 15_510, 16_282], abs=1)
    assert found.users == pytest.approx([0.88, 0.73, 0.93, 0.96], abs=0.005)
    assert 1.96 * found.users_se == pytest.approx([0.07, 0.10, 0.04, 0.02], abs=0.005)
    assert found.producers[:1] == pytest.approx([0.75], abs=0.005)
    assert 1.96 * found.producers_se[:1] == pytest.approx([0.21], abs=0.005)
    assert (found.overall, 1.96 * found.overall_se) == pytest.approx((0.95, 0.02), abs=0.005)


def test_estimates_are_unbiased_and_their_errors_are_those_of_repeated_samples() -> None:
    random = np.random.default_rng(0)
    joint = np.array([[0.20, 0.03, 0.02], [0.05, 0.30, 0.05], [0.02, 0.03, 0.30]])  # truth by map
    mapped, shares = joint.sum(axis=0), (joint / joint.sum(axis=0)).T
    draws = [np.stack([random.multinomial(60, row) for row in shares]) for _ in range(4000)]
    found = [estimate(draw, mapped) for draw in draws]
    for name in ("area", "producers", "users", "overall"):
        values = np.array([getattr(one, name) for one in found])
        errors = np.array([getattr(one, f"{name}_se") for one in found])
        assert values.std(axis=0) == pytest.approx(np.sqrt((errors**2).mean(axis=0)), rel=0.05), name
    assert np.mean([one.area for one in found], axis=0) == pytest.approx(joint.sum(axis=1), abs=0.002)


def test_intervals_cover_the_area_where_few_errors_decide() -> None:
    # One per cent of a class of 60 % is of the class that is mapped on 2 %: usually no point of 50 shows it.
    joint = np.array([[0.594, 0.010, 0.002], [0.0, 0.36, 0.001], [0.006, 0.01, 0.017]])
    random = np.random.default_rng(1)
    mapped, shares = joint.sum(axis=0), (joint / joint.sum(axis=0)).T
    found = [estimate(np.stack([random.multinomial(50, row) for row in shares]), mapped) for _ in range(2000)]
    truth = joint.sum(axis=1)
    covered = np.mean([(one.area_low <= truth) & (truth <= one.area_high) for one in found], axis=0)
    plain = np.mean([np.abs(one.area - truth) <= 1.96 * one.area_se for one in found], axis=0)
    assert plain[2] < 0.85
    assert ((covered > 0.92) & (covered < 0.98)).all(), covered


def test_a_class_that_was_sampled_completely_is_certain() -> None:
    found = estimate(np.array([[1, 0], [0, 50]]), np.array([1.0, 999.0]), np.array([True, False]))
    assert found.area_low[0] == found.area[0] == 1
    with pytest.raises(ValueError, match="two points"):
        estimate(np.array([[1, 0], [0, 50]]), np.array([1.0, 999.0]))


# ---------------------------------------------------------------- areas of pixels


def test_pixels_of_a_geographic_map_have_the_area_of_the_ellipsoid(tmp_path: Path) -> None:
    # A band of latitude around the Earth: 2 pi b^2 / 2 (sin / (1 - e^2 sin^2) + atanh(e sin) / e), Snyder (1987), 3-12.
    grid = {"crs": "EPSG:4326", "transform": rasterio.Affine(10, 0, -180, 0, -10, 90)}
    path = write_map(tmp_path / "globe.tif", np.ones((18, 36), np.uint8), **grid)
    areas = row_areas_m2(ClassMap.open(path)) * 36
    a, f = 6_378_137.0, 1 / 298.257223563
    e = np.sqrt(f * (2 - f))
    sine = np.sin(np.radians(90.0 - 10 * np.arange(19)))
    above = sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e
    assert areas == pytest.approx(-np.diff(np.pi * (a * (1 - f)) ** 2 * above), rel=1e-9)
    assert areas.sum() == pytest.approx(510_065_621_724_089, rel=1e-9)


def test_a_projection_that_distorts_areas_is_refused(tmp_path: Path) -> None:
    path = write_map(tmp_path / "web.tif", np.ones((8, 8), np.uint8), crs="EPSG:3857", transform=rasterio.Affine(10, 0, 1e6, 0, -10, 8e6))  # fmt: skip
    with pytest.raises(InputError, match=r"3\.\d+ times too large; warp it to UTM"):
        report_areas(path)


# ---------------------------------------------------------------- a sample of a map


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """A map with a strip without classes, and the truth of the rest."""
    truth, seen = confused(160, len(NAMES), 0.5)
    seen[:20] = NODATA
    return write_map(tmp_path_factory.mktemp("world") / "map.tif", seen, NAMES), truth


def label(path: Path, truth: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Points of a validation file, labelled."""
    with path.open(newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    for row in rows:
        column, line = (float(row["x"]) - 500_000) // 10, (5_000_000 - float(row["y"])) // 10
        row["reference"] = NAMES[int(truth[int(line), int(column)])]
    return rows


def write_points(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write labelled points as CSV."""
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture(scope="module")
def labelled(world: tuple[Path, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    path, truth = world
    files = validation_files(path)
    write_validation(draw_validation(path, 200, seed=1), files)
    return label(files[1], truth)


def test_a_drawn_sample_is_of_the_map(world: tuple[Path, Any]) -> None:
    path, _ = world
    drawn, again = draw_validation(path, 400, seed=5), draw_validation(path, 400, seed=5)
    frame = geopandas.GeoDataFrame(drawn.columns)
    assert frame.equals(geopandas.GeoDataFrame(again.columns))
    with rasterio.open(path) as dataset:
        at = [int(code[0]) for code in dataset.sample(zip(frame.x, frame.y, strict=True))]
        codes = dataset.read(1)
    assert frame.stratum.tolist() == at
    assert not frame.duplicated(["x", "y"]).any()
    assert frame.stratum.value_counts().min() >= 50
    assert len(frame) == 400
    assert frame.groupby("stratum").weight_m2.sum().to_dict() == pytest.approx(
        {k: 100 * (codes == k).sum() for k in NAMES}
    )
    assert (np.diff(frame.stratum) != 0).mean() > 0.5  # in random order, which hides the mapped class


def test_every_pixel_of_a_class_is_as_likely(tmp_path: Path) -> None:
    codes = np.zeros((4, 6), np.uint8)
    codes[1:3, 1:4] = 1
    path = write_map(tmp_path / "small.tif", codes)
    hits = np.zeros((4, 6))
    for seed in range(100):
        columns = draw_validation(path, 6, seed=seed).columns
        rows = ((5_000_000 - columns["y"]) // 10).astype(int)
        np.add.at(hits, (rows, ((columns["x"] - 500_000) // 10).astype(int)), 1)
    assert hits[codes == 1].mean() == pytest.approx(100 * 3 / 6)
    assert np.abs(hits[codes == 1] - 50).max() < 4 * np.sqrt(50 / 2)
    assert np.abs(hits[codes == 0] - 100 / 6).max() < 4 * np.sqrt(100 / 6)


@pytest.mark.parametrize(
    ("pixels", "count", "points"),
    [((1000, 1000), 100, (50, 50)), ((3, 10_000), 100, (3, 97)), ((900, 100), 20, (10, 10)), ((5, 4), 50, (5, 4))],
)
def test_points_of_each_class(pixels: tuple[int, ...], count: int, points: tuple[int, ...]) -> None:
    assert allocate(np.array(pixels), np.array(pixels, float), count).tolist() == list(points)


def test_too_few_points_to_draw(world: tuple[Path, Any]) -> None:
    with pytest.raises(InputError, match="expected at least 8 points, two for each of the 4 mapped classes, got 7"):
        draw_validation(world[0], 7)


def test_labels_are_never_overwritten(world: tuple[Path, Any], labelled: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="may contain labels; move it"):
        write_validation(draw_validation(world[0], 200), validation_files(world[0]))


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_points(path.with_suffix(".csv"), rows)


def as_geojson(path: Path, rows: list[dict[str, Any]]) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [float(row["lon"]), float(row["lat"])]},
            "properties": {name: value for name, value in row.items() if name not in {"lon", "lat"}},
        }
        for row in rows
    ]
    path.with_suffix(".geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path.with_suffix(".geojson")


def as_geoparquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As QGIS writes it: geometries in the CRS of the project, and codes instead of names."""
    frame = geopandas.GeoDataFrame(rows).drop(columns=["lon", "lat"])
    frame["reference"] = frame.reference.map({name: code for code, name in NAMES.items()})
    points = geopandas.points_from_xy(frame.x.astype(float), frame.y.astype(float), crs="EPSG:32632")
    frame.set_geometry(points).to_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("form", [as_csv, as_geojson, as_geoparquet])
def test_every_form_of_a_validation_gives_the_same_areas(
    form: Callable[[Path, list[dict[str, Any]]], Path],
    world: tuple[Path, np.ndarray[Any, Any]],
    labelled: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    path, truth = world
    found = report_areas(path, form(tmp_path / "points", labelled))
    assert found.refused is None
    assert found.estimates is not None
    assert found.matrix is not None
    assert found.matrix.sum(axis=1).tolist() == [50] * 4
    assert found.estimates.area.sum() == pytest.approx(found.mapped_ha.sum())
    real = np.bincount(truth[20:].ravel(), minlength=4) / 100
    assert np.abs(found.estimates.area - real).max() < 4 * found.estimates.area_se.max()


def test_the_report_in_each_form(world: tuple[Path, Any], labelled: list[dict[str, Any]], tmp_path: Path) -> None:
    path, _ = world
    found = report_areas(path, write_points(tmp_path / "points.csv", labelled))
    for name in ("r.csv", "r.json", "r.md"):
        write_areas(found, tmp_path / name)
    with (tmp_path / "r.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    content = json.loads((tmp_path / "r.json").read_text())
    assert [row["name"] for row in rows] == list(NAMES.values()) == [row["name"] for row in content["classes"]]
    for row, other in zip(rows, content["classes"], strict=True):
        assert float(row["area_low_ha"]) < float(row["area_ha"]) == other["area_ha"] < float(row["area_high_ha"])
    assert content["intervals_refused"] is None
    assert np.array(content["error_matrix"]).sum() == 200
    assert "| water |" in (tmp_path / "r.md").read_text()
    console = Console(width=100)
    with console.capture() as capture:
        console.print(found)
    assert "Overall accuracy" in capture.get()
    with pytest.raises(InputError, match=r"--report: expected a file name ending in \.csv, \.json, \.md, got 'r\.txt'"):
        write_areas(found, tmp_path / "r.txt")


def test_without_points_areas_are_marked_biased(world: tuple[Path, Any], tmp_path: Path) -> None:
    found = report_areas(world[0])
    write_areas(found, tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert found.mapped_ha.sum() == 140 * 160 / 100
    assert all(row["mapped_is_biased"] and row["area_ha"] is None for row in content["classes"])
    assert "biased" in content["notes"][0]
    assert "--draw-validation" in content["intervals_refused"]


Rows = list[dict[str, Any]]


def without(name: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{key: value for key, value in row.items() if key != name} for row in rows]


def changed(first: int, **values: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row | (values if n < first else {}) for n, row in enumerate(rows)]


REFUSED: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "unlabelled": (changed(3, reference=""), "3 of 200 points have no reference class"),
    "no design": (without("design"), "does not say how its points were selected"),
    "chosen by hand": (changed(200, design="purposive"), "does not say how its points were selected"),
    "another map": (changed(200, map_digest="0" * 32), "were not selected from this map"),
    "no map": (without("map_digest"), "map_digest is missing"),
    "mixed maps": (changed(5, map_digest="0" * 32), "missing or mixed"),
    "outside": (changed(2, lon="20.0"), "2 of 200 points are outside the mapped area"),
    "no class there": (changed(1, lat="45.1530"), "1 of 200 points are outside the mapped area"),
    "other strata": (changed(200, stratum="1"), "points have a stratum that is not their class"),
    "no strata": (without("stratum"), "200 of 200 points have a stratum that is not their class"),
    "left out": (lambda rows: rows[7:], "restore the missing ones"),
    "copied": (lambda rows: [*rows[:-1], rows[0]], "occur twice"),
    "one point of a class": (
        lambda rows: without("stratum_points")([r for n, r in enumerate(rows) if r["stratum"] != "3" or r is first(rows)]),
        "fewer of bare",
    ),
}  # fmt: skip


def first(rows: Rows) -> dict[str, Any]:
    return next(row for row in rows if row["stratum"] == "3")


@pytest.mark.parametrize("case", REFUSED)
def test_intervals_are_refused_where_points_are_no_probability_sample(
    case: str, world: tuple[Path, Any], labelled: Rows, tmp_path: Path
) -> None:
    spoil, reason = REFUSED[case]
    found = report_areas(world[0], write_points(tmp_path / "points.csv", spoil(labelled)))
    assert found.refused is not None
    assert reason in found.refused
    assert found.estimates is None
    assert all(row["area_ha"] is None and row["mapped_ha"] > 0 for row in found.rows())


def test_a_simple_random_sample_is_post_stratified(world: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    path, truth = world
    random = np.random.default_rng(0)
    columns, lines = random.integers(0, 160, 300), random.integers(20, 160, 300)
    lon, lat = ClassMap.open(path).lonlat(columns + 0.5, lines + 0.5)
    rows = [
        {"lon": x, "lat": y, "reference": int(truth[line, column]), "design": "simple-random"}
        for x, y, line, column in zip(lon, lat, lines, columns, strict=True)
    ]
    found = report_areas(path, write_points(tmp_path / "points.csv", rows))
    assert found.refused is None
    assert found.estimates is not None
    real = np.bincount(truth[20:].ravel(), minlength=4) / 100
    assert ((found.estimates.area_low <= real) & (real <= found.estimates.area_high)).sum() >= 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(1, reference="forrest"), r"points\.csv:2.*got 'forrest'; did you mean forest\?"),
        (changed(1, reference="9"), "got '9'"),
        (without("reference"), "lacks reference"),
        (changed(1, lon="east"), "expected a number in column lon, got 'east'"),
    ],
    ids=["unknown class", "unknown code", "no labels", "no number"],
)
def test_a_validation_that_cannot_be_read(
    spoil: Callable[[Rows], Rows], message: str, world: tuple[Path, Any], labelled: Rows, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        report_areas(world[0], write_points(tmp_path / "points.csv", spoil(labelled)))


@pytest.mark.parametrize("text", ["", "{}", '{"features": [1]}', '{"features": [{"geometry": null}]}'])
def test_a_geojson_that_is_none(text: str, world: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "p.geojson").write_text(text)
    with pytest.raises(InputError, match="expected GeoJSON with a FeatureCollection of points"):
        report_areas(world[0], tmp_path / "p.geojson")


# ---------------------------------------------------------------- files that are no class map


def rotated() -> dict[str, Any]:
    return {"transform": UTM["transform"] @ rasterio.Affine.rotation(30)}


@pytest.mark.parametrize(
    ("codes", "more", "message"),
    [
        (np.ones((4, 4), np.float32), {}, "expected a class map"),
        (np.ones((4, 4), np.uint8), {"crs": None}, "coordinate reference system"),
        (np.ones((4, 4), np.uint8), rotated(), "a grid with north up"),
        (np.ones((4, 4), np.uint8), {"transform": rasterio.Affine(10, 0, 5e5, 0, 10, 5e6)}, "a grid with north up"),
        (np.full((4, 4), NODATA, np.uint8), {}, "in which no pixel has a class"),
    ],
    ids=["quantities", "no CRS", "rotated", "south up", "empty"],
)
def test_files_that_are_no_class_map(codes: Any, more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        report_areas(write_map(tmp_path / "m.tif", codes, **more))


MERCATOR = {"crs": "EPSG:3857", "transform": rasterio.Affine(10, 0, 1e6, 0, -10, 6e6)}


@pytest.mark.parametrize(
    ("profile", "words", "message"),
    [
        (rotated(), ("--out", "m.tif", "--vector", "v.parquet"), r"scene\.tif: expected a grid with north up"),
        (rotated(), ("--out", "m.tif", "--report", "a.csv"), r"scene\.tif: expected a grid with north up"),
        (MERCATOR, ("--out", "m.tif", "--report", "a.csv"), r"areas are 2\.\d+ to 2\.\d+ times too large"),
        (MERCATOR, ("--out", "m.tif", "--draw-validation", "9"), "times too large; warp it to UTM"),
        (UTM, ("--out", "m.parquet", "--vector", "v.parquet"), r"expected a map, got a table.*use --out m\.tif"),
    ],
    ids=["rotated-vector", "rotated-report", "mercator-report", "mercator-points", "table"],
)
def test_products_that_a_scene_does_not_allow_are_refused_before_the_map(
    profile: dict[str, Any], words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = TaskKind.SINGLE_LABEL if "m.parquet" in words else TaskKind.SEGMENTATION
    save_network(tmp_path / "net", make_network(kind))
    write_scene(tmp_path / "scene.tif", numbers(40, 40), **profile)
    before = sorted(tmp_path.iterdir())
    found = CliRunner().invoke(cli, ["predict", "net", "scene.tif", "--workers", "1", *words])
    assert found.exit_code == 2, found.output
    assert re.search(message, found.stderr)
    assert sorted(tmp_path.iterdir()) == before


def test_polygons_of_a_map_in_mercator_have_their_areas_on_the_earth(tmp_path: Path) -> None:
    """At 47.4 degrees north (y = 6,000 km) Mercator's areas are 1 / cos(latitude)**2 = 2.2 times too large."""
    path = write_map(tmp_path / "m.tif", np.ones((40, 40), np.uint8), **MERCATOR)
    write_polygons(path, tmp_path / "v.parquet")
    ring = shapely.box(1e6, 6e6 - 400, 1e6 + 400, 6e6)
    edge = shapely.transform(
        shapely.segmentize(ring, 10), Transformer.from_crs(3857, 4326, always_xy=True).transform, interleaved=False
    )
    on_earth = abs(Geod(ellps="WGS84").geometry_area_perimeter(edge)[0])
    assert geopandas.read_parquet(tmp_path / "v.parquet")["area_m2"].sum() == pytest.approx(on_earth, rel=1e-4)


def test_a_damaged_legend(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", np.ones((4, 4), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(classes="[1, 2]")
    with pytest.raises(InputError, match="JSON object of codes and names"):
        report_areas(path)


@pytest.mark.slow
def test_intervals_of_drawn_samples_cover_the_area(tmp_path: Path) -> None:
    truth, seen = confused(160, 6, 0.6, seed=3)
    path = write_map(tmp_path / "map.tif", seen, {k: f"class {k}" for k in range(6)})
    real = np.bincount(truth.ravel(), minlength=6) / 100
    covered = np.zeros(6)
    for seed in range(300):
        drawn = draw_validation(path, 300, seed=seed)
        lines, columns = (
            ((5_000_000 - drawn.columns["y"]) // 10).astype(int),
            ((drawn.columns["x"] - 500_000) // 10).astype(int),
        )
        drawn.columns["reference"] = truth[lines, columns].astype(object)
        files = tmp_path / f"{seed}.parquet", tmp_path / f"{seed}.csv"
        write_validation(drawn, files)
        found = report_areas(path, files[1]).estimates
        assert found is not None
        covered += (found.area_low <= real) & (real <= found.area_high)
    assert ((covered >= 0.92 * 300) & (covered <= 0.98 * 300)).all(), covered / 300
