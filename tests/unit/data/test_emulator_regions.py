"""Reducers, composites, regions and samples, against answers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from emulator_pixels import UTM, array, call, grid, image_of, line, pixels, ramp

from mmearth_data.emulator.algorithms.collections import of_elements
from mmearth_data.emulator.algorithms.features import Feature
from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.image import Image, PixelType, Projection
from mmearth_data.emulator.errors import EmulatorError


def square(west: float, south: float, east: float, north: float) -> Geometry:
    """Rectangle in metres from the corner of the ramp's first pixel; y counts up."""
    return Geometry(
        shapely.box(500_000 + west, 5_000_000 + south, 500_000 + east, 5_000_000 + north), "EPSG:32632", geodesic=False
    )


# ---------------------------------------------------------------- reducers of numbers

NUMBERS = [1.0, 2.0, 2.0, 7.0]
FLAT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("sum", {}, {"sum": 12}),
    ("mean", {}, {"mean": 3}),
    ("min", {}, {"min": 1}),
    ("max", {}, {"max": 7}),
    ("minMax", {}, {"min": 1, "max": 7}),
    ("product", {}, {"product": 28}),
    ("count", {}, {"count": 4}),
    ("median", {}, {"median": 2}),
    ("mode", {}, {"mode": 2}),
    ("first", {}, {"first": 1}),
    ("last", {}, {"last": 7}),
    ("firstNonNull", {}, {"first": 1}),
    ("lastNonNull", {}, {"last": 7}),
    ("allNonZero", {}, {"all": 1}),
    ("anyNonZero", {}, {"any": 1}),
    ("variance", {}, {"variance": 5.5}),
    ("stdDev", {}, {"stdDev": math.sqrt(5.5)}),
    ("sampleVariance", {}, {"variance": 22 / 3}),
    ("sampleStdDev", {}, {"stdDev": math.sqrt(22 / 3)}),
    ("percentile", {"percentiles": [0, 50, 100]}, {"p0": 1, "p50": 2, "p100": 7}),
    ("percentile", {"percentiles": [50], "outputNames": ["middle"]}, {"middle": 2}),
    ("toList", {}, {"list": [1, 2, 2, 7]}),
    ("frequencyHistogram", {}, {"histogram": {"1": 1, "2": 2, "7": 1}}),
    ("countDistinct", {}, {"count": 3}),
    ("fixedHistogram", {"min": 0, "max": 8, "steps": 2}, {"histogram": [[0, 3], [4, 1]]}),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), FLAT, ids=[row[0] for row in FLAT])
def test_reducers_of_four_numbers(name: str, arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    found = call(f"Reducer.{name}", **arguments).reduce_values([[number] for number in NUMBERS])
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value) if isinstance(value, float) else value)


def test_reducers_of_nothing_give_null() -> None:
    for name in ("mean", "min", "max", "median", "mode", "first", "stdDev"):
        assert set(call(f"Reducer.{name}").reduce_values([]).values()) == {None}, name
    assert call("Reducer.count").reduce_values([]) == {"count": 0}
    assert call("Reducer.mean").reduce_values([[None], [4.0]]) == {"mean": 4}


def test_reducers_side_by_side_repeated_and_renamed() -> None:
    mean, count = call("Reducer.mean"), call("Reducer.count")
    shared = call("Reducer.combine", reducer1=mean, reducer2=count, sharedInputs=True)
    assert shared.reduce_values([[1.0], [3.0]]) == {"mean": 2, "count": 2}
    apart = call("Reducer.combine", reducer1=mean, reducer2=mean, outputPrefix="second_")
    assert apart.reduce_values([[1.0, 10.0], [3.0, 30.0]]) == {"mean": 2, "second_mean": 20}
    twice = call("Reducer.repeat", reducer=mean, count=2)
    assert twice.reduce_values([[1.0, 10.0], [3.0, 30.0]]) == {"mean": [2, 20]}
    assert call("Reducer.setOutputs", reducer=mean, outputs=["average"]).reduce_values([[4.0]]) == {"average": 4}
    assert call("Reducer.getOutputs", reducer=shared) == ["mean", "count"]


def test_fits_and_correlations_of_two_columns() -> None:
    rows = [[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]]
    assert call("Reducer.linearFit").reduce_values(rows) == {"scale": pytest.approx(2), "offset": pytest.approx(1)}
    assert call("Reducer.pearsonsCorrelation").reduce_values(rows)["correlation"] == pytest.approx(1)


def test_groups() -> None:
    grouped = call("Reducer.group", reducer=call("Reducer.sum"), groupField=1, groupName="class")
    found = grouped.reduce_values([[1.0, 5.0], [2.0, 5.0], [10.0, 7.0]])
    assert found == {"groups": [{"class": 5, "sum": 3}, {"class": 7, "sum": 10}]}


