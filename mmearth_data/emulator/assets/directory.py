"""The directory of assets: ids, and the collections and images behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from mmearth_data.catalog.entries import eco_regions, load_catalog
from mmearth_data.emulator.algorithms.collections import Collection, listed
from mmearth_data.emulator.algorithms.features import INDEX, Feature
from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.image import DOUBLE, MATRIX, Band, Image, LazyBands
from mmearth_data.emulator.algorithms.pyramids import MODE
from mmearth_data.emulator.assets import archive, derived, scene_search
from mmearth_data.emulator.assets.archive import BYTE, GLOBE, SIGNED_SHORT, LazyProperties, global_band
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import encode
from mmearth_data.planet import era5, planet, products
from mmearth_data.planet.orbits import DAY_MS, SENTINEL1, SENTINEL2, Orbit, days_since_1970
from mmearth_data.planet.scenes import LAND_COVER_CLOUDS, optical_scene_named, radar_scene_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.image import Makers
    from mmearth_data.emulator.graph.registry import Context, Value
    from mmearth_data.planet.grids import Window
    from mmearth_data.planet.planet import Planet

    Values = Mapping[str, Value]
    Limits = Mapping[str, float]
    Narrowing = Callable[[Values, Limits], Value]

PUBLIC, LEGACY = "projects/earthengine-public/assets/", "projects/earthengine-legacy/assets/"
"""Projects of the data catalog, and of older assets: ``users/...`` and folders such as ``projects/sat-io``."""
FIRST_MS, LAST_MS = (days_since_1970(day) * DAY_MS for day in ("1950-01-01", "2026-01-01"))
"""Period of the archive."""
IMAGES = frozenset({planet.DEM, planet.CANOPY, planet.CANOPY_SD, derived.SURFACE_WATER})
Period = tuple[int, int]
PASS = "orbitProperties_pass"


@dataclass(frozen=True)
class Source:
    """A collection of the archive."""

    id: str
    # Images that may touch a shape (EPSG:4326; None is everywhere) and start in a period; required values and upper
    # limits of properties may narrow the search
    listed: Callable[[BaseGeometry | None, Period, Values, Limits], Iterable[Image]]
    load: Callable[[str], Image | None]  # Image of an index
    # Time of the first image, if there are too many to list or if pixels should be computed from the images near a
    # grid; None if there are few images
    since_ms: int | None = None
    until_ms: int = LAST_MS  # End of the period covered
    properties: Values = field(default_factory=dict)

    def query(
        self,
        bounds: BaseGeometry | None,
        start_ms: int | None,
        end_ms: int | None,
        equal: Values | None = None,
        below: Limits | None = None,
    ) -> Iterator[Image]:
        """Images that may touch a location and start in [start, end), in order.

        Parameters
        ----------
        bounds
            Shape, EPSG:4326; None is everywhere, which works only for a given index, an empty period or few images.
        start_ms, end_ms
            UTC milliseconds; None is open.
        equal
            Required values of properties; an image with a given ``system:index`` is found directly.
        below
            Upper limits of properties. Images that do not meet these two may be found all the same.
        """
        index = (equal or {}).get("system:index")
        if isinstance(index, str):
            image = self.load(index)
            yield from () if image is None else (image,)
        else:
            period = FIRST_MS if start_ms is None else start_ms, LAST_MS if end_ms is None else end_ms
            yield from self.listed(bounds, period, equal or {}, below or {})


def _scenes(
    asset: str,
    search: Callable[..., Iterable[Any]],
    image: Callable[[Any], Image],
    scene_named: Callable[[str], Any],
    since_ms: int,
    narrowing: Mapping[str, Narrowing] | None = None,
) -> Source:
    """Make a collection of scenes that the planet finds by location and time.

    ``narrowing`` is keyword of ``search`` -> its value for properties that must equal, or must not exceed, something.
    """

    def found(bounds: BaseGeometry | None, period: Period, equal: Values, below: Limits) -> Iterable[Image]:
        first, last = max(since_ms, period[0]), min(LAST_MS, period[1])
        if first >= last:
            return ()
        if bounds is None:
            raise EmulatorError(
                f"{asset}: expected a location, because the emulator computes the scenes of its planet location by "
                "location and cannot list all of them; add filterBounds(geometry), or name one scene by its "
                "system:index. Pixels of a composite (median, mosaic, mode, ...) need no filterBounds: they are computed "
                "for the requested grid."
            )
        narrowed = {word: use(equal, below) for word, use in (narrowing or {}).items()}
        narrowed = {word: value for word, value in narrowed.items() if value is not None}
        return () if bounds.is_empty else map(image, search(bounds, (first, last), **narrowed))

    def named(index: str) -> Image | None:
        scene = scene_named(index)
        return None if scene is None else image(scene)

    return Source(asset, found, named, since_ms)


# ---------------------------------------------------------------- ecoregions

ECOREGIONS = "RESOLVE/ECOREGIONS/2017"
ROCK_AND_ICE = {"ECO_NAME": "Rock and Ice", "BIOME_NAME": "N/A", "BIOME_NUM": 11, "ECO_ID": 0, "REALM": "N/A"}
"""The one row of the table that is not an ecoregion; here it is the Antarctic interior, which the planet lacks."""
INTERIOR = shapely.box(-180, -90, 180, -85)
BIOME_NUMBERS = (
    "Tropical & Subtropical Moist Broadleaf Forests",
    "Tropical & Subtropical Dry Broadleaf Forests",
    "Tropical & Subtropical Coniferous Forests",
    "Temperate Broadleaf & Mixed Forests",
    "Temperate Conifer Forests",
    "Boreal Forests/Taiga",
    "Tropical & Subtropical Grasslands, Savannas & Shrublands",
    "Temperate Grasslands, Savannas & Shrublands",
    "Flooded Grasslands & Savannas",
    "Montane Grasslands & Shrublands",
    "Tundra",
    "Mediterranean Forests, Woodlands & Scrub",
    "Deserts & Xeric Shrublands",
    "Mangroves",
)
"""RESOLVE's BIOME_NUM counts from 1 in this order; the class ids of the catalog differ."""


