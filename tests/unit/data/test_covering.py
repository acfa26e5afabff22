"""Cells of a cover: no gap, no spare cell, one grid per UTM zone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from mmearth_data import InputError
from mmearth_data.catalog.tile import MAX_LAT, tile_ids, utm_epsg
from mmearth_data.geography.regions import resolve_region
from mmearth_data.geography.zones import ZonePart, zone_bands, zone_parts
from mmearth_data.sampling.covering import TOUCH_M, Cover, cover

GAP_M = 0.02
"""Width of strips that do not count as gaps: cells that a region reaches by less than a centimetre are left out."""
REGIONS = ("bbox:11.97,46.4,12.05,46.45", "bbox:179.95,-16.52,-179.96,-16.45", "bbox:2.93,59.97,3.1,60.02", "Monaco")
"""At a border of zones, across 180 degrees, where zone 32 is wider, and with curved borders."""


def area(region: str) -> BaseGeometry:
    geometry = resolve_region(region).geometry
    assert geometry is not None
    return geometry


def cells(region: str, size_px: int = 64, overlap_px: int = 16) -> Cover:
    return cover(zone_parts(area(region)), size_px, overlap_px)


def squares(found: Cover) -> dict[int, np.ndarray[Any, Any]]:
    """Tiles by zone, as boxes in metres."""
    grids = found.grids(np.arange(len(found)))
    side = 10 * found.size_px
    boxes = shapely.box(grids["ulx"], grids["uly"] - side, grids["ulx"] + side, grids["uly"])
    return {int(epsg): boxes[grids["epsg"] == epsg] for epsg in np.unique(grids["epsg"])}


def in_zone(epsg: int, geometry: BaseGeometry) -> BaseGeometry:
    """Project an area by pyproj, with edges divided finely."""
    fine = shapely.segmentize(geometry, 0.0005)
    to_zone = Transformer.from_crs(4326, epsg, always_xy=True)
    return shapely.transform(fine, lambda xy: np.column_stack(to_zone.transform(xy[:, 0], xy[:, 1])))


@given(st.integers(-180_000_000, 179_999_999), st.integers(-80_000_000, 84_000_000))
@settings(max_examples=500)
def test_zones_are_those_of_the_military_grid(lon_e6: int, lat_e6: int) -> None:
    lon, lat = lon_e6 / 1e6, lat_e6 / 1e6
    holding = [
        epsg
        for epsg, boxes in zone_bands().items()
        if any(
            west <= lon < east and (south <= lat < north or lat == north == MAX_LAT)
            for west, south, east, north in boxes
        )
    ]
    assert holding == [utm_epsg(lon, lat)]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("overlap_px", [0, 16, 17])
def test_every_point_of_a_region_is_in_a_tile(region: str, overlap_px: int) -> None:
    geometry = area(region)
    found = squares(cells(region, overlap_px=overlap_px))
    rng, points = np.random.default_rng(0), np.empty((0, 2))
    for west, south, east, north in shapely.bounds(shapely.get_parts(geometry)).tolist():
        points = np.concatenate([points, rng.uniform((west, south), (east, north), (5000, 2))])
    lon, lat = points.T
    inside = shapely.intersects_xy(geometry, lon, lat)
    assert inside.sum() > 2000
    covered = np.zeros(len(lon), dtype=bool)
    for epsg, boxes in found.items():
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        tree = shapely.STRtree(boxes)
        covered[tree.query(shapely.points(x, y), predicate="intersects")[0]] = True
    assert covered[inside].all()


@pytest.mark.parametrize("region", REGIONS)
def test_each_zone_covers_its_part_of_the_region_with_the_margin(region: str) -> None:
    """The union of a zone's tiles contains its part of the region, and half of the overlap around it."""
    geometry = area(region)
    found = squares(cells(region, overlap_px=16))
    for epsg, boxes in found.items():
        bands = shapely.union_all([shapely.box(*box) for box in zone_bands()[epsg]])
        part = in_zone(epsg, shapely.intersection(geometry, bands))
        assert shapely.union_all(boxes).buffer(GAP_M).contains(part.buffer(8 * 10))


def test_neighbours_share_the_overlap_and_the_origin() -> None:
    found = cells("bbox:11.97,46.4,12.05,46.45", 64, 16)
    grids = found.grids(np.arange(len(found)))
    for epsg in (32632, 32633):
        own = grids["epsg"] == epsg
        assert (np.mod(grids["ulx"][own] + 80, 480) == 0).all(), "multiples of the step, less half of the overlap"
        assert (np.mod(grids["uly"][own] - 80, 480) == 0).all()
        assert set(np.diff(np.unique(grids["ulx"][own]))) == {480.0}
    assert set(np.unique(grids["epsg"])) == {32632, 32633}
    assert {32632: int((grids["epsg"] == 32632).sum()), 32633: int((grids["epsg"] == 32633).sum())} == found.zones