def test_the_output_of_groups_is_named_groups() -> None:
    """Reference of `Reducer.setOutputs` and `Reducer.combine`: outputs are renamed, dropped or prefixed."""
    grouped = call("Reducer.group", reducer=call("Reducer.minMax"), groupField=1)
    rows = [[1.0, 5.0], [2.0, 5.0]]
    expected = [{"group": 5, "min": 1, "max": 2}]
    assert call("Reducer.getOutputs", reducer=grouped) == ["groups"]
    renamed = call("Reducer.setOutputs", reducer=grouped, outputs=["zones"])
    assert renamed.reduce_values(rows) == {"zones": expected}
    combined = call("Reducer.combine", reducer1=call("Reducer.mean"), reducer2=grouped, outputPrefix="by_")
    assert call("Reducer.getOutputs", reducer=combined) == ["mean", "by_groups"]
    assert combined.reduce_values([[7.0, *row] for row in rows]) == {"mean": 7, "by_groups": expected}


@pytest.mark.parametrize("nothing", ["", None])
def test_outputs_without_a_name_are_dropped(nothing: str | None) -> None:
    """Reference: "any output whose name is null or empty will be dropped"."""
    kept = call("Reducer.setOutputs", reducer=call("Reducer.minMax"), outputs=[nothing, "top"])
    assert kept.reduce_values([[1.0], [3.0]]) == {"top": 3}
    assert call("Image.reduce", image=array([1, 2]), reducer=kept).names == ["top"]
    listed = call("Reducer.combine", reducer1=call("Reducer.toList"), reducer2=call("Reducer.max"), sharedInputs=True)
    kept = call("Reducer.setOutputs", reducer=listed, outputs=[nothing, "top"])
    assert kept.reduce_values([[1.0], [3.0]]) == {"top": 3}


def test_names_of_outputs_are_texts() -> None:
    with pytest.raises(EmulatorError, match=r"Reducer.setOutputs, argument 'outputs': Invalid type"):
        call("Reducer.setOutputs", reducer=call("Reducer.mean"), outputs=[1])


def test_a_fixed_histogram_excludes_its_maximum() -> None:
    """Reference: values outside of [min, max) are ignored."""
    histogram = call("Reducer.fixedHistogram", min=0, max=6, steps=3)
    assert histogram.reduce_values([[0.0], [2.0], [5.9], [6.0]]) == {"histogram": [[0, 1], [2, 1], [4, 1]]}


# ---------------------------------------------------------------- composites


def stack() -> Any:
    """Three images over four pixels."""
    images = [array([1, 2, None, None]), array([3, None, None, 5]), array([3, 8, None, None])]
    return of_elements(images)


COMPOSITES: list[tuple[str, list[float | None]]] = [
    ("ImageCollection.mosaic", [3, 8, None, 5]),
    ("reduce.min", [1, 2, None, 5]),
    ("reduce.max", [3, 8, None, 5]),
    ("reduce.sum", [7, 10, None, 5]),
    ("reduce.mean", [7 / 3, 5, None, 5]),
    ("reduce.median", [3, 5, None, 5]),
    ("reduce.mode", [3, 2, None, 5]),
    ("reduce.count", [3, 2, 0, 1]),
    ("reduce.product", [9, 16, None, 5]),
    ("reduce.and", [1, 1, None, 1]),
    ("reduce.or", [1, 1, None, 1]),
]


@pytest.mark.parametrize(("name", "expected"), COMPOSITES, ids=[row[0] for row in COMPOSITES])
def test_composites(name: str, expected: list[float | None]) -> None:
    image = call(name, collection=stack())
    assert image.names == ["b"]
    assert call("Image.projection", image=image) == Projection("EPSG:4326")
    found = line(image)
    assert [v is None for v in found] == [v is None for v in expected]
    assert [v or 0 for v in found] == pytest.approx([v or 0 for v in expected])


def test_of_equally_frequent_values_the_mode_is_the_lowest() -> None:
    """Not documented: one function decides it."""
    assert line(call("reduce.mode", collection=of_elements([array([7]), array([2])])), 1) == [2]


def test_reduce_adds_the_output_to_the_names() -> None:
    image = call("ImageCollection.reduce", collection=stack(), reducer=call("Reducer.minMax"))
    assert image.names == ["b_min", "b_max"]
    assert [line(image, 2, k) for k in (0, 1)] == [[1, 2], [3, 8]]
    across = call(
        "Image.reduce", image=call("Image.cat", images=[array([1]), array([5])]), reducer=call("Reducer.mean")
    )
    assert (across.names, line(across, 1)) == (["mean"], [3])


