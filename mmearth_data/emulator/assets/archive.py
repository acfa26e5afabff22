"""Images of the planet as Earth Engine stores them: bands with types and pixel grids, properties, footprints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import WGS84 as WGS84_EPSG
from mmearth_data.catalog.tile import transformer
from mmearth_data.emulator.algorithms.image import (
    CHEAP,
    DOUBLE,
    FLOAT,
    Band,
    Grid,
    Pixels,
    PixelType,
    Projection,
    inside,
    least,
    wholly_masked,
)
from mmearth_data.emulator.algorithms.pyramids import Policy, pyramid_band
from mmearth_data.emulator.server.work import check
from mmearth_data.planet.grids import Window
from mmearth_data.planet.scenes import GRANULE_M, OpticalScene, RadarScene

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.algorithms.image import Makers
    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.planet import products
    from mmearth_data.planet.grids import Grid as NativeGrid

BYTE, SHORT, WORD = PixelType.of(np.uint8), PixelType.of(np.uint16), PixelType.of(np.uint32)
SIGNED_SHORT = PixelType.of(np.int16)
GLOBE = shapely.box(-180, -90, 180, 90)
STATIC_VERSION = 1_600_000_000_000_000
"""Version of assets that never change, microseconds since 1970."""


class LazyProperties(Mapping[str, "Value"]):
    """Properties that are computed from a scene when they are read."""

    __slots__ = ("_makers", "_scene")

    def __init__(self, scene: Any, makers: Mapping[str, Callable[[Any], Value]]) -> None:  # noqa: ANN401
        self._scene = scene
        self._makers = makers

    def __getitem__(self, name: str) -> Value:
        return self._makers[name](self._scene)

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


# ---------------------------------------------------------------- native pixels


@dataclass(frozen=True)
class Raster:
    """Position of an image's pixels on the unbounded pixel grid of the planet."""

    projection: Projection  # Of the image: pixel (0, 0) is the upper-left one of the image
    size: tuple[int, int]  # (columns, rows)
    offset: tuple[int, int]  # (column, row) of that pixel on the planet's grid
    around: bool = False  # True for maps of the whole globe, which continue beyond 180 degrees

    def native(self, grid: Grid) -> Window:
        """Window of the planet's grid."""
        return Window(grid.column + self.offset[0], grid.row + self.offset[1], grid.width, grid.height)

    def edge(self, grid: Grid) -> NDArray[np.bool_] | None:
        """Pixels within the image; None if all are."""
        width, height = self.size
        within = self.around or (grid.column >= 0 and grid.column + grid.width <= width)
        if within and grid.row >= 0 and grid.row + grid.height <= height:
            return None
        columns = grid.column + np.arange(grid.width)
        rows = grid.row + np.arange(grid.height)
        across = np.ones(grid.width, bool) if self.around else (columns >= 0) & (columns < width)
        return np.asarray(((rows >= 0) & (rows < height))[:, None] & across[None, :])


def raster_of(grid: NativeGrid, west: float, north: float, size: tuple[int, int]) -> Raster:
    """Raster of some pixels of a native grid, from an upper-left corner between pixels."""
    step = grid.step[0] / grid.step[1]
    along = (west - grid.origin[0], grid.origin[1] - north)
    column, row = (round(distance * grid.step[1] / grid.step[0]) for distance in along)
    projection = Projection(f"EPSG:{grid.epsg}", (step, 0.0, float(west), 0.0, -step, float(north)))
    around = grid.geographic and size[0] * grid.step[0] >= 360 * grid.step[1]
    return Raster(projection, size, (column, row), around)


CHEAP_VALUES = {"label": 0, "Map": 10, "SCL": 4, "QA60": 0, "MSK_CLDPRB": 0, "VV": -10, "VH": -16, "HH": -10, "HV": -16}
CHEAP_VALUES |= {"temperature_2m": 285, "temperature_2m_min": 270, "temperature_2m_max": 300, "DEM": 250}


def cheap_value(name: str, kind: PixelType) -> float:
    """Return the number that a band of an asset has everywhere while pixels are cheap."""
    if kind.precision != "int":
        return CHEAP_VALUES.get(name, 0.1)
    return CHEAP_VALUES.get(name, 10 if kind.high is not None and kind.high <= 255 else 1000)


Read = Callable[[Window], "tuple[NDArray[Any], NDArray[np.bool_] | None]"]


