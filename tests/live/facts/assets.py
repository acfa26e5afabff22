"""Facts about the assets used by the catalog."""

from __future__ import annotations

import ee
from _asking import Pixels, Then
from _fact import Alike, Both, Equal, Fact, OneOf, Refused, Source
from _world import (
    CANOPY,
    CRS,
    DEM,
    DYNAMIC_WORLD,
    ECOREGIONS,
    ERA5,
    L1C,
    NORTH,
    S1,
    S2,
    WEST,
    WORLD_COVER,
    months,
    point,
    reduced,
    scene,
    scenes,
    square,
)

GUIDE, CATALOG, ISSUE, MEMORY = Source.GUIDE, Source.CATALOG, Source.ISSUE, Source.MEMORY
OPTICAL = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
CLASSI = ["MSK_CLASSI_OPAQUE", "MSK_CLASSI_CIRRUS", "MSK_CLASSI_SNOW_ICE"]


def lacks(image: ee.Image, band: str) -> ee.ComputedObject:
    """Whether a band is missing."""
    return image.bandNames().contains(band).Not()


def stem_parts(index: str, tile: str, day: str) -> list[bool]:
    """Whether an index consists of two times and the tile, the first time on the day of the scene."""
    start, processed, name = index.split("_")
    return [start[:8] == day, len(start) == len(processed) == 15, name == f"T{tile}"]


def indexed(image: ee.Image) -> ee.List:
    return ee.List([image.get("system:index"), image.get("MGRS_TILE"), image.date().format("YYYYMMdd")])


SENTINEL2 = (
    Fact(
        "Sentinel-2",
        "Level 2A has its reflectance bands",
        CATALOG,
        lambda: scene().select(OPTICAL).bandNames(),
        Equal(OPTICAL),
    ),
    Fact("Sentinel-2", "Level 2A lacks B10", CATALOG, lambda: scene().bandNames().contains("B10"), Equal(False)),
    Fact("Sentinel-2", "Level 1C has B10", CATALOG, lambda: scene(L1C).select("B10").bandNames(), Equal(["B10"])),
    Fact(
        "Sentinel-2",
        "Level 1C has neither scene classes nor cloud probability",
        CATALOG,
        lambda: ee.List([scene(L1C).bandNames().contains(band) for band in ("SCL", "MSK_CLDPRB")]),
        Equal([False, False]),
    ),
    Fact(
        "Sentinel-2",
        "classes are 8-bit, reflectance is 16-bit",
        CATALOG,
        lambda: Then(
            [scene().select(["SCL", "B2"]).bandTypes()], lambda found: [found["SCL"]["max"], found["B2"]["max"]]
        ),
        Equal([255, 65535]),
    ),
    Fact(
        "Sentinel-2",
        "bands have 10, 20 or 60 m pixels",
        CATALOG,
        lambda: ee.List([scene().select(band).projection().nominalScale() for band in ("B2", "B5", "B1", "SCL")]),
        Equal([10, 20, 60, 20]),
    ),
    Fact(
        "Sentinel-2",
        "a scene is in the UTM zone of its tile",
        CATALOG,
        lambda: scene().select("B2").projection().crs(),
        Equal(CRS),
    ),
    Fact(
        "Sentinel-2",
        "grids start on whole pixels",
        CATALOG,
        lambda: Then(
            [scene().select("B2").projection()],
            lambda found: [found["transform"][2] % 10, found["transform"][5] % 10],
        ),
        Equal([0, 0]),
    ),
    Fact(
        "Sentinel-2",
        "values are the reflectance times 10,000",
        CATALOG,
        lambda: Then([reduced(scene().select("B8"))], lambda mean: 100 < mean < 12_000),
        Equal(True),
    ),
    Fact(
        "Sentinel-2",
        "near a zone border, a location is in scenes of both zones",
        CATALOG,
        lambda: (
            ee.ImageCollection(S2)
            .filterBounds(ee.Geometry.Point([12.0, 47.3]).buffer(500))
            .filterDate("2019-06-01", "2019-09-01")
            .aggregate_array("MGRS_TILE")
            .map(lambda tile: ee.String(tile).slice(0, 2))
            .distinct()
            .sort()
        ),
        Equal(["32", "33"]),
    ),
    Fact(
        "Sentinel-2",
        "scenes have the properties used by builds",
        CATALOG,
        lambda: scene().toDictionary(["MGRS_TILE", "CLOUDY_PIXEL_PERCENTAGE", "PRODUCT_ID", "SPACECRAFT_NAME"]),
        Alike({"MGRS_TILE": "", "CLOUDY_PIXEL_PERCENTAGE": 0, "PRODUCT_ID": "", "SPACECRAFT_NAME": ""}),
    ),
    Fact(
        "Sentinel-2",
        "some scenes lack the cloud probability, but most have it",
        ISSUE,
        lambda: Then(
            [
                scenes(S2, "2018-01-01", "2021-01-01")
                .map(lambda image: image.set("n", image.bandNames().contains("MSK_CLDPRB")))
                .aggregate_array("n")
            ],
            lambda having: sum(map(bool, having)) > len(having) / 2,
        ),
        Equal(True),
    ),
    Fact(
        "dates of images",
        "the index of a scene is its product's stem",
        CATALOG,
        lambda: Then([indexed(scene())], lambda found: stem_parts(*found)),
        Equal([True, True, True]),
    ),
    Fact(
        "dates of images",
        "collection and index form the name of a scene",
        GUIDE,
        lambda: Then(
            [scene().get("system:id"), scene().get("system:index")], lambda name, index: name == f"{S2}/{index}"
        ),
        OneOf((Equal(True), Equal(False))),
        Both.EQUAL,
    ),
)

