"""Images: bands that are computed on the requested grid, when it is requested.

A band has a native projection. On another grid, each pixel is the nearest native one, as in Earth Engine unless
`Image.resample` was called; results computed from bands are computed on the requested grid. An expression is therefore
evaluated backwards, from the grid of the answer to the assets.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import shapely
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError

from mmearth_data.emulator.errors import EmulatorError, band_not_found, memory_exceeded
from mmearth_data.emulator.graph.patterns import all_matching
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, encode, named, promotion

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.emulator.graph.registry import Value

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]
    Mask = NDArray[Any]

MOST_NATIVE_PIXELS = 4096 * 4096
"""Pixels of an asset that one band of one answer may need; the service reports more as a lack of memory."""
OUTLINE_POINTS, OUTLINE_MARGIN_DEG = 9, 1e-3
WGS84 = "EPSG:4326"
MOST_STRETCH = 0.02
"""UTM stretches areas by up to 0.2 % within its zones, and by 1 % a zone further on."""
EARTH = Geod(ellps="WGS84")
MATRIX = ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")
"""Names of the numbers of a transform in the REST interface."""
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CHEAP: ContextVar[bool] = ContextVar("cheap", default=False)
"""Set while the values of pixels do not matter: every band of an asset is then one valid number everywhere."""


# ---------------------------------------------------------------- types, projections, grids


@named("PixelType")
@dataclass(frozen=True, slots=True)
class PixelType:
    """Type of the numbers in a band."""

    precision: str  # ``int``, ``float`` or ``double``
    # Range; None is open. Numbers written in an expression have their own value as range, casts have the whole range of
    # the type; arithmetic has the range of its possible results, as far as `arithmetic.Binary` can compute it.
    low: float | None = None
    high: float | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest type of numpy that holds the range: that of the band in an answer."""
        if self.precision != "int":
            return np.dtype(np.float32 if self.precision == "float" else np.float64)
        if self.low is None or self.high is None:
            return np.dtype(np.int64)
        kinds = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)
        fits = (k for k in kinds if np.iinfo(k).min <= self.low and self.high <= np.iinfo(k).max)
        return np.dtype(next(fits, np.int64))

    @classmethod
    def of(cls, dtype: np.dtype[Any] | type) -> PixelType:
        """Type of a numpy type."""
        dtype = np.dtype(dtype)
        if dtype.kind == "f":
            return cls("double" if dtype.itemsize > 4 else "float")
        if dtype.kind == "b":
            return cls("int", 0, 1)
        return cls("int", int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))

    def joined(self, other: PixelType) -> PixelType:
        """Type that holds what either holds."""
        rank = ("int", "float", "double")
        precision = max(self.precision, other.precision, key=rank.index)
        if None in (self.low, self.high, other.low, other.high):
            return PixelType(precision)
        return PixelType(precision, min(self.low, other.low), max(self.high, other.high))  # type: ignore[type-var]

    @property
    def shown(self) -> str:
        """Name in messages, with Java's name of the smallest type: ``Short<0, 255>``, ``Float<-0.2, 1.6>``."""
        if self.low is None or self.high is None:
            return {"int": "Long", "float": "Float", "double": "Double"}[self.precision]
        if self.precision != "int":
            return f"Float<{float(self.low)!r}, {float(self.high)!r}>"
        sizes = ((name, 2 ** (bits - 1)) for name, bits in (("Byte", 8), ("Short", 16), ("Integer", 32)))
        name, most = next((s for s in sizes if -s[1] <= self.low and self.high < s[1]), ("Long", 2**63))
        whole = (self.low, self.high) == (-most, most - 1)
        return name if whole else f"{name}<{int(self.low)}, {int(self.high)}>"


FLOAT, DOUBLE, INT32 = PixelType("float"), PixelType("double"), PixelType.of(np.int32)


def need_positive(name: str, number: float) -> None:
    """Refuse a size that is not a positive number."""
    if not 0 < number < math.inf:
        raise EmulatorError(f"Expected a {name} above 0, found {number}.")


