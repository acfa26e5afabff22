"""Facts about images: grids, masks, types, arithmetic, regions, properties and metadata."""

from __future__ import annotations

import math
from typing import Any

import ee
from _asking import Pixels, Then
from _fact import Both, Equal, Fact, OneOf, Refused, Source
from _world import (
    CRS,
    DEM,
    L1C,
    NORTH,
    PIXELS,
    SIDE_M,
    WEST,
    WORLD_COVER,
    box,
    constant,
    constants,
    grid_ramp,
    point,
    ramp,
    reduced,
    scene,
    square,
    west_half,
)

GUIDE, REFERENCE, ISSUE, MEMORY = Source.GUIDE, Source.REFERENCE, Source.ISSUE, Source.MEMORY
SUM, COUNT = ee.Reducer.sum, ee.Reducer.count
FIRST_MIDDLES = [5, 15, 25, 35]
"""Metres from the square's edge to the centres of its first pixels."""
SOUTH = NORTH - SIDE_M


def one_row(image: ee.Image, *, west: float = WEST, step: float = 10, width: int = 4) -> Pixels:
    """First pixels of the square's top row."""
    return Pixels(image, west, NORTH, (width, 1), (step, step))


GRIDS = (
    Fact(
        "nearest neighbour",
        "at half the pixel size, each pixel is repeated",
        GUIDE,
        lambda: one_row(grid_ramp(), step=5),
        Equal([[5, 5, 15, 15]], 1e-6),
    ),
    Fact(
        "nearest neighbour",
        "after resample('bilinear'), values are between those of the pixels",
        GUIDE,
        lambda: one_row(grid_ramp().resample("bilinear"), west=WEST + 10, step=5),
        Equal([[12.5, 17.5, 22.5, 27.5]], 1e-6),
    ),
    Fact(
        "nearest neighbour",
        "after resample('bicubic'), a ramp remains a ramp",
        GUIDE,
        lambda: one_row(grid_ramp().resample("bicubic"), west=WEST + 30, step=5),
        Equal([[32.5, 37.5, 42.5, 47.5]], 1e-4),
    ),
    Fact(
        "nearest neighbour",
        "resample after a composite has no effect",
        GUIDE,
        lambda: Then(
            [
                one_row(ee.ImageCollection([grid_ramp()]).mosaic(), step=5),
                one_row(ee.ImageCollection([grid_ramp()]).mosaic().resample("bilinear"), step=5),
            ],
            lambda plain, resampled: plain == resampled,
        ),
        Equal(True),
    ),
    Fact(
        "nearest neighbour",
        "a composite is on EPSG:4326",
        GUIDE,
        lambda: constants(1, 2).mosaic().projection().crs(),
        Equal("EPSG:4326"),
    ),
    Fact(
        "nearest neighbour",
        "a composite has pixels of 1 degree",
        GUIDE,
        lambda: ee.ImageCollection([grid_ramp()]).median().projection().nominalScale(),
        Equal(111319.49079327358),
    ),
    Fact(
        "pixel grids",
        "the transform defines the upper-left corner",
        REFERENCE,
        lambda: one_row(ramp()),
        Equal([FIRST_MIDDLES], 1e-6),
    ),
    Fact(
        "pixel grids",
        "nothing is snapped: half a pixel further east, values differ",
        REFERENCE,
        lambda: one_row(ramp(), west=WEST + 3),
        Equal([[8, 18, 28, 38]], 1e-6),
    ),
    Fact(
        "pixel grids",
        "rows run from north to south",
        REFERENCE,
        lambda: Pixels(ee.Image.pixelCoordinates(CRS).select("y").subtract(NORTH).multiply(-1), WEST, NORTH, (1, 4)),
        Equal([[5], [15], [25], [35]], 1e-6),
    ),
    Fact(
        "pixel grids",
        "the bands of an answer have the image's names and types",
        REFERENCE,
        lambda: Pixels(constant(1).rename("a").addBands(constant(2.5, "toFloat").rename("b")), WEST, NORTH, (1, 1)),
        Equal({"a": [[1]], "b": [[2.5]]}),
    ),
    Fact(
        "pixel grids",
        "coordinates in degrees refer to pixel centres",
        REFERENCE,
        lambda: Pixels(ee.Image.pixelLonLat().select("longitude"), 11.0, 47.0, (2, 1), (0.5, 0.5), "EPSG:4326"),
        Equal([[11.25, 11.75]], 1e-6),
    ),
    Fact(
        "reproject",
        "earlier operations are computed on pixels of its grid",
        GUIDE,
        lambda: one_row(ramp().reproject(CRS, [20, 0, WEST, 0, -20, NORTH])),
        Equal([[10, 10, 30, 30]], 1e-6),
    ),
    Fact(
        "reproject",
        "with a scale, the grid starts at the origin of the projection",
        GUIDE,
        lambda: Then([ramp().reproject(CRS, None, 30).projection()], lambda found: found["transform"]),
        Equal([30, 0, 0, 0, -30, 0]),
    ),
    Fact(
        "reproject",
        "the projection of the result is the given grid",
        GUIDE,
        lambda: Then([grid_ramp().projection()], lambda found: [found["crs"], found["transform"]]),
        Equal([CRS, [10, 0, WEST, 0, -10, NORTH]]),
    ),
    Fact(
        "reproject",
        "later operations keep the grid",
        GUIDE,
        lambda: grid_ramp().add(1).projection().nominalScale(),
        Equal(10),
    ),
)