@lru_cache(maxsize=2)
def ecoregions_of(planet: Planet) -> Collection:
    """Table of the planet's ecoregions, with RESOLVE's columns."""
    names = {region.id: region.name for region in eco_regions()}
    biomes = {label.code: label.name for label in load_catalog().modalities["biome"].classes}
    frame = planet.ecoregions()
    rows = [Feature(Geometry(INTERIOR, geodesic=False), {**ROCK_AND_ICE, INDEX: "0"})]
    for row in frame.itertuples():
        biome = biomes[row.biome]
        properties = {
            "ECO_NAME": names[row.eco_region],
            "ECO_ID": int(row.eco_region) + 1,
            "BIOME_NAME": biome,
            "BIOME_NUM": BIOME_NUMBERS.index(biome) + 1,
            "REALM": row.realm,
            INDEX: str(len(rows)),
        }
        rows.append(Feature(Geometry(row.geometry, geodesic=False), properties))
    return Collection(listed(rows), "Feature", {}, ECOREGIONS)


def load_table(asset: str, planet: Planet) -> Collection | None:
    """Table of an asset id, or None."""
    return ecoregions_of(planet) if plain_id(asset) == ECOREGIONS else None


# ---------------------------------------------------------------- the planet's products


def _scene_image(
    product: Any,  # noqa: ANN401 - any product of the planet that has scenes
    bands: Callable[[Any, products.Image], Makers],
    properties: Mapping[str, Callable[[Any], Value]],
    scene: Any,  # noqa: ANN401 - any scene
) -> Image:
    def makers() -> Makers:
        if isinstance(product, products.DynamicWorld):
            one = (product.band,)
            return bands(
                product, products.Image(product.asset, scene.index, scene.time_ms, scene.time_ms + 1, one, scene)
            )
        return bands(product, product.image(scene))

    return Image(
        LazyBands(makers),
        LazyProperties(scene, properties),
        scene.footprint,
        f"{product.asset}/{scene.index}",
        (scene.time_ms + DAY_MS) * 1000,
    )


