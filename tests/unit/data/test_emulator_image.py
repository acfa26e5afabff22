"""Algorithms on images, against answers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from emulator_pixels import FLOAT, UTM, array, call, grid, image_of, line, pixels, ramp, request_context
from pyproj import Geod, Transformer

from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.image import Grid, Image, PixelType, Projection, constant
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import encode

UNARY: list[tuple[str, list[float], list[float | None]]] = [
    ("abs", [-2.5, 0, 3], [2.5, 0, 3]),
    ("floor", [-1.5, 1.5, 2], [-2, 1, 2]),
    ("ceil", [-1.5, 1.5, 2], [-1, 2, 2]),
    ("round", [-1.6, 1.4, 1.6], [-2, 1, 2]),
    ("signum", [-4, 0, 4], [-1, 0, 1]),
    ("not", [0, 1, -7], [1, 0, 0]),
    ("sqrt", [0, 4, -1], [0, 2, None]),
    ("exp", [0, 1], [1, math.e]),
    ("log", [1, math.e], [0, 1]),
    ("log10", [1, 1000], [0, 3]),
    ("cbrt", [27, -8], [3, -2]),
    ("sin", [0, math.pi / 2], [0, 1]),
    ("cos", [0, math.pi], [1, -1]),
    ("tan", [0, math.pi / 4], [0, 1]),
    ("asin", [0, 1], [0, math.pi / 2]),
    ("acos", [1, 0], [0, math.pi / 2]),
    ("atan", [0, 1], [0, math.pi / 4]),
    ("sinh", [0, 1], [0, math.sinh(1)]),
    ("cosh", [0, 1], [1, math.cosh(1)]),
    ("tanh", [0, 1], [0, math.tanh(1)]),
    ("toFloat", [0.1, 2], [float(np.float32(0.1)), 2]),
    ("toDouble", [0.1, 2], [0.1, 2]),
    ("toByte", [-1, 3.9, 300], [0, 3, 255]),
    ("toUint8", [-1, 3.9, 300], [0, 3, 255]),
    ("toInt8", [-200, -3.9, 200], [-128, -3, 127]),
    ("toUint16", [-1, 3.9, 70_000], [0, 3, 65_535]),
    ("toInt16", [-40_000, -3.9, 40_000], [-32_768, -3, 32_767]),
    ("toShort", [-40_000, -3.9, 40_000], [-32_768, -3, 32_767]),
    ("toUint32", [-1, 3.9, 5e9], [0, 3, 4_294_967_295]),
    ("toInt32", [-3e9, -3.9, 3e9], [-2_147_483_648, -3, 2_147_483_647]),
    ("toInt", [-3.9, 3.9], [-3, 3]),
    ("int", [-3.9, 3.9], [-3, 3]),
    ("toLong", [-3.9, 3.9], [-3, 3]),
    ("bitwiseNot", [0, 5], [-1, -6]),
    ("bitCount", [0, 7, 8], [0, 3, 1]),
]


@pytest.mark.parametrize(("name", "given", "expected"), UNARY, ids=[row[0] for row in UNARY])
def test_one_number_to_one(name: str, given: list[float], expected: list[float | None]) -> None:
    found = line(call(f"Image.{name}", value=array(given)), len(given))
    assert [v is None for v in found] == [v is None for v in expected]
    assert [v or 0 for v in found] == pytest.approx([v or 0 for v in expected])


def test_halves_are_rounded_up() -> None:
    """Not documented: one function, `half_up`, decides it."""
    assert line(call("Image.round", value=array([-1.5, -0.5, 0.5, 1.5]))) == [-1, 0, 1, 2]


BINARY: list[tuple[str, list[float], list[float], list[float | None]]] = [
    ("add", [1, 2], [10, 20], [11, 22]),
    ("subtract", [1, 2], [10, 20], [-9, -18]),
    ("multiply", [3, -2], [4, 5], [12, -10]),
    ("divide", [6, 1, 0], [4, 0, 0], [1.5, 0, 0]),
    ("mod", [7, -7], [3, 3], [1, -1]),
    ("pow", [2, 9], [3, 0.5], [8, 3]),
    ("min", [1, 5], [2, 4], [1, 4]),
    ("max", [1, 5], [2, 4], [2, 5]),
    ("firstNonZero", [0, 5], [2, 4], [2, 5]),
    ("hypot", [3], [4], [5]),
    ("atan2", [1], [1], [math.pi / 4]),
    ("eq", [1, 2], [1, 3], [1, 0]),
    ("neq", [1, 2], [1, 3], [0, 1]),
    ("lt", [1, 2, 3], [2, 2, 2], [1, 0, 0]),
    ("lte", [1, 2, 3], [2, 2, 2], [1, 1, 0]),
    ("gt", [1, 2, 3], [2, 2, 2], [0, 0, 1]),
    ("gte", [1, 2, 3], [2, 2, 2], [0, 1, 1]),
    ("and", [0, 3, 3], [1, 0, 2], [0, 0, 1]),
    ("or", [0, 3, 0], [1, 0, 0], [1, 1, 0]),
    ("bitwiseAnd", [6, 5], [3, 4], [2, 4]),
    ("bitwiseOr", [6], [3], [7]),
    ("bitwiseXor", [6], [3], [5]),
    ("leftShift", [1], [4], [16]),
    ("rightShift", [1024], [10], [1]),
]


@pytest.mark.parametrize(("name", "left", "right", "expected"), BINARY, ids=[row[0] for row in BINARY])
def test_two_numbers_to_one(name: str, left: list[float], right: list[float], expected: list[float | None]) -> None:
    found = line(call(f"Image.{name}", image1=array(left), image2=array(right)), len(expected))
    assert [v is None for v in found] == [v is None for v in expected]
    assert [v or 0 for v in found] == pytest.approx([v or 0 for v in expected])


def test_a_result_is_masked_where_either_side_is() -> None:
    found = call("Image.add", image1=array([1, None, 3, None]), image2=array([1, 2, None, None]))
    assert line(found) == [2, None, None, None]


def test_one_band_pairs_with_each_of_many() -> None:
    many = array([1], name="x").with_bands((*array([1], name="x").bands, *array([2], name="y").bands))
    found = call("Image.multiply", image1=many, image2=10)
    assert found.names == ["x", "y"]
    assert [line(found, 1, k) for k in (0, 1)] == [[10], [20]]
    with pytest.raises(EmulatorError, match="same number of bands"):
        call("Image.add", image1=many, image2=[1, 2, 3])


def bands_of(**values: float) -> Image:
    """Image of constant bands with these names, in this order."""
    return Image(tuple(constant(value, name) for name, value in values.items()))


def test_bands_of_the_same_names_are_paired_by_name() -> None:
    """Reference of `Image.add`: "for each matched pair of bands"; other names "pairwise in the natural order"."""
    left = bands_of(a=1, b=2)
    found = call("Image.add", image1=left, image2=bands_of(b=20, a=10))
    assert (found.names, [line(found, 1, k) for k in (0, 1)]) == (["a", "b"], [[11], [22]])
    found = call("Image.add", image1=left, image2=bands_of(b=20, c=10))
    assert (found.names, [line(found, 1, k) for k in (0, 1)]) == (["a", "b"], [[21], [12]])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("updateMask", ("image", "mask")),
        ("mask", ("image", "mask")),
        ("unmask", ("input", "value")),
        ("blend", ("bottom", "top")),
    ],
)
def test_other_operations_refuse_the_same_names_in_another_order(name: str, arguments: tuple[str, str]) -> None:
    """Their references do not say whether names or the order decide."""
    first, second = arguments
    with pytest.raises(EmulatorError, match=r"Expected bands in the order \['a', 'b'\], found \['b', 'a'\]"):
        call(f"Image.{name}", **{first: bands_of(a=1, b=2), second: bands_of(b=1, a=2)})
    with pytest.raises(EmulatorError, match=r"Image.where: Expected bands in the order \['a', 'b'\]"):
        call("Image.where", input=bands_of(a=1, b=2), test=bands_of(b=1, a=2), value=5)


def test_a_mask_has_one_band_or_those_of_the_image() -> None:
    with pytest.raises(EmulatorError, match="Expected a mask with 1 band or 1, as the image has; got 2"):
        call("Image.updateMask", image=bands_of(a=1), mask=[1, 0])


# ---------------------------------------------------------------- bands


def three_bands() -> Image:
    return array([1], name="B1").with_bands(
        tuple(band for k in (1, 2, 3) for band in array([float(k)], name=f"B{k}").bands)
    )


def test_select_by_name_number_and_pattern() -> None:
    image = three_bands()
    assert call("Image.select", input=image, bandSelectors=["B3", 0]).names == ["B3", "B1"]
    assert call("Image.select", input=image, bandSelectors=["B[12]"]).names == ["B1", "B2"]
    assert call("Image.select", input=image, bandSelectors=["B1"], newNames=["a"]).names == ["a"]
    with pytest.raises(
        EmulatorError, match=r"Band pattern 'B9' did not match any bands. Available bands: \[B1, B2, B3"
    ):
        call("Image.select", input=image, bandSelectors=["B9"])
    with pytest.raises(EmulatorError, match="was applied to an Image with no bands"):
        call("Image.select", input=Image(), bandSelectors=["B9"])
    with pytest.raises(EmulatorError, match="number of names"):
        call("Image.select", input=image, bandSelectors=["B1"], newNames=["a", "b"])


def test_rename_slice_and_regular_expressions() -> None:
    assert call("Image.rename", input=three_bands(), names=["x", "y", "z"]).names == ["x", "y", "z"]
    assert call("Image.slice", image=three_bands(), start=1).names == ["B2", "B3"]
    assert call("Image.slice", image=three_bands(), start=0, end=2).names == ["B1", "B2"]
    renamed = call("Image.regexpRename", input=three_bands(), regex="^B", replacement="band_")
    assert renamed.names == ["band_1", "band_2", "band_3"]
    assert call("Image.bandNames", image=three_bands()) == ["B1", "B2", "B3"]


def test_cat_renames_duplicates() -> None:
    assert call("Image.cat", images=[array([1]), array([2]), array([3])]).names == ["b", "b_1", "b_2"]


def test_add_bands_keeps_or_overwrites() -> None:
    image = three_bands()
    added = call("Image.addBands", dstImg=image, srcImg=array([9], name="B2"))
    assert added.names == ["B1", "B2", "B3", "B2_1"]
    replaced = call("Image.addBands", dstImg=image, srcImg=array([9], name="B2"), overwrite=True)
    assert replaced.names == ["B1", "B2", "B3"]
    assert line(replaced, 1, 1) == [9]
    some = call("Image.addBands", dstImg=array([0]), srcImg=image, names=["B3"])
    assert some.names == ["b", "B3"]


def test_more_bands_than_the_service_takes() -> None:
    with pytest.raises(EmulatorError, match="Too many bands"):
        call("Image.cat", images=[1] * 1025)


def test_projection_needs_one_projection() -> None:
    other = ramp(projection=Projection("EPSG:32633", UTM.transform))
    both = call("Image.cat", images=[ramp(), other])
    assert call("Image.projection", image=ramp()) == UTM
    with pytest.raises(EmulatorError, match="different projections"):
        call("Image.projection", image=both)


def test_normalized_difference_masks_negative_numbers() -> None:
    image = call("Image.cat", images=[array([3, -1, 0]), array([1, 5, 0])])
    found = call("Image.normalizedDifference", input=image)
    assert found.names == ["nd"]
    assert line(found, 3) == [0.5, None, None]


def test_clamp_unit_scale_and_remap() -> None:
    assert line(call("Image.clamp", input=array([-5, 5, 50]), low=0, high=10), 3) == [0, 5, 10]
    assert line(call("Image.unitScale", input=array([0, 5, 10]), low=0, high=10), 3) == [0, 0.5, 1]
    remapped = call("Image.remap", image=array([1, 2, 3]), **{"from": [1, 2], "to": [10, 20]})
    assert remapped.names == ["remapped"]
    assert line(remapped, 3) == [10, 20, None]
    kept = call("Image.remap", image=array([1, 2, 3]), **{"from": [1, 2], "to": [10, 20]}, defaultValue=0)
    assert line(kept, 3) == [10, 20, 0]
    with pytest.raises(EmulatorError, match="differ in length"):
        call("Image.remap", image=array([1]), **{"from": [1, 2], "to": [10]})


def test_interpolate_and_polynomial() -> None:
    image = array([-1, 0.5, 3])
    assert line(call("Image.interpolate", image=image, x=[0, 1, 2], y=[0, 10, 40], behavior="clamp"), 3) == [0, 5, 40]
    assert line(call("Image.interpolate", image=image, x=[0, 1, 2], y=[0, 10, 40]), 3) == [-10, 5, 70]
    assert line(call("Image.interpolate", image=image, x=[0, 1], y=[0, 10], behavior="mask"), 3) == [None, 5, None]
    assert call("Image.interpolate", image=bands_of(a=1, b=2), x=[0, 1], y=[0, 10]).names == ["a"], (
        "the first band only"
    )
    for x in ([1, 0], [0, 0]):
        with pytest.raises(EmulatorError, match="Expected x values that are strictly increasing"):
            call("Image.interpolate", image=image, x=x, y=[0, 10])
    assert line(call("Image.polynomial", image=array([2, 3]), coefficients=[1, 2, 3]), 2) == [17, 34]


def test_cast_and_types() -> None:
    image = call("Image.cast", image=array([3.9]), bandTypes={"b": "uint8"})
    assert image.bands[0].type == PixelType("int", 0, 255)
    assert line(image, 1) == [3]
    assert call("Image.bandTypes", image=image) == {"b": PixelType("int", 0, 255)}


def test_metadata_becomes_a_band() -> None:
    image = array([3]).with_properties({"CLOUD": 12.5})
    band = call("Image.metadata", image=image, property="CLOUD")
    assert band.names == ["CLOUD"]
    assert line(band, 1) == [12.5]


# ---------------------------------------------------------------- masks


def test_update_mask_and_self_mask() -> None:
    assert line(call("Image.updateMask", image=array([1, 2, 3]), mask=array([1, 0, None])), 3) == [1, None, None]
    assert line(call("Image.selfMask", image=array([1, 0, 3])), 3) == [1, None, 3]


def test_mask_reads_and_writes() -> None:
    assert line(call("Image.mask", image=array([7, None])), 3) == [1, 0, 0]
    assert line(call("Image.mask", image=array([7, None, 9]), mask=array([0, 1, 1])), 3) == [None, 0, 9]


def test_unmask_keeps_the_footprint_of_the_input_by_default() -> None:
    """`unmask(v)`: outside the asset stays masked; with sameFootprint=False it does not."""
    lon, lat = grid(2, 1).centres("EPSG:4326")
    reach = (lon[0, 1] - lon[0, 0]) / 2
    only_first = shapely.box(lon[0, 0] - reach, lat[0, 0] - 1, lon[0, 0] + reach, lat[0, 0] + 1)
    image = image_of(lambda c, r: c, valid=lambda c, r: np.zeros(c.shape, bool), footprint=only_first)
    assert line(call("Image.unmask", input=image, value=5), 2) == [5, None]
    assert line(call("Image.unmask", input=image, value=5, sameFootprint=False), 2) == [5, 5]
    assert line(call("Image.unmask", input=image), 2) == [0, None]


def test_where_needs_both_and_keeps_the_mask() -> None:
    found = call(
        "Image.where", input=array([1, 2, 3, None]), test=array([1, 0, None, 1]), value=array([10, 20, 30, 40])
    )
    assert line(found) == [10, 2, 3, None]
    assert line(call("Image.where", input=array([1]), test=array([1]), value=array([None])), 1) == [1]


def test_blend_and_first() -> None:
    assert line(call("Image.blend", bottom=array([1, 2, None]), top=array([None, 20, 30])), 3) == [1, 20, 30]
    found = call("Image.blend", bottom=array([5]), top=bands_of(x=1, y=2))
    assert (found.names, [line(found, 1, k) for k in (0, 1)]) == (["x", "y"], [[1], [2]]), "one band is replicated"


def test_clip_masks_outside() -> None:
    square = Geometry(shapely.box(500_000, 4_999_980, 500_020, 5_000_000), "EPSG:32632", geodesic=False)
    found = pixels(call("Image.clip", input=ramp(), geometry=square))
    assert found == [[0, 1, None, None], [100, 101, None, None], [None] * 4]


# ---------------------------------------------------------------- lattices


def test_native_pixels_are_copied_and_others_are_the_nearest() -> None:
    assert pixels(ramp()) == [[0, 1, 2, 3], [100, 101, 102, 103], [200, 201, 202, 203]]
    finer = Projection("EPSG:32632", (5.0, 0.0, 500_000.0, 0.0, -5.0, 5_000_000.0))
    assert pixels(ramp(), grid(4, 2, finer)) == [[0, 0, 1, 1], [0, 0, 1, 1]]
    shifted = Projection("EPSG:32632", (10.0, 0.0, 500_004.0, 0.0, -10.0, 5_000_000.0))
    assert pixels(ramp(), grid(2, 1, shifted)) == [[0, 1]]
    past = Projection("EPSG:32632", (10.0, 0.0, 500_006.0, 0.0, -10.0, 5_000_000.0))
    assert pixels(ramp(), grid(2, 1, past)) == [[1, 2]]


def test_the_transform_gives_the_upper_left_corner() -> None:
    """`computePixels`: nothing is snapped; pixel (0, 0) is right and below of the translation."""
    there = Projection("EPSG:32632", (10.0, 0.0, 500_020.0, 0.0, -10.0, 4_999_990.0))
    assert pixels(ramp(), grid(1, 1, there)) == [[102]]


def test_bilinear_of_a_ramp_is_the_ramp() -> None:
    """At 5 m, pixel centres are a quarter of a pixel from native ones: a linear ramp is met exactly."""
    finer = Projection("EPSG:32632", (5.0, 0.0, 500_000.0, 0.0, -5.0, 5_000_000.0))
    found = np.array(pixels(call("Image.resample", image=ramp()), grid(6, 4, finer, column=2, row=2)))
    columns, rows = np.meshgrid(np.arange(2, 8), np.arange(2, 6))
    expected = (columns + 0.5) / 2 - 0.5 + 100 * ((rows + 0.5) / 2 - 0.5)
    assert found == pytest.approx(expected)
    assert pixels(call("Image.resample", image=ramp())) == pixels(ramp())


def test_bilinear_between_four_pixels_by_hand() -> None:
    image = array([0, 8], [16, 32])
    third = Projection("EPSG:32632", (10.0, 0.0, 500_002.5, 0.0, -10.0, 4_999_995.0))
    ((found,),) = pixels(call("Image.resample", image=image), grid(1, 1, third))
    # A quarter of a pixel right of the first centre, half a pixel below it.
    assert found == pytest.approx(0.5 * (0.75 * 0 + 0.25 * 8) + 0.5 * (0.75 * 16 + 0.25 * 32))


def test_bicubic_reproduces_parabolas() -> None:
    """Keys' kernel with a = -1/2 is exact for polynomials of second degree."""
    parabola = image_of(lambda c, r: (c - 3.0) ** 2 + r)
    finer = Projection("EPSG:32632", (5.0, 0.0, 500_000.0, 0.0, -5.0, 5_000_000.0))
    found = np.array(pixels(call("Image.resample", image=parabola, mode="bicubic"), grid(6, 4, finer, 4, 4)))
    columns, rows = np.meshgrid((np.arange(4, 10) + 0.5) / 2 - 0.5, (np.arange(4, 8) + 0.5) / 2 - 0.5)
    assert found == pytest.approx((columns - 3) ** 2 + rows)


