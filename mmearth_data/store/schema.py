"""Schema of a store: its arrays, their types, chunks and attributes, as plain values.

Facts about modalities come from the catalog; the coordinates of a tile, which are not in the catalog, are defined here.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import ABSENT, PRESENT
from mmearth_data.catalog.tile import LEVEL_NAMES, LEVEL_NONE, NO_TIME, check_tile_size
from mmearth_data.errors import InputError
from mmearth_data.store.encoding import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmearth_data.catalog.modality import Modality

FORMAT = "mmearth-store"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 has nested root attributes, which netCDF does not support; such stores keep their version."""
ROOT_KEY = "zarr.json"
MANIFEST_KEY = "_manifest.json"
TILES_KEY = "tiles.parquet"
SPATIAL_KEY = "tiles_spatial.parquet"
REJECTED_KEY = "rejected.parquet"
COMMITS = "_commits"
LEDGER = "_ledger"
"""Folder of timings and host facts, which are not part of the identity of a store."""

SPLIT_NAMES = {0: "train", 1: "val", 2: "test"}
SPLIT_NONE = 255
MAX_MODALITIES = 32
"""`valid` is a uint32 with one bit per stored modality."""
COLUMN_CHUNK_ROWS = 65_536
"""Approximate rows per chunk of a 1-D array: 1.2 million tiles must not make 80,000 small objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coordinate:
    """One number per tile that describes its location, time or kind."""

    name: str
    dtype: np.dtype[Any]
    empty: float
    """Value of rows without a tile, and Zarr fill value."""
    attributes: Mapping[str, Any] = field(default_factory=dict)


def _coordinate(name: str, dtype: str, empty: float, long_name: str, **attributes: Any) -> Coordinate:
    return Coordinate(name=name, dtype=np.dtype(dtype), empty=empty, attributes={"long_name": long_name, **attributes})


COORDINATES = (
    _coordinate("tile_id", "uint64", 0, "tile id: longitude, latitude and size packed; 0 where the row is empty"),
    _coordinate("lon", "float64", math.nan, "longitude", standard_name="longitude", units="degrees_east"),
    _coordinate("lat", "float64", math.nan, "latitude", standard_name="latitude", units="degrees_north"),
    _coordinate("epsg", "int32", 0, "EPSG code of the tile's coordinate reference system"),
    _coordinate("ulx", "float64", math.nan, "x of the upper left corner of the tile", units="m"),
    _coordinate("uly", "float64", math.nan, "y of the upper left corner of the tile", units="m"),
    _coordinate(
        "time",
        "int64",
        NO_TIME,
        "time of the Sentinel-2 scene, UTC",
        standard_name="time",
        units="milliseconds since 1970-01-01",
        calendar="proleptic_gregorian",
        _FillValue=NO_TIME,
    ),
    _coordinate(
        "s2_level",
        "uint8",
        LEVEL_NONE,
        "processing level of the Sentinel-2 scene",
        flag_values=[*LEVEL_NAMES, LEVEL_NONE],
        flag_meanings=" ".join([*LEVEL_NAMES.values(), "none"]),
    ),
    _coordinate("s1_asc_days", "float32", math.nan, "ascending Sentinel-1 time minus scene time", units="days"),
    _coordinate("s1_desc_days", "float32", math.nan, "descending Sentinel-1 time minus scene time", units="days"),
    _coordinate(
        "split",
        "uint8",
        SPLIT_NONE,
        "subset that the tile belongs to",
        flag_values=[*SPLIT_NAMES, SPLIT_NONE],
        flag_meanings=" ".join([*SPLIT_NAMES.values(), "none"]),
    ),
    _coordinate("valid", "uint32", 0, "modalities of which at least one value was observed"),
)
COORDINATE_NAMES = tuple(c.name for c in COORDINATES)
RESERVED_NAMES = ("tile", "y", "x", "row", "facts", "geometry", "spatial_ref")
"""Dimensions of the arrays, columns of the tables, and the xarray coordinate with the CRS of a tile."""
TABLE_NAMES = ("id", "bbox", "embedding")
"""Columns that tables of tiles have in addition, so that no label is called like them."""
CONDITION_NAMES = ("region", "split", "date", "ids", "modalities", "where")
"""Conditions of `Store.select` that are not labels."""
TAKEN_NAMES = frozenset({*COORDINATE_NAMES, *RESERVED_NAMES, *TABLE_NAMES, *CONDITION_NAMES})
"""Names that labels and modalities of a source cannot have."""
GIVEN_COORDINATES = tuple(c for c in COORDINATES if c.name != "valid")
"""Coordinates that a build provides; `valid` is computed from the arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One Zarr array."""

    name: str
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    """Shape of one stored object."""
    inner_shape: tuple[int, ...] | None = None
    """Shape of the chunks inside an object, None if objects are plain chunks."""
    dtype: np.dtype[Any]
    fill: int | float | str
    """Zarr fill value, JSON-ready."""
    dimensions: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def empty(self) -> np.generic:
        """Fill value, in the array's own type."""
        value: np.generic = self.dtype.type(self.fill)
        return value

    @property
    def sharded(self) -> bool:
        """True for rasters, whose objects contain many inner chunks."""
        return self.inner_shape is not None