def native_band(
    name: str,
    kind: PixelType,
    raster: Raster,
    read: Read,
    footprint: BaseGeometry | None = None,
    policy: Policy | None = None,
) -> Band:
    """Band of an asset.

    ``read`` returns (values, valid) of a window of the planet's grid; valid None masks nothing. A ``footprint`` masks
    everything outside, if the planet itself does not. Without a ``policy`` the pyramid is the usual one of bands of that
    name.
    """
    value = float(cheap_value(name, kind))

    def native(grid: Grid) -> Pixels:
        check()
        if CHEAP.get():
            return Pixels(np.full(grid.shape, value), np.ones(grid.shape, bool))
        edge = raster.edge(grid)
        if edge is not None and not edge.any():
            return Pixels(np.zeros(grid.shape), np.zeros(grid.shape, bool))
        values, valid = read(raster.native(grid))
        known = np.ones(grid.shape, bool) if valid is None else valid
        if edge is not None:
            known = known & edge
        if footprint is not None:
            known = known & inside(footprint, grid)
        return Pixels(np.where(known, values.astype(np.float64), 0.0), known)

    return pyramid_band(name, kind, raster.projection, raster.size, native, policy)


def computed_band(name: str, kind: PixelType, like: Band, sources: Sequence[Band], compute: Callable[..., Any]) -> Band:
    """Band of an asset that the planet does not have: computed from others, on the pixel grid of one of them."""

    def native(grid: Grid) -> Pixels:
        layers = [band.evaluate(grid) for band in sources]
        valid = least(*(layer.valid for layer in layers))
        values = np.broadcast_to(np.asarray(compute(*(layer.values for layer in layers)), np.float64), grid.shape)
        return Pixels(np.where(valid, values, 0.0), valid)

    return pyramid_band(name, kind, like.projection, like.size, native)


def ring(footprint: BaseGeometry) -> dict[str, Value]:
    """``system:footprint``: the outline as a ring."""
    outline = footprint if isinstance(footprint, shapely.Polygon) else footprint.convex_hull
    return {"type": "LinearRing", "coordinates": shapely.get_coordinates(outline).tolist()}


# ---------------------------------------------------------------- Sentinel-2