QA60 = (
    *(
        Fact(
            "QA60",
            f"it {'is masked' if masked else 'has data'} in {month}",
            CATALOG,
            lambda start=start, end=end, masked=masked: ee.Number(
                reduced(scene(S2, start, end).select("QA60"), ee.Reducer.count())
            ).gt(0),
            Equal(0 if masked else 1),
        )
        for month, start, end, masked in (
            ("2019", "2019-06-01", "2019-09-01", False),
            ("the summer of 2022", "2022-06-01", "2022-09-01", True),
            ("the summer of 2023", "2023-06-01", "2023-09-01", True),
            ("the summer of 2024", "2024-06-01", "2024-09-01", False),
        )
    ),
    Fact(
        "QA60",
        "the band exists where it is masked",
        CATALOG,
        lambda: scene(S2, "2022-06-01", "2022-09-01").bandNames().contains("QA60"),
        Equal(True),
    ),
    Fact(
        "QA60",
        "Level 1C has the same gap",
        CATALOG,
        lambda: reduced(scene(L1C, "2022-06-01", "2022-09-01").select("QA60"), ee.Reducer.count()),
        Equal(0),
    ),
    *(
        Fact(
            "QA60",
            f"{band} has data in the summer of 2024",
            CATALOG,
            lambda band=band: ee.Number(
                reduced(scene(S2, "2024-06-01", "2024-09-01").select(band), ee.Reducer.count())
            ).gt(0),
            Equal(1),
        )
        for band in CLASSI
    ),
    Fact(
        "QA60",
        "its successors are masked or absent in 2019",
        ISSUE,
        lambda: reduced(
            ee.Image.cat([scene(), ee.Image(0).updateMask(0).rename(CLASSI[0])]).select(CLASSI[0]), ee.Reducer.count()
        ),
        Equal(0),
    ),
)

SENTINEL1 = (
    Fact(
        "Sentinel-1",
        "bands are the polarisations and the angle",
        CATALOG,
        lambda: ee.Image(scenes(S1).filter(ee.Filter.eq("instrumentMode", "IW")).first()).bandNames(),
        OneOf((Equal(["VV", "VH", "angle"]), Equal(["VV", "angle"]))),
    ),
    Fact(
        "Sentinel-1",
        "every scene has one band per polarisation",
        CATALOG,
        lambda: (
            scenes(S1, "2019-06-01", "2019-07-01")
            .map(
                lambda image: image.set(
                    "n",
                    image.bandNames().removeAll(ee.List(image.get("transmitterReceiverPolarisation"))).join(" "),
                )
            )
            .aggregate_array("n")
            .distinct()
        ),
        Equal(["angle"]),
    ),
    Fact(
        "Sentinel-1",
        "passes are ascending or descending",
        CATALOG,
        lambda: scenes(S1, "2019-06-01", "2019-09-01").aggregate_array("orbitProperties_pass").distinct().sort(),
        Equal(["ASCENDING", "DESCENDING"]),
    ),
    Fact(
        "Sentinel-1",
        "backscatter is in dB",
        CATALOG,
        lambda: Then([reduced(ee.Image(scenes(S1).first()).select("VV"))], lambda mean: -40 < mean < 10),
        Equal(True),
    ),
    Fact(
        "Sentinel-1",
        "pixels are 10 m",
        CATALOG,
        lambda: ee.Image(scenes(S1).first()).select("VV").projection().nominalScale(),
        Equal(10, 1e-6),
    ),
    Fact(
        "Sentinel-1",
        "scenes in the Arctic are horizontally polarised",
        CATALOG,
        lambda: (
            ee.ImageCollection(S1)
            .filterBounds(ee.Geometry.Point([-40, 72]))
            .filterDate("2019-01-01", "2019-03-01")
            .filter(ee.Filter.listContains("transmitterReceiverPolarisation", "HH"))
            .size()
            .gt(0)
        ),
        Equal(1),
    ),
)


