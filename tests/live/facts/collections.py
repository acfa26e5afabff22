"""Facts about collections: contents, results and refusals."""

from __future__ import annotations

import ee
from _asking import Pixels, Then
from _fact import Both, Equal, Fact, OneOf, Refused, Source
from _world import (
    CRS,
    DYNAMIC_WORLD,
    ERA5,
    NORTH,
    S2,
    SIDE_M,
    WEST,
    box,
    constant,
    constants,
    features,
    months,
    point,
    reduced,
    scene,
    scenes,
    square,
    whole_scenes,
)

GUIDE, REFERENCE, CLIENT, ISSUE, MEMORY = (
    Source.GUIDE,
    Source.REFERENCE,
    Source.CLIENT,
    Source.ISSUE,
    Source.MEMORY,
)
JUNE_MS, JULY_MS = 1559347200000, 1561939200000
"""First days of two months in 2019."""
NO_DATES = ("1970-01-01", "1970-01-02")
NULL = Refused(r"may not be null|required|null")
NO_BANDS = Refused(r"HTTP 400: .*no bands")
TYPES = Refused(
    r"HTTP 400: .*homogeneous image collection.*incompatible band was encountered.*Mismatched type for band"
)
BANDS = Refused(
    r"HTTP 400: .*homogeneous image collection.*incompatible bands was encountered.*First image type: 1 band"
)


def nothing() -> ee.ImageCollection:
    return scenes().filterDate(*NO_DATES)


WINDOWS = (
    Fact(
        "date windows",
        "a month that starts at the start of the window is included",
        GUIDE,
        lambda: months("2019-06-01", "2019-06-02").aggregate_array("system:time_start"),
        Equal([JUNE_MS]),
    ),
    Fact(
        "date windows",
        "a month that starts at the end of the window is excluded",
        GUIDE,
        lambda: months("2019-06-01", "2019-07-01").size(),
        Equal(1),
    ),
    Fact(
        "date windows",
        "an end one millisecond later includes the next month",
        GUIDE,
        lambda: months("2019-06-01", "2019-07-01T00:00:00.001").size(),
        Equal(2),
    ),
    Fact(
        "date windows",
        "a start one millisecond later excludes the month",
        GUIDE,
        lambda: ee.ImageCollection(ERA5).filterDate(JUNE_MS + 1, JULY_MS).size(),
        Equal(0),
    ),
    Fact(
        "date windows",
        "without an end, the window is one millisecond long",
        REFERENCE,
        lambda: ee.List(
            [ee.ImageCollection(ERA5).filterDate(JUNE_MS + k).size() for k in (-1, 0, 1)],
        ),
        Equal([0, 1, 0]),
    ),
    Fact(
        "date windows",
        "the scenes of a window start inside it",
        GUIDE,
        lambda: (
            scenes()
            .filter(ee.Filter.rangeContains("system:time_start", JUNE_MS, 1567296000000))
            .size()
            .eq(scenes().size())
        ),
        Equal(1),
    ),
)

NOTHING = (
    Fact("null", "first() of an empty collection is null", REFERENCE, lambda: nothing().first(), Equal(None)),
    Fact(
        "null", "first() of a list without images is null", MEMORY, lambda: ee.ImageCollection([]).first(), Equal(None)
    ),
    Fact("null", "null for a required argument is refused", GUIDE, lambda: ee.Image(nothing().first()).date(), NULL),
    Fact(
        "null",
        "a single null in a map fails the whole request",
        GUIDE,
        lambda: ee.List([0, 1]).map(
            lambda k: ee.Image(ee.Algorithms.If(k, months().first(), nothing().first())).bandNames()
        ),
        NULL,
    ),
    Fact("null", "an empty collection has no elements", GUIDE, lambda: nothing().size(), Equal(0)),
    Fact("null", "toList of an empty collection is empty", REFERENCE, lambda: nothing().toList(1), Equal([])),
    Fact(
        "null",
        "a map over an empty list never calls its function",
        GUIDE,
        lambda: nothing().toList(1).map(lambda i: ee.Image(i).get("system:index")),
        Equal([]),
    ),
    Fact(
        "null",
        "aggregate_first of an empty collection is null",
        MEMORY,
        lambda: nothing().aggregate_first("system:index"),
        Equal(None),
    ),
    Fact(
        "reducing nothing",
        "the mode of an empty collection has no bands",
        GUIDE,
        lambda: nothing().mode().bandNames(),
        Equal([]),
    ),
    Fact(
        "reducing nothing",
        "the median of an empty collection has no bands",
        GUIDE,
        lambda: nothing().median().bandNames(),
        Equal([]),
    ),
    Fact(
        "reducing nothing",
        "the mosaic of an empty collection has no bands",
        MEMORY,
        lambda: nothing().mosaic().bandNames(),
        Equal([]),
    ),
    Fact(
        "reducing nothing",
        "none of its bands can be selected",
        GUIDE,
        lambda: nothing().median().select("B2").bandNames(),
        NO_BANDS,
    ),
)

