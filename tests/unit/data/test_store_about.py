"""Licences and extents of a store, for catalogs and other programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from packaging.licenses import canonicalize_license_expression

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import NO_TIME, TileGrid, utm_epsg
from mmearth_data.store.about import Extents, ExtentsMerger, extents, licence_summary, licences, spdx, spdx_of_all
from mmearth_data.store.index import tile_outlines

SHIPPED = [m for m in load_catalog().select() if m.stored]


def columns(lon: Any, lat: Any, time: Any = None) -> dict[str, np.ndarray[Any, Any]]:
    """Columns of tiles with these centres."""
    lon, lat = np.atleast_1d(np.asarray(lon, np.float64)), np.atleast_1d(np.asarray(lat, np.float64))
    times = np.full(len(lon), NO_TIME) if time is None else np.asarray(time, "datetime64[ms]").astype(np.int64)
    return {"tile_id": np.ones(len(lon), np.uint64), "lon": lon, "lat": lat, "time": times}


def bbox(lon: Any, lat: Any = 10.0) -> tuple[float, ...]:
    """Extents of tiles of 16 px, which reach 0.001 degree, to two digits."""
    found = extents(columns(lon, np.broadcast_to(lat, np.shape(lon))), 16)
    assert found is not None
    return tuple(round(degrees, 2) for degrees in found.bbox)


# ------------------------------------------------------------------------------------------------- licences


def test_every_licence_is_listed_once_with_its_modalities() -> None:
    uses = licences(SHIPPED)
    assert sorted(name for use in uses for name in use.modalities) == sorted(m.name for m in SHIPPED)
    assert len({use.name for use in uses}) == len(uses)
    for use in uses:
        members = [m for m in SHIPPED if m.name in use.modalities]
        assert {m.licence.name for m in members} == {use.name}
        assert set(use.attributions) == {m.licence.attribution for m in members}
        assert use.name in licence_summary(SHIPPED)
        assert use.url in licence_summary(SHIPPED)


def test_the_licences_of_all_modalities_are_a_valid_spdx_expression() -> None:
    whole = spdx_of_all(SHIPPED)
    assert canonicalize_license_expression(whole) == whole
    assert whole.split(" AND ").count("CC-BY-4.0") == 1
    assert "OR" not in whole.split()
    assert spdx_of_all(SHIPPED[-1:]) == SHIPPED[-1].licence.name == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CC-BY-4.0", "CC-BY-4.0"),
        ("cc0-1.0", "CC0-1.0"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("Public domain", "LicenseRef-Public-domain"),
        ("© Müller, 2024", "LicenseRef-M-ller-2024"),
        ("", "LicenseRef-unnamed"),
    ],
)
def test_names_that_spdx_lists_are_kept_and_others_become_references(name: str, expected: str) -> None:
    found = spdx(name)
    assert found == expected
    canonicalize_license_expression(found)


# ------------------------------------------------------------------------------------------------- extents


@pytest.mark.parametrize(
    ("lon", "expected"),
    [
        ([5.0], (5, 5)),
        ([-10, 20, 3], (-10, 20)),
        ([179.5, -179.5], (179.5, -179.5)),
        ([170, -170, 10], (10, -170)),
        ([180.0, 179.0], (179, -180)),
        ([-180.0, -179.0], (180, -179)),
    ],
)
def test_the_extent_is_the_shortest_that_contains_all_tiles_across_180_degrees_too(
    lon: list[float], expected: tuple[float, float]
) -> None:
    west, _, east, _ = bbox(lon)
    assert (west, east) == pytest.approx(expected, abs=0.011)


def test_tiles_all_around_the_earth_have_its_whole_width() -> None:
    assert bbox(np.linspace(-180, 180, 400_001), 0.0)[::2] == (-180, 180)


@pytest.mark.parametrize(("lon", "lat"), [(9.0, 0.0), (5.9, 83.5), (-177.001, -79.5), (179.9999, 60.0)])
def test_the_extent_covers_the_outlines_and_exceeds_them_by_less_than_half_a_tile(lon: float, lat: float) -> None:
    grid = TileGrid.around(lon, lat, utm_epsg(lon, lat), 128)
    corner = {name: np.array([getattr(grid, name)]) for name in ("epsg", "ulx", "uly")}
    west, south, east, north = shapely.total_bounds(tile_outlines(corner, 128))
    found = extents(columns(lon, lat), 128)
    assert found is not None
    half = 640 / 110_574
    assert south - half < found.south < south
    assert north < found.north < north + half
    if east - west < 1:
        wide = half / np.cos(np.deg2rad(lat))
        assert west - wide < found.west < west
        assert east < found.east < east + wide
    else:
        assert found.west > 179 > -179 > found.east


def test_times_are_those_of_the_first_and_last_scene_and_parts_merge() -> None:
    merger = ExtentsMerger(16)
    merger.add(columns([1, 2], [3, 4], ["2019-01-02", "NaT"]))
    merger.add(columns([1], [5], ["2017-05-01T10:00"]))
    found = merger.extents()
    assert found is not None
    assert (str(found.start), str(found.end)) == ("2017-05-01T10:00:00.000", "2019-01-02T00:00:00.000")
    whole = extents(columns([1, 2, 1], [3, 4, 5], ["2019-01-02", "NaT", "2017-05-01T10:00"]), 16)
    assert found == whole


def test_rows_without_a_tile_or_a_location_do_not_count() -> None:
    found = columns([1, np.nan, 50], [2, np.nan, 50])
    found["tile_id"][2] = 0
    alone = extents(columns(1, 2), 16)
    assert isinstance(alone, Extents)
    assert alone.start is None
    assert extents(found, 16) == alone
    assert extents(columns([np.nan], [np.nan]), 16) is None