def _sentinel2(world_of: Planet, asset: str) -> Source:
    product = world_of.products[asset]
    assert isinstance(product, products.Sentinel2)
    world = world_of.views.world

    def holds(scene: Any) -> bool:  # noqa: ANN401 - a scene
        return product.level == "L1C" or scene.has_level_2a

    def search(shape: BaseGeometry, period: Period, cloud_limit: float = 101.0) -> Iterable[Any]:
        return filter(holds, scene_search.optical(world, shape, period, cloud_limit=cloud_limit))

    def named(index: str) -> Any:  # noqa: ANN401 - a scene
        scene = optical_scene_named(world, index)
        return scene if scene is not None and holds(scene) else None

    image = partial(_scene_image, product, archive.sentinel2_bands, archive.sentinel2_properties(product.level))
    return _scenes(asset, search, image, named, _first_ms(SENTINEL2), {"cloud_limit": _cloud_limit})


def _first_ms(*orbits: Orbit) -> int:
    """Launch of the first platform on these orbits, UTC milliseconds."""
    return min(first for orbit in orbits for first, _, _ in orbit.platforms.values()) * DAY_MS


def _cloud_limit(equal: Values, below: Limits) -> float | None:
    limit = below.get("CLOUDY_PIXEL_PERCENTAGE")
    return None if limit is None else math.nextafter(limit, math.inf)  # the search excludes the limit itself


def _sentinel1(world_of: Planet) -> Source:
    product, world = world_of.products[planet.S1], world_of.views.world
    image = partial(_scene_image, product, archive.sentinel1_bands, archive.SENTINEL1_PROPERTIES)
    search, named = partial(scene_search.radar, world), partial(radar_scene_named, world)
    narrowing: dict[str, Narrowing] = {"way": lambda equal, below: equal.get(PASS)}
    return _scenes(planet.S1, search, image, named, _first_ms(*SENTINEL1.values()), narrowing)


def _dynamic_world(world_of: Planet) -> Source:
    product, world = world_of.products[planet.DYNAMIC_WORLD], world_of.views.world
    image = partial(_scene_image, product, archive.dynamic_world_bands, archive.DYNAMIC_WORLD_PROPERTIES)
    search = partial(scene_search.optical, world, cloud_limit=LAND_COVER_CLOUDS, mapped=True)
    named = partial(optical_scene_named, world, mapped=True)
    return _scenes(planet.DYNAMIC_WORLD, search, image, named, _first_ms(SENTINEL2))


def _landsat8(world_of: Planet) -> Source:
    views = world_of.views
    search, named = partial(derived.landsat_scenes, views), partial(derived.landsat_named, views)
    return _scenes(derived.LANDSAT8, search, derived.landsat_image, named, _first_ms(derived.LANDSAT_ORBIT))


def _elevation(world_of: Planet) -> Source:
    views = world_of.views
    return Source(
        derived.GLO30,
        lambda shape, *_: derived.elevation_tiles(views, shape),
        partial(derived.elevation_named, views),
        FIRST_MS,
    )


def _yearly(world_of: Planet, asset: str) -> Source:
    product = world_of.products[asset]
    assert isinstance(product, products.Static)

    def image(year: int) -> Image:
        own = product.image(year)
        read = partial(product.read, own, product.band)
        band = global_band(product.band, BYTE, product.native, read, policy=MODE)
        properties = {"system:index": own.index, "system:time_start": own.start_ms, "system:time_end": own.end_ms}
        return Image((band,), properties, GLOBE, f"{asset}/{own.index}", own.end_ms * 1000)

    images = [image(year) for year in range(product.years[0], product.years[1] + 1)]

    def found(shape: BaseGeometry | None, period: Period, *_: Values) -> list[Image]:
        return [i for i in images if period[0] <= i.properties["system:time_start"] < period[1]]

    named = {image.properties["system:index"]: image for image in images}
    return Source(asset, found, named.get)


