"""Reductions over collections need images of one type, and refuse others with Earth Engine's messages.

Messages: geemap issue 1058 (types), geedim issue 16 (bands); the range of a band after arithmetic follows the former.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from emulator_pixels import array, call, grid, ramp, request_context

from mmearth_data.emulator.algorithms.collections import of_elements
from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.image import Image, PixelType
from mmearth_data.emulator.errors import EmulatorError

if TYPE_CHECKING:
    from mmearth_data.emulator.algorithms.collections import Collection

REDUCTIONS = (
    "mosaic",
    *(f"reduce.{name}" for name in ("min", "max", "sum", "mean", "median", "mode", "count", "product")),
)
SHORT = PixelType.of(np.int16)


def composite(name: str, collection: Collection) -> Image:
    """Image of a reduction."""
    name = f"ImageCollection.{name}" if name == "mosaic" else name
    image: Image = call(name, collection=collection)
    return image


def refusal(image: Image) -> str:
    """Message of the service when a pixel of the first band is requested."""
    with pytest.raises(EmulatorError) as found:
        image.bands[0].evaluate(grid())
    assert found.value.status == 400
    return found.value.message


def pair(*images: Any) -> Collection:
    """Collection of images and numbers."""
    return of_elements([request_context().promote(image, "Image") for image in images], "Image")


def test_ranges_of_types_follow_arithmetic_as_the_service_reports_them() -> None:
    digital = ramp(kind=PixelType.of(np.uint16))
    scaled = call("Image.add", image1=call("Image.multiply", image1=digital, image2=0.0000275), image2=-0.2)
    assert scaled.bands[0].type.shown == "Float<-0.2, 1.6022125>"
    assert call("Image.subtract", image1=digital, image2=digital).bands[0].type == PixelType("int", -65535, 65535)
    assert call("Image.divide", image1=digital, image2=digital).bands[0].type == PixelType("double"), "by zero, perhaps"
    assert call("Image.toFloat", value=scaled).bands[0].type == PixelType("float")
    assert call("Image.normalizedDifference", input=call("Image.addBands", dstImg=digital, srcImg=digital)).bands[
        0
    ].type == PixelType("float", -1, 1)


def test_a_type_is_named_as_java_calls_it() -> None:
    shown = {np.uint8: "Short<0, 255>", np.int16: "Short", np.uint16: "Integer<0, 65535>", np.int32: "Integer"}
    shown |= {np.uint32: "Long<0, 4294967295>", np.int64: "Long", np.float32: "Float", np.float64: "Double"}
    assert {kind: PixelType.of(kind).shown for kind in shown} == shown
    assert PixelType("double", 0, 0).shown == "Float<0.0, 0.0>"


def test_types_that_differ_are_refused_in_the_services_words() -> None:
    digital = ramp(kind=PixelType.of(np.uint16), name="Blue")
    scaled = call("Image.add", image1=call("Image.multiply", image1=digital, image2=0.0000275), image2=-0.2)
    collection = pair(array([1.0], kind=SHORT, name="Blue"), scaled)
    assert refusal(call("reduce.median", collection=collection)) == (
        "Expected a homogeneous image collection, but an image with an incompatible band was encountered. "
        "Mismatched type for band 'Blue':\nExpected type: Short.\n  Actual type: Float<-0.2, 1.6022125>.\n"
        "     Image ID: 1\nThis band might require an explicit cast."
    )


@pytest.mark.parametrize("name", REDUCTIONS)
def test_every_reduction_checks_types_and_a_cast_mends_it(name: str) -> None:
    constants = [call("Image.rename", input=call("Image.constant", value=value), names=["b"]) for value in (0.0, 1.0)]
    said = refusal(composite(name, pair(*constants)))
    assert "Expected type: Float<0.0, 0.0>.\n  Actual type: Float<1.0, 1.0>." in said
    cast = [call("Image.toFloat", value=image) for image in constants]
    assert composite(name, pair(*cast)).bands[0].evaluate(grid()).valid.all()


def test_reducers_and_quality_mosaics_check_too() -> None:
    collection = pair(0, 1)
    assert "Short" not in refusal(call("ImageCollection.reduce", collection=collection, reducer=call("Reducer.mean")))
    best = call("ImageCollection.qualityMosaic", collection=collection, qualityBand="constant")
    assert "Expected type: Byte<0, 0>.\n  Actual type: Byte<1, 1>." in refusal(best)


def test_bands_are_described_all_the_same_and_selecting_one_afterwards_does_not_help() -> None:
    two = call("Image.rename", input=call("Image.constant", value=[1, 2]), names=["a", "b"])
    one = call("Image.rename", input=call("Image.constant", value=1), names=["a"])
    whole = call("reduce.mean", collection=pair(two, one))
    assert call("Image.bandNames", image=whole) == ["a", "b"]
    assert refusal(call("Image.select", input=whole, bandSelectors=["a"])) == (
        "Expected a homogeneous image collection, but an image with incompatible bands was encountered: "
        "First image type: 2 bands ([a, b]). Current image type: 1 bands ([a])."
    )


def test_an_image_that_stands_alone_agrees_with_itself() -> None:
    assert composite("mosaic", pair(7)).bands[0].evaluate(grid()).values.max() == 7


def scenes(start: str, end: str) -> Collection:
    """Level 2A over one location."""
    here = Geometry(shapely.Point(8.5, 47.3))
    whole = call("ImageCollection.load", id="COPERNICUS/S2_SR_HARMONIZED")
    near = call("Filter.intersects", leftField=".all", rightValue=here)
    found = call("Collection.filter", collection=whole, filter=near)
    times = call(
        "Filter.dateRangeContains", leftValue=call("DateRange", start=start, end=end), rightField="system:time_start"
    )
    dated: Collection = call("Collection.filter", collection=found, filter=times)
    return dated


def test_scenes_of_an_archive_are_reduced_by_common_bands_only() -> None:
    """Some scenes from 2022 to 2024 have no QA60, and scenes of any year may lack the cloud probability."""
    collection = scenes("2021-11-01", "2022-05-01")
    names = {tuple(image.names) for image in collection.elements()}
    assert len(names) > 1, "the planet has scenes of both kinds here"
    assert "an image with incompatible bands was encountered" in refusal(call("reduce.median", collection=collection))
    chosen = of_elements(
        [call("Image.select", input=image, bandSelectors=["B2", "B8"]) for image in collection.elements()], "Image"
    )
    assert call("reduce.median", collection=chosen).bands[0].evaluate(grid()).values.shape == grid().shape