def test_to_bands_prefixes_names_with_the_index() -> None:
    images = [array([k]).with_properties({"system:index": f"S{k}"}) for k in (1, 2)]
    named = call("ImageCollection.toBands", collection=of_elements(images))
    assert named.names == ["0_b", "1_b"]


def test_quality_mosaic_takes_the_best_image() -> None:
    def image(value: float, quality: float | None) -> Image:
        return call("Image.cat", images=[array([value]), array([quality], name="q")])

    found = call(
        "ImageCollection.qualityMosaic",
        collection=of_elements([image(1, 5), image(2, 9), image(3, None)]),
        qualityBand="q",
    )
    assert [line(found, 1, k) for k in (0, 1)] == [[2], [9]]


def test_an_empty_collection_reduces_to_an_image_without_bands() -> None:
    """A reducer over an empty collection gives no bands; selecting from it is an error."""
    for name in ("reduce.mode", "reduce.median", "ImageCollection.mosaic"):
        image = call(name, collection=of_elements([], "Image"))
        assert image.names == []
        with pytest.raises(EmulatorError, match="was applied to an Image with no bands"):
            call("Image.select", input=image, bandSelectors=["label"])


# ---------------------------------------------------------------- regions


def test_pixels_count_with_their_share_of_the_region() -> None:
    """Half of pixel 0 and all of pixel 1: (0 * 0.5 + 1 * 1) / 1.5."""
    found = call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.mean"), geometry=square(5, -10, 20, 0))
    assert found == {"b": pytest.approx(1 / 1.5)}
    summed = call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.sum"), geometry=square(5, -10, 20, 0))
    assert summed == {"b": pytest.approx(1)}
    plain = call("Reducer.unweighted", reducer=call("Reducer.mean"))
    for west, mean in ((4, 0.5), (6, 1.0)):  # unweighted: pixels whose centres are inside
        assert call("Image.reduceRegion", image=ramp(), reducer=plain, geometry=square(west, -10, 20, 0)) == {"b": mean}
    count = call("Reducer.count")
    for west, number in ((4, 2), (6, 1)):
        found = call("Image.reduceRegion", image=ramp(), reducer=count, geometry=square(west, -10, 20, 0))
        assert found == {"b": number}
    assert call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.max"), geometry=square(5, -10, 20, 0)) == {
        "b": 1
    }


def test_reducers_of_several_parts_are_unweighted_as_a_whole() -> None:
    """Pixels 0 and 1 have their centres in the region, pixel 2 with a share of 0.3 has not: means of whole pixels."""
    mean, histogram = call("Reducer.mean"), call("Reducer.frequencyHistogram")
    zones = call("Image.addBands", dstImg=ramp(), srcImg=ramp(name="zone"))

    def found(reducer: Any, image: Image) -> Any:
        unweighted = call("Reducer.unweighted", reducer=reducer)
        return call("Image.reduceRegion", image=image, reducer=unweighted, geometry=square(2, -10, 23, 0))

    both = call("Reducer.combine", reducer1=mean, reducer2=histogram, sharedInputs=True)
    assert found(both, ramp()) == {"b_mean": 0.5, "b_histogram": {"0": 1, "1": 1}}
    assert found(call("Reducer.toList"), ramp()) == {"b": [0, 1]}
    assert found(call("Reducer.repeat", reducer=mean, count=2), zones) == {"mean": [0.5, 0.5]}
    grouped = call("Reducer.group", reducer=call("Reducer.sum"), groupField=1)
    expected = [{"group": 0, "sum": 0}, {"group": 1, "sum": 1}]
    assert found(grouped, zones) == {"groups": expected}
    assert found(call("Reducer.setOutputs", reducer=grouped, outputs=["zones"]), zones) == {"zones": expected}


@pytest.mark.parametrize(("share", "expected"), [(0.9 / 256, None), (1.1 / 256, 1.0), (0.5, 1.0)])
def test_a_pixel_with_less_than_a_256th_does_not_count(share: float, expected: float | None) -> None:
    """On the asset's native grid."""
    found = call(
        "Image.reduceRegion",
        image=ramp(),
        reducer=call("Reducer.mean"),
        geometry=square(10, -10 * share, 20, 0),
    )
    assert found == {"b": expected}


def test_shares_come_in_steps_of_a_256th() -> None:
    """Three quarters of a step are dropped: 10.75 / 256 counts as 10 / 256."""
    found = call(
        "Image.reduceRegion",
        image=call("Image.constant", value=1),
        reducer=call("Reducer.sum"),
        geometry=square(0, -10, 10 * 10.75 / 256, 0),
        crs="EPSG:32632",
        scale=10,
    )
    assert found == {"constant": pytest.approx(10 / 256)}