WEATHER_RASTER = archive.raster_of(products.ERA5_GRID, *products.ERA5_GRID.origin, (3601, 1801))
"""-180 and 180 degrees are separate columns."""


def _weather(world_of: Planet) -> Source:
    product = world_of.products[planet.ERA5]
    assert isinstance(product, products.Era5)

    def image(month: int) -> Image:
        own = product.image(month)

        def band(name: str) -> Band:
            return archive.native_band(name, DOUBLE, WEATHER_RASTER, partial(_month_of_weather, product, month, name))

        bands = LazyBands(lambda: {name: partial(band, name) for name in era5.BANDS})
        year, of_year = divmod(month, 12)
        properties = {
            "system:index": own.index,
            "system:time_start": own.start_ms,
            "system:time_end": own.end_ms,
            "year": year + 1970,
            "month": of_year + 1,
        }
        return Image(bands, properties, GLOBE, f"{planet.ERA5}/{own.index}", own.end_ms * 1000)

    made = lru_cache(maxsize=1024)(image)

    def found(shape: BaseGeometry | None, period: Period, *_: Values) -> list[Image]:
        start, end = max(period[0], FIRST_MS), min(period[1], LAST_MS)
        first, last = (int(np.datetime64(ms, "ms").astype("datetime64[M]").astype(np.int64)) for ms in (start, end))
        months = [made(month) for month in range(first, last + 1)]
        return [i for i in months if start <= i.properties["system:time_start"] < end]

    def named(index: str) -> Image | None:
        if len(index) != 6 or not index.isdigit() or not 1 <= int(index[4:]) <= 12:
            return None
        month = (int(index[:4]) - 1970) * 12 + int(index[4:]) - 1
        return made(month) if FIRST_MS <= product.image(month).start_ms < LAST_MS else None

    return Source(planet.ERA5, found, named)


@lru_cache(maxsize=2048)
def _year_of_weather(product: products.Era5, year: int, window: Window) -> NDArray[np.float32]:
    """(band, month, row, column); the months of a year take hardly longer than one."""
    return product.cube(range(year * 12, year * 12 + 12), window)