def test_a_masked_neighbour_that_counts_masks_an_interpolated_pixel() -> None:
    image = array([0, 8, None])
    shifted = Projection("EPSG:32632", (10.0, 0.0, 500_005.0, 0.0, -10.0, 5_000_000.0))
    assert pixels(call("Image.resample", image=image), grid(2, 1, shifted)) == [[4, None]]
    assert line(call("Image.resample", image=image), 3) == [0, 8, None]


def test_resample_refuses_other_modes() -> None:
    with pytest.raises(EmulatorError, match="bicubic"):
        call("Image.resample", image=ramp(), mode="lanczos")


def test_resample_has_no_use_on_a_composite() -> None:
    """The output of mosaic has EPSG:4326 at one degree: there is nothing between whose pixels to interpolate."""
    mosaic = call("ImageCollection.mosaic", collection=[ramp()])
    assert call("Image.projection", image=mosaic) == Projection("EPSG:4326")
    finer = Projection("EPSG:32632", (5.0, 0.0, 500_000.0, 0.0, -5.0, 5_000_000.0))
    assert pixels(call("Image.resample", image=mosaic), grid(4, 2, finer)) == [[0, 0, 1, 1], [0, 0, 1, 1]]
    before = call("ImageCollection.mosaic", collection=[call("Image.resample", image=ramp())])
    assert pixels(before, grid(2, 1, finer, 2, 2)) != pixels(mosaic, grid(2, 1, finer, 2, 2))