def weather() -> ee.Image:
    return ee.Image(months("2019-06-01", "2019-07-01").first()).select("temperature_2m")


def era5_grid() -> ee.Projection:
    return weather().projection()


CLIMATE = (
    Fact(
        "ERA5-Land",
        "one image per month, named after it",
        CATALOG,
        lambda: months().aggregate_array("system:index"),
        Equal([f"2019{month:02d}" for month in range(1, 13)]),
    ),
    Fact(
        "ERA5-Land",
        "its grid starts at -180.05, 90.05",
        ISSUE,
        lambda: Then([era5_grid()], lambda found: [found["crs"], found["transform"]]),
        Equal(["EPSG:4326", [0.1, 0, -180.05, 0, -0.1, 90.05]], 1e-9),
    ),
    Fact(
        "ERA5-Land",
        "it has 3,600 or 3,601 columns by 1,801 rows",
        ISSUE,
        lambda: Then([weather()], lambda found: found["bands"][0]["dimensions"]),
        OneOf((Equal([3600, 1801]), Equal([3601, 1801]))),
        Both.EQUAL,
    ),
    Fact(
        "ERA5-Land",
        "it is masked over the sea",
        CATALOG,
        lambda: weather().reduceRegion(ee.Reducer.mean(), ee.Geometry.Point([-30, 40]), 1000).get("temperature_2m"),
        Equal(None),
    ),
    Fact(
        "ERA5-Land",
        "temperatures are in kelvin",
        CATALOG,
        lambda: Then([reduced(weather())], lambda mean: 230 < mean < 320),
        Equal(True),
    ),
    Fact(
        "ERA5-Land",
        "it has the bands used by the catalog",
        CATALOG,
        lambda: (
            ee.Image(months().first())
            .select(["temperature_2m", "temperature_2m_min", "temperature_2m_max", "total_precipitation_sum"])
            .bandNames()
        ),
        Equal(["temperature_2m", "temperature_2m_min", "temperature_2m_max", "total_precipitation_sum"]),
    ),
    Fact(
        "ERA5-Land",
        "images have month and year",
        CATALOG,
        lambda: ee.Image(months("2019-06-01", "2019-07-01").first()).toDictionary(["month", "year"]),
        Equal({"month": 6, "year": 2019}),
    ),
    Fact(
        "ERA5-Land",
        "values are double precision",
        CATALOG,
        lambda: Then([weather().bandTypes()], lambda found: found["temperature_2m"]["precision"]),
        Equal("double"),
    ),
    Fact(
        "regions",
        "at 10 m, a tile covers whole pixels of a coarse asset",
        GUIDE,
        lambda: ee.Number(reduced(weather())).subtract(reduced(weather(), ee.Reducer.first())).abs().lt(5),
        Equal(1),
    ),
    Fact(
        "regions",
        "a region below 1/256 of a coarse asset's own pixel has no value",
        GUIDE,
        lambda: weather().reduceRegion(ee.Reducer.mean(), point().buffer(50), crs=era5_grid()).get("temperature_2m"),
        Equal(None),
    ),
)

