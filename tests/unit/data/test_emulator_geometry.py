"""Geometry of the emulator against closed forms and the ellipsoid, asked by the real client."""

from __future__ import annotations

import math
from typing import Any

import ee
import pytest
from ee_world import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

pytestmark = pytest.mark.usefixtures("earth")

EARTH = Geod(ellps="WGS84")


def box(west: float, south: float, east: float, north: float) -> Any:
    """Box whose edges are straight in longitude and latitude."""
    return ee.Geometry.Rectangle([west, south, east, north], geodesic=False)


def test_geojson_goes_there_and_back() -> None:
    assert ee.Geometry.Point([8.5, 47.25]).getInfo() == {"type": "Point", "coordinates": [8.5, 47.25]}
    ring = [[[0, 0], [2, 0], [2, 1], [0, 0]]]
    found = ee.Geometry.Polygon(ring).getInfo()
    assert (found["type"], found["coordinates"]) == ("Polygon", ring)
    assert ee.Geometry.Polygon([0, 0, 2, 0, 2, 1]).coordinates().getInfo() == ring
    computed = ee.Geometry(ee.Feature(ee.Geometry.LineString([[0, 0], [1, 1]])).geometry())
    assert computed.type().getInfo() == "LineString"
    assert computed.coordinates().getInfo() == [[0, 0], [1, 1]]


def test_areas_and_lengths_are_those_of_the_ellipsoid() -> None:
    lon, lat = [10.0, 11.0, 11.0, 10.0], [50.0, 50.0, 51.0, 51.0]
    area, perimeter = EARTH.polygon_area_perimeter(lon, lat)
    made = ee.Geometry.Polygon([list(pair) for pair in zip(lon, lat, strict=True)])
    got = ee.List([made.area(1), made.perimeter(1)]).getInfo()
    assert got == pytest.approx([abs(area), perimeter], rel=1e-9)
    # One degree of the equator.
    assert ee.Geometry.LineString([[0, 0], [1, 0]]).length().getInfo() == pytest.approx(
        math.pi * 6378137 / 180, rel=1e-9
    )
    # Between two parallels is a zone, whose area Archimedes knew.
    strip = 6371007.2**2 * math.radians(40) * (math.sin(math.radians(61)) - math.sin(math.radians(60)))
    assert box(0, 60, 40, 61).area(1).getInfo() == pytest.approx(strip, rel=0.01)


def zone_m2(south: float, north: float, width: float = 360.0) -> float:
    """Area between two parallels of the ellipsoid (Snyder 1987, equation 3-12)."""

    def q(lat: float) -> float:
        sine, e = math.sin(math.radians(lat)), math.sqrt(EARTH.es)
        return (1 - EARTH.es) * (sine / (1 - EARTH.es * sine**2) + math.atanh(e * sine) / e)

    return EARTH.a**2 / 2 * math.radians(width) * (q(north) - q(south))


def test_areas_of_more_than_half_the_globe() -> None:
    hole = [[-170, -50], [170, -50], [170, 50], [-170, 50]]
    shapes = {
        ee.Geometry.BBox(-180, -90, 180, 90): zone_m2(-90, 90),
        box(-180, -60, 179, 60): zone_m2(-60, 60, 359),
        box(-180, -60, 180, 90): zone_m2(-60, 90),
        box(-180, 60, 180, 90): zone_m2(60, 90),
        ee.Geometry.Polygon([[[-180, -60], [180, -60], [180, 60], [-180, 60]], hole], None, False): (
            zone_m2(-60, 60) - zone_m2(-50, 50, 340)
        ),
    }
    got = ee.List([shape.area(1) for shape in shapes]).getInfo()
    assert got == pytest.approx(list(shapes.values()), rel=1e-4)
    half = ee.FeatureCollection([ee.Feature(shape) for shape in shapes]).filter(ee.Filter.area(3e14, 1e15))
    assert half.size().getInfo() == 3