def test_at_ten_metres_a_tile_covers_whole_pixels_of_a_coarse_asset() -> None:
    coarse = Projection("EPSG:32632", (40.0, 0.0, 500_000.0, 0.0, -40.0, 5_000_000.0))
    image = array([1, 2])
    found = call(
        "Image.reduceRegion",
        image=image_of(lambda c, r: c, projection=coarse),
        reducer=call("Reducer.mean"),
        geometry=square(30, -40, 70, 0),
        crs="EPSG:32632",
        scale=10,
    )
    assert found == {"b": 0.75}  # one column of pixels in the first cell, three in the second
    assert image.names == ["b"]


def test_no_valid_pixel_is_null() -> None:
    empty = array([None, None])
    found = call("Image.reduceRegion", image=empty, reducer=call("Reducer.mean"), geometry=square(0, -10, 20, 0))
    assert found == {"b": None}
    half = call(
        "Image.reduceRegion", image=array([None, 4]), reducer=call("Reducer.mean"), geometry=square(0, -10, 20, 0)
    )
    assert half == {"b": 4}


def test_names_of_results_follow_bands_and_outputs() -> None:
    both = call("Image.cat", images=[ramp(name="x"), ramp(name="y")])
    area = square(0, -10, 20, 0)
    assert call("Image.reduceRegion", image=both, reducer=call("Reducer.max"), geometry=area) == {"x": 1, "y": 1}
    assert call("Image.reduceRegion", image=both, reducer=call("Reducer.minMax"), geometry=area) == {
        "x_min": 0,
        "x_max": 1,
        "y_min": 0,
        "y_max": 1,
    }
    points = Geometry(shapely.Point(500_015, 4_999_985), "EPSG:32632", geodesic=False)
    assert call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.first"), geometry=points) == {"b": 101}


def test_aggregations_that_are_refused() -> None:
    composite = call("ImageCollection.mosaic", collection=[ramp()])
    with pytest.raises(EmulatorError, match="default WGS84 projection is invalid for aggregations"):
        call("Image.reduceRegion", image=composite, reducer=call("Reducer.mean"), geometry=square(0, -10, 10, 0))
    with pytest.raises(
        EmulatorError, match=r"Too many pixels in the region\. Found 400, but maxPixels allows only 100"
    ):
        call(
            "Image.reduceRegion",
            image=ramp(),
            reducer=call("Reducer.mean"),
            geometry=square(0, -200, 200, 0),
            maxPixels=100,
        )
    best = call(
        "Image.reduceRegion",
        image=ramp(),
        reducer=call("Reducer.count"),
        geometry=square(0, -200, 200, 0),
        maxPixels=100,
        bestEffort=True,
    )
    assert best == {"b": 100}
    with pytest.raises(EmulatorError, match="unbounded"):
        call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.mean"))


def test_reduce_regions_names_one_band_by_the_output() -> None:
    features = of_elements([Feature(square(0, -10, 20, 0), {"name": "a"}), Feature(square(0, -10, 10, 0))])
    one = call("Image.reduceRegions", image=ramp(), collection=features, reducer=call("Reducer.mean")).elements()
    assert [f.properties["mean"] for f in one] == [0.5, 0]
    assert one[0].properties["name"] == "a"
    both = call("Image.cat", images=[ramp(name="x"), ramp(name="y")])
    two = call("Image.reduceRegions", image=both, collection=features, reducer=call("Reducer.mean")).elements()
    assert {k: v for k, v in two[0].properties.items() if k in "xy"} == {"x": 0.5, "y": 0.5}


def metres(*at: tuple[float, float]) -> list[tuple[float, float]]:
    """Positions in metres from the corner of the ramp's first pixel; y counts up."""
    return [(500_000 + x, 5_000_000 + y) for x, y in at]


DIAGONAL = shapely.LineString(metres((5, -5), (47, -49), (33, -61)))
LINES: list[tuple[str, Any]] = [
    ("across four pixels", shapely.LineString(metres((5, -5), (35, -5)))),
    ("diagonal", DIAGONAL),
    ("along the border of two rows", shapely.LineString(metres((5, -10), (35, -10)))),
    ("through corners", shapely.LineString(metres((3, -13), (43, -53)))),
    ("several", shapely.MultiLineString([DIAGONAL, shapely.LineString(metres((62, -3), (62, -38)))])),
    ("closed", shapely.LinearRing(metres((5, -5), (47, -9), (22, -42)))),
    ("in a collection", shapely.GeometryCollection([shapely.MultiLineString([DIAGONAL])])),
]