MAPS = (
    Fact(
        "Dynamic World",
        "an image has probabilities and the label",
        CATALOG,
        lambda: ee.Image(scenes(DYNAMIC_WORLD).first()).select(["water", "snow_and_ice", "label"]).bandNames(),
        Equal(["water", "snow_and_ice", "label"]),
    ),
    Fact(
        "Dynamic World",
        "labels are 0 to 8",
        CATALOG,
        lambda: Then(
            [scenes(DYNAMIC_WORLD).select("label").mode().reduceRegion(ee.Reducer.minMax(), square(), 10, CRS)],
            lambda found: 0 <= found["label_min"] <= found["label_max"] <= 8,
        ),
        Equal(True),
    ),
    Fact(
        "Dynamic World",
        "there is none before mid-2015",
        CATALOG,
        lambda: scenes(DYNAMIC_WORLD, "2013-01-01", "2015-06-01").size(),
        Equal(0),
    ),
    Fact(
        "Dynamic World",
        "an image is named after its Sentinel-2 scene",
        CATALOG,
        lambda: (
            ee.ImageCollection(L1C)
            .filter(ee.Filter.eq("system:index", ee.Image(scenes(DYNAMIC_WORLD).first()).get("system:index")))
            .filterBounds(point())
            .size()
        ),
        Equal(1),
    ),
    Fact("static assets", "WorldCover is one image", CATALOG, lambda: ee.ImageCollection(WORLD_COVER).size(), Equal(1)),
    Fact(
        "static assets",
        "WorldCover has the band Map",
        CATALOG,
        lambda: ee.Image(ee.ImageCollection(WORLD_COVER).first()).bandNames(),
        Equal(["Map"]),
    ),
    Fact(
        "static assets",
        "WorldCover's classes are 8-bit",
        CATALOG,
        lambda: Then(
            [ee.Image(ee.ImageCollection(WORLD_COVER).first()).bandTypes()], lambda found: found["Map"]["max"]
        ),
        Equal(255),
    ),
    Fact(
        "static assets",
        "the elevation is band b1, in EPSG:4326",
        ISSUE,
        lambda: ee.List([ee.Image(DEM).bandNames(), ee.Image(DEM).projection().crs()]),
        Equal([["b1"], "EPSG:4326"]),
    ),
    Fact(
        "static assets",
        "the elevation has pixels of 1/3600 degree",
        ISSUE,
        lambda: Then([ee.Image(DEM).projection()], lambda found: found["transform"][0]),
        Equal(1 / 3600, 1e-9),
    ),
    Fact(
        "static assets",
        "the canopy height is band b1, with pixels of 1/12000 degree",
        ISSUE,
        lambda: Then(
            [ee.Image(CANOPY).bandNames(), ee.Image(CANOPY).projection()],
            lambda names, found: [names, found["transform"][0]],
        ),
        Equal([["b1"], 1 / 12000], 1e-9),
    ),
    Fact(
        "static assets",
        "an ecoregion has the columns used by the catalog",
        CATALOG,
        lambda: (
            ee.FeatureCollection(ECOREGIONS)
            .filterBounds(point())
            .first()
            .toDictionary(["ECO_NAME", "ECO_ID", "BIOME_NAME", "BIOME_NUM", "REALM"])
        ),
        Alike({"ECO_NAME": "", "ECO_ID": 1, "BIOME_NAME": "", "BIOME_NUM": 1, "REALM": ""}),
    ),
    Fact(
        "static assets",
        "one ecoregion is Rock and Ice",
        CATALOG,
        lambda: ee.FeatureCollection(ECOREGIONS).filter(ee.Filter.eq("ECO_NAME", "Rock and Ice")).size(),
        Equal(1),
    ),
)


def blocks(image: ee.Image, west: float, north: float, step: float, crs: str = CRS, size: int = 8) -> Then:
    """Pixels of twice the size with the four pixels that each covers: a list of (coarse, four fine)."""
    fine = Pixels(image, west, north, (2 * size, 2 * size), (step, step), crs)
    coarse = Pixels(image, west, north, (size, size), (2 * step, 2 * step), crs)

    def paired(small: list[list[float]], large: list[list[float]]) -> list[tuple[float, list[float]]]:
        return [
            (large[r][c], [small[2 * r + i][2 * c + j] for i in (0, 1) for j in (0, 1)])
            for r in range(size)
            for c in range(size)
        ]

    return Then([fine, coarse], paired)