LIMITS = (
    Fact(
        "limits",
        "5,001 features are too many to list",
        GUIDE,
        lambda: ee.FeatureCollection(ee.List.sequence(1, 5001).map(lambda n: ee.Feature(None, {}))),
        Refused(r"HTTP 400: .*(over )?5000 elements"),
    ),
    Fact(
        "limits",
        "5,001 features can be counted",
        GUIDE,
        lambda: ee.FeatureCollection(ee.List.sequence(1, 5001).map(lambda n: ee.Feature(None, {}))).size(),
        Equal(5001),
    ),
    Fact(
        "limits",
        "a grid 32,769 pixels wide is refused",
        REFERENCE,
        lambda: Pixels(constant(1), WEST, NORTH, (32_769, 1)),
        Refused(r"HTTP 400: .*less than or equal to 32768"),
    ),
    Fact(
        "limits",
        "an answer of 64 MB is too large",
        REFERENCE,
        lambda: Pixels(constant(1, "toDouble"), WEST, NORTH, (4096, 2048)),
        Refused(r"HTTP 400: .*less than or equal to 50331648"),
    ),
    Fact("limits", "a list of a billion numbers is refused", MEMORY, lambda: ee.List.sequence(0, 1e9), Refused(".")),
    Fact("limits", "a billion repetitions are refused", MEMORY, lambda: ee.List.repeat(1, 1_000_000_000), Refused(".")),
    Fact(
        "random points",
        "the same seed gives the same points",
        REFERENCE,
        lambda: Then([drawn_points(3), drawn_points(3)], lambda a, b: a == b),
        Equal(True),
    ),
    Fact(
        "random points",
        "another seed gives different points",
        REFERENCE,
        lambda: Then([drawn_points(3), drawn_points(4)], lambda a, b: a == b),
        Equal(False),
    ),
    Fact(
        "random points",
        "the requested number of points, all inside the region",
        REFERENCE,
        lambda: ee.FeatureCollection.randomPoints(point().buffer(1000), 7, 1).filterBounds(point().buffer(1001)).size(),
        Equal(7),
    ),
)


def drawn_points(seed: int) -> ee.ComputedObject:
    return ee.FeatureCollection.randomPoints(point().buffer(1000), 5, seed).geometry().coordinates()


def mixed(first: str = "toByte", second: str = "toFloat") -> ee.ImageCollection:
    """Two constants with the same name and different types."""
    return ee.ImageCollection([constant(1, first), constant(2, second)])


def uneven() -> ee.ImageCollection:
    """Two images, with one band and with two."""
    one = constant(1).rename("a")
    return ee.ImageCollection([one, one.addBands(constant(2).rename("b"))])


def ranged() -> ee.ImageCollection:
    """Two constants of floating-point types that differ only in their ranges."""
    return ee.ImageCollection([ee.Image.constant(0.0).float(), ee.Image.constant(1.0).float()])


