"""Masks are numbers from 0 to 1: what sets them, which operations keep them, and how they act as weights.

Rules of the Earth Engine reference (`Image.updateMask`, `Image.selfMask`, `Image.unmask`) and guides ("weighted
reductions"; "statistics of an image region": the weight of a pixel is the smaller of its mask and its share of the
region). Undocumented behaviour is marked in the code and checked by `make check-live`.
"""

from __future__ import annotations

from typing import Any

import ee
import numpy as np
import pytest
import shapely
from emulator_pixels import FLOAT, array, call, grid, image_of, line, ramp

from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.image import Image, PixelType


def masked(image: Image, *shares: float | None) -> Image:
    """Image with a mask, pixel by pixel."""
    return call("Image.updateMask", image=image, mask=array(list(shares)))


def mask(image: Image, width: int = 4) -> list[float | None]:
    """Mask of the first pixels of the first row."""
    return line(call("Image.mask", image=image), width)


def region(west: float, east: float) -> Geometry:
    """Part of the first row of pixels, between two distances in metres."""
    return Geometry(shapely.box(500_000 + west, 4_999_990, 500_000 + east, 5_000_000), "EPSG:32632")


def reduced(image: Image, reducer: str, west: float = 0, east: float = 40, *, unweighted: bool = False) -> Any:
    made = call(f"Reducer.{reducer}")
    made = call("Reducer.unweighted", reducer=made) if unweighted else made
    return call("Image.reduceRegion", image=image, reducer=made, geometry=region(west, east))["b"]


# ---------------------------------------------------------------- setting


def test_update_mask_gives_what_is_not_masked_a_new_mask() -> None:
    image = masked(ramp(), 0.5, 1, 0, None)
    assert mask(image) == [0.5, 1, 0, 0]
    assert line(image) == [0, 1, None, None]
    again = call("Image.updateMask", image=image, mask=array([0.25, 0.25, 0.25, 0.25]))
    assert mask(again) == [0.25, 0.25, 0, 0], "the new mask replaces the old one where that is not zero"


def test_masks_are_cut_to_their_range() -> None:
    assert mask(masked(ramp(), 7, -1, 1.5, 0)) == [1, 0, 1, 0]
    assert masked(ramp(), 7, -1, 1.5, 0).bands[0].evaluate(grid()).valid.dtype == bool, "whole masks stay truth values"


def test_self_mask_takes_the_values_for_masks() -> None:
    image = call("Image.selfMask", image=array([0.3, 0, 2, None]))
    assert mask(image) == [0.3, 0, 1, 0]


def test_a_mask_is_read_as_numbers_and_can_be_given_back() -> None:
    image = masked(ramp(), 0.5, 1, 0, 0.75)
    own = call("Image.mask", image=image)
    assert own.bands[0].type == PixelType("float", 0, 1)
    given = call("Image.mask", image=ramp(), mask=own)
    assert mask(given) == mask(image)
    hidden = masked(array([5, 6, 7, 8]), 0, 1, 0, 1)
    assert line(call("Image.mask", image=hidden, mask=array([1, 1, 0.5, 1]))) == [0, 6, 0, 8], "unmasked as zeros"


def test_unmask_replaces_where_the_mask_is_zero_only() -> None:
    image = masked(array([1, 2, 3, 4]), 0.5, 0, 1, 0)
    filled = call("Image.unmask", input=image, value=masked(array([9, 9, 9, 9]), 1, 0.25, 1, 0))
    assert line(filled) == [1, 9, 3, None]
    assert mask(filled) == [0.5, 0.25, 1, 0]


# ---------------------------------------------------------------- keeping


@pytest.mark.parametrize(
    "change",
    [
        lambda i: call("Image.add", image1=i, image2=ramp()),
        lambda i: call("Image.multiply", image1=array([2, 2, 2, 2]), image2=i),
        lambda i: call("Image.toInt16", value=i),
        lambda i: call("Image.sqrt", value=i),
        lambda i: call("Image.cast", image=i, bandTypes={"b": "uint16"}),
        lambda i: call("Image.clamp", input=i, low=0, high=2),
        lambda i: call("Image.unitScale", input=i, low=0, high=2),
        lambda i: call("Image.rename", input=i, names=["c"]),
        lambda i: call("Image.where", input=i, test=array([1, 0, 1, 0]), value=array([7, 7, 7, 7])),
        lambda i: call("Image.clip", input=i, geometry=region(0, 40)),
        lambda i: call("Image.remap", image=i, from_=[0, 1, 2, 3], to=[4, 5, 6, 7]),
        lambda i: call("Image.polynomial", image=i, coefficients=[1, 1]),
        lambda i: call("Image.reproject", crs="EPSG:32632", crsTransform=[10, 0, 500_000, 0, -10, 5_000_000], image=i),
        lambda i: call("ImageCollection.mosaic", collection=[ramp(), i]),
        lambda i: call("Image.reduce", image=i, reducer=call("Reducer.first")),
    ],
)
def test_masks_survive(change: Any) -> None:
    image = masked(ramp(), 0.5, 1, 0.25, 0.75)
    assert mask(change(image)) == [0.5, 1, 0.25, 0.75]