def clipped() -> ee.Image:
    """1 in the square's western half; masked elsewhere."""
    return ee.Image(1).clip(box(0, 0, SIDE_M / 2, SIDE_M))


MASKS = (
    Fact(
        "masks in answers", "clip masks pixels outside", GUIDE, lambda: reduced(clipped(), COUNT()), Equal(PIXELS / 2)
    ),
    Fact(
        "masks in answers",
        "masked pixels are 0 in NPY",
        MEMORY,
        lambda: one_row(constant(7).updateMask(west_half().Not())),
        Equal([[0, 0, 0, 0]]),
    ),
    Fact(
        "masks in answers",
        "unmask fills masked pixels with 0",
        REFERENCE,
        lambda: reduced(ee.Image(1).updateMask(west_half()).unmask()),
        Equal(0.5),
    ),
    Fact(
        "masks in answers",
        "unmask leaves pixels outside the footprint masked",
        REFERENCE,
        lambda: reduced(clipped().unmask(5), SUM()),
        Equal(PIXELS / 2),
    ),
    Fact(
        "masks in answers",
        "unmask without sameFootprint also fills the outside",
        REFERENCE,
        lambda: reduced(clipped().unmask(5, False), SUM()),
        Equal(PIXELS / 2 * 6),
    ),
    Fact(
        "masks in answers",
        "a mask of 0 masks everything",
        GUIDE,
        lambda: reduced(ee.Image(1).updateMask(0)),
        Equal(None),
    ),
    Fact(
        "masks in answers",
        "updateMask never unmasks",
        REFERENCE,
        lambda: reduced(ee.Image(1).updateMask(west_half()).updateMask(1), SUM()),
        Equal(PIXELS / 2),
    ),
    Fact(
        "masks in answers",
        "the sum is masked where either input is masked",
        GUIDE,
        lambda: reduced(ee.Image(1).updateMask(west_half()).add(ee.Image(1)), COUNT()),
        Equal(PIXELS / 2),
    ),
)


def at(image: ee.Image) -> ee.ComputedObject:
    """Value of an image with the same value everywhere."""
    return reduced(image, ee.Reducer.first())


CASTS = tuple(
    Fact(topic, says, source, lambda value=value, operation=operation: at(getattr(ee.Image(value), operation)()), Equal(expected))
    for topic, says, source, value, operation, expected in (
        ("casts", "toUint16 truncates", REFERENCE, 2.9, "toUint16", 2),
        ("casts", "toInt16 truncates toward zero", MEMORY, -2.9, "toInt16", -2),
        ("casts", "toUint16 clamps below", REFERENCE, -3, "toUint16", 0),
        ("casts", "toUint16 clamps above", REFERENCE, 70000, "toUint16", 65535),
        ("casts", "toByte clamps above", REFERENCE, 300, "toByte", 255),
        ("casts", "toInt8 clamps below", REFERENCE, -200, "toInt8", -128),
        ("casts", "toUint8 clamps above", REFERENCE, 255.9, "toUint8", 255),
        ("casts", "toInt16 clamps above", REFERENCE, 40000, "toInt16", 32767),
        ("casts", "toInt32 clamps above", REFERENCE, 3e9, "toInt32", 2147483647),
        ("casts", "toFloat keeps halves", REFERENCE, -0.5, "toFloat", -0.5),
        ("casts", "round goes up from 0.6", REFERENCE, 0.6, "round", 1),
        ("casts", "round goes to the nearest below zero", REFERENCE, -0.6, "round", -1),
        ("casts", "floor of a negative", REFERENCE, -1.5, "floor", -2),
        ("casts", "ceil of a negative", REFERENCE, -1.5, "ceil", -1),
        ("casts", "toInt truncates", REFERENCE, -1.9, "toInt", -1),
        ("arithmetic", "signum of a negative", REFERENCE, -3, "signum", -1),
        ("arithmetic", "square root", MEMORY, 4, "sqrt", 2),
        ("arithmetic", "abs", REFERENCE, -3.5, "abs", 3.5),
        ("arithmetic", "not of a number", REFERENCE, 3, "Not", 0),
    )
)  # fmt: skip

