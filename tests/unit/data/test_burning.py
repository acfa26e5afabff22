"""Polygons burnt into the pixels of tiles, compared with shapely's own predicates."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pyproj import Transformer

from mmearth_data import FileInputError, InputError, Kind, build, make_recipe, open_store, repair, verify
from mmearth_data.catalog.tile import Place, TileGrid
from mmearth_data.recipes import BuildRecipe
from mmearth_data.sources.base import Survey
from mmearth_data.sources.burning import AMBIGUOUS, UNLABELLED, Burner, burn, open_burner
from mmearth_data.store.schema import MANIFEST_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FAST = {"source": "synthetic", "modalities": ("esa_worldcover",)}

GRIDS = [
    TileGrid(epsg=32632, ulx=500_000.0, uly=5_200_000.0, size_px=64),
    TileGrid(epsg=32760, ulx=828_340.0, uly=8_100_010.0, size_px=128),
    TileGrid(epsg=32601, ulx=166_030.0, uly=30.0, size_px=48),
]


def random_polygon(rng: np.random.Generator, grid: TileGrid) -> shapely.Geometry:
    """Star around a point near a tile, repaired, with a hole."""
    side = 10 * grid.size_px
    centre = np.array([grid.ulx, grid.uly]) + rng.uniform(-0.1, 1.1, 2) * [side, -side]
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 40)))
    radius = rng.uniform(0.2, 1, len(angle)) * rng.uniform(5, side / 2)
    star = shapely.Polygon(centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1))
    return shapely.difference(shapely.make_valid(star), shapely.Point(centre).buffer(rng.uniform(1, 80)))


def centres(grid: TileGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.meshgrid(*grid.pixel_centres())
    return x, y


def squares(grid: TileGrid) -> NDArray[np.object_]:
    x, y = centres(grid)
    return np.asarray(shapely.box(x - 5, y - 5, x + 5, y + 5))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.epsg))
def test_burnt_pixels_are_those_whose_centre_is_in_the_polygon(grid: TileGrid) -> None:
    rng = np.random.default_rng(grid.epsg)
    labelled = 0
    for _ in range(150):
        shape = np.array([random_polygon(rng, grid)], dtype=object)
        burnt = burn(shape, np.zeros(1, np.int64), grid, touched=False)
        expected = shapely.contains_xy(shape[0], *centres(grid))
        np.testing.assert_array_equal(burnt == 0, expected)
        assert set(np.unique(burnt)) <= {0, UNLABELLED}
        labelled += int(expected.sum())
    assert labelled > 10_000


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.epsg))
def test_touched_pixels_are_those_whose_square_meets_the_polygon(grid: TileGrid) -> None:
    rng = np.random.default_rng(grid.epsg + 1)
    pixels = squares(grid)
    more = 0
    for _ in range(40):
        shape = np.array([random_polygon(rng, grid)], dtype=object)
        touched = burn(shape, np.zeros(1, np.int64), grid, touched=True) == 0
        shapely.prepare(shape)
        np.testing.assert_array_equal(touched, shapely.intersects(shape[0], pixels))
        inside = burn(shape, np.zeros(1, np.int64), grid, touched=False) == 0
        assert not (inside & ~touched).any()
        more += int((touched & ~inside).sum())
    assert more > 1000


@pytest.mark.parametrize("seed", range(4))
def test_pixels_in_polygons_of_two_labels_are_ambiguous(seed: int) -> None:
    rng, grid = np.random.default_rng(seed), GRIDS[0]
    shapes = np.array([random_polygon(rng, grid) for _ in range(12)], dtype=object)
    rank = rng.integers(0, 3, 12)
    inside = np.stack([shapely.contains_xy(shape, *centres(grid)) for shape in shapes])
    of_label = np.stack([inside[rank == label].any(axis=0) for label in range(3)])
    expected = np.where(
        of_label.sum(axis=0) > 1, AMBIGUOUS, np.where(of_label.any(axis=0), of_label.argmax(axis=0), UNLABELLED)
    )
    assert (expected == AMBIGUOUS).any()
    np.testing.assert_array_equal(burn(shapes, rank, grid, touched=False), expected)


def test_polygons_without_a_pixel_or_an_area_burn_nothing() -> None:
    small = shapely.box(500_001, 5_199_991, 500_004, 5_199_994)
    for shape in (small, shapely.Polygon()):
        burnt = burn(np.array([shape], dtype=object), np.zeros(1, np.int64), GRIDS[0], touched=False)
        assert (burnt == UNLABELLED).all()
    burnt = burn(np.array([small], dtype=object), np.zeros(1, np.int64), GRIDS[0], touched=True)
    assert np.argwhere(burnt == 0).tolist() == [[0, 0]]


# ---------------------------------------------------------------- from a file


def write(path: Path, shapes: list[Any], crs: Any = 4326, **columns: Any) -> Path:
    gpd.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    return path


def opened(path: Path, *labels: str, **more: Any) -> Burner:
    """Burner of a file; by default all tiles are in one split, so that no polygon is left out of a tile."""
    recipe = {"split_shares": (100, 0, 0), "tile_size": 64, **more}
    recipe = {field: value for field, value in recipe.items() if value is not None}
    return open_burner(BuildRecipe(source="synthetic", polygons=path, labels=labels or ("crop",), **recipe), ())


def tiles_of(burner: Burner) -> list[Survey]:
    """Surveys of all tiles, as a source that keeps their grids would answer."""
    tiles = burner.tiles
    found = []
    for k in range(len(tiles)):
        grid = TileGrid(epsg=int(tiles.epsg[k]), ulx=float(tiles.ulx[k]), uly=float(tiles.uly[k]), size_px=64)
        place = Place(
            tile_id=int(tiles.tile_id[k]), lon=float(tiles.lon[k]), lat=float(tiles.lat[k]), size_px=64, grid=grid
        )
        found.append(Survey(place=place, grid=grid))
    return found


def fields(
    rng: np.random.Generator, middle: tuple[float, float], spread: tuple[float, float], size: float, count: int
) -> list[Any]:
    """Stars around random points."""
    found = []
    for _ in range(count):
        centre = np.array(middle) + rng.normal(0, 1, 2) * spread
        angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radius = size * rng.uniform(0.3, 1, 12)
        points = centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        found.append(shapely.make_valid(shapely.Polygon(points)))
    return found


@pytest.mark.parametrize(
    ("crs", "middle", "spread", "size"),
    [
        (4326, (12.0, 50.0), (0.02, 0.02), 0.004),  # two UTM zones
        (4326, (180.0, -17.0), (0.02, 0.02), 0.004),  # longitudes beyond 180 degrees
        (3035, (4_321_000.0, 3_210_000.0), (2000.0, 2000.0), 300.0),  # Lambert's equal-area projection
        (32760, (828_000.0, 8_119_000.0), (2000.0, 2000.0), 300.0),  # of zone 60 beyond 180 degrees
        (2263, (1_000_000.0, 200_000.0), (5000.0, 5000.0), 900.0),  # US survey feet
    ],
)
def test_every_pixel_in_a_polygon_of_the_file_is_labelled(
    tmp_path: Path, crs: int, middle: tuple[float, float], spread: tuple[float, float], size: float
) -> None:
    shapes = fields(np.random.default_rng(3), middle, spread, size, 25)
    burner = opened(write(tmp_path / "f.gpkg", shapes, crs, crop=["a"] * 25))
    to_file = Transformer.from_crs(4326, crs, always_xy=True)
    labelled = wrong = 0
    for tile in tiles_of(burner):
        burnt = burner.read(tile)["crop"][0] == 0
        lonlat = Transformer.from_crs(tile.grid.epsg, 4326, always_xy=True).transform(*centres(tile.grid))
        x, y = to_file.transform(*lonlat)
        x = np.where(x < middle[0] - 180, x + 360, x) if crs == 4326 else x
        expected = np.any([shapely.contains_xy(shape, x, y) for shape in shapes], axis=0)
        apart = burnt != expected
        edges = shapely.boundary(np.array(shapes, dtype=object))
        nearest = [shapely.distance(edges, shapely.Point(at)).min() for at in zip(x[apart], y[apart], strict=True)]
        wrong += sum(distance > (1e-8 if crs == 4326 else 1e-3) for distance in nearest)
        labelled += int(expected.sum())
        assert burnt.any()
    assert wrong == 0
    whole = gpd.GeoSeries([shapely.union_all(shapes)], crs=crs).to_crs(6933).area.sum() if crs != 4326 else 0
    assert labelled * 100 == pytest.approx(whole, rel=0.25) if whole else labelled > 1000


def test_several_columns_and_missing_labels(tmp_path: Path) -> None:
    boxes = [shapely.box(500_000 + 300 * k, 5_200_000, 500_200 + 300 * k, 5_200_200) for k in range(4)]
    path = write(tmp_path / "f.gpkg", boxes, 32632, crop=["rye", None, "oat", None], harvest=[1.5, 2.5, np.nan, np.nan])
    burner = opened(path, "crop", "harvest")
    crop, harvest = burner.modalities
    assert (crop.kind, [c.name for c in crop.classes]) == (Kind.RASTER_CATEGORICAL, ["oat", "rye"])
    assert (harvest.kind, harvest.dtype) == (Kind.RASTER_CONTINUOUS, np.dtype("float32"))
    found = [burner.read(tile) for tile in tiles_of(burner)]
    codes = np.concatenate([one["crop"].ravel() for one in found])
    values = np.concatenate([one["harvest"].ravel() for one in found])
    assert [int((codes == code).sum()) for code in (0, 1)] == [400, 400]
    assert sorted(np.unique(values[np.isfinite(values)])) == [1.5, 2.5]
    assert np.isfinite(values).sum() == 800
    assert any("1 of 4 polygons have no label" in note for note in burner.tiles.notes)


def test_a_copy_reads_the_file_again_and_refuses_another_one(tmp_path: Path) -> None:
    path = write(tmp_path / "f.gpkg", [shapely.box(10, 45, 10.01, 45.01)], crop=["a"])
    burner = opened(path)
    copied = pickle.dumps(burner)
    assert len(copied) < 20_000
    again = pickle.loads(copied)
    for one, other in zip(tiles_of(burner), tiles_of(again), strict=True):
        np.testing.assert_array_equal(burner.read(one)["crop"], again.read(other)["crop"])
    path.unlink()
    write(path, [shapely.box(10, 45, 10.01, 45.02)], crop=["a"])
    with pytest.raises(FileInputError, match="with which the build was started"):
        pickle.loads(copied)


@pytest.mark.parametrize(
    ("name", "shapes", "columns", "labels", "message"),
    [
        ("points.geojson", [shapely.Point(1, 2), shapely.box(0, 0, 1, 1)], {"crop": ["a", "b"]}, ["crop"], "expected polygons, got other geometries in 1 of 2 rows .row 1: point"),
        ("lines.geojson", [shapely.LineString([(0, 0), (1, 1)])], {"crop": ["a"]}, ["crop"], "buffer lines to polygons"),
        ("none.geojson", [None], {"crop": ["a"]}, ["crop"], "expected polygons, got 1 rows without any"),
        ("other.geojson", [shapely.box(0, 0, 1, 1)], {"corp": ["a"]}, ["crop"], "did you mean 'corp'"),
        ("empty.gpkg", [shapely.box(0, 0, 1, 1)], {"crop": [""]}, ["crop:class"], "expected"),
        ("pole.geojson", [shapely.box(0, 85, 1, 86)], {"crop": ["a"]}, ["crop"], "between 80 S and 84 N"),
        ("jump.geojson", [shapely.box(-179.9, 0, 179.9, 1)], {"crop": ["a"]}, ["crop"], "split at 180 degrees"),
        ("small.geojson", [shapely.box(10, 45, 10.00001, 45.00001)], {"crop": ["a"]}, ["crop"], "give --burn touched"),
        ("multi.geojson", [shapely.box(10, 45, 10.01, 45.01)], {"crop": ["a;b"]}, ["crop"], "expected one class or value for each polygon"),
        ("date.geojson", [shapely.box(10, 45, 10.01, 45.01)], {"crop": ["a"], "day": ["May"]}, ["crop"], "expected dates"),
        ("split.geojson", [shapely.box(10, 45, 10.01, 45.01)], {"crop": ["a"], "split": ["x"]}, ["crop"], "expected splits train, val, test"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(
    tmp_path: Path, name: str, shapes: list[Any], columns: dict[str, Any], labels: list[str], message: str
) -> None:
    path = write(tmp_path / name, shapes, **columns)
    more: dict[str, Any] = {"date_column": "day"} if "day" in columns else {}
    more |= {"split_shares": None} if "split" in columns else {}
    with pytest.raises(InputError, match=message):
        opened(path, *labels, **more)


def test_coordinates_that_are_no_degrees_need_a_system(tmp_path: Path) -> None:
    path = tmp_path / "f.gpkg"
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        write(path, [shapely.box(500_000, 5_200_000, 500_100, 5_200_100)], None, crop=["a"])
    with pytest.raises(InputError, match="define one in the file"):
        opened(path)


def test_coordinates_that_can_be_degrees_are_taken_as_such_with_a_note(tmp_path: Path) -> None:
    shapes = [shapely.box(10, 45, 10.01, 45.01)]
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        found = opened(write(tmp_path / "bare.gpkg", shapes, None, crop=["a"]))
    assert any("no coordinate reference system is defined" in note for note in found.tiles.notes)
    declared = opened(write(tmp_path / "full.gpkg", shapes, crop=["a"]))
    assert not any("coordinate reference system" in note for note in declared.tiles.notes)
    np.testing.assert_array_equal(found.tiles.tile_id, declared.tiles.tile_id)


def test_layers(tmp_path: Path) -> None:
    path = tmp_path / "layers.gpkg"
    frame = gpd.GeoDataFrame({"crop": ["a"]}, geometry=[shapely.box(10, 45, 10.01, 45.01)], crs=4326)
    frame.rename(columns={"crop": "soil"}).to_file(path, layer="soils")
    frame.to_file(path, layer="fields")
    assert opened(path).modalities[0].name == "crop"
    frame.to_file(path, layer="others")
    with pytest.raises(InputError, match=r"got 2 .layers fields, others"):
        opened(path)


def test_a_store_has_the_maps_and_is_repaired_with_the_file(tmp_path: Path) -> None:
    shapes = [shapely.Point(10 + 0.01 * k, 45).buffer(0.0015) for k in range(4)]
    path = write(
        tmp_path / "f.gpkg", shapes, crop=["rye", "oat", "rye", "hay"], split=["train", "val", "test", "train"]
    )
    recipe = make_recipe(None, {**FAST, "polygons": path, "labels": ("crop",), "tile_size": 32})
    store = build(recipe, tmp_path / "s.zarr")
    names = {label.code: label.name for label in store.modalities["crop"].classes}
    wanted = dict(zip(["rye", "oat", "rye ", "hay"], shapes, strict=True))
    seen = 0
    for row, tile in enumerate(store.tiles.itertuples()):
        grid = TileGrid(epsg=tile.epsg, ulx=tile.ulx, uly=tile.uly, size_px=32)
        lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(*centres(grid))
        codes = store.read("crop", slice(row, row + 1))[0, 0]
        for name in ("rye", "oat", "hay"):
            own = [shape for key, shape in wanted.items() if key.strip() == name]
            expected = np.any([shapely.contains_xy(shape, *lonlat) for shape in own], axis=0)
            burnt = np.isin(codes, [code for code, known in names.items() if known == name])
            np.testing.assert_array_equal(burnt, expected)
            seen += int(burnt.sum())
    assert seen > 300
    assert sorted(store.tiles["split"].astype(str).unique()) == ["test", "train", "val"]
    shard = max(found for found in (tmp_path / "s.zarr" / "crop" / "c").rglob("*") if found.is_file())
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"expected every file .*, got none for polygons; add --polygons FILE"):
        repair(tmp_path / "s.zarr")
    other = write(tmp_path / "other.gpkg", shapes, crop=["oat", "rye", "rye", "hay"], split=["train"] * 4)
    with pytest.raises(InputError, match="expected the recipe and source that this store was begun with"):
        repair(tmp_path / "s.zarr", polygons=other)
    with pytest.raises(FileInputError, match=r"nosuch\.gpkg"):
        repair(tmp_path / "s.zarr", polygons=tmp_path / "nosuch.gpkg")
    assert (tmp_path / "s.zarr" / MANIFEST_KEY).exists()  # nothing has been removed
    assert len(verify(tmp_path / "s.zarr").problems) == 1
    assert not repair(tmp_path / "s.zarr", polygons=path).problems
    assert open_store(tmp_path / "s.zarr").digest == store.digest
