"""Positions of tiles: zones against the EPSG register, the 10 m grid, ids."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info

from mmearth_data.catalog.tile import (
    NO_TIME,
    WGS84,
    WGS84_PROJJSON,
    TileGrid,
    as_datetime64_ms,
    check_tile_size,
    format_tile_id,
    format_tile_ids,
    parse_tile_id,
    round_lonlat,
    tile_ids,
    transformer,
    unpack_tile_id,
    utm_epsg,
)
from mmearth_data.errors import InputError, TileUnavailable

# Locations are rounded to a millionth of a degree; see `round_lonlat`.
longitudes = st.integers(-180_000_000, 180_000_000).map(lambda degrees_e6: degrees_e6 / 1e6)
latitudes = st.integers(-80_000_000, 84_000_000).map(lambda degrees_e6: degrees_e6 / 1e6)
sizes = st.integers(1, 127).map(lambda sixteenths: 16 * sixteenths)


@settings(max_examples=20)  # one look-up in the register takes 50 ms
@given(longitudes, latitudes)
def test_utm_zones_are_those_of_the_epsg_register(lon: float, lat: float) -> None:
    # The register has no military exceptions (Norway, Svalbard); they have a test of their own.
    assume(not (56 <= lat < 64 and 3 <= lon < 12) and not (lat >= 72 and 0 <= lon < 42))
    point = AreaOfInterest(west_lon_degree=lon, south_lat_degree=lat, east_lon_degree=lon, north_lat_degree=lat)
    registered = {info.code for info in query_utm_crs_info("WGS 84", point)}
    assert str(utm_epsg(lon, lat)) in registered


@pytest.mark.parametrize(
    ("place", "lon", "lat", "epsg"),
    [
        ("Bergen, in 32V", 5.32, 60.39, 32632),
        ("Shetland, outside it", -1.2, 60.3, 32630),
        ("Stavanger, 32V", 5.73, 58.97, 32632),
        ("Kristiansund, 32V", 7.73, 63.11, 32632),
        ("Trondheim, above 64", 11.9, 64.01, 32632),
        ("North of 64, no exception", 5.0, 64.0, 32631),
        ("Ny-Alesund, 33X", 11.93, 78.92, 32633),
        ("west of Svalbard, 31X", 8.99, 78.0, 32631),
        ("east edge of 33X", 20.99, 78.0, 32633),
        ("35X", 21.0, 78.0, 32635),
        ("37X", 33.0, 78.0, 32637),
        ("after 37X", 42.0, 78.0, 32638),
        ("Cape Town", 18.42, -33.92, 32734),
        ("the equator belongs to the north", 30.0, 0.0, 32636),
        ("Fiji, last zone", 179.99, -17.0, 32760),
        ("Fiji, first zone", -179.99, -17.0, 32701),
    ],
)
def test_zones_of_known_places(place: str, lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg(lon, lat) == epsg, place


@pytest.mark.parametrize("lat", [84.0001, 90.0, -80.0001, -90.0])
def test_the_poles_are_refused_with_a_reason(lat: float) -> None:
    with pytest.raises(TileUnavailable) as caught:
        utm_epsg(0.0, lat)
    assert caught.value.reason == "outside_utm"
    assert f"{lat:.4f}"[:5] in caught.value.detail


@given(longitudes, latitudes, sizes)
def test_the_grid_is_snapped_to_ten_metres_around_the_point(lon: float, lat: float, size_px: int) -> None:
    epsg = utm_epsg(lon, lat)
    grid = TileGrid.around(lon, lat, epsg, size_px)
    assert grid.ulx % 10 == 0
    assert grid.uly % 10 == 0
    x, y = Transformer.from_crs("OGC:CRS84", f"EPSG:{epsg}", always_xy=True).transform(lon, lat)
    west, south, east, north = grid.bounds
    assert east - west == north - south == 10 * size_px
    # Snapping moves the tile's centre by at most half a pixel along each axis.
    assert abs((west + east) / 2 - x) <= 5 + 1e-6
    assert abs((south + north) / 2 - y) <= 5 + 1e-6


def test_snapping_follows_the_published_formula() -> None:
    lon, lat, size_px = 12.5, 55.7, 64
    x, y = transformer(4326, 32633).transform(lon, lat)
    grid = TileGrid.around(lon, lat, 32633, size_px)
    assert grid.ulx == 10 * math.floor((x - 5 * size_px) / 10 + 1 / 2)
    assert grid.uly == 10 * math.floor((y + 5 * size_px) / 10 + 1 / 2)


def test_the_grid_may_lie_in_the_neighbouring_zone() -> None:
    # A scene near a zone border may be in the other zone; the tile keeps the scene's CRS.
    lon, lat = 11.95, 48.0
    assert utm_epsg(lon, lat) == 32632
    grid = TileGrid.around(lon, lat, 32633, 64)
    assert Geod(ellps="WGS84").inv(lon, lat, *grid.centre_lonlat)[2] < 7.1


@given(st.floats(-170, 170), st.floats(-79, 83), sizes)
def test_pixel_centres_agree_with_the_affine_transform(lon: float, lat: float, size_px: int) -> None:
    grid = TileGrid.around(lon, lat, utm_epsg(lon, lat), size_px)
    a, b, c, d, e, f = grid.transform
    columns = np.arange(size_px) + 0.5
    x, y = grid.pixel_centres()
    np.testing.assert_array_equal(x, a * columns + b * columns + c)
    np.testing.assert_array_equal(y, d * columns + e * columns + f)
    assert x[0] - grid.bounds[0] == grid.bounds[3] - y[0] == 5.0


@given(st.integers(-180_000_000, 180_000_000), st.integers(-90_000_000, 90_000_000), sizes)
def test_tile_ids_round_trip(lon_e6: int, lat_e6: int, size_px: int) -> None:
    (packed,) = tile_ids([lon_e6 / 1e6], [lat_e6 / 1e6], size_px)
    # The definition, in integers of unlimited size.
    assert int(packed) == (lon_e6 + 180_000_000) << 35 | (lat_e6 + 90_000_000) << 7 | size_px // 16
    lon, lat, size = unpack_tile_id(int(packed))
    assert (round(lon * 1e6), round(lat * 1e6), size) == (lon_e6, lat_e6, size_px)
    assert parse_tile_id(format_tile_id(int(packed))) == int(packed)
    assert len(format_tile_id(int(packed))) == 16


@given(
    st.lists(
        st.tuples(st.integers(-180_000_000, 180_000_000), st.integers(-90_000_000, 90_000_000), sizes),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_different_tiles_have_different_ids(pair: list[tuple[int, int, int]]) -> None:
    first, second = (int(tile_ids([lon / 1e6], [lat / 1e6], size)[0]) for lon, lat, size in pair)
    assert first != second


@given(longitudes, st.floats(-90, 90))
def test_rounding_makes_the_coordinate_that_the_id_holds(lon: float, lat: float) -> None:
    rounded = round_lonlat([lon, lat])
    np.testing.assert_allclose(rounded, [lon, lat], atol=0.51e-6)
    np.testing.assert_array_equal(round_lonlat(rounded), rounded)
    packed = int(tile_ids([lon], [lat], 64)[0])
    assert packed == int(tile_ids(rounded[:1], rounded[1:], 64)[0])
    np.testing.assert_allclose(unpack_tile_id(packed)[:2], rounded, atol=1e-9)


@pytest.mark.parametrize(("lon", "lat"), [(181.0, 0.0), (-180.1, 0.0), (0.0, 90.1), (0.0, -91.0)])
def test_coordinates_off_the_globe_are_refused(lon: float, lat: float) -> None:
    with pytest.raises(InputError, match="swap or rescale"):
        tile_ids([0.0, lon], [0.0, lat], 64)


def test_an_id_is_read_in_every_form_and_case() -> None:
    number = (180_000_000 + 10_250_000) << 35 | (90_000_000 + 45_500_000) << 7 | 4
    text = f"{number:x}"
    assert len(text) == 16
    forms = [text, text.upper(), f"0x{text}", f"0X{text.upper()}", f" {text}\n", number, np.uint64(number), str(number)]
    assert [parse_tile_id(form) for form in forms] == [number] * len(forms)
    # 16 decimal digits are hexadecimal all the same: no text means two ids.
    assert parse_tile_id("1234567890123456") == 0x1234567890123456


def test_many_ids_are_formatted_as_one_is() -> None:
    numbers = np.array([[0, 1, 2**63], [2**64 - 1, 255, 10**18]], dtype=np.uint64)
    assert format_tile_ids(numbers).tolist() == [[f"{int(n):016x}" for n in row] for row in numbers]
    assert format_tile_ids(numbers.astype(">u8")[1].tolist()).tolist() == [f"{int(n):016x}" for n in numbers[1]]
    assert format_tile_ids(numbers[:0]).shape == (0, 3)


@pytest.mark.parametrize("value", [1.0, None, True, np.True_, -1, 2**64, 12, 2**30 - 1, b"0123456789abcdef", [1, 2]])
def test_values_that_are_no_id_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="Expected a tile id of 16 hex digits, or its number, got"):
        parse_tile_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "12", "g" * 16, "0" * 17, "0x" + "0" * 14])
def test_malformed_ids_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="16 hex digits"):
        parse_tile_id(text)


@pytest.mark.parametrize("size_px", [0, -16, 8, 100, 2048, 4096])
def test_unusable_tile_sizes_are_refused(size_px: int) -> None:
    with pytest.raises(InputError, match=f"got {size_px}"):
        check_tile_size(size_px)


@given(sizes)
def test_every_size_that_fits_the_id_is_usable(size_px: int) -> None:
    assert check_tile_size(size_px) == size_px


def test_times_are_utc_milliseconds_and_the_smallest_is_not_a_time() -> None:
    times = as_datetime64_ms([0, 1_500_000_000_000, NO_TIME])
    assert str(times[0]) == "1970-01-01T00:00:00.000"
    assert str(times[1]) == "2017-07-14T02:40:00.000"
    assert np.isnat(times[2])


def test_the_reference_system_in_files_is_that_of_the_registry() -> None:
    written = CRS.from_json_dict(WGS84_PROJJSON)
    assert written == CRS.from_epsg(WGS84)
    assert written.to_epsg() == WGS84