ROUNDED = tuple(
    Fact(
        "casts",
        f"round of {value:g}",
        MEMORY,
        lambda value=value: at(ee.Image(value).round()),
        OneOf(tuple(map(Equal, choices))),
        Both.EQUAL,
    )
    for value, choices in ((0.5, (0, 1)), (-0.5, (-1, 0)), (1.5, (1, 2)), (2.5, (2, 3)), (-2.5, (-3, -2)))
)


def band_type(image: ee.Image) -> Then:
    """Precision and range of an image's only band."""
    return Then(
        [image.bandTypes().values().get(0)],
        lambda found: [found["precision"], found.get("min"), found.get("max")],
    )


ARITHMETIC = (
    Fact("arithmetic", "division by zero is 0", REFERENCE, lambda: at(ee.Image(7).divide(0)), Equal(0)),
    Fact("arithmetic", "0 divided by 0 is 0", REFERENCE, lambda: at(ee.Image(0).divide(0)), Equal(0)),
    Fact(
        "arithmetic",
        "division by zero does not mask",
        MEMORY,
        lambda: reduced(ee.Image(7).divide(0), COUNT()),
        Equal(PIXELS),
    ),
    Fact(
        "arithmetic",
        "the quotient of integers has a fraction",
        REFERENCE,
        lambda: at(ee.Image(7).divide(2)),
        Equal(3.5),
    ),
    Fact(
        "arithmetic",
        "the remainder has the sign of the dividend",
        MEMORY,
        lambda: at(ee.Image(-7).mod(3)),
        OneOf((Equal(-1), Equal(2))),
        Both.EQUAL,
    ),
    Fact("arithmetic", "comparisons are 1 or 0", REFERENCE, lambda: at(ee.Image(2).gt(1)), Equal(1)),
    Fact(
        "arithmetic",
        "normalizedDifference is (a - b) / (a + b)",
        REFERENCE,
        lambda: at(ee.Image([3, 1]).normalizedDifference()),
        Equal(0.5, 1e-6),
    ),
    Fact(
        "arithmetic",
        "normalizedDifference masks where a value is negative",
        REFERENCE,
        lambda: at(ee.Image([3, -1]).normalizedDifference()),
        Equal(None),
    ),
    Fact(
        "arithmetic",
        "the band of normalizedDifference is named nd",
        REFERENCE,
        lambda: ee.Image([3, 1]).normalizedDifference().bandNames(),
        Equal(["nd"]),
    ),
    Fact(
        "arithmetic",
        "an expression computes arithmetic",
        REFERENCE,
        lambda: at(ee.Image([3, 1]).rename(["a", "b"]).expression("(b('a') - b('b')) * 10 / 4")),
        Equal(5),
    ),
    Fact(
        "arithmetic",
        "an expression supports conditions",
        REFERENCE,
        lambda: at(ee.Image(3).rename("a").expression("a > 2 ? 7 : 8", {"a": ee.Image(3)})),
        Equal(7),
    ),
    Fact("arithmetic", "where replaces values", REFERENCE, lambda: at(ee.Image(3).where(ee.Image(1), 9)), Equal(9)),
    Fact(
        "arithmetic",
        "remap maps listed values",
        REFERENCE,
        lambda: at(ee.Image(2).remap([1, 2], [10, 20])),
        Equal(20),
    ),
    Fact(
        "arithmetic",
        "remap masks unlisted values",
        REFERENCE,
        lambda: at(ee.Image(3).remap([1, 2], [10, 20])),
        Equal(None),
    ),
    Fact(
        "arithmetic",
        "remap has a default for other values",
        REFERENCE,
        lambda: at(ee.Image(3).remap([1, 2], [10, 20], 99)),
        Equal(99),
    ),
    Fact(
        "arithmetic",
        "bands of two images are matched in order",
        REFERENCE,
        lambda: Pixels(
            ee.Image([1, 2]).rename(["a", "b"]).add(ee.Image([10, 20]).rename(["c", "d"])).toByte(), WEST, NORTH, (1, 1)
        ),
        Equal({"a": [[11]], "b": [[22]]}),
    ),
    Fact(
        "arithmetic",
        "a single band is matched with all bands",
        REFERENCE,
        lambda: Pixels(ee.Image([1, 2]).rename(["a", "b"]).add(10).toByte(), WEST, NORTH, (1, 1)),
        Equal({"a": [[11]], "b": [[12]]}),
    ),
    Fact("casts", "toByte is 0 to 255", REFERENCE, lambda: band_type(ee.Image(1).toByte()), Equal(["int", 0, 255])),
    Fact(
        "casts",
        "toInt16 is -32768 to 32767",
        REFERENCE,
        lambda: band_type(ee.Image(1).toInt16()),
        Equal(["int", -32768, 32767]),
    ),
    Fact(
        "casts",
        "toFloat is float without a range",
        MEMORY,
        lambda: band_type(ee.Image([3, 1]).normalizedDifference().toFloat()),
        Equal(["float", None, None]),
    ),
    Fact(
        "casts",
        "the type of a constant has its value as range",
        ISSUE,
        lambda: band_type(ee.Image(3)),
        Equal(["int", 3, 3]),
    ),
    Fact(
        "casts",
        "the range of normalizedDifference is -1 to 1",
        MEMORY,
        lambda: band_type(ee.Image([3, 1]).normalizedDifference()),
        Equal(["float", -1, 1]),
    ),
    Fact(
        "slope",
        "the slope of a ramp of one half is its arc tangent",
        REFERENCE,
        lambda: reduced(ee.Terrain.slope(grid_ramp().multiply(0.5)), region=box(100, 100, 500, 500)),
        Equal(math.degrees(math.atan(0.5)), 1e-4),
    ),
    Fact(
        "slope",
        "pixels at the image's edge are masked",
        MEMORY,
        lambda: reduced(
            ee.Terrain.slope(
                grid_ramp().updateMask(ramp().gt(100).And(ramp().lt(500))).reproject(CRS, [10, 0, WEST, 0, -10, NORTH])
            ),
            COUNT(),
        ),
        Equal(38 * 64),
    ),
    Fact(
        "slope",
        "slopes in mountains are between 0 and 90 degrees",
        REFERENCE,
        lambda: Then(
            [ee.Terrain.slope(ee.Image(DEM)).reduceRegion(ee.Reducer.minMax(), square(), 30, CRS)],
            lambda found: 0 <= found["slope_min"] < found["slope_max"] < 90,
        ),
        Equal(True),
    ),
)