@named("Projection")
@dataclass(frozen=True, slots=True)
class Projection:
    """A CRS and a pixel grid in it."""

    crs: str  # Code, such as ``EPSG:32632``
    # (xScale, xShearing, xTranslation, yShearing, yScale, yTranslation): pixel to CRS
    transform: tuple[float, float, float, float, float, float] = IDENTITY

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.transform
        if not math.isfinite(a * e - b * d) or a * e == b * d:
            raise EmulatorError(
                f"Expected a projection whose pixels have an area, found the transform {self.transform}."
            )

    def at_scale(self, metres: float) -> Projection:
        """Keep CRS and origin, with pixels of a size in metres; north up where it has no transform of its own."""
        need_positive("scale", metres)
        if self.transform == IDENTITY:
            step = metres / metres_per_unit(self.crs)
            return Projection(self.crs, (step, 0.0, 0.0, 0.0, -step, 0.0))
        factor = metres / self.nominal_scale
        return self.scaled(factor, factor)

    def scaled(self, x: float, y: float) -> Projection:
        """Keep CRS and origin, with pixels of another width and height."""
        a, b, c, d, e, f = self.transform
        return Projection(self.crs, (a * x, b * y, c, d * x, e * y, f))

    @property
    def nominal_scale(self) -> float:
        """Metres of a pixel's side, at the origin."""
        a, b, _, d, e, _ = self.transform
        return math.sqrt(abs(a * e - b * d)) * metres_per_unit(self.crs)

    @property
    def straight(self) -> bool:
        """Whether rows and columns run along the axes of the CRS."""
        return self.transform[1] == self.transform[3] == 0

    def to_crs(self, column: Any, row: Any) -> tuple[Any, Any]:  # noqa: ANN401 - numbers or arrays
        """Coordinates of positions in pixels, numbers or arrays."""
        a, b, c, d, e, f = self.transform
        return a * column + b * row + c, d * column + e * row + f

    def to_pixels(self, x: Float, y: Float) -> tuple[Float, Float]:
        """Positions in pixels of coordinates."""
        a, b, c, d, e, f = self.transform
        size = a * e - b * d
        return (e * (x - c) - b * (y - f)) / size, (a * (y - f) - d * (x - c)) / size


DEFAULT_PROJECTION = Projection(WGS84)
"""Projection of composites and constants: not a real one, so that resampling has no effect there."""


@lru_cache(maxsize=512)
def parsed_crs(code: str) -> CRS:
    """CRS of a code; an unknown one is refused in the service's words."""
    try:
        return CRS.from_user_input(code)
    except CRSError:
        raise EmulatorError(f"The CRS of a map projection could not be parsed: '{code}'.") from None


@lru_cache(maxsize=512)
def metres_per_unit(code: str) -> float:
    """Metres of a unit of the CRS; of a degree, along the equator."""
    crs = parsed_crs(code)
    factor = float(crs.axis_info[0].unit_conversion_factor)
    return factor * EARTH.a if crs.is_geographic else factor


@lru_cache(maxsize=2048)
def transformer(source: str, target: str) -> Transformer:
    """Return the transformer of (x, y) from one CRS to another."""
    return Transformer.from_crs(parsed_crs(source), parsed_crs(target), always_xy=True)