def _month_of_weather(
    product: products.Era5, month: int, band: str, window: Window
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    values = _year_of_weather(product, month // 12, window)[era5.BANDS.index(band), month % 12]
    return values, ~np.isnan(values)


def _static(world_of: Planet, asset: str) -> Image:
    product = world_of.products[asset]
    assert isinstance(product, products.Static)
    own = product.image(product.years[0])
    kind = SIGNED_SHORT if asset == planet.DEM else BYTE
    band = global_band(product.band, kind, product.native, partial(product.read, own, product.band))
    return Image((band,), {"system:index": asset.rpartition("/")[2]}, GLOBE, asset, archive.STATIC_VERSION)


MAKERS: dict[str, Callable[[Planet], Source | Image]] = {
    planet.L2A: lambda p: _sentinel2(p, planet.L2A),
    planet.L1C: lambda p: _sentinel2(p, planet.L1C),
    planet.S1: _sentinel1,
    planet.DYNAMIC_WORLD: _dynamic_world,
    planet.ERA5: _weather,
    planet.WORLD_COVER: lambda p: _yearly(p, planet.WORLD_COVER),
    planet.LULC: lambda p: _yearly(p, planet.LULC),
    planet.DEM: lambda p: _static(p, planet.DEM),
    planet.CANOPY: lambda p: _static(p, planet.CANOPY),
    planet.CANOPY_SD: lambda p: _static(p, planet.CANOPY_SD),
    derived.GLO30: _elevation,
    derived.SURFACE_WATER: lambda p: derived.surface_water(p.views),
    derived.LANDSAT8: _landsat8,
}
"""Asset id -> function that makes it of a planet."""
FIRST_DAYS = {
    planet.L1C: "2015-06-27",
    planet.L2A: "2017-03-28",
    planet.S1: "2014-10-03",
    planet.DYNAMIC_WORLD: "2015-06-27",
    planet.ERA5: "1950-02-01",
    planet.WORLD_COVER: "2020-01-01",
    derived.LANDSAT8: "2013-03-18",
}
"""Start of the property ``date_range`` of a collection; Earth Engine's data catalog."""


@lru_cache(maxsize=64)
def _made(world_of: Planet, asset: str) -> Source | Image:
    made, first = MAKERS[asset](world_of), FIRST_DAYS.get(asset)
    if first is None or isinstance(made, Image):
        return made
    return replace(made, properties={**made.properties, "date_range": [days_since_1970(first) * DAY_MS, LAST_MS]})


def plain_id(name: str) -> str:
    """Asset id as written in scripts: without the project that the REST interface prepends."""
    return name.removeprefix(PUBLIC).removeprefix(LEGACY).strip("/")


def full_name(asset: str) -> str:
    """Asset name in the REST interface."""
    return f"{LEGACY if asset.startswith(('projects/', 'users/')) else PUBLIC}{asset}"


def find(asset_id: str, context: Context) -> Source | Image | None:
    """Find the collection or image of an id; an image of a collection is found by the collection's id and its index."""
    asset = plain_id(asset_id)
    if asset in MAKERS:
        return _made(context.planet, asset)
    parent, _, index = asset.rpartition("/")
    if parent not in MAKERS:
        return None
    source = _made(context.planet, parent)
    return None if isinstance(source, Image) else source.load(index)


def list_assets(parent: str = "") -> list[dict[str, Value]]:
    """All assets below a folder, as `listAssets` names them; an empty ``parent`` lists all."""
    kinds = {asset: "IMAGE" if asset in IMAGES else "IMAGE_COLLECTION" for asset in MAKERS}
    kinds[ECOREGIONS] = "TABLE"
    return [_entry(asset, kind) for asset, kind in sorted(kinds.items()) if full_name(asset).startswith(parent)]


def _entry(asset: str, kind: str) -> dict[str, Value]:
    updated = f"{np.datetime64(LAST_MS, 'ms')}Z"
    return {"type": kind, "name": full_name(asset), "id": asset, "updateTime": updated}


def describe_asset(asset_id: str, context: Context) -> dict[str, Value] | None:
    """Answer of ``assets.get``; None if there is no such asset."""
    asset = plain_id(asset_id)
    if asset == ECOREGIONS:
        return _entry(asset, "TABLE")
    found = find(asset, context)
    if found is None:
        return _entry(asset, "FOLDER") if asset and list_assets(f"{full_name(asset)}/") else None
    if not isinstance(found, Image):
        return _entry(asset, "IMAGE_COLLECTION") | {"properties": encode(dict(found.properties))}
    return image_entry(found, asset)


def image_entry(found: Image, asset: str) -> dict[str, Value]:
    """Describe an image as ``assets.get`` and ``listAssets`` do."""
    out = _entry(asset, "IMAGE")
    for name, key in (("startTime", "system:time_start"), ("endTime", "system:time_end")):
        if (ms := found.properties.get(key)) is not None:
            out[name] = f"{np.datetime64(int(ms), 'ms')}Z"
    out["properties"] = {name: encode(value) for name, value in found.properties.items()}
    if found.footprint is not None:
        out["geometry"] = shapely.geometry.mapping(found.footprint)
    out["bands"] = [_band_entry(band) for band in found.bands]
    return out


def _band_entry(band: Any) -> dict[str, Value]:  # noqa: ANN401 - a band
    transform = dict(zip(MATRIX, band.projection.transform, strict=True))
    grid: dict[str, Value] = {"crsCode": band.projection.crs, "affineTransform": transform}
    if band.size is not None:
        grid["dimensions"] = {"width": band.size[0], "height": band.size[1]}
    precision = {"int": "INT", "float": "FLOAT", "double": "DOUBLE"}[band.type.precision]
    limits = {"min": band.type.low, "max": band.type.high}
    kind = {"precision": precision, "range": {k: v for k, v in limits.items() if v is not None}}
    return {"id": band.name, "dataType": kind, "grid": grid}