def touched(shape: shapely.Geometry) -> list[float]:
    """Values of the ramp's pixels that share a piece with lines; the border of two pixels is that of the lower right."""
    found = []
    for row in range(10):
        for column in range(10):
            west, north = 500_000 + 10 * column, 5_000_000 - 10 * row
            pixel = shapely.box(west + 1e-6, north - 10 + 1e-6, west + 10, north)
            if shapely.length(shapely.intersection(pixel, shape)) > 1e-4:
                found.append(column + 100.0 * row)
    return found


@pytest.mark.parametrize("shape", [shape for _, shape in LINES], ids=[name for name, _ in LINES])
def test_the_pixels_of_a_line_are_those_that_it_passes_through(shape: shapely.Geometry) -> None:
    geometry, expected = Geometry(shape, "EPSG:32632", geodesic=False), touched(shape)
    assert len(expected) >= 4
    for reducer in (call("Reducer.toList"), call("Reducer.unweighted", reducer=call("Reducer.toList"))):
        assert call("Image.reduceRegion", image=ramp(), reducer=reducer, geometry=geometry) == {"b": expected}
    counted = call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.count"), geometry=geometry)
    mean = call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.mean"), geometry=geometry)
    assert (counted, mean) == ({"b": len(expected)}, {"b": pytest.approx(np.mean(expected))})
    table = of_elements([Feature(geometry)])
    sampled = (
        call("Image.sample", image=ramp(), region=geometry),
        call("Image.sampleRegions", image=ramp(), collection=table),
    )
    for found in sampled:
        assert [feature.properties["b"] for feature in found.elements()] == expected
    rows = call("ImageCollection.getRegion", collection=of_elements([ramp()]), geometry=geometry, scale=10, crs=UTM)
    assert [row[4] for row in rows[1:]] == expected


def test_a_collection_covers_the_pixels_of_all_its_parts() -> None:
    """The polygon has half of pixel 0, the line all of 2 and 3, the point all of 105."""
    parts = [
        shapely.box(500_000, 4_999_990, 500_005, 5_000_000),
        shapely.LineString(metres((25, -5), (35, -5))),
        shapely.Point(metres((55, -15))[0]),
    ]
    mixed = Geometry(shapely.GeometryCollection(parts), "EPSG:32632", geodesic=False)
    found = call("Image.reduceRegion", image=ramp(), reducer=call("Reducer.sum"), geometry=mixed)
    weight = call("Image.constant", value=1)
    total = call("Image.reduceRegion", image=weight, reducer=call("Reducer.sum"), geometry=mixed, crs=UTM)
    assert (found, total) == ({"b": 110}, {"constant": 3.5})


def test_pixels_of_a_sheared_grid_count_with_their_share() -> None:
    """A parallelogram along two pixels of the grid, and half of a third."""
    sheared = Projection("EPSG:32632", (10.0, 5.0, 500_000.0, 2.0, -10.0, 5_000_000.0))
    columns, rows = np.array([0, 2.5, 2.5, 0]), np.array([0, 0, 1, 1])
    strip = Geometry(shapely.Polygon(np.stack(sheared.to_crs(columns, rows), axis=1)), "EPSG:32632", geodesic=False)
    image = ramp(projection=sheared)
    assert call("Image.reduceRegion", image=image, reducer=call("Reducer.sum"), geometry=strip) == {"b": 2}


@pytest.mark.parametrize("shape", [DIAGONAL, shapely.Point(500_005, 4_999_995)], ids=["line", "point"])
def test_clipping_and_painting_need_polygons(shape: shapely.Geometry) -> None:
    geometry = Geometry(shape, "EPSG:32632", geodesic=False)
    clipped = call("Image.clip", input=ramp(), geometry=geometry)
    painted = call("Image.paint", image=ramp(), featureCollection=of_elements([Feature(geometry)]), color=1)
    for image in (clipped, painted):
        with pytest.raises(EmulatorError, match=f"found a {shape.geom_type}, whose pixels are not emulated"):
            pixels(image)


@pytest.mark.parametrize("name", ["reduceRegion", "sample", "stratifiedSample", "sampleRectangle"])
def test_an_empty_region_is_refused(name: str) -> None:
    empty = Geometry(shapely.box(0, 0, 1, 1).buffer(-2), "EPSG:32632", geodesic=False)
    given = {"reduceRegion": {"reducer": call("Reducer.mean"), "geometry": empty}}
    rest = {"region": empty, **({"numPoints": 1} if name == "stratifiedSample" else {})}
    with pytest.raises(EmulatorError, match="found an empty geometry"):
        call(f"Image.{name}", image=ramp(kind=PixelType("int")), **given.get(name, rest))