HOMOGENEOUS = (
    *(
        Fact(
            "homogeneous collections",
            f"{name} of different types is refused",
            source,
            lambda name=name: reduced(getattr(mixed(), name)()),
            TYPES,
        )
        for name, source in (
            ("sum", ISSUE),
            ("median", ISSUE),
            ("mean", ISSUE),
            ("min", ISSUE),
            ("max", ISSUE),
            ("mosaic", MEMORY),
            ("mode", MEMORY),
        )
    ),
    Fact(
        "homogeneous collections",
        "a percentile of two types is refused",
        ISSUE,
        lambda: reduced(mixed().reduce(ee.Reducer.percentile([50]))),
        TYPES,
    ),
    *(
        Fact(
            "homogeneous collections",
            f"{name} of different bands is refused",
            source,
            lambda name=name: reduced(getattr(uneven(), name)().select("a")),
            BANDS,
        )
        for name, source in (("median", ISSUE), ("mosaic", ISSUE), ("sum", ISSUE), ("mode", MEMORY))
    ),
    Fact(
        "homogeneous collections",
        "the type of the first image is reported as the expected one",
        ISSUE,
        lambda: reduced(mixed("toInt16", "toFloat").median()),
        Refused(r"for band 'constant': Expected type: Short.* Actual type: Float"),
    ),
    Fact(
        "homogeneous collections",
        "an integer constant merged with others is refused",
        ISSUE,
        lambda: reduced(constants(1, cast="toDouble").merge(ee.ImageCollection([ee.Image(0)])).sum()),
        TYPES,
    ),
    Fact(
        "homogeneous collections",
        "different ranges of one type are refused",
        ISSUE,
        lambda: reduced(
            ee.ImageCollection([normalized(1, 3), normalized(1, 3).multiply(1000).cast({"nd": "float"})]).median()
        ),
        OneOf((TYPES, Equal(-250.25, 1e-6))),
        Both.EQUAL,
    ),
    Fact(
        "homogeneous collections",
        "band names are still returned",
        ISSUE,
        lambda: uneven().median().select("a").bandNames(),
        Equal(["a"]),
    ),
    Fact(
        "homogeneous collections",
        "selecting the common band first avoids the refusal",
        ISSUE,
        lambda: reduced(uneven().select("a").sum()),
        Equal(2),
    ),
    Fact(
        "homogeneous collections",
        "casting to one type first avoids the refusal",
        ISSUE,
        lambda: reduced(mixed().map(lambda image: image.toDouble()).sum()),
        Equal(3),
    ),
    Fact(
        "homogeneous collections",
        "without pixels there is no refusal: size and properties are returned",
        ISSUE,
        lambda: mixed().merge(uneven()).size(),
        Equal(4),
    ),
)


def normalized(a: float, b: float) -> ee.Image:
    return ee.Image.cat([constant(a, "toFloat"), constant(b, "toFloat")]).normalizedDifference()


def label_mode(*, bounded: bool) -> ee.Image:
    labels = ee.ImageCollection(DYNAMIC_WORLD).filterDate("2019-06-01", "2019-09-01").select("label")
    return (labels.filterBounds(square()) if bounded else labels).mode()


def composite(name: str, *, bounded: bool) -> ee.Image:
    found = ee.ImageCollection(S2).filterDate("2019-07-01", "2019-07-08").select("B4")
    images = (found.filterBounds(square()) if bounded else found).map(lambda image: image.toDouble())
    made: ee.Image = getattr(images, name)()
    return made


def equal_pixels(a: ee.Image, b: ee.Image) -> Then:
    """Whether two images have the same pixels around the town."""
    return Then([Pixels(a, WEST, NORTH), Pixels(b, WEST, NORTH)], lambda one, other: one == other)