def test_reproject_forces_the_computation_on_a_grid() -> None:
    coarse = call("Image.reproject", image=ramp(), crs="EPSG:32632", crsTransform=[20, 0, 500_000, 0, -20, 5_000_000])
    # The centre of a 20 m pixel is a corner of 10 m pixels: the one right and below holds it.
    assert pixels(coarse, grid(4, 2)) == [[101, 101, 103, 103], [101, 101, 103, 103]]
    doubled = call("Image.multiply", image1=coarse, image2=2)
    assert pixels(doubled, grid(2, 1)) == [[202, 202]]
    scaled = call("Image.reproject", image=ramp(), crs="EPSG:32632", scale=20)
    assert call("Image.projection", image=scaled).transform == (20, 0, 0, 0, -20, 0)
    with pytest.raises(EmulatorError, match="both"):
        call("Image.reproject", image=ramp(), crs="EPSG:32632", crsTransform=[1, 0, 0, 0, 1, 0], scale=20)


def test_set_default_projection_gives_a_composite_a_home() -> None:
    mosaic = call("ImageCollection.mosaic", collection=[ramp()])
    home = call("Image.setDefaultProjection", image=mosaic, crs="EPSG:32632", crsTransform=list(UTM.transform))
    assert call("Image.projection", image=home) == UTM
    finer = Projection("EPSG:32632", (5.0, 0.0, 500_000.0, 0.0, -5.0, 5_000_000.0))
    found = pixels(call("Image.resample", image=home), grid(2, 2, finer, 2, 2))
    assert found == pixels(call("Image.resample", image=ramp()), grid(2, 2, finer, 2, 2))