@lru_cache(maxsize=4096)
def granule_raster(epsg: int, west: int, north: int, pixels: int) -> Raster:
    """Pixel grid of a Sentinel-2 granule; the pixels are a multiple of 10 m wide."""
    step, side = 10 * pixels, GRANULE_M // (10 * pixels)
    projection = Projection(f"EPSG:{epsg}", (float(step), 0.0, float(west), 0.0, float(-step), float(north)))
    return Raster(projection, (side, side), (west // step, -north // step))


S2_TYPES: dict[str, PixelType] = {"MSK_CLDPRB": BYTE, "MSK_SNWPRB": BYTE, "SCL": BYTE, "QA20": WORD}
"""Types of bands that are no 16-bit numbers."""
S2_ORDER = (
    *(f"B{k}" for k in range(1, 9)), "B8A", *(f"B{k}" for k in range(9, 13)), "AOT", "WVP", "SCL", "TCI_R", "TCI_G",
    "TCI_B", "MSK_CLDPRB", "MSK_SNWPRB", "QA10", "QA20", "QA60", "MSK_CLASSI_OPAQUE", "MSK_CLASSI_CIRRUS",
    "MSK_CLASSI_SNOW_ICE",
)  # fmt: skip
TRUE_COLOUR = {"TCI_R": "B4", "TCI_G": "B3", "TCI_B": "B2"}
SNOW_CLASS = 11


class Computed(NamedTuple):
    """A band that the planet does not have."""

    kind: PixelType
    like: str  # Band whose pixel grid it has
    of: tuple[str, ...]  # Bands from which it is computed
    compute: Callable[..., Any]  # Of the scene and the values of those bands


S2_COMPUTED = {
    "QA10": Computed(SHORT, "B2", ("B2",), lambda scene, dn: 0),
    "QA20": Computed(WORD, "B5", ("B5",), lambda scene, dn: 0),
}
S2_COMPUTED_L2A = {
    "AOT": Computed(SHORT, "B2", ("B2",), lambda scene, dn: round(100 * scene.light.haze)),
    "WVP": Computed(SHORT, "B2", ("B2",), lambda scene, dn: round(1500 * scene.light.haze)),
    **{
        name: Computed(BYTE, "B2", (of,), lambda scene, dn: np.clip(np.trunc(dn * 255 / 3558), 1, 255))
        for name, of in TRUE_COLOUR.items()
    },
}
SNOW = Computed(BYTE, "B5", ("SCL",), lambda scene, scl: np.where(scl == SNOW_CLASS, 95, 0))
CLOUD_CLASSES = {
    "MSK_CLASSI_OPAQUE": Computed(BYTE, "QA60", ("QA60",), lambda scene, flags: flags == 1 << 10),
    "MSK_CLASSI_CIRRUS": Computed(BYTE, "QA60", ("QA60",), lambda scene, flags: flags == 1 << 11),
    "MSK_CLASSI_SNOW_ICE": Computed(
        BYTE, "QA60", ("B3", "B11"), lambda scene, green, swir: (green > 2200) & (green - swir > 0.4 * (green + swir))
    ),
}
"""Bands of the cloud classification, 60 m. Before February 2024 they are masked; images without MSK_CLDPRB lack them."""


def sentinel2_bands(product: products.Sentinel2, image: products.Image) -> Makers:
    """Bands of a Sentinel-2 image, in the archive's order."""
    scene = image.scene
    assert isinstance(scene, OpticalScene)

    def own(name: str) -> Band:
        raster = granule_raster(scene.epsg, *scene.granule.corner, product.grid(image, name).step[0] // 10)
        return native_band(name, S2_TYPES.get(name, SHORT), raster, partial(product.read, image, name))

    def computed(name: str, row: Computed) -> Band:
        sources = [own(source) for source in row.of]
        band = computed_band(name, row.kind, own(row.like), sources, partial(row.compute, scene))
        return wholly_masked(band) if name in CLOUD_CLASSES and not scene.has_cloud_classes else band

    rows = {**S2_COMPUTED, **(S2_COMPUTED_L2A if "SCL" in image.bands else {})}
    if (
        "MSK_CLDPRB" in image.bands
    ):  # images without it have 21 bands instead of 23: the snow probability is missing too
        rows["MSK_SNWPRB"] = SNOW
    if scene.has_cloud_classes or scene.has_cloud_probability:
        rows |= CLOUD_CLASSES
    makers = {name: partial(own, name) for name in image.bands}
    makers |= {name: partial(computed, name, row) for name, row in rows.items()}
    return {name: makers[name] for name in S2_ORDER if name in makers}


def _number(scene: OpticalScene) -> int:
    return scene.start_ms // 6_042_000 % 100_000


def _product_name(level: str, scene: OpticalScene) -> str:
    start, time, tile = scene.index.split("_")
    return f"{scene.platform}_MSI{level}_{start}_N0500_R{scene.track + 1:03d}_{tile}_{time}"


TIMED: dict[str, Callable[[Any], Value]] = {
    "system:index": lambda s: s.index,
    "system:time_start": lambda s: s.time_ms,
    "system:footprint": lambda s: ring(s.footprint),
}
"""Properties that the images of all scenes have."""
CHECKED = ("FORMAT_CORRECTNESS", "GENERAL_QUALITY", "GEOMETRIC_QUALITY", "RADIOMETRIC_QUALITY", "SENSOR_QUALITY")


def sentinel2_properties(level: str) -> dict[str, Callable[[OpticalScene], Value]]:
    """Name -> value, of the properties of Sentinel-2 images of a level."""
    return {
        **TIMED,
        "system:time_end": lambda s: s.time_ms,
        "system:asset_size": lambda s: 1_000_000_000 + s.lot % 300_000_000,
        "CLOUDY_PIXEL_PERCENTAGE": lambda s: s.cloud_percent,
        "CLOUD_COVERAGE_ASSESSMENT": lambda s: s.cloud_percent,
        "DATASTRIP_ID": lambda s: f"{s.platform}_OPER_MSI_{level}_DS_SGS__{s.overpass}_S{s.index.split('_')[1]}_N05.00",
        "DATATAKE_IDENTIFIER": lambda s: f"G{s.platform}_{s.overpass}_{_number(s):06d}_N05.00",
        "DATATAKE_TYPE": lambda s: "INS-NOBS",
        "DEGRADED_MSI_DATA_PERCENTAGE": lambda s: 0.0,
        "GENERATION_TIME": lambda s: s.time_ms // 1000 * 1000,
        "GRANULE_ID": lambda s: f"{level}_{s.granule.name}_A{_number(s):06d}_{s.index.split('_')[1]}",
        "MEAN_SOLAR_AZIMUTH_ANGLE": lambda s: s.sun[1],
        "MEAN_SOLAR_ZENITH_ANGLE": lambda s: s.sun[0],
        "MGRS_TILE": lambda s: s.granule.name[1:],
        "PROCESSING_BASELINE": lambda s: "05.00",
        "PRODUCTION_DEM_TYPE": lambda s: "S2__OPER_DEM_GLOBEF_PDMC_19800101T000000_S19800101T000000",
        "PRODUCT_ID": lambda s: _product_name(level, s),
        "PRODUCT_URI": lambda s: f"{_product_name(level, s)}.SAFE",
        "REFLECTANCE_CONVERSION_CORRECTION": lambda s: 1.0,
        "SENSING_ORBIT_DIRECTION": lambda s: "DESCENDING",
        "SENSING_ORBIT_NUMBER": lambda s: float(s.track + 1),
        "SPACECRAFT_NAME": lambda s: f"Sentinel-2{s.platform[-1]}",
        **{f"{checked}_FLAG": lambda s: "PASSED" for checked in CHECKED},
    }


# ---------------------------------------------------------------- Sentinel-1


@lru_cache(maxsize=4096)
def frame_raster(epsg: int, footprint: BaseGeometry) -> Raster:
    """10 m pixel grid around a footprint."""
    lon, lat = shapely.get_coordinates(footprint.segmentize(0.1)).T
    x, y = transformer(WGS84_EPSG, epsg).transform(lon, lat)
    west, south = (int(np.floor(axis.min() / 10)) for axis in (x, y))
    east, north = (int(np.ceil(axis.max() / 10)) for axis in (x, y))
    projection = Projection(f"EPSG:{epsg}", (10.0, 0.0, west * 10.0, 0.0, -10.0, north * 10.0))
    return Raster(projection, (east - west, north - south), (west, -north))


def sentinel1_bands(product: products.Sentinel1, image: products.Image) -> Makers:
    """Bands of a Sentinel-1 image: backscatter in dB, and the angle of incidence."""
    scene = image.scene
    assert isinstance(scene, RadarScene)

    def own(name: str) -> Band:
        kind, raster = FLOAT if name == "angle" else DOUBLE, frame_raster(scene.epsg, scene.footprint)
        return native_band(name, kind, raster, partial(product.read, image, name), scene.footprint)

    return {name: partial(own, name) for name in image.bands}


SENTINEL1_PROPERTIES: dict[str, Callable[[RadarScene], Value]] = {
    **TIMED,
    "system:time_end": lambda s: s.time_ms + 25_000,
    "system:asset_size": lambda s: 1_700_000_000,
    "instrumentMode": lambda s: "IW",
    "orbitProperties_pass": lambda s: s.direction,
    "platform_number": lambda s: s.platform[-1],
    "familyName": lambda s: "SENTINEL-1",
    "productType": lambda s: "GRD",
    "resolution": lambda s: "H",
    "resolution_meters": lambda s: 10.0,
    "transmitterReceiverPolarisation": lambda s: list(s.polarisations),
    "relativeOrbitNumber_start": lambda s: float(s.track + 1),
    "relativeOrbitNumber_stop": lambda s: float(s.track + 1),
    "sliceNumber": lambda s: float(s.frame % 30),
    "instrumentSwath": lambda s: "IW",
}


# ---------------------------------------------------------------- Dynamic World

SURE, REST = 0.7, 0.0375
PROBABILITY = PixelType("double", 0, 1)


@cache
def _land_classes() -> tuple[str, ...]:
    """Names of the bands, such as snow_and_ice for the class "Snow and ice"."""
    classes = load_catalog().modalities["dynamic_world"].classes
    return tuple(one.name.lower().replace(" ", "_") for one in classes)


def dynamic_world_bands(product: products.DynamicWorld, image: products.Image) -> Makers:
    """Bands of a land-cover map: a probability for each class, and the label."""
    scene = image.scene
    assert isinstance(scene, OpticalScene)

    def label() -> Band:
        raster = granule_raster(scene.epsg, *scene.granule.corner, 1)
        return native_band("label", BYTE, raster, partial(product.read, image, "label"))

    def probability(name: str, k: int) -> Band:
        of = label()
        return computed_band(name, PROBABILITY, of, [of], lambda labels: np.where(labels == k, SURE, REST))

    return {**{name: partial(probability, name, k) for k, name in enumerate(_land_classes())}, "label": label}


DYNAMIC_WORLD_PROPERTIES: dict[str, Callable[[OpticalScene], Value]] = {
    **TIMED,
    "dynamicworld_algorithm_version": lambda s: "3.5",
    "qa_algorithm_version": lambda s: "1.5",
}


# ---------------------------------------------------------------- maps of the globe


def global_band(
    name: str,
    kind: PixelType,
    grid: NativeGrid,
    read: Read,
    latitudes: tuple[int, int] = (-90, 90),
    policy: Policy | None = None,
) -> Band:
    """Band of a map of the whole globe, or of the part between two latitudes."""
    south, north = latitudes
    width, height = (degrees * grid.step[1] // grid.step[0] for degrees in (360, north - south))
    return native_band(name, kind, raster_of(grid, -180, north, (width, height)), read, policy=policy)