REGIONS = (
    Fact("regions", "the mean of a ramp is its midpoint", GUIDE, lambda: reduced(ramp()), Equal(SIDE_M / 2, 1e-6)),
    Fact("regions", "an empty region is null", GUIDE, lambda: reduced(ee.Image(1).updateMask(0)), Equal(None)),
    Fact(
        "regions",
        "the sum of an empty region is null or 0",
        MEMORY,
        lambda: reduced(ee.Image(1).updateMask(0), SUM()),
        OneOf((Equal(None), Equal(0))),
        Both.EQUAL,
    ),
    Fact(
        "regions",
        "the count of an empty region is 0",
        MEMORY,
        lambda: reduced(ee.Image(1).updateMask(0), COUNT()),
        Equal(0),
    ),
    *(
        Fact(
            "regions",
            f"a column of pixels with a share of {share:g} inside has weight {weight:g}",
            GUIDE,
            lambda share=share: reduced(ee.Image(1), SUM(), box(0, 0, 320 + 10 * share, 640)),
            Equal(64 * (32 + weight), 2e-4 if weight else 1e-6),  # the steps are 1/255 or 1/256
        )
        for share, weight in ((0.003, 0), (0.25, 0.25), (0.5, 0.5), (0.75, 0.75))
    ),
    Fact(
        "regions",
        "without weights, a pixel counts fully if its centre is inside",
        GUIDE,
        lambda: ee.List([reduced(ee.Image(1), SUM().unweighted(), box(0, 0, 320 + over, 640)) for over in (4, 6)]),
        Equal([64 * 32, 64 * 33]),
    ),
    Fact(
        "regions",
        "count is unweighted",
        GUIDE,
        lambda: ee.List([reduced(ee.Image(1), COUNT(), box(0, 0, 320 + over, 640)) for over in (4, 6)]),
        Equal([64 * 32, 64 * 33]),
    ),
    Fact(
        "regions",
        "scale determines the pixels",
        GUIDE,
        lambda: reduced(ee.Image(1), SUM(), scale=20),
        Equal(PIXELS / 4, 1e-9),
    ),
    Fact(
        "regions",
        "crsTransform determines the pixels",
        GUIDE,
        lambda: (
            ee.Image(1)
            .rename("v")
            .reduceRegion(ee.Reducer.sum(), square(), crs=CRS, crsTransform=[40, 0, WEST, 0, -40, NORTH])
            .get("v")
        ),
        Equal(256, 1e-9),
    ),
    Fact(
        "regions",
        "too many pixels are refused",
        GUIDE,
        lambda: reduced(ee.Image(1), SUM(), scale=10, maxPixels=100),
        Refused(r"Too many pixels in the region"),
    ),
    Fact(
        "regions",
        "with bestEffort, too many pixels are read at a coarser scale",
        GUIDE,
        lambda: ee.Number(reduced(ee.Image(1), SUM(), scale=10, maxPixels=100, bestEffort=True)).lte(101),
        Equal(1),
    ),
    Fact(
        "regions",
        "two reducers can share their inputs",
        GUIDE,
        lambda: Then(
            [
                ee.Image(3)
                .rename("v")
                .reduceRegion(ee.Reducer.mean().combine(ee.Reducer.max(), sharedInputs=True), square(), 10, CRS)
            ],
            lambda found: found,
        ),
        Equal({"v_mean": 3, "v_max": 3}),
    ),
    Fact(
        "regions",
        "a point has the value of the pixel that contains it",
        GUIDE,
        lambda: reduced(grid_ramp(), ee.Reducer.first(), ee.Geometry.Point([WEST + 17, NORTH - 17], CRS)),
        Equal(15, 1e-6),
    ),
    Fact(
        "regions",
        "a histogram of integers counts them",
        GUIDE,
        lambda: reduced(west_half(), ee.Reducer.frequencyHistogram()),
        Equal({"0": PIXELS / 2, "1": PIXELS / 2}),
    ),
)