UNBOUNDED = (
    *(
        Fact(
            "unbounded collections",
            f"the {name} has the same pixels as that of the bounded collection",
            GUIDE,
            lambda name=name: equal_pixels(composite(name, bounded=True), composite(name, bounded=False)),
            Equal(True),
        )
        for name in ("median", "mosaic", "count", "max")
    ),
    Fact(
        "unbounded collections",
        "the mode of labels has the same pixels as that of the bounded collection",
        GUIDE,
        lambda: equal_pixels(label_mode(bounded=True), label_mode(bounded=False)),
        Equal(True),
    ),
    Fact(
        "unbounded collections",
        "reduceRegion uses the images in its region",
        GUIDE,
        lambda: ee.Number(reduced(composite("median", bounded=True))).subtract(
            ee.Number(reduced(composite("median", bounded=False)))
        ),
        Equal(0),
    ),
    Fact(
        "unbounded collections",
        "filterBounds after a map finds the same scenes; the emulator may refuse it",
        GUIDE,
        lambda: (
            scenes()
            .size()
            .subtract(
                ee.ImageCollection(S2)
                .filterDate("2019-06-01", "2019-09-01")
                .map(lambda image: image.toDouble())
                .filterBounds(point())
                .size()
            )
        ),
        OneOf((Equal(0), Refused(r"emulator computes the scenes of its planet location by location"))),
    ),
    Fact(
        "unbounded collections",
        "the composite of a whole collection has the band names of its images",
        GUIDE,
        lambda: (
            ee.ImageCollection(S2).filterDate("2019-07-01", "2019-07-08").select(["B4", "SCL"]).mosaic().bandNames()
        ),
        Equal(["B4", "SCL"]),
    ),
    Fact(
        "unbounded collections",
        "bands linked from an unbounded collection come from the image of the same index",
        REFERENCE,
        lambda: reduced(
            ee.Image(linked(whole_scenes()).first()).select("B3").subtract(scene().select("B3")).abs(),
            ee.Reducer.max(),
        ),
        Equal(0),
    ),
    Fact(
        "unbounded collections",
        "linked bands without a match are masked",
        REFERENCE,
        lambda: reduced(ee.Image(linked(months()).first()).select("B3"), ee.Reducer.count()),
        Equal(0),
    ),
)


def linked(collection: ee.ImageCollection) -> ee.ImageCollection:
    return collection.limit(1).select([0], ["own"]).linkCollection(ee.ImageCollection(S2), ["B3"])


TIES = (
    Fact("ties", "the mode of 3, 1 and 2 is 1", MEMORY, lambda: reduced(constants(3, 1, 2).mode()), Equal(1)),
    Fact(
        "ties", "the mode of 5, 5, 2, 2 and 9 is 2", MEMORY, lambda: reduced(constants(5, 5, 2, 2, 9).mode()), Equal(2)
    ),
    Fact(
        "ties",
        "the mode ignores masked values",
        GUIDE,
        lambda: reduced(constants(1, 2, 2).map(lambda i: i.updateMask(i.lt(2))).mode()),
        Equal(1),
    ),
    Fact("ties", "the median of 1 and 2 is 1.5", REFERENCE, lambda: reduced(constants(1, 2).median()), Equal(1.5)),
    Fact(
        "ties", "the mosaic shows the last image on top", REFERENCE, lambda: reduced(constants(1, 2).mosaic()), Equal(2)
    ),
    Fact(
        "ties",
        "where the last image is masked, the mosaic shows the one before",
        REFERENCE,
        lambda: reduced(constants(1, 2).map(lambda i: i.updateMask(i.lt(2))).mosaic()),
        Equal(1),
    ),
    Fact("ties", "count counts unmasked images", REFERENCE, lambda: reduced(constants(1, 2, 5).count()), Equal(3)),
)


def numbered() -> ee.FeatureCollection:
    return features(n=[1, 2, 3, 4], tile=["32TPT", "32TPT", "33TUN", "32TNT"])


STRING_FILTERS = tuple(
    Fact(
        "string filters",
        f"{condition!r} is a condition",
        source,
        lambda condition=condition: numbered().filter(condition).aggregate_array("n"),
        Equal(left),
    )
    for condition, source, left in (
        ("n > 2", REFERENCE, [3, 4]),
        ("n >= 2", REFERENCE, [2, 3, 4]),
        ("n < 2", REFERENCE, [1]),
        ("n <= 2", REFERENCE, [1, 2]),
        ("n == 2", REFERENCE, [2]),
        ("n != 2", REFERENCE, [1, 3, 4]),
        ("n > 1 && n < 4", REFERENCE, [2, 3]),
        ("n < 2 || n > 3", REFERENCE, [1, 4]),
        ("!(n > 2)", REFERENCE, [1, 2]),
        ("(n < 2 || n > 3) && n != 1", REFERENCE, [4]),
        ("n > 1 and n < 4", MEMORY, [2, 3]),
        ("n < 2 or n > 3", MEMORY, [1, 4]),
        ("not (n > 2)", MEMORY, [1, 2]),
        ('tile == "32TPT"', REFERENCE, [1, 2]),
        ("tile == '32TPT'", MEMORY, [1, 2]),
        ('n < 2 && tile == "32TPT"', REFERENCE, [1]),
    )
)