def test_measures_of_a_collection_are_sums_over_its_parts() -> None:
    """A degree square with a hole, twice, a line and a point."""
    ring, hole = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], [[0.2, 0.2], [0.4, 0.2], [0.4, 0.4], [0.2, 0.2]]
    parts = [
        {"type": "Polygon", "coordinates": [ring, hole]},
        {"type": "MultiPolygon", "coordinates": [[ring]]},
        {"type": "LineString", "coordinates": [[0, 0], [1, 1]]},
        {"type": "Point", "coordinates": [5, 5]},
    ]
    mixed = ee.Geometry({"type": "GeometryCollection", "geometries": parts})
    (area, around), (inner, edge) = (EARTH.polygon_area_perimeter(*zip(*r, strict=True)) for r in (ring, hole))
    expected = [2 * area - inner, 2 * around + edge, EARTH.line_length([0, 1], [0, 1])]
    got = ee.List([mixed.area(1), mixed.perimeter(1), mixed.length(1)]).getInfo()
    assert got == pytest.approx(expected, rel=1e-9)
    plane = ee.List([mixed.area(1, "EPSG:4326"), mixed.perimeter(1, "EPSG:4326"), mixed.length(1, "EPSG:4326")])
    assert plane.getInfo() == pytest.approx([1.98, 8.4 + math.sqrt(0.08), math.sqrt(2)], rel=1e-9)


FAR = [((0, 0), (60, 50)), ((-60, 50), (60, 50)), ((170, -40), (-10, 41)), ((179, 3), (-179, -3))]


@pytest.mark.parametrize(("one", "other"), FAR)
def test_distances_of_points_are_geodesics(one: tuple[float, float], other: tuple[float, float]) -> None:
    expected = EARTH.inv(*one, *other)[2]
    left, right = ee.Geometry.Point(one), ee.Geometry.MultiPoint([other, EARTH.fwd(*other, 40, 1000)[:2]])
    nearer = ee.Geometry.Point(other)
    got = ee.List([left.distance(nearer, 1), left.withinDistance(nearer, expected * 1.000001, 1)]).getInfo()
    assert got == [pytest.approx(expected, rel=1e-9), True]
    assert right.distance(left, 1).getInfo() <= expected + 1e-3


def test_distances_of_edges_are_those_of_the_nearest_positions() -> None:
    """Positions along edges, sampled every 1/400; the edge of a box follows its parallel."""
    path = ee.Geometry.LineString([[-60, 50], [20, 62]])
    one = [(-60, 50), *EARTH.npts(-60, 50, 20, 62, 399), (20, 62)]
    parallel = [(0.3 * k, 70.0) for k in range(201)]
    sides = [(x, 70 + 0.01 * k) for x in (0.0, 60.0) for k in range(201)]
    expected = min(EARTH.inv(*a, *b)[2] for a in one for b in parallel + sides)
    target = box(0, 70, 60, 72)
    got = ee.List([path.distance(target, 1), target.distance(path, 1), target.distance(target, 1)]).getInfo()
    assert got == [pytest.approx(expected, rel=1e-5), pytest.approx(got[0], rel=1e-9), 0]


def test_a_rectangle_of_computed_numbers_is_that_of_literals() -> None:
    computed = ee.Geometry.Rectangle([ee.Number(0), 50, 40, 60])
    got = ee.List([computed.area(1), ee.Geometry.Rectangle([0, 50, 40, 60]).area(1), computed.geodesic()]).getInfo()
    assert got == [pytest.approx(got[1], rel=1e-9), pytest.approx(2.7267e12, rel=1e-4), True]


@settings(max_examples=10)
@given(st.floats(-179, 179), st.floats(-79, 79), st.floats(50, 20_000))
def test_a_buffer_holds_what_lies_nearer_than_its_distance(lon: float, lat: float, distance: float) -> None:
    point = ee.Geometry.Point([lon, lat])
    circle = point.buffer(distance)
    near, far = (ee.Geometry.Point(EARTH.fwd(lon, lat, 37.0, distance * share)[:2]) for share in (0.99, 1.01))
    inside, outside, area, apart = ee.List(
        [circle.contains(near), circle.contains(far), circle.area(1), point.distance(far)]
    ).getInfo()
    assert inside
    assert not outside
    assert area == pytest.approx(math.pi * distance**2, rel=0.01)
    assert apart == pytest.approx(distance * 1.01, rel=1e-6)