def test_regions_that_meet_share_their_cells() -> None:
    left, right, both = (
        {tuple(row) for row in np.column_stack([*c.grids(np.arange(len(c))).values()]).tolist()}
        for c in map(cells, ("bbox:10,46,10.03,46.03", "bbox:10.03,46,10.06,46.03", "bbox:10,46,10.06,46.03"))
    )
    assert left | right == both
    assert left & right, "those that both regions touch"


def test_no_cell_is_spare_and_an_aligned_region_takes_its_own_cells_alone() -> None:
    part = ZonePart(32632, shapely.box(640 * 800, 640 * 8000, 640 * 805, 640 * 8003))
    assert len(cover([part], 64, 0)) == 15
    shifted = ZonePart(32632, shapely.box(640 * 800 - 5, 640 * 8000, 640 * 805, 640 * 8003))
    assert len(cover([shifted], 64, 0)) == 18
    sliver = ZonePart(32632, shapely.box(640 * 800 - 0.005, 640 * 8000, 640 * 800 + 0.005, 640 * 8003))
    assert len(cover([sliver], 64, 0)) == len(cover([], 64, 0)) == 0
    whole = cells("Liechtenstein", 32, 0)
    parts = {part.epsg: part.geometry.buffer(-TOUCH_M / 2) for part in zone_parts(area("Liechtenstein"))}
    for epsg, boxes in squares(whole).items():
        assert shapely.intersects(parts[epsg], boxes).all()


def test_cells_are_numbered_from_north_to_south_and_west_to_east() -> None:
    grids = cells("Monaco", 16, 0).grids(np.arange(len(cells("Monaco", 16, 0))))
    order = np.lexsort((grids["ulx"], -grids["uly"], grids["epsg"]))
    np.testing.assert_array_equal(order, np.arange(len(order)))


@pytest.mark.parametrize("overlap_px", [0, 15])
def test_ids_are_those_of_the_rounded_centres(overlap_px: int) -> None:
    found = cells("bbox:11.97,46.4,12.05,46.45", 64, overlap_px)
    columns = found.columns(np.arange(len(found)))
    lon, lat = columns["lon"], columns["lat"]
    np.testing.assert_array_equal(tile_ids(lon, lat, 64), columns["tile_id"])
    for epsg in np.unique(columns["epsg"]).tolist():
        own = columns["epsg"] == epsg
        centre = Transformer.from_crs(epsg, 4326, always_xy=True).transform(
            columns["ulx"][own] + 320, columns["uly"][own] - 320
        )
        np.testing.assert_allclose(np.array([lon[own], lat[own]]), centre, atol=6e-7, rtol=0)
    np.testing.assert_array_equal(columns["lon"][5:8], found.columns(np.array([5, 6, 7]))["lon"])
    np.testing.assert_array_equal(np.round(lon * 1e6), lon * 1e6)


def test_two_cells_never_have_one_id() -> None:
    """With a step that divides 1,000 km, the grids of neighbouring zones mirror each other at their border, where some
    centres coincide."""
    found = cover(zone_parts(shapely.box(11.999, 0, 12.001, 60)), 32, 12)
    assert len(found.moved) > 0, "a centre on the border is among them"
    ids = found.columns(np.arange(len(found)))["tile_id"]
    assert len(np.unique(ids)) == len(ids)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ("bbox:0,80,10,85", "from 80 to 85 degrees"),
        ("Antarctica", "80 S"),
        ("bbox:0,0,100,80", "100,000,000"),
    ],
)
def test_regions_that_cannot_be_covered_are_refused(region: str, words: str) -> None:
    with pytest.raises(InputError, match="Expected a region") as caught:
        cells(region, 16, 0)
    assert words in str(caught.value)


def test_a_large_country_takes_little_memory() -> None:
    """Cells are runs of rows: as many as the country is high, not as it is large."""
    found = cells("Brazil", 128, 16)
    assert len(found) > 6_000_000
    assert len(found.stop) < 30_000
    area_m2 = len(found) * 1120.0**2
    assert area_m2 == pytest.approx(8.5e12, rel=0.02), "the area of Brazil"


def test_a_file_of_polygons_is_covered(tmp_path: Path) -> None:
    import geopandas as gpd

    shape = shapely.box(600_000, 5_200_000, 603_000, 5_202_000)
    gpd.GeoSeries([shape], crs=32632).to_file(tmp_path / "region.gpkg")
    (boxes,) = squares(cells(str(tmp_path / "region.gpkg"), 64, 0)).values()
    assert shapely.union_all(boxes).buffer(GAP_M).contains(shape)