# ---------------------------------------------------------------- samples


def test_sample_makes_a_feature_of_each_pixel() -> None:
    found = call("Image.sample", image=array([1, 2, None]), region=square(0, -10, 30, 0), geometries=True).elements()
    assert [f.properties["b"] for f in found] == [1, 2]
    x, y = shapely.get_coordinates(found[0].geometry.shape)[0]
    lon, lat = grid(1, 1).centres("EPSG:4326")
    assert (x, y) == (pytest.approx(lon[0, 0]), pytest.approx(lat[0, 0]))
    kept = call("Image.sample", image=array([1, 2]), region=square(0, -10, 20, 0), numPixels=1, seed=3).elements()
    assert len(kept) == 1
    assert kept[0].geometry is None


def test_sample_regions_keeps_properties() -> None:
    features = of_elements([Feature(square(0, -10, 20, 0), {"label": 4, "other": 5})])
    found = call("Image.sampleRegions", image=ramp(), collection=features, properties=["label"]).elements()
    assert [(f.properties["label"], f.properties["b"], "other" in f.properties) for f in found] == [
        (4, 0, False),
        (4, 1, False),
    ]
    assert [f.properties["system:index"] for f in found] == ["0_0", "0_1"]


def test_stratified_sample_draws_from_each_class() -> None:
    image = image_of(lambda c, r: c % 2, kind=PixelType("int", 0, 1), name="class")
    found = call("Image.stratifiedSample", image=image, numPoints=3, region=square(0, -100, 100, 0)).elements()
    assert sorted(f.properties["class"] for f in found) == [0, 0, 0, 1, 1, 1]


def test_sample_rectangle_and_get_region() -> None:
    found = call("Image.sampleRectangle", image=ramp(), region=square(0, -20, 20, 0))
    assert found.properties["b"] == [[0, 1], [100, 101]]
    with pytest.raises(EmulatorError, match="no default value"):
        call("Image.sampleRectangle", image=array([1, None]), region=square(0, -10, 20, 0))
    filled = call("Image.sampleRectangle", image=array([1, None]), region=square(0, -10, 20, 0), defaultValue=-1)
    assert filled.properties["b"] == [[1, -1]]
    timed = of_elements([array([3, 4]).with_properties({"system:time_start": 1000})])
    table = call(
        "ImageCollection.getRegion", collection=timed, geometry=square(0, -10, 20, 0), scale=10, crs="EPSG:32632"
    )
    assert table[0] == ["id", "longitude", "latitude", "time", "b"]
    assert [(row[0], row[3], row[4]) for row in table[1:]] == [("0", 1000, 3), ("0", 1000, 4)]


def test_rectangles_are_sampled_in_the_projection_of_each_band() -> None:
    coarser = image_of(lambda c, r: c + 100.0 * r, projection=coarse(20), name="wide")
    both = call("Image.cat", images=[ramp(name="fine"), coarser])
    image = both.with_properties({"tile": "32T", "system:index": "S0"})
    found = call("Image.sampleRectangle", image=image, region=square(0, -40, 60, 0))
    assert found.properties["wide"] == [[0, 1, 2], [100, 101, 102]]
    assert np.shape(found.properties["fine"]) == (4, 6)
    assert set(found.properties) == {"tile", "fine", "wide"}  # "all non-system properties"
    named = call("Image.sampleRectangle", image=image, region=square(0, -40, 60, 0), properties=["system:index"])
    assert set(named.properties) == {"system:index", "fine", "wide"}
    bounded = Image(ramp().bands, {}, square(0, -20, 20, 0).lonlat)
    assert call("Image.sampleRectangle", image=bounded).geometry.lonlat.equals(bounded.footprint)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"numPixels": 2, "factor": 0.5}, "Expected factor or numPixels, found both"),
        ({"factor": 2.0}, r"Expected a factor within \(0, 1\], found 2"),
        ({"factor": 0.0}, "Expected a factor within"),
    ],
)
def test_the_number_of_samples_is_a_count_or_a_share(given: dict[str, Any], why: str) -> None:
    assert len(call("Image.sample", image=ramp(), region=square(0, -10, 20, 0), factor=0.5).elements()) == 1
    with pytest.raises(EmulatorError, match=why):
        call("Image.sample", image=ramp(), region=square(0, -10, 20, 0), **given)