@settings(max_examples=15)
@given(
    st.floats(-170, 170),
    st.floats(-70, 70).filter(lambda lat: abs(lat) > 10),
    st.floats(0.5, 8),
    st.sampled_from([-40.0, -5.0, -0.3, 0.3, 5.0, 40.0]),
)
def test_an_edge_is_the_shortest_path_whether_a_shape_lies_close_to_it_or_far_away(
    lon: float, lat: float, width: float, share: float
) -> None:
    """A shape at the middle of an edge, off it by a share of what the edge bends."""
    _, edge = EARTH.npts(lon, lat, lon + width, lat, 1)[0]
    poleward = math.copysign(1, lat)
    assert (edge - lat) * poleward > 0
    outer = ee.Geometry.Polygon(
        [[lon, lat], [lon + width, lat], [lon + width, lat - 9 * poleward], [lon, lat - 9 * poleward]]
    )
    x, y, half = lon + width / 2, edge + share * (edge - lat), 0.05 * abs(edge - lat)
    inner = box(x - half, y - half, x + half, y + half)
    assert ee.List([outer.contains(inner), outer.intersects(inner), outer.disjoint(inner)]).getInfo() == [
        share < 0,
        share < 0,
        share > 0,
    ]


def test_bounds_of_a_buffer_are_a_square_of_its_width() -> None:
    (ring,) = ee.Geometry.Point([10, 60]).buffer(1000).bounds().coordinates().getInfo()
    (west, south), (east, north) = ring[0], ring[2]
    assert ring == [[west, south], [east, south], [east, north], [west, north], [west, south]]
    assert EARTH.line_length([west, east], [60, 60]) == pytest.approx(2000, rel=0.003)
    assert EARTH.line_length([10, 10], [south, north]) == pytest.approx(2000, rel=0.003)


def test_centroids_hulls_and_parts() -> None:
    assert ee.Geometry.Polygon([[0, -1], [2, -1], [2, 1], [0, 1]]).centroid(1).coordinates().getInfo() == pytest.approx(
        [1, 0], abs=1e-6
    )
    points = ee.Geometry.MultiPoint([[0, 0], [1, 0], [0, 1], [0.2, 0.2]])
    assert len(points.convexHull(1).coordinates().getInfo()[0]) == 4
    assert ee.List(points.geometries()).size().getInfo() == 4
    simple = ee.Geometry.LineString([[0, 0], [1, 0.00001], [2, 0]]).simplify(100).coordinates().getInfo()
    assert simple == [[0, 0], [2, 0]]


def test_shapes_combine() -> None:
    left, right = box(0, 0, 2, 2), box(1, 1, 3, 3)
    got = ee.List(
        [shape.bounds().coordinates() for shape in (left.intersection(right, 1), left.union(right, 1))]
    ).getInfo()
    assert got[0][0][0] == [1, 1]
    assert got[0][0][2] == [2, 2]
    assert got[1][0][2] == [3, 3]
    assert left.difference(right, 1).area(1).getInfo() == pytest.approx(
        left.area(1).subtract(left.intersection(right, 1).area(1)).getInfo(), rel=1e-6
    )


def test_shortest_paths_bulge_towards_the_pole() -> None:
    # Between 0 E and 40 E along 60 N the great circle reaches 61.5 N in the middle: tan(lat) = tan(60) / cos(20).
    top = math.degrees(math.atan(math.tan(math.radians(60)) / math.cos(math.radians(20))))
    ring = [[0, 50], [40, 50], [40, 60], [0, 60]]
    bulged, straight = ee.Geometry.Polygon(ring), ee.Geometry.Polygon(ring, None, False)
    below, above = (ee.Geometry.Point([20, top + step]) for step in (-0.05, 0.05))
    got = ee.List([shape.contains(p) for shape in (bulged, straight) for p in (below, above)]).getInfo()
    assert got == [True, False, False, False]