def test_two_images_give_the_lesser_mask() -> None:
    left, right = masked(ramp(), 0.5, 1, 0.25, 0.75), masked(ramp(), 0.75, 0.5, 0, 0.75)
    assert mask(call("Image.subtract", image1=left, image2=right)) == [0.5, 0.5, 0, 0.75]


def test_a_mosaic_takes_the_last_pixel_that_is_not_wholly_masked() -> None:
    below, above = array([1, 2, 3, 4]), masked(array([5, 6, 7, 8]), 0.1, 0, 1, 0)
    found = call("ImageCollection.mosaic", collection=[below, above])
    assert line(found) == [5, 2, 7, 4]
    assert mask(found) == pytest.approx([0.1, 1, 1, 1])


def test_blend_takes_masks_for_how_opaque_an_image_is() -> None:
    """Earth Engine's reference of `Image.blend`: masks are opacities."""
    found = call("Image.blend", bottom=array([0, 0, 0, None]), top=masked(array([10, 10, 10, 10]), 0.25, 0, 1, 0.5))
    assert line(found) == [2.5, 0, 10, 10]
    assert mask(found) == [1, 1, 1, 0.5]


# ---------------------------------------------------------------- weights


def test_masks_weigh_in_regions() -> None:
    image = masked(array([10, 20, 30, 40]), 0.5, 1, 0.25, 0)
    weights, values = np.array([0.5, 1, 0.25]), np.array([10.0, 20, 30])
    assert reduced(image, "mean") == pytest.approx((weights * values).sum() / weights.sum())
    assert reduced(image, "sum") == pytest.approx((weights * values).sum())
    assert reduced(image, "count") == 3, "never weighted"
    assert reduced(image, "mean", unweighted=True) == pytest.approx(20)
    assert reduced(image, "sum", unweighted=True) == pytest.approx(60)
    assert reduced(image, "mode") == 20
    assert reduced(image, "min") == 10
    assert reduced(image, "frequencyHistogram") == {"10": 0.5, "20": 1, "30": 0.25}


def test_a_pixel_weighs_the_lesser_of_its_mask_and_its_share_of_the_region() -> None:
    """Pixel 0 is half inside with a mask of 0.75, pixel 1 fully inside with a mask of 0.25."""
    image = masked(array([10, 20, 30, 40]), 0.75, 0.25, 1, 1)
    assert reduced(image, "sum", 5, 20) == pytest.approx(0.5 * 10 + 0.25 * 20)
    assert reduced(image, "mean", 5, 20) == pytest.approx((0.5 * 10 + 0.25 * 20) / 0.75)


def test_outputs_weigh_each_by_its_own_rule() -> None:
    both = call("Reducer.combine", reducer1=call("Reducer.mean"), reducer2=call("Reducer.count"), sharedInputs=True)
    image = masked(array([10, 20, 30, 40]), 0.5, 1, 0, 0)
    found = call("Image.reduceRegion", image=image, reducer=both, geometry=region(0, 40))
    assert found == {"b_mean": pytest.approx(25 / 1.5), "b_count": 2}


def test_masks_weigh_in_composites_and_among_bands() -> None:
    images = [masked(array([10, 10, 10, 10]), 1, 0.5, 0, 0), array([40, 40, 40, None])]
    mean = call("reduce.mean", collection=images)
    assert line(mean) == pytest.approx([25, (0.5 * 10 + 40) / 1.5, 40, None])
    assert line(call("reduce.count", collection=images)) == [2, 2, 1, 0]


def test_neighbours_weigh_by_kernel_mask_or_the_lesser() -> None:
    kernel = call("Kernel.fixed", weights=[[0.5, 1.0, 0.5]])
    image = masked(array([10, 20, 30, 40]), 1, 1, 0.25, 1)
    for how, weights in (("kernel", [0.5, 1, 0.5]), ("mask", [1, 1, 0.25]), ("min", [0.5, 1, 0.25])):
        found = call(
            "Image.reduceNeighborhood", image=image, reducer=call("Reducer.mean"), kernel=kernel, inputWeight=how
        )
        assert line(found)[1] == pytest.approx(np.average([10, 20, 30], weights=weights)), how


def test_pixels_come_out_with_any_mask_but_zero() -> None:
    image = masked(image_of(lambda c, r: c + 1.0, kind=FLOAT), 0.1, 0, 1, 0)
    from mmearth_data.emulator.server.output import stored

    assert stored(image.bands[0], grid(4, 1)).tolist() == [[1, 0, 3, 0]]


def test_over_the_wire_masks_weigh(earth: str) -> None:
    lon = ee.Image.pixelLonLat().select("longitude")
    image = ee.Image(3).addBands(ee.Image(1)).rename(["a", "b"]).updateMask(lon.gt(8).multiply(0.5).add(0.25))
    region = ee.Geometry.Rectangle([7.9, 47, 8.1, 47.1], None, False)
    found = image.reduceRegion(ee.Reducer.sum(), region, crs="EPSG:4326", crsTransform=[0.1, 0, 7.9, 0, -0.1, 47.1])
    assert found.getInfo() == {"a": 3, "b": 1}
    assert image.mask().reduceRegion(
        ee.Reducer.toList(), region, crs="EPSG:4326", crsTransform=[0.1, 0, 7.9, 0, -0.1, 47.1]
    ).get("a").getInfo() == [0.25, 0.75]