def test_classes_of_a_stratified_sample_are_integers_and_not_masked() -> None:
    classes = image_of(lambda c, r: c % 2, valid=lambda c, r: c != 1, kind=PixelType("int", 0, 1), name="class")
    image, region = call("Image.cat", images=[ramp(), classes]), square(0, -30, 40, 0)
    given = {"image": image, "classBand": "class", "region": region, "dropNulls": False}
    found = call("Image.stratifiedSample", numPoints=100, **given).elements()
    assert sorted((f.properties["class"], f.properties["b"] % 100) for f in found) == sorted(
        [(0, 0), (0, 2), (1, 3)] * 3
    )
    some = call("Image.stratifiedSample", numPoints=3, classValues=[0], classPoints=[1], **given).elements()
    assert sorted(f.properties["class"] for f in some) == [0, 1, 1, 1]
    with pytest.raises(EmulatorError, match=r"Expected integers in the class band, found Float in 'b'.*toInt"):
        call("Image.stratifiedSample", numPoints=1, image=image, region=region)
    with pytest.raises(EmulatorError, match="must have the same length"):
        call("Image.stratifiedSample", numPoints=1, classValues=[0], **given)


def test_more_values_than_get_region_extracts_are_refused_before_any_is_computed() -> None:
    """The documented limit: 1048576 values."""

    def never(columns: Any, rows: Any) -> Any:
        raise AssertionError("a pixel was computed")

    images = of_elements([image_of(never), image_of(never)])
    for side, count in ((7250, 525_625), (100_000, 100_000_000)):
        with pytest.raises(EmulatorError, match=rf"Too many values: {count} points x 1 bands x 2 images > 1048576"):
            call("ImageCollection.getRegion", collection=images, geometry=square(0, -side, side, 0), scale=10, crs=UTM)
    with pytest.raises(AssertionError, match="a pixel was computed"):  # 524,176 points are few enough
        call("ImageCollection.getRegion", collection=images, geometry=square(0, -7240, 7240, 0), scale=10, crs=UTM)


SCALED: list[tuple[str, dict[str, Any]]] = [
    ("Image.reduceRegion", {"image": ramp(), "reducer": "mean", "geometry": square(0, -10, 20, 0)}),
    ("Image.sample", {"image": ramp(), "region": square(0, -10, 20, 0)}),
    ("Image.reproject", {"image": ramp(), "crs": "EPSG:32632"}),
    ("Image.setDefaultProjection", {"image": ramp(), "crs": "EPSG:4326"}),
    ("Image.clipToBoundsAndScale", {"input": ramp(), "geometry": square(0, -10, 20, 0)}),
]


@pytest.mark.parametrize("scale", [0, -10, math.inf, math.nan])
@pytest.mark.parametrize(("name", "given"), SCALED, ids=[name for name, _ in SCALED])
def test_a_scale_is_positive(name: str, given: dict[str, Any], scale: float) -> None:
    with pytest.raises(EmulatorError, match=rf"Expected a scale above 0, found {scale}"):
        call(name, **given, scale=scale)
    with pytest.raises(EmulatorError, match="Expected a scale above 0"):
        call("Projection.atScale", projection=UTM, meters=scale)


def test_pixels_without_an_area_are_refused() -> None:
    for transform in ([0, 0, 0, 0, -10, 0], [2, 4, 0, 1, 2, 0], [math.nan, 0, 0, 0, 1, 0]):
        with pytest.raises(EmulatorError, match="Expected a projection whose pixels have an area"):
            call("Image.reproject", image=ramp(), crs="EPSG:32632", crsTransform=transform)
    for name in ("width", "height", "maxDimension"):
        with pytest.raises(EmulatorError, match=f"Expected a {name} above 0, found -3"):
            call("Image.clipToBoundsAndScale", input=ramp(), geometry=square(0, -10, 20, 0), **{name: -3})


# ---------------------------------------------------------------- coarser pixels


def coarse(step: float, west: float = 0, south: float = 0) -> Projection:
    """Pixels in metres, from a position relative to the corner of the ramp's first pixel."""
    return Projection("EPSG:32632", (step, 0.0, 500_000.0 + west, 0.0, -step, 5_000_000.0 + south))


def tens(**options: Any) -> Image:
    """Image of column + 10 * row."""
    return image_of(lambda column, row: column + 10.0 * row, **options)


def test_reduce_resolution_takes_all_pixels_instead_of_one() -> None:
    mean = call("Image.reduceResolution", image=ramp(), reducer=call("Reducer.mean"))
    assert pixels(mean, grid(2, 1, coarse(20))) == [[50.5, 52.5]]
    forced = call("Image.reproject", image=mean, crs="EPSG:32632", crsTransform=list(coarse(20).transform))
    assert pixels(forced, grid(2, 1, UTM)) == [[50.5, 50.5]]
    with pytest.raises(EmulatorError, match="Too many input pixels"):
        pixels(
            call("Image.reduceResolution", image=ramp(), reducer=call("Reducer.mean"), maxPixels=3),
            grid(1, 1, coarse(20)),
        )