def test_translate_moves_by_metres_and_pixels() -> None:
    assert pixels(call("Image.translate", input=ramp(), x=20, y=0), grid(3, 1)) == [[-2, -1, 0]]
    assert pixels(call("Image.translate", input=ramp(), x=0, y=10), grid(1, 2)) == [[100], [200]]
    assert pixels(call("Image.translate", input=ramp(), x=1, y=1, units="pixels"), grid(2, 2, UTM, 1, 1)) == [
        [0, 1],
        [100, 101],
    ]


def test_coordinates_and_area() -> None:
    lonlat = call("Image.pixelLonLat")
    place = Projection("EPSG:4326", (0.5, 0.0, 10.0, 0.0, -0.5, 50.0))
    assert [pixels(lonlat, grid(2, 1, place), k) for k in (0, 1)] == [[[10.25, 10.75]], [[49.75, 49.75]]]
    # The scale is 0.9996 on the central meridian of UTM, in every direction.
    assert pixels(call("Image.pixelArea"), grid(1, 1)) == [[pytest.approx(100 / 0.9996**2, rel=1e-9)]]
    ((area,),) = pixels(call("Image.pixelArea"), Grid(Projection("EPSG:4326", (0.1, 0, 0, 0, -0.1, 0.1)), 0, 0, 1, 1))
    assert area == pytest.approx(11_131.949 * 11_057.43, rel=1e-4)  # metres of 0.1 degree at the equator, WGS 84
    xy = call("Image.pixelCoordinates", projection=UTM)
    assert [pixels(xy, grid(2, 1, UTM, 3, 7), k) for k in (0, 1)] == [[[3.5, 4.5]], [[7.5, 7.5]]]