@dataclass(frozen=True, slots=True)
class Grid:
    """A window of a projection's pixels, from the upper-left one (column, row)."""

    projection: Projection
    column: int
    row: int
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    def padded(self, across: int, down: int) -> Grid:
        """Larger by some pixels on each side."""
        width, height = self.width + 2 * across, self.height + 2 * down
        return Grid(self.projection, self.column - across, self.row - down, width, height)

    def centres(self, crs: str | None = None) -> tuple[Float, Float]:
        """(x, y) of pixel centres, each (row, column); in the grid's own CRS, or in another."""
        columns = self.column + np.arange(self.width) + 0.5
        rows = self.row + np.arange(self.height) + 0.5
        x, y = self.projection.to_crs(*np.meshgrid(columns, rows))
        if crs is None or crs == self.projection.crs:
            return x, y
        x, y = transformer(self.projection.crs, crs).transform(x, y)
        if parsed_crs(crs).is_geographic:  # longitude continues beyond 180 degrees
            x = beside(x, x.flat[0])
        return x, y

    def positions(self, projection: Projection) -> tuple[Float, Float]:
        """(column, row) of pixel centres on another pixel grid, each (row, column); 0.5 is the centre of pixel 0."""
        return _positions(self, projection)

    def pixel_metres(self) -> tuple[Float, Float]:
        """Width and height of the pixels, metres; (row, 1) each.

        On the ellipsoid for longitude and latitude, in the projected plane for other CRSs. Earth Engine does not say
        whether it uses the plane, so planes whose areas differ from those on the ellipsoid are refused.
        """
        a, _, _, _, e, f = self.projection.transform
        if not self.projection.straight:
            raise EmulatorError(
                "Slopes and gradients on a grid whose rows are not along the axes of its CRS are not emulated; reproject it."
            )
        rows = (self.row + np.arange(self.height) + 0.5)[:, None]
        if not parsed_crs(self.projection.crs).is_geographic:
            unit = metres_per_unit(self.projection.crs)
            middle = Grid(self.projection, self.column + self.width // 2, self.row + self.height // 2, 1, 1)
            if abs(abs(a * e) * unit**2 / middle.pixel_areas().item() - 1) > MOST_STRETCH:
                raise EmulatorError(
                    f"Slopes and gradients in {self.projection.crs} are not emulated here, where its metres are not those of "
                    "the Earth's surface; reproject the image to UTM."
                )
            return np.full(rows.shape, abs(a) * unit), np.full(rows.shape, abs(e) * unit)
        parallel, meridian = _metres_per_radian(np.asarray(f + e * rows, np.float64))
        return np.radians(abs(a)) * parallel, np.radians(abs(e)) * meridian

    def pixel_areas(self) -> Float:
        """Pixel areas on the ellipsoid (row, column), square metres; not finite outside the projection's domain."""
        if not parsed_crs(self.projection.crs).is_geographic:
            falling, rising = self._diagonals()
            return np.asarray(np.linalg.norm(np.cross(falling, rising), axis=-1) / 2)
        a, b, _, d, e, _ = self.projection.transform
        parallel, meridian = _metres_per_radian(self.centres()[1])
        return np.asarray(np.radians(np.radians(abs(a * e - b * d))) * parallel * meridian)

    def _diagonals(self) -> tuple[Float, Float]:
        """Diagonals of the pixels in space (row, column, 3), metres; unlike degrees, these have no seam or poles."""
        corners = np.meshgrid(self.column + np.arange(self.width + 1.0), self.row + np.arange(self.height + 1.0))
        lon, lat = map(np.radians, transformer(self.projection.crs, WGS84).transform(*self.projection.to_crs(*corners)))
        with np.errstate(invalid="ignore"):  # positions where the projection is undefined are infinite
            normal = EARTH.a / np.sqrt(1 - EARTH.es * np.sin(lat) ** 2)
            parallel = normal * np.cos(lat)
            at = np.stack([parallel * np.cos(lon), parallel * np.sin(lon), normal * (1 - EARTH.es) * np.sin(lat)], -1)
            return at[1:, 1:] - at[:-1, :-1], at[:-1, 1:] - at[1:, :-1]


def _metres_per_radian(lat: Float) -> tuple[Float, Float]:
    """Metres per radian of longitude and of latitude, at latitudes in degrees."""
    radians = np.radians(np.clip(lat, -90.0, 90.0))
    bend = 1 - EARTH.es * np.sin(radians) ** 2
    return EARTH.a / np.sqrt(bend) * np.cos(radians), EARTH.a * (1 - EARTH.es) / bend**1.5


def beside(longitude: Any, middle: Any) -> Any:  # noqa: ANN401 - numbers or arrays
    """Longitude within half a turn of another one."""
    return middle + (longitude - middle + 180) % 360 - 180


@lru_cache(maxsize=64)
def _positions(grid: Grid, projection: Projection) -> tuple[Float, Float]:
    if grid.projection == projection:  # exact, without rounding
        x, y = np.meshgrid(grid.column + np.arange(grid.width) + 0.5, grid.row + np.arange(grid.height) + 0.5)
        return x, y
    return projection.to_pixels(*grid.centres(projection.crs))


# ---------------------------------------------------------------- pixels, bands, images


class Pixels(NamedTuple):
    """Values of a band on a grid."""

    values: Float  # (row, column)
    # (row, column) False where masked. The service's masks are numbers from 0 to 1: if any is neither 0 nor 1, this is
    # an array of such numbers; otherwise it is boolean, which is faster.
    valid: Mask


def shown(mask: Mask) -> Bool:
    """Pixels that are not fully masked."""
    return mask if mask.dtype == bool else np.asarray(mask > 0)


def least(*masks: Mask) -> Mask:
    """Mask of a result of several bands: the minimum of theirs (the service documents that both must be valid)."""
    if all(mask.dtype == bool for mask in masks):
        return np.asarray(functools.reduce(np.logical_and, masks))
    return np.asarray(functools.reduce(np.minimum, [np.asarray(mask, np.float64) for mask in masks]))


def mask_of(values: Float) -> Mask:
    """Mask from numbers, clipped to 0-1; boolean if none is in between."""
    between = (values > 0) & (values < 1)
    return np.clip(values, 0.0, 1.0) if between.any() else values > 0


MOST_LEVELS = 24
PYRAMID_TOP_PX = 256
"""Side in pixels of the square that the highest level of a pyramid fits into; Earth Engine guides, "scale"."""


@lru_cache(maxsize=4096)
def level_for(asked: Projection, home: Projection, size: tuple[int, int] | None = None) -> int:
    """Level of an image's pyramid that a request on a grid reads.

    Pixels of a level are twice as wide as those below. The level read is the coarsest one that is not coarser than the
    request (Earth Engine guides, "scale"). Scales are nominal, as returned by the service's functions.
    """
    if DEFAULT_PROJECTION in {asked, home}:
        return 0
    level = math.floor(math.log2(max(asked.nominal_scale / home.nominal_scale, 1.0)) + 1e-6)
    top = MOST_LEVELS if size is None else max(math.ceil(math.log2(max(size) / PYRAMID_TOP_PX)), 0)
    return min(level, top)


@lru_cache(maxsize=4096)
def coarsened(projection: Projection, level: int) -> Projection:
    """Pixel grid of a pyramid level."""
    return projection.scaled(2.0**level, 2.0**level)


def cut(column: NDArray[np.int64], row: NDArray[np.int64], projection: Projection, margin: int = 0) -> Grid:
    """Smallest window that contains some pixels, and a margin to the right and below; refused above the limit."""
    left, top = int(column.min()), int(row.min())
    width, height = int(column.max()) - left + 1 + margin, int(row.max()) - top + 1 + margin
    if width * height > MOST_NATIVE_PIXELS:
        raise memory_exceeded()
    return Grid(projection, left, top, width, height)


def nearest(grid: Grid, projection: Projection, native: Callable[[Grid], Pixels]) -> Pixels:
    """Pixels on a grid from those of another one: for each, the one that contains its centre."""
    if grid.projection == projection or CHEAP.get():
        return native(grid)
    window, at = _nearest_at(grid, projection)
    values, valid = native(window)
    return Pixels(values[at], valid[at])


@lru_cache(maxsize=64)
def _nearest_at(grid: Grid, projection: Projection) -> tuple[Grid, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Window of a pixel grid that another grid needs, and the position of each of its pixels there; bands share it."""
    column, row = (np.floor(axis).astype(np.int64) for axis in grid.positions(projection))
    window = cut(column, row, projection)
    return window, (row - window.row, column - window.column)


@dataclass(frozen=True)
class Band:
    """One band of an image."""

    name: str
    type: PixelType
    projection: Projection
    evaluate: Callable[[Grid], Pixels]  # Pixels on a grid
    size: tuple[int, int] | None = None  # (columns, rows) of its pixel grid that it covers; None if it is unbounded
    frame: Grid | None = None  # Window that a download covers, if one was chosen
    # (column, row) of the first pixel, if it was cut out of a larger band; None is pixel 0 of an asset
    origin: tuple[int, int] | None = None

    @property
    def window(self) -> Grid | None:
        """Window of its pixel grid that it covers; None if it is unbounded."""
        if self.frame is not None or self.size is None:
            return self.frame
        return Grid(self.projection, *(self.origin or (0, 0)), *self.size)

    def within(self, window: Grid | None) -> Band:
        """Band restricted to a window of its pixel grid."""
        if window is None:
            return replace(self, size=None, origin=None)
        return replace(self, size=(window.width, window.height), origin=(window.column, window.row))

    @property
    def composite(self) -> bool:
        """Whether it has no projection of its own."""
        return self.projection == DEFAULT_PROJECTION

    def derived(self, evaluate: Callable[[Grid], Pixels], type: PixelType | None = None) -> Band:
        """Band with the same name, projection and window but other pixels."""
        return replace(self, evaluate=evaluate, type=type or self.type)

    def computed(self, compute: Callable[..., Pixels], *others: Band, type: PixelType | None = None) -> Band:
        """Band as `derived` whose pixels are computed from its own and from those of other bands on the same grid."""
        bands = (self, *others)
        return self.derived(lambda grid: compute(*(band.evaluate(grid) for band in bands)), type)

    def called(self, name: str) -> Band:
        """Band of another name."""
        return self if name == self.name else replace(self, name=name)


Makers: TypeAlias = Mapping[str, Callable[[], Band]]
"""Band name -> function that makes the band, in the order of the bands."""


class LazyBands(Sequence[Band]):
    """Bands that are made when they are first accessed: most images of a search never are."""

    __slots__ = ("_bands", "_find", "_makers")

    def __init__(self, makers: Callable[[], Makers]) -> None:
        self._find = makers
        self._makers: Makers | None = None
        self._bands: dict[str, Band] = {}

    def makers(self) -> Makers:
        """Functions that make the bands; the keys are their names, in order."""
        if self._makers is None:
            self._makers = self._find()
        return self._makers

    def named(self, name: str) -> Band | None:
        """Band of a name, if there is one."""
        if name not in self._bands and name in self.makers():
            self._bands[name] = self.makers()[name]()
        return self._bands.get(name)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - an index or a slice
        names = list(self.makers())[index]
        return tuple(map(self.named, names)) if isinstance(index, slice) else self.named(names)

    def __len__(self) -> int:
        return len(self.makers())


@named("Image")
@dataclass(frozen=True)
class Image:
    """Bands and properties."""

    bands: Sequence[Band] = ()
    properties: Mapping[str, Value] = field(default_factory=dict)  # Name -> value
    footprint: BaseGeometry | None = None  # Where it may have pixels, EPSG:4326; None is everywhere
    id: str | None = None  # Asset id, if it is one
    version: int | None = None

    @property
    def names(self) -> list[str]:
        """Names of the bands."""
        return list(self.bands.makers()) if isinstance(self.bands, LazyBands) else [band.name for band in self.bands]

    def with_properties(self, properties: Mapping[str, Value]) -> Image:
        """Image with other properties."""
        return replace(self, properties=dict(properties))

    def with_bands(self, bands: Sequence[Band]) -> Image:
        """Image with other bands; no asset any more."""
        return Image(_unique(bands), self.properties, self.footprint)

    def replaced(self, bands: Sequence[Band]) -> Image:
        """Replace bands of the same names, and add the others."""
        new = {band.name: band for band in bands}
        return self.with_bands((*(new.pop(band.name, band) for band in self.bands), *new.values()))

    def mapped(self, change: Callable[[Band], Band]) -> Image:
        """Change each band."""
        return self.with_bands(tuple(change(band) for band in self.bands))

    def named(self, name: str) -> Band | None:
        """Band of a name, if there is one; the other bands of an asset are not made."""
        if isinstance(self.bands, LazyBands):
            return self.bands.named(name)
        return next((band for band in self.bands if band.name == name), None)

    def find(self, name: str, function: str) -> Band:
        """Band of a name; `EmulatorError` if there is none."""
        found = self.named(name)
        if found is None:
            raise band_not_found(function, name, self.names)
        return found

    @property
    def projection(self) -> Projection:
        """Projection of the first band."""
        return self.bands[0].projection if self.bands else DEFAULT_PROJECTION


def _unique(bands: Sequence[Band]) -> tuple[Band, ...]:
    """Bands whose names differ: a name that is taken gets ``_1``, ``_2``, ..."""
    if len({band.name for band in bands}) == len(bands):
        return tuple(bands)
    taken: set[str] = set()
    out = []
    for band in bands:
        name, k = band.name, 0
        while name in taken:
            k += 1
            name = f"{band.name}_{k}"
        taken.add(name)
        out.append(band.called(name))
    return tuple(out)


def constant(value: float, name: str = "constant") -> Band:
    """Band with one number everywhere; refuses an integer that pixels cannot hold."""
    if isinstance(value, int) and not (abs(value) < 2**63 and float(value) == value):
        raise EmulatorError(
            f"Image.constant: Expected an integer that is exact as a floating-point number, found {value}. The emulator "
            "computes pixels with floating-point numbers; pass a float if a rounded value is enough."
        )
    kind = PixelType("int" if isinstance(value, int) else "double", value, value)
    return Band(
        name,
        kind,
        DEFAULT_PROJECTION,
        lambda grid: Pixels(np.full(grid.shape, float(value)), np.ones(grid.shape, bool)),
    )


def wholly_masked(band: Band) -> Band:
    """Band with the same description and no valid pixel."""
    return replace(band, evaluate=lambda grid: Pixels(np.zeros(grid.shape), np.zeros(grid.shape, bool)))


def _edges(grid: Grid, points: int) -> tuple[Float, Float]:
    """(lon, lat) of positions spread over a grid and its edges, (points, points) each; not finite off its projection."""
    columns, rows = np.meshgrid(*(np.linspace(0, n, points) for n in (grid.width, grid.height)))
    x, y = grid.projection.to_crs(grid.column + columns, grid.row + rows)
    if grid.projection.crs != WGS84:
        x, y = transformer(grid.projection.crs, WGS84).transform(x, y)
    return x, y


def _wholly_inside(geometry: BaseGeometry | None, grid: Grid) -> bool | None:
    """Whether a geometry contains all of a grid (True) or none of it (False); None if its outline does not decide."""
    if geometry is None:
        return True
    if geometry.is_empty:
        return False
    x, y = _edges(grid, 5)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    x = beside(x, x.flat[0])
    middle = (geometry.bounds[0] + geometry.bounds[2]) / 2
    x = x + 360 * np.round((middle - x.mean()) / 360)
    margin = 0.01 * max(np.ptp(x), np.ptp(y))
    hull = shapely.box(x.min() - margin, y.min() - margin, x.max() + margin, y.max() + margin)
    shapely.prepare(geometry)
    if geometry.contains(hull):
        return True
    return None if geometry.intersects(hull) else False


def lonlat_outline(grid: Grid) -> BaseGeometry:
    """Shape that contains a grid with a margin, EPSG:4326; longitude continues beyond 180 degrees."""
    x, y = _edges(grid, OUTLINE_POINTS)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise EmulatorError(f"Unable to transform the pixel grid from {grid.projection.crs} to {WGS84}.")
    middle = x[OUTLINE_POINTS // 2, OUTLINE_POINTS // 2]
    x = beside(x, middle) if np.ptp(x) < 360 else x
    hull = shapely.MultiPoint(np.stack([x.ravel(), y.ravel()], axis=1)).convex_hull
    margin = OUTLINE_MARGIN_DEG + 0.02 * max(np.ptp(x), np.ptp(y))
    return hull.buffer(margin, join_style="mitre")


def covered(geometry: BaseGeometry, crs: str, grid: Grid) -> Bool:
    """Pixels whose centres are in a geometry, tested in the geometry's CRS, where its edges are straight.

    Points and lines, which contain no centres, are refused: Earth Engine does not document which pixels it chooses.
    """
    if thin := next((part.geom_type for part in parts_of(geometry) if part.geom_type != "Polygon"), None):
        raise EmulatorError(
            f"Expected polygons to clip or paint with, found a {thin}, whose pixels are not emulated; buffer it."
        )
    if crs == WGS84 or crs != grid.projection.crs:
        return inside(in_crs(geometry, crs, WGS84), grid)
    return np.asarray(shapely.contains_xy(geometry, *grid.centres()), dtype=bool)


def inside(geometry: BaseGeometry | None, grid: Grid) -> Bool:
    """Pixels whose centres are in a geometry (EPSG:4326)."""
    whole = _wholly_inside(geometry, grid)
    if geometry is None or whole is not None:
        return np.full(grid.shape, True if whole is None else whole)
    lon, lat = grid.centres(WGS84)
    lon = beside(lon, (geometry.bounds[0] + geometry.bounds[2]) / 2)
    return np.asarray(shapely.contains_xy(geometry, lon, lat), dtype=bool)


def chosen_bands(image: Image, selectors: Sequence[Value] | None, function: str) -> list[Band]:
    """Bands that selectors name, each a number, a name or a pattern; None is all. A selector of none is refused."""
    if selectors is None:
        return list(image.bands)
    return [band for selector in selectors for band in _chosen(image, selector, function)]


def _chosen(image: Image, selector: Value, function: str) -> list[Band]:
    if isinstance(selector, (int, float)):
        if not 0 <= int(selector) < len(image.bands):
            raise band_not_found(function, int(selector), image.names)
        return [image.bands[int(selector)]]
    named_so = image.named(selector) if isinstance(selector, str) else None
    if named_so is not None:
        return [named_so]
    names = set(all_matching(function, str(selector), image.names))
    if not names:
        raise band_not_found(function, selector, image.names)
    return [band for band in image.bands if band.name in names]


# ---------------------------------------------------------------- shapes on pixel grids

DENSIFY_DEG = 0.05


def in_crs(shape: BaseGeometry, own: str, crs: str) -> BaseGeometry:
    """Shape in another CRS; long edges are cut first, as they bend there."""
    if own == crs:
        return shape
    if own == WGS84:
        shape = shapely.segmentize(shape, DENSIFY_DEG)
    moved = transformed(shape, transformer(own, crs).transform)
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise EmulatorError(f"Unable to transform the geometry into {crs}.")
    return moved


def transformed(shape: BaseGeometry, positions: Callable[[Float, Float], tuple[Float, Float]]) -> BaseGeometry:
    """Shape whose vertices (x, y) are moved by a function."""
    return shapely.transform(shape, lambda points: np.stack(positions(points[:, 0], points[:, 1]), axis=1))


def parts_of(shape: BaseGeometry) -> list[BaseGeometry]:
    """Individual points, lines and polygons of a shape, including those of nested collections; none is empty."""
    if shape.geom_type == "GeometryCollection" or shape.geom_type.startswith("Multi"):
        return [part for member in shapely.get_parts(shape) for part in parts_of(member)]
    return [] if shape.is_empty else [shape]


def window_of(shape: BaseGeometry, projection: Projection, margin: float = 0.0) -> Grid:
    """Pixels that a shape in the projection's CRS may touch, with a margin in pixels."""
    west, south, east, north = shape.bounds
    column, row = projection.to_pixels(np.array([west, west, east, east]), np.array([south, north, south, north]))
    left, top = (math.floor(axis.min() - margin + 1e-9) for axis in (column, row))
    right, bottom = (math.ceil(axis.max() + margin - 1e-9) for axis in (column, row))
    return Grid(projection, left, top, max(right - left, 1), max(bottom - top, 1))


HALF_PIXEL = 0.5
"""Margin around a clipped window on each side, in pixels: a clip of WorldCover to 37.418438, -0.464999, 38.291851,
0.430378 was printed with 10,483 x 10,747 pixels from (2609020, 1002834): those the clip touches with this margin."""


def shared(a: Grid | None, b: Grid | None) -> Grid | None:
    """Intersection of two windows of one pixel grid; None is unbounded."""
    if a is None or b is None:
        return a or b
    left, top = max(a.column, b.column), max(a.row, b.row)
    right, bottom = min(a.column + a.width, b.column + b.width), min(a.row + a.height, b.row + b.height)
    return Grid(a.projection, left, top, max(right - left, 0), max(bottom - top, 0))


@lru_cache(maxsize=512)
def window_in(shape: BaseGeometry, own: str, projection: Projection, margin: float = 0.0) -> Grid | None:
    """Window of a pixel grid that a shape in some CRS touches, with a margin in pixels; None if it is outside the grid.

    Used for the metadata of derived images; shared between bands.
    """
    try:
        moved = in_crs(shape, own, projection.crs)
    except EmulatorError:
        return None
    return None if moved.is_empty else window_of(moved, projection, margin)


def outline(window: Grid) -> BaseGeometry:
    """Rectangle of a window, in the CRS of its pixel grid."""
    columns = np.array([0, 1, 1, 0]) * window.width + window.column
    rows = np.array([0, 0, 1, 1]) * window.height + window.row
    return shapely.Polygon(np.stack(window.projection.to_crs(columns, rows), axis=1))


def bounded(image: Image, footprint: BaseGeometry) -> Image:
    """Image with another footprint, which also appears in its properties."""
    shown = {"type": footprint.geom_type, "coordinates": shapely.geometry.mapping(footprint).get("coordinates", ())}
    return replace(image, footprint=footprint, properties={**image.properties, "system:footprint": shown})


# ---------------------------------------------------------------- promotions and answers


@promotion("Image")
def _to_image(value: Value) -> Value:
    if isinstance(value, Image):
        return value
    if isinstance(value, (bool, int, float)):
        return Image((constant(int(value) if isinstance(value, bool) else value),))
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float)) for v in value):
        return Image(tuple(constant(v, f"constant_{k}" if k else "constant") for k, v in enumerate(value)))
    return NOT_PROMOTED