MEANS = [
    (coarse(25), 0.8 + 8.0),  # (0 * 1 + 1 * 1 + 2 * 0.5) / 2.5 along each axis
    (coarse(20, 5, -5), 11.0),  # half of the outer pixels, all of the middle one
    (coarse(10, 3, 0), 0.3),
    (coarse(5), 0.0),  # within one pixel
    (coarse(-20, 20, -20), 5.5),  # counted from the other corner
]


@pytest.mark.parametrize(("asked", "expected"), MEANS)
def test_pixels_are_weighted_by_the_share_of_the_output_pixel_that_they_cover(
    asked: Projection, expected: float
) -> None:
    mean = call("Image.reduceResolution", image=tens(), reducer=call("Reducer.mean"))
    assert pixels(mean, grid(1, 1, asked)) == [[pytest.approx(expected)]]
    total = call("Image.reduceResolution", image=tens(), reducer=call("Reducer.sum"))  # the shares add up to one
    assert pixels(total, grid(1, 1, asked)) == [[pytest.approx(expected)]]


def test_masked_pixels_do_not_count_and_halves_count_half() -> None:
    mean = call("Reducer.mean")
    holed = call("Image.reduceResolution", image=array([2, None], [4, 8]), reducer=mean)
    assert pixels(holed, grid(2, 1, coarse(20))) == [[pytest.approx(14 / 3), None]]
    half = call("Image.updateMask", image=tens(), mask=call("Image.add", image1=tens(), image2=0.5))
    masked = call("Image.reduceResolution", image=half, reducer=mean)  # weights 0.5, 1, 1, 1
    assert pixels(masked, grid(1, 1, coarse(20))) == [[pytest.approx(22 / 3.5)]]


def test_bands_of_coarser_pixels_are_named_by_the_outputs() -> None:
    both = call("Image.cat", images=[tens(name="x"), ramp(name="y")])
    minmax = call("Image.reduceResolution", image=both, reducer=call("Reducer.minMax"))
    assert minmax.names == ["x_min", "x_max", "y_min", "y_max"]
    assert [pixels(minmax, grid(1, 1, coarse(20)), k) for k in range(4)] == [[[0]], [[11]], [[0]], [[101]]]
    fit = call("Image.reduceResolution", image=both, reducer=call("Reducer.linearFit"))
    assert fit.names == ["scale", "offset"]
    line_of = np.polyfit([0, 1, 10, 11], [0, 1, 100, 101], 1)
    assert [pixels(fit, grid(1, 1, coarse(20)), k)[0][0] for k in (0, 1)] == pytest.approx(list(line_of))
    with pytest.raises(EmulatorError, match="Need 2 bands for the reducer, the image has 1"):
        call("Image.reduceResolution", image=tens(), reducer=call("Reducer.linearFit"))


def test_best_effort_begins_with_coarser_pixels() -> None:
    """8 x 8 pixels are too many, 4 x 4 of the next level are not: each is the pixel nearest to its centre."""
    best = call("Image.reduceResolution", image=tens(), reducer=call("Reducer.mean"), maxPixels=16, bestEffort=True)
    level = pixels(tens(), grid(4, 4, coarse(20)))
    assert pixels(best, grid(1, 1, coarse(80))) == [[np.mean(np.array(level, float))]]


def test_coarser_pixels_that_are_not_emulated_are_refused() -> None:
    mean, count = (
        call("Image.reduceResolution", image=tens(), reducer=call(f"Reducer.{r}")) for r in ("mean", "count")
    )
    assert pixels(count, grid(1, 1, coarse(20))) == [[4]]
    for image, asked, why in (
        (count, coarse(25), "only partly covered is not emulated"),
        (mean, Projection("EPSG:4326", (0.001, 0, 9, 0, -0.001, 45)), "another CRS or direction"),
        (mean, Projection("EPSG:32632", (20, 1, 5e5, 0, -20, 5e6)), "another CRS or direction"),
    ):
        with pytest.raises(EmulatorError, match=why):
            pixels(image, grid(1, 1, asked))


def test_random_numbers_belong_to_places() -> None:
    image = call("Image.random", seed=4)
    whole, part = pixels(image, grid(4, 3)), pixels(image, grid(2, 1, UTM, 1, 1))
    assert part == [whole[1][1:3]]
    assert line(call("Image.random", seed=5)) != line(image)
    many = np.array(pixels(image, grid(100, 100)))
    assert abs(many.mean() - 0.5) < 0.02