def test_shapes_meet_across_the_date_line() -> None:
    pacific = box(179, -1, 181, 1)
    got = ee.List(
        [
            pacific.contains(ee.Geometry.Point([-179.5, 0])),
            pacific.intersects(box(-180, -1, -179, 1)),
            pacific.contains(ee.Geometry.Point([178, 0])),
            pacific.disjoint(box(0, 0, 1, 1)),
            box(-179.9, 0, -179.8, 0.1).containedIn(pacific),
        ]
    ).getInfo()
    assert got == [True, True, False, True, True]


def band(west: float, east: float) -> Any:
    """Box between 10 S and 10 N."""
    return box(west, -10, east, 10)


def table(*shapes: Any) -> Any:
    """Make a collection of features."""
    return ee.FeatureCollection([ee.Feature(shape) for shape in shapes])


OVER_180: list[tuple[str, Any, float]] = [
    ("intersection", lambda: band(170, 190).intersection(band(-180, -175), 1), 5),
    ("intersection the other way", lambda: band(-180, -175).intersection(band(170, 190), 1), 5),
    ("intersection all round", lambda: band(-180, 180).intersection(band(170, 190), 1), 20),
    ("difference", lambda: band(170, 190).difference(band(-180, -175), 1), 15),
    ("difference all round", lambda: band(-180, 180).difference(band(170, 190), 1), 340),
    ("union", lambda: band(-180, -175).union(band(170, 190), 1), 20),
    ("union all round", lambda: band(-180, 180).union(band(170, 190), 1), 360),
    ("symmetric difference", lambda: band(170, 190).symmetricDifference(band(-175, -165), 1), 20),
    ("symmetric difference all round", lambda: band(-180, 180).symmetricDifference(band(170, 190), 1), 340),
    ("of a table", lambda: table(band(170, 190), band(-180, -175)).geometry(1), 20),
    (
        "of a table all round",
        lambda: table(band(-180, 180), band(-180, -175), band(170, 190)).union(1).geometry(1),
        360,
    ),
    ("footprint of a clip", lambda: ee.Image(1).clip(band(170, 190)).clip(band(-180, -175)).geometry(1), 5),
    (
        "footprint of a sum",
        lambda: ee.Image(1).clip(band(-180, -175)).add(ee.Image(1).clip(band(170, 190))).geometry(1),
        5,
    ),
]


@pytest.mark.parametrize(("made", "width"), [row[1:] for row in OVER_180], ids=[row[0] for row in OVER_180])
def test_shapes_combine_across_the_date_line(made: Any, width: float) -> None:
    """Width in degrees of a band between 10 S and 10 N; the edges of footprints are shortest paths."""
    assert made().area(1).getInfo() == pytest.approx(zone_m2(-10, 10, width), rel=1e-3)


def test_a_band_around_the_globe_contains_what_crosses_the_date_line() -> None:
    got = ee.List(
        [
            band(-180, 180).contains(band(170, 190), 1),
            band(170, 190).containedIn(band(-180, 180), 1),
            band(170, 190).contains(band(-180, 180), 1),
        ]
    )
    assert got.getInfo() == [True, True, False]


def test_a_geometry_keeps_its_crs_and_can_change_it() -> None:
    x, y = Transformer.from_crs(4326, 32632, always_xy=True).transform(9.0, 50.0)
    utm = ee.Geometry.Rectangle([x, y, x + 640, y + 640], "EPSG:32632", False)
    found = utm.getInfo()
    assert found["crs"]["properties"]["name"] == "EPSG:32632"
    area, lonlat = ee.List([utm.area(0.1), utm.transform("EPSG:4326", 0.1).coordinates()]).getInfo()
    assert area == pytest.approx(640 * 640, rel=1e-3)  # the scale of UTM at its middle meridian is 0.9996
    assert [9.0, 50.0] in [pytest.approx(p, abs=1e-9) for p in lonlat[0]]
    assert utm.area(0.1, "EPSG:32632").getInfo() == pytest.approx(640 * 640, rel=1e-9)
    assert utm.buffer(10).bounds(0.1, "EPSG:32632").area(0.1, "EPSG:32632").getInfo() == pytest.approx(660**2, rel=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 60))