@pytest.mark.parametrize(
    "projection",
    [
        Projection("EPSG:3857", (300.0, 0.0, 1e6, 0.0, -300.0, 8.4e6)),  # at 60 degrees north: a quarter of the square
        Projection("EPSG:3857", (300.0, 0.0, 20_037_508.34 - 150, 0.0, -300.0, 8.4e6)),  # around 180 degrees
        Projection("EPSG:32632", (300.0, 60.0, 8e5, 90.0, -300.0, 5e6)),  # sheared
        Projection("EPSG:3031", (1000.0, 0.0, -500.0, 0.0, -1000.0, 500.0)),  # around the pole
        Projection("EPSG:2227", (100.0, 0.0, 6e6, 0.0, -100.0, 2.1e6)),  # US survey feet
        Projection("EPSG:4326", (0.01, 0.002, 10.0, 0.001, -0.01, 50.0)),
    ],
)
def test_area_is_that_of_the_pixel_on_the_ellipsoid(projection: Projection) -> None:
    """Against the geodesic polygon of GeographicLib through 100 points of each side."""
    along = np.arange(100) / 100
    columns, rows = np.r_[along, along * 0 + 1, 1 - along, along * 0], np.r_[along * 0, along, along * 0 + 1, 1 - along]
    to_lonlat = Transformer.from_crs(projection.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(*projection.to_crs(columns, rows))
    expected = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
    assert pixels(call("Image.pixelArea"), grid(1, 1, projection)) == [[pytest.approx(expected, rel=1e-6)]]


def test_area_is_masked_where_the_projection_is_undefined() -> None:
    beyond = Projection("EPSG:3035", (1e6, 0.0, 1e8, 0.0, -1e6, 1e8))
    assert pixels(call("Image.pixelArea"), grid(1, 1, beyond)) == [[None]]


# ---------------------------------------------------------------- terrain


def test_slope_is_in_degrees_from_four_neighbours() -> None:
    """1 m up per 10 m pixel east and 2 m per pixel south."""
    plane = image_of(lambda c, r: c + 2.0 * r)
    ((slope,),) = pixels(call("Terrain.slope", input=plane), grid(1, 1, UTM, 5, 5))
    assert slope == pytest.approx(math.degrees(math.atan(math.hypot(0.1, 0.2))))
    ((east,),) = pixels(call("Terrain.aspect", input=image_of(lambda c, r: -c)), grid(1, 1, UTM, 5, 5))
    assert east == pytest.approx(90)
    ((south,),) = pixels(call("Terrain.aspect", input=image_of(lambda c, r: -r)), grid(1, 1, UTM, 5, 5))
    assert south == pytest.approx(180)


def test_slope_looks_at_the_input_own_pixels_and_masks_edges() -> None:
    dem = array([0, 1, 2], [0, 1, 2], [0, 1, 2])
    expected = math.degrees(math.atan(0.1))
    assert pixels(call("Terrain.slope", input=dem), grid(3, 3)) == [
        [None] * 3,
        [None, pytest.approx(expected), None],
        [None] * 3,
    ]
    finer = Projection("EPSG:32632", (5.0, 0.0, 500_000.0, 0.0, -5.0, 5_000_000.0))
    assert pixels(call("Terrain.slope", input=dem), grid(1, 1, finer, 2, 2)) == [[pytest.approx(expected)]]


@pytest.mark.parametrize("name", ["slope", "aspect", "hillshade", "products"])
def test_the_terrain_of_a_composite_needs_a_projection(name: str) -> None:
    mosaic = call("ImageCollection.mosaic", collection=[image_of(lambda c, r: c)])
    with pytest.raises(EmulatorError, match=r"found a composite.*setDefaultProjection"):
        call(f"Terrain.{name}", input=mosaic)
    homed = call("Image.setDefaultProjection", image=mosaic, crs=UTM)
    assert pixels(call("Terrain.slope", input=homed), grid(1, 1, UTM, 5, 5)) == [
        [pytest.approx(math.degrees(math.atan(0.1)))]
    ]


@pytest.mark.parametrize("name", ["Terrain.slope", "Image.gradient"])
@pytest.mark.parametrize(
    ("crs", "transform", "why"),
    [
        ("EPSG:3857", (30.0, 0.0, 1e6, 0.0, -30.0, 8.4e6), "metres are not those"),
        ("EPSG:32632", (10.0, 5.0, 5e5, 5.0, -10.0, 5e6), "not along the axes"),
    ],
)
def test_slopes_on_distorted_grids_are_refused(
    name: str, crs: str, transform: tuple[float, float, float, float, float, float], why: str
) -> None:
    home = Projection(crs, transform)
    with pytest.raises(EmulatorError, match=why):
        pixels(call(name, input=ramp(projection=home)), grid(2, 2, home))


def test_hillshade_by_hand() -> None:
    """Flat terrain under a sun 45 degrees high: 255 * sin 45."""
    flat = image_of(lambda c, r: np.zeros(c.shape))
    ((shade,),) = pixels(call("Terrain.hillshade", input=flat), grid(1, 1, UTM, 5, 5))
    assert shade == pytest.approx(255 * math.sin(math.radians(45)), abs=0.6)
    products = call("Terrain.products", input=ramp(name="elevation"))
    assert products.names == ["elevation", "slope", "aspect", "hillshade"]


# ---------------------------------------------------------------- descriptions


def test_an_image_describes_itself() -> None:
    assert encode(Image((constant(5),))) == {
        "type": "Image",
        "bands": [
            {
                "id": "constant",
                "data_type": {"type": "PixelType", "precision": "int", "min": 5, "max": 5},
                "crs": "EPSG:4326",
                "crs_transform": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            }
        ],
    }


def test_numbers_and_lists_become_images() -> None:
    promote = request_context().promote
    assert line(promote(2.5, "Image"), 1) == [2.5]
    several = promote([1, 2], "Image")
    assert several.names == ["constant", "constant_1"]
    with pytest.raises(EmulatorError, match="Expected type: Image"):
        promote("text", "Image")


PROJECTIONS: list[tuple[str, dict[str, Any], Any]] = [
    ("Projection.nominalScale", {"proj": UTM}, 10),
    ("Projection.crs", {"projection": UTM}, "EPSG:32632"),
    ("Projection.atScale", {"projection": UTM, "meters": 20}, (20, 0, 500_000, 0, -20, 5_000_000)),
    ("Projection.scale", {"projection": UTM, "x": 2, "y": 3}, (20, 0, 500_000, 0, -30, 5_000_000)),
    ("Projection.translate", {"projection": UTM, "x": 1, "y": 1}, (10, 0, 500_010, 0, -10, 4_999_990)),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), PROJECTIONS, ids=[row[0] for row in PROJECTIONS])
def test_projections(name: str, arguments: dict[str, Any], expected: Any) -> None:
    found = call(name, **arguments)
    assert (found.transform if isinstance(found, Projection) else found) == expected


def test_projections_from_codes_and_unknown_codes() -> None:
    assert call("Projection", crs="EPSG:4326") == Projection("EPSG:4326")
    assert call("Projection.nominalScale", proj="EPSG:4326") == pytest.approx(111_319.49, abs=0.01)
    with pytest.raises(EmulatorError, match="could not be parsed"):
        call("Projection", crs="EPSG:99999999")


def test_pixel_types() -> None:
    assert call("PixelType.uint8") == PixelType("int", 0, 255)
    assert call("PixelType", precision="int", minValue=0, maxValue=9) == PixelType("int", 0, 9)
    assert call("PixelType.minValue", pixelType=PixelType("int", 0, 9)) == 0
    assert call("PixelType.maxValue", pixelType=PixelType("int", 0, 9)) == 9
    assert call("PixelType.precision", pixelType=FLOAT) == "float"
    with pytest.raises(EmulatorError, match="Invalid precision"):
        call("PixelType", precision="complex")