@dataclass(frozen=True, kw_only=True)
class StoreLayout:
    """Rows, shards and arrays of a store, before anything is written."""

    modalities: tuple[Modality, ...]
    """All catalog entries used, including derived ones, in catalog order."""
    tiles: int
    size_px: int
    tiles_per_shard: int
    """Rows per shard; the last one may have fewer."""

    def __post_init__(self) -> None:
        if self.tiles < 1:
            raise InputError(f"Expected at least one tile, got {self.tiles}; give --tiles N.")
        if self.tiles_per_shard < 1:
            raise InputError(f"Expected at least one tile per shard, got {self.tiles_per_shard}.")
        check_tile_size(self.size_px)
        self._check_names()

    def _check_names(self) -> None:
        names = [*COORDINATE_NAMES, *RESERVED_NAMES]
        for m in self.stored:
            names += [m.name, f"{m.name}_band", *(column for column in tabular_columns(m) if column != m.name)]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise InputError(f"Expected different array names, got {', '.join(twice)} twice; rename the modality.")
        if not self.stored:
            raise InputError("Expected at least one modality with values to store, got none; add one to the list.")
        if len(self.stored) > MAX_MODALITIES:
            raise InputError(
                f"Expected at most {MAX_MODALITIES} stored modalities (one bit each in `valid`), "
                f"got {len(self.stored)}; leave some out."
            )

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.tiles // self.tiles_per_shard)

    def rows(self, shard: int) -> range:
        """Store rows of a shard; IndexError if there is no such shard."""
        if not 0 <= shard < self.shards:
            raise IndexError(f"Expected a shard from 0 to {self.shards - 1}, got {shard}.")
        start = shard * self.tiles_per_shard
        return range(start, min(start + self.tiles_per_shard, self.tiles))

    @cached_property
    def stored(self) -> tuple[Modality, ...]:
        """Modalities that have an array; bit k of `valid` belongs to the k-th of them."""
        return tuple(m for m in self.modalities if m.stored)

    @cached_property
    def rasters(self) -> tuple[Modality, ...]:
        """Stored modalities with a value for every pixel."""
        return tuple(m for m in self.stored if m.kind.is_raster)

    @cached_property
    def tabular(self) -> tuple[Modality, ...]:
        """Stored modalities with values for the tile as a whole."""
        return tuple(m for m in self.stored if not m.kind.is_raster)

    @cached_property
    def derived(self) -> tuple[Modality, ...]:
        """Modalities that are computed from coordinates on read."""
        return tuple(m for m in self.modalities if not m.stored)

    @property
    def column_chunk_rows(self) -> int:
        """Rows of one chunk of the 1-D arrays: a multiple of `tiles_per_shard`, about 65,536."""
        return max(1, COLUMN_CHUNK_ROWS // self.tiles_per_shard) * self.tiles_per_shard

    @cached_property
    def coordinates(self) -> tuple[ArraySpec, ...]:
        """Arrays of the coordinates along ``tile``."""
        return tuple(_coordinate_spec(self, c) for c in COORDINATES)

    @cached_property
    def columns(self) -> tuple[ArraySpec, ...]:
        """Arrays written at the end of a build: coordinates, then tile modalities."""
        return (*self.coordinates, *(_modality_spec(self, m) for m in self.tabular))

    @cached_property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """All arrays of the store, including band names."""
        bands = tuple(_band_spec(m) for m in self.stored if m.bands)
        return (*(_modality_spec(self, m) for m in self.rasters), *self.columns, *bands)

    def to_dict(self) -> dict[str, int]:
        """JSON-ready sizes for the root attributes, which also have the modalities."""
        return {"tiles": self.tiles, "size_px": self.size_px, "tiles_per_shard": self.tiles_per_shard}


def default_tiles_per_shard(tiles: int) -> int:
    """Rows of one shard unless a recipe says otherwise: N/8 rounded up to 16, between 16 and 256.

    Examples
    --------
    >>> [default_tiles_per_shard(n) for n in (1, 256, 1000, 1_200_000)]
    [16, 32, 128, 256]
    """
    eighth = -(-tiles // 8)
    return min(256, max(16, -(-eighth // 16) * 16))


def tabular_columns(modality: Modality) -> tuple[str, ...]:
    """Parquet columns of a stored modality without pixels: one per band, or one for class ids and a band of its name."""
    if modality.kind.is_raster or not modality.stored:
        return ()
    if modality.bands in ((), (modality.name,)):
        return (modality.name,)
    return tuple(f"{modality.name}_{band}" for band in modality.bands)


def valid_attributes(modalities: Iterable[Modality]) -> dict[str, Any]:
    """CF bit flags of `valid`: bit k belongs to the k-th name."""
    names = [m.name for m in modalities]
    return {"flag_masks": [1 << k for k in range(len(names))], "flag_meanings": " ".join(names)}


def _coordinate_spec(layout: StoreLayout, coordinate: Coordinate) -> ArraySpec:
    attributes = dict(coordinate.attributes)
    if coordinate.name == "valid":
        attributes |= valid_attributes(layout.stored)
    return ArraySpec(
        name=coordinate.name,
        shape=(layout.tiles,),
        chunk_shape=(layout.column_chunk_rows,),
        dtype=coordinate.dtype,
        fill=_json_fill(coordinate.empty, coordinate.dtype),
        dimensions=("tile",),
        attributes=attributes,
    )


def _modality_spec(layout: StoreLayout, m: Modality) -> ArraySpec:
    tile_shape = m.array_shape(layout.size_px)
    bands = (f"{m.name}_band",) if m.bands else ()
    return ArraySpec(
        name=m.name,
        shape=(layout.tiles, *tile_shape),
        chunk_shape=(layout.tiles_per_shard if m.kind.is_raster else layout.column_chunk_rows, *tile_shape),
        inner_shape=(1, *tile_shape) if m.kind.is_raster else None,
        dtype=m.dtype,
        fill=_json_fill(m.nodata, m.dtype),
        dimensions=("tile", *bands, *(("y", "x") if m.kind.is_raster else ())),
        attributes=_modality_attributes(m),
    )


def _band_spec(m: Modality) -> ArraySpec:
    return ArraySpec(
        name=f"{m.name}_band",
        shape=(len(m.bands),),
        chunk_shape=(len(m.bands),),
        dtype=np.dtype(object),
        fill="",
        dimensions=(f"{m.name}_band",),
        attributes={"long_name": f"bands of {m.name}"},
    )


def _modality_attributes(m: Modality) -> dict[str, Any]:
    """CF attributes of a modality's array.

    All users of a store work with stored numbers (reflectance x 10,000 and so on), so no ``scale_factor`` is set:
    reading with ``mask_and_scale`` only changes missing values to NaN. The scale is in the unit instead, as UDUNITS
    allows: 4200 in units of "0.0001" is 0.42.
    """
    attributes: dict[str, Any] = {
        "long_name": m.long_name,
        **({} if m.band_units else {"units": stored_units(m)}),
        "_FillValue": _attribute_fill(m.nodata, m.dtype),
        "coordinates": " ".join(COORDINATE_NAMES),
        "kind": str(m.kind),
        "licence": m.licence.name,
        "licence_url": m.licence.url,
        "attribution": m.licence.attribution,
    }
    if m.band_units:
        attributes["band_units"] = to_json([m.units_of(band) for band in m.bands]).decode()
    if m.doi:
        attributes["references"] = f"https://doi.org/{m.doi}"
    if m.kind.is_multi_label:
        attributes |= {"flag_values": [ABSENT, PRESENT], "flag_meanings": "absent present"}
    elif m.classes:
        attributes["flag_values"] = [label.code for label in m.classes]
        attributes["flag_meanings"] = " ".join(flag_words([label.name for label in m.classes]))
    return attributes


def stored_units(m: Modality) -> str:
    """Give the unit of the stored numbers in UDUNITS notation: the physical unit times the scale, from the offset.

    Examples
    --------
    A reflectance stored x 10,000 has the unit ``0.0001``; a temperature stored in hundredths, ``0.01 K``.
    """
    if m.scale == 1 and m.offset == 0:
        return m.units
    unit = f"{m.scale:.15g}" if m.units == "1" else f"{m.scale:.15g} {m.units}"
    return unit if m.offset == 0 else f"{unit} @ {m.offset / m.scale:.15g}"


def flag_words(names: list[str]) -> list[str]:
    """Class names as CF flag meanings: one word each, of letters, digits and ``_-.+@``, all different.

    Examples
    --------
    >>> flag_words(["Tree cover", "Açaí & várzea", "tree cover"])
    ['tree_cover', 'acai_varzea', 'tree_cover_2']
    """
    words: list[str] = []
    seen: Counter[str] = Counter()
    for name in names:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        word = re.sub(r"[^a-z0-9_.+@-]+", "_", plain.lower()).strip("_") or "class"
        seen[word] += 1
        words.append(word if seen[word] == 1 else f"{word}_{seen[word]}")
    return words


def _json_fill(value: float, dtype: np.dtype[Any]) -> int | float | str:
    if dtype.kind in "iu":
        return int(value)
    return "NaN" if math.isnan(value) else float(value)


def _attribute_fill(value: float, dtype: np.dtype[Any]) -> int | str:
    """``_FillValue`` in xarray's form for Zarr v3: floats are base64 of the little-endian double."""
    if dtype.kind in "iu":
        return int(value)
    return base64.standard_b64encode(struct.pack("<d", value)).decode()
