"""Polygons of a class map, against tracing the whole map at once, and against counting pixels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from map_making import NODATA, UTM, write_map
from pyarrow import parquet
from rasterio.features import shapes

from mmearth_data import InputError
from mmearth_model.maps.polygons import write_polygons

if TYPE_CHECKING:
    from pathlib import Path

TO_PIXELS = [0.1, 0, 0, -0.1, -50_000, 500_000]


def noise(shape: tuple[int, int], classes: int, seed: int) -> np.ndarray[Any, Any]:
    """Random classes with gaps."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, classes, shape).astype(np.uint8)
    codes[random.random(shape) < 0.1] = NODATA
    return codes


def rings() -> np.ndarray[Any, Any]:
    """Squares within squares, so that regions with holes cross every border of strips."""
    y, x = np.mgrid[:41, :41]
    return (np.maximum(abs(y - 20), abs(x - 20)) // 3 % 2).astype(np.uint8)


MAPS = {
    "one class": np.ones((30, 20), np.uint8),
    "one row": noise((1, 40), 2, 0),
    "two classes": noise((37, 41), 2, 1),
    "five classes": noise((40, 30), 5, 2),
    "rings": rings(),
}


@pytest.mark.parametrize("rows", [1, 2, 7, 0])
@pytest.mark.parametrize("case", MAPS)
def test_regions_are_those_of_the_whole_map_however_it_is_divided(case: str, rows: int, tmp_path: Path) -> None:
    codes = MAPS[case]
    count = write_polygons(write_map(tmp_path / "m.tif", codes), tmp_path / "m.parquet", rows=rows)
    frame = geopandas.read_parquet(tmp_path / "m.parquet")
    whole = {(int(code), shapely.normalize(shapely.geometry.shape(shape)).wkt) for shape, code in shapes(codes, mask=codes != NODATA, connectivity=4)}  # fmt: skip
    back = frame.geometry.affine_transform(TO_PIXELS)
    assert {(code, shapely.normalize(shape).wkt) for code, shape in zip(frame["class"], back, strict=True)} == whole
    assert count == len(frame) == len(whole)
    assert frame.geometry.is_valid.all()


def test_areas_and_columns(tmp_path: Path) -> None:
    codes = noise((50, 60), 3, 4)
    path = write_map(tmp_path / "m.tif", codes, {0: "water", 1: "trees & shrubs"})
    write_polygons(path, tmp_path / "m.parquet")
    frame = geopandas.read_parquet(tmp_path / "m.parquet")
    for code in range(3):
        assert frame[frame["class"] == code].area_m2.sum() == 100 * (codes == code).sum()
    assert frame.crs.to_epsg() == 32632
    assert dict(zip(frame["class"], frame.name, strict=True)) == {0: "water", 1: "trees & shrubs", 2: "class 2"}
    assert set(frame.colour[frame["class"] == 1]) == {"#0164c8"}
    assert frame.colour[frame["class"] == 2].isna().all()
    geo = json.loads(parquet.read_schema(tmp_path / "m.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 32632}
    south = geopandas.read_parquet(tmp_path / "m.parquet", bbox=(500_000, 4_999_500, 500_600, 4_999_600))
    assert 0 < len(south) < len(frame)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", rasterio.Affine(0.01, 0, 8, 0, -0.01, 60)),
        ("EPSG:3857", rasterio.Affine(1000, 0, 900_000, 0, -1000, 8_400_000)),
    ],
)
def test_areas_on_the_ellipsoid(crs: str, transform: rasterio.Affine, tmp_path: Path) -> None:
    codes = np.zeros((20, 30), np.uint8)
    codes[5:9, 5:9] = 1
    write_polygons(write_map(tmp_path / "m.tif", codes, crs=crs, transform=transform), tmp_path / "m.parquet")
    frame = geopandas.read_parquet(tmp_path / "m.parquet")
    geodesic = geopandas.GeoSeries(frame.geometry).to_crs("EPSG:4326").segmentize(0.001).apply(_geodesic_m2)
    assert frame.area_m2.to_numpy() == pytest.approx(geodesic.to_numpy(), rel=1e-5)


def _geodesic_m2(polygon: shapely.Polygon) -> float:
    from pyproj import Geod

    return abs(Geod(ellps="WGS84").geometry_area_perimeter(shapely.geometry.polygon.orient(polygon))[0])


def test_a_map_without_classes_has_no_polygons(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", np.full((9, 9), NODATA, np.uint8))
    assert write_polygons(path, tmp_path / "m.parquet") == 0
    assert len(geopandas.read_parquet(tmp_path / "m.parquet")) == 0


def test_nothing_is_left_of_a_map_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", noise((600, 600), 4, 0), tiled=True, blockxsize=64, blockysize=64)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"m\.tif.*copy it again"):
        write_polygons(path, tmp_path / "m.parquet", rows=64)
    assert [file.name for file in tmp_path.iterdir()] == ["m.tif"]


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = write_map(tmp_path / "m.tif", MAPS["five classes"], **UTM)
    write_polygons(path, tmp_path / "m.parquet", rows=16, report=lambda done, total: seen.append((done, total)))
    assert seen == [(16, 40), (32, 40), (40, 40)]