def averages(pairs: list[tuple[float, list[float]]]) -> bool:
    """Whether all coarse pixels are means, rounded to an integer."""
    return all(abs(large - sum(four) / 4) < 1 for large, four in pairs)


def majorities(pairs: list[tuple[float, list[float]]]) -> bool:
    """Whether all coarse pixels have the majority class of their four pixels, or one of the tied classes."""
    return all(four.count(large) == max(map(four.count, four)) for large, four in pairs)


def cover() -> ee.Image:
    return ee.Image(ee.ImageCollection(WORLD_COVER).first())


NATIVE_DEG = 1 / 12000
COVER_CORNER = (11 + 4800 * NATIVE_DEG, 47 + 3600 * NATIVE_DEG)

PYRAMIDS = (
    Fact(
        "pyramids",
        "at 20 m, 10 m reflectance is the mean of four pixels",
        GUIDE,
        lambda: Then([blocks(scene().select("B4"), WEST - WEST % 20, NORTH - NORTH % 20, 10)], averages),
        Equal(True),
    ),
    Fact(
        "pyramids",
        "at 1/6000 degree, land cover is one of its four pixels",
        GUIDE,
        lambda: Then(
            [blocks(cover(), *COVER_CORNER, NATIVE_DEG, "EPSG:4326")],
            lambda pairs: all(large in four for large, four in pairs),
        ),
        Equal(True),
    ),
    Fact(
        "pyramids",
        "at 1/6000 degree, land cover is the majority class of its four pixels",
        MEMORY,
        lambda: Then([blocks(cover(), *COVER_CORNER, NATIVE_DEG, "EPSG:4326")], majorities),
        Equal(True),
        Both.NOT,
    ),
    Fact(
        "pyramids",
        "after reproject to its own grid, nothing is averaged",
        GUIDE,
        lambda: Then(
            [
                blocks(
                    scene().select("B4").reproject(scene().select("B4").projection()),
                    WEST - WEST % 20,
                    NORTH - NORTH % 20,
                    10,
                )
            ],
            lambda pairs: all(large in four for large, four in pairs),
        ),
        Equal(True),
    ),
    Fact(
        "pyramids",
        "a pyramid's mean over a region is close to the mean of its pixels",
        GUIDE,
        lambda: (
            ee.Number(reduced(scene().select("B4"), scale=80))
            .divide(reduced(scene().select("B4")))
            .subtract(1)
            .abs()
            .lt(0.1)
        ),
        Equal(1),
    ),
)

NAMES = (
    *(
        Fact("asset names", says, source, lambda asset=asset: ee.Image(asset).bandNames(), Equal(["b1"]))
        for says, source, asset in (
            ("users/... is an asset", ISSUE, CANOPY),
            ("projects/sat-io/open-datasets/... is an asset", ISSUE, DEM),
            (
                "projects/earthengine-legacy/assets/users/... is the same asset",
                MEMORY,
                f"projects/earthengine-legacy/assets/{CANOPY}",
            ),
            (
                "projects/earthengine-legacy/assets/projects/sat-io/... is the same asset",
                MEMORY,
                f"projects/earthengine-legacy/assets/{DEM}",
            ),
        )
    ),
    Fact(
        "asset names",
        "projects/earthengine-public/assets/... is the public catalog",
        GUIDE,
        lambda: ee.ImageCollection(f"projects/earthengine-public/assets/{WORLD_COVER}").size(),
        Equal(1),
    ),
    *(
        Fact("refusals", says, GUIDE, ask, Refused(r"HTTP 40[04]: .*projects/no-such/assets/thing"))
        for says, ask in (
            ("an unknown image is refused by its name", lambda: ee.Image("projects/no-such/assets/thing").bandNames()),
            (
                "an unknown collection is refused by its name",
                lambda: ee.ImageCollection("projects/no-such/assets/thing").size(),
            ),
            (
                "an unknown table is refused by its name",
                lambda: ee.FeatureCollection("projects/no-such/assets/thing").size(),
            ),
        )
    ),
    Fact(
        "refusals",
        "an unknown image of a collection is refused",
        GUIDE,
        lambda: ee.Image(f"{ERA5}/999999").bandNames(),
        Refused(r"HTTP 40[04]: .*999999"),
    ),
)

FACTS = (*SENTINEL2, *QA60, *SENTINEL1, *CLIMATE, *MAPS, *PYRAMIDS, *NAMES)