def faint() -> ee.Image:
    """1 with a mask of 0.25 in the western half; 0 with a full mask in the eastern half."""
    return west_half().updateMask(ee.Image(1).where(west_half(), 0.25))


FRACTIONS = (
    Fact(
        "fractional masks",
        "a mask can be a fraction",
        GUIDE,
        lambda: at(ee.Image(1).updateMask(0.25).mask()),
        Equal(0.25, 1e-6),
    ),
    Fact(
        "fractional masks",
        "fractions weight the mean",
        GUIDE,
        lambda: reduced(faint()),
        Equal(0.2, 1e-6),
    ),
    Fact(
        "fractional masks",
        "fractions weight the sum",
        GUIDE,
        lambda: reduced(ee.Image(1).updateMask(0.25), SUM()),
        Equal(PIXELS / 4, 1e-6),
    ),
    Fact(
        "fractional masks",
        "a pixel's mask and its share inside are both weights",
        GUIDE,
        lambda: reduced(ee.Image(1).updateMask(0.5), SUM(), box(0, 0, 325, 640)),
        OneOf((Equal(64 * 16.25, 2e-4), Equal(64 * 16.5, 2e-4))),  # their product, or the smaller of the two
        Both.EQUAL,
    ),
    Fact(
        "fractional masks",
        "fractions do not apply without weights",
        GUIDE,
        lambda: reduced(faint(), ee.Reducer.mean().unweighted()),
        Equal(0.5, 1e-6),
    ),
    Fact(
        "fractional masks",
        "they survive arithmetic",
        GUIDE,
        lambda: at(ee.Image(1).updateMask(0.25).add(1).mask()),
        Equal(0.25, 1e-6),
    ),
    Fact(
        "fractional masks",
        "they survive casts and selection",
        MEMORY,
        lambda: at(ee.Image([1, 2]).updateMask(0.25).select([0]).toByte().mask()),
        Equal(0.25, 1e-6),
    ),
    Fact(
        "fractional masks",
        "the mask of a sum of two bands",
        MEMORY,
        lambda: at(ee.Image(1).updateMask(0.5).add(ee.Image(1).updateMask(0.25)).mask()),
        OneOf((Equal(0.25, 1e-6), Equal(0.125, 1e-6))),
        Both.EQUAL,
    ),
    Fact(
        "fractional masks",
        "the mask after updateMask",
        MEMORY,
        lambda: at(ee.Image(1).updateMask(0.5).updateMask(0.5).mask()),
        OneOf((Equal(0.25, 1e-6), Equal(0.5, 1e-6))),
        Both.EQUAL,
    ),
    Fact(
        "fractional masks",
        "answers contain the value of every pixel with a mask above 0",
        MEMORY,
        lambda: one_row(constant(7).updateMask(0.25)),
        OneOf((Equal([[7, 7, 7, 7]]), Equal([[0, 0, 0, 0]]))),
        Both.EQUAL,
    ),
    Fact(
        "fractional masks",
        "unmask does not blend where the mask is above 0",
        MEMORY,
        lambda: at(ee.Image(1).updateMask(0.5).unmask(5)),
        OneOf((Equal(1), Equal(3))),
        Both.EQUAL,
    ),
)