FILTERS = (
    Fact(
        "string filters",
        "a collection of scenes accepts one",
        ISSUE,
        lambda: (
            scenes()
            .filter("CLOUDY_PIXEL_PERCENTAGE < 20")
            .size()
            .subtract(scenes().filter(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", 20)).size())
        ),
        Equal(0),
    ),
    Fact(
        "string filters",
        "text that is not a condition is refused",
        MEMORY,
        lambda: numbered().filter("n <").size(),
        Refused("HTTP 400"),
    ),
    Fact(
        "string filters",
        "a feature without the property meets no condition",
        MEMORY,
        lambda: features(n=[1, None]).filter(ee.Filter.lt("n", 5)).size(),
        Equal(1),
    ),
    Fact(
        "string filters",
        "whether a feature without the property meets a negated condition",
        MEMORY,
        lambda: features(n=[1, None]).filter(ee.Filter.gte("n", 5)).size(),
        OneOf((Equal(0), Equal(1))),
        Both.EQUAL,
    ),
)


def columns(
    reducer: ee.Reducer, names: list[str] | None = None, table: ee.FeatureCollection | None = None
) -> ee.ComputedObject:
    """List that a reducer makes from columns."""
    rows = features(a=[1, 2, 3], b=[10, None, 30]) if table is None else table
    return rows.reduceColumns(reducer, names or ["a", "b"]).get("list")


TO_LIST = (
    Fact(
        "toList",
        "without tuples, the elements are the values of the only input",
        REFERENCE,
        lambda: columns(ee.Reducer.toList(), ["a"]),
        Equal([1, 2, 3]),
    ),
    Fact(
        "toList",
        "tuples drop rows with a missing value",
        REFERENCE,
        lambda: columns(ee.Reducer.toList(2)),
        Equal([[1, 10], [3, 30]]),
    ),
    Fact(
        "toList",
        "optional inputs may be null",
        REFERENCE,
        lambda: columns(ee.Reducer.toList(2, 1)),
        Equal([[1, 10], [2, None], [3, 30]]),
    ),
    Fact(
        "toList",
        "one input can make tuples of length one",
        REFERENCE,
        lambda: columns(ee.Reducer.toList(1), ["a"]),
        Equal([[1], [2], [3]]),
    ),
    Fact(
        "toList",
        "repeat returns one list per column",
        REFERENCE,
        lambda: columns(ee.Reducer.toList().repeat(2), table=features(a=[1, 2], b=[10, 20])),
        Equal([[1, 2], [10, 20]]),
    ),
    Fact(
        "toList",
        "without tuples, rows without the value are left out",
        MEMORY,
        lambda: columns(ee.Reducer.toList(), ["b"]),
        Equal([10, 30]),
    ),
    Fact(
        "toList",
        "a time axis can be read as tuples of index and start",
        ISSUE,
        lambda: Then(
            [
                months("2019-01-01", "2019-04-01")
                .reduceColumns(ee.Reducer.toList(2), ["system:index", "system:time_start"])
                .get("list")
            ],
            lambda rows: rows,
        ),
        Equal([["201901", 1546300800000], ["201902", 1548979200000], ["201903", 1551398400000]]),
    ),
    Fact(
        "toList",
        "a time axis can also be read by repeated lists",
        ISSUE,
        lambda: (
            months("2019-01-01", "2019-04-01")
            .reduceColumns(ee.Reducer.toList().repeat(2), ["system:time_start", "month"])
            .get("list")
        ),
        Equal([[1546300800000, 1548979200000, 1551398400000], [1, 2, 3]]),
    ),
    Fact(
        "toList",
        "a mean ignores missing values",
        REFERENCE,
        lambda: features(b=[10, None, 30]).reduceColumns(ee.Reducer.mean(), ["b"]).get("mean"),
        Equal(20),
    ),
)

MERGED = (
    Fact(
        "band names",
        "merging prefixes the index of each image with the number of its part",
        REFERENCE,
        lambda: constants(1, 2).merge(constants(3)).aggregate_array("system:index"),
        Equal(["1_0", "1_1", "2_0"]),
    ),
    Fact(
        "band names",
        "toBands prefixes the index of the image",
        REFERENCE,
        lambda: constants(1, 2).toBands().bandNames(),
        Equal(["0_constant", "1_constant"]),
    ),
    Fact(
        "band names",
        "toBands prefixes the months of monthly images",
        REFERENCE,
        lambda: months("2019-06-01", "2019-08-01").select("temperature_2m").toBands().bandNames(),
        Equal(["201906_temperature_2m", "201907_temperature_2m"]),
    ),
    Fact(
        "If",
        "an error in the branch not taken does not fail the request",
        MEMORY,
        lambda: ee.Algorithms.If(True, 1, ee.List([]).get(0)),
        Equal(1),
    ),
    Fact("If", "an empty list is false", REFERENCE, lambda: ee.Algorithms.If(ee.List([]), 1, 2), Equal(2), Both.EQUAL),
    Fact(
        "If",
        "0, null and an empty string are false",
        REFERENCE,
        lambda: ee.List([ee.Algorithms.If(value, 1, 2) for value in (0, None, "")]),
        Equal([2, 2, 2]),
        Both.EQUAL,
    ),
    Fact(
        "If",
        "inside a map it is evaluated for each element",
        REFERENCE,
        lambda: ee.List([0, 1]).map(lambda k: ee.Algorithms.If(k, "yes", "no")),
        Equal(["no", "yes"]),
    ),
)


def utm_box() -> ee.Geometry:
    return box(0, 0, SIDE_M, SIDE_M)


MARGINS = (
    Fact(
        "error margins",
        "the area of a shape on a UTM grid needs a margin",
        ISSUE,
        lambda: utm_box().area(),
        Refused(r"error margin"),
    ),
    Fact(
        "error margins",
        "with a margin, it is the area on the sphere or ellipsoid",
        GUIDE,
        lambda: ee.Number(utm_box().area(1)).divide(SIDE_M**2).subtract(1).abs().lt(0.01),
        Equal(1),
    ),
    Fact(
        "error margins",
        "the area in the shape's own projection needs no margin",
        REFERENCE,
        lambda: utm_box().area(proj=ee.Projection(CRS)),
        OneOf((Equal(SIDE_M**2, 1e-6), Refused(r"error margin"))),
        Both.EQUAL,
    ),
    Fact(
        "error margins",
        "the area of a geodesic shape needs no margin",
        GUIDE,
        lambda: ee.Geometry.Rectangle([11, 47, 11.01, 47.01]).area().gt(0),
        Equal(1),
    ),
    Fact(
        "error margins",
        "a transformation between projections needs a margin",
        REFERENCE,
        lambda: utm_box().transform("EPSG:4326").type(),
        OneOf((Equal("Polygon"), Refused(r"error margin"))),
        Both.EQUAL,
    ),
    Fact(
        "error margins",
        "contains between projections is accepted with a margin",
        REFERENCE,
        lambda: utm_box().contains(point(), 1),
        Equal(True),
    ),
    Fact(
        "error margins",
        "Filter.contains has a default margin",
        CLIENT,
        lambda: scenes().filter(ee.Filter.contains(".geo", box(310, 310, 330, 330))).size().gt(0),
        Equal(1),
    ),
    Fact(
        "error margins",
        "Filter.intersects has a default margin",
        CLIENT,
        lambda: scenes().filter(ee.Filter.intersects(".geo", utm_box())).size().gt(0),
        Equal(1),
    ),
)

FACTS = (
    *WINDOWS,
    *NOTHING,
    *LIMITS,
    *HOMOGENEOUS,
    *UNBOUNDED,
    *TIES,
    *STRING_FILTERS,
    *FILTERS,
    *TO_LIST,
    *MERGED,
    *MARGINS,
)