def test_random_points_lie_in_their_region_and_are_decided_by_the_seed(seed: int, count: int) -> None:
    region = ee.Geometry.Polygon([[10, 40], [20, 40], [15, 60]], None, False)
    draw = ee.FeatureCollection.randomPoints(region, count, seed)
    again, other, outside = ee.List(
        [
            ee.FeatureCollection.randomPoints(region, count, seed).geometry().coordinates(),
            ee.FeatureCollection.randomPoints(region, count, seed + 1).geometry().coordinates(),
            draw.filter(ee.Filter.isContained(".geo", region).Not()).size(),
        ]
    ).getInfo()
    features = draw.getInfo()["features"]
    assert len(features) == count
    assert [f["id"] for f in features] == [str(k) for k in range(count)]
    assert again == draw.geometry().coordinates().getInfo()
    assert other != again
    assert outside == 0


def test_random_points_are_even_on_the_sphere() -> None:
    # Half of a hemisphere's area is below 30 degrees.
    points = ee.FeatureCollection.randomPoints(ee.Geometry.BBox(-180, 0, 180, 90), 2000, 3)
    below = points.filterBounds(ee.Geometry.BBox(-180, 0, 180, 30)).size().getInfo()
    assert below == pytest.approx(1000, abs=4 * math.sqrt(500))


def test_a_point_needs_two_numbers() -> None:
    wrong = ee.ApiFunction.call_("GeometryConstructors.Point", [1.0, 2.0, 3.0])
    assert "Point coordinates must have two elements" in refusal(wrong)


# ---------------------------------------------------------------- error margins

MARGIN = "Unable to perform this geometry operation. Please specify a non-zero error margin."
UTM_SQUARE = [[5e5, 5e6], [5.1e5, 5e6], [5.1e5, 5.01e6], [5e5, 5.01e6], [5e5, 5e6]]


@pytest.mark.parametrize("name", ["area", "perimeter", "length", "centroid", "bounds", "convexHull", "dissolve"])
def test_what_meets_another_crs_needs_an_error_margin_where_there_is_no_default(name: str) -> None:
    """Messages as in public change logs: "Geometry.area: Unable to perform ...", and of the centroid likewise."""
    square = ee.Geometry.Polygon([UTM_SQUARE], "EPSG:32632", False)
    feature = ee.Feature(square)
    assert refusal(getattr(square, name)()) == f"Geometry.{name}: {MARGIN}"
    assert refusal(getattr(feature, name)(maxError=0)) == f"Feature.{name}: {MARGIN}"
    for fine in (
        getattr(square, name)(maxError=1),
        getattr(square, name)(proj="EPSG:32632"),
        getattr(box(9, 45, 9.1, 45.1), name)(),
    ):
        assert fine.getInfo() is not None


@pytest.mark.parametrize("name", ["intersects", "contains", "intersection", "union", "distance"])
def test_two_geometries_need_a_margin_where_either_is_in_another_crs(name: str) -> None:
    square, other = ee.Geometry.Polygon([UTM_SQUARE], "EPSG:32632", False), box(9, 45, 9.1, 45.1)
    assert refusal(getattr(other, name)(square)) == f"Geometry.{name}: {MARGIN}"
    assert getattr(other, name)(square, maxError=1).getInfo() is not None


def test_points_filters_and_buffers_need_no_margin() -> None:
    """Points have no edges; filters have a default (0.1 m), and a buffer uses a share of its distance."""
    point = ee.Geometry.Point([5e5, 5e6], "EPSG:32632")
    assert point.transform("EPSG:4326").coordinates().getInfo()[0] == pytest.approx(9.0)
    square = ee.Geometry.Polygon([UTM_SQUARE], "EPSG:32632", False)
    assert refusal(square.transform("EPSG:4326")) == f"Geometry.transform: {MARGIN}"
    assert square.buffer(10).getInfo()["type"] == "Polygon"
    assert ee.FeatureCollection([ee.Feature(point)]).filterBounds(square).size().getInfo() == 1
    table = ee.FeatureCollection([ee.Feature(square)])
    assert refusal(table.geometry()) == f"Collection.geometry: {MARGIN}"
    assert table.geometry(1).getInfo()["type"] == "Polygon"