@promotion("Projection")
def _to_projection(value: Value) -> Value:
    if isinstance(value, Projection):
        return value
    if isinstance(value, dict) and value.get("type") == "Projection" and "crs" in value:
        a, b, c, d, e, f = (float(number) for number in value.get("transform") or IDENTITY)
        return Projection(str(value["crs"]), (a, b, c, d, e, f))
    if isinstance(value, str):
        parsed_crs(value)
        return Projection(value)
    return NOT_PROMOTED


@promotion("PixelType")
def _to_pixel_type(value: Value) -> Value:
    if isinstance(value, PixelType):
        return value
    if isinstance(value, dict) and "precision" in value:
        return PixelType(str(value["precision"]), value.get("min"), value.get("max"))
    short = {"byte": "uint8", "short": "int16", "int": "int32", "long": "int64", "float": "float32"}
    name = short.get(str(value), str(value))
    known = {"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "double"}
    return PixelType.of(np.dtype(name)) if name in known else NOT_PROMOTED


@encode.register(PixelType)
def _(value: PixelType) -> Value:
    limits = {"min": value.low, "max": value.high}
    found = {key: limit for key, limit in limits.items() if limit is not None}
    return {"type": "PixelType", "precision": value.precision, **found}


encode.register(Projection)(lambda value: {"type": "Projection", "crs": value.crs, "transform": list(value.transform)})


@encode.register(Image)
def _(value: Image) -> Value:
    out: dict[str, Value] = {"type": "Image", "bands": [_described(band) for band in value.bands]}
    if value.id is not None:
        out["id"] = value.id
    if value.version is not None:
        out["version"] = value.version
    if value.properties:
        out["properties"] = {name: encode(item) for name, item in value.properties.items() if item is not None}
    return out


def _described(band: Band) -> dict[str, Value]:
    out: dict[str, Value] = {"id": band.name, "data_type": encode(band.type)}
    window = band.window
    if window is not None:
        out["dimensions"] = [window.width, window.height]
        if (window.column, window.row) != (0, 0):
            out["origin"] = [window.column, window.row]
    home = band.projection if window is None else window.projection
    return {**out, "crs": home.crs, "crs_transform": list(home.transform)}