BANDS = (
    Fact(
        "band names",
        "cat numbers conflicting names",
        REFERENCE,
        lambda: ee.Image.cat([ee.Image(1), ee.Image(2)]).bandNames(),
        Equal(["constant", "constant_1"]),
    ),
    Fact(
        "band names",
        "each further conflict gets its own number",
        MEMORY,
        lambda: ee.Image.cat([ee.Image(1), ee.Image(2), ee.Image(3)]).bandNames(),
        Equal(["constant", "constant_1", "constant_2"]),
    ),
    Fact(
        "band names",
        "addBands keeps the first band of a name, unless told to overwrite",
        REFERENCE,
        lambda: ee.List(
            [
                at(ee.Image(1).addBands(ee.Image(2), None, True)),
                ee.Image(1).addBands(ee.Image(2)).bandNames(),
            ]
        ),
        Equal([2, ["constant", "constant_1"]]),
    ),
    Fact(
        "band names",
        "select renames and reorders",
        REFERENCE,
        lambda: ee.Image([1, 2]).rename(["a", "b"]).select(["b", "a"], ["x", "y"]).bandNames(),
        Equal(["x", "y"]),
    ),
    Fact(
        "band names",
        "select accepts patterns",
        REFERENCE,
        lambda: scene().select("B1.*").bandNames(),
        Equal(["B1", "B11", "B12"]),
    ),
    Fact(
        "band names",
        "reduce names bands after the reducer",
        REFERENCE,
        lambda: ee.Image([1, 3]).reduce(ee.Reducer.mean()).bandNames(),
        Equal(["mean"]),
    ),
    Fact(
        "missing bands",
        "the refusal quotes the pattern",
        MEMORY,
        lambda: scene().select("B99").bandNames(),
        Refused(r"HTTP 400: .*'B99'"),
    ),
    Fact(
        "missing bands",
        "the refusal lists the available bands",
        MEMORY,
        lambda: scene(L1C).select("SCL").bandNames(),
        Refused(r"HTTP 400: .*'SCL'.*B1, B2, B3, B4, B5, B6, B7, B8, B8A, B9, B10, B11, B12"),
    ),
    Fact(
        "missing bands",
        "an index beyond the last band is refused",
        MEMORY,
        lambda: ee.Image([1, 2]).select(2).bandNames(),
        Refused("HTTP 400"),
    ),
    Fact(
        "dates of images",
        "date() is system:time_start",
        REFERENCE,
        lambda: scene().date().millis().subtract(scene().getNumber("system:time_start")),
        Equal(0),
    ),
    Fact(
        "dates of images",
        "date() of an image without a start time is refused",
        MEMORY,
        lambda: ee.Image(1).date().millis(),
        Refused("HTTP 400"),
    ),
)

KEPT = (
    ("unmask", REFERENCE, lambda image: image.unmask()),
    ("updateMask", REFERENCE, lambda image: image.updateMask(1)),
    ("mask", REFERENCE, lambda image: image.mask(ee.Image(1))),
    ("clip", REFERENCE, lambda image: image.clip(square())),
    ("select", MEMORY, lambda image: image.select("B2")),
    ("rename", MEMORY, lambda image: image.select("B2").rename("x")),
    ("addBands", REFERENCE, lambda image: image.addBands(ee.Image(1))),
    ("toFloat", MEMORY, lambda image: image.toFloat()),
    ("cast", MEMORY, lambda image: image.select("B2").cast({"B2": "float"})),
    ("resample", MEMORY, lambda image: image.resample("bilinear")),
    ("reproject", MEMORY, lambda image: image.reproject(CRS, None, 60)),
    ("set", REFERENCE, lambda image: image.set("a", 1)),
    ("copyProperties", REFERENCE, lambda image: ee.Image(ee.Image(1).copyProperties(image))),
)
LOST = (
    ("normalizedDifference", REFERENCE, lambda image: image.normalizedDifference(["B8", "B4"])),
    ("add", MEMORY, lambda image: image.add(1)),
    ("subtract", MEMORY, lambda image: image.subtract(image)),
    ("multiply", MEMORY, lambda image: image.multiply(2)),
    ("divide", MEMORY, lambda image: image.divide(10000)),
    ("gt", MEMORY, lambda image: image.gt(1)),
    ("abs", MEMORY, lambda image: image.abs()),
    ("reduce", MEMORY, lambda image: image.reduce(ee.Reducer.mean())),
    ("expression", MEMORY, lambda image: image.expression("b('B2') * 2")),
    ("mosaic", MEMORY, lambda image: ee.ImageCollection([image]).mosaic()),
)


