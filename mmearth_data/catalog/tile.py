"""Location of a tile: UTM zones, the 10 m grid, and tile ids."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.words import shown

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pyproj import Transformer

PIXEL_M = 10
"""Side of a pixel in metres: the finest Sentinel-2 grid."""
MIN_LAT, MAX_LAT = -80.0, 84.0
"""Latitudes at which UTM and the Sentinel-2 tiling end; locations beyond are refused."""
WGS84 = 4326
WGS84_PROJJSON = {
    "$schema": "https://proj.org/schemas/v0.7/projjson.schema.json",
    "type": "GeographicCRS",
    "name": "WGS 84",
    "datum": {
        "type": "GeodeticReferenceFrame",
        "name": "World Geodetic System 1984",
        "ellipsoid": {"name": "WGS 84", "semi_major_axis": 6378137, "inverse_flattening": 298.257223563},
    },
    "coordinate_system": {
        "subtype": "ellipsoidal",
        "axis": [
            {"name": "Geodetic latitude", "abbreviation": "Lat", "direction": "north", "unit": "degree"},
            {"name": "Geodetic longitude", "abbreviation": "Lon", "direction": "east", "unit": "degree"},
        ],
    },
    "id": {"authority": "EPSG", "code": WGS84},
}
"""WGS 84 as written to files. PROJ's own text depends on what the process did before (with or without the datum's
realisations, whose number grows with each version), so the same tiles would not give the same bytes.
"""
MAX_SIZE_PX = 2048
"""Limit of the size field of a tile id: 7 bits, in steps of 16 px."""

LEAST_ID = 2**30
"""Integers below it are positions, all others are tile ids. No tile has a smaller id, since ids at longitude -180 and
latitude -80 begin at 1.28e9, and no store has that many tiles.
"""
CONTENT_ID = 0b11 << 62
"""Bits that mark the id of a tile without a known location, which is derived from its content. Longitudes never set
both, since the largest, 360e6, is below 0b11 << 27.
"""
HEX_ID = re.compile("(0[xX])?[0-9a-fA-F]{16}")
DECIMAL_ID = re.compile("[0-9]{17,20}")

NO_TIME = int(np.iinfo(np.int64).min)
"""Scene time of a tile whose date is unknown (NaT)."""
LEVEL_L1C, LEVEL_L2A, LEVEL_NONE = 0, 1, 255
"""Codes of the coordinate ``s2_level``."""
LEVEL_NAMES = {LEVEL_L1C: "L1C", LEVEL_L2A: "L2A"}


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG code of the UTM zone of a point in degrees, with the exceptions of Norway and Svalbard.

    The Sentinel-2 tiling follows the military grid, which widens zones 32V and 31X to 37X. 326zz north of the equator,
    327zz south of it. Raises TileUnavailable beyond 84 N or 80 S.

    Examples
    --------
    >>> utm_epsg(12.5, 55.7)
    32633
    >>> utm_epsg(5.0, 60.0)
    32632
    """
    if not MIN_LAT <= lat <= MAX_LAT:
        raise TileUnavailable("outside_utm", f"latitude {lat:.6f} is outside 80 S .. 84 N")
    zone = min(int((lon + 180) // 6) + 1, 60)
    if 56 <= lat < 64 and 3 <= lon < 12:
        zone = 32
    if lat >= 72 and 0 <= lon < 42:
        zone = 31 + 2 * int((lon + 3) // 12)
    return (32600 if lat >= 0 else 32700) + zone


@lru_cache(maxsize=512)
def transformer(source_epsg: int, target_epsg: int) -> Transformer:
    """Return the pyproj transformer between two CRS, x before y on both sides."""
    from pyproj import Transformer

    return Transformer.from_crs(source_epsg, target_epsg, always_xy=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class TileGrid:
    """The pixel grid of one tile: square, north up, 10 m."""

    epsg: int
    ulx: float
    uly: float
    """Upper-left corner of the upper-left pixel, metres."""
    size_px: int

    @classmethod
    def around(cls, lon: float, lat: float, epsg: int, size_px: int) -> TileGrid:
        """Grid of the tile around a point, snapped to multiples of 10 m so that 10 m bands need no resampling."""
        x, y = transformer(WGS84, epsg).transform(lon, lat)
        half = PIXEL_M * size_px / 2
        ulx = PIXEL_M * math.floor((x - half) / PIXEL_M + 0.5)
        uly = PIXEL_M * math.floor((y + half) / PIXEL_M + 0.5)
        return cls(epsg=epsg, ulx=float(ulx), uly=float(uly), size_px=size_px)

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f."""
        return (float(PIXEL_M), 0.0, self.ulx, 0.0, float(-PIXEL_M), self.uly)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in the tile's CRS, metres."""
        side = PIXEL_M * self.size_px
        return (self.ulx, self.uly - side, self.ulx + side, self.uly)

    @property
    def centre_lonlat(self) -> tuple[float, float]:
        """Centre of the tile in degrees."""
        west, south, east, north = self.bounds
        lon, lat = transformer(self.epsg, WGS84).transform((west + east) / 2, (south + north) / 2)
        return (lon, lat)

    def pixel_centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(x of the columns, y of the rows) at pixel centres, metres."""
        offset = PIXEL_M * (np.arange(self.size_px, dtype=np.float64) + 0.5)
        return self.ulx + offset, self.uly - offset


def check_tile_size(size_px: int) -> int:
    """Return a tile size; InputError unless it is a multiple of 16 from 16 to 2,032 px (the largest in a tile id)."""
    if not (16 <= size_px < MAX_SIZE_PX and size_px % 16 == 0):
        raise InputError(
            f"Expected a tile size that is a multiple of 16 from 16 to 2032 px, got {size_px}; try 64 or 128."
        )
    return size_px


def round_lonlat(degrees: ArrayLike) -> NDArray[np.float64]:
    """Round coordinates to the millionth of a degree that tile ids resolve."""
    return np.round(np.asarray(degrees, dtype=np.float64) * 1e6) / 1e6


def tile_ids(lon: ArrayLike, lat: ArrayLike, size_px: int) -> NDArray[np.uint64]:
    """Tile ids of points: longitude, latitude and size packed into 64 bits.

    ``(lon_e6 + 180e6) << 35 | (lat_e6 + 90e6) << 7 | size / 16``.

    Examples
    --------
    >>> [f"{i:016x}" for i in tile_ids([0.0], [0.0], 64)]
    ['55d4a802aea54004']
    """
    check_tile_size(size_px)
    lon_e6 = np.rint(np.asarray(lon, dtype=np.float64) * 1e6).astype(np.int64) + 180_000_000
    lat_e6 = np.rint(np.asarray(lat, dtype=np.float64) * 1e6).astype(np.int64) + 90_000_000
    if np.any((lon_e6 < 0) | (lon_e6 > 360_000_000) | (lat_e6 < 0) | (lat_e6 > 180_000_000)):
        raise InputError(
            "Expected longitudes in -180..180 and latitudes in -90..90 degrees; swap or rescale the columns."
        )
    packed: NDArray[np.uint64] = (
        (lon_e6.astype(np.uint64) << np.uint64(35))
        | (lat_e6.astype(np.uint64) << np.uint64(7))
        | np.uint64(size_px // 16)
    )
    return packed


def content_tile_id(digest: bytes, size_px: int) -> int:
    """Tile id of an image without a known location: two marker bits, 55 bits of a digest, and the size.

    The marker bits are never both set in the id of a location. ``digest`` has at least 8 bytes. Among a million different
    images, two have the same id with a probability of 1 in 72,000.

    Examples
    --------
    >>> f"{content_tile_id(bytes(8), 64):016x}", f"{content_tile_id(bytes([255] * 8), 64):016x}"
    ('c000000000000004', 'ffffffffffffff84')
    """
    content = int.from_bytes(digest[:8], "big") >> 9
    return CONTENT_ID | content << 7 | check_tile_size(size_px) // 16


def is_content_id(tile_id: ArrayLike) -> NDArray[np.bool_]:
    """Elementwise: whether a tile id is derived from the content of an image (`content_tile_id`), not from a location."""
    marked: NDArray[np.bool_] = np.asarray(tile_id, dtype=np.uint64) >> np.uint64(62) == 0b11
    return marked


def pixel_size_m(ids: ArrayLike) -> int | None:
    """Pixel size of tiles, metres; None if it is unknown, because all of them are images without a georeference."""
    found = is_content_id(ids)
    return None if found.size and found.all() else PIXEL_M


def resized_tile_ids(ids: ArrayLike, size_px: int) -> NDArray[np.uint64]:
    """Tile ids of the same centres or images with another size."""
    kept = np.asarray(ids, dtype=np.uint64) & ~np.uint64(127)
    sized: NDArray[np.uint64] = kept | np.uint64(check_tile_size(size_px) // 16)
    return sized


def unpack_tile_id(tile_id: int) -> tuple[float, float, int]:
    """(lon, lat, size_px) encoded in a tile id."""
    return ((tile_id >> 35) / 1e6 - 180, ((tile_id >> 7) & (2**28 - 1)) / 1e6 - 90, (tile_id & 127) * 16)


def format_tile_id(tile_id: int) -> str:
    """Format a tile id as 16 hex digits, as in tables, messages, JSON and file names."""
    return f"{tile_id:016x}"


def format_tile_ids(tile_ids: ArrayLike) -> NDArray[np.str_]:
    """Format an array of tile ids, of any shape, as text of 16 hex digits, like `format_tile_id`.

    Examples
    --------
    >>> format_tile_ids(tile_ids([0.0, 10.0], [0.0, 50.0], 64)).tolist()
    ['55d4a802aea54004', '5a995c042c1d8004']
    """
    numbers = np.asarray(tile_ids, dtype=np.uint64).astype(">u8")
    digits = np.frombuffer(numbers.tobytes().hex().encode(), dtype=np.uint8)
    text: NDArray[np.str_] = digits.astype("<u4").view("<U16").reshape(numbers.shape)
    return text


def parse_tile_id(tile_id: str | int | np.integer[Any]) -> int:
    """Return a tile id as a number, from either of its forms.

    Parameters
    ----------
    tile_id
        Text of 16 hex digits (upper or lower case, with or without a leading ``0x``), or the number: a Python or NumPy
        integer, or text of 17 to 20 decimal digits. Text of 16 digits is always read as hexadecimal.

    Raises
    ------
    InputError
        If it is neither form.

    Examples
    --------
    >>> parse_tile_id("0x55D4A802AEA54004") == parse_tile_id(6184752917760000004)
    True
    """
    text = str(tile_id).strip() if isinstance(tile_id, str) else ""
    if HEX_ID.fullmatch(text):
        return int(text, 16)
    number = int(text) if DECIMAL_ID.fullmatch(text) else as_integer(tile_id)
    if number is None or not LEAST_ID <= number < 2**64:
        raise InputError(
            f"Expected a tile id of 16 hex digits, or its number, got {shown(tile_id)}; "
            "ids are in the column id of the tiles, and their numbers in tile_id."
        )
    return number


def is_tile_id(text: str) -> bool:
    """Whether a text has the form of a tile id."""
    return (HEX_ID.fullmatch(text) or DECIMAL_ID.fullmatch(text)) is not None


def as_integer(value: object) -> int | None:
    """Python or NumPy integer as an int; None for anything else, including booleans."""
    if isinstance(value, bool | np.bool_):
        return None
    return int(value) if isinstance(value, SupportsIndex) and getattr(value, "ndim", 0) == 0 else None


def as_datetime64_ms(milliseconds: ArrayLike) -> NDArray[np.datetime64]:
    """UTC milliseconds since 1970 as ``datetime64[ms]``; the smallest int64 becomes NaT."""
    return np.asarray(milliseconds, dtype=np.int64).astype("datetime64[ms]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A candidate location of a tile."""

    tile_id: int
    """See `mmearth_data.catalog.tile.tile_ids`, and `content_tile_id` for images without a georeference."""
    lon: float
    lat: float
    """Degrees, rounded to 1e-6; NaN if unknown."""
    size_px: int
    biome: int | None = None
    eco_region: int | None = None
    """Published MMEarth class ids, or None if unknown."""
    grid: TileGrid | None = None
    """Pixel grid of the tile if it is given, as in a cover; None if the scene determines it."""
    date_ms: int | None = None
    """Start of the day (UTC, milliseconds since 1970) to which the scene is nearest; None if the recipe chooses it."""
    other_dates_ms: tuple[int, ...] = ()
    """Last date before it and first one after it of other rows with the same location."""

    @property
    def own_grid(self) -> TileGrid:
        """Pixel grid in the location's own zone, before its scene is known; TileUnavailable beyond 84 N or 80 S."""
        return self.grid or self.grid_in(utm_epsg(self.lon, self.lat))

    def grid_in(self, epsg: int) -> TileGrid:
        """Pixel grid of the tile: the given one, or one centred on the location in the CRS of its scene."""
        return self.grid or TileGrid.around(self.lon, self.lat, epsg, self.size_px)