def has_tile(image: ee.Image) -> ee.ComputedObject:
    """Whether an image has the property MGRS_TILE."""
    return image.propertyNames().contains("MGRS_TILE")


PROPERTIES = (
    *(
        Fact("properties", f"{name} keeps them", source, lambda make=make: has_tile(make(scene())), Equal(True))
        for name, source, make in KEPT
    ),
    *(
        Fact("properties", f"{name} drops them", source, lambda make=make: has_tile(make(scene())), Equal(False))
        for name, source, make in LOST
    ),
    Fact(
        "properties",
        "copyProperties restores properties after arithmetic",
        REFERENCE,
        lambda: ee.Image(scene().add(1).copyProperties(scene())).get("MGRS_TILE"),
        Equal("32TPT"),
        Both.NOT,
    ),
    Fact(
        "properties",
        "copyProperties leaves out system properties",
        MEMORY,
        lambda: ee.Image(ee.Image(1).copyProperties(scene())).get("system:time_start"),
        Equal(None),
    ),
    Fact(
        "properties",
        "copyProperties copies system properties that are named",
        REFERENCE,
        lambda: (
            ee.Image(ee.Image(1).copyProperties(scene(), ["system:time_start"]))
            .date()
            .difference(scene().date(), "second")
        ),
        Equal(0),
    ),
    Fact(
        "properties",
        "copyProperties leaves out excluded properties",
        REFERENCE,
        lambda: has_tile(ee.Image(ee.Image(1).copyProperties(scene(), None, ["MGRS_TILE"]))),
        Equal(False),
    ),
    Fact(
        "properties",
        "a map keeps the index of its images",
        MEMORY,
        lambda: constants(1, 2).map(lambda image: image.add(1)).aggregate_array("system:index"),
        Equal(["0", "1"]),
    ),
    Fact("properties", "a missing property is null", REFERENCE, lambda: scene().get("no such"), Equal(None)),
)


def described(image: ee.Image, *keys: str) -> Then:
    """Metadata fields of an image's first band."""

    def fields(found: dict[str, Any]) -> Any:
        values = [found["bands"][0].get(key) for key in keys]
        return values[0] if len(values) == 1 else values

    return Then([image], fields)


def property_of(image: ee.Image, name: str) -> Then:
    """Metadata property of an image."""
    return Then([image], lambda found: found.get("properties", {}).get(name))


def same_description(image: ee.Image, *keys: str) -> Then:
    """Whether metadata fields of the first band equal those of the scene's own B2."""
    return Then([described(image, *keys), described(scene().select("B2"), *keys)], lambda derived, own: derived == own)


METADATA = (
    Fact(
        "metadata",
        "a 10 m band of a granule has 10,980 pixels per side",
        Source.CATALOG,
        lambda: described(scene().select("B2"), "dimensions"),
        Equal([10980, 10980]),
    ),
    Fact(
        "metadata",
        "its grid starts at the granule's corner",
        Source.CATALOG,
        lambda: Then(
            [described(scene().select("B2"), "crs", "crs_transform")],
            lambda found: [found[0], *found[1][:2], *found[1][3:5]],
        ),
        Equal([CRS, 10, 0, 0, -10]),
    ),
    Fact(
        "metadata",
        "a cast keeps grid and dimensions",
        MEMORY,
        lambda: same_description(scene().select("B2").toFloat(), "crs", "crs_transform", "dimensions"),
        Equal(True),
    ),
    Fact(
        "metadata",
        "adding a number keeps grid and dimensions",
        MEMORY,
        lambda: same_description(scene().select("B2").add(1), "crs", "crs_transform", "dimensions"),
        Equal(True),
    ),
    Fact(
        "metadata",
        "clip keeps the grid",
        MEMORY,
        lambda: same_description(scene().select("B2").clip(square()), "crs", "crs_transform"),
        Equal(True),
    ),
    Fact(
        "metadata",
        "clip has the dimensions of the region plus at most one pixel on each side",
        MEMORY,
        lambda: described(scene().select("B2").clip(square()), "dimensions"),
        OneOf((Equal([64, 64]), Equal([65, 65]), Equal([66, 66]))),
        Both.EQUAL,
    ),
    Fact(
        "metadata",
        "the origin of a clip is the first pixel of the region, or the one before",
        MEMORY,
        lambda: Then(
            [described(scene().select("B2").clip(square()), "origin", "crs_transform")],
            lambda found: [found[1][2] + 10 * found[0][0] - WEST, found[1][5] - 10 * found[0][1] - NORTH],
        ),
        OneOf((Equal([0, 0]), Equal([-10, 10]))),
        Both.EQUAL,
    ),
    Fact(
        "metadata",
        "a clip of land cover has the published dimensions and corner",
        ISSUE,
        lambda: Then(
            [
                described(
                    ee.Image(ee.ImageCollection(WORLD_COVER).first()).clip(
                        ee.Geometry.Rectangle([37.418438, -0.464999, 38.291851, 0.430378])
                    ),
                    "dimensions",
                    "origin",
                    "crs_transform",
                )
            ],
            lambda found: [found[0], found[2][2] + found[1][0] / 12000, found[2][5] - found[1][1] / 12000],
        ),
        Equal([[10483, 10747], -180 + 2609020 / 12000, 84 - 1002834 / 12000]),  # its grid starts at 84 degrees north
    ),
    Fact(
        "metadata",
        "the footprint of a clip is the region",
        MEMORY,
        lambda: ee.Image(1).clip(point().buffer(100)).geometry(1).area(1).divide(point().buffer(100).area(1)),
        Equal(1, 0.02),
    ),
    Fact(
        "metadata",
        "reproject sets the new grid",
        GUIDE,
        lambda: described(grid_ramp(), "crs", "crs_transform"),
        Equal([CRS, [10, 0, WEST, 0, -10, NORTH]]),
    ),
    Fact(
        "metadata",
        "reproject covers the scene with pixels of the new size",
        MEMORY,
        lambda: Then(
            [described(scene().select("B2").reproject(CRS, None, 60), "dimensions")],
            lambda found: None if found is None else [abs(n - 1830) <= 1 for n in found],
        ),
        OneOf((Equal([True, True]), Equal(None))),
        Both.EQUAL,
    ),
    Fact(
        "metadata",
        "clipToBoundsAndScale has the given dimensions",
        MEMORY,
        lambda: described(ee.Image(1).clipToBoundsAndScale(geometry=square(), width=32, height=32), "dimensions"),
        Equal([32, 32]),
    ),
    Fact(
        "metadata",
        "a constant has no dimensions",
        MEMORY,
        lambda: described(ee.Image(1), "crs", "crs_transform", "dimensions"),
        Equal(["EPSG:4326", [1, 0, 0, 0, 1, 0], None]),
    ),
    Fact(
        "metadata",
        "a mosaic has no dimensions",
        MEMORY,
        lambda: described(ee.ImageCollection([scene().select("B2")]).mosaic(), "crs", "crs_transform", "dimensions"),
        Equal(["EPSG:4326", [1, 0, 0, 0, 1, 0], None]),
    ),
    Fact(
        "metadata",
        "the footprint of an image is a ring",
        MEMORY,
        lambda: Then([property_of(scene(), "system:footprint")], lambda found: found["type"]),
        Equal("LinearRing"),
    ),
    Fact(
        "metadata",
        "a cast keeps the footprint",
        MEMORY,
        lambda: Then([property_of(scene().toFloat(), "system:footprint")], lambda found: found["type"]),
        Equal("LinearRing"),
    ),
    Fact(
        "metadata",
        "a description includes the type of the band",
        GUIDE,
        lambda: described(scene().select("B2"), "id", "data_type"),
        Equal(["B2", {"type": "PixelType", "precision": "int", "min": 0, "max": 65535}]),
    ),
)

FACTS = (
    *GRIDS,
    *MASKS,
    *CASTS,
    *ROUNDED,
    *ARITHMETIC,
    *REGIONS,
    *FRACTIONS,
    *BANDS,
    *PROPERTIES,
    *METADATA,
)
